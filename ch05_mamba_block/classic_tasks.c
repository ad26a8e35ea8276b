/* Two classic tasks, the Mamba paper's own: remember what matters among noise, and find again what
   once followed a word. Each with a selective and a time-invariant model of the same size; or with
   Mamba-2 beside the selective one.

   HOLDS   selective copying and induction heads; the lessons that lead up to them; right answers,
           piece by piece; the training of both models with several seeds, and their scores at
           lengths far beyond training
   FOR     the lesson LEARNING.md, section "Two classic tasks", and its tests
   BUILD   cc -O2 ch05_mamba_block/classic_tasks.c -o classic_tasks -lm && ./classic_tasks
   SOURCE  A. Gu, T. Dao, Mamba, arXiv 2312.00752, section 4.1, figure 2, appendix E
           Y. Bengio et al., Curriculum learning, ICML 2009 (from easy to hard) */

#ifndef CH05_CLASSIC_TASKS
#define CH05_CLASSIC_TASKS

#include "language_model.c"
#include "../ch01_markov/measure.h" /* the median */

/* ======================================= The tasks ========================================= */
/* Each as the paper asks it, and as a lesson from which a small model learns it in minutes. A
   question of the paper's says yes or no to a whole mechanism at once, with few answers to learn
   from. A lesson asks the same in small steps. */

enum { TASK_SYMBOLS = 16, TASK_REMEMBER = 16, NOISE = 0, MARKER = TASK_SYMBOLS - 1 };

/* One piece to copy: some symbols at random places of the first `spread` tokens, then as many
   markers, at which the symbols are to be said in their order; noise everywhere else. */
static void copying_piece(int32_t *id, int32_t *target, size_t len, size_t symbols, size_t spread,
                          Random *random)
{
    size_t said = spread, end = spread + symbols;
    assert(symbols <= spread && end <= len);
    for (size_t t = 0; t < len; t++) {
        id[t] = t < spread || t >= end ? NOISE : MARKER;
        target[t] = -1;
    }
    for (size_t t = 0; said < end; t++) { /* all sets of places are equally likely */
        double chance = (double)(end - said) / (double)(spread - t);
        if (random_uniform(random) < chance)
            id[t] = target[said++] = 1 + (int32_t)one_of(random, MARKER - 1);
    }
}

/* Selective copying: TASK_REMEMBER symbols, and noise between them up to the first marker (the
   paper's figure 2 and appendix E.1). */
static void copying_fill(int32_t *ids, int32_t *targets, size_t batch, size_t len, const void *from,
                         Random *random)
{
    (void)from;
    for (size_t b = 0; b < batch; b++)
        copying_piece(ids + b * len, targets + b * len, len, TASK_REMEMBER, len - TASK_REMEMBER,
                      random);
}

/* The lesson: first one symbol, then more and more; and as often hardly any noise as much of it
   (the logarithm of the spread is uniform). `from` says how many symbols it is now; one piece in
   four has any number up to it, so that nothing is forgotten. */
static void copying_lesson(int32_t *ids, int32_t *targets, size_t batch, size_t len,
                           const void *from, Random *random)
{
    size_t most = *(const size_t *)from;
    for (size_t b = 0; b < batch; b++) {
        size_t symbols = one_of(random, 4) == 0 ? 1 + one_of(random, most) : most;
        double least = log((double)symbols), widest = log((double)(len - symbols) + 0.999);
        size_t spread = (size_t)exp(least + (widest - least) * random_uniform(random));
        copying_piece(ids + b * len, targets + b * len, len, symbols,
                      spread > symbols ? spread : symbols, random);
    }
}

static void random_symbols(int32_t *id, int32_t *target, size_t len, Random *random)
{
    for (size_t t = 0; t < len; t++) {
        id[t] = (int32_t)one_of(random, MARKER);
        target[t] = -1;
    }
}

/* Induction heads: somewhere in random symbols a marker and a symbol after it; the last token is
   the marker again, and that symbol is to be said (appendix E.1). */
