/* Chapter 4 held against golden data, finite differences, chapters 1 to 3, and itself: the fast
   scan against the clear one, the parallel ones against the loop. */

#include "../ch04_selective/fast_scan.c"
#include "golden_scan.h"

typedef void ScanForward(float *y, float *x_last, const Scan *scan);
typedef void ScanBackward(const ScanGrad *grad, const float *y_grad, const float *x_last_grad,
                          const Scan *scan, float *work);

/* ---- golden data --------------------------------------------------------------------------- */

static void check_forward(const Safetensors *file, ScanForward *forward)
{
    Scan scan;
    golden_scan(&scan, file);
    size_t wide = array_count(&scan, 0), states = array_count(&scan, 8);
    float *y = nan_filled(wide), *x_last = nan_filled(states);
    float *want = tokens_first(file, "y"), *want_last = golden_floats(NULL, file, "last_state");
    forward(y, x_last, &scan);
    assert_relmax(y, want, wide, golden_tolerance(file));
    assert_relmax(x_last, want_last, states, golden_tolerance(file));
    assert_guarded(y, wide);
    assert_guarded(x_last, states);
    free(want);
    free(want_last);
    if (golden_has(file, "y_pre")) { /* the same without the gate */
        const float *z = scan.z;
        want = tokens_first(file, "y_pre");
        scan.z = NULL;
        forward(y, NULL, &scan);
        assert_relmax(y, want, wide, golden_tolerance(file));
        scan.z = z;
        free(want);
    }
    free(y);
    free(x_last);
    scan_free(&scan);
}

static void check_clear(const Safetensors *file)
{
    check_forward(file, selective_scan);
}

static void ex4_2_the_clear_scan_agrees_with_golden(void **state)
{
    (void)state;
    for_each_golden("ch04_*.safetensors", check_clear);
}

/* One token of one sequence as a scan of its own; `token` counts through the batch. */
static Scan one_token(const Scan *scan, size_t token)
{
    Scan one = *scan;
    one.batch = one.len = 1;
    one.u += token * scan->d_inner;
    one.delta += token * scan->d_inner;
    one.B += token * scan->d_state;
    one.C += token * scan->d_state;
    one.z = scan->z ? scan->z + token * scan->d_inner : NULL;
    return one;
}

static void check_states(const Safetensors *file)
{
    if (!golden_has(file, "h"))
        return;
    Scan scan;
    golden_scan(&scan, file);
    size_t states = scan.d_inner * scan.d_state;
    float *h = golden_floats(NULL, file, "h"), *y = NEW(float, scan.d_inner);
    float *x = nan_filled(states);
    for (size_t b = 0; b < scan.batch; b++) {
        for (size_t i = 0; i < states; i++)
            x[i] = scan.x_start ? scan.x_start[b * states + i] : 0.0f;
        for (size_t t = 0; t < scan.len; t++) {
            Scan token = one_token(&scan, b * scan.len + t);
            selective_scan_step(y, x, &token);
            assert_relmax(x, h + (t * scan.batch + b) * states, states, 1e-5);
        }
    }
    free(h);
    free(y);
    free(x);
    scan_free(&scan);
}

static void every_state_of_the_step_agrees_with_golden(void **state)
{
    (void)state;
    for_each_golden("ch04_*.safetensors", check_states);
}

static void check_steps(const Safetensors *file)
{
    Scan scan;
    golden_scan(&scan, file);
    size_t count = array_count(&scan, 0);
    float *want = tokens_first(file, "delta_eff"), *got = nan_filled(count);
    for (size_t i = 0; i < count; i++)
        got[i] = step_size(&scan, i / scan.d_inner, i % scan.d_inner);
    assert_relmax_as("the step sizes", got, want, count, golden_tolerance(file));
    if (strstr(file->path, "raw80") || strstr(file->path, "tiny_softplus"))
        assert_all_near(got, want, count, 0, 1e-5); /* and each by itself, small as it is */
    free(want);
    free(got);
    scan_free(&scan);
}

static void ex4_1_softplus_agrees_with_golden_at_every_size(void **state)
{
    (void)state;
    for_each_golden("ch04_*.safetensors", check_steps);
}

static void check_backward(const Safetensors *file, ScanBackward *backward)
{
    Scan scan;
    ScanGrad grad;
    golden_scan(&scan, file);
    grads_new(&grad, &scan);
    float *y_grad = tokens_first(file, "g");
    backward(&grad, y_grad, NULL, &scan, NULL);
    double tolerance = strstr(file->path, "extreme") ? 1e-4 : 5e-5;
    for (int i = 0; i < N_ARRAYS; i++) {
        float *want = golden_array(file, "grad.", i);
        if (*scan_array(&scan, i) != NULL && want != NULL) {
            assert_relmax_as(gradient_of(array_name[i]), *grad_array(&grad, i), want,
                             array_count(&scan, i), tolerance);
        }
        free(want);
    }
    free(y_grad);
    grads_free(&grad, &scan);
    scan_free(&scan);
}

static void check_clear_backward(const Safetensors *file)
{
    check_backward(file, selective_scan_backward);
}

static void ex4_3_the_clear_backward_pass_agrees_with_golden(void **state)
{
    (void)state;
    for_each_golden("ch04_*.safetensors", check_clear_backward);
}

static void check_fast(const Safetensors *file)
{
    check_forward(file, selective_scan_fast);
}

static void the_fast_scan_agrees_with_golden(void **state)
{
    (void)state;
    for_each_golden("ch04_*.safetensors", check_fast);
}

static void check_fast_backward(const Safetensors *file)
{
    check_backward(file, selective_scan_backward_fast);
}

static void the_fast_backward_pass_agrees_with_golden(void **state)
{
    (void)state;
    for_each_golden("ch04_*.safetensors", check_fast_backward);
}

/* ---- random scans --------------------------------------------------------------------------- */

/* Which optional parts a random scan has. */
enum { HAS_BIAS = 1, HAS_D = 2, HAS_Z = 4, HAS_START = 8, HAS_SOFTPLUS = 16, HAS_ALL = 31 };

static float *random_array(size_t count, double low, double high, Random *random)
{
    float *values = NEW(float, count + 1);
    for (size_t i = 0; i < count; i++)
        values[i] = (float)(low + (high - low) * random_uniform(random));
    return values;
}

static Scan random_scan(size_t batch, size_t len, size_t d_inner, size_t d_state, int has,
                        uint64_t seed)
{
    static const double range[N_ARRAYS][2] = {{-1, 1}, {-3, 1}, {-1, 1}, {-4, -0.1}, {-1, 1},
                                              {-1, 1}, {-1, 1}, {-3, 3}, {-1, 1}};
    Random random = random_from_seed(seed);
    Scan scan;
    memset(&scan, 0, sizeof scan);
    scan.batch = batch;
    scan.len = len;
    scan.d_inner = d_inner;
    scan.d_state = d_state;
    scan.delta_softplus = has & HAS_SOFTPLUS;
    bool present[N_ARRAYS] = {true,
                              true,
                              (has & HAS_BIAS) != 0,
                              true,
                              true,
                              true,
                              (has & HAS_D) != 0,
                              (has & HAS_Z) != 0,
                              (has & HAS_START) != 0};
    for (int i = 0; i < N_ARRAYS; i++) {
        bool step = i == 1 && !scan.delta_softplus; /* a step that is used as it is: positive */
        if (present[i])
            *scan_array(&scan, i) = random_array(array_count(&scan, i), step ? 1.0 : range[i][0],
                                                 step ? 2.0 : range[i][1], &random);
    }
    return scan;
}

/* Sizes that divide nothing; few enough to be gone through with every check. */
static const size_t odd_sizes[][4] = {/* batch, len, d_inner, d_state */
                                      {1, 1, 1, 1},    {1, 2, 3, 2},    {2, 31, 17, 3},
                                      {1, 33, 33, 16}, {3, 65, 1, 17},  {1, 100, 5, 33},
                                      {1, 7, 16, 256}, {2, 64, 48, 4},  {1, 3, 2, 257},
                                      {1, 257, 31, 5}, {2, 32, 300, 1}, {1, 40, 130, 31}};
enum { N_ODD = sizeof odd_sizes / sizeof *odd_sizes };

typedef void ScanCheck(const Scan *scan);

static void for_odd_scans(ScanCheck *check)
{
    for (int i = 0; i < N_ODD; i++)
        for (int has = 0; has <= HAS_ALL; has += i % 3 == 0 ? 1 : 31) {
            const size_t *size = odd_sizes[i];
            Scan scan = random_scan(size[0], size[1], size[2], size[3], has, (uint64_t)(i + 1));
            check(&scan);
            scan_free(&scan);
        }
}

/* The scan in double and in one piece, another hand's writing of the same formulas: what the
   chapter is held against where golden data have no such sizes. */
