/* The selective scan for use: chapter 4's recurrence as fast as this machine can do it.

   HOLDS   the scan forwards and backwards over sixteen channels at a time, and over pieces of time
   FOR     chapters 5 and 6; the same results as the clear scans of selective.c, to rounding */

#ifndef CH04_FAST_SCAN
#define CH04_FAST_SCAN

#include "selective.c"
#include "vectors.h"

/* ================================== The forward pass ======================================= */
/* Sixteen neighbouring channels go through one instruction (eight or four on a smaller       */
/* machine): they share B_t and C_t and never look at each other. What costs time is exp: one */
/* for each channel, token and state.                                                         */

enum {
    STRETCH = 16,         /* tokens that are prepared together, and gone back over together */
    BLOCK_CHANNELS = 256, /* that a thread takes through a stretch in turn, vector by vector */
    BLOCK_STATES = 4096,  /* channels * d_state of a block: they stay in the nearest caches */
    BLOCK_TILES = BLOCK_CHANNELS / LANES,
    BLOCK_VECTORS = BLOCK_STATES / LANES,
    STATES_TOGETHER = 4, /* that go back over a stretch in registers */
    SCAN_MAX_STATE = 256 /* a larger d_state goes the clear way */
};

/* One tile, LANES channels from `first` on, in one sequence. */
typedef struct {
    size_t b, first, count; /* count < LANES where the channels end */
    float steepest;         /* the largest |A log2 e| of the tile */
    Lanes *A2, *x;          /* (d_state): A log2 e, so that exp(delta A) = 2^(delta A2); x */
    Lanes bias, D;
    Lanes elapsed; /* the sum of Delta over the tokens so far */
} Tile;

