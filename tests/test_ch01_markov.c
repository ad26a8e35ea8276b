/* Chapter 1 held against numbers worked by hand, golden data, itself, and bad input. */

#include "../ch01_markov/markov.c"
#include "golden.h"

/* A random chain of n states whose rows sum to 1 as well as doubles can. */
static Chain random_chain(size_t n, uint64_t seed)
{
    Random random = random_from_seed(seed);
    Chain chain = chain_new(n);
    for (size_t i = 0; i < n; i++) {
        char name[32];
        double sum = 0.0;
        snprintf(name, sizeof name, "s%zu", i);
        chain.name[i] = strdup(name);
        for (size_t j = 0; j < n; j++)
            sum += chain.P[i * n + j] = random_uniform(&random);
        for (size_t j = 0; j < n; j++)
            chain.P[i * n + j] /= sum;
    }
    return chain;
}

/* A chain from a text that is a table. */
static bool chain_from_text(Chain *chain, const char *text, Error *error)
{
    Table table;
    if (!table_parse(&table, strdup(text), strlen(text), false, "x.csv", error))
        return false;
    StateTable read;
    bool ok = chances_from_table(&read, &table, error);
    table_free(&table);
    if (ok) {
        Chain got = {read.n_state, read.name, read.value};
        *chain = got;
    }
    return ok;
}

static Chain chain_of(const char *text)
{
    Chain chain;
    Error error;
    if (!chain_from_text(&chain, text, &error))
        fail_msg("%s", error.text);
    return chain;
}

static bool counts_from_text(Counts *counts, const char *text, Error *error)
{
    Table table;
    if (!table_parse(&table, strdup(text), strlen(text), false, "x.csv", error))
        return false;
    bool ok = counts_from_table(counts, &table, error);
    table_free(&table);
    return ok;
}

static double rate_of(const Chain *chain, const Structure *structure)
{
    double *pi = NEW(double, chain->n_state);
    Error error;
    if (structure->n_class == 1)
        assert_true(chain_stationary(pi, chain, &error));
    double rate = chain_forgetting_rate(chain, structure, pi);
    free(pi);
    return rate;
}

/* The sentence that a bad chain, or bad counts, give; and the output must be untouched. */
static void assert_chain_refused(const char *text, const char *sentence)
{
    Chain chain, untouched;
    Error error;
    memset(&chain, 0x5A, sizeof chain);
    memset(&untouched, 0x5A, sizeof untouched);
    assert_false(chain_from_text(&chain, text, &error));
    assert_string_equal(error.text, sentence);
    assert_memory_equal(&chain, &untouched, sizeof chain);
}

static void assert_counts_refused(const char *text, const char *sentence)
{
    Counts counts;
    Error error;
    assert_false(counts_from_text(&counts, text, &error));
    assert_string_equal(error.text, sentence);
}

/* ---- the numbers of the lesson ----------------------------------------------------------- */

static void ex1_1_one_step_gives_the_forecast_worked_by_hand(void **state)
{
    (void)state;
    Chain chain = chain_weather();
    double today[3] = {0.5, 0.5, NAN}, one[3] = {NAN, NAN, NAN}, two[2] = {NAN, NAN};
    chain_step(one, today, &chain);
    chain_step(two, one, &chain);
    assert_that(!isnan(one[0]), "tomorrow's chance of sun is no number: what stands behind the end "
                                "of `now` belongs to nobody");
    assert_near_as("tomorrow's chance of sun", one[0], 0.60, 1e-15, 0);
    assert_near_as("tomorrow's chance of rain", one[1], 0.40, 1e-15, 0);
    assert_near_as("the chance of sun in two days", two[0], 0.64, 1e-15, 0);
    assert_near_as("the chance of rain in two days", two[1], 0.36, 1e-15, 0);
    chain_free(&chain);
}

static void ex1_1_a_step_from_a_certain_state_is_that_row_of_P(void **state)
{
    (void)state;
    Chain chain = random_chain(33, 1);
    for (size_t i = 0; i < 33; i++) {
        double now[34] = {0}, next[33];
        now[33] = NAN;
        now[i] = 1.0;
        chain_step(next, now, &chain);
        assert_all_near_as("the forecast after a certain state", next, chain.P + i * 33, 33, 0, 0);
    }
    chain_free(&chain);
}

static void check_forecast(const Safetensors *file)
{
    size_t n = golden_size(file, "P", 0), days = golden_size(file, "pi", 0) - 1;
    double *start = golden_doubles(NULL, file, "pi0"), *want = golden_doubles(NULL, file, "pi");
    double *P = golden_doubles(NULL, file, "P"), *pi = NEW(double, (days + 1) * n);
    Chain chain = {n, NULL, P};
    chain_forecast(pi, start, &chain, days);
    assert_all_near(pi, want, (days + 1) * n, 1e-13, 0); /* INDEX.md: absolute 1e-13 */
    chain_after(pi, start, &chain, days);
    assert_all_near(pi, want + days * n, n, 1e-13, 0);
    free(start);
    free(want);
    free(P);
    free(pi);
}

static void forecasts_agree_with_golden_data(void **state)
{
    (void)state;
    for_each_golden("ch01_*.safetensors", check_forecast);
}

static void check_powers(const Safetensors *file)
{
    size_t n = golden_size(file, "P", 0), powers = golden_size(file, "Pn", 0);
    double *P = golden_doubles(NULL, file, "P"), *want = golden_doubles(NULL, file, "Pn");
    double *power = matrix_new(n, n);
    for (size_t t = 0; t < powers; t++) {
        matrix_power(power, P, n, t);
        char what[64];
        snprintf(what, sizeof what, "P to the power %zu", t);
        assert_all_near_as(what, power, want + t * n * n, n * n, 1e-13, 0);
    }
    free(P);
    free(want);
    free(power);
}

static void ex1_2_powers_agree_with_golden_data(void **state)
{
    (void)state;
    for_each_golden("ch01_*.safetensors", check_powers);
}

static void ex1_2_a_huge_exponent_takes_no_time(void **state)
{
    (void)state;
    double shear[4] = {1, 1, 0, 1}, power[4]; /* shear^k has k in its corner */
    matrix_power(power, shear, 2, ((uint64_t)1 << 33) + 5);
    assert_near_as("the corner of (1 1; 0 1) to the power 2^33 + 5", power[1], 8589934597.0, 0, 0);
}

static void ex1_2_repeated_squaring_is_repeated_steps(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 2, 31, 33}, days[] = {0, 1, 2, 7, 64, 100, 1000};
    for (size_t s = 0; s < 4; s++) {
        size_t n = sizes[s];
        Chain chain = random_chain(n, 40 + n);
        double *power = matrix_new(n, n), *squared = NEW(double, n), *start = NEW(double, n);
        double *steps = NEW(double, 1001 * n);
        start[n / 2] = 1.0;
        chain_forecast(steps, start, &chain, 1000);
        for (size_t d = 0; d < 7; d++) {
            matrix_power(power, chain.P, n, days[d]);
            vector_times_matrix(squared, start, power, n, n);
            char what[64];
            snprintf(what, sizeof what, "the forecast for day %zu by a power of P", days[d]);
            assert_all_near_as(what, squared, steps + days[d] * n, n, 1e-13, 0);
        }
        free(power);
        free(squared);
        free(start);
        free(steps);
        chain_free(&chain);
    }
}

/* ---- where it settles -------------------------------------------------------------------- */

