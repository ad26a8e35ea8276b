/* The folder of a pretrained model, as people have it: what must run, and run as it is meant, and
   what must be refused with a sentence. What Transformers makes of the same: tests/peers.py. */

#include "../ch05_mamba_block/measure_pretrained.c"
#include "golden.h"

#include "folders.h"

/* A config.json up to the number of its layers. */
#define SMALL "{\"hidden_size\": 16, \"vocab_size\": 256, \"num_hidden_layers\": "

static void text_write(const char *dir, const char *name, const char *text)
{
    file_write(dir, name, text, strlen(text));
}

static void open_refused(const char *dir, const char *says)
{
    Pretrained model;
    Error error;
    if (pretrained_open(&model, dir, NULL, 0, &error)) {
        pretrained_close(&model);
        fail_msg("expected: %s", says);
    }
    assert_contains(error.text, says);
}

static void move(const char *dir, const char *from, const char *to)
{
    char *a = path_in(dir, from), *b = path_in(dir, to);
    assert_int_equal(rename(a, b), 0);
    free(a), free(b);
}

/* ---- weights written anew ---- */

/* What becomes of a tensor of model.safetensors; false: it is left out. `name` has room for 128. */
typedef bool (*TensorChange)(Tensor *tensor, char *name);

/* Writes the tensors again, each as `change` has it, into as many files, with an index if there are
   two or more; and those of `more` (NULL: none) behind them. */
static void weights_change(const char *dir, TensorChange change, size_t files, const Tensor *more)
{
    char *path = path_in(dir, "model.safetensors"), names[256][128];
    SafetensorsWriter *writer = NEW(SafetensorsWriter, files);
    Safetensors file;
    Error error;
    Text index = {NULL, 0, 0};
    static const char head[] = "{\"metadata\":{\"total_size\":1},\"weight_map\":{";
    golden_open(&file, path);
    assert_true(file.n_tensor < 256);
    text_append(&index, head, strlen(head));
    for (size_t i = 0; i < files; i++)
        safetensors_writer_init(&writer[i]);
    for (size_t i = 0; i < file.n_tensor + (more != NULL); i++) {
        Tensor tensor = i < file.n_tensor ? file.tensor[i] : *more;
        char entry[256];
        snprintf(names[i], sizeof names[i], "%s", tensor.name);
        if (i < file.n_tensor && change != NULL && !change(&tensor, names[i]))
            continue;
        safetensors_add(&writer[i % files], names[i], tensor.type, tensor.data, tensor.rank,
                        tensor.shape);
        int len = snprintf(entry, sizeof entry, "%s\"%s\":\"part%zu.safetensors\"",
                           index.len > strlen(head) ? "," : "", names[i], i % files);
        text_append(&index, entry, (size_t)len);
    }
    text_append(&index, "}}", 2);
    for (size_t i = 0; i < files; i++) {
        char part[32];
        snprintf(part, sizeof part, files > 1 ? "part%zu.safetensors" : "new", i);
        char *to = path_in(dir, part);
        if (!safetensors_write(&writer[i], to, &error))
            fail_msg("%s", error.text);
        safetensors_writer_free(&writer[i]);
        free(to);
    }
    safetensors_close(&file);
    if (files > 1) {
        assert_int_equal(unlink(path), 0);
        file_write(dir, "model.safetensors.index.json", index.bytes, index.len);
    } else {
        char *from = path_in(dir, "new");
        assert_int_equal(rename(from, path), 0);
        free(from);
    }
    free(writer), free(path), text_free(&index);
}

/* The logits of a folder are these, to the last bit; and what it has to say besides. */
static void logits_are(const char *dir, const float *want, const char *notes)
{
    Pretrained model = opened(dir, 0);
    float *got = few_logits(&model);
    assert_memory_equal(got, want, 5 * model.config.vocab_size * sizeof *got);
    if (*notes == '\0')
        assert_int_equal(model.folder.notes.len, 0);
    else
        assert_contains(model.folder.notes.bytes, notes);
    free(got);
    pretrained_close(&model);
}

static float *logits_of(const char *dir)
{
    Pretrained model = opened(dir, 0);
    float *logits = few_logits(&model);
    pretrained_close(&model);
    return logits;
}

/* ---- folders as people have them ---- */

static bool without_prefix(Tensor *tensor, char *name)
{
    (void)tensor;
    memmove(name, name + strlen("backbone."), strlen(name) + 1 - strlen("backbone."));
    return true;
}

static void a_base_model_has_no_prefix(void **state)
{
    MambaConfig config = config_default(16);
    OwnFolder folder = own_folder(&config, TENSOR_F32, 3);
    float *want = logits_of(folder.dir);
    (void)state;
    weights_change(folder.dir, without_prefix, 1, NULL);
    logits_are(folder.dir, want, "");
    free(want);
    own_folder_free(&folder);
}

/* Numbers that F32 has all of, in F64. */
static bool in_f64(Tensor *tensor, char *name)
{
    static double numbers[1 << 16];
    static size_t used;
    assert_true(used + tensor->count <= TABLE_SIZE(numbers));
    tensor_to_double(numbers + used, tensor);
    (void)name;
    tensor->type = TENSOR_F64;
    tensor->data = (const unsigned char *)(numbers + used);
    used += tensor->count;
    return true;
}

static void weights_in_f64_run_in_f32(void **state)
{
    MambaConfig config = config_default(16), heads = config_default_heads(16, 8, 5);
    (void)state;
    config.tie_word_embeddings = false;
    for (int i = 0; i < 2; i++) {
        OwnFolder folder = own_folder(i == 0 ? &config : &heads, TENSOR_F32, 3);
        float *want = logits_of(folder.dir);
        weights_change(folder.dir, in_f64, 1, NULL);
        logits_are(folder.dir, want, "");
        free(want);
        own_folder_free(&folder);
    }
}

/* A head beside the embeddings that config.json ties it to: the same once more, or another. */
static void a_head_of_its_own_wins_over_the_tie(void **state)
{
    MambaConfig config = config_default(16);
    OwnFolder folder = own_folder(&config, TENSOR_F32, 3);
    float *want = logits_of(folder.dir), *head = NEW(float, 256 * 16), *own = NEW(float, 5 * 256);
    char *path = path_in(folder.dir, "model.safetensors");
    Safetensors file;
    (void)state;
    golden_open(&file, path);
    Tensor copy = *safetensors_find(&file, "backbone.embeddings.weight");
    memcpy(head, copy.data, copy.bytes);
    safetensors_close(&file);
    copy.name = "lm_head.weight";
    copy.data = (const unsigned char *)head;
    weights_change(folder.dir, NULL, 1, &copy);
    logits_are(folder.dir, want, "");
    for (size_t t = 0; t < 5; t++)
        for (size_t v = 0; v < 256; v++)
            own[t * 256 + v] = -2.0f * want[t * 256 + v]; /* exact */
    for (size_t i = 0; i < 256 * 16; i++)
        head[i] *= -2.0f;
    move(folder.dir, "model.safetensors", "other");
    OwnFolder again = own_folder(&config, TENSOR_F32, 3);
    weights_change(again.dir, NULL, 1, &copy);
    logits_are(again.dir, own,
               "lm_head.weight is not the embeddings, to which config.json ties it");
    free(want), free(head), free(own), free(path);
    own_folder_free(&folder), own_folder_free(&again);
}