/* What the loops over a stretch of tokens want ready. */
typedef struct {
    size_t token, tokens; /* the first, counted through the batch, and how many */
    bool near;            /* no |Delta A2| exceeds 126: no exponential leaves the range of floats */
    bool back;            /* the slopes are wanted too */
    Lanes delta[STRETCH], drive[STRETCH];            /* Delta and Delta u */
    Lanes skip[STRETCH], gate[STRETCH];              /* D u and silu(z) */
    Lanes delta_slope[STRETCH], gate_slope[STRETCH]; /* their derivatives by raw Delta and by z */
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
    tile->bias = tile->D = tile->elapsed = zeros;
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

/* Delta, Delta u, D u and the gate of a stretch, and going back what they depend on. */
__attribute__((noinline)) static void stretch_prepare(Stretch *stretch, Tile *tile,
                                                      const Scan *scan, const ExpTable *shared)
{
    const ExpTable table = *shared;
    Lanes largest = {0}, elapsed = {0};
    for (size_t i = 0; i < stretch->tokens; i++) {
        size_t at = (stretch->token + i) * scan->d_inner + tile->first;
        Lanes u = lanes_load_some(scan->u + at, tile->count);
        Lanes delta = lanes_load_some(scan->delta + at, tile->count) + tile->bias;
        if (scan->delta_softplus) {
            Lanes raw = delta, decay = lanes_decay(raw, table);
            delta = softplus_from(raw, decay);
            if (stretch->back)
                stretch->delta_slope[i] = sigmoid_from(raw, decay);
        }
        largest = lanes_larger(largest, lanes_abs(delta));
        elapsed += delta;
        stretch->delta[i] = delta;
        stretch->drive[i] = delta * u;
        stretch->skip[i] = tile->D * u;
        if (scan->z != NULL) {
            Lanes z = lanes_load_some(scan->z + at, tile->count);
            Lanes decay = lanes_decay(z, table);
            stretch->gate[i] = z * sigmoid_from(z, decay);
            if (stretch->back)
                stretch->gate_slope[i] = silu_slope_from(z, decay);
        }
    }
    tile->elapsed += elapsed;
    stretch->near = lanes_are(largest * tile->steepest <= 126.0f);
}

INLINE Lanes A_bar_of(Lanes delta, Lanes A2, ExpTable table, const bool near)
{
    return near ? exp2_product(delta, A2, table) : exp2_product_any(delta, A2, table);
}

/* What is fetched meanwhile: another stretch of all channels of the block, in the order in which it
   lies in memory. Tokens lie far apart there, which the processor does not foresee by itself. */
typedef struct {
    const float *array[4];  /* (batch, len, d_inner) each */
    size_t at, to_next_row; /* where it is in all of them, and from a row's end to the next one */
    size_t tile, tiles;
} Ahead;

/* For a block in the stretch that begins at `token`. What is not there (NULL) is u once more. */
static Ahead ahead_of(const float *const array[4], size_t token, const Tile *tile, size_t tiles,
                      const Scan *scan)
{
    Ahead ahead;
    for (size_t k = 0; k < 4; k++)
        ahead.array[k] = array[k] != NULL ? array[k] : scan->u;
    ahead.at = token * scan->d_inner + tile->first;
    ahead.to_next_row = scan->d_inner - tiles * LANES; /* may wrap; then so does the sum */
    ahead.tile = 0;
    ahead.tiles = tiles;
    return ahead;
}

/* The next vector of the first `arrays` of them. */
INLINE void ahead_fetch(Ahead *ahead, const size_t arrays)
{
    for (size_t k = 0; k < arrays; k++)
        __builtin_prefetch(ahead->array[k] + ahead->at, 0, 2);
    ahead->at += LANES;
    if (++ahead->tile == ahead->tiles) {
        ahead->tile = 0;
        ahead->at += ahead->to_next_row;
    }
}

/* The loop that all the time is spent in. With y NULL only the state moves. */
INLINE void stretch_loop(float *y, const Tile *tile, const Stretch *stretch, const Scan *scan,
                         Ahead *fetch, ExpTable table, const bool near, const bool reads)
{
    Ahead ahead = *fetch;
    size_t d_state = scan->d_state;
    const Lanes *A2 = tile->A2;
    Lanes *x = tile->x;
    for (size_t i = 0; i < stretch->tokens; i++) {
        size_t token = stretch->token + i, at = token * scan->d_inner + tile->first, n = 0;
        const float *B = scan->B + token * d_state, *C = scan->C + token * d_state;
        Lanes delta = stretch->delta[i], drive = stretch->drive[i];
        Lanes y_even = stretch->skip[i], y_odd = {0};
        ahead_fetch(&ahead, 4);
        for (; n + 1 < d_state; n += 2) { /* two sums, so that one need not wait for the other */
            Lanes even = A_bar_of(delta, A2[n], table, near);
            Lanes odd = A_bar_of(delta, A2[n + 1], table, near);
            x[n] = lanes_multiply_add(even, x[n], drive * B[n]);
            x[n + 1] = lanes_multiply_add(odd, x[n + 1], drive * B[n + 1]);
            if (reads) {
                y_even = lanes_scale_add(x[n], C[n], y_even);
                y_odd = lanes_scale_add(x[n + 1], C[n + 1], y_odd);
            }
        }
        if (n < d_state) {
            x[n] = lanes_multiply_add(A_bar_of(delta, A2[n], table, near), x[n], drive * B[n]);
            y_even = lanes_scale_add(x[n], C[n], y_even);
        }
        if (reads)
            lanes_store_some(
                y + at, (y_even + y_odd) * (scan->z != NULL ? stretch->gate[i] : lanes_all(1.0f)),
                tile->count);
    }
    *fetch = ahead;
}

/* The loop four times over, so that what never changes in it need not be asked in it. */
static void stretch_scan(float *y, const Tile *tile, const Stretch *stretch, const Scan *scan,
                         Ahead *ahead, const ExpTable *table)
{
    if (stretch->near && y != NULL)
        stretch_loop(y, tile, stretch, scan, ahead, *table, true, true);
    else if (stretch->near)
        stretch_loop(y, tile, stretch, scan, ahead, *table, true, false);
    else if (y != NULL)
        stretch_loop(y, tile, stretch, scan, ahead, *table, false, true);
    else
        stretch_loop(y, tile, stretch, scan, ahead, *table, false, false);
}

/* How many neighbouring tiles make a block: whole sixteens of channels, the same ones on every
   machine, for what is summed over a block's channels is summed in its order. And how many blocks
   the channels make. */
static size_t block_tiles(const Scan *scan)
{
    size_t fit = BLOCK_STATES / SIXTEEN / (scan->d_state + !scan->d_state);
    return smaller(fit < 1 ? 1 : fit, BLOCK_CHANNELS / SIXTEEN) * SIXTEEN_PARTS;
}

static size_t block_count(const Scan *scan)
{
    size_t width = block_tiles(scan) * LANES;
    /* NOLINTNEXTLINE(clang-analyzer-core.UndefinedBinaryOperatorResult): sizes it lost sight of */
    return (scan->d_inner + width - 1) / width;
}

/* At most `most` tiles from channel `first` on, opened; memory for 2 d_state vectors each.
   Returns how many there are. */
static size_t block_open(Tile *tile, Lanes *memory, const Scan *scan, size_t b, size_t first,
                         size_t most)
{
    size_t tiles = 0;
    for (; tiles < most && first < scan->d_inner; first += LANES, tiles++)
        tile_open(&tile[tiles], memory + tiles * 2 * scan->d_state, scan, b, first);
    return tiles;
}

/* Tiles to a block in the forward pass: fewer where processors would stand idle. No channel's bits
   depend on it. */
static size_t forward_tiles(const Scan *scan)
{
    size_t tiles = (scan->d_inner + LANES - 1) / LANES, threads = (size_t)threads_most();
    size_t shares = scan->batch < threads ? threads / (scan->batch + !scan->batch) : 1;
    size_t fair = (tiles + shares - 1) / shares;
    return smaller(block_tiles(scan), fair < 1 ? 1 : fair);
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

/* How many floats the checkpoints of a scan take: the states before every stretch of tokens, 1/16
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
    const float *const wanted[4] = {scan->u, scan->delta, scan->z, y};
    Stretch stretch;
    stretch.back = false;
    for (size_t s = 0; s < stretch_count(scan) && tiles > 0; s++) {
        stretch_place(&stretch, scan, tile->b, s);
        size_t next = (s + 2) * STRETCH <= scan->len ? STRETCH : 0;
        Ahead ahead = ahead_of(wanted, stretch.token + next, tile, tiles, scan);
        for (size_t i = 0; i < tiles; i++) {
            if (scan->checkpoint != NULL)
                memcpy(checkpoint_of(&tile[i], s, scan), tile[i].x, scan->d_state * sizeof(Lanes));
            stretch_prepare(&stretch, &tile[i], scan, table);
            stretch_scan(y, &tile[i], &stretch, scan, &ahead, table);
        }
    }
}

INLINE bool scan_worth_sharing(const Scan *scan)
{
    return worth_sharing_each(scan->batch * scan->len * scan->d_inner * scan->d_state);
}

/* selective_scan, for use: the same to rounding (A is rounded once more, its exponentials to 2
   ulp), and the same bits for any number of threads, because a channel is one thread's alone. No
   memory is asked for. Exponentials below 1e-38 are 0. With y NULL only x_last comes out. */
void selective_scan_fast(float *y, float *x_last, const Scan *scan)
{
    if (scan->d_state > SCAN_MAX_STATE) {
        float *unread = y ? NULL : NEW(float, scan->batch * scan->len * scan->d_inner);
        selective_scan(y ? y : unread, x_last, scan);
        free(unread);
        return;
    }
    ExpTable table = exp_table();
    size_t most = forward_tiles(scan), width = most * LANES;
    PARALLEL_FOR(collapse(2) schedule(dynamic) if (scan_worth_sharing(scan)))
    for (size_t b = 0; b < scan->batch; b++)
        for (size_t first = 0; first < scan->d_inner; first += width) {
            Lanes memory[2 * BLOCK_VECTORS];
            Tile tile[BLOCK_TILES];
            size_t tiles = block_open(tile, memory, scan, b, first, most);
            scan_block(y, tile, tiles, scan, &table);
            for (size_t i = 0; i < tiles && x_last != NULL; i++)
                tile_states(x_last, tile[i].x, &tile[i], scan);
        }
}

/* ================================== The backward pass ====================================== */

/* What a tile works on in a stretch, going back. */
typedef struct {
    Stretch forward;
    Lanes y_ungated[STRETCH]; /* y before the gate */
    Lanes y_grad[STRETCH];    /* dL/dy before the gate */
    Lanes from_B[STRETCH];    /* the sum of dL/dx B over the states */
    Lanes from_A[STRETCH];    /* the sum of dL/dA_bar A_bar A2 */
    Lanes D_grad, bias_grad;  /* summed over all tokens, two stretches at a time: */
    Lanes late_y_grad[STRETCH], late_delta_grad[STRETCH]; /* what the second of two leaves */
    size_t late;                                          /* how many tokens that is */
} BackTile;

/* What one block works on besides its tiles. */
typedef struct {
    BackTile *tile;         /* (tiles) */
    Lanes *x_grad, *A_grad; /* (tiles, d_state) */
    float *B_sum, *C_sum;   /* (len, d_state) what this block adds to the gradients */
} BackBlock;

/* A few states of one stretch: all that the innermost loops touch again and again. B_grad and
   C_grad are summed over the channels of the block, sixteen sums side by side. */
typedef struct {
    size_t n, count; /* states n .. n + count - 1 */
    struct {
        Lanes x, A_bar; /* x before the token, and what takes it on */
        Sixteen B_grad, C_grad;
    } at[STRETCH + 1][STATES_TOGETHER];
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
                          Ahead *ahead, const Scan *scan, const size_t count, ExpTable table,
                          const bool near)
{
    const Stretch *stretch = &back->forward;
    size_t first = stretch->token * scan->d_state + states->n;
    Lanes x[STATES_TOGETHER];
    for (size_t k = 0; k < count; k++)
        states->at[0][k].x = x[k] = lanes_load(before + (states->n + k) * LANES);
    for (size_t i = 0; i < stretch->tokens; i++) {
        const float *B = scan->B + first + i * scan->d_state;
        const float *C = scan->C + first + i * scan->d_state;
        Lanes delta = stretch->delta[i], drive = stretch->drive[i], y = back->y_ungated[i];
        ahead_fetch(ahead, 2);
        for (size_t k = 0; k < count; k++) {
            Lanes A_bar = A_bar_of(delta, A2[states->n + k], table, near);
            states->at[i][k].A_bar = A_bar;
            x[k] = lanes_multiply_add(A_bar, x[k], drive * B[k]);
            states->at[i + 1][k].x = x[k];
            y = lanes_scale_add(x[k], C[k], y);
        }
        back->y_ungated[i] = y;
    }
}

/* And backwards: channel_step_backward, line by line. x_grads is what came through the tokens
   after the stretch, and leaves as what goes on to those before it. */
INLINE void states_backward(BackStates *states, BackTile *back, Lanes *x_grads, Lanes *A_grads,
                            const Tile *tile, const Scan *scan, const size_t count)
{
    const Stretch *stretch = &back->forward;
    const Lanes *A2 = tile->A2;
    size_t first = stretch->token * scan->d_state + states->n;
    size_t part = tile->first % SIXTEEN / LANES;
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
            Lanes x_grad = lanes_scale_add(y_grad, C[k], later[k]);
            Lanes *C_grad = &states->at[i][k].C_grad.part[part];
            Lanes *B_grad = &states->at[i][k].B_grad.part[part];
            *C_grad = lanes_multiply_add(y_grad, states->at[i + 1][k].x, *C_grad);
            *B_grad = lanes_multiply_add(x_grad, drive, *B_grad);
            from_B = lanes_scale_add(x_grad, B[k], from_B);
            later[k] = x_grad * states->at[i][k].A_bar;
            Lanes through_A = later[k] * states->at[i][k].x;
            from_A = lanes_multiply_add(through_A, A2[states->n + k], from_A);
            A_grad[k] = lanes_multiply_add(through_A, delta, A_grad[k]);
        }
        back->from_A[i] = from_A;
        back->from_B[i] = from_B;
    }
    for (size_t k = 0; k < count; k++) {
        x_grads[states->n + k] = later[k];
        A_grads[states->n + k] = A_grad[k];
    }
}

