/* Mamba-3's scan and layer held against golden data, a scan of complex numbers in double, finite
   differences, Mamba-2, and chapters 1, 2 and 3; and the models that track a state. */

#include "../ch05_mamba_block/state_tracking.c"
#include "golden.h"
#include <complex.h>
#undef I
#include <signal.h>
#include <unistd.h>

/* ---- a scan with arrays of its own -------------------------------------------------------- */

enum { N_ARRAYS = 11, U = 0, Z, DELTA, A_IN, LAMBDA, THETA, B_IN, C_OUT, B_BIAS, C_BIAS, D_SKIPS };

/* The arrays of a TurnScan in one order, each with the name that it has in the golden file. */
static const char *const array_name[N_ARRAYS] = {
    "x", "z", "dt", "A", "lambda_raw", "theta_raw", "B", "C", "B_bias", "C_bias", "D"};

static const float **scan_array(TurnScan *scan, int which)
{
    const float **arrays[N_ARRAYS] = {&scan->u,      &scan->z,      &scan->delta, &scan->A,
                                      &scan->lambda, &scan->theta,  &scan->B,     &scan->C,
                                      &scan->B_bias, &scan->C_bias, &scan->D};
    return arrays[which];
}

static float **grad_array(TurnGrad *grad, int which)
{
    float **arrays[N_ARRAYS] = {&grad->u,      &grad->z,      &grad->delta, &grad->A,
                                &grad->lambda, &grad->theta,  &grad->B,     &grad->C,
                                &grad->B_bias, &grad->C_bias, &grad->D};
    return arrays[which];
}

static size_t array_count(const TurnScan *scan, int which)
{
    size_t tokens = scan->batch * scan->len, heads = tokens * scan->n_head;
    size_t shared = tokens * scan->n_group * scan->d_state, bias = scan->n_head * scan->d_state;
    size_t counts[N_ARRAYS] = {heads * scan->d_head,
                               heads * scan->d_head,
                               heads,
                               heads,
                               heads,
                               tokens * scan->n_angle,
                               shared,
                               shared,
                               bias,
                               bias,
                               scan->n_head};
    return counts[which];
}

static void scan_free(TurnScan *scan)
{
    for (int i = 0; i < N_ARRAYS; i++)
        free((void *)(uintptr_t)*scan_array(scan, i));
}

static void grad_new(TurnGrad *grad, const TurnScan *scan)
{
    for (int i = 0; i < N_ARRAYS; i++)
        *grad_array(grad, i) = nan_filled(array_count(scan, i));
}

static void grad_free(TurnGrad *grad, const TurnScan *scan)
{
    for (int i = 0; i < N_ARRAYS; i++) {
        assert_guarded(*grad_array(grad, i), array_count(scan, i));
        free(*grad_array(grad, i));
    }
}

static float *random_array(size_t count, double low, double high, Random *random)
{
    float *values = NEW(float, count + 1);
    for (size_t i = 0; i < count; i++)
        values[i] = (float)(low + (high - low) * random_uniform(random));
    return values;
}

/* Sizes that divide nothing: no angle, all states in pairs, one state over. */
static const size_t odd_sizes[][7] = {
    /* batch, len, n_head, d_head, n_group, d_state, n_angle */
    {1, 1, 1, 1, 1, 1, 0},    {1, 2, 1, 3, 1, 2, 1},   {2, 31, 3, 5, 1, 3, 1},
    {1, 33, 4, 17, 2, 33, 9}, {3, 40, 6, 1, 3, 17, 8}, {1, 7, 2, 3, 1, 257, 128},
    {2, 67, 5, 2, 5, 1, 0},   {1, 5, 17, 2, 1, 4, 2},  {1, 257, 1, 2, 1, 6, 2}};
enum { N_ODD = sizeof odd_sizes / sizeof *odd_sizes };

/* Which optional parts a random scan has. */
enum { HAS_Z = 1, HAS_BIAS = 2, HAS_D = 4, HAS_ALL = 7 };

static TurnScan random_scan(const size_t size[7], int has, uint64_t seed)
{
    static const double range[N_ARRAYS][2] = {{-1, 1}, {-2, 2}, {0.1, 1.5}, {-1, -0.01},
                                              {-2, 2}, {-1, 1}, {-1, 1},    {-1, 1},
                                              {-1, 1}, {-1, 1}, {-1, 1}};
    Random random = random_from_seed(seed);
    TurnScan scan;
    memset(&scan, 0, sizeof scan);
    scan.batch = size[0], scan.len = size[1], scan.n_head = size[2], scan.d_head = size[3];
    scan.n_group = size[4], scan.d_state = size[5], scan.n_angle = size[6];
    for (int i = 0; i < N_ARRAYS; i++)
        if ((i != Z || has & HAS_Z) && (i < B_BIAS || i == D_SKIPS || has & HAS_BIAS) &&
            (i != D_SKIPS || has & HAS_D))
            *scan_array(&scan, i) =
                random_array(array_count(&scan, i), range[i][0], range[i][1], &random);
    return scan;
}

/* As the paper writes it, with the state itself turning, in complex numbers: a pair of states is
   one; what is behind the last pair does not turn. y and the loss sum(y y_grad), in double. */