static double loss_in_double(const Scan *scan, const float *y_grad, const float *x_last_grad)
{
    double loss = 0.0;
    for (size_t b = 0; b < scan->batch; b++)
        for (size_t d = 0; d < scan->d_inner; d++)
            for (size_t n = 0; n < scan->d_state; n++) {
                size_t state = (b * scan->d_inner + d) * scan->d_state + n;
                double x = scan->x_start ? (double)scan->x_start[state] : 0.0;
                for (size_t token = b * scan->len; token < (b + 1) * scan->len; token++) {
                    size_t at = token * scan->d_inner + d, shared = token * scan->d_state + n;
                    double s = scan->delta[at], u = scan->u[at], gate = 1.0;
                    s += scan->delta_bias ? (double)scan->delta_bias[d] : 0.0;
                    if (scan->delta_softplus)
                        s = log1p(exp(s));
                    if (scan->z)
                        gate = scan->z[at] / (1.0 + exp(-(double)scan->z[at]));
                    x = exp(s * scan->A[d * scan->d_state + n]) * x + s * scan->B[shared] * u;
                    double y = scan->C[shared] * x;
                    if (n == 0 && scan->D)
                        y += scan->D[d] * u;
                    loss += y * gate * y_grad[at];
                }
                loss += x_last_grad ? x * x_last_grad[state] : 0.0;
            }
    return loss;
}

static double loss_of(ScanForward *forward, const Scan *scan, const float *y_grad,
                      const float *x_last_grad)
{
    size_t wide = array_count(scan, 0), states = array_count(scan, 8);
    float *y = nan_filled(wide), *x_last = nan_filled(states);
    double loss = 0.0;
    forward(y, x_last, scan);
    for (size_t i = 0; i < wide; i++)
        loss += (double)y[i] * y_grad[i];
    for (size_t i = 0; i < states && x_last_grad; i++)
        loss += (double)x_last[i] * x_last_grad[i];
    assert_guarded(y, wide);
    assert_guarded(x_last, states);
    free(y);
    free(x_last);
    return loss;
}

static void check_loss(const Scan *scan)
{
    Random random = random_from_seed(5);
    size_t wide = array_count(scan, 0), states = array_count(scan, 8);
    float *y_grad = random_array(wide, -1, 1, &random);
    float *x_last_grad = random_array(states, -1, 1, &random);
    double want = loss_in_double(scan, y_grad, x_last_grad);
    double allowed = 2e-6 * sqrt((double)((wide + states) * scan->d_state)); /* eps a term */
    assert_near(loss_of(selective_scan, scan, y_grad, x_last_grad), want, allowed, 2e-6);
    assert_near(loss_of(selective_scan_fast, scan, y_grad, x_last_grad), want, allowed, 2e-6);
    assert_near(loss_of(selective_scan_in_time, scan, y_grad, x_last_grad), want, allowed, 2e-6);
    free(y_grad);
    free(x_last_grad);
}

static void every_scan_agrees_with_one_written_in_double(void **state)
{
    (void)state;
    for_odd_scans(check_loss);
}

/* ---- clear against fast --------------------------------------------------------------------- */

static void check_fast_is_clear(const Scan *scan)
{
    static ScanForward *const others[] = {selective_scan_fast, selective_scan_in_time};
    size_t wide = array_count(scan, 0), states = array_count(scan, 8);
    float *want = nan_filled(wide), *want_last = nan_filled(states);
    selective_scan(want, want_last, scan);
    for (int i = 0; i < 2; i++) {
        float *y = nan_filled(wide), *x_last = nan_filled(states);
        others[i](y, x_last, scan);
        assert_relmax(y, want, wide, 3e-5); /* where D u nearly cancels C x, little is left */
        assert_relmax(x_last, want_last, states, 3e-5);
        assert_guarded(y, wide);
        assert_guarded(x_last, states);
        others[i](y, NULL, scan); /* the last state is optional */
        assert_relmax(y, want, wide, 3e-5);
        free(y);
        free(x_last);
    }
    float *x_last = nan_filled(states);
    selective_scan_fast(NULL, x_last, scan); /* and so is y */
    assert_relmax(x_last, want_last, states, 3e-5);
    free(x_last);
    free(want);
    free(want_last);
}

static void the_fast_scans_are_the_clear_one_at_any_size(void **state)
{
    (void)state;
    for_odd_scans(check_fast_is_clear);
}

static void time_in_pieces_is_the_clear_scan_over_many_stretches(void **state)
{
    (void)state;
    Scan scan = random_scan(2, 3001, 5, 3, HAS_ALL, 2);
    float *delta = (float *)(uintptr_t)scan.delta;
    for (size_t i = 0; i < array_count(&scan, 1); i++)
        delta[i] -= 5.0f; /* steps of a hundredth: what came in is still felt pieces later */
    check_fast_is_clear(&scan);
    scan_free(&scan);
}

static void no_tokens_leave_the_state_as_it_was(void **state)
{
    (void)state;
    static ScanForward *const all[] = {selective_scan, selective_scan_fast, selective_scan_in_time};
    Scan scan = random_scan(2, 0, 19, 5, HAS_ALL, 3);
    size_t states = array_count(&scan, 8);
    for (int i = 0; i < 3; i++) {
        float *x_last = nan_filled(states), guard = 7.0f;
        all[i](&guard, x_last, &scan);
        assert_memory_equal(x_last, scan.x_start, states * sizeof(float));
        assert_true(guard == 7.0f);
        free(x_last);
    }
    scan_free(&scan);
}

static void arrays_may_start_at_any_address(void **state)
{
    (void)state;
    Scan scan = random_scan(1, 37, 21, 6, HAS_ALL, 4), moved = scan;
    size_t wide = array_count(&scan, 0);
    float *memory[N_ARRAYS], *want = nan_filled(wide), *room = nan_filled(wide + 1);
    for (int i = 0; i < N_ARRAYS; i++) {
        size_t count = array_count(&scan, i);
        memory[i] = NEW(float, count + 1);
        memcpy(memory[i] + 1, *scan_array(&scan, i), count * sizeof(float));
        *scan_array(&moved, i) = memory[i] + 1;
    }
    selective_scan_fast(want, NULL, &scan);
    selective_scan_fast(room + 1, NULL, &moved);
    assert_memory_equal(room + 1, want, wide * sizeof(float));
    for (int i = 0; i < N_ARRAYS; i++)
        free(memory[i]);
    free(want);
    free(room);
    scan_free(&scan);
}

/* Cuts a sequence into three pieces with the state handed on, in the array it came in. */
static void in_pieces(float *y, float *x, const Scan *scan, ScanForward *forward)
{
    size_t cuts[4] = {0, scan->len / 3, scan->len / 3 + 1, scan->len};
    for (int i = 0; i < 3; i++) {
        Scan piece = scan_piece(scan, 0, cuts[i], cuts[i + 1]);
        piece.x_start = x;
        forward(y + cuts[i] * scan->d_inner, x, &piece);
    }
}

static void pieces_with_the_state_handed_on_are_the_whole_bit_for_bit(void **state)
{
    (void)state;
    static ScanForward *const both[] = {selective_scan, selective_scan_fast};
    Scan scan = random_scan(1, 97, 35, 7, HAS_ALL, 8);
    size_t wide = array_count(&scan, 0), states = array_count(&scan, 8);
    for (int i = 0; i < 2; i++) {
        float *whole = nan_filled(wide), *last = nan_filled(states);
        float *y = nan_filled(wide), *x = nan_filled(states);
        both[i](whole, last, &scan);
        memcpy(x, scan.x_start, states * sizeof(float));
        in_pieces(y, x, &scan, both[i]);
        assert_memory_equal(y, whole, wide * sizeof(float));
        assert_memory_equal(x, last, states * sizeof(float));
        free(whole);
        free(last);
        free(y);
        free(x);
    }
    scan_free(&scan);
}

static void steps_are_the_scan_bit_for_bit(void **state)
{
    (void)state;
    Scan scan = random_scan(1, 41, 9, 6, HAS_ALL, 9);
    size_t wide = array_count(&scan, 0), states = array_count(&scan, 8);
    float *whole = nan_filled(wide), *last = nan_filled(states), *y = nan_filled(wide);
    float *x = nan_filled(states);
    selective_scan(whole, last, &scan);
    memcpy(x, scan.x_start, states * sizeof(float));
    for (size_t t = 0; t < scan.len; t++) {
        Scan token = one_token(&scan, t);
        selective_scan_step(y + t * scan.d_inner, x, &token);
    }
    assert_memory_equal(y, whole, wide * sizeof(float));
    assert_memory_equal(x, last, states * sizeof(float));
    free(whole);
    free(last);
    free(y);
    free(x);
    scan_free(&scan);
}

