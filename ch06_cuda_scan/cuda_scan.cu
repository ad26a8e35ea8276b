/* Chapter 6. The scan on a GPU, and without one

   QUESTION   Every x_t waits for x_{t-1}. How do ten thousand threads work on such a thing at once,
              and what decides how fast they are?
   NEW        CUDA: a ladder of kernels for chapter 4's scan, each one idea more than the one
              before. With nvcc they run on the GPU; without, the C compiler takes the same lines
              and cuda_on_cpu.h runs them thread by thread.
   NOT        No new mathematics, and no half precision: float in, float out, as in chapter 4. The
              way back stands next door, in cuda_backward.cu.
   EQUATION   (a1, b1) o (a2, b2) = (a1 a2, a2 b1 + b2), in any grouping
   LETTERS    as in chapter 4, and
              lanes    threads of a warp (32) that share one channel, each with some of its states
              tile     tokens that a block works on between two barriers
              piece    tokens of one sequence that one block goes through; few channels: many pieces
   BUILD      cc -x c -O2 ch06_cuda_scan/cuda_scan.cu -o cuda_scan -lm && ./cuda_scan
              nvcc -O3 -arch=native ch06_cuda_scan/cuda_scan.cu -o cuda_scan    with a GPU
   TIME       70 minutes to read, 100 to do the exercises
   SOURCES    A. Gu, T. Dao, Mamba, arXiv 2312.00752: section 3.3, appendix D
              W. D. Hillis, G. L. Steele, Data parallel algorithms, CACM 29 (1986)
              G. Blelloch, Prefix sums and their applications, CMU-CS-90-190 (1990)
              M. Harris, S. Sengupta, J. Owens, Parallel prefix sum with CUDA, GPU Gems 3 (2007)
              S. Williams, A. Waterman, D. Patterson, Roofline, CACM 52 (2009)
              NVIDIA, CUDA C++ Programming Guide 13.0: arithmetic instructions, async copies */

#ifndef CH06_CUDA_SCAN
#define CH06_CUDA_SCAN

#include "../ch05_mamba_block/mamba_block.c"
#include "cuda_host.cu" /* the device, its memory, how a kernel is started */
#include "cuda_tiles.h" /* the special function unit; tiles on their way between memories */
#include "counts.c"     /* what the demos count and draw */

/* ==================================== What a kernel is given ============================== */
/* A kernel is one function that thousands of threads go through at once. They come in blocks; a
   thread knows its number in its block (threadIdx.x of blockDim.x) and its block's number
   (blockIdx.x). From these it finds out which channels of which sequence, and which piece of time,
   are its own. All else is the same for everybody and stands in one struct: chapter 4's Scan, with
   arrays in the GPU's memory, and where the results go. */

typedef struct {
    Scan scan;         /* its checkpoint: (batch, ceil(len / stretch), d_inner, d_state), or NULL */
    float *y, *x_last; /* x_last may be NULL */
    unsigned lanes;    /* threads to a channel, from kernel 5 on */
    unsigned stretch;  /* tokens between two checkpoints: 4 or 8 */
    size_t pieces;     /* every sequence is cut into so many, in kernel 6; else 1 */
    size_t piece_len;  /* tokens of a piece, a multiple of `stretch`; the last may be shorter */
    const float *start;  /* (batch, pieces, d_inner, d_state) x before each piece, or NULL: 0 */
    float *piece_x;      /* (the same) x after each piece, from 0; then before it; or gradients */
    float *piece_a;      /* (the same) what each piece multiplies a state by */
    const float *y_grad; /* (batch, len, d_inner) backwards: dL/dy */
    ScanGrad grad;       /* u, delta, z, x_start as they are wanted; of A, B, C, D and delta_bias
                            only parts: each block its own, to be added up afterwards */
    bool backwards;      /* for scan_carry: from the last piece to the first */
} ScanJob;

/* Chapter 4's scan_join once more, for the device: first one step x -> a x + b, then the other, as
   one. All that follows rests on this being associative. */
DEVICE ScanPair pair_join(ScanPair first, ScanPair then)
{
    ScanPair both;
    both.a = first.a * then.a;
    both.b = then.a * first.b + then.b;
    return both;
}

/* Delta from what stands in the array: the bias added and softplus taken, as chapter 4 has it.
   delta_bias (d_inner) and D (d_inner) may be left out. */
DEVICE float step_of(const Scan *scan, size_t where, size_t d)
{
    float raw = scan->delta[where] + (scan->delta_bias != NULL ? scan->delta_bias[d] : 0.0f);
    return scan->delta_softplus ? softplus_unit(raw) : raw;
}

DEVICE float skip_of(const Scan *scan, size_t d)
{
    return scan->D != NULL ? scan->D[d] : 0.0f;
}

/* silu(z), which y is multiplied by; z (batch, len, d_inner) may be left out. */
DEVICE float gate_of(const Scan *scan, size_t where)
{
    return scan->z != NULL ? scan->z[where] * sigmoid_unit(scan->z[where]) : 1.0f;
}

/* ==================================== 0. A thread a channel =============================== */
/* IDEA    Channels do not need each other, so each gets a thread, which does what chapter 4 does.
   GRID    batch * ceil(d_inner / 128) blocks of 128 threads
   COSTS   Every thread reads A, B and C for itself, at every token. The states lie in memory, being
           too many and of unknown number for registers. And few channels are few threads. */

enum { CHANNEL_THREADS = 128 };

__global__ void scan_channels(ScanJob job)
{
    const Scan *scan = &job.scan;
    size_t d_inner = scan->d_inner, d_state = scan->d_state;
    /* `wide` blocks side by side cover the channels of a sequence; then the next sequence begins */
    size_t wide = (d_inner - 1) / blockDim.x + 1, b = blockIdx.x / wide;
    size_t d = blockIdx.x % wide * blockDim.x + threadIdx.x;
    float x[SCAN_MAX_STATE];
    if (d >= d_inner) /* the last block has threads to spare */
        return;
    for (size_t n = 0; n < d_state; n++)
        x[n] = job.start != NULL ? job.start[(b * d_inner + d) * d_state + n] : 0.0f;
    for (size_t token = b * scan->len; token < (b + 1) * scan->len; token++) {
        size_t at = token * d_inner + d; /* in arrays (batch, len, d_inner) */
        float u = scan->u[at], delta = step_of(scan, at, d);
        float y = skip_of(scan, d) * u;
        /* x_t = e^(Delta A) x_{t-1} + Delta u B_t, y_t = C_t . x_t + D u; e^v is 2^(v log2 e) */
        for (size_t n = 0; n < d_state; n++) {
            float A2 = LOG2_E * scan->A[d * d_state + n];
            x[n] = exp2_unit(delta * A2) * x[n] + delta * u * scan->B[token * d_state + n];
            y += scan->C[token * d_state + n] * x[n];
        }
        job.y[at] = y * gate_of(scan, at);
    }
    for (size_t n = 0; n < d_state && job.x_last != NULL; n++)
        job.x_last[(b * d_inner + d) * d_state + n] = x[n];
}
KERNEL(scan_channels, ScanJob)

