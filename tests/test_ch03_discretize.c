/* Chapter 3 held against golden data, chapters 1 and 2, closed forms, and bad input. */

#include "../ch03_discretize/bench.c"
#include "golden.h"

/* Calls `check` for every golden file of this pattern. */
static void assert_golden(const Safetensors *file, const char *name, const double *got,
                          double tolerance)
{
    const Tensor *tensor;
    double *want = golden_doubles(&tensor, file, name);
    assert_relmax_as(name, got, want, tensor->count, tolerance);
    free(want);
}

static bool ends_with(const char *name, const char *end)
{
    size_t len = strlen(name), tail = strlen(end);
    return len >= tail && strcmp(name + len - tail, end) == 0;
}

/* "PREFIX.part" for a name like "PREFIX.A". */
static void sibling(char out[128], const char *name, const char *part)
{
    snprintf(out, 128, "%.*s%s", (int)(strrchr(name, '.') - name + 1), name, part);
}

/* ---- the exponential --------------------------------------------------------------------- */

static void check_exponentials(const Safetensors *file)
{
    size_t checked = 0;
    for (size_t i = 0; i < file->n_tensor; i++) {
        const char *name = file->tensor[i].name;
        char other[128];
        if (!ends_with(name, ".A"))
            continue;
        size_t n = file->tensor[i].shape[0];
        double *A = golden_doubles(NULL, file, name), *E = matrix_new(n, n);
        assert_true(expm(E, A, n));
        sibling(other, name, "tol");
        double tolerance = golden_scalar(file, other);
        sibling(other, name, "E");
        assert_golden(file, other, E, tolerance); /* INDEX.md: .tol is for a very good code */
        free(A);
        free(E);
        checked++;
    }
    assert_true(checked > 0);
}

static void exponentials_are_as_exact_as_a_very_good_code(void **state)
{
    (void)state;
    for_each_golden("ch03_expm.safetensors", check_exponentials);
}

static void check_minus_identity(const Safetensors *file)
{
    for (size_t i = 0; i < file->n_tensor; i++) {
        const char *name = file->tensor[i].name;
        char other[128];
        if (!ends_with(name, ".EmI"))
            continue;
        sibling(other, name, "A");
        size_t n = file->tensor[i].shape[0];
        double *A = golden_doubles(NULL, file, other), *E = matrix_new(n, n),
               *hold = matrix_new(n, n);
        assert_true(discretize_zoh(E, hold, A, A, n, n, 1.0)); /* int exp(A s) ds A = exp(A) - I */
        assert_golden(file, name, hold, 1e-13);
        free(A);
        free(E);
        free(hold);
    }
}

static void the_hold_of_A_is_the_exponential_without_its_identity(void **state)
{
    (void)state; /* for entries of 1e-12, where E - I itself has lost four digits of five */
    for_each_golden("ch03_expm.safetensors", check_minus_identity);
}

static void exponentials_of_commuting_times_multiply(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 2, 7, 31};
    for (size_t s = 0; s < 4; s++) {
        size_t n = sizes[s];
        double *A = NEW(double, 6 * n * n), *part = A + n * n, *rest = part + n * n,
               *E = rest + n * n;
        double *product = E + n * n, *scaled = product + n * n;
        Random random = random_from_seed(n);
        for (size_t i = 0; i < n * n; i++)
            A[i] = random_normal(&random);
        for (size_t i = 0; i < n * n; i++)
            scaled[i] = 0.3 * A[i];
        assert_true(expm(part, scaled, n));
        for (size_t i = 0; i < n * n; i++)
            scaled[i] = 0.7 * A[i];
        assert_true(expm(rest, scaled, n));
        matrix_multiply(product, part, rest, n, n, n);
        assert_true(expm(E, A, n));
        assert_relmax(product, E, n * n, 1e-12); /* norms up to 30: condition about that */
        free(A);
    }
}

static void an_exponential_that_overflows_is_refused(void **state)
{
    (void)state;
    double large[1] = {710}, fine[1] = {709}, huge[4] = {1e300, 1, 1, 1e300}, nan[1] = {NAN}, E[4];
    assert_false(expm(E, large, 1));
    assert_true(expm(E, fine, 1));
    assert_near(E[0], exp(709), 0, 1e-13);
    assert_false(expm(E, huge, 2));
    assert_false(expm(E, nan, 1));
    double gone[4] = {-1e300, 0, 0, -2};
    assert_true(expm(E, gone, 2));
    assert_near(E[0], 0, 0, 0);
    assert_near(E[3], exp(-2), 0, 1e-15);
}

static void the_power_series_is_right_where_it_is_short(void **state)
{
    (void)state;
    double A[4] = {0.1, 0.2, -0.3, 0.05}, E[4], series[4];
    assert_true(expm(E, A, 2));
    expm_taylor(series, A, 2);
    assert_all_near(series, E, 4, 1e-15, 0);
    double cold[1] = {-30};
    expm_taylor(series, cold, 1);
    assert_false(fabs(series[0] / exp(-30) - 1) < 1); /* and hopeless where it is long */
}

/* ---- the rules --------------------------------------------------------------------------- */

/* Systems of the demos with steps of which it is known that they work. */
static Ssm step_system(const Ssm *system, double delta, Rule rule)
{
    Ssm out;
    Error error;
    assert_true(discretize(&out, system, delta, rule, &error));
    return out;
}

static Ssm spring_system(void)
{
    return ssm_of(2, 1, 1, spring);
}

