/* Chapter 5a. A Mamba language model, trained in C

   QUESTION   What does a stack of blocks need to guess the next token, and how does it learn to?
   NEW        Embedding, blocks, final norm and a head that is the embedding again; the loss, its
              gradient for every parameter, AdamW; text drawn token by token from a state of
              constant size.
   NOT        Subwords, and models that somebody else has trained: that is pretrained.c.
   EQUATION   loss = mean of -log softmax(logits_t)[token_{t+1}],  logits = norm_f(h) E^T
   LETTERS    maths   C            shape                          Hugging Face
              E       embeddings   (vocab, d_model)               backbone.embeddings.weight
              h       hidden       (n_layer + 1, tokens, d_model) the residual stream
              -       norm_f       (d_model)                      backbone.norm_f.weight
              -       lm_head      (vocab, d_model)               lm_head.weight, if not tied to E
              tokens = batch * len, and token t of sequence b is number b * len + t
   BUILD      cc -O2 ch05_mamba_block/language_model.c -o language_model -lm && ./language_model
   TIME       60 minutes to read, 65 to do the exercises
   SOURCES    A. Gu, T. Dao, Mamba, arXiv 2312.00752, section 4.2
              I. Loshchilov, F. Hutter, Decoupled weight decay regularization, arXiv 1711.05101
              O. Press, L. Wolf, Using the output embedding, arXiv 1608.05859 (the tied head)
              B. T. Polyak, A. B. Juditsky, Acceleration of stochastic approximation by averaging,
              SIAM J. Control Optim. 30 (1992); P. Izmailov et al., Averaging weights leads to
              wider optima, arXiv 1803.05407; O. Shamir, T. Zhang, arXiv 1212.1824 (its start) */

#ifndef CH05_LANGUAGE_MODEL
#define CH05_LANGUAGE_MODEL

#include "layers.c"      /* the block, its parameters and its gradients; or Mamba-2's */
#include "parameters.c"  /* a model's: ModelParams, model_tensor */
#include "words.c"       /* texts as tokens */
#include "rainbow.c"     /* stories to learn from */
#include "sampling.c"    /* softmax in vectors, and the draw */
#include "checkpoints.c" /* lists of arrays in files */
#include "curve.c"       /* the losses of a run, drawn */

/* ====================================== The model ========================================== */
/* All numbers that are learnt lie in one piece of memory: embeddings, then layer after layer, then
   the last norm. Gradients and the means of AdamW have the same layout (parameters.c), so that they
   can be gone over side by side. */

/* A model: its sizes, its parameters, and its blocks ready for use. */
typedef struct {
    MambaConfig config;
    ModelParams params;
    MambaBlock *block; /* (n_layer) views into params and A */
    float *A;          /* (n_layer, layer_A_count) = -exp(A_log), kept up to date by refresh */
} Model;

/* After every change of the parameters. */
void model_refresh(Model *model)
{
    for (size_t i = 0; i < model->config.num_hidden_layers; i++)
        layer_refresh(&model->block[i]);
}

/* A model with all parameters 0: every block sees its own part of them, and its own A. model_free
   when done. */
Model model_new(const MambaConfig *config)
{
    Model model;
    size_t A = layer_A_count(config);
    model.config = *config;
    model.params = model_params_new(config);
    model.block = NEW(MambaBlock, config->num_hidden_layers);
    model.A = NEW(float, config->num_hidden_layers *A);
    for (size_t i = 0; i < config->num_hidden_layers; i++) {
        model.block[i].config = layer_config(config, i);
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
    /* both tables: small and random */
    for (size_t i = 0; i < table; i++)
        model->params.embeddings[i] = (float)(config->initializer_range * random_normal(random));
    for (size_t i = 0; i < table && !config->tie_word_embeddings; i++)
        model->params.lm_head[i] = (float)(config->initializer_range * random_normal(random));
    /* the blocks; of n_layer independent addends the sum is sqrt(n_layer) times as loud as one */
    for (size_t layer = 0; layer < config->num_hidden_layers; layer++) {
        ModelTensor out =
            model_tensor(&model->params, config, 3 + layer * BLOCK_TENSORS + OUT_PROJ_WEIGHT);
        layer_init(&model->params.layer[layer], &model->block[layer].config, random);
        for (size_t i = 0; i < out.count; i++)
            out.values[i] /= sqrtf((float)config->num_hidden_layers);
    }
    for (size_t i = 0; i < config->hidden_size; i++)
        model->params.norm_f[i] = 1.0f;
    model_refresh(model);
}

/* ======================================= Forward =========================================== */
/* A word's number looks up its row of E. Every block adds something to that vector, and between
   the blocks nothing happens at all. At the end the same table, used the other way round, asks of
   every word how much the vector is like its row. */

/* All workspace of a training step (or, without `back`, of a forward pass), asked for once. */
typedef struct {
    size_t batch, len;
    const Packed *texts; /* NULL; or where texts begin, if rows hold several: packing.c */
    bool back;           /* everything is kept that the backward pass wants */
    float *memory;
    float *hidden;         /* (n_layer + 1, tokens, d_model); forward only: (1, ...) */
    float *final, *scale;  /* (tokens, d_model), (tokens) after norm_f, and its scales */
    float *logits;         /* (tokens, vocab); model_backward puts their gradient there */
    float *hidden_grad[2]; /* (tokens, d_model) each */
    LayerCache *cache;     /* (n_layer) of which `kept` are used: all, or one that layers share */
    size_t kept;
    LayerBack layer_back;
} ModelWork;

/* Lays the workspace out in `memory`, or, if that is NULL, only counts its floats. */
static size_t model_work_layout(ModelWork *work, float *memory, const Model *model)
{
    const MambaConfig *config = &model->config;
    size_t tokens = work->batch * work->len, d_model = config->hidden_size, used = 0;
    /* what the way back looks at again; and layers of different kinds cannot share a cache */
    size_t kept = work->back || config->stack[0] != '\0' ? config->num_hidden_layers : 1;
    size_t grads = 0;
    work->kept = kept;
    work->hidden = take(memory, &used, (work->back ? kept + 1 : 1) * tokens * d_model);
    work->final = take(memory, &used, tokens * d_model);
    work->scale = take(memory, &used, tokens);
    work->logits = take(memory, &used, tokens * config->vocab_size);
    for (size_t i = 0; i < kept; i++) {
        float *at = memory == NULL ? NULL : memory + used;
        used += layer_cache_place(&work->cache[i], at, &model->block[i], work->batch, work->len,
                                  work->back);
    }
    if (work->back) {
        work->hidden_grad[0] = take(memory, &used, tokens * d_model);
        work->hidden_grad[1] = take(memory, &used, tokens * d_model);
        float *at = memory == NULL ? NULL : memory + used;
        for (size_t i = 0; i < kept; i++) {
            /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): model_work_free has the caches */
            size_t own = layer_back_place(&work->layer_back, at, &work->cache[i], &model->block[i]);
            grads = own > grads ? own : grads;
        }
        used += grads; /* which the layers use one after the other */
    }
    return used;
}