static void ex4_2_the_lesson_s_two_steps_by_hand(void **state)
{
    (void)state; /* x = 1/2 * 4 + 1 * 3 = 5 and 2 * 5 + 10 = 20; then x = 1/4 * 5 + 2 * 2 = 5.25 */
    const float u[2] = {3, 1}, delta[2] = {1, 2}, A[1] = {-0.693147181f}, B[2] = {1, 2},
                C[2] = {2, 4};
    const float D[1] = {10.0f / 3}, x_start[1] = {4};
    float y[2], x[1];
    Scan scan = {1, 2, 1, 1, u, delta, NULL, A, B, C, D, NULL, x_start, NULL, false};
    selective_scan(y, x, &scan);
    assert_near_as("y after the first token", y[0], 20.0, 1e-5, 0);
    assert_near_as("x after both tokens", x[0], 5.25, 1e-5, 0);
    assert_near_as("y after both tokens", y[1], 4 * 5.25 + 10.0 / 3, 1e-5, 0);
}

static void the_step_takes_a_batch(void **state)
{
    (void)state;
    Scan scan = random_scan(3, 1, 5, 4, HAS_ALL, 10);
    size_t wide = array_count(&scan, 0), states = array_count(&scan, 8);
    float *whole = nan_filled(wide), *last = nan_filled(states), *y = nan_filled(wide);
    float *x = nan_filled(states);
    selective_scan(whole, last, &scan);
    memcpy(x, scan.x_start, states * sizeof(float));
    selective_scan_step(y, x, &scan);
    assert_memory_equal(y, whole, wide * sizeof(float));
    assert_memory_equal(x, last, states * sizeof(float));
    free(whole);
    free(last);
    free(y);
    free(x);
    scan_free(&scan);
}

static void a_nan_stays_in_its_channel(void **state)
{
    (void)state;
    static ScanForward *const all[] = {selective_scan, selective_scan_fast, selective_scan_in_time};
    for (int i = 0; i < 3; i++)
        for (int which = 0; which < N_ARRAYS; which++) {
            if (which == 4 || which == 5) /* B and C belong to all channels */
                continue;
            Scan scan = random_scan(1, 50, 20, 3, HAS_ALL, 11);
            float *values = (float *)(uintptr_t)*scan_array(&scan, which), y[50 * 20];
            size_t per_channel = which == 3 || which == 8 ? scan.d_state : 1;
            values[13 * per_channel] =
                NAN; /* channel 13, at the first token where there are many */
            all[i](y, NULL, &scan);
            for (size_t d = 0; d < scan.d_inner; d++)
                assert_true((isnan(y[d]) != 0) == (d == 13));
            for (size_t d = 0; d < scan.d_inner; d++) /* what came once by z has gone again */
                assert_true((isnan(y[49 * 20 + d]) != 0) == (d == 13 && which != 7));
            scan_free(&scan);
        }
}

static void growth_and_wild_steps_agree_with_the_clear_scan(void **state)
{
    (void)state; /* outside the range in which the fast exponential is unguarded */
    Scan scan = random_scan(1, 40, 23, 3, 0, 12);
    float *delta = (float *)(uintptr_t)scan.delta, *A = (float *)(uintptr_t)scan.A;
    for (size_t i = 0; i < array_count(&scan, 1); i++)
        delta[i] = i % 7 == 0 ? 1e30f : i % 5 == 0 ? 60.0f : i % 3 == 0 ? -0.5f : delta[i];
    for (size_t i = 0; i < array_count(&scan, 3); i++)
        A[i] = i % 4 == 0 ? 0.0f : i % 11 == 0 ? -1e-20f : A[i];
    float clear[40 * 23], fast[40 * 23];
    selective_scan(clear, NULL, &scan);
    selective_scan_fast(fast, NULL, &scan);
    for (size_t i = 0; i < 40 * 23; i++)
        assert_near(fast[i], clear[i], 1e-3, 1e-3); /* grown by exp(60), and so has rounding */
    A[0] = 10.0f;                                   /* exp(10 * 1e30) */
    delta[0] = 1e30f;
    selective_scan_fast(fast, NULL, &scan);
    selective_scan(clear, NULL, &scan);
    assert_true(isfinite(clear[0]) == isfinite(fast[0]));
    scan_free(&scan);
}

#ifdef _OPENMP
static void the_bits_do_not_depend_on_the_threads(void **state)
{
    (void)state;
    static ScanForward *const both[] = {selective_scan_fast, selective_scan_in_time};
    Scan scan = random_scan(2, 150, 300, 6, HAS_ALL, 13);
    size_t wide = array_count(&scan, 0);
    int most = omp_get_max_threads();
    for (int i = 0; i < 2; i++) {
        float *one = nan_filled(wide), *many = nan_filled(wide);
        omp_set_num_threads(1);
        both[i](one, NULL, &scan);
        for (int threads = 2; threads <= 5; threads++) {
            omp_set_num_threads(threads);
            both[i](many, NULL, &scan);
            assert_memory_equal(many, one, wide * sizeof(float));
        }
        free(one);
        free(many);
    }
    ScanGrad first, other;
    grads_new(&first, &scan);
    grads_new(&other, &scan);
    omp_set_num_threads(1);
    selective_scan_backward_fast(&first, scan.u, NULL, &scan, NULL);
    for (int threads = 2; threads <= 5; threads++) {
        omp_set_num_threads(threads);
        selective_scan_backward_fast(&other, scan.u, NULL, &scan, NULL);
        for (int i = 0; i < N_ARRAYS; i++)
            assert_memory_equal(*grad_array(&other, i), *grad_array(&first, i),
                                array_count(&scan, i) * sizeof(float));
    }
    omp_set_num_threads(most);
    grads_free(&first, &scan);
    grads_free(&other, &scan);
    scan_free(&scan);
}
#endif

/* ---- the exponentials ----------------------------------------------------------------------- */

/* How many units in the last place of `want` lie between. */
static double ulps(float got, double want)
{
    int exponent;
    frexp(want, &exponent);
    return fabs((double)got - want) / ldexp(1.0, exponent - 24);
}

static void lanes_exp_is_within_2_ulp_from_minus_87_to_0(void **state)
{
    (void)state; /* every 61st float, a prime, from -87 to -1e-9; the rest is 1 to the last bit */
    const ExpTable table = exp_table();
    double worst = 0.0;
    uint32_t bits = 0x30800000, last = 0x42ae0000; /* 9.3e-10 and 87 */
    while (bits < last) {
        Lanes v, e;
        for (int i = 0; i < LANES; i++, bits += 61) {
            uint32_t negative = bits | 0x80000000u;
            memcpy((char *)&v + 4 * i, &negative, 4);
        }
        e = lanes_exp(v, table);
        for (int i = 0; i < LANES; i++)
            if (v[i] >= -87.0f)
                worst = fmax(worst, ulps(e[i], exp((double)v[i])));
    }
    assert_true(worst <= 2.0);
    assert_true(worst > 0.5); /* it has been looked at */
    assert_true(lanes_exp(lanes_all(0.0f), table)[0] == 1.0f);
    assert_true(lanes_exp(lanes_all(-1e30f), table)[0] == 0.0f);
    assert_true(lanes_exp(lanes_all(-INFINITY), table)[0] == 0.0f);
    assert_true(isnan(lanes_exp(lanes_all(NAN), table)[0]));
}

static void exp2_of_a_product_is_within_2_ulp(void **state)
{
    (void)state;
    const ExpTable table = exp_table();
    Random random = random_from_seed(17);
    double worst = 0.0;
    for (int k = 0; k < 200000; k++) {
        Lanes a, b;
        for (int i = 0; i < LANES; i++) {
            double product = (k % 2 ? 252.0 : 4.0) * (random_uniform(&random) - 0.5);
            a[i] = (float)exp(random_normal(&random));
            b[i] = (float)(product / (double)a[i]);
        }
        Lanes power = exp2_product(a, b, table), any = exp2_product_any(a, b, table);
        for (int i = 0; i < LANES; i++) {
#ifdef LANES_FUSED
            double product = (double)a[i] * (double)b[i];
#else /* the product is rounded first */
            double product = (double)(a[i] * b[i]);
#endif
            worst = fmax(worst, ulps(power[i], exp2(product)));
        }
        assert_memory_equal(&any, &power, sizeof any);
    }
    assert_near(worst, 1.0, 1.0, 0);
    Lanes one = lanes_all(1.0f);
    assert_true(exp2_product_any(one, lanes_all(-127.5f), table)[0] == 0.0f);
    assert_true(exp2_product_any(one, lanes_all(-1e38f), table)[0] == 0.0f);
    assert_true(exp2_product_any(lanes_all(-INFINITY), one, table)[0] == 0.0f);
    assert_true(isinf(exp2_product_any(one, lanes_all(128.0f), table)[0]));
    assert_true(isinf(exp2_product_any(one, lanes_all(INFINITY), table)[0]));
    assert_true(isnan(exp2_product_any(one, lanes_all(nanf("77")), table)[0]));
}

