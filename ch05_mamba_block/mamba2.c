/* Chapter 5c. Mamba-2: one decay a head, and the scan as matrix products

   QUESTION   Chapter 4's scan takes an exponential for every channel, state and token, and cannot
              use matrix products at all. What has to be given up so that it can?
   NEW        One A a head instead of one a channel and state. Then a head's whole scan is one
              matrix, a product of the kind that attention is made of, and there are three ways to
              multiply by it: as a recurrence, as masked attention without softmax, and in chunks,
              attention inside a chunk and the state between chunks. Each forwards and backwards.
   NOT        The block round it (one projection for everything, a norm after the gate) and trained
              models. Speed: mamba2_fast.c is the chunked form for use.
   EQUATION   x_t = a_t x_{t-1} + v_t B_t      y_t = x_t C_t + D u_t     a_t = exp(Delta_t A)
              y = (L o C B^T) v + D u          L_ij = a_i a_{i-1} ... a_{j+1}  for j <= i, else 0
   LETTERS    maths    C           shape                              in the paper
              u_t      u           (batch, len, n_head, d_head)       X before it meets Delta
              v_t      head.v      (len, d_head), of one head         X: Delta_t u_t, the "values"
              s_t      scan.delta  (batch, len, n_head)               dt, before bias and softplus
              A        A           (n_head)                           A, a scalar times identity
              a_t      head.a      (len), of one head                 a_t: what a step leaves
              B_t C_t  B C         (batch, len, n_group, d_state)     B, C: the "keys", "queries"
              x_t      x           (batch, n_head, d_head, d_state)   h_t, H
              L        L           (chunk, chunk)                     L = 1SS(a)
   BUILD      cc -O2 ch05_mamba_block/mamba2.c -o mamba2 -lm && ./mamba2
   TIME       45 minutes to read, 50 to do the exercises
   SOURCES    T. Dao, A. Gu, Transformers are SSMs, arXiv 2405.21060: sections 3, 5 and 6
              A. Katharopoulos et al., Transformers are RNNs, arXiv 2006.16236
              S. Yang et al., Gated linear attention, arXiv 2312.06635: section 4 */

#ifndef CH05_MAMBA2
#define CH05_MAMBA2

#include "mamba_block.c"
#include "mamba2_pictures.c"

/* ==================================== What it is given ==================================== */
/* In NumPy, for one head; x is (d_head, d_state), v_t = Delta_t u_t is (d_head):             */
/*     x = np.exp(delta * A) * x + np.outer(v, B)                                             */
/*     y = x @ C + D * u                                                                      */
/* exp(delta * A) is one number for the whole of x. In chapter 4 it was a matrix like x.      */

/* What a scan over heads is given, as chapter 4's Scan for channels. n_group divides n_head: so
   many sets of B and C there are, each shared by n_head / n_group heads in a row. */
typedef struct {
    size_t batch, len, n_head, d_head, n_group, d_state;
    size_t chunk;            /* tokens to a chunk, 1 or more: for head_scan_chunked alone */
    const float *u;          /* (batch, len, n_head, d_head) the input */
    const float *delta;      /* (batch, len, n_head) s: the step, before bias and softplus */
    const float *delta_bias; /* (n_head), or NULL: 0 */
    const float *A;          /* (n_head) */
    const float *B, *C;      /* (batch, len, n_group, d_state) */
    const float *D;          /* (n_head), or NULL: 0 */
    const float *x_start;    /* (batch, n_head, d_head, d_state), or NULL: 0 */
    bool delta_softplus;     /* Delta is softplus(delta + delta_bias), not delta + delta_bias */
} HeadScan;

/* One head of one sequence, or some of its tokens in a row. */
typedef struct {
    size_t len, d_head, d_state;
    const float *a;     /* (len) what the step to token t leaves of the state: exp(Delta_t A) */
    const float *v;     /* (len, d_head) what token t writes: Delta_t u_t */
    const float *B, *C; /* B[t * bc_row + n] */
    size_t bc_row;
} Head;

/* Sizes that cannot be are broken promises of the caller. */
static void head_scan_assert(const HeadScan *scan)
{
    assert(scan->n_head > 0 && scan->d_head > 0 && scan->d_state > 0);
    assert(scan->n_group > 0 && scan->n_head % scan->n_group == 0);
}

/* Raw Delta of head h at a token (counted through the batch), its bias added. */
static float head_step_raw(const HeadScan *scan, size_t token, size_t h)
{
    float bias = scan->delta_bias == NULL ? 0.0f : scan->delta_bias[h];
    return scan->delta[token * scan->n_head + h] + bias;
}

static float head_step_size(const HeadScan *scan, size_t token, size_t h)
{
    float raw = head_step_raw(scan, token, h);
    return scan->delta_softplus ? softplus(raw) : raw;
}

/* Where head h of sequence b begins in B, or C, and in a state. */
static size_t head_bc_first(const HeadScan *scan, size_t b, size_t h)
{
    size_t group = h * scan->n_group / scan->n_head; /* neighbours share one */
    return (b * scan->len * scan->n_group + group) * scan->d_state;
}

static size_t head_x_first(const HeadScan *scan, size_t b, size_t h)
{
    return (b * scan->n_head + h) * scan->d_head * scan->d_state;
}