static void check_rule(const Safetensors *file, const char *rule, RuleFunction *function)
{
    size_t n = golden_size(file, "A", 0), m = golden_size(file, "B", 1),
           steps = golden_size(file, "dts", 0);
    double *A = golden_doubles(NULL, file, "A"), *B = golden_doubles(NULL, file, "B");
    double *dts = golden_doubles(NULL, file, "dts"), *A_bar = matrix_new(n, n),
           *B_bar = matrix_new(n, m);
    for (size_t k = 0; k < steps; k++) {
        char name[64];
        char what[80];
        const Tensor *tensor;
        assert_that(function(A_bar, B_bar, A, B, n, m, dts[k]),
                    "the %s rule says that it has no answer for delta = %g", rule, dts[k]);
        snprintf(name, sizeof name, "dt%zu.%s.Ad", k, rule);
        snprintf(what, sizeof what, "A_bar by the %s rule, delta = %g", rule, dts[k]);
        double *want_A = golden_doubles(&tensor, file, name);
        assert_relmax_as(what, A_bar, want_A, n * n, 1e-12);
        snprintf(name, sizeof name, "dt%zu.%s.Bd", k, rule);
        snprintf(what, sizeof what, "B_bar by the %s rule, delta = %g", rule, dts[k]);
        double *want_B = golden_doubles(&tensor, file, name);
        assert_relmax_as(what, B_bar, want_B, n * m, 1e-12);
        free(want_A);
        free(want_B);
    }
    free(A);
    free(B);
    free(dts);
    free(A_bar);
    free(B_bar);
}

static void check_euler(const Safetensors *file)
{
    check_rule(file, "euler", discretize_euler);
}

static void check_bilinear(const Safetensors *file)
{
    check_rule(file, "bilinear", discretize_bilinear);
}

static void check_zoh(const Safetensors *file)
{
    check_rule(file, "zoh", discretize_zoh);
}

static void euler_agrees_with_golden_data(void **state)
{
    (void)state;
    for_each_golden("ch03_discretize.safetensors", check_euler);
}

static void ex3_1_a_state_that_fades_takes_steps_up_to_two_over_its_rate(void **state)
{
    (void)state;
    Complex one = {-1, 0}, fast = {-16, 0}, swing = {-0.1, sqrt(0.99)};
    assert_near_as("the longest step for lambda = -1", euler_longest_step(one), 2, 1e-15, 0);
    assert_near_as("the longest step for lambda = -16", euler_longest_step(fast), 0.125, 1e-15, 0);
    assert_near_as("the longest step for the spring's lambda = -0.1 + 0.995 i",
                   euler_longest_step(swing), 0.2, 1e-15, 0);
}

static void ex3_1_a_shorter_step_fades_and_a_longer_one_grows(void **state)
{
    (void)state;
    Random random = random_from_seed(31);
    for (int k = 0; k < 100; k++) { /* A = (a b; -b a) has the eigenvalues a +- i b */
        Complex lambda = {-random_uniform(&random), 3.0 * random_normal(&random)};
        double A[4] = {lambda.re, lambda.im, -lambda.im, lambda.re}, B[2] = {0, 0};
        double A_bar[4], B_bar[2], longest = euler_longest_step(lambda), size[2];
        for (int longer = 0; longer < 2; longer++) {
            discretize_euler(A_bar, B_bar, A, B, 2, 1, longest * (longer ? 1.001 : 0.999));
            size[longer] = sqrt(A_bar[0] * A_bar[0] + A_bar[1] * A_bar[1]);
        }
        assert_that(size[0] < 1.0, "lambda = %.3g + %.3g i does not fade under a step of %.4g",
                    lambda.re, lambda.im, 0.999 * longest);
        assert_that(size[1] > 1.0, "lambda = %.3g + %.3g i still fades under a step of %.4g",
                    lambda.re, lambda.im, 1.001 * longest);
    }
}

static void ex3_1_what_does_not_fade_has_no_step(void **state)
{
    (void)state;
    Complex still = {0, 0}, swing = {0, 1}, growing = {0.5, 2};
    assert_near_as("the longest step for lambda = 0", euler_longest_step(still), 0, 0, 0);
    assert_near_as("the longest step for lambda = i", euler_longest_step(swing), 0, 0, 0);
    assert_near_as("the longest step for lambda = 0.5 + 2 i", euler_longest_step(growing), 0, 0, 0);
}

static void ex3_2_bilinear_agrees_with_golden_data(void **state)
{
    (void)state;
    for_each_golden("ch03_discretize.safetensors", check_bilinear);
}

static void ex3_2_one_state_by_hand(void **state)
{
    (void)state; /* (1 + 1/2) x_next = (1 - 1/2) x + u */
    double A = -1, B = 1, A_bar = NAN, B_bar = NAN;
    assert_true(discretize_bilinear(&A_bar, &B_bar, &A, &B, 1, 1, 1));
    assert_near_as("A_bar for A = -1, delta = 1", A_bar, 1.0 / 3, 0, 1e-15);
    assert_near_as("B_bar for A = -1, B = 1, delta = 1", B_bar, 2.0 / 3, 0, 1e-15);
}

static void ex3_3_the_hold_agrees_with_golden_data(void **state)
{
    (void)state;
    for_each_golden("ch03_discretize.safetensors", check_zoh);
}

static void ex3_3_the_hold_works_where_A_has_no_inverse(void **state)
{
    (void)state; /* place' = speed, speed' = u: after 2 with u = 1 the speed is 2 and the place 2 */
    double A[4] = {0, 1, 0, 0}, B[2] = {0, 1}, A_bar[4], B_bar[2], want[4] = {1, 2, 0, 1};
    assert_that(discretize_zoh(A_bar, B_bar, A, B, 2, 1, 2.0), "the hold says that it overflows");
    assert_all_near_as("A_bar of a body pushed for a time 2", A_bar, want, 4, 1e-15, 0);
    assert_near_as("its place after a push of 1 for a time 2", B_bar[0], 2, 1e-15, 0);
    assert_near_as("its speed after a push of 1 for a time 2", B_bar[1], 2, 1e-15, 0);
}

