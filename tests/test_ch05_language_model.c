/* The language model held against golden data: logits, loss, gradients, AdamW, greedy tokens. */

#include "../ch05_mamba_block/language_model.c"
#include "golden.h"

/* The model of a golden folder, and a file of expected values beside it. */
static Model golden_model(const char *folder)
{
    MambaConfig config;
    Error error;
    char name[128];
    snprintf(name, sizeof name, "%s/config.json", folder);
    char *path = golden_path(name);
    if (!config_read(&config, path, &error))
        fail_msg("%s", error.text);
    free(path);
    Model model = model_new(&config);
    snprintf(name, sizeof name, "%s/model.safetensors", folder);
    path = golden_path(name);
    if (!model_load(&model, path, &error))
        fail_msg("%s", error.text);
    free(path);
    return model;
}

/* Prompts (batch, len), and for each token the next one as its target. */
typedef struct {
    size_t batch, len;
    int32_t *ids, *targets;
} Prompts;

static int32_t *golden_ids(size_t shape[2], const Safetensors *file, const char *name)
{
    const Tensor *tensor;
    double *numbers = golden_doubles(&tensor, file, name);
    int32_t *ids = NEW(int32_t, tensor->count);
    for (size_t i = 0; i < tensor->count; i++)
        ids[i] = (int32_t)numbers[i];
    shape[0] = tensor->shape[0];
    shape[1] = tensor->shape[1];
    free(numbers);
    return ids;
}

static Prompts golden_prompts(const Safetensors *file)
{
    Prompts prompts;
    size_t shape[2];
    prompts.ids = golden_ids(shape, file, "ids");
    prompts.batch = shape[0];
    prompts.len = shape[1];
    prompts.targets = NEW(int32_t, shape[0] * shape[1]);
    for (size_t i = 0; i < shape[0] * shape[1]; i++)
        prompts.targets[i] = (i + 1) % shape[1] == 0 ? -1 : prompts.ids[i + 1];
    return prompts;
}

static void prompts_free(Prompts *prompts)
{
    free(prompts->ids);
    free(prompts->targets);
}

/* Calls `check` for every golden file in the folder that has this tensor. */
static void for_golden_files(const char *folder, const char *tensor,
                             void (*check)(const Safetensors *, Model *))
{
    glob_t found;
    char pattern[128];
    size_t checked = 0;
    snprintf(pattern, sizeof pattern, "%s/golden*.safetensors", folder);
    size_t files = golden_list(&found, pattern);
    for (size_t i = 0; i < files; i++) {
        Safetensors file;
        golden_open(&file, found.gl_pathv[i]);
        if (golden_has(&file, tensor)) {
            Model model = golden_model(folder);
            check(&file, &model);
            model_free(&model);
            checked++;
        }
        safetensors_close(&file);
    }
    globfree(&found);
    assert_true(checked > 0);
}

static void assert_golden(const Safetensors *file, const char *name, const float *got,
                          double tolerance)
{
    const Tensor *tensor;
    float *want = golden_floats(&tensor, file, name);
    assert_relmax(got, want, tensor->count, tolerance);
    free(want);
}

static void check_logits(const Safetensors *file, Model *model)
{
    Prompts prompts = golden_prompts(file);
    ModelWork work = model_work_new(model, prompts.batch, prompts.len, true);
    size_t tokens = prompts.batch * prompts.len;
    model_forward(&work, NULL, prompts.ids, model);
    assert_golden(file, "logits", work.logits, 2e-5);
    assert_golden(file, "final", work.final, 2e-5);
    for (size_t i = 0; i <= model->config.num_hidden_layers; i++) {
        char name[32];
        snprintf(name, sizeof name, "hidden.%zu", i);
        assert_golden(file, name, hidden_at(&work, model, i), 2e-5);
    }
    double *nll = NEW(double, tokens), loss = model_loss(nll, &work, prompts.targets, model);
    double *want = golden_doubles(NULL, file, "nll");
    assert_near(loss, golden_scalar(file, "loss"), 0, 1e-5);
    for (size_t b = 0; b < prompts.batch; b++)
        for (size_t t = 0; t + 1 < prompts.len; t++)
            assert_near(nll[b * prompts.len + t], want[b * (prompts.len - 1) + t], 1e-4, 0);
    free(nll), free(want);
    prompts_free(&prompts);
    model_work_free(&work);
}