/* Functions in double that do not lose small values either. */
static double softplus_in_double(double v)
{
    return fmax(v, 0.0) + log1p(exp(-fabs(v)));
}

static double sigmoid_in_double(double v)
{
    return v < 0.0 ? exp(v) / (1.0 + exp(v)) : 1.0 / (1.0 + exp(-v));
}

static void ex4_1_softplus_and_silu_are_right_at_every_float(void **state)
{
    (void)state; /* both signs, from 1e-38 to 1e38, every 9973rd float */
    const ExpTable table = exp_table();
    for (uint32_t bits = 0x00800000; bits < 0x7f7fffff; bits += 9973)
        for (int sign = 0; sign < 2; sign++) {
            uint32_t signed_bits = bits | (uint32_t)sign << 31;
            float v;
            memcpy(&v, &signed_bits, sizeof v);
            double plus = softplus_in_double(v), gate = sigmoid_in_double(v);
            char what[64];
            snprintf(what, sizeof what, "softplus(%g)", (double)v);
            assert_near_as(what, softplus(v), plus, 1e-44, 3e-7);
            assert_near(sigmoid(v), gate, 1e-44, 3e-7);
            assert_near(silu(v), v * gate, 1e-42, 3e-7);
            assert_near(lanes_softplus(lanes_all(v), table)[0], plus, 1.2e-38, 6e-7);
            assert_near(lanes_sigmoid(lanes_all(v), table)[0], gate, 1.2e-38, 6e-7);
            double slope = gate * (1.0 + v * sigmoid_in_double(-v));
            assert_near(silu_slope(v), slope, 1e-7, 1e-6); /* 0 at -1.28: absolute there */
            assert_near(lanes_silu_slope(lanes_all(v), table)[0], slope, 1e-7, 1e-6);
        }
    assert_near(softplus(1000.0f), 1000.0, 0, 0);
    assert_near(softplus(-1000.0f), 0.0, 0, 0);
    assert_near(softplus(-18.42068f), 1e-8, 0, 3e-6);
    assert_near(softplus(0.0f), log(2.0), 0, 1e-7);
    assert_true(isinf(softplus(INFINITY)));
    assert_true(isnan(softplus(NAN)) && isnan(silu(NAN)) && isnan(sigmoid(NAN)));
    assert_true(isnan(lanes_softplus(lanes_all(NAN), table)[0]));
    assert_true(isnan(lanes_sigmoid(lanes_all(NAN), table)[0]));
}

/* ---- backwards ------------------------------------------------------------------------------ */

static void check_fast_backward_is_clear(const Scan *scan)
{
    Random random = random_from_seed(21);
    ScanGrad want, got;
    float *y_grad = random_array(array_count(scan, 0), -1, 1, &random);
    float *x_last_grad = random_array(array_count(scan, 8), -1, 1, &random);
    grads_new(&want, scan);
    grads_new(&got, scan);
    selective_scan_backward(&want, y_grad, x_last_grad, scan, NULL);
    selective_scan_backward_fast(&got, y_grad, x_last_grad, scan, NULL);
    for (int i = 0; i < N_ARRAYS; i++)
        if (i != 7 || scan->z) /* z's gradient is left alone where there is no gate */
            assert_relmax_as(gradient_of(array_name[i]), *grad_array(&got, i),
                             *grad_array(&want, i), array_count(scan, i), 2e-5);
        else
            for (size_t k = 0; k < array_count(scan, i); k++)
                assert_true(isnan(got.z[k]) && isnan(want.z[k])); /* as grad_new left it */
    grads_free(&want, scan);
    grads_free(&got, scan);
    free(y_grad);
    free(x_last_grad);
}

static void the_fast_backward_pass_is_the_clear_one_at_any_size(void **state)
{
    (void)state;
    for_odd_scans(check_fast_backward_is_clear);
}

/* Every gradient against (loss(v + h) - loss(v - h)) / 2h of the scan in double. */
static void check_finite_differences(const Scan *scan, ScanBackward *backward)
{
    Random random = random_from_seed(22);
    ScanGrad grad;
    Scan moved = *scan;
    float *y_grad = random_array(array_count(scan, 0), -1, 1, &random);
    float *x_last_grad = random_array(array_count(scan, 8), -1, 1, &random);
    grads_new(&grad, scan);
    backward(&grad, y_grad, x_last_grad, scan, NULL);
    for (int which = 0; which < N_ARRAYS; which++) {
        size_t count = array_count(scan, which);
        const float *values = *scan_array(&moved, which);
        if (!values)
            continue;
        float *copy = NEW(float, count);
        double *slope = NEW(double, count);
        memcpy(copy, values, count * sizeof(float));
        *scan_array(&moved, which) = copy;
        for (size_t i = 0; i < count; i++) {
            float low = values[i] - 1e-3f, high = values[i] + 1e-3f;
            copy[i] = high;
            double above = loss_in_double(&moved, y_grad, x_last_grad);
            copy[i] = low;
            double below = loss_in_double(&moved, y_grad, x_last_grad);
            copy[i] = values[i];
            slope[i] = (above - below) / ((double)high - (double)low);
        }
        assert_relmax_as(gradient_of(array_name[which]), *grad_array(&grad, which), slope, count,
                         1e-4); /* h^2, float sums */
        *scan_array(&moved, which) = values;
        free(copy);
        free(slope);
    }
    grads_free(&grad, scan);
    free(y_grad);
    free(x_last_grad);
}

static void ex4_3_every_gradient_is_the_slope_of_the_loss(void **state)
{
    (void)state;
    for (int has = 0; has <= HAS_ALL; has++) {
        Scan scan = random_scan(2, 5, 3, 2, has, 30 + (uint64_t)has);
        check_finite_differences(&scan, selective_scan_backward);
        check_finite_differences(&scan, selective_scan_backward_fast);
        scan_free(&scan);
    }
}

static void ex4_3_gradients_that_are_not_wanted_are_not_written(void **state)
{
    (void)state;
    static ScanBackward *const both[] = {selective_scan_backward, selective_scan_backward_fast};
    Scan scan = random_scan(1, 20, 18, 3, HAS_ALL, 31);
    for (int i = 0; i < 2; i++)
        for (int only = 0; only < N_ARRAYS; only++) {
            ScanGrad all, one;
            grads_new(&all, &scan);
            memset(&one, 0, sizeof one);
            size_t count = array_count(&scan, only);
            *grad_array(&one, only) = nan_filled(count);
            both[i](&all, scan.u, NULL, &scan, NULL);
            both[i](&one, scan.u, NULL, &scan, NULL);
            assert_that(memcmp(*grad_array(&one, only), *grad_array(&all, only),
                               count * sizeof(float)) == 0,
                        "dL/d%s is another where no other gradient is wanted", array_name[only]);
            free(*grad_array(&one, only));
            grads_free(&all, &scan);
        }
    scan_free(&scan);
}

static void a_sequence_goes_backwards_in_pieces(void **state)
{
    (void)state;
    static ScanBackward *const both[] = {selective_scan_backward, selective_scan_backward_fast};
    Scan scan = random_scan(1, 50, 20, 3, HAS_ALL, 32);
    size_t cut = 23, states = array_count(&scan, 8);
    for (int i = 0; i < 2; i++) {
        ScanGrad whole, late, early;
        float *middle = nan_filled(states), y[50 * 20];
        Scan first = scan_piece(&scan, 0, 0, cut), second = scan_piece(&scan, 0, cut, 50);
        first.x_start = scan.x_start;
        second.x_start = middle;
        selective_scan(y, middle, &first);
        grads_new(&whole, &scan);
        grads_new(&late, &second);
        grads_new(&early, &first);
        both[i](&whole, scan.u, NULL, &scan, NULL);
        both[i](&late, scan.u + cut * 20, NULL, &second, NULL);
        both[i](&early, scan.u, late.x_start, &first, NULL);
        assert_relmax(early.x_start, whole.x_start, states, 1e-5);
        assert_relmax(early.u, whole.u, cut * 20, 1e-5);
        assert_relmax(late.B, whole.B + cut * 3, 27 * 3, 1e-5);
        for (size_t k = 0; k < 20 * 3; k++)
            assert_near(early.A[k] + late.A[k], whole.A[k], 1e-4, 1e-4);
        free(middle);
        grads_free(&whole, &scan);
        grads_free(&late, &second);
        grads_free(&early, &first);
    }
    scan_free(&scan);
}

