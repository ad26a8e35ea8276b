/* Charts: one description, drawn in the terminal or as SVG.

   HOLDS   a chart of up to six series; its axes; its picture in characters and as SVG; the inks
           and the few SVG pieces that other pictures are made of; how a program shows its demos
   FOR     the demos of every chapter */

#ifndef COURSE_CHARTS
#define COURSE_CHARTS

#include "text_width.h"

enum { CHART_MAX_SERIES = 6, SVG_WIDTH = 640, SVG_HEIGHT = 380 };
#define SVG_COLUMN 7.4 /* about as wide is a column of text, 13 high */

/* MARK_AREA fills the polygon through its points, lightly, and is drawn in SVG alone. */
typedef enum { MARK_LINE, MARK_POINTS, MARK_STEMS, MARK_AREA } Mark;

/* What is drawn takes an ink, and a thing that stands in several figures has the same in all. They
   are Okabe and Ito's colours, told apart by colour-blind eyes as well, and a grey. */
typedef enum {
    INK_BLUE,
    INK_VERMILION,
    INK_GREEN,
    INK_PINK,
    INK_SKY,
    INK_AMBER,
    INK_GREY,
    N_INK
} Ink;

typedef struct {
    const char *name; /* NULL: not in the legend */
    Mark mark;
    Ink ink;
    const double *x, *y; /* (len) borrowed */
    size_t len;
} Series;

typedef struct {
    const char *title, *x_label, *y_label;
    bool log_x, log_y;
    bool square;          /* one unit is as long across as up: a circle is a circle (SVG) */
    double x_low, x_high; /* the range across; both 0: from the series */
    size_t n_series, n_level;
    Series series[CHART_MAX_SERIES];
    double level[CHART_MAX_SERIES]; /* lines of reference across the chart */
} Chart;

/* How to print: plain ASCII or Unicode, with colour or without. */
typedef struct {
    bool ascii, colour;
} Look;

Chart chart_new(const char *title, const char *x_label, const char *y_label)
{
    Chart chart;
    memset(&chart, 0, sizeof chart);
    chart.title = title;
    chart.x_label = x_label;
    chart.y_label = y_label;
    return chart;
}

void chart_add(Chart *chart, const char *name, Mark mark, const double *x, const double *y,
               size_t len)
{
    assert(chart->n_series < CHART_MAX_SERIES);
    Series *series = &chart->series[chart->n_series++];
    series->name = name;
    series->mark = mark;
    series->ink = (Ink)(chart->n_series - 1);
    series->x = x;
    series->y = y;
    series->len = len;
}

/* Draws what was added last in this ink. Without it the series take the inks in their order. */
void chart_ink(Chart *chart, Ink ink)
{
    chart->series[chart->n_series - 1].ink = ink;
}

/* A line of reference at this height, where the chart has it. */
void chart_level(Chart *chart, double height)
{
    if (chart->n_level < CHART_MAX_SERIES)
        chart->level[chart->n_level++] = height;
}

/* 0, 1, 2 ... : days or steps to draw something over. */
void count_up(double *out, size_t count)
{
    for (size_t t = 0; t < count; t++)
        out[t] = (double)t;
}

/* out (rows) = one column of M (rows, cols), as a series of its own. */
void copy_column(double *out, const double *M, size_t column, size_t rows, size_t cols)
{
    for (size_t t = 0; t < rows; t++)
        out[t] = M[t * cols + column];
}

/* One axis: the range it shows and the distance between its ticks (in decades if log). A short
   logarithmic one is `fine`: it has ticks at 1, 2 and 5 of each decade. */
typedef struct {
    double low, high, step;
    bool log, fine;
} Axis;

/* Where a value lies on the axis: 0 at its low end, 1 at its high end; NaN if it has no place. */
static double axis_place(const Axis *axis, double value)
{
    if (axis->log)
        value = value > 0.0 ? log10(value) : NAN;
    return isfinite(value) ? (value - axis->low) / (axis->high - axis->low) : NAN;
}

/* The least of 1, 2, 5 times a power of ten that cuts the range into at most `most` pieces. */
static double nice_step(double range, double most)
{
    double power = pow(10.0, floor(log10(range / most) + 1e-9));
    double pieces = range / most / power;
    return power * (pieces <= 1.0 + 1e-9   ? 1.0
                    : pieces <= 2.0 + 1e-9 ? 2.0
                    : pieces <= 5.0 + 1e-9 ? 5.0
                                           : 10.0);
}