static void induction_fill(int32_t *ids, int32_t *targets, size_t batch, size_t len,
                           const void *from, Random *random)
{
    (void)from;
    for (size_t b = 0; b < batch; b++) {
        int32_t *id = ids + b * len, *target = targets + b * len;
        size_t place = one_of(random, len - 2);
        random_symbols(id, target, len, random);
        id[place] = id[len - 1] = MARKER;
        target[len - 1] = id[place + 1];
    }
}

/* The lesson: many markers. Each asks what followed the one before it, and brings the next answer.
   A gap is longer than g with chance sqrt(2 / g): most are short and soon learnt, and now and
   then one goes through the whole piece. */
static void induction_lesson(int32_t *ids, int32_t *targets, size_t batch, size_t len,
                             const void *from, Random *random)
{
    (void)from;
    for (size_t b = 0; b < batch; b++) {
        int32_t *id = ids + b * len, *target = targets + b * len;
        size_t before = len, gap;
        random_symbols(id, target, len, random);
        for (size_t t = one_of(random, 2); t < len; before = t, t += gap) {
            double u = 1.0 - random_uniform(random);
            gap = (size_t)fmin(2.0 / (u * u), (double)len);
            id[t] = MARKER;
            if (before < len)
                target[t] = id[before + 1];
        }
    }
}

typedef void (*TaskFill)(int32_t *ids, int32_t *targets, size_t batch, size_t len, const void *from,
                         Random *random);

/* A part of a training: so many steps on `batch` pieces of `len` tokens. */
typedef struct {
    uint64_t batch, len, steps;
    double rate; /* the highest */
} TaskPart;

/* How a task is learnt: in at most two parts, the second with longer pieces (or with no steps). */
enum { TASK_PARTS = 2 };
typedef struct {
    TaskFill fill;
    TaskPart part[TASK_PARTS];
    double decay, average;
    double delta_least, delta_most; /* the Deltas at the start */
} TaskTraining;

/* What tells one task from the other. */
typedef struct {
    const char *name, *title;
    TaskFill ask;                /* the paper's question */
    size_t shortest, longest;    /* it is asked at these lengths, and four times each in between */
    TaskTraining lessons, paper; /* at classroom size; as the paper learns it */
} Task;

/* The paper's rates are constant; here they go up first and then down, as for the stories. Its
   Deltas start from 0.001 to 0.1. In the classroom nearly shut gates come first: a state that
   holds by itself has only to learn when to open. */
static const Task task_copying = {
    "copying",
    "Selective copying: 16 symbols among noise",
    copying_fill,
    64,
    1024,
    {copying_lesson, {{16, 64, 8000, 4e-3}, {4, 256, 6000, 2e-3}}, 0.1, 0.998, 1e-6, 0.1},
    {copying_fill, {{64, 4096, 400000, 1e-4}}, 0.1, 0.0, 1e-3, 0.1}};
static const Task task_induction = {
    "induction",
    "Induction heads: what followed the marker?",
    induction_fill,
    256,
    65536,
    {induction_lesson, {{1, 4096, 1200, 4e-3}}, 0.1, 0.0, 1e-6, 0.01},
    {induction_fill, {{8, 256, 204800, 1e-3}}, 0.0, 0.0, 1e-3, 0.1}};

/* ===================================== Right answers ======================================= */

/* How many targets of `count` sequences get the largest logit, all counted in *all. They are read
   in pieces, each of which goes on from the state that the one before it left: what is worked with
   does not depend on the length. */
