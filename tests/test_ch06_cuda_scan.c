/* Chapter 6 held against chapter 4 and golden data, every kernel under three orders of threads; and
   cuda_on_cpu.h itself, by kernels with planted mistakes. Built by nvcc, the same tests run on a
   GPU, without those of cuda_on_cpu.h: `make test-cuda`. */

#include "../ch04_selective/selective.c"

/* The language model below is built on this scan. */
static void scan_by_cuda(float *y, float *x_last, const Scan *scan);
#define BLOCK_SCAN scan_by_cuda
#include "../ch06_cuda_scan/cuda_backward.cu"
#include "../ch05_mamba_block/language_model.c"

#include "golden_scan.h"

/* With nvcc and without a GPU there is nothing to test: the test is skipped, and says so. */
static void need_device(void)
{
    CudaDevice device;
    Error error;
    if (!cuda_device_open(&device, &error))
        skip();
}

#define assert_cuda(call) assert_ok((call), error.text)
static void assert_ok(bool ok, const char *text)
{
    if (!ok)
        fail_msg("%s", text);
}

/* ---- scans of random numbers -------------------------------------------------------------- */

enum { HAS_BIAS = 1, HAS_D = 2, HAS_Z = 4, HAS_START = 8, HAS_SOFTPLUS = 16, HAS_ALL = 31 };

typedef struct {
    DemoScan demo;
    Scan scan; /* the same, with what is asked for */
    float *x_start;
    size_t wide, states;
} RandomScan;

static float *signed_floats(size_t count, uint64_t seed)
{
    Random random = random_from_seed(seed);
    float *values = NEW(float, count + 1);
    for (size_t i = 0; i < count; i++)
        values[i] = (float)(2.0 * random_uniform(&random) - 1.0);
    return values;
}

static RandomScan random_scan(const size_t size[4], int has)
{
    RandomScan made;
    made.demo = demo_scan_new(size[0], size[1], size[2], size[3]);
    made.scan = made.demo.scan;
    made.wide = size[0] * size[1] * size[2];
    made.states = size[0] * size[2] * size[3];
    made.x_start = signed_floats(made.states, 7);
    made.scan.x_start = has & HAS_START ? made.x_start : NULL;
    made.scan.delta_softplus = (has & HAS_SOFTPLUS) != 0;
    if (!(has & HAS_BIAS))
        made.scan.delta_bias = NULL;
    if (!(has & HAS_D))
        made.scan.D = NULL;
    if (!(has & HAS_Z))
        made.scan.z = NULL;
    float *delta = (float *)(uintptr_t)made.scan.delta;
    for (size_t i = 0; i < made.wide && !made.scan.delta_softplus; i++)
        delta[i] = 1.5f + 0.25f * delta[i]; /* used as it is, less a bias: 0 or more */
    return made;
}

static void random_scan_free(RandomScan *made)
{
    free(made->demo.memory);
    free(made->x_start);
}

/* One kernel under every order of threads, or only the last: what `want` says to `tolerance`, and
   the same bits. */
static void check_kernel(const Scan *scan, ScanKernel kernel, const float *want,
                         const float *want_last, double tolerance, bool all_orders)
{
    size_t wide = scan->batch * scan->len * scan->d_inner;
    size_t states = scan->batch * scan->d_inner * scan->d_state;
    float *first = NULL;
    Error error;
    for (int order = all_orders ? 0 : orders() - 1; order < orders(); order++) {
        float *y = nan_filled(wide), *x_last = nan_filled(states);
        use_order(order, (uint64_t)order + 11);
        assert_cuda(cuda_scan(y, x_last, scan, kernel, &error));
        assert_relmax(y, want, wide, tolerance);
        assert_relmax(x_last, want_last, states, tolerance);
        assert_guarded(y, wide);
        assert_guarded(x_last, states);
        if (first != NULL)
            assert_memory_equal(y, first, wide * sizeof(float));
        free(x_last);
        if (first == NULL)
            first = y;
        else
            free(y);
    }
    free(first);
    use_order(0, 0);
}

static void check_kernels(const size_t size[4], int has, ScanKernel from, ScanKernel to,
                          double tolerance)
{
    RandomScan made = random_scan(size, has);
    float *want = nan_filled(made.wide), *want_last = nan_filled(made.states);
    selective_scan(want, want_last, &made.scan);
    for (int kernel = from; kernel <= (int)to; kernel++)
        check_kernel(&made.scan, (ScanKernel)kernel, want, want_last, tolerance, made.wide < 5000);
    free(want);
    free(want_last);
    random_scan_free(&made);
}

/* ---- the ladder against chapter 4 --------------------------------------------------------- */

static void every_kernel_is_chapter_4_s_scan_at_odd_sizes(void **state)
{
    (void)state;
    static const size_t sizes[][4] = {{1, 1, 1, 1},   {1, 2, 3, 2},   {2, 31, 5, 3},
                                      {1, 33, 7, 16}, {2, 257, 3, 4}, {1, 513, 1, 5},
                                      {1, 40, 3, 17}, {1, 7, 2, 256}};
    need_device();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        check_kernels(sizes[i], HAS_ALL, SCAN_CHANNELS, SCAN_PIECES, /* D u may cancel C x */
                      3e-5);
}

static void the_fused_kernels_are_chapter_4_s_scan_at_more_sizes(void **state)
{
    (void)state;
    static const size_t sizes[][4] = {
        {2, 100, 131, 16}, {1, 65, 200, 9},   {1, 300, 33, 33}, {3, 129, 40, 8}, {1, 50, 17, 65},
        {1, 1000, 9, 12},  {2, 37, 132, 16},  {1, 700, 8, 12},  {2, 300, 4, 4},  {1, 65, 36, 20},
        {2, 50, 12, 64},   {1, 131, 20, 100}, {1, 37, 8, 128}};
    need_device();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        check_kernels(sizes[i], HAS_ALL, SCAN_FUSED, SCAN_PIECES, 3e-5);
}

/* The layouts that the chooser takes on a GPU of many processors. */
static void every_number_of_lanes_is_chapter_4_s_scan(void **state)
{
    (void)state;
    static const size_t sizes[][4] = {{1, 45, 72, 16}, {1, 45, 72, 8}, {1, 45, 68, 12}};
    need_device();
    for (size_t i = 0; i < 3; i++) {
        RandomScan made = random_scan(sizes[i], HAS_ALL);
        float *want = nan_filled(made.wide), *y = nan_filled(made.wide);
        selective_scan(want, NULL, &made.scan);
        for (unsigned lanes = 1; lanes <= 4; lanes *= 2) {
            ScanPlan plan = scan_plan(&made.scan, SCAN_FUSED, 1);
            DeviceScan on;
            Error error;
            plan.lanes = lanes;
            assert_cuda(device_free(&on.memory,
                                    device_scan_open(&on, &made.scan, &plan, &error) &&
                                        start_forward(&on.job, &plan, &error) &&
                                        cuda_ok(cudaDeviceSynchronize(), "scanning", &error) &&
                                        device_get(y, on.job.y, made.wide, &error),
                                    &error));
            assert_relmax(y, want, made.wide, 1e-5);
        }
        free(want);
        free(y);
        random_scan_free(&made);
    }
}

static void whatever_is_optional_may_be_left_out(void **state)
{
    (void)state;
    static const size_t size[4] = {2, 19, 3, 5}, whole[4] = {1, 19, 4, 4};
    need_device();
    for (int has = 0; has <= HAS_ALL; has++) {
        check_kernels(size, has, SCAN_CHANNELS, SCAN_PIECES, 1e-5);
        check_kernels(whole, has, SCAN_FUSED, SCAN_PIECES, 1e-5);
    }
}