static void ex1_3_the_weather_settles_at_two_thirds(void **state)
{
    (void)state;
    Chain chain = chain_weather();
    double M[4] = {NAN, NAN, NAN, NAN}, b[2] = {NAN, NAN}, pi[2];
    stationary_system(M, b, chain.P, 2);
    assert_that(!isnan(b[0] + b[1]), "b has a place that was not written");
    assert_that(!isnan(M[0] + M[1] + M[2] + M[3]), "M has a place that was not written");
    assert_that(matrix_solve(b, M, 2, 1), "M x = b has no single solution: M is singular");
    assert_near_as("the share of sun that solves M x = b", b[0], 2.0 / 3.0, 1e-15, 0);
    assert_near_as("the share of rain that solves M x = b", b[1], 1.0 / 3.0, 1e-15, 0);
    Error error;
    assert_that(chain_stationary(pi, &chain, &error), "no answer for the weather");
    assert_near(pi[0], 2.0 / 3.0, 1e-15, 0);
    assert_near(pi[1], 1.0 / 3.0, 1e-15, 0);
    chain_free(&chain);
}

static void check_stationary(const Safetensors *file)
{
    size_t n = golden_size(file, "P", 0);
    double *P = golden_doubles(NULL, file, "P"), *pi = NEW(double, n);
    double *want = golden_doubles(NULL, file, "stationary");
    Chain chain = {n, NULL, P};
    Structure structure = chain_structure(&chain);
    Error error;
    double *M = matrix_new(n, n), *b = NEW(double, n);
    stationary_system(M, b, P, n);
    assert_that(matrix_solve(b, M, n, 1), "M x = b has no single solution: M is singular");
    assert_all_near_as("what solves M x = b", b, want, n, 1e-14, 0); /* as INDEX.md has it */
    assert_that(chain_class_stationary(pi, &chain, &structure, 0, &error), "no answer");
    assert_all_near(pi, want, n, 1e-14, 0);
    free(M);
    free(b);
    structure_free(&structure);
    free(P);
    free(pi);
    free(want);
}

static void ex1_3_stationary_distributions_agree_with_golden_data(void **state)
{
    (void)state;
    for_each_golden("ch01_*.safetensors", check_stationary);
}

static void a_stationary_distribution_stays_as_it_is(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 3, 31, 257};
    for (size_t s = 0; s < 4; s++) {
        size_t n = sizes[s];
        Chain chain = random_chain(n, 70 + n);
        double *pi = NEW(double, n), *next = NEW(double, n), sum = 0.0;
        Error error;
        assert_true(chain_stationary(pi, &chain, &error));
        chain_step(next, pi, &chain);
        assert_all_near(next, pi, n, 1e-14, 0);
        for (size_t i = 0; i < n; i++)
            sum += pi[i];
        assert_near(sum, 1.0, 1e-13, 0);
        free(pi);
        free(next);
        chain_free(&chain);
    }
}

static void ex1_3_the_equations_give_what_many_steps_lead_to(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 2, 3, 31, 100};
    for (size_t s = 0; s < 5; s++) {
        size_t n = sizes[s];
        Chain chain = random_chain(n, 90 + n);
        double *M = matrix_new(n, n), *b = NEW(double, n), *pi = NEW(double, n);
        double *start = NEW(double, n);
        start[n - 1] = 1.0;
        stationary_system(M, b, chain.P, n);
        assert_that(matrix_solve(b, M, n, 1), "M x = b has no single solution: M is singular");
        chain_after(pi, start, &chain, 400); /* random rows forget fast: 400 days are for ever */
        assert_all_near_as("what solves M x = b", b, pi, n, 1e-14, 0);
        free(M);
        free(b);
        free(pi);
        free(start);
        chain_free(&chain);
    }
}

static void parts_that_hardly_meet_are_refused(void **state)
{
    (void)state; /* two pairs; over there with 1e-12, back with 3e-12: rounding would decide */
    Chain chain =
        chain_of("from,a,b,c,d\na,.5,.5,0,0\nb,.5,.5,1e-12,0\nc,0,0,.5,.5\nd,3e-12,0,.5,.5\n");
    double pi[4] = {7, 7, 7, 7}, limit[4], start[4] = {1, 0, 0, 0}, error[4];
    double near[4] = {0.375, 0.375, 0.125, 0.125};
    Structure structure = chain_structure(&chain);
    Error why;
    assert_false(chain_stationary(pi, &chain, &why));
    assert_contains(why.text, "meet so rarely");
    assert_near(pi[0], 7, 0, 0);
    assert_false(chain_long_run(limit, start, &chain, &structure, &why));
    assert_contains(why.text, "meet so rarely");
    assert_false(chain_standard_errors(error, &chain, near));
    structure_free(&structure);
    chain_free(&chain);
    Chain leaving = chain_of("from,a,b,c\na,1,1e-11,2e-11\nb,0,1,0\nc,0,0,1\n");
    double weight[2];
    structure = chain_structure(&leaving);
    assert_false(chain_absorption(weight, start, &leaving, &structure, &why));
    assert_contains(why.text, "meet so rarely");
    structure_free(&structure);
    chain_free(&leaving);
    Chain tiny = chain_of("from,a,b,c\na,1,1e-300,0\nb,1e-300,1,1e-300\nc,0,1e-300,1\n");
    assert_false(chain_stationary(pi, &tiny, &why));
    chain_free(&tiny);
}

static void parts_that_meet_seldom_are_weighed_right(void **state)
{
    (void)state; /* as above, but with 1e-6 and 3e-6: three quarters and one quarter */
    Chain chain = chain_of("from,a,b,c,d\na,.5,.5,0,0\nb,.5,.499999,1e-6,0\nc,0,0,.5,.5\n"
                           "d,3e-6,0,.5,.499997\n");
    double pi[4];
    Error why;
    assert_true(chain_stationary(pi, &chain, &why));
    assert_near(pi[0] + pi[1], 0.75, 1e-6, 0);
    assert_near(pi[2] + pi[3], 0.25, 1e-6, 0);
    chain_free(&chain);
}

static void absorption_counts_every_way_round(void **state)
{
    (void)state;
    Chain chain = chain_of("from,a,b,c,d\na,0,.5,.5,0\nb,.25,0,0,.75\nc,0,0,1,0\nd,0,0,0,1\n");
    Structure structure = chain_structure(&chain);
    double from_b[4] = {0, 1, 0, 0}, weight[2]; /* x_b = x_a / 4, x_a = 1/2 + x_b / 2 */
    Error why;
    assert_true(chain_absorption(weight, from_b, &chain, &structure, &why));
    assert_near(weight[0], 1.0 / 7.0, 1e-15, 0);
    assert_near(weight[1], 6.0 / 7.0, 1e-15, 0);
    structure_free(&structure);
    chain_free(&chain);
}

static const char *const two_islands = "from,a,b,c,d,e\na,.5,.2,0,.3,0\nb,0,.9,.1,0,0\n"
                                       "c,0,.5,.5,0,0\nd,0,0,0,.7,.3\ne,0,0,0,.6,.4\n";

static void a_reducible_chain_is_recognised_and_not_solved(void **state)
{
    (void)state;
    Chain chain = chain_of(two_islands);
    Structure structure = chain_structure(&chain);
    double pi[5] = {7, 7, 7, 7, 7};
    Error error;
    size_t want[5] = {2, 0, 0, 1, 1};
    assert_int_equal(structure.n_class, 2);
    assert_memory_equal(structure.class_of, want, sizeof want);
    assert_false(chain_stationary(pi, &chain, &error));
    assert_contains(error.text, "2 closed classes");
    assert_contains(error.text, "where it starts");
    assert_near(pi[0], 7, 0, 0);
    assert_near(rate_of(&chain, &structure), 1.0, 0, 0);
    structure_free(&structure);
    chain_free(&chain);
}

