/* Chapter 5's block held against golden data, finite differences, itself in pieces, and chapter
   4. */

#include "../ch05_mamba_block/attention.c"
#include "golden.h"

/* Memory that reads as NaN until it is written, and for a vector more. */
static float *nan_padded(size_t count)
{
    float *values = NEW(float, count + 16);
    for (size_t i = 0; i < count + 16; i++)
        values[i] = NAN;
    return values;
}

static float *random_array(size_t count, Random *random)
{
    float *values = NEW(float, count + 1);
    for (size_t i = 0; i < count; i++)
        values[i] = (float)(2.0 * random_uniform(random) - 1.0);
    return values;
}

/* ---- matrix products ------------------------------------------------------------------------ */

static const size_t sizes[][3] = {{1, 1, 1},   {2, 3, 5},    {3, 17, 33},  {4, 1, 257},
                                  {5, 31, 2},  {13, 33, 65}, {33, 257, 3}, {31, 300, 130},
                                  {257, 7, 1}, {12, 64, 128}};
enum { N_SIZES = sizeof sizes / sizeof *sizes };

static void fast_products_are_the_clear_ones_at_any_size(void **state)
{
    (void)state;
    for (int k = 0; k < N_SIZES; k++) {
        size_t tokens = sizes[k][0], d_in = sizes[k][1], d_out = sizes[k][2];
        Random random = random_from_seed((uint64_t)k);
        float *x = random_array(tokens * d_in, &random), *W = random_array(d_in * d_out, &random);
        float *bias = random_array(d_out, &random), *dy = random_array(tokens * d_out, &random);
        float *want = nan_padded(tokens * d_out), *got = nan_padded(tokens * d_out);
        linear_forward(want, x, W, bias, tokens, d_in, d_out);
        linear_forward_fast(got, x, W, bias, tokens, d_in, d_out);
        assert_relmax(got, want, tokens * d_out, 2e-6); /* eps sqrt(terms) */
        assert_true(isnan(got[tokens * d_out]));
        linear_forward(want, x, W, NULL, tokens, d_in, d_out);
        linear_forward_fast(got, x, W, NULL, tokens, d_in, d_out);
        assert_relmax(got, want, tokens * d_out, 2e-6);
        float *want_x = nan_padded(tokens * d_in), *got_x = nan_padded(tokens * d_in);
        for (int add = 0; add < 2; add++) {
            linear_backward_input(want_x, dy, W, add, tokens, d_in, d_out);
            linear_backward_input_fast(got_x, dy, W, add, tokens, d_in, d_out);
            assert_relmax(got_x, want_x, tokens * d_in, 2e-6);
            assert_true(isnan(got_x[tokens * d_in]));
        }
        float *want_W = nan_padded(d_in * d_out), *got_W = nan_padded(d_in * d_out);
        linear_backward_weight(want_W, dy, x, tokens, d_in, d_out);
        linear_backward_weight_fast(got_W, dy, x, tokens, d_in, d_out);
        assert_relmax(got_W, want_W, d_in * d_out, 2e-6);
        assert_true(isnan(got_W[d_in * d_out]));
        free(x), free(W), free(bias), free(dy), free(want), free(got);
        free(want_x), free(got_x), free(want_W), free(got_W);
    }
}

static void a_product_worked_by_hand(void **state)
{
    (void)state; /* (1, 2) and (3, 4) through W = ((1, 1), (0, 2), (5, 0)), bias (10, 20, 30) */
    static const float x[4] = {1, 2, 3, 4}, W[6] = {1, 1, 0, 2, 5, 0}, bias[3] = {10, 20, 30};
    static const float by_hand[6] = {13, 24, 35, 17, 28, 45};
    float y[6];
    linear_forward(y, x, W, bias, 2, 2, 3);
    assert_memory_equal(y, by_hand, sizeof y);
    linear_forward_fast(y, x, W, bias, 2, 2, 3);
    assert_memory_equal(y, by_hand, sizeof y);
}

static void a_token_s_bits_do_not_depend_on_the_other_tokens(void **state)
{
    (void)state;
    Random random = random_from_seed(9);
    float *x = random_array(50 * 300, &random), *W = random_array(300 * 70, &random);
    float *all = nan_padded(50 * 70), *some = nan_padded(50 * 70);
    linear_forward_fast(all, x, W, NULL, 50, 300, 70);
    linear_forward_fast(some, x + 7 * 300, W, NULL, FEW_TOKENS, 300, 70);
    assert_memory_equal(some, all + 7 * 70, FEW_TOKENS * 70 * sizeof(float));
    free(x), free(W), free(all), free(some);
}

/* a b + c as the processor does it: rounded once where it can. */
static float multiply_add(float a, float b, float c)
{
#ifdef __FMA__
    return fmaf(a, b, c);
#else
    return lanes_multiply_add(lanes_all(a), lanes_all(b), lanes_all(c))[0];
#endif
}

/* A product as its bits are promised: over k in order, in stretches of 256. */
static void product_in_order(float *out, Strided left, Strided right, size_t rows, size_t cols,
                             size_t depth, bool add)
{
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++)
            for (size_t first = 0; first < depth; first += 256) {
                float sum = 0.0f, *to = out + i * cols + j;
                for (size_t k = first; k < depth && k < first + 256; k++)
                    sum = multiply_add(left.at[i * left.row + k * left.col],
                                       right.at[k * right.row + j * right.col], sum);
                *to = add || first > 0 ? sum + *to : sum;
            }
}

/* Tokens, d_in and d_out on both sides of every border: of a vector, a tile, a block of rows, a
   panel, a stretch, and of what is copied, read in place or worked out as a transpose. */
static const size_t in_order[][3] = {{4, 1, 1},      {5, 31, 2},    {9, 33, 65},    {7, 515, 100},
                                     {70, 400, 40},  {300, 8, 130}, {261, 16, 500}, {64, 48, 48},
                                     {130, 64, 112}, {50, 260, 49}, {257, 30, 7},   {600, 4, 64}};

static void products_are_fused_multiply_adds_in_order(void **state)
{
    (void)state;
    int threads = threads_most();
    for (size_t n = 0; n < sizeof in_order / sizeof *in_order; n++) {
        size_t tokens = in_order[n][0], d_in = in_order[n][1], d_out = in_order[n][2];
        Random random = random_from_seed(n);
        float *x = random_array(tokens * d_in, &random), *W = random_array(d_in * d_out, &random);
        float *dy = random_array(tokens * d_out, &random);
        float *want = nan_padded(tokens * d_out), *got = nan_padded(tokens * d_out);
        float *want_x = nan_padded(tokens * d_in), *got_x = nan_padded(tokens * d_in);
        float *want_W = nan_padded(d_in * d_out), *got_W = nan_padded(d_in * d_out);
        threads_use((int)((n + 1) % 3) + 1);
        product_in_order(want, strided(x, d_in, 1), strided(W, 1, d_in), tokens, d_out, d_in,
                         false);
        linear_forward_fast(got, x, W, NULL, tokens, d_in, d_out);
        assert_memory_equal(got, want, tokens * d_out * sizeof(float));
        assert_true(isnan(got[tokens * d_out]));
        for (int add = 0; add < 2; add++) {
            product_in_order(want_x, strided(dy, d_out, 1), strided(W, d_in, 1), tokens, d_in,
                             d_out, add);
            linear_backward_input_fast(got_x, dy, W, add, tokens, d_in, d_out);
            assert_memory_equal(got_x, want_x, tokens * d_in * sizeof(float));
        }
        assert_true(isnan(got_x[tokens * d_in]));
        product_in_order(want_W, strided(dy, 1, d_out), strided(x, d_in, 1), d_out, d_in, tokens,
                         false);
        linear_backward_weight_fast(got_W, dy, x, tokens, d_in, d_out);
        assert_memory_equal(got_W, want_W, d_in * d_out * sizeof(float));
        assert_true(isnan(got_W[d_in * d_out]));
        free(x), free(W), free(dy), free(want), free(got);
        free(want_x), free(got_x), free(want_W), free(got_W);
    }
    threads_use(threads);
}