/* The range of all finite values; `round_out` widens it to whole ticks. */
static Axis axis_fit(const Chart *chart, bool vertical, bool log, bool round_out, double most)
{
    Axis axis = {INFINITY, -INFINITY, 1.0, log, false};
    for (size_t s = 0; s < chart->n_series; s++) {
        const Series *series = &chart->series[s];
        for (size_t i = 0; i < series->len; i++) {
            double value = vertical ? series->y[i] : series->x[i];
            value = log ? (value > 0.0 ? log10(value) : NAN) : value;
            if (isfinite(value)) {
                axis.low = fmin(axis.low, value);
                axis.high = fmax(axis.high, value);
            }
        }
        if (vertical && series->mark == MARK_STEMS && !log) {
            axis.low = fmin(axis.low, 0.0);
            axis.high = fmax(axis.high, 0.0);
        }
    }
    if (!vertical && chart->x_low < chart->x_high) {
        axis.low = chart->x_low;
        axis.high = chart->x_high;
    }
    if (!(axis.low <= axis.high))
        axis.low = axis.high = 0.0; /* nothing to show */
    double wide = fmax(fabs(axis.low), fabs(axis.high));
    if (axis.high - axis.low <= 1e-9 * wide || axis.high <= axis.low) { /* one value: some room */
        double room = wide > 0.0 && !log ? 0.5 * wide : 0.5;
        axis.low -= room;
        axis.high += room;
    }
    axis.step = nice_step(axis.high - axis.low, most);
    if (log) {
        axis.step = fmax(1.0, ceil(axis.step - 1e-9));
        axis.fine = axis.high - axis.low < 2.5;
    }
    if (round_out) {
        axis.low = axis.step * floor(axis.low / axis.step + 1e-9);
        axis.high = axis.step * ceil(axis.high / axis.step - 1e-9);
        if (axis.high <= axis.low) /* all within a hair of one tick */
            axis.high = axis.low + axis.step;
    }
    return axis;
}

/* Tick number k of an axis, counted from the first that is on it. */
static double axis_tick(const Axis *axis, size_t k)
{
    if (!axis->fine)
        return axis->step * (ceil(axis->low / axis->step - 1e-9) + (double)k);
    static const double part[3] = {0.0, 0.301029995663981195, 0.698970004336018805}; /* 1, 2, 5 */
    double decade = floor(axis->low + 1e-9);
    size_t first = 0; /* the first of them that is on the axis; 3: the next decade's 1 */
    while (first < 3 && decade + part[first] < axis->low - 1e-9)
        first++;
    size_t tick = first + k, decades = tick / 3;
    return decade + (double)decades + part[tick % 3];
}

static size_t axis_ticks(const Axis *axis)
{
    size_t count = 0;
    while (axis_tick(axis, count) <= axis->high + 1e-9 * axis->step)
        count++;
    return count;
}

/* The digits of 10^power, 0.001 to 1,000,000. */
static void decimal_label(char *text, size_t room, double value)
{
    if (value >= 999999.5)
        snprintf(text, room, "%.0f,000,000", value / 1e6);
    else if (value >= 9999.5)
        snprintf(text, room, "%.0f,000", value / 1e3);
    else
        snprintf(text, room, "%.*f",
                 value < 0.005  ? 3
                 : value < 0.05 ? 2
                 : value < 0.5  ? 1
                                : 0,
                 value);
}

/* Of a logarithmic axis: 0.1, 1, 10, 100 if all of it can be written so, else 1e-8 in characters
   and, if `raised`, 10 to a power. */
static void axis_label(char *text, size_t room, const Axis *axis, double tick, bool raised)
{
    static const char *const digit[] = {"⁰", "¹", "²", "³", "⁴", "⁵", "⁶", "⁷", "⁸", "⁹"};
    if (!axis->log) {
        snprintf(text, room, "%.6g", fabs(tick) < 1e-9 * axis->step ? 0.0 : tick);
    } else if (axis->low > -3.1 && axis->high < 6.1) {
        decimal_label(text, room, pow(10.0, tick));
    } else if (!raised) {
        snprintf(text, room, "1e%.0f", tick + 0.0); /* never "1e-0" */
    } else {
        int power = (int)fabs(floor(tick + 0.5));
        if (power < 2 && tick > -0.5)
            snprintf(text, room, power ? "10" : "1");
        else
            snprintf(text, room, "10%s%s%s%s", tick < -0.5 ? "⁻" : "",
                     power > 99 ? digit[power / 100 % 10] : "",
                     power > 9 ? digit[power / 10 % 10] : "", digit[power % 10]);
    }
}

