/* The folder of a published model, as Hugging Face's hub gives it: config.json, tokenizer.json, and
   the weights in one file or in several.

   HOLDS   the files of weights, opened together, and the index that names them (Shards);
           config.json, with the ids that begin and end a text (TextEnds); the whole folder, opened,
           with every tensor of the model found and looked at (ModelFolder)
   FOR     pretrained.c
   A folder is a stranger's: what is missing or does not fit has a sentence. */

#ifndef CH05_MODEL_FOLDER
#define CH05_MODEL_FOLDER

#include "layers.c"
#include "safetensors.c"
#include "tokenizer_json.c"
#include "words.c" /* path_in */

/* =================================== Files of weights ====================================== */

enum { SHARD_MOST = 1000, STOP_MOST = 8, NAME_ROOM = 96 };

/* The files of weights, mapped into memory, and which of them holds which tensor. */
typedef struct {
    Safetensors *file; /* (n_file) */
    size_t n_file;
} Shards;

bool path_exists(const char *dir, const char *name)
{
    char *path = path_in(dir, name);
    bool there = access(path, F_OK) == 0;
    free(path);
    return there;
}

void shards_close(Shards *shards)
{
    for (size_t i = 0; i < shards->n_file; i++)
        safetensors_close(&shards->file[i]);
    free(shards->file);
    memset(shards, 0, sizeof *shards);
}

/* Fails if somebody has written into one of them since. */
bool shards_are_unchanged(const Shards *shards, Error *error)
{
    bool ok = true;
    for (size_t i = 0; ok && i < shards->n_file; i++)
        ok = safetensors_is_unchanged(&shards->file[i], error);
    return ok;
}

static bool shards_open(Shards *shards, const char *dir, const char *name, Error *error)
{
    char *path = path_in(dir, name);
    Safetensors file;
    bool ok = safetensors_open(&file, path, error);
    free(path);
    if (ok) {
        shards->file = (Safetensors *)array_grow(shards->file, shards->n_file, sizeof file);
        shards->file[shards->n_file++] = file;
    }
    return ok;
}

/* The names of the shards that an index tells of, each once. */
typedef struct {
    char *name[SHARD_MOST]; /* (count) owned */
    size_t count;
} ShardNames;

void shard_names_free(ShardNames *names)
{
    for (size_t i = 0; i < names->count; i++)
        free(names->name[i]);
    names->count = 0;
}

static void shard_names_add(ShardNames *names, Json *json, JsonText name)
{
    for (size_t i = 0; i < names->count; i++)
        if (json_is(name, names->name[i]))
            return;
    if (name.len == 0 || memchr(name.bytes, '/', name.len) || memchr(name.bytes, 0, name.len))
        json_fail(json, "'%s' is not the name of a file in this folder",
                  shown_name(name.bytes).text);
    else if (names->count == SHARD_MOST)
        json_fail(json, "more than %d files", SHARD_MOST);
    else
        names->name[names->count++] = text_copy(name.bytes);
}

/* The files of a model.safetensors.index.json: {"weight_map": {"tensor": "file", ...}, ...}. */
bool shard_names_parse(ShardNames *names, const char *text, size_t len, const char *path,
                       Error *error)
{
    Json json;
    JsonText file = {"", 0};
    names->count = 0;
    json_open(&json, text, len, path, error);
    json_enter_object(&json);
    for (JsonText key = {NULL, 0}; json_next_key(&json, &key);) {
        if (!json_is(key, "weight_map")) {
            json_skip(&json);
            continue;
        }
        json_enter_object(&json);
        for (JsonText tensor = {NULL, 0}; json_next_key(&json, &tensor);)
            if (json_string(&json, &file))
                shard_names_add(names, &json, file);
    }
    bool ok = json_end(&json);
    json_close(&json);
    if (ok && names->count == 0)
        ok = fail(error, "%s: there is no weight_map with files in it", shown_path(path));
    if (!ok)
        shard_names_free(names);
    return ok;
}

static bool shards_open_index(Shards *shards, const char *dir, const char *index, Error *error)
{
    char *path = path_in(dir, index), *text = NULL;
    ShardNames names;
    size_t len = 0;
    names.count = 0;
    bool ok = text_read(&text, &len, path, error);
    ok = ok && shard_names_parse(&names, text, len, path, error);
    for (size_t i = 0; ok && i < names.count; i++)
        ok = shards_open(shards, dir, names.name[i], error);
    shard_names_free(&names);
    free(text);
    free(path);
    return ok;
}

/* A folder without safetensors: what is there, and what would do instead. */
static bool folder_refuse(const char *dir, Error *error)
{
    static const char *const pickles[] = {"pytorch_model.bin", "pytorch_model.bin.index.json",
                                          NULL};
    for (int i = 0; pickles[i] != NULL; i++)
        if (path_exists(dir, pickles[i]))
            return fail(error,
                        "%s: %s is Python's pickle; torch and safetensors.torch convert it: "
                        "save_file({k: v.clone() for k, v in torch.load('%s').items()}, "
                        "'model.safetensors')",
                        shown_path(dir), pickles[i], pickles[0]);
    return fail(error, "%s: there is no model.safetensors and no model.safetensors.index.json",
                shown_path(dir));
}