static void a_dot_product_counts_every_number_once(void **state)
{
    static const size_t counts[] = {1, 15, 16, 17, 63, 64, 65, 257};
    float x[257], w[257];
    (void)state;
    for (size_t i = 0; i < 257; i++) { /* whole numbers: every order of adding gives the same */
        x[i] = (float)(i % 13) - 5.0f;
        w[i] = (float)(i % 7) + 1.0f;
    }
    for (size_t k = 0; k < sizeof counts / sizeof *counts; k++) {
        double sum = 0.0;
        for (size_t i = 0; i < counts[k]; i++)
            sum += (double)(x[i] * w[i]);
        assert_true((double)dot(x, w, counts[k]) == sum);
    }
}

static void a_product_of_no_depth_is_zero(void **state)
{
    (void)state;
    static const float zeros[33 * 5] = {0};
    float *W = nan_padded(33 * 5);
    linear_backward_weight_fast(W, zeros, zeros, 0, 33, 5);
    assert_memory_equal(W, zeros, sizeof zeros);
    assert_true(isnan(W[33 * 5]));
    free(W);
}

/* ---- the convolution ------------------------------------------------------------------------ */

/* Sizes of a convolution: batch, len, d_inner, d_conv. Widths below, at and beyond a strip; more
   taps than tokens; one tap. */
static const size_t conv_sizes[][4] = {{1, 1, 1, 1},   {1, 1, 3, 4},   {2, 3, 5, 4},
                                       {1, 7, 64, 2},  {2, 5, 65, 4},  {1, 33, 31, 16},
                                       {3, 2, 256, 5}, {1, 40, 17, 3}, {2, 9, 300, 4}};
enum { N_CONV_SIZES = sizeof conv_sizes / sizeof *conv_sizes };

static void the_fast_convolution_is_the_clear_one(void **state)
{
    (void)state;
    for (int k = 0; k < 4 * N_CONV_SIZES; k++) { /* with a past and a bias, and without */
        const size_t *size = conv_sizes[k / 4];
        size_t batch = size[0], len = size[1], d_inner = size[2], d_conv = size[3];
        size_t count = batch * len * d_inner;
        Random random = random_from_seed((uint64_t)(100 + k));
        float *u = random_array(count, &random), *weight = random_array(d_inner * d_conv, &random);
        float *bias = random_array(d_inner, &random), *zeros = NEW(float, d_inner);
        float *past = random_array(batch * (d_conv - 1) * d_inner, &random);
        float *want = nan_padded(count), *got = nan_padded(count);
        conv1d_forward(want, u, k & 1 ? past : NULL, zeros, weight, k & 2 ? bias : NULL, batch, len,
                       d_inner, d_conv);
        conv1d_forward_fast(got, u, k & 1 ? past : NULL, zeros, weight, k & 2 ? bias : NULL, batch,
                            len, d_inner, d_conv);
        assert_all_near(got, want, count, 2e-6, 2e-6); /* eps times 16 taps; fused or not */
        assert_true(isnan(got[count]));
        free(u), free(weight), free(bias), free(zeros), free(past), free(want), free(got);
    }
}

static void the_fast_convolution_goes_back_as_the_clear_one(void **state)
{
    (void)state;
    for (int k = 0; k < N_CONV_SIZES; k++) {
        size_t batch = conv_sizes[k][0], len = conv_sizes[k][1], d_inner = conv_sizes[k][2];
        size_t d_conv = conv_sizes[k][3], count = batch * len * d_inner;
        Random random = random_from_seed((uint64_t)(200 + k));
        float *u = random_array(count, &random), *weight = random_array(d_inner * d_conv, &random);
        float *dy = random_array(count, &random);
        float *want[3] = {nan_padded(count), nan_padded(d_inner * d_conv), nan_padded(d_inner)};
        float *got[3] = {nan_padded(count), nan_padded(d_inner * d_conv), nan_padded(d_inner)};
        conv1d_backward(want[0], want[1], want[2], dy, u, weight, batch, len, d_inner, d_conv);
        conv1d_backward_fast(got[0], got[1], got[2], dy, u, weight, batch, len, d_inner, d_conv);
        assert_all_near(got[0], want[0], count, 2e-6, 2e-6);
        assert_all_near(got[1], want[1], d_inner * d_conv, 5e-6, 5e-6); /* eps times 40 tokens */
        assert_all_near(got[2], want[2], d_inner, 5e-6, 5e-6);
        assert_true(isnan(got[0][count]) && isnan(got[1][d_inner * d_conv]) &&
                    isnan(got[2][d_inner]));
        conv1d_backward(want[0], want[1], NULL, dy, u, weight, batch, len, d_inner, d_conv);
        conv1d_backward_fast(got[0], got[1], NULL, dy, u, weight, batch, len, d_inner, d_conv);
        assert_all_near(got[0], want[0], count, 2e-6, 2e-6);
        free(u), free(weight), free(dy);
        for (int i = 0; i < 3; i++)
            free(want[i]), free(got[i]);
    }
}

static void the_convolution_s_way_back_by_hand(void **state)
{
    (void)state; /* weights (1, 10, 100), inputs 1, 2, 3, 4; only the last output wants a change, by
                    1: the three inputs that it saw get its weights, and the weights those inputs */
    static const float u[4] = {1, 2, 3, 4}, weight[3] = {1, 10, 100}, dy[4] = {0, 0, 0, 1};
    static const float u_want[4] = {0, 1, 10, 100}, weight_want[3] = {2, 3, 4};
    float u_grad[4], weight_grad[3], bias_grad[1];
    conv1d_backward(u_grad, weight_grad, bias_grad, dy, u, weight, 1, 4, 1, 3);
    assert_all_near(u_grad, u_want, 4, 0, 0);
    assert_all_near(weight_grad, weight_want, 3, 0, 0);
    assert_true(bias_grad[0] == 1.0f);
}

/* ---- golden data ---------------------------------------------------------------------------- */

static const char *const mixer_names[BLOCK_TENSORS] = {NULL,
                                                       "in_proj.weight",
                                                       NULL,
                                                       "conv1d.weight",
                                                       "conv1d.bias",
                                                       "x_proj.weight",
                                                       "dt_proj.weight",
                                                       "dt_proj.bias",
                                                       "A_log",
                                                       "D",
                                                       "out_proj.weight",
                                                       NULL};

/* A block on the heap with its cache and workspace, everything of its own. */
typedef struct {
    MambaBlock block;
    BlockCache cache;
    BlockBack back;
    BlockParams grad;
    float *params, *grads, *cache_memory, *back_memory;
} Bench;

static Bench bench_new(const MambaConfig *config, size_t batch, size_t len, uint64_t seed)
{
    Bench bench;
    Random random = random_from_seed(seed);
    bench.block.config = *config;
    TensorShape shapes[BLOCK_TENSORS];
    block_shapes(shapes, config);
    size_t floats = block_params_place(&bench.grad, NULL, shapes);
    bench.params = nan_padded(floats);
    bench.grads = nan_padded(floats);
    block_params_place(&bench.block.params, bench.params, shapes);
    block_params_place(&bench.grad, bench.grads, shapes);
    bench.block.A = nan_padded(config->intermediate_size * config->state_size);
    block_init(&bench.block.params, config, &random);
    block_refresh(&bench.block);
    bench.cache_memory =
        nan_padded(block_cache_place(&bench.cache, NULL, &bench.block, batch, len, true));
    block_cache_place(&bench.cache, bench.cache_memory, &bench.block, batch, len, true);
    bench.back_memory = nan_padded(block_back_place(&bench.back, NULL, &bench.cache, &bench.block));
    block_back_place(&bench.back, bench.back_memory, &bench.cache, &bench.block);
    return bench;
}

