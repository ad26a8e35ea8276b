/* How fast a step is, held against a mere reading of the same memory.

   HOLDS   random models of mamba-130m's shape, as folders in each type; steps and readings by
           turns; prompts; what a draw costs; measure_pretrained, which prints all of it
   FOR     the lesson's section on speed, by build/ch05_bench --pretrained DIR; tests, which want
           small folders */

#ifndef CH05_MEASURE_PRETRAINED
#define CH05_MEASURE_PRETRAINED

#include "../ch01_markov/measure.h" /* the median */
#include "pretrained.c"

/* ===================================== Random models ======================================= */

/* All parameters of a model as a folder of Hugging Face's, in one type. */
bool folder_write(const Model *model, const char *dir, TensorType type, Error *error)
{
    const MambaConfig *config = &model->config;
    size_t count = model_tensor_count(config);
    void **copy = NEW(void *, count);
    SafetensorsWriter writer;
    OutFile out;
    char *path = path_in(dir, "config.json");
    safetensors_writer_init(&writer);
    for (size_t k = 0; k < count; k++) {
        ModelTensor p = model_tensor(&model->params, config, k);
        uint16_t *half = type == TENSOR_F32 ? NULL : NEW(uint16_t, p.count);
        copy[k] = half;
        for (size_t i = 0; i < p.count && half != NULL; i++)
            half[i] = type == TENSOR_BF16 ? tensor_bf16_from_float(p.values[i])
                                          : tensor_f16_from_float(p.values[i]);
        if (p.count > 0)
            safetensors_add(&writer, p.name, type,
                            half != NULL ? (const void *)half : (const void *)p.values, p.rank,
                            p.shape);
    }
    bool ok = out_open(&out, path, error);
    if (ok) {
        fputs("{\n", out.stream);
        if (layer_has_heads(config))
            write_config_heads(out.stream, config);
        fprintf(out.stream,
                "\"model_type\": \"%s\", \"mixer_rms_eps\": %g, \"hidden_size\": %zu, "
                "\"state_size\": %zu, "
                "\"num_hidden_layers\": %zu, \"vocab_size\": %zu, \"conv_kernel\": %zu, "
                "\"time_step_rank\": %zu, \"use_bias\": %s, \"use_conv_bias\": %s, "
                "\"tie_word_embeddings\": %s}\n",
                model_type_name[config->kind], config->mixer_rms_eps, config->hidden_size,
                config->state_size, config->num_hidden_layers, config->vocab_size,
                config->conv_kernel, config->time_step_rank, config->use_bias ? "true" : "false",
                config->use_conv_bias ? "true" : "false",
                config->tie_word_embeddings ? "true" : "false");
        ok = out_close(&out, error);
    }
    free(path);
    path = path_in(dir, "model.safetensors");
    ok = ok && safetensors_write(&writer, path, error);
    safetensors_writer_free(&writer);
    for (size_t k = 0; k < count; k++)
        free(copy[k]);
    free(copy), free(path);
    return ok;
}

static const struct {
    TensorType type;
    const char *folder;
} bench_folders[] = {{TENSOR_F32, "f32"}, {TENSOR_BF16, "bf16"}, {TENSOR_F16, "f16"}};

/* Random models of the shape of mamba-130m in dir/f32, dir/bf16 and dir/f16, unless they are
   there. */
static bool bench_make(const char *dir, Error *error)
{
    bool there = true, ok = true;
    for (size_t i = 0; i < TABLE_SIZE(bench_folders); i++) {
        char *sub = path_in(dir, bench_folders[i].folder);
        there = there && path_exists(sub, "model.safetensors");
        free(sub);
    }
    if (there)
        return true;
    fprintf(stderr, "making random models of mamba-130m's shape in %s (once)\n", dir);
    MambaConfig config = config_default(768);
    config.num_hidden_layers = 24;
    config.vocab_size = 50280;
    Model model = model_new(&config);
    Random random = random_from_seed(130);
    model_init(&model, &random);
    if (mkdir(dir, 0777) != 0 && errno != EEXIST)
        ok = fail(error, "%s: %s", dir, strerror(errno));
    for (size_t i = 0; ok && i < TABLE_SIZE(bench_folders); i++) {
        char *sub = path_in(dir, bench_folders[i].folder);
        if (mkdir(sub, 0777) != 0 && errno != EEXIST)
            ok = fail(error, "%s: %s", sub, strerror(errno));
        ok = ok && folder_write(&model, sub, bench_folders[i].type, error);
        free(sub);
    }
    model_free(&model);
    return ok;
}

