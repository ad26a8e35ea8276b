/* When a Transformer, when a Mamba: three models of one size, on three tasks.

   HOLDS   copying, recall and the stories; stacks of Mamba blocks, of attention and MLPs, and of
           both, trained with several seeds; their right answers up to and beyond the lengths of
           training
   FOR     the lesson's section "When a Transformer, when a Mamba", and its tests
   BUILD   cc -O2 ch05_mamba_block/which_layer.c -o which_layer -lm && ./which_layer
   SOURCES S. Jelassi et al., Repeat after me, arXiv 2402.01032 (copying)
           S. Arora et al., Zoology, arXiv 2312.04927 (recall of several pairs) */

#ifndef CH05_WHICH_LAYER
#define CH05_WHICH_LAYER

#include "stories_test.c"

/* ======================================= The tasks ========================================= */
/* Copying wants everything, word for word; recall wants any of many pairs; the stories want one */
/* thing of many, for long.                                                                      */

enum { COPIED_KINDS = 26, ASKED_KEYS = 32, ASKED_VALUES = 16, NO_TARGET = -1 };

/* `symbols` random symbols, a marker, and the symbols again: at the marker and at each symbol after
   it, the next one is to be said. Behind the end stand markers. */
static void copy_piece(int32_t *id, int32_t *target, size_t len, size_t symbols, Random *random)
{
    assert(2 * symbols + 1 <= len + 1); /* the last symbol is said, and need not be read */
    for (size_t t = 0; t < len; t++) {
        id[t] = t < symbols ? (int32_t)one_of(random, COPIED_KINDS) : COPIED_KINDS;
        target[t] = NO_TARGET;
    }
    for (size_t i = 0; i < symbols; i++) {
        target[symbols + i] = id[i];
        if (symbols + 1 + i < len)
            id[symbols + 1 + i] = id[i];
    }
}

/* Keys and values in turn, keys drawn from `pairs` different ones, each of which has one value all
   along. Wherever a key comes again, its value is to be said. Values are numbered from ASKED_KEYS
   on. */
static void recall_piece(int32_t *id, int32_t *target, size_t len, size_t pairs, Random *random)
{
    int32_t key[ASKED_KEYS], value[ASKED_KEYS];
    bool seen[ASKED_KEYS] = {false};
    assert(pairs > 0 && pairs <= ASKED_KEYS);
    for (size_t i = 0; i < ASKED_KEYS; i++)
        key[i] = (int32_t)i;
    for (size_t i = 0; i < pairs; i++) { /* the first `pairs` of a shuffled list */
        size_t from = i + one_of(random, ASKED_KEYS - i);
        int32_t swap = key[i];
        key[i] = key[from];
        key[from] = swap;
        value[i] = ASKED_KEYS + (int32_t)one_of(random, ASKED_VALUES);
    }
    for (size_t t = 0; t < len; t += 2) {
        size_t i = one_of(random, pairs);
        id[t] = key[i];
        target[t] = seen[i] ? value[i] : NO_TARGET;
        seen[i] = true;
        if (t + 1 < len) {
            id[t + 1] = value[i];
            target[t + 1] = NO_TARGET;
        }
    }
}

typedef void (*WhichPiece)(int32_t *id, int32_t *target, size_t len, size_t size, Random *random);

enum { WHICH_COPYING, WHICH_RECALL, WHICH_STORIES, WHICH_TASKS, WHICH_COLUMNS = 5 };

/* A task: pieces of any size from `least` to `most` are learnt from, and asked for at `size`. */
typedef struct {
    const char *name, *title, *unit;
    WhichPiece piece; /* NULL: the stories */
    size_t vocab, least, most, n_size, size[WHICH_COLUMNS];
    uint64_t batch, len, steps;
    double average;
} WhichTask;