static void what_is_not_used_is_noted(void **state)
{
    MambaConfig config = config_default(16);
    (void)state;
    config.num_hidden_layers = 2;
    OwnFolder folder = own_folder(&config, TENSOR_F32, 3);
    text_write(folder.dir, "config.json", SMALL "1}");
    Pretrained model = opened(folder.dir, 0);
    assert_contains(model.folder.notes.bytes,
                    "note: 10 of the 22 tensors in the files are not used");
    pretrained_close(&model);
    own_folder_free(&folder);
}

/* The names of state-spaces. */
static bool original_name(Tensor *tensor, char *name)
{
    (void)tensor;
    if (strcmp(name, "backbone.embeddings.weight") == 0)
        strcpy(name, "backbone.embedding.weight");
    return true;
}

static void what_config_json_says_in_vain_is_noted(void **state)
{
    static const struct {
        const char *json, *says; /* NULL: nothing */
    } cases[] = {{"\"rescale_prenorm_residual\":true", "rescale_prenorm_residual is for the first"},
                 {"\"rescale_prenorm_residual\":false", NULL},
                 {"\"quantization_config\":{\"load_in_8bit\":true}",
                  "quantization_config is left out: the weights are run as they lie"},
                 {"\"quantization_config\":null", NULL}};
    MambaConfig config = config_default(16);
    OwnFolder folder = own_folder(&config, TENSOR_F32, 3);
    char *path = path_in(folder.dir, "config.json"), *text;
    size_t len;
    Error error;
    (void)state;
    assert_true(text_read(&text, &len, path, &error));
    for (size_t i = 0; i < TABLE_SIZE(cases); i++) {
        char more[8192];
        snprintf(more, sizeof more, "{%s,%s", cases[i].json, strchr(text, '{') + 1);
        text_write(folder.dir, "config.json", more);
        Pretrained model = opened(folder.dir, 0);
        if (cases[i].says == NULL)
            assert_int_equal(model.folder.notes.len, 0);
        else
            assert_contains(model.folder.notes.bytes, cases[i].says);
        pretrained_close(&model);
    }
    free(path), free(text);
    own_folder_free(&folder);
}

static void silu_is_called_swish_too(void **state)
{
    MambaConfig config = config_default(16);
    OwnFolder folder = own_folder(&config, TENSOR_F32, 3);
    float *want = logits_of(folder.dir);
    (void)state;
    text_write(folder.dir, "config.json", SMALL "1, \"hidden_act\": \"swish\"}");
    logits_are(folder.dir, want, "");
    text_write(folder.dir, "config.json", SMALL "1, \"hidden_act\": \"gelu\"}");
    open_refused(folder.dir, "hidden_act is \"gelu\"; only \"silu\" is known here");
    free(want);
    own_folder_free(&folder);
}

/* What goes before and after a text goes round a file as well, once. */
static void tokens_round_a_text_count_in_its_perplexity(void **state)
{
    static const char tokenizer[] =
        "{\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"d\":3}},"
        "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},\"post_processor\":{"
        "\"type\":"
        "\"BertProcessing\",\"cls\":[\"c\",2],\"sep\":[\"d\",3]}}";
    MambaConfig config = config_default(16);
    OwnFolder folder = own_folder(&config, TENSOR_F32, 3);
    const uint32_t ids[4] = {2, 0, 1, 3};
    Surprise surprise;
    Error error;
    size_t bytes;
    double sum = 0.0;
    (void)state;
    text_write(folder.dir, "tokenizer.json", tokenizer);
    text_write(folder.dir, "text", "ab");
    Pretrained model = opened(folder.dir, 0);
    Runner run = runner_new(&model);
    Memory memory = memory_new(&config);
    char *path = path_in(folder.dir, "text");
    if (!runner_perplexity(&surprise, &bytes, &run, path, &error))
        fail_msg("%s", error.text);
    for (size_t t = 0; t < 3; t++) {
        runner_step(&run, &memory, ids[t], true);
        sum += token_loss(run.logits, 256, ids[t + 1]);
    }
    assert_int_equal(bytes, 2);
    assert_int_equal(surprise.count, 3);
    assert_near(surprise.sum, sum, 0, 1e-5);
    free(path);
    runner_free(&run), memory_free(&memory);
    pretrained_close(&model);
    own_folder_free(&folder);
}

/* A folder in three files, or under the names of state-spaces, is the same Mamba-2. */
static void mamba_2_in_shards_and_in_the_original_layout_runs(void **state)
{
    static const char original[] =
        "{\"d_model\": 33, \"d_intermediate\": 0, \"n_layer\": 2, \"vocab_size\": 600, "
        "\"ssm_cfg\": "
        "{\"layer\": \"Mamba2\", \"d_state\": 5, \"d_conv\": 3, \"headdim\": 11, \"ngroups\": 2, "
        "\"bias\": true, \"dt_limit\": [0.005, 0.05]}, \"attn_layer_idx\": [], \"attn_cfg\": {}, "
        "\"rms_norm\": true, \"residual_in_fp32\": true, \"fused_add_norm\": true, "
        "\"pad_vocab_size_multiple\": 1, \"tie_embeddings\": false}";
    MambaConfig config = heads_config();
    OwnFolder folder = own_folder(&config, TENSOR_BF16, 5);
    float *want = logits_of(folder.dir);
    (void)state;
    weights_change(folder.dir, original_name, 1, NULL);
    move(folder.dir, "config.json", "was");
    text_write(folder.dir, "config.json", original);
    logits_are(folder.dir, want, "time_step_limit holds for every token here");
    weights_change(folder.dir, NULL, 3, NULL);
    logits_are(folder.dir, want, "time_step_limit");
    free(want);
    own_folder_free(&folder);
}

/* ---- how it is meant to write ---- */

static Generation parsed(const char *text)
{
    Generation generation;
    Error error;
    if (!generation_parse(&generation, text, strlen(text), "g.json", &error))
        fail_msg("%s", error.text);
    return generation;
}

static void a_draw_is(Sampling got, double temperature, size_t top_k, double top_p, double penalty)
{
    assert_near(got.temperature, temperature, 0, 1e-12);
    assert_int_equal(got.top_k, top_k);
    assert_near(got.top_p, top_p, 0, 1e-12);
    assert_near(got.repetition_penalty, penalty, 0, 1e-12);
}

