/* A whole training step, measured beside what this machine allows.

   HOLDS   the floor of a step: its multiply-adds and its exponentials want the same units, so their
           times add up; memory works meanwhile, so the longer of the two counts. It leaves out what
           has no way round it either, such as the recurrence itself. A step, and its parts alone
   FOR     bench.c, and through it the lesson's section "Speed" */

#ifndef CH05_MEASURE_TRAINING
#define CH05_MEASURE_TRAINING

#include "../ch04_selective/bench.c" /* what the machine can do */
#include "language_model.c"

/* ======================================= The floor ========================================= */

/* What a training step cannot do without, in seconds on one processor. */
typedef struct {
    double products, exponentials, memory;
} TrainFloor;

/* Multiply-adds of all products: forward once, and backward for the input and for the weight. */
static double train_multiply_adds(const MambaConfig *config, double tokens)
{
    double d_model = (double)config->hidden_size, d_inner = (double)config->intermediate_size;
    double dt_rank = (double)config->time_step_rank, d_state = (double)config->state_size;
    double layer = 3.0 * d_model * d_inner + (2.0 * dt_rank + 2.0 * d_state) * d_inner;
    return 3.0 * tokens *
           ((double)config->num_hidden_layers * layer + (double)config->vocab_size * d_model);
}

/* Exponentials: every state's forward and again backward; of each channel Delta and gate both times
   and the silu before the scan both times; softmax for the loss and for its gradient. */
static double train_exponentials(const MambaConfig *config, double tokens)
{
    double channel = 2.0 * (double)config->state_size + 6.0;
    double layer = (double)config->intermediate_size * channel;
    return tokens * ((double)config->num_hidden_layers * layer + 2.0 * (double)config->vocab_size);
}

/* Bytes: all that the forward pass keeps is written once and read once; AdamW reads a parameter,
   its gradient and its two means and writes all but the gradient. */
static double train_bytes(const Trainer *trainer)
{
    const Model *model = trainer->model;
    const TrainSettings *settings = &trainer->settings;
    BlockCache cache;
    double kept = (double)block_cache_place(&cache, NULL, &model->block[0], settings->batch,
                                            settings->len, true);
    return sizeof(float) * (2.0 * kept * (double)model->config.num_hidden_layers +
                            7.0 * (double)model_floats(&model->config));
}

static TrainFloor train_floor(const Trainer *trainer, double multiply_adds,
                              const Ceilings *ceilings)
{
    const MambaConfig *config = &trainer->model->config;
    double tokens = (double)(trainer->settings.batch * trainer->settings.len);
    TrainFloor floor = {train_multiply_adds(config, tokens) / multiply_adds,
                        train_exponentials(config, tokens) / ceilings->exponentials,
                        train_bytes(trainer) / ceilings->read};
    return floor;
}

/* ================================== A step and its parts =================================== */

/* Tokens of no text. */
static void random_tokens_fill(int32_t *ids, int32_t *targets, size_t batch, size_t len,
                               const void *from, Random *random)
{
    double vocab = (double)((const MambaConfig *)from)->vocab_size;
    for (size_t i = 0; i < batch * len; i++) {
        ids[i] = (int32_t)(random_uniform(random) * vocab);
        targets[i] = (int32_t)(random_uniform(random) * vocab);
    }
}

/* The parts of a step that are timed alone, on the arrays that a whole step has just left: a part
   that went over its own results again and again would end among denormal numbers, which are
   slow. */
typedef enum { PART_PRODUCTS, PART_SCAN, PART_CONVOLUTION, PART_ADAMW, TRAIN_PARTS } TrainPart;

/* One linear layer, its three products. */
static void bench_linear(float *y, float *x, const float *W, float *W_grad, size_t tokens,
                         size_t d_in, size_t d_out)
{
    linear_forward_fast(y, x, W, NULL, tokens, d_in, d_out);
    linear_backward_weight_fast(W_grad, y, x, tokens, d_in, d_out);
    linear_backward_input_fast(x, y, W, false, tokens, d_in, d_out);
}

