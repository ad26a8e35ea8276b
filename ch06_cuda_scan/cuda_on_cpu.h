/* CUDA without a GPU: the part of CUDA that chapter 6 uses, in plain C, on the CPU.

   HOLDS   CUDA's names; threads, blocks, warps, barriers, shuffles and votes; atomics; asynchronous
           copies; memory, events and launches as the host calls them
   FOR     cuda_host.cu, when it is not nvcc that compiles

   A kernel is compiled by the C compiler as an ordinary function. Each thread of a block gets a
   stack of its own and runs until it has to wait for others: at a barrier, a warp shuffle or a
   vote. Then the next thread runs. So a kernel can be stepped through in gdb, and what goes wrong
   on a GPU once in a thousand runs goes wrong here every time:

   - threads and blocks run in order, backwards, or shuffled by a seed (cuda_cpu_order): a result
     that changes with it has a race, a barrier too few;
   - shared memory is filled with NaN (-1 as whole numbers) before each block, and what
     __pipeline_memcpy_async copies arrives no sooner than __pipeline_wait_prior says;
   - memory from cudaMalloc and dynamic shared memory are malloc'ed with the exact size, so that
     AddressSanitizer sees every access beyond it;
   - a barrier that not all threads reach ends the launch with cudaErrorLaunchFailure, and
     cudaGetErrorString says which block, which thread and which line.

   What it is not: fast, or a model of time. Blocks run one after the other on one processor, and
   nothing here knows what a GPU's memory costs. Two threads that write one place between two
   barriers are seen only if the order changes the result.

   A kernel is a function with one parameter, a struct, and is followed by a line that lets the CPU
   call it. Dynamic shared memory is named by a macro:

       __global__ void scale(ScaleJob job)
       {
           DYNAMIC_SHARED(float, tile);
           ...
       }
       KERNEL(scale, ScaleJob)
       ...
       LAUNCH(scale, grid, block, shared_bytes, job);

   With nvcc these three macros are `extern __shared__ float tile[]`, nothing, and <<< >>>. */

#ifndef CUDA_ON_CPU
#define CUDA_ON_CPU

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* MAP_ANONYMOUS */
#endif
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#if defined(__SANITIZE_ADDRESS__)
#define CUDA_CPU_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CUDA_CPU_ASAN 1
#endif
#endif
#ifdef CUDA_CPU_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__linux__) && defined(__x86_64__)
#define CUDA_CPU_SWITCH_X86_64 1
#elif defined(__linux__) && defined(__aarch64__)
#define CUDA_CPU_SWITCH_AARCH64 1
#else
#include <ucontext.h> /* the same by the C library, with a system call at every switch */
#endif

/* ==================================== Names of CUDA ======================================== */

#define __global__ static
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

/* Static shared memory: one copy, because one block runs at a time; all of it in one section, so
   that it can be filled before every block. */
#ifdef __ELF__
#define __shared__ static __attribute__((section("cuda_shared")))
extern unsigned char __start_cuda_shared[] __attribute__((weak));
extern unsigned char __stop_cuda_shared[] __attribute__((weak));
#else
#define __shared__ static
#endif

typedef struct {
    unsigned x, y, z;
} dim3;
typedef dim3 uint3;

typedef struct {
    float x, y;
} float2;

typedef struct {
    float x, y, z, w;
} float4 __attribute__((aligned(16)));

static inline float2 make_float2(float x, float y)
{
    float2 v = {x, y};
    return v;
}

static inline float4 make_float4(float x, float y, float z, float w)
{
    float4 v = {x, y, z, w};
    return v;
}

typedef enum {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorNoDevice = 100,
    cudaErrorLaunchFailure = 719
} cudaError_t;

typedef enum {
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice
} cudaMemcpyKind;

typedef struct {
    char name[256];
    size_t totalGlobalMem, sharedMemPerBlockOptin;
    int major, minor, multiProcessorCount;
} cudaDeviceProp;

typedef double *cudaEvent_t; /* a moment in seconds */

/* ==================================== The machine ========================================== */

enum {
    CUDA_CPU_THREADS = 1024, /* of a block, at most */
    CUDA_CPU_WARP = 32,
    CUDA_CPU_SHARED = 227 * 1024, /* bytes a block may have at most, as on an H100 */
    CUDA_CPU_VALUE = 16,          /* bytes of the widest value that a shuffle carries */
#ifdef CUDA_CPU_ASAN
    CUDA_CPU_STACK = 256 * 1024
#else
    CUDA_CPU_STACK = 64 * 1024
#endif
};

#define warpSize CUDA_CPU_WARP

/* The order in which threads and blocks run. */
typedef enum { CUDA_CPU_FORWARD, CUDA_CPU_REVERSED, CUDA_CPU_SHUFFLED } CudaCpuOrder;