static double in_complex(double *y, const float *y_grad, const TurnScan *scan)
{
    double loss = 0.0;
    size_t n_state = scan->d_state, each = scan->n_head / scan->n_group;
    for (size_t i = 0; i < scan->batch * scan->n_head * scan->d_head; i++) {
        size_t h = i / scan->d_head % scan->n_head, b = i / scan->d_head / scan->n_head;
        double complex *x = (double complex *)calloc(n_state, sizeof *x);
        double complex *wrote = (double complex *)calloc(n_state, sizeof *x);
        for (size_t token = b * scan->len; token < (b + 1) * scan->len; token++) {
            size_t at = token * scan->n_head + h, in = at * scan->d_head + i % scan->d_head;
            size_t bc = (token * scan->n_group + h / each) * n_state, bias = h * n_state;
            double delta = scan->delta[at], lambda = 1.0 / (1.0 + exp(-(double)scan->lambda[at]));
            double read = scan->D ? (double)scan->D[h] * scan->u[in] : 0.0;
            for (size_t n = 0; n < n_state; n += n < 2 * scan->n_angle ? 2 : 1) {
                bool pair = n < 2 * scan->n_angle;
                double complex B = scan->B[bc + n], C = scan->C[bc + n];
                double turned = 0.0;
                B += scan->B_bias ? (double)scan->B_bias[bias + n] : 0.0;
                C += scan->C_bias ? (double)scan->C_bias[bias + n] : 0.0;
                if (pair) {
                    double B2 = scan->B[bc + n + 1], C2 = scan->C[bc + n + 1];
                    B2 += scan->B_bias ? (double)scan->B_bias[bias + n + 1] : 0.0;
                    C2 += scan->C_bias ? (double)scan->C_bias[bias + n + 1] : 0.0;
                    B += B2 * _Complex_I;
                    C += C2 * _Complex_I;
                    turned = delta * PI * tanh((double)scan->theta[token * scan->n_angle + n / 2]);
                }
                double complex step = cexp(delta * scan->A[at] - _Complex_I * turned);
                x[n] = step * (x[n] + (1.0 - lambda) * delta * wrote[n]);
                wrote[n] = B * scan->u[in];
                x[n] += lambda * delta * wrote[n];
                read += creal(conj(C) * x[n]);
            }
            read *= scan->z ? scan->z[in] / (1.0 + exp(-(double)scan->z[in])) : 1.0;
            loss += y_grad ? read * y_grad[in] : 0.0;
            if (y)
                y[in] = read;
        }
        free(x);
        free(wrote);
    }
    return loss;
}

/* ---- golden data --------------------------------------------------------------------------- */

/* The scan of the golden file, its sizes read from the tensors. */
static TurnScan golden_scan(Safetensors *file)
{
    char *path = golden_path("mamba3_siso.safetensors");
    TurnScan scan;
    golden_open(file, path);
    free(path);
    memset(&scan, 0, sizeof scan);
    scan.batch = golden_size(file, "x", 0), scan.len = golden_size(file, "x", 1);
    scan.n_head = golden_size(file, "x", 2), scan.d_head = golden_size(file, "x", 3);
    scan.n_group = golden_size(file, "B", 2), scan.d_state = golden_size(file, "B", 3);
    scan.n_angle = golden_size(file, "theta_raw", 2);
    for (int i = 0; i < N_ARRAYS; i++) {
        *scan_array(&scan, i) = golden_floats(NULL, file, array_name[i]);
        assert_int_equal(golden_tensor(file, array_name[i])->count, array_count(&scan, i));
    }
    return scan;
}

static void ex5_16_the_scan_agrees_with_golden(void **state)
{
    (void)state;
    Safetensors file;
    TurnScan scan = golden_scan(&file);
    size_t wide = array_count(&scan, U), heads = scan.batch * scan.n_head;
    size_t states = heads * scan.d_head * scan.d_state, angles = heads * scan.n_angle;
    float *y = nan_filled(wide), *memory = NEW(float, turn_state_floats(&scan));
    TurnState last = turn_state_place(memory, &scan);
    double *want = golden_doubles(NULL, &file, "y"), *x = golden_doubles(NULL, &file, "s_last");
    double *angle = golden_doubles(NULL, &file, "angle_last");
    turn_scan(y, &last, &scan);
    assert_relmax(y, want, wide, 2e-5); /* INDEX.md */
    assert_guarded(y, wide);
    assert_relmax(last.x, x, states, 2e-5);
    for (size_t i = 0; i < angles; i++) { /* ours leaves out whole turns */
        assert_true(fabs((double)last.angle[i]) <= PI + 1e-6);
        assert_near(cos((double)last.angle[i] - angle[i]), 1.0, 1e-9, 0);
        assert_near(sin((double)last.angle[i] - angle[i]), 0.0, 2e-5, 0);
    }
    free(y), free(memory), free(want), free(x), free(angle);
    scan_free(&scan);
    safetensors_close(&file);
}

static void ex5_17_every_gradient_agrees_with_golden(void **state)
{
    (void)state;
    Safetensors file;
    TurnScan scan = golden_scan(&file);
    TurnGrad grad;
    float *y_grad = golden_floats(NULL, &file, "dy");
    grad_new(&grad, &scan);
    turn_scan_backward(&grad, y_grad, &scan);
    for (int i = 0; i < N_ARRAYS; i++) {
        char name[32];
        snprintf(name, sizeof name, "grad.%s", array_name[i]);
        double *want = golden_doubles(NULL, &file, name);
        assert_relmax_as(gradient_of(array_name[i]), *grad_array(&grad, i), want,
                         array_count(&scan, i), 2e-5);
        free(want);
    }
    free(y_grad);
    grad_free(&grad, &scan);
    scan_free(&scan);
    safetensors_close(&file);
}

/* ---- turning ------------------------------------------------------------------------------- */

/* The cosines and sines of some angles. */
static Turn turn_by(float *room, const float *angle, size_t n_angle)
{
    Turn turn = {room, room + n_angle, n_angle};
    for (size_t k = 0; k < n_angle; k++) {
        room[k] = cosf(angle[k]);
        room[n_angle + k] = sinf(angle[k]);
    }
    return turn;
}

static void ex5_15_a_quarter_turn_by_hand(void **state)
{
    (void)state;
    static const float turns[4] = {0, -1, 1, 0}; /* cosines, then sines: 90 and -90 degrees */
    static const float in[5] = {1, 2, 3, 4, 5}, want[5] = {-2, 1, 4, -3, 5};
    Turn turn = {turns, turns + 2, 2};
    float cosine[2] = {0, 0}, sine[2] = {1, -1}, *out = nan_filled(5);
    turn.cosine = cosine, turn.sine = sine;
    turn_pairs(out, in, turn, 1.0f, 5);
    for (int n = 0; n < 5; n++)
        assert_that(out[n] == want[n], "out[%d] is %g, expected %g", n, (double)out[n],
                    (double)want[n]);
    turn_pairs(out, out, turn, -1.0f, 5); /* and back, in its place */
    for (int n = 0; n < 5; n++)
        assert_that(out[n] == in[n], "turned back, out[%d] is %g, expected %g", n, (double)out[n],
                    (double)in[n]);
    assert_guarded(out, 5);
    free(out);
}