static void bench_free(Bench *bench)
{
    free(bench->params), free(bench->grads), free(bench->block.A);
    free(bench->cache_memory), free(bench->back_memory);
}

static Bench golden_bench(const Safetensors *file)
{
    double *cfg = golden_doubles(NULL, file, "cfg");
    MambaConfig config = config_default((size_t)cfg[2]);
    config.state_size = (size_t)cfg[3];
    config.expand = (size_t)cfg[4];
    config.intermediate_size = config.expand * config.hidden_size;
    config.conv_kernel = (size_t)cfg[5];
    config.time_step_rank = (size_t)cfg[6];
    Bench bench = bench_new(&config, (size_t)cfg[0], (size_t)cfg[1], 1);
    for (int i = 0; i < BLOCK_TENSORS; i++)
        if (mixer_names[i]) {
            const Tensor *tensor;
            float *values = golden_floats(&tensor, file, mixer_names[i]);
            memcpy(bench.block.params.tensor[i], values, tensor->count * sizeof(float));
            free(values);
        }
    block_refresh(&bench.block);
    free(cfg);
    return bench;
}

static void assert_golden(const Safetensors *file, const char *name, const float *got,
                          double tolerance)
{
    const Tensor *tensor;
    float *want = golden_floats(&tensor, file, name);
    assert_relmax_as(name, got, want, tensor->count, tolerance);
    free(want);
}

/* Two arrays (tokens, d_inner) side by side, as in_proj makes them. */
static float *side_by_side(const float *u, const float *z, size_t tokens, size_t d_inner)
{
    float *both = NEW(float, 2 * tokens * d_inner);
    columns_in(both, u, 0, d_inner, tokens, 2 * d_inner);
    columns_in(both, z, d_inner, d_inner, tokens, 2 * d_inner);
    return both;
}

static void check_mixer(const Safetensors *file)
{
    Bench bench = golden_bench(file);
    BlockCache *cache = &bench.cache;
    size_t d_inner = bench.block.config.intermediate_size, d_conv = bench.block.config.conv_kernel;
    size_t tokens = cache->batch * cache->len, d_model = bench.block.config.hidden_size;
    float *input = golden_floats(NULL, file, "input"), *out = nan_padded(tokens * d_model);
    float *memory = NEW(float, block_state_floats(&bench.block.config, cache->batch));
    BlockState state = block_state_place(memory, &bench.block.config, cache->batch);
    memcpy(cache->normed, input, tokens * d_model * sizeof(float)); /* no norm in this file */
    mixer_forward(out, cache, &state, &bench.block);
    float *xz = side_by_side(cache->u_raw, cache->z, tokens, d_inner);
    assert_golden(file, "xz", xz, 5e-6);
    assert_golden(file, "conv", cache->conv, 5e-6);
    assert_golden(file, "x", cache->u, 5e-6);
    assert_golden(file, "x_dbl", cache->x_dbl, 5e-6);
    assert_golden(file, "dt_low", cache->dt_low, 5e-6);
    assert_golden(file, "B", cache->B, 5e-6);
    assert_golden(file, "C", cache->C, 5e-6);
    assert_golden(file, "dt_raw", cache->dt_raw, 5e-6);
    assert_golden(file, "gated", cache->gated, 5e-6);
    assert_golden(file, "out", out, 5e-6);
    assert_golden(file, "last_state", state.x, 5e-6);
    /* the file keeps d_conv inputs, channels first; the block needs the last d_conv - 1 */
    float *kept = golden_floats(NULL, file, "conv_state");
    for (size_t b = 0; b < cache->batch; b++)
        for (size_t d = 0; d < d_inner; d++)
            for (size_t j = 1; j < d_conv; j++)
                assert_near(state.conv[(b * (d_conv - 1) + j - 1) * d_inner + d],
                            kept[(b * d_inner + d) * d_conv + j], 1e-5, 1e-5);
    /* what the fast scan does inside itself: Delta, and y before the gate */
    Scan scan = block_scan(cache, &bench.block, NULL);
    float *wide = nan_padded(tokens * d_inner);
    for (size_t i = 0; i < tokens * d_inner; i++)
        wide[i] = step_size(&scan, i / d_inner, i % d_inner);
    assert_golden(file, "delta", wide, 5e-6);
    scan.z = NULL;
    scan.checkpoint = NULL;
    selective_scan(wide, NULL, &scan);
    assert_golden(file, "scan", wide, 5e-6);
    free(input), free(out), free(memory), free(xz), free(kept), free(wide);
    bench_free(&bench);
}

static void the_mixer_agrees_with_golden_at_every_stage(void **state)
{
    (void)state;
    for_each_golden("ch05_mixer*.safetensors", check_mixer);
}

static void check_mixer_backward(const Safetensors *file)
{
    Bench bench = golden_bench(file);
    BlockCache *cache = &bench.cache;
    BlockBack *back = &bench.back;
    size_t d_inner = bench.block.config.intermediate_size, tokens = cache->batch * cache->len;
    size_t d_model = bench.block.config.hidden_size;
    float *input = golden_floats(NULL, file, "input"), *out = nan_padded(tokens * d_model);
    float *out_grad = golden_floats(NULL, file, "g");
    memcpy(cache->normed, input, tokens * d_model * sizeof(float));
    mixer_forward(out, cache, NULL, &bench.block);
    mixer_backward(&bench.grad, back, out_grad, cache, &bench.block);
    for (int i = 0; i < BLOCK_TENSORS; i++)
        if (mixer_names[i]) {
            char name[64];
            snprintf(name, sizeof name, "grad.%s", mixer_names[i]);
            assert_golden(file, name, bench.grad.tensor[i], 2e-5);
        }
    assert_golden(file, "grad.input", back->normed, 2e-5);
    assert_golden(file, "dgrad.gated", back->gated, 2e-5);
    assert_golden(file, "dgrad.dt_raw", back->dt_raw, 2e-5);
    assert_golden(file, "dgrad.x_dbl", back->x_dbl, 2e-5);
    assert_golden(file, "dgrad.x", back->u, 2e-5);
    assert_golden(file, "dgrad.conv", back->conv, 2e-5);
    float *xz = side_by_side(back->u_raw, back->z, tokens, d_inner);
    assert_golden(file, "dgrad.xz", xz, 2e-5);
    free(input), free(out), free(out_grad), free(xz);
    bench_free(&bench);
}

static void the_mixer_s_gradients_agree_with_golden(void **state)
{
    (void)state;
    for_each_golden("ch05_mixer*.safetensors", check_mixer_backward);
}

/* ---- pieces --------------------------------------------------------------------------------- */

/* Sizes with nothing in common, and every bias. */
static MambaConfig odd_config(void)
{
    MambaConfig config = config_default(11);
    config.expand = 3;
    config.intermediate_size = 33;
    config.state_size = 5;
    config.conv_kernel = 3;
    config.time_step_rank = 2;
    config.use_bias = true;
    return config;
}

/* Forward in pieces of these lengths with the state handed on. */
static void forward_in_pieces(float *out, const float *input, const MambaBlock *block, size_t batch,
                              size_t len, const size_t *pieces)
{
    size_t d_model = block->config.hidden_size;
    float *memory = NEW(float, block_state_floats(&block->config, batch));
    BlockState state = block_state_place(memory, &block->config, batch);
    for (size_t start = 0; start < len; start += *pieces++) {
        BlockCache cache;
        float *part_in = NEW(float, batch *(*pieces) * d_model),
              *part_out = nan_padded(batch * (*pieces) * d_model);
        float *room = nan_padded(block_cache_place(&cache, NULL, block, batch, *pieces, false));
        block_cache_place(&cache, room, block, batch, *pieces, false);
        for (size_t b = 0; b < batch; b++)
            memcpy(part_in + b * *pieces * d_model, input + (b * len + start) * d_model,
                   *pieces * d_model * sizeof(float));
        if (*pieces == 1)
            block_step(part_out, &cache, &state, part_in, block);
        else
            block_forward(part_out, &cache, &state, part_in, block);
        for (size_t b = 0; b < batch; b++)
            memcpy(out + (b * len + start) * d_model, part_out + b * *pieces * d_model,
                   *pieces * d_model * sizeof(float));
        free(part_in), free(part_out), free(room);
    }
    free(memory);
}

