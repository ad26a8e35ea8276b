/* Chapter 5c. The Mamba-2 block: what stands round the scan of mamba2.c

   QUESTION   mamba2.c is given u, Delta, B and C. Where do they come from in Mamba-2, what else is
              in its block, and how is it different from chapter 5's?
   NEW        One projection makes everything at once, from the token and not from u; u, B and C go
              through one convolution; a norm after the gate, each group of heads by itself.
   NOT        The scan: that is mamba2.c. Speed: head_scan_fast and its backward pass are
              mamba2_fast.c's. What chapter 5 has already (norm, linear layers, convolution) is its.
   EQUATION   out = input + out_proj(gated_norm(scan(u; Delta, A, B, C, D) silu(z)))
              z, uBC', dt = in_proj(norm(input))       u, B, C = silu(conv1d(uBC'))
              Delta = clamp(softplus(dt + dt_bias), time_step_limit)
   LETTERS    maths    C           shape                              Hugging Face
              z        z           (batch, len, d_inner)              gate
              uBC'     uBC_raw     (batch, len, wide)                 hidden_states_B_C
              u        u           (batch, len, n_head, d_head)       hidden_states
              dt       dt_raw      (batch, len, n_head)               dt
              Delta    delta       (batch, len, n_head)               dt after the clamp
              B C      B C         (batch, len, n_group, d_state)     B, C
              x        x           (batch, n_head, d_head, d_state)   recurrent_states
              d_inner = n_head d_head, wide = d_inner + 2 n_group d_state
              n_head d_head n_group                                   num_heads head_dim n_groups
   BUILD      cc -O2 ch05_mamba_block/mamba2_block.c -o mamba2_block -lm && ./mamba2_block
   TIME       20 minutes to read, 15 to do the exercise
   SOURCES    T. Dao, A. Gu, Transformers are SSMs, arXiv 2405.21060: sections 7, 8.1; figure 6
              B. Zhang, R. Sennrich, Root mean square layer normalization, arXiv 1910.07467 */

#ifndef CH05_MAMBA2_BLOCK
#define CH05_MAMBA2_BLOCK

#include "mamba2_fast.c" /* head_scan_fast, head_scan_chunked_backward_fast */

/* =============================== The gate, and then a norm ================================ */
/* Chapter 5's block ends with y silu(z). Large models trained more steadily with one more norm */
/* after it (section 7.1). It does not go over all channels but group by group: then a group of */
/* heads needs to know nothing of the others, and can live on a device of its own (8.1).        */

/* out (tokens, d_inner) = gated / sqrt(mean(gated^2) + epsilon) * weight, where gated (tokens,
   d_inner) is y silu(z), weight is (d_inner), and each mean is over one of n_group groups of
   neighbouring channels of one token. scale (tokens, n_group), 1 over that root, is kept.

   Exercise 5.14. One group of one token. */
void gated_norm_forward(float *out, float *scale, const float *gated, const float *weight,
                        double epsilon, size_t tokens, size_t d_inner, size_t n_group)
{
    size_t width = d_inner / n_group;
    PARALLEL_FOR(schedule(static) if (worth_sharing_each(tokens * d_inner)))
    for (size_t i = 0; i < tokens * n_group; i++) { /* group i % n_group of token i / n_group */
        const float *in = gated + i * width;
        float *to = out + i * width;
        //> EX 5.14 [2 pts] [15 min] the norm of one group
        //? Chapter 5's rms_norm_forward does this for a whole token; a group has `width` numbers.
        //? scale[i] is 1 / sqrt(mean(in^2) + epsilon); dot(in, in, width) is the sum of squares.
        //? Which weights? Channel c of this group is channel i % n_group * width + c of the token.
        const float *factor = weight + i % n_group * width;
        scale[i] = (float)(1.0 / sqrt((double)dot(in, in, width) / (double)width + epsilon));
        for (size_t c = 0; c < width; c++)
            to[c] = in[c] * scale[i] * factor[c];
        //< EX 5.14
    }
}

/* The gradients: gated_grad (tokens, d_inner) is written, weight_grad (d_inner) too. It is exercise
   5.1 for each group: the scale depends on every channel of the group, and on no other. */
