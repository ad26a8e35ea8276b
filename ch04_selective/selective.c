/* Chapter 4. Selection, and the scan that makes it fast

   QUESTION   Chapter 3's system treats every word alike. How can a state keep what matters through
              a thousand words that do not, and let go of it when the story turns?
   NEW        Delta, B and C depend on the input: at every step the model says how far the state
              moves, what is written and what is read. Then: the backward pass, the same recurrence
              in parallel, and the same recurrence as fast as this machine can do it.
   NOT        Where Delta, B and C come from (projections, the convolution, the gate's branch) is
              chapter 5. Nothing is trained here: what is wired, is wired by hand.
   EQUATION   x_t = exp(Delta_t A) x_{t-1} + Delta_t B_t u_t          y_t = C_t . x_t + D u_t
   LETTERS    maths    C           shape                   in papers
              u_t      u           (batch, len, d_inner)   x_t
              x_t      x           (batch, d_inner, d_state)  h_t, the state
              Delta_t  delta       (batch, len, d_inner)   Delta, dt
              A        A           (d_inner, d_state)      A, one row of a diagonal a channel
              B_t C_t  B C         (batch, len, d_state)   B, C; shared by the channels
              D        D           (d_inner)               D, the skip
              z_t      z           (batch, len, d_inner)   z, the gate's branch
   BUILD      cc -O2 ch04_selective/selective.c -o selective -lm && ./selective
   TIME       60 minutes to read, 120 to do the exercises
   SOURCES    A. Gu, T. Dao, Mamba, arXiv 2312.00752: algorithm 2, theorem 1, sections 3 and 4.1
              G. Blelloch, Prefix sums and their applications, CMU-CS-90-190 (1990)
              W. D. Hillis, G. L. Steele, Data parallel algorithms, CACM 29 (1986)
              E. Martin, C. Cundy, Parallelizing linear recurrent neural nets, arXiv 1709.04057
              T. Chen et al., Training deep nets with sublinear memory cost, arXiv 1604.06174 */

#ifndef CH04_SELECTIVE
#define CH04_SELECTIVE

#include "../ch03_discretize/discretize.c"

/* ====================================== The scan, clear =================================== */
/* A channel is one number a token coming in (u), one going out (y), and d_state numbers kept in  */
/* between (x). Each channel has its own A and its own Delta; all channels share B_t and C_t.     */

/* What a selective scan is given. Arrays are row-major, tokens before channels, and may start at
   any address; what may be left out is NULL then. From chapter 4 on, numbers are floats. */
typedef struct {
    size_t batch, len, d_inner, d_state;
    const float *u;          /* (batch, len, d_inner) the input */
    const float *delta;      /* (batch, len, d_inner) the step, before bias and softplus */
    const float *delta_bias; /* (d_inner), or NULL: 0 */
    const float *A;          /* (d_inner, d_state) */
    const float *B, *C;      /* (batch, len, d_state) */
    const float *D;          /* (d_inner), or NULL: 0 */
    const float *z;          /* (batch, len, d_inner) the gate, or NULL: y is not gated */
    const float *x_start;    /* (batch, d_inner, d_state), or NULL: 0 */
    float *checkpoint;       /* (selective_scan_checkpoint_floats), or NULL: see there */
    bool delta_softplus;     /* the step is softplus(delta + delta_bias), not delta + delta_bias */
} Scan;

/* log(1 + exp(v)): positive, near 0 far left, near v far right. exp of a negative number never
   overflows, and log1p keeps what 1 + exp(v) would round away. */
float softplus(float v)
{
    //> EX 4.1 [2 pts] [10 min] a softplus for every float
    //? What does expf(100) give? log(1 + exp(v)) = v + log(1 + exp(-v)): which side is safe when?
    //? Take exp of -|v| only, and add max(v, 0).
    //? 1 + 1e-9 is 1 in float: log1pf(e) takes e itself.
    return fmaxf(v, 0.0f) + log1pf(expf(-fabsf(v)));
    //< EX 4.1
}

/* 1 / (1 + exp(-v)), by the form whose exp is at most 1: right to the last denormal. */
float sigmoid(float v)
{
    float e = expf(-fabsf(v));
    return (v >= 0.0f ? 1.0f : e) / (1.0f + e);
}

/* v sigmoid(v): near 0 far left, near v far right (SiLU, or Swish). */
float silu(float v)
{
    return v * sigmoid(v);
}

/* The derivative of silu: sigmoid(v) (1 + v (1 - sigmoid(v))). */
float silu_slope(float v)
{
    float s = sigmoid(v);
    return s * (1.0f + v * sigmoid(-v));
}

/* Delta of channel d at a token (counted through the batch): bias and softplus applied. */
static float step_size(const Scan *scan, size_t token, size_t d)
{
    float raw = scan->delta[token * scan->d_inner + d];
    if (scan->delta_bias != NULL)
        raw += scan->delta_bias[d];
    return scan->delta_softplus ? softplus(raw) : raw;
}

/* One channel, one token: x (d_state) moves on, and y before the gate is returned. This is the
   whole of the selective state space model (Mamba, algorithm 2 and equation 2a, with B_bar by the
   rule of chapter 3's discretize_mamba). */
static float channel_step(float *x, const Scan *scan, size_t token, size_t d)
{
    const float *A = scan->A + d * scan->d_state;
    const float *B = scan->B + token * scan->d_state, *C = scan->C + token * scan->d_state;
    float u = scan->u[token * scan->d_inner + d], delta = step_size(scan, token, d);
    float y = 0.0f;
    for (size_t n = 0; n < scan->d_state; n++) {
        //> EX 4.2 [3 pts] [15 min] one step of the selective scan
        //? A_bar is exp(delta A); under Mamba's rule B_bar is delta B.
        //? Update x[n] first, then read it: y sums C[n] x[n] over the states.
        x[n] = expf(delta * A[n]) * x[n] + delta * B[n] * u;
        y += C[n] * x[n];
        //< EX 4.2
    }
    return scan->D == NULL ? y : y + scan->D[d] * u;
}

/* One token of each sequence: y (batch, d_inner) comes out, x (batch, d_inner, d_state) is read and
   written. The arrays of `token` have len 1; its x_start is not looked at. Time and memory are the
   same for the millionth token as for the first: this is what generation uses. */
void selective_scan_step(float *y, float *x, const Scan *token)
{
    assert(token->len == 1);
    for (size_t b = 0; b < token->batch; b++)
        for (size_t d = 0; d < token->d_inner; d++) {
            size_t at = b * token->d_inner + d;
            y[at] = channel_step(x + at * token->d_state, token, b, d);
            if (token->z != NULL)
                y[at] *= silu(token->z[at]);
        }
}