static void pieces_and_steps_are_the_whole(void **state)
{
    (void)state;
    static const size_t cuts[4][16] = {
        {15}, {9, 6}, {4, 5, 1, 5}, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}};
    MambaConfig config = odd_config();
    Bench bench = bench_new(&config, 2, 15, 3);
    Random random = random_from_seed(4);
    float *input = random_array(2 * 15 * 11, &random), *whole = nan_padded(2 * 15 * 11);
    block_forward(whole, &bench.cache, NULL, input, &bench.block);
    for (int k = 0; k < 4; k++) {
        float *out = nan_padded(2 * 15 * 11);
        forward_in_pieces(out, input, &bench.block, 2, 15, cuts[k]);
        assert_relmax(out, whole, 2 * 15 * 11, 1e-6);
        free(out);
    }
    free(input), free(whole);
    bench_free(&bench);
}

static void many_sequences_are_each_by_itself(void **state)
{
    (void)state;
    MambaConfig config = odd_config();
    Bench both = bench_new(&config, 2, 8, 5), one = bench_new(&config, 1, 8, 5);
    Random random = random_from_seed(6);
    float *input = random_array(2 * 8 * 11, &random), *out = nan_padded(2 * 8 * 11),
          *alone = nan_padded(8 * 11);
    block_forward(out, &both.cache, NULL, input, &both.block);
    block_forward(alone, &one.cache, NULL, input + 8 * 11, &one.block);
    assert_memory_equal(alone, out + 8 * 11, 8 * 11 * sizeof(float));
    free(input), free(out), free(alone);
    bench_free(&both), bench_free(&one);
}

/* ---- finite differences --------------------------------------------------------------------- */

static double block_loss(Bench *bench, const float *input, const float *g)
{
    size_t count = bench->cache.batch * bench->cache.len * bench->block.config.hidden_size;
    float *out = nan_padded(count);
    double loss = 0.0;
    block_refresh(&bench->block);
    block_forward(out, &bench->cache, NULL, input, &bench->block);
    for (size_t i = 0; i < count; i++)
        loss += (double)out[i] * g[i];
    free(out);
    return loss;
}

/* The slope of the loss along a random direction against the gradient along it: one number that
   every element goes into. */
static void check_direction(Bench *bench, float *values, const float *gradient, size_t count,
                            const float *input, const float *g, uint64_t seed)
{
    Random random = random_from_seed(seed);
    float *direction = random_array(count, &random), *kept = NEW(float, count);
    double along = 0.0, size = 0.0, h = 2e-3, loss[2];
    memcpy(kept, values, count * sizeof(float));
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < count; i++)
            values[i] = kept[i] + (side ? (float)h : -(float)h) * direction[i];
        loss[side] = block_loss(bench, input, g);
    }
    for (size_t i = 0; i < count; i++) {
        along += (double)gradient[i] * direction[i];
        size += fabs((double)gradient[i] * direction[i]);
    }
    memcpy(values, kept, count * sizeof(float));
    assert_near((loss[1] - loss[0]) / (2.0 * h), along, 2e-3 * size + 1e-3,
                0); /* float losses over h */
    free(direction), free(kept);
}

static void check_gradients_of(ModelKind kind)
{
    MambaConfig config = odd_config();
    config.kind = kind;
    config.mixer_rms_eps = 0.01;
    Bench bench = bench_new(&config, 2, 6, 7);
    TensorShape shapes[BLOCK_TENSORS];
    size_t count = 2 * 6 * 11;
    Random random = random_from_seed(8);
    float *input = random_array(count, &random), *g = random_array(count, &random);
    float *out = nan_padded(count), *input_grad = nan_padded(count);
    for (size_t i = 0; i < 33; i++) /* larger steps, so that Delta's ways can be felt */
        bench.block.params.tensor[DT_PROJ_BIAS][i] += 3.0f;
    block_shapes(shapes, &config);
    block_forward(out, &bench.cache, NULL, input, &bench.block);
    block_backward(&bench.grad, input_grad, &bench.back, g, &bench.cache, input, &bench.block);
    for (int i = 0; i < BLOCK_TENSORS; i++)
        for (uint64_t seed = 0; seed < 3; seed++)
            check_direction(&bench, bench.block.params.tensor[i], bench.grad.tensor[i],
                            shapes[i].count, input, g, seed);
    for (uint64_t seed = 0; seed < 3; seed++)
        check_direction(&bench, input, input_grad, count, input, g, seed);
    free(input), free(g), free(out), free(input_grad);
    bench_free(&bench);
}

static void every_gradient_is_the_slope_of_the_loss(void **state)
{
    (void)state;
    check_gradients_of(MODEL_MAMBA);
}

static void with_norms_of_dt_B_and_C_too(void **state)
{
    (void)state;
    check_gradients_of(MODEL_FALCON_MAMBA);
}

/* Each is of length one after its norm, but for epsilon: the mean of its squares is 1. */
static void the_norms_of_falcon_mamba_are_of_each_part_by_itself(void **state)
{
    (void)state;
    MambaConfig config = odd_config();
    config.kind = MODEL_FALCON_MAMBA;
    Bench bench = bench_new(&config, 2, 6, 7);
    Random random = random_from_seed(8);
    float *input = random_array(2 * 6 * 11, &random), *out = nan_padded(2 * 6 * 11);
    block_forward(out, &bench.cache, NULL, input, &bench.block);
    const float *part[3] = {bench.cache.dt_low, bench.cache.B, bench.cache.C};
    size_t width[3] = {config.time_step_rank, config.state_size, config.state_size}, first = 0;
    size_t narrow = width[0] + 2 * width[1];
    for (size_t k = 0; k < 3; first += width[k++])
        for (size_t t = 0; t < 12; t++) {
            double square = 0.0;
            for (size_t i = 0; i < width[k]; i++) {
                double raw = bench.cache.x_dbl[t * narrow + first + i];
                square += raw * raw / (double)width[k];
            }
            for (size_t i = 0; i < width[k]; i++)
                assert_near(part[k][t * width[k] + i],
                            bench.cache.x_dbl[t * narrow + first + i] / sqrt(square + 1e-6), 1e-6,
                            1e-5);
        }
    free(input), free(out);
    bench_free(&bench);
}

/* The norm alone, every element, in double. */
static void ex5_1_the_norm_s_gradient_is_its_slope(void **state)
{
    (void)state;
    enum { N = 7 };
    Random random = random_from_seed(9);
    float *in = random_array(N, &random), *w = random_array(N, &random),
          *g = random_array(N, &random);
    float out[N], scale[1], in_grad[N], w_grad[N];
    double slope[N];
    for (size_t k = 0; k < N; k++)
        in_grad[k] = 2.0f; /* the gradient is added to what is there */
    rms_norm_forward(out, scale, in, w, 1e-5, 1, N);
    rms_norm_backward(in_grad, w_grad, g, scale, in, w, 1, N);
    for (size_t k = 0; k < N; k++) {
        double loss[2];
        for (int side = 0; side < 2; side++) {
            double sum = 0.0, square = 0.0, h = side ? 1e-6 : -1e-6;
            for (size_t i = 0; i < N; i++) {
                double v = in[i] + (i == k ? h : 0.0);
                square += v * v / N;
            }
            for (size_t i = 0; i < N; i++)
                sum += g[i] * w[i] * (in[i] + (i == k ? h : 0.0)) / sqrt(square + 1e-5);
            loss[side] = sum;
        }
        slope[k] = (loss[1] - loss[0]) / 2e-6;
    }
    for (size_t k = 0; k < N; k++)
        in_grad[k] -= 2.0f;
    assert_relmax(in_grad, slope, N, 1e-5);
    for (size_t k = 0; k < N; k++)
        assert_near(w_grad[k], g[k] * in[k] * scale[0], 1e-6, 1e-6);
    free(in), free(w), free(g);
}