static void checkpoints_of_the_forward_pass_give_the_same_gradients(void **state)
{
    (void)state;
    Scan scan = random_scan(2, 75, 40, 5, HAS_ALL, 33);
    size_t wide = array_count(&scan, 0), count = selective_scan_checkpoint_floats(&scan);
    ScanGrad without, with;
    float *y = nan_filled(wide), *kept_y = nan_filled(wide), *checkpoint = nan_filled(count);
    grads_new(&without, &scan);
    grads_new(&with, &scan);
    selective_scan_fast(y, NULL, &scan);
    selective_scan_backward_fast(&without, scan.u, NULL, &scan, NULL);
    size_t floats = selective_scan_backward_floats(&scan);
    scan.checkpoint = checkpoint;
    assert_true(selective_scan_backward_floats(&scan) + count == floats);
    float *work = nan_filled(selective_scan_backward_floats(&scan));
    selective_scan_fast(kept_y, NULL, &scan);
    selective_scan_backward_fast(&with, scan.u, NULL, &scan, work);
    assert_memory_equal(kept_y, y, wide * sizeof(float));
    for (int i = 0; i < N_ARRAYS; i++)
        assert_memory_equal(*grad_array(&with, i), *grad_array(&without, i),
                            array_count(&scan, i) * sizeof(float));
    assert_guarded(checkpoint, count);
    assert_guarded(work, selective_scan_backward_floats(&scan));
    free(y);
    free(kept_y);
    free(checkpoint);
    free(work);
    grads_free(&without, &scan);
    grads_free(&with, &scan);
    scan.checkpoint = NULL;
    scan_free(&scan);
}

static void the_clear_backward_pass_keeps_the_square_root_of_the_states(void **state)
{
    (void)state; /* for one channel, whatever the number of channels */
    Scan scan = random_scan(1, 10000, 3, 257, 0, 34); /* 257: the clear one's count alone */
    assert_int_equal(selective_scan_backward_floats(&scan), 202 * 257);
    ScanGrad grad;
    memset(&grad, 0, sizeof grad);
    float u_grad[1], *work = nan_filled(202 * 257);
    (void)u_grad;
    selective_scan_backward(&grad, scan.u, NULL, &scan, work);
    assert_guarded(work, 202 * 257);
    free(work);
    scan_free(&scan);
}

/* ---- bridges to the chapters before --------------------------------------------------------- */

static void constant_parameters_give_the_system_of_chapter_3(void **state)
{
    (void)state;
    enum { N = 4, LEN = 60 };
    Random random = random_from_seed(40);
    Ssm system = ssm_new(N, 1, 1), step;
    float A[N], B[LEN * N], C[LEN * N], D[1], u[LEN], delta[LEN], y[LEN], x_start[N];
    double u_double[LEN], want[LEN];
    Error error;
    for (size_t n = 0; n < N; n++) {
        A[n] = (float)(-0.1 - random_uniform(&random));
        B[n] = (float)random_normal(&random);
        C[n] = (float)random_normal(&random);
        x_start[n] = (float)random_normal(&random);
        system.A[n * N + n] = A[n];
        system.B[n] = B[n];
        system.C[n] = C[n];
        system.x0[n] = x_start[n];
    }
    system.D[0] = D[0] = 0.5f;
    for (size_t t = 0; t < LEN; t++) {
        u_double[t] = u[t] = (float)random_normal(&random);
        delta[t] = 0.25f;
        memcpy(B + t * N, B, sizeof A);
        memcpy(C + t * N, C, sizeof A);
    }
    assert_true(discretize(&step, &system, 0.25, RULE_MAMBA, &error));
    run_from_start(want, u_double, &step, LEN, READ_AFTER);
    Scan scan = {1, LEN, 1, N, u, delta, NULL, A, B, C, D, NULL, x_start, NULL, false};
    selective_scan(y, NULL, &scan);
    assert_relmax(y, want, LEN, 1e-6); /* floats against doubles */
    selective_scan_fast(y, NULL, &scan);
    assert_relmax(y, want, LEN, 1e-6);
    ssm_free(&system);
    ssm_free(&step);
}

static void theorem_1_the_scan_is_a_gate(void **state)
{
    (void)state;
    enum { LEN = 500 };
    Random random = random_from_seed(41);
    Wiring wiring = wiring_new(LEN, 1);
    float y[LEN];
    double x = 0.0, want[LEN];
    for (size_t t = 0; t < LEN; t++) {
        double s = 4.0 * random_normal(&random), g = sigmoid_in_double((float)s);
        wiring.delta[t] = (float)s;
        wiring.u[t] = (float)random_normal(&random);
        wiring.B[t] = hold_B(softplus((float)s));
        x = (1.0 - g) * x + g * wiring.u[t];
        want[t] = x;
    }
    selective_scan(y, NULL, &wiring.scan);
    assert_all_near(y, want, LEN, 1e-6, 0);
    wiring_free(&wiring);
}

/* ---- pairs ---------------------------------------------------------------------------------- */

typedef void PairScan(ScanPair *out, const ScanPair *in, size_t len);
static PairScan *const pair_scans[] = {scan_pairs, scan_pairs_hillis_steele, scan_pairs_blelloch,
                                       scan_pairs_chunked};

/* "L1000.slow.b" and so on for the tensor "L1000.slow.a". */
static double *golden_pair_part(const Safetensors *file, const char *name, char part)
{
    char other[64];
    snprintf(other, sizeof other, "%s", name);
    other[strlen(other) - 1] = part;
    return golden_doubles(NULL, file, other);
}

static void check_pairs(const Safetensors *file)
{
    size_t checked = 0;
    for (size_t i = 0; i < file->n_tensor; i++) {
        const char *name = file->tensor[i].name;
        size_t len = file->tensor[i].count;
        if (strcmp(name + strlen(name) - 2, ".a") != 0)
            continue;
        double *a = golden_pair_part(file, name, 'a'), *b = golden_pair_part(file, name, 'b');
        double *h = golden_pair_part(file, name, 'h'), *p = golden_pair_part(file, name, 'p');
        double tolerance = strstr(name, ".decay.") ? 2e-6 : strstr(name, ".mixed.") ? 5e-6 : 5e-5;
        ScanPair *in = NEW(ScanPair, len), *out = NEW(ScanPair, len);
        for (size_t t = 0; t < len; t++) {
            in[t].a = (float)a[t];
            in[t].b = (float)b[t];
        }
        for (int k = 0; k < 4; k++) {
            pair_scans[k](out, in, len);
            for (size_t t = 0; t < len; t++) {
                a[t] = out[t].a;
                b[t] = out[t].b;
            }
            assert_relmax(a, p, len, tolerance);
            assert_relmax(b, h, len, tolerance);
        }
        free(a), free(b), free(h), free(p), free(in), free(out);
        checked++;
    }
    assert_true(checked > 0);
}

static void ex4_6_every_scan_of_pairs_agrees_with_golden(void **state)
{
    (void)state;
    for_each_golden("ch06_pairs*.safetensors", check_pairs);
}

static void ex4_6_the_sweep_down_tells_every_step_what_came_before(void **state)
{
    (void)state;
    ScanPair tree[4] = {{1, 1}, {1, 2}, {1, 3}, {1, 4}}; /* plain sums: 0, 1, 3, 6 come before */
    sweep_up(tree, 4);
    assert_near(tree[3].b, 10, 0, 0);
    sweep_down(tree, 4);
    for (size_t t = 0; t < 4; t++) {
        assert_near_as("a of what came before", tree[t].a, 1, 0, 0);
        assert_near_as("b of what came before: 0, 1, 3, 6; it", tree[t].b,
                       (double)(t * (t + 1) / 2), 0, 0);
    }
}

static void ex4_6_the_sweep_down_keeps_the_order_of_joining(void **state)
{
    (void)state; /* x -> 2x + 1, then 3x + 2, then x + 3; in another order they end elsewhere */
    ScanPair tree[4] = {{2, 1}, {3, 2}, {1, 3}, {2, 4}};
    static const float a[4] = {1, 2, 6, 6}, b[4] = {0, 1, 5, 8};
    sweep_up(tree, 4);
    sweep_down(tree, 4);
    for (size_t t = 0; t < 4; t++) {
        assert_near_as("a of what came before: 1, 2, 6, 6; it", tree[t].a, (double)a[t], 0, 0);
        assert_near_as("b of what came before: 0, 1, 5, 8; it", tree[t].b, (double)b[t], 0, 0);
    }
}

static void ex4_5_joining_is_associative_and_has_a_direction(void **state)
{
    (void)state; /* powers of two and small whole numbers: no rounding */
    ScanPair one = {0.5f, 3}, two = {-2, 5}, three = {0, 7};
    ScanPair left = scan_join(scan_join(one, two), three),
             right = scan_join(one, scan_join(two, three));
    assert_near_as("a of (1 2) 3, beside that of 1 (2 3),", left.a, right.a, 0, 0);
    assert_near_as("b of (1 2) 3, beside that of 1 (2 3),", left.b, right.b, 0, 0);
    ScanPair forth = scan_join(one, two), back = scan_join(two, one);
    assert_near_as("a of (0.5, 3), then (-2, 5),", forth.a, -1, 0, 0);
    assert_near_as("b of (0.5, 3), then (-2, 5),", forth.b, -1, 0, 0);
    assert_near_as("a of (-2, 5), then (0.5, 3),", back.a, -1, 0, 0);
    assert_near_as("b of (-2, 5), then (0.5, 3),", back.b, 5.5, 0, 0);
}

