/* The language model: held against golden data; its words, files, training, checkpoints, stories
   and tasks held against what they say of themselves. */

#define _GNU_SOURCE /* strsep, kill, usleep under -std=c11 */
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>

/* Counts how often memory is asked for: all of it goes through calloc. */
static size_t allocations;

static void *counted_calloc(size_t count, size_t size)
{
    allocations++;
    return calloc(count, size);
}

#define calloc counted_calloc
#include "../ch05_mamba_block/stories_test.c"
#include "../ch05_mamba_block/classic_tasks.c"
#undef calloc
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
    assert_relmax_as(name, got, want, tensor->count, tolerance);
    free(want);
}

static void check_logits(const Safetensors *file, Model *model)
{
    Prompts prompts = golden_prompts(file);
    ModelWork work = model_work_new(model, prompts.batch, prompts.len, true);
    model_forward(&work, NULL, prompts.ids, model);
    assert_golden(file, "logits", work.logits, 2e-5);
    assert_golden(file, "final", work.final, 2e-5);
    for (size_t i = 0; i <= model->config.num_hidden_layers; i++) {
        char name[32];
        snprintf(name, sizeof name, "hidden.%zu", i);
        assert_golden(file, name, hidden_at(&work, model, i), 2e-5);
    }
    double *want = golden_doubles(NULL, file, "nll");
    assert_near(model_loss(&work, prompts.targets, model), golden_scalar(file, "loss"), 0, 1e-5);
    for (size_t b = 0; b < prompts.batch; b++)
        for (size_t t = 0; t + 1 < prompts.len; t++)
            assert_near(token_loss(work.logits + (b * prompts.len + t) * model->config.vocab_size,
                                   model->config.vocab_size,
                                   (size_t)prompts.targets[b * prompts.len + t]),
                        want[b * (prompts.len - 1) + t], 1e-4, 0);
    free(want);
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

static void check_gradients_to(const Safetensors *file, Model *model, double tolerance)
{
    Prompts prompts = golden_prompts(file);
    ModelWork work = model_work_new(model, prompts.batch, prompts.len, true);
    ModelParams grad = model_params_new(&model->config);
    for (size_t i = 0; i < model_floats(&model->config); i++)
        grad.memory[i] = 7.0f; /* gradients are written, not added to */
    model_forward(&work, NULL, prompts.ids, model);
    model_backward(&grad, &work, prompts.ids, prompts.targets,
                   targets_count(prompts.targets, prompts.batch * prompts.len), model);
    for (size_t k = 0; k < model_tensor_count(&model->config); k++) {
        ModelTensor tensor = model_tensor(&grad, &model->config, k);
        char name[128];
        snprintf(name, sizeof name, "grad.%s", tensor.name);
        if (tensor.count > 0)
            assert_golden(file, name, tensor.values, tolerance);
    }
    prompts_free(&prompts);
    model_params_free(&grad);
    model_work_free(&work);
}

static void check_gradients(const Safetensors *file, Model *model)
{
    check_gradients_to(file, model, 5e-5);
}

static void every_gradient_agrees_with_golden(void **state)
{
    (void)state;
    for_golden_files("ch05_lm", "grad.backbone.embeddings.weight", check_gradients);
    for_golden_files("ch05_lm_bf16", "grad.backbone.embeddings.weight", check_gradients);
}

/* `count` more tokens after a prompt of len > 0, the most likely each time. */
static void generate_greedy(int32_t *out, size_t count, const int32_t *prompt, size_t len,
                            const Model *model)
{
    Writer writer = writer_new(model);
    const float *logits = writer_read_all(&writer, prompt, len);
    for (size_t i = 0; i < count; i++) {
        out[i] = (int32_t)token_greedy(logits, model->config.vocab_size);
        logits = writer_read(&writer, out[i]);
    }
    writer_free(&writer);
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

/* ---- the family ---- */

/* Calls `check` for the golden file of every folder whose name matches. */
static void for_family(const char *folders, void (*check)(const Safetensors *, Model *))
{
    glob_t found;
    char pattern[128];
    snprintf(pattern, sizeof pattern, "%s/golden.safetensors", folders);
    size_t files = golden_list(&found, pattern);
    for (size_t i = 0; i < files; i++) {
        Safetensors file;
        char folder[128], *path = found.gl_pathv[i], *end = strrchr(path, '/');
        const char *start = path + strlen(golden_dir()) + 1;
        snprintf(folder, sizeof folder, "%.*s", (int)(end - start), start);
        golden_open(&file, path);
        Model model = golden_model(folder);
        check(&file, &model);
        model_free(&model);
        safetensors_close(&file);
    }
    globfree(&found);
}

/* Logits of every position, and the mean loss. */
static void check_family_logits(const Safetensors *file, Model *model)
{
    Prompts prompts = golden_prompts(file);
    ModelWork work = model_work_new(model, prompts.batch, prompts.len, true);
    model_forward(&work, NULL, prompts.ids, model);
    assert_golden(file, "logits", work.logits, 2e-5);
    assert_near(model_loss(&work, prompts.targets, model), golden_scalar(file, "nll"), 0, 2e-5);
    prompts_free(&prompts);
    model_work_free(&work);
}

static void check_family_gradients(const Safetensors *file, Model *model)
{
    check_gradients_to(file, model, 2e-5);
}

/* The tokens that follow the first prompt. */
static void check_family_greedy(const Safetensors *file, Model *model)
{
    Prompts prompts = golden_prompts(file);
    const Tensor *tensor;
    double *want = golden_doubles(&tensor, file, "greedy");
    int32_t *got = NEW(int32_t, tensor->count);
    generate_greedy(got, tensor->count, prompts.ids, prompts.len, model);
    for (size_t i = 0; i < tensor->count; i++)
        assert_int_equal(got[i], (int32_t)want[i]);
    free(want), free(got);
    prompts_free(&prompts);
}

static void falcon_mamba_agrees_with_golden(void **state)
{
    (void)state;
    for_family("falcon_mamba_*", check_family_logits);
    for_family("falcon_mamba_*", check_family_greedy);
}

static void every_gradient_of_falcon_mamba_agrees_with_golden(void **state)
{
    (void)state;
    for_family("falcon_mamba_*", check_family_gradients);
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
        assert_near(model_loss(&work, prompts.targets, model), want[step], 0, 2e-5);
        model_backward(&grad, &work, prompts.ids, prompts.targets,
                       targets_count(prompts.targets, prompts.batch * prompts.len), model);
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

static void ex5_7_five_steps_of_adamw_agree_with_golden(void **state)
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
    model_backward(&grad, &work, ids, targets, targets_count(targets, LEN), &model);
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
            loss[side] = model_loss(&work, targets, &model);
        }
        for (int i = 0; i < 30 * 12; i++)
            tables[k][i] -= (float)(1e-3 * direction[i]);
        assert_near((loss[1] - loss[0]) / 2e-3, along, 2e-3, 2e-3);
    }
    model_params_free(&grad);
    model_work_free(&work);
    model_free(&model);
}

static void ex5_6_the_loss_neither_overflows_nor_cancels(void **state)
{
    (void)state;
    static const float far[3] = {1000, 0, -1000}, same[4] = {88, 88, 88, 88};
    assert_near(token_loss(far, 3, 1), 1000.0, 1e-9, 0);
    assert_near(token_loss(far, 3, 0), 0.0, 1e-12, 0);
    assert_near(token_loss(same, 4, 2), log(4.0), 1e-12, 0);
}

static void a_logit_that_is_no_number_spoils_the_loss(void **state)
{
    (void)state;
    for (size_t bad = 0; bad < 3; bad++) {
        float logits[3] = {3, 2, 1};
        logits[bad] = NAN;
        assert_that(isnan(token_loss(logits, 3, 1)), "logit %zu is NaN, and the loss %g", bad,
                    token_loss(logits, 3, 1));
    }
}

/* Exponentials of the vectors are good to about 1e-6, and so are sums of 16 floats and their rest:
   the allowance is for that, whatever the loss. */
static void ex5_6_the_loss_in_vectors_is_the_loss_as_defined(void **state)
{
    (void)state;
    static const size_t vocabs[] = {1, 2, 15, 16, 17, 31, 33, 257, 1000};
    static const double spreads[] = {0.0, 0.3, 3.0, 30.0, 300.0};
    Random random = random_from_seed(12);
    const ExpTable table = exp_table();
    for (size_t i = 0; i < sizeof vocabs / sizeof *vocabs; i++)
        for (size_t j = 0; j < sizeof spreads / sizeof *spreads; j++) {
            size_t vocab = vocabs[i];
            float *logits = NEW(float, vocab); /* its own memory: no logit beyond it is read */
            for (size_t v = 0; v < vocab; v++)
                logits[v] = (float)(spreads[j] * random_normal(&random) - 500.0);
            for (size_t target = 0; target < vocab; target += 1 + vocab / 7)
                assert_near(token_loss(logits, vocab, target),
                            token_loss_fast(logits, vocab, target, &table), 3e-6, 1e-6);
            free(logits);
        }
}

/* softmax less 1 at the target, times a factor; each of them against a slope of token_loss. */
static void the_gradient_of_a_token_s_loss_is_its_slope(void **state)
{
    (void)state;
    enum { VOCAB = 19, TARGET = 7 };
    float logits[VOCAB], grad[VOCAB];
    Random random = random_from_seed(13);
    const ExpTable table = exp_table();
    for (size_t v = 0; v < VOCAB; v++)
        grad[v] = logits[v] = (float)(2.0 * random_normal(&random));
    token_loss_backward(grad, VOCAB, TARGET, 0.5f, &table);
    for (size_t v = 0; v < VOCAB; v++) {
        float kept = logits[v];
        logits[v] = kept + 0.01f;
        double above = token_loss(logits, VOCAB, TARGET);
        logits[v] = kept - 0.01f;
        double below = token_loss(logits, VOCAB, TARGET);
        logits[v] = kept;
        assert_near(grad[v], 0.5 * (above - below) / 0.02, 2e-5, 1e-4);
    }
}

static void ex5_6_the_lesson_s_loss_by_hand(void **state)
{
    (void)state;
    static const float logits[3] = {2, 1, 0};
    static const double want[3] = {0.4076, 1.4076, 2.4076};
    for (size_t target = 0; target < 3; target++)
        assert_near(token_loss(logits, 3, target), want[target], 5e-5, 0);
}

