/* cuda_on_cpu.h and cuda_races.h held against kernels that are wrong in one way each, and against
   some that are right and look wrong. What is caught depends on the build: `make test` has the
   sentences of a launch and the three orders of threads, SANITIZE=1 adds memory beyond an array,
   and `make races` the races that change no result, in this file and in the chapter's kernels. */

#include "../ch06_cuda_scan/cuda_host.cu"
#ifdef CUDA_CPU_TSAN
#include "../ch06_cuda_scan/cuda_backward.cu"
#include "../ch06_cuda_scan/cuda_dual.cu"
#endif

#include "check.h"

#ifdef CUDA_ON_CPU

enum { THREADS = 64, ROOM = 4 * THREADS };

/* What the kernels are given, all of it the device's. */
typedef struct {
    float *out;      /* (ROOM) 0 at first */
    unsigned *count; /* (ROOM) 0 at first */
    const float *in; /* (ROOM) 0, 1, 2, ... */
    unsigned *line;  /* (2) which lines of a kernel race, as it has marked them */
    float *unwritten;
} BugJob;

#define MARK(i) ((void)atomicExch(&job.line[i], (unsigned)__LINE__))

/* ---- waiting for somebody who does not come ------------------------------------------------ */

__global__ void barrier_in_an_if(BugJob job)
{
    if (threadIdx.x < 32)
        __syncthreads();
    job.out[threadIdx.x] = 1.0f;
}
KERNEL(barrier_in_an_if, BugJob)

__global__ void two_barriers_on_one_line(BugJob job)
{
    threadIdx.x < 32 ? __syncthreads() : __syncthreads();
    job.out[threadIdx.x] = 1.0f;
}
KERNEL(two_barriers_on_one_line, BugJob)

__global__ void barrier_after_a_return(BugJob job)
{
    if (threadIdx.x >= 50)
        return;
    __syncthreads();
    job.out[threadIdx.x] = 1.0f;
}
KERNEL(barrier_after_a_return, BugJob)

__global__ void barriers_in_loops_of_two_lengths(BugJob job)
{
    for (unsigned k = 0; k < 2 + threadIdx.x / 32; k++)
        __syncthreads();
    job.out[threadIdx.x] = 1.0f;
}
KERNEL(barriers_in_loops_of_two_lengths, BugJob)

__global__ void full_mask_for_half_a_warp(BugJob job)
{
    if (threadIdx.x % 32 < 16)
        job.out[threadIdx.x] = __shfl_down_sync(ALL_LANES, 1.0f, 1);
}
KERNEL(full_mask_for_half_a_warp, BugJob)

#ifndef CUDA_CPU_TSAN
/* A flag that a block of a higher number sets: in order, that one has not begun. */
__global__ void spin_on_another_block(BugJob job)
{
    volatile unsigned *flag = job.count;
    unsigned other = gridDim.x - 1 - blockIdx.x;
    while (blockIdx.x != other && flag[other] == 0)
        ;
    flag[blockIdx.x] = 1;
}
KERNEL(spin_on_another_block, BugJob)

__global__ void spin_on_another_thread(BugJob job)
{
    volatile unsigned *flag = job.count;
    __syncthreads();
    flag[threadIdx.x] = 1;
    while (flag[THREADS - 1 - threadIdx.x] == 0)
        ;
}
KERNEL(spin_on_another_thread, BugJob)
#endif

__global__ void two_shuffles_for_one(BugJob job)
{
    float one = 1.0f;
    job.out[threadIdx.x] =
        threadIdx.x % 2 ? __shfl_xor_sync(ALL_LANES, one, 1) : __shfl_xor_sync(ALL_LANES, one, 1);
}
KERNEL(two_shuffles_for_one, BugJob)

/* ---- what no GPU does ---------------------------------------------------------------------- */

__global__ void copy_of_twelve_bytes(BugJob job)
{
    __shared__ float tile[4];
    __pipeline_memcpy_async(tile, job.in, 12, 0);
    __pipeline_commit();
}
KERNEL(copy_of_twelve_bytes, BugJob)

__global__ void copy_between_odd_addresses(BugJob job)
{
    __shared__ float4 tile[2];
    __pipeline_memcpy_async(tile, job.in + 1, 16, 0);
    __pipeline_commit();
}
KERNEL(copy_between_odd_addresses, BugJob)

__global__ void much_shared_memory(BugJob job)
{
    DYNAMIC_SHARED(float, shared);
    shared[threadIdx.x + 20000] = 1.0f;
    job.out[threadIdx.x] = shared[threadIdx.x + 20000];
}
KERNEL(much_shared_memory, BugJob)

/* ---- products that a warp makes together ---------------------------------------------------- */