static void logits_and_loss_agree_with_golden(void **state)
{
    (void)state;
    for_golden_files("ch05_lm", "logits", check_logits);
}

static void weights_in_bf16_agree_with_golden(void **state)
{
    (void)state;
    for_golden_files("ch05_lm_bf16", "logits", check_logits);
}

static void check_gradients(const Safetensors *file, Model *model)
{
    Prompts prompts = golden_prompts(file);
    ModelWork work = model_work_new(model, prompts.batch, prompts.len, true);
    ModelParams grad = model_params_new(&model->config);
    for (size_t i = 0; i < model_floats(&model->config); i++)
        grad.memory[i] = 7.0f; /* gradients are written, not added to */
    model_forward(&work, NULL, prompts.ids, model);
    model_backward(&grad, &work, prompts.ids, prompts.targets, model);
    for (size_t k = 0; k < model_tensor_count(&model->config); k++) {
        ModelTensor tensor = model_tensor(&grad, &model->config, k);
        char name[128];
        snprintf(name, sizeof name, "grad.%s", tensor.name);
        if (tensor.count > 0)
            assert_golden(file, name, tensor.values, 5e-5);
    }
    prompts_free(&prompts);
    model_params_free(&grad);
    model_work_free(&work);
}

static void every_gradient_agrees_with_golden(void **state)
{
    (void)state;
    for_golden_files("ch05_lm", "grad.backbone.embeddings.weight", check_gradients);
    for_golden_files("ch05_lm_bf16", "grad.backbone.embeddings.weight", check_gradients);
}

static void check_greedy(const Safetensors *file, Model *model)
{
    Prompts prompts = golden_prompts(file);
    size_t shape[2];
    int32_t *want = golden_ids(shape, file, "greedy"), *got = NEW(int32_t, shape[1]);
    for (size_t b = 0; b < prompts.batch; b++) {
        generate_greedy(got, shape[1], prompts.ids + b * prompts.len, prompts.len, model);
        assert_memory_equal(got, want + b * shape[1], shape[1] * sizeof *got);
    }
    free(want), free(got);
    prompts_free(&prompts);
}

static void greedy_tokens_agree_with_golden(void **state)
{
    (void)state;
    for_golden_files("ch05_lm", "greedy", check_greedy);
    for_golden_files("ch05_lm_bf16", "greedy", check_greedy);
}

static void check_adamw(const Safetensors *file, Model *model)
{
    Prompts prompts = {0, 0, NULL, NULL};
    Safetensors first;
    glob_t found;
    size_t files = golden_list(&found, "ch05_lm/golden*.safetensors");
    for (size_t i = 0; i < files; i++) { /* the prompts stand in the file with the logits */
        golden_open(&first, found.gl_pathv[i]);
        bool here = golden_has(&first, "ids");
        if (here)
            prompts = golden_prompts(&first);
        safetensors_close(&first);
        if (here)
            break;
        assert_true(i + 1 < files);
    }
    globfree(&found);
    ModelWork work = model_work_new(model, prompts.batch, prompts.len, true);
    ModelParams grad = model_params_new(&model->config);
    AdamState adam = {model_params_new(&model->config), model_params_new(&model->config), 0};
    AdamW settings = {1e-3, 0.9, 0.95, 1e-8, 0.1};
    const Tensor *losses;
    double *want = golden_doubles(&losses, file, "adamw.losses");
    for (size_t step = 0; step < losses->count; step++) {
        model_forward(&work, NULL, prompts.ids, model);
        assert_near(model_loss(NULL, &work, prompts.targets, model), want[step], 0, 2e-5);
        model_backward(&grad, &work, prompts.ids, prompts.targets, model);
        if (step + 1 < losses->count)
            adamw_step(model, &adam, &grad, &settings);
    }
    for (size_t k = 0; k < model_tensor_count(&model->config); k++) {
        ModelTensor tensor = model_tensor(&model->params, &model->config, k);
        char name[128];
        snprintf(name, sizeof name, "adamw.final.%s", tensor.name);
        if (tensor.count == 0)
            continue;
        float *expected = golden_floats(NULL, file, name);
        assert_all_near(tensor.values, expected, tensor.count, 1e-4, 0);
        free(expected);
    }
    free(want);
    prompts_free(&prompts);
    model_params_free(&grad), model_params_free(&adam.mean), model_params_free(&adam.square);
    model_work_free(&work);
}

