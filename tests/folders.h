/* Folders of models of our own, for tests: random weights of any size, written and opened.

   Include this after measure_pretrained.c, which writes folders, and golden.h. */

#ifndef TESTS_FOLDERS
#define TESTS_FOLDERS

typedef struct {
    char dir[64];
    Model model;
} OwnFolder;

static inline MambaConfig odd_config(void)
{
    MambaConfig config = config_default(33);
    config.num_hidden_layers = 2;
    config.vocab_size = 601; /* the golden tokenizer has 600, and one is to spare */
    config.state_size = 5;
    config.conv_kernel = 3;
    config.time_step_rank = 3;
    config.use_bias = true;
    config.tie_word_embeddings = false;
    return config;
}

/* The same for Mamba-2: six heads in two groups, and limits that some steps meet. */
static inline MambaConfig heads_config(void)
{
    MambaConfig config = config_default_heads(33, 11, 5);
    config.num_hidden_layers = 2;
    config.vocab_size = 601;
    config.n_groups = 2;
    config.conv_kernel = 3;
    config.use_bias = true;
    config.tie_word_embeddings = false;
    config.time_step_limit[0] = 0.005;
    config.time_step_limit[1] = 0.05;
    return config;
}

static inline OwnFolder own_folder(const MambaConfig *config, TensorType type, uint64_t seed)
{
    OwnFolder folder;
    Error error;
    Random random = random_from_seed(seed);
    snprintf(folder.dir, sizeof folder.dir, "/tmp/test_pretrained_XXXXXX");
    assert_non_null(mkdtemp(folder.dir));
    folder.model = model_new(config);
    model_init(&folder.model, &random);
    if (!folder_write(&folder.model, folder.dir, type, &error))
        fail_msg("%s", error.text);
    return folder;
}

static inline void own_folder_free(OwnFolder *folder)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", folder->dir);
    assert_int_equal(system(command), 0);
    model_free(&folder->model);
}

static inline void file_write(const char *dir, const char *name, const char *text, size_t len)
{
    char *path = path_in(dir, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, len, file), len);
    assert_int_equal(fclose(file), 0);
    free(path);
}

static inline void give_tokenizer(const OwnFolder *folder)
{
    char *from = golden_path("tokenizer/tokenizer.json"), *text;
    size_t len;
    Error error;
    assert_true(text_read(&text, &len, from, &error));
    file_write(folder->dir, "tokenizer.json", text, len);
    free(text), free(from);
}

static inline Pretrained opened(const char *dir, size_t bits)
{
    Pretrained model;
    Error error;
    memset(&model, 0, sizeof model);
    if (!pretrained_open(&model, dir, NULL, bits, &error))
        fail_msg("%s", error.text);
    return model;
}

/* Logits of a few tokens, step by step: (5, vocab). */
static inline float *few_logits(const Pretrained *model)
{
    size_t vocab = model->config.vocab_size;
    float *logits = NEW(float, 5 * vocab);
    Runner run = runner_new(model);
    Memory memory = memory_new(&model->config);
    for (uint32_t t = 0; t < 5; t++) {
        runner_step(&run, &memory, t * 17, true);
        memcpy(logits + t * vocab, run.logits, vocab * sizeof *logits);
    }
    runner_free(&run), memory_free(&memory);
    return logits;
}

#endif /* TESTS_FOLDERS */
