/* Mamba-2's scan held against golden data, a scan written in double, finite differences, chapter 4,
   and itself: the recurrence, masked attention and chunks, clear and fast, are one. */

#include "../ch05_mamba_block/mamba2_fast.c"
#include "golden.h"
#include <signal.h>
#include <unistd.h>

typedef void HeadForward(float *y, float *x_last, const HeadScan *scan);
typedef void HeadBackward(const HeadGrad *grad, const float *y_grad, const float *x_last_grad,
                          const HeadScan *scan);

/* ---- a scan with arrays of its own -------------------------------------------------------- */

enum { N_ARRAYS = 8, U = 0, DELTA, BIAS, A_ONE, B_IN, C_OUT, D_SKIPS, START };

/* The arrays of a HeadScan in one order, each with the name that it has in the golden file. */
static const char *const array_name[N_ARRAYS] = {"x", "raw", "dt_bias", "A",
                                                 "B", "C",   "D",       "h_start"};

static const float **scan_array(HeadScan *scan, int which)
{
    const float **arrays[N_ARRAYS] = {&scan->u, &scan->delta, &scan->delta_bias, &scan->A,
                                      &scan->B, &scan->C,     &scan->D,          &scan->x_start};
    return arrays[which];
}

static float **grad_array(HeadGrad *grad, int which)
{
    float **arrays[N_ARRAYS] = {&grad->u, &grad->delta, &grad->delta_bias, &grad->A,
                                &grad->B, &grad->C,     &grad->D,          &grad->x_start};
    return arrays[which];
}

static size_t array_count(const HeadScan *scan, int which)
{
    size_t tokens = scan->batch * scan->len, wide = tokens * scan->n_head * scan->d_head;
    size_t shared = tokens * scan->n_group * scan->d_state;
    size_t counts[N_ARRAYS] = {
        wide,         tokens * scan->n_head,
        scan->n_head, scan->n_head,
        shared,       shared,
        scan->n_head, scan->batch * scan->n_head * scan->d_head * scan->d_state};
    return counts[which];
}

static void scan_free(HeadScan *scan)
{
    for (int i = 0; i < N_ARRAYS; i++)
        free((void *)(uintptr_t)*scan_array(scan, i));
}

static void grad_new(HeadGrad *grad, const HeadScan *scan)
{
    for (int i = 0; i < N_ARRAYS; i++)
        *grad_array(grad, i) = nan_filled(array_count(scan, i));
}

static void grad_free(HeadGrad *grad, const HeadScan *scan)
{
    for (int i = 0; i < N_ARRAYS; i++) {
        assert_guarded(*grad_array(grad, i), array_count(scan, i));
        free(*grad_array(grad, i));
    }
}

static float *random_array(size_t count, double low, double high, Random *random)
{
    float *values = NEW(float, count + 1);
    for (size_t i = 0; i < count; i++)
        values[i] = (float)(low + (high - low) * random_uniform(random));
    return values;
}

/* Which optional parts a random scan has. */
enum { HAS_BIAS = 1, HAS_D = 2, HAS_START = 4, HAS_SOFTPLUS = 8, HAS_ALL = 15 };

/* Sizes that divide nothing, chunks of 1, of all and of more. */
static const size_t odd_sizes[][7] = {
    /* batch, len, n_head, d_head, n_group, d_state, chunk */
    {1, 1, 1, 1, 1, 1, 1},    {1, 2, 1, 3, 1, 2, 1},     {2, 31, 3, 5, 1, 3, 7},
    {1, 33, 4, 17, 2, 33, 8}, {3, 65, 6, 1, 3, 17, 64},  {1, 70, 2, 64, 2, 16, 16},
    {1, 7, 2, 33, 1, 257, 9}, {2, 67, 5, 31, 5, 1, 100}, {1, 66, 3, 65, 1, 5, 31},
    {1, 40, 2, 16, 1, 4, 40}, {1, 19, 1, 300, 1, 6, 4},  {1, 200, 1, 4, 1, 3, 199},
    {1, 5, 17, 2, 1, 3, 2}};
enum { N_ODD = sizeof odd_sizes / sizeof *odd_sizes };

static HeadScan random_scan(const size_t size[7], int has, uint64_t seed)
{
    static const double range[N_ARRAYS][2] = {{-1, 1}, {-3, 1}, {-1, 1}, {-2, -0.1},
                                              {-1, 1}, {-1, 1}, {-1, 1}, {-1, 1}};
    Random random = random_from_seed(seed);
    HeadScan scan;
    memset(&scan, 0, sizeof scan);
    scan.batch = size[0], scan.len = size[1], scan.n_head = size[2], scan.d_head = size[3];
    scan.n_group = size[4], scan.d_state = size[5], scan.chunk = size[6];
    scan.delta_softplus = has & HAS_SOFTPLUS;
    bool present[N_ARRAYS] = {true, true, (has & HAS_BIAS) != 0, true,
                              true, true, (has & HAS_D) != 0,    (has & HAS_START) != 0};
    for (int i = 0; i < N_ARRAYS; i++) {
        bool step = i == DELTA && !scan.delta_softplus; /* used as it is, with a bias of -1 to 1 */
        if (present[i])
            *scan_array(&scan, i) = random_array(array_count(&scan, i), step ? 1.0 : range[i][0],
                                                 step ? 2.0 : range[i][1], &random);
    }
    return scan;
}