static const WhichTask which_task[WHICH_TASKS] = {{"copying",
                                                   "Copying: a string once, then again",
                                                   "symbols",
                                                   copy_piece,
                                                   COPIED_KINDS + 1,
                                                   1,
                                                   16,
                                                   5,
                                                   {4, 8, 16, 32, 64},
                                                   16,
                                                   32,
                                                   2000,
                                                   0.0},
                                                  {"recall",
                                                   "Recall: whenever a key comes again, its value",
                                                   "pairs",
                                                   recall_piece,
                                                   ASKED_KEYS + ASKED_VALUES,
                                                   2,
                                                   8,
                                                   4,
                                                   {4, 8, 16, 32},
                                                   16,
                                                   32,
                                                   2000,
                                                   0.0},
                                                  {"stories",
                                                   "The stories: whole answers that are right",
                                                   "",
                                                   NULL,
                                                   0,
                                                   0,
                                                   0,
                                                   4,
                                                   {0},
                                                   8,
                                                   320,
                                                   2500,
                                                   0.995}};

/* Tokens of a piece of this size. */
static size_t which_len(const WhichTask *task, size_t size)
{
    return task->piece == copy_piece ? 2 * size : 4 * size;
}

/* Small sizes as often as large ones: the logarithm of the size is uniform. */
static void which_fill(int32_t *ids, int32_t *targets, size_t batch, size_t len, const void *from,
                       Random *random)
{
    const WhichTask *task = (const WhichTask *)from;
    for (size_t b = 0; b < batch; b++) {
        double least = log((double)task->least), most = log((double)task->most + 0.999);
        size_t size = (size_t)exp(least + (most - least) * random_uniform(random));
        task->piece(ids + b * len, targets + b * len, len, size, random);
    }
}

/* ======================================= The models ======================================== */
/* The paper counts one attention layer with its MLP as two Mamba blocks (section 3.4.1); so do */
/* we, and make the MLP as wide as it takes for the parameters to be as many.                   */

enum { WHICH_MAMBA, WHICH_TRANSFORMER, WHICH_HYBRID, WHICH_MODELS };

static const char *const which_name[WHICH_MODELS] = {"Mamba", "Transformer", "hybrid"};
static const char *const which_stack[WHICH_MODELS] = {"mmmm", "apap", "mmap"};

/* 32 channels, 16 states for each, heads of 16 channels. */
static MambaConfig which_config(int which, size_t vocab)
{
    enum { D_MODEL = 32, D_HEAD = 16 };
    MambaConfig config = config_default(D_MODEL);
    size_t two_blocks = 2 * block_params_count(&config), norms = 2 * D_MODEL;
    snprintf(config.stack, sizeof config.stack, "%s", which_stack[which]);
    config.head_dim = D_HEAD;
    config.mlp_size = (two_blocks - norms - 4 * D_MODEL * D_MODEL) / (2 * D_MODEL);
    config.num_hidden_layers = strlen(config.stack);
    config.vocab_size = vocab;
    return config;
}

/* Right answers in percent, piece by piece of one size. */
static double which_right(const WhichTask *task, size_t size, const Model *model)
{
    enum { TOGETHER = 16, ASKED = 128 };
    size_t len = which_len(task, size), right = 0, all = 0, vocab = model->config.vocab_size;
    int32_t *ids = NEW(int32_t, 2 * TOGETHER * len), *targets = ids + TOGETHER * len;
    ModelWork work = model_work_new(model, TOGETHER, len, false);
    Random random = random_from_seed(99); /* the same questions for every model */
    for (size_t i = 0; i < ASKED; i += TOGETHER) {
        for (size_t b = 0; b < TOGETHER; b++)
            task->piece(ids + b * len, targets + b * len, len, size, &random);
        model_forward(&work, NULL, ids, model);
        for (size_t t = 0; t < TOGETHER * len; t++)
            if (targets[t] != NO_TARGET) {
                all++;
                right += token_greedy(work.logits + t * vocab, vocab) == (size_t)targets[t];
            }
    }
    model_work_free(&work);
    free(ids);
    return 100.0 * (double)right / (double)all;
}

/* ======================================== Learning ========================================= */

typedef struct {
    uint64_t seed, seeds, steps;
    double rate;
    int only; /* a model, or below 0: all */
    const char *data;
} WhichWish;