/* A copy that has been asked for and not yet been waited for. */
typedef struct {
    void *to;
    const void *from;
    size_t size, zeros; /* bytes; the last `zeros` of them are set to 0 instead */
    unsigned batch;
} CudaCpuCopy;

typedef enum { CUDA_CPU_READY, CUDA_CPU_AT_BLOCK, CUDA_CPU_AT_WARP, CUDA_CPU_DONE } CudaCpuState;

typedef struct {
    CudaCpuState state;
    dim3 index;
    char *stack;      /* CUDA_CPU_STACK bytes with a guard page below, kept for later launches */
    void *at;         /* the stack pointer while it waits */
    const char *what; /* what it waits in, and where that stands */
    const char *file;
    int line;
    unsigned mask;                          /* of the lanes it waits for */
    unsigned round;                         /* how many exchanges it has taken part in */
    unsigned char value[2][CUDA_CPU_VALUE]; /* what it gave in this exchange and the last */
    CudaCpuCopy *copy;                      /* (copies of copy_room) */
    size_t copies, copy_room;
    unsigned batch; /* copies are committed in batches */
#ifdef CUDA_CPU_ASAN
    void *fake_stack;
#endif
#if !defined(CUDA_CPU_SWITCH_X86_64) && !defined(CUDA_CPU_SWITCH_AARCH64)
    ucontext_t context;
#endif
} CudaCpuThread;

typedef void CudaCpuKernel(const void *job);

/* CUDA's own state is global (threadIdx, the last error), and so is this: the one place of the
   course with a variable at file scope that changes. */
typedef struct {
    CudaCpuThread thread[CUDA_CPU_THREADS], *now;
    dim3 block_index, block_size, grid_size;
    unsigned threads; /* of the block */
    unsigned char *dynamic;
    size_t shared;
    CudaCpuKernel *kernel;
    const void *job;
    CudaCpuOrder order;
    uint64_t random;
    bool failed; /* this launch */
    cudaError_t last;
    char report[512];
    size_t bytes, bytes_most; /* of memory given out; the most there is, 0: no limit */
    void *scheduler;
#ifdef CUDA_CPU_ASAN
    void *scheduler_fake;
    const void *scheduler_stack;
    size_t scheduler_stack_size;
#endif
#if !defined(CUDA_CPU_SWITCH_X86_64) && !defined(CUDA_CPU_SWITCH_AARCH64)
    ucontext_t context;
#endif
} CudaCpu;

static CudaCpu cuda_cpu;

#define threadIdx (cuda_cpu.now->index)
#define blockIdx  (cuda_cpu.block_index)
#define blockDim  (cuda_cpu.block_size)
#define gridDim   (cuda_cpu.grid_size)

/* In which order threads and blocks run from now on; the seed is for CUDA_CPU_SHUFFLED. */
static inline void cuda_cpu_order(CudaCpuOrder order, uint64_t seed)
{
    cuda_cpu.order = order;
    cuda_cpu.random = seed;
}

/* cudaMalloc fails from now on where more than this would be given out; 0: no limit. */
static inline void cuda_cpu_memory(size_t bytes_most)
{
    cuda_cpu.bytes_most = bytes_most;
}

/* ==================================== From stack to stack ================================== */
/* Waiting is a change of stacks: what a function may not change (the callee-saved registers)   */
/* is pushed on the old stack and popped from the new one.                                      */

#ifdef CUDA_CPU_SWITCH_X86_64
void cuda_cpu_switch(void **from, void *to) __asm__("cuda_cpu_switch_stack");
__asm__(".text\n"
        ".type cuda_cpu_switch_stack, @function\n"
        "cuda_cpu_switch_stack:\n"
        "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n"
        "    pushq %r13\n    pushq %r14\n    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n    popq %r14\n    popq %r13\n"
        "    popq %r12\n    popq %rbx\n    popq %rbp\n"
        "    ret\n"
        ".size cuda_cpu_switch_stack, . - cuda_cpu_switch_stack\n");

