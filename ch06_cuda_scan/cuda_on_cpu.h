/* CUDA without a GPU: the part of CUDA that chapter 6 uses, in GNU C, on the CPU.

   HOLDS   CUDA's names; threads, blocks, warps, barriers, shuffles and votes; atomics; asynchronous
           copies; memory, events and launches as the host calls them
   FOR     cuda_host.cu, when it is not nvcc that compiles

   A kernel is compiled by the C compiler as an ordinary function. Each thread of a block gets a
   stack of its own and runs until it has to wait for others: at a barrier, a warp shuffle or a
   vote. Then the next thread runs. So a kernel can be stepped through in gdb, and what goes wrong
   on a GPU once in a thousand runs goes wrong here every time:

   - threads and blocks run in order, backwards, or shuffled by a seed (cuda_cpu_order): a result
     that changes with it has a race, or reads what nobody wrote: shared memory before each block,
     and memory from cudaMalloc, hold NaN, large, or large negative numbers, one for each order;
   - what __pipeline_memcpy_async copies arrives no sooner than __pipeline_wait_prior says;
   - memory from cudaMalloc and dynamic shared memory are malloc'ed with the exact size, so that
     AddressSanitizer sees every access beyond it; static shared arrays too, if gcc is told to by
     -fsanitize-sections=cuda_shared;
   - a barrier that not all threads reach, a lane outside of a shuffle's mask, a copy of a size that
     is none, a thread that never waits, a stack that is too small end the launch with
     cudaErrorLaunchFailure, and cudaGetErrorString says which block, which thread and which line;
   - ThreadSanitizer sees a race even where no order changes the result, and the launch ends with
     the two lines (cuda_races.h).

   What it is not: fast, or a model of time. Blocks run one after the other on one processor, and
   nothing here knows what a GPU's memory costs. A block that waits for another one, by a flag in
   memory, waits for ever: that it may, if both are on the GPU at once, is not looked at.

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
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include "cuda_races.h"

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

#ifdef CUDA_CPU_ASAN
#define CUDA_CPU_ANY_BYTE __attribute__((no_sanitize_address))
#else
#define CUDA_CPU_ANY_BYTE
#endif
#ifdef CUDA_CPU_TSAN
#define CUDA_CPU_CALLED __attribute__((noinline, unused)) /* so that its caller's line is known */
#else
#define CUDA_CPU_CALLED inline
#endif

#if (defined(__linux__) || defined(__APPLE__)) && defined(__x86_64__)
#define CUDA_CPU_SWITCH_X86_64 1
#elif (defined(__linux__) || defined(__APPLE__)) && defined(__aarch64__)
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
   that it can be filled before every block: `used`, or a compiler that sees nobody write to an
   array takes it for zeros. */
#ifdef __ELF__
#define __shared__ static __attribute__((section("cuda_shared"), used))
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
    CUDA_CPU_UNASKED = 48 * 1024, /* and without having asked for more */
    CUDA_CPU_ASKED = 64,          /* kernels that may ask */
    CUDA_CPU_PATIENCE = 10, /* seconds of the processor's for a thread that waits for nobody */
    CUDA_CPU_VALUE = 16,    /* bytes of the widest value that a shuffle carries */
    CUDA_CPU_BELOW = 16 * 1024 * 1024, /* so far below a stack a touch is of an array on it */
    CUDA_CPU_GUARD = 64 * 1024, /* bytes below a stack that nobody may touch: a page anywhere */
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

/* A place in the source where threads wait. Two on one line are told apart by their number. */
typedef struct {
    const char *what, *file; /* "__syncthreads"; and where that stands */
    int line, number;
    bool orders; /* what was written before it can be read after it: not by shuffles and votes */
} CudaCpuSite;

#define CUDA_CPU_SITE(what, orders)                                                                \
    static const CudaCpuSite cuda_cpu_site = {what, __FILE__, __LINE__, __COUNTER__, orders}

