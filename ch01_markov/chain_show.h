/* How a chain is shown: its tables, and its picture.

   HOLDS   the first states' names and chances in columns; one step worked as on paper; circles and
           arrows as SVG, beside a chart; days as a strip, a mark for each
   FOR     chapter 1's demos. It knows names and numbers, and no chain */

#ifndef CH01_CHAIN_SHOW
#define CH01_CHAIN_SHOW

#include "charts.h"

enum { SHOWN_STATES = 5, SHOWN_DAYS = 20, NAME_LEFT = 24 };

size_t shown_states(size_t n_state)
{
    return n_state < SHOWN_STATES ? n_state : (size_t)SHOWN_STATES;
}

/* The ink of state i in every figure. The states of the course's own chains look as they are, the
   sun amber and rain blue; others take the inks in their order. */
Ink state_ink(char *const *name, size_t n_state, size_t i)
{
    static const struct {
        const char *name;
        Ink ink;
    } known[] = {{"sunny", INK_AMBER},   {"rainy", INK_BLUE},  {"dry", INK_AMBER},
                 {"wet", INK_BLUE},      {"none", INK_AMBER},  {"some", INK_SKY},
                 {"much", INK_BLUE},     {"green", INK_GREEN}, {"amber", INK_AMBER},
                 {"red", INK_VERMILION}, {"border", INK_GREY}, {"desert", INK_AMBER},
                 {"oasis", INK_GREEN},   {"rain", INK_BLUE},   {"drizzle", INK_SKY}};
    static const Ink in_order[] = {INK_AMBER, INK_BLUE, INK_VERMILION,
                                   INK_GREEN, INK_PINK, INK_SKY};
    const size_t n_known = sizeof known / sizeof *known; /* an enum of it is too much for nvcc */
    Ink found = in_order[i % 6];
    for (size_t s = 0; s < n_state; s++) {
        size_t k = 0;
        while (k < n_known && strcmp(known[k].name, name[s]) != 0)
            k++;
        if (k == n_known)
            return in_order[i % 6];
        found = s == i ? known[k].ink : found;
    }
    return found;
}

/* Columns of the widest of the shown names, but no more than `most`. */
static int names_width(char *const *name, size_t n_state, int most)
{
    int widest = 0;
    for (size_t i = 0; i < shown_states(n_state); i++)
        widest = (int)text_width(name[i]) > widest ? (int)text_width(name[i]) : widest;
    return widest < most ? widest : most;
}

/* How wide a state's column of numbers is: as its name, if the page has room for that. */
static int state_width(char *const *name, size_t n_state)
{
    assert(n_state > 0); /* a chain has a state */
    int shown = (int)shown_states(n_state), room = (int)page_columns() - NAME_LEFT - 6;
    int wide = names_width(name, n_state, room / shown - 2) + 2;
    return wide > 10 ? wide : 10;
}

/* A state's name at the beginning of a row, `inset` blanks first; NAME_LEFT columns in all. */
static void print_row_name(const char *name, int inset)
{
    printf("%*s", inset, "");
    text_pad_cut(stdout, name, inset - NAME_LEFT, !locale_is_utf8());
}

void print_names(const char *before, char *const *name, size_t n_state)
{
    int width = state_width(name, n_state);
    fputs(before, stdout);
    for (size_t i = 0; i < shown_states(n_state); i++) {
        fputs("  ", stdout);
        text_pad_cut(stdout, name[i], width - 2, !locale_is_utf8());
    }
    puts(n_state > SHOWN_STATES ? "  ..." : "");
}

void print_chances(const double *chance, char *const *name, size_t n_state)
{
    for (size_t i = 0; i < shown_states(n_state); i++)
        print_number(chance[i], 4, state_width(name, n_state));
}

