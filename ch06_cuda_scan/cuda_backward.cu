/* Chapter 6, the way back: the gradients of chapter 4's scan on a GPU.

   Chapter 4's derivation, a tile of tokens at a time from the last to the first. The forward pass
   has kept the states before every tile (Scan.checkpoint); the tile is run again from there with
   its states in registers, and gone back through. dL/dB and dL/dC are sums over channels: over the
   lanes of a warp by shuffles, over the warps through shared memory, over the blocks by a kernel
   of its own.
   Nothing is added by atomics, so every run gives the same bits.

   HOLDS   the backward kernels (Exercise 6.6 is in them), their plan and their start;
           cuda_scan_backward, from arrays of the host to arrays of the host; the ladder's last step
   FOR     readers who have been through cuda_scan.cu's kernels 5 and 6; bench.cu and the tests. A
           program: build/ch06_cuda_backward */

#ifndef CH06_CUDA_BACKWARD
#define CH06_CUDA_BACKWARD

#include "cuda_scan.cu"

/* ==================================== A tile of the way back ============================== */

/* In shared memory: what is fetched, two halves of it in turn, and what is worked out, once. Rows
   of tokens; a tile is as long as a stretch, so that it begins at a checkpoint. */
typedef struct {
    float *u, *raw, *z, *y_grad, *B, *C; /* as they come */
    float *delta, *ungated;              /* (tokens, channels) Delta; dL/dy before the gate */
    float *from_A, *from_B, *y;          /* (tokens, channels) sums over states */
    float *sums;                         /* (warps, tokens, B or C, lanes * states) */
} BackTileShared;

DEVICE BackTileShared back_tile(float *shared, unsigned half, unsigned wide, unsigned narrow)
{
    BackTileShared tile;
    unsigned fetched = 4 * wide + 2 * narrow;
    float *first = shared + half * fetched, *worked = shared + 2 * fetched;
    tile.u = first, tile.raw = first + wide, tile.z = first + 2 * wide;
    tile.y_grad = first + 3 * wide, tile.B = first + 4 * wide, tile.C = tile.B + narrow;
    tile.delta = worked, tile.ungated = worked + wide, tile.y = worked + 2 * wide;
    tile.from_A = worked + 3 * wide, tile.from_B = worked + 4 * wide;
    tile.sums = worked + 5 * wide;
    return tile;
}

DEVICE void back_fetch(const BackTileShared *tile, const ScanJob *job, const FusedPlace *at,
                       unsigned done, const FusedShape shape)
{
    const Scan *scan = &job->scan;
    rows_fetch(tile->u, scan->u, at, done, shape);
    rows_fetch(tile->raw, scan->delta, at, done, shape);
    if (scan->z != NULL)
        rows_fetch(tile->z, scan->z, at, done, shape);
    rows_fetch(tile->y_grad, job->y_grad, at, done, shape);
    states_fetch(tile->B, scan->B, scan->C, true, at, done, shape);
}

/* y_grad (4) becomes dL/dy before the gate of the quad z; z NULL: there is none. */
DEVICE void quad_ungate(float *y_grad, const float *z)
{
    float gate[4];
    if (z == NULL)
        return;
    quads_load(gate, z, 4);
    UNROLL
    for (int k = 0; k < 4; k++)
        y_grad[k] *= gate[k] * sigmoid_unit(gate[k]);
}

/* Before the states: Delta, and dL/dy through the gate. */
DEVICE void back_prepare(const BackTileShared *tile, const Scan *scan, const FusedPlace *at,
                         const float *bias, unsigned done, const FusedShape shape)
{
    UNROLL
    for (int pass = 0; pass < quads_of(shape); pass++) {
        unsigned i = at->row + (unsigned)pass * at->rows, e = i * at->channels + at->quad;
        float delta[4], y_grad[4];
        if (!in_tile(i, shape))
            break;
        quads_load(delta, tile->raw + e, 4);
        steps_unit(delta, bias, scan->delta_softplus, done + i < at->tokens);
        quads_store(tile->delta + e, delta, 4);
        quads_load(y_grad, tile->y_grad + e, 4);
        quad_ungate(y_grad, scan->z != NULL ? tile->z + e : NULL);
        quads_store(tile->ungated + e, y_grad, 4);
    }
}

/* The tile forwards once more, from the checkpoint in x: x (tokens + 1, states) before and after
   every token, A_bar (tokens, states). */
DEVICE void back_replay(float *x, float *A_bar, const float *A2, const BackTileShared *tile,
                        const FusedPlace *at, const FusedShape shape)
{
    UNROLL
    for (unsigned i = 0; i < (unsigned)shape.tokens; i++) {
        unsigned e = i * at->channels + at->worker;
        float delta = tile->delta[e], drive = delta * tile->u[e], B[8];
        lane_read(B, tile->B, i, at, shape);
        UNROLL
        for (int k = 0; k < shape.states; k++, x++, A_bar++) {
            *A_bar = exp2_unit(delta * A2[k]);
            x[shape.states] = *A_bar * *x + drive * B[k];
        }
    }
}