static void ex5_15_turns_add_up_and_keep_lengths_and_angles_between(void **state)
{
    (void)state; /* R_a R_b = R_(a+b); (R B).(R C) = B.C, on which the whole of it rests */
    Random random = random_from_seed(3);
    for (size_t n_angle = 0; n_angle <= 20; n_angle++) {
        size_t d_state = 2 * n_angle + n_angle % 3;
        float *a = random_array(n_angle, -9, 9, &random),
              *b = random_array(n_angle, -9, 9, &random);
        float *B = random_array(d_state, -1, 1, &random),
              *C = random_array(d_state, -1, 1, &random);
        float room[3][40], both[20], B2[44], C2[44], at_once[44];
        for (size_t k = 0; k < n_angle; k++)
            both[k] = a[k] + b[k];
        Turn first = turn_by(room[0], a, n_angle), second = turn_by(room[1], b, n_angle);
        Turn sum = turn_by(room[2], both, n_angle);
        turn_pairs(B2, B, first, 1.0f, d_state);
        turn_pairs(C2, C, first, 1.0f, d_state);
        assert_near(dot(B2, C2, d_state), dot(B, C, d_state), 1e-5, 0);
        turn_pairs(B2, B2, second, 1.0f, d_state);
        turn_pairs(at_once, B, sum, 1.0f, d_state);
        if (d_state > 0)
            assert_all_near(B2, at_once, d_state, 3e-6, 0);
        free(a), free(b), free(B), free(C);
    }
}

static void ex5_15_the_lesson_s_four_bits(void **state)
{
    (void)state; /* half a turn for each 1: the sign of what is read is the parity */
    static const float bits[5] = {0, 1, 0, 1, 1}, want[5] = {1, -1, -1, 1, -1};
    float x[2] = {1, 0}, turns[2];
    for (int t = 0; t < 5; t++) {
        float angle = (float)PI * bits[t];
        turn_pairs(x, x, turn_by(turns, &angle, 1), 1.0f, 2);
        assert_near(x[0], want[t], 1e-6, 0);
    }
}

/* ---- the trapezoid -------------------------------------------------------------------------- */

static void ex5_16_the_weights_by_hand(void **state)
{
    (void)state;
    float alpha, beta, gamma, half = -0.693147181f;       /* a step of 1 leaves a half */
    trapezoid_weights(&alpha, &beta, &gamma, 1, half, 1); /* Mamba's rule */
    assert_near(alpha, 0.5, 1e-7, 0);
    assert_near_as("beta by Mamba's rule", beta, 0, 0, 0);
    assert_near_as("gamma by Mamba's rule", gamma, 1, 0, 0);
    trapezoid_weights(&alpha, &beta, &gamma, 2, half, 0.5f); /* the trapezoid */
    assert_near(alpha, 0.25, 1e-7, 0);
    assert_near(beta, 0.25, 1e-7, 0);
    assert_near(gamma, 1, 1e-7, 0);
    trapezoid_weights(&alpha, &beta, &gamma, 2, half, 0); /* the left end alone */
    assert_near_as("beta of the left end alone", beta, 0.5, 1e-7, 0);
    assert_near_as("gamma of the left end alone", gamma, 0, 0, 0);
}

/* One head, one channel, one state, all steps alike; B = C = 1. `raw` is lambda's. */
static void run_one_state(float *y, const float *u, size_t len, float delta, float A, float raw)
{
    float *all = NEW(float, 4 * len);
    TurnScan scan;
    memset(&scan, 0, sizeof scan);
    scan.batch = scan.n_head = scan.d_head = scan.n_group = scan.d_state = 1;
    scan.len = len;
    for (size_t t = 0; t < len; t++)
        all[t] = delta, all[len + t] = A, all[2 * len + t] = raw, all[3 * len + t] = 1.0f;
    scan.u = u, scan.delta = all, scan.A = all + len, scan.lambda = all + 2 * len;
    scan.B = scan.C = all + 3 * len;
    turn_scan(y, NULL, &scan);
    free(all);
}

static void ex5_16_without_a_decay_the_trapezoid_is_chapter_3_s_bilinear_rule(void **state)
{
    (void)state; /* of the mean of both ends: A_bar = 1, B_bar = delta */
    enum { LEN = 33 };
    double A = 0.0, B = 1.0, A_bar, B_bar, want[LEN], x = 0.0, delta = 0.3;
    float u[LEN], y[LEN];
    Random random = random_from_seed(5);
    assert_true(discretize_bilinear(&A_bar, &B_bar, &A, &B, 1, 1, delta));
    for (size_t t = 0; t < LEN; t++) {
        u[t] = (float)random_normal(&random);
        x = A_bar * x + B_bar * 0.5 * ((double)u[t] + (t > 0 ? (double)u[t - 1] : 0.0));
        want[t] = x;
    }
    run_one_state(y, u, LEN, 0.3f, 0.0f, 0.0f);
    assert_relmax(y, want, LEN, 1e-6);
}

static void ex5_16_both_rules_differ_by_the_cube_of_a_small_step(void **state)
{
    (void)state; /* after one step from x = 1 and f = 1 at both ends, A = -1 */
    double apart[2], A = -1.0, B = 1.0;
    for (int i = 0; i < 2; i++) {
        double delta = i == 0 ? 0.5 : 0.25, A_bar, B_bar;
        float alpha, beta, gamma;
        assert_true(discretize_bilinear(&A_bar, &B_bar, &A, &B, 1, 1, delta));
        trapezoid_weights(&alpha, &beta, &gamma, (float)delta, -1.0f, 0.5f);
        apart[i] = fabs((double)alpha + (double)beta + (double)gamma - (A_bar + B_bar));
    }
    assert_near(apart[0] / apart[1], 8.0, 1.0, 0);
}

static void with_lambda_1_one_state_is_chapter_3_s_rule_of_mamba(void **state)
{
    (void)state;
    enum { LEN = 20 };
    double A = -0.7, B = 1.0, A_bar, B_bar, want[LEN], x = 0.0;
    float u[LEN], y[LEN];
    Random random = random_from_seed(6);
    assert_true(discretize_mamba(&A_bar, &B_bar, &A, &B, 1, 1, 0.4));
    for (size_t t = 0; t < LEN; t++) {
        u[t] = (float)random_normal(&random);
        want[t] = x = A_bar * x + B_bar * (double)u[t];
    }
    run_one_state(y, u, LEN, 0.4f, -0.7f, INFINITY);
    assert_relmax(y, want, LEN, 1e-6);
}

