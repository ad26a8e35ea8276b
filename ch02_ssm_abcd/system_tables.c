/* Tables and charts of systems.

   HOLDS   matrices and samples as tables; what the spectral radius means, in a sentence; the chart
           of a system's outputs; what three demos of chapter 2 show; small helpers. All on plain
           data: sizes and arrays
   FOR     the demos of chapters 2 and 3 */

#ifndef CH02_SYSTEM_TABLES
#define CH02_SYSTEM_TABLES

#include "../ch01_markov/charts.h"
#include "system_files.c"

enum { SHOWN_STEPS = 12, SHOWN_SIZE = 6, SSM_RADIUS_SIZE = 256 };

/* v, but 0 where rounding left next to nothing: no table shall show -0.0000. */
double tidy(double v, double unit)
{
    return fabs(v) < 0.5 * unit ? 0.0 : v;
}

/* v, but 0 if it is what rounding leaves beside numbers as large as `size`. */
double tidied(double v, double size)
{
    return fabs(v) < 1e-12 * size ? 0.0 : v;
}

void print_matrix(const char *name, const double *M, size_t rows, size_t cols)
{
    if (rows > SHOWN_SIZE || cols > SHOWN_SIZE) {
        printf("  %s  %zu by %zu\n", name, rows, cols);
        return;
    }
    double size = matrix_max_abs(M, rows * cols);
    int width = 10, over = strlen(name) > 3 ? (int)strlen(name) - 3 : 0; /* of a long name */
    for (size_t k = 0; k < rows * cols; k++) {
        int wide = (int)strlen(number_cell(tidied(M[k], size), 4).text) + (k == 0 ? 1 + over : 2);
        width = wide > width ? wide : width;
    }
    for (size_t i = 0; i < rows; i++) {
        printf("  %-3s", i == 0 ? name : "");
        for (size_t j = 0; j < cols; j++)
            print_number(tidied(M[i * cols + j], size), 4, i + j == 0 ? width - over : width);
        putchar('\n');
    }
}

/* The spectral radius of A (d_state, d_state), and what it means for the memory; `name` is A's. */
void print_stability(const char *name, const double *A, size_t d_state)
{
    if (d_state > SSM_RADIUS_SIZE) {
        printf("(The spectral radius is worked out for states of up to %d numbers.)\n",
               SSM_RADIUS_SIZE);
        return;
    }
    double radius = matrix_spectral_radius(A, d_state);
    Cell number = number_cell(radius, 4);
    if (radius > 1.0 + 1e-9)
        prose("Spectral radius of %s: %s. Unstable: what is in the state grows, in the end by "
              "this factor a step.",
              name, number.text);
    else if (radius > 1.0 - 1e-9)
        prose("Spectral radius of %s: %s, to nine digits. On the edge: part of the state does not "
              "fade, or only in a billion steps; it stays, swings, or grows slowly.",
              name, number.text);
    else
        prose("Spectral radius of %s: %s. Stable: in the end half of the state is gone every %.2f "
              "steps.",
              name, number.text, log(0.5) / log(radius));
}

/* One line of a table: the step, the first inputs and outputs. The sizes tell what is rounding. */
static void print_sample(const Signal *u, const double *y, size_t t, size_t d_out,
                         const size_t shown[2], const double size[2])
{
    printf("  %10.6g", u->time[t]);
    for (size_t i = 0; i < shown[0]; i++)
        print_number(tidied(u->value[t * u->width + i], size[0]), 5, 12);
    fputs("  |", stdout);
    for (size_t j = 0; j < shown[1]; j++)
        print_number(tidied(y[t * d_out + j], size[1]), 5, 12);
    putchar('\n');
}

/* Inputs u and outputs y (len, d_out): the first steps, and the last two; of many channels as many
   as the page has room for. */
void print_samples(const Signal *u, const double *y, size_t d_out)
{
    double size[2] = {matrix_max_abs(u->value, u->len * u->width),
                      matrix_max_abs(y, u->len * d_out)};
    size_t room = (page_columns() - 15) / 12;
    size_t shown[2] = {u->width, d_out};
    while (shown[0] + shown[1] > room && shown[0] + shown[1] > 2)
        shown[shown[1] < shown[0] || shown[1] == 1 ? 0 : 1]--;
    printf("  %10s", "t");
    for (size_t i = 0; i < shown[0]; i++)
        printf("%11s%zu", "u", i + 1);
    fputs("  |", stdout);
    for (size_t j = 0; j < shown[1]; j++)
        printf("%11s%zu", "y", j + 1);
    puts(shown[0] < u->width || shown[1] < d_out ? "  ..." : "");
    for (size_t t = 0; t < u->len; t++) {
        if (t == SHOWN_STEPS && u->len > SHOWN_STEPS + 2) {
            puts("         ...");
            t = u->len - 2;
        }
        print_sample(u, y, t, d_out, shown, size);
    }
}

/* The largest |a[i] - b[i]|; NaN if there is one. */
double max_difference(const double *a, const double *b, size_t count)
{
    double *difference = NEW(double, count);
    for (size_t i = 0; i < count; i++)
        difference[i] = a[i] - b[i];
    double largest = matrix_max_abs(difference, count);
    free(difference);
    return largest;
}

/* Root mean square of a - b, relative to that of b about its mean. */
double relative_error(const double *a, const double *b, size_t len)
{
    double mean = 0.0, apart = 0.0, size = 0.0;
    for (size_t t = 0; t < len; t++)
        mean += b[t] / (double)len;
    for (size_t t = 0; t < len; t++) {
        apart += (a[t] - b[t]) * (a[t] - b[t]);
        size += (b[t] - mean) * (b[t] - mean);
    }
    return size > 0.0 ? sqrt(apart / size) : sqrt(apart);
}

