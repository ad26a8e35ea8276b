/* Chapter 4 held against golden data, finite differences, chapters 1 to 3, and itself: the fast
   scan against the clear one, the parallel ones against the loop. */

#include "../ch04_selective/selective.c"
#include "golden.h"

typedef void ScanForward(float *y, float *x_last, const Scan *scan);
typedef void ScanBackward(const ScanGrad *grad, const float *y_grad, const float *x_last_grad,
                          const Scan *scan, float *work);

static void for_each_golden(const char *pattern, void (*check)(const Safetensors *))
{
    glob_t found;
    size_t files = golden_list(&found, pattern);
    for (size_t f = 0; f < files; f++) {
        Safetensors file;
        golden_open(&file, found.gl_pathv[f]);
        check(&file);
        safetensors_close(&file);
    }
    globfree(&found);
}

/* ---- a scan with arrays of its own -------------------------------------------------------- */

enum { N_ARRAYS = 9 };

/* The arrays of a Scan in one order, each also with the name that it has in the golden files. */
static const char *const array_name[N_ARRAYS] = {"u", "delta", "delta_bias", "A", "B",
                                                 "C", "D",     "z",          "h0"};

static const float **scan_array(Scan *scan, int which)
{
    const float **arrays[N_ARRAYS] = {&scan->u, &scan->delta, &scan->delta_bias,
                                      &scan->A, &scan->B,     &scan->C,
                                      &scan->D, &scan->z,     &scan->x_start};
    return arrays[which];
}

static float **grad_array(ScanGrad *grad, int which)
{
    float **arrays[N_ARRAYS] = {&grad->u, &grad->delta, &grad->delta_bias, &grad->A,      &grad->B,
                                &grad->C, &grad->D,     &grad->z,          &grad->x_start};
    return arrays[which];
}

static size_t array_count(const Scan *scan, int which)
{
    size_t wide = scan->batch * scan->len * scan->d_inner;
    size_t shared = scan->batch * scan->len * scan->d_state;
    size_t A = scan->d_inner * scan->d_state;
    size_t counts[N_ARRAYS] = {wide,          wide, scan->d_inner,  A, shared, shared,
                               scan->d_inner, wide, scan->batch * A};
    return counts[which];
}

static void scan_free(Scan *scan)
{
    for (int i = 0; i < N_ARRAYS; i++)
        free((void *)(uintptr_t)*scan_array(scan, i));
}

/* Memory that reads as NaN until it is written, with a guard behind it. */
static float *nan_filled(size_t count)
{
    float *values = NEW(float, count + 4);
    for (size_t i = 0; i < count; i++)
        values[i] = NAN;
    for (size_t i = count; i < count + 4; i++)
        values[i] = 12345.0f;
    return values;
}

static void assert_guarded(const float *values, size_t count)
{
    for (size_t i = count; i < count + 4; i++)
        assert_true(values[i] == 12345.0f);
}

static void grad_new(ScanGrad *grad, const Scan *scan)
{
    for (int i = 0; i < N_ARRAYS; i++)
        *grad_array(grad, i) = nan_filled(array_count(scan, i));
}

static void grad_free(ScanGrad *grad, const Scan *scan)
{
    for (int i = 0; i < N_ARRAYS; i++) {
        assert_guarded(*grad_array(grad, i), array_count(scan, i));
        free(*grad_array(grad, i));
    }
}

/* ---- golden data --------------------------------------------------------------------------- */

/* A golden tensor (batch, rows, len) as (batch, len, rows). */
static float *tokens_first(const Safetensors *file, const char *name)
{
    const Tensor *tensor;
    float *from = golden_floats(&tensor, file, name), *to = NEW(float, tensor->count);
    size_t batch = tensor->shape[0], rows = tensor->shape[1], len = tensor->shape[2];
    for (size_t b = 0; b < batch; b++)
        for (size_t r = 0; r < rows; r++)
            for (size_t t = 0; t < len; t++)
                to[(b * len + t) * rows + r] = from[(b * rows + r) * len + t];
    free(from);
    return to;
}

static bool is_over_time(int which)
{
    return strchr("udBCz", array_name[which][0]) && strcmp(array_name[which], "delta_bias") != 0;
}

static float *golden_array(const Safetensors *file, const char *prefix, int which)
{
    char name[64];
    snprintf(name, sizeof name, "%s%s", prefix, array_name[which]);
    if (!golden_has(file, name))
        return NULL;
    return is_over_time(which) ? tokens_first(file, name) : golden_floats(NULL, file, name);
}

/* What the INDEX calls cfg says which parts are used; a file may hold others. */
static void golden_scan(Scan *scan, const Safetensors *file)
{
    const Tensor *tensor;
    double *cfg = golden_doubles(&tensor, file, "cfg");
    assert_int_equal(tensor->count, 9);
    memset(scan, 0, sizeof *scan);
    scan->batch = (size_t)cfg[0];
    scan->len = (size_t)cfg[1];
    scan->d_inner = (size_t)cfg[2];
    scan->d_state = (size_t)cfg[3];
    scan->delta_softplus = cfg[4] != 0.0;
    bool used[N_ARRAYS] = {true, true,        cfg[8] != 0.0, true,         true,
                           true, cfg[6] != 0, cfg[5] != 0.0, cfg[7] != 0.0};
    for (int i = 0; i < N_ARRAYS; i++)
        if (used[i]) {
            *scan_array(scan, i) = golden_array(file, "", i);
            assert_non_null(*scan_array(scan, i));
        }
    free(cfg);
}

/* INDEX.md: 1e-5 for values and 5e-5 for gradients, twice that for the extreme cases. */
static double golden_tolerance(const Safetensors *file)
{
    return strstr(file->path, "extreme") ? 2e-5 : 1e-5;
}

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

static void the_clear_scan_agrees_with_golden(void **state)
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
    assert_relmax(got, want, count, golden_tolerance(file));
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
    grad_new(&grad, &scan);
    float *y_grad = tokens_first(file, "g");
    backward(&grad, y_grad, NULL, &scan, NULL);
    double tolerance = strstr(file->path, "extreme") ? 1e-4 : 5e-5;
    for (int i = 0; i < N_ARRAYS; i++) {
        float *want = golden_array(file, "grad.", i);
        if (*scan_array(&scan, i) != NULL && want != NULL) {
            assert_relmax(*grad_array(&grad, i), want, array_count(&scan, i), tolerance);
        }
        free(want);
    }
    free(y_grad);
    grad_free(&grad, &scan);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_clear_scan_agrees_with_golden),
        cmocka_unit_test(every_state_of_the_step_agrees_with_golden),
        cmocka_unit_test(ex4_1_softplus_agrees_with_golden_at_every_size),
        cmocka_unit_test(the_fast_scan_agrees_with_golden),
        cmocka_unit_test(the_fast_backward_pass_agrees_with_golden),
        cmocka_unit_test(ex4_3_the_clear_backward_pass_agrees_with_golden),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
