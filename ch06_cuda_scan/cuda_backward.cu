/* Chapter 6, the way back: the gradients of chapter 4's scan on a GPU.

   Chapter 4's derivation, a tile of tokens at a time from the last to the first. The forward pass
   has kept the states before every tile (Scan.checkpoint); the tile is run again from there with
   its states in registers, and gone back through. dL/dB and dL/dC are sums over channels: over the
   lanes of a warp by shuffles, over the warps through shared memory, over the blocks by a kernel of
   its own. Nothing is added by atomics, so every run gives the same bits.

   HOLDS   the backward kernels (Exercise 6.6 is in them), their plan and their start;
           cuda_scan_backward, from arrays of the host to arrays of the host
   FOR     readers who have been through cuda_scan.cu's kernels 4 and 5; bench.cu and the tests */

#ifndef CH06_CUDA_BACKWARD
#define CH06_CUDA_BACKWARD

#include "cuda_scan.cu"

/* ==================================== A tile of the way back ============================== */

/* In shared memory: what is fetched, two halves of it in turn, and what is worked out, once. Rows
   of tokens; a tile is as long as a stretch, so that it begins at a checkpoint. */
typedef struct {
    float *u, *raw, *z, *y_grad, *B, *C; /* as they come */
    float *delta, *ungated;              /* (tokens, channels) Delta; dL/dy before the gate */
    float *y, *from_A, *from_B;          /* (tokens, channels) sums over states */
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
                       size_t t, const FusedShape shape)
{
    const Scan *scan = &job->scan;
    unsigned states = shape.lanes * (unsigned)shape.states;
    rows_fetch(tile->u, scan->u, scan, at, t, shape.tokens, shape.lanes);
    rows_fetch(tile->raw, scan->delta, scan, at, t, shape.tokens, shape.lanes);
    if (scan->z != NULL)
        rows_fetch(tile->z, scan->z, scan, at, t, shape.tokens, shape.lanes);
    rows_fetch(tile->y_grad, job->y_grad, scan, at, t, shape.tokens, shape.lanes);
    states_fetch(tile->B, scan->B, scan, at, t, shape.tokens, states);
    states_fetch(tile->C, scan->C, scan, at, t, shape.tokens, states);
    __pipeline_commit();
}

/* Before the states: Delta, and dL/dy through the gate. */
DEVICE void back_prepare(const BackTileShared *tile, const ScanJob *job, const FusedPlace *at,
                         size_t t, const FusedShape shape)
{
    size_t d = at->channel + at->mover;
    float bias = d < job->scan.d_inner ? bias_of(&job->scan, d) : 0.0f;
    for (unsigned i = at->token; i < (unsigned)shape.tokens; i += shape.lanes) {
        unsigned e = i * at->channels + at->mover;
        float gate = 1.0f;
        if (job->scan.z != NULL)
            gate = tile->z[e] * sigmoid_unit(tile->z[e]);
        tile->delta[e] = t + i < at->end ? step_unit(&job->scan, tile->raw[e], bias) : 0.0f;
        tile->ungated[e] = tile->y_grad[e] * gate;
    }
}

/* The tile forwards once more: x (tokens + 1, states) before and after every token, and C . x,
   which the gradient of the gate wants. */
DEVICE void back_replay(float *x, const float *A2, const BackTileShared *tile, const FusedPlace *at,
                        const FusedShape shape)
{
    UNROLL
    for (int i0 = 0; i0 < shape.tokens; i0 += FUSED_GROUP) {
        float y[FUSED_GROUP] = {0.0f};
        UNROLL
        for (int g = 0; g < FUSED_GROUP; g++) {
            unsigned i = (unsigned)(i0 + g), e = i * at->channels + at->worker;
            float delta = tile->delta[e], drive = delta * tile->u[e], B[8], C[8];
            float *after = x + (i0 + g + 1) * shape.states;
            states_load(B, lane_states(tile->B, i, at, shape), shape.states);
            states_load(C, lane_states(tile->C, i, at, shape), shape.states);
            y[g] = 0.0f;
            UNROLL
            for (int k = 0; k < shape.states; k++) { /* after[-states] is x before the token */
                after[k] = exp2_unit(delta * A2[k]) * after[k - shape.states] + drive * B[k];
                y[g] += C[k] * after[k];
            }
        }
        LaneSums sums = lane_sums(y, FUSED_GROUP, shape.lanes_known, 1, shape.lanes / 2);
        UNROLL
        for (int g = 0; g < FUSED_GROUP; g++)
            if (g < sums.count && sums.mine)
                tile->y[((unsigned)(i0 + sums.first + g)) * at->channels + at->worker] = y[g];
    }
}