/* Head h of sequence b. Its a and v are worked out here, into a (len) and v (len, d_head): the one
   place where exp is called, once a head and token. */
static Head head_gather(float *a, float *v, const HeadScan *scan, size_t b, size_t h)
{
    size_t d_head = scan->d_head, first = head_bc_first(scan, b, h);
    for (size_t t = 0; t < scan->len; t++) {
        size_t token = b * scan->len + t;
        const float *u = scan->u + (token * scan->n_head + h) * d_head;
        float delta = head_step_size(scan, token, h);
        a[t] = expf(delta * scan->A[h]);
        for (size_t p = 0; p < d_head; p++)
            v[t * d_head + p] = delta * u[p];
    }
    Head head = {scan->len, d_head,          scan->d_state,   a,
                 v,         scan->B + first, scan->C + first, scan->n_group * scan->d_state};
    return head;
}

/* Tokens first .. first + len - 1 of a head. */
static Head head_piece(const Head *head, size_t first, size_t len)
{
    Head piece = *head;
    piece.len = len;
    piece.a += first;
    piece.v += first * head->d_head;
    piece.B += first * head->bc_row;
    piece.C += first * head->bc_row;
    return piece;
}

/* ================================= 1. As a recurrence ===================================== */
/* Chapter 4's scan; only, a_t does not depend on the channel nor on the state.               */

/* y (len, d_head) without the skip; x (d_head, d_state) is read and written. */
static void head_recurrence(float *y, float *x, const Head *head, size_t chunk)
{
    size_t d_head = head->d_head, d_state = head->d_state;
    (void)chunk;
    for (size_t t = 0; t < head->len; t++) {
        const float *B = head->B + t * head->bc_row, *C = head->C + t * head->bc_row;
        for (size_t p = 0; p < d_head; p++) {
            float sum = 0.0f;
            for (size_t n = 0; n < d_state; n++) {
                float *state = x + p * d_state + n;
                *state = head->a[t] * *state + head->v[t * d_head + p] * B[n];
                sum += C[n] * *state;
            }
            y[t * d_head + p] = sum;
        }
    }
}

/* ======================== 2. As masked attention without softmax ========================== */
/* Put every step into the next, as chapter 2 did for its convolution: what token j wrote, v_j */
/* B_j, is at token i still worth L_ij = a_i ... a_{j+1} of itself, and C_i reads it:          */
/*     y_i = sum over j <= i of L_ij (C_i . B_j) v_j          or  y = (L o C B^T) v            */
/* This is attention with queries C, keys B and values v, in which the softmax is replaced by  */
/* a mask that fades with distance, as fast as the tokens in between say. (o: entry by entry.) */

/* L (len, len): L[i, j] = a_i a_{i-1} ... a_{j+1}, what is left at token i of what token j wrote;
   1 on the diagonal, 0 above it, for nobody reads what is still to come.

   Exercise 5.11. Fill the mask, row by row, without an exponential and without a division. */
void decay_mask(float *L, const float *a, size_t len)
{
    for (size_t i = 0; i < len; i++)
        for (size_t j = 0; j < len; j++) {
            float *to = L + i * len + j;
            //> EX 5.11 [2 pts] [10 min] the mask of decays
            //? Which entries are 0, and which are 1 whatever a is?
            //? For the others: how does L[i, j] differ from L[i - 1, j], the entry above it?
            //? The step to token i takes a factor a[i] of everything that was written before it.
            *to = j > i ? 0.0f : 1.0f;
            if (j < i)
                *to = a[i] * L[(i - 1) * len + j];
            //< EX 5.11
        }
}

/* out (rows, cols) += left (rows, depth) right (depth, cols), as it is defined. A Strided
   (products.c) is a matrix read with any strides: strided(B, 1, row) is B transposed. */
static void add_product(float *out, Strided left, Strided right, size_t rows, size_t cols,
                        size_t depth)
{
    for (size_t i = 0; i < rows; i++)
        for (size_t k = 0; k < depth; k++)
            for (size_t j = 0; j < cols; j++)
                out[i * cols + j] +=
                    left.at[i * left.row + k * left.col] * right.at[k * right.row + j * right.col];
}

/* L and M = L o C B^T of all tokens of `head`, (len, len) each. */
static void head_matrix(float *M, float *L, const Head *head)
{
    size_t len = head->len;
    decay_mask(L, head->a, len);
    zero(M, len * len);
    add_product(M, strided(head->C, head->bc_row, 1), strided(head->B, 1, head->bc_row), len, len,
                head->d_state);
    for (size_t i = 0; i < len * len; i++)
        M[i] *= L[i];
}

/* ===================================== 3. In chunks ======================================= */
/* Masked attention costs len^2, and the recurrence has no matrix product in it. Cut the text  */
/* into chunks: inside a chunk the squares are small; from chunk to chunk only a state goes on.*/
/*     y_i = sum over j <= i in the chunk of M_ij v_j  +  a_0 ... a_i (x C_i)                  */
/* with x the state before the chunk, and a_0 its first decay. All sums are matrix products.   */

