/* Mamba-3's layer: what stands round the scan of mamba3.c.

   HOLDS   its parameters by name; one projection that makes everything the scan is given; the norms
           and biases of B and C; all of it forwards and backwards, norm and residual included
   FOR     state_tracking.c, which trains it beside Mamba-1 and Mamba-2
   SOURCE  A. Lahoti et al., Mamba-3, arXiv 2603.15569, section 3.4 and figure 2; names and order of
           the parameters as in the published code (state-spaces/mamba, modules/mamba3.py) */

#ifndef CH05_MAMBA3_BLOCK
#define CH05_MAMBA3_BLOCK

#include "mamba3.c"

/* ===================================== Its parameters ====================================== */

typedef struct {
    size_t d_model, n_head, d_head, n_group, d_state;
    size_t n_angle;                 /* pairs of states that turn */
    double epsilon;                 /* of all norms */
    double delta_least, delta_most; /* the Deltas at the start, log-uniform */
} TurnConfig;

/* In the order in which they lie in memory. */
typedef enum {
    TURN_NORM,
    TURN_IN_PROJ,
    TURN_DT_BIAS,
    TURN_B_NORM,
    TURN_C_NORM,
    TURN_B_BIAS,
    TURN_C_BIAS,
    TURN_D,
    TURN_OUT_PROJ,
    TURN_TENSORS
} TurnTensor;

/* What in_proj makes of a token, row after row of its weight. */
typedef enum {
    PART_Z,
    PART_U,
    PART_B,
    PART_C,
    PART_DELTA,
    PART_A,
    PART_LAMBDA,
    PART_THETA,
    PARTS
} TurnPart;

/* How many numbers a token has in each part; returns their sum. */
static size_t turn_parts(size_t width[PARTS], const TurnConfig *config)
{
    size_t d_inner = config->n_head * config->d_head, shared = config->n_group * config->d_state;
    size_t all[PARTS] = {d_inner,        d_inner,        shared,         shared,
                         config->n_head, config->n_head, config->n_head, config->n_angle};
    size_t sum = 0;
    for (int i = 0; i < PARTS; i++)
        sum += width[i] = all[i];
    return sum;
}

void turn_block_shapes(TensorShape shapes[TURN_TENSORS], const TurnConfig *config)
{
    size_t width[PARTS], rows = turn_parts(width, config), d_model = config->d_model;
    size_t n_head = config->n_head, d_state = config->d_state;
    TensorShape all[TURN_TENSORS] = {
        {"norm.weight", {d_model, 0, 0}, 1, 0, d_model},
        {"mixer.in_proj.weight", {rows, d_model, 0}, 2, d_model, rows * d_model},
        {"mixer.dt_bias", {n_head, 0, 0}, 1, 0, n_head},
        {"mixer.B_norm.weight", {d_state, 0, 0}, 1, 0, d_state},
        {"mixer.C_norm.weight", {d_state, 0, 0}, 1, 0, d_state},
        {"mixer.B_bias", {n_head, d_state, 0}, 2, 0, n_head * d_state},
        {"mixer.C_bias", {n_head, d_state, 0}, 2, 0, n_head * d_state},
        {"mixer.D", {n_head, 0, 0}, 1, 0, n_head},
        {"mixer.out_proj.weight",
         {d_model, width[PART_U], 0},
         2,
         width[PART_U],
         d_model * width[PART_U]}};
    memcpy(shapes, all, sizeof all);
}

/* A layer of Mamba-3, or the gradients of one. */
typedef struct {
    TurnConfig config;
    float *tensor[TURN_TENSORS];
} TurnBlock;

size_t turn_block_floats(const TurnConfig *config)
{
    TensorShape shapes[TURN_TENSORS];
    size_t used = 0;
    turn_block_shapes(shapes, config);
    for (int i = 0; i < TURN_TENSORS; i++)
        take(NULL, &used, shapes[i].count);
    return used;
}

TurnBlock turn_block_place(float *memory, const TurnConfig *config)
{
    TensorShape shapes[TURN_TENSORS];
    TurnBlock block;
    size_t used = 0;
    turn_block_shapes(shapes, config);
    block.config = *config;
    for (int i = 0; i < TURN_TENSORS; i++)
        block.tensor[i] = take(memory, &used, shapes[i].count);
    return block;
}

/* Parameters to start from, as the published code has them: norms, biases of B and C, and D are 1;
   Delta as in chapter 5. */