/* Counted first, then asked for in one piece, then laid out; model_work_free when done. */
ModelWork model_work_new(const Model *model, size_t batch, size_t len, bool back)
{
    ModelWork work;
    memset(&work, 0, sizeof work);
    work.batch = batch;
    work.len = len;
    work.back = back;
    work.cache = NEW(LayerCache, model->config.num_hidden_layers);
    work.memory = NEW(float, model_work_layout(&work, NULL, model));
    model_work_layout(&work, work.memory, model);
    return work;
}

void model_work_free(ModelWork *work)
{
    free(work->memory);
    free(work->cache);
}

/* The layer's input in the residual stream, (tokens, d_model). Without a way back all layers write
   over the same one. */
static float *hidden_at(const ModelWork *work, const Model *model, size_t layer)
{
    return work->hidden +
           (work->back ? layer : 0) * work->batch * work->len * model->config.hidden_size;
}

/* What goes on from token to token: a BlockState for every layer, in one piece of memory. */
size_t model_state_floats(const MambaConfig *config, size_t batch)
{
    return config->num_hidden_layers * layer_state_floats(config, batch);
}

/* work->logits (batch, len, vocab) for tokens ids (batch, len), each below vocab. `state`
   (model_state_floats) is read and written, or NULL: the sequences begin with nothing. It has one
   part for each sequence: a row, or, if work->texts says so, a text. */
void model_forward(ModelWork *work, float *state, const int32_t *ids, const Model *model)
{
    const MambaConfig *config = &model->config;
    size_t tokens = work->batch * work->len, d_model = config->hidden_size;
    /* h = E[ids] */
    for (size_t t = 0; t < tokens; t++)
        memcpy(work->hidden + t * d_model, model->params.embeddings + (size_t)ids[t] * d_model,
               d_model * sizeof(float));
    /* h = h + mixer(norm(h)), layer after layer; each has a state of its own to go on from */
    size_t sequences = work->texts == NULL ? work->batch : work->texts->count;
    for (size_t layer = 0; layer < config->num_hidden_layers; layer++) {
        LayerCache *cache = &work->cache[work->kept > 1 ? layer : 0];
        BlockState own = {NULL, NULL};
        if (state != NULL)
            own = layer_state_place(state + layer * layer_state_floats(config, sequences), config,
                                    sequences);
        layer_pack(cache, work->texts, &model->block[layer]);
        layer_forward(hidden_at(work, model, layer + 1), cache, state == NULL ? NULL : &own,
                      hidden_at(work, model, layer), &model->block[layer]);
    }
    /* logits = norm_f(h) E^T: (tokens, d_model) times (d_model, vocab) */
    rms_norm_forward(work->final, work->scale, hidden_at(work, model, config->num_hidden_layers),
                     model->params.norm_f, config->layer_norm_epsilon, tokens, d_model);
    linear_forward_fast(work->logits, work->final, model->params.lm_head, NULL, tokens, d_model,
                        config->vocab_size);
}

/* ======================================= The loss ========================================== */
/* Softmax makes shares of the logits; the loss of a token is minus the logarithm of the share that
   the word got which really came. A model that knows nothing gives each of 302 words 1/302, and
   loses log 302 = 5.71 a token; one that is sure and right loses 0. */

/* -log softmax(logits)[target] of one token: how surprised the model is by what came.

   Exercise 5.6. The logarithm of a share, without overflow: a logit may be 1000. */
double token_loss(const float *logits, size_t vocab, size_t target)
{
    assert(target < vocab);
    double largest = (double)logits[0], loss = 0.0;
    for (size_t v = 1; v < vocab; v++)
        largest = fmax(largest, (double)logits[v]);
    //> EX 5.6 [2 pts] [15 min] the loss of one token
    //? softmax(logits)[target] is exp(logits[target]) over the sum of all exp(logits[v]).
    //? Its -log is log(sum) - logits[target]. But exp(1000) is no number: what can be taken away?
    //? With `largest` taken from every logit the sum is at least 1; give it back after the log.
    double sum = 0.0;
    for (size_t v = 0; v < vocab; v++)
        sum += exp((double)logits[v] - largest);
    loss = log(sum) + largest - (double)logits[target];
    //< EX 5.6
    return loss;
}

/* How many tokens have a target (target < 0: none). */
size_t targets_count(const int32_t *targets, size_t tokens)
{
    size_t count = 0;
    for (size_t t = 0; t < tokens; t++)
        count += targets[t] >= 0;
    return count;
}

/* The loss of all tokens with a target, added up, after model_forward. token_loss_fast is
   token_loss, LANES words at a time. */
static double loss_sum(const ModelWork *work, const int32_t *targets, const Model *model)
{
    size_t vocab = model->config.vocab_size;
    const ExpTable table = exp_table();
    double sum = 0.0;
    for (size_t t = 0; t < work->batch * work->len; t++)
        if (targets[t] >= 0)
            sum += token_loss_fast(work->logits + t * vocab, vocab, (size_t)targets[t], &table);
    return sum;
}

/* The training loss: the mean of it. */
double model_loss(const ModelWork *work, const int32_t *targets, const Model *model)
{
    size_t count = targets_count(targets, work->batch * work->len);
    return count == 0 ? 0.0 : loss_sum(work, targets, model) / (double)count;
}

/* ======================================= Backward ========================================== */
/* The chain rule, read from below. It begins with the gradient of the loss for the logits, which is
   softmax less 1 at the word that came: all that training ever hears. Then every line of
   model_forward has its counterpart, the last one first. */

/* The gradient of the loss for every parameter, into `grad` (written, not added to). The loss is a
   mean over `count` targets: those of this work, or of a larger batch that it is a part of. The
   logits of model_forward, which must have kept everything (work->back), are used up. */
