/* Chapter 5. The Mamba block

   QUESTION   Chapter 4's scan is given Delta, B, C and a gate. Where do they come from? What else
              is in a block of the published architecture, and what does it cost beside attention?
   NEW        Everything is computed from the tokens: by projections, a short convolution, a gate,
              a norm and a residual. And the backward pass through all of it, for training.
   NOT        Words: a block takes vectors and gives vectors; language_model.c stacks blocks. Speed:
              a name that ends in _fast is the same function for use (products.c, convolution.c).
   EQUATION   out = input + out_proj(scan(u; Delta, A, B, C, D) * silu(z))
              u_raw, z = in_proj(norm(input))          u = silu(conv1d(u_raw))
              dt, B, C = x_proj(u)                     Delta = softplus(dt_proj(dt) + bias)
   LETTERS    maths    C           shape                       Hugging Face
              in       input       (batch, len, d_model)       hidden_states
              u'       u_raw       (batch, len, d_inner)       hidden_states after in_proj
              u        u           (batch, len, d_inner)       hidden_states after conv1d and silu
              z        z           (batch, len, d_inner)       gate
              dt       dt_low      (batch, len, dt_rank)       time_step
              B C      B C         (batch, len, d_state)       B, C
              s        dt_raw      (batch, len, d_inner)       discrete_time_step before its bias
              Delta    softplus(dt_raw + bias), which only the scan forms: scan.delta is dt_raw
              x        x           (batch, d_inner, d_state)   ssm_state
              d_model d_inner d_state d_conv dt_rank           hidden_size intermediate_size
                                                               state_size conv_kernel time_step_rank
   BUILD      cc -O2 ch05_mamba_block/mamba_block.c -o mamba_block -lm && ./mamba_block
   TIME       50 minutes to read, 90 to do the exercises
   SOURCES    A. Gu, T. Dao, Mamba, arXiv 2312.00752: sections 3.4 and 3.6, figure 3, algorithm 2
              B. Zhang, R. Sennrich, Root mean square layer normalization, arXiv 1910.07467
              J. Zuo et al., Falcon Mamba, arXiv 2410.05355: norms of dt, B and C */

#ifndef CH05_MAMBA_BLOCK
#define CH05_MAMBA_BLOCK

#include "../ch04_selective/fast_scan.c"
#include "products.c" /* linear_..._fast, bias_backward, dot */
#include "packing.c"  /* conv1d_texts, scan_texts; silu_all */
#include "config.c"   /* MambaConfig: all sizes, under Hugging Face's names */
#include "fixed.c"    /* an experiment: a block without selection, or with a part of it */
#include "diagram.c"  /* the block as a picture */
#include "recall.c"   /* what a fixed state cannot do */

/* ===================================== Linear layers ====================================== */
/* The block in short, as mixer_forward (further down) puts it together:                      */
/*     u', z = in_proj(norm(in));     u = silu(conv1d(u'));     dt, B, C = x_proj(u)          */
/*     y = scan(u, softplus(dt_proj(dt) + bias), A, B, C, D) * silu(z)                        */
/*     out = in + out_proj(y)                                                                 */
/* So Delta, B and C come from u by linear layers, y = W x + b, one row of W per new channel. */
/* A block has four, which hold nearly all its parameters and its time; so they come first.   */

/* y (tokens, d_out) = x (tokens, d_in) W^T + bias. W is (d_out, d_in), as PyTorch keeps it; bias
   (d_out), or NULL. Each token is treated on its own. (x is any input here, not the state.) */
void linear_forward(float *y, const float *x, const float *W, const float *bias, size_t tokens,
                    size_t d_in, size_t d_out)
{
    for (size_t t = 0; t < tokens; t++)
        for (size_t o = 0; o < d_out; o++) {
            float sum = 0.0f;
            for (size_t i = 0; i < d_in; i++)
                sum += x[t * d_in + i] * W[o * d_in + i];
            y[t * d_out + o] = bias == NULL ? sum : sum + bias[o];
        }
}

/* Backwards. Input i went into every y[o], times W[o][i], so the gradients of the outputs come
   back to it by the same weights: x_grad (tokens, d_in) = y_grad (tokens, d_out) W. An input that
   is used elsewhere too has a gradient already: `add` adds to it. */
void linear_backward_input(float *x_grad, const float *y_grad, const float *W, bool add,
                           size_t tokens, size_t d_in, size_t d_out)
{
    for (size_t t = 0; t < tokens; t++)
        for (size_t i = 0; i < d_in; i++) {
            float sum = 0.0f;
            for (size_t o = 0; o < d_out; o++)
                sum += y_grad[t * d_out + o] * W[o * d_in + i];
            x_grad[t * d_in + i] = add ? x_grad[t * d_in + i] + sum : sum;
        }
}

/* W[o][i] was used by every token, to bring x[t][i] into y[t][o]; so its gradient is a sum over
   the tokens: W_grad (d_out, d_in) = y_grad^T x. (A bias was added as it is, so its gradient is
   the sum of y_grad over the tokens: bias_backward, in products.c.) */
void linear_backward_weight(float *W_grad, const float *y_grad, const float *x, size_t tokens,
                            size_t d_in, size_t d_out)
{
    for (size_t o = 0; o < d_out; o++)
        for (size_t i = 0; i < d_in; i++) {
            float sum = 0.0f;
            for (size_t t = 0; t < tokens; t++)
                sum += y_grad[t * d_out + o] * x[t * d_in + i];
            W_grad[o * d_in + i] = sum;
        }
}

/* ======================================= The norm ========================================= */
/* A token's vector is divided by its root mean square, so that the layers after it need not  */
/* care about its scale: (3, 4) and (300, 400) become the same. Then a factor per channel.    */

/* out (tokens, d_model) = input / sqrt(mean(input^2) + epsilon) * weight (Zhang and Sennrich,
   equation 4; epsilon under the root as Hugging Face has it). scale (tokens), which is 1 over that
   root, is kept for the backward pass. PARALLEL_FOR is OpenMP's "parallel for", or nothing. */