static void a_long_sequence_goes_through_every_kernel(void **state)
{
    (void)state;
    static const size_t narrow[4] = {1, 65537, 1, 1}, wider[4] = {1, 5000, 3, 16};
    need_device();
    check_kernels(narrow, HAS_ALL, SCAN_CHANNELS, SCAN_PIECES, 2e-5);
    check_kernels(wider, HAS_ALL, SCAN_FUSED, SCAN_PIECES, 2e-5);
}

/* Steps of a hundredth: what came in is still felt pieces and tiles later. */
static void ex6_5_what_a_state_carries_crosses_every_tile_and_piece(void **state)
{
    (void)state;
    static const size_t size[4] = {2, 3001, 2, 3};
    need_device();
    RandomScan made = random_scan(size, HAS_ALL);
    float *delta = (float *)(uintptr_t)made.scan.delta;
    float *want = nan_filled(made.wide), *want_last = nan_filled(made.states);
    for (size_t i = 0; i < made.wide; i++)
        delta[i] -= 5.0f;
    selective_scan(want, want_last, &made.scan);
    for (int kernel = 0; kernel < SCAN_KERNELS; kernel++)
        check_kernel(&made.scan, (ScanKernel)kernel, want, want_last, 3e-5, true);
    free(want);
    free(want_last);
    random_scan_free(&made);
}

static void pieces_of_time_are_the_whole(void **state)
{
    (void)state;
    static const size_t size[4] = {3, 1000, 2, 3};
    need_device();
    RandomScan made = random_scan(size, HAS_BIAS | HAS_START | HAS_SOFTPLUS);
    float *want = nan_filled(made.wide), *want_last = nan_filled(made.states);
    selective_scan(want, want_last, &made.scan);
    assert_true(scan_plan(&made.scan, SCAN_PIECES, 132).pieces > CARRY_AHEAD - 2);
    check_kernel(&made.scan, SCAN_PIECES, want, want_last, 1e-5, true);
    free(want);
    free(want_last);
    random_scan_free(&made);
}

/* More pieces than are asked for at once: the plan of a GPU with many processors. */
static void ex6_5_many_pieces_are_the_whole(void **state)
{
    (void)state;
    static const size_t size[4] = {1, 4100, 3, 4};
    need_device();
    RandomScan made = random_scan(size, HAS_ALL);
    float *want = nan_filled(made.wide), *y = nan_filled(made.wide);
    ScanPlan plan = scan_plan(&made.scan, SCAN_PIECES, 132);
    DeviceScan on;
    Error error;
    plan.lanes = 1; /* no sums over lanes: those are another exercise */
    assert_true(plan.pieces > 2 * CARRY_AHEAD);
    selective_scan(want, NULL, &made.scan);
    assert_cuda(device_free(&on.memory,
                            device_scan_open(&on, &made.scan, &plan, &error) &&
                                start_forward(&on.job, &plan, &error) &&
                                cuda_ok(cudaDeviceSynchronize(), "scanning", &error) &&
                                device_get(y, on.job.y, made.wide, &error),
                            &error));
    assert_relmax(y, want, made.wide, 1e-5);
    free(want);
    free(y);
    random_scan_free(&made);
}

static void a_nan_stays_in_its_channel(void **state)
{
    (void)state;
    static const size_t size[4] = {1, 70, 9, 6};
    need_device();
    for (int kernel = 0; kernel < SCAN_KERNELS; kernel++) {
        RandomScan made = random_scan(size, HAS_ALL);
        float *want = nan_filled(made.wide), *y = nan_filled(made.wide);
        Error error;
        selective_scan(want, NULL, &made.scan);
        ((float *)(uintptr_t)made.scan.u)[40 * 9 + 4] = NAN;
        assert_cuda(cuda_scan(y, NULL, &made.scan, (ScanKernel)kernel, &error));
        for (size_t i = 0; i < made.wide; i++)
            if (i % 9 == 4 && i / 9 >= 40)
                assert_true(isnan(y[i]));
            else
                assert_near(y[i], want[i], 1e-4, 1e-5);
        free(want);
        free(y);
        random_scan_free(&made);
    }
}

/* ---- golden data -------------------------------------------------------------------------- */

/* The orders of threads take turns. */
static void use_next_order(void)
{
    static int turn;
    use_order(turn++ % orders(), 5);
}

static void check_golden_forward(const Safetensors *file)
{
    Scan scan;
    golden_scan(&scan, file);
    size_t wide = array_count(&scan, 0), states = array_count(&scan, 8);
    float *want = tokens_first(file, "y"), *want_last = golden_floats(NULL, file, "last_state");
    use_next_order();
    for (int kernel = 0; kernel < SCAN_KERNELS; kernel++) {
        float *y = nan_filled(wide), *x_last = nan_filled(states);
        Error error;
        assert_cuda(cuda_scan(y, x_last, &scan, (ScanKernel)kernel, &error));
        assert_relmax(y, want, wide, golden_tolerance(file));
        assert_relmax(x_last, want_last, states, golden_tolerance(file));
        free(y);
        free(x_last);
    }
    free(want);
    free(want_last);
    scan_free(&scan);
}

static void every_kernel_agrees_with_golden(void **state)
{
    (void)state;
    need_device();
    for_each_golden("ch04_*.safetensors", check_golden_forward);
    use_order(0, 0);
}

static void check_golden_backward(const Safetensors *file)
{
    Scan scan;
    ScanGrad grad;
    Error error;
    golden_scan(&scan, file);
    float *y_grad = tokens_first(file, "g");
    grads_new(&grad, &scan);
    use_next_order();
    assert_cuda(cuda_scan_backward(&grad, y_grad, NULL, &scan, &error));
    for (int i = 0; i < N_ARRAYS; i++) {
        float *want = golden_array(file, "grad.", i);
        if (*scan_array(&scan, i) != NULL && want != NULL)
            assert_relmax_as(gradient_of(array_name[i]), *grad_array(&grad, i), want,
                             array_count(&scan, i), strstr(file->path, "extreme") ? 1e-4 : 5e-5);
        free(want);
    }
    free(y_grad);
    grads_free(&grad, &scan);
    scan_free(&scan);
}

static void ex6_6_every_gradient_agrees_with_golden(void **state)
{
    (void)state;
    need_device();
    for_each_golden("ch04_*.safetensors", check_golden_backward);
    use_order(0, 0);
}

/* ---- backwards ---------------------------------------------------------------------------- */

/* Against chapter 4's clear one, under every order of threads, which give the same bits. */
static void check_backward(const size_t size[4], int has)
{
    RandomScan made = random_scan(size, has);
    float *y_grad = signed_floats(made.wide, 3), *x_last_grad = signed_floats(made.states, 4);
    ScanGrad want, first = {NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL};
    Error error;
    grads_new(&want, &made.scan);
    selective_scan_backward(&want, y_grad, has & HAS_START ? x_last_grad : NULL, &made.scan, NULL);
    for (int order = 0; order < orders(); order++) {
        ScanGrad grad;
        grads_new(&grad, &made.scan);
        use_order(order, (uint64_t)order + 3);
        assert_cuda(cuda_scan_backward(&grad, y_grad, has & HAS_START ? x_last_grad : NULL,
                                       &made.scan, &error));
        for (int i = 0; i < N_ARRAYS; i++) {
            size_t count = array_count(&made.scan, i);
            if (i != 7 || made.scan.z != NULL) /* 5e-5: golden's, for sums in another order */
                assert_relmax_as(gradient_of(array_name[i]), *grad_array(&grad, i),
                                 *grad_array(&want, i), count, 5e-5);
            if (order > 0)
                assert_memory_equal(*grad_array(&grad, i), *grad_array(&first, i),
                                    count * sizeof(float));
        }
        if (order == 0)
            first = grad;
        else
            grads_free(&grad, &made.scan);
    }
    grads_free(&want, &made.scan);
    grads_free(&first, &made.scan);
    use_order(0, 0);
    free(y_grad);
    free(x_last_grad);
    random_scan_free(&made);
}