static void ex4_5_joins_in_a_row_are_the_recurrence(void **state)
{
    (void)state;
    enum { LEN = 31 };
    Random random = random_from_seed(5);
    ScanPair in[LEN], out[LEN];
    double x = 0.0, product = 1.0;
    for (size_t t = 0; t < LEN; t++) {
        in[t].a = (float)(0.5 + random_uniform(&random));
        in[t].b = (float)random_normal(&random);
    }
    scan_pairs(out, in, LEN);
    for (size_t t = 0; t < LEN; t++) {
        x = (double)in[t].a * x + (double)in[t].b;
        product *= (double)in[t].a;
        assert_near(out[t].a, product, 0, LEN * 1.2e-7); /* a rounding for each join */
        assert_near(out[t].b, x, LEN * 1.2e-7 * 10, LEN * 1.2e-7);
    }
}

static void ex4_6_pair_scans_are_the_loop_where_nothing_rounds(void **state)
{
    (void)state; /* a in {0, 1, -1}, b small and whole: every order of joining is exact */
    for (size_t len = 0; len < 300; len += len < 40 ? 1 : 37) {
        Random random = random_from_seed(len);
        ScanPair in[300], loop[300], out[301];
        for (size_t t = 0; t < len; t++) {
            in[t].a = (float)(random_u32(&random) % 3) - 1.0f;
            in[t].b = (float)(random_u32(&random) % 9) - 4.0f;
        }
        scan_pairs(loop, in, len);
        for (int k = 1; k < 4; k++) {
            out[len].a = 77.0f;
            pair_scans[k](out, in, len);
            for (size_t t = 0; t < len; t++) {
                assert_near_as("a of a pair, beside the loop's,", out[t].a, loop[t].a, 0, 0);
                assert_near_as("b of a pair, beside the loop's,", out[t].b, loop[t].b, 0, 0);
            }
            assert_that(out[len].a == 77.0f, "something was written behind the %zu pairs", len);
        }
    }
}

/* ---- stories -------------------------------------------------------------------------------- */

static bool parse_cues(Cues *cues, const char *text, Error *error)
{
    return cues_parse(cues, text_copy(text), strlen(text), "cues.txt", error);
}

static void assert_cues_refused(const char *text, const char *sentence)
{
    Cues cues;
    Error error;
    assert_false(parse_cues(&cues, text, &error));
    assert_string_equal(error.text, sentence);
}

static void wrong_cues_are_named(void **state)
{
    (void)state;
    assert_cues_refused("", "cues.txt: cues of two contexts at least are wanted, not of 0");
    assert_cues_refused("# nothing\n\na: b\n",
                        "cues.txt: cues of two contexts at least are wanted, not of 1");
    assert_cues_refused("a: b\nfairies, gold\n", "cues.txt:2: there is no ':' after 'fairies,'");
    assert_cues_refused("a: b\nturn c: d\n",
                        "cues.txt:2: a turn to 'c', which no line above has cues of");
    assert_cues_refused("a: one two three four five\n",
                        "cues.txt:1: 'one ...' has more than 4 words");
    assert_cues_refused("a: b, , c\n", "cues.txt:1: a phrase without a word");
    assert_cues_refused("a:\nb: c\n", "cues.txt:1: a phrase without a word");
    assert_cues_refused("a: x y\nb: X, Y\nc: x y.\n",
                        "cues.txt:3: the phrase that ends in 'y' stands in line 1 already");
    assert_cues_refused(": b\n",
                        "cues.txt:1: a line is 'context: phrase, phrase' or 'turn context: ...'");
    assert_cues_refused("two words: b\n",
                        "cues.txt:1: a line is 'context: phrase, phrase' or 'turn context: ...'");
    assert_cues_refused("a:1\nb:2\nc:3\nd:4\ne:5\nf:6\ng:7\nh:8\ni:9\n",
                        "cues.txt:9: 'i' is one context more than 8");
    Cues cues;
    Error error;
    char *text = NEW(char, 8);
    memcpy(text, "a: b\0\n", 7);
    assert_false(cues_parse(&cues, text, 6, "cues.txt", &error));
    assert_string_equal(error.text, "cues.txt: not a text: there is a 0 byte in it");
    assert_false(cues_read(&cues, "no/such/cues.txt", &error));
    assert_contains(error.text, "no/such/cues.txt");
}

static void wrong_stories_are_named(void **state)
{
    (void)state;
    Story story;
    Error error;
    assert_false(story_parse(&story, text_copy(" \n\t "), 4, "s.txt", &error));
    assert_string_equal(error.text, "s.txt: there is no word in it");
    assert_false(story_read(&story, "no/such/story.txt", &error));
    assert_contains(error.text, "no/such/story.txt");
    size_t len = 2 * ((size_t)STORY_WORDS_MOST + 1);
    char *long_text = NEW(char, len + 1);
    for (size_t i = 0; i < len; i++)
        long_text[i] = i % 2 ? ' ' : 'a';
    assert_false(story_parse(&story, long_text, len, "s.txt", &error));
    assert_string_equal(error.text, "s.txt: more than 1000000 words");
}

static Story story_from(const char *text)
{
    Story story;
    Error error;
    assert_true(story_parse(&story, text_copy(text), strlen(text), "a story", &error));
    return story;
}

static void words_are_compared_without_capitals_and_punctuation(void **state)
{
    (void)state;
    Story story = story_from("\xE2\x80\x9CPrism!\xE2\x80\x9D  don't, (GOLD)\n--");
    static const char *const keys[] = {"prism", "don't", "gold", ""};
    assert_int_equal(story.n_word, 4);
    for (size_t i = 0; i < 4; i++)
        assert_string_equal(story.key[i], keys[i]);
    assert_string_equal(story.word[1], "don't,");
    story_free(&story);
}

static void a_phrase_counts_at_its_last_word_and_the_longest_wins(void **state)
{
    (void)state;
    Cues cues;
    Error error;
    Story story = story_from("a pot of gold is gold");
    assert_true(parse_cues(&cues, "x: gold\ny: pot of gold\nturn x: is\n", &error));
    for (size_t t = 0; t < 3; t++)
        assert_null(cue_at(&cues, &story, t));
    assert_int_equal(cue_at(&cues, &story, 3)->context, 1);
    assert_true(cue_at(&cues, &story, 4)->turn);
    assert_int_equal(cue_at(&cues, &story, 5)->context, 0);
    cues_free(&cues);
    assert_true(parse_cues(&cues, "y: pot of gold\nx: gold\n", &error));
    assert_int_equal(cue_at(&cues, &story, 3)->context, 0); /* whichever stands first */
    cues_free(&cues);
    story_free(&story);
}

/* Which context a story ends in. */
static const char *last_reading(const Story *story, const Cues *cues)
{
    Wiring wiring = story_wire(story, cues);
    float x[CONTEXTS_MOST], *y = NEW(float, story->n_word * cues->n_context);
    selective_scan(y, x, &wiring.scan);
    free(y);
    wiring_free(&wiring);
    return reading_name(cues, x);
}

static void the_stories_of_data_end_where_their_latest_cue_says(void **state)
{
    (void)state;
    static const char *const stories[][2] = {{"data/stories/scientist.txt", "science"},
                                             {"data/stories/legend.txt", "folklore"},
                                             {"data/stories/long_walk.txt", "science"},
                                             {"data/stories/back_and_forth.txt", "science"}};
    Cues cues;
    Error error;
    assert_true(cues_read(&cues, "data/cues.txt", &error));
    for (size_t i = 0; i < sizeof stories / sizeof *stories; i++) {
        Story story;
        assert_true(story_read(&story, stories[i][0], &error));
        assert_string_equal(last_reading(&story, &cues), stories[i][1]);
        story_free(&story);
    }
    cues_free(&cues);
}

/* A file of these bytes, its name in path (a template of mkstemp); to be unlinked. */
static void write_file(char *path, const char *bytes)
{
    int file = mkstemp(path);
    assert_true(file >= 0);
    assert_int_equal(write(file, bytes, strlen(bytes)), (int)strlen(bytes));
    close(file);
}

static void marks_and_line_ends_are_no_part_of_a_story(void **state)
{
    (void)state;
    char story_path[] = "/tmp/ch04_story_XXXXXX", cues_path[] = "/tmp/ch04_cues_XXXXXX";
    Story story;
    Cues cues;
    Error error;
    write_file(story_path, "\xEF\xBB\xBFprism light\r");
    write_file(cues_path, "\xEF\xBB\xBFscience: prism\rfolklore: leprechaun\r\n"
                          "turn science: measured\r");
    assert_true(story_read(&story, story_path, &error));
    assert_true(cues_read(&cues, cues_path, &error));
    assert_int_equal(cues.n_cue, 3);
    assert_ptr_equal(cue_at(&cues, &story, 0), &cues.cue[0]);
    cues_free(&cues);
    story_free(&story);
    unlink(story_path);
    write_file(strcpy(story_path, "/tmp/ch04_story_XXXXXX"), "d\xE9j\xE0 vu");
    assert_false(story_read(&story, story_path, &error));
    assert_contains(error.text, ":1: byte 2 of the file (0xe9) is not UTF-8");
    unlink(story_path);
    unlink(cues_path);
}

