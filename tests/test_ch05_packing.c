/* Texts of different lengths in one row: held against the same texts one by one, forwards,
   backwards and in training; and the clear scan with A_bar 0 where a text begins. */

#include "../ch05_mamba_block/lengths.c"
#include "check.h"

enum { VOCAB = 20, END = 1, TEXTS_MOST = 16 };

/* Two rows of 45 tokens: texts of 31, 1, 13, and of 2, 17, 26 tokens. */
enum { ROWS = 2, LEN = 45 };
static const size_t text_len[] = {31, 1, 13, 2, 17, 26};
enum { TEXTS = 6 };

/* A model whose conv, Delta and state matter: small, with everything random. */
static Model small_model(uint64_t seed)
{
    MambaConfig config = config_default(24);
    Random random = random_from_seed(seed);
    config.num_hidden_layers = 2;
    config.vocab_size = VOCAB;
    config.state_size = 5;
    config.time_step_min = 0.1;
    config.time_step_max = 1.0;
    Model model = model_new(&config);
    model_init(&model, &random);
    for (size_t i = 0; i < model_floats(&config); i++)
        model.params.memory[i] += (float)(0.1 * random_normal(&random));
    model_refresh(&model);
    return model;
}

/* Random tokens; every text but the last of a row ends with END, which stands nowhere else. */
static void small_texts(int32_t *ids, int32_t *targets, uint64_t seed)
{
    Random random = random_from_seed(seed);
    for (size_t i = 0, at = 0; i < TEXTS; at += text_len[i++])
        for (size_t t = 0; t < text_len[i]; t++) {
            bool last = t + 1 == text_len[i];
            ids[at + t] = last ? END : END + 1 + (int32_t)(random_u32(&random) % (VOCAB - 2));
            targets[at + t] = last ? -1 : (int32_t)(random_u32(&random) % VOCAB);
        }
}

/* Workspace full of NaN, so that nothing can be read that was not written; what is laid out once
   and for all is laid out again. */
static ModelWork nan_work(const Model *model, size_t batch, size_t len, bool back)
{
    ModelWork work = model_work_new(model, batch, len, back);
    size_t count = model_work_layout(&work, NULL, model);
    for (size_t i = 0; i < count; i++)
        work.memory[i] = NAN;
    model_work_layout(&work, work.memory, model);
    return work;
}

static void a_text_begins_with_every_row_and_after_every_end(void **state)
{
    (void)state;
    int32_t ids[ROWS * LEN], targets[ROWS * LEN];
    size_t start[ROWS * LEN + 1];
    Packed texts = {0, start};
    small_texts(ids, targets, 1);
    texts_find(&texts, ids, ROWS, LEN, END);
    assert_int_equal(texts.count, TEXTS);
    for (size_t i = 0, at = 0; i < TEXTS; at += text_len[i++])
        assert_int_equal(start[i], at);
    assert_int_equal(start[TEXTS], ROWS * LEN);
    texts_find(&texts, ids, ROWS, LEN, 777); /* an end that never comes */
    assert_int_equal(texts.count, ROWS);
    assert_int_equal(start[1], LEN);
}

/* Logits of each text by itself, into their places among those of all. */
static void one_by_one(float *logits, float *states, const int32_t *ids, const Model *model)
{
    size_t floats = model_state_floats(&model->config, 1);
    for (size_t i = 0, at = 0; i < TEXTS; at += text_len[i++]) {
        ModelWork alone = nan_work(model, 1, text_len[i], false);
        model_forward(&alone, states + i * floats, ids + at, model);
        memcpy(logits + at * VOCAB, alone.logits, text_len[i] * VOCAB * sizeof(float));
        model_work_free(&alone);
    }
}

/* Where layer `layer` of text i keeps its part, in a state of many texts. */
static const float *state_part(const float *states, size_t layer, size_t i, bool conv,
                               const MambaConfig *config)
{
    size_t inner = config->intermediate_size, taps = (config->conv_kernel - 1) * inner;
    const float *at = states + layer * block_state_floats(config, TEXTS);
    return conv ? at + i * taps : at + TEXTS * taps + i * inner * config->state_size;
}