enum { PLOT_COLUMNS = 60, PLOT_ROWS = 14, EMPTY = -1, STALK = 100, BASE = 200 };
enum { CHART_LEFT = 13 }; /* columns before the plot */

/* The cells of the plot: EMPTY, a series' number, STALK + number (a stem), or BASE (zero line). */
typedef struct {
    int cell[PLOT_ROWS][PLOT_COLUMNS];
} Plot;

/* A place in 0..1 as a cell; the nudge makes exact halves fall alike on every machine. */
static int plot_cell(double place, int cells)
{
    double cell = floor(place * (cells - 1) + 0.5 + 1e-7);
    return !(cell > 0.0) ? 0 : cell >= cells ? cells - 1 : (int)cell; /* NaN: 0 */
}

static void plot_run(Plot *plot, int column, int from, int to, int what)
{
    for (int row = from < to ? from : to; row <= (from < to ? to : from); row++)
        plot->cell[row][column] = what;
}

/* A line from point to point, in either direction: in every column it crosses, the rows between. */
static void plot_line(Plot *plot, double x0, double y0, double x1, double y1, int series)
{
    int first = plot_cell(x0, PLOT_COLUMNS), last = plot_cell(x1, PLOT_COLUMNS);
    if (last < first) {
        plot_line(plot, x1, y1, x0, y0, series);
        return;
    }
    int row = plot_cell(y0, PLOT_ROWS);
    if (last == first) {
        plot_run(plot, first, row, plot_cell(y1, PLOT_ROWS), series);
        return;
    }
    for (int column = first; column <= last; column++) {
        double part = (double)(column - first) / (last - first);
        int next = plot_cell(y0 + part * (y1 - y0), PLOT_ROWS);
        int from = next > row ? row + 1 : next < row ? row - 1 : row;
        plot_run(plot, column, column == first ? row : from, next, series);
        row = next;
    }
}

static void plot_series(Plot *plot, const Series *series, int number, const Axis *across,
                        const Axis *up)
{
    double last_x = NAN, last_y = NAN;
    int zero = plot_cell(axis_place(up, up->log ? 1e-300 : 0.0), PLOT_ROWS);
    for (size_t i = 0; series->mark != MARK_AREA && i < series->len; i++) {
        double x = axis_place(across, series->x[i]), y = axis_place(up, series->y[i]);
        if (!isnan(x) && !isnan(y)) {
            int column = plot_cell(x, PLOT_COLUMNS), row = plot_cell(y, PLOT_ROWS);
            if (series->mark == MARK_STEMS)
                plot_run(plot, column, zero, row, STALK + number);
            if (series->mark == MARK_LINE && !isnan(last_x) && !isnan(last_y))
                plot_line(plot, last_x, last_y, x, y, number);
            plot->cell[row][column] = number;
        }
        last_x = x;
        last_y = y;
    }
}

/* A cell of the plot. The mark says which series it is, and so does the ink's colour. */
static void print_mark(FILE *out, int what, const Chart *chart, const Look *look)
{
    static const char *const round[] = {"●", "○", "▲", "△", "■", "□"};
    static const char *const plain[] = {"*", "o", "+", "x", "#", "@"};
    static const int colour[N_INK] = {34, 31, 32, 35, 36, 33, 37};
    int number = what % STALK;
    const char *mark = what == EMPTY   ? " "
                       : what == BASE  ? (look->ascii ? "-" : "┈")
                       : what >= STALK ? (look->ascii ? "|" : "│")
                       : look->ascii   ? plain[number]
                                       : round[number];
    if (look->colour && what >= 0 && what != BASE)
        fprintf(out, "\033[%dm%s\033[0m", colour[chart->series[number].ink], mark);
    else
        fputs(mark, out);
}

