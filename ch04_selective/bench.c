/* Chapter 4, measured: the clear scan against the fast one, and both against this machine's limits.

   HOLDS   scans of random numbers to measure with; what this machine can do at most (bytes from
           memory, exponentials, multiply-adds); the tables and the figure of the lesson
   FOR     build/ch04_bench, and the measurements of chapters 5 and 6 */

#ifndef CH04_BENCH
#define CH04_BENCH

#include "../ch01_markov/measure.h"
#include "fast_scan.c"

/* A scan of random numbers, as a trained layer might meet them; everything optional is there. */
typedef struct {
    Scan scan;
    float *memory, *y, *y_grad, *work;
    ScanGrad grad;
} BenchScan;

static float *bench_fill(float **next, size_t count, double low, double high, Random *random)
{
    float *values = *next;
    *next += (count + LANES - 1) / LANES * LANES; /* so that every array starts on a vector */
    for (size_t i = 0; i < count; i++)
        values[i] = (float)(low + (high - low) * random_uniform(random));
    return values;
}

static BenchScan bench_scan_new(size_t batch, size_t len, size_t d_inner, size_t d_state)
{
    BenchScan bench;
    Random random = random_from_seed(1);
    size_t wide = batch * len * d_inner, shared = batch * len * d_state, A = d_inner * d_state;
    memset(&bench, 0, sizeof bench);
    Scan *scan = &bench.scan;
    scan->batch = batch;
    scan->len = len;
    scan->d_inner = d_inner;
    scan->d_state = d_state;
    size_t checkpoint = selective_scan_checkpoint_floats(scan);
    size_t count = 8 * wide + 4 * shared + (3 + batch) * A + 4 * d_inner + checkpoint;
    bench.memory = NEW(float, count + 20 * LANES);
    float *next = bench.memory + (-(uintptr_t)bench.memory % sizeof(Lanes)) / sizeof(float);
    scan->u = bench_fill(&next, wide, -1, 1, &random);
    scan->delta = bench_fill(&next, wide, -4, 1, &random);
    scan->z = bench_fill(&next, wide, -2, 2, &random);
    scan->B = bench_fill(&next, shared, -1, 1, &random);
    scan->C = bench_fill(&next, shared, -1, 1, &random);
    scan->A = bench_fill(&next, A, -(double)d_state, -0.5, &random);
    scan->delta_bias = bench_fill(&next, d_inner, -1, 0, &random);
    scan->D = bench_fill(&next, d_inner, 0, 1, &random);
    scan->delta_softplus = true;
    bench.y_grad = bench_fill(&next, wide, -1, 1, &random);
    bench.y = bench_fill(&next, wide, 0, 0, &random);
    bench.grad.u = bench_fill(&next, wide, 0, 0, &random);
    bench.grad.delta = bench_fill(&next, wide, 0, 0, &random);
    bench.grad.z = bench_fill(&next, wide, 0, 0, &random);
    bench.grad.B = bench_fill(&next, shared, 0, 0, &random);
    bench.grad.C = bench_fill(&next, shared, 0, 0, &random);
    bench.grad.A = bench_fill(&next, A, 0, 0, &random);
    bench.grad.x_start = bench_fill(&next, batch * A, 0, 0, &random);
    bench.grad.delta_bias = bench_fill(&next, d_inner, 0, 0, &random);
    bench.grad.D = bench_fill(&next, d_inner, 0, 0, &random);
    scan->checkpoint = bench_fill(&next, checkpoint, 0, 0, &random);
    bench.work = NEW(float, selective_scan_backward_floats(scan));
    return bench;
}

static void bench_scan_free(BenchScan *bench)
{
    free(bench->memory);
    free(bench->work);
}

typedef void ScanFunction(float *y, float *x_last, const Scan *scan);
typedef void ScanBackFunction(const ScanGrad *grad, const float *y_grad, const float *x_last_grad,
                              const Scan *scan, float *work);

enum { BENCH_RUNS = 9 };

/* Median seconds of a forward pass. */
static double time_forward(ScanFunction *function, BenchScan *bench, int runs)
{
    double seconds[BENCH_RUNS] = {0};
    for (int i = 0; i < runs; i++) {
        double start = seconds_now();
        function(bench->y, NULL, &bench->scan);
        seconds[i] = seconds_now() - start;
    }
    return median(seconds, (size_t)runs);
}

static double time_backward(ScanBackFunction *function, BenchScan *bench, int runs)
{
    double seconds[BENCH_RUNS] = {0};
    for (int i = 0; i < runs; i++) {
        double start = seconds_now();
        function(&bench->grad, bench->y_grad, NULL, &bench->scan, bench->work);
        seconds[i] = seconds_now() - start;
    }
    return median(seconds, (size_t)runs);
}

/* What this machine can do at most, one processor. */
typedef struct {
    double read;         /* bytes a second from memory */
    double exponentials; /* a second, by exp2_product in the nearest cache */
} Ceilings;

