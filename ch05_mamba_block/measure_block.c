/* What a block costs, measured.

   HOLDS   the products of a linear layer, and a block of mamba-130m's shape, against the
           multiply-adds that this processor can do; a block and attention of the same width on
           longer and longer sequences
   FOR     bench.c */

#ifndef CH05_MEASURE_BLOCK
#define CH05_MEASURE_BLOCK

#include "../ch04_selective/bench.c"
#include "attention.c"

/* =============================== The products and the block =============================== */

typedef struct {
    float *x, *W, *y;
    size_t tokens, d_in, d_out;
} BenchProduct;

/* Seconds of one of the three products: forward, backward for the input, for the weight. */
static double time_product(const BenchProduct *bench, int form)
{
    double seconds[BENCH_RUNS];
    for (int i = 0; i < BENCH_RUNS; i++) {
        double start = seconds_now();
        if (form == 0)
            linear_forward_fast(bench->y, bench->x, bench->W, NULL, bench->tokens, bench->d_in,
                                bench->d_out);
        else if (form == 1)
            linear_backward_input_fast(bench->x, bench->y, bench->W, false, bench->tokens,
                                       bench->d_in, bench->d_out);
        else
            linear_backward_weight_fast(bench->W, bench->y, bench->x, bench->tokens, bench->d_in,
                                        bench->d_out);
        seconds[i] = seconds_now() - start;
    }
    return median(seconds, BENCH_RUNS);
}

/* peak: multiply-adds a second of one processor */
static void bench_products(double peak)
{
    static const char *const names[3] = {"forward", "backward, input", "backward, weight"};
    Random random = random_from_seed(1);
    BenchProduct bench = {NULL, NULL, NULL, 512, 768, 1536};
    int threads = threads_most();
    bench.x = random_floats(bench.tokens * bench.d_in, &random);
    bench.W = random_floats(bench.d_in * bench.d_out, &random);
    bench.y = random_floats(bench.tokens * bench.d_out, &random);
    double work = (double)(bench.tokens * bench.d_in * bench.d_out);
    printf("The products of a linear layer, 512 tokens, 768 to 1536; peak %.0f GFLOP/s a "
           "processor\n\n",
           2e-9 * peak);
    threads_use(1);
    double start = seconds_now();
    linear_forward(bench.y, bench.x, bench.W, NULL, bench.tokens, bench.d_in, bench.d_out);
    double clear = seconds_now() - start;
    printf("  %-18s %8.1f ms  %5.1f GFLOP/s  %3.0f %% of the peak\n", "forward, clear", 1e3 * clear,
           2e-9 * work / clear, 100.0 * work / clear / peak);
    for (int form = 0; form < 3; form++) {
        threads_use(1);
        double one = time_product(&bench, form);
        threads_use(threads);
        double all = time_product(&bench, form);
        printf("  %-18s %8.1f ms  %5.1f GFLOP/s  %3.0f %% of the peak; on %d threads 1/%.2f\n",
               names[form], 1e3 * one, 2e-9 * work / one, 100.0 * work / one / peak, threads,
               one / all);
        memset(bench.x, 0, bench.tokens * bench.d_in * sizeof(float));
    }
    free(bench.x), free(bench.W), free(bench.y);
}

/* The products of a block, narrow ones too, as shares of the peak, one thread. With d_model 768
   this is a prompt of mamba-130m, with 128 and 64 they are the batches of the lesson's training. */
