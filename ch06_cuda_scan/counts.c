/* What chapter 6's demos work on, count and draw.

   HOLDS   scans of random numbers, and how far two results are apart; joins, depth and barriers of
           the ways to scan; turns of a warp at the banks of shared memory; bytes, special
           functions, instructions, and the roof over them
   FOR     the demos of cuda_scan.cu; the roof for bench.cu too. Knows a Scan, and no kernel. */

#ifndef CH06_COUNTS
#define CH06_COUNTS

#include "../ch01_markov/charts.h"
#include "../ch05_mamba_block/mamba_block.c"

/* ==================================== Random scans ======================================== */

/* A scan with everything that a scan can have but a start and checkpoints. */
typedef struct {
    Scan scan;
    float *memory; /* its arrays, one behind the other */
} DemoScan;

static const float *floats_between(float **next, size_t count, double low, double high,
                                   Random *random)
{
    float *values = *next;
    *next += count;
    for (size_t i = 0; i < count; i++)
        values[i] = (float)(low + (high - low) * random_uniform(random));
    return values;
}

/* The numbers that a trained layer might meet. */
DemoScan demo_scan_new(size_t batch, size_t len, size_t d_inner, size_t d_state)
{
    DemoScan made;
    Random random = random_from_seed(1);
    size_t wide = batch * len * d_inner, shared = batch * len * d_state, A = d_inner * d_state;
    memset(&made, 0, sizeof made);
    made.memory = NEW(float, 3 * wide + 2 * shared + A + 2 * d_inner);
    float *next = made.memory;
    Scan *scan = &made.scan;
    scan->batch = batch, scan->len = len, scan->d_inner = d_inner, scan->d_state = d_state;
    scan->u = floats_between(&next, wide, -1, 1, &random);
    scan->delta = floats_between(&next, wide, -4, 1, &random);
    scan->z = floats_between(&next, wide, -2, 2, &random);
    scan->B = floats_between(&next, shared, -1, 1, &random);
    scan->C = floats_between(&next, shared, -1, 1, &random);
    scan->A = floats_between(&next, A, -(double)d_state, -0.5, &random);
    scan->delta_bias = floats_between(&next, d_inner, -1, 0, &random);
    scan->D = floats_between(&next, d_inner, 0, 1, &random);
    scan->delta_softplus = true;
    return made;
}

/* The largest |a - b| over the largest |b|; NaN if there is one. */
double difference_of(const float *a, const float *b, size_t count)
{
    double worst = 0.0, size = 0.0;
    for (size_t i = 0; i < count; i++) {
        double difference = fabs((double)a[i] - (double)b[i]);
        if (isnan(difference))
            return difference;
        worst = fmax(worst, difference);
        size = fmax(size, fabs((double)b[i]));
    }
    return size > 0.0 ? worst / size : worst;
}

/* ==================================== Work and depth ====================================== */

/* What a scan of `len` steps takes. */
typedef struct {
    size_t joins, depth, barriers;
} ScanWork;

ScanWork work_of_loop(size_t len)
{
    ScanWork work = {len - 1, len - 1, 0};
    return work;
}

ScanWork work_of_hillis_steele(size_t len)
{
    ScanWork work = {0, 0, 1};
    for (size_t reach = 1; reach < len; reach *= 2) {
        work.joins += len - reach;
        work.depth++;
        work.barriers++;
    }
    return work;
}

/* len a power of two: up, down, and each step joined with what came before it. */
ScanWork work_of_blelloch(size_t len)
{
    ScanWork work = {len, 1, 1};
    for (size_t width = 1; width < len; width *= 2) {
        work.joins += 2 * (len / (2 * width));
        work.depth += 2;
        work.barriers += 2;
    }
    return work;
}

/* A thread joins its `items` tokens, a warp its 32 threads, then a thread what the warps before it
   ended in, and its tokens once more. */
ScanWork work_of_shuffle(size_t len, size_t items)
{
    size_t threads = len / items, warps = threads / 32, lane_joins = 0;
    for (size_t by = 1; by < 32; by *= 2)
        lane_joins += 32 - by;
    ScanWork work = {threads * (2 * items) + warps * lane_joins, 0, 1};
    for (size_t warp = 0; warp < warps; warp++)
        work.joins += 32 * (warp + 1);
    work.depth = 2 * items + 5 + warps;
    return work;
}