typedef void ScanCheck(const HeadScan *scan);

static void for_odd_scans(ScanCheck *check)
{
    for (int i = 0; i < N_ODD; i++)
        for (int has = 0; has <= HAS_ALL; has += i % 6 == 0 ? 1 : 15) {
            HeadScan scan = random_scan(odd_sizes[i], has, (uint64_t)(i + 1));
            check(&scan);
            scan_free(&scan);
        }
}

/* The recurrence in double, another hand's writing of the same formulas: y and x_last, unless they
   are NULL, and the loss sum(y y_grad) + sum(x_last x_last_grad), if those are given. */
static double in_double(double *y, double *x_last, const float *y_grad, const float *x_last_grad,
                        const HeadScan *scan)
{
    double loss = 0.0;
    size_t each = scan->n_head / scan->n_group;
    for (size_t i = 0; i < scan->batch * scan->n_head * scan->d_head; i++) {
        size_t p = i % scan->d_head, h = i / scan->d_head % scan->n_head;
        size_t b = i / scan->d_head / scan->n_head;
        double *x = NEW(double, scan->d_state);
        for (size_t n = 0; n < scan->d_state && scan->x_start; n++)
            x[n] = scan->x_start[i * scan->d_state + n];
        for (size_t token = b * scan->len; token < (b + 1) * scan->len; token++) {
            double step = scan->delta[token * scan->n_head + h], read = 0.0;
            step += scan->delta_bias ? (double)scan->delta_bias[h] : 0.0;
            if (scan->delta_softplus)
                step = log1p(exp(step));
            size_t at = (token * scan->n_head + h) * scan->d_head + p;
            size_t bc = (token * scan->n_group + h / each) * scan->d_state;
            for (size_t n = 0; n < scan->d_state; n++) {
                x[n] = exp(step * scan->A[h]) * x[n] + step * scan->B[bc + n] * scan->u[at];
                read += scan->C[bc + n] * x[n];
            }
            read += scan->D ? (double)scan->D[h] * scan->u[at] : 0.0;
            loss += y_grad ? read * y_grad[at] : 0.0;
            if (y)
                y[at] = read;
        }
        for (size_t n = 0; n < scan->d_state; n++) {
            loss += x_last_grad ? x[n] * x_last_grad[i * scan->d_state + n] : 0.0;
            if (x_last)
                x_last[i * scan->d_state + n] = x[n];
        }
        free(x);
    }
    return loss;
}

/* y and the last state of one way against doubles. Where D u nearly cancels, little is left. */
static void check_forward(HeadForward *forward, const HeadScan *scan, const double *want,
                          const double *want_last, double tolerance)
{
    size_t wide = array_count(scan, U), states = array_count(scan, START);
    float *y = nan_filled(wide), *x_last = nan_filled(states);
    forward(y, x_last, scan);
    assert_relmax(y, want, wide, tolerance);
    assert_relmax(x_last, want_last, states, tolerance);
    assert_guarded(y, wide);
    assert_guarded(x_last, states);
    forward(y, NULL, scan); /* the last state is optional */
    assert_relmax(y, want, wide, tolerance);
    free(y);
    free(x_last);
}

static void check_against_double(HeadForward *forward, const HeadScan *scan)
{
    double *y = NEW(double, array_count(scan, U)), *x = NEW(double, array_count(scan, START));
    in_double(y, x, NULL, NULL, scan);
    check_forward(forward, scan, y, x, 1e-5); /* eps times the terms of a sum */
    free(y);
    free(x);
}

/* ---- golden data --------------------------------------------------------------------------- */

/* The scan of the golden file, its sizes read from the tensors; the chunk is the caller's. */
static HeadScan golden_scan(Safetensors *file, size_t chunk)
{
    char *path = golden_path("ssd.safetensors");
    HeadScan scan;
    golden_open(file, path);
    free(path);
    memset(&scan, 0, sizeof scan);
    scan.batch = golden_size(file, "x", 0), scan.len = golden_size(file, "x", 1);
    scan.n_head = golden_size(file, "x", 2), scan.d_head = golden_size(file, "x", 3);
    scan.n_group = golden_size(file, "B", 2), scan.d_state = golden_size(file, "B", 3);
    scan.chunk = chunk;
    scan.delta_softplus = true;
    for (int i = 0; i < N_ARRAYS; i++)
        if (i != BIAS) {
            *scan_array(&scan, i) = golden_floats(NULL, file, array_name[i]);
            assert_int_equal(golden_tensor(file, array_name[i])->count, array_count(&scan, i));
        }
    return scan;
}

static void check_golden(HeadForward *forward, size_t chunk)
{
    Safetensors file;
    HeadScan scan = golden_scan(&file, chunk);
    double *y = golden_doubles(NULL, &file, "y"), *last = golden_doubles(NULL, &file, "h_last");
    check_forward(forward, &scan, y, last, 1e-5); /* INDEX.md */
    free(y);
    free(last);
    scan_free(&scan);
    safetensors_close(&file);
}