void rms_norm_forward(float *out, float *scale, const float *input, const float *weight,
                      double epsilon, size_t tokens, size_t d_model)
{
    PARALLEL_FOR(schedule(static) if (worth_sharing_each(tokens * d_model)))
    for (size_t t = 0; t < tokens; t++) {
        const float *in = input + t * d_model;
        scale[t] = (float)(1.0 / sqrt((double)dot(in, in, d_model) / (double)d_model + epsilon));
        for (size_t i = 0; i < d_model; i++)
            out[t * d_model + i] = in[i] * scale[t] * weight[i];
    }
}

/* The gradients: input_grad (tokens, d_model), added to what is there, for the residual has been
   there before; and weight_grad (d_model).

   Exercise 5.1. What one token's input gets: the scale depends on every channel of it. */
void rms_norm_backward(float *input_grad, float *weight_grad, const float *out_grad,
                       const float *scale, const float *input, const float *weight, size_t tokens,
                       size_t d_model)
{
    /* out = n * weight with n = input * scale, for every token: a sum over the tokens */
    zero(weight_grad, d_model);
    for (size_t t = 0; t < tokens; t++)
        for (size_t i = 0; i < d_model; i++)
            weight_grad[i] += out_grad[t * d_model + i] * input[t * d_model + i] * scale[t];
    PARALLEL_FOR(schedule(static) if (worth_sharing_each(tokens * d_model)))
    for (size_t t = 0; t < tokens; t++) {
        const float *in = input + t * d_model, *dy = out_grad + t * d_model;
        float *to = input_grad + t * d_model;
        //> EX 5.1 [3 pts] [20 min] the backward pass of the norm
        //? With n_i = in_i * scale, dL/dn_i is dy_i * weight_i.
        //? scale = (mean of in^2 + epsilon)^(-1/2), so d scale / d in_i = -scale^3 in_i / d_model.
        //? Collect the mean over the channels of dL/dn_j n_j first; then one line for each channel.
        float along = 0.0f;
        for (size_t i = 0; i < d_model; i++)
            along += dy[i] * weight[i] * in[i] * scale[t];
        along /= (float)d_model;
        for (size_t i = 0; i < d_model; i++)
            to[i] += scale[t] * (dy[i] * weight[i] - in[i] * scale[t] * along);
        //< EX 5.1
    }
}

/* ==================================== The convolution ===================================== */
/* Each channel mixes its last d_conv inputs, by weights of its own: causal, for it looks back */
/* and never ahead, and depthwise, for channels do not meet. "pot of gold" can become one      */
/* thing here, before the scan decides whether to keep it.                                     */

/* One token: out (d_inner) from the last d_conv inputs, each (d_inner), in[0] the oldest and
   in[d_conv - 1] this one; weight (d_inner, 1, d_conv), the first for the oldest; bias or NULL.

   Exercise 5.2. One step of the convolution. */
static void conv1d_token(float *out, const float *const *in, const float *weight, const float *bias,
                         size_t d_inner, size_t d_conv)
{
    for (size_t d = 0; d < d_inner; d++) {
        //> EX 5.2 [2 pts] [15 min] one step of the convolution
        //? out is the bias, if there is one, and a sum over this channel's d_conv inputs, in[j][d].
        //? Channel d's weights are weight[d * d_conv] and the d_conv - 1 after it.
        float sum = bias == NULL ? 0.0f : bias[d];
        for (size_t j = 0; j < d_conv; j++)
            sum += weight[d * d_conv + j] * in[j][d];
        out[d] = sum;
        //< EX 5.2
    }
}

/* A whole sequence: out (batch, len, d_inner) from u_raw of the same shape. What came before the
   first token is in `past` (batch, d_conv - 1, d_inner), oldest first; if that is NULL, it is zeros
   (d_inner). CONV_MOST is 16, the largest d_conv. */
void conv1d_forward(float *out, const float *u_raw, const float *past, const float *zeros,
                    const float *weight, const float *bias, size_t batch, size_t len,
                    size_t d_inner, size_t d_conv)
{
    for (size_t b = 0; b < batch; b++)
        for (size_t t = 0; t < len; t++) {
            const float *in[CONV_MOST]; /* in[j]: of time t + j + 1 - d_conv */
            for (size_t j = 0; j < d_conv; j++)
                if (t + j + 1 >= d_conv)
                    in[j] = u_raw + (b * len + t + j + 1 - d_conv) * d_inner;
                else
                    in[j] = past == NULL ? zeros : past + (b * (d_conv - 1) + t + j) * d_inner;
            conv1d_token(out + (b * len + t) * d_inner, in, weight, bias, d_inner, d_conv);
        }
}

/* Backwards, for sequences that began with nothing. out[t] is a sum over j of weight[d][j] times
   an input, that of time t + j + 1 - d_conv. So the gradient of out[t] goes to that input by that
   weight, and to that weight by that input. u_raw_grad is (batch, len, d_inner), weight_grad
   (d_inner, 1, d_conv), bias_grad (d_inner) or NULL. */
void conv1d_backward(float *u_raw_grad, float *weight_grad, float *bias_grad, const float *out_grad,
                     const float *u_raw, const float *weight, size_t batch, size_t len,
                     size_t d_inner, size_t d_conv)
{
    zero(u_raw_grad, batch * len * d_inner);
    zero(weight_grad, d_inner * d_conv);
    if (bias_grad != NULL)
        bias_backward(bias_grad, out_grad, batch * len, d_inner);
    for (size_t b = 0; b < batch; b++)
        for (size_t t = 0; t < len; t++)
            for (size_t j = 0; j < d_conv; j++) {
                if (t + j + 1 < d_conv) /* before the first token there was nothing */
                    continue;
                size_t to = b * len + t, from = to + j + 1 - d_conv;
                for (size_t d = 0; d < d_inner; d++) {
                    float dy = out_grad[to * d_inner + d];
                    u_raw_grad[from * d_inner + d] += weight[d * d_conv + j] * dy;
                    weight_grad[d * d_conv + j] += u_raw[from * d_inner + d] * dy;
                }
            }
}

/* ================================= Parameters, by name ==================================== */
/* One table says what a block has. Allocation, the names in a file, loading, saving and      */
/* gradients all go by it, so that they cannot disagree.                                      */