/* The whole scan, as it is defined: y (batch, len, d_inner), and the state after the last token in
   x_last (batch, d_inner, d_state), unless that is NULL. x_last may be the array that x_start
   points to: then a sequence cut into pieces is scanned piece by piece, and bit for bit the same
   comes out. y may not overlap an input. */
void selective_scan(float *y, float *x_last, const Scan *scan)
{
    size_t states = scan->d_inner * scan->d_state;
    float *x = NEW(float, states);
    for (size_t b = 0; b < scan->batch; b++) {
        for (size_t i = 0; i < states; i++)
            x[i] = scan->x_start == NULL ? 0.0f : scan->x_start[b * states + i];
        for (size_t token = b * scan->len; token < (b + 1) * scan->len; token++)
            for (size_t d = 0; d < scan->d_inner; d++) {
                size_t at = token * scan->d_inner + d;
                y[at] = channel_step(x + d * scan->d_state, scan, token, d);
                if (scan->z != NULL)
                    y[at] *= silu(scan->z[at]);
            }
        for (size_t i = 0; i < states && x_last != NULL; i++)
            x_last[b * states + i] = x[i];
    }
    free(x);
}

/* ================================== The scan, backwards ==================================== */
/* Which way should every input move to make a loss smaller? The chain rule, from the last token   */
/* to the first. It needs the states x_t, which the forward pass did not keep: each stretch of     */
/* sqrt(len) tokens is run again from a checkpoint when its turn comes.                            */

/* Where the gradients go: the shapes of the inputs; NULL where one is not wanted. They are written,
   not added to; z's is left alone where there is no gate. */
typedef struct {
    float *u, *delta, *delta_bias, *A, *B, *C, *D, *z, *x_start;
} ScanGrad;

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t square_root_up(size_t value)
{
    size_t root = (size_t)sqrt((double)value);
    while (root * root < value)
        root++;
    return root;
}

/* What one channel's backward pass works on. */
typedef struct {
    size_t b, d, stretch; /* sequence, channel, tokens between two checkpoints */
    float *checkpoint;    /* (ceil(len / stretch), d_state) x before each stretch */
    float *x;             /* (stretch + 1, d_state) x before and after each token of a stretch */
    float *x_grad;        /* (d_state) dL/dx_t through everything after token t */
} ChannelBack;

static void zero(float *values, size_t count)
{
    if (values != NULL)
        memset(values, 0, count * sizeof(float));
}

/* The forward pass of one channel once more, keeping x at the start of every stretch. */
static void keep_checkpoints(ChannelBack *back, const Scan *scan)
{
    size_t d_state = scan->d_state, channel = back->b * scan->d_inner + back->d;
    float *x = back->x;
    for (size_t n = 0; n < d_state; n++)
        x[n] = scan->x_start == NULL ? 0.0f : scan->x_start[channel * d_state + n];
    for (size_t t = 0; t < scan->len; t++) {
        if (t % back->stretch == 0)
            memcpy(back->checkpoint + t / back->stretch * d_state, x, d_state * sizeof(float));
        channel_step(x, scan, back->b * scan->len + t, back->d);
    }
}

/* One token backwards: y_grad is dL/dy of this channel here. Lines in the order of the lesson's
   derivation; x_before and x_after are x_{t-1} and x_t. */
static void channel_step_backward(const ScanGrad *grad, float y_grad, ChannelBack *back,
                                  const float *x_before, const float *x_after, const Scan *scan,
                                  size_t token)
{
    size_t d = back->d, at = token * scan->d_inner + d, d_state = scan->d_state;
    const float *A = scan->A + d * d_state, *B = scan->B + token * d_state;
    const float *C = scan->C + token * d_state;
    float u = scan->u[at], delta = step_size(scan, token, d), u_grad = 0.0f, delta_grad = 0.0f;
    if (scan->z != NULL) { /* y = y_ungated silu(z) */
        float y_ungated = scan->D == NULL ? 0.0f : scan->D[d] * u;
        for (size_t n = 0; n < d_state; n++)
            y_ungated += C[n] * x_after[n];
        if (grad->z != NULL)
            grad->z[at] = y_grad * y_ungated * silu_slope(scan->z[at]);
        y_grad *= silu(scan->z[at]);
    }
    if (scan->D != NULL) /* y_ungated = C . x + D u */
        u_grad = y_grad * scan->D[d];
    if (grad->D != NULL)
        grad->D[d] += y_grad * u;
    for (size_t n = 0; n < d_state; n++) {
        float A_bar = expf(delta * A[n]);
        float x_grad = back->x_grad[n] + y_grad * C[n]; /* x_t is read by y_t and by x_{t+1} */
        if (grad->C != NULL)
            grad->C[token * d_state + n] += y_grad * x_after[n];
        if (grad->B != NULL)
            grad->B[token * d_state + n] += x_grad * delta * u;
        //> EX 4.3 [3 pts] [20 min] the backward pass of one line
        //? The line is x_t = A_bar x_{t-1} + delta B u with A_bar = exp(delta A); x_grad = dL/dx_t.
        //? delta occurs twice: in A_bar (dA_bar/ddelta = A A_bar) and in delta B u.
        //? x_{t-1} reaches the loss through A_bar x_{t-1}: what goes on backwards is x_grad A_bar.
        float A_bar_grad = x_grad * x_before[n];
        u_grad += x_grad * delta * B[n];
        delta_grad += x_grad * B[n] * u + A_bar_grad * A_bar * A[n];
        if (grad->A != NULL)
            grad->A[d * d_state + n] += A_bar_grad * A_bar * delta;
        back->x_grad[n] = x_grad * A_bar;
        //< EX 4.3
    }
    if (scan->delta_softplus) /* softplus' = sigmoid */
        delta_grad *=
            sigmoid(scan->delta[at] + (scan->delta_bias == NULL ? 0.0f : scan->delta_bias[d]));
    if (grad->u != NULL)
        grad->u[at] = u_grad;
    if (grad->delta != NULL)
        grad->delta[at] = delta_grad;
    if (grad->delta_bias != NULL)
        grad->delta_bias[d] += delta_grad;
}