static void a_reducible_chain_ends_where_many_steps_end(void **state)
{
    (void)state;
    Chain chain = chain_of(two_islands);
    Structure structure = chain_structure(&chain);
    double start[5] = {0.8, 0, 0.1, 0.1, 0}, weight[2], limit[5], pi[301 * 5];
    Error error;
    assert_true(chain_absorption(weight, start, &chain, &structure, &error));
    assert_near(weight[0], 0.8 * 0.4 + 0.1, 1e-15, 0); /* the border ends in class 1 with 2 / 5 */
    assert_near(weight[1], 0.8 * 0.6 + 0.1, 1e-15, 0);
    assert_true(chain_long_run(limit, start, &chain, &structure, &error));
    chain_forecast(pi, start, &chain, 300);
    assert_all_near(limit, pi + 300 * 5, 5, 1e-13, 0);
    structure_free(&structure);
    chain_free(&chain);
}

static void transient_states_may_stand_anywhere(void **state)
{
    (void)state; /* the same two islands with the border country last */
    Chain chain = chain_of("from,b,c,d,e,a\na,.2,0,.3,0,.5\nb,.9,.1,0,0,0\nc,.5,.5,0,0,0\n"
                           "d,0,0,.7,.3,0\ne,0,0,.6,.4,0\n");
    Structure structure = chain_structure(&chain);
    double start[5] = {0, 0, 0, 0.25, 0.75}, weight[2];
    Error error;
    assert_true(chain_absorption(weight, start, &chain, &structure, &error));
    assert_near(weight[0], 0.75 * 0.4, 1e-15, 0);
    assert_near(weight[1], 0.75 * 0.6 + 0.25, 1e-15, 0);
    structure_free(&structure);
    chain_free(&chain);
}

static void transient_states_do_not_hinder_a_single_answer(void **state)
{
    (void)state;
    Chain chain = chain_of("from,a,b,c\na,0.5,0.5,0\nb,0,0.8,0.2\nc,0,0.4,0.6\n");
    double pi[3], want[3] = {0, 2.0 / 3.0, 1.0 / 3.0};
    Error error;
    assert_true(chain_stationary(pi, &chain, &error));
    assert_all_near(pi, want, 3, 1e-15, 0);
    chain_free(&chain);
}

static void periods_are_found(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t period;
    } cases[] = {
        {"from,a\na,1\n", 1},
        {"from,a,b\na,0,1\nb,1,0\n", 2},
        {"from,a,b,c\na,0,1,0\nb,0,0,1\nc,1,0,0\n", 3},
        {"from,a,b,c\na,0,1,0\nb,0.5,0,0.5\nc,0,1,0\n", 2},
        {"from,a,b,c\na,0,1,0\nb,0.5,0,0.5\nc,1,0,0\n", 1}, /* rounds of 2 and of 3 */
        {"from,a,b,c,d\na,0,.5,0,.5\nb,0,0,1,0\nc,1,0,0,0\nd,0,0,1,0\n", 3},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        Chain chain = chain_of(cases[k].text);
        Structure structure = chain_structure(&chain);
        assert_int_equal(structure.n_class, 1);
        assert_int_equal(structure.period[0], cases[k].period);
        if (cases[k].period > 1)
            assert_near(rate_of(&chain, &structure), 1.0, 0, 0);
        structure_free(&structure);
        chain_free(&chain);
    }
}

/* ---- forgetting -------------------------------------------------------------------------- */

static void ex1_4_total_variation_counts_every_difference_once(void **state)
{
    (void)state;
    double p[3] = {0.5, 0.5, 0.0}, q[3] = {0.25, 0.25, 0.5};
    double half[2] = {0.5, 0.5}, settled[2] = {2.0 / 3.0, 1.0 / 3.0};
    double left[4] = {0.5, 0.5, 0, 0}, right[4] = {0, 0, 0.5, 0.5};
    assert_near_as("the distance of (1/2, 1/2) and (2/3, 1/3)", total_variation(half, settled, 2),
                   1.0 / 6.0, 1e-15, 0);
    assert_near_as("the distance of (1/2, 1/2, 0) and (1/4, 1/4, 1/2)", total_variation(p, q, 3),
                   0.5, 1e-15, 0);
    assert_near_as("and with the two exchanged it", total_variation(q, p, 3), 0.5, 1e-15, 0);
    assert_near_as("the distance of a forecast from itself", total_variation(p, p, 3), 0.0, 0, 0);
    assert_near_as("the distance of two that never agree", total_variation(left, right, 4), 1.0,
                   1e-15, 0);
}

static void ex1_4_no_event_tells_two_forecasts_further_apart(void **state)
{
    (void)state; /* every set of states, as the bits of a number */
    enum { N = 7 };
    Random random = random_from_seed(14);
    for (int k = 0; k < 50; k++) {
        double p[N], q[N], sum[2] = {0.0, 0.0}, most = 0.0;
        for (size_t i = 0; i < N; i++) {
            sum[0] += p[i] = random_uniform(&random);
            sum[1] += q[i] = random_uniform(&random);
        }
        for (size_t i = 0; i < N; i++) {
            p[i] /= sum[0];
            q[i] /= sum[1];
        }
        for (unsigned set = 0; set < 1u << N; set++) {
            double difference = 0.0;
            for (size_t i = 0; i < N; i++)
                difference += set >> i & 1 ? p[i] - q[i] : 0.0;
            most = fmax(most, fabs(difference));
        }
        assert_near_as("the most that any of 128 events tells", total_variation(p, q, N), most,
                       1e-14, 0);
    }
}

static void the_weather_keeps_two_fifths_of_the_distance_a_day(void **state)
{
    (void)state;
    Chain chain = chain_weather();
    Structure structure = chain_structure(&chain);
    double start[2] = {1, 0}, settled[2] = {2.0 / 3.0, 1.0 / 3.0}, pi[22];
    assert_near(rate_of(&chain, &structure), 0.4, 1e-12, 0);
    chain_forecast(pi, start, &chain, 10);
    for (size_t t = 0; t <= 10; t++)
        assert_near(total_variation(pi + 2 * t, settled, 2), pow(0.4, (double)t) / 3.0, 1e-15, 0);
    assert_near(half_life(0.4), 0.7564707973660301, 1e-15, 0); /* log(1/2) / log(0.4) */
    assert_near(half_life(0.0), 0.0, 0, 0);
    assert_true(isinf(half_life(1.0)));
    structure_free(&structure);
    chain_free(&chain);
}

static void independent_days_forget_at_once(void **state)
{
    (void)state;
    Chain chain = chain_of("from,a,b\na,0.3,0.7\nb,0.3,0.7\n");
    Structure structure = chain_structure(&chain);
    assert_near(rate_of(&chain, &structure), 0.0, 0, 0);
    structure_free(&structure);
    chain_free(&chain);
}

/* ---- chance ------------------------------------------------------------------------------ */

static void ex1_5_states_are_drawn_with_their_chances(void **state)
{
    (void)state;
    enum { DRAWS = 100000 };
    double p[5] = {0.0, 0.5, 0.0, 0.3, 0.2}, seen[5] = {0};
    Random random = random_from_seed(6);
    for (int k = 0; k < DRAWS; k++)
        seen[random_pick(&random, p, 5)] += 1.0;
    for (size_t i = 0; i < 5; i++) /* five standard errors; none at all for a chance of 0 */
        assert_near_as("the share of draws that gave a state of this chance", seen[i] / DRAWS, p[i],
                       5 * sqrt(p[i] * (1 - p[i]) / DRAWS), 0);
}