void model_backward(ModelParams *grad, ModelWork *work, const int32_t *ids, const int32_t *targets,
                    size_t count, const Model *model)
{
    const MambaConfig *config = &model->config;
    size_t tokens = work->batch * work->len, d_model = config->hidden_size;
    size_t vocab = config->vocab_size, n_layer = config->num_hidden_layers;
    /* logits_grad (tokens, vocab) = (softmax - one_hot(target)) / count, in the logits' place; a
       token without a target has no share in the mean */
    const ExpTable table = exp_table();
    PARALLEL_FOR(schedule(static) if (worth_sharing_each(tokens * vocab)))
    for (size_t t = 0; t < tokens; t++) {
        if (targets[t] >= 0)
            token_loss_backward(work->logits + t * vocab, vocab, (size_t)targets[t],
                                1.0f / (float)count, &table);
        else
            zero(work->logits + t * vocab, vocab);
    }
    /* logits = final lm_head^T: a gradient for either factor */
    linear_backward_weight_fast(grad->lm_head, work->logits, work->final, tokens, d_model, vocab);
    linear_backward_input_fast(work->final, work->logits, model->params.lm_head, false, tokens,
                               d_model, vocab);
    /* final = norm_f(h): from here on `now` is the gradient of the residual stream */
    float *now = work->hidden_grad[0], *next = work->hidden_grad[1];
    zero(now, tokens * d_model);
    rms_norm_backward(now, grad->norm_f, work->final, work->scale, hidden_at(work, model, n_layer),
                      model->params.norm_f, tokens, d_model);
    /* the blocks: each adds what it did to the stream, and hands the stream's gradient down */
    for (size_t layer = n_layer; layer-- > 0;) {
        layer_backward(&grad->layer[layer], next, &work->layer_back, now, &work->cache[layer],
                       hidden_at(work, model, layer), &model->block[layer]);
        float *swap = now;
        now = next;
        next = swap;
    }
    /* h = E[ids]: a row hears from every place where its word stood. A tied E is the head besides,
       and what it heard there is in grad->embeddings already */
    if (!config->tie_word_embeddings)
        zero(grad->embeddings, vocab * d_model);
    for (size_t t = 0; t < tokens; t++)
        for (size_t i = 0; i < d_model; i++)
            grad->embeddings[(size_t)ids[t] * d_model + i] += now[t * d_model + i];
}

/* ======================================== AdamW ============================================ */
/* From a gradient to better parameters. Each parameter moves against the running mean of its
   gradient, divided by the root of the running mean of its square: how large the gradient is does
   not matter any more, only how steady it is. A step is about as long as the learning rate. */

typedef struct {
    double rate;         /* how far a parameter moves in a step */
    double beta1, beta2; /* how much of either running mean is kept */
    double epsilon;      /* against a division by 0 */
    double decay;        /* how much of a matrix is taken away in a step, times the rate */
} AdamW;

/* What AdamW remembers of every parameter: running means of its gradient and of its square. So
   training holds every parameter four times: itself, its gradient and these. */
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
    /* the means begin at 0: at first they are too small, by known factors */
    double correct1 = 1.0 - pow(settings->beta1, t), correct2 = 1.0 - pow(settings->beta2, t);
    PARALLEL_FOR(schedule(dynamic) if (worth_sharing_each(model_floats(config))))
    for (size_t k = 0; k < model_tensor_count(config); k++) {
        /* a tensor, its two means and its gradient: four pieces of memory with one layout */
        ModelTensor p = model_tensor(&model->params, config, k);
        size_t place = p.count > 0 ? (size_t)(p.values - model->params.memory) : 0;
        float *m = state->mean.memory + place, *v = state->square.memory + place;
        const float *g = grad->memory + place;
        float keep = (float)(1.0 - (p.decays ? settings->rate * settings->decay : 0.0));
        float b1 = (float)settings->beta1, b2 = (float)settings->beta2;
        float rate = (float)(settings->rate / correct1), root = (float)(1.0 / sqrt(correct2));
        float epsilon = (float)settings->epsilon;
        for (size_t i = 0; i < p.count; i++) {
            //> EX 5.7 [3 pts] [20 min] a step of AdamW
            //? m is the running mean of the gradient g: b1 of what it was, 1 - b1 of what came.
            //? v is that of its square, with b2.
            //? `rate` holds the learning rate over 1 - b1^t, `root` is 1 / sqrt(1 - b2^t).
            //? The parameter: its share `keep` of itself, less rate m / (root sqrt(v) + epsilon).
            m[i] = b1 * m[i] + (1.0f - b1) * g[i];
            v[i] = b2 * v[i] + (1.0f - b2) * g[i] * g[i];
            p.values[i] = keep * p.values[i] - rate * m[i] / (root * sqrtf(v[i]) + epsilon);
            //< EX 5.7
        }
    }
    model_refresh(model);
}

/* The learning rate of a step: up evenly for `warm` steps, for the means know little at first; then
   down along half a cosine to a tenth, for near the goal long steps only walk about it. */
double scheduled_rate(double most, uint64_t step, uint64_t warm, uint64_t steps)
{
    if (step < warm)
        return most * (double)(step + 1) / (double)warm;
    double part = steps > warm ? (double)(step - warm) / (double)(steps - warm) : 1.0;
    return most * (0.1 + 0.45 * (1.0 + cos(PI * fmin(1.0, part))));
}

/* Makes a gradient no longer than `most`, so that one odd batch cannot throw the model off its
   path; returns how long it was, over all parameters at once. Squares are added up in floats over
   a stretch, and stretches in double. */
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

/* =================================== A step of training ==================================== */
/* A source fills batches, a trainer learns from them: the same for every text and every task. A
   batch is cut into four groups of whole sequences. Each group is one thread's, forwards and back,
   so that no thread waits for another inside a step; then their gradients are added up in order.
   One processor has four groups too: the same sums, so the same bits for any number of threads. */

/* Fills ids (batch, len) and targets (batch, len), -1 where nothing is to be guessed. */
typedef struct {
    void (*fill)(int32_t *ids, int32_t *targets, size_t batch, size_t len, const void *from,
                 Random *random);
    const void *from;
} BatchSource;

/* Pieces of a text, each with the token that follows every token of it. A piece begins where a
   story does: one that began in its middle would ask for answers whose cue it never showed. */