/* One token backwards, chapter 4's channel_step_backward for a few states: x_grad is what came
   through the tokens after it. BC (2, states) gets this channel's share of dL/dB and dL/dC.
   `sums` (3) add up over the states: [0] dL/dA_bar A_bar A2, whose factor log 2 the caller puts in;
   [1] dL/dx_t B, out of which it makes dL/du (times delta) and the rest of dL/dDelta (times u);
   [2] C . x, for the gate's gradient. A_grad (states) adds up dL/dA.

   Exercise 6.6. The gradients through x_t = A_bar x_{t-1} + delta u B, for the device. At the end
   x_grad (states) is what goes through this token to the one before it. */
DEVICE void back_states(float *x_grad, float *A_grad, float *BC, float *sums, const float *x_before,
                        const float *x_after, const float *A_bar, const float *A2, const float *B,
                        const float *C, float delta, float u, float y_grad, const int states)
{
    UNROLL
    for (int k = 0; k < states; k++) {
        float now = x_grad[k] + y_grad * C[k]; /* dL/dx_t */
        BC[states + k] = y_grad * x_after[k];
        sums[2] += C[k] * x_after[k];
        //> EX 6.6 [3 pts] [20 min] the backward pass of one line, on the device
        //? Exercise 4.3 once more: `now` is dL/dx_t. BC[k] is dL/dB; sums[1] adds up `now * B[k]`.
        //? x_grad[k] becomes `now * A_bar[k]`. That times x_before[k] is dL/dA_bar times A_bar.
        //? sums[0] adds up that product times A2[k], A_grad[k] that product times delta.
        x_grad[k] = now * A_bar[k];
        float through_A = x_grad[k] * x_before[k];
        BC[k] = now * (delta * u);
        sums[1] += now * B[k];
        sums[0] += through_A * A2[k];
        A_grad[k] += through_A * delta;
        //< EX 6.6
    }
}

/* What a group of tokens, from i0 on, adds up over the lanes that share a channel: v (tokens) goes
   to its column of `to` (tokens, channels). */
DEVICE void back_over_lanes(float *to, float *v, unsigned i0, const FusedPlace *at,
                            const FusedShape shape)
{
    LaneSums sums = lane_sums(v, FUSED_GROUP, shape.whole, 1, shape.lanes / 2);
    UNROLL
    for (int j = 0; j < FUSED_GROUP; j++)
        if (j < sums.count && sums.mine)
            to[(i0 + (unsigned)(sums.first + j)) * at->channels + at->worker] = v[j];
}

/* And over the channels of the warp: BC (tokens, B or C, states), to this warp's `sums`. */
DEVICE void back_over_channels(const BackTileShared *tile, float *BC, unsigned i0,
                               const FusedPlace *at, const FusedShape shape)
{
    unsigned all = shape.lanes * (unsigned)shape.states;
    int count = FUSED_GROUP * 2 * shape.states;
    float *to = tile->sums + (threadIdx.x / 32 * (unsigned)shape.tokens + i0) * 2 * all;
    LaneSums sums = lane_sums(BC, count, shape.whole, shape.lanes, 16);
    UNROLL
    for (int j = 0; j < count; j += 4) {
        unsigned number = (unsigned)(sums.first + j), row = number / (unsigned)shape.states;
        if (j < sums.count && sums.mine)
            quads_store(to + row * all + lane_state(number % (unsigned)shape.states, at, shape),
                        BC + j, 4);
    }
}

/* The tile from its last token to its first. Two kinds of sums go over lanes, for a few tokens at a
   time: over those that share a channel, and over the channels of the warp. */
DEVICE void back_tokens(float *x_grad, float *A_grad, const float *x, const float *A_bar,
                        const float *A2, const BackTileShared *tile, const FusedPlace *at,
                        const FusedShape shape)
{
    unsigned states = (unsigned)shape.states;
    UNROLL
    for (int i0 = shape.tokens - FUSED_GROUP; i0 >= 0; i0 -= FUSED_GROUP) {
        float BC[FUSED_GROUP * 2 * 8], from_A[FUSED_GROUP], from_B[FUSED_GROUP], y[FUSED_GROUP];
        UNROLL
        for (int g = FUSED_GROUP - 1; g >= 0; g--) {
            unsigned i = (unsigned)(i0 + g), e = i * at->channels + at->worker;
            float B[8], C[8], sums[3] = {0.0f, 0.0f, 0.0f};
            const float *before = x + i * states;
            lane_read(B, tile->B, i, at, shape);
            lane_read(C, tile->C, i, at, shape);
            back_states(x_grad, A_grad, BC + (unsigned)g * 2 * states, sums, before,
                        before + states, A_bar + i * states, A2, B, C, tile->delta[e], tile->u[e],
                        tile->ungated[e], shape.states);
            from_A[g] = sums[0], from_B[g] = sums[1], y[g] = sums[2];
        }
        back_over_lanes(tile->from_A, from_A, (unsigned)i0, at, shape);
        back_over_lanes(tile->from_B, from_B, (unsigned)i0, at, shape);
        back_over_lanes(tile->y, y, (unsigned)i0, at, shape);
        back_over_channels(tile, BC, (unsigned)i0, at, shape);
    }
}