void gated_norm_backward(float *gated_grad, float *weight_grad, const float *out_grad,
                         const float *scale, const float *gated, const float *weight, size_t tokens,
                         size_t d_inner, size_t n_group)
{
    size_t width = d_inner / n_group;
    zero(weight_grad, d_inner);
    for (size_t t = 0; t < tokens; t++)
        for (size_t d = 0; d < d_inner; d++)
            weight_grad[d] +=
                out_grad[t * d_inner + d] * gated[t * d_inner + d] * scale[t * n_group + d / width];
    PARALLEL_FOR(schedule(static) if (worth_sharing_each(tokens * d_inner)))
    for (size_t i = 0; i < tokens * n_group; i++) {
        const float *in = gated + i * width, *dy = out_grad + i * width;
        const float *w = weight + (i % n_group) * width;
        float along = 0.0f;
        for (size_t c = 0; c < width; c++)
            along += dy[c] * w[c] * in[c] * scale[i];
        along /= (float)width;
        for (size_t c = 0; c < width; c++)
            gated_grad[i * width + c] = scale[i] * (dy[c] * w[c] - in[c] * scale[i] * along);
    }
}

/* ==================================== The step sizes ====================================== */
/* Chapter 5 made dt_rank numbers of u and from them a Delta for each channel: two projections.*/
/* A head has one Delta, so it can afford to have it straight from in_proj.                    */

/* Delta before the clamp. NaN stays NaN, there and in the clamp: nothing wrong is hidden. It is a
   vector of one number: vectors.h gives the same bits on every processor, and libm does not. */
static float head_step_open(const float *raw, const float *bias, size_t i, size_t n_head)
{
    return lanes_softplus(lanes_all(raw[i] + bias[i % n_head]), exp_table())[0];
}

/* delta (tokens, n_head) = clamp(softplus(raw + bias), limit[0], limit[1]); bias is (n_head). */
static void head_steps_forward(float *delta, const float *raw, const float *bias,
                               const double limit[2], size_t tokens, size_t n_head)
{
    float least = (float)limit[0], most = (float)limit[1];
    for (size_t i = 0; i < tokens * n_head; i++) {
        float step = head_step_open(raw, bias, i, n_head);
        delta[i] = step < least ? least : step > most ? most : step;
    }
}

/* softplus' is the sigmoid; and where the clamp holds, nothing that raw does makes a difference.
   Gradients raw_grad (tokens, n_head) and bias_grad (n_head). */
static void head_steps_backward(float *raw_grad, float *bias_grad, const float *delta_grad,
                                const float *raw, const float *bias, const double limit[2],
                                size_t tokens, size_t n_head)
{
    for (size_t i = 0; i < tokens * n_head; i++) {
        float step = head_step_open(raw, bias, i, n_head);
        bool held = step < (float)limit[0] || step > (float)limit[1];
        float slope = lanes_sigmoid(lanes_all(raw[i] + bias[i % n_head]), exp_table())[0];
        raw_grad[i] = held ? 0.0f : delta_grad[i] * slope;
    }
    bias_backward(bias_grad, raw_grad, tokens, n_head);
}

/* ================================= Parameters, by name ==================================== */
/* Chapter 5's table, with the same places for the same things. The projections x_proj and    */
/* dt_proj are gone: in_proj makes B, C and dt as well. So two places are free; the new norm   */
/* takes one of them.                                                                          */

enum { GATED_NORM_WEIGHT = X_PROJ_WEIGHT, HEAD_NOTHING = DT_PROJ_WEIGHT, DT_BIAS = DT_PROJ_BIAS };

/* The table. A_log, D and dt_bias, of which chapter 5's block has d_inner (1 + 1 + d_state)
   numbers, have one for each head. */
void head_block_shapes(TensorShape shapes[BLOCK_TENSORS], const MambaConfig *config)
{
    size_t d_model = config->hidden_size, d_inner = config->intermediate_size;
    size_t d_conv = config->conv_kernel, n_head = config->num_heads;
    size_t wide = config_conv_width(config), all_rows = d_inner + wide + n_head;
    TensorShape all[BLOCK_TENSORS] = {
        /* name, shape, rank, fan_in, count (worked out below) */
        {"norm.weight", {d_model, 0, 0}, 1, 0, 0},
        {"mixer.in_proj.weight", {all_rows, d_model, 0}, 2, d_model, 0},
        {"mixer.in_proj.bias", {config->use_bias ? all_rows : 0, 0, 0}, 1, d_model, 0},
        {"mixer.conv1d.weight", {wide, 1, d_conv}, 3, d_conv, 0},
        {"mixer.conv1d.bias", {config->use_conv_bias ? wide : 0, 0, 0}, 1, d_conv, 0},
        {"mixer.norm.weight", {d_inner, 0, 0}, 1, 0, 0},
        {"", {0, 0, 0}, 1, 0, 0},
        {"mixer.dt_bias", {n_head, 0, 0}, 1, 0, 0},
        {"mixer.A_log", {n_head, 0, 0}, 1, 0, 0},
        {"mixer.D", {n_head, 0, 0}, 1, 0, 0},
        {"mixer.out_proj.weight", {d_model, d_inner, 0}, 2, d_inner, 0},
        {"mixer.out_proj.bias", {config->use_bias ? d_model : 0, 0, 0}, 1, d_inner, 0}};
    for (int i = 0; i < BLOCK_TENSORS; i++) {
        all[i].count = 1;
        for (size_t axis = 0; axis < all[i].rank; axis++)
            all[i].count *= all[i].shape[axis];
        shapes[i] = all[i];
    }
}

