/* Pictures of chapter 4: a story word by word, and the tree of a parallel scan.

   HOLDS   the table and the heat map of a story; the tree of eight steps in characters and as SVG,
           and its pairs;
           the short cut to a parallel scan that does not work
   FOR     the demos of selective.c. Plain data: it knows nothing of a scan */

#ifndef CH04_PICTURES
#define CH04_PICTURES

#include "../ch01_markov/charts.h"
#include "stories.c"

/* ======================================= A story ========================================== */

#define STORY_CELL      16.0
#define STORY_LEFT      90.0
#define STORY_STEP_MOST 6.0   /* Delta of a turn: the darkest cell, the longest bar */
#define STORY_STILL     0.01f /* a smaller Delta moves next to nothing */

/* A word for the terminal: no control characters, at most `most` columns of it. */
void print_word(const char *word, size_t most)
{
    char shown[128];
    size_t wide, len = text_fit(&wide, word, most);
    len = len < sizeof shown ? len : sizeof shown - 1;
    for (size_t i = 0; i < len; i++)
        shown[i] = iscntrl((unsigned char)word[i]) ? '?' : word[i];
    shown[len] = '\0';
    text_pad(stdout, shown, -(int)most);
}

static void print_bar(double value, double most, int width, const Look *look)
{
    double share = fmin(1.0, fmax(0.0, value / most));
    int full = (int)lrint(share * width);
    for (int i = 0; i < width; i++)
        fputs(i < full ? (look->ascii ? "#" : "█") : look->ascii ? "." : "·", stdout);
}

const char *reading_name(const Cues *cues, const float *x)
{
    size_t reading = story_reading(x, cues->n_context);
    return reading == cues->n_context ? "?" : cues->context[reading];
}

/* Rounded to so many parts of 1, and no negative 0. */
double rounded_to(double value, double parts)
{
    double rounded = round(value * parts) / parts;
    return rounded == 0.0 ? 0.0 : rounded;
}

/* What is drawn of a story; all arrays are (n_word, n_context). */
typedef struct {
    const Story *story;
    const Cues *cues;
    const float *delta;   /* how far each word moves each context */
    const float *x;       /* what the contexts hold after it */
    const float *blurred; /* the same, if every word moves every context by `step` */
    double step;
    bool brief; /* a line for words in a row that move next to nothing */
} StoryPicture;

/* The largest Delta of a word. */
static float widest_step(const StoryPicture *picture, size_t t)
{
    size_t n = picture->cues->n_context;
    float widest = 0.0f;
    for (size_t d = 0; d < n; d++)
        widest = fmaxf(widest, picture->delta[t * n + d]);
    return widest;
}

/* How a line of the story is laid out: what it takes beside the numbers. */
enum { STORY_WORD = 12, STORY_ANSWER = 8, STORY_BESIDE = STORY_WORD + 5 + 2 * STORY_ANSWER + 4 };

typedef struct {
    int column, bar; /* the width of a context's number, of the bar of Delta */
    bool both;       /* the numbers of both systems, not of the selective one alone */
} StoryLayout;

static StoryLayout story_layout(size_t contexts)
{
    int n = (int)contexts, room = (int)page_columns() - STORY_BESIDE;
    StoryLayout layout;
    assert(n > 0);
    layout.both = 2 * n * 6 <= room;
    n = layout.both ? 2 * n : n;
    int column = (room - 7) / n;
    layout.column = column > 9 ? 9 : column > 6 ? column : n * 6 <= room ? 6 : 5;
    int bar = room - n * layout.column - 1;
    layout.bar = bar > 12 ? 12 : bar < 0 ? 0 : bar;
    return layout;
}

static void print_contexts(const Cues *cues, const StoryLayout *layout, bool ascii)
{
    for (size_t d = 0; d < cues->n_context; d++) {
        putchar(' ');
        text_pad_cut(stdout, cues->context[d], layout->column - 1, ascii);
    }
}

