/* Probes of chapter 5, of all its parts. They are sums of float in an order that may differ:
   tolerance 2e-4 */
#include "../ch05_mamba_block/stories_test.c"
#include "../ch05_mamba_block/attention.c"
#include "../ch05_mamba_block/tokenizer_json.c"
#include "probe.h"

enum { TOKENS = 7, WIDE = 24 };

/* ---- the block ------------------------------------------------------------------------------ */

static void norms(double there)
{
    for (int k = 0; k < 10; k++) {
        float in[TOKENS * WIDE], out_grad[TOKENS * WIDE], grad[TOKENS * WIDE], weight[WIDE];
        float weight_grad[WIDE], scale[TOKENS];
        size_t tokens = probe_whole(1, TOKENS), d_model = probe_whole(1, WIDE);
        PROBE_FILL(in, TOKENS * WIDE, -2, 2);
        PROBE_FILL(out_grad, TOKENS * WIDE, -1, 1);
        PROBE_FILL(grad, TOKENS * WIDE, -there, there);
        PROBE_FILL(weight, WIDE, 0.5, 1.5);
        PROBE_FILL(scale, TOKENS, 0.5, 2);
        rms_norm_backward(grad, weight_grad, out_grad, scale, in, weight, tokens, d_model);
        PROBE_SAY_ALL(grad, tokens * d_model);
    }
}

static void ex5_1_where_nothing_is_yet(void)
{
    norms(0);
}

static void ex5_1_any_norm(void)
{
    norms(1); /* what is there is added to */
}

static void convolutions(size_t widest, bool biased)
{
    for (int k = 0; k < 10; k++) {
        float u[6 * WIDE], out[WIDE], weight[6 * WIDE], bias[WIDE];
        const float *in[6];
        size_t d_inner = probe_whole(1, widest), d_conv = probe_whole(1, 6);
        PROBE_FILL(u, 6 * WIDE, -1, 1);
        PROBE_FILL(weight, 6 * WIDE, -1, 1);
        PROBE_FILL(bias, WIDE, -1, 1);
        for (size_t j = 0; j < d_conv; j++)
            in[j] = u + j * WIDE;
        conv1d_token(out, in, weight, biased && k % 3 ? bias : NULL, d_inner, d_conv);
        PROBE_SAY_ALL(out, d_inner);
    }
}

static void ex5_2_one_channel(void)
{
    convolutions(1, true);
}

static void ex5_2_no_bias(void)
{
    convolutions(WIDE, false);
}

static void ex5_2_any_convolution(void)
{
    convolutions(WIDE, true);
}

/* A count is a whole number: it is said in parts that no tolerance forgives. */
static void counts(bool biases_as_well)
{
    for (int k = 0; k < 20; k++) {
        MambaConfig config = config_default(probe_whole(1, 2000));
        config.intermediate_size = probe_whole(1, 4000);
        config.state_size = probe_whole(1, 256);
        config.conv_kernel = probe_whole(1, 9);
        config.time_step_rank = probe_whole(1, 100);
        if (biases_as_well) {
            config.use_bias = probe_whole(0, 1);
            config.use_conv_bias = probe_whole(0, 1);
        }
        size_t count = block_params_count(&config);
        for (; count > 0; count /= 1000)
            probe_say((double)(count % 1000));
    }
}

static void ex5_3_any_sizes(void)
{
    counts(false);
}

static void ex5_3_any_biases(void)
{
    counts(true);
}

static void selections(char of)
{
    for (int k = 0; k < 3; k++) {
        MambaConfig config = config_default(probe_whole(1, 12));
        config.intermediate_size = probe_whole(1, 20);
        config.state_size = probe_whole(1, 6);
        config.time_step_rank = probe_whole(1, 4);
        config.kind = k == 1 ? MODEL_FALCON_MAMBA : config.kind;
        config.mixer_rms_eps = 0.01;
        Random random = random_from_seed(probe_bits());
        MambaBlock block;
        BlockCache cache;
        size_t len = probe_whole(1, TOKENS), d_inner = config.intermediate_size;
        float out[TOKENS * 12];
        block.config = config;
        TensorShape shapes[BLOCK_TENSORS];
        block_shapes(shapes, &config);
        float *memory = NEW(float, block_params_place(&block.params, NULL, shapes));
        block_params_place(&block.params, memory, shapes);
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
        if (of == 'B') {
            PROBE_SAY_ALL(cache.B, len * config.state_size);
            PROBE_SAY_ALL(cache.C, len * config.state_size);
        } else if (of == 'd') {
            PROBE_SAY_ALL(cache.dt_raw, len * d_inner);
        } else {
            PROBE_SAY_ALL(out, len * config.hidden_size);
        }
    }
}

static void ex5_4_any_B_and_C(void)
{
    selections('B');
}

static void ex5_4_any_delta(void)
{
    selections('d');
}

static void ex5_4_any_selection(void)
{
    selections('y');
}