static void a_packed_text_has_the_logits_and_the_state_that_it_has_alone(void **state)
{
    (void)state;
    Model model = small_model(3);
    const MambaConfig *config = &model.config;
    int32_t ids[ROWS * LEN], targets[ROWS * LEN];
    size_t start[ROWS * LEN + 1], floats = model_state_floats(config, 1);
    size_t inner = config->intermediate_size, taps = (config->conv_kernel - 1) * inner;
    Packed texts = {0, start};
    float *alone = NEW(float, ROWS *LEN *VOCAB), *states = NEW(float, TEXTS *floats);
    float *packed = NEW(float, TEXTS *floats);
    small_texts(ids, targets, 1);
    texts_find(&texts, ids, ROWS, LEN, END);
    one_by_one(alone, states, ids, &model);
    ModelWork work = nan_work(&model, ROWS, LEN, false);
    work.texts = &texts;
    model_forward(&work, packed, ids, &model);
    /* bit for bit, where a text alone is long enough to go by the same products (4 tokens) */
    for (size_t i = 0; i < TEXTS; i++)
        if (text_len[i] >= FEW_TOKENS)
            assert_memory_equal(work.logits + start[i] * VOCAB, alone + start[i] * VOCAB,
                                text_len[i] * VOCAB * sizeof(float));
    assert_relmax(work.logits, alone, ROWS * LEN * VOCAB, 1e-5);
    for (size_t layer = 0; layer < 2; layer++)
        for (size_t i = 0; i < TEXTS; i++) {
            const float *own = states + i * floats + layer * (taps + inner * config->state_size);
            assert_relmax(state_part(packed, layer, i, true, config), own, taps, 1e-5);
            assert_relmax(state_part(packed, layer, i, false, config), own + taps,
                          inner * config->state_size, 1e-5);
        }
    model_work_free(&work);
    free(alone), free(states), free(packed);
    model_free(&model);
}

static void without_a_reset_a_text_hears_the_one_before_it(void **state)
{
    (void)state;
    Model model = small_model(3);
    int32_t ids[ROWS * LEN], targets[ROWS * LEN];
    float *alone = NEW(float, ROWS *LEN *VOCAB);
    float *states = NEW(float, TEXTS *model_state_floats(&model.config, 1));
    small_texts(ids, targets, 1);
    one_by_one(alone, states, ids, &model);
    ModelWork work = nan_work(&model, ROWS, LEN, false);
    model_forward(&work, NULL, ids, &model);
    assert_memory_equal(work.logits, alone, text_len[0] * VOCAB * sizeof(float));
    float worst = 0.0f;
    for (size_t v = 0; v < VOCAB; v++)
        worst = fmaxf(worst, fabsf(work.logits[32 * VOCAB + v] - alone[32 * VOCAB + v]));
    assert_true(worst > 1e-2f);
    model_work_free(&work);
    free(alone), free(states);
    model_free(&model);
}

static void a_packed_batch_has_the_gradient_of_its_texts_added_up(void **state)
{
    (void)state;
    Model model = small_model(5);
    int32_t ids[ROWS * LEN], targets[ROWS * LEN];
    size_t start[ROWS * LEN + 1], floats = model_floats(&model.config);
    Packed texts = {0, start};
    small_texts(ids, targets, 2);
    texts_find(&texts, ids, ROWS, LEN, END);
    size_t count = targets_count(targets, ROWS * LEN);
    ModelParams grad = model_params_new(&model.config), one = model_params_new(&model.config);
    float *sum = NEW(float, floats);
    for (size_t i = 0; i < TEXTS; i++) {
        ModelWork alone = nan_work(&model, 1, text_len[i], true);
        model_forward(&alone, NULL, ids + start[i], &model);
        model_backward(&one, &alone, ids + start[i], targets + start[i], count, &model);
        for (size_t k = 0; k < floats; k++)
            sum[k] += one.memory[k];
        model_work_free(&alone);
    }
    ModelWork work = nan_work(&model, ROWS, LEN, true);
    work.texts = &texts;
    model_forward(&work, NULL, ids, &model);
    for (size_t k = 0; k < floats; k++)
        grad.memory[k] = NAN; /* gradients are written, not added to */
    model_backward(&grad, &work, ids, targets, count, &model);
    for (size_t k = 0; k < model_tensor_count(&model.config); k++) {
        ModelTensor p = model_tensor(&grad, &model.config, k);
        if (p.count > 0)
            assert_relmax(p.values, sum + (p.values - grad.memory), p.count, 2e-5);
    }
    model_work_free(&work);
    model_params_free(&grad), model_params_free(&one);
    free(sum);
    model_free(&model);
}

