/* Chapter 6. The scan on a GPU, and without one

   QUESTION   Every x_t waits for x_{t-1}. How do ten thousand threads work on such a thing at once,
              and what decides how fast they are?
   NEW        CUDA: a ladder of kernels for chapter 4's scan, each one idea more than the one
              before, and its backward pass. With nvcc they run on the GPU; without, the C compiler
              takes the same lines and cuda_on_cpu.h runs them thread by thread.
   NOT        No new mathematics, and no half precision: float in, float out, as in chapter 4.
   EQUATION   (a1, b1) o (a2, b2) = (a1 a2, a2 b1 + b2), in any grouping
   LETTERS    as in chapter 4, and
              lanes    threads of a warp (32) that share one channel, each with some of its states
              tile     tokens that a block works on between two barriers
              piece    tokens of one sequence that one block goes through; few channels: many pieces
   BUILD      cc -x c -O2 ch06_cuda_scan/cuda_scan.cu -o cuda_scan -lm && ./cuda_scan
              nvcc -O3 ch06_cuda_scan/cuda_scan.cu -o cuda_scan && ./cuda_scan      with a GPU
   TIME       60 minutes to read, 120 to do the exercises
   SOURCES    A. Gu, T. Dao, Mamba, arXiv 2312.00752: section 3.3, appendix D
              W. D. Hillis, G. L. Steele, Data parallel algorithms, CACM 29 (1986)
              G. Blelloch, Prefix sums and their applications, CMU-CS-90-190 (1990)
              M. Harris, S. Sengupta, J. Owens, Parallel prefix sum with CUDA, GPU Gems 3 (2007)
              S. Williams, A. Waterman, D. Patterson, Roofline, CACM 52 (2009)
              NVIDIA, CUDA C++ Programming Guide 13.0: arithmetic instructions, async copies */

#ifndef CH06_CUDA_SCAN
#define CH06_CUDA_SCAN

#include "../ch05_mamba_block/mamba_block.c"

#ifdef __CUDACC__
#include <cuda_pipeline.h>
#define KERNEL(kernel, Job)
#define LAUNCH(kernel, grid, block, shared, job) kernel<<<(grid), (block), (shared)>>>(job)
#define DYNAMIC_SHARED(type, name)               extern __shared__ __align__(16) type name[]
#define UNROLL                                   _Pragma("unroll")
#else
#include "cuda_on_cpu.h"
#define UNROLL
#endif
#define DEVICE      static __device__ __forceinline__
#define HOST_DEVICE static __host__ __device__ __forceinline__
#define ALL_LANES   0xffffffffu

/* ==================================== What a kernel is given =============================== */
/* Chapter 4's Scan, with arrays in the GPU's memory, and where the results go. A block of      */
/* threads finds out by its number which channels of which sequence (and which piece of time)   */
/* are its own.                                                                                 */

typedef struct {
    Scan scan;         /* its checkpoint: (batch, ceil(len / stretch), d_inner, d_state), or NULL */
    float *y, *x_last; /* y may be NULL: then only states come out */
    unsigned lanes;    /* threads to a channel */
    size_t stretch;    /* tokens between two checkpoints */
    size_t pieces;     /* every sequence is cut into so many */
    size_t piece_len;  /* tokens of a piece, a multiple of `stretch`; the last may be shorter */
    const float *start;  /* (batch, pieces, d_inner, d_state) x before each piece, or NULL: 0 */
    float *piece_x;      /* (the same) x after each piece, from 0; or its gradient, backwards */
    float *piece_a;      /* (the same) what each piece multiplies a state by */
    const float *y_grad; /* (batch, len, d_inner) backwards: dL/dy */
    ScanGrad grad;       /* u, delta, z, x_start as they are wanted; of A, B, C, D and delta_bias
                             only parts: each block its own, to be added up afterwards */
    bool backwards;      /* for scan_carry: from the last piece to the first */
} ScanJob;

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

/* Chapter 4's softplus by one exponential and one division: log1p(e) = 2 atanh(e / (2 + e)), seven
   terms of whose series are enough for e <= 1. */
DEVICE float softplus_unit(float v)
{
    float e = exp2_unit(-LOG2_E * fabsf(v)), s = __fdividef(e, 2.0f + e), q = s * s;
    float p = q * (1.0f / 13) + 1.0f / 11;
    p = p * q + 1.0f / 9;
    p = p * q + 1.0f / 7;
    p = p * q + 1.0f / 5;
    p = p * q + 1.0f / 3;
    return fmaxf(v, 0.0f) + 2.0f * s + 2.0f * s * q * p;
}

DEVICE float sigmoid_unit(float v)
{
    float e = exp2_unit(-LOG2_E * fabsf(v));
    return __fdividef(v >= 0.0f ? 1.0f : e, 1.0f + e);
}

/* Delta from what stands in the array: bias and softplus applied. */
DEVICE float step_unit(const Scan *scan, float raw, float bias)
{
    return scan->delta_softplus ? softplus_unit(raw + bias) : raw + bias;
}

DEVICE float bias_of(const Scan *scan, size_t d)
{
    return scan->delta_bias != NULL ? scan->delta_bias[d] : 0.0f;
}

DEVICE float skip_of(const Scan *scan, size_t d)
{
    return scan->D != NULL ? scan->D[d] : 0.0f;
}

/* chapter 4's scan_join, for the device. */
DEVICE ScanPair pair_join(ScanPair first, ScanPair then)
{
    ScanPair both;
    both.a = first.a * then.a;
    both.b = then.a * first.b + then.b;
    return both;
}