/* One token backwards, chapter 4's channel_step_backward for a few states: x_grad is what came
   through the tokens after it. BC (2, states) gets this channel's share of dL/dB and dL/dC, AB what
   dL/dDelta and dL/du are made of.

   Exercise 6.6. The gradients through x_t = A_bar x_{t-1} + delta u B, for the device. */
DEVICE void back_states(float *x_grad, float *A_grad, float *BC, float AB[2], const float *x_before,
                        const float *x_after, const float *A2, const float *B, const float *C,
                        float delta, float u, float y_grad, const int states)
{
    UNROLL
    for (int k = 0; k < states; k++) {
        float A_bar = exp2_unit(delta * A2[k]);
        float now = x_grad[k] + y_grad * C[k]; /* dL/dx_t */
        BC[states + k] = y_grad * x_after[k];
        //> EX 6.6 [3 pts] [20 min] the backward pass of one line, on the device
        //? Exercise 4.3 once more: `now` is dL/dx_t. BC[k] is dL/dB; AB[1] sums now B over states.
        //? What goes on to x_grad[k] is now A_bar. Times x_before[k] it is dL/dA_bar times A_bar.
        //? A_bar = 2^(delta A2): AB[0] sums that product times A2, A_grad[k] it times delta.
        float through_A = now * A_bar * x_before[k];
        BC[k] = now * delta * u;
        AB[1] += now * B[k];
        AB[0] += through_A * A2[k];
        A_grad[k] += through_A * delta;
        x_grad[k] = now * A_bar;
        //< EX 6.6
    }
}

/* The tile from its last token to its first. For each token two kinds of sums: of AB over the lanes
   that share a channel, which differ in the low bits of their number, and of BC over the channels
   of the warp, which differ in the high ones. */
DEVICE void back_tokens(float *x_grad, float *A_grad, const float *x, const float *A2,
                        const BackTileShared *tile, const FusedPlace *at, const FusedShape shape)
{
    unsigned states = shape.lanes * (unsigned)shape.states, warp = threadIdx.x / 32;
    UNROLL
    for (int i = shape.tokens - 1; i >= 0; i--) {
        unsigned e = (unsigned)i * at->channels + at->worker;
        float B[8], C[8], BC[16] = {0.0f}, AB[2] = {0.0f};
        const float *before = x + i * shape.states;
        states_load(B, lane_states(tile->B, (unsigned)i, at, shape), shape.states);
        states_load(C, lane_states(tile->C, (unsigned)i, at, shape), shape.states);
        back_states(x_grad, A_grad, BC, AB, before, before + shape.states, A2, B, C, tile->delta[e],
                    tile->u[e], tile->ungated[e], shape.states);
        LaneSums sums = lane_sums(AB, 2, shape.lanes_known, 1, shape.lanes / 2);
        UNROLL
        for (int k = 0; k < 2; k++)
            if (k < sums.count && sums.mine)
                (sums.first + k == 0 ? tile->from_A : tile->from_B)[e] = AB[k];
        sums = lane_sums(BC, 2 * shape.states, shape.lanes_known, shape.lanes, 16);
        float *row = tile->sums + (warp * (unsigned)shape.tokens + (unsigned)i) * 2 * states;
        UNROLL
        for (int k = 0; k < 2 * shape.states; k++)
            if (k < sums.count && sums.mine) {
                int n = (sums.first + k) % shape.states, of = (sums.first + k) / shape.states;
                row[(unsigned)of * states + at->part * (unsigned)shape.states + (unsigned)n] =
                    BC[k];
            }
    }
}

/* After the states: u and delta, each reached on two ways, and z. D_grad and bias_grad add up. */
DEVICE void back_finish(float *D_grad, float *bias_grad, const BackTileShared *tile,
                        const ScanJob *job, const FusedPlace *at, size_t t, const FusedShape shape)
{
    const Scan *scan = &job->scan;
    size_t d = at->channel + at->mover;
    if (d >= scan->d_inner)
        return;
    float bias = bias_of(scan, d), D = skip_of(scan, d);
    for (unsigned i = at->token; i < (unsigned)shape.tokens && t + i < at->end; i += shape.lanes) {
        unsigned e = i * at->channels + at->mover;
        size_t where = (at->b * scan->len + t + i) * scan->d_inner + d;
        float u = tile->u[e], delta_grad = u * tile->from_B[e] + LOG_2 * tile->from_A[e];
        if (scan->delta_softplus)
            delta_grad *= sigmoid_unit(tile->raw[e] + bias);
        *D_grad += tile->ungated[e] * u;
        *bias_grad += delta_grad;
        if (job->grad.u != NULL)
            job->grad.u[where] = tile->ungated[e] * D + tile->delta[e] * tile->from_B[e];
        if (job->grad.delta != NULL)
            job->grad.delta[where] = delta_grad;
        if (scan->z != NULL && job->grad.z != NULL) {
            float z = tile->z[e], s = sigmoid_unit(z);
            float slope = s * (1.0f + z * sigmoid_unit(-z));
            job->grad.z[where] = tile->y_grad[e] * (tile->y[e] + D * u) * slope;
        }
    }
}