static void check_golden_backward(HeadBackward *backward, size_t chunk)
{
    Safetensors file;
    HeadScan scan = golden_scan(&file, chunk);
    HeadGrad grad;
    float *y_grad = golden_floats(NULL, &file, "dy");
    grad_new(&grad, &scan);
    backward(&grad, y_grad, NULL, &scan);
    for (int i = 0; i < N_ARRAYS; i++) {
        char name[32];
        snprintf(name, sizeof name, "grad.%s", array_name[i]);
        if (i == BIAS)
            continue;
        double *want = golden_doubles(NULL, &file, name);
        assert_relmax_as(gradient_of(array_name[i]), *grad_array(&grad, i), want,
                         array_count(&scan, i), 1e-5);
        free(want);
    }
    free(y_grad);
    grad_free(&grad, &scan);
    scan_free(&scan);
    safetensors_close(&file);
}

/* Chunks that do not divide the golden length, of 1, and longer than it. */
static const size_t golden_chunks[] = {1, 2, 7, 16, 44, 45, 46, 1000};
enum { N_CHUNKS = sizeof golden_chunks / sizeof *golden_chunks };

static void the_recurrence_agrees_with_golden(void **state)
{
    (void)state;
    check_golden(head_scan, 1);
    check_golden(head_scan_fast, 1);
}

static void ex5_12_masked_attention_agrees_with_golden(void **state)
{
    (void)state;
    check_golden(head_scan_masked, 1);
}

static void ex5_12_chunks_of_any_length_agree_with_golden(void **state)
{
    (void)state;
    for (int i = 0; i < N_CHUNKS; i++)
        check_golden(head_scan_chunked, golden_chunks[i]);
}

static void fast_chunks_agree_with_golden(void **state)
{
    (void)state;
    for (int i = 0; i < N_CHUNKS; i++)
        check_golden(head_scan_chunked_fast, golden_chunks[i]);
}

static void the_recurrence_backwards_agrees_with_golden(void **state)
{
    (void)state;
    check_golden_backward(head_scan_backward, 1);
}

static void ex5_13_masked_attention_backwards_agrees_with_golden(void **state)
{
    (void)state;
    check_golden_backward(head_scan_masked_backward, 1);
}

static void ex5_13_chunks_backwards_agree_with_golden(void **state)
{
    (void)state;
    for (int i = 0; i < N_CHUNKS; i++)
        check_golden_backward(head_scan_chunked_backward, golden_chunks[i]);
}

static void fast_chunks_backwards_agree_with_golden(void **state)
{
    (void)state;
    for (int i = 0; i < N_CHUNKS; i++)
        check_golden_backward(head_scan_chunked_backward_fast, golden_chunks[i]);
}

/* ---- the mask ------------------------------------------------------------------------------- */

static void ex5_11_the_lesson_s_mask_by_hand(void **state)
{
    (void)state;
    static const float a[4] = {0.5f, 0.5f, 0.25f, 0.5f};
    static const float want[16] = {1,      0,     0, 0, 0.5f,    1,      0,    0,
                                   0.125f, 0.25f, 1, 0, 0.0625f, 0.125f, 0.5f, 1};
    float *L = nan_filled(16);
    decay_mask(L, a, 4);
    for (int i = 0; i < 16; i++) /* halves and quarters: nothing rounds */
        assert_that(L[i] == want[i], "row %d, column %d is %g, expected %g", i / 4, i % 4,
                    (double)L[i], (double)want[i]);
    assert_guarded(L, 16);
    free(L);
}

static void ex5_11_a_decay_of_zero_cuts_and_one_above_one_grows(void **state)
{
    (void)state;
    static const float a[5] = {3, 2, 0, 4, 2};
    static const float want[25] = {1, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 1,
                                   0, 0, 0, 0, 4, 1, 0, 0, 0, 8, 2, 1};
    float L[25];
    decay_mask(L, a, 5);
    for (int i = 0; i < 25; i++)
        assert_that(L[i] == want[i], "row %d, column %d is %g, expected %g", i / 5, i % 5,
                    (double)L[i], (double)want[i]);
}

static void ex5_11_the_matrix_times_the_values_is_the_recurrence(void **state)
{
    (void)state; /* from an empty state, at sizes that divide nothing */
    for (int i = 0; i < N_ODD; i++) {
        HeadScan scan = random_scan(odd_sizes[i], HAS_SOFTPLUS, 70 + (uint64_t)i);
        size_t len = scan.len, d_head = scan.d_head;
        float *a = NEW(float, len), *v = NEW(float, len *d_head), *y = nan_filled(len * d_head);
        float *M = nan_filled(len * len), *L = nan_filled(len * len);
        double *want = NEW(double, len *d_head);
        float *x = NEW(float, d_head *scan.d_state);
        Head head = head_gather(a, v, &scan, scan.batch - 1, scan.n_head - 1);
        head_recurrence(y, x, &head, 1);
        head_matrix(M, L, &head);
        for (size_t t = 0; t < len; t++)
            for (size_t s = 0; s < len; s++)
                for (size_t p = 0; p < d_head; p++)
                    want[t * d_head + p] += (double)M[t * len + s] * v[s * d_head + p];
        assert_relmax(y, want, len * d_head, 1e-5);
        free(a), free(v), free(y), free(M), free(L), free(want), free(x);
        scan_free(&scan);
    }
}