typedef struct {
    CudaCpuState state;
    dim3 index;
    char *stack; /* CUDA_CPU_STACK bytes with a guard page below, kept for later launches */
    void *at;    /* the stack pointer while it waits */
    const CudaCpuSite *site;             /* where it waits, or waited last; NULL: nowhere yet */
    unsigned mask;                       /* of the lanes it waits for */
    unsigned char given[CUDA_CPU_VALUE]; /* to an exchange that is not complete */
    unsigned char taken[CUDA_CPU_VALUE]; /* its part of the last that was: for others to take */
    CudaCpuCopy *copy;                   /* (copies of copy_room) */
    size_t copies, copy_room;
    unsigned batch; /* copies are committed in batches */
    CudaFibre fibre;
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
    const char *name; /* of the kernel, if LAUNCH has launched it */
    const void *job;
    CudaCpuOrder order;
    uint64_t random;
    bool failed;                /* this launch */
    bool spilled;               /* a thread has run over its stack: others' may be spoilt */
    cudaError_t last, reported; /* `report` is the sentence for this error */
    char report[512];
    struct {
        CudaCpuKernel *kernel;
        size_t shared;
    } asked[CUDA_CPU_ASKED]; /* (kernels_asked) how much shared memory they may have */
    unsigned kernels_asked;
    double patience;             /* cuda_cpu_patience */
    unsigned long turns, ticked; /* changes of the running thread; how many at the last tick */
    struct sigaction before[3];  /* what SIGVTALRM, SIGSEGV, SIGBUS did before the launch */
    stack_t stack_before;
    char spill_stack[64 * 1024]; /* where a thread that has none left is spoken of */
    size_t bytes, bytes_most;    /* of memory given out; the most there is, 0: no limit */
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

/* How long a thread may run without waiting, in seconds of the processor's time. */
static inline void cuda_cpu_patience(double seconds)
{
    cuda_cpu.patience = seconds;
}

/* What fills memory that nobody has written yet: NaN (-1 as a whole number), 3.4e38 or -1.7e38. A
   fmaxf(., 0) that swallows one lets another through, and the orders' results differ. */
static inline int cuda_cpu_unwritten(void)
{
    static const unsigned char fill[3] = {0xFF, 0x7F, 0xFE};
    return fill[cuda_cpu.order];
}

/* ==================================== From stack to stack ================================== */
/* Waiting is a change of stacks: what a function may not change (the callee-saved registers)   */
/* is pushed on the old stack and popped from the new one.                                      */

#ifdef __ELF__ /* what a debugger wants to know there */
#define CUDA_CPU_TYPE ".type cuda_cpu_switch_stack, %function\n"
#define CUDA_CPU_SIZE ".size cuda_cpu_switch_stack, . - cuda_cpu_switch_stack\n"
#else
#define CUDA_CPU_TYPE
#define CUDA_CPU_SIZE
#endif

#ifdef CUDA_CPU_SWITCH_X86_64
void cuda_cpu_switch(void **from, void *to) __asm__("cuda_cpu_switch_stack");
__asm__(".text\n" CUDA_CPU_TYPE "cuda_cpu_switch_stack:\n"
        "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n"
        "    pushq %r13\n    pushq %r14\n    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n    popq %r14\n    popq %r13\n"
        "    popq %r12\n    popq %rbx\n    popq %rbp\n"
        "    ret\n" CUDA_CPU_SIZE);

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
__asm__(".text\n" CUDA_CPU_TYPE "cuda_cpu_switch_stack:\n"
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
        "    ret\n" CUDA_CPU_SIZE);

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
    if (cuda_cpu.spilled) {
        thread->state = CUDA_CPU_DONE;
        return;
    }
    cuda_cpu.now = thread;
    cuda_cpu.turns++;
    cuda_fibre_enter(&thread->fibre);
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
    cuda_fibre_leave();
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
    cuda_unseen();
    cuda_cpu.now->state = CUDA_CPU_DONE;
    cuda_seen();
    cuda_cpu_leave();
}