static TrainSettings which_settings(const WhichTask *task, const WhichWish *wish, uint64_t seed)
{
    uint64_t steps = wish->steps > 0 ? wish->steps : task->steps;
    TrainSettings settings = {task->batch, task->len, steps, seed,
                              wish->rate,  0.1,       1.0,   task->average};
    return settings;
}

/* A model, trained from one seed: right (WHICH_COLUMNS), in percent. The config's vocabulary is the
   task's, or, for the stories, theirs. */
static bool which_learn(double *right, const char *name, MambaConfig config, const WhichTask *task,
                        const WhichWish *wish, uint64_t seed, Error *error)
{
    bool stories = task->piece == NULL, ok = true;
    double start = seconds_now();
    Vocabulary words = rainbow_words();
    Storyteller teller = {&words, &story_to_learn};
    BatchSource source = {which_fill, task};
    if (stories)
        source.fill = rainbow_fill, source.from = &teller;
    TrainSettings settings = which_settings(task, wish, seed);
    config.vocab_size = stories ? words.n_word : task->vocab;
    Random random = random_from_seed(seed);
    Model model = model_new(&config);
    model_init(&model, &random);
    Trainer trainer = trainer_new(&model, &settings);
    Progress progress = progress_start(name);
    while (trainer.adam.step < settings.steps) {
        trainer_step(&trainer, &source);
        progress_show(&progress, (double)trainer.adam.step, (double)settings.steps);
    }
    progress_end(&progress);
    if (settings.average > 0.0)
        trainer_swap_average(&trainer);
    trainer_free(&trainer);
    StoryScore score[COUNT_OF(story_tests)];
    if (stories)
        ok = score_tests(right, score, wish->data, &words, &model, error);
    for (size_t i = 0; i < task->n_size && !stories; i++)
        right[i] = which_right(task, task->size[i], &model);
    model_free(&model);
    vocabulary_free(&words);
    fprintf(stderr, "%s, seed %" PRIu64 ": %.0f s\n", name, seed, seconds_now() - start);
    return ok;
}

/* ======================================== Showing ========================================== */

enum { WHICH_SEEDS = 64 };

static void print_which_line(const char *what, const double *right, const WhichTask *task)
{
    printf("  %-8s", what);
    for (size_t i = 0; i < task->n_size; i++)
        printf(" %8.1f", right[i]);
    putchar('\n');
    fflush(stdout);
}

/* The median and the worst of several seeds, column by column. */
static void which_median(double middle[WHICH_COLUMNS], double worst[WHICH_COLUMNS],
                         double right[][WHICH_COLUMNS], size_t seeds)
{
    double sorted[WHICH_SEEDS] = {0};
    for (size_t c = 0; c < WHICH_COLUMNS; c++) {
        for (size_t i = 0; i < seeds; i++)
            sorted[i] = right[i][c];
        middle[c] = median(sorted, seeds);
        worst[c] = sorted[0];
    }
}

static void print_which_median(double right[][WHICH_COLUMNS], size_t seeds, const WhichTask *task)
{
    double middle[WHICH_COLUMNS], worst[WHICH_COLUMNS];
    which_median(middle, worst, right, seeds);
    print_which_line("median", middle, task);
    print_which_line("worst", worst, task);
}

/* What a task is, and a word over each column. */
static void print_which_head(const WhichTask *task, const WhichWish *wish)
{
    static const char *const story[WHICH_COLUMNS] = {"one cue", "turns", "far", "hard", ""};
    TrainSettings settings = which_settings(task, wish, 1);
    printf("%s\n%" PRIu64 " steps of %" PRIu64 " x %" PRIu64
           " tokens. Right answers in percent%s\n\n  %-8s",
           task->title, settings.steps, settings.batch, settings.len,
           task->piece == NULL ? "" : "\n(* more than in training)", task->unit);
    for (size_t i = 0; i < task->n_size; i++)
        if (task->piece == NULL)
            printf(" %8s", story[i]);
        else
            printf(" %7zu%s", task->size[i], task->size[i] > task->most ? "*" : " ");
    puts("");
}

