/* Measuring chapter 6: every kernel of the ladder and the way back, against what the device can do.

   HOLDS   the device's ceilings (bytes and exponentials a second), measured by kernels that do
           nothing else; the table, as text and CSV, and the roofline; a scan of any size, both
           ways, against chapter 4
   FOR     `make bench`; the lessons' sections "How fast?", and MEASURED.md. A program:
           build/ch06_bench, and with nvcc build/cuda/ch06_bench. */

#ifndef CH06_BENCH
#define CH06_BENCH

#include "../ch04_selective/bench.c" /* scans to measure with, and chapter 4's own times */
#include "cuda_backward.cu"
#include "cuda_dual.cu"

/* A scan of random numbers on the host, with everything but a start, and room for its gradients. */
static BenchScan host_scan_new(const size_t size[4])
{
    BenchScan bench = bench_scan_new(size[0], size[1], size[2], size[3]);
    bench.scan.checkpoint = NULL; /* chapter 4 keeps its own way back, and wants room for it */
    free(bench.work);
    bench.work = NEW(float, selective_scan_backward_floats(&bench.scan));
    return bench;
}

/* ==================================== What the device can do ============================== */

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

enum { CEILING_SUMS = 8 }; /* of a warp, that do not wait for each other */

/* Products on tensor cores, of fragments that stay where they are. */
__global__ void ceiling_products(CeilingJob job)
{
    SumFragment sum[CEILING_SUMS];
    LeftRows left;
    RightColumns right;
    float total = 0.0f;
    fill_fragment(left, 0.5f);
    fill_fragment(right, 0.25f);
    UNROLL
    for (int k = 0; k < CEILING_SUMS; k++)
        fill_fragment(sum[k], 0.0f);
    for (int round = 0; round < job.rounds; round++) {
        UNROLL
        for (int k = 0; k < CEILING_SUMS; k++)
            mma_sync(sum[k], left, right, sum[k]);
    }
    UNROLL
    for (int k = 0; k < CEILING_SUMS; k++)
        total += sum[k].x[0];
    job.to[(size_t)blockIdx.x * blockDim.x + threadIdx.x] = total;
}
KERNEL(ceiling_products, CeilingJob)

typedef enum {
    TIME_COPY,
    TIME_EXP2,
    TIME_PRODUCTS,
    TIME_FORWARD,
    TIME_BACKWARD,
    TIME_DUAL
} TimedKind;

/* What is timed, again and again, and what it works on: a ceiling with so many blocks, a scan, or a
   scan over heads. */
typedef struct {
    TimedKind what;
    const CeilingJob *ceiling;
    size_t blocks;
    const DeviceBack *back;
    const DualJob *dual;
} CudaTimed;

static bool start_timed(const CudaTimed *timed, Error *error)
{
    const DeviceBack *back = timed->back;
    const CeilingJob *job = timed->ceiling;
    size_t blocks = timed->blocks;
    switch (timed->what) {
    case TIME_COPY: return START(ceiling_copy, blocks, CEILING_THREADS, 0, *job, error);
    case TIME_EXP2: return START(ceiling_exp2, blocks, CEILING_THREADS, 0, *job, error);
    case TIME_PRODUCTS: return START(ceiling_products, blocks, CEILING_THREADS, 0, *job, error);
    case TIME_FORWARD: return start_forward(&back->on.job, &back->on.plan, error);
    case TIME_BACKWARD:
        return start_backward(&back->grad, back->x_last_grad, &back->on.job, &back->plan, error);
    case TIME_DUAL: return start_dual(timed->dual, error);
    }
    return false;
}

enum { TIMED_MOST = 31 };

/* Median seconds between two events, after one or two runs that warm up. */
static bool time_kernels(double *seconds, const CudaTimed *timed, int runs, Error *error)
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
             start_timed(timed, error) &&
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