static void a_block_below_the_diagonal_is_as_narrow_as_the_state(void **state)
{
    (void)state; /* with one state all rows of a block are multiples of one row */
    enum { LEN = 12, CUT = 5 };
    const size_t size[7] = {1, LEN, 1, 1, 1, 1, LEN};
    HeadScan scan = random_scan(size, HAS_SOFTPLUS, 9);
    float a[LEN], v[LEN], M[LEN * LEN], L[LEN * LEN];
    Head head = head_gather(a, v, &scan, 0, 0);
    head_matrix(M, L, &head);
    for (size_t i = CUT; i < LEN; i++)
        for (size_t j = 0; j < CUT; j++)
            assert_near(M[i * LEN + j] * M[CUT * LEN], M[CUT * LEN + j] * M[i * LEN], 1e-7, 1e-5);
    scan_free(&scan);
}

/* ---- the state between chunks --------------------------------------------------------------- */

static void ex5_12_the_lesson_s_chunks_by_hand(void **state)
{
    (void)state;
    static const float A[1] = {-0.693147181f}, u[4] = {4, 2, 1, 8}, delta[4] = {1, 1, 2, 1};
    static const float B[4] = {1, 2, 1, 1}, C[4] = {1, 1, 2, 1}, want[4] = {4, 6, 7, 9.75f};
    HeadScan scan = head_scan_new(4, 1, 1, 1, u, delta, A, B, C);
    float y[4], x;
    for (scan.chunk = 1; scan.chunk <= 5; scan.chunk++) {
        head_scan_chunked(y, &x, &scan);
        assert_all_near(y, want, 4, 2e-6, 0);
        assert_near(x, 9.75, 2e-6, 0);
    }
    scan.len = scan.chunk = 2; /* what the first chunk of two hands on */
    head_scan_chunked(y, &x, &scan);
    assert_near(x, 6, 2e-6, 0);
}

static void ex5_12_a_state_moves_over_a_chunk_at_once(void **state)
{
    (void)state; /* as over its tokens one by one */
    for (int i = 0; i < N_ODD; i++) {
        HeadScan scan = random_scan(odd_sizes[i], HAS_ALL, 80 + (uint64_t)i);
        size_t len = scan.len, states = scan.d_head * scan.d_state;
        float *a = NEW(float, len), *v = NEW(float, len *scan.d_head), *L = NEW(float, len *len);
        float *y = NEW(float, len *scan.d_head);
        float *x = NEW(float, 2 * states), *over = x + states;
        Head head = head_gather(a, v, &scan, 0, 0);
        memcpy(x, scan.x_start, states * sizeof(float));
        memcpy(over, scan.x_start, states * sizeof(float));
        head_recurrence(y, x, &head, 1);
        decay_mask(L, a, len);
        state_over_chunk(over, L, &head);
        assert_relmax(over, x, states, 1e-5);
        free(a), free(v), free(L), free(y), free(x);
        scan_free(&scan);
    }
}

/* ---- every way, at any size ----------------------------------------------------------------- */

static void check_recurrences(const HeadScan *scan)
{
    check_against_double(head_scan, scan);
    check_against_double(head_scan_fast, scan);
}

static void the_recurrences_agree_with_one_in_double(void **state)
{
    (void)state;
    for_odd_scans(check_recurrences);
}

static void check_chunks(const HeadScan *scan)
{
    check_against_double(head_scan_masked, scan);
    check_against_double(head_scan_chunked, scan);
}

static void ex5_12_chunks_and_the_mask_agree_with_the_scan_in_double(void **state)
{
    (void)state;
    for_odd_scans(check_chunks);
}

static void check_fast_chunks(const HeadScan *scan)
{
    check_against_double(head_scan_chunked_fast, scan);
}

static void fast_chunks_agree_with_the_scan_in_double(void **state)
{
    (void)state;
    for_odd_scans(check_fast_chunks);
}

static HeadForward *const every_way[] = {head_scan, head_scan_masked, head_scan_chunked,
                                         head_scan_fast, head_scan_chunked_fast};
enum { N_WAYS = sizeof every_way / sizeof *every_way };

static void no_tokens_leave_the_state_as_it_was(void **state)
{
    (void)state;
    const size_t size[7] = {2, 0, 2, 3, 1, 4, 5};
    HeadScan scan = random_scan(size, HAS_ALL, 1);
    size_t states = array_count(&scan, START);
    for (int i = 0; i < N_WAYS; i++) {
        float *x = nan_filled(states), y;
        every_way[i](&y, x, &scan);
        assert_memory_equal(x, scan.x_start, states * sizeof(float));
        free(x);
    }
    static HeadBackward *const back[] = {head_scan_backward, head_scan_masked_backward,
                                         head_scan_chunked_backward,
                                         head_scan_chunked_backward_fast};
    for (int i = 0; i < 4; i++) {
        HeadGrad grad;
        grad_new(&grad, &scan);
        back[i](&grad, scan.u, scan.x_start, &scan);
        assert_memory_equal(grad.x_start, scan.x_start, states * sizeof(float));
        for (size_t h = 0; h < scan.n_head; h++)
            assert_true(grad.A[h] == 0.0f && grad.D[h] == 0.0f && grad.delta_bias[h] == 0.0f);
        grad_free(&grad, &scan);
    }
    scan_free(&scan);
}