/* As Transformers takes it: without do_sample no temperature and no cut, but the penalty; with it
   the 50 likeliest, unless another number is given, 0 for all. */
static void generation_json_says_how_to_draw(void **state)
{
    (void)state;
    a_draw_is(parsed("{}").usual, 0, 0, 1, 1);
    a_draw_is(parsed("{\"temperature\": 0.7, \"top_k\": 5, \"top_p\": 0.9}").usual, 0, 0, 1, 1);
    a_draw_is(parsed("{\"do_sample\": false, \"repetition_penalty\": 1.3}").usual, 0, 0, 1, 1.3);
    a_draw_is(parsed("{\"do_sample\": true}").usual, 1, 50, 1, 1);
    a_draw_is(
        parsed("{\"temperature\": 0.7, \"do_sample\": true, \"top_k\": 5, \"top_p\": 0.9}").usual,
        0.7, 5, 0.9, 1);
    a_draw_is(parsed("{\"do_sample\": true, \"top_k\": 0, \"top_p\": null}").usual, 1, 0, 1, 1);
    a_draw_is(parsed("{\"do_sample\": true, \"top_k\": null, \"temperature\": null}").usual, 1, 50,
              1, 1);
}

static void generation_json_names_the_ids_that_end_a_text(void **state)
{
    (void)state;
    assert_int_equal(parsed("{}").n_stop, 0);
    assert_int_equal(parsed("{}").begin, UINT32_MAX);
    Generation one = parsed("{\"eos_token_id\": 7, \"bos_token_id\": 3, \"x\": [Infinity, NaN]}");
    assert_int_equal(one.n_stop, 1);
    assert_int_equal(one.stop[0], 7);
    assert_int_equal(one.begin, 3);
    Generation two = parsed("{\"eos_token_id\": [7, 0], \"bos_token_id\": null}");
    assert_int_equal(two.n_stop, 2);
    assert_int_equal(two.stop[1], 0);
    assert_int_equal(two.begin, UINT32_MAX);
    assert_int_equal(parsed("{\"eos_token_id\": null}").n_stop, 0);
    assert_int_equal(parsed("{\"eos_token_id\": -1}").n_stop, 0); /* none, as some say it */
}

static void settings_that_are_not_known_are_named(void **state)
{
    (void)state;
    assert_null(
        parsed("{\"num_beams\": 1, \"typical_p\": 1.0, \"min_p\": null, \"bad_words_ids\": [], "
               "\"no_repeat_ngram_size\": 0, \"forced_eos_token_id\": null, \"max_length\": 9}")
            .unknown);
    assert_string_equal(parsed("{\"num_beams\": 4}").unknown, "num_beams");
    assert_string_equal(parsed("{\"no_repeat_ngram_size\": 3}").unknown, "no_repeat_ngram_size");
    assert_string_equal(parsed("{\"suppress_tokens\": [1]}").unknown, "suppress_tokens");
    assert_string_equal(parsed("{\"forced_bos_token_id\": 0}").unknown, "forced_bos_token_id");
    assert_string_equal(parsed("{\"stop_strings\": \"x\"}").unknown, "stop_strings");
    assert_string_equal(parsed("{\"watermarking_config\": {\"bias\": 2.5}}").unknown,
                        "watermarking_config");
}

static void generation_json_is_checked(void **state)
{
    const struct {
        const char *json, *says;
    } cases[] = {{"[", "expected an object"},
                 {"{\"eos_token_id\": 1.5}", "eos_token_id: 1.5 is no id"},
                 {"{\"eos_token_id\": [\"a\"]}", "expected a number"},
                 {"{\"bos_token_id\": 16777216}", "bos_token_id: 1.67772e+07 is no id"},
                 {"{\"top_p\": 1.5}", "top_p: 1.5 is not from 0 to 1"},
                 {"{\"temperature\": -1}", "temperature: -1 is not from 0"},
                 {"{\"repetition_penalty\": 0}", "repetition_penalty: 0 is not from 0.01"},
                 {"{\"top_k\": -3}", "top_k: -3 is not from 0"}};
    Text many = {NULL, 0, 0};
    (void)state;
    for (size_t i = 0; i < TABLE_SIZE(cases); i++) {
        Generation generation;
        Error error;
        assert_false(
            generation_parse(&generation, cases[i].json, strlen(cases[i].json), "g.json", &error));
        assert_contains(error.text, cases[i].says);
        assert_contains(error.text, "g.json: ");
    }
    text_append(&many, "{\"eos_token_id\":[0", 18);
    for (size_t i = 0; i < STOP_MOST; i++)
        text_append(&many, ",1", 2);
    text_append(&many, "]}", 2);
    Generation generation;
    Error error;
    assert_false(generation_parse(&generation, many.bytes, many.len, "g.json", &error));
    assert_contains(error.text, "more than 32 eos_token_id");
    text_free(&many);
}

/* It goes before config.json, and as a whole. */
static void generation_json_goes_before_config_json(void **state)
{
    MambaConfig config = config_default(16);
    OwnFolder folder = own_folder(&config, TENSOR_F32, 3);
    (void)state;
    text_write(folder.dir, "config.json",
               SMALL
               "1, \"eos_token_id\": 3, \"bos_token_id\": 2, \"do_sample\": true, \"top_k\": 7}");
    Pretrained model = opened(folder.dir, 0);
    assert_int_equal(model.folder.generation.stop[0], 3);
    assert_int_equal(model.folder.generation.usual.top_k, 7);
    pretrained_close(&model);
    text_write(folder.dir, "generation_config.json",
               "{\"eos_token_id\": [4, 5], \"num_beams\": 2}");
    model = opened(folder.dir, 0);
    assert_int_equal(model.folder.generation.n_stop, 2);
    assert_int_equal(model.folder.generation.begin, UINT32_MAX);
    a_draw_is(model.folder.generation.usual, 0, 0, 1, 1);
    assert_contains(model.folder.notes.bytes,
                    "generation_config.json: num_beams is set, which is not");
    pretrained_close(&model);
    text_write(folder.dir, "generation_config.json", "{}");
    model = opened(folder.dir, 0);
    assert_int_equal(model.folder.generation.n_stop, 0);
    pretrained_close(&model);
    text_write(folder.dir, "generation_config.json", "nothing");
    open_refused(folder.dir, "generation_config.json: expected an object");
    own_folder_free(&folder);
}