static void mambas_rule_is_the_holds_A_and_eulers_B(void **state)
{
    (void)state;
    double A[4] = {-1, 0.5, 0.3, -2}, B[2] = {1, -3};
    double hold[4], ignored[2], A_bar[4], B_bar[2], straight[4], want[2];
    assert_true(discretize_zoh(hold, ignored, A, B, 2, 1, 0.7));
    assert_true(discretize_mamba(A_bar, B_bar, A, B, 2, 1, 0.7));
    assert_true(discretize_euler(straight, want, A, B, 2, 1, 0.7));
    assert_all_near(A_bar, hold, 4, 1e-15, 0);
    assert_all_near(B_bar, want, 2, 0, 0);
}

/* x(t) under a held u by the classical Runge-Kutta method of order 4 in many small steps. */
static void integrate(double *x, const Ssm *system, const double *u, double time, size_t steps)
{
    static const double ahead[4] = {0, 0.5, 0.5, 1}, weight[4] = {1, 2, 2, 1};
    size_t n = system->d_state;
    double *slope = NEW(double, 3 * n), *at = slope + n, *sum = at + n, h = time / (double)steps;
    for (size_t s = 0; s < steps; s++) {
        memset(sum, 0, n * sizeof *sum);
        for (int k = 0; k < 4; k++) {
            for (size_t i = 0; i < n; i++)
                at[i] = x[i] + ahead[k] * h * (k ? slope[i] : 0.0);
            ssm_step(slope, at, u, system);
            for (size_t i = 0; i < n; i++)
                sum[i] += weight[k] * slope[i] / 6.0;
        }
        for (size_t i = 0; i < n; i++)
            x[i] += h * sum[i];
    }
    free(slope);
}

static void the_hold_is_a_fine_numerical_integration(void **state)
{
    (void)state;
    enum { LEN = 10 };
    Ssm system = spring_system(), step = step_system(&system, 0.7, RULE_ZOH);
    Signal u = input_of("noise", LEN, 5);
    double y[LEN], x[2] = {0, 0};
    run_from_start(y, u.value, &step, LEN, READ_AFTER);
    for (size_t t = 0; t < LEN; t++) {
        integrate(x, &system, u.value + t, 0.7, 2000);
        assert_near(y[t], x[0], 1e-12, 0); /* RK4: (0.7 / 2000)^4 = 1.5e-14 a step */
    }
    ssm_free(&system);
    ssm_free(&step);
    signal_free(&u);
}

static void the_errors_of_the_rules_have_their_orders(void **state)
{
    (void)state;
    static const double orders[N_RULE] = {0, 2, 1, 1};
    for (int rule = 1; rule < N_RULE; rule++) {
        double slope = log2(rule_error((Rule)rule, 256) / rule_error((Rule)rule, 512));
        assert_near(slope, orders[rule], 0.02, 0);
    }
    assert_near(rule_error(RULE_ZOH, 1), 0, 1e-14, 0);
    assert_near(rule_error(RULE_ZOH, 512), 0, 1e-11, 0); /* 5120 steps of rounding */
}

static void half_the_step_with_every_sample_twice_is_the_same(void **state)
{
    (void)state;
    enum { LEN = 33 };
    Ssm system = spring_system();
    Ssm whole = step_system(&system, 0.5, RULE_ZOH), half = step_system(&system, 0.25, RULE_ZOH);
    Signal u = input_of("noise", LEN, 6);
    double coarse[LEN], fine[2 * LEN], twice[2 * LEN];
    for (size_t t = 0; t < 2 * LEN; t++)
        twice[t] = u.value[t / 2];
    run_from_start(coarse, u.value, &whole, LEN, READ_AFTER);
    run_from_start(fine, twice, &half, 2 * LEN, READ_AFTER);
    for (size_t t = 0; t < LEN; t++)
        assert_near(fine[2 * t + 1], coarse[t], 1e-12, 0);
    ssm_free(&system);
    ssm_free(&whole);
    ssm_free(&half);
    signal_free(&u);
}

static void ex3_4_one_state_is_held_without_cancelling(void **state)
{
    (void)state;
    static const double z[] = {0,     1e-300, -1e-300, 1e-16, -1e-12, 1e-8, 2e-6, -1e-5, -1e-4,
                               -1e-3, 1e-3,   -0.03,   -1,    1,      -40,  40,   -700};
    for (size_t k = 0; k < sizeof z / sizeof *z; k++) {
        double a_bar, b_bar, delta = 0.5, sum = 0.0, term = 1.0;
        hold_scalar(&a_bar, &b_bar, z[k] / delta, delta);
        char what[80];
        snprintf(what, sizeof what, "a_bar for a delta = %g", z[k]);
        assert_near_as(what, a_bar, exp(z[k]), 0, 1e-15);
        for (int i = 1; i < 60; i++) { /* (exp(z) - 1) / z = 1 + z/2 + z^2/6 + ..., for a small z */
            sum += term;
            term *= z[k] / (i + 1);
        }
        double want = fabs(z[k]) <= 1 ? delta * sum : delta * (exp(z[k]) - 1) / z[k];
        snprintf(what, sizeof what, "b_bar for delta = 0.5 and a delta = %g", z[k]);
        assert_near_as(what, b_bar, want, 0, 2e-15);
    }
}

static void ex3_4_one_state_is_held_as_the_matrix_rule_holds_it(void **state)
{
    (void)state;
    Random random = random_from_seed(7);
    for (int k = 0; k < 200; k++) {
        double a = 3 * random_normal(&random), delta = random_uniform(&random) + 0.01, one = 1;
        double a_bar, b_bar, A_bar, B_bar;
        hold_scalar(&a_bar, &b_bar, a, delta);
        assert_true(discretize_zoh(&A_bar, &B_bar, &a, &one, 1, 1, delta));
        char what[80];
        snprintf(what, sizeof what, "a_bar for a = %.4g, delta = %.4g", a, delta);
        assert_near_as(what, a_bar, A_bar, 0, 1e-13);
        snprintf(what, sizeof what, "b_bar for a = %.4g, delta = %.4g", a, delta);
        assert_near_as(what, b_bar, B_bar, 0, 1e-13);
    }
}