/* Tokens first .. first + len - 1 of a scan of one sequence. */
static HeadScan tokens_of(const HeadScan *scan, size_t first, size_t len)
{
    HeadScan piece = *scan;
    piece.len = len;
    piece.u += first * scan->n_head * scan->d_head;
    piece.delta += first * scan->n_head;
    piece.B += first * scan->n_group * scan->d_state;
    piece.C += first * scan->n_group * scan->d_state;
    return piece;
}

static void a_sequence_in_pieces_with_the_state_handed_on_is_the_whole(void **state)
{
    (void)state;
    const size_t size[7] = {1, 83, 4, 19, 2, 7, 8}, cut = 30;
    HeadScan scan = random_scan(size, HAS_ALL, 3);
    size_t row = scan.n_head * scan.d_head, states = array_count(&scan, START);
    for (int i = 0; i < N_WAYS; i++) {
        float *whole = nan_filled(83 * row), *y = nan_filled(83 * row);
        float *x = nan_filled(states), *last = nan_filled(states);
        HeadScan first = tokens_of(&scan, 0, cut), rest = tokens_of(&scan, cut, 83 - cut);
        every_way[i](whole, last, &scan);
        every_way[i](y, x, &first);
        rest.x_start = x; /* x_last may be x_start */
        every_way[i](y + cut * row, x, &rest);
        assert_relmax(y, whole, 83 * row, 1e-5);
        assert_relmax(x, last, states, 1e-5);
        free(whole), free(y), free(x), free(last);
    }
    scan_free(&scan);
}

/* A scan of chapter 4 with a head's Delta and A for each of its channels and states. */
static void ch04_of(Scan *out, float **memory, const HeadScan *scan)
{
    size_t tokens = scan->batch * scan->len, channels = scan->n_head * scan->d_head;
    float *delta = NEW(float, tokens *channels + channels * scan->d_state + 2 * channels);
    float *A = delta + tokens * channels, *D = A + channels * scan->d_state, *bias = D + channels;
    for (size_t i = 0; i < tokens * channels; i++)
        delta[i] = scan->delta[i / scan->d_head];
    for (size_t i = 0; i < channels * scan->d_state; i++)
        A[i] = scan->A[i / scan->d_state / scan->d_head];
    for (size_t d = 0; d < channels; d++) {
        D[d] = scan->D[d / scan->d_head];
        bias[d] = scan->delta_bias[d / scan->d_head];
    }
    *out = scan_new(scan->batch, scan->len, channels, scan->d_state, scan->u, delta, A, scan->B,
                    scan->C);
    out->D = D, out->delta_bias = bias, out->x_start = scan->x_start;
    out->delta_softplus = scan->delta_softplus;
    *memory = delta;
}

static void with_one_A_a_head_chapter_4_is_mamba_2(void **state)
{
    (void)state; /* the state lies in memory as chapter 4's does */
    const size_t size[7] = {2, 37, 3, 9, 1, 5, 10};
    HeadScan scan = random_scan(size, HAS_ALL, 4);
    size_t wide = array_count(&scan, U), states = array_count(&scan, START);
    float *memory, *want = nan_filled(wide), *want_last = nan_filled(states);
    float *y = nan_filled(wide), *last = nan_filled(states);
    Scan ch04;
    ch04_of(&ch04, &memory, &scan);
    selective_scan(want, want_last, &ch04);
    for (int i = 0; i < N_WAYS; i++) {
        every_way[i](y, last, &scan);
        assert_relmax(y, want, wide, 1e-5);
        assert_relmax(last, want_last, states, 1e-5);
    }
    free(memory), free(want), free(want_last), free(y), free(last);
    scan_free(&scan);
}

static void heads_of_a_group_share_B_and_C(void **state)
{
    (void)state; /* other B and C of group 1 move heads 2 and 3 of four, and no other */
    const size_t size[7] = {1, 9, 4, 3, 2, 5, 4};
    HeadScan scan = random_scan(size, HAS_SOFTPLUS, 5), moved = scan;
    size_t wide = array_count(&scan, U), shared = array_count(&scan, B_IN);
    float *B = NEW(float, shared), *y = NEW(float, wide), *other = NEW(float, wide);
    for (size_t i = 0; i < shared; i++)
        B[i] = scan.B[i] + (i / scan.d_state % 2 == 1 ? 1.0f : 0.0f);
    moved.B = B;
    for (int i = 0; i < N_WAYS; i++) {
        every_way[i](y, NULL, &scan);
        every_way[i](other, NULL, &moved);
        for (size_t k = 0; k < wide; k++)
            assert_int_equal(y[k] == other[k], k / scan.d_head % 4 < 2);
    }
    free(B), free(y), free(other);
    scan_free(&scan);
}

/* Long chunks, fast decays: products of decays that leave the range of floats must end as 0, and
   steps that are none or endless must do what they say. */
static void decays_that_vanish_agree_with_the_scan_in_double(void **state)
{
    (void)state;
    const size_t size[7] = {1, 200, 2, 18, 1, 6, 200};
    static const float wild[] = {0.0f, 90.0f, 1e-9f, 3.0f, 1000.0f};
    HeadScan scan = random_scan(size, HAS_D | HAS_START, 6);
    float *delta = NEW(float, 400);
    for (size_t i = 0; i < 400; i++)
        delta[i] = i % 57 == 3 ? wild[i / 57 % 5] : scan.delta[i];
    free((void *)(uintptr_t)scan.delta);
    scan.delta = delta;
    for (int i = 0; i < N_WAYS; i++)
        check_against_double(every_way[i], &scan);
    scan_free(&scan);
}

