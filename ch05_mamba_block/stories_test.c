/* The stories of data/rainbow, put to the test, and a look inside at what a model does with one.

   HOLDS   scores: stories whose answer is right, word for word; a selective and a time-invariant
           model trained side by side; a story's Delta word by word, what is kept of the state after
           each sentence, and what the model would answer if it were asked now
   FOR     the lesson's sections "Training" and "Looking inside", and its tests
   BUILD   cc -O2 ch05_mamba_block/stories_test.c -o stories_test -lm && ./stories_test */

#ifndef CH05_STORIES_TEST
#define CH05_STORIES_TEST

#include "language_model.c"
#include "../ch01_markov/measure.h" /* the median */

/* ======================================== Scores =========================================== */
/* The stories ask a question whose answer depends on the latest cue. A story is passed if the
   likeliest words, one after the other, are the right answer to its last question, all of them. */

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

/* A story read by a model, all that was computed on the way still there. */
typedef struct {
    int32_t *ids; /* (len) */
    size_t len, layers;
    double *delta; /* (layers, len) mean Delta */
    ModelWork work;
} StoryReading;

/* NOLINTBEGIN(clang-analyzer-unix.Malloc): the analyser loses sight of what reading_free frees */

static bool reading_new(StoryReading *reading, const char *text, const Vocabulary *words,
                        const Model *model, Error *error)
{
    size_t room = strlen(text), unknown;
    int32_t *ids = NEW(int32_t, room + 1);
    size_t len = text_to_tokens(ids, &unknown, text, room, words, false);
    if (len == 0 || words->bytes) {
        free(ids);
        return fail(error, len == 0 ? "--prompt: there is no word to look at"
                                    : "--model: a model of words is wanted, not one of bytes");
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

/* NOLINTEND(clang-analyzer-unix.Malloc) */

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
        printf("  %4.0f %% ", 100.0 * share_kept(&reading->work, first, t, model));
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
                       const Vocabulary *words, const Show *show, Error *error)
{
    StoryReading reading;
    if (!reading_new(&reading, text, words, model, error))
        return false;
    puts("How wide each word opened the gate (its Delta, mean of all channels)\n");
    print_shaded(&reading, words, &show->look);
    print_widest(&reading, words);
    bool ok = show_beliefs(&reading, data, words, model, error) &&
              (show->svg == NULL || write_reading(&reading, words, show->svg, error));
    reading_free(&reading);
    return ok;
}

/* ======================================= Program =========================================== */

typedef struct {
    bool focus, compare, ascii;
    const char *model, *data, *prompt, *svg;
    double gate_price; /* below 0: not given */
    TrainingRun run;
} StoriesOptions;

/* Trains a selective and a time-invariant model on the same stories, and puts both to the test. */
static bool run_compare(const StoriesOptions *options, const Show *show, Error *error)
{
    Lessons lessons;
    Model model[2];
    bool ok =
        lessons_from_folder(&lessons, options->data, (size_t)options->run.settings.len, error);
    if (!ok)
        return false;
    for (int which = 0; which < 2; which++) {
        TrainingRun run = options->run;
        run.time_invariant = which == 1;
        if (options->gate_price >= 0.0)
            run.gate_price = options->gate_price;
        else if (which == 1) /* a gate that cannot choose when to open gains nothing by a price */
            run.gate_price = 0.0;
        model[which] = model_to_train(&run, lessons.words.n_word);
        ok = ok && model_train(&model[which], &run, &lessons, show, error);
    }
    ok = ok && show_scores(options->data, &model[0], &model[1], &lessons.words, error);
    model_free(&model[0]), model_free(&model[1]);
    lessons_free(&lessons);
    return ok;
}

/* What wants a model from a folder. */
static bool run_with_model(const StoriesOptions *options, const Show *show, Error *error)
{
    Model model;
    Vocabulary words;
    if (!model_open_folder(&model, &words, options->model, error))
        return false;
    bool ok = options->focus
                  ? show_focus(options->prompt, options->data, &model, &words, show, error)
                  : show_scores(options->data, &model, NULL, &words, error);
    model_free(&model);
    vocabulary_free(&words);
    return ok;
}

int stories_test_main(int argc, char **argv)
{
    StoriesOptions o;
    memset(&o, 0, sizeof o);
    o.model = "data/tiny-mamba";
    o.data = "data/rainbow";
    o.prompt = default_prompt;
    o.gate_price = -1.0;
    o.run = training_default();
    const Option table[] = {
        {"data", "DIR", OPTION_TEXT, 0, 0, &o.data, "",
         "where the stories are (default data/rainbow)"},
        {"model", "DIR", OPTION_TEXT, 0, 0, &o.model, "!compare",
         "a folder as Hugging Face has it (default data/tiny-mamba)"},
        {"focus", NULL, OPTION_SWITCH, 0, 0, &o.focus, "mode",
         "what each word of a story does to gate, state and answer"},
        {"prompt", "TEXT", OPTION_TEXT, 0, 0, &o.prompt, "focus",
         "the story (default: one that turns)"},
        {"compare", NULL, OPTION_SWITCH, 0, 0, &o.compare, "mode",
         "train a selective and a time-invariant model, and put both to the test"},
        {"steps", "N", OPTION_WHOLE, 1, 1e8, &o.run.settings.steps, "compare",
         "of the training (default 4000)"},
        {"seed", "S", OPTION_WHOLE, 0, WHOLE_MOST, &o.run.settings.seed, "compare",
         "of the training (default 1)"},
        {"gate-price", "P", OPTION_NUMBER, 0, 1000, &o.gate_price, "compare",
         "what an open gate costs while learning (default 3, and 0 for the time-invariant model)"},
        {"svg", "FILE", OPTION_TEXT, 0, 0, &o.svg, "focus", "write the figure as SVG"},
        {"ascii", NULL, OPTION_SWITCH, 0, 0, &o.ascii, "focus compare", "draw without Unicode"},
    };
    const Program program = {"ch05_stories_test",
                             "The stories of data/rainbow, put to the test (chapter 5a): "
                             "how many answers a model gets right.",
                             table, sizeof table / sizeof *table};
    int status;
    if (!program_begin(&status, &program, argc, argv))
        return status;
    Error error;
    Show show = {look_at_terminal(o.ascii), o.svg, o.run.settings.seed};
    return program_end(
        o.compare ? run_compare(&o, &show, &error) : run_with_model(&o, &show, &error), &error);
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return stories_test_main(argc, argv);
}
#endif

#endif /* CH05_STORIES_TEST */