/* A stack that ends at `end` and looks as if `entry` had been called and had waited at once. */
static inline void *cuda_cpu_stack_new(char *end, void (*entry)(void))
{
    uintptr_t *top = (uintptr_t *)(void *)end - 8;
    memset(top, 0, 8 * sizeof *top); /* six registers, entry, and no caller */
    top[6] = (uintptr_t)entry;
    return top;
}
#elif defined(CUDA_CPU_SWITCH_AARCH64)
void cuda_cpu_switch(void **from, void *to) __asm__("cuda_cpu_switch_stack");
__asm__(".text\n"
        ".type cuda_cpu_switch_stack, %function\n"
        "cuda_cpu_switch_stack:\n"
        "    sub sp, sp, #160\n"
        "    stp x19, x20, [sp]\n        stp x21, x22, [sp, #16]\n"
        "    stp x23, x24, [sp, #32]\n   stp x25, x26, [sp, #48]\n"
        "    stp x27, x28, [sp, #64]\n   stp x29, x30, [sp, #80]\n"
        "    stp d8, d9, [sp, #96]\n     stp d10, d11, [sp, #112]\n"
        "    stp d12, d13, [sp, #128]\n  stp d14, d15, [sp, #144]\n"
        "    mov x2, sp\n    str x2, [x0]\n    mov sp, x1\n"
        "    ldp x19, x20, [sp]\n        ldp x21, x22, [sp, #16]\n"
        "    ldp x23, x24, [sp, #32]\n   ldp x25, x26, [sp, #48]\n"
        "    ldp x27, x28, [sp, #64]\n   ldp x29, x30, [sp, #80]\n"
        "    ldp d8, d9, [sp, #96]\n     ldp d10, d11, [sp, #112]\n"
        "    ldp d12, d13, [sp, #128]\n  ldp d14, d15, [sp, #144]\n"
        "    add sp, sp, #160\n"
        "    ret\n"
        ".size cuda_cpu_switch_stack, . - cuda_cpu_switch_stack\n");

static inline void *cuda_cpu_stack_new(char *end, void (*entry)(void))
{
    uintptr_t *top = (uintptr_t *)(void *)end - 20;
    memset(top, 0, 20 * sizeof *top);
    top[11] = (uintptr_t)entry; /* x30, where ret goes */
    return top;
}
#endif

/* To a thread, from the scheduler. Returns when the thread waits or is done. */
static inline void cuda_cpu_enter(CudaCpuThread *thread)
{
    cuda_cpu.now = thread;
#ifdef CUDA_CPU_ASAN
    __sanitizer_start_switch_fiber(&cuda_cpu.scheduler_fake, thread->stack, CUDA_CPU_STACK);
#endif
#if defined(CUDA_CPU_SWITCH_X86_64) || defined(CUDA_CPU_SWITCH_AARCH64)
    cuda_cpu_switch(&cuda_cpu.scheduler, thread->at);
#else
    swapcontext(&cuda_cpu.context, &thread->context);
#endif
#ifdef CUDA_CPU_ASAN
    __sanitizer_finish_switch_fiber(cuda_cpu.scheduler_fake, NULL, NULL);
#endif
}

/* Back to the scheduler, from a thread. Returns when it is this thread's turn again. */
static inline void cuda_cpu_leave(void)
{
    CudaCpuThread *thread = cuda_cpu.now;
#ifdef CUDA_CPU_ASAN
    __sanitizer_start_switch_fiber(thread->state == CUDA_CPU_DONE ? NULL : &thread->fake_stack,
                                   cuda_cpu.scheduler_stack, cuda_cpu.scheduler_stack_size);
#endif
#if defined(CUDA_CPU_SWITCH_X86_64) || defined(CUDA_CPU_SWITCH_AARCH64)
    cuda_cpu_switch(&thread->at, cuda_cpu.scheduler);
#else
    swapcontext(&thread->context, &cuda_cpu.context);
#endif
#ifdef CUDA_CPU_ASAN
    __sanitizer_finish_switch_fiber(thread->fake_stack, &cuda_cpu.scheduler_stack,
                                    &cuda_cpu.scheduler_stack_size);
#endif
}

/* Where every thread begins. It never returns: there is nobody to return to. */
static inline void cuda_cpu_begin(void)
{
#ifdef CUDA_CPU_ASAN
    __sanitizer_finish_switch_fiber(NULL, &cuda_cpu.scheduler_stack,
                                    &cuda_cpu.scheduler_stack_size);
#endif
    cuda_cpu.kernel(cuda_cpu.job);
    cuda_cpu.now->state = CUDA_CPU_DONE;
    cuda_cpu_leave();
}

