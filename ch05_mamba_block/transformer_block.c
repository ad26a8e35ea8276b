/* The two layers that a Transformer is stacked of, as layers that learn: attention and an MLP.

   HOLDS   causal attention of several heads whose queries and keys are turned by their place; the
           MLP that stands between attention layers; parameters, cache, forward and backward pass of
           both, norm and residual included
   FOR     layers.c, which stacks them with Mamba's blocks; which_layer.c trains such stacks
   SOURCES A. Vaswani et al., Attention is all you need, arXiv 1706.03762
           J. Su et al., RoFormer, arXiv 2104.09864, equation 34 (places as turns) */

#ifndef CH05_TRANSFORMER_BLOCK
#define CH05_TRANSFORMER_BLOCK

#include "mamba_block.c"

/* ===================================== Their parameters ==================================== */
/* Chapter 5's table with most places free.                                                   */

/* in_proj makes q, k and v of a token, one after the other; or what goes through the MLP's silu. */
void transformer_block_shapes(TensorShape shapes[BLOCK_TENSORS], const MambaConfig *config)
{
    bool attends = config->kind == MODEL_ATTENTION;
    size_t d_model = config->hidden_size;
    size_t rows = attends ? 3 * d_model : config->mlp_size;
    size_t mixed = attends ? d_model : config->mlp_size;
    TensorShape none = {"", {0, 0, 0}, 1, 0, 0};
    TensorShape norm = {"norm.weight", {d_model, 0, 0}, 1, 0, d_model};
    TensorShape in = {"mixer.in_proj.weight", {rows, d_model, 0}, 2, d_model, rows * d_model};
    TensorShape out = {"mixer.out_proj.weight", {d_model, mixed, 0}, 2, mixed, d_model * mixed};
    for (int i = 0; i < BLOCK_TENSORS; i++)
        shapes[i] = none;
    shapes[NORM_WEIGHT] = norm;
    shapes[IN_PROJ_WEIGHT] = in;
    shapes[OUT_PROJ_WEIGHT] = out;
}

/* As chapter 5 starts projections and norms. */
void transformer_block_init(const BlockParams *params, const MambaConfig *config, Random *random)
{
    TensorShape shapes[BLOCK_TENSORS];
    transformer_block_shapes(shapes, config);
    for (int i = 0; i < BLOCK_TENSORS; i++)
        for (size_t k = 0; k < shapes[i].count; k++)
            params->tensor[i][k] = shapes[i].fan_in == 0
                                       ? 1.0f
                                       : (float)((2.0 * random_uniform(random) - 1.0) /
                                                 sqrt((double)shapes[i].fan_in));
}

/* ===================================== What they work with ================================= */

/* All that a forward pass works out; and, a second time, the gradients of it. An MLP has `wide` and
   `mixed` alone. */
typedef struct {
    size_t batch, len;
    float *normed, *scale; /* (batch, len, d_model), (batch, len) */
    float *q, *k, *v;      /* (batch, len, d_model), q and k turned by their place */
    float *weight;         /* (batch, n_head, len, len) softmax(q k); of gradients: (len, len) */
    float *wide;           /* (batch, len, mlp_size) before silu */
    float *mixed;          /* (batch, len, d_model or mlp_size) what goes into out_proj */
    float *turn;           /* (len, d_head) the cosines of a place's turns, then their sines */
    bool keep;             /* for the backward pass */
} TransformerCache;

/* The turns of every place: pair i of a head turns by t / 10000^(2i / d_head). A score is then a
   matter of how far apart two tokens are, and not of where they stand. */
static void turns_fill(float *turn, size_t len, size_t d_head)
{
    size_t half = d_head / 2;
    for (size_t t = 0; t < len; t++)
        for (size_t i = 0; i < half; i++) {
            double angle = (double)t * pow(10000.0, -(double)i / (double)half);
            turn[t * d_head + i] = (float)cos(angle);
            turn[t * d_head + half + i] = (float)sin(angle);
        }
}

/* Lays the cache out in `memory`, or only counts, if that is NULL: returns how many floats. */
size_t transformer_cache_place(TransformerCache *cache, float *memory, const MambaConfig *config,
                               size_t batch, size_t len, bool training)
{
    size_t tokens = batch * len, d_model = config->hidden_size, used = 0;
    memset(cache, 0, sizeof *cache);
    cache->batch = batch;
    cache->len = len;
    cache->keep = training;
    cache->normed = take(memory, &used, tokens * d_model);
    cache->scale = take(memory, &used, tokens);
    if (config->kind == MODEL_MLP) {
        cache->wide = take(memory, &used, tokens * config->mlp_size);
        cache->mixed = take(memory, &used, tokens * config->mlp_size);
        return used;
    }
    cache->q = take(memory, &used, tokens * d_model);
    cache->k = take(memory, &used, tokens * d_model);
    cache->v = take(memory, &used, tokens * d_model);
    cache->mixed = take(memory, &used, tokens * d_model);
    cache->weight = take(memory, &used, batch * (d_model / config->head_dim) * len * len);
    cache->turn = take(memory, &used, len * config->head_dim);
    if (memory != NULL)
        turns_fill(cache->turn, len, config->head_dim);
    return used;
}