static void options_win_over_the_folder(void **state)
{
    PretrainedOptions none, some;
    (void)state;
    memset(&none, 0, sizeof none);
    none.top_k = NOT_GIVEN;
    none.temperature = none.top_p = none.penalty = NAN;
    Generation greedy = parsed("{\"repetition_penalty\": 1.3}");
    Generation draws = parsed("{\"do_sample\": true, \"temperature\": 0.7, \"top_p\": 0.9}");
    a_draw_is(chosen_sampling(&none, &greedy), 0, 0, 1, 1.3);
    a_draw_is(chosen_sampling(&none, &draws), 0.7, 50, 0.9, 1);
    some = none;
    some.temperature = 0.0;
    a_draw_is(chosen_sampling(&some, &draws), 0, 50, 0.9, 1);
    some.temperature = 2.0;
    some.top_k = 0;
    some.top_p = 1.0;
    some.penalty = 1.0;
    a_draw_is(chosen_sampling(&some, &draws), 2, 0, 1, 1);
    a_draw_is(chosen_sampling(&some, &greedy), 2, 0, 1, 1);
    some = none;
    some.top_k = 0; /* no cut: as the folder says */
    a_draw_is(chosen_sampling(&some, &greedy), 0, 0, 1, 1.3);
    a_draw_is(chosen_sampling(&some, &draws), 0.7, 0, 0.9, 1);
    some.top_k = 5; /* a cut means to draw */
    a_draw_is(chosen_sampling(&some, &greedy), 1, 5, 1, 1.3);
    a_draw_is(chosen_sampling(&some, &draws), 0.7, 5, 0.9, 1);
    some = none;
    some.top_p = 0.5;
    a_draw_is(chosen_sampling(&some, &greedy), 1, 0, 0.5, 1.3);
}

/* The ids of an answer by the program, with these words besides. */
static void answer_is(const char *dir, const char *more, const char *want)
{
    char text[4096], words[512];
    snprintf(words, sizeof words, "%s --ids 1,2,3 -n 6 %s", dir, more);
    assert_int_equal(run_program_output(text, sizeof text, "ch05_pretrained", words), 0);
    text[strcspn(text, "\n")] = '\0';
    assert_string_equal(text, want);
}

/* The golden folder writes 31,23,34,41,55,41: see the lesson. */
static void the_program_goes_by_generation_json(void **state)
{
    char dir[] = "/tmp/test_pretrained_XXXXXX", command[512];
    (void)state;
    assert_non_null(mkdtemp(dir));
    char *from = golden_path("falcon_mamba_untied"), all[128] = "", more[128], text[512];
    snprintf(command, sizeof command, "cp %s/*.json %s/*.safetensors %s", from, from, dir);
    assert_int_equal(system(command), 0);
    snprintf(command, sizeof command, "%s --ids 1,2,3 -n 6 --past-end", from);
    assert_int_equal(run_program_output(all, sizeof all, "ch05_pretrained", command), 0);
    all[strcspn(all, "\n")] = '\0';
    char *second = strchr(all, ',');
    assert_non_null(second);
    snprintf(more, sizeof more, "{\"eos_token_id\": [%d]}", atoi(second + 1));
    text_write(dir, "generation_config.json", more);
    answer_is(dir, "--past-end", all);
    *second = '\0';
    answer_is(dir, "", all);
    text_write(dir, "generation_config.json", "{\"do_sample\": true}");
    snprintf(command, sizeof command, "%s --ids 1,2,3 -n 6 --temperature 0 --seed 3", dir);
    assert_int_equal(run_program(text, sizeof text, "ch05_pretrained", command), 1);
    assert_contains(text, "--seed does nothing at temperature 0");
    snprintf(command, sizeof command, "rm -rf %s", dir);
    assert_int_equal(system(command), 0);
    free(from);
}

/* ---- files that are none, or another's ---- */

/* None of them is waited for; the tests would never end. */
static void only_regular_files_are_read(void **state)
{
    static const char *const names[] = {"config.json", "generation_config.json", "tokenizer.json",
                                        "model.safetensors"};
    MambaConfig config = config_default(16);
    OwnFolder folder = own_folder(&config, TENSOR_F32, 3);
    (void)state;
    for (size_t i = 0; i < TABLE_SIZE(names); i++) {
        char *path = path_in(folder.dir, names[i]), *kept = path_in(folder.dir, "kept");
        rename(path, kept);
        assert_int_equal(mkfifo(path, 0600), 0);
        open_refused(folder.dir, "this is not a regular file");
        assert_int_equal(unlink(path), 0);
        assert_int_equal(mkdir(path, 0700), 0);
        open_refused(folder.dir, "this is a directory, not a file");
        assert_int_equal(rmdir(path), 0);
        rename(kept, path);
        free(path), free(kept);
    }
    move(folder.dir, "model.safetensors", "part");
    char *index = path_in(folder.dir, "model.safetensors.index.json");
    assert_int_equal(mkfifo(index, 0600), 0);
    open_refused(folder.dir, "index.json: this is not a regular file");
    assert_int_equal(unlink(index), 0);
    char *pipe = path_in(folder.dir, "pipe");
    assert_int_equal(mkfifo(pipe, 0600), 0);
    text_write(folder.dir, "model.safetensors.index.json", "{\"weight_map\":{\"a\":\"pipe\"}}");
    open_refused(folder.dir, "pipe: this is not a regular file");
    free(index), free(pipe);
    own_folder_free(&folder);
}

/* tokenizer.json is often a large file, for which a clone has a pointer; the others come from a
   browser or an editor. */
static void what_stands_in_place_of_json_is_named(void **state)
{
    static const char *const names[] = {"config.json", "generation_config.json", "tokenizer.json"};
    static const struct {
        const char *bytes, *says;
    } cases[] = {{"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
                  "this is a pointer of Git LFS, not the file itself: git lfs pull fetches it"},
                 {"\n <!DOCTYPE html><html>", "this is a web page"},
                 {"\xEF\xBB\xBF<HTML>", "this is a web page"},
                 {"<?xml version=\"1.0\"?><Error>", "this is what a server says instead"},
                 {"\x1f\x8b\x08", "this is packed by gzip"},
                 {"\xFF\xFE{", "this is UTF-16"},
                 {"\xEF\xBB\xBF{}", "this is a text with a byte order mark"}};
    MambaConfig config = config_default(16);
    OwnFolder folder = own_folder(&config, TENSOR_F32, 3);
    (void)state;
    for (size_t i = 0; i < TABLE_SIZE(names); i++)
        for (size_t k = 0; k < TABLE_SIZE(cases); k++) {
            char *path = path_in(folder.dir, names[i]), *kept = path_in(folder.dir, "kept");
            rename(path, kept);
            text_write(folder.dir, names[i], cases[k].bytes);
            open_refused(folder.dir, names[i]);
            open_refused(folder.dir, cases[k].says);
            assert_int_equal(unlink(path), 0);
            rename(kept, path);
            free(path), free(kept);
        }
    own_folder_free(&folder);
}

