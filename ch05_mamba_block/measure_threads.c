/* All threads against one, alone and beside another program that never rests.

   HOLDS   a training step, a prompt, a scan, single tokens through a block and through a model,
           each measured four ways by turns: with one thread and with all, while a busy process of
           our own sleeps and while it works
   FOR     bench.c. More threads should help when they are alone and never hurt when they are not:
           the second is what programs forget, whose threads wait for one that has no processor */

#ifndef CH05_MEASURE_THREADS
#define CH05_MEASURE_THREADS

#include "measure_pretrained.c"
#include "measure_training.c"
#include <signal.h>
#include <sys/wait.h>

/* ===================================== A busy process ====================================== */

/* Starts a process that does nothing, busily, until it is ended or its parent is gone; asleep at
   first. Returns its id, below 0 if there can be none. */
static pid_t busy_start(void)
{
    pid_t parent = getpid(), child = fork();
    if (child == 0) {
        raise(SIGSTOP);
        while (getppid() == parent)
            for (double until = seconds_now() + 0.01; seconds_now() < until;)
                continue;
        _exit(0);
    }
    return child;
}

static void busy_end(pid_t busy)
{
    kill(busy, SIGKILL);
    waitpid(busy, NULL, 0);
}

/* ======================================== The work ========================================= */

/* Something that threads can share, and what it works on. */
typedef struct {
    const char *name;
    void (*run)(void *with);
    void *with;
    double seconds[2][2]; /* of one run: [beside a busy process][with all threads] */
} ThreadJob;

typedef struct {
    Trainer *trainer;
    BatchSource source;
} StepJob;

static void run_step(void *with)
{
    StepJob *job = (StepJob *)with;
    trainer_step(job->trainer, &job->source);
}

/* Tokens through one block, on the state that the last run has left. */
typedef struct {
    OwnBlock own;
    float *input, *out; /* (len, d_model) */
} BlockJob;

static BlockJob block_job_new(size_t d_model, size_t len)
{
    Random random = random_from_seed(1);
    MambaConfig config = config_default(d_model);
    BlockJob job = {own_block_new(&config, 1, len, &random), random_floats(len * d_model, &random),
                    NEW(float, len *d_model)};
    return job;
}

static void block_job_free(BlockJob *job)
{
    own_block_free(&job->own);
    free(job->input), free(job->out);
}

static void run_block(void *with)
{
    BlockJob *job = (BlockJob *)with;
    block_forward(job->out, &job->own.cache, &job->own.state, job->input, &job->own.block);
}

/* A pretrained model at work, as large as its weights do not fit into the nearer caches. */
typedef struct {
    Pretrained model;
    Memory memory;
    Runner run[2]; /* of one thread, of all */
} DecodeJob;

/* Random weights, read back from a folder that is there no longer than that takes. */
static bool decode_job_new(DecodeJob *job, Error *error)
{
    MambaConfig config = config_default(768);
    Random random = random_from_seed(2);
    char dir[] = "/tmp/bench_threads_XXXXXX";
    config.num_hidden_layers = 4;
    config.vocab_size = 2048;
    if (mkdtemp(dir) == NULL)
        return fail(error, "%s: %s", dir, strerror(errno));
    Model model = model_new(&config);
    model_init(&model, &random);
    bool ok = folder_write(&model, dir, TENSOR_F32, error) &&
              pretrained_open(&job->model, dir, NULL, 0, error);
    model_free(&model);
    static const char *const files[] = {"config.json", "model.safetensors"};
    for (size_t i = 0; i < 2; i++) {
        char *path = path_in(dir, files[i]);
        unlink(path);
        free(path);
    }
    rmdir(dir);
    if (ok) {
        job->memory = memory_new(&config);
        for (int all = 0; all < 2; all++)
            job->run[all] = runner_new(&job->model);
        runner_threads(&job->run[0], 1);
    }
    return ok;
}

static void decode_job_free(DecodeJob *job)
{
    runner_free(&job->run[0]), runner_free(&job->run[1]);
    memory_free(&job->memory);
    pretrained_close(&job->model);
}

static void run_decode(void *with)
{
    DecodeJob *job = (DecodeJob *)with;
    runner_step(&job->run[threads_most() > 1], &job->memory, 7, true);
}

