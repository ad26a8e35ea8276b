/* Mamba-2's pictures: the matrix of a scan and its blocks, tables of small matrices.

   HOLDS   a lower triangular matrix cut into chunks, in characters and as SVG; matrices of a few
           numbers beside one another
   FOR     the demos of mamba2.c. Plain data: it knows nothing of a scan */

#ifndef CH05_MAMBA2_PICTURES
#define CH05_MAMBA2_PICTURES

#include "../ch01_markov/charts.h"

/* A matrix (len, len) that is 0 above its diagonal, and where it is cut. */
typedef struct {
    const float *M;
    size_t len, chunk;
} Blocks;

/* How strongly an entry is drawn, from 0 to 1: the root of its share of the largest, so that what
   is small is still seen. */
static double blocks_share(const Blocks *blocks, size_t i, size_t j)
{
    float most = 0.0f;
    for (size_t k = 0; k < blocks->len * blocks->len; k++)
        most = fmaxf(most, fabsf(blocks->M[k]));
    return most > 0.0f ? sqrt((double)(fabsf(blocks->M[i * blocks->len + j]) / most)) : 0.0;
}

/* ==================================== In characters ======================================= */

static void print_shade(double share, const Look *look)
{
    static const char *const shades[2][5] = {{"  ", "░░", "▒▒", "▓▓", "██"},
                                             {"  ", "..", "++", "**", "##"}};
    int level = share < 0.05 ? 0 : share < 0.25 ? 1 : share < 0.45 ? 2 : share < 0.7 ? 3 : 4;
    fputs(shades[look->ascii][level], stdout);
}

/* A line between the rows of two chunks, as far as the blocks below it go. */
static void print_cut(size_t len, size_t chunk, size_t row, const Look *look)
{
    size_t blocks = row / chunk + 1;
    fputs("        ", stdout);
    for (size_t k = 0; k < blocks && k * chunk < len; k++) {
        fputs(look->ascii ? "+" : k > 0 ? "┼" : "├", stdout);
        for (size_t j = k * chunk; j < (k + 1) * chunk && j < len; j++)
            fputs(look->ascii ? "--" : "──", stdout);
    }
    puts(look->ascii ? "+" : "┐");
}

/* The matrix, a row a token: darker is larger. A line surrounds every block. */
void blocks_print(const Blocks *blocks, const Look *look)
{
    for (size_t i = 0; i < blocks->len; i++) {
        size_t end = (i / blocks->chunk + 1) * blocks->chunk;
        if (i % blocks->chunk == 0)
            print_cut(blocks->len, blocks->chunk, i, look);
        printf("  %4zu  ", i + 1);
        for (size_t j = 0; j < end && j < blocks->len; j++) {
            if (j % blocks->chunk == 0)
                fputs(look->ascii ? "|" : "│", stdout);
            print_shade(j > i ? 0.0 : blocks_share(blocks, i, j), look);
        }
        puts(look->ascii ? "|" : "│");
    }
}

/* ======================================== As SVG ========================================== */

#define BLOCKS_LEFT 60.0
#define BLOCKS_TOP  70.0
#define BLOCKS_SIZE 400.0

/* White at share 0; at 1 orange inside a chunk, blue between chunks. */
static void blocks_svg_cell(FILE *out, const Blocks *blocks, size_t i, size_t j)
{
    bool inside = i / blocks->chunk == j / blocks->chunk;
    static const double full[2][3] = {{0, 114, 178}, {213, 94, 0}};
    double cell = BLOCKS_SIZE / (double)blocks->len, share = blocks_share(blocks, i, j);
    int colour[3];
    for (int c = 0; c < 3; c++)
        colour[c] = (int)lrint(255.0 + share * (full[inside][c] - 255.0));
    fprintf(out,
            "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"#%02x%02x%02x\" "
            "stroke=\"#eee\"/>\n",
            BLOCKS_LEFT + (double)j * cell, BLOCKS_TOP + (double)i * cell, cell, cell, colour[0],
            colour[1], colour[2]);
}