/* P (n_state, n_state), a row for each today. */
void print_table(char *const *name, const double *P, size_t n_state)
{
    print_names("  today       tomorrow: ", name, n_state);
    for (size_t i = 0; i < shown_states(n_state); i++) {
        print_row_name(name[i], 2);
        print_chances(P + i * n_state, name, n_state);
        putchar('\n');
    }
    puts(n_state > SHOWN_STATES ? "  ...\n" : "");
}

/* The arithmetic of one step from `now` (n_state), as one would do it on paper. */
void print_by_hand(const char *title, const double *now, char *const *name, const double *P,
                   size_t n_state)
{
    int width = names_width(name, n_state, 24);
    width = width > 8 ? width : 8;
    printf("%s, by hand:\n", title);
    for (size_t j = 0; j < n_state; j++) {
        double sum = 0.0;
        int column = width + 2;
        fputs("  ", stdout);
        text_pad_cut(stdout, name[j], -width, !locale_is_utf8());
        for (size_t i = 0; i < n_state; i++) {
            char term[64];
            double share = P[i * n_state + j];
            int wide =
                snprintf(term, sizeof term, "%s%.4g x %.4g", i ? " + " : " = ", now[i], share);
            if (column + wide + 9 > (int)page_columns()) { /* nine for the sum */
                printf("\n%*s", width + 2, "");
                column = width + 2;
            }
            fputs(term, stdout);
            column += wide;
            sum += now[i] * share;
        }
        printf(" = %.4g\n", sum);
    }
}

/* A line for one day: pi (n_state), and how far it is from the shares in the long run. */
void print_day(size_t day, const double *pi, char *const *name, size_t n_state, double distance)
{
    printf("  %7zu  ", day);
    print_chances(pi, name, n_state);
    fputs(n_state > SHOWN_STATES ? "  ..." : "", stdout);
    print_number(distance < 1e-12 ? 0.0 : distance, 5, 12); /* below is rounding */
    putchar('\n');
}

/* Whether a far day by P^days is what single steps give: `apart` is the sum of the differences. */
void print_agreement(uint64_t days, double apart)
{
    char same[64] = "give the same to nine digits";
    if (apart > 1e-9)
        snprintf(same, sizeof same, "differ by %.0e in all", apart);
    putchar('\n');
    prose("Day %" PRIu64 " comes from P^%" PRIu64 " by repeated squaring; single steps %s.", days,
          days, same);
}

/* distance (shown states, count): a column for each state that day 0 is, a line for each day. */
void print_distances(char *const *name, const double *distance, size_t n_state, size_t count)
{
    puts("Distance from the long run (total variation), if day 0 is surely:");
    print_names("      day  ", name, n_state);
    for (size_t t = 0; t < count && t <= SHOWN_DAYS; t++) {
        printf("  %7zu  ", t);
        for (size_t i = 0; i < shown_states(n_state); i++)
            print_number(distance[i * count + t], 6, state_width(name, n_state));
        putchar('\n');
    }
}

/* ---- where it settles, in words ---------------------------------------------------------- */

void print_reducible(size_t n_class)
{
    putchar('\n');
    prose("The chain is reducible: it has %zu closed classes of states, which nothing leaves, so "
          "there is no single answer. Each has its own stationary distribution, and the start "
          "decides which one it will be:",
          n_class);
}

/* " sunny 0.6667  rainy 0.3333", for those of the shown states that have a chance. */
static void append_shares(char *text, size_t room, char *const *name, const double *pi, size_t n)
{
    size_t shown = 0;
    for (size_t i = 0; i < n; i++) {
        size_t used = strlen(text);
        if (pi[i] > 0.0 && shown++ < SHOWN_STATES)
            snprintf(text + used, room - used, "  %.60s" UNBROKEN "%s", name[i],
                     number_cell(pi[i], 4).text);
    }
    size_t used = strlen(text);
    snprintf(text + used, room - used, "%s", shown > SHOWN_STATES ? "  ..." : "");
}

