/* Mamba-2's scan for use: the chunked form on matrix products, and the recurrence in registers.

   HOLDS   head_scan_chunked and its backward pass on the tiles of products.c; head_scan with the
           state in registers; the same results as the clear ones of mamba2.c, to rounding
   FOR     who runs or trains a Mamba-2; measure_mamba2.c holds one against the other */

#ifndef CH05_MAMBA2_FAST
#define CH05_MAMBA2_FAST

#include "mamba2.c"
#include "products.c"

/* ==================================== What both need ====================================== */

enum {
    STRIDE_VECTORS = LANES == 16 ? 4 : 2, /* of channels that go through the recurrence together */
    STRIDE_STATES = 4,                    /* and states: their x stays in registers */
    STRETCH_TOKENS = 64,                  /* for so many tokens */
    HEADS_TOGETHER = 16                   /* that share one C B^T, at most */
};

static size_t whole_vectors(size_t count)
{
    return (count + LANES - 1) / LANES * LANES;
}

/* Delta and a of head h for `len` tokens from `token` on; both have room for whole vectors. */
static void head_steps(float *delta, float *a, const HeadScan *scan, size_t token, size_t len,
                       size_t h)
{
    const ExpTable table = exp_table();
    Lanes A2 = lanes_all(scan->A[h] * 1.44269504f); /* exp(Delta A) = 2^(Delta A2) */
    for (size_t t = 0; t < whole_vectors(len); t++)
        delta[t] = t < len ? head_step_raw(scan, token + t, h) : 0.0f;
    for (size_t t = 0; t < len; t += LANES) {
        Lanes step = lanes_load(delta + t);
        if (scan->delta_softplus)
            step = lanes_softplus(step, table);
        lanes_store(delta + t, step);
        lanes_store(a + t, exp2_product_any(step, A2, table));
    }
}

/* out[i] = factor in[i], from and to any address. */
INLINE void scale_into(float *out, const float *in, float factor, size_t count)
{
    for (size_t i = 0; i < count; i += LANES) {
        size_t some = smaller(count - i, LANES);
        lanes_store_some(out + i, factor * lanes_load_some(in + i, some), some);
    }
}

/* out[i] = in[i] + factor more[i]. */
INLINE void add_scaled_into(float *out, const float *in, const float *more, float factor,
                            size_t count)
{
    for (size_t i = 0; i < count; i += LANES) {
        size_t some = smaller(count - i, LANES);
        Lanes sum = lanes_load_some(in + i, some) + factor * lanes_load_some(more + i, some);
        lanes_store_some(out + i, sum, some);
    }
}

/* v (len, v_row) = Delta u of head h, from `token` on. What the next head will want is fetched
   meanwhile: tokens lie n_head d_head numbers apart, which the processor does not foresee. */
static void head_values(float *v, size_t v_row, const float *delta, const float *y,
                        const HeadScan *scan, size_t token, size_t len, size_t h)
{
    size_t d_head = scan->d_head, row = scan->n_head * d_head, at = token * row + h * d_head;
    for (size_t i = 0; i < len; i++, at += row) {
        for (size_t p = d_head; p < 2 * d_head && h + 1 < scan->n_head; p += 16) {
            __builtin_prefetch(scan->u + at + p);
            __builtin_prefetch(y + at + p, 1);
        }
        scale_into(v + i * v_row, scan->u + at, delta[i], d_head);
    }
}

/* The state that a head starts with, turned: (d_state, columns), channels beside one another. */
static void state_turn(float *out, const HeadScan *scan, size_t b, size_t h, size_t columns)
{
    const float *x = scan->x_start == NULL ? NULL : scan->x_start + head_x_first(scan, b, h);
    for (size_t p = 0; p < scan->d_head; p++)
        for (size_t n = 0; n < scan->d_state; n++)
            out[n * columns + p] = x == NULL ? 0.0f : x[p * scan->d_state + n];
}

/* And back, to its place in x_last. */
static void state_turn_back(float *x_last, const float *turned, const HeadScan *scan, size_t b,
                            size_t h, size_t columns)
{
    float *x = x_last + head_x_first(scan, b, h);
    for (size_t p = 0; p < scan->d_head; p++)
        for (size_t n = 0; n < scan->d_state; n++)
            x[p * scan->d_state + n] = turned[n * columns + p];
}

/* ================================ The recurrence, for use ================================= */

/* `vectors` vectors of channels and `states` states through len tokens: x (d_state, wide) and y
   (len, wide), to which what these states give is added. */