/* Parameters to start from, as the published code has them: projections and Deltas as in chapter 5;
   A = -1 .. -16, uniform, for a head has one rate and the heads must differ. */
void head_block_init(const BlockParams *params, const MambaConfig *config, Random *random)
{
    TensorShape shapes[BLOCK_TENSORS];
    float *const *p = params->tensor;
    double low = log(config->time_step_min), high = log(config->time_step_max);
    head_block_shapes(shapes, config);
    for (int i = 0; i < BLOCK_TENSORS; i++)
        for (size_t k = 0; k < shapes[i].count && shapes[i].fan_in > 0; k++)
            p[i][k] = (float)(1.0 / sqrt((double)shapes[i].fan_in) *
                              (2.0 * random_uniform(random) - 1.0));
    for (size_t i = 0; i < config->hidden_size; i++)
        p[NORM_WEIGHT][i] = 1.0f;
    for (size_t d = 0; d < config->intermediate_size; d++)
        p[GATED_NORM_WEIGHT][d] = 1.0f;
    for (size_t h = 0; h < config->num_heads; h++) {
        double delta = exp(low + (high - low) * random_uniform(random));
        delta = fmax(delta, config->time_step_floor);
        p[DT_BIAS][h] = (float)(delta + log(-expm1(-delta))); /* softplus of it is delta */
        p[A_LOG][h] = (float)log(1.0 + 15.0 * random_uniform(random));
        p[D_SKIP][h] = 1.0f;
    }
}

/* ================================ What a block works with ================================= */

/* A (n_head) = -exp(A_log); chapter 5's MambaBlock and BlockParams serve this block too. */
void head_block_refresh(MambaBlock *block)
{
    for (size_t h = 0; h < block->config.num_heads; h++)
        block->A[h] = (float)-exp((double)block->params.tensor[A_LOG][h]);
}

/* What goes from one token to the next: conv (batch, d_conv - 1, wide) and x (batch, n_head,
   d_head, d_state). For d_model 768, 128 states and one sequence 3 x 1,792 + 1,536 x 128 numbers,
   808 KB: seven times chapter 5's, and all of it room for what is remembered. */
size_t head_block_state_floats(const MambaConfig *config, size_t batch)
{
    return batch * (config_conv_width(config) * (config->conv_kernel - 1) +
                    config->intermediate_size * config->state_size);
}

BlockState head_block_state_place(float *memory, const MambaConfig *config, size_t batch)
{
    BlockState state;
    state.conv = memory;
    state.x = memory + batch * config_conv_width(config) * (config->conv_kernel - 1);
    return state;
}

/* Everything a forward pass computes on its way, in this order. As in chapter 5, a second cache
   holds the gradients of what is in the first. */
typedef struct {
    size_t batch, len;
    float *normed, *scale;             /* (batch, len, d_model), (batch, len) */
    float *z, *uBC_raw, *dt_raw;       /* (batch, len, d_inner | wide | n_head): in_proj's parts */
    float *uBC_conv, *uBC;             /* (batch, len, wide) after the convolution, and its silu */
    float *u, *B, *C;                  /* the parts of uBC, each by itself */
    float *delta;                      /* (batch, len, n_head) */
    float *y, *gated;                  /* (batch, len, d_inner) the scan's output; y silu(z) */
    float *gated_scale, *gated_normed; /* (batch, len, n_group), (batch, len, d_inner) */
    float *zeros;                      /* (wide) */
    float *A;                          /* (n_head) in a cache of gradients: that of A */
    bool keep;                         /* for the backward pass */
} HeadCache;
typedef HeadCache HeadBlockBack;