static void ex5_7_the_lesson_s_step_by_hand(void **state)
{
    (void)state;
    Model model = small_model(true, 1);
    AdamState adam = {model_params_new(&model.config), model_params_new(&model.config), 0};
    ModelParams grad = model_params_new(&model.config);
    AdamW settings = {0.01, 0.9, 0.95, 1e-8, 0.1};
    model.params.embeddings[5] = model.params.norm_f[5] = 0.5f;
    grad.embeddings[5] = grad.norm_f[5] = 0.2f;
    adamw_step(&model, &adam, &grad, &settings);
    assert_near(model.params.embeddings[5], 0.4895, 1e-6, 0);
    assert_near(model.params.norm_f[5], 0.49, 1e-6, 0); /* does not decay */
    assert_near(adam.mean.embeddings[5], 0.02, 1e-8, 0);
    assert_near(adam.square.embeddings[5], 0.002, 1e-9, 0);
    model_params_free(&grad), model_params_free(&adam.mean), model_params_free(&adam.square);
    model_free(&model);
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

/* ---- words and folders ----------------------------------------------------------------------- */

static Vocabulary words_of(const char *text)
{
    Vocabulary words;
    Error error;
    if (!vocabulary_from_text(&words, text, strlen(text), "text", &error))
        fail_msg("%s", error.text);
    return words;
}

static void a_text_is_cut_into_words_and_punctuation(void **state)
{
    (void)state;
    static const char *const want[] = {"it", "'", "s", "42", "-", "x_1", "...", "\xc3\xa9t\xc3\xa9",
                                       ""};
    const char *text = " It's 42-X_1...\t\xc3\xa9t\xc3\xa9 \n";
    char word[WORD_ROOM];
    size_t at = 0;
    for (size_t i = 0; i < 9; i++) {
        assert_true(word_next(word, sizeof word, text, strlen(text), &at, true));
        assert_string_equal(word, want[i]);
    }
    assert_false(word_next(word, sizeof word, text, strlen(text), &at, true));
}

static void words_have_numbers_and_unknown_ones_the_number_0(void **state)
{
    (void)state;
    Vocabulary words = words_of("the cat saw the dog .\nthe end .\n");
    int32_t ids[32];
    size_t unknown;
    static const int32_t want[] = {2, 3, 0, 5, 6, 1, 7};
    assert_int_equal(words.n_word, 8);
    assert_int_equal(text_to_tokens(ids, &unknown, "The cat, dog .\nend", 18, &words, true), 7);
    assert_memory_equal(ids, want, sizeof want);
    assert_int_equal(unknown, 1);
    vocabulary_free(&words);
}

static void a_byte_is_its_own_number(void **state)
{
    (void)state;
    Vocabulary words = vocabulary_of_bytes();
    int32_t ids[4];
    size_t unknown;
    assert_int_equal(text_to_tokens(ids, &unknown, "A\n\xff\0", 4, &words, true), 4);
    static const int32_t want[] = {65, 10, 255, 0};
    assert_memory_equal(ids, want, sizeof want);
}

static void assert_same_params(const Model *got, const Model *want)
{
    assert_memory_equal(got->params.memory, want->params.memory,
                        model_floats(&want->config) * sizeof(float));
}

/* A model of so many tokens, small and random. */
static Model tiny_model(size_t vocab, unsigned fixed, uint64_t seed)
{
    MambaConfig config = config_default(12);
    Random random = random_from_seed(seed);
    config.num_hidden_layers = 2;
    config.vocab_size = vocab;
    config.fixed = fixed;
    Model model = model_new(&config);
    model_init(&model, &random);
    return model;
}

static void a_folder_is_read_as_it_was_written(void **state)
{
    (void)state;
    for (int bytes = 0; bytes < 2; bytes++) {
        Vocabulary words = bytes ? vocabulary_of_bytes() : words_of("say \"a\\b\" to \xc3\xa9 ."),
                   got;
        Model model = tiny_model(words.n_word, 0, 3), back;
        Error error;
        if (!model_save_folder("build/tests/folder", &model, &words, &error) ||
            !model_open_folder(&back, &got, "build/tests/folder", &error))
            fail_msg("%s", error.text);
        assert_same_params(&back, &model);
        assert_int_equal(got.bytes, bytes);
        assert_int_equal(got.n_word, words.n_word);
        for (size_t i = 0; i < words.n_word && !bytes; i++) {
            assert_string_equal(got.word[i], words.word[i]);
            assert_int_equal(*word_slot(&got, words.word[i]), i + 1);
        }
        model_free(&model), model_free(&back);
        vocabulary_free(&words), vocabulary_free(&got);
    }
}

static void words_may_stand_in_any_order_in_their_file(void **state)
{
    (void)state;
    const char *text = "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"b\":3,\"<end>\":1,\"a\":2,"
                       "\"<unk>\":0}}}";
    static const int32_t want[] = {2, 3, 0};
    Vocabulary words;
    Error error;
    int32_t ids[8];
    size_t unknown;
    if (!tokenizer_parse(&words, text, strlen(text), "t.json", &error))
        fail_msg("%s", error.text);
    assert_string_equal(words.word[3], "b");
    assert_int_equal(text_to_tokens(ids, &unknown, "a b c", 5, &words, false), 3);
    assert_memory_equal(ids, want, sizeof want);
    vocabulary_free(&words);
}

static void wrong_tokenizers_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *text, *sentence;
    } cases[] = {
        {"", "t.json"},
        {"{}", "neither WordLevel nor BPE"},
        {"{\"model\":{\"type\":\"Unigram\"}}", "neither WordLevel nor BPE"},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0}}}", "not <unk> and <end>"},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"<unk>\":0,\"<end>\":2}}}",
         "no word has the number 1"},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"<unk>\":0,\"<unk>\":1}}}", "t.json"},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\\u0000b\":0}}}",
         "a word with a 0 byte"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]}}",
         "only bytes and words"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}", "merges"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Vocabulary words;
        Error error;
        assert_false(
            tokenizer_parse(&words, cases[i].text, strlen(cases[i].text), "t.json", &error));
        assert_contains(error.text, cases[i].sentence);
    }
}

static void a_tokenizer_cut_off_anywhere_is_refused(void **state)
{
    (void)state;
    char *text;
    size_t len;
    Error error;
    Vocabulary words;
    if (!text_read(&text, &len, "data/tiny-mamba/tokenizer.json", &error))
        fail_msg("%s", error.text);
    assert_true(tokenizer_parse(&words, text, len, "t.json", &error));
    vocabulary_free(&words);
    while (text[len - 1] != '}')
        len--;
    for (size_t cut = 0; cut < len; cut += 37)
        assert_false(tokenizer_parse(&words, text, cut, "t.json", &error));
    free(text);
}

/* ---- training -------------------------------------------------------------------------------- */

static const char letters[] = "abcabdabcabdabcabdabcabdabcabdabcabdabcabdabcabdabcabdabcabdabcabd";

static Corpus corpus_of(const char *text, const Vocabulary *words, size_t len)
{
    Corpus corpus;
    Error error;
    if (!corpus_from_text(&corpus, text, strlen(text), words, len, "text", &error))
        fail_msg("%s", error.text);
    return corpus;
}

static void every_piece_of_bytes_has_the_next_byte_as_target(void **state)
{
    (void)state;
    int32_t ids[2 * 15], targets[2 * 15];
    Vocabulary words = vocabulary_of_bytes();
    Random random = random_from_seed(7);
    for (size_t len = 1; len < 16; len++) {
        Corpus corpus = corpus_of("abcdefghijklmnop", &words, len);
        bool last = false;
        for (int k = 0; k < 60; k++) {
            corpus_fill(ids, targets, 2, len, &corpus, &random);
            for (size_t i = 0; i < 2 * len; i++) {
                assert_int_equal(targets[i], ids[i] + 1);
                assert_true(ids[i] >= 'a' && targets[i] <= 'p');
                last = last || targets[i] == 'p';
            }
        }
        assert_true(last); /* no byte is left out */
        corpus_free(&corpus);
    }
}

static void every_piece_of_words_begins_with_a_story(void **state)
{
    (void)state;
    const char *text = "first a b c d\nfirst e f\nfirst g h i j k l\nfirst m\n";
    Vocabulary words = words_of(text);
    Corpus corpus = corpus_of(text, &words, 4);
    int32_t ids[8], targets[8];
    Random random = random_from_seed(8);
    assert_int_equal(corpus.count, 21);
    assert_int_equal(corpus.n_start, 3); /* the last story is too short for a piece */
    for (int k = 0; k < 40; k++) {
        corpus_fill(ids, targets, 2, 4, &corpus, &random);
        for (int b = 0; b < 2; b++) {
            assert_string_equal(words.word[ids[4 * b]], "first");
            assert_memory_equal(ids + 4 * b + 1, targets + 4 * b, 3 * sizeof *ids);
        }
    }
    corpus_free(&corpus);
    vocabulary_free(&words);
}

/* A trainer on the letters, and what it needs. */
typedef struct {
    Vocabulary words;
    Corpus corpus;
    BatchSource source;
    Model model;
    Trainer trainer;
} School;

static void school_open(School *school, uint64_t steps, uint64_t seed)
{
    TrainSettings settings = {2, 32, steps, seed, 1e-2, 0.1, 1.0, 0.9};
    MambaConfig config = config_default(16);
    Random random = random_from_seed(4);
    config.num_hidden_layers = 2;
    config.vocab_size = BYTE_TOKENS;
    school->words = vocabulary_of_bytes();
    school->corpus = corpus_of(letters, &school->words, settings.len);
    school->source.fill = corpus_fill;
    school->source.from = &school->corpus;
    school->model = model_new(&config);
    model_init(&school->model, &random);
    school->trainer = trainer_new(&school->model, &settings);
}

static void school_close(School *school)
{
    trainer_free(&school->trainer);
    model_free(&school->model);
    corpus_free(&school->corpus);
}

static double train_letters(uint64_t steps)
{
    School school;
    school_open(&school, steps, 5);
    for (uint64_t i = 0; i < steps; i++)
        trainer_step(&school.trainer, &school.source);
    double loss = school.trainer.loss[steps - 1];
    school_close(&school);
    return loss;
}

static void a_text_is_learnt_and_the_losses_are_the_same_for_any_threads(void **state)
{
    (void)state;
    double loss = train_letters(60);
    assert_true(loss < 0.35); /* from log 256 = 5.5; the first letters of a piece cannot be known */
#ifdef _OPENMP
    int most = omp_get_max_threads();
    for (int threads = 1; threads <= 3; threads++) {
        omp_set_num_threads(threads);
        assert_true(train_letters(60) == loss);
    }
    omp_set_num_threads(most);
#endif
}

/* Tokens and targets without a text; every seventh token has no target. */
static void any_fill(int32_t *ids, int32_t *targets, size_t batch, size_t len, const void *from,
                     Random *random)
{
    (void)from;
    for (size_t i = 0; i < batch * len; i++) {
        ids[i] = (int32_t)(30.0 * random_uniform(random));
        targets[i] = i % 7 == 3 ? -1 : (int32_t)(30.0 * random_uniform(random));
    }
}

/* A batch is cut into groups, evenly or not, or is too small for four. The gradient of all of it is
   summed in one go, here, and in groups: in another order, hence the allowance. */
static void check_groups(size_t batch)
{
    enum { LEN = 11 };
    TrainSettings settings = {batch, LEN, 1, 1, 1e-3, 0.1, 1.0, 0.0};
    Model model = tiny_model(30, 0, 7);
    Trainer trainer = trainer_new(&model, &settings);
    Random random = random_from_seed(8);
    any_fill(trainer.ids, trainer.targets, batch, LEN, NULL, &random);
    ModelWork work = model_work_new(&model, batch, LEN, true);
    ModelParams grad = model_params_new(&model.config);
    model_forward(&work, NULL, trainer.ids, &model);
    double loss = model_loss(&work, trainer.targets, &model);
    size_t count = targets_count(trainer.targets, batch * LEN);
    model_backward(&grad, &work, trainer.ids, trainer.targets, count, &model);
    assert_near(batch_loss(&trainer, true), loss, 0, 1e-12);
    gradients_add(&trainer);
    assert_int_equal(trainer.n_group, smaller(batch, GROUPS));
    for (size_t k = 0; k < model_tensor_count(&model.config); k++) {
        ModelTensor want = model_tensor(&grad, &model.config, k);
        if (want.count > 0)
            assert_relmax(model_tensor(&trainer.group[0].grad, &model.config, k).values,
                          want.values, want.count, 3e-6);
    }
    trainer_free(&trainer);
    model_params_free(&grad);
    model_work_free(&work);
    model_free(&model);
}

static void the_gradient_of_a_batch_is_that_of_its_groups_together(void **state)
{
    (void)state;
    static const size_t batches[] = {1, 2, 3, 4, 7, 9};
    for (size_t i = 0; i < sizeof batches / sizeof *batches; i++)
        check_groups(batches[i]);
}