/* The states of `states` in every tile of the block, in stretch s. */
INLINE void states_run(BackStates *states, BackBlock *back, const Tile *tile, size_t tiles,
                       size_t s, Ahead *ahead, const Scan *scan, const size_t count, ExpTable table)
{
    for (size_t i = 0; i < STRETCH; i++)
        for (size_t k = 0; k < count; k++)
            states->at[i][k].B_grad = states->at[i][k].C_grad = sixteen_zero();
    for (size_t i = 0; i < tiles; i++) {
        size_t at = i * scan->d_state;
        BackTile *one = &back->tile[i];
        const float *before = checkpoint_of(&tile[i], s, scan);
        if (one->forward.near)
            states_replay(states, one, before, tile[i].A2, ahead, scan, count, table, true);
        else
            states_replay(states, one, before, tile[i].A2, ahead, scan, count, table, false);
        states_backward(states, one, back->x_grad + at, back->A_grad + at, &tile[i], scan, count);
    }
}

/* The sixteen sums of B_grad and C_grad, added up; t is the first token in its sequence. */
static void states_sum(BackBlock *back, const BackStates *states, size_t t, size_t tokens,
                       size_t d_state)
{
    for (size_t k = 0; k < states->count; k++)
        for (size_t i = 0; i < tokens; i++) {
            back->B_sum[(t + i) * d_state + states->n + k] = sixteen_sum(states->at[i][k].B_grad);
            back->C_sum[(t + i) * d_state + states->n + k] = sixteen_sum(states->at[i][k].C_grad);
        }
}