static void ex1_5_one_dart_hits_the_pieces_in_their_order(void **state)
{
    (void)state; /* this generator's next number is exactly 0 */
    Random random = {0, 109}, after = {0, 109};
    double none_first[3] = {0, 0.5, 0.5}, half[2] = {0.5, 0.5};
    size_t picked = random_pick(&random, none_first, 3);
    assert_that(picked == 1, "a dart at 0 hit state %zu of (0, 0.5, 0.5), not state 1", picked);
    random_uniform(&after);
    assert_that(memcmp(&random, &after, sizeof after) == 0, "one draw takes one random number");
    Random again = {0, 109};
    picked = random_pick(&again, half, 2);
    assert_that(picked == 0, "a dart at 0 hit state %zu of (0.5, 0.5), not state 0", picked);
}

static void ex1_5_a_state_without_a_chance_is_never_drawn(void **state)
{
    (void)state; /* chances that sum to half: half of the darts fly past the end */
    double p[4] = {0.0, 0.25, 0.25, 0.0};
    Random random = random_from_seed(7);
    for (int k = 0; k < 1000; k++) {
        size_t i = random_pick(&random, p, 4);
        assert_that(i == 1 || i == 2, "state %zu was drawn, whose chance is 0", i);
    }
}

static void a_simulation_stopped_and_gone_on_with_is_the_same(void **state)
{
    (void)state;
    Chain chain = chain_weather();
    double start[2] = {0.5, 0.5};
    Random one = random_from_seed(8), two = random_from_seed(8);
    Simulation whole = simulation_new(&chain, start, &one);
    Simulation parts = simulation_new(&chain, start, &two);
    simulation_run(&whole, &chain, 5000, &one, NULL);
    for (uint64_t until = 7; until < 5000; until += 13)
        simulation_run(&parts, &chain, until, &two, NULL);
    simulation_run(&parts, &chain, 5000, &two, NULL);
    assert_memory_equal(whole.days, parts.days, 2 * sizeof(uint64_t));
    assert_memory_equal(whole.longest, parts.longest, 2 * sizeof(uint64_t));
    assert_memory_equal(whole.spells, parts.spells, 2 * sizeof(uint64_t));
    assert_int_equal(whole.days[0] + whole.days[1], 5000);
    simulation_free(&whole);
    simulation_free(&parts);
    chain_free(&chain);
}

static void spells_are_counted_and_the_longest_kept(void **state)
{
    (void)state; /* a light that shows a, b, b, b, a, ... cannot be drawn otherwise */
    Chain chain = chain_of("from,a,b1,b2\na,0,1,0\nb1,0,0,1\nb2,1,0,0\n");
    double start[3] = {1, 0, 0};
    Random random = random_from_seed(1);
    Simulation seen = simulation_new(&chain, start, &random);
    simulation_run(&seen, &chain, 10, &random, NULL);
    uint64_t days[3] = {4, 3, 3}, ones[3] = {1, 1, 1};
    assert_memory_equal(seen.days, days, sizeof days);
    assert_memory_equal(seen.spells, days, sizeof days);
    assert_memory_equal(seen.longest, ones, sizeof ones);
    simulation_free(&seen);
    chain_free(&chain);
    Chain stay = chain_of("from,a\na,1\n");
    Simulation one = simulation_new(&stay, start, &random);
    simulation_run(&one, &stay, 9, &random, NULL);
    assert_int_equal(one.longest[0], 9);
    assert_int_equal(one.spells[0], 1);
    simulation_free(&one);
    chain_free(&stay);
}

static void standard_errors_account_for_correlation(void **state)
{
    (void)state; /* two states: pi (1 - pi) (1 + lambda) / (1 - lambda), lambda = 0.4 */
    Chain chain = chain_weather();
    double pi[2] = {2.0 / 3.0, 1.0 / 3.0}, error[2];
    assert_true(chain_standard_errors(error, &chain, pi));
    assert_near(error[0], sqrt(2.0 / 9.0 * 1.4 / 0.6), 1e-14, 0);
    assert_near(error[1], error[0], 1e-14, 0);
    chain_free(&chain);
}

static void shares_scatter_as_the_standard_errors_say(void **state)
{
    (void)state;
    enum { RECORDS = 400, DAYS = 2000 };
    Chain chain = random_chain(3, 9);
    double pi[3], error[3], square[3] = {0};
    Error ignored;
    assert_true(chain_stationary(pi, &chain, &ignored));
    assert_true(chain_standard_errors(error, &chain, pi));
    for (uint64_t seed = 0; seed < RECORDS; seed++) {
        Random random = random_from_seed(seed);
        Simulation seen = simulation_new(&chain, pi, &random);
        simulation_run(&seen, &chain, DAYS, &random, NULL);
        for (size_t i = 0; i < 3; i++) {
            double z = ((double)seen.days[i] / DAYS - pi[i]) / error[i] * sqrt((double)DAYS);
            square[i] += z * z / RECORDS;
        }
        simulation_free(&seen);
    }
    for (size_t i = 0; i < 3; i++) /* a mean of 400 chi-squared: five standard errors */
        assert_near(square[i], 1.0, 5 * sqrt(2.0 / RECORDS), 0);
    chain_free(&chain);
}

/* ---- fitting ----------------------------------------------------------------------------- */

static Fit fit_text(const char *text)
{
    Counts counts;
    Fit fit;
    memset(&fit, 0, sizeof fit);
    Error error;
    if (!counts_from_text(&counts, text, &error) || !chain_fit(&fit, &counts, &error))
        fail_msg("%s", error.text);
    counts_free(&counts);
    return fit;
}

static void ex1_6_a_row_is_fitted_as_published(void **state)
{
    (void)state; /* Tel Aviv, after a wet day. Gabriel & Neumann 1962: 0.338, 0.662 */
    double count[2] = {351, 687}, p[2], error[2];
    fit_row(p, error, count, 2);
    assert_near_as("the chance of dry after wet", p[0], 351.0 / 1038, 1e-15, 0);
    assert_near_as("the chance of wet after wet", p[1], 687.0 / 1038, 1e-15, 0);
    for (size_t j = 0; j < 2; j++)
        assert_near_as("its standard error", error[j], sqrt(351.0 * 687.0 / 1038) / 1038, 1e-15, 0);
}

static void tel_aviv_is_fitted_as_published(void **state)
{
    (void)state; /* Gabriel & Neumann 1962: 0.750, 0.250, 0.338, 0.662 */
    Fit fit = fit_text("from,dry,wet\ndry,1049,350\nwet,351,687\n");
    double P[4] = {1049.0 / 1399, 350.0 / 1399, 351.0 / 1038, 687.0 / 1038};
    assert_all_near(fit.chain.P, P, 4, 1e-15, 0);
    assert_near(fit.std_error[1], sqrt(P[0] * P[1] / 1399), 1e-15, 0);
    assert_near(fit.std_error[3], sqrt(P[2] * P[3] / 1038), 1e-15, 0);
    fit_free(&fit);
}

