/* Pictures of systems.

   HOLDS   A, B, C and D as boxes and arrows; a kernel that slides over its input. As SVG and in
           characters, from plain arrays
   FOR     the demos `tank` and `slide` of chapter 2 */

#ifndef CH02_SYSTEM_PICTURES
#define CH02_SYSTEM_PICTURES

#include "system_tables.c"

/* ---- four matrices ----------------------------------------------------------------------- */

/* One letter in a box, and under it what it does. */
static void svg_letter(FILE *out, double x, double y, const char *letter, const char *does)
{
    fprintf(out,
            "<rect x=\"%.0f\" y=\"%.0f\" width=\"56\" height=\"44\" rx=\"5\" fill=\"#cfe3f3\" "
            "stroke=\"#555\"/>\n",
            x - 28, y - 22);
    svg_text(out, x, y + 6, "text-anchor=\"middle\" font-size=\"17\" font-weight=\"bold\"", letter);
    svg_text(out, x, y + 38, "text-anchor=\"middle\" font-size=\"12\" fill=\"#444\"", does);
}

static void svg_sum(FILE *out, double x, double y)
{
    fprintf(out, "<circle cx=\"%.0f\" cy=\"%.0f\" r=\"13\" fill=\"white\" stroke=\"#555\"/>\n", x,
            y);
    svg_text(out, x, y + 5.5, "text-anchor=\"middle\" font-size=\"16\"", "+");
}

static void svg_system(FILE *out)
{
    static const char *const paths[] = {
        "M44,150 H130",                  /* u to B */
        "M90,150 V60 H312",              /* u to D */
        "M188,150 H243",                 /* B to the sum */
        "M271,150 H305",                 /* the sum to the state */
        "M395,150 H442",                 /* the state to C */
        "M500,150 H553",                 /* C to the sum */
        "M370,60 H567 V135",             /* D to the sum */
        "M581,150 H640",                 /* the sum to y */
        "M420,150 V250 H286",            /* the state back to A, a step later */
        "M228,250 H190 V200 H257 V165"}; /* A to the sum */
    svg_open(out, 700, 312);
    fputs(
        "<defs><marker id=\"head\" viewBox=\"0 0 10 10\" refX=\"8\" refY=\"5\" markerWidth=\"8\" "
        "markerHeight=\"8\" orient=\"auto\"><path d=\"M0,0 L10,5 L0,10 z\" fill=\"#555\"/></marker>"
        "</defs>\n",
        out);
    for (size_t k = 0; k < sizeof paths / sizeof *paths; k++)
        fprintf(out,
                "<path d=\"%s\" fill=\"none\" stroke=\"#555\" stroke-width=\"1.5\" "
                "marker-end=\"url(#head)\"/>\n",
                paths[k]);
    fputs("<circle cx=\"90\" cy=\"150\" r=\"3\" fill=\"#555\"/>\n"
          "<circle cx=\"420\" cy=\"150\" r=\"3\" fill=\"#555\"/>\n"
          "<rect x=\"307\" y=\"126\" width=\"88\" height=\"48\" rx=\"5\" fill=\"#f6d9b8\" "
          "stroke=\"#555\"/>\n",
          out);
    svg_text(out, 351, 147, "text-anchor=\"middle\" font-weight=\"bold\"", "xₜ");
    svg_text(out, 351, 164, "text-anchor=\"middle\" font-size=\"12\" fill=\"#444\"", "the state");
    svg_letter(out, 160, 150, "B", "what is written");
    svg_letter(out, 472, 150, "C", "what is read");
    svg_letter(out, 342, 60, "D", "past the state");
    svg_letter(out, 258, 250, "A", "what is kept");
    svg_sum(out, 257, 150);
    svg_sum(out, 567, 150);
    svg_text(out, 36, 155, "text-anchor=\"end\" font-weight=\"bold\"", "uₜ");
    svg_text(out, 648, 155, "font-weight=\"bold\"", "yₜ");
    svg_text(out, 350, 243, "text-anchor=\"middle\" font-size=\"12\" fill=\"#444\"",
             "one step later");
    svg_close(out);
}