/* Some steps with so many threads; the parameters that come of it. */
static Model any_steps(size_t batch, int threads)
{
    TrainSettings settings = {batch, 40, 3, 1, 1e-2, 0.1, 0.1, 0.0};
    BatchSource source = {any_fill, NULL};
    int most = threads_most();
    Model model = tiny_model(30, 0, 7);
    Trainer trainer = trainer_new(&model, &settings);
    threads_use(threads);
    for (uint64_t step = 0; step < settings.steps; step++)
        trainer_step(&trainer, &source);
    threads_use(most);
    trainer_free(&trainer);
    return model;
}

static void uneven_groups_give_the_same_bits_for_any_threads(void **state)
{
    (void)state;
    for (size_t batch = 1; batch <= 7; batch += 2) {
        Model one = any_steps(batch, 1);
        for (int threads = 2; threads <= 5; threads++) {
            Model many = any_steps(batch, threads);
            assert_same_params(&many, &one);
            model_free(&many);
        }
        model_free(&one);
    }
}

static void a_training_step_asks_for_no_memory(void **state)
{
    (void)state;
    School school;
    school_open(&school, 8, 5);
    trainer_step(&school.trainer, &school.source);
    size_t before = allocations;
    assert_true(before > 0); /* they are counted */
    for (int i = 0; i < 5; i++)
        trainer_step(&school.trainer, &school.source);
    assert_int_equal(allocations, before);
    school_close(&school);
}

static void a_run_that_is_resumed_is_the_run_that_never_stopped(void **state)
{
    (void)state;
    enum { STEPS = 24, STOP = 11 };
    const char *path = "build/tests/checkpoint.safetensors";
    School whole, first, second;
    Error error;
    school_open(&whole, STEPS, 5), school_open(&first, STEPS, 5), school_open(&second, STEPS, 5);
    for (int i = 0; i < STEPS; i++)
        trainer_step(&whole.trainer, &whole.source);
    for (int i = 0; i < STOP; i++)
        trainer_step(&first.trainer, &first.source);
    first.trainer.check[0] = 7.0, first.trainer.at[0] = 11.0, first.trainer.n_check = 1;
    if (!trainer_save(&first.trainer, path, &error) || !trainer_load(&second.trainer, path, &error))
        fail_msg("%s", error.text);
    assert_int_equal(second.trainer.adam.step, STOP);
    assert_int_equal(second.trainer.n_check, 1);
    assert_true(second.trainer.check[0] == 7.0 && second.trainer.at[0] == 11.0);
    for (int i = STOP; i < STEPS; i++)
        trainer_step(&second.trainer, &second.source);
    assert_same_params(&second.model, &whole.model);
    trainer_swap_average(&second.trainer), trainer_swap_average(&whole.trainer);
    assert_same_params(&second.model, &whole.model);
    assert_memory_equal(second.trainer.loss, whole.trainer.loss, STEPS * sizeof(double));
    school_close(&whole), school_close(&first), school_close(&second);
}

static void a_checkpoint_of_another_run_is_refused_and_changes_nothing(void **state)
{
    (void)state;
    const char *path = "build/tests/checkpoint.safetensors";
    const char *other = "build/tests/other/model.safetensors"; /* a model, but no training run */
    School school, untouched;
    Error error;
    school_open(&school, 24, 6), school_open(&untouched, 24, 6);
    assert_true(trainer_save(&school.trainer, path, &error));
    school.trainer.settings.seed = 5;
    assert_false(trainer_load(&school.trainer, path, &error));
    assert_contains(error.text, "belongs to a run with");
    assert_contains(error.text, "--seed 6");
    assert_true(model_save_folder("build/tests/other", &school.model, &school.words, &error));
    assert_false(trainer_load(&school.trainer, other, &error));
    assert_contains(error.text, "is no checkpoint of a training run");
    assert_false(trainer_load(&school.trainer, "data/weather.csv", &error));
    assert_same_params(&school.model, &untouched.model);
    school_close(&school), school_close(&untouched);
}

/* Weights 1, 2, 3, ...: while the average is young, it is (4 t + 1) / 5 after t of them, for
   4 t + 1 solves its recurrence; later it lags as far behind as it reaches back. */
static void the_average_of_the_weights_is_what_its_formula_says(void **state)
{
    (void)state;
    Model model = small_model(true, 1);
    size_t last = model_floats(&model.config) - 1;
    ModelParams average = model_params_new(&model.config);
    for (uint64_t t = 1; t <= 400; t++) {
        model.params.memory[0] = model.params.memory[last] = (float)t;
        average_step(&average, &model, t, 0.98);
        if (t <= 197) /* as long as 4 / (t + 3) is more than 1 - 0.98 */
            assert_near(average.memory[0], (4.0 * (double)t + 1.0) / 5.0, 0, 1e-5);
        assert_true(average.memory[0] == average.memory[last]);
    }
    for (uint64_t t = 401; t <= 1200; t++) {
        model.params.memory[0] = (float)t;
        average_step(&average, &model, t, 0.98);
    }
    assert_near(average.memory[0], 1200.0 - 49.0, 1e-2, 0); /* 0.98 / (1 - 0.98) */
    average_step(&average, &model, 1201, 0.0);
    assert_true(average.memory[0] == model.params.memory[0]);
    model_params_free(&average);
    model_free(&model);
}

static void every_step_goes_into_the_average(void **state)
{
    (void)state;
    School school;
    school_open(&school, 4, 5);
    size_t bytes = model_floats(&school.model.config) * sizeof(float);
    trainer_step(&school.trainer, &school.source); /* of one step it is that step */
    assert_memory_equal(school.trainer.average.memory, school.model.params.memory, bytes);
    trainer_step(&school.trainer, &school.source);
    assert_memory_not_equal(school.trainer.average.memory, school.model.params.memory, bytes);
    school_close(&school);
}

static void a_look_is_at_the_average_and_leaves_the_weights_alone(void **state)
{
    (void)state;
    School school, untouched;
    school_open(&school, 4, 5), school_open(&untouched, 4, 5);
    for (size_t i = 0; i < model_floats(&school.model.config); i++)
        school.trainer.average.memory[i] = 0.0f; /* knows nothing: every byte has the same share */
    assert_near(trainer_check(&school.trainer, &school.source), log(256.0), 1e-6, 0);
    assert_same_params(&school.model, &untouched.model);
    assert_true(school.trainer.average.memory[0] == 0.0f);
    school_close(&school), school_close(&untouched);
}

static void the_mean_loss_on_other_text_is_that_of_its_batches(void **state)
{
    (void)state;
    School school;
    school_open(&school, 4, 5);
    double first = trainer_check(&school.trainer, &school.source);
    assert_true(first == trainer_check(&school.trainer, &school.source));
    assert_near(first, log(256.0), 0.5, 0);
    school_close(&school);
}

/* The bytes of a file; to be freed. */
static char *file_bytes(size_t *len, const char *path)
{
    char *text;
    Error error;
    if (!text_read(&text, len, path, &error))
        fail_msg("%s", error.text);
    return text;
}

/* Mutants of the chapter are told by smaller tests, or are not in the programs that are run: the
   long ones are left out there. */
static void skip_for_mutants(void)
{
    if (getenv("MUTANTS") != NULL)
        skip();
}

static void two_runs_with_one_checkpoint_are_told_of_each_other(void **state)
{
    (void)state;
    char path[] = "/tmp/ch05_lock_XXXXXX", lock_path[64], link[64];
    RunLock mine, other;
    Error error;
    int file = mkstemp(path);
    assert_true(file >= 0);
    snprintf(lock_path, sizeof lock_path, "%s.lock", path);
    snprintf(link, sizeof link, "%s.link", path);
    for (int k = 0; k < 2; k++) { /* it is free again when the run is over */
        assert_true(run_lock(&mine, path, &error));
        assert_false(run_lock(&other, path, &error));
        assert_contains(error.text, path);
        assert_contains(error.text,
                        ": another training is writing this checkpoint; give one of the "
                        "two another --checkpoint, and another --out");
        run_unlock(&other); /* holds nothing, and takes nothing away */
        assert_int_equal(symlink(path, link), 0);
        assert_false(run_lock(&other, link, &error)); /* it is the same file */
        assert_int_equal(unlink(link), 0);
        assert_int_equal(access(lock_path, F_OK), 0);
        run_unlock(&mine);
        assert_int_equal(access(lock_path, F_OK), -1);
    }
    unlink(path);
    close(file);
    /* no checkpoint, no file, no folder: there is nothing to lock */
    static const char *const none[] = {NULL, "/dev/null", "/no/such/folder/checkpoint"};
    for (size_t k = 0; k < 3; k++) {
        assert_true(run_lock(&mine, none[k], &error));
        assert_true(run_lock(&other, none[k], &error));
        run_unlock(&mine);
        run_unlock(&other);
    }
}

/* Before the first step, and not when the first part of the work is done. */
static void a_checkpoint_that_cannot_be_written_is_told_at_once(void **state)
{
    (void)state;
    char text[1024];
    static const char *const no_file[] = {"/no/such/folder/checkpoint", "tests"};
    for (int k = 0; k < 2; k++) {
        char words[256];
        snprintf(words, sizeof words,
                 "--train --corpus data/rainbow/answers.txt --width 16 --layers 1 --length 16 "
                 "--out build/tests/unwritten --checkpoint %s",
                 no_file[k]);
        assert_int_equal(
            run_and_read(text, sizeof text, "ch05_language_model", words, "2>&1 </dev/null"), 1);
        assert_contains(text, ": cannot be written: ");
        assert_null(strstr(text, "other text")); /* the head of the table of losses */
    }
}

/* A model with one number, at the beginning of a tensor, that is another. */
static void spoilt_model(char *dir, const char *tensor, float number)
{
    char command[128];
    Safetensors file;
    Error error;
    assert_non_null(mkdtemp(dir));
    snprintf(command, sizeof command, "cp data/tiny-mamba/* %s", dir);
    assert_int_equal(system(command), 0);
    char *path = path_in(dir, "model.safetensors");
    assert_true(safetensors_open(&file, path, &error));
    const Tensor *found = safetensors_find(&file, tensor);
    long place = (long)(found->data - (const unsigned char *)file.map);
    safetensors_close(&file);
    FILE *out = fopen(path, "r+b");
    assert_int_equal(fseek(out, place, SEEK_SET), 0);
    assert_int_equal(fwrite(&number, sizeof number, 1, out), 1);
    assert_int_equal(fclose(out), 0);
    free(path);
}

static void a_model_of_which_a_number_is_none_is_refused(void **state)
{
    (void)state;
    static const char *const programs[] = {"ch05_language_model", "ch05_stories_test",
                                           "ch05_lengths"};
    static const char *const options[] = {"-n 2", "", "--loop"};
    char dir[] = "/tmp/ch05_spoilt_XXXXXX", huge[] = "/tmp/ch05_spoilt_XXXXXX";
    char text[1024], words[256];
    spoilt_model(dir, "backbone.layers.1.mixer.in_proj.weight", NAN);
    spoilt_model(huge, "backbone.norm_f.weight", 3e38f);
    for (size_t k = 0; k < sizeof programs / sizeof *programs; k++) {
        snprintf(words, sizeof words, "%s --model %s", options[k], dir);
        assert_int_equal(run_program(text, sizeof text, programs[k], words), 1);
        assert_contains(text, "model.safetensors: tensor 'backbone.layers.1.mixer.in_proj.weight': "
                              "1 of its 16384 numbers are NaN or infinite");
    }
    Model model;
    Vocabulary vocabulary;
    Error error;
    assert_false(model_open_folder(&model, &vocabulary, dir, &error));
    assert_contains(error.text, "1 of its 16384 numbers are NaN or infinite");
    snprintf(words, sizeof words, "-n 2 --model %s", huge);
    assert_int_equal(run_program(text, sizeof text, "ch05_language_model", words), 1);
    assert_contains(text, "tokens the logits are NaN or infinite");
    snprintf(words, sizeof words, "rm -r %s %s", dir, huge);
    assert_int_equal(system(words), 0);
}

