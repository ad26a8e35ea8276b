/* The block of Mamba-2 and models made of it, held against golden data, their own parts in their
   clear versions, finite differences, and themselves: in pieces, step by step, by two threads. */

#define _GNU_SOURCE /* mkdtemp under -std=c11 */
#include "../ch05_mamba_block/language_model.c"
#include "golden.h"
#include <unistd.h>

static float *random_array(size_t count, Random *random)
{
    float *values = NEW(float, count + 1);
    for (size_t i = 0; i < count; i++)
        values[i] = (float)random_normal(random);
    return values;
}

/* ---- golden data ---------------------------------------------------------------------------- */

/* A golden folder: the model in it, and what it should say. */
typedef struct {
    Model model;
    Safetensors file;
    size_t batch, len;
    int32_t *ids, *targets; /* (batch, len) */
} Golden;

static int32_t *golden_ids(const Safetensors *file, const char *name)
{
    const Tensor *tensor;
    double *numbers = golden_doubles(&tensor, file, name);
    int32_t *ids = NEW(int32_t, tensor->count);
    for (size_t i = 0; i < tensor->count; i++)
        ids[i] = (int32_t)numbers[i];
    free(numbers);
    return ids;
}

static Golden golden_new(const char *folder)
{
    Golden golden;
    MambaConfig config;
    Error error;
    char path[512];
    snprintf(path, sizeof path, "%s/config.json", folder);
    if (!config_read(&config, path, &error))
        fail_msg("%s", error.text);
    assert_int_equal(config.kind, MODEL_MAMBA2);
    golden.model = model_new(&config);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    if (!model_load(&golden.model, path, &error))
        fail_msg("%s", error.text);
    snprintf(path, sizeof path, "%s/golden.safetensors", folder);
    golden_open(&golden.file, path);
    golden.ids = golden_ids(&golden.file, "ids");
    golden.batch = golden_size(&golden.file, "ids", 0);
    golden.len = golden_size(&golden.file, "ids", 1);
    golden.targets = NEW(int32_t, golden.batch * golden.len);
    for (size_t i = 0; i < golden.batch * golden.len; i++)
        golden.targets[i] = (i + 1) % golden.len == 0 ? -1 : golden.ids[i + 1];
    return golden;
}

static void golden_free(Golden *golden)
{
    model_free(&golden->model);
    safetensors_close(&golden->file);
    free(golden->ids), free(golden->targets);
}

static void for_golden_folders(void (*check)(Golden *))
{
    glob_t found;
    size_t folders = golden_list(&found, "mamba2_*");
    for (size_t i = 0; i < folders; i++) {
        Golden golden = golden_new(found.gl_pathv[i]);
        check(&golden);
        golden_free(&golden);
    }
    globfree(&found);
}

static void assert_golden(const Safetensors *file, const char *name, const float *got, size_t count)
{
    const Tensor *tensor;
    double *want = golden_doubles(&tensor, file, name);
    assert_int_equal(tensor->count, count);
    assert_relmax_as(name, got, want, count,
                     2e-5); /* the norms of the golden program are in float32 */
    free(want);
}

static void check_logits(Golden *golden)
{
    ModelWork work = model_work_new(&golden->model, golden->batch, golden->len, false);
    model_forward(&work, NULL, golden->ids, &golden->model);
    assert_golden(&golden->file, "logits", work.logits,
                  golden->batch * golden->len * golden->model.config.vocab_size);
    assert_near(model_loss(&work, golden->targets, &golden->model),
                golden_scalar(&golden->file, "nll"), 0, 1e-5);
    model_work_free(&work);
}

static void logits_and_loss_agree_with_golden(void **state)
{
    (void)state;
    for_golden_folders(check_logits);
}

static void check_gradients(Golden *golden)
{
    const MambaConfig *config = &golden->model.config;
    size_t tokens = golden->batch * golden->len;
    ModelWork work = model_work_new(&golden->model, golden->batch, golden->len, true);
    ModelParams grad = model_params_new(config);
    model_forward(&work, NULL, golden->ids, &golden->model);
    model_backward(&grad, &work, golden->ids, golden->targets,
                   targets_count(golden->targets, tokens), &golden->model);
    for (size_t k = 0; k < model_tensor_count(config); k++) {
        ModelTensor tensor = model_tensor(&grad, config, k);
        char name[128];
        snprintf(name, sizeof name, "grad.%s", tensor.name);
        if (tensor.count > 0)
            assert_golden(&golden->file, name, tensor.values, tensor.count);
    }
    model_params_free(&grad);
    model_work_free(&work);
}

static void every_gradient_agrees_with_golden(void **state)
{
    (void)state;
    for_golden_folders(check_gradients);
}

static void check_greedy(Golden *golden)
{
    size_t count = golden_size(&golden->file, "greedy", 0);
    size_t vocab = golden->model.config.vocab_size;
    int32_t *want = golden_ids(&golden->file, "greedy");
    Writer writer = writer_new(&golden->model);
    const float *logits = writer_read_all(&writer, golden->ids, golden->len);
    for (size_t i = 0; i < count; i++) {
        int32_t token = (int32_t)token_greedy(logits, vocab);
        assert_int_equal(token, want[i]);
        logits = writer_read(&writer, token);
    }
    writer_free(&writer);
    free(want);
}

static void greedy_tokens_agree_with_golden(void **state)
{
    (void)state;
    for_golden_folders(check_greedy);
}

/* ---- a block with arrays of its own --------------------------------------------------------- */

typedef struct {
    MambaBlock block;
    BlockParams grad;
    LayerCache cache;
    LayerBack back;
    float *params, *grads, *cache_memory, *back_memory;
} Bench;

/* Sizes with nothing in common, groups, every bias, and limits that some steps meet. */
static MambaConfig odd_config(void)
{
    MambaConfig config = config_default_heads(11, 3, 5);
    config.expand = 3;
    config.intermediate_size = 33;
    config.num_heads = 11;
    config.n_groups = 11;
    config.conv_kernel = 3;
    config.chunk_size = 4;
    config.use_bias = true;
    config.time_step_limit[0] = 0.05;
    config.time_step_limit[1] = 0.9;
    return config;
}

/* Two groups of three heads. */
static MambaConfig even_config(void)
{
    MambaConfig config = config_default_heads(12, 4, 7);
    config.n_groups = 2;
    return config;
}