/* ---- against other chapters ----------------------------------------------------------------- */

static void ex5_16_with_lambda_1_and_no_turn_it_is_mamba_2(void **state)
{
    (void)state; /* one A a head for all tokens, no biases, no gate */
    for (int i = 0; i < N_ODD; i++) {
        TurnScan scan = random_scan(odd_sizes[i], HAS_D, 20 + (uint64_t)i);
        size_t heads = array_count(&scan, DELTA), wide = array_count(&scan, U);
        float *lambda = NEW(float, heads), *A_all = NEW(float, heads), A[17];
        float *theta = NEW(float, array_count(&scan, THETA) + 1);
        float *y = nan_filled(wide), *want = nan_filled(wide);
        for (size_t h = 0; h < scan.n_head; h++)
            A[h] = -0.1f * (float)(h + 1);
        for (size_t k = 0; k < heads; k++) {
            lambda[k] = INFINITY; /* sigmoid is 1 */
            A_all[k] = A[k % scan.n_head];
        }
        HeadScan head = head_scan_new(scan.len, scan.n_head, scan.d_head, scan.d_state, scan.u,
                                      scan.delta, A, scan.B, scan.C);
        head.batch = scan.batch, head.n_group = scan.n_group, head.D = scan.D;
        head_scan(want, NULL, &head);
        const float *own[3] = {scan.lambda, scan.A, scan.theta};
        scan.lambda = lambda, scan.A = A_all, scan.theta = theta;
        turn_scan(y, NULL, &scan);
        assert_relmax(y, want, wide, 2e-6);
        scan.lambda = own[0], scan.A = own[1], scan.theta = own[2];
        free(lambda), free(A_all), free(theta), free(y), free(want);
        scan_free(&scan);
    }
}

static void ex5_16_a_head_of_two_states_is_chapter_2_s_oscillator(void **state)
{
    (void)state; /* data/oscillator.ssm: each step turns the state by 36 degrees, and leaves 0.9 */
    enum { LEN = 60 };
    Ssm system;
    Error error;
    double impulse[LEN] = {1}, want[LEN], *basis;
    float u[LEN] = {1}, delta[LEN], A[LEN], lambda[LEN], theta[LEN], B[2 * LEN], C[2 * LEN];
    float y[LEN];
    assert_true(ssm_read(&system, &basis, "data/oscillator.ssm", &error));
    ssm_run(want, system.x0, impulse, &system, LEN, READ_AFTER);
    for (size_t t = 0; t < LEN; t++) {
        delta[t] = 1.0f, A[t] = logf(0.9f), lambda[t] = INFINITY;
        theta[t] = atanhf(0.2f); /* pi / 5 */
        B[2 * t] = (float)system.B[0], B[2 * t + 1] = (float)system.B[1];
        C[2 * t] = (float)system.C[0], C[2 * t + 1] = (float)system.C[1];
    }
    TurnScan scan;
    memset(&scan, 0, sizeof scan);
    scan.batch = scan.n_head = scan.d_head = scan.n_group = scan.n_angle = 1;
    scan.len = LEN, scan.d_state = 2;
    scan.u = u, scan.delta = delta, scan.A = A, scan.lambda = lambda, scan.theta = theta;
    scan.B = B, scan.C = C;
    turn_scan(y, NULL, &scan);
    assert_relmax(y, want, LEN, 1e-4); /* the file has four digits */
    free(basis);
    ssm_free(&system);
}

/* ---- at any size ---------------------------------------------------------------------------- */

static void ex5_16_turned_axes_are_a_state_that_turns(void **state)
{
    (void)state; /* B and C turned, against complex numbers in double */
    for (int i = 0; i < N_ODD; i++)
        for (int has = 0; has <= HAS_ALL; has += i % 3 == 0 ? 1 : 7) {
            TurnScan scan = random_scan(odd_sizes[i], has, 30 + (uint64_t)i);
            size_t wide = array_count(&scan, U);
            float *y = nan_filled(wide);
            double *want = NEW(double, wide);
            in_complex(want, NULL, &scan);
            turn_scan(y, NULL, &scan);
            assert_relmax(y, want, wide, 2e-5);
            assert_guarded(y, wide);
            free(y), free(want);
            scan_free(&scan);
        }
}

/* Tokens first .. first + len - 1 of a scan of one sequence. */
static TurnScan tokens_of(const TurnScan *scan, size_t first, size_t len)
{
    TurnScan piece = *scan;
    size_t heads = first * scan->n_head, shared = first * scan->n_group * scan->d_state;
    piece.len = len;
    piece.u += heads * scan->d_head, piece.z += heads * scan->d_head;
    piece.delta += heads, piece.A += heads, piece.lambda += heads;
    piece.theta += first * scan->n_angle;
    piece.B += shared, piece.C += shared;
    return piece;
}

static void pieces_and_single_steps_are_the_whole(void **state)
{
    (void)state; /* the state, the angle, and the last token's u and B go on */
    static const size_t size[7] = {1, 61, 4, 9, 2, 7, 3}, piece[4] = {1, 2, 17, 60};
    TurnScan scan = random_scan(size, HAS_ALL, 4);
    size_t row = scan.n_head * scan.d_head, floats = turn_state_floats(&scan);
    float *whole = nan_filled(61 * row), *y = nan_filled(61 * row);
    float *memory = NEW(float, floats), *last = NEW(float, floats);
    TurnState end = turn_state_place(last, &scan), now = turn_state_place(memory, &scan);
    turn_scan(whole, &end, &scan);
    for (int i = 0; i < 4; i++) {
        zero(memory, floats);
        for (size_t t = 0; t < 61; t += piece[i]) {
            TurnScan part = tokens_of(&scan, t, smaller(piece[i], 61 - t));
            turn_scan(y + t * row, &now, &part);
        }
        assert_memory_equal(y, whole, 61 * row * sizeof(float)); /* the same sums: the same bits */
        assert_memory_equal(memory, last, floats * sizeof(float));
    }
    free(whole), free(y), free(memory), free(last);
    scan_free(&scan);
}