double measure_read(void)
{
    enum { MIB = 256, WIDE = 8 };
    size_t count = (size_t)MIB * 1024 * 1024 / sizeof(Lanes);
    Lanes *memory = (Lanes *)aligned_alloc(64, count * sizeof(Lanes)), sum[WIDE] = {{0}};
    double seconds[5];
    if (memory == NULL)
        return 0.0;
    memset(memory, 0, count * sizeof(Lanes));
    for (int run = 0; run < 5; run++) {
        double start = own_seconds();
        for (size_t i = 0; i < count; i += WIDE)
            for (size_t k = 0; k < WIDE; k++)
                sum[k] += memory[i + k];
        seconds[run] = own_seconds() - start;
    }
    for (size_t k = 1; k < WIDE; k++)
        sum[0] += sum[k];
    double bytes = (double)count * sizeof(Lanes);
    seconds[0] += lanes_sum(sum[0]) == 1.0f ? 1.0 : 0.0; /* the sum is wanted, so it is made */
    free(memory);
    return bytes / median(seconds, 5);
}

double measure_exponentials(void)
{
    enum { VECTORS = 64, ROUNDS = 20000 };
    Lanes in[VECTORS], out[VECTORS];
    const ExpTable table = exp_table();
    double seconds[5];
    for (int i = 0; i < VECTORS; i++)
        in[i] = lanes_all(-0.1f * (float)i);
    for (int run = 0; run < 5; run++) {
        double start = own_seconds();
        for (int round = 0; round < ROUNDS; round++) {
            for (int i = 0; i < VECTORS; i++)
                out[i] = exp2_product(in[i], lanes_all(1.442695f), table);
            __asm__ volatile("" : : "r"(out) : "memory");
        }
        seconds[run] = own_seconds() - start;
    }
    return (double)VECTORS * ROUNDS * LANES / median(seconds, 5);
}

/* Multiply-adds a second of one processor, from registers. */
double measure_multiply_adds(void)
{
    enum { ROUNDS = 2000000, WIDE = 12 };
    Lanes sum[WIDE], factor = lanes_all(0.999f), more = lanes_all(0.001f);
    double seconds[5];
    for (int run = 0; run < 5; run++) {
        for (int i = 0; i < WIDE; i++)
            sum[i] = lanes_all((float)i);
        double start = own_seconds();
        for (int round = 0; round < ROUNDS; round++)
            for (int i = 0; i < WIDE; i++)
                sum[i] = lanes_multiply_add(sum[i], factor, more);
        seconds[run] = own_seconds() - start;
        for (int i = 1; i < WIDE; i++)
            sum[0] += sum[i];
        seconds[run] += lanes_sum(sum[0]) == 1.0f ? 1.0 : 0.0; /* so that it is worked out */
    }
    return (double)ROUNDS * WIDE * LANES / median(seconds, 5);
}

Ceilings measure_ceilings(void)
{
    Ceilings ceilings = {measure_read(), measure_exponentials()};
    return ceilings;
}

/* Seconds below which no forward pass can be on one processor: u, delta, z in and y out once, or an
   exponential for every state and two for every token and channel. */
static void scan_floors(double *memory, double *exponentials, const Scan *scan,
                        const Ceilings *ceilings)
{
    double wide = (double)(scan->batch * scan->len * scan->d_inner);
    *memory = 4.0 * wide * sizeof(float) / ceilings->read;
    *exponentials = wide * (double)(scan->d_state + 2) / ceilings->exponentials;
}

static void bench_table(BenchScan *bench, const Ceilings *ceilings)
{
    const Scan *scan = &bench->scan;
    double memory, exponentials;
    int threads = threads_most();
    float *checkpoint = scan->checkpoint;
    scan_floors(&memory, &exponentials, scan, ceilings);
    printf("\nbatch %zu, len %zu, d_inner %zu, d_state %zu\n", scan->batch, scan->len,
           scan->d_inner, scan->d_state);
    printf("  floor, memory:       %8.2f ms (%.1f GB/s read)\n", 1e3 * memory,
           1e-9 * ceilings->read);
    printf("  floor, exponentials: %8.2f ms (%.2f a nanosecond)\n", 1e3 * exponentials,
           1e-9 * ceilings->exponentials);
    double floor = fmax(memory, exponentials);
    threads_use(1);
    double clear = time_forward(selective_scan, bench, 3);
    bench->scan.checkpoint = NULL;
    double fast = time_forward(selective_scan_fast, bench, BENCH_RUNS);
    bench->scan.checkpoint = checkpoint;
    double keeping = time_forward(selective_scan_fast, bench, BENCH_RUNS);
    double clear_back = time_backward(selective_scan_backward, bench, 1);
    double fast_back = time_backward(selective_scan_backward_fast, bench, BENCH_RUNS);
    threads_use(threads);
    double all = time_forward(selective_scan_fast, bench, BENCH_RUNS);
    double all_back = time_backward(selective_scan_backward_fast, bench, BENCH_RUNS);
    printf("  forward, clear:      %8.2f ms\n", 1e3 * clear);
    printf("  forward, fast:       %8.2f ms   1/%.1f of clear, %.2f times the larger floor\n",
           1e3 * fast, clear / fast, fast / floor);
    printf("    on %2d threads:     %8.2f ms   1/%.2f of one\n", threads, 1e3 * all, keeping / all);
    printf("    with checkpoints:  %8.2f ms\n", 1e3 * keeping);
    printf("  backward, clear:     %8.2f ms\n", 1e3 * clear_back);
    printf("  backward, fast:      %8.2f ms   1/%.1f of clear, %.2f times the fast forward\n",
           1e3 * fast_back, clear_back / fast_back, fast_back / fast);
    printf("    on %2d threads:     %8.2f ms   1/%.2f of one\n", threads, 1e3 * all_back,
           fast_back / all_back);
}