void corpus_fill(int32_t *ids, int32_t *targets, size_t batch, size_t len, const void *from,
                 Random *random)
{
    const Corpus *corpus = (const Corpus *)from;
    for (size_t b = 0; b < batch; b++) { /* target t is token t + 1: every token is a question */
        size_t pick = (size_t)(random_uniform(random) * (double)corpus->n_start);
        const int32_t *piece = corpus->ids + corpus->start[pick];
        memcpy(ids + b * len, piece, len * sizeof *ids);
        memcpy(targets + b * len, piece + 1, len * sizeof *ids);
    }
}

/* How a model is trained. */
typedef struct {
    uint64_t batch, len;      /* pieces in a step, tokens in a piece */
    uint64_t steps, seed;     /* how many, and of the pieces that are drawn */
    double rate, decay, clip; /* the highest learning rate, AdamW's decay, a gradient's length */
    double average;           /* how much of the weights' average a step keeps; 0: no average */
} TrainSettings;

enum { CHECKS = 32, GROUPS = 4 };

/* A part of the batch, with all that one thread needs for it. */
typedef struct {
    size_t first;     /* its first token, counted through the batch */
    ModelWork work;   /* as many sequences as the group has */
    Packed texts;     /* where texts begin in them, if text_end asks for that */
    ModelParams grad; /* its part of the gradient, laid out as the model's own parameters */
    double loss;      /* the sum over its targets */
} Group;

/* A model being trained, with all that has to be kept from step to step. */
typedef struct {
    TrainSettings settings;
    Model *model;
    AdamState adam;         /* its step is the trainer's */
    ModelParams average;    /* the mean of the parameters over the last steps */
    Group group[GROUPS];    /* (n_group) fewer than GROUPS if the batch has fewer sequences */
    size_t n_group;         /* after a step group[0].grad is the gradient of the whole batch */
    Random random;          /* draws the pieces */
    int32_t *ids, *targets; /* (batch, len) */
    double *loss;           /* (steps) of every step so far */
    double *check, *at;     /* (CHECKS) the loss on what is not learnt from, after which step */
    size_t n_check;
    int32_t text_end; /* the token after which the next text begins with nothing; -1: none, a text
                         goes on from what was before it */
} Trainer;

/* Group g of n_group: even shares of the sequences, as even as they can be. */
static Group group_new(const Model *model, size_t g, size_t n_group, const TrainSettings *settings)
{
    size_t batch = (size_t)settings->batch, len = (size_t)settings->len;
    size_t from = batch * g / n_group, to = batch * (g + 1) / n_group;
    Group group = {from * len,
                   model_work_new(model, to - from, len, true),
                   {0, NEW(size_t, (to - from) * len + 1)},
                   model_params_new(&model->config),
                   0.0};
    return group;
}

/* Asks for all memory that training will ever want; trainer_free when done. */
Trainer trainer_new(Model *model, const TrainSettings *settings)
{
    Trainer trainer;
    size_t tokens = (size_t)(settings->batch * settings->len);
    assert(tokens > 0 && settings->steps > 0);
    memset(&trainer, 0, sizeof trainer);
    trainer.settings = *settings;
    trainer.model = model;
    trainer.n_group = smaller(GROUPS, (size_t)settings->batch);
    for (size_t g = 0; g < trainer.n_group; g++)
        trainer.group[g] = group_new(model, g, trainer.n_group, settings);
    trainer.adam.mean = model_params_new(&model->config);
    trainer.adam.square = model_params_new(&model->config);
    trainer.average = model_params_new(&model->config);
    memcpy(trainer.average.memory, model->params.memory,
           model_floats(&model->config) * sizeof(float));
    trainer.random = random_from_seed(settings->seed);
    trainer.ids = NEW(int32_t, tokens);
    trainer.targets = NEW(int32_t, tokens);
    trainer.loss = NEW(double, settings->steps);
    trainer.check = NEW(double, CHECKS);
    trainer.at = NEW(double, CHECKS);
    trainer.text_end = -1;
    return trainer;
}

void trainer_free(Trainer *trainer)
{
    for (size_t g = 0; g < trainer->n_group; g++) {
        model_params_free(&trainer->group[g].grad);
        model_work_free(&trainer->group[g].work);
        free(trainer->group[g].texts.start);
    }
    model_params_free(&trainer->adam.mean);
    model_params_free(&trainer->adam.square);
    model_params_free(&trainer->average);
    free(trainer->ids), free(trainer->targets);
    free(trainer->loss), free(trainer->check), free(trainer->at);
}

/* The mean of the weights over the last steps, each step's share 1 - k, and k of what was: an
   average forgets like a state, with A_bar = k. It begins with the first step's weights, and while
   it is young it is only a fifth of the way old, for what is older was still worse:
   average = k average + (1 - k) theta,  1 - k = max(1 - settings.average, 4 / (step + 3)). */
void average_step(ModelParams *average, const Model *model, uint64_t step, double most)
{
    double share = fmax(1.0 - most, 4.0 / ((double)step + 3.0)); /* step 1, 2, ... */
    float kept = (float)(1.0 - share), came = (float)share;
    size_t count = model_floats(&model->config);
    for (size_t i = 0; i < count; i++)
        average->memory[i] = kept * average->memory[i] + came * model->params.memory[i];
}

/* Gives the model the average of its weights, or, called again, its own back. */
void trainer_swap_average(Trainer *trainer)
{
    float *own = trainer->model->params.memory, *average = trainer->average.memory;
    size_t count = model_floats(&trainer->model->config);
    for (size_t i = 0; i < count; i++) {
        float weight = own[i];
        own[i] = average[i];
        average[i] = weight;
    }
    model_refresh(trainer->model);
}

/* NOLINTBEGIN(clang-analyzer-unix.Malloc): the analyser loses sight of what trainer_free frees */

/* The mean loss of the batch that stands in ids and targets; if the model is to learn, each group
   goes back as well, to its part of the gradient. */
