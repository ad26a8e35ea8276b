/* Capstone 1. A Mamba language model, trained in C

   QUESTION   What does a stack of blocks need to guess the next token, and how does it learn to?
   NEW        Embedding, blocks, final norm and a head that is the embedding again; the loss, its
   gradient for every parameter, AdamW; words, checkpoints, text drawn token by token; and stories
   that show whether a context is taken up, held and let go of. NOT        Subwords, and models
   that somebody else has trained: that is pretrained.c. EQUATION   loss = mean of -log
   softmax(logits_t)[token_{t+1}],  logits = norm_f(h) E^T LETTERS    maths   C            shape
   Hugging Face E       embeddings   (vocab, d_model)             backbone.embeddings.weight h
   hidden       (n_layer + 1, tokens, d_model)  the residual stream -       norm_f       (d_model)
   backbone.norm_f.weight -       lm_head      (vocab, d_model)             lm_head.weight, if not
   tied to E BUILD      cc -O2 ch05_mamba_block/language_model.c -o language_model -lm &&
   ./language_model TIME       50 minutes to read, 60 to do the exercises SOURCES    A. Gu, T.
   Dao, Mamba, arXiv 2312.00752, sections 4.1 and 4.2, appendix E I. Loshchilov, F. Hutter,
   Decoupled weight decay regularization, arXiv 1711.05101 O. Press, L. Wolf, Using the output
   embedding, arXiv 1608.05859 (the tied head) */

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

/* -log softmax(logits)[target] of one token: how surprised the model is by what came.

   Exercise 5.6. The logarithm of a share, without overflow: a logit may be 1000. */
double token_loss(const float *logits, size_t vocab, size_t target)
{
    assert(target < vocab);
    double largest = largest_logit(logits, vocab), loss = 0.0;
    //> EX 5.6 [2 pts] [15 min] the loss of one token
    //? softmax(logits)[target] is exp(logits[target]) over the sum of all exp(logits[v]).
    //? Its -log is log(sum) - logits[target]. But exp(1000) is no number: what can be taken away?
    //? With `largest` taken from every logit the sum is at least 1; give it back after the log.
    double sum = 0.0;
    for (size_t v = 0; v < vocab; v++)
        sum += exp((double)logits[v] - largest);
    loss = log(fmax(1.0, sum)) + largest - (double)logits[target];
    //< EX 5.6
    return loss;
}

/* ---- fast ---- */

/* What softmax divides by: the sum of exp(logit - largest). */
typedef struct {
    float largest, sum;
} Softmax;

/* Up to LANES logits; where there are none, what adds nothing to a sum of exponentials. */
INLINE Lanes logits_load(const float *logits, size_t count)
{
    Lanes some = lanes_load_some(logits, count);
    for (size_t i = count; i < LANES; i++)
        some[i] = -INFINITY;
    return some;
}

static Softmax softmax_of(const float *logits, size_t vocab, const ExpTable *table)
{
    Lanes largest = lanes_all(-INFINITY), sum = lanes_all(0.0f);
    for (size_t v = 0; v < vocab; v += LANES)
        largest = lanes_larger(largest, logits_load(logits + v, smaller(vocab - v, LANES)));
    Softmax all = {lanes_largest(largest), 0.0f};
    for (size_t v = 0; v < vocab; v += LANES)
        sum += lanes_exp(logits_load(logits + v, smaller(vocab - v, LANES)) - all.largest, *table);
    all.sum = lanes_sum(sum);
    return all;
}

/* token_loss, for use: exponentials in float, LANES at a time. */
double token_loss_fast(const float *logits, size_t vocab, size_t target, const ExpTable *table)
{
    Softmax all = softmax_of(logits, vocab, table);
    return log((double)all.sum) + (double)all.largest - (double)logits[target];
}

/* logits (vocab) become the gradient of token_loss, times `factor`: softmax less 1 at the
   target. */
static void token_loss_backward(float *logits, size_t vocab, size_t target, float factor,
                                const ExpTable *table)
{
    Softmax all = softmax_of(logits, vocab, table);
    for (size_t v = 0; v < vocab; v += LANES) {
        size_t some = smaller(vocab - v, LANES);
        Lanes power = lanes_exp(lanes_load_some(logits + v, some) - all.largest, *table);
        lanes_store_some(logits + v, power * (factor / all.sum), some);
    }
    logits[target] -= factor;
}

/* The mean loss over all tokens with a target (target < 0: none), after model_forward. nll (tokens)
   gets each token's, 0 where there is no target; or NULL. */
double model_loss(double *nll, const ModelWork *work, const int32_t *targets, const Model *model)
{
    size_t vocab = model->config.vocab_size, count = 0;
    const ExpTable table = exp_table();
    double sum = 0.0;
    for (size_t t = 0; t < work->batch * work->len; t++) {
        double loss = 0.0;
        if (targets[t] >= 0)
            loss = token_loss_fast(work->logits + t * vocab, vocab, (size_t)targets[t], &table);
        if (nll != NULL)
            nll[t] = loss;
        sum += loss;
        count += targets[t] >= 0;
    }
    return count == 0 ? 0.0 : sum / (double)count;
}

/* The gradient of model_loss for every parameter, into `grad` (written, not added to). The logits
   of model_forward, which must have kept everything (work->back), are used up. */
void model_backward(ModelParams *grad, ModelWork *work, const int32_t *ids, const int32_t *targets,
                    const Model *model)
{
    const MambaConfig *config = &model->config;
    size_t tokens = work->batch * work->len, d_model = config->hidden_size,
           vocab = config->vocab_size;
    size_t count = 0, n_layer = config->num_hidden_layers;
    for (size_t t = 0; t < tokens; t++)
        count += targets[t] >= 0;
    const ExpTable table = exp_table();
    PARALLEL_FOR(schedule(static))
    for (size_t t = 0; t < tokens; t++) {
        if (targets[t] >= 0)
            token_loss_backward(work->logits + t * vocab, vocab, (size_t)targets[t],
                                1.0f / (float)count, &table);
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
   parameter itself, not through the gradient.

   Exercise 5.7. What one parameter, its gradient and its two running means become. */
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
            //> EX 5.7 [3 pts] [15 min] a step of AdamW
            //? m is the running mean of the gradient g: b1 of what it was, 1 - b1 of what came.
            //? v is that of its square, with b2.
            //? `rate` holds the learning rate over 1 - b1^t, `root` is 1 / sqrt(1 - b2^t).
            //? The parameter keeps its share `keep`, then moves against m, divided by sqrt(v).
            m[i] = b1 * m[i] + (1.0f - b1) * g[i];
            v[i] = b2 * v[i] + (1.0f - b2) * g[i] * g[i];
            p.values[i] = keep * p.values[i] - rate * m[i] / (root * sqrtf(v[i]) + epsilon);
            //< EX 5.7
        }
    }
    model_refresh(model);
}

/* The learning rate of a step: up evenly for `warm` steps, then down along half a cosine to a
   tenth. */
double scheduled_rate(double most, uint64_t step, uint64_t warm, uint64_t steps)
{
    if (step < warm)
        return most * (double)(step + 1) / (double)warm;
    double part = steps > warm ? (double)(step - warm) / (double)(steps - warm) : 1.0;
    return most * (0.1 + 0.45 * (1.0 + cos(PI * fmin(1.0, part))));
}

/* Makes a gradient no longer than `most`; returns how long it was. Squares are added up in floats
   over a stretch, and stretches in double. */