static void ex6_6_the_backward_pass_is_chapter_4_s_at_odd_sizes(void **state)
{
    (void)state;
    static const size_t sizes[][4] = {{1, 1, 1, 1},    {2, 31, 5, 3},   {1, 33, 40, 16},
                                      {2, 65, 130, 7}, {1, 40, 33, 17}, {1, 9, 5, 256},
                                      {1, 70, 3, 65},  {3, 16, 32, 4},  {2, 37, 132, 12},
                                      {1, 37, 8, 64},  {1, 20, 4, 20}};
    need_device();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        check_backward(sizes[i], i % 2 ? HAS_ALL & ~HAS_Z : HAS_ALL);
    check_backward(sizes[1], 0);
    check_backward(sizes[2], HAS_START);
}

/* 700 tokens of 3 channels are cut into pieces even on one processor. */
static void the_backward_pass_in_pieces_is_chapter_4_s(void **state)
{
    (void)state;
    static const size_t few[4] = {1, 700, 3, 5}, many_states[4] = {2, 500, 1, 20};
    static const size_t whole[4] = {1, 701, 4, 16};
    need_device();
    RandomScan made = random_scan(few, HAS_ALL);
    assert_true(scan_back_plan(&made.scan, 1).pieces > 2);
    random_scan_free(&made);
    check_backward(few, HAS_ALL);
    check_backward(many_states, HAS_ALL);
    check_backward(whole, HAS_ALL);
}

static void gradients_that_are_not_wanted_are_not_written(void **state)
{
    (void)state;
    static const size_t size[4] = {2, 20, 3, 5};
    need_device();
    RandomScan made = random_scan(size, HAS_ALL);
    float *y_grad = signed_floats(made.wide, 3);
    Error error;
    for (int only = 0; only < N_ARRAYS; only++) {
        ScanGrad grad, want = {NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL};
        size_t count = array_count(&made.scan, only);
        memset(&grad, 0, sizeof grad);
        *grad_array(&grad, only) = nan_filled(count);
        *grad_array(&want, only) = nan_filled(count);
        assert_cuda(cuda_scan_backward(&grad, y_grad, NULL, &made.scan, &error));
        selective_scan_backward(&want, y_grad, NULL, &made.scan, NULL);
        assert_relmax(*grad_array(&grad, only), *grad_array(&want, only), count, 5e-5);
        free(*grad_array(&grad, only));
        free(*grad_array(&want, only));
    }
    free(y_grad);
    random_scan_free(&made);
}

/* ---- scans of pairs: the parts of kernels 1 to 3 by themselves ---------------------------- */

typedef struct {
    const float *a, *b;
    float *p, *h; /* the products and the states, as golden has them */
    size_t len;
} PairJob;

DEVICE ScanPair pair_at(const PairJob *job, size_t t)
{
    ScanPair pair = {1.0f, 0.0f};
    if (t < job->len) {
        pair.a = job->a[t];
        pair.b = job->b[t];
    }
    return pair;
}

DEVICE void pair_put(const PairJob *job, size_t t, ScanPair pair)
{
    if (t < job->len) {
        job->p[t] = pair.a;
        job->h[t] = pair.b;
    }
}

__global__ void pairs_hillis_steele(PairJob job)
{
    __shared__ ScanPair pair[2][TIME_THREADS];
    __shared__ ScanPair carry;
    unsigned i = threadIdx.x;
    if (i == 0)
        carry = pair_at(&job, job.len);
    for (size_t t = 0; t < job.len; t += TIME_THREADS) {
        __syncthreads();
        pair[0][i] = pair_at(&job, t + i);
        if (i == 0)
            pair[0][0] = pair_join(carry, pair[0][0]);
        ScanPair upto = pair[hillis_steele(pair)][i];
        pair_put(&job, t + i, upto);
        if (i == TIME_THREADS - 1)
            carry = upto;
    }
}
KERNEL(pairs_hillis_steele, PairJob)

__global__ void pairs_blelloch(PairJob job)
{
    __shared__ float a[SWEEP_ROOM], b[SWEEP_ROOM];
    __shared__ ScanPair carry;
    unsigned i = threadIdx.x;
    if (i == 0)
        carry = pair_at(&job, job.len);
    for (size_t t = 0; t < job.len; t += SWEEP_TOKENS) {
        ScanPair own[2] = {pair_at(&job, t + i), pair_at(&job, t + SWEEP_THREADS + i)};
        __syncthreads();
        if (i == 0)
            own[0] = pair_join(carry, own[0]);
        for (unsigned k = 0; k < 2; k++) {
            a[swept_place(i + k * SWEEP_THREADS)] = own[k].a;
            b[swept_place(i + k * SWEEP_THREADS)] = own[k].b;
        }
        sweep_up_all(a, b);
        sweep_down_all(a, b);
        for (unsigned k = 0; k < 2; k++) {
            unsigned place = swept_place(i + k * SWEEP_THREADS);
            ScanPair before = {a[place], b[place]}, upto = pair_join(before, own[k]);
            pair_put(&job, t + i + k * SWEEP_THREADS, upto);
            if (k == 1 && i == SWEEP_THREADS - 1)
                carry = upto;
        }
    }
}
KERNEL(pairs_blelloch, PairJob)

__global__ void pairs_warp(PairJob job)
{
    ScanPair carry = pair_at(&job, job.len);
    for (size_t t = 0; t < job.len; t += 32) {
        ScanPair upto = pair_join(carry, warp_scan(pair_at(&job, t + threadIdx.x), threadIdx.x));
        pair_put(&job, t + threadIdx.x, upto);
        carry.a = __shfl_sync(ALL_LANES, upto.a, 31);
        carry.b = __shfl_sync(ALL_LANES, upto.b, 31);
    }
}
KERNEL(pairs_warp, PairJob)

/* One of the three, from the host's arrays to the host's. */
static void run_pairs(float *p, float *h, const float *a, const float *b, size_t len, int which)
{
    DeviceMemory memory;
    PairJob job;
    dim3 one = {1, 1, 1}, threads = {which == 0   ? TIME_THREADS
                                     : which == 1 ? SWEEP_THREADS
                                                  : 32u,
                                     1, 1};
    Error error;
    memory.count = 0;
    job.len = len;
    assert_cuda(device_put(&job.a, &memory, a, len, &error) &&
                device_put(&job.b, &memory, b, len, &error) &&
                device_new(&job.p, &memory, len, &error) &&
                device_new(&job.h, &memory, len, &error));
    if (which == 0)
        LAUNCH(pairs_hillis_steele, one, threads, 0, job);
    else if (which == 1)
        LAUNCH(pairs_blelloch, one, threads, 0, job);
    else
        LAUNCH(pairs_warp, one, threads, 0, job);
    assert_cuda(cuda_ok(cudaGetLastError(), "starting", &error) &&
                cuda_ok(cudaDeviceSynchronize(), "pairs", &error) &&
                device_get(p, job.p, len, &error) && device_get(h, job.h, len, &error));
    assert_cuda(device_free(&memory, true, &error));
}

/* How often each of the threads waits for others, at barriers or in shuffles, while a tile or a
   warp of pairs is scanned. Only the CPU counts that. */
static unsigned long waits_of_pairs(int which, size_t len)
{
#ifdef __CUDACC__
    (void)which, (void)len;
    skip();
    return 0;
#else
    float *in = signed_floats(len, 5), *out = nan_filled(2 * len);
    unsigned long before = cuda_cpu.turns;
    run_pairs(out, out + len, in, in, len, which);
    free(in), free(out);
    return (cuda_cpu.turns - before) / len - 1;
#endif
}