static double batch_loss(Trainer *trainer, bool learn)
{
    const Model *model = trainer->model;
    size_t tokens = (size_t)(trainer->settings.batch * trainer->settings.len);
    size_t count = targets_count(trainer->targets, tokens);
    double sum = 0.0;
    PARALLEL_FOR(schedule(dynamic) if (trainer->n_group > 1))
    for (size_t g = 0; g < trainer->n_group; g++) {
        Group *group = &trainer->group[g];
        size_t first = group->first;
        const int32_t *ids = trainer->ids + first, *targets = trainer->targets + first;
        if (trainer->text_end >= 0) {
            group->work.texts = &group->texts;
            texts_find(&group->texts, ids, group->work.batch, group->work.len, trainer->text_end);
        }
        model_forward(&group->work, NULL, ids, model);
        group->loss = loss_sum(&group->work, targets, model);
        if (learn)
            model_backward(&group->grad, &group->work, ids, targets, count, model);
    }
    for (size_t g = 0; g < trainer->n_group; g++)
        sum += trainer->group[g].loss;
    return count == 0 ? 0.0 : sum / (double)count;
}

/* The gradient of the batch: to the first group's all others are added, in their order. Threads
   share the parameters, a stretch of them at a time, and every sum is one thread's. */
static void gradients_add(Trainer *trainer)
{
    enum { STRETCH_FLOATS = 4096 };
    size_t count = model_floats(&trainer->model->config);
    PARALLEL_FOR(schedule(static) if (worth_sharing_each(count)))
    for (size_t at = 0; at < count; at += STRETCH_FLOATS)
        for (size_t g = 1; g < trainer->n_group; g++) {
            float *to = trainer->group[0].grad.memory + at;
            const float *from = trainer->group[g].grad.memory + at;
            for (size_t i = 0; i < smaller(count - at, STRETCH_FLOATS); i++)
                to[i] += from[i];
        }
}

/* One step: a batch, its loss (returned), the gradient, no longer than `clip`, and AdamW at the
   rate that the schedule gives. Asks for no memory, and gives the same bits for any number of
   threads. */
double trainer_step(Trainer *trainer, const BatchSource *source)
{
    const TrainSettings *settings = &trainer->settings;
    Model *model = trainer->model;
    ModelParams *grad = &trainer->group[0].grad;
    uint64_t step = trainer->adam.step, warm = settings->steps / 20 + 1; /* a twentieth */
    AdamW adamw = {scheduled_rate(settings->rate, step, warm, settings->steps), 0.9, 0.95, 1e-8,
                   settings->decay};
    source->fill(trainer->ids, trainer->targets, settings->batch, settings->len, source->from,
                 &trainer->random);
    double loss = batch_loss(trainer, true);
    gradients_add(trainer);
    clip_gradient(grad, &model->config, settings->clip);
    adamw_step(model, &trainer->adam, grad, &adamw);
    average_step(&trainer->average, model, step + 1, settings->average);
    return trainer->loss[step] = loss;
}

/* NOLINTEND(clang-analyzer-unix.Malloc) */

/* The mean loss over some batches of another source, always the same ones; of the average. */
double trainer_check(Trainer *trainer, const BatchSource *source)
{
    enum { BATCHES = 4 };
    Random random = random_from_seed(1);
    double sum = 0.0;
    trainer_swap_average(trainer);
    for (int i = 0; i < BATCHES; i++) {
        source->fill(trainer->ids, trainer->targets, trainer->settings.batch, trainer->settings.len,
                     source->from, &random);
        sum += batch_loss(trainer, false);
    }
    trainer_swap_average(trainer);
    return sum / BATCHES;
}

/* ================================== The loop of training =================================== */
/* Steps, and now and then a look at what is not learnt from: a loss that falls on the one and not
   on the other is learning by heart. */

/* Below, with all files. */
bool trainer_save(const Trainer *trainer, const char *path, Error *error);

/* The mean of the last losses, which single batches make jump. */
static double recent_loss(const Trainer *trainer)
{
    size_t done = (size_t)trainer->adam.step, some = smaller(done, 20);
    double sum = 0.0;
    for (size_t i = 0; i < some; i++)
        sum += trainer->loss[done - 1 - i];
    return some > 0 ? sum / (double)some : 0.0;
}

/* A look at how it goes: the loss on what is not trained on, kept for the curve. */
static void trainer_look(Trainer *trainer, const BatchSource *check)
{
    size_t i = trainer->n_check++;
    trainer->at[i] = (double)trainer->adam.step;
    trainer->check[i] = trainer_check(trainer, check);
    printf("  %6" PRIu64 "  %9.3f  %9.3f\n", trainer->adam.step, recent_loss(trainer),
           trainer->check[i]);
    fflush(stdout);
}

/* Trains to the end from wherever the trainer stands, and leaves the model with the average of its
   weights. A checkpoint is written every 1/16 of the way, unless that file is NULL; a kill at any
   moment, and a loss that is no number, lose what came after the last one. */
bool train(Trainer *trainer, const BatchSource *source, const BatchSource *check,
           const char *checkpoint, Error *error)
{
    const TrainSettings *settings = &trainer->settings;
    uint64_t every = settings->steps / 16 + 1, first = trainer->adam.step;
    char label[64];
    double start = seconds_now();
    Progress progress = progress_start("training");
    while (trainer->adam.step < settings->steps) {
        trainer_step(trainer, source);
        uint64_t done = trainer->adam.step;
        double tokens = (double)((done - first) * settings->batch * settings->len);
        snprintf(label, sizeof label, "loss %.3f, %.0f tokens/s", recent_loss(trainer),
                 tokens / (seconds_now() - start));
        progress.what = label;
        progress_show(&progress, (double)done, (double)settings->steps);
        if (done % every != 0 && done != settings->steps)
            continue;
        progress_end(&progress);
        trainer_look(trainer, check);
        if (!losses_are_numbers(trainer->loss, done, trainer->check[trainer->n_check - 1],
                                checkpoint, error) ||
            (checkpoint != NULL && !trainer_save(trainer, checkpoint, error)))
            return false;
    }
    progress_end(&progress);
    trainer_swap_average(trainer);
    return true;
}

/* ====================================== Generation ========================================= */
/* Read the logits, draw a word, give it back as the next input. The one true loop of it all: what a
   layer says does not go back into it, but the word that was drawn does. */

/* A text being written: the model, its state, and the logits for the next token. The memory is the
   same for the millionth token as for the first. */
typedef struct {
    const Model *model;
    float *state;   /* (model_state_floats) all that is remembered */
    ModelWork work; /* one token at a time */
} Writer;

/* Begins with nothing: the state is 0. writer_free when done. */
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

/* The same for several, len > 0, all at once: chapter 4's scan goes through them and leaves the
   state that reading them one by one would have left. */