/* One channel from its last token to its first, stretch by stretch. */
static void channel_backward(const ScanGrad *grad, const float *y_grad, ChannelBack *back,
                             const Scan *scan)
{
    size_t d_state = scan->d_state;
    for (size_t end = scan->len; end > 0;) {
        size_t stretch = (end - 1) / back->stretch, start = stretch * back->stretch;
        memcpy(back->x, back->checkpoint + stretch * d_state, d_state * sizeof(float));
        for (size_t t = start; t < end; t++) {
            float *x = back->x + (t - start) * d_state;
            memcpy(x + d_state, x, d_state * sizeof(float));
            channel_step(x + d_state, scan, back->b * scan->len + t, back->d);
        }
        for (size_t t = end; t-- > start;) {
            const float *x_before = back->x + (t - start) * d_state;
            size_t token = back->b * scan->len + t;
            channel_step_backward(grad, y_grad[token * scan->d_inner + back->d], back, x_before,
                                  x_before + d_state, scan, token);
        }
        end = start;
    }
}

/* Gradients that are sums start from 0. */
static void scan_grad_zero(const ScanGrad *grad, const Scan *scan)
{
    zero(grad->A, scan->d_inner * scan->d_state);
    zero(grad->B, scan->batch * scan->len * scan->d_state);
    zero(grad->C, scan->batch * scan->len * scan->d_state);
    zero(grad->D, scan->d_inner);
    zero(grad->delta_bias, scan->d_inner);
}

/* How many floats of workspace the backward pass of this scan takes, clear or fast. */
size_t selective_scan_backward_floats(const Scan *scan);

/* The gradient of a loss with respect to everything the scan was given. y_grad (batch, len,
   d_inner) is dL/dy; x_last_grad (batch, d_inner, d_state) is dL/dx_last, or NULL for 0, and lets a
   sequence be gone through backwards piece by piece. Besides the outputs this needs about
   2 sqrt(len) states of one channel, for any number of channels: in `work`, or, if that is NULL, in
   memory of its own. */
void selective_scan_backward(const ScanGrad *grad, const float *y_grad, const float *x_last_grad,
                             const Scan *scan, float *work)
{
    size_t d_state = scan->d_state, stretch = square_root_up(scan->len);
    float *own = work == NULL ? NEW(float, selective_scan_backward_floats(scan)) : NULL;
    ChannelBack back;
    back.stretch = stretch;
    back.checkpoint = work == NULL ? own : work;
    back.x = back.checkpoint + stretch * d_state;
    back.x_grad = back.x + (stretch + 1) * d_state;
    scan_grad_zero(grad, scan);
    for (back.b = 0; back.b < scan->batch; back.b++)
        for (back.d = 0; back.d < scan->d_inner; back.d++) {
            size_t first = (back.b * scan->d_inner + back.d) * d_state;
            for (size_t n = 0; n < d_state; n++)
                back.x_grad[n] = x_last_grad == NULL ? 0.0f : x_last_grad[first + n];
            keep_checkpoints(&back, scan);
            channel_backward(grad, y_grad, &back, scan);
            for (size_t n = 0; n < d_state && grad->x_start != NULL; n++)
                grad->x_start[first + n] = back.x_grad[n];
        }
    free(own);
}

/* ====================================== The scan, fast ===================================== */
/* Sixteen neighbouring channels go through one instruction (eight or four on a smaller machine):  */
/* they share B_t and C_t and never look at each other. What costs time is exp: one for each       */
/* channel, token and state; so it is written here, for sixteen at a time.                         */

#if defined(__AVX512F__) && !defined(__CUDACC__)
#define LANES 16
#include <immintrin.h>
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

/* LANES numbers that are worked on together: the vectors of gcc and clang, which know + - * / and
   comparisons (all bits set where true). */
typedef float Lanes __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t LanesBits __attribute__((vector_size(LANES * sizeof(float))));

#define INLINE static inline __attribute__((always_inline, unused))

/* The loop after this goes over all processors, if the compiler has OpenMP; else over one. */
#ifdef _OPENMP
#define PARALLEL_FOR(clauses) PARALLEL_PRAGMA(omp parallel for clauses)
#define PARALLEL_PRAGMA(text) _Pragma(#text)
#else
#define PARALLEL_FOR(clauses)
#endif

INLINE Lanes lanes_load(const float *from) /* from any address */
{
    Lanes v;
    memcpy(&v, from, sizeof v);
    return v;
}

INLINE void lanes_store(float *to, Lanes v)
{
    memcpy(to, &v, sizeof v);
}

/* Only the first `count` lanes, where channels end inside a vector: the others read as 0. */
INLINE Lanes lanes_load_some(const float *from, size_t count)
{
#if LANES == 16
    return (Lanes)_mm512_maskz_loadu_ps((__mmask16)(0xffff >> (LANES - count)), from);
#else
    if (count == LANES)
        return lanes_load(from);
    float padded[LANES] = {0};
    memcpy(padded, from, count * sizeof(float));
    return lanes_load(padded);
#endif
}

INLINE void lanes_store_some(float *to, Lanes v, size_t count)
{
#if LANES == 16
    _mm512_mask_storeu_ps(to, (__mmask16)(0xffff >> (LANES - count)), (__m512)v);
#else
    if (count == LANES)
        lanes_store(to, v);
    else
        memcpy(to, &v, count * sizeof(float));
#endif
}

INLINE Lanes lanes_all(float value)
{
    Lanes zeros = {0};
    return zeros + value;
}

/* where ? yes : no, lane by lane. */
INLINE Lanes lanes_choose(LanesBits where, Lanes yes, Lanes no)
{
    return (Lanes)((where & (LanesBits)yes) | (~where & (LanesBits)no));
}

INLINE Lanes lanes_abs(Lanes v)
{
    return (Lanes)((LanesBits)v & 0x7fffffff);
}

/* The larger of the two, lane by lane. */
INLINE Lanes lanes_larger(Lanes a, Lanes b)
{
#if LANES == 16
    return (Lanes)_mm512_max_ps((__m512)a, (__m512)b);
#else
    return lanes_choose(a > b, a, b);
#endif
}

/* v, but no less than `least`; NaN stays NaN. */
INLINE Lanes lanes_at_least(Lanes v, float least)
{
#if LANES == 16
    return (Lanes)_mm512_max_ps(_mm512_set1_ps(least), (__m512)v);
#else
    return lanes_choose(v < least, lanes_all(least), v);
#endif
}

/* The largest lane, or NaN if there is one. */
INLINE float lanes_largest(Lanes v)
{
    float largest = v[0];
    for (int i = 1; i < LANES; i++)
        if (!(v[i] <= largest) && !isnan(largest))
            largest = v[i];
    return largest;
}

INLINE float lanes_sum(Lanes v)
{
    float sum = 0.0f;
    for (int i = 0; i < LANES; i++)
        sum += v[i];
    return sum;
}

/* ---- exp ---- */