/* This block's part of dL/dB and dL/dC: the warps' sums added up, always in the same order. */
DEVICE void back_shared_sums(const BackTileShared *tile, const ScanJob *job, const FusedPlace *at,
                             size_t t, const FusedShape shape)
{
    size_t d_state = job->scan.d_state, part = at->channel / at->channels;
    unsigned states = shape.lanes * (unsigned)shape.states, rows = 2 * (unsigned)shape.tokens;
    size_t first = (part * job->scan.batch + at->b) * job->scan.len + t;
    for (unsigned j = threadIdx.x; j < rows * states; j += FUSED_THREADS) {
        unsigned i = j / states / 2, of = j / states % 2, n = j % states;
        float *to = of == 0 ? job->grad.B : job->grad.C, sum = 0.0f;
        if (to == NULL || t + i >= at->end || n >= d_state)
            continue;
        for (unsigned warp = 0; warp < FUSED_THREADS / 32; warp++)
            sum += tile->sums[warp * rows * states + j];
        to[(first + i) * d_state + n] = sum;
    }
}

/* This piece's part of dL/dD and dL/ddelta_bias: the sums of the threads that moved a channel. */
DEVICE void back_channel_sums(float *shared, float D_grad, float bias_grad, const ScanJob *job,
                              const FusedPlace *at, const FusedShape shape)
{
    size_t row = (at->b * job->pieces + at->piece) * job->scan.d_inner;
    size_t d = at->channel + threadIdx.x;
    __syncthreads(); /* the tiles are not wanted any more */
    shared[threadIdx.x] = D_grad;
    shared[FUSED_THREADS + threadIdx.x] = bias_grad;
    __syncthreads();
    if (threadIdx.x >= at->channels || d >= job->scan.d_inner)
        return;
    D_grad = bias_grad = 0.0f;
    for (unsigned i = 0; i < shape.lanes; i++) {
        D_grad += shared[i * at->channels + threadIdx.x];
        bias_grad += shared[FUSED_THREADS + i * at->channels + threadIdx.x];
    }
    if (job->grad.D != NULL)
        job->grad.D[row + d] = D_grad;
    if (job->grad.delta_bias != NULL)
        job->grad.delta_bias[row + d] = bias_grad;
}

/* ==================================== The kernels ========================================= */

/* The kernel: as `fused`, from the last tile to the first; x is a tile's states. */
DEVICE void fused_back(const ScanJob *job, float *shared, float *x, const FusedShape shape)
{
    const FusedPlace at = fused_place(&job->scan, job->pieces, job->piece_len, shape.lanes);
    unsigned wide = (unsigned)shape.tokens * at.channels;
    unsigned narrow = (unsigned)(shape.tokens * shape.states) * shape.lanes;
    size_t d = at.channel + at.worker, d_inner = job->scan.d_inner;
    size_t row = (at.b * job->pieces + at.piece) * d_inner + d;
    size_t tiles = at.end > at.first ? (at.end - at.first - 1) / (size_t)shape.tokens + 1 : 0;
    size_t kept = at.b * ((job->scan.len - 1) / job->stretch + 1);
    float A2[8], x_grad[8], A_grad[8], D_grad = 0.0f, bias_grad = 0.0f;
    states_read(A2, job->scan.A, d, &job->scan, &at, shape.states);
    states_read(x_grad, job->start, row, &job->scan, &at, shape.states);
    UNROLL
    for (int k = 0; k < shape.states; k++) {
        A2[k] *= LOG2_E;
        A_grad[k] = 0.0f;
    }
    for (size_t s = 0; s <= tiles; s++) { /* round s fetches tile tiles - 1 - s */
        size_t work = tiles - s, t = at.first + work * (size_t)shape.tokens;
        BackTileShared next = back_tile(shared, s % 2, wide, narrow);
        BackTileShared tile = back_tile(shared, (s + 1) % 2, wide, narrow);
        if (s > 0) {
            states_read(x, job->scan.checkpoint, (kept + t / job->stretch) * d_inner + d,
                        &job->scan, &at, shape.states);
            __pipeline_wait_prior(0);
            back_prepare(&tile, job, &at, t, shape);
        }
        __syncthreads();
        if (s < tiles)
            back_fetch(&next, job, &at, t - (size_t)shape.tokens, shape);
        if (s == 0)
            continue;
        back_replay(x, A2, &tile, &at, shape);
        back_tokens(x_grad, A_grad, x, A2, &tile, &at, shape);
        __syncthreads();
        back_finish(&D_grad, &bias_grad, &tile, job, &at, t, shape);
        back_shared_sums(&tile, job, &at, t, shape);
    }
    states_write(job->grad.A, A_grad, row, &job->scan, &at, shape.states);
    if (at.piece == 0)
        states_write(job->grad.x_start, x_grad, at.b * d_inner + d, &job->scan, &at, shape.states);
    back_channel_sums(shared, D_grad, bias_grad, job, &at, shape);
}