/* What comes out for a quad of channels of a token, from what `back_tokens` has left behind. */
typedef struct {
    float u[4], delta[4], z[4], D[4]; /* the gradients; D: this token's part */
} BackQuad;

DEVICE BackQuad back_quad(const BackTileShared *tile, unsigned e, const Scan *scan,
                          const float *bias, const float *D)
{
    BackQuad grad;
    float u[4], raw[4], delta[4], ungated[4], from_A[4], from_B[4];
    quads_load(u, tile->u + e, 4), quads_load(raw, tile->raw + e, 4);
    quads_load(delta, tile->delta + e, 4), quads_load(ungated, tile->ungated + e, 4);
    quads_load(from_A, tile->from_A + e, 4), quads_load(from_B, tile->from_B + e, 4);
    UNROLL
    for (int k = 0; k < 4; k++) { /* u and delta are each reached in two ways */
        grad.u[k] = ungated[k] * D[k] + delta[k] * from_B[k];
        grad.D[k] = ungated[k] * u[k];
        grad.delta[k] = u[k] * from_B[k] + LOG_2 * from_A[k];
        if (scan->delta_softplus)
            grad.delta[k] *= sigmoid_unit(raw[k] + bias[k]);
    }
    if (scan->z == NULL)
        return grad;
    float z[4], y[4], y_grad[4];
    quads_load(z, tile->z + e, 4), quads_load(y, tile->y + e, 4);
    quads_load(y_grad, tile->y_grad + e, 4);
    UNROLL
    for (int k = 0; k < 4; k++) { /* through y silu(z); silu' = s + z s (1 - s) */
        float s = sigmoid_unit(z[k]);
        grad.z[k] = y_grad[k] * (y[k] + D[k] * u[k]) * (s + z[k] * s * (1.0f - s));
    }
    return grad;
}

/* After the states: u, delta and z of the quads that this thread has moved. D_grad and bias_grad
   (4) add up. */
DEVICE void back_finish(float *D_grad, float *bias_grad, const float *bias, const float *D,
                        const BackTileShared *tile, const ScanJob *job, const FusedPlace *at,
                        unsigned done, const FusedShape shape)
{
    const ScanGrad *to = &job->grad;
    UNROLL
    for (int pass = 0; pass < quads_of(shape); pass++) {
        unsigned i = at->row + (unsigned)pass * at->rows, e = i * at->channels + at->quad;
        size_t where = at->moved + (size_t)(done + i - at->row) * at->d_inner;
        if (!in_tile(i, shape) || done + i >= at->tokens || at->count == 0)
            break;
        BackQuad grad = back_quad(tile, e, &job->scan, bias, D);
        UNROLL
        for (int k = 0; k < 4; k++) {
            D_grad[k] += grad.D[k];
            bias_grad[k] += grad.delta[k];
        }
        if (to->u != NULL)
            quad_write(to->u + where, grad.u, at->count, at->whole);
        if (to->delta != NULL)
            quad_write(to->delta + where, grad.delta, at->count, at->whole);
        if (job->scan.z != NULL && to->z != NULL)
            quad_write(to->z + where, grad.z, at->count, at->whole);
    }
}

/* This block's part of dL/dB and dL/dC: the warps' sums added up, always in the same order. */
DEVICE void back_shared_sums(const BackTileShared *tile, const ScanJob *job, const FusedPlace *at,
                             unsigned done, const FusedShape shape)
{
    unsigned states = shape.lanes * (unsigned)shape.states, rows = 2 * (unsigned)shape.tokens;
    size_t block = at->channel / at->channels, tokens = job->scan.batch * job->scan.len;
    size_t first = block * tokens + at->token + done;
    UNROLL
    for (unsigned pass = 0; pass < (rows * states - 1) / (4 * FUSED_THREADS) + 1; pass++) {
        unsigned j = (threadIdx.x + pass * FUSED_THREADS) * 4;
        unsigned i = j / states / 2, of = j / states % 2, n = j % states;
        float *to = of == 0 ? job->grad.B : job->grad.C, sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        if (j >= rows * states || to == NULL || done + i >= at->tokens || n >= at->d_state)
            continue;
        UNROLL
        for (unsigned warp = 0; warp < FUSED_THREADS / 32; warp++) {
            float part[4];
            quads_load(part, tile->sums + warp * rows * states + j, 4);
            UNROLL
            for (int k = 0; k < 4; k++)
                sums[k] += part[k];
        }
        quad_write(to + (first + i) * at->d_state + n, sums, at->d_state - n, at->whole);
    }
}

