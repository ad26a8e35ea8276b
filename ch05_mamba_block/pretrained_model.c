/* A pretrained model in memory: its weights where they lie in the mapped files, and what it
   remembers of a text.

   HOLDS   a layer's matrices and vectors (PretrainedLayer), the whole model, opened and closed
           (Pretrained), the bytes that a step reads; the memory of a conversation (Memory), to a
           file and back
   FOR     pretrained.c, which makes steps with it */

#ifndef CH05_PRETRAINED_MODEL
#define CH05_PRETRAINED_MODEL

#include "conversation_files.c"
#include "model_folder.c"
#include "parameters.c" /* on_a_vector */
#include "quantized.c"
#include "token_step.c"

/* ================================= The model in memory ===================================== */
/* A published model is a folder: config.json says the sizes, tokenizer.json how a text becomes
   ids, and model.safetensors, or its shards, holds the weights. Of these nothing is loaded: the
   file is mapped, a page of it is fetched when it is first looked at, and a matrix is used where
   it lies. So a model is open in no time, and programs that run the same one share its memory. */

/* The four matrices of a block, in the order in which a token meets them. Nearly all bytes of a
   layer are theirs: in_proj (2 d_inner, d_model), x_proj (dt_rank + 2 d_state, d_inner), dt_proj
   (d_inner, dt_rank) and out_proj (d_model, d_inner). Mamba-2 has only the first and the last, and
   rows of in_proj for B, C and dt too. */
typedef enum { W_IN, W_X, W_DT, W_OUT, W_COUNT } WeightName;

static const BlockTensor weight_tensor[W_COUNT] = {IN_PROJ_WEIGHT, X_PROJ_WEIGHT, DT_PROJ_WEIGHT,
                                                   OUT_PROJ_WEIGHT};

/* A layer: its matrices as the file has them, and its vectors as floats, which are few. */
typedef struct {
    Weight weight[W_COUNT]; /* in F32, F16 or BF16 as they lie, or copies in 8 or 4 bits */
    MambaBlock block; /* for many tokens at once; its matrices are NULL unless they lie in F32 */
    float *conv;      /* (d_conv, width) the convolution's weights, transposed */
    float *A2;        /* (d_inner, d_state), in lanes: A log2 e, so exp(Delta A) = 2^(Delta A2);
                         Mamba-2's heads have one A each, block.A, and need none */
    float *memory;    /* of all vectors of the block */
} PretrainedLayer;

/* A model as it was published, ready to run. */
typedef struct {
    MambaConfig config;
    ModelFolder folder;     /* its files, mapped into memory; its tokenizer */
    PretrainedLayer *layer; /* (n_layer) */
    Weight embeddings;      /* (vocab, d_model) */
    Weight head;            /* (vocab, d_model) the embeddings again, if they are tied */
    Arena arena;            /* of copies in 8 or 4 bits; bytes NULL: there are none */
    float *norm_f;          /* (d_model) */
} Pretrained;

/* Which of the four matrices a part of a block is; W_COUNT: it is a vector, or not there. */
static int weight_of(int part, const Tensor *tensor)
{
    int which = 0;
    while (which < W_COUNT && (int)weight_tensor[which] != part)
        which++;
    return tensor != NULL && tensor->rank == 2 ? which : W_COUNT;
}

/* A layer from its tensors. The vectors (norm, convolution, A_log, D, biases) become floats in
   layer->memory, whatever they were: they are some thousand numbers. A matrix stays, or becomes a
   copy in few bits in the arena. One that lies there in F32 serves chapter 5's block as it is. */
static void layer_read(PretrainedLayer *layer, const Tensor *const *part, size_t bits, Arena *arena)
{
    size_t used = 0, room = 0;
    for (int k = 0; k < BLOCK_TENSORS; k++)
        if (part[k] != NULL && weight_of(k, part[k]) == W_COUNT)
            room += on_a_vector(part[k]->count);
    layer->memory = NEW(float, room);
    for (int k = 0; k < BLOCK_TENSORS; k++) {
        float **to = &layer->block.params.tensor[k];
        if (part[k] == NULL) /* a bias that this model does not have */
            continue;
        if (weight_of(k, part[k]) < W_COUNT) {
            Weight *weight = &layer->weight[weight_of(k, part[k])];
            *weight = weight_kept(part[k], bits, arena);
            *to = weight->type == TENSOR_F32 ? (float *)(void *)weight->data : NULL;
        } else {
            *to = layer->memory + used;
            tensor_to_float(*to, part[k]);
            used += on_a_vector(part[k]->count);
        }
    }
}

/* What one layer remembers, in floats: the last d_conv - 1 inputs of its convolution, and the
   states of its scan, filled up to whole vectors of channels. */