/* y (len, d_head) += what is read at each token of the state x (d_head, d_state) before them. */
static void add_read_before(float *y, const float *x, const Head *head)
{
    float left = 1.0f; /* of x, at token i: a_0 ... a_i */
    for (size_t i = 0; i < head->len; i++) {
        const float *C = head->C + i * head->bc_row;
        left *= head->a[i];
        for (size_t p = 0; p < head->d_head; p++)
            for (size_t n = 0; n < head->d_state; n++)
                y[i * head->d_head + p] += left * x[p * head->d_state + n] * C[n];
    }
}

/* The state x (d_head, d_state) moves over all tokens of `head` at once. L is their mask; `last`
   points at its last row: what is left of each token's writing after the last one.

   Exercise 5.12. What the state is after the chunk: what is left of what it was before, and what is
   left of what each token wrote. */
static void state_over_chunk(float *x, const float *L, const Head *head)
{
    size_t len = head->len, d_head = head->d_head, d_state = head->d_state;
    const float *last = L + (len - 1) * len;
    for (size_t p = 0; p < d_head; p++)
        for (size_t n = 0; n < d_state; n++) {
            //> EX 5.12 [3 pts] [20 min] the state between chunks
            //? All decays of the chunk multiplied are a[0] last[0]: last[0] begins after token 0.
            //? Token j wrote v[j, p] B[j, n]; last[j] is what the later tokens leave of it.
            //? B of token j begins at head->B + j * head->bc_row, v at head->v + j * d_head.
            float sum = head->a[0] * last[0] * x[p * d_state + n];
            for (size_t j = 0; j < len; j++)
                sum += last[j] * head->v[j * d_head + p] * head->B[j * head->bc_row + n];
            x[p * d_state + n] = sum;
            //< EX 5.12
        }
}

/* All of `head` in chunks of `chunk` tokens (the last may be shorter): y (len, d_head) without the
   skip; x (d_head, d_state) is read and written. */
static void head_chunks(float *y, float *x, const Head *head, size_t chunk)
{
    size_t most = smaller(chunk, head->len);
    float *M = NEW(float, most *most + 1), *L = NEW(float, most *most + 1);
    for (size_t first = 0; first < head->len; first += chunk) {
        Head piece = head_piece(head, first, smaller(chunk, head->len - first));
        float *y_piece = y + first * head->d_head;
        head_matrix(M, L, &piece);
        zero(y_piece, piece.len * head->d_head);
        add_product(y_piece, strided(M, piece.len, 1), strided(piece.v, head->d_head, 1), piece.len,
                    head->d_head, piece.len); /* inside the chunk */
        add_read_before(y_piece, x, &piece);  /* what came before it */
        state_over_chunk(x, L, &piece);       /* what it hands on */
    }
    free(M);
    free(L);
}

/* =================================== The whole scan ======================================= */

/* One of the ways above through one head. */
typedef void HeadWay(float *y, float *x, const Head *head, size_t chunk);

/* Every head of every sequence, by one way: y of the shape of u, x_last of that of x_start, or
   NULL; it may be the array that x_start points to. y may not overlap an input. */
static void head_scan_by(float *y, float *x_last, const HeadScan *scan, HeadWay *way, size_t chunk)
{
    size_t len = scan->len, d_head = scan->d_head, states = d_head * scan->d_state;
    head_scan_assert(scan);
    float *a = NEW(float, len + 2 * len * d_head + states), *v = a + len,
          *y_head = v + len * d_head;
    float *x = y_head + len * d_head;
    for (size_t b = 0; b < scan->batch; b++)
        for (size_t h = 0; h < scan->n_head; h++) {
            Head head = head_gather(a, v, scan, b, h);
            for (size_t i = 0; i < states; i++)
                x[i] = scan->x_start == NULL ? 0.0f : scan->x_start[head_x_first(scan, b, h) + i];
            way(y_head, x, &head, chunk);
            for (size_t t = 0; t < len; t++)
                for (size_t p = 0; p < d_head; p++) {
                    size_t at = ((b * len + t) * scan->n_head + h) * d_head + p;
                    float skip = scan->D == NULL ? 0.0f : scan->D[h] * scan->u[at];
                    y[at] = y_head[t * d_head + p] + skip;
                }
            if (x_last != NULL)
                memcpy(x_last + head_x_first(scan, b, h), x, states * sizeof(float));
        }
    free(a);
}

/* The recurrence: 3 d_head d_state multiplications a token, one token after the other. */
void head_scan(float *y, float *x_last, const HeadScan *scan)
{
    head_scan_by(y, x_last, scan, head_recurrence, 0);
}

/* Masked attention is one chunk as long as the text: about len (d_head + d_state) / 2
   multiplications a token, all tokens at once. */
void head_scan_masked(float *y, float *x_last, const HeadScan *scan)
{
    head_scan_by(y, x_last, scan, head_chunks, scan->len > 0 ? scan->len : 1);
}

/* Chunks: about chunk (d_head + d_state) / 2 + 2 d_head d_state, nearly all in matrix products. */
void head_scan_chunked(float *y, float *x_last, const HeadScan *scan)
{
    assert(scan->chunk > 0);
    head_scan_by(y, x_last, scan, head_chunks, scan->chunk);
}

/* ======================================= Backwards ======================================== */
/* The same three ways. One head takes gradients of y and of its last state, and gives those  */
/* of v, B, C, of the state it began with, and of l_t = Delta_t A = log a_t.                  */

