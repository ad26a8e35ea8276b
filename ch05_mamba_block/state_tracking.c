/* State tracking: what a state that turns can do, and one that only fades cannot.

   HOLDS   two tasks, parity and arithmetic modulo 5; a small model whose layers are of Mamba-1,
           Mamba-2 or Mamba-3, and its training; right answers far beyond the lengths of training,
           over several seeds
   FOR     the lesson MAMBA3.md and its tests
   BUILD   cc -O2 ch05_mamba_block/state_tracking.c -o state_tracking -lm && ./state_tracking
   SOURCE  A. Lahoti et al., Mamba-3, arXiv 2603.15569, section 4.3; R. Grazzi et al., arXiv
           2411.12537, section 5.1; G. Deletang et al., arXiv 2207.02098 (the tasks) */

#ifndef CH05_STATE_TRACKING
#define CH05_STATE_TRACKING

#include "language_model.c" /* the loss of a token, the schedule of rates */
#include "mamba3_block.c"
#include "../ch01_markov/measure.h" /* the median */

/* ======================================= The tasks ========================================= */
/* The answer is asked for at every token that may be the last one: so a piece of 40 tokens is a  */
/* question of every length up to 40.                                                          */

enum { TRACK_NOTHING = -1, MODULUS = 5, PLUS = MODULUS, MINUS, TIMES, TRACK_TOKENS };

static size_t track_draw(size_t count, Random *random)
{
    return (size_t)(random_uniform(random) * (double)count);
}

/* Bits. The answer is whether the ones so far are odd. */
static void parity_fill(int32_t *ids, int32_t *targets, size_t len, Random *random)
{
    int32_t odd = 0;
    for (size_t t = 0; t < len; t++) {
        ids[t] = (int32_t)track_draw(2, random);
        targets[t] = odd ^= ids[t];
    }
}

/* What an expression is worth so far, modulo 5: the terms that are done, and the one that a further
   factor would still change. */
typedef struct {
    int32_t done, term;
} Worth;

static int32_t worth_read(Worth *worth, int32_t operator_, int32_t digit)
{
    if (operator_ == TIMES)
        worth->term = worth->term * digit % MODULUS;
    else {
        worth->done = (worth->done + worth->term) % MODULUS;
        worth->term = operator_ == PLUS ? digit : (MODULUS - digit) % MODULUS;
    }
    return (worth->done + worth->term) % MODULUS;
}

/* Digits 0 to 4 with + - or * between them, products first. At each digit the answer is what the
   expression is worth up to there; at an operator nothing is asked. */
static void arithmetic_fill(int32_t *ids, int32_t *targets, size_t len, Random *random)
{
    Worth worth = {0, 0};
    int32_t operator_ = PLUS;
    for (size_t t = 0; t < len; t++)
        if (t % 2 == 0) {
            ids[t] = (int32_t)track_draw(MODULUS, random);
            targets[t] = worth_read(&worth, operator_, ids[t]);
        } else {
            ids[t] = operator_ = PLUS + (int32_t)track_draw(3, random);
            targets[t] = TRACK_NOTHING;
        }
}

static void sums_fill(int32_t *ids, int32_t *targets, size_t len, Random *random)
{
    Worth worth = {0, 0};
    int32_t operator_ = PLUS;
    for (size_t t = 0; t < len; t++)
        if (t % 2 == 0) {
            ids[t] = (int32_t)track_draw(MODULUS, random);
            targets[t] = worth_read(&worth, operator_, ids[t]);
        } else {
            ids[t] = operator_ = PLUS + (int32_t)track_draw(2, random);
            targets[t] = TRACK_NOTHING;
        }
}

typedef void TrackFill(int32_t *ids, int32_t *targets, size_t len, Random *random);

typedef struct {
    const char *name;
    TrackFill *fill;
    size_t tokens, answers; /* how many different ones */
} TrackTask;

static const TrackTask track_tasks[] = {{"parity", parity_fill, 2, 2},
                                        {"arithmetic", arithmetic_fill, TRACK_TOKENS, MODULUS},
                                        {"sums", sums_fill, TRACK_TOKENS, MODULUS}};
