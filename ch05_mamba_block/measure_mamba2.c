/* Mamba-2's scan against chapter 4's, measured.

   HOLDS   one layer as a scan over channels and as a scan over heads, forwards and backwards, at
           several state sizes and lengths, beside what this machine allows; and whole blocks of
           both kinds, at the published sizes
   FOR     bench.c */

#ifndef CH05_MEASURE_MAMBA2
#define CH05_MEASURE_MAMBA2

#include "../ch04_selective/bench.c"
#include "layers.c"

enum { LAYER_HEADS = 24, LAYER_WIDE = 64, LAYER_CHANNELS = LAYER_HEADS * LAYER_WIDE };
enum { DUAL_WAYS = 3, DUAL_RUNS = 5, DUAL_CHUNK = 64 };

/* One layer of mamba-130m's width, both ways: Delta and A of a head are those of its channels. */
typedef struct {
    HeadScan heads;
    Scan channels;
    HeadGrad heads_grad;
    ScanGrad channels_grad;
    float *memory, *y, *y_grad, *checkpoint, *work;
} DualBench;

static float *next_floats(float **next, size_t count)
{
    float *values = *next;
    *next += (count + LANES - 1) / LANES * LANES;
    return values;
}

/* Some random numbers, over and over: to make all of them would take longer than to measure. */
static float *next_random(float **next, size_t count, double low, double high, Random *random)
{
    enum { SOME = 9973 };
    float *values = *next;
    bench_fill(next, smaller(count, SOME), low, high, random);
    *next = values;
    for (size_t i = SOME; i < count; i++)
        values[i] = values[i - SOME];
    return next_floats(next, count);
}

/* Where all gradients of both go: the same memory, for they are not looked at. */
static void dual_gradients(DualBench *bench, float **next, size_t wide, size_t shared, size_t A)
{
    float *u = next_floats(next, wide), *delta = next_floats(next, wide);
    float *B = next_floats(next, shared), *C = next_floats(next, shared);
    float *A_grad = next_floats(next, A), *D = next_floats(next, LAYER_CHANNELS);
    ScanGrad channels = {u, delta, NULL, A_grad, B, C, D, NULL, NULL};
    HeadGrad heads = {u, delta, NULL, A_grad, B, C, D, NULL};
    bench->channels_grad = channels;
    bench->heads_grad = heads;
}

static DualBench dual_bench_new(size_t len, size_t d_state)
{
    DualBench bench;
    Random random = random_from_seed(1);
    size_t wide = len * LAYER_CHANNELS, shared = len * d_state, A = LAYER_CHANNELS * d_state;
    memset(&bench, 0, sizeof bench);
    bench.memory = NEW(float, 6 * wide + 4 * shared + 2 * A + 4 * LAYER_CHANNELS +
                                  len * LAYER_HEADS + 20 * LANES);
    float *next = bench.memory + (-(uintptr_t)bench.memory % sizeof(Lanes)) / sizeof(float);
    float *u = next_random(&next, wide, -1, 1, &random);
    float *delta = next_random(&next, len * LAYER_HEADS, -4, 1, &random);
    float *A_head = next_random(&next, LAYER_HEADS, -16, -1, &random);
    float *B = next_random(&next, shared, -1, 1, &random);
    float *C = next_random(&next, shared, -1, 1, &random);
    float *D = next_random(&next, LAYER_HEADS, 0, 1, &random);
    float *wide_delta = next_floats(&next, wide), *A_all = next_floats(&next, A);
    float *D_all = next_floats(&next, LAYER_CHANNELS);
    for (size_t i = 0; i < wide; i++)
        wide_delta[i] = delta[i / LAYER_WIDE];
    for (size_t i = 0; i < A; i++)
        A_all[i] = A_head[i / d_state / LAYER_WIDE];
    for (size_t d = 0; d < LAYER_CHANNELS; d++)
        D_all[d] = D[d / LAYER_WIDE];
    bench.y = next_floats(&next, wide);
    bench.y_grad = next_random(&next, wide, -1, 1, &random);
    bench.heads = head_scan_new(len, LAYER_HEADS, LAYER_WIDE, d_state, u, delta, A_head, B, C);
    bench.channels = scan_new(1, len, LAYER_CHANNELS, d_state, u, wide_delta, A_all, B, C);
    bench.heads.D = D, bench.channels.D = D_all;
    bench.heads.delta_softplus = bench.channels.delta_softplus = true;
    bench.heads.chunk = DUAL_CHUNK;
    dual_gradients(&bench, &next, wide, shared, A);
    bench.checkpoint = NEW(float, selective_scan_checkpoint_floats(&bench.channels));
    bench.channels.checkpoint = bench.checkpoint;
    bench.work = NEW(float, selective_scan_backward_floats(&bench.channels));
    return bench;
}