/* This piece's part of dL/dD and dL/ddelta_bias: the sums of the threads that moved a channel. */
DEVICE void back_channel_sums(float *shared, const float *D_grad, const float *bias_grad,
                              const ScanJob *job, const FusedPlace *at)
{
    size_t row = (at->b * job->pieces + at->piece) * at->d_inner, d = at->channel + threadIdx.x;
    float *own = shared + at->row * at->channels + at->quad, D_sum = 0.0f, bias_sum = 0.0f;
    __syncthreads(); /* the tiles are not wanted any more */
    quads_store(own, D_grad, 4);
    quads_store(own + 4 * FUSED_THREADS, bias_grad, 4);
    __syncthreads();
    if (threadIdx.x >= at->channels || d >= at->d_inner)
        return;
    for (unsigned i = threadIdx.x; i < 4 * FUSED_THREADS; i += at->channels) {
        D_sum += shared[i];
        bias_sum += shared[4 * FUSED_THREADS + i];
    }
    if (job->grad.D != NULL)
        job->grad.D[row + d] = D_sum;
    if (job->grad.delta_bias != NULL)
        job->grad.delta_bias[row + d] = bias_sum;
}

/* ==================================== The kernels ========================================= */

/* The kernel: as `fused`, from the last tile to the first; x (tokens + 1, states) and A_bar
   (tokens, states) are a tile's. */