/* Before the states: dL/dy through the gate. */
static void stretch_gate_backward(BackTile *back, const float *y_grad, const Tile *tile,
                                  const Scan *scan)
{
    Lanes zeros = {0};
    for (size_t i = 0; i < back->forward.tokens; i++) {
        size_t at = (back->forward.token + i) * scan->d_inner + tile->first;
        back->y_grad[i] = lanes_load_some(y_grad + at, tile->count);
        if (scan->z != NULL)
            back->y_grad[i] *= back->forward.gate[i];
        back->y_ungated[i] = back->forward.skip[i];
        back->from_A[i] = back->from_B[i] = zeros;
    }
}

/* After them: u and delta, each reached in two ways, and z, which wanted y before the gate. */
static void stretch_inputs_backward(const ScanGrad *grad, BackTile *back, const float *y_grad,
                                    const Tile *tile, const Scan *scan)
{
    const float log_2 = 0.693147181f;
    const Stretch *forward = &back->forward;
    for (size_t i = 0; i < forward->tokens; i++) {
        size_t at = (forward->token + i) * scan->d_inner + tile->first;
        Lanes u = lanes_load_some(scan->u + at, tile->count), from_B = back->from_B[i];
        Lanes delta_grad = lanes_multiply_add(u, from_B, log_2 * back->from_A[i]);
        if (scan->delta_softplus)
            delta_grad *= forward->delta_slope[i];
        back->from_A[i] = delta_grad; /* for the sums */
        if (grad->u != NULL)
            lanes_store_some(
                grad->u + at,
                lanes_multiply_add(forward->delta[i], from_B, back->y_grad[i] * tile->D),
                tile->count);
        if (grad->delta != NULL)
            lanes_store_some(grad->delta + at, delta_grad, tile->count);
        if (scan->z != NULL && grad->z != NULL) {
            Lanes dy = lanes_load_some(y_grad + at, tile->count);
            lanes_store_some(grad->z + at, dy * back->y_ungated[i] * forward->gate_slope[i],
                             tile->count);
        }
    }
}