__global__ void product_by_half_a_warp(BugJob job)
{
    LeftRows left;
    if (threadIdx.x < 16)
        load_matrix_sync(left, job.in, 8);
    job.out[threadIdx.x] = 1.0f;
}
KERNEL(product_by_half_a_warp, BugJob)

__global__ void product_of_a_small_block(BugJob job)
{
    LeftRows left;
    load_matrix_sync(left, job.in, 8);
}
KERNEL(product_of_a_small_block, BugJob)

__global__ void matrix_at_an_odd_address(BugJob job)
{
    LeftRows left;
    load_matrix_sync(left, job.in + 4, 8);
}
KERNEL(matrix_at_an_odd_address, BugJob)

__global__ void rows_of_seven(BugJob job)
{
    LeftRows left;
    load_matrix_sync(left, job.in, 7);
}
KERNEL(rows_of_seven, BugJob)

__global__ void another_matrix_for_some_lanes(BugJob job)
{
    LeftRows left;
    load_matrix_sync(left, job.in + threadIdx.x / 16 * 8, 8);
}
KERNEL(another_matrix_for_some_lanes, BugJob)

__global__ void factor_that_is_not_rounded(BugJob job)
{
    LeftRows left;
    RightRows right;
    SumFragment sum;
    fill_fragment(sum, 0.0f);
    load_matrix_sync(left, job.in, 8);
    load_matrix_sync(right, job.in, 16);
    right.x[2] += 0.0001f;
    mma_sync(sum, left, right, sum);
}
KERNEL(factor_that_is_not_rounded, BugJob)

/* CUDA does not say which numbers of a matrix a lane holds. */
__global__ void numbers_by_their_place(BugJob job)
{
    LeftRows left;
    load_matrix_sync(left, job.in, 8);
    job.out[threadIdx.x] = left.x[0];
}
KERNEL(numbers_by_their_place, BugJob)

__global__ void stored_and_read_without_syncwarp(BugJob job)
{
    __shared__ __align__(32) float tile[256];
    SumFragment sum;
    fill_fragment(sum, 1.0f);
    MARK(0), store_matrix_sync(tile, sum, 16, mem_row_major);
    MARK(1), job.out[threadIdx.x] = tile[threadIdx.x * 7];
}
KERNEL(stored_and_read_without_syncwarp, BugJob)

/* ---- what nobody wrote --------------------------------------------------------------------- */

__global__ void unwritten_and_swallowed(BugJob job)
{
    __shared__ float tile[THREADS];
    job.out[threadIdx.x] = fmaxf(tile[threadIdx.x], 0.0f);
}
KERNEL(unwritten_and_swallowed, BugJob)

__global__ void unwritten_and_swallowed_from_below(BugJob job)
{
    job.out[threadIdx.x] = fminf(job.unwritten[threadIdx.x], 0.0f);
}
KERNEL(unwritten_and_swallowed_from_below, BugJob)

__global__ void copy_not_waited_for(BugJob job)
{
    __shared__ float tile[THREADS];
    __pipeline_memcpy_async(&tile[threadIdx.x], &job.in[threadIdx.x], 4, 0);
    __pipeline_commit();
    job.out[threadIdx.x] = fmaxf(tile[threadIdx.x], 0.0f);
    __pipeline_wait_prior(0);
}
KERNEL(copy_not_waited_for, BugJob)

/* The second tile has fewer tokens, and some threads read what the first has left. */
__global__ void the_last_tile_s_leftovers(BugJob job)
{
    __shared__ float tile[THREADS];
    for (unsigned t = 0; t < 2; t++) {
        if (threadIdx.x < (t == 0 ? 64 : 50))
            tile[threadIdx.x] = (float)t;
        __syncthreads();
        job.out[threadIdx.x] = fmaxf(tile[THREADS - 1 - threadIdx.x], 0.0f);
        __syncthreads();
        if (threadIdx.x == 0)
            USED_UP(tile, sizeof tile);
        __syncthreads();
    }
}
KERNEL(the_last_tile_s_leftovers, BugJob)

/* ---- races that another order shows -------------------------------------------------------- */

__global__ void read_without_a_barrier(BugJob job)
{
    __shared__ float tile[THREADS];
    MARK(0), tile[threadIdx.x] = 1.0f;
    MARK(1), job.out[threadIdx.x] = tile[(threadIdx.x + 37) % THREADS];
}
KERNEL(read_without_a_barrier, BugJob)

__global__ void written_over_without_a_barrier(BugJob job)
{
    __shared__ float tile[THREADS];
    tile[threadIdx.x] = 1.0f;
    __syncthreads();
    MARK(0), job.out[threadIdx.x] = tile[(threadIdx.x + 1) % THREADS];
    MARK(1), tile[threadIdx.x] = 2.0f;
}
KERNEL(written_over_without_a_barrier, BugJob)