INLINE void stride_scan(float *y, float *x, const float *v, const float *a, const float *B,
                        const float *C, size_t bc_row, size_t wide, size_t len, const size_t states,
                        const size_t vectors)
{
    Lanes kept[STRIDE_STATES][STRIDE_VECTORS];
    for (size_t n = 0; n < states; n++)
        for (size_t k = 0; k < vectors; k++)
            kept[n][k] = lanes_load(x + n * wide + k * LANES);
    for (size_t t = 0; t < len; t++) {
        Lanes left = lanes_all(a[t]), sum[STRIDE_VECTORS], wrote[STRIDE_VECTORS];
        for (size_t k = 0; k < vectors; k++) {
            sum[k] = lanes_load(y + t * wide + k * LANES);
            wrote[k] = lanes_load(v + t * wide + k * LANES);
        }
        for (size_t n = 0; n < states; n++) {
            Lanes write = lanes_all(B[t * bc_row + n]), read = lanes_all(C[t * bc_row + n]);
            for (size_t k = 0; k < vectors; k++) {
                kept[n][k] = left * kept[n][k] + write * wrote[k];
                sum[k] += read * kept[n][k];
            }
        }
        for (size_t k = 0; k < vectors; k++)
            lanes_store(y + t * wide + k * LANES, sum[k]);
    }
    for (size_t n = 0; n < states; n++)
        for (size_t k = 0; k < vectors; k++)
            lanes_store(x + n * wide + k * LANES, kept[n][k]);
}

/* All states and channels of a head through a stretch of tokens; y (len, wide) is written. */
static void head_stretch(float *y, float *x, const float *v, const float *a, const Head *head,
                         size_t wide)
{
    zero(y, head->len * wide);
    for (size_t first = 0; first < wide;) {
        bool all = wide - first >= STRIDE_VECTORS * LANES;
        for (size_t n = 0; n < head->d_state;) {
            bool four = head->d_state - n >= STRIDE_STATES;
            const float *B = head->B + n, *C = head->C + n;
            float *x_n = x + n * wide + first;
            if (all && four)
                stride_scan(y + first, x_n, v + first, a, B, C, head->bc_row, wide, head->len,
                            STRIDE_STATES, STRIDE_VECTORS);
            else if (four)
                stride_scan(y + first, x_n, v + first, a, B, C, head->bc_row, wide, head->len,
                            STRIDE_STATES, 1);
            else
                stride_scan(y + first, x_n, v + first, a, B, C, head->bc_row, wide, head->len, 1,
                            1);
            if (all && !four) /* one state at a time goes one vector at a time */
                for (size_t k = 1; k < STRIDE_VECTORS; k++)
                    stride_scan(y + first + k * LANES, x_n + k * LANES, v + first + k * LANES, a, B,
                                C, head->bc_row, wide, head->len, 1, 1);
            n += four ? STRIDE_STATES : 1;
        }
        first += all ? STRIDE_VECTORS * LANES : LANES;
    }
}

/* Head h through a stretch of tokens from t on; x (d_state, wide) is its state, v and sum are room
   for (STRETCH_TOKENS, wide) each. */
static void head_scan_stretch(float *y, float *x, float *v, float *sum, const HeadScan *scan,
                              size_t b, size_t t, size_t h)
{
    size_t d_head = scan->d_head, wide = whole_vectors(d_head), row = scan->n_head * d_head;
    size_t len = smaller(scan->len - t, STRETCH_TOKENS), token = b * scan->len + t;
    size_t bc_row = scan->n_group * scan->d_state, bc = head_bc_first(scan, b, h) + t * bc_row;
    const float *u = scan->u + token * row + h * d_head;
    float *to = y + token * row + h * d_head, skip = scan->D == NULL ? 0.0f : scan->D[h];
    float delta[STRETCH_TOKENS], a[STRETCH_TOKENS];
    Head head = {len, d_head, scan->d_state, a, v, scan->B + bc, scan->C + bc, bc_row};
    head_steps(delta, a, scan, token, len, h);
    head_values(v, wide, delta, y, scan, token, len, h);
    head_stretch(sum, x, v, a, &head, wide);
    for (size_t i = 0; i < len; i++)
        add_scaled_into(to + i * row, sum + i * wide, u + i * row, skip, d_head);
}

/* Heads first .. first + heads - 1 of sequence b, a stretch of tokens at a time: neighbours in
   memory are then worked on one after the other. */