/* Another part of the tensor L<len>.<kind>.a. */
static double *golden_pair(const Safetensors *file, const char *name, char part)
{
    char other[64];
    snprintf(other, sizeof other, "%.*s%c", (int)strlen(name) - 1, name, part);
    return golden_doubles(NULL, file, other);
}

static void check_golden_pairs(const Safetensors *file, int which)
{
    size_t checked = 0;
    for (size_t i = 0; i < file->n_tensor; i++) {
        const char *name = file->tensor[i].name;
        size_t len = file->tensor[i].count;
        if (strcmp(name + strlen(name) - 2, ".a") != 0)
            continue;
        double *a = golden_pair(file, name, 'a'), *b = golden_pair(file, name, 'b');
        double *h = golden_pair(file, name, 'h'), *p = golden_pair(file, name, 'p');
        double tolerance = strstr(name, ".decay.") ? 2e-6 : strstr(name, ".mixed.") ? 5e-6 : 5e-5;
        float *in[2] = {NEW(float, len), NEW(float, len)};
        float *out[2] = {nan_filled(len), nan_filled(len)};
        for (size_t t = 0; t < len; t++) {
            in[0][t] = (float)a[t];
            in[1][t] = (float)b[t];
        }
        for (int order = 0; order < orders(); order++) {
            use_order(order, 8);
            run_pairs(out[0], out[1], in[0], in[1], len, which);
            assert_relmax(out[0], p, len, tolerance);
            assert_relmax(out[1], h, len, tolerance);
        }
        free(a), free(b), free(h), free(p);
        free(in[0]), free(in[1]), free(out[0]), free(out[1]);
        checked++;
    }
    use_order(0, 0);
    assert_true(checked > 0);
}

static void check_pairs_hillis_steele(const Safetensors *file)
{
    check_golden_pairs(file, 0);
}

static void ex6_1_hillis_and_steele_agree_with_golden_pairs(void **state)
{
    (void)state;
    need_device();
    for_each_golden("ch06_pairs*.safetensors", check_pairs_hillis_steele);
}

static void ex6_1_a_tile_of_time_is_chapter_4_s_scan(void **state)
{
    (void)state;
    static const size_t size[4] = {1, 300, 2, 2};
    need_device();
    check_kernels(size, HAS_ALL, SCAN_HILLIS_STEELE, SCAN_HILLIS_STEELE, 1e-5);
}

static void ex6_1_all_threads_work_in_rounds(void **state)
{
    (void)state;
    unsigned long waits = waits_of_pairs(0, TIME_THREADS) - 1; /* one is the kernel's own */
    assert_that(waits >= 8, "a thread comes to %lu barriers; %d elements take 8 rounds", waits,
                TIME_THREADS);
}

static void check_pairs_blelloch(const Safetensors *file)
{
    check_golden_pairs(file, 1);
}

static void ex6_2_blelloch_agrees_with_golden_pairs(void **state)
{
    (void)state;
    need_device();
    for_each_golden("ch06_pairs*.safetensors", check_pairs_blelloch);
}

static void ex6_2_every_round_of_the_sweeps_takes_one_turn(void **state)
{
    (void)state;
    bool taken[SWEEP_ROOM] = {false};
    for (unsigned i = 0; i < SWEEP_TOKENS; i++) {
        unsigned place = swept_place(i);
        assert_that(place < SWEEP_ROOM, "element %u lies at %u, but the room ends at %d", i, place,
                    SWEEP_ROOM);
        assert_that(!taken[place], "two elements lie at %u, element %u is one", place, i);
        taken[place] = true;
    }
    for (unsigned width = 1; width < SWEEP_TOKENS; width *= 2)
        assert_that(sweep_turns(width, SWEEP_TOKENS, swept_place) == 1,
                    "in the round of width %u a warp wants elements %u apart, and takes %u turns",
                    width, 2 * width, sweep_turns(width, SWEEP_TOKENS, swept_place));
}

/* A quarter of a warp gets its quads at a time. */
static void lanes_read_neighbouring_quads_from_different_banks(void **state)
{
    (void)state;
    const FusedShape shape = {16, 8, 8, true, true, STRETCH_MANY};
    for (unsigned k = 0; k < 16; k += 4) {
        unsigned word[32], seen = 0;
        for (unsigned i = 0; i < 32; i++) {
            FusedPlace at;
            memset(&at, 0, sizeof at);
            at.part = i / 4;
            word[i] = lane_state(k + i % 4, &at, shape);
            seen += word[i] / 32 == k / 4;
        }
        assert_int_equal(bank_turns(word, 32), 1);
        assert_int_equal(seen, 32); /* and every state is somebody's */
    }
}

static void banks_are_counted_as_by_hand(void **state)
{
    (void)state; /* 32 lanes: a row, one word, every other word, every 32nd, two words of a bank */
    unsigned row[32], same[32], even[32], apart[32], two[3] = {5, 37, 5};
    for (unsigned i = 0; i < 32; i++) {
        row[i] = i + 7;
        same[i] = 3;
        even[i] = 2 * i;
        apart[i] = 32 * i;
    }
    assert_int_equal(bank_turns(row, 32), 1);
    assert_int_equal(bank_turns(same, 32), 1);
    assert_int_equal(bank_turns(even, 32), 2);
    assert_int_equal(bank_turns(apart, 32), 32);
    assert_int_equal(bank_turns(two, 3), 2);
    assert_int_equal(sweep_turns(1, SWEEP_TOKENS, NULL), 2); /* t = 1, 3, 5, ... */
    assert_int_equal(sweep_turns(4, SWEEP_TOKENS, NULL), 8);
}

static void check_pairs_warp(const Safetensors *file)
{
    check_golden_pairs(file, 2);
}

static void ex6_3_a_warp_agrees_with_golden_pairs(void **state)
{
    (void)state;
    need_device();
    for_each_golden("ch06_pairs*.safetensors", check_pairs_warp);
}

static void ex6_3_five_rounds_take_ten_shuffles(void **state)
{
    (void)state;
    unsigned long waits = waits_of_pairs(2, 32) - 2; /* two shuffles are the kernel's own */
    assert_that(waits <= 10, "a lane takes part in %lu shuffles; five rounds of two are 10", waits);
}

/* lane_sums of eight numbers a lane; what each lane holds afterwards. */
typedef struct {
    const float *v; /* (32, 8) */
    float *sum;     /* (32, 8) for each lane, at their numbers; the rest stays */
    int count;
    unsigned low, high;
    bool known;
} LaneJob;

__global__ void lane_sums_try(LaneJob job)
{
    float v[8];
    LaneSums sums;
    for (int i = 0; i < 8; i++)
        v[i] = job.v[threadIdx.x * 8 + (unsigned)i];
    if (job.count == 2)
        sums = lane_sums(v, 2, job.known, job.low, job.high);
    else if (job.count == 4)
        sums = lane_sums(v, 4, job.known, job.low, job.high);
    else
        sums = lane_sums(v, 8, job.known, job.low, job.high);
    for (int i = 0; i < sums.count && sums.mine; i++)
        job.sum[threadIdx.x * 8 + (unsigned)(sums.first + i)] = v[i];
}
KERNEL(lane_sums_try, LaneJob)

/* Lanes that differ in the bits low .. high make a group; every sum is held by one lane of it. */
static void check_lane_sums(const LaneJob *job, const float *v, const float *sum)
{
    for (unsigned lane = 0; lane < 32; lane++)
        for (int i = 0; i < job->count; i++) {
            double want = 0.0;
            unsigned bits = job->high == 0 ? 0 : (2 * job->high - 1) & ~(job->low - 1), holders = 0;
            for (unsigned other = 0; other < 32; other++) {
                if ((other & ~bits) != (lane & ~bits))
                    continue;
                want += (double)v[other * 8 + (unsigned)i];
                holders += !isnan(sum[other * 8 + (unsigned)i]);
            }
            assert_int_equal(holders, 1);
            double got = (double)sum[lane * 8 + (unsigned)i];
            if (!isnan(got)) /* to within eps a term */
                assert_that(fabs(got - want) <= 32 * 6e-8,
                            "number %d as lane %u holds it: %g, expected %g; count %d, bits %u .. "
                            "%u",
                            i, lane, got, want, job->count, job->low, job->high);
        }
}