static void dual_bench_free(DualBench *bench)
{
    free(bench->memory);
    free(bench->checkpoint);
    free(bench->work);
}

/* The ways, forwards: chapter 4's scan, the recurrence over heads, chunks. */
static void dual_forward(DualBench *bench, int way)
{
    Scan channels = bench->channels;
    channels.checkpoint = NULL; /* nobody goes back */
    if (way == 0)
        selective_scan_fast(bench->y, NULL, &channels);
    else
        (way == 1 ? head_scan_fast : head_scan_chunked_fast)(bench->y, NULL, &bench->heads);
}

/* Backwards, as training goes: with its forward pass. The recurrence has no fast way back. */
static void dual_there_and_back(DualBench *bench, int way)
{
    if (way == 0) {
        selective_scan_fast(bench->y, NULL, &bench->channels);
        selective_scan_backward_fast(&bench->channels_grad, bench->y_grad, NULL, &bench->channels,
                                     bench->work);
    } else if (way == 2) {
        head_scan_chunked_fast(bench->y, NULL, &bench->heads);
        head_scan_chunked_backward_fast(&bench->heads_grad, bench->y_grad, NULL, &bench->heads);
    }
}

/* The least seconds of some runs of every way (or of one `only`), by turns, so that what else the
   machine does meets all of them. */
static void dual_least(double least[DUAL_WAYS], DualBench *bench,
                       void (*run)(DualBench *bench, int way), int only)
{
    for (int i = 0; i < DUAL_RUNS; i++)
        for (int way = 0; way < DUAL_WAYS; way++) {
            if (way != only && only >= 0)
                continue;
            double start = own_seconds();
            run(bench, way);
            double seconds = own_seconds() - start;
            least[way] = i == 0 ? seconds : fmin(least[way], seconds);
        }
}

/* What this machine can do at most, one processor: the most of some measurements. */
typedef struct {
    double read, exponentials, multiply_adds; /* bytes, exps, multiply-adds a second */
} DualCeilings;

static DualCeilings dual_ceilings(void)
{
    DualCeilings most = {0.0, 0.0, 0.0};
    for (int i = 0; i < 5; i++) {
        most.read = fmax(most.read, measure_read());
        most.exponentials = fmax(most.exponentials, measure_exponentials());
        most.multiply_adds = fmax(most.multiply_adds, measure_multiply_adds());
    }
    return most;
}

/* Seconds a token below which a way cannot be. All read u and write y. Chapter 4 takes an
   exponential a state. The recurrence multiplies a x, v B, and adds C x: three instructions a
   state, each as dear as a multiply-add. Chunks make d_state multiply-adds a channel to read the
   state, as many to move it on, and (chunk + 1) / 2 inside; and the heads share C B^T. */
static void dual_floors(double floors[DUAL_WAYS], double d_state, const DualCeilings *most)
{
    double memory = 2.0 * LAYER_CHANNELS * sizeof(float) / most->read,
           near = (DUAL_CHUNK + 1) / 2.0;
    floors[0] = LAYER_CHANNELS * (d_state + 1.0) / most->exponentials;
    floors[1] = 3.0 * LAYER_CHANNELS * d_state / most->multiply_adds;
    floors[2] = (LAYER_CHANNELS * (2.0 * d_state + near) + near * d_state) / most->multiply_adds;
    for (int way = 0; way < DUAL_WAYS; way++)
        floors[way] = fmax(floors[way], memory);
}

static void print_dual_row(size_t d_state, size_t len, const double floors[DUAL_WAYS])
{
    double least[DUAL_WAYS], per = 1e6 / (double)len;
    DualBench bench = dual_bench_new(len, d_state);
    dual_least(least, &bench, dual_forward, -1);
    printf("  %7zu %7zu %7.2f %6.2f %9.2f %6.2f %6.1f %9.2f %6.2f %6.1f\n", d_state, len,
           1e6 * floors[0], per * least[0], 1e6 * floors[1], per * least[1], least[0] / least[1],
           1e6 * floors[2], per * least[2], least[0] / least[2]);
    dual_bench_free(&bench);
}