static void stretch_heads(float *y, float *x_last, const HeadScan *scan, size_t b, size_t first,
                          size_t heads)
{
    size_t d_head = scan->d_head, d_state = scan->d_state, wide = whole_vectors(d_head);
    float *x = NEW(float, (heads * d_state + 2 * STRETCH_TOKENS) * wide);
    float *v = x + heads * d_state * wide, *sum = v + STRETCH_TOKENS * wide;
    for (size_t k = 0; k < heads; k++)
        state_turn(x + k * d_state * wide, scan, b, first + k, wide);
    for (size_t t = 0; t < scan->len; t += STRETCH_TOKENS)
        for (size_t k = 0; k < heads; k++)
            head_scan_stretch(y, x + k * d_state * wide, v, sum, scan, b, t, first + k);
    for (size_t k = 0; k < heads && x_last != NULL; k++)
        state_turn_back(x_last, x + k * d_state * wide, scan, b, first + k, wide);
    free(x);
}

/* Some heads of one group of a sequence, from the first token to the last. */
typedef void SomeHeads(float *y, float *x_last, const HeadScan *scan, size_t b, size_t first,
                       size_t heads);

/* All heads, some at a time, over all processors. A head belongs to one thread, and each number is
   summed in one order: the bits do not depend on how many threads there are. */
static void over_heads(float *y, float *x_last, const HeadScan *scan, SomeHeads *some)
{
    head_scan_assert(scan);
    size_t group = scan->n_head / scan->n_group, sets = scan->batch * scan->n_group;
    size_t shares = sets > 0 ? sets : 1;
    size_t parts = ((size_t)threads_most() + shares - 1) / shares; /* of a group: one for each */
    size_t together = smaller((group + parts - 1) / parts, HEADS_TOGETHER);
    parts = (group + together - 1) / together;
    PARALLEL_FOR(
        schedule(static) if (sets * group * scan->len * scan->d_head * scan->d_state > 100000))
    for (size_t i = 0; i < sets * parts; i++) {
        size_t b = i / parts / scan->n_group, g = i / parts % scan->n_group;
        size_t first = i % parts * together;
        some(y, x_last, scan, b, g * group + first, smaller(group - first, together));
    }
}

/* head_scan, for use. */
void head_scan_fast(float *y, float *x_last, const HeadScan *scan)
{
    over_heads(y, x_last, scan, stretch_heads);
}

/* ================================== Chunks, for use ======================================= */
/* y = [diag(before) C | M] [x ; v]: what is read of the state before the chunk and of the     */
/* chunk itself is one product, whose rows reach down to their own token and no further.      */

/* What one thread works with: heads of one group, one chunk of all of them after the other. */
typedef struct {
    size_t heads, len, wide, deep; /* wide: channels in whole vectors; deep: d_state + len */
    float *CB;                     /* (len, len) C B^T, which the heads of a group share */
    float *left;                   /* (len, deep) [diag(before) C | M] */
    float *right;                  /* (heads, deep, d_head) [x ; v], x as (d_state, d_head) */
    float *v_faded;                /* (len, d_head) diag(last) v */
    float *delta, *a, *fade;       /* (len) in whole vectors; fade: a row of L */
} ChunkWork;

static ChunkWork chunk_work_new(const HeadScan *scan, size_t heads)
{
    size_t len = smaller(scan->chunk, scan->len), d_head = scan->d_head;
    ChunkWork work;
    memset(&work, 0, sizeof work);
    work.heads = heads, work.len = len, work.deep = scan->d_state + len;
    size_t steps = whole_vectors(len);
    work.CB = NEW(float, len *len + len * work.deep + heads * work.deep * d_head + len * d_head +
                             3 * steps + LANES);
    work.left = work.CB + len * len;
    work.right = work.left + len * work.deep;
    work.v_faded = work.right + heads * work.deep * d_head;
    work.delta = work.v_faded + len * d_head;
    work.a = work.delta + steps;
    work.fade = work.a + steps;
    return work;
}

/* out (rows, cols), + out if `add`, = left right, by the thread that calls. */
/* NOLINTNEXTLINE(readability-non-const-parameter): it is written through the struct */
static void product_here(float *out, size_t out_row, Strided left, Strided right, size_t rows,
                         size_t cols, size_t depth, bool add)
{
    Product p = {out, out_row, 1, left, right, rows, cols, depth, add};
    product_share(p, 0, rows, 0, cols);
}

