/* Capstone 1. A Mamba language model, trained in C

   QUESTION   What does a stack of blocks need to guess the next token, and how does it learn to?
   NEW        Embedding, blocks, final norm and a head that is the embedding again; the loss, its
              gradient for every parameter, AdamW, and a text written token by token.
   NOT        A tokenizer: here a token is a byte. pretrained.c will bring one.
   EQUATION   loss = mean of -log softmax(logits_t)[token_{t+1}],  logits = norm_f(h) E^T
   LETTERS    maths   C            shape                        Hugging Face
              E       embeddings   (vocab, d_model)             backbone.embeddings.weight
              h       hidden       (n_layer + 1, tokens, d_model)  the residual stream
              -       norm_f       (d_model)                    backbone.norm_f.weight
              -       lm_head      (vocab, d_model)             lm_head.weight, if not tied to E
   BUILD      cc -O2 ch05_mamba_block/language_model.c -o language_model -lm && ./language_model
   TIME       40 minutes to read
   SOURCES    A. Gu, T. Dao, Mamba, arXiv 2312.00752, section 4.2 and appendix E.2
              I. Loshchilov, F. Hutter, Decoupled weight decay regularization, arXiv 1711.05101
              O. Press, L. Wolf, Using the output embedding, arXiv 1608.05859 (the tied head) */

#ifndef CH05_LANGUAGE_MODEL
#define CH05_LANGUAGE_MODEL

#include "mamba_block.c"

/* ====================================== Parameters ========================================= */

/* All parameters of a model, or all gradients of one, as views into one allocation. */
typedef struct {
    float *memory;      /* (model_floats) */
    float *embeddings;  /* (vocab, d_model) */
    BlockParams *layer; /* (n_layer) */
    float *norm_f;      /* (d_model) */
    float *lm_head;     /* (vocab, d_model); the embeddings, if they are tied */
} ModelParams;

/* A parameter of the model by its full name, for whoever goes over all of them. */
typedef struct {
    char name[96];
    float *values;
    size_t shape[3], rank, count;
    bool decays; /* AdamW pulls it towards 0 */
} ModelTensor;

static size_t on_a_vector(size_t count)
{
    return (count + 15) / 16 * 16;
}

/* How many floats the parameters take. */
size_t model_floats(const MambaConfig *config)
{
    size_t table = on_a_vector(config->vocab_size * config->hidden_size);
    return table * (config->tie_word_embeddings ? 1 : 2) + on_a_vector(config->hidden_size) +
           config->num_hidden_layers * block_params_floats(config);
}

/* Zeroed memory with all its views; model_params_free when done. */
ModelParams model_params_new(const MambaConfig *config)
{
    ModelParams params;
    size_t table = on_a_vector(config->vocab_size * config->hidden_size);
    params.memory = NEW(float, model_floats(config));
    params.layer = NEW(BlockParams, config->num_hidden_layers);
    params.embeddings = params.memory;
    float *next = params.memory + table;
    for (size_t i = 0; i < config->num_hidden_layers; i++, next += block_params_floats(config))
        params.layer[i] = block_params_place(next, config);
    params.norm_f = next;
    params.lm_head =
        config->tie_word_embeddings ? params.embeddings : next + on_a_vector(config->hidden_size);
    return params;
}

void model_params_free(ModelParams *params)
{
    free(params->memory);
    free(params->layer);
}

/* How many tensors a model has, counting those that its config leaves out with 0 values. */
size_t model_tensor_count(const MambaConfig *config)
{
    return 3 + config->num_hidden_layers * BLOCK_TENSORS;
}

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

/* Tensor `which` of a model. Weight decay is for matrices: a bias, a norm's factor or D near 0 is no
   simpler than another, and A_log is a logarithm, whose 0 means nothing. */
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
    TensorShape shapes[BLOCK_TENSORS];
    size_t layer = (which - 3) / BLOCK_TENSORS, part = (which - 3) % BLOCK_TENSORS;
    ModelTensor tensor;
    block_shapes(shapes, config);
    snprintf(tensor.name, sizeof tensor.name, "backbone.layers.%zu.%s", layer, shapes[part].name);
    tensor.values = params->layer[layer].tensor[part];
    memcpy(tensor.shape, shapes[part].shape, sizeof tensor.shape);
    tensor.rank = shapes[part].rank;
    tensor.count = shapes[part].count;
    tensor.decays = tensor.rank > 1 && part != A_LOG;
    return tensor;
}

/* A model: its sizes, its parameters, and its blocks ready for use. */
typedef struct {
    MambaConfig config;
    ModelParams params;
    MambaBlock *block; /* (n_layer) */
    float *A;          /* (n_layer, d_inner, d_state) = -exp(A_log), kept up to date by refresh */
} Model;