__global__ void __launch_bounds__(FUSED_THREADS) back_4x4(ScanJob job)
{
    DYNAMIC_SHARED(float, shared);
    const FusedShape shape = {4, 16, true, 4, true};
    float x[17 * 4];
    fused_back(&job, shared, x, shape);
}
KERNEL(back_4x4, ScanJob)

__global__ void __launch_bounds__(FUSED_THREADS) back_8xn(ScanJob job)
{
    DYNAMIC_SHARED(float, shared);
    const FusedShape shape = {8, 8, false, job.lanes, true};
    float x[9 * 8];
    fused_back(&job, shared, x, shape);
}
KERNEL(back_8xn, ScanJob)

/* ---- pieces of time ---- */

/* In a tile for the ends of pieces dL/dy stands where u does forwards. */
DEVICE void end_fetch(const FusedTile *tile, const ScanJob *job, const FusedPlace *at, size_t t,
                      const FusedShape shape)
{
    const Scan *scan = &job->scan;
    unsigned states = shape.lanes * (unsigned)shape.states;
    rows_fetch(tile->u, job->y_grad, scan, at, t, shape.tokens, shape.lanes);
    rows_fetch(tile->delta, scan->delta, scan, at, t, shape.tokens, shape.lanes);
    if (scan->z != NULL)
        rows_fetch(tile->z, scan->z, scan, at, t, shape.tokens, shape.lanes);
    states_fetch(tile->C, scan->C, scan, at, t, shape.tokens, states);
    __pipeline_commit();
}

/* Delta, and dL/dy before the gate, of the elements that this thread has moved. */
DEVICE void end_prepare(const FusedTile *tile, const Scan *scan, const FusedPlace *at, size_t t,
                        const FusedShape shape)
{
    fused_prepare(tile, scan, at, t, shape);
    for (unsigned i = at->token; i < (unsigned)shape.tokens && scan->z != NULL; i += shape.lanes) {
        unsigned e = i * at->channels + at->mover;
        tile->u[e] *= tile->z[e] * sigmoid_unit(tile->z[e]);
    }
}

/* A tile backwards, only the state's gradient: dL/dx_{t-1} = A_bar_t (dL/dx_t + dL/dy_t C_t). */
DEVICE void end_tokens(float *x_grad, float *elapsed, const float *A2, const FusedTile *tile,
                       const FusedPlace *at, const FusedShape shape)
{
    for (unsigned i = (unsigned)shape.tokens; i-- > 0;) {
        unsigned e = i * at->channels + at->worker;
        float delta = tile->delta[e], y_grad = tile->u[e], C[16];
        states_load(C, lane_states(tile->C, i, at, shape), shape.states);
        UNROLL
        for (int k = 0; k < shape.states; k++)
            x_grad[k] = exp2_unit(delta * A2[k]) * (x_grad[k] + y_grad * C[k]);
        *elapsed += delta;
    }
}

/* Phase one of kernel 5, backwards: what the gradient of x is before each piece if it is 0 after
   it, and by what the piece multiplies it. */