static void link_to(const char *to, const char *dir, const char *name)
{
    char *path = path_in(dir, name);
    unlink(path);
    assert_int_equal(symlink(to, path), 0);
    free(path);
}

/* A link to a file beside it may be; one that leads out of the folder may not, whoever names it. */
static void links_stay_in_the_folder(void **state)
{
    MambaConfig config = config_default(16);
    OwnFolder folder = own_folder(&config, TENSOR_F32, 3),
              other = own_folder(&config, TENSOR_F32, 3);
    static const char *const names[] = {"config.json", "model.safetensors", "tokenizer.json",
                                        "generation_config.json"};
    float *want = logits_of(folder.dir);
    char *away;
    (void)state;
    text_write(other.dir, "tokenizer.json", "{}");
    text_write(other.dir, "generation_config.json", "{}");
    for (size_t i = 0; i < TABLE_SIZE(names); i++) {
        char *path = path_in(folder.dir, names[i]);
        move(folder.dir, i < 2 ? names[i] : "config.json", "kept");
        away = path_in(other.dir, names[i]);
        link_to(away, folder.dir, names[i]);
        if (i >= 2)
            link_to("kept", folder.dir, "config.json");
        open_refused(folder.dir, "this is a link that leads out of the folder");
        assert_int_equal(unlink(path), 0);
        if (i < 2) {
            link_to("kept", folder.dir, names[i]);
            logits_are(folder.dir, want, "");
        }
        move(folder.dir, "kept", i < 2 ? names[i] : "config.json");
        free(path), free(away);
    }
    move(folder.dir, "model.safetensors", "kept");
    away = path_in(other.dir, "model.safetensors");
    link_to(away, folder.dir, "part");
    text_write(folder.dir, "model.safetensors.index.json", "{\"weight_map\":{\"a\":\"part\"}}");
    open_refused(folder.dir, "part: this is a link that leads out of the folder");
    free(want), free(away);
    own_folder_free(&folder), own_folder_free(&other);
}

/* As in a cache whose download was cut off. The file is missed, and not taken for one that nobody
   meant to have. */
static void a_link_that_leads_nowhere_is_named(void **state)
{
    static const char *const names[] = {"config.json", "generation_config.json", "tokenizer.json",
                                        "model.safetensors", "model.safetensors.index.json"};
    MambaConfig config = config_default(16);
    OwnFolder folder = own_folder(&config, TENSOR_F32, 3);
    (void)state;
    for (size_t i = 0; i < TABLE_SIZE(names); i++) {
        char *path = path_in(folder.dir, names[i]), *kept = path_in(folder.dir, "kept");
        if (i == 4)
            move(folder.dir, "model.safetensors", "away");
        rename(path, kept);
        link_to("blobs/gone", folder.dir, names[i]);
        open_refused(folder.dir, names[i]);
        open_refused(folder.dir, "this is a link that leads nowhere");
        link_to(names[i], folder.dir, names[i]); /* round and round */
        open_refused(folder.dir, "this is a link that leads nowhere");
        assert_int_equal(unlink(path), 0);
        rename(kept, path);
        free(path), free(kept);
    }
    own_folder_free(&folder);
}

/* models--owner--name/snapshots/REVISION/model.safetensors leads to ../../blobs/HASH. */
static void hugging_faces_cache_is_a_folder_of_links(void **state)
{
    MambaConfig config = config_default(16);
    OwnFolder folder = own_folder(&config, TENSOR_F32, 3);
    float *want = logits_of(folder.dir);
    char *snapshots = path_in(folder.dir, "snapshots"), *blobs = path_in(folder.dir, "blobs");
    char *revision = path_in(snapshots, "abc123");
    (void)state;
    assert_int_equal(mkdir(snapshots, 0700), 0);
    assert_int_equal(mkdir(revision, 0700), 0);
    assert_int_equal(mkdir(blobs, 0700), 0);
    move(folder.dir, "config.json", "blobs/1f2e");
    move(folder.dir, "model.safetensors", "blobs/77aa");
    link_to("../../blobs/1f2e", revision, "config.json");
    link_to("../../blobs/77aa", revision, "model.safetensors");
    logits_are(revision, want, "");
    move(folder.dir, "snapshots", "shots"); /* blobs alone are no cache */
    char *elsewhere = path_in(folder.dir, "shots/abc123");
    open_refused(elsewhere, "config.json: this is a link that leads out of the folder");
    free(want), free(snapshots), free(blobs), free(revision), free(elsewhere);
    own_folder_free(&folder);
}

static void a_name_on_the_hub_is_no_folder(void **state)
{
    (void)state;
    open_refused(
        "state-spaces/mamba-130m-hf",
        "there is no such folder. Nothing is downloaded here: fetch it with Hugging Face's "
        "hf download state-spaces/mamba-130m-hf --local-dir mamba-130m-hf");
    open_refused("https://huggingface.co/state-spaces/mamba-130m-hf",
                 "hf download state-spaces/mamba-130m-hf --local-dir mamba-130m-hf");
    open_refused("./mamba-130m-hf", "mamba-130m-hf: No such file");
    open_refused("/no/such", "/no/such: No such file");
    open_refused("a/b/c", "a/b/c: No such file");
    open_refused("mamba", "mamba: No such file");
}

/* ---- numbers that are none ---- */

/* Puts a number among those of one tensor. */
static void spoil(const char *dir, const char *tensor, size_t at, float number)
{
    char *path = path_in(dir, "model.safetensors");
    Safetensors file;
    golden_open(&file, path);
    const Tensor *found = safetensors_find(&file, tensor);
    assert_non_null(found);
    size_t place = (size_t)(found->data - (const unsigned char *)file.map) + 4 * at;
    safetensors_close(&file);
    FILE *out = fopen(path, "r+b");
    assert_non_null(out);
    assert_int_equal(fseek(out, (long)place, SEEK_SET), 0);
    assert_int_equal(fwrite(&number, sizeof number, 1, out), 1);
    assert_int_equal(fclose(out), 0);
    free(path);
}

static void vectors_are_looked_at_when_the_folder_is_opened(void **state)
{
    static const char *const tensors[] = {"norm_f.weight", "layers.0.norm.weight",
                                          "layers.0.mixer.A_log", "layers.0.mixer.conv1d.weight",
                                          "layers.0.mixer.dt_proj.bias"};
    MambaConfig config = config_default(16);
    (void)state;
    for (size_t i = 0; i < TABLE_SIZE(tensors); i++) {
        OwnFolder folder = own_folder(&config, TENSOR_F32, 3);
        char name[128], says[256];
        snprintf(name, sizeof name, "backbone.%s", tensors[i]);
        snprintf(says, sizeof says, "model.safetensors: tensor '%s': 1 of its ", name);
        spoil(folder.dir, name, 3, i % 2 == 0 ? NAN : -INFINITY);
        open_refused(folder.dir, says);
        own_folder_free(&folder);
    }
}