/* out (rows, cols) = left (rows, deep) right (deep, cols), but row i only over its first `first` +
   i + 1 columns of left: those after it are 0, and most of them are not looked at. */
static void product_to_diagonal(float *out, size_t out_row, Strided left, Strided right,
                                size_t rows, size_t cols, size_t first)
{
    enum { STRIP = 32 }; /* rows that go as far as the last of them */
    for (size_t i = 0; i < rows; i += STRIP) {
        size_t high = smaller(rows - i, STRIP);
        product_here(out + i * out_row, out_row, strided_from(left, i, 0), right, high, cols,
                     first + i + high, false);
    }
}

/* What has faded so far is as good as gone. Left to go on, it would become a denormal number, with
   which many processors take a hundred times as long to multiply. */
#define FADED 1e-30f

static float faded(float left)
{
    return fabsf(left) < FADED ? 0.0f : left;
}

/* work->left = [diag(before) C | M], row by row: a row of L is the row above times a_i, and 1.
   work->fade ends as L's last row. Returns a_0 ... a_{len - 1}, what the chunk leaves of x. */
static float chunk_left(const ChunkWork *work, const float *C, size_t bc_row, size_t len,
                        size_t d_state)
{
    float before = 1.0f;
    zero(work->fade, whole_vectors(len));
    for (size_t i = 0; i < len; i++) {
        float *row = work->left + i * work->deep, a = work->a[i];
        const float *CB = work->CB + i * work->len;
        before = faded(before * a);
        scale_into(row, C + i * bc_row, before, d_state);
        for (size_t j = 0; j < len; j += LANES) { /* beyond i the fade is 0 */
            size_t some = smaller(len - j, LANES);
            Lanes fade = lanes_all(0.0f);
            if (j <= i) {
                fade = a * lanes_load(work->fade + j);
                fade = lanes_choose(lanes_abs(fade) < FADED, lanes_all(0.0f), fade);
                if (i - j < LANES)
                    fade[i - j] = 1.0f;
                lanes_store(work->fade + j, fade);
                fade *= lanes_load_some(CB + j, some);
            }
            lanes_store_some(row + d_state + j, fade, some);
        }
    }
    return before;
}

/* Head number k of the work, head h of the scan, through the chunk of tokens from t on. */
static void chunk_head(float *y, const ChunkWork *work, const HeadScan *scan, size_t b, size_t t,
                       size_t h, size_t k)
{
    size_t len = smaller(scan->len - t, work->len), d_head = scan->d_head;
    size_t d_state = scan->d_state, token = b * scan->len + t, row = scan->n_head * d_head;
    size_t bc_row = scan->n_group * d_state, bc = head_bc_first(scan, b, h) + t * bc_row;
    const float *u = scan->u + token * row + h * d_head;
    float *to = y + token * row + h * d_head;
    float *x = work->right + k * work->deep * d_head, *v = x + d_state * d_head;
    head_steps(work->delta, work->a, scan, token, len, h);
    float all = chunk_left(work, scan->C + bc, bc_row, len, d_state);
    head_values(v, d_head, work->delta, y, scan, token, len, h);
    for (size_t i = 0; i < len; i++)
        scale_into(work->v_faded + i * d_head, v + i * d_head, work->fade[i], d_head);
    product_to_diagonal(to, row, strided(work->left, work->deep, 1), strided(x, d_head, 1), len,
                        d_head, d_state);
    for (size_t i = 0; i < len && scan->D != NULL; i++)
        add_scaled_into(to + i * row, to + i * row, u + i * row, scan->D[h], d_head);
    scale_into(x, x, all, d_state * d_head);
    product_here(x, d_head, strided(scan->B + bc, 1, bc_row), strided(work->v_faded, d_head, 1),
                 d_state, d_head, len, true);
}

/* Heads first .. first + heads - 1 of sequence b, all of one group. */
static void chunk_heads(float *y, float *x_last, const HeadScan *scan, size_t b, size_t first,
                        size_t heads)
{
    ChunkWork work = chunk_work_new(scan, heads);
    size_t d_head = scan->d_head, d_state = scan->d_state, bc_row = scan->n_group * d_state;
    for (size_t k = 0; k < heads; k++)
        state_turn(work.right + k * work.deep * d_head, scan, b, first + k, d_head);
    for (size_t t = 0; t < scan->len; t += work.len) {
        size_t len = smaller(scan->len - t, work.len);
        size_t bc = head_bc_first(scan, b, first) + t * bc_row;
        product_here(work.CB, work.len, strided(scan->C + bc, bc_row, 1),
                     strided(scan->B + bc, 1, bc_row), len, len, d_state, false);
        for (size_t k = 0; k < heads; k++)
            chunk_head(y, &work, scan, b, t, first + k, k);
    }
    for (size_t k = 0; k < heads && x_last != NULL; k++)
        state_turn_back(x_last, work.right + k * work.deep * d_head, scan, b, first + k, d_head);
    free(work.CB);
}