static void bench_shapes(double peak)
{
    static const size_t shapes[][2] = {{768, 512}, {128, 2048}, {64, 1024}};
    static const char *const layers[4] = {"in_proj, half", "x_proj", "dt_proj", "out_proj"};
    Random random = random_from_seed(3);
    int threads = threads_most();
    threads_use(1);
    puts("\nEvery product of a block, one thread, percent of the peak\n\n"
         "  d_model  tokens    layer            columns  depth   forward  input  weight");
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        size_t d_model = shapes[s][0], d_inner = 2 * d_model, dt_rank = d_model / 16;
        size_t d_in[4] = {d_model, d_inner, dt_rank, d_inner};
        size_t d_out[4] = {d_inner, dt_rank + 32, d_inner, d_model};
        for (int layer = 0; layer < 4; layer++) {
            BenchProduct bench = {NULL, NULL, NULL, shapes[s][1], d_in[layer], d_out[layer]};
            bench.x = random_floats(bench.tokens * bench.d_in, &random);
            bench.W = random_floats(bench.d_in * bench.d_out, &random);
            bench.y = random_floats(bench.tokens * bench.d_out, &random);
            double work = (double)(bench.tokens * bench.d_in * bench.d_out), share[3];
            for (int form = 0; form < 3; form++)
                share[form] = 100.0 * work / time_product(&bench, form) / peak;
            printf("  %7zu %7zu    %-15s %8zu %6zu %9.0f %6.0f %7.0f\n", d_model, bench.tokens,
                   layers[layer], bench.d_out, bench.d_in, share[0], share[1], share[2]);
            free(bench.x), free(bench.W), free(bench.y);
        }
    }
    threads_use(threads);
}

enum { STEP_RUNS = 20 };

/* A token more, after whatever the block has seen. */
static double measure_step_mamba(OwnBlock *own, float *token)
{
    BlockCache cache;
    float *room = NEW(float, block_cache_place(&cache, NULL, &own->block, 1, 1, false) + 16);
    block_cache_place(&cache, room, &own->block, 1, 1, false);
    double seconds[STEP_RUNS];
    for (int i = 0; i < STEP_RUNS; i++) {
        double start = seconds_now();
        block_step(token, &cache, &own->state, token, &own->block);
        seconds[i] = seconds_now() - start;
    }
    free(room);
    return median(seconds, STEP_RUNS);
}

/* A model of 24 such blocks, as mamba-130m has: a prompt, and a token at a time. */
static void bench_block(double peak)
{
    enum { LEN = 512, BLOCKS = 24 };
    Random random = random_from_seed(2);
    MambaConfig config = config_default(768);
    OwnBlock own = own_block_new(&config, 1, LEN, &random);
    float *input = random_floats(LEN * 768, &random), *out = NEW(float, LEN * 768);
    int threads = threads_most();
    double work = LEN * (double)block_params_count(&config);
    puts("\nOne block of mamba-130m's shape (768, 24 blocks in all)\n");
    for (int use = 1; use <= threads; use += threads > 1 ? threads - 1 : 1) {
        double seconds[5];
        threads_use(use);
        for (int i = 0; i < 5; i++) {
            double start = seconds_now();
            block_forward(out, &own.cache, &own.state, input, &own.block);
            seconds[i] = seconds_now() - start;
        }
        double forward = median(seconds, 5), step = measure_step_mamba(&own, out);
        printf(
            "  %d threads: %d tokens in %.1f ms, %.0f tokens a second for 24 blocks; the products\n"
            "             alone allow %.0f. A step takes %.0f us and reads %.1f GB/s of weights\n",
            use, LEN, 1e3 * forward, LEN / (forward * BLOCKS), LEN / (work / peak / use * BLOCKS),
            1e6 * step, 4e-9 * (double)block_params_count(&config) / step);
    }
    threads_use(threads);
    free(input), free(out);
    own_block_free(&own);
}

bool demo_block_speed(const Show *show, Error *error)
{
    double peak = measure_multiply_adds();
    bench_products(peak);
    bench_shapes(peak);
    bench_block(peak);
    (void)show, (void)error;
    return true;
}

/* ================================= Against attention ====================================== */

enum { COMPARE_LOOKS = 7, COMPARE_FIRST = 256 };

/* What one length costs: seconds for a forward pass, for a step after it; bytes carried. */
typedef struct {
    double forward[2], step[2], carried[2]; /* Mamba, attention */
} Cost;

static double measure_step_attention(const Attention *layer, float *token, size_t len)
{
    size_t d_model = layer->d_model;
    KeyValueCache cache = {NEW(float, (len + STEP_RUNS) * d_model),
                           NEW(float, (len + STEP_RUNS) * d_model), len};
    float *work = NEW(float, 2 * d_model + layer->n_head * (len + STEP_RUNS + 1));
    double seconds[STEP_RUNS];
    for (int i = 0; i < STEP_RUNS; i++) {
        double start = seconds_now();
        attention_step(token, &cache, work, token, layer);
        seconds[i] = seconds_now() - start;
    }
    free(cache.k), free(cache.v), free(work);
    return median(seconds, STEP_RUNS);
}