/* Whatever is wanted of it: words, logits, the surprise at a text, drawn or not, in 8 bits. */
static void logits_that_are_no_numbers_end_the_program(void **state)
{
    static const char *const ways[] = {"--ids 1,2,3 -n 4",
                                       "--ids 1 -n 0 --logits %s/out",
                                       "--ids 1,2,3 -n 4 --int8",
                                       "--ids 1,2,3 -n 4 --temperature 1",
                                       "--perplexity data/stories/long_walk.txt",
                                       "--perplexity data/stories/long_walk.txt --compare"};
    MambaConfig config = config_default(16);
    (void)state;
    config.vocab_size = 640;
    OwnFolder folder = own_folder(&config, TENSOR_F32, 3);
    give_tokenizer(&folder);
    for (int kind = 0; kind < 2; kind++) {
        spoil(folder.dir, "backbone.layers.0.mixer.out_proj.weight", 100, kind == 0 ? NAN : 1.0f);
        for (size_t k = 0; k < 16 && kind == 1; k++)
            spoil(folder.dir, "backbone.norm_f.weight", k, 3e38f); /* a number, if a large one */
        for (size_t i = 0; i < TABLE_SIZE(ways); i++) {
            char words[512], text[4096];
            int used = snprintf(words, sizeof words, "%s ", folder.dir);
            snprintf(words + used, sizeof words - (size_t)used, ways[i], folder.dir);
            assert_int_equal(run_program(text, sizeof text, "ch05_pretrained", words), 1);
            assert_contains(text, kind == 0
                                      ? "out_proj.weight': 1 of its 512 numbers are NaN or infinite"
                                      : "the logits are NaN or infinite, though no weight is");
        }
    }
    own_folder_free(&folder);
}

static void every_number_of_a_tensor_is_looked_at(void **state)
{
    enum { COUNT = 9001 }; /* parts of 4096, and what is left */
    static const size_t spots[] = {0, 4095, 4096, 9000};
    float *numbers = NEW(float, COUNT);
    Tensor tensor;
    (void)state;
    memset(&tensor, 0, sizeof tensor);
    tensor.type = TENSOR_F32;
    tensor.rank = 1;
    tensor.shape[0] = COUNT;
    assert_true(tensor_measure(&tensor));
    tensor.data = (const unsigned char *)numbers;
    assert_int_equal(tensor_not_finite(&tensor), 0);
    for (size_t i = 0; i < TABLE_SIZE(spots); i++) {
        numbers[spots[i]] = i % 2 == 0 ? NAN : -INFINITY;
        assert_int_equal(tensor_not_finite(&tensor), i + 1);
    }
    free(numbers);
}

static void logits_are_looked_at_one_by_one(void **state)
{
    static const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    float logits[33] = {0.0f, -0.0f, 3.4e38f, -3.4e38f, 1e-45f};
    (void)state;
    assert_true(logits_are_numbers(logits, 33));
    for (size_t i = 0; i < 33; i += 32)
        for (size_t k = 0; k < TABLE_SIZE(bad); k++) {
            float was = logits[i];
            logits[i] = bad[k];
            assert_false(logits_are_numbers(logits, 33));
            logits[i] = was;
        }
}

/* The token after which nothing is a number any more is counted, in a text or in a prompt. */
static void a_prompt_and_a_text_stop_where_the_numbers_do(void **state)
{
    MambaConfig config = config_default(16);
    const uint32_t ids[2] = {5, 6};
    Surprise surprise;
    Error error;
    size_t bytes;
    (void)state;
    config.vocab_size = 640;
    OwnFolder folder = own_folder(&config, TENSOR_F32, 3);
    give_tokenizer(&folder);
    for (size_t k = 0; k < 16; k++)
        spoil(folder.dir, "backbone.norm_f.weight", k, 3e38f); /* a number, if a large one */
    Pretrained model = opened(folder.dir, 0);
    Runner run = runner_new(&model);
    Memory memory = memory_new(&config);
    runner_feed(&run, &memory, ids, 2, true);
    assert_false(runner_check(&run, &memory, &error));
    assert_contains(error.text,
                    "after 2 tokens the logits are NaN or infinite, though no weight is");
    assert_false(runner_perplexity(&surprise, &bytes, &run, "data/stories/long_walk.txt", &error));
    assert_contains(error.text, "after 1 token the logits are NaN or infinite");
    runner_free(&run), memory_free(&memory);
    pretrained_close(&model);
    own_folder_free(&folder);
}

/* Only one token's embedding is spoilt: all goes well until it comes. */
static void a_token_that_spoils_the_numbers_is_counted(void **state)
{
    MambaConfig config = config_default(16);
    char words[256], text[4096];
    (void)state;
    config.vocab_size = 400;
    config.tie_word_embeddings = false;
    OwnFolder folder = own_folder(&config, TENSOR_F32, 3);
    spoil(folder.dir, "backbone.embeddings.weight", 377 * 16, INFINITY);
    snprintf(words, sizeof words, "%s --ids 1,2 -n 1", folder.dir);
    assert_int_equal(run_program(text, sizeof text, "ch05_pretrained", words), 0);
    snprintf(words, sizeof words, "%s --ids 1,377,2 -n 1", folder.dir);
    assert_int_equal(run_program(text, sizeof text, "ch05_pretrained", words), 1);
    assert_contains(text, "tensor 'backbone.embeddings.weight': 1 of its 6400 numbers");
    own_folder_free(&folder);
}

/* ---- folders that are wrong ---- */

static void folders_without_usable_weights_are_refused(void **state)
{
    MambaConfig config = config_default(16);
    OwnFolder folder = own_folder(&config, TENSOR_F32, 1);
    char *weights = path_in(folder.dir, "model.safetensors"), *text;
    static const char hybrid[] = "{\"model_type\": \"jamba\", \"hidden_size\": 8}";
    size_t len;
    Error error;
    (void)state;
    open_refused("/nowhere/at/all", "No such file");
    open_refused(weights, "not a folder");
    assert_true(text_read(&text, &len, weights, &error));
    file_write(folder.dir, "model.safetensors", text, len / 2);
    open_refused(folder.dir, "cut off");
    text[4] = (char)0x19; /* a header of about 100 GB */
    file_write(folder.dir, "model.safetensors", text, len);
    open_refused(folder.dir, "over the limit");
    move(folder.dir, "model.safetensors", "pytorch_model.bin");
    open_refused(folder.dir, "pytorch_model.bin is Python's pickle; torch and safetensors.torch");
    move(folder.dir, "pytorch_model.bin", "other");
    open_refused(folder.dir, "there is no model.safetensors");
    file_write(folder.dir, "config.json", hybrid, strlen(hybrid));
    open_refused(folder.dir, "is a hybrid, with attention in some of its layers; Transformers");
    move(folder.dir, "config.json", "other");
    open_refused(folder.dir, "config.json");
    free(text), free(weights);
    own_folder_free(&folder);
}

