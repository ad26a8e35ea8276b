/* Drawing tokens: each setting by hand, the cuts without sorting against those with, chances
   counted. */

#include "../ch05_mamba_block/language_model.c"
#include "check.h"

static Sampling sampling(double temperature, size_t top_k, double top_p, double penalty)
{
    Sampling all = {temperature, top_k, top_p, penalty};
    return all;
}

/* How often each of `vocab` tokens comes in `draws` draws. */
static void count_draws(size_t *count, const float *logits, size_t vocab, Sampling settings,
                        size_t draws)
{
    Sampler sampler = sampler_new(vocab);
    Random random = random_from_seed(5);
    memset(count, 0, vocab * sizeof *count);
    for (size_t i = 0; i < draws; i++) {
        size_t token = sampler_draw(&sampler, logits, &settings, &random);
        assert_true(token < vocab);
        count[token]++;
    }
    sampler_free(&sampler);
}

static void temperature_0_takes_the_likeliest(void **state)
{
    const float logits[] = {0.5f, 2.0f, -1.0f, 2.0f};
    size_t count[4];
    (void)state;
    count_draws(count, logits, 4, sampling_greedy(), 10);
    assert_int_equal(count[1], 10);
    count_draws(count, logits, 4, sampling(1e-300, 0, 1.0, 1.0), 1000); /* no division by 0 in it */
    assert_int_equal(count[1] + count[3], 1000);
    assert_true(count[1] > 0 && count[3] > 0);
}

/* Shares within 4.5 standard deviations of softmax(logits / temperature). */
static void draws_come_as_softmax_says(void **state)
{
    enum { DRAWS = 40000 };
    const double temperatures[] = {0.5, 1.0, 2.0};
    float logits[7] = {0.0f, 1.0f, -1.0f, 2.0f, 0.5f, -INFINITY, -3.0f};
    (void)state;
    for (size_t k = 0; k < 3; k++) {
        size_t count[7];
        double total = 0.0;
        count_draws(count, logits, 7, sampling(temperatures[k], 0, 1.0, 1.0), DRAWS);
        for (size_t v = 0; v < 7; v++)
            total += exp((double)logits[v] / temperatures[k]);
        for (size_t v = 0; v < 7; v++) {
            double share = exp((double)logits[v] / temperatures[k]) / total;
            assert_near((double)count[v] / DRAWS, share, 4.5 * sqrt(share * (1 - share) / DRAWS),
                        0);
        }
        assert_int_equal(count[5], 0);
    }
}

/* The same over several blocks of the draw, with a token that has nothing in between. */
static void draws_reach_every_block(void **state)
{
    enum { VOCAB = 2 * DRAW_BLOCK + 77, DRAWS = 60000 };
    float *logits = NEW(float, VOCAB);
    size_t *count = NEW(size_t, VOCAB);
    size_t third[3] = {0};
    (void)state;
    for (size_t v = 0; v < VOCAB; v++)
        logits[v] = v % 2 ? -INFINITY : 0.0f;
    count_draws(count, logits, VOCAB, sampling(1.0, 0, 1.0, 1.0), DRAWS);
    for (size_t v = 0; v < VOCAB; v++) {
        assert_int_equal(v % 2 ? count[v] : 0, 0);
        assert_true(v % 2 || count[v] > 20);
        third[v / DRAW_BLOCK] += count[v];
    }
    for (size_t i = 0; i < 3; i++)
        assert_near((double)third[i] / DRAWS, i < 2 ? 256.0 / 551 : 39.0 / 551, 0.01, 0);
    free(logits), free(count);
}

static void top_k_keeps_the_k_likeliest_and_their_equals(void **state)
{
    const float logits[] = {0.1f, 0.4f, 0.3f, 0.2f, 0.3f};
    size_t count[5];
    (void)state;
    count_draws(count, logits, 5, sampling(1.0, 1, 1.0, 1.0), 500);
    assert_int_equal(count[1], 500);
    count_draws(count, logits, 5, sampling(1.0, 2, 1.0, 1.0), 500);
    assert_true(count[1] > 0 && count[2] > 0 && count[4] > 0);
    assert_int_equal(count[0] + count[3], 0);
    count_draws(count, logits, 5, sampling(1.0, 99, 1.0, 1.0), 1000);
    for (size_t v = 0; v < 5; v++)
        assert_true(count[v] > 100);
}

