/* Chapter 5b. A pretrained Mamba: from a folder of weights to words

   QUESTION   What does it take to run a model as others have published it, and how fast can it be?
   NEW        Weights used where they lie in the mapped file, or copied in 8 or 4 bits; a step that
              reads each once, by all threads; a memory to save. Next door: a byte-level tokenizer.
   NOT        Training, and no mathematics: the model is that of language_model.c.
   EQUATION   seconds a token >= bytes of weights / bytes a second that memory delivers
   LETTERS    C            shape                      Hugging Face
              ids          (tokens)                   input_ids
              conv         (d_conv - 1, d_inner)      conv_states, without their oldest
              x            (d_inner, d_state)         ssm_states; here in lanes: see token_step.c
              logits       (vocab)                    logits
   BESIDE IT  pretrained_model.c (weights and memory)   model_folder.c (config.json, shards)
              tokenizer.c (texts and ids)   tokenizer_json.c   unicode.c   text_stream.c
              quantized.c (matrix times vector)
              token_step.c (convolution and scan of a token)   conversation_files.c
   BUILD      cc -O2 ch05_mamba_block/pretrained.c -o pretrained -lm && ./pretrained DIR "A prompt"
   TIME       75 minutes to read, 25 to do the exercises
   SOURCES    S. Black et al., GPT-NeoX-20B, arXiv 2204.06745 (the tokenizer of these models)
              Hugging Face's transformers (names of the files and of all that is in them) */

#ifndef CH05_PRETRAINED
#define CH05_PRETRAINED

#include "language_model.c"
#include "pretrained_charts.c"
#include "pretrained_model.c"
#include <signal.h>

/* ====================================== One token ========================================== */
/* A step reads every weight once, for one multiplication and one addition. A processor does dozens
   of those while memory delivers one number, so a step is a walk through memory, and fewer bytes
   are what makes it faster, not fewer operations. That is why the weights stay in the 16 bits in
   which they were published, and why --int8 and --int4 have them in 8 and 4.

   All threads walk side by side, each with its own rows and channels, and wait for each other four
   times a layer: for u before x_proj, which wants all channels; for B, C and dt before dt_proj; for
   y before out_proj; and for h before the next layer. */

/* Where the time of a step goes. */
typedef enum { T_IN, T_CONV, T_X, T_DT, T_SCAN, T_OUT, T_HEAD, T_SAMPLE, T_COUNT } StepTime;

static const char *const step_time_name[T_COUNT] = {"in_proj", "convolution", "x_proj", "dt_proj",
                                                    "scan",    "out_proj",    "head",   "sampling"};

/* Sizes that were found by measuring. */
enum {
    PROMPT_CHUNK = 256,    /* tokens of a prompt that go through a layer together */
    PROMPT_LEAST = 6,      /* a shorter prompt is stepped through, token by token */
    HEAD_ROWS = 2048,      /* rows of the head that are floats at one time */
    LOGIT_TOKENS = 32,     /* tokens whose logits are there at one time */
    ALONE_BYTES = 4 << 20, /* a step that reads less is over before threads have met */
};

/* A model at work: workspace for steps and for prompts, asked for once. */
typedef struct {
    const Pretrained *model;
    size_t threads;
    /* one token */
    float *memory; /* of what follows */
    float *hidden; /* (d_model) the residual: what the layers add to */
    float *in;     /* (rows of in_proj) u and z as in_proj gives them; Mamba-2: z, uBC, dt */
    float *u;      /* (d_inner) u after convolution and silu; Mamba-2: (width) u, B, C */
    float *x_dbl;  /* (dt_rank + 2 d_state) dt, B and C as x_proj gives them */
    float *dt;     /* (d_inner) Delta before its bias and softplus */
    float *gated;  /* (d_inner) y silu(z) */
    float *mixed;  /* (d_model) what out_proj gives */
    float *logits; /* (vocab) */
    float *own; /* (threads, activation_floats(widest)) each thread's vector, ready for products */
    size_t widest; /* the longest of them */
    Meeting meeting;
    Pace pace;
    double seconds[T_COUNT], mark; /* added up if `timed` */
    bool timed;
    /* many tokens at once */
    size_t room; /* tokens that there is space for; 0 before the first prompt */
    LayerCache cache;
    float *cache_memory;
    float *rows, *final; /* (room, d_model) the residuals; after the last norm */
    float *scale;        /* (room) of the norm */
    float *matrices;     /* a layer's matrices, or HEAD_ROWS of the head, as floats */
    float *x_turned;     /* (d_inner, d_state) a layer's states in rows */
    Focus *focus;        /* if not NULL, filled with each token's mean Delta */
} Runner;

/* Steps use so many threads from now on; each has a vector of its own to make ready for products,
   because the kinds of weights want it in different forms: see activation_set. */
static void runner_threads(Runner *run, size_t threads)
{
    free(run->own);
    run->own = NEW(float, threads *activation_floats(run->widest));
    run->threads = threads;
    memset(&run->pace, 0, sizeof run->pace);
}

/* A model at work; runner_free when done. Two passes over one list of vectors: the first counts,
   the second hands out. */
Runner runner_new(const Pretrained *model)
{
    const MambaConfig *config = &model->config;
    size_t d_inner = config->intermediate_size, used = 0;
    size_t narrow = config->time_step_rank + 2 * config->state_size;
    size_t widest = config->hidden_size > d_inner ? config->hidden_size : d_inner;
    Runner run;
    memset(&run, 0, sizeof run);
    run.model = model;
    run.widest = on_a_vector(widest > narrow ? widest : narrow);
    runner_threads(&run, pretrained_step_bytes(model) < ALONE_BYTES ? 1 : (size_t)threads_most());
    for (int pass = 0; pass < 2; pass++, used = 0) {
        run.hidden = take(run.memory, &used, config->hidden_size);
        run.in = take(run.memory, &used, model->layer[0].weight[W_IN].rows);
        run.u = take(run.memory, &used, config_conv_width(config));
        run.x_dbl = take(run.memory, &used, narrow);
        run.dt = take(run.memory, &used, d_inner);
        run.gated = take(run.memory, &used, d_inner);
        run.mixed = take(run.memory, &used, config->hidden_size);
        run.logits = take(run.memory, &used, config->vocab_size);
        if (pass == 0)
            run.memory = NEW(float, used);
    }
    return run;
}

void runner_free(Runner *run)
{
    free(run->memory), free(run->own), free(run->cache_memory), free(run->rows);
    free(run->final), free(run->scale), free(run->matrices), free(run->x_turned);
}