static void ex1_6_no_other_chain_is_more_likely(void **state)
{
    (void)state;
    double count[3] = {7, 2, 5}, p[3], error[3], best = 0.0;
    fit_row(p, error, count, 3);
    assert_near_as("the sum of the chances", p[0] + p[1] + p[2], 1.0, 1e-15, 0);
    for (size_t j = 0; j < 3; j++)
        best += count[j] * log(p[j]);
    Random random = random_from_seed(10);
    for (int k = 0; k < 1000; k++) {
        double q[3], sum = 0.0, other = 0.0;
        for (size_t j = 0; j < 3; j++)
            sum += q[j] = random_uniform(&random);
        for (size_t j = 0; j < 3; j++)
            other += count[j] * log(q[j] / sum);
        assert_that(other <= best, "the counts are more likely if the chances are %g, %g, %g",
                    q[0] / sum, q[1] / sum, q[2] / sum);
    }
}

static void ex1_7_the_likelihood_ratio_is_as_worked_by_hand(void **state)
{
    (void)state; /* 3 of 4 stay: each cell is 3 or 1 where 2 is expected */
    Fit fit = fit_text("from,a,b\na,3,1\nb,1,3\n");
    assert_near_as("G2 of the counts 3 1 1 3", fit.G2, 2 * (6 * log(1.5) + 2 * log(0.5)), 1e-14, 0);
    assert_near(fit.freedom, 1, 0, 0);
    fit_free(&fit);
    Fit other = fit_text("from,a,b\na,0,4\nb,4,0\n"); /* a count of 0 adds nothing */
    assert_near_as("G2 of the counts 0 4 4 0", other.G2, 2 * 8 * log(2), 1e-14, 0);
    fit_free(&other);
}

static void ex1_7_counts_without_memory_have_no_likelihood_ratio(void **state)
{
    (void)state;
    Fit fit = fit_text("from,a,b,c\na,10,20,0\nb,30,60,0\nc,1,2,0\n");
    assert_near_as("G2 of rows that are multiples of each other", fit.G2, 0.0, 1e-12, 0);
    assert_near(fit.freedom, 2, 0, 0); /* column c was never seen: it is not in the test */
    assert_near(fit.p_value, 1.0, 1e-6, 0);
    fit_free(&fit);
}

static void chi_squared_tails_have_their_closed_forms(void **state)
{
    (void)state;
    static const double x[] = {1e-3, 0.5, 1, 3.84, 10, 100, 421.94, 1000};
    for (size_t k = 0; k < 8; k++) {
        assert_near(chi_squared_tail(x[k], 1), erfc(sqrt(x[k] / 2)), 0, 1e-11);
        assert_near(chi_squared_tail(x[k], 2), exp(-x[k] / 2), 0, 1e-11);
        assert_near(chi_squared_tail(x[k], 4), exp(-x[k] / 2) * (1 + x[k] / 2), 0, 1e-11);
    }
    double z = 1.5; /* Q(3/2, z) = erfc(sqrt z) + 2 sqrt(z / pi) exp(-z) */
    assert_near(chi_squared_tail(2 * z, 3), erfc(sqrt(z)) + 2 * sqrt(z / PI) * exp(-z), 0, 1e-13);
    assert_near(chi_squared_tail(0, 3), 1, 0, 0);
    double poisson = 0.0; /* an even freedom 2m: the chance of fewer than m events */
    for (int k = 0; k < 500; k++)
        poisson += exp(-500 + k * log(500) - lgamma(k + 1));
    assert_near(chi_squared_tail(1000, 1000), poisson, 0, 1e-11);
    assert_near(chi_squared_tail(999.9, 1000), poisson, 0.002,
                0); /* the series: on its other side */
}

static void a_record_is_counted_and_gaps_are_not(void **state)
{
    (void)state;
    Counts counts;
    Error error;
    assert_true(counts_from_text(&counts, "state\na\na\nb\n\nb\na\nNA\n?\na\nb\nb\n", &error));
    double want[4] = {1, 2, 1, 1}; /* a a, a b | b a | a b, b b */
    assert_int_equal(counts.n_state, 2);
    assert_string_equal(counts.name[0], "a");
    assert_all_near(counts.count, want, 4, 0, 0);
    assert_near(counts.days, 8, 0, 0);
    assert_near(counts.gaps, 2, 0, 0);
    counts_free(&counts);
}

static void dates_that_jump_break_the_record(void **state)
{
    (void)state;
    Counts counts;
    Error error;
    const char *text = "date,state\n1987-12-30,a\n1987-12-31,b\n1988-01-01,a\n1988-01-03,b\n"
                       "1988-02-28,a\n1988-02-29,b\n1988-03-01,b\n2000-02-29,a\n2000-03-01,a\n";
    assert_true(counts_from_text(&counts, text, &error));
    double want[4] = {1, 2, 1, 1};
    assert_all_near(counts.count, want, 4, 0, 0);
    assert_near(counts.gaps, 3, 0, 0);
    counts_free(&counts);
}

static void dates_follow_each_other_for_four_hundred_years(void **state)
{
    (void)state;
    static const int days[12] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    long last = date_number("1799-12-31");
    for (int year = 1800; year < 2200; year++)
        for (int month = 1; month <= 12; month++) {
            bool leap = month == 2 && (year % 4 == 0 && (year % 100 != 0 || year % 400 == 0));
            char text[32];
            for (int day = 1; day <= days[month - 1] + leap; day++) {
                snprintf(text, sizeof text, "%04d-%02d-%02d", year, month, day);
                long number = date_number(text);
                assert_int_equal(number, last + 1);
                last = number;
            }
            snprintf(text, sizeof text, "%04d-%02d-%02d", year, month, days[month - 1] + leap + 1);
            assert_int_equal(date_number(text), -1);
        }
}

static void a_simulated_record_is_fitted_back(void **state)
{
    (void)state;
    char path[] = "/tmp/ch01_record_XXXXXX";
    int descriptor = mkstemp(path);
    assert_true(descriptor >= 0);
    FILE *record = fdopen(descriptor, "w");
    Chain chain = random_chain(4, 11);
    double start[4] = {0.25, 0.25, 0.25, 0.25};
    Random random = random_from_seed(12);
    Simulation seen = simulation_new(&chain, start, &random);
    simulation_run(&seen, &chain, 40000, &random, record);
    fclose(record);
    Counts counts;
    Fit fit;
    Error error;
    assert_true(counts_read(&counts, path, &error) && chain_fit(&fit, &counts, &error));
    assert_near(counts.days, 40000, 0, 0);
    for (size_t i = 0; i < 4; i++)
        for (size_t j = 0; j < 4; j++) { /* states are met in another order: by name */
            size_t a = name_find(chain.name, chain.n_state, fit.chain.name[i]),
                   b = name_find(chain.name, chain.n_state, fit.chain.name[j]);
            assert_near(fit.chain.P[i * 4 + j], chain.P[a * 4 + b], 5 * fit.std_error[i * 4 + j],
                        0);
        }
    unlink(path);
    simulation_free(&seen);
    counts_free(&counts);
    fit_free(&fit);
    chain_free(&chain);
}

static void spells_are_counted_as_by_hand(void **state)
{
    (void)state;
    static const size_t day[9] = {1, 1, 0, 0, 0, 2, 0, 0, 1};
    size_t longest = 99;
    assert_int_equal(count_spells(&longest, day, 9), 5);
    assert_int_equal(longest, 3);
    assert_int_equal(count_spells(&longest, day, 1), 1);
    assert_int_equal(longest, 1);
}