/* ======================================= A step ============================================ */

/* One thread's share of all weights, looked at and nothing more: the floor of a step. */
static int32_t read_part(const Pretrained *model, size_t thread, size_t threads)
{
    LanesBits sum[4] = {{0}};
    for (size_t i = 0; i <= model->config.num_hidden_layers; i++)
        for (int w = 0; w < W_COUNT; w++) {
            const Weight *weight =
                i < model->config.num_hidden_layers ? &model->layer[i].weight[w] : &model->head;
            const unsigned char *from = weight->data;
            size_t first = share_start(weight->rows, thread, threads) * weight->stride;
            size_t end = share_start(weight->rows, thread + 1, threads) * weight->stride;
            for (size_t at = first; at + 4 * sizeof *sum <= end; at += 4 * sizeof *sum)
                for (size_t k = 0; k < 4; k++) {
                    LanesBits bits;
                    memcpy(&bits, from + at + k * sizeof bits, sizeof bits);
                    sum[k] += bits;
                }
            if (i == model->config.num_hidden_layers)
                break;
        }
    sum[0] += sum[1] + sum[2] + sum[3];
    for (int i = 1; i < LANES; i++)
        sum[0][0] += sum[0][i];
    return sum[0][0];
}

/* Seconds to read all weights once. */
static double measure_reading(const Pretrained *model, size_t threads)
{
    int32_t sum = 0;
    double start = seconds_now();
#ifdef _OPENMP
    PARALLEL_PRAGMA(omp parallel num_threads((int)threads) reduction(+ : sum))
    sum += read_part(model, (size_t)omp_get_thread_num(), (size_t)omp_get_num_threads());
#else
    sum = read_part(model, 0, threads);
#endif
    double seconds = seconds_now() - start;
    return sum == 123456789 ? seconds + 1e-9 : seconds; /* so that it is worked out */
}

/* Steps and readings by turns: the quickest of each, which is what nothing else got in the way
   of; and the median of their quotients, two neighbours in time each. */
static void bench_steps(const Pretrained *model, const char *name, size_t threads)
{
    enum { ROUNDS = 40 };
    double seconds = INFINITY, reading = INFINITY, share[ROUNDS];
    Memory memory = memory_new(&model->config);
    Runner run = runner_new(model);
    runner_threads(&run, threads);
    runner_step(&run, &memory, 1, true);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        double read = measure_reading(model, threads), start = seconds_now();
        runner_step(&run, &memory, 1000 * round, true);
        double step = seconds_now() - start;
        reading = fmin(reading, read);
        seconds = fmin(seconds, step);
        share[round] = read / step;
    }
    double bytes = (double)pretrained_step_bytes(model);
    printf("  %-5s %7zu %7.0f MB %8.1f %11.1f %10.1f %8.0f %%\n", name, threads, 1e-6 * bytes,
           1.0 / seconds, 1e-9 * bytes / seconds, 1e-9 * bytes / reading,
           100.0 * median(share, ROUNDS));
    runner_free(&run);
    memory_free(&memory);
}

