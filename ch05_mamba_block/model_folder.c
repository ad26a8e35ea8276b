/* The folder of a published model, as Hugging Face's hub gives it: config.json, and the weights in
   one file or in several.

   HOLDS   the files of weights, opened together (Shards), and the index that names them; a tensor
           found in any of them; config.json, with the ids that begin and end a text
   FOR     pretrained.c */

#ifndef CH05_MODEL_FOLDER
#define CH05_MODEL_FOLDER

#include "language_model.c"

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

static bool shards_open(Shards *shards, const char *dir, const char *name, Error *error)
{
    char *path = path_in(dir, name);
    Safetensors file;
    bool ok = safetensors_open(&file, path, error);
    free(path);
    if (ok) {
        shards->file = (Safetensors *)safetensors_grow(shards->file, shards->n_file, sizeof file);
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
        names->name[names->count++] = safetensors_copy(name.bytes);
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
                        "%s: has its weights only in %s, which is Python's pickle; take a folder "
                        "with model.safetensors, such as state-spaces/mamba-130m-hf",
                        shown_path(dir), pickles[i]);
    return fail(error, "%s: there is no model.safetensors and no model.safetensors.index.json",
                shown_path(dir));
}

bool folder_open_weights(Shards *shards, const char *dir, Error *error)
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
bool shards_expect(const Tensor **tensor, const Shards *shards, const char *name, size_t rank,
                   const size_t *shape, Error *error)
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

bool folder_read_config(MambaConfig *config, TextEnds *ends, const char *dir, Error *error)
{
    char *path = path_in(dir, "config.json"), *text = NULL;
    size_t len = 0;
    bool ok = text_read(&text, &len, path, error);
    if (ok && memmem(text, len, "\"d_model\"", 9) && !memmem(text, len, "\"hidden_size\"", 13))
        ok = fail(error,
                  "%s: this is the original layout of state-spaces/mamba; take the folder whose "
                  "name ends in -hf",
                  shown_path(path));
    ok = ok && config_parse(config, text, len, shown_path(path), error) &&
         ends_parse(ends, text, len, path, error);
    free(text);
    free(path);
    return ok;
}

#endif /* CH05_MODEL_FOLDER */