/* A stack for this thread, unless it has one; false if there is no memory. */
static inline bool cuda_cpu_stack_reserve(CudaCpuThread *thread)
{
    if (thread->stack != NULL)
        return true;
    void *memory = mmap(NULL, CUDA_CPU_GUARD + CUDA_CPU_STACK, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return false;
    mprotect(memory, CUDA_CPU_GUARD,
             PROT_NONE); /* a stack that is too deep ends here, not in another */
    thread->stack = (char *)memory + CUDA_CPU_GUARD;
    return true;
}

/* Where its stack begins: not at the same place of a page as its neighbours', or the caches would
   keep only a few of them (kernel 1 takes a fifth less time so). */
static inline size_t cuda_cpu_stack_size(const CudaCpuThread *thread)
{
    return CUDA_CPU_STACK - (size_t)(thread - cuda_cpu.thread) % 64 * 192;
}

/* Its fibre, of the name that a race is told by, on a stack that nobody has touched. */
static inline void cuda_cpu_fibre_start(CudaCpuThread *thread)
{
#ifdef CUDA_CPU_TSAN
    char name[64];
    dim3 index = thread->index, block = cuda_cpu.block_index;
    snprintf(name, sizeof name, "thread (%u, %u, %u) of block (%u, %u, %u)", index.x, index.y,
             index.z, block.x, block.y, block.z);
    cuda_untouched_pages(thread->stack, CUDA_CPU_STACK);
    cuda_fibre_start(&thread->fibre, name);
#else
    (void)thread;
#endif
}

static inline void cuda_cpu_thread_start(CudaCpuThread *thread, unsigned number)
{
    dim3 size = cuda_cpu.block_size;
    thread->state = CUDA_CPU_READY;
    thread->index.x = number % size.x;
    thread->index.y = number / size.x % size.y;
    thread->index.z = number / size.x / size.y;
    thread->site = NULL;
    thread->copies = 0;
    thread->batch = 0;
    cuda_cpu_fibre_start(thread);
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
    cuda_cpu.last = cuda_cpu.reported = cudaErrorLaunchFailure;
}

/* The same without a place, or before anything has begun. */
static inline void cuda_cpu_refuse(cudaError_t error, const char *sentence)
{
    if (cuda_cpu.failed)
        return;
    snprintf(cuda_cpu.report, sizeof cuda_cpu.report, "%s", sentence);
    cuda_cpu.failed = true;
    cuda_cpu.last = cuda_cpu.reported = error;
}

/* A thread has run over its stack, perhaps into others': none of the block goes on. */
static inline void cuda_cpu_spill(CudaCpuThread *thread)
{
    cuda_cpu_fail("thread (%u, %u, %u) of %s has more on its stack than the %d KiB that it has "
                  "here: an array of its own so large belongs in shared or global memory (or "
                  "does a function call itself without end?)",
                  thread->index.x, thread->index.y, thread->index.z,
                  cuda_cpu.name ? cuda_cpu.name : "the kernel", CUDA_CPU_STACK / 1024);
    cuda_cpu.spilled = true;
    thread->state = CUDA_CPU_DONE;
    cuda_cpu_leave();
}

/* A race ends the launch that it is found in. */
static inline bool cuda_cpu_race(const char *sentence)
{
    if (cuda_cpu.now != NULL)
        cuda_cpu_refuse(cudaErrorLaunchFailure, sentence);
    return cuda_cpu.now != NULL;
}

/* The thread stays here until the scheduler has seen that those it waits for are here too. */
static inline void cuda_cpu_wait(CudaCpuState state, unsigned mask, const CudaCpuSite *site)
{
    CudaCpuThread *thread = cuda_cpu.now;
    const char *here = (const char *)__builtin_frame_address(0);
    if (here < thread->stack || here >= thread->stack + CUDA_CPU_STACK)
        cuda_cpu_spill(thread); /* and never comes back */
    thread->state = state;
    thread->mask = mask;
    thread->site = site;
    cuda_cpu_leave();
}

static inline void cuda_cpu_syncthreads(const CudaCpuSite *site)
{
    cuda_unseen();
    cuda_cpu_wait(CUDA_CPU_AT_BLOCK, 0, site);
    cuda_seen();
}

#define __syncthreads()                                                                            \
    __extension__({                                                                                \
        CUDA_CPU_SITE("__syncthreads", true);                                                      \
        cuda_cpu_syncthreads(&cuda_cpu_site);                                                      \
    })

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

/* Gives `value` (size bytes) and waits until all lanes of the mask have given theirs. Then each
   one's part lies in `taken`, where it stays until the lane has been in another exchange: some may
   give to the next one before others have read. */
static inline void cuda_cpu_exchange(const void *value, size_t size, unsigned mask,
                                     const CudaCpuSite *site)
{
    CudaCpuThread *thread = cuda_cpu.now;
    unsigned lane = cuda_cpu_number(thread) % CUDA_CPU_WARP;
    memcpy(thread->given, value, size);
    if ((mask >> lane & 1) == 0)
        cuda_cpu_fail("thread (%u, %u, %u) at %.120s:%d: lane %u calls %s with the mask 0x%08x, in "
                      "which it is not",
                      thread->index.x, thread->index.y, thread->index.z, site->file, site->line,
                      lane, site->what, mask);
    cuda_cpu_wait(CUDA_CPU_AT_WARP, mask, site);
}

static inline void cuda_cpu_shuffle(void *got, const void *value, size_t size, unsigned mask,
                                    unsigned from, const CudaCpuSite *site)
{
    cuda_unseen();
    cuda_cpu_exchange(value, size, mask, site);
    CudaCpuThread *thread = cuda_cpu.now, *other = cuda_cpu_lane(from % CUDA_CPU_WARP);
    if (other == NULL || (mask >> (from % CUDA_CPU_WARP) & 1) == 0)
        cuda_cpu_fail("thread (%u, %u, %u) at %.120s:%d: %s reads lane %u, which takes no part",
                      thread->index.x, thread->index.y, thread->index.z, site->file, site->line,
                      site->what, from % CUDA_CPU_WARP);
    else
        memcpy(got, other->taken, size);
    cuda_seen();
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

#define CUDA_CPU_SHUFFLE(mask, value, from, what)                                                  \
    __extension__({                                                                                \
        CUDA_CPU_SITE(what, false);                                                                \
        __typeof__(value) cuda_cpu_value = (value), cuda_cpu_got = cuda_cpu_value;                 \
        (void)sizeof(cuda_cpu_value + 0); /* a number: CUDA shuffles nothing else */               \
        cuda_cpu_shuffle(&cuda_cpu_got, &cuda_cpu_value, sizeof cuda_cpu_got, (mask),              \
                         (unsigned)(from), &cuda_cpu_site);                                        \
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
static inline unsigned cuda_cpu_vote(unsigned mask, int yes, const CudaCpuSite *site)
{
    unsigned votes = 0;
    cuda_unseen();
    cuda_cpu_exchange(&yes, sizeof yes, mask, site);
    for (unsigned lane = 0; lane < CUDA_CPU_WARP; lane++) {
        CudaCpuThread *other = cuda_cpu_lane(lane);
        int vote = 0;
        if (other == NULL || (mask >> lane & 1) == 0)
            continue;
        memcpy(&vote, other->taken, sizeof vote);
        votes |= (unsigned)(vote != 0) << lane;
    }
    cuda_seen();
    return votes;
}

#define CUDA_CPU_VOTE(mask, yes, what, orders)                                                     \
    __extension__({                                                                                \
        CUDA_CPU_SITE(what, orders);                                                               \
        cuda_cpu_vote((mask), (yes), &cuda_cpu_site);                                              \
    })

#define __ballot_sync(mask, yes) CUDA_CPU_VOTE(mask, (yes) != 0, "__ballot_sync", false)
#define __any_sync(mask, yes)    (CUDA_CPU_VOTE(mask, (yes) != 0, "__any_sync", false) != 0)
#define __all_sync(mask, yes)    (CUDA_CPU_VOTE(mask, (yes) == 0, "__all_sync", false) == 0)
#define __syncwarp(...)          /* () is all */                                                   \
    ((void)CUDA_CPU_VOTE(__VA_ARGS__ + 0u == 0 ? 0xffffffffu : __VA_ARGS__ + 0u, 0, "__syncwarp",  \
                         true))
#define __threadfence() cuda_fence()

/* ---- between two waits only one thread runs, so these are what they look like ---- */

#define CUDA_CPU_ATOMIC(address, changed)                                                          \
    __extension__({                                                                                \
        __typeof__(*(address)) *cuda_cpu_at = (address), cuda_cpu_old, cuda_cpu_new;               \
        __atomic_load(cuda_cpu_at, &cuda_cpu_old, __ATOMIC_RELAXED);                               \
        cuda_cpu_new = (changed);                                                                  \
        __atomic_store(cuda_cpu_at, &cuda_cpu_new, __ATOMIC_RELAXED);                              \
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

static inline bool cuda_cpu_copy_keep(CudaCpuThread *thread, CudaCpuCopy copy)
{
    if (thread->copies == thread->copy_room) {
        size_t room = 2 * thread->copy_room + 16;
        CudaCpuCopy *larger = (CudaCpuCopy *)realloc(thread->copy, room * sizeof *larger);
        if (larger == NULL)
            return false;
        thread->copy = larger;
        thread->copy_room = room;
    }
    thread->copy[thread->copies++] = copy;
    return true;
}

/* A GPU copies 4, 8 or 16 bytes, from and to multiples of as many. */
CUDA_CPU_CALLED static void cuda_cpu_copy(void *to, const void *from, size_t size, size_t zeros,
                                          const CudaCpuSite *site)
{
    cuda_unseen();
    CudaCpuThread *thread = cuda_cpu.now;
    CudaCpuCopy copy = {to, from, size, zeros, thread->batch};
    bool whole = size == 4 || size == 8 || size == 16;
    bool even = whole && (uintptr_t)to % size == 0 && (uintptr_t)from % size == 0;
    if (!even || zeros > size)
        cuda_cpu_fail(
            "thread (%u, %u, %u) at %.120s:%d copies %zu bytes, %zu of them zeros, from %p "
            "to %p: a GPU copies 4, 8 or 16, between multiples of as many",
            thread->index.x, thread->index.y, thread->index.z, site->file, site->line, size, zeros,
            from, to);
    else if (!cuda_cpu_copy_keep(thread, copy))
        cuda_cpu_fail("there is no memory for %zu copies", thread->copies + 1);
    bool kept = !cuda_cpu.failed;
    int unwritten = cuda_cpu_unwritten();
    cuda_seen();
    if (kept)
        memset(to, unwritten, size); /* for who reads it too early */
}

/* Makes all batches arrive but the last `left`. */
CUDA_CPU_CALLED static void cuda_cpu_copies_wait(unsigned left)
{
    CudaCpuThread *thread = cuda_cpu.now;
    size_t kept = 0;
    cuda_unseen();
    for (size_t i = 0; i < thread->copies; i++) {
        CudaCpuCopy copy = thread->copy[i];
        size_t size = copy.size - copy.zeros;
        if (copy.batch + left >= thread->batch) {
            thread->copy[kept++] = copy;
            continue;
        }
        cuda_seen();
        if (size > 0)
            memcpy(copy.to, copy.from, size);
        memset((char *)copy.to + size, 0, copy.zeros);
        cuda_unseen();
    }
    thread->copies = kept;
    cuda_seen();
}

static inline void cuda_cpu_commit(void)
{
    cuda_unseen();
    cuda_cpu.now->batch++;
    cuda_seen();
}

#define __pipeline_memcpy_async(to, from, size, zeros)                                             \
    __extension__({                                                                                \
        CUDA_CPU_SITE("__pipeline_memcpy_async", false);                                           \
        cuda_cpu_copy((to), (from), (size), (zeros), &cuda_cpu_site);                              \
    })
#define __pipeline_commit()         cuda_cpu_commit()
#define __pipeline_wait_prior(left) cuda_cpu_copies_wait(left)

/* What stands in these bytes of shared memory has been read for the last time: whoever reads it
   all the same, before it is written again, gets what unwritten memory holds. */
CUDA_CPU_CALLED static void cuda_cpu_used_up(void *memory, size_t size)
{
    cuda_unseen();
    int unwritten = cuda_cpu_unwritten();
    cuda_seen();
    memset(memory, unwritten, size);
}

#define USED_UP(memory, size) cuda_cpu_used_up((memory), (size))

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

/* If all lanes of this one's mask wait where it does, they go on. */
static inline bool cuda_cpu_release_lanes(CudaCpuThread *warp, unsigned lanes, unsigned lane)
{
    CudaCpuThread *one = &warp[lane];
    unsigned mask = one->mask;
    bool all = one->state == CUDA_CPU_AT_WARP;
    for (unsigned k = 0; all && k < lanes; k++)
        if (mask >> k & 1)
            all = warp[k].state == CUDA_CPU_AT_WARP && warp[k].mask == mask &&
                  warp[k].site == one->site;
    for (unsigned k = 0; all && k < lanes; k++)
        if (mask >> k & 1) {
            warp[k].state = CUDA_CPU_READY;
            memcpy(warp[k].taken, warp[k].given, CUDA_CPU_VALUE);
            if (one->site->orders)
                cuda_fibre_after(&one->fibre, &warp[k].fibre);
        }
    for (unsigned k = 0; all && k < lanes; k++)
        if ((mask >> k & 1) && one->site->orders)
            cuda_fibre_after(&warp[k].fibre, &one->fibre);
    return all;
}

static inline bool cuda_cpu_release_warp(CudaCpuThread *warp, unsigned lanes)
{
    bool released = false;
    for (unsigned i = 0; i < lanes; i++)
        released = cuda_cpu_release_lanes(warp, lanes, i) || released;
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
    const CudaCpuSite *site = thread->site;
    for (unsigned i = 0; i < cuda_cpu.threads && other == NULL; i++) {
        const CudaCpuThread *at = &cuda_cpu.thread[i];
        bool concerned =
            thread->state == CUDA_CPU_AT_BLOCK ||
            (at - cuda_cpu.thread) / CUDA_CPU_WARP == (thread - cuda_cpu.thread) / CUDA_CPU_WARP;
        if (concerned &&
            (at->state != thread->state || at->site != site || at->mask != thread->mask))
            other = at;
    }
    char where[200] = "another does not come";
    if (other != NULL && other->state == CUDA_CPU_DONE)
        snprintf(where, sizeof where, "thread (%u, %u, %u) has returned", other->index.x,
                 other->index.y, other->index.z);
    else if (other != NULL)
        snprintf(where, sizeof where, "thread (%u, %u, %u) waits at %.60s:%d in %s%s",
                 other->index.x, other->index.y, other->index.z, other->site->file,
                 other->site->line,
                 other->site != site && other->site->line == site->line ? "another " : "",
                 other->site->what);
    cuda_cpu_fail("thread (%u, %u, %u) waits at %.120s:%d in %s, but %s", thread->index.x,
                  thread->index.y, thread->index.z, site->file, site->line, site->what, where);
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
               cuda_cpu.thread[i].site == first->site;
    if (!same) {
        cuda_cpu_report_waiting(first);
        return false;
    }
    for (unsigned i = 0; i < cuda_cpu.threads; i++) {
        cuda_cpu.thread[i].state = CUDA_CPU_READY;
        cuda_fibre_after(&cuda_cpu.thread[0].fibre, &cuda_cpu.thread[i].fibre);
    }
    for (unsigned i = 0; i < cuda_cpu.threads; i++)
        cuda_fibre_after(&cuda_cpu.thread[i].fibre, &cuda_cpu.thread[0].fibre);
    return true;
}

/* Dynamic shared memory, of exactly this size; NULL for none, or if there is no memory. */
static inline unsigned char *cuda_cpu_shared_new(size_t size)
{
    void *memory = NULL;
    return size > 0 && posix_memalign(&memory, 64, size) == 0 ? (unsigned char *)memory : NULL;
}

/* Shared memory as every block finds it. AddressSanitizer owns the bytes between static arrays. */
CUDA_CPU_ANY_BYTE static inline void cuda_cpu_shared_fill(void)
{
    int fill = cuda_cpu_unwritten();
#ifdef __ELF__
    for (volatile unsigned char *byte = __start_cuda_shared; byte < __stop_cuda_shared; byte++)
        *byte = (unsigned char)fill;
    cuda_untouched_arrays(__start_cuda_shared, __stop_cuda_shared);
#endif
#ifdef CUDA_CPU_TSAN
    free(cuda_cpu.dynamic); /* the next block's is another piece */
    cuda_cpu.dynamic = cuda_cpu_shared_new(cuda_cpu.shared);
#endif
    if (cuda_cpu.shared > 0)
        memset(cuda_cpu.dynamic, fill, cuda_cpu.shared);
}

static inline void cuda_cpu_run_block(void)
{
    const unsigned most = CUDA_CPU_WARP;
    unsigned warps = (cuda_cpu.threads + most - 1) / most;
    cuda_cpu_shared_fill();
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
    for (unsigned i = 0; i < cuda_cpu.threads; i++)
        if (cuda_cpu.thread[i].state == CUDA_CPU_DONE)
            cuda_fibre_end(&cuda_cpu.thread[i].fibre);
}

/* ==================================== Launching ============================================ */

static inline bool cuda_cpu_fits(dim3 grid, dim3 block, size_t shared)
{
    size_t threads = (size_t)block.x * block.y * block.z;
    return threads >= 1 && threads <= CUDA_CPU_THREADS && block.z <= 64 && grid.x >= 1 &&
           grid.x < 1u << 31 && grid.y >= 1 && grid.y < 65536 && grid.z >= 1 && grid.z < 65536 &&
           (size_t)grid.x * grid.y * grid.z < (size_t)1 << 31 && shared <= CUDA_CPU_SHARED;
}

/* Dynamic shared memory above 48 KiB is for kernels that have asked for it. */
static inline cudaError_t cuda_cpu_ask(CudaCpuKernel *kernel, int shared)
{
    unsigned i = 0;
    while (i < cuda_cpu.kernels_asked && cuda_cpu.asked[i].kernel != kernel)
        i++;
    if (shared < 0 || shared > CUDA_CPU_SHARED || i == CUDA_CPU_ASKED)
        return cudaErrorInvalidValue;
    cuda_cpu.asked[i].kernel = kernel;
    cuda_cpu.asked[i].shared = (size_t)shared;
    cuda_cpu.kernels_asked += i == cuda_cpu.kernels_asked;
    return cudaSuccess;
}

static inline bool cuda_cpu_may(CudaCpuKernel *kernel, size_t shared)
{
    char sentence[200];
    size_t most = CUDA_CPU_UNASKED;
    for (unsigned i = 0; i < cuda_cpu.kernels_asked; i++)
        if (cuda_cpu.asked[i].kernel == kernel && cuda_cpu.asked[i].shared > most)
            most = cuda_cpu.asked[i].shared;
    if (shared > most) {
        snprintf(
            sentence, sizeof sentence,
            "a launch with %zu bytes of shared memory, where the kernel may have %zu: for more "
            "it must ask, by cudaFuncSetAttribute",
            shared, most);
        cuda_cpu_refuse(cudaErrorInvalidValue, sentence);
    }
    return shared <= most;
}

/* A tick in which the same thread runs as at the last one: it waits for nobody. */
static inline void cuda_cpu_tick(int number)
{
    CudaCpuThread *thread = cuda_cpu.now;
    const char *here = (const char *)__builtin_frame_address(0);
    (void)number;
    if (thread == NULL || here < thread->stack || here >= thread->stack + CUDA_CPU_STACK)
        return; /* in the scheduler */
    if (cuda_cpu.turns != cuda_cpu.ticked) {
        cuda_cpu.ticked = cuda_cpu.turns;
        return;
    }
    char since[160] = "it began";
    if (thread->site != NULL)
        snprintf(since, sizeof since, "%.120s:%d", thread->site->file, thread->site->line);
    cuda_cpu_fail(
        "thread (%u, %u, %u) has run for more than %g s since %s and waits for nobody; if "
        "it looks again and again for what another is to write: no other runs meanwhile",
        thread->index.x, thread->index.y, thread->index.z, cuda_cpu.patience, since);
    thread->state = CUDA_CPU_DONE;
    cuda_cpu_leave(); /* and never comes back */
}

/* A touch of the bytes below a stack: its thread has too much there. Any other is left to whoever
   was asked before. */
static inline void cuda_cpu_fault(int number, siginfo_t *info, void *context)
{
    const char *at = (const char *)info->si_addr;
    CudaCpuThread *thread = cuda_cpu.now;
    (void)context;
    if (thread == NULL || at >= thread->stack || at <= thread->stack - CUDA_CPU_BELOW) {
        sigaction(number, &cuda_cpu.before[number == SIGSEGV ? 1 : 2], NULL);
        return; /* to the same touch */
    }
    cuda_cpu_spill(thread); /* and never comes back */
}

/* While a launch runs; AddressSanitizer says it itself, with the line. */
static inline void cuda_cpu_watch_stacks(bool on)
{
#if !defined(CUDA_CPU_ASAN) && !defined(CUDA_CPU_TSAN)
    struct sigaction fault;
    stack_t stack;
    memset(&fault, 0, sizeof fault);
    memset(&stack, 0, sizeof stack);
    if (on) {
        stack.ss_sp = cuda_cpu.spill_stack;
        stack.ss_size = sizeof cuda_cpu.spill_stack;
        sigaltstack(&stack, &cuda_cpu.stack_before);
        fault.sa_sigaction = cuda_cpu_fault;
        fault.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    }
    sigaction(SIGSEGV, on ? &fault : &cuda_cpu.before[1], on ? &cuda_cpu.before[1] : NULL);
    sigaction(SIGBUS, on ? &fault : &cuda_cpu.before[2], on ? &cuda_cpu.before[2] : NULL);
    if (!on)
        sigaltstack(&cuda_cpu.stack_before, NULL);
#else
    (void)on;
#endif
}

/* Ticks while a launch runs; ThreadSanitizer keeps signals back, and has none. */
static inline void cuda_cpu_watch(bool on)
{
    cuda_cpu_watch_stacks(on);
#ifndef CUDA_CPU_TSAN
    struct sigaction tick;
    struct itimerval every;
    memset(&tick, 0, sizeof tick);
    memset(&every, 0, sizeof every);
    if (cuda_cpu.patience == 0.0)
        cuda_cpu.patience = CUDA_CPU_PATIENCE;
    if (on) {
        tick.sa_handler = cuda_cpu_tick;
        tick.sa_flags = SA_RESTART | SA_NODEFER; /* it may never return */
        every.it_interval.tv_sec = (time_t)cuda_cpu.patience;
        every.it_interval.tv_usec = (suseconds_t)(1e6 * fmod(cuda_cpu.patience, 1.0));
        every.it_value = every.it_interval;
        sigaction(SIGVTALRM, &tick, &cuda_cpu.before[0]);
    }
    setitimer(ITIMER_VIRTUAL, &every, NULL);
    if (!on)
        sigaction(SIGVTALRM, &cuda_cpu.before[0], NULL);
#else
    (void)on;
#endif
}

/* All that a launch needs, or an error in cuda_cpu.last. */
static inline bool cuda_cpu_prepare(CudaCpuKernel *kernel, const void *job, dim3 grid, dim3 block,
                                    size_t shared)
{
    cuda_cpu.failed = cuda_cpu.spilled = false;
    cuda_cpu.reported = cudaSuccess;
    if (!cuda_cpu_fits(grid, block, shared))
        cuda_cpu.last = cudaErrorInvalidConfiguration;
    if (!cuda_cpu_fits(grid, block, shared) || !cuda_cpu_may(kernel, shared))
        return false;
    cuda_cpu.kernel = kernel;
    cuda_cpu.job = job;
    cuda_cpu.grid_size = grid;
    cuda_cpu.block_size = block;
    cuda_cpu.threads = block.x * block.y * block.z;
    cuda_cpu.shared = shared;
    cuda_cpu.dynamic = cuda_cpu_shared_new(shared);
    bool ready = shared == 0 || cuda_cpu.dynamic != NULL;
    for (unsigned i = 0; ready && i < cuda_cpu.threads; i++)
        ready = cuda_cpu_stack_reserve(&cuda_cpu.thread[i]);
    if (!ready)
        cuda_cpu.last = cudaErrorMemoryAllocation;
    return ready;
}

/* Every block, one after the other. */
static inline void cuda_cpu_run_grid(dim3 grid)
{
    unsigned blocks = grid.x * grid.y * grid.z;
    CudaCpuWalk walk = cuda_cpu_walk(blocks);
    for (unsigned i = 0; i < walk.room && !cuda_cpu.failed; i++) {
        unsigned number = cuda_cpu_walk_to(&walk, i);
        if (number >= blocks)
            continue;
        cuda_cpu.block_index.x = number % grid.x;
        cuda_cpu.block_index.y = number / grid.x % grid.y;
        cuda_cpu.block_index.z = number / grid.x / grid.y;
        cuda_cpu_run_block();
    }
}

static inline void cuda_cpu_launch(CudaCpuKernel *kernel, const void *job, dim3 grid, dim3 block,
                                   size_t shared)
{
    cuda_unseen();
    if (cuda_cpu_prepare(kernel, job, grid, block, shared)) {
        cuda_races_launch(cuda_cpu_race);
        cuda_cpu_watch(true);
        cuda_cpu_run_grid(grid);
        cuda_cpu_watch(false);
        cuda_races_launched();
    }
    cuda_cpu.now = NULL;
    cuda_cpu.name = NULL;
    free(cuda_cpu.dynamic);
    cuda_cpu.dynamic = NULL;
    cuda_seen();
}

#define KERNEL(kernel, Job)                                                                        \
    static void kernel##_on_cpu(const void *job)                                                   \
    {                                                                                              \
        cuda_unseen();                                                                             \
        Job own = *(const Job *)job;                                                               \
        cuda_seen();                                                                               \
        kernel(own);                                                                               \
    }

#define LAUNCH(kernel, grid, block, shared, job)                                                   \
    (cuda_cpu.name = #kernel, cuda_cpu_launch(kernel##_on_cpu, &(job), grid, block, shared))

#define DYNAMIC_SHARED(type, name) type *name = (type *)(void *)cuda_cpu.dynamic

#endif /* CUDA_ON_CPU */
