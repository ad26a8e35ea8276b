/* The small work of chapter 6's kernels: the special function unit, and a tile's way between global
   memory, shared memory and registers.

   HOLDS   exponential, softplus and sigmoid as a GPU makes them; who of a block moves and works on
           what; four floats at once; rows of channels and of states on their way into a tile; a
           thread's own states
   FOR     the fused kernels of cuda_scan.cu, cuda_backward.cu. Knows a Scan, and no kernel. */

#ifndef CH06_CUDA_TILES
#define CH06_CUDA_TILES

#include "../ch05_mamba_block/mamba_block.c"
#include "cuda_host.cu"

/* ==================================== The special function unit =========================== */

#define LOG2_E 1.44269504f
#define LOG_2  0.693147181f

/* 2^v by the special function unit: one instruction, 2 ulp; below 2^-126 it is 0. */
DEVICE float exp2_unit(float v)
{
#ifdef __CUDA_ARCH__
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(v));
    return power;
#else
    return exp2f(v);
#endif
}

/* log(1 + e) for 0 <= e <= 1 without a division: e times the polynomial of degree 8 that misses
   log(1 + e) / e by 3.3e-8 of it at most, fitted to that. */
DEVICE float log1p_unit(float e)
{
    float p = e * 0.0053648106f - 0.030065741f;
    p = p * e + 0.079204455f;
    p = p * e - 0.137537956f;
    p = p * e + 0.191536516f;
    p = p * e - 0.248571634f;
    p = p * e + 0.333213240f;
    p = p * e - 0.499996483f;
    p = p * e + 1.0f;
    return p * e;
}

/* Chapter 4's softplus, log(1 + e^v), by one exponential that cannot overflow. */
DEVICE float softplus_unit(float v)
{
    return fmaxf(v, 0.0f) + log1p_unit(exp2_unit(-LOG2_E * fabsf(v)));
}

/* Delta of four channels from what stands in the array; 0 if their token is not there. */
DEVICE void steps_unit(float *delta, const float *bias, bool softplus, bool inside)
{
    UNROLL
    for (int k = 0; k < 4; k++)
        delta[k] += bias[k];
    UNROLL
    for (int k = 0; softplus && k < 4; k++)
        delta[k] = softplus_unit(delta[k]);
    UNROLL
    for (int k = 0; k < 4; k++)
        delta[k] = inside ? delta[k] : 0.0f;
}

/* 1 / (1 + e^-v); where e^-v is infinite, 0. */
DEVICE float sigmoid_unit(float v)
{
    float below = 1.0f + exp2_unit(-LOG2_E * v);
#ifdef __CUDA_ARCH__
    float one_over;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(one_over) : "f"(below));
    return one_over;
#else
    return 1.0f / below;
#endif
}

