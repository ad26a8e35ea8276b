/* Stacks of several kinds of layers, blocks with less selection, and what they are asked. */

#include "../ch05_mamba_block/ablation.c"
#include "../ch05_mamba_block/attention.c"
#include "check.h"

/* A stack of 32 channels with two heads, as model_init makes it. */
static Model stack_model(const char *stack, uint64_t seed)
{
    MambaConfig config = config_default(32);
    Random random = random_from_seed(seed);
    snprintf(config.stack, sizeof config.stack, "%s", stack);
    config.num_hidden_layers = strlen(stack);
    config.head_dim = 16;
    config.mlp_size = 50;
    config.vocab_size = 20;
    Model model = model_new(&config);
    model_init(&model, &random);
    return model;
}

/* Workspace full of NaN: nothing can be read that was not written. */
static ModelWork nan_work(const Model *model, size_t batch, size_t len, bool back)
{
    ModelWork work = model_work_new(model, batch, len, back);
    size_t count = model_work_layout(&work, NULL, model);
    for (size_t i = 0; i < count; i++)
        work.memory[i] = NAN;
    model_work_layout(&work, work.memory, model);
    return work;
}

/* ---- the layers ----------------------------------------------------------------------------- */

/* One layer of attention against attention.c's, which knows no places: without turns (every angle
   0) they are the same. */
static void attention_that_does_not_turn_is_that_of_attention_c(void **state)
{
    (void)state;
    enum { LEN = 37 };
    Model model = stack_model("a", 2);
    const MambaConfig *config = &model.config;
    size_t d_model = config->hidden_size, half = config->head_dim / 2;
    ModelWork work = nan_work(&model, 1, LEN, true);
    TransformerCache *cache = &work.cache[0].transformer;
    for (size_t i = 0; i < LEN * config->head_dim; i++)
        cache->turn[i] = i % config->head_dim < half ? 1.0f : 0.0f;
    Random random = random_from_seed(5);
    float input[LEN * 32], out[LEN * 32], wanted[LEN * 32], scale[LEN], normed[LEN * 32];
    for (size_t i = 0; i < LEN * d_model; i++)
        input[i] = (float)random_normal(&random);
    transformer_block_forward(out, cache, input, &model.block[0]);
    float *const *p = model.params.layer[0].tensor;
    Attention plain = {d_model,
                       2,
                       p[IN_PROJ_WEIGHT],
                       p[IN_PROJ_WEIGHT] + d_model * d_model,
                       p[IN_PROJ_WEIGHT] + 2 * d_model * d_model,
                       p[OUT_PROJ_WEIGHT]};
    float *own = NEW(float, attention_floats(&plain, LEN));
    rms_norm_forward(normed, scale, input, p[NORM_WEIGHT], config->layer_norm_epsilon, LEN,
                     d_model);
    attention_forward(wanted, own, normed, &plain, LEN);
    for (size_t i = 0; i < LEN * d_model; i++)
        wanted[i] += input[i];
    assert_relmax(out, wanted, LEN * d_model, 1e-5);
    free(own);
    model_work_free(&work);
    model_free(&model);
}

/* What attention has of two tokens depends on how far apart they are, not on where they stand. */
static void scores_depend_on_distance_alone(void **state)
{
    (void)state;
    enum { LEN = 40 };
    Model model = stack_model("a", 2);
    const MambaConfig *config = &model.config;
    ModelWork work = nan_work(&model, 1, LEN, true);
    TransformerCache *cache = &work.cache[0].transformer;
    Random random = random_from_seed(6);
    float one[16], two[16], first = 0.0f;
    for (size_t i = 0; i < 16; i++)
        one[i] = (float)random_normal(&random), two[i] = (float)random_normal(&random);
    for (size_t t = 0; t < LEN; t++) { /* one vector as q everywhere, another as k */
        memset(cache->q + t * 32, 0, 32 * sizeof(float));
        memset(cache->k + t * 32, 0, 32 * sizeof(float));
        memcpy(cache->q + t * 32, one, sizeof one);
        memcpy(cache->k + t * 32, two, sizeof two);
    }
    turn_by_place(cache->q, cache, config, false);
    turn_by_place(cache->k, cache, config, false);
    for (size_t t = 7; t < LEN; t++) {
        float score = dot(cache->q + t * 32, cache->k + (t - 7) * 32, 16);
        first = t == 7 ? score : first;
        assert_near(score, first, 1e-4, 0.0);
    }
    assert_true(fabsf(dot(cache->q + 7 * 32, cache->k + 7 * 32, 16) - first) > 0.1f);
    turn_by_place(cache->q, cache, config, true); /* and back again */
    assert_all_near(cache->q + 39 * 32, one, 16, 1e-5, 0.0);
    model_work_free(&work);
    model_free(&model);
}

