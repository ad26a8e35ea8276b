/* Probes of chapter 6, on the CPU: random scans by each kernel. tolerance 5e-4 */
#include "../ch06_cuda_scan/cuda_backward.cu"
#include "probe.h"

static float *floats_at_random(size_t count, double least, double most)
{
    float *out = NEW(float, count);
    PROBE_FILL(out, count, least, most);
    return out;
}

/* With forget = 0 the states are sums, and it is all one which step comes first. */
static Scan scan_at_random(size_t batch, size_t len, size_t d_inner, size_t d_state, double forget)
{
    Scan scan;
    memset(&scan, 0, sizeof scan);
    scan.batch = batch, scan.len = len, scan.d_inner = d_inner, scan.d_state = d_state;
    scan.u = floats_at_random(batch * len * d_inner, -1, 1);
    scan.delta = floats_at_random(batch * len * d_inner, -4, 0);
    scan.A = floats_at_random(d_inner * d_state, -2.0 * forget, -0.1 * forget);
    scan.B = floats_at_random(batch * len * d_state, -1, 1);
    scan.C = floats_at_random(batch * len * d_state, -1, 1);
    scan.D = floats_at_random(d_inner, -1, 1);
    scan.x_start = floats_at_random(batch * d_inner * d_state, -1, 1);
    scan.delta_softplus = true;
    return scan;
}

static void scan_say(const Scan *scan, ScanKernel kernel)
{
    size_t wide = scan->batch * scan->len * scan->d_inner;
    size_t states = scan->batch * scan->d_inner * scan->d_state;
    float *y = NEW(float, wide), *x = NEW(float, states);
    Error error;
    if (!cuda_scan(y, x, scan, kernel, &error))
        exit(1);
    for (size_t i = 0; i < wide; i += 1 + wide / 500)
        probe_say((double)y[i]);
    PROBE_SAY_ALL(x, states);
}

typedef struct {
    const float *v;
    float *sum;
    int count;
    unsigned low, high;
} SumsJob;

static void ex6_1_any_sums(void)
{
    Scan scan = scan_at_random(1, probe_whole(257, 600), 2, probe_whole(1, 3), 0);
    scan_say(&scan, SCAN_HILLIS_STEELE);
}

static void ex6_1_any_tiles(void)
{
    Scan scan = scan_at_random(1, probe_whole(257, 600), 2, probe_whole(1, 3), 1);
    scan_say(&scan, SCAN_HILLIS_STEELE);
}

/* How often each thread of the last launch waited for others. */
static unsigned long turns_before;

static unsigned long waits(unsigned threads)
{
    return (cuda_cpu.turns - turns_before) / threads - 1;
}

__global__ void sums_of_a_tile(SumsJob job)
{
    __shared__ ScanPair pair[2][TIME_THREADS];
    pair[0][threadIdx.x].a = 0.5f;
    pair[0][threadIdx.x].b = job.v[threadIdx.x];
    job.sum[threadIdx.x] = pair[hillis_steele(pair)][threadIdx.x].b;
}
KERNEL(sums_of_a_tile, SumsJob)

static void ex6_1_rounds(void)
{
    float sum[TIME_THREADS], *v = floats_at_random(TIME_THREADS, -1, 1);
    SumsJob job = {v, sum, 0, 0, 0};
    dim3 one = {1, 1, 1}, block = {TIME_THREADS, 1, 1};
    turns_before = cuda_cpu.turns;
    LAUNCH(sums_of_a_tile, one, block, 0, job);
    PROBE_SAY_ALL(sum, TIME_THREADS);
    probe_say(waits(TIME_THREADS) >= 8);
}

static void ex6_2_any_sweep(void)
{
    Scan scan = scan_at_random(1, probe_whole(2, 600), 2, probe_whole(1, 3), 1);
    scan_say(&scan, SCAN_BLELLOCH);
}

static void ex6_2_no_bank_is_asked_twice(void)
{
    for (unsigned width = 1; width < SWEEP_TOKENS; width *= 2)
        probe_say((double)sweep_turns(width, SWEEP_TOKENS, swept_place));
}

static void ex6_3_any_sums(void)
{
    Scan scan = scan_at_random(1, probe_whole(33, 300), 3, probe_whole(1, 3), 0);
    scan_say(&scan, SCAN_SHUFFLE);
}

static void ex6_3_any_warps(void)
{
    Scan scan = scan_at_random(1, probe_whole(33, 300), 3, probe_whole(1, 3), 1);
    scan_say(&scan, SCAN_SHUFFLE);
}

__global__ void sums_of_a_warp(SumsJob job)
{
    ScanPair pair = {0.5f, job.v[threadIdx.x]};
    job.sum[threadIdx.x] = warp_scan(pair, threadIdx.x).b;
}
KERNEL(sums_of_a_warp, SumsJob)

static void ex6_3_shuffles(void)
{
    float sum[32], *v = floats_at_random(32, -1, 1);
    SumsJob job = {v, sum, 0, 0, 0};
    dim3 one = {1, 1, 1}, warp = {32, 1, 1};
    turns_before = cuda_cpu.turns;
    LAUNCH(sums_of_a_warp, one, warp, 0, job);
    PROBE_SAY_ALL(sum, 32);
    probe_say(waits(32) <= 10);
}

