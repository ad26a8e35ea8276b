/* A scan of chapter 4 array by array, and the scans of the golden files ch04_*.safetensors, for the
   tests of chapters 4 and 6. Include this after the chapter under test; it includes golden.h. */

#ifndef TESTS_GOLDEN_SCAN
#define TESTS_GOLDEN_SCAN

#include "golden.h"

enum { N_ARRAYS = 9 };

/* The arrays of a Scan in one order, each also with the name that it has in the golden files. */
static const char *const array_name[N_ARRAYS] = {"u", "delta", "delta_bias", "A", "B",
                                                 "C", "D",     "z",          "h0"};

static inline const float **scan_array(Scan *scan, int which)
{
    const float **arrays[N_ARRAYS] = {&scan->u, &scan->delta, &scan->delta_bias,
                                      &scan->A, &scan->B,     &scan->C,
                                      &scan->D, &scan->z,     &scan->x_start};
    return arrays[which];
}

static inline float **grad_array(ScanGrad *grad, int which)
{
    float **arrays[N_ARRAYS] = {&grad->u, &grad->delta, &grad->delta_bias, &grad->A,      &grad->B,
                                &grad->C, &grad->D,     &grad->z,          &grad->x_start};
    return arrays[which];
}

static inline size_t array_count(const Scan *scan, int which)
{
    size_t wide = scan->batch * scan->len * scan->d_inner;
    size_t shared = scan->batch * scan->len * scan->d_state;
    size_t A = scan->d_inner * scan->d_state;
    size_t counts[N_ARRAYS] = {wide,          wide, scan->d_inner,  A, shared, shared,
                               scan->d_inner, wide, scan->batch * A};
    return counts[which];
}

static inline void scan_free(Scan *scan)
{
    for (int i = 0; i < N_ARRAYS; i++)
        free((void *)(uintptr_t)*scan_array(scan, i));
}

static inline void grads_new(ScanGrad *grad, const Scan *scan)
{
    for (int i = 0; i < N_ARRAYS; i++)
        *grad_array(grad, i) = nan_filled(array_count(scan, i));
}

static inline void grads_free(ScanGrad *grad, const Scan *scan)
{
    for (int i = 0; i < N_ARRAYS; i++) {
        assert_guarded(*grad_array(grad, i), array_count(scan, i));
        free(*grad_array(grad, i));
    }
}

/* A golden tensor (batch, rows, len) as (batch, len, rows). */
static inline float *tokens_first(const Safetensors *file, const char *name)
{
    const Tensor *tensor;
    float *from = golden_floats(&tensor, file, name), *to = NEW(float, tensor->count);
    size_t batch = tensor->shape[0], rows = tensor->shape[1], len = tensor->shape[2];
    size_t shape[TENSOR_MAX_RANK] = {batch, len, rows};
    for (size_t b = 0; b < batch; b++)
        for (size_t r = 0; r < rows; r++)
            for (size_t t = 0; t < len; t++)
                to[(b * len + t) * rows + r] = from[(b * rows + r) * len + t];
    golden_remember(to, sizeof *to, file, tensor, shape);
    free(from);
    return to;
}

static inline bool is_over_time(int which)
{
    return strchr("udBCz", array_name[which][0]) && strcmp(array_name[which], "delta_bias") != 0;
}

static inline float *golden_array(const Safetensors *file, const char *prefix, int which)
{
    char name[64];
    snprintf(name, sizeof name, "%s%s", prefix, array_name[which]);
    if (!golden_has(file, name))
        return NULL;
    return is_over_time(which) ? tokens_first(file, name) : golden_floats(NULL, file, name);
}

/* What the INDEX calls cfg says which parts are used; a file may hold others. */
static inline void golden_scan(Scan *scan, const Safetensors *file)
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
static inline double golden_tolerance(const Safetensors *file)
{
    return strstr(file->path, "extreme") ? 2e-5 : 1e-5;
}

#endif