static void a_strip_has_the_chains_days_and_independent_ones(void **state)
{
    (void)state; /* a chain that goes round in a ring: every day is another state than the last */
    char output[20000];
    assert_int_equal(run_program_output(output, sizeof output, "ch01_markov",
                                        "--chain data/traffic_light.csv --strip --ascii"),
                     0);
    const char *ring = strstr(output, "the chain: 60 spells, the longest of 1 days\n");
    assert_non_null(ring);
    ring = strchr(ring, '\n') + strlen("\n    ");
    for (int t = 1; t < 60; t++)
        assert_int_equal(ring[t], ring[t - 1] == '*' ? 'o' : ring[t - 1] == 'o' ? '+' : '*');
    assert_contains(output, "lasts 1.00 days in the chain, 1.50 if days are independent.");
    assert_int_equal(run_program_output(output, sizeof output, "ch01_markov", "--strip"), 0);
    assert_contains(output, "lasts 3.75 days in the chain, 2.25 if days are independent.");
}

static void the_suns_ink_is_amber_and_the_rains_blue(void **state)
{
    (void)state;
    char *weather[] = {(char *)"sunny", (char *)"rainy"}, *other[] = {(char *)"x", (char *)"rainy"};
    assert_int_equal(state_ink(weather, 2, 0), INK_AMBER);
    assert_int_equal(state_ink(weather, 2, 1), INK_BLUE);
    char *turned[] = {(char *)"rainy", (char *)"sunny"};
    assert_int_equal(state_ink(turned, 2, 0), INK_BLUE);
    assert_true(state_ink(other, 2, 0) != state_ink(other, 2, 1));
}

/* ---- bad input --------------------------------------------------------------------------- */

static void a_row_that_does_not_sum_to_1_is_refused(void **state)
{
    (void)state;
    assert_chain_refused("from,a,b\na,0.5,0.5\nb,0.5,0.4\n", "x.csv:3: row 'b' sums to 0.9, not 1");
    assert_chain_refused("from,a,b\na,0.5,0.5\nb,0.5,1.5\n", "x.csv:3: row 'b' sums to 2, not 1");
    assert_chain_refused("from,a,b\na,0.5,0.5\nb,0.5,0.500000002\n",
                         "x.csv:3: row 'b' sums to 1.000000002, not 1");
    Chain chain = chain_of("from,a,b\na,0.5,0.5\nb,0.5,0.5000000005\n"); /* within 1e-9: mended */
    assert_near(chain.P[2] + chain.P[3], 1.0, 1e-16, 0);
    chain_free(&chain);
}

static void entries_that_are_no_chances_are_refused(void **state)
{
    (void)state;
    assert_chain_refused("from,a,b\na,1.5,-0.5\nb,0,1\n",
                         "x.csv:2: row 'a', column 'b': -0.5 is negative");
    assert_chain_refused("from,a,b\na,nan,1\nb,0,1\n",
                         "x.csv:2: row 'a', column 'a': 'nan' is not a finite number");
    assert_chain_refused("from,a,b\na,0,1\nb,inf,1\n",
                         "x.csv:3: row 'b', column 'a': 'inf' is not a finite number");
    assert_chain_refused("from,a,b\na,half,1\nb,0,1\n",
                         "x.csv:2: row 'a', column 'a': 'half' is not a number");
    assert_chain_refused("from,a,b\na,,1\nb,0,1\n",
                         "x.csv:2: row 'a', column 'a': '' is not a number");
    assert_chain_refused("from,a,b\na,1/0,1\nb,0,1\n",
                         "x.csv:2: row 'a', column 'a': '1/0' is not a finite number");
    assert_chain_refused("from,a,b\na,1/,1\nb,0,1\n",
                         "x.csv:2: row 'a', column 'a': '1/' is not a number");
}

static void ragged_rows_are_refused(void **state)
{
    (void)state;
    assert_chain_refused("from,a,b\na,1\nb,0,1\n",
                         "x.csv:2: row 'a' has 1 number, but there are 2 states");
    assert_chain_refused("from,a,b\na,0,1\nb,0,0,1\n",
                         "x.csv:3: row 'b' has 3 numbers, but there are 2 states");
    assert_chain_refused("from,a,b\na,0,1\n", "x.csv: no row for state 'b'");
}

static void unknown_and_duplicate_states_are_refused(void **state)
{
    (void)state;
    assert_chain_refused("from,a,b\na,0,1\nc,0,1\n",
                         "x.csv:3: unknown state 'c': the first line does not name it");
    assert_chain_refused("from,a,b\na,0,1\na,0,1\n", "x.csv:3: a second row for state 'a'");
    assert_chain_refused("from,a,a\na,0,1\n", "x.csv:1: state 'a' is named twice");
    assert_chain_refused("from,a,\na,0,1\n", "x.csv:1: state 2 has no name");
}

static void files_that_are_no_tables_are_refused(void **state)
{
    (void)state;
    Chain chain;
    Error error;
    assert_chain_refused("", "x.csv: empty: there is nothing in this file");
    assert_chain_refused("# only\n\n  \n", "x.csv: empty: there is nothing in this file");
    assert_chain_refused("a,b\n0,1\n",
                         "x.csv:1: a table starts with 'from' and the names of its states");
    assert_chain_refused("from\n", "x.csv:1: no state is named after 'from'");
    assert_false(chain_read(&chain, "tests/no_such_file.csv", &error));
    assert_string_equal(error.text, "tests/no_such_file.csv: No such file or directory");
    assert_false(chain_read(&chain, "tests", &error));
    assert_string_equal(error.text, "tests: Is a directory");
    char *text = strdup("from,a\na,1\n");
    Table table;
    text[7] = '\0';
    assert_false(table_parse(&table, text, 10, false, "x.csv", &error));
    assert_string_equal(error.text, "x.csv: a zero byte: this is not a text file");
}

static void tables_are_read_however_they_are_written(void **state)
{
    (void)state;
    Chain chain = chain_of("\xEF\xBB\xBF# comment\r\nFrom , \"dry, \"\"hot\"\"\",we\"\"t\r\n\r\n"
                           " we\"\"t ,1/3 , 2/3\r\n\"dry, \"\"hot\"\"\",2e-1,.8");
    double P[4] = {0.2, 0.8, 1.0 / 3.0, 2.0 / 3.0};
    assert_int_equal(chain.n_state, 2);
    assert_string_equal(chain.name[0], "dry, \"hot\"");
    assert_all_near(chain.P, P, 4, 1e-16, 0);
    chain_free(&chain);
}

static void bad_starts_are_refused(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"windy", "--start: unknown state 'windy'; there are sunny, rainy"},
        {"0.5", "--start: 1 number, but there are 2 states"},
        {"0.2,0.3,0.5", "--start: 3 numbers, but there are 2 states"},
        {"0.5,0.6", "--start: the numbers sum to 1.1, not 1"},
        {"1.5,-0.5", "--start: -0.5 is negative"},
        {"0.5,x", "--start: 'x' is not a number"},
        {"nan,1", "--start: 'nan' is not a finite number"},
    };
    Chain chain = chain_weather();
    Error error;
    double start[2] = {7, 8};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        assert_false(start_parse(start, cases[k][0], chain.name, 2, &error));
        assert_string_equal(error.text, cases[k][1]);
        assert_true(start[0] == 7 && start[1] == 8);
    }
    char longest[100], *names[2] = {longest, longest};
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    assert_false(start_parse(start, "windy", names, 2, &error)); /* one name has room */
    assert_contains(error.text, "'windy'; there are xxx");
    assert_contains(error.text, "xxx ...");
    assert_true(start_parse(start, "rainy", chain.name, 2, &error));
    assert_true(start[0] == 0 && start[1] == 1);
    assert_true(start_parse(start, "1/4,3/4", chain.name, 2, &error));
    assert_true(start[0] == 0.25 && start[1] == 0.75);
    chain_free(&chain);
}

