/* What the program of pretrained.c shows besides words, in the terminal and as SVG.

   HOLDS   what a token of the published models costs; what fewer bits cost; the speed of an answer;
           the shares of a step's time; how far each token opens the gate
   FOR     pretrained.c: --sizes, --compare, --profile, --focus */

#ifndef CH05_PRETRAINED_CHARTS
#define CH05_PRETRAINED_CHARTS

#include "../ch01_markov/charts.h"
#include "mamba_block.c"
#include "quantized.c"
#include "text_stream.c"

static void print_blocks(int count, int width, const Look *look)
{
    for (int block = 0; block < count; block++)
        fputs(look->ascii ? "#" : "█", stdout);
    for (int block = count; block < width; block++)
        putchar(' ');
}

/* ---- what fits where ---- */

/* Parameters of a published model, those of them that stand in matrices, and bytes of its
   memory. */
static void known_sizes(size_t *all, size_t *matrices, size_t *state, size_t layers, size_t d_model)
{
    MambaConfig config = config_default(d_model);
    TensorShape shape[BLOCK_TENSORS];
    config.num_hidden_layers = layers;
    config.vocab_size = 50280;
    block_shapes(shape, &config);
    *matrices = config.vocab_size * d_model;
    for (int part = 0; part < BLOCK_TENSORS; part++)
        *matrices += part == IN_PROJ_WEIGHT || part == X_PROJ_WEIGHT || part == DT_PROJ_WEIGHT ||
                             part == OUT_PROJ_WEIGHT
                         ? shape[part].count * layers
                         : 0;
    *all = config.vocab_size * d_model + d_model + layers * block_params_count(&config);
    *state = layers * block_state_floats(&config, 1) * sizeof(float);
}

/* The published sizes: bytes to read for each token, and the tokens a second that come of it. */
void print_sizes(double bandwidth)
{
    static const struct {
        const char *name;
        size_t layers, d_model;
    } known[] = {{"130m", 24, 768},
                 {"370m", 48, 1024},
                 {"790m", 48, 1536},
                 {"1.4b", 48, 2048},
                 {"2.8b", 64, 2560}};
    printf("What a token costs: every weight is read once; memory delivers %g GB/s here\n\n",
           bandwidth);
    puts("                        GB of weights                  tokens a second, at most");
    puts("  mamba  parameters     F32   BF16   int8   int4      F32   BF16   int8   int4    state");
    for (size_t i = 0; i < TABLE_SIZE(known); i++) {
        size_t all, matrices, state;
        known_sizes(&all, &matrices, &state, known[i].layers, known[i].d_model);
        double rest = 4.0 * (double)(all - matrices), m = (double)matrices;
        double gb[4] = {4e-9 * (double)all, 1e-9 * (2.0 * m + rest),
                        1e-9 * (m * (1.0 + 4.0 / INT8_BLOCK) + rest),
                        1e-9 * (m * (0.5 + 2.0 / INT4_BLOCK) + rest)};
        printf("  %-5s  %8.0f M", known[i].name, 1e-6 * (double)all);
        for (size_t k = 0; k < TABLE_SIZE(gb); k++)
            printf("%s%5.2f", k == 0 ? "   " : "  ", gb[k]);
        for (size_t k = 0; k < TABLE_SIZE(gb); k++)
            printf("%s%5.1f", k == 0 ? "    " : "  ", bandwidth / gb[k]);
        printf("  %4.1f MB\n", 1e-6 * (double)state);
    }
}

/* A line of a table: what the model reads for each token, how well it guesses with its matrices as
   `head` is, in nats a token, and how much worse than in line 0. */
void print_bits_cost(const Weight *head, size_t bytes, const double *mean, size_t line)
{
    const char *name = tensor_type_name(head->type);
    double mb = 1e-6 * (double)bytes, more = mean[line] - mean[0];
    if (line == 0)
        puts("           a token  perplexity  nats a token     more  of the perplexity");
    else
        name = head->bits == 8 ? "int8" : "int4";
    printf("  %-5s %7.*f MB  %10.3f  %12.4f", name, mb < 10.0 ? 2 : 0, mb, exp(mean[line]),
           mean[line]);
    if (line > 0)
        printf("  %+.4f  %+15.2f %%", more, 100.0 * expm1(more));
    putchar('\n');
    fflush(stdout);
}

/* ---- where the time goes ---- */

/* One part of a step. */
typedef struct {
    const char *name;
    double seconds, bytes; /* all tokens together; bytes of weights that it reads */
} Phase;

static void phases_svg(FILE *out, const Phase *phase, size_t count, size_t tokens, double total)
{
    char text[96];
    svg_open(out, 620, 40 + 34 * (double)count + 20);
    snprintf(text, sizeof text, "Where the %.2f ms of a token go (mean of %zu)",
             1e3 * total / (double)tokens, tokens);
    svg_text(out, 310, 24, "text-anchor=\"middle\"", text);
    for (size_t i = 0; i < count; i++) {
        double y = 40 + 34 * (double)i, share = total > 0.0 ? phase[i].seconds / total : 0.0;
        bool matrix = phase[i].bytes > 0.0;
        svg_text(out, 120, y + 19, "text-anchor=\"end\"", phase[i].name);
        fprintf(out,
                "<rect x=\"130\" y=\"%.0f\" width=\"%.1f\" height=\"24\" rx=\"3\" fill=\"%s\"/>\n",
                y, fmax(1.0, 400.0 * share), matrix ? "#3c7fb1" : "#e0903c");
        snprintf(text, sizeof text, "%.1f %%", 100.0 * share);
        svg_text(out, 136 + fmax(1.0, 400.0 * share), y + 19, "", text);
    }
    svg_close(out);
}