static Bench bench_new(const MambaConfig *config, size_t batch, size_t len, uint64_t seed)
{
    Bench bench;
    Random random = random_from_seed(seed);
    bench.block.config = *config;
    bench.params = nan_filled(layer_params_floats(config));
    bench.grads = nan_filled(layer_params_floats(config));
    layer_params_place(&bench.block.params, bench.params, config);
    layer_params_place(&bench.grad, bench.grads, config);
    bench.block.A = nan_filled(layer_A_count(config));
    layer_init(&bench.block.params, config, &random);
    for (size_t i = 0; i < config->intermediate_size; i++)
        bench.block.params.tensor[GATED_NORM_WEIGHT][i] += 0.3f * (float)random_normal(&random);
    for (size_t h = 0; h < config->num_heads; h++) /* larger steps, so that their ways are felt */
        bench.block.params.tensor[DT_BIAS][h] += 3.0f;
    layer_refresh(&bench.block);
    bench.cache_memory =
        nan_filled(layer_cache_place(&bench.cache, NULL, &bench.block, batch, len, true));
    layer_cache_place(&bench.cache, bench.cache_memory, &bench.block, batch, len, true);
    bench.back_memory = nan_filled(layer_back_place(&bench.back, NULL, &bench.cache, &bench.block));
    layer_back_place(&bench.back, bench.back_memory, &bench.cache, &bench.block);
    return bench;
}

static void bench_free(Bench *bench)
{
    free(bench->params), free(bench->grads), free(bench->block.A);
    free(bench->cache_memory), free(bench->back_memory);
}

/* ---- the mixer is what its clear parts make ------------------------------------------------- */

/* in_proj, convolution, silu, step sizes, scan, gate, norm and out_proj, each as it is defined. */
static void mixer_in_the_clear(float *out, const float *normed, const MambaBlock *block,
                               size_t batch, size_t len)
{
    const MambaConfig *config = &block->config;
    float *const *p = block->params.tensor;
    size_t d_inner = config->intermediate_size, groups = config->n_groups, tokens = batch * len;
    size_t shared = groups * config->state_size, wide = d_inner + 2 * shared;
    size_t n_head = config->num_heads, rows = d_inner + wide + n_head, width = d_inner / groups;
    float *all = NEW(float, tokens *rows), *raw = NEW(float, tokens *wide);
    float *uBC = NEW(float, tokens *wide), *z = NEW(float, tokens *d_inner);
    float *u = NEW(float, tokens *d_inner), *y = NEW(float, tokens *d_inner);
    float *B = NEW(float, tokens *shared), *C = NEW(float, tokens *shared);
    float *delta = NEW(float, tokens *n_head), *zeros = NEW(float, wide);
    linear_forward(all, normed, p[IN_PROJ_WEIGHT], p[IN_PROJ_BIAS], tokens, config->hidden_size,
                   rows);
    columns_out(z, all, 0, d_inner, tokens, rows);
    columns_out(raw, all, d_inner, wide, tokens, rows);
    columns_out(delta, all, d_inner + wide, n_head, tokens, rows);
    conv1d_forward(uBC, raw, NULL, zeros, p[CONV1D_WEIGHT], p[CONV1D_BIAS], batch, len, wide,
                   config->conv_kernel);
    for (size_t i = 0; i < tokens * wide; i++)
        uBC[i] = silu(uBC[i]);
    columns_out(u, uBC, 0, d_inner, tokens, wide);
    columns_out(B, uBC, d_inner, shared, tokens, wide);
    columns_out(C, uBC, d_inner + shared, shared, tokens, wide);
    for (size_t i = 0; i < tokens * n_head; i++)
        delta[i] = fminf(
            fmaxf(softplus(delta[i] + p[DT_BIAS][i % n_head]), (float)config->time_step_limit[0]),
            (float)config->time_step_limit[1]);
    HeadScan scan =
        head_scan_new(len, n_head, config->head_dim, config->state_size, u, delta, block->A, B, C);
    scan.batch = batch, scan.n_group = groups, scan.D = p[D_SKIP];
    head_scan(y, NULL, &scan);
    gate_forward(y, y, z, tokens * d_inner);
    for (size_t i = 0; i < tokens * groups; i++) {
        double square = 0.0;
        for (size_t c = 0; c < width; c++)
            square += (double)y[i * width + c] * (double)y[i * width + c] / (double)width;
        for (size_t c = 0; c < width; c++)
            y[i * width + c] *= (float)(1.0 / sqrt(square + config->layer_norm_epsilon)) *
                                p[GATED_NORM_WEIGHT][i % groups * width + c];
    }
    linear_forward(out, y, p[OUT_PROJ_WEIGHT], p[OUT_PROJ_BIAS], tokens, d_inner,
                   config->hidden_size);
    free(all), free(raw), free(uBC), free(z), free(u), free(y), free(B), free(C), free(delta);
    free(zeros);
}

static void the_mixer_is_what_its_clear_parts_make(void **state)
{
    (void)state;
    const MambaConfig configs[2] = {odd_config(), even_config()};
    for (int k = 0; k < 2; k++) {
        enum { BATCH = 2, LEN = 13 };
        Bench bench = bench_new(&configs[k], BATCH, LEN, 3);
        size_t count = BATCH * LEN * configs[k].hidden_size;
        Random random = random_from_seed(4);
        float *normed = random_array(count, &random);
        float *out = nan_filled(count), *want = nan_filled(count);
        memcpy(bench.cache.heads.normed, normed, count * sizeof(float));
        head_mixer_forward(out, &bench.cache.heads, NULL, &bench.block);
        mixer_in_the_clear(want, normed, &bench.block, BATCH, LEN);
        assert_relmax(out, want, count, 2e-6);
        free(normed), free(out), free(want);
        bench_free(&bench);
    }
}

/* Numbers of 20 and more go through a silu unchanged, a gate with silu(z) = 1 too, and a norm whose
   epsilon outweighs everything only scales: the mixer is then mamba2.c's scan of its own input. */
