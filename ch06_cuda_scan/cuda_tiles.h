/* The small work of chapter 6's kernels: the special function unit, and a tile's way between global
   memory, shared memory and registers.

   HOLDS   exponential, softplus and sigmoid as a GPU makes them; who of a block moves and works on
           what; rows of channels and of states on their way into a tile; a thread's own states
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

DEVICE float sigmoid_unit(float v)
{
    float e = exp2_unit(-LOG2_E * fabsf(v));
    return __fdividef(v >= 0.0f ? 1.0f : e, 1.0f + e);
}

DEVICE size_t least_of(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* ==================================== A block's place ===================================== */

enum { FUSED_THREADS = 128 };

/* Which tokens and channels a block has, and which of them this thread. It has two jobs: it moves
   elements between global and shared memory, neighbouring threads neighbouring channels; and it
   works on a channel, neighbouring threads its states. */
typedef struct {
    size_t b, piece;       /* sequence, and piece of its time */
    size_t first, end;     /* tokens first .. end - 1, counted in the sequence */
    size_t channel;        /* the block's first */
    unsigned channels;     /* of the block */
    unsigned mover, token; /* moves that channel of the block, tokens token, token + lanes ... */
    unsigned worker, part; /* works on that channel, states part * states ... */
} FusedPlace;

DEVICE FusedPlace fused_place(const Scan *scan, size_t pieces, size_t piece_len, unsigned lanes)
{
    FusedPlace at;
    at.channels = FUSED_THREADS / lanes;
    size_t wide = (scan->d_inner - 1) / at.channels + 1, block = blockIdx.x / wide;
    at.channel = blockIdx.x % wide * at.channels;
    at.piece = block % pieces;
    at.b = block / pieces;
    at.first = at.piece * piece_len;
    at.end = least_of(at.first + piece_len, scan->len);
    at.mover = threadIdx.x % at.channels;
    at.token = threadIdx.x / at.channels;
    at.worker = threadIdx.x / lanes;
    at.part = threadIdx.x % lanes;
    return at;
}

/* ==================================== From global to shared memory ======================== */

/* One float on its way from global to shared memory, or a 0. */
DEVICE void float_fetch(float *shared, const float *global, bool inside)
{
    __pipeline_memcpy_async(shared, global, sizeof(float), inside ? 0 : sizeof(float));
}

/* Rows of a token-major array (width d_inner) on their way into a tile, one channel a thread. */
DEVICE void rows_fetch(float *tile, const float *from, const Scan *scan, const FusedPlace *at,
                       size_t t, int tokens, unsigned lanes)
{
    size_t d = at->channel + at->mover;
    for (unsigned i = at->token; i < (unsigned)tokens; i += lanes) {
        bool inside = t + i < at->end && d < scan->d_inner;
        size_t token = at->b * scan->len + t + i;
        float_fetch(&tile[i * at->channels + at->mover],
                    inside ? from + token * scan->d_inner + d : from, inside);
    }
}

/* And rows of B or C, which are d_state wide and lie one behind the other. */
DEVICE void states_fetch(float *tile, const float *from, const Scan *scan, const FusedPlace *at,
                         size_t t, int tokens, unsigned states)
{
    size_t d_state = scan->d_state;
    for (unsigned j = threadIdx.x; j < (unsigned)tokens * states; j += FUSED_THREADS) {
        unsigned i = j / states, n = j % states;
        bool inside = t + i < at->end && n < d_state;
        size_t token = at->b * scan->len + t + i;
        float_fetch(&tile[j], inside ? from + token * d_state + n : from, inside);
    }
}

/* ==================================== From and to registers =============================== */

/* `states` floats from shared memory, four at a time. */
DEVICE void states_load(float *to, const float *from, const int states)
{
    UNROLL
    for (int k = 0; k < states; k += 4) {
        float4 four = *(const float4 *)(const void *)(from + k);
        to[k] = four.x, to[k + 1] = four.y, to[k + 2] = four.z, to[k + 3] = four.w;
    }
}

/* This thread's states from or to an array (..., d_inner, d_state); row: of this channel. Those
   past d_state, and channels past d_inner, are 0 and stay it. */
DEVICE void states_read(float *x, const float *from, size_t row, const Scan *scan,
                        const FusedPlace *at, const int states)
{
    bool inside = from != NULL && at->channel + at->worker < scan->d_inner;
    UNROLL
    for (int k = 0; k < states; k++) {
        size_t n = at->part * (size_t)states + (size_t)k;
        x[k] = inside && n < scan->d_state ? from[row * scan->d_state + n] : 0.0f;
    }
}

DEVICE void states_write(float *to, const float *x, size_t row, const Scan *scan,
                         const FusedPlace *at, const int states)
{
    size_t d_state = scan->d_state, n = at->part * (size_t)states;
    if (to == NULL || at->channel + at->worker >= scan->d_inner)
        return;
    to += row * d_state + n;
    if (d_state % 4 == 0 && n + (size_t)states <= d_state) {
        UNROLL
        for (int k = 0; k < states; k += 4)
            *(float4 *)(void *)(to + k) = make_float4(x[k], x[k + 1], x[k + 2], x[k + 3]);
    } else {
        UNROLL
        for (int k = 0; k < states; k++)
            if (n + (size_t)k < d_state)
                to[k] = x[k];
    }
}

#endif /* CH06_CUDA_TILES */
