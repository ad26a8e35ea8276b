/* All parameters of a language model: in one piece of memory, and as a table by name.

   HOLDS   how they lie in memory; each tensor's name as Hugging Face has it, its shape, and whether
           AdamW lets it decay
   FOR     language_model.c: gradients and the means of AdamW are laid out in the same way */

#ifndef CH05_PARAMETERS
#define CH05_PARAMETERS

#include "layers.c"

/* ===================================== In memory =========================================== */
/* Embeddings, then layer after layer, then the last norm, then a head that is not tied. What is
   laid out alike can be gone over side by side. */

/* All parameters of a model, or all gradients of one, as views into one allocation. */
typedef struct {
    float *memory;      /* (model_floats) */
    float *embeddings;  /* (vocab, d_model) row w is what word w looks like to the model */
    BlockParams *layer; /* (n_layer) */
    float *norm_f;      /* (d_model) the factors of the last norm */
    float *lm_head;     /* (vocab, d_model); the embeddings, if they are tied */
} ModelParams;

/* Every array begins where a vector of floats does. */
static size_t on_a_vector(size_t count)
{
    return (count + 15) / 16 * 16;
}

/* How many floats the parameters take. */
size_t model_floats(const MambaConfig *config)
{
    size_t table = on_a_vector(config->vocab_size * config->hidden_size);
    size_t count = table * (config->tie_word_embeddings ? 1 : 2) + on_a_vector(config->hidden_size);
    for (size_t i = 0; i < config->num_hidden_layers; i++) {
        MambaConfig own = layer_config(config, i);
        count += layer_params_floats(&own);
    }
    return count;
}

/* Zeroed memory with all its views, in the order of the memory; model_params_free when done. */
ModelParams model_params_new(const MambaConfig *config)
{
    ModelParams params;
    size_t table = on_a_vector(config->vocab_size * config->hidden_size);
    params.memory = NEW(float, model_floats(config));
    params.layer = NEW(BlockParams, config->num_hidden_layers);
    params.embeddings = params.memory;
    float *next = params.memory + table;
    for (size_t i = 0; i < config->num_hidden_layers; i++) {
        MambaConfig own = layer_config(config, i);
        next += layer_params_place(&params.layer[i], next, &own);
    }
    params.norm_f = next;
    /* a tied head is no parameter of its own: it is the embeddings, used a second time */
    params.lm_head =
        config->tie_word_embeddings ? params.embeddings : next + on_a_vector(config->hidden_size);
    return params;
}

void model_params_free(ModelParams *params)
{
    free(params->memory);
    free(params->layer);
}

/* ====================================== By name ============================================ */

/* The parameters as one table, for whoever goes over all parameters: AdamW, files, tests. */
typedef struct {
    char name[96]; /* as Hugging Face has it: "backbone.layers.0.mixer.in_proj.weight" */
    float *values; /* (count) */
    size_t shape[3], rank, count;
    bool decays; /* AdamW pulls it towards 0 */
} ModelTensor;

/* How many there are: embeddings, norm_f and lm_head, and BLOCK_TENSORS in each layer, counting
   those that the config leaves out with 0 values. */
size_t model_tensor_count(const MambaConfig *config)
{
    return 3 + config->num_hidden_layers * BLOCK_TENSORS;
}

/* One of the three that belong to no layer; cols 0: a vector. */
static ModelTensor model_table(const char *name, float *values, size_t rows, size_t cols)
{
    ModelTensor tensor;
    memset(&tensor, 0, sizeof tensor);
    snprintf(tensor.name, sizeof tensor.name, "%s", name);
    tensor.values = values;
    tensor.shape[0] = rows;
    tensor.shape[1] = cols;
    tensor.rank = cols > 0 ? 2 : 1;
    tensor.count = rows * (cols > 0 ? cols : 1);
    tensor.decays = tensor.rank > 1;
    return tensor;
}

/* Tensor `which` of a model. Weight decay is for matrices: a bias, a norm's factor or D near 0 is
   no simpler than another, and A_log is a logarithm, whose 0 means nothing. */
ModelTensor model_tensor(const ModelParams *params, const MambaConfig *config, size_t which)
{
    size_t vocab = config->vocab_size, d_model = config->hidden_size;
    if (which == 0)
        return model_table("backbone.embeddings.weight", params->embeddings, vocab, d_model);
    if (which == 1)
        return model_table("backbone.norm_f.weight", params->norm_f, d_model, 0);
    if (which == 2)
        return model_table("lm_head.weight", params->lm_head,
                           config->tie_word_embeddings ? 0 : vocab, d_model);
    /* then layer after layer, BLOCK_TENSORS of each */
    TensorShape shapes[BLOCK_TENSORS];
    size_t layer = (which - 3) / BLOCK_TENSORS, part = (which - 3) % BLOCK_TENSORS;
    MambaConfig own = layer_config(config, layer);
    ModelTensor tensor;
    layer_shapes(shapes, &own);
    snprintf(tensor.name, sizeof tensor.name, "backbone.layers.%zu.%s", layer, shapes[part].name);
    tensor.values = params->layer[layer].tensor[part];
    memcpy(tensor.shape, shapes[part].shape, sizeof tensor.shape);
    tensor.rank = shapes[part].rank;
    tensor.count = shapes[part].count;
    tensor.decays = tensor.rank > 1 && part != A_LOG;
    return tensor;
}

#endif /* CH05_PARAMETERS */