const float *writer_read_all(Writer *writer, const int32_t *tokens, size_t len)
{
    ModelWork all = model_work_new(writer->model, 1, len, false);
    size_t vocab = writer->model->config.vocab_size;
    model_forward(&all, writer->state, tokens, writer->model);
    memcpy(writer->work.logits, all.logits + (len - 1) * vocab, vocab * sizeof(float));
    model_work_free(&all);
    return writer->work.logits;
}

/* ---- which words may be drawn, as it is defined ---- */
/* The likeliest word each time goes round in circles; any word by its share is now and then a bad
   one. So the tail is cut off before the draw: top-k keeps the k likeliest (keep_top_k, in
   sampling.c), top-p as many as together have the chance p. */

/* Top-p: the least likely tokens get the weight 0, as many as together hold no more than 1 - p of
   all; but never the likeliest one.

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

/* What generation is asked for. */
typedef struct {
    const char *prompt;
    uint64_t most; /* tokens */
    uint64_t seed;
    Sampling sampling;
} Wish;

/* Goes on from the prompt until a token that ends a text, at most so far; each token is printed as
   soon as it is there. How fast it was, and what is carried along, goes to stderr. */
static bool generate(const Wish *wish, const Model *model, const Vocabulary *words, Error *error)
{
    size_t len = strlen(wish->prompt), unknown;
    uint64_t done = 0;
    int32_t *ids = NEW(int32_t, len + 1);
    size_t count = text_to_tokens(ids, &unknown, wish->prompt, len, words, false);
    Random random = random_from_seed(wish->seed);
    Writer writer = writer_new(model);
    Sampler sampler = sampler_new(model->config.vocab_size);
    if (count == 0) /* something must be read first: the end of a text before */
        ids[count++] = words->bytes ? (int32_t)'\n' : (int32_t)WORD_END;
    for (size_t i = 0; i < count; i++) {
        sampler_see(&sampler, (size_t)ids[i]);
        if (words->bytes || ids[i] != WORD_END)
            print_token(stdout, (size_t)ids[i], i == 0, words);
    }
    /* the prompt all at once, then word by word: draw, show, read what was drawn */
    const float *logits = writer_read_all(&writer, ids, count);
    double start = seconds_now();
    bool ok = logits_are_numbers(logits, model->config.vocab_size);
    for (; ok && done < wish->most; done++) {
        size_t token = sampler_draw(&sampler, logits, &wish->sampling, &random);
        if (!words->bytes && token == WORD_END)
            break;
        sampler_see(&sampler, token);
        print_token(stdout, token, false, words);
        fflush(stdout);
        logits = writer_read(&writer, (int32_t)token);
        ok = logits_are_numbers(logits, model->config.vocab_size);
    }
    if (!ok)
        fail(error,
             "after %" PRIu64 " tokens the logits are NaN or infinite: a number has left "
             "what a float can hold",
             count + done);
    putchar('\n');
    fflush(stdout);
    if (unknown > 0)
        fprintf(stderr, "note: %zu words of the prompt are none of the model's %zu\n", unknown,
                words->n_word);
    fprintf(stderr, "%" PRIu64 " tokens, %.0f tokens/s; carried from token to token: %zu bytes\n",
            done, (double)done / (seconds_now() - start),
            model_state_floats(&model->config, 1) * sizeof(float));
    sampler_free(&sampler);
    writer_free(&writer);
    free(ids);
    return ok;
}

/* ==================================== Kept in files ======================================== */
/* A model is its list of named arrays; a training run is that list four times (parameters, both
   means of AdamW, the average) with four arrays more. A run that is killed goes on from its last
   file and ends in the same bits as one that never stopped. */

/* Adds all of a model's parameters, or of what is laid out like them, to a list. */
static void list_params(SavedList *list, const char *prefix, const ModelParams *params,
                        const MambaConfig *config)
{
    for (size_t k = 0; k < model_tensor_count(config); k++) {
        ModelTensor p = model_tensor(params, config, k);
        saved_add(list, prefix, p.name, TENSOR_F32, p.values, p.rank, p.shape);
    }
}

/* The parameters alone, in Hugging Face's layout; every one must be there, with its shape. */
bool model_load(Model *model, const char *path, Error *error)
{
    SavedList list = {NULL, 0};
    list_params(&list, "", &model->params, &model->config);
    bool ok = saved_read(&list, list.count, NULL, path, error);
    free(list.tensor);
    model_refresh(model);
    return ok;
}

/* A model and its words, as a folder that opens in Transformers. */
bool model_save_folder(const char *folder, const Model *model, const Vocabulary *words,
                       Error *error)
{
    SavedList list = {NULL, 0};
    list_params(&list, "", &model->params, &model->config);
    bool ok = folder_save(folder, &model->config, words, &list, error);
    free(list.tensor);
    return ok;
}

bool model_open_folder(Model *model, Vocabulary *words, const char *folder, Error *error)
{
    MambaConfig config;
    if (!folder_open(&config, words, folder, error))
        return false;
    char *weights = path_in(folder, "model.safetensors");
    *model = model_new(&config);
    bool ok = model_load(model, weights, error);
    if (!ok) {
        model_free(model);
        vocabulary_free(words);
    }
    free(weights);
    return ok;
}

/* What a training run is: two runs with the same text of settings do the same. */
static void settings_text(char *text, size_t room, const Trainer *trainer)
{
    const MambaConfig *config = &trainer->model->config;
    const TrainSettings *s = &trainer->settings;
    snprintf(text, room,
             "--width %zu --layers %zu --steps %" PRIu64 " --batch %" PRIu64 " --length %" PRIu64
             " --seed %" PRIu64 " --rate %g --average %g%s%s, %zu tokens",
             config->hidden_size, config->num_hidden_layers, s->steps, s->batch, s->len, s->seed,
             s->rate, s->average, config->kind == MODEL_MAMBA2 ? " --mamba2" : "",
             trainer->text_end >= 0 ? " --reset" : "", config->vocab_size);
}