/* The same in the recurrence itself: with A_bar = 0 at a text's first token, which A = -infinity
   there would give, and which the clear scan is told by a step that is long enough for exp(Delta A)
   to be 0, its write being made up for by B. */
static void a_reset_is_A_bar_0_at_the_first_token(void **state)
{
    (void)state;
    enum { TOKENS = 9, FIRST = 4 };
    Random random = random_from_seed(8);
    float u[TOKENS], delta[TOKENS], A[2] = {-1.0f, -3.0f}, B[2 * TOKENS], C[2 * TOKENS];
    float y[TOKENS], wanted[TOKENS];
    size_t start[3] = {0, FIRST, TOKENS};
    Packed texts = {2, start};
    for (size_t t = 0; t < TOKENS; t++) {
        u[t] = (float)random_normal(&random);
        delta[t] = (float)random_uniform(&random);
        for (size_t n = 0; n < 2; n++)
            B[2 * t + n] = (float)random_normal(&random), C[2 * t + n] = 1.0f;
    }
    Scan scan = scan_new(1, TOKENS, 1, 2, u, delta, A, B, C);
    scan_texts(y, NULL, &scan, &texts);
    for (size_t n = 0; n < 2; n++)
        B[2 * FIRST + n] *= delta[FIRST] / 1000.0f;
    delta[FIRST] = 1000.0f; /* exp(-1000) is 0, and Delta B u is what it was */
    selective_scan(wanted, NULL, &scan);
    assert_all_near(y, wanted, TOKENS, 1e-6, 1e-5);
}

static void fill_small(int32_t *ids, int32_t *targets, size_t batch, size_t len, const void *from,
                       Random *random)
{
    (void)from, (void)random;
    assert_int_equal(batch * len, ROWS * LEN);
    small_texts(ids, targets, 2);
}

static void training_with_resets_learns_from_the_texts_as_they_are_alone(void **state)
{
    (void)state;
    TrainSettings settings = {ROWS, LEN, 2, 1, 1e-2, 0.1, 1.0, 0.0};
    BatchSource source = {fill_small, NULL};
    double loss[2], alone = 0.0;
    int32_t ids[ROWS * LEN], targets[ROWS * LEN];
    Model model = small_model(3);
    small_texts(ids, targets, 2);
    for (size_t i = 0, at = 0; i < TEXTS; at += text_len[i++]) {
        ModelWork work = nan_work(&model, 1, text_len[i], false);
        model_forward(&work, NULL, ids + at, &model);
        alone += loss_sum(&work, targets + at, &model);
        model_work_free(&work);
    }
    alone /= (double)targets_count(targets, ROWS * LEN);
    model_free(&model);
    for (int resets = 0; resets < 2; resets++) {
        model = small_model(3);
        Trainer trainer = trainer_new(&model, &settings);
        trainer.text_end = resets ? END : -1;
        loss[resets] = trainer_step(&trainer, &source);
        trainer_free(&trainer);
        model_free(&model);
    }
    assert_near(loss[1], alone, 0.0, 1e-6);
    assert_true(fabs(loss[0] - alone) > 1e-4);
}

/* ---- what lengths.c shows -------------------------------------------------------------------- */

static void only_what_pads_before_or_goes_on_changes_the_logits(void **state)
{
    (void)state;
    Model model = small_model(3);
    int32_t ids[ROWS * LEN], targets[ROWS * LEN];
    size_t start[ROWS * LEN + 1], count = ROWS * LEN * VOCAB;
    TextList list = {ids, {0, start}};
    float *alone = NEW(float, count), *other = NEW(float, count);
    small_texts(ids, targets, 1);
    texts_find(&list.at, ids, ROWS, LEN, END);
    assert_int_equal(batch_logits(alone, &list, TEXTS_ALONE, &model), ROWS * LEN);
    assert_int_equal(batch_logits(other, &list, PADDED_RIGHT, &model), TEXTS * 31);
    assert_relmax(other, alone, count, 1e-5);
    assert_int_equal(batch_logits(other, &list, PACKED_WITH_RESETS, &model), ROWS * LEN);
    assert_relmax(other, alone, count, 1e-5);
    batch_logits(other, &list, PADDED_LEFT, &model);
    assert_memory_equal(other, alone,
                        31 * VOCAB * sizeof(float)); /* the longest needs no padding */
    assert_true(fabsf(other[31 * VOCAB] - alone[31 * VOCAB]) > 1e-3f);
    batch_logits(other, &list, PACKED_GOING_ON, &model);
    assert_memory_equal(other, alone, 31 * VOCAB * sizeof(float));
    assert_true(fabsf(other[31 * VOCAB] - alone[31 * VOCAB]) > 1e-3f);
    free(alone), free(other);
    model_free(&model);
}