/* A stack for this thread, unless it has one; false if there is no memory. */
static inline bool cuda_cpu_stack_reserve(CudaCpuThread *thread)
{
    size_t guard = 64 * 1024; /* a page of any machine */
    if (thread->stack != NULL)
        return true;
    void *memory = mmap(NULL, guard + CUDA_CPU_STACK, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return false;
    mprotect(memory, guard, PROT_NONE); /* a stack that is too deep ends here, not in another */
    thread->stack = (char *)memory + guard;
    return true;
}

/* Where its stack begins: not at the same place of a page as its neighbours', or the caches would
   keep only a few of them (kernel 1 takes a fifth less time so). */
static inline size_t cuda_cpu_stack_size(const CudaCpuThread *thread)
{
    return CUDA_CPU_STACK - (size_t)(thread - cuda_cpu.thread) % 64 * 192;
}

static inline void cuda_cpu_thread_start(CudaCpuThread *thread, unsigned number)
{
    dim3 size = cuda_cpu.block_size;
    thread->state = CUDA_CPU_READY;
    thread->index.x = number % size.x;
    thread->index.y = number / size.x % size.y;
    thread->index.z = number / size.x / size.y;
    thread->round = 0;
    thread->copies = 0;
    thread->batch = 0;
#ifdef CUDA_CPU_ASAN
    __asan_unpoison_memory_region(thread->stack, CUDA_CPU_STACK);
#endif
#if defined(CUDA_CPU_SWITCH_X86_64) || defined(CUDA_CPU_SWITCH_AARCH64)
    thread->at = cuda_cpu_stack_new(thread->stack + cuda_cpu_stack_size(thread), cuda_cpu_begin);
#else
    getcontext(&thread->context);
    thread->context.uc_stack.ss_sp = thread->stack;
    thread->context.uc_stack.ss_size = cuda_cpu_stack_size(thread);
    thread->context.uc_link = NULL;
    makecontext(&thread->context, cuda_cpu_begin, 0);
#endif
}

/* ==================================== Waiting ============================================== */

/* Ends the launch with a sentence; the first one counts. */
__attribute__((format(printf, 1, 2))) static inline void cuda_cpu_fail(const char *format, ...)
{
    va_list args;
    if (cuda_cpu.failed)
        return;
    int used = snprintf(cuda_cpu.report, sizeof cuda_cpu.report,
                        "block (%u, %u, %u): ", cuda_cpu.block_index.x, cuda_cpu.block_index.y,
                        cuda_cpu.block_index.z);
    va_start(args, format);
    vsnprintf(cuda_cpu.report + used, sizeof cuda_cpu.report - (size_t)used, format, args);
    va_end(args);
    cuda_cpu.failed = true;
    cuda_cpu.last = cudaErrorLaunchFailure;
}

static inline void cuda_cpu_wait(CudaCpuState state, unsigned mask, const char *what,
                                 const char *file, int line)
{
    CudaCpuThread *thread = cuda_cpu.now;
    thread->state = state;
    thread->mask = mask;
    thread->what = what;
    thread->file = file;
    thread->line = line;
    cuda_cpu_leave();
}

#define __syncthreads() cuda_cpu_wait(CUDA_CPU_AT_BLOCK, 0, "__syncthreads", __FILE__, __LINE__)

static inline unsigned cuda_cpu_number(const CudaCpuThread *thread)
{
    return (unsigned)(thread - cuda_cpu.thread);
}

/* The thread of the running thread's warp in lane `lane`, or NULL if the block ends before it. */
static inline CudaCpuThread *cuda_cpu_lane(unsigned lane)
{
    unsigned number = cuda_cpu_number(cuda_cpu.now) / CUDA_CPU_WARP * CUDA_CPU_WARP + lane;
    return number < cuda_cpu.threads ? &cuda_cpu.thread[number] : NULL;
}

/* Gives `value` (size bytes) and waits until all lanes of the mask have given theirs. Two places
   for it are enough: nobody can be two exchanges ahead of a lane that has not read yet. */
static inline void cuda_cpu_exchange(const void *value, size_t size, unsigned mask,
                                     const char *what, const char *file, int line)
{
    CudaCpuThread *thread = cuda_cpu.now;
    unsigned lane = cuda_cpu_number(thread) % CUDA_CPU_WARP;
    memcpy(thread->value[++thread->round % 2], value, size);
    if ((mask >> lane & 1) == 0)
        cuda_cpu_fail("thread (%u, %u, %u) at %s:%d: lane %u calls %s with the mask 0x%08x, in "
                      "which it is not",
                      thread->index.x, thread->index.y, thread->index.z, file, line, lane, what,
                      mask);
    cuda_cpu_wait(CUDA_CPU_AT_WARP, mask, what, file, line);
}

static inline void cuda_cpu_shuffle(void *got, const void *value, size_t size, unsigned mask,
                                    unsigned from, const char *what, const char *file, int line)
{
    cuda_cpu_exchange(value, size, mask, what, file, line);
    CudaCpuThread *thread = cuda_cpu.now, *other = cuda_cpu_lane(from % CUDA_CPU_WARP);
    if (other == NULL || (mask >> (from % CUDA_CPU_WARP) & 1) == 0)
        cuda_cpu_fail("thread (%u, %u, %u) at %s:%d: %s reads lane %u, which takes no part",
                      thread->index.x, thread->index.y, thread->index.z, file, line, what,
                      from % CUDA_CPU_WARP);
    else
        memcpy(got, other->value[thread->round % 2], size);
}

/* The lane to read: its own where the other one would lie outside. */
static inline unsigned cuda_cpu_lane_up(unsigned by)
{
    unsigned lane = cuda_cpu_number(cuda_cpu.now) % CUDA_CPU_WARP;
    return by <= lane ? lane - by : lane;
}

static inline unsigned cuda_cpu_lane_down(unsigned by)
{
    unsigned lane = cuda_cpu_number(cuda_cpu.now) % CUDA_CPU_WARP;
    return by < CUDA_CPU_WARP - lane ? lane + by : lane;
}

static inline unsigned cuda_cpu_lane_xor(unsigned by)
{
    return (cuda_cpu_number(cuda_cpu.now) % CUDA_CPU_WARP) ^ by;
}

#define CUDA_CPU_SHUFFLE(mask, given, from, what)                                                  \
    __extension__({                                                                                \
        __typeof__(given) cuda_cpu_given = (given), cuda_cpu_got = cuda_cpu_given;                 \
        cuda_cpu_shuffle(&cuda_cpu_got, &cuda_cpu_given, sizeof cuda_cpu_got, (mask),              \
                         (unsigned)(from), what, __FILE__, __LINE__);                              \
        cuda_cpu_got;                                                                              \
    })

#define __shfl_sync(mask, value, lane) CUDA_CPU_SHUFFLE(mask, value, lane, "__shfl_sync")
#define __shfl_up_sync(mask, value, by)                                                            \
    CUDA_CPU_SHUFFLE(mask, value, cuda_cpu_lane_up(by), "__shfl_up_sync")
#define __shfl_down_sync(mask, value, by)                                                          \
    CUDA_CPU_SHUFFLE(mask, value, cuda_cpu_lane_down(by), "__shfl_down_sync")
#define __shfl_xor_sync(mask, value, by)                                                           \
    CUDA_CPU_SHUFFLE(mask, value, cuda_cpu_lane_xor(by), "__shfl_xor_sync")

/* Bit i is set if lane i of the mask said yes. */
static inline unsigned cuda_cpu_vote(unsigned mask, int yes, const char *what, const char *file,
                                     int line)
{
    unsigned votes = 0;
    cuda_cpu_exchange(&yes, sizeof yes, mask, what, file, line);
    for (unsigned lane = 0; lane < CUDA_CPU_WARP; lane++) {
        CudaCpuThread *other = cuda_cpu_lane(lane);
        int vote = 0;
        if (other == NULL || (mask >> lane & 1) == 0)
            continue;
        memcpy(&vote, other->value[cuda_cpu.now->round % 2], sizeof vote);
        votes |= (unsigned)(vote != 0) << lane;
    }
    return votes;
}

#define __ballot_sync(mask, yes)                                                                   \
    cuda_cpu_vote(mask, (yes) != 0, "__ballot_sync", __FILE__, __LINE__)
#define __any_sync(mask, yes)                                                                      \
    (cuda_cpu_vote(mask, (yes) != 0, "__any_sync", __FILE__, __LINE__) != 0)
#define __all_sync(mask, yes)                                                                      \
    (cuda_cpu_vote(mask, (yes) == 0, "__all_sync", __FILE__, __LINE__) == 0)

static inline void cuda_cpu_syncwarp(unsigned mask, const char *file, int line)
{
    char nothing = 0;
    cuda_cpu_exchange(&nothing, 1, mask == 0 ? 0xffffffffu : mask, "__syncwarp", file, line);
}

#define __syncwarp(...) cuda_cpu_syncwarp(__VA_ARGS__ + 0u, __FILE__, __LINE__) /* () is all */
#define __threadfence() ((void)0)

/* ---- between two waits only one thread runs, so these are what they look like ---- */

#define CUDA_CPU_ATOMIC(address, changed)                                                          \
    __extension__({                                                                                \
        __typeof__(*(address)) *cuda_cpu_at = (address), cuda_cpu_old = *cuda_cpu_at;              \
        *cuda_cpu_at = (changed);                                                                  \
        cuda_cpu_old;                                                                              \
    })
#define atomicAdd(address, by)     CUDA_CPU_ATOMIC(address, cuda_cpu_old + (by))
#define atomicMax(address, v)      CUDA_CPU_ATOMIC(address, cuda_cpu_old > (v) ? cuda_cpu_old : (v))
#define atomicMin(address, v)      CUDA_CPU_ATOMIC(address, cuda_cpu_old < (v) ? cuda_cpu_old : (v))
#define atomicExch(address, value) CUDA_CPU_ATOMIC(address, value)
#define atomicCAS(address, is, then)                                                               \
    CUDA_CPU_ATOMIC(address, cuda_cpu_old == (is) ? (then) : cuda_cpu_old)

#define __ldg(address)   (*(address))
#define __fdividef(a, b) ((a) / (b))

/* ---- copies from global to shared memory that arrive later ---- */

static inline void cuda_cpu_copy(void *to, const void *from, size_t size, size_t zeros)
{
    CudaCpuThread *thread = cuda_cpu.now;
    if (thread->copies == thread->copy_room) {
        size_t room = 2 * thread->copy_room + 16;
        CudaCpuCopy *larger = (CudaCpuCopy *)realloc(thread->copy, room * sizeof *larger);
        if (larger == NULL) {
            cuda_cpu_fail("there is no memory for %zu copies", room);
            return;
        }
        thread->copy = larger;
        thread->copy_room = room;
    }
    CudaCpuCopy copy = {to, from, size, zeros, thread->batch};
    memset(to, 0xFF, size); /* who reads it too early gets NaN */
    thread->copy[thread->copies++] = copy;
}

/* Makes all batches arrive but the last `left`. */
static inline void cuda_cpu_copies_wait(unsigned left)
{
    CudaCpuThread *thread = cuda_cpu.now;
    size_t kept = 0;
    for (size_t i = 0; i < thread->copies; i++) {
        CudaCpuCopy *copy = &thread->copy[i];
        size_t size = copy->size - copy->zeros;
        if (copy->batch + left >= thread->batch) {
            thread->copy[kept++] = *copy;
            continue;
        }
        if (size > 0)
            memcpy(copy->to, copy->from, size);
        memset((char *)copy->to + size, 0, copy->zeros);
    }
    thread->copies = kept;
}

#define __pipeline_memcpy_async(to, from, size, zeros) cuda_cpu_copy(to, from, size, zeros)
#define __pipeline_commit()                            (cuda_cpu.now->batch++)
#define __pipeline_wait_prior(left)                    cuda_cpu_copies_wait(left)

/* ==================================== Running a block ====================================== */

/* One number after the other, the same for a seed everywhere (Knuth's MMIX generator). */
static inline unsigned cuda_cpu_random(void)
{
    cuda_cpu.random = cuda_cpu.random * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(cuda_cpu.random >> 33);
}

/* An order of 0 .. room - 1, room a power of two: i -> (i step + first) mod room, or backwards. */
typedef struct {
    CudaCpuOrder order;
    unsigned step, first, room;
} CudaCpuWalk;

static inline CudaCpuWalk cuda_cpu_walk(unsigned count)
{
    CudaCpuWalk walk = {cuda_cpu.order, 1, 0, 1};
    while (walk.room < count && walk.room != 1u << 31)
        walk.room *= 2;
    if (walk.order == CUDA_CPU_SHUFFLED) {
        walk.step = cuda_cpu_random() | 1u;
        walk.first = cuda_cpu_random();
    }
    return walk;
}

static inline unsigned cuda_cpu_walk_to(const CudaCpuWalk *walk, unsigned i)
{
    if (walk->order == CUDA_CPU_REVERSED)
        return walk->room - 1 - i;
    return (i * walk->step + walk->first) & (walk->room - 1);
}

/* Lets the lanes go on for which all lanes of their mask wait in the same place. */
static inline bool cuda_cpu_release_warp(CudaCpuThread *warp, unsigned lanes)
{
    bool released = false;
    for (unsigned i = 0; i < lanes; i++) {
        unsigned mask = warp[i].mask;
        bool all = warp[i].state == CUDA_CPU_AT_WARP;
        for (unsigned k = 0; all && k < lanes; k++)
            if (mask >> k & 1)
                all = warp[k].state == CUDA_CPU_AT_WARP && warp[k].mask == mask &&
                      warp[k].line == warp[i].line && warp[k].what == warp[i].what;
        for (unsigned k = 0; all && k < lanes; k++)
            if (mask >> k & 1)
                warp[k].state = CUDA_CPU_READY;
        released = released || all;
    }
    return released;
}

/* One warp until all its threads wait for others or are done. */
static inline void cuda_cpu_run_warp(CudaCpuThread *warp, unsigned lanes)
{
    do {
        CudaCpuWalk walk = cuda_cpu_walk(lanes);
        for (unsigned i = 0; i < walk.room; i++) {
            unsigned lane = cuda_cpu_walk_to(&walk, i);
            if (lane < lanes && warp[lane].state == CUDA_CPU_READY && !cuda_cpu.failed)
                cuda_cpu_enter(&warp[lane]);
        }
    } while (!cuda_cpu.failed && cuda_cpu_release_warp(warp, lanes));
}

/* Says who waits for whom: `thread` where it stands, and the first one that is elsewhere. */
static inline void cuda_cpu_report_waiting(const CudaCpuThread *thread)
{
    const CudaCpuThread *other = NULL;
    for (unsigned i = 0; i < cuda_cpu.threads && other == NULL; i++) {
        const CudaCpuThread *at = &cuda_cpu.thread[i];
        bool concerned =
            thread->state == CUDA_CPU_AT_BLOCK ||
            (at - cuda_cpu.thread) / CUDA_CPU_WARP == (thread - cuda_cpu.thread) / CUDA_CPU_WARP;
        if (concerned && (at->state != thread->state || at->line != thread->line ||
                          at->what != thread->what || at->mask != thread->mask))
            other = at;
    }
    char where[160] = "another does not come";
    if (other != NULL && other->state == CUDA_CPU_DONE)
        snprintf(where, sizeof where, "thread (%u, %u, %u) has returned", other->index.x,
                 other->index.y, other->index.z);
    else if (other != NULL)
        snprintf(where, sizeof where, "thread (%u, %u, %u) waits at %.60s:%d in %s", other->index.x,
                 other->index.y, other->index.z, other->file, other->line, other->what);
    cuda_cpu_fail("thread (%u, %u, %u) waits at %.120s:%d in %s, but %s", thread->index.x,
                  thread->index.y, thread->index.z, thread->file, thread->line, thread->what,
                  where);
}

/* After every warp has run as far as it can: true if the block goes on. */
static inline bool cuda_cpu_release_block(void)
{
    const CudaCpuThread *first = NULL;
    bool same = true;
    for (unsigned i = 0; i < cuda_cpu.threads && first == NULL; i++)
        if (cuda_cpu.thread[i].state != CUDA_CPU_DONE)
            first = &cuda_cpu.thread[i];
    if (first == NULL || cuda_cpu.failed)
        return false;
    for (unsigned i = 0; i < cuda_cpu.threads; i++)
        same = same && cuda_cpu.thread[i].state == CUDA_CPU_AT_BLOCK &&
               cuda_cpu.thread[i].line == first->line;
    if (!same) {
        cuda_cpu_report_waiting(first);
        return false;
    }
    for (unsigned i = 0; i < cuda_cpu.threads; i++)
        cuda_cpu.thread[i].state = CUDA_CPU_READY;
    return true;
}

static inline void cuda_cpu_run_block(void)
{
    const unsigned most = CUDA_CPU_WARP;
    unsigned warps = (cuda_cpu.threads + most - 1) / most;
#ifdef __ELF__
    for (unsigned char *byte = __start_cuda_shared; byte < __stop_cuda_shared; byte++)
        *(volatile unsigned char *)byte = 0xFF; /* volatile: ASan may own the bytes between */
#endif
    if (cuda_cpu.shared > 0)
        memset(cuda_cpu.dynamic, 0xFF, cuda_cpu.shared);
    for (unsigned i = 0; i < cuda_cpu.threads; i++)
        cuda_cpu_thread_start(&cuda_cpu.thread[i], i);
    do {
        CudaCpuWalk walk = cuda_cpu_walk(warps);
        for (unsigned i = 0; i < walk.room; i++) {
            unsigned warp = cuda_cpu_walk_to(&walk, i), first = warp * most;
            unsigned lanes = cuda_cpu.threads - first;
            if (warp < warps)
                cuda_cpu_run_warp(cuda_cpu.thread + first, lanes < most ? lanes : most);
        }
    } while (cuda_cpu_release_block());
}

/* ==================================== Launching ============================================ */

static inline bool cuda_cpu_fits(dim3 grid, dim3 block, size_t shared)
{
    size_t threads = (size_t)block.x * block.y * block.z;
    return threads >= 1 && threads <= CUDA_CPU_THREADS && block.z <= 64 && grid.x >= 1 &&
           grid.x < 1u << 31 && grid.y >= 1 && grid.y < 65536 && grid.z >= 1 && grid.z < 65536 &&
           (size_t)grid.x * grid.y * grid.z < (size_t)1 << 31 && shared <= CUDA_CPU_SHARED;
}

static inline void cuda_cpu_launch(CudaCpuKernel *kernel, const void *job, dim3 grid, dim3 block,
                                   size_t shared)
{
    if (!cuda_cpu_fits(grid, block, shared)) {
        cuda_cpu.last = cudaErrorInvalidConfiguration;
        return;
    }
    cuda_cpu.kernel = kernel;
    cuda_cpu.job = job;
    cuda_cpu.grid_size = grid;
    cuda_cpu.block_size = block;
    cuda_cpu.threads = block.x * block.y * block.z;
    cuda_cpu.shared = shared;
    cuda_cpu.dynamic = shared > 0 ? (unsigned char *)malloc(shared) : NULL;
    cuda_cpu.failed = false;
    bool ready = shared == 0 || cuda_cpu.dynamic != NULL;
    for (unsigned i = 0; ready && i < cuda_cpu.threads; i++)
        ready = cuda_cpu_stack_reserve(&cuda_cpu.thread[i]);
    if (!ready)
        cuda_cpu.last = cudaErrorMemoryAllocation;
    CudaCpuWalk walk = cuda_cpu_walk(grid.x * grid.y * grid.z);
    for (unsigned i = 0; ready && i < walk.room && !cuda_cpu.failed; i++) {
        unsigned number = cuda_cpu_walk_to(&walk, i);
        if (number >= grid.x * grid.y * grid.z)
            continue;
        cuda_cpu.block_index.x = number % grid.x;
        cuda_cpu.block_index.y = number / grid.x % grid.y;
        cuda_cpu.block_index.z = number / grid.x / grid.y;
        cuda_cpu_run_block();
    }
    free(cuda_cpu.dynamic);
    cuda_cpu.dynamic = NULL;
}

#define KERNEL(kernel, Job)                                                                        \
    static void kernel##_on_cpu(const void *job)                                                   \
    {                                                                                              \
        kernel(*(const Job *)job);                                                                 \
    }

#define LAUNCH(kernel, grid, block, shared, job)                                                   \
    cuda_cpu_launch(kernel##_on_cpu, &(job), grid, block, shared)

#define DYNAMIC_SHARED(type, name) type *name = (type *)(void *)cuda_cpu.dynamic

/* ==================================== The host's side ====================================== */

static inline const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorLaunchFailure: return cuda_cpu.report;
    }
    return "unknown error";
}

