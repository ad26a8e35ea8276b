/* State tracking: what a state that turns can do, and one that only fades cannot.

   HOLDS   three tasks: parity, sums modulo 5, and sums of products modulo 5; small models of the
           same size with layers of Mamba-1, Mamba-2 and Mamba-3, trained with several seeds; their
           right answers at the lengths of training and far beyond
   FOR     the lesson MAMBA3.md and its tests
   BUILD   cc -O2 ch05_mamba_block/state_tracking.c -o state_tracking -lm && ./state_tracking
   SOURCE  A. Lahoti et al., Mamba-3, arXiv 2603.15569 (its table of state tracking); R. Grazzi et
           al., arXiv 2411.12537; G. Deletang et al., arXiv 2207.02098 (the tasks) */

#ifndef CH05_STATE_TRACKING
#define CH05_STATE_TRACKING

#include "language_model.c"
#include "../ch01_markov/measure.h" /* the median */

/* ======================================= The tasks ========================================= */
/* The answer is asked for wherever the text could end: so a piece of 40 tokens asks questions  */
/* of every length up to 40.                                                                   */

enum { NOT_ASKED = -1, MODULUS = 5, PLUS = MODULUS, MINUS, TIMES, TRACK_TOKENS };

/* Bits. The answer is 1 if those so far have an odd number of ones. */
static void parity_piece(int32_t *id, int32_t *target, size_t len, Random *random)
{
    int32_t odd = 0;
    for (size_t t = 0; t < len; t++) {
        id[t] = (int32_t)one_of(random, 2);
        target[t] = odd ^= id[t];
    }
}

/* What an expression is worth so far: the terms that are done, and the last one, which a factor
   may still change. */
typedef struct {
    int32_t done, term;
} Worth;

/* Reads one more operator and digit; returns the worth, modulo 5. */
static int32_t worth_read(Worth *worth, int32_t operation, int32_t digit)
{
    if (operation == TIMES)
        worth->term = worth->term * digit % MODULUS;
    else {
        worth->done = (worth->done + worth->term) % MODULUS;
        worth->term = operation == PLUS ? digit : (MODULUS - digit) % MODULUS;
    }
    return (worth->done + worth->term) % MODULUS;
}

/* Digits 0 to 4, and one of the first `operations` of + - * between them. At each digit the answer
   is what the expression is worth up to there, products first; at an operator nothing is asked. */
static void expression_piece(int32_t *id, int32_t *target, size_t len, size_t operations,
                             Random *random)
{
    Worth worth = {0, 0};
    int32_t operation = PLUS;
    for (size_t t = 0; t < len; t++)
        if (t % 2 == 0) {
            id[t] = (int32_t)one_of(random, MODULUS);
            target[t] = worth_read(&worth, operation, id[t]);
        } else {
            id[t] = operation = PLUS + (int32_t)one_of(random, operations);
            target[t] = NOT_ASKED;
        }
}

static void sums_piece(int32_t *id, int32_t *target, size_t len, Random *random)
{
    expression_piece(id, target, len, 2, random);
}

static void products_piece(int32_t *id, int32_t *target, size_t len, Random *random)
{
    expression_piece(id, target, len, 3, random);
}

/* What tells one task from another, and how it is learnt. */
typedef struct {
    const char *title;
    void (*piece)(int32_t *id, int32_t *target, size_t len, Random *random);
    size_t answers; /* how many different ones */
} TrackTask;

enum { TRACK_PARITY, TRACK_SUMS, TRACK_PRODUCTS, TRACK_TASKS };

static const TrackTask track_task[TRACK_TASKS] = {
    {"Parity: is the number of ones odd?", parity_piece, 2},
    {"Sums modulo 5", sums_piece, MODULUS},
    {"Sums of products modulo 5", products_piece, MODULUS}};

static void track_fill(int32_t *ids, int32_t *targets, size_t batch, size_t len, const void *from,
                       Random *random)
{
    const TrackTask *task = (const TrackTask *)from;
    for (size_t b = 0; b < batch; b++)
        task->piece(ids + b * len, targets + b * len, len, random);
}

/* ======================================= The models ======================================== */

enum { TRACK_MAMBA1, TRACK_MAMBA2, TRACK_MAMBA3, TRACK_MODELS };

static const char *const track_name[TRACK_MODELS] = {"Mamba-1", "Mamba-2", "Mamba-3"};

/* 32 channels in the stream, 64 in a layer, 16 states for each; heads of 16 channels, where there
   are heads, and all states in pairs that turn, where they turn. Deltas start from 0.1 to 1: a turn
   by half a round wants a step near 1. */