static void a_story_fits_eighty_columns_whatever_its_contexts(void **state)
{
    (void)state;
    unsetenv("COLUMNS");
    for (int n = 2; n <= CONTEXTS_MOST; n++) {
        StoryLayout layout = story_layout((size_t)n);
        int numbers = n * layout.column * (layout.both ? 2 : 1);
        assert_true(STORY_BESIDE + layout.bar + 1 + numbers <= 81);
        assert_true(layout.both == (n <= 3));
    }
    char path[] = "/tmp/ch04_cues_XXXXXX", words[80], text[16384], *rest = text;
    write_file(path, "science: prism\n\xE5\xA4\xA9\xE6\xB0\x97\xE4\xBA\x88\xE5\xA0\xB1: gold\n"
                     "folklore: fairies\nhistory: mill\n");
    snprintf(words, sizeof words, "--step 0.25 --cues %s", path);
    assert_int_equal(run_program_output(text, sizeof text, "ch04_selective", words), 0);
    unlink(path);
    assert_contains(text, "The other one has Delta = 0.25 for all words.");
    for (char *line; (line = strsep(&rest, "\n")) != NULL;)
        assert_true(text_width(line) <= 80);
    assert_int_equal(story_layout(2).column, 9);
    assert_int_equal(story_layout(2).bar, 6);
    setenv("COLUMNS", "120", 1);
    assert_int_equal(story_layout(2).bar, 12);
    assert_true(story_layout(6).both);
    unsetenv("COLUMNS");
}

static void the_built_in_story_is_the_one_in_data(void **state)
{
    (void)state;
    Cues cues, built_in;
    Story story;
    Error error;
    assert_true(story_read(&story, "data/stories/scientist.txt", &error));
    Story own = story_from(built_in_story);
    assert_int_equal(story.n_word, own.n_word);
    for (size_t t = 0; t < own.n_word; t++)
        assert_string_equal(story.word[t], own.word[t]);
    assert_true(cues_read(&cues, "data/cues.txt", &error));
    assert_true(parse_cues(&built_in, built_in_cues, &error));
    assert_int_equal(cues.n_cue, built_in.n_cue);
    for (size_t i = 0; i < cues.n_cue; i++) {
        assert_true(cues_same(&cues.cue[i], &built_in.cue[i]));
        assert_true(cues.cue[i].turn == built_in.cue[i].turn);
        assert_int_equal(cues.cue[i].context, built_in.cue[i].context);
    }
    story_free(&story);
    story_free(&own);
    cues_free(&cues);
    cues_free(&built_in);
}

static void a_turn_lets_go_and_a_cue_does_not(void **state)
{
    (void)state;
    Cues cues;
    Error error;
    assert_true(parse_cues(&cues, "a: x\nb: y\nturn b: z\n", &error));
    Story turned = story_from("x x x z"), both = story_from("x x x y y y"), none = story_from("w");
    assert_string_equal(last_reading(&turned, &cues), "b");
    assert_string_equal(last_reading(&both, &cues), "?");
    assert_string_equal(last_reading(&none, &cues), "?");
    story_free(&turned);
    story_free(&both);
    story_free(&none);
    cues_free(&cues);
}

static void a_thousand_fillers_leave_the_margin_as_it_was(void **state)
{
    (void)state;
    double margin, right, first;
    filler_measure(&first, &right, 0, 0.0f, false, 1);
    filler_measure(&margin, &right, 1000, 0.0f, false, 1);
    assert_near(margin, first, 0, 1e-5); /* 1000 steps of 2e-9, and their noise */
    assert_true(right > 0.9999);
    filler_measure(&margin, &right, 1000, 0.1f, false, 1);
    assert_true(fabs(margin) < 0.02 * first && right < 0.65); /* chance, within 6 deviations */
}

/* What the lesson says of the 29 words that a folded line hides. */
static void the_constant_system_reads_folklore_at_15_of_the_29_words_in_between(void **state)
{
    (void)state;
    Cues cues;
    Story story;
    Error error;
    assert_true(story_and_cues_open(&story, &cues, NULL, NULL, &error));
    Wiring wiring = story_wire(&story, &cues);
    wire_constant(&wiring, 0.1f);
    float *x = NEW(float, story.n_word *cues.n_context);
    selective_scan(x, NULL, &wiring.scan);
    size_t gold = 0, folklore = 0, words = 0;
    while (strcmp(story.key[gold], "gold") != 0)
        gold++;
    for (size_t t = gold + 1; strcmp(story.key[t], "explained") != 0; t++, words++) {
        const char *reading = reading_name(&cues, x + t * cues.n_context);
        folklore += strcmp(reading, "folklore") == 0;
        assert_true(strcmp(reading, "science") != 0);
    }
    assert_int_equal(words, 29);
    assert_int_equal(folklore, 15);
    free(x);
    wiring_free(&wiring);
    story_free(&story);
    cues_free(&cues);
}

/* A cue alone writes 1 - exp(-Delta), by any way; and silenced fillers leave it there. */
static void without_fillers_the_margin_is_what_a_cue_writes(void **state)
{
    (void)state;
    double margin, right;
    filler_measure(&margin, &right, 0, 0.0f, false, 1);
    assert_near(margin, 1.0 - 1.0 / (1.0 + exp(1.0)), 0, 1e-6); /* softplus(1): the gate of s = 1 */
    filler_measure(&margin, &right, 0, 0.3f, false, 1);
    assert_near(margin, 1.0 - exp(-0.3), 0, 1e-6);
    filler_measure(&margin, &right, 0, 0.01f, false, 1);
    assert_near(margin, 1.0 - exp(-0.01), 0, 1e-5);
    filler_measure(&margin, &right, 1000, 0.1f, true, 1);
    assert_near(margin, 1.0 - exp(-0.1), 0, 1e-6);
    assert_true(right > 0.9999); /* always: a sum of 400 times 1 / 400 */
}

static void ex4_4_selective_copying_is_solved_and_not_with_constant_steps(void **state)
{
    (void)state;
    Random random = random_from_seed(2);
    assert_near_as("the share of symbols copied, without noise",
                   copying_score(0, 20, COPY_SELECTIVE, random), 1.0, 0, 0);
    assert_near_as("the share of symbols copied by halving, without noise",
                   copying_score(0, 20, COPY_HALVING, random), 1.0, 0, 0);
    assert_near_as("the share of symbols copied among 5000 tokens of noise",
                   copying_score(5000, 20, COPY_SELECTIVE, random), 1.0, 0, 0);
    double halving = copying_score(100, 50, COPY_HALVING, random);
    double keeping = copying_score(100, 50, COPY_KEEPING, random);
    assert_that(halving < 0.15, "halving copies %.3f among noise: it is to push for noise too",
                halving);
    assert_that(keeping < 0.25, "keeping copies %.3f: it is to push for no token", keeping);
}

static void a_copying_task_has_its_symbols_in_order(void **state)
{
    (void)state;
    Random random = random_from_seed(3);
    int token[COPY_SYMBOLS + 40], symbol[COPY_SYMBOLS];
    for (int k = 0; k < 50; k++) {
        copying_task(token, symbol, 40, &random);
        size_t found = 0;
        for (size_t t = 0; t < COPY_SYMBOLS + 40; t++)
            if (token[t] != COPY_NOISE) {
                assert_true(found < COPY_SYMBOLS);
                assert_int_equal(token[t], symbol[found++]);
            }
        assert_int_equal(found, COPY_SYMBOLS);
    }
}

/* ---- the program ---------------------------------------------------------------------------- */