static size_t conv_floats(const MambaConfig *config)
{
    return config_conv_width(config) * (config->conv_kernel - 1);
}

static size_t x_floats(const MambaConfig *config)
{
    if (layer_has_heads(config)) /* a head's states lie side by side as they are */
        return config->intermediate_size * config->state_size;
    return states_floats(config->intermediate_size, config->state_size);
}

/* One layer's states in rows (d_inner, d_state), from x as it is kept, or back into it. */
static void states_turn(float *rows, float *x, const MambaConfig *config, bool back)
{
    size_t d_inner = config->intermediate_size, d_state = config->state_size;
    if (layer_has_heads(config))
        memcpy(back ? x : rows, back ? rows : x, d_inner * d_state * sizeof(float));
    else if (back)
        states_in_lanes(x, rows, d_inner, d_state);
    else
        states_in_rows(rows, x, d_inner, d_state);
}

/* What a step would otherwise work out again for each token: A = -exp(A_log), which never changes,
   times log2 e and with the states of neighbouring channels side by side; and the convolution's
   weights (d_inner, d_conv) turned to (d_conv, d_inner), so that neighbouring channels are one
   vector there too. */
static void layer_prepare(PretrainedLayer *layer, const MambaConfig *config)
{
    size_t d_inner = config->intermediate_size, d_state = config->state_size;
    size_t d_conv = config->conv_kernel, width = config_conv_width(config);
    size_t states = layer_has_heads(config) ? 0 : x_floats(config);
    const float log2_e = 1.44269504f;
    layer->block.config = *config;
    layer->block.A = NEW(float, layer_A_count(config));
    layer->A2 = NEW(float, states);
    layer->conv = NEW(float, width *d_conv);
    /* A = -exp(A_log) (d_inner, d_state); 2^(Delta A log2 e) = exp(Delta A), and 2^x is the
       exponential that a processor finds easiest */
    layer_refresh(&layer->block);
    if (states > 0)
        states_in_lanes(layer->A2, layer->block.A, d_inner, d_state);
    for (size_t i = 0; i < states; i++)
        layer->A2[i] *= log2_e;
    /* conv = conv1d.weight.T (d_conv, width) */
    const float *weight = layer->block.params.tensor[CONV1D_WEIGHT];
    for (size_t d = 0; d < width; d++)
        for (size_t j = 0; j < d_conv; j++)
            layer->conv[j * width + d] = weight[d * d_conv + j];
}

/* Bytes that all matrices take in 8 or 4 bits: a quarter or an eighth of F32, and the scales. */
static size_t arena_bytes(const ModelFolder *folder, size_t bits)
{
    size_t bytes = int_bytes(folder->head->shape[0], folder->head->shape[1], bits);
    for (size_t i = 0; i < folder->config.num_hidden_layers; i++)
        for (int w = 0; w < W_COUNT; w++) {
            const Tensor *matrix = folder->part[i * BLOCK_TENSORS + weight_tensor[w]];
            if (weight_of(weight_tensor[w], matrix) < W_COUNT)
                bytes += int_bytes(matrix->shape[0], matrix->shape[1], bits);
        }
    return bytes;
}

/* A model from its folder, all of it checked; its matrices in 8 or 4 bits, or (0) as they are; its
   tokenizer from another folder, or (NULL) its own. Nobody may shorten the files before
   pretrained_close. */
bool pretrained_open(Pretrained *model, const char *dir, const char *tokenizer, size_t bits,
                     Error *error)
{
    ModelFolder folder;
    if (!model_folder_open(&folder, dir, tokenizer, error))
        return false;
    memset(model, 0, sizeof *model);
    /* from here on nothing can go wrong: the folder has every tensor, in its right shape */
    model->folder = folder;
    model->config = folder.config;
    if (bits > 0)
        model->arena = arena_new(arena_bytes(&folder, bits));
    /* The embeddings and the head are one table, if they are tied, but used in two ways. A step
       looks up one row of the embeddings, so they stay as they are; it reads all of the head. */
    model->embeddings = weight_from_tensor(folder.embeddings);
    model->head = weight_kept(folder.head, bits, &model->arena);
    model->norm_f = NEW(float, model->config.hidden_size);
    tensor_to_float(model->norm_f, folder.norm_f);
    model->layer = NEW(PretrainedLayer, model->config.num_hidden_layers);
    for (size_t i = 0; i < model->config.num_hidden_layers; i++) {
        layer_read(&model->layer[i], folder.part + i * BLOCK_TENSORS, bits, &model->arena);
        layer_prepare(&model->layer[i], &model->config);
    }
    return true;
}