static void print_work(const char *name, ScanWork work, size_t len)
{
    printf("  %-16s %8zu %8.2f %7zu %9zu\n", name, work.joins, (double)work.joins / (double)len,
           work.depth, work.barriers);
}

/* The table for `steps` steps, and the depth of more and of fewer as a chart. */
bool work_show(size_t steps, size_t items, const Show *show, Error *error)
{
    enum { LENGTHS = 10 };
    double len[LENGTHS], depth[3][LENGTHS];
    printf("One state, %zu steps: joins in all and for each step; depth, the longest row\n"
           "of joins that wait for each other; barriers of the block\n\n",
           steps);
    puts("                      joins  a step   depth  barriers");
    print_work("loop", work_of_loop(steps), steps);
    print_work("Hillis, Steele", work_of_hillis_steele(steps), steps);
    print_work("Blelloch", work_of_blelloch(steps), steps);
    print_work("warp shuffles", work_of_shuffle(steps, items), steps);
    for (size_t i = 0; i < LENGTHS; i++) {
        size_t some = (size_t)2 << i;
        len[i] = (double)some;
        depth[0][i] = (double)work_of_loop(some).depth;
        depth[1][i] = (double)work_of_hillis_steele(some).depth;
        depth[2][i] = (double)work_of_blelloch(some).depth;
    }
    Chart chart = chart_new("How many joins wait for each other", "steps", "depth");
    chart.log_x = chart.log_y = true;
    chart_add(&chart, "loop", MARK_LINE, len, depth[0], LENGTHS);
    chart_add(&chart, "Hillis, Steele", MARK_LINE, len, depth[1], LENGTHS);
    chart_add(&chart, "Blelloch", MARK_LINE, len, depth[2], LENGTHS);
    return chart_show(&chart, show, error);
}

/* ==================================== Banks =============================================== */

/* In how many turns a warp gets these words (lanes of them) of shared memory: the most different
   words that lie in one of its 32 banks. */
unsigned bank_turns(const unsigned *word, unsigned lanes)
{
    unsigned most = 0;
    for (unsigned bank = 0; bank < 32; bank++) {
        unsigned turns = 0;
        for (unsigned i = 0; i < lanes; i++) {
            bool again = word[i] % 32 != bank;
            for (unsigned k = 0; k < i && !again; k++)
                again = word[k] == word[i];
            turns += !again;
        }
        most = turns > most ? turns : most;
    }
    return most;
}

/* Where element i of a sweep lies in shared memory. */
typedef unsigned WordPlace(unsigned i);

/* The turns of the first warp in a round of Blelloch's sweep over `tokens` elements; place NULL:
   element i is word i. */
unsigned sweep_turns(unsigned width, unsigned tokens, WordPlace *place)
{
    unsigned word[32], lanes = 0;
    for (unsigned i = 0; i < 32; i++) {
        unsigned t = 2 * width * (i + 1) - 1;
        if (t < tokens)
            word[lanes++] = place != NULL ? place(t) : t;
    }
    return bank_turns(word, lanes);
}

/* Round after round, without gaps and with the places that leave some. */
bool banks_show(unsigned tokens, WordPlace *place, const Show *show, Error *error)
{
    enum { ROUNDS_MOST = 16 };
    double width[ROUNDS_MOST], plain[ROUNDS_MOST], gaps[ROUNDS_MOST];
    size_t rounds = 0;
    printf("Blelloch's sweep over %u elements: in how many turns the first warp gets\n"
           "its words\n\n",
           tokens);
    puts("  width  threads   without gaps   a gap after every 32");
    for (unsigned w = 1; w < tokens && rounds < ROUNDS_MOST; w *= 2, rounds++) {
        unsigned threads = tokens / (2 * w);
        width[rounds] = (double)w;
        plain[rounds] = (double)sweep_turns(w, tokens, NULL);
        gaps[rounds] = (double)sweep_turns(w, tokens, place);
        printf("  %5u %8u %14.0f %22.0f\n", w, threads < 32 ? threads : 32, plain[rounds],
               gaps[rounds]);
    }
    Chart chart = chart_new("Turns of a warp in Blelloch's sweep", "width of the round", "turns");
    chart.log_x = true;
    chart_add(&chart, "without gaps", MARK_LINE, width, plain, rounds);
    chart_add(&chart, "a gap after every 32", MARK_LINE, width, gaps, rounds);
    return chart_show(&chart, show, error);
}