/* ---- the weather in continuous time ------------------------------------------------------ */

static Chain random_chain(size_t n, uint64_t seed, double stay)
{
    Random random = random_from_seed(seed);
    Chain chain = chain_new(n);
    for (size_t i = 0; i < n; i++) {
        double sum = 0.0;
        chain.name[i] = strdup("state");
        for (size_t j = 0; j < n; j++)
            sum += chain.P[i * n + j] = random_uniform(&random) + (i == j ? stay : 0.0);
        for (size_t j = 0; j < n; j++)
            chain.P[i * n + j] /= sum;
    }
    return chain;
}

static void check_generator(const Safetensors *file)
{
    size_t n = golden_size(file, "P", 0), times = golden_size(file, "times", 0);
    double *P = golden_doubles(NULL, file, "P"), *want = golden_doubles(NULL, file, "Q");
    double *time = golden_doubles(NULL, file, "times"), *all = golden_doubles(NULL, file, "expQt");
    double *half = golden_doubles(NULL, file, "exp_half"), *Q = matrix_new(n, n),
           *P_t = matrix_new(n, n);
    Chain chain = {n, NULL, P};
    Error error;
    assert_true(chain_generator(Q, &chain, &error));
    assert_all_near(Q, want, n * n, 1e-13, 0); /* INDEX.md: absolute 1e-13 */
    for (size_t k = 0; k < times; k++) {
        assert_true(chain_at_time(P_t, Q, n, time[k]));
        assert_all_near(P_t, all + k * n * n, n * n, 1e-13, 0);
    }
    assert_true(chain_at_time(P_t, Q, n, 0.5));
    assert_all_near(P_t, half, n * n, 1e-13, 0);
    free(P);
    free(want);
    free(time);
    free(all);
    free(half);
    free(Q);
    free(P_t);
}

static void the_generator_agrees_with_golden_data(void **state)
{
    (void)state;
    for_each_golden("ch03_generator.safetensors", check_generator);
}

static void a_day_of_the_generator_is_the_chain(void **state)
{
    (void)state; /* and two half days are, too */
    static const size_t sizes[] = {1, 2, 3, 8};
    for (size_t s = 0; s < 4; s++) {
        size_t n = sizes[s];
        double *Q = matrix_new(n, n), *P = matrix_new(n, n), *half = matrix_new(n, n);
        Error error;
        uint64_t seed = 0;
        Chain chain = random_chain(n, ++seed, 8.0 * (double)n);
        while (!chain_generator(Q, &chain, &error)) { /* not every random chain has one */
            chain_free(&chain);
            chain = random_chain(n, ++seed, 8.0 * (double)n);
        }
        assert_true(chain_at_time(P, Q, n, 1.0));
        assert_all_near(P, chain.P, n * n, 1e-12, 0);
        assert_true(chain_at_time(half, Q, n, 0.5));
        matrix_multiply(P, half, half, n, n, n);
        assert_all_near(P, chain.P, n * n, 1e-12, 0);
        free(Q);
        free(P);
        free(half);
        chain_free(&chain);
    }
}

static void forecasts_at_any_time_are_those_of_chapter_1_on_whole_days(void **state)
{
    (void)state;
    enum { DAYS = 9 };
    static const double start[2] = {0.25, 0.75};
    double Q[4], want[2 * (DAYS + 1)], pi[4 * (DAYS + 1)], times[2 * (DAYS + 1)];
    Chain chain = chain_weather();
    Error error;
    for (size_t k = 0; k < 2 * (DAYS + 1); k++)
        times[k] = 0.5 * (double)k;
    chain_forecast(want, start, &chain, DAYS);
    assert_true(chain_generator(Q, &chain, &error));
    assert_true(chain_forecast_at(pi, start, Q, 2, times, 2 * (DAYS + 1), &error));
    for (size_t day = 0; day <= DAYS; day++)
        assert_all_near(pi + 4 * day, want + 2 * day, 2, 1e-13, 0);
    for (size_t day = 0; day < DAYS; day++) /* and in between half as far on */
        assert_near(pi[4 * day + 2] - 2.0 / 3, (pi[4 * day] - 2.0 / 3) * sqrt(0.4), 1e-13, 0);
    chain_free(&chain);
}

static void assert_no_generator(const char *rows, size_t n, const char *sentence)
{
    static const char *const names[] = {"a", "b", "c"};
    Chain chain = chain_new(n);
    double Q[9] = {7};
    Error error;
    char *rest = strdup(rows), *start = rest;
    for (size_t i = 0; i < n; i++)
        chain.name[i] = strdup(names[i]);
    for (size_t i = 0; i < n * n; i++)
        assert_true(number_parse(&chain.P[i], strsep(&rest, " "), &error));
    assert_false(chain_generator(Q, &chain, &error));
    assert_contains(error.text, sentence);
    assert_true(Q[0] == 7);
    free(start);
    chain_free(&chain);
}

static void chains_without_a_generator_are_told_so(void **state)
{
    (void)state;
    assert_no_generator("0.1 0.9 0.9 0.1", 2, "an eigenvalue that is 0 or negative");
    assert_no_generator("0.5 0.5 0.5 0.5", 2, "an eigenvalue that is 0 or negative");
    assert_no_generator("0.8 0.2 0 0 0.8 0.2 0.2 0 0.8", 3,
                        "the rate from 'a' to 'c' would be -0.0"); /* goes round too regularly */
}

static void a_generator_that_the_principal_logarithm_misses_is_not_denied(void **state)
{
    (void)state; /* it goes round more than half a circle a day: P has a generator, Q, not found */
    static const double Q[9] = {-7, 7, 0, 0, -2, 2, 7, 0, -7};
    char a[] = "a", b[] = "b", c[] = "c", *names[3] = {a, b, c};
    double P[9], found[9];
    Error error;
    assert_true(expm(P, Q, 3));
    Chain chain = {3, names, P};
    assert_false(chain_generator(found, &chain, &error));
    assert_contains(error.text,
                    "no generator found: by the principal logarithm the rate from 'c' to "
                    "'a' would be -2.664");
}