DEVICE void fused_back(const ScanJob *job, float *shared, float *x, float *A_bar,
                       const FusedShape shape)
{
    const FusedPlace at = fused_place(&job->scan, job->pieces, job->piece_len, shape);
    unsigned tokens = (unsigned)shape.tokens, tiles = (at.tokens - 1) / tokens + 1;
    unsigned wide = tokens * at.channels, narrow = tokens * (unsigned)shape.states * shape.lanes;
    size_t d = at.channel + at.worker, states = job->scan.d_inner * job->scan.d_state;
    size_t row = (at.b * job->pieces + at.piece) * job->scan.d_inner + d;
    const float *checkpoint = checkpoint_from(job, &at);
    float A2[8], x_grad[8], A_grad[8], bias[4], D[4];
    float D_grad[4] = {0.0f, 0.0f, 0.0f, 0.0f}, bias_grad[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    quad_read(bias, job->scan.delta_bias, &at);
    quad_read(D, job->scan.D, &at);
    states_read(A2, job->scan.A, d, &at, shape);
    states_read(x_grad, job->start, row, &at, shape);
    UNROLL
    for (int k = 0; k < shape.states; k++) {
        A2[k] *= LOG2_E;
        A_grad[k] = 0.0f;
    }
    for (unsigned s = 0; s <= tiles; s++) { /* round s fetches tile tiles - 1 - s */
        unsigned done = (tiles - s) * tokens;
        BackTileShared next = back_tile(shared, s % 2, wide, narrow);
        BackTileShared tile = back_tile(shared, (s + 1) % 2, wide, narrow);
        if (s > 0) {
            states_read(x, checkpoint + (tiles - s) * states, d, &at, shape);
            __pipeline_wait_prior(0);
            back_prepare(&tile, &job->scan, &at, bias, done, shape);
        }
        __syncthreads();
        if (s < tiles)
            back_fetch(&next, job, &at, done - tokens, shape);
        __pipeline_commit();
        if (s == 0)
            continue;
        back_replay(x, A_bar, A2, &tile, &at, shape);
        back_tokens(x_grad, A_grad, x, A_bar, A2, &tile, &at, shape);
        __syncthreads();
        back_finish(D_grad, bias_grad, bias, D, &tile, job, &at, done, shape);
        back_shared_sums(&tile, job, &at, done, shape);
    }
    states_write(job->grad.A, A_grad, row, &at, shape);
    if (at.piece == 0)
        states_write(job->grad.x_start, x_grad, at.b * job->scan.d_inner + d, &at, shape);
    back_channel_sums(shared, D_grad, bias_grad, job, &at);
}

/* The body with its constants put in. The last is for all sizes. */
#define BACK_KERNEL(name, states, tokens, lanes, whole)                                            \
    __global__ void __launch_bounds__(FUSED_THREADS) name(ScanJob job)                             \
    {                                                                                              \
        DYNAMIC_SHARED(float, shared);                                                             \
        const FusedShape shape = {states, tokens, lanes, whole, true, tokens};                     \
        float x[((tokens) + 1) * (states)], A_bar[(tokens) * (states)];                            \
        fused_back(&job, shared, x, A_bar, shape);                                                 \
    }                                                                                              \
    KERNEL(name, ScanJob)

BACK_KERNEL(back_8x2, 8, STRETCH_FEW, 2, true)
BACK_KERNEL(back_8x8, 8, STRETCH_MANY, 8, true)
BACK_KERNEL(back_8x16, 8, STRETCH_MANY, 16, true)
BACK_KERNEL(back_8xn, 8, STRETCH_MANY, job.lanes, false)

/* ---- pieces of time ---- */

/* In a tile for the ends of pieces dL/dy stands where u does forwards. */
DEVICE void end_fetch(const FusedTile *tile, const ScanJob *job, const FusedPlace *at,
                      unsigned done, const FusedShape shape)
{
    rows_fetch(tile->u, job->y_grad, at, done, shape);
    rows_fetch(tile->delta, job->scan.delta, at, done, shape);
    if (job->scan.z != NULL)
        rows_fetch(tile->z, job->scan.z, at, done, shape);
    states_fetch(tile->C, job->scan.C, NULL, false, at, done, shape);
}

/* Delta, and dL/dy before the gate, of the quads that this thread has moved. */
DEVICE void end_prepare(const FusedTile *tile, const Scan *scan, const FusedPlace *at,
                        const float *bias, unsigned done, const FusedShape shape)
{
    fused_prepare(tile, scan, at, bias, done, shape);
    UNROLL
    for (int pass = 0; pass < quads_of(shape); pass++) {
        unsigned i = at->row + (unsigned)pass * at->rows, e = i * at->channels + at->quad;
        float y_grad[4];
        if (!in_tile(i, shape) || scan->z == NULL)
            break;
        quads_load(y_grad, tile->u + e, 4);
        quad_ungate(y_grad, tile->z + e);
        quads_store(tile->u + e, y_grad, 4);
    }
}

/* A tile backwards, only the state's gradient: dL/dx_{t-1} = A_bar_t (dL/dx_t + dL/dy_t C_t). */
DEVICE void end_tokens(float *x_grad, float *elapsed, const float *A2, const FusedTile *tile,
                       const FusedPlace *at, const FusedShape shape)
{
    UNROLL
    for (int i = shape.tokens - 1; i >= 0; i--) {
        unsigned e = (unsigned)i * at->channels + at->worker;
        float delta = tile->delta[e], y_grad = tile->u[e], C[16];
        lane_read(C, tile->C, (unsigned)i, at, shape);
        UNROLL
        for (int k = 0; k < shape.states; k++)
            x_grad[k] = exp2_unit(delta * A2[k]) * (x_grad[k] + y_grad * C[k]);
        *elapsed += delta;
    }
}

/* Phase one of kernel 6, backwards: what the gradient of x is before each piece if it is 0 after
   it, and by what the piece multiplies it. */
DEVICE void end_back(const ScanJob *job, float *shared, const FusedShape shape)
{
    const Scan *scan = &job->scan;
    const FusedPlace at = fused_place(scan, job->pieces, job->piece_len, shape);
    unsigned tokens = (unsigned)shape.tokens, tiles = (at.tokens - 1) / tokens + 1;
    unsigned wide = tokens * at.channels, narrow = tokens * (unsigned)shape.states * shape.lanes;
    size_t d = at.channel + at.worker, row = (at.b * job->pieces + at.piece) * scan->d_inner + d;
    float A2[16], x_grad[16], bias[4], elapsed = 0.0f;
    quad_read(bias, scan->delta_bias, &at);
    states_read(A2, scan->A, d, &at, shape);
    UNROLL
    for (int k = 0; k < shape.states; k++) {
        A2[k] *= LOG2_E;
        x_grad[k] = 0.0f;
    }
    for (unsigned s = 0; s <= tiles; s++) { /* round s fetches tile tiles - 1 - s */
        unsigned done = (tiles - s) * tokens;
        FusedTile next = fused_tile(shared, s % 2, wide, narrow);
        FusedTile tile = fused_tile(shared, (s + 1) % 2, wide, narrow);
        if (s > 0) {
            __pipeline_wait_prior(0);
            end_prepare(&tile, scan, &at, bias, done, shape);
        }
        __syncthreads();
        if (s < tiles)
            end_fetch(&next, job, &at, done - tokens, shape);
        __pipeline_commit();
        if (s > 0)
            end_tokens(x_grad, &elapsed, A2, &tile, &at, shape);
    }
    states_write(job->piece_x, x_grad, row, &at, shape);
    UNROLL
    for (int k = 0; k < shape.states; k++)
        x_grad[k] = exp2_unit(elapsed * A2[k]);
    states_write(job->piece_a, x_grad, row, &at, shape);
}

__global__ void __launch_bounds__(FUSED_THREADS) piece_end_back_16x1(ScanJob job)
{
    DYNAMIC_SHARED(float, shared);
    const FusedShape shape = {16, 8, 1, true, false, STRETCH_FEW};
    end_back(&job, shared, shape);
}
KERNEL(piece_end_back_16x1, ScanJob)

__global__ void __launch_bounds__(FUSED_THREADS) piece_end_back_8xn(ScanJob job)
{
    DYNAMIC_SHARED(float, shared);
    const FusedShape shape = {8, 4, job.lanes, false, false, STRETCH_MANY};
    end_back(&job, shared, shape);
}
KERNEL(piece_end_back_8xn, ScanJob)

/* ---- the blocks' parts, added up ---- */

/* to[i] = the sum of from[i], from[i + count], ..., `parts` of them, always in this order. */
typedef struct {
    float *to;
    const float *from;
    size_t count, parts;
} SumJob;

enum { SUM_THREADS = 256 };

__global__ void sum_parts(SumJob job)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    float sum = 0.0f;
    if (i >= job.count)
        return;
    for (size_t part = 0; part < job.parts; part++)
        sum += job.from[part * job.count + i];
    job.to[i] = sum;
}
KERNEL(sum_parts, SumJob)