__global__ void sums_of_lanes(SumsJob job)
{
    float v[8];
    LaneSums sums;
    for (int i = 0; i < 8; i++)
        v[i] = job.v[threadIdx.x * 8 + (unsigned)i];
    if (job.count == 2)
        sums = lane_sums(v, 2, true, job.low, job.high);
    else if (job.count == 4)
        sums = lane_sums(v, 4, true, job.low, job.high);
    else
        sums = lane_sums(v, 8, true, job.low, job.high);
    for (int i = 0; i < sums.count && sums.mine; i++)
        job.sum[threadIdx.x * 8 + (unsigned)(sums.first + i)] = v[i];
}
KERNEL(sums_of_lanes, SumsJob)

static void ex6_4_any_sums(void)
{
    static const unsigned bits[][2] = {{1, 1}, {1, 2}, {1, 16}, {4, 16}, {2, 16}, {16, 16}};
    for (size_t k = 0; k < sizeof bits / sizeof *bits; k++)
        for (int count = 2; count <= 8; count *= 2) {
            float sum[256] = {0}, *v = floats_at_random(256, -1, 1);
            SumsJob job = {v, sum, count, bits[k][0], bits[k][1]};
            dim3 one = {1, 1, 1}, warp = {32, 1, 1};
            LAUNCH(sums_of_lanes, one, warp, 0, job);
            PROBE_SAY_ALL(sum, 256);
        }
}

static void ex6_4_shuffles(void)
{
    for (int count = 2; count <= 8; count *= 2) {
        float sum[256] = {0}, *v = floats_at_random(256, -1, 1);
        SumsJob job = {v, sum, count, 1, 16};
        dim3 one = {1, 1, 1}, warp = {32, 1, 1};
        turns_before = cuda_cpu.turns;
        LAUNCH(sums_of_lanes, one, warp, 0, job);
        PROBE_SAY_ALL(sum, 256);
        probe_say((double)waits(32));
    }
}

static void ex6_5_any_sums(void)
{
    Scan scan = scan_at_random(1, probe_whole(2500, 3500), 2, probe_whole(2, 3), 0);
    scan_say(&scan, SCAN_PIECES);
}

static void ex6_5_any_pieces(void)
{
    Scan scan = scan_at_random(1, probe_whole(2500, 3500), 2, probe_whole(2, 3), 1);
    scan.delta = floats_at_random(scan.len * scan.d_inner, -9, -7); /* it forgets slowly */
    scan_say(&scan, SCAN_PIECES);
}

static void gradients(char of)
{
    for (int k = 0; k < 3; k++) {
        Scan scan = scan_at_random(probe_whole(1, 2), probe_whole(2, 40), probe_whole(1, 9),
                                   probe_whole(1, 17), 1);
        size_t wide = scan.batch * scan.len * scan.d_inner;
        size_t narrow = scan.batch * scan.len * scan.d_state;
        float *y_grad = floats_at_random(wide, -1, 1);
        ScanGrad grad;
        Error error;
        grad.u = NEW(float, wide), grad.delta = NEW(float, wide), grad.z = NEW(float, wide);
        grad.A = NEW(float, scan.d_inner *scan.d_state), grad.B = NEW(float, narrow);
        grad.C = NEW(float, narrow), grad.D = NEW(float, scan.d_inner);
        grad.delta_bias = NEW(float, scan.d_inner);
        grad.x_start = NEW(float, scan.batch *scan.d_inner *scan.d_state);
        if (!cuda_scan_backward(&grad, y_grad, NULL, &scan, &error))
            exit(1);
        if (of == 'u') {
            PROBE_SAY_ALL(grad.u, wide);
            PROBE_SAY_ALL(grad.B, narrow);
            PROBE_SAY_ALL(grad.C, narrow);
            PROBE_SAY_ALL(grad.x_start, scan.batch * scan.d_inner * scan.d_state);
        } else if (of == 'd') {
            PROBE_SAY_ALL(grad.delta, wide);
        } else {
            PROBE_SAY_ALL(grad.A, scan.d_inner * scan.d_state);
        }
    }
}

static void ex6_6_any_gradient_of_what_comes_in(void)
{
    gradients('u');
}

static void ex6_6_any_gradient_of_delta(void)
{
    gradients('d');
}

static void ex6_6_any_gradient_of_A(void)
{
    gradients('A');
}

PROBES = {PROBE(ex6_1_any_sums),
          PROBE(ex6_1_any_tiles),
          PROBE(ex6_1_rounds),
          PROBE(ex6_2_any_sweep),
          PROBE(ex6_2_no_bank_is_asked_twice),
          PROBE(ex6_3_any_sums),
          PROBE(ex6_3_any_warps),
          PROBE(ex6_3_shuffles),
          PROBE(ex6_4_any_sums),
          PROBE(ex6_4_shuffles),
          PROBE(ex6_5_any_sums),
          PROBE(ex6_5_any_pieces),
          PROBE(ex6_6_any_gradient_of_what_comes_in),
          PROBE(ex6_6_any_gradient_of_delta),
          PROBE(ex6_6_any_gradient_of_A)};
PROBES_MAIN