static inline cudaError_t cudaGetLastError(void)
{
    cudaError_t last = cuda_cpu.last;
    cuda_cpu.last = cudaSuccess;
    return last;
}

static inline cudaError_t cudaDeviceSynchronize(void)
{
    return cuda_cpu.last;
}

/* In front of every piece of memory stands its size. */
enum { CUDA_CPU_HEAD = 64 };

static inline cudaError_t cudaMalloc(void **memory, size_t size)
{
    bool fits = size <= SIZE_MAX - CUDA_CPU_HEAD - cuda_cpu.bytes &&
                (cuda_cpu.bytes_most == 0 || cuda_cpu.bytes + size <= cuda_cpu.bytes_most);
    char *head = fits ? (char *)malloc(size + CUDA_CPU_HEAD) : NULL;
    *memory = NULL;
    if (head == NULL)
        return cudaErrorMemoryAllocation;
    memcpy(head, &size, sizeof size);
    memset(head + CUDA_CPU_HEAD, 0xFF, size);
    cuda_cpu.bytes += size;
    *memory = head + CUDA_CPU_HEAD;
    return cudaSuccess;
}

static inline cudaError_t cudaFree(void *memory)
{
    size_t size;
    if (memory == NULL)
        return cudaSuccess;
    memcpy(&size, (char *)memory - CUDA_CPU_HEAD, sizeof size);
    cuda_cpu.bytes -= size;
    free((char *)memory - CUDA_CPU_HEAD);
    return cudaSuccess;
}

