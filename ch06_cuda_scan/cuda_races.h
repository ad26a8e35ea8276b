/* Races by name: the threads of cuda_on_cpu.h as ThreadSanitizer sees them.

   HOLDS   a fibre of ThreadSanitizer's for each thread; what comes after what; the sentence that
           names both lines of a race
   FOR     cuda_on_cpu.h, when it is compiled with -fsanitize=thread (gcc or clang); empty otherwise

   ThreadSanitizer remembers who touched each word last, and for each thread how much of every other
   one lies before it. Two accesses to a word, one of them a write and neither before the other, are
   a race, whatever they did this time. What makes an order here is what makes one on a GPU: a
   barrier for those who meet at it, __syncwarp for the lanes of its mask, a launch for all that was
   started before it. A shuffle or a vote makes none: it hands over registers. Nothing orders two
   blocks of a launch, nor what the host does itself and what a kernel does: memory that both touch
   is a pointer of the host's in a kernel, or the reverse.

   Flags count as races too, volatile or not, unless they are set and read by atomics; between two
   __threadfence() everything is in order. */

#ifndef CUDA_RACES
#define CUDA_RACES

#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__SANITIZE_THREAD__)
#define CUDA_CPU_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define CUDA_CPU_TSAN 1
#endif
#endif

#ifdef CUDA_CPU_TSAN

/* ==================================== ThreadSanitizer's own ================================ */

#ifdef __cplusplus
extern "C" {
#endif
void *__tsan_get_current_fiber(void);
void *__tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void *fiber);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
void __tsan_set_fiber_name(void *fiber, const char *name);
void __tsan_acquire(void *moment);
void __tsan_release(void *moment);
void __tsan_java_init(uintptr_t begin, uintptr_t size);
void __tsan_java_alloc(uintptr_t at, uintptr_t size);
void __tsan_java_free(uintptr_t at, uintptr_t size);
void AnnotateIgnoreReadsBegin(const char *file, int line);
void AnnotateIgnoreReadsEnd(const char *file, int line);
void AnnotateIgnoreWritesBegin(const char *file, int line);
void AnnotateIgnoreWritesEnd(const char *file, int line);
int __tsan_get_report_mop(void *report, uintptr_t i, int *tid, void **at, int *size, int *write,
                          int *atomic, void **trace, uintptr_t trace_size);
int __tsan_get_report_thread(void *report, uintptr_t i, int *tid, uintptr_t *os_id, int *running,
                             const char **name, int *parent, void **trace, uintptr_t trace_size);
int __tsan_get_report_data(void *report, const char **kind, int *count, int *stacks, int *mops,
                           int *locations, int *mutexes, int *threads, int *tids, void **sleep,
                           uintptr_t sleep_size);
void __sanitizer_set_report_fd(void *file);
void __sanitizer_symbolize_pc(void *pc, const char *format, char *out, size_t room);
const char *__tsan_default_options(void);
void __tsan_on_report(void *report);
#ifdef __cplusplus
}
#endif

/* ==================================== Fibres =============================================== */

/* A thread, and an address under which ThreadSanitizer keeps what lies before it. */
typedef struct {
    void *fibre;
    char *moment;
} CudaFibre;

/* The device is a fibre that does nothing: what begins there comes after nothing of the host's. */
typedef struct {
    void *host, *device, *nowhere; /* the last as a file, to be written to */
    char before[2], fence; /* all that lies before this launch, and before the next; or a fence */
    unsigned launches;
    uintptr_t arrays;                   /* where shared arrays begin, once that is known */
    bool (*told)(const char *sentence); /* takes what is said of a race, if a kernel is running */
} CudaRaces;

static CudaRaces cuda_races;

enum { CUDA_FIBRE_ALONE = 1 }; /* to switch to it puts nothing in order */

__attribute__((constructor)) static void cuda_races_begin(void)
{
    cuda_races.device = __tsan_create_fiber(0);
    cuda_races.nowhere = (void *)(intptr_t)open("/dev/null", O_WRONLY);
}

/* What the emulator does for itself between these two is nobody's access. They do not nest. */
static inline void cuda_unseen(void)
{
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
}

static inline void cuda_seen(void)
{
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
}

/* Nobody has touched the shared arrays. To ThreadSanitizer they are a heap that Java looks after,
   the only memory of which it can be told that it is given out anew. */
static inline void cuda_untouched_arrays(const void *begin, const void *end)
{
    uintptr_t first = (uintptr_t)begin / 8 * 8, size = ((uintptr_t)end - first + 7) / 8 * 8;
    if (end == begin)
        return;
    if (cuda_races.arrays == 0)
        __tsan_java_init(first, size);
    cuda_races.arrays = first;
    __tsan_java_alloc(first, size);
    __tsan_java_free(first, size);
}