/* 2^v for a v that is given as a whole multiple of 1/32 and a rest r: 2^(j/32) comes from a table
   of 32, what is whole goes into the exponent, and 2^r is so near 1 that two terms do. Where a
   machine has no instruction to look up 16 numbers at once, v is cut at whole numbers and 2^r
   takes five terms. Both are within 2 ulp of 2^v (tests: every float). */
typedef struct {
#if LANES == 16
    Lanes low, high; /* the bits of 2^(j/32) less j << 18, which adding v's bits brings back */
#else
    char unused;
#endif
} ExpTable;

static ExpTable exp_table(void)
{
    ExpTable table;
#if LANES == 16
    for (int32_t j = 0; j < 32; j++) {
        float power = (float)exp2(j / 32.0);
        int32_t bits;
        memcpy(&bits, &power, sizeof bits);
        bits -= j << 18;
        memcpy((char *)&table + (size_t)j * sizeof bits, &bits, sizeof bits);
    }
#else
    table.unused = 0;
#endif
    return table;
}

/* A number so large that adding it rounds v to a multiple of 1/32 (or to a whole number), and
   leaves that multiple in the last bits. */
#if LANES == 16
#define EXP_ROUND 393216.0f /* 1.5 * 2^18 */
#else
#define EXP_ROUND 12583039.0f /* 1.5 * 2^23 + 127: the exponent's bias is in it already */
#endif

/* 2^(k + r), k the multiple that `rounded` = k + EXP_ROUND has in its last bits. */
INLINE Lanes exp2_parts(Lanes rounded, Lanes r, ExpTable table)
{
#if LANES == 16
    Lanes power =
        (Lanes)_mm512_permutex2var_ps((__m512)table.low, (__m512i)rounded, (__m512)table.high);
    power = (Lanes)((LanesBits)power + ((LanesBits)rounded << 18));
    return power + (r * power) * (r * 0.2402265f + 0.69315735f);
#else
    (void)table;
    Lanes power = (Lanes)((LanesBits)rounded << 23);
    Lanes p = r * 0.00133952f + 0.00967031f;
    p = p * r + 0.0555033f;
    p = p * r + 0.240222f;
    p = p * r + 0.693147f;
    return (p * r + 1.0f) * power;
#endif
}

/* 2^(a b) for |a b| <= 126, to 2 ulp of the exact product's power. */
INLINE Lanes exp2_product(Lanes a, Lanes b, ExpTable table)
{
    Lanes rounded = a * b + EXP_ROUND;
    return exp2_parts(rounded, a * b - (rounded - EXP_ROUND), table);
}

/* 2^(a b) for any a and b: infinite above 2^128, 0 below 2^-127, NaN stays NaN. */
INLINE Lanes exp2_product_any(Lanes a, Lanes b, ExpTable table)
{
    Lanes v = a * b, inside = lanes_at_least(v, -127.0f);
    inside = lanes_choose(inside > 127.9f, lanes_all(127.9f), inside);
    Lanes rounded = inside + EXP_ROUND;
    Lanes power = exp2_parts(rounded, inside - (rounded - EXP_ROUND), table);
    return lanes_choose(v >= 128.0f, lanes_all(INFINITY), power);
}

/* exp(v) for v <= 0, to 2 ulp down to exp(-87); from exp(-88) down it is 0. */
INLINE Lanes lanes_exp(Lanes v, ExpTable table)
{
    const float log2_e = 1.44269502f, log2_e_rest = 1.92596299e-8f;
    v = lanes_at_least(v, -88.0f);
    Lanes rounded = v * log2_e + EXP_ROUND;
    Lanes r = v * log2_e - (rounded - EXP_ROUND);
    return exp2_parts(rounded, v * log2_e_rest + r, table);
}

/* The derivative of silu, by one exp: with e = exp(-|v|) the two sigmoids that it is made of are
   1 / (1 + e) and e / (1 + e). */
INLINE Lanes lanes_silu_slope(Lanes v, ExpTable table)
{
    Lanes e = lanes_exp(-lanes_abs(v), table), large = 1.0f / (1.0f + e), small = e * large;
    LanesBits left = v < 0.0f;
    return lanes_choose(left, small, large) * (1.0f + v * lanes_choose(left, large, small));
}

INLINE Lanes lanes_sigmoid(Lanes v, ExpTable table)
{
    Lanes e = lanes_exp(-lanes_abs(v), table);
    return lanes_choose(v < 0.0f, e, lanes_all(1.0f)) / (1.0f + e);
}

/* log1p(e) = 2 atanh(e / (2 + e)), an odd series in s = e / (2 + e) <= 1/3. */
INLINE Lanes lanes_softplus(Lanes v, ExpTable table)
{
    Lanes e = lanes_exp(-lanes_abs(v), table), s = e / (2.0f + e), q = s * s;
    Lanes p = q * (1.0f / 13) + 1.0f / 11;
    p = p * q + 1.0f / 9;
    p = p * q + 1.0f / 7;
    p = p * q + 1.0f / 5;
    p = p * q + 1.0f / 3;
    Lanes log1p_e = 2.0f * s + 2.0f * s * q * p;
    return lanes_at_least(v, 0.0f) + log1p_e;
}

/* ---- the forward pass ---- */

enum {
    STRETCH = 32,        /* tokens that are prepared together, and gone back over together */
    BLOCK_TILES = 16,    /* vectors of channels that a thread takes through a stretch in turn */
    BLOCK_VECTORS = 256, /* tiles * d_state of a block: its states stay in the nearest caches */
    STATES_TOGETHER = 4, /* that go back over a stretch in registers */
    SCAN_MAX_STATE = 256 /* a larger d_state goes the clear way */
};

/* One tile, LANES channels from `first` on, in one sequence. */
typedef struct {
    size_t b, first, count; /* count < LANES where the channels end */
    float steepest;         /* the largest |A log2 e| of the tile */
    Lanes *A2, *x;          /* (d_state): A log2 e, so that exp(delta A) = 2^(delta A2); x */
    Lanes bias, D;
} Tile;

/* What the loops over a stretch of tokens want ready. */
typedef struct {
    size_t token, tokens; /* the first, counted through the batch, and how many */
    bool near;            /* no |Delta A2| exceeds 126: no exponential leaves the range of floats */
    Lanes delta[STRETCH], drive[STRETCH]; /* Delta and Delta u */
    Lanes skip[STRETCH], gate[STRETCH];   /* D u and silu(z) */
} Stretch;