__global__ void a_warp_without_syncwarp(BugJob job)
{
    __shared__ float tile[THREADS];
    unsigned i = threadIdx.x;
    MARK(0), tile[i] = 1.0f;
    MARK(1), job.out[i] = tile[i / 32 * 32 + (i + 1) % 32];
}
KERNEL(a_warp_without_syncwarp, BugJob)

__global__ void copy_without_a_barrier(BugJob job)
{
    __shared__ float tile[THREADS];
    MARK(0), __pipeline_memcpy_async(&tile[threadIdx.x], &job.in[threadIdx.x], 4, 0);
    __pipeline_commit();
    __pipeline_wait_prior(0);
    MARK(1), job.out[threadIdx.x] = tile[THREADS - 1 - threadIdx.x];
}
KERNEL(copy_without_a_barrier, BugJob)

__global__ void a_block_reads_another_s(BugJob job)
{
    MARK(0), job.out[blockIdx.x] = 1.0f;
    if (blockIdx.x > 0)
        MARK(1), job.out[THREADS + blockIdx.x] = job.out[blockIdx.x - 1];
}
KERNEL(a_block_reads_another_s, BugJob)

/* ---- races that change nothing here, whatever the order ------------------------------------ */

__global__ void a_count_without_an_atomic(BugJob job)
{
    __shared__ float n;
    if (threadIdx.x == 0)
        n = 0.0f;
    __syncthreads();
    MARK(0), MARK(1), n += 1.0f;
    __syncthreads();
    job.out[threadIdx.x] = n;
}
KERNEL(a_count_without_an_atomic, BugJob)

__global__ void a_histogram_without_atomics(BugJob job)
{
    __shared__ unsigned bin[8];
    if (threadIdx.x < 8)
        bin[threadIdx.x] = 0;
    __syncthreads();
    MARK(0), MARK(1), bin[threadIdx.x % 8]++;
    __syncthreads();
    job.out[threadIdx.x] = (float)bin[threadIdx.x % 8];
}
KERNEL(a_histogram_without_atomics, BugJob)

__global__ void a_count_of_all_blocks(BugJob job)
{
    MARK(0), MARK(1), job.count[0] += 1;
}
KERNEL(a_count_of_all_blocks, BugJob)

/* A shuffle makes the lanes wait for each other, and puts nothing in order in memory. */
__global__ void a_shuffle_for_a_barrier(BugJob job)
{
    __shared__ float tile[THREADS];
    unsigned i = threadIdx.x;
    MARK(0), tile[i] = 1.0f;
    float v = __shfl_xor_sync(ALL_LANES, 1.0f, 1);
    MARK(1), job.out[i] = v + tile[i ^ 1];
}
KERNEL(a_shuffle_for_a_barrier, BugJob)

/* The same value, so that nothing shows. */
__global__ void all_write_one_word(BugJob job)
{
    MARK(0), MARK(1), job.out[0] = job.in[5];
}
KERNEL(all_write_one_word, BugJob)

/* The lanes of a half wait for each other, and read what the other half has written. */
__global__ void a_mask_of_too_few_lanes(BugJob job)
{
    __shared__ float sum[THREADS];
    unsigned i = threadIdx.x, half = i % 32 < 16 ? 0xffffu : 0xffff0000u;
    MARK(0), sum[i] = 1.0f;
    __syncwarp(half); /* for the lanes of the half only */
    MARK(1), job.out[i] = sum[i ^ 16];
}
KERNEL(a_mask_of_too_few_lanes, BugJob)

#ifdef CUDA_CPU_ASAN
/* ---- beyond an array ----------------------------------------------------------------------- */

__global__ void beyond_shared_memory(BugJob job)
{
    DYNAMIC_SHARED(float, shared);
    shared[threadIdx.x + 1] = job.in[threadIdx.x]; /* of THREADS */
}
KERNEL(beyond_shared_memory, BugJob)

__global__ void beyond_the_device_s_array(BugJob job)
{
    job.out[ROOM - 1 + threadIdx.x] = 1.0f;
}
KERNEL(beyond_the_device_s_array, BugJob)

__global__ void beyond_a_static_array(BugJob job)
{
    __shared__ float first[THREADS], second[THREADS];
    float *volatile at = threadIdx.x % 2 ? first : second; /* no compiler looks through it */
    at[THREADS] = job.in[threadIdx.x];
    job.out[threadIdx.x] = first[threadIdx.x] + second[threadIdx.x];
}
KERNEL(beyond_a_static_array, BugJob)