static void no_tokens_leave_everything_as_it_was(void **state)
{
    (void)state;
    static const size_t size[7] = {2, 0, 2, 3, 1, 4, 2};
    TurnScan scan = random_scan(size, HAS_ALL, 5);
    size_t floats = turn_state_floats(&scan);
    Random random = random_from_seed(1);
    float *memory = random_array(floats, -1, 1, &random), *kept = NEW(float, floats), y;
    TurnState now = turn_state_place(memory, &scan);
    TurnGrad grad;
    memcpy(kept, memory, floats * sizeof(float));
    turn_scan(&y, &now, &scan);
    assert_memory_equal(memory, kept, floats * sizeof(float));
    grad_new(&grad, &scan);
    turn_scan_backward(&grad, &y, &scan);
    for (size_t i = 0; i < array_count(&scan, B_BIAS); i++)
        assert_true(grad.B_bias[i] == 0.0f && grad.C_bias[i] == 0.0f);
    grad_free(&grad, &scan);
    free(memory), free(kept);
    scan_free(&scan);
}

static void a_turn_of_a_thousand_rounds_keeps_its_digits(void **state)
{
    (void)state; /* 3,000 tokens, two radians each: whole turns are left out as they come */
    enum { LEN = 3000 };
    static const size_t size[7] = {1, LEN, 1, 1, 1, 2, 1};
    TurnScan scan = random_scan(size, 0, 6);
    float *theta = NEW(float, LEN), *delta = NEW(float, LEN), y[LEN];
    double want[LEN];
    for (size_t t = 0; t < LEN; t++)
        theta[t] = 0.7516f, delta[t] = 1.0f;
    free((void *)(uintptr_t)scan.theta), free((void *)(uintptr_t)scan.delta);
    scan.theta = theta, scan.delta = delta;
    in_complex(want, NULL, &scan);
    turn_scan(y, NULL, &scan);
    assert_relmax(y, want, LEN, 1e-3); /* 3,000 roundings of an angle of at most pi, 1e-7 each */
    scan_free(&scan);
}

/* ---- backwards ------------------------------------------------------------------------------ */

static void ex5_17_a_pair_s_slope_by_hand(void **state)
{
    (void)state;
    static const float pair[2] = {3, 4}, along[2] = {6, 8}, ahead[2] = {-4, 3}, one[2] = {1, 0};
    /* further out: no turn does that */
    assert_near_as("the slope of (3, 4) with gradient (6, 8)", turn_slope(pair, along), 0, 0, 0);
    assert_near_as("the slope of (3, 4) with gradient (-4, 3)", turn_slope(pair, ahead), 25, 0, 0);
    assert_near_as("the slope of (3, 4) with gradient (1, 0)", turn_slope(pair, one), -4, 0, 0);
}

/* Every gradient against (loss(v + h) - loss(v - h)) / 2h of the scan in complex numbers. */
static void check_slopes(const TurnScan *scan)
{
    Random random = random_from_seed(22);
    TurnGrad grad;
    TurnScan moved = *scan;
    float *y_grad = random_array(array_count(scan, U), -1, 1, &random);
    grad_new(&grad, scan);
    turn_scan_backward(&grad, y_grad, scan);
    for (int which = 0; which < N_ARRAYS; which++) {
        size_t count = array_count(scan, which);
        const float *values = *scan_array(&moved, which);
        if (!values || count == 0)
            continue;
        float *copy = NEW(float, count);
        double *slope = NEW(double, count);
        memcpy(copy, values, count * sizeof(float));
        *scan_array(&moved, which) = copy;
        for (size_t i = 0; i < count; i++) {
            float low = values[i] - 1e-3f, high = values[i] + 1e-3f;
            copy[i] = high;
            double above = in_complex(NULL, y_grad, &moved);
            copy[i] = low;
            double below = in_complex(NULL, y_grad, &moved);
            copy[i] = values[i];
            slope[i] = (above - below) / ((double)high - (double)low);
        }
        assert_relmax_as(gradient_of(array_name[which]), *grad_array(&grad, which), slope, count,
                         1e-4); /* h^2, float sums */
        *scan_array(&moved, which) = values;
        free(copy);
        free(slope);
    }
    grad_free(&grad, scan);
    free(y_grad);
}

static void ex5_17_gradients_are_the_slopes_of_the_loss(void **state)
{
    (void)state;
    static const size_t sizes[4][7] = {
        {1, 1, 1, 1, 1, 2, 1}, {2, 5, 4, 3, 2, 5, 2}, {1, 9, 2, 2, 1, 4, 1}, {1, 4, 3, 2, 3, 3, 0}};
    for (int i = 0; i < 4; i++)
        for (int has = 0; has <= HAS_ALL; has++) {
            TurnScan scan = random_scan(sizes[i], has, 40 + (uint64_t)i);
            check_slopes(&scan);
            scan_free(&scan);
        }
}

static void gradients_that_are_not_wanted_are_not_written(void **state)
{
    (void)state;
    static const size_t size[7] = {1, 11, 4, 6, 2, 5, 2};
    TurnScan scan = random_scan(size, HAS_ALL, 30);
    TurnGrad all;
    grad_new(&all, &scan);
    turn_scan_backward(&all, scan.u, &scan);
    for (int only = -1; only < N_ARRAYS; only++) {
        TurnGrad grad;
        memset(&grad, 0, sizeof grad);
        if (only >= 0)
            *grad_array(&grad, only) = nan_filled(array_count(&scan, only));
        turn_scan_backward(&grad, scan.u, &scan);
        if (only >= 0) {
            assert_memory_equal(*grad_array(&grad, only), *grad_array(&all, only),
                                array_count(&scan, only) * sizeof(float));
            assert_guarded(*grad_array(&grad, only), array_count(&scan, only));
            free(*grad_array(&grad, only));
        }
    }
    grad_free(&all, &scan);
    scan_free(&scan);
}

/* ---- the layer ------------------------------------------------------------------------------ */