/* Class k, its chance and its own stationary distribution pi (n_state), 0 outside it. */
void print_class(size_t k, double chance, char *const *name, const double *pi, size_t n_state)
{
    char text[1024];
    snprintf(text, sizeof text, "  class %zu, chance %s to end here:", k + 1,
             number_cell(chance, 4).text);
    append_shares(text, sizeof text, name, pi, n_state);
    prose("%s", text);
}

void print_stationary(char *const *name, const double *pi, size_t n_state)
{
    char text[1024] = "Stationary distribution (solving pi = pi P):";
    append_shares(text, sizeof text, name, pi, n_state);
    putchar('\n');
    prose("%s", text);
}

void print_periodic(size_t period)
{
    prose("The chain is periodic: it can come back only after a multiple of %zu days. The forecast "
          "goes round and need not settle; the stationary distribution is the share of days in "
          "the long run.",
          period);
}

void print_forgetting(double rate, double half_life)
{
    char half[80] = "it takes more than a million days to lose half of it";
    if (rate <= 0.0) { /* P - 1 pi is nilpotent: its power is 0 before day n_state */
        prose("In the end nothing is left of the distance: the forecast does not only come near to "
              "where it settles, it arrives there.");
        return;
    }
    if (half_life < 1e6)
        snprintf(half, sizeof half, "half of it is gone every %.2f days", half_life);
    prose("In the end each day keeps the fraction %s of the distance: %s.",
          number_cell(rate, 4).text, half);
}

/* ---- a simulated record ------------------------------------------------------------------ */

/* What was lived through, a state a line: days, longest spell and number of spells (n_state),
   beside the share that is expected and its deviation times sqrt(days). */
void print_lived(char *const *name, const double *P, size_t n_state, uint64_t total,
                 const uint64_t *days, const uint64_t *longest, const uint64_t *spells,
                 const double *expected, const double *deviation)
{
    int width = names_width(name, n_state, (int)page_columns() - 72);
    width = width > 8 ? width : 8;
    printf("%*s      share of days                      spells of days\n", width + 10, "");
    text_pad(stdout, "  state", -2 - width);
    puts("      days   share  expected  std.err     z  longest    mean  expected");
    for (size_t i = 0; i < shown_states(n_state); i++) {
        double share = (double)days[i] / (double)total;
        double std_error = deviation[i] / sqrt((double)total);
        double z = std_error > 0.0 ? (share - expected[i]) / std_error : 0.0;
        fputs("  ", stdout);
        text_pad_cut(stdout, name[i], -width, !locale_is_utf8());
        printf("%10" PRIu64 "%8.4f%10.4f%9.4f%6.2f%9" PRIu64 "%8.2f%10.2f\n", days[i], share,
               expected[i], std_error, z, longest[i],
               (double)days[i] / (spells[i] ? (double)spells[i] : 1.0),
               1.0 / (1.0 - P[i * n_state + i]));
    }
}

/* What the standard errors mean, or why there are none. */
void print_errors_explained(size_t n_class, bool known)
{
    putchar('\n');
    if (n_class > 1)
        prose("The chain is reducible: where one record ends is chance, and its shares need not "
              "come near the expected ones however long it is. No standard error is given.");
    else if (!known)
        prose("Parts of this chain meet so rarely that no record shows its shares, and no "
              "standard error is given.");
    else
        prose("Standard errors allow for days that resemble the day before. z says how many of "
              "them the share is off: more than 2 either way in about one record of twenty.");
}

enum { LOOKS = 120 };

/* The share of one state's days at ever longer times, and what to expect of it. */
typedef struct {
    size_t state, looks;
    double at[LOOKS], share[LOOKS], low[LOOKS], high[LOOKS]; /* days, shares */
    double expected;
} RunningShare;

void look_at_share(RunningShare *running, double seen, double days, double expected,
                   double deviation)
{
    double reach = 2.0 * deviation / sqrt(days); /* two standard errors */
    size_t k = running->looks++;
    running->expected = expected;
    running->at[k] = days;
    running->share[k] = seen / days;
    running->low[k] = fmax(0.0, expected - reach);
    running->high[k] = fmin(1.0, expected + reach);
}