/* The system in characters, and as SVG if a figure is asked for. */
bool show_system(const Show *show, Error *error)
{
    OutFile file;
    puts("\n      +------------------[ D ]------------------+\n"
         "      |                                         |\n"
         "      |                                         v\n"
         "  u --+--[ B ]-->(+)-->[ state x ]--+--[ C ]-->(+)--> y\n"
         "                  ^                 |\n"
         "                  +------[ A ]<-----+   one step later");
    if (!show->svg)
        return true;
    if (!out_open(&file, show->svg, error))
        return false;
    svg_system(file.stream);
    return out_close(&file, error);
}

/* ---- a kernel that slides ---------------------------------------------------------------- */

enum { SLIDE_LEFT = 124, SLIDE_CELL = 58, SLIDE_HIGH = 34 };

/* A row of cells with a number in each, the darker the larger. */
static void svg_cells(FILE *out, const double *value, size_t count, double y, Ink ink)
{
    char text[32];
    for (size_t t = 0; t < count; t++) {
        double x = SLIDE_LEFT + SLIDE_CELL * (double)t;
        fprintf(out,
                "<rect x=\"%.0f\" y=\"%.0f\" width=\"%d\" height=\"%d\" fill=\"%s\" "
                "fill-opacity=\"%.2f\" stroke=\"#999\"/>\n",
                x, y, SLIDE_CELL, SLIDE_HIGH, svg_colour(ink), fmin(0.6, 0.5 * fabs(value[t])));
        snprintf(text, sizeof text, "%.4g", value[t]);
        svg_text(out, x + 0.5 * SLIDE_CELL, y + 22, "text-anchor=\"middle\"", text);
    }
}

/* The input u (len) on top, and the kernel turned round under it, at each of some times. */
static void svg_slide(FILE *out, const double *K, const double *u, const double *y, size_t len)
{
    double *row = NEW(double, len);
    char text[96];
    svg_open(out, SLIDE_LEFT + SLIDE_CELL * (double)len + 120.0, 92.0 + 56.0 * (double)len);
    svg_text(out, 14, 22, "font-size=\"15\" font-weight=\"bold\"",
             "A kernel slides over its input");
    svg_text(out, SLIDE_LEFT - 12, 62, "text-anchor=\"end\"", "input u");
    svg_cells(out, u, len, 40, INK_AMBER);
    for (size_t t = 0; t < len; t++) {
        double top = 92.0 + 56.0 * (double)t;
        for (size_t s = 0; s < len; s++)
            row[s] = s <= t ? K[t - s] : 0.0;
        snprintf(text, sizeof text, "kernel at t = %zu", t);
        svg_text(out, SLIDE_LEFT - 12, top + 22, "text-anchor=\"end\" font-size=\"12\"", text);
        svg_cells(out, row, t + 1, top, INK_BLUE);
        snprintf(text, sizeof text, "y = %.5g", y[t]);
        svg_text(out, SLIDE_LEFT + SLIDE_CELL * (double)len + 14.0, top + 22,
                 "font-weight=\"bold\"", text);
    }
    svg_close(out);
    free(row);
}

/* One input, one output, no D: kernel K, input u and output y, all (len). In characters a line for
   each time t: the weights K[t - s] under the inputs u[s], and the sum of the products. */
bool show_slide(const double *K, const double *u, const double *y, size_t len, const Show *show,
                Error *error)
{
    OutFile file;
    puts("The tank's kernel slides over its input (D left out)\n");
    fputs("  input u   ", stdout);
    for (size_t s = 0; s < len; s++)
        printf("%9.4g", u[s]);
    puts("\n");
    for (size_t t = 0; t < len; t++) {
        printf("  t = %zu     ", t);
        for (size_t s = 0; s < len; s++) {
            if (s <= t)
                printf("%9.4g", K[t - s]);
            else
                printf("%9s", "");
        }
        printf("   y = %.5g\n", y[t]);
    }
    if (!show->svg)
        return true;
    if (!out_open(&file, show->svg, error))
        return false;
    svg_slide(file.stream, K, u, y, len);
    return out_close(&file, error);
}

#endif /* CH02_SYSTEM_PICTURES */
