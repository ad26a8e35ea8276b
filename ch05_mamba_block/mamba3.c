/* Chapter 5d. Mamba-3: a state that turns, and a better rule for the step

   QUESTION   Was the number of ones so far even or odd? One bit to remember, and neither Mamba nor
              Mamba-2 can count so, however long they learn. What is it that they cannot do?
   NEW        A state that turns: pairs of states, rotated at every token by an angle that the token
              chooses. And the trapezoidal rule: what is written is a mean of this token and the one
              before it, weighted as the token says. Every gradient, by hand.
   NOT        The layer round it, and training: mamba3_block.c. The form with several inputs and
              outputs (MIMO) is counted and not built. Speed: this is the recurrence and no more.
   EQUATION   x_t = alpha_t R_t x_{t-1} + beta_t R_t u_{t-1} B_{t-1} + gamma_t u_t B_t
              y_t = (x_t C_t + D u_t) silu(z_t)
              alpha = exp(Delta A)   beta = (1 - lambda) Delta alpha   gamma = lambda Delta
              R_t turns pair k by Delta_t theta_t[k], clockwise
   LETTERS    maths    C            shape                              in the paper
              u_t      u            (batch, len, n_head, d_head)       x_t
              x_t      state.x      (batch, n_head, d_head, d_state)   h_t
              Delta_t  delta        (batch, len, n_head)               Delta_t, dt
              A_t      A            (batch, len, n_head)               A_t: now the token's, too
              lambda_t lambda       (batch, len, n_head)               lambda_t, before its sigmoid
              theta_t  theta        (batch, len, n_angle)              theta_t, before pi tanh
              B_t C_t  B C          (batch, len, n_group, d_state)     B, C, and biases each head
              phi_t    state.angle  (batch, n_head, n_angle)           the sum of all Delta theta
   BUILD      cc -O2 ch05_mamba_block/mamba3.c -o mamba3 -lm && ./mamba3
   TIME       45 minutes to read, 35 to do the exercises
   SOURCES    A. Lahoti et al., Mamba-3, arXiv 2603.15569: section 3
              R. Grazzi et al., Unlocking state-tracking in linear RNNs through negative
              eigenvalues, arXiv 2411.12537
              J. Su et al., RoFormer, arXiv 2104.09864 (queries and keys that are turned) */

#ifndef CH05_MAMBA3
#define CH05_MAMBA3

#include "mamba2.c"

/* ===================================== A state that turns ================================== */
/* A decay between 0 and 1 can only let a state fade. What flips back and forth, or goes round  */
/* in fives, wants an eigenvalue that is negative or complex: chapter 2's oscillator had a pair */
/* of them, and it takes two real states to hold it. So states come in pairs here, and a pair   */
/* is turned: by an angle that the token chooses, half a turn for a 1 and none for a 0.         */

/* The cosine and sine of a few angles. */
typedef struct {
    const float *cosine, *sine; /* (n_angle) */
    size_t n_angle;
} Turn;

/* out (d_state) is `in` with its pairs (2k, 2k + 1) turned by angle k, from the first number
   towards the second; what is behind the last pair stays. `way` is 1, or -1 to turn back. out may
   be in.

   Exercise 5.15. Turn the pairs. */
void turn_pairs(float *out, const float *in, Turn turn, float way, size_t d_state)
{
    for (size_t n = 2 * turn.n_angle; n < d_state; n++)
        out[n] = in[n];
    for (size_t k = 0; k < turn.n_angle; k++) {
        float c = turn.cosine[k], s = way * turn.sine[k], first = in[2 * k], second = in[2 * k + 1];
        //> EX 5.15 [2 pts] [10 min] turning a pair
        //? (1, 0), turned by an angle, is (cos, sin); and (0, 1) is (-sin, cos).
        //? (first, second) is first times the one and second times the other.
        //? Both outputs need both inputs: `first` and `second` hold them, should out be in.
        out[2 * k] = c * first - s * second;
        out[2 * k + 1] = s * first + c * second;
        //< EX 5.15
    }
}

/* ================================== The rule for the step ================================== */
/* From one token to the next x' = A x + f, with f = u B, is exactly                            */
/*     x_t = exp(Delta A) x_{t-1} + integral of exp(what is left of the step, times A) f        */
/* and the integral has to be guessed from f at both ends. Mamba takes the right end alone,     */
/* Delta f_t. The trapezoid takes the mean of both, of which the left has faded by then. lambda */
/* mixes them: 1 is Mamba's rule, 1/2 the trapezoid, and each token may choose.                 */

/* How much of x_{t-1}, of what token t - 1 wrote, and of what token t writes is in x_t.

   Exercise 5.16. The three weights (Mamba-3, proposition 1). */