/* head_scan_chunked, for use. A NaN or an infinity in a token may reach the few tokens of its tile
   before it. */
void head_scan_chunked_fast(float *y, float *x_last, const HeadScan *scan)
{
    assert(scan->chunk > 0);
    over_heads(y, x_last, scan, chunk_heads);
}

/* ================================ Chunks backwards, for use =============================== */
/* First every head by itself: the states before all chunks, from the first to the last, and   */
/* their gradients, from the last to the first. Then every chunk by itself, with all heads of   */
/* a group: what they give to B and C they share, and that is summed by one thread, in order.   */

/* What the first half keeps for the second; states are (d_head, d_state), as they always are. */
typedef struct {
    size_t chunk, chunks, states; /* states: d_head d_state */
    float *x;                     /* (batch, n_head, chunks, states) before each chunk */
    float *dx;        /* (batch, n_head, chunks + 1, states) the gradients of those, and the last */
    float *delta, *a; /* (batch, n_head, chunks, chunk) in whole vectors */
    float *A, *D, *bias; /* (batch, chunks, n_head): a chunk's part of the gradient */
    size_t steps;        /* chunk in whole vectors */
} ChunkStates;

static ChunkStates chunk_states_new(const HeadScan *scan)
{
    ChunkStates all;
    memset(&all, 0, sizeof all);
    all.chunk = smaller(scan->chunk, scan->len > 0 ? scan->len : 1);
    all.chunks = (scan->len + all.chunk - 1) / all.chunk;
    all.states = scan->d_head * scan->d_state;
    all.steps = whole_vectors(all.chunk);
    size_t heads = scan->batch * scan->n_head, pieces = heads * all.chunks;
    /* x has a state to spare: without tokens there is no chunk, but it is written all the same */
    all.x = NEW(float, (2 * pieces + heads + 1) * all.states + pieces * (2 * all.steps + 3));
    all.dx = all.x + (pieces + 1) * all.states;
    all.delta = all.dx + (pieces + heads) * all.states;
    all.a = all.delta + pieces * all.steps;
    all.A = all.a + pieces * all.steps;
    all.D = all.A + pieces;
    all.bias = all.D + pieces;
    return all;
}

/* before[i] = a_0 ... a_i and last[i] = a_{i + 1} ... a_{len - 1}; returns the product of all. */
static float chunk_fades(float *before, float *last, const float *a, size_t len)
{
    float left = 1.0f, right = 1.0f;
    for (size_t i = 0; i < len; i++)
        before[i] = left = faded(left * a[i]);
    for (size_t i = len; i-- > 0;) {
        last[i] = right;
        right = faded(right * a[i]);
    }
    return left;
}