/* ======================================== Attention ======================================== */

/* x (batch, len, d_model) with every pair (i, i + half) of every head turned by its place: forth,
   or back, which is the way of a gradient too. */
static void turn_by_place(float *x, const TransformerCache *cache, const MambaConfig *config,
                          bool back)
{
    size_t d_head = config->head_dim, half = d_head / 2, d_model = config->hidden_size;
    for (size_t token = 0; token < cache->batch * cache->len; token++) {
        const float *turn = cache->turn + token % cache->len * d_head;
        for (size_t first = 0; first < d_model; first += d_head)
            for (size_t i = 0; i < half; i++) {
                float *one = x + token * d_model + first + i, *two = one + half;
                float c = turn[i], s = back ? -turn[half + i] : turn[half + i];
                float turned = fmaf(*one, c, -(*two * s));
                *two = fmaf(*one, s, *two * c);
                *one = turned;
            }
    }
}

/* A row of scores (len) becomes weights: softmax(factor score) of the first `seen`, 0 for all later
   tokens. As exercise 5.5 has it, sixteen at a time. */
static void weights_of_scores(float *score, size_t seen, size_t len, float factor, ExpTable table)
{
    float largest = -INFINITY;
    Sixteen sum = sixteen_zero();
    for (size_t s = 0; s < seen; s++)
        largest = factor * score[s] > largest ? factor * score[s] : largest;
    for (size_t s = 0; s < seen; s += SIXTEEN)
        for (size_t j = 0; j < SIXTEEN_PARTS; j++) {
            size_t some = sixteen_share(seen - s, j), at = some > 0 ? s + j * LANES : s;
            Lanes v = lanes_exp(factor * lanes_load_some(score + at, some) - largest, table);
            lanes_store_some(score + at, v, some);
            sum.part[j] += lanes_load_some(score + at, some); /* no more than `some` count */
        }
    float share = 1.0f / sixteen_sum(sum);
    for (size_t s = 0; s < len; s++)
        score[s] = s < seen ? score[s] * share : 0.0f;
}

/* One head of one sequence, where its parts lie: q, k, v and mixed are (len, d_head) inside rows of
   d_model, weight is (len, len). */
typedef struct {
    float *q, *k, *v, *mixed, *weight;
} AttentionHead;

/* Head number i, counted through the batch. Gradients of weights have room for one head only. */
static AttentionHead attention_head(const TransformerCache *cache, const MambaConfig *config,
                                    size_t i, bool gradients)
{
    size_t n_head = config->hidden_size / config->head_dim, len = cache->len;
    size_t at = i / n_head * len * config->hidden_size + i % n_head * config->head_dim;
    AttentionHead head = {cache->q + at, cache->k + at, cache->v + at, cache->mixed + at,
                          cache->weight + (gradients ? 0 : i * len * len)};
    return head;
}

static float score_factor(const MambaConfig *config)
{
    return 1.0f / sqrtf((float)config->head_dim);
}

/* weight = softmax(q k^T / sqrt(d_head)), mixed = weight v: Vaswani et al., equation 1. */
static void attention_mix(const TransformerCache *cache, const MambaConfig *config)
{
    const ExpTable table = exp_table();
    size_t d_model = config->hidden_size, d_head = config->head_dim, len = cache->len;
    for (size_t i = 0; i < cache->batch * (d_model / d_head); i++) {
        AttentionHead head = attention_head(cache, config, i, false);
        product_into(head.weight, len, strided(head.q, d_model, 1), strided(head.k, 1, d_model),
                     len, len, d_head, false);
        for (size_t t = 0; t < len; t++)
            weights_of_scores(head.weight + t * len, t + 1, len, score_factor(config), table);
        product_into(head.mixed, d_model, strided(head.weight, len, 1), strided(head.v, d_model, 1),
                     len, d_head, len, false);
    }
}

/* Backwards: from the gradient of mixed to those of q, k and v. A softmax hands back, of what each
   of its weights hears, what is above the mean of all, times the weight. */
