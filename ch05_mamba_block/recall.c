/* What a state of fixed size cannot do.

   HOLDS   the experiment of exact recall: a scan wired by hand against attention; its table and
           its chart
   FOR     mamba_block.c --recall, and the test of the claim */

#ifndef CH05_RECALL
#define CH05_RECALL

#include "products.c"

/* So many normally distributed numbers: memory that the caller frees. */
float *random_floats(size_t count, Random *random)
{
    float *values = NEW(float, count);
    for (size_t i = 0; i < count; i++)
        values[i] = (float)random_normal(random);
    return values;
}

enum { RECALL_STATE = 16, RECALL_WIDE = 32, RECALL_VALUES = 16 };
enum { RECALL_SHARP = 200, RECALL_PLAIN = 1 }; /* what attention multiplies its scores by */

/* Which of the value codes (RECALL_VALUES, RECALL_WIDE) is nearest to y. */
static size_t nearest_value(const float *y, const float *code)
{
    size_t best = 0;
    for (size_t c = 1; c < RECALL_VALUES; c++)
        if (dot(y, code + c * RECALL_WIDE, RECALL_WIDE) >
            dot(y, code + best * RECALL_WIDE, RECALL_WIDE))
            best = c;
    return best;
}

/* k keys, each a random direction in RECALL_STATE dimensions, each with a value. Then one is
   asked for. The scan writes value u under key B into its state (Delta = 1, A = 0) and reads with
   C = the key; attention weighs all values by how well their keys match: sharply, so that the best
   match takes nearly all the weight, and with scores as they are, at most 1. Returns who was right:
   the scan 1, sharp attention 2, the other 4, added up. */
static int recall_once(size_t pairs, Random *random)
{
    size_t len = pairs + 1, asked = random_u32(random) % pairs;
    float *key = NEW(float, len *RECALL_STATE), *u = NEW(float, len *RECALL_WIDE);
    float *delta = NEW(float, len *RECALL_WIDE), *y = NEW(float, len *RECALL_WIDE);
    float *zeros = NEW(float, len *RECALL_STATE + RECALL_WIDE * RECALL_STATE);
    float code[RECALL_VALUES * RECALL_WIDE], mixed[RECALL_WIDE];
    size_t *value = NEW(size_t, len);
    for (size_t i = 0; i < len * RECALL_STATE; i++)
        key[i] = (float)random_normal(random);
    for (size_t i = 0; i < RECALL_VALUES * RECALL_WIDE; i++)
        code[i] = random_u32(random) % 2 ? 1.0f : -1.0f;
    for (size_t t = 0; t < pairs; t++) {
        float *k = key + t * RECALL_STATE, size = sqrtf(dot(k, k, RECALL_STATE));
        for (size_t i = 0; i < RECALL_STATE; i++)
            k[i] /= size;
        value[t] = random_u32(random) % RECALL_VALUES;
        for (size_t d = 0; d < RECALL_WIDE; d++) {
            u[t * RECALL_WIDE + d] = code[value[t] * RECALL_WIDE + d];
            delta[t * RECALL_WIDE + d] = 1.0f;
        }
    }
    memcpy(key + pairs * RECALL_STATE, key + asked * RECALL_STATE, RECALL_STATE * sizeof(float));
    Scan scan = scan_new(1, len, RECALL_WIDE, RECALL_STATE, u, delta, zeros, key, key);
    selective_scan_fast(y, NULL, &scan);
    const float *query = key + asked * RECALL_STATE, sharp[2] = {RECALL_SHARP, RECALL_PLAIN};
    int right = nearest_value(y + pairs * RECALL_WIDE, code) == value[asked];
    for (int k = 0; k < 2; k++) { /* all weights over their sum: the nearest code is the same */
        zero(mixed, RECALL_WIDE);
        for (size_t t = 0; t < pairs; t++) {
            float match = dot(query, key + t * RECALL_STATE, RECALL_STATE); /* at most 1 */
            for (size_t d = 0; d < RECALL_WIDE; d++)
                mixed[d] += expf(sharp[k] * (match - 1.0f)) * u[t * RECALL_WIDE + d];
        }
        right += (2 << k) * (nearest_value(mixed, code) == value[asked]);
    }
    free(key), free(u), free(delta), free(y), free(zeros), free(value);
    return right;
}

bool demo_recall(const Show *show, Error *error)
{
    enum { LOOKS_RECALL = 8, TRIES = 300, WAYS = 3 };
    static const char *const names[WAYS] = {"fixed state", "attention", "not sharpened"};
    double at[LOOKS_RECALL], score[WAYS][LOOKS_RECALL];
    Random random = random_from_seed(show->seed);
    prose(
        "Exact recall: k pairs of a key and a value are shown, then one key. A scan with %d states "
        "a channel against attention, which keeps all pairs (one value in %d is right by chance). "
        "All is set by hand; attention multiplies its scores by %d, in the last column by %d\n",
        RECALL_STATE, RECALL_VALUES, RECALL_SHARP, RECALL_PLAIN);
    puts("      k   fixed state   attention   not sharpened");
    for (size_t i = 0; i < LOOKS_RECALL; i++) {
        size_t pairs = (size_t)2 << i, right[WAYS] = {0, 0, 0};
        for (int k = 0; k < TRIES; k++) {
            int who = recall_once(pairs, &random);
            for (int way = 0; way < WAYS; way++)
                right[way] += who >> way & 1;
        }
        at[i] = (double)pairs;
        for (int way = 0; way < WAYS; way++)
            score[way][i] = (double)right[way] / TRIES;
        printf("  %5zu %12.1f%% %10.1f%% %14.1f%%\n", pairs, 100.0 * score[0][i],
               100.0 * score[1][i], 100.0 * score[2][i]);
    }
    Chart chart = chart_new("Exact recall of one pair in k", "pairs", "right");
    chart.log_x = true;
    for (int way = 0; way < WAYS; way++)
        chart_add(&chart, names[way], MARK_LINE, at, score[way], LOOKS_RECALL);
    return chart_show(&chart, show, error);
}

#endif /* CH05_RECALL */