/* All products of a group. What comes out is thrown away: it goes into the gradients' workspace. */
static void bench_all_products(Group *group, const Model *model)
{
    const MambaConfig *config = &model->config;
    const BlockBack *to = &group->work.layer_back.block;
    size_t tokens = group->work.batch * group->work.len, d_model = config->hidden_size;
    size_t d_inner = config->intermediate_size, dt_rank = config->time_step_rank;
    for (size_t layer = 0; layer < config->num_hidden_layers; layer++) {
        float *const *p = model->block[layer].params.tensor;
        float *const *g = group->grad.layer[layer].tensor;
        for (size_t half = 0; half < 2; half++) {
            size_t first = half * d_inner * d_model;
            bench_linear(half == 0 ? to->u : to->z, to->normed, p[IN_PROJ_WEIGHT] + first,
                         g[IN_PROJ_WEIGHT] + first, tokens, d_model, d_inner);
        }
        bench_linear(to->x_dbl, to->u, p[X_PROJ_WEIGHT], g[X_PROJ_WEIGHT], tokens, d_inner,
                     dt_rank + 2 * config->state_size);
        bench_linear(to->dt_raw, to->dt_low, p[DT_PROJ_WEIGHT], g[DT_PROJ_WEIGHT], tokens, dt_rank,
                     d_inner);
        bench_linear(to->normed, to->gated, p[OUT_PROJ_WEIGHT], g[OUT_PROJ_WEIGHT], tokens, d_inner,
                     d_model);
    }
    bench_linear(group->work.logits, to->normed, model->params.lm_head, group->grad.lm_head, tokens,
                 d_model, config->vocab_size);
}

static void bench_all_scans(Group *group, const Model *model)
{
    const BlockBack *to = &group->work.layer_back.block;
    for (size_t layer = 0; layer < model->config.num_hidden_layers; layer++) {
        const BlockCache *cache = &group->work.cache[layer].block;
        float *const *g = group->grad.layer[layer].tensor;
        Scan scan = block_scan(cache, &model->block[layer], NULL);
        ScanGrad grad = {to->u, to->dt_raw, g[DT_PROJ_BIAS], to->A, to->B,
                         to->C, g[D_SKIP],  to->z,           NULL};
        selective_scan_fast(cache->gated, NULL, &scan);
        selective_scan_backward_fast(&grad, to->gated, NULL, &scan, to->scan);
    }
}

static void bench_all_convolutions(Group *group, const Model *model)
{
    const MambaConfig *config = &model->config;
    const BlockBack *to = &group->work.layer_back.block;
    size_t d_inner = config->intermediate_size, d_conv = config->conv_kernel;
    for (size_t layer = 0; layer < config->num_hidden_layers; layer++) {
        const BlockCache *cache = &group->work.cache[layer].block;
        float *const *p = model->block[layer].params.tensor;
        float *const *g = group->grad.layer[layer].tensor;
        size_t count = cache->batch * cache->len * d_inner;
        conv1d_forward_fast(cache->conv, cache->u_raw, NULL, cache->zeros, p[CONV1D_WEIGHT],
                            p[CONV1D_BIAS], cache->batch, cache->len, d_inner, d_conv);
        silu_all(cache->u, cache->conv, count);
        silu_backward_all(to->conv, to->u, cache->conv, count);
        conv1d_backward_fast(to->u_raw, g[CONV1D_WEIGHT], g[CONV1D_BIAS], to->conv, cache->u_raw,
                             p[CONV1D_WEIGHT], cache->batch, cache->len, d_inner, d_conv);
    }
}

static void bench_part(Trainer *trainer, TrainPart part)
{
    AdamW adamw = {1e-4, 0.9, 0.95, 1e-8, 0.1};
    for (size_t g = 0; g < trainer->n_group; g++)
        switch (part) {
        case PART_PRODUCTS: bench_all_products(&trainer->group[g], trainer->model); break;
        case PART_SCAN: bench_all_scans(&trainer->group[g], trainer->model); break;
        case PART_CONVOLUTION: bench_all_convolutions(&trainer->group[g], trainer->model); break;
        default: break;
        }
    if (part != PART_ADAMW)
        return;
    gradients_add(trainer);
    clip_gradient(&trainer->group[0].grad, &trainer->model->config, 1.0);
    adamw_step(trainer->model, &trainer->adam, &trainer->group[0].grad, &adamw);
}

/* Median seconds of a step, or, with `part` below TRAIN_PARTS, of that part of it. */
static double time_training(Trainer *trainer, TrainPart part)
{
    BatchSource source = {random_tokens_fill, &trainer->model->config};
    double seconds[BENCH_RUNS];
    for (int i = 0; i < BENCH_RUNS; i++) {
        if (part < TRAIN_PARTS)
            trainer_step(trainer, &source);
        double start = seconds_now();
        if (part < TRAIN_PARTS)
            bench_part(trainer, part);
        else
            trainer_step(trainer, &source);
        seconds[i] = seconds_now() - start;
    }
    return median(seconds, BENCH_RUNS);
}