static void ex6_4_sums_over_lanes_are_complete_and_held_once(void **state)
{
    (void)state;
    static const unsigned bits[][2] = {{1, 0}, {1, 1}, {1, 2}, {1, 16}, {4, 16}, {2, 16}, {16, 16}};
    float *v = signed_floats(256, 9);
    need_device();
    for (size_t k = 0; k < sizeof bits / sizeof *bits; k++)
        for (int count = 2; count <= 8; count *= 2)
            for (int known = 0; known < 2; known++) {
                DeviceMemory memory;
                LaneJob job = {NULL, NULL, count, bits[k][0], bits[k][1], known != 0};
                float *sum = nan_filled(256);
                const float *nothing = NULL;
                dim3 one = {1, 1, 1}, warp = {32, 1, 1};
                Error error;
                memory.count = 0;
                assert_cuda(device_put(&job.v, &memory, v, 256, &error) &&
                            device_put(&nothing, &memory, sum, 256, &error));
                job.sum = (float *)(uintptr_t)nothing;
                LAUNCH(lane_sums_try, one, warp, 0, job);
                assert_cuda(cuda_ok(cudaGetLastError(), "starting", &error) &&
                            cuda_ok(cudaDeviceSynchronize(), "lane sums", &error) &&
                            device_get(sum, job.sum, 256, &error));
                assert_cuda(device_free(&memory, true, &error));
                check_lane_sums(&job, v, sum);
                free(sum);
            }
    free(v);
}

static void ex6_4_four_sums_over_four_lanes_take_three_shuffles(void **state)
{
    (void)state;
#ifdef __CUDACC__
    skip();
#else
    float *v = signed_floats(256, 9), sum[256];
    LaneJob job = {v, sum, 4, 1, 2, true};
    dim3 one = {1, 1, 1}, warp = {32, 1, 1};
    unsigned long before = cuda_cpu.turns;
    LAUNCH(lane_sums_try, one, warp, 0, job);
    assert_int_equal(cudaGetLastError(), cudaSuccess);
    assert_that((cuda_cpu.turns - before) / 32 - 1 == 3, "a lane takes part in %lu shuffles",
                (cuda_cpu.turns - before) / 32 - 1);
    free(v);
#endif
}

/* ---- the chooser, the counts, errors ------------------------------------------------------ */

static Scan sized(size_t batch, size_t len, size_t d_inner, size_t d_state)
{
    Scan scan;
    memset(&scan, 0, sizeof scan);
    scan.batch = batch, scan.len = len, scan.d_inner = d_inner, scan.d_state = d_state;
    return scan;
}

static void the_chooser_looks_at_the_shape(void **state)
{
    (void)state; /* 132 processors want 2112 warps */
    Scan wide = sized(8, 2048, 2048, 16), one = sized(1, 65536, 2048, 16);
    Scan narrow = sized(1, 1048576, 64, 16), many = sized(64, 512, 1536, 16);
    Scan brief = sized(1, 100, 64, 16), large = sized(1, 1000, 64, 200);
    Scan states = sized(8, 2048, 2048, 128), fewer = sized(1, 1000, 64, 20);
    ScanPlan plan = scan_plan(&wide, SCAN_KERNELS, 132);
    assert_int_equal(plan.kernel, SCAN_FUSED);
    assert_int_equal(plan.lanes, 4); /* 16384 channels are 512 warps; four times that is 2048 */
    assert_int_equal(plan.pieces, 1);
    plan = scan_plan(&one, SCAN_KERNELS, 132);
    assert_int_equal(plan.kernel, SCAN_PIECES);
    assert_int_equal(plan.lanes, 1);   /* lanes are the dearer way, once time is cut */
    assert_int_equal(plan.pieces, 33); /* 33 times 64 warps */
    plan = scan_plan(&narrow, SCAN_KERNELS, 132);
    assert_int_equal(plan.kernel, SCAN_PIECES);
    assert_true(plan.pieces > 100 && plan.piece_len % PIECE_UNIT == 0);
    assert_true((plan.pieces - 1) * plan.piece_len < narrow.len);
    assert_true(plan.pieces * plan.piece_len >= narrow.len);
    plan = scan_plan(&many, SCAN_KERNELS, 132);
    assert_int_equal(plan.kernel, SCAN_FUSED);
    assert_int_equal(plan.lanes, 1);
    assert_int_equal(scan_plan(&brief, SCAN_KERNELS, 132).kernel, SCAN_FUSED);
    assert_int_equal(scan_plan(&large, SCAN_KERNELS, 132).lanes, 32);
    assert_int_equal(scan_plan(&states, SCAN_KERNELS, 132).lanes, 8); /* of 16 states each */
    assert_int_equal(scan_plan(&fewer, SCAN_KERNELS, 132).lanes, 4);
    states.d_inner = 2047; /* 4 divides no row */
    assert_int_equal(scan_plan(&states, SCAN_KERNELS, 132).lanes, 16);
}

#ifdef CUDA_ON_CPU
/* e^v = 2^(v log2 e) is off by the rounding of its exponent, which grows with v. */
static void softplus_without_a_division_is_softplus(void **state)
{
    (void)state;
    for (int i = -8000; i <= 8000; i++) {
        double v = 0.0125 * i;
        float got = softplus_unit((float)v), s = sigmoid_unit((float)v);
        assert_near(got, log1p(exp(-fabs(v))) + fmax(v, 0.0), 1e-38, 3e-7 + 1.2e-7 * fabs(v));
        assert_near(s, 1.0 / (1.0 + exp(-v)), 1e-38, 3e-7 + 1.2e-7 * fabs(v));
    }
    assert_true(sigmoid_unit(-200.0f) == 0.0f && sigmoid_unit(200.0f) == 1.0f);
    assert_true(softplus_unit(-200.0f) == 0.0f && softplus_unit(200.0f) == 200.0f);
}
#endif

static void work_is_counted_as_by_hand(void **state)
{
    (void)state; /* eight steps: 7; 7 + 6 + 4; 4 + 2 + 1 up, as many down, and 8 */
    assert_int_equal(work_of_loop(8).joins, 7);
    assert_int_equal(work_of_hillis_steele(8).joins, 17);
    assert_int_equal(work_of_hillis_steele(8).depth, 3);
    assert_int_equal(work_of_blelloch(8).joins, 22);
    assert_int_equal(work_of_blelloch(8).depth, 7);
    assert_int_equal(work_of_shuffle(128, SHUFFLE_ITEMS).joins,
                     32 * 8 + (31 + 30 + 28 + 24 + 16) + 32);
}

static void what_no_kernel_takes_is_named(void **state)
{
    (void)state;
    static const size_t sizes[][4] = {{1, 3, 2, 257}, {1, 3, 2, 0}, {1, 0, 2, 2}};
    static const char *const sentences[] = {"d_state 257: the kernels take 1 to 256",
                                            "d_state 0: the kernels take 1 to 256",
                                            "a scan without tokens or channels"};
    for (int i = 0; i < 3; i++) {
        Scan scan = sized(sizes[i][0], sizes[i][1], sizes[i][2], sizes[i][3]);
        ScanGrad grad;
        Error error;
        memset(&grad, 0, sizeof grad);
        assert_false(cuda_scan(NULL, NULL, &scan, SCAN_KERNELS, &error));
        assert_contains(error.text, sentences[i]);
        assert_false(cuda_scan_backward(&grad, NULL, NULL, &scan, &error));
        assert_contains(error.text, sentences[i]);
    }
}

