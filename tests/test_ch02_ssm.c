/* Chapter 2 held against chapter 1, golden data, itself three ways, and bad input. */

#include "../ch02_ssm_abcd/ssm.c"
#include "golden.h"

/* A random system of these sizes with spectral radius `radius`. */
static Ssm random_system(size_t n, size_t m, size_t p, double radius, uint64_t seed)
{
    Random random = random_from_seed(seed);
    Ssm system = ssm_new(n, m, p);
    for (size_t i = 0; i < n * n; i++)
        system.A[i] = random_normal(&random);
    double now = matrix_spectral_radius(system.A, n);
    for (size_t i = 0; i < n * n; i++)
        system.A[i] *= radius / now;
    for (size_t i = 0; i < n * m; i++)
        system.B[i] = random_normal(&random);
    for (size_t i = 0; i < p * n; i++)
        system.C[i] = random_normal(&random);
    for (size_t i = 0; i < p * m; i++)
        system.D[i] = random_normal(&random);
    for (size_t i = 0; i < n; i++)
        system.x0[i] = random_normal(&random);
    return system;
}

static Signal noise(size_t len, size_t width, uint64_t seed)
{
    Signal u = {0, 0, NULL, NULL};
    assert_true(signal_built_in(&u, "noise", len, width, seed));
    return u;
}

/* The golden systems, one after the other. */
typedef struct {
    Safetensors file;
    Ssm system;
    double *u;
    size_t len;
} Golden;

static void golden_load(Golden *golden, const char *path)
{
    golden_open(&golden->file, path);
    const Safetensors *file = &golden->file;
    Ssm system = {golden_size(file, "A", 0),       golden_size(file, "B", 1),
                  golden_size(file, "C", 0),       golden_doubles(NULL, file, "A"),
                  golden_doubles(NULL, file, "B"), golden_doubles(NULL, file, "C"),
                  golden_doubles(NULL, file, "D"), golden_doubles(NULL, file, "x0")};
    golden->system = system;
    golden->u = golden_doubles(NULL, file, "u");
    golden->len = golden_size(file, "u", 0);
}

static void golden_unload(Golden *golden)
{
    ssm_free(&golden->system);
    free(golden->u);
    safetensors_close(&golden->file);
}

/* Calls `check` for every golden system. */
static void for_each_system(void (*check)(const Golden *))
{
    glob_t found;
    size_t files = golden_list(&found, "ch02_*.safetensors");
    for (size_t f = 0; f < files; f++) {
        Golden golden;
        golden_load(&golden, found.gl_pathv[f]);
        check(&golden);
        golden_unload(&golden);
    }
    globfree(&found);
}

static const double tolerance = 1e-12; /* relmax; INDEX.md: float64 */

/* `what` is what `got` is, in words. */
static void assert_golden(const char *what, const Golden *golden, const char *name,
                          const double *got)
{
    const Tensor *tensor;
    double *want = golden_doubles(&tensor, &golden->file, name);
    assert_relmax_as(what, got, want, tensor->count, tolerance);
    free(want);
}

/* ---- the recurrence ---------------------------------------------------------------------- */

static void ex2_1_the_weather_has_P_transposed_for_A(void **state)
{
    (void)state;
    static const double A[4] = {0.8, 0.4, 0.2, 0.6}, C[4] = {1, 0, 0, 1}, start[2] = {0.25, 0.75};
    static const double zero[2] = {0, 0};
    Chain chain = chain_weather();
    Ssm system = ssm_from_chain(&chain, start);
    assert_true(system.d_state == 2 && system.d_in == 1 && system.d_out == 2);
    assert_all_near_as("A of the weather", system.A, A, 4, 0, 0);
    assert_all_near_as("C of the weather", system.C, C, 4, 0, 0);
    assert_all_near_as("B of the weather, where nothing comes in", system.B, zero, 2, 0, 0);
    assert_all_near_as("D of the weather, where nothing comes in", system.D, zero, 2, 0, 0);
    assert_all_near(system.x0, start, 2, 0, 0);
    ssm_free(&system);
    chain_free(&chain);
}

static void the_weather_as_a_system_gives_chapter_1_bit_for_bit(void **state)
{
    (void)state;
    static const char *const files[] = {"data/weather.csv", "data/two_climates.csv",
                                        "data/traffic_light.csv"};
    for (size_t f = 0; f < 3; f++) {
        Chain chain;
        Error error;
        assert_true(chain_read(&chain, files[f], &error));
        size_t n = chain.n_state, days = 50;
        double *start = NEW(double, n), *pi = NEW(double, (days + 1) * n);
        double *y = NEW(double, (days + 1) * n), *u = NEW(double, days + 1);
        for (size_t i = 0; i < n; i++)
            start[i] = 1.0 / (double)n;
        Ssm system = ssm_from_chain(&chain, start);
        chain_forecast(pi, start, &chain, days);
        assert_int_equal(ssm_run(y, system.x0, u, &system, days + 1, READ_BEFORE), days + 1);
        assert_memory_equal(pi, y, (days + 1) * n * sizeof *pi);
        free(start);
        free(pi);
        free(y);
        free(u);
        ssm_free(&system);
        chain_free(&chain);
    }
}