static MambaConfig track_config(int which, size_t layers)
{
    enum { D_MODEL = 32, D_HEAD = 16, D_STATE = 16 };
    MambaConfig config = which == TRACK_MAMBA1 ? config_default(D_MODEL)
                         : which == TRACK_MAMBA2
                             ? config_default_heads(D_MODEL, D_HEAD, D_STATE)
                             : config_default_turning(D_MODEL, D_HEAD, D_STATE, D_STATE / 2);
    config.num_hidden_layers = layers;
    config.vocab_size = TRACK_TOKENS;
    config.tie_word_embeddings = false; /* a bit that is read is not the bit that is answered */
    config.time_step_min = config.time_step_floor = 0.1;
    config.time_step_max = 1.0;
    return config;
}

/* How all of them learn: short pieces first, which teach to count, then long ones, which teach to
   count exactly. The paper goes from 40 tokens to 160 too. The last third of the steps is long. */
typedef struct {
    uint64_t batch, len;
    double rate;
} TrackStage;

enum { TRACK_STAGES = 2 };
static const TrackStage track_stage[TRACK_STAGES] = {{16, 40, 4e-3}, {4, 160, 1e-3}};

static TrainSettings track_settings(int stage, uint64_t steps, uint64_t seed)
{
    uint64_t first = steps - steps / 3;
    TrainSettings settings = {track_stage[stage].batch,
                              track_stage[stage].len,
                              stage == 0 ? first : steps - first,
                              seed,
                              track_stage[stage].rate,
                              0.1,
                              1.0,
                              0.0};
    return settings;
}

/* ===================================== Right answers ======================================= */

/* Tokens are counted in ranges: those of either stage, and beyond. */
enum { TRACK_RANGES = 3, TRACK_LEN = 256, TRACK_ASKED = 128, TRACK_TOGETHER = 16 };
static const size_t range_end[TRACK_RANGES] = {40, 160, TRACK_LEN};

/* Right answers in percent, by where in the text they are asked. */
static void track_ask(double right[TRACK_RANGES], const TrackTask *task, const Model *model)
{
    enum { TOKENS = TRACK_TOGETHER * TRACK_LEN };
    size_t good[TRACK_RANGES] = {0}, all[TRACK_RANGES] = {0}, vocab = model->config.vocab_size;
    int32_t *ids = NEW(int32_t, 2 * TOKENS), *targets = ids + TOKENS;
    ModelWork work = model_work_new(model, TRACK_TOGETHER, TRACK_LEN, false);
    Random random = random_from_seed(99); /* the same questions for every model */
    for (size_t i = 0; i < TRACK_ASKED; i += TRACK_TOGETHER) {
        track_fill(ids, targets, TRACK_TOGETHER, TRACK_LEN, task, &random);
        model_forward(&work, NULL, ids, model);
        for (size_t t = 0; t < TOKENS; t++) {
            size_t range = 0;
            if (targets[t] == NOT_ASKED)
                continue;
            while (t % TRACK_LEN >= range_end[range])
                range++;
            all[range]++;
            good[range] += token_greedy(work.logits + t * vocab, vocab) == (size_t)targets[t];
        }
    }
    for (int range = 0; range < TRACK_RANGES; range++)
        right[range] = 100.0 * (double)good[range] / (double)all[range];
    model_work_free(&work);
    free(ids);
}

/* Trains a model with everything that a stage says. */
static void track_train(Model *model, const char *name, const TrackTask *task,
                        const TrainSettings *settings)
{
    Trainer trainer = trainer_new(model, settings);
    BatchSource source = {track_fill, task};
    Progress progress = progress_start(name);
    while (trainer.adam.step < settings->steps) {
        trainer_step(&trainer, &source);
        progress_show(&progress, (double)trainer.adam.step, (double)settings->steps);
    }
    progress_end(&progress);
    trainer_free(&trainer);
}

/* A model of one kind, trained; what it gets right. */
static void track_learn(double right[TRACK_RANGES], int which, const TrackTask *task,
                        uint64_t steps, size_t layers, uint64_t seed)
{
    MambaConfig config = track_config(which, layers);
    Random random = random_from_seed(seed);
    Model model = model_new(&config);
    model_init(&model, &random);
    for (int stage = 0; stage < TRACK_STAGES; stage++) {
        TrainSettings settings = track_settings(stage, steps, seed);
        if (settings.steps > 0)
            track_train(&model, track_name[which], task, &settings);
    }
    track_ask(right, task, &model);
    model_free(&model);
}

/* ======================================== Showing ========================================== */

enum { TRACK_SEEDS = 64 };

/* One line of the table. */
static void print_right(const char *what, const double right[TRACK_RANGES])
{
    printf("  %-10s", what);
    for (int range = 0; range < TRACK_RANGES; range++)
        printf(" %12.1f", right[range]);
    putchar('\n');
    fflush(stdout);
}