/* Which chunk is best, forwards and with the way back. */
static void print_dual_chunks(void)
{
    puts("\nChunks, 2048 tokens: microseconds a token forwards, and with the way back\n\n"
         "    chunk    16 states        64 states       128 states");
    for (size_t chunk = 16; chunk <= 256; chunk *= 2) {
        printf("  %7zu", chunk);
        for (size_t d_state = 16; d_state <= 128; d_state *= d_state == 16 ? 4 : 2) {
            double there[DUAL_WAYS], both[DUAL_WAYS];
            DualBench bench = dual_bench_new(2048, d_state);
            bench.heads.chunk = chunk;
            dual_least(there, &bench, dual_forward, 2);
            dual_least(both, &bench, dual_there_and_back, 2);
            printf("   %6.2f %6.2f", 1e6 / 2048 * there[2], 1e6 / 2048 * both[2]);
            dual_bench_free(&bench);
        }
        putchar('\n');
    }
}

static void print_dual_training(void)
{
    puts("\nThere and back, as in training, 4096 tokens: microseconds a token\n\n"
         "  d_state   chapter 4   chunks of 64   times faster");
    for (size_t d_state = 16; d_state <= 128; d_state *= d_state == 16 ? 4 : 2) {
        double least[DUAL_WAYS], per = 1e6 / 4096;
        DualBench bench = dual_bench_new(4096, d_state);
        dual_least(least, &bench, dual_there_and_back, -1);
        printf("  %7zu %11.2f %14.2f %14.1f\n", d_state, per * least[0], per * least[2],
               least[0] / least[2]);
        dual_bench_free(&bench);
    }
}

/* A layer of a model with everything that it works with, for one piece of text. */
typedef struct {
    MambaBlock block;
    LayerCache cache, one_cache; /* of the piece; of one token more */
    LayerBack back;
    BlockState state;
    BlockParams grad;
    float *memory, *input, *out, *out_grad, *input_grad;
} BenchLayer;

enum { BLOCK_TOKENS = 512 };

/* Lays it out in `memory`, or, if that is NULL, only counts: returns how many floats. */
static size_t bench_layer_place(BenchLayer *layer, float *memory)
{
    const MambaConfig *config = &layer->block.config;
    size_t used = 0, wide = BLOCK_TOKENS * config->hidden_size;
    size_t params = layer_params_floats(config), state = layer_state_floats(config, 1);
    float *at = take(memory, &used, params);
    layer_params_place(&layer->block.params, at, config);
    at = take(memory, &used, params);
    layer_params_place(&layer->grad, at, config);
    layer->block.A = take(memory, &used, layer_A_count(config));
    at = take(memory, &used, state);
    layer->state = layer_state_place(at, config, 1);
    layer->input = take(memory, &used, wide);
    layer->out = take(memory, &used, wide);
    layer->out_grad = take(memory, &used, wide);
    layer->input_grad = take(memory, &used, wide);
    used += layer_cache_place(&layer->cache, memory ? memory + used : NULL, &layer->block, 1,
                              BLOCK_TOKENS, true);
    used += layer_cache_place(&layer->one_cache, memory ? memory + used : NULL, &layer->block, 1, 1,
                              false);
    used +=
        layer_back_place(&layer->back, memory ? memory + used : NULL, &layer->cache, &layer->block);
    return used;
}

static BenchLayer bench_layer_new(const MambaConfig *config)
{
    BenchLayer layer;
    Random random = random_from_seed(1);
    memset(&layer, 0, sizeof layer);
    layer.block.config = *config;
    layer.memory = NEW(float, bench_layer_place(&layer, NULL) + 16);
    bench_layer_place(&layer, layer.memory + (-(uintptr_t)layer.memory % 64) / sizeof(float));
    layer_init(&layer.block.params, config, &random);
    layer_refresh(&layer.block);
    for (size_t i = 0; i < BLOCK_TOKENS * config->hidden_size; i++) {
        layer.input[i] = (float)random_normal(&random);
        layer.out_grad[i] = (float)random_normal(&random);
    }
    return layer;
}