/* The time since the last mark went into `what`. Thread 0 speaks for all: they wait for each other
   anyway. */
static void step_time(Runner *run, StepTime what, size_t thread)
{
    if (!run->timed || thread > 0)
        return;
    double now = seconds_now();
    run->seconds[what] += now - run->mark;
    run->mark = now;
}

/* Falcon-Mamba's dt, B and C, each normed by itself: out (dt_rank + 2 d_state) from x_dbl. Each
   thread does all of it, into a vector of its own, for that is sooner done than waited for. */
static void norm_parts(float *out, const float *x_dbl, const MambaConfig *config)
{
    size_t dt_rank = config->time_step_rank, d_state = config->state_size;
    double epsilon = config->mixer_rms_eps;
    norm_token(out, x_dbl, NULL, epsilon, dt_rank);
    norm_token(out + dt_rank, x_dbl + dt_rank, NULL, epsilon, d_state);
    norm_token(out + dt_rank + d_state, x_dbl + dt_rank + d_state, NULL, epsilon, d_state);
}

/* h = h + out_proj(y), y (d_inner) in x->value: each thread has rows of d_model, and each wants all
   of y. Then all wait for all of h. */
static void step_out(Runner *run, const PretrainedLayer *layer, Activation *x, size_t thread,
                     size_t threads)
{
    size_t d_model = run->model->config.hidden_size;
    size_t first = share_start(d_model, thread, threads);
    size_t end = share_start(d_model, thread + 1, threads);
    const float *bias = layer->block.params.tensor[OUT_PROJ_BIAS];
    activation_set(x, &layer->weight[W_OUT]);
    weight_product(run->mixed, &layer->weight[W_OUT], x, first, end);
    for (size_t i = first; i < end; i++)
        run->hidden[i] += run->mixed[i] + (bias == NULL ? 0.0f : bias[i]);
    threads_meet(&run->meeting, threads);
    step_time(run, T_OUT, thread);
}

/* One thread's part of a layer: chapter 5's block for one token.

       u, z = in_proj(norm(h)).chunk(2)        (d_inner) each
       u = silu(conv1d(u))                     (d_inner)
       dt, B, C = split(x_proj(u))             (dt_rank), (d_state), (d_state)
       Delta = softplus(dt_proj(dt) + bias)    (d_inner)
       x = exp(Delta A) x + Delta B u          (d_inner, d_state)
       h = h + out_proj((C x + D u) silu(z))   (d_model)

   A thread's share of channels is the same in in_proj, convolution, dt_proj and scan, so it walks
   on with what it has just made; it waits only where all of a vector is wanted. `x` is the thread's
   own vector, made ready for a product: whole numbers for weights in 8 bits, for instance. */
static void step_layer(Runner *run, Memory *memory, size_t which, Activation *x, size_t thread,
                       size_t threads)
{
    const PretrainedLayer *layer = &run->model->layer[which];
    const MambaConfig *config = &run->model->config;
    const Weight *W = layer->weight;
    float *const *p = layer->block.params.tensor, *normed = x->value;
    size_t d_model = config->hidden_size, d_inner = config->intermediate_size;
    size_t d_state = config->state_size, dt_rank = config->time_step_rank;
    size_t first = share_start(d_inner, thread, threads);
    size_t end = share_start(d_inner, thread + 1, threads);

    /* u, z = in_proj(norm(h)).chunk(2): each thread computes the whole norm, which is quick */
    norm_token(normed, run->hidden, p[NORM_WEIGHT], config->layer_norm_epsilon, d_model);
    activation_set(x, &W[W_IN]);
    weight_product(run->in, &W[W_IN], x, first, end);
    weight_product(run->in, &W[W_IN], x, d_inner + first, d_inner + end);
    for (size_t d = first; d < end && p[IN_PROJ_BIAS] != NULL; d++) {
        run->in[d] += p[IN_PROJ_BIAS][d];
        run->in[d_inner + d] += p[IN_PROJ_BIAS][d_inner + d];
    }
    step_time(run, T_IN, thread);
    /* u = silu(conv1d(u)): the thread's own channels, whose last d_conv - 1 inputs the memory
       holds; then all wait for all of u */
    step_conv(run->u, memory->conv + which * conv_floats(config), run->in, layer->conv,
              p[CONV1D_BIAS], d_inner, config->conv_kernel, first, end);
    threads_meet(&run->meeting, threads);
    step_time(run, T_CONV, thread);
    /* dt, B, C = split(x_proj(u)): few rows (80 in mamba-130m), each over all of u. This is the
       selection: B, C and Delta are made from the token itself */
    x->value = run->u;
    activation_set(x, &W[W_X]);
    weight_product(run->x_dbl, &W[W_X], x, share_start(dt_rank + 2 * d_state, thread, threads),
                   share_start(dt_rank + 2 * d_state, thread + 1, threads));
    threads_meet(&run->meeting, threads);
    step_time(run, T_X, thread);
    /* Delta = softplus(dt_proj(dt)); y = scan(u, Delta, A, B, C, D) silu(z): chapter 4's
       recurrence, one step of it, back on the thread's own channels */
    x->value = config->kind == MODEL_FALCON_MAMBA ? normed : run->x_dbl;
    if (config->kind == MODEL_FALCON_MAMBA)
        norm_parts(normed, run->x_dbl, config);
    activation_set(x, &W[W_DT]);
    weight_product(run->dt, &W[W_DT], x, first, end);
    step_time(run, T_DT, thread);
    const TokenScan scan = {run->u,
                            run->dt,
                            run->in + d_inner,
                            x->value + dt_rank,
                            x->value + dt_rank + d_state,
                            layer->A2,
                            p[DT_PROJ_BIAS],
                            p[D_SKIP],
                            d_state};
    step_scan(run->gated, memory->x + which * x_floats(config), &scan, first, end);
    threads_meet(&run->meeting, threads);
    step_time(run, T_SCAN, thread);
    /* h = h + out_proj(y) */
    x->value = run->gated;
    step_out(run, layer, x, thread, threads);
    x->value = normed;
}

/* One thread's part of a layer of Mamba-2.

       z, uBC, dt = in_proj(norm(h)).split()          (d_inner), (width), (n_head)
       u, B, C = silu(conv1d(uBC)).split()            (d_inner), (n_group d_state) twice
       Delta = clamp(softplus(dt + bias))             (n_head)
       x = exp(Delta A) x + Delta u B                 (n_head, d_head, d_state)
       h = h + out_proj(norm((x C + D u) silu(z)))    (d_model)

   There is one meeting less, for B, C and dt do not wait for u: threads meet before the scan,
   before the norm, which wants all channels of a group, and before the next layer. */