static void bench_prompt(const Pretrained *model, const char *name)
{
    enum { LEN = PROMPT_CHUNK };
    uint32_t ids[LEN];
    double seconds[3];
    Memory memory = memory_new(&model->config);
    Runner run = runner_new(model);
    for (uint32_t t = 0; t < LEN; t++)
        ids[t] = t * 97 % 50280;
    for (int i = 0; i < 3; i++) {
        double start = seconds_now();
        runner_feed(&run, &memory, ids, LEN, true);
        seconds[i] = seconds_now() - start;
    }
    printf("  a prompt of %d tokens in %-5s %7.0f tokens a second\n", LEN, name,
           LEN / median(seconds, 3));
    runner_free(&run);
    memory_free(&memory);
}

/* ======================================= A draw ============================================ */

static void bench_sampling(size_t vocab)
{
    enum { RUNS = 25 };
    static const struct {
        const char *name;
        Sampling sampling;
    } kinds[] = {{"the likeliest", {0.0, 0, 1.0, 1.0}},
                 {"temperature 0.8", {0.8, 0, 1.0, 1.0}},
                 {"and top-k 40", {0.8, 40, 1.0, 1.0}},
                 {"and top-p 0.95", {0.8, 0, 0.95, 1.0}},
                 {"and a penalty", {0.8, 40, 0.95, 1.1}}};
    Sampler sampler = sampler_new(vocab);
    Random random = random_from_seed(1);
    float *logits = NEW(float, vocab);
    for (size_t v = 0; v < vocab; v++)
        logits[v] = (float)(2.0 * random_normal(&random));
    for (size_t i = 0; i < 500; i++)
        sampler_see(&sampler, random_u32(&random) % vocab);
    fputs("\n  drawing one of 50,280 tokens, in microseconds:\n", stdout);
    for (size_t k = 0; k < TABLE_SIZE(kinds); k++) {
        double seconds[RUNS];
        for (int i = 0; i < RUNS; i++) {
            double start = seconds_now();
            sampler_draw(&sampler, logits, &kinds[k].sampling, &random);
            seconds[i] = seconds_now() - start;
        }
        printf("    %-16s %6.0f\n", kinds[k].name, 1e6 * median(seconds, RUNS));
    }
    free(logits);
    sampler_free(&sampler);
}

/* ====================================== All of it ========================================== */

/* What a model's matrices are read as, and from which folder. */
typedef struct {
    const char *name, *folder;
    size_t bits; /* 0: as the folder has them */
} BenchKind;

/* The steps of one kind, by one thread and by all; or else its prompts. */
static bool bench_kind(const BenchKind *kind, bool steps, const char *dir, Error *error)
{
    size_t threads = (size_t)threads_most();
    Pretrained model;
    char *sub = path_in(dir, kind->folder);
    bool ok = pretrained_open(&model, sub, NULL, kind->bits, error);
    free(sub);
    if (!ok)
        return false;
    for (size_t use = 1; steps && use <= threads; use += threads > 1 ? threads - 1 : 1)
        bench_steps(&model, kind->name, use);
    if (!steps)
        bench_prompt(&model, kind->name);
    pretrained_close(&model);
    return true;
}

/* Everything there is to measure, with the models in `dir`; they are made if they are not there. */
bool measure_pretrained(const char *dir, Error *error)
{
    static const BenchKind kinds[] = {{"F32", "f32", 0},
                                      {"BF16", "bf16", 0},
                                      {"F16", "f16", 0},
                                      {"int8", "f32", 8},
                                      {"int4", "f32", 4}};
    if (!bench_make(dir, error))
        return false;
    puts("Steps of a random model of mamba-130m's shape: every weight is read once a token\n");
    puts("  type  threads   a token  tokens/s  that is GB/s  read GB/s  of the floor");
    for (size_t i = 0; i < TABLE_SIZE(kinds); i++)
        if (!bench_kind(&kinds[i], true, dir, error))
            return false;
    putchar('\n');
    for (size_t i = 0; i < TABLE_SIZE(kinds); i++)
        if ((i == 0 || kinds[i].bits > 0) && !bench_kind(&kinds[i], false, dir, error))
            return false;
    bench_sampling(50280);
    return true;
}

#endif /* CH05_MEASURE_PRETRAINED */