/* Lays the cache out in `memory`, or, if that is NULL, only counts: returns how many floats. */
size_t head_cache_place(HeadCache *cache, float *memory, const MambaConfig *config, size_t batch,
                        size_t len, bool training)
{
    size_t tokens = batch * len, d_inner = config->intermediate_size, used = 0;
    size_t wide = config_conv_width(config), shared = config->n_groups * config->state_size;
    memset(cache, 0, sizeof *cache);
    cache->batch = batch;
    cache->len = len;
    cache->keep = training;
    cache->normed = take(memory, &used, tokens * config->hidden_size);
    cache->scale = take(memory, &used, tokens);
    cache->z = take(memory, &used, tokens * d_inner);
    cache->uBC_raw = take(memory, &used, tokens * wide);
    cache->dt_raw = take(memory, &used, tokens * config->num_heads);
    cache->uBC_conv = take(memory, &used, tokens * wide);
    cache->uBC = take(memory, &used, tokens * wide);
    cache->u = take(memory, &used, tokens * d_inner);
    cache->B = take(memory, &used, tokens * shared);
    cache->C = take(memory, &used, tokens * shared);
    cache->delta = take(memory, &used, tokens * config->num_heads);
    cache->y = take(memory, &used, tokens * d_inner);
    cache->gated = take(memory, &used, tokens * d_inner);
    cache->gated_scale = take(memory, &used, tokens * config->n_groups);
    cache->gated_normed = take(memory, &used, tokens * d_inner);
    cache->zeros = take(memory, &used, wide);
    cache->A = take(memory, &used, config->num_heads);
    if (memory != NULL)
        zero(cache->zeros, wide);
    return used;
}

/* The scan inside the block, given what this block has computed. Delta is ready: bias, softplus
   and clamp are the block's business here, for the scan knows no limits. */
static HeadScan head_block_scan(const HeadCache *cache, const MambaBlock *block,
                                const BlockState *state)
{
    enum { CHUNK = 64 }; /* of the backward pass: the best here, whatever was best elsewhere */
    const MambaConfig *config = &block->config;
    HeadScan scan =
        head_scan_new(cache->len, config->num_heads, config->head_dim, config->state_size, cache->u,
                      cache->delta, block->A, cache->B, cache->C);
    scan.batch = cache->batch;
    scan.n_group = config->n_groups;
    scan.D = block->params.tensor[D_SKIP];
    scan.x_start = state == NULL ? NULL : state->x;
    scan.chunk = smaller(config->chunk_size, CHUNK);
    return scan;
}

/* ======================================= The block ======================================== */

/* `count` outputs of in_proj, from row `first` of its weight on. */
static void head_in_proj(float *out, const HeadCache *cache, const MambaBlock *block, size_t first,
                         size_t count)
{
    const float *W = block->params.tensor[IN_PROJ_WEIGHT];
    const float *bias = block->params.tensor[IN_PROJ_BIAS];
    size_t d_model = block->config.hidden_size;
    linear_forward_fast(out, cache->normed, W + first * d_model, bias == NULL ? NULL : bias + first,
                        cache->batch * cache->len, d_model, count);
}

/* The block without norm and residual: out (batch, len, d_model) from cache->normed. What goes on
   to the next tokens is read from and written to `state`; with NULL the sequences begin with
   nothing. A comment for each box of the diagram (figure 6, left), in the words of the published
   Python. The scan is the recurrence: on a CPU it is as fast as chunks, and it needs no room. */
