/* The thread through the course: the two-day weather forecast, computed anew in every chapter. */

#include "../ch05_mamba_block/mamba_block.c"
#include "../ch05_mamba_block/mamba2_block.c"
#include "../ch06_cuda_scan/cuda_scan.cu"
#include "check.h"

enum { DAYS = 3 };

typedef void HeadForecast(float *y, float *x_last, const HeadScan *scan);

/* (0.5, 0.5) -> (0.60, 0.40) -> (0.64, 0.36), worked by hand in the lesson of chapter 1. */
static const double by_hand[DAYS * 2] = {0.5, 0.5, 0.6, 0.4, 0.64, 0.36};
static const double start[2] = {0.5, 0.5};

/* The chain from its file, not from the program: a compiler that knows the numbers may work out one
   chapter's sums beforehand, with other rounding than the processor has (clang does). */
static Chain weather(void)
{
    Chain chain = {0, NULL, NULL};
    Error error;
    assert_true(chain_read(&chain, "data/weather.csv", &error));
    return chain;
}

static void chapter_1_forecasts_it_as_a_chain(void **state)
{
    (void)state;
    Chain chain = weather();
    double pi[DAYS * 2];
    chain_forecast(pi, start, &chain, DAYS - 1);
    assert_all_near(pi, by_hand, DAYS * 2, 1e-15, 0);
    chain_free(&chain);
}

static void chapter_2_forecasts_it_by_its_four_matrices(void **state)
{
    (void)state;
    Chain chain = weather();
    Ssm system = ssm_from_chain(&chain, start);
    double pi[DAYS * 2], y[DAYS * 2], u[DAYS] = {0};
    chain_forecast(pi, start, &chain, DAYS - 1);
    ssm_run(y, system.x0, u, &system, DAYS, READ_BEFORE);
    assert_all_near(y, by_hand, DAYS * 2, 1e-15, 0);
    assert_memory_equal(y, pi, sizeof y);
    ssm_free(&system);
    chain_free(&chain);
}

static void chapter_2_forecasts_it_as_a_convolution(void **state)
{
    (void)state; /* the start comes in as an impulse through B: x_0 = start, y_t = K_t */
    Chain chain = weather();
    double origin[2] = {0, 0}, K[DAYS * 2], y[DAYS * 2], u[DAYS] = {1};
    Ssm system = ssm_from_chain(&chain, origin);
    memcpy(system.B, start, sizeof start);
    ssm_kernel(K, &system, DAYS, READ_AFTER);
    ssm_convolve(y, K, u, &system, DAYS);
    assert_all_near(y, by_hand, DAYS * 2, 1e-15, 0);
    ssm_convolve_fft(y, K, u, &system, DAYS);
    assert_all_near(y, by_hand, DAYS * 2, 1e-15, 0);
    ssm_free(&system);
    chain_free(&chain);
}

static void chapter_2_forecasts_it_in_the_eigenbasis(void **state)
{
    (void)state;
    Chain chain = weather();
    Ssm system = ssm_from_chain(&chain, start), diagonal;
    double lambda[2], T[4], y[DAYS * 2], u[DAYS] = {0};
    Error error;
    assert_true(eigen_2x2(lambda, T, system.A));
    assert_true(ssm_change_basis(&diagonal, &system, T, &error));
    ssm_run(y, diagonal.x0, u, &diagonal, DAYS, READ_BEFORE);
    assert_all_near(y, by_hand, DAYS * 2, 1e-15, 0);
    ssm_free(&system);
    ssm_free(&diagonal);
    chain_free(&chain);
}

static void chapter_3_forecasts_it_from_its_generator(void **state)
{
    (void)state; /* the day as one step of x' = Q^T x, and as two steps of half a day */
    Chain chain = weather();
    Ssm system = ssm_from_chain(&chain, start), day, half;
    double Q[4], y[DAYS * 2], fine[(2 * DAYS - 1) * 2], u[2 * DAYS] = {0};
    Error error;
    assert_true(chain_generator(Q, &chain, &error));
    matrix_transpose(system.A, Q, 2, 2);
    assert_true(discretize(&day, &system, 1.0, RULE_ZOH, &error));
    assert_true(discretize(&half, &system, 0.5, RULE_ZOH, &error));
    run_from_start(y, u, &day, DAYS, READ_BEFORE);
    run_from_start(fine, u, &half, 2 * DAYS - 1, READ_BEFORE);
    assert_all_near(y, by_hand, DAYS * 2, 1e-14, 0);
    for (size_t t = 0; t < DAYS; t++)
        assert_all_near(fine + 4 * t, by_hand + 2 * t, 2, 1e-14, 0);
    ssm_free(&system);
    ssm_free(&day);
    ssm_free(&half);
    chain_free(&chain);
}