static void ex5_2_the_convolution_by_hand(void **state)
{
    (void)state; /* weights (1, 10, 100), bias 0.5: 1, 2, 3, 4 give 100, 210, 321, 432 and a half */
    static const float u[4] = {1, 2, 3, 4}, weight[3] = {1, 10, 100}, bias[1] = {0.5f},
                       zeros[1] = {0};
    static const float by_hand[4] = {100.5f, 210.5f, 321.5f, 432.5f};
    float out[4], past[2] = {0, 0};
    conv1d_forward(out, u, NULL, zeros, weight, bias, 1, 4, 1, 3);
    assert_all_near(out, by_hand, sizeof out / sizeof *out, 0, 0);
    for (size_t t = 0; t < 4; t++) {
        conv1d_forward(out + t, u + t, past, zeros, weight, bias, 1, 1, 1, 3);
        conv1d_keep(past, u + t, 1, 1, 1, 3);
    }
    assert_all_near(out, by_hand, sizeof out / sizeof *out, 0, 0);
    static const float last[2] = {3, 4};
    assert_all_near_as("what the next step will find of the past", past, last, 2, 0, 0);
}

static void ex5_2_each_channel_has_its_own_weights(void **state)
{
    (void)state; /* (1, 3, 5) with the weights (1, 10), and (2, 4, 6) with (100, 1000) */
    static const float u[6] = {1, 2, 3, 4, 5, 6}, weight[4] = {1, 10, 100, 1000}, zeros[2] = {0, 0};
    static const float by_hand[6] = {10, 2000, 31, 4200, 53, 6400};
    float out[6];
    conv1d_forward(out, u, NULL, zeros, weight, NULL, 1, 3, 2, 2);
    assert_all_near(out, by_hand, sizeof out / sizeof *out, 0, 0);
}

static void ex5_3_the_parameters_are_as_many_as_the_table_holds(void **state)
{
    (void)state;
    MambaConfig configs[3] = {config_default(768), odd_config(), odd_config()};
    configs[2].use_conv_bias = false;
    for (int k = 0; k < 3; k++) {
        TensorShape shapes[BLOCK_TENSORS];
        size_t count = 0;
        block_shapes(shapes, &configs[k]);
        for (int i = 0; i < BLOCK_TENSORS; i++)
            count += shapes[i].count;
        size_t got = block_params_count(&configs[k]);
        assert_that(got == count, "%zu parameters, expected %zu, %s use_bias, %s use_conv_bias",
                    got, count, configs[k].use_bias ? "with" : "without",
                    configs[k].use_conv_bias ? "with" : "without");
    }
    assert_int_equal(block_params_count(&configs[0]), 3770880 + 768); /* by hand, in the lesson */
}

static void check_selection(const Safetensors *file)
{
    Bench bench = golden_bench(file);
    BlockCache *cache = &bench.cache;
    size_t count = cache->batch * cache->len * bench.block.config.hidden_size;
    float *input = golden_floats(NULL, file, "input"), *out = NEW(float, count);
    memcpy(cache->normed, input, count * sizeof(float)); /* no norm in this file */
    mixer_forward(out, cache, NULL, &bench.block);
    assert_golden(file, "dt_low", cache->dt_low, 5e-6);
    assert_golden(file, "B", cache->B, 5e-6);
    assert_golden(file, "C", cache->C, 5e-6);
    assert_golden(file, "dt_raw", cache->dt_raw, 5e-6);
    free(input), free(out);
    bench_free(&bench);
}

static void ex5_4_delta_B_and_C_agree_with_golden(void **state)
{
    (void)state;
    for_each_golden("ch05_mixer*.safetensors", check_selection);
}

static void ex5_4_each_part_comes_from_its_own_rows_of_x_proj(void **state)
{
    (void)state; /* row r of x_proj takes channel r, times r + 1, of u */
    enum { LEN = 3 };
    MambaConfig config = odd_config();
    Bench bench = bench_new(&config, 1, LEN, 44);
    float *const *p = bench.block.params.tensor, *x_proj = p[X_PROJ_WEIGHT];
    size_t d_inner = config.intermediate_size, d_state = config.state_size;
    size_t dt_rank = config.time_step_rank, d_model = config.hidden_size;
    Random random = random_from_seed(45);
    float *input = random_array(LEN * d_model, &random), *out = NEW(float, LEN *d_model);
    for (size_t r = 0; r < dt_rank + 2 * d_state; r++)
        for (size_t d = 0; d < d_inner; d++)
            x_proj[r * d_inner + d] = d == r ? (float)(r + 1) : 0.0f;
    memcpy(bench.cache.normed, input, LEN * d_model * sizeof(float));
    mixer_forward(out, &bench.cache, NULL, &bench.block);
    for (size_t t = 0; t < LEN; t++) {
        const float *u = bench.cache.u + t * d_inner;
        for (size_t n = 0; n < d_state; n++) {
            size_t B = dt_rank + n, C = B + d_state;
            assert_near_as("B of a token, by its own row of x_proj,",
                           bench.cache.B[t * d_state + n], u[B] * (float)(B + 1), 0, 1e-6);
            assert_near_as("C of a token, by its own row of x_proj,",
                           bench.cache.C[t * d_state + n], u[C] * (float)(C + 1), 0, 1e-6);
        }
        for (size_t d = 0; d < d_inner; d++) {
            const float *row = p[DT_PROJ_WEIGHT] + d * dt_rank;
            double want = 0.0;
            for (size_t r = 0; r < dt_rank; r++)
                want += (double)row[r] * (double)u[r] * (double)(r + 1);
            assert_near_as("dt_raw of a token, without the bias,",
                           bench.cache.dt_raw[t * d_inner + d], want, 1e-6, 1e-5);
        }
    }
    free(input), free(out);
    bench_free(&bench);
}

static void ex5_4_falcon_s_norms_stand_between_the_projections(void **state)
{
    (void)state;
    enum { LEN = 4 };
    MambaConfig config = odd_config();
    config.kind = MODEL_FALCON_MAMBA;
    config.mixer_rms_eps = 0.0;
    Bench bench = bench_new(&config, 1, LEN, 46);
    size_t d_inner = config.intermediate_size, dt_rank = config.time_step_rank;
    Random random = random_from_seed(47);
    float *input = random_array(LEN * config.hidden_size, &random);
    float *out = NEW(float, LEN *config.hidden_size), *want = NEW(float, LEN *d_inner);
    memcpy(bench.cache.normed, input, LEN * config.hidden_size * sizeof(float));
    mixer_forward(out, &bench.cache, NULL, &bench.block);
    for (size_t t = 0; t < LEN; t++) {
        const float *B = bench.cache.B + t * config.state_size;
        double square = 0.0;
        for (size_t n = 0; n < config.state_size; n++)
            square += (double)B[n] * (double)B[n];
        assert_near_as("the mean square of a token's B, after the norm,",
                       square / (double)config.state_size, 1.0, 1e-5, 0);
    }
    linear_forward(want, bench.cache.dt_low, bench.block.params.tensor[DT_PROJ_WEIGHT], NULL, LEN,
                   dt_rank, d_inner); /* dt_low as the norm left it */
    assert_relmax_as("dt_raw of the normed dt", bench.cache.dt_raw, want, LEN * d_inner, 1e-5);
    free(input), free(out), free(want);
    bench_free(&bench);
}