static void later_tokens_change_nothing_before_them(void **state)
{
    (void)state;
    enum { LEN = 33 };
    static const char *const stacks[] = {"apap", "mmap", "pa"};
    for (size_t k = 0; k < COUNT_OF(stacks); k++) {
        Model model = stack_model(stacks[k], 4);
        ModelWork work = nan_work(&model, 1, LEN, false);
        int32_t ids[LEN];
        float before[20 * 20];
        for (size_t t = 0; t < LEN; t++)
            ids[t] = (int32_t)(7 * t % 20);
        model_forward(&work, NULL, ids, &model);
        memcpy(before, work.logits, sizeof before);
        for (size_t t = 20; t < LEN; t++)
            ids[t] = 3;
        model_forward(&work, NULL, ids, &model);
        assert_memory_equal(work.logits, before, sizeof before);
        ids[0] = 11; /* but what came before changes all after it */
        model_forward(&work, NULL, ids, &model);
        assert_true(fabsf(work.logits[19 * 20] - before[19 * 20]) > 1e-6f);
        model_work_free(&work);
        model_free(&model);
    }
}

/* The slope of the loss along a random direction in one tensor, by finite differences. */
static double slope_of(const ModelTensor *p, const float *direction, ModelWork *work,
                       const int32_t *ids, const int32_t *targets, Model *model)
{
    const double h = 1e-2;
    double loss[2];
    for (int side = 0; side < 2; side++) {
        float step = (float)(side ? -h : h);
        for (size_t i = 0; i < p->count; i++)
            p->values[i] += step * direction[i];
        model_refresh(model);
        model_forward(work, NULL, ids, model);
        loss[side] = model_loss(work, targets, model);
        for (size_t i = 0; i < p->count; i++)
            p->values[i] -= step * direction[i];
    }
    model_refresh(model);
    return (loss[0] - loss[1]) / (2.0 * h);
}

static void gradients_are_those_of_finite_differences(void **state)
{
    (void)state;
    enum { BATCH = 2, LEN = 37 };
    static const char *const stacks[] = {"ap", "mapa"};
    for (size_t s = 0; s < COUNT_OF(stacks); s++) {
        Model model = stack_model(stacks[s], 3);
        Random random = random_from_seed(9);
        int32_t ids[BATCH * LEN], targets[BATCH * LEN];
        for (size_t i = 0; i < BATCH * LEN; i++) {
            ids[i] = (int32_t)(random_u32(&random) % 20);
            targets[i] = i % 3 ? (int32_t)(random_u32(&random) % 20) : -1;
        }
        ModelWork work = nan_work(&model, BATCH, LEN, true);
        ModelParams grad = model_params_new(&model.config);
        model_forward(&work, NULL, ids, &model);
        model_backward(&grad, &work, ids, targets, targets_count(targets, BATCH * LEN), &model);
        for (size_t k = 0; k < model_tensor_count(&model.config); k++) {
            ModelTensor p = model_tensor(&model.params, &model.config, k);
            if (p.count == 0)
                continue;
            const float *g = grad.memory + (p.values - model.params.memory);
            float *direction = NEW(float, p.count);
            double size = 0.0, slope = 0.0;
            for (size_t i = 0; i < p.count; i++) {
                direction[i] = (float)random_normal(&random);
                size += (double)direction[i] * (double)direction[i];
            }
            for (size_t i = 0; i < p.count; i++) {
                direction[i] /= (float)sqrt(size);
                slope += (double)direction[i] * (double)g[i];
            }
            /* floats give a loss near 3 to 2e-7; over a step of 0.02 that is 1e-5 of slope */
            assert_near(slope_of(&p, direction, &work, ids, targets, &model), slope, 1e-5, 2e-3);
            free(direction);
        }
        model_params_free(&grad);
        model_work_free(&work);
        model_free(&model);
    }
}

