/* Two classic tasks, the Mamba paper's own: remember what matters among noise, and find again what
   once followed a word. Each with a selective and a time-invariant model of the same size.

   HOLDS   selective copying and induction heads; right answers at once and token by token; the
           training of both models, at lengths far beyond training too
   FOR     the lesson's section "Two classic tasks", and its tests
   BUILD   cc -O2 ch05_mamba_block/classic_tasks.c -o classic_tasks -lm && ./classic_tasks
   SOURCE  A. Gu, T. Dao, Mamba, arXiv 2312.00752, section 4.1, figure 2, appendix E */

#ifndef CH05_CLASSIC_TASKS
#define CH05_CLASSIC_TASKS

#include "language_model.c"

/* ======================================= The tasks ========================================= */

enum { TASK_SYMBOLS = 16, TASK_REMEMBER = 16, NOISE = 0, MARKER = TASK_SYMBOLS - 1 };

/* What tells one task from the other. */
typedef struct {
    const char *name, *title;
    BatchSource source;
    TrainSettings settings; /* classroom size */
    TrainSettings full;     /* the paper's */
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
                                  {32, 64, 4000, 1, 3e-3, 0.1, 1.0, 0.0},
                                  {64, 4096 + TASK_REMEMBER, 400000, 1, 1e-4, 0.1, 1.0, 0.0}};
static const Task task_induction = {"induction",
                                    "Induction heads: what followed the marker?",
                                    {induction_fill, NULL},
                                    {8, 256, 3000, 1, 3e-3, 0.1, 1.0, 0.0},
                                    {8, 256, 204800, 1, 1e-3, 0.1, 1.0, 0.0}};

/* ===================================== Right answers ======================================= */

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
    batch_loss(trainer, false);
    for (size_t g = 0; g < trainer->n_group; g++) {
        const Group *group = &trainer->group[g];
        for (size_t t = 0; t < group->work.batch * group->work.len; t++) {
            const float *logits = group->work.logits + t * vocab;
            int32_t target = trainer->targets[group->first + t];
            all += target >= 0;
            right += target >= 0 && token_greedy(logits, vocab) == (size_t)target;
        }
    }
    return (double)right / (double)all;
}

/* The paper's model for both tasks: two layers, 64 channels. */
static Model task_model(bool time_invariant, uint64_t seed)
{
    MambaConfig config = config_default(64);
    Random random = random_from_seed(seed);
    config.num_hidden_layers = 2;
    config.vocab_size = TASK_SYMBOLS;
    config.time_invariant = time_invariant;
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
                      const Show *show, Error *error)
{
    bool copying = task->source.fill == copying_fill;
    Chart chart = chart_new(copying ? "Right symbols while learning" : "Right answers by length",
                            copying ? "step" : "length", "percent");
    chart.log_x = !copying;
    chart_add(&chart, "selective", MARK_LINE, x, percent[0], points);
    chart_add(&chart, "time-invariant", MARK_LINE, x, percent[1], points);
    return chart_show(&chart, show, error);
}

/* A task from start to end: both models trained, a table, a chart. */
static bool show_task(const Task *task, const TrainSettings *settings, const Show *show,
                      Error *error)
{
    double at[TASK_POINTS], curve[2][TASK_POINTS], length[TASK_LENGTHS], far[2][TASK_LENGTHS];
    double *learnt[2] = {curve[0], curve[1]}, *percent[2] = {far[0], far[1]}, start = seconds_now();
    bool copying = task->source.fill == copying_fill;
    Model model[2] = {task_model(false, settings->seed), task_model(true, settings->seed)};
    printf("%s\n2 layers of 64 channels, %zu parameters; trained at length %" PRIu64 ", %" PRIu64
           " steps of %" PRIu64 "\n\n",
           task->title, model_floats(&model[0].config), settings->len, settings->steps,
           settings->batch);
    fflush(stdout);
    for (int which = 0; which < 2; which++)
        task_train(curve[which], at, &model[which], task, settings);
    fprintf(stderr, "both trained in %.0f s\n", seconds_now() - start);
    size_t longest = copying ? 16 * settings->len : 65536;
    size_t count = task_lengths(length, percent, task, settings->len, longest, model);
    puts("  length   selective   time-invariant");
    for (size_t i = 0; i < count; i++)
        printf("  %6.0f   %7.1f %%   %12.1f %%\n", length[i], far[0][i], far[1][i]);
    model_free(&model[0]), model_free(&model[1]);
    return draw_task(task, copying ? at : length, copying ? learnt : percent,
                     copying ? (size_t)TASK_POINTS : count, show, error);
}

/* A short piece of a task: what is read, and below it what is to be said. */
static void print_example(const Task *task, Random *random)
{
    enum { LEN = 64 };
    static const char shown[TASK_SYMBOLS + 1] = "abcdefghijklmno?";
    bool copying = task->source.fill == copying_fill;
    int32_t ids[LEN], targets[LEN];
    char read[LEN + 1] = "", said[LEN + 1] = "";
    task->source.fill(ids, targets, 1, LEN, NULL, random);
    for (size_t t = 0; t < LEN; t++) {
        read[t] = copying && ids[t] == NOISE ? '.' : shown[ids[t]];
        said[t] = targets[t] < 0 ? ' ' : shown[targets[t]];
    }
    printf("%s\n\n    reads  %s\n    says   %s\n", task->title, read, said);
}

/* ======================================= Program =========================================== */

typedef struct {
    bool copying, induction, full, ascii;
    const char *svg;
    uint64_t steps, seed;
} TaskOptions;

static bool run_task(const TaskOptions *options, const Show *show, Error *error)
{
    const Task *task = options->copying ? &task_copying : &task_induction;
    TrainSettings settings = options->full ? task->full : task->settings;
    settings.steps = options->steps > 0 ? options->steps : settings.steps;
    settings.seed = options->seed;
    return show_task(task, &settings, show, error);
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
    TaskOptions o = {false, false, false, false, NULL, 0, 1};
    const Option table[] = {
        {"copying", NULL, OPTION_SWITCH, 0, 0, &o.copying, "mode",
         "train both models on selective copying (minutes)"},
        {"induction", NULL, OPTION_SWITCH, 0, 0, &o.induction, "mode",
         "train both models on induction heads (minutes)"},
        {"full", NULL, OPTION_SWITCH, 0, 0, &o.full, "copying induction",
         "copying at the paper's size, induction with the paper's steps (days)"},
        {"steps", "N", OPTION_WHOLE, 1, 1e8, &o.steps, "copying induction",
         "of the training (default 4000 and 3000)"},
        {"seed", "S", OPTION_WHOLE, 0, WHOLE_MOST, &o.seed, "",
         "of the training, or of the examples (default 1)"},
        {"svg", "FILE", OPTION_TEXT, 0, 0, &o.svg, "copying induction", "write the chart as SVG"},
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