/* A block, its norm included, and an attention layer, both of width d_model, on one sequence. */
static Cost measure_cost(const MambaConfig *config, const Attention *layer, size_t len,
                         Random *random)
{
    size_t d_model = config->hidden_size;
    Cost cost;
    OwnBlock own = own_block_new(config, 1, len, random);
    float *input = random_floats(len * d_model, random), *out = NEW(float, len *d_model);
    float *work = NEW(float, attention_floats(layer, len));
    double mamba[3], attention[3];
    for (int i = 0; i < 3; i++) {
        double start = seconds_now();
        block_forward(out, &own.cache, &own.state, input, &own.block);
        mamba[i] = seconds_now() - start;
        start = seconds_now();
        attention_forward_fast(out, work, input, layer, len);
        attention[i] = seconds_now() - start;
    }
    cost.forward[0] = median(mamba, 3);
    cost.forward[1] = median(attention, 3);
    cost.step[0] = measure_step_mamba(&own, out);
    cost.step[1] = measure_step_attention(layer, out, len);
    cost.carried[0] = (double)block_state_floats(config, 1) * sizeof(float);
    cost.carried[1] = 2.0 * (double)(len * d_model) * sizeof(float);
    free(input), free(out), free(work);
    own_block_free(&own);
    return cost;
}

/* How the costs of both grow with the text, as a table and a chart. */
bool demo_compare(const Show *show, Error *error)
{
    const MambaConfig *config = &((const BlockShow *)show)->config;
    size_t d_model = config->hidden_size;
    Random random = random_from_seed(1);
    float *weights = random_floats(4 * d_model * d_model, &random);
    for (size_t i = 0; i < 4 * d_model * d_model; i++)
        weights[i] /= sqrtf((float)d_model);
    size_t heads = d_model % 64 == 0 ? d_model / 64 : 1;
    Attention layer = {d_model,
                       heads,
                       weights,
                       weights + d_model * d_model,
                       weights + 2 * d_model * d_model,
                       weights + 3 * d_model * d_model};
    double len[COMPARE_LOOKS], forward[2][COMPARE_LOOKS], step[2][COMPARE_LOOKS];
    Progress progress = progress_start("measuring");
    printf(
        "One Mamba block and one attention layer of %zu heads, both of width %zu, %d threads\n\n",
        heads, d_model, threads_most());
    puts("              forward, ms         one more token, us          carried, KB");
    puts("  tokens    Mamba  attention       Mamba  attention       Mamba  attention");
    for (size_t i = 0; i < COMPARE_LOOKS; i++) {
        size_t tokens = (size_t)COMPARE_FIRST << i;
        Cost cost = measure_cost(config, &layer, tokens, &random);
        len[i] = (double)tokens;
        for (int k = 0; k < 2; k++) {
            forward[k][i] = 1e6 * cost.forward[k] / (double)tokens;
            step[k][i] = 1e6 * cost.step[k];
        }
        printf("  %6zu %8.1f %10.1f %11.0f %10.0f %11.0f %10.0f\n", tokens, 1e3 * cost.forward[0],
               1e3 * cost.forward[1], step[0][i], step[1][i], cost.carried[0] / 1024,
               cost.carried[1] / 1024);
        progress_show(&progress, (double)tokens, (double)(COMPARE_FIRST << (COMPARE_LOOKS - 1)));
    }
    progress_end(&progress);
    free(weights);
    Chart chart = chart_new("What a token costs", "tokens before it", "microseconds");
    chart.log_x = chart.log_y = true;
    chart_add(&chart, "Mamba, whole", MARK_LINE, len, forward[0], COMPARE_LOOKS);
    chart_add(&chart, "attention, whole", MARK_LINE, len, forward[1], COMPARE_LOOKS);
    chart_add(&chart, "Mamba, step", MARK_POINTS, len, step[0], COMPARE_LOOKS);
    chart_ink(&chart, INK_BLUE);
    chart_add(&chart, "attention, step", MARK_POINTS, len, step[1], COMPARE_LOOKS);
    chart_ink(&chart, INK_VERMILION);
    return chart_show(&chart, show, error);
}

#endif /* CH05_MEASURE_BLOCK */