/* A small model of turning layers, every parameter random. */
static Model random_model(size_t layers, size_t groups, uint64_t seed)
{
    MambaConfig config = config_default_turning(6, 3, 5, 2); /* 4 heads; one state stands still */
    Random random = random_from_seed(seed);
    config.num_hidden_layers = layers;
    config.n_groups = groups;
    config.vocab_size = 7;
    config.tie_word_embeddings = false;
    config.time_step_min = 0.3, config.time_step_max = 1.0;
    Model model = model_new(&config);
    model_init(&model, &random);
    for (size_t k = 0; k < model_tensor_count(&config); k++) {
        ModelTensor p = model_tensor(&model.params, &config, k);
        for (size_t i = 0; i < p.count; i++)
            p.values[i] += (k == 0 ? 1.0f : 0.3f) * (float)random_normal(&random);
    }
    model_refresh(&model);
    return model;
}

/* The mean loss of a batch, all logits in double. */
static double loss_of(ModelWork *work, const int32_t *ids, const int32_t *targets,
                      const Model *model)
{
    size_t vocab = model->config.vocab_size, tokens = work->batch * work->len;
    double sum = 0.0;
    model_forward(work, NULL, ids, model);
    for (size_t t = 0; t < tokens; t++)
        sum += token_loss(work->logits + t * vocab, vocab, (size_t)targets[t]);
    return sum / (double)tokens;
}

static void every_parameter_of_a_layer_has_the_slope_of_the_loss(void **state)
{
    (void)state;
    enum { BATCH = 3, LEN = 5, TOKENS = BATCH * LEN };
    for (size_t groups = 1; groups <= 2; groups++) {
        Model model = random_model(2, groups, groups);
        Random random = random_from_seed(8);
        ModelWork work = model_work_new(&model, BATCH, LEN, true);
        ModelParams grad = model_params_new(&model.config);
        int32_t ids[TOKENS], targets[TOKENS];
        for (int i = 0; i < TOKENS; i++) {
            ids[i] = (int32_t)(random_u32(&random) % 7);
            targets[i] = (int32_t)(random_u32(&random) % 7);
        }
        for (size_t i = 0; i < model_floats(&model.config); i++)
            grad.memory[i] = NAN;
        for (int twice = 0; twice < 2; twice++) { /* what a step leaves behind does not matter */
            model_forward(&work, NULL, ids, &model);
            model_backward(&grad, &work, ids, targets, TOKENS, &model);
        }
        for (size_t k = 0; k < model_tensor_count(&model.config); k++) {
            ModelTensor p = model_tensor(&model.params, &model.config, k);
            const float *g = grad.memory + (p.count > 0 ? p.values - model.params.memory : 0);
            double *slope = NEW(double, p.count + 1);
            for (size_t i = 0; i < p.count; i++) {
                float value = p.values[i], low = value - 4e-3f, high = value + 4e-3f;
                p.values[i] = high;
                double above = loss_of(&work, ids, targets, &model);
                p.values[i] = low;
                slope[i] =
                    (above - loss_of(&work, ids, targets, &model)) / ((double)high - (double)low);
                p.values[i] = value;
            }
            if (p.count > 0)
                assert_all_near(g, slope, p.count, 3e-4, 1e-2); /* a float loss: 1e-7 over 8e-3 */
            free(slope);
        }
        model_params_free(&grad);
        model_work_free(&work);
        model_free(&model);
    }
}

static void a_model_reads_token_by_token_what_it_reads_at_once(void **state)
{
    (void)state;
    enum { LEN = 23, VOCAB = 7 };
    Model model = random_model(2, 2, 9);
    ModelWork work = model_work_new(&model, 1, LEN, false);
    Writer writer = writer_new(&model);
    int32_t ids[LEN];
    for (int t = 0; t < LEN; t++)
        ids[t] = t * t % VOCAB;
    model_forward(&work, NULL, ids, &model);
    for (int t = 0; t < LEN; t++) {
        const float *logits = writer_read(&writer, ids[t]);
        assert_relmax(logits, work.logits + t * VOCAB, VOCAB, 1e-5);
    }
    writer_free(&writer);
    model_work_free(&work);
    model_free(&model);
}

static void the_names_and_sizes_are_the_published_ones(void **state)
{
    (void)state; /* in_proj makes z, x, B, C, dt, A, lambda and the angles, in this order */
    MambaConfig config = config_default_turning(64, 16, 32, 8);
    TensorShape shapes[BLOCK_TENSORS];
    static const struct {
        const char *name;
        size_t count;
    } want[] = {{"norm.weight", 64},
                {"mixer.in_proj.weight", 64 * (2 * 128 + 2 * 32 + 3 * 8 + 8)},
                {"mixer.dt_bias", 8},
                {"mixer.B_norm.weight", 32},
                {"mixer.C_norm.weight", 32},
                {"mixer.B_bias", 8 * 32},
                {"mixer.C_bias", 8 * 32},
                {"mixer.D", 8},
                {"mixer.out_proj.weight", 64 * 128}};
    size_t all = 0, named = 0;
    layer_shapes(shapes, &config);
    for (int i = 0; i < BLOCK_TENSORS; i++) {
        all += shapes[i].count;
        named += shapes[i].count > 0;
        for (size_t k = 0; k < sizeof want / sizeof *want; k++)
            if (shapes[i].count > 0 && strcmp(shapes[i].name, want[k].name) == 0)
                all -= shapes[i].count == want[k].count ? want[k].count : 0;
    }
    assert_int_equal(named, sizeof want / sizeof *want);
    assert_int_equal(all, 0);
}

static void norms_factors_and_biases_start_at_one_and_delta_between_its_limits(void **state)
{
    (void)state;
    MambaConfig config = track_config(TRACK_MAMBA3, 1);
    Random random = random_from_seed(4);
    Model model = model_new(&config);
    model_init(&model, &random);
    float *const *p = model.params.layer[0].tensor;
    for (size_t n = 0; n < config.state_size; n++)
        assert_true(p[TURN_B_NORM][n] == 1.0f && p[TURN_C_NORM][n] == 1.0f);
    for (size_t n = 0; n < config.num_heads * config.state_size; n++)
        assert_true(p[TURN_B_BIAS][n] == 1.0f && p[TURN_C_BIAS][n] == 1.0f);
    for (size_t h = 0; h < config.num_heads; h++) {
        double delta = (double)softplus(p[TURN_DT_BIAS][h]);
        assert_true(delta > 0.1 - 1e-6 && delta < 1.0 + 1e-6 && p[D_SKIP][h] == 1.0f);
    }
    model_free(&model);
}

