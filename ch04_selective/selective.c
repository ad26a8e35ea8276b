/* Chapter 4. Selection, and the scan that makes it fast

   QUESTION   Chapter 3's system treats every word alike. How can a state keep what matters through
              a thousand words that do not, and let go of it when the story turns?
   NEW        Delta, B and C depend on the input: at every step the model says how far the state
              moves, what is written and what is read. Then: the backward pass, and the same
              recurrence in parallel.
   NOT        Where Delta, B and C come from (projections, the convolution, the gate's branch) is
              chapter 5. Nothing is trained here: what is wired, is wired by hand. The same scan as
              fast as this machine can do it stands next door, in fast_scan.c.
   EQUATION   x_t = exp(Delta_t A) x_{t-1} + Delta_t B_t u_t          y_t = C_t . x_t + D u_t
   LETTERS    maths    C           shape                   in papers
              u_t      u           (batch, len, d_inner)   x_t
              x_t      x           (batch, d_inner, d_state)  h_t, the state
              s_t      scan.delta  (batch, len, d_inner)   dt, before its bias and softplus
              Delta_t  delta       of one token, channel   Delta, the step: softplus(s_t + bias)
              A        A           (d_inner, d_state)      A, each channel's diagonal in a row
              B_t C_t  B C         (batch, len, d_state)   B, C; shared by the channels
              D        D           (d_inner)               D, the skip
              z_t      z           (batch, len, d_inner)   z, the gate's branch
   BUILD      cc -O2 ch04_selective/selective.c -o selective -lm && ./selective
   TIME       60 minutes to read, 85 to do the exercises
   SOURCES    A. Gu, T. Dao, Mamba, arXiv 2312.00752: algorithm 2, theorem 1, sections 3 and 4.1
              G. Blelloch, Prefix sums and their applications, CMU-CS-90-190 (1990)
              W. D. Hillis, G. L. Steele, Data parallel algorithms, CACM 29 (1986)
              E. Martin, C. Cundy, Parallelizing linear recurrent neural nets, arXiv 1709.04057
              T. Chen et al., Training deep nets with sublinear memory cost, arXiv 1604.06174 */

#ifndef CH04_SELECTIVE
#define CH04_SELECTIVE

#include "../ch03_discretize/discretize.c"
#include "pictures.c" /* and stories.c: what a story is, and how it is drawn */

/* ======================================== The scan ========================================= */
/* The whole chapter in two lines of NumPy, for one channel (channel_step has them in C):      */
/*     x = np.exp(delta * A) * x + delta * B * u                                               */
/*     y = (C * x).sum() + D * u                                                               */
/* For each token a channel takes in one number (u), gives out one (y), and keeps d_state      */
/* numbers (x) in between. Each channel has its own A and Delta; all share B_t and C_t.        */

/* What a selective scan is given. Arrays are row-major, tokens before channels, and may start at
   any address; what may be left out is NULL then. From chapter 4 on, numbers are floats. */
typedef struct {
    size_t batch, len, d_inner, d_state;
    const float *u;          /* (batch, len, d_inner) the input */
    const float *delta;      /* (batch, len, d_inner) s: the step, before bias and softplus */
    const float *delta_bias; /* (d_inner), or NULL: 0 */
    const float *A;          /* (d_inner, d_state) */
    const float *B, *C;      /* (batch, len, d_state) */
    const float *D;          /* (d_inner), or NULL: 0 */
    const float *z;          /* (batch, len, d_inner) the gate, or NULL: y is not gated */
    const float *x_start;    /* (batch, d_inner, d_state), or NULL: 0 */
    float *checkpoint;       /* states that fast_scan.c keeps for its backward pass, or NULL */
    bool delta_softplus;     /* Delta is softplus(delta + delta_bias), not delta + delta_bias */
} Scan;

/* log(1 + exp(v)): positive, near 0 far left, near v far right. It makes a step out of any number
   that a layer may come up with (Mamba, section 3.2).

   Exercise 4.1. Write softplus so that it neither overflows nor loses small values. */
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

/* v sigmoid(v): near 0 far left, near v far right (SiLU, or Swish). What the gate is made of. */
float silu(float v)
{
    return v * sigmoid(v);
}

/* Delta of channel d at a token (counted through the batch): bias and softplus applied. */
static float step_size(const Scan *scan, size_t token, size_t d)
{
    float raw = scan->delta[token * scan->d_inner + d];
    if (scan->delta_bias != NULL)
        raw += scan->delta_bias[d];
    return scan->delta_softplus ? softplus(raw) : raw;
}

/* One channel, one token: x (d_state) moves on, and y is returned. This is the whole of the
   selective state space model (Mamba, algorithm 2 and equation 2a, with B_bar by the rule of
   chapter 3's discretize_mamba). `token` is counted through the batch: b * len + t.

   Exercise 4.2. Move every state on by one step, and add up what is read from them. */
