/* A block, shown: as a picture, and line by line.

   HOLDS   the boxes and arrows of figures/block.svg; a stage of a token's way and a parameter as
           lines of a table
   FOR     mamba_block.c: --diagram, --trace, --count. Plain data: it knows nothing of a block */

#ifndef CH05_DIAGRAM
#define CH05_DIAGRAM

#include "../ch01_markov/charts.h"
#include "config.c"

static void svg_box(FILE *out, double x, double y, double width, const char *text, const char *fill)
{
    fprintf(out,
            "<rect x=\"%.0f\" y=\"%.0f\" width=\"%.0f\" height=\"30\" rx=\"5\" fill=\"%s\" "
            "stroke=\"#555\"/>\n",
            x, y, width, fill);
    svg_text(out, x + width / 2.0, y + 20.0, "text-anchor=\"middle\"", text);
}

static void svg_path(FILE *out, const char *path)
{
    fprintf(out,
            "<path d=\"%s\" fill=\"none\" stroke=\"#555\" stroke-width=\"1.5\" "
            "marker-end=\"url(#head)\"/>\n",
            path);
}

/* The block as boxes, from the input at the top to the output. */
static void svg_block(FILE *out, size_t d_model, size_t d_inner, size_t d_state, size_t dt_rank)
{
    static const struct {
        double x, y, width;
        const char *text, *fill;
    } boxes[] = {{220, 60, 150, "RMSNorm", "#eee"},
                 {150, 120, 290, "in_proj", "#cfe3f3"},
                 {120, 190, 190, "conv1d, causal", "#cfe3f3"},
                 {120, 240, 190, "silu", "#eee"},
                 {40, 300, 150, "x_proj", "#cfe3f3"},
                 {40, 360, 80, "dt_proj", "#cfe3f3"},
                 {120, 430, 190, "selective scan", "#f6d9b8"},
                 {400, 430, 100, "silu", "#eee"},
                 {220, 500, 150, "multiply", "#eee"},
                 {220, 560, 150, "out_proj", "#cfe3f3"},
                 {220, 620, 150, "add", "#eee"}};
    static const char *const paths[] = {"M295,40 V58",
                                        "M295,90 V118",
                                        "M215,150 V188",
                                        "M215,220 V238",
                                        "M260,270 V428",
                                        "M180,270 V285 H115 V298",
                                        "M80,330 V358",
                                        "M80,390 V445 H118",
                                        "M150,330 V428",
                                        "M400,150 V160 H450 V428",
                                        "M215,460 V480 H270 V498",
                                        "M450,460 V480 H320 V498",
                                        "M295,530 V558",
                                        "M295,590 V618",
                                        "M295,650 V672",
                                        "M358,400 V416 H295 V428",
                                        "M310,438 H352 V456 H312",
                                        "M295,50 H560 V635 H372"};
    char text[96];
    svg_open(out, 620, 720);
    fputs("<defs><marker id=\"head\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" "
          "markerHeight=\"7\" orient=\"auto\"><path d=\"M0,0 L8,4 L0,8 z\" "
          "fill=\"#555\"/></marker></defs>\n",
          out);
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        svg_path(out, paths[i]);
    for (size_t i = 0; i < sizeof boxes / sizeof *boxes; i++)
        svg_box(out, boxes[i].x, boxes[i].y, boxes[i].width, boxes[i].text, boxes[i].fill);
    snprintf(text, sizeof text, "input: (len, %zu)", d_model);
    svg_text(out, 295, 30, "text-anchor=\"middle\"", text);
    svg_text(out, 295, 690, "text-anchor=\"middle\"", "out: the same shape");
    snprintf(text, sizeof text, "u': (len, %zu)", d_inner);
    svg_text(out, 225, 175, "", text);
    svg_text(out, 267, 350, "", "u");
    snprintf(text, sizeof text, "z: (len, %zu)", d_inner);
    svg_text(out, 458, 300, "", text);
    snprintf(text, sizeof text, "dt: %zu", dt_rank);
    svg_text(out, 90, 350, "", text);
    snprintf(text, sizeof text, "B, C: %zu each", d_state);
    svg_text(out, 156, 350, "", text);
    svg_text(out, 86, 415, "", "Delta");
    svg_text(out, 358, 394, "text-anchor=\"middle\"", "A, D: learnt");
    svg_text(out, 330, 472, "text-anchor=\"middle\" font-size=\"11\"", "x, token to token");
    snprintf(text, sizeof text, "state: (%zu, %zu)", d_inner, d_state);
    svg_text(out, 208, 476, "text-anchor=\"end\" font-size=\"11\"", text);
    svg_text(out, 552, 240, "text-anchor=\"end\"", "residual");
    svg_close(out);
}

bool block_write_svg(const char *path, const MambaConfig *config, Error *error)
{
    OutFile out;
    if (!out_open(&out, path, error))
        return false;
    svg_block(out.stream, config->hidden_size, config->intermediate_size, config->state_size,
              config->time_step_rank);
    return out_close(&out, error);
}

/* One stage: its name, what is done there, how wide it is, and its first numbers at a token: two of
   them, or four on a wide page. */
void print_stage(const char *name, const char *what, const float *values, size_t wide, size_t token)
{
    printf("  %-6s %-46s %5zu", name, what, wide);
    for (size_t i = 0; i < smaller(wide, page_columns() < 97 ? 2 : 4); i++)
        printf(" %8.4f", rounded_to((double)values[token * wide + i], 10000.0));
    putchar('\n');
}

/* One parameter: its name, its shape (rank) and how many numbers it has; not if there are none. */
void print_tensor(const char *name, const size_t *shape, size_t rank, size_t count)
{
    char text[64] = "";
    size_t len = 0;
    for (size_t axis = 0; axis < rank; axis++)
        len += (size_t)snprintf(text + len, sizeof text - len, "%s%zu", axis > 0 ? ", " : "",
                                shape[axis]);
    if (count > 0)
        printf("  %-22s %16s %12zu\n", name, text, count);
}

#endif /* CH05_DIAGRAM */