void trapezoid_weights(float *alpha, float *beta, float *gamma, float delta, float A, float lambda)
{
    //> EX 5.16 [2 pts] [10 min] the trapezoid
    //? alpha is what a step leaves of a state: chapter 4's A_bar.
    //? The area under f is Delta times a mean of its ends: lambda of the right one, the rest left.
    //? What stood at the left end has the whole step behind it, and has faded like a state.
    *alpha = expf(delta * A);
    *beta = (1.0f - lambda) * delta * *alpha;
    *gamma = lambda * delta;
    //< EX 5.16
}

/* ==================================== What it is given ===================================== */

/* As Mamba-2's HeadScan; what may be left out is NULL. Delta is a step, its softplus taken. */
typedef struct {
    size_t batch, len, n_head, d_head, n_group, d_state;
    size_t n_angle;      /* pairs that turn: 2 n_angle <= d_state */
    const float *u;      /* (batch, len, n_head, d_head) the input */
    const float *z;      /* the same: the gate; or NULL: y is not gated */
    const float *delta;  /* (batch, len, n_head) Delta */
    const float *A;      /* (batch, len, n_head) below 0 */
    const float *lambda; /* (batch, len, n_head): lambda is sigmoid of it */
    const float *theta;  /* (batch, len, n_angle): theta is pi tanh of it, for all heads */
    const float *B, *C;  /* (batch, len, n_group, d_state) */
    const float *B_bias; /* (n_head, d_state), or NULL: 0 */
    const float *C_bias; /* the same */
    const float *D;      /* (n_head), or NULL: 0 */
} TurnScan;

/* What goes on from token to token: the state; how far it has turned; and the last token's u and
   turned B, for the trapezoid of the next step. All of it is 0 before the first token. */
typedef struct {
    float *x;     /* (batch, n_head, d_head, d_state) */
    float *angle; /* (batch, n_head, n_angle) */
    float *u, *B; /* (batch, n_head, d_head), (batch, n_head, d_state) */
} TurnState;

size_t turn_state_floats(const TurnScan *scan)
{
    size_t wide = scan->d_head * scan->d_state + scan->n_angle + scan->d_head + scan->d_state;
    return scan->batch * scan->n_head * wide;
}

/* NOLINTNEXTLINE(readability-non-const-parameter): it is written through */
TurnState turn_state_place(float *memory, const TurnScan *scan)
{
    size_t heads = scan->batch * scan->n_head;
    TurnState state = {memory, NULL, NULL, NULL};
    if (memory == NULL)
        return state;
    state.angle = state.x + heads * scan->d_head * scan->d_state;
    state.u = state.angle + heads * scan->n_angle;
    state.B = state.u + heads * scan->d_head;
    return state;
}

/* Sizes that cannot be are broken promises of the caller. */
static void turn_scan_assert(const TurnScan *scan)
{
    assert(scan->n_head > 0 && scan->d_head > 0 && scan->d_state > 0);
    assert(scan->n_group > 0 && scan->n_head % scan->n_group == 0);
    assert(2 * scan->n_angle <= scan->d_state);
}

/* ==================================== One head, prepared =================================== */
/* Turning a state is turning every channel's row of it. It is cheaper to let the state stand   */
/* still, and to turn the axes: y = x C, and x and C can be turned together without y changing. */
/* So B and C of token t are turned the other way, by phi_t: as far as the state would have     */
/* turned by then. What is left is Mamba-2's recurrence, with one term more.                    */

/* One head of one sequence. Row 0 of u and B is the token before the first one, row t + 1 is token
   t; the other arrays have a row for each token. */
typedef struct {
    size_t len, d_head, d_state, n_angle;
    float *alpha, *beta, *gamma; /* (len) */
    float *u;                    /* (len + 1, d_head) */
    float *B, *C;                /* (len + 1, d_state), (len, d_state), with bias, turned */
    float *cosine, *sine;        /* (len, n_angle) of phi_t */
} TurnHead;

/* Laid out in `memory`, or, if that is NULL, only counted: returns how many floats. */
static size_t turn_head_place(TurnHead *head, float *memory, const TurnScan *scan)
{
    size_t len = scan->len, used = 0;
    head->len = len, head->d_head = scan->d_head;
    head->d_state = scan->d_state, head->n_angle = scan->n_angle;
    head->alpha = take(memory, &used, len);
    head->beta = take(memory, &used, len);
    head->gamma = take(memory, &used, len);
    head->u = take(memory, &used, (len + 1) * scan->d_head);
    head->B = take(memory, &used, (len + 1) * scan->d_state);
    head->C = take(memory, &used, len * scan->d_state);
    head->cosine = take(memory, &used, len * scan->n_angle);
    head->sine = take(memory, &used, len * scan->n_angle);
    return used;
}

static Turn turn_at(const TurnHead *head, size_t t)
{
    Turn turn = {head->cosine + t * head->n_angle, head->sine + t * head->n_angle, head->n_angle};
    return turn;
}