DEVICE void end_back(const ScanJob *job, float *shared, const FusedShape shape)
{
    const Scan *scan = &job->scan;
    const FusedPlace at = fused_place(scan, job->pieces, job->piece_len, shape.lanes);
    unsigned wide = (unsigned)shape.tokens * at.channels;
    unsigned narrow = (unsigned)(shape.tokens * shape.states) * shape.lanes;
    size_t d = at.channel + at.worker, tokens = (size_t)shape.tokens;
    size_t row = (at.b * job->pieces + at.piece) * scan->d_inner + d;
    size_t tiles = at.end > at.first ? (at.end - at.first - 1) / tokens + 1 : 0;
    float A2[16], x_grad[16], elapsed = 0.0f;
    states_read(A2, scan->A, d, scan, &at, shape.states);
    UNROLL
    for (int k = 0; k < shape.states; k++) {
        A2[k] *= LOG2_E;
        x_grad[k] = 0.0f;
    }
    for (size_t s = 0; s <= tiles; s++) { /* round s fetches tile tiles - 1 - s */
        size_t t = at.first + (tiles - s) * tokens;
        FusedTile next = fused_tile(shared, s % 2, wide, narrow);
        FusedTile tile = fused_tile(shared, (s + 1) % 2, wide, narrow);
        if (s > 0) {
            __pipeline_wait_prior(0);
            end_prepare(&tile, scan, &at, t, shape);
        }
        __syncthreads();
        if (s < tiles)
            end_fetch(&next, job, &at, t - tokens, shape);
        if (s > 0)
            end_tokens(x_grad, &elapsed, A2, &tile, &at, shape);
    }
    states_write(job->piece_x, x_grad, row, scan, &at, shape.states);
    UNROLL
    for (int k = 0; k < shape.states; k++)
        x_grad[k] = exp2_unit(elapsed * A2[k]);
    states_write(job->piece_a, x_grad, row, scan, &at, shape.states);
}

__global__ void __launch_bounds__(FUSED_THREADS) piece_end_back_4x4(ScanJob job)
{
    DYNAMIC_SHARED(float, shared);
    const FusedShape shape = {4, 16, true, 4, false};
    end_back(&job, shared, shape);
}
KERNEL(piece_end_back_4x4, ScanJob)

__global__ void __launch_bounds__(FUSED_THREADS) piece_end_back_8xn(ScanJob job)
{
    DYNAMIC_SHARED(float, shared);
    const FusedShape shape = {8, 8, false, job.lanes, false};
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

/* scan_plan for the way back, which always has four lanes or more. */
ScanPlan scan_back_plan(const Scan *scan, size_t processors)
{
    ScanPlan plan = {SCAN_FUSED, lanes_most(scan), 1, 0};
    size_t pieces = processors * WARPS_WANTED / warps_of(scan, plan.lanes);
    pieces = smaller(pieces, scan->len / PIECE_LEAST);
    plan.kernel = pieces >= 3 ? SCAN_PIECES : SCAN_FUSED;
    plan_pieces(&plan, scan, plan.kernel == SCAN_PIECES ? pieces : 1);
    return plan;
}

static size_t back_shared(unsigned lanes, unsigned states, unsigned tokens)
{
    size_t wide = (size_t)tokens * FUSED_THREADS / lanes, narrow = (size_t)tokens * states * lanes;
    size_t sums = (size_t)FUSED_THREADS / 32 * 2 * narrow;
    return (2 * (4 * wide + 2 * narrow) + 5 * wide + sums) * sizeof(float);
}

static bool start_piece_end_back(const ScanJob *job, Error *error)
{
    size_t blocks = fused_blocks(job);
    if (job->scan.d_state > 16)
        START(piece_end_back_8xn, blocks, FUSED_THREADS, fused_shared(job->lanes, 8, 8), *job,
              error);
    START(piece_end_back_4x4, blocks, FUSED_THREADS, fused_shared(4, 4, 16), *job, error);
}

static bool start_back(const ScanJob *job, Error *error)
{
    size_t blocks = fused_blocks(job);
    if (job->scan.d_state > 16)
        START(back_8xn, blocks, FUSED_THREADS, back_shared(job->lanes, 8, 8), *job, error);
    START(back_4x4, blocks, FUSED_THREADS, back_shared(4, 4, 16), *job, error);
}

static bool start_sum(SumJob job, Error *error)
{
    if (job.to == NULL)
        return true;
    START(sum_parts, ceil_div(job.count, SUM_THREADS), SUM_THREADS, (size_t)0, job, error);
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
   for the gradients of `grad`. Closed by device_scan_close(&back->on, ...), whatever it
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
    return device_scan_close(&back.on, ok, error);
}

#endif /* CH06_CUDA_BACKWARD */