/* Nor these pages, which are new ones now. */
static inline void cuda_untouched_pages(void *pages, size_t size)
{
    mmap(pages, size, PROT_READ | PROT_WRITE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

static inline void cuda_fibre_enter(CudaFibre *fibre)
{
    __tsan_switch_to_fiber(fibre->fibre, CUDA_FIBRE_ALONE);
}

static inline void cuda_fibre_leave(void)
{
    __tsan_switch_to_fiber(cuda_races.host, CUDA_FIBRE_ALONE);
}

/* What `later` does from now on comes after all that `earlier` has done. */
static inline void cuda_fibre_after(CudaFibre *later, CudaFibre *earlier)
{
    cuda_fibre_enter(earlier);
    __tsan_release(earlier->moment);
    cuda_fibre_enter(later);
    __tsan_acquire(earlier->moment);
    cuda_fibre_leave();
}

/* While a launch runs, the sentence says it all: what ThreadSanitizer writes goes nowhere. */
static inline void cuda_races_launched(void)
{
    __sanitizer_set_report_fd((void *)(intptr_t)STDERR_FILENO);
}

static inline void cuda_races_launch(bool (*told)(const char *sentence))
{
    __sanitizer_set_report_fd(cuda_races.nowhere);
    cuda_races.told = told;
    cuda_races.host = __tsan_get_current_fiber();
    cuda_races.launches++;
}

static inline void cuda_fibre_start(CudaFibre *fibre, const char *name)
{
    __tsan_switch_to_fiber(cuda_races.device, CUDA_FIBRE_ALONE);
    fibre->fibre = __tsan_create_fiber(0);
    __tsan_set_fiber_name(fibre->fibre, name);
    fibre->moment = (char *)malloc(1);
    cuda_fibre_enter(fibre);
    __tsan_acquire(&cuda_races.before[cuda_races.launches % 2]);
    cuda_fibre_leave();
}

/* Only of a thread that has returned: one that waits for ever stays as it is. */
static inline void cuda_fibre_end(CudaFibre *fibre)
{
    cuda_fibre_enter(fibre);
    __tsan_release(&cuda_races.before[(cuda_races.launches + 1) % 2]);
    cuda_fibre_leave();
    __tsan_destroy_fiber(fibre->fibre);
    free(fibre->moment);
}

static inline void cuda_fence(void)
{
    __tsan_acquire(&cuda_races.fence);
    __tsan_release(&cuda_races.fence);
}

/* ==================================== The sentence ========================================= */

/* The line of the kernel, as "file.cu:12": of all who called each other there, the first outside
   of the emulator and the C library. */
static inline void cuda_race_line(char *out, size_t room, void *const *trace, int depth)
{
    char text[1024];
    snprintf(out, room, "a line not known");
    for (int i = 0; i < depth && trace[i] != NULL; i++) {
        __sanitizer_symbolize_pc(trace[i], "%s:%l", text, sizeof text);
        const char *slash = strrchr(text, '/'), *name = slash != NULL ? slash + 1 : text;
        bool own = strstr(name, "_on_cpu.h:") != NULL || strstr(name, "cuda_races.h:") != NULL;
        if (own || strstr(text, "sanitizer") != NULL || strchr(name, ':') == NULL ||
            strchr(name, '<') != NULL)
            continue;
        snprintf(out, room, "%.80s", name);
        return;
    }
}

/* "thread (1, 0, 0) of block (0, 0, 0)", or "the host". */
static inline const char *cuda_race_name(void *report, int threads, int tid)
{
    for (int i = 0; i < threads; i++) {
        int other = -1, running, parent;
        uintptr_t os_id;
        const char *name = NULL;
        void *trace[1];
        __tsan_get_report_thread(report, (uintptr_t)i, &other, &os_id, &running, &name, &parent,
                                 trace, 1);
        if (other == tid && name != NULL && name[0] != '\0')
            return name;
    }
    return "the host";
}

/* ThreadSanitizer calls this when it has printed a report of its own. */
void __tsan_on_report(void *report)
{
    enum { DEPTH = 16 };
    const char *kind, *name[2];
    char sentence[400], line[2][96];
    int count, stacks, mops, locations, mutexes, threads, tids, tid, size, write[2], atomic;
    void *at, *trace[DEPTH];
    cuda_unseen();
    __tsan_get_report_data(report, &kind, &count, &stacks, &mops, &locations, &mutexes, &threads,
                           &tids, trace, 1);
    for (int i = 0; i < 2 && mops >= 2; i++) {
        memset(trace, 0, sizeof trace);
        __tsan_get_report_mop(report, (uintptr_t)i, &tid, &at, &size, &write[i], &atomic, trace,
                              DEPTH);
        name[i] = cuda_race_name(report, threads, tid);
        cuda_race_line(line[i], sizeof line[i], trace, DEPTH);
    }
    if (mops >= 2) {
        bool host = strcmp(name[0], "the host") == 0 || strcmp(name[1], "the host") == 0;
        snprintf(sentence, sizeof sentence, "%s %s at %s where %s %s at %s, %s", name[0],
                 write[0] ? "writes" : "reads", line[0], name[1], write[1] ? "wrote" : "read",
                 line[1],
                 host ? "and host and device have no memory in common"
                      : "and nothing puts the two in order: a race");
        if (cuda_races.told == NULL || !cuda_races.told(sentence)) {
            fprintf(stderr, "error: %s\n", sentence);
            _exit(1); /* it is the host that reads the device's memory: a program would end here */
        }
    }
    cuda_seen();
}

const char *__tsan_default_options(void)
{
    /* every launch is told of its races, the tenth like the first; what waits for ever when a
       launch fails is never ended */
    return "handle_segv=0:suppress_equal_stacks=0:suppress_equal_addresses=0:report_thread_leaks=0:"
           "exitcode=0";
}

#else /* without ThreadSanitizer nobody asks */

typedef struct {
    char nothing;
} CudaFibre;

#define cuda_unseen()                    ((void)0)
#define cuda_seen()                      ((void)0)
#define cuda_untouched_arrays(from, to)  ((void)0)
#define cuda_fibre_enter(fibre)          ((void)0)
#define cuda_fibre_leave()               ((void)0)
#define cuda_fibre_after(later, earlier) ((void)0)
#define cuda_races_launch(told)          ((void)(told))
#define cuda_races_launched()            ((void)0)
#define cuda_fibre_end(fibre)            ((void)0)
#define cuda_fence()                     ((void)0)

#endif
#endif /* CUDA_RACES */