static void step_layer_heads(Runner *run, Memory *memory, size_t which, Activation *x,
                             size_t thread, size_t threads)
{
    const PretrainedLayer *layer = &run->model->layer[which];
    const MambaConfig *config = &run->model->config;
    float *const *p = layer->block.params.tensor;
    size_t d_inner = config->intermediate_size, width = config_conv_width(config);
    size_t shared = config->n_groups * config->state_size, group = d_inner / config->n_groups;
    const size_t part[3] = {d_inner, width, config->num_heads};

    norm_token(x->value, run->hidden, p[NORM_WEIGHT], config->layer_norm_epsilon,
               config->hidden_size);
    activation_set(x, &layer->weight[W_IN]);
    for (size_t k = 0, at = 0; k < 3; at += part[k++]) { /* the thread's share of each part */
        size_t first = at + share_start(part[k], thread, threads);
        size_t end = at + share_start(part[k], thread + 1, threads);
        weight_product(run->in, &layer->weight[W_IN], x, first, end);
        for (size_t i = first; i < end && p[IN_PROJ_BIAS] != NULL; i++)
            run->in[i] += p[IN_PROJ_BIAS][i];
    }
    step_time(run, T_IN, thread);
    step_conv(run->u, memory->conv + which * conv_floats(config), run->in + d_inner, layer->conv,
              p[CONV1D_BIAS], width, config->conv_kernel, share_start(width, thread, threads),
              share_start(width, thread + 1, threads));
    threads_meet(&run->meeting, threads);
    step_time(run, T_CONV, thread);
    const TokenHeads token = {run->u,
                              run->in,
                              run->in + d_inner + width,
                              run->u + d_inner,
                              run->u + d_inner + shared,
                              layer->block.A,
                              p[DT_BIAS],
                              p[D_SKIP],
                              config->time_step_limit,
                              config->num_heads,
                              config->head_dim,
                              config->n_groups,
                              config->state_size};
    step_heads(run->gated, memory->x + which * x_floats(config), &token,
               config->num_heads * thread / threads, config->num_heads * (thread + 1) / threads);
    threads_meet(&run->meeting, threads);
    step_time(run, T_SCAN, thread);
    for (size_t d = 0; d < d_inner; d += group) /* each thread for itself */
        norm_token(x->value + d, run->gated + d, p[GATED_NORM_WEIGHT] + d,
                   config->layer_norm_epsilon, group);
    step_out(run, layer, x, thread, threads);
}

/* One thread's part of the head: logits (vocab) = head (vocab, d_model) norm_f(h). The largest
   matrix of a small model: mamba-130m reads 39 of its 129 million numbers here. */
static void step_head(Runner *run, Activation *x, size_t thread, size_t threads)
{
    size_t vocab = run->model->config.vocab_size;
    activation_set(x, &run->model->head);
    weight_product(run->logits, &run->model->head, x, share_start(vocab, thread, threads),
                   share_start(vocab, thread + 1, threads));
    threads_meet(&run->meeting, threads);
    step_time(run, T_HEAD, thread);
}

/* One thread's part of a step: all layers, the last norm, and the head if logits are wanted. With
   id NO_TOKEN of the head alone, for the last token in the memory. */
static void step_part(Runner *run, Memory *memory, uint32_t id, bool logits, size_t thread,
                      size_t threads)
{
    const MambaConfig *config = &run->model->config;
    Activation x =
        activation_place(run->own + thread * activation_floats(run->widest), run->widest);
    if (id != NO_TOKEN) { /* run->hidden holds its embedding */
        for (size_t i = 0; i < config->num_hidden_layers; i++)
            if (layer_has_heads(config))
                step_layer_heads(run, memory, i, &x, thread, threads);
            else
                step_layer(run, memory, i, &x, thread, threads);
        norm_token(x.value, run->hidden, run->model->norm_f, config->layer_norm_epsilon,
                   config->hidden_size);
        if (thread == 0)
            memcpy(memory->final, x.value, config->hidden_size * sizeof(float));
    } else
        memcpy(x.value, memory->final, config->hidden_size * sizeof(float));
    if (logits)
        step_head(run, &x, thread, threads);
}

/* One parallel region for the whole step: to start one for each product would cost more than the
   smaller products take. A single thread needs none; and one goes alone where all are slower. */
static void step_all(Runner *run, Memory *memory, uint32_t id, bool logits)
{
    run->mark = run->timed ? seconds_now() : 0.0;
#ifdef _OPENMP
    size_t threads = pace_threads(&run->pace, run->threads);
    if (run->threads > 1) {
        double start = seconds_now();
        PARALLEL_PRAGMA(omp parallel num_threads((int)threads) if (threads > 1))
        step_part(run, memory, id, logits, (size_t)omp_get_thread_num(),
                  (size_t)omp_get_num_threads());
        if (id != NO_TOKEN && logits) /* other steps are shorter */
            pace_took(&run->pace, seconds_now() - start);
        return;
    }
#endif
    step_part(run, memory, id, logits, 0, 1);
}

/* One token (below vocab) goes into the memory: h = embeddings[id], then layer after layer. With
   `logits`, run->logits says what may follow. The same bits for any number of threads. */
void runner_step(Runner *run, Memory *memory, uint32_t id, bool logits)
{
    weight_rows_to_float(run->hidden, &run->model->embeddings, id, 1);
    step_all(run, memory, id, logits);
    memory->count++;
}

/* run->logits of the last token in a memory. */
void runner_logits(Runner *run, Memory *memory)
{
    step_all(run, memory, NO_TOKEN, true);
}

/* Says why logits are no numbers after so many tokens: a weight that is none is named. */
static bool fail_no_numbers(const Pretrained *model, size_t tokens, Error *error)
{
    return shards_are_finite(&model->folder.shards, error) &&
           fail(
               error,
               "after %zu token%s the logits are NaN or infinite, though no weight is: the numbers "
               "between have left what a float can hold",
               tokens, tokens == 1 ? "" : "s");
}

/* False, and a sentence, where run->logits are no numbers. */
static bool runner_check(const Runner *run, const Memory *memory, Error *error)
{
    return logits_are_numbers(run->logits, run->model->config.vocab_size) ||
           fail_no_numbers(run->model, memory->count, error);
}