enum { TRACK_TASKS = sizeof track_tasks / sizeof *track_tasks };

/* ======================================= The model ========================================= */
/* Embedding, layers, norm, head: chapter 5a's model, but for the kind of its layers. All          */
/* parameters lie in one piece of memory, and their gradients in another one, laid out alike.      */

typedef enum { TRACK_MAMBA1, TRACK_MAMBA2, TRACK_MAMBA3, TRACK_KINDS } TrackKind;

static const char *const track_names[TRACK_KINDS] = {"Mamba-1", "Mamba-2", "Mamba-3"};

typedef struct {
    TrackKind kind;
    size_t tokens, answers, layers;
    MambaConfig config; /* of Mamba-1 and 2 */
    TurnConfig turn;    /* of Mamba-3 */
} TrackSizes;

enum { TRACK_LAYERS = 4 };

/* Parameters, or gradients of all of them. */
typedef struct {
    float *memory; /* (floats) */
    size_t floats;
    float *embeddings, *norm_f, *head; /* (tokens, d_model), (d_model), (answers, d_model) */
    BlockParams layer[TRACK_LAYERS];   /* one of the two */
    TurnBlock turn[TRACK_LAYERS];
} TrackParams;

/* Lays the parameters out in `memory`, or, if that is NULL, only counts. */
static void track_params_place(TrackParams *params, float *memory, const TrackSizes *sizes)
{
    size_t d_model = sizes->config.hidden_size, used = 0;
    params->memory = memory;
    params->embeddings = take(memory, &used, sizes->tokens * d_model);
    params->norm_f = take(memory, &used, d_model);
    params->head = take(memory, &used, sizes->answers * d_model);
    for (size_t i = 0; i < sizes->layers; i++)
        if (sizes->kind == TRACK_MAMBA3) {
            if (memory != NULL)
                params->turn[i] = turn_block_place(memory + used, &sizes->turn);
            used += turn_block_floats(&sizes->turn);
        } else {
            if (memory != NULL)
                params->layer[i] = block_params_place(memory + used, &sizes->config);
            used += block_params_floats(&sizes->config);
        }
    params->floats = used;
}

static TrackParams track_params_new(const TrackSizes *sizes)
{
    TrackParams params;
    memset(&params, 0, sizeof params);
    track_params_place(&params, NULL, sizes);
    track_params_place(&params, NEW(float, params.floats), sizes);
    return params;
}

typedef struct {
    TrackSizes sizes;
    TrackParams params;
    MambaBlock block[TRACK_LAYERS]; /* views into params, and A */
    float *A;
    bool *decays; /* (floats) which parameters AdamW pulls towards 0 */
} Tracker;

static void tracker_refresh(Tracker *tracker)
{
    for (size_t i = 0; i < tracker->sizes.layers; i++)
        if (tracker->sizes.kind == TRACK_MAMBA1)
            block_refresh(&tracker->block[i]);
}

static void tracker_init(Tracker *tracker, Random *random)
{
    const TrackSizes *sizes = &tracker->sizes;
    TrackParams *params = &tracker->params;
    size_t d_model = sizes->config.hidden_size;
    for (size_t i = 0; i < sizes->tokens * d_model; i++)
        params->embeddings[i] = (float)random_normal(random);
    for (size_t i = 0; i < d_model; i++)
        params->norm_f[i] = 1.0f;
    for (size_t i = 0; i < sizes->answers * d_model; i++)
        params->head[i] = (float)(random_normal(random) / sqrt((double)d_model));
    for (size_t i = 0; i < sizes->layers; i++)
        if (sizes->kind == TRACK_MAMBA3)
            turn_block_init(&params->turn[i], random);
        else
            block_init(&params->layer[i], &sizes->config, random);
    tracker_refresh(tracker);
}