static void a_pass_that_keeps_nothing_gives_the_same_bits(void **state)
{
    (void)state;
    enum { LEN = 40 };
    Model model = stack_model("mapm", 8);
    ModelWork kept = nan_work(&model, 2, LEN, true), light = nan_work(&model, 2, LEN, false);
    int32_t ids[2 * LEN];
    for (size_t t = 0; t < 2 * LEN; t++)
        ids[t] = (int32_t)(3 * t % 20);
    model_forward(&kept, NULL, ids, &model);
    model_forward(&light, NULL, ids, &model);
    assert_memory_equal(kept.logits, light.logits, sizeof(float) * 2 * LEN * 20);
    model_work_free(&kept), model_work_free(&light);
    model_free(&model);
}

/* ---- the tasks ------------------------------------------------------------------------------ */

static void a_string_is_to_be_said_again_after_the_marker(void **state)
{
    (void)state;
    Random random = random_from_seed(1);
    int32_t id[20], target[20];
    copy_piece(id, target, 20, 7, &random);
    assert_int_equal(id[7], COPIED_KINDS);
    for (size_t i = 0; i < 7; i++) {
        assert_int_equal(target[i], NO_TARGET);
        assert_int_equal(target[7 + i], id[i]);
        assert_int_equal(id[8 + i], id[i]);
        assert_in_range(id[i], 0, COPIED_KINDS - 1);
    }
    for (size_t t = 14; t < 20; t++)
        assert_int_equal(target[t], NO_TARGET);
    copy_piece(id, target, 20, 10, &random); /* as long as there is room for */
    assert_int_equal(target[19], id[9]);
}

static void a_key_that_comes_again_asks_for_its_value(void **state)
{
    (void)state;
    enum { LEN = 400, PAIRS = 9 };
    Random random = random_from_seed(2);
    int32_t id[LEN], target[LEN], value[ASKED_KEYS];
    size_t asked = 0, different = 0;
    for (size_t k = 0; k < ASKED_KEYS; k++)
        value[k] = -1;
    recall_piece(id, target, LEN, PAIRS, &random);
    for (size_t t = 0; t < LEN; t += 2) {
        assert_in_range(id[t], 0, ASKED_KEYS - 1);
        assert_in_range(id[t + 1], ASKED_KEYS, ASKED_KEYS + ASKED_VALUES - 1);
        assert_int_equal(target[t], value[id[t]]);
        assert_int_equal(target[t + 1], NO_TARGET);
        asked += target[t] != NO_TARGET;
        different += value[id[t]] == -1;
        value[id[t]] = id[t + 1];
    }
    assert_int_equal(different, PAIRS);
    assert_int_equal(asked, LEN / 2 - PAIRS);
}