static void the_gate_opens_and_closes(void **state)
{
    (void)state;
    static const float y[4] = {3, 3, 3, -2}, z[4] = {-1000, 0, 1.27846454f, 20};
    static const double by_hand[4] = {0, 0, 3, -40};
    float out[4];
    gate_forward(out, y, z, 4);
    assert_all_near(out, by_hand, 4, 1e-6, 1e-6);
}

static void the_start_is_as_published(void **state)
{
    (void)state;
    MambaConfig config = config_default(48);
    Bench bench = bench_new(&config, 1, 1, 11);
    float *const *p = bench.block.params.tensor;
    double least = INFINITY, most = 0.0;
    for (size_t d = 0; d < 96; d++) {
        double delta = softplus(p[DT_PROJ_BIAS][d]);
        least = fmin(least, delta);
        most = fmax(most, delta);
        for (size_t n = 0; n < 16; n++)
            assert_near(bench.block.A[d * 16 + n], -(double)(n + 1), 0, 1e-6);
        assert_true(p[D_SKIP][d] == 1.0f);
    }
    assert_true(least >= 0.00099 && least < 0.003 && most > 0.04 && most <= 0.1001);
    bench_free(&bench);
}

static void what_sums_starts_within_one_over_the_root_of_its_inputs(void **state)
{
    (void)state; /* as torch.nn.Linear and Conv1d: by hand from d_model 48, d_inner 96, dt_rank 3 */
    static const size_t fan_in[BLOCK_TENSORS] = {0, 48, 48, 4, 4, 96, 3, 0, 0, 0, 96, 96};
    MambaConfig config = config_default(48);
    config.use_bias = true;
    Bench bench = bench_new(&config, 1, 1, 12);
    TensorShape shapes[BLOCK_TENSORS];
    block_shapes(shapes, &config);
    for (int i = 0; i < BLOCK_TENSORS; i++) {
        double largest = 0.0;
        for (size_t k = 0; k < shapes[i].count; k++)
            largest = fmax(largest, fabs((double)bench.block.params.tensor[i][k]));
        if (fan_in[i] > 0) /* of 48 numbers or more, one comes near the end */
            assert_true(largest <= 1.0 / sqrt((double)fan_in[i]) + 1e-7 &&
                        largest > 0.85 / sqrt((double)fan_in[i]));
    }
    bench_free(&bench);
}

/* ---- attention ------------------------------------------------------------------------------ */

static Attention random_attention(float **weights, size_t d_model, size_t n_head, Random *random)
{
    float *w = *weights = random_array(4 * d_model * d_model, random);
    size_t one = d_model * d_model;
    Attention layer = {d_model, n_head, w, w + one, w + 2 * one, w + 3 * one};
    return layer;
}

static void ex5_5_attention_worked_by_hand(void **state)
{
    /* one head, width 1, all projections 1 but v 10: token 2 weighs exp(0 * 1), exp(1) */
    (void)state;
    static const float one[1] = {1}, ten[1] = {10}, input[2] = {0, 1};
    Attention layer = {1, 1, one, one, ten, one};
    float out[2], work[16];
    attention_forward(out, work, input, &layer, 2);
    assert_near(out[0], 0.0, 1e-6, 0);
    assert_near(out[1], 10.0 * exp(1.0) / (1.0 + exp(1.0)), 1e-5, 0);
    attention_forward_fast(out, work, input, &layer, 2);
    assert_near(out[1], 10.0 * exp(1.0) / (1.0 + exp(1.0)), 1e-5, 0);
}

static void ex5_5_large_scores_do_not_overflow(void **state)
{
    (void)state; /* the score of token 2 with itself is 400: exp(400) is no float */
    static const float one[1] = {1}, ten[1] = {10}, input[2] = {1, 20};
    Attention layer = {1, 1, one, one, ten, one};
    float out[2], work[16];
    attention_forward(out, work, input, &layer, 2);
    assert_near(out[0], 10.0, 1e-5, 0);
    assert_near(out[1], 200.0, 1e-4, 0);
}

static void ex5_5_fast_attention_and_its_steps_are_the_clear_one(void **state)
{
    (void)state;
    static const size_t shapes[4][3] = {{1, 8, 1}, {50, 12, 3}, {193, 32, 2}, {300, 16, 4}};
    for (int k = 0; k < 4; k++) {
        size_t len = shapes[k][0], d_model = shapes[k][1];
        Random random = random_from_seed((uint64_t)(20 + k));
        float *weights, *input = random_array(len * d_model, &random);
        Attention layer = random_attention(&weights, d_model, shapes[k][2], &random);
        float *clear = nan_padded(len * d_model), *fast = nan_padded(len * d_model);
        float *work = nan_padded(attention_floats(&layer, len));
        attention_forward(clear, work, input, &layer, len);
        attention_forward_fast(fast, work, input, &layer, len);
        assert_relmax(clear, fast, len * d_model, 1e-5);
        KeyValueCache cache = {nan_padded(len * d_model), nan_padded(len * d_model), 0};
        float *room = nan_padded(2 * d_model + shapes[k][2] * (len + 1));
        for (size_t t = 0; t < len; t++)
            attention_step(fast + t * d_model, &cache, room, input + t * d_model, &layer);
        assert_relmax(clear, fast, len * d_model, 1e-5);
        assert_int_equal(cache.len, len);
        free(weights), free(input), free(clear), free(fast), free(work), free(room);
        free(cache.k), free(cache.v);
    }
}

static void a_fixed_state_forgets_pairs_and_attention_does_not(void **state)
{
    (void)state;
    Random random = random_from_seed(3);
    int right[3] = {0, 0, 0}; /* the scan, attention, attention that is not sharpened */
    for (int k = 0; k < 100; k++) {
        assert_int_equal(recall_once(1, &random), 1 + 2 + 4);
        int who = recall_once(200, &random);
        for (int way = 0; way < 3; way++)
            right[way] += who >> way & 1;
    }
    assert_true(right[0] < 50 && right[1] == 100 && right[2] < 50);
}

/* ---- chapter 4 inside ----------------------------------------------------------------------- */

static void a_block_set_to_pass_through_is_the_scan_of_chapter_4(void **state)
{
    (void)
        state; /* in_proj and the convolution hand the input on, x_proj copies channels to B and C;
                    what is left between input and output is silu, and that is undone beforehand */
    enum { N = 4, LEN = 20 };
    MambaConfig config = config_default(N);
    config.expand = 1;
    config.intermediate_size = N;
    config.state_size = 1;
    config.time_step_rank = 1;
    config.use_bias = true;
    Bench bench = bench_new(&config, 1, LEN, 1);
    float *const *p = bench.block.params.tensor;
    TensorShape shapes[BLOCK_TENSORS];
    block_shapes(shapes, &config);
    memset(bench.params, 0, block_params_place(&bench.grad, bench.grads, shapes) * sizeof(float));
    for (size_t d = 0; d < N; d++) {
        p[IN_PROJ_WEIGHT][d * N + d] = p[CONV1D_WEIGHT][d * 4 + 3] = p[OUT_PROJ_WEIGHT][d * N + d] =
            1;
        p[IN_PROJ_BIAS][N + d] = 1.27846454f; /* its silu is 1: an open gate */
        p[DT_PROJ_BIAS][d] = 0.3f * (float)d;
        p[A_LOG][d] = 0.1f * (float)d;
    }
    p[X_PROJ_WEIGHT][0] = 0.5f; /* dt, B and C are read from channels 0, 1 and 2 */
    p[X_PROJ_WEIGHT][N + 1] = 1;
    p[X_PROJ_WEIGHT][2 * N + 2] = 1;
    for (size_t d = 0; d < N; d++)
        p[DT_PROJ_WEIGHT][d] = 1;
    block_refresh(&bench.block);
    Random random = random_from_seed(2);
    float *in = random_array(LEN * N, &random), u[LEN * N], delta[LEN * N], B[LEN], C[LEN],
          y[LEN * N];
    float out[LEN * N];
    for (size_t i = 0; i < LEN * N; i++)
        u[i] = silu(in[i]);
    for (size_t t = 0; t < LEN; t++) {
        B[t] = u[t * N + 1];
        C[t] = u[t * N + 2];
        for (size_t d = 0; d < N; d++)
            delta[t * N + d] = 0.5f * u[t * N];
    }
    Scan scan = {1, LEN,  N,    1,    u,    delta, p[DT_PROJ_BIAS], bench.block.A, B,
                 C, NULL, NULL, NULL, NULL, true};
    selective_scan(y, NULL, &scan);
    memcpy(bench.cache.normed, in, sizeof u);
    mixer_forward(out, &bench.cache, NULL, &bench.block);
    assert_relmax(out, y, LEN * N, 1e-6);
    free(in);
    bench_free(&bench);
}