static Tracker tracker_new(const TrackSizes *sizes, Random *random)
{
    Tracker tracker;
    memset(&tracker, 0, sizeof tracker);
    size_t A = sizes->config.intermediate_size * sizes->config.state_size;
    tracker.sizes = *sizes;
    tracker.params = track_params_new(sizes);
    tracker.A = NEW(float, sizes->layers *A);
    for (size_t i = 0; i < sizes->layers; i++) {
        MambaBlock block = {sizes->config, tracker.params.layer[i], tracker.A + i * A};
        tracker.block[i] = block;
    }
    tracker_init(&tracker, random);
    return tracker;
}

static void tracker_free(Tracker *tracker)
{
    free(tracker->params.memory), free(tracker->A);
}

/* ================================== Forwards and backwards ================================= */

/* All workspace for some sequences. */
typedef struct {
    size_t batch, len;
    float *memory;
    float *hidden;          /* (layers + 1, tokens, d_model) */
    float *last, *scale;    /* (tokens, d_model), (tokens): after the last norm */
    float *logits, *now, *next; /* (tokens, answers); (tokens, d_model) twice */
    BlockCache one[TRACK_LAYERS], one_back;
    TurnCache three[TRACK_LAYERS], three_back;
} TrackWork;

static size_t track_work_place(TrackWork *work, float *memory, const Tracker *tracker)
{
    const TrackSizes *sizes = &tracker->sizes;
    size_t tokens = work->batch * work->len, wide = tokens * sizes->config.hidden_size, used = 0;
    work->hidden = take(memory, &used, (sizes->layers + 1) * wide);
    work->last = take(memory, &used, wide);
    work->scale = take(memory, &used, tokens);
    work->logits = take(memory, &used, tokens * sizes->answers);
    work->now = take(memory, &used, wide);
    work->next = take(memory, &used, wide);
    for (size_t i = 0; i <= sizes->layers; i++) { /* the last one for gradients */
        bool back = i == sizes->layers;
        float *at = memory == NULL ? NULL : memory + used;
        if (sizes->kind == TRACK_MAMBA3)
            used += turn_cache_place(back ? &work->three_back : &work->three[i], at, &sizes->turn,
                                     work->batch, work->len);
        else
            used += back ? block_back_place(&work->one_back, at, &work->one[0], &tracker->block[0])
                         : block_cache_place(&work->one[i], at, &tracker->block[0], work->batch,
                                             work->len, true);
    }
    return used;
}

static TrackWork track_work_new(const Tracker *tracker, size_t batch, size_t len)
{
    TrackWork work;
    memset(&work, 0, sizeof work);
    work.batch = batch;
    work.len = len;
    work.memory = NEW(float, track_work_place(&work, NULL, tracker));
    track_work_place(&work, work.memory, tracker);
    return work;
}

/* work->logits for ids (batch, len). */
static void tracker_forward(TrackWork *work, const int32_t *ids, const Tracker *tracker)
{
    const TrackSizes *sizes = &tracker->sizes;
    size_t tokens = work->batch * work->len, d_model = sizes->config.hidden_size;
    float *hidden = work->hidden;
    for (size_t t = 0; t < tokens; t++)
        memcpy(hidden + t * d_model, tracker->params.embeddings + (size_t)ids[t] * d_model,
               d_model * sizeof(float));
    for (size_t i = 0; i < sizes->layers; i++, hidden += tokens * d_model)
        if (sizes->kind == TRACK_MAMBA3)
            turn_block_forward(hidden + tokens * d_model, &work->three[i], NULL, hidden,
                               &tracker->params.turn[i]);
        else
            block_forward(hidden + tokens * d_model, &work->one[i], NULL, hidden,
                          &tracker->block[i]);
    rms_norm_forward(work->last, work->scale, hidden, tracker->params.norm_f, 1e-5, tokens,
                     d_model);
    linear_forward_fast(work->logits, work->last, tracker->params.head, NULL, tokens, d_model,
                        sizes->answers);
}

/* Every gradient of the mean loss over `count` answers, into grad (written). Returns the sum of the
   losses. work->logits are used up. */