static void a_random_chain_as_a_system_gives_its_forecasts(void **state)
{
    (void)state;
    enum { N = 31, DAYS = 20 };
    Chain chain = chain_new(N);
    Random random = random_from_seed(1);
    double start[N] = {0}, pi[(DAYS + 1) * N], y[(DAYS + 1) * N], u[DAYS + 1] = {0};
    for (size_t i = 0; i < N; i++) {
        double sum = 0.0;
        for (size_t j = 0; j < N; j++)
            sum += chain.P[i * N + j] = random_uniform(&random);
        for (size_t j = 0; j < N; j++)
            chain.P[i * N + j] /= sum;
    }
    start[3] = 1.0;
    Ssm system = ssm_from_chain(&chain, start);
    chain_forecast(pi, start, &chain, DAYS);
    ssm_run(y, system.x0, u, &system, DAYS + 1, READ_BEFORE);
    assert_memory_equal(pi, y, sizeof pi);
    ssm_free(&system);
    chain_free(&chain);
}

static void ex2_2_one_step_is_as_worked_by_hand(void **state)
{
    (void)state; /* x = (1, 2), u = (10, 100, 1000) */
    static const double numbers[] = {1, 2, 3, 4, 1, 0, 0, 0, 1, 2, 1, -1, 0, 0, 1}; /* A B C D */
    Ssm system = ssm_of(2, 3, 1, numbers);
    double x[2] = {1, 2}, u[3] = {10, 100, 1000}, next[2] = {NAN, NAN}, y[1] = {NAN};
    ssm_step(next, x, u, &system);
    assert_near_as("x_next[0] by hand", next[0], 1 * 1 + 2 * 2 + 10, 0, 0);
    assert_near_as("x_next[1] by hand", next[1], 3 * 1 + 4 * 2 + 100 + 2 * 1000, 0, 0);
    ssm_output(y, x, u, &system);
    assert_near(y[0], 1 - 2 + 1000, 0, 0);
    ssm_free(&system);
}

static void check_runs(const Golden *golden)
{
    static const char *const names[2][2] = {{"ssm.y", "ssm.x"}, {"ctl.y", "ctl.x"}};
    const Ssm *system = &golden->system;
    size_t n = system->d_state, len = golden->len;
    double *y = NEW(double, len * system->d_out), *x = NEW(double, (len + 1) * n);
    for (int reading = 0; reading < 2; reading++) {
        memcpy(x, system->x0, n * sizeof *x);
        size_t done = ssm_run(y, x, golden->u, system, len, (Reading)reading);
        assert_that(done == len, "the state overflows at step %zu of %zu", done, len);
        assert_golden("the outputs", golden, names[reading][0], y);
    }
    memcpy(x, system->x0, n * sizeof *x);
    for (size_t t = 0; t < len; t++)
        ssm_step(x + (t + 1) * n, x + t * n, golden->u + t * system->d_in, system);
    assert_golden("the states", golden, "ssm.x", x + n); /* x_0 .. x_{L-1}, after each update */
    assert_golden("the states", golden, "ctl.x", x);     /* x_0 .. x_L */
    free(y);
    free(x);
}

static void ex2_2_both_conventions_agree_with_golden_data(void **state)
{
    (void)state;
    for_each_system(check_runs);
}

static void a_sequence_in_pieces_is_the_sequence(void **state)
{
    (void)state;
    enum { LEN = 257 };
    Ssm system = random_system(5, 2, 3, 0.9, 2);
    Signal u = noise(LEN, 2, 3);
    double whole[LEN * 3], pieces[LEN * 3], x[5], carried[5];
    memcpy(x, system.x0, sizeof x);
    memcpy(carried, system.x0, sizeof x);
    ssm_run(whole, x, u.value, &system, LEN, READ_AFTER);
    for (size_t at = 0, piece = 1; at < LEN; at += piece, piece = piece % 31 + 7) {
        size_t len = at + piece > LEN ? LEN - at : piece;
        ssm_run(pieces + at * 3, carried, u.value + at * 2, &system, len, READ_AFTER);
    }
    assert_memory_equal(whole, pieces, sizeof whole);
    assert_memory_equal(x, carried, sizeof x);
    assert_int_equal(ssm_run(whole, x, u.value, &system, 0, READ_AFTER),
                     0); /* no step: no change */
    assert_memory_equal(x, carried, sizeof x);
    signal_free(&u);
    ssm_free(&system);
}

static void check_as_control(const Golden *golden)
{
    Ssm control = ssm_as_control(&golden->system);
    double *y = matrix_new(golden->len, control.d_out);
    run_from_start(y, golden->u, &control, golden->len, READ_BEFORE);
    assert_golden("the outputs of the system read before", golden, "ssm.y", y);
    free(y);
    ssm_free(&control);
}

static void ex2_3_a_system_read_after_is_another_one_read_before(void **state)
{
    (void)state;
    for_each_system(check_as_control);
}

static void without_D_the_two_readings_are_one_step_apart(void **state)
{
    (void)state; /* y read before at t + 1 is y read after at t, D aside */
    enum { LEN = 40 };
    Ssm system = random_system(4, 1, 2, 0.9, 4);
    memset(system.D, 0, 2 * sizeof(double));
    Signal u = noise(LEN, 1, 5);
    double after[LEN * 2], before[LEN * 2];
    run_from_start(after, u.value, &system, LEN, READ_AFTER);
    run_from_start(before, u.value, &system, LEN, READ_BEFORE);
    assert_memory_equal(before + 2, after, (LEN - 1) * 2 * sizeof(double));
    signal_free(&u);
    ssm_free(&system);
}