static bool folder_open_weights(Shards *shards, const char *dir, Error *error)
{
    bool ok;
    memset(shards, 0, sizeof *shards);
    if (path_exists(dir, "model.safetensors"))
        ok = shards_open(shards, dir, "model.safetensors", error);
    else if (path_exists(dir, "model.safetensors.index.json"))
        ok = shards_open_index(shards, dir, "model.safetensors.index.json", error);
    else
        ok = folder_refuse(dir, error);
    if (!ok)
        shards_close(shards);
    return ok;
}

/* Finds a tensor in any of the files; it must be there with this shape, as F32, F16 or BF16. */
static bool shards_expect(const Tensor **tensor, const Shards *shards, const char *name,
                          size_t rank, const size_t *shape, Error *error)
{
    size_t i = 0;
    while (i + 1 < shards->n_file && safetensors_find(&shards->file[i], name) == NULL)
        i++;
    if (!safetensors_expect(tensor, &shards->file[i], name, TENSOR_ANY, rank, shape, error))
        return false;
    TensorType type = (*tensor)->type;
    if (type != TENSOR_F32 && type != TENSOR_F16 && type != TENSOR_BF16)
        return fail(error, "%s: tensor '%s' is %s: F32, F16 and BF16 can be run",
                    shown_path(shards->file[i].path), name, tensor_type_name(type));
    return true;
}

/* ============================ config.json, beyond the sizes ================================ */

/* The ids that end a text, and the one that begins it. */
typedef struct {
    uint32_t stop[STOP_MOST]; /* (n_stop) */
    size_t n_stop;
    uint32_t begin; /* UINT32_MAX: none is named */
} TextEnds;

static void ends_id(Json *json, TextEnds *ends, bool begin)
{
    uint64_t id = 0;
    if (!json_integer(json, &id, CONFIG_MAX_VOCAB - 1))
        return;
    if (begin)
        ends->begin = (uint32_t)id;
    else if (ends->n_stop == STOP_MOST)
        json_fail(json, "more than %d eos_token_id", STOP_MOST);
    else
        ends->stop[ends->n_stop++] = (uint32_t)id;
}

bool ends_parse(TextEnds *ends, const char *text, size_t len, const char *path, Error *error)
{
    Json json;
    memset(ends, 0, sizeof *ends);
    ends->begin = UINT32_MAX;
    json_open(&json, text, len, path, error);
    json_enter_object(&json);
    for (JsonText key = {NULL, 0}; json_next_key(&json, &key);) {
        bool begin = json_is(key, "bos_token_id"), end = json_is(key, "eos_token_id");
        if ((begin || end) && json_peek(&json) == JSON_NUMBER)
            ends_id(&json, ends, begin);
        else if (end && json_peek(&json) == JSON_ARRAY) {
            json_enter_array(&json);
            while (json_next_item(&json))
                ends_id(&json, ends, false);
        } else
            json_skip(&json);
    }
    bool ok = json_end(&json);
    json_close(&json);
    return ok;
}

static bool folder_read_config(MambaConfig *config, TextEnds *ends, const char *dir, Error *error)
{
    char *path = path_in(dir, "config.json"), *text = NULL;
    size_t len = 0;
    bool ok = text_read(&text, &len, path, error) &&
              config_parse(config, text, len, shown_path(path), error) &&
              ends_parse(ends, text, len, path, error);
    free(text);
    free(path);
    return ok;
}

/* ===================================== The whole folder ==================================== */

/* A folder with everything checked. The tensors lie in the mapped files. */
typedef struct {
    MambaConfig config;
    TextEnds ends;
    Shards shards;
    bool has_tokenizer; /* else texts are ids */
    Tokenizer tokenizer;
    const Tensor *embeddings, *head; /* (vocab, d_model) one and the same, if they are tied */
    const Tensor *norm_f;            /* (d_model) */
    const Tensor **part;             /* (n_layer, BLOCK_TENSORS) NULL: a bias that it has not */
    uint64_t print; /* a number that tells models apart, of the first bytes of every tensor */
} ModelFolder;

void model_folder_close(ModelFolder *folder)
{
    if (folder->has_tokenizer)
        tokenizer_free(&folder->tokenizer);
    shards_close(&folder->shards);
    free(folder->part);
    memset(folder, 0, sizeof *folder);
}

/* The ids that end a text, from the folder of a tokenizer, for a model that names none itself. */
static bool folder_borrow_ends(ModelFolder *folder, const char *dir, Error *error)
{
    char *path = path_in(dir, "config.json"), *text = NULL;
    size_t len = 0;
    bool ok = true;
    if (folder->ends.n_stop == 0 && folder->ends.begin == UINT32_MAX && access(path, F_OK) == 0)
        ok = text_read(&text, &len, path, error) &&
             ends_parse(&folder->ends, text, len, path, error);
    free(text), free(path);
    return ok;
}