/* theta, as a raw number says: between -pi and pi, so that a step of length 1 can make any turn. */
static float turn_speed(float raw)
{
    return (float)PI * tanhf(raw);
}

/* out (d_state) = in + bias, turned. */
static void turn_with_bias(float *out, const float *in, const float *bias, Turn turn,
                           size_t d_state)
{
    for (size_t n = 0; n < d_state; n++)
        out[n] = in[n] + (bias == NULL ? 0.0f : bias[n]);
    turn_pairs(out, out, turn, 1.0f, d_state);
}

/* Where the B of head h begins at a token (counted through the batch), and the C. */
static size_t turn_bc_at(const TurnScan *scan, size_t token, size_t h)
{
    size_t group = h * scan->n_group / scan->n_head;
    return (token * scan->n_group + group) * scan->d_state;
}

/* Head h of sequence b: weights, angles, and B and C turned by them. `angle` (n_angle), how far the
   state has turned, moves on to the last token. It is kept between -pi and pi: a large angle would
   have no digits left for a small turn. */
static void turn_head_gather(TurnHead *head, float *angle, const TurnScan *scan, size_t b, size_t h)
{
    size_t d_head = scan->d_head, d_state = scan->d_state, n_angle = scan->n_angle;
    for (size_t t = 0; t < scan->len; t++) {
        size_t token = b * scan->len + t, at = token * scan->n_head + h;
        size_t bc = turn_bc_at(scan, token, h), turns = t * n_angle;
        trapezoid_weights(head->alpha + t, head->beta + t, head->gamma + t, scan->delta[at],
                          scan->A[at], sigmoid(scan->lambda[at]));
        for (size_t k = 0; k < n_angle; k++) {
            angle[k] += scan->delta[at] * turn_speed(scan->theta[token * n_angle + k]);
            angle[k] = remainderf(angle[k], 2.0f * (float)PI);
            head->cosine[turns + k] = cosf(angle[k]);
            head->sine[turns + k] = sinf(angle[k]);
        }
        memcpy(head->u + (t + 1) * d_head, scan->u + at * d_head, d_head * sizeof(float));
        const float *B_bias = scan->B_bias == NULL ? NULL : scan->B_bias + h * d_state;
        const float *C_bias = scan->C_bias == NULL ? NULL : scan->C_bias + h * d_state;
        turn_with_bias(head->B + (t + 1) * d_state, scan->B + bc, B_bias, turn_at(head, t),
                       d_state);
        turn_with_bias(head->C + t * d_state, scan->C + bc, C_bias, turn_at(head, t), d_state);
    }
}

/* ==================================== The recurrence ======================================= */

/* y (len, d_head) without skip and gate. x (d_head, d_state) is the state; each token leaves the
   new one `stride` numbers further on: 0 writes over the old one, d_head d_state keeps them all.
   In NumPy, with the rows of u and B as they are numbered:
       x = alpha[t] * x + np.outer(beta[t] * u[t], B[t]) + np.outer(gamma[t] * u[t+1], B[t+1])
       y[t] = x @ C[t] */
static void turn_head_scan(float *y, float *x, size_t stride, const TurnHead *head)
{
    size_t d_head = head->d_head, d_state = head->d_state;
    for (size_t t = 0; t < head->len; t++, x += stride) {
        const float *B = head->B + t * d_state, *B_now = B + d_state, *C = head->C + t * d_state;
        const float *u = head->u + t * d_head, *u_now = u + d_head;
        float alpha = head->alpha[t];
        for (size_t p = 0; p < d_head; p++) {
            float *from = x + p * d_state, *to = from + stride;
            float before = head->beta[t] * u[p], now = head->gamma[t] * u_now[p];
            for (size_t n = 0; n < d_state; n++)
                to[n] = alpha * from[n] + before * B[n] + now * B_now[n];
            y[t * d_head + p] = dot(to, C, d_state); /* their sum, in sixteen parts */
        }
    }
}

/* Head h's part of a state: in, or out again. */
static void turn_state_move(const TurnState *state, float *x, float *angle, float *u, float *B,
                            bool out, const TurnScan *scan, size_t head)
{
    const size_t count[4] = {scan->d_head * scan->d_state, scan->n_angle, scan->d_head,
                             scan->d_state};
    float *all[4] = {state->x, state->angle, state->u, state->B}, *one[4] = {x, angle, u, B};
    for (int i = 0; i < 4; i++) {
        float *there = all[i] + head * count[i];
        memcpy(out ? there : one[i], out ? one[i] : there, count[i] * sizeof(float));
    }
}

/* The whole scan: y of the shape of u. What goes on to the next tokens is read from and written to
   `state`; with NULL the sequences begin with nothing. A step is a piece of length one. */