void model_refresh(Model *model)
{
    for (size_t i = 0; i < model->config.num_hidden_layers; i++)
        block_refresh(&model->block[i]);
}

/* A model with all parameters 0; model_free when done. */
Model model_new(const MambaConfig *config)
{
    Model model;
    size_t A = config->intermediate_size * config->state_size;
    model.config = *config;
    model.params = model_params_new(config);
    model.block = NEW(MambaBlock, config->num_hidden_layers);
    model.A = NEW(float, config->num_hidden_layers *A);
    for (size_t i = 0; i < config->num_hidden_layers; i++) {
        model.block[i].config = *config;
        model.block[i].params = model.params.layer[i];
        model.block[i].A = model.A + i * A;
    }
    return model;
}

void model_free(Model *model)
{
    model_params_free(&model->params);
    free(model->block);
    free(model->A);
}

/* Parameters to start from: embeddings normal with deviation initializer_range, blocks as chapter 5
   starts them, and each out_proj smaller by sqrt(n_layer), so that the sum of all layers is not
   louder than one (GPT-2's rule, which the published code follows). */
void model_init(Model *model, Random *random)
{
    const MambaConfig *config = &model->config;
    size_t table = config->vocab_size * config->hidden_size;
    size_t out = config->hidden_size * config->intermediate_size;
    for (size_t i = 0; i < table; i++)
        model->params.embeddings[i] = (float)(config->initializer_range * random_normal(random));
    for (size_t i = 0; i < table && !config->tie_word_embeddings; i++)
        model->params.lm_head[i] = (float)(config->initializer_range * random_normal(random));
    for (size_t layer = 0; layer < config->num_hidden_layers; layer++) {
        block_init(&model->params.layer[layer], config, random);
        for (size_t i = 0; i < out; i++)
            model->params.layer[layer].tensor[OUT_PROJ_WEIGHT][i] /=
                sqrtf((float)config->num_hidden_layers);
    }
    for (size_t i = 0; i < config->hidden_size; i++)
        model->params.norm_f[i] = 1.0f;
    model_refresh(model);
}

/* ================================= Forward and backward ==================================== */

/* All workspace of a training step (or, without `back`, of a forward pass), asked for once. */
typedef struct {
    size_t batch, len;
    bool back;
    float *memory;
    float *hidden;         /* (n_layer + 1, tokens, d_model); forward only: (1, ...) */
    float *final, *scale;  /* (tokens, d_model), (tokens) after norm_f, and its scales */
    float *logits;         /* (tokens, vocab); after model_loss with `back` their gradient */
    float *hidden_grad[2]; /* (tokens, d_model) each */
    BlockCache *cache;     /* (n_layer); forward only: (1) */
    BlockBack block_back;
} ModelWork;

static size_t model_work_layout(ModelWork *work, float *memory, const Model *model)
{
    const MambaConfig *config = &model->config;
    size_t tokens = work->batch * work->len, d_model = config->hidden_size, used = 0;
    size_t kept = work->back ? config->num_hidden_layers : 1;
    work->hidden = take(memory, &used, (work->back ? kept + 1 : 1) * tokens * d_model);
    work->final = take(memory, &used, tokens * d_model);
    work->scale = take(memory, &used, tokens);
    work->logits = take(memory, &used, tokens * config->vocab_size);
    for (size_t i = 0; i < kept; i++) {
        float *at = memory == NULL ? NULL : memory + used;
        used += block_cache_place(&work->cache[i], at, &model->block[0], work->batch, work->len,
                                  work->back);
    }
    if (work->back) {
        work->hidden_grad[0] = take(memory, &used, tokens * d_model);
        work->hidden_grad[1] = take(memory, &used, tokens * d_model);
        float *at = memory == NULL ? NULL : memory + used;
        used += block_back_place(&work->block_back, at, &work->cache[0], &model->block[0]);
    }
    return used;
}

ModelWork model_work_new(const Model *model, size_t batch, size_t len, bool back)
{
    ModelWork work;
    memset(&work, 0, sizeof work);
    work.batch = batch;
    work.len = len;
    work.back = back;
    work.cache = NEW(BlockCache, back ? model->config.num_hidden_layers : 1);
    work.memory = NEW(float, model_work_layout(&work, NULL, model));
    model_work_layout(&work, work.memory, model);
    return work;
}

void model_work_free(ModelWork *work)
{
    free(work->memory);
    free(work->cache);
}

/* The layer's input in the residual stream. */
static float *hidden_at(const ModelWork *work, const Model *model, size_t layer)
{
    return work->hidden +
           (work->back ? layer : 0) * work->batch * work->len * model->config.hidden_size;
}