/* ---- the convolution --------------------------------------------------------------------- */

static void check_kernels(const Golden *golden)
{
    const Ssm *system = &golden->system;
    size_t pairs = system->d_out * system->d_in, len = golden->len;
    double *K = matrix_new(len, pairs);
    size_t finite = ssm_kernel(K, system, len, READ_AFTER);
    assert_that(finite == len, "only %zu of %zu steps of the kernel are finite", finite, len);
    assert_golden("the kernel, read after the update", golden, "ssm.K", K);
    finite = ssm_kernel(K, system, len, READ_BEFORE);
    assert_that(finite == len, "only %zu of %zu steps of the kernel are finite", finite, len);
    for (size_t i = 0; i < pairs; i++) /* the golden kernel of control theory has D in K[0] */
        K[i] += system->D[i];
    assert_golden("the kernel, read before the update", golden, "ctl.K", K);
    free(K);
}

static void ex2_4_kernels_agree_with_golden_data(void **state)
{
    (void)state;
    for_each_system(check_kernels);
}

static void ex2_4_a_kernel_is_the_answer_to_an_impulse(void **state)
{
    (void)state;
    enum { LEN = 33 };
    Ssm system = random_system(3, 2, 2, 0.95, 6);
    double K[LEN * 4], y[LEN * 2], u[LEN * 2] = {0, 1}; /* an impulse on the second input */
    memset(system.D, 0, 4 * sizeof(double));
    memset(system.x0, 0, 3 * sizeof(double));
    ssm_kernel(K, &system, LEN, READ_AFTER);
    run_from_start(y, u, &system, LEN, READ_AFTER);
    for (size_t t = 0; t < LEN; t++)
        for (size_t j = 0; j < 2; j++)
            assert_near_as("the kernel, beside the answer to an impulse,", K[(t * 2 + j) * 2 + 1],
                           y[t * 2 + j], 1e-14, 0);
    ssm_free(&system);
}

static void check_convolutions(const Golden *golden)
{
    static const char *const with_start[2] = {"ssm.y", "ctl.y"}, *const without[2] = {"ssm.y0",
                                                                                      "ctl.y0"};
    const Ssm *system = &golden->system;
    size_t len = golden->len, pairs = system->d_out * system->d_in;
    double *K = matrix_new(len, pairs), *y = NEW(double, len * system->d_out);
    for (int r = 0; r < 2; r++) {
        ssm_kernel(K, system, len, (Reading)r);
        ssm_convolve(y, K, golden->u, system, len);
        assert_golden("the direct sum", golden, without[r], y);
        ssm_convolve_fft(y, K, golden->u, system, len);
        assert_golden("the sum by FFT", golden, without[r], y);
        ssm_add_free_response(y, system->x0, system, len, (Reading)r);
        assert_golden("the sum and what the start shows", golden, with_start[r], y);
    }
    free(K);
    free(y);
}

static void ex2_5_convolutions_agree_with_golden_data(void **state)
{
    (void)state;
    for_each_system(check_convolutions);
}

static void ex2_5_three_computations_give_one_answer_at_any_length(void **state)
{
    (void)state;
    static const size_t lengths[] = {1, 2, 3, 31, 32, 33, 257, 1000};
    for (size_t k = 0; k < 8; k++) {
        size_t len = lengths[k];
        Ssm system = random_system(4, 2, 3, 0.97, 7 + k);
        Signal u = noise(len, 2, 8 + k);
        for (int way = 1; way < 3; way++)
            for (int reading = 0; reading < 2; reading++) {
                double *want = NEW(double, len * 3), *guarded = NEW(double, len * 3 + 2);
                Error error;
                guarded[0] = guarded[len * 3 + 1] = 123.0;
                for (size_t i = 1; i <= len * 3; i++)
                    guarded[i] = NAN;
                assert_true(ssm_compute(want, u.value, &system, len, BY_RECURRENCE,
                                        (Reading)reading, &error));
                assert_true(ssm_compute(guarded + 1, u.value, &system, len, (Way)way,
                                        (Reading)reading, &error));
                assert_relmax_as(way == BY_FFT ? "the sum by FFT" : "the direct sum", guarded + 1,
                                 want, len * 3, 1e-12);
                assert_that(guarded[0] == 123.0 && guarded[len * 3 + 1] == 123.0,
                            "something was written before or behind y");
                free(want);
                free(guarded);
            }
        signal_free(&u);
        ssm_free(&system);
    }
}

static void the_fft_is_the_sum_that_defines_it(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 2, 4, 8, 64, 256};
    for (size_t s = 0; s < 6; s++) {
        size_t n = sizes[s];
        Complex *z = NEW(Complex, n), *Z = NEW(Complex, n), *roots = NEW(Complex, n);
        Random random = random_from_seed(n);
        for (size_t t = 0; t < n; t++) {
            z[t].re = Z[t].re = random_normal(&random);
            z[t].im = Z[t].im = random_normal(&random);
        }
        fft_roots(roots, n);
        fft(Z, roots, n);
        for (size_t f = 0; f < n; f++) {
            double re = 0.0, im = 0.0;
            for (size_t t = 0; t < n; t++) {
                double angle = -2.0 * PI * (double)(f * t % n) / (double)n;
                re += z[t].re * cos(angle) - z[t].im * sin(angle);
                im += z[t].re * sin(angle) + z[t].im * cos(angle);
            }
            assert_near(Z[f].re, re, 1e-12, 0); /* sums of 256 terms of size 1 */
            assert_near(Z[f].im, im, 1e-12, 0);
        }
        free(z);
        free(Z);
        free(roots);
    }
}