static void tile_open(Tile *tile, Lanes *memory, const Scan *scan, size_t b, size_t first)
{
    size_t d_state = scan->d_state, count = scan->d_inner - first;
    Lanes zeros = {0};
    tile->b = b;
    tile->first = first;
    tile->count = count < LANES ? count : LANES;
    tile->steepest = 0.0f;
    tile->A2 = memory;
    tile->x = memory + d_state;
    for (size_t n = 0; n < 2 * d_state; n++)
        memory[n] = zeros;
    for (size_t i = 0; i < tile->count; i++)
        for (size_t n = 0; n < d_state; n++) {
            float A2 = scan->A[(first + i) * d_state + n] * 1.44269504f;
            tile->A2[n][i] = A2;
            if (!(fabsf(A2) <= tile->steepest)) /* a NaN stays, and goes the careful way */
                tile->steepest = fabsf(A2);
            if (scan->x_start != NULL)
                tile->x[n][i] = scan->x_start[(b * scan->d_inner + first + i) * d_state + n];
        }
    tile->bias = tile->D = zeros;
    if (scan->delta_bias != NULL)
        tile->bias = lanes_load_some(scan->delta_bias + first, tile->count);
    if (scan->D != NULL)
        tile->D = lanes_load_some(scan->D + first, tile->count);
}

/* A tile's vectors (d_state) as the rows of a (batch, d_inner, d_state) array. */
static void tile_states(float *out, const Lanes *x, const Tile *tile, const Scan *scan)
{
    out += (tile->b * scan->d_inner + tile->first) * scan->d_state;
    for (size_t i = 0; i < tile->count; i++)
        for (size_t n = 0; n < scan->d_state; n++)
            out[i * scan->d_state + n] = x[n][i];
}

/* Delta, Delta u, D u and the gate of a stretch. */
__attribute__((noinline)) static void stretch_prepare(Stretch *stretch, const Tile *tile,
                                                      const Scan *scan, const ExpTable *shared)
{
    const ExpTable table = *shared;
    Lanes largest = {0};
    for (size_t i = 0; i < stretch->tokens; i++) {
        size_t at = (stretch->token + i) * scan->d_inner + tile->first;
        Lanes u = lanes_load_some(scan->u + at, tile->count);
        Lanes delta = lanes_load_some(scan->delta + at, tile->count) + tile->bias;
        if (scan->delta_softplus)
            delta = lanes_softplus(delta, table);
        largest = lanes_larger(largest, lanes_abs(delta));
        stretch->delta[i] = delta;
        stretch->drive[i] = delta * u;
        stretch->skip[i] = tile->D * u;
        if (scan->z != NULL) {
            Lanes z = lanes_load_some(scan->z + at, tile->count);
            stretch->gate[i] = z * lanes_sigmoid(z, table);
        }
    }
    stretch->near = lanes_largest(largest) * tile->steepest <= 126.0f;
}

INLINE Lanes A_bar_of(Lanes delta, Lanes A2, ExpTable table, const bool near)
{
    return near ? exp2_product(delta, A2, table) : exp2_product_any(delta, A2, table);
}

/* The loop that all the time is spent in. `next` is how far ahead the numbers lie that are wanted
   after these: they are fetched meanwhile. With y NULL only the state moves. */
INLINE void stretch_loop(float *y, const Tile *tile, const Stretch *stretch, const Scan *scan,
                         size_t next, ExpTable table, const bool near, const bool reads)
{
    size_t d_state = scan->d_state;
    const Lanes *A2 = tile->A2;
    Lanes *x = tile->x;
    for (size_t i = 0; i < stretch->tokens; i++) {
        size_t token = stretch->token + i, at = token * scan->d_inner + tile->first, n = 0;
        const float *B = scan->B + token * d_state, *C = scan->C + token * d_state;
        Lanes delta = stretch->delta[i], drive = stretch->drive[i];
        Lanes y_even = stretch->skip[i], y_odd = {0};
        __builtin_prefetch(scan->u + at + next);
        __builtin_prefetch(scan->delta + at + next);
        if (scan->z != NULL)
            __builtin_prefetch(scan->z + at + next);
        if (reads)
            __builtin_prefetch(y + at + next, 1);
        for (; n + 1 < d_state; n += 2) { /* two sums, so that one need not wait for the other */
            x[n] = A_bar_of(delta, A2[n], table, near) * x[n] + drive * B[n];
            x[n + 1] = A_bar_of(delta, A2[n + 1], table, near) * x[n + 1] + drive * B[n + 1];
            if (reads) {
                y_even += x[n] * C[n];
                y_odd += x[n + 1] * C[n + 1];
            }
        }
        if (n < d_state) {
            x[n] = A_bar_of(delta, A2[n], table, near) * x[n] + drive * B[n];
            y_even += x[n] * C[n];
        }
        if (reads)
            lanes_store_some(
                y + at, (y_even + y_odd) * (scan->z != NULL ? stretch->gate[i] : lanes_all(1.0f)),
                tile->count);
    }
}

/* The loop four times over, so that what never changes in it need not be asked in it. */
static void stretch_scan(float *y, const Tile *tile, const Stretch *stretch, const Scan *scan,
                         size_t next, const ExpTable *table)
{
    if (stretch->near && y != NULL)
        stretch_loop(y, tile, stretch, scan, next, *table, true, true);
    else if (stretch->near)
        stretch_loop(y, tile, stretch, scan, next, *table, true, false);
    else if (y != NULL)
        stretch_loop(y, tile, stretch, scan, next, *table, false, true);
    else
        stretch_loop(y, tile, stretch, scan, next, *table, false, false);
}

/* How many neighbouring tiles make a block, and how many blocks the channels make. */
static size_t block_tiles(const Scan *scan)
{
    size_t fit = BLOCK_VECTORS / (scan->d_state + !scan->d_state);
    return fit < 1 ? 1 : smaller(fit, BLOCK_TILES);
}

static size_t block_count(const Scan *scan)
{
    size_t width = block_tiles(scan) * LANES;
    return (scan->d_inner + width - 1) / width;
}

/* The tiles of a block, opened; memory for 2 d_state vectors each. Returns how many there are. */
static size_t block_open(Tile *tile, Lanes *memory, const Scan *scan, size_t b, size_t block)
{
    size_t tiles = 0, most = block_tiles(scan), first = block * most * LANES;
    for (; tiles < most && first < scan->d_inner; first += LANES, tiles++)
        tile_open(&tile[tiles], memory + tiles * 2 * scan->d_state, scan, b, first);
    return tiles;
}

static size_t stretch_count(const Scan *scan)
{
    return (scan->len + STRETCH - 1) / STRETCH;
}

static void stretch_place(Stretch *stretch, const Scan *scan, size_t b, size_t number)
{
    size_t t = number * STRETCH;
    stretch->token = b * scan->len + t;
    stretch->tokens = smaller(scan->len - t, STRETCH);
}

