/* Probes of chapter 5, of all its parts. They are sums of float in an order that may differ:
   tolerance 2e-4 */
#include "../ch05_mamba_block/stories_test.c"
#include "../ch05_mamba_block/attention.c"
#include "../ch05_mamba_block/tokenizer_json.c"
#include "probe.h"

enum { TOKENS = 7, WIDE = 24 };

/* ---- the block ------------------------------------------------------------------------------ */

static void ex5_1_any_norm(void)
{
    for (int k = 0; k < 10; k++) {
        float in[TOKENS * WIDE], out_grad[TOKENS * WIDE], grad[TOKENS * WIDE], weight[WIDE];
        float weight_grad[WIDE], scale[TOKENS];
        size_t tokens = probe_whole(1, TOKENS), d_model = probe_whole(1, WIDE);
        PROBE_FILL(in, TOKENS * WIDE, -2, 2);
        PROBE_FILL(out_grad, TOKENS * WIDE, -1, 1);
        PROBE_FILL(grad, TOKENS * WIDE, -1, 1); /* what is there is added to */
        PROBE_FILL(weight, WIDE, 0.5, 1.5);
        PROBE_FILL(scale, TOKENS, 0.5, 2);
        rms_norm_backward(grad, weight_grad, out_grad, scale, in, weight, tokens, d_model);
        PROBE_SAY_ALL(grad, tokens * d_model);
    }
}

static void ex5_2_any_convolution(void)
{
    for (int k = 0; k < 10; k++) {
        float u[6 * WIDE], out[WIDE], weight[6 * WIDE], bias[WIDE];
        const float *in[6];
        size_t d_inner = probe_whole(1, WIDE), d_conv = probe_whole(1, 6);
        PROBE_FILL(u, 6 * WIDE, -1, 1);
        PROBE_FILL(weight, 6 * WIDE, -1, 1);
        PROBE_FILL(bias, WIDE, -1, 1);
        for (size_t j = 0; j < d_conv; j++)
            in[j] = u + j * WIDE;
        conv1d_token(out, in, weight, k % 3 ? bias : NULL, d_inner, d_conv);
        PROBE_SAY_ALL(out, d_inner);
    }
}

/* A count is a whole number: it is said in parts that no tolerance forgives. */
static void ex5_3_any_sizes(void)
{
    for (int k = 0; k < 20; k++) {
        MambaConfig config = config_default(probe_whole(1, 2000));
        config.intermediate_size = probe_whole(1, 4000);
        config.state_size = probe_whole(1, 256);
        config.conv_kernel = probe_whole(1, 9);
        config.time_step_rank = probe_whole(1, 100);
        config.use_bias = probe_whole(0, 1);
        config.use_conv_bias = probe_whole(0, 1);
        size_t count = block_params_count(&config);
        for (; count > 0; count /= 1000)
            probe_say((double)(count % 1000));
    }
}

static void ex5_4_any_selection(void)
{
    for (int k = 0; k < 3; k++) {
        MambaConfig config = config_default(probe_whole(1, 12));
        config.intermediate_size = probe_whole(1, 20);
        config.state_size = probe_whole(1, 6);
        config.time_step_rank = probe_whole(1, 4);
        Random random = random_from_seed(probe_bits());
        MambaBlock block;
        BlockCache cache;
        size_t len = probe_whole(1, TOKENS), d_inner = config.intermediate_size;
        float out[TOKENS * 12];
        block.config = config;
        block.params = block_params_place(NEW(float, block_params_floats(&config)), &config);
        block.A = NEW(float, d_inner *config.state_size);
        block_init(&block.params, &config, &random);
        block_refresh(&block);
        size_t floats = block_cache_place(&cache, NULL, &block, 1, len, true);
        block_cache_place(&cache, NEW(float, floats), &block, 1, len, true);
        PROBE_FILL(block.params.tensor[X_PROJ_WEIGHT],
                   (config.time_step_rank + 2 * config.state_size) * d_inner, -1, 1);
        PROBE_FILL(block.params.tensor[DT_PROJ_BIAS], d_inner, -1, 1);
        PROBE_FILL(cache.normed, len * config.hidden_size, -3, 3);
        mixer_forward(out, &cache, NULL, &block);
        PROBE_SAY_ALL(cache.B, len * config.state_size);
        PROBE_SAY_ALL(cache.C, len * config.state_size);
        PROBE_SAY_ALL(cache.dt_raw, len * d_inner);
        PROBE_SAY_ALL(out, len * config.hidden_size);
    }
}