static size_t right_answers(size_t *all, TaskFill question, size_t count, size_t len, size_t piece,
                            const Model *model, Random *random)
{
    size_t vocab = model->config.vocab_size, right = 0, padded = (len + piece - 1) / piece * piece;
    int32_t *ids = NEW(int32_t, count * len), *targets = NEW(int32_t, count * len),
            *now = NEW(int32_t, count * piece);
    float *state = NEW(float, model_state_floats(&model->config, count));
    ModelWork work = model_work_new(model, count, piece, false);
    question(ids, targets, count, len, NULL, random);
    for (size_t from = 0; from < padded; from += piece) {
        for (size_t b = 0; b < count; b++) /* behind the end any token will do */
            for (size_t t = 0; t < piece; t++)
                now[b * piece + t] = from + t < len ? ids[b * len + from + t] : NOISE;
        model_forward(&work, state, now, model);
        for (size_t b = 0; b < count; b++)
            for (size_t t = 0; t < piece && from + t < len; t++) {
                int32_t target = targets[b * len + from + t];
                const float *logits = work.logits + (b * piece + t) * vocab;
                *all += target >= 0;
                right += target >= 0 && token_greedy(logits, vocab) == (size_t)target;
            }
    }
    free(ids), free(targets), free(now), free(state);
    model_work_free(&work);
    return right;
}

enum { TASK_TOGETHER = 16, TASK_PIECE = 256 };

/* The same in percent, of `count` sequences, a multiple of TASK_TOGETHER, of which so many are read
   at a time. */
static double percent_right(TaskFill question, size_t count, size_t len, const Model *model,
                            Random *random)
{
    size_t all = 0, right = 0;
    for (size_t i = 0; i < count; i += TASK_TOGETHER)
        right += right_answers(&all, question, TASK_TOGETHER, len, smaller(len, TASK_PIECE), model,
                               random);
    return 100.0 * (double)right / (double)all;
}

/* ======================================= Learning ========================================== */

/* What is trained beside what. Mamba-2 has heads of 16 channels and 64 states. */
typedef enum { MODEL_SELECTIVE, MODEL_INVARIANT, MODEL_OF_HEADS, TASK_NAMES } TaskModel;

static const char *const task_model_name[TASK_NAMES] = {"selective", "time-invariant", "Mamba-2"};

static MambaConfig task_config(TaskModel which)
{
    MambaConfig config =
        which == MODEL_OF_HEADS ? config_default_heads(64, 16, 64) : config_default(64);
    config.num_hidden_layers = 2;
    config.vocab_size = TASK_SYMBOLS;
    config.fixed = which == MODEL_INVARIANT ? FIXED_ALL : 0;
    return config;
}

/* The paper's model for both tasks: two layers, 64 channels. */
static Model task_model(TaskModel which, const TaskTraining *training, uint64_t seed)
{
    MambaConfig config = task_config(which);
    Random random = random_from_seed(seed);
    config.time_step_min = config.time_step_floor = training->delta_least;
    config.time_step_max = training->delta_most;
    Model model = model_new(&config);
    model_init(&model, &random);
    return model;
}

static TrainSettings task_settings(const TaskTraining *training, const TaskPart *part,
                                   uint64_t seed)
{
    TrainSettings settings;
    memset(&settings, 0, sizeof settings);
    settings.batch = part->batch;
    settings.len = part->len;
    settings.steps = part->steps;
    settings.seed = seed;
    settings.rate = part->rate;
    settings.decay = training->decay;
    settings.average = training->average;
    settings.clip = 1.0;
    return settings;
}

static uint64_t task_steps(const TaskTraining *training)
{
    return training->part[0].steps + training->part[1].steps;
}

/* How many symbols are to be copied at a step of the first part: more and more, and all of them
   from its middle on. */
static size_t symbols_now(uint64_t step, uint64_t steps)
{
    return smaller(TASK_REMEMBER, 1 + (size_t)(2 * TASK_REMEMBER * step / steps));
}

enum { TASK_SEEDS = 64, TASK_LENGTHS = 8, TASK_POINTS = 20, TASK_MODELS = 2 };

/* What both models score, in percent: [0] the selective one, [1] its twin; or Mamba-2, and the
   selective one. */
typedef struct {
    TaskModel model[TASK_MODELS];
    size_t n_seed, n_length;
    double at[TASK_POINTS], learning[TASK_MODELS][TASK_POINTS][TASK_SEEDS];
    double length[TASK_LENGTHS], right[TASK_MODELS][TASK_LENGTHS][TASK_SEEDS];
    size_t count[TASK_LENGTHS]; /* sequences asked */
} TaskScores;