/* How many floats the checkpoints of a scan take: the states before every stretch of tokens, 1/32
   of all states. With Scan.checkpoint pointing to them, selective_scan_fast fills them, and
   selective_scan_backward_fast, given the same scan after it, need not run forwards once more. */
size_t selective_scan_checkpoint_floats(const Scan *scan)
{
    size_t tiles = (scan->d_inner + LANES - 1) / LANES;
    return scan->batch * stretch_count(scan) * tiles * scan->d_state * LANES;
}

/* x (d_state, LANES) of this tile before stretch s. */
static float *checkpoint_of(const Tile *tile, size_t s, const Scan *scan)
{
    size_t tiles = (scan->d_inner + LANES - 1) / LANES;
    size_t number = (tile->b * stretch_count(scan) + s) * tiles + tile->first / LANES;
    return scan->checkpoint + number * scan->d_state * LANES;
}

/* The channels of one block in sequence b, from the first token to the last: stretch by stretch,
   and in a stretch tile by tile, so that what is read lies in neighbouring memory. */
static void scan_block(float *y, Tile *tile, size_t tiles, const Scan *scan, const ExpTable *table)
{
    Stretch stretch;
    for (size_t s = 0; s < stretch_count(scan); s++) {
        stretch_place(&stretch, scan, tile->b, s);
        size_t ahead = (s + 2) * STRETCH <= scan->len ? STRETCH * scan->d_inner : 0;
        for (size_t i = 0; i < tiles; i++) {
            if (scan->checkpoint != NULL)
                memcpy(checkpoint_of(&tile[i], s, scan), tile[i].x, scan->d_state * sizeof(Lanes));
            stretch_prepare(&stretch, &tile[i], scan, table);
            size_t next = i + 1 < tiles ? LANES : ahead > 0 ? ahead - i * LANES : 0;
            stretch_scan(y, &tile[i], &stretch, scan, next, table);
        }
    }
}

/* selective_scan, for use: the same to rounding (A is rounded once more, its exponentials to 2
   ulp), and the same bits for any number of threads, because a channel is one thread's alone. No
   memory is asked for. Exponentials below 1e-38 are 0. With y NULL only x_last comes out. */
void selective_scan_fast(float *y, float *x_last, const Scan *scan)
{
    if (scan->d_state > SCAN_MAX_STATE) {
        selective_scan(y, x_last, scan);
        return;
    }
    ExpTable table = exp_table();
    size_t blocks = block_count(scan);
    PARALLEL_FOR(collapse(2) schedule(static) if (scan->len > 1))
    for (size_t b = 0; b < scan->batch; b++)
        for (size_t block = 0; block < blocks; block++) {
            Lanes memory[2 * BLOCK_VECTORS];
            Tile tile[BLOCK_TILES];
            size_t tiles = block_open(tile, memory, scan, b, block);
            scan_block(y, tile, tiles, scan, &table);
            for (size_t i = 0; i < tiles && x_last != NULL; i++)
                tile_states(x_last, tile[i].x, &tile[i], scan);
        }
}

/* ---- the backward pass ---- */

/* What a tile works on in a stretch, going back. */
typedef struct {
    Stretch forward;
    Lanes y_ungated[STRETCH]; /* y before the gate */
    Lanes y_grad[STRETCH];    /* dL/dy before the gate */
    Lanes from_B[STRETCH];    /* the sum of dL/dx B over the states */
    Lanes from_A[STRETCH];    /* the sum of dL/dA_bar A_bar A2 */
    Lanes D_grad, bias_grad;  /* summed over all tokens */
} BackTile;

/* What one block works on besides its tiles. */
typedef struct {
    BackTile *tile;         /* (tiles) */
    Lanes *x_grad, *A_grad; /* (tiles, d_state) */
    float *B_sum, *C_sum;   /* (len, d_state) what this block adds to the gradients */
} BackBlock;

/* A few states of one stretch: all that the innermost loops touch again and again. B_grad and
   C_grad are summed over the tiles of the block, lane by lane. */
typedef struct {
    size_t n, count; /* states n .. n + count - 1 */
    Lanes A_bar[STRETCH][STATES_TOGETHER], x[STRETCH + 1][STATES_TOGETHER];
    Lanes B_grad[STRETCH][STATES_TOGETHER], C_grad[STRETCH][STATES_TOGETHER];
} BackStates;

/* Vectors of workspace for one block. */
static size_t back_block_vectors(const Scan *scan)
{
    size_t tiles = block_tiles(scan), d_state = scan->d_state;
    size_t sums = (2 * scan->len * d_state + LANES - 1) / LANES;
    return 2 * tiles * d_state + tiles * sizeof(BackTile) / sizeof(Lanes) + sums;
}

static void back_block_place(BackBlock *back, Lanes *memory, const Scan *scan)
{
    size_t tiles = block_tiles(scan), d_state = scan->d_state;
    back->tile = (BackTile *)memory;
    back->x_grad = (Lanes *)(back->tile + tiles);
    back->A_grad = back->x_grad + tiles * d_state;
    back->B_sum = (float *)(back->A_grad + tiles * d_state);
    back->C_sum = back->B_sum + scan->len * d_state;
}

/* The stretch forwards once more, keeping every A_bar and x. */
INLINE void states_replay(BackStates *states, BackTile *back, const float *before, const Lanes *A2,
                          const float *fetch, const Scan *scan, const size_t count, ExpTable table,
                          const bool near)
{
    const Stretch *stretch = &back->forward;
    size_t first = stretch->token * scan->d_state + states->n;
    Lanes x[STATES_TOGETHER];
    for (size_t k = 0; k < count; k++)
        states->x[0][k] = x[k] = lanes_load(before + (states->n + k) * LANES);
    for (size_t i = 0; i < stretch->tokens; i++) {
        const float *B = scan->B + first + i * scan->d_state;
        const float *C = scan->C + first + i * scan->d_state;
        Lanes delta = stretch->delta[i], drive = stretch->drive[i], y = back->y_ungated[i];
        __builtin_prefetch(fetch + i * scan->d_inner);
        for (size_t k = 0; k < count; k++) {
            Lanes A_bar = A_bar_of(delta, A2[states->n + k], table, near);
            states->A_bar[i][k] = A_bar;
            x[k] = A_bar * x[k] + drive * B[k];
            states->x[i + 1][k] = x[k];
            y += x[k] * C[k];
        }
        back->y_ungated[i] = y;
    }
}

/* And backwards: channel_step_backward, line by line. x_grads is what came through the tokens
   after the stretch, and leaves as what goes on to those before it. */