static float channel_step(float *x, const Scan *scan, size_t token, size_t d)
{
    size_t at = token * scan->d_inner + d; /* u[at] is u[b, t, d] */
    /* (d_state) each: a row of A for the channel, a row of B and one of C for the token */
    const float *A = scan->A + d * scan->d_state;
    const float *B = scan->B + token * scan->d_state, *C = scan->C + token * scan->d_state;
    float u = scan->u[at], delta = step_size(scan, token, d);
    float y = 0.0f;
    for (size_t n = 0; n < scan->d_state; n++) {
        //> EX 4.2 [3 pts] [15 min] one step of the selective scan
        //? A_bar is exp(delta A); under Mamba's rule B_bar is delta B.
        //? Update x[n] first, then read it: y sums C[n] x[n] over the states.
        x[n] = expf(delta * A[n]) * x[n] + delta * B[n] * u;
        y += C[n] * x[n];
        //< EX 4.2
    }
    if (scan->D != NULL) /* the skip: what of u goes past the state */
        y += scan->D[d] * u;
    return scan->z == NULL ? y : y * silu(scan->z[at]); /* the gate comes last */
}

/* One token of each sequence: y (batch, d_inner) comes out, x (batch, d_inner, d_state) is read and
   written. The arrays of `one` have len 1, and its x_start is not looked at. Time and memory are
   the same for the millionth token as for the first: this is what generation uses. */
void selective_scan_step(float *y, float *x, const Scan *one)
{
    assert(one->len == 1); /* so token b of the batch is the only one of sequence b */
    for (size_t b = 0; b < one->batch; b++)
        for (size_t d = 0; d < one->d_inner; d++) {
            size_t channel = b * one->d_inner + d;
            y[channel] = channel_step(x + channel * one->d_state, one, b, d);
        }
}

/* The whole scan, as it is defined: y (batch, len, d_inner), and the state after the last token in
   x_last (batch, d_inner, d_state), unless that is NULL. x_last may be the array that x_start
   points to: then a sequence cut into pieces is scanned piece by piece, and bit for bit the same
   comes out. y may not overlap an input. */
void selective_scan(float *y, float *x_last, const Scan *scan)
{
    size_t states = scan->d_inner * scan->d_state;
    float *x = NEW(float, states); /* all that goes from one token to the next */
    for (size_t b = 0; b < scan->batch; b++) {
        for (size_t i = 0; i < states; i++)
            x[i] = scan->x_start == NULL ? 0.0f : scan->x_start[b * states + i];
        /* token by token, as they come; the channels of a token do not need each other */
        for (size_t token = b * scan->len; token < (b + 1) * scan->len; token++)
            for (size_t d = 0; d < scan->d_inner; d++)
                y[token * scan->d_inner + d] = channel_step(x + d * scan->d_state, scan, token, d);
        for (size_t i = 0; i < states && x_last != NULL; i++)
            x_last[b * states + i] = x[i];
    }
    free(x);
}

/* ================================== Selection, wired by hand =============================== */
/* A story streams in word by word. Each context (science, folklore, ...) is a channel with one */
/* state. Most words leave every channel alone: their Delta is next to 0. A cue opens the       */
/* channel of its context; a turn opens all of them, and so lets go of what was there.          */

/* The s that the wiring gives each kind of word. sigmoid of it is the share of the old context that
   is replaced (theorem 1 of the Mamba paper). */
#define RAW_FILLER (-20.0f) /* Delta = 2e-9: next to nothing moves */
#define RAW_CUE    1.0f     /* Delta = 1.31: 73 % of what the channel holds is replaced */
#define RAW_TURN   6.0f     /* Delta = 6.00: 99.75 % is */

/* A scan of these sizes and arrays. What may be left out is: no bias, D, z, x_start or softplus. */
Scan scan_new(size_t batch, size_t len, size_t d_inner, size_t d_state, const float *u,
              const float *delta, const float *A, const float *B, const float *C)
{
    Scan scan;
    memset(&scan, 0, sizeof scan);
    scan.batch = batch, scan.len = len, scan.d_inner = d_inner, scan.d_state = d_state;
    scan.u = u, scan.delta = delta, scan.A = A, scan.B = B, scan.C = C;
    return scan;
}

/* A scan whose arrays are its own. */
typedef struct {
    Scan scan;
    float *u, *delta, *A, *B, *C; /* the arrays that scan points to, in one piece of memory */
} Wiring;

/* Room for len tokens of `channels` channels with one state each. A = -1, so that a step of length
   Delta leaves exp(-Delta) of the state, and C = 1, so that y is the state itself. */
Wiring wiring_new(size_t len, size_t channels)
{
    Wiring wiring;
    wiring.u = NEW(float, 2 * len * channels + channels + 2 * len);
    wiring.delta = wiring.u + len * channels;
    wiring.A = wiring.delta + len * channels;
    wiring.B = wiring.A + channels;
    wiring.C = wiring.B + len;
    for (size_t d = 0; d < channels; d++)
        wiring.A[d] = -1.0f;
    for (size_t t = 0; t < len; t++)
        wiring.B[t] = wiring.C[t] = 1.0f;
    wiring.scan =
        scan_new(1, len, channels, 1, wiring.u, wiring.delta, wiring.A, wiring.B, wiring.C);
    wiring.scan.delta_softplus = true;
    return wiring;
}

void wiring_free(Wiring *wiring)
{
    free(wiring->u);
}

/* (1 - exp(-delta)) / delta: with this B and A = -1, Mamba's Delta B u is what chapter 3's exact
   rule (zero-order hold) writes, so that x = (1 - g) x + g u with g = 1 - exp(-delta): a gate
   between old and new. With Delta = softplus(s) that g is sigmoid(s): the paper's theorem 1. */
float hold_B(float delta)
{
    return delta > 0.0f ? -expm1f(-delta) / delta : 1.0f;
}

