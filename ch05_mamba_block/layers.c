/* A layer of a model, whichever block it is: chapter 5's, Mamba-2's, Mamba-3's, or one of a
   Transformer's.

   HOLDS   shapes, parameters, states, caches, forward and backward pass of a layer, each by
           config.kind from mamba_block.c, mamba2_block.c, mamba3_block.c or transformer_block.c
   FOR     parameters.c and language_model.c, which stack layers, and who runs or looks at a model:
           none of them needs to know what kind it is */

#ifndef CH05_LAYERS
#define CH05_LAYERS

#include "mamba_block.c"
#include "mamba2_block.c"
#include "mamba3_block.c"
#include "transformer_block.c"

static bool layer_has_heads(const MambaConfig *config)
{
    return config->kind == MODEL_MAMBA2;
}

static bool layer_turns(const MambaConfig *config)
{
    return config->kind == MODEL_MAMBA3;
}

/* Attention, or the MLP beside it. */
static bool layer_of_transformer(const MambaConfig *config)
{
    return config->kind == MODEL_ATTENTION || config->kind == MODEL_MLP;
}

/* The config of one layer: the model's, but for its kind, if the stack has several. */
MambaConfig layer_config(const MambaConfig *config, size_t layer)
{
    MambaConfig own = *config;
    char letter = config->stack[0] != '\0' ? config->stack[layer] : '\0';
    if (letter == 'a' || letter == 'p')
        own.kind = letter == 'a' ? MODEL_ATTENTION : MODEL_MLP;
    return own;
}

/* ====================================== Parameters ========================================= */

/* What the layer has, under the names of a BlockTensor; a count of 0: this kind has no such. */
void layer_shapes(TensorShape shapes[BLOCK_TENSORS], const MambaConfig *config)
{
    if (layer_of_transformer(config))
        transformer_block_shapes(shapes, config);
    else if (layer_turns(config))
        turn_block_shapes(shapes, config);
    else if (layer_has_heads(config))
        head_block_shapes(shapes, config);
    else
        block_shapes(shapes, config);
}

/* Lays the parameters out in `memory`, NULL where this kind has none; or, if memory is NULL, only
   counts: returns how many floats. */
size_t layer_params_place(BlockParams *params, float *memory, const MambaConfig *config)
{
    TensorShape shapes[BLOCK_TENSORS];
    layer_shapes(shapes, config);
    return block_params_place(params, memory, shapes);
}

size_t layer_params_floats(const MambaConfig *config)
{
    BlockParams counted;
    return layer_params_place(&counted, NULL, config);
}

/* Parameters to start from. */
void layer_init(const BlockParams *params, const MambaConfig *config, Random *random)
{
    if (layer_of_transformer(config))
        transformer_block_init(params, config, random);
    else if (layer_turns(config))
        turn_block_init(params, config, random);
    else if (layer_has_heads(config))
        head_block_init(params, config, random);
    else
        block_init(params, config, random);
}

/* How many numbers A has: one for each channel and state, or one for each head; Mamba-3 makes its
   A of every token, and a Transformer has none. */
size_t layer_A_count(const MambaConfig *config)
{
    if (layer_turns(config) || layer_of_transformer(config))
        return 0;
    return layer_has_heads(config) ? config->num_heads
                                   : config->intermediate_size * config->state_size;
}

/* A = -exp(A_log), after every change of the parameters. */
void layer_refresh(MambaBlock *block)
{
    if (layer_has_heads(&block->config))
        head_block_refresh(block);
    else if (layer_A_count(&block->config) > 0)
        block_refresh(block);
}

/* ====================================== A state ============================================ */

size_t layer_state_floats(const MambaConfig *config, size_t batch)
{
    return layer_turns(config)       ? turn_block_state_floats(config, batch)
           : layer_has_heads(config) ? head_block_state_floats(config, batch)
                                     : block_state_floats(config, batch);
}

BlockState layer_state_place(float *memory, const MambaConfig *config, size_t batch)
{
    BlockState turns = {NULL, memory};
    if (layer_turns(config))
        return turns;
    return layer_has_heads(config) ? head_block_state_place(memory, config, batch)
                                   : block_state_place(memory, config, batch);
}

/* ================================ What it works with ======================================= */

/* What a layer computes on its way, or the gradients of that; only one is used. */
typedef struct {
    BlockCache block;
    HeadCache heads;
    TurnCache turns;
    TransformerCache transformer;
} LayerCache;