/* What goes on from token to token: a BlockState for every layer, in one piece of memory. */
size_t model_state_floats(const MambaConfig *config, size_t batch)
{
    return config->num_hidden_layers * block_state_floats(config, batch);
}

/* work->logits (batch, len, vocab) for tokens ids (batch, len), each below vocab. `state`
   (model_state_floats) is read and written, or NULL: the sequences begin with nothing. */
void model_forward(ModelWork *work, float *state, const int32_t *ids, const Model *model)
{
    const MambaConfig *config = &model->config;
    size_t tokens = work->batch * work->len, d_model = config->hidden_size;
    for (size_t t = 0; t < tokens; t++)
        memcpy(work->hidden + t * d_model, model->params.embeddings + (size_t)ids[t] * d_model,
               d_model * sizeof(float));
    for (size_t layer = 0; layer < config->num_hidden_layers; layer++) {
        BlockState own = {NULL, NULL};
        if (state != NULL)
            own = block_state_place(state + layer * block_state_floats(config, work->batch), config,
                                    work->batch);
        block_forward(hidden_at(work, model, layer + 1), &work->cache[work->back ? layer : 0],
                      state == NULL ? NULL : &own, hidden_at(work, model, layer),
                      &model->block[layer]);
    }
    rms_norm_forward(work->final, work->scale, hidden_at(work, model, config->num_hidden_layers),
                     model->params.norm_f, config->layer_norm_epsilon, tokens, d_model);
    linear_forward_fast(work->logits, work->final, model->params.lm_head, NULL, tokens, d_model,
                        config->vocab_size);
}

static double largest_logit(const float *logits, size_t vocab)
{
    float largest = logits[0];
    for (size_t v = 1; v < vocab; v++)
        largest = logits[v] > largest ? logits[v] : largest;
    return (double)largest;
}

/* -log softmax(logits)[target] of one token, from the largest logit down so that nothing overflows. */
double token_loss(const float *logits, size_t vocab, size_t target)
{
    assert(target < vocab);
    double largest = largest_logit(logits, vocab), sum = 0.0;
    for (size_t v = 0; v < vocab; v++)
        sum += exp((double)logits[v] - largest);
    return log(fmax(1.0, sum)) + largest - (double)logits[target]; /* the largest adds 1 to sum */
}

/* logits (vocab) become the gradient of token_loss, times `factor`: softmax less 1 at the target. */
static void token_loss_backward(float *logits, size_t vocab, size_t target, double factor)
{
    double largest = largest_logit(logits, vocab), sum = 0.0;
    for (size_t v = 0; v < vocab; v++)
        sum += exp((double)logits[v] - largest);
    for (size_t v = 0; v < vocab; v++)
        logits[v] = (float)(factor * (exp((double)logits[v] - largest) / sum - (v == target)));
}

/* The mean loss over all tokens with a target (target < 0: none), after model_forward. nll (tokens)
   gets each token's, 0 where there is no target; or NULL. */
double model_loss(double *nll, const ModelWork *work, const int32_t *targets, const Model *model)
{
    size_t vocab = model->config.vocab_size, count = 0;
    double sum = 0.0;
    for (size_t t = 0; t < work->batch * work->len; t++) {
        double loss =
            targets[t] < 0 ? 0.0 : token_loss(work->logits + t * vocab, vocab, (size_t)targets[t]);
        if (nll != NULL)
            nll[t] = loss;
        sum += loss;
        count += targets[t] >= 0;
    }
    return count == 0 ? 0.0 : sum / (double)count;
}

/* The gradient of model_loss for every parameter, into `grad` (written, not added to). The logits of
   model_forward, which must have kept everything (work->back), are used up. */
