/* What the three computations of chapter 2 cost.

   HOLDS   recurrence, kernel, direct convolution and FFT, timed at lengths 16 to 262,144; where
           one overtakes the other; the figure figures/cost.svg
   FOR     the lesson's section "What it costs", and `make bench` */

#ifndef CH02_BENCH
#define CH02_BENCH

#include "ssm.c"

enum {
    BENCH_FIRST = 4,
    BENCH_LAST = 18,
    BENCH_DIRECT_LAST = 14,
    BENCH_SIZES = BENCH_LAST - BENCH_FIRST + 1
};

/* Seconds a call for each way and length; NaN where it was not measured. */
typedef struct {
    double len[BENCH_SIZES], recurrent[BENCH_SIZES], direct[BENCH_SIZES], fast[BENCH_SIZES];
    double kernel[BENCH_SIZES];
} Costs;

typedef struct {
    double *y, *x, *K;
    const double *u;
    const Ssm *system;
    size_t len;
} Job;

static void job_recurrent(const Job *job)
{
    memset(job->x, 0, job->system->d_state * sizeof *job->x);
    ssm_run(job->y, job->x, job->u, job->system, job->len, READ_AFTER);
}

static void job_kernel(const Job *job)
{
    ssm_kernel(job->K, job->system, job->len, READ_AFTER);
}

static void job_direct(const Job *job)
{
    ssm_convolve(job->y, job->K, job->u, job->system, job->len);
}

static void job_fft(const Job *job)
{
    ssm_convolve_fft(job->y, job->K, job->u, job->system, job->len);
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds for one call: the median of five measurements of at least ten milliseconds each. */
static double time_job(void (*work)(const Job *), const Job *job)
{
    double seconds[5];
    for (size_t k = 0; k < 5; k++) {
        double start = seconds_now();
        size_t calls = 0;
        do {
            work(job);
            calls++;
        } while (seconds_now() - start < 0.01);
        seconds[k] = (seconds_now() - start) / (double)calls;
    }
    qsort(seconds, 5, sizeof *seconds, compare_doubles);
    return seconds[2];
}

static void measure_costs(Costs *costs, const Ssm *system)
{
    size_t most = (size_t)1 << BENCH_LAST;
    Signal u = input_of("noise", most, 3);
    double *room = NEW(double, 2 * most + system->d_state);
    Progress progress = progress_start("measuring");
    for (size_t k = 0; k < BENCH_SIZES; k++) {
        size_t len = (size_t)1 << (BENCH_FIRST + k);
        Job job = {room, room + 2 * most, room + most, u.value, system, len};
        costs->len[k] = (double)len;
        costs->kernel[k] = time_job(job_kernel, &job);
        costs->recurrent[k] = time_job(job_recurrent, &job);
        costs->direct[k] = BENCH_FIRST + k > BENCH_DIRECT_LAST ? NAN : time_job(job_direct, &job);
        costs->fast[k] = time_job(job_fft, &job);
        progress_show(&progress, (double)(k + 1), BENCH_SIZES);
    }
    progress_end(&progress);
    free(room);
    signal_free(&u);
}

/* The first measured length at which `slower` has come to cost more than `faster`; 0 if none. */
static size_t crossover(const Costs *costs, const double *slower, const double *faster)
{
    for (size_t k = 0; k < BENCH_SIZES; k++)
        if (slower[k] > faster[k])
            return (size_t)costs->len[k];
    return 0;
}

/* A system with a full A of spectral radius 0.95, one input and one output. */
static Ssm bench_system(size_t d_state)
{
    Ssm system = ssm_new(d_state, 1, 1);
    Random random = random_from_seed(d_state);
    for (size_t i = 0; i < d_state * d_state; i++)
        system.A[i] = random_normal(&random);
    double radius = matrix_spectral_radius(system.A, d_state);
    for (size_t i = 0; i < d_state * d_state; i++)
        system.A[i] *= 0.95 / radius;
    for (size_t i = 0; i < d_state; i++) {
        system.B[i] = random_normal(&random);
        system.C[i] = random_normal(&random);
    }
    return system;
}

static void print_costs(const Costs *costs, size_t d_state)
{
    printf("\nMicroseconds a call, a state of %zu numbers, one input, one output:\n", d_state);
    puts("    length   recurrence   kernel (once)   convolution          FFT   FFT / recurrence");
    for (size_t k = 0; k < BENCH_SIZES; k++) {
        char direct[32] = "-"; /* not measured: too long */
        if (!isnan(costs->direct[k]))
            snprintf(direct, sizeof direct, "%.2f", 1e6 * costs->direct[k]);
        printf("  %8.0f %12.2f %15.2f %13s %12.2f %18.2f\n", costs->len[k],
               1e6 * costs->recurrent[k], 1e6 * costs->kernel[k], direct, 1e6 * costs->fast[k],
               costs->fast[k] / costs->recurrent[k]);
    }
    printf(
        "The direct sum costs more than the FFT from length %zu on, more than the recurrence from "
        "%zu on.\n",
        crossover(costs, costs->direct, costs->fast),
        crossover(costs, costs->direct, costs->recurrent));
    size_t k = BENCH_SIZES - 1;
    printf("At length %.0f: recurrence %.2f ns a step, FFT %.2f ns a step.\n", costs->len[k],
           1e9 * costs->recurrent[k] / costs->len[k], 1e9 * costs->fast[k] / costs->len[k]);
}

static bool demo_costs(const Show *show, Error *error)
{
    static const size_t sizes[] = {4, 64};
    Costs *costs = NEW(Costs, 2);
    puts("What the three computations cost (medians; times depend on the machine)");
    for (size_t k = 0; k < 2; k++) {
        Ssm system = bench_system(sizes[k]);
        measure_costs(&costs[k], &system);
        print_costs(&costs[k], sizes[k]);
        ssm_free(&system);
    }
    Chart chart = chart_new("Three ways to compute the same outputs", "length", "seconds a call");
    chart.log_x = chart.log_y = true;
    chart_add(&chart, "convolution", MARK_LINE, costs[0].len, costs[0].direct, BENCH_SIZES);
    chart_add(&chart, "FFT", MARK_LINE, costs[0].len, costs[0].fast, BENCH_SIZES);
    chart_add(&chart, "recurrence, d_state 4", MARK_LINE, costs[0].len, costs[0].recurrent,
              BENCH_SIZES);
    chart_add(&chart, "recurrence, d_state 64", MARK_LINE, costs[0].len, costs[1].recurrent,
              BENCH_SIZES);
    bool ok = chart_show(&chart, show, error);
    free(costs);
    return ok;
}

int ssm_bench_main(int argc, char **argv)
{
    Show show = {{false, false}, NULL, 0};
    bool ascii = false;
    const Option table[] = {
        {"svg", "FILE", OPTION_OUT, 0, 0, &show.svg, "", "write the chart as SVG"},
        {"ascii", NULL, OPTION_SWITCH, 0, 0, &ascii, "", "draw charts without Unicode"},
    };
    const Program program = {"ch02_bench",
                             "What the recurrence, the convolution and the FFT of chapter 2 cost.",
                             table, sizeof table / sizeof *table};
    int status;
    Error error;
    if (!program_begin(&status, &program, argc, argv))
        return status;
    show.look = look_at_terminal(ascii);
    return program_end(demo_costs(&show, &error), &error);
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return ssm_bench_main(argc, argv);
}
#endif

#endif /* CH02_BENCH */