/* The folder's own tokenizer.json, if it has one; or that of another, `from`. */
static bool folder_read_tokenizer(ModelFolder *folder, const char *dir, const char *from,
                                  Error *error)
{
    if (from != NULL && !folder_borrow_ends(folder, from, error))
        return false;
    char *path = path_in(from != NULL ? from : dir, "tokenizer.json");
    folder->has_tokenizer = from != NULL || access(path, F_OK) == 0;
    bool ok = !folder->has_tokenizer || tokenizer_read(&folder->tokenizer, path, error);
    if (!ok)
        folder->has_tokenizer = false;
    else if (folder->has_tokenizer && folder->tokenizer.n_token > folder->config.vocab_size)
        ok = fail(error, "%s: has ids up to %zu, but the model knows only %zu tokens",
                  shown_path(path), folder->tokenizer.n_token - 1, folder->config.vocab_size);
    free(path);
    return ok;
}

/* A tensor in any of the files, or NULL. */
static const Tensor *shards_find(const Shards *shards, const char *name)
{
    const Tensor *tensor = NULL;
    for (size_t i = 0; i < shards->n_file && tensor == NULL; i++)
        tensor = safetensors_find(&shards->file[i], name);
    return tensor;
}

/* Embeddings, last norm and head. The table may have more rows than config.json says: a vocabulary
   is padded to a round number. The first published models call it "embedding". */
static bool folder_find_ends(ModelFolder *folder, Error *error)
{
    MambaConfig *config = &folder->config;
    const Shards *shards = &folder->shards;
    const char *name = "backbone.embeddings.weight", *original = "backbone.embedding.weight";
    size_t shape[2] = {config->vocab_size, config->hidden_size};
    if (shards_find(shards, name) == NULL && shards_find(shards, original) != NULL)
        name = original;
    const Tensor *table = shards_find(shards, name);
    if (table != NULL && table->rank == 2 && table->shape[0] > shape[0] &&
        table->shape[0] <= CONFIG_MAX_VOCAB)
        config->vocab_size = shape[0] = table->shape[0];
    if (!shards_expect(&table, shards, name, 2, shape, error) ||
        !shards_expect(&folder->norm_f, shards, "backbone.norm_f.weight", 1, shape + 1, error))
        return false;
    folder->embeddings = folder->head = table;
    folder->print =
        hash_bytes(&config->hidden_size, sizeof config->hidden_size, 1 + (uint64_t)config->kind);
    folder->print = hash_bytes(table->data, smaller(table->bytes, 4096), folder->print);
    folder->print = hash_bytes(folder->norm_f->data, folder->norm_f->bytes, folder->print);
    return config->tie_word_embeddings ||
           shards_expect(&folder->head, shards, "lm_head.weight", 2, shape, error);
}

/* Every tensor of every layer, with the shape that config.json asks for. */
static bool folder_find_layers(ModelFolder *folder, Error *error)
{
    TensorShape shape[BLOCK_TENSORS];
    size_t layers = folder->config.num_hidden_layers;
    layer_shapes(shape, &folder->config);
    folder->part = NEW(const Tensor *, layers *BLOCK_TENSORS);
    for (size_t i = 0; i < layers * BLOCK_TENSORS; i++) {
        const TensorShape *part = &shape[i % BLOCK_TENSORS];
        char name[NAME_ROOM];
        if (part->count == 0)
            continue;
        snprintf(name, sizeof name, "backbone.layers.%zu.%s", i / BLOCK_TENSORS, part->name);
        const Tensor **tensor = &folder->part[i];
        if (!shards_expect(tensor, &folder->shards, name, part->rank, part->shape, error))
            return false;
        folder->print = hash_bytes((*tensor)->data, smaller((*tensor)->bytes, 256), folder->print);
    }
    return true;
}

static bool folder_is_one(const char *dir, Error *error)
{
    struct stat info;
    if (stat(dir, &info) != 0)
        return fail(error, "%s: %s", shown_path(dir), strerror(errno));
    return S_ISDIR(info.st_mode) ||
           fail(error, "%s: this is not a folder; the folder of a model is wanted",
                shown_path(dir));
}

/* A folder, with its own tokenizer or, unless that is NULL, the one in the folder `tokenizer`.
   Nobody may shorten the files before model_folder_close. */
bool model_folder_open(ModelFolder *folder, const char *dir, const char *tokenizer, Error *error)
{
    ModelFolder open;
    memset(&open, 0, sizeof open);
    if (!folder_is_one(dir, error) || !folder_read_config(&open.config, &open.ends, dir, error) ||
        !folder_open_weights(&open.shards, dir, error) || !folder_find_ends(&open, error) ||
        !folder_read_tokenizer(&open, dir, tokenizer, error) || !folder_find_layers(&open, error)) {
        model_folder_close(&open);
        return false;
    }
    *folder = open;
    return true;
}

#endif /* CH05_MODEL_FOLDER */