/* All that a run needs to go on as if it had never stopped, its numbers first. */
static SavedList list_training(uint64_t number[4], const Trainer *trainer)
{
    SavedList list = {NULL, 0};
    const MambaConfig *config = &trainer->model->config;
    size_t numbers = 4, steps = (size_t)trainer->settings.steps, checks = CHECKS;
    saved_add(&list, "training.", "numbers", TENSOR_I64, number, 1, &numbers);
    saved_add(&list, "training.", "loss", TENSOR_F64, trainer->loss, 1, &steps);
    saved_add(&list, "training.", "check", TENSOR_F64, trainer->check, 1, &checks);
    saved_add(&list, "training.", "at", TENSOR_F64, trainer->at, 1, &checks);
    list_params(&list, "", &trainer->model->params, config);
    list_params(&list, "mean.", &trainer->adam.mean, config);
    list_params(&list, "square.", &trainer->adam.square, config);
    list_params(&list, "average.", &trainer->average, config);
    return list;
}

bool trainer_save(const Trainer *trainer, const char *path, Error *error)
{
    uint64_t number[4] = {trainer->adam.step, trainer->random.state, trainer->random.increment,
                          trainer->n_check};
    char settings[256];
    SavedList list = list_training(number, trainer);
    settings_text(settings, sizeof settings, trainer);
    bool ok = saved_write(&list, settings, path, error);
    free(list.tensor);
    return ok;
}

/* Goes on from a file of trainer_save. One that belongs to another run is refused, and then nothing
   has changed. */
bool trainer_load(Trainer *trainer, const char *path, Error *error)
{
    uint64_t number[4] = {0};
    char settings[256];
    SavedList list = list_training(number, trainer);
    settings_text(settings, sizeof settings, trainer);
    bool ok = saved_read(&list, 1, settings, path, error);
    if (ok && (number[0] > trainer->settings.steps || number[3] > CHECKS))
        ok = fail(error, "%s: says it has taken %" PRIu64 " steps of %" PRIu64, path, number[0],
                  trainer->settings.steps);
    ok = ok && saved_read(&list, list.count, settings, path, error);
    if (ok) {
        trainer->adam.step = number[0];
        trainer->random.state = number[1];
        trainer->random.increment = number[2];
        trainer->n_check = (size_t)number[3];
        model_refresh(trainer->model);
    }
    free(list.tensor);
    return ok;
}

/* ======================================= Program =========================================== */

static const char default_prompt[] =
    "grandmother told a tale of leprechauns. the miller walked slowly past the old bridge. "
    "the tale ended with a guest giving a talk on optics. a cat slept on the warm wall. "
    "what is a rainbow?";

/* A training run from a model's sizes on. */
typedef struct {
    uint64_t width, layers;
    TrainSettings settings;
    bool time_invariant;    /* Delta, B and C the same for every token: chapter 3's system */
    bool mamba2;            /* layers of Mamba-2 */
    bool reset;             /* a text that shares a piece with others begins with nothing */
    const char *checkpoint; /* the file that is written on the way, or NULL */
    bool resume;            /* go on from there */
} TrainingRun;

/* The run that learns the stories, and made data/tiny-mamba: d_model 64, 2 layers; batch, length,
   steps, seed; rate, decay, clip, average. */
TrainingRun training_default(void)
{
    TrainSettings settings = {8, 320, 6000, 1, 4e-3, 0.1, 1.0, 0.998};
    TrainingRun run = {64, 2, settings, false, false, false, NULL, false};
    return run;
}

/* The starting point of a run; model_free when done. Mamba-2's heads have 16 channels, where so
   many divide d_inner = 2 width, and 64 states. */
Model model_to_train(const TrainingRun *run, size_t vocab)
{
    size_t width = (size_t)run->width;
    MambaConfig config = run->mamba2 ? config_default_heads(width, width % 8 == 0 ? 16 : 2, 64)
                                     : config_default(width);
    Random random = random_from_seed(run->settings.seed);
    config.num_hidden_layers = (size_t)run->layers;
    config.vocab_size = vocab;
    config.fixed = run->time_invariant ? FIXED_ALL : 0;
    Model model = model_new(&config);
    model_init(&model, &random);
    return model;
}

/* What a run learns from, and what it is looked at with on the way. */
typedef struct {
    const Vocabulary *words;
    BatchSource learn, check;
    const char *from, *looked_at; /* both in words, for those who watch */
} Sources;

/* The whole run, with what it prints: sizes, losses, the curve. */
bool model_train(Model *model, const TrainingRun *run, const Sources *sources, const Show *show,
                 Error *error)
{
    Trainer trainer = trainer_new(model, &run->settings);
    if (run->reset)
        trainer.text_end = sources->words->bytes ? (int32_t)'\n' : (int32_t)WORD_END;
    printf("\nA %s model of %zu parameters learns from %s, %zu different words\n\n",
           run->time_invariant ? "time-invariant"
           : run->mamba2       ? "Mamba-2"
                               : "selective",
           model_floats(&model->config), sources->from, sources->words->n_word);
    RunLock lock;
    bool ok = run_lock(&lock, run->checkpoint, error) && out_possible(run->checkpoint, error) &&
              (!run->resume || trainer_load(&trainer, run->checkpoint, error));
    double start = seconds_now();
    if (ok) {
        printf("    step       loss  %s\n", sources->looked_at);
        ok = train(&trainer, &sources->learn, &sources->check, run->checkpoint, error);
    }
    if (ok) {
        fprintf(stderr, "%.1f s\n", seconds_now() - start);
        Curve curve = {trainer.loss,  (size_t)trainer.adam.step, trainer.at,
                       trainer.check, trainer.n_check,           sources->looked_at};
        ok = curve_show(&curve, show, error);
        putchar('\n');
    }
    trainer_free(&trainer), run_unlock(&lock);
    return ok;
}

typedef struct {
    bool train, bytes, ascii;
    const char *model, *corpus, *out, *svg;
    uint64_t seed, top_k;
    Wish wish;
    TrainingRun run;
} ModelOptions;

static bool run_generate(const ModelOptions *options, Error *error)
{
    Model model;
    Vocabulary words;
    if (!model_open_folder(&model, &words, options->model, error))
        return false;
    bool ok = generate(&options->wish, &model, &words, error);
    model_free(&model);
    vocabulary_free(&words);
    return ok;
}

static bool train_and_save(const ModelOptions *options, const Sources *sources, const Show *show,
                           Error *error)
{
    Model model = model_to_train(&options->run, sources->words->n_word);
    bool ok = folder_possible(options->out, error) &&
              model_train(&model, &options->run, sources, show, error) &&
              model_save_folder(options->out, &model, sources->words, error);
    if (ok)
        printf("The model is in %s\n", options->out);
    model_free(&model);
    return ok;
}

