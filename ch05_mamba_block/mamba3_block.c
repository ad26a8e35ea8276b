/* Mamba-3's layer: what stands round the scan of mamba3.c.

   HOLDS   its parameters by name; one projection that makes everything the scan is given; the norms
           and biases of B and C; all of it forwards and backwards, norm and residual included
   FOR     layers.c, and so every model that is made of layers; state_tracking.c trains one
   SOURCE  A. Lahoti et al., Mamba-3, arXiv 2603.15569, section 3.4; names, order and first values
           of the parameters as in the published code (state-spaces/mamba, modules/mamba3.py) */

#ifndef CH05_MAMBA3_BLOCK
#define CH05_MAMBA3_BLOCK

#include "mamba3.c"

/* ===================================== Its parameters ====================================== */
/* Chapter 5's table, with the same places for the same things. There is no convolution, no     */
/* x_proj and no dt_proj: in_proj makes everything. Four of the free places are taken.          */

enum {
    TURN_B_BIAS = CONV1D_WEIGHT,
    TURN_C_BIAS = CONV1D_BIAS,
    TURN_B_NORM = X_PROJ_WEIGHT,
    TURN_C_NORM = DT_PROJ_WEIGHT,
    TURN_DT_BIAS = DT_PROJ_BIAS
};

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
    TURN_PARTS
} TurnPart;

/* How many numbers a token has in each part; returns their sum. */
static size_t turn_parts(size_t width[TURN_PARTS], const MambaConfig *config)
{
    size_t d_inner = config->intermediate_size, n_head = config->num_heads, sum = 0;
    size_t shared = config->n_groups * config->state_size;
    size_t all[TURN_PARTS] = {d_inner, d_inner, shared, shared,
                              n_head,  n_head,  n_head, config->n_angle};
    for (int i = 0; i < TURN_PARTS; i++)
        sum += width[i] = all[i];
    return sum;
}

/* The table. The biases, (n_head, d_state), stand as one row: AdamW lets no row decay. */
void turn_block_shapes(TensorShape shapes[BLOCK_TENSORS], const MambaConfig *config)
{
    size_t width[TURN_PARTS], rows = turn_parts(width, config), d_model = config->hidden_size;
    size_t n_head = config->num_heads, d_state = config->state_size, d_inner = width[PART_U];
    TensorShape all[BLOCK_TENSORS] = {
        /* name, shape, rank, fan_in, count */
        {"norm.weight", {d_model, 0, 0}, 1, 0, d_model},
        {"mixer.in_proj.weight", {rows, d_model, 0}, 2, d_model, rows * d_model},
        {"", {0, 0, 0}, 1, 0, 0},
        {"mixer.B_bias", {n_head * d_state, 0, 0}, 1, 0, n_head * d_state},
        {"mixer.C_bias", {n_head * d_state, 0, 0}, 1, 0, n_head * d_state},
        {"mixer.B_norm.weight", {d_state, 0, 0}, 1, 0, d_state},
        {"mixer.C_norm.weight", {d_state, 0, 0}, 1, 0, d_state},
        {"mixer.dt_bias", {n_head, 0, 0}, 1, 0, n_head},
        {"", {0, 0, 0}, 1, 0, 0},
        {"mixer.D", {n_head, 0, 0}, 1, 0, n_head},
        {"mixer.out_proj.weight", {d_model, d_inner, 0}, 2, d_inner, d_model * d_inner},
        {"", {0, 0, 0}, 1, 0, 0}};
    memcpy(shapes, all, sizeof all);
}

/* Parameters to start from, as the published code has them: norms, the biases of B and C, and D are
   1; projections and Deltas as in chapter 5. */
void turn_block_init(const BlockParams *params, const MambaConfig *config, Random *random)
{
    TensorShape shapes[BLOCK_TENSORS];
    double low = log(config->time_step_min), high = log(config->time_step_max);
    turn_block_shapes(shapes, config);
    for (int i = 0; i < BLOCK_TENSORS; i++)
        for (size_t k = 0; k < shapes[i].count; k++)
            params->tensor[i][k] = shapes[i].fan_in == 0
                                       ? 1.0f
                                       : (float)((2.0 * random_uniform(random) - 1.0) /
                                                 sqrt((double)shapes[i].fan_in));
    for (size_t h = 0; h < config->num_heads; h++) {
        double delta = exp(low + (high - low) * random_uniform(random));
        params->tensor[TURN_DT_BIAS][h] = (float)(delta + log(-expm1(-delta)));
    }
}