static void logarithms_undo_exponentials(void **state)
{
    (void)state;
    Random random = random_from_seed(9);
    for (size_t n = 1; n <= 16; n *= 2) {
        double *A = matrix_new(n, n), *E = matrix_new(n, n), *L = matrix_new(n, n);
        for (size_t i = 0; i < n * n; i++)
            A[i] = random_normal(&random) / (double)n;
        assert_true(expm(E, A, n));
        assert_true(logm(L, E, n));
        assert_relmax(L, A, n * n, 1e-12);
        free(A);
        free(E);
        free(L);
    }
}

/* ---- HiPPO ------------------------------------------------------------------------------- */

static void check_legs(const Safetensors *file)
{
    double dt = golden_scalar(file, "dt");
    size_t checked = 0;
    for (size_t i = 0; i < file->n_tensor; i++) {
        const char *name = file->tensor[i].name;
        char other[128];
        if (!ends_with(name, ".A"))
            continue;
        size_t n = file->tensor[i].shape[0];
        double *A = matrix_new(n, n), *B = NEW(double, n), *A_bar = matrix_new(n, n),
               *B_bar = NEW(double, n);
        legs_matrices(A, B, n);
        assert_golden(file, name, A, 1e-15);
        sibling(other, name, "B");
        assert_golden(file, other, B, 1e-15);
        assert_true(discretize_zoh(A_bar, B_bar, A, B, n, 1, dt));
        sibling(other, name, "zoh.Ad");
        assert_golden(file, other, A_bar, 1e-11); /* INDEX.md: A is far from normal */
        sibling(other, name, "zoh.Bd");
        assert_golden(file, other, B_bar, 1e-11);
        assert_true(discretize_bilinear(A_bar, B_bar, A, B, n, 1, dt));
        sibling(other, name, "bilinear.Ad");
        assert_golden(file, other, A_bar, 1e-11);
        free(A);
        free(B);
        free(A_bar);
        free(B_bar);
        checked++;
    }
    assert_true(checked > 0);
}

static void the_hippo_matrices_agree_with_golden_data(void **state)
{
    (void)state;
    for_each_golden("ch03_legs.safetensors", check_legs);
}

static void ex3_5_the_clock_runs_ever_slower(void **state)
{
    (void)state;
    assert_near_as("the step from t = 1 to 2", legs_step(1), 0.69314718055994531, 1e-15, 0);
    assert_near_as("the step from t = 99 to 100", legs_step(99), 0.010050335853501441, 1e-15, 0);
    assert_near_as("the step from t = 10^9 on", legs_step(1e9), 9.999999995e-10, 0, 1e-14);
    double way = 0.0;
    for (int t = 1; t < 1000; t++)
        way += legs_step(t);
    assert_near_as("the way from t = 1 to 1000 in 999 steps", way, log(1000), 1e-12, 0);
}

static void ex3_5_what_hippo_keeps_is_the_projection_of_the_past(void **state)
{
    (void)state;
    /* state[i] = sqrt(2i+1) int_0^1 u(s) P_i(2s - 1) ds; int P_i = (P_{i+1} - P_{i-1}) / (2i+1) */
    enum { LEN = 50, KEPT = 20 };
    Signal u = input_of("noise", LEN, 10);
    double got[KEPT], want[KEPT] = {0}, low[KEPT + 1], high[KEPT + 1];
    assert_that(legs_remember(got, u.value, LEN, KEPT), "an exponential overflows");
    for (size_t t = 0; t < LEN; t++) {
        legendre(low, 2.0 * (double)t / LEN - 1.0, KEPT + 1);
        legendre(high, 2.0 * (double)(t + 1) / LEN - 1.0, KEPT + 1);
        for (size_t i = 0; i < KEPT; i++) {
            double to = high[i + 1] - (i ? high[i - 1] : -1.0),
                   from = low[i + 1] - (i ? low[i - 1] : -1.0);
            double odd = 2.0 * (double)i + 1.0;
            want[i] += sqrt(odd) * u.value[t] * (i ? (to - from) / odd : high[1] - low[1]) / 2.0;
        }
    }
    assert_relmax_as("what HiPPO keeps of noise", got, want, KEPT, 1e-11);
    signal_free(&u);
}

static void hippo_draws_a_polynomial_past_exactly(void **state)
{
    (void)state; /* a constant is kept by one number, whatever their number */
    enum { LEN = 40 };
    double u[LEN], state_of[8], drawn[LEN];
    for (size_t t = 0; t < LEN; t++)
        u[t] = 3.5;
    assert_true(legs_remember(state_of, u, LEN, 8));
    legs_recall(drawn, state_of, LEN, 8);
    assert_all_near(drawn, u, LEN, 1e-12, 0);
    for (size_t t = 0; t < LEN; t++)
        u[t] = (double)t + 0.5; /* a ramp, but for the stairs of its samples */
    assert_true(legs_remember(state_of, u, LEN, 8));
    legs_recall(drawn, state_of, LEN, 8);
    assert_all_near(drawn, u, LEN, 0.5, 0);
}

static void keeping_more_numbers_draws_the_past_better(void **state)
{
    (void)state;
    Signal u = input_of("waves", 200, 0);
    double last = INFINITY, kept_state[64], drawn[200];
    for (size_t kept = 8; kept <= 64; kept *= 2) {
        assert_true(legs_remember(kept_state, u.value, u.len, kept));
        legs_recall(drawn, kept_state, u.len, kept);
        double error = relative_error(drawn, u.value, u.len);
        assert_true(error < last);
        last = error;
    }
    assert_true(last < 0.05);
    signal_free(&u);
}