/* None is waited for; the tests would never end. */
static void a_model_s_words_are_read_from_a_file_alone(void **state)
{
    (void)state;
    char dir[] = "/tmp/ch05_words_XXXXXX", command[128];
    MambaConfig config;
    Vocabulary words;
    Error error;
    assert_non_null(mkdtemp(dir));
    snprintf(command, sizeof command, "cp data/tiny-mamba/config.json %s", dir);
    assert_int_equal(system(command), 0);
    char *path = path_in(dir, "tokenizer.json");
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_false(folder_open(&config, &words, dir, &error));
    assert_contains(error.text, "tokenizer.json: this is not a regular file");
    free(path);
    snprintf(command, sizeof command, "rm -r %s", dir);
    assert_int_equal(system(command), 0);
}

static void a_run_that_is_killed_goes_on_from_its_last_checkpoint(void **state)
{
    (void)state;
    skip_for_mutants();
    const char *run = "--train --corpus data/rainbow/answers.txt --width 16 --layers 1 --batch 1 "
                      "--length 16 --steps 480 --checkpoint build/tests/killed.safetensors";
    char words[512], text[512], program[256];
    const char *build = getenv("BUILD");
    snprintf(words, sizeof words, "%s --out build/tests/whole", run);
    assert_int_equal(run_program(text, sizeof text, "ch05_language_model", words), 0);
    unlink("build/tests/killed.safetensors");
    snprintf(program, sizeof program, "%s/ch05_language_model", build ? build : "build");
    snprintf(words, sizeof words, "exec %s %s --out build/tests/killed > /dev/null 2>&1", program,
             run);
    pid_t child = fork();
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", words, (char *)NULL);
        _exit(127);
    }
    for (int i = 0; i < 30000 && access("build/tests/killed.safetensors", F_OK) != 0; i++)
        usleep(1000);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    assert_int_equal(access("build/tests/killed.safetensors", F_OK), 0);
    snprintf(words, sizeof words, "%s --out build/tests/killed --resume", run);
    assert_int_equal(run_program(text, sizeof text, "ch05_language_model", words), 0);
    size_t whole_len, killed_len;
    char *whole = file_bytes(&whole_len, "build/tests/whole/model.safetensors");
    char *killed = file_bytes(&killed_len, "build/tests/killed/model.safetensors");
    assert_int_equal(killed_len, whole_len);
    assert_memory_equal(killed, whole, whole_len);
    free(whole), free(killed);
}

/* A weight becomes NaN in the midst of it: the run ends, and the last checkpoint is as it was. */
static void a_loss_that_is_no_number_ends_a_run_and_spares_the_checkpoint(void **state)
{
    static const char path[] = "build/tests/nan.safetensors";
    School school;
    Error error;
    size_t before_len, after_len;
    (void)state;
    school_open(&school, 4, 5);
    if (!train(&school.trainer, &school.source, &school.source, path, &error))
        fail_msg("%s", error.text);
    char *before = file_bytes(&before_len, path);
    school.trainer.adam.step = school.trainer.n_check = 0;
    school.trainer.model->params.memory[3] = NAN;
    assert_false(train(&school.trainer, &school.source, &school.source, path, &error));
    assert_contains(error.text, "the loss is NaN or infinite after step 0: a smaller --rate");
    assert_contains(error.text, ". The last checkpoint stays: build/tests/nan.safetensors");
    char *after = file_bytes(&after_len, path);
    assert_int_equal(after_len, before_len);
    assert_memory_equal(after, before, before_len);
    /* the loss of a step is that of the weights before it: a look sees what came of them */
    trainer_swap_average(&school.trainer);
    model_init(school.trainer.model, &school.trainer.random);
    model_refresh(school.trainer.model);
    for (size_t i = 0; i < model_floats(&school.trainer.model->config); i++)
        school.trainer.average.memory[i] = NAN;
    school.trainer.adam.step = school.trainer.n_check = 0;
    school.trainer.settings.average = 1.0;
    assert_false(train(&school.trainer, &school.source, &school.source, NULL, &error));
    assert_contains(error.text, "the loss is NaN or infinite after step 1:");
    assert_int_equal(school.trainer.n_check, 1); /* at the first look */
    const double losses[3] = {1.0, NAN, 2.0};    /* one of a batch alone tells, too */
    assert_false(losses_are_numbers(losses, 3, 1.0, NULL, &error));
    assert_contains(error.text, "after step 1:");
    assert_true(losses_are_numbers(losses, 1, 1.0, NULL, &error));
    assert_null(strstr(error.text, "checkpoint"));
    free(before), free(after);
    unlink(path);
    school_close(&school);
}

/* What is saved is the average, as the last checkpoint has it, and not the last step's weights. */
static void a_run_ends_with_the_average_of_its_weights(void **state)
{
    (void)state;
    skip_for_mutants();
    char text[4096];
    const char *run = "--train --corpus data/rainbow/answers.txt --width 16 --layers 1 --batch 1 "
                      "--length 16 --steps 40 --checkpoint build/tests/run.safetensors "
                      "--out build/tests/run";
    static const char name[] = "backbone.norm_f.weight";
    Safetensors model, checkpoint;
    Error error;
    assert_int_equal(run_program(text, sizeof text, "ch05_language_model", run), 0);
    if (!safetensors_open(&model, "build/tests/run/model.safetensors", &error) ||
        !safetensors_open(&checkpoint, "build/tests/run.safetensors", &error))
        fail_msg("%s", error.text);
    const Tensor *saved = safetensors_find(&model, name);
    const Tensor *average = safetensors_find(&checkpoint, "average.backbone.norm_f.weight");
    const Tensor *last = safetensors_find(&checkpoint, name);
    assert_true(saved != NULL && average != NULL && last != NULL);
    assert_memory_equal(saved->data, average->data, saved->bytes);
    assert_memory_not_equal(saved->data, last->data, saved->bytes);
    safetensors_close(&model), safetensors_close(&checkpoint);
}

/* ---- what depends on the token --------------------------------------------------------------- */

/* Delta, B and C of a block that has any of them fixed: these are the same for every token, and the
   others are not. */
static void what_is_fixed_is_the_same_for_every_token_and_nothing_else_is(void **state)
{
    (void)state;
    enum { LEN = 9 };
    int32_t ids[LEN] = {3, 1, 4, 1, 5, 9, 2, 6, 5};
    for (unsigned fixed = 0; fixed <= FIXED_ALL; fixed++) {
        Model model = tiny_model(30, fixed, 5);
        ModelWork work = model_work_new(&model, 1, LEN, true);
        model_forward(&work, NULL, ids, &model);
        const BlockCache *cache = &work.cache[1].block;
        const float *made[FIXED_PARTS] = {cache->dt_raw, cache->B, cache->C};
        size_t d_state = model.config.state_size;
        size_t width[FIXED_PARTS] = {model.config.intermediate_size, d_state, d_state};
        for (size_t part = 0; part < FIXED_PARTS; part++)
            for (size_t t = 1; t < LEN; t++)
                assert_int_equal(memcmp(made[part], made[part] + t * width[part],
                                        width[part] * sizeof(float)) == 0,
                                 fixed >> part & 1);
        model_work_free(&work);
        model_free(&model);
    }
}

/* With nothing fixed it is the paper's block; and what is not fixed is what it is there. */
static void what_is_not_fixed_is_as_in_the_selective_block(void **state)
{
    (void)state;
    enum { LEN = 9 };
    int32_t ids[LEN] = {3, 1, 4, 1, 5, 9, 2, 6, 5};
    Model selective = tiny_model(30, 0, 5), model = tiny_model(30, FIXED_B, 5);
    ModelWork work[2] = {model_work_new(&selective, 1, LEN, false),
                         model_work_new(&model, 1, LEN, false)};
    selective.config.num_hidden_layers = model.config.num_hidden_layers = 1; /* of equal input */
    model_forward(&work[0], NULL, ids, &selective);
    model_forward(&work[1], NULL, ids, &model);
    const BlockCache *one = &work[0].cache[0].block, *two = &work[1].cache[0].block;
    size_t inner = model.config.intermediate_size, d_state = model.config.state_size;
    assert_memory_equal(one->dt_raw, two->dt_raw, LEN * inner * sizeof(float));
    assert_memory_equal(one->C, two->C, LEN * d_state * sizeof(float));
    assert_memory_not_equal(one->B, two->B, LEN * d_state * sizeof(float));
    selective.config.num_hidden_layers = model.config.num_hidden_layers = 2;
    model_work_free(&work[0]), model_work_free(&work[1]);
    model_free(&selective), model_free(&model);
}

/* x_proj's rows of what is fixed get the constant's gradient, and u none through them; the other
   rows and columns stay as they were. */
static void what_is_fixed_sends_nothing_back_to_u(void **state)
{
    (void)state;
    enum { TOKENS = 5 };
    MambaConfig config = config_default(12);
    size_t inner = config.intermediate_size, dt_rank = config.time_step_rank = 3;
    size_t d_state = config.state_size, narrow = dt_rank + 2 * d_state;
    size_t width[FIXED_PARTS] = {dt_rank, d_state, d_state};
    Random random = random_from_seed(4);
    float *constant = random_floats(TOKENS * inner, &random);
    float *made[FIXED_PARTS] = {random_floats(TOKENS * dt_rank, &random),
                                random_floats(TOKENS * d_state, &random),
                                random_floats(TOKENS * d_state, &random)};
    float *rows = NEW(float, narrow *inner), *columns = NEW(float, TOKENS *narrow);
    for (config.fixed = 0; config.fixed <= FIXED_ALL; config.fixed++) {
        for (size_t i = 0; i < narrow * inner; i++)
            rows[i] = 77.0f;
        for (size_t i = 0; i < TOKENS * narrow; i++)
            columns[i] = 77.0f;
        fixed_backward(rows, columns, made, constant, TOKENS, &config);
        for (size_t part = 0, row = 0; part < FIXED_PARTS; part++)
            for (size_t i = 0; i < width[part]; i++, row++) {
                bool fixed = config.fixed >> part & 1;
                for (size_t t = 0; t < TOKENS; t++)
                    assert_near((double)columns[t * narrow + row], fixed ? 0.0 : 77.0, 0.0, 0.0);
                for (size_t d = 0; d < inner; d++) {
                    double sum = 0.0;
                    for (size_t t = 0; t < TOKENS; t++)
                        sum += (double)made[part][t * width[part] + i] *
                               (double)constant[t * inner + d];
                    assert_near((double)rows[row * inner + d], fixed ? sum : 77.0, 2e-6, 1e-6);
                }
            }
    }
    free(constant), free(made[0]), free(made[1]), free(made[2]), free(rows), free(columns);
}