/* ===================================== Many tokens ========================================= */
/* A prompt is another matter. Its tokens are known beforehand, so they go through each layer
   together, by chapter 5's own block or Mamba-2's, and a weight that was read is used for all.
   This is no walk through memory any more, but arithmetic: each number that was read is multiplied
   once for each of up to 256 tokens. The block wants floats; they are made of the matrices, one
   layer at a time. */

/* Floats of a layer's matrices, or of HEAD_ROWS rows of the head if those are more. */
static size_t matrices_floats(const Pretrained *model)
{
    size_t most = HEAD_ROWS * model->config.hidden_size, sum = 0;
    for (int w = 0; w < W_COUNT; w++)
        sum += on_a_vector(model->layer[0].weight[w].rows * model->layer[0].weight[w].cols);
    return sum > most ? sum : most;
}

/* Workspace for up to `tokens` tokens at once: who has no long prompt needs none. */
static void runner_room(Runner *run, size_t tokens)
{
    const Pretrained *model = run->model;
    const MambaConfig *config = &model->config;
    const MambaBlock *block = &model->layer[0].block;
    if (run->room >= tokens)
        return;
    free(run->cache_memory), free(run->rows), free(run->final), free(run->scale);
    run->room = tokens;
    run->cache_memory = NEW(float, layer_cache_place(&run->cache, NULL, block, 1, tokens, false));
    run->rows = NEW(float, tokens * config->hidden_size);
    run->final = NEW(float, tokens * config->hidden_size);
    run->scale = NEW(float, tokens);
    if (run->matrices == NULL) {
        run->matrices = NEW(float, matrices_floats(model));
        run->x_turned = NEW(float, x_floats(config));
    }
}

/* The layer's block with all its matrices as floats; those that lie in F32 are that already. */
static MambaBlock layer_as_floats(Runner *run, const PretrainedLayer *layer)
{
    MambaBlock block = layer->block;
    size_t used = 0;
    for (int w = 0; w < W_COUNT; w++) {
        const Weight *weight = &layer->weight[w];
        if (weight->type == TENSOR_F32 || weight->rows == 0)
            continue;
        weight_rows_to_float(run->matrices + used, weight, 0, weight->rows);
        block.params.tensor[weight_tensor[w]] = run->matrices + used;
        used += on_a_vector(weight->rows * weight->cols);
    }
    return block;
}

/* Up to PROMPT_CHUNK tokens at once; run->final (len, d_model) is what came out for each. A longer
   prompt goes through in chunks, and the memory carries it from one to the next, as it does from
   token to token. `start`: how many were before them, for run->focus. */
static void runner_chunk(Runner *run, Memory *memory, const uint32_t *ids, size_t len, size_t start)
{
    const Pretrained *model = run->model;
    const MambaConfig *config = &model->config;
    size_t d_model = config->hidden_size;
    runner_room(run, len);
    layer_cache_place(&run->cache, run->cache_memory, &model->layer[0].block, 1, len, false);
    /* h = embeddings[ids] (len, d_model) */
    for (size_t t = 0; t < len; t++)
        weight_rows_to_float(run->rows + t * d_model, &model->embeddings, ids[t], 1);
    /* h = block(h), from the state that the memory holds to the one after these tokens */
    for (size_t i = 0; i < config->num_hidden_layers; i++) {
        MambaBlock block = layer_as_floats(run, &model->layer[i]);
        float *x = memory->x + i * x_floats(config);
        BlockState state = {memory->conv + i * conv_floats(config), run->x_turned};
        states_turn(run->x_turned, x, config, false);
        layer_forward(run->rows, &run->cache, &state, run->rows, &block);
        states_turn(run->x_turned, x, config, true);
        for (size_t t = 0; t < len && run->focus != NULL; t++)
            run->focus->delta[i * run->focus->tokens + start + t] =
                layer_mean_step(&run->cache, t, &block);
    }
    rms_norm_forward(run->final, run->scale, run->rows, model->norm_f, config->layer_norm_epsilon,
                     len, d_model);
    memcpy(memory->final, run->final + (len - 1) * d_model, d_model * sizeof(float));
    memory->count += len;
}

/* logits (count, vocab) of normed tokens (count, d_model). The head may be gigabytes as floats, so
   HEAD_ROWS rows of it are made so at a time. */
static void runner_many_logits(Runner *run, float *logits, const float *final, size_t count)
{
    const Weight *head = &run->model->head;
    size_t vocab = head->rows, d_model = head->cols;
    if (head->type == TENSOR_F32) {
        linear_forward_fast(logits, final, (const float *)(const void *)head->data, NULL, count,
                            d_model, vocab);
        return;
    }
    float *some = NEW(float, count *HEAD_ROWS);
    for (size_t first = 0; first < vocab; first += HEAD_ROWS) {
        size_t rows = smaller(vocab - first, HEAD_ROWS);
        weight_rows_to_float(run->matrices, head, first, rows);
        linear_forward_fast(some, final, run->matrices, NULL, count, d_model, rows);
        columns_in(logits, some, first, rows, count, vocab);
    }
    free(some);
}

/* Tokens into the memory, all of them. With `logits`, run->logits are those of the last one. A bar
   if it takes long. */
void runner_feed(Runner *run, Memory *memory, const uint32_t *ids, size_t len, bool logits)
{
    size_t least = pretrained_step_bytes(run->model) < ALONE_BYTES ? PROMPT_CHUNK : PROMPT_LEAST;
    if (len < least && run->focus == NULL) {
        for (size_t t = 0; t < len; t++)
            runner_step(run, memory, ids[t], logits && t + 1 == len);
        return;
    }
    Progress progress = progress_start("reading");
    for (size_t t = 0; t < len; t += PROMPT_CHUNK) {
        runner_chunk(run, memory, ids + t, smaller(len - t, PROMPT_CHUNK), t);
        if (len > 4 * PROMPT_CHUNK)
            progress_show(&progress, (double)smaller(len, t + PROMPT_CHUNK), (double)len);
    }
    progress_end(&progress);
    if (logits && len > 0)
        runner_logits(run, memory);
}

/* The same, and tensor `logits` (len, vocab) goes to a safetensors file as it is made, to be
   compared with that of other programs. */