static void a_mixer_set_to_pass_everything_is_the_scan(void **state)
{
    (void)state;
    enum { LEN = 9, HEADS = 4, WIDE = 3, STATES = 2, INNER = HEADS * WIDE, N_GROUP = 2 };
    enum { SHARED = N_GROUP * STATES, ALL = INNER + 2 * SHARED, D_MODEL = ALL + HEADS };
    MambaConfig config = config_default_heads(D_MODEL, WIDE, STATES);
    config.num_heads = HEADS, config.intermediate_size = INNER, config.n_groups = N_GROUP;
    config.use_bias = true;
    config.layer_norm_epsilon = 1e16;
    Bench bench = bench_new(&config, 1, LEN, 5);
    float *const *p = bench.block.params.tensor;
    Random random = random_from_seed(6);
    float u[LEN * INNER], B[LEN * SHARED], C[LEN * SHARED], delta[LEN * HEADS], y[LEN * INNER];
    zero(p[IN_PROJ_WEIGHT], (INNER + ALL + HEADS) * D_MODEL);
    zero(p[IN_PROJ_BIAS], INNER + ALL + HEADS);
    zero(p[CONV1D_WEIGHT], ALL * 4);
    zero(p[CONV1D_BIAS], ALL);
    zero(p[DT_BIAS], HEADS);
    zero(p[OUT_PROJ_WEIGHT], D_MODEL * INNER);
    zero(p[OUT_PROJ_BIAS], D_MODEL);
    for (size_t i = 0; i < INNER; i++) {
        p[IN_PROJ_BIAS][i] = 1.27846454f; /* its silu is 1 */
        p[GATED_NORM_WEIGHT][i] = 1e8f;
        p[OUT_PROJ_WEIGHT][i * INNER + i] = 1.0f;
    }
    for (size_t i = 0; i < ALL + HEADS; i++)
        p[IN_PROJ_WEIGHT][(INNER + i) * D_MODEL + i] = 1.0f;
    for (size_t i = 0; i < ALL; i++)
        p[CONV1D_WEIGHT][i * 4 + 3] = 1.0f;
    for (size_t t = 0; t < LEN; t++) {
        float *normed = bench.cache.heads.normed + t * D_MODEL;
        for (size_t i = 0; i < ALL; i++)
            normed[i] = 20.0f + 10.0f * (float)random_uniform(&random);
        memcpy(u + t * INNER, normed, sizeof(float) * INNER);
        memcpy(B + t * SHARED, normed + INNER, sizeof(float) * SHARED);
        memcpy(C + t * SHARED, normed + INNER + SHARED, sizeof(float) * SHARED);
        for (size_t h = 0; h < HEADS; h++)
            delta[t * HEADS + h] = normed[ALL + h] = (float)random_normal(&random);
    }
    HeadScan scan = head_scan_new(LEN, HEADS, WIDE, STATES, u, delta, bench.block.A, B, C);
    scan.delta_softplus = true, scan.n_group = N_GROUP, scan.D = p[D_SKIP];
    head_scan(y, NULL, &scan);
    float *out = nan_filled(LEN * D_MODEL);
    head_mixer_forward(out, &bench.cache.heads, NULL, &bench.block);
    for (size_t t = 0; t < LEN; t++)
        assert_relmax(out + t * D_MODEL, y + t * INNER, INNER, 2e-6);
    free(out);
    bench_free(&bench);
}

/* ---- pieces --------------------------------------------------------------------------------- */

/* Forward in pieces of these lengths with the state handed on. */
static void forward_in_pieces(float *out, const float *input, const MambaBlock *block, size_t batch,
                              size_t len, const size_t *pieces)
{
    size_t d_model = block->config.hidden_size;
    float *memory = NEW(float, layer_state_floats(&block->config, batch));
    BlockState state = layer_state_place(memory, &block->config, batch);
    for (size_t start = 0; start < len; start += *pieces++) {
        HeadCache cache;
        size_t piece = *pieces, count = batch * piece * d_model;
        float *part_in = NEW(float, count), *part_out = nan_filled(count);
        float *room =
            nan_filled(head_cache_place(&cache, NULL, &block->config, batch, piece, false));
        head_cache_place(&cache, room, &block->config, batch, piece, false);
        for (size_t b = 0; b < batch; b++)
            memcpy(part_in + b * piece * d_model, input + (b * len + start) * d_model,
                   piece * d_model * sizeof(float));
        if (piece == 1)
            head_block_forward(part_out, &cache, &state, part_in, block);
        else /* in place */
            head_block_forward(part_in, &cache, &state, part_in, block);
        for (size_t b = 0; b < batch; b++)
            memcpy(out + (b * len + start) * d_model,
                   (piece == 1 ? part_out : part_in) + b * piece * d_model,
                   piece * d_model * sizeof(float));
        free(part_in), free(part_out), free(room);
    }
    free(memory);
}

static void pieces_and_steps_are_the_whole(void **state)
{
    (void)state;
    enum { BATCH = 2, LEN = 15 };
    static const size_t cuts[4][LEN + 1] = {
        {15}, {9, 6}, {4, 5, 1, 5}, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}};
    const MambaConfig configs[2] = {odd_config(), even_config()};
    for (int k = 0; k < 8; k++) {
        const MambaConfig *config = &configs[k / 4];
        Bench bench = bench_new(config, BATCH, LEN, 3);
        size_t count = BATCH * LEN * config->hidden_size;
        Random random = random_from_seed(4);
        float *input = random_array(count, &random), *whole = nan_filled(count);
        float *out = nan_filled(count);
        layer_forward(whole, &bench.cache, NULL, input, &bench.block);
        forward_in_pieces(out, input, &bench.block, BATCH, LEN, cuts[k % 4]);
        assert_relmax(out, whole, count, 2e-6); /* products of one token add up in another order */
        free(input), free(whole), free(out);
        bench_free(&bench);
    }
}

static void many_sequences_are_each_by_itself(void **state)
{
    (void)state;
    enum { LEN = 8 };
    const MambaConfig config = odd_config();
    Bench both = bench_new(&config, 2, LEN, 5), one = bench_new(&config, 1, LEN, 5);
    size_t count = LEN * config.hidden_size;
    Random random = random_from_seed(6);
    float *input = random_array(2 * count, &random), *out = nan_filled(2 * count);
    float *alone = nan_filled(count);
    layer_forward(out, &both.cache, NULL, input, &both.block);
    layer_forward(alone, &one.cache, NULL, input + count, &one.block);
    assert_memory_equal(alone, out + count, count * sizeof(float));
    free(input), free(out), free(alone);
    bench_free(&both), bench_free(&one);
}