static void chapter_3_forecasts_it_by_two_held_scalars(void **state)
{
    (void)state; /* in the eigenbasis: rates 0 and log 0.4, each held alone */
    static const double x0[2] = {1.0, -1.0 / 6.0}, rate[2] = {0.0, -0.916290731874155065};
    for (size_t t = 0; t < DAYS; t++) {
        double x[2], ignored;
        for (size_t i = 0; i < 2; i++) {
            double a_bar;
            hold_scalar(&a_bar, &ignored, rate[i], (double)t);
            x[i] = a_bar * x0[i];
        }
        assert_near(2.0 / 3.0 * x[0] + x[1], by_hand[2 * t], 1e-15, 0);
        assert_near(1.0 / 3.0 * x[0] - x[1], by_hand[2 * t + 1], 1e-15, 0);
    }
}

static void chapter_4_forecasts_it_by_a_selective_scan(void **state)
{
    /* nothing is selected: Delta is one day, B and C are 1, A the log of P's eigenvalues; a channel
       for each weather starts with its share of both modes */
    (void)state;
    Chain chain = weather();
    double lambda[2], T[4], modes[2];
    float A[4], x_start[4], u[2 * (DAYS - 1)] = {0}, one[2 * (DAYS - 1)], y[2 * (DAYS - 1)];
    Ssm system = ssm_from_chain(&chain, start);
    assert_true(eigen_2x2(lambda, T, system.A));
    memcpy(modes, start, sizeof modes);
    double copy[4];
    memcpy(copy, T, sizeof copy);
    assert_true(matrix_solve(modes, copy, 2, 1));
    for (size_t d = 0; d < 2; d++)
        for (size_t n = 0; n < 2; n++) {
            A[d * 2 + n] = (float)log(lambda[n]);
            x_start[d * 2 + n] = (float)(T[d * 2 + n] * modes[n]);
        }
    for (size_t i = 0; i < 2 * (DAYS - 1); i++)
        one[i] = 1.0f;
    Scan scan = {1, DAYS - 1, 2, 2, u, one, NULL, A, one, one, NULL, NULL, x_start, NULL, false};
    selective_scan(y, NULL, &scan);
    assert_all_near(y, by_hand + 2, 2 * (DAYS - 1), 2e-7, 0); /* floats from here on */
    selective_scan_fast(y, NULL, &scan);
    assert_all_near(y, by_hand + 2, 2 * (DAYS - 1), 2e-7, 0);
    selective_scan_in_time(y, NULL, &scan);
    assert_all_near(y, by_hand + 2, 2 * (DAYS - 1), 2e-7, 0);
    ssm_free(&system);
    chain_free(&chain);
}

static void chapter_4_forecasts_it_by_a_parallel_scan_of_pairs(void **state)
{
    (void)state; /* P(sunny) tomorrow = 0.4 + 0.4 P(sunny): one pair a day */
    ScanPair day = {0.4f, 0.4f}, in[DAYS], out[DAYS];
    in[0].a = 0.0f;
    in[0].b = 0.5f;
    in[1] = in[2] = day;
    scan_pairs_blelloch(out, in, DAYS);
    for (size_t t = 0; t < DAYS; t++)
        assert_near(out[t].b, by_hand[2 * t], 1e-7, 0);
}