/* ===================================== What it works with ================================== */

/* All that a forward pass works out; and, a second time, the gradients of it. */
typedef struct {
    size_t batch, len;
    float *normed, *scale;    /* (batch, len, d_model), (batch, len) */
    float *part[TURN_PARTS];  /* (batch, len, the part's width) as in_proj makes them */
    float *B, *C;             /* (batch, len, n_group, d_state) after their norms */
    float *B_scale, *C_scale; /* (batch, len, n_group) */
    float *delta, *A;         /* (batch, len, n_head) */
    float *y;                 /* (batch, len, d_inner) the scan's output, gated */
    bool keep;                /* for the backward pass */
} TurnCache;

/* Lays the cache out in `memory`, or only counts, if that is NULL: returns how many floats. */
size_t turn_cache_place(TurnCache *cache, float *memory, const MambaConfig *config, size_t batch,
                        size_t len, bool training)
{
    size_t width[TURN_PARTS], tokens = batch * len, used = 0;
    turn_parts(width, config);
    cache->batch = batch;
    cache->len = len;
    cache->keep = training;
    cache->normed = take(memory, &used, tokens * config->hidden_size);
    cache->scale = take(memory, &used, tokens);
    for (int i = 0; i < TURN_PARTS; i++)
        cache->part[i] = take(memory, &used, tokens * width[i]);
    cache->B = take(memory, &used, tokens * width[PART_B]);
    cache->C = take(memory, &used, tokens * width[PART_C]);
    cache->B_scale = take(memory, &used, tokens * config->n_groups);
    cache->C_scale = take(memory, &used, tokens * config->n_groups);
    cache->delta = take(memory, &used, tokens * config->num_heads);
    cache->A = take(memory, &used, tokens * config->num_heads);
    cache->y = take(memory, &used, tokens * width[PART_U]);
    return used;
}

/* The scan inside the layer. */
static TurnScan turn_block_scan(const TurnCache *cache, const MambaBlock *block)
{
    const MambaConfig *config = &block->config;
    float *const *p = block->params.tensor, *const *part = cache->part;
    TurnScan scan;
    scan.batch = cache->batch, scan.len = cache->len;
    scan.n_head = config->num_heads, scan.d_head = config->head_dim;
    scan.n_group = config->n_groups, scan.d_state = config->state_size;
    scan.n_angle = config->n_angle;
    scan.u = part[PART_U], scan.z = part[PART_Z];
    scan.delta = cache->delta, scan.A = cache->A;
    scan.lambda = part[PART_LAMBDA], scan.theta = part[PART_THETA];
    scan.B = cache->B, scan.C = cache->C;
    scan.B_bias = p[TURN_B_BIAS], scan.C_bias = p[TURN_C_BIAS];
    scan.D = p[D_SKIP];
    return scan;
}