static void print_story_head(const StoryPicture *picture, const StoryLayout *layout, bool ascii)
{
    char other[32] = "other";
    int numbers = layout->column * (int)picture->cues->n_context;
    if (layout->both)
        snprintf(other, sizeof other, "Delta = %g for all", picture->step);
    printf("%*s%-*s| %s\n", STORY_WORD + 6 + layout->bar, "", numbers + STORY_ANSWER + 2,
           " the selective system", other);
    printf("%-*s Delta%*s", STORY_WORD, "word", layout->bar, "");
    print_contexts(picture->cues, layout, ascii);
    printf(" %-*s |", STORY_ANSWER, "answer");
    if (layout->both)
        print_contexts(picture->cues, layout, ascii);
    puts(" answer");
}

static void print_held(const float *x, size_t n, const StoryLayout *layout)
{
    int digits = layout->column > 5 ? 2 : 1;
    for (size_t d = 0; d < n; d++)
        printf(" %*.*f", layout->column - 1, digits,
               rounded_to((double)x[d], digits == 2 ? 100.0 : 10.0));
}

static void print_story_word(const StoryPicture *picture, size_t t, const char *word,
                             const StoryLayout *layout, const Look *look)
{
    const Cues *cues = picture->cues;
    size_t n = cues->n_context;
    const float *x = picture->x + t * n, *blurred = picture->blurred + t * n;
    double widest = (double)widest_step(picture, t);
    print_word(word, STORY_WORD);
    printf(" %4.2f ", rounded_to(widest, 100.0));
    print_bar(widest, STORY_STEP_MOST, layout->bar, look);
    print_held(x, n, layout);
    putchar(' ');
    text_pad_cut(stdout, reading_name(cues, x), -STORY_ANSWER, look->ascii);
    fputs(" |", stdout);
    if (layout->both)
        print_held(blurred, n, layout);
    size_t wide, bytes = text_fit(&wide, reading_name(cues, blurred), STORY_ANSWER);
    printf(" %.*s\n", (int)bytes, reading_name(cues, blurred));
}

/* The story as a table, a line a word, and what both systems would answer at its end. */
static void story_print(const StoryPicture *picture, const Look *look)
{
    size_t words = picture->story->n_word, last = (words - 1) * picture->cues->n_context;
    StoryLayout layout = story_layout(picture->cues->n_context);
    prose("A story, word by word: the selective system, and one with one step for all words\n");
    if (!layout.both)
        printf("The other one has Delta = %g for all words.\n\n", picture->step);
    print_story_head(picture, &layout, look->ascii);
    for (size_t t = 0, still = 0; t < words; t++) {
        char several[32];
        bool next = t + 1 < words && widest_step(picture, t + 1) < STORY_STILL;
        still = widest_step(picture, t) < STORY_STILL ? still + 1 : 0;
        if (picture->brief && still > 0 && next)
            continue;
        snprintf(several, sizeof several, "(%zu words)", still);
        print_story_word(picture, t,
                         picture->brief && still > 1 ? several : picture->story->word[t], &layout,
                         look);
    }
    putchar('\n');
    prose("At the end the selective system answers from: %s. The other one from: %s.",
          reading_name(picture->cues, picture->x + last),
          reading_name(picture->cues, picture->blurred + last));
}

/* How dark a cell is drawn: white at 0, the colour at the most. */
static void svg_cell(FILE *out, double x, double y, double size, double share)
{
    int red = (int)lrint(255.0 - share * 255.0), green = (int)lrint(255.0 - share * 141.0);
    fprintf(out,
            "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"#%02x%02x%02x\" "
            "stroke=\"#ddd\"/>\n",
            x, y, size, size, red, green, (int)lrint(255.0 - share * 77.0));
}

/* Where the cells begin: behind the names of the contexts. */
static double story_left(const Cues *cues)
{
    size_t widest = 9;
    for (size_t d = 0; d < cues->n_context; d++)
        widest = text_width(cues->context[d]) > widest ? text_width(cues->context[d]) : widest;
    return STORY_LEFT + SVG_COLUMN * (double)(widest - 9);
}

/* One band of the heat map: a row of cells for each context, values[t * n_context + d] from 0 to
   1. */