static void check_slopes(unsigned fixed)
{
    enum { LEN = 7 };
    MambaConfig config = config_default(12);
    Random start = random_from_seed(6);
    config.num_hidden_layers = 2;
    config.vocab_size = 30;
    config.fixed = fixed;
    Model model = model_new(&config);
    model_init(&model, &start);
    int32_t ids[LEN] = {3, 1, 4, 1, 5, 9, 2}, targets[LEN] = {1, 4, 1, 5, 9, 2, 6};
    ModelWork work = model_work_new(&model, 1, LEN, true);
    ModelParams grad = model_params_new(&config);
    model_forward(&work, NULL, ids, &model);
    model_backward(&grad, &work, ids, targets, targets_count(targets, LEN), &model);
    for (size_t k = 0; k < model_tensor_count(&config); k++) {
        ModelTensor p = model_tensor(&model.params, &config, k);
        ModelTensor g = model_tensor(&grad, &config, k);
        Random random = random_from_seed(k);
        double along = 0.0, loss[2];
        double *direction = NEW(double, p.count + 1);
        float *kept = NEW(float, p.count + 1);
        for (size_t i = 0; i < p.count; i++) {
            direction[i] = random_normal(&random);
            along += direction[i] * (double)g.values[i];
            kept[i] = p.values[i];
        }
        for (int side = 0; side < 2; side++) {
            for (size_t i = 0; i < p.count; i++)
                p.values[i] = kept[i] + (float)((side ? 1e-3 : -1e-3) * direction[i]);
            model_refresh(&model);
            model_forward(&work, NULL, ids, &model);
            loss[side] = model_loss(&work, targets, &model);
        }
        for (size_t i = 0; i < p.count; i++)
            p.values[i] = kept[i];
        model_refresh(&model);
        assert_near((loss[1] - loss[0]) / 2e-3, along, 2e-3, 4e-3); /* float losses, curvature */
        free(direction), free(kept);
    }
    model_params_free(&grad);
    model_work_free(&work);
    model_free(&model);
}

static void gradients_are_slopes_whatever_is_fixed(void **state)
{
    (void)state;
    for (unsigned fixed = 1; fixed <= FIXED_ALL; fixed++)
        check_slopes(fixed);
}

static void a_selective_model_s_gradients_are_slopes(void **state)
{
    (void)state;
    check_slopes(0);
}

/* ---- the stories ----------------------------------------------------------------------------- */

static char *corpus_file(const char *file)
{
    char path[128];
    size_t len;
    snprintf(path, sizeof path, "data/rainbow/%s", file);
    return file_bytes(&len, path);
}

static void the_files_are_what_the_grammar_tells(void **state)
{
    (void)state;
    for (size_t i = 0; i <= COUNT_OF(story_tests); i++) {
        bool test = i < COUNT_OF(story_tests);
        char *want = test ? rainbow_stories(&story_tests[i], RAINBOW_SEED + i) : rainbow_answers();
        char *got = corpus_file(test ? story_tests[i].file : "answers.txt");
        assert_true(strcmp(got, want) == 0);
        free(got), free(want);
    }
}

/* What a story says in one part, read from its words alone. */
typedef struct {
    size_t which, cue, telling, wandering;
    size_t question; /* QUESTIONS: it does not ask */
    size_t answer;   /* the register in which it is answered; REGISTERS: not at all */
} StoryPart;

/* The first of some phrases, `stride` apart, that ends just before `end`; count if none does. */
static size_t phrase_before(const char *const *phrase, size_t count, size_t stride,
                            const char *story, const char *end)
{
    for (size_t i = 0; i < count; i++) {
        size_t len = strlen(phrase[i * stride]);
        if (len <= (size_t)(end - story) && memcmp(end - len, phrase[i * stride], len) == 0 &&
            (end - len == story || end[-1 - (long)len] == ' '))
            return i;
    }
    return count;
}

/* The cue that a word is, of which register: which * CUES + cue; REGISTERS * CUES if it is none. */
static size_t cue_of(const char *word, size_t len)
{
    for (size_t i = 0; i < REGISTERS * CUES; i++) {
        const char *cue = registers[i / CUES].cue[i % CUES];
        if (strlen(cue) == len && memcmp(cue, word, len) == 0)
            return i;
    }
    return REGISTERS * CUES;
}

/* A question has been asked: which, and what is said to it. */
static void read_answer(StoryPart *part, const char *story, const char *after)
{
    part->question = phrase_before(questions, QUESTIONS, 1, story, after);
    assert_true(part->question < QUESTIONS);
    part->answer = REGISTERS;
    for (size_t which = 0; which < REGISTERS; which++) {
        const char *answer = registers[which].answer[part->question];
        if (strncmp(after + 1, answer, strlen(answer)) == 0)
            part->answer = which;
    }
    assert_true(part->answer < REGISTERS || strncmp(after + 1, silence, strlen(silence)) == 0);
}

enum { PARTS_MOST = 8 };

/* Reads a story up to the end of its line; returns how many parts it has. */
static size_t read_story(StoryPart *part, const char *story)
{
    size_t parts = 0;
    for (const char *word = story, *next; *word != '\0' && *word != '\n'; word = next) {
        size_t len = strcspn(word, " \n"), cue = cue_of(word, len);
        next = word + len + (word[len] == ' ');
        if (cue < REGISTERS * CUES) {
            assert_true(parts < PARTS_MOST);
            StoryPart *now = &part[parts++];
            size_t told = phrase_before(tellings[0], 2 * TELLINGS, 1, story, word - 1);
            assert_true(told < 2 * TELLINGS);
            now->which = cue / CUES, now->cue = cue % CUES, now->telling = told / 2;
            now->wandering = 0, now->question = QUESTIONS, now->answer = REGISTERS;
            next += 2; /* the end of its sentence is not wandering */
        } else if (parts > 0 && len == 1 && *word == '?')
            read_answer(&part[parts - 1], story, word + 1);
        else if (parts > 0 && len == 1 && *word == '.')
            part[parts - 1].wandering += part[parts - 1].question == QUESTIONS;
    }
    return parts;
}

/* What many stories say. */
typedef struct {
    size_t asked[REGISTERS][CUES][QUESTIONS], answered[REGISTERS][CUES][QUESTIONS];
    size_t told[REGISTERS][CUES][TELLINGS], turn[REGISTERS][REGISTERS];
    size_t parts, furthest, none, turns, unasked;
} StoryCounts;

static void count_story(StoryCounts *counts, const StoryPart *part, size_t parts)
{
    for (size_t i = 0; i < parts; i++) {
        const StoryPart *p = &part[i];
        counts->told[p->which][p->cue][p->telling]++;
        counts->parts++;
        counts->none += p->wandering == 0;
        counts->furthest = p->wandering > counts->furthest ? p->wandering : counts->furthest;
        if (i > 0)
            counts->turn[part[i - 1].which][p->which]++;
        counts->turns += i + 1 < parts;
        counts->unasked += p->question == QUESTIONS;
        if (p->question == QUESTIONS)
            continue;
        counts->asked[p->which][p->cue][p->question]++;
        counts->answered[p->which][p->cue][p->question] += p->answer < REGISTERS;
        assert_true(p->answer == p->which || p->answer == REGISTERS);
    }
}

/* Of 30,000 stories to learn from: some 300 answers a cue and question. Told once, for all tests. */
static const StoryCounts *training_counts(void)
{
    static StoryCounts *counts;
    if (counts != NULL)
        return counts;
    counts = NEW(StoryCounts, 1);
    StoryText *story = NEW(StoryText, 1);
    StoryPart part[PARTS_MOST];
    Random random = random_from_seed(20);
    for (int i = 0; i < 30000; i++) {
        tell(story, &story_to_learn, &random);
        size_t parts = read_story(part, story->text);
        assert_in_range(parts, 1, 5);
        assert_true(part[parts - 1].question < QUESTIONS);
        count_story(counts, part, parts);
    }
    free(story);
    return counts;
}

static void training_never_shows_what_the_tests_ask(void **state)
{
    (void)state;
    const StoryCounts *counts = training_counts();
    for (size_t i = 0; i < COUNT_OF(story_tests); i++) {
        char *text = corpus_file(story_tests[i].file), *rest = text;
        size_t stories = 0;
        for (char *story; (story = strsep(&rest, "\n")) != NULL && *story != '\0'; stories++) {
            StoryPart part[PARTS_MOST], *last;
            size_t parts = read_story(part, story);
            last = &part[parts - 1];
            assert_in_range(parts, 1 + story_tests[i].turns_least, 1 + story_tests[i].turns_most);
            assert_in_range(last->wandering, story_tests[i].wander_least,
                            story_tests[i].wander_most);
            assert_int_equal(last->answer, last->which);
            assert_int_equal(counts->answered[last->which][last->cue][last->question], 0);
            assert_int_equal(counts->told[last->which][last->cue][last->telling] == 0,
                             story_tests[i].unseen_telling);
            for (size_t k = 0; k + 1 < parts; k++) { /* but they turn as training does */
                assert_int_equal(part[k].question, QUESTIONS);
                assert_true(counts->turn[part[k].which][part[k + 1].which] > 0);
            }
        }
        assert_int_equal(stories, story_tests[i].stories);
        free(text);
    }
}

/* Or a model would learn to remember the cue, for the sake of the question. */
static void which_question_comes_has_nothing_to_do_with_the_cue(void **state)
{
    (void)state;
    const StoryCounts *counts = training_counts();
    for (size_t w = 0; w < REGISTERS; w++)
        for (size_t x = 0; x < CUES; x++) {
            const size_t *asked = counts->asked[w][x], *answered = counts->answered[w][x];
            size_t never = 0, told = 0;
            double third = (double)(asked[0] + asked[1] + asked[2]) / QUESTIONS;
            for (size_t q = 0; q < QUESTIONS; q++) { /* chance is good for 5 standard errors */
                assert_near((double)asked[q], third, 5.0 * sqrt(third), 0);
                never += answered[q] == 0;
            }
            for (size_t f = 0; f < TELLINGS; f++)
                told += counts->told[w][x][f] > 0;
            assert_in_range(never, 0, 1);  /* each cue is answered with other questions, */
            assert_in_range(told, 12, 13); /* and told in other ways */
        }
    for (size_t from = 0; from < REGISTERS; from++)
        for (size_t to = 0; to < REGISTERS; to++)
            assert_int_equal(counts->turn[from][to] > 0, turn_is_made(from, to));
    assert_int_equal(counts->furthest, WANDER_FAR);
    assert_in_range(100 * counts->none / counts->parts, 57, 61); /* 50 percent, 35 / 4, 15 / 25 */
    assert_in_range(1000 * counts->unasked / counts->turns, 95, 105); /* none at the end */
}

static void an_answer_is_right_only_if_all_of_it_is(void **state)
{
    /* after word 0 of the story 1 is the likeliest, after word 1 it is 2, after word 2 it is 0 */
    static const float logits[] = {0.0f, 1.0f, 0.5f, 0.0f, 0.5f, 1.0f, 1.0f, 0.5f, 0.0f};
    static const int32_t right[] = {0, 1, 2, 0}, wrong_later[] = {0, 1, 2, 1};
    (void)state;
    assert_true(answer_is_right(logits, right, 1, 4, 3));
    assert_false(answer_is_right(logits, wrong_later, 1, 4, 3));
    assert_true(answer_is_right(logits, wrong_later, 1, 3, 3));
}

static void a_cue_stands_in_one_register_and_nowhere_else(void **state)
{
    (void)state;
    char *text = rainbow_sentences();
    for (size_t i = 0; i < REGISTERS * CUES; i++) {
        const char *cue = registers[i / CUES].cue[i % CUES];
        size_t found = 0;
        for (const char *word = text; *word != '\0';
             word += strcspn(word, " "), word += *word == ' ')
            found += strcspn(word, " ") == strlen(cue) && strncmp(word, cue, strlen(cue)) == 0;
        assert_int_equal(found, 1);
    }
    free(text);
}

static void every_word_of_a_story_has_a_number(void **state)
{
    (void)state;
    Vocabulary words = rainbow_words(), again = rainbow_words();
    StoryText *story = NEW(StoryText, 1);
    int32_t *ids = NEW(int32_t, STORY_BYTES);
    Random random = random_from_seed(3);
    assert_int_equal(words.n_word, again.n_word);
    for (size_t i = 0; i < words.n_word; i++)
        assert_string_equal(words.word[i], again.word[i]);
    for (int i = 0; i < 2000; i++) {
        size_t unknown;
        tell(story, i % 2 == 0 ? &story_to_learn : &story_tests[3], &random);
        text_to_tokens(ids, &unknown, story->text, story->len, &words, true);
        assert_int_equal(unknown, 0);
    }
    free(story), free(ids);
    vocabulary_free(&words), vocabulary_free(&again);
}