void turn_scan(float *y, const TurnState *state, const TurnScan *scan)
{
    size_t len = scan->len, d_head = scan->d_head, states = d_head * scan->d_state;
    turn_scan_assert(scan);
    TurnHead head;
    size_t n_head = turn_head_place(&head, NULL, scan);
    float *memory = NEW(float, n_head + states + scan->n_angle + len * d_head);
    float *x = memory + n_head, *angle = x + states, *read = angle + scan->n_angle;
    turn_head_place(&head, memory, scan);
    for (size_t b = 0; b < scan->batch; b++)
        for (size_t h = 0; h < scan->n_head; h++) {
            zero(x, states + scan->n_angle);
            if (state != NULL)
                turn_state_move(state, x, angle, head.u, head.B, false, scan, b * scan->n_head + h);
            turn_head_gather(&head, angle, scan, b, h);
            turn_head_scan(read, x, 0, &head);
            for (size_t i = 0; i < len * d_head; i++) {
                size_t at = ((b * len + i / d_head) * scan->n_head + h) * d_head + i % d_head;
                float sum = read[i] + (scan->D == NULL ? 0.0f : scan->D[h] * scan->u[at]);
                y[at] = scan->z == NULL ? sum : sum * silu(scan->z[at]);
            }
            if (state != NULL)
                turn_state_move(state, x, angle, head.u + len * d_head,
                                head.B + len * scan->d_state, true, scan, b * scan->n_head + h);
        }
    free(memory);
}

/* ======================================= Backwards ========================================= */
/* Token by token from the last one. The state's gradient carries everything: what the outputs  */
/* from here on want of the state. It is one more recurrence, which fades by alpha backwards.   */

/* Where the gradients go: each of the shape of what it is of, or NULL: not wanted. */
typedef struct {
    float *u, *z, *delta, *A, *lambda, *theta, *B, *C, *B_bias, *C_bias, *D;
} TurnGrad;

/* The gradients of what a TurnHead has, with the same rows; a room for each. x (d_head, d_state) is
   that of the state; angle (len, n_angle). */
typedef struct {
    float *alpha, *beta, *gamma, *u, *B, *C, *angle, *x;
} TurnBack;

static size_t turn_back_place(TurnBack *back, float *memory, const TurnScan *scan)
{
    size_t len = scan->len, used = 0;
    back->alpha = take(memory, &used, len);
    back->beta = take(memory, &used, len);
    back->gamma = take(memory, &used, len);
    back->u = take(memory, &used, (len + 1) * scan->d_head);
    back->B = take(memory, &used, (len + 1) * scan->d_state);
    back->C = take(memory, &used, len * scan->d_state);
    back->angle = take(memory, &used, len * scan->n_angle);
    back->x = take(memory, &used, scan->d_head * scan->d_state);
    return used;
}

/* One channel's row of the state at one token, backwards: in `row` the gradient of x_t comes, and
   that of x_{t-1} goes out. `from` and `to` are that row of x_{t-1} and x_t. */
static void turn_row_backward(const TurnBack *back, float *row, float dy, const float *from,
                              const float *to, size_t t, size_t p, const TurnHead *head)
{
    size_t d_head = head->d_head, d_state = head->d_state;
    const float *B = head->B + t * d_state, *B_now = B + d_state, *C = head->C + t * d_state;
    float *B_grad = back->B + t * d_state, *B_now_grad = B_grad + d_state;
    float *C_grad = back->C + t * d_state, *u_grad = back->u + t * d_head + p;
    float alpha = head->alpha[t], beta = head->beta[t], gamma = head->gamma[t];
    float u = head->u[t * d_head + p], u_now = head->u[(t + 1) * d_head + p];
    /* y = x C */
    for (size_t n = 0; n < d_state; n++) {
        C_grad[n] += dy * to[n];
        row[n] += dy * C[n];
    }
    /* x_t = alpha x_{t-1} + beta u_{t-1} B_{t-1} + gamma u_t B_t */
    float of_before = dot(row, B, d_state), of_now = dot(row, B_now, d_state);
    back->alpha[t] += dot(row, from, d_state);
    back->beta[t] += u * of_before;
    back->gamma[t] += u_now * of_now;
    u_grad[0] += beta * of_before;
    u_grad[d_head] += gamma * of_now;
    for (size_t n = 0; n < d_state; n++) {
        B_grad[n] += beta * u * row[n];
        B_now_grad[n] += gamma * u_now * row[n];
        row[n] *= alpha;
    }
}

/* What one angle gets, of a turned pair and that pair's gradient.

   Exercise 5.17. How the loss changes as the pair turns on. */
static float turn_slope(const float pair[2], const float pair_grad[2])
{
    float slope = 0.0f;
    //> EX 5.17 [3 pts] [15 min] the gradient of an angle
    //? Where does a pair move as it turns on? At right angles to itself: a quarter of a turn ahead.
    //? (first, second), a quarter of a turn ahead, is (-second, first).
    //? The slope is how much of the gradient points that way: a product of two vectors.
    slope = pair[0] * pair_grad[1] - pair[1] * pair_grad[0];
    //< EX 5.17
    return slope;
}