/* One word in a scan: filler, cue or turn. A cue writes 1 into its context; a turn writes 0 into
   all others. A filler brings noise to every channel, a number between -1/2 and 1/2 that the word
   always has: no word is perfectly silent, and what keeps it out is its Delta alone. */
static void wire_word(Wiring *wiring, size_t t, const Cue *cue, const char *key)
{
    size_t channels = wiring->scan.d_inner;
    for (size_t d = 0; d < channels; d++) {
        bool meant = cue != NULL && cue->context == d, turned = cue != NULL && cue->turn;
        wiring->delta[t * channels + d] = turned ? RAW_TURN : meant ? RAW_CUE : RAW_FILLER;
        wiring->u[t * channels + d] = meant ? 1.0f : turned ? 0.0f : word_noise(key, d);
    }
    if (cue != NULL) /* B is shared by the channels: it fits the one that moves */
        wiring->B[t] = hold_B(softplus(cue->turn ? RAW_TURN : RAW_CUE));
}

/* The story as the input of a selective scan, one channel per context. */
Wiring story_wire(const Story *story, const Cues *cues)
{
    Wiring wiring = wiring_new(story->n_word, cues->n_context);
    for (size_t t = 0; t < story->n_word; t++)
        wire_word(&wiring, t, cue_at(cues, story, t), story->key[t]);
    return wiring;
}

/* The same input with one step for every word and channel: chapter 3's system, which cannot
   choose. */
static void wire_constant(Wiring *wiring, float step)
{
    wiring->scan.delta_softplus = false;
    for (size_t i = 0; i < wiring->scan.len * wiring->scan.d_inner; i++)
        wiring->delta[i] = step;
    for (size_t t = 0; t < wiring->scan.len; t++)
        wiring->B[t] = hold_B(step);
}

/* ---- selective copying ---- */
/* Sixteen symbols to remember, each one of sixteen, scattered among noise (after Mamba, section
   4.1): four channels, one for each bit of a symbol. With A_bar = 1/2 a symbol moves what is there
   one binary place down and writes its bit; noise moves nothing. So 16 symbols stand in 16 binary
   places of four numbers. The task (stories.c) is a row of tokens: symbols, and COPY_NOISE. */

/* The task as the input of a scan.

   Exercise 4.4. `raw`, the number before the softplus, for each token and way (CopyWay, stories.c):
   one that is to push halves what is there; one that is not leaves it as it is, and thousands of
   them in a row do too. But softplus(raw) must not be 0: B divides by it. */
Wiring copying_wire(const int *token, size_t len, CopyWay way)
{
    Wiring wiring = wiring_new(len, COPY_BITS);
    for (size_t t = 0; t < len; t++) {
        bool noise = token[t] == COPY_NOISE;
        float raw;
        //> EX 4.4 [2 pts] [10 min] selective copying, wired by hand
        //? Who pushes? COPY_HALVING: every token. COPY_KEEPING: none. COPY_SELECTIVE: you say it.
        //? With A = -1, A_bar = exp(-Delta). What must Delta be to change nothing, and to halve?
        //? Which number has softplus log 2, and which one next to nothing?
        bool push = way == COPY_HALVING || (way == COPY_SELECTIVE && !noise);
        raw = push ? 0.0f : -30.0f; /* softplus: log 2; or 1e-13 */
        //< EX 4.4
        wiring.B[t] = 1.0f / softplus(raw); /* Delta B u is u */
        for (size_t bit = 0; bit < COPY_BITS; bit++) {
            wiring.delta[t * COPY_BITS + bit] = raw;
            wiring.u[t * COPY_BITS + bit] = noise ? 0.0f : (float)(token[t] >> bit & 1);
        }
    }
    return wiring;
}

/* How many of `tasks` times COPY_SYMBOLS symbols come back right, from 0 to 1. */
double copying_score(size_t noise, size_t tasks, CopyWay way, Random random)
{
    size_t len = COPY_SYMBOLS + noise, right = 0;
    int *token = NEW(int, len), symbol[COPY_SYMBOLS] = {0}, got[COPY_SYMBOLS];
    float *y = NEW(float, len *COPY_BITS), x[COPY_BITS];
    for (size_t task = 0; task < tasks; task++) {
        copying_task(token, symbol, noise, &random);
        Wiring wiring = copying_wire(token, len, way);
        selective_scan(y, x, &wiring.scan); /* only x is looked at: it is all that is kept */
        copying_read(got, x, way);
        for (size_t k = 0; k < COPY_SYMBOLS; k++)
            right += got[k] == symbol[k];
        wiring_free(&wiring);
    }
    free(token);
    free(y);
    return (double)right / (double)(tasks * COPY_SYMBOLS);
}

/* ==================================== The scan, backwards ================================== */
/* Which way should every input move to make a loss L smaller? The chain rule, from the last     */
/* token to the first. It needs the states x_t, which the forward pass did not keep: each        */
/* stretch (segment) of sqrt(len) tokens is run again from a checkpoint when its turn comes. A   */
/* name that ends in _grad is dL/d of what it is named after, and has its shape.                 */

/* Where the gradients go; NULL where one is not wanted. They are written, not added to; z's is left
   alone where there is no gate. */
typedef struct {
    float *u, *delta, *delta_bias, *A, *B, *C, *D, *z, *x_start;
} ScanGrad;

/* The derivative of silu: sigmoid(v) (1 + v (1 - sigmoid(v))). */
float silu_slope(float v)
{
    float s = sigmoid(v);
    return s * (1.0f + v * sigmoid(-v));
}