/* The example of exercise 5.9, and its edges. */
static void ex5_9_top_p_keeps_the_fewest_that_make_up_p(void **state)
{
    const float share[] = {0.15f, 0.5f, 0.05f, 0.3f};
    const struct {
        double p;
        bool stays[4];
    } cases[] = {{0.75, {0, 1, 0, 1}}, {0.45, {0, 1, 0, 0}},  {0.85, {1, 1, 0, 1}},
                 {0.99, {1, 1, 1, 1}}, {1e-12, {0, 1, 0, 0}}, {0.0, {0, 1, 0, 0}}};
    Sampler sampler = sampler_new(4);
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int fast = 0; fast < 2; fast++) {
            memcpy(sampler.weight, share, sizeof share);
            (fast ? keep_top_p : keep_top_p_clear)(&sampler, cases[i].p);
            for (size_t v = 0; v < 4; v++)
                assert_that(sampler.weight[v] == (cases[i].stays[v] ? share[v] : 0.0f),
                            "shares 0.15 0.5 0.05 0.3, p = %g: the token of share %g must %s",
                            cases[i].p, (double)share[v], cases[i].stays[v] ? "stay" : "go");
        }
    sampler_free(&sampler);
}

/* Of equal ones the last in the vocabulary stay: Hugging Face sorts upwards, keeping the order. */
static void ex5_9_top_p_cuts_among_equals(void **state)
{
    Sampler sampler = sampler_new(8);
    (void)state;
    for (int fast = 0; fast < 2; fast++) {
        for (size_t v = 0; v < 8; v++)
            sampler.weight[v] = 1.0f;
        (fast ? keep_top_p : keep_top_p_clear)(&sampler, 0.5);
        for (size_t v = 0; v < 8; v++)
            assert_that(sampler.weight[v] == (v < 4 ? 0.0f : 1.0f),
                        "eight equal tokens, p = 0.5: token %zu must %s", v, v < 4 ? "go" : "stay");
    }
    sampler_free(&sampler);
}

/* Weights below the k-th largest become 0. */
static void keep_top_k_sorted(Sampler *sampler, size_t k)
{
    RankedToken *ranked = tokens_ranked(sampler->weight, sampler->vocab);
    float least = k < sampler->vocab ? ranked[sampler->vocab - k].weight : 0.0f;
    for (size_t v = 0; v < sampler->vocab; v++)
        if (sampler->weight[v] < least)
            sampler->weight[v] = 0.0f;
    free(ranked);
}

static void compare_cuts(Sampler *clear, Sampler *fast, size_t vocab, size_t k, double p)
{
    memcpy(fast->weight, clear->weight, vocab * sizeof(float));
    if (k > 0) {
        keep_top_k_sorted(clear, k);
        keep_top_k(fast, k);
        assert_memory_equal(clear->weight, fast->weight, vocab * sizeof(float));
    }
    keep_top_p_clear(clear, p);
    keep_top_p(fast, p);
    assert_memory_equal(clear->weight, fast->weight, vocab * sizeof(float));
}

/* Logits of every spread, from all nearly alike to one that has it all; rounded ones, so that many
   are equal; sizes that divide nothing. */
static void ex5_9_cuts_without_sorting_are_those_with(void **state)
{
    const size_t vocabs[] = {1, 2, 31, 257, 5000};
    const double spreads[] = {0.0, 1e-6, 0.3, 1.0, 5.0, 40.0};
    Random random = random_from_seed(9);
    (void)state;
    for (size_t i = 0; i < 5; i++)
        for (size_t j = 0; j < 6; j++)
            for (int round = 0; round < 20; round++) {
                size_t vocab = vocabs[i], k = random_u32(&random) % (vocab + 2);
                Sampler clear = sampler_new(vocab), fast = sampler_new(vocab);
                for (size_t v = 0; v < vocab; v++) {
                    double logit = spreads[j] * random_normal(&random);
                    clear.weight[v] = (float)(round % 2 ? floor(4.0 * logit) / 4.0 : logit);
                }
                float largest = clear.weight[token_greedy(clear.weight, vocab)];
                weights_from_logits(clear.weight, vocab, largest, 1.0);
                compare_cuts(&clear, &fast, vocab, k, random_uniform(&random));
                sampler_free(&clear);
                sampler_free(&fast);
            }
}