static void a_head_that_grows_agrees_with_the_scan_in_double(void **state)
{
    (void)state; /* A above 0 is nobody's wish, but it is what it is */
    const size_t size[7] = {1, 40, 1, 5, 1, 3, 16};
    static const float A[1] = {0.5f};
    HeadScan scan = random_scan(size, HAS_ALL, 7);
    const float *own = scan.A;
    scan.A = A;
    for (int i = 0; i < N_WAYS; i++)
        check_against_double(every_way[i], &scan);
    scan.A = own;
    scan_free(&scan);
}

static void a_nan_stays_in_its_head(void **state)
{
    (void)state;
    const size_t size[7] = {1, 70, 3, 20, 1, 6, 32};
    HeadScan scan = random_scan(size, HAS_ALL, 8);
    size_t wide = array_count(&scan, U);
    float *u = NEW(float, wide), *y = NEW(float, wide);
    memcpy(u, scan.u, wide * sizeof(float));
    u[(50 * 3 + 1) * 20 + 7] = NAN; /* token 50, head 1 */
    free((void *)(uintptr_t)scan.u);
    scan.u = u;
    for (int i = 0; i < N_WAYS; i++) {
        every_way[i](y, NULL, &scan);
        for (size_t k = 0; k < wide; k++) {
            size_t token = k / 60, head = k / 20 % 3;
            assert_true(isfinite(y[k]) || head == 1);
            assert_true(isfinite(y[k]) || token >= 32 || every_way[i] == head_scan_masked);
        }
        assert_true(isnan(y[(69 * 3 + 1) * 20 + 7]));
    }
    free(y);
    scan_free(&scan);
}

static void the_bits_do_not_depend_on_the_threads(void **state)
{
    (void)state;
    const size_t size[7] = {2, 150, 6, 33, 2, 12, 32};
    HeadScan scan = random_scan(size, HAS_ALL, 13);
    size_t wide = array_count(&scan, U), states = array_count(&scan, START);
    int most = threads_most();
    static HeadForward *const fast[2] = {head_scan_fast, head_scan_chunked_fast};
    for (int i = 0; i < 2; i++) {
        float *one = nan_filled(wide + states), *many = nan_filled(wide + states);
        threads_use(1);
        fast[i](one, one + wide, &scan);
        for (int threads = 2; threads <= 5; threads++) {
            threads_use(threads);
            fast[i](many, many + wide, &scan);
            assert_memory_equal(many, one, (wide + states) * sizeof(float));
        }
        free(one), free(many);
    }
    HeadGrad first, other;
    grad_new(&first, &scan);
    grad_new(&other, &scan);
    threads_use(1);
    head_scan_chunked_backward_fast(&first, scan.u, scan.x_start, &scan);
    for (int threads = 2; threads <= 5; threads++) {
        threads_use(threads);
        head_scan_chunked_backward_fast(&other, scan.u, scan.x_start, &scan);
        for (int i = 0; i < N_ARRAYS; i++)
            assert_memory_equal(*grad_array(&other, i), *grad_array(&first, i),
                                array_count(&scan, i) * sizeof(float));
    }
    threads_use(most);
    grad_free(&first, &scan);
    grad_free(&other, &scan);
    scan_free(&scan);
}

/* ---- backwards ------------------------------------------------------------------------------ */

/* Every gradient against (loss(v + h) - loss(v - h)) / 2h of the scan in double. */
static void check_slopes(HeadBackward *backward, const HeadScan *scan)
{
    Random random = random_from_seed(22);
    HeadGrad grad;
    HeadScan moved = *scan;
    float *y_grad = random_array(array_count(scan, U), -1, 1, &random);
    float *x_last_grad = random_array(array_count(scan, START), -1, 1, &random);
    grad_new(&grad, scan);
    backward(&grad, y_grad, x_last_grad, scan);
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
            double above = in_double(NULL, NULL, y_grad, x_last_grad, &moved);
            copy[i] = low;
            double below = in_double(NULL, NULL, y_grad, x_last_grad, &moved);
            copy[i] = values[i];
            slope[i] = (above - below) / ((double)high - (double)low);
        }
        assert_relmax_as(gradient_of(array_name[which]), *grad_array(&grad, which), slope, count,
                         1e-4); /* h^2, float sums */
        *scan_array(&moved, which) = values;
        free(copy);
        free(slope);
    }
    grad_free(&grad, scan);
    free(y_grad);
    free(x_last_grad);
}

static void for_slopes(HeadBackward *backward)
{
    static const size_t sizes[4][7] = {{1, 1, 1, 1, 1, 1, 1},
                                       {2, 7, 4, 3, 2, 3, 3},
                                       {1, 11, 2, 5, 1, 2, 4},
                                       {1, 5, 3, 2, 3, 4, 9}};
    for (int i = 0; i < 4; i++)
        for (int has = 0; has <= HAS_ALL; has += 5) {
            HeadScan scan = random_scan(sizes[i], has, 40 + (uint64_t)i);
            check_slopes(backward, &scan);
            scan_free(&scan);
        }
}