/* ==================================== Floors and roofs ==================================== */

/* What a way to scan takes for each token and channel. */
typedef struct {
    const char *name;
    double floats, cached; /* from and to memory; besides, through the caches */
    double exponentials;   /* and divisions: what the special function units do */
    double issued, words; /* for each state too: instructions of a thread; and numbers that it takes
                              from shared memory, a shuffle, or brings there; 0: not counted */
} ScanTraffic;

/* What a device gives in a second; instructions of warps, words from shared memory to threads. */
typedef struct {
    double bytes, exponentials, instructions, words;
} Rates;

/* What an H100 is said to give, with 132 processors at 1.98 GHz. */
static const double gpu_cycles = 132.0 * 1.98e9; /* of all processors */
static const Rates gpu_rates = {3.0e12, 16.0 * gpu_cycles, 4.0 * gpu_cycles, 32.0 * gpu_cycles};

enum { N_TRAFFIC = 6 };

/* Instructions and words of a thread for a token and state, as `make counts` finds them. */
#define ISSUED_16X1 9.0
#define ISSUED_4X4  11.0
#define ISSUED_END  6.3
#define WORDS_16X1  3.2
#define WORDS_4X4   3.9
#define WORDS_END   1.6
#define WORDS_BACK  7.7
#define ISSUED_BACK 30.6

/* By count, from the chapter's kernels, for a scan with everything but a start; `channels` share a
   tile of B and C, and a checkpoint is kept every `stretch` tokens. Of special functions softplus
   takes one and the gate two, and the way back four more. Instructions are those that `make counts`
   finds in a kernel's loop, with 4 lanes, or 1 in pieces. Unfused is an array library's way, an
   operation a kernel: softplus; exp(Delta A); Delta B u; the scan; C . x; D u; the gate, each of
   which reads and writes whole arrays. */
void count_traffic(ScanTraffic traffic[N_TRAFFIC], const Scan *scan, double channels,
                   double stretch)
{
    double n = (double)scan->d_state, d = (double)scan->d_inner, shared = 2.0 * n / d;
    const ScanTraffic all[N_TRAFFIC] = {
        {"each operation a kernel", 2 + (1 + n) + (2 + n) + 3 * n + (n + 1) + 3 + 3, 2 * n, n + 3,
         0, 0},
        {"0-3: A, B, C each token", 4 + shared, 3 * n, n + 3, 0, 0},
        {"5: B, C once a block", 4 + shared, 2 * n / channels, n + 3, ISSUED_4X4, WORDS_4X4},
        {"6: in pieces of time", 6 + 1.5 * shared, 3 * n / (4 * channels), 2 * n + 4,
         ISSUED_16X1 + ISSUED_END, WORDS_16X1 + WORDS_END},
        {"5: keeping checkpoints", 4 + shared + n / stretch, 2 * n / channels, n + 3, ISSUED_4X4,
         WORDS_4X4},
        {"backwards", 7 + shared + n / stretch + 4 * n / 64, 2 * n / 64, n + 7, ISSUED_BACK,
         WORDS_BACK},
    };
    memcpy(traffic, all, sizeof all);
}

double intensity(const ScanTraffic *way)
{
    return way->exponentials / (way->floats * sizeof(float));
}

/* Exponentials a second that the rates allow at so many exponentials a byte. */
double roof(double per_byte, const Rates *rates)
{
    return fmin(rates->exponentials, per_byte * rates->bytes);
}

enum { ROOF_POINTS = 25 };

/* x (ROOF_POINTS) from 10^low to 10^high, evenly on a logarithmic axis. */
static void roof_points(double *x, double low, double high)
{
    for (int i = 0; i < ROOF_POINTS; i++)
        x[i] = pow(10.0, low + (high - low) * i / (ROOF_POINTS - 1));
}

/* The point nearest to a roof's knee becomes it, so that the line has an edge there. */
static void roof_knee(double *x, double knee)
{
    int nearest = 0;
    for (int i = 0; i < ROOF_POINTS; i++)
        if (fabs(log(x[i] / knee)) < fabs(log(x[nearest] / knee)))
            nearest = i;
    x[nearest] = knee;
}