DEVICE size_t least_of(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* ==================================== 0. A thread a channel ================================ */
/* Idea: channels do not need each other, so each gets a thread, which does what chapter 4      */
/* does.                                                                                        */
/* Costs: every thread reads B and C for itself; the states lie in memory, being too many and   */
/* of unknown number for registers; and few channels are few threads.                           */

enum { CHANNEL_THREADS = 128 };

__global__ void scan_channels(ScanJob job)
{
    const Scan *scan = &job.scan;
    size_t d_inner = scan->d_inner, d_state = scan->d_state, wide = (d_inner - 1) / blockDim.x + 1;
    size_t d = blockIdx.x % wide * blockDim.x + threadIdx.x, b = blockIdx.x / wide;
    float x[SCAN_MAX_STATE];
    if (d >= d_inner)
        return;
    for (size_t n = 0; n < d_state; n++)
        x[n] = job.start != NULL ? job.start[(b * d_inner + d) * d_state + n] : 0.0f;
    for (size_t token = b * scan->len; token < (b + 1) * scan->len; token++) {
        size_t at = token * d_inner + d;
        float u = scan->u[at], delta = step_unit(scan, scan->delta[at], bias_of(scan, d));
        float y = skip_of(scan, d) * u;
        for (size_t n = 0; n < d_state; n++) {
            float A2 = LOG2_E * scan->A[d * d_state + n];
            x[n] = exp2_unit(delta * A2) * x[n] + delta * u * scan->B[token * d_state + n];
            y += scan->C[token * d_state + n] * x[n];
        }
        if (scan->z != NULL)
            y *= scan->z[at] * sigmoid_unit(scan->z[at]);
        job.y[at] = y;
    }
    for (size_t n = 0; n < d_state && job.x_last != NULL; n++)
        job.x_last[(b * d_inner + d) * d_state + n] = x[n];
}
KERNEL(scan_channels, ScanJob)

/* ==================================== 1. Hillis and Steele ================================= */
/* Idea: time in parallel. A block has one channel, a thread one token of a tile, and every     */
/* state is scanned in log2 rounds; what the tile's last token holds is carried to the next     */
/* tile.                                                                                        */
/* Costs: 7 joins a token and state where one would do, and a barrier for each.                 */

enum { TIME_THREADS = 256 };

/* One token of one channel as a thread of kernels 1 to 3 keeps it. */
typedef struct {
    size_t token;
    float u, delta, y;
    bool inside; /* false after the end of the sequence: the step is then (1, 0) */
} TimeToken;

DEVICE TimeToken time_token(const Scan *scan, size_t b, size_t t, size_t d)
{
    TimeToken at = {b * scan->len + t, 0.0f, 0.0f, 0.0f, t < scan->len};
    if (at.inside) {
        at.u = scan->u[at.token * scan->d_inner + d];
        at.delta = step_unit(scan, scan->delta[at.token * scan->d_inner + d], bias_of(scan, d));
        at.y = skip_of(scan, d) * at.u;
    }
    return at;
}

/* x -> a x + b, what this token does to state n. */
DEVICE ScanPair time_step(const Scan *scan, const TimeToken *at, size_t d, size_t n)
{
    ScanPair step = {1.0f, 0.0f};
    if (at->inside) {
        step.a = exp2_unit(at->delta * LOG2_E * scan->A[d * scan->d_state + n]);
        step.b = at->delta * at->u * scan->B[at->token * scan->d_state + n];
    }
    return step;
}

DEVICE void time_read(const Scan *scan, TimeToken *at, float x, size_t n)
{
    if (at->inside)
        at->y += scan->C[at->token * scan->d_state + n] * x;
}

DEVICE void time_store(const ScanJob *job, const TimeToken *at, size_t d)
{
    size_t where = at->token * job->scan.d_inner + d;
    float gate = 1.0f;
    if (!at->inside)
        return;
    if (job->scan.z != NULL)
        gate = job->scan.z[where] * sigmoid_unit(job->scan.z[where]);
    job->y[where] = at->y * gate;
}

/* The states that go from tile to tile: in before the first, out after the last. */
DEVICE void carry_open(float *carry, const ScanJob *job, size_t channel)
{
    size_t d_state = job->scan.d_state;
    for (size_t n = threadIdx.x; n < d_state; n += blockDim.x)
        carry[n] = job->start != NULL ? job->start[channel * d_state + n] : 0.0f;
    __syncthreads();
}

DEVICE void carry_close(const float *carry, const ScanJob *job, size_t channel)
{
    size_t d_state = job->scan.d_state;
    for (size_t n = threadIdx.x; n < d_state && job->x_last != NULL; n += blockDim.x)
        job->x_last[channel * d_state + n] = carry[n];
}

/* pair[0] (TIME_THREADS) scanned; which of the two arrays holds the answer is returned. Two arrays,
   because a thread may not write where another has still to read.

   Exercise 6.1. The rounds of Hillis and Steele, with their barriers. */
DEVICE int hillis_steele(ScanPair pair[2][TIME_THREADS])
{
    unsigned i = threadIdx.x;
    int now = 0;
    __syncthreads();
    //> EX 6.1 [3 pts] [20 min] log2 rounds in shared memory
    //? In a round of reach 1, 2, 4, ... thread i joins element i - reach with element i.
    //? Read from pair[now], write to pair[1 - now]; i < reach copies.
    //? Everybody must have written before anybody reads: where does __syncthreads() stand?
    for (unsigned reach = 1; reach < TIME_THREADS; reach *= 2) {
        pair[1 - now][i] = i < reach ? pair[now][i] : pair_join(pair[now][i - reach], pair[now][i]);
        now = 1 - now;
        __syncthreads();
    }
    //< EX 6.1
    return now;
}

__global__ void scan_hillis_steele(ScanJob job)
{
    __shared__ ScanPair pair[2][TIME_THREADS];
    __shared__ float carry[SCAN_MAX_STATE];
    const Scan *scan = &job.scan;
    size_t channel = blockIdx.x, b = channel / scan->d_inner, d = channel % scan->d_inner;
    unsigned i = threadIdx.x;
    carry_open(carry, &job, channel);
    for (size_t t = 0; t < scan->len; t += TIME_THREADS) {
        TimeToken at = time_token(scan, b, t + i, d);
        for (size_t n = 0; n < scan->d_state; n++) {
            ScanPair step = time_step(scan, &at, d, n);
            if (i == 0) /* what came before the tile enters by its first step */
                step.b += step.a * carry[n];
            pair[0][i] = step;
            float x = pair[hillis_steele(pair)][i].b;
            time_read(scan, &at, x, n);
            if (i == TIME_THREADS - 1)
                carry[n] = x;
        }
        time_store(&job, &at, d);
        __syncthreads(); /* the carry is there for all */
    }
    carry_close(carry, &job, channel);
}
KERNEL(scan_hillis_steele, ScanJob)

/* ==================================== 2. Blelloch's sweeps ================================= */
/* Idea: 3 joins an element instead of 7, going up a tree and down again, two tokens a thread.  */
/* Costs: twice the rounds, most threads idle in most of them, and at a width of 2^k threads    */
/* meet in the same bank of shared memory.                                                      */

enum {
    SWEEP_THREADS = 128,
    SWEEP_TOKENS = 2 * SWEEP_THREADS,
    SWEEP_ROOM = SWEEP_TOKENS + SWEEP_TOKENS / 32
};

/* Where element i lies. Shared memory has 32 banks, word w in bank w % 32, and a warp whose threads
   want different words of one bank must take turns.

   Exercise 6.2. Leave gaps, so that elements a power of two apart lie in different banks. */
HOST_DEVICE unsigned swept_place(unsigned i)
{
    //> EX 6.2 [2 pts] [15 min] shared memory without conflicts
    //? Without gaps, elements 32 apart share a bank. After how many should a word be skipped?
    //? One gap after every 32 elements moves element 32 to bank 1, element 64 to bank 2, ...
    //? The largest place must be below SWEEP_ROOM: how many gaps are there in front of element 255?
    return i + i / 32;
    //< EX 6.2
}

/* a, b (SWEEP_ROOM): element t joined with that `width` before it, t = 2 width (i + 1) - 1. */
DEVICE void sweep_up_all(float *a, float *b)
{
    for (unsigned width = 1; width < SWEEP_TOKENS; width *= 2) {
        unsigned t = 2 * width * (threadIdx.x + 1) - 1;
        __syncthreads();
        if (t < SWEEP_TOKENS) {
            unsigned left = swept_place(t - width), right = swept_place(t);
            b[right] += a[right] * b[left];
            a[right] *= a[left];
        }
    }
}

/* And down: the left child is told what its parent was told, the right one that and the left. */
DEVICE void sweep_down_all(float *a, float *b)
{
    if (threadIdx.x == 0) { /* who wrote the last element in the last round up */
        a[swept_place(SWEEP_TOKENS - 1)] = 1.0f;
        b[swept_place(SWEEP_TOKENS - 1)] = 0.0f;
    }
    for (unsigned width = SWEEP_TOKENS / 2; width > 0; width /= 2) {
        unsigned t = 2 * width * (threadIdx.x + 1) - 1;
        __syncthreads();
        if (t < SWEEP_TOKENS) {
            unsigned left = swept_place(t - width), right = swept_place(t);
            ScanPair below = {a[left], b[left]}, told = {a[right], b[right]};
            ScanPair both = pair_join(told, below);
            a[left] = told.a, b[left] = told.b;
            a[right] = both.a, b[right] = both.b;
        }
    }
    __syncthreads();
}

__global__ void scan_blelloch(ScanJob job)
{
    __shared__ float a[SWEEP_ROOM], b_[SWEEP_ROOM], carry[SCAN_MAX_STATE];
    const Scan *scan = &job.scan;
    size_t channel = blockIdx.x, b = channel / scan->d_inner, d = channel % scan->d_inner;
    unsigned i = threadIdx.x;
    carry_open(carry, &job, channel);
    for (size_t t = 0; t < scan->len; t += SWEEP_TOKENS) {
        TimeToken at[2] = {time_token(scan, b, t + i, d),
                           time_token(scan, b, t + SWEEP_THREADS + i, d)};
        for (size_t n = 0; n < scan->d_state; n++) {
            ScanPair step[2] = {time_step(scan, &at[0], d, n), time_step(scan, &at[1], d, n)};
            if (i == 0)
                step[0].b += step[0].a * carry[n];
            for (unsigned k = 0; k < 2; k++) {
                a[swept_place(i + k * SWEEP_THREADS)] = step[k].a;
                b_[swept_place(i + k * SWEEP_THREADS)] = step[k].b;
            }
            sweep_up_all(a, b_);
            sweep_down_all(a, b_);
            for (unsigned k = 0; k < 2; k++) { /* what came before, and then the step itself */
                float x = step[k].a * b_[swept_place(i + k * SWEEP_THREADS)] + step[k].b;
                time_read(scan, &at[k], x, n);
                if (k == 1 && i == SWEEP_THREADS - 1)
                    carry[n] = x;
            }
        }
        time_store(&job, &at[0], d);
        time_store(&job, &at[1], d);
        __syncthreads();
    }
    carry_close(carry, &job, channel);
}
KERNEL(scan_blelloch, ScanJob)

/* ==================================== 3. Warp shuffles ===================================== */
/* Idea (the paper's kernel): a thread scans four tokens by itself, a warp scans its threads'   */
/* ends by shuffles, from register to register without a barrier, and only the warps' ends go   */
/* through shared memory: one barrier a state instead of 9 or 17.                               */
/* Costs: one channel a block, so B and C are read again by every channel's block.              */

enum {
    SHUFFLE_THREADS = 128,
    SHUFFLE_WARPS = SHUFFLE_THREADS / 32,
    SHUFFLE_ITEMS = 4,
    SHUFFLE_TOKENS = SHUFFLE_THREADS * SHUFFLE_ITEMS
};

/* The pairs of a warp scanned, a pair a lane.

   Exercise 6.3. Hillis and Steele once more, without memory and without barriers. */
DEVICE ScanPair warp_scan(ScanPair pair, unsigned lane)
{
    //> EX 6.3 [3 pts] [20 min] a scan in registers
    //? __shfl_up_sync(ALL_LANES, v, by) gives the v of the lane `by` below.
    //? All 32 lanes must call it, also those that have nobody so far below: the `if` comes after.
    //? Fetch before.a and before.b, then join: before first, pair then.
    for (unsigned by = 1; by < 32; by *= 2) {
        ScanPair before;
        before.a = __shfl_up_sync(ALL_LANES, pair.a, by);
        before.b = __shfl_up_sync(ALL_LANES, pair.b, by);
        if (lane >= by)
            pair = pair_join(before, pair);
    }
    //< EX 6.3
    return pair;
}

/* x before this thread's tokens: the carry, the warps before, the lanes before. `total` is what the
   thread's own tokens do; warp_end (SHUFFLE_WARPS) is shared. */
DEVICE float shuffle_before(ScanPair total, ScanPair *warp_end, const float *carry)
{
    unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    ScanPair upto = warp_scan(total, lane), before;
    before.a = __shfl_up_sync(ALL_LANES, upto.a, 1);
    before.b = __shfl_up_sync(ALL_LANES, upto.b, 1);
    float x = *carry;
    if (lane == 31)
        warp_end[warp] = upto;
    __syncthreads();
    for (unsigned w = 0; w < warp; w++)
        x = warp_end[w].a * x + warp_end[w].b;
    return lane == 0 ? x : before.a * x + before.b;
}

__global__ void scan_shuffle(ScanJob job)
{
    __shared__ ScanPair warp_end[2][SHUFFLE_WARPS];
    __shared__ float carry[SCAN_MAX_STATE];
    const Scan *scan = &job.scan;
    size_t channel = blockIdx.x, b = channel / scan->d_inner, d = channel % scan->d_inner;
    carry_open(carry, &job, channel);
    for (size_t t = 0; t < scan->len; t += SHUFFLE_TOKENS) {
        TimeToken at[SHUFFLE_ITEMS];
        UNROLL
        for (int k = 0; k < SHUFFLE_ITEMS; k++)
            at[k] = time_token(scan, b, t + threadIdx.x * SHUFFLE_ITEMS + (size_t)k, d);
        for (size_t n = 0; n < scan->d_state; n++) {
            ScanPair step[SHUFFLE_ITEMS], total = {1.0f, 0.0f};
            UNROLL
            for (int k = 0; k < SHUFFLE_ITEMS; k++) {
                step[k] = time_step(scan, &at[k], d, n);
                total = pair_join(total, step[k]);
            }
            float x = shuffle_before(total, warp_end[n % 2], &carry[n]);
            UNROLL
            for (int k = 0; k < SHUFFLE_ITEMS; k++) {
                x = step[k].a * x + step[k].b;
                time_read(scan, &at[k], x, n);
            }
            if (threadIdx.x == SHUFFLE_THREADS - 1)
                carry[n] = x; /* all have read it: that was before the barrier */
        }
        UNROLL
        for (int k = 0; k < SHUFFLE_ITEMS; k++)
            time_store(&job, &at[k], d);
        __syncthreads();
    }
    carry_close(carry, &job, channel);
}
KERNEL(scan_shuffle, ScanJob)

/* ==================================== 4. Fused ============================================= */
/* Idea: time is not what there is too little of. Channels and sequences are thousands already, */
/* so each thread goes through time in a loop, as in kernel 0, and everything else is about     */
/* memory: u, delta, z are read once and y is written once, a tile of B and C is read once for  */
/* all the channels of a block, states stay in registers, and what the next tile needs is on    */
/* its way while this one is worked on. One to 32 lanes share a channel's states, so that there */
/* are enough warps.                                                                            */

enum {
    FUSED_THREADS = 128,
    FUSED_GROUP = 4 /* tokens whose sums over the lanes are made together */
};

typedef enum {
    FUSED_READ,    /* y, and x_last */
    FUSED_END,     /* only where a piece ends: piece_x and piece_a */
    FUSED_END_BACK /* the same for the gradient of x, from the last token to the first */
} FusedMode;

/* What the body below is compiled for: all constants, but for `lanes` where it is not known. */
typedef struct {
    int states;       /* a thread has, in registers; a multiple of 4 */
    int tokens;       /* of a tile; a multiple of FUSED_GROUP */
    bool lanes_known; /* `lanes` is a constant: sums are then split among the lanes */
    unsigned lanes;   /* to a channel */
    FusedMode mode;
} FusedShape;

/* A tile in shared memory: rows of tokens. */
typedef struct {
    float *u, *delta, *z; /* (tokens, channels) */
    float *B, *C;         /* (tokens, lanes * states) */
} FusedTile;

DEVICE FusedTile fused_tile(float *shared, unsigned half, unsigned wide, unsigned narrow)
{
    float *first = shared + half * (3 * wide + 2 * narrow);
    FusedTile tile = {first, first + wide, first + 2 * wide, first + 3 * wide,
                      first + 3 * wide + narrow};
    return tile;
}

/* Which tokens and channels a block has, and which of them this thread. It has two jobs: it moves
   elements between global and shared memory, neighbouring threads neighbouring channels; and it
   works on a channel, neighbouring threads its states. */
typedef struct {
    size_t b, piece, first,
        end;               /* sequence, piece; tokens first .. end - 1, counted in the sequence */
    size_t channel;        /* the block's first */
    unsigned channels;     /* of the block */
    unsigned mover, token; /* moves that channel of the block, tokens token, token + lanes ... */
    unsigned worker, part; /* works on that channel, states part * states ... */
} FusedPlace;

DEVICE FusedPlace fused_place(const ScanJob *job, unsigned lanes)
{
    FusedPlace at;
    at.channels = FUSED_THREADS / lanes;
    size_t wide = (job->scan.d_inner - 1) / at.channels + 1, block = blockIdx.x / wide;
    at.channel = blockIdx.x % wide * at.channels;
    at.piece = block % job->pieces;
    at.b = block / job->pieces;
    at.first = at.piece * job->piece_len;
    at.end = least_of(at.first + job->piece_len, job->scan.len);
    at.mover = threadIdx.x % at.channels;
    at.token = threadIdx.x / at.channels;
    at.worker = threadIdx.x / lanes;
    at.part = threadIdx.x % lanes;
    return at;
}

/* One float on its way from global to shared memory, or a 0. */
DEVICE void float_fetch(float *shared, const float *global, bool inside)
{
    __pipeline_memcpy_async(shared, global, sizeof(float), inside ? 0 : sizeof(float));
}

/* Rows of a token-major array (width d_inner) on their way into a tile, one channel a thread. */
DEVICE void rows_fetch(float *tile, const float *from, const ScanJob *job, const FusedPlace *at,
                       size_t t, int tokens, unsigned lanes)
{
    size_t d = at->channel + at->mover;
    for (unsigned i = at->token; i < (unsigned)tokens; i += lanes) {
        bool inside = t + i < at->end && d < job->scan.d_inner;
        size_t token = at->b * job->scan.len + t + i;
        float_fetch(&tile[i * at->channels + at->mover],
                    inside ? from + token * job->scan.d_inner + d : from, inside);
    }
}

/* And rows of B or C, which are d_state wide and lie one behind the other. */
DEVICE void states_fetch(float *tile, const float *from, const ScanJob *job, const FusedPlace *at,
                         size_t t, int tokens, unsigned states)
{
    size_t d_state = job->scan.d_state;
    for (unsigned j = threadIdx.x; j < (unsigned)tokens * states; j += FUSED_THREADS) {
        unsigned i = j / states, n = j % states;
        bool inside = t + i < at->end && n < d_state;
        size_t token = at->b * job->scan.len + t + i;
        float_fetch(&tile[j], inside ? from + token * d_state + n : from, inside);
    }
}

DEVICE void fused_fetch(const FusedTile *tile, const ScanJob *job, const FusedPlace *at, size_t t,
                        const FusedShape shape)
{
    const Scan *scan = &job->scan;
    unsigned states = shape.lanes * (unsigned)shape.states;
    bool back = shape.mode == FUSED_END_BACK;
    rows_fetch(tile->u, back ? job->y_grad : scan->u, job, at, t, shape.tokens, shape.lanes);
    rows_fetch(tile->delta, scan->delta, job, at, t, shape.tokens, shape.lanes);
    if (scan->z != NULL && shape.mode != FUSED_END)
        rows_fetch(tile->z, scan->z, job, at, t, shape.tokens, shape.lanes);
    if (!back)
        states_fetch(tile->B, scan->B, job, at, t, shape.tokens, states);
    if (shape.mode != FUSED_END)
        states_fetch(tile->C, scan->C, job, at, t, shape.tokens, states);
    __pipeline_commit();
}

/* Delta of this thread's elements, in place; 0 after the end, so that nothing moves there. */
DEVICE void fused_prepare(const FusedTile *tile, const ScanJob *job, const FusedPlace *at, size_t t,
                          const FusedShape shape)
{
    size_t d = at->channel + at->mover;
    float bias = d < job->scan.d_inner ? bias_of(&job->scan, d) : 0.0f;
    for (unsigned i = at->token; i < (unsigned)shape.tokens; i += shape.lanes) {
        unsigned e = i * at->channels + at->mover;
        tile->delta[e] = t + i < at->end ? step_unit(&job->scan, tile->delta[e], bias) : 0.0f;
        if (shape.mode == FUSED_END_BACK && job->scan.z != NULL) /* dL/dy before the gate */
            tile->u[e] *= tile->z[e] * sigmoid_unit(tile->z[e]);
    }
}

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
DEVICE void states_read(float *x, const float *from, size_t row, const ScanJob *job,
                        const FusedPlace *at, const int states)
{
    bool inside = from != NULL && at->channel + at->worker < job->scan.d_inner;
    UNROLL
    for (int k = 0; k < states; k++) {
        size_t n = at->part * (size_t)states + (size_t)k;
        x[k] = inside && n < job->scan.d_state ? from[row * job->scan.d_state + n] : 0.0f;
    }
}

DEVICE void states_write(float *to, const float *x, size_t row, const ScanJob *job,
                         const FusedPlace *at, const int states)
{
    size_t d_state = job->scan.d_state, n = at->part * (size_t)states;
    if (to == NULL || at->channel + at->worker >= job->scan.d_inner)
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

/* What this thread holds of sums over lanes: v[0 .. count - 1], numbers first .. first + count - 1;
   `mine` if it is the one of several with the same to say so. */
typedef struct {
    int count, first;
    bool mine;
} LaneSums;

/* v (count numbers in every thread) summed over the lanes that differ in the bits low .. high of
   their number. If these are constants (`known`), every step halves the numbers too: one half is
   given away, the other one kept, so that 4 sums over 4 lanes take 3 shuffles and not 8.

   Exercise 6.4. The step in which half of the numbers are given away. */
DEVICE LaneSums lane_sums(float *v, const int count, const bool known, unsigned low, unsigned high)
{
    unsigned lane = threadIdx.x % 32;
    LaneSums sums = {count, 0, true};
    UNROLL
    for (unsigned bit = high; bit >= low && bit > 0; bit /= 2) {
        bool upper = (lane & bit) != 0;
        if (known && sums.count > 1) {
            int half = sums.count / 2;
            //> EX 6.4 [3 pts] [25 min] sums that are split while they are made
            //? Lanes whose number has the bit keep the upper half of v, the others the lower half.
            //? What a lane does not keep crosses over: __shfl_xor_sync(ALL_LANES, give, bit).
            //? Both lanes call the shuffle with what they give; the sum lands in v[i], i < half.
            UNROLL
            for (int i = 0; i < half; i++) {
                float give = upper ? v[i] : v[half + i], keep = upper ? v[half + i] : v[i];
                v[i] = keep + __shfl_xor_sync(ALL_LANES, give, bit);
            }
            //< EX 6.4
            sums.first += upper ? half : 0;
            sums.count = half;
        } else {
            UNROLL
            for (int i = 0; i < count; i++)
                if (i < sums.count)
                    v[i] += __shfl_xor_sync(ALL_LANES, v[i], bit);
            sums.mine = sums.mine && !upper;
        }
    }
    return sums;
}

/* The token's place in the tile for this thread's states. */
DEVICE const float *lane_states(const float *tile, unsigned i, const FusedPlace *at,
                                const FusedShape shape)
{
    return tile + (i * shape.lanes + at->part) * (unsigned)shape.states;
}

/* A tile, forwards: the loop all of this is about. The sums C . x go where Delta was. */
DEVICE void fused_forward(float *x, float *elapsed, const float *A2, const FusedTile *tile,
                          const ScanJob *job, const FusedPlace *at, size_t t,
                          const FusedShape shape)
{
    float *checkpoint = shape.mode == FUSED_READ ? job->scan.checkpoint : NULL;
    size_t kept = (job->scan.len - 1) / job->stretch + 1; /* checkpoints of a sequence */
    for (unsigned i0 = 0; i0 < (unsigned)shape.tokens; i0 += FUSED_GROUP) {
        float y[FUSED_GROUP] = {0.0f};
        if (checkpoint != NULL && (t + i0) % job->stretch == 0 && t + i0 < at->end)
            states_write(checkpoint, x,
                         (at->b * kept + (t + i0) / job->stretch) * job->scan.d_inner +
                             at->channel + at->worker,
                         job, at, shape.states);
        UNROLL
        for (int g = 0; g < FUSED_GROUP; g++) {
            unsigned i = i0 + (unsigned)g, e = i * at->channels + at->worker;
            float delta = tile->delta[e], drive = delta * tile->u[e], B[16], C[16];
            states_load(B, lane_states(tile->B, i, at, shape), shape.states);
            if (shape.mode == FUSED_READ)
                states_load(C, lane_states(tile->C, i, at, shape), shape.states);
            y[g] = 0.0f;
            UNROLL
            for (int k = 0; k < shape.states; k++) {
                x[k] = exp2_unit(delta * A2[k]) * x[k] + drive * B[k];
                if (shape.mode == FUSED_READ)
                    y[g] += C[k] * x[k];
            }
            *elapsed += delta;
        }
        if (shape.mode == FUSED_READ) {
            LaneSums sums = lane_sums(y, FUSED_GROUP, shape.lanes_known, 1, shape.lanes / 2);
            UNROLL
            for (int g = 0; g < FUSED_GROUP; g++)
                if (g < sums.count && sums.mine)
                    tile->delta[(i0 + (unsigned)(sums.first + g)) * at->channels + at->worker] =
                        y[g];
        }
    }
}

/* A tile backwards, only the state's gradient: dL/dx_{t-1} = A_bar_t (dL/dx_t + dL/dy_t C_t). */
DEVICE void fused_backward(float *x_grad, float *elapsed, const float *A2, const FusedTile *tile,
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

/* y of this thread's elements: the skip and the gate. */
DEVICE void fused_store(const FusedTile *tile, const ScanJob *job, const FusedPlace *at, size_t t,
                        const FusedShape shape)
{
    size_t d = at->channel + at->mover;
    if (job->y == NULL || d >= job->scan.d_inner)
        return;
    float D = skip_of(&job->scan, d);
    for (unsigned i = at->token; i < (unsigned)shape.tokens && t + i < at->end; i += shape.lanes) {
        unsigned e = i * at->channels + at->mover;
        float y = tile->delta[e] + D * tile->u[e];
        if (job->scan.z != NULL)
            y *= tile->z[e] * sigmoid_unit(tile->z[e]);
        job->y[(at->b * job->scan.len + t + i) * job->scan.d_inner + d] = y;
    }
}

/* The kernel: one piece of time of one sequence, FUSED_THREADS / lanes channels. Two tiles lie in
   shared memory: while one is worked on, the next one arrives. */
DEVICE void fused(const ScanJob *job, float *shared, const FusedShape shape)
{
    const FusedPlace at = fused_place(job, shape.lanes);
    const bool back = shape.mode == FUSED_END_BACK;
    unsigned wide = (unsigned)shape.tokens * at.channels;
    unsigned narrow = (unsigned)(shape.tokens * shape.states) * shape.lanes;
    size_t d = at.channel + at.worker, d_inner = job->scan.d_inner;
    size_t row = (at.b * job->pieces + at.piece) * d_inner + d; /* of arrays with pieces */
    size_t tiles = at.end > at.first ? (at.end - at.first - 1) / (size_t)shape.tokens + 1 : 0;
    float A2[16], x[16], elapsed = 0.0f;
    states_read(A2, job->scan.A, d, job, &at, shape.states);
    states_read(x, shape.mode == FUSED_READ ? job->start : NULL, row, job, &at, shape.states);
    UNROLL
    for (int k = 0; k < shape.states; k++)
        A2[k] *= LOG2_E;
    for (size_t s = 0; s <= tiles; s++) { /* round s fetches tile s and works on tile s - 1 */
        size_t fetch = back ? tiles - 1 - s : s, work = back ? fetch + 1 : s - 1;
        size_t t = at.first + work * (size_t)shape.tokens;
        FusedTile next = fused_tile(shared, s % 2, wide, narrow);
        FusedTile tile = fused_tile(shared, (s + 1) % 2, wide, narrow);
        if (s > 0) {
            __pipeline_wait_prior(0); /* this thread's own elements are there ... */
            fused_prepare(&tile, job, &at, t, shape);
        }
        __syncthreads(); /* ... and now everybody's; and nobody is in the other tile any more */
        if (s < tiles)
            fused_fetch(&next, job, &at, at.first + fetch * (size_t)shape.tokens, shape);
        if (s == 0)
            continue;
        if (back)
            fused_backward(x, &elapsed, A2, &tile, &at, shape);
        else
            fused_forward(x, &elapsed, A2, &tile, job, &at, t, shape);
        if (shape.mode == FUSED_READ) {
            __syncthreads(); /* all sums are there */
            fused_store(&tile, job, &at, t, shape);
        }
    }
    if (shape.mode == FUSED_READ) {
        if (at.piece + 1 == job->pieces)
            states_write(job->x_last, x, at.b * d_inner + d, job, &at, shape.states);
        return;
    }
    states_write(job->piece_x, x, row, job, &at, shape.states);
    UNROLL
    for (int k = 0; k < shape.states; k++) /* a product of exponentials in one */
        x[k] = exp2_unit(elapsed * A2[k]);
    states_write(job->piece_a, x, row, job, &at, shape.states);
}

/* The body with its constants put in: states * lanes >= d_state. The last is for any d_state. */
#define FUSED_KERNEL(name, states, tokens, known, lanes, mode)                                     \
    __global__ void __launch_bounds__(FUSED_THREADS) name(ScanJob job)                             \
    {                                                                                              \
        DYNAMIC_SHARED(float, shared);                                                             \
        const FusedShape shape = {states, tokens, known, lanes, mode};                             \
        fused(&job, shared, shape);                                                                \
    }                                                                                              \
    KERNEL(name, ScanJob)

FUSED_KERNEL(fused_16x1, 16, 8, true, 1, FUSED_READ)
FUSED_KERNEL(fused_8x2, 8, 16, true, 2, FUSED_READ)
FUSED_KERNEL(fused_4x4, 4, 16, true, 4, FUSED_READ)
FUSED_KERNEL(fused_8xn, 8, 8, false, job.lanes, FUSED_READ)

/* ==================================== 5. Time in pieces ==================================== */
/* Idea: where channels are few, time is cut into pieces after all, a block each, in three      */
/* phases: where does each piece end if it starts from 0, and by what does it multiply a state; */
/* then a short loop over the pieces' ends; then kernel 4 for every piece, from the right       */
/* start.                                                                                       */
/* Costs: every exponential twice, and u, delta and B are read twice.                           */

FUSED_KERNEL(piece_end_16x1, 16, 8, true, 1, FUSED_END)
FUSED_KERNEL(piece_end_8x2, 8, 16, true, 2, FUSED_END)
FUSED_KERNEL(piece_end_4x4, 4, 16, true, 4, FUSED_END)
FUSED_KERNEL(piece_end_8xn, 8, 8, false, job.lanes, FUSED_END)

enum { CARRY_THREADS = 128, CARRY_AHEAD = 8 };

/* A thread a state: where every piece ends becomes where the next one starts. The ends of
   CARRY_AHEAD pieces are asked for at once, so that the loop waits for memory once in so many.

   Exercise 6.5. Carry a state on from piece to piece. */
__global__ void scan_carry(ScanJob job)
{
    size_t states = job.scan.d_inner * job.scan.d_state;
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= job.scan.batch * states)
        return;
    float x = job.start != NULL ? job.start[i] : 0.0f;
    for (size_t done = 0; done < job.pieces; done += CARRY_AHEAD) {
        float a[CARRY_AHEAD], end[CARRY_AHEAD];
        size_t at[CARRY_AHEAD];
        UNROLL
        for (size_t k = 0; k < CARRY_AHEAD; k++) {
            size_t p = least_of(done + k, job.pieces - 1);
            p = job.backwards ? job.pieces - 1 - p : p;
            at[k] = (i / states * job.pieces + p) * states + i % states;
            a[k] = job.piece_a[at[k]];
            end[k] = job.piece_x[at[k]];
        }
        UNROLL
        for (size_t k = 0; k < CARRY_AHEAD; k++) {
            if (done + k >= job.pieces)
                continue;
            //> EX 6.5 [2 pts] [10 min] from piece to piece
            //? A piece that starts from x ends in a x + end, where end is what it ends in from 0.
            //? piece_x[at[k]] is to hold what this piece starts from, x what the next one does.
            job.piece_x[at[k]] = x;
            x = a[k] * x + end[k];
            //< EX 6.5
        }
    }
}
KERNEL(scan_carry, ScanJob)

/* ==================================== The scan, backwards ================================== */
/* Chapter 4's derivation, a tile of tokens at a time from the last to the first. The forward   */
/* pass has kept the states before every tile (Scan.checkpoint); the tile is run again from     */
/* there with its states in registers. dL/dB and dL/dC are sums over channels: over the lanes   */
/* of a warp by shuffles, over the warps through shared memory, over the blocks by a kernel of  */
/* its own. Nothing is added by atomics, so every run gives the same bits.                      */

/* What is compiled for: the states and tokens of a thread's registers. A tile is a stretch. */
typedef struct {
    int states, tokens;
    bool lanes_known;
    unsigned lanes;
} BackShape;

/* In shared memory: what is fetched, twice; what is worked out. Rows of tokens. */
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
                       size_t t, const BackShape shape)
{
    const Scan *scan = &job->scan;
    unsigned states = shape.lanes * (unsigned)shape.states;
    rows_fetch(tile->u, scan->u, job, at, t, shape.tokens, shape.lanes);
    rows_fetch(tile->raw, scan->delta, job, at, t, shape.tokens, shape.lanes);
    if (scan->z != NULL)
        rows_fetch(tile->z, scan->z, job, at, t, shape.tokens, shape.lanes);
    rows_fetch(tile->y_grad, job->y_grad, job, at, t, shape.tokens, shape.lanes);
    states_fetch(tile->B, scan->B, job, at, t, shape.tokens, states);
    states_fetch(tile->C, scan->C, job, at, t, shape.tokens, states);
    __pipeline_commit();
}

/* Before the states: Delta, and dL/dy through the gate. */
DEVICE void back_prepare(const BackTileShared *tile, const ScanJob *job, const FusedPlace *at,
                         size_t t, const BackShape shape)
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
                        const BackShape shape)
{
    const FusedShape rows = {shape.states, shape.tokens, shape.lanes_known, shape.lanes,
                             FUSED_READ};
    UNROLL
    for (int i0 = 0; i0 < shape.tokens; i0 += FUSED_GROUP) {
        float y[FUSED_GROUP] = {0.0f};
        UNROLL
        for (int g = 0; g < FUSED_GROUP; g++) {
            unsigned i = (unsigned)(i0 + g), e = i * at->channels + at->worker;
            float delta = tile->delta[e], drive = delta * tile->u[e], B[8], C[8];
            float *after = x + (i0 + g + 1) * shape.states;
            states_load(B, lane_states(tile->B, i, at, rows), shape.states);
            states_load(C, lane_states(tile->C, i, at, rows), shape.states);
            y[g] = 0.0f;
            UNROLL
            for (int k = 0; k < shape.states; k++) {
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

/* The tile from its last token to its first. */
DEVICE void back_tokens(float *x_grad, float *A_grad, const float *x, const float *A2,
                        const BackTileShared *tile, const FusedPlace *at, const BackShape shape)
{
    const FusedShape rows = {shape.states, shape.tokens, shape.lanes_known, shape.lanes,
                             FUSED_READ};
    unsigned states = shape.lanes * (unsigned)shape.states, warp = threadIdx.x / 32;
    UNROLL
    for (int i = shape.tokens - 1; i >= 0; i--) {
        unsigned e = (unsigned)i * at->channels + at->worker;
        float B[8], C[8], BC[16] = {0.0f}, AB[2] = {0.0f};
        const float *before = x + i * shape.states;
        states_load(B, lane_states(tile->B, (unsigned)i, at, rows), shape.states);
        states_load(C, lane_states(tile->C, (unsigned)i, at, rows), shape.states);
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
                        const ScanJob *job, const FusedPlace *at, size_t t, const BackShape shape)
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
                             size_t t, const BackShape shape)
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
                              const FusedPlace *at, const BackShape shape)
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

/* The kernel: as `fused`, from the last tile to the first; x is a tile's states. */
DEVICE void fused_back(const ScanJob *job, float *shared, float *x, const BackShape shape)
{
    const FusedPlace at = fused_place(job, shape.lanes);
    unsigned wide = (unsigned)shape.tokens * at.channels;
    unsigned narrow = (unsigned)(shape.tokens * shape.states) * shape.lanes;
    size_t d = at.channel + at.worker, d_inner = job->scan.d_inner;
    size_t row = (at.b * job->pieces + at.piece) * d_inner + d;
    size_t tiles = at.end > at.first ? (at.end - at.first - 1) / (size_t)shape.tokens + 1 : 0;
    size_t kept = at.b * ((job->scan.len - 1) / job->stretch + 1);
    float A2[8], x_grad[8], A_grad[8], D_grad = 0.0f, bias_grad = 0.0f;
    states_read(A2, job->scan.A, d, job, &at, shape.states);
    states_read(x_grad, job->start, row, job, &at, shape.states);
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
            states_read(x, job->scan.checkpoint, (kept + t / job->stretch) * d_inner + d, job, &at,
                        shape.states);
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
    states_write(job->grad.A, A_grad, row, job, &at, shape.states);
    if (at.piece == 0)
        states_write(job->grad.x_start, x_grad, at.b * d_inner + d, job, &at, shape.states);
    back_channel_sums(shared, D_grad, bias_grad, job, &at, shape);
}

__global__ void __launch_bounds__(FUSED_THREADS) back_4x4(ScanJob job)
{
    DYNAMIC_SHARED(float, shared);
    const BackShape shape = {4, 16, true, 4};
    float x[17 * 4];
    fused_back(&job, shared, x, shape);
}
KERNEL(back_4x4, ScanJob)

__global__ void __launch_bounds__(FUSED_THREADS) back_8xn(ScanJob job)
{
    DYNAMIC_SHARED(float, shared);
    const BackShape shape = {8, 8, false, job.lanes};
    float x[9 * 8];
    fused_back(&job, shared, x, shape);
}
KERNEL(back_8xn, ScanJob)

/* Where pieces of time end, backwards. */
FUSED_KERNEL(piece_end_back_4x4, 4, 16, true, 4, FUSED_END_BACK)
FUSED_KERNEL(piece_end_back_8xn, 8, 8, false, job.lanes, FUSED_END_BACK)

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

/* ==================================== Which kernel, and how ================================= */

typedef enum {
    SCAN_CHANNELS,
    SCAN_HILLIS_STEELE,
    SCAN_BLELLOCH,
    SCAN_SHUFFLE,
    SCAN_FUSED,
    SCAN_PIECES,
    SCAN_KERNELS /* how many; and: choose one */
} ScanKernel;

static const char *const scan_kernel_name[SCAN_KERNELS + 1] = {
    "channel", "hillis-steele", "blelloch", "shuffle", "fused", "pieces", "chosen"};

/* How a scan is laid out on a GPU. */
typedef struct {
    ScanKernel kernel;
    unsigned lanes;           /* to a channel, in kernels 4 and 5 and backwards: 1, 2, 4 ... 32 */
    size_t pieces, piece_len; /* of time; 1 and len but in kernel 5 */
} ScanPlan;

/* The GPU, or what stands in for it. */
typedef struct {
    char name[256];
    size_t processors; /* each of which runs several blocks at once */
} CudaDevice;

enum {
    WARPS_WANTED = 8,  /* on each processor: two for each of its four schedulers */
    PIECE_UNIT = 16,   /* pieces are multiples of every tile and stretch */
    PIECE_LEAST = 128, /* tokens: a shorter piece costs more than it brings */
    GRID_MOST = 2147483647
};

static size_t ceil_div(size_t a, size_t b)
{
    return a / b + (a % b != 0);
}

/* Tokens between two checkpoints: what the backward kernel holds in registers. */
static size_t scan_stretch(const Scan *scan)
{
    return scan->d_state <= 16 ? 16 : 8;
}

/* The fewest and the most lanes that a kernel is compiled for. */
static unsigned lanes_least(const Scan *scan)
{
    unsigned lanes = 1;
    while (scan->d_state > 16 && lanes * 8 < scan->d_state)
        lanes *= 2;
    return lanes;
}

static unsigned lanes_most(const Scan *scan)
{
    return scan->d_state <= 16 ? 4 : lanes_least(scan);
}

static size_t warps_of(const Scan *scan, unsigned lanes)
{
    return scan->batch * ceil_div(scan->d_inner * lanes, 32);
}

/* Time cut so that `wanted` warps have work, if they have not already. */
static void plan_pieces(ScanPlan *plan, const Scan *scan, size_t pieces)
{
    size_t unit = ceil_div(ceil_div(scan->len, pieces), PIECE_UNIT) * PIECE_UNIT;
    plan->piece_len = pieces > 1 ? unit : ceil_div(scan->len, PIECE_UNIT) * PIECE_UNIT;
    plan->pieces = ceil_div(scan->len, plan->piece_len);
}

/* The layout for a kernel, or, for SCAN_KERNELS, the kernel and its layout. Lanes are added until
   there are enough warps; where they do not suffice, time is cut, which doubles the exponentials
   and so must at least triple the warps. */
ScanPlan scan_plan(const Scan *scan, ScanKernel kernel, size_t processors)
{
    ScanPlan plan = {kernel, lanes_least(scan), 1, 0};
    size_t wanted = processors * WARPS_WANTED;
    while (plan.lanes < lanes_most(scan) && warps_of(scan, plan.lanes) < wanted)
        plan.lanes *= 2;
    size_t pieces = wanted / warps_of(scan, plan.lanes);
    pieces = smaller(pieces, scan->len / PIECE_LEAST);
    if (kernel == SCAN_KERNELS)
        plan.kernel = pieces >= 3 ? SCAN_PIECES : SCAN_FUSED;
    if (kernel == SCAN_PIECES && pieces < 2)
        pieces = 2;
    plan_pieces(&plan, scan, plan.kernel == SCAN_PIECES ? pieces : 1);
    return plan;
}

/* The same backwards, which always has four lanes or more. */
static ScanPlan scan_back_plan(const Scan *scan, size_t processors)
{
    ScanPlan plan = {SCAN_FUSED, lanes_most(scan), 1, 0};
    size_t pieces = processors * WARPS_WANTED / warps_of(scan, plan.lanes);
    pieces = smaller(pieces, scan->len / PIECE_LEAST);
    plan.kernel = pieces >= 3 ? SCAN_PIECES : SCAN_FUSED;
    plan_pieces(&plan, scan, plan.kernel == SCAN_PIECES ? pieces : 1);
    return plan;
}

/* ==================================== The host's side ====================================== */
/* Every call that can fail is asked whether it did, and says so in a sentence.                 */

static bool cuda_ok(cudaError_t result, const char *doing, Error *error)
{
    return result == cudaSuccess || fail(error, "%s: %s", doing, cudaGetErrorString(result));
}

/* The first GPU, or a sentence why there is none. */
bool cuda_device_open(CudaDevice *device, Error *error)
{
    cudaDeviceProp properties;
    int count = 0;
    cudaError_t result = cudaGetDeviceCount(&count);
    if (result != cudaSuccess || count < 1)
        return fail(error, "no GPU answers (%s); the same kernels run on the CPU: see --help",
                    result != cudaSuccess ? cudaGetErrorString(result) : "there is none");
    if (!cuda_ok(cudaGetDeviceProperties(&properties, 0), "asking the GPU what it is", error))
        return false;
    snprintf(device->name, sizeof device->name, "%s", properties.name);
    device->processors = (size_t)properties.multiProcessorCount;
    return true;
}

/* Arrays on the device, to be freed together. */
enum { DEVICE_ARRAYS = 48 };
typedef struct {
    void *array[DEVICE_ARRAYS];
    size_t count;
} DeviceMemory;

/* `ok` is whether all went well so far, and what is returned, unless freeing fails. */
static bool device_free(DeviceMemory *memory, bool ok, Error *error)
{
    while (memory->count > 0) {
        cudaError_t result = cudaFree(memory->array[--memory->count]);
        ok =
            ok && cuda_ok(result, "freeing memory", error); /* the first thing that failed counts */
    }
    return ok;
}

/* floats on the device, for at least one; false with how many were wanted and how much is free. */
static bool device_new(float **array, DeviceMemory *memory, size_t floats, Error *error)
{
    size_t bytes = (floats + !floats) * sizeof(float), unused = 0, total = 0;
    void *got = NULL;
    cudaError_t result = cudaMalloc(&got, bytes);
    assert(memory->count < DEVICE_ARRAYS);
    *array = (float *)got;
    if (result == cudaSuccess) {
        memory->array[memory->count++] = got;
        return true;
    }
    cudaGetLastError(); /* it has been seen: the next call must not report it again */
    if (result != cudaErrorMemoryAllocation)
        return cuda_ok(result, "asking the GPU for memory", error);
    if (cudaMemGetInfo(&unused, &total) != cudaSuccess)
        unused = 0;
    return fail(error, "the GPU has too little memory: %.1f MB more are wanted, %.1f MB are free",
                1e-6 * (double)bytes, 1e-6 * (double)unused);
}

/* A copy of a host's array on the device; NULL stays NULL. */
static bool device_put(const float **array, DeviceMemory *memory, const float *host, size_t floats,
                       Error *error)
{
    float *got = NULL;
    *array = NULL;
    if (host == NULL)
        return true;
    if (!device_new(&got, memory, floats, error))
        return false;
    *array = got;
    return cuda_ok(cudaMemcpy(got, host, floats * sizeof(float), cudaMemcpyHostToDevice),
                   "copying to the GPU", error);
}

static bool device_get(float *host, const float *array, size_t floats, Error *error)
{
    return host == NULL || array == NULL ||
           cuda_ok(cudaMemcpy(host, array, floats * sizeof(float), cudaMemcpyDeviceToHost),
                   "copying from the GPU", error);
}

/* Starts a kernel on so many blocks in a row. Above 48 KiB shared memory must be asked for. */
#define START(kernel, blocks, threads, shared, job, error)                                         \
    do {                                                                                           \
        dim3 start_grid = {(unsigned)(blocks), 1, 1}, start_block = {(unsigned)(threads), 1, 1};   \
        if ((blocks) > GRID_MOST)                                                                  \
            return fail(error, #kernel ": %zu blocks are more than a GPU takes", (blocks));        \
        if ((shared) > 48 * 1024 &&                                                                \
            !cuda_ok(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,     \
                                          (int)(shared)),                                          \
                     #kernel ": asking for shared memory", error))                                 \
            return false;                                                                          \
        LAUNCH(kernel, start_grid, start_block, shared, job);                                      \
        return cuda_ok(cudaGetLastError(), "starting " #kernel, error);                            \
    } while (0)

/* Bytes of shared memory and blocks of the fused kernels. */
static size_t fused_shared(unsigned lanes, unsigned states, unsigned tokens)
{
    size_t wide = (size_t)tokens * FUSED_THREADS / lanes, narrow = (size_t)tokens * states * lanes;
    return 2 * (3 * wide + 2 * narrow) * sizeof(float);
}

static size_t back_shared(unsigned lanes, unsigned states, unsigned tokens)
{
    size_t wide = (size_t)tokens * FUSED_THREADS / lanes, narrow = (size_t)tokens * states * lanes;
    size_t sums = (size_t)FUSED_THREADS / 32 * 2 * narrow;
    return (2 * (4 * wide + 2 * narrow) + 5 * wide + sums) * sizeof(float);
}

static size_t channel_blocks(const Scan *scan, unsigned lanes)
{
    return ceil_div(scan->d_inner, FUSED_THREADS / lanes);
}

static size_t fused_blocks(const ScanJob *job)
{
    return channel_blocks(&job->scan, job->lanes) * job->pieces * job->scan.batch;
}

/* Kernel 4's body for these lanes, and what kernel 5 does before it. */
static bool start_fused(const ScanJob *job, Error *error)
{
    size_t blocks = fused_blocks(job);
    if (job->scan.d_state > 16 || (job->lanes == 1 && job->scan.d_state <= 8))
        START(fused_8xn, blocks, FUSED_THREADS, fused_shared(job->lanes, 8, 8), *job, error);
    if (job->lanes == 1)
        START(fused_16x1, blocks, FUSED_THREADS, fused_shared(1, 16, 8), *job, error);
    if (job->lanes == 2)
        START(fused_8x2, blocks, FUSED_THREADS, fused_shared(2, 8, 16), *job, error);
    START(fused_4x4, blocks, FUSED_THREADS, fused_shared(4, 4, 16), *job, error);
}

static bool start_piece_end(const ScanJob *job, Error *error)
{
    size_t blocks = fused_blocks(job);
    if (job->scan.d_state > 16 || (job->lanes == 1 && job->scan.d_state <= 8))
        START(piece_end_8xn, blocks, FUSED_THREADS, fused_shared(job->lanes, 8, 8), *job, error);
    if (job->lanes == 1)
        START(piece_end_16x1, blocks, FUSED_THREADS, fused_shared(1, 16, 8), *job, error);
    if (job->lanes == 2)
        START(piece_end_8x2, blocks, FUSED_THREADS, fused_shared(2, 8, 16), *job, error);
    START(piece_end_4x4, blocks, FUSED_THREADS, fused_shared(4, 4, 16), *job, error);
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

static bool start_carry(const ScanJob *job, Error *error)
{
    size_t states = job->scan.batch * job->scan.d_inner * job->scan.d_state;
    START(scan_carry, ceil_div(states, CARRY_THREADS), CARRY_THREADS, (size_t)0, *job, error);
}

static bool start_sum(SumJob job, Error *error)
{
    if (job.to == NULL)
        return true;
    START(sum_parts, ceil_div(job.count, SUM_THREADS), SUM_THREADS, (size_t)0, job, error);
}

/* Kernels 0 to 3, which scan a channel a thread or a channel a block. */
static bool start_simple(const ScanJob *job, ScanKernel kernel, Error *error)
{
    size_t channels = job->scan.batch * job->scan.d_inner;
    if (kernel == SCAN_CHANNELS)
        START(scan_channels, job->scan.batch * ceil_div(job->scan.d_inner, CHANNEL_THREADS),
              CHANNEL_THREADS, (size_t)0, *job, error);
    if (kernel == SCAN_HILLIS_STEELE)
        START(scan_hillis_steele, channels, TIME_THREADS, (size_t)0, *job, error);
    if (kernel == SCAN_BLELLOCH)
        START(scan_blelloch, channels, SWEEP_THREADS, (size_t)0, *job, error);
    START(scan_shuffle, channels, SHUFFLE_THREADS, (size_t)0, *job, error);
}

/* The whole forward pass: all kernels of it are started, none is waited for. */
static bool start_forward(const ScanJob *job, const ScanPlan *plan, Error *error)
{
    ScanJob now = *job;
    now.lanes = plan->lanes;
    now.pieces = plan->pieces;
    now.piece_len = plan->piece_len;
    now.start = job->scan.x_start;
    if (plan->kernel < SCAN_FUSED)
        return start_simple(&now, plan->kernel, error);
    if (plan->pieces > 1) {
        if (!start_piece_end(&now, error) || !start_carry(&now, error))
            return false;
        now.start = job->piece_x;
    }
    return start_fused(&now, error);
}

/* The backward pass. `job` holds what its blocks write, `whole` what comes out when their parts are
   added up; x_last_grad (batch, d_inner, d_state) or NULL. */
static bool start_backward(const ScanGrad *whole, const float *x_last_grad, const ScanJob *job,
                           const ScanPlan *plan, Error *error)
{
    const Scan *scan = &job->scan;
    size_t states = scan->d_inner * scan->d_state, shared = scan->batch * scan->len * scan->d_state;
    size_t pieces = scan->batch * plan->pieces, blocks = channel_blocks(scan, plan->lanes);
    ScanJob now = *job;
    now.lanes = plan->lanes;
    now.pieces = plan->pieces;
    now.piece_len = plan->piece_len;
    now.start = x_last_grad;
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

/* ---- a scan with all its arrays on the device ---- */

typedef struct {
    DeviceMemory memory;
    ScanJob job;              /* forward and backward */
    ScanPlan plan, back_plan; /* how */
    ScanGrad grad;            /* what comes out backwards */
    const float *x_last_grad;
} DeviceScan;

static bool scan_fits(const Scan *scan, Error *error)
{
    if (scan->d_state < 1 || scan->d_state > SCAN_MAX_STATE)
        return fail(error, "d_state %zu: the kernels take 1 to %d", scan->d_state, SCAN_MAX_STATE);
    if (scan->batch * scan->len * scan->d_inner == 0)
        return fail(error, "a scan without tokens or channels has nothing for a GPU");
    return true;
}

/* The inputs, and room for y and x_last. Closed by device_scan_close, whatever it returned. */
static bool device_scan_open(DeviceScan *on, const Scan *scan, const ScanPlan *plan, Error *error)
{
    DeviceMemory *memory = &on->memory;
    size_t wide = scan->batch * scan->len * scan->d_inner, A = scan->d_inner * scan->d_state;
    size_t shared = scan->batch * scan->len * scan->d_state, ends = plan->pieces * scan->batch * A;
    memset(on, 0, sizeof *on);
    on->plan = *plan;
    on->job.scan = *scan;
    on->job.scan.checkpoint = NULL;
    on->job.stretch = scan_stretch(scan);
    Scan *device = &on->job.scan;
    return scan_fits(scan, error) && device_put(&device->u, memory, scan->u, wide, error) &&
           device_put(&device->delta, memory, scan->delta, wide, error) &&
           device_put(&device->delta_bias, memory, scan->delta_bias, scan->d_inner, error) &&
           device_put(&device->A, memory, scan->A, A, error) &&
           device_put(&device->B, memory, scan->B, shared, error) &&
           device_put(&device->C, memory, scan->C, shared, error) &&
           device_put(&device->D, memory, scan->D, scan->d_inner, error) &&
           device_put(&device->z, memory, scan->z, wide, error) &&
           device_put(&device->x_start, memory, scan->x_start, scan->batch * A, error) &&
           device_new(&on->job.y, memory, wide, error) &&
           device_new(&on->job.x_last, memory, scan->batch * A, error) &&
           (plan->pieces == 1 || (device_new(&on->job.piece_x, memory, ends, error) &&
                                  device_new(&on->job.piece_a, memory, ends, error)));
}

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

/* What the backward pass wants besides: checkpoints, dL/dy, room for the gradients of `grad`. */
static bool device_scan_open_back(DeviceScan *on, const ScanGrad *grad, const float *y_grad,
                                  const float *x_last_grad, size_t processors, Error *error)
{
    const Scan *scan = &on->job.scan;
    DeviceMemory *memory = &on->memory;
    size_t wide = scan->batch * scan->len * scan->d_inner, A = scan->d_inner * scan->d_state;
    size_t shared = scan->batch * scan->len * scan->d_state, d_inner = scan->d_inner;
    size_t kept = scan->batch * ceil_div(scan->len, on->job.stretch) * A;
    on->back_plan = scan_back_plan(scan, processors);
    size_t pieces = on->back_plan.pieces * scan->batch;
    size_t blocks = channel_blocks(scan, on->back_plan.lanes);
    ScanGrad *part = &on->job.grad, *whole = &on->grad;
    bool ok = device_new(&on->job.scan.checkpoint, memory, kept, error) &&
              device_put(&on->job.y_grad, memory, y_grad, wide, error) &&
              device_put(&on->x_last_grad, memory, x_last_grad, scan->batch * A, error) &&
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
    if (ok && on->back_plan.pieces > on->plan.pieces) /* forwards fewer may have been enough */
        ok = device_new(&on->job.piece_x, memory, pieces * A, error) &&
             device_new(&on->job.piece_a, memory, pieces * A, error);
    return ok;
}

static bool device_scan_close(DeviceScan *on, bool ok, Error *error)
{
    return device_free(&on->memory, ok, error);
}

/* selective_scan on the GPU, or on what stands in for it: the same to rounding, from arrays of the
   host to arrays of the host; x_last may be NULL. `kernel`: SCAN_KERNELS leaves the choice to
   scan_plan. scan->checkpoint is not filled. d_state is at most 256; false, with y and x_last as
   they were, if it is not, or if there is no GPU or too little memory. */
bool cuda_scan(float *y, float *x_last, const Scan *scan, ScanKernel kernel, Error *error)
{
    CudaDevice device;
    DeviceScan on;
    size_t wide = scan->batch * scan->len * scan->d_inner;
    size_t states = scan->batch * scan->d_inner * scan->d_state;
    if (!scan_fits(scan, error) || !cuda_device_open(&device, error))
        return false;
    ScanPlan plan = scan_plan(scan, kernel, device.processors);
    bool ok =
        device_scan_open(&on, scan, &plan, error) && start_forward(&on.job, &on.plan, error) &&
        cuda_ok(cudaDeviceSynchronize(), "scanning", error) &&
        device_get(y, on.job.y, wide, error) && device_get(x_last, on.job.x_last, states, error);
    return device_scan_close(&on, ok, error);
}

/* The host's gradients from the device's. */
static bool device_scan_get_grad(const ScanGrad *grad, const DeviceScan *on, Error *error)
{
    const Scan *scan = &on->job.scan;
    size_t wide = scan->batch * scan->len * scan->d_inner, A = scan->d_inner * scan->d_state;
    size_t shared = scan->batch * scan->len * scan->d_state;
    return device_get(grad->u, on->grad.u, wide, error) &&
           device_get(grad->delta, on->grad.delta, wide, error) &&
           device_get(grad->delta_bias, on->grad.delta_bias, scan->d_inner, error) &&
           device_get(grad->A, on->grad.A, A, error) &&
           device_get(grad->B, on->grad.B, shared, error) &&
           device_get(grad->C, on->grad.C, shared, error) &&
           device_get(grad->D, on->grad.D, scan->d_inner, error) &&
           device_get(grad->z, on->grad.z, wide, error) &&
           device_get(grad->x_start, on->grad.x_start, scan->batch * A, error);
}

/* selective_scan_backward on the GPU: the same to rounding, and the same bits in every run. The
   forward pass is made first, for the states before every tile. */
bool cuda_scan_backward(const ScanGrad *grad, const float *y_grad, const float *x_last_grad,
                        const Scan *scan, Error *error)
{
    CudaDevice device;
    DeviceScan on;
    if (!scan_fits(scan, error) || !cuda_device_open(&device, error))
        return false;
    ScanPlan plan = scan_plan(scan, SCAN_KERNELS, device.processors);
    bool ok = device_scan_open(&on, scan, &plan, error) &&
              device_scan_open_back(&on, grad, y_grad, x_last_grad, device.processors, error) &&
              start_forward(&on.job, &on.plan, error) &&
              start_backward(&on.grad, on.x_last_grad, &on.job, &on.back_plan, error) &&
              cuda_ok(cudaDeviceSynchronize(), "scanning backwards", error) &&
              device_scan_get_grad(grad, &on, error);
    return device_scan_close(&on, ok, error);
}

/* ======================================= The demos ========================================= */

/* A scan of random numbers with everything that a scan can have but a start. */
static BenchScan demo_scan_new(size_t batch, size_t len, size_t d_inner, size_t d_state)
{
    BenchScan bench = bench_scan_new(batch, len, d_inner, d_state);
    bench.scan.checkpoint = NULL; /* chapter 4 keeps its own way back, and wants room for it */
    free(bench.work);
    bench.work = NEW(float, selective_scan_backward_floats(&bench.scan));
    return bench;
}

/* The largest |a - b| over the largest |b|; NaN if there is one. */
static double difference_of(const float *a, const float *b, size_t count)
{
    double worst = 0.0, size = 0.0;
    for (size_t i = 0; i < count; i++) {
        double difference = fabs((double)a[i] - (double)b[i]);
        if (isnan(difference))
            return difference;
        worst = fmax(worst, difference);
        size = fmax(size, fabs((double)b[i]));
    }
    return size > 0.0 ? worst / size : worst;
}

/* In which order the threads run, where that can be chosen. */
static const char *const order_name[3] = {"in order", "backwards", "shuffled"};

static void use_order(int order, uint64_t seed)
{
#ifdef CUDA_ON_CPU
    cuda_cpu_order((CudaCpuOrder)order, seed);
#else
    (void)order, (void)seed; /* a GPU takes its own */
#endif
}

static int orders(void)
{
#ifdef CUDA_ON_CPU
    return 3;
#else
    return 1;
#endif
}

static const char *yes_no(bool yes)
{
    return yes ? "yes" : "no";
}

/* Every kernel on one scan, under every order of threads, against chapter 4's clear one. */
static bool demo_ladder(const Look *look, const char *svg, uint64_t seed, Error *error)
{
    BenchScan bench = demo_scan_new(2, 700, 8, 16);
    size_t count = 2 * 700 * 8;
    float *want = NEW(float, count), *first = NEW(float, count);
    bool ok = true;
    (void)look, (void)svg;
    selective_scan(want, NULL, &bench.scan);
    printf("The ladder on batch 2, len 700, d_inner 8, d_state 16: chapter 4's y to 1e-5, and the\n"
           "same bits for threads that run in order, backwards, or shuffled (seed %" PRIu64
           ")?\n\n",
           seed);
    puts("  kernel          agrees   same bits");
    for (int kernel = 0; ok && kernel < SCAN_KERNELS; kernel++) {
        bool near = true, same = true;
        for (int order = 0; ok && order < orders(); order++) {
            use_order(order, seed);
            ok = cuda_scan(bench.y, NULL, &bench.scan, (ScanKernel)kernel, error);
            if (ok && order == 0)
                memcpy(first, bench.y, count * sizeof(float));
            near = near && difference_of(bench.y, want, count) <= 1e-5;
            same = same && memcmp(first, bench.y, count * sizeof(float)) == 0;
        }
        if (ok)
            printf("  %d %-13s %6s %11s\n", kernel, scan_kernel_name[kernel], yes_no(near),
                   yes_no(same));
    }
    use_order(0, 0);
    bench_scan_free(&bench);
    free(want);
    free(first);
    return ok;
}

/* ---- work and depth ---- */

/* What a scan of `len` steps takes. */
typedef struct {
    size_t joins, depth, barriers;
} ScanWork;

static ScanWork work_of_loop(size_t len)
{
    ScanWork work = {len - 1, len - 1, 0};
    return work;
}

static ScanWork work_of_hillis_steele(size_t len)
{
    ScanWork work = {0, 0, 1};
    for (size_t reach = 1; reach < len; reach *= 2) {
        work.joins += len - reach;
        work.depth++;
        work.barriers++;
    }
    return work;
}

/* len a power of two: up, down, and each step joined with what came before it. */
static ScanWork work_of_blelloch(size_t len)
{
    ScanWork work = {len, 1, 1};
    for (size_t width = 1; width < len; width *= 2) {
        work.joins += 2 * (len / (2 * width));
        work.depth += 2;
        work.barriers += 2;
    }
    return work;
}

/* A thread joins its four, a warp its 32 threads, then a thread what the warps before it ended in,
   and its four once more. */
static ScanWork work_of_shuffle(size_t len)
{
    size_t threads = len / SHUFFLE_ITEMS, warps = threads / 32, lane_joins = 0;
    for (size_t by = 1; by < 32; by *= 2)
        lane_joins += 32 - by;
    ScanWork work = {threads * (2 * SHUFFLE_ITEMS) + warps * lane_joins, 0, 1};
    for (size_t warp = 0; warp < warps; warp++)
        work.joins += 32 * (warp + 1);
    work.depth = 2 * SHUFFLE_ITEMS + 5 + warps;
    return work;
}

static void print_work(const char *name, ScanWork work, size_t len)
{
    printf("  %-16s %8zu %8.2f %7zu %9zu\n", name, work.joins, (double)work.joins / (double)len,
           work.depth, work.barriers);
}

static bool demo_work(const Look *look, const char *svg, uint64_t seed, Error *error)
{
    enum { LEN = SHUFFLE_TOKENS, LENGTHS = 10 };
    double len[LENGTHS], depth[3][LENGTHS];
    (void)seed;
    printf("One state, %d steps: joins in all and for each step; depth, the longest row of joins\n"
           "that wait for each other; barriers of the block\n\n",
           LEN);
    puts("                      joins  a step   depth  barriers");
    print_work("loop", work_of_loop(LEN), LEN);
    print_work("Hillis, Steele", work_of_hillis_steele(LEN), LEN);
    print_work("Blelloch", work_of_blelloch(LEN), LEN);
    print_work("warp shuffles", work_of_shuffle(LEN), LEN);
    for (size_t i = 0; i < LENGTHS; i++) {
        size_t steps = (size_t)2 << i;
        len[i] = (double)steps;
        depth[0][i] = (double)work_of_loop(steps).depth;
        depth[1][i] = (double)work_of_hillis_steele(steps).depth;
        depth[2][i] = (double)work_of_blelloch(steps).depth;
    }
    Chart chart = chart_new("How many joins wait for each other", "steps", "depth");
    chart.log_x = chart.log_y = true;
    chart_add(&chart, "loop", MARK_LINE, len, depth[0], LENGTHS);
    chart_add(&chart, "Hillis, Steele", MARK_LINE, len, depth[1], LENGTHS);
    chart_add(&chart, "Blelloch", MARK_LINE, len, depth[2], LENGTHS);
    return show_chart(&chart, look, svg, error);
}

/* ---- banks ---- */

/* In how many turns a warp gets these words (lanes of them) of shared memory: the most different
   words that lie in one of its 32 banks. */
unsigned bank_turns(const unsigned *word, unsigned lanes)
{
    unsigned most = 0;
    for (unsigned bank = 0; bank < 32; bank++) {
        unsigned turns = 0;
        for (unsigned i = 0; i < lanes; i++) {
            bool again = word[i] % 32 != bank;
            for (unsigned k = 0; k < i && !again; k++)
                again = word[k] == word[i];
            turns += !again;
        }
        most = turns > most ? turns : most;
    }
    return most;
}

/* The turns of the first warp in a round of the sweeps, without gaps or as swept_place has them. */
unsigned sweep_turns(unsigned width, bool gaps)
{
    unsigned word[32], lanes = 0;
    for (unsigned i = 0; i < 32; i++) {
        unsigned t = 2 * width * (i + 1) - 1;
        if (t < SWEEP_TOKENS)
            word[lanes++] = gaps ? swept_place(t) : t;
    }
    return bank_turns(word, lanes);
}

static bool demo_banks(const Look *look, const char *svg, uint64_t seed, Error *error)
{
    enum { ROUNDS = 8 };
    double width[ROUNDS], plain[ROUNDS], gaps[ROUNDS];
    (void)seed;
    printf("Blelloch's sweep over %d elements: in how many turns the first warp gets its words\n\n",
           SWEEP_TOKENS);
    puts("  width  threads   without gaps   a gap after every 32");
    for (int i = 0; i < ROUNDS; i++) {
        unsigned w = 1u << i, threads = SWEEP_TOKENS / (2 * w);
        width[i] = (double)w;
        plain[i] = (double)sweep_turns(w, false);
        gaps[i] = (double)sweep_turns(w, true);
        printf("  %5u %8u %14.0f %22.0f\n", w, threads < 32 ? threads : 32, plain[i], gaps[i]);
    }
    Chart chart = chart_new("Turns of a warp in Blelloch's sweep", "width of the round", "turns");
    chart.log_x = true;
    chart_add(&chart, "without gaps", MARK_LINE, width, plain, ROUNDS);
    chart_add(&chart, "a gap after every 32", MARK_LINE, width, gaps, ROUNDS);
    return show_chart(&chart, look, svg, error);
}

/* ---- a barrier too few ---- */

typedef struct {
    float *out;  /* (RACE_THREADS) */
    bool waits;  /* at the barrier that the race needs */
    bool parted; /* only half of the threads come to another */
} RaceJob;

enum { RACE_THREADS = 64 };

/* Hillis and Steele in one array instead of two, on 1, 1, 1, ...: element i ends as i + 1, if
   nobody writes before the others have read. */
__global__ void race_sum(RaceJob job)
{
    __shared__ float sum[RACE_THREADS];
    unsigned i = threadIdx.x;
    sum[i] = 1.0f;
    if (job.parted && i < 32)
        __syncthreads();
    __syncthreads();
    for (unsigned reach = 1; reach < RACE_THREADS; reach *= 2) {
        float before = i >= reach ? sum[i - reach] : 0.0f;
        if (job.waits)
            __syncthreads();
        sum[i] += before;
        __syncthreads();
    }
    job.out[i] = sum[i];
}
KERNEL(race_sum, RaceJob)

static bool start_race(const RaceJob *job, Error *error)
{
    START(race_sum, (size_t)1, RACE_THREADS, (size_t)0, *job, error);
}

/* race_sum's last element. */
static bool race_run(float *last, bool waits, bool parted, Error *error)
{
    DeviceMemory memory;
    RaceJob job = {NULL, waits, parted};
    memory.count = 0;
    bool ok = device_new(&job.out, &memory, RACE_THREADS, error) && start_race(&job, error) &&
              cuda_ok(cudaDeviceSynchronize(), "race_sum", error) &&
              device_get(last, job.out + RACE_THREADS - 1, 1, error);
    return device_free(&memory, ok, error);
}

static bool demo_race(const Look *look, const char *svg, uint64_t seed, Error *error)
{
    (void)look, (void)svg;
    puts("64 ones, summed in one array by 64 threads: the last sum should be 64\n");
    puts("  threads run   with both barriers   with one too few");
    for (int order = 0; order < orders(); order++) {
        float right = 0.0f, wrong = 0.0f;
        use_order(order, seed);
        if (!race_run(&right, true, false, error) || !race_run(&wrong, false, false, error))
            return false;
        printf("  %-13s %18g %18g\n", orders() == 1 ? "as they do" : order_name[order],
               (double)right, (double)wrong);
    }
    use_order(0, 0);
#ifdef CUDA_ON_CPU
    Error report;
    float last = 0.0f;
    if (race_run(&last, true, true, &report))
        return fail(error, "a barrier for half of the threads was not noticed");
    printf("\nAnd a barrier that only half of the threads come to:\n%s\n", report.text);
#else
    puts("\n(A barrier that only half of the threads come to may hang a GPU: the CPU shows it.)");
#endif
    return true;
}

/* ---- floors ---- */

/* What a way to scan takes for each token and channel, and what a device gives in a second. */
typedef struct {
    const char *name;
    double floats, cached; /* from and to memory; besides, through the caches */
    double exponentials;   /* and divisions: what the special function units do */
} ScanTraffic;

typedef struct {
    double bytes, exponentials;
} Rates;

enum { N_TRAFFIC = 6 };

/* By count, from the kernels above, for a scan with everything but a start; `channels` share a tile
   of B and C. Unfused is an array library's way, an operation a kernel: softplus; exp(Delta A);
   Delta B u; the scan; C . x; D u; the gate, each of which reads and writes whole arrays. */
static void count_traffic(ScanTraffic traffic[N_TRAFFIC], const Scan *scan, double channels)
{
    double n = (double)scan->d_state, d = (double)scan->d_inner, shared = 2.0 * n / d;
    double stretch = (double)scan_stretch(scan);
    ScanTraffic all[N_TRAFFIC] = {
        {"unfused, a kernel an operation", 2 + (1 + n) + (2 + n) + 3 * n + (n + 1) + 3 + 3, 2 * n,
         n + 4},
        {"0 to 3: B, C read by each channel", 4 + shared, 2 * n, n + 4},
        {"4 fused: B, C read by each block", 4 + shared, 2 * n / channels, n + 4},
        {"5 in pieces of time", 6 + 1.5 * shared, 3 * n / channels, 2 * n + 6},
        {"4 forwards, keeping checkpoints", 4 + shared + n / stretch, 2 * n / channels, n + 4},
        {"backwards", 7 + shared + n / stretch + 4 * n / 32, 2 * n / 32, 2 * n + 10},
    };
    memcpy(traffic, all, sizeof all);
}

static double intensity(const ScanTraffic *way)
{
    return way->exponentials / (way->floats * sizeof(float));
}

/* Exponentials a second that the rates allow at so many exponentials a byte. */
static double roof(double per_byte, const Rates *rates)
{
    return fmin(rates->exponentials, per_byte * rates->bytes);
}

enum { ROOF_POINTS = 25 };

/* The roof as a line from 1/100 to 100 exponentials a byte. */
static void roof_line(double *x, double *y, const Rates *rates)
{
    for (int i = 0; i < ROOF_POINTS; i++) {
        x[i] = pow(10.0, -2.0 + 4.0 * i / (ROOF_POINTS - 1));
        y[i] = 1e-9 * roof(x[i], rates);
    }
}

static bool demo_floors(const Look *look, const char *svg, uint64_t seed, Error *error)
{
    static const Rates h100 = {3.0e12, 16.0 * 132.0 * 1.755e9};
    ScanTraffic way[N_TRAFFIC];
    Scan scan;
    double x[ROOF_POINTS], y[ROOF_POINTS], at[N_TRAFFIC], height[N_TRAFFIC];
    (void)seed;
    memset(&scan, 0, sizeof scan);
    scan.batch = 8, scan.len = scan.d_inner = 2048, scan.d_state = 16;
    double wide = (double)scan.batch * (double)scan.len * (double)scan.d_inner;
    count_traffic(way, &scan, 64.0);
    puts("batch 8, len 2048, d_inner 2048, d_state 16, by count, at rates that an H100 is said to\n"
         "have: 3.0 TB/s from memory; 132 processors x 16 special functions x 1.755 GHz. Not "
         "measured\n");
    puts("  way                                GB   cached   time    exp 10^9   time   floor, us");
    for (int i = 0; i < N_TRAFFIC; i++) {
        double bytes = wide * way[i].floats * sizeof(float);
        double memory = 1e6 * bytes / h100.bytes;
        double units = 1e6 * wide * way[i].exponentials / h100.exponentials;
        printf("  %-33s %5.2f %7.2f %7.0f %10.2f %7.0f %9.0f\n", way[i].name, 1e-9 * bytes,
               1e-9 * wide * way[i].cached * sizeof(float), memory,
               1e-9 * wide * way[i].exponentials, units, fmax(memory, units));
        at[i] = intensity(&way[i]);
        height[i] = 1e-9 * roof(at[i], &h100);
    }
    roof_line(x, y, &h100);
    Chart chart = chart_new("Roofline by count: what an H100's rates allow", "exponentials a byte",
                            "10^9 exponentials a second");
    chart.log_x = chart.log_y = true;
    chart_add(&chart, "roof", MARK_LINE, x, y, ROOF_POINTS);
    chart_add(&chart, "unfused", MARK_POINTS, at, height, 1);
    chart_add(&chart, "fused", MARK_POINTS, at + 2, height + 2, 1);
    chart_add(&chart, "in pieces", MARK_POINTS, at + 3, height + 3, 1);
    chart_add(&chart, "backwards", MARK_POINTS, at + 5, height + 5, 1);
    return show_chart(&chart, look, svg, error);
}

/* Chapter 1's forecast, by any kernel: a channel for each weather, a state for each eigenvalue. */
static bool demo_weather_cuda(const Look *look, const char *svg, uint64_t seed, Error *error)
{
    enum { DAYS = 5 };
    static const float A[4] = {0.0f, -0.916290732f, 0.0f, -0.916290732f}; /* log 1, log 0.4 */
    static const float x_start[4] = {2.0f / 3, -1.0f / 6, 1.0f / 3, 1.0f / 6};
    float u[2 * DAYS] = {0}, delta[2 * DAYS], ones[2 * DAYS], y[2 * DAYS];
    (void)look, (void)svg, (void)seed;
    for (size_t i = 0; i < 2 * DAYS; i++) {
        delta[i] = i < 2 ? 0.0f : 1.0f; /* no time passes before day 0 */
        ones[i] = 1.0f;
    }
    Scan scan = {1, DAYS, 2, 2, u, delta, NULL, A, ones, ones, NULL, NULL, x_start, NULL, false};
    if (!cuda_scan(y, NULL, &scan, SCAN_KERNELS, error))
        return false;
    puts("The thread: chapter 1's forecast by the CUDA scan\n");
    puts("   day    sunny    rainy");
    for (size_t t = 0; t < DAYS; t++)
        printf("  %4zu   %.4f   %.4f\n", t, (double)y[2 * t], (double)y[2 * t + 1]);
    return true;
}

/* ===================================== Measurements ======================================== */

/* What the device can do at most, measured by kernels that do nothing else. */
typedef struct {
    float *to;
    const float *from;
    size_t count; /* floats, a multiple of 4 */
    int rounds;
} CeilingJob;

enum { CEILING_THREADS = 256, CEILING_CHAINS = 8 };

__global__ void ceiling_copy(CeilingJob job)
{
    size_t step = (size_t)gridDim.x * blockDim.x;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < job.count / 4; i += step)
        ((float4 *)(void *)job.to)[i] = ((const float4 *)(const void *)job.from)[i];
}
KERNEL(ceiling_copy, CeilingJob)

/* Eight rows of exponentials a thread, each waiting for the one before in its row only. */
__global__ void ceiling_exp2(CeilingJob job)
{
    float v[CEILING_CHAINS], sum = 0.0f;
    UNROLL
    for (int k = 0; k < CEILING_CHAINS; k++)
        v[k] = 0.125f * (float)(k + (int)threadIdx.x % 7);
    for (int round = 0; round < job.rounds; round++) {
        UNROLL
        for (int k = 0; k < CEILING_CHAINS; k++)
            v[k] = exp2_unit(-v[k]);
    }
    UNROLL
    for (int k = 0; k < CEILING_CHAINS; k++)
        sum += v[k];
    job.to[(size_t)blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
KERNEL(ceiling_exp2, CeilingJob)

static bool start_copy(const CeilingJob *job, size_t blocks, Error *error)
{
    START(ceiling_copy, blocks, CEILING_THREADS, (size_t)0, *job, error);
}

static bool start_exp2(const CeilingJob *job, size_t blocks, Error *error)
{
    START(ceiling_exp2, blocks, CEILING_THREADS, (size_t)0, *job, error);
}

/* What is timed: one of these, again and again. */
typedef enum { TIME_COPY, TIME_EXP2, TIME_FORWARD, TIME_BACKWARD } Timed;

static bool start_timed(Timed what, const DeviceScan *on, const CeilingJob *ceiling, size_t blocks,
                        Error *error)
{
    switch (what) {
    case TIME_COPY: return start_copy(ceiling, blocks, error);
    case TIME_EXP2: return start_exp2(ceiling, blocks, error);
    case TIME_FORWARD: return start_forward(&on->job, &on->plan, error);
    case TIME_BACKWARD:
        return start_backward(&on->grad, on->x_last_grad, &on->job, &on->back_plan, error);
    }
    return false;
}

enum { TIMED_MOST = 31 };

/* Median seconds between two events, after one or two runs that warm up. */
static bool time_kernels(double *seconds, Timed what, const DeviceScan *on,
                         const CeilingJob *ceiling, size_t blocks, int runs, Error *error)
{
    double times[TIMED_MOST];
    cudaEvent_t from = NULL, to = NULL;
    bool ok = cuda_ok(cudaEventCreate(&from), "making an event", error);
    if (!ok)
        return false;
    ok = cuda_ok(cudaEventCreate(&to), "making an event", error);
    for (int i = runs < 5 ? -1 : -2; ok && i < runs; i++) {
        float milliseconds = 0.0f;
        ok = cuda_ok(cudaEventRecord(from), "recording an event", error) &&
             start_timed(what, on, ceiling, blocks, error) &&
             cuda_ok(cudaEventRecord(to), "recording an event", error) &&
             cuda_ok(cudaEventSynchronize(to), "measuring", error) &&
             cuda_ok(cudaEventElapsedTime(&milliseconds, from, to), "reading events", error);
        if (i >= 0)
            times[i] = 1e-3 * (double)milliseconds;
    }
    *seconds = ok ? median(times, (size_t)runs) : 0.0;
    cudaError_t first = cudaEventDestroy(from), second = cudaEventDestroy(to);
    return ok && cuda_ok(first, "freeing an event", error) &&
           cuda_ok(second, "freeing an event", error);
}

static bool measure_rates(Rates *rates, const CudaDevice *device, bool small, Error *error)
{
    DeviceMemory memory;
    size_t blocks = small ? 1 : device->processors * 8;
    size_t floats = small ? (size_t)1 << 20 : (size_t)1 << 27; /* much more than a cache holds */
    CeilingJob job = {NULL, NULL, floats, small ? 64 : 4096};
    float *from = NULL;
    double copy = 0.0, units = 0.0;
    memory.count = 0;
    bool ok = device_new(&job.to, &memory, floats, error) &&
              device_new(&from, &memory, floats, error) &&
              cuda_ok(cudaMemset(from, 0, floats * sizeof(float)), "filling memory", error);
    job.from = from;
    ok = ok && time_kernels(&copy, TIME_COPY, NULL, &job, blocks, 9, error) &&
         time_kernels(&units, TIME_EXP2, NULL, &job, blocks, 9, error);
    if (!device_free(&memory, ok, error))
        return false;
    rates->bytes = 2.0 * (double)(floats * sizeof(float)) / copy;
    rates->exponentials = (double)(blocks * CEILING_THREADS) * CEILING_CHAINS * job.rounds / units;
    return true;
}

/* ---- the table ---- */

/* One row: a kernel with its layout, on one shape. */
typedef struct {
    const Scan *scan;
    ScanPlan plan;
    bool back;
    double seconds, channel, cpu; /* itself, kernel 0, chapter 4's fast scan on all processors */
} BenchRow;

typedef struct {
    CudaDevice device;
    Rates rates;
    FILE *csv;          /* or NULL */
    bool small;         /* sizes for a CPU that plays GPU */
    int runs, few;      /* the kernels of the ladder's foot are measured less often */
    double point[2][4]; /* for the roofline: exponentials a byte and 10^9 a second, each shape */
    size_t shapes;
} Bench;

/* The floors: u, delta, z, B, C in once and y out once; one exponential a state and four more. */
static void row_floors(double *bytes, double *exponentials, const Scan *scan, bool back)
{
    double wide = (double)scan->batch * (double)scan->len * (double)scan->d_inner;
    double shared = (double)scan->batch * (double)scan->len * (double)scan->d_state;
    *bytes = sizeof(float) * ((back ? 7.0 : 4.0) * wide + (back ? 4.0 : 2.0) * shared);
    *exponentials = wide * ((back ? 2.0 : 1.0) * (double)scan->d_state + (back ? 10.0 : 4.0));
}

static void bench_row(Bench *bench, const BenchRow *row, bool chosen)
{
    double bytes, units;
    row_floors(&bytes, &units, row->scan, row->back);
    double floor = fmax(bytes / bench->rates.bytes, units / bench->rates.exponentials);
    char name[48], lanes[16] = "", faster[16] = "", than_cpu[16] = "";
    snprintf(name, sizeof name, "%s%s", row->back ? "backward" : scan_kernel_name[row->plan.kernel],
             chosen ? " *" : "");
    if (row->plan.kernel >= SCAN_FUSED) /* backwards too */
        snprintf(lanes, sizeof lanes, "%u", row->plan.lanes);
    if (!row->back)
        snprintf(faster, sizeof faster, "%.2f", row->channel / row->seconds);
    if (!bench->small) /* a CPU that plays GPU is not to be compared with itself */
        snprintf(than_cpu, sizeof than_cpu, "%.2f", row->cpu / row->seconds);
    printf("  %-16s %5s %6zu %10.3f %7.1f %4.0f%% %8.2f %4.0f%% %6.0f%% %9s %8s\n", name, lanes,
           row->plan.pieces, 1e3 * row->seconds, 1e-9 * bytes / row->seconds,
           100.0 * bytes / row->seconds / bench->rates.bytes, 1e-9 * units / row->seconds,
           100.0 * units / row->seconds / bench->rates.exponentials, 100.0 * floor / row->seconds,
           faster, than_cpu);
    fflush(stdout);
    if (bench->csv != NULL)
        fprintf(bench->csv, "\"%s\",%zu,%zu,%zu,%zu,%s,%u,%zu,%.6g,%.6g,%.6g,%.6g\n",
                bench->device.name, row->scan->batch, row->scan->len, row->scan->d_inner,
                row->scan->d_state, row->back ? "backward" : scan_kernel_name[row->plan.kernel],
                row->plan.lanes, row->plan.pieces, 1e3 * row->seconds, 1e-9 * bytes / row->seconds,
                1e-9 * units / row->seconds, floor / row->seconds);
    if (chosen) {
        bench->point[0][bench->shapes] = units / bytes;
        bench->point[1][bench->shapes] = 1e-9 * units / row->seconds;
    }
}

/* A kernel that gives wrong numbers is not measured. */
static bool bench_check(const DeviceScan *on, const float *want, size_t count, Error *error)
{
    float *y = NEW(float, count);
    bool ok = start_forward(&on->job, &on->plan, error) &&
              cuda_ok(cudaDeviceSynchronize(), "scanning", error) &&
              device_get(y, on->job.y, count, error);
    double difference = ok ? difference_of(y, want, count) : 0.0;
    free(y);
    if (ok && !(difference <= 3e-5))
        return fail(error, "%s: differs from chapter 4 by %.3g of the largest y",
                    scan_kernel_name[on->plan.kernel], difference);
    return ok;
}

/* Which layouts are measured, kernel 0 first: the others are compared with it. */
static size_t bench_plans(ScanPlan plans[8], const Scan *scan, size_t processors)
{
    size_t count = 0;
    for (int kernel = SCAN_CHANNELS; kernel <= SCAN_SHUFFLE; kernel++)
        plans[count++] = scan_plan(scan, (ScanKernel)kernel, processors);
    for (unsigned lanes = lanes_least(scan); lanes <= lanes_most(scan); lanes *= 2) {
        ScanPlan plan = scan_plan(scan, SCAN_FUSED, processors);
        plan.lanes = lanes;
        plans[count++] = plan;
    }
    plans[count++] = scan_plan(scan, SCAN_PIECES, processors);
    return count;
}

static bool bench_forward(Bench *bench, const BenchScan *host, double cpu, Error *error)
{
    const Scan *scan = &host->scan;
    size_t count = scan->batch * scan->len * scan->d_inner;
    ScanPlan plans[8], chosen = scan_plan(scan, SCAN_KERNELS, bench->device.processors);
    size_t n = bench_plans(plans, scan, bench->device.processors);
    double channel = 0.0;
    for (size_t i = 0; i < n; i++) {
        DeviceScan on;
        BenchRow row = {scan, plans[i], false, 0.0, channel, cpu};
        bool same = plans[i].kernel == chosen.kernel && plans[i].lanes == chosen.lanes;
        bool ok = device_scan_open(&on, scan, &plans[i], error) &&
                  bench_check(&on, host->y, count, error) &&
                  time_kernels(&row.seconds, TIME_FORWARD, &on, NULL, 0,
                               plans[i].kernel < SCAN_FUSED ? bench->few : bench->runs, error);
        if (!device_scan_close(&on, ok, error))
            return false;
        channel = i == 0 ? row.seconds : channel;
        row.channel = channel;
        bench_row(bench, &row, same);
    }
    return true;
}

static bool bench_backward(Bench *bench, const BenchScan *host, double cpu, Error *error)
{
    const Scan *scan = &host->scan;
    DeviceScan on;
    ScanPlan plan = scan_plan(scan, SCAN_KERNELS, bench->device.processors);
    BenchRow row = {scan, plan, true, 0.0, 0.0, cpu};
    bool ok = device_scan_open(&on, scan, &plan, error) &&
              device_scan_open_back(&on, &host->grad, host->y_grad, NULL, bench->device.processors,
                                    error) &&
              start_forward(&on.job, &on.plan, error) &&
              time_kernels(&row.seconds, TIME_BACKWARD, &on, NULL, 0, bench->runs, error);
    row.plan = on.back_plan;
    ok = device_scan_close(&on, ok, error);
    if (ok)
        bench_row(bench, &row, false);
    return ok;
}

static bool bench_shape(Bench *bench, const size_t size[4], Error *error)
{
    BenchScan host = demo_scan_new(size[0], size[1], size[2], size[3]);
    int few = bench->small ? BENCH_RUNS : 3;
    double forward = time_forward(selective_scan_fast, &host, few); /* y is checked against */
    double backward = time_backward(selective_scan_backward_fast, &host, few);
    printf("\nbatch %zu, len %zu, d_inner %zu, d_state %zu\n", size[0], size[1], size[2], size[3]);
    puts("  kernel           lanes pieces         ms    GB/s        exp 1e9         floor  kernel 0"
         "      CPU");
    bool ok = bench_forward(bench, &host, forward, error) &&
              bench_backward(bench, &host, backward, error);
    bench_scan_free(&host);
    bench->shapes++;
    return ok;
}

static bool bench_roofline(const Bench *bench, const Look *look, const char *svg, Error *error)
{
    static const char *const names[4] = {"first shape", "second", "third", "fourth"};
    double x[ROOF_POINTS], y[ROOF_POINTS];
    roof_line(x, y, &bench->rates);
    Chart chart =
        chart_new(bench->device.name, "exponentials a byte", "10^9 exponentials a second");
    chart.log_x = chart.log_y = true;
    chart_add(&chart, "roof", MARK_LINE, x, y, ROOF_POINTS);
    for (size_t i = 0; i < bench->shapes; i++)
        chart_add(&chart, names[i], MARK_POINTS, &bench->point[0][i], &bench->point[1][i], 1);
    return show_chart(&chart, look, svg, error);
}

static bool bench_all(Bench *bench, const Look *look, const char *svg, Error *error)
{
    static const size_t large[4][4] = {
        {8, 2048, 2048, 16}, {1, 65536, 2048, 16}, {1, 1048576, 64, 16}, {64, 512, 1536, 16}};
    static const size_t small[4][4] = {
        {2, 64, 64, 16}, {1, 512, 32, 16}, {1, 2048, 4, 16}, {16, 16, 48, 16}};
    if (!measure_rates(&bench->rates, &bench->device, bench->small, error))
        return false;
    printf("%s, %zu processors: %.1f GB/s copied, %.2f 10^9 exponentials a second\n",
           bench->device.name, bench->device.processors, 1e-9 * bench->rates.bytes,
           1e-9 * bench->rates.exponentials);
    if (bench->small)
        puts("No GPU: these are the times of a CPU that runs the kernels thread by thread. They "
             "say\n"
             "nothing about a GPU; the sizes are small.");
    puts("* chosen; the floor's share of the time; how many times faster than kernel 0 and than\n"
         "chapter 4's fast scan on this computer's processors");
    for (int i = 0; i < 4; i++)
        if (!bench_shape(bench, bench->small ? small[i] : large[i], error))
            return false;
    return bench_roofline(bench, look, svg, error);
}

/* What is not whole does not appear. */
static void out_drop(OutFile *out)
{
    fclose(out->stream);
    if (out->temporary != NULL)
        unlink(out->temporary);
    free(out->temporary);
    free(out->path);
}

static bool demo_cuda_bench(const Look *look, const char *svg, const char *csv, Error *error)
{
    Bench bench;
    OutFile out;
    memset(&bench, 0, sizeof bench);
#ifdef CUDA_ON_CPU
    bench.small = true;
#endif
    bench.runs = bench.small ? 5 : 21;
    bench.few = bench.small ? 1 : 3;
    if (!cuda_device_open(&bench.device, error) || (csv != NULL && !out_open(&out, csv, error)))
        return false;
    bench.csv = csv != NULL ? out.stream : NULL;
    if (csv != NULL)
        fputs("device,batch,len,d_inner,d_state,kernel,lanes,pieces,ms,GB_per_s,exp_1e9_per_s,"
              "floor_share\n",
              out.stream);
    bool ok = bench_all(&bench, look, svg, error);
    if (csv != NULL && ok)
        return out_close(&out, error);
    if (csv != NULL)
        out_drop(&out);
    return ok;
}

/* ======================================= Options =========================================== */

typedef struct {
    const char *demo, *svg, *csv;
    size_t size[4]; /* batch, len, d_inner, d_state of --scan; batch 0: none */
    ScanKernel kernel;
    uint64_t seed;
    bool bench, device, ascii;
} CudaOptions;

static void cuda_usage(FILE *out)
{
    fputs("usage: ch06_cuda_scan [--demo ladder|work|banks|race|floors|weather] [--seed S]\n"
          "       ch06_cuda_scan --scan BATCH,LEN,D_INNER,D_STATE [--kernel NAME]\n"
          "       ch06_cuda_scan --bench [--csv FILE] | --device\n"
          "       each with [--svg FILE] [--ascii] [--help]\n",
          out);
}

static void cuda_help(void)
{
    cuda_usage(stdout);
    fputs(
        "\nThe scan on a GPU, and without one (chapter 6). Without options: the demos in order.\n\n"
        "  --demo NAME    one demo; work, banks and floors have a figure for --svg\n"
        "  --scan SIZES   random numbers of this size through a kernel, forwards and backwards,\n"
        "                 against chapter 4\n"
        "  --kernel NAME  channel, hillis-steele, blelloch, shuffle, fused or pieces (default:\n"
        "                 whichever fits the size)\n"
        "  --seed S       seed of the order in which threads run, on the CPU (default 1)\n"
        "  --bench        every kernel on four sizes, against what the device can do\n"
        "  --csv FILE     the table of --bench as CSV\n"
        "  --device       say on what the kernels run; exit status 1 if there is no GPU\n"
        "  --svg FILE     write the figure as SVG\n"
        "  --ascii        draw without Unicode\n\n"
        "This program was built "
#ifdef CUDA_ON_CPU
        "without nvcc: a CPU runs the kernels, thread by thread. With the CUDA\n"
        "toolkit, `make` builds build/cuda/ch06_cuda_scan besides, for a GPU.\n",
#else
        "with nvcc, for a GPU. build/ch06_cuda_scan runs the same kernels on the CPU.\n",
#endif
        stdout);
}

static bool kernel_parse(ScanKernel *kernel, const char *text, Error *error)
{
    for (int k = 0; k < SCAN_KERNELS; k++)
        if (strcmp(text, scan_kernel_name[k]) == 0) {
            *kernel = (ScanKernel)k;
            return true;
        }
    return fail(error,
                "--kernel: '%.40s' is none of channel, hillis-steele, blelloch, shuffle, "
                "fused, pieces",
                text);
}

/* Four sizes with commas between them; none so large that their product would not fit memory. */
static bool sizes_parse(size_t size[4], const char *text, Error *error)
{
    static const char *const names[4] = {"batch", "len", "d_inner", "d_state"};
    static const uint64_t most[4] = {4096, 4194304, 65536, SCAN_MAX_STATE};
    char copy[96], *rest = copy;
    if (strlen(text) >= sizeof copy)
        return fail(error, "--scan: four sizes are wanted, as 1,1000,8,16");
    memcpy(copy, text, strlen(text) + 1);
    double floats = 1.0;
    for (int i = 0; i < 4; i++) {
        char *word = strsep(&rest, ",");
        uint64_t value;
        Error why;
        if (word == NULL || (i == 3 && rest != NULL))
            return fail(error, "--scan: '%.40s' is not four sizes, as 1,1000,8,16", text);
        if (!integer_parse(&value, word, 1, most[i], &why))
            return fail(error, "--scan: %s: %s", names[i], why.text);
        size[i] = (size_t)value;
        floats *= i < 3 ? (double)value : 1.0;
    }
    if (floats > 268435456.0)
        return fail(error, "--scan: batch, len and d_inner make %.0f numbers, more than 268435456",
                    floats);
    return true;
}

static bool cuda_options_fit(const CudaOptions *options, Error *error)
{
    bool scan = options->size[0] > 0, demo = options->demo != NULL;
    if (scan + demo + options->bench + options->device > 1)
        return fail(error, "--demo, --scan, --bench and --device exclude each other");
    if (options->kernel != SCAN_KERNELS && !scan)
        return fail(error, "--kernel needs --scan");
    if (options->csv != NULL && !options->bench)
        return fail(error, "--csv needs --bench");
    if (options->svg != NULL && !options->bench &&
        !(demo && (strcmp(options->demo, "work") == 0 || strcmp(options->demo, "banks") == 0 ||
                   strcmp(options->demo, "floors") == 0)))
        return fail(error, "--svg needs --bench, or --demo with work, banks or floors");
    return true;
}

/* Fills `options`; false with an error, or with an empty one if getopt has said what is wrong. */
static bool cuda_options_parse(CudaOptions *options, int argc, char **argv, Error *error)
{
    static const struct option known[] = {
        {"demo", 1, NULL, 'd'},   {"scan", 1, NULL, 'n'},  {"kernel", 1, NULL, 'k'},
        {"seed", 1, NULL, 'r'},   {"bench", 0, NULL, 'b'}, {"csv", 1, NULL, 'c'},
        {"device", 0, NULL, 'w'}, {"svg", 1, NULL, 'v'},   {"ascii", 0, NULL, 'a'},
        {"help", 0, NULL, 'h'},   {NULL, 0, NULL, 0}};
    memset(options, 0, sizeof *options);
    options->kernel = SCAN_KERNELS;
    options->seed = 1;
    error->text[0] = '\0';
    bool ok = true;
    for (int code; ok && (code = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (code) {
        case 'd': options->demo = optarg; break;
        case 'n': ok = sizes_parse(options->size, optarg, error); break;
        case 'k': ok = kernel_parse(&options->kernel, optarg, error); break;
        case 'r': ok = option_integer(&options->seed, "seed", optarg, 0, UINT64_MAX, error); break;
        case 'b': options->bench = true; break;
        case 'c': options->csv = optarg; break;
        case 'w': options->device = true; break;
        case 'v': options->svg = optarg; break;
        case 'a': options->ascii = true; break;
        case 'h': cuda_help(); exit(0);
        default: return false;
        }
    }
    if (ok && optind < argc)
        return fail(error, "'%.40s' is not an option", argv[optind]);
    return ok && cuda_options_fit(options, error);
}

/* --device: what runs the kernels. A CPU that plays GPU is not one. */
static bool run_device(Error *error)
{
    CudaDevice device;
    if (!cuda_device_open(&device, error))
        return false;
    printf("%s, %zu processors\n", device.name, device.processors);
#ifdef CUDA_ON_CPU
    return fail(error, "this program was built without nvcc");
#else
    return true;
#endif
}

/* --scan: one scan of random numbers, both ways, against chapter 4. */
static bool run_scan(const CudaOptions *options, Error *error)
{
    CudaDevice device;
    const size_t *size = options->size;
    if (!cuda_device_open(&device, error))
        return false;
    BenchScan bench = demo_scan_new(size[0], size[1], size[2], size[3]);
    ScanPlan plan = scan_plan(&bench.scan, options->kernel, device.processors);
    size_t wide = size[0] * size[1] * size[2];
    float *want = NEW(float, wide), *y_grad = bench.grad.u;
    double start = seconds_now();
    bool ok = cuda_scan(bench.y, NULL, &bench.scan, options->kernel, error);
    double forward = seconds_now() - start, near = 0.0, back = 0.0;
    if (ok) {
        selective_scan_fast(want, NULL, &bench.scan);
        near = difference_of(bench.y, want, wide);
        start = seconds_now();
        ok = cuda_scan_backward(&bench.grad, bench.y_grad, NULL, &bench.scan, error);
        back = seconds_now() - start;
    }
    if (ok) {
        memcpy(want, y_grad, wide * sizeof(float));
        selective_scan_backward_fast(&bench.grad, bench.y_grad, NULL, &bench.scan, bench.work);
        printf("%s\nkernel %s, %u lanes to a channel, %zu pieces of time\n"
               "forward:  %.3g of the largest y from chapter 4, %.3f s with all copies\n"
               "backward: %.3g of the largest du from chapter 4, %.3f s with all copies\n",
               device.name, scan_kernel_name[plan.kernel], plan.lanes, plan.pieces, near, forward,
               difference_of(want, y_grad, wide), back);
    }
    free(want);
    bench_scan_free(&bench);
    return ok;
}

static bool run_cuda_demos(const CudaOptions *options, const Look *look, Error *error)
{
    static const char *const names[] = {"ladder", "work", "banks", "race", "floors", "weather"};
    bool (*const demos[])(const Look *, const char *, uint64_t, Error *) = {
        demo_ladder, demo_work, demo_banks, demo_race, demo_floors, demo_weather_cuda};
    bool found = false, ok = true;
    for (size_t k = 0; ok && k < sizeof names / sizeof *names; k++) {
        if (options->demo != NULL && strcmp(options->demo, names[k]) != 0)
            continue;
        if (found)
            puts("\n");
        found = true;
        ok = demos[k](look, options->svg, options->seed, error);
    }
    return found ? ok
                 : fail(error,
                        "--demo: '%.40s' is none of ladder, work, banks, race, floors, weather",
                        options->demo);
}

int cuda_main(int argc, char **argv)
{
    CudaOptions options;
    Error error;
    if (!cuda_options_parse(&options, argc, argv, &error)) {
        if (error.text[0])
            fprintf(stderr, "error: %s\n", error.text);
        cuda_usage(stderr);
        return 2;
    }
    Look look = look_at_terminal(options.ascii);
    bool ok = options.bench         ? demo_cuda_bench(&look, options.svg, options.csv, &error)
              : options.device      ? run_device(&error)
              : options.size[0] > 0 ? run_scan(&options, &error)
                                    : run_cuda_demos(&options, &look, &error);
    fflush(stdout); /* what was said before the error comes before it */
    if (!ok)
        fprintf(stderr, "error: %s\n", error.text);
    return ok ? 0 : 1;
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return cuda_main(argc, argv);
}
#endif

#endif /* CH06_CUDA_SCAN */