/* ---- the basis --------------------------------------------------------------------------- */

static void ex2_6_another_basis_gives_the_same_outputs(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 2, 7, 31};
    enum { LEN = 60 };
    for (size_t s = 0; s < 4; s++) {
        size_t n = sizes[s];
        Ssm system = random_system(n, 2, 3, 0.9, 20 + n), changed;
        Signal u = noise(LEN, 2, 21);
        double *T = matrix_new(n, n), y[LEN * 3], again[LEN * 3];
        Random random = random_from_seed(22);
        for (size_t i = 0; i < n * n; i++)
            T[i] = random_normal(&random) + (i % (n + 1) == 0 ? 2.0 : 0.0);
        Error error;
        assert_true(ssm_change_basis(&changed, &system, T, &error));
        run_from_start(y, u.value, &system, LEN, READ_AFTER);
        run_from_start(again, u.value, &changed, LEN, READ_AFTER);
        assert_relmax_as("the outputs in other coordinates", again, y, LEN * 3,
                         1e-11); /* T has condition numbers up to about 1e3 */
        free(T);
        signal_free(&u);
        ssm_free(&system);
        ssm_free(&changed);
    }
}

static void ex2_6_the_weather_in_its_eigenbasis_is_two_numbers(void **state)
{
    (void)state;
    Ssm system = weather_system(), diagonal;
    double lambda[2], T[4], want_A[4] = {1, 0, 0, 0.4}, want_x[2] = {1, -1.0 / 6.0};
    Error error;
    assert_true(eigen_2x2(lambda, T, system.A));
    assert_near(lambda[0], 1.0, 1e-15, 0);
    assert_near(lambda[1], 0.4, 1e-15, 0);
    assert_true(ssm_change_basis(&diagonal, &system, T, &error));
    assert_all_near_as("A in its eigenbasis", diagonal.A, want_A, 4, 1e-15, 0);
    assert_all_near_as("the start in the eigenbasis", diagonal.x0, want_x, 2, 1e-15, 0);
    ssm_free(&system);
    ssm_free(&diagonal);
}

static void eigenvectors_of_2x2_matrices_are_eigenvectors(void **state)
{
    (void)state;
    Random random = random_from_seed(23);
    int real = 0;
    for (int k = 0; k < 10000; k++) {
        double A[4], lambda[2], T[4];
        for (int i = 0; i < 4; i++)
            A[i] = random_u32(&random) % 5 == 0 ? 0.0 : random_normal(&random);
        if (!eigen_2x2(lambda, T, A))
            continue;
        real++;
        assert_true(lambda[0] >= lambda[1]);
        for (int c = 0; c < 2; c++)
            for (int r = 0; r < 2; r++) {
                double size = fabs(T[c]) + fabs(T[2 + c]);
                double left = A[2 * r] * T[c] + A[2 * r + 1] * T[2 + c];
                assert_near(left, lambda[c] * T[2 * r + c], 1e-13 * size, 1e-13);
            }
    }
    assert_true(real > 4000);
    double turn[4] = {0, -1, 1, 0}, defective[4] = {1, 1, 0, 1}, lambda[2], T[4];
    assert_false(eigen_2x2(lambda, T, turn));
    assert_false(eigen_2x2(lambda, T, defective));
}

static void a_singular_basis_is_refused(void **state)
{
    (void)state;
    Ssm system = weather_system(), out;
    double T[4] = {1, 2, 2, 4};
    Error error;
    assert_false(ssm_change_basis(&out, &system, T, &error));
    assert_string_equal(error.text,
                        "the basis T is singular: its columns do not span all 2 dimensions");
    ssm_free(&system);
}

/* ---- reading and bad input --------------------------------------------------------------- */

static bool system_from_text(Ssm *system, double **T, const char *text, Error *error)
{
    Table table;
    if (!table_parse(&table, strdup(text), strlen(text), true, "x.ssm", error))
        return false;
    bool ok = ssm_from_table(system, T, &table, error);
    table_free(&table);
    return ok;
}

static void assert_system_refused(const char *text, const char *sentence)
{
    Ssm system, untouched;
    double *T = NULL;
    Error error;
    memset(&system, 0x5A, sizeof system);
    memset(&untouched, 0x5A, sizeof untouched);
    assert_false(system_from_text(&system, &T, text, &error));
    assert_string_equal(error.text, sentence);
    assert_memory_equal(&system, &untouched, sizeof system);
    assert_null(T);
}