/* What goes from token to token lies in state->x, as turn_state_place lays it out. */
size_t turn_block_state_floats(const MambaConfig *config, size_t batch)
{
    size_t wide = config->head_dim * config->state_size + config->n_angle + config->head_dim +
                  config->state_size;
    return batch * config->num_heads * wide;
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

/* out (batch, len, d_model) = input + out_proj(scan(in_proj(norm(input)))), as chapter 5's
   block_forward. out may be input, unless the cache is kept for the backward pass. */
void turn_block_forward(float *out, const TurnCache *cache, const BlockState *state,
                        const float *input, const MambaBlock *block)
{
    const MambaConfig *config = &block->config;
    float *const *p = block->params.tensor;
    size_t width[TURN_PARTS], tokens = cache->batch * cache->len, d_model = config->hidden_size;
    size_t groups = tokens * config->n_groups, first = 0;
    turn_parts(width, config);
    assert(!cache->keep || out != input);
    rms_norm_forward(cache->normed, cache->scale, input, p[NORM_WEIGHT], config->layer_norm_epsilon,
                     tokens, d_model);
    for (int i = 0; i < TURN_PARTS; first += width[i++])
        if (width[i] > 0)
            linear_forward_fast(cache->part[i], cache->normed, p[IN_PROJ_WEIGHT] + first * d_model,
                                NULL, tokens, d_model, width[i]);
    rms_norm_forward(cache->B, cache->B_scale, cache->part[PART_B], p[TURN_B_NORM],
                     config->layer_norm_epsilon, groups, config->state_size);
    rms_norm_forward(cache->C, cache->C_scale, cache->part[PART_C], p[TURN_C_NORM],
                     config->layer_norm_epsilon, groups, config->state_size);
    turn_steps_forward(cache->delta, cache->A, cache->part[PART_DELTA], cache->part[PART_A],
                       p[TURN_DT_BIAS], tokens, config->num_heads);
    TurnScan scan = turn_block_scan(cache, block);
    TurnState own = turn_state_place(state == NULL ? NULL : state->x, &scan);
    turn_scan(cache->y, state == NULL ? NULL : &own, &scan);
    float *mixed = cache->keep ? out : cache->normed; /* normed must survive, or is done with */
    linear_forward_fast(mixed, cache->y, p[OUT_PROJ_WEIGHT], NULL, tokens, width[PART_U], d_model);
    for (size_t i = 0; i < tokens * d_model; i++)
        out[i] = input[i] + mixed[i];
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

/* A normed B or C, backwards: `which` is its part of in_proj. */
static void turn_norm_backward(const TurnCache *back, float *weight_grad, const float *out_grad,
                               const float *scale, TurnPart which, const TurnCache *cache,
                               const float *weight, size_t groups, size_t d_state)
{
    zero(back->part[which], groups * d_state); /* the norm's backward pass adds */
    rms_norm_backward(back->part[which], weight_grad, out_grad, scale, cache->part[which], weight,
                      groups, d_state);
}

/* Every gradient of the layer's parameters in `grad` (written), and that of its input in
   input_grad, which may not be out_grad. The cache is that of a forward pass without a state. */
void turn_block_backward(const BlockParams *grad, float *input_grad, const TurnCache *back,
                         const float *out_grad, const TurnCache *cache, const float *input,
                         const MambaBlock *block)
{
    const MambaConfig *config = &block->config;
    float *const *p = block->params.tensor, *const *g = grad->tensor;
    size_t width[TURN_PARTS], tokens = cache->batch * cache->len, d_model = config->hidden_size;
    size_t groups = tokens * config->n_groups, d_state = config->state_size, first = 0;
    turn_parts(width, config);
    /* out = input + out_proj(y) */
    linear_backward_weight_fast(g[OUT_PROJ_WEIGHT], out_grad, cache->y, tokens, width[PART_U],
                                d_model);
    linear_backward_input_fast(back->y, out_grad, p[OUT_PROJ_WEIGHT], false, tokens, width[PART_U],
                               d_model);
    /* y = scan(...) */
    TurnScan scan = turn_block_scan(cache, block);
    TurnGrad scan_grad = {back->part[PART_U],      back->part[PART_Z],     back->delta, back->A,
                          back->part[PART_LAMBDA], back->part[PART_THETA], back->B,     back->C,
                          g[TURN_B_BIAS],          g[TURN_C_BIAS],         g[D_SKIP]};
    turn_scan_backward(&scan_grad, back->y, &scan);
    /* what it was given, from what in_proj made */
    turn_steps_backward(back, g[TURN_DT_BIAS], cache, p[TURN_DT_BIAS], config->num_heads);
    turn_norm_backward(back, g[TURN_B_NORM], back->B, cache->B_scale, PART_B, cache, p[TURN_B_NORM],
                       groups, d_state);
    turn_norm_backward(back, g[TURN_C_NORM], back->C, cache->C_scale, PART_C, cache, p[TURN_C_NORM],
                       groups, d_state);
    for (int i = 0; i < TURN_PARTS; first += width[i++]) {
        if (width[i] == 0)
            continue;
        linear_backward_weight_fast(g[IN_PROJ_WEIGHT] + first * d_model, back->part[i],
                                    cache->normed, tokens, d_model, width[i]);
        linear_backward_input_fast(back->normed, back->part[i], p[IN_PROJ_WEIGHT] + first * d_model,
                                   i > 0, tokens, d_model, width[i]);
    }
    memcpy(input_grad, out_grad, tokens * d_model * sizeof(float)); /* the residual */
    rms_norm_backward(input_grad, g[NORM_WEIGHT], back->normed, cache->scale, input, p[NORM_WEIGHT],
                      tokens, d_model);
}

#endif /* CH05_MAMBA3_BLOCK */