/* ---- configs -------------------------------------------------------------------------------- */

static void assert_config_refused(const char *text, const char *sentence)
{
    MambaConfig config = config_default(3), before = config;
    Error error;
    assert_false(config_parse(&config, text, strlen(text), "config.json", &error));
    assert_contains(error.text, sentence);
    assert_memory_equal(&config, &before, sizeof config);
}

static void wrong_configs_are_named(void **state)
{
    (void)state;
    assert_config_refused("{}", "config.json: there is no hidden_size in it");
    assert_config_refused("{\"hidden_size\": 0}", "hidden_size: 0 is too small");
    assert_config_refused("{\"hidden_size\": 10000000}", "hidden_size");
    assert_config_refused("{\"hidden_size\": 8, \"time_step_rank\": 99}",
                          "time_step_rank 99 is larger than intermediate_size 16");
    assert_config_refused("{\"hidden_size\": 8, \"time_step_rank\": \"many\"}",
                          "time_step_rank is a number or \"auto\"");
    assert_config_refused("{\"hidden_size\": 8, \"model_type\": \"gpt2\"}",
                          "model_type \"gpt2\" is not known here: \"mamba\", ");
    for (size_t i = 0; i < sizeof hybrid_name / sizeof *hybrid_name; i++) {
        char text[96];
        snprintf(text, sizeof text, "{\"model_type\": \"%s\", \"hidden_size\": 8}", hybrid_name[i]);
        assert_config_refused(text, "is a hybrid, with attention in some of its layers; "
                                    "Transformers runs it, vLLM and llama.cpp");
        assert_config_refused(text, hybrid_name[i]);
    }
    assert_config_refused("{\"hidden_size\": 8, \"mixer_rms_eps\": -1}", "mixer_rms_eps -1");
    assert_config_refused("{\"hidden_size\": 8, \"hidden_act\": \"relu\"}",
                          "hidden_act is \"relu\"");
    assert_config_refused("{\"hidden_size\": 8, \"time_step_min\": 0.2}", "time_step_min 0.2");
    assert_config_refused("{\"hidden_size\": 8, \"layer_norm_epsilon\": -1}",
                          "layer_norm_epsilon -1");
    assert_config_refused("{\"hidden_size\": 8", "config.json");
    assert_config_refused("[8]", "config.json");
}

static void a_config_of_hugging_face_is_read(void **state)
{
    (void)state;
    MambaConfig config;
    Error error;
    char *path = golden_path("ch05_lm/config.json");
    assert_true(config_read(&config, path, &error));
    assert_int_equal(config.intermediate_size, config.expand * config.hidden_size);
    assert_int_equal(config.kind, MODEL_MAMBA);
    free(path);
    const char *text = "{\"hidden_size\": 40, \"time_step_rank\": \"auto\", \"unknown\": [1, {}]}";
    assert_true(config_parse(&config, text, strlen(text), "config.json", &error));
    assert_int_equal(config.time_step_rank, 3);
    assert_int_equal(config.intermediate_size, 80);
    assert_true(config.use_conv_bias && !config.use_bias);
    assert_true(config.mixer_rms_eps == 1e-6);
}

/* The config.json of state-spaces/mamba-130m and its like. */
static void a_config_of_the_original_layout_is_read(void **state)
{
    static const char plain[] =
        "{\"d_model\": 40, \"n_layer\": 3, \"vocab_size\": 90, \"ssm_cfg\": {}, \"rms_norm\": "
        "true, "
        "\"residual_in_fp32\": true, \"fused_add_norm\": true, \"pad_vocab_size_multiple\": 16}";
    static const char full[] =
        "{\"ssm_cfg\": {\"layer\": \"Mamba1\", \"d_state\": 8, \"d_conv\": 3, \"expand\": 1, "
        "\"dt_rank\": 5, \"conv_bias\": false, \"bias\": true, \"dt_min\": 0.1}, \"d_model\": 40, "
        "\"tie_embeddings\": false, \"attn_layer_idx\": [], \"attn_cfg\": {}, "
        "\"d_intermediate\": 0, \"vocab_size\": 96, \"pad_vocab_size_multiple\": 16}";
    MambaConfig config;
    Error error;
    (void)state;
    assert_true(config_parse(&config, plain, strlen(plain), "config.json", &error));
    assert_int_equal(config.hidden_size, 40);
    assert_int_equal(config.intermediate_size, 80);
    assert_int_equal(config.num_hidden_layers, 3);
    assert_int_equal(config.vocab_size, 96);
    assert_int_equal(config.time_step_rank, 3);
    assert_int_equal(config.state_size, 16);
    assert_true(config.kind == MODEL_MAMBA && config.use_conv_bias && !config.use_bias);
    assert_true(config.tie_word_embeddings);
    assert_true(config_parse(&config, full, strlen(full), "config.json", &error));
    assert_int_equal(config.intermediate_size, 40);
    assert_int_equal(config.vocab_size, 96);
    assert_int_equal(config.time_step_rank, 5);
    assert_int_equal(config.state_size, 8);
    assert_int_equal(config.conv_kernel, 3);
    assert_true(!config.use_conv_bias && config.use_bias && !config.tie_word_embeddings);
}

static void wrong_configs_of_the_original_layout_are_named(void **state)
{
    (void)state;
    assert_config_refused("{\"d_model\": 8, \"rms_norm\": false}", "rms_norm is false: LayerNorm");
    assert_config_refused("{\"d_model\": 8, \"attn_layer_idx\": [1]}", "attn_layer_idx: a hybrid");
    assert_config_refused("{\"d_model\": 8, \"d_intermediate\": 16}",
                          "d_intermediate: layers with");
    assert_config_refused("{\"d_model\": 8, \"ssm_cfg\": {\"layer\": \"Mamba9\"}}",
                          "ssm_cfg: a layer \"Mamba9\" is not known here");
    assert_config_refused("{\"d_model\": 0}", "d_model: 0 is too small");
    assert_config_refused("{\"d_model\": 8, \"pad_vocab_size_multiple\": 0}",
                          "pad_vocab_size_multiple: 0 is too small");
    assert_config_refused(
        "{\"d_model\": 8, \"vocab_size\": 16777216, \"pad_vocab_size_multiple\": 5}",
        "vocab_size 16777216 in multiples of 5 is over the limit");
    assert_config_refused("{\"n_layer\": 8}", "there is no hidden_size in it");
}

/* As Transformers has it, for both kinds of model. */
static void an_intermediate_size_holds_whatever_expand_says(void **state)
{
    static const char *const type[] = {"mamba", "falcon_mamba"};
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        char text[160];
        MambaConfig config;
        Error error;
        snprintf(text, sizeof text,
                 "{\"hidden_size\": 8, \"expand\": 16, \"intermediate_size\": 20, "
                 "\"model_type\": \"%s\", \"mixer_rms_eps\": 0.5}",
                 type[kind]);
        assert_true(config_parse(&config, text, strlen(text), "config.json", &error));
        assert_int_equal(config.intermediate_size, 20);
        assert_int_equal(config.kind, kind);
        assert_true(config.mixer_rms_eps == 0.5);
    }
}