static void a_system_file_may_leave_out_what_is_plain(void **state)
{
    (void)state;
    Ssm system;
    double *T, A[4] = {0.5, -1e-1, 1.0 / 3.0, 0}, C[4] = {1, 0, 0, 1}, zero[2] = {0, 0};
    Error error;
    assert_true(system_from_text(&system, &T, "# c\nA\n 0.5\t-1e-1\n1/3, 0\n", &error));
    assert_null(T);
    assert_true(system.d_state == 2 && system.d_in == 1 && system.d_out == 2);
    assert_all_near(system.A, A, 4, 0, 0);
    assert_all_near(system.C, C, 4, 0, 0);
    assert_all_near(system.B, zero, 2, 0, 0);
    ssm_free(&system);
    assert_true(system_from_text(&system, &T, "A\n2\nD\n1 2 3\nx0\n5\nT\n4\n", &error));
    assert_true(system.d_in == 3 && system.d_out == 1 && system.x0[0] == 5 && T[0] == 4);
    free(T);
    ssm_free(&system);
    assert_true(system_from_text(&system, &T, "A\n1 0\n0 1\nx0\n3\n4\n", &error)); /* a column */
    assert_true(system.x0[0] == 3 && system.x0[1] == 4);
    ssm_free(&system);
}

static void blocks_that_do_not_fit_say_which(void **state)
{
    (void)state;
    assert_system_refused("A\n1 2\n", "x.ssm:1: A is 1 by 2, but must be 1 by 1: A is square");
    assert_system_refused("A\n1 0\n0 1\nB\n1\n",
                          "x.ssm:4: B is 1 by 1, but must be 2 by 1: one row for each state of A");
    assert_system_refused(
        "A\n1\nC\n1 2\n",
        "x.ssm:3: C is 1 by 2, but must be 1 by 1: one column for each state of A");
    assert_system_refused(
        "A\n1\nB\n1 2\nC\n1\nD\n1\n",
        "x.ssm:7: D is 1 by 1, but must be 1 by 2: a row for each of C's, a column "
        "for each of B's");
    assert_system_refused(
        "A\n1\nx0\n1 2\n",
        "x.ssm:3: x0 is 1 by 2, but must be 1 by 1: one number for each state of A");
    assert_system_refused("A\n1\nT\n1 2\n",
                          "x.ssm:3: T is 1 by 2, but must be 1 by 1: as large as A");
}

static void bad_blocks_are_refused(void **state)
{
    (void)state;
    assert_system_refused("", "x.ssm: there is no block A");
    assert_system_refused("B\n1\n", "x.ssm: there is no block A");
    assert_system_refused("A\n", "x.ssm:1: block A has no rows");
    assert_system_refused("1 2\nA\n", "x.ssm:1: '1' before any block: start with a line A");
    assert_system_refused("A\n1\nA\n1\n", "x.ssm:3: a second block A; the first is on line 1");
    assert_system_refused("A\n1 2\n3\n", "x.ssm:3: row 2 of A has 1 number, its first has 2");
    assert_system_refused("A\n1 nan\n3 4\n", "x.ssm:2: row 1 of A: 'nan' is not a finite number");
    assert_system_refused("A\n1 2\ninf 4\n", "x.ssm:3: row 2 of A: 'inf' is not a finite number");
    assert_system_refused("A\n1\nE\n1\n", "x.ssm:3: row 2 of A: 'E' is not a number");
}

static bool signal_from_text(Signal *signal, const char *text, size_t width, Error *error)
{
    Table table;
    if (!table_parse(&table, strdup(text), strlen(text), false, "u.csv", error))
        return false;
    bool ok = signal_from_table(signal, &table, width, error);
    table_free(&table);
    return ok;
}

static void inputs_are_read_with_and_without_times_and_titles(void **state)
{
    (void)state;
    Signal u;
    Error error;
    assert_true(signal_from_text(&u, "year,u\n1700,5\n\n1701,11\n", 1, &error));
    assert_true(u.len == 2 && u.time[1] == 1701 && u.value[1] == 11);
    signal_free(&u);
    assert_true(signal_from_text(&u, "1,2\n3,4\n5,6\n", 2, &error));
    assert_true(u.len == 3 && u.time[2] == 2 && u.value[4] == 5);
    signal_free(&u);
    assert_true(signal_from_text(&u, "\xEF\xBB\xBFt;u\r1700;0,5\r1701;-1,25\r", 1, &error));
    assert_true(u.len == 2 && u.time[1] == 1701 && u.value[1] == -1.25);
    signal_free(&u);
}

static void bad_inputs_are_refused(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"", "u.csv: empty: there is no sample in this file"},
        {"t,u\n", "u.csv: empty: there is no sample in this file"},
        {"1,2,3\n",
         "u.csv:1: 3 columns, but the system has 1 input (one more in front may give the "
         "time)"},
        {"1,2\n3\n", "u.csv:2: 1 columns, but the lines above have 2"},
        {"1\n2x\n", "u.csv:2: column 1: '2x' is not a number"},
        {"1\nnan\n", "u.csv:2: column 1: 'nan' is not a finite number"},
        {"nan\n1\n", "u.csv:1: column 1: 'nan' is not a finite number"},
        {"1e400\n1\n", "u.csv:1: column 1: '1e400' is not a finite number"},
        {"t,1x\n1,2\n", "u.csv:1: column 1: 't' is not a number"},
        {"t,u\n1,NA\n", "u.csv:2: column 2: 'NA' is not a number"},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        Signal u;
        Error error;
        assert_false(signal_from_text(&u, cases[k][0], 1, &error));
        assert_string_equal(error.text, cases[k][1]);
    }
}

