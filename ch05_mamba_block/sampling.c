/* Sampling: what is done with the logits of one token, one number for every token of the
   vocabulary.

   HOLDS   their softmax in vectors, with the loss of a token and its gradient; the likeliest token;
           the draw of the next one: penalty, temperature, top-k, top-p, without sorting; whether
           they are numbers
   FOR     language_model.c, which has the loss and the two cuts as they are defined, and
           pretrained.c. It knows nothing of a model
   SOURCE  the order and the meaning of the settings are those of Hugging Face's generate() */

#ifndef CH05_SAMPLING
#define CH05_SAMPLING

#include "../ch04_selective/fast_scan.c"

/* ======================================= Softmax ========================================== */

/* What softmax divides by: the sum of exp(logit - largest). */
typedef struct {
    float largest, sum;
} Softmax;

/* Part `part` of up to sixteen logits; where there are none, what adds nothing to a sum of
   exponentials. */
INLINE Lanes logits_load(const float *logits, size_t count, size_t part)
{
    size_t have = sixteen_share(count, part);
    Lanes some = lanes_load_some(have > 0 ? logits + part * LANES : logits, have);
    for (size_t i = have; i < LANES; i++)
        some[i] = -INFINITY;
    return some;
}

static Softmax softmax_of(const float *logits, size_t vocab, const ExpTable *table)
{
    Lanes largest = lanes_all(-INFINITY);
    Sixteen sum = sixteen_zero();
    for (size_t v = 0; v < vocab; v += LANES)
        largest = lanes_larger(largest, logits_load(logits + v, vocab - v, 0));
    Softmax all = {lanes_largest(largest), 0.0f};
    for (size_t v = 0; v < vocab; v += SIXTEEN)
        for (size_t j = 0; j < SIXTEEN_PARTS; j++)
            sum.part[j] += lanes_exp(logits_load(logits + v, vocab - v, j) - all.largest, *table);
    all.sum = sixteen_sum(sum);
    return all;
}

/* token_loss, for use: exponentials in float, LANES at a time. */
double token_loss_fast(const float *logits, size_t vocab, size_t target, const ExpTable *table)
{
    Softmax all = softmax_of(logits, vocab, table);
    return log((double)all.sum) + (double)all.largest - (double)logits[target];
}

/* logits (vocab) become the gradient of token_loss, times `factor`: softmax less 1 at the
   target. */
void token_loss_backward(float *logits, size_t vocab, size_t target, float factor,
                         const ExpTable *table)
{
    Softmax all = softmax_of(logits, vocab, table);
    for (size_t v = 0; v < vocab; v += LANES) {
        size_t some = smaller(vocab - v, LANES);
        Lanes power = lanes_exp(lanes_load_some(logits + v, some) - all.largest, *table);
        lanes_store_some(logits + v, power * (factor / all.sum), some);
    }
    logits[target] -= factor;
}

/* The most likely token; the first of several. */
size_t token_greedy(const float *logits, size_t vocab)
{
    size_t best = 0;
    for (size_t v = 1; v < vocab; v++)
        if (logits[v] > logits[best])
            best = v;
    return best;
}

/* ================================= What may be drawn, and what was seen =================== */
/* The likeliest token each time soon goes round in circles. So the next token is drawn.      */

typedef struct {
    double temperature; /* the logits are divided by it; 0: the likeliest token, no draw */
    size_t top_k;       /* only the k likeliest, and what equals the last of them; 0: all */
    double top_p;       /* only the likeliest that together make up this share; 1: all */
    /* what was seen: logits above 0 are divided by it, those below 0 multiplied; 1: off */
    double repetition_penalty;
} Sampling;

/* What drawing needs besides the logits, asked for once; sampler_free when done. */
typedef struct {
    size_t vocab, n_seen;
    float *weight;       /* (vocab) of each token: 1 for the likeliest, 0 for what is cut away */
    float *close;        /* (vocab) weights from which a cut is chosen */
    uint32_t *seen;      /* (n_seen) each token that was seen, once */
    unsigned char *flag; /* (vocab) 1 where it was */
} Sampler;

/* Always the likeliest token. */
Sampling sampling_greedy(void)
{
    Sampling sampling = {0.0, 0, 1.0, 1.0};
    return sampling;
}