/* ---- state tracking ------------------------------------------------------------------------- */

static void the_answers_of_the_tasks_are_right(void **state)
{
    (void)state;
    enum { LEN = 61 };
    int32_t id[LEN], target[LEN];
    Random random = random_from_seed(2);
    for (int round = 0; round < 20; round++) {
        parity_piece(id, target, LEN, &random);
        for (int t = 0, ones = 0; t < LEN; t++) {
            ones += id[t];
            assert_int_equal(target[t], ones % 2);
        }
        for (int products = 0; products <= 1; products++) {
            (products ? products_piece : sums_piece)(id, target, LEN, &random);
            for (int end = 0; end < LEN; end++) { /* every beginning anew, the long way */
                int sum = 0, t = 0;
                if (end % 2 == 1) {
                    assert_int_equal(target[end], NOT_ASKED);
                    assert_in_range(id[end], PLUS, products ? TIMES : MINUS);
                    continue;
                }
                while (t <= end) {
                    int sign = t > 0 && id[t - 1] == MINUS ? -1 : 1, term = id[t];
                    for (t += 2; t <= end && id[t - 1] == TIMES; t += 2)
                        term *= id[t];
                    term %= MODULUS;
                    sum += sign * term;
                }
                assert_int_equal(target[end], ((sum % MODULUS) + MODULUS) % MODULUS);
            }
        }
    }
}

static void the_worth_by_hand(void **state)
{
    (void)state; /* 2 + 3 * 4 - 1 = 13: 3 modulo 5 */
    Worth worth = {0, 0};
    assert_int_equal(worth_read(&worth, PLUS, 2), 2);
    assert_int_equal(worth_read(&worth, PLUS, 3), 0);
    assert_int_equal(worth_read(&worth, TIMES, 4), 4);
    assert_int_equal(worth_read(&worth, MINUS, 1), 3);
    assert_int_equal(worth_read(&worth, TIMES, 0), 4);
}

/* Parity wired by hand into a layer of Mamba-3: a 1 turns by half, the first token writes. The
   model has to answer at any length. */
static void a_layer_wired_by_hand_knows_parity_at_any_length(void **state)
{
    (void)state;
    enum { LEN = 1000 };
    static const size_t size[7] = {1, LEN, 1, 1, 1, 2, 1};
    TurnScan scan = random_scan(size, 0, 1);
    int32_t id[LEN], target[LEN];
    float all[6 * LEN], u[LEN] = {1}, theta[LEN], y[LEN];
    Random random = random_from_seed(3);
    scan_free(&scan);
    parity_piece(id, target, LEN, &random);
    for (size_t t = 0; t < LEN; t++)
        theta[t] = raw_of_degrees(t > 0 && id[t] ? 180 : 0);
    scan = turn_scan_plain(all, u, theta, 1.0f, -1e-4f, LEN); /* the slowest decay there is */
    turn_scan(y, NULL, &scan);
    for (size_t t = 0; t < LEN; t++)
        assert_int_equal(y[t] < 0.0f, target[t] ^ id[0]);
}

/* A state that only fades cannot: its answer to a text of ones alone, as a function of their
   number, goes to a limit, and so, from some length on, never changes sign. */
static void what_only_fades_answers_ones_alike_in_the_end(void **state)
{
    (void)state;
    enum { LEN = 400 };
    float u[LEN], delta[LEN], B[3 * LEN], C[3 * LEN], y[LEN], A[1] = {-0.05f};
    Random random = random_from_seed(11);
    float one[7];
    for (int i = 0; i < 7; i++)
        one[i] = (float)random_normal(&random);
    for (size_t t = 0; t < LEN; t++) {
        u[t] = one[0], delta[t] = 1.0f;
        memcpy(B + 3 * t, one + 1, 3 * sizeof(float));
        memcpy(C + 3 * t, one + 4, 3 * sizeof(float));
    }
    HeadScan scan = head_scan_new(LEN, 1, 1, 3, u, delta, A, B, C);
    head_scan(y, NULL, &scan);
    for (size_t t = LEN - 1; t > LEN - 10; t--)
        assert_near(y[t], y[t - 1], 0, 1e-6);
    assert_true(fabsf(y[0]) > 0.0f);
}

static void a_trained_model_is_the_same_for_any_number_of_threads(void **state)
{
    (void)state;
    int most = threads_most();
    MambaConfig config = track_config(TRACK_MAMBA3, 1);
    TrainSettings settings = track_settings(0, 6, 3);
    float *first = NULL;
    for (int threads = 1; threads <= 3; threads++) {
        Random random = random_from_seed(3);
        Model model = model_new(&config);
        threads_use(threads);
        model_init(&model, &random);
        Trainer trainer = trainer_new(&model, &settings);
        BatchSource source = {track_fill, &track_task[TRACK_PARITY]};
        for (int i = 0; i < 4; i++)
            assert_true(isfinite(trainer_step(&trainer, &source)));
        if (first == NULL) {
            first = NEW(float, model_floats(&config));
            memcpy(first, model.params.memory, model_floats(&config) * sizeof(float));
        }
        assert_memory_equal(model.params.memory, first, model_floats(&config) * sizeof(float));
        trainer_free(&trainer);
        model_free(&model);
    }
    threads_use(most);
    free(first);
}

/* ---- a weather that goes round, bad sizes, and the programs --------------------------------- */

static void the_forecast_of_a_weather_that_goes_round_is_chapter_1_s(void **state)
{
    (void)state;
    enum { DAYS = 12 };
    double P[9] = {0.2, 0.8, 0, 0, 0.2, 0.8, 0.8, 0, 0.2}, want[3 * DAYS] = {1, 0, 0};
    double pi[3 * DAYS];
    for (int t = 1; t < DAYS; t++)
        for (int j = 0; j < 3; j++)
            for (int i = 0; i < 3; i++)
                want[3 * t + j] += want[3 * (t - 1) + i] * P[3 * i + j];
    turn_forecast(pi, DAYS);
    assert_all_near(pi, want, 3 * DAYS, 1e-6, 0);
}