/* A task from start to end: every model, with every seed. */
static bool which_table(const WhichTask *task, const WhichWish *wish, Error *error)
{
    double right[WHICH_SEEDS][WHICH_COLUMNS] = {{0.0}};
    char name[32];
    print_which_head(task, wish);
    for (int which = 0; which < WHICH_MODELS; which++) {
        if (wish->only >= 0 && which != wish->only)
            continue;
        MambaConfig config = which_config(which, task->vocab > 0 ? task->vocab : 1);
        printf("\n%s (%s), %zu parameters in its layers\n", which_name[which], which_stack[which],
               model_floats(&config) - (config.vocab_size + 1) * config.hidden_size);
        for (size_t i = 0; i < wish->seeds; i++) {
            if (!which_learn(right[i], which_name[which], config, task, wish, wish->seed + i,
                             error))
                return false;
            snprintf(name, sizeof name, "seed %" PRIu64, wish->seed + i);
            print_which_line(name, right[i], task);
        }
        if (wish->seeds > 1)
            print_which_median(right, (size_t)wish->seeds, task);
    }
    return true;
}

/* A short piece of a task: what is read, and below it what is to be said. */
static void print_which_piece(const WhichTask *task, Random *random)
{
    enum { SIZE = 6, LEN = 4 * SIZE };
    int32_t id[LEN], target[LEN];
    size_t len = which_len(task, SIZE);
    char read[4 * LEN + 1] = "", said[4 * LEN + 1] = "", one[16];
    task->piece(id, target, len, SIZE, random);
    for (size_t t = 0; t < len; t++) {
        bool copies = task->piece == copy_piece;
        int32_t shown[2] = {id[t], target[t]};
        for (int k = 0; k < 2; k++) {
            if (shown[k] == NO_TARGET)
                snprintf(one, sizeof one, "   ");
            else if (copies)
                snprintf(one, sizeof one, "  %c", shown[k] == COPIED_KINDS ? '|' : 'a' + shown[k]);
            else if (shown[k] >= ASKED_KEYS)
                snprintf(one, sizeof one, "  %c", 'a' + shown[k] - ASKED_KEYS);
            else
                snprintf(one, sizeof one, " %2d", shown[k]);
            strcat(k == 0 ? read : said, one);
        }
    }
    printf("%s\n\n  reads %s\n  says  %s\n", task->title, read, said);
}

/* ======================================= Program =========================================== */

int which_layer_main(int argc, char **argv)
{
    WhichWish wish = {1, 5, 0, 4e-3, -1, "data/rainbow"};
    int task = -1;
    const Option table[] = {
        {"task", "copying|recall|stories", OPTION_CHOICE, 0, 0, &task, "mode",
         "train all three models on it (minutes)"},
        {"model", "mamba|transformer|hybrid", OPTION_CHOICE, 0, 0, &wish.only, "task",
         "only this one"},
        {"steps", "N", OPTION_WHOLE, 1, 1e8, &wish.steps, "task",
         "of the training (default 2000; stories 2500)"},
        {"rate", "R", OPTION_NUMBER, 1e-9, 1, &wish.rate, "task",
         "the highest learning rate (default 0.004)"},
        {"seeds", "N", OPTION_WHOLE, 1, WHICH_SEEDS, &wish.seeds, "task",
         "train so many times, from seed S on (default 5)"},
        {"seed", "S", OPTION_WHOLE, 0, WHOLE_MOST, &wish.seed, "",
         "of the training, or of the examples (default 1)"},
    };
    const Program program = {"ch05_which_layer",
                             "When a Transformer, when a Mamba (chapter 5a): three models of one "
                             "size on three tasks. Without options: an example of two of them.",
                             table, sizeof table / sizeof *table};
    int status;
    if (!program_begin(&status, &program, argc, argv))
        return status;
    Error error;
    Random random = random_from_seed(wish.seed);
    bool ok = task < 0 || which_table(&which_task[task], &wish, &error);
    for (int i = 0; i < WHICH_STORIES && task < 0; i++) {
        print_which_piece(&which_task[i], &random);
        if (i + 1 < WHICH_STORIES)
            putchar('\n');
    }
    return program_end(ok, &error);
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return which_layer_main(argc, argv);
}
#endif

#endif /* CH05_WHICH_LAYER */