bool runner_feed_logits(Runner *run, Memory *memory, const uint32_t *ids, size_t len,
                        const char *path, Error *error)
{
    LogitsFile file;
    size_t vocab = run->model->config.vocab_size, d_model = run->model->config.hidden_size;
    if (!logits_open(&file, path, len, vocab, error))
        return false;
    float *logits = NEW(float, LOGIT_TOKENS *vocab);
    Progress progress = progress_start("logits");
    bool ok = true;
    for (size_t t = 0; ok && t < len; t += PROMPT_CHUNK) {
        size_t chunk = smaller(len - t, PROMPT_CHUNK);
        runner_chunk(run, memory, ids + t, chunk, t);
        for (size_t i = 0; ok && i < chunk; i += LOGIT_TOKENS) {
            size_t count = smaller(chunk - i, LOGIT_TOKENS);
            runner_many_logits(run, logits, run->final + i * d_model, count);
            ok = logits_add(&file, logits, count);
        }
        progress_show(&progress, (double)(t + chunk), (double)len);
    }
    progress_end(&progress);
    free(logits);
    runner_logits(run, memory);
    return logits_close(&file, error) && runner_check(run, memory, error);
}

/* ---- perplexity: how surprised the model is by a text ---- */

/* -log p of each token given those before it, added up: perplexity is exp of their mean. */
typedef struct {
    float *logits; /* (LOGIT_TOKENS, vocab) */
    double sum;
    size_t count;
    size_t bad; /* the token after which nothing was a number any more; 0: none */
} Surprise;

/* Adds the losses of `count` normed tokens, whose next tokens are `next`. */
static void surprise_add(Surprise *surprise, Runner *run, const float *final, const uint32_t *next,
                         size_t count)
{
    size_t vocab = run->model->config.vocab_size, d_model = run->model->config.hidden_size;
    double loss[LOGIT_TOKENS];
    for (size_t t = 0; t < count; t += LOGIT_TOKENS) {
        size_t some = smaller(count - t, LOGIT_TOKENS);
        runner_many_logits(run, surprise->logits, final + t * d_model, some);
        PARALLEL_FOR(schedule(static))
        for (size_t i = 0; i < some; i++)
            loss[i] = token_loss(surprise->logits + i * vocab, vocab, next[t + i]);
        for (size_t i = 0; i < some; i++) {
            surprise->sum += loss[i];
            if (surprise->bad == 0 && !isfinite(loss[i]))
                surprise->bad = surprise->count + i + 1;
        }
        surprise->count += some;
    }
}

/* Perplexity of a text in a file, made plain (text_stream.c), token by token in one go from its
   start: the memory used does not depend on its length. */
bool runner_perplexity(Surprise *surprise, size_t *bytes, Runner *run, const char *path,
                       Error *error)
{
    const MambaConfig *config = &run->model->config;
    TextSource source;
    Ids ids = {NULL, 0, 0, 0};
    memset(surprise, 0, sizeof *surprise);
    if (!run->model->folder.has_tokenizer)
        return fail(error, "--perplexity needs a tokenizer.json in the folder, or --tokenizer DIR");
    if (!source_open(&source, path, error))
        return false;
    Memory memory = memory_new(config);
    float *logits = surprise->logits = NEW(float, LOGIT_TOKENS * config->vocab_size);
    Progress progress = progress_start("perplexity");
    size_t unknown = 0;
    bool ok = true;
    do {
        ok = source_next(&ids, &source, &run->model->folder.tokenizer, error);
        unknown += ids_unknown(&ids, 0, &run->model->folder.tokenizer);
        for (size_t t = 0; ok && t < ids.count; t += PROMPT_CHUNK) {
            size_t count = smaller(ids.count - t, PROMPT_CHUNK);
            const uint32_t *next = ids.id + t;
            if (memory.count > 0) /* the first is guessed by the chunk before */
                surprise_add(surprise, run, memory.final, next, 1);
            runner_chunk(run, &memory, next, count, 0);
            surprise_add(surprise, run, run->final, next + 1, count - 1);
            if (surprise->bad > 0)
                ok = fail_no_numbers(run->model, surprise->bad, error);
            double ahead = (double)(ids.count - t) / (double)ids.count * (double)source.piece;
            progress_show(&progress, (double)source.bytes - ahead,
                          (double)(source.size > source.bytes ? source.size : source.bytes));
        }
    } while (ok && ids.count > 0);
    progress_end(&progress);
    if (ok && surprise->count == 0)
        ok = fail(error, "%s: a text of two tokens or more is wanted", shown_path(path));
    *bytes = source.bytes;
    note_left_out(ids.left_out);
    note_unknown(unknown);
    free(logits);
    surprise->logits = NULL;
    memory_free(&memory), ids_free(&ids), source_close(&source);
    return ok;
}

/* ====================================== Answering ========================================== */
/* To write is to draw a token from the logits, to show it, and to read it: that is a step, and its
   logits are those of the next draw. The model reads its own words as it has read ours. */

typedef struct {
    size_t count; /* tokens at most */
    Sampling sampling;
    const char *const *stop; /* (n_stop) texts that end an answer */
    size_t n_stop;
    bool past_end; /* go on after a token that ends the text */
} AnswerSettings;

/* A conversation: the model, what it remembers, and what drawing needs: the words that were said,
   and chance. Memory and words can be saved. */
typedef struct {
    Runner *run;
    Memory memory;
    Sampler sampler;
    Random random;
} Conversation;

/* A model says that it has come to an end by drawing a token of its own for that. */
static bool ends_text(const Generation *generation, uint32_t id)
{
    for (size_t i = 0; i < generation->n_stop; i++)
        if (generation->stop[i] == id)
            return true;
    return false;
}

/* Up to settings->count tokens after run->logits; each goes into the memory and is shown: as text
   as soon as whole characters are there, or as an id if there is no tokenizer. Returns how many.
   Nothing is asked for inside the loop. */
size_t answer(Conversation *talk, const AnswerSettings *settings, FILE *out)
{
    Runner *run = talk->run;
    const Pretrained *model = run->model;
    Stream stream = stream_to(out, &model->folder.tokenizer, settings->stop, settings->n_stop);
    size_t i = 0;
    bool more = true, first = talk->memory.count == 0;
    for (; more && i < settings->count && !interrupted; i++) {
        if (!logits_are_numbers(run->logits, model->config.vocab_size))
            break; /* runner_check says so */
        /* id ~ softmax(logits / temperature), among those that top-k and top-p leave */
        run->mark = run->timed ? seconds_now() : 0.0;
        uint32_t id =
            (uint32_t)sampler_draw(&talk->sampler, run->logits, &settings->sampling, &talk->random);
        step_time(run, T_SAMPLE, 0);
        if (!settings->past_end && ends_text(&model->folder.generation, id))
            break;
        sampler_see(&talk->sampler, id);
        if (model->folder.has_tokenizer)
            more = stream_add(&stream, id, first); /* false: a stop text came */
        else {
            fprintf(out, "%s%u", i > 0 ? "," : "", id);
            fflush(out);
        }
        first = false;
        /* its own word is read like any other, and gives the next logits */
        runner_step(run, &talk->memory, id, true);
    }
    stream_end(&stream);
    return i;
}