/* ==================================== 1. Hillis and Steele ================================ */
/* IDEA    Time in parallel. A block has one channel, a thread one token of a tile of 256, and every
           state is scanned in log2 256 = 8 rounds; what the tile's last token holds is carried to
           the next tile.
   GRID    batch * d_inner blocks of 256 threads
   COSTS   7 joins a token and state where one would do, and a barrier for each round. Neighbouring
           threads have neighbouring tokens, and their u and delta lie d_inner apart. */

enum { TIME_THREADS = 256 };

/* One token of one channel as a thread of kernels 1 to 3 keeps it, in registers, while the states
   are scanned one after the other. */
typedef struct {
    size_t token; /* row of B and C (batch * len, d_state) */
    float u, delta, y;
    bool inside; /* false after the end of the sequence: the step is then (1, 0) */
} TimeToken;

DEVICE TimeToken time_token(const Scan *scan, size_t b, size_t t, size_t d)
{
    TimeToken at = {b * scan->len + t, 0.0f, 0.0f, 0.0f, t < scan->len};
    if (at.inside) {
        at.u = scan->u[at.token * scan->d_inner + d];
        at.delta = step_of(scan, at.token * scan->d_inner + d, d);
        at.y = skip_of(scan, d) * at.u;
    }
    return at;
}

/* x -> a x + b, what this token does to state n: a = A_bar, b = Delta u B. It does not depend on x,
   so all threads can work theirs out at the same time. */
DEVICE ScanPair time_step(const Scan *scan, const TimeToken *at, size_t d, size_t n)
{
    ScanPair step = {1.0f, 0.0f};
    if (at->inside) {
        step.a = exp2_unit(at->delta * LOG2_E * scan->A[d * scan->d_state + n]);
        step.b = at->delta * at->u * scan->B[at->token * scan->d_state + n];
    }
    return step;
}

/* y += C x for state n, once its x is known. */
DEVICE void time_read(const Scan *scan, TimeToken *at, float x, size_t n)
{
    if (at->inside)
        at->y += scan->C[at->token * scan->d_state + n] * x;
}

/* After all states: y to its place in (batch, len, d_inner). */
DEVICE void time_store(const ScanJob *job, const TimeToken *at, size_t d)
{
    size_t where = at->token * job->scan.d_inner + d;
    if (at->inside)
        job->y[where] = at->y * gate_of(&job->scan, where);
}

/* carry (d_state), in shared memory: the states that go from tile to tile. In before the first
   tile, out after the last; `channel` is b * d_inner + d. */
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

   Exercise 6.1. Rounds of reach 1, 2, 4, ...: each element is joined with that `reach` before. */