Chart running_chart(const RunningShare *running, char *const *name, size_t n_state)
{
    Chart chart = chart_new("A simulated record settles", "days", "share of days");
    size_t len = running->looks;
    chart.log_x = true;
    chart_add(&chart, name[running->state], MARK_LINE, running->at, running->share, len);
    chart_ink(&chart, state_ink(name, n_state, running->state));
    chart_add(&chart, "two standard errors around it", MARK_LINE, running->at, running->low, len);
    chart_ink(&chart, INK_GREY);
    chart_add(&chart, NULL, MARK_LINE, running->at, running->high, len);
    chart_ink(&chart, INK_GREY);
    chart_level(&chart, running->expected);
    return chart;
}

/* ---- a fitted chain ---------------------------------------------------------------------- */

/* `title` is the line that was taken for a title, though it does not say so, or 0. */
void print_record(double days, double gaps, size_t title)
{
    if (title > 0)
        printf("Line %zu is taken for a title, and not for a day.\n", title);
    if (days > 0.0)
        printf("%.0f days with a state, and %.0f gap%s between them.\n", days, gaps,
               gaps == 1.0 ? "" : "s");
}

/* A row of standard errors. Where a share is 0 or 1 the formula gives 0, which would claim that
   nothing is unknown, even after a single day: nothing is printed there, and `none` is set. */
static void print_std_errors(bool *none, const double *std_error, char *const *name, size_t n_state)
{
    for (size_t i = 0; i < shown_states(n_state); i++) {
        int width = state_width(name, n_state);
        if (std_error[i] > 0.0)
            print_number(std_error[i], 4, width);
        else
            printf("%*s", width, "-");
        *none = *none || !(std_error[i] > 0.0);
    }
}

/* What the counts say: count, the chances P and their standard errors, all (n_state, n_state). */
void print_fitted(char *const *name, const double *count, const double *P, const double *std_error,
                  size_t n_state)
{
    size_t shown = shown_states(n_state);
    bool none = false;
    print_names("\n  today transitions to: ", name, n_state);
    for (size_t i = 0; i < shown; i++) {
        print_row_name(name[i], 2);
        for (size_t j = 0; j < shown; j++)
            printf(" %*.0f", state_width(name, n_state) - 1, count[i * n_state + j]);
        fputs("\n  most likely chance    ", stdout);
        print_chances(P + i * n_state, name, n_state);
        fputs("\n  standard error        ", stdout);
        print_std_errors(&none, std_error + i * n_state, name, n_state);
        putchar('\n');
    }
    if (none)
        puts("(- : where all went one way the formula gives 0, as if nothing were unknown.)");
}

/* Whether today tells anything about tomorrow: the statistic, its freedom, its chance. */
void print_informative(double G2, double freedom, double p_value)
{
    putchar('\n');
    prose("Is today's state informative about tomorrow's? Likelihood ratio G2 = %.2f, %.0f "
          "degree%s of freedom:",
          G2, freedom, freedom == 1.0 ? "" : "s");
    if (freedom < 1.0)
        puts("there is nothing to test with a single state.\n");
    else if (p_value > 0.05)
        printf("p = %.2g. This record gives no reason to think so.\n\n", p_value);
    else if (p_value < 1e-300)
        puts("p < 1e-300. It is.\n");
    else
        printf("if it were not, chance alone would give such a G2 with p = %.1e. It is.\n\n",
               p_value);
}

/* ---- the picture: states as circles, chances as arrows ----------------------------------- */

enum { CHAIN_MIDDLE_X = 160, CHAIN_MIDDLE_Y = 215 };
enum { CHAIN_ARROWS_TOLD = 12 }; /* with more arrows their chances would lie on each other */