/* Where the time of one thread goes, beside the floor of a part where it has one. */
static void print_train_parts(Trainer *trainer, double step, const TrainFloor *floor)
{
    static const char *const names[TRAIN_PARTS] = {"products", "selective scan",
                                                   "convolution and silu", "sum, clipping, AdamW"};
    double rest = step, floors[TRAIN_PARTS] = {floor->products, floor->exponentials, 0.0, 0.0};
    puts("\n    of one thread's time          ms     share   floor");
    for (int part = 0; part < TRAIN_PARTS; part++) {
        double seconds = time_training(trainer, (TrainPart)part);
        rest -= seconds;
        printf("      %-22s %9.2f %7.0f %%", names[part], 1e3 * seconds, 100.0 * seconds / step);
        if (floors[part] > 0.0)
            printf("  %6.2f%s", 1e3 * floors[part], part == PART_SCAN ? " (all exponentials)" : "");
        if (part == PART_PRODUCTS)
            printf("  %.0f %% of the peak", 100.0 * floors[part] / seconds);
        putchar('\n');
    }
    printf("      %-22s %9.2f %7.0f %%\n", "norms, loss, copies", 1e3 * rest, 100.0 * rest / step);
}

static void bench_training(const MambaConfig *config, size_t batch, size_t len,
                           double multiply_adds, const Ceilings *ceilings)
{
    enum { STEPS_MOST = 8 * BENCH_RUNS };
    Random random = random_from_seed(1);
    Model model = model_new(config);
    model_init(&model, &random);
    TrainSettings settings = {batch, len, STEPS_MOST, 1, 1e-3, 0.1, 1.0, 0.0};
    Trainer trainer = trainer_new(&model, &settings);
    TrainFloor floor = train_floor(&trainer, multiply_adds, ceilings);
    double least = fmax(floor.products + floor.exponentials, floor.memory), one = 0.0;
    double tokens = (double)(batch * len);
    int threads = threads_most();
    printf("\nvocab %zu, d_model %zu, %zu layers, d_state %zu, batch %zu, len %zu\n",
           config->vocab_size, config->hidden_size, config->num_hidden_layers, config->state_size,
           batch, len);
    printf("    floor %9.2f ms: products %.2f and exponentials %.2f, or memory %.2f\n", 1e3 * least,
           1e3 * floor.products, 1e3 * floor.exponentials, 1e3 * floor.memory);
    for (int use = 1; use <= threads; use += threads > 1 ? threads - 1 : 1) {
        threads_use(use);
        double step = time_training(&trainer, TRAIN_PARTS);
        double bound = fmax((floor.products + floor.exponentials) / use, floor.memory);
        one = use == 1 ? step : one;
        printf(
            "    %2d thread%s %7.2f ms a step, %7.0f tokens/s: %.0f %% of what the floor allows\n",
            use, use == 1 ? ": " : "s:", 1e3 * step, tokens / step, 100.0 * bound / step);
    }
    threads_use(1);
    print_train_parts(&trainer, one, &floor);
    threads_use(threads);
    trainer_free(&trainer);
    model_free(&model);
}

/* The two shapes of the lesson. */
bool demo_training_speed(const Show *show, Error *error)
{
    (void)show, (void)error;
    double multiply_adds = measure_multiply_adds();
    Ceilings ceilings = measure_ceilings();
    MambaConfig large = config_default(128), small = config_default(64);
    large.num_hidden_layers = 4;
    small.num_hidden_layers = 2;
    small.vocab_size = 64;
    printf("A training step: forward, loss, backward, clipping, AdamW; %d numbers to a vector\n",
           LANES);
    printf("one processor: %.1f multiply-adds and %.2f exponentials a nanosecond, %.1f GB/s read\n",
           1e-9 * multiply_adds, 1e-9 * ceilings.exponentials, 1e-9 * ceilings.read);
    bench_training(&large, 8, 256, multiply_adds, &ceilings);
    bench_training(&small, 16, 64, multiply_adds, &ceilings);
    return true;
}

#endif /* CH05_MEASURE_TRAINING */