/* The gradients of what a Head has: of a piece of it, or of all. */
typedef struct {
    float *l;     /* (len) dL/d log a_t */
    float *v;     /* (len, d_head) */
    float *B, *C; /* (len, d_state), of this head alone */
    float *x;     /* (d_head, d_state): of the last state, and at the end of the first */
} HeadBack;

typedef void HeadBackWay(const HeadBack *back, const float *y_grad, const float *x_start,
                         const Head *head, size_t chunk);

/* Chapter 4's backward pass, token by token. It keeps every state, len d_head d_state numbers;
   chapter 4 shows how to keep fewer, and chunks will. */
static void head_recurrence_backward(const HeadBack *back, const float *y_grad,
                                     const float *x_start, const Head *head, size_t chunk)
{
    size_t d_head = head->d_head, d_state = head->d_state, states = d_head * d_state;
    float *x = NEW(float, (head->len + 1) * states), *y = NEW(float, d_head);
    (void)chunk;
    memcpy(x, x_start, states * sizeof(float));
    for (size_t t = 0; t < head->len; t++) { /* forwards once more: x[t + 1] is x_t */
        Head one = head_piece(head, t, 1);
        memcpy(x + (t + 1) * states, x + t * states, states * sizeof(float));
        head_recurrence(y, x + (t + 1) * states, &one, 0);
    }
    zero(back->l, head->len);
    zero(back->v, head->len * d_head);
    zero(back->B, head->len * d_state);
    zero(back->C, head->len * d_state);
    for (size_t t = head->len; t-- > 0;) {
        const float *B = head->B + t * head->bc_row, *C = head->C + t * head->bc_row;
        for (size_t p = 0; p < d_head; p++)
            for (size_t n = 0; n < d_state; n++) {
                size_t at = p * d_state + n, tp = t * d_head + p, tn = t * d_state + n;
                /* x_t is read by y_t and by x_{t+1} = a_{t+1} x_t + ... */
                float x_grad = back->x[at] + y_grad[tp] * C[n];
                back->C[tn] += y_grad[tp] * x[(t + 1) * states + at];
                back->B[tn] += x_grad * head->v[tp];
                back->v[tp] += x_grad * B[n];
                back->l[t] += x_grad * head->a[t] * x[t * states + at];
                back->x[at] = x_grad * head->a[t];
            }
    }
    free(x);
    free(y);
}

/* The gradients of l = log a (len), without a derivative of the mask. `passed` is a ledger of all
   that reaches the loss: (len + 1, len + 1), a row for who reads it and a column for who wrote it.
   Row i is what token i reads, the last row what is handed on after the chunk; column 0 is what the
   state before the chunk brought, column j + 1 what token j wrote. Each entry has been scaled by
   the a of every step that it passes, once; so dL/d log a_t is the sum of the entries that pass
   over step t: written before it, which is columns 0 .. t, and read at it or after it, which is
   rows t .. len.

   Exercise 5.13. Add them up, len^2 additions for all t together, and no subtraction. */
static void decays_backward(float *l_grad, const float *passed, size_t len)
{
    zero(l_grad, len);
    for (size_t i = 0; i <= len; i++) {
        const float *row = passed + i * (len + 1);
        //> EX 5.13 [3 pts] [20 min] the gradients of the decays
        //? Which steps does row[0], read at token i, pass over? And row[1], which token 0 wrote?
        //? Go along the row: over step t goes all of it up to row[t], a running sum.
        //? Nothing that token i reads passes over a step after i; the last row stops at len - 1.
        float passing = 0.0f;
        for (size_t t = 0; t < len && t <= i; t++) {
            passing += row[t];
            l_grad[t] += passing;
        }
        //< EX 5.13
    }
}

/* One chunk backwards. x (d_head, d_state) is the state before it. back->x comes as the gradient of
   the state after it and becomes that of x. Forwards it was, with M = L o C B^T,
       y = M v + diag(before) C x^T        state after = all x + v^T diag(last) B
   and each paragraph below is the gradient through one of the products. */
