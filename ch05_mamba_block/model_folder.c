/* The folder of a published model, as Hugging Face's hub gives it: config.json, tokenizer.json, and
   the weights in one file or in several.

   HOLDS   which files are a folder's own; the files of weights, opened together, and the index that
           names them (Shards); the whole folder, opened, with every tensor of the model found and
           looked at (ModelFolder)
   FOR     pretrained.c
   A folder is a stranger's: what is missing or does not fit has a sentence, and what is not used a
   note. */

#ifndef CH05_MODEL_FOLDER
#define CH05_MODEL_FOLDER

#include "generation.c"
#include "layers.c"
#include "safetensors.c"
#include "tokenizer_json.c"
#include "words.c" /* path_in */

/* ================================== Files of a folder ====================================== */
/* A link in a folder may lead to what is in the folder. And in Hugging Face's cache a folder is
   nothing but links: snapshots/REVISION/config.json leads to blobs/HASH, beside snapshots. Where
   else a link leads is nothing that a stranger's folder may have read. */

/* Also if it is a link that leads nowhere: what was meant to be there shall be missed. */
bool path_exists(const char *dir, const char *name)
{
    struct stat info;
    char *path = path_in(dir, name);
    bool there = lstat(path, &info) == 0;
    free(path);
    return there;
}

/* Whether a path lies below a folder; both are resolved. */
static bool path_below(const char *path, const char *dir)
{
    size_t len = strlen(dir);
    return strncmp(path, dir, len) == 0 && (path[len] == '/' || (len > 0 && dir[len - 1] == '/'));
}

/* Whether a resolved path is .../blobs/NAME, with a folder snapshots beside blobs. */
static bool path_in_cache(const char *path)
{
    char *home = text_copy(path), *name = strrchr(home, '/');
    bool in_cache = false;
    if (name != NULL) {
        *name = '\0';
        char *blobs = strrchr(home, '/');
        if (blobs != NULL && strcmp(blobs, "/blobs") == 0) {
            *blobs = '\0';
            in_cache = path_exists(home, "snapshots");
        }
    }
    free(home);
    return in_cache;
}

/* The path of a file of a folder, new; NULL if it is a link that leads out of the folder, or
   nowhere. */
static char *folder_path(const char *dir, const char *name, Error *error)
{
    struct stat info;
    char *path = path_in(dir, name);
    char *home = realpath(dir, NULL), *real = realpath(path, NULL);
    bool lost = real == NULL && lstat(path, &info) == 0 && S_ISLNK(info.st_mode);
    bool ours = home == NULL || real == NULL || path_below(real, home) || path_in_cache(real);
    if (!ours || lost) {
        fail(error, "%s: this is a link that leads %s", shown_path(path),
             lost ? "nowhere: is a download not complete?" : "out of the folder");
        free(path);
        path = NULL;
    }
    free(home), free(real);
    return path;
}

/* The text of a file of a folder; free it when done. */
static bool folder_text(char **text, size_t *len, const char *dir, const char *name, Error *error)
{
    char *path = folder_path(dir, name, error);
    bool ok = path != NULL && json_file_read(text, len, path, error);
    free(path);
    return ok;
}

/* =================================== Files of weights ====================================== */

enum { SHARD_MOST = 1000, NAME_ROOM = 96 };

/* The files of weights, mapped into memory, and which of them holds which tensor. */
typedef struct {
    Safetensors *file; /* (n_file) */
    size_t n_file;
} Shards;

void shards_close(Shards *shards)
{
    for (size_t i = 0; i < shards->n_file; i++)
        safetensors_close(&shards->file[i]);
    free(shards->file);
    memset(shards, 0, sizeof *shards);
}