static void svg_band(FILE *out, double top, const char *title, const float *values,
                     const Cues *cues, size_t words)
{
    double left = story_left(cues);
    svg_text(out, left, top - 8.0, "", title);
    for (size_t d = 0; d < cues->n_context; d++) {
        double y = top + (double)d * STORY_CELL;
        svg_text(out, left - 8.0, y + 12.0, "text-anchor=\"end\"", cues->context[d]);
        for (size_t t = 0; t < words; t++)
            svg_cell(out, left + (double)t * STORY_CELL, y, STORY_CELL,
                     fmin(1.0, fmax(0.0, (double)values[t * cues->n_context + d])));
    }
}

/* Delta of every word and context, and under it what both systems hold: a heat map. */
static bool story_svg(const StoryPicture *picture, const char *path, Error *error)
{
    const Story *story = picture->story;
    const Cues *cues = picture->cues;
    size_t words = story->n_word < 200 ? story->n_word : 200, n = cues->n_context;
    double high = (double)n * STORY_CELL + 30.0, names = 3.0 * high + 14.0;
    OutFile file;
    if (!out_open(&file, path, error))
        return false;
    FILE *out = file.stream;
    float *share = NEW(float, words *n);
    for (size_t i = 0; i < words * n; i++)
        share[i] = sqrtf(picture->delta[i] / (float)STORY_STEP_MOST);
    size_t widest = 12;
    for (size_t t = 0; t < words; t++)
        widest = text_width(story->word[t]) > widest ? text_width(story->word[t]) : widest;
    double left = story_left(cues), below = 24.0 + 5.5 * (double)widest; /* aslant, and smaller */
    static const char longest[] = "Delta: how far each word moves each context";
    double wide = fmax((double)words * STORY_CELL, SVG_COLUMN * (double)strlen(longest));
    svg_open(out, left + wide + 20.0, names + below);
    svg_band(out, 26.0, longest, share, cues, words);
    svg_band(out, 26.0 + high, "x: what the contexts hold after it", picture->x, cues, words);
    svg_band(out, 26.0 + 2.0 * high, "x, if Delta is the same for all words", picture->blurred,
             cues, words);
    for (size_t t = 0; t < words; t++) {
        char style[128];
        double at = left + ((double)t + 0.7) * STORY_CELL;
        snprintf(style, sizeof style,
                 "font-size=\"11\" text-anchor=\"end\" transform=\"rotate(-60 %.1f %.1f)\"", at,
                 names);
        svg_text(out, at, names, style, story->word[t]);
    }
    svg_close(out);
    free(share);
    return out_close(&file, error);
}

/* In the terminal, and as a figure if one is asked for. */
bool story_show(const StoryPicture *picture, const Show *show, Error *error)
{
    story_print(picture, &show->look);
    return show->svg == NULL || story_svg(picture, show->svg, error);
}

/* ======================================= The tree ========================================= */

enum { TREE_LEN = 8 };

/* The tree of eight steps in characters: who is joined with whom, going up. */
void print_tree(const Look *look)
{
    static const char *const lines[2][6] = {
        {"   1    2    3    4    5    6    7    8      eight steps",
         "   └─┬──┘    └─┬──┘    └─┬──┘    └─┬──┘      round 1: neighbours",
         "    12        34        56        78",
         "     └───┬─────┘         └───┬─────┘       round 2: twos",
         "       1234                5678",
         "         └─────────┬─────────┘             round 3: 12345678"},
        {"   1    2    3    4    5    6    7    8      eight steps",
         "   +-+--+    +-+--+    +-+--+    +-+--+      round 1: neighbours",
         "    12        34        56        78",
         "     +---+-----+         +---+-----+       round 2: twos",
         "       1234                5678",
         "         +---------+---------+             round 3: 12345678"}};
    for (int i = 0; i < 6; i++)
        puts(lines[look->ascii][i]);
}

/* Eight pairs (TREE_LEN, 2), a over b; a star marks those that a round has changed: first, first +
   step, ... */