/* One story of a batch: is every next word a target but silence, or are only its answers? */
static bool only_answers_count(size_t *answers, size_t *silent, const int32_t *id,
                               const int32_t *target, size_t len, const Vocabulary *words)
{
    int32_t asks = word_number(words, "?"), stop = word_number(words, ".");
    int32_t held_back = word_number(words, silence);
    bool answer = false, all = true;
    for (size_t t = 0; t + 1 < len; t++) {
        answer = id[t] == asks || (answer && id[t] != stop);
        *answers += id[t] == asks && id[t + 1] != held_back;
        *silent += id[t + 1] == held_back;
        if (id[t + 1] == held_back)
            assert_int_equal(target[t], -1);
        else if (answer)
            assert_int_equal(target[t], id[t + 1]);
        else {
            assert_true(target[t] == id[t + 1] || target[t] == -1);
            assert_true(t == 0 || all == (target[t] >= 0)); /* all of it, or nothing */
            all = target[t] >= 0;
        }
    }
    return !all;
}

static void a_batch_of_stories_asks_for_what_it_should(void **state)
{
    (void)state;
    enum { BATCH = 12, LEN = 700 };
    static int32_t ids[BATCH * LEN], targets[BATCH * LEN];
    Vocabulary words = rainbow_words();
    Storyteller teller[2] = {{&words, &story_to_learn}, {&words, &story_held_back}};
    Random random = random_from_seed(9);
    for (int which = 0; which < 2; which++) {
        size_t silent = 0, answers = 0, only = 0, stories = 0;
        rainbow_fill(ids, targets, BATCH, LEN, &teller[which], &random);
        for (size_t b = 0; b < BATCH; b++) {
            const int32_t *id = ids + b * LEN, *target = targets + b * LEN;
            assert_int_equal(target[LEN - 1], -1);
            for (size_t from = 0, end; from < LEN; from = end) {
                for (end = from; end < LEN && id[end] != WORD_END; end++)
                    ;
                end += end < LEN;
                bool heard = only_answers_count(&answers, &silent, id + from, target + from,
                                                end - from, &words);
                if (from > 0) /* how the next one begins is to be guessed, if it is */
                    assert_int_equal(target[from - 1], heard ? -1 : id[from]);
                only += heard;
                stories++;
            }
        }
        assert_int_equal(silent > 0, which == 0);
        assert_true(answers > BATCH && only > 0);
        assert_int_equal(only == stories, which == 1);
    }
    assert_memory_not_equal(ids, ids + LEN, LEN * sizeof *ids);
    vocabulary_free(&words);
}

/* ---- the trained model ----------------------------------------------------------------------- */

static void open_tiny(Model *model, Vocabulary *words)
{
    Error error;
    if (!model_open_folder(model, words, "data/tiny-mamba", &error))
        fail_msg("%s", error.text);
}

static void the_trained_model_answers_as_the_latest_cue_asks(void **state)
{
    (void)state;
    skip_for_mutants();
    static const double least[COUNT_OF(story_tests)] = {0.99, 0.98, 0.95, 0.95};
    StoryScore score[COUNT_OF(story_tests)];
    double percent[COUNT_OF(story_tests)];
    Error error;
    Model model;
    Vocabulary words;
    open_tiny(&model, &words);
    if (!score_tests(percent, score, "data/rainbow", &words, &model, &error))
        fail_msg("%s", error.text);
    for (size_t i = 0; i < COUNT_OF(story_tests); i++) {
        assert_int_equal(score[i].stories, story_tests[i].stories);
        assert_true((double)score[i].right >= least[i] * (double)score[i].stories);
        assert_near(percent[i], 100.0 * (double)score[i].right / (double)score[i].stories, 1e-9, 0);
    }
    model_free(&model);
    vocabulary_free(&words);
}

static void a_story_scored_in_a_batch_is_one_generated_word_by_word(void **state)
{
    (void)state;
    enum { STORIES = 9, MOST = 200 };
    Model model = tiny_model(8, 0, 1);
    model_free(&model);
    Vocabulary words;
    open_tiny(&model, &words);
    char *text = corpus_file("test_turns.txt"), *end = text;
    for (int i = 0; i < STORIES; i++)
        end = strchr(end, '\n') + 1;
    *end = '\0';
    FILE *few = fopen("build/tests/few.txt", "w");
    assert_non_null(few);
    fputs(text, few);
    fputs("what is a rainbow ? in norse folklore nobody waits .\n", few); /* nobody says this */
    fclose(few);
    StoryScore score;
    Error error;
    size_t right = 0;
    assert_true(score_stories(&score, "build/tests/few.txt", &words, &model, &error));
    for (char *rest = text, *story; (story = strsep(&rest, "\n")) != NULL && *story;) {
        int32_t ids[MOST], said[MOST];
        size_t unknown, len = text_to_tokens(ids, &unknown, story, strlen(story), &words, false);
        size_t from = story_answer(ids, len, &words);
        assert_true(from > 0 && from < len && unknown == 0);
        generate_greedy(said, len - from, ids, from, &model);
        right += memcmp(said, ids + from, (len - from) * sizeof *ids) == 0;
    }
    assert_int_equal(score.stories, STORIES + 1);
    assert_int_equal(score.right, right);
    free(text);
    model_free(&model);
    vocabulary_free(&words);
}

/* ---- looking inside -------------------------------------------------------------------------- */

/* x_last is linear in x_start: with a start x and with none it differs by what is kept of x, each
   state of its own. The share is that difference seen along x, over the length of x. */
static void ex5_8_what_is_kept_is_what_a_state_put_in_leaves(void **state)
{
    (void)state;
    Model model;
    Vocabulary words;
    StoryReading reading;
    Error error;
    open_tiny(&model, &words);
    assert_true(reading_new(&reading, "a boy dreamt of troy. the miller sold apples at the inn.",
                            &words, &model, &error));
    size_t d_inner = model.config.intermediate_size, d_state = model.config.state_size;
    size_t states = d_inner * d_state, floats = block_state_floats(&model.config, 1);
    size_t first = 2, last = reading.len - 2, layers = model.config.num_hidden_layers;
    double left = 0.0, all = 0.0;
    float *x[2] = {NEW(float, states), NEW(float, states)};
    float *start = NEW(float, layers *floats), *y = NEW(float, d_inner *reading.len);
    Random random = random_from_seed(1);
    for (size_t i = 0; i < layers * floats; i++)
        start[i] = (float)random_normal(&random);
    for (size_t layer = 0; layer < layers; layer++) {
        float *own = block_state_place(start + layer * floats, &model.config, 1).x;
        for (int with = 0; with < 2; with++) {
            Scan scan = block_scan(&reading.work.cache[layer].block, &model.block[layer], NULL);
            scan.u += first * d_inner, scan.delta += first * d_inner;
            scan.B += first * d_state, scan.C += first * d_state;
            scan.z = NULL, scan.checkpoint = NULL;
            scan.len = last - first + 1;
            scan.x_start = with ? own : NULL;
            selective_scan(y, x[with], &scan);
        }
        for (size_t i = 0; i < states; i++) {
            left += (double)own[i] * ((double)x[1][i] - (double)x[0][i]);
            all += (double)own[i] * (double)own[i];
        }
    }
    assert_near(share_kept(&reading.work, start, first, last, &model), left / all, 1e-5, 0);
    assert_near(share_kept(&reading.work, start, first, first, &model), 1.0, 0.5, 0);
    free(x[0]), free(x[1]), free(start), free(y);
    reading_free(&reading);
    model_free(&model);
    vocabulary_free(&words);
}

/* A state is linear in what is written: with all inputs but one word's put to 0, the scan gives
   what that word left. */
static void a_word_s_share_is_what_it_left_in_the_state(void **state)
{
    (void)state;
    enum { LAYER = 1, WORD = 3 };
    Model model;
    Vocabulary words;
    StoryReading reading;
    Error error;
    open_tiny(&model, &words);
    assert_true(reading_new(&reading, "a boy dreamt of troy. the miller sold apples at the inn.",
                            &words, &model, &error));
    size_t d_inner = model.config.intermediate_size, states = d_inner * model.config.state_size;
    const double *share = reading.share + LAYER * reading.len;
    float *x[2] = {NEW(float, states), NEW(float, states)};
    float *y = NEW(float, d_inner *reading.len), *u = NEW(float, d_inner *reading.len);
    double along = 0.0, square = 0.0, sum = 0.0;
    for (int alone = 0; alone < 2; alone++) {
        Scan scan = block_scan(&reading.work.cache[LAYER].block, &model.block[LAYER], NULL);
        memcpy(u + WORD * d_inner, scan.u + WORD * d_inner, d_inner * sizeof *u);
        scan.z = NULL, scan.checkpoint = NULL;
        scan.u = alone ? u : scan.u;
        selective_scan(y, x[alone], &scan);
    }
    for (size_t i = 0; i < states; i++) {
        along += (double)x[0][i] * (double)x[1][i];
        square += (double)x[0][i] * (double)x[0][i];
    }
    assert_near(share[WORD], along / square, 1e-5, 1e-3);
    for (size_t t = 0; t < reading.len; t++)
        sum += share[t];
    assert_near(sum, 1.0, 1e-9, 0);
    free(x[0]), free(x[1]), free(y), free(u);
    reading_free(&reading);
    model_free(&model);
    vocabulary_free(&words);
}

static void a_word_s_delta_is_the_mean_of_its_channels(void **state)
{
    (void)state;
    Model model;
    Vocabulary words;
    StoryReading reading;
    Error error;
    open_tiny(&model, &words);
    assert_true(reading_new(&reading, "grandmother sang about kerry .", &words, &model, &error));
    size_t d_inner = model.config.intermediate_size, t = 3;
    const float *raw = reading.work.cache[1].block.dt_raw + t * d_inner;
    double sum = 0.0;
    for (size_t d = 0; d < d_inner; d++) {
        double delta =
            log1p(exp((double)raw[d] + (double)model.block[1].params.tensor[DT_PROJ_BIAS][d]));
        sum += delta / (double)d_inner;
    }
    assert_near(reading.delta[reading.len + t], sum, 0, 1e-5);
    reading_free(&reading);
    model_free(&model);
    vocabulary_free(&words);
}

static void asked_now_the_model_says_what_the_latest_cue_means(void **state)
{
    (void)state;
    static const char *const stories[2] = {"a stranger sang about galway .",
                                           "on the next day a boy opened a book on prisms ."};
    static const char *const names[2] = {"irish", "science"};
    Model model;
    Vocabulary words;
    Answers answers;
    Error error;
    open_tiny(&model, &words);
    if (!answers_read(&answers, "data/rainbow/answers.txt", &words, &error))
        fail_msg("%s", error.text);
    assert_int_equal(answers.count, REGISTERS);
    Writer writer = writer_new(&model), asked = writer_new(&model);
    for (int story = 0; story < 2; story++) { /* the second is read after the first */
        int32_t ids[32];
        double share[ANSWERS_MOST], sum = 0.0;
        size_t unknown, len = text_to_tokens(ids, &unknown, stories[story], strlen(stories[story]),
                                             &words, false);
        writer_read_all(&writer, ids, len);
        ask(share, &answers, writer.state, &asked);
        for (size_t i = 0; i < answers.count; i++) {
            sum += share[i];
            assert_int_equal(share[i] > 0.8, strcmp(answers.name[i], names[story]) == 0);
        }
        assert_near(sum, 1.0, 1e-12, 0);
    }
    writer_free(&writer), writer_free(&asked);
    answers_free(&answers);
    model_free(&model);
    vocabulary_free(&words);
}