/* The question itself, at the shortest length, to the average of the weights. */
static double task_ask(Trainer *trainer, const Task *task)
{
    Random random = random_from_seed(98);
    trainer_swap_average(trainer);
    double percent =
        percent_right(task->ask, TASK_TOGETHER * 4, task->shortest, trainer->model, &random);
    trainer_swap_average(trainer);
    return percent;
}

/* Trains a model, part after part, and leaves it with the average of its weights; now and then it
   is asked. */
static void task_train(TaskScores *scores, int which, size_t seed, Model *model, const Task *task,
                       const TaskTraining *training, uint64_t seed_of_run)
{
    uint64_t done = 0, steps = task_steps(training);
    Progress progress = progress_start(task->name);
    for (size_t i = 0, point = 0; i < TASK_PARTS; i++) {
        TrainSettings settings = task_settings(training, &training->part[i], seed_of_run);
        if (settings.steps == 0)
            continue;
        Trainer trainer = trainer_new(model, &settings);
        size_t symbols = TASK_REMEMBER;
        BatchSource source = {training->fill, &symbols};
        while (trainer.adam.step < settings.steps) {
            symbols = i == 0 ? symbols_now(trainer.adam.step, settings.steps) : symbols;
            trainer_step(&trainer, &source);
            progress_show(&progress, (double)++done, (double)steps);
            for (; point < done * TASK_POINTS / steps; point++) {
                scores->at[point] = (double)done;
                scores->learning[which][point][seed] = task_ask(&trainer, task);
            }
        }
        trainer_swap_average(&trainer);
        trainer_free(&trainer);
    }
    progress_end(&progress);
}

/* As many sequences as a quarter of a million tokens have, from 128 to 1,024. */
static size_t sequences_asked(size_t len)
{
    size_t count = smaller(1024, 262144 / len);
    return (count > 128 ? count : 128) / TASK_TOGETHER * TASK_TOGETHER;
}

/* Right answers at the lengths of training and far beyond. */
static void task_lengths(TaskScores *scores, int which, size_t seed, const Task *task,
                         const Model *model)
{
    Progress progress = progress_start("lengths");
    for (size_t i = 0; i < scores->n_length; i++) {
        Random random = random_from_seed(99);
        size_t len = (size_t)scores->length[i];
        scores->right[which][i][seed] =
            percent_right(task->ask, scores->count[i], len, model, &random);
        progress_show(&progress, (double)(i + 1), (double)scores->n_length);
    }
    progress_end(&progress);
}

/* No model yet, and the lengths that will be asked. */
static TaskScores *task_scores_new(const Task *task, size_t seeds, bool mamba2)
{
    TaskScores *scores = NEW(TaskScores, 1);
    scores->model[0] = mamba2 ? MODEL_OF_HEADS : MODEL_SELECTIVE;
    scores->model[1] = mamba2 ? MODEL_SELECTIVE : MODEL_INVARIANT;
    scores->n_seed = seeds;
    for (size_t len = task->shortest; len <= task->longest; len *= 4) {
        assert(scores->n_length < TASK_LENGTHS);
        scores->count[scores->n_length] = sequences_asked(len);
        scores->length[scores->n_length++] = (double)len;
    }
    return scores;
}

/* Both models, seed after seed. */
static void task_learn(TaskScores *scores, const Task *task, const TaskTraining *training,
                       uint64_t first)
{
    for (size_t seed = 0; seed < scores->n_seed; seed++)
        for (int which = 0; which < TASK_MODELS; which++) {
            Model model = task_model(scores->model[which], training, first + seed);
            double start = seconds_now();
            task_train(scores, which, seed, &model, task, training, first + seed);
            double trained = seconds_now();
            task_lengths(scores, which, seed, task, &model);
            fprintf(stderr, "%s, seed %" PRIu64 ": trained in %.0f s, asked in %.0f s\n",
                    task_model_name[scores->model[which]], first + seed, trained - start,
                    seconds_now() - trained);
            model_free(&model);
        }
}

/* ======================================= Showing =========================================== */