/* All of a head, from y_grad (len, d_head). x (len + 1, d_head, d_state) are the states, before the
   first token and after each. Each angle is part of all later ones: a sum from the end. */
static void turn_head_backward(const TurnBack *back, const float *y_grad, const float *x,
                               const TurnHead *head)
{
    size_t d_head = head->d_head, d_state = head->d_state, states = d_head * d_state;
    for (size_t t = head->len; t-- > 0;)
        for (size_t p = 0; p < d_head; p++) {
            const float *from = x + t * states + p * d_state;
            turn_row_backward(back, back->x + p * d_state, y_grad[t * d_head + p], from,
                              from + states, t, p, head);
        }
    for (size_t t = head->len; t-- > 0;)
        for (size_t k = 0; k < head->n_angle; k++) {
            size_t at = t * d_state + 2 * k, at_B = at + d_state;
            float *slope = back->angle + t * head->n_angle + k;
            *slope =
                turn_slope(head->B + at_B, back->B + at_B) + turn_slope(head->C + at, back->C + at);
            if (t + 1 < head->len)
                *slope += slope[head->n_angle];
        }
}

/* What a turned B or C has got goes, turned back, to the one before its bias, and to the bias. */
static void turn_bias_backward(float *grad, size_t at, float *bias_grad, float *turned, Turn turn,
                               size_t h, size_t d_state)
{
    turn_pairs(turned, turned, turn, -1.0f, d_state);
    for (size_t n = 0; n < d_state; n++) {
        grad_add(grad, at + n, turned[n]);
        grad_add(bias_grad, h * d_state + n, turned[n]);
    }
}

/* From what a head was given to what the scan was given, for one token: the weights' three
   gradients become those of Delta, A and lambda; the angles' those of Delta and theta. */
static void turn_token_backward(const TurnGrad *grad, const TurnBack *back, const TurnHead *head,
                                const TurnScan *scan, size_t b, size_t t, size_t h)
{
    size_t token = b * scan->len + t, at = token * scan->n_head + h;
    float delta = scan->delta[at], lambda = sigmoid(scan->lambda[at]), alpha = head->alpha[t];
    float l_grad = alpha * (back->alpha[t] + (1.0f - lambda) * delta * back->beta[t]); /* log a */
    float delta_grad =
        scan->A[at] * l_grad + (1.0f - lambda) * alpha * back->beta[t] + lambda * back->gamma[t];
    grad_add(grad->A, at, delta * l_grad);
    grad_add(grad->lambda, at,
             lambda * (1.0f - lambda) * delta * (back->gamma[t] - alpha * back->beta[t]));
    for (size_t k = 0; k < scan->n_angle; k++) {
        float theta = turn_speed(scan->theta[token * scan->n_angle + k]), part = theta / (float)PI;
        float slope = back->angle[t * scan->n_angle + k];
        delta_grad += theta * slope;
        grad_add(grad->theta, token * scan->n_angle + k,
                 delta * slope * (float)PI * (1.0f - part * part)); /* tanh' = 1 - tanh^2 */
    }
    grad_add(grad->delta, at, delta_grad);
    for (size_t p = 0; p < scan->d_head; p++)
        grad_add(grad->u, at * scan->d_head + p, back->u[(t + 1) * scan->d_head + p]);
    size_t bc = turn_bc_at(scan, token, h), d_state = scan->d_state;
    turn_bias_backward(grad->B, bc, grad->B_bias, back->B + (t + 1) * d_state, turn_at(head, t), h,
                       d_state);
    turn_bias_backward(grad->C, bc, grad->C_bias, back->C + t * d_state, turn_at(head, t), h,
                       d_state);
}

/* out = (read + D u) silu(z), backwards: in `read` (len, d_head) what the head has read comes, and
   its gradient goes out. */
static void turn_gate_backward(float *read, const TurnGrad *grad, const float *y_grad,
                               const TurnScan *scan, size_t b, size_t h)
{
    for (size_t i = 0; i < scan->len * scan->d_head; i++) {
        size_t token = b * scan->len + i / scan->d_head;
        size_t at = (token * scan->n_head + h) * scan->d_head + i % scan->d_head;
        float D = scan->D == NULL ? 0.0f : scan->D[h], dy = y_grad[at], u = scan->u[at];
        if (scan->z != NULL) {
            grad_add(grad->z, at, dy * (read[i] + D * u) * silu_slope(scan->z[at]));
            dy *= silu(scan->z[at]);
        }
        grad_add(grad->u, at, dy * D);
        grad_add(grad->D, h, dy * u);
        read[i] = dy;
    }
}