static void built_in_inputs_are_what_they_say(void **state)
{
    (void)state;
    Signal u;
    assert_true(signal_built_in(&u, "impulse", 3, 2, 0));
    assert_true(u.value[0] == 1 && u.value[1] == 1 && u.value[2] == 0 && u.value[5] == 0);
    signal_free(&u);
    assert_true(signal_built_in(&u, "step", 3, 1, 0));
    assert_true(u.value[0] == 1 && u.value[2] == 1);
    signal_free(&u);
    assert_true(signal_built_in(&u, "sine", 21, 1, 0));
    assert_near(u.value[5], 1, 1e-15, 0);
    assert_near(u.value[20], 0, 1e-15, 0);
    signal_free(&u);
    assert_true(signal_built_in(&u, "none", 2, 1, 0));
    assert_true(u.value[0] == 0 && u.value[1] == 0);
    signal_free(&u);
    assert_false(signal_built_in(&u, "tide", 3, 1, 0));
}

static void a_programs_input_is_built_in_or_a_file(void **state)
{
    (void)state;
    Signal u;
    Error error;
    assert_true(signal_open(&u, "step", 0, 40, 2, 1, NO_SEED, &error));
    assert_true(u.len == 40 && u.width == 2 && u.value[79] == 1);
    signal_free(&u);
    assert_true(signal_open(&u, "waves", 7, 40, 1, 1, NO_SEED, &error));
    assert_int_equal(u.len, 7);
    assert_near(u.value[0], 0.5 * sin(1.0), 1e-15, 0);
    signal_free(&u);
    assert_true(signal_open(&u, "data/sunspots.csv", 0, 40, 1, 1, NO_SEED, &error));
    assert_true(u.len > 100 && u.time[0] == 1700);
    signal_free(&u);
    assert_true(signal_open(&u, "data/sunspots.csv", 60, 40, 1, 1, NO_SEED, &error));
    assert_int_equal(u.len, 60);
    signal_free(&u);
    assert_false(signal_open(&u, "no.csv", 60, 40, 1, 1, NO_SEED, &error));
    assert_contains(error.text, "no.csv: No such file");
    assert_false(signal_open(&u, "step", 10000000, 40, 900, 100, NO_SEED, &error));
    assert_contains(error.text, "10000000 steps of 1000 inputs and outputs are more than");
}

static void a_seed_is_refused_where_nothing_is_random(void **state)
{
    (void)state;
    Signal u, same, other;
    Error error;
    assert_true(seed_is_used(NO_SEED, "sine", &error));
    assert_true(seed_is_used(3, "noise", &error));
    assert_false(seed_is_used(3, "sine", &error));
    assert_string_equal(error.text, "--seed needs --input noise");
    assert_true(signal_open(&u, "noise", 5, 40, 1, 1, NO_SEED, &error));
    assert_true(signal_open(&same, "noise", 5, 40, 1, 1, 1, &error));
    assert_true(signal_open(&other, "noise", 5, 40, 1, 1, 2, &error));
    assert_memory_equal(u.value, same.value, 5 * sizeof(double));
    assert_memory_not_equal(u.value, other.value, 5 * sizeof(double));
    signal_free(&u);
    signal_free(&same);
    signal_free(&other);
}

static void an_unstable_system_says_at_which_step_it_overflows(void **state)
{
    (void)state; /* 10^t leaves the doubles at t = 309; read after the update, that is step 308 */
    Ssm system = ssm_new(1, 1, 1);
    Signal u = noise(1000, 1, 1);
    double *y = NEW(double, 1000);
    system.A[0] = 10;
    system.B[0] = system.C[0] = system.x0[0] = 1;
    memset(u.value, 0, 1000 * sizeof(double));
    u.value[0] = 1;
    static const char *const want[] = {"step 308", "step 308", "step 308"};
    for (int way = 0; way < 3; way++) {
        Error error;
        assert_false(ssm_compute(y, u.value, &system, u.len, (Way)way, READ_AFTER, &error));
        assert_contains(error.text, want[way]);
        assert_contains(error.text, "spectral radius 10)");
    }
    free(y);
    signal_free(&u);
    ssm_free(&system);
}

static void a_direct_sum_that_would_take_for_ever_is_refused(void **state)
{
    (void)state;
    Ssm system = ssm_new(1, 1, 1);
    Signal u = noise(200000, 1, 1);
    Error error;
    assert_false(ssm_compute(NULL, u.value, &system, u.len, BY_CONVOLUTION, READ_AFTER, &error));
    assert_contains(error.text, "--mode convolution: 2.0e+10 products for 200000 steps");
    signal_free(&u);
    ssm_free(&system);
}