/* Fails if the file that is to be written, unless it is NULL, is one of a model's folder. */
bool folder_spared(const char *dir, const Shards *shards, const char *path, Error *error)
{
    static const char *const names[] = {"config.json", "generation_config.json", "tokenizer.json",
                                        "tokenizer_config.json", "model.safetensors.index.json"};
    bool spared = true;
    for (size_t i = 0; path != NULL && spared && i < TABLE_SIZE(names); i++) {
        char *own = path_in(dir, names[i]);
        spared = !same_file(path, own);
        free(own);
    }
    for (size_t i = 0; path != NULL && spared && i < shards->n_file; i++)
        spared = !same_file(path, shards->file[i].path);
    return spared || fail(error, "%s: this is a file of the model, and is not written over",
                          shown_path(path));
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
    char *path = folder_path(dir, name, error);
    Safetensors file;
    bool ok = path != NULL && safetensors_open(&file, path, error);
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
    char *clean = shown_clean(text_copy(name.bytes));
    bool named = name.len > 0 && json_is(name, clean) && strchr(clean, '/') == NULL;
    free(clean);
    if (!named) /* nor may a control character be in it */
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

/* Of a tensor in two files nobody knows which was meant. */
static bool shards_are_apart(const Shards *shards, Error *error)
{
    for (size_t i = 1; i < shards->n_file; i++)
        for (size_t k = 0; k < shards->file[i].n_tensor; k++)
            for (size_t before = 0; before < i; before++) {
                const char *name = shards->file[i].tensor[k].name;
                if (safetensors_find(&shards->file[before], name) != NULL)
                    return fail(error, "%s: tensor '%s' is in another file too, %s",
                                shown_path(shards->file[i].path), shown_name(name).text,
                                shown_path(shards->file[before].path));
            }
    return true;
}

static bool shards_open_index(Shards *shards, const char *dir, const char *index, Error *error)
{
    char *path = path_in(dir, index), *text = NULL;
    ShardNames names;
    size_t len = 0;
    names.count = 0;
    bool ok = folder_text(&text, &len, dir, index, error);
    ok = ok && shard_names_parse(&names, text, len, path, error);
    for (size_t i = 0; ok && i < names.count; i++)
        ok = shards_open(shards, dir, names.name[i], error);
    ok = ok && shards_are_apart(shards, error);
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

/* A tensor in any of the files, or NULL. */
static const Tensor *shards_find(const Shards *shards, const char *name)
{
    const Tensor *tensor = NULL;
    for (size_t i = 0; i < shards->n_file && tensor == NULL; i++)
        tensor = safetensors_find(&shards->file[i], name);
    return tensor;
}

/* The file that holds a tensor, or the last. */
static const Safetensors *shards_file(const Shards *shards, const char *name)
{
    size_t i = 0;
    while (i + 1 < shards->n_file && safetensors_find(&shards->file[i], name) == NULL)
        i++;
    return &shards->file[i];
}

/* Finds a tensor in any of the files; it must be there with this shape, of a type that is run. */
static bool shards_expect(const Tensor **tensor, const Shards *shards, const char *name,
                          size_t rank, const size_t *shape, Error *error)
{
    const Safetensors *file = shards_file(shards, name);
    if (!safetensors_expect(tensor, file, name, TENSOR_ANY, rank, shape, error))
        return false;
    TensorType type = (*tensor)->type;
    if (type != TENSOR_F32 && type != TENSOR_F16 && type != TENSOR_BF16 && type != TENSOR_F64)
        return fail(error, "%s: tensor '%s' is %s: F32, F16, BF16 and F64 can be run",
                    shown_path(file->path), name, tensor_type_name(type));
    return true;
}

/* Looks at every number of every file, for one that is none. */
bool shards_are_finite(const Shards *shards, Error *error)
{
    for (size_t i = 0; i < shards->n_file; i++)
        for (size_t k = 0; k < shards->file[i].n_tensor; k++) {
            const Tensor *tensor = &shards->file[i].tensor[k];
            bool read = tensor->type == TENSOR_F32 || tensor->type == TENSOR_F16 ||
                        tensor->type == TENSOR_BF16 || tensor->type == TENSOR_F64;
            if (read && !tensor_is_finite(tensor, shards->file[i].path, error))
                return false;
        }
    return true;
}

/* ===================================== The whole folder ==================================== */

/* A folder with everything checked. The tensors lie in the mapped files. */
typedef struct {
    MambaConfig config;
    Generation generation;
    Shards shards;
    const char *prefix; /* of the tensors' names; "" in a base model, saved without its head */
    Tensor *made;       /* (n_made) F64 tensors as F32, with their numbers */
    size_t n_made, n_used;
    bool has_tokenizer; /* else texts are ids */
    Tokenizer tokenizer;
    const Tensor *embeddings, *head; /* (vocab, d_model) one and the same, if they are tied */
    const Tensor *norm_f;            /* (d_model) */
    const Tensor **part;             /* (n_layer, BLOCK_TENSORS) NULL: a bias that it has not */
    uint64_t print; /* a number that tells models apart, of the first bytes of every tensor */
    Text notes;     /* what is not as one would think: a line for each, for who runs it */
} ModelFolder;

__attribute__((format(printf, 2, 3))) static void note_add(Text *notes, const char *format, ...)
{
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int len = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    text_append(notes, "note: ", 6);
    text_append(notes, line, smaller((size_t)len, sizeof line - 2));
    text_append(notes, "\n", 1);
}

void model_folder_close(ModelFolder *folder)
{
    if (folder->has_tokenizer)
        tokenizer_free(&folder->tokenizer);
    shards_close(&folder->shards);
    for (size_t i = 0; i < folder->n_made; i++)
        free((void *)folder->made[i].data);
    free(folder->made), free(folder->part), text_free(&folder->notes);
    memset(folder, 0, sizeof *folder);
}

/* How the model is meant to write: generation_config.json, or without one what config.json says. */
static bool folder_read_generation(ModelFolder *folder, const char *dir, Error *error)
{
    const char *name = "generation_config.json";
    char *text = NULL;
    size_t len = 0;
    if (!path_exists(dir, name))
        name = "config.json";
    char *path = path_in(dir, name);
    bool ok = folder_text(&text, &len, dir, name, error) &&
              generation_parse(&folder->generation, text, len, path, error);
    if (ok && folder->generation.unknown != NULL)
        note_add(&folder->notes, "%s: %s is set, which is not known here, and left out",
                 shown_path(path), folder->generation.unknown);
    free(text), free(path);
    return ok;
}

/* What config.json (text, len bytes, which has been read once) says, and what is not done. */
static void note_config(Text *notes, const char *text, size_t len)
{
    Error error;
    Json json;
    bool scales = false;
    json_open(&json, text, len, "config.json", &error);
    json.python = true;
    json_enter_object(&json);
    for (JsonText key = {NULL, 0}; json_next_key(&json, &key);) {
        if (json_is(key, "quantization_config") && json_peek(&json) == JSON_OBJECT)
            note_add(notes, "config.json: quantization_config is left out: the weights are run as "
                            "they lie in the files");
        if (json_is(key, "rescale_prenorm_residual") && json_peek(&json) == JSON_BOOLEAN)
            json_boolean(&json, &scales);
        else
            json_skip(&json);
    }
    if (scales)
        note_add(notes, "config.json: rescale_prenorm_residual is for the first weights alone; "
                        "Transformers 5.24 divides a loaded out_proj by the root of the number of "
                        "layers all the same, and may write other words");
    json_close(&json);
}

static bool folder_read_config(ModelFolder *folder, const char *dir, Error *error)
{
    char *path = path_in(dir, "config.json"), *text = NULL;
    size_t len = 0;
    bool ok = folder_text(&text, &len, dir, "config.json", error) &&
              config_parse(&folder->config, text, len, shown_path(path), error) &&
              folder_read_generation(folder, dir, error);
    if (ok)
        note_config(&folder->notes, text, len);
    const double *limit = folder->config.time_step_limit;
    if (ok && folder->config.kind == MODEL_MAMBA2 && (limit[0] > 0.0 || limit[1] < INFINITY))
        note_add(&folder->notes,
                 "time_step_limit holds for every token here; Transformers forgets it "
                 "after the prompt, and may write other words");
    free(text), free(path);
    return ok;
}

/* The ids that end a text, from the folder of a tokenizer, for a model that names none itself. */
static bool folder_borrow_ends(ModelFolder *folder, const char *dir, Error *error)
{
    Generation *own = &folder->generation;
    if (own->n_stop > 0 || own->begin != UINT32_MAX ||
        (!path_exists(dir, "config.json") && !path_exists(dir, "generation_config.json")))
        return true;
    Sampling usual = own->usual;
    bool ok = folder_read_generation(folder, dir, error);
    own->usual = usual;
    return ok;
}

/* What tokenizer_config.json says that tokenizer.json says too. */
enum { SAYS_BEGIN, SAYS_END, SAYS_SPACE, SAYS_COUNT };

static const struct {
    const char *name, *does;
} config_says[SAYS_COUNT] = {{"add_bos_token", "a token before each text"},
                             {"add_eos_token", "a token after each text"},
                             {"add_prefix_space", "a space before each text"}};

/* 1, 0 or, of what it says nothing, as it was; and the class, if it names one. */
static void settings_read(int said[SAYS_COUNT], JsonText *named, Json *json)
{
    json->python = true;
    json_enter_object(json);
    for (JsonText key = {NULL, 0}; json_next_key(json, &key);) {
        int k = 0;
        bool on = false;
        while (k < SAYS_COUNT && !json_is(key, config_says[k].name))
            k++;
        if (json_is(key, "tokenizer_class") && json_peek(json) == JSON_STRING)
            json_string(json, named);
        else if (k == SAYS_COUNT || json_peek(json) != JSON_BOOLEAN)
            json_skip(json);
        else if (json_boolean(json, &on))
            said[k] = on;
    }
}

/* Notes where tokenizer_config.json (text, len bytes), or the class that it names, contradicts
   tokenizer.json. Transformers goes by the one or the other, as its version and the class have it;
   here the second holds. A file that is no JSON is noted, too. */
void note_settings(Text *notes, const Tokenizer *tokenizer, const char *text, size_t len)
{
    Error error;
    Json json;
    static const char usual[] = "GPTNeoXTokenizer (as Transformers has it where none is named)";
    JsonText named = {usual, sizeof usual - 1};
    int said[SAYS_COUNT] = {-1, -1, -1};
    const Stages *stages = &tokenizer->stages;
    bool space = false, bytes = false;
    json_open(&json, text, len, "tokenizer_config.json", &error);
    settings_read(said, &named, &json);
    if (!json_end(&json))
        note_add(notes, "%s; it is left out", error.text);
    for (size_t i = 0; i < stages->count; i++) {
        const Stage *stage = &stages->stage[i];
        bytes = bytes || stage->kind == STAGE_BYTES;
        space = space || (stage->kind == STAGE_PREFIX && stage->text_len == 1);
    }
    const bool does[SAYS_COUNT] = {tokenizer->begin.count > 0, tokenizer->end.count > 0, space};
    bool llama = strncmp(named.bytes, "Llama", 5) == 0;
    bool own = llama || strncmp(named.bytes, "GPTNeoX", 7) == 0; /* a way of its own */
    bool prepends = false;
    for (size_t i = 0; i < tokenizer->normalizer.count; i++)
        prepends = prepends || tokenizer->normalizer.step[i].kind == NORMAL_PREPEND;
    if (llama && prepends)
        note_add(notes,
                 "Transformers 5 makes a %s anew from its tokens and merges: a text that begins "
                 "with a space, or goes on after a special token, has other ids there",
                 shown_name(named.bytes).text);
    for (int k = 0; k < SAYS_COUNT && !json.failed; k++) {
        bool by_class = said[k] < 0 && own && k != SAYS_SPACE;
        int says = by_class ? llama && k == SAYS_BEGIN : said[k];
        if (says < 0 || says == does[k] || (k == SAYS_SPACE ? !bytes : !own))
            continue;
        note_add(
            notes,
            "%s is %s %s%s, but tokenizer.json puts %s%s; it is followed, though some versions "
            "of Transformers go by the other",
            config_says[k].name, says ? "true" : "false",
            by_class ? "for a " : "in tokenizer_config.json",
            !by_class              ? ""
            : named.bytes == usual ? usual
                                   : shown_name(named.bytes).text,
            does[k] ? "" : "not ", config_says[k].does);
    }
    json_close(&json);
}

/* The tokenizer.json of a folder, and what there is to say of it. */
bool folder_tokenizer(Tokenizer *tokenizer, Text *notes, const char *dir, Error *error)
{
    char *path = folder_path(dir, "tokenizer.json", error), *text = NULL;
    size_t len = 0;
    Error why;
    bool ok = path != NULL && tokenizer_read(tokenizer, path, error);
    free(path);
    if (!ok)
        return false;
    if (!path_exists(dir, "tokenizer_config.json"))
        note_settings(notes, tokenizer, "{}", 2);
    else if (folder_text(&text, &len, dir, "tokenizer_config.json", &why))
        note_settings(notes, tokenizer, text, len);
    else
        note_add(notes, "%s; it is left out", why.text);
    free(text);
    return true;
}

/* The folder's own tokenizer.json, if it has one; or that of another, `from`. */
static bool folder_read_tokenizer(ModelFolder *folder, const char *dir, const char *from,
                                  Error *error)
{
    if (from != NULL && !folder_borrow_ends(folder, from, error))
        return false;
    dir = from != NULL ? from : dir;
    if (from == NULL && !path_exists(dir, "tokenizer.json"))
        return true;
    if (!folder_tokenizer(&folder->tokenizer, &folder->notes, dir, error))
        return false;
    folder->has_tokenizer = true;
    return folder->tokenizer.n_token <= folder->config.vocab_size ||
           fail(error, "%s/tokenizer.json: has ids up to %zu, but the model knows only %zu tokens",
                shown_path(dir), folder->tokenizer.n_token - 1, folder->config.vocab_size);
}

/* A tensor that is to be run: one in F64 becomes one in F32, which is all that steps know. */
static bool folder_expect(const Tensor **tensor, ModelFolder *folder, const char *name, size_t rank,
                          const size_t *shape, Error *error)
{
    if (!shards_expect(tensor, &folder->shards, name, rank, shape, error))
        return false;
    folder->n_used++;
    if ((*tensor)->type != TENSOR_F64)
        return true;
    Tensor made = **tensor;
    float *numbers = NEW(float, made.count);
    tensor_to_float(numbers, *tensor);
    made.type = TENSOR_F32;
    made.bytes = made.count * sizeof *numbers;
    made.data = (const unsigned char *)numbers;
    folder->made[folder->n_made] = made;
    *tensor = &folder->made[folder->n_made++];
    return true;
}

/* Whether two tensors hold the same bits. */
static bool tensors_equal(const Tensor *a, const Tensor *b)
{
    return a->type == b->type && a->bytes == b->bytes && memcmp(a->data, b->data, a->bytes) == 0;
}

/* The head: a matrix of its own, or the embeddings. A config.json may say that they are tied, and
   the files have another head all the same: then that is what was trained, and it is taken. */
static bool folder_find_head(ModelFolder *folder, const size_t *shape, Error *error)
{
    const char *name = "lm_head.weight";
    const Tensor *head = shards_find(&folder->shards, name);
    bool tied = folder->config.tie_word_embeddings;
    folder->head = folder->embeddings;
    if (tied && head != NULL &&
        tensors_equal(head, shards_find(&folder->shards, folder->embeddings->name))) {
        folder->n_used++;
        return true;
    }
    if (tied && head == NULL)
        return true;
    if (tied)
        note_add(&folder->notes,
                 "%s is not the embeddings, to which config.json ties it; it is used", name);
    return folder_expect(&folder->head, folder, name, 2, shape, error);
}

/* Embeddings, last norm and head. The table may have more rows than config.json says: a vocabulary
   is padded to a round number. The first published models call it "embedding"; a base model's names
   have no prefix. */
static bool folder_find_ends(ModelFolder *folder, Error *error)
{
    static const char *const names[] = {"backbone.embeddings.weight", "backbone.embedding.weight",
                                        "embeddings.weight", "embedding.weight"};
    MambaConfig *config = &folder->config;
    const Shards *shards = &folder->shards;
    size_t shape[2] = {config->vocab_size, config->hidden_size}, which = 0;
    char norm[NAME_ROOM];
    while (which < TABLE_SIZE(names) && shards_find(shards, names[which]) == NULL)
        which++;
    which = which == TABLE_SIZE(names) ? 0 : which;
    folder->prefix = which < 2 ? "backbone." : "";
    snprintf(norm, sizeof norm, "%snorm_f.weight", folder->prefix);
    const Tensor *table = shards_find(shards, names[which]);
    if (table != NULL && table->rank == 2 && table->shape[0] > shape[0] &&
        table->shape[0] <= CONFIG_MAX_VOCAB)
        config->vocab_size = shape[0] = table->shape[0];
    if (!folder_expect(&table, folder, names[which], 2, shape, error) ||
        !folder_expect(&folder->norm_f, folder, norm, 1, shape + 1, error) ||
        !tensor_is_finite(folder->norm_f, shards_file(shards, norm)->path, error))
        return false;
    folder->embeddings = table;
    folder->print =
        hash_bytes(&config->hidden_size, sizeof config->hidden_size, 1 + (uint64_t)config->kind);
    folder->print = hash_bytes(table->data, smaller(table->bytes, 4096), folder->print);
    folder->print = hash_bytes(folder->norm_f->data, folder->norm_f->bytes, folder->print);
    return folder_find_head(folder, shape, error);
}

/* Every tensor of every layer, with the shape that config.json asks for. Those that are no matrices
   are looked at number by number; a matrix is when it is used. */
static bool folder_find_layers(ModelFolder *folder, Error *error)
{
    TensorShape shape[BLOCK_TENSORS];
    size_t layers = folder->config.num_hidden_layers;
    layer_shapes(shape, &folder->config);
    folder->part = NEW(const Tensor *, layers *BLOCK_TENSORS);
    for (size_t i = 0; i < layers * BLOCK_TENSORS; i++) {
        size_t k = i % BLOCK_TENSORS;
        const TensorShape *part = &shape[k];
        bool matrix = k == IN_PROJ_WEIGHT || k == X_PROJ_WEIGHT || k == DT_PROJ_WEIGHT ||
                      k == OUT_PROJ_WEIGHT;
        char name[NAME_ROOM];
        if (part->count == 0)
            continue;
        snprintf(name, sizeof name, "%slayers.%zu.%s", folder->prefix, i / BLOCK_TENSORS,
                 part->name);
        const Tensor **tensor = &folder->part[i];
        if (!folder_expect(tensor, folder, name, part->rank, part->shape, error) ||
            (!matrix &&
             !tensor_is_finite(*tensor, shards_file(&folder->shards, name)->path, error)))
            return false;
        folder->print = hash_bytes((*tensor)->data, smaller((*tensor)->bytes, 256), folder->print);
    }
    return true;
}

/* What the files hold besides, if anything: layers that config.json does not count, say. */
static void folder_note_unused(ModelFolder *folder)
{
    size_t tensors = 0;
    for (size_t i = 0; i < folder->shards.n_file; i++)
        tensors += folder->shards.file[i].n_tensor;
    if (tensors > folder->n_used)
        note_add(&folder->notes, "%zu of the %zu tensors in the files are not used",
                 tensors - folder->n_used, tensors);
}

/* A name as Hugging Face's hub has it, owner/model, with or without the hub's address before it,
   and nothing of a path besides; or NULL. */
static const char *hub_name(const char *name)
{
    static const char hub[] = "https://huggingface.co/";
    if (strncmp(name, hub, sizeof hub - 1) == 0)
        name += sizeof hub - 1;
    const char *slash = strchr(name, '/');
    bool fits = slash != NULL && slash != name && slash[1] != '\0' &&
                strchr(slash + 1, '/') == NULL && name[0] != '.' && name[0] != '~';
    return fits ? name : NULL;
}

static bool folder_is_one(const char *dir, Error *error)
{
    struct stat info;
    int status = stat(dir, &info), why = errno;
    const char *name = hub_name(dir);
    if (status != 0 && why == ENOENT && name != NULL)
        return fail(error,
                    "%s: there is no such folder. Nothing is downloaded here: fetch it with "
                    "Hugging Face's hf download %s --local-dir %s, and give that folder",
                    shown_path(dir), shown_name(name).text, shown_name(strchr(name, '/') + 1).text);
    if (status != 0)
        return fail(error, "%s: %s", shown_path(dir), strerror(why));
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
    bool ok = folder_is_one(dir, error) && folder_read_config(&open, dir, error) &&
              folder_open_weights(&open.shards, dir, error);
    if (ok) /* room for all that may be made; the tensors of the files do not move any more */
        open.made = NEW(Tensor, open.config.num_hidden_layers * BLOCK_TENSORS + 3);
    if (!ok || !folder_find_ends(&open, error) ||
        !folder_read_tokenizer(&open, dir, tokenizer, error) || !folder_find_layers(&open, error)) {
        model_folder_close(&open);
        return false;
    }
    folder_note_unused(&open);
    *folder = open;
    return true;
}

#endif /* CH05_MODEL_FOLDER */