/* Gradients are sums, and sums start from 0. */
static void turn_grad_zero(const TurnGrad *grad, const TurnScan *scan)
{
    size_t tokens = scan->batch * scan->len, heads = tokens * scan->n_head;
    size_t bc = tokens * scan->n_group * scan->d_state, bias = scan->n_head * scan->d_state;
    zero(grad->u, heads * scan->d_head);
    zero(grad->z, heads * scan->d_head);
    zero(grad->delta, heads);
    zero(grad->A, heads);
    zero(grad->lambda, heads);
    zero(grad->theta, tokens * scan->n_angle);
    zero(grad->B, bc);
    zero(grad->C, bc);
    zero(grad->B_bias, bias);
    zero(grad->C_bias, bias);
    zero(grad->D, scan->n_head);
}

/* Every gradient (written, not added to), from y_grad = dL/dy, for sequences that began with
   nothing. All states of a head are worked out once more and kept meanwhile: len + 1 of them. */
void turn_scan_backward(const TurnGrad *grad, const float *y_grad, const TurnScan *scan)
{
    size_t len = scan->len, d_head = scan->d_head, states = d_head * scan->d_state;
    TurnHead head;
    TurnBack back;
    size_t n_head = turn_head_place(&head, NULL, scan), n_back = turn_back_place(&back, NULL, scan);
    turn_scan_assert(scan);
    float *memory = NEW(float, n_head + n_back + (len + 1) * states + len * d_head + scan->n_angle);
    float *x = memory + n_head + n_back, *read = x + (len + 1) * states;
    float *angle = read + len * d_head;
    turn_head_place(&head, memory, scan);
    turn_back_place(&back, memory + n_head, scan);
    turn_grad_zero(grad, scan);
    for (size_t b = 0; b < scan->batch; b++)
        for (size_t h = 0; h < scan->n_head; h++) {
            zero(back.alpha, n_back);
            zero(angle, scan->n_angle);
            turn_head_gather(&head, angle, scan, b, h);
            turn_head_scan(read, x, states, &head);
            turn_gate_backward(read, grad, y_grad, scan, b, h);
            turn_head_backward(&back, read, x, &head);
            for (size_t t = 0; t < len; t++)
                turn_token_backward(grad, &back, &head, scan, b, t, h);
        }
    free(memory);
}

/* ======================================== The demos ======================================== */

/* A scan of one sequence, one head of two states that may turn, and nothing left but what is given:
   no skip, no gate, no bias; Mamba's rule. `all` is room for len * 6 numbers. */
static TurnScan turn_scan_plain(float *all, const float *u, const float *theta, float delta,
                                float A, size_t len)
{
    TurnScan scan;
    memset(&scan, 0, sizeof scan);
    scan.batch = scan.n_head = scan.d_head = scan.n_group = scan.n_angle = 1;
    scan.len = len, scan.d_state = 2;
    scan.u = u, scan.theta = theta;
    for (size_t t = 0; t < len; t++) {
        all[t] = delta, all[len + t] = A, all[2 * len + t] = INFINITY; /* lambda 1 */
        all[3 * len + 2 * t] = 1.0f, all[3 * len + 2 * t + 1] = 0.0f;
    }
    scan.delta = all, scan.A = all + len, scan.lambda = all + 2 * len;
    scan.B = scan.C = all + 3 * len; /* (1, 0) */
    return scan;
}

/* What to give as theta, so that a step of 1 turns by so many degrees; at most 180. */
static float raw_of_degrees(double degrees)
{
    return (float)atanh(degrees / 180.0);
}

/* Parity of four bits: the state turned before the eyes, and the same scan with B and C turned. */
static void show_parity(void)
{
    enum { LEN = 5 };
    static const float bit[LEN] = {0, 1, 0, 1, 1}, u[LEN] = {1, 0, 0, 0, 0};
    float theta[LEN], all[6 * LEN], y[LEN], x[2] = {1, 0};
    for (size_t t = 0; t < LEN; t++)
        theta[t] = raw_of_degrees(180.0 * (double)bit[t]);
    TurnScan scan = turn_scan_plain(all, u, theta, 1.0f, 0.0f, LEN);
    turn_scan(y, NULL, &scan);
    puts("Is the number of ones odd? The first token writes (1, 0), a 1 turns it by half\n\n"
         "  token   turn        state     read   by turned B and C");
    for (size_t t = 0; t < LEN; t++) {
        float angle = (float)PI * bit[t], cosine = cosf(angle), sine = sinf(angle);
        Turn turn = {&cosine, &sine, 1};
        turn_pairs(x, x, turn, -1.0f, 2);
        printf("  %5s %6.0f   (%2.0f, %2.0f) %8.0f %19.0f   %s\n",
               t == 0       ? "start"
               : bit[t] > 0 ? "1"
                            : "0",
               180.0 * (double)bit[t], rint((double)x[0]), rint((double)x[1]) + 0.0, (double)x[0],
               (double)y[t], x[0] < 0.0f ? "odd" : "even");
    }
}