/* The line of numbers under the plot, each centred under its place. */
static void print_axis_across(FILE *out, const Axis *axis, const char *label)
{
    char line[PLOT_COLUMNS + 24], text[32];
    memset(line, ' ', sizeof line);
    int end = 0;
    for (size_t k = 0; k < axis_ticks(axis); k++) {
        double tick = axis_tick(axis, k);
        axis_label(text, sizeof text, axis, tick, false);
        int width = (int)strlen(text);
        double place = (tick - axis->low) / (axis->high - axis->low);
        int at = plot_cell(place, PLOT_COLUMNS) - (width - 1) / 2;
        at = at < end ? end : at;
        if (at + width >= (int)sizeof line)
            break;
        memcpy(line + at, text, (size_t)width);
        end = at + width + 1;
    }
    fprintf(out, "%*s%.*s", CHART_LEFT, "", end, line);
    if (CHART_LEFT + (size_t)end + 2 + text_width(label) > page_columns()) {
        fprintf(out, "\n%*s", CHART_LEFT, ""); /* at the end of a line of its own */
        text_pad(out, label, end);
        fputc('\n', out);
    } else
        fprintf(out, "  %s\n", label);
}

/* A single series without a name needs none. */
static bool chart_has_legend(const Chart *chart)
{
    for (size_t s = 0; s < chart->n_series; s++)
        if (chart->series[s].name && *chart->series[s].name)
            return true;
    return false;
}

static void print_legend(FILE *out, const Chart *chart, const Look *look)
{
    if (!chart_has_legend(chart))
        return;
    size_t column = 0;
    for (size_t s = 0; s < chart->n_series; s++) {
        if (!chart->series[s].name || chart->series[s].mark == MARK_AREA)
            continue;
        size_t name = text_width(chart->series[s].name), room = page_columns() - CHART_LEFT - 2;
        name = name < room ? name : room;
        size_t wide = strlen("   * ") + name;
        if (column == 0 || column + wide > page_columns()) {
            fprintf(out, "%s%*s", column > 0 ? "\n" : "", CHART_LEFT - 3, "");
            column = CHART_LEFT - 3;
        }
        fputs("   ", out);
        print_mark(out, (int)s, chart, look);
        fputc(' ', out);
        text_pad_cut(out, chart->series[s].name, -(int)name, look->ascii);
        column += wide;
    }
    fputc('\n', out);
}

/* What is drawn and, beside it or below, what goes up. */
static void print_chart_title(FILE *out, const Chart *chart)
{
    size_t wide = CHART_LEFT + text_width(chart->title) + 5 + text_width(chart->y_label);
    fprintf(out, "%*s%s", CHART_LEFT, "", chart->title);
    if (wide > page_columns())
        fprintf(out, "\n%*s(%s)\n", CHART_LEFT, "", chart->y_label);
    else
        fprintf(out, "   (%s)\n", chart->y_label);
}

void chart_print(FILE *out, const Chart *chart, const Look *look)
{
    Axis across = axis_fit(chart, false, chart->log_x, false, 8.0);
    Axis up = axis_fit(chart, true, chart->log_y, true, 6.0);
    Plot *plot = NEW(Plot, 1);
    bool show_zero = !up.log && up.low < 0.0 && up.high > 0.0;
    int zero = show_zero ? plot_cell(axis_place(&up, 0.0), PLOT_ROWS) : -1;
    for (int row = 0; row < PLOT_ROWS; row++)
        for (int column = 0; column < PLOT_COLUMNS; column++)
            plot->cell[row][column] = row == zero ? BASE : EMPTY;
    for (size_t k = 0; k < chart->n_level; k++) {
        double place = axis_place(&up, chart->level[k]);
        for (int column = 0; place >= 0.0 && place <= 1.0 && column < PLOT_COLUMNS; column++)
            plot->cell[plot_cell(place, PLOT_ROWS)][column] = BASE;
    }
    for (size_t s = 0, named = 0; s < chart->n_series; s++) {
        named = chart->series[s].name ? s : named; /* without a name: the mark of the one before */
        plot_series(plot, &chart->series[s], (int)named, &across, &up);
    }
    print_chart_title(out, chart);
    for (int row = PLOT_ROWS - 1; row >= 0; row--) {
        char label[32] = "";
        for (size_t k = 0; k < axis_ticks(&up); k++)
            if (plot_cell((axis_tick(&up, k) - up.low) / (up.high - up.low), PLOT_ROWS) == row)
                axis_label(label, sizeof label, &up, axis_tick(&up, k), false);
        fprintf(out, "%11s %s", label, look->ascii ? "|" : *label ? "┤" : "│");
        int last = PLOT_COLUMNS - 1;
        while (last >= 0 && plot->cell[row][last] == EMPTY)
            last--;
        for (int column = 0; column <= last; column++)
            print_mark(out, plot->cell[row][column], chart, look);
        fputc('\n', out);
    }
    fprintf(out, "%*s%s", CHART_LEFT - 1, "", look->ascii ? "+" : "└");
    for (int column = 0; column < PLOT_COLUMNS; column++)
        fputs(look->ascii ? "-" : "─", out);
    fputc('\n', out);
    print_axis_across(out, &across, chart->x_label);
    print_legend(out, chart, look);
    free(plot);
}