bool show_phases(const Phase *phase, size_t count, size_t tokens, const Show *show, Error *error)
{
    double total = 0.0;
    OutFile out;
    for (size_t i = 0; i < count; i++)
        total += phase[i].seconds;
    printf("\nWhere the time goes: %.2f ms a token\n\n", 1e3 * total / (double)tokens);
    for (size_t i = 0; i < count; i++) {
        double share = total > 0.0 ? phase[i].seconds / total : 0.0;
        printf("  %-12s %5.1f %%  ", phase[i].name, 100.0 * share);
        if (phase[i].bytes > 0.0 && phase[i].seconds > 0.0)
            printf("%5.1f GB/s  ", 1e-9 * phase[i].bytes / phase[i].seconds);
        else
            printf("%12s", "");
        print_blocks((int)(60.0 * share + 0.5), 0, &show->look);
        putchar('\n');
    }
    if (show->svg == NULL)
        return true;
    if (!out_open(&out, show->svg, error))
        return false;
    phases_svg(out.stream, phase, count, tokens, total);
    return out_close(&out, error);
}

/* On stderr: how fast a prompt was read and an answer written, `bytes` read for each token. */
void print_speed(double bytes, size_t read, double reading, size_t written, double writing)
{
    fflush(stdout); /* the speed comes after the answer */
    if (read > 0)
        fprintf(stderr, "%zu token%s read, %.0f a second. ", read, read == 1 ? "" : "s",
                (double)read / reading);
    double rate = (double)written / writing;
    if (written > 0)
        fprintf(stderr, "%zu written, %.*f a second: %.1f GB/s of weights", written, rate < 100.0,
                rate, 1e-9 * bytes * rate);
    if (read + written > 0)
        fputc('\n', stderr);
}

/* ---- which tokens opened the gate ---- */

/* The mean Delta of each token in each layer. */
typedef struct {
    size_t layers, tokens;
    double *delta; /* (layers, tokens) */
} Focus;

/* A token's Delta against the mean of the text, averaged over the layers. */
static void focus_relative(double *relative, const Focus *focus)
{
    size_t tokens = focus->tokens, layers = focus->layers;
    memset(relative, 0, tokens * sizeof *relative);
    for (size_t i = 0; i < layers; i++) {
        double mean = 0.0;
        for (size_t t = 0; t < tokens; t++)
            mean += focus->delta[i * tokens + t] / (double)tokens;
        for (size_t t = 0; t < tokens && mean > 0.0; t++)
            relative[t] += focus->delta[i * tokens + t] / mean / (double)layers;
    }
}

static void focus_svg(FILE *out, const Focus *focus)
{
    size_t tokens = focus->tokens, layers = focus->layers;
    double wide = fmax(2.0, 800.0 / (double)tokens), high = fmax(4.0, 300.0 / (double)layers);
    svg_open(out, 80.0 + wide * (double)tokens, 60.0 + high * (double)layers);
    svg_text(out, 60, 24, "",
             "Mean Delta: layers down, tokens across; dark is large for its layer");
    for (size_t i = 0; i < layers; i++) {
        const double *delta = focus->delta + i * tokens;
        double most = matrix_max_abs(delta, tokens);
        for (size_t t = 0; t < tokens && most > 0.0; t++)
            fprintf(out,
                    "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"#1f4e79\" "
                    "fill-opacity=\"%.2f\"/>\n",
                    60.0 + wide * (double)t, 40.0 + high * (double)i, wide, high, delta[t] / most);
    }
    svg_close(out);
}

/* A bar for each token; ids (tokens) are shown as texts, or as they are without a tokenizer. */
bool show_gates(const Focus *focus, const uint32_t *ids, const Tokenizer *tokenizer,
                const Show *show, Error *error)
{
    double *relative = NEW(double, focus->tokens);
    OutFile out;
    focus_relative(relative, focus);
    double most = matrix_max_abs(relative, focus->tokens);
    puts("How far each token opens the gate: its mean Delta, as a multiple of the text's mean\n");
    for (size_t t = 0; t < focus->tokens; t++) {
        printf("  %5.2f  ", relative[t]);
        print_blocks(most > 0.0 ? (int)(24.0 * relative[t] / most + 0.5) : 0, 24, &show->look);
        fputs("  ", stdout);
        if (tokenizer != NULL)
            print_token_text(stdout, tokenizer, ids[t]);
        else
            printf("%u", ids[t]);
        putchar('\n');
    }
    free(relative);
    if (show->svg == NULL)
        return true;
    if (!out_open(&out, show->svg, error))
        return false;
    focus_svg(out.stream, focus);
    return out_close(&out, error);
}

#endif /* CH05_PRETRAINED_CHARTS */