static void chunk_backward(const HeadBack *back, const float *y_grad, const float *x, float *work,
                           const Head *head)
{
    size_t len = head->len, d_head = head->d_head, d_state = head->d_state,
           states = d_head * d_state;
    float *M = work, *L = M + len * len, *M_grad = L + len * len;
    float *dy_faded = M_grad + len * len, *passed = dy_faded + len * d_head; /* as above */
    const float *last = L + (len - 1) * len;
    Strided B = strided(head->B, head->bc_row, 1), C = strided(head->C, head->bc_row, 1);
    head_matrix(M, L, head);
    zero(passed, (len + 1) * (len + 1));
    /* through the state after the chunk: dv_j = last_j dx B_j, dB_j = last_j v_j dx */
    zero(back->v, len * d_head);
    zero(back->B, len * d_state);
    add_product(back->v, B, strided(back->x, 1, d_state), len, d_head, d_state);
    add_product(back->B, strided(head->v, d_head, 1), strided(back->x, d_state, 1), len, d_state,
                d_head);
    for (size_t j = 0; j < len; j++) {
        for (size_t p = 0; p < d_head; p++) {
            back->v[j * d_head + p] *= last[j];
            passed[len * (len + 1) + j + 1] += back->v[j * d_head + p] * head->v[j * d_head + p];
        }
        for (size_t n = 0; n < d_state; n++)
            back->B[j * d_state + n] *= last[j];
    }
    /* through the state before it: dC_i = before_i dy_i x, and its own gradient */
    for (size_t i = 0; i < len; i++)
        for (size_t p = 0; p < d_head; p++) /* before_i = a_0 ... a_i = a_0 L[i, 0] */
            dy_faded[i * d_head + p] = head->a[0] * L[i * len] * y_grad[i * d_head + p];
    zero(back->C, len * d_state);
    add_product(back->C, strided(dy_faded, d_head, 1), strided(x, d_state, 1), len, d_state,
                d_head);
    for (size_t i = 0; i < len; i++)
        for (size_t n = 0; n < d_state; n++)
            passed[i * (len + 1)] += back->C[i * d_state + n] * head->C[i * head->bc_row + n];
    for (size_t i = 0; i < states; i++) {
        back->x[i] *= head->a[0] * last[0];
        passed[len * (len + 1)] += back->x[i] * x[i];
    }
    add_product(back->x, strided(dy_faded, 1, d_head), C, d_head, d_state, len);
    /* inside the chunk: dM = dy v^T; dv = M^T dy; and by L on to C B^T */
    zero(M_grad, len * len);
    add_product(M_grad, strided(y_grad, d_head, 1), strided(head->v, 1, d_head), len, len, d_head);
    for (size_t i = 0; i < len; i++)
        for (size_t j = 0; j < len; j++) {
            passed[i * (len + 1) + j + 1] = M[i * len + j] * M_grad[i * len + j];
            M_grad[i * len + j] *= L[i * len + j]; /* now dL/d(C B^T) */
        }
    add_product(back->v, strided(M, 1, len), strided(y_grad, d_head, 1), len, d_head, len);
    add_product(back->B, strided(M_grad, 1, len), C, len, d_state, len);
    add_product(back->C, strided(M_grad, len, 1), B, len, d_state, len);
    decays_backward(back->l, passed, len);
}

/* All of `head` in chunks, from the last to the first. Only the states between chunks are kept. */
static void head_chunks_backward(const HeadBack *back, const float *y_grad, const float *x_start,
                                 const Head *head, size_t chunk)
{
    size_t d_head = head->d_head, d_state = head->d_state, states = d_head * d_state;
    size_t most = smaller(chunk, head->len), chunks = (head->len + chunk - 1) / chunk;
    float *x = NEW(float, (chunks + 1) * states); /* (chunks + 1, d_head, d_state) */
    float *work = NEW(float, 3 * most * most + most * d_head + (most + 1) * (most + 1));
    memcpy(x, x_start, states * sizeof(float));
    for (size_t k = 0; k < chunks; k++) {
        Head piece = head_piece(head, k * chunk, smaller(chunk, head->len - k * chunk));
        decay_mask(work, piece.a, piece.len);
        memcpy(x + (k + 1) * states, x + k * states, states * sizeof(float));
        state_over_chunk(x + (k + 1) * states, work, &piece);
    }
    for (size_t k = chunks; k-- > 0;) {
        size_t first = k * chunk;
        Head piece = head_piece(head, first, smaller(chunk, head->len - first));
        HeadBack part = {back->l + first, back->v + first * d_head, back->B + first * d_state,
                         back->C + first * d_state, back->x};
        chunk_backward(&part, y_grad + first * d_head, x + k * states, work, &piece);
    }
    free(x);
    free(work);
}

/* Where the gradients go, each of the shape of what it is named after; NULL where one is not
   wanted. They are written, not added to. */
typedef struct {
    float *u, *delta, *delta_bias, *A, *B, *C, *D, *x_start;
} HeadGrad;

/* From one head's gradients to those of what the scan was given: v = Delta u, l = Delta A, the skip
   D u, and Delta = softplus(raw + bias). The heads of a group share B and C: they add up. */
static void head_scatter_backward(const HeadGrad *grad, const HeadBack *back, const float *y_grad,
                                  const HeadScan *scan, size_t b, size_t h)
{
    size_t d_head = scan->d_head, d_state = scan->d_state, first = head_bc_first(scan, b, h);
    for (size_t t = 0; t < scan->len; t++) {
        size_t token = b * scan->len + t, at = (token * scan->n_head + h) * d_head;
        float delta = head_step_size(scan, token, h), delta_grad = back->l[t] * scan->A[h];
        for (size_t p = 0; p < d_head; p++) {
            float v_grad = back->v[t * d_head + p];
            float skip = scan->D == NULL ? 0.0f : scan->D[h] * y_grad[t * d_head + p];
            delta_grad += v_grad * scan->u[at + p];
            grad_add(grad->u, at + p, v_grad * delta + skip);
            grad_add(grad->D, h, y_grad[t * d_head + p] * scan->u[at + p]);
        }
        grad_add(grad->A, h, back->l[t] * delta);
        if (scan->delta_softplus) /* softplus' = sigmoid */
            delta_grad *= sigmoid(head_step_raw(scan, token, h));
        grad_add(grad->delta, token * scan->n_head + h, delta_grad);
        grad_add(grad->delta_bias, h, delta_grad);
        for (size_t n = 0; n < d_state; n++) {
            size_t bc = first + t * scan->n_group * d_state + n;
            grad_add(grad->B, bc, back->B[t * d_state + n]);
            grad_add(grad->C, bc, back->C[t * d_state + n]);
        }
    }
}