static void what_a_layer_keeps_is_what_the_scan_keeps(void **state)
{
    (void)state;
    Model model = small_model(3);
    int32_t ids[ROWS * LEN], targets[ROWS * LEN];
    size_t floats = model_state_floats(&model.config, 1);
    small_texts(ids, targets, 1);
    ModelWork work = nan_work(&model, 1, 20, true);
    float *at_cue = NEW(float, floats);
    model_forward(&work, at_cue, ids, &model); /* fills the caches, and the state after 20 tokens */
    for (size_t layer = 0; layer < 2; layer++) {
        Scan scan = block_scan(&work.cache[layer].block, &model.block[layer], NULL);
        double all = 0.0, left = 0.0;
        for (size_t d = 0; d < scan.d_inner; d++)
            for (size_t n = 0; n < scan.d_state; n++) {
                double x = 0.0, kept = 1.0;
                for (size_t t = 0; t < 20; t++) {
                    double delta = (double)step_size(&scan, t, d);
                    double A_bar = exp(delta * (double)scan.A[d * scan.d_state + n]);
                    if (t < 7)
                        x = A_bar * x + delta * (double)scan.B[t * scan.d_state + n] *
                                            (double)scan.u[t * scan.d_inner + d];
                    else
                        kept *= A_bar;
                }
                all += x * x;
                left += x * x * kept;
            }
        assert_near(layer_kept(&work, layer, 7, 20, &model), left / all, 1e-6, 1e-4);
    }
    assert_near(layer_kept(&work, 0, 7, 7, &model), 1.0, 0.0, 1e-12);
    free(at_cue);
    model_work_free(&work);
    model_free(&model);
}

static void the_first_number_that_is_not_finite_is_found_in_the_order_of_computation(void **state)
{
    (void)state;
    Model model = small_model(3);
    int32_t ids[ROWS * LEN], targets[ROWS * LEN];
    size_t where[3], inner = model.config.intermediate_size;
    const char *name = "";
    small_texts(ids, targets, 1);
    ModelWork work = nan_work(&model, ROWS, LEN, true);
    model_forward(&work, NULL, ids, &model);
    assert_false(first_not_finite(where, &name, &work, &model));
    work.cache[1].block.gated[5 * inner + 3] = INFINITY;
    assert_true(first_not_finite(where, &name, &work, &model));
    assert_string_equal(name, "the scan, gated");
    assert_int_equal(where[0], 1);
    assert_int_equal(where[1], 5);
    assert_int_equal(where[2], 3);
    work.cache[1].block.B[2] = NAN; /* B comes before the scan, and layer 1 before layer 2 */
    assert_true(first_not_finite(where, &name, &work, &model));
    assert_string_equal(name, "B");
    work.cache[0].block.z[0] = -INFINITY;
    assert_true(first_not_finite(where, &name, &work, &model));
    assert_string_equal(name, "in_proj, z");
    assert_int_equal(where[0], 0);
    model_work_free(&work);
    model_free(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_text_begins_with_every_row_and_after_every_end),
        cmocka_unit_test(a_packed_text_has_the_logits_and_the_state_that_it_has_alone),
        cmocka_unit_test(without_a_reset_a_text_hears_the_one_before_it),
        cmocka_unit_test(a_packed_batch_has_the_gradient_of_its_texts_added_up),
        cmocka_unit_test(a_reset_is_A_bar_0_at_the_first_token),
        cmocka_unit_test(training_with_resets_learns_from_the_texts_as_they_are_alone),
        cmocka_unit_test(only_what_pads_before_or_goes_on_changes_the_logits),
        cmocka_unit_test(what_a_layer_keeps_is_what_the_scan_keeps),
        cmocka_unit_test(the_first_number_that_is_not_finite_is_found_in_the_order_of_computation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