/* Above 0 divided, below 0 multiplied, once for each token however often it was seen. */
static void a_penalty_falls_on_what_was_seen(void **state)
{
    const float logits[] = {2.0f, 1.5f, -1.0f, -1.5f};
    Sampling penalty = sampling(0.0, 0, 1.0, 2.0);
    Sampler sampler = sampler_new(4);
    Random random = random_from_seed(1);
    (void)state;
    assert_int_equal(sampler_draw(&sampler, logits, &penalty, &random), 0);
    sampler_see(&sampler, 0);
    sampler_see(&sampler, 0);
    assert_int_equal(sampler_draw(&sampler, logits, &penalty, &random), 1); /* 1, 1.5 */
    sampler_see(&sampler, 1);
    assert_int_equal(sampler_draw(&sampler, logits, &penalty, &random), 0); /* 1, 0.75 */
    sampler_forget(&sampler);
    assert_int_equal(sampler_draw(&sampler, logits, &penalty, &random), 0);
    const float low[] = {-1.0f, -1.5f};
    Sampler two = sampler_new(2);
    sampler_see(&two, 0);
    assert_int_equal(sampler_draw(&two, low, &penalty, &random), 1); /* -2, -1.5 */
    sampler_free(&sampler);
    sampler_free(&two);
}

static void the_same_seed_draws_the_same_tokens(void **state)
{
    enum { VOCAB = 3001, DRAWS = 200 };
    Sampler sampler = sampler_new(VOCAB);
    Sampling settings = sampling(0.9, 50, 0.9, 1.1);
    float *logits = NEW(float, VOCAB);
    size_t token[2][DRAWS];
    bool differ = false;
    (void)state;
    for (int run = 0; run < 2; run++) {
        Random source = random_from_seed(3), random = random_from_seed(4);
        sampler_forget(&sampler);
        for (size_t i = 0; i < DRAWS; i++) {
            for (size_t v = 0; v < VOCAB; v++)
                logits[v] = (float)random_normal(&source);
            token[run][i] = sampler_draw(&sampler, logits, &settings, &random);
            sampler_see(&sampler, token[run][i]);
            differ = differ || token[run][i] != token[run][0];
        }
    }
    assert_memory_equal(token[0], token[1], sizeof token[0]);
    assert_true(differ);
    free(logits);
    sampler_free(&sampler);
}

static void logits_that_are_no_numbers_end_no_program(void **state)
{
    const float some[] = {1.0f, NAN, 0.5f}, none[] = {NAN, NAN, NAN};
    const float masked[] = {-INFINITY, -INFINITY, -INFINITY}, sure[] = {0.0f, INFINITY, 1.0f};
    size_t count[3];
    (void)state;
    count_draws(count, some, 3, sampling(1.0, 2, 0.9, 1.0), 300);
    assert_int_equal(count[1], 0);
    assert_true(count[0] > 0 && count[2] > 0);
    count_draws(count, none, 3, sampling(1.0, 2, 0.9, 1.0), 10);
    assert_int_equal(count[0], 10);
    count_draws(count, masked, 3, sampling(1.0, 2, 0.9, 1.0), 10);
    assert_int_equal(count[0], 10);
    count_draws(count, sure, 3, sampling(1.0, 2, 0.9, 1.0), 10);
    assert_int_equal(count[1], 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(temperature_0_takes_the_likeliest),
        cmocka_unit_test(draws_come_as_softmax_says),
        cmocka_unit_test(draws_reach_every_block),
        cmocka_unit_test(top_k_keeps_the_k_likeliest_and_their_equals),
        cmocka_unit_test(ex5_9_top_p_keeps_the_fewest_that_make_up_p),
        cmocka_unit_test(ex5_9_top_p_cuts_among_equals),
        cmocka_unit_test(ex5_9_cuts_without_sorting_are_those_with),
        cmocka_unit_test(a_penalty_falls_on_what_was_seen),
        cmocka_unit_test(the_same_seed_draws_the_same_tokens),
        cmocka_unit_test(logits_that_are_no_numbers_end_no_program),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