/* ======================================= The demos ========================================= */

/* Where the time of `tokens` steps went, and how fast each matrix was read: the equation, piece by
   piece. */
static bool demo_profile(const Runner *run, size_t tokens, const Show *show, Error *error)
{
    static const int reads[T_COUNT] = {W_IN, -1, W_X, W_DT, -1, W_OUT, W_COUNT, -1};
    Phase phase[T_COUNT];
    for (int i = 0; i < T_COUNT; i++) {
        double bytes = reads[i] == W_COUNT ? (double)weight_bytes(&run->model->head) : 0.0;
        for (size_t l = 0; l < run->model->config.num_hidden_layers; l++)
            if (reads[i] >= 0 && reads[i] < W_COUNT)
                bytes += (double)weight_bytes(&run->model->layer[l].weight[reads[i]]);
        phase[i].name = step_time_name[i];
        phase[i].seconds = run->seconds[i];
        phase[i].bytes = bytes * (double)tokens;
    }
    return show_phases(phase, T_COUNT, tokens, show, error);
}

/* Which tokens open the gate: their mean Delta, layer by layer. */
static bool demo_focus(Conversation *talk, const Ids *ids, const Show *show, Error *error)
{
    Runner *run = talk->run;
    const Pretrained *model = run->model;
    size_t layers = model->config.num_hidden_layers;
    Focus focus = {layers, ids->count, NEW(double, layers * ids->count)};
    run->focus = &focus;
    runner_feed(run, &talk->memory, ids->id, ids->count, false);
    run->focus = NULL;
    size_t wrong = 0;
    while (wrong < layers * ids->count && isfinite(focus.delta[wrong]))
        wrong++;
    bool ok =
        (wrong == layers * ids->count || fail_no_numbers(model, ids->count, error)) &&
        show_gates(&focus, ids->id, model->folder.has_tokenizer ? &model->folder.tokenizer : NULL,
                   show, error);
    free(focus.delta);
    return ok;
}

/* ================================= What the program does =================================== */

#define NOT_GIVEN UINT64_MAX /* of a number that has no option */

typedef struct {
    const char *dir, *tokenizer, *prompt, *ids, *logits, *perplexity, *save, *load;
    Texts stop;
    uint64_t count, top_k, seed, threads;
    double temperature, top_p, penalty, bandwidth; /* the first three NAN: not given */
    bool tokenize, interactive, focus, int8, int4, compare, past_end, profile, sizes, ascii;
    const char *svg;
} PretrainedOptions;

/* The prompt that the options give; without any, the token that begins a text. */
static bool prompt_ids(Ids *ids, Text *text, const PretrainedOptions *options,
                       const Pretrained *model, Error *error)
{
    if (options->ids != NULL)
        return ids_parse(ids, options->ids, model->config.vocab_size, error);
    if (options->prompt != NULL && !model->folder.has_tokenizer)
        return fail(error,
                    "%s: there is no tokenizer.json for a prompt of words: give --ids 1,2,3, or "
                    "--tokenizer DIR",
                    shown_path(options->dir));
    if (options->prompt != NULL &&
        (!prompt_text(text, options->prompt, error) ||
         !prompt_encode(ids, &model->folder.tokenizer, text, options->load == NULL, true, error)))
        return false;
    if (ids->count == 0 && options->load == NULL) {
        if (model->folder.generation.begin >= model->config.vocab_size)
            return fail(error, "the prompt is empty, and config.json names no bos_token_id");
        ids_push(ids, model->folder.generation.begin);
    }
    return true;
}

/* What is not as one would think of a folder. */
static void print_notes(const Text *notes)
{
    if (notes->len > 0)
        fputs(notes->bytes, stderr);
}

/* Nats a token depend on how a tokenizer cuts; bits a byte can be compared between models. */
static bool run_perplexity(Runner *run, const char *path, Error *error)
{
    Surprise surprise;
    size_t bytes = 0;
    double start = seconds_now();
    if (!runner_perplexity(&surprise, &bytes, run, path, error))
        return false;
    double mean = surprise.sum / (double)surprise.count;
    printf("perplexity %.3f: %.4f nats a token over %zu tokens; %.3f bits a byte over %zu bytes\n",
           exp(mean), mean, surprise.count, surprise.sum / log(2.0) / (double)bytes, bytes);
    fflush(stdout);
    fprintf(stderr, "%.0f tokens a second\n", (double)surprise.count / (seconds_now() - start));
    return true;
}

/* What fewer bits cost: the same text, guessed by the model as the file has it, in 8 bits, in 4. */
static bool run_compared(const PretrainedOptions *options, Error *error)
{
    static const size_t bits[] = {0, 8, 4};
    double mean[TABLE_SIZE(bits)];
    bool ok = true;
    for (size_t i = 0; ok && i < TABLE_SIZE(bits); i++) {
        Pretrained model;
        Surprise surprise;
        size_t bytes;
        if (!pretrained_open(&model, options->dir, options->tokenizer, bits[i], error))
            return false;
        if (i == 0)
            print_notes(&model.folder.notes);
        Runner run = runner_new(&model);
        ok = runner_perplexity(&surprise, &bytes, &run, options->perplexity, error);
        mean[i] = surprise.sum / (double)surprise.count;
        ok = ok && shards_are_unchanged(&model.folder.shards, error);
        if (ok)
            print_bits_cost(&model.head, pretrained_step_bytes(&model), mean, i);
        runner_free(&run), pretrained_close(&model);
    }
    return ok;
}

/* One prompt and its answer, or what else the options want to know of the prompt. */
static bool run_once(Conversation *talk, const Ids *ids, const Text *text,
                     const AnswerSettings *settings, const PretrainedOptions *options,
                     const Show *show, Error *error)
{
    Runner *run = talk->run;
    double start = seconds_now();
    bool ok = true;
    for (size_t i = 0; i < ids->count; i++)
        sampler_see(&talk->sampler, ids->id[i]);
    if (options->focus)
        return demo_focus(talk, ids, show, error);
    if (options->logits != NULL)
        ok = runner_feed_logits(run, &talk->memory, ids->id, ids->count, options->logits, error);
    else if (ids->count > 0)
        runner_feed(run, &talk->memory, ids->id, ids->count, true);
    else
        runner_logits(run, &talk->memory); /* of the memory that was loaded */
    ok = ok && runner_check(run, &talk->memory, error);
    if (!ok || settings->count == 0)
        return ok;
    double middle = seconds_now();
    if (text->len > 0)
        fwrite(text->bytes, 1, text->len, stdout);
    run->timed = options->profile;
    size_t count = answer(talk, settings, stdout);
    putchar('\n');
    if (count == 0 && !interrupted &&
        logits_are_numbers(run->logits, run->model->config.vocab_size))
        fputs("note: the first token ends the text; --past-end goes on\n", stderr);
    print_speed((double)pretrained_step_bytes(run->model), ids->count, middle - start, count,
                seconds_now() - middle);
    return runner_check(run, &talk->memory, error) &&
           (!options->profile || count == 0 || demo_profile(run, count, show, error));
}