/* ---- the language model on the kernels ---------------------------------------------------- */

static ScanKernel model_kernel;
static int model_scans;

static void scan_by_cuda(float *y, float *x_last, const Scan *scan)
{
    Error error;
    model_scans++;
    assert_cuda(cuda_scan(y, x_last, scan, model_kernel, &error));
}

static void the_language_model_s_logits_come_out_by_every_kernel(void **state)
{
    (void)state;
    Safetensors file;
    MambaConfig config;
    const Tensor *shape;
    Error error;
    need_device();
    char *paths[3] = {golden_path("ch05_lm/config.json"), golden_path("ch05_lm/model.safetensors"),
                      golden_path("ch05_lm/golden.safetensors")};
    assert_cuda(config_read(&config, paths[0], &error));
    Model model = model_new(&config);
    assert_cuda(model_load(&model, paths[1], &error));
    golden_open(&file, paths[2]);
    double *numbers = golden_doubles(&shape, &file, "ids");
    float *want = golden_floats(NULL, &file, "logits");
    int32_t *ids = NEW(int32_t, shape->count);
    for (size_t i = 0; i < shape->count; i++)
        ids[i] = (int32_t)numbers[i];
    ModelWork work = model_work_new(&model, shape->shape[0], shape->shape[1], false);
    for (int kernel = 0; kernel <= SCAN_KERNELS; kernel++) {
        model_kernel = (ScanKernel)kernel;
        model_scans = 0;
        model_forward(&work, NULL, ids, &model);
        assert_int_equal(model_scans, config.num_hidden_layers);
        assert_relmax(work.logits, want, shape->count * (size_t)config.vocab_size, 2e-5);
    }
    for (int i = 0; i < 3; i++)
        free(paths[i]);
    free(numbers), free(want), free(ids);
    model_work_free(&work);
    model_free(&model);
    safetensors_close(&file);
}

/* ---- cuda_on_cpu.h by itself -------------------------------------------------------------- */
#ifdef CUDA_ON_CPU

/* What the kernels below are given. */
typedef struct {
    float *out;
    unsigned *seen;
    int what;
} TryJob;

static dim3 sizes_of(unsigned x, unsigned y, unsigned z)
{
    dim3 size = {x, y, z};
    return size;
}

/* The error text that a launch left, or NULL. */
static const char *launch_error(void)
{
    cudaError_t error = cudaGetLastError();
    return error == cudaSuccess ? NULL : cudaGetErrorString(error);
}

static void a_barrier_too_few_shows_in_another_order(void **state)
{
    (void)state;
    bool differs = false;
    for (int order = 0; order < 3; order++) {
        float right, wrong;
        Error error;
        use_order(order, 1);
        assert_cuda(race_run(&right, true, false, &error) &&
                    race_run(&wrong, false, false, &error));
        assert_true(right == RACE_THREADS);
        differs = differs || !(wrong == RACE_THREADS);
    }
    use_order(0, 0);
    assert_true(differs);
}

enum { LINE_OF_PARTED = __LINE__ + 9, LINE_OF_SHUFFLE = __LINE__ + 13 };

/* Ways to wait for somebody who does not come. */
__global__ void try_waiting(TryJob job)
{
    unsigned i = threadIdx.x;
    if (job.what == 0 && i >= 40) /* some return before the barrier */
        return;
    if (job.what <= 1 && (job.what == 0 || i < 10)) /* or only some come to it */
        __syncthreads();
    if (job.what == 2 && i == 3) /* or one lane is missing in a shuffle */
        return;
    if (job.what == 2)
        job.out[i] = __shfl_xor_sync(ALL_LANES, 1.0f, 1);
    if (job.what == 3 && i < 32) /* or the warps wait at different barriers */
        __syncthreads();
    if (job.what == 3)
        __syncthreads();
    if (job.what == 4) /* or a lane calls with a mask without itself */
        __syncwarp();
    if (job.what == 4 && i == 5)
        job.out[i] = __shfl_sync(0xfu, 1.0f, 0);
    if (job.what == 5 && i < 4) /* or reads a lane that takes no part */
        job.out[i] = __shfl_sync(0xfu, 1.0f, 9);
}
KERNEL(try_waiting, TryJob)

static void a_wait_for_nobody_is_named_by_block_thread_and_line(void **state)
{
    (void)state;
    static const char *const sentences[6] = {
        "in __syncthreads, but thread (40, 0, 0) has returned",
        "in __syncthreads, but thread (10, 0, 0) has returned",
        "in __shfl_xor_sync, but thread (3, 0, 0) has returned",
        "in __syncthreads, but thread (32, 0, 0) waits at",
        "lane 5 calls __shfl_sync with the mask 0x0000000f, in which it is not",
        "__shfl_sync reads lane 9, which takes no part"};
    float out[64];
    for (int order = 0; order < 3; order++)
        for (int what = 0; what < 6; what++) {
            TryJob job = {out, NULL, what};
            char line[64];
            use_order(order, 4);
            LAUNCH(try_waiting, sizes_of(3, 1, 1), sizes_of(64, 1, 1), 0, job);
            const char *text = launch_error();
            assert_non_null(text);
            assert_contains(text, sentences[what]);
            assert_contains(text, order == 0 ? "block (0, 0, 0)" : "block (");
            assert_contains(text, "test_ch06_cuda_scan.c:");
            snprintf(line, sizeof line, "test_ch06_cuda_scan.c:%d in",
                     what == 2 ? LINE_OF_SHUFFLE : LINE_OF_PARTED);
            if (what <= 2)
                assert_contains(text, line);
            assert_null(launch_error()); /* an error is told once */
        }
    use_order(0, 0);
}

/* Shared memory as a block finds it. */
__global__ void try_unwritten(TryJob job)
{
    __shared__ float fixed[64];
    DYNAMIC_SHARED(float, shared);
    unsigned at = blockIdx.x * 64 + threadIdx.x;
    job.out[at] = fixed[threadIdx.x];
    job.out[128 + at] = shared[threadIdx.x];
    __syncthreads();
    fixed[threadIdx.x] = shared[threadIdx.x] = 1.0f; /* not to be seen by the next block */
}
KERNEL(try_unwritten, TryJob)

static void unwritten_shared_memory_reads_as_nan(void **state)
{
    (void)state;
    float out[256] = {0};
    TryJob job = {out, NULL, 0};
    LAUNCH(try_unwritten, sizes_of(2, 1, 1), sizes_of(64, 1, 1), 64 * sizeof(float), job);
    assert_null(launch_error());
    for (int i = 0; i < 256; i++)
        assert_true(isnan(out[i]));
    float *memory;
    assert_int_equal(cudaMalloc((void **)&memory, 4 * sizeof(float)), cudaSuccess);
    assert_true(isnan(memory[0]) && isnan(memory[3]));
    cudaFree(memory);
}

/* Every thread of every block once, whatever the order, with the indices that CUDA gives it. */
__global__ void try_indices(TryJob job)
{
    unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    unsigned threads = blockDim.x * blockDim.y * blockDim.z;
    atomicAdd(&job.seen[block * threads + thread], 1u);
    __syncthreads();
    if (threadIdx.x == 1 && threadIdx.y == 2 && threadIdx.z == 0)
        atomicAdd(&job.seen[5 * 3 * 2 * 7 * 5 * 3], thread == 1 + 2 * 7 ? 1u : 1000u);
}
KERNEL(try_indices, TryJob)