static void by_hippos_law_a_trace_is_the_polynomials_there(void **state)
{
    (void)state; /* sqrt(sum_i (2i+1) P_i(2 then/now - 1)^2), whatever `now` is: it never fades */
    static const double part[] = {1.0, 0.9, 0.5, 0.25, 0.01};
    for (size_t n = 1; n <= 16; n *= 2)
        for (size_t k = 0; k < 5; k++) {
            double value[16], want = 0.0;
            legendre(value, 2.0 * part[k] - 1.0, n);
            for (size_t i = 0; i < n; i++)
                want += (2.0 * (double)i + 1.0) * value[i] * value[i];
            assert_near(legs_weight(1.0 - part[k], 1.0, n, true), sqrt(want), 0, 1e-9);
            assert_near(legs_weight(80.0 * (1.0 - part[k]), 80.0, n, true), sqrt(want), 0, 1e-9);
        }
}

static void without_the_clock_hippos_matrix_forgets(void **state)
{
    (void)state; /* |exp(A s) B| for four numbers; for one it is exp(-s) */
    assert_near(legs_weight(0, 16, 4, false), 4.0, 1e-14, 0);
    assert_near(legs_weight(1, 16, 4, false), 0.62, 5e-3, 0);
    assert_near(legs_weight(8, 16, 4, false), 0.0013, 5e-5, 0);
    assert_near(legs_weight(3, 16, 1, false), exp(-3), 0, 1e-14);
}

/* ---- S4D --------------------------------------------------------------------------------- */

static Complex *complex_pairs(const double *re, const double *im, size_t n)
{
    Complex *out = NEW(Complex, n);
    for (size_t i = 0; i < n; i++) {
        out[i].re = re[i];
        out[i].im = im ? im[i] : 0.0;
    }
    return out;
}

static void check_s4d(const Safetensors *file, const char *kind, bool real)
{
    char name[64];
    snprintf(name, sizeof name, real ? "%s.A" : "%s.A_re", kind);
    size_t n = golden_size(file, name, 0);
    double *a_re = golden_doubles(NULL, file, name);
    double *a_im = real ? NULL : golden_doubles(NULL, file, "lin.A_im");
    double *c_re = golden_doubles(NULL, file, real ? "real.C" : "lin.C_re");
    double *c_im = real ? NULL : golden_doubles(NULL, file, "lin.C_im");
    Complex *a = complex_pairs(a_re, a_im, n), *c = complex_pairs(c_re, c_im, n);
    for (size_t i = 0; i < n; i++) {
        Complex start = real ? s4d_real(i) : s4d_lin(i);
        assert_near(a[i].re, start.re, 0, 1e-15);
        assert_near(a[i].im, start.im, 0, 1e-15);
    }
    for (int rule = 0; rule < 2; rule++) {
        snprintf(name, sizeof name, "%s.K_%s", kind, rule_name((Rule)rule));
        size_t len = golden_size(file, name, 0);
        double *K = NEW(double, len);
        s4d_kernel(K, a, c, n, golden_scalar(file, "dt"), (Rule)rule, real ? 1.0 : 2.0, len);
        assert_golden(file, name, K, 1e-12);
        free(K);
    }
    free(a_re);
    free(a_im);
    free(c_re);
    free(c_im);
    free(a);
    free(c);
}

static void check_both_s4d(const Safetensors *file)
{
    check_s4d(file, "lin", false);
    check_s4d(file, "real", true);
}

static void ex3_6_s4d_kernels_agree_with_golden_data(void **state)
{
    (void)state;
    for_each_golden("ch03_s4d.safetensors", check_both_s4d);
}

static void ex3_6_a_vandermonde_sum_is_the_recurrence(void **state)
{
    (void)state; /* a complex state is two real ones: a rotation and a shrinking */
    enum { LEN = 60, N = 5 };
    Complex a[N], c[N];
    double K[LEN + 1], want[LEN];
    Ssm system = ssm_new(2 * N, 1, 1);
    Random random = random_from_seed(11);
    for (size_t i = 0; i < N; i++) {
        Complex a_bar, b_bar;
        a[i] = s4d_lin(i);
        c[i].re = random_normal(&random);
        c[i].im = random_normal(&random);
        s4d_step(&a_bar, &b_bar, a[i], 0.1, RULE_ZOH);
        double *A = system.A + 2 * i * 2 * N + 2 * i;
        A[0] = A[2 * N + 1] = a_bar.re;
        A[1] = -a_bar.im;
        A[2 * N] = a_bar.im;
        system.B[2 * i] = b_bar.re;
        system.B[2 * i + 1] = b_bar.im;
        system.C[2 * i] = 2.0 * c[i].re;
        system.C[2 * i + 1] = -2.0 * c[i].im;
    }
    ssm_kernel(want, &system, LEN, READ_AFTER);
    K[LEN] = 7;
    s4d_kernel(K, a, c, N, 0.1, RULE_ZOH, 2.0, LEN);
    assert_relmax_as("the kernel, beside that of the system in real numbers", K, want, LEN, 1e-12);
    assert_near_as("what stands behind the kernel's end", K[LEN], 7, 0, 0);
    ssm_free(&system);
}

static void real_s4d_states_are_held_as_single_states(void **state)
{
    (void)state;
    for (size_t i = 0; i < 16; i++) {
        Complex a_bar, b_bar;
        double re, b;
        s4d_step(&a_bar, &b_bar, s4d_real(i), 0.01, RULE_ZOH);
        hold_scalar(&re, &b, s4d_real(i).re, 0.01);
        assert_near(a_bar.re, re, 1e-15, 0);
        assert_near(b_bar.re, b, 0, 1e-14);
        assert_near(a_bar.im, 0, 0, 0);
    }
}

