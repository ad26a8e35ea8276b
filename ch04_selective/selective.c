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
size_t selective_scan_backward_floats(const Scan *scan)
{
    return (2 * square_root_up(scan->len) + 2) * scan->d_state;
}

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

#endif