/* ==================================== The plan, and the grid ============================== */

/* Lanes of 8 states each for the way back: 2 for 16 states, 8 for 64, 16 for 128; where 4 does not
   divide the sizes, as many as there must be. */
static unsigned back_lanes(const Scan *scan)
{
    return scan_whole(scan) ? 2 : lanes_of_16(scan) ? 2 * lanes_of_16(scan) : lanes_of_8(scan);
}

/* scan_plan for the way back: a thread's tokens and states fill its registers, and there is room
   for two blocks a processor, half of WARPS_WANTED. */
ScanPlan scan_back_plan(const Scan *scan, size_t processors)
{
    ScanPlan plan = {SCAN_FUSED, back_lanes(scan), 1, 0};
    size_t pieces = processors * (WARPS_WANTED / 2) / warps_of(scan, plan.lanes);
    pieces = smaller(pieces, scan->len / PIECE_LEAST);
    plan.kernel = pieces >= 2 ? SCAN_PIECES : SCAN_FUSED;
    plan_pieces(&plan, scan, plan.kernel == SCAN_PIECES ? pieces : 1);
    return plan;
}

static size_t back_shared(unsigned lanes, unsigned states, unsigned tokens)
{
    size_t wide = (size_t)tokens * FUSED_THREADS / lanes, narrow = (size_t)tokens * states * lanes;
    size_t warps = FUSED_THREADS / 32;
    return (2 * (4 * wide + 2 * narrow) + 5 * wide + warps * 2 * narrow) * sizeof(float);
}

static bool start_piece_end_back(const ScanJob *job, Error *error)
{
    ScanJob one = *job;
    one.lanes = scan_whole(&job->scan) ? 1 : lanes_of_8(&job->scan);
    size_t blocks = fused_blocks(&one);
    if (!scan_whole(&job->scan))
        return START(piece_end_back_8xn, blocks, FUSED_THREADS, fused_shared(one.lanes, 8, 4), one,
                     error);
    return START(piece_end_back_16x1, blocks, FUSED_THREADS, fused_shared(1, 16, 8), one, error);
}

static bool start_back(const ScanJob *job, Error *error)
{
    size_t blocks = fused_blocks(job), shared = back_shared(job->lanes, 8, job->stretch);
    if (scan_whole(&job->scan))
        return START(back_8x2, blocks, FUSED_THREADS, shared, *job, error);
    if (lanes_of_16(&job->scan) == 4)
        return START(back_8x8, blocks, FUSED_THREADS, shared, *job, error);
    if (lanes_of_16(&job->scan) == 8)
        return START(back_8x16, blocks, FUSED_THREADS, shared, *job, error);
    return START(back_8xn, blocks, FUSED_THREADS, shared, *job, error);
}

static bool start_sum(SumJob job, Error *error)
{
    if (job.to == NULL)
        return true;
    return START(sum_parts, ceil_div(job.count, SUM_THREADS), SUM_THREADS, 0, job, error);
}

/* The backward pass. `job` holds what its blocks write, `whole` what comes out when their parts are
   added up; x_last_grad (batch, d_inner, d_state) or NULL. */
bool start_backward(const ScanGrad *whole, const float *x_last_grad, const ScanJob *job,
                    const ScanPlan *plan, Error *error)
{
    const Scan *scan = &job->scan;
    size_t states = scan->d_inner * scan->d_state, shared = scan->batch * scan->len * scan->d_state;
    size_t pieces = scan->batch * plan->pieces, blocks = channel_blocks(scan, plan->lanes);
    ScanJob now = job_planned(job, plan, x_last_grad);
    now.backwards = true;
    if (plan->pieces > 1) {
        if (!start_piece_end_back(&now, error) || !start_carry(&now, error))
            return false;
        now.start = job->piece_x;
    }
    const SumJob sums[5] = {{whole->A, job->grad.A, states, pieces},
                            {whole->D, job->grad.D, scan->d_inner, pieces},
                            {whole->delta_bias, job->grad.delta_bias, scan->d_inner, pieces},
                            {whole->B, job->grad.B, shared, blocks},
                            {whole->C, job->grad.C, shared, blocks}};
    bool ok = start_back(&now, error);
    for (int i = 0; ok && i < 5; i++)
        ok = start_sum(sums[i], error);
    return ok;
}