/* Learns the stories, each told once; looked at with answers that are never told. */
static bool run_train_stories(const ModelOptions *options, const Show *show, Error *error)
{
    Vocabulary words = rainbow_words();
    Storyteller teller = {&words, &story_to_learn}, asker = {&words, &story_held_back};
    Sources sources = {&words,
                       {rainbow_fill, &teller},
                       {rainbow_fill, &asker},
                       "stories told afresh",
                       "answers held back"};
    bool ok = train_and_save(options, &sources, show, error);
    vocabulary_free(&words);
    return ok;
}

/* Learns nine tenths of a file; looked at with its last tenth. */
static bool run_train_file(const ModelOptions *options, const Show *show, Error *error)
{
    CorpusFile file;
    char from[64];
    if (!corpus_file_open(&file, options->corpus, options->bytes, (size_t)options->run.settings.len,
                          error))
        return false;
    snprintf(from, sizeof from, "%zu tokens", file.learn.count);
    Sources sources = {
        &file.words, {corpus_fill, &file.learn}, {corpus_fill, &file.check}, from, "other text"};
    bool ok = train_and_save(options, &sources, show, error);
    corpus_file_close(&file);
    return ok;
}

int language_model_main(int argc, char **argv)
{
    ModelOptions o;
    memset(&o, 0, sizeof o);
    o.model = "data/tiny-mamba";
    o.out = "build/rainbow-mamba";
    o.seed = 1;
    o.wish.prompt = default_prompt;
    o.wish.most = 40;
    o.wish.sampling.temperature = 0.7;
    o.wish.sampling.top_p = 0.95;
    o.wish.sampling.repetition_penalty = 1.0;
    o.run = training_default();
    o.run.checkpoint = "build/training.safetensors";
    TrainSettings *settings = &o.run.settings;
    const Option table[] = {
        {"prompt", "TEXT", OPTION_TEXT, 0, 0, &o.wish.prompt, "-",
         "where to begin (default: a rainbow story that turns)"},
        {"n", "N", OPTION_WHOLE, 0, 1e9, &o.wish.most, "-", "at most so many tokens (default 40)"},
        {"temperature", "T", OPTION_NUMBER, 0, 100, &o.wish.sampling.temperature, "-",
         "0 is the likeliest each time, 1 as learnt (default 0.7)"},
        {"top-k", "K", OPTION_WHOLE, 0, 1e9, &o.top_k, "-",
         "only the K likeliest; 0: all (default 0)"},
        {"top-p", "P", OPTION_NUMBER, 0, 1, &o.wish.sampling.top_p, "-",
         "only the likeliest that make up P (default 0.95)"},
        {"repetition-penalty", "R", OPTION_NUMBER, 0.01, 100, &o.wish.sampling.repetition_penalty,
         "-", "above 1: what was said is less likely (default 1)"},
        {"model", "DIR", OPTION_TEXT, 0, 0, &o.model, "-",
         "a folder as Hugging Face has it (default data/tiny-mamba)"},
        {"seed", "S", OPTION_WHOLE, 0, WHOLE_MOST, &o.seed, "",
         "of the draws, or of the training (default 1)"},
        {"train", NULL, OPTION_SWITCH, 0, 0, &o.train, "mode",
         "learn from stories of the rainbow, and write the model"},
        {"corpus", "FILE", OPTION_TEXT, 0, 0, &o.corpus, "train",
         "learn from this text instead (- is stdin), in words, or with --bytes"},
        {"bytes", NULL, OPTION_SWITCH, 0, 0, &o.bytes, "corpus", "a token is a byte"},
        {"mamba2", NULL, OPTION_SWITCH, 0, 0, &o.run.mamba2, "train", "with layers of Mamba-2"},
        {"reset", NULL, OPTION_SWITCH, 0, 0, &o.run.reset, "train !mamba2",
         "where texts share a piece, each begins with an empty state"},
        {"out", "DIR", OPTION_TEXT, 0, 0, &o.out, "train",
         "where the model goes (default build/rainbow-mamba)"},
        {"checkpoint", "FILE", OPTION_TEXT, 0, 0, &o.run.checkpoint, "train",
         "where a run is kept on its way (default build/training.safetensors)"},
        {"resume", NULL, OPTION_SWITCH, 0, 0, &o.run.resume, "train",
         "go on from there, bit for bit"},
        {"width", "D", OPTION_WHOLE, 1, 4096, &o.run.width, "train", "d_model (default 64)"},
        {"layers", "N", OPTION_WHOLE, 1, 256, &o.run.layers, "train", "blocks (default 2)"},
        {"batch", "N", OPTION_WHOLE, 1, 4096, &settings->batch, "train",
         "pieces in a step (default 8)"},
        {"length", "N", OPTION_WHOLE, 1, 65536, &settings->len, "train",
         "tokens in a piece (default 320)"},
        {"steps", "N", OPTION_WHOLE, 1, 1e8, &settings->steps, "train",
         "steps of AdamW (default 6000)"},
        {"rate", "R", OPTION_NUMBER, 1e-9, 1, &settings->rate, "train",
         "the highest learning rate (default 0.004)"},
        {"average", "K", OPTION_NUMBER, 0, 0.999999, &settings->average, "train",
         "what a step keeps of the weights' average; 0: none (default 0.998)"},
        {"svg", "FILE", OPTION_OUT, 0, 0, &o.svg, "train", "write the curve of the losses as SVG"},
        {"ascii", NULL, OPTION_SWITCH, 0, 0, &o.ascii, "train", "draw it without Unicode"},
    };
    const Program program = {"ch05_language_model",
                             "A Mamba language model (chapter 5a): it goes on from a "
                             "prompt, or, with --train, learns to.",
                             table, sizeof table / sizeof *table};
    int status;
    if (!program_begin(&status, &program, argc, argv))
        return status;
    o.wish.seed = settings->seed = o.seed, o.wish.sampling.top_k = (size_t)o.top_k;
    Error error;
    Show show = {look_at_terminal(o.ascii), o.svg, o.seed};
    bool ok = !o.train   ? run_generate(&o, &error)
              : o.corpus ? run_train_file(&o, &show, &error)
                         : run_train_stories(&o, &show, &error);
    return program_end(ok, &error);
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return language_model_main(argc, argv);
}
#endif

#endif /* CH05_LANGUAGE_MODEL */