static void the_recurrence_s_gradients_are_the_slopes_of_the_loss(void **state)
{
    (void)state;
    for_slopes(head_scan_backward);
}

static void ex5_13_the_masked_gradients_are_the_slopes_of_the_loss(void **state)
{
    (void)state;
    for_slopes(head_scan_masked_backward);
}

static void ex5_13_the_chunks_gradients_are_the_slopes_of_the_loss(void **state)
{
    (void)state;
    for_slopes(head_scan_chunked_backward);
}

static void the_fast_chunks_gradients_are_the_slopes_of_the_loss(void **state)
{
    (void)state;
    for_slopes(head_scan_chunked_backward_fast);
}

/* All gradients of one way against those of the recurrence. */
static void check_same_gradients(HeadBackward *backward, const HeadScan *scan)
{
    Random random = random_from_seed(23);
    HeadGrad grad, want;
    float *y_grad = random_array(array_count(scan, U), -1, 1, &random);
    float *x_last_grad = random_array(array_count(scan, START), -1, 1, &random);
    grad_new(&grad, scan);
    grad_new(&want, scan);
    head_scan_backward(&want, y_grad, x_last_grad, scan);
    backward(&grad, y_grad, x_last_grad, scan);
    for (int i = 0; i < N_ARRAYS; i++) /* A's is a sum over tokens, of which little may be left */
        assert_relmax_as(gradient_of(array_name[i]), *grad_array(&grad, i), *grad_array(&want, i),
                         array_count(scan, i), 1e-4);
    grad_free(&grad, scan);
    grad_free(&want, scan);
    free(y_grad);
    free(x_last_grad);
}

static void check_clear_gradients(const HeadScan *scan)
{
    check_same_gradients(head_scan_masked_backward, scan);
    check_same_gradients(head_scan_chunked_backward, scan);
}

static void ex5_13_every_way_back_gives_the_same_gradients(void **state)
{
    (void)state;
    for_odd_scans(check_clear_gradients);
}

static void check_fast_gradients(const HeadScan *scan)
{
    check_same_gradients(head_scan_chunked_backward_fast, scan);
}

static void the_fast_way_back_gives_the_same_gradients(void **state)
{
    (void)state;
    for_odd_scans(check_fast_gradients);
}

static void ex5_13_the_ledger_of_the_lesson_by_hand(void **state)
{
    (void)state; /* three tokens; what is not 0 is 1, 2, 4, ..., so that each sum tells its parts */
    static const float passed[16] = {1,  2,  0,   0,   4,   8,    16,   0,
                                     32, 64, 128, 256, 512, 1024, 2048, 4096};
    static const float want[3] = {1 + 4 + 32 + 512, 4 + 8 + 32 + 64 + 512 + 1024,
                                  32 + 64 + 128 + 512 + 1024 + 2048};
    float *l_grad = nan_filled(3);
    decays_backward(l_grad, passed, 3);
    for (int t = 0; t < 3; t++)
        assert_that(l_grad[t] == want[t], "token %d has %g, expected %g", t, (double)l_grad[t],
                    (double)want[t]);
    assert_guarded(l_grad, 3);
    free(l_grad);
}

static void gradients_that_are_not_wanted_are_not_written(void **state)
{
    (void)state;
    const size_t size[7] = {1, 21, 4, 6, 2, 3, 5};
    static HeadBackward *const back[] = {head_scan_backward, head_scan_masked_backward,
                                         head_scan_chunked_backward,
                                         head_scan_chunked_backward_fast};
    HeadScan scan = random_scan(size, HAS_ALL, 30);
    for (int way = 0; way < 4; way++)
        for (int only = -1; only < N_ARRAYS; only++) {
            HeadGrad all, grad;
            memset(&grad, 0, sizeof grad);
            grad_new(&all, &scan);
            if (only >= 0)
                *grad_array(&grad, only) = nan_filled(array_count(&scan, only));
            back[way](&all, scan.u, NULL, &scan);
            back[way](&grad, scan.u, NULL, &scan);
            if (only >= 0)
                assert_relmax_as(gradient_of(array_name[only]), *grad_array(&grad, only),
                                 *grad_array(&all, only), array_count(&scan, only), 1e-6);
            grad_free(&all, &scan);
            if (only >= 0)
                free(*grad_array(&grad, only));
        }
    scan_free(&scan);
}

/* ---- bad sizes, and the program ------------------------------------------------------------- */