__global__ void four_floats_from_an_odd_address(BugJob job)
{
    const float4 *from = (const float4 *)(const void *)(job.in + 1 + 4 * threadIdx.x % 16);
    job.out[threadIdx.x] = from->x + from->w;
}
KERNEL(four_floats_from_an_odd_address, BugJob)
#endif

/* ---- right, and strange to look at --------------------------------------------------------- */

/* Half a warp shuffles once more than the other half; then all do. */
__global__ void half_a_warp_once_more(BugJob job)
{
    float v = (float)threadIdx.x;
    if (threadIdx.x % 32 < 16)
        v = __shfl_xor_sync(0xffffu, v, 1);
    job.out[threadIdx.x] = __shfl_xor_sync(ALL_LANES, v, 16);
    if (threadIdx.x % 32 < 16)
        job.count[threadIdx.x] = __ballot_sync(0xffffu, threadIdx.x % 2);
    job.count[THREADS + threadIdx.x] = __ballot_sync(ALL_LANES, threadIdx.x % 4 == 0);
}
KERNEL(half_a_warp_once_more, BugJob)

#if !defined(CUDA_CPU_ASAN) && !defined(CUDA_CPU_TSAN)
/* An array of one's own that no stack has room for, from its lowest end and from its highest. */
static void fill_upwards(volatile float *out)
{
    volatile float much[1000000];
    for (unsigned i = 0; i < 1000000; i++)
        much[i] = (float)i;
    *out = much[17];
}

static void fill_downwards(volatile float *out)
{
    volatile float much[20000];
    for (unsigned i = 20000; i-- > 0;)
        much[i] = (float)i;
    *out = much[17];
}

__global__ void much_of_its_own(BugJob job)
{
    __syncthreads(); /* all have begun */
    if (threadIdx.x == 3)
        fill_upwards(job.out);
    __syncthreads();
}
KERNEL(much_of_its_own, BugJob)

__global__ void a_little_too_much(BugJob job)
{
    if (threadIdx.x + 1 == blockDim.x)
        fill_downwards(job.out);
}
KERNEL(a_little_too_much, BugJob)
#endif

/* Every block counts itself by an atomic; the last one adds up what the others have left. */
__global__ void the_last_block_sums(BugJob job)
{
    __shared__ bool last;
    if (threadIdx.x == 0) {
        job.out[1 + blockIdx.x] = (float)(1 + blockIdx.x);
        __threadfence();
        last = atomicAdd(&job.count[0], 1u) == gridDim.x - 1;
        __threadfence();
    }
    __syncthreads();
    if (last && threadIdx.x == 0)
        for (unsigned b = 0; b < gridDim.x; b++)
            job.out[0] += job.out[1 + b];
}
KERNEL(the_last_block_sums, BugJob)

/* Hillis and Steele in two buffers: one barrier a round. */
__global__ void two_buffers(BugJob job)
{
    __shared__ float sum[2][THREADS];
    DYNAMIC_SHARED(float, shared);
    unsigned i = threadIdx.x, now = 0;
    sum[0][i] = shared[i] = 1.0f;
    for (unsigned reach = 1; reach < THREADS; reach *= 2) {
        __syncthreads();
        sum[1 - now][i] = sum[now][i] + (i >= reach ? sum[now][i - reach] : 0.0f);
        now = 1 - now;
    }
    __syncthreads();
    job.out[blockIdx.x * THREADS + i] = sum[now][THREADS - 1 - i] + shared[i ^ 1] - 1.0f;
}
KERNEL(two_buffers, BugJob)

/* ---- how each is caught -------------------------------------------------------------------- */

typedef struct {
    const char *name;
    CudaCpuKernel *kernel;
    unsigned blocks, threads;
    size_t shared;
    const char *says; /* part of the sentence of its launch, or NULL: it has none */
    bool orders;      /* its results depend on the order of threads and blocks */
    bool races;       /* cuda_races.h names the two lines that it marks */
} Bug;

#define BUG(kernel, blocks, threads, shared, says, orders, races)                                  \
    {                                                                                              \
#kernel, kernel##_on_cpu, blocks, threads, shared, says, orders, races                     \
    }