static double tracker_backward(TrackParams *grad, TrackWork *work, const int32_t *ids,
                               const int32_t *targets, size_t count, const Tracker *tracker)
{
    const TrackSizes *sizes = &tracker->sizes;
    size_t tokens = work->batch * work->len, d_model = sizes->config.hidden_size;
    size_t answers = sizes->answers;
    const ExpTable table = exp_table();
    double sum = 0.0;
    for (size_t t = 0; t < tokens; t++) {
        float *logits = work->logits + t * answers;
        if (targets[t] < 0) {
            zero(logits, answers);
            continue;
        }
        sum += token_loss_fast(logits, answers, (size_t)targets[t], &table);
        token_loss_backward(logits, answers, (size_t)targets[t], 1.0f / (float)count, &table);
    }
    linear_backward_weight_fast(grad->head, work->logits, work->last, tokens, d_model, answers);
    linear_backward_input_fast(work->last, work->logits, tracker->params.head, false, tokens,
                               d_model, answers);
    float *now = work->now, *next = work->next;
    const float *hidden = work->hidden + sizes->layers * tokens * d_model;
    zero(now, tokens * d_model);
    rms_norm_backward(now, grad->norm_f, work->last, work->scale, hidden, tracker->params.norm_f,
                      tokens, d_model);
    for (size_t i = sizes->layers; i-- > 0;) {
        hidden -= tokens * d_model;
        if (sizes->kind == TRACK_MAMBA3)
            turn_block_backward(&grad->turn[i], next, &work->three_back, now, &work->three[i],
                                hidden, &tracker->params.turn[i]);
        else
            block_backward(&grad->layer[i], next, &work->one_back, now, &work->one[i], hidden,
                           &tracker->block[i]);
        float *swap = now;
        now = next;
        next = swap;
    }
    zero(grad->embeddings, sizes->tokens * d_model);
    for (size_t t = 0; t < tokens; t++)
        for (size_t i = 0; i < d_model; i++)
            grad->embeddings[(size_t)ids[t] * d_model + i] += now[t * d_model + i];
    return sum;
}

/* ======================================== Training ========================================= */

typedef struct {
    uint64_t steps, batch, len, seed;
    double rate, decay;
} TrackSettings;

enum { TRACK_GROUPS = 4 };

static void track_adamw(Tracker *tracker, const float *grad, float *mean, float *square,
                        uint64_t step, double rate, double clip_scale)
{
    float correct1 = (float)(1.0 - pow(0.9, (double)step)),
          correct2 = (float)(1.0 - pow(0.99, (double)step));
    for (size_t i = 0; i < tracker->params.floats; i++) {
        float g = grad[i] * (float)clip_scale;
        mean[i] = 0.9f * mean[i] + 0.1f * g;
        square[i] = 0.99f * square[i] + 0.01f * g * g;
        tracker->params.memory[i] -=
            (float)rate * (mean[i] / correct1) / (sqrtf(square[i] / correct2) + 1e-8f);
    }
    tracker_refresh(tracker);
}

static double track_right(const Tracker *tracker, const TrackTask *task, size_t count, size_t len, size_t from,
                          uint64_t seed)
{
    Random random = random_from_seed(seed);
    TrackWork work = track_work_new(tracker, count, len);
    int32_t *ids = NEW(int32_t, count * len), *targets = NEW(int32_t, count *len);
    for (size_t b = 0; b < count; b++)
        task->fill(ids + b * len, targets + b * len, len, &random);
    tracker_forward(&work, ids, tracker);
    size_t all = 0, right = 0;
    for (size_t i = 0; i < count * len; i++)
        if (targets[i] >= 0 && i % len >= from) {
            all++;
            right += token_greedy(work.logits + i * task->answers, task->answers) ==
                     (size_t)targets[i];
        }
    free(ids), free(targets), free(work.memory);
    return 100.0 * (double)right / (double)all;
}