DEVICE size_t least_of(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* ==================================== A block's place ===================================== */

enum { FUSED_THREADS = 128 };

/* What a kernel's body is compiled for: constants, but for `lanes` where not `whole`. Only so can
   arrays of `states` floats live in registers: registers have no index. */
typedef struct {
    int states;     /* a thread has, in registers; a multiple of 4 */
    int tokens;     /* of a tile; a multiple of FUSED_GROUP */
    unsigned lanes; /* to a channel */
    bool whole;     /* `lanes` is a constant, and 4 divides d_inner and d_state */
    bool reads;     /* y, and x_last; else only where a piece ends: piece_x and piece_a */
    int stretch;    /* tokens from checkpoint to checkpoint */
} FusedShape;

/* Which tokens and channels a block has, and which of them this thread. It has two jobs: it moves
   quads, four neighbouring channels of a token, between global and shared memory, neighbouring
   threads neighbouring quads; and it works on a channel, neighbouring threads its states. */
typedef struct {
    size_t b, piece;          /* sequence, and piece of its time */
    size_t first, token;      /* the piece's first token, counted in the sequence and in all */
    unsigned tokens;          /* of the piece */
    size_t channel;           /* the block's first */
    unsigned channels;        /* of the block */
    unsigned quad, row, rows; /* moves channels quad .. quad + 3, tokens row, row + rows, ... */
    unsigned count;           /* how many of the four there are: the last block has some to spare */
    size_t moved;             /* where the first of them lies in an array (batch, len, d_inner) */
    unsigned worker, part;    /* works on that channel, states part * states ... */
    unsigned d_inner, d_state; /* as in the scan: 32 bits are multiplied faster than 64 */
    bool whole;                /* 4 divides both: every quad begins at a multiple of 16 bytes */
} FusedPlace;

DEVICE FusedPlace fused_place(const Scan *scan, size_t pieces, size_t piece_len,
                              const FusedShape shape)
{
    FusedPlace at;
    at.channels = FUSED_THREADS / shape.lanes;
    size_t wide = (scan->d_inner - 1) / at.channels + 1, block = blockIdx.x / wide;
    at.channel = blockIdx.x % wide * at.channels;
    at.piece = block % pieces;
    at.b = block / pieces;
    at.first = at.piece * piece_len;
    at.token = at.b * scan->len + at.first;
    at.tokens = (unsigned)(least_of(at.first + piece_len, scan->len) - at.first);
    at.quad = threadIdx.x % (at.channels / 4) * 4;
    at.row = threadIdx.x / (at.channels / 4);
    at.rows = 4 * shape.lanes;
    size_t d = at.channel + at.quad;
    at.count = d < scan->d_inner ? (unsigned)least_of(scan->d_inner - d, 4) : 0;
    at.moved = (at.token + at.row) * scan->d_inner + d;
    at.worker = threadIdx.x / shape.lanes;
    at.part = threadIdx.x % shape.lanes;
    at.d_inner = (unsigned)scan->d_inner;
    at.d_state = (unsigned)scan->d_state;
    at.whole = shape.whole || (at.d_inner % 4 == 0 && at.d_state % 4 == 0);
    return at;
}

/* How many quads of a tile a thread moves: row, row + rows, ... */
DEVICE int quads_of(const FusedShape shape)
{
    return (shape.tokens - 1) / (int)(4 * shape.lanes) + 1;
}

/* Whether token i of a tile is in it: some threads have nothing to move in a small one. */
DEVICE bool in_tile(unsigned i, const FusedShape shape)
{
    bool even = shape.whole && (unsigned)shape.tokens % (4 * shape.lanes) == 0;
    return even || i < (unsigned)shape.tokens;
}

/* ==================================== Four floats at once ================================= */

/* `count` floats, a multiple of four, from or to a multiple of 16 bytes: an instruction a quad. */
DEVICE void quads_load(float *to, const float *from, const int count)
{
    UNROLL
    for (int k = 0; k < count; k += 4) {
        float4 quad = *(const float4 *)(const void *)(from + k);
        to[k] = quad.x, to[k + 1] = quad.y, to[k + 2] = quad.z, to[k + 3] = quad.w;
    }
}

DEVICE void quads_store(float *to, const float *from, const int count)
{
    UNROLL
    for (int k = 0; k < count; k += 4)
        /* NOLINTNEXTLINE(clang-analyzer-core.CallAndMessage): it thinks of a tile without states */
        *(float4 *)(void *)(to + k) = make_float4(from[k], from[k + 1], from[k + 2], from[k + 3]);
}

/* A quad on its way from global to shared memory: its first `count` floats, then zeros. `whole`: it
   is there or it is not, and one copy of 16 bytes takes it. What is not copied is not looked at:
   `from` may then point to nothing. */
DEVICE void quad_fetch(float *shared, const float *from, unsigned count, bool whole)
{
    if (whole) {
        __pipeline_memcpy_async(shared, from, 16, count > 0 ? 0 : 16);
        return;
    }
    UNROLL
    for (unsigned k = 0; k < 4; k++)
        __pipeline_memcpy_async(shared + k, from + k, 4, k < count ? 0 : 4);
}

/* A quad of results to global memory, past the caches: no kernel reads it again soon. */
DEVICE void quad_write(float *to, const float *quad, unsigned count, bool whole)
{
    if (whole) {
#ifdef __CUDA_ARCH__
        __stcs((float4 *)(void *)to, make_float4(quad[0], quad[1], quad[2], quad[3]));
#else
        quads_store(to, quad, 4);
#endif
        return;
    }
    UNROLL
    for (unsigned k = 0; k < 4; k++)
        if (k < count)
            to[k] = quad[k];
}

/* This thread's quad of an array of d_inner numbers that may be left out: then 0. */
DEVICE void quad_read(float *quad, const float *from, const FusedPlace *at)
{
    UNROLL
    for (unsigned k = 0; k < 4; k++)
        quad[k] = from != NULL && k < at->count ? from[at->channel + at->quad + k] : 0.0f;
}

/* ==================================== From global to shared memory ======================== */

/* A tile (tokens, channels) of an array (batch, len, d_inner), `done` tokens after the piece's
   first. What is not there is 0: channels from d_inner on, tokens after the piece. */
DEVICE void rows_fetch(float *tile, const float *from, const FusedPlace *at, unsigned done,
                       const FusedShape shape)
{
    from += at->moved + (size_t)done * at->d_inner;
    UNROLL
    for (int k = 0; k < quads_of(shape); k++) {
        unsigned i = at->row + (unsigned)k * at->rows;
        if (in_tile(i, shape))
            quad_fetch(tile + i * at->channels + at->quad, from,
                       done + i < at->tokens ? at->count : 0, at->whole);
        from += (size_t)at->rows * at->d_inner;
    }
}

/* The same of B (batch, len, d_state), and of C if `both` are wanted, whose tile lies behind B's.
   Rows of a tile have lanes * states numbers. */
DEVICE void states_fetch(float *tile, const float *B, const float *C, const bool both,
                         const FusedPlace *at, unsigned done, const FusedShape shape)
{
    unsigned row = (unsigned)shape.states * shape.lanes / 4, quads = (unsigned)shape.tokens * row;
    unsigned all = both ? 2 * quads : quads;
    size_t first = (at->token + done) * at->d_state;
    UNROLL
    for (unsigned pass = 0; pass < (all - 1) / FUSED_THREADS + 1; pass++) {
        unsigned j = threadIdx.x + pass * FUSED_THREADS, i = j % quads / row, n = j % row * 4;
        unsigned count = n < at->d_state && done + i < at->tokens ? at->d_state - n : 0;
        if (j < all)
            quad_fetch(tile + 4 * j, (j < quads ? B : C) + first + (i * at->d_state + n), count,
                       at->whole);
    }
}

/* ==================================== From and to registers =============================== */

/* Which state of its channel is this thread's number k. The lanes of a channel take turns with
   quads: so what they read of a row at a time lies side by side, in banks that differ. */
HOST_DEVICE unsigned lane_state(unsigned k, const FusedPlace *at, const FusedShape shape)
{
    return (k / 4 * shape.lanes + at->part) * 4 + k % 4;
}

/* This thread's part of row i of a tile of B or C. */
DEVICE void lane_read(float *to, const float *tile, unsigned i, const FusedPlace *at,
                      const FusedShape shape)
{
    UNROLL
    for (unsigned k = 0; k < (unsigned)shape.states; k += 4)
        quads_load(to + k,
                   tile + i * shape.lanes * (unsigned)shape.states + lane_state(k, at, shape), 4);
}

/* This thread's states from or to an array (..., d_inner, d_state); row: of this channel. Those
   past d_state, and channels past d_inner, are 0 and stay it. */
DEVICE void states_read(float *x, const float *from, size_t row, const FusedPlace *at,
                        const FusedShape shape)
{
    bool inside = from != NULL && at->channel + at->worker < at->d_inner;
    UNROLL
    for (unsigned k = 0; k < (unsigned)shape.states; k++) {
        unsigned n = lane_state(k, at, shape);
        x[k] = inside && n < at->d_state ? from[row * at->d_state + n] : 0.0f;
    }
}

DEVICE void states_write(float *to, const float *x, size_t row, const FusedPlace *at,
                         const FusedShape shape)
{
    if (to == NULL || at->channel + at->worker >= at->d_inner)
        return;
    UNROLL
    for (unsigned k = 0; k < (unsigned)shape.states; k += 4) {
        unsigned n = lane_state(k, at, shape);
        if (n < at->d_state)
            quad_write(to + row * at->d_state + n, x + k, (unsigned)least_of(at->d_state - n, 4),
                       at->whole);
    }
}

/* x, the states before token t of the piece, which begins a stretch, to the checkpoints of the
   piece; NULL: nobody wants them. */
DEVICE void checkpoint_keep(float *checkpoint, const float *x, unsigned t, const FusedPlace *at,
                            const FusedShape shape)
{
    if (checkpoint == NULL || t >= at->tokens)
        return;
    checkpoint += (size_t)(t / (unsigned)shape.stretch) * at->d_inner * at->d_state;
    states_write(checkpoint, x, at->channel + at->worker, at, shape);
}

#endif /* CH06_CUDA_TILES */