/* Gives back what was asked for, and lets go of the files. */
void pretrained_close(Pretrained *model)
{
    for (size_t i = 0; i < model->config.num_hidden_layers; i++) {
        PretrainedLayer *layer = &model->layer[i];
        for (int w = 0; w < W_COUNT; w++)
            weight_free(&layer->weight[w]);
        free(layer->memory), free(layer->conv), free(layer->A2), free(layer->block.A);
    }
    free(model->layer), free(model->norm_f), free(model->arena.bytes);
    weight_free(&model->embeddings), weight_free(&model->head);
    model_folder_close(&model->folder);
    memset(model, 0, sizeof *model);
}

/* The right side of the equation: bytes that are read for each token. All matrices; of each channel
   the convolution's weights and three vectors; A, and the states, which are written too. */
size_t pretrained_step_bytes(const Pretrained *model)
{
    const MambaConfig *config = &model->config;
    size_t vectors = config_conv_width(config) * (config->conv_kernel + 1) + config->hidden_size;
    size_t states = 2 * x_floats(config) + conv_floats(config);
    vectors += config->intermediate_size * (layer_has_heads(config) ? 1 : 2); /* norm; bias, D */
    size_t bytes = weight_bytes(&model->head);
    for (size_t i = 0; i < config->num_hidden_layers; i++) {
        for (int w = 0; w < W_COUNT; w++)
            bytes += weight_bytes(&model->layer[i].weight[w]);
        bytes += (vectors + states) * sizeof(float);
    }
    return bytes;
}

/* ============================== Memory of a conversation =================================== */
/* Everything that a model knows of the text so far, be it ten words or ten thousand. A transformer
   keeps keys and values of every token; this never grows. What does not survive here is forgotten:
   nobody looks back at the text. That is also why it can be put into a small file and gone on with
   another day, to the last bit. */

typedef struct {
    size_t count; /* tokens so far */
    float *conv;  /* (n_layer, d_conv - 1, width) the last inputs of each convolution */
    float *x; /* (n_layer, d_inner, d_state) the states, each layer's in lanes; heads' in rows */
    float *final; /* (d_model) after the last norm, of the last token: its logits come from there */
} Memory;

Memory memory_new(const MambaConfig *config)
{
    Memory memory = {0, NEW(float, config->num_hidden_layers *conv_floats(config)),
                     NEW(float, config->num_hidden_layers *x_floats(config)),
                     NEW(float, config->hidden_size)};
    return memory;
}

void memory_free(Memory *memory)
{
    free(memory->conv), free(memory->x), free(memory->final);
}

/* A file has the states in rows (n_layer, d_inner, d_state), as Hugging Face has them: here and
   back. */
static void memory_turn(float *rows, const Memory *memory, const MambaConfig *config, bool back)
{
    size_t states = config->intermediate_size * config->state_size;
    for (size_t i = 0; i < config->num_hidden_layers; i++)
        states_turn(rows + i * states, memory->x + i * x_floats(config), config, back);
}

/* The memory as a file wants it; .ssm is new and to be freed. */
static SavedState memory_as_saved(const Memory *memory, const Pretrained *model)
{
    const MambaConfig *config = &model->config;
    size_t states = config->num_hidden_layers * config->intermediate_size * config->state_size;
    SavedState saved = {model->folder.print, memory->count, memory->conv, NEW(float, states),
                        memory->final};
    memory_turn(saved.ssm, memory, config, false);
    return saved;
}

/* Writes a memory, and the tokens that count as said, to one file. */
bool memory_save(const Memory *memory, const Sampler *sampler, const Pretrained *model,
                 const char *path, Error *error)
{
    SavedState saved = memory_as_saved(memory, model);
    bool ok = state_write(&saved, sampler, &model->config, path, error);
    free(saved.ssm);
    return ok;
}

/* A memory from an open file; `memory` and `sampler` are those of the model, and stay as they
   are if it fails. */
bool memory_take(Memory *memory, Sampler *sampler, const Safetensors *file, const Pretrained *model,
                 Error *error)
{
    SavedState saved = memory_as_saved(memory, model);
    bool ok = state_read(&saved, sampler, file, &model->config, error);
    memory->count = (size_t)saved.tokens;
    memory_turn(saved.ssm, memory, &model->config, true);
    free(saved.ssm);
    return ok;
}

bool memory_load(Memory *memory, Sampler *sampler, const Pretrained *model, const char *path,
                 Error *error)
{
    Safetensors file;
    if (!safetensors_open(&file, path, error))
        return false;
    bool ok = memory_take(memory, sampler, &file, model, error);
    safetensors_close(&file);
    return ok;
}

#endif /* CH05_PRETRAINED_MODEL */