static void bad_counts_and_records_are_refused(void **state)
{
    (void)state;
    assert_counts_refused("from,a,b\na,1,2.5\nb,1,1\n",
                          "x.csv:2: row 'a', column 'b': 2.5 is not a count");
    assert_counts_refused("from,a,b\na,1,2\nb,0.5,0.5\n",
                          "x.csv:3: row 'b', column 'a': 0.5 is not a count: chances are for "
                          "--chain");
    assert_counts_refused("from,a,b\na,1,-2\nb,1,1\n",
                          "x.csv:2: row 'a', column 'b': -2 is negative");
    assert_counts_refused("", "x.csv: empty: there is no day in this record");
    assert_counts_refused("state\nNA\n", "x.csv: empty: there is no day in this record");
    assert_counts_refused("a\nb,c,d\n", "x.csv:2: 3 cells; a record has a line `state` or "
                                        "`date,state` a day");
    assert_counts_refused("1987-02-29,a\n", "x.csv:1: '1987-02-29' is not a date like 1987-01-31");
    assert_counts_refused("1987-01-02,a\n1987-01-02,b\n",
                          "x.csv:2: the date 1987-01-02 does not come after the one before it");
}

static void a_state_never_left_cannot_be_fitted(void **state)
{
    (void)state;
    Counts counts;
    Fit fit;
    Error error;
    assert_true(counts_from_text(&counts, "a\na\nb\na\nsnow\n", &error));
    assert_false(chain_fit(&fit, &counts, &error));
    assert_string_equal(error.text, "state 'snow' is never left in the record, so nothing is known "
                                    "about the day after it");
    counts_free(&counts);
}

static void too_many_states_are_refused(void **state)
{
    (void)state;
    char *record = NEW(char, 2101 * 8), *end = record;
    for (int i = 0; i < 2100; i++)
        end += sprintf(end, "s%d\n", i);
    assert_counts_refused(record,
                          "x.csv:2001: 's2000' is state number 2001, more than the limit of 2000");
    for (char *c = record; c < end; c++)
        *c = *c == '\n' ? ',' : *c;
    char *table = NEW(char, 2101 * 8 + 16);
    sprintf(table, "from,%s", record);
    assert_chain_refused(table, "x.csv:1: 2101 states, more than the limit of 2000");
    free(record);
    free(table);
}

static void a_chain_of_one_state_works(void **state)
{
    (void)state;
    Chain chain = chain_of("from,a\na,1\n");
    Structure structure = chain_structure(&chain);
    double pi[1], error[1];
    Error why;
    assert_true(chain_stationary(pi, &chain, &why));
    assert_near(pi[0], 1, 0, 0);
    assert_near(rate_of(&chain, &structure), 0, 0, 0);
    assert_true(chain_standard_errors(error, &chain, pi));
    assert_near(error[0], 0, 0, 0);
    structure_free(&structure);
    chain_free(&chain);
}

static double processor_seconds(void)
{
    return (double)clock() / CLOCKS_PER_SEC;
}

/* To eliminate takes n^3 / 3 multiply-adds on a matrix; how long these take, this machine says. */
static double seconds_to_eliminate(size_t n)
{
    double *M = NEW(double, n *n), before = processor_seconds();
    for (size_t k = 0; k < n; k++)
        for (size_t i = k + 1; i < n; i++)
            add_scaled_row(M + i * n + k, M + k * n + k, 0.5, n - k);
    double seconds = processor_seconds() - before;
    free(M);
    return seconds;
}

static void a_thousand_states_take_little_more_than_their_multiply_adds(void **state)
{
    (void)state;
    double before = processor_seconds();
    Chain chain = random_chain(1000, 13);
    double *pi = NEW(double, 1000), *next = NEW(double, 1000);
    Error error;
    assert_true(chain_stationary(pi, &chain, &error));
    chain_step(next, pi, &chain);
    assert_all_near(next, pi, 1000, 1e-14, 0);
    double seconds = processor_seconds() - before, least = seconds_to_eliminate(1000);
    if (!(seconds < 8.0 * least)) /* more than n^3: with n^4 it would be hundreds */
        fail_msg("%.2f s, where the multiply-adds alone take %.2f s", seconds, least);
    free(pi);
    free(next);
    chain_free(&chain);
}