static void the_trapezoid_s_error_falls_by_four_and_mamba_s_by_two(void **state)
{
    (void)state;
    double mamba = step_rule_error(0, 0.0625) / step_rule_error(0, 0.03125);
    double trapezoid = step_rule_error(1, 0.0625) / step_rule_error(1, 0.03125);
    double bilinear = step_rule_error(2, 0.0625) / step_rule_error(2, 0.03125);
    assert_near(mamba, 2, 0.05, 0);
    assert_near(trapezoid, 4, 0.05, 0);
    assert_near(bilinear, 4, 0.05, 0);
}

/* Is this scan refused? */
static bool is_refused(const TurnScan *scan)
{
    pid_t child = fork();
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        (void)!freopen("/dev/null", "w", stderr);
        turn_scan(NEW(float, 4096), NULL, scan);
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void sizes_that_cannot_be_are_refused(void **state)
{
    (void)state;
    static const size_t size[7] = {1, 8, 4, 2, 2, 5, 2};
    TurnScan good = random_scan(size, HAS_ALL, 60), scan = good;
    assert_false(is_refused(&scan));
    scan.n_group = 3; /* does not divide 4 heads */
    assert_true(is_refused(&scan));
    scan = good, scan.n_group = 0;
    assert_true(is_refused(&scan));
    scan = good, scan.d_state = 0, scan.n_angle = 0;
    assert_true(is_refused(&scan));
    scan = good, scan.n_angle = 3; /* six of five states */
    assert_true(is_refused(&scan));
    scan_free(&good);
}

static void wrong_options_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *program, *words, *sentence;
    } cases[] = {
        {"ch05_mamba3", "--demo nothing", "--demo: 'nothing' is none of hand"},
        {"ch05_mamba3", "--demo hand --ascii", "--ascii does nothing with --demo hand"},
        {"ch05_mamba3", "--svg x.svg", "--svg needs --demo turn"},
        {"ch05_mamba3", "turn", "'turn' is not an option"},
        {"ch05_state_tracking", "--task chess", "--task: 'chess' is none of parity"},
        {"ch05_state_tracking", "--steps 10", "--steps needs --task"},
        {"ch05_state_tracking", "--task sums --steps 0", "--steps: 0 is out of range"},
        {"ch05_state_tracking", "--task sums --seeds 65", "--seeds: 65 is out of range: 1 to 64"},
        {"ch05_state_tracking", "--task sums --model mamba4",
         "--model: 'mamba4' is none of mamba1"},
        {"ch05_state_tracking", "--task sums --layers 0", "--layers: 0 is out of range: 1 to 64"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_command_says(cases[i].program, cases[i].words, cases[i].sentence, 2);
}

static void a_few_steps_of_every_model_make_a_table(void **state)
{
    (void)state;
    char text[4096];
    run_program_output(text, sizeof text, "ch05_state_tracking",
                       "--task products --steps 2 --seeds 2 --layers 1");
    assert_contains(text, "chance is 20");
    assert_contains(text, "tokens          1 to 40    41 to 160   161 to 256");
    assert_contains(text, "Mamba-1, ");
    assert_contains(text, "Mamba-2, ");
    assert_contains(text, "Mamba-3, ");
    assert_contains(text, "seed 2 ");
    assert_contains(text, "median");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ex5_16_the_scan_agrees_with_golden),
        cmocka_unit_test(ex5_17_every_gradient_agrees_with_golden),
        cmocka_unit_test(ex5_15_a_quarter_turn_by_hand),
        cmocka_unit_test(ex5_15_turns_add_up_and_keep_lengths_and_angles_between),
        cmocka_unit_test(ex5_15_the_lesson_s_four_bits),
        cmocka_unit_test(ex5_16_the_weights_by_hand),
        cmocka_unit_test(ex5_16_without_a_decay_the_trapezoid_is_chapter_3_s_bilinear_rule),
        cmocka_unit_test(ex5_16_both_rules_differ_by_the_cube_of_a_small_step),
        cmocka_unit_test(with_lambda_1_one_state_is_chapter_3_s_rule_of_mamba),
        cmocka_unit_test(ex5_16_with_lambda_1_and_no_turn_it_is_mamba_2),
        cmocka_unit_test(ex5_16_a_head_of_two_states_is_chapter_2_s_oscillator),
        cmocka_unit_test(ex5_16_turned_axes_are_a_state_that_turns),
        cmocka_unit_test(pieces_and_single_steps_are_the_whole),
        cmocka_unit_test(no_tokens_leave_everything_as_it_was),
        cmocka_unit_test(a_turn_of_a_thousand_rounds_keeps_its_digits),
        cmocka_unit_test(ex5_17_a_pair_s_slope_by_hand),
        cmocka_unit_test(ex5_17_gradients_are_the_slopes_of_the_loss),
        cmocka_unit_test(gradients_that_are_not_wanted_are_not_written),
        cmocka_unit_test(every_parameter_of_a_layer_has_the_slope_of_the_loss),
        cmocka_unit_test(a_model_reads_token_by_token_what_it_reads_at_once),
        cmocka_unit_test(the_names_and_sizes_are_the_published_ones),
        cmocka_unit_test(norms_factors_and_biases_start_at_one_and_delta_between_its_limits),
        cmocka_unit_test(the_answers_of_the_tasks_are_right),
        cmocka_unit_test(the_worth_by_hand),
        cmocka_unit_test(a_layer_wired_by_hand_knows_parity_at_any_length),
        cmocka_unit_test(what_only_fades_answers_ones_alike_in_the_end),
        cmocka_unit_test(a_trained_model_is_the_same_for_any_number_of_threads),
        cmocka_unit_test(the_forecast_of_a_weather_that_goes_round_is_chapter_1_s),
        cmocka_unit_test(the_trapezoid_s_error_falls_by_four_and_mamba_s_by_two),
        cmocka_unit_test(sizes_that_cannot_be_are_refused),
        cmocka_unit_test(wrong_options_are_named),
        cmocka_unit_test(a_few_steps_of_every_model_make_a_table),
    };
    return cmocka_run_group_tests_name("chapter 5d", tests, NULL, NULL);
}
