/* Checkpoints: a model in its folder, and a training run in a file.

   HOLDS   lists of named arrays, written to a safetensors file and read back, all or none; the
           lock that keeps two runs from one checkpoint; the files that Hugging Face's layout wants
           beside the weights. What is written here opens in Transformers, and the other way round
   FOR     language_model.c, which knows the names: to this file a model is its list of arrays */

#ifndef CH05_CHECKPOINTS
#define CH05_CHECKPOINTS

#include "config.c"
#include "safetensors.c"
#include "words.c"
#include <sys/file.h>

/* ===================================== Named arrays ======================================== */

/* An array under the name that it has in a file. */
typedef struct {
    char name[128];
    void *values;
    TensorType type;
    size_t shape[3], rank;
} SavedTensor;

/* The arrays of a model or of a training run; free(list.tensor) when done. */
typedef struct {
    SavedTensor *tensor; /* (count) */
    size_t count;
} SavedList;

/* Adds an array, "mean." and "norm_f" making the name "mean.norm_f"; an empty one is left out. */
void saved_add(SavedList *list, const char *prefix, const char *name, TensorType type, void *values,
               size_t rank, const size_t *shape)
{
    SavedTensor saved;
    size_t count = 1;
    memset(&saved, 0, sizeof saved);
    for (size_t i = 0; i < rank; i++)
        count *= saved.shape[i] = shape[i];
    if (count == 0)
        return;
    snprintf(saved.name, sizeof saved.name, "%s%s", prefix, name);
    saved.values = values;
    saved.type = type;
    saved.rank = rank;
    list->tensor = (SavedTensor *)array_grow(list->tensor, list->count, sizeof saved);
    list->tensor[list->count++] = saved;
}

/* Writes a list whole or not at all. `settings` says which training run it belongs to; NULL: it is
   a model's parameters. */
bool saved_write(const SavedList *list, const char *settings, const char *path, Error *error)
{
    SafetensorsWriter writer;
    safetensors_writer_init(&writer);
    safetensors_add_metadata(&writer, settings == NULL ? "format" : "settings",
                             settings == NULL ? "pt" : settings);
    for (size_t i = 0; i < list->count; i++)
        safetensors_add(&writer, list->tensor[i].name, list->tensor[i].type, list->tensor[i].values,
                        list->tensor[i].rank, list->tensor[i].shape);
    bool ok = safetensors_write(&writer, path, error);
    safetensors_writer_free(&writer);
    return ok;
}

/* Whether a file was written with these settings. */
static bool settings_agree(const Safetensors *file, const char *settings, const char *path,
                           Error *error)
{
    const char *was = safetensors_metadata(file, "settings");
    if (was == NULL)
        return fail(error, "%s: is no checkpoint of a training run", path);
    return strcmp(was, settings) == 0 || fail(error, "%s: belongs to a run with %.100s", path, was);
}

/* Fills the first `count` arrays of a list from a file in which every one must be, with its shape,
   and the floats finite: all of them, or, with an error, none. Parameters (settings NULL) may have
   any type of floats. */
bool saved_read(const SavedList *list, size_t count, const char *settings, const char *path,
                Error *error)
{
    Safetensors file;
    const Tensor *found;
    if (!safetensors_open(&file, path, error))
        return false;
    bool ok = settings == NULL || settings_agree(&file, settings, path, error);
    for (size_t i = 0; ok && i < count; i++)
        ok = safetensors_expect(&found, &file, list->tensor[i].name,
                                settings == NULL ? TENSOR_ANY : list->tensor[i].type,
                                list->tensor[i].rank, list->tensor[i].shape, error) &&
             (list->tensor[i].type != TENSOR_F32 || tensor_is_finite(found, path, error));
    for (size_t i = 0; ok && i < count; i++) {
        found = safetensors_find(&file, list->tensor[i].name);
        if (list->tensor[i].type == TENSOR_F32)
            tensor_to_float((float *)list->tensor[i].values, found);
        else
            memcpy(list->tensor[i].values, found->data, found->bytes);
    }
    safetensors_close(&file);
    return ok;
}

/* Who writes a checkpoint: one run at a time. */
typedef struct {
    int descriptor; /* -1 if nothing is locked */
    char *path;     /* of the lock, a file beside the checkpoint, gone when the run is */
} RunLock;