static const Bug bugs[] = {
    BUG(barrier_in_an_if, 1, THREADS, 0, "in __syncthreads, but thread (32, 0, 0) has returned", 0,
        0),
    BUG(two_barriers_on_one_line, 1, THREADS, 0, "in another __syncthreads", 0, 0),
    BUG(barrier_after_a_return, 1, THREADS, 0, "but thread (50, 0, 0) has returned", 0, 0),
    BUG(barriers_in_loops_of_two_lengths, 1, THREADS, 0, "but thread (0, 0, 0) has returned", 0, 0),
    BUG(full_mask_for_half_a_warp, 1, THREADS, 0, "in __shfl_down_sync, but thread (", 0, 0),
    BUG(two_shuffles_for_one, 1, 32, 0, "__shfl_xor_sync, but thread (", 0, 0),
#ifndef CUDA_CPU_TSAN
    BUG(spin_on_another_block, 8, 1, 0, "since it began and waits for nobody", 0, 0),
    BUG(spin_on_another_thread, 1, THREADS, 0, "and waits for nobody; if it looks again", 0, 0),
#endif
#if !defined(CUDA_CPU_ASAN) && !defined(CUDA_CPU_TSAN)
    BUG(much_of_its_own, 1, THREADS, 0, "of the kernel has more on its stack", 0, 0),
    BUG(a_little_too_much, 1, THREADS, 0, "than the 64 KiB that it has here", 0, 0),
#endif
    BUG(copy_of_twelve_bytes, 1, 1, 0, "copies 12 bytes, 0 of them zeros, from ", 0, 0),
    BUG(copy_between_odd_addresses, 1, 1, 0, ": a GPU copies 4, 8 or 16, between mul", 0, 0),
    BUG(much_shared_memory, 1, THREADS, 100000,
        "with 100000 bytes of shared memory, where the kernel may have 49152", 0, 0),
    BUG(product_by_half_a_warp, 1, 32, 0, "in load_matrix_sync, but thread (", 0, 0),
    BUG(product_of_a_small_block, 1, 16, 0, "calls load_matrix_sync in a warp of fewer", 0, 0),
    BUG(matrix_at_an_odd_address, 1, 32, 0, "it must begin at a multiple of 32 bytes", 0, 0),
    BUG(rows_of_seven, 1, 32, 0, "with rows of 7 floats: it must begin", 0, 0),
    BUG(another_matrix_for_some_lanes, 1, 32, 0, "takes another matrix than in lane 0", 0, 0),
    BUG(factor_that_is_not_rounded, 1, 32, 0, "mma_sync takes a factor that is no TF32", 0, 0),
    BUG(numbers_by_their_place, 1, 32, 0, NULL, 1, 0),
    BUG(stored_and_read_without_syncwarp, 1, 32, 0, NULL, 1, 1),
    BUG(unwritten_and_swallowed, 1, THREADS, 0, NULL, 1, 0),
    BUG(unwritten_and_swallowed_from_below, 1, THREADS, 0, NULL, 1, 0),
    BUG(copy_not_waited_for, 1, THREADS, 0, NULL, 1, 0),
    BUG(the_last_tile_s_leftovers, 1, THREADS, 0, NULL, 1, 0),
    BUG(read_without_a_barrier, 1, THREADS, 0, NULL, 1, 1),
    BUG(written_over_without_a_barrier, 1, THREADS, 0, NULL, 1, 1),
    BUG(a_warp_without_syncwarp, 1, THREADS, 0, NULL, 1, 1),
    BUG(copy_without_a_barrier, 1, THREADS, 0, NULL, 1, 1),
    BUG(a_block_reads_another_s, 8, 1, 0, NULL, 1, 1),
    BUG(a_mask_of_too_few_lanes, 1, THREADS, 0, NULL, 0, 1),
    BUG(a_count_without_an_atomic, 1, THREADS, 0, NULL, 0, 1),
    BUG(a_histogram_without_atomics, 1, THREADS, 0, NULL, 0, 1),
    BUG(a_shuffle_for_a_barrier, 1, THREADS, 0, NULL, 0, 1),
    BUG(all_write_one_word, 1, THREADS, 0, NULL, 0, 1),
    BUG(a_count_of_all_blocks, 8, 1, 0, NULL, 0, 1),
};
enum { N_BUGS = sizeof bugs / sizeof *bugs };

/* One run of a kernel, and what came of it. */
typedef struct {
    float out[ROOM];
    unsigned count[ROOM], line[2];
    char text[600]; /* of its error, or "" */
} BugRun;