static void blocks_svg_frames(FILE *out, const Blocks *blocks)
{
    double cell = BLOCKS_SIZE / (double)blocks->len;
    for (size_t i = 0; i < blocks->len; i += blocks->chunk)
        for (size_t j = 0; j <= i; j += blocks->chunk) {
            size_t high = blocks->len - i < blocks->chunk ? blocks->len - i : blocks->chunk;
            size_t wide = blocks->len - j < blocks->chunk ? blocks->len - j : blocks->chunk;
            fprintf(out,
                    "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"none\" "
                    "stroke=\"%s\" stroke-width=\"%.1f\"/>\n",
                    BLOCKS_LEFT + (double)j * cell, BLOCKS_TOP + (double)i * cell,
                    (double)wide * cell, (double)high * cell, i == j ? "#D55E00" : "#0072B2",
                    i == j ? 2.5 : 1.0);
        }
    for (size_t i = blocks->chunk; i < blocks->len; i += blocks->chunk) { /* the states */
        double x = BLOCKS_LEFT + (double)i * cell, y = BLOCKS_TOP + (double)i * cell;
        fprintf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"10\" fill=\"#0072B2\"/>\n", x, y);
        svg_text(out, x, y + 4, "text-anchor=\"middle\" fill=\"white\" font-style=\"italic\"", "x");
    }
}

static void blocks_svg_legend(FILE *out)
{
    static const char *const said[3] = {
        "inside a chunk: masked attention, a small square for each",
        "from chunk to chunk: C reads what is left of a state that B wrote",
        "what is handed on: one state, whatever came before"};
    for (int k = 0; k < 3; k++) {
        double y = BLOCKS_TOP + BLOCKS_SIZE + 40 + 22 * k;
        if (k == 2)
            fprintf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"7\" fill=\"#0072B2\"/>\n",
                    BLOCKS_LEFT + 7, y - 4.5);
        else
            fprintf(out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"14\" height=\"14\" fill=\"%s\"/>\n",
                    BLOCKS_LEFT, y - 11.5, k == 0 ? "#D55E00" : "#0072B2");
        svg_text(out, BLOCKS_LEFT + 22, y, "", said[k]);
    }
}

bool blocks_write_svg(const char *path, const Blocks *blocks, Error *error)
{
    OutFile file;
    if (!out_open(&file, path, error))
        return false;
    svg_open(file.stream, 560, 580);
    svg_text(file.stream, 14, 24, "font-size=\"15\" font-weight=\"bold\"",
             "The matrix by which a head multiplies, and its blocks");
    svg_text(file.stream, BLOCKS_LEFT, 58, "fill=\"#444\"", "written at token j");
    svg_text(file.stream, 14, BLOCKS_TOP + 14, "fill=\"#444\"", "read");
    svg_text(file.stream, 14, BLOCKS_TOP + 30, "fill=\"#444\"", "at i");
    for (size_t i = 0; i < blocks->len; i++)
        for (size_t j = 0; j <= i; j++)
            blocks_svg_cell(file.stream, blocks, i, j);
    blocks_svg_frames(file.stream, blocks);
    blocks_svg_legend(file.stream);
    svg_close(file.stream);
    return out_close(&file, error);
}

/* ================================= Small matrices ========================================= */

/* Two matrices (len, len) beside each other, zeros above the diagonal left blank. */
void print_triangles(const char *left_name, const float *left, const char *right_name,
                     const float *right, size_t len)
{
    printf("  %-*s   %s\n", (int)(9 * len), left_name, right_name);
    for (size_t i = 0; i < len; i++) {
        printf(" ");
        for (size_t j = 0; j < len; j++)
            if (j <= i)
                printf(" %-8g", (double)left[i * len + j]);
            else
                printf("         ");
        printf("   ");
        for (size_t j = 0; j <= i; j++)
            printf(" %-8g", (double)right[i * len + j]);
        putchar('\n');
    }
}

#endif /* CH05_MAMBA2_PICTURES */