static void queries(double most)
{
    for (int k = 0; k < 10; k++) {
        float q[8], key[9 * WIDE], v[9 * WIDE], weight[9], mixed[8];
        size_t len = probe_whole(1, 9), d_head = probe_whole(1, 8);
        double far = k % 2 ? 1.0 : most;
        PROBE_FILL(q, 8, -far, far);
        PROBE_FILL(key, 9 * WIDE, -far, far);
        PROBE_FILL(v, 9 * WIDE, -1, 1);
        attend(mixed, weight, q, key, v, len, d_head, WIDE);
        PROBE_SAY_ALL(mixed, d_head);
    }
}

static void ex5_5_small_logits(void)
{
    queries(1);
}

static void ex5_5_any_query(void)
{
    queries(200); /* logits far beyond what expf can take */
}

/* ---- the language model --------------------------------------------------------------------- */

static void losses(double most)
{
    for (int k = 0; k < 30; k++) {
        float logits[40];
        size_t vocab = probe_whole(1, 40);
        double far = k % 2 ? 5.0 : most;
        PROBE_FILL(logits, 40, -far, far);
        probe_say(token_loss(logits, vocab, probe_whole(0, vocab - 1)));
    }
}

static void ex5_6_small_logits(void)
{
    losses(5);
}

static void ex5_6_any_logits(void)
{
    losses(1000);
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

static void optimise(char of)
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
        const ModelParams *params = of == 'm'   ? &adam.mean
                                    : of == 'v' ? &adam.square
                                                : &model.params;
        probe_say((double)params->memory[i]);
    }
}

static void ex5_7_any_mean(void)
{
    optimise('m');
}

static void ex5_7_any_mean_square(void)
{
    optimise('v');
}

static void ex5_7_any_step(void)
{
    optimise('p');
}

static void keep(bool from_the_start)
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
        size_t first = from_the_start ? 0 : probe_whole(0, reading.len - 1);
        size_t last = probe_whole(first, reading.len - 1);
        PROBE_FILL(state, floats, -1, 1);
        probe_say(share_kept(&reading.work, state, first, last, &model));
    }
}

static void ex5_8_from_the_start(void)
{
    keep(true);
}

static void ex5_8_any_words(void)
{
    keep(false);
}

static void cut(bool sum_to_1)
{
    for (int k = 0; k < 30; k++) {
        Sampler sampler = sampler_new(probe_whole(sum_to_1 ? 3 : 1, 40));
        double sum = 0.0;
        PROBE_FILL(sampler.weight, sampler.vocab, 0, 1);
        sampler.weight[probe_whole(0, sampler.vocab - 1)] = 1.0f;
        for (size_t i = 0; i < sampler.vocab; i++)
            sum += (double)sampler.weight[i];
        for (size_t i = 0; sum_to_1 && i < sampler.vocab; i++)
            sampler.weight[i] /= (float)sum;
        keep_top_p_clear(&sampler, k == 0 && !sum_to_1 ? 0.0 : probe_between(0.2, 0.9));
        PROBE_SAY_ALL(sampler.weight, sampler.vocab);
        sampler_free(&sampler);
    }
}

static void ex5_9_weights_that_sum_to_1(void)
{
    cut(true);
}

static void ex5_9_any_weights(void)
{
    cut(false); /* one of them, with p = 0 */
}