/* ---- the classic tasks ----------------------------------------------------------------------- */

static void copying_asks_for_the_symbols_in_their_order(void **state)
{
    (void)state;
    enum { BATCH = 50, LEN = 20 + TASK_REMEMBER };
    static int32_t ids[BATCH * LEN], targets[BATCH * LEN];
    Random random = random_from_seed(1);
    size_t at[20] = {0};
    copying_fill(ids, targets, BATCH, LEN, NULL, &random);
    for (size_t b = 0; b < BATCH; b++) {
        size_t said = LEN - TASK_REMEMBER;
        for (size_t t = 0; t < LEN - TASK_REMEMBER; t++) {
            assert_int_equal(targets[b * LEN + t], -1);
            if (ids[b * LEN + t] == NOISE)
                continue;
            at[t]++;
            assert_in_range(ids[b * LEN + t], 1, MARKER - 1);
            assert_int_equal(ids[b * LEN + said], MARKER);
            assert_int_equal(targets[b * LEN + said++], ids[b * LEN + t]);
        }
        assert_int_equal(said, LEN);
    }
    for (size_t t = 0; t < 20; t++) /* 16 of 20 places: each is taken about 40 times of 50 */
        assert_in_range(at[t], 29, 49);
}

static void induction_asks_for_what_followed_the_marker(void **state)
{
    (void)state;
    enum { BATCH = 200, LEN = 9 };
    static int32_t ids[BATCH * LEN], targets[BATCH * LEN];
    Random random = random_from_seed(2);
    size_t at[LEN] = {0};
    induction_fill(ids, targets, BATCH, LEN, NULL, &random);
    for (size_t b = 0; b < BATCH; b++) {
        size_t marker = LEN;
        for (size_t t = 0; t + 1 < LEN; t++) {
            assert_int_equal(targets[b * LEN + t], -1);
            if (ids[b * LEN + t] == MARKER) {
                assert_int_equal(marker, LEN); /* there is one only */
                marker = t;
            }
        }
        assert_true(marker + 2 < LEN);
        at[marker]++;
        assert_int_equal(ids[b * LEN + LEN - 1], MARKER);
        assert_int_equal(targets[b * LEN + LEN - 1], ids[b * LEN + marker + 1]);
    }
    for (size_t t = 0; t + 2 < LEN; t++)
        assert_true(at[t] > 5);
}

/* What a piece of the copying lesson asks: symbols, then as many markers, then noise. Returns how
   many, and sets where the markers begin. */
static size_t check_copying_piece(size_t *spread, const int32_t *id, const int32_t *target,
                                  size_t len)
{
    size_t symbols = 0, said = 0;
    for (*spread = 0; *spread < len && id[*spread] != MARKER; ++*spread)
        assert_int_equal(target[*spread], -1);
    for (size_t t = 0; t < *spread; t++)
        if (id[t] != NOISE) {
            assert_int_equal(id[*spread + symbols], MARKER);
            assert_int_equal(target[*spread + symbols++], id[t]);
        }
    for (size_t t = *spread; t < len; t++)
        said += target[t] >= 0;
    assert_int_equal(said, symbols);
    for (size_t t = *spread + symbols; t < len; t++)
        assert_int_equal(id[t], NOISE);
    return symbols;
}

static void the_lesson_of_copying_goes_from_one_symbol_to_all(void **state)
{
    (void)state;
    enum { BATCH = 400, LEN = 64 };
    static int32_t ids[BATCH * LEN], targets[BATCH * LEN];
    static const size_t most[] = {1, 5, TASK_REMEMBER};
    Random random = random_from_seed(3);
    for (size_t k = 0; k < sizeof most / sizeof *most; k++) {
        size_t as_many = 0, dense = 0, wide = 0, fewest = LEN;
        copying_lesson(ids, targets, BATCH, LEN, &most[k], &random);
        for (size_t b = 0; b < BATCH; b++) {
            size_t spread,
                symbols = check_copying_piece(&spread, ids + b * LEN, targets + b * LEN, LEN);
            assert_in_range(symbols, 1, most[k]);
            as_many += symbols == most[k];
            dense += spread < 2 * symbols;
            wide += spread + symbols > LEN - 4;
            fewest = smaller(fewest, symbols);
        }
        assert_in_range(as_many, BATCH * 7 / 10, BATCH); /* three in four, and a few by chance */
        assert_int_equal(fewest, 1);
        assert_in_range(dense, BATCH / 10, BATCH * 9 / 10);
        assert_true(wide > 0);
    }
    assert_int_equal(symbols_now(0, 1000), 1);
    assert_int_equal(symbols_now(250, 1000), 9);
    assert_int_equal(symbols_now(499, 1000), TASK_REMEMBER);
    assert_int_equal(symbols_now(999, 1000), TASK_REMEMBER);
}

static void the_lesson_of_induction_asks_at_every_marker_but_the_first(void **state)
{
    (void)state;
    enum { BATCH = 100, LEN = 2048 };
    static int32_t ids[BATCH * LEN], targets[BATCH * LEN];
    Random random = random_from_seed(4);
    size_t gaps = 0, above[3] = {0, 0, 0};
    induction_lesson(ids, targets, BATCH, LEN, NULL, &random);
    for (size_t b = 0; b < BATCH; b++) {
        const int32_t *id = ids + b * LEN, *target = targets + b * LEN;
        size_t before = LEN;
        for (size_t t = 0; t < LEN; t++) {
            assert_in_range(id[t], 0, MARKER);
            assert_int_equal(target[t], id[t] == MARKER && before < LEN ? id[before + 1] : -1);
            if (id[t] != MARKER)
                continue;
            if (before < LEN) {
                size_t gap = t - before;
                assert_true(gap >= 2);
                gaps++, above[0] += gap >= 8, above[1] += gap >= 128, above[2] += gap >= 1024;
            } else
                assert_true(t < 2);
            before = t;
        }
    }
    /* gap >= g has the chance sqrt(2 / g): 1/2, 1/8, 1/23; long ones are cut off by the end */
    assert_near((double)above[0] / (double)gaps, 0.5, 0.05, 0);
    assert_near((double)above[1] / (double)gaps, 0.1, 0.05, 0);
    assert_true(above[2] > 5);
}

static void right_answers_are_the_same_in_pieces_of_any_length(void **state)
{
    (void)state;
    static const size_t piece[] = {1, 7, 40, 64};
    Model model = task_model(MODEL_SELECTIVE, &task_copying.paper, 1);
    size_t out = model.config.hidden_size * model.config.intermediate_size;
    for (size_t layer = 0; layer < 2; layer++) /* loud blocks: what was read decides what is said */
        for (size_t i = 0; i < out; i++)
            model.params.layer[layer].tensor[OUT_PROJ_WEIGHT][i] *= 30.0f;
    for (uint64_t seed = 0; seed < 3; seed++) {
        size_t right[4], all[4] = {0, 0, 0, 0};
        for (size_t k = 0; k < 4; k++) {
            Random random = random_from_seed(seed);
            right[k] = right_answers(&all[k], copying_fill, 8, 40, piece[k], &model, &random);
            assert_int_equal(all[k], 8 * TASK_REMEMBER);
            assert_int_equal(right[k], right[0]);
        }
        assert_in_range(right[0], 1, 8 * TASK_REMEMBER - 1);
    }
    model_free(&model);
}

static void induction_is_learnt_by_the_selective_model_alone(void **state)
{
    (void)state;
    skip_for_mutants();
    static const Task small = {
        "induction",
        "",
        induction_fill,
        16,
        64,
        {induction_lesson, {{4, 128, 260, 4e-3}, {2, 256, 40, 2e-3}}, 0.1, 0.9, 1e-6, 0.01},
        {induction_fill, {{1, 1, 1, 1e-3}}, 0.0, 0.0, 1e-3, 0.1}};
    TaskScores *scores = task_scores_new(&small, 1, false);
    assert_int_equal(scores->n_length, 2);
    assert_int_equal(scores->count[1], 1024);
    task_learn(scores, &small, &small.lessons, 1);
    for (size_t i = 0; i < scores->n_length; i++) {
        assert_true(scores->right[0][i][0] > 90.0);
        assert_true(scores->right[1][i][0] < 60.0);
    }
    assert_true(scores->at[TASK_POINTS - 1] == 300.0);
    assert_true(scores->learning[0][0][0] < 30.0);
    assert_true(scores->learning[0][TASK_POINTS - 1][0] > 90.0);
    free(scores);
}