/* The first half for head h of sequence b: all its x and dx. */
static void head_states(const ChunkStates *all, const float *y_grad, const float *x_last_grad,
                        const HeadScan *scan, size_t b, size_t h)
{
    size_t d_head = scan->d_head, d_state = scan->d_state, states = all->states;
    size_t place = b * scan->n_head + h, row = scan->n_head * d_head,
           bc_row = scan->n_group * d_state;
    float *x = all->x + place * all->chunks * states;
    float *dx = all->dx + place * (all->chunks + 1) * states;
    float *room = NEW(float, (2 + d_head) * all->steps), *before = room, *last = room + all->steps;
    float *scaled = last + all->steps;
    for (size_t i = 0; i < states; i++) {
        x[i] = scan->x_start == NULL ? 0.0f : scan->x_start[place * states + i];
        dx[all->chunks * states + i] = x_last_grad == NULL ? 0.0f : x_last_grad[place * states + i];
    }
    for (size_t k = 0; k < all->chunks; k++) {
        size_t t = k * all->chunk, len = smaller(scan->len - t, all->chunk);
        size_t token = b * scan->len + t, steps = (place * all->chunks + k) * all->steps;
        head_steps(all->delta + steps, all->a + steps, scan, token, len, h);
        if (k + 1 == all->chunks)
            break; /* nobody asks for the state after the last chunk */
        float left = chunk_fades(before, last, all->a + steps, len);
        for (size_t i = 0; i < len; i++)
            scale_into(scaled + i * d_head, scan->u + (token + i) * row + h * d_head,
                       last[i] * all->delta[steps + i], d_head);
        scale_into(x + (k + 1) * states, x + k * states, left, states);
        product_here(x + (k + 1) * states, d_state, strided(scaled, 1, d_head),
                     strided(scan->B + head_bc_first(scan, b, h) + t * bc_row, bc_row, 1), d_head,
                     d_state, len, true);
    }
    for (size_t k = all->chunks; k-- > 0;) {
        size_t t = k * all->chunk, len = smaller(scan->len - t, all->chunk);
        size_t token = b * scan->len + t, steps = (place * all->chunks + k) * all->steps;
        float left = chunk_fades(before, last, all->a + steps, len);
        for (size_t i = 0; i < len; i++)
            scale_into(scaled + i * d_head, y_grad + (token + i) * row + h * d_head, before[i],
                       d_head);
        scale_into(dx + k * states, dx + (k + 1) * states, left, states);
        product_here(dx + k * states, d_state, strided(scaled, 1, d_head),
                     strided(scan->C + head_bc_first(scan, b, h) + t * bc_row, bc_row, 1), d_head,
                     d_state, len, true);
    }
    free(room);
}

/* What one thread works with in the second half. */
typedef struct {
    float *CB, *CB_grad;        /* (len, len), the gradient a sum over the heads of the group */
    float *M, *L, *M_grad;      /* (len, len) of one head */
    float *passed;              /* (len + 1, len + 1) the ledger of decays_backward */
    float *B, *C, *B_turned;    /* (len, d_state) gradients of the group; B as (d_state, len) */
    float *C_part;              /* (len, d_state) one head's gradient of C through x */
    float *v, *scaled, *v_grad; /* (len, d_head) */
    float *turned;              /* (d_head, len) */
    float *before, *last, *l;   /* (len) products of decays; gradients of their logarithms */
} BackWork;

static BackWork back_work_new(const HeadScan *scan, size_t len)
{
    size_t square = len * len, narrow = len * scan->d_state, wide = len * scan->d_head;
    BackWork work;
    work.CB =
        NEW(float, 5 * square + (len + 1) * (len + 1) + 4 * narrow + 4 * wide + 3 * len + LANES);
    work.CB_grad = work.CB + square;
    work.M = work.CB_grad + square;
    work.L = work.M + square;
    work.M_grad = work.L + square;
    work.B = work.M_grad + square;
    work.C = work.B + narrow;
    work.B_turned = work.C + narrow;
    work.C_part = work.B_turned + narrow;
    work.v = work.C_part + narrow;
    work.scaled = work.v + wide;
    work.v_grad = work.scaled + wide;
    work.turned = work.v_grad + wide;
    work.before = work.turned + wide;
    work.last = work.before + len;
    work.l = work.last + len;
    work.passed = work.l + len;
    return work;
}

/* L and M = L o C B^T, (len, len). */
static void chunk_matrix(const BackWork *work, const float *a, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        float *L = work->L + i * len, *M = work->M + i * len;
        const float *CB = work->CB + i * len, *above = i > 0 ? L - len : L;
        zero(L, len);
        zero(M, len);
        for (size_t j = 0; j < i; j++)
            L[j] = faded(a[i] * above[j]);
        L[i] = 1.0f;
        for (size_t j = 0; j <= i; j++)
            M[j] = L[j] * CB[j];
    }
}

/* One head of a chunk through the states before and after it, x and the gradient dx: v_grad, what
   they give to B and C of the group, and their entries in the ledger. */