/* The median of some numbers, which stay in their order, and the least of them. */
static double median_of(const double *values, size_t count, double *least)
{
    double sorted[TASK_SEEDS];
    memcpy(sorted, values, count * sizeof *values);
    double middle = median(sorted, count);
    *least = sorted[0];
    return middle;
}

/* One model's scores: a line for each seed; then the median and the worst, length by length. */
static void print_scores(const TaskScores *scores, int which, uint64_t first)
{
    double middle[TASK_LENGTHS], worst[TASK_LENGTHS];
    printf("\n%s\n", task_model_name[scores->model[which]]);
    for (size_t seed = 0; seed < scores->n_seed; seed++) {
        printf("  seed %-5" PRIu64, first + seed);
        for (size_t i = 0; i < scores->n_length; i++)
            printf("  %7.1f", scores->right[which][i][seed]);
        putchar('\n');
    }
    if (scores->n_seed == 1)
        return;
    for (size_t i = 0; i < scores->n_length; i++)
        middle[i] = median_of(scores->right[which][i], scores->n_seed, &worst[i]);
    printf("  median    ");
    for (size_t i = 0; i < scores->n_length; i++)
        printf("  %7.1f", middle[i]);
    printf("\n  worst     ");
    for (size_t i = 0; i < scores->n_length; i++)
        printf("  %7.1f", worst[i]);
    putchar('\n');
}

/* All of it in percent, by length. */
static void print_task_table(const TaskScores *scores, uint64_t first)
{
    printf("Right answers in percent, by length\n\n  length    ");
    for (size_t i = 0; i < scores->n_length; i++)
        printf("  %7.0f", scores->length[i]);
    printf("\n  sequences ");
    for (size_t i = 0; i < scores->n_length; i++)
        printf("  %7zu", scores->count[i]);
    putchar('\n');
    for (int which = 0; which < TASK_MODELS; which++)
        print_scores(scores, which, first);
}

/* Medians of all seeds: copying over the steps of training, induction over the lengths. */
static bool draw_task(const Task *task, const TaskScores *scores, const Show *show, Error *error)
{
    bool copying = task->ask == copying_fill;
    size_t points = copying ? (size_t)TASK_POINTS : scores->n_length;
    double middle[TASK_MODELS][TASK_POINTS], least;
    Chart chart = chart_new(copying ? "Right symbols while learning" : "Right answers by length",
                            copying ? "step" : "length", "percent");
    chart.log_x = !copying;
    for (int which = 0; which < TASK_MODELS; which++) {
        for (size_t i = 0; i < points; i++)
            middle[which][i] =
                median_of(copying ? scores->learning[which][i] : scores->right[which][i],
                          scores->n_seed, &least);
        chart_add(&chart, task_model_name[scores->model[which]], MARK_LINE,
                  copying ? scores->at : scores->length, middle[which], points);
    }
    return chart_show(&chart, show, error);
}

/* A task from start to end: both models trained with every seed, a table, a chart. */
static bool show_task(const Task *task, const TaskTraining *training, size_t seeds, bool mamba2,
                      const Show *show, Error *error)
{
    MambaConfig config = task_config(MODEL_SELECTIVE), heads = task_config(MODEL_OF_HEADS);
    printf("%s\n2 layers of 64 channels, %zu parameters", task->title, model_floats(&config));
    for (const TaskPart *part = training->part; part < training->part + TASK_PARTS; part++)
        if (part->steps > 0)
            printf("; %" PRIu64 " steps of %" PRIu64 " x %" PRIu64, part->steps, part->batch,
                   part->len);
    puts(" tokens\n");
    if (mamba2)
        printf("Mamba-2 has %zu: 8 heads of 16 channels, 64 states\n\n", model_floats(&heads));
    fflush(stdout);
    TaskScores *scores = task_scores_new(task, seeds, mamba2);
    task_learn(scores, task, training, show->seed);
    print_task_table(scores, show->seed);
    bool ok = draw_task(task, scores, show, error);
    free(scores);
    return ok;
}