Sampler sampler_new(size_t vocab)
{
    Sampler sampler = {vocab, 0, NULL, NULL, NULL, NULL};
    sampler.weight = NEW(float, vocab);
    sampler.close = NEW(float, vocab);
    sampler.seen = NEW(uint32_t, vocab);
    sampler.flag = NEW(unsigned char, vocab);
    return sampler;
}

void sampler_free(Sampler *sampler)
{
    free(sampler->weight), free(sampler->close);
    free(sampler->seen), free(sampler->flag);
}

/* From here on `token` counts as seen: one of the prompt, or one that was drawn. */
void sampler_see(Sampler *sampler, size_t token)
{
    assert(token < sampler->vocab);
    if (!sampler->flag[token])
        sampler->seen[sampler->n_seen++] = (uint32_t)token;
    sampler->flag[token] = 1;
}

/* Nothing counts as seen any more. */
void sampler_forget(Sampler *sampler)
{
    for (size_t i = 0; i < sampler->n_seen; i++)
        sampler->flag[sampler->seen[i]] = 0;
    sampler->n_seen = 0;
}

/* The sum of all weights, eight sums side by side: the same on every machine. */
static double weights_total(const float *weight, size_t vocab)
{
    double sum[8] = {0.0};
    size_t v = 0;
    for (; v + 8 <= vocab; v += 8)
        for (size_t i = 0; i < 8; i++)
            sum[i] += (double)weight[v + i];
    for (; v < vocab; v++)
        sum[0] += (double)weight[v];
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

/* ============================= Which tokens stay: by sorting ============================= */
/* For keep_top_p_clear of language_model.c. */

typedef struct {
    float weight;
    size_t token;
} RankedToken;

static int ranked_by_weight(const void *a, const void *b)
{
    const RankedToken *one = (const RankedToken *)a, *two = (const RankedToken *)b;
    if (one->weight != two->weight)
        return one->weight < two->weight ? -1 : 1;
    return one->token < two->token ? -1 : 1;
}

/* All tokens, the least likely first; of equal ones the first in the vocabulary. */
RankedToken *tokens_ranked(const float *weight, size_t vocab)
{
    RankedToken *ranked = NEW(RankedToken, vocab);
    for (size_t v = 0; v < vocab; v++) {
        ranked[v].weight = weight[v];
        ranked[v].token = v;
    }
    qsort(ranked, vocab, sizeof *ranked, ranked_by_weight);
    return ranked;
}

/* ============================= Which tokens stay: without sorting ========================= */
/* The same tokens stay as if all had been sorted. */

enum { CUT_BITS = 10, CUT_BINS = 1 << CUT_BITS };

/* Weights are from 0 to 1, so their bits, read as whole numbers, are in the same order. */
static uint32_t weight_bits(float weight)
{
    uint32_t bits;
    memcpy(&bits, &weight, sizeof bits);
    return bits;
}

/* Which of CUT_BINS bins a weight falls into by the ten bits from `shift` on. */
static uint32_t weight_bin(float weight, int shift)
{
    return weight_bits(weight) >> shift & (CUT_BINS - 1);
}

/* The weight at which a walk from the largest down has `wanted` behind it: that many tokens, or,
   if `by_weight`, tokens of that much weight. `before`: what it had before the tokens of that
   weight. Weights up to `least` are certainly beyond the cut and not looked at.

   Three rounds, ten bits each: how much falls into each bin; then the same for the few weights of
   the bin in which the walk ends. */
static float weight_cut(double *before, Sampler *sampler, double wanted, float least,
                        bool by_weight)
{
    double behind = 0.0, bin[CUT_BINS];
    uint32_t cut = 0;
    float *close = sampler->close, weight;
    size_t count = 0;
    for (size_t v = 0; v < sampler->vocab; v++) { /* written always, kept if it counts: no branch */
        close[count] = sampler->weight[v];
        count += sampler->weight[v] > least;
    }
    for (int shift = 2 * CUT_BITS; shift >= 0; shift -= CUT_BITS) {
        size_t kept = 0;
        uint32_t at = CUT_BINS - 1;
        memset(bin, 0, sizeof bin);
        for (size_t i = 0; i < count; i++)
            bin[weight_bin(close[i], shift)] += by_weight ? (double)close[i] : 1.0;
        for (; at > 0 && (!(bin[at] > 0.0) || behind + bin[at] < wanted); at--)
            behind += bin[at];
        for (size_t i = 0; i < count; i++) {
            float this_one = close[i];
            close[kept] = this_one;
            kept += weight_bin(this_one, shift) == at;
        }
        count = kept;
        cut |= at << shift;
    }
    *before = behind;
    memcpy(&weight, &cut, sizeof weight);
    return weight;
}

/* Top-k: weights (vocab) below the k-th largest become 0. */
void keep_top_k(Sampler *sampler, size_t k)
{
    double before;
    float least = k < sampler->vocab ? weight_cut(&before, sampler, (double)k, 0.0f, false) : 0.0f;
    for (size_t v = 0; v < sampler->vocab; v++)
        sampler->weight[v] = sampler->weight[v] < least ? 0.0f : sampler->weight[v];
}

/* Top-p: keep_top_p_clear of language_model.c, for use. */
void keep_top_p(Sampler *sampler, double p)
{
    double before, total = weights_total(sampler->weight, sampler->vocab), wanted = p * total;
    /* all tokens up to this weight together make up less than what is cut away */
    float never = (float)(0.999 * (total - wanted) / (double)sampler->vocab);
    float least = weight_cut(&before, sampler, wanted, never, true);
    bool first = true;
    for (size_t v = sampler->vocab; v-- > 0;) {
        float weight = sampler->weight[v];
        if (weight == least) { /* of equal ones the last in the vocabulary stay */
            sampler->weight[v] = first || before < wanted ? weight : 0.0f;
            before += (double)weight;
            first = false;
        } else {
            sampler->weight[v] = weight < least ? 0.0f : weight;
        }
    }
}

/* ======================================== The draw ======================================== */

/* weight (vocab) from the logits in it: exp((logit - largest) / temperature); 0 for a NaN. */
static void weights_from_logits(float *weight, size_t vocab, float largest, double temperature)
{
    ExpTable table = exp_table();
    Lanes zeros = {0};
    float factor = (float)fmin(1.0 / temperature, (double)FLT_MAX);
    for (size_t v = 0; v < vocab; v += LANES) {
        size_t count = smaller(vocab - v, LANES);
        Lanes power = (lanes_load_some(weight + v, count) - largest) * factor;
        Lanes e = lanes_exp(power, table); /* from e^-87 down it would not be a normal number */
        lanes_store_some(weight + v, lanes_choose(power > -87.0f, e, zeros), count);
    }
}

enum { DRAW_BLOCK = 512 };

/* One of the tokens, each with the chance that its weight is of the sum of all. One random
   number. */
static size_t weights_draw(const float *weight, size_t vocab, Random *random)
{
    double dart = random_uniform(random) * weights_total(weight, vocab);
    size_t v = 0, last = 0;
    for (; v + DRAW_BLOCK < vocab; v += DRAW_BLOCK) { /* whole blocks that the dart flies over */
        double block = weights_total(weight + v, DRAW_BLOCK);
        if (dart < block)
            break;
        dart -= block;
    }
    for (; v < vocab; v++)
        if (weight[v] > 0.0f) {
            last = v;
            dart -= (double)weight[v];
            if (dart < 0.0)
                break;
        }
    return last;
}

/* Whether all logits are numbers. */
bool logits_are_numbers(const float *logits, size_t vocab)
{
    size_t bad = 0;
    for (size_t v = 0; v < vocab; v++)
        bad += !isfinite(logits[v]);
    return bad == 0;
}

/* The next token for logits (vocab). It does not count as seen before sampler_see says so. The same
   seed gives the same tokens. A logit of NaN has no chance; if all are, the token is 0. */
size_t sampler_draw(Sampler *sampler, const float *logits, const Sampling *sampling, Random *random)
{
    size_t vocab = sampler->vocab;
    float penalty = (float)sampling->repetition_penalty, *weight = sampler->weight;
    memcpy(weight, logits, vocab * sizeof *weight);
    for (size_t i = 0; i < sampler->n_seen && penalty != 1.0f; i++) {
        float *logit = weight + sampler->seen[i];
        *logit = *logit < 0.0f ? *logit * penalty : *logit / penalty;
    }
    size_t likeliest = token_greedy(weight, vocab);
    if (!(sampling->temperature > 0.0) || !isfinite(weight[likeliest]))
        return likeliest;
    weights_from_logits(weight, vocab, weight[likeliest], sampling->temperature);
    if (sampling->top_k > 0 && sampling->top_k < vocab)
        keep_top_k(sampler, sampling->top_k);
    if (sampling->top_p < 1.0)
        keep_top_p(sampler, sampling->top_p);
    return weights_draw(weight, vocab, random);
}

#endif /* CH05_SAMPLING */