/* Gradients are sums, and sums start from 0. */
static void head_grad_zero(const HeadGrad *grad, const HeadScan *scan)
{
    size_t tokens = scan->batch * scan->len, shared = tokens * scan->n_group * scan->d_state;
    zero(grad->u, tokens * scan->n_head * scan->d_head);
    zero(grad->delta, tokens * scan->n_head);
    zero(grad->delta_bias, scan->n_head);
    zero(grad->A, scan->n_head);
    zero(grad->B, shared);
    zero(grad->C, shared);
    zero(grad->D, scan->n_head);
}

/* Every head backwards, by one way. y_grad is dL/dy; x_last_grad is dL/dx_last, or NULL for 0. */
static void head_scan_backward_by(const HeadGrad *grad, const float *y_grad,
                                  const float *x_last_grad, const HeadScan *scan, HeadBackWay *way,
                                  size_t chunk)
{
    size_t len = scan->len, d_head = scan->d_head, d_state = scan->d_state;
    size_t states = d_head * d_state, wide = len * d_head;
    head_scan_assert(scan);
    float *a = NEW(float, 2 * len + 3 * wide + 2 * len * d_state + 2 * states);
    float *v = a + len, *dy = v + wide, *x_start = dy + wide, *l_grad = x_start + states;
    HeadBack back = {l_grad, l_grad + len, NULL, NULL, NULL};
    back.B = back.v + wide, back.C = back.B + len * d_state, back.x = back.C + len * d_state;
    head_grad_zero(grad, scan);
    for (size_t b = 0; b < scan->batch; b++)
        for (size_t h = 0; h < scan->n_head; h++) {
            size_t first = head_x_first(scan, b, h);
            Head head = head_gather(a, v, scan, b, h);
            for (size_t i = 0; i < wide; i++)
                dy[i] = y_grad[((b * len + i / d_head) * scan->n_head + h) * d_head + i % d_head];
            for (size_t i = 0; i < states; i++) {
                x_start[i] = scan->x_start == NULL ? 0.0f : scan->x_start[first + i];
                back.x[i] = x_last_grad == NULL ? 0.0f : x_last_grad[first + i];
            }
            way(&back, dy, x_start, &head, chunk);
            head_scatter_backward(grad, &back, dy, scan, b, h);
            for (size_t i = 0; i < states && grad->x_start != NULL; i++)
                grad->x_start[first + i] = back.x[i];
        }
    free(a);
}

void head_scan_backward(const HeadGrad *grad, const float *y_grad, const float *x_last_grad,
                        const HeadScan *scan)
{
    head_scan_backward_by(grad, y_grad, x_last_grad, scan, head_recurrence_backward, 0);
}

void head_scan_masked_backward(const HeadGrad *grad, const float *y_grad, const float *x_last_grad,
                               const HeadScan *scan)
{
    head_scan_backward_by(grad, y_grad, x_last_grad, scan, head_chunks_backward,
                          scan->len > 0 ? scan->len : 1);
}

void head_scan_chunked_backward(const HeadGrad *grad, const float *y_grad, const float *x_last_grad,
                                const HeadScan *scan)
{
    assert(scan->chunk > 0);
    head_scan_backward_by(grad, y_grad, x_last_grad, scan, head_chunks_backward, scan->chunk);
}

/* ======================================= The demos ======================================== */

/* A scan over heads of these sizes and arrays, one group; what may be left out is. */
HeadScan head_scan_new(size_t len, size_t n_head, size_t d_head, size_t d_state, const float *u,
                       const float *delta, const float *A, const float *B, const float *C)
{
    HeadScan scan;
    memset(&scan, 0, sizeof scan);
    scan.batch = scan.n_group = 1;
    scan.len = len, scan.n_head = n_head, scan.d_head = d_head, scan.d_state = d_state;
    scan.u = u, scan.delta = delta, scan.A = A, scan.B = B, scan.C = C;
    scan.chunk = len;
    return scan;
}

/* What this chapter's demos are shown with. */
typedef struct {
    Show show;                   /* first, for a demo is given a pointer to it */
    uint64_t len, chunk, states; /* of demo_matrix */
} HeadShow;