static void a_median_of_seeds_leaves_them_in_order(void **state)
{
    (void)state;
    double values[5] = {90, 100, 95, 20, 99}, least;
    assert_true(median_of(values, 5, &least) == 95.0);
    assert_true(least == 20.0);
    assert_true(values[0] == 90.0 && values[3] == 20.0);
    assert_int_equal(sequences_asked(256), 1024);
    assert_int_equal(sequences_asked(1024), 256);
    assert_int_equal(sequences_asked(65536), 128);
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

static void a_folder_for_a_model_is_tried_without_a_trace(void **state)
{
    (void)state;
    char dir[] = "/tmp/ch05_folder_XXXXXX", path[64];
    Error error;
    assert_non_null(mkdtemp(dir));
    assert_true(folder_possible(dir, &error));
    snprintf(path, sizeof path, "%s/new", dir);
    assert_true(folder_possible(path, &error));
    assert_int_equal(access(path, F_OK), -1);
    snprintf(path, sizeof path, "%s/model.safetensors", dir); /* in the way of the weights */
    assert_int_equal(mkdir(path, 0700), 0);
    assert_false(folder_possible(dir, &error));
    assert_contains(error.text, "model.safetensors: cannot be written: Is a directory");
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(rmdir(dir), 0); /* nothing was left in it */
    assert_false(folder_possible("/dev/null", &error));
    assert_string_equal(error.text, "/dev/null: this is not a folder; a model goes into one");
    assert_false(folder_possible("/dev/null/x", &error));
    assert_string_equal(error.text, "/dev/null/x: cannot be made: Not a directory");
}

static void wrong_options_are_named(void **state)
{
    (void)state;
    skip_for_mutants();
    static const struct {
        const char *program, *words, *sentence;
        int exit;
    } cases[] = {
        {"language_model", "--train --steps 0", "--steps: 0 is out of range: 1 to 100000000", 2},
        {"language_model", "text", "'text' is not an option: is it the TEXT of --prompt?", 2},
        {"language_model", "--temperature x", "--temperature: 'x' is not a number", 2},
        {"language_model", "--temperature -1", "--temperature: -1 is not from 0 to 100", 2},
        {"language_model", "--top-p 1.5", "--top-p: 1.5 is not from 0 to 1", 2},
        {"language_model", "-n many", "-n: 'many' is not a whole number", 2},
        {"language_model", "--resume", "--resume needs --train", 2},
        {"language_model", "--width 8", "--width needs --train", 2},
        {"language_model", "--mamba2", "--mamba2 needs --train", 2},
        {"language_model", "--corpus x", "--corpus needs --train", 2},
        {"language_model", "--svg x.svg", "--svg needs --train", 2},
        {"language_model", "--train --bytes", "--bytes needs --corpus", 2},
        {"language_model", "--train --prompt x", "--prompt does nothing with --train", 2},
        {"language_model", "--model no/such/folder", "no/such/folder/config.json", 1},
        {"language_model", "--model tests/golden/ch05_lm", "tests/golden/ch05_lm/tokenizer.json",
         1},
        {"language_model", "--train --average 1", "--average: 1 is not from 0 to 0.999999", 2},
        {"language_model", "--train --corpus /dev/null", "/dev/null: 0 words are too few", 1},
        {"language_model", "--train --corpus data/rainbow/answers.txt --length 40",
         "words are too few: the last tenth is only looked at, and must hold a piece of 40 and one "
         "more; so about 410 are wanted, or a shorter --length",
         1},
        {"language_model", "--train --corpus no/such/file", "no/such/file", 1},
        {"language_model", "--train --corpus data/weather.csv", "data/weather.csv: ", 1},
        {"language_model", "--train --corpus tests/golden/ch01_weather.safetensors --length 4",
         "this is not a text file; --bytes takes it as it is", 1},
        {"language_model",
         "--train --corpus data/rainbow/answers.txt --length 8 --steps 2 --width 4 --resume "
         "--checkpoint data/weather.csv",
         "data/weather.csv", 1},
        {"language_model",
         "--train --corpus data/rainbow/answers.txt --length 8 --steps 2 --width 4 --checkpoint "
         "/dev/full",
         "/dev/full: cannot be written: No space left on device", 1},
        {"language_model",
         "--train --corpus data/rainbow/answers.txt --length 8 --steps 2 --width 4 --checkpoint "
         "build/tests/c.safetensors --out /dev/null/x",
         "/dev/null/x: cannot be made", 1},
        /* before the training, and not behind it */
        {"language_model", "--train --steps 200 --out data/weather.csv",
         "error: data/weather.csv: this is not a folder; a model goes into one", 1},
        {"language_model", "--train --steps 200 --svg no/such/x.svg",
         "error: no/such/x.svg: cannot be written: No such file or directory", 1},
        {"classic_tasks", "--induction --svg no/such/x.svg", "error: no/such/x.svg: cannot be", 1},
        {"language_model", "--model data/weather.csv",
         "data/weather.csv: this is not a folder; the folder of a model is wanted", 1},
        {"stories_test", "--focus --compare", "--focus and --compare exclude each other", 2},
        {"stories_test", "--prompt x", "--prompt needs --focus", 2},
        {"stories_test", "--compare --model x", "--model and --compare exclude each other", 2},
        {"stories_test", "--steps 3", "--steps needs --compare", 2},
        {"stories_test", "--focus --prompt '  '", "there is no word to look at", 1},
        {"stories_test", "--focus --data no/such", "no/such/answers.txt", 1},
        {"stories_test", "--data no/such", "no/such/test.txt", 1},
        {"stories_test", "--hold --data x", "--hold exclude each other", 2},
        {"stories_test", "--seeds 3", "--seeds needs --compare", 2},
        {"stories_test", "--compare --seeds 101", "--seeds: 101 is out of range: 1 to 100", 2},
        {"rainbow", "--write no/such", "no/such/answers.txt", 1},
        {"rainbow", "--write x --stories 3", "--stories", 2},
        {"ablation", "--select B", "--select needs --task", 2},
        {"ablation", "--task markers --select A", "'A' is none of none, delta, B, delta+B", 2},
        {"classic_tasks", "--copying --induction", "--copying and --induction exclude each other",
         2},
        {"classic_tasks", "--mamba2", "--mamba2 needs --copying or --induction", 2},
        {"classic_tasks", "--full", "--full needs --copying or --induction", 2},
        {"classic_tasks", "--seeds 5", "--seeds needs --copying or --induction", 2},
        {"classic_tasks", "--copying --seeds 0", "--seeds: 0 is out of range: 1 to 64", 2},
        {"classic_tasks", "--induction --svg /no/such/x.svg --steps 0", "--steps: 0", 2}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char program[64];
        snprintf(program, sizeof program, "ch05_%s", cases[i].program);
        assert_command_says(program, cases[i].words, cases[i].sentence, cases[i].exit);
    }
}

static void a_cue_is_held_as_far_as_training_asked_for(void **state)
{
    (void)state;
    skip_for_mutants();
    char text[1024];
    unsigned words, sentences = 0;
    double right;
    assert_int_equal(run_program_output(text, sizeof text, "ch05_stories_test", "--hold"), 0);
    for (char *rest = text, *line; (line = strsep(&rest, "\n")) != NULL;)
        if (sscanf(line, "%u %u %lf %%", &sentences, &words, &right) == 3) {
            assert_true(words > 10 * sentences && words < 20 * sentences + 20);
            assert_true(right >= (sentences <= WANDER_FAR ? 95.0 : 20.0));
        }
    assert_int_equal(sentences, 96);
}

static void a_text_may_begin_with_nothing(void **state)
{
    (void)state;
    skip_for_mutants();
    char text[1024];
    assert_int_equal(run_program(text, sizeof text, "ch05_language_model", "--prompt '' -n 3"), 0);
    assert_contains(text, "3 tokens");
}

/* Unless it is told how threads shall wait, a program begins twice: with the same words. */
static void a_program_that_begins_once_more_keeps_its_words(void **state)
{
    (void)state;
    skip_for_mutants();
    char told[1024], untold[1024];
    const char *words = "--prompt 'what is  a rainbow?' -n 5", *policy = getenv("OMP_WAIT_POLICY");
    char *kept = text_copy(policy == NULL ? "passive" : policy);
    setenv("OMP_WAIT_POLICY", "passive", 1);
    assert_int_equal(run_program_output(told, sizeof told, "ch05_language_model", words), 0);
    unsetenv("OMP_WAIT_POLICY");
    assert_int_equal(run_program_output(untold, sizeof untold, "ch05_language_model", words), 0);
    setenv("OMP_WAIT_POLICY", kept, 1);
    free(kept);
    assert_contains(told, "what is a rainbow?");
    assert_string_equal(untold, told);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_and_loss_agree_with_golden),
        cmocka_unit_test(weights_in_bf16_agree_with_golden),
        cmocka_unit_test(every_gradient_agrees_with_golden),
        cmocka_unit_test(greedy_tokens_agree_with_golden),
        cmocka_unit_test(falcon_mamba_agrees_with_golden),
        cmocka_unit_test(every_gradient_of_falcon_mamba_agrees_with_golden),
        cmocka_unit_test(ex5_7_five_steps_of_adamw_agree_with_golden),
        cmocka_unit_test(a_prompt_in_pieces_and_by_steps_gives_the_same_logits),
        cmocka_unit_test(an_untied_head_has_a_gradient_of_its_own),
        cmocka_unit_test(ex5_6_the_loss_neither_overflows_nor_cancels),
        cmocka_unit_test(a_logit_that_is_no_number_spoils_the_loss),
        cmocka_unit_test(ex5_6_the_loss_in_vectors_is_the_loss_as_defined),
        cmocka_unit_test(the_gradient_of_a_token_s_loss_is_its_slope),
        cmocka_unit_test(ex5_6_the_lesson_s_loss_by_hand),
        cmocka_unit_test(ex5_7_the_lesson_s_step_by_hand),
        cmocka_unit_test(the_rate_goes_up_and_comes_down),
        cmocka_unit_test(a_clipped_gradient_has_the_length_asked_for),
        cmocka_unit_test(a_text_is_cut_into_words_and_punctuation),
        cmocka_unit_test(words_have_numbers_and_unknown_ones_the_number_0),
        cmocka_unit_test(a_byte_is_its_own_number),
        cmocka_unit_test(a_folder_is_read_as_it_was_written),
        cmocka_unit_test(words_may_stand_in_any_order_in_their_file),
        cmocka_unit_test(wrong_tokenizers_are_named),
        cmocka_unit_test(a_tokenizer_cut_off_anywhere_is_refused),
        cmocka_unit_test(every_piece_of_bytes_has_the_next_byte_as_target),
        cmocka_unit_test(every_piece_of_words_begins_with_a_story),
        cmocka_unit_test(the_gradient_of_a_batch_is_that_of_its_groups_together),
        cmocka_unit_test(uneven_groups_give_the_same_bits_for_any_threads),
        cmocka_unit_test(a_training_step_asks_for_no_memory),
        cmocka_unit_test(a_run_that_is_resumed_is_the_run_that_never_stopped),
        cmocka_unit_test(a_checkpoint_of_another_run_is_refused_and_changes_nothing),
        cmocka_unit_test(the_average_of_the_weights_is_what_its_formula_says),
        cmocka_unit_test(every_step_goes_into_the_average),
        cmocka_unit_test(a_look_is_at_the_average_and_leaves_the_weights_alone),
        cmocka_unit_test(the_mean_loss_on_other_text_is_that_of_its_batches),
        cmocka_unit_test(a_loss_that_is_no_number_ends_a_run_and_spares_the_checkpoint),
        cmocka_unit_test(a_run_that_is_killed_goes_on_from_its_last_checkpoint),
        cmocka_unit_test(two_runs_with_one_checkpoint_are_told_of_each_other),
        cmocka_unit_test(a_checkpoint_that_cannot_be_written_is_told_at_once),
        cmocka_unit_test(a_model_of_which_a_number_is_none_is_refused),
        cmocka_unit_test(a_model_s_words_are_read_from_a_file_alone),
        cmocka_unit_test(a_run_ends_with_the_average_of_its_weights),
        cmocka_unit_test(what_is_fixed_is_the_same_for_every_token_and_nothing_else_is),
        cmocka_unit_test(what_is_not_fixed_is_as_in_the_selective_block),
        cmocka_unit_test(what_is_fixed_sends_nothing_back_to_u),
        cmocka_unit_test(gradients_are_slopes_whatever_is_fixed),
        cmocka_unit_test(a_selective_model_s_gradients_are_slopes),
        cmocka_unit_test(the_files_are_what_the_grammar_tells),
        cmocka_unit_test(an_answer_is_right_only_if_all_of_it_is),
        cmocka_unit_test(a_cue_stands_in_one_register_and_nowhere_else),
        cmocka_unit_test(every_word_of_a_story_has_a_number),
        cmocka_unit_test(a_batch_of_stories_asks_for_what_it_should),
        cmocka_unit_test(training_never_shows_what_the_tests_ask),
        cmocka_unit_test(which_question_comes_has_nothing_to_do_with_the_cue),
        cmocka_unit_test(the_trained_model_answers_as_the_latest_cue_asks),
        cmocka_unit_test(a_story_scored_in_a_batch_is_one_generated_word_by_word),
        cmocka_unit_test(ex5_8_what_is_kept_is_what_a_state_put_in_leaves),
        cmocka_unit_test(a_word_s_share_is_what_it_left_in_the_state),
        cmocka_unit_test(a_word_s_delta_is_the_mean_of_its_channels),
        cmocka_unit_test(asked_now_the_model_says_what_the_latest_cue_means),
        cmocka_unit_test(copying_asks_for_the_symbols_in_their_order),
        cmocka_unit_test(induction_asks_for_what_followed_the_marker),
        cmocka_unit_test(the_lesson_of_copying_goes_from_one_symbol_to_all),
        cmocka_unit_test(the_lesson_of_induction_asks_at_every_marker_but_the_first),
        cmocka_unit_test(right_answers_are_the_same_in_pieces_of_any_length),
        cmocka_unit_test(induction_is_learnt_by_the_selective_model_alone),
        cmocka_unit_test(a_median_of_seeds_leaves_them_in_order),
        cmocka_unit_test(a_text_is_learnt_and_the_losses_are_the_same_for_any_threads),
        cmocka_unit_test(weights_that_do_not_fit_are_named),
        cmocka_unit_test(a_folder_for_a_model_is_tried_without_a_trace),
        cmocka_unit_test(wrong_options_are_named),
        cmocka_unit_test(a_cue_is_held_as_far_as_training_asked_for),
        cmocka_unit_test(a_text_may_begin_with_nothing),
        cmocka_unit_test(a_program_that_begins_once_more_keeps_its_words),
    };
    return cmocka_run_group_tests_name("the language model", tests, NULL, NULL);
}