static void run_bug(BugRun *run, CudaCpuKernel *kernel, unsigned blocks, unsigned threads,
                    size_t shared, int order)
{
    DeviceMemory memory;
    Error error;
    BugJob job;
    float in[ROOM], *zeros[3];
    dim3 grid = {blocks, 1, 1}, block = {threads, 1, 1};
    memory.count = 0;
    for (int i = 0; i < ROOM; i++)
        in[i] = (float)i;
    use_order(order, 5);
    for (int i = 0; i < 3; i++) {
        assert_true(device_new(&zeros[i], &memory, ROOM, &error));
        cudaMemset(zeros[i], 0, ROOM * sizeof(float));
    }
    assert_true(device_put(&job.in, &memory, in, ROOM, &error));
    assert_true(device_new(&job.unwritten, &memory, ROOM, &error));
    job.out = zeros[0], job.count = (unsigned *)zeros[1], job.line = (unsigned *)zeros[2];
    cuda_cpu_launch(kernel, &job, grid, block, shared);
    cudaError_t result = cudaGetLastError();
    snprintf(run->text, sizeof run->text, "%s",
             result == cudaSuccess ? "" : cudaGetErrorString(result));
    cudaMemcpy(run->out, job.out, sizeof run->out, cudaMemcpyDeviceToHost);
    cudaMemcpy(run->count, job.count, sizeof run->count, cudaMemcpyDeviceToHost);
    cudaMemcpy(run->line, job.line, sizeof run->line, cudaMemcpyDeviceToHost);
    assert_true(device_free(&memory, true, &error));
    use_order(0, 0);
}

/* Both lines that the kernel has marked stand in the sentence, in either order. */
static bool names_the_race(const BugRun *run)
{
    char now[64], before[64];
    bool named = false;
    for (int i = 0; i < 2; i++) {
        snprintf(now, sizeof now, "at test_ch06_cuda_on_cpu.c:%u where thread (", run->line[i]);
        snprintf(before, sizeof before, "at test_ch06_cuda_on_cpu.c:%u, and nothing",
                 run->line[1 - i]);
        named = named || (strstr(run->text, now) != NULL && strstr(run->text, before) != NULL);
    }
    return named;
}

static void bug_is_caught(void **state)
{
    const Bug *bug = (const Bug *)*state;
    BugRun run[3];
    bool named = false, differs = false;
    for (int order = 0; order < 3; order++) {
        run_bug(&run[order], bug->kernel, bug->blocks, bug->threads, bug->shared, order);
        if (bug->says != NULL)
            assert_contains(run[order].text, bug->says);
        named = named || names_the_race(&run[order]);
        differs = differs || memcmp(run[order].out, run[0].out, sizeof run[0].out) != 0;
#ifndef CUDA_CPU_TSAN
        if (bug->says == NULL)
            assert_string_equal(run[order].text, "");
#endif
    }
#ifdef CUDA_CPU_TSAN
    if (bug->races && !named)
        fail_msg("'%s', '%s', '%s' name no race of lines %u and %u", run[0].text, run[1].text,
                 run[2].text, run[0].line[0], run[0].line[1]);
#endif
    assert_true(differs == bug->orders || bug->says != NULL || (bug->races && named));
}

/* ---- what is right is right in every build ------------------------------------------------- */

static void a_half_warp_may_shuffle_once_more_than_the_other(void **state)
{
    (void)state;
    BugRun run;
    for (int order = 0; order < 3; order++) {
        run_bug(&run, half_a_warp_once_more_on_cpu, 1, THREADS, 0, order);
        assert_string_equal(run.text, "");
        for (int i = 0; i < THREADS; i++)
            assert_true(run.out[i] == (float)(i % 32 < 16 ? i ^ 16 : i ^ 16 ^ 1) &&
                        run.count[i] == (i % 32 < 16 ? 0xaaaau : 0) &&
                        run.count[THREADS + i] == 0x11111111u);
    }
}

static void the_last_block_may_add_up_what_the_others_left(void **state)
{
    (void)state;
    BugRun run;
    for (int order = 0; order < 3; order++) {
        run_bug(&run, the_last_block_sums_on_cpu, 7, 2, 0, order);
        assert_string_equal(run.text, "");
        assert_true(run.out[0] == 28.0f);
    }
}

static void a_barrier_a_round_is_enough_for_two_buffers(void **state)
{
    (void)state;
    BugRun run;
    for (int order = 0; order < 3; order++) {
        run_bug(&run, two_buffers_on_cpu, 3, THREADS, THREADS * sizeof(float), order);
        assert_string_equal(run.text, "");
        for (int i = 0; i < 3 * THREADS; i++)
            assert_true(run.out[i] == (float)(THREADS - i % THREADS));
    }
}

static void shared_memory_that_is_asked_for_is_given(void **state)
{
    (void)state;
    BugRun run;
    assert_int_equal(cudaFuncSetAttribute(much_shared_memory, 8, 228 * 1024),
                     cudaErrorInvalidValue);
    assert_int_equal(cudaFuncSetAttribute(much_shared_memory, 8, 100000), cudaSuccess);
    run_bug(&run, much_shared_memory_on_cpu, 1, THREADS, 100000, 0);
    assert_string_equal(run.text, "");
    run_bug(&run, much_shared_memory_on_cpu, 1, THREADS, 100001, 0);
    assert_contains(run.text, "where the kernel may have 100000");
    assert_int_equal(cudaFuncSetAttribute(much_shared_memory, 8, 0), cudaSuccess);
}

