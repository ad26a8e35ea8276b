/* Probes of chapter 3: random systems and steps. tolerance 1e-9 */
#include "../ch03_discretize/discretize.c"
#include "probe.h"

static void eigenvalues(double most_re, double most_im)
{
    for (int k = 0; k < 40; k++) {
        Complex lambda;
        lambda.re = probe_between(-5, most_re);
        lambda.im = probe_between(-most_im, most_im);
        probe_say(euler_longest_step(lambda));
    }
}

static void ex3_1_a_decay(void)
{
    eigenvalues(-0.01, 0);
}

static void ex3_1_a_swing_that_fades(void)
{
    eigenvalues(-0.01, 9);
}

static void ex3_1_any_eigenvalue(void)
{
    eigenvalues(5, 9);
}

typedef bool Discretize(double *A_bar, double *B_bar, const double *A, const double *B,
                        size_t d_state, size_t d_in, double delta);

static void discretize_any(Discretize *way, bool state, bool input)
{
    for (int k = 0; k < 15; k++) {
        double A[25], B[20], A_bar[25], B_bar[20];
        size_t d_state = probe_whole(1, 5), d_in = probe_whole(1, 4);
        PROBE_FILL(A, d_state * d_state, -1, 1);
        PROBE_FILL(B, d_state * d_in, -1, 1);
        for (size_t i = 0; i < d_state; i++)
            A[i * d_state + i] -= k % 2 ? 3.0 : 0.0;
        probe_say(way(A_bar, B_bar, A, B, d_state, d_in, probe_between(0.01, 0.4)));
        if (state)
            PROBE_SAY_ALL(A_bar, d_state * d_state);
        if (input)
            PROBE_SAY_ALL(B_bar, d_state * d_in);
    }
}

static void ex3_2_any_state_goes_on(void)
{
    discretize_any(discretize_bilinear, true, false);
}

static void ex3_2_any_input_comes_in(void)
{
    discretize_any(discretize_bilinear, false, true);
}

static void ex3_3_any_state_goes_on(void)
{
    discretize_any(discretize_zoh, true, false);
}

static void ex3_3_any_input_comes_in(void)
{
    discretize_any(discretize_zoh, false, true);
}

/* b_bar / delta - 1, of about a delta / 2, shows the digits that cancel in a bad formula. */
static void holds(double smallest, bool still)
{
    for (int k = 0; k < 60; k++) {
        double a_bar, b_bar, delta = probe_between(0.01, 2);
        double a = -probe_between(0.5, 3) * pow(10.0, -probe_between(0, smallest));
        a = k % 3 == 0 ? -0.3 * a : a; /* some grow */
        a = still && k == 0 ? 0.0 : a;
        hold_scalar(&a_bar, &b_bar, a, delta);
        probe_say(a_bar);
        probe_say(b_bar / delta);
        probe_say(a == 0.0 ? 0.0 : 1e-4 * (b_bar / delta - 1.0) / (a * delta));
    }
}

static void ex3_4_a_state_that_moves(void)
{
    holds(0, false);
}

static void ex3_4_a_state_that_stands_still(void)
{
    holds(0, true);
}

static void ex3_4_any_state(void)
{
    holds(9, true);
}

static void ex3_5_any_time(void)
{
    for (int k = 0; k < 40; k++) {
        double t = pow(10.0, probe_between(-3, 14));
        probe_say(legs_step(t));
        probe_say(t * legs_step(t)); /* near 1 for large t, however large */
    }
}

static void kernels(size_t most)
{
    for (int k = 0; k < 10; k++) {
        double K[40];
        Complex a[6], c[6];
        size_t d_state = probe_whole(1, most), len = probe_whole(2, 40);
        for (size_t i = 0; i < d_state; i++) {
            a[i].re = probe_between(-2, -0.1);
            a[i].im = probe_between(-6, 6);
            c[i].re = probe_between(-1, 1);
            c[i].im = probe_between(-1, 1);
        }
        s4d_kernel(K, a, c, d_state, probe_between(0.02, 0.3), k % 2 ? RULE_ZOH : RULE_BILINEAR,
                   k % 3 ? 2.0 : 1.0, len);
        PROBE_SAY_ALL(K, len);
    }
}

static void ex3_6_one_state(void)
{
    kernels(1);
}

static void ex3_6_any_kernel(void)
{
    kernels(6);
}

PROBES = {PROBE(ex3_1_a_decay),
          PROBE(ex3_1_a_swing_that_fades),
          PROBE(ex3_1_any_eigenvalue),
          PROBE(ex3_2_any_state_goes_on),
          PROBE(ex3_2_any_input_comes_in),
          PROBE(ex3_3_any_state_goes_on),
          PROBE(ex3_3_any_input_comes_in),
          PROBE(ex3_4_a_state_that_moves),
          PROBE(ex3_4_a_state_that_stands_still),
          PROBE(ex3_4_any_state),
          PROBE(ex3_5_any_time),
          PROBE(ex3_6_one_state),
          PROBE(ex3_6_any_kernel)};
PROBES_MAIN