/* Four tokens, three ways: the lesson's numbers. */
static bool demo_by_hand(const Show *show, Error *error)
{
    enum { LEN = 4 };
    static const float A[1] = {-0.693147181f}; /* -log 2: a step leaves 2^-Delta */
    static const float u[LEN] = {4, 2, 1, 8}, delta[LEN] = {1, 1, 2, 1};
    static const float B[LEN] = {1, 2, 1, 1}, C[LEN] = {1, 1, 2, 1};
    float a[LEN], v[LEN], L[LEN * LEN], M[LEN * LEN], y[LEN] = {0}, x = 0.0f;
    HeadScan scan = head_scan_new(LEN, 1, 1, 1, u, delta, A, B, C);
    Head head = head_gather(a, v, &scan, 0, 0);
    puts("Four tokens of one head, one channel, one state; A = -log 2\n\n"
         "  token     u  Delta       a     v     B     C       x      y: the recurrence");
    for (size_t t = 0; t < LEN; t++) {
        Head one = head_piece(&head, t, 1);
        head_recurrence(y, &x, &one, 0);
        printf("  %5zu %5g %6g %7.4g %5g %5g %5g %7.4g %6.4g\n", t + 1, (double)u[t],
               (double)delta[t], (double)a[t], (double)v[t], (double)B[t], (double)C[t], (double)x,
               (double)y[0]);
    }
    for (size_t i = 0; i < LEN; i++)
        a[i] = (float)(round((double)a[i] * 1024.0) / 1024.0); /* 1/2 and 1/4, as they are meant */
    head_matrix(M, L, &head);
    puts("\nMasked attention: M = L o C B^T, and y = M v\n");
    print_triangles("L, the mask", L, "M", M, LEN);
    head_scan_masked(y, NULL, &scan);
    printf("\n  y = %.4g, %.4g, %.4g, %.4g\n", (double)y[0], (double)y[1], (double)y[2],
           (double)y[3]);
    Head half = head_piece(&head, 0, 2), rest = head_piece(&head, 2, 2);
    float read[2] = {0, 0}, inside[2] = {0, 0};
    x = 0.0f;
    head_chunks(inside, &x, &half, 2);
    printf("\nChunks of two: the first gives y = %.4g, %.4g and hands on x = %.4g\n",
           (double)inside[0], (double)inside[1], (double)x);
    add_read_before(read, &x, &rest);
    x = 0.0f;
    head_chunks(inside, &x, &rest, 2);
    printf("  the second reads of it %.4g, %.4g, inside itself %.4g, %.4g: y = %.4g, %.4g\n",
           (double)read[0], (double)read[1], (double)inside[0], (double)inside[1],
           (double)(read[0] + inside[0]), (double)(read[1] + inside[1]));
    (void)show, (void)error;
    return true;
}

/* The largest of |a - b|, as a share of the largest |b|. */
static double apart(const float *a, const float *b, size_t count)
{
    double worst = 0.0, most = 0.0;
    for (size_t i = 0; i < count; i++) {
        double gap = fabs((double)a[i] - (double)b[i]), size = fabs((double)b[i]);
        worst = gap > worst ? gap : worst;
        most = size > most ? size : most;
    }
    return most > 0.0 ? worst / most : worst;
}

/* The matrix of a head of random tokens that fades slowly; but the token at two fifths turns, and
   next to nothing gets past it. */
static bool demo_matrix(const Show *show, Error *error)
{
    enum { WIDE = 4 };
    const HeadShow *with = (const HeadShow *)show;
    size_t len = (size_t)with->len, states = (size_t)with->states, turn = 2 * len / 5;
    static const float A[1] = {-1.0f};
    Random random = random_from_seed(show->seed);
    float *u = random_floats(len * WIDE, &random), *B = random_floats(len * states, &random);
    float *C = random_floats(len * states, &random), *delta = NEW(float, len);
    float *a = NEW(float, len + len * WIDE), *M = NEW(float, 2 * len * len);
    float *y = NEW(float, 3 * len * WIDE), *masked = y + len * WIDE, *chunked = masked + len * WIDE;
    for (size_t t = 0; t < len; t++)
        delta[t] = len > 1 && t == turn ? 4.0f : 0.05f + 0.1f * (float)random_uniform(&random);
    HeadScan scan = head_scan_new(len, 1, WIDE, states, u, delta, A, B, C);
    scan.chunk = (size_t)with->chunk;
    Head head = head_gather(a, a + len, &scan, 0, 0);
    head_matrix(M, M + len * len, &head);
    Blocks blocks = {M, len, scan.chunk};
    prose("The matrix by which a head of %zu states multiplies %zu tokens, in chunks of %zu: row i "
          "says what is read at token i of each token before it. Token %zu has Delta = 4: it "
          "forgets\n",
          states, len, scan.chunk, turn + 1);
    blocks_print(&blocks, &show->look);
    head_scan(y, NULL, &scan);
    head_scan_masked(masked, NULL, &scan);
    head_scan_chunked(chunked, NULL, &scan);
    double worst = fmax(apart(masked, y, len * WIDE), apart(chunked, y, len * WIDE));
    printf("\nRecurrence, masked attention and chunks agree to 1e-5 of the largest y: %s.\n",
           worst <= 1e-5 ? "yes" : "no");
    bool ok = show->svg == NULL || blocks_write_svg(show->svg, &blocks, error);
    free(u), free(B), free(C), free(delta), free(a), free(M), free(y);
    return ok;
}

/* Multiplications a token and head: in all, and those that no matrix product holds. */
static double chunk_work(double *other, double chunk, double d_head, double d_state)
{
    double pairs = (chunk + 1.0) / 2.0; /* of one token with those before it and itself */
    double products = pairs * (d_state + d_head) + 2.0 * d_head * d_state;
    *other = 2.0 * pairs + 2.0 * d_state + d_head * d_state / chunk;
    return products + *other;
}