double clip_gradient(ModelParams *grad, const MambaConfig *config, double most)
{
    enum { STRETCH_FLOATS = 1024 };
    size_t count = model_floats(config);
    double square = 0.0;
    for (size_t i = 0; i < count; i += STRETCH_FLOATS) {
        const float *g = grad->memory + i;
        square += (double)dot(g, g, smaller(count - i, STRETCH_FLOATS));
    }
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
/* The likeliest token each time soon goes round in circles. So the next token is drawn, in the */
/* order and with the meaning of Hugging Face's: penalty, temperature, top-k, top-p.            */

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
    //? Probabilities 0.5, 0.3, 0.15, 0.05 and p = 0.75: which stay? (The first two.)
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

/* Which of CUT_BINS bins a weight falls into by the ten bits from `shift` on. */
static uint32_t weight_bin(float weight, int shift)
{
    return weight_bits(weight) >> shift & (CUT_BINS - 1);
}

/* The weight at which a walk from the largest down has `wanted` behind it: that many tokens, or,
   if `by_weight`, tokens of that much weight. `before`: what it had before the tokens of that
   weight. Weights up to `least` are certainly beyond the cut and not looked at.

   Three rounds, ten bits each: how much falls into each bin; then the same for the few weights of
   the bin in which the walk ends. */
static float weight_cut(double *before, Sampler *sampler, double wanted, float least,
                        bool by_weight)
{
    double behind = 0.0, bin[CUT_BINS];
    uint32_t cut = 0;
    float *close = sampler->close, weight;
    size_t count = 0;
    for (size_t v = 0; v < sampler->vocab; v++) { /* written always, kept if it counts: no branch */
        close[count] = sampler->weight[v];
        count += sampler->weight[v] > least;
    }
    for (int shift = 2 * CUT_BITS; shift >= 0; shift -= CUT_BITS) {
        size_t kept = 0;
        uint32_t at = CUT_BINS - 1;
        memset(bin, 0, sizeof bin);
        for (size_t i = 0; i < count; i++)
            bin[weight_bin(close[i], shift)] += by_weight ? (double)close[i] : 1.0;
        for (; at > 0 && (!(bin[at] > 0.0) || behind + bin[at] < wanted); at--)
            behind += bin[at];
        for (size_t i = 0; i < count; i++) {
            float this_one = close[i];
            close[kept] = this_one;
            kept += weight_bin(this_one, shift) == at;
        }
        count = kept;
        cut |= at << shift;
    }
    *before = behind;
    memcpy(&weight, &cut, sizeof weight);
    return weight;
}

/* keep_top_k_clear, for use. */
void keep_top_k(Sampler *sampler, size_t k)
{
    double before;
    float least = k < sampler->vocab ? weight_cut(&before, sampler, (double)k, 0.0f, false) : 0.0f;
    for (size_t v = 0; v < sampler->vocab; v++)
        sampler->weight[v] = sampler->weight[v] < least ? 0.0f : sampler->weight[v];
}

/* keep_top_p_clear, for use. */
void keep_top_p(Sampler *sampler, double p)
{
    double before, total = weights_total(sampler->weight, sampler->vocab), wanted = p * total;
    /* all tokens up to this weight together make up less than what is cut away */
    float never = (float)(0.999 * (total - wanted) / (double)sampler->vocab);
    float least = weight_cut(&before, sampler, wanted, never, true);
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

/* One of the tokens, each with the chance that its weight is of the sum of all. One random
   number. */
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

/* ===================================== Words and bytes ===================================== */
/* A model sees numbers. Here a token is a word, as Hugging Face's WordLevel tokenizer cuts */
/* them, or a byte. Whole subwords are pretrained.c's business.                             */

enum { WORD_UNKNOWN, WORD_END, WORDS_RESERVED, WORDS_MOST = 65536, BYTE_TOKENS = 256 };

/* Which token is which piece of text. */
typedef struct {
    bool bytes;           /* a token is a byte, and its number is the byte's */
    size_t n_word;        /* tokens; word 0 is what is not known, word 1 ends a text */
    char *text;           /* what the words point into */
    char **word;          /* (n_word), NULL if bytes */
    size_t *slot, n_slot; /* (n_slot) a hash table of word numbers + 1; 0 is free */
} Vocabulary;

void vocabulary_free(Vocabulary *words)
{
    free(words->text);
    free(words->word);
    free(words->slot);
}

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Letters, digits, _ and everything beyond ASCII; what is neither this nor blank is punctuation. */
static bool is_of_words(char c)
{
    return c == '_' || (unsigned char)c >= 0x80 || isalnum((unsigned char)c) != 0;
}

/* The next word of text[*at ..], small letters in `word` (room bytes, cut there): a run of
   letters and digits or a run of punctuation (the pattern \w+|[^\w\s]+). A line's end is a word
   too, "", if `lines`. False at the end of the text. */
static bool word_next(char *word, size_t room, const char *text, size_t len, size_t *at, bool lines)
{
    while (*at < len && is_blank(text[*at]) && !(lines && text[*at] == '\n'))
        (*at)++;
    if (*at == len)
        return false;
    size_t used = 0;
    word[0] = '\0';
    if (text[*at] == '\n' && ++*at)
        return true;
    bool letters = is_of_words(text[*at]);
    for (; *at < len && !is_blank(text[*at]) && is_of_words(text[*at]) == letters; (*at)++)
        if (used + 1 < room)
            word[used++] = (char)tolower((unsigned char)text[*at]);
    word[used] = '\0';
    return true;
}

enum { WORD_ROOM = 256 };

/* Where a word stands in the table, or the free slot where it would (FNV-1a). */
static size_t *word_slot(const Vocabulary *words, const char *word)
{
    uint64_t hash = 14695981039346656037u;
    for (const char *c = word; *c != '\0'; c++)
        hash = (hash ^ (unsigned char)*c) * 1099511628211u;
    size_t at = hash % words->n_slot;
    while (words->slot[at] != 0 && strcmp(words->word[words->slot[at] - 1], word) != 0)
        at = (at + 1) % words->n_slot;
    return &words->slot[at];
}

/* Room for `most` words in `bytes` bytes of text; the words are then added one by one. */
static Vocabulary vocabulary_new(size_t most, size_t bytes)
{
    Vocabulary words = {false, 0, NEW(char, bytes), NEW(char *, most), NULL, 2 * most + 1};
    words.slot = NEW(size_t, words.n_slot);
    return words;
}

/* The number of a word that is there already or is added now; *used counts bytes of text. */
static size_t word_add(Vocabulary *words, const char *word, size_t *used)
{
    size_t *slot = word_slot(words, word);
    if (*slot == 0) {
        words->word[words->n_word] = strcpy(words->text + *used, word);
        *used += strlen(word) + 1;
        *slot = ++words->n_word;
    }
    return *slot - 1;
}

Vocabulary vocabulary_of_bytes(void)
{
    Vocabulary words = {true, BYTE_TOKENS, NULL, NULL, NULL, 0};
    return words;
}

/* The words of a text, in the order in which they come. False if they are too many. */
bool vocabulary_from_text(Vocabulary *words, const char *text, size_t len, const char *path,
                          Error *error)
{
    char word[WORD_ROOM];
    size_t used = 0, at = 0;
    Vocabulary got = vocabulary_new(WORDS_MOST + 1, 2 * len + 32);
    word_add(&got, "<unk>", &used);
    word_add(&got, "<end>", &used);
    while (got.n_word <= WORDS_MOST && word_next(word, sizeof word, text, len, &at, false))
        word_add(&got, word, &used);
    if (got.n_word > WORDS_MOST) {
        vocabulary_free(&got);
        return fail(error, "%s: more than %d different words; --bytes takes any text", path,
                    WORDS_MOST);
    }
    *words = got;
    return true;
}

/* The tokens of a text into ids (at most len of them); returns how many. A line's end becomes the
   token that ends a text, if `lines`; *unknown counts the words that have no number. */
size_t text_to_tokens(int32_t *ids, size_t *unknown, const char *text, size_t len,
                      const Vocabulary *words, bool lines)
{
    char word[WORD_ROOM];
    size_t count = 0, at = 0;
    *unknown = 0;
    if (words->bytes) {
        for (; count < len; count++)
            ids[count] = (unsigned char)text[count];
        return count;
    }
    while (word_next(word, sizeof word, text, len, &at, lines)) {
        size_t found = word[0] == '\0' ? WORD_END + 1 : *word_slot(words, word);
        *unknown += found == 0;
        ids[count++] = (int32_t)(found == 0 ? (size_t)WORD_UNKNOWN : found - 1);
    }
    return count;
}

/* One token as it is shown; words with a blank in front, unless they close a sentence or
   `first`. */
static void print_token(FILE *out, size_t token, bool first, const Vocabulary *words)
{
    if (words->bytes) {
        putc((int)token, out);
        return;
    }
    const char *word = token < words->n_word ? words->word[token] : words->word[WORD_UNKNOWN];
    fprintf(out, "%s%s", first || strchr(".,:;!?", word[0]) != NULL ? "" : " ", word);
}

/* ================================ A model in its folder ==================================== */
/* The layout of Hugging Face: config.json, model.safetensors, tokenizer.json and two small */
/* ones. What is written here opens in Transformers, and the other way round.               */

/* "FOLDER/FILE", to be freed. */
static char *path_in(const char *folder, const char *file)
{
    size_t room = strlen(folder) + strlen(file) + 2;
    char *path = NEW(char, room);
    snprintf(path, room, "%s/%s", folder, file);
    return path;
}

static void write_config(FILE *out, const MambaConfig *config)
{
    fprintf(out,
            "{\n  \"architectures\": [\"MambaForCausalLM\"],\n  \"model_type\": \"mamba\",\n"
            "  \"bos_token_id\": %d,\n  \"eos_token_id\": %d,\n  \"pad_token_id\": %d,\n"
            "  \"vocab_size\": %zu,\n  \"hidden_size\": %zu,\n  \"intermediate_size\": %zu,\n"
            "  \"state_size\": %zu,\n  \"num_hidden_layers\": %zu,\n  \"conv_kernel\": %zu,\n"
            "  \"expand\": %zu,\n  \"time_step_rank\": %zu,\n  \"hidden_act\": \"silu\",\n",
            WORD_END, WORD_END, WORD_END, config->vocab_size, config->hidden_size,
            config->intermediate_size, config->state_size, config->num_hidden_layers,
            config->conv_kernel, config->expand, config->time_step_rank);
    fprintf(out,
            "  \"use_bias\": %s,\n  \"use_conv_bias\": %s,\n  \"tie_word_embeddings\": %s,\n"
            "  \"layer_norm_epsilon\": %g,\n  \"initializer_range\": %g,\n"
            "  \"time_step_min\": %g,\n  \"time_step_max\": %g,\n  \"time_step_floor\": %g,\n"
            "  \"rms_norm\": true,\n  \"residual_in_fp32\": true,\n"
            "  \"torch_dtype\": \"float32\"\n}\n",
            config->use_bias ? "true" : "false", config->use_conv_bias ? "true" : "false",
            config->tie_word_embeddings ? "true" : "false", config->layer_norm_epsilon,
            config->initializer_range, config->time_step_min, config->time_step_max,
            config->time_step_floor);
}

/* The character that byte-level tokenizers show a byte as: itself if it can be seen, else one of
   those from U+0100 on, in order (GPT-2's table). In UTF-8, at most two bytes. */
static void byte_shown(char shown[3], int byte)
{
    unsigned code = (unsigned)byte;
    bool seen = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
    if (!seen) /* how many unseen bytes come before this one */
        code = 0x100u + (byte <= ' ' ? code : byte <= 0xA0 ? code - 0x7Fu + 33u : 67u);
    if (code < 0x80)
        snprintf(shown, 3, "%c", (char)code);
    else
        snprintf(shown, 3, "%c%c", (char)(0xC0 | code >> 6), (char)(0x80 | (code & 0x3F)));
}

static void write_tokenizer(FILE *out, const Vocabulary *words)
{
    fputs("{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n", out);
    if (!words->bytes)
        for (int i = 0; i < WORDS_RESERVED; i++)
            fprintf(
                out,
                "%s{\"id\": %d, \"content\": \"%s\", \"single_word\": false, \"lstrip\": false, "
                "\"rstrip\": false, \"normalized\": false, \"special\": true}%s",
                i == 0 ? "  \"added_tokens\": [\n    " : "    ", i, words->word[i],
                i == 0 ? ",\n" : "\n  ],\n");
    else
        fputs("  \"added_tokens\": [],\n", out);
    fputs(words->bytes
              ? "  \"normalizer\": null,\n"
                "  \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
                "\"trim_offsets\": true, \"use_regex\": true},\n"
                "  \"post_processor\": null,\n"
                "  \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
                "\"trim_offsets\": true, \"use_regex\": true},\n"
                "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n"
                "    \"unk_token\": null,\n    \"continuing_subword_prefix\": null,\n"
                "    \"end_of_word_suffix\": null,\n    \"fuse_unk\": false,\n    \"merges\": [],\n"
              : "  \"normalizer\": {\"type\": \"Lowercase\"},\n"
                "  \"pre_tokenizer\": {\"type\": \"Whitespace\"},\n"
                "  \"post_processor\": null,\n  \"decoder\": null,\n"
                "  \"model\": {\n    \"type\": \"WordLevel\",\n    \"unk_token\": \"<unk>\",\n",
          out);
    fputs("    \"vocab\": {\n", out);
    for (size_t i = 0; i < words->n_word; i++) {
        char shown[3];
        byte_shown(shown, (int)(i & 0xFF));
        fputs("      ", out);
        json_write_string(out, words->bytes ? shown : words->word[i]);
        fprintf(out, ": %zu%s\n", i, i + 1 < words->n_word ? "," : "");
    }
    fputs("    }\n  }\n}\n", out);
}

/* One of the folder's text files, whole or not at all. */
static bool write_in(const char *folder, const char *file, const MambaConfig *config,
                     const Vocabulary *words, Error *error)
{
    char *path = path_in(folder, file);
    OutFile out;
    bool ok = out_open(&out, path, error);
    free(path);
    if (!ok)
        return false;
    if (words != NULL)
        write_tokenizer(out.stream, words);
    else if (config != NULL)
        write_config(out.stream, config);
    else if (strcmp(file, "generation_config.json") == 0)
        fprintf(out.stream,
                "{\n  \"bos_token_id\": %d,\n  \"eos_token_id\": %d,\n  \"pad_token_id\": %d\n}\n",
                WORD_END, WORD_END, WORD_END);
    else
        fputs("{\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\",\n"
              "  \"unk_token\": \"<unk>\",\n  \"eos_token\": \"<end>\",\n"
              "  \"model_max_length\": 1000000\n}\n",
              out.stream);
    return out_close(&out, error);
}

/* All parameters into a file in Hugging Face's layout. */
bool model_save(const Model *model, const char *path, Error *error)
{
    SafetensorsWriter writer;
    safetensors_writer_init(&writer);
    safetensors_add_metadata(&writer, "format", "pt");
    for (size_t k = 0; k < model_tensor_count(&model->config); k++) {
        ModelTensor p = model_tensor(&model->params, &model->config, k);
        if (p.count > 0)
            safetensors_add(&writer, p.name, TENSOR_F32, p.values, p.rank, p.shape);
    }
    bool ok = safetensors_write(&writer, path, error);
    safetensors_writer_free(&writer);
    return ok;
}

/* Makes the folder if it is not there and writes all of the model into it, the weights first. */
bool model_save_folder(const char *folder, const Model *model, const Vocabulary *words,
                       Error *error)
{
    if (mkdir(folder, 0777) != 0 && errno != EEXIST)
        return fail(error, "%s: cannot be made: %s", folder, strerror(errno));
    char *weights = path_in(folder, "model.safetensors");
    bool ok = model_save(model, weights, error) &&
              write_in(folder, "config.json", &model->config, NULL, error) &&
              write_in(folder, "tokenizer.json", NULL, words, error) &&
              write_in(folder, "tokenizer_config.json", NULL, NULL, error) &&
              write_in(folder, "generation_config.json", NULL, NULL, error);
    free(weights);
    return ok;
}

/* The vocabulary of a tokenizer.json that is being read: each word's number, in the file's
   order. */
typedef struct {
    Vocabulary words;
    size_t *id; /* (words.n_word) */
    size_t used;
    bool word_level, byte_level;
} TokenizerFile;

static void tokenizer_vocab(Json *json, TokenizerFile *file)
{
    json_enter_object(json);
    for (JsonText key = {"", 0}; json_next_key(json, &key);) {
        uint64_t id = 0;
        size_t before = file->words.n_word;
        if (before == WORDS_MOST) {
            json_fail(json, "more than %d words", WORDS_MOST);
            continue;
        }
        if (strlen(key.bytes) != key.len) {
            json_fail(json, "a word with a 0 byte");
            continue;
        }
        word_add(&file->words, key.bytes, &file->used);
        if (json_integer(json, &id, WORDS_MOST - 1)) {
            if (file->words.n_word == before)
                json_fail(json, "a word stands twice");
            file->id[before] = (size_t)id;
        }
    }
}

static void tokenizer_model(Json *json, TokenizerFile *file)
{
    JsonText text = {NULL, 0};
    json_enter_object(json);
    for (JsonText key = {NULL, 0}; json_next_key(json, &key);) {
        if (json_is(key, "vocab"))
            tokenizer_vocab(json, file);
        else if (json_is(key, "type")) {
            if (json_string(json, &text)) {
                file->word_level = json_is(text, "WordLevel");
                file->byte_level = json_is(text, "BPE");
            }
        } else if (json_is(key, "merges") && json_peek(json) == JSON_ARRAY) {
            json_enter_array(json);
            while (json_next_item(json))
                json_fail(json,
                          "merges: subwords are pretrained.c's business (build/ch05_pretrained)");
        } else
            json_skip(json);
    }
}

/* The words in the order of their numbers, if these are 0, 1, 2 and so on. */
static bool tokenizer_sort(TokenizerFile *file, const char *path, Error *error)
{
    size_t count = file->words.n_word;
    char **sorted = NEW(char *, count + 1);
    for (size_t i = 0; i < count; i++)
        if (file->id[i] < count)
            sorted[file->id[i]] = file->words.word[i];
    for (size_t i = 0; i < count; i++)
        if (sorted[i] == NULL) {
            free(sorted);
            return fail(error, "%s: no word has the number %zu, though there are %zu", path, i,
                        count);
        }
    for (size_t i = 0; i < file->words.n_slot; i++)
        if (file->words.slot[i] > 0)
            file->words.slot[i] = file->id[file->words.slot[i] - 1] + 1;
    free(file->words.word);
    file->words.word = sorted;
    return true;
}

/* Whether the words are the 256 bytes, shown as byte-level tokenizers do. */
static bool tokenizer_is_bytes(const Vocabulary *words)
{
    char shown[3];
    for (int byte = 0; byte < BYTE_TOKENS; byte++) {
        byte_shown(shown, byte);
        if (words->n_word != BYTE_TOKENS || strcmp(words->word[byte], shown) != 0)
            return false;
    }
    return true;
}

static bool tokenizer_finish(TokenizerFile *file, const char *path, Error *error)
{
    if (!file->word_level && !file->byte_level)
        return fail(error, "%s: the model's type is neither WordLevel nor BPE", path);
    if (!tokenizer_sort(file, path, error))
        return false;
    if (file->byte_level && !tokenizer_is_bytes(&file->words))
        return fail(error,
                    "%s: only bytes and words are known here, for subwords see "
                    "build/ch05_pretrained",
                    path);
    if (file->word_level && (file->words.n_word < WORDS_RESERVED ||
                             strcmp(file->words.word[WORD_UNKNOWN], "<unk>") != 0 ||
                             strcmp(file->words.word[WORD_END], "<end>") != 0))
        return fail(error, "%s: words 0 and 1 are not <unk> and <end>", path);
    return true;
}

/* A tokenizer.json as write_tokenizer writes it: WordLevel, or the 256 bytes. */
bool tokenizer_parse(Vocabulary *words, const char *text, size_t len, const char *path,
                     Error *error)
{
    Json json;
    TokenizerFile file;
    memset(&file, 0, sizeof file);
    file.words = vocabulary_new(WORDS_MOST + 1, len + 1);
    file.id = NEW(size_t, WORDS_MOST + 1);
    json_open(&json, text, len, path, error);
    json_enter_object(&json);
    for (JsonText key = {NULL, 0}; json_next_key(&json, &key);) {
        if (json_is(key, "model"))
            tokenizer_model(&json, &file);
        else
            json_skip(&json);
    }
    bool ok = json_end(&json);
    json_close(&json);
    ok = ok && tokenizer_finish(&file, path, error);
    free(file.id);
    if (!ok || file.byte_level)
        vocabulary_free(&file.words);
    if (ok)
        *words = file.byte_level ? vocabulary_of_bytes() : file.words;
    return ok;
}

/* A model and its words, from a folder. */
bool model_open_folder(Model *model, Vocabulary *words, const char *folder, Error *error)
{
    char *config_path = path_in(folder, "config.json"),
         *words_path = path_in(folder, "tokenizer.json"),
         *weights_path = path_in(folder, "model.safetensors"), *text = NULL;
    size_t len;
    MambaConfig config;
    Vocabulary got;
    bool ok = config_read(&config, config_path, error) && text_read(&text, &len, words_path, error);
    bool read = ok && tokenizer_parse(&got, text, len, words_path, error);
    ok = read;
    if (ok && got.n_word > config.vocab_size)
        ok = fail(error, "%s: has %zu words, but vocab_size in config.json is %zu", words_path,
                  got.n_word, config.vocab_size);
    if (ok) {
        Model loaded = model_new(&config);
        ok = model_load(&loaded, weights_path, error);
        if (ok) {
            *model = loaded;
            *words = got;
        } else
            model_free(&loaded);
    }
    if (!ok && read)
        vocabulary_free(&got);
    free(config_path), free(words_path), free(weights_path), free(text);
    return ok;
}

/* ======================================= Training ========================================== */
/* The same loop for every text and every task: a source fills batches, a trainer learns from */
/* them.                                                                                      */

/* Fills ids (batch, len) and targets (batch, len), -1 where nothing is to be guessed. */
typedef struct {
    void (*fill)(int32_t *ids, int32_t *targets, size_t batch, size_t len, const void *from,
                 Random *random);
    const void *from;
} BatchSource;

/* A text as tokens, and where a piece of it may begin: where a story does, or anywhere. */
typedef struct {
    int32_t *ids; /* (count) */
    size_t count, *start, n_start;
} Corpus;

void corpus_free(Corpus *corpus)
{
    free(corpus->ids);
    free(corpus->start);
}

/* How many bytes the UTF-8 character at text (of `left` bytes) has; 0 if it is none. */
static size_t utf8_length(const unsigned char *text, size_t left)
{
    static const unsigned least[5] = {0, 0, 0x80, 0x800, 0x10000};
    size_t len = text[0] < 0x80   ? 1
                 : text[0] < 0xC2 ? 0
                 : text[0] < 0xE0 ? 2
                 : text[0] < 0xF0 ? 3
                 : text[0] < 0xF5 ? 4
                                  : 0;
    if (len < 2)
        return len;
    if (len > left)
        return 0;
    unsigned code = text[0] & (0xFFu >> (len + 1));
    for (size_t i = 1; i < len; i++) {
        if ((text[i] & 0xC0) != 0x80)
            return 0;
        code = code << 6 | (text[i] & 0x3F);
    }
    return code < least[len] || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000) ? 0 : len;
}

static bool text_is_utf8(const char *text, size_t len, const char *path, Error *error)
{
    for (size_t at = 0, step; at < len; at += step) {
        step = utf8_length((const unsigned char *)text + at, len - at);
        if (step == 0)
            return fail(error, "%s: byte %zu is not UTF-8; --bytes trains on any bytes", path,
                        at + 1);
    }
    return true;
}

/* A text as tokens. In words, each line is a story; in bytes, a piece may begin anywhere. False
   if it is too short for one piece of `len` tokens and the token after it. */
bool corpus_from_text(Corpus *corpus, const char *text, size_t text_len, const Vocabulary *words,
                      size_t len, const char *path, Error *error)
{
    Corpus got;
    size_t unknown;
    got.ids = NEW(int32_t, text_len + 1);
    got.count = text_to_tokens(got.ids, &unknown, text, text_len, words, true);
    if (got.count <= len) {
        free(got.ids);
        return fail(error, "%s: %zu %s are too few: pieces of %zu and one more are wanted", path,
                    got.count, words->bytes ? "bytes" : "words", len);
    }
    got.start = NEW(size_t, got.count);
    got.n_start = 0;
    for (size_t at = 0; at + len < got.count; at++)
        if (words->bytes || at == 0 || got.ids[at - 1] == WORD_END)
            got.start[got.n_start++] = at;
    *corpus = got;
    return true;
}

/* Pieces of a corpus, each with the token that follows every token of it. */
static void corpus_fill(int32_t *ids, int32_t *targets, size_t batch, size_t len, const void *from,
                        Random *random)
{
    const Corpus *corpus = (const Corpus *)from;
    for (size_t b = 0; b < batch; b++) {
        size_t pick = (size_t)(random_uniform(random) * (double)corpus->n_start);
        const int32_t *piece = corpus->ids + corpus->start[pick];
        memcpy(ids + b * len, piece, len * sizeof *ids);
        memcpy(targets + b * len, piece + 1, len * sizeof *ids);
    }
}

typedef struct {
    size_t batch, len;
    uint64_t steps, seed;
    double rate, decay, clip; /* the highest learning rate, AdamW's decay, a gradient's length */
} TrainSettings;

/* A model being trained, with all that has to be kept from step to step. */
typedef struct {
    TrainSettings settings;
    Model *model;
    ModelParams grad;
    AdamState adam;
    ModelWork work;
    Random random;
    int32_t *ids, *targets; /* (batch, len) */
    double *loss;           /* (steps) of every step so far */
    double *check, *at;     /* (CHECKS) the loss on other text, and after which step */
    size_t n_check;
} Trainer;

enum { CHECKS = 32 };

Trainer trainer_new(Model *model, const TrainSettings *settings)
{
    Trainer trainer;
    size_t tokens = settings->batch * settings->len;
    assert(tokens > 0 && settings->steps > 0);
    trainer.settings = *settings;
    trainer.model = model;
    trainer.grad = model_params_new(&model->config);
    trainer.adam.mean = model_params_new(&model->config);
    trainer.adam.square = model_params_new(&model->config);
    trainer.adam.step = 0;
    trainer.work = model_work_new(model, settings->batch, settings->len, true);
    trainer.random = random_from_seed(settings->seed);
    trainer.ids = NEW(int32_t, tokens);
    trainer.targets = NEW(int32_t, tokens);
    trainer.loss = NEW(double, settings->steps);
    trainer.check = NEW(double, CHECKS);
    trainer.at = NEW(double, CHECKS);
    trainer.n_check = 0;
    return trainer;
}

void trainer_free(Trainer *trainer)
{
    model_params_free(&trainer->grad);
    model_params_free(&trainer->adam.mean);
    model_params_free(&trainer->adam.square);
    model_work_free(&trainer->work);
    free(trainer->ids), free(trainer->targets);
    free(trainer->loss), free(trainer->check), free(trainer->at);
}

/* NOLINTBEGIN(clang-analyzer-unix.Malloc): the analyser loses sight of what trainer_free frees */

/* One step: a batch, its loss (returned), the gradient, no longer than `clip`, and AdamW at the
   rate that the schedule gives. Asks for no memory, and gives the same bits for any number of
   threads. */
double trainer_step(Trainer *trainer, const BatchSource *source)
{
    const TrainSettings *settings = &trainer->settings;
    Model *model = trainer->model;
    int32_t *ids = trainer->ids, *targets = trainer->targets;
    uint64_t step = trainer->adam.step, warm = settings->steps / 20 + 1;
    AdamW adamw = {scheduled_rate(settings->rate, step, warm, settings->steps), 0.9, 0.95, 1e-8,
                   settings->decay};
    source->fill(ids, targets, settings->batch, settings->len, source->from, &trainer->random);
    model_forward(&trainer->work, NULL, ids, model);
    double loss = model_loss(NULL, &trainer->work, targets, model);
    model_backward(&trainer->grad, &trainer->work, ids, targets, model);
    clip_gradient(&trainer->grad, &model->config, settings->clip);
    adamw_step(model, &trainer->adam, &trainer->grad, &adamw);
    return trainer->loss[step] = loss;
}

/* NOLINTEND(clang-analyzer-unix.Malloc) */

/* The mean loss over some batches of another source, always the same ones. */
double trainer_check(Trainer *trainer, const BatchSource *source)
{
    enum { BATCHES = 4 };
    Random random = random_from_seed(1);
    double sum = 0.0;
    for (int i = 0; i < BATCHES; i++) {
        source->fill(trainer->ids, trainer->targets, trainer->settings.batch, trainer->settings.len,
                     source->from, &random);
        model_forward(&trainer->work, NULL, trainer->ids, trainer->model);
        sum += model_loss(NULL, &trainer->work, trainer->targets, trainer->model);
    }
    return sum / BATCHES;
}

/* ---- checkpoints ---- */

/* What a training run is: two runs with the same text of settings do the same. */
static void settings_text(char *text, size_t room, const Trainer *trainer)
{
    const MambaConfig *config = &trainer->model->config;
    const TrainSettings *s = &trainer->settings;
    snprintf(text, room,
             "--width %zu --layers %zu --steps %" PRIu64 " --batch %zu --length %zu --seed %" PRIu64
             " --rate %g --gate-price %g%s, %zu tokens",
             config->hidden_size, config->num_hidden_layers, s->steps, s->batch, s->len, s->seed,
             s->rate, config->gate_price, config->time_invariant ? " --time-invariant" : "",
             config->vocab_size);
}

/* What a checkpoint holds besides the parameters and their two means, as one table of 8-byte
   values. */
typedef struct {
    const char *name;
    void *values;
    size_t count;
    TensorType type;
} CheckpointPart;

enum { CHECKPOINT_PARTS = 4 };

static void checkpoint_parts(CheckpointPart part[CHECKPOINT_PARTS], uint64_t number[4],
                             const Trainer *trainer)
{
    CheckpointPart all[CHECKPOINT_PARTS] = {
        {"training.numbers", number, 4, TENSOR_I64},
        {"training.loss", trainer->loss, (size_t)trainer->settings.steps, TENSOR_F64},
        {"training.check", trainer->check, CHECKS, TENSOR_F64},
        {"training.at", trainer->at, CHECKS, TENSOR_F64}};
    memcpy(part, all, sizeof all);
}

/* All parameters, or both means of AdamW, under names with a prefix of their own. */
static const ModelParams *checkpoint_params(const Trainer *trainer, int which, const char **prefix)
{
    static const char *const prefixes[3] = {"", "mean.", "square."};
    *prefix = prefixes[which];
    return which == 0   ? &trainer->model->params
           : which == 1 ? &trainer->adam.mean
                        : &trainer->adam.square;
}

/* Everything a run needs to go on as if it had never stopped, into one file, whole or not at
   all. */
bool trainer_save(const Trainer *trainer, const char *path, Error *error)
{
    const MambaConfig *config = &trainer->model->config;
    SafetensorsWriter writer;
    CheckpointPart part[CHECKPOINT_PARTS];
    uint64_t number[4] = {trainer->adam.step, trainer->random.state, trainer->random.increment,
                          trainer->n_check};
    char settings[256], name[128];
    const char *prefix;
    settings_text(settings, sizeof settings, trainer);
    safetensors_writer_init(&writer);
    safetensors_add_metadata(&writer, "settings", settings);
    for (int which = 0; which < 3; which++)
        for (size_t k = 0; k < model_tensor_count(config); k++) {
            const ModelParams *params = checkpoint_params(trainer, which, &prefix);
            ModelTensor p = model_tensor(params, config, k);
            snprintf(name, sizeof name, "%s%s", prefix, p.name);
            if (p.count > 0)
                safetensors_add(&writer, name, TENSOR_F32, p.values, p.rank, p.shape);
        }
    checkpoint_parts(part, number, trainer);
    for (int i = 0; i < CHECKPOINT_PARTS; i++)
        safetensors_add(&writer, part[i].name, part[i].type, part[i].values, 1, &part[i].count);
    bool ok = safetensors_write(&writer, path, error);
    safetensors_writer_free(&writer);
    return ok;
}

/* Reads (or, if `look`, only looks for) every tensor of a checkpoint. */
static bool checkpoint_read(Trainer *trainer, uint64_t number[4], const Safetensors *file,
                            bool look, Error *error)
{
    const MambaConfig *config = &trainer->model->config;
    CheckpointPart part[CHECKPOINT_PARTS];
    const Tensor *tensor;
    const char *prefix;
    char name[128];
    for (int which = 0; which < 3; which++)
        for (size_t k = 0; k < model_tensor_count(config); k++) {
            const ModelParams *params = checkpoint_params(trainer, which, &prefix);
            ModelTensor p = model_tensor(params, config, k);
            snprintf(name, sizeof name, "%s%s", prefix, p.name);
            if (p.count == 0)
                continue;
            if (!safetensors_expect(&tensor, file, name, TENSOR_F32, p.rank, p.shape, error))
                return false;
            if (!look)
                tensor_to_float(p.values, tensor);
        }
    checkpoint_parts(part, number, trainer);
    for (int i = 0; i < CHECKPOINT_PARTS; i++) {
        if (!safetensors_expect(&tensor, file, part[i].name, part[i].type, 1, &part[i].count,
                                error))
            return false;
        if (!look || i == 0)
            memcpy(part[i].values, tensor->data, tensor->bytes);
    }
    return true;
}

/* Goes on from a file of trainer_save. One that belongs to another run is refused, and then nothing
   has changed. */
bool trainer_load(Trainer *trainer, const char *path, Error *error)
{
    Safetensors file;
    uint64_t number[4];
    char settings[256];
    settings_text(settings, sizeof settings, trainer);
    if (!safetensors_open(&file, path, error))
        return false;
    const char *was = safetensors_metadata(&file, "settings");
    bool ok = was != NULL && strcmp(was, settings) == 0;
    if (!ok)
        fail(error, "%s: %s %.100s", path,
             was == NULL ? "is no checkpoint of a training run" : "belongs to a run with",
             was == NULL ? "" : was);
    ok = ok && checkpoint_read(trainer, number, &file, true, error);
    if (ok && (number[0] > trainer->settings.steps || number[3] > CHECKS))
        ok = fail(error, "%s: says it has taken %" PRIu64 " steps of %" PRIu64, path, number[0],
                  trainer->settings.steps);
    if (ok && checkpoint_read(trainer, number, &file, false, error)) {
        trainer->adam.step = number[0];
        trainer->random.state = number[1];
        trainer->random.increment = number[2];
        trainer->n_check = (size_t)number[3];
        model_refresh(trainer->model);
    }
    safetensors_close(&file);
    return ok;
}

/* ---- the loop ---- */

/* The mean of the last losses, which single batches make jump. */
static double recent_loss(const Trainer *trainer)
{
    size_t done = (size_t)trainer->adam.step, some = smaller(done, 20);
    double sum = 0.0;
    for (size_t i = 0; i < some; i++)
        sum += trainer->loss[done - 1 - i];
    return some > 0 ? sum / (double)some : 0.0;
}

/* A look at how it goes: the loss on text that is not trained on, kept for the curve. */
static void trainer_look(Trainer *trainer, const BatchSource *check)
{
    size_t i = trainer->n_check++;
    trainer->at[i] = (double)trainer->adam.step;
    trainer->check[i] = trainer_check(trainer, check);
    printf("  %6" PRIu64 "  %9.3f  %9.3f\n", trainer->adam.step, recent_loss(trainer),
           trainer->check[i]);
    fflush(stdout);
}

/* Trains to the end from wherever the trainer stands. A checkpoint is written every 1/16 of the
   way, unless that file is NULL; a kill at any moment loses what came after the last one. */
bool train(Trainer *trainer, const BatchSource *source, const BatchSource *check,
           const char *checkpoint, Error *error)
{
    const TrainSettings *settings = &trainer->settings;
    uint64_t every = settings->steps / 16 + 1, first = trainer->adam.step;
    char label[64];
    double start = seconds_now();
    Progress progress = progress_start("training");
    puts("    step       loss  on others");
    while (trainer->adam.step < settings->steps) {
        trainer_step(trainer, source);
        uint64_t done = trainer->adam.step;
        double tokens = (double)(done - first) * (double)(settings->batch * settings->len);
        snprintf(label, sizeof label, "loss %.3f, %.0f tokens/s", recent_loss(trainer),
                 tokens / (seconds_now() - start));
        progress.what = label;
        progress_show(&progress, (double)done, (double)settings->steps);
        if (done % every != 0 && done != settings->steps)
            continue;
        progress_end(&progress);
        trainer_look(trainer, check);
        if (checkpoint != NULL && !trainer_save(trainer, checkpoint, error))
            return false;
    }
    progress_end(&progress);
    return true;
}

/* The losses of a run as a chart, from the first twentieth on: before that they fall too far. */
static bool show_curve(const Trainer *trainer, const Look *look, const char *svg, Error *error)
{
    size_t steps = (size_t)trainer->adam.step, points = smaller(steps, 64), skip = points / 20;
    double *x = NEW(double, points + 1), *y = NEW(double, points + 1);
    for (size_t i = 0; i < points; i++) { /* means over stretches of steps */
        size_t from = i * steps / points, to = (i + 1) * steps / points;
        for (size_t k = from; k < to; k++)
            y[i] += trainer->loss[k] / (double)(to - from);
        x[i] = (double)to;
    }
    Chart chart = chart_new("Learning to guess the next token", "step", "loss");
    chart_add(&chart, "trained on", MARK_LINE, x + skip, y + skip, points - skip);
    chart_add(&chart, "other text", MARK_POINTS, trainer->at, trainer->check, trainer->n_check);
    chart_print(stdout, &chart, look);
    bool ok = svg == NULL || chart_write_svg(&chart, svg, error);
    free(x), free(y);
    return ok;
}

/* ====================================== Generation ========================================= */

/* A text being written: the model, its state, and the logits for the next token. The memory is the
   same for the millionth token as for the first. */
typedef struct {
    const Model *model;
    float *state;   /* (model_state_floats) all that is remembered */
    ModelWork work; /* one token at a time */
} Writer;

Writer writer_new(const Model *model)
{
    Writer writer = {model, NEW(float, model_state_floats(&model->config, 1)),
                     model_work_new(model, 1, 1, false)};
    return writer;
}

void writer_free(Writer *writer)
{
    free(writer->state);
    model_work_free(&writer->work);
}

/* Reads a token; the logits (vocab) for the one after it. */
const float *writer_read(Writer *writer, int32_t token)
{
    model_forward(&writer->work, writer->state, &token, writer->model);
    return writer->work.logits;
}

/* The same for several, all at once; len > 0. */
const float *writer_read_all(Writer *writer, const int32_t *tokens, size_t len)
{
    ModelWork all = model_work_new(writer->model, 1, len, false);
    size_t vocab = writer->model->config.vocab_size;
    model_forward(&all, writer->state, tokens, writer->model);
    memcpy(writer->work.logits, all.logits + (len - 1) * vocab, vocab * sizeof(float));
    model_work_free(&all);
    return writer->work.logits;
}

/* What generation is asked for. */
typedef struct {
    const char *prompt;
    size_t most; /* tokens */
    uint64_t seed;
    Sampling sampling;
} Wish;

/* Goes on from the prompt until a token that ends a text, at most so far; each token is printed as
   soon as it is there. How fast it was, and what is carried along, goes to stderr. */
static void generate(const Wish *wish, const Model *model, const Vocabulary *words)
{
    size_t len = strlen(wish->prompt), unknown, done = 0;
    int32_t *ids = NEW(int32_t, len + 1);
    size_t count = text_to_tokens(ids, &unknown, wish->prompt, len, words, false);
    Random random = random_from_seed(wish->seed);
    Writer writer = writer_new(model);
    Sampler sampler = sampler_new(model->config.vocab_size);
    if (count == 0)
        ids[count++] = words->bytes ? (int32_t)'\n' : (int32_t)WORD_END;
    for (size_t i = 0; i < count; i++) {
        sampler_see(&sampler, (size_t)ids[i]);
        if (words->bytes || ids[i] != WORD_END)
            print_token(stdout, (size_t)ids[i], i == 0, words);
    }
    const float *logits = writer_read_all(&writer, ids, count);
    double start = seconds_now();
    for (; done < wish->most; done++) {
        size_t token = sampler_draw(&sampler, logits, &wish->sampling, &random);
        if (!words->bytes && token == WORD_END)
            break;
        sampler_see(&sampler, token);
        print_token(stdout, token, false, words);
        fflush(stdout);
        logits = writer_read(&writer, (int32_t)token);
    }
    putchar('\n');
    fflush(stdout);
    if (unknown > 0)
        fprintf(stderr, "note: %zu words of the prompt are none of the model's %zu\n", unknown,
                words->n_word);
    fprintf(stderr, "%zu tokens, %.0f tokens/s; carried from token to token: %zu bytes\n", done,
            (double)done / (seconds_now() - start),
            model_state_floats(&model->config, 1) * sizeof(float));
    sampler_free(&sampler);
    writer_free(&writer);
    free(ids);
}

/* ==================================== Stories, put to the test ============================= */
/* data/rainbow's stories ask a question whose answer depends on the latest cue. A story is */
/* passed if the likeliest words, one after the other, are the right answer to its last     */
/* question, all of them.                                                                   */

/* Where the answer to the last question of a story (len tokens) begins; len if it asks nothing. */
static size_t story_answer(const int32_t *ids, size_t len, const Vocabulary *words)
{
    size_t slot = *word_slot(words, "?");
    for (size_t at = len; at > 0 && slot > 0; at--)
        if (ids[at - 1] == (int32_t)slot - 1)
            return at;
    return len;
}

/* Whether the likeliest token is the right one all along an answer: if so, generation from the
   question would have given just that answer. logits (len, vocab) of the whole story. */
static bool answer_is_right(const float *logits, const int32_t *ids, size_t from, size_t len,
                            size_t vocab)
{
    for (size_t at = from; at < len; at++)
        if (token_greedy(logits + (at - 1) * vocab, vocab) != (size_t)ids[at])
            return false;
    return true;
}

typedef struct {
    size_t stories, right, words, longest;
} StoryScore;

enum { STORY_BATCH = 8 };

/* Scores stories number first, first + 1, ... of a corpus: up to STORY_BATCH at once, the shorter
   ones filled up with ends, which a causal model cannot see. */
static void score_batch(StoryScore *score, const Corpus *corpus, const size_t *end, size_t first,
                        size_t count, const Vocabulary *words, const Model *model)
{
    size_t vocab = model->config.vocab_size, longest = 1;
    for (size_t i = first; i < first + count; i++)
        longest = end[i] - corpus->start[i] > longest ? end[i] - corpus->start[i] : longest;
    int32_t *ids = NEW(int32_t, count * longest);
    ModelWork work = model_work_new(model, count, longest, false);
    for (size_t i = 0; i < count * longest; i++)
        ids[i] = WORD_END;
    for (size_t i = 0; i < count; i++)
        memcpy(ids + i * longest, corpus->ids + corpus->start[first + i],
               (end[first + i] - corpus->start[first + i]) * sizeof *ids);
    model_forward(&work, NULL, ids, model);
    for (size_t i = 0; i < count; i++) {
        size_t len = end[first + i] - corpus->start[first + i];
        size_t from = story_answer(ids + i * longest, len, words);
        if (from == len)
            continue;
        score->stories++;
        score->words += len;
        score->longest = len > score->longest ? len : score->longest;
        score->right +=
            answer_is_right(work.logits + i * longest * vocab, ids + i * longest, from, len, vocab);
    }
    free(ids);
    model_work_free(&work);
}

/* Puts every story of a file, a line each, to the test. */
bool score_stories(StoryScore *score, const char *path, const Vocabulary *words, const Model *model,
                   Error *error)
{
    char *text;
    size_t len;
    Corpus corpus;
    memset(score, 0, sizeof *score);
    if (words->bytes)
        return fail(error, "%s: stories are put to the test in words, not in bytes", path);
    if (!text_read(&text, &len, path, error))
        return false;
    bool ok = corpus_from_text(&corpus, text, len, words, 1, path, error);
    free(text);
    if (!ok)
        return false;
    size_t *end = NEW(size_t, corpus.n_start);
    for (size_t i = 0; i < corpus.n_start; i++) {
        end[i] = corpus.start[i];
        while (end[i] < corpus.count && corpus.ids[end[i]] != WORD_END)
            end[i]++;
    }
    for (size_t i = 0; i < corpus.n_start; i += STORY_BATCH)
        score_batch(score, &corpus, end, i, smaller(corpus.n_start - i, STORY_BATCH), words, model);
    free(end);
    corpus_free(&corpus);
    if (score->stories == 0)
        return fail(error, "%s: no story in it asks a question", path);
    return true;
}

static const char *const test_files[] = {"test.txt", "test_turns.txt", "test_far.txt"};
static const char *const test_names[] = {"one cue", "one or two turns", "8 times the wandering"};

/* The table of what a model (and, if not NULL, a time-invariant one) gets right. */
static bool show_scores(const char *data, const Model *model, const Model *invariant,
                        const Vocabulary *words, Error *error)
{
    StoryScore score, other;
    puts("Stories whose last answer is right, word for word\n");
    printf("  %-16s %-22s %7s %7s   %9s%s\n", "file", "", "stories", "words", "selective",
           invariant == NULL ? "" : "  time-invariant");
    for (size_t i = 0; i < 3; i++) {
        char *path = path_in(data, test_files[i]);
        bool ok = score_stories(&score, path, words, model, error) &&
                  (invariant == NULL || score_stories(&other, path, words, invariant, error));
        free(path);
        if (!ok)
            return false;
        printf("  %-16s %-22s %7zu %7zu   %7.1f %%", test_files[i], test_names[i], score.stories,
               score.words / score.stories, 100.0 * (double)score.right / (double)score.stories);
        if (invariant != NULL)
            printf("  %12.1f %%", 100.0 * (double)other.right / (double)other.stories);
        putchar('\n');
    }
    return true;
}

/* ===================================== Looking inside ====================================== */
/* What does the model do with a story? Three looks: how wide each word opened the gate       */
/* (Delta), how much of the state a sentence lets live, and what the model would answer if it */
/* were asked now.                                                                            */

/* One layer's Delta at a token, mean over its channels. After a model_forward that kept everything
   (work->back). */
static double mean_step(const ModelWork *work, size_t layer, size_t token, const Model *model)
{
    Scan scan = block_scan(&work->cache[layer], &model->block[layer], NULL);
    double sum = 0.0;
    for (size_t d = 0; d < scan.d_inner; d++)
        sum += (double)step_size(&scan, token, d);
    return sum / (double)scan.d_inner;
}

/* A story read by a model, all that was computed on the way still there. */
typedef struct {
    int32_t *ids; /* (len) */
    size_t len, layers;
    double *delta; /* (layers, len) mean Delta */
    ModelWork work;
} StoryReading;

static bool reading_new(StoryReading *reading, const char *text, const Vocabulary *words,
                        const Model *model, Error *error)
{
    size_t room = strlen(text), unknown;
    int32_t *ids = NEW(int32_t, room + 1);
    size_t len = text_to_tokens(ids, &unknown, text, room, words, false);
    if (len == 0 || words->bytes) {
        free(ids);
        return fail(error, len == 0 ? "--focus: there is no word to look at"
                                    : "--focus: a model of words is wanted, not one of bytes");
    }
    reading->ids = ids;
    reading->len = len;
    reading->layers = model->config.num_hidden_layers;
    reading->delta = NEW(double, reading->layers *len);
    reading->work = model_work_new(model, 1, len, true);
    model_forward(&reading->work, NULL, ids, model);
    for (size_t layer = 0; layer < reading->layers; layer++)
        for (size_t t = 0; t < len; t++)
            reading->delta[layer * len + t] = mean_step(&reading->work, layer, t, model);
    return true;
}

static void reading_free(StoryReading *reading)
{
    free(reading->ids), free(reading->delta);
    model_work_free(&reading->work);
}

/* A word's Delta, mean over the layers. */
static double word_step(const StoryReading *reading, size_t t)
{
    double sum = 0.0;
    for (size_t layer = 0; layer < reading->layers; layer++)
        sum += reading->delta[layer * reading->len + t];
    return sum / (double)reading->layers;
}

/* Each word's mean Delta, from 0 for the narrowest of the story to 1 for the widest. */
static double *reading_shades(const StoryReading *reading)
{
    double *shade = NEW(double, reading->len), low = INFINITY, high = 0.0;
    for (size_t t = 0; t < reading->len; t++) {
        shade[t] = word_step(reading, t);
        low = fmin(low, shade[t]);
        high = fmax(high, shade[t]);
    }
    for (size_t t = 0; t < reading->len; t++)
        shade[t] = high > low ? (shade[t] - low) / (high - low) : 0.0;
    return shade;
}

/* The story, each word on a ground as dark as its gate was open, or with a mark of eight
   heights. */
static void print_shaded(const StoryReading *reading, const Vocabulary *words, const Look *look)
{
    static const char *const marks[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    double *shade = reading_shades(reading);
    size_t column = 0;
    for (size_t t = 0; t < reading->len; t++) {
        const char *word = words->word[reading->ids[t]];
        int level = (int)lrint(7.0 * shade[t]);
        size_t wide = text_width(word) + 2;
        if (column + wide > 92) {
            putchar('\n');
            column = 0;
        }
        column += wide;
        if (look->colour) /* white on black to black on white, in greys 232 to 253 */
            printf("\033[48;5;%d;38;5;%dm%s\033[0m  ", 253 - 3 * level, level > 3 ? 255 : 232,
                   word);
        else if (look->ascii)
            printf("%s%d ", word, level);
        else
            printf("%s%s ", word, marks[level]);
    }
    putchar('\n');
    free(shade);
}

/* The words that opened the gate widest, in falling order. */
static void print_widest(const StoryReading *reading, const Vocabulary *words)
{
    enum { SHOWN = 8 };
    size_t len = reading->len;
    double *step = NEW(double, len), *sorted = NEW(double, len);
    for (size_t t = 0; t < len; t++)
        sorted[t] = step[t] = word_step(reading, t);
    double middle = median(sorted, (int)len);
    puts("\n  widest open        Delta   beside the median word's");
    for (size_t i = 0; i < smaller(SHOWN, len); i++) {
        size_t best = 0;
        for (size_t t = 1; t < len; t++)
            best = step[t] > step[best] ? t : best;
        fputs("  ", stdout);
        print_word(words->word[reading->ids[best]], 14);
        printf("  %.6f   %5.1f times\n", step[best], step[best] / middle);
        step[best] = -1.0;
    }
    free(step), free(sorted);
}

/* How much of what the states held before tokens first .. last is still there after them: the
   mean of the product of exp(Delta A) over all states of all layers. The rest of x_last does not
   depend on what was before: x_t is linear in x_{t-1}.

   Exercise 5.8. What one state keeps of itself. */
static double share_kept(const StoryReading *reading, size_t first, size_t last, const Model *model)
{
    size_t d_inner = model->config.intermediate_size, d_state = model->config.state_size;
    double sum = 0.0;
    for (size_t layer = 0; layer < reading->layers; layer++) {
        Scan scan = block_scan(&reading->work.cache[layer], &model->block[layer], NULL);
        for (size_t d = 0; d < d_inner; d++)
            for (size_t n = 0; n < d_state; n++) {
                double A = (double)scan.A[d * d_state + n], kept = 0.0;
                //> EX 5.8 [2 pts] [15 min] how much of a state survives a sentence
                //? Chapter 4: each token multiplies the state by A_bar = exp(Delta A).
                //? step_size(&scan, t, d) is Delta; tokens go from `first` to `last`, both too.
                //? A product of exponentials is the exponential of a sum.
                double moved = 0.0;
                for (size_t t = first; t <= last; t++)
                    moved += (double)step_size(&scan, t, d);
                kept = exp(moved * A);
                //< EX 5.8
                sum += kept;
            }
    }
    return sum / (double)(reading->layers * d_inner * d_state);
}

/* ---- asked now ---- */

enum { ANSWERS_MOST = 8 };

/* The answers of all registers to one question. */
typedef struct {
    char *text; /* the names point into it */
    const char *name[ANSWERS_MOST];
    int32_t *ids; /* each the question and its answer */
    size_t first[ANSWERS_MOST], asked[ANSWERS_MOST], last[ANSWERS_MOST], count;
} Answers;

static void answers_free(Answers *answers)
{
    free(answers->text);
    free(answers->ids);
}

/* From lines "name: question ? answer", those with the question of the first line. */
static bool answers_read(Answers *answers, const char *path, const Vocabulary *words, Error *error)
{
    size_t len, unknown, used = 0;
    Answers got;
    memset(&got, 0, sizeof got);
    if (!text_read(&got.text, &len, path, error))
        return false;
    got.ids = NEW(int32_t, len + 1);
    char *rest = got.text;
    for (char *line; (line = strsep(&rest, "\n")) != NULL && got.count < ANSWERS_MOST;) {
        char *colon = strstr(line, ": ");
        if (colon == NULL)
            continue;
        size_t i = got.count, count = text_to_tokens(got.ids + used, &unknown, colon + 2,
                                                     strlen(colon + 2), words, false);
        *colon = '\0';
        got.name[i] = line;
        got.first[i] = used;
        got.asked[i] = used;
        while (got.asked[i] < used + count &&
               strcmp(words->word[got.ids[got.asked[i]++]], "?") != 0)
            ;
        got.last[i] = used + count;
        size_t question = (got.asked[i] - used) * sizeof *got.ids;
        if (unknown == 0 && got.asked[i] < got.last[i] && got.asked[i] - used == got.asked[0] &&
            memcmp(got.ids, got.ids + used, question) == 0) {
            used += count;
            got.count++;
        }
    }
    if (got.count == 0) {
        answers_free(&got);
        return fail(error, "%s: no line 'name: question ? answer' in words that the model knows",
                    path);
    }
    *answers = got;
    return true;
}

/* share (count): how likely each whole answer is beside the others, asked when the state is
   `state`. */
static void ask(double *share, const Answers *answers, const float *state, Writer *asked)
{
    size_t vocab = asked->model->config.vocab_size;
    double most = -INFINITY, sum = 0.0;
    for (size_t i = 0; i < answers->count; i++) {
        memcpy(asked->state, state, model_state_floats(&asked->model->config, 1) * sizeof *state);
        share[i] = 0.0;
        for (size_t at = answers->first[i]; at + 1 < answers->last[i]; at++) {
            const float *logits = writer_read(asked, answers->ids[at]);
            if (at + 1 >= answers->asked[i])
                share[i] -= token_loss(logits, vocab, (size_t)answers->ids[at + 1]);
        }
        most = fmax(most, share[i]);
    }
    for (size_t i = 0; i < answers->count; i++)
        sum += share[i] = exp(share[i] - most);
    for (size_t i = 0; i < answers->count; i++)
        share[i] /= sum;
}

static bool ends_sentence(const char *word)
{
    return strcmp(word, ".") == 0 || strcmp(word, "?") == 0 || strcmp(word, "!") == 0;
}

/* After every sentence: what of the state before it is left, and what the model would answer. */
static void print_beliefs(const StoryReading *reading, const Answers *answers,
                          const Vocabulary *words, const Model *model)
{
    Writer writer = writer_new(model), asked = writer_new(model);
    double share[ANSWERS_MOST];
    size_t first = 0;
    printf("\nAsked after each sentence:");
    for (size_t at = answers->first[0]; at < answers->asked[0]; at++)
        print_token(stdout, (size_t)answers->ids[at], false, words);
    printf("\n\n   kept ");
    for (size_t i = 0; i < answers->count; i++)
        printf(" %8.8s", answers->name[i]);
    putchar('\n');
    for (size_t t = 0; t < reading->len; t++) {
        writer_read(&writer, reading->ids[t]);
        if (!ends_sentence(words->word[reading->ids[t]]) && t + 1 < reading->len)
            continue;
        ask(share, answers, writer.state, &asked);
        printf("  %4.0f %% ", 100.0 * share_kept(reading, first, t, model));
        for (size_t i = 0; i < answers->count; i++)
            printf("  %5.1f %%", 100.0 * share[i]);
        putchar(' ');
        for (size_t i = first; i <= t; i++)
            print_token(stdout, (size_t)reading->ids[i], false, words);
        putchar('\n');
        first = t + 1;
    }
    writer_free(&writer), writer_free(&asked);
}

/* Layers times words as a heat map, each layer from its own narrowest to its own widest word. */
static void svg_reading(FILE *out, const StoryReading *reading, const Vocabulary *words)
{
    size_t shown = smaller(reading->len, 100);
    double bottom = 44.0 + (double)reading->layers * STORY_CELL;
    char text[64], style[128];
    svg_open(out, STORY_LEFT + (double)shown * STORY_CELL + 30.0, bottom + 90.0);
    svg_text(out, 14.0, 22.0, "font-size=\"15\" font-weight=\"bold\"",
             "Delta of each word, layer by layer");
    for (size_t layer = 0; layer < reading->layers; layer++) {
        const double *delta = reading->delta + layer * reading->len;
        double low = INFINITY, high = 0.0, y = 36.0 + (double)layer * STORY_CELL;
        for (size_t t = 0; t < shown; t++) {
            low = fmin(low, delta[t]);
            high = fmax(high, delta[t]);
        }
        snprintf(text, sizeof text, "layer %zu", layer + 1);
        svg_text(out, STORY_LEFT - 8.0, y + 12.0, "text-anchor=\"end\"", text);
        for (size_t t = 0; t < shown; t++)
            svg_cell(out, STORY_LEFT + (double)t * STORY_CELL, y, STORY_CELL,
                     high > low ? (delta[t] - low) / (high - low) : 0.0);
    }
    for (size_t t = 0; t < shown; t++) {
        double x = STORY_LEFT + ((double)t + 0.7) * STORY_CELL;
        snprintf(style, sizeof style,
                 "font-size=\"11\" text-anchor=\"end\" transform=\"rotate(-60 %.1f %.1f)\"", x,
                 bottom);
        svg_text(out, x, bottom, style, words->word[reading->ids[t]]);
    }
    svg_close(out);
}

static bool show_beliefs(const StoryReading *reading, const char *data, const Vocabulary *words,
                         const Model *model, Error *error)
{
    Answers answers;
    char *path = path_in(data, "answers.txt");
    memset(&answers, 0, sizeof answers);
    bool ok = answers_read(&answers, path, words, error);
    if (ok)
        print_beliefs(reading, &answers, words, model);
    answers_free(&answers);
    free(path);
    return ok;
}

static bool write_reading(const StoryReading *reading, const Vocabulary *words, const char *svg,
                          Error *error)
{
    OutFile out;
    if (!out_open(&out, svg, error))
        return false;
    svg_reading(out.stream, reading, words);
    return out_close(&out, error);
}

/* All looks at one story. */
static bool show_focus(const char *text, const char *data, const Model *model,
                       const Vocabulary *words, const Look *look, const char *svg, Error *error)
{
    StoryReading reading;
    if (!reading_new(&reading, text, words, model, error))
        return false;
    puts("How wide each word opened the gate (its Delta, mean of all channels)\n");
    print_shaded(&reading, words, look);
    print_widest(&reading, words);
    bool ok = show_beliefs(&reading, data, words, model, error) &&
              (svg == NULL || write_reading(&reading, words, svg, error));
    reading_free(&reading);
    return ok;
}

/* ===================================== Two classic tasks =================================== */
/* The Mamba paper's own (section 4.1), each with a selective and a time-invariant model of the */
/* same size: remember what matters among noise, and find again what once followed a word.      */

enum { TASK_SYMBOLS = 16, TASK_REMEMBER = 16, NOISE = 0, MARKER = TASK_SYMBOLS - 1 };

/* What tells one task from the other. */
typedef struct {
    const char *name, *title;
    BatchSource source;
    TrainSettings settings; /* classroom size */
    TrainSettings full;     /* the paper's */
    double gate_price;      /* for the selective model, unless --gate-price says otherwise */
} Task;

/* Selective copying: TASK_REMEMBER symbols at random places of a piece of noise, then as many
   markers, at which the symbols are to be said in their order (the paper's figure 2 and appendix
   E.1). */
static void copying_fill(int32_t *ids, int32_t *targets, size_t batch, size_t len, const void *from,
                         Random *random)
{
    size_t spread = len - TASK_REMEMBER;
    (void)from;
    for (size_t b = 0; b < batch; b++) {
        int32_t *id = ids + b * len, *target = targets + b * len;
        size_t said = spread;
        for (size_t t = 0; t < len; t++) {
            id[t] = t < spread ? NOISE : MARKER;
            target[t] = -1;
        }
        for (size_t t = 0; said < len; t++) { /* all sets of places are equally likely */
            double chance = (double)(len - said) / (double)(spread - t);
            if (random_uniform(random) < chance)
                id[t] = target[said++] = 1 + (int32_t)(random_uniform(random) * (MARKER - 1));
        }
    }
}

/* Induction heads: somewhere in random symbols a marker and a symbol after it; the last token is
   the marker again, and that symbol is to be said (appendix E.2). */
static void induction_fill(int32_t *ids, int32_t *targets, size_t batch, size_t len,
                           const void *from, Random *random)
{
    (void)from;
    for (size_t b = 0; b < batch; b++) {
        int32_t *id = ids + b * len, *target = targets + b * len;
        size_t place = (size_t)(random_uniform(random) * (double)(len - 2));
        for (size_t t = 0; t < len; t++) {
            id[t] = (int32_t)(random_uniform(random) * (TASK_SYMBOLS - 1));
            target[t] = -1;
        }
        id[place] = id[len - 1] = MARKER;
        target[len - 1] = id[place + 1];
    }
}

static const Task task_copying = {"copying",
                                  "Selective copying: 16 symbols among noise",
                                  {copying_fill, NULL},
                                  {32, 64, 4000, 1, 3e-3, 0.1, 1.0},
                                  {64, 4096 + TASK_REMEMBER, 400000, 1, 1e-4, 0.1, 1.0},
                                  0.0};
static const Task task_induction = {"induction",
                                    "Induction heads: what followed the marker?",
                                    {induction_fill, NULL},
                                    {8, 256, 3000, 1, 3e-3, 0.1, 1.0},
                                    {8, 256, 204800, 1, 1e-3, 0.1, 1.0},
                                    1.0};

/* How many targets of one batch of a source get the largest logit, read token by token: the memory
   does not depend on the length. */
static double accuracy_by_steps(const BatchSource *source, size_t batch, size_t len,
                                const Model *model, Random *random)
{
    size_t vocab = model->config.vocab_size, right = 0, all = 0;
    int32_t *ids = NEW(int32_t, batch * len), *targets = NEW(int32_t, batch * len),
            *now = NEW(int32_t, batch);
    float *state = NEW(float, model_state_floats(&model->config, batch));
    ModelWork work = model_work_new(model, batch, 1, false);
    source->fill(ids, targets, batch, len, source->from, random);
    for (size_t t = 0; t < len; t++) {
        for (size_t b = 0; b < batch; b++)
            now[b] = ids[b * len + t];
        model_forward(&work, state, now, model);
        for (size_t b = 0; b < batch; b++) {
            int32_t target = targets[b * len + t];
            all += target >= 0;
            right += target >= 0 && token_greedy(work.logits + b * vocab, vocab) == (size_t)target;
        }
    }
    free(ids), free(targets), free(now), free(state);
    model_work_free(&work);
    return (double)right / (double)all;
}

/* The same of one batch of a trainer, all at once. */
static double accuracy_at_once(Trainer *trainer, const BatchSource *source, Random *random)
{
    const TrainSettings *settings = &trainer->settings;
    size_t vocab = trainer->model->config.vocab_size, right = 0, all = 0;
    source->fill(trainer->ids, trainer->targets, settings->batch, settings->len, source->from,
                 random);
    model_forward(&trainer->work, NULL, trainer->ids, trainer->model);
    for (size_t t = 0; t < settings->batch * settings->len; t++) {
        int32_t target = trainer->targets[t];
        all += target >= 0;
        right +=
            target >= 0 && token_greedy(trainer->work.logits + t * vocab, vocab) == (size_t)target;
    }
    return (double)right / (double)all;
}

/* The paper's model for both tasks: two layers, 64 channels. */
static Model task_model(bool time_invariant, double gate_price, uint64_t seed)
{
    MambaConfig config = config_default(64);
    Random random = random_from_seed(seed);
    config.num_hidden_layers = 2;
    config.vocab_size = TASK_SYMBOLS;
    config.time_invariant = time_invariant;
    config.gate_price = gate_price;
    Model model = model_new(&config);
    model_init(&model, &random);
    return model;
}

enum { TASK_POINTS = 20 };

/* Trains a model on a task; accuracy[i] is in percent after at[i] steps. */
static void task_train(double *accuracy, double *at, Model *model, const Task *task,
                       const TrainSettings *settings)
{
    Trainer trainer = trainer_new(model, settings);
    Random random = random_from_seed(settings->seed + 1);
    Progress progress = progress_start(task->name);
    for (size_t i = 0; i < TASK_POINTS; i++) {
        uint64_t until = settings->steps * (i + 1) / TASK_POINTS;
        while (trainer.adam.step < until) {
            trainer_step(&trainer, &task->source);
            progress_show(&progress, (double)trainer.adam.step, (double)settings->steps);
        }
        accuracy[i] = 0.0;
        for (int k = 0; k < 4; k++)
            accuracy[i] += 25.0 * accuracy_at_once(&trainer, &task->source, &random);
        at[i] = (double)until;
    }
    progress_end(&progress);
    trainer_free(&trainer);
}

enum { TASK_LENGTHS = 12, TASK_BATCH = 16 };

/* Right answers at lengths far beyond training, for both models; returns how many lengths. */
static size_t task_lengths(double *length, double *percent[2], const Task *task, size_t trained,
                           size_t longest, const Model *model)
{
    size_t count = 0;
    Progress progress = progress_start("lengths");
    for (size_t len = trained; len <= longest && count < TASK_LENGTHS; len *= 4, count++) {
        length[count] = (double)len;
        for (int which = 0; which < 2; which++) {
            Random random = random_from_seed(99);
            size_t rounds = smaller(8, 1 + 16384 / len);
            percent[which][count] = 0.0;
            for (size_t i = 0; i < rounds; i++)
                percent[which][count] +=
                    100.0 / (double)rounds *
                    accuracy_by_steps(&task->source, TASK_BATCH, len, &model[which], &random);
        }
        progress_show(&progress, (double)len, (double)longest);
    }
    progress_end(&progress);
    return count;
}

/* Copying is drawn over the steps of training, induction over the lengths. */
static bool draw_task(const Task *task, const double *x, double *const percent[2], size_t points,
                      const Look *look, const char *svg, Error *error)
{
    bool copying = task->source.fill == copying_fill;
    Chart chart = chart_new(copying ? "Right symbols while learning" : "Right answers by length",
                            copying ? "step" : "length", "percent");
    chart.log_x = !copying;
    chart_add(&chart, "selective", MARK_LINE, x, percent[0], points);
    chart_add(&chart, "time-invariant", MARK_LINE, x, percent[1], points);
    chart_print(stdout, &chart, look);
    return svg == NULL || chart_write_svg(&chart, svg, error);
}

/* A task from start to end: both models trained, a table, a chart. A gate_price below 0 is the
   task's own. */
static bool show_task(const Task *task, const TrainSettings *settings, double gate_price,
                      const Look *look, const char *svg, Error *error)
{
    double at[TASK_POINTS], curve[2][TASK_POINTS], length[TASK_LENGTHS], far[2][TASK_LENGTHS];
    double *learnt[2] = {curve[0], curve[1]}, *percent[2] = {far[0], far[1]}, start = seconds_now();
    double price = gate_price < 0.0 ? task->gate_price : gate_price;
    bool copying = task->source.fill == copying_fill;
    Model model[2] = {task_model(false, price, settings->seed),
                      task_model(true, 0.0, settings->seed)};
    printf("%s\n2 layers of 64 channels, %zu parameters; trained at length %zu, %" PRIu64
           " steps of %zu\nwith a price of %g on open gates\n\n",
           task->title, model_floats(&model[0].config), settings->len, settings->steps,
           settings->batch, price);
    fflush(stdout);
    for (int which = 0; which < 2; which++)
        task_train(curve[which], at, &model[which], task, settings);
    fprintf(stderr, "both trained in %.0f s\n", seconds_now() - start);
    size_t longest = copying ? 16 * settings->len : 65536;
    size_t count = task_lengths(length, percent, task, settings->len, longest, model);
    puts("  length   selective   time-invariant");
    for (size_t i = 0; i < count; i++)
        printf("  %6.0f   %7.1f %%   %12.1f %%\n", length[i], far[0][i], far[1][i]);
    putchar('\n');
    model_free(&model[0]), model_free(&model[1]);
    return draw_task(task, copying ? at : length, copying ? learnt : percent,
                     copying ? (size_t)TASK_POINTS : count, look, svg, error);
}

/* ===================================== Measurements ======================================== */
/* A whole training step beside what this machine allows. Its multiply-adds and its           */
/* exponentials want the same units, so their times add up; memory works meanwhile, so the    */
/* longer of the two is the floor. It leaves out what has no way round it either, such as the */
/* recurrence itself.                                                                         */

/* What a training step cannot do without, in seconds on one processor. */
typedef struct {
    double products, exponentials, memory;
} TrainFloor;

/* Multiply-adds of all products: forward once, and backward for the input and for the weight. */
static double train_multiply_adds(const MambaConfig *config, double tokens)
{
    double d_model = (double)config->hidden_size, d_inner = (double)config->intermediate_size;
    double dt_rank = (double)config->time_step_rank, d_state = (double)config->state_size;
    double layer = 3.0 * d_model * d_inner + (2.0 * dt_rank + 2.0 * d_state) * d_inner;
    return 3.0 * tokens *
           ((double)config->num_hidden_layers * layer + (double)config->vocab_size * d_model);
}

/* Exponentials: every state's forward and again backward; of each channel Delta and gate both times
   and the silu before the scan both times; softmax for the loss and for its gradient. */
static double train_exponentials(const MambaConfig *config, double tokens)
{
    double channel = 2.0 * (double)config->state_size + 6.0;
    double layer = (double)config->intermediate_size * channel;
    return tokens * ((double)config->num_hidden_layers * layer + 2.0 * (double)config->vocab_size);
}

/* Bytes: all that the forward pass keeps is written once and read once; AdamW reads a parameter,
   its gradient and its two means and writes all but the gradient. */
static double train_bytes(const Trainer *trainer)
{
    const Model *model = trainer->model;
    const ModelWork *work = &trainer->work;
    BlockCache cache;
    double kept =
        (double)block_cache_place(&cache, NULL, &model->block[0], work->batch, work->len, true);
    return sizeof(float) * (2.0 * kept * (double)model->config.num_hidden_layers +
                            7.0 * (double)model_floats(&model->config));
}

static TrainFloor train_floor(const Trainer *trainer, double multiply_adds,
                              const Ceilings *ceilings)
{
    const MambaConfig *config = &trainer->model->config;
    double tokens = (double)(trainer->work.batch * trainer->work.len);
    TrainFloor floor = {train_multiply_adds(config, tokens) / multiply_adds,
                        train_exponentials(config, tokens) / ceilings->exponentials,
                        train_bytes(trainer) / ceilings->read};
    return floor;
}

/* Tokens of no text. */
static void random_tokens_fill(int32_t *ids, int32_t *targets, size_t batch, size_t len,
                               const void *from, Random *random)
{
    double vocab = (double)((const MambaConfig *)from)->vocab_size;
    for (size_t i = 0; i < batch * len; i++) {
        ids[i] = (int32_t)(random_uniform(random) * vocab);
        targets[i] = (int32_t)(random_uniform(random) * vocab);
    }
}

/* The parts of a step that are timed alone, on the arrays that the last step left. */
typedef enum { PART_PRODUCTS, PART_SCAN, PART_CONVOLUTION, PART_ADAMW, TRAIN_PARTS } TrainPart;

/* One linear layer, its three products. */
static void bench_linear(float *y, float *x, const float *W, float *W_grad, size_t tokens,
                         size_t d_in, size_t d_out)
{
    linear_forward_fast(y, x, W, NULL, tokens, d_in, d_out);
    linear_backward_weight_fast(W_grad, y, x, tokens, d_in, d_out);
    linear_backward_input_fast(x, y, W, false, tokens, d_in, d_out);
}

/* All products of a step. What comes out is thrown away: it goes into the gradients' workspace. */
static void bench_all_products(Trainer *trainer)
{
    const Model *model = trainer->model;
    const MambaConfig *config = &model->config;
    const BlockBack *to = &trainer->work.block_back;
    size_t tokens = trainer->work.batch * trainer->work.len, d_model = config->hidden_size;
    size_t d_inner = config->intermediate_size, dt_rank = config->time_step_rank;
    for (size_t layer = 0; layer < config->num_hidden_layers; layer++) {
        float *const *p = model->block[layer].params.tensor, *const *g =
                                                                 trainer->grad.layer[layer].tensor;
        for (size_t half = 0; half < 2; half++) {
            size_t first = half * d_inner * d_model;
            bench_linear(half == 0 ? to->u : to->z, to->normed, p[IN_PROJ_WEIGHT] + first,
                         g[IN_PROJ_WEIGHT] + first, tokens, d_model, d_inner);
        }
        bench_linear(to->x_dbl, to->u, p[X_PROJ_WEIGHT], g[X_PROJ_WEIGHT], tokens, d_inner,
                     dt_rank + 2 * config->state_size);
        bench_linear(to->dt_raw, to->dt_low, p[DT_PROJ_WEIGHT], g[DT_PROJ_WEIGHT], tokens, dt_rank,
                     d_inner);
        bench_linear(to->normed, to->gated, p[OUT_PROJ_WEIGHT], g[OUT_PROJ_WEIGHT], tokens, d_inner,
                     d_model);
    }
    bench_linear(trainer->work.logits, to->normed, model->params.lm_head, trainer->grad.lm_head,
                 tokens, d_model, config->vocab_size);
}

static void bench_all_scans(Trainer *trainer)
{
    const Model *model = trainer->model;
    const BlockBack *to = &trainer->work.block_back;
    for (size_t layer = 0; layer < model->config.num_hidden_layers; layer++) {
        const BlockCache *cache = &trainer->work.cache[layer];
        float *const *g = trainer->grad.layer[layer].tensor;
        Scan scan = block_scan(cache, &model->block[layer], NULL);
        ScanGrad grad = {to->u, to->dt_raw, g[DT_PROJ_BIAS], to->A, to->B,
                         to->C, g[D_SKIP],  to->z,           NULL};
        selective_scan_fast(cache->gated, NULL, &scan);
        selective_scan_backward_fast(&grad, to->gated, NULL, &scan, to->scan);
    }
}

static void bench_all_convolutions(Trainer *trainer)
{
    const MambaConfig *config = &trainer->model->config;
    const BlockBack *to = &trainer->work.block_back;
    size_t d_inner = config->intermediate_size, d_conv = config->conv_kernel;
    for (size_t layer = 0; layer < config->num_hidden_layers; layer++) {
        const BlockCache *cache = &trainer->work.cache[layer];
        float *const *p = trainer->model->block[layer].params.tensor, *const *g =
                                                                          trainer->grad.layer[layer]
                                                                              .tensor;
        size_t count = cache->batch * cache->len * d_inner;
        conv1d_forward_fast(cache->conv, cache->u_raw, NULL, cache->zeros, p[CONV1D_WEIGHT],
                            p[CONV1D_BIAS], cache->batch, cache->len, d_inner, d_conv);
        silu_all(cache->u, cache->conv, count);
        silu_backward_all(to->conv, to->u, cache->conv, count);
        conv1d_backward(to->u_raw, g[CONV1D_WEIGHT], g[CONV1D_BIAS], to->conv, cache->u_raw,
                        p[CONV1D_WEIGHT], cache->batch, cache->len, d_inner, d_conv);
    }
}

static void bench_part(Trainer *trainer, TrainPart part)
{
    AdamW adamw = {1e-4, 0.9, 0.95, 1e-8, 0.1};
    switch (part) {
    case PART_PRODUCTS: bench_all_products(trainer); break;
    case PART_SCAN: bench_all_scans(trainer); break;
    case PART_CONVOLUTION: bench_all_convolutions(trainer); break;
    default:
        clip_gradient(&trainer->grad, &trainer->model->config, 1.0);
        adamw_step(trainer->model, &trainer->adam, &trainer->grad, &adamw);
    }
}

/* Median seconds of a step, or, with `part` below TRAIN_PARTS, of that part of it. */
static double time_training(Trainer *trainer, TrainPart part)
{
    BatchSource source = {random_tokens_fill, &trainer->model->config};
    double seconds[BENCH_RUNS];
    for (int i = 0; i < BENCH_RUNS; i++) {
        double start = seconds_now();
        if (part < TRAIN_PARTS)
            bench_part(trainer, part);
        else
            trainer_step(trainer, &source);
        seconds[i] = seconds_now() - start;
    }
    return median(seconds, BENCH_RUNS);
}

/* Where the time of one thread goes, beside the floor of a part where it has one. */
static void print_train_parts(Trainer *trainer, double step, const TrainFloor *floor)
{
    static const char *const names[TRAIN_PARTS] = {"products", "selective scan",
                                                   "convolution and silu", "AdamW and clipping"};
    double rest = step, floors[TRAIN_PARTS] = {floor->products, floor->exponentials, 0.0, 0.0};
    puts("\n    of one thread's time          ms     share   floor");
    for (int part = 0; part < TRAIN_PARTS; part++) {
        double seconds = time_training(trainer, (TrainPart)part);
        rest -= seconds;
        printf("      %-22s %9.2f %7.0f %%", names[part], 1e3 * seconds, 100.0 * seconds / step);
        if (floors[part] > 0.0)
            printf("  %6.2f%s", 1e3 * floors[part], part == PART_SCAN ? " (all exponentials)" : "");
        putchar('\n');
    }
    printf("      %-22s %9.2f %7.0f %%\n", "norms, loss, copies", 1e3 * rest, 100.0 * rest / step);
}

static void bench_training(const MambaConfig *config, size_t batch, size_t len,
                           double multiply_adds, const Ceilings *ceilings)
{
    enum { STEPS_MOST = 4 * BENCH_RUNS };
    Random random = random_from_seed(1);
    Model model = model_new(config);
    model_init(&model, &random);
    TrainSettings settings = {batch, len, STEPS_MOST, 1, 1e-3, 0.1, 1.0};
    Trainer trainer = trainer_new(&model, &settings);
    TrainFloor floor = train_floor(&trainer, multiply_adds, ceilings);
    double least = fmax(floor.products + floor.exponentials, floor.memory), one = 0.0;
    double tokens = (double)(batch * len);
    int threads = threads_most();
    printf("\nvocab %zu, d_model %zu, %zu layers, d_state %zu, batch %zu, len %zu\n",
           config->vocab_size, config->hidden_size, config->num_hidden_layers, config->state_size,
           batch, len);
    printf("    floor %9.2f ms: products %.2f and exponentials %.2f, or memory %.2f\n", 1e3 * least,
           1e3 * floor.products, 1e3 * floor.exponentials, 1e3 * floor.memory);
    for (int use = 1; use <= threads; use += threads > 1 ? threads - 1 : 1) {
        threads_use(use);
        double step = time_training(&trainer, TRAIN_PARTS);
        double bound = fmax((floor.products + floor.exponentials) / use, floor.memory);
        one = use == 1 ? step : one;
        printf(
            "    %2d thread%s %7.2f ms a step, %7.0f tokens/s: %.0f %% of what the floor allows\n",
            use, use == 1 ? ": " : "s:", 1e3 * step, tokens / step, 100.0 * bound / step);
    }
    threads_use(1);
    print_train_parts(&trainer, one, &floor);
    threads_use(threads);
    trainer_free(&trainer);
    model_free(&model);
}

static void demo_train_bench(void)
{
    double multiply_adds = measure_multiply_adds();
    Ceilings ceilings = measure_ceilings();
    MambaConfig large = config_default(128), small = config_default(64);
    large.num_hidden_layers = 4;
    small.num_hidden_layers = 2;
    small.vocab_size = 64;
    printf("A training step: forward, loss, backward, clipping, AdamW; %d numbers to a vector\n",
           LANES);
    printf("one processor: %.1f multiply-adds and %.2f exponentials a nanosecond, %.1f GB/s read\n",
           1e-9 * multiply_adds, 1e-9 * ceilings.exponentials, 1e-9 * ceilings.read);
    bench_training(&large, 8, 256, multiply_adds, &ceilings);
    bench_training(&small, 16, 64, multiply_adds, &ceilings);
}

/* ======================================= Program =========================================== */

typedef enum {
    RUN_GENERATE,
    RUN_TRAIN,
    RUN_TEST,
    RUN_FOCUS,
    RUN_COPYING,
    RUN_INDUCTION,
    RUN_BENCH
} ModelRun;

typedef struct {
    ModelRun run;
    const char *model, *data, *corpus, *out, *checkpoint, *svg;
    bool bytes, resume, time_invariant, compare, full, ascii;
    uint64_t width, layers, batch, len, steps;
    double rate, gate_price;
    Wish wish;
} ModelOptions;

static void model_usage(FILE *out)
{
    fputs(
        "usage: ch05_language_model [--prompt TEXT] [-n N] [--temperature T] [--top-k K] "
        "[--top-p P]\n"
        "                           [--repetition-penalty R] [--seed S] [--model DIR]\n"
        "       ch05_language_model --train [--corpus FILE [--bytes]] [--out DIR] [--resume] ...\n"
        "       ch05_language_model --test | --focus | --copying | --induction | --bench ...\n"
        "       ch05_language_model --help\n",
        out);
}

static void model_help(void)
{
    model_usage(stdout);
    fputs(
        "\nA Mamba language model (chapter 5, capstone 1): it goes on from a prompt.\n\n"
        "  --prompt TEXT      where to begin (default: a rainbow story that turns)\n"
        "  -n N               at most so many tokens (default 40)\n"
        "  --temperature T    0 is the likeliest each time, 1 as learnt (default 0.7)\n"
        "  --top-k K          only the K likeliest; 0: all (default 0)\n"
        "  --top-p P          only the likeliest that make up P (default 0.95)\n"
        "  --repetition-penalty R   above 1: what was said is less likely (default 1)\n"
        "  --seed S           of the draws, or of the training (default 1)\n"
        "  --model DIR        a folder as Hugging Face has it (default data/tiny-mamba)\n\n"
        "  --train            learn from data/rainbow, put to the test, write the model\n"
        "  --corpus FILE      learn from this text instead, in words; with --bytes in bytes\n"
        "  --out DIR          where the model goes (default build/rainbow-mamba)\n"
        "  --checkpoint FILE  where a run is kept on its way (default build/training.safetensors)\n"
        "  --resume           go on from there, bit for bit\n"
        "  --time-invariant   Delta, B and C the same for every token\n"
        "  --compare          train a time-invariant model too, and put both to the test\n"
        "  --width D --layers N --batch N --length N --steps N --rate R\n"
        "                     (default 64, 2, 8, 128, 4000, 0.004)\n"
        "  --gate-price P     what an open gate costs while learning (default 3; 1 for\n"
        "                     --induction; 0 for --corpus, --copying, --time-invariant)\n\n"
        "  --test             the stories of data/rainbow, answers right or wrong\n"
        "  --focus            what each word of --prompt does to gate, state and answer\n"
        "  --data DIR         where the stories are (default data/rainbow)\n"
        "  --copying          the Mamba paper's selective copying; --full: at the paper's size\n"
        "  --induction        its induction heads; --full: with the paper's steps\n"
        "  --bench            how fast a training step is, beside what the machine allows\n"
        "  --svg FILE         write the figure of --train, --focus, --copying or --induction\n"
        "  --ascii            draw without Unicode\n",
        stdout);
}

static const char default_prompt[] = "a fiddler from galway sang of the green hills. the baker "
                                     "walked slowly past the mill. the tale ended with a "
                                     "scientist explaining the rainbow. what is a rainbow?";

static ModelOptions model_options_default(void)
{
    ModelOptions options;
    memset(&options, 0, sizeof options);
    options.model = "data/tiny-mamba";
    options.data = "data/rainbow";
    options.out = "build/rainbow-mamba";
    options.checkpoint = "build/training.safetensors";
    options.width = 64;
    options.layers = 2;
    options.batch = 8;
    options.len = 128;
    options.rate = 4e-3;
    options.gate_price = -1.0; /* not given */
    options.wish.prompt = default_prompt;
    options.wish.most = 40;
    options.wish.seed = 1;
    options.wish.sampling.temperature = 0.7;
    options.wish.sampling.top_p = 0.95;
    options.wish.sampling.repetition_penalty = 1.0;
    return options;
}

/* A number with a point, from `least` to `most`. */
static bool option_number(double *value, const char *option, const char *text, double least,
                          double most, Error *error)
{
    double got = 0.0;
    Error why;
    if (!number_parse(&got, text, &why))
        return fail(error, "--%s: %.200s", option, why.text);
    if (!(got >= least && got <= most))
        return fail(error, "--%s: %g is not from %g to %g", option, got, least, most);
    *value = got;
    return true;
}

static bool option_size(size_t *value, const char *option, const char *text, uint64_t least,
                        uint64_t most, Error *error)
{
    uint64_t got = 0;
    if (!option_integer(&got, option, text, least, most, error))
        return false;
    *value = (size_t)got;
    return true;
}

/* One of the numbers; false if it is out of its range. */
static bool model_option_value(ModelOptions *options, int code, const char *text, Error *error)
{
    Sampling *sampling = &options->wish.sampling;
    switch (code) {
    case 'n': return option_size(&options->wish.most, "n", text, 0, 1000000000, error);
    case 't': return option_number(&sampling->temperature, "temperature", text, 0, 100, error);
    case 'k': return option_size(&sampling->top_k, "top-k", text, 0, 1000000000, error);
    case 'q': return option_number(&sampling->top_p, "top-p", text, 0, 1, error);
    case 'r':
        return option_number(&sampling->repetition_penalty, "repetition-penalty", text, 0.01, 100,
                             error);
    case 's': return option_integer(&options->wish.seed, "seed", text, 0, UINT64_MAX, error);
    case 'W': return option_integer(&options->width, "width", text, 1, 4096, error);
    case 'L': return option_integer(&options->layers, "layers", text, 1, 256, error);
    case 'B': return option_integer(&options->batch, "batch", text, 1, 4096, error);
    case 'l': return option_integer(&options->len, "length", text, 1, 65536, error);
    case 'g': return option_number(&options->gate_price, "gate-price", text, 0, 1000, error);
    case 'S': return option_integer(&options->steps, "steps", text, 1, 100000000, error);
    default: return option_number(&options->rate, "rate", text, 1e-9, 1, error);
    }
}

static bool model_options_fit(ModelOptions *options, unsigned runs, Error *error)
{
    bool training = options->run == RUN_TRAIN;
    bool task = options->run == RUN_COPYING || options->run == RUN_INDUCTION;
    if ((runs & (runs - 1)) != 0)
        return fail(error, "--train, --test, --focus, --copying, --induction and --bench exclude "
                           "each other");
    if (options->wish.prompt[0] == '\0')
        return fail(error, "--prompt: there is nothing to go on from");
    if (!training && (options->corpus || options->resume || options->time_invariant ||
                      options->compare || options->bytes))
        return fail(error, "--corpus, --bytes, --resume, --compare and --time-invariant need "
                           "--train");
    if (options->bytes && !options->corpus)
        return fail(error, "--bytes needs --corpus FILE");
    if (options->compare && (options->corpus || options->time_invariant))
        return fail(error, "--compare is for the stories of data/rainbow, and trains both models");
    if (options->full && !task)
        return fail(error, "--full needs --copying or --induction");
    if (options->svg && !training && !task && options->run != RUN_FOCUS)
        return fail(error, "--svg needs --train, --focus, --copying or --induction");
    if (options->steps == 0 && training)
        options->steps = 4000;
    return true;
}

/* Fills `options`; false with an error, or with an empty one if getopt has said what is wrong. */
static bool model_options_parse(ModelOptions *options, int argc, char **argv, Error *error)
{
    enum { FIRST_RUN = 256 };
    static const struct option known[] = {{"train", 0, NULL, FIRST_RUN + RUN_TRAIN},
                                          {"test", 0, NULL, FIRST_RUN + RUN_TEST},
                                          {"focus", 0, NULL, FIRST_RUN + RUN_FOCUS},
                                          {"copying", 0, NULL, FIRST_RUN + RUN_COPYING},
                                          {"induction", 0, NULL, FIRST_RUN + RUN_INDUCTION},
                                          {"bench", 0, NULL, FIRST_RUN + RUN_BENCH},
                                          {"prompt", 1, NULL, 'p'},
                                          {"temperature", 1, NULL, 't'},
                                          {"top-k", 1, NULL, 'k'},
                                          {"top-p", 1, NULL, 'q'},
                                          {"repetition-penalty", 1, NULL, 'r'},
                                          {"seed", 1, NULL, 's'},
                                          {"model", 1, NULL, 'm'},
                                          {"data", 1, NULL, 'd'},
                                          {"corpus", 1, NULL, 'c'},
                                          {"bytes", 0, NULL, 'b'},
                                          {"out", 1, NULL, 'o'},
                                          {"checkpoint", 1, NULL, 'K'},
                                          {"resume", 0, NULL, 'R'},
                                          {"time-invariant", 0, NULL, 'T'},
                                          {"compare", 0, NULL, 'C'},
                                          {"full", 0, NULL, 'F'},
                                          {"width", 1, NULL, 'W'},
                                          {"layers", 1, NULL, 'L'},
                                          {"batch", 1, NULL, 'B'},
                                          {"length", 1, NULL, 'l'},
                                          {"steps", 1, NULL, 'S'},
                                          {"rate", 1, NULL, 'e'},
                                          {"gate-price", 1, NULL, 'g'},
                                          {"svg", 1, NULL, 'v'},
                                          {"ascii", 0, NULL, 'a'},
                                          {"help", 0, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    unsigned runs = 0;
    bool ok = true;
    *options = model_options_default();
    error->text[0] = '\0';
    for (int code; ok && (code = getopt_long(argc, argv, "n:", known, NULL)) != -1;) {
        if (code > FIRST_RUN) {
            options->run = (ModelRun)(code - FIRST_RUN);
            runs |= 1u << options->run;
            continue;
        }
        switch (code) {
        case 'p': options->wish.prompt = optarg; break;
        case 'm': options->model = optarg; break;
        case 'd': options->data = optarg; break;
        case 'c': options->corpus = optarg; break;
        case 'b': options->bytes = true; break;
        case 'o': options->out = optarg; break;
        case 'K': options->checkpoint = optarg; break;
        case 'R': options->resume = true; break;
        case 'T': options->time_invariant = true; break;
        case 'C': options->compare = true; break;
        case 'F': options->full = true; break;
        case 'v': options->svg = optarg; break;
        case 'a': options->ascii = true; break;
        case 'h': model_help(); exit(0);
        case '?': return false;
        default: ok = model_option_value(options, code, optarg, error);
        }
    }
    if (ok && optind < argc)
        return fail(error, "'%.40s' is not an option", argv[optind]);
    return ok && model_options_fit(options, runs, error);
}

/* ---- training, as the program does it ---- */

/* What a run learns from, and what it is looked at with on the way. */
typedef struct {
    Vocabulary words;
    Corpus learn, check;
} Lessons;

static void lessons_free(Lessons *lessons)
{
    vocabulary_free(&lessons->words);
    corpus_free(&lessons->learn), corpus_free(&lessons->check);
}

/* The vocabulary and both corpora; of a single file the last tenth is for checking. */
static bool lessons_split(Lessons *lessons, const char *text, size_t len, const char *other,
                          size_t other_len, const ModelOptions *options, const char *path,
                          Error *error)
{
    Lessons got;
    size_t piece = (size_t)options->len;
    if (options->bytes)
        got.words = vocabulary_of_bytes();
    else if (!text_is_utf8(text, len, path, error) ||
             !vocabulary_from_text(&got.words, text, len, path, error))
        return false;
    if (!corpus_from_text(&got.learn, text, len, &got.words, piece, path, error)) {
        vocabulary_free(&got.words);
        return false;
    }
    if (!corpus_from_text(&got.check, other, other_len, &got.words, piece, path, error)) {
        vocabulary_free(&got.words);
        corpus_free(&got.learn);
        return false;
    }
    *lessons = got;
    return true;
}

static bool lessons_read(Lessons *lessons, const ModelOptions *options, Error *error)
{
    char *path = options->corpus ? strdup(options->corpus) : path_in(options->data, "train.txt");
    char *other = path_in(options->data, "valid.txt"), *text = NULL, *more = NULL;
    size_t len, more_len;
    bool ok = text_read(&text, &len, path, error);
    if (ok && options->corpus) {
        size_t cut = len - len / 10;
        while (!options->bytes && cut > 0 && !is_blank(text[cut - 1]))
            cut--;
        ok = lessons_split(lessons, text, cut, text + cut, len - cut, options, path, error);
    } else if (ok) {
        ok = text_read(&more, &more_len, other, error) &&
             lessons_split(lessons, text, len, more, more_len, options, path, error);
    }
    free(path), free(other), free(text), free(more);
    return ok;
}

/* The starting point of a run. */
static Model model_to_train(const ModelOptions *options, const Vocabulary *words,
                            bool time_invariant)
{
    MambaConfig config = config_default((size_t)options->width);
    Random random = random_from_seed(options->wish.seed);
    config.num_hidden_layers = (size_t)options->layers;
    config.vocab_size = words->n_word;
    config.time_invariant = time_invariant;
    if (options->gate_price >= 0.0)
        config.gate_price = options->gate_price;
    else /* a gate that cannot choose when to open gains nothing by staying shut */
        config.gate_price = options->corpus || time_invariant ? 0.0 : 3.0;
    Model model = model_new(&config);
    model_init(&model, &random);
    return model;
}

static bool train_one(Model *model, const Lessons *lessons, const ModelOptions *options,
                      const Look *look, Error *error)
{
    TrainSettings settings = {(size_t)options->batch,
                              (size_t)options->len,
                              options->steps,
                              options->wish.seed,
                              options->rate,
                              0.1,
                              1.0};
    BatchSource learn = {corpus_fill, &lessons->learn}, check = {corpus_fill, &lessons->check};
    Trainer trainer = trainer_new(model, &settings);
    bool keep = !options->compare || !model->config.time_invariant;
    printf("\nA %s model of %zu parameters learns from %zu tokens, %zu different\n\n",
           model->config.time_invariant ? "time-invariant" : "selective",
           model_floats(&model->config), lessons->learn.count, lessons->words.n_word);
    bool ok = !options->resume || trainer_load(&trainer, options->checkpoint, error);
    double start = seconds_now();
    ok = ok && train(&trainer, &learn, &check, keep ? options->checkpoint : NULL, error);
    if (ok) {
        fprintf(stderr, "%.1f s\n", seconds_now() - start);
        putchar('\n');
        ok = show_curve(&trainer, look, keep ? options->svg : NULL, error);
        putchar('\n');
    }
    trainer_free(&trainer);
    return ok;
}

static bool run_train(const ModelOptions *options, const Look *look, Error *error)
{
    Lessons lessons;
    if (!lessons_read(&lessons, options, error))
        return false;
    Model model = model_to_train(options, &lessons.words, options->time_invariant), invariant;
    bool ok = train_one(&model, &lessons, options, look, error);
    if (ok && !options->time_invariant)
        ok = model_save_folder(options->out, &model, &lessons.words, error);
    if (options->compare) {
        invariant = model_to_train(options, &lessons.words, true);
        ok = ok && train_one(&invariant, &lessons, options, look, error);
    }
    if (ok && !options->corpus)
        ok = show_scores(options->data, &model, options->compare ? &invariant : NULL,
                         &lessons.words, error);
    if (ok && options->time_invariant)
        fputs("note: a time-invariant model has no place in Hugging Face's layout and is not "
              "written\n",
              stderr);
    if (options->compare)
        model_free(&invariant);
    model_free(&model);
    lessons_free(&lessons);
    return ok;
}

/* What wants a model from a folder. */
static bool run_with_model(const ModelOptions *options, const Look *look, Error *error)
{
    Model model;
    Vocabulary words;
    bool ok = true;
    if (!model_open_folder(&model, &words, options->model, error))
        return false;
    if (options->run == RUN_TEST)
        ok = show_scores(options->data, &model, NULL, &words, error);
    else if (options->run == RUN_FOCUS)
        ok = show_focus(options->wish.prompt, options->data, &model, &words, look, options->svg,
                        error);
    else
        generate(&options->wish, &model, &words);
    model_free(&model);
    vocabulary_free(&words);
    return ok;
}

static bool run_task(const Task *task, const ModelOptions *options, const Look *look, Error *error)
{
    TrainSettings settings = options->full ? task->full : task->settings;
    settings.steps = options->steps > 0 ? options->steps : settings.steps;
    settings.seed = options->wish.seed;
    return show_task(task, &settings, options->gate_price, look, options->svg, error);
}

static bool run_model(const ModelOptions *options, const Look *look, Error *error)
{
    switch (options->run) {
    case RUN_TRAIN: return run_train(options, look, error);
    case RUN_COPYING: return run_task(&task_copying, options, look, error);
    case RUN_INDUCTION: return run_task(&task_induction, options, look, error);
    case RUN_BENCH: demo_train_bench(); return true;
    default: return run_with_model(options, look, error);
    }
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
    Look look = look_at_terminal(options.ascii);
    bool ok = run_model(&options, &look, &error);
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