/* One column of v (len, width), to be freed. */
double *column_of(const double *v, size_t column, size_t width, size_t len)
{
    double *out = NEW(double, len);
    for (size_t t = 0; t < len; t++)
        out[t] = v[t * width + column];
    return out;
}

/* A built-in input of one channel that is known to be one. */
Signal input_of(const char *name, size_t len, uint64_t seed)
{
    Signal u = {0, 0, NULL, NULL};
    bool known = signal_built_in(&u, name, len, 1, seed);
    assert(known);
    (void)known;
    return u;
}

/* The outputs y (len, d_out), and before them the input if it is a single one from a file. */
bool chart_outputs(const Signal *u, const double *y, size_t d_out, const char *input,
                   const Show *show, Error *error)
{
    static const char *const names[] = {"y1", "y2", "y3", "y4", "y5", "y6"};
    double *columns[CHART_MAX_SERIES];
    char title[80];
    snprintf(title, sizeof title, "The outputs for input %.40s", path_shown(input));
    Chart chart = chart_new(title, "t", "y");
    if (u->width == 1 && (strchr(input, '.') || strcmp(input, "-") == 0))
        chart_add(&chart, "u1", MARK_LINE, u->time, u->value, u->len);
    size_t shown = 0;
    for (; shown < d_out && chart.n_series < CHART_MAX_SERIES; shown++) {
        columns[shown] = column_of(y, shown, d_out, u->len);
        chart_add(&chart, names[shown], MARK_LINE, u->time, columns[shown], u->len);
    }
    bool ok = chart_show(&chart, show, error);
    for (size_t j = 0; j < shown; j++)
        free(columns[j]);
    return ok;
}

/* The front of chapter 2: u (len), the outputs sunny, rainy and barometer y (len, 3), and calm
   (len, 2), sunny and rainy without it. */
bool show_front(const Signal *u, const double *y, const double *calm, const Show *show,
                Error *error)
{
    double *with = column_of(y, 1, 3, u->len), *without = column_of(calm, 1, 2, u->len);
    puts("\n       day  front |   sunny   rainy  barometer | rain without front   difference");
    for (size_t t = 0; t < u->len; t++)
        printf("  %8.0f%7.2f |%8.4f%8.4f%11.2f |%19.4f%13.5f\n", u->time[t], u->value[t], y[3 * t],
               with[t], y[3 * t + 2], without[t], with[t] - without[t]);
    puts("What D shows is gone the next day. Of what B has written, each day leaves 0.4.");
    Chart chart = chart_new("A front arrives on day 3", "day", "chance of rain");
    chart_add(&chart, "with the front", MARK_LINE, u->time, with, u->len);
    chart_add(&chart, "without", MARK_LINE, u->time, without, u->len);
    chart_ink(&chart, INK_GREY);
    chart_level(&chart, 1.0 / 3.0);
    bool ok = chart_show(&chart, show, error);
    free(with);
    free(without);
    return ok;
}

/* One impulse u (len) read after the update, before it, and before it from other C and D. */
bool show_shift(const Signal *u, const double *after, const double *before, const double *rewritten,
                const Show *show, Error *error)
{
    puts("    t  u_t | read after (S4, Mamba) | before (control) |C A, C B + D read before");
    for (size_t t = 0; t < u->len; t++)
        printf("  %3zu%5.1f |%23.5f |%17.5f |%24.5f\n", t, u->value[t], after[t], before[t],
               rewritten[t]);
    prose(
        "Read before the update, what B writes shows one step later. But with C' = C A = 0.5 "
        "and D' = C B + D = 1.25 a system read before shows what the first one shows read after.");
    Chart chart = chart_new("One impulse, read before and after the update", "t", "y");
    chart_add(&chart, "read after (S4, Mamba)", MARK_POINTS, u->time, after, u->len);
    chart_add(&chart, "read before (control)", MARK_POINTS, u->time, before, u->len);
    chart_ink(&chart, INK_AMBER);
    return chart_show(&chart, show, error);
}

/* The weather's coordinates in its eigenbasis (2, len), and its outputs y and again (len, 2) in the
   old coordinates and the new. */
bool show_basis(const Signal *u, const double *coordinate, const double *y, const double *again,
                const Show *show, Error *error)
{
    size_t len = u->len;
    puts("\n     day | x'1 (stays)  x'2 (fades) |    sunny    rainy | sunny, rainy as before");
    for (size_t t = 0; t < len; t++)
        printf("  %6.0f |%12.6f%13.6f |%9.4f%9.4f |%13.4f%9.4f\n", u->time[t], coordinate[t],
               coordinate[len + t], again[2 * t], again[2 * t + 1], y[2 * t], y[2 * t + 1]);
    prose("The outputs agree to 1e-12: %s. A step now costs 2 products instead of 4, for a state "
          "of n numbers n instead of n^2.",
          max_difference(y, again, 2 * len) <= 1e-12 ? "yes" : "no");
    Chart chart = chart_new("The weather in its eigenbasis", "day", "the two coordinates");
    chart_add(&chart, "x'1, eigenvalue 1: stays", MARK_LINE, u->time, coordinate, len);
    chart_ink(&chart, INK_GREY);
    chart_add(&chart, "x'2, eigenvalue 0.4: fades", MARK_LINE, u->time, coordinate + len, len);
    chart_ink(&chart, INK_BLUE);
    return chart_show(&chart, show, error);
}

#endif /* CH02_SYSTEM_TABLES */