static void five_steps_of_adamw_agree_with_golden(void **state)
{
    (void)state;
    for_golden_files("ch05_lm", "adamw.losses", check_adamw);
}

/* ---- beyond golden data --------------------------------------------------------------------- */

static Model small_model(bool tied, uint64_t seed)
{
    MambaConfig config = config_default(12);
    config.num_hidden_layers = 2;
    config.vocab_size = 30;
    config.tie_word_embeddings = tied;
    Random random = random_from_seed(seed);
    Model model = model_new(&config);
    model_init(&model, &random);
    return model;
}

static void a_prompt_in_pieces_and_by_steps_gives_the_same_logits(void **state)
{
    (void)state;
    enum { LEN = 17 };
    Model model = small_model(true, 1);
    int32_t ids[LEN];
    for (int t = 0; t < LEN; t++)
        ids[t] = (t * 7 + 3) % 30;
    ModelWork whole = model_work_new(&model, 1, LEN, false),
              one = model_work_new(&model, 1, 1, false);
    float *memory = NEW(float, model_state_floats(&model.config, 1));
    model_forward(&whole, NULL, ids, &model);
    for (int t = 0; t < LEN; t++) {
        model_forward(&one, memory, ids + t, &model);
        assert_relmax(one.logits, whole.logits + t * 30, 30, 2e-6);
    }
    free(memory);
    model_work_free(&whole), model_work_free(&one);
    model_free(&model);
}

static void an_untied_head_has_a_gradient_of_its_own(void **state)
{
    (void)state; /* along a random direction of the head, and of the embeddings */
    enum { LEN = 9 };
    Model model = small_model(false, 2);
    int32_t ids[LEN], targets[LEN];
    for (int t = 0; t < LEN; t++) {
        ids[t] = (t * 11 + 1) % 30;
        targets[t] = t == 4 ? -1 : (t * 5 + 2) % 30; /* one token has no target */
    }
    ModelWork work = model_work_new(&model, 1, LEN, true);
    ModelParams grad = model_params_new(&model.config);
    model_forward(&work, NULL, ids, &model);
    model_backward(&grad, &work, ids, targets, &model);
    float *tables[2] = {model.params.lm_head, model.params.embeddings};
    float *gradients[2] = {grad.lm_head, grad.embeddings};
    for (int k = 0; k < 2; k++) {
        Random random = random_from_seed(3);
        double along = 0.0, loss[2], direction[30 * 12];
        for (int i = 0; i < 30 * 12; i++) {
            direction[i] = random_normal(&random);
            along += direction[i] * gradients[k][i];
        }
        for (int side = 0; side < 2; side++) {
            for (int i = 0; i < 30 * 12; i++)
                tables[k][i] += (float)((side ? 2e-3 : -1e-3) * direction[i]);
            model_forward(&work, NULL, ids, &model);
            loss[side] = model_loss(NULL, &work, targets, &model);
        }
        for (int i = 0; i < 30 * 12; i++)
            tables[k][i] -= (float)(1e-3 * direction[i]);
        assert_near((loss[1] - loss[0]) / 2e-3, along, 2e-3, 2e-3);
    }
    model_params_free(&grad);
    model_work_free(&work);
    model_free(&model);
}

static void the_loss_neither_overflows_nor_cancels(void **state)
{
    (void)state;
    static const float far[3] = {1000, 0, -1000}, same[4] = {88, 88, 88, 88};
    assert_near(token_loss(far, 3, 1), 1000.0, 1e-9, 0);
    assert_near(token_loss(far, 3, 0), 0.0, 1e-12, 0);
    assert_near(token_loss(same, 4, 2), log(4.0), 1e-12, 0);
}

static void the_rate_goes_up_and_comes_down(void **state)
{
    (void)state;
    assert_near(scheduled_rate(1.0, 0, 10, 100), 0.1, 1e-12, 0);
    assert_near(scheduled_rate(1.0, 9, 10, 100), 1.0, 1e-12, 0);
    assert_near(scheduled_rate(1.0, 55, 10, 100), 0.55, 1e-12, 0);
    assert_near(scheduled_rate(1.0, 100, 10, 100), 0.1, 1e-12, 0);
}