static void svg_state_place(double *x, double *y, size_t i, size_t n)
{
    double turn = 2.0 * PI * (double)i / (double)n + (n == 2 ? PI : -0.5 * PI);
    double radius = n == 1 ? 0.0 : n == 2 ? 90.0 : 72.0 + 4.0 * (double)n;
    *x = CHAIN_MIDDLE_X + radius * cos(turn);
    *y = CHAIN_MIDDLE_Y + radius * sin(turn);
}

/* What is drawn of an arrow: its line, or the chance beside it, on top of all lines. */
typedef enum { ARROW_LINE, ARROW_CHANCE } ArrowPart;

/* An arrow along `path`, with its chance at (x, y) on a white outline. */
static void svg_arrow(FILE *out, ArrowPart part, const char *path, double x, double y,
                      double chance)
{
    char text[32];
    if (part == ARROW_LINE) {
        fprintf(out,
                "<path d=\"%s\" fill=\"none\" stroke=\"#555\" stroke-width=\"%.1f\" "
                "marker-end=\"url(#head)\"/>\n",
                path, 1.0 + 3.0 * chance);
        return;
    }
    snprintf(text, sizeof text, "%.2f", chance);
    svg_text(out, x, y + 4.0,
             "text-anchor=\"middle\" font-size=\"12\" stroke=\"white\" stroke-width=\"8\" "
             "stroke-linejoin=\"round\"",
             text);
    svg_text(out, x, y + 4.0, "text-anchor=\"middle\" font-size=\"12\"", text);
}

/* A state's arrow to itself: a loop on the outer side, above if there are only one or two. */
static void svg_loop(FILE *out, ArrowPart part, const double *P, size_t n_state, size_t i)
{
    double x, y, out_x = 0.0, out_y = -1.0;
    char path[160];
    svg_state_place(&x, &y, i, n_state);
    if (n_state > 2) {
        double size = hypot(x - CHAIN_MIDDLE_X, y - CHAIN_MIDDLE_Y);
        out_x = (x - CHAIN_MIDDLE_X) / size;
        out_y = (y - CHAIN_MIDDLE_Y) / size;
    }
    snprintf(path, sizeof path, "M%.1f,%.1f C%.1f,%.1f %.1f,%.1f %.1f,%.1f",
             x + 24 * out_x - 13 * out_y, y + 24 * out_y + 13 * out_x, x + 58 * out_x - 30 * out_y,
             y + 58 * out_y + 30 * out_x, x + 58 * out_x + 30 * out_y, y + 58 * out_y - 30 * out_x,
             x + 29 * out_x + 15 * out_y, y + 29 * out_y - 15 * out_x);
    double middle = fmax(17.0, x + 60 * out_x); /* not cut off on the left */
    svg_arrow(out, part, path, middle, y + 60 * out_y, P[i * n_state + i]);
}

/* The arrow from state i to j, bent to its left so that the two directions keep apart. */
static void svg_transition(FILE *out, ArrowPart part, const double *P, size_t n_state, size_t i,
                           size_t j)
{
    double x0, y0, x1, y1;
    char path[160];
    svg_state_place(&x0, &y0, i, n_state);
    svg_state_place(&x1, &y1, j, n_state);
    double along_x = x1 - x0, along_y = y1 - y0, size = hypot(along_x, along_y);
    along_x /= size;
    along_y /= size;
    double bend = (n_state == 2 ? 0.24 : 0.11) * size;
    double mid_x = 0.5 * (x0 + x1) + bend * along_y, mid_y = 0.5 * (y0 + y1) - bend * along_x;
    double side = n_state == 2 ? 16.0 : 9.0;
    x0 += 25 * along_x + side * along_y;
    y0 += 25 * along_y - side * along_x;
    x1 += side * along_y - 34 * along_x;
    y1 += -side * along_x - 34 * along_y;
    snprintf(path, sizeof path, "M%.1f,%.1f Q%.1f,%.1f %.1f,%.1f", x0, y0, mid_x, mid_y, x1, y1);
    /* the chance stands nearer to where the arrow begins, clear of that of the way back */
    svg_arrow(out, part, path, 0.44 * x0 + 0.45 * mid_x + 0.11 * x1,
              0.44 * y0 + 0.45 * mid_y + 0.11 * y1, P[i * n_state + j]);
}