/* The gradients of D and of delta's bias over some tokens. */
INLINE void tokens_sum(BackTile *back, const Lanes *y_grad, const Lanes *delta_grad, size_t token,
                       size_t tokens, const Tile *tile, const Scan *scan)
{
    Lanes D_grad = back->D_grad, bias_grad = back->bias_grad;
    for (size_t i = 0; i < tokens; i++) {
        const float *u = scan->u + (token + i) * scan->d_inner + tile->first;
        D_grad = lanes_multiply_add(y_grad[i], lanes_load_some(u, tile->count), D_grad);
        bias_grad += delta_grad[i];
    }
    back->D_grad = D_grad;
    back->bias_grad = bias_grad;
}

/* Their order is fixed, as that of any sum: pairs of stretches, the last pair first, and each from
   its first token on. The second of a pair is gone over before the first, so it leaves what it has
   to add. */
static void stretch_sum(BackTile *back, size_t s, const Tile *tile, const Scan *scan)
{
    size_t token = back->forward.token, tokens = back->forward.tokens;
    if (s % 2 == 1) {
        memcpy(back->late_y_grad, back->y_grad, tokens * sizeof(Lanes));
        memcpy(back->late_delta_grad, back->from_A, tokens * sizeof(Lanes));
        back->late = tokens;
        return;
    }
    tokens_sum(back, back->y_grad, back->from_A, token, tokens, tile, scan);
    tokens_sum(back, back->late_y_grad, back->late_delta_grad, token + tokens, back->late, tile,
               scan);
    back->late = 0;
}