void model_backward(ModelParams *grad, ModelWork *work, const int32_t *ids, const int32_t *targets,
                    const Model *model)
{
    const MambaConfig *config = &model->config;
    size_t tokens = work->batch * work->len, d_model = config->hidden_size,
           vocab = config->vocab_size;
    size_t count = 0, n_layer = config->num_hidden_layers;
    for (size_t t = 0; t < tokens; t++)
        count += targets[t] >= 0;
    PARALLEL_FOR(schedule(static))
    for (size_t t = 0; t < tokens; t++) {
        if (targets[t] >= 0)
            token_loss_backward(work->logits + t * vocab, vocab, (size_t)targets[t],
                                1.0 / (double)count);
        else
            zero(work->logits + t * vocab, vocab);
    }
    /* logits = final lm_head^T */
    linear_backward_weight_fast(grad->lm_head, work->logits, work->final, tokens, d_model, vocab);
    linear_backward_input_fast(work->final, work->logits, model->params.lm_head, false, tokens,
                               d_model, vocab);
    float *now = work->hidden_grad[0], *next = work->hidden_grad[1];
    zero(now, tokens * d_model);
    rms_norm_backward(now, grad->norm_f, work->final, work->scale, hidden_at(work, model, n_layer),
                      model->params.norm_f, tokens, d_model);
    for (size_t layer = n_layer; layer-- > 0;) {
        block_backward(&grad->layer[layer], next, &work->block_back, now, &work->cache[layer],
                       hidden_at(work, model, layer), &model->block[layer]);
        float *swap = now;
        now = next;
        next = swap;
    }
    /* the embedding is looked up at one end and, if tied, is the head at the other */
    if (!config->tie_word_embeddings)
        zero(grad->embeddings, vocab * d_model);
    for (size_t t = 0; t < tokens; t++)
        for (size_t i = 0; i < d_model; i++)
            grad->embeddings[(size_t)ids[t] * d_model + i] += now[t * d_model + i];
}

/* ======================================== AdamW ============================================ */

typedef struct {
    double rate, beta1, beta2, epsilon, decay;
} AdamW;

/* What AdamW remembers of every parameter: running means of its gradient and of its square. */
typedef struct {
    ModelParams mean, square;
    uint64_t step;
} AdamState;

/* One step for all parameters (Loshchilov and Hutter, algorithm 2): the decay is taken from the
   parameter itself, not through the gradient. */
void adamw_step(Model *model, AdamState *state, const ModelParams *grad, const AdamW *settings)
{
    const MambaConfig *config = &model->config;
    double t = (double)++state->step;
    double correct1 = 1.0 - pow(settings->beta1, t), correct2 = 1.0 - pow(settings->beta2, t);
    for (size_t k = 0; k < model_tensor_count(config); k++) {
        ModelTensor p = model_tensor(&model->params, config, k);
        float *m = model_tensor(&state->mean, config, k).values;
        float *v = model_tensor(&state->square, config, k).values;
        const float *g = model_tensor(grad, config, k).values;
        float keep = (float)(1.0 - (p.decays ? settings->rate * settings->decay : 0.0));
        float b1 = (float)settings->beta1, b2 = (float)settings->beta2;
        float rate = (float)(settings->rate / correct1), root = (float)(1.0 / sqrt(correct2));
        float epsilon = (float)settings->epsilon;
        PARALLEL_FOR(schedule(static) if (p.count > 50000))
        for (size_t i = 0; i < p.count; i++) {
            m[i] = b1 * m[i] + (1.0f - b1) * g[i];
            v[i] = b2 * v[i] + (1.0f - b2) * g[i] * g[i];
            p.values[i] = keep * p.values[i] - rate * m[i] / (root * sqrtf(v[i]) + epsilon);
        }
    }
    model_refresh(model);
}

/* The learning rate of a step: up evenly for `warm` steps, then down along half a cosine to a tenth. */
double scheduled_rate(double most, uint64_t step, uint64_t warm, uint64_t steps)
{
    if (step < warm)
        return most * (double)(step + 1) / (double)warm;
    double part = steps > warm ? (double)(step - warm) / (double)(steps - warm) : 1.0;
    return most * (0.1 + 0.45 * (1.0 + cos(PI * fmin(1.0, part))));
}

/* Makes a gradient no longer than `most`; returns how long it was. */
double clip_gradient(ModelParams *grad, const MambaConfig *config, double most)
{
    size_t count = model_floats(config);
    double square = 0.0;
    for (size_t i = 0; i < count; i++)
        square += (double)grad->memory[i] * (double)grad->memory[i];
    double length = sqrt(square);
    for (size_t i = 0; i < count && length > most; i++)
        grad->memory[i] *= (float)(most / length);
    return length;
}

/* ==================================== Files and text ======================================= */

/* Parameters from a file in Hugging Face's layout; every tensor must be there, with its shape. */
bool model_load(Model *model, const char *path, Error *error)
{
    Safetensors file;
    if (!safetensors_open(&file, path, error))
        return false;
    bool ok = true;
    for (size_t k = 0; ok && k < model_tensor_count(&model->config); k++) {
        ModelTensor p = model_tensor(&model->params, &model->config, k);
        const Tensor *tensor;
        if (p.count == 0)
            continue;
        ok = safetensors_expect(&tensor, &file, p.name, TENSOR_ANY, p.rank, p.shape, error);
        if (ok)
            tensor_to_float(p.values, tensor);
    }
    safetensors_close(&file);
    model_refresh(model);
    return ok;
}