static void zero(float *values, size_t count)
{
    if (values != NULL)
        memset(values, 0, count * sizeof(float));
}

static void grad_add(float *grad, size_t at, float value)
{
    if (grad != NULL)
        grad[at] += value;
}

/* The square root of len, rounded up: so many tokens make a stretch, and so many stretches do. */
static size_t stretch_of(size_t len)
{
    return (size_t)ceil(sqrt((double)len));
}

/* What one channel's backward pass works on. */
typedef struct {
    size_t b, d, stretch; /* sequence, channel, tokens between two checkpoints */
    float *checkpoint;    /* (ceil(len / stretch), d_state) x before each stretch */
    float *x;             /* (stretch + 1, d_state) x before and after each token of a stretch */
    float *x_grad;        /* (d_state) dL/dx_t through everything after token t */
} ChannelBack;

/* One token backwards: y_grad is dL/dy of this channel here, x_before and x_after (d_state) are
   x_{t-1} and x_t. The lines of channel_step from the last to the first; a variable that is used
   twice (u, delta, x_t) gets a part from each use, and the parts add up.

   Exercise 4.3. The gradients of u, delta and A through x_t = A_bar x_{t-1} + delta B u: add them
   to u_grad, to delta_grad and, unless grad->A is NULL, to its element of channel d and state n.
   And what goes on to the token before: it is back->x_grad[n] from here on. */