/* The median and the worst of all seeds. */
static void print_median(double right[][TRACK_RANGES], size_t seeds)
{
    double middle[TRACK_RANGES], worst[TRACK_RANGES], sorted[TRACK_SEEDS] = {0};
    for (int range = 0; range < TRACK_RANGES; range++) {
        for (size_t i = 0; i < seeds; i++)
            sorted[i] = right[i][range];
        middle[range] = median(sorted, seeds);
        worst[range] = sorted[0];
    }
    print_right("median", middle);
    print_right("worst", worst);
}

/* What is asked for at the command line. */
typedef struct {
    uint64_t seed, seeds, steps, layers;
    int only; /* a model, or below 0: all */
} TrackWish;

/* One model with every seed. */
static void track_rows(int which, const TrackTask *task, const TrackWish *wish)
{
    double right[TRACK_SEEDS][TRACK_RANGES];
    char name[32];
    MambaConfig config = track_config(which, (size_t)wish->layers);
    printf("\n%s, %zu parameters\n", track_name[which], model_floats(&config));
    for (size_t i = 0; i < wish->seeds; i++) {
        double start = seconds_now();
        track_learn(right[i], which, task, wish->steps, (size_t)wish->layers, wish->seed + i);
        fprintf(stderr, "%s, seed %" PRIu64 ": %.0f s\n", track_name[which], wish->seed + i,
                seconds_now() - start);
        snprintf(name, sizeof name, "seed %" PRIu64, wish->seed + i);
        print_right(name, right[i]);
    }
    if (wish->seeds > 1)
        print_median(right, (size_t)wish->seeds);
}

/* A task from start to end: every model, with every seed. */
static void track_table(const TrackTask *task, const TrackWish *wish)
{
    char name[32];
    printf("%s\nLayers: %" PRIu64 ", of 32 channels, 16 states each; %" PRIu64
           " steps of 640 tokens. Right answers in percent,\nchance is %.0f\n\n  tokens    ",
           task->title, wish->layers, wish->steps, 100.0 / (double)task->answers);
    for (int range = 0; range < TRACK_RANGES; range++) {
        snprintf(name, sizeof name, "%zu to %zu", range > 0 ? range_end[range - 1] + 1 : 1,
                 range_end[range]);
        printf(" %12s", name);
    }
    putchar('\n');
    for (int which = 0; which < TRACK_MODELS; which++)
        if (wish->only < 0 || which == wish->only)
            track_rows(which, task, wish);
}

/* The beginning of a piece of a task: what is read, and below it what is to be said. */
static void print_piece(const TrackTask *task, Random *random)
{
    enum { LEN = 25 };
    static const char shown[TRACK_TOKENS + 1] = "01234+-*";
    int32_t id[LEN], target[LEN];
    char read[2 * LEN + 1] = "", said[2 * LEN + 1] = "";
    task->piece(id, target, LEN, random);
    for (size_t t = 0; t < LEN; t++) {
        snprintf(read + 2 * t, 3, " %c", shown[id[t]]);
        snprintf(said + 2 * t, 3, " %c", target[t] == NOT_ASKED ? ' ' : shown[target[t]]);
    }
    printf("%s\n\n    reads  %s\n    says   %s\n", task->title, read, said);
}

/* ======================================= Program =========================================== */

int state_tracking_main(int argc, char **argv)
{
    TrackWish wish = {1, 5, 1500, 2, -1};
    int task = -1;
    const Option table[] = {
        {"task", "parity|sums|products", OPTION_CHOICE, 0, 0, &task, "mode",
         "train all three models on it (minutes)"},
        {"model", "mamba1|mamba2|mamba3", OPTION_CHOICE, 0, 0, &wish.only, "task", "only this one"},
        {"steps", "N", OPTION_WHOLE, 1, 1e8, &wish.steps, "task",
         "of the training, a third of them with longer pieces (default 1500)"},
        {"layers", "N", OPTION_WHOLE, 1, 64, &wish.layers, "task", "of each model (default 2)"},
        {"seeds", "N", OPTION_WHOLE, 1, TRACK_SEEDS, &wish.seeds, "task",
         "train so many times, from seed S on (default 5)"},
        {"seed", "S", OPTION_WHOLE, 0, WHOLE_MOST, &wish.seed, "",
         "of the training, or of the examples (default 1)"},
    };
    const Program program = {"ch05_state_tracking",
                             "Counting modulo 2 and modulo 5, with layers of Mamba-1, Mamba-2 and "
                             "Mamba-3 (chapter 5d). Without options: an example of each task.",
                             table, sizeof table / sizeof *table};
    int status;
    if (!program_begin(&status, &program, argc, argv))
        return status;
    Random random = random_from_seed(wish.seed);
    if (task >= 0)
        track_table(&track_task[task], &wish);
    for (int i = 0; i < TRACK_TASKS && task < 0; i++) {
        print_piece(&track_task[i], &random);
        if (i + 1 < TRACK_TASKS)
            putchar('\n');
    }
    return program_end(true, NULL);
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return state_tracking_main(argc, argv);
}
#endif

#endif /* CH05_STATE_TRACKING */