static void chapter_5_forecasts_it_inside_a_mamba_block(void **state)
{
    /* every token is (1, 1): the norm leaves it, biases open gate and convolution so that u and z's
       silu are 1, x_proj makes B = 0 and C = 1, dt_proj's bias makes Delta = 1; what moves is the
       state that the block starts with, by A = log of P's eigenvalues */
    (void)state;
    enum { D_MODEL = 2, D_INNER = 2, D_STATE = 2 };
    const float opens = 1.27846454f; /* silu(opens) = 1 */
    MambaConfig config = config_default(D_MODEL);
    config.expand = 1;
    config.intermediate_size = D_INNER;
    config.state_size = D_STATE;
    config.use_bias = true;
    Random random = random_from_seed(1);
    OwnBlock own = own_block_new(&config, 1, 1, &random);
    float *const *p = own.block.params.tensor;
    float input[D_MODEL] = {1, 1}, out[D_MODEL];
    TensorShape shapes[BLOCK_TENSORS];
    block_shapes(shapes, &config);
    for (int k = 0; k < BLOCK_TENSORS; k++)
        zero(p[k], shapes[k].count);
    for (size_t d = 0; d < D_INNER; d++) {
        p[NORM_WEIGHT][d] = 1.0f;
        p[IN_PROJ_BIAS][d] = p[IN_PROJ_BIAS][D_INNER + d] = opens;
        p[CONV1D_WEIGHT][d * 4 + 3] = 1.0f;
        p[X_PROJ_WEIGHT][3 * D_INNER] = p[X_PROJ_WEIGHT][4 * D_INNER] =
            1.0f;                                       /* C, from channel 0 */
        p[DT_PROJ_BIAS][d] = 0.541324855f;              /* softplus of it is 1 */
        p[A_LOG][d * D_STATE] = -100.0f;                /* A = -4e-44: the eigenvalue 1 */
        p[A_LOG][d * D_STATE + 1] = logf(0.916290732f); /* A = log 0.4 */
        p[OUT_PROJ_WEIGHT][d * D_INNER + d] = 1.0f;
    }
    block_refresh(&own.block);
    static const float x_start[4] = {2.0f / 3, -1.0f / 6, 1.0f / 3, 1.0f / 6};
    memcpy(own.state.x, x_start, sizeof x_start);
    for (size_t day = 1; day < DAYS; day++) {
        block_step(out, &own.cache, &own.state, input, &own.block);
        for (size_t d = 0; d < D_MODEL; d++) /* the residual adds the input */
            assert_near(out[d] - 1.0f, by_hand[day * 2 + d], 1e-6, 0);
    }
    own_block_free(&own);
}

static void chapter_5c_forecasts_it_by_two_heads_of_mamba_2(void **state)
{
    /* a head has one decay, so the eigenvalues 1 and 0.4 of P take a head each; a channel for each
       weather; the forecast is the sum of the heads */
    (void)state;
    enum { HEADS = 2, WIDE = 2, LEN = DAYS - 1 };
    static HeadForecast *const ways[] = {head_scan, head_scan_masked, head_scan_chunked,
                                         head_scan_fast, head_scan_chunked_fast};
    Chain chain = weather();
    double lambda[2], T[4], copy[4], modes[2];
    float A[HEADS], x_start[HEADS * WIDE], u[LEN * HEADS * WIDE] = {0}, one[LEN * HEADS];
    Ssm system = ssm_from_chain(&chain, start);
    assert_true(eigen_2x2(lambda, T, system.A));
    memcpy(modes, start, sizeof modes);
    memcpy(copy, T, sizeof copy);
    assert_true(matrix_solve(modes, copy, 2, 1));
    for (size_t h = 0; h < HEADS; h++) {
        A[h] = (float)log(lambda[h]);
        for (size_t p = 0; p < WIDE; p++)
            x_start[h * WIDE + p] = (float)(T[p * 2 + h] * modes[h]);
    }
    for (size_t i = 0; i < LEN * HEADS; i++)
        one[i] = 1.0f;
    HeadScan scan = head_scan_new(LEN, HEADS, WIDE, 1, u, one, A, one, one);
    scan.x_start = x_start;
    for (scan.chunk = 1; scan.chunk <= 3; scan.chunk++)
        for (size_t way = 0; way < sizeof ways / sizeof *ways; way++) {
            float y[LEN * HEADS * WIDE];
            ways[way](y, NULL, &scan);
            for (size_t day = 1; day < DAYS; day++)
                for (size_t p = 0; p < WIDE; p++) {
                    const float *heads = y + (day - 1) * HEADS * WIDE + p;
                    assert_near(heads[0] + heads[WIDE], by_hand[2 * day + p], 2e-7, 0);
                }
        }
    ssm_free(&system);
    chain_free(&chain);
}