/* Locks the file `path`, made if need be. False if another run has it; *descriptor is -1 where
   there are no locks. */
static bool file_lock(int *descriptor, const char *path)
{
    struct stat mine, there;
    for (;;) {
        int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        bool locked = file >= 0 && flock(file, LOCK_EX | LOCK_NB) == 0;
        bool others = file >= 0 && !locked && errno == EWOULDBLOCK;
        *descriptor = locked ? file : -1;
        if (locked && fstat(file, &mine) == 0 && stat(path, &there) == 0 &&
            mine.st_ino == there.st_ino)
            return true;
        if (file >= 0)
            close(file);
        if (!locked)
            return !others;
    } /* the run that had it before has removed it meanwhile: the name is another file's */
}

/* Two runs that write one checkpoint would go on from each other's. Fails if another run has it; a
   place that knows no locks, or is no file, has none. A link is what it leads to. NULL: there is no
   checkpoint. */
bool run_lock(RunLock *lock, const char *checkpoint, Error *error)
{
    struct stat info;
    lock->descriptor = -1;
    lock->path = NULL;
    if (checkpoint == NULL || (stat(checkpoint, &info) == 0 && !S_ISREG(info.st_mode)))
        return true;
    char *real = realpath(checkpoint, NULL);
    size_t room = strlen(real != NULL ? real : checkpoint) + 8;
    lock->path = NEW(char, room);
    snprintf(lock->path, room, "%s.lock", real != NULL ? real : checkpoint);
    free(real);
    if (file_lock(&lock->descriptor, lock->path))
        return true;
    free(lock->path);
    lock->path = NULL;
    return fail(error,
                "%s: another training is writing this checkpoint; give one of the two another "
                "--checkpoint, and another --out",
                checkpoint);
}

void run_unlock(RunLock *lock)
{
    if (lock->path) {
        unlink(lock->path);
        close(lock->descriptor);
    }
    free(lock->path);
}

/* ================================== A model in its folder ================================== */

/* What a config.json of Mamba-2 says besides; limits that are no limits are left out, for not every
   reader of JSON knows Infinity. */
static void write_config_heads(FILE *out, const MambaConfig *config)
{
    const double *limit = config->time_step_limit;
    fprintf(out,
            "  \"num_heads\": %zu,\n  \"head_dim\": %zu,\n  \"n_groups\": %zu,\n"
            "  \"chunk_size\": %zu,\n",
            config->num_heads, config->head_dim, config->n_groups, config->chunk_size);
    if (isinf(limit[1]) && limit[0] > 0.0)
        fprintf(out, "  \"time_step_limit\": [%#.17g, Infinity],\n", limit[0]);
    else if (!isinf(limit[1]))
        fprintf(out, "  \"time_step_limit\": [%#.17g, %#.17g],\n", limit[0], limit[1]);
}

static void write_config(FILE *out, const MambaConfig *config)
{
    static const char *const architecture[MODEL_KINDS] = {
        "MambaForCausalLM", "FalconMambaForCausalLM", "Mamba2ForCausalLM"};
    fprintf(out,
            "{\n  \"architectures\": [\"%s\"],\n  \"model_type\": \"%s\",\n"
            "  \"bos_token_id\": %d,\n  \"eos_token_id\": %d,\n  \"pad_token_id\": %d,\n"
            "  \"vocab_size\": %zu,\n  \"hidden_size\": %zu,\n  \"intermediate_size\": %zu,\n"
            "  \"state_size\": %zu,\n  \"num_hidden_layers\": %zu,\n  \"conv_kernel\": %zu,\n"
            "  \"expand\": %zu,\n  \"time_step_rank\": %zu,\n  \"hidden_act\": \"silu\",\n",
            architecture[config->kind], model_type_name[config->kind], WORD_END, WORD_END, WORD_END,
            config->vocab_size, config->hidden_size, config->intermediate_size, config->state_size,
            config->num_hidden_layers, config->conv_kernel, config->expand, config->time_step_rank);
    if (config->kind == MODEL_FALCON_MAMBA)
        fprintf(out, "  \"mixer_rms_eps\": %g,\n", config->mixer_rms_eps);
    if (config->kind == MODEL_MAMBA2)
        write_config_heads(out, config);
    fprintf(out,
            "  \"use_bias\": %s,\n  \"use_conv_bias\": %s,\n  \"tie_word_embeddings\": %s,\n"
            "  \"layer_norm_epsilon\": %g,\n  \"initializer_range\": %g,\n"
            "  \"time_step_min\": %g,\n  \"time_step_max\": %g,\n  \"time_step_floor\": %g,\n"
            "  \"rms_norm\": true,\n  \"residual_in_fp32\": true,\n"
            "  \"torch_dtype\": \"float32\"\n}\n",
            config->use_bias ? "true" : "false", config->use_conv_bias ? "true" : "false",
            config->tie_word_embeddings ? "true" : "false", config->layer_norm_epsilon,
            config->initializer_range, config->time_step_min, config->time_step_max,
            config->time_step_floor);
}

