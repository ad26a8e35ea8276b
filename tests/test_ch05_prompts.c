/* Many prompts at once: read together they leave what each leaves alone; the program. */

#include "../ch05_mamba_block/prompts.c"
#include "../ch05_mamba_block/measure_pretrained.c"
#include "golden.h"

#include "folders.h"

/* Prompts of all lengths, packed, against each alone; once more from where that has left them. */
static void check_prompts_together(MambaConfig config, size_t bits, double tolerance)
{
    enum { PROMPTS = 9, TOKENS = 600 };
    static const size_t len[PROMPTS] = {1, 5, 40, 2, 300, 90, 90, 71, 1};
    OwnFolder folder = own_folder(&config, TENSOR_F32, 3);
    Pretrained model = opened(folder.dir, bits);
    Runner run = runner_new(&model);
    Memory together[PROMPTS], alone;
    uint32_t ids[TOKENS];
    size_t start[PROMPTS + 1] = {0}, vocab = config.vocab_size;
    float *logits = NEW(float, PROMPTS *vocab);
    for (size_t i = 0; i < PROMPTS; i++) {
        together[i] = memory_new(&config);
        start[i + 1] = start[i] + len[i];
    }
    assert_int_equal(start[PROMPTS], TOKENS);
    for (uint32_t t = 0; t < TOKENS; t++)
        ids[t] = t * 7919 % (uint32_t)vocab;
    PromptBatch batch = {together, ids, {PROMPTS, start}};
    for (size_t turn = 1; turn <= 2; turn++) {
        runner_feed_batch(&run, &batch);
        for (size_t i = 0; i < PROMPTS; i++) {
            assert_int_equal(together[i].count, turn * len[i]);
            runner_logits(&run, &together[i]);
            memcpy(logits + i * vocab, run.logits, vocab * sizeof *logits);
        }
        for (size_t i = 0; i < PROMPTS; i++) {
            alone = memory_new(&config);
            for (size_t k = 0; k < turn; k++)
                runner_feed(&run, &alone, ids + start[i], len[i], true);
            assert_relmax(logits + i * vocab, run.logits, vocab, tolerance);
            memory_free(&alone);
        }
    }
    for (size_t i = 0; i < PROMPTS; i++)
        memory_free(&together[i]);
    free(logits);
    runner_free(&run);
    pretrained_close(&model);
    own_folder_free(&folder);
}

static void prompts_read_together_leave_what_each_leaves_alone(void **state)
{
    (void)state;
    MambaConfig falcon = odd_config();
    falcon.kind = MODEL_FALCON_MAMBA;
    check_prompts_together(odd_config(), 0, 1e-5);
    check_prompts_together(odd_config(), 8, 0.05); /* steps round u to 8 bits, and prompts do not */
    check_prompts_together(falcon, 0, 1e-5);
    check_prompts_together(heads_config(), 0, 1e-5);
}

/* Bit for bit, where both go through the layers by chunks. */
static void a_chunk_of_prompts_has_the_bits_of_each_one_s_chunk(void **state)
{
    (void)state;
    enum { PROMPTS = 3, TOKENS = 30 };
    Pretrained model = opened("data/tiny-mamba", 0);
    Runner run = runner_new(&model);
    const MambaConfig *config = &model.config;
    size_t start[PROMPTS + 1] = {0, 9, 16, TOKENS}, floats = config->num_hidden_layers;
    Memory together[PROMPTS], alone;
    uint32_t ids[TOKENS];
    for (uint32_t t = 0; t < TOKENS; t++)
        ids[t] = 7 * t % (uint32_t)config->vocab_size;
    for (size_t i = 0; i < PROMPTS; i++)
        together[i] = memory_new(config);
    PromptBatch batch = {together, ids, {PROMPTS, start}};
    runner_packed(&run, &batch);
    for (size_t i = 0; i < PROMPTS; i++) {
        alone = memory_new(config);
        runner_chunk(&run, &alone, ids + start[i], start[i + 1] - start[i], 0);
        assert_memory_equal(together[i].final, alone.final, config->hidden_size * sizeof(float));
        assert_memory_equal(together[i].conv, alone.conv,
                            floats * conv_floats(config) * sizeof(float));
        assert_memory_equal(together[i].x, alone.x, floats * x_floats(config) * sizeof(float));
        memory_free(&alone), memory_free(&together[i]);
    }
    runner_free(&run);
    pretrained_close(&model);
}