/* The timer that ends a spin is gone after the launch, and what stood in its place is back. */
static void a_launch_leaves_no_timer_behind(void **state)
{
    (void)state;
    BugRun run;
    struct itimerval left;
    struct sigaction now;
    run_bug(&run, two_buffers_on_cpu, 1, THREADS, THREADS * sizeof(float), 0);
    assert_int_equal(getitimer(ITIMER_VIRTUAL, &left), 0);
    assert_true(left.it_value.tv_sec == 0 && left.it_value.tv_usec == 0);
    assert_int_equal(sigaction(SIGVTALRM, NULL, &now), 0);
    assert_true(now.sa_handler == SIG_DFL);
}

/* ---- by AddressSanitizer, which ends the program ------------------------------------------- */
#ifdef CUDA_CPU_ASAN

static void check_beyond(CudaCpuKernel *kernel, size_t shared, const char *sentence)
{
    char text[4096];
    FILE *said = tmpfile();
    assert_non_null(said);
    pid_t child = fork();
    if (child == 0) {
        BugRun run;
        dup2(fileno(said), STDERR_FILENO);
        run_bug(&run, kernel, 1, THREADS, shared, 0);
        _exit(0);
    }
    int status = 0;
    assert_true(waitpid(child, &status, 0) == child);
    assert_true(!WIFEXITED(status) || WEXITSTATUS(status) != 0);
    rewind(said);
    text[fread(text, 1, sizeof text - 1, said)] = '\0';
    fclose(said);
    assert_contains(text, sentence);
    assert_contains(text, "test_ch06_cuda_on_cpu.c:");
}

static void memory_beyond_an_array_is_named(void **state)
{
    (void)state;
    check_beyond(beyond_shared_memory_on_cpu, THREADS * sizeof(float), "heap-buffer-overflow");
    check_beyond(beyond_the_device_s_array_on_cpu, 0, "heap-buffer-overflow");
    check_beyond(four_floats_from_an_odd_address_on_cpu, 0, "misaligned address");
}

/* gcc only, and only if told to. */
static void memory_beyond_a_static_array_is_named_if_gcc_looks_after_it(void **state)
{
    (void)state;
    bool looked_after = false;
    for (unsigned char *byte = __start_cuda_shared; byte < __stop_cuda_shared; byte++)
        looked_after = looked_after || __asan_address_is_poisoned(byte);
    if (looked_after)
        check_beyond(beyond_a_static_array_on_cpu, 0, "global-buffer-overflow");
}
#endif

/* ---- by ThreadSanitizer, the chapter's own kernels ------------------------------------------ */
#ifdef CUDA_CPU_TSAN