/* What is timed: forwards, as training goes, and one token more. */
static void bench_layer_run(BenchLayer *layer, int what)
{
    if (what == 2)
        layer_forward(layer->out, &layer->one_cache, &layer->state, layer->input, &layer->block);
    else
        layer_forward(layer->out, &layer->cache, NULL, layer->input, &layer->block);
    if (what == 1)
        layer_backward(&layer->grad, layer->input_grad, &layer->back, layer->out_grad,
                       &layer->cache, layer->input, &layer->block);
}

/* Whole blocks as mamba-130m and mamba2-130m have them, by turns. */
static void print_dual_blocks(void)
{
    enum { KINDS = 2, TIMED = 3 };
    static const char *const names[KINDS] = {"Mamba, 16 states", "Mamba-2, 128 states"};
    MambaConfig config[KINDS] = {config_default(768), config_default_heads(768, 64, 128)};
    BenchLayer layer[KINDS] = {bench_layer_new(&config[0]), bench_layer_new(&config[1])};
    double least[KINDS][TIMED];
    for (int i = 0; i < DUAL_RUNS; i++)
        for (int kind = 0; kind < KINDS; kind++)
            for (int what = 0; what < TIMED; what++) {
                double start = own_seconds();
                bench_layer_run(&layer[kind], what);
                double seconds = own_seconds() - start;
                least[kind][what] = i == 0 ? seconds : fmin(least[kind][what], seconds);
            }
    printf("\nWhole blocks of width 768, %d tokens, one thread: microseconds a token\n\n"
           "                         forwards   there and back   a token more\n",
           BLOCK_TOKENS);
    for (int kind = 0; kind < KINDS; kind++) {
        printf("  %-20s %10.1f %16.1f %14.1f\n", names[kind], 1e6 / BLOCK_TOKENS * least[kind][0],
               1e6 / BLOCK_TOKENS * least[kind][1], 1e6 * least[kind][2]);
        free(layer[kind].memory);
    }
}

/* Microseconds a token against the size of the state. */
static bool dual_chart(const Show *show, Error *error)
{
    enum { SIZES = 5 };
    static const char *const names[DUAL_WAYS] = {"chapter 4's scan", "one A a head: recurrence",
                                                 "chunks of 64"};
    double states[SIZES], cost[DUAL_WAYS][SIZES];
    for (size_t i = 0; i < SIZES; i++) {
        double least[DUAL_WAYS];
        DualBench bench = dual_bench_new(1024, (size_t)8 << i);
        dual_least(least, &bench, dual_forward, -1);
        states[i] = (double)(8 << i);
        for (int way = 0; way < DUAL_WAYS; way++)
            cost[way][i] = 1e6 / 1024 * least[way];
        dual_bench_free(&bench);
    }
    Chart chart =
        chart_new("A layer of 1536 channels, one thread", "d_state", "microseconds a token");
    chart.log_x = chart.log_y = true;
    for (int way = 0; way < DUAL_WAYS; way++)
        chart_add(&chart, names[way], MARK_LINE, states, cost[way], SIZES);
    return chart_show(&chart, show, error);
}

bool demo_mamba2_speed(const Show *show, Error *error)
{
    int threads = threads_most();
    DualCeilings most = dual_ceilings();
    threads_use(1);
    printf(
        "One layer of %d channels, %d heads of %d, one thread: microseconds a token, least of %d\n"
        "runs. Floors: %.1f GB/s read, %.1f exponentials and %.1f multiply-adds a nanosecond\n\n"
        "                    chapter 4        recurrence, times faster   chunks of %d, times\n"
        "  d_state     len   floor   time     floor   time                floor   time\n",
        LAYER_CHANNELS, LAYER_HEADS, LAYER_WIDE, DUAL_RUNS, 1e-9 * most.read,
        1e-9 * most.exponentials, 1e-9 * most.multiply_adds, DUAL_CHUNK);
    for (size_t d_state = 16; d_state <= 128; d_state *= d_state == 16 ? 4 : 2)
        for (size_t len = 1024; len <= 16384; len *= 4) {
            double floors[DUAL_WAYS];
            dual_floors(floors, (double)d_state, &most);
            print_dual_row(d_state, len, floors);
        }
    print_dual_training();
    print_dual_chunks();
    print_dual_blocks();
    bool ok = dual_chart(show, error);
    threads_use(threads);
    return ok;
}

#endif /* CH05_MEASURE_MAMBA2 */