/* ---- the same charts as SVG -------------------------------------------------------------- */

static const char *svg_colour(Ink ink)
{
    static const char *const colours[N_INK] = {"#0072B2", "#D55E00", "#009E73", "#CC79A7",
                                               "#56B4E9", "#E69F00", "#777777"};
    return colours[ink % N_INK];
}

void svg_open(FILE *out, double width, double height)
{
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" "
            "height=\"%.0f\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"13\">\n"
            "<rect width=\"%.0f\" height=\"%.0f\" fill=\"white\"/>\n",
            width, height, width, height, width, height);
}

void svg_close(FILE *out)
{
    fputs("</svg>\n", out);
}

void svg_text(FILE *out, double x, double y, const char *style, const char *text)
{
    fprintf(out, "<text x=\"%.1f\" y=\"%.1f\" %s>", x, y, style);
    for (; *text; text++) {
        const char *entity = *text == '<'   ? "&lt;"
                             : *text == '>' ? "&gt;"
                             : *text == '&' ? "&amp;"
                                            : NULL;
        if (entity)
            fputs(entity, out);
        else if ((unsigned char)*text >= ' ')
            fputc(*text, out);
    }
    fputs("</text>\n", out);
}

/* A point: a circle, a square, a triangle or a diamond, full or hollow, as the ink says, so that
   series are told apart in black and white as well. */
static void svg_point(FILE *out, double x, double y, Ink ink)
{
    static const char *const path[3] = {"-3,-3 h6 v6 h-6 z", "-3.6,2.8 h7.2 l-3.6,-6.4 z",
                                        "-4,0 l4,-4 l4,4 l-4,4 z"};
    if (ink % 4 == 0)
        fprintf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" ", x, y);
    else
        fprintf(out, "<path d=\"M%.1f,%.1f m%s\" ", x, y, path[ink % 4 - 1]);
    if (ink < 4)
        fprintf(out, "fill=\"%s\"/>\n", svg_colour(ink));
    else
        fprintf(out, "fill=\"white\" stroke=\"%s\" stroke-width=\"1.5\"/>\n", svg_colour(ink));
}

/* What follows a list of points: as a line, or as an area. */
static void svg_end_points(FILE *out, const Series *series)
{
    if (series->mark == MARK_AREA)
        fprintf(out, "\" fill=\"%s\" fill-opacity=\"0.13\"/>\n", svg_colour(series->ink));
    else
        fprintf(out, "\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\"/>\n",
                svg_colour(series->ink));
}

static void svg_series(FILE *out, const Series *series, const Axis *across, const Axis *up,
                       const double box[4])
{
    double zero = box[1] + box[3] * (1.0 - axis_place(up, 0.0));
    bool drawing = false, joined = series->mark == MARK_LINE || series->mark == MARK_AREA;
    for (size_t i = 0; i < series->len; i++) {
        double x = box[0] + box[2] * axis_place(across, series->x[i]);
        double y = box[1] + box[3] * (1.0 - axis_place(up, series->y[i]));
        bool shown = !isnan(x) && !isnan(y);
        if (joined) {
            if (shown && !drawing)
                fprintf(out, "<poly%s points=\"", series->mark == MARK_AREA ? "gon" : "line");
            if (shown)
                fprintf(out, "%.1f,%.1f ", x, y);
            else if (drawing)
                svg_end_points(out, series);
            drawing = shown;
            continue;
        }
        if (shown && series->mark == MARK_STEMS && !isnan(zero))
            fprintf(out,
                    "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" "
                    "stroke-width=\"2\"/>\n",
                    x, zero, x, y, svg_colour(series->ink));
        if (shown)
            svg_point(out, x, y, series->ink);
    }
    if (drawing)
        svg_end_points(out, series);
}