static void svg_arrows(FILE *out, ArrowPart part, const double *P, size_t n_state)
{
    for (size_t i = 0; i < n_state; i++)
        for (size_t j = 0; j < n_state; j++)
            if (i != j && P[i * n_state + j] > 0.0)
                svg_transition(out, part, P, n_state, i, j);
            else if (i == j && P[i * n_state + i] > 0.0)
                svg_loop(out, part, P, n_state, i);
}

/* How many arrows lead from one state to another. */
static size_t arrows_between(const double *P, size_t n_state)
{
    size_t count = 0;
    for (size_t i = 0; i < n_state * n_state; i++)
        count += P[i] > 0.0 && i / n_state != i % n_state;
    return count;
}

/* A name in its circle, smaller if it has to be. */
static void svg_name(FILE *out, double x, double y, const char *name)
{
    char style[64] = "text-anchor=\"middle\"";
    double wide = SVG_COLUMN * (double)text_width(name);
    if (wide > 56.0)
        snprintf(style, sizeof style, "text-anchor=\"middle\" font-size=\"%.1f\"",
                 13.0 * 56.0 / wide);
    svg_text(out, x, y + 4.0, style, name);
}

static void svg_chain(FILE *out, char *const *name, const double *P, size_t n_state)
{
    fputs(
        "<defs><marker id=\"head\" viewBox=\"0 0 10 10\" refX=\"7\" refY=\"5\" markerWidth=\"13\" "
        "markerHeight=\"13\" markerUnits=\"userSpaceOnUse\" orient=\"auto\">"
        "<path d=\"M0,1 L9,5 L0,9 z\" fill=\"#555\"/></marker></defs>\n",
        out);
    svg_text(out, 14, 22, "font-size=\"15\" font-weight=\"bold\"", "The chain");
    bool told = arrows_between(P, n_state) <= CHAIN_ARROWS_TOLD;
    svg_text(out, 14, 40, "fill=\"#444\"",
             told ? "chance of tomorrow, given today" : "the thicker an arrow, the likelier");
    svg_arrows(out, ARROW_LINE, P, n_state);
    if (told)
        svg_arrows(out, ARROW_CHANCE, P, n_state);
    for (size_t i = 0; i < n_state; i++) {
        double x, y;
        svg_state_place(&x, &y, i, n_state);
        fprintf(out,
                "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"30\" fill=\"white\"/>\n"
                "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"30\" fill=\"%s\" fill-opacity=\"0.25\" "
                "stroke=\"%s\" stroke-width=\"1.5\"/>\n",
                x, y, x, y, svg_colour(state_ink(name, n_state, i)),
                svg_colour(state_ink(name, n_state, i)));
        svg_name(out, x, y, name[i]);
    }
}

/* Shows the chart, and writes chain and chart side by side to show->svg; for more than eight states
   the chart alone. */
bool chain_show(const Chart *chart, char *const *name, const double *P, size_t n_state,
                const Show *show, Error *error)
{
    OutFile file;
    if (!show->svg || n_state > 8)
        return chart_show(chart, show, error);
    putchar('\n');
    chart_print(stdout, chart, &show->look);
    if (!out_open(&file, show->svg, error))
        return false;
    svg_open(file.stream, 320 + SVG_WIDTH, SVG_HEIGHT);
    svg_chain(file.stream, name, P, n_state);
    chart_svg(file.stream, chart, 320, 0, SVG_WIDTH, SVG_HEIGHT);
    svg_close(file.stream);
    return out_close(&file, error);
}