static void track_train(Tracker *tracker, const TrackTask *task, const TrackSettings *settings)
{
    Random random = random_from_seed(settings->seed + 1000);
    size_t tokens = settings->batch * settings->len, per = settings->batch / TRACK_GROUPS;
    int32_t *ids = NEW(int32_t, tokens), *targets = NEW(int32_t, tokens);
    TrackWork work[TRACK_GROUPS];
    TrackParams grad[TRACK_GROUPS];
    for (int g = 0; g < TRACK_GROUPS; g++) {
        work[g] = track_work_new(tracker, per, settings->len);
        grad[g] = track_params_new(&tracker->sizes);
    }
    float *mean = NEW(float, tracker->params.floats), *square = NEW(float, tracker->params.floats);
    double start = seconds_now(), recent = 0;
    for (uint64_t step = 0; step < settings->steps; step++) {
        for (size_t b = 0; b < settings->batch; b++)
            task->fill(ids + b * settings->len, targets + b * settings->len, settings->len,
                       &random);
        size_t count = targets_count(targets, tokens);
        double loss = 0;
        for (int g = 0; g < TRACK_GROUPS; g++) {
            size_t first = (size_t)g * per * settings->len;
            tracker_forward(&work[g], ids + first, tracker);
            loss += tracker_backward(&grad[g], &work[g], ids + first, targets + first, count,
                                     tracker);
        }
        for (int g = 1; g < TRACK_GROUPS; g++)
            for (size_t i = 0; i < grad[0].floats; i++)
                grad[0].memory[i] += grad[g].memory[i];
        double length = 0;
        for (size_t i = 0; i < grad[0].floats; i++)
            length += (double)grad[0].memory[i] * (double)grad[0].memory[i];
        length = sqrt(length);
        double rate = scheduled_rate(settings->rate, step, settings->steps / 20 + 1,
                                     settings->steps);
        track_adamw(tracker, grad[0].memory, mean, square, step + 1, rate,
                    length > 1.0 ? 1.0 / length : 1.0);
        loss /= (double)count;
        recent = step == 0 ? loss : 0.95 * recent + 0.05 * loss;
        if ((step + 1) % (settings->steps / 10) == 0)
            fprintf(stderr, "%6d loss %.4f  right %5.1f | 41-256 %5.1f  %.1f s\n", (int)step + 1, recent,
                    track_right(tracker, task, 32, 40, 0, 7), track_right(tracker, task, 32, 256, 40, 7),
                    seconds_now() - start);
    }
    for (int g = 0; g < TRACK_GROUPS; g++)
        free(work[g].memory), free(grad[g].memory);
    free(ids), free(targets), free(mean), free(square);
}

#ifdef TRY
int main(int argc, char **argv)
{
    (void)argc;
    int kind = atoi(argv[1]), task = atoi(argv[2]), layers = atoi(argv[3]), d_model = atoi(argv[4]),
        d_state = atoi(argv[5]), n_head = atoi(argv[6]), n_angle = atoi(argv[7]);
    TrackSizes sizes;
    memset(&sizes, 0, sizeof sizes);
    TrackSettings settings = {(uint64_t)atoi(argv[8]), 64, 40, (uint64_t)atoi(argv[9]), atof(argv[10]), 0};
    double least = atof(argv[11]), most = atof(argv[12]);
    sizes.kind = (TrackKind)kind;
    sizes.tokens = track_tasks[task].tokens;
    sizes.answers = track_tasks[task].answers;
    sizes.layers = layers;
    sizes.config = config_default(d_model);
    sizes.config.state_size = d_state;
    sizes.config.time_step_min = least, sizes.config.time_step_max = most;
    TurnConfig turn = {d_model, n_head, 2 * d_model / n_head, 1, d_state, n_angle, 1e-5, least, most};
    sizes.turn = turn;
    Random random = random_from_seed(settings.seed);
    Tracker tracker = tracker_new(&sizes, &random);
    printf("%s %s %zu params\n", track_names[kind], track_tasks[task].name, tracker.params.floats);
    track_train(&tracker, &track_tasks[task], &settings);
    tracker_free(&tracker);
}
#endif

#endif /* CH05_STATE_TRACKING */