/* `products`: multiply-adds a second on tensor cores. */
static bool measure_rates(Rates *rates, double *products, const CudaDevice *device, bool small,
                          Error *error)
{
    DeviceMemory memory;
    size_t blocks = small ? 1 : device->processors * 8;
    size_t floats = small ? (size_t)1 << 20 : (size_t)1 << 27; /* much more than a cache holds */
    CeilingJob job = {NULL, NULL, floats, small ? 4 : 4096};
    CudaTimed timed = {TIME_COPY, &job, blocks, NULL, NULL};
    float *from = NULL;
    double copy = 0.0, units = 0.0, matrix = 0.0;
    memory.count = 0;
    bool ok = device_new(&job.to, &memory, floats, error) &&
              device_new(&from, &memory, floats, error) &&
              cuda_ok(cudaMemset(from, 0, floats * sizeof(float)), "filling memory", error);
    job.from = from;
    ok = ok && time_kernels(&copy, &timed, 9, error);
    timed.what = TIME_EXP2;
    ok = ok && time_kernels(&units, &timed, 9, error);
    timed.what = TIME_PRODUCTS;
    ok = ok && time_kernels(&matrix, &timed, 9, error);
    if (!device_free(&memory, ok, error))
        return false;
    double threads = (double)(blocks * CEILING_THREADS);
    rates->bytes = 2.0 * (double)(floats * sizeof(float)) / copy;
    rates->exponentials = threads * CEILING_CHAINS * job.rounds / units;
    *products = threads / 32.0 * 2048.0 * CEILING_SUMS * job.rounds / matrix;
    return true;
}

/* ==================================== The table =========================================== */

/* One row: a kernel with its layout, on one shape. */
typedef struct {
    const Scan *scan;
    ScanPlan plan;
    bool back;
    double seconds, channel; /* itself, kernel 0 */
} CudaRow;

typedef struct {
    CudaDevice device;
    Rates rates;
    double products;    /* multiply-adds a second on tensor cores */
    FILE *csv;          /* or NULL */
    bool small;         /* sizes for a CPU that plays GPU */
    int runs, few;      /* the kernels of the ladder's foot are measured less often */
    double point[2][5]; /* for the roofline: exponentials a byte and 10^9 a second, each shape */
    size_t shapes;
} CudaBench;

/* The floors: u, delta, z, B, C in once and y out once; one exponential a state and three more. */
static void row_floors(double *bytes, double *exponentials, const Scan *scan, bool back)
{
    double wide = (double)scan->batch * (double)scan->len * (double)scan->d_inner;
    double shared = (double)scan->batch * (double)scan->len * (double)scan->d_state;
    *bytes = sizeof(float) * ((back ? 7.0 : 4.0) * wide + (back ? 4.0 : 2.0) * shared);
    *exponentials = wide * ((double)scan->d_state + (back ? 5.0 : 3.0));
}