/* Is this scan refused, by each of these ways? */
static bool is_refused(HeadForward *forward, const HeadScan *scan)
{
    pid_t child = fork();
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        (void)!freopen("/dev/null", "w", stderr);
        forward(NEW(float, 4096), NULL, scan);
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void sizes_that_cannot_be_are_refused(void **state)
{
    (void)state;
    const size_t size[7] = {1, 8, 4, 2, 2, 3, 4};
    HeadScan good = random_scan(size, HAS_ALL, 60);
    for (int i = 0; i < N_WAYS; i++) {
        HeadScan scan = good;
        assert_false(is_refused(every_way[i], &scan));
        scan.n_group = 3; /* does not divide 4 heads */
        assert_true(is_refused(every_way[i], &scan));
        scan = good, scan.n_group = 0;
        assert_true(is_refused(every_way[i], &scan));
        scan = good, scan.d_state = 0;
        assert_true(is_refused(every_way[i], &scan));
        scan = good, scan.chunk = 0;
        assert_int_equal(is_refused(every_way[i], &scan),
                         every_way[i] == head_scan_chunked ||
                             every_way[i] == head_scan_chunked_fast);
    }
    scan_free(&good);
}

static void wrong_options_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *words, *sentence;
    } cases[] = {
        {"--chunk 0", "--chunk: 0 is out of range: 1 to 64"},
        {"--chunk 65", "--chunk: 65 is out of range: 1 to 64"},
        {"--chunk x", "--chunk: 'x' is not a whole number"},
        {"--length 0", "--length: 0 is out of range: 1 to 64"},
        {"--states 0", "--states: 0 is out of range: 1 to 256"},
        {"--demo nothing", "--demo: 'nothing' is none of hand"},
        {"--demo costs --chunk 3", "--chunk does nothing with --demo costs"},
        {"--demo hand --seed 2", "--seed does nothing with --demo hand"},
        {"--demo thread --ascii", "--ascii does nothing with --demo thread"},
        {"--svg x.svg", "--svg needs --demo matrix"},
        {"--demo hand --svg x.svg", "--demo matrix"},
        {"matrix", "'matrix' is not an option"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_command_says("ch05_mamba2", cases[i].words, cases[i].sentence, 2);
}

static void the_matrix_is_drawn_at_any_size(void **state)
{
    (void)state;
    static const char *const words[] = {"--length 1 --chunk 1", "--length 1 --chunk 64",
                                        "--length 64 --chunk 7 --states 256 --ascii",
                                        "--length 3 --chunk 1 --seed 0"};
    char text[32768], command[128];
    for (int i = 0; i < 4; i++) {
        snprintf(command, sizeof command, "--demo matrix %s", words[i]);
        run_program_output(text, sizeof text, "ch05_mamba2", command);
        assert_contains(text, "agree to 1e-5 of the largest y: yes.");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_recurrence_agrees_with_golden),
        cmocka_unit_test(ex5_12_masked_attention_agrees_with_golden),
        cmocka_unit_test(ex5_12_chunks_of_any_length_agree_with_golden),
        cmocka_unit_test(fast_chunks_agree_with_golden),
        cmocka_unit_test(the_recurrence_backwards_agrees_with_golden),
        cmocka_unit_test(ex5_13_masked_attention_backwards_agrees_with_golden),
        cmocka_unit_test(ex5_13_chunks_backwards_agree_with_golden),
        cmocka_unit_test(fast_chunks_backwards_agree_with_golden),
        cmocka_unit_test(ex5_11_the_lesson_s_mask_by_hand),
        cmocka_unit_test(ex5_11_a_decay_of_zero_cuts_and_one_above_one_grows),
        cmocka_unit_test(ex5_11_the_matrix_times_the_values_is_the_recurrence),
        cmocka_unit_test(a_block_below_the_diagonal_is_as_narrow_as_the_state),
        cmocka_unit_test(ex5_12_the_lesson_s_chunks_by_hand),
        cmocka_unit_test(ex5_12_a_state_moves_over_a_chunk_at_once),
        cmocka_unit_test(the_recurrences_agree_with_one_in_double),
        cmocka_unit_test(ex5_12_chunks_and_the_mask_agree_with_the_scan_in_double),
        cmocka_unit_test(fast_chunks_agree_with_the_scan_in_double),
        cmocka_unit_test(no_tokens_leave_the_state_as_it_was),
        cmocka_unit_test(a_sequence_in_pieces_with_the_state_handed_on_is_the_whole),
        cmocka_unit_test(with_one_A_a_head_chapter_4_is_mamba_2),
        cmocka_unit_test(heads_of_a_group_share_B_and_C),
        cmocka_unit_test(decays_that_vanish_agree_with_the_scan_in_double),
        cmocka_unit_test(a_head_that_grows_agrees_with_the_scan_in_double),
        cmocka_unit_test(a_nan_stays_in_its_head),
        cmocka_unit_test(the_bits_do_not_depend_on_the_threads),
        cmocka_unit_test(the_recurrence_s_gradients_are_the_slopes_of_the_loss),
        cmocka_unit_test(ex5_13_the_masked_gradients_are_the_slopes_of_the_loss),
        cmocka_unit_test(ex5_13_the_chunks_gradients_are_the_slopes_of_the_loss),
        cmocka_unit_test(the_fast_chunks_gradients_are_the_slopes_of_the_loss),
        cmocka_unit_test(ex5_13_every_way_back_gives_the_same_gradients),
        cmocka_unit_test(the_fast_way_back_gives_the_same_gradients),
        cmocka_unit_test(ex5_13_the_ledger_of_the_lesson_by_hand),
        cmocka_unit_test(gradients_that_are_not_wanted_are_not_written),
        cmocka_unit_test(sizes_that_cannot_be_are_refused),
        cmocka_unit_test(wrong_options_are_named),
        cmocka_unit_test(the_matrix_is_drawn_at_any_size),
    };
    return cmocka_run_group_tests_name("chapter 5c", tests, NULL, NULL);
}