static inline cudaError_t cudaMemcpy(void *to, const void *from, size_t size, cudaMemcpyKind kind)
{
    if (kind < cudaMemcpyHostToDevice || kind > cudaMemcpyDeviceToDevice)
        return cudaErrorInvalidValue;
    if (size > 0)
        memcpy(to, from, size);
    return cudaSuccess;
}

static inline cudaError_t cudaMemset(void *memory, int value, size_t size)
{
    if (size > 0)
        memset(memory, value, size);
    return cudaSuccess;
}

static inline cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 1;
    return cudaSuccess;
}

static inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp *device, int number)
{
    if (number != 0)
        return cudaErrorInvalidValue;
    memset(device, 0, sizeof *device);
    snprintf(device->name, sizeof device->name, "no GPU: the CPU, thread by thread");
    device->totalGlobalMem = cuda_cpu.bytes_most;
    device->sharedMemPerBlockOptin = CUDA_CPU_SHARED;
    device->multiProcessorCount = 1;
    return cudaSuccess;
}

static inline cudaError_t cudaMemGetInfo(size_t *unused, size_t *total)
{
    *total = cuda_cpu.bytes_most == 0 ? SIZE_MAX : cuda_cpu.bytes_most;
    *unused = *total - cuda_cpu.bytes;
    return cudaSuccess;
}

/* A kernel may ask for more than 48 KiB of shared memory; here it always may. */
#define cudaFuncSetAttribute(kernel, attribute, value) ((void)(value), cudaSuccess)

static inline cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    *event = (cudaEvent_t)calloc(1, sizeof(double));
    return *event == NULL ? cudaErrorMemoryAllocation : cudaSuccess;
}

static inline cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    free(event);
    return cudaSuccess;
}

static inline cudaError_t cudaEventRecord(cudaEvent_t event)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    *event = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    return cudaSuccess;
}

static inline cudaError_t cudaEventSynchronize(cudaEvent_t event) /* NOLINT: CUDA's signature */
{
    (void)event;
    return cuda_cpu.last;
}

static inline cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, /* NOLINT */
                                               cudaEvent_t to)                        /* NOLINT */
{
    *milliseconds = (float)(1e3 * (*to - *from));
    return cudaSuccess;
}

#endif /* CUDA_ON_CPU */