typedef struct {
    BlockBack block;
    HeadBlockBack heads;
    TurnCache turns;
    TransformerCache transformer[2]; /* attention's, and the MLP's */
} LayerBack;

/* Lays the cache out in `memory`, or, if that is NULL, only counts: returns how many floats. */
size_t layer_cache_place(LayerCache *cache, float *memory, const MambaBlock *block, size_t batch,
                         size_t len, bool training)
{
    if (layer_of_transformer(&block->config))
        return transformer_cache_place(&cache->transformer, memory, &block->config, batch, len,
                                       training);
    if (layer_turns(&block->config))
        return turn_cache_place(&cache->turns, memory, &block->config, batch, len, training);
    if (layer_has_heads(&block->config))
        return head_cache_place(&cache->heads, memory, &block->config, batch, len, training);
    return block_cache_place(&cache->block, memory, block, batch, len, training);
}

/* The same for the gradients of what `cache` holds. */
size_t layer_back_place(LayerBack *back, float *memory, const LayerCache *cache,
                        const MambaBlock *block)
{
    if (layer_of_transformer(&block->config))
        return transformer_cache_place(&back->transformer[block->config.kind == MODEL_MLP], memory,
                                       &block->config, cache->transformer.batch,
                                       cache->transformer.len, false);
    if (layer_turns(&block->config))
        return turn_cache_place(&back->turns, memory, &block->config, cache->turns.batch,
                                cache->turns.len, false);
    if (layer_has_heads(&block->config))
        return head_cache_place(&back->heads, memory, &block->config, cache->heads.batch,
                                cache->heads.len, false);
    return block_back_place(&back->block, memory, &cache->block, block);
}

/* What goes through the cache from now on has its texts there, each of which begins with nothing;
   NULL: rows are texts. Of all blocks only chapter 5's knows of packing. */
void layer_pack(LayerCache *cache, const Packed *texts, const MambaBlock *block)
{
    assert(texts == NULL || block->config.kind <= MODEL_FALCON_MAMBA);
    (void)block;
    cache->block.texts = texts;
}

/* ================================= Forwards and back ======================================= */

/* out (batch, len, d_model) = input + mixer(norm(input)), from a state and to it, or from nothing:
   see block_forward. */
void layer_forward(float *out, const LayerCache *cache, const BlockState *state, const float *input,
                   const MambaBlock *block)
{
    if (layer_of_transformer(&block->config)) {
        assert(state == NULL); /* what attention keeps grows: it has no state */
        transformer_block_forward(out, &cache->transformer, input, block);
    } else if (layer_turns(&block->config))
        turn_block_forward(out, &cache->turns, state, input, block);
    else if (layer_has_heads(&block->config))
        head_block_forward(out, &cache->heads, state, input, block);
    else
        block_forward(out, &cache->block, state, input, block);
}

/* The gradients of the parameters and of input: see block_backward. */
void layer_backward(const BlockParams *grad, float *input_grad, const LayerBack *back,
                    const float *out_grad, const LayerCache *cache, const float *input,
                    const MambaBlock *block)
{
    if (layer_of_transformer(&block->config))
        transformer_block_backward(grad, input_grad,
                                   &back->transformer[block->config.kind == MODEL_MLP], out_grad,
                                   &cache->transformer, input, block);
    else if (layer_turns(&block->config))
        turn_block_backward(grad, input_grad, &back->turns, out_grad, &cache->turns, input, block);
    else if (layer_has_heads(&block->config))
        head_block_backward(grad, input_grad, &back->heads, out_grad, &cache->heads, input, block);
    else
        block_backward(grad, input_grad, &back->block, out_grad, &cache->block, input, block);
}

/* The Delta of a token that was read, mean over all channels: how far the layer moved. Heads are as
   wide as each other. */
double layer_mean_step(const LayerCache *cache, size_t token, const MambaBlock *block)
{
    size_t count = block->config.intermediate_size;
    bool turns = layer_turns(&block->config);
    double sum = 0.0;
    if (turns || layer_has_heads(&block->config)) {
        const float *delta = turns ? cache->turns.delta : cache->heads.delta;
        count = block->config.num_heads;
        for (size_t h = 0; h < count; h++)
            sum += (double)delta[token * count + h];
    } else {
        Scan scan = block_scan(&cache->block, block, NULL);
        for (size_t d = 0; d < count; d++)
            sum += (double)step_size(&scan, token, d);
    }
    return sum / (double)count;
}

#endif /* CH05_LAYERS */