/* One block from its last stretch to its first. */
static void back_block_run(const ScanGrad *grad, const float *y_grad, BackBlock *back, Tile *tile,
                           size_t tiles, const Scan *scan, const ExpTable *table)
{
    size_t d_state = scan->d_state;
    BackStates states;
    /* two arrays with every few states: what is read first, then what is written */
    const float *const wanted[4][4] = {{scan->delta, grad->delta, NULL, NULL},
                                       {scan->u, grad->u, NULL, NULL},
                                       {y_grad, grad->z, NULL, NULL},
                                       {scan->z, NULL, NULL, NULL}};
    for (size_t s = stretch_count(scan); s-- > 0;) {
        for (size_t i = 0; i < tiles; i++) {
            back->tile[i].forward.back = true;
            stretch_place(&back->tile[i].forward, scan, tile->b, s);
            stretch_prepare(&back->tile[i].forward, &tile[i], scan, table);
            stretch_gate_backward(&back->tile[i], y_grad, &tile[i], scan);
        }
        for (states.n = 0; states.n < d_state; states.n += states.count) {
            bool whole = states.n + STATES_TOGETHER <= d_state;
            states.count = whole ? STATES_TOGETHER : 1;
            size_t token = back->tile->forward.token;
            Ahead ahead = ahead_of(wanted[states.n / STATES_TOGETHER % 4],
                                   s > 0 ? token - STRETCH : token, tile, tiles, scan);
            if (whole)
                states_run(&states, back, tile, tiles, s, &ahead, scan, STATES_TOGETHER, *table);
            else
                states_run(&states, back, tile, tiles, s, &ahead, scan, 1, *table);
            states_sum(back, &states, s * STRETCH, back->tile->forward.tokens, d_state);
        }
        for (size_t i = 0; i < tiles; i++) {
            stretch_inputs_backward(grad, &back->tile[i], y_grad, &tile[i], scan);
            stretch_sum(&back->tile[i], s, &tile[i], scan);
        }
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

/* How many floats of workspace the backward pass of this scan takes, clear or fast. */
size_t selective_scan_backward_floats(const Scan *scan)
{
    size_t clear = clear_backward_floats(scan);
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
    size_t d_state = scan->d_state, most = block_tiles(scan);
    size_t tiles = block_open(tile, memory, scan, b, block * most * LANES, most);
    size_t number = b * block_count(scan) + block;
    back_block_place(&back, sums->blocks + number * back_block_vectors(scan), scan);
    for (size_t i = 0; i < tiles; i++)
        back.tile[i].D_grad = back.tile[i].bias_grad = lanes_all(0.0f), back.tile[i].late = 0;
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
   threads. The states before every stretch of 16 tokens come from scan->checkpoint, which
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
    PARALLEL_FOR(collapse(2) schedule(dynamic) if (scan_worth_sharing(scan)))
    for (size_t b = 0; b < scan->batch; b++)
        for (size_t block = 0; block < blocks; block++)
            back_block(grad, y_grad, x_last_grad, &sums, scan, b, block, &table);
    back_sums_add(grad, &sums, scan);
    free(own);
}

/* ================================== Time in parallel ======================================= */

/* The end of one piece of one sequence, and what it does to a state that comes in: `x` (d_inner,
   d_state) from 0, and `a`, the product of all A_bar. A product of exponentials is the exponential
   of a sum, so one exp a state is enough: a = exp(A (Delta_1 + Delta_2 + ...)). */
static void piece_summary(float *x, float *a, const Scan *piece, const ExpTable *table)
{
    size_t most = block_tiles(piece);
    for (size_t first = 0; first < piece->d_inner; first += most * LANES) {
        Lanes memory[2 * BLOCK_VECTORS];
        Tile tile[BLOCK_TILES];
        size_t tiles = block_open(tile, memory, piece, 0, first, most);
        scan_block(NULL, tile, tiles, piece, table);
        for (size_t i = 0; i < tiles; i++) {
            tile_states(x, tile[i].x, &tile[i], piece);
            for (size_t n = 0; n < piece->d_state; n++)
                tile[i].x[n] = exp2_product_any(tile[i].elapsed, tile[i].A2[n], *table);
            tile_states(a, tile[i].x, &tile[i], piece);
        }
    }
}

/* Tokens of one sequence as a scan of their own. */
static Scan scan_piece(const Scan *scan, size_t b, size_t start, size_t end)
{
    Scan piece = *scan;
    size_t token = b * scan->len + start;
    piece.batch = 1;
    piece.len = end - start;
    piece.u += token * scan->d_inner;
    piece.delta += token * scan->d_inner;
    piece.B += token * scan->d_state;
    piece.C += token * scan->d_state;
    if (scan->z != NULL)
        piece.z += token * scan->d_inner;
    piece.x_start = NULL;
    piece.checkpoint = NULL;
    return piece;
}

/* selective_scan with time cut into TIME_PIECES pieces, for long sequences with few channels. It
   works everything out twice, so it pays only where processors stand idle otherwise: see bench.c.
   The same to rounding, and the same bits for any number of threads. */
void selective_scan_in_time(float *y, float *x_last, const Scan *scan)
{
    if (scan->d_state > SCAN_MAX_STATE) {
        selective_scan(y, x_last, scan);
        return;
    }
    size_t states = scan->d_inner * scan->d_state, pieces = scan->batch * TIME_PIECES;
    float *x = NEW(float, pieces *states), *a = NEW(float, pieces *states);
    const ExpTable table = exp_table();
    PARALLEL_FOR(schedule(static) if (scan_worth_sharing(scan)))
    for (size_t p = 0; p < pieces; p++) {
        size_t b = p / TIME_PIECES, k = p % TIME_PIECES;
        Scan piece = scan_piece(scan, b, piece_start(k, scan->len), piece_start(k + 1, scan->len));
        if (k + 1 < TIME_PIECES)
            piece_summary(x + p * states, a + p * states, &piece, &table);
    }
    for (size_t i = 0; i < scan->batch * states; i++) { /* the ends become the starts */
        float now = scan->x_start == NULL ? 0.0f : scan->x_start[i];
        for (size_t k = 0; k < TIME_PIECES; k++) {
            size_t at = (i / states * TIME_PIECES + k) * states + i % states;
            float end = a[at] * now + x[at];
            x[at] = now;
            now = end;
        }
    }
    PARALLEL_FOR(schedule(static) if (scan_worth_sharing(scan)))
    for (size_t p = 0; p < pieces; p++) {
        size_t b = p / TIME_PIECES, k = p % TIME_PIECES, start = piece_start(k, scan->len);
        Scan piece = scan_piece(scan, b, start, piece_start(k + 1, scan->len));
        bool last = k + 1 == TIME_PIECES && x_last != NULL;
        piece.x_start = x + p * states;
        selective_scan_fast(y + (b * scan->len + start) * scan->d_inner,
                            last ? x_last + b * states : NULL, &piece);
    }
    free(x);
    free(a);
}

#endif /* CH04_FAST_SCAN */