static void wrong_options_are_told_in_one_sentence(void **state)
{
    (void)state;
    static const struct {
        const char *words, *sentence;
        int code;
    } cases[] = {
        {"--days 0", "--days: 0 is out of range: 1 to 1000000", 2},
        {"--days 1000001", "--days: 1000001 is out of range", 2},
        {"--days 3.5", "--days: '3.5' is not a whole number", 2},
        {"--simulate 0", "--simulate: 0 is out of range: 1 to 1000000000", 2},
        {"--seed -1", "--seed: '-1' is not a whole number", 2},
        {"--days", "--days: a value is missing: N", 2},
        {"--dayz 3", "'--dayz' is not an option", 2},
        {"data/weather.csv", "'data/weather.csv' is not an option: is it the FILE of --chain?", 2},
        {"--chain a --fit b", "--chain and --fit exclude each other", 2},
        {"--forgetting --simulate 3", "--forgetting and --simulate exclude each other", 2},
        {"--record x", "--record needs --simulate", 2},
        {"--seed 3", "--seed needs --simulate or --strip", 2},
        {"--days 3 --strip", "--days does nothing with --strip", 2},
        {"--strip --simulate 3", "--strip and --simulate exclude each other", 2},
        {"--start sunny --forgetting", "--start does nothing with --forgetting", 2},
        {"--days 3 --simulate 3", "--days does nothing with --simulate", 2},
        {"--chain no.csv", "error: no.csv: No such file or directory", 1},
        {"--start windy", "error: --start: unknown state 'windy'", 1},
        {"--fit data/weather.csv",
         "row 'sunny', column 'sunny': 0.8 is not a count: chances are for --chain", 1},
        {"--chain data/tel_aviv_rain.csv",
         "row 'dry' sums to 1399, not 1: counts are for ch01_markov --fit", 1},
        {"--chain ''", "--chain: the name of a file is empty", 2},
        {"--svg -", "-: standard output has the text already: give this file a name", 1},
        {"--svg /no/dir/x.svg", "/no/dir/x.svg: cannot be written", 1},
        {"--simulate 10 --record /no/dir/x", "/no/dir/x: cannot be written", 1},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
        assert_command_says("ch01_markov", cases[k].words, cases[k].sentence, cases[k].code);
}

static void tables_say_what_their_numbers_are(void **state)
{
    (void)state; /* the columns are states of day 0, and not a forecast */
    char text[8192];
    assert_int_equal(run_program_output(text, sizeof text, "ch01_markov", "--forgetting"), 0);
    assert_contains(text, "Distance from the long run (total variation), if day 0 is surely:\n"
                          "      day       sunny     rainy\n"
                          "        0    0.333333  0.666667\n");
}

/* What `ch01_markov option FILE` prints, or with a status of 1 what it says on stderr, where the file
   holds `contents`. */
static void assert_file_gives(const char *option, const char *contents, int status, char *text,
                              size_t room)
{
    char path[] = "/tmp/ch01_record_XXXXXX", words[64];
    size_t len = strlen(contents);
    int descriptor = mkstemp(path);
    assert_true(descriptor >= 0);
    assert_int_equal(write(descriptor, contents, len), len);
    close(descriptor);
    snprintf(words, sizeof words, "%s %s", option, path);
    int got = status ? run_program(text, room, "ch01_markov", words)
                     : run_program_output(text, room, "ch01_markov", words);
    unlink(path);
    assert_int_equal(got, status);
}

static void what_cannot_be_fitted_is_told_with_its_file(void **state)
{
    (void)state;
    char text[8192];
    assert_file_gives("--fit", "a\na\nb\na\nsnow\n", 1, text, sizeof text);
    assert_contains(text, "error: /tmp/ch01_record_");
    assert_contains(text, ": state 'snow' is never left in the record");
}

static void a_chain_that_forgets_at_once_has_no_half_life(void **state)
{
    (void)state; /* "half of it is gone every 0.00 days" is no sentence */
    char text[8192];
    assert_file_gives("--chain", "from,a,b\na,.3,.7\nb,.3,.7\n", 0, text, sizeof text);
    assert_contains(text, "In the end nothing is left of the distance");
    assert_that(strstr(text, "half of it") == NULL, "a half-life of 0 is said");
}

static void a_share_of_one_shows_no_standard_error(void **state)
{
    (void)state; /* one rainy day was followed by one sunny day: that makes no error of 0.0000 */
    char text[8192];
    assert_file_gives("--fit", "sunny\nsunny\nrainy\nsunny\n\nsunny\n", 0, text, sizeof text);
    assert_contains(text, "5 days with a state, and 1 gap between them.");
    assert_contains(text, "standard error            0.3536    0.3536");
    assert_contains(text, "standard error                 -         -\n");
    assert_contains(text, "(- : where all went one way");
}

static void hostile_tables_are_survived(void **state)
{
    (void)state; /* what the fuzzer does for long, for a moment: random edits of a good file */
    static const char good[] = "# x\nfrom,a,b\na,0.5,1/2\nb,\"0.25\",0.75\n\n1987-01-01,a\n";
    static const char spice[] = ",\"\n\r#/ \t.-0e9naNfrom\xEF\xBB\xBF";
    Random random = random_from_seed(14);
    for (int k = 0; k < 20000; k++) {
        char text[sizeof good];
        memcpy(text, good, sizeof good);
        for (uint32_t edits = 1 + random_u32(&random) % 6; edits > 0; edits--)
            text[random_u32(&random) % (sizeof good - 1)] =
                spice[random_u32(&random) % (sizeof spice - 1)];
        Chain chain;
        Counts counts;
        Fit fit;
        Error error;
        if (chain_from_text(&chain, text, &error))
            chain_free(&chain);
        if (counts_from_text(&counts, text, &error)) {
            if (chain_fit(&fit, &counts, &error))
                fit_free(&fit);
            counts_free(&counts);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ex1_1_one_step_gives_the_forecast_worked_by_hand),
        cmocka_unit_test(ex1_1_a_step_from_a_certain_state_is_that_row_of_P),
        cmocka_unit_test(forecasts_agree_with_golden_data),
        cmocka_unit_test(ex1_2_powers_agree_with_golden_data),
        cmocka_unit_test(ex1_2_a_huge_exponent_takes_no_time),
        cmocka_unit_test(ex1_2_repeated_squaring_is_repeated_steps),
        cmocka_unit_test(ex1_3_the_weather_settles_at_two_thirds),
        cmocka_unit_test(ex1_3_stationary_distributions_agree_with_golden_data),
        cmocka_unit_test(a_stationary_distribution_stays_as_it_is),
        cmocka_unit_test(ex1_3_the_equations_give_what_many_steps_lead_to),
        cmocka_unit_test(parts_that_hardly_meet_are_refused),
        cmocka_unit_test(parts_that_meet_seldom_are_weighed_right),
        cmocka_unit_test(absorption_counts_every_way_round),
        cmocka_unit_test(a_reducible_chain_is_recognised_and_not_solved),
        cmocka_unit_test(a_reducible_chain_ends_where_many_steps_end),
        cmocka_unit_test(transient_states_may_stand_anywhere),
        cmocka_unit_test(transient_states_do_not_hinder_a_single_answer),
        cmocka_unit_test(periods_are_found),
        cmocka_unit_test(ex1_4_total_variation_counts_every_difference_once),
        cmocka_unit_test(ex1_4_no_event_tells_two_forecasts_further_apart),
        cmocka_unit_test(the_weather_keeps_two_fifths_of_the_distance_a_day),
        cmocka_unit_test(independent_days_forget_at_once),
        cmocka_unit_test(ex1_5_states_are_drawn_with_their_chances),
        cmocka_unit_test(ex1_5_one_dart_hits_the_pieces_in_their_order),
        cmocka_unit_test(ex1_5_a_state_without_a_chance_is_never_drawn),
        cmocka_unit_test(a_simulation_stopped_and_gone_on_with_is_the_same),
        cmocka_unit_test(spells_are_counted_and_the_longest_kept),
        cmocka_unit_test(standard_errors_account_for_correlation),
        cmocka_unit_test(shares_scatter_as_the_standard_errors_say),
        cmocka_unit_test(ex1_6_a_row_is_fitted_as_published),
        cmocka_unit_test(tel_aviv_is_fitted_as_published),
        cmocka_unit_test(ex1_6_no_other_chain_is_more_likely),
        cmocka_unit_test(ex1_7_the_likelihood_ratio_is_as_worked_by_hand),
        cmocka_unit_test(ex1_7_counts_without_memory_have_no_likelihood_ratio),
        cmocka_unit_test(chi_squared_tails_have_their_closed_forms),
        cmocka_unit_test(a_record_is_counted_and_gaps_are_not),
        cmocka_unit_test(dates_that_jump_break_the_record),
        cmocka_unit_test(dates_follow_each_other_for_four_hundred_years),
        cmocka_unit_test(a_simulated_record_is_fitted_back),
        cmocka_unit_test(spells_are_counted_as_by_hand),
        cmocka_unit_test(a_strip_has_the_chains_days_and_independent_ones),
        cmocka_unit_test(the_suns_ink_is_amber_and_the_rains_blue),
        cmocka_unit_test(a_row_that_does_not_sum_to_1_is_refused),
        cmocka_unit_test(entries_that_are_no_chances_are_refused),
        cmocka_unit_test(ragged_rows_are_refused),
        cmocka_unit_test(unknown_and_duplicate_states_are_refused),
        cmocka_unit_test(files_that_are_no_tables_are_refused),
        cmocka_unit_test(tables_are_read_however_they_are_written),
        cmocka_unit_test(bad_starts_are_refused),
        cmocka_unit_test(bad_counts_and_records_are_refused),
        cmocka_unit_test(a_state_never_left_cannot_be_fitted),
        cmocka_unit_test(too_many_states_are_refused),
        cmocka_unit_test(a_chain_of_one_state_works),
        cmocka_unit_test(a_thousand_states_take_little_more_than_their_multiply_adds),
        cmocka_unit_test(wrong_options_are_told_in_one_sentence),
        cmocka_unit_test(tables_say_what_their_numbers_are),
        cmocka_unit_test(what_cannot_be_fitted_is_told_with_its_file),
        cmocka_unit_test(a_chain_that_forgets_at_once_has_no_half_life),
        cmocka_unit_test(a_share_of_one_shows_no_standard_error),
        cmocka_unit_test(hostile_tables_are_survived),
    };
    return cmocka_run_group_tests_name("chapter 1: the chain", tests, NULL, NULL);
}
