/* A layer of attention: a block's fair opponent.

   HOLDS   what one query takes from all values (attend, exercise 5.5); plain multi-head causal
           attention over a whole sequence, made of it; the same in blocks of queries and keys with
           a running softmax, for use; and a token at a time with a cache of keys and values
   FOR     measure_block.c, which compares
   SOURCES A. Vaswani et al., Attention is all you need, arXiv 1706.03762
           M. Milakov, N. Gimelshein, Online normalizer calculation for softmax, arXiv 1805.02867 */

#ifndef CH05_ATTENTION
#define CH05_ATTENTION

#include "mamba_block.c"

/* ======================================= One query ======================================== */
/* The other way to look back: keep every token's key and value, and look at all of them anew */
/* for every token. Nothing is forgotten, and nothing is ever cheap: the n-th token costs n.  */

/* What one query takes from all values, for one head (Vaswani et al., equation 1): mixed (d_head)
   is the values of tokens 0 .. len - 1 weighted by softmax(q k / sqrt(d_head)). q is (d_head), k
   and v point at the head's first channel of token 0; a token is d_model further. weight (len) is
   memory to work in.

   Exercise 5.5. What one query takes from all values. */
void attend(float *mixed, float *weight, const float *q, const float *k, const float *v, size_t len,
            size_t d_head, size_t d_model)
{
    float largest = -INFINITY, total = 0.0f, factor = 1.0f / sqrtf((float)d_head);
    /* how well each key fits the query; 1 / sqrt(d_head) keeps its size the same at any width */
    for (size_t s = 0; s < len; s++) {
        weight[s] = factor * dot(q, k + s * d_model, d_head);
        largest = fmaxf(largest, weight[s]);
    }
    zero(mixed, d_head);
    //> EX 5.5 [2 pts] [15 min] attention's weights
    //? softmax: each weight is exp(score) over the sum of all exp(score).
    //? Take the largest score from each first: nothing overflows, and the quotients are the same.
    //? Then mixed[i] is the sum of weight times v[s * d_model + i] over s.
    for (size_t s = 0; s < len; s++)
        total += weight[s] = expf(weight[s] - largest);
    for (size_t s = 0; s < len; s++)
        for (size_t i = 0; i < d_head; i++)
            mixed[i] += weight[s] / total * v[s * d_model + i];
    //< EX 5.5
}

/* ===================================== As it is defined =================================== */

/* Four projections (d_model, d_model); a head is d_model / n_head channels wide. */
typedef struct {
    size_t d_model, n_head;
    const float *q_proj, *k_proj, *v_proj, *o_proj;
} Attention;

/* Workspace of a forward pass, in floats: q, k, v and the heads' output, and a row of weights. */
size_t attention_floats(const Attention *layer, size_t len)
{
    return 4 * len * layer->d_model + len;
}

/* out (len, d_model) of one sequence, as it is defined: every token looks at itself and at all
   before it (Vaswani et al., section 3.2). */
void attention_forward(float *out, float *work, const float *input, const Attention *layer,
                       size_t len)
{
    size_t d_model = layer->d_model, d_head = d_model / layer->n_head;
    float *q = work, *k = q + len * d_model, *v = k + len * d_model, *mixed = v + len * d_model;
    linear_forward(q, input, layer->q_proj, NULL, len, d_model, d_model);
    linear_forward(k, input, layer->k_proj, NULL, len, d_model, d_model);
    linear_forward(v, input, layer->v_proj, NULL, len, d_model, d_model);
    for (size_t t = 0; t < len; t++)
        for (size_t first = 0; first < d_model; first += d_head)
            attend(mixed + t * d_model + first, mixed + len * d_model, q + t * d_model + first,
                   k + first, v + first, t + 1, d_head, d_model);
    linear_forward(out, mixed, layer->o_proj, NULL, len, d_model, d_model);
}

/* =================================== In blocks, for use =================================== */

enum { QUERIES = 192, KEYS = 256, HEAD_MOST = 256 };

/* One row of scores becomes weights exp(score - largest) with the running largest and total brought
   up to date; what was summed before is scaled to the new largest (Milakov and Gimelshein). Scores
   from `seen` on belong to later tokens and weigh nothing. Returns that scale. */
static float softmax_row(float *score, float *largest, float *total, size_t seen, float factor,
                         ExpTable table)
{
    float most = *largest;
    Lanes sum = lanes_all(0.0f);
    Lanes high = lanes_all(most);
    for (size_t s = 0; s + LANES <= seen; s += LANES)
        high = lanes_larger(high, factor * lanes_load(score + s));
    most = lanes_largest(high);
    for (size_t s = seen / LANES * LANES; s < seen; s++)
        most = fmaxf(most, factor * score[s]);
    float scale = expf(*largest - most);
    for (size_t s = 0; s < KEYS; s += LANES) {
        size_t some = s < seen ? smaller(seen - s, LANES) : 0;
        Lanes weight = lanes_exp(factor * lanes_load(score + s) - most, table);
        for (size_t i = some; i < LANES; i++)
            weight[i] = 0.0f;
        lanes_store(score + s, weight);
        sum += weight;
    }
    *total = *total * scale + lanes_sum(sum);
    *largest = most;
    return scale;
}