void turn_block_init(TurnBlock *block, Random *random)
{
    const TurnConfig *config = &block->config;
    TensorShape shapes[TURN_TENSORS];
    double low = log(config->delta_least), high = log(config->delta_most);
    turn_block_shapes(shapes, config);
    for (int i = 0; i < TURN_TENSORS; i++)
        for (size_t k = 0; k < shapes[i].count; k++)
            block->tensor[i][k] = shapes[i].fan_in == 0
                                      ? 1.0f
                                      : (float)((2.0 * random_uniform(random) - 1.0) /
                                                sqrt((double)shapes[i].fan_in));
    for (size_t h = 0; h < config->n_head; h++) {
        double delta = exp(low + (high - low) * random_uniform(random));
        block->tensor[TURN_DT_BIAS][h] = (float)(delta + log(-expm1(-delta)));
    }
}

/* ===================================== What it works with ================================== */

/* All that a forward pass works out; and, a second time, the gradients of it. */
typedef struct {
    size_t batch, len;
    float *normed, *scale;    /* (batch, len, d_model), (batch, len) */
    float *part[PARTS];       /* (batch, len, the part's width) as in_proj makes them */
    float *B, *C;             /* (batch, len, n_group, d_state) after their norms */
    float *B_scale, *C_scale; /* (batch, len, n_group) */
    float *delta, *A;         /* (batch, len, n_head) */
    float *y;                 /* (batch, len, d_inner) the scan's output, gated */
} TurnCache;

/* Lays the cache out in `memory`, or only counts, if that is NULL: returns how many floats. */
size_t turn_cache_place(TurnCache *cache, float *memory, const TurnConfig *config, size_t batch,
                        size_t len)
{
    size_t width[PARTS], tokens = batch * len, used = 0;
    turn_parts(width, config);
    cache->batch = batch;
    cache->len = len;
    cache->normed = take(memory, &used, tokens * config->d_model);
    cache->scale = take(memory, &used, tokens);
    for (int i = 0; i < PARTS; i++)
        cache->part[i] = take(memory, &used, tokens * width[i]);
    cache->B = take(memory, &used, tokens * width[PART_B]);
    cache->C = take(memory, &used, tokens * width[PART_C]);
    cache->B_scale = take(memory, &used, tokens * config->n_group);
    cache->C_scale = take(memory, &used, tokens * config->n_group);
    cache->delta = take(memory, &used, tokens * config->n_head);
    cache->A = take(memory, &used, tokens * config->n_head);
    cache->y = take(memory, &used, tokens * width[PART_U]);
    return used;
}

/* The scan inside the layer. */
static TurnScan turn_block_scan(const TurnCache *cache, const TurnBlock *block)
{
    const TurnConfig *config = &block->config;
    TurnScan scan = {cache->batch,
                     cache->len,
                     config->n_head,
                     config->d_head,
                     config->n_group,
                     config->d_state,
                     config->n_angle,
                     cache->part[PART_U],
                     cache->part[PART_Z],
                     cache->delta,
                     cache->A,
                     cache->part[PART_LAMBDA],
                     cache->part[PART_THETA],
                     cache->B,
                     cache->C,
                     block->tensor[TURN_B_BIAS],
                     block->tensor[TURN_C_BIAS],
                     block->tensor[TURN_D]};
    return scan;
}

/* ======================================== Forwards ========================================= */

/* A = -softplus(raw), and no nearer to 0 than this: the published floor. */
#define TURN_A_LEAST 1e-4f

/* Delta and A of every token and head. */
static void turn_steps_forward(float *delta, float *A, const float *delta_raw, const float *A_raw,
                               const float *bias, size_t tokens, size_t n_head)
{
    for (size_t i = 0; i < tokens * n_head; i++) {
        delta[i] = softplus(delta_raw[i] + bias[i % n_head]);
        A[i] = -fmaxf(softplus(A_raw[i]), TURN_A_LEAST);
    }
}

/* out (batch, len, d_model) = input + out_proj(scan(in_proj(norm(input)))). `state` is read and
   written, or NULL: the sequences begin with nothing. out may not be input. */