static void a_fading_complex_state_stays_above_zero(void **state)
{
    (void)state; /* exp(-40) by the hold and by Mamba's rule, to the last digits */
    static const Rule exact[] = {RULE_ZOH, RULE_MAMBA};
    for (size_t k = 0; k < 2; k++) {
        Complex a_bar, b_bar, a = {-40.0, 0.5};
        s4d_step(&a_bar, &b_bar, a, 1.0, exact[k]);
        assert_near(a_bar.re, exp(-40) * cos(0.5), 0, 1e-14);
        assert_near(a_bar.im, exp(-40) * sin(0.5), 0, 1e-14);
    }
}

/* The discretized values of the golden modes, real and imaginary parts apart. */
static void check_s4d_steps(const Safetensors *file)
{
    size_t n = golden_size(file, "lin.A_re", 0);
    double delta = golden_scalar(file, "dt"), *part[4];
    for (int rule = 0; rule < 2; rule++) {
        for (int k = 0; k < 4; k++)
            part[k] = NEW(double, n);
        for (size_t i = 0; i < n; i++) {
            Complex a_bar, b_bar;
            s4d_step(&a_bar, &b_bar, s4d_lin(i), delta, (Rule)rule);
            part[0][i] = a_bar.re;
            part[1][i] = a_bar.im;
            part[2][i] = b_bar.re;
            part[3][i] = b_bar.im;
        }
        static const char *const names[4] = {"Ad_re", "Ad_im", "Bd_re", "Bd_im"};
        for (int k = 0; k < 4; k++) {
            char name[64];
            snprintf(name, sizeof name, "lin.%s.%s", rule_name((Rule)rule), names[k]);
            assert_golden(file, name, part[k], 1e-12);
            free(part[k]);
        }
    }
}

static void complex_steps_agree_with_golden_data(void **state)
{
    (void)state;
    for_each_golden("ch03_s4d.safetensors", check_s4d_steps);
}

static void eulers_region_is_a_disc(void **state)
{
    (void)state; /* |1 + z| = 1 for the spring, lambda = -0.1 +- 0.995 i, at delta = 0.2 */
    assert_near(spring_radius(0.2, RULE_EULER), 1.0, 1e-12, 0);
    assert_true(spring_radius(0.19, RULE_EULER) < 1.0);
    assert_true(spring_radius(0.21, RULE_EULER) > 1.0);
    assert_true(spring_radius(100.0, RULE_BILINEAR) < 1.0);
    assert_near(spring_radius(3.0, RULE_ZOH), exp(-0.3), 1e-12, 0);
}

/* ---- what is printed ---------------------------------------------------------------------- */

static void the_hold_of_a_sine_is_wrong_by_the_order_of_its_step(void **state)
{
    (void)state; /* x(6) of x' = -x + sin t from 0, and of its staircase: half the step, half off */
    double x[49], u[48], exact = 0.5 * (sin(6.0) - cos(6.0) + exp(-6.0)), off[2];
    for (size_t k = 0; k < 2; k++) {
        size_t steps = (size_t)24 << k;
        hold_sine(x, u, 6.0 / (double)steps, steps);
        assert_near(u[0], 0, 0, 0);
        assert_near(u[steps / 2], sin(3.0), 1e-15, 0);
        off[k] = x[steps] - exact;
    }
    assert_near(off[0] / off[1], 2.0, 0.1, 0);
    hold_sine(x, u, 0.25, 2); /* by hand: the first stair is 0 */
    assert_near(x[1], 0, 0, 0);
    assert_near(x[2], (1.0 - exp(-0.25)) * sin(0.25), 1e-15, 0);
}

static void tables_print_the_numbers_of_the_lesson(void **state)
{
    (void)state;
    static const struct {
        const char *words, *line;
    } cases[] = {
        {"--demo rules", "      3.00000 | 3.1572\n"}, /* 3 / (1 - exp(-3)) */
        {"--demo resolution", "0.393 and 0.393\nby the hold, 0.500 and 0.445 by Mamba's rule"},
        {"--demo memories", "|                      0.952\n"}, /* (1 - exp(-0.1)) / 0.1 */
        {"--demo memories", "|                      0.499\n"}, /* (1 - exp(-1.6)) / 1.6 */
        {"--demo past", "         8                   1.50        0.0013385\n"},
        {"--demo hold", "   0.500                          0.1942\n"}, /* half the step, */
        {"--demo hold", "   0.250                          0.0932\n"}, /* half the error */
        {"--demo stability", "Where lambda is real, a fading state explodes"},
        {"--hippo 1 --length 20", "(root mean square error over the signal's standard deviation"},
        {"--system data/spring.ssm", "  A_bar  0.9950   0.09884\n       -0.09884    0.9753\n"},
        {"--system data/spring.ssm", "Spectral radius of A_bar: 0.9900. Stable"},
    };
    char text[16384];
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        assert_int_equal(run_program_output(text, sizeof text, "ch03_discretize", cases[k].words),
                         0);
        assert_contains(text, cases[k].line);
    }
}

/* ---- bad input --------------------------------------------------------------------------- */

static void bad_steps_are_refused(void **state)
{
    (void)state;
    static const double growing[] = {2, 1, 1, 0};
    Ssm system = ssm_of(1, 1, 1, growing), out;
    Error error;
    assert_false(discretize(&out, &system, 0.0, RULE_ZOH, &error));
    assert_contains(error.text, "the step 0 is not a time above 0");
    assert_false(discretize(&out, &system, -1.0, RULE_EULER, &error));
    assert_false(discretize(&out, &system, NAN, RULE_EULER, &error));
    assert_false(discretize(&out, &system, 1000.0, RULE_ZOH, &error));
    assert_contains(error.text, "exp(A delta) overflows for the step 1000");
    assert_false(discretize(&out, &system, 1000.0, RULE_MAMBA, &error));
    assert_false(discretize(&out, &system, 1.0, RULE_BILINEAR, &error)); /* 1 - 2 * 1/2 = 0 */
    assert_contains(error.text, "singular");
    ssm_free(&system);
}