static void a_line_that_is_empty_is_no_prompt(void **state)
{
    (void)state;
    Pretrained model = opened("data/tiny-mamba", 0);
    Ids ids = {NULL, 0, 0, 0};
    Packed at = {0, NULL};
    Error error;
    char name[] = "/tmp/test_prompts_XXXXXX";
    FILE *file = fdopen(mkstemp(name), "w");
    fputs("\na harp\n\nwhat is a rainbow?", file);
    fclose(file);
    assert_true(prompts_read(&ids, &at, &model.folder.tokenizer, name, &error));
    assert_int_equal(at.count, 2);
    assert_int_equal(at.start[1], 2);
    assert_int_equal(at.start[2], 7);
    assert_int_equal(ids.count, 7);
    remove(name);
    free(at.start), ids_free(&ids);
    pretrained_close(&model);
}

/* The ids of a file of prompts; NULL with an error. */
static uint32_t *ids_of_file(const Pretrained *model, const char *bytes, size_t len, Error *error)
{
    char name[] = "/tmp/test_prompts_XXXXXX";
    Ids ids = {NULL, 0, 0, 0};
    Packed at = {0, NULL};
    FILE *file = fdopen(mkstemp(name), "w");
    assert_int_equal(fwrite(bytes, 1, len, file), len);
    fclose(file);
    bool ok = prompts_read(&ids, &at, &model->folder.tokenizer, name, error);
    remove(name);
    free(at.start);
    if (ok)
        return ids.id;
    ids_free(&ids);
    return NULL;
}

static void a_file_of_prompts_is_read_like_any_text(void **state)
{
    (void)state;
    static const char plain[] = "a harp\nthe rain\n", made[] = "\xEF\xBB\xBF"
                                                               "a harp\r\nthe rain\r";
    static const char utf16[] = "\xFF\xFE"
                                "a\0",
                      latin[] = "a caf\xE9\n";
    Error error;
    Pretrained model = opened("data/tiny-mamba", 0);
    uint32_t *want = ids_of_file(&model, plain, sizeof plain - 1, &error);
    uint32_t *got = ids_of_file(&model, made, sizeof made - 1, &error);
    assert_non_null(want);
    assert_non_null(got);
    assert_memory_equal(got, want, 4 * sizeof *want);
    free(want), free(got);
    assert_null(ids_of_file(&model, utf16, sizeof utf16 - 1, &error));
    assert_contains(error.text, "this is UTF-16");
    assert_null(ids_of_file(&model, latin, sizeof latin - 1, &error));
    assert_contains(error.text, ":1: byte 6 of the file (0xe9) is not UTF-8");
    pretrained_close(&model);
}

/* Runs the program in a process of its own; returns its exit status, and what it printed. */
static int prompts_said(char text[4096], const char *words)
{
    return run_and_read(text, 4096, "ch05_prompts", words, "2>&1");
}

static void the_program_says_what_is_wrong(void **state)
{
    (void)state;
    char text[4096];
    assert_int_equal(prompts_said(text, "-n 3"), 0);
    assert_contains(text, "3 prompts, 55 tokens");
    assert_contains(text, "what is a rainbow ? in irish folklore\n");
    assert_int_equal(prompts_said(text, "/nowhere/x"), 1);
    assert_contains(text, "/nowhere/x: No such file");
    assert_int_equal(prompts_said(text, "/dev/null"), 1);
    assert_contains(text, "there is no prompt in it");
    assert_int_equal(prompts_said(text, "data/prompts.txt --model tests/golden/ch05_lm"), 1);
    assert_contains(text, "there is no tokenizer.json for prompts of words");
    assert_int_equal(prompts_said(text, "a b"), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_read_together_leave_what_each_leaves_alone),
        cmocka_unit_test(a_chunk_of_prompts_has_the_bits_of_each_one_s_chunk),
        cmocka_unit_test(a_line_that_is_empty_is_no_prompt),
        cmocka_unit_test(a_file_of_prompts_is_read_like_any_text),
        cmocka_unit_test(the_program_says_what_is_wrong),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