/* The parameters of a block, in the order in which they lie in memory. */
typedef enum {
    NORM_WEIGHT,
    IN_PROJ_WEIGHT,
    IN_PROJ_BIAS,
    CONV1D_WEIGHT,
    CONV1D_BIAS,
    X_PROJ_WEIGHT,
    DT_PROJ_WEIGHT,
    DT_PROJ_BIAS,
    A_LOG,
    D_SKIP,
    OUT_PROJ_WEIGHT,
    OUT_PROJ_BIAS,
    BLOCK_TENSORS
} BlockTensor;

/* One parameter: Hugging Face's name after "backbone.layers.N.", and its shape. */
typedef struct {
    const char *name;
    size_t shape[3], rank;
    size_t fan_in; /* how many inputs it helps to sum, which says how large it starts; else 0 */
    size_t count;  /* the product of the shape: 0 for a bias that the config leaves out */
} TensorShape;

/* The table. Two projections are large: in_proj widens d_model channels to u and z, out_proj goes
   back. x_proj and dt_proj are selection: from a token's u they make what is written (B), what is
   read (C) and how far the state moves (Delta). Delta goes through a narrow waist, dt_rank =
   d_model / 16 numbers: a full matrix, d_inner^2 weights, would be as large as in_proj. */
void block_shapes(TensorShape shapes[BLOCK_TENSORS], const MambaConfig *config)
{
    size_t d_model = config->hidden_size, d_inner = config->intermediate_size;
    size_t d_state = config->state_size, d_conv = config->conv_kernel;
    size_t dt_rank = config->time_step_rank, narrow = dt_rank + 2 * d_state;
    TensorShape all[BLOCK_TENSORS] = {
        /* name, shape, rank, fan_in, count (worked out below) */
        {"norm.weight", {d_model, 0, 0}, 1, 0, 0},
        {"mixer.in_proj.weight", {2 * d_inner, d_model, 0}, 2, d_model, 0},
        {"mixer.in_proj.bias", {config->use_bias ? 2 * d_inner : 0, 0, 0}, 1, d_model, 0},
        {"mixer.conv1d.weight", {d_inner, 1, d_conv}, 3, d_conv, 0},
        {"mixer.conv1d.bias", {config->use_conv_bias ? d_inner : 0, 0, 0}, 1, d_conv, 0},
        {"mixer.x_proj.weight", {narrow, d_inner, 0}, 2, d_inner, 0},
        {"mixer.dt_proj.weight", {d_inner, dt_rank, 0}, 2, dt_rank, 0},
        {"mixer.dt_proj.bias", {d_inner, 0, 0}, 1, 0, 0},
        {"mixer.A_log", {d_inner, d_state, 0}, 2, 0, 0},
        {"mixer.D", {d_inner, 0, 0}, 1, 0, 0},
        {"mixer.out_proj.weight", {d_model, d_inner, 0}, 2, d_inner, 0},
        {"mixer.out_proj.bias", {config->use_bias ? d_model : 0, 0, 0}, 1, d_inner, 0}};
    for (int i = 0; i < BLOCK_TENSORS; i++) {
        all[i].count = 1;
        for (size_t axis = 0; axis < all[i].rank; axis++)
            all[i].count *= all[i].shape[axis];
        shapes[i] = all[i];
    }
}

/* All parameters of a block, or all gradients of one: tensor[IN_PROJ_WEIGHT] and so on, NULL where
   there is none. */
typedef struct {
    float *tensor[BLOCK_TENSORS];
} BlockParams;

/* The next `count` floats of `memory`, on a vector of sixteen; only counted if memory is NULL. */
static float *take(float *memory, size_t *used, size_t count)
{
    float *taken = memory == NULL ? NULL : memory + *used;
    *used += (count + 15) / 16 * 16;
    return taken;
}

/* Lays parameters of these shapes out in `memory`, or, if that is NULL, only counts: returns how
   many floats. */
size_t block_params_place(BlockParams *params, float *memory,
                          const TensorShape shapes[BLOCK_TENSORS])
{
    size_t used = 0;
    for (int i = 0; i < BLOCK_TENSORS; i++) {
        float *at = take(memory, &used, shapes[i].count);
        params->tensor[i] = shapes[i].count > 0 ? at : NULL;
    }
    return used;
}

/* How many parameters a block has, worked out without the table.

   Exercise 5.3. Count them by hand first, for hidden_size 768, state_size 16, conv_kernel 4. Which
   biases there are is for use_bias and use_conv_bias to say: see block_shapes. */
size_t block_params_count(const MambaConfig *config)
{
    size_t d_model = config->hidden_size, d_inner = config->intermediate_size;
    size_t d_state = config->state_size, d_conv = config->conv_kernel;
    size_t dt_rank = config->time_step_rank, count = d_model; /* the norm */
    //> EX 5.3 [2 pts] [15 min] how many parameters a block has
    //? in_proj goes from d_model to u and z, d_inner each; out_proj goes back.
    //? x_proj makes dt_rank + 2 d_state numbers of d_inner; dt_proj makes d_inner of dt_rank.
    //? dt_proj always has a bias, conv1d if use_conv_bias, in_proj and out_proj if use_bias; A_log
    //?   and D have no projection.
    count += 2 * d_inner * d_model + (config->use_bias ? 2 * d_inner : 0);
    count += d_inner * d_conv + (config->use_conv_bias ? d_inner : 0);
    count += (dt_rank + 2 * d_state) * d_inner;
    count += d_inner * dt_rank + d_inner;
    count += d_inner * d_state + d_inner;
    count += d_model * d_inner + (config->use_bias ? d_model : 0);
    //< EX 5.3
    return count;
}

/* Parameters to start from (Mamba, section 3.6, and the published code). Projections as nn.Linear's
   default, uniform within 1 / sqrt(fan_in), so that sums are of the order of what they sum. A = -1
   .. -d_state: each channel forgets at d_state rates. D = 1. And a bias such that softplus gives
   Deltas from time_step_min to time_step_max, 0.001 to 0.1, log-uniform as in the code (the paper
   says uniform): a fresh block moves its states slowly, and can learn to hurry. */