static void merge(size_t least, size_t most)
{
    static const char letters[] = "aeeeeinnngssstttthhho";
    Tokenizer tokenizer;
    Error error;
    if (!tokenizer_read(&tokenizer, "tests/golden/tokenizer/tokenizer.json", &error))
        exit(1);
    for (int k = 0; k < 40; k++) {
        uint32_t ids[60];
        size_t count = probe_whole(least, most);
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

static void ex5_10_two_letters(void)
{
    merge(2, 2);
}

static void ex5_10_three_letters(void)
{
    merge(3, 3);
}

static void ex5_10_any_letters(void)
{
    merge(1, 60);
}

/* ---- Mamba-2 and Mamba-3 -------------------------------------------------------------------- */

static void masks(bool future)
{
    for (int k = 0; k < 10; k++) {
        float a[9], L[81];
        size_t len = probe_whole(1, 9);
        PROBE_FILL(a, 9, 0, 1.2);
        a[probe_whole(0, len - 1)] = 0.0f;
        decay_mask(L, a, len);
        for (size_t i = 0; i < len; i++)
            PROBE_SAY_ALL(L + i * len, future ? len : i + 1);
    }
}

static void ex5_11_any_past(void)
{
    masks(false);
}

static void ex5_11_any_mask(void)
{
    masks(true);
}

static void chunks(double before)
{
    for (int k = 0; k < 10; k++) {
        float a[9], v[9 * 4], B[9 * WIDE], L[81], x[4 * 5];
        Head head = {probe_whole(1, 9), probe_whole(1, 4), probe_whole(1, 5), a, v, B, B, WIDE};
        PROBE_FILL(a, 9, 0.2, 1);
        PROBE_FILL(v, 9 * 4, -1, 1);
        PROBE_FILL(B, 9 * WIDE, -1, 1);
        PROBE_FILL(x, 4 * 5, -before, before);
        decay_mask(L, a, head.len);
        state_over_chunk(x, L, &head);
        PROBE_SAY_ALL(x, head.d_head * head.d_state);
    }
}

static void ex5_12_the_first_chunk(void)
{
    chunks(0);
}

static void ex5_12_any_chunk(void)
{
    chunks(1);
}

static void ledgers(double read)
{
    for (int k = 0; k < 10; k++) {
        float passed[100], l_grad[9];
        size_t len = probe_whole(2, 9);
        PROBE_FILL(passed, 100, -1, 1);
        for (size_t i = 0; i < len * (len + 1); i++)
            passed[i] *= (float)read; /* but for the last row */
        decays_backward(l_grad, passed, len);
        PROBE_SAY_ALL(l_grad, len);
    }
}

static void ex5_13_what_is_handed_on(void)
{
    ledgers(0);
}

static void ex5_13_any_ledger(void)
{
    ledgers(1);
}

static void norms_of_groups(size_t most)
{
    for (int k = 0; k < 10; k++) {
        float in[TOKENS * WIDE], out[TOKENS * WIDE], scale[TOKENS * 4], weight[WIDE];
        size_t tokens = probe_whole(1, TOKENS), groups = probe_whole(1, most);
        PROBE_FILL(in, TOKENS * WIDE, -2, 2);
        PROBE_FILL(weight, WIDE, 0.5, 1.5);
        gated_norm_forward(out, scale, in, weight, probe_between(1e-6, 0.1), tokens, 6 * groups,
                           groups);
        PROBE_SAY_ALL(out, tokens * 6 * groups);
        PROBE_SAY_ALL(scale, tokens * groups);
    }
}

static void ex5_14_one_group(void)
{
    norms_of_groups(1);
}

static void ex5_14_any_groups(void)
{
    norms_of_groups(4);
}

/* What becomes of the first of each pair, or of the second. */
static void turns(size_t which)
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
        turn_pairs(in, in, turn, 1.0f, 12); /* in place */
        for (size_t i = which; i < 12; i += 2) {
            probe_say((double)out[i]);
            probe_say((double)in[i]);
        }
    }
}

static void ex5_15_any_first(void)
{
    turns(0);
}

static void ex5_15_any_second(void)
{
    turns(1);
}

static void trapezoids(bool beginning)
{
    for (int k = 0; k < 30; k++) {
        float alpha, beta, gamma;
        trapezoid_weights(&alpha, &beta, &gamma, (float)probe_between(0.01, 2),
                          (float)probe_between(-3, 0), (float)probe_between(0, 1));
        probe_say((double)alpha);
        probe_say((double)(beginning ? beta : gamma));
    }
}

static void ex5_16_any_end(void)
{
    trapezoids(false);
}

static void ex5_16_any_beginning(void)
{
    trapezoids(true);
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

PROBES = {PROBE(ex5_1_where_nothing_is_yet),
          PROBE(ex5_1_any_norm),
          PROBE(ex5_2_one_channel),
          PROBE(ex5_2_no_bias),
          PROBE(ex5_2_any_convolution),
          PROBE(ex5_3_any_sizes),
          PROBE(ex5_3_any_biases),
          PROBE(ex5_4_any_B_and_C),
          PROBE(ex5_4_any_delta),
          PROBE(ex5_4_any_selection),
          PROBE(ex5_5_small_logits),
          PROBE(ex5_5_any_query),
          PROBE(ex5_6_small_logits),
          PROBE(ex5_6_any_logits),
          PROBE(ex5_7_any_mean),
          PROBE(ex5_7_any_mean_square),
          PROBE(ex5_7_any_step),
          PROBE(ex5_8_from_the_start),
          PROBE(ex5_8_any_words),
          PROBE(ex5_9_weights_that_sum_to_1),
          PROBE(ex5_9_any_weights),
          PROBE(ex5_10_two_letters),
          PROBE(ex5_10_three_letters),
          PROBE(ex5_10_any_letters),
          PROBE(ex5_11_any_past),
          PROBE(ex5_11_any_mask),
          PROBE(ex5_12_the_first_chunk),
          PROBE(ex5_12_any_chunk),
          PROBE(ex5_13_what_is_handed_on),
          PROBE(ex5_13_any_ledger),
          PROBE(ex5_14_one_group),
          PROBE(ex5_14_any_groups),
          PROBE(ex5_15_any_first),
          PROBE(ex5_15_any_second),
          PROBE(ex5_16_any_end),
          PROBE(ex5_16_any_beginning),
          PROBE(ex5_17_any_pair)};
PROBES_MAIN