/* Up to QUERIES tokens from `start` on, one head: the keys and values stream by in blocks, so
   that no (len, len) matrix is ever there. */
static void attend_block(float *mixed, const float *q, const float *k, const float *v, size_t start,
                         size_t queries, size_t d_head, size_t d_model)
{
    const ExpTable table = exp_table();
    float score[QUERIES * KEYS], sum[QUERIES * HEAD_MOST], largest[QUERIES], total[QUERIES];
    zero(sum, queries * d_head);
    zero(total, queries);
    for (size_t i = 0; i < queries; i++)
        largest[i] = -FLT_MAX;
    for (size_t key = 0; key < start + queries; key += KEYS) {
        size_t keys = smaller(start + queries - key, KEYS);
        zero(score, QUERIES * KEYS);
        product_into(score, KEYS, strided(q + start * d_model, d_model, 1),
                     strided(k + key * d_model, 1, d_model), queries, keys, d_head, false);
        for (size_t i = 0; i < queries; i++) {
            size_t seen = start + i + 1 <= key ? 0 : smaller(start + i + 1 - key, keys);
            float scale = softmax_row(score + i * KEYS, &largest[i], &total[i], seen,
                                      1.0f / sqrtf((float)d_head), table);
            for (size_t j = 0; j < d_head; j++)
                sum[i * d_head + j] *= scale;
        }
        product_into(sum, d_head, strided(score, KEYS, 1), strided(v + key * d_model, d_model, 1),
                     queries, d_head, keys, true);
    }
    for (size_t i = 0; i < queries; i++)
        for (size_t j = 0; j < d_head; j++)
            mixed[(start + i) * d_model + j] = sum[i * d_head + j] / total[i];
}

/* attention_forward, for use. */
void attention_forward_fast(float *out, float *work, const float *input, const Attention *layer,
                            size_t len)
{
    size_t d_model = layer->d_model, d_head = d_model / layer->n_head;
    float *q = work, *k = q + len * d_model, *v = k + len * d_model, *mixed = v + len * d_model;
    assert(d_head <= HEAD_MOST);
    linear_forward_fast(q, input, layer->q_proj, NULL, len, d_model, d_model);
    linear_forward_fast(k, input, layer->k_proj, NULL, len, d_model, d_model);
    linear_forward_fast(v, input, layer->v_proj, NULL, len, d_model, d_model);
    PARALLEL_FOR(collapse(2) schedule(dynamic) if (worth_sharing(len * len * d_model)))
    for (size_t start = 0; start < len; start += QUERIES)
        for (size_t head = 0; head < layer->n_head; head++)
            attend_block(mixed + head * d_head, q + head * d_head, k + head * d_head,
                         v + head * d_head, start, smaller(len - start, QUERIES), d_head, d_model);
    linear_forward_fast(out, mixed, layer->o_proj, NULL, len, d_model, d_model);
}

/* ==================================== A token at a time =================================== */

/* Keys and values of every token so far: this is what grows. */
typedef struct {
    float *k, *v; /* (room, d_model) */
    size_t len;
} KeyValueCache;

/* One token with a key-value cache: out and input (d_model); work is 2 d_model + n_head (len + 1)
   floats. The cache grows by one token, and all of it is read. */
void attention_step(float *out, KeyValueCache *cache, float *work, const float *input,
                    const Attention *layer)
{
    size_t d_model = layer->d_model, d_head = d_model / layer->n_head, len = cache->len + 1;
    float *q = work, *mixed = q + d_model, *weights = mixed + d_model;
    linear_forward_fast(q, input, layer->q_proj, NULL, 1, d_model, d_model);
    linear_forward_fast(cache->k + cache->len * d_model, input, layer->k_proj, NULL, 1, d_model,
                        d_model);
    linear_forward_fast(cache->v + cache->len * d_model, input, layer->v_proj, NULL, 1, d_model,
                        d_model);
    cache->len = len;
    PARALLEL_FOR(schedule(static) if (worth_sharing(len * d_model)))
    for (size_t head = 0; head < layer->n_head; head++) {
        size_t first = head * d_head;
        attend(mixed + first, weights + head * len, q + first, cache->k + first, cache->v + first,
               len, d_head, d_model);
    }
    linear_forward_fast(out, mixed, layer->o_proj, NULL, 1, d_model, d_model);
}

#endif /* CH05_ATTENTION */