/* The answer is what followed the marker before, wherever that was, and of no marker before it. */
static void a_marker_asks_what_followed_the_last_one(void **state)
{
    (void)state;
    enum { LEN = 600 };
    int32_t id[LEN], target[LEN];
    for (size_t gap = 2; gap <= 65; gap += 9) {
        Random random = random_from_seed(gap);
        size_t before = LEN, widest = 0, narrowest = LEN;
        marker_piece(id, target, LEN, gap, &random);
        for (size_t t = 0; t < LEN; t++) {
            if (id[t] != MARKED_KINDS) {
                assert_in_range(id[t], 0, MARKED_KINDS - 1);
                assert_int_equal(target[t], NO_TARGET);
                continue;
            }
            if (before == LEN) {
                assert_in_range(t, 0, gap - 1);
                assert_int_equal(target[t], NO_TARGET);
            } else {
                assert_int_equal(target[t], id[before + 1]);
                widest = t - before > widest ? t - before : widest;
                narrowest = smaller(narrowest, t - before);
            }
            before = t;
        }
        assert_in_range(narrowest, 2, 2 + gap / 4);
        assert_in_range(widest, gap - gap / 4, gap);
    }
}

/* What is compared differs in nothing but what depends on the token; each name says what does. */
static void selections_differ_in_what_is_fixed_alone(void **state)
{
    (void)state;
    bool shown[SELECTIONS] = {false};
    for (int k = 0; k < ABLATION_TASKS; k++) {
        WhichTask task = ablation_task(k);
        MambaConfig all = ablation_config(FIXED_ALL, &task);
        assert_int_equal(all.fixed, 0);
        for (int selection = 0; selection < SELECTIONS; selection++) {
            MambaConfig config = ablation_config(selection, &task);
            const char *name = selection_name[selection];
            bool full = strcmp(name, "all") == 0;
            assert_int_equal((config.fixed & FIXED_DELTA) == 0, full || strstr(name, "delta"));
            assert_int_equal((config.fixed & FIXED_B) == 0, full || strchr(name, 'B'));
            assert_int_equal((config.fixed & FIXED_C) == 0, full || strchr(name, 'C'));
            config.fixed = 0;
            assert_memory_equal(&config, &all, sizeof all);
            shown[selection_order[selection]] = true;
        }
    }
    for (int selection = 0; selection < SELECTIONS; selection++)
        assert_true(shown[selection]);
}

static void all_stacks_have_the_same_number_of_parameters(void **state)
{
    (void)state;
    MambaConfig config[WHICH_MODELS];
    for (int which = 0; which < WHICH_MODELS; which++)
        config[which] = which_config(which, 20);
    for (int which = 1; which < WHICH_MODELS; which++)
        assert_near((double)model_floats(&config[which]), (double)model_floats(&config[0]), 0.0,
                    2e-3);
}

/* A model can be trained on each: a few steps make the loss smaller. */
static void every_stack_learns(void **state)
{
    (void)state;
    for (int which = 0; which < WHICH_MODELS; which++) {
        WhichTask task = which_task[WHICH_COPYING];
        task.most = 3;
        task.len = 8;
        TrainSettings settings = {16, 8, 60, 1, 1e-2, 0.1, 1.0, 0.0};
        MambaConfig config = which_config(which, task.vocab);
        Random random = random_from_seed(1);
        Model model = model_new(&config);
        model_init(&model, &random);
        Trainer trainer = trainer_new(&model, &settings);
        BatchSource source = {which_fill, &task};
        double first = trainer_step(&trainer, &source), last = first;
        while (trainer.adam.step < settings.steps)
            last = trainer_step(&trainer, &source);
        assert_true(last < 0.9 * first);
        trainer_free(&trainer);
        model_free(&model);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_that_does_not_turn_is_that_of_attention_c),
        cmocka_unit_test(scores_depend_on_distance_alone),
        cmocka_unit_test(later_tokens_change_nothing_before_them),
        cmocka_unit_test(gradients_are_those_of_finite_differences),
        cmocka_unit_test(a_pass_that_keeps_nothing_gives_the_same_bits),
        cmocka_unit_test(a_string_is_to_be_said_again_after_the_marker),
        cmocka_unit_test(a_key_that_comes_again_asks_for_its_value),
        cmocka_unit_test(a_marker_asks_what_followed_the_last_one),
        cmocka_unit_test(selections_differ_in_what_is_fixed_alone),
        cmocka_unit_test(all_stacks_have_the_same_number_of_parameters),
        cmocka_unit_test(every_stack_learns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