/* The most likely token; the first of several. */
size_t token_greedy(const float *logits, size_t vocab)
{
    size_t best = 0;
    for (size_t v = 1; v < vocab; v++)
        if (logits[v] > logits[best])
            best = v;
    return best;
}

/* ======================================== Sampling ========================================= */
/* The likeliest token each time soon goes round in circles. So the next token is drawn, in the     */
/* order and with the meaning of Hugging Face's: penalty, temperature, top-k, top-p.                */

typedef struct {
    double temperature; /* the logits are divided by it; 0: the likeliest token, no draw */
    size_t top_k;       /* only the k likeliest, and what equals the last of them; 0: all */
    double top_p;       /* only the likeliest that together make up this share; 1: all */
    double
        repetition_penalty; /* what was seen: logits above 0 divided, below 0 multiplied; 1: off */
} Sampling;

/* What drawing needs besides the logits, asked for once; sampler_free when done. */
typedef struct {
    size_t vocab, n_seen;
    float *weight;       /* (vocab) of each token: 1 for the likeliest, 0 for what is cut away */
    float *close;        /* (vocab) weights from which a cut is chosen */
    uint32_t *seen;      /* (n_seen) each token that was seen, once */
    unsigned char *flag; /* (vocab) 1 where it was */
} Sampler;

/* Always the likeliest token. */
Sampling sampling_greedy(void)
{
    Sampling sampling = {0.0, 0, 1.0, 1.0};
    return sampling;
}

Sampler sampler_new(size_t vocab)
{
    Sampler sampler = {vocab,
                       0,
                       NEW(float, vocab),
                       NEW(float, vocab),
                       NEW(uint32_t, vocab),
                       NEW(unsigned char, vocab)};
    return sampler;
}

void sampler_free(Sampler *sampler)
{
    free(sampler->weight), free(sampler->close);
    free(sampler->seen), free(sampler->flag);
}

/* From here on `token` counts as seen: one of the prompt, or one that was drawn. */
void sampler_see(Sampler *sampler, size_t token)
{
    assert(token < sampler->vocab);
    if (!sampler->flag[token])
        sampler->seen[sampler->n_seen++] = (uint32_t)token;
    sampler->flag[token] = 1;
}

/* Nothing counts as seen any more. */
void sampler_forget(Sampler *sampler)
{
    for (size_t i = 0; i < sampler->n_seen; i++)
        sampler->flag[sampler->seen[i]] = 0;
    sampler->n_seen = 0;
}

/* ---- which tokens stay: as it is defined ---- */

typedef struct {
    float weight;
    size_t token;
} RankedToken;

static int ranked_by_weight(const void *a, const void *b)
{
    const RankedToken *one = (const RankedToken *)a, *two = (const RankedToken *)b;
    if (one->weight != two->weight)
        return one->weight < two->weight ? -1 : 1;
    return one->token < two->token ? -1 : 1;
}

/* All tokens, the least likely first; of equal ones the first in the vocabulary. */
static RankedToken *tokens_ranked(const float *weight, size_t vocab)
{
    RankedToken *ranked = NEW(RankedToken, vocab);
    for (size_t v = 0; v < vocab; v++) {
        ranked[v].weight = weight[v];
        ranked[v].token = v;
    }
    qsort(ranked, vocab, sizeof *ranked, ranked_by_weight);
    return ranked;
}