/* The roof as a line from 1/100 to 100 exponentials a byte. */
void roof_line(double *x, double *y, const Rates *rates)
{
    roof_points(x, -2.0, 2.0);
    roof_knee(x, rates->exponentials / rates->bytes);
    for (int i = 0; i < ROOF_POINTS; i++)
        y[i] = 1e-9 * roof(x[i], rates);
}

/* The floors of a scan of this size on an H100, by count, and the roof over them. */
bool floors_show(const Scan *scan, double channels, double stretch, const Show *show, Error *error)
{
    const Rates *rates = &gpu_rates;
    ScanTraffic way[N_TRAFFIC];
    double x[ROOF_POINTS], y[ROOF_POINTS], at[N_TRAFFIC], height[N_TRAFFIC];
    double wide = (double)scan->batch * (double)scan->len * (double)scan->d_inner;
    count_traffic(way, scan, channels, stretch);
    printf("batch %zu, len %zu, d_inner %zu, d_state %zu, by count, at rates that an H100\n"
           "(SXM) is said to have: 3.0 TB/s from memory; 132 processors x 1.98 GHz x 16\n"
           "special functions, 4 instructions of a warp, 32 words from shared memory\n\n",
           scan->batch, scan->len, scan->d_inner, scan->d_state);
    puts("                          bytes, 10^9 special    a state:     us, by count:\n"
         "  way                     all, cached   10^9 issued, words  bytes spec iss words");
    for (int i = 0; i < N_TRAFFIC; i++) {
        double bytes = wide * way[i].floats * sizeof(float);
        double lanes = wide * (double)scan->d_state;
        char issued[24] = "    -    -", times[24] = "   -    -";
        if (way[i].issued > 0.0) {
            snprintf(issued, sizeof issued, "%5.1f %4.1f", way[i].issued, way[i].words);
            snprintf(times, sizeof times, "%4.0f %4.0f",
                     1e6 * lanes * way[i].issued / 32.0 / rates->instructions,
                     1e6 * lanes * way[i].words / rates->words);
        }
        printf("  %-23s %5.2f %6.2f %6.2f %11s %7.0f %4.0f %9s\n", way[i].name, 1e-9 * bytes,
               1e-9 * wide * way[i].cached * sizeof(float), 1e-9 * wide * way[i].exponentials,
               issued, 1e6 * bytes / rates->bytes,
               1e6 * wide * way[i].exponentials / rates->exponentials, times);
        at[i] = intensity(&way[i]);
        height[i] = 1e-9 * roof(at[i], rates);
    }
    roof_line(x, y, rates);
    Chart chart = chart_new("Roofline by count: what an H100's rates allow", "exponentials a byte",
                            "10^9 exponentials a second");
    chart.log_x = chart.log_y = true;
    chart_add(&chart, "roof", MARK_LINE, x, y, ROOF_POINTS);
    chart_add(&chart, "unfused", MARK_POINTS, at, height, 1);
    chart_add(&chart, "fused", MARK_POINTS, at + 2, height + 2, 1);
    chart_add(&chart, "in pieces", MARK_POINTS, at + 3, height + 3, 1);
    chart_add(&chart, "backwards", MARK_POINTS, at + 5, height + 5, 1);
    return chart_show(&chart, show, error);
}

/* ==================================== What feeds a unit =================================== */

#define ISSUED_16X8 8.8 /* as above: kernel 5 with 8 lanes of 16 states each */
#define ISSUED_DUAL 1.2 /* cuda_dual.cu with 128 states, a sequence to a block */
#define WORDS_16X8  3.2
#define WORDS_DUAL  0.4

/* What a scan takes for each token and channel, whatever units it uses. */
typedef struct {
    const char *name;
    double products, floats; /* multiply-adds; from and to memory */
    double special, issued;  /* special functions; instructions of a thread */
    double words;            /* that a thread takes from shared memory */
    bool on_matrix_units;    /* the products */
} ScanFeed;

enum { N_FEED = 3, FEED_TIMES = 5 };

/* Kernel 5 with z; the chunks of cuda_dual.cu, `chunk` tokens and as many channels to a head, a
   sequence to a block. There C x, v B and M v are made, and B C^T once for all heads; u is read
   twice, and y written. */