/* Each tensor is asked for by name and shape; types that are not run are named. */
static void tensors_that_are_missing_or_wrong_are_named(void **state)
{
    MambaConfig config = config_default(16);
    OwnFolder folder = own_folder(&config, TENSOR_F32, 1);
    size_t shape[2] = {256, 16};
    int32_t *numbers = NEW(int32_t, 256 * 16);
    char *path = path_in(folder.dir, "model.safetensors");
    SafetensorsWriter writer;
    Error error;
    static const char left_out[] = "{\"hidden_size\": 16, \"vocab_size\": 256}"; /* 32 of them */
    static const char none[] = "{\"hidden_size\": 16, \"num_hidden_layers\": 1}";
    static const char layers[] = SMALL "2}";
    static const char many[] = SMALL "4096}";
    static const char states[] = SMALL "1, \"state_size\": 8}";
    static const char untied[] = SMALL "1, \"tie_word_embeddings\": false}";
    (void)state;
    file_write(folder.dir, "config.json", left_out, strlen(left_out));
    open_refused(folder.dir, "backbone.layers.1.norm.weight");
    file_write(folder.dir, "config.json", none, strlen(none));
    open_refused(folder.dir, "is F32 [256,16], expected any type [50280,16]");
    file_write(folder.dir, "config.json", layers, strlen(layers));
    open_refused(folder.dir, "backbone.layers.1.norm.weight");
    file_write(folder.dir, "config.json", many, strlen(many));
    open_refused(folder.dir, "backbone.layers.1.norm.weight");
    file_write(folder.dir, "config.json", states, strlen(states));
    open_refused(folder.dir, "expected any type [17,32]");
    file_write(folder.dir, "config.json", untied, strlen(untied));
    open_refused(folder.dir, "lm_head.weight");
    safetensors_writer_init(&writer);
    safetensors_add(&writer, "backbone.embeddings.weight", TENSOR_I32, numbers, 2, shape);
    assert_true(safetensors_write(&writer, path, &error));
    safetensors_writer_free(&writer);
    open_refused(folder.dir, "is I32: F32, F16, BF16 and F64 can be run");
    free(path), free(numbers);
    own_folder_free(&folder);
}

static void indexes_are_checked(void **state)
{
    const struct {
        const char *json, *says;
    } cases[] = {{"{}", "no weight_map"},
                 {"{\"weight_map\":{\"a\":\"../x\"}}", "not the name of a file"},
                 {"{\"weight_map\":{\"a\":\"\"}}", "not the name of a file"},
                 {"{\"weight_map\":{\"a\":\"x\\u001b[2J\"}}", "'x?[2J' is not the name of a file"},
                 {"{\"weight_map\":{\"a\":1}}", "expected a string"},
                 {"{\"weight_map\":{\"a\":\"gone.safetensors\"}}", "gone.safetensors: No such"},
                 {"{\"weight_map\":{\"a\":\"config.json\"}}", "config.json"}};
    MambaConfig config = config_default(16);
    OwnFolder folder = own_folder(&config, TENSOR_F32, 1);
    (void)state;
    move(folder.dir, "model.safetensors", "part.safetensors");
    for (size_t i = 0; i < TABLE_SIZE(cases); i++) {
        file_write(folder.dir, "model.safetensors.index.json", cases[i].json,
                   strlen(cases[i].json));
        open_refused(folder.dir, cases[i].says);
    }
    static const char good[] = "{\"weight_map\":{\"a\":\"part.safetensors\"}}";
    file_write(folder.dir, "model.safetensors.index.json", good, strlen(good));
    Pretrained model = opened(folder.dir, 0);
    pretrained_close(&model);
    own_folder_free(&folder);
}

static void a_tensor_in_two_files_is_named(void **state)
{
    MambaConfig config = config_default(16);
    OwnFolder folder = own_folder(&config, TENSOR_F32, 1);
    char command[256];
    (void)state;
    move(folder.dir, "model.safetensors", "one.safetensors");
    snprintf(command, sizeof command, "cp %s/one.safetensors %s/two.safetensors", folder.dir,
             folder.dir);
    assert_int_equal(system(command), 0);
    text_write(folder.dir, "model.safetensors.index.json",
               "{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}}");
    open_refused(folder.dir, "two.safetensors: tensor 'backbone.embeddings.weight' is in another "
                             "file too, ");
    own_folder_free(&folder);
}

/* A table of more rows than config.json says is a padded one; a tokenizer with more ids is an
   error. */
static void vocabularies_may_be_padded(void **state)
{
    MambaConfig config = config_default(16);
    static const char fewer[] =
        "{\"hidden_size\": 16, \"vocab_size\": 601, \"num_hidden_layers\": 1}";
    (void)state;
    config.vocab_size = 608;
    OwnFolder folder = own_folder(&config, TENSOR_F32, 1);
    give_tokenizer(&folder);
    file_write(folder.dir, "config.json", fewer, strlen(fewer));
    Pretrained model = opened(folder.dir, 0);
    assert_int_equal(model.config.vocab_size, 608);
    pretrained_close(&model);
    own_folder_free(&folder);
    config.vocab_size = 599;
    folder = own_folder(&config, TENSOR_F32, 1);
    give_tokenizer(&folder);
    open_refused(folder.dir, "ids up to 599");
    own_folder_free(&folder);
}

static void the_original_layout_runs(void **state)
{
    static const char text[] =
        "{\"d_model\": 32, \"n_layer\": 1, \"vocab_size\": 90, \"ssm_cfg\": {}, \"rms_norm\": "
        "true, "
        "\"residual_in_fp32\": true, \"fused_add_norm\": true, \"pad_vocab_size_multiple\": 16}";
    MambaConfig config = config_default(32);
    (void)state;
    config.vocab_size = 96; /* 90, filled up to a multiple of 16 */
    OwnFolder folder = own_folder(&config, TENSOR_F32, 3);
    float *want = logits_of(folder.dir);
    weights_change(folder.dir, original_name, 1, NULL);
    text_write(folder.dir, "config.json", text);
    logits_are(folder.dir, want, "");
    free(want);
    own_folder_free(&folder);
}

/* --tokenizer: another folder's tokenizer.json, and the ids that end a text if the model's own
   config.json names none. */