static void ends_backward(const BackWork *work, const float *dy, const float *x, const float *dx,
                          const float *C, float left, const HeadScan *scan, size_t len)
{
    size_t d_head = scan->d_head, d_state = scan->d_state, row = scan->n_head * d_head;
    float *handed_on = work->passed + len * (len + 1);
    for (size_t i = 0; i < len; i++)
        scale_into(work->scaled + i * d_head, dy + i * row, work->before[i], d_head);
    product_here(work->C_part, d_state, strided(work->scaled, d_head, 1), strided(x, d_state, 1),
                 len, d_state, d_head, false);
    product_here(work->turned, len, strided(dx, d_state, 1), strided(work->B_turned, len, 1),
                 d_head, len, d_state, false);
    for (size_t i = 0; i < len; i++) {
        float *to = work->C + i * d_state, *v_grad = work->v_grad + i * d_head;
        const float *from = work->C_part + i * d_state, *v = work->v + i * d_head;
        work->passed[i * (len + 1)] = dot(C + i * scan->n_group * d_state, from, d_state);
        add_scaled_into(to, to, from, 1.0f, d_state);
        for (size_t p = 0; p < d_head; p++)
            v_grad[p] = work->last[i] * work->turned[p * len + i];
        handed_on[i + 1] = dot(v, v_grad, d_head);
        scale_into(work->scaled + i * d_head, v, work->last[i], d_head);
    }
    handed_on[0] = left * dot(x, dx, d_head * d_state);
    product_here(work->B, d_state, strided(work->scaled, d_head, 1), strided(dx, d_state, 1), len,
                 d_state, d_head, true);
}

/* And through M: adds to v_grad and CB_grad, and fills the rest of the ledger. */
static void chunk_matrix_backward(const BackWork *work, const float *dy, size_t row, size_t len,
                                  size_t d_head)
{
    product_here(work->M_grad, len, strided(dy, row, 1), strided(work->v, 1, d_head), len, len,
                 d_head, false);
    for (size_t i = 0; i < len; i++) {
        const float *L = work->L + i * len, *M = work->M + i * len, *dM = work->M_grad + i * len;
        float *to = work->CB_grad + i * len, *passed = work->passed + i * (len + 1) + 1;
        for (size_t j = 0; j <= i; j++) {
            to[j] += L[j] * dM[j];
            passed[j] = M[j] * dM[j];
        }
    }
    product_here(work->v_grad, d_head, strided(work->M, 1, len), strided(dy, row, 1), len, d_head,
                 len, true);
}

/* Where a chunk of one head stands: its first token, its head, its place among the steps and among
   the parts of the gradients that are sums over chunks. */
typedef struct {
    size_t token, len, h, steps, part;
} ChunkPlace;

/* From the gradients of v and of log a to those of u, Delta and what the head has once. */
static void chunk_scatter(const HeadGrad *grad, const ChunkStates *all, const BackWork *work,
                          const float *y_grad, const HeadScan *scan, const ChunkPlace *place)
{
    size_t d_head = scan->d_head, row = scan->n_head * d_head, h = place->h;
    float A_grad = 0.0f, D_grad = 0.0f, bias_grad = 0.0f, A = scan->A[h];
    float skip = scan->D == NULL ? 0.0f : scan->D[h];
    for (size_t i = 0; i < place->len; i++) {
        size_t token = place->token + i, at = token * row + h * d_head;
        const float *v_grad = work->v_grad + i * d_head;
        float delta = all->delta[place->steps + i];
        float delta_grad = work->l[i] * A + dot(scan->u + at, v_grad, d_head);
        A_grad += work->l[i] * delta;
        D_grad += dot(y_grad + at, scan->u + at, d_head);
        if (scan->delta_softplus)
            delta_grad *= sigmoid(head_step_raw(scan, token, h));
        bias_grad += delta_grad;
        if (grad->u != NULL) {
            scale_into(grad->u + at, v_grad, delta, d_head);
            add_scaled_into(grad->u + at, grad->u + at, y_grad + at, skip, d_head);
        }
        if (grad->delta != NULL)
            grad->delta[token * scan->n_head + h] = delta_grad;
    }
    all->A[place->part] = A_grad;
    all->D[place->part] = D_grad;
    all->bias[place->part] = bias_grad;
}

/* One head of chunk k. */
static void chunk_head_backward(const HeadGrad *grad, const ChunkStates *all, const BackWork *work,
                                const float *y_grad, const HeadScan *scan, size_t b, size_t k,
                                size_t h)
{
    size_t d_head = scan->d_head, row = scan->n_head * d_head, t = k * all->chunk;
    size_t len = smaller(scan->len - t, all->chunk), token = b * scan->len + t;
    size_t head = b * scan->n_head + h, steps = (head * all->chunks + k) * all->steps;
    const float *x = all->x + (head * all->chunks + k) * all->states;
    const float *dx = all->dx + (head * (all->chunks + 1) + k + 1) * all->states; /* after it */
    const float *dy = y_grad + token * row + h * d_head;
    const float *C = scan->C + head_bc_first(scan, b, h) + t * scan->n_group * scan->d_state;
    ChunkPlace place = {token, len, h, steps, (b * all->chunks + k) * scan->n_head + h};
    for (size_t i = 0; i < len; i++)
        scale_into(work->v + i * d_head, scan->u + (token + i) * row + h * d_head,
                   all->delta[steps + i], d_head);
    float left = chunk_fades(work->before, work->last, all->a + steps, len);
    chunk_matrix(work, all->a + steps, len);
    ends_backward(work, dy, x, dx, C, left, scan, len);
    chunk_matrix_backward(work, dy, row, len, d_head);
    decays_backward(work->l, work->passed, len);
    chunk_scatter(grad, all, work, y_grad, scan, &place);
}