static void attention_mix_backward(const TransformerCache *back, const TransformerCache *cache,
                                   const MambaConfig *config)
{
    size_t d_model = config->hidden_size, d_head = config->head_dim, len = cache->len;
    for (size_t i = 0; i < cache->batch * (d_model / d_head); i++) {
        AttentionHead head = attention_head(cache, config, i, false);
        AttentionHead grad = attention_head(back, config, i, true);
        product_into(grad.v, d_model, strided(head.weight, 1, len), strided(grad.mixed, d_model, 1),
                     len, d_head, len, false);
        product_into(grad.weight, len, strided(grad.mixed, d_model, 1), strided(head.v, 1, d_model),
                     len, len, d_head, false);
        for (size_t t = 0; t < len; t++) {
            float *to = grad.weight + t * len;
            const float *weight = head.weight + t * len;
            float mean = dot(weight, to, t + 1); /* later tokens weigh 0, and hear nothing */
            for (size_t s = 0; s < len; s++)
                to[s] = weight[s] * (to[s] - mean) * score_factor(config);
        }
        product_into(grad.q, d_model, strided(grad.weight, len, 1), strided(head.k, d_model, 1),
                     len, d_head, len, false);
        product_into(grad.k, d_model, strided(grad.weight, 1, len), strided(head.q, d_model, 1),
                     len, d_head, len, false);
    }
}

/* ==================================== Forwards and back ==================================== */

/* out (batch, len, d_model) = input + mixer(norm(input)), as chapter 5's block_forward; the
   sequences begin with nothing. out may be input, unless the cache is kept for the way back. */
void transformer_block_forward(float *out, const TransformerCache *cache, const float *input,
                               const MambaBlock *block)
{
    const MambaConfig *config = &block->config;
    float *const *p = block->params.tensor;
    size_t tokens = cache->batch * cache->len, d_model = config->hidden_size;
    size_t width = config->kind == MODEL_MLP ? config->mlp_size : d_model;
    float *const part[3] = {cache->q, cache->k, cache->v};
    assert(!cache->keep || out != input);
    rms_norm_forward(cache->normed, cache->scale, input, p[NORM_WEIGHT], config->layer_norm_epsilon,
                     tokens, d_model);
    if (config->kind == MODEL_MLP) {
        linear_forward_fast(cache->wide, cache->normed, p[IN_PROJ_WEIGHT], NULL, tokens, d_model,
                            width);
        silu_all(cache->mixed, cache->wide, tokens * width);
    } else {
        for (size_t i = 0; i < 3; i++)
            linear_forward_fast(part[i], cache->normed, p[IN_PROJ_WEIGHT] + i * d_model * d_model,
                                NULL, tokens, d_model, d_model);
        turn_by_place(cache->q, cache, config, false);
        turn_by_place(cache->k, cache, config, false);
        attention_mix(cache, config);
    }
    float *mixed = cache->keep ? out : cache->normed; /* normed must survive, or is done with */
    linear_forward_fast(mixed, cache->mixed, p[OUT_PROJ_WEIGHT], NULL, tokens, width, d_model);
    for (size_t i = 0; i < tokens * d_model; i++)
        out[i] = input[i] + mixed[i];
}

/* The gradients of the parameters in `grad` (written), and that of the input in input_grad, which
   may not be out_grad: transformer_block_forward, read from below. */
void transformer_block_backward(const BlockParams *grad, float *input_grad,
                                const TransformerCache *back, const float *out_grad,
                                const TransformerCache *cache, const float *input,
                                const MambaBlock *block)
{
    const MambaConfig *config = &block->config;
    float *const *p = block->params.tensor, *const *g = grad->tensor;
    size_t tokens = cache->batch * cache->len, d_model = config->hidden_size;
    bool mlp = config->kind == MODEL_MLP;
    size_t width = mlp ? config->mlp_size : d_model;
    float *const part[3] = {mlp ? back->wide : back->q, back->k, back->v};
    linear_backward_weight_fast(g[OUT_PROJ_WEIGHT], out_grad, cache->mixed, tokens, width, d_model);
    linear_backward_input_fast(back->mixed, out_grad, p[OUT_PROJ_WEIGHT], false, tokens, width,
                               d_model);
    if (mlp)
        silu_backward_all(back->wide, back->mixed, cache->wide, tokens * width);
    else {
        attention_mix_backward(back, cache, config);
        turn_by_place(back->q, cache, config, true);
        turn_by_place(back->k, cache, config, true);
    }
    for (size_t i = 0; i < (mlp ? 1 : 3); i++) { /* q, k, v; or all that is wide */
        size_t first = i * d_model * d_model;
        linear_backward_weight_fast(g[IN_PROJ_WEIGHT] + first, part[i], cache->normed, tokens,
                                    d_model, width);
        linear_backward_input_fast(back->normed, part[i], p[IN_PROJ_WEIGHT] + first, i > 0, tokens,
                                   d_model, width);
    }
    memcpy(input_grad, out_grad, tokens * d_model * sizeof(float)); /* the residual */
    rms_norm_backward(input_grad, g[NORM_WEIGHT], back->normed, cache->scale, input, p[NORM_WEIGHT],
                      tokens, d_model);
}

#endif /* CH05_TRANSFORMER_BLOCK */