/* A short piece of a task: what is read, and below it what is to be said. */
static void print_example(const Task *task, Random *random)
{
    enum { LEN = 64 };
    static const char shown[TASK_SYMBOLS + 1] = "abcdefghijklmno?";
    bool copying = task->ask == copying_fill;
    int32_t ids[LEN], targets[LEN];
    char read[LEN + 1] = "", said[LEN + 1] = "";
    task->ask(ids, targets, 1, LEN, NULL, random);
    for (size_t t = 0; t < LEN; t++) {
        read[t] = copying && ids[t] == NOISE ? '.' : shown[ids[t]];
        said[t] = targets[t] < 0 ? ' ' : shown[targets[t]];
    }
    printf("%s\n\n    reads  %s\n    says   %s\n", task->title, read, said);
}

/* ======================================= Program =========================================== */

typedef struct {
    bool copying, induction, full, mamba2, ascii;
    const char *svg;
    uint64_t steps, seed, seeds;
} TaskOptions;

static bool run_task(const TaskOptions *options, const Show *show, Error *error)
{
    Task task = options->copying ? task_copying : task_induction;
    TaskTraining training = options->full ? task.paper : task.lessons;
    if (options->steps > 0) { /* each part its share */
        uint64_t second = options->steps * training.part[1].steps / task_steps(&training);
        training.part[0].steps = options->steps - second;
        training.part[1].steps = second;
    }
    if (options->full && options->copying) { /* asked at its own length, and beyond */
        task.shortest = (size_t)training.part[0].len;
        task.longest = 16 * task.shortest;
    }
    return show_task(&task, &training, (size_t)options->seeds, options->mamba2, show, error);
}

static bool demo_examples(const Show *show, Error *error)
{
    Random random = random_from_seed(show->seed);
    (void)error;
    print_example(&task_copying, &random);
    putchar('\n');
    print_example(&task_induction, &random);
    return true;
}

int classic_tasks_main(int argc, char **argv)
{
    TaskOptions o = {false, false, false, false, false, NULL, 0, 1, 1};
    const Option table[] = {
        {"copying", NULL, OPTION_SWITCH, 0, 0, &o.copying, "mode",
         "train both models on selective copying (minutes)"},
        {"induction", NULL, OPTION_SWITCH, 0, 0, &o.induction, "mode",
         "train both models on induction heads (minutes)"},
        {"full", NULL, OPTION_SWITCH, 0, 0, &o.full, "copying induction",
         "as the paper learns them: its sizes, its steps, no lessons (days)"},
        {"mamba2", NULL, OPTION_SWITCH, 0, 0, &o.mamba2, "copying induction",
         "Mamba-2, and the selective model beside it"},
        {"steps", "N", OPTION_WHOLE, 1, 1e8, &o.steps, "copying induction",
         "of the training (default 14000 and 1200)"},
        {"seeds", "N", OPTION_WHOLE, 1, TASK_SEEDS, &o.seeds, "copying induction",
         "train so many times, from seed S on (default 1)"},
        {"seed", "S", OPTION_WHOLE, 0, WHOLE_MOST, &o.seed, "",
         "of the training, or of the examples (default 1)"},
        {"svg", "FILE", OPTION_OUT, 0, 0, &o.svg, "copying induction", "write the chart as SVG"},
        {"ascii", NULL, OPTION_SWITCH, 0, 0, &o.ascii, "copying induction", "draw without Unicode"},
    };
    const Program program = {"ch05_classic_tasks",
                             "Two classic tasks, with a selective and a time-invariant model "
                             "(chapter 5a). Without options: an example of each.",
                             table, sizeof table / sizeof *table};
    int status;
    if (!program_begin(&status, &program, argc, argv))
        return status;
    Error error;
    Show show = {look_at_terminal(o.ascii), o.svg, o.seed};
    return program_end(o.copying || o.induction ? run_task(&o, &show, &error)
                                                : demo_examples(&show, &error),
                       &error);
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return classic_tasks_main(argc, argv);
}
#endif

#endif /* CH05_CLASSIC_TASKS */