/* Line after line from standard input, each answered; one memory for all. */
static bool run_interactive(Conversation *talk, const AnswerSettings *settings, Error *error)
{
    const Pretrained *model = talk->run->model;
    Ids ids = {NULL, 0, 0, 0};
    Text text = {NULL, 0, 0};
    if (!model->folder.has_tokenizer)
        return fail(error,
                    "--interactive needs a tokenizer.json in the folder, or --tokenizer DIR");
    lines_begin();
    bool ok = true;
    while (ok && line_next(&text)) {
        ids.count = 0;
        if (text.len > 0 && !prompt_encode(&ids, &model->folder.tokenizer, &text,
                                           talk->memory.count == 0, false, error))
            fprintf(stderr, "%s\n", error->text); /* and go on */
        for (size_t i = 0; i < ids.count; i++)
            sampler_see(&talk->sampler, ids.id[i]);
        if (ids.count > 0) {
            runner_feed(talk->run, &talk->memory, ids.id, ids.count, true);
            answer(talk, settings, stdout);
            putchar('\n');
            ok = runner_check(talk->run, &talk->memory, error);
        }
        text.len = 0;
        if (talk->memory.count > 0)
            text_append(&text, "\n", 1); /* what comes is a new line of the same text */
    }
    ids_free(&ids), text_free(&text);
    return ok;
}

/* How tokens are drawn: as the folder says, unless options say otherwise. A cut without a
   temperature means to draw as the model says. */
static Sampling chosen_sampling(const PretrainedOptions *options, const Generation *generation)
{
    Sampling sampling = generation->usual;
    bool cut = (options->top_k != NOT_GIVEN && options->top_k > 0) || options->top_p < 1.0;
    if (!isnan(options->temperature))
        sampling.temperature = options->temperature;
    else if (cut && sampling.temperature == 0.0)
        sampling.temperature = 1.0;
    if (options->top_k != NOT_GIVEN)
        sampling.top_k = (size_t)options->top_k;
    if (!isnan(options->top_p))
        sampling.top_p = options->top_p;
    if (!isnan(options->penalty))
        sampling.repetition_penalty = options->penalty;
    return sampling;
}

/* What the tokenizer of a folder makes of the prompt; its model is not looked at. */
static bool run_tokenize(const PretrainedOptions *options, Error *error)
{
    const char *dir = options->tokenizer != NULL ? options->tokenizer : options->dir;
    Tokenizer tokenizer;
    Text notes = {NULL, 0, 0};
    if (!folder_tokenizer(&tokenizer, &notes, dir, error))
        return false;
    print_notes(&notes);
    bool ok = show_tokens(&tokenizer, options->prompt, error);
    tokenizer_free(&tokenizer), text_free(&notes);
    return ok;
}

/* A new conversation, or one that was saved; one prompt or many; and saved again. */
static bool run_conversation(Runner *run, const PretrainedOptions *options, const Show *show,
                             Error *error)
{
    const Pretrained *model = run->model;
    Sampling sampling = chosen_sampling(options, &model->folder.generation);
    if (sampling.temperature == 0.0 && options->seed != NOT_GIVEN)
        return fail(error, "--seed does nothing at temperature 0: nothing is drawn");
    AnswerSettings settings = {(size_t)options->count, sampling, options->stop.text,
                               options->stop.count, options->past_end};
    Conversation talk = {run, memory_new(&model->config), sampler_new(model->config.vocab_size),
                         random_from_seed(options->seed == NOT_GIVEN ? 1 : options->seed)};
    Ids ids = {NULL, 0, 0, 0};
    Text text = {NULL, 0, 0};
    bool ok = options->load == NULL ||
              memory_load(&talk.memory, &talk.sampler, model, options->load, error);
    if (ok && options->interactive)
        ok = run_interactive(&talk, &settings, error);
    else if (ok)
        ok = prompt_ids(&ids, &text, options, model, error) &&
             run_once(&talk, &ids, &text, &settings, options, show, error);
    if (ok && options->save != NULL)
        ok = memory_save(&talk.memory, &talk.sampler, model, options->save, error);
    ids_free(&ids), text_free(&text);
    memory_free(&talk.memory);
    sampler_free(&talk.sampler);
    return ok;
}

/* Options that are right by themselves, and together say nothing. */
static bool options_mean_something(const PretrainedOptions *options, Error *error)
{
    for (size_t i = 0; i < options->stop.count; i++)
        if (options->stop.text[i][0] == '\0')
            return fail(error, "--stop: the text is empty");
    if (options->compare && strcmp(options->perplexity, "-") == 0)
        return fail(error, "--compare reads a text three times: give a file, not standard input");
    return options->count > 0 || options->logits != NULL || options->save != NULL ||
           fail(error, "-n 0 writes nothing: with it, give --logits or --save-state");
}

/* What the options ask for. Without any, a question for the small model of data/tiny-mamba. */
static bool run_pretrained(PretrainedOptions *options, Error *error)
{
    static const char usual[] = "data/tiny-mamba";
    static const char question[] =
        "somebody sang about shamrocks . then everything changed : the teacher learnt all about "
        "refraction . what is a rainbow ?";
    Show show = {look_at_terminal(options->ascii), options->svg, 1};
    Pretrained model;
    if (options->threads > 0)
        threads_use((int)options->threads);
    if (!options_mean_something(options, error))
        return false;
    if (options->dir == NULL && !options->sizes && path_exists(usual, "config.json")) {
        options->dir = usual;
        if (options->ids == NULL && options->load == NULL && !options->interactive)
            options->prompt = question;
    }
    if (options->dir == NULL) {
        print_sizes(options->bandwidth);
        return true;
    }
    if (options->tokenize)
        return run_tokenize(options, error);
    if (options->compare)
        return run_compared(options, error);
    size_t bits = options->int8 ? 8 : options->int4 ? 4 : 0;
    if (!pretrained_open(&model, options->dir, options->tokenizer, bits, error))
        return false;
    print_notes(&model.folder.notes);
    Runner run = runner_new(&model);
    const Shards *shards = &model.folder.shards;
    bool ok = folder_spared(options->dir, shards, options->logits, error) &&
              folder_spared(options->dir, shards, options->save, error) &&
              folder_spared(options->dir, shards, options->svg, error) &&
              (options->perplexity != NULL ? run_perplexity(&run, options->perplexity, error)
                                           : run_conversation(&run, options, &show, error));
    ok = ok && shards_are_unchanged(shards, error);
    runner_free(&run);
    pretrained_close(&model);
    return ok;
}