/* One of the folder's text files, whole or not at all. */
static bool write_in(const char *folder, const char *file, const MambaConfig *config,
                     const Vocabulary *words, Error *error)
{
    char *path = path_in(folder, file);
    OutFile out;
    bool ok = out_open(&out, path, error);
    free(path);
    if (!ok)
        return false;
    if (words != NULL)
        write_tokenizer(out.stream, words);
    else if (config != NULL)
        write_config(out.stream, config);
    else if (strcmp(file, "generation_config.json") == 0)
        fprintf(out.stream,
                "{\n  \"bos_token_id\": %d,\n  \"eos_token_id\": %d,\n  \"pad_token_id\": %d\n}\n",
                WORD_END, WORD_END, WORD_END);
    else
        fputs("{\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\",\n"
              "  \"unk_token\": \"<unk>\",\n  \"eos_token\": \"<end>\",\n"
              "  \"model_max_length\": 1000000\n}\n",
              out.stream);
    return out_close(&out, error);
}

/* Whether folder_save can write there, before hours of work go into a model; nothing is left of
   the trial. */
bool folder_possible(const char *folder, Error *error)
{
    struct stat info;
    if (mkdir(folder, 0777) == 0)
        return rmdir(folder) == 0 || fail(error, "%s: %s", folder, strerror(errno));
    if (errno != EEXIST)
        return fail(error, "%s: cannot be made: %s", folder, strerror(errno));
    if (stat(folder, &info) == 0 && !S_ISDIR(info.st_mode))
        return fail(error, "%s: this is not a folder; a model goes into one", folder);
    char *path = path_in(folder, "model.safetensors");
    bool ok = out_possible(path, error);
    free(path);
    return ok;
}

/* Makes the folder if it is not there and writes all of a model into it, the weights first. */
bool folder_save(const char *folder, const MambaConfig *config, const Vocabulary *words,
                 const SavedList *weights, Error *error)
{
    if (mkdir(folder, 0777) != 0 && errno != EEXIST)
        return fail(error, "%s: cannot be made: %s", folder, strerror(errno));
    char *path = path_in(folder, "model.safetensors");
    bool ok = saved_write(weights, NULL, path, error) &&
              write_in(folder, "config.json", config, NULL, error) &&
              write_in(folder, "tokenizer.json", NULL, words, error) &&
              write_in(folder, "tokenizer_config.json", NULL, NULL, error) &&
              write_in(folder, "generation_config.json", NULL, NULL, error);
    free(path);
    return ok;
}

/* The sizes of a model and its words; the weights are left to saved_read. */
bool folder_open(MambaConfig *config, Vocabulary *words, const char *folder, Error *error)
{
    struct stat info;
    if (stat(folder, &info) == 0 && !S_ISDIR(info.st_mode))
        return fail(error, "%s: this is not a folder; the folder of a model is wanted", folder);
    char *config_path = path_in(folder, "config.json");
    char *words_path = path_in(folder, "tokenizer.json"), *text = NULL;
    size_t len = 0;
    bool ok = config_read(config, config_path, error) &&
              json_file_read(&text, &len, words_path, error) &&
              tokenizer_parse(words, text, len, words_path, error);
    if (ok && words->n_word > config->vocab_size) {
        ok = fail(error, "%s: has %zu words, but vocab_size in config.json is %zu", words_path,
                  words->n_word, config->vocab_size);
        vocabulary_free(words);
    }
    free(config_path), free(words_path), free(text);
    return ok;
}

#endif /* CH05_CHECKPOINTS */