void block_init(const BlockParams *params, const MambaConfig *config, Random *random)
{
    TensorShape shapes[BLOCK_TENSORS];
    float *const *p = params->tensor;
    size_t d_state = config->state_size;
    double low = log(config->time_step_min), high = log(config->time_step_max);
    block_shapes(shapes, config);
    /* the weights and biases of sums: uniform within 1 / sqrt(fan_in) */
    for (int i = 0; i < BLOCK_TENSORS; i++)
        for (size_t k = 0; k < shapes[i].count && shapes[i].fan_in > 0; k++)
            p[i][k] = (float)(1.0 / sqrt((double)shapes[i].fan_in) *
                              (2.0 * random_uniform(random) - 1.0));
    /* and the others: the norm leaves its channels as they are; Delta, D and A as said above */
    for (size_t i = 0; i < config->hidden_size; i++)
        p[NORM_WEIGHT][i] = 1.0f;
    for (size_t d = 0; d < config->intermediate_size; d++) {
        double delta = exp(low + (high - low) * random_uniform(random));
        delta = fmax(delta, config->time_step_floor);
        p[DT_PROJ_BIAS][d] = (float)(delta + log(-expm1(-delta))); /* softplus of it is delta */
        p[D_SKIP][d] = 1.0f;
        for (size_t n = 0; n < d_state; n++)
            p[A_LOG][d * d_state + n] = (float)log((double)(n + 1));
    }
}

/* ================================ What a block works with ================================= */
/* Memory is laid out beforehand and never asked for on the way: what a block carries from    */
/* token to token (little, and always as much), and what it computes (its cache).             */

/* A block ready for use. A must be below 0, or the state would grow without end: so its logarithm
   is what is stored and trained, and A = -exp(A_log) is worked out once, by block_refresh, and not
   for every token. */
typedef struct {
    MambaConfig config;
    BlockParams params;
    float *A; /* (d_inner, d_state) */
} MambaBlock;

void block_refresh(MambaBlock *block)
{
    size_t count = block->config.intermediate_size * block->config.state_size;
    for (size_t i = 0; i < count; i++)
        block->A[i] = (float)-exp((double)block->params.tensor[A_LOG][i]);
}

/* What goes from one token to the next, and all of it: as much after a million tokens as after
   one. For d_model 768 and one sequence that is 1,536 (3 + 16) numbers, 114 KB. */
typedef struct {
    float *conv; /* (batch, d_conv - 1, d_inner) the last inputs of the convolution, oldest first */
    float *x;    /* (batch, d_inner, d_state) the scan's state */
} BlockState;

size_t block_state_floats(const MambaConfig *config, size_t batch)
{
    return batch * config->intermediate_size * (config->conv_kernel - 1 + config->state_size);
}

BlockState block_state_place(float *memory, const MambaConfig *config, size_t batch)
{
    BlockState state;
    state.conv = memory;
    state.x = memory + batch * config->intermediate_size * (config->conv_kernel - 1);
    return state;
}

/* Everything a forward pass computes on its way, in this order: for the backward pass, and for a
   look at it. A gradient has the shape of what it is a gradient of, so the backward pass fills a
   second cache with the gradients of what is in the first. A `const BlockCache` says where the
   arrays lie, and that stays; what is in them is written. */
typedef struct {
    size_t batch, len;
    float *normed, *scale; /* (batch, len, d_model), (batch, len) */
    float *u_raw, *z;      /* (batch, len, d_inner) the two halves of in_proj */
    float *conv, *u;       /* the same: after the convolution, and after its silu */
    float *x_dbl;          /* (batch, len, dt_rank + 2 d_state) x_proj, whose parts are: */
    float *dt_low, *B, *C; /* (batch, len, dt_rank), (batch, len, d_state) twice */
    float *part_scale;     /* (3, batch, len) of Falcon-Mamba's norms of these three; else NULL */
    float *dt_raw;         /* (batch, len, d_inner) dt_proj, its bias not yet added */
    float *gated;          /* (batch, len, d_inner) the scan's output, gated */
    float *zeros;          /* (d_inner) */
    float *constant;       /* (batch, len, d_inner) where something is fixed; else NULL: fixed.c */
    float *checkpoint;     /* some of the scan's states, for its backward pass; else NULL */
    float *A, *scan, *one; /* in a cache of gradients: that of A, and workspace */
    const Packed *texts;   /* NULL; or where texts begin, each with nothing: packing.c */
} BlockCache;
typedef BlockCache BlockBack;

/* The scan inside the block: chapter 4's, given what this block has computed. It adds dt_proj's
   bias and takes the softplus itself, and gates with z. */
static Scan block_scan(const BlockCache *cache, const MambaBlock *block, const BlockState *state)
{
    size_t d_inner = block->config.intermediate_size, d_state = block->config.state_size;
    Scan scan = scan_new(cache->batch, cache->len, d_inner, d_state, cache->u, cache->dt_raw,
                         block->A, cache->B, cache->C);
    scan.delta_bias = block->params.tensor[DT_PROJ_BIAS];
    scan.D = block->params.tensor[D_SKIP];
    scan.z = cache->z;
    scan.x_start = state == NULL ? NULL : state->x;
    scan.checkpoint = cache->checkpoint;
    scan.delta_softplus = true;
    return scan;
}

/* And the convolution before it. */
static Conv block_conv(const BlockCache *cache, const MambaBlock *block)
{
    Conv conv = {cache->batch,
                 cache->len,
                 block->config.intermediate_size,
                 block->config.conv_kernel,
                 block->params.tensor[CONV1D_WEIGHT],
                 block->params.tensor[CONV1D_BIAS],
                 cache->zeros};
    return conv;
}

/* Lays the cache out in `memory`, or, if that is NULL, only counts: returns how many floats. A
   cache that is not for training keeps no checkpoints. */