static void every_thread_runs_once_in_every_order(void **state)
{
    (void)state;
    enum { THREADS = 7 * 5 * 3, ALL = 5 * 3 * 2 * THREADS };
    for (int order = 0; order < 3; order++) {
        unsigned *seen = NEW(unsigned, ALL + 1);
        TryJob job = {NULL, seen, 0};
        use_order(order, 99);
        LAUNCH(try_indices, sizes_of(5, 3, 2), sizes_of(7, 5, 3), 0, job);
        assert_null(launch_error());
        for (int i = 0; i < ALL; i++)
            assert_int_equal(seen[i], 1);
        assert_int_equal(seen[ALL], 5 * 3 * 2);
        free(seen);
    }
    use_order(0, 0);
}

/* Shuffles and votes in two warps, the second of 8 threads. */
__global__ void try_lanes(TryJob job)
{
    unsigned i = threadIdx.x, lane = i % 32, mask = i < 32 ? ALL_LANES : 0xffu;
    float *out = job.out + i * 8;
    out[0] = __shfl_up_sync(mask, (float)i, 3);
    out[1] = i < 32 ? __shfl_down_sync(ALL_LANES, (float)i, 2) : 0.0f;
    out[2] = __shfl_xor_sync(mask, (float)i, 5);
    out[3] = __shfl_sync(mask, (float)i, 6);
    out[4] = __ballot_sync(mask, lane % 3 == 0) == (i < 32 ? 0x49249249u : 0x49u);
    out[5] = (float)(__any_sync(mask, lane == 4) + 2 * __any_sync(mask, lane > 31));
    out[6] = (float)(__all_sync(mask, lane < 32) + 2 * __all_sync(mask, lane != 4));
    __syncwarp(mask);
    if (lane < 4) /* four lanes among themselves, and with whole numbers */
        out[7] = (float)__shfl_xor_sync(0xfu, (int)i, 3);
}
KERNEL(try_lanes, TryJob)

static void shuffles_and_votes_are_those_of_cuda(void **state)
{
    (void)state;
    float out[40 * 8];
    for (int order = 0; order < 3; order++) {
        TryJob job = {out, NULL, 0};
        use_order(order, 13);
        LAUNCH(try_lanes, sizes_of(1, 1, 1), sizes_of(40, 1, 1), 0, job);
        assert_null(launch_error());
        for (int i = 0; i < 40; i++) {
            int lane = i % 32;
            const float *got = out + i * 8;
            assert_true(got[0] == (lane >= 3 ? i - 3 : i));
            assert_true(got[1] == (i >= 32 ? 0 : lane + 2 < 32 ? i + 2 : i));
            assert_true(got[2] == i - lane + (lane ^ 5));
            assert_true(got[3] == i - lane + 6);
            assert_true(got[4] == 1 && got[5] == 1 && got[6] == 1);
            if (lane < 4)
                assert_true(got[7] == i - lane + (lane ^ 3));
        }
    }
    use_order(0, 0);
}

__global__ void try_atomics(TryJob job)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(&job.seen[0], i);
    atomicMax(&job.seen[1], i);
    atomicMin(&job.seen[2], i);
    if (atomicCAS(&job.seen[3], 0u, i + 1) == 0)
        atomicExch(&job.seen[4], i + 1);
    atomicAdd(&job.out[0], 0.5f);
}
KERNEL(try_atomics, TryJob)

static void atomics_lose_nothing(void **state)
{
    (void)state;
    unsigned seen[5] = {0, 0, 1000, 0, 0};
    float out = 0.0f;
    TryJob job = {&out, seen, 0};
    use_order(CUDA_CPU_SHUFFLED, 2);
    LAUNCH(try_atomics, sizes_of(4, 1, 1), sizes_of(50, 1, 1), 0, job);
    use_order(0, 0);
    assert_null(launch_error());
    assert_int_equal(seen[0], 199 * 200 / 2);
    assert_int_equal(seen[1], 199);
    assert_int_equal(seen[2], 0);
    assert_true(seen[3] > 0 && seen[3] == seen[4]);
    assert_true(out == 100.0f);
}

/* Copies in three batches, looked at before and after they are waited for. */
__global__ void try_copies(TryJob job)
{
    __shared__ float tile[4];
    const float from[4] = {1.0f, 2.0f, 3.0f, 4.0f};
    for (int i = 0; i < 3; i++) {
        __pipeline_memcpy_async(&tile[i], &from[i], sizeof(float), 0);
        __pipeline_commit();
    }
    __pipeline_memcpy_async(&tile[3], &from[3], sizeof(float), sizeof(float)); /* a zero */
    __pipeline_commit();
    __pipeline_wait_prior(2);
    for (int i = 0; i < 4; i++)
        job.out[i] = tile[i];
    __pipeline_wait_prior(0);
    for (int i = 0; i < 4; i++)
        job.out[4 + i] = tile[i];
}
KERNEL(try_copies, TryJob)

static void asynchronous_copies_arrive_when_they_are_waited_for(void **state)
{
    (void)state;
    float out[8];
    TryJob job = {out, NULL, 0};
    LAUNCH(try_copies, sizes_of(1, 1, 1), sizes_of(1, 1, 1), 0, job);
    assert_null(launch_error());
    assert_true(out[0] == 1.0f && out[1] == 2.0f && isnan(out[2]) && isnan(out[3]));
    assert_true(out[4] == 1.0f && out[5] == 2.0f && out[6] == 3.0f && out[7] == 0.0f);
}

static void launches_that_no_gpu_takes_are_refused(void **state)
{
    (void)state;
    const struct {
        dim3 grid, block;
        size_t shared;
    } cases[] = {{{0, 1, 1}, {32, 1, 1}, 0},    {{1, 1, 1}, {0, 1, 1}, 0},
                 {{1, 1, 1}, {1025, 1, 1}, 0},  {{1, 1, 1}, {32, 33, 1}, 0},
                 {{1, 70000, 1}, {1, 1, 1}, 0}, {{1, 1, 1}, {1, 1, 1}, 228 * 1024}};
    float out[8];
    TryJob job = {out, NULL, 0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        LAUNCH(try_copies, cases[i].grid, cases[i].block, cases[i].shared, job);
        assert_int_equal(cudaGetLastError(), cudaErrorInvalidConfiguration);
    }
}

#ifdef CUDA_CPU_ASAN
__global__ void try_beyond(TryJob job)
{
    DYNAMIC_SHARED(float, shared);
    if (job.what == 0)
        job.out[4] = 1.0f; /* of 4 */
    else
        shared[threadIdx.x] = 1.0f; /* of 8, by 9 threads */
}
KERNEL(try_beyond, TryJob)

static void accesses_beyond_an_array_end_the_program_under_asan(void **state)
{
    (void)state;
    for (int what = 0; what < 2; what++) {
        pid_t child = fork();
        if (child == 0) {
            TryJob job = {NULL, NULL, what};
            if (freopen("/dev/null", "w", stderr) != NULL &&
                cudaMalloc((void **)&job.out, 4 * sizeof(float)) == cudaSuccess)
                LAUNCH(try_beyond, sizes_of(1, 1, 1), sizes_of(9, 1, 1), 8 * sizeof(float), job);
            _exit(0);
        }
        int status = 0;
        assert_true(waitpid(child, &status, 0) == child);
        assert_true(!WIFEXITED(status) || WEXITSTATUS(status) != 0);
    }
}
#endif