/* A sum modulo 5: a digit d turns by d fifths of a turn, and five directions are read. */
static void show_modulo(void)
{
    enum { LEN = 4, FIVE = 5 };
    static const int digit[LEN] = {0, 3, 4, 2};
    double angle = 0.0;
    prose("\nWhat is 3 + 4 + 2 modulo 5? A digit d turns by d fifths; the largest answer counts\n\n"
          "  token    angle    read for  0      1      2      3      4");
    for (int t = 0; t < LEN; t++) {
        angle = fmod(angle + 72.0 * digit[t], 360.0);
        if (t == 0)
            printf("  start %8.0f          ", angle);
        else
            printf("  %5d %8.0f          ", digit[t], angle);
        for (int k = 0; k < FIVE; k++)
            printf(" %6.2f", cos((angle - 72.0 * k) * PI / 180.0));
        putchar('\n');
    }
}

static bool demo_turn_by_hand(const Show *show, Error *error)
{
    show_parity();
    show_modulo();
    (void)show, (void)error;
    return true;
}

/* One impulse through three heads that each leave 0.9 of a state: one lets it stand, as Mamba-2
   does; one turns it by 36 degrees, as chapter 2's oscillator did; one by half a turn. */
static bool demo_turn_impulse(const Show *show, Error *error)
{
    enum { LEN = 40, HEADS = 3 };
    static const char *const names[HEADS] = {"no turn", "36 degrees", "half a turn"};
    static const double degrees[HEADS] = {0, 36, 180};
    float u[LEN] = {1}, theta[LEN], all[6 * LEN], y[LEN];
    double at[LEN], read[HEADS][LEN];
    Chart chart = chart_new("What is left of one impulse", "token", "read");
    for (int h = 0; h < HEADS; h++) {
        for (size_t t = 0; t < LEN; t++)
            theta[t] = raw_of_degrees(degrees[h]);
        TurnScan scan = turn_scan_plain(all, u, theta, 1.0f, logf(0.9f), LEN);
        turn_scan(y, NULL, &scan);
        for (size_t t = 0; t < LEN; t++) {
            at[t] = (double)t;
            read[h][t] = (double)y[t];
        }
        chart_add(&chart, names[h], MARK_LINE, at, read[h], LEN);
    }
    return chart_show(&chart, show, error);
}

/* x' = -x + cos t from x = 0, in steps of delta up to 8: how far x is ever off. Rules 0 and 1 are
   the weights with lambda 1 and 1/2, rule 2 is chapter 3's bilinear one. */
static double step_rule_error(int rule, double delta)
{
    double x = 0.0, worst = 0.0, A = -1.0, B = 1.0, A_bar = 0.0, B_bar = 0.0;
    float alpha, beta, gamma;
    trapezoid_weights(&alpha, &beta, &gamma, (float)delta, -1.0f, rule == 0 ? 1.0f : 0.5f);
    discretize_bilinear(&A_bar, &B_bar, &A, &B, 1, 1, delta);
    for (int step = 1; step * delta <= 8.0; step++) {
        double t = step * delta, left = cos(t - delta), right = cos(t);
        x = rule == 2 ? A_bar * x + B_bar * 0.5 * (left + right)
                      : (double)alpha * x + (double)beta * left + (double)gamma * right;
        worst = fmax(worst, fabs(x - 0.5 * (cos(t) + sin(t) - exp(-t))));
    }
    return worst;
}

static bool demo_turn_rules(const Show *show, Error *error)
{
    prose("x' = -x + cos t, from 0 to 8 in steps: the largest error, and what it was with steps "
          "twice as long, divided by it\n\n"
          "   Delta   Mamba's rule          trapezoid             bilinear (chapter 3)");
    for (int halvings = 0; halvings <= 5; halvings++) {
        double delta = ldexp(1.0, -halvings);
        printf(" %7.4g", delta);
        for (int rule = 0; rule < 3; rule++) {
            double now = step_rule_error(rule, delta);
            if (halvings == 0)
                printf("   %9.5f          ", now);
            else
                printf("   %9.5f  %5.2f   ", now, step_rule_error(rule, 2.0 * delta) / now);
        }
        putchar('\n');
    }
    (void)show, (void)error;
    return true;
}

/* Weather that goes round: sunny, cloudy, rainy and sunny again; one day in five it stays as it is.
   P has the eigenvalue 1 and two complex ones, 0.2 + 0.8 e^(+-120 degrees). One head holds what
   stays, and one turns, a third of a round ahead for each weather. */