/* A mapped file that somebody shortens: the kernel says so by a signal, wherever it is read. */
static void on_lost_file(int signal_number)
{
    static const char text[] = "error: a file of weights got shorter while the model was at work\n";
    (void)signal_number;
    _exit(write(STDERR_FILENO, text, sizeof text - 1) < 0 ? 2 : 1);
}

/* ==================================== Options and main ===================================== */

int pretrained_main(int argc, char **argv)
{
    PretrainedOptions options;
    memset(&options, 0, sizeof options);
    options.count = 64;
    options.seed = options.top_k = NOT_GIVEN;
    options.temperature = options.top_p = options.penalty = NAN;
    options.bandwidth = 40.0;
    const Option table[] = {
        {"DIR", "", OPTION_ARGUMENT, 0, 0, &options.dir, "- tokenize interactive perplexity focus",
         "the folder of a model, as Hugging Face has it (default data/tiny-mamba)"},
        {"PROMPT", "", OPTION_ARGUMENT, 0, 0, &options.prompt, "- tokenize focus !ids",
         "the text to go on from; - reads it from standard input"},
        {"n", "N", OPTION_WHOLE, 0, 1e9, &options.count, "- interactive",
         "at most N tokens (default 64)"},
        {"ids", "1,2,3", OPTION_TEXT, 0, 0, &options.ids, "- focus",
         "the prompt as ids; without a tokenizer.json ids come out, too"},
        {"tokenizer", "DIR", OPTION_TEXT, 0, 0, &options.tokenizer,
         "- tokenize interactive perplexity focus",
         "the tokenizer.json of another folder, for one that has none"},
        {"temperature", "T", OPTION_NUMBER, 0, 1e6, &options.temperature, "- interactive",
         "0: always the likeliest token (default); 1: as the model says (default with --top-k or "
         "--top-p); a generation_config.json may set other defaults for these four"},
        {"top-k", "K", OPTION_WHOLE, 0, CONFIG_MAX_VOCAB, &options.top_k, "- interactive",
         "draw from the K likeliest tokens only"},
        {"top-p", "P", OPTION_NUMBER, 0, 1, &options.top_p, "- interactive",
         "draw only from the likeliest tokens that together have the chance P"},
        {"repetition-penalty", "R", OPTION_NUMBER, 0.01, 100, &options.penalty, "- interactive",
         "above 1: what was said before gets less likely"},
        {"seed", "S", OPTION_WHOLE, 0, WHOLE_MOST, &options.seed, "- interactive",
         "seed of the draws (default 1)"},
        {"stop", "TEXT", OPTION_TEXTS, 0, 0, &options.stop, "- interactive",
         "end the answer before TEXT; up to 8 times"},
        {"past-end", NULL, OPTION_SWITCH, 0, 0, &options.past_end, "- interactive",
         "go on after a token that ends the text"},
        {"int8", NULL, OPTION_SWITCH, 0, 0, &options.int8, "- interactive perplexity focus",
         "matrices in 8 bits: a quarter of the reading, a little less exact"},
        {"int4", NULL, OPTION_SWITCH, 0, 0, &options.int4, "- interactive perplexity focus !int8",
         "matrices in 4 bits: half of that again, and less exact"},
        {"threads", "N", OPTION_WHOLE, 1, 1024, &options.threads, "- interactive perplexity focus",
         "threads to use (default: all processors)"},
        {"interactive", NULL, OPTION_SWITCH, 0, 0, &options.interactive, "mode",
         "prompt after prompt, with one memory; Ctrl-C stops an answer"},
        {"save-state", "FILE", OPTION_OUT, 0, 0, &options.save, "- interactive focus",
         "write all that is remembered of the text"},
        {"load-state", "FILE", OPTION_TEXT, 0, 0, &options.load, "- interactive focus",
         "go on from there"},
        {"logits", "FILE", OPTION_OUT, 0, 0, &options.logits, "-",
         "write the logits of every position of the prompt, as safetensors"},
        {"tokenize", NULL, OPTION_SWITCH, 0, 0, &options.tokenize, "mode PROMPT",
         "ids and pieces of the prompt, and nothing else"},
        {"perplexity", "FILE", OPTION_TEXT, 0, 0, &options.perplexity, "mode",
         "how well the model guesses a text"},
        {"compare", NULL, OPTION_SWITCH, 0, 0, &options.compare, "perplexity !int8 !int4",
         "that of the weights as they are, in 8 bits and in 4, side by side"},
        {"focus", NULL, OPTION_SWITCH, 0, 0, &options.focus, "mode",
         "how far each token of the prompt opens the gate (Delta); --svg: by layer"},
        {"profile", NULL, OPTION_SWITCH, 0, 0, &options.profile, "-", "where the time goes"},
        {"sizes", NULL, OPTION_SWITCH, 0, 0, &options.sizes, "mode",
         "what models of the published sizes cost, and how fast they can be"},
        {"bandwidth", "GB/s", OPTION_NUMBER, 0.1, 1e5, &options.bandwidth, "sizes",
         "that memory delivers (default 40)"},
        {"svg", "FILE", OPTION_OUT, 0, 0, &options.svg, "profile focus", "the same as a picture"},
        {"ascii", NULL, OPTION_SWITCH, 0, 0, &options.ascii, "profile focus",
         "draw without Unicode"},
    };
    const Program program = {"ch05_pretrained",
                             "Runs a Mamba that others have trained, from the folder as Hugging "
                             "Face has it: config.json, model.safetensors (or its shards) and "
                             "tokenizer.json.",
                             table, sizeof table / sizeof *table};
    int status;
    Error error;
    if (!program_begin(&status, &program, argc, argv))
        return status;
    signal(SIGBUS, on_lost_file);
    return program_end(run_pretrained(&options, &error), &error);
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return pretrained_main(argc, argv);
}
#endif

#endif /* CH05_PRETRAINED */