void head_mixer_forward(float *out, const HeadCache *cache, const BlockState *state,
                        const MambaBlock *block)
{
    const MambaConfig *config = &block->config;
    float *const *p = block->params.tensor;
    size_t d_model = config->hidden_size, d_inner = config->intermediate_size;
    size_t wide = config_conv_width(config), shared = config->n_groups * config->state_size;
    size_t n_head = config->num_heads, tokens = cache->batch * cache->len;

    /* z, uBC, dt = in_proj(normed).split(d_inner, wide, n_head): gate, what is said and asked, and
       how far to move, all at once and none waiting for another */
    head_in_proj(cache->z, cache, block, 0, d_inner);
    head_in_proj(cache->uBC_raw, cache, block, d_inner, wide);
    head_in_proj(cache->dt_raw, cache, block, d_inner + wide, n_head);
    /* uBC = silu(conv1d(uBC)): B and C see the last d_conv tokens too */
    conv1d_forward_fast(cache->uBC_conv, cache->uBC_raw, state == NULL ? NULL : state->conv,
                        cache->zeros, p[CONV1D_WEIGHT], p[CONV1D_BIAS], cache->batch, cache->len,
                        wide, config->conv_kernel);
    if (state != NULL)
        conv1d_keep(state->conv, cache->uBC_raw, cache->batch, cache->len, wide,
                    config->conv_kernel);
    silu_all(cache->uBC, cache->uBC_conv, tokens * wide);
    /* u, B, C = uBC.split(d_inner, n_group * d_state, n_group * d_state) */
    columns_out(cache->u, cache->uBC, 0, d_inner, tokens, wide);
    columns_out(cache->B, cache->uBC, d_inner, shared, tokens, wide);
    columns_out(cache->C, cache->uBC, d_inner + shared, shared, tokens, wide);
    /* delta = softplus(dt + dt_bias).clamp(*time_step_limit): one for each head */
    head_steps_forward(cache->delta, cache->dt_raw, p[DT_BIAS], config->time_step_limit, tokens,
                       n_head);
    /* y = ssd(u, delta, A, B, C) + D * u */
    HeadScan scan = head_block_scan(cache, block, state);
    head_scan_fast(cache->y, state == NULL ? NULL : state->x, &scan);
    /* y = norm(y * silu(z)): each group by itself */
    gate_all(cache->gated, cache->y, cache->z, tokens * d_inner);
    gated_norm_forward(cache->gated_normed, cache->gated_scale, cache->gated, p[GATED_NORM_WEIGHT],
                       config->layer_norm_epsilon, tokens, d_inner, config->n_groups);
    /* out = out_proj(y): back to d_model channels */
    linear_forward_fast(out, cache->gated_normed, p[OUT_PROJ_WEIGHT], p[OUT_PROJ_BIAS], tokens,
                        d_inner, d_model);
}

/* A whole block, as chapter 5's block_forward: out (batch, len, d_model) = input +
   mixer(norm(input)). out may be input, unless the cache is kept for the backward pass. A step is a
   piece of length one. */
void head_block_forward(float *out, const HeadCache *cache, const BlockState *state,
                        const float *input, const MambaBlock *block)
{
    size_t d_model = block->config.hidden_size, tokens = cache->batch * cache->len;
    assert(!cache->keep || out != input);
    rms_norm_forward(cache->normed, cache->scale, input, block->params.tensor[NORM_WEIGHT],
                     block->config.layer_norm_epsilon, tokens, d_model);
    float *mixed = cache->keep ? out : cache->normed; /* normed must survive, or is done with */
    head_mixer_forward(mixed, cache, state, block);
    for (size_t i = 0; i < tokens * d_model; i++)
        out[i] = input[i] + mixed[i];
}

/* ================================== The block, backwards ================================== */

/* A part of in_proj backwards: rows first .. first + count - 1, whose outputs have this gradient.
   All parts were made from normed, so its gradient is a sum: the first part writes it. */
static void head_in_proj_backward(const BlockParams *grad, const HeadBlockBack *back,
                                  const float *part_grad, const HeadCache *cache,
                                  const MambaBlock *block, size_t first, size_t count)
{
    size_t d_model = block->config.hidden_size, tokens = cache->batch * cache->len;
    const float *W = block->params.tensor[IN_PROJ_WEIGHT] + first * d_model;
    linear_backward_weight_fast(grad->tensor[IN_PROJ_WEIGHT] + first * d_model, part_grad,
                                cache->normed, tokens, d_model, count);
    linear_backward_input_fast(back->normed, part_grad, W, first > 0, tokens, d_model, count);
    if (grad->tensor[IN_PROJ_BIAS] != NULL)
        bias_backward(grad->tensor[IN_PROJ_BIAS] + first, part_grad, tokens, count);
}

/* The mixer backwards, box by box from the end: gradients of the parameters in `grad` (written, not
   added to) and of cache->normed in back->normed. The forward pass began with nothing. Where
   chapter 5 had to add up two gradients of u, there is one: nothing is made of u but y. */