static void two_threads_give_the_bits_of_one(void **state)
{
    (void)state;
    enum { BATCH = 2, LEN = 70 };
    MambaConfig config = config_default_heads(48, 16, 32);
    config.n_groups = 2;
    size_t count = BATCH * LEN * config.hidden_size, floats = layer_params_floats(&config);
    Random random = random_from_seed(7);
    float *input = random_array(count, &random), *g = random_array(count, &random);
    float *out[2], *input_grad[2];
    Bench bench[2];
    for (int i = 0; i < 2; i++) {
        threads_use(i + 1);
        bench[i] = bench_new(&config, BATCH, LEN, 8);
        out[i] = nan_filled(count), input_grad[i] = nan_filled(count);
        layer_forward(out[i], &bench[i].cache, NULL, input, &bench[i].block);
        zero(bench[i].grads, floats); /* and between tensors too */
        layer_backward(&bench[i].grad, input_grad[i], &bench[i].back, g, &bench[i].cache, input,
                       &bench[i].block);
    }
    assert_memory_equal(out[0], out[1], count * sizeof(float));
    assert_memory_equal(input_grad[0], input_grad[1], count * sizeof(float));
    assert_memory_equal(bench[0].grads, bench[1].grads, floats * sizeof(float));
    for (int i = 0; i < 2; i++) {
        free(out[i]), free(input_grad[i]);
        bench_free(&bench[i]);
    }
    free(input), free(g);
}

/* ---- finite differences --------------------------------------------------------------------- */

static double block_loss(Bench *bench, const float *input, const float *g)
{
    const HeadCache *cache = &bench->cache.heads;
    size_t count = cache->batch * cache->len * bench->block.config.hidden_size;
    float *out = nan_filled(count);
    double loss = 0.0;
    layer_refresh(&bench->block);
    layer_forward(out, &bench->cache, NULL, input, &bench->block);
    for (size_t i = 0; i < count; i++)
        loss += (double)out[i] * (double)g[i];
    free(out);
    return loss;
}

/* The slope of the loss along a random direction against the gradient along it. */
static void check_direction(Bench *bench, float *values, const float *gradient, size_t count,
                            const float *input, const float *g, uint64_t seed)
{
    Random random = random_from_seed(seed);
    float *direction = random_array(count, &random), *kept = NEW(float, count);
    double along = 0.0, size = 0.0, h = 3e-3, loss[2];
    memcpy(kept, values, count * sizeof(float));
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < count; i++)
            values[i] = kept[i] + (side ? (float)h : -(float)h) * direction[i];
        loss[side] = block_loss(bench, input, g);
    }
    for (size_t i = 0; i < count; i++) {
        along += (double)gradient[i] * (double)direction[i];
        size += fabs((double)gradient[i] * (double)direction[i]);
    }
    memcpy(values, kept, count * sizeof(float));
    assert_near((loss[1] - loss[0]) / (2.0 * h), along, 3e-3 * size + 1e-3,
                0); /* float losses over h */
    free(direction), free(kept);
}

static void check_slopes(const MambaConfig *config)
{
    enum { BATCH = 2, LEN = 6 };
    Bench bench = bench_new(config, BATCH, LEN, 7);
    TensorShape shapes[BLOCK_TENSORS];
    size_t count = BATCH * LEN * config->hidden_size;
    Random random = random_from_seed(8);
    float *input = random_array(count, &random), *g = random_array(count, &random);
    float *out = nan_filled(count), *input_grad = nan_filled(count);
    layer_shapes(shapes, config);
    layer_forward(out, &bench.cache, NULL, input, &bench.block);
    layer_backward(&bench.grad, input_grad, &bench.back, g, &bench.cache, input, &bench.block);
    for (uint64_t seed = 0; seed < 3; seed++) {
        for (int i = 0; i < BLOCK_TENSORS; i++)
            if (shapes[i].count > 0)
                check_direction(&bench, bench.block.params.tensor[i], bench.grad.tensor[i],
                                shapes[i].count, input, g, seed);
        check_direction(&bench, input, input_grad, count, input, g, seed);
    }
    free(input), free(g), free(out), free(input_grad);
    bench_free(&bench);
}

static void every_gradient_is_the_slope_of_the_loss(void **state)
{
    (void)state;
    MambaConfig config = even_config(), odd = odd_config();
    check_slopes(&config);
    odd.time_step_limit[0] = 0.0; /* at a limit the loss has a corner, and no slope */
    odd.time_step_limit[1] = 1e3;
    check_slopes(&odd);
}

/* ---- the norm of a group -------------------------------------------------------------------- */

static void ex5_14_the_norm_by_hand(void **state)
{
    (void)state;
    /* (3, 4) has the root mean square sqrt(12.5), (6, 8) twice that: the same comes out */
    static const float gated[8] = {3, 4, 6, 8, 0, 0, 1, -1}, weight[4] = {1, 2, 1, 10};
    const float root = 3.5355339f;
    const float want[8] = {3 / root, 8 / root, 3 / root, 40 / root, 0, 0, 1, -10};
    float out[8], scale[4];
    gated_norm_forward(out, scale, gated, weight, 0.0, 1, 4, 2);
    gated_norm_forward(out + 4, scale + 2, gated + 4, weight, 1e-12, 1, 4, 2);
    assert_all_near(out, want, 8, 1e-6, 1e-6);
    assert_near(scale[1], 0.5 / (double)root, 0, 1e-6);
}

static void ex5_14_a_group_knows_nothing_of_the_others(void **state)
{
    (void)state;
    enum { TOKENS = 3, WIDE = 10, N_GROUP = 2 };
    Random random = random_from_seed(1);
    float *gated = random_array(TOKENS * WIDE, &random), *weight = random_array(WIDE, &random);
    float out[2][TOKENS * WIDE], scale[2][TOKENS * N_GROUP];
    gated_norm_forward(out[0], scale[0], gated, weight, 1e-5, TOKENS, WIDE, N_GROUP);
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t c = 0; c < WIDE / N_GROUP; c++)
            gated[t * WIDE + c] *= 100.0f; /* the first group shouts */
    gated_norm_forward(out[1], scale[1], gated, weight, 1e-5, TOKENS, WIDE, N_GROUP);
    for (size_t t = 0; t < TOKENS; t++) {
        for (size_t c = t * WIDE + WIDE / N_GROUP; c < (t + 1) * WIDE; c++)
            assert_that(
                out[1][c] == out[0][c],
                "when the first group shouts, channel %zu of the other becomes %g; it was %g",
                c - t * WIDE, (double)out[1][c], (double)out[0][c]);
        assert_all_near(out[1] + t * WIDE, out[0] + t * WIDE, WIDE / N_GROUP, 1e-4, 1e-4);
    }
    free(gated), free(weight);
}