/* The sum of all weights, eight sums side by side: the same on every machine. */
static double weights_total(const float *weight, size_t vocab)
{
    double sum[8] = {0.0};
    size_t v = 0;
    for (; v + 8 <= vocab; v += 8)
        for (size_t i = 0; i < 8; i++)
            sum[i] += (double)weight[v + i];
    for (; v < vocab; v++)
        sum[0] += (double)weight[v];
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

/* Weights below the k-th largest become 0. */
void keep_top_k_clear(Sampler *sampler, size_t k)
{
    RankedToken *ranked = tokens_ranked(sampler->weight, sampler->vocab);
    float least = k < sampler->vocab ? ranked[sampler->vocab - k].weight : 0.0f;
    for (size_t v = 0; v < sampler->vocab; v++)
        if (sampler->weight[v] < least)
            sampler->weight[v] = 0.0f;
    free(ranked);
}

/* The least likely tokens get the weight 0: as many as together hold no more than 1 - p of all.

   Exercise 5.9. Which ones those are. */
void keep_top_p_clear(Sampler *sampler, double p)
{
    RankedToken *ranked = tokens_ranked(sampler->weight, sampler->vocab);
    double total = weights_total(sampler->weight, sampler->vocab);
    //> EX 5.9 [2 pts] [15 min] the tokens that top-p cuts away
    //? Probabilities 0.5, 0.3, 0.15, 0.05 and p = 0.75: which stay? (The first two: 0.5 is too few.)
    //? ranked[] begins with the least likely: add up weights from there, as shares of `total`.
    //? While the sum, this token included, is at most 1 - p, the token goes: its weight becomes 0.
    //? Whatever p is, the last token of ranked[] stays.
    double below = 0.0;
    for (size_t i = 0; i + 1 < sampler->vocab; i++) {
        below += (double)ranked[i].weight;
        if (below > (1.0 - p) * total)
            break;
        sampler->weight[ranked[i].token] = 0.0f;
    }
    //< EX 5.9
    free(ranked);
}

/* ---- which tokens stay: without sorting ---- */

enum { CUT_BITS = 10, CUT_BINS = 1 << CUT_BITS };

/* Weights are from 0 to 1, so their bits, read as whole numbers, are in the same order. */
static uint32_t weight_bits(float weight)
{
    uint32_t bits;
    memcpy(&bits, &weight, sizeof bits);
    return bits;
}

/* The weight at which a walk from the largest down has `wanted` behind it: that many tokens, or, if
   `by_weight`, tokens of that much weight. `before`: what it had before the tokens of that weight.

   Three passes, ten bits each: how much falls into each bin; then the same within the bin where the
   walk ends, for the few weights in there. */
static float weight_cut(double *before, Sampler *sampler, double wanted, bool by_weight)
{
    double behind = 0.0, bin[CUT_BINS];
    uint32_t cut = 0;
    const float *from = sampler->weight;
    size_t count = sampler->vocab;
    for (int shift = 2 * CUT_BITS; shift >= 0; shift -= CUT_BITS) {
        size_t kept = 0;
        memset(bin, 0, sizeof bin);
        for (size_t i = 0; i < count; i++) {
            uint32_t bits = weight_bits(from[i]);
            if (bits >> (shift + CUT_BITS) != cut >> (shift + CUT_BITS))
                continue;
            bin[bits >> shift & (CUT_BINS - 1)] += by_weight ? (double)from[i] : 1.0;
            if (shift < 2 * CUT_BITS)
                sampler->close[kept++] = from[i];
        }
        if (shift < 2 * CUT_BITS) {
            from = sampler->close;
            count = kept;
        }
        uint32_t at = CUT_BINS - 1;
        for (; at > 0 && (!(bin[at] > 0.0) || behind + bin[at] < wanted); at--)
            behind += bin[at];
        cut |= at << shift;
    }
    *before = behind;
    float weight;
    memcpy(&weight, &cut, sizeof weight);
    return weight;
}

/* keep_top_k_clear, for use. */
void keep_top_k(Sampler *sampler, size_t k)
{
    double before;
    float least = k < sampler->vocab ? weight_cut(&before, sampler, (double)k, false) : 0.0f;
    for (size_t v = 0; v < sampler->vocab; v++)
        sampler->weight[v] = sampler->weight[v] < least ? 0.0f : sampler->weight[v];
}

/* keep_top_p_clear, for use. */
void keep_top_p(Sampler *sampler, double p)
{
    double before, wanted = p * weights_total(sampler->weight, sampler->vocab);
    float least = weight_cut(&before, sampler, wanted, true);
    bool first = true;
    for (size_t v = sampler->vocab; v-- > 0;) {
        float weight = sampler->weight[v];
        if (weight == least) { /* of equal ones the last in the vocabulary stay */
            sampler->weight[v] = first || before < wanted ? weight : 0.0f;
            before += (double)weight;
            first = false;
        } else {
            sampler->weight[v] = weight < least ? 0.0f : weight;
        }
    }
}

/* ---- the draw ---- */

/* weight (vocab) from the logits in it: exp((logit - largest) / temperature); 0 for a NaN. */
static void weights_from_logits(float *weight, size_t vocab, float largest, double temperature)
{
    ExpTable table = exp_table();
    Lanes zeros = {0};
    float factor = (float)fmin(1.0 / temperature, (double)FLT_MAX);
    for (size_t v = 0; v < vocab; v += LANES) {
        size_t count = smaller(vocab - v, LANES);
        Lanes power = (lanes_load_some(weight + v, count) - largest) * factor;
        Lanes e = lanes_exp(power, table); /* from e^-87 down it would not be a normal number */
        lanes_store_some(weight + v, lanes_choose(power > -87.0f, e, zeros), count);
    }
}

enum { DRAW_BLOCK = 512 };

/* One of the tokens, each with the chance that its weight is of the sum of all. One random number. */
static size_t weights_draw(const float *weight, size_t vocab, Random *random)
{
    double dart = random_uniform(random) * weights_total(weight, vocab);
    size_t v = 0, last = 0;
    for (; v + DRAW_BLOCK < vocab; v += DRAW_BLOCK) { /* whole blocks that the dart flies over */
        double block = weights_total(weight + v, DRAW_BLOCK);
        if (dart < block)
            break;
        dart -= block;
    }
    for (; v < vocab; v++)
        if (weight[v] > 0.0f) {
            last = v;
            dart -= (double)weight[v];
            if (dart < 0.0)
                break;
        }
    return last;
}

/* The next token for logits (vocab). It does not count as seen before sampler_see says so. The same
   seed gives the same tokens. A logit of NaN has no chance; if all are, the token is 0. */
size_t sampler_draw(Sampler *sampler, const float *logits, const Sampling *sampling, Random *random)
{
    size_t vocab = sampler->vocab;
    float penalty = (float)sampling->repetition_penalty, *weight = sampler->weight;
    memcpy(weight, logits, vocab * sizeof *weight);
    for (size_t i = 0; i < sampler->n_seen && penalty != 1.0f; i++) {
        float *logit = weight + sampler->seen[i];
        *logit = *logit < 0.0f ? *logit * penalty : *logit / penalty;
    }
    size_t likeliest = token_greedy(weight, vocab);
    if (!(sampling->temperature > 0.0) || !isfinite(weight[likeliest]))
        return likeliest;
    weights_from_logits(weight, vocab, weight[likeliest], sampling->temperature);
    if (sampling->top_k > 0 && sampling->top_k < vocab)
        keep_top_k(sampler, sampling->top_k);
    if (sampling->top_p < 1.0)
        keep_top_p(sampler, sampling->top_p);
    return weights_draw(weight, vocab, random);
}

/* ---- text ---- */

/* Up to `count` more tokens after a prompt of len > 0, the most likely each time: the prompt all at
   once, then step by step. The memory is the same for any count. */
void generate_greedy(int32_t *out, size_t count, const int32_t *prompt, size_t len,
                     const Model *model)
{
    float *state = NEW(float, model_state_floats(&model->config, 1));
    ModelWork all = model_work_new(model, 1, len, false), one = model_work_new(model, 1, 1, false);
    size_t vocab = model->config.vocab_size;
    model_forward(&all, state, prompt, model);
    const float *logits = all.logits + (len - 1) * vocab;
    for (size_t i = 0; i < count; i++) {
        out[i] = (int32_t)token_greedy(logits, vocab);
        model_forward(&one, state, out + i, model);
        logits = one.logits;
    }
    model_work_free(&all);
    model_work_free(&one);
    free(state);
}

/* ======================================= Training ========================================== */

/* A batch of pieces of a text of bytes, each at a random place, and each byte's successor. */
static void batch_draw(int32_t *ids, int32_t *targets, const char *text, size_t text_len,
                       size_t batch, size_t len, Random *random)
{
    for (size_t b = 0; b < batch; b++) {
        size_t start = (size_t)(random_uniform(random) * (double)(text_len - len));
        for (size_t t = 0; t < len; t++) {
            ids[b * len + t] = (unsigned char)text[start + t];
            targets[b * len + t] = (unsigned char)text[start + t + 1];
        }
    }
}

typedef struct {
    size_t batch, len;
    uint64_t steps, seed;
    double rate;
} TrainSettings;

/* Trains on a text of bytes, longer than settings->len; prints the loss now and then. Nothing is asked
   for inside the loop, and the losses are the same for any number of threads. Returns the last loss. */
double train_on_bytes(Model *model, const char *text, size_t text_len,
                      const TrainSettings *settings)
{
    size_t tokens = settings->batch * settings->len;
    Random random = random_from_seed(settings->seed);
    ModelWork work = model_work_new(model, settings->batch, settings->len, true);
    ModelParams grad = model_params_new(&model->config);
    AdamState state = {model_params_new(&model->config), model_params_new(&model->config), 0};
    AdamW adamw = {settings->rate, 0.9, 0.95, 1e-8, 0.1};
    int32_t *ids = NEW(int32_t, tokens), *targets = NEW(int32_t, tokens);
    double loss = 0.0;
    Progress progress = progress_start("training");
    for (uint64_t step = 0; step < settings->steps; step++) {
        batch_draw(ids, targets, text, text_len, settings->batch, settings->len, &random);
        model_forward(&work, NULL, ids, model);
        loss = model_loss(NULL, &work, targets, model);
        model_backward(&grad, &work, ids, targets, model);
        clip_gradient(&grad, &model->config, 1.0);
        adamw.rate =
            scheduled_rate(settings->rate, step, settings->steps / 20 + 1, settings->steps);
        adamw_step(model, &state, &grad, &adamw);
        if (step % (settings->steps / 8 + 1) == 0 || step + 1 == settings->steps)
            printf("  step %5" PRIu64 "   loss %.2f\n", step + 1, loss);
        progress_show(&progress, (double)(step + 1), (double)settings->steps);
    }
    progress_end(&progress);
    free(ids), free(targets);
    model_params_free(&grad), model_params_free(&state.mean), model_params_free(&state.square);
    model_work_free(&work);
    return loss;
}

/* ======================================= Program =========================================== */

static void model_usage(FILE *out)
{
    fputs("usage: ch05_language_model [--corpus FILE] [--steps N] [--prompt TEXT] [--seed S] "
          "[--help]\n",
          out);
}

typedef struct {
    const char *corpus, *prompt;
    uint64_t steps, seed;
} ModelOptions;

/* Fills `options`; false with an error, or with an empty one if getopt has said what is wrong. */
static bool model_options_parse(ModelOptions *options, int argc, char **argv, Error *error)
{
    static const struct option known[] = {{"corpus", 1, NULL, 'c'}, {"steps", 1, NULL, 'n'},
                                          {"prompt", 1, NULL, 'p'}, {"seed", 1, NULL, 's'},
                                          {"help", 0, NULL, 'h'},   {NULL, 0, NULL, 0}};
    memset(options, 0, sizeof *options);
    options->steps = 120;
    options->seed = 1;
    options->prompt = "The ";
    error->text[0] = '\0';
    bool ok = true;
    for (int code; ok && (code = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (code) {
        case 'c': options->corpus = optarg; break;
        case 'p': options->prompt = optarg; break;
        case 'n': ok = option_integer(&options->steps, "steps", optarg, 1, 1000000, error); break;
        case 's': ok = option_integer(&options->seed, "seed", optarg, 0, UINT64_MAX, error); break;
        case 'h':
            model_usage(stdout);
            puts("\nTrains a small Mamba on the bytes of a text (default: chapter 4's story) and "
                 "lets it\n"
                 "go on from a prompt.");
            exit(0);
        default: return false;
        }
    }
    if (ok && optind < argc)
        return fail(error, "'%.40s' is not an option", argv[optind]);
    if (ok && options->prompt[0] == '\0')
        return fail(error, "--prompt: there is nothing to go on from");
    return ok;
}

static void print_continuation(const char *prompt, const Model *model)
{
    enum { MORE = 120 };
    size_t len = strlen(prompt);
    int32_t *ids = NEW(int32_t, len), more[MORE];
    for (size_t i = 0; i < len; i++)
        ids[i] = (unsigned char)prompt[i];
    generate_greedy(more, MORE, ids, len, model);
    printf("\n%s", prompt);
    for (size_t i = 0; i < MORE; i++)
        putchar(more[i] >= ' ' && more[i] < 127 ? (int)more[i] : '?');
    putchar('\n');
    free(ids);
}

static bool run_model(const ModelOptions *options, Error *error)
{
    char *text = text_copy(built_in_story);
    size_t len = strlen(built_in_story);
    TrainSettings settings = {4, 64, options->steps, options->seed, 3e-3};
    if (options->corpus != NULL) {
        free(text);
        if (!text_read(&text, &len, options->corpus, error))
            return false;
    }
    if (len <= settings.len) {
        fail(error, "%s: %zu bytes are too short: more than %zu are wanted",
             options->corpus == NULL ? "the story" : options->corpus, len, settings.len);
        free(text);
        return false;
    }
    MambaConfig config = config_default(48);
    config.num_hidden_layers = 2;
    config.vocab_size = 256;
    Random random = random_from_seed(options->seed);
    Model model = model_new(&config);
    model_init(&model, &random);
    printf("A model of %zu parameters learns %zu bytes by guessing each from those before it\n\n",
           model_floats(&config), len);
    train_on_bytes(&model, text, len, &settings);
    print_continuation(options->prompt, &model);
    model_free(&model);
    free(text);
    return true;
}

int language_model_main(int argc, char **argv)
{
    ModelOptions options;
    Error error;
    if (!model_options_parse(&options, argc, argv, &error)) {
        if (error.text[0])
            fprintf(stderr, "error: %s\n", error.text);
        model_usage(stderr);
        return 2;
    }
    bool ok = run_model(&options, &error);
    fflush(stdout); /* what was said before the error comes before it */
    if (!ok)
        fprintf(stderr, "error: %s\n", error.text);
    return ok ? 0 : 1;
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return language_model_main(argc, argv);
}
#endif

#endif /* CH05_LANGUAGE_MODEL */