INLINE void states_backward(BackStates *states, BackTile *back, Lanes *x_grads, Lanes *A_grads,
                            const Lanes *A2, const Scan *scan, const size_t count)
{
    const Stretch *stretch = &back->forward;
    size_t first = stretch->token * scan->d_state + states->n;
    Lanes later[STATES_TOGETHER], A_grad[STATES_TOGETHER];
    for (size_t k = 0; k < count; k++) {
        later[k] = x_grads[states->n + k];
        A_grad[k] = A_grads[states->n + k];
    }
    for (size_t i = stretch->tokens; i-- > 0;) {
        const float *B = scan->B + first + i * scan->d_state;
        const float *C = scan->C + first + i * scan->d_state;
        Lanes y_grad = back->y_grad[i], drive = stretch->drive[i], delta = stretch->delta[i];
        Lanes from_A = back->from_A[i], from_B = back->from_B[i];
        for (size_t k = 0; k < count; k++) {
            Lanes x_grad = later[k] + y_grad * C[k];
            states->C_grad[i][k] += y_grad * states->x[i + 1][k];
            states->B_grad[i][k] += x_grad * drive;
            from_B += x_grad * B[k];
            later[k] = x_grad * states->A_bar[i][k];
            Lanes through_A = later[k] * states->x[i][k];
            from_A += through_A * A2[states->n + k];
            A_grad[k] += through_A * delta;
        }
        back->from_A[i] = from_A;
        back->from_B[i] = from_B;
    }
    for (size_t k = 0; k < count; k++) {
        x_grads[states->n + k] = later[k];
        A_grads[states->n + k] = A_grad[k];
    }
}

/* The states of `states` in every tile of the block, in stretch s; meanwhile the stretch before it
   of the array `from` is fetched. */
INLINE void states_run(BackStates *states, BackBlock *back, const Tile *tile, size_t tiles,
                       size_t s, const float *from, const Scan *scan, const size_t count,
                       ExpTable table)
{
    memset(states->B_grad, 0, sizeof states->B_grad);
    memset(states->C_grad, 0, sizeof states->C_grad);
    for (size_t i = 0; i < tiles; i++) {
        size_t at = i * scan->d_state;
        BackTile *one = &back->tile[i];
        size_t here = one->forward.token * scan->d_inner + tile[i].first;
        const float *before = checkpoint_of(&tile[i], s, scan);
        const float *fetch =
            from + (here >= STRETCH * scan->d_inner ? here - STRETCH * scan->d_inner : 0);
        if (one->forward.near)
            states_replay(states, one, before, tile[i].A2, fetch, scan, count, table, true);
        else
            states_replay(states, one, before, tile[i].A2, fetch, scan, count, table, false);
        states_backward(states, one, back->x_grad + at, back->A_grad + at, tile[i].A2, scan, count);
    }
}

/* The lanes of B_grad and C_grad added up; t is the stretch's first token in its sequence. */
static void states_sum(BackBlock *back, const BackStates *states, size_t t, size_t tokens,
                       size_t d_state)
{
    for (size_t k = 0; k < states->count; k++)
        for (size_t i = 0; i < tokens; i++) {
            back->B_sum[(t + i) * d_state + states->n + k] = lanes_sum(states->B_grad[i][k]);
            back->C_sum[(t + i) * d_state + states->n + k] = lanes_sum(states->C_grad[i][k]);
        }
}

/* Before the states: dL/dy through the gate, and the gradient of D. */
static void stretch_gate_backward(BackTile *back, const float *y_grad, const Tile *tile,
                                  const Scan *scan)
{
    Lanes zeros = {0};
    for (size_t i = 0; i < back->forward.tokens; i++) {
        size_t at = (back->forward.token + i) * scan->d_inner + tile->first;
        back->y_grad[i] = lanes_load_some(y_grad + at, tile->count);
        if (scan->z != NULL)
            back->y_grad[i] *= back->forward.gate[i];
        back->D_grad += back->y_grad[i] * lanes_load_some(scan->u + at, tile->count);
        back->y_ungated[i] = back->forward.skip[i];
        back->from_A[i] = back->from_B[i] = zeros;
    }
}

/* After them: u and delta, each reached on two ways, and z, which wanted y before the gate. */
static void stretch_inputs_backward(const ScanGrad *grad, BackTile *back, const float *y_grad,
                                    const Tile *tile, const Scan *scan, const ExpTable *shared)
{
    const float log_2 = 0.693147181f;
    const ExpTable table = *shared;
    for (size_t i = 0; i < back->forward.tokens; i++) {
        size_t at = (back->forward.token + i) * scan->d_inner + tile->first;
        Lanes u = lanes_load_some(scan->u + at, tile->count), delta = back->forward.delta[i];
        Lanes delta_grad = u * back->from_B[i] + log_2 * back->from_A[i];
        if (scan->delta_softplus)
            delta_grad *=
                lanes_sigmoid(lanes_load_some(scan->delta + at, tile->count) + tile->bias, table);
        if (grad->u != NULL)
            lanes_store_some(grad->u + at, back->y_grad[i] * tile->D + delta * back->from_B[i],
                             tile->count);
        if (grad->delta != NULL)
            lanes_store_some(grad->delta + at, delta_grad, tile->count);
        back->bias_grad += delta_grad;
        if (scan->z != NULL && grad->z != NULL) {
            Lanes slope = lanes_silu_slope(lanes_load_some(scan->z + at, tile->count), table);
            Lanes dy = lanes_load_some(y_grad + at, tile->count);
            lanes_store_some(grad->z + at, dy * back->y_ungated[i] * slope, tile->count);
        }
    }
}

/* One block from its last stretch to its first. */
static void back_block_run(const ScanGrad *grad, const float *y_grad, BackBlock *back,
                           const Tile *tile, size_t tiles, const Scan *scan, const ExpTable *table)
{
    size_t d_state = scan->d_state;
    BackStates states;
    const float *wanted[4] = {scan->delta, scan->u, y_grad, scan->z != NULL ? scan->z : scan->u};
    for (size_t s = stretch_count(scan); s-- > 0;) {
        for (size_t i = 0; i < tiles; i++) {
            stretch_place(&back->tile[i].forward, scan, tile->b, s);
            stretch_prepare(&back->tile[i].forward, &tile[i], scan, table);
            stretch_gate_backward(&back->tile[i], y_grad, &tile[i], scan);
        }
        for (states.n = 0; states.n < d_state; states.n += states.count) {
            bool whole = states.n + STATES_TOGETHER <= d_state;
            states.count = whole ? STATES_TOGETHER : 1;
            const float *from = wanted[states.n / STATES_TOGETHER % 4];
            if (whole)
                states_run(&states, back, tile, tiles, s, from, scan, STATES_TOGETHER, *table);
            else
                states_run(&states, back, tile, tiles, s, from, scan, 1, *table);
            states_sum(back, &states, s * STRETCH, back->tile->forward.tokens, d_state);
        }
        for (size_t i = 0; i < tiles; i++)
            stretch_inputs_backward(grad, &back->tile[i], y_grad, &tile[i], scan, table);
    }
}