static void run_scan(void *with)
{
    BenchScan *bench = (BenchScan *)with;
    selective_scan_fast(bench->y, NULL, &bench->scan);
}

/* ====================================== The measuring ====================================== */

enum { THREAD_ROUNDS = 9 };

/* Seconds of one run: as many runs as fill a tenth of a second, for a busy process and ours take
   turns of some milliseconds. */
static double time_job(const ThreadJob *job)
{
    double start = seconds_now(), now = start;
    size_t runs = 0;
    for (; now - start < 0.1; now = seconds_now(), runs++)
        job->run(job->with);
    return (now - start) / (double)runs;
}

/* Fills job->seconds: the median of rounds in each of which all four ways have their turn. */
static void measure_job(ThreadJob *job, pid_t busy, int threads)
{
    double seconds[2][2][THREAD_ROUNDS];
    job->run(job->with);
    for (int round = 0; round < THREAD_ROUNDS; round++)
        for (int beside = 0; beside < 2; beside++) {
            kill(busy, beside ? SIGCONT : SIGSTOP);
            for (int all = 0; all < 2; all++) {
                threads_use(all ? threads : 1);
                seconds[beside][all][round] = time_job(job);
            }
        }
    kill(busy, SIGSTOP);
    for (int way = 0; way < 4; way++)
        job->seconds[way / 2][way % 2] = median(seconds[way / 2][way % 2], THREAD_ROUNDS);
    threads_use(threads);
}

static void print_jobs(const ThreadJob *job, size_t count, int threads)
{
    printf("%d threads against one, alone and beside a busy process, %d numbers to a vector;\n"
           "milliseconds, and how many times as fast\n\n",
           threads, LANES);
    printf("                                      alone                 beside\n");
    printf("                                one   %3d             one   %3d\n", threads, threads);
    for (size_t i = 0; i < count; i++) {
        const double(*s)[2] = job[i].seconds;
        printf("  %-24s %8.3f %8.3f %5.2f %9.3f %8.3f %5.2f\n", job[i].name, 1e3 * s[0][0],
               1e3 * s[0][1], s[0][0] / s[0][1], 1e3 * s[1][0], 1e3 * s[1][1], s[1][0] / s[1][1]);
    }
}

bool demo_threads_speed(const Show *show, Error *error)
{
    enum { PROMPT = 512 };
    int threads = threads_most();
    DecodeJob decode;
    if (!decode_job_new(&decode, error))
        return false;
    pid_t busy = busy_start();
    if (busy < 0)
        return fail(error, "cannot start a second process: %s", strerror(errno));
    Random random = random_from_seed(1);
    MambaConfig config = config_default(128);
    config.num_hidden_layers = 4;
    Model model = model_new(&config);
    model_init(&model, &random);
    TrainSettings settings = {8, 256, 100000, 1, 1e-3, 0.1, 1.0, 0.0};
    Trainer trainer = trainer_new(&model, &settings);
    StepJob step = {&trainer, {random_tokens_fill, &model.config}};
    BlockJob prompt = block_job_new(768, PROMPT), narrow = block_job_new(256, 1);
    BlockJob wide = block_job_new(768, 1);
    BenchScan scan = bench_scan_new(1, 2048, 1536, 16);
    scan.scan.checkpoint = NULL;
    ThreadJob job[] = {{"training step", run_step, &step, {{0.0}}},
                       {"block, 512 tokens of 768", run_block, &prompt, {{0.0}}},
                       {"scan, 2048 tokens", run_scan, &scan, {{0.0}}},
                       {"model, a token of 768", run_decode, &decode, {{0.0}}},
                       {"block, a token of 768", run_block, &wide, {{0.0}}},
                       {"block, a token of 256", run_block, &narrow, {{0.0}}}};
    const size_t count = sizeof job / sizeof *job;
    Progress progress = progress_start("measuring");
    for (size_t i = 0; i < count; i++) {
        measure_job(&job[i], busy, threads);
        progress_show(&progress, (double)(i + 1), (double)count);
    }
    progress_end(&progress);
    print_jobs(job, count, threads);
    busy_end(busy);
    bench_scan_free(&scan);
    decode_job_free(&decode);
    block_job_free(&prompt), block_job_free(&narrow), block_job_free(&wide);
    trainer_free(&trainer);
    model_free(&model);
    (void)show;
    return true;
}

#endif /* CH05_MEASURE_THREADS */