static void cuda_row(CudaBench *bench, const CudaRow *row, bool chosen)
{
    double bytes, units;
    row_floors(&bytes, &units, row->scan, row->back);
    double floor = fmax(bytes / bench->rates.bytes, units / bench->rates.exponentials);
    char name[48], lanes[16] = "", faster[16] = "";
    snprintf(name, sizeof name, "%s%s", row->back ? "backward" : scan_kernel_name[row->plan.kernel],
             chosen ? " *" : "");
    if (row->plan.kernel >= SCAN_FUSED) /* backwards too */
        snprintf(lanes, sizeof lanes, "%u", row->plan.lanes);
    if (!row->back)
        snprintf(faster, sizeof faster, "%.2f", row->channel / row->seconds);
    printf("  %-16s %5s %6zu %10.3f %7.1f %4.0f%% %8.2f %4.0f%% %6.0f%% %9s\n", name, lanes,
           row->plan.pieces, 1e3 * row->seconds, 1e-9 * bytes / row->seconds,
           100.0 * bytes / row->seconds / bench->rates.bytes, 1e-9 * units / row->seconds,
           100.0 * units / row->seconds / bench->rates.exponentials, 100.0 * floor / row->seconds,
           faster);
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
static bool cuda_check(const DeviceScan *on, const float *want, size_t count, Error *error)
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
static size_t cuda_plans(ScanPlan plans[9], const Scan *scan, size_t processors)
{
    size_t count = 0;
    for (int kernel = SCAN_CHANNELS; kernel <= SCAN_TILED; kernel++)
        plans[count++] = scan_plan(scan, (ScanKernel)kernel, processors);
    for (unsigned lanes = lanes_least(scan); lanes <= lanes_most(scan); lanes *= 2) {
        ScanPlan plan = scan_plan(scan, SCAN_FUSED, processors);
        plan.lanes = lanes;
        plans[count++] = plan;
    }
    plans[count++] = scan_plan(scan, SCAN_PIECES, processors);
    return count;
}

static bool cuda_time_forward(CudaBench *bench, const BenchScan *host, Error *error)
{
    const Scan *scan = &host->scan;
    size_t count = scan->batch * scan->len * scan->d_inner;
    ScanPlan plans[9], chosen = scan_plan(scan, SCAN_KERNELS, bench->device.processors);
    size_t n = cuda_plans(plans, scan, bench->device.processors);
    double channel = 0.0;
    for (size_t i = 0; i < n; i++) {
        DeviceBack back; /* its forward half */
        DeviceScan *on = &back.on;
        CudaTimed timed = {TIME_FORWARD, NULL, 0, &back, NULL};
        CudaRow row = {scan, plans[i], false, 0.0, channel};
        bool same = plans[i].kernel == chosen.kernel && plans[i].lanes == chosen.lanes;
        bool ok = device_scan_open(on, scan, &plans[i], error) &&
                  cuda_check(on, host->y, count, error) &&
                  time_kernels(&row.seconds, &timed,
                               plans[i].kernel < SCAN_FUSED ? bench->few : bench->runs, error);
        if (!device_free(&on->memory, ok, error))
            return false;
        channel = i == 0 ? row.seconds : channel;
        row.channel = channel;
        cuda_row(bench, &row, same);
    }
    return true;
}

/* The gradients of u, delta and A by the device against chapter 4's; a way back that is wrong is
   not measured. */
static bool cuda_back_check(const DeviceBack *back, const BenchScan *host, Error *error)
{
    const Scan *scan = &host->scan;
    size_t wide = scan->batch * scan->len * scan->d_inner, A = scan->d_inner * scan->d_state;
    const float *want[3] = {host->grad.u, host->grad.delta, host->grad.A};
    const float *from[3] = {back->grad.u, back->grad.delta, back->grad.A};
    static const char *const name[3] = {"u", "delta", "A"};
    float *got = NEW(float, wide > A ? wide : A);
    selective_scan_backward_fast(&host->grad, host->y_grad, NULL, scan, host->work);
    bool ok = start_forward(&back->on.job, &back->on.plan, error) &&
              start_backward(&back->grad, back->x_last_grad, &back->on.job, &back->plan, error) &&
              cuda_ok(cudaDeviceSynchronize(), "scanning backwards", error);
    for (int i = 0; ok && i < 3; i++) {
        size_t count = i < 2 ? wide : A;
        ok = device_get(got, from[i], count, error);
        double difference = ok ? difference_of(got, want[i], count) : 0.0;
        if (ok && !(difference <= 1e-4))
            ok = fail(error, "backward: dL/d%s differs from chapter 4 by %.3g of the largest",
                      name[i], difference);
    }
    free(got);
    return ok;
}

static bool cuda_time_backward(CudaBench *bench, const BenchScan *host, Error *error)
{
    const Scan *scan = &host->scan;
    DeviceBack back;
    CudaTimed timed = {TIME_BACKWARD, NULL, 0, &back, NULL};
    ScanPlan plan = scan_plan(scan, SCAN_KERNELS, bench->device.processors);
    CudaRow row = {scan, plan, true, 0.0, 0.0};
    bool ok = device_back_open(&back, scan, &plan, &host->grad, host->y_grad, NULL,
                               bench->device.processors, error) &&
              cuda_back_check(&back, host, error) &&
              time_kernels(&row.seconds, &timed, bench->runs, error);
    row.plan = back.plan;
    ok = device_free(&back.on.memory, ok, error);
    if (ok)
        cuda_row(bench, &row, false);
    return ok;
}

/* Whether the device has room for both passes on such a scan; a sentence if it has not. 14 arrays
   of (batch, len, d_inner) and checkpoints every 4 tokens are more than are ever there. */
static bool shape_fits(const size_t size[4], Error *error)
{
    size_t unused = 0, total = 0;
    double wide = (double)size[0] * (double)size[1] * (double)size[2];
    double wanted = wide * (14.0 + 0.25 * (double)size[3]) * sizeof(float);
    if (!cuda_ok(cudaMemGetInfo(&unused, &total), "asking for the GPU's memory", error))
        return false;
    return wanted <= (double)unused || fail(error, "%.1f GB of memory are wanted, %.1f GB are free",
                                            1e-9 * wanted, 1e-9 * (double)unused);
}

/* One shape; one that is too large is left out, and the others go on. */
static bool cuda_shape(CudaBench *bench, const size_t size[4], Error *error)
{
    Error why;
    printf("\nbatch %zu, len %zu, d_inner %zu, d_state %zu\n", size[0], size[1], size[2], size[3]);
    if (!shape_fits(size, &why)) {
        printf("  left out: %s\n", why.text);
        return true;
    }
    BenchScan host = host_scan_new(size);
    selective_scan_fast(host.y, NULL, &host.scan); /* y is checked against */
    puts("  kernel           lanes pieces         ms    GB/s        exp 1e9         floor  kernel "
         "0");
    bool ok = cuda_time_forward(bench, &host, error) && cuda_time_backward(bench, &host, error);
    bench_scan_free(&host);
    bench->shapes++;
    return ok;
}

/* ==================================== Mamba-2 ============================================= */

/* One row: so many chunks to a piece. Floors: u, delta, B and C in and y out once; and the products
   that every way by chunks must make, on tensor cores. */
static void dual_row(const CudaBench *bench, const DualJob *job, double seconds, bool chosen)
{
    const HeadScan *scan = &job->scan;
    double tokens = (double)scan->batch * (double)scan->len, heads = (double)scan->n_head;
    double wide = tokens * heads * (double)scan->d_head, states = (double)scan->d_state;
    double bytes =
        sizeof(float) * (2.0 * wide + tokens * (heads + 2.0 * (double)scan->n_group * states));
    double products = wide * (2.0 * states + SIDE) + tokens * heads * SIDE * states;
    double floor = fmax(bytes / bench->rates.bytes, products / bench->products);
    printf("  %5zu %c %5zu %10.3f %7.1f %4.0f%% %10.1f %4.0f%% %6.0f%%\n", job->piece,
           chosen ? '*' : ' ', job->pieces, 1e3 * seconds, 1e-9 * bytes / seconds,
           100.0 * bytes / seconds / bench->rates.bytes, 1e-12 * products / seconds,
           100.0 * products / seconds / bench->products, 100.0 * floor / seconds);
    fflush(stdout);
    if (bench->csv != NULL)
        fprintf(bench->csv, "\"%s\",%zu,%zu,%zu,%zu,dual,%zu,%zu,%.6g,%.6g,,%.6g\n",
                bench->device.name, scan->batch, scan->len, scan->n_head * scan->d_head,
                scan->d_state, job->piece, job->pieces, 1e3 * seconds, 1e-9 * bytes / seconds,
                floor / seconds);
}

/* A way that gives wrong numbers is not measured: y against chapter 5c's chunks. */
static bool dual_check(const DualJob *job, const float *want, size_t count, Error *error)
{
    float *y = NEW(float, count);
    bool ok = start_dual(job, error) && cuda_ok(cudaDeviceSynchronize(), "scanning", error) &&
              device_get(y, job->y, count, error);
    double difference = ok ? difference_of(y, want, count) : 0.0;
    free(y);
    if (ok && !(difference <= 4e-3))
        return fail(error, "dual: differs from chapter 5c by %.3g of the largest y", difference);
    return ok;
}

/* One way to cut time into pieces. */
static bool dual_time(const CudaBench *bench, const HeadScan *scan, const float *want, size_t piece,
                      bool chosen, Error *error)
{
    DeviceMemory memory;
    DualJob job;
    CudaTimed timed = {TIME_DUAL, NULL, 0, NULL, &job};
    double seconds = 0.0;
    memory.count = 0;
    bool ok = dual_open(&job, &memory, scan, piece, error) &&
              dual_check(&job, want, scan->batch * scan->len * scan->n_head * SIDE, error) &&
              time_kernels(&seconds, &timed, bench->runs, error);
    if (!device_free(&memory, ok, error))
        return false;
    dual_row(bench, &job, seconds, chosen);
    return true;
}

/* Scans over heads of 64 channels, by tensor cores, with few chunks to a piece and with many. */
static bool dual_shape(const CudaBench *bench, const size_t size[4], Error *error)
{
    DemoHeads made = demo_heads_new(size[0], size[1], size[2] / SIDE, SIDE, 1, size[3]);
    size_t chunks = ceil_div(size[1], SIDE),
           best = dual_piece(&made.scan, bench->device.processors);
    float *want = NEW(float, size[0] * size[1] * size[2]);
    bool ok = true;
    printf("\nMamba-2: batch %zu, len %zu, heads %zu of %d, d_state %zu\n", size[0], size[1],
           size[2] / SIDE, SIDE, size[3]);
    puts("  piece  pieces         ms    GB/s       10^12 m-a         floor");
    head_scan_chunked(want, NULL, &made.scan);
    for (size_t piece = 1; ok && piece < best; piece *= 4)
        ok = dual_time(bench, &made.scan, want, piece, false, error);
    ok = ok && dual_time(bench, &made.scan, want, best, true, error);
    if (ok && best < chunks)
        ok = dual_time(bench, &made.scan, want, chunks, false, error);
    free(want);
    free(made.memory);
    return ok;
}

static bool cuda_roofline(const CudaBench *bench, const Show *show, Error *error)
{
    static const char *const names[5] = {"first shape", "second", "third", "fourth", "fifth"};
    double x[ROOF_POINTS], y[ROOF_POINTS];
    roof_line(x, y, &bench->rates);
    Chart chart =
        chart_new(bench->device.name, "exponentials a byte", "10^9 exponentials a second");
    chart.log_x = chart.log_y = true;
    chart_add(&chart, "roof", MARK_LINE, x, y, ROOF_POINTS);
    for (size_t i = 0; i < bench->shapes; i++)
        chart_add(&chart, names[i], MARK_POINTS, &bench->point[0][i], &bench->point[1][i], 1);
    return chart_show(&chart, show, error);
}

static bool cuda_all(CudaBench *bench, const Show *show, Error *error)
{
    static const size_t large[5][4] = {{8, 2048, 2048, 16},
                                       {1, 65536, 2048, 16},
                                       {1, 1048576, 64, 16},
                                       {64, 512, 1536, 16},
                                       {8, 2048, 2048, 128}};
    static const size_t small[5][4] = {
        {2, 64, 64, 16}, {1, 512, 32, 16}, {1, 2048, 4, 16}, {16, 16, 48, 16}, {1, 32, 8, 128}};
    static const size_t heads[3][4] = {{8, 2048, 2048, 128}, {8, 2048, 2048, 64}, {1, 128, 64, 16}};
    if (!measure_rates(&bench->rates, &bench->products, &bench->device, bench->small, error))
        return false;
    printf("%s, %zu processors: %.1f GB/s copied, %.2f 10^9 exponentials a second,\n"
           "%.3f 10^12 multiply-adds by mma_sync\n",
           bench->device.name, bench->device.processors, 1e-9 * bench->rates.bytes,
           1e-9 * bench->rates.exponentials, 1e-12 * bench->products);
    if (bench->small)
        puts("No GPU: these are the times of a CPU that runs the kernels thread by thread. They "
             "say\n"
             "nothing about a GPU; the sizes are small.");
    puts("* chosen; the floor's share of the time; how many times faster than kernel 0");
    for (int i = 0; i < 5; i++)
        if (!cuda_shape(bench, bench->small ? small[i] : large[i], error))
            return false;
    for (int i = bench->small ? 2 : 0; i < (bench->small ? 3 : 2); i++)
        if (!dual_shape(bench, heads[i], error))
            return false;
    return cuda_roofline(bench, show, error);
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

static bool cuda_table(const char *csv, const Show *show, Error *error)
{
    CudaBench bench;
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
    bool ok = cuda_all(&bench, show, error);
    if (csv != NULL && ok)
        return out_close(&out, error);
    if (csv != NULL)
        out_drop(&out);
    return ok;
}

/* ==================================== A scan of any size ================================== */

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

/* --scan: one scan of random numbers, both ways, against chapter 4. */
static bool cuda_one(const size_t size[4], ScanKernel kernel, Error *error)
{
    CudaDevice device;
    if (!cuda_device_open(&device, error))
        return false;
    BenchScan bench = host_scan_new(size);
    ScanPlan plan = scan_plan(&bench.scan, kernel, device.processors);
    size_t wide = size[0] * size[1] * size[2];
    float *want = NEW(float, wide), *y_grad = bench.grad.u;
    double start = seconds_now();
    bool ok = cuda_scan(bench.y, NULL, &bench.scan, kernel, error);
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

/* ==================================== Options and main ==================================== */

int cuda_bench_main(int argc, char **argv)
{
    const char *scan = NULL, *csv = NULL;
    int kernel = SCAN_KERNELS;
    bool ascii = false;
    Show show = {{false, false}, NULL, 1};
    const Option table[] = {
        {"scan", "BATCH,LEN,D_INNER,D_STATE", OPTION_TEXT, 0, 0, &scan, "mode",
         "random numbers of this size through a kernel, forwards and backwards, against chapter 4"},
        {"kernel", "channel|hillis-steele|blelloch|shuffle|tiled|fused|pieces", OPTION_CHOICE, 0, 0,
         &kernel, "scan", "which (default: whichever fits the size)"},
        {"csv", "FILE", OPTION_OUT, 0, 0, &csv, "-", "write the table as CSV too"},
        {"svg", "FILE", OPTION_OUT, 0, 0, &show.svg, "-", "write the roofline as SVG"},
        {"ascii", NULL, OPTION_SWITCH, 0, 0, &ascii, "-", "draw without Unicode"},
    };
    const Program program = {"ch06_bench",
                             "The kernels of chapter 6, measured. Without options: all of them on "
                             "four sizes, against what the device can do.",
                             table, sizeof table / sizeof *table};
    int status;
    if (!program_begin(&status, &program, argc, argv))
        return status;
    Error error;
    size_t size[4];
    if (scan && !sizes_parse(size, scan, &error)) {
        fprintf(stderr, "error: %s\n", error.text);
        program_usage(stderr, &program);
        return 2;
    }
    show.look = look_at_terminal(ascii);
    bool ok = scan ? cuda_one(size, (ScanKernel)kernel, &error) : cuda_table(csv, &show, &error);
    return program_end(ok, &error);
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return cuda_bench_main(argc, argv);
}
#endif

#endif /* CH06_BENCH */