/* ---- days as a strip --------------------------------------------------------------------- */

enum { STRIP_DAYS = 60 };

/* How often the state changes in a strip of days, plus one: its spells; and the longest. */
static size_t count_spells(size_t *longest, const size_t *day, size_t days)
{
    size_t spells = 0, spell = 0;
    *longest = 0;
    for (size_t t = 0; t < days; t++) {
        bool begins = t == 0 || day[t] != day[t - 1];
        spells += begins;
        spell = begins ? 1 : spell + 1;
        *longest = spell > *longest ? spell : *longest;
    }
    return spells;
}

static void print_strip(const char *title, const size_t *day, const Look *look)
{
    static const char *const round[] = {"●", "○", "▲", "△", "■", "□"};
    static const char *const plain[] = {"*", "o", "+", "x", "#", "@"};
    size_t longest, spells = count_spells(&longest, day, STRIP_DAYS);
    printf("  %s: %zu spells, the longest of %zu days\n    ", title, spells, longest);
    for (size_t t = 0; t < STRIP_DAYS; t++)
        fputs((look->ascii ? plain : round)[day[t] % 6], stdout);
    putchar('\n');
}

static void svg_strip(FILE *out, double y, const char *title, const size_t *day, char *const *name,
                      size_t n_state)
{
    char text[128];
    size_t longest, spells = count_spells(&longest, day, STRIP_DAYS);
    snprintf(text, sizeof text, "%s: %zu spells, the longest of %zu days", title, spells, longest);
    svg_text(out, 14, y, "", text);
    for (size_t t = 0; t < STRIP_DAYS; t++)
        fprintf(out, "<rect x=\"%zu\" y=\"%.1f\" width=\"14\" height=\"30\" fill=\"%s\"/>\n",
                14 + 15 * t, y + 9.0, svg_colour(state_ink(name, n_state, day[t])));
}

/* Two strips of days, day (2, STRIP_DAYS): of a chain with the chances P (n_state, n_state), and
   independent ones with the same shares, share (n_state). A spell ends when the next day is another
   state: it lasts one day over the chance of that. */
bool show_strips(const size_t *day, const double *P, const double *share, char *const *name,
                 size_t n_state, const Show *show, Error *error)
{
    const size_t *apart = day + STRIP_DAYS;
    double ends[2] = {0.0, 0.0};
    OutFile file;
    for (size_t i = 0; i < n_state; i++) {
        ends[0] += share[i] * (1.0 - P[i * n_state + i]);
        ends[1] += share[i] * (1.0 - share[i]);
    }
    printf("Sixty days of the chain, and sixty independent ones with its shares (seed %" PRIu64
           "):\n\n",
           show->seed);
    print_strip("the chain", day, &show->look);
    print_strip("independent", apart, &show->look);
    if (ends[0] > 0.0 && ends[1] > 0.0)
        prose("\nOn average a spell lasts %.2f days in the chain, %.2f if days are independent.",
              1.0 / ends[0], 1.0 / ends[1]);
    if (!show->svg)
        return true;
    if (!out_open(&file, show->svg, error))
        return false;
    svg_open(file.stream, 28 + 15 * STRIP_DAYS, 168);
    svg_strip(file.stream, 24, "Sixty days of the chain", day, name, n_state);
    svg_strip(file.stream, 90, "Sixty independent days with the same shares", apart, name, n_state);
    double x = 14;
    for (size_t i = 0; i < shown_states(n_state); i++) {
        fprintf(file.stream,
                "<rect x=\"%.1f\" y=\"145\" width=\"12\" height=\"12\" fill=\"%s\"/>\n", x,
                svg_colour(state_ink(name, n_state, i)));
        svg_text(file.stream, x + 18, 155.5, "", name[i]);
        x += 48.0 + 7.2 * (double)text_width(name[i]);
    }
    svg_close(file.stream);
    return out_close(&file, error);
}

#endif /* CH01_CHAIN_SHOW */