void head_mixer_backward(const BlockParams *grad, const HeadBlockBack *back, const float *out_grad,
                         const HeadCache *cache, const MambaBlock *block)
{
    const MambaConfig *config = &block->config;
    float *const *p = block->params.tensor, *const *g = grad->tensor;
    size_t d_model = config->hidden_size, d_inner = config->intermediate_size;
    size_t wide = config_conv_width(config), shared = config->n_groups * config->state_size;
    size_t n_head = config->num_heads, tokens = cache->batch * cache->len;

    /* out = out_proj(gated_normed) */
    linear_backward_weight_fast(g[OUT_PROJ_WEIGHT], out_grad, cache->gated_normed, tokens, d_inner,
                                d_model);
    if (g[OUT_PROJ_BIAS] != NULL)
        bias_backward(g[OUT_PROJ_BIAS], out_grad, tokens, d_model);
    linear_backward_input_fast(back->gated_normed, out_grad, p[OUT_PROJ_WEIGHT], false, tokens,
                               d_inner, d_model);
    /* gated_normed = norm(gated), gated = y silu(z) */
    gated_norm_backward(back->gated, g[GATED_NORM_WEIGHT], back->gated_normed, cache->gated_scale,
                        cache->gated, p[GATED_NORM_WEIGHT], tokens, d_inner, config->n_groups);
    gate_backward_all(back->y, back->z, back->gated, cache->y, cache->z, tokens * d_inner);
    /* y = scan(u, delta, A, B, C, D), in chunks now; A = -exp(A_log), so dA/dA_log = A */
    HeadScan scan = head_block_scan(cache, block, NULL);
    HeadGrad scan_grad = {back->u, back->delta, NULL, back->A, back->B, back->C, g[D_SKIP], NULL};
    head_scan_chunked_backward_fast(&scan_grad, back->y, NULL, &scan);
    for (size_t h = 0; h < n_head; h++)
        g[A_LOG][h] = back->A[h] * block->A[h];
    head_steps_backward(back->dt_raw, g[DT_BIAS], back->delta, cache->dt_raw, p[DT_BIAS],
                        config->time_step_limit, tokens, n_head);
    /* u, B, C = silu(conv1d(uBC_raw)) */
    columns_in(back->uBC, back->u, 0, d_inner, tokens, wide);
    columns_in(back->uBC, back->B, d_inner, shared, tokens, wide);
    columns_in(back->uBC, back->C, d_inner + shared, shared, tokens, wide);
    silu_backward_all(back->uBC_conv, back->uBC, cache->uBC_conv, tokens * wide);
    conv1d_backward_fast(back->uBC_raw, g[CONV1D_WEIGHT], g[CONV1D_BIAS], back->uBC_conv,
                         cache->uBC_raw, p[CONV1D_WEIGHT], cache->batch, cache->len, wide,
                         config->conv_kernel);
    /* z, uBC_raw, dt_raw = in_proj(normed) */
    head_in_proj_backward(grad, back, back->z, cache, block, 0, d_inner);
    head_in_proj_backward(grad, back, back->uBC_raw, cache, block, d_inner, wide);
    head_in_proj_backward(grad, back, back->dt_raw, cache, block, d_inner + wide, n_head);
}

/* The gradients of a whole block, as chapter 5's block_backward. */
void head_block_backward(const BlockParams *grad, float *input_grad, const HeadBlockBack *back,
                         const float *out_grad, const HeadCache *cache, const float *input,
                         const MambaBlock *block)
{
    size_t tokens = cache->batch * cache->len, d_model = block->config.hidden_size;
    head_mixer_backward(grad, back, out_grad, cache, block);
    memcpy(input_grad, out_grad, tokens * d_model * sizeof(float)); /* the residual */
    rms_norm_backward(input_grad, grad->tensor[NORM_WEIGHT], back->normed, cache->scale, input,
                      block->params.tensor[NORM_WEIGHT], tokens, d_model);
}

/* ======================================= The demos ======================================== */

/* A block with everything that it works with, in one piece of memory, for `len` tokens of `batch`
   sequences; with random parameters. own_block_free when done. */
typedef struct {
    MambaBlock block;
    HeadCache cache;
    BlockState state;
    float *memory;
} OwnHeadBlock;

static OwnHeadBlock own_head_block_new(const MambaConfig *config, size_t batch, size_t len,
                                       Random *random)
{
    TensorShape shapes[BLOCK_TENSORS];
    OwnHeadBlock own;
    head_block_shapes(shapes, config);
    size_t params = block_params_place(&own.block.params, NULL, shapes);
    size_t state = head_block_state_floats(config, batch);
    size_t cache = head_cache_place(&own.cache, NULL, config, batch, len, false);
    own.memory = NEW(float, params + cache + state + config->num_heads);
    own.block.config = *config;
    block_params_place(&own.block.params, own.memory, shapes);
    head_cache_place(&own.cache, own.memory + params, config, batch, len, false);
    own.state = head_block_state_place(own.memory + params + cache, config, batch);
    own.block.A = own.memory + params + cache + state;
    head_block_init(&own.block.params, config, random);
    head_block_refresh(&own.block);
    return own;
}

