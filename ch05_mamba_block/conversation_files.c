/* What a conversation leaves in files, as safetensors.

   HOLDS   all that a model remembers of a text (SavedState), written and read: conv (n_layer,
           d_conv - 1, width of the convolution) and ssm (n_layer, d_inner, d_state) as Hugging Face
           lays them out, final (d_model), and seen, the tokens that count as said; logits, row by
           row as they are made (LogitsFile)
   FOR     pretrained.c: --save-state, --load-state, --logits */

#ifndef CH05_CONVERSATION_FILES
#define CH05_CONVERSATION_FILES

#include "config.c"
#include "safetensors.c"
#include "sampling.c"

/* ====================================== A saved state ====================================== */

/* What is saved. The arrays belong to the caller. */
typedef struct {
    uint64_t print;  /* of the model: another one's state means nothing to it */
    uint64_t tokens; /* so far */
    float *conv;     /* (n_layer, d_conv - 1, config_conv_width) */
    float *ssm;      /* (n_layer, d_inner, d_state) */
    float *final;    /* (d_model) */
} SavedState;

static void state_note(SafetensorsWriter *writer, const char *key, uint64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, value);
    safetensors_add_metadata(writer, key, text);
}

bool state_write(const SavedState *state, const Sampler *sampler, const MambaConfig *config,
                 const char *path, Error *error)
{
    size_t layers = config->num_hidden_layers;
    size_t conv_shape[3] = {layers, config->conv_kernel - 1, config_conv_width(config)};
    size_t ssm_shape[3] = {layers, config->intermediate_size, config->state_size};
    SafetensorsWriter writer;
    safetensors_writer_init(&writer);
    safetensors_add_metadata(&writer, "format", "mamba-memory");
    state_note(&writer, "model", state->print);
    state_note(&writer, "tokens", state->tokens);
    safetensors_add(&writer, "conv", TENSOR_F32, state->conv, 3, conv_shape);
    safetensors_add(&writer, "ssm", TENSOR_F32, state->ssm, 3, ssm_shape);
    safetensors_add(&writer, "final", TENSOR_F32, state->final, 1, &config->hidden_size);
    safetensors_add(&writer, "seen", TENSOR_I32, sampler->seen, 1, &sampler->n_seen);
    bool ok = safetensors_write(&writer, path, error);
    safetensors_writer_free(&writer);
    return ok;
}

static bool state_read_note(uint64_t *value, const Safetensors *file, const char *key, Error *error)
{
    const char *text = safetensors_metadata(file, key);
    Error why;
    if (text == NULL)
        return fail(error, "%s: is no saved state: its metadata has no '%s'",
                    shown_path(file->path), key);
    return integer_parse(value, text, 0, UINT64_MAX, &why) ||
           fail(error, "%s: metadata '%s': %s", shown_path(file->path), key, why.text);
}

/* Whether a file fits the model whose print is given, and its tensors. */
static bool state_check(const Tensor *tensor[4], uint64_t *tokens, const Safetensors *file,
                        uint64_t print, const MambaConfig *config, Error *error)
{
    uint64_t of_file = 0;
    size_t conv_shape[3] = {config->num_hidden_layers, config->conv_kernel - 1,
                            config_conv_width(config)};
    size_t ssm_shape[3] = {config->num_hidden_layers, config->intermediate_size,
                           config->state_size};
    if (!state_read_note(&of_file, file, "model", error) ||
        !state_read_note(tokens, file, "tokens", error))
        return false;
    if (of_file != print)
        return fail(error, "%s: was saved by another model", shown_path(file->path));
    const Tensor *seen = safetensors_find(file, "seen");
    size_t n_seen = seen != NULL && seen->rank == 1 ? seen->shape[0] : 0;
    bool ok =
        safetensors_expect(&tensor[0], file, "conv", TENSOR_F32, 3, conv_shape, error) &&
        safetensors_expect(&tensor[1], file, "ssm", TENSOR_F32, 3, ssm_shape, error) &&
        safetensors_expect(&tensor[2], file, "final", TENSOR_F32, 1, &config->hidden_size, error) &&
        safetensors_expect(&tensor[3], file, "seen", TENSOR_I32, 1, &n_seen, error);
    for (size_t i = 0; ok && i < 3; i++)
        ok = tensor_is_finite(tensor[i], file->path, error);
    return ok;
}

/* Fills `state`, whose print must be the file's, and `sampler`; both stay as they are if it
   fails. */
bool state_read(SavedState *state, Sampler *sampler, const Safetensors *file,
                const MambaConfig *config, Error *error)
{
    const Tensor *tensor[4];
    uint64_t tokens = 0;
    int32_t id;
    if (!state_check(tensor, &tokens, file, state->print, config, error))
        return false;
    for (size_t i = 0; i < tensor[3]->count; i++) {
        memcpy(&id, tensor[3]->data + i * sizeof id, sizeof id);
        if (id < 0 || (size_t)id >= config->vocab_size)
            return fail(error, "%s: tensor 'seen' has the id %d, but there are %zu tokens",
                        shown_path(file->path), (int)id, config->vocab_size);
    }
    sampler_forget(sampler);
    for (size_t i = 0; i < tensor[3]->count; i++) {
        memcpy(&id, tensor[3]->data + i * sizeof id, sizeof id);
        sampler_see(sampler, (size_t)id);
    }
    state->tokens = tokens;
    tensor_to_float(state->conv, tensor[0]);
    tensor_to_float(state->ssm, tensor[1]);
    tensor_to_float(state->final, tensor[2]);
    return true;
}

/* ========================================= Logits ========================================== */

/* Tensor `logits` (len, vocab), written as it is made: memory does not grow with the prompt. */
typedef struct {
    OutFile out;
    size_t vocab;
} LogitsFile;

bool logits_open(LogitsFile *file, const char *path, size_t len, size_t vocab, Error *error)
{
    static const float none[1] = {0.0f}; /* the head is written of its shape alone */
    size_t shape[2] = {len, vocab}, head_len;
    SafetensorsWriter writer;
    char *head;
    safetensors_writer_init(&writer);
    safetensors_add(&writer, "logits", TENSOR_F32, none, 2, shape);
    bool ok = writer_head(&head, &head_len, &writer, path, error);
    safetensors_writer_free(&writer);
    if (!ok)
        return false;
    ok = out_open(&file->out, path, error);
    if (ok)
        fwrite(head, 1, head_len, file->out.stream); /* logits_close looks at all writes */
    file->vocab = vocab;
    free(head);
    return ok;
}

/* The next `rows` rows. False: logits_close will say why. */
bool logits_add(LogitsFile *file, const float *logits, size_t rows)
{
    size_t count = rows * file->vocab;
    return fwrite(logits, sizeof(float), count, file->out.stream) == count;
}

bool logits_close(LogitsFile *file, Error *error)
{
    return out_close(&file->out, error);
}

#endif /* CH05_CONVERSATION_FILES */