static void ex5_14_one_group_is_chapter_5_s_norm(void **state)
{
    (void)state;
    enum { TOKENS = 5, WIDE = 33 };
    Random random = random_from_seed(2);
    float *gated = random_array(TOKENS * WIDE, &random), *weight = random_array(WIDE, &random);
    float out[2][TOKENS * WIDE], scale[2][TOKENS];
    gated_norm_forward(out[0], scale[0], gated, weight, 1e-5, TOKENS, WIDE, 1);
    rms_norm_forward(out[1], scale[1], gated, weight, 1e-5, TOKENS, WIDE);
    assert_all_near_as("out", out[0], out[1], TOKENS * WIDE, 0, 0);
    assert_all_near_as("scale", scale[0], scale[1], TOKENS, 0, 0);
    free(gated), free(weight);
}

/* In double, element by element. */
static void the_norm_s_gradient_is_its_slope(void **state)
{
    (void)state;
    enum { TOKENS = 2, WIDE = 12, N_GROUP = 3, WIDTH = WIDE / N_GROUP, N = TOKENS * WIDE };
    Random random = random_from_seed(9);
    float *in = random_array(N, &random), *w = random_array(WIDE, &random);
    float *g = random_array(N, &random);
    float out[N], scale[TOKENS * N_GROUP], in_grad[N], w_grad[WIDE];
    double slope[N];
    gated_norm_forward(out, scale, in, w, 1e-2, TOKENS, WIDE, N_GROUP);
    gated_norm_backward(in_grad, w_grad, g, scale, in, w, TOKENS, WIDE, N_GROUP);
    for (size_t k = 0; k < N; k++) {
        double loss[2];
        size_t first = k / WIDTH * WIDTH; /* of its group: the others' losses stay */
        for (int side = 0; side < 2; side++) {
            double sum = 0.0, square = 0.0, h = side ? 1e-6 : -1e-6;
            for (size_t i = first; i < first + WIDTH; i++) {
                double v = (double)in[i] + (i == k ? h : 0.0);
                square += v * v / WIDTH;
            }
            for (size_t i = first; i < first + WIDTH; i++)
                sum += (double)g[i] * (double)w[i % WIDE] * ((double)in[i] + (i == k ? h : 0.0)) /
                       sqrt(square + 1e-2);
            loss[side] = sum;
        }
        slope[k] = (loss[1] - loss[0]) / 2e-6;
    }
    assert_relmax(in_grad, slope, N, 1e-5);
    for (size_t d = 0; d < WIDE; d++)
        assert_near((double)w_grad[d] * (double)w[d],
                    (double)g[d] * (double)out[d] + (double)g[WIDE + d] * (double)out[WIDE + d],
                    1e-5, 1e-5);
    free(in), free(w), free(g);
}

static void the_gate_and_its_gradients_are_as_defined(void **state)
{
    (void)state;
    enum { N = 37 };
    Random random = random_from_seed(3);
    float *y = random_array(N, &random), *z = random_array(N, &random);
    float *g = random_array(N, &random), out[N], want[N], y_grad[N], z_grad[N];
    gate_all(out, y, z, N);
    gate_forward(want, y, z, N);
    assert_all_near(out, want, N, 1e-7, 1e-6);
    gate_backward_all(y_grad, z_grad, g, y, z, N);
    for (size_t i = 0; i < N; i++) {
        double h = 1e-5, v = (double)z[i];
        double high = (v + h) / (1.0 + exp(-v - h)), low = (v - h) / (1.0 + exp(-v + h));
        assert_near(y_grad[i], (double)g[i] * v / (1.0 + exp(-v)), 1e-6, 1e-5);
        assert_near(z_grad[i], (double)(g[i] * y[i]) * (high - low) / (2.0 * h), 1e-6, 1e-5);
    }
    free(y), free(z), free(g);
}

/* ---- the step sizes ------------------------------------------------------------------------- */

static void a_step_is_held_between_its_limits(void **state)
{
    (void)state; /* softplus(0) is log 2 = 0.693; softplus(-5) = 0.0067, softplus(3) = 3.05 */
    static const float raw[4] = {-1, -5, 2, 4}, bias[2] = {1, 0};
    static const double limit[2] = {0.1, 2.0};
    static const float delta_grad[4] = {10, 20, 30, 40};
    float delta[4], raw_grad[4], bias_grad[2];
    head_steps_forward(delta, raw, bias, limit, 2, 2);
    const float want[4] = {0.693147f, 0.1f, 2.0f, 2.0f};
    assert_all_near(delta, want, 4, 1e-6, 0);
    head_steps_backward(raw_grad, bias_grad, delta_grad, raw, bias, limit, 2, 2);
    const float raw_want[4] = {5, 0, 0, 0}, bias_want[2] = {5, 0}; /* the sigmoid of 0 is 1/2 */
    assert_all_near(raw_grad, raw_want, 4, 1e-5, 0);
    assert_all_near(bias_grad, bias_want, 2, 1e-5, 0);
}

static void a_step_that_is_no_number_is_not_hidden_by_a_limit(void **state)
{
    (void)state;
    static const float raw[1] = {NAN}, bias[1] = {0};
    static const double limit[2] = {0.1, 2.0};
    float delta[1];
    head_steps_forward(delta, raw, bias, limit, 1, 1);
    assert_true(isnan(delta[0]));
}

static void a_layer_s_mean_step_is_that_of_its_heads(void **state)
{
    (void)state;
    enum { LEN = 4 };
    MambaConfig config = even_config();
    Bench bench = bench_new(&config, 1, LEN, 2);
    Random random = random_from_seed(3);
    float *input = random_array(LEN * config.hidden_size, &random);
    float *out = nan_filled(LEN * config.hidden_size);
    layer_forward(out, &bench.cache, NULL, input, &bench.block);
    for (size_t t = 0; t < LEN; t++) {
        double sum = 0.0;
        for (size_t h = 0; h < config.num_heads; h++)
            sum += log1p(exp((double)bench.cache.heads.dt_raw[t * config.num_heads + h] +
                             (double)bench.block.params.tensor[DT_BIAS][h]));
        assert_near(layer_mean_step(&bench.cache, t, &bench.block), sum / (double)config.num_heads,
                    0, 1e-5);
    }
    free(input), free(out);
    bench_free(&bench);
}

/* ---- shapes --------------------------------------------------------------------------------- */