/* ==================================== There and back ====================================== */

/* A scan on the device, both ways. */
typedef struct {
    DeviceScan on;
    ScanPlan plan; /* of the way back */
    ScanGrad grad; /* what comes out */
    const float *x_last_grad;
} DeviceBack;

/* One gradient that is wanted (`want` is not NULL): where it comes out, and `parts` of it. */
static bool grad_new(float **whole, float **part, DeviceMemory *memory, const float *want,
                     size_t floats, size_t parts, Error *error)
{
    if (want == NULL)
        return true;
    if (parts == 0) /* the kernel writes it where it comes out */
        return device_new(whole, memory, floats, error) && (*part = *whole, true);
    return device_new(whole, memory, floats, error) &&
           device_new(part, memory, floats * parts, error);
}

/* All of device_scan_open for the forward pass as `plan` has it, and checkpoints, dL/dy and room
   for the gradients of `grad`. Afterwards: device_free(&back->on.memory, ...), whatever it
   returned. */
bool device_back_open(DeviceBack *back, const Scan *host, const ScanPlan *plan,
                      const ScanGrad *grad, const float *y_grad, const float *x_last_grad,
                      size_t processors, Error *error)
{
    DeviceScan *on = &back->on;
    memset(back, 0, sizeof *back);
    if (!device_scan_open(on, host, plan, error))
        return false;
    const Scan *scan = &on->job.scan;
    DeviceMemory *memory = &on->memory;
    size_t wide = scan->batch * scan->len * scan->d_inner, A = scan->d_inner * scan->d_state;
    size_t shared = scan->batch * scan->len * scan->d_state, d_inner = scan->d_inner;
    size_t kept = scan->batch * ceil_div(scan->len, on->job.stretch) * A;
    back->plan = scan_back_plan(scan, processors);
    size_t pieces = back->plan.pieces * scan->batch;
    size_t blocks = channel_blocks(scan, back->plan.lanes);
    ScanGrad *part = &on->job.grad, *whole = &back->grad;
    bool ok = device_new(&on->job.scan.checkpoint, memory, kept, error) &&
              device_put(&on->job.y_grad, memory, y_grad, wide, error) &&
              device_put(&back->x_last_grad, memory, x_last_grad, scan->batch * A, error) &&
              grad_new(&whole->u, &part->u, memory, grad->u, wide, 0, error) &&
              grad_new(&whole->delta, &part->delta, memory, grad->delta, wide, 0, error) &&
              grad_new(&whole->z, &part->z, memory, scan->z ? grad->z : NULL, wide, 0, error) &&
              grad_new(&whole->x_start, &part->x_start, memory, grad->x_start, scan->batch * A, 0,
                       error) &&
              grad_new(&whole->A, &part->A, memory, grad->A, A, pieces, error) &&
              grad_new(&whole->D, &part->D, memory, grad->D, d_inner, pieces, error) &&
              grad_new(&whole->delta_bias, &part->delta_bias, memory, grad->delta_bias, d_inner,
                       pieces, error) &&
              grad_new(&whole->B, &part->B, memory, grad->B, shared, blocks, error) &&
              grad_new(&whole->C, &part->C, memory, grad->C, shared, blocks, error);
    if (ok && back->plan.pieces > plan->pieces) /* forwards fewer may have been enough */
        ok = device_new(&on->job.piece_x, memory, pieces * A, error) &&
             device_new(&on->job.piece_a, memory, pieces * A, error);
    return ok;
}

/* The host's gradients from the device's. */
static bool device_back_get(const ScanGrad *grad, const DeviceBack *back, Error *error)
{
    const Scan *scan = &back->on.job.scan;
    size_t wide = scan->batch * scan->len * scan->d_inner, A = scan->d_inner * scan->d_state;
    size_t shared = scan->batch * scan->len * scan->d_state;
    return device_get(grad->u, back->grad.u, wide, error) &&
           device_get(grad->delta, back->grad.delta, wide, error) &&
           device_get(grad->delta_bias, back->grad.delta_bias, scan->d_inner, error) &&
           device_get(grad->A, back->grad.A, A, error) &&
           device_get(grad->B, back->grad.B, shared, error) &&
           device_get(grad->C, back->grad.C, shared, error) &&
           device_get(grad->D, back->grad.D, scan->d_inner, error) &&
           device_get(grad->z, back->grad.z, wide, error) &&
           device_get(grad->x_start, back->grad.x_start, scan->batch * A, error);
}

/* selective_scan_backward on the GPU: the same to rounding, and the same bits in every run. The
   forward pass is made first, for the states before every tile. */