void turn_block_forward(float *out, const TurnCache *cache, const TurnState *state,
                        const float *input, const TurnBlock *block)
{
    const TurnConfig *config = &block->config;
    float *const *p = block->tensor;
    size_t width[PARTS], tokens = cache->batch * cache->len, d_model = config->d_model, first = 0;
    turn_parts(width, config);
    rms_norm_forward(cache->normed, cache->scale, input, p[TURN_NORM], config->epsilon, tokens,
                     d_model);
    for (int i = 0; i < PARTS; first += width[i++])
        if (width[i] > 0)
            linear_forward_fast(cache->part[i], cache->normed, p[TURN_IN_PROJ] + first * d_model,
                                NULL, tokens, d_model, width[i]);
    rms_norm_forward(cache->B, cache->B_scale, cache->part[PART_B], p[TURN_B_NORM], config->epsilon,
                     tokens * config->n_group, config->d_state);
    rms_norm_forward(cache->C, cache->C_scale, cache->part[PART_C], p[TURN_C_NORM], config->epsilon,
                     tokens * config->n_group, config->d_state);
    turn_steps_forward(cache->delta, cache->A, cache->part[PART_DELTA], cache->part[PART_A],
                       p[TURN_DT_BIAS], tokens, config->n_head);
    TurnScan scan = turn_block_scan(cache, block);
    turn_scan(cache->y, state, &scan);
    linear_forward_fast(out, cache->y, p[TURN_OUT_PROJ], NULL, tokens, width[PART_U], d_model);
    for (size_t i = 0; i < tokens * d_model; i++)
        out[i] += input[i];
}

/* ======================================== Backwards ======================================== */

/* delta_raw and A_raw from the gradients of Delta and A, and that of the bias. */
static void turn_steps_backward(const TurnCache *back, float *bias_grad, const TurnCache *cache,
                                const float *bias, size_t n_head)
{
    size_t tokens = cache->batch * cache->len;
    for (size_t i = 0; i < tokens * n_head; i++) {
        float A_raw = cache->part[PART_A][i];
        back->part[PART_DELTA][i] =
            back->delta[i] * sigmoid(cache->part[PART_DELTA][i] + bias[i % n_head]);
        back->part[PART_A][i] =
            softplus(A_raw) > TURN_A_LEAST ? -back->A[i] * sigmoid(A_raw) : 0.0f;
    }
    bias_backward(bias_grad, back->part[PART_DELTA], tokens, n_head);
}

/* Every gradient of the layer's parameters in `grad` (written), and that of its input in
   input_grad, which may not be out_grad. The cache is that of a forward pass without a state. */
void turn_block_backward(TurnBlock *grad, float *input_grad, const TurnCache *back,
                         const float *out_grad, const TurnCache *cache, const float *input,
                         const TurnBlock *block)
{
    const TurnConfig *config = &block->config;
    float *const *p = block->tensor, *const *g = grad->tensor;
    size_t width[PARTS], tokens = cache->batch * cache->len, d_model = config->d_model, first = 0;
    turn_parts(width, config);
    size_t groups = tokens * config->n_group, d_inner = width[PART_U];
    linear_backward_weight_fast(g[TURN_OUT_PROJ], out_grad, cache->y, tokens, d_inner, d_model);
    linear_backward_input_fast(back->y, out_grad, p[TURN_OUT_PROJ], false, tokens, d_inner,
                               d_model);
    TurnScan scan = turn_block_scan(cache, block);
    TurnGrad scan_grad = {back->part[PART_U],      back->part[PART_Z],     back->delta, back->A,
                          back->part[PART_LAMBDA], back->part[PART_THETA], back->B,     back->C,
                          g[TURN_B_BIAS],          g[TURN_C_BIAS],         g[TURN_D]};
    turn_scan_backward(&scan_grad, back->y, &scan);
    turn_steps_backward(back, g[TURN_DT_BIAS], cache, p[TURN_DT_BIAS], config->n_head);
    zero(back->part[PART_B], groups * config->d_state);
    zero(back->part[PART_C], groups * config->d_state);
    rms_norm_backward(back->part[PART_B], g[TURN_B_NORM], back->B, cache->B_scale,
                      cache->part[PART_B], p[TURN_B_NORM], groups, config->d_state);
    rms_norm_backward(back->part[PART_C], g[TURN_C_NORM], back->C, cache->C_scale,
                      cache->part[PART_C], p[TURN_C_NORM], groups, config->d_state);
    for (int i = 0; i < PARTS; first += width[i++]) {
        if (width[i] == 0)
            continue;
        linear_backward_weight_fast(g[TURN_IN_PROJ] + first * d_model, back->part[i], cache->normed,
                                    tokens, d_model, width[i]);
        linear_backward_input_fast(back->normed, back->part[i], p[TURN_IN_PROJ] + first * d_model,
                                   i > 0, tokens, d_model, width[i]);
    }
    memcpy(input_grad, out_grad, tokens * d_model * sizeof(float)); /* the residual */
    rms_norm_backward(input_grad, g[TURN_NORM], back->normed, cache->scale, input, p[TURN_NORM],
                      tokens, d_model);
}

#endif /* CH05_MAMBA3_BLOCK */