static void wrong_options_are_told_in_one_sentence(void **state)
{
    (void)state;
    static const struct {
        const char *words, *sentence;
        int code;
    } cases[] = {
        {"--length 0 --system data/oscillator.ssm", "--length: 0 is out of range: 1 to 10000000",
         2},
        {"--length 99999999 --system data/oscillator.ssm", "is out of range: 1 to 10000000", 2},
        {"--length ten --system data/oscillator.ssm", "--length: 'ten' is not a whole number", 2},
        {"--mode slow --system data/oscillator.ssm", "'slow' is none of recurrent", 2},
        {"--system", "--system: a value is missing: FILE", 2},
        {"--sistem x", "'--sistem' is not an option", 2},
        {"extra", "'extra' is not an option", 2},
        {"--input step", "--input needs --system", 2},
        {"--length 5", "--length needs --system", 2},
        {"--mode fft --demo three", "--mode needs --system", 2},
        {"--control", "--control needs --system", 2},
        {"--csv x.csv --demo three", "--csv needs --system", 2},
        {"--seed 3", "--seed needs --system", 2},
        {"--seed 3 --system data/oscillator.ssm", "--seed needs --input noise", 2},
        {"--seed 3 --input sine --system data/oscillator.ssm", "--seed needs --input noise", 2},
        {"--svg x.svg", "--svg needs --demo or --system", 2},
        {"--demo three --system data/oscillator.ssm", "--demo and --system exclude each other", 2},
        {"--demo nothing", "--demo: 'nothing' is none of tank", 2},
        {"--system no.ssm", "no.ssm: No such file or directory", 1},
        {"--system data/oscillator.ssm --input no.csv", "no.csv: No such file or directory", 1},
        {"--system data/oscillator.ssm --input stepp",
         "--input: 'stepp' is neither a file nor impulse, step, sine, waves, noise or none", 1},
        {"--system data/oscillator.ssm --input data/tel_aviv_rain.csv", "3 columns, but the system",
         1},
        {"--system data/oscillator.ssm --svg /no/dir/x.svg", "/no/dir/x.svg: cannot be written", 1},
        {"--system data/oscillator.ssm --csv /dev/full", "/dev/full: cannot be written", 1},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
        assert_command_says("ch02_ssm", cases[k].words, cases[k].sentence, cases[k].code);
}

static void days_are_counted_from_the_first_after_the_start(void **state)
{
    (void)state;
    Signal u = quiet_days(3);
    for (size_t t = 0; t < 3; t++) {
        assert_near(u.time[t], (double)t + 1.0, 0, 0);
        assert_near(u.value[t], 0, 0, 0);
    }
    signal_free(&u);
}

static void the_demos_print_what_the_lesson_works_by_hand(void **state)
{
    (void)state;
    static const struct {
        const char *words, *sentence;
    } cases[] = {
        {"--demo tank",
         "t = 0   level 0.5 x 0    + 1 x 1 = 1      gauge 1 x 1    + 0.25 x 1 = 1.25"},
        {"--demo tank",
         "t = 2   level 0.5 x 0.5  + 1 x 0 = 0.25   gauge 1 x 0.25 + 0.25 x 0 = 0.25"},
        {"--demo weather", "         1            0.6000   0.4000              0.6000   0.4000\n"},
        {"--demo weather", "Every bit the same: yes."},
        {"--demo front", "         3   0.20 |  0.4560  0.5440       0.20 |"},
        {"--demo front", "         4   0.00 |  0.5824  0.4176       0.00 |"},
        {"--demo slide",
         "  t = 1           0.5        1                                       y = 1.5\n"},
        {"--demo slide", "1            y = 2.1875\n"}, /* 2 + 1/8 + 1/16 */
        {"--demo basis", "       2 |    1.000000    -0.026667 |   0.6400   0.3600 |"},
        {"--demo basis", "The outputs agree to 1e-12: yes."},
    };
    char text[8192];
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        assert_int_equal(run_program_output(text, sizeof text, "ch02_ssm", cases[k].words), 0);
        assert_contains(text, cases[k].sentence);
    }
}

/* The number that --system prints about the file's own basis T. */
static double difference_in_the_basis(const char *words)
{
    char text[16384];
    assert_int_equal(run_program_output(text, sizeof text, "ch02_ssm", words), 0);
    static const char before[] = "largest difference of the outputs, relative: ";
    assert_contains(text, before);
    return strtod(strstr(text, before) + strlen(before), NULL);
}

static void a_basis_of_the_file_changes_no_output_in_either_convention(void **state)
{
    (void)state;
    assert_near(difference_in_the_basis("--system data/weather.ssm"), 0, 1e-14, 0);
    assert_near(difference_in_the_basis("--system data/weather.ssm --control"), 0, 1e-14, 0);
}

/* Writes a file of this text at a new path made from `path`. */
static void file_of(char *path, const char *text)
{
    int descriptor = mkstemp(path);
    assert_true(descriptor >= 0);
    assert_int_equal(write(descriptor, text, strlen(text)), strlen(text));
    close(descriptor);
}

static void outputs_of_nothing_differ_by_nothing(void **state)
{
    (void)state; /* no input, no start: 0 / 0 would be no number */
    char path[] = "/tmp/ch02_zero_XXXXXX", words[80];
    file_of(path, "A\n0.5\nT\n2\n");
    snprintf(words, sizeof words, "--system %s --input none", path);
    assert_near(difference_in_the_basis(words), 0, 0, 0);
    unlink(path);
}

static void what_is_on_the_edge_does_not_fade_and_may_grow(void **state)
{
    (void)state; /* a body that keeps its speed: place 1, 2, 3 ... */
    char path[] = "/tmp/ch02_edge_XXXXXX", words[80], text[16384];
    file_of(path, "A\n1 1\n0 1\nx0\n0 1\n");
    snprintf(words, sizeof words, "--system %s --input none --length 9", path);
    assert_int_equal(run_program_output(text, sizeof text, "ch02_ssm", words), 0);
    unlink(path);
    assert_contains(
        text, "Spectral radius of A: 1.0000, to nine digits. On the edge: part of the state\n"
              "does not fade, or only in a billion steps; it stays, swings, or grows slowly.");
    assert_contains(text, "           8     0.00000  |     9.00000     1.00000");
}