/* With too little memory for the first array, for the second, ...: a sentence, and nothing kept. */
static void too_little_memory_is_said_and_nothing_is_kept(void **state)
{
    (void)state;
    static const size_t size[4] = {2, 300, 3, 5};
    RandomScan made = random_scan(size, HAS_ALL);
    float *y = nan_filled(made.wide), *y_grad = signed_floats(made.wide, 3);
    ScanGrad grad;
    Error error;
    size_t refusals = 0, before = cuda_cpu.bytes;
    for (int i = 0; i < N_ARRAYS; i++)
        *grad_array(&grad, i) = nan_filled(array_count(&made.scan, i));
    for (size_t room = 1;; room += 1500) {
        cuda_cpu_memory(room);
        bool ok = cuda_scan_backward(&grad, y_grad, NULL, &made.scan, &error) &&
                  cuda_scan(y, NULL, &made.scan, SCAN_PIECES, &error);
        cuda_cpu_memory(0);
        assert_int_equal(cuda_cpu.bytes, before);
        if (ok)
            break;
        assert_contains(error.text, "the GPU has too little memory: ");
        assert_contains(error.text, " MB are free");
        assert_true(isnan(y[0]));
        refusals++;
    }
    assert_true(refusals > 20);
    for (int i = 0; i < N_ARRAYS; i++)
        free(*grad_array(&grad, i));
    free(y);
    free(y_grad);
    random_scan_free(&made);
}

static void wrong_options_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *program, *words, *sentence;
        int exit;
    } cases[] = {
        {"ch06_cuda_scan", "--nonsense", "'--nonsense' is not an option", 2},
        {"ch06_cuda_scan", "x", "'x' is not an option", 2},
        {"ch06_cuda_scan", "--seed -1", "--seed", 2},
        {"ch06_cuda_scan", "--demo ladder --device", "exclude each other", 2},
        {"ch06_cuda_scan", "--device --seed 1", "--seed does nothing with --device", 2},
        {"ch06_cuda_scan", "--svg x.svg", "--svg needs --demo", 2},
        {"ch06_cuda_scan", "--demo race --svg x.svg", "needs --demo work or --demo banks or", 2},
        {"ch06_cuda_scan", "--demo work --seed 2", "--seed does nothing with --demo work", 2},
        {"ch06_cuda_scan", "--demo weather --seed 2", "nothing with --demo weather", 2},
        {"ch06_cuda_scan", "--demo ladder --ascii", "nothing with --demo ladder", 2},
        {"ch06_cuda_scan", "--demo race --ascii", "nothing with --demo race", 2},
        {"ch06_cuda_scan", "--demo nothing", "'nothing' is none of ladder", 2},
        {"ch06_cuda_scan", "--demo banks --svg no/such/folder/x.svg", "no/such/folder", 1},
        {"ch06_cuda_scan", "--device", "built without nvcc", 1},
        {"ch06_cuda_backward", "--nonsense", "'--nonsense' is not an option", 2},
        {"ch06_cuda_backward", "--seed x", "--seed", 2},
        {"ch06_bench", "--nonsense", "'--nonsense' is not an option", 2},
        {"ch06_bench", "--scan 1,2,3,4 --csv x.csv", "--csv does nothing with --scan", 2},
        {"ch06_bench", "--kernel fused", "--kernel needs --scan", 2},
        {"ch06_bench", "--scan 1,2,3,4 --kernel fast", "'fast' is none of channel, hillis", 2},
        {"ch06_bench", "--scan 1,2,3", "'1,2,3' is not four sizes", 2},
        {"ch06_bench", "--scan 1,2,3,4,5", "'1,2,3,4,5' is not four sizes", 2},
        {"ch06_bench", "--scan 1,2,3,x", "--scan: d_state: 'x'", 2},
        {"ch06_bench", "--scan 1,0,3,4", "--scan: len: 0", 2},
        {"ch06_bench", "--scan 1,2,3,257", "--scan: d_state: 257", 2},
        {"ch06_bench", "--scan 4096,4194304,65536,1", "more than 268435456", 2},
        {"ch06_bench", "--csv no/such/folder/x.csv", "no/such/folder", 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_command_says(cases[i].program, cases[i].words, cases[i].sentence, cases[i].exit);
}

static void the_bench_takes_a_scan_of_any_size(void **state)
{
    (void)state;
    static const char *const words[] = {"--scan 1,1,1,1", "--scan 2,300,5,16",
                                        "--scan 1,300,5,40 --kernel shuffle"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        char text[2048];
        assert_int_equal(run_program(text, sizeof text, "ch06_bench", words[i]), 0);
        assert_int_equal(text[0], 0);
    }
}

#endif /* CUDA_ON_CPU */

int main(void)
{
    const struct CMUnitTest tests[] = {
#ifdef CUDA_CPU_ASAN
        cmocka_unit_test(accesses_beyond_an_array_end_the_program_under_asan),
#endif
#ifdef CUDA_ON_CPU
        cmocka_unit_test(a_barrier_too_few_shows_in_another_order),
        cmocka_unit_test(softplus_without_a_division_is_softplus),
        cmocka_unit_test(a_wait_for_nobody_is_named_by_block_thread_and_line),
        cmocka_unit_test(unwritten_shared_memory_reads_as_nan),
        cmocka_unit_test(every_thread_runs_once_in_every_order),
        cmocka_unit_test(shuffles_and_votes_are_those_of_cuda),
        cmocka_unit_test(atomics_lose_nothing),
        cmocka_unit_test(asynchronous_copies_arrive_when_they_are_waited_for),
        cmocka_unit_test(launches_that_no_gpu_takes_are_refused),
        cmocka_unit_test(too_little_memory_is_said_and_nothing_is_kept),
        cmocka_unit_test(wrong_options_are_named),
        cmocka_unit_test(the_bench_takes_a_scan_of_any_size),
#endif
        cmocka_unit_test(every_kernel_agrees_with_golden),
        cmocka_unit_test(every_kernel_is_chapter_4_s_scan_at_odd_sizes),
        cmocka_unit_test(the_fused_kernels_are_chapter_4_s_scan_at_more_sizes),
        cmocka_unit_test(every_number_of_lanes_is_chapter_4_s_scan),
        cmocka_unit_test(whatever_is_optional_may_be_left_out),
        cmocka_unit_test(a_long_sequence_goes_through_every_kernel),
        cmocka_unit_test(ex6_5_what_a_state_carries_crosses_every_tile_and_piece),
        cmocka_unit_test(a_nan_stays_in_its_channel),
        cmocka_unit_test(ex6_1_hillis_and_steele_agree_with_golden_pairs),
        cmocka_unit_test(ex6_1_a_tile_of_time_is_chapter_4_s_scan),
        cmocka_unit_test(ex6_1_all_threads_work_in_rounds),
        cmocka_unit_test(ex6_2_blelloch_agrees_with_golden_pairs),
        cmocka_unit_test(ex6_2_every_round_of_the_sweeps_takes_one_turn),
        cmocka_unit_test(lanes_read_neighbouring_quads_from_different_banks),
        cmocka_unit_test(banks_are_counted_as_by_hand),
        cmocka_unit_test(ex6_3_a_warp_agrees_with_golden_pairs),
        cmocka_unit_test(ex6_3_five_rounds_take_ten_shuffles),
        cmocka_unit_test(ex6_4_sums_over_lanes_are_complete_and_held_once),
        cmocka_unit_test(ex6_4_four_sums_over_four_lanes_take_three_shuffles),
        cmocka_unit_test(pieces_of_time_are_the_whole),
        cmocka_unit_test(ex6_5_many_pieces_are_the_whole),
        cmocka_unit_test(ex6_6_every_gradient_agrees_with_golden),
        cmocka_unit_test(ex6_6_the_backward_pass_is_chapter_4_s_at_odd_sizes),
        cmocka_unit_test(the_backward_pass_in_pieces_is_chapter_4_s),
        cmocka_unit_test(gradients_that_are_not_wanted_are_not_written),
        cmocka_unit_test(the_chooser_looks_at_the_shape),
        cmocka_unit_test(work_is_counted_as_by_hand),
        cmocka_unit_test(what_no_kernel_takes_is_named),
        cmocka_unit_test(the_language_model_s_logits_come_out_by_every_kernel),
    };
    return cmocka_run_group_tests_name("chapter 6", tests, NULL, NULL);
}