size_t block_cache_place(BlockCache *cache, float *memory, const MambaBlock *block, size_t batch,
                         size_t len, bool training)
{
    const MambaConfig *config = &block->config;
    size_t tokens = batch * len, d_inner = config->intermediate_size, wide = tokens * d_inner;
    size_t d_state = config->state_size, dt_rank = config->time_step_rank, used = 0;
    memset(cache, 0, sizeof *cache);
    cache->batch = batch;
    cache->len = len;
    cache->normed = take(memory, &used, tokens * config->hidden_size);
    cache->scale = take(memory, &used, tokens);
    cache->u_raw = take(memory, &used, wide);
    cache->z = take(memory, &used, wide);
    cache->conv = take(memory, &used, wide);
    cache->u = take(memory, &used, wide);
    cache->x_dbl = take(memory, &used, tokens * (dt_rank + 2 * d_state));
    cache->dt_low = take(memory, &used, tokens * dt_rank);
    cache->B = take(memory, &used, tokens * d_state);
    cache->C = take(memory, &used, tokens * d_state);
    if (config->kind == MODEL_FALCON_MAMBA)
        cache->part_scale = take(memory, &used, 3 * tokens);
    cache->dt_raw = take(memory, &used, wide);
    cache->gated = take(memory, &used, wide);
    cache->zeros = take(memory, &used, d_inner);
    if (config->fixed != 0)
        cache->constant = take(memory, &used, wide);
    if (training) {
        Scan scan = block_scan(cache, block, NULL);
        cache->checkpoint = take(memory, &used, selective_scan_checkpoint_floats(&scan));
    }
    for (size_t i = 0; i < d_inner && memory != NULL; i++)
        cache->zeros[i] = 0.0f;
    for (size_t i = 0; i < wide && cache->constant != NULL; i++)
        cache->constant[i] = 1.0f / sqrtf((float)d_inner);
    return used;
}

/* ======================================= The block ======================================== */

/* The gate as it is defined: out (count) = y silu(z). Each channel's output is multiplied by about
   0 for z far below 0 and by about z for z far above, by this token alone, without any memory. In a
   block the scan does it on its way; here it can be looked at. */
void gate_forward(float *out, const float *y, const float *z, size_t count)
{
    for (size_t i = 0; i < count; i++)
        out[i] = y[i] * silu(z[i]);
}

/* Falcon-Mamba only: dt, B and C of each token, as x_proj has made them, are each divided by their
   root mean square, without a factor per channel, which keeps the training of a large model stable
   (Zuo et al.): whatever a token is, Delta, B and C stay of one size. In place. */
static void selection_norms(const BlockCache *cache, const MambaConfig *config)
{
    size_t tokens = cache->batch * cache->len, d_state = config->state_size;
    float *scale = cache->part_scale;
    rows_norm(cache->dt_low, scale, config->mixer_rms_eps, tokens, config->time_step_rank);
    rows_norm(cache->B, scale + tokens, config->mixer_rms_eps, tokens, d_state);
    rows_norm(cache->C, scale + 2 * tokens, config->mixer_rms_eps, tokens, d_state);
}

/* The block without norm and residual (Hugging Face's mixer): out (batch, len, d_model) from
   cache->normed. What goes on to the next tokens is read from and written to `state`; with NULL the
   sequences begin with nothing. A comment for each box of the diagram (Mamba, figure 3), in the
   words of the published Python. */
void mixer_forward(float *out, const BlockCache *cache, const BlockState *state,
                   const MambaBlock *block)
{
    const MambaConfig *config = &block->config;
    float *const *p = block->params.tensor;
    size_t d_model = config->hidden_size, d_inner = config->intermediate_size;
    size_t d_state = config->state_size, dt_rank = config->time_step_rank;
    size_t tokens = cache->batch * cache->len, narrow = dt_rank + 2 * d_state;
    const float *bias = p[IN_PROJ_BIAS];

    /* u_raw, z = in_proj(normed).chunk(2): two products with the halves of one weight. u_raw is
       what may be remembered, z is the gate. */
    linear_forward_fast(cache->u_raw, cache->normed, p[IN_PROJ_WEIGHT], bias, tokens, d_model,
                        d_inner);
    linear_forward_fast(cache->z, cache->normed, p[IN_PROJ_WEIGHT] + d_inner * d_model,
                        bias == NULL ? NULL : bias + d_inner, tokens, d_model, d_inner);
    /* u = silu(conv1d(u_raw)) */
    Conv conv = block_conv(cache, block);
    conv1d_texts(cache->conv, state == NULL ? NULL : state->conv, cache->u_raw, &conv,
                 cache->texts);
    silu_all(cache->u, cache->conv, tokens * d_inner);
    /* Exercise 5.4. Selection, from cache->u to dt_low, B, C and dt_raw. Each token has one row of
       x_dbl, of `narrow` numbers, and that is all that selection is made of. columns_out takes
       columns out of rows: see products.c. */
    //> EX 5.4 [3 pts] [25 min] from a token to its Delta, B and C
    //? x_proj makes `narrow` numbers out of d_inner, dt_proj d_inner out of dt_rank. Which first?
    //? A row of x_dbl begins with dt_low; then comes what is written, then what is read.
    //? The bias of dt_proj and the softplus are the scan's business: see block_scan.
    //: /* ... between the two projections: */
    //: if (config->kind == MODEL_FALCON_MAMBA)
    //:     selection_norms(cache, config);
    /* dt, B, C = x_proj(u).split(dt_rank, d_state, d_state) */
    linear_forward_fast(cache->x_dbl, cache->u, p[X_PROJ_WEIGHT], NULL, tokens, d_inner, narrow);
    columns_out(cache->dt_low, cache->x_dbl, 0, dt_rank, tokens, narrow);
    columns_out(cache->B, cache->x_dbl, dt_rank, d_state, tokens, narrow);
    columns_out(cache->C, cache->x_dbl, dt_rank + d_state, d_state, tokens, narrow);
    if (config->kind == MODEL_FALCON_MAMBA)
        selection_norms(cache, config);
    /* Delta = softplus(dt_proj(dt)), but for the bias and the softplus */
    linear_forward_fast(cache->dt_raw, cache->dt_low, p[DT_PROJ_WEIGHT], NULL, tokens, dt_rank,
                        d_inner);
    //< EX 5.4
    float *const made[] = {cache->dt_low, cache->B, cache->C};
    if (cache->constant != NULL) /* an experiment: fixed.c */
        fixed_forward(made, cache->dt_raw, cache->constant, p[X_PROJ_WEIGHT], p[DT_PROJ_WEIGHT],
                      tokens, config);
    /* y = scan(u, Delta, A, B, C, D) * silu(z): algorithm 2, and the gate */
    Scan scan = block_scan(cache, block, state);
    scan_texts(cache->gated, state == NULL ? NULL : state->x, &scan, cache->texts);
    /* out = out_proj(y): back to d_model channels */
    linear_forward_fast(out, cache->gated, p[OUT_PROJ_WEIGHT], p[OUT_PROJ_BIAS], tokens, d_inner,
                        d_model);
}