static void chapter_5c_forecasts_it_inside_a_mamba_2_block(void **state)
{
    /* the same two heads; a gate of 1, an input of 0, C = 1, a norm whose epsilon outweighs all it
       sees; and out_proj adds up the heads */
    (void)state;
    enum { D_MODEL = 2, D_INNER = 4, HEADS = 2 };
    const float opens = 1.27846454f; /* silu(opens) = 1 */
    MambaConfig config = config_default_heads(D_MODEL, D_INNER / HEADS, 1);
    TensorShape shapes[BLOCK_TENSORS];
    Random random = random_from_seed(1);
    config.use_bias = true;
    config.layer_norm_epsilon = 1e16;
    OwnHeadBlock own = own_head_block_new(&config, 1, 1, &random);
    float *const *p = own.block.params.tensor;
    float input[D_MODEL] = {0, 0}, out[D_MODEL];
    head_block_shapes(shapes, &config);
    for (size_t i = 0; i < BLOCK_TENSORS; i++)
        zero(p[i], shapes[i].count);
    for (size_t d = 0; d < D_INNER; d++) {
        p[IN_PROJ_BIAS][d] = opens; /* z */
        p[GATED_NORM_WEIGHT][d] = 1e8f;
        p[OUT_PROJ_WEIGHT][d % D_MODEL * D_INNER + d] = 1.0f;
    }
    p[IN_PROJ_BIAS][2 * D_INNER + 1] = opens; /* C, the last channel of uBC */
    p[CONV1D_WEIGHT][(D_INNER + 1) * 4 + 3] = 1.0f;
    p[DT_BIAS][0] = p[DT_BIAS][1] = 0.541324855f; /* softplus of it is 1 */
    p[A_LOG][0] = -100.0f;                        /* A = -4e-44: the eigenvalue 1 */
    p[A_LOG][1] = logf(0.916290732f);             /* A = log 0.4 */
    head_block_refresh(&own.block);
    static const float x_start[D_INNER] = {2.0f / 3, 1.0f / 3, -1.0f / 6, 1.0f / 6};
    memcpy(own.state.x, x_start, sizeof x_start);
    for (size_t day = 1; day < DAYS; day++) {
        head_block_forward(out, &own.cache, &own.state, input, &own.block);
        assert_all_near(out, by_hand + day * 2, D_MODEL, 1e-6, 0);
    }
    own_head_block_free(&own);
}

static void chapter_6_forecasts_it_by_every_cuda_kernel(void **state)
{
    (void)state; /* chapter 4's scan once more, with the chain's own numbers */
    static const float A[4] = {0.0f, -0.916290732f, 0.0f, -0.916290732f}; /* log 1, log 0.4 */
    static const float x_start[4] = {2.0f / 3, -1.0f / 6, 1.0f / 3, 1.0f / 6};
    float u[4] = {0}, one[4] = {1, 1, 1, 1};
    Scan scan = {1, DAYS - 1, 2, 2, u, one, NULL, A, one, one, NULL, NULL, x_start, NULL, false};
    for (int kernel = 0; kernel <= SCAN_KERNELS; kernel++) {
        float y[2 * (DAYS - 1)] = {0};
        Error error;
        if (!cuda_scan(y, NULL, &scan, (ScanKernel)kernel, &error))
            fail_msg("%s", error.text);
        assert_all_near(y, by_hand + 2, 2 * (DAYS - 1), 2e-7, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chapter_1_forecasts_it_as_a_chain),
        cmocka_unit_test(chapter_2_forecasts_it_by_its_four_matrices),
        cmocka_unit_test(chapter_2_forecasts_it_as_a_convolution),
        cmocka_unit_test(chapter_2_forecasts_it_in_the_eigenbasis),
        cmocka_unit_test(chapter_3_forecasts_it_from_its_generator),
        cmocka_unit_test(chapter_3_forecasts_it_by_two_held_scalars),
        cmocka_unit_test(chapter_4_forecasts_it_by_a_selective_scan),
        cmocka_unit_test(chapter_4_forecasts_it_by_a_parallel_scan_of_pairs),
        cmocka_unit_test(chapter_5_forecasts_it_inside_a_mamba_block),
        cmocka_unit_test(chapter_5c_forecasts_it_by_two_heads_of_mamba_2),
        cmocka_unit_test(chapter_5c_forecasts_it_inside_a_mamba_2_block),
        cmocka_unit_test(chapter_6_forecasts_it_by_every_cuda_kernel),
    };
    return cmocka_run_group_tests_name("the thread: one forecast, every chapter", tests, NULL,
                                       NULL);
}