/* A sample of what a series looks like, in the legend. */
static void svg_sample(FILE *out, double x, double y, const Series *series)
{
    if (series->mark == MARK_LINE)
        fprintf(out, "<path d=\"M%.1f,%.1f h18\" stroke=\"%s\" stroke-width=\"2.5\"/>\n", x, y,
                svg_colour(series->ink));
    else if (series->mark == MARK_AREA)
        fprintf(out,
                "<rect x=\"%.1f\" y=\"%.1f\" width=\"18\" height=\"12\" fill=\"%s\" "
                "fill-opacity=\"0.2\"/>\n",
                x, y - 6.0, svg_colour(series->ink));
    else
        svg_point(out, x + 9.0, y, series->ink);
}

/* A number as it is best known: 2/3, or 0.5007. */
static void level_name(char *text, size_t room, double value)
{
    for (int below = 2; below <= 20; below++) {
        double above = floor(value * below + 0.5);
        if (fabs(value * below - above) < 1e-9 && fabs(value - floor(value + 0.5)) > 1e-9) {
            snprintf(text, room, "%.0f/%d", above, below);
            return;
        }
    }
    snprintf(text, room, "%.4g", value);
}

/* The highest level below `top`; -INFINITY if there is none. */
static double level_below(const Chart *chart, double top)
{
    double highest = -INFINITY;
    for (size_t k = 0; k < chart->n_level; k++)
        if (chart->level[k] < top && chart->level[k] > highest)
            highest = chart->level[k];
    return highest;
}

/* The levels from the top down, each once; a name makes way for the one above it. */
static void svg_levels(FILE *out, const Chart *chart, const Axis *up, const double box[4])
{
    double free_from = -INFINITY, height = level_below(chart, INFINITY);
    while (isfinite(height)) {
        char name[32];
        double place = axis_place(up, height), y = box[1] + box[3] * (1.0 - place);
        level_name(name, sizeof name, height);
        height = level_below(chart, height - 1e-9 * fabs(height));
        if (!(place >= 0.0 && place <= 1.0))
            continue;
        fprintf(out, "<path d=\"M%.1f,%.1f h%.1f\" stroke=\"#777\" stroke-dasharray=\"2 4\"/>\n",
                box[0], y, box[2]);
        double at = fmax(y + 4.0, free_from);
        svg_text(out, box[0] + box[2] + 4.0, at, "font-size=\"12\" fill=\"#444\"", name);
        free_from = at + 12.0;
    }
}

static void svg_axes(FILE *out, const Axis *across, const Axis *up, const double box[4])
{
    char label[32];
    for (size_t k = 0; k < axis_ticks(up); k++) {
        double tick = axis_tick(up, k);
        double y = box[1] + box[3] * (1.0 - (tick - up->low) / (up->high - up->low));
        fprintf(out, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\"/>\n",
                box[0], y, box[0] + box[2], y,
                !up->log && fabs(tick) < 1e-9 * up->step ? "#aaa" : "#e4e4e4");
        axis_label(label, sizeof label, up, tick, true);
        svg_text(out, box[0] - 8, y + 4, "text-anchor=\"end\" fill=\"#444\"", label);
    }
    for (size_t k = 0; k < axis_ticks(across); k++) {
        double tick = axis_tick(across, k);
        double x = box[0] + box[2] * (tick - across->low) / (across->high - across->low);
        fprintf(out, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#999\"/>\n", x,
                box[1] + box[3], x, box[1] + box[3] + 5);
        axis_label(label, sizeof label, across, tick, true);
        svg_text(out, x, box[1] + box[3] + 19, "text-anchor=\"middle\" fill=\"#444\"", label);
    }
    fprintf(out,
            "<polyline fill=\"none\" stroke=\"#999\" points=\"%.1f,%.1f %.1f,%.1f %.1f,%.1f\"/>\n",
            box[0], box[1], box[0], box[1] + box[3], box[0] + box[2], box[1] + box[3]);
}