DEVICE int hillis_steele(ScanPair pair[2][TIME_THREADS])
{
    unsigned i = threadIdx.x;
    int now = 0;
    __syncthreads(); /* every thread has put its step in */
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
    for (size_t t = 0; t < scan->len; t += TIME_THREADS) { /* tile after tile */
        TimeToken at = time_token(scan, b, t + i, d);
        for (size_t n = 0; n < scan->d_state; n++) { /* state after state */
            ScanPair step = time_step(scan, &at, d, n);
            if (i == 0) /* what came before the tile enters by its first step */
                step.b += step.a * carry[n];
            pair[0][i] = step;
            float x = pair[hillis_steele(pair)][i].b; /* the steps 0 .. i as one, from x = 0 */
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

/* ==================================== 2. Blelloch's sweeps ================================ */
/* IDEA    3 joins an element instead of 7: up a tree and down again, two tokens a thread.
   GRID    batch * d_inner blocks of 128 threads, a tile of 256 tokens
   COSTS   Twice the rounds, most threads idle in most of them; and at a width of 2^k threads meet
           in the same bank of shared memory. */

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
    //> EX 6.2 [2 pts] [10 min] shared memory without conflicts
    //? Without gaps, elements 32 apart share a bank. After how many should a word be skipped?
    //? One gap after every 32 elements moves element 32 to bank 1, element 64 to bank 2, ...
    //? The largest place must be below SWEEP_ROOM: how many gaps are there in front of element 255?
    return i + i / 32;
    //< EX 6.2
}

/* a, b (SWEEP_ROOM), the pairs' halves, each in an array of its own. Up: element t is joined with
   the one `width` before it, t = 2 width (i + 1) - 1: neighbours to twos, twos to fours, ... */
DEVICE void sweep_up_all(float *a, float *b)
{
    for (unsigned width = 1; width < SWEEP_TOKENS; width *= 2) {
        unsigned t = 2 * width * (threadIdx.x + 1) - 1;
        __syncthreads();
        if (t < SWEEP_TOKENS) {
            unsigned left = swept_place(t - width), right = swept_place(t);
            b[right] += a[right] * b[left]; /* pair_join, in place */
            a[right] *= a[left];
        }
    }
}

/* And down. Every node is told what came before it; it tells its left child the same, and its right
   child that and the left. At the end a, b hold what came before each element. */
DEVICE void sweep_down_all(float *a, float *b)
{
    if (threadIdx.x == 0) { /* who wrote the last element in the last round up: (1, 0) is nothing */
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
        /* tokens i and i + 128, so that neighbouring threads have neighbouring places */
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

/* ==================================== 3. Warp shuffles ==================================== */
/* IDEA    (the paper's kernel) A thread scans four tokens by itself; a warp scans its threads' ends
           by shuffles, from register to register without a barrier; only the warps' ends go through
           shared memory. One barrier a state instead of 9 or 17.
   GRID    batch * d_inner blocks of 128 threads, a tile of 512 tokens
   COSTS   One channel a block, so B and C are read again by every channel's block. */

enum {
    SHUFFLE_THREADS = 128,
    SHUFFLE_WARPS = SHUFFLE_THREADS / 32,
    SHUFFLE_ITEMS = 4,
    SHUFFLE_TOKENS = SHUFFLE_THREADS * SHUFFLE_ITEMS
};

/* The pairs of a warp scanned, a pair a lane.

   Exercise 6.3. Hillis and Steele once more, in five rounds of two shuffles, without barriers. */
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

/* x before this thread's tokens: the carry, then the warps before, then the lanes before. `total`
   is what the thread's own four tokens do, as one step; warp_end (SHUFFLE_WARPS) is shared. */
DEVICE float shuffle_before(ScanPair total, ScanPair *warp_end, const float *carry)
{
    unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    ScanPair upto = warp_scan(total, lane), before;
    /* what the lane below ends in is what comes before this one */
    before.a = __shfl_up_sync(ALL_LANES, upto.a, 1);
    before.b = __shfl_up_sync(ALL_LANES, upto.b, 1);
    float x = *carry;
    if (lane == 31)
        warp_end[warp] = upto;
    __syncthreads(); /* the only one */
    for (unsigned w = 0; w < warp; w++)
        x = warp_end[w].a * x + warp_end[w].b;
    return lane == 0 ? x : before.a * x + before.b;
}

__global__ void scan_shuffle(ScanJob job)
{
    __shared__ ScanPair warp_end[2][SHUFFLE_WARPS]; /* the states take turns with the two */
    __shared__ float carry[SCAN_MAX_STATE];
    const Scan *scan = &job.scan;
    size_t channel = blockIdx.x, b = channel / scan->d_inner, d = channel % scan->d_inner;
    carry_open(carry, &job, channel);
    for (size_t t = 0; t < scan->len; t += SHUFFLE_TOKENS) {
        TimeToken at[SHUFFLE_ITEMS]; /* unrolled loops, so that arrays become registers */
        UNROLL
        for (int k = 0; k < SHUFFLE_ITEMS; k++)
            at[k] = time_token(scan, b, t + threadIdx.x * SHUFFLE_ITEMS + (size_t)k, d);
        for (size_t n = 0; n < scan->d_state; n++) {
            ScanPair step[SHUFFLE_ITEMS], total = {1.0f, 0.0f};
            UNROLL
            for (int k = 0; k < SHUFFLE_ITEMS; k++) { /* the thread's four steps as one ... */
                step[k] = time_step(scan, &at[k], d, n);
                total = pair_join(total, step[k]);
            }
            float x = shuffle_before(total, warp_end[n % 2], &carry[n]);
            UNROLL
            for (int k = 0; k < SHUFFLE_ITEMS; k++) { /* ... and one by one, from the right start */
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

/* ==================================== 4. A tile for a block =============================== */
/* IDEA    Channels and sequences are thousands already, so time need not be cut: it goes back into
           a loop, a thread a channel as in kernel 0, and all care goes to memory. The states live
           in registers, which have no index: every loop over them has a length that is known and is
           written out. And a tile of B and C is read once for the 128 channels of a block.
   GRID    batch * ceil(d_inner / 128) blocks of 128 threads; d_state 16 at most
   COSTS   The block waits for every tile, and for u and delta at every token. And few channels are
           still few threads. */

enum { TILE_TOKENS = 16, TILE_STATES = 16 };

/* Row after row of B or C (batch * len, d_state) from row `token` on; 0 from d_state on. */
DEVICE void tile_read(float tile[TILE_TOKENS][TILE_STATES], const float *from, size_t token,
                      size_t tokens, size_t d_state)
{
    for (unsigned j = threadIdx.x; j < TILE_TOKENS * TILE_STATES; j += blockDim.x) {
        unsigned i = j / TILE_STATES, n = j % TILE_STATES;
        tile[i][n] = i < tokens && n < d_state ? from[(token + i) * d_state + n] : 0.0f;
    }
}

__global__ void scan_tiled(ScanJob job)
{
    __shared__ float B[TILE_TOKENS][TILE_STATES], C[TILE_TOKENS][TILE_STATES];
    const Scan *scan = &job.scan;
    size_t d_inner = scan->d_inner, d_state = scan->d_state, wide = (d_inner - 1) / blockDim.x + 1;
    size_t b = blockIdx.x / wide, d = blockIdx.x % wide * blockDim.x + threadIdx.x;
    bool inside = d < d_inner; /* the others must come along, to the barriers */
    float x[TILE_STATES], A2[TILE_STATES];
    UNROLL
    for (size_t n = 0; n < TILE_STATES; n++) {
        size_t at = (b * d_inner + d) * d_state + n;
        x[n] = inside && n < d_state && job.start != NULL ? job.start[at] : 0.0f;
        A2[n] = inside && n < d_state ? LOG2_E * scan->A[d * d_state + n] : 0.0f;
    }
    for (size_t t = 0; t < scan->len; t += TILE_TOKENS) {
        size_t token = b * scan->len + t, tokens = least_of(TILE_TOKENS, scan->len - t);
        __syncthreads(); /* nobody needs the tile before any more */
        tile_read(B, scan->B, token, tokens, d_state);
        tile_read(C, scan->C, token, tokens, d_state);
        __syncthreads(); /* this one is there */
        for (size_t i = 0; i < tokens && inside; i++) {
            size_t at = (token + i) * d_inner + d;
            float u = scan->u[at], delta = step_of(scan, at, d);
            float y = skip_of(scan, d) * u;
            UNROLL
            for (size_t n = 0; n < TILE_STATES; n++) {
                x[n] = exp2_unit(delta * A2[n]) * x[n] + delta * u * B[i][n];
                y += C[i][n] * x[n];
            }
            job.y[at] = y * gate_of(scan, at);
        }
    }
    UNROLL
    for (size_t n = 0; n < TILE_STATES; n++)
        if (inside && n < d_state && job.x_last != NULL)
            job.x_last[(b * d_inner + d) * d_state + n] = x[n];
}
KERNEL(scan_tiled, ScanJob)

/* ==================================== 5. Fused ============================================ */
/* IDEA    Kernel 4, and whatever keeps it from being fast. u, delta, z come in tiles too, 16 bytes
           at a time, and what the next tile needs is on its way while this one is worked on;
           softplus and gate are made where four channels at a time pass by; and one, two or four
           lanes share a channel's states, or as many as d_state needs, so that there are enough
           warps.
   JOBS    A thread has two (FusedPlace, in cuda_tiles.h). It moves quads, four channels of a token,
           between the memories, as they lie there; and it works on a channel, neighbouring threads
           its states.
   GRID    batch * pieces * ceil(d_inner / channels) blocks of 128 threads; channels = 128 / lanes
   COSTS   Few channels are still few threads: that is kernel 6's. */

enum {
    FUSED_GROUP = 4,   /* tokens whose sums over the lanes are made together */
    FUSED_TOKENS = 16, /* of a tile, at most */
    STRETCH_FEW = 8,   /* tokens between two checkpoints, with up to 16 states */
    STRETCH_MANY = 4   /* and with more */
};

/* The states before this piece's first stretch of tokens, (d_inner, d_state), and those before the
   next ones behind them; or NULL, where nobody wants them. */
DEVICE float *checkpoint_from(const ScanJob *job, const FusedPlace *at)
{
    const Scan *scan = &job->scan;
    size_t before = at->b * ((scan->len - 1) / job->stretch + 1) + at->first / job->stretch;
    return scan->checkpoint != NULL ? scan->checkpoint + before * scan->d_inner * scan->d_state
                                    : NULL;
}

/* A tile in shared memory: rows of tokens. */
typedef struct {
    float *u, *delta, *z; /* (tokens, channels) */
    float *B, *C;         /* (tokens, lanes * states) */
} FusedTile;

/* Half 0 or 1 of the shared memory; wide, narrow: the sizes of (tokens, channels) and of (tokens,
   lanes * states). */
DEVICE FusedTile fused_tile(float *shared, unsigned half, unsigned wide, unsigned narrow)
{
    float *first = shared + half * (3 * wide + 2 * narrow);
    FusedTile tile = {first, first + wide, first + 2 * wide, first + 3 * wide,
                      first + 3 * wide + narrow};
    return tile;
}

/* The tile that begins `done` tokens after the piece, on its way. Nobody waits here: the copies go
   on by themselves (cp.async) while the tile before is worked on. */
DEVICE void fused_fetch(const FusedTile *tile, const Scan *scan, const FusedPlace *at,
                        unsigned done, const FusedShape shape)
{
    rows_fetch(tile->u, scan->u, at, done, shape);
    rows_fetch(tile->delta, scan->delta, at, done, shape);
    if (shape.reads && scan->z != NULL)
        rows_fetch(tile->z, scan->z, at, done, shape);
    states_fetch(tile->B, scan->B, scan->C, shape.reads, at, done, shape);
}

/* Delta of the quads that this thread has moved, in place: softplus once for a channel, not once
   for each of its lanes. After the end 0, so that nothing moves there. */
DEVICE void fused_prepare(const FusedTile *tile, const Scan *scan, const FusedPlace *at,
                          const float *bias, unsigned done, const FusedShape shape)
{
    UNROLL
    for (int k = 0; k < quads_of(shape); k++) {
        unsigned i = at->row + (unsigned)k * at->rows;
        float *delta = tile->delta + i * at->channels + at->quad, quad[4];
        if (!in_tile(i, shape))
            break;
        quads_load(quad, delta, 4);
        steps_unit(quad, bias, scan->delta_softplus, done + i < at->tokens);
        quads_store(delta, quad, 4);
    }
}

/* What this thread holds of sums over lanes: v[0 .. count - 1], numbers first .. first + count - 1;
   `mine` if it is the one of several with the same to say so. */
typedef struct {
    int count, first;
    bool mine;
} LaneSums;

/* v (count numbers in every thread) summed over the lanes that differ in the bits low .. high of
   their number. If these are constants (`known`), a step halves the numbers too: lanes with the
   bit keep the upper half, the others the lower one, so 4 sums over 4 lanes take 3 shuffles.

   Exercise 6.4. The step in which a half is given away. What is kept ends in v[0 .. half - 1]. */
DEVICE LaneSums lane_sums(float *v, const int count, const bool known, unsigned low, unsigned high)
{
    unsigned lane = threadIdx.x % 32;
    LaneSums sums = {count, 0, true};
    UNROLL
    for (unsigned bit = high; bit >= low && bit > 0; bit /= 2) {
        bool upper = (lane & bit) != 0;
        if (known && sums.count > 1) {
            int half = sums.count / 2;
            //> EX 6.4 [3 pts] [20 min] sums that are split while they are made
            //? Lanes whose number has the bit keep the upper half of v, the others the lower half.
            //? What a lane does not keep crosses over: __shfl_xor_sync(ALL_LANES, give, bit).
            //? Both lanes call the shuffle with what they give; the sum lands in v[i], i < half.
            UNROLL
            for (int i = 0; i < count / 2; i++) {
                if (i >= half)
                    break;
                float low_half = v[i], high_half = v[half + i];
                float give = upper ? low_half : high_half, keep = upper ? high_half : low_half;
                v[i] = keep + __shfl_xor_sync(ALL_LANES, give, bit);
            }
            //< EX 6.4
            sums.first += upper ? half : 0;
            sums.count = half;
        } else { /* a single number: both lanes get the sum, and one of them may say so */
            UNROLL
            for (int i = 0; i < count; i++)
                if (i < sums.count)
                    v[i] += __shfl_xor_sync(ALL_LANES, v[i], bit);
            sums.mine = sums.mine && !upper;
        }
    }
    return sums;
}

/* A tile, forwards: the loop all of this is about. x (states) are this thread's, A2 (states) its
   part of a row of A times log2 e; `elapsed` adds Delta up. The sums C . x wait in registers until
   nobody needs Delta any more, and go where that was: so no load has to wait for a store. */
DEVICE void fused_forward(float *x, float *elapsed, const float *A2, const FusedTile *tile,
                          float *checkpoint, unsigned done, const FusedPlace *at,
                          const FusedShape shape)
{
    float *delta = tile->delta + at->worker; /* (tokens) a column of the tile */
    float y[FUSED_TOKENS];
    LaneSums sums = {0, 0, false};
    UNROLL
    for (unsigned i0 = 0; i0 < (unsigned)shape.tokens; i0 += FUSED_GROUP) {
        if (shape.reads && i0 % (unsigned)shape.stretch == 0)
            checkpoint_keep(checkpoint, x, done + i0, at, shape);
        UNROLL
        for (unsigned i = i0; i < i0 + FUSED_GROUP; i++) {
            unsigned e = i * at->channels;
            float drive = delta[e] * tile->u[e + at->worker], B[16], C[16];
            lane_read(B, tile->B, i, at, shape);
            if (shape.reads)
                lane_read(C, tile->C, i, at, shape);
            y[i] = 0.0f;
            UNROLL
            for (int k = 0; k < shape.states; k++) {
                x[k] = exp2_unit(delta[e] * A2[k]) * x[k] + drive * B[k];
                if (shape.reads)
                    y[i] += C[k] * x[k];
            }
            *elapsed += delta[e];
        }
        if (shape.reads) /* y of four tokens, a part in each lane of the channel */
            sums = lane_sums(y + i0, FUSED_GROUP, shape.whole, 1, shape.lanes / 2);
    }
    __syncwarp(); /* every lane has read the Delta that is written over here */
    UNROLL
    for (unsigned i0 = 0; i0 < (unsigned)shape.tokens; i0 += FUSED_GROUP) {
        UNROLL
        for (unsigned g = 0; g < FUSED_GROUP; g++)
            if (g < (unsigned)sums.count && sums.mine)
                delta[(i0 + (unsigned)sums.first + g) * at->channels] = y[i0 + g];
    }
}

/* y of the quads that this thread has moved: the sums, the skip and the gate. */
DEVICE void fused_store(const FusedTile *tile, const ScanJob *job, const FusedPlace *at,
                        const float *D, unsigned done, const FusedShape shape)
{
    float *to = job->y + at->moved + (size_t)done * at->d_inner;
    UNROLL
    for (int pass = 0; pass < quads_of(shape); pass++) {
        unsigned i = at->row + (unsigned)pass * at->rows, e = i * at->channels + at->quad;
        float y[4], u[4], gate[4] = {1.0f, 1.0f, 1.0f, 1.0f};
        if (!in_tile(i, shape) || done + i >= at->tokens || at->count == 0)
            break;
        if (job->scan.z != NULL) {
            quads_load(gate, tile->z + e, 4);
            UNROLL
            for (int k = 0; k < 4; k++)
                gate[k] *= sigmoid_unit(gate[k]);
        }
        quads_load(y, tile->delta + e, 4);
        quads_load(u, tile->u + e, 4);
        UNROLL
        for (int k = 0; k < 4; k++)
            y[k] = gate[k] * (y[k] + D[k] * u[k]);
        quad_write(to, y, at->count, at->whole);
        to += (size_t)at->rows * at->d_inner;
    }
}

/* The kernel: one piece of time of one sequence, FUSED_THREADS / lanes channels. Two tiles lie in
   shared memory: while one is worked on, the next one arrives. */
DEVICE void fused(const ScanJob *job, float *shared, const FusedShape shape)
{
    const Scan *scan = &job->scan;
    const FusedPlace at = fused_place(scan, job->pieces, job->piece_len, shape);
    unsigned tokens = (unsigned)shape.tokens, tiles = (at.tokens - 1) / tokens + 1;
    unsigned wide = tokens * at.channels, narrow = tokens * (unsigned)shape.states * shape.lanes;
    size_t d = at.channel + at.worker, pieces = at.b * job->pieces + at.piece;
    float *checkpoint = checkpoint_from(job, &at);
    float A2[16], x[16], bias[4], D[4], elapsed = 0.0f;
    quad_read(bias, scan->delta_bias, &at);
    quad_read(D, scan->D, &at);
    states_read(A2, scan->A, d, &at, shape);
    states_read(x, shape.reads ? job->start : NULL, pieces * scan->d_inner + d, &at, shape);
    UNROLL
    for (int k = 0; k < shape.states; k++)
        A2[k] *= LOG2_E;
    for (unsigned s = 0; s <= tiles; s++) { /* round s fetches tile s and works on tile s - 1 */
        unsigned done = (s - 1) * tokens;
        FusedTile next = fused_tile(shared, s % 2, wide, narrow);
        FusedTile tile = fused_tile(shared, (s + 1) % 2, wide, narrow);
        if (s > 0) {
            __pipeline_wait_prior(0); /* this thread's own quads are there ... */
            fused_prepare(&tile, scan, &at, bias, done, shape);
        }
        __syncthreads(); /* ... and now everybody's; and nobody is in the other tile any more */
        if (s < tiles)
            fused_fetch(&next, scan, &at, s * tokens, shape);
        __pipeline_commit();
        if (s == 0)
            continue;
        fused_forward(x, &elapsed, A2, &tile, checkpoint, done, &at, shape);
        if (shape.reads) {
            __syncthreads(); /* all sums are there */
            fused_store(&tile, job, &at, D, done, shape);
        }
    }
    if (shape.reads) {
        if (at.piece + 1 == job->pieces)
            states_write(job->x_last, x, at.b * scan->d_inner + d, &at, shape);
        return;
    }
    states_write(job->piece_x, x, pieces * scan->d_inner + d, &at, shape);
    UNROLL
    for (int k = 0; k < shape.states; k++) /* a product of exponentials in one */
        x[k] = exp2_unit(elapsed * A2[k]);
    states_write(job->piece_a, x, pieces * scan->d_inner + d, &at, shape);
}

/* The body with its constants put in: states * lanes >= d_state. The last is for all sizes. */
#define FUSED_KERNEL(name, states, tokens, lanes, whole, reads, stretch)                           \
    __global__ void __launch_bounds__(FUSED_THREADS) name(ScanJob job)                             \
    {                                                                                              \
        DYNAMIC_SHARED(float, shared);                                                             \
        const FusedShape shape = {states, tokens, lanes, whole, reads, stretch};                   \
        fused(&job, shared, shape);                                                                \
    }                                                                                              \
    KERNEL(name, ScanJob)

FUSED_KERNEL(fused_16x1, 16, 8, 1, true, true, STRETCH_FEW)
FUSED_KERNEL(fused_8x2, 8, 16, 2, true, true, STRETCH_FEW)
FUSED_KERNEL(fused_4x4, 4, 16, 4, true, true, STRETCH_FEW)
FUSED_KERNEL(fused_16x4, 16, 8, 4, true, true, STRETCH_MANY)
FUSED_KERNEL(fused_16x8, 16, 8, 8, true, true, STRETCH_MANY)
FUSED_KERNEL(fused_8xn, 8, 4, job.lanes, false, true, STRETCH_MANY)

/* ==================================== 6. Time in pieces =================================== */
/* IDEA    Where channels are few, time is cut into pieces after all, a block each, in three phases.
           Where does each piece end if it starts from 0, and by what does it multiply a state? Then
           a short loop over the pieces' ends. Then kernel 5 for every piece, from the right start.
   GRID    kernel 5's, twice; between them batch * d_inner * d_state threads
   COSTS   Every exponential twice; and u, delta and B are read twice. */

FUSED_KERNEL(piece_end_16x1, 16, 8, 1, true, false, STRETCH_MANY)
FUSED_KERNEL(piece_end_16x4, 16, 4, 4, true, false, STRETCH_MANY)
FUSED_KERNEL(piece_end_16x8, 16, 4, 8, true, false, STRETCH_MANY)
FUSED_KERNEL(piece_end_8xn, 8, 4, job.lanes, false, false, STRETCH_MANY)

enum { CARRY_THREADS = 128, CARRY_AHEAD = 8 };

/* A thread a state: where every piece ends becomes where the next one starts. The ends of
   CARRY_AHEAD pieces are asked for at once, so that the loop waits for memory once in so many.

   Exercise 6.5. Carry a state on from piece to piece. */
__global__ void scan_carry(ScanJob job)
{
    size_t states = job.scan.d_inner * job.scan.d_state;
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; /* b * states + d * d_state + n */
    if (i >= job.scan.batch * states)
        return;
    float x = job.start != NULL ? job.start[i] : 0.0f;
    for (size_t done = 0; done < job.pieces; done += CARRY_AHEAD) {
        float a[CARRY_AHEAD], end[CARRY_AHEAD];
        size_t at[CARRY_AHEAD]; /* in piece_x and piece_a (batch, pieces, states) */
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

/* ==================================== Which kernel, and how =============================== */
/* Depth is worth paying for only where processors are idle. So count first: batch * d_inner rows
   that never look at each other, 32 threads to a warp, and as many warps as the device wants. */

typedef enum {
    SCAN_CHANNELS,
    SCAN_HILLIS_STEELE,
    SCAN_BLELLOCH,
    SCAN_SHUFFLE,
    SCAN_TILED,
    SCAN_FUSED,
    SCAN_PIECES,
    SCAN_KERNELS /* how many; and: choose one */
} ScanKernel;

static const char *const scan_kernel_name[SCAN_KERNELS + 1] = {
    "channel", "hillis-steele", "blelloch", "shuffle", "tiled", "fused", "pieces", "chosen"};

/* How a scan is laid out on a GPU. */
typedef struct {
    ScanKernel kernel;
    unsigned lanes;           /* to a channel, in kernels 5 and 6 and backwards: 1, 2, 4 ... 32 */
    size_t pieces, piece_len; /* of time; 1 and len but in kernel 6 */
} ScanPlan;

enum {
    WARPS_WANTED = 16, /* on each processor: four for each of its four schedulers */
    PIECE_UNIT = 16,   /* pieces are multiples of every tile and stretch */
    PIECE_LEAST = 128  /* tokens: a shorter piece costs more than it brings */
};

/* Whether the layouts for few states take it: 16 bytes at a time, 16 states at most. */
bool scan_whole(const Scan *scan)
{
    return scan->d_inner % 4 == 0 && scan->d_state % 4 == 0 && scan->d_state <= 16;
}

/* Tokens between two checkpoints: what the backward kernel holds in registers. */
unsigned scan_stretch(const Scan *scan)
{
    return scan_whole(scan) ? STRETCH_FEW : STRETCH_MANY;
}

/* Lanes of 16 states each, if 4 divides the sizes and there are 17 to 128 states; else 0. */
unsigned lanes_of_16(const Scan *scan)
{
    bool quads = scan->d_inner % 4 == 0 && scan->d_state % 4 == 0;
    return !quads || scan->d_state <= 16 || scan->d_state > 128 ? 0 : scan->d_state <= 64 ? 4 : 8;
}

/* And those of 8 states each, for all sizes: a power of two. */
unsigned lanes_of_8(const Scan *scan)
{
    unsigned lanes = 1;
    while (lanes * 8 < scan->d_state)
        lanes *= 2;
    return lanes;
}

/* The fewest and the most lanes that kernels 5 and 6 are compiled for. */
unsigned lanes_least(const Scan *scan)
{
    return scan_whole(scan) ? 1 : lanes_of_16(scan) ? lanes_of_16(scan) : lanes_of_8(scan);
}

unsigned lanes_most(const Scan *scan)
{
    return scan_whole(scan) ? 4 : lanes_least(scan);
}

/* Warps that work at the same time if time is not cut. */
static size_t warps_of(const Scan *scan, unsigned lanes)
{
    return scan->batch * ceil_div(scan->d_inner * lanes, 32);
}

/* Time cut into about so many pieces of whole tiles. */
static void plan_pieces(ScanPlan *plan, const Scan *scan, size_t pieces)
{
    plan->piece_len = ceil_div(ceil_div(scan->len, pieces), PIECE_UNIT) * PIECE_UNIT;
    plan->pieces = ceil_div(scan->len, plan->piece_len);
}

/* The layout for a kernel, or, for SCAN_KERNELS, the kernel and its layout. Lanes are added until
   there are enough warps. Or time is cut, with as few lanes as can be: that takes one and a half
   times the instructions, and must bring more than as many times the warps. */
ScanPlan scan_plan(const Scan *scan, ScanKernel kernel, size_t processors)
{
    ScanPlan plan = {kernel, lanes_least(scan), 1, 0};
    size_t wanted = processors * WARPS_WANTED, few = warps_of(scan, plan.lanes);
    size_t pieces = smaller(ceil_div(wanted, few), scan->len / PIECE_LEAST);
    while (plan.lanes < lanes_most(scan) && warps_of(scan, plan.lanes) < wanted)
        plan.lanes *= 2;
    if (kernel == SCAN_KERNELS)
        plan.kernel = 3 * warps_of(scan, plan.lanes) < 2 * smaller(wanted, few * pieces)
                          ? SCAN_PIECES
                          : SCAN_FUSED;
    if (plan.kernel == SCAN_PIECES)
        plan.lanes = lanes_least(scan);
    if (kernel == SCAN_PIECES && pieces < 2)
        pieces = 2;
    plan_pieces(&plan, scan, plan.kernel == SCAN_PIECES ? pieces : 1);
    return plan;
}

/* ==================================== From the plan to the grid =========================== */
/* START asks the GPU for blocks of threads that go through a kernel, and nobody waits for them. */

/* Kernels 0 to 4: a channel a thread, or a channel a block. Kernel 4 has registers for 16 states;
   where there are more, kernel 0 stands in. */
static bool start_simple(const ScanJob *job, ScanKernel kernel, Error *error)
{
    size_t channels = job->scan.batch * job->scan.d_inner;
    size_t blocks = job->scan.batch * ceil_div(job->scan.d_inner, CHANNEL_THREADS);
    if (kernel == SCAN_TILED && job->scan.d_state <= TILE_STATES)
        return START(scan_tiled, blocks, CHANNEL_THREADS, 0, *job, error);
    if (kernel == SCAN_CHANNELS || kernel == SCAN_TILED)
        return START(scan_channels, blocks, CHANNEL_THREADS, 0, *job, error);
    if (kernel == SCAN_HILLIS_STEELE)
        return START(scan_hillis_steele, channels, TIME_THREADS, 0, *job, error);
    if (kernel == SCAN_BLELLOCH)
        return START(scan_blelloch, channels, SWEEP_THREADS, 0, *job, error);
    return START(scan_shuffle, channels, SHUFFLE_THREADS, 0, *job, error);
}

/* Kernel 5's blocks, and their bytes of shared memory: two tiles of u, delta, z, B and C. */
size_t channel_blocks(const Scan *scan, unsigned lanes)
{
    return ceil_div(scan->d_inner, FUSED_THREADS / lanes);
}

size_t fused_blocks(const ScanJob *job)
{
    return channel_blocks(&job->scan, job->lanes) * job->pieces * job->scan.batch;
}

size_t fused_shared(unsigned lanes, unsigned states, unsigned tokens)
{
    size_t wide = (size_t)tokens * FUSED_THREADS / lanes, narrow = (size_t)tokens * states * lanes;
    return 2 * (3 * wide + 2 * narrow) * sizeof(float);
}

/* Kernel 5's body for these lanes, and what kernel 6 does before it. */
static bool start_fused(const ScanJob *job, Error *error)
{
    size_t blocks = fused_blocks(job);
    if (lanes_of_16(&job->scan) == 4)
        return START(fused_16x4, blocks, FUSED_THREADS, fused_shared(4, 16, 8), *job, error);
    if (lanes_of_16(&job->scan) == 8)
        return START(fused_16x8, blocks, FUSED_THREADS, fused_shared(8, 16, 8), *job, error);
    if (!scan_whole(&job->scan))
        return START(fused_8xn, blocks, FUSED_THREADS, fused_shared(job->lanes, 8, 4), *job, error);
    if (job->lanes == 1)
        return START(fused_16x1, blocks, FUSED_THREADS, fused_shared(1, 16, 8), *job, error);
    if (job->lanes == 2)
        return START(fused_8x2, blocks, FUSED_THREADS, fused_shared(2, 8, 16), *job, error);
    return START(fused_4x4, blocks, FUSED_THREADS, fused_shared(4, 4, 16), *job, error);
}

static bool start_piece_end(const ScanJob *job, Error *error)
{
    size_t blocks = fused_blocks(job);
    if (lanes_of_16(&job->scan) == 4)
        return START(piece_end_16x4, blocks, FUSED_THREADS, fused_shared(4, 16, 4), *job, error);
    if (lanes_of_16(&job->scan) == 8)
        return START(piece_end_16x8, blocks, FUSED_THREADS, fused_shared(8, 16, 4), *job, error);
    if (!scan_whole(&job->scan))
        return START(piece_end_8xn, blocks, FUSED_THREADS, fused_shared(job->lanes, 8, 4), *job,
                     error);
    return START(piece_end_16x1, blocks, FUSED_THREADS, fused_shared(1, 16, 8), *job, error);
}

/* Between the two: a thread for each state of each channel of each sequence. */
bool start_carry(const ScanJob *job, Error *error)
{
    size_t states = job->scan.batch * job->scan.d_inner * job->scan.d_state;
    return START(scan_carry, ceil_div(states, CARRY_THREADS), CARRY_THREADS, 0, *job, error);
}

/* The job as the plan lays it out, from a start (batch, d_inner, d_state) or NULL. */
ScanJob job_planned(const ScanJob *job, const ScanPlan *plan, const float *start)
{
    ScanJob now = *job;
    now.lanes = plan->lanes;
    now.pieces = plan->pieces;
    now.piece_len = plan->piece_len;
    now.start = start;
    return now;
}

/* The whole forward pass: all kernels of it are started; the GPU takes them one after the other. */
bool start_forward(const ScanJob *job, const ScanPlan *plan, Error *error)
{
    ScanJob now = job_planned(job, plan, job->scan.x_start);
    if (plan->kernel < SCAN_FUSED)
        return start_simple(&now, plan->kernel, error);
    if (plan->pieces > 1) { /* kernel 6: ends from 0, then starts from ends, then from the starts */
        if (!start_piece_end(&now, error) || !start_carry(&now, error))
            return false;
        now.start = job->piece_x;
    }
    return start_fused(&now, error);
}

/* ==================================== There and back ====================================== */
/* A GPU has a memory of its own: inputs are copied there and results back. */

/* A scan with all its arrays on the device. */
typedef struct {
    DeviceMemory memory;
    ScanJob job;
    ScanPlan plan;
} DeviceScan;

/* What a kernel cannot be asked for. */
bool scan_fits(const Scan *scan, Error *error)
{
    if (scan->d_state < 1 || scan->d_state > SCAN_MAX_STATE)
        return fail(error, "d_state %zu: the kernels take 1 to %d", scan->d_state, SCAN_MAX_STATE);
    if (scan->batch * scan->len * scan->d_inner == 0)
        return fail(error, "a scan without tokens or channels has nothing for a GPU");
    return true;
}

/* The inputs, and room for y and x_last. Whatever it returned: device_free. */
bool device_scan_open(DeviceScan *on, const Scan *scan, const ScanPlan *plan, Error *error)
{
    DeviceMemory *memory = &on->memory;
    /* floats in (batch, len, d_inner), (d_inner, d_state), (batch, len, d_state), and, for the ends
       of pieces, in (batch, pieces, d_inner, d_state) */
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
    /* there, the kernels, and back; && stops at the first call that fails */
    bool ok =
        device_scan_open(&on, scan, &plan, error) && start_forward(&on.job, &on.plan, error) &&
        cuda_ok(cudaDeviceSynchronize(), "scanning", error) && /* here the host waits */
        device_get(y, on.job.y, wide, error) && device_get(x_last, on.job.x_last, states, error);
    return device_free(&on.memory, ok, error);
}

/* ==================================== The demos =========================================== */

/* A kernel on one scan, under every order of threads, against chapter 4's clear one: `near`, to
   rounding; `same`, to the last bit in every order. Both stay false once they are. */
static bool ladder_step(bool *near, bool *same, ScanKernel kernel, const Scan *scan, uint64_t seed,
                        Error *error)
{
    size_t count = scan->batch * scan->len * scan->d_inner;
    float *want = NEW(float, count), *first = NEW(float, count), *y = NEW(float, count);
    bool ok = true;
    selective_scan(want, NULL, scan);
    for (int order = 0; ok && order < orders(); order++) {
        use_order(order, seed);
        ok = cuda_scan(y, NULL, scan, kernel, error);
        if (ok && order == 0)
            memcpy(first, y, count * sizeof(float));
        *near = *near && difference_of(y, want, count) <= 1e-5;
        *same = *same && memcmp(first, y, count * sizeof(float)) == 0;
    }
    use_order(0, 0);
    free(want);
    free(first);
    free(y);
    return ok;
}

/* Every kernel on two scans. 700 tokens divide by no tile, so that each has a last one that is not
   full; and with a single state some barriers matter that 16 states hide. */
static bool demo_ladder(const Show *show, Error *error)
{
    DemoScan many = demo_scan_new(2, 700, 8, 16), one = demo_scan_new(2, 700, 8, 1);
    bool ok = true;
    printf("The ladder on batch 2, len 700, d_inner 8, with d_state 16 and with d_state 1:\n"
           "chapter 4's y to 1e-5, and the same bits for threads that run in order,\n"
           "backwards, or shuffled (seed %" PRIu64 ")?\n\n",
           show->seed);
    puts("  kernel          agrees   same bits");
    for (int kernel = 0; ok && kernel < SCAN_KERNELS; kernel++) {
        bool near = true, same = true;
        ok = ladder_step(&near, &same, (ScanKernel)kernel, &many.scan, show->seed, error) &&
             ladder_step(&near, &same, (ScanKernel)kernel, &one.scan, show->seed, error);
        if (ok)
            printf("  %d %-13s %6s %11s\n", kernel, scan_kernel_name[kernel], near ? "yes" : "no",
                   same ? "yes" : "no");
    }
    free(many.memory);
    free(one.memory);
    return ok;
}

/* What trees cost in joins and save in depth, for the tile of kernel 3. */
static bool demo_work(const Show *show, Error *error)
{
    return work_show(SHUFFLE_TOKENS, SHUFFLE_ITEMS, show, error);
}

/* In how many turns a warp gets its words on the way up the tree, round by round. */
static bool demo_banks(const Show *show, Error *error)
{
    return banks_show(SWEEP_TOKENS, swept_place, show, error);
}

/* What a scan must read, write and exponentiate, whoever makes it. */
static bool demo_floors(const Show *show, Error *error)
{
    Scan scan = scan_new(8, 2048, 2048, 16, NULL, NULL, NULL, NULL, NULL);
    return floors_show(&scan, 32.0, (double)scan_stretch(&scan), show, error);
}

/* ---- a barrier too few ---- */
/* A mistake to look at: on a GPU it shows now and then, on the CPU in every run. */

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
    if (job.parted && i < 32) /* the first warp waits for the second, which never comes here */
        __syncthreads();
    __syncthreads();
    for (unsigned reach = 1; reach < RACE_THREADS; reach *= 2) {
        float before = i >= reach ? sum[i - reach] : 0.0f;
        if (job.waits)
            __syncthreads();
        sum[i] += before; /* without the wait, somebody may still want to read the old one */
        __syncthreads();
    }
    job.out[i] = sum[i];
}
KERNEL(race_sum, RaceJob)

/* race_sum's last element. */
static bool race_run(float *last, bool waits, bool parted, Error *error)
{
    DeviceMemory memory;
    RaceJob job = {NULL, waits, parted};
    memory.count = 0;
    bool ok = device_new(&job.out, &memory, RACE_THREADS, error) &&
              START(race_sum, (size_t)1, RACE_THREADS, 0, job, error) &&
              cuda_ok(cudaDeviceSynchronize(), "race_sum", error) &&
              device_get(last, job.out + RACE_THREADS - 1, 1, error);
    return device_free(&memory, ok, error);
}

static bool demo_race(const Show *show, Error *error)
{
    puts("64 ones, summed in one array by 64 threads: the last sum should be 64\n");
    puts("  threads run   with both barriers   with one too few");
    for (int order = 0; order < orders(); order++) {
        float right = 0.0f, wrong = 0.0f;
        use_order(order, show->seed);
        if (!race_run(&right, true, false, error) || !race_run(&wrong, false, false, error))
            return false;
        printf("  %-13s %18g %18g\n", orders() == 1 ? "as they do" : order_name(order),
               (double)right, (double)wrong);
    }
    use_order(0, 0);
#ifdef CUDA_ON_CPU
    Error report;
    float last = 0.0f;
    if (race_run(&last, true, true, &report))
        return fail(error, "a barrier for half of the threads was not noticed");
    prose("\nAnd a barrier that only half of the threads come to:\n%s", report.text);
#else
    puts("\n(What a GPU does at a barrier for half of the threads is not defined: the CPU names "
         "it.)");
#endif
    return true;
}

/* Chapter 1's forecast: chapter 4's demo_thread, by whichever kernel is chosen. */
static bool demo_weather_cuda(const Show *show, Error *error)
{
    float y[2 * WEATHER_DAYS];
    Scan scan = scan_weather();
    (void)show;
    if (!cuda_scan(y, NULL, &scan, SCAN_KERNELS, error))
        return false;
    puts("The thread: chapter 1's forecast by the CUDA scan\n");
    print_weather(y, WEATHER_DAYS);
    return true;
}

/* ==================================== Options and main ==================================== */

int cuda_main(int argc, char **argv)
{
    static Demo *const demos[] = {demo_ladder, demo_work,   demo_banks,
                                  demo_race,   demo_floors, demo_weather_cuda};
    int demo = -1;
    bool device = false, ascii = false;
    Show show = {{false, false}, NULL, 1};
    const Option table[] = {
        {"demo", "ladder|work|banks|race|floors|weather", OPTION_CHOICE, 0, 0, &demo, "mode",
         "one demo; work, banks and floors have a figure for --svg"},
        {"device", NULL, OPTION_SWITCH, 0, 0, &device, "mode",
         "say on what the kernels run; exit status 1 if there is no GPU"},
        {"seed", "S", OPTION_WHOLE, 0, WHOLE_MOST, &show.seed, "- demo:ladder demo:race",
         "of the order in which threads run, on the CPU (default 1)"},
        {"svg", "FILE", OPTION_OUT, 0, 0, &show.svg, "demo:work demo:banks demo:floors",
         "write the figure as SVG"},
        {"ascii", NULL, OPTION_SWITCH, 0, 0, &ascii, "- demo:work demo:banks demo:floors",
         "draw without Unicode"},
    };
    const Program program = {"ch06_cuda_scan",
                             "The scan on a GPU, and without one (chapter 6). Without options: the "
                             "demos in order. " BUILT_FOR,
                             table, sizeof table / sizeof *table};
    int status;
    if (!program_begin(&status, &program, argc, argv))
        return status;
    Error error;
    show.look = look_at_terminal(ascii);
    bool ok = device ? device_say(&error) : demos_run(demos, 6, demo, &show, &error);
    return program_end(ok, &error);
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return cuda_main(argc, argv);
}
#endif

#endif /* CH06_CUDA_SCAN */