void turn_forecast(double *pi, size_t days)
{
    enum { HEADS = 2, WEATHERS = 3 };
    const double real = 0.2 + 0.8 * cos(2.0 * PI / 3.0), imaginary = 0.8 * sin(2.0 * PI / 3.0);
    float *all = NEW(float, days *(2 + 3 * HEADS + HEADS * WEATHERS + 2));
    float *delta = all, *A = delta + days * HEADS, *lambda = A + days * HEADS;
    float *theta = lambda + days * HEADS, *u = theta + days, *C = u + days * HEADS * WEATHERS;
    float *y = NEW(float, days *HEADS *WEATHERS);
    TurnScan scan = {1,     days, HEADS,  WEATHERS, 1, 2, 1,    u,    NULL,
                     delta, A,    lambda, theta,    C, C, NULL, NULL, NULL};
    for (size_t t = 0; t < days; t++) {
        delta[t * HEADS + 1] = t == 0 ? 0.0f : 1.0f; /* head 0: no time passes; day 0: nowhere */
        A[t * HEADS + 1] = (float)(0.5 * log(real * real + imaginary * imaginary));
        theta[t] = raw_of_degrees(-atan2(imaginary, real) * 180.0 / PI);
        C[2 * t] = 1.0f;
    }
    float *memory = NEW(float, turn_state_floats(&scan));
    TurnState state = turn_state_place(memory, &scan);
    for (int w = 0; w < WEATHERS; w++) { /* day 0 is sunny */
        float *stays = state.x + 2 * w, *turns = stays + 2 * WEATHERS;
        stays[0] = (float)(1.0 / 3.0);
        turns[0] = (float)(2.0 / 3.0 * cos(2.0 * PI * w / 3.0));
        turns[1] = (float)(-2.0 / 3.0 * sin(2.0 * PI * w / 3.0));
    }
    turn_scan(y, &state, &scan);
    for (size_t t = 0; t < days; t++)
        for (size_t w = 0; w < WEATHERS; w++)
            pi[t * WEATHERS + w] = (double)y[t * HEADS * WEATHERS + w] +
                                   (double)y[t * HEADS * WEATHERS + WEATHERS + w];
    free(all), free(y), free(memory);
}

static bool demo_turn_weather(const Show *show, Error *error)
{
    enum { DAYS = 8 };
    double pi[3 * DAYS];
    turn_forecast(pi, DAYS);
    prose("Weather that goes round, from a sunny day on: a head that stays and one that turns\n\n"
          "   day    sunny   cloudy    rainy");
    for (size_t t = 0; t < DAYS; t++)
        printf("  %4zu   %.4f   %.4f   %.4f\n", t, pi[3 * t], pi[3 * t + 1], pi[3 * t + 2]);
    (void)show, (void)error;
    return true;
}

/* Several inputs and outputs for one state, counted: a token of one head. */
static bool demo_turn_mimo(const Show *show, Error *error)
{
    enum { WIDE = 64, STATES = 128 };
    prose("A head of 64 channels and 128 states, one token: R inputs and outputs share a state\n\n"
          "   R  numbers of the state  u, B, C and y  bytes, 2 a number  operations  a byte");
    for (int R = 1; R <= 16; R *= 2) {
        double state = 2.0 * WIDE * STATES, other = R * 2.0 * (WIDE + STATES); /* read, written */
        double work = (double)WIDE * STATES * (1.0 + 2.0 * R + 2.0 * R); /* fade, write, read */
        printf("  %2d %21.0f %14.0f %18.0f %11.0f %7.2f\n", R, state, other, 2.0 * (state + other),
               work, work / (2.0 * (state + other)));
    }
    (void)show, (void)error;
    return true;
}

/* ==================================== Options and main ==================================== */

int mamba3_main(int argc, char **argv)
{
    enum { DEMOS = 5 };
    static Demo *const demos[DEMOS] = {demo_turn_by_hand, demo_turn_impulse, demo_turn_rules,
                                       demo_turn_weather, demo_turn_mimo};
    Show show = {{false, false}, NULL, 1};
    int demo = -1;
    bool ascii = false;
    const Option table[] = {
        {"demo", "hand|turn|rules|thread|mimo", OPTION_CHOICE, 0, 0, &demo, "mode",
         "one demo of the lesson; turn has a figure for --svg"},
        {"svg", "FILE", OPTION_OUT, 0, 0, &show.svg, "demo:turn", "write the figure as SVG"},
        {"ascii", NULL, OPTION_SWITCH, 0, 0, &ascii, "- demo:turn", "draw without Unicode"},
    };
    const Program program = {"ch05_mamba3",
                             "Mamba-3's scan (chapter 5d): a state that turns, and the trapezoid. "
                             "Without options: the lesson's demos in order.",
                             table, sizeof table / sizeof *table};
    int status;
    if (!program_begin(&status, &program, argc, argv))
        return status;
    Error error;
    show.look = look_at_terminal(ascii);
    return program_end(demos_run(demos, DEMOS, demo, &show, &error), &error);
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return mamba3_main(argc, argv);
}
#endif

#endif /* CH05_MAMBA3 */