void count_feed(ScanFeed feed[N_FEED], double chunk, double d_inner)
{
    const double few = 16, many = 128;
    const ScanFeed all[N_FEED] = {
        {"5 fused", 4 * few, 4 + 2 * few / d_inner, few + 3, ISSUED_4X4 * few, WORDS_4X4 * few,
         false},
        {"5 fused", 4 * many, 4 + 2 * many / d_inner, many + 3, ISSUED_16X8 * many,
         WORDS_16X8 * many, false},
        {"in chunks", 2 * many + chunk + chunk * many / d_inner, 3 + 3 * many / d_inner, 2 / chunk,
         ISSUED_DUAL * many, WORDS_DUAL * many, true},
    };
    memcpy(feed, all, sizeof all);
}

/* Seconds for `wide` tokens and channels, if only one thing counted: bytes, special functions,
   instructions, words, products on their units. Returns the longest. */
double feed_times(double seconds[FEED_TIMES], const ScanFeed *feed, double wide, const Rates *rates,
                  const double products[2])
{
    double most = 0.0;
    seconds[0] = wide * feed->floats * sizeof(float) / rates->bytes;
    seconds[1] = wide * feed->special / rates->exponentials;
    seconds[2] = wide * feed->issued / 32.0 / rates->instructions;
    seconds[3] = wide * feed->words / rates->words;
    seconds[4] = wide * feed->products / products[feed->on_matrix_units];
    for (int i = 0; i < FEED_TIMES; i++)
        most = fmax(most, seconds[i]);
    return most;
}

/* Multiply-adds a second under the roof of other units and of matrix units, from 1 to 1000 a byte;
   and where each way stands under them, by the longest of its times. */
bool feed_show(double chunk, const Show *show, Error *error)
{
    static const double products[2] = {128.0 * gpu_cycles, 0.5 * 494.7e12};
    static const size_t d_state[N_FEED] = {16, 128, 128};
    const double wide = 8.0 * 2048.0 * 2048.0;
    ScanFeed feed[N_FEED];
    double x[ROOF_POINTS], roof[2][ROOF_POINTS], at[N_FEED], height[N_FEED], seconds[FEED_TIMES];
    count_feed(feed, chunk, 2048.0);
    printf("batch 8, len 2048, d_inner 2048, by count, at the rates of ch06_cuda_scan's\n"
           "--demo floors; and for multiply-adds 128 a cycle and processor, or in TF32 on\n"
           "tensor cores 494.7 TFLOP/s. Times in us if nothing else counted, predicted and\n"
           "not measured\n\n"
           "  way        d_state  bytes  special  issued  words  products  m-a. a byte\n");
    for (int i = 0; i < N_FEED; i++) {
        double longest = feed_times(seconds, &feed[i], wide, &gpu_rates, products);
        at[i] = feed[i].products / (feed[i].floats * sizeof(float));
        height[i] = 1e-12 * wide * feed[i].products / longest;
        printf("  %-10s %7zu %6.0f %8.0f %7.0f %6.0f %9.0f %13.1f\n", feed[i].name, d_state[i],
               1e6 * seconds[0], 1e6 * seconds[1], 1e6 * seconds[2], 1e6 * seconds[3],
               1e6 * seconds[4], at[i]);
    }
    roof_points(x, 0.0, 3.0);
    for (int k = 0; k < 2; k++)
        roof_knee(x, products[k] / gpu_rates.bytes);
    for (int i = 0; i < 2 * ROOF_POINTS; i++)
        roof[i % 2][i / 2] = 1e-12 * fmin(products[i % 2], x[i / 2] * gpu_rates.bytes);
    Chart chart = chart_new("Multiply-adds by count: what an H100's rates allow",
                            "multiply-adds a byte", "10^12 multiply-adds a second");
    chart.log_x = chart.log_y = true;
    chart_add(&chart, "tensor cores", MARK_LINE, x, roof[1], ROOF_POINTS);
    chart_add(&chart, "other units", MARK_LINE, x, roof[0], ROOF_POINTS);
    chart_add(&chart, "5 fused, 16", MARK_POINTS, at, height, 1);
    chart_add(&chart, "5 fused, 128", MARK_POINTS, at + 1, height + 1, 1);
    chart_add(&chart, "in chunks, 128", MARK_POINTS, at + 2, height + 2, 1);
    return chart_show(&chart, show, error);
}

#endif /* CH06_COUNTS */
