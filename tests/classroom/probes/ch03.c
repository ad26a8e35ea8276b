/* Probes of chapter 3: random systems and steps. tolerance 1e-9 */
#include "../ch03_discretize/discretize.c"
#include "probe.h"

static void ex3_1_any_eigenvalue(void)
{
    for (int k = 0; k < 40; k++) {
        Complex lambda;
        lambda.re = probe_between(-5, k < 30 ? 0 : 5);
        lambda.im = k % 3 == 0 ? 0.0 : probe_between(-9, 9);
        probe_say(euler_longest_step(lambda));
    }
}

typedef bool Discretize(double *A_bar, double *B_bar, const double *A, const double *B,
                        size_t d_state, size_t d_in, double delta);

static void discretize_any(Discretize *way)
{
    for (int k = 0; k < 15; k++) {
        double A[25], B[20], A_bar[25], B_bar[20];
        size_t d_state = probe_whole(1, 5), d_in = probe_whole(1, 4);
        PROBE_FILL(A, d_state * d_state, -1, 1);
        PROBE_FILL(B, d_state * d_in, -1, 1);
        for (size_t i = 0; i < d_state; i++)
            A[i * d_state + i] -= k % 2 ? 3.0 : 0.0;
        probe_say(way(A_bar, B_bar, A, B, d_state, d_in, probe_between(0.01, 0.4)));
        PROBE_SAY_ALL(A_bar, d_state * d_state);
        PROBE_SAY_ALL(B_bar, d_state * d_in);
    }
}

static void ex3_2_any_bilinear_step(void)
{
    discretize_any(discretize_bilinear);
}

static void ex3_3_any_hold(void)
{
    discretize_any(discretize_zoh);
}

/* b_bar / delta - 1, of about a delta / 2, shows the digits that cancel in a bad formula. */
static void ex3_4_any_state(void)
{
    for (int k = 0; k < 60; k++) {
        double a_bar, b_bar, delta = probe_between(0.01, 2);
        double a = k == 0 ? 0.0 : probe_between(-3, 1) * pow(10.0, -probe_between(0, 9));
        hold_scalar(&a_bar, &b_bar, a, delta);
        probe_say(a_bar);
        probe_say(b_bar / delta);
        probe_say(a == 0.0 ? 0.0 : 1e-4 * (b_bar / delta - 1.0) / (a * delta));
    }
}

static void ex3_5_any_time(void)
{
    for (int k = 0; k < 40; k++) {
        double t = pow(10.0, probe_between(-3, 7));
        probe_say(legs_step(t));
        probe_say(1e-3 * t * legs_step(t)); /* near 1e-3 for large t, however large */
    }
}

static void ex3_6_any_kernel(void)
{
    for (int k = 0; k < 10; k++) {
        double K[40];
        Complex a[6], c[6];
        size_t d_state = probe_whole(1, 6), len = probe_whole(1, 40);
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

PROBES = {PROBE(ex3_1_any_eigenvalue), PROBE(ex3_2_any_bilinear_step), PROBE(ex3_3_any_hold),
          PROBE(ex3_4_any_state),      PROBE(ex3_5_any_time),          PROBE(ex3_6_any_kernel)};
PROBES_MAIN