static void ex5_5_any_query(void)
{
    for (int k = 0; k < 10; k++) {
        float q[8], key[9 * WIDE], v[9 * WIDE], weight[9], mixed[8];
        size_t len = probe_whole(1, 9), d_head = probe_whole(1, 8);
        double most = k % 2 ? 1.0 : 200.0; /* logits far beyond what expf can take */
        PROBE_FILL(q, 8, -most, most);
        PROBE_FILL(key, 9 * WIDE, -most, most);
        PROBE_FILL(v, 9 * WIDE, -1, 1);
        attend(mixed, weight, q, key, v, len, d_head, WIDE);
        PROBE_SAY_ALL(mixed, d_head);
    }
}

/* ---- the language model --------------------------------------------------------------------- */

static void ex5_6_any_logits(void)
{
    for (int k = 0; k < 30; k++) {
        float logits[40];
        size_t vocab = probe_whole(1, 40);
        double most = k % 2 ? 5.0 : 1000.0;
        PROBE_FILL(logits, 40, -most, most);
        probe_say(token_loss(logits, vocab, probe_whole(0, vocab - 1)));
    }
}

static Model model_at_random(void)
{
    MambaConfig config = config_default(12);
    config.num_hidden_layers = 2;
    config.vocab_size = 30;
    Random random = random_from_seed(probe_bits());
    Model model = model_new(&config);
    model_init(&model, &random);
    return model;
}

static void ex5_7_any_step(void)
{
    Model model = model_at_random();
    AdamState adam = {model_params_new(&model.config), model_params_new(&model.config), 0};
    ModelParams grad = model_params_new(&model.config);
    AdamW settings = {probe_between(0.001, 0.1), probe_between(0.5, 0.95), probe_between(0.6, 0.99),
                      1e-3, probe_between(0.05, 0.5)};
    size_t floats = model_floats(&model.config);
    for (int step = 0; step < 3; step++) {
        PROBE_FILL(grad.memory, floats, -1, 1);
        adamw_step(&model, &adam, &grad, &settings);
    }
    for (size_t i = 0; i < floats; i += 7) {
        probe_say((double)model.params.memory[i]);
        probe_say((double)adam.mean.memory[i]);
        probe_say((double)adam.square.memory[i]);
    }
}

static void ex5_8_any_words(void)
{
    static const char *const text[] = {"a boy dreamt of troy. the miller sold apples at the inn.",
                                       "the king saw a rainbow. a boy sold the gold to the miller.",
                                       "at the inn the miller dreamt of a pot of gold."};
    Model model;
    Vocabulary words;
    StoryReading reading;
    Error error;
    if (!model_open_folder(&model, &words, "data/tiny-mamba", &error) ||
        !reading_new(&reading, text[probe_whole(0, 2)], &words, &model, &error))
        exit(1);
    size_t floats = model.config.num_hidden_layers * block_state_floats(&model.config, 1);
    float *state = NEW(float, floats);
    for (int k = 0; k < 20; k++) {
        size_t first = probe_whole(0, reading.len - 1), last = probe_whole(first, reading.len - 1);
        PROBE_FILL(state, floats, -1, 1);
        probe_say(share_kept(&reading.work, state, first, last, &model));
    }
}

static void ex5_9_any_weights(void)
{
    for (int k = 0; k < 30; k++) {
        Sampler sampler = sampler_new(probe_whole(1, 40));
        PROBE_FILL(sampler.weight, sampler.vocab, 0, 1);
        sampler.weight[probe_whole(0, sampler.vocab - 1)] = 1.0f;
        keep_top_p_clear(&sampler, k == 0 ? 0.0 : probe_between(0, 1));
        PROBE_SAY_ALL(sampler.weight, sampler.vocab);
        sampler_free(&sampler);
    }
}

static void ex5_10_any_letters(void)
{
    static const char letters[] = "aeeeeinnngssstttthhho";
    Tokenizer tokenizer;
    Error error;
    if (!tokenizer_read(&tokenizer, "tests/golden/tokenizer/tokenizer.json", &error))
        exit(1);
    for (int k = 0; k < 40; k++) {
        uint32_t ids[60];
        size_t count = probe_whole(1, 60);
        for (size_t i = 0; i < count; i++)
            ids[i] = tokenizer.of_byte[(unsigned char)letters[probe_whole(0, 20)]];
        count = bpe_merge_clear(ids, count, &tokenizer);
        probe_say((double)count);
        for (size_t i = 0; i < count; i++) { /* in parts that no tolerance forgives */
            probe_say((double)(ids[i] / 1000));
            probe_say((double)(ids[i] % 1000));
        }
    }
}