static void written_outputs_are_read_back_to_the_last_bit(void **state)
{
    (void)state;
    enum { LEN = 33 };
    char path[] = "/tmp/ch02_csv_XXXXXX";
    int descriptor = mkstemp(path);
    assert_true(descriptor >= 0);
    close(descriptor);
    Signal u = noise(LEN, 2, 30), read;
    double y[LEN * 3];
    Random random = random_from_seed(31);
    for (size_t i = 0; i < LEN * 3; i++)
        y[i] = random_normal(&random);
    Error error;
    assert_true(signal_write(path, &u, y, 3, &error));
    assert_true(signal_read(&read, path, 5, &error));
    assert_int_equal(read.len, LEN);
    for (size_t t = 0; t < LEN; t++) {
        assert_memory_equal(read.value + t * 5, u.value + t * 2, 2 * sizeof(double));
        assert_memory_equal(read.value + t * 5 + 2, y + t * 3, 3 * sizeof(double));
    }
    unlink(path);
    signal_free(&u);
    signal_free(&read);
}

static void hostile_systems_are_survived(void **state)
{
    (void)state;
    static const char good[] =
        "# x\nA\n0.5 0.1\n0 1/2\nB\n1\n2\nC\n1 0\nD\n0\nx0\n1 2\nT\n1 0\n0 1\n";
    static const char spice[] = "ABCDx0T, \n\r#/.-0e9naN\"\t";
    Random random = random_from_seed(32);
    for (int k = 0; k < 20000; k++) {
        char text[sizeof good];
        memcpy(text, good, sizeof good);
        for (uint32_t edits = 1 + random_u32(&random) % 6; edits > 0; edits--)
            text[random_u32(&random) % (sizeof good - 1)] =
                spice[random_u32(&random) % (sizeof spice - 1)];
        Ssm system;
        double *T;
        Signal u;
        Error error;
        if (system_from_text(&system, &T, text, &error)) {
            ssm_free(&system);
            free(T);
        }
        if (signal_from_text(&u, text, 1 + (size_t)k % 2, &error))
            signal_free(&u);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ex2_1_the_weather_has_P_transposed_for_A),
        cmocka_unit_test(the_weather_as_a_system_gives_chapter_1_bit_for_bit),
        cmocka_unit_test(a_random_chain_as_a_system_gives_its_forecasts),
        cmocka_unit_test(ex2_2_one_step_is_as_worked_by_hand),
        cmocka_unit_test(ex2_2_both_conventions_agree_with_golden_data),
        cmocka_unit_test(a_sequence_in_pieces_is_the_sequence),
        cmocka_unit_test(ex2_3_a_system_read_after_is_another_one_read_before),
        cmocka_unit_test(without_D_the_two_readings_are_one_step_apart),
        cmocka_unit_test(ex2_4_kernels_agree_with_golden_data),
        cmocka_unit_test(ex2_4_a_kernel_is_the_answer_to_an_impulse),
        cmocka_unit_test(ex2_5_convolutions_agree_with_golden_data),
        cmocka_unit_test(ex2_5_three_computations_give_one_answer_at_any_length),
        cmocka_unit_test(the_fft_is_the_sum_that_defines_it),
        cmocka_unit_test(ex2_6_another_basis_gives_the_same_outputs),
        cmocka_unit_test(ex2_6_the_weather_in_its_eigenbasis_is_two_numbers),
        cmocka_unit_test(eigenvectors_of_2x2_matrices_are_eigenvectors),
        cmocka_unit_test(a_singular_basis_is_refused),
        cmocka_unit_test(a_system_file_may_leave_out_what_is_plain),
        cmocka_unit_test(blocks_that_do_not_fit_say_which),
        cmocka_unit_test(bad_blocks_are_refused),
        cmocka_unit_test(inputs_are_read_with_and_without_times_and_titles),
        cmocka_unit_test(bad_inputs_are_refused),
        cmocka_unit_test(built_in_inputs_are_what_they_say),
        cmocka_unit_test(a_programs_input_is_built_in_or_a_file),
        cmocka_unit_test(a_seed_is_refused_where_nothing_is_random),
        cmocka_unit_test(an_unstable_system_says_at_which_step_it_overflows),
        cmocka_unit_test(a_direct_sum_that_would_take_for_ever_is_refused),
        cmocka_unit_test(wrong_options_are_told_in_one_sentence),
        cmocka_unit_test(days_are_counted_from_the_first_after_the_start),
        cmocka_unit_test(the_demos_print_what_the_lesson_works_by_hand),
        cmocka_unit_test(a_basis_of_the_file_changes_no_output_in_either_convention),
        cmocka_unit_test(outputs_of_nothing_differ_by_nothing),
        cmocka_unit_test(what_is_on_the_edge_does_not_fade_and_may_grow),
        cmocka_unit_test(written_outputs_are_read_back_to_the_last_bit),
        cmocka_unit_test(hostile_systems_are_survived),
    };
    return cmocka_run_group_tests_name("chapter 2: the four matrices", tests, NULL, NULL);
}