bool cuda_scan_backward(const ScanGrad *grad, const float *y_grad, const float *x_last_grad,
                        const Scan *scan, Error *error)
{
    CudaDevice device;
    DeviceBack back;
    if (!scan_fits(scan, error) || !cuda_device_open(&device, error))
        return false;
    ScanPlan plan = scan_plan(scan, SCAN_KERNELS, device.processors);
    bool ok =
        device_back_open(&back, scan, &plan, grad, y_grad, x_last_grad, device.processors, error) &&
        start_forward(&back.on.job, &plan, error) &&
        start_backward(&back.grad, back.x_last_grad, &back.on.job, &back.plan, error) &&
        cuda_ok(cudaDeviceSynchronize(), "scanning backwards", error) &&
        device_back_get(grad, &back, error);
    return device_free(&back.on.memory, ok, error);
}

/* ==================================== The demo ============================================ */

enum { GRADIENTS = 9 };

/* How many numbers each gradient of a scan has: u, delta, z, B, C, A, x_start, delta_bias, D. */
static void grad_counts(size_t count[GRADIENTS], const Scan *scan)
{
    size_t wide = scan->batch * scan->len * scan->d_inner, A = scan->d_inner * scan->d_state;
    size_t shared = scan->batch * scan->len * scan->d_state;
    const size_t counts[GRADIENTS] = {
        wide, wide, wide, shared, shared, A, scan->batch * A, scan->d_inner, scan->d_inner};
    memcpy(count, counts, sizeof counts);
}

/* Gradients that lie in `memory` one behind the other. */
static ScanGrad grads_in(float *memory, const size_t count[GRADIENTS])
{
    ScanGrad grad;
    memset(&grad, 0, sizeof grad);
    float **array[GRADIENTS] = {&grad.u, &grad.delta,   &grad.z,          &grad.B, &grad.C,
                                &grad.A, &grad.x_start, &grad.delta_bias, &grad.D};
    for (int k = 0; k < GRADIENTS; k++) {
        *array[k] = memory;
        memory += count[k];
    }
    return grad;
}

/* The way back of one scan under every order of threads, against chapter 4's clear one. */
static bool back_step(const Scan *scan, uint64_t seed, Error *error)
{
    size_t count[GRADIENTS], all = 0, wide = scan->batch * scan->len * scan->d_inner;
    grad_counts(count, scan);
    for (int k = 0; k < GRADIENTS; k++)
        all += count[k];
    float *want = NEW(float, 3 * all + wide), *first = want + all, *got = first + all;
    float *y_grad = got + all;
    bool ok = true, near = true, same = true;
    for (size_t i = 0; i < wide; i++)
        y_grad[i] = scan->u[(i * 7 + 1) % wide]; /* some loss or other */
    ScanGrad grad = grads_in(want, count);
    selective_scan_backward(&grad, y_grad, NULL, scan, NULL);
    for (int order = 0; ok && order < orders(); order++) {
        grad = grads_in(order == 0 ? first : got, count);
        use_order(order, seed);
        ok = cuda_scan_backward(&grad, y_grad, NULL, scan, error);
        same = same && (order == 0 || memcmp(first, got, all * sizeof(float)) == 0);
    }
    use_order(0, 0);
    for (size_t k = 0, at = 0; k < GRADIENTS; at += count[k++])
        near = near && difference_of(first + at, want + at, count[k]) <= 5e-5;
    if (ok)
        printf("  %7zu %12s %11s\n", scan->d_state, near ? "yes" : "no", same ? "yes" : "no");
    free(want);
    return ok;
}

/* 16 states and 1, as in the ladder, and more than 16. */
static bool demo_back(const Show *show, Error *error)
{
    static const size_t d_state[3] = {16, 1, 33};
    bool ok = true;
    printf("The way back on batch 2, len 700, d_inner 8: chapter 4's nine gradients, each to\n"
           "5e-5 of its largest number, and the same bits for threads that run in order,\n"
           "backwards, or shuffled (seed %" PRIu64 ")?\n\n  d_state       agrees   same bits\n",
           show->seed);
    for (int i = 0; ok && i < 3; i++) {
        DemoScan made = demo_scan_new(2, 700, 8, d_state[i]);
        ok = back_step(&made.scan, show->seed, error);
        free(made.memory);
    }
    return ok;
}

/* ==================================== Options and main ==================================== */

int back_main(int argc, char **argv)
{
    static Demo *const demos[] = {demo_back};
    Show show = {{false, false}, NULL, 1};
    const Option table[] = {
        {"seed", "S", OPTION_WHOLE, 0, WHOLE_MOST, &show.seed, "-",
         "of the order in which threads run, on the CPU (default 1)"},
    };
    const Program program = {"ch06_cuda_backward",
                             "The way back of chapter 6's kernels, held against chapter 4.", table,
                             sizeof table / sizeof *table};
    int status;
    if (!program_begin(&status, &program, argc, argv))
        return status;
    Error error;
    return program_end(demos_run(demos, 1, 0, &show, &error), &error);
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return back_main(argc, argv);
}
#endif

#endif /* CH06_CUDA_BACKWARD */
