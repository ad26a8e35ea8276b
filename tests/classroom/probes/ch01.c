/* Probes of chapter 1: random chains. tolerance 1e-9
   An exercise of several steps has several: the first asks less, so that half of it is worth
   something. */
#include "../ch01_markov/markov.c"
#include "probe.h"

/* p (n), a distribution in which some states have no chance. */
static void distribution(double *p, size_t n)
{
    double sum = 0.0;
    PROBE_FILL(p, n, 0, 1);
    if (n > 2)
        p[probe_whole(0, n - 1)] = 0.0;
    for (size_t i = 0; i < n; i++)
        sum += p[i];
    for (size_t i = 0; i < n; i++)
        p[i] /= sum;
}

static void chain_at_random(double *P, size_t n)
{
    for (size_t i = 0; i < n; i++)
        distribution(P + i * n, n);
}

static void ex1_1_any_chain(void)
{
    for (int k = 0; k < 20; k++) {
        double P[81], now[9], next[9];
        Chain chain = {probe_whole(1, 9), NULL, P};
        chain_at_random(P, chain.n_state);
        distribution(now, chain.n_state);
        chain_step(next, now, &chain);
        PROBE_SAY_ALL(next, chain.n_state);
    }
}

/* There and back are alike, so rows and columns are. */
static void ex1_1_a_symmetric_table(void)
{
    for (int k = 0; k < 20; k++) {
        double P[81], now[9], next[9];
        Chain chain = {probe_whole(2, 9), NULL, P};
        size_t n = chain.n_state;
        chain_at_random(P, n);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < i; j++)
                P[i * n + j] = P[j * n + i];
        distribution(now, n);
        chain_step(next, now, &chain);
        PROBE_SAY_ALL(next, n);
    }
}

static void ex1_2_any_power(void)
{
    for (uint64_t k = 0; k < 20; k++) {
        double M[25], out[25];
        size_t n = probe_whole(1, 5);
        chain_at_random(M, n);
        matrix_power(out, M, n, k < 5 ? k : probe_whole(5, 100000));
        PROBE_SAY_ALL(out, n * n);
    }
}

static void ex1_2_a_power_that_grows(void)
{
    double M[4] = {1.0, probe_between(0.5, 2), 0.0, 1.0}, out[4];
    matrix_power(out, M, 2, ((uint64_t)1 << 40) + probe_whole(0, 1000));
    PROBE_SAY_ALL(out, 4);
}

static void ex1_3_where_any_chain_settles(void)
{
    for (int k = 0; k < 10; k++) {
        double P[81], M[81], b[9];
        size_t n = probe_whole(1, 9);
        chain_at_random(P, n);
        for (size_t i = 0; i < n * n; i++)
            P[i] = 0.9 * P[i] + 0.1 / (double)n; /* every state leads to every other */
        stationary_system(M, b, P, n);
        probe_say(matrix_solve(b, M, n, 1));
        PROBE_SAY_ALL(b, n);
    }
}

static void distances(size_t least, size_t most)
{
    for (int k = 0; k < 30; k++) {
        double p[9], q[9];
        size_t n = probe_whole(least, most);
        distribution(p, n);
        distribution(q, n);
        probe_say(total_variation(p, q, n));
    }
}

/* Of two states the set that matters is one of them. */
static void ex1_4_two_states(void)
{
    distances(2, 2);
}

static void ex1_4_any_two(void)
{
    distances(1, 9);
}

static void draw(double sum)
{
    double p[9];
    Random random = random_from_seed(probe_bits());
    for (int k = 0; k < 300; k++) {
        size_t n = probe_whole(1, 9);
        distribution(p, n);
        for (size_t i = 0; i < n; i++)
            p[i] *= sum;
        probe_say((double)random_pick(&random, p, n));
    }
}

static void ex1_5_any_draws(void)
{
    draw(1.0);
}

static void ex1_5_past_the_end(void)
{
    draw(0.5); /* half of the darts */
}

static void ex1_5_a_dart_at_0(void)
{
    Random random = {0, 109}; /* its next number is exactly 0 */
    double p[4] = {0, 0, probe_between(0.1, 0.9), 0};
    p[3] = 1.0 - p[2];
    for (int k = 0; k < 20; k++)
        probe_say((double)random_pick(&random, p, 4));
}

static void fit(bool shares, bool errors)
{
    for (int k = 0; k < 20; k++) {
        double count[9], p[9], error[9];
        size_t n = probe_whole(2, 9);
        for (size_t j = 0; j < n; j++)
            count[j] = (double)probe_whole(j == 0, 500);
        fit_row(p, error, count, n);
        if (shares)
            PROBE_SAY_ALL(p, n);
        if (errors)
            PROBE_SAY_ALL(error, n);
    }
}

static void ex1_6_any_counts(void)
{
    fit(true, false);
}

static void ex1_6_any_errors(void)
{
    fit(false, true);
}

static void tables(size_t zeros)
{
    for (int k = 0; k < 20; k++) {
        double count[36], row[6] = {0}, column[6] = {0}, total = 0.0;
        size_t n = probe_whole(2, 6);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++) {
                double seen = (double)(probe_whole(0, 3) < zeros ? 0 : probe_whole(1, 50));
                count[i * n + j] = i == j ? seen + 1.0 : seen;
                row[i] += count[i * n + j];
                column[j] += count[i * n + j];
                total += count[i * n + j];
            }
        probe_say(likelihood_ratio(count, row, column, n, total));
    }
}

static void ex1_7_a_full_table(void)
{
    tables(0);
}

static void ex1_7_any_table(void)
{
    tables(1); /* of four fields, about */
}

PROBES = {PROBE(ex1_1_any_chain),
          PROBE(ex1_1_a_symmetric_table),
          PROBE(ex1_2_any_power),
          PROBE(ex1_2_a_power_that_grows),
          PROBE(ex1_3_where_any_chain_settles),
          PROBE(ex1_4_two_states),
          PROBE(ex1_4_any_two),
          PROBE(ex1_5_any_draws),
          PROBE(ex1_5_past_the_end),
          PROBE(ex1_5_a_dart_at_0),
          PROBE(ex1_6_any_counts),
          PROBE(ex1_6_any_errors),
          PROBE(ex1_7_a_full_table),
          PROBE(ex1_7_any_table)};
PROBES_MAIN