/* Whether the parameters are asked for or come with the other demos: the same block's. */
static void the_parameters_are_those_of_mamba_130m_in_every_listing(void **state)
{
    (void)state;
    static const char *const words[] = {"--count", "", "--count --width 768"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        char text[16384];
        assert_int_equal(run_program_output(text, sizeof text, "ch05_mamba_block", words[i]), 0);
        assert_contains(text, "The parameters of a block, d_model 768");
        assert_contains(text, "3771648");
    }
}

static void wrong_options_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *program, *words, *sentence;
        int exit;
    } cases[] = {
        {"ch05_mamba_block", "--trace --count", "--trace and --count exclude each other", 2},
        {"ch05_mamba_block", "--width 0", "--width", 2},
        {"ch05_mamba_block", "--width 8 --config x.json", "--width and --config exclude each other",
         2},
        {"ch05_mamba_block", "--recall --width 8", "--width does nothing with --recall", 2},
        {"ch05_mamba_block", "--count --seed 2", "--seed does nothing with --count", 2},
        {"ch05_mamba_block", "--diagram", "--diagram needs --svg", 2},
        {"ch05_mamba_block", "--trace --svg x.svg", "--svg needs", 2},
        {"ch05_mamba_block", "--nonsense", "'--nonsense' is not an option", 2},
        {"ch05_mamba_block", "8", "'8' is not an option", 2},
        {"ch05_mamba_block", "--count --config no/such/config.json", "no/such/config.json", 1},
        {"ch05_mamba_block", "--count --config data/weather.csv", "data/weather.csv", 1},
        {"ch05_mamba_block", "--diagram --svg no/such/folder/x.svg", "no/such/folder", 1},
        {"ch05_bench", "--block --compare", "--block and --compare exclude each other", 2},
        {"ch05_bench", "--block --width 8", "--width needs --compare", 2},
        {"ch05_bench", "--compare --config no/such/config.json", "no/such/config.json", 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_command_says(cases[i].program, cases[i].words, cases[i].sentence, cases[i].exit);
}

/* Good configs with bytes changed: read or refused, never more. */
static void broken_configs_never_crash(void **state)
{
    (void)state;
    char *path = golden_path("ch05_lm/config.json"), *good;
    size_t len;
    Error error;
    Random random = random_from_seed(60);
    assert_true(text_read(&good, &len, path, &error));
    char *text = NEW(char, len + 1);
    for (int k = 0; k < 5000; k++) {
        MambaConfig config;
        memcpy(text, good, len);
        for (uint32_t edits = 1 + random_u32(&random) % 4; edits > 0; edits--)
            text[random_u32(&random) % len] = "0129-\"{}[],:ae"[random_u32(&random) % 14];
        if (config_parse(&config, text, len - random_u32(&random) % 3, "config.json", &error))
            assert_true(config.hidden_size >= 1 && config.hidden_size <= CONFIG_MAX_SIZE &&
                        config.state_size <= SCAN_MAX_STATE && config.conv_kernel <= CONV_MOST &&
                        config.time_step_rank >= 1);
    }
    free(path), free(good), free(text);
}

#ifdef _OPENMP
static void the_bits_do_not_depend_on_the_threads(void **state)
{
    (void)state;
    MambaConfig config = config_default(96);
    size_t count = 2 * 50 * 96;
    Random random = random_from_seed(12);
    float *input = random_array(count, &random), *first = nan_padded(count), *grads = NULL;
    int most = omp_get_max_threads();
    for (int threads = 1; threads <= 4; threads++) {
        Bench bench = bench_new(&config, 2, 50, 13);
        float *out = nan_padded(count), *input_grad = nan_padded(count);
        omp_set_num_threads(threads);
        block_forward(out, &bench.cache, NULL, input, &bench.block);
        block_backward(&bench.grad, input_grad, &bench.back, input, &bench.cache, input,
                       &bench.block);
        TensorShape shapes[BLOCK_TENSORS];
        block_shapes(shapes, &config);
        size_t floats = block_params_place(&bench.grad, bench.grads, shapes);
        if (threads == 1) {
            memcpy(first, out, count * sizeof(float));
            grads = NEW(float, floats);
            memcpy(grads, bench.grads, floats * sizeof(float));
        }
        assert_memory_equal(out, first, count * sizeof(float));
        assert_memory_equal(bench.grads, grads, floats * sizeof(float));
        free(out), free(input_grad);
        bench_free(&bench);
    }
    omp_set_num_threads(most);
    free(input), free(first), free(grads);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fast_products_are_the_clear_ones_at_any_size),
        cmocka_unit_test(a_product_worked_by_hand),
        cmocka_unit_test(products_are_fused_multiply_adds_in_order),
        cmocka_unit_test(a_dot_product_counts_every_number_once),
        cmocka_unit_test(a_product_of_no_depth_is_zero),
        cmocka_unit_test(a_token_s_bits_do_not_depend_on_the_other_tokens),
        cmocka_unit_test(the_fast_convolution_is_the_clear_one),
        cmocka_unit_test(the_fast_convolution_goes_back_as_the_clear_one),
        cmocka_unit_test(the_convolution_s_way_back_by_hand),
        cmocka_unit_test(the_mixer_agrees_with_golden_at_every_stage),
        cmocka_unit_test(the_mixer_s_gradients_agree_with_golden),
        cmocka_unit_test(pieces_and_steps_are_the_whole),
        cmocka_unit_test(many_sequences_are_each_by_itself),
        cmocka_unit_test(every_gradient_is_the_slope_of_the_loss),
        cmocka_unit_test(with_norms_of_dt_B_and_C_too),
        cmocka_unit_test(the_norms_of_falcon_mamba_are_of_each_part_by_itself),
        cmocka_unit_test(ex5_1_the_norm_s_gradient_is_its_slope),
        cmocka_unit_test(ex5_2_the_convolution_by_hand),
        cmocka_unit_test(ex5_2_each_channel_has_its_own_weights),
        cmocka_unit_test(ex5_3_the_parameters_are_as_many_as_the_table_holds),
        cmocka_unit_test(ex5_4_delta_B_and_C_agree_with_golden),
        cmocka_unit_test(ex5_4_each_part_comes_from_its_own_rows_of_x_proj),
        cmocka_unit_test(ex5_4_falcon_s_norms_stand_between_the_projections),
        cmocka_unit_test(the_gate_opens_and_closes),
        cmocka_unit_test(the_start_is_as_published),
        cmocka_unit_test(what_sums_starts_within_one_over_the_root_of_its_inputs),
        cmocka_unit_test(ex5_5_attention_worked_by_hand),
        cmocka_unit_test(ex5_5_large_scores_do_not_overflow),
        cmocka_unit_test(ex5_5_fast_attention_and_its_steps_are_the_clear_one),
        cmocka_unit_test(a_fixed_state_forgets_pairs_and_attention_does_not),
        cmocka_unit_test(a_block_set_to_pass_through_is_the_scan_of_chapter_4),
        cmocka_unit_test(wrong_configs_are_named),
        cmocka_unit_test(a_config_of_hugging_face_is_read),
        cmocka_unit_test(a_config_of_the_original_layout_is_read),
        cmocka_unit_test(wrong_configs_of_the_original_layout_are_named),
        cmocka_unit_test(an_intermediate_size_holds_whatever_expand_says),
        cmocka_unit_test(wrong_options_are_named),
        cmocka_unit_test(the_parameters_are_those_of_mamba_130m_in_every_listing),
        cmocka_unit_test(broken_configs_never_crash),
#ifdef _OPENMP
        cmocka_unit_test(the_bits_do_not_depend_on_the_threads),
#endif
    };
    return cmocka_run_group_tests_name("chapter 5", tests, NULL, NULL);
}