/* The sizes of mamba2-130m. */
static void a_block_has_the_parameters_counted_by_hand(void **state)
{
    (void)state;
    MambaConfig config = config_default_heads(768, 64, 128);
    TensorShape shapes[BLOCK_TENSORS];
    size_t all = 0, floats = 0;
    head_block_shapes(shapes, &config);
    for (int i = 0; i < BLOCK_TENSORS; i++) {
        all += shapes[i].count;
        floats += (shapes[i].count + 15) / 16 * 16;
    }
    assert_int_equal(all,
                     768 + (2 * 1536 + 2 * 128 + 24) * 768 + 1792 * 5 + 3 * 24 + 1536 + 768 * 1536);
    assert_int_equal(layer_params_floats(&config), floats);
    assert_int_equal(layer_state_floats(&config, 2), 2 * (3 * 1792 + 1536 * 128));
    config.use_bias = true, config.use_conv_bias = false;
    head_block_shapes(shapes, &config);
    assert_int_equal(shapes[IN_PROJ_BIAS].count, 2 * 1536 + 2 * 128 + 24);
    assert_int_equal(shapes[OUT_PROJ_BIAS].count, 768);
    assert_int_equal(shapes[CONV1D_BIAS].count, 0);
}

static void a_fresh_block_moves_slowly_and_its_heads_differ(void **state)
{
    (void)state;
    MambaConfig config = config_default_heads(64, 4, 8); /* 32 heads */
    Random random = random_from_seed(1);
    OwnHeadBlock own = own_head_block_new(&config, 1, 1, &random);
    float *const *p = own.block.params.tensor;
    double least = 0.0, most = -100.0;
    for (size_t h = 0; h < config.num_heads; h++) {
        double delta = log1p(exp((double)p[DT_BIAS][h]));
        assert_true(delta > 0.0009 && delta < 0.1001);
        assert_near(own.block.A[h], -exp((double)p[A_LOG][h]), 0, 1e-6);
        least = fmin(least, (double)own.block.A[h]), most = fmax(most, (double)own.block.A[h]);
        assert_true(p[D_SKIP][h] == 1.0f);
    }
    assert_true(least >= -16.0 && least < -12.0 && most <= -1.0 && most > -4.0);
    own_head_block_free(&own);
}

/* ---- config.json ---------------------------------------------------------------------------- */

static void config_is(const char *more, MambaConfig *config)
{
    Error error;
    char text[1024];
    snprintf(text, sizeof text, "{\"hidden_size\": 32%s, \"model_type\": \"mamba2\"}", more);
    if (!config_parse(config, text, strlen(text), "config.json", &error))
        fail_msg("%s: %s", more, error.text);
}

static void what_a_config_leaves_out_has_hugging_face_s_default(void **state)
{
    (void)state;
    MambaConfig config;
    config_is(", \"num_heads\": 16, \"head_dim\": 4", &config);
    assert_int_equal(config.kind, MODEL_MAMBA2);
    assert_int_equal(config.state_size, 128);
    assert_int_equal(config.n_groups, 8);
    assert_int_equal(config.chunk_size, 256);
    assert_int_equal(config.intermediate_size, 64);
    assert_false(config.tie_word_embeddings);
    assert_true(config.time_step_limit[0] == 0.0 && isinf(config.time_step_limit[1]));
    config_is(", \"head_dim\": 4, \"n_groups\": 2",
              &config); /* as many heads as there is room for */
    assert_int_equal(config.num_heads, 16);
}

static void an_infinite_limit_is_read_in_both_spellings(void **state)
{
    (void)state;
    static const char *const spelt[] = {"Infinity", "{\"__float__\": \"Infinity\"}", "1e400"};
    for (int i = 0; i < 3; i++) {
        MambaConfig config;
        char more[128];
        snprintf(more, sizeof more,
                 ", \"head_dim\": 8, \"time_step_limit\": [0.125, %s], \"x\": NaN", spelt[i]);
        config_is(more, &config);
        assert_true(config.time_step_limit[0] == 0.125);
        assert_true(config.time_step_limit[1] > 0 && isinf(config.time_step_limit[1]));
    }
}

