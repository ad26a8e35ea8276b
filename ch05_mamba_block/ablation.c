/* What selection is worth: a block in which Delta, B and C depend on the token, or only some of
   them, or none.

   HOLDS   two tasks: markers at distances that change, of which the last one counts, and recall;
           models with each of the eight selections, trained with several seeds; their right answers
   FOR     the lesson's section "What selection is worth", and its tests
   BUILD   cc -O2 ch05_mamba_block/ablation.c -o ablation -lm && ./ablation
   SOURCE  A. Gu, T. Dao, Mamba, arXiv 2312.00752: section 4.6.2 and tables 7 and 9, which do
           this with a language model of 350 million parameters */

#ifndef CH05_ABLATION
#define CH05_ABLATION

#include "which_layer.c"

/* ======================================= The tasks ========================================= */
/* Markers want one thing, kept for as long as it takes and then let go of. Recall (of           */
/* which_layer.c) wants many, each to be found under its key.                                   */

enum { MARKED_KINDS = 15 };

/* Random symbols, and markers, each at most `gap` tokens after the one before it; the first stands
   in the first `gap` tokens. At a marker, what followed the one before it is to be said: induction
   heads, many in a piece. */
static void marker_piece(int32_t *id, int32_t *target, size_t len, size_t gap, Random *random)
{
    size_t before = len, now = one_of(random, gap);
    assert(gap >= 2);
    for (size_t t = 0; t < len; t++) {
        id[t] = (int32_t)one_of(random, MARKED_KINDS);
        target[t] = NO_TARGET;
    }
    for (; now < len; now += 2 + one_of(random, gap - 1)) {
        id[now] = MARKED_KINDS;
        if (before < len)
            target[now] = id[before + 1];
        before = now;
    }
}

enum { ABLATION_MARKERS, ABLATION_RECALL, ABLATION_TASKS };

/* Gaps of at most 2 to 16 tokens, learnt from pieces of 64; or recall, for half as long again as
   the larger models of which_layer.c have it. */
static WhichTask ablation_task(int which)
{
    WhichTask markers = {"markers",
                         "Markers: what followed the last one?",
                         "gap",
                         marker_piece,
                         MARKED_KINDS + 1,
                         2,
                         16,
                         5,
                         {4, 8, 16, 32, 64},
                         8,
                         64,
                         800,
                         0.0};
    WhichTask recall = which_task[WHICH_RECALL];
    recall.steps = 3000;
    return which == ABLATION_MARKERS ? markers : recall;
}

/* ======================================= The models ======================================== */

enum { SELECTIONS = FIXED_ALL + 1 };
static const char *const selection_name[SELECTIONS] = {"none", "delta",   "B",   "delta+B",
                                                       "C",    "delta+C", "B+C", "all"};

/* In the order of the table: none, one, two, all. */
static const int selection_order[SELECTIONS] = {0, 4, 2, 1, 6, 5, 3, 7};

/* Two blocks of 32 channels, 16 states for each. `selection` says what depends on the token, a bit
   each as in FIXED_DELTA; all have as many parameters. */
static MambaConfig ablation_config(int selection, const WhichTask *task)
{
    MambaConfig config = which_config(WHICH_MAMBA, task->vocab);
    config.stack[2] = '\0';
    config.num_hidden_layers = 2;
    config.fixed = FIXED_ALL & ~(unsigned)selection;
    return config;
}

/* A model with each selection, or with one, from every seed. */
static bool ablation_table(const WhichTask *task, const WhichWish *wish, Error *error)
{
    double right[WHICH_SEEDS][WHICH_COLUMNS] = {{0.0}};
    double middle[WHICH_COLUMNS], worst[WHICH_COLUMNS];
    MambaConfig config = ablation_config(FIXED_ALL, task);
    print_which_head(task, wish);
    printf("\n%zu parameters each; what depends on the token:\n", model_floats(&config));
    for (int k = 0; k < SELECTIONS; k++) {
        int selection = selection_order[k];
        if (wish->only >= 0 && selection != wish->only)
            continue;
        for (size_t i = 0; i < wish->seeds; i++)
            if (!which_learn(right[i], selection_name[selection], ablation_config(selection, task),
                             task, wish, wish->seed + i, error))
                return false;
        which_median(middle, worst, right, (size_t)wish->seeds);
        print_which_line(selection_name[selection], middle, task);
        if (wish->seeds > 1)
            print_which_line("  worst", worst, task);
    }
    return true;
}

/* ======================================= Program =========================================== */

int ablation_main(int argc, char **argv)
{
    WhichWish wish = {1, 5, 0, 4e-3, -1, NULL};
    int which = -1;
    const Option table[] = {
        {"task", "markers|recall", OPTION_CHOICE, 0, 0, &which, "mode",
         "train a model with each selection on it (minutes)"},
        {"select", "none|delta|B|delta+B|C|delta+C|B+C|all", OPTION_CHOICE, 0, 0, &wish.only,
         "task", "only this: what depends on the token"},
        {"steps", "N", OPTION_WHOLE, 1, 1e8, &wish.steps, "task",
         "of the training (default 800; recall 3000)"},
        {"rate", "R", OPTION_NUMBER, 1e-9, 1, &wish.rate, "task",
         "the highest learning rate (default 0.004)"},
        {"seeds", "N", OPTION_WHOLE, 1, WHICH_SEEDS, &wish.seeds, "task",
         "train so many times, from seed S on (default 5)"},
        {"seed", "S", OPTION_WHOLE, 0, WHOLE_MOST, &wish.seed, "",
         "of the training, or of the examples (default 1)"},
    };
    const Program program = {"ch05_ablation",
                             "What selection is worth (chapter 5a): Delta, B and C that depend on "
                             "the token, or do not. Without options: an example of each task.",
                             table, sizeof table / sizeof *table};
    int status;
    if (!program_begin(&status, &program, argc, argv))
        return status;
    Error error;
    Random random = random_from_seed(wish.seed);
    WhichTask markers = ablation_task(ABLATION_MARKERS), recall = ablation_task(ABLATION_RECALL);
    if (which >= 0)
        return program_end(
            ablation_table(which == ABLATION_MARKERS ? &markers : &recall, &wish, &error), &error);
    print_which_piece(&markers, &random);
    putchar('\n');
    print_which_piece(&recall, &random);
    return program_end(true, NULL);
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return ablation_main(argc, argv);
}
#endif

#endif /* CH05_ABLATION */