static void a_clipped_gradient_has_the_length_asked_for(void **state)
{
    (void)state;
    MambaConfig config = config_default(4);
    ModelParams grad = model_params_new(&config);
    grad.embeddings[0] = 3.0f;
    grad.norm_f[1] = 4.0f;
    assert_near(clip_gradient(&grad, &config, 10.0), 5.0, 1e-6, 0);
    assert_true(grad.embeddings[0] == 3.0f);
    clip_gradient(&grad, &config, 1.0);
    assert_near(grad.embeddings[0], 0.6, 1e-6, 0);
    assert_near(grad.norm_f[1], 0.8, 1e-6, 0);
    model_params_free(&grad);
}

static void every_byte_s_target_is_the_byte_after_it(void **state)
{
    (void)state;
    const char *text = "abcdefghijklmnop";
    int32_t ids[2 * 15], targets[2 * 15];
    Random random = random_from_seed(7);
    for (size_t len = 1; len < 16; len++)
        for (int k = 0; k < 20; k++) {
            batch_draw(ids, targets, text, 16, 2, len, &random);
            for (size_t i = 0; i < 2 * len; i++) {
                assert_int_equal(targets[i], ids[i] + 1);
                assert_true(ids[i] >= 'a' && targets[i] <= 'p');
            }
        }
}

static double train_small(const char *text, uint64_t steps)
{
    MambaConfig config = config_default(16);
    config.num_hidden_layers = 2;
    config.vocab_size = 256;
    Random random = random_from_seed(4);
    Model model = model_new(&config);
    model_init(&model, &random);
    TrainSettings settings = {2, 32, steps, 5, 1e-2};
    double loss = train_on_bytes(&model, text, strlen(text), &settings);
    model_free(&model);
    return loss;
}

static void a_text_is_learnt_and_the_losses_are_the_same_for_any_threads(void **state)
{
    (void)state;
    const char *text = "abcabdabcabdabcabdabcabdabcabdabcabdabcabdabcabdabcabdabcabdabcabd";
    double loss = train_small(text, 60);
    assert_true(loss < 0.35); /* from log 256 = 5.5; the first letters of a piece cannot be known */
#ifdef _OPENMP
    int most = omp_get_max_threads();
    for (int threads = 1; threads <= 3; threads++) {
        omp_set_num_threads(threads);
        assert_true(train_small(text, 60) == loss);
    }
    omp_set_num_threads(most);
#endif
}

static void weights_that_do_not_fit_are_named(void **state)
{
    (void)state;
    Model model = small_model(true, 6);
    Error error;
    char *path = golden_path("ch05_lm/model.safetensors");
    assert_false(model_load(&model, path, &error));
    assert_contains(error.text, "backbone.embeddings.weight");
    free(path);
    model_free(&model);
}

static void wrong_options_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *words, *sentence;
        int exit;
    } cases[] = {{"--steps 0", "--steps", 2},
                 {"--prompt ''", "--prompt: there is nothing to go on from", 2},
                 {"text", "'text' is not an option", 2},
                 {"--corpus /dev/null", "0 bytes are too short", 1},
                 {"--corpus no/such/file", "no/such/file", 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[1024];
        assert_int_equal(run_program(text, sizeof text, "ch05_language_model", cases[i].words),
                         cases[i].exit);
        assert_contains(text, cases[i].sentence);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_and_loss_agree_with_golden),
        cmocka_unit_test(weights_in_bf16_agree_with_golden),
        cmocka_unit_test(every_gradient_agrees_with_golden),
        cmocka_unit_test(greedy_tokens_agree_with_golden),
        cmocka_unit_test(five_steps_of_adamw_agree_with_golden),
        cmocka_unit_test(a_prompt_in_pieces_and_by_steps_gives_the_same_logits),
        cmocka_unit_test(an_untied_head_has_a_gradient_of_its_own),
        cmocka_unit_test(the_loss_neither_overflows_nor_cancels),
        cmocka_unit_test(the_rate_goes_up_and_comes_down),
        cmocka_unit_test(a_clipped_gradient_has_the_length_asked_for),
        cmocka_unit_test(every_byte_s_target_is_the_byte_after_it),
        cmocka_unit_test(a_text_is_learnt_and_the_losses_are_the_same_for_any_threads),
        cmocka_unit_test(weights_that_do_not_fit_are_named),
        cmocka_unit_test(wrong_options_are_named),
    };
    return cmocka_run_group_tests_name("the language model", tests, NULL, NULL);
}
