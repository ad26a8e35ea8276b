/* The stories of data/rainbow, put to the test, and a look inside at what a model does with one.

   HOLDS   scores: stories whose answer is right, word for word; selective and time-invariant models
           trained from many starts; what each word of a story wrote into the state, what of it
           is kept after each sentence, and what the model would answer if it were asked now
   FOR     the lessons LANGUAGE_MODEL.md ("Training", "Looking inside") and LEARNING.md, their tests
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

/* Puts every story of a text, a line each, to the test; `path` is for messages. */
static bool score_text(StoryScore *score, const char *text, const char *path,
                       const Vocabulary *words, const Model *model, Error *error)
{
    Corpus corpus;
    memset(score, 0, sizeof *score);
    if (words->bytes)
        return fail(error, "%s: stories are put to the test in words, not in bytes", path);
    if (!corpus_from_text(&corpus, text, strlen(text), words, 1, path, error))
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

/* The same for a file. */
bool score_stories(StoryScore *score, const char *path, const Vocabulary *words, const Model *model,
                   Error *error)
{
    char *text;
    size_t len;
    if (!text_read_plain(&text, &len, path, error))
        return false;
    bool ok = score_text(score, text, path_shown(path), words, model, error);
    free(text);
    return ok;
}

/* Right answers in percent, to all tests of a folder; score (COUNT_OF(story_tests)) besides. */
static bool score_tests(double *percent, StoryScore *score, const char *data,
                        const Vocabulary *words, const Model *model, Error *error)
{
    for (size_t i = 0; i < COUNT_OF(story_tests); i++) {
        char *path = path_in(data, story_tests[i].file);
        bool ok = score_stories(&score[i], path, words, model, error);
        free(path);
        if (!ok)
            return false;
        percent[i] = 100.0 * (double)score[i].right / (double)score[i].stories;
    }
    return true;
}

/* The table of what a model gets right. */
static bool show_scores(const char *data, const Model *model, const Vocabulary *words, Error *error)
{
    static const char *const about[COUNT_OF(story_tests)] = {
        "one cue", "one or two turns", "24 sentences of wandering", "a cue told as never before"};
    StoryScore score[COUNT_OF(story_tests)];
    double percent[COUNT_OF(story_tests)];
    if (!score_tests(percent, score, data, words, model, error))
        return false;
    puts("Stories whose last answer is right, word for word\n");
    printf("  %-16s %-26s %7s %7s %9s\n", "file", "", "stories", "words", "right");
    for (size_t i = 0; i < COUNT_OF(story_tests); i++)
        printf("  %-16s %-26s %7zu %7zu %7.1f %%\n", story_tests[i].file, about[i],
               score[i].stories, score[i].words / score[i].stories, percent[i]);
    return true;
}

/* How long a cue is held: stories of one cue, told for this, that wander further and further, and
   beyond what training knows. */
static bool show_lengths(const Model *model, const Vocabulary *words, Error *error)
{
    enum { STORIES = 100, SENTENCES_LEAST = 6, SENTENCES_MOST = 96 };
    puts("Stories of one cue that wander further and further\n\n  sentences   words     right");
    for (size_t sentences = SENTENCES_LEAST; sentences <= SENTENCES_MOST; sentences *= 2) {
        StoryKind kind = {NULL, STORIES, 0, 0, sentences, sentences, true, false};
        StoryScore score;
        char *text = rainbow_stories(&kind, RAINBOW_SEED + sentences);
        bool ok = score_text(&score, text, "--hold", words, model, error);
        free(text);
        if (!ok)
            return false;
        printf("  %9zu %7zu %7.1f %%%s\n", sentences, score.words / score.stories,
               100.0 * (double)score.right / (double)score.stories,
               sentences == WANDER_FAR ? "   the most in training" : "");
        fflush(stdout);
    }
    return true;
}

/* ================================ What a state keeps ======================================= */
/* A word moves the state as far as its Delta says: A_bar = exp(Delta A), chapter 4. So Delta shows
   which words the model lets in, and the product of all A_bar what it still has of what was. */

/* One layer's Delta at a token, mean over its channels. After a model_forward that kept everything
   (work->back) of a single sequence. */
double mean_step(const ModelWork *work, size_t layer, size_t token, const Model *model)
{
    return layer_mean_step(&work->cache[layer], token, &model->block[layer]);
}

/* How much of what the states held before tokens first .. last is still there after them. Every
   token multiplies a state by exp(Delta A), and what it adds does not depend on what was there: x_t
   is linear in x_{t-1}. The mean over all states of all layers, each with the square of what it
   held as its weight, for an empty one has nothing to lose. `state` is all that was remembered
   before `first`, as a Writer has it; not a number if that is nothing.

   Exercise 5.8. What one state keeps of itself. */
double share_kept(const ModelWork *work, float *state, size_t first, size_t last,
                  const Model *model)
{
    const MambaConfig *config = &model->config;
    size_t d_inner = config->intermediate_size, d_state = config->state_size;
    double all = 0.0, left = 0.0;
    for (size_t layer = 0; layer < config->num_hidden_layers; layer++) {
        Scan scan = block_scan(&work->cache[layer].block, &model->block[layer], NULL);
        const float *x =
            block_state_place(state + layer * block_state_floats(config, 1), config, 1).x;
        for (size_t d = 0; d < d_inner; d++)
            for (size_t n = 0; n < d_state; n++) {
                double A = (double)scan.A[d * d_state + n], kept = 1.0;
                double held = (double)x[d * d_state + n] * (double)x[d * d_state + n];
                //> EX 5.8 [2 pts] [15 min] how much of a state survives a sentence
                //? Chapter 4: each token multiplies the state by A_bar = exp(Delta A).
                //? step_size(&scan, t, d) is Delta; tokens go from `first` to `last`, both too.
                //? A product of exponentials is the exponential of a sum.
                double moved = 0.0;
                for (size_t t = first; t <= last; t++)
                    moved += (double)step_size(&scan, t, d);
                kept = exp(moved * A);
                //< EX 5.8
                all += held;
                left += held * kept;
            }
    }
    return left / all;
}

/* Which words the state of a layer holds after the last token. It is a sum of what each word wrote,
   times what was kept of that since: x = sum of c_t. So each word has a share in it, c_t x / x x
   over all states of the layer, and the shares add up to 1: share (len). */
void state_shares(double *share, const ModelWork *work, size_t layer, const Model *model)
{
    Scan scan = block_scan(&work->cache[layer].block, &model->block[layer], NULL);
    double *wrote = NEW(double, scan.len), square = 0.0;
    memset(share, 0, scan.len * sizeof *share);
    for (size_t d = 0; d < scan.d_inner; d++)
        for (size_t n = 0; n < scan.d_state; n++) {
            double A = (double)scan.A[d * scan.d_state + n], kept = 1.0, x = 0.0;
            for (size_t t = scan.len; t-- > 0;) { /* c_t = Delta_t B_t u_t, times what was kept */
                double delta = (double)step_size(&scan, t, d);
                wrote[t] = kept * delta * (double)scan.B[t * scan.d_state + n] *
                           (double)scan.u[t * scan.d_inner + d];
                kept *= exp(delta * A);
                x += wrote[t];
            }
            square += x * x;
            for (size_t t = 0; t < scan.len; t++)
                share[t] += wrote[t] * x;
        }
    for (size_t t = 0; t < scan.len; t++)
        share[t] /= square;
    free(wrote);
}

/* ===================================== Looking inside ====================================== */

/* A story read by a model, all that was computed on the way still there. */
typedef struct {
    int32_t *ids; /* (len) */
    size_t len, layers;
    double *delta; /* (layers, len) mean Delta */
    double *share; /* (layers, len) each word's share of the state at the end */
    ModelWork work;
} StoryReading;

/* NOLINTBEGIN(clang-analyzer-unix.Malloc): the analyser loses sight of what reading_free frees */

static bool reading_new(StoryReading *reading, const char *text, const Vocabulary *words,
                        const Model *model, Error *error)
{
    size_t room = strlen(text), unknown;
    int32_t *ids = NEW(int32_t, room + 1);
    size_t len = text_to_tokens(ids, &unknown, text, room, words, false);
    if (len == 0 || words->bytes || layer_has_heads(&model->config)) {
        free(ids);
        return fail(error, len == 0       ? "--prompt: there is no word to look at"
                           : words->bytes ? "--model: a model of words is wanted, not one of bytes"
                                          : "--model: the states of a Mamba-2 are not looked into");
    }
    reading->ids = ids;
    reading->len = len;
    reading->layers = model->config.num_hidden_layers;
    reading->delta = NEW(double, reading->layers *len);
    reading->share = NEW(double, reading->layers *len);
    reading->work = model_work_new(model, 1, len, true);
    model_forward(&reading->work, NULL, ids, model);
    for (size_t layer = 0; layer < reading->layers; layer++) {
        state_shares(reading->share + layer * len, &reading->work, layer, model);
        for (size_t t = 0; t < len; t++)
            reading->delta[layer * len + t] = mean_step(&reading->work, layer, t, model);
    }
    return true;
}

/* NOLINTEND(clang-analyzer-unix.Malloc) */

static void reading_free(StoryReading *reading)
{
    free(reading->ids), free(reading->delta), free(reading->share);
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

/* The shares of the last layer, from 0 to 1 for the largest; one below 0 is shown as 0. */
static double *reading_shades(const StoryReading *reading)
{
    double *shade = NEW(double, reading->len), most = 0.0;
    const double *share = reading->share + (reading->layers - 1) * reading->len;
    for (size_t t = 0; t < reading->len; t++)
        most = fmax(most, share[t]);
    for (size_t t = 0; t < reading->len; t++)
        shade[t] = fmax(0.0, share[t]) / most;
    return shade;
}

/* The story, each word on a ground as dark as its share is large, or with a mark of eight
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
        if (column + wide > page_columns()) {
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

/* In percent; what would print as -0.0 is 0. */
static double percent_of(double share)
{
    return fabs(share) < 0.0005 ? 0.0 : 100.0 * share;
}

/* The words with the largest shares in the last layer, in falling order, and their Delta. */
static void print_largest(const StoryReading *reading, const Vocabulary *words)
{
    enum { SHOWN = 6 };
    size_t len = reading->len, last = (reading->layers - 1) * len;
    double *share = NEW(double, len), *sorted = NEW(double, len);
    for (size_t t = 0; t < len; t++) {
        share[t] = reading->share[last + t];
        sorted[t] = word_step(reading, t);
    }
    double middle = median(sorted, len);
    printf("\n  share          of layer 1   of layer %zu   Delta beside the median word's\n",
           reading->layers);
    for (size_t i = 0; i < smaller(SHOWN, len); i++) {
        size_t best = 0;
        for (size_t t = 1; t < len; t++)
            best = share[t] > share[best] ? t : best;
        fputs("  ", stdout);
        print_word(words->word[reading->ids[best]], 14);
        printf("%9.1f %%   %8.1f %%   %8.1f times\n", percent_of(reading->share[best]),
               percent_of(reading->share[last + best]), word_step(reading, best) / middle);
        share[best] = -INFINITY;
    }
    free(share), free(sorted);
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
    if (!text_read_plain(&got.text, &len, path, error))
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

/* Words first to last of the story, from column `left` of a line on, and under that. */
static void print_sentence(const StoryReading *reading, size_t first, size_t last, size_t left,
                           const Vocabulary *words)
{
    size_t column = left;
    putchar(' ');
    for (size_t i = first; i <= last; i++) {
        const char *word = words->word[reading->ids[i]];
        bool closes = strchr(".,:;!?", word[0]) != NULL; /* and stays with the word before it */
        size_t wide = text_width(word) + !closes;
        if (column + wide + 1 >= page_columns() && column > left && !closes) {
            printf("\n%*s", (int)left + 1, "");
            column = left;
        }
        print_token(stdout, (size_t)reading->ids[i], false, words);
        column += wide;
    }
    putchar('\n');
}

/* After every sentence: what of the state before it is left, and what the model would answer. */
static void print_beliefs(const StoryReading *reading, const Answers *answers,
                          const Vocabulary *words, const Model *model)
{
    Writer writer = writer_new(model), asked = writer_new(model);
    double share[ANSWERS_MOST];
    size_t first = 0, floats = model_state_floats(&model->config, 1);
    float *before = NEW(float, floats); /* the state in which the sentence found the model */
    printf("\nAsked after each sentence:");
    for (size_t at = answers->first[0]; at < answers->asked[0]; at++)
        print_token(stdout, (size_t)answers->ids[at], false, words);
    printf("\n\n kept ");
    for (size_t i = 0; i < answers->count; i++)
        printf(" %7.7s", answers->name[i]);
    putchar('\n');
    for (size_t t = 0; t < reading->len; t++) {
        writer_read(&writer, reading->ids[t]);
        if (!ends_sentence(words->word[reading->ids[t]]) && t + 1 < reading->len)
            continue;
        ask(share, answers, writer.state, &asked);
        if (first == 0)
            fputs("   -   ", stdout);
        else
            printf("%4.0f %% ", 100.0 * share_kept(&reading->work, before, first, t, model));
        for (size_t i = 0; i < answers->count; i++)
            printf(" %5.1f %%", 100.0 * share[i]);
        print_sentence(reading, first, t, 7 + 8 * answers->count, words);
        memcpy(before, writer.state, floats * sizeof *before);
        first = t + 1;
    }
    free(before);
    writer_free(&writer), writer_free(&asked);
}

/* Layers times words as a heat map, from 0 to the largest share of any layer. */
static void svg_reading(FILE *out, const StoryReading *reading, const Vocabulary *words)
{
    size_t shown = smaller(reading->len, 100);
    double bottom = 44.0 + (double)reading->layers * STORY_CELL, most = 0.0;
    char text[64], style[128];
    for (size_t i = 0; i < reading->layers * reading->len; i++)
        most = fmax(most, reading->share[i]);
    svg_open(out, STORY_LEFT + (double)shown * STORY_CELL + 30.0, bottom + 90.0);
    svg_text(out, 14.0, 22.0, "font-size=\"15\" font-weight=\"bold\"",
             "Share of each word in the state after the last, layer by layer");
    for (size_t layer = 0; layer < reading->layers; layer++) {
        const double *share = reading->share + layer * reading->len;
        double y = 36.0 + (double)layer * STORY_CELL;
        snprintf(text, sizeof text, "layer %zu", layer + 1);
        svg_text(out, STORY_LEFT - 8.0, y + 12.0, "text-anchor=\"end\"", text);
        for (size_t t = 0; t < shown; t++)
            svg_cell(out, STORY_LEFT + (double)t * STORY_CELL, y, STORY_CELL,
                     fmax(0.0, share[t]) / most);
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
    puts("What the state holds at the end: the share that each word wrote (last layer)\n");
    print_shaded(&reading, words, &show->look);
    print_largest(&reading, words);
    bool ok = show_beliefs(&reading, data, words, model, error) &&
              (show->svg == NULL || write_reading(&reading, words, show->svg, error));
    reading_free(&reading);
    return ok;
}

/* =================================== From many starts ====================================== */
/* A table of one model proves little: another start, another order of stories, and it may learn
   something else. So several are trained, and the median and the worst are told as well. */

enum { SEEDS_MOST = 100, TESTS = COUNT_OF(story_tests) };

/* Right answers in percent, by model (selective, time-invariant), test and seed. */
typedef struct {
    double percent[2][TESTS][SEEDS_MOST];
} SeedScores;

/* Trains a model from a run's seed on and puts it to the test: percent (TESTS). */
static bool train_and_score(double *percent, const TrainingRun *run, const char *data,
                            const char *label, Error *error)
{
    Vocabulary words = rainbow_words();
    Storyteller teller = {&words, &story_to_learn};
    BatchSource source = {rainbow_fill, &teller};
    StoryScore score[TESTS];
    Model model = model_to_train(run, words.n_word);
    Trainer trainer = trainer_new(&model, &run->settings);
    Progress progress = progress_start(label);
    while (trainer.adam.step < run->settings.steps) {
        trainer_step(&trainer, &source);
        progress_show(&progress, (double)trainer.adam.step, (double)run->settings.steps);
    }
    progress_end(&progress);
    trainer_swap_average(&trainer);
    trainer_free(&trainer);
    bool ok = score_tests(percent, score, data, &words, &model, error);
    model_free(&model);
    vocabulary_free(&words);
    return ok;
}

/* One line of the table: of a seed, or, where `which` picks it from the sorted ones, of all. */
static void print_seed_line(const char *name, const SeedScores *scores, size_t which)
{
    printf("  %6s", name);
    for (int model = 0; model < 2; model++) {
        fputs(model == 0 ? " " : "    ", stdout);
        for (size_t i = 0; i < TESTS; i++)
            printf(" %6.1f", scores->percent[model][i][which]);
    }
    putchar('\n');
    fflush(stdout);
}

/* The median (of an even number the lower one in the middle) and the worst of each column. */
static void print_median_and_worst(SeedScores *scores, size_t seeds)
{
    for (int model = 0; model < 2; model++)
        for (size_t i = 0; i < TESTS; i++)
            median(scores->percent[model][i], seeds); /* sorts them */
    putchar('\n');
    print_seed_line("median", scores, (seeds - 1) / 2);
    print_seed_line("worst", scores, 0);
}

/* Trains a selective and a time-invariant model from each of several seeds, on the same stories. */
static bool compare_seeds(const TrainingRun *run, size_t seeds, const char *data, Error *error)
{
    SeedScores scores;
    char label[64], name[24];
    double percent[TESTS];
    puts("Stories whose last answer is right, in percent\n");
    printf("          %-28s    %s\n", "selective", "time-invariant");
    puts("    seed     one  turns    far   hard        one  turns    far   hard");
    for (size_t k = 0; k < seeds; k++) {
        TrainingRun own = *run;
        own.settings.seed = run->settings.seed + k;
        for (int model = 0; model < 2; model++) {
            own.time_invariant = model == 1;
            snprintf(label, sizeof label, "%zu of %zu", 2 * k + (size_t)model + 1, 2 * seeds);
            if (!train_and_score(percent, &own, data, label, error))
                return false;
            for (size_t i = 0; i < TESTS; i++)
                scores.percent[model][i][k] = percent[i];
        }
        snprintf(name, sizeof name, "%" PRIu64, own.settings.seed);
        print_seed_line(name, &scores, k);
    }
    if (seeds > 1)
        print_median_and_worst(&scores, seeds);
    return true;
}

/* ======================================= Program =========================================== */

typedef struct {
    bool focus, compare, hold, ascii;
    const char *model, *data, *prompt, *svg;
    uint64_t seeds;
    TrainingRun run;
} StoriesOptions;

/* What wants a model from a folder. */
static bool run_with_model(const StoriesOptions *options, const Show *show, Error *error)
{
    Model model;
    Vocabulary words;
    if (!model_open_folder(&model, &words, options->model, error))
        return false;
    bool ok = options->focus
                  ? show_focus(options->prompt, options->data, &model, &words, show, error)
              : options->hold ? show_lengths(&model, &words, error)
                              : show_scores(options->data, &model, &words, error);
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
    o.seeds = 1;
    o.run = training_default();
    const Option table[] = {
        {"data", "DIR", OPTION_TEXT, 0, 0, &o.data, "!hold",
         "where the tests are (default data/rainbow)"},
        {"model", "DIR", OPTION_TEXT, 0, 0, &o.model, "!compare",
         "a folder as Hugging Face has it (default data/tiny-mamba)"},
        {"focus", NULL, OPTION_SWITCH, 0, 0, &o.focus, "mode",
         "what each word of a story does to gate, state and answer"},
        {"prompt", "TEXT", OPTION_TEXT, 0, 0, &o.prompt, "focus",
         "the story (default: one that turns)"},
        {"hold", NULL, OPTION_SWITCH, 0, 0, &o.hold, "mode",
         "how far from its cue a question is still answered"},
        {"compare", NULL, OPTION_SWITCH, 0, 0, &o.compare, "mode",
         "train a selective and a time-invariant model, and put both to the test"},
        {"seeds", "N", OPTION_WHOLE, 1, SEEDS_MOST, &o.seeds, "compare",
         "from so many starts, with the median and the worst (default 1)"},
        {"seed", "S", OPTION_WHOLE, 0, WHOLE_MOST, &o.run.settings.seed, "compare",
         "of the first training (default 1)"},
        {"steps", "N", OPTION_WHOLE, 1, 1e8, &o.run.settings.steps, "compare",
         "of the training (default 6000)"},
        {"average", "K", OPTION_NUMBER, 0, 0.999999, &o.run.settings.average, "compare",
         "what a step keeps of the weights' average; 0: none (default 0.998)"},
        {"svg", "FILE", OPTION_OUT, 0, 0, &o.svg, "focus", "write the figure as SVG"},
        {"ascii", NULL, OPTION_SWITCH, 0, 0, &o.ascii, "focus", "draw without Unicode"},
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
    bool ok = o.compare ? compare_seeds(&o.run, (size_t)o.seeds, o.data, &error)
                        : run_with_model(&o, &show, &error);
    return program_end(ok, &error);
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return stories_test_main(argc, argv);
}
#endif

#endif /* CH05_STORIES_TEST */