/* The second half for chunk k and one group: its heads in order, then what they share. */
static void chunk_group_backward(const HeadGrad *grad, const ChunkStates *all, const float *y_grad,
                                 const HeadScan *scan, size_t b, size_t k, size_t g)
{
    size_t d_state = scan->d_state, heads = scan->n_head / scan->n_group, t = k * all->chunk;
    size_t len = smaller(scan->len - t, all->chunk), bc_row = scan->n_group * d_state;
    size_t bc = head_bc_first(scan, b, g * heads) + t * bc_row;
    const float *B = scan->B + bc, *C = scan->C + bc;
    BackWork work = back_work_new(scan, len);
    product_here(work.CB, len, strided(C, bc_row, 1), strided(B, 1, bc_row), len, len, d_state,
                 false);
    for (size_t i = 0; i < len; i++)
        for (size_t n = 0; n < d_state; n++)
            work.B_turned[n * len + i] = B[i * bc_row + n];
    for (size_t h = g * heads; h < (g + 1) * heads; h++)
        chunk_head_backward(grad, all, &work, y_grad, scan, b, k, h);
    product_here(work.C, d_state, strided(work.CB_grad, len, 1), strided(B, bc_row, 1), len,
                 d_state, len, true);
    product_here(work.B, d_state, strided(work.CB_grad, 1, len), strided(C, bc_row, 1), len,
                 d_state, len, true);
    for (size_t i = 0; i < len && grad->B != NULL; i++)
        memcpy(grad->B + bc + i * bc_row, work.B + i * d_state, d_state * sizeof(float));
    for (size_t i = 0; i < len && grad->C != NULL; i++)
        memcpy(grad->C + bc + i * bc_row, work.C + i * d_state, d_state * sizeof(float));
    free(work.CB);
}

/* head_scan_chunked_backward, for use. It keeps two states a chunk and head; a chunk of d_state
   tokens or more makes them no larger than twice u. */
void head_scan_chunked_backward_fast(const HeadGrad *grad, const float *y_grad,
                                     const float *x_last_grad, const HeadScan *scan)
{
    head_scan_assert(scan);
    assert(scan->chunk > 0);
    ChunkStates all = chunk_states_new(scan);
    size_t heads = scan->batch * scan->n_head, pieces = scan->batch * all.chunks;
    bool large = heads * scan->len * all.states > 100000;
    (void)large; /* where there is no OpenMP */
    PARALLEL_FOR(schedule(static) if (large))
    for (size_t i = 0; i < heads; i++)
        head_states(&all, y_grad, x_last_grad, scan, i / scan->n_head, i % scan->n_head);
    PARALLEL_FOR(schedule(static) if (large))
    for (size_t i = 0; i < pieces * scan->n_group; i++)
        chunk_group_backward(grad, &all, y_grad, scan, i / scan->n_group / all.chunks,
                             i / scan->n_group % all.chunks, i % scan->n_group);
    zero(grad->A, scan->n_head);
    zero(grad->D, scan->n_head);
    zero(grad->delta_bias, scan->n_head);
    for (size_t i = 0; i < pieces * scan->n_head; i++) { /* the chunks' parts, in order */
        grad_add(grad->A, i % scan->n_head, all.A[i]);
        grad_add(grad->D, i % scan->n_head, all.D[i]);
        grad_add(grad->delta_bias, i % scan->n_head, all.bias[i]);
    }
    for (size_t i = 0; i < heads && grad->x_start != NULL; i++)
        memcpy(grad->x_start + i * all.states, all.dx + i * (all.chunks + 1) * all.states,
               all.states * sizeof(float));
    free(all.x);
}

#endif /* CH05_MAMBA2_FAST */