/* A whole block, for many sequences at once: out (batch, len, d_model) = input +
   mixer(norm(input)); out may be input, unless the cache is kept for the backward pass. The
   residual lets blocks be stacked: each adds a correction to what runs past it. Sizes are the
   cache's. With `state` a sequence can be given in pieces. */
void block_forward(float *out, const BlockCache *cache, const BlockState *state, const float *input,
                   const MambaBlock *block)
{
    size_t d_model = block->config.hidden_size, tokens = cache->batch * cache->len;
    bool keep = cache->checkpoint != NULL; /* for training */
    rms_norm_forward(cache->normed, cache->scale, input, block->params.tensor[NORM_WEIGHT],
                     block->config.layer_norm_epsilon, tokens, d_model);
    assert(!keep || out != input);
    /* the mixer's result: in out if normed must survive, else over normed, which is done with */
    float *mixed = keep ? out : cache->normed;
    mixer_forward(mixed, cache, state, block);
    for (size_t i = 0; i < tokens * d_model; i++)
        out[i] = input[i] + mixed[i];
}

/* One token of each sequence: out and input (batch, d_model). The cache has len 1; the state is all
   that is remembered. A step is just a piece of length one. */
void block_step(float *out, const BlockCache *cache, const BlockState *state, const float *input,
                const MambaBlock *block)
{
    assert(cache->len == 1 && state != NULL);
    block_forward(out, cache, state, input, block);
}

/* ================================== The block, backwards ================================== */
/* Each box hands its gradient to the one before it: the forward pass, read from below. What  */
/* is used twice gets two gradients, which add up: u, by the scan and by x_proj; the input,   */
/* by the norm and by the residual.                                                           */

/* Lays out, or counts, the gradients of what `cache` holds, that of A, and the scan's workspace. */
size_t block_back_place(BlockBack *back, float *memory, const BlockCache *cache,
                        const MambaBlock *block)
{
    size_t used = block_cache_place(back, memory, block, cache->batch, cache->len, false);
    Scan scan = block_scan(cache, block, NULL);
    scan.checkpoint = block->A; /* never read: it says that the forward pass keeps checkpoints */
    back->A = take(memory, &used, block->config.intermediate_size * block->config.state_size);
    back->scan = take(memory, &used, selective_scan_backward_floats(&scan));
    back->one = take(memory, &used, scan.d_inner * (scan.d_state + block->config.conv_kernel + 2));
    return used;
}

/* Its norms backwards, in place: exercise 5.1 without a weight, three times. */
static void selection_norms_backward(const BlockBack *back, const BlockCache *cache,
                                     const MambaConfig *config)
{
    size_t tokens = cache->batch * cache->len, d_state = config->state_size;
    const float *scale = cache->part_scale;
    rows_norm_backward(back->dt_low, cache->dt_low, scale, tokens, config->time_step_rank);
    rows_norm_backward(back->B, cache->B, scale + tokens, tokens, d_state);
    rows_norm_backward(back->C, cache->C, scale + 2 * tokens, tokens, d_state);
}

/* dt_raw = dt_proj(dt_low) and dt_low, B, C = x_proj(u), backwards: from the gradients of dt_raw, B
   and C to that of u, which the scan has left in back->u and which is added to here. */
static void selection_backward(const BlockParams *grad, const BlockBack *back,
                               const BlockCache *cache, const MambaBlock *block)
{
    const MambaConfig *config = &block->config;
    float *const *p = block->params.tensor, *const *g = grad->tensor;
    size_t d_inner = config->intermediate_size, d_state = config->state_size;
    size_t dt_rank = config->time_step_rank, narrow = dt_rank + 2 * d_state;
    size_t tokens = cache->batch * cache->len;
    float *const made[] = {back->dt_low, back->B, back->C};
    linear_backward_weight_fast(g[DT_PROJ_WEIGHT], back->dt_raw, cache->dt_low, tokens, dt_rank,
                                d_inner);
    linear_backward_input_fast(back->dt_low, back->dt_raw, p[DT_PROJ_WEIGHT], false, tokens,
                               dt_rank, d_inner);
    if (config->kind == MODEL_FALCON_MAMBA)
        selection_norms_backward(back, cache, config);
    columns_in(back->x_dbl, back->dt_low, 0, dt_rank, tokens, narrow);
    columns_in(back->x_dbl, back->B, dt_rank, d_state, tokens, narrow);
    columns_in(back->x_dbl, back->C, dt_rank + d_state, d_state, tokens, narrow);
    linear_backward_weight_fast(g[X_PROJ_WEIGHT], back->x_dbl, cache->u, tokens, d_inner, narrow);
    if (cache->constant != NULL)
        fixed_backward(g[X_PROJ_WEIGHT], back->x_dbl, made, cache->constant, tokens, config);
    linear_backward_input_fast(back->u, back->x_dbl, p[X_PROJ_WEIGHT], true, tokens, d_inner,
                               narrow);
}

/* u_raw, z = in_proj(normed), backwards: normed is used by both halves of the weight. */
static void in_proj_backward(const BlockParams *grad, const BlockBack *back,
                             const BlockCache *cache, const MambaBlock *block)
{
    size_t d_model = block->config.hidden_size, d_inner = block->config.intermediate_size;
    size_t tokens = cache->batch * cache->len;
    const float *half[2] = {back->u_raw, back->z}, *W = block->params.tensor[IN_PROJ_WEIGHT];
    float *W_grad = grad->tensor[IN_PROJ_WEIGHT], *bias_grad = grad->tensor[IN_PROJ_BIAS];
    for (size_t i = 0; i < 2; i++) {
        size_t first = i * d_inner;
        linear_backward_weight_fast(W_grad + first * d_model, half[i], cache->normed, tokens,
                                    d_model, d_inner);
        linear_backward_input_fast(back->normed, half[i], W + first * d_model, i > 0, tokens,
                                   d_model, d_inner);
        if (bias_grad != NULL)
            bias_backward(bias_grad + first, half[i], tokens, d_inner);
    }
}