/* Where the blocks leave what is to be added up over blocks and sequences, so that it is added in
   one order whatever the threads do. */
typedef struct {
    float *A;          /* (batch, d_inner, d_state) */
    float *D, *bias;   /* (batch, d_inner) */
    Lanes *blocks;     /* (batch, blocks, back_block_vectors) */
    float *checkpoint; /* for a scan that has none of its own */
} BackSums;

size_t selective_scan_backward_floats(const Scan *scan)
{
    size_t clear = (2 * square_root_up(scan->len) + 2) * scan->d_state;
    if (scan->d_state > SCAN_MAX_STATE)
        return clear;
    size_t vectors = scan->batch * block_count(scan) * back_block_vectors(scan) + 1;
    size_t fast = vectors * LANES + scan->batch * scan->d_inner * (scan->d_state + 2);
    if (scan->checkpoint == NULL)
        fast += selective_scan_checkpoint_floats(scan);
    return fast > clear ? fast : clear;
}

static void back_sums_place(BackSums *sums, float *work, const Scan *scan)
{
    size_t vectors = scan->batch * block_count(scan) * back_block_vectors(scan);
    uintptr_t start = (uintptr_t)work, unit = sizeof(Lanes);
    sums->blocks = (Lanes *)(void *)(work + (start + unit - 1) / unit * unit / sizeof(float) -
                                     start / sizeof(float));
    sums->A = (float *)(sums->blocks + vectors);
    sums->D = sums->A + scan->batch * scan->d_inner * scan->d_state;
    sums->bias = sums->D + scan->batch * scan->d_inner;
    sums->checkpoint = sums->bias + scan->batch * scan->d_inner;
}

/* One block of one sequence: forwards for the checkpoints, unless they are there, then back. */
static void back_block(const ScanGrad *grad, const float *y_grad, const float *x_last_grad,
                       const BackSums *sums, const Scan *scan, size_t b, size_t block,
                       const ExpTable *table)
{
    Lanes memory[2 * BLOCK_VECTORS];
    Tile tile[BLOCK_TILES];
    BackBlock back;
    Scan with = *scan;
    size_t d_state = scan->d_state, tiles = block_open(tile, memory, scan, b, block);
    size_t number = b * block_count(scan) + block;
    back_block_place(&back, sums->blocks + number * back_block_vectors(scan), scan);
    memset(back.tile, 0, tiles * sizeof(BackTile));
    memset(back.x_grad, 0, 2 * block_tiles(scan) * d_state * sizeof(Lanes));
    if (scan->checkpoint == NULL) {
        with.checkpoint = sums->checkpoint;
        scan_block(NULL, tile, tiles, &with, table);
    }
    for (size_t i = 0; i < tiles && x_last_grad != NULL; i++)
        for (size_t k = 0; k < tile[i].count * d_state; k++)
            back.x_grad[i * d_state + k % d_state][k / d_state] =
                x_last_grad[(b * scan->d_inner + tile[i].first) * d_state + k];
    back_block_run(grad, y_grad, &back, tile, tiles, &with, table);
    for (size_t i = 0; i < tiles; i++) {
        tile_states(sums->A, back.A_grad + i * d_state, &tile[i], scan);
        if (grad->x_start != NULL)
            tile_states(grad->x_start, back.x_grad + i * d_state, &tile[i], scan);
        lanes_store_some(sums->D + b * scan->d_inner + tile[i].first, back.tile[i].D_grad,
                         tile[i].count);
        lanes_store_some(sums->bias + b * scan->d_inner + tile[i].first, back.tile[i].bias_grad,
                         tile[i].count);
    }
}

/* to (count) = the sum of `parts` arrays that lie `apart` floats from each other. */
static void add_parts(float *to, const float *from, size_t count, size_t parts, size_t apart)
{
    for (size_t i = 0; i < count && to != NULL; i++) {
        float sum = 0.0f;
        for (size_t part = 0; part < parts; part++)
            sum += from[part * apart + i];
        to[i] = sum;
    }
}

static void back_sums_add(const ScanGrad *grad, const BackSums *sums, const Scan *scan)
{
    size_t states = scan->d_inner * scan->d_state, blocks = block_count(scan);
    size_t apart = back_block_vectors(scan) * LANES, shared = scan->len * scan->d_state;
    add_parts(grad->A, sums->A, states, scan->batch, states);
    add_parts(grad->D, sums->D, scan->d_inner, scan->batch, scan->d_inner);
    add_parts(grad->delta_bias, sums->bias, scan->d_inner, scan->batch, scan->d_inner);
    for (size_t b = 0; b < scan->batch && blocks > 0; b++) {
        BackBlock back;
        back_block_place(&back, sums->blocks + b * blocks * back_block_vectors(scan), scan);
        add_parts(grad->B == NULL ? NULL : grad->B + b * shared, back.B_sum, shared, blocks, apart);
        add_parts(grad->C == NULL ? NULL : grad->C + b * shared, back.C_sum, shared, blocks, apart);
    }
}

/* selective_scan_backward, for use: the same to rounding, and the same bits for any number of
   threads. The states before every stretch of 32 tokens come from scan->checkpoint, which
   selective_scan_fast has filled, or, if that is NULL, from a forward pass of its own. */
void selective_scan_backward_fast(const ScanGrad *grad, const float *y_grad,
                                  const float *x_last_grad, const Scan *scan, float *work)
{
    if (scan->d_state > SCAN_MAX_STATE) {
        selective_scan_backward(grad, y_grad, x_last_grad, scan, work);
        return;
    }
    ExpTable table = exp_table();
    BackSums sums;
    float *own = work == NULL ? NEW(float, selective_scan_backward_floats(scan)) : NULL;
    size_t blocks = block_count(scan);
    back_sums_place(&sums, work == NULL ? own : work, scan);
    PARALLEL_FOR(collapse(2) schedule(static))
    for (size_t b = 0; b < scan->batch; b++)
        for (size_t block = 0; block < blocks; block++)
            back_block(grad, y_grad, x_last_grad, &sums, scan, b, block, &table);
    back_sums_add(grad, &sums, scan);
    free(own);
}

#endif