/* Versions of Transformers differ in which of the two they go by: a note says so. */
static void what_tokenizer_config_contradicts_is_noted(void **state)
{
    static const struct {
        const char *json, *says; /* NULL: nothing */
    } cases[] = {
        {"{\"tokenizer_class\":\"GPTNeoXTokenizer\",\"add_bos_token\":true,\"model_max_length\":"
         "1e30}",
         "note: add_bos_token is true in tokenizer_config.json, but tokenizer.json puts not a "
         "token "
         "before each text; it is followed"},
        {"{\"add_eos_token\":true}", "add_eos_token is true in tokenizer_config.json"},
        {"{\"tokenizer_class\":\"LlamaTokenizerFast\"}",
         "note: add_bos_token is true for a LlamaTokenizerFast, but tokenizer.json puts not a "
         "token"},
        {"{\"tokenizer_class\":\"PreTrainedTokenizerFast\",\"add_bos_token\":true}", NULL},
        {"{\"add_prefix_space\":true}", "tokenizer.json puts not a space before each text"},
        {"{\"add_bos_token\":false,\"add_eos_token\":false,\"add_prefix_space\":false}", NULL},
        {"{\"add_bos_token\":null,\"add_eos_token\":1,\"x\":{\"add_prefix_space\":true}}", NULL},
        {"{\"add_bos_token\":true",
         "expected ',' or '}', found the end (at byte 21); it is left out"},
        {"version https://git-lfs.github.com/spec/v1", "tokenizer_config.json: this is a pointer"}};
    MambaConfig config = odd_config();
    OwnFolder folder = own_folder(&config, TENSOR_F32, 3);
    char text[1024], words[160];
    (void)state;
    give_tokenizer(&folder);
    for (size_t i = 0; i < TABLE_SIZE(cases); i++) {
        text_write(folder.dir, "tokenizer_config.json", cases[i].json);
        Pretrained model = opened(folder.dir, 0);
        if (cases[i].says == NULL)
            assert_int_equal(model.folder.notes.len, 0);
        else
            assert_contains(model.folder.notes.bytes, cases[i].says);
        pretrained_close(&model);
    }
    text_write(
        folder.dir, "tokenizer.json",
        "{\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"_\"},\"model\":{\"type\":\"BPE\","
        "\"vocab\":{\"_\":0},\"merges\":[]}}");
    text_write(folder.dir, "tokenizer_config.json", "{\"tokenizer_class\":\"LlamaTokenizer\"}");
    Pretrained model = opened(folder.dir, 0);
    assert_contains(model.folder.notes.bytes, "note: Transformers 5 makes a LlamaTokenizer anew");
    pretrained_close(&model);
    give_tokenizer(&folder);
    text_write(folder.dir, "tokenizer_config.json", cases[0].json);
    snprintf(words, sizeof words, "%s the --tokenize", folder.dir);
    assert_int_equal(run_program(text, sizeof text, "ch05_pretrained", words), 0);
    assert_contains(text, cases[0].says);
    own_folder_free(&folder);
}

static void a_tokenizer_may_come_from_another_folder(void **state)
{
    MambaConfig config = odd_config();
    OwnFolder folder = own_folder(&config, TENSOR_F32, 3),
              other = own_folder(&config, TENSOR_F32, 4);
    static const char ends[] = "{\"bos_token_id\": 3, \"eos_token_id\": [4, 5]}";
    Pretrained model;
    Error error;
    (void)state;
    give_tokenizer(&other);
    assert_true(pretrained_open(&model, folder.dir, NULL, 0, &error));
    assert_false(model.folder.has_tokenizer);
    pretrained_close(&model);
    file_write(other.dir, "config.json", ends, strlen(ends));
    assert_true(pretrained_open(&model, folder.dir, other.dir, 0, &error));
    assert_true(model.folder.has_tokenizer);
    assert_int_equal(model.folder.tokenizer.n_token, 600);
    assert_int_equal(model.folder.generation.begin, 3);
    assert_int_equal(model.folder.generation.n_stop, 2);
    pretrained_close(&model);
    file_write(other.dir, "config.json", "[", 1);
    assert_false(pretrained_open(&model, folder.dir, other.dir, 0, &error));
    assert_contains(error.text, "config.json");
    move(other.dir, "tokenizer.json", "gone"), move(other.dir, "config.json", "gone too");
    assert_false(pretrained_open(&model, folder.dir, other.dir, 0, &error));
    assert_contains(error.text, "tokenizer.json: No such file");
    own_folder_free(&folder), own_folder_free(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_base_model_has_no_prefix),
        cmocka_unit_test(weights_in_f64_run_in_f32),
        cmocka_unit_test(a_head_of_its_own_wins_over_the_tie),
        cmocka_unit_test(what_is_not_used_is_noted),
        cmocka_unit_test(what_config_json_says_in_vain_is_noted),
        cmocka_unit_test(silu_is_called_swish_too),
        cmocka_unit_test(tokens_round_a_text_count_in_its_perplexity),
        cmocka_unit_test(mamba_2_in_shards_and_in_the_original_layout_runs),
        cmocka_unit_test(generation_json_says_how_to_draw),
        cmocka_unit_test(generation_json_names_the_ids_that_end_a_text),
        cmocka_unit_test(settings_that_are_not_known_are_named),
        cmocka_unit_test(generation_json_is_checked),
        cmocka_unit_test(generation_json_goes_before_config_json),
        cmocka_unit_test(options_win_over_the_folder),
        cmocka_unit_test(the_program_goes_by_generation_json),
        cmocka_unit_test(only_regular_files_are_read),
        cmocka_unit_test(what_stands_in_place_of_json_is_named),
        cmocka_unit_test(links_stay_in_the_folder),
        cmocka_unit_test(a_link_that_leads_nowhere_is_named),
        cmocka_unit_test(hugging_faces_cache_is_a_folder_of_links),
        cmocka_unit_test(a_name_on_the_hub_is_no_folder),
        cmocka_unit_test(vectors_are_looked_at_when_the_folder_is_opened),
        cmocka_unit_test(logits_that_are_no_numbers_end_the_program),
        cmocka_unit_test(every_number_of_a_tensor_is_looked_at),
        cmocka_unit_test(logits_are_looked_at_one_by_one),
        cmocka_unit_test(a_prompt_and_a_text_stop_where_the_numbers_do),
        cmocka_unit_test(a_token_that_spoils_the_numbers_is_counted),
        cmocka_unit_test(folders_without_usable_weights_are_refused),
        cmocka_unit_test(tensors_that_are_missing_or_wrong_are_named),
        cmocka_unit_test(indexes_are_checked),
        cmocka_unit_test(a_tensor_in_two_files_is_named),
        cmocka_unit_test(vocabularies_may_be_padded),
        cmocka_unit_test(the_original_layout_runs),
        cmocka_unit_test(what_tokenizer_config_contradicts_is_noted),
        cmocka_unit_test(a_tokenizer_may_come_from_another_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