/* The mixer backwards, box by box from the end: gradients of the parameters in `grad` (written, not
   added to) and of cache->normed in back->normed. The forward pass began with nothing. */
void mixer_backward(const BlockParams *grad, const BlockBack *back, const float *out_grad,
                    const BlockCache *cache, const MambaBlock *block)
{
    const MambaConfig *config = &block->config;
    float *const *p = block->params.tensor, *const *g = grad->tensor;
    size_t d_model = config->hidden_size, d_inner = config->intermediate_size;
    size_t tokens = cache->batch * cache->len;

    /* out = out_proj(gated): a linear layer's gradients go to its weight, its bias and its input */
    linear_backward_weight_fast(g[OUT_PROJ_WEIGHT], out_grad, cache->gated, tokens, d_inner,
                                d_model);
    if (g[OUT_PROJ_BIAS] != NULL)
        bias_backward(g[OUT_PROJ_BIAS], out_grad, tokens, d_model);
    linear_backward_input_fast(back->gated, out_grad, p[OUT_PROJ_WEIGHT], false, tokens, d_inner,
                               d_model);
    /* gated = scan(u, dt_raw, A, B, C, D, z): chapter 4's backward pass gives the gradients of all
       of them and of the bias. A = -exp(A_log), so dA/dA_log = A. */
    Scan scan = block_scan(cache, block, NULL);
    ScanGrad scan_grad = {back->u, back->dt_raw, g[DT_PROJ_BIAS], back->A, back->B,
                          back->C, g[D_SKIP],    back->z,         NULL};
    scan_texts_backward(&scan_grad, back->gated, &scan, back->scan, cache->texts, back->one);
    for (size_t i = 0; i < d_inner * config->state_size; i++)
        g[A_LOG][i] = back->A[i] * block->A[i];
    /* dt_raw, B, C from u */
    selection_backward(grad, back, cache, block);
    /* u = silu(conv1d(u_raw)) */
    silu_backward_all(back->conv, back->u, cache->conv, tokens * d_inner);
    Conv conv = block_conv(cache, block);
    conv1d_texts_backward(back->u_raw, g[CONV1D_WEIGHT], g[CONV1D_BIAS], back->conv, cache->u_raw,
                          &conv, cache->texts, back->one);
    /* u_raw, z = in_proj(normed) */
    in_proj_backward(grad, back, cache, block);
}

/* The gradients of a whole block: of its parameters, and of its input (batch, len, d_model) in
   input_grad, which may not be out_grad. The cache is that of block_forward, without a state. */
void block_backward(const BlockParams *grad, float *input_grad, const BlockBack *back,
                    const float *out_grad, const BlockCache *cache, const float *input,
                    const MambaBlock *block)
{
    size_t tokens = cache->batch * cache->len, d_model = block->config.hidden_size;
    mixer_backward(grad, back, out_grad, cache, block);
    /* out = input + mixer(norm(input)): the residual hands the gradient back as it is, which is why
       a hundred blocks can be trained; the norm's backward pass adds its part */
    memcpy(input_grad, out_grad, tokens * d_model * sizeof(float));
    rms_norm_backward(input_grad, grad->tensor[NORM_WEIGHT], back->normed, cache->scale, input,
                      block->params.tensor[NORM_WEIGHT], tokens, d_model);
}

/* ======================================= The demos ======================================== */

/* A block with everything that it works with, in one piece of memory: its parameters, a cache for
   `len` tokens at once of `batch` sequences, A, and the state. */
typedef struct {
    MambaBlock block;
    BlockCache cache;
    BlockState state;
    float *memory;
} OwnBlock;

static OwnBlock own_block_new(const MambaConfig *config, size_t batch, size_t len, Random *random)
{
    TensorShape shapes[BLOCK_TENSORS];
    OwnBlock own;
    memset(&own, 0, sizeof own);
    own.block.config = *config;
    block_shapes(shapes, config);
    /* count first, ask once, then lay out; 16 floats to spare, to begin where 64 divides */
    size_t n_params = block_params_place(&own.block.params, NULL, shapes);
    size_t n_state = block_state_floats(config, batch);
    size_t n_A = config->intermediate_size * config->state_size;
    size_t n_cache = block_cache_place(&own.cache, NULL, &own.block, batch, len, false);
    own.memory = NEW(float, n_params + n_A + n_state + n_cache + 16);
    float *next = own.memory + (-(uintptr_t)own.memory % 64) / sizeof(float);
    block_params_place(&own.block.params, next, shapes);
    block_cache_place(&own.cache, next + n_params, &own.block, batch, len, false);
    own.block.A = next + n_params + n_cache;
    own.state = block_state_place(own.block.A + n_A, config, batch);
    block_init(&own.block.params, config, random);
    block_refresh(&own.block);
    assert(own.cache.normed != NULL && own.cache.dt_low != NULL);
    return own;
}

static void own_block_free(OwnBlock *own)
{
    free(own->memory);
}

/* What this chapter's demos are shown with: sizes of a block besides. */
typedef struct {
    Show show;                   /* first, for a demo is given a pointer to it */
    MambaConfig config, counted; /* the second for demo_count */
} BlockShow;

/* The last of a few tokens on its way through a block with random weights: what each stage makes of
   it, in the order of mixer_forward. */