/* ---- Mamba-2 and Mamba-3 -------------------------------------------------------------------- */

static void ex5_11_any_mask(void)
{
    for (int k = 0; k < 10; k++) {
        float a[9], L[81];
        size_t len = probe_whole(1, 9);
        PROBE_FILL(a, 9, 0, 1.2);
        a[probe_whole(0, len - 1)] = 0.0f;
        decay_mask(L, a, len);
        PROBE_SAY_ALL(L, len * len);
    }
}

static void ex5_12_any_chunk(void)
{
    for (int k = 0; k < 10; k++) {
        float a[9], v[9 * 4], B[9 * WIDE], L[81], x[4 * 5];
        Head head = {probe_whole(1, 9), probe_whole(1, 4), probe_whole(1, 5), a, v, B, B, WIDE};
        PROBE_FILL(a, 9, 0.2, 1);
        PROBE_FILL(v, 9 * 4, -1, 1);
        PROBE_FILL(B, 9 * WIDE, -1, 1);
        PROBE_FILL(x, 4 * 5, -1, 1);
        decay_mask(L, a, head.len);
        state_over_chunk(x, L, &head);
        PROBE_SAY_ALL(x, head.d_head * head.d_state);
    }
}

static void ex5_13_any_ledger(void)
{
    for (int k = 0; k < 10; k++) {
        float passed[100], l_grad[9];
        size_t len = probe_whole(1, 9);
        PROBE_FILL(passed, 100, -1, 1);
        decays_backward(l_grad, passed, len);
        PROBE_SAY_ALL(l_grad, len);
    }
}

static void ex5_14_any_groups(void)
{
    for (int k = 0; k < 10; k++) {
        float in[TOKENS * WIDE], out[TOKENS * WIDE], scale[TOKENS * 4], weight[WIDE];
        size_t tokens = probe_whole(1, TOKENS), groups = probe_whole(1, 4);
        PROBE_FILL(in, TOKENS * WIDE, -2, 2);
        PROBE_FILL(weight, WIDE, 0.5, 1.5);
        gated_norm_forward(out, scale, in, weight, probe_between(1e-6, 0.1), tokens, 6 * groups,
                           groups);
        PROBE_SAY_ALL(out, tokens * 6 * groups);
        PROBE_SAY_ALL(scale, tokens * groups);
    }
}

static void ex5_15_any_turn(void)
{
    for (int k = 0; k < 10; k++) {
        float angle[5], cosine[5], sine[5], in[12], out[12];
        Turn turn = {cosine, sine, probe_whole(0, 5)};
        PROBE_FILL(angle, 5, -4, 4);
        PROBE_FILL(in, 12, -2, 2);
        for (size_t i = 0; i < 5; i++) {
            cosine[i] = cosf(angle[i]);
            sine[i] = sinf(angle[i]);
        }
        turn_pairs(out, in, turn, k % 2 ? 1.0f : -1.0f, 12);
        PROBE_SAY_ALL(out, 12);
        turn_pairs(in, in, turn, 1.0f, 12); /* in place */
        PROBE_SAY_ALL(in, 12);
    }
}

static void ex5_16_any_weights(void)
{
    for (int k = 0; k < 30; k++) {
        float alpha, beta, gamma;
        trapezoid_weights(&alpha, &beta, &gamma, (float)probe_between(0.01, 2),
                          (float)probe_between(-3, 0), (float)probe_between(0, 1));
        probe_say((double)alpha);
        probe_say((double)beta);
        probe_say((double)gamma);
    }
}

static void ex5_17_any_pair(void)
{
    for (int k = 0; k < 30; k++) {
        float pair[2], grad[2];
        PROBE_FILL(pair, 2, -3, 3);
        PROBE_FILL(grad, 2, -3, 3);
        probe_say((double)turn_slope(pair, grad));
    }
}

PROBES = {PROBE(ex5_1_any_norm),      PROBE(ex5_2_any_convolution), PROBE(ex5_3_any_sizes),
          PROBE(ex5_4_any_selection), PROBE(ex5_5_any_query),       PROBE(ex5_6_any_logits),
          PROBE(ex5_7_any_step),      PROBE(ex5_8_any_words),       PROBE(ex5_9_any_weights),
          PROBE(ex5_10_any_letters),  PROBE(ex5_11_any_mask),       PROBE(ex5_12_any_chunk),
          PROBE(ex5_13_any_ledger),   PROBE(ex5_14_any_groups),     PROBE(ex5_15_any_turn),
          PROBE(ex5_16_any_weights),  PROBE(ex5_17_any_pair)};
PROBES_MAIN