/* Which parallelism pays: the same amount of work in different shapes. */
static void bench_parallel(void)
{
    static const size_t shape[5][3] = {
        {1, 512, 1536}, {16, 512, 96}, {1, 8192, 96}, {1, 49152, 16}, {1, 786432, 1}};
    int threads = threads_most();
    printf("\nThe same work in different shapes, d_state 16: one thread over channels, then\n"
           "%d over channels and batch, then over pieces of time; milliseconds\n\n",
           threads);
    puts("  batch     len  d_inner   one thread   channels   time");
    for (int k = 0; k < 5; k++) {
        BenchScan bench = bench_scan_new(shape[k][0], shape[k][1], shape[k][2], 16);
        bench.scan.checkpoint = NULL;
        threads_use(1);
        double one = time_forward(selective_scan_fast, &bench, 5);
        threads_use(threads);
        double channels = time_forward(selective_scan_fast, &bench, 5);
        double time = time_forward(selective_scan_in_time, &bench, 5);
        printf("  %5zu %7zu %8zu %12.2f %10.2f %6.2f\n", shape[k][0], shape[k][1], shape[k][2],
               1e3 * one, 1e3 * channels, 1e3 * time);
        bench_scan_free(&bench);
    }
}

static bool demo_scan_bench(const Show *show, Error *error)
{
    enum { LENGTHS = 6 };
    double len[LENGTHS], clear[LENGTHS], fast[LENGTHS], floors[LENGTHS];
    Progress progress = progress_start("measuring");
    Ceilings ceilings = measure_ceilings();
    progress_show(&progress, 0.1, 1.0);
    BenchScan large = bench_scan_new(1, 2048, 1536, 16);
    printf("The selective scan on this machine: %d numbers to a vector\n", LANES);
    bench_table(&large, &ceilings);
    bench_scan_free(&large);
    progress_show(&progress, 0.5, 1.0);
    bench_parallel();
    threads_use(1);
    for (size_t i = 0; i < LENGTHS; i++) {
        double memory, exponentials;
        BenchScan bench = bench_scan_new(1, (size_t)64 << i, 1536, 16);
        bench.scan.checkpoint = NULL;
        scan_floors(&memory, &exponentials, &bench.scan, &ceilings);
        len[i] = (double)bench.scan.len;
        clear[i] = 1e3 * time_forward(selective_scan, &bench, 3);
        fast[i] = 1e3 * time_forward(selective_scan_fast, &bench, BENCH_RUNS);
        floors[i] = 1e3 * fmax(memory, exponentials);
        bench_scan_free(&bench);
        progress_show(&progress, 0.6 + 0.06 * (double)i, 1.0);
    }
    progress_end(&progress);
    Chart chart = chart_new("d_inner 1536, d_state 16, one thread", "tokens", "milliseconds");
    chart.log_x = chart.log_y = true;
    chart_add(&chart, "clear", MARK_LINE, len, clear, LENGTHS);
    chart_add(&chart, "fast", MARK_LINE, len, fast, LENGTHS);
    chart_add(&chart, "floor", MARK_LINE, len, floors, LENGTHS);
    return chart_show(&chart, show, error);
}

int scan_bench_main(int argc, char **argv)
{
    const char *svg = NULL;
    bool ascii = false;
    const Option table[] = {
        {"svg", "FILE", OPTION_OUT, 0, 0, &svg, "", "write the figure as SVG"},
        {"ascii", NULL, OPTION_SWITCH, 0, 0, &ascii, "", "draw without Unicode"},
    };
    const Program program = {"ch04_bench",
                             "Clear against fast, one thread against all, and both against what "
                             "this machine can do (chapter 4).",
                             table, sizeof table / sizeof *table};
    int status;
    if (!program_begin(&status, &program, argc, argv))
        return status;
    Error error;
    const Show show = {look_at_terminal(ascii), svg, 1};
    return program_end(demo_scan_bench(&show, &error), &error);
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return scan_bench_main(argc, argv);
}
#endif

#endif /* CH04_BENCH */