static void own_head_block_free(OwnHeadBlock *own)
{
    free(own->memory);
}

/* What these demos are shown with: sizes of a block besides. */
typedef struct {
    Show show;                   /* first, for a demo is given a pointer to it */
    MambaConfig config, counted; /* the second for demo_head_count */
} HeadBlockShow;

/* The last of a few tokens on its way through a block with random weights, in the order of
   head_mixer_forward. */
static bool demo_head_trace(const Show *show, Error *error)
{
    enum { LEN = 8 };
    const MambaConfig *config = &((const HeadBlockShow *)show)->config;
    Random random = random_from_seed(show->seed);
    OwnHeadBlock own = own_head_block_new(config, 1, LEN, &random);
    size_t d_model = config->hidden_size, d_inner = config->intermediate_size, last = LEN - 1;
    size_t wide = config_conv_width(config), shared = config->n_groups * config->state_size;
    float *input = random_floats(LEN * d_model, &random), *out = NEW(float, LEN *d_model);
    float *normed = NEW(float, LEN *d_model), scale[LEN];
    const HeadCache *cache = &own.cache;
    rms_norm_forward(normed, scale, input, own.block.params.tensor[NORM_WEIGHT],
                     config->layer_norm_epsilon, LEN, d_model);
    head_block_forward(out, cache, &own.state, input, &own.block);
    printf("Token %d of %d through one block of Mamba-2: d_model %zu, %zu heads of %zu channels,\n"
           "groups: %zu; random weights (seed %" PRIu64 ")\n\n",
           LEN, LEN, d_model, config->num_heads, config->head_dim, config->n_groups, show->seed);
    puts("  stage  what is done                                   width   first numbers");
    print_stage("input", "", input, d_model, last);
    print_stage("normed", "divided by its root mean square, times weight", normed, d_model, last);
    print_stage("z", "in_proj, first part: the gate", cache->z, d_inner, last);
    print_stage("uBC", "in_proj, second part", cache->uBC_raw, wide, last);
    print_stage("dt", "in_proj, last part: one a head", cache->dt_raw, config->num_heads, last);
    print_stage("conv", "the last d_conv tokens of each channel of uBC", cache->uBC_conv, wide,
                last);
    print_stage("u", "silu, first part", cache->u, d_inner, last);
    print_stage("B", "silu, second part: what to write", cache->B, shared, last);
    print_stage("C", "silu, last part: what to read", cache->C, shared, last);
    print_stage("Delta", "softplus(dt + bias), clamped: how far to move", cache->delta,
                config->num_heads, last);
    print_stage("x", "the state of channel 1 of head 1", own.state.x, config->state_size, 0);
    print_stage("y", "x C + D u: what is read", cache->y, d_inner, last);
    print_stage("gated", "y silu(z)", cache->gated, d_inner, last);
    print_stage("normed", "each group divided by its root mean square", cache->gated_normed,
                d_inner, last);
    print_stage("out", "out_proj, plus the input", out, d_model, last);
    printf("\nWhat goes on to token %d: %zu numbers of x and %zu of the convolution.\n", LEN + 1,
           d_inner * config->state_size, wide * (config->conv_kernel - 1));
    free(input), free(out), free(normed);
    own_head_block_free(&own);
    (void)error; /* nothing here can go wrong */
    return true;
}

/* Every parameter of a block with its shape and how many there are, beside chapter 5's block of the
   same width. */
static bool demo_head_count(const Show *show, Error *error)
{
    const MambaConfig *config = &((const HeadBlockShow *)show)->counted;
    const MambaConfig first = config_default(config->hidden_size);
    TensorShape shapes[BLOCK_TENSORS];
    size_t all = 0;
    head_block_shapes(shapes, config);
    printf("The parameters of a block of Mamba-2, d_model %zu, %zu heads of %zu, %zu states\n\n",
           config->hidden_size, config->num_heads, config->head_dim, config->state_size);
    for (int i = 0; i < BLOCK_TENSORS; i++) {
        print_tensor(shapes[i].name, shapes[i].shape, shapes[i].rank, shapes[i].count);
        all += shapes[i].count;
    }
    print_tensor("all", NULL, 0, all);
    print_tensor("chapter 5's block", NULL, 0, block_params_count(&first));
    printf("\nNumbers that go from token to token: %zu, chapter 5's %zu\n",
           head_block_state_floats(config, 1), block_state_floats(&first, 1));
    (void)error;
    return true;
}