static void wrong_options_are_told_in_one_sentence(void **state)
{
    (void)state;
    static const struct {
        const char *words, *sentence;
        int code;
    } cases[] = {
        {"--step 0 --system data/spring.ssm", "--step: 0 is not from 1e-12 to 1e+12", 2},
        {"--step nan --system data/spring.ssm", "--step: 'nan' is not a finite number", 2},
        {"--step x --system data/spring.ssm", "--step: 'x' is not a number", 2},
        {"--step -1 --system data/spring.ssm", "--step: -1 is not from 1e-12 to 1e+12", 2},
        {"--rule fast --system data/spring.ssm", "--rule: 'fast' is none of zoh", 2},
        {"--hippo 0", "--hippo: 0 is out of range: 1 to 128", 2},
        {"--hippo 8 --demo rules", "exclude each other", 2},
        {"--generator data/weather.csv --system data/spring.ssm", "exclude each other", 2},
        {"--input data/sunspots.csv", "--input needs --system or --hippo", 2},
        {"--rule euler --demo rules", "--rule needs --system", 2},
        {"--step 0.5", "--step needs --system", 2},
        {"--signal waves --hippo 8", "'--signal' is not an option", 2},
        {"--length 50 --demo error", "--length needs --system or --hippo", 2},
        {"--seed 3 --hippo 8", "--seed needs --input noise", 2},
        {"--seed 3 --system data/spring.ssm", "--seed needs --input noise", 2},
        {"--svg x.svg", "--svg needs --demo or --system or --hippo", 2},
        {"--ascii --generator data/weather.csv", "--ascii does nothing with --generator", 2},
        {"--demo none", "--demo: 'none' is none of rules", 2},
        {"--system no.ssm", "no.ssm: No such file or directory", 1},
        {"--system data/savings.ssm --step 1000", "exp(A delta) overflows for the step 1000", 1},
        {"--system data/spring.ssm --rule euler --step 3 --length 2000", "overflow at step", 1},
        {"--generator data/traffic_light.csv",
         "data/traffic_light.csv: no generator found: by the principal", 1},
        {"--generator data/no.csv", "data/no.csv: No such file or directory", 1},
        {"--hippo 8 --input data/weather.csv", "columns, but the system has 1 input", 1},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
        assert_command_says("ch03_discretize", cases[k].words, cases[k].sentence, cases[k].code);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exponentials_are_as_exact_as_a_very_good_code),
        cmocka_unit_test(the_hold_of_A_is_the_exponential_without_its_identity),
        cmocka_unit_test(exponentials_of_commuting_times_multiply),
        cmocka_unit_test(an_exponential_that_overflows_is_refused),
        cmocka_unit_test(the_power_series_is_right_where_it_is_short),
        cmocka_unit_test(euler_agrees_with_golden_data),
        cmocka_unit_test(ex3_1_a_state_that_fades_takes_steps_up_to_two_over_its_rate),
        cmocka_unit_test(ex3_1_a_shorter_step_fades_and_a_longer_one_grows),
        cmocka_unit_test(ex3_1_what_does_not_fade_has_no_step),
        cmocka_unit_test(ex3_2_bilinear_agrees_with_golden_data),
        cmocka_unit_test(ex3_2_one_state_by_hand),
        cmocka_unit_test(ex3_3_the_hold_agrees_with_golden_data),
        cmocka_unit_test(ex3_3_the_hold_works_where_A_has_no_inverse),
        cmocka_unit_test(mambas_rule_is_the_holds_A_and_eulers_B),
        cmocka_unit_test(the_hold_is_a_fine_numerical_integration),
        cmocka_unit_test(the_errors_of_the_rules_have_their_orders),
        cmocka_unit_test(half_the_step_with_every_sample_twice_is_the_same),
        cmocka_unit_test(ex3_4_one_state_is_held_without_cancelling),
        cmocka_unit_test(ex3_4_one_state_is_held_as_the_matrix_rule_holds_it),
        cmocka_unit_test(the_generator_agrees_with_golden_data),
        cmocka_unit_test(a_day_of_the_generator_is_the_chain),
        cmocka_unit_test(forecasts_at_any_time_are_those_of_chapter_1_on_whole_days),
        cmocka_unit_test(chains_without_a_generator_are_told_so),
        cmocka_unit_test(a_generator_that_the_principal_logarithm_misses_is_not_denied),
        cmocka_unit_test(logarithms_undo_exponentials),
        cmocka_unit_test(the_hippo_matrices_agree_with_golden_data),
        cmocka_unit_test(ex3_5_the_clock_runs_ever_slower),
        cmocka_unit_test(ex3_5_what_hippo_keeps_is_the_projection_of_the_past),
        cmocka_unit_test(hippo_draws_a_polynomial_past_exactly),
        cmocka_unit_test(keeping_more_numbers_draws_the_past_better),
        cmocka_unit_test(by_hippos_law_a_trace_is_the_polynomials_there),
        cmocka_unit_test(without_the_clock_hippos_matrix_forgets),
        cmocka_unit_test(ex3_6_s4d_kernels_agree_with_golden_data),
        cmocka_unit_test(ex3_6_a_vandermonde_sum_is_the_recurrence),
        cmocka_unit_test(real_s4d_states_are_held_as_single_states),
        cmocka_unit_test(a_fading_complex_state_stays_above_zero),
        cmocka_unit_test(complex_steps_agree_with_golden_data),
        cmocka_unit_test(eulers_region_is_a_disc),
        cmocka_unit_test(the_hold_of_a_sine_is_wrong_by_the_order_of_its_step),
        cmocka_unit_test(tables_print_the_numbers_of_the_lesson),
        cmocka_unit_test(bad_steps_are_refused),
        cmocka_unit_test(wrong_options_are_told_in_one_sentence),
    };
    return cmocka_run_group_tests_name("chapter 3: from continuous time to steps", tests, NULL,
                                       NULL);
}