void print_pairs(const char *what, const float *pairs, size_t first, size_t step)
{
    for (size_t part = 0; part < 2; part++) {
        printf("%-13s %s", part == 0 ? what : "", part == 0 ? "a" : "b");
        for (size_t t = 0; t < TREE_LEN; t++) {
            const char *star = t >= first && (t - first) % step == 0 ? "*" : "";
            printf(" %*g%s", *star ? 6 : 7, (double)pairs[2 * t + part], star);
        }
        putchar('\n');
    }
}

/* One node of the drawn tree and the lines to the two below it. */
static void svg_node(FILE *out, size_t first, size_t last, double level)
{
    char text[16];
    double x = 60.0 + 74.0 * ((double)(first + last) / 2.0 - 1.0), y = 50.0 + 70.0 * level;
    double reach = 74.0 * (double)(last - first + 1) / 4.0;
    if (first < last)
        for (int side = -1; side <= 1; side += 2)
            fprintf(out,
                    "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#888\"/>\n",
                    x + side * reach, y - 70.0, x, y);
    fprintf(out,
            "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"23\" fill=\"white\" stroke=\"%s\" "
            "stroke-width=\"2\"/>\n",
            x, y, first == 1 ? "#0072B2" : "#888");
    snprintf(text, sizeof text, first == last ? "%zu" : "%zu–%zu", first, last);
    svg_text(out, x, y + 5.0, "text-anchor=\"middle\"", text);
}

/* The up-sweep as a picture: level by level, from the leaves at the top to the root. */
bool tree_svg(const char *path, Error *error)
{
    OutFile file;
    if (!out_open(&file, path, error))
        return false;
    FILE *out = file.stream;
    svg_open(out, 640, 310);
    for (size_t width = 8, level = 3; width >= 1; width /= 2, level--)
        for (size_t first = 1; first <= TREE_LEN; first += width)
            svg_node(out, first, first + width - 1, (double)level);
    svg_text(out, 16, 300, "fill=\"#0072B2\"",
             "blue: joined from the first step on, so its b is a state x");
    svg_close(out);
    return out_close(&file, error);
}

/* ================================= Curves, and a table ==================================== */

/* Days from 0 on: y (days, 2), the chances of either weather. */
void print_weather(const float *y, size_t days)
{
    puts("   day    sunny    rainy");
    for (size_t t = 0; t < days; t++)
        printf("  %4zu   %.4f   %.4f\n", t, (double)y[2 * t], (double)y[2 * t + 1]);
}

/* Curves y (n, rows) over x (rows) on a logarithmic axis, without the first row, where x is 0. */
bool rows_chart(Chart *chart, const char *const *names, const double *x, const double *y, size_t n,
                size_t rows, const Show *show, Error *error)
{
    chart->log_x = true;
    for (size_t k = 0; k < n; k++)
        chart_add(chart, names[k], MARK_LINE, x + 1, y + k * rows + 1, rows - 1);
    return chart_show(chart, show, error);
}

/* =================================== A short cut ========================================== */

/* The short cut that does not work: with P_t = a_1 ... a_t, x_t = P_t (b_1/P_1 + ... + b_t/P_t). */
bool demo_division(const Show *show, Error *error)
{
    enum { LEN = 150 };
    float a = 0.5f, P = 1.0f, sum = 0.0f, x = 0.0f;
    (void)show, (void)error;
    prose("A short cut that does not work: divide by the product of all a so far, and it is a "
          "plain sum. a = 1/2 and b = 1 throughout, in float:\n\n  step      loop   product so "
          "far   by division");
    for (int t = 1; t <= LEN; t++) {
        x = a * x + 1.0f;
        P *= a;
        sum += 1.0f / P;
        if (t == 1 || t == 10 || t == 100 || t == 126 || t == 128 || t >= 149)
            printf("  %4d  %8.4f %16.4g %13.4g\n", t, (double)x, (double)P,
                   fabs((double)(P * sum))); /* a NaN without its sign */
    }
    prose("\nThe product leaves the range of floats (at step 128 it is 1 over it that does) while "
          "the state is as lively as ever; with a single a = 0 it is 0 at once. Logarithms save "
          "the product (log a is Delta A), but not the sum: b may be negative, or 0.");
    return true;
}

#endif /* CH04_PICTURES */