static void a_pointer_of_the_host_s_is_named(void **state)
{
    (void)state;
    static float mine[ROOM];
    float *out;
    BugJob job;
    dim3 one = {1, 1, 1}, block = {THREADS, 1, 1};
    for (int i = 0; i < ROOM; i++)
        mine[i] = 1.0f;
    assert_int_equal(cudaMalloc((void **)&out, ROOM * sizeof(float)), cudaSuccess);
    memset(&job, 0, sizeof job);
    job.out = out, job.line = (unsigned *)out + 2, job.in = mine;
    LAUNCH(all_write_one_word, one, block, 0, job);
    assert_int_equal(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
    assert_contains(cudaGetErrorString(cudaGetLastError()),
                    "where the host wrote at test_ch06_cuda");
    assert_contains(cuda_cpu.report, "and host and device have no memory in common");
    cudaFree(out);
}

static void the_race_of_the_demo_is_named(void **state)
{
    (void)state;
    float last;
    Error error;
    if (!race_run(&last, true, false, &error))
        fail_msg("%s", error.text);
    assert_false(race_run(&last, false, false, &error));
    assert_contains(error.text, "at cuda_scan.cu:");
    assert_contains(error.text, "where thread (");
    assert_contains(error.text, "a race");
}

/* Forwards by every kernel, then backwards, with sizes that leave threads and tokens over. */
static void check_for_races(size_t batch, size_t len, size_t d_inner, size_t d_state)
{
    DemoScan demo = demo_scan_new(batch, len, d_inner, d_state);
    Scan *scan = &demo.scan;
    size_t wide = batch * len * d_inner, narrow = batch * len * d_state;
    float *y = NEW(float, wide), *x_last = NEW(float, batch *d_inner *d_state);
    ScanGrad grad;
    Error error;
    memset(&grad, 0, sizeof grad);
    grad.u = NEW(float, wide), grad.delta = NEW(float, wide), grad.z = NEW(float, wide);
    grad.B = NEW(float, narrow), grad.C = NEW(float, narrow);
    grad.A = NEW(float, d_inner *d_state), grad.D = NEW(float, d_inner);
    for (int kernel = 0; kernel < SCAN_KERNELS; kernel++)
        if (!cuda_scan(y, x_last, scan, (ScanKernel)kernel, &error))
            fail_msg("%s: %s", scan_kernel_name[kernel], error.text);
    if (!cuda_scan_backward(&grad, y, NULL, scan, &error))
        fail_msg("backwards: %s", error.text);
    free(grad.u), free(grad.delta), free(grad.z), free(grad.B), free(grad.C);
    free(grad.A), free(grad.D), free(y), free(x_last), free(demo.memory);
}

static void mamba_2_s_kernels_have_no_race(void **state)
{
    (void)state;
    DemoHeads made = demo_heads_new(1, 70, 2, 20, 1, 68);
    float *y = NEW(float, 70 * 2 * 20), *x_last = NEW(float, 2 * 20 * 68);
    Error error;
    if (!cuda_head_scan(y, x_last, &made.scan, 1, &error))
        fail_msg("%s", error.text);
    free(y), free(x_last), free(made.memory);
}

static void the_chapter_s_kernels_have_no_race(void **state)
{
    (void)state;
    check_for_races(1, 259, 3, 1); /* with one state some barriers have no other beside them */
    check_for_races(2, 33, 5, 16);
    check_for_races(1, 300, 2, 37);
}
#endif

#endif /* CUDA_ON_CPU */

#if defined(CUDA_ON_CPU) && !defined(CUDA_CPU_ASAN) && !defined(CUDA_CPU_TSAN)
static void a_stack_that_is_too_small_names_the_kernel(void **state)
{
    (void)state;
    BugJob job;
    float *out;
    struct sigaction now;
    stack_t stack;
    dim3 one = {1, 1, 1}, block = {THREADS, 1, 1};
    memset(&job, 0, sizeof job);
    assert_int_equal(cudaMalloc((void **)&out, ROOM * sizeof(float)), cudaSuccess);
    cudaMemset(out, 0, ROOM * sizeof(float));
    job.out = out, job.count = (unsigned *)out + ROOM - 1;
    LAUNCH(much_of_its_own, one, block, 0, job);
    assert_int_equal(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
    assert_contains(cudaGetErrorString(cudaGetLastError()),
                    ", 0, 0) of much_of_its_own has more on its stack");
    LAUNCH(the_last_block_sums, one, block, 0, job); /* the next launch has stacks again */
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
    sigaction(SIGSEGV, NULL, &now); /* and who was asked before is again */
    sigaltstack(NULL, &stack);
    assert_true((now.sa_flags & SA_ONSTACK) == 0 && (stack.ss_flags & SS_DISABLE) != 0);
    cudaFree(out);
}
#endif

int main(void)
{
#ifdef CUDA_ON_CPU
    struct CMUnitTest tests[N_BUGS + 10] = {
        cmocka_unit_test(a_half_warp_may_shuffle_once_more_than_the_other),
        cmocka_unit_test(the_last_block_may_add_up_what_the_others_left),
        cmocka_unit_test(a_barrier_a_round_is_enough_for_two_buffers),
        cmocka_unit_test(shared_memory_that_is_asked_for_is_given),
        cmocka_unit_test(a_launch_leaves_no_timer_behind),
#if !defined(CUDA_CPU_ASAN) && !defined(CUDA_CPU_TSAN)
        cmocka_unit_test(a_stack_that_is_too_small_names_the_kernel),
#endif
#ifdef CUDA_CPU_ASAN
        cmocka_unit_test(memory_beyond_an_array_is_named),
        cmocka_unit_test(memory_beyond_a_static_array_is_named_if_gcc_looks_after_it),
#endif
#ifdef CUDA_CPU_TSAN
        cmocka_unit_test(a_pointer_of_the_host_s_is_named),
        cmocka_unit_test(the_race_of_the_demo_is_named),
        cmocka_unit_test(the_chapter_s_kernels_have_no_race),
        cmocka_unit_test(mamba_2_s_kernels_have_no_race),
#endif
    };
    size_t count = 0;
    while (tests[count].name != NULL)
        count++;
    for (size_t i = 0; i < N_BUGS; i++, count++) {
        tests[count].name = bugs[i].name;
        tests[count].test_func = bug_is_caught;
        tests[count].initial_state = (void *)(uintptr_t)&bugs[i];
    }
    cuda_cpu_patience(0.05);
    return _cmocka_run_group_tests("chapter 6: the CPU as a GPU", tests, count, NULL, NULL);
#else
    return 0;
#endif
}