/* Whether one head finds the value of one key among `pairs` of them. All is set by hand, as in
   recall.c: each pair writes its value u under its key B, nothing fades (Delta = 1, A = 0), and the
   last token reads with C = the key asked for. */
static bool head_recalls(size_t pairs, size_t d_state, Random *random)
{
    static const float A[1] = {0.0f};
    size_t len = pairs + 1, asked = random_u32(random) % pairs, right = 0;
    float *key = random_floats(len * d_state, random), *u = NEW(float, len *RECALL_WIDE);
    float *y = NEW(float, len *RECALL_WIDE), *delta = NEW(float, len);
    float code[RECALL_VALUES * RECALL_WIDE];
    for (size_t i = 0; i < RECALL_VALUES * RECALL_WIDE; i++)
        code[i] = random_u32(random) % 2 ? 1.0f : -1.0f;
    for (size_t t = 0; t < pairs; t++) {
        float *k = key + t * d_state, size = sqrtf(dot(k, k, d_state));
        size_t value = random_u32(random) % RECALL_VALUES;
        for (size_t n = 0; n < d_state; n++)
            k[n] /= size;
        memcpy(u + t * RECALL_WIDE, code + value * RECALL_WIDE, RECALL_WIDE * sizeof(float));
        delta[t] = 1.0f;
        right = t == asked ? value : right;
    }
    memcpy(key + pairs * d_state, key + asked * d_state, d_state * sizeof(float));
    HeadScan scan = head_scan_new(len, 1, RECALL_WIDE, d_state, u, delta, A, key, key);
    head_scan_fast(y, NULL, &scan);
    bool found = nearest_value(y + pairs * RECALL_WIDE, code) == right;
    free(key), free(u), free(y), free(delta);
    return found;
}

/* What more states are for. */
static bool demo_head_recall(const Show *show, Error *error)
{
    enum { TRIES = 100, SIZES = 4, MOST = 256 };
    static const size_t states[SIZES] = {16, 64, 128, 256};
    Random random = random_from_seed(show->seed);
    prose("Exact recall, set by hand as in chapter 5: k pairs of a key and a value, then one key. "
          "Right answers in percent, by states of a head; one value in %d is right by chance\n",
          RECALL_VALUES);
    fputs("      k", stdout);
    for (size_t i = 0; i < SIZES; i++)
        printf(" %6zu", states[i]);
    putchar('\n');
    for (size_t pairs = 4; pairs <= MOST; pairs *= 2) {
        printf("  %5zu", pairs);
        for (size_t i = 0; i < SIZES; i++) {
            int right = 0;
            for (int k = 0; k < TRIES; k++)
                right += head_recalls(pairs, states[i], &random);
            printf(" %6.0f", 100.0 * right / TRIES);
        }
        putchar('\n');
    }
    (void)error;
    return true;
}

int mamba2_block_main(int argc, char **argv)
{
    enum { DEMOS = 3 };
    static Demo *const demos[DEMOS] = {demo_head_trace, demo_head_count, demo_head_recall};
    HeadBlockShow with = {{{false, false}, NULL, 1},
                          config_default_heads(16, 4, 16),
                          config_default_heads(768, 64, 128)};
    const char *file = NULL;
    int demo = -1;
    const Option table[] = {
        {"demo", "trace|count|recall", OPTION_CHOICE, 0, 0, &demo, "mode",
         "one demo of the lesson"},
        {"config", "FILE", OPTION_TEXT, 0, 0, &file, "- demo:trace demo:count",
         "sizes from a Hugging Face config.json of a Mamba-2"},
        {"seed", "S", OPTION_WHOLE, 0, WHOLE_MOST, &with.show.seed, "- demo:trace demo:recall",
         "of what is random (default 1)"},
    };
    const Program program = {"ch05_mamba2_block",
                             "The block of Mamba-2 (chapter 5c). Without options: a token's way "
                             "through it, its parameters, and what its state has room for.",
                             table, sizeof table / sizeof *table};
    int status;
    if (!program_begin(&status, &program, argc, argv))
        return status;
    Error error;
    with.show.look = look_at_terminal(false);
    bool ok = !file || config_read(&with.config, file, &error);
    if (ok && file && with.config.kind != MODEL_MAMBA2)
        ok = fail(&error, "%s: this is no Mamba-2; ch05_mamba_block shows the others", file);
    if (ok && file)
        with.counted = with.config;
    return program_end(ok && demos_run(demos, DEMOS, demo, &with.show, &error), &error);
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return mamba2_block_main(argc, argv);
}
#endif

#endif /* CH05_MAMBA2_BLOCK */