/* The legend, from (left, top) on, in lines of at most `width`; it is drawn if `out` is not NULL.
   Returns how many lines it takes. */
static int svg_legend(FILE *out, const Chart *chart, double left, double top, double width)
{
    double x = 0.0;
    int lines = 1;
    for (size_t s = 0; s < chart->n_series; s++) {
        const Series *series = &chart->series[s];
        if (!series->name || !*series->name)
            continue;
        double wide = 24.0 + 7.2 * (double)text_width(series->name);
        if (x > 0.0 && x + wide > width) {
            x = 0.0;
            lines++;
        }
        double y = top + 19.0 * (double)(lines - 1);
        if (out) {
            svg_sample(out, left + x, y, series);
            svg_text(out, left + x + 24.0, y + 4.5, "", series->name);
        }
        x += wide + 18.0;
    }
    return lines;
}

void chart_svg(FILE *out, const Chart *chart, double left, double top, double width, double height)
{
    Axis across = axis_fit(chart, false, chart->log_x, false, 8.0);
    Axis up = axis_fit(chart, true, chart->log_y, true, 6.0);
    double below = chart_has_legend(chart)
                       ? 103.0 + 19.0 * svg_legend(NULL, chart, 0.0, 0.0, width - 76.0)
                       : 98.0;
    double box[4] = {left + 62, top + 50, width - 86 - (chart->n_level ? 22 : 0), height - below};
    double wide = across.high - across.low, high = up.high - up.low;
    if (chart->square && isfinite(wide) && isfinite(high)) {
        double unit = fmin(box[2] / wide, box[3] / high);
        box[2] = unit * wide;
        box[3] = unit * high;
    }
    svg_text(out, left + 14, top + 22, "font-size=\"15\" font-weight=\"bold\"", chart->title);
    svg_text(out, left + 14, top + 40, "fill=\"#444\"", chart->y_label);
    svg_axes(out, &across, &up, box);
    svg_text(out, box[0] + box[2], box[1] + box[3] + 36, "text-anchor=\"end\" fill=\"#444\"",
             chart->x_label);
    svg_levels(out, chart, &up, box);
    for (size_t s = 0; s < chart->n_series; s++)
        svg_series(out, &chart->series[s], &across, &up, box);
    if (chart_has_legend(chart))
        svg_legend(out, chart, box[0], top + height - below + 104.0, width - 76.0);
}

bool chart_write_svg(const Chart *chart, const char *path, Error *error)
{
    OutFile file;
    if (!out_open(&file, path, error))
        return false;
    svg_open(file.stream, SVG_WIDTH, SVG_HEIGHT);
    chart_svg(file.stream, chart, 0, 0, SVG_WIDTH, SVG_HEIGHT);
    svg_close(file.stream);
    return out_close(&file, error);
}

/* Colour only on a terminal, and not if NO_COLOR is set to anything; plain ASCII if it is asked
   for, or if the locale has no UTF-8. */
Look look_at_terminal(bool ascii)
{
    const char *plain = getenv("NO_COLOR");
    Look look;
    look.ascii = ascii || !locale_is_utf8();
    look.colour = isatty(STDOUT_FILENO) && !(plain && *plain);
    return look;
}

/* ---- demos ------------------------------------------------------------------------------- */

/* How a demo shows what it shows: in the terminal, and as a figure if one is asked for. */
typedef struct {
    Look look;
    const char *svg; /* the file of the figure, or NULL */
    uint64_t seed;   /* of what is random in it */
} Show;

typedef bool Demo(const Show *show, Error *error);

/* Prints the chart after an empty line, and writes it to show->svg. */
bool chart_show(const Chart *chart, const Show *show, Error *error)
{
    putchar('\n');
    chart_print(stdout, chart, &show->look);
    return !show->svg || chart_write_svg(chart, show->svg, error);
}

/* Demo number `one` of n, or all in order if it is -1. */
bool demos_run(Demo *const demo[], int n, int one, const Show *show, Error *error)
{
    bool ok = true;
    for (int k = 0; ok && k < n; k++) {
        if (one >= 0 && k != one)
            continue;
        if (one < 0 && k > 0)
            puts("\n");
        ok = demo[k](show, error);
    }
    return ok;
}

#endif /* COURSE_CHARTS */