static void a_config_that_contradicts_itself_is_refused(void **state)
{
    (void)state;
    static const char *const wrong[][2] = {
        {"\"num_heads\": 7, \"head_dim\": 8",
         "num_heads 7 of head_dim 8 are 56 channels, but expand 2 times hidden_size 32 is 64"},
        {"\"head_dim\": 60", "num_heads 2 of head_dim 60 are 120 channels"},
        {"\"num_heads\": 8, \"head_dim\": 8, \"n_groups\": 3",
         "n_groups 3 does not divide num_heads 8"},
        {"\"head_dim\": 8, \"time_step_limit\": [0.2, 0.1]",
         "time_step_limit 0.2 to 0.1: 0 <= least <= most is wanted"},
        {"\"head_dim\": 8, \"time_step_limit\": [-1, 0.1]", "0 <= least <= most is wanted"},
        {"\"head_dim\": 8, \"time_step_limit\": [NaN, 0.1]", "0 <= least <= most is wanted"},
        {"\"head_dim\": 8, \"time_step_limit\": [0]",
         "time_step_limit: two numbers are wanted, not 1"},
        {"\"head_dim\": 8, \"time_step_limit\": [0, 1, 2]",
         "time_step_limit: two numbers are wanted, not 3"},
        {"\"head_dim\": 8, \"time_step_limit\": 1", "time_step_limit: expected an array"},
        {"\"head_dim\": 8, \"time_step_limit\": [0, {\"__float__\": \"wide\"}]",
         "time_step_limit: 'wide' is no limit"},
        {"\"head_dim\": 8, \"time_step_limit\": [0, {\"float\": 1}]",
         "a number or {\"__float__\": \"Infinity\"} is wanted"},
        {"\"chunk_size\": 0", "chunk_size: 0 is too small"},
        {"\"head_dim\": 0", "head_dim: 0 is too small"},
        {"\"n_groups\": 0", "n_groups: 0 is too small"},
        {"\"layer_norm_epsilon\": Infinity", "Infinity is too large for a double"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        MambaConfig config = config_default(5);
        Error error;
        char text[512];
        snprintf(text, sizeof text, "{\"model_type\": \"mamba2\", \"hidden_size\": 32, %s}",
                 wrong[i][0]);
        if (config_parse(&config, text, strlen(text), "config.json", &error))
            fail_msg("%s: accepted", text);
        assert_contains(error.text, "config.json: ");
        assert_contains(error.text, wrong[i][1]);
        assert_int_equal(config.hidden_size, 5); /* untouched */
    }
}

/* state-spaces/mamba2-130m's own config.json has no more than this. */
static void the_original_layout_is_read(void **state)
{
    (void)state;
    static const char text[] =
        "{\"d_model\": 768, \"d_intermediate\": 0, \"n_layer\": 24, \"vocab_size\": 50277, "
        "\"ssm_cfg\": {\"layer\": \"Mamba2\"}, \"attn_layer_idx\": [], \"attn_cfg\": {}, "
        "\"rms_norm\": true, \"residual_in_fp32\": true, \"fused_add_norm\": true, "
        "\"pad_vocab_size_multiple\": 16, \"tie_embeddings\": true}";
    MambaConfig config;
    Error error;
    if (!config_parse(&config, text, strlen(text), "config.json", &error))
        fail_msg("%s", error.text);
    assert_int_equal(config.kind, MODEL_MAMBA2);
    assert_int_equal(config.hidden_size, 768);
    assert_int_equal(config.intermediate_size, 1536);
    assert_int_equal(config.num_heads, 24);
    assert_int_equal(config.head_dim, 64);
    assert_int_equal(config.n_groups, 1);
    assert_int_equal(config.state_size, 128);
    assert_int_equal(config.num_hidden_layers, 24);
    assert_int_equal(config.vocab_size, 50288);
    assert_true(config.tie_word_embeddings && isinf(config.time_step_limit[1]));
}

static void original_switches_that_are_not_built_are_refused(void **state)
{
    (void)state;
    static const char *const wrong[][2] = {
        {"\"rmsnorm\": false", "ssm_cfg: rmsnorm is false, which is not known here"},
        {"\"norm_before_gate\": true", "norm_before_gate is true, which is not known here"},
        {"\"D_has_hdim\": true", "D_has_hdim is true, which is not known here"},
        {"\"headdim\": 60", "num_heads 3 of head_dim 60 are 180 channels"},
        {"\"ngroups\": 3", "n_groups 3 does not divide num_heads 2"},
        {"\"dt_limit\": [1, 0]", "0 <= least <= most is wanted"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        MambaConfig config;
        Error error;
        char text[256];
        snprintf(text, sizeof text, "{\"d_model\": 64, \"ssm_cfg\": {%s, \"layer\": \"Mamba2\"}}",
                 wrong[i][0]);
        if (config_parse(&config, text, strlen(text), "config.json", &error))
            fail_msg("%s: accepted", text);
        assert_contains(error.text, wrong[i][1]);
    }
}

/* A file that says Mamba in one layout and Mamba-2 in the other, whichever comes first, would be
   read with the sizes of neither. */
static void two_kinds_in_one_config_are_refused(void **state)
{
    (void)state;
    static const char *const wrong[][3] = {
        {"mamba", "Mamba2", "model_type is \"mamba\", but the layer of ssm_cfg is \"Mamba2\""},
        {"falcon_mamba", "Mamba2", "model_type is \"falcon_mamba\", but the layer"},
        {"mamba2", "Mamba1", "model_type is \"mamba2\", but the layer of ssm_cfg is \"Mamba1\""}};
    for (size_t i = 0; i < 2 * sizeof wrong / sizeof *wrong; i++) {
        const char *const *row = wrong[i / 2];
        MambaConfig config;
        Error error;
        char text[256];
        snprintf(text, sizeof text,
                 i % 2 == 0 ? "{\"d_model\": 64, \"model_type\": \"%s\", \"ssm_cfg\": "
                              "{\"layer\": \"%s\"}}"
                            : "{\"ssm_cfg\": {\"layer\": \"%2$s\"}, \"d_model\": 64, "
                              "\"model_type\": \"%1$s\"}",
                 row[0], row[1]);
        if (config_parse(&config, text, strlen(text), "config.json", &error))
            fail_msg("%s: accepted", text);
        assert_contains(error.text, row[2]);
    }
}

static void two_kinds_that_agree_are_one(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        ModelKind kind;
    } right[] = {
        {"{\"hidden_size\": 64, \"model_type\": \"mamba\", \"ssm_cfg\": {}}", MODEL_MAMBA},
        {"{\"hidden_size\": 64, \"n_groups\": 1, \"ssm_cfg\": {\"layer\": \"Mamba2\"}}",
         MODEL_MAMBA2},
        {"{\"d_model\": 64, \"ssm_cfg\": {\"layer\": \"Mamba2\"}, \"model_type\": \"mamba2\"}",
         MODEL_MAMBA2},
        {"{\"d_model\": 64, \"ssm_cfg\": {}, \"model_type\": \"mamba2\"}", MODEL_MAMBA2},
        {"{\"d_model\": 64, \"ssm_cfg\": {\"layer\": \"Mamba1\"}, \"model_type\": "
         "\"falcon_mamba\"}",
         MODEL_FALCON_MAMBA}};
    for (size_t i = 0; i < sizeof right / sizeof *right; i++) {
        MambaConfig config;
        Error error;
        if (!config_parse(&config, right[i].text, strlen(right[i].text), "config.json", &error))
            fail_msg("%s: %s", right[i].text, error.text);
        assert_int_equal(config.kind, right[i].kind);
        assert_int_equal(config.num_heads, right[i].kind == MODEL_MAMBA2 ? 2 : 0);
    }
}

/* ---- training ------------------------------------------------------------------------------- */

static const char lessons[] = "the cat sat. the dog sat. the cat ran. the dog ran. the cow sat. "
                              "the cow ran. the cat sat. the dog ran. ";

/* A small model learns a few sentences, in bytes; its losses, and the model. */
static Model learn(double *loss, uint64_t steps, int threads)
{
    Corpus corpus;
    size_t count = strlen(lessons);
    int32_t *ids = NEW(int32_t, count);
    size_t *start = NEW(size_t, count);
    memset(&corpus, 0, sizeof corpus);
    for (size_t i = 0; i < count; i++)
        ids[i] = lessons[i];
    for (size_t i = 0; i + 21 < count; i++)
        start[corpus.n_start++] = i;
    corpus.ids = ids, corpus.start = start, corpus.count = count;
    MambaConfig config = config_default_heads(16, 8, 8);
    config.num_hidden_layers = 2, config.vocab_size = 128;
    Model model = model_new(&config);
    Random random = random_from_seed(1);
    model_init(&model, &random);
    TrainSettings settings = {5, 20, steps, 1, 1e-2, 0.1, 1.0, 0.0};
    BatchSource source = {corpus_fill, &corpus};
    threads_use(threads);
    Trainer trainer = trainer_new(&model, &settings);
    for (uint64_t i = 0; i < steps; i++)
        loss[i] = trainer_step(&trainer, &source);
    trainer_free(&trainer);
    free(ids), free(start);
    return model;
}

static void a_model_learns_and_its_bits_are_the_same_for_any_threads(void **state)
{
    (void)state;
    enum { STEPS = 60 };
    double loss[2][STEPS];
    Model one = learn(loss[0], STEPS, 1), three = learn(loss[1], STEPS, 3);
    assert_memory_equal(loss[0], loss[1], sizeof loss[0]);
    assert_memory_equal(one.params.memory, three.params.memory,
                        model_floats(&one.config) * sizeof(float));
    assert_near(loss[0][0], log(128.0), 0.5, 0);
    assert_true(loss[0][STEPS - 1] < 1.8);
    model_free(&one), model_free(&three);
}

static void the_decays_biases_and_factors_do_not_decay(void **state)
{
    (void)state;
    MambaConfig config = even_config();
    ModelParams params = model_params_new(&config);
    size_t decaying = 0;
    for (size_t k = 0; k < model_tensor_count(&config); k++) {
        ModelTensor tensor = model_tensor(&params, &config, k);
        bool matrix = strstr(tensor.name, "proj.weight") || strstr(tensor.name, "conv1d.weight") ||
                      strstr(tensor.name, "embeddings") || strstr(tensor.name, "lm_head");
        if (tensor.count > 0)
            assert_int_equal(tensor.decays, matrix);
        decaying += tensor.count > 0 && tensor.decays;
    }
    assert_int_equal(decaying, 4); /* in_proj, conv1d, out_proj, embeddings */
    model_params_free(&params);
}

static void a_folder_is_read_as_it_was_written(void **state)
{
    (void)state;
    char folder[] = "/tmp/ch05_mamba2_XXXXXX";
    assert_non_null(mkdtemp(folder));
    MambaConfig config = even_config();
    Vocabulary words = rainbow_words(), read_words;
    Error error;
    config.vocab_size = words.n_word;
    config.tie_word_embeddings = true;
    config.time_step_limit[0] = 0.125; /* numbers whose decimals end */
    for (int limited = 0; limited < 2; limited++) {
        config.time_step_limit[1] = limited ? 0.5 : INFINITY;
        Model model = model_new(&config), back;
        Random random = random_from_seed(1);
        model_init(&model, &random);
        if (!model_save_folder(folder, &model, &words, &error) ||
            !model_open_folder(&back, &read_words, folder, &error))
            fail_msg("%s", error.text);
        assert_memory_equal(&back.config, &config, sizeof config);
        assert_memory_equal(back.params.memory, model.params.memory,
                            model_floats(&config) * sizeof(float));
        assert_memory_equal(back.A, model.A, config.num_heads * sizeof(float));
        vocabulary_free(&read_words);
        model_free(&model), model_free(&back);
    }
    vocabulary_free(&words);
    char command[96], text[4096];
    snprintf(command, sizeof command, "--batches --model %s", folder);
    assert_int_equal(run_program(text, sizeof text, "ch05_lengths", command), 1);
    assert_contains(text, "a mamba2: what is shown here is for chapter 5's block");
    snprintf(command, sizeof command, "--model %s", folder); /* it is told before any table */
    assert_int_equal(run_program_output(text, sizeof text, "ch05_lengths", command), 1);
    assert_string_equal(text, "");
    snprintf(command, sizeof command, "rm -r %s", folder);
    assert_int_equal(system(command), 0);
}

static void the_programs_send_a_config_to_the_right_one(void **state)
{
    (void)state;
    char text[512];
    assert_int_equal(
        run_program(text, sizeof text, "ch05_mamba2_block", "--config data/tiny-mamba/config.json"),
        1);
    assert_contains(text, "this is no Mamba-2; ch05_mamba_block shows the others");
    assert_int_equal(run_program(text, sizeof text, "ch05_mamba_block",
                                 "--count --config tests/golden/mamba2_groups/config.json"),
                     1);
    assert_contains(text, "this is a Mamba-2: ch05_mamba2_block shows its block");
    assert_int_equal(run_program(text, sizeof text, "ch05_mamba2_block",
                                 "--demo count --config tests/golden/mamba2_groups/config.json"),
                     0);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_and_loss_agree_with_golden),
        cmocka_unit_test(every_gradient_agrees_with_golden),
        cmocka_unit_test(greedy_tokens_agree_with_golden),
        cmocka_unit_test(the_mixer_is_what_its_clear_parts_make),
        cmocka_unit_test(a_mixer_set_to_pass_everything_is_the_scan),
        cmocka_unit_test(pieces_and_steps_are_the_whole),
        cmocka_unit_test(many_sequences_are_each_by_itself),
        cmocka_unit_test(two_threads_give_the_bits_of_one),
        cmocka_unit_test(every_gradient_is_the_slope_of_the_loss),
        cmocka_unit_test(ex5_14_the_norm_by_hand),
        cmocka_unit_test(ex5_14_a_group_knows_nothing_of_the_others),
        cmocka_unit_test(ex5_14_one_group_is_chapter_5_s_norm),
        cmocka_unit_test(the_norm_s_gradient_is_its_slope),
        cmocka_unit_test(the_gate_and_its_gradients_are_as_defined),
        cmocka_unit_test(a_step_is_held_between_its_limits),
        cmocka_unit_test(a_step_that_is_no_number_is_not_hidden_by_a_limit),
        cmocka_unit_test(a_layer_s_mean_step_is_that_of_its_heads),
        cmocka_unit_test(a_block_has_the_parameters_counted_by_hand),
        cmocka_unit_test(a_fresh_block_moves_slowly_and_its_heads_differ),
        cmocka_unit_test(what_a_config_leaves_out_has_hugging_face_s_default),
        cmocka_unit_test(an_infinite_limit_is_read_in_both_spellings),
        cmocka_unit_test(a_config_that_contradicts_itself_is_refused),
        cmocka_unit_test(the_original_layout_is_read),
        cmocka_unit_test(original_switches_that_are_not_built_are_refused),
        cmocka_unit_test(two_kinds_in_one_config_are_refused),
        cmocka_unit_test(two_kinds_that_agree_are_one),
        cmocka_unit_test(a_model_learns_and_its_bits_are_the_same_for_any_threads),
        cmocka_unit_test(the_decays_biases_and_factors_do_not_decay),
        cmocka_unit_test(a_folder_is_read_as_it_was_written),
        cmocka_unit_test(the_programs_send_a_config_to_the_right_one),
    };
    return cmocka_run_group_tests_name("the block of Mamba-2", tests, NULL, NULL);
}