/* What one A a head costs and buys, counted. */
static bool demo_head_costs(const Show *show, Error *error)
{
    enum { CHANNELS = 1536, WIDE = 64, HEADS = CHANNELS / WIDE };
    double other;
    prose(
        "A layer of %d channels, for every token: chapter 4's scan, and %d heads of %d channels\n\n"
        "               numbers in A       exponentials      multiplications, thousands\n"
        "  d_state  Mamba-1  Mamba-2  Mamba-1  Mamba-2  Mamba-1  recurrence  chunks of 64",
        CHANNELS, HEADS, WIDE);
    for (int d_state = 16; d_state <= 256; d_state *= 2)
        printf("  %7d %8d %8d %8d %8d %8.0f %11.0f %13.0f\n", d_state, CHANNELS * d_state, HEADS,
               CHANNELS * d_state, HEADS, 4e-3 * CHANNELS * d_state, 3e-3 * CHANNELS * d_state,
               1e-3 * HEADS * chunk_work(&other, 64, WIDE, d_state));
    puts("\nA head of 64 channels and 128 states in chunks, for every token\n\n"
         "  chunk  multiplications  in matrix products  numbers of state read and written");
    for (int chunk = 1; chunk <= 4096; chunk *= 4) {
        double all = chunk_work(&other, chunk, WIDE, 128);
        printf("  %5d %16.0f %17.1f %% %34.0f\n", chunk, all, 100.0 * (all - other) / all,
               3.0 * WIDE * 128 / chunk); /* read by C; read and written as the chunk ends */
    }
    (void)show, (void)error;
    return true;
}

/* Chapter 1's forecast. P has the eigenvalues 1 and 0.4, and a head has one decay: so it takes two
   heads, one for what stays and one for what fades, where chapter 4 had two states of a channel. */
static bool demo_weather_heads(const Show *show, Error *error)
{
    enum { DAYS = 5, HEADS = 2, WIDE = 2 };              /* a channel for each weather */
    static const float A[HEADS] = {0.0f, -0.916290732f}; /* log 1, log 0.4 */
    static const float x_start[HEADS * WIDE] = {2.0f / 3, 1.0f / 3, -1.0f / 6, 1.0f / 6};
    static const float delta[DAYS * HEADS] = {0, 0, 1, 1, 1, 1, 1, 1, 1, 1}; /* day 0: no time */
    static const float u[DAYS * HEADS * WIDE] = {0}, ones[DAYS] = {1, 1, 1, 1, 1};
    float y[DAYS * HEADS * WIDE];
    (void)show, (void)error;
    HeadScan scan = head_scan_new(DAYS, HEADS, WIDE, 1, u, delta, A, ones, ones);
    scan.x_start = x_start;
    scan.chunk = 2;
    head_scan_chunked(y, NULL, &scan);
    prose("The thread: chapter 1's forecast by two heads of one state, in chunks of two days. "
          "A = log 1 for what stays, log 0.4 for what fades\n\n"
          "          what stays         what fades          their sum\n"
          "   day    sunny    rainy     sunny    rainy     sunny    rainy");
    for (size_t t = 0; t < DAYS; t++) {
        const float *stays = y + t * HEADS * WIDE, *fades = stays + WIDE;
        printf("  %4zu   %.4f   %.4f   %7.4f  %7.4f    %.4f   %.4f\n", t, (double)stays[0],
               (double)stays[1], (double)fades[0], (double)fades[1], (double)(stays[0] + fades[0]),
               (double)(stays[1] + fades[1]));
    }
    return true;
}

/* ==================================== Options and main ==================================== */

int mamba2_main(int argc, char **argv)
{
    enum { DEMOS = 4 };
    static Demo *const demos[DEMOS] = {demo_by_hand, demo_matrix, demo_head_costs,
                                       demo_weather_heads};
    HeadShow with = {{{false, false}, NULL, 1}, 20, 5, 4};
    int demo = -1;
    bool ascii = false;
    const Option table[] = {
        {"demo", "hand|matrix|costs|thread", OPTION_CHOICE, 0, 0, &demo, "mode",
         "one demo of the lesson; matrix has a figure for --svg"},
        {"length", "N", OPTION_WHOLE, 1, 64, &with.len, "- demo:matrix", "tokens (default 20)"},
        {"chunk", "N", OPTION_WHOLE, 1, 64, &with.chunk, "- demo:matrix",
         "tokens to a chunk (default 5)"},
        {"states", "N", OPTION_WHOLE, 1, 256, &with.states, "- demo:matrix", "d_state (default 4)"},
        {"seed", "S", OPTION_WHOLE, 0, WHOLE_MOST, &with.show.seed, "- demo:matrix",
         "of what is random (default 1)"},
        {"svg", "FILE", OPTION_OUT, 0, 0, &with.show.svg, "demo:matrix", "write the figure as SVG"},
        {"ascii", NULL, OPTION_SWITCH, 0, 0, &ascii, "- demo:matrix", "draw without Unicode"},
    };
    const Program program = {"ch05_mamba2",
                             "Mamba-2's scan (chapter 5c): a recurrence, masked attention, and "
                             "chunks. Without options: the lesson's demos in order.",
                             table, sizeof table / sizeof *table};
    int status;
    if (!program_begin(&status, &program, argc, argv))
        return status;
    Error error;
    with.show.look = look_at_terminal(ascii);
    return program_end(demos_run(demos, DEMOS, demo, &with.show, &error), &error);
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return mamba2_main(argc, argv);
}
#endif

#endif /* CH05_MAMBA2 */