static bool demo_block_trace(const Show *show, Error *error)
{
    enum { LEN = 8 };
    const MambaConfig *config = &((const BlockShow *)show)->config;
    Random random = random_from_seed(show->seed);
    OwnBlock own = own_block_new(config, 1, LEN, &random);
    size_t d_model = config->hidden_size, d_inner = config->intermediate_size, last = LEN - 1;
    float *input = random_floats(LEN * d_model, &random), *out = NEW(float, LEN *d_model);
    float *normed = NEW(float, LEN *d_model), scale[LEN], *delta = NEW(float, LEN *d_inner);
    float *y = NEW(float, LEN *d_inner), *gated = NEW(float, LEN *d_inner);
    rms_norm_forward(normed, scale, input, own.block.params.tensor[NORM_WEIGHT],
                     config->layer_norm_epsilon, LEN, d_model);
    block_forward(out, &own.cache, &own.state, input, &own.block);
    /* what the fast scan does inside itself, once more with the clear one: Delta, y, the gate */
    Scan scan = block_scan(&own.cache, &own.block, NULL);
    for (size_t i = 0; i < LEN * d_inner; i++)
        delta[i] = step_size(&scan, i / d_inner, i % d_inner);
    scan.z = NULL;
    selective_scan(y, NULL, &scan);
    gate_forward(gated, y, own.cache.z, LEN * d_inner);
    printf("Token %d of %d through one block, d_model %zu, random weights (seed %" PRIu64 ")\n\n",
           LEN, LEN, d_model, show->seed);
    puts("  stage  what is done                                   width   first numbers");
    print_stage("input", "", input, d_model, last);
    print_stage("normed", "divided by its root mean square, times weight", normed, d_model, last);
    print_stage("u_raw", "in_proj, first half", own.cache.u_raw, d_inner, last);
    print_stage("z", "in_proj, second half: the gate", own.cache.z, d_inner, last);
    print_stage("conv", "the last d_conv tokens of each channel", own.cache.conv, d_inner, last);
    print_stage("u", "silu", own.cache.u, d_inner, last);
    print_stage("dt", "x_proj, first part", own.cache.dt_low, config->time_step_rank, last);
    print_stage("B", "x_proj, second part: what to write", own.cache.B, config->state_size, last);
    print_stage("C", "x_proj, last part: what to read", own.cache.C, config->state_size, last);
    print_stage("Delta", "softplus(dt_proj(dt) + bias): how far to move", delta, d_inner, last);
    print_stage("x", "the state of channel 1", own.state.x, config->state_size, 0);
    print_stage("y", "C x + D u: what is read", y, d_inner, last);
    print_stage("gated", "y silu(z)", gated, d_inner, last);
    print_stage("out", "out_proj, plus the input", out, d_model, last);
    prose(
        "\nWhat goes on to token %d: %zu numbers of x and %zu of the convolution, however long the "
        "text.",
        LEN + 1, d_inner * config->state_size, d_inner * (config->conv_kernel - 1));
    free(input), free(out), free(normed), free(delta), free(y), free(gated);
    own_block_free(&own);
    (void)error; /* nothing here can go wrong */
    return true;
}

/* Every parameter of a block with its shape, and how many there are. */
static bool demo_count(const Show *show, Error *error)
{
    const MambaConfig *config = &((const BlockShow *)show)->counted;
    TensorShape shapes[BLOCK_TENSORS];
    block_shapes(shapes, config);
    printf("The parameters of a block, d_model %zu\n\n", config->hidden_size);
    for (int i = 0; i < BLOCK_TENSORS; i++)
        print_tensor(shapes[i].name, shapes[i].shape, shapes[i].rank, shapes[i].count);
    print_tensor("all", NULL, 0, block_params_count(config));
    (void)error;
    return true;
}

int mamba_block_main(int argc, char **argv)
{
    enum { TRACE, COUNT, RECALL, DEMOS };
    Demo *const demos[DEMOS] = {demo_block_trace, demo_count, demo_recall};
    bool mode[DEMOS] = {false, false, false}, diagram = false, ascii = false;
    const char *file = NULL, *svg = NULL;
    uint64_t width = 0, seed = 1;
    const Option table[] = {
        {"trace", NULL, OPTION_SWITCH, 0, 0, &mode[TRACE], "mode", "one token, stage by stage"},
        {"count", NULL, OPTION_SWITCH, 0, 0, &mode[COUNT], "mode", "the parameters, one by one"},
        {"recall", NULL, OPTION_SWITCH, 0, 0, &mode[RECALL], "mode",
         "looking up one of k pairs: a fixed state against attention"},
        {"diagram", NULL, OPTION_SWITCH, 0, 0, &diagram, "mode svg",
         "the block as a picture; needs --svg FILE"},
        {"width", "N", OPTION_WHOLE, 1, 4096, &width, "- trace count diagram !config",
         "d_model (default 16; 768 for the parameters and the picture)"},
        {"config", "FILE", OPTION_TEXT, 0, 0, &file, "- trace count diagram",
         "sizes from a Hugging Face config.json"},
        {"seed", "S", OPTION_WHOLE, 0, WHOLE_MOST, &seed, "- trace recall",
         "of what is random (default 1)"},
        {"svg", "FILE", OPTION_OUT, 0, 0, &svg, "recall diagram", "write the figure as SVG"},
        {"ascii", NULL, OPTION_SWITCH, 0, 0, &ascii, "- recall", "draw charts without Unicode"},
    };
    const Program program = {"ch05_mamba_block",
                             "The Mamba block (chapter 5). Without options: a token's way through "
                             "it, its parameters, and what attention can do that it cannot.",
                             table, sizeof table / sizeof *table};
    int status, one = -1;
    if (!program_begin(&status, &program, argc, argv))
        return status;
    for (int k = 0; k < DEMOS; k++)
        one = mode[k] ? k : one;
    BlockShow with = {{look_at_terminal(ascii), svg, seed},
                      config_default(width ? (size_t)width : 16),
                      config_default(width ? (size_t)width : 768)};
    Error error;
    bool ok = !file || config_read(&with.config, file, &error);
    if (ok && with.config.kind == MODEL_MAMBA2)
        ok = fail(&error, "%s: this is a Mamba-2: ch05_mamba2_block shows its block", file);
    if (ok && file)
        with.counted = with.config;
    if (ok)
        ok = diagram ? block_write_svg(svg, &with.counted, &error)
                     : demos_run(demos, DEMOS, one, &with.show, &error);
    return program_end(ok, &error);
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return mamba_block_main(argc, argv);
}
#endif

#endif /* CH05_MAMBA_BLOCK */