static void channel_step_backward(const ScanGrad *grad, float y_grad, ChannelBack *back,
                                  const float *x_before, const float *x_after, const Scan *scan,
                                  size_t token)
{
    size_t d = back->d, at = token * scan->d_inner + d, d_state = scan->d_state;
    const float *A = scan->A + d * d_state, *B = scan->B + token * d_state;
    const float *C = scan->C + token * d_state;
    float u = scan->u[at], delta = step_size(scan, token, d), u_grad = 0.0f, delta_grad = 0.0f;
    if (scan->z != NULL) { /* y = y_ungated silu(z); y_ungated was not kept either */
        float y_ungated = scan->D == NULL ? 0.0f : scan->D[d] * u;
        for (size_t n = 0; n < d_state; n++)
            y_ungated += C[n] * x_after[n];
        grad_add(grad->z, at, y_grad * y_ungated * silu_slope(scan->z[at]));
        y_grad *= silu(scan->z[at]); /* from here on dL/dy_ungated */
    }
    if (scan->D != NULL) /* y_ungated = C . x + D u */
        u_grad = y_grad * scan->D[d];
    grad_add(grad->D, d, y_grad * u);
    for (size_t n = 0; n < d_state; n++) {
        float A_bar = expf(delta * A[n]);
        float x_grad = back->x_grad[n] + y_grad * C[n]; /* x_t is read by y_t and by x_{t+1} */
        grad_add(grad->C, token * d_state + n, y_grad * x_after[n]);
        grad_add(grad->B, token * d_state + n, x_grad * delta * u);
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
    grad_add(grad->u, at, u_grad);
    grad_add(grad->delta, at, delta_grad);
    grad_add(grad->delta_bias, d, delta_grad); /* one bias for all tokens: a sum over them */
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

/* One channel from its last token to its first, stretch by stretch: forwards through the stretch
   from its checkpoint, keeping every x, then backwards through it. */
static void channel_backward(const ScanGrad *grad, const float *y_grad, ChannelBack *back,
                             const Scan *scan)
{
    size_t d_state = scan->d_state;
    for (size_t end = scan->len; end > 0;) {
        size_t stretch = (end - 1) / back->stretch, start = stretch * back->stretch;
        memcpy(back->x, back->checkpoint + stretch * d_state, d_state * sizeof(float));
        for (size_t t = start; t < end; t++) { /* forwards, each x from the one before it */
            float *x = back->x + (t - start) * d_state;
            memcpy(x + d_state, x, d_state * sizeof(float));
            channel_step(x + d_state, scan, back->b * scan->len + t, back->d);
        }
        for (size_t t = end; t-- > start;) { /* backwards, with the x of either side */
            const float *x_before = back->x + (t - start) * d_state;
            size_t token = back->b * scan->len + t;
            channel_step_backward(grad, y_grad[token * scan->d_inner + back->d], back, x_before,
                                  x_before + d_state, scan, token);
        }
        end = start;
    }
}

/* Gradients are sums (over tokens, over channels, or of one term), and sums start from 0. */
static void scan_grad_zero(const ScanGrad *grad, const Scan *scan)
{
    size_t wide = scan->batch * scan->len * scan->d_inner;
    size_t shared = scan->batch * scan->len * scan->d_state;
    zero(grad->u, wide);
    zero(grad->delta, wide);
    zero(grad->delta_bias, scan->d_inner);
    zero(grad->A, scan->d_inner * scan->d_state);
    zero(grad->B, shared);
    zero(grad->C, shared);
    zero(grad->D, scan->d_inner);
    zero(scan->z != NULL ? grad->z : NULL, wide);
}

/* Floats that a ChannelBack takes: about 2 sqrt(len) states of one channel, for any number of
   channels. (Clear: the scan of this file, as against the fast one of fast_scan.c.) */
static size_t clear_backward_floats(const Scan *scan)
{
    return (2 * stretch_of(scan->len) + 2) * scan->d_state;
}

/* The gradient of a loss with respect to everything the scan was given. y_grad (batch, len,
   d_inner) is dL/dy; x_last_grad (batch, d_inner, d_state) is dL/dx_last, or NULL for 0, and lets a
   sequence be gone through backwards piece by piece. `work` (clear_backward_floats) is memory to
   work in; if it is NULL, it is taken and given back here. */
void selective_scan_backward(const ScanGrad *grad, const float *y_grad, const float *x_last_grad,
                             const Scan *scan, float *work)
{
    size_t d_state = scan->d_state, stretch = stretch_of(scan->len);
    float *own = work == NULL ? NEW(float, clear_backward_floats(scan)) : NULL;
    ChannelBack back;
    back.stretch = stretch;
    back.checkpoint = work == NULL ? own : work;
    back.x = back.checkpoint + stretch * d_state;
    back.x_grad = back.x + (stretch + 1) * d_state;
    scan_grad_zero(grad, scan);
    for (back.b = 0; back.b < scan->batch; back.b++)
        for (back.d = 0; back.d < scan->d_inner; back.d++) {
            size_t first = (back.b * scan->d_inner + back.d) * d_state;
            for (size_t n = 0; n < d_state; n++) /* what comes in from after the last token */
                back.x_grad[n] = x_last_grad == NULL ? 0.0f : x_last_grad[first + n];
            keep_checkpoints(&back, scan);
            channel_backward(grad, y_grad, &back, scan);
            for (size_t n = 0; n < d_state && grad->x_start != NULL; n++)
                grad->x_start[first + n] = back.x_grad[n];
        }
    free(own);
}

/* ================================== The scan in parallel =================================== */
/* x_t = a_t x_{t-1} + b_t looks as if every step must wait for the one before. It need not: */
/* two steps in a row are again a step of the same kind, and it does not matter which        */
/* neighbours are joined first.                                                              */

/* The step x -> a x + b. (1, 0) changes nothing. */
typedef struct {
    float a, b;
} ScanPair;

/* First one step, then the other, as one step. Associative: (1 2) 3 = 1 (2 3); not commutative:
   time has a direction.

   Exercise 4.5. Join two steps into one. */
ScanPair scan_join(ScanPair first, ScanPair then)
{
    ScanPair both;
    //> EX 4.5 [2 pts] [10 min] the associative operator
    //? Put x' = a1 x + b1 into x'' = a2 x' + b2.
    //? What stands before x is the new a; the rest is the new b.
    both.a = first.a * then.a;
    both.b = then.a * first.b + then.b;
    //< EX 4.5
    return both;
}

/* The loop: out[t] = in[0] joined with ... in[t], so that out[t].b is x_t from x = 0. len - 1
   joins, one after the other. */
void scan_pairs(ScanPair *out, const ScanPair *in, size_t len)
{
    for (size_t t = 0; t < len; t++)
        out[t] = t == 0 ? in[0] : scan_join(out[t - 1], in[t]);
}

/* One round of Hillis and Steele: everyone joins the one `reach` (offset) before, all at once. */
static void hillis_steele_round(ScanPair *next, const ScanPair *now, size_t reach, size_t len)
{
    for (size_t t = 0; t < len; t++)
        next[t] = t < reach ? now[t] : scan_join(now[t - reach], now[t]);
}

/* Hillis and Steele (1986): before a round every element holds the last `reach` steps, after it
   twice as many. log2(len) rounds are enough; but they make nearly len log2(len) joins. */
void scan_pairs_hillis_steele(ScanPair *out, const ScanPair *in, size_t len)
{
    ScanPair *now = NEW(ScanPair, len), *next = NEW(ScanPair, len);
    memcpy(now, in, len * sizeof *in);
    for (size_t reach = 1; reach < len; reach *= 2) {
        hillis_steele_round(next, now, reach, len);
        ScanPair *swap = now;
        now = next;
        next = swap;
    }
    memcpy(out, now, len * sizeof *out);
    free(now);
    free(next);
}

/* One level of a tree of pairs, in place: what ends at t covers 2 width steps afterwards. */
static void sweep_up_level(ScanPair *tree, size_t width, size_t len)
{
    for (size_t t = 2 * width - 1; t < len; t += 2 * width)
        tree[t] = scan_join(tree[t - width], tree[t]);
}

/* Blelloch's up-sweep: neighbours are joined to twos, twos to fours, ...; tree (len), len a power
   of two. After it tree[len - 1] is all of them joined. */
static void sweep_up(ScanPair *tree, size_t len)
{
    for (size_t width = 1; width < len; width *= 2)
        sweep_up_level(tree, width, len);
}

/* And the down-sweep: each node is told what came before it, hands that to its left child, and to
   its right child that joined with the left one. After it tree[t] is everything before t.

   Exercise 4.6. Go down the tree. */
static void sweep_down(ScanPair *tree, size_t len)
{
    ScanPair nothing = {1.0f, 0.0f};
    tree[len - 1] = nothing;
    for (size_t width = len / 2; width > 0; width /= 2)
        for (size_t t = 2 * width - 1; t < len; t += 2 * width) {
            //> EX 4.6 [3 pts] [20 min] the sweep down
            //? A node at t has its left child at t - width and its right child in its own place.
            //? Keep what the left child holds before you write over it.
            //? The left child is told what the node was; the right one that, joined with the left.
            ScanPair left = tree[t - width];
            tree[t - width] = tree[t];
            tree[t] = scan_join(tree[t], left);
            //< EX 4.6
        }
}

/* Blelloch (1990): 2 log2(len) + 1 rounds and only about 3 len joins. Where len is no power of two,
   steps that change nothing fill it up. */
void scan_pairs_blelloch(ScanPair *out, const ScanPair *in, size_t len)
{
    ScanPair nothing = {1.0f, 0.0f};
    size_t room = 1;
    while (room < len)
        room *= 2;
    ScanPair *tree = NEW(ScanPair, room);
    for (size_t t = 0; t < room; t++)
        tree[t] = t < len ? in[t] : nothing;
    sweep_up(tree, room);
    sweep_down(tree, room);
    for (size_t t = 0; t < len; t++) /* what came before t, and then t itself */
        out[t] = scan_join(tree[t], in[t]);
    free(tree);
}

/* Into how many pieces time is cut, on any machine: the sums are then the same on all. */
enum { TIME_PIECES = 16 };

static size_t piece_start(size_t piece, size_t len)
{
    return (piece * len + TIME_PIECES - 1) / TIME_PIECES; /* up: the first is never empty */
}

/* In three phases, as a few processors do it. In the first and the last each piece could be another
   processor's (fast_scan.c does it so); only the second, a loop over the pieces' ends, cannot. */
void scan_pairs_chunked(ScanPair *out, const ScanPair *in, size_t len)
{
    for (size_t piece = 0; piece < TIME_PIECES; piece++) { /* 1: each piece by itself */
        size_t start = piece_start(piece, len), end = piece_start(piece + 1, len);
        scan_pairs(out + start, in + start, end - start);
    }
    for (size_t piece = 1; piece < TIME_PIECES; piece++) { /* 2: each end, from the end before */
        size_t start = piece_start(piece, len), end = piece_start(piece + 1, len);
        if (start < end)
            out[end - 1] = scan_join(out[start - 1], out[end - 1]);
    }
    for (size_t piece = 1; piece < TIME_PIECES; piece++) { /* 3: and all that lies between */
        size_t start = piece_start(piece, len), end = piece_start(piece + 1, len);
        for (size_t t = start; t + 1 < end; t++)
            out[t] = scan_join(out[start - 1], out[t]);
    }
}

/* ======================================= The demos ========================================= */

/* A story through the selective system and through one that cannot choose. A path may be NULL: then
   it is the built-in story, or the built-in cues. */
static bool demo_story_of(const char *story_path, const char *cues_path, double step, bool brief,
                          const Show *show, Error *error)
{
    Cues cues;
    Story story;
    if (!story_and_cues_open(&story, &cues, story_path, cues_path, error))
        return false;
    Wiring wiring = story_wire(&story, &cues), constant = story_wire(&story, &cues);
    wire_constant(&constant, (float)step);
    size_t n = cues.n_context, count = story.n_word * n; /* arrays are (n_word, n_context) */
    float *delta = NEW(float, 3 * count), *x = delta + count, *blurred = x + count;
    for (size_t i = 0; i < count; i++)
        delta[i] = step_size(&wiring.scan, i / n, i % n);
    selective_scan(x, NULL, &wiring.scan); /* C = 1, so y is x */
    selective_scan(blurred, NULL, &constant.scan);
    StoryPicture picture = {&story, &cues, delta, x, blurred, step, brief};
    bool ok = story_show(&picture, show, error);
    wiring_free(&wiring);
    wiring_free(&constant);
    story_free(&story);
    cues_free(&cues);
    free(delta);
    return ok;
}

static bool demo_story(const Show *show, Error *error)
{
    return demo_story_of(NULL, NULL, 0.1, false, show, error);
}

/* A cue of the first of two contexts, then `fillers` words of noise, by a step that is constant or,
   if it is 0, selective: the mean margin of the right context, and how often it is the larger. If
   `silent`, what comes before the scan makes every filler's u 0, and A = 0 lets nothing fade. */
static void filler_measure(double *margin, double *right, size_t fillers, float step, bool silent,
                           uint64_t seed)
{
    enum { STORIES = 400 };
    Random random = random_from_seed(seed);
    Cue cue;
    memset(&cue, 0, sizeof cue); /* of context 0 */
    Wiring wiring = wiring_new(fillers + 1, 2);
    float *y = NEW(float, 2 * (fillers + 1)), x[2];
    for (size_t t = 0; t <= fillers; t++)
        wire_word(&wiring, t, t == 0 ? &cue : NULL, "");
    wiring.u[1] = 0.0f; /* the cue says nothing about the other context */
    if (step > 0.0f)
        wire_constant(&wiring, step);
    if (silent)
        wiring.A[0] = wiring.A[1] = 0.0f;
    *margin = *right = 0.0;
    for (size_t k = 0; k < STORIES; k++) {
        for (size_t i = 2; i < 2 * (fillers + 1); i++) /* other words in every story */
            wiring.u[i] = silent ? 0.0f : (float)(random_uniform(&random) - 0.5);
        selective_scan(y, x, &wiring.scan);
        *margin += (double)(x[0] - x[1]) / STORIES;
        *right += (x[0] > x[1] ? 1.0 : 0.0) / STORIES;
    }
    wiring_free(&wiring);
    free(y);
}

static bool demo_fillers(const Show *show, Error *error)
{
    enum { ROWS = 11, WAYS = 5, SILENT = 4 };
    static const double fillers[ROWS] = {0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000};
    static const float steps[WAYS] = {0.0f, 0.3f, 0.1f, 0.01f, 0.1f};
    static const char *const names[WAYS] = {"selective", "Delta = 0.3", "Delta = 0.1",
                                            "Delta = 0.01", "0.1, silenced"};
    double margin, right, none[WAYS] = {0}, share[WAYS * ROWS];
    prose("One cue, then filler words: the margin of the right context (mean of 400 stories), and "
          "how often it is the larger one\n\n"
          "  fillers     selective   Delta = 0.3   Delta = 0.1  Delta = 0.01 0.1, silenced");
    for (size_t i = 0; i < ROWS; i++) {
        printf("  %7.0f", fillers[i]);
        for (size_t k = 0; k < WAYS; k++) {
            filler_measure(&margin, &right, (size_t)fillers[i], steps[k], k == SILENT,
                           show->seed + i);
            printf(" %6.3f %5.1f%%", rounded_to(margin, 1000.0), 100.0 * right);
            if (i == 0)
                none[k] = margin; /* without any filler */
            share[k * ROWS + i] = margin / none[k];
        }
        putchar('\n');
    }
    Chart chart = chart_new("What filler words leave of the margin", "filler words",
                            "share of the margin without any"); /* SILENT: always 1 */
    return rows_chart(&chart, names, fillers, share, SILENT, ROWS, show, error);
}

static bool demo_copying(const Show *show, Error *error)
{
    enum { ROWS = 9, WAYS = 3, TASKS = 200 };
    static const double noise[ROWS] = {0, 1, 4, 16, 64, 256, 1024, 4096, 16384};
    static const char *const names[WAYS] = {"selective", "halving", "keeping"};
    double score[WAYS * ROWS];
    prose("Selective copying: 16 symbols of 16 kinds among noise, given back in order. Symbols "
          "right (1 in 16 by chance): the selective system and two that treat all tokens alike\n\n"
          "     noise  selective    halving    keeping");
    for (size_t i = 0; i < ROWS; i++) {
        size_t tasks = noise[i] > 256 ? TASKS / 10 : TASKS;
        printf("  %8.0f", noise[i]);
        for (size_t k = 0; k < WAYS; k++) {
            Random random = random_from_seed(show->seed); /* the same tasks for all three */
            score[k * ROWS + i] = copying_score((size_t)noise[i], tasks, (CopyWay)k, random);
            printf(" %9.1f%%", 100.0 * score[k * ROWS + i]);
        }
        putchar('\n');
    }
    Chart chart = chart_new("Selective copying", "noise tokens", "symbols right");
    return rows_chart(&chart, names, noise, score, WAYS, ROWS, show, error);
}

/* Theorem 1: with A = -1, one state and hold_B, the scan is a gate between old and new. */
static bool demo_theorem(const Show *show, Error *error)
{
    enum { LEN = 7 };
    (void)error;
    static const float raw[LEN] = {-8, -2, 0, 2, 8, -4, 1};
    Random random = random_from_seed(show->seed);
    Wiring wiring = wiring_new(LEN, 1);
    float y[LEN], x = 0.0f, worst = 0.0f;
    for (size_t t = 0; t < LEN; t++) {
        wiring.delta[t] = raw[t];
        wiring.u[t] = (float)(round(random_normal(&random) * 8.0) / 8.0);
        wiring.B[t] = hold_B(softplus(raw[t]));
    }
    selective_scan(y, NULL, &wiring.scan);
    prose("Theorem 1 of the Mamba paper: A = -1, one state, B = hold_B. Delta = softplus(s), and "
          "g = 1 - exp(-Delta) = sigmoid(s) is a gate: x = (1 - g) x + g u\n\n"
          "        s    Delta        g        u     gate     scan");
    for (size_t t = 0; t < LEN; t++) {
        float g = sigmoid(raw[t]);
        x = (1.0f - g) * x + g * wiring.u[t];
        worst = fmaxf(worst, fabsf(x - y[t]));
        printf("  %7.1f %8.4f %8.4f %8.3f %8.4f %8.4f\n", (double)raw[t], (double)softplus(raw[t]),
               (double)g, (double)wiring.u[t], (double)x, (double)y[t]);
    }
    printf("\nThe last two agree to 1e-6: %s.\n", worst <= 1e-6f ? "yes" : "no");
    wiring_free(&wiring);
    return true;
}

static bool demo_trace(const Show *show, Error *error)
{
    static const char *const from[] = {"from 1 before", "from 2 before", "from 4 before"};
    static const char *const up[] = {"up, by 2", "up, by 4", "up, by 8"};
    ScanPair in[TREE_LEN], loop[TREE_LEN], pair[2][TREE_LEN], tree[TREE_LEN], out[TREE_LEN];
    for (size_t t = 0; t < TREE_LEN; t++) {
        in[t].a = t == 4 ? 0.0f : 0.5f;
        in[t].b = (float)(t + 1);
        pair[0][t] = tree[t] = in[t];
    }
    puts("x_t = a_t x_{t-1} + b_t for eight steps, as pairs. Step 5 has a = 0: a reset\n");
    print_tree(&show->look);
    puts("\nThe loop: seven joins, one after the other. Its b are the states");
    scan_pairs(loop, in, TREE_LEN);
    print_pairs("loop", &loop[0].a, TREE_LEN, 1);
    puts("\nHillis and Steele: everyone joins the one 1, 2, 4 places before (* changed)");
    print_pairs("given", &in[0].a, TREE_LEN, 1);
    for (size_t k = 0, reach = 1; k < 3; k++, reach *= 2) {
        hillis_steele_round(pair[(k + 1) % 2], pair[k % 2], reach, TREE_LEN); /* 0 to 1 to 0 to 1 */
        print_pairs(from[k], &pair[(k + 1) % 2][0].a, reach, 1);
    }
    puts("\nBlelloch: up the tree, then down again with what came before");
    for (size_t k = 0, width = 1; k < 3; k++, width *= 2) {
        sweep_up_level(tree, width, TREE_LEN);
        print_pairs(up[k], &tree[0].a, 2 * width - 1, 2 * width); /* as sweep_up_level goes */
    }
    sweep_down(tree, TREE_LEN);
    print_pairs("down: before", &tree[0].a, 0, 1);
    scan_pairs_blelloch(out, in, TREE_LEN);
    print_pairs("with itself", &out[0].a, 0, 1);
    bool same = true;
    for (size_t t = 0; t < TREE_LEN; t++)
        same = same && pair[1][t].b == loop[t].b && out[t].b == loop[t].b;
    printf("\nAll give the same states: %s.\n", same ? "yes" : "no");
    return show->svg == NULL || tree_svg(show->svg, error);
}

enum { WEATHER_DAYS = 5 };

/* Chapter 1's forecast: a channel for each weather, a state for each eigenvalue of P. */
Scan scan_weather(void)
{
    static const float A[4] = {0.0f, -0.916290732f, 0.0f, -0.916290732f}; /* log 1, log 0.4 */
    static const float x_start[4] = {2.0f / 3, -1.0f / 6, 1.0f / 3, 1.0f / 6};
    static const float delta[] = {0, 0, 1, 1, 1, 1, 1, 1, 1, 1}; /* day 0 takes no time */
    static const float u[2 * WEATHER_DAYS] = {0}, ones[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    Scan scan = scan_new(1, WEATHER_DAYS, 2, 2, u, delta, A, ones, ones);
    scan.x_start = x_start;
    return scan;
}

static bool demo_thread(const Show *show, Error *error)
{
    float y[2 * WEATHER_DAYS];
    Scan scan = scan_weather();
    (void)show, (void)error;
    selective_scan(y, NULL, &scan);
    prose("The thread: chapter 1's forecast as a selective scan in which nothing is selected. "
          "Delta = one day, A = (log 1, log 0.4), a channel for each weather\n");
    print_weather(y, WEATHER_DAYS);
    return true;
}

/* ===================================== Options and main ===================================== */

int selective_main(int argc, char **argv)
{
    enum { DEMOS = 7 };
    static Demo *const demos[DEMOS] = {demo_story, demo_fillers,  demo_copying, demo_theorem,
                                       demo_trace, demo_division, demo_thread};
    const char *story = NULL, *cues = NULL, *svg = NULL;
    double step = 0.0; /* not given */
    uint64_t seed = 1;
    int demo = -1; /* all of them */
    bool brief = false, ascii = false;
    const Option table[] = {
        /* the words before the help: "!demo": not with --demo; "story cues": only with one of them;
           "mode": one at a time; "- demo:trace": without a mode, or with --demo trace (tools.h) */
        {"story", "FILE", OPTION_TEXT, 0, 0, &story, "!demo",
         "a story of your own, any text, word by word; - is stdin"},
        {"cues", "FILE", OPTION_TEXT, 0, 0, &cues, "!demo",
         "the words that open a context, as in data/cues.txt"},
        {"step", "DELTA", OPTION_NUMBER, 1e-6, 100, &step, "!demo",
         "a story; the step of the system that cannot choose (default 0.1)"},
        {"brief", NULL, OPTION_SWITCH, 0, 0, &brief, "!demo",
         "a story; a line for all words in a row that move nothing"},
        {"demo", "story|fillers|copying|theorem|trace|division|thread", OPTION_CHOICE, 0, 0, &demo,
         "mode", "one demo; all but theorem, division and thread have a figure for --svg"},
        {"seed", "S", OPTION_WHOLE, 0, WHOLE_MOST, &seed,
         "- demo:fillers demo:copying demo:theorem !story !cues !step !brief",
         "of what is random in a demo (default 1)"},
        {"svg", "FILE", OPTION_OUT, 0, 0, &svg,
         "story cues step brief demo:story demo:fillers demo:copying demo:trace",
         "write the figure as SVG"},
        {"ascii", NULL, OPTION_SWITCH, 0, 0, &ascii,
         "- demo:story demo:fillers demo:copying demo:trace", "draw without Unicode"},
    };
    const Program program = {"ch04_selective",
                             "Selection and the scan (chapter 4). Without options: the lesson's "
                             "demos in order.",
                             table, sizeof table / sizeof *table};
    int status;
    if (!program_begin(&status, &program, argc, argv))
        return status;
    Error error;
    const Show show = {look_at_terminal(ascii), svg, seed};
    bool ok = story || cues || brief || step > 0.0
                  ? demo_story_of(story, cues, step > 0.0 ? step : 0.1, brief, &show, &error)
                  : demos_run(demos, DEMOS, demo, &show, &error);
    return program_end(ok, &error);
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return selective_main(argc, argv);
}
#endif

#endif /* CH04_SELECTIVE */