static void wrong_options_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *words, *sentence;
        int exit;
    } cases[] = {
        {"--step 0", "--step: 0 is not from 1e-06 to 100", 2},
        {"--step x", "--step: 'x' is not a number", 2},
        {"--step 0.2 --demo fillers", "--step and --demo exclude each other", 2},
        {"--step 0.2 --seed 2", "--seed and --step exclude each other", 2},
        {"--brief --demo story", "--brief and --demo exclude each other", 2},
        {"--seed -1", "--seed: '-1' is not a whole number", 2},
        {"--cues data/cues.txt --seed 2", "--seed and --cues exclude each other", 2},
        {"--nonsense", "'--nonsense' is not an option", 2},
        {"story.txt", "'story.txt' is not an option", 2},
        {"--trace", "'--trace' is not an option", 2},
        {"--demo story --brief", "exclude each other", 2},
        {"--story data/stories/legend.txt --demo trace", "exclude each other", 2},
        {"--svg x.svg", "--svg needs --story or --cues or --step or --brief or --demo", 2},
        {"--demo theorem --svg x.svg", "--demo copying or --demo trace", 2},
        {"--demo story --seed 2", "--seed does nothing with --demo story", 2},
        {"--demo trace --seed 2", "--seed does nothing with --demo trace", 2},
        {"--demo division --seed 2", "--seed does nothing with --demo division", 2},
        {"--demo thread --seed 2", "--seed does nothing with --demo thread", 2},
        {"--demo theorem --ascii", "--ascii does nothing with --demo theorem", 2},
        {"--demo division --ascii", "--ascii does nothing with --demo division", 2},
        {"--demo thread --ascii", "--ascii does nothing with --demo thread", 2},
        {"--demo nothing", "--demo: 'nothing' is none of story", 2},
        {"--story /dev/null", "/dev/null: there is no word in it", 1},
        {"--story no/such/file", "no/such/file", 1},
        {"--cues data/weather.csv", "data/weather.csv:", 1},
        {"--demo trace --svg no/such/folder/x.svg", "no/such/folder", 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_command_says("ch04_selective", cases[i].words, cases[i].sentence, cases[i].exit);
}

static void the_figure_of_a_short_story_has_room_for_its_titles(void **state)
{
    (void)state;
    char story[] = "/tmp/ch04_story_XXXXXX", words[128], text[4096], *svg = NULL, *wide;
    size_t len;
    Error error;
    write_file(story, "old rain\n");
    snprintf(words, sizeof words, "--story %s --svg %s.svg", story, story);
    assert_int_equal(run_program(text, sizeof text, "ch04_selective", words), 0);
    snprintf(words, sizeof words, "%s.svg", story);
    assert_true(text_read(&svg, &len, words, &error));
    unlink(story);
    unlink(words);
    wide = strstr(svg, "width=\"");
    assert_non_null(wide);
    assert_true(strtod(wide + 7, NULL) > 380.0); /* 43 letters behind the names of the contexts */
    free(svg);
}

static void a_demo_without_a_figure_says_so_before_it_prints(void **state)
{
    (void)state;
    static const char *const words[] = {"--demo theorem --svg x.svg", "--demo division --svg x.svg",
                                        "--demo thread --svg x.svg"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        char text[256];
        assert_int_equal(run_program(text, sizeof text, "ch04_selective", words[i]), 2);
        assert_contains(text, "error: --svg needs --story or --cues or --step or --brief or "
                              "--demo story or --demo fillers or --demo copying or --demo trace\n");
        run_program_output(text, sizeof text, "ch04_selective", words[i]);
        assert_string_equal(text, "");
    }
}

static void a_step_alone_means_the_built_in_story(void **state)
{
    (void)state;
    char text[16384];
    assert_int_equal(run_program_output(text, sizeof text, "ch04_selective", "--step 0.3"), 0);
    assert_contains(text, "| Delta = 0.3 for all");
    assert_contains(text, "leprechaun");
}

/* Nothing a reader of files meets may crash it: good texts with bytes changed, cut out and put
   in. */
static void broken_stories_and_cues_never_crash(void **state)
{
    (void)state;
    Random random = random_from_seed(50);
    for (int k = 0; k < 3000; k++) {
        const char *from = k % 2 ? built_in_cues : built_in_story;
        size_t len = strlen(from);
        char *text = text_copy(from);
        for (uint32_t edits = 1 + random_u32(&random) % 12; edits > 0; edits--)
            text[random_u32(&random) % len] = "\0\n:, #turn\xE2\x80x"[random_u32(&random) % 13];
        len -= random_u32(&random) % len;
        text[len] = '\0';
        Error error;
        Cues cues;
        Story story;
        if (k % 2 && cues_parse(&cues, text, len, "cues", &error)) {
            Story own = story_from(built_in_story);
            last_reading(&own, &cues);
            story_free(&own);
            cues_free(&cues);
        } else if (k % 2 == 0 && story_parse(&story, text, len, "story", &error)) {
            assert_true(parse_cues(&cues, built_in_cues, &error));
            last_reading(&story, &cues);
            cues_free(&cues);
            story_free(&story);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ex4_2_the_clear_scan_agrees_with_golden),
        cmocka_unit_test(every_state_of_the_step_agrees_with_golden),
        cmocka_unit_test(ex4_1_softplus_agrees_with_golden_at_every_size),
        cmocka_unit_test(ex4_3_the_clear_backward_pass_agrees_with_golden),
        cmocka_unit_test(the_fast_scan_agrees_with_golden),
        cmocka_unit_test(the_fast_backward_pass_agrees_with_golden),
        cmocka_unit_test(every_scan_agrees_with_one_written_in_double),
        cmocka_unit_test(the_fast_scans_are_the_clear_one_at_any_size),
        cmocka_unit_test(time_in_pieces_is_the_clear_scan_over_many_stretches),
        cmocka_unit_test(no_tokens_leave_the_state_as_it_was),
        cmocka_unit_test(arrays_may_start_at_any_address),
        cmocka_unit_test(pieces_with_the_state_handed_on_are_the_whole_bit_for_bit),
        cmocka_unit_test(steps_are_the_scan_bit_for_bit),
        cmocka_unit_test(ex4_2_the_lesson_s_two_steps_by_hand),
        cmocka_unit_test(the_step_takes_a_batch),
        cmocka_unit_test(a_nan_stays_in_its_channel),
        cmocka_unit_test(growth_and_wild_steps_agree_with_the_clear_scan),
#ifdef _OPENMP
        cmocka_unit_test(the_bits_do_not_depend_on_the_threads),
#endif
        cmocka_unit_test(lanes_exp_is_within_2_ulp_from_minus_87_to_0),
        cmocka_unit_test(exp2_of_a_product_is_within_2_ulp),
        cmocka_unit_test(ex4_1_softplus_and_silu_are_right_at_every_float),
        cmocka_unit_test(the_fast_backward_pass_is_the_clear_one_at_any_size),
        cmocka_unit_test(ex4_3_every_gradient_is_the_slope_of_the_loss),
        cmocka_unit_test(ex4_3_gradients_that_are_not_wanted_are_not_written),
        cmocka_unit_test(a_sequence_goes_backwards_in_pieces),
        cmocka_unit_test(checkpoints_of_the_forward_pass_give_the_same_gradients),
        cmocka_unit_test(the_clear_backward_pass_keeps_the_square_root_of_the_states),
        cmocka_unit_test(constant_parameters_give_the_system_of_chapter_3),
        cmocka_unit_test(theorem_1_the_scan_is_a_gate),
        cmocka_unit_test(ex4_6_every_scan_of_pairs_agrees_with_golden),
        cmocka_unit_test(ex4_6_the_sweep_down_tells_every_step_what_came_before),
        cmocka_unit_test(ex4_6_the_sweep_down_keeps_the_order_of_joining),
        cmocka_unit_test(ex4_5_joining_is_associative_and_has_a_direction),
        cmocka_unit_test(ex4_5_joins_in_a_row_are_the_recurrence),
        cmocka_unit_test(ex4_6_pair_scans_are_the_loop_where_nothing_rounds),
        cmocka_unit_test(wrong_cues_are_named),
        cmocka_unit_test(wrong_stories_are_named),
        cmocka_unit_test(words_are_compared_without_capitals_and_punctuation),
        cmocka_unit_test(a_phrase_counts_at_its_last_word_and_the_longest_wins),
        cmocka_unit_test(the_stories_of_data_end_where_their_latest_cue_says),
        cmocka_unit_test(marks_and_line_ends_are_no_part_of_a_story),
        cmocka_unit_test(a_story_fits_eighty_columns_whatever_its_contexts),
        cmocka_unit_test(the_built_in_story_is_the_one_in_data),
        cmocka_unit_test(a_turn_lets_go_and_a_cue_does_not),
        cmocka_unit_test(a_thousand_fillers_leave_the_margin_as_it_was),
        cmocka_unit_test(without_fillers_the_margin_is_what_a_cue_writes),
        cmocka_unit_test(the_constant_system_reads_folklore_at_15_of_the_29_words_in_between),
        cmocka_unit_test(ex4_4_selective_copying_is_solved_and_not_with_constant_steps),
        cmocka_unit_test(a_copying_task_has_its_symbols_in_order),
        cmocka_unit_test(wrong_options_are_named),
        cmocka_unit_test(a_demo_without_a_figure_says_so_before_it_prints),
        cmocka_unit_test(a_step_alone_means_the_built_in_story),
        cmocka_unit_test(broken_stories_and_cues_never_crash),
        cmocka_unit_test(the_figure_of_a_short_story_has_room_for_its_titles),
    };
    return cmocka_run_group_tests_name("chapter 4", tests, NULL, NULL);
}
