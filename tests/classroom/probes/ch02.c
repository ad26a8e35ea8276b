/* Probes of chapter 2: random systems. tolerance 1e-9 */
#include "../ch02_ssm_abcd/ssm.c"
#include "probe.h"

static Ssm system_at_random(double most)
{
    Ssm system = ssm_new(probe_whole(1, 5), probe_whole(1, 4), probe_whole(1, 3));
    PROBE_FILL(system.A, system.d_state * system.d_state, -most, most);
    PROBE_FILL(system.B, system.d_state * system.d_in, -1, 1);
    PROBE_FILL(system.C, system.d_out * system.d_state, -1, 1);
    PROBE_FILL(system.D, system.d_out * system.d_in, -1, 1);
    PROBE_FILL(system.x0, system.d_state, -1, 1);
    return system;
}

static void chains(bool inside)
{
    for (int k = 0; k < 10; k++) {
        double P[49], start[7];
        Chain chain = {probe_whole(1, 7), NULL, P};
        PROBE_FILL(P, chain.n_state * chain.n_state, 0, 1);
        PROBE_FILL(start, chain.n_state, 0, 1);
        Ssm system = ssm_from_chain(&chain, start);
        if (inside) {
            PROBE_SAY_ALL(system.A, system.d_state * system.d_state);
        } else {
            PROBE_SAY_ALL(system.B, system.d_state * system.d_in);
            PROBE_SAY_ALL(system.C, system.d_out * system.d_state);
            PROBE_SAY_ALL(system.D, system.d_out * system.d_in);
            PROBE_SAY_ALL(system.x0, system.d_state);
        }
        ssm_free(&system);
    }
}

static void ex2_1_any_chain_goes_on(void)
{
    chains(true);
}

static void ex2_1_any_chain_is_seen(void)
{
    chains(false);
}

static void steps(double state, double input)
{
    for (int k = 0; k < 20; k++) {
        double x[5], next[5], u[4];
        Ssm system = system_at_random(2);
        PROBE_FILL(x, 5, -state, state);
        PROBE_FILL(u, 4, -input, input);
        ssm_step(next, x, u, &system);
        PROBE_SAY_ALL(next, system.d_state);
        ssm_free(&system);
    }
}

static void ex2_2_the_state_alone(void)
{
    steps(9, 0);
}

static void ex2_2_any_step(void)
{
    steps(9, 9);
}

static void as_control(bool from_state)
{
    for (int k = 0; k < 20; k++) {
        Ssm system = system_at_random(2), other = ssm_as_control(&system);
        if (from_state)
            PROBE_SAY_ALL(other.C, other.d_out * other.d_state);
        else
            PROBE_SAY_ALL(other.D, other.d_out * other.d_in);
        ssm_free(&system);
        ssm_free(&other);
    }
}

static void ex2_3_what_is_read_of_the_state(void)
{
    as_control(true);
}

static void ex2_3_what_is_read_of_the_input(void)
{
    as_control(false);
}

/* One of everything: no shape can be wrong. */
static void ex2_4_a_kernel_of_numbers(void)
{
    for (int k = 0; k < 10; k++) {
        double K[9];
        Ssm system = ssm_new(1, 1, 1);
        size_t len = probe_whole(2, 9);
        system.A[0] = probe_between(-1, 1);
        system.B[0] = probe_between(-1, 1);
        system.C[0] = probe_between(-1, 1);
        ssm_kernel(K, &system, len, k % 2 ? READ_BEFORE : READ_AFTER);
        PROBE_SAY_ALL(K, len);
        ssm_free(&system);
    }
}

static void ex2_4_any_kernel(void)
{
    for (int k = 0; k < 10; k++) {
        double K[9 * 3 * 4];
        Ssm system = system_at_random(0.5);
        size_t len = probe_whole(1, 9);
        probe_say((double)ssm_kernel(K, &system, len, k % 2 ? READ_BEFORE : READ_AFTER));
        PROBE_SAY_ALL(K, len * system.d_out * system.d_in);
        ssm_free(&system);
    }
}

static void convolve(bool one)
{
    for (int k = 0; k < 10; k++) {
        double K[20 * 3 * 4], u[20 * 4], y[20 * 3];
        Ssm system = one ? ssm_new(1, 1, 1) : system_at_random(1);
        size_t len = probe_whole(1, 20);
        PROBE_FILL(K, len * system.d_out * system.d_in, -1, 1);
        PROBE_FILL(u, len * system.d_in, -1, 1);
        ssm_convolve(y, K, u, &system, len);
        PROBE_SAY_ALL(y, len * system.d_out);
        ssm_free(&system);
    }
}

static void ex2_5_one_channel(void)
{
    convolve(true);
}

static void ex2_5_any_convolution(void)
{
    convolve(false);
}

static void change_basis(char matrix)
{
    for (int k = 0; k < 10; k++) {
        double T[25];
        Ssm system = system_at_random(1), other;
        Error error;
        PROBE_FILL(T, 25, -0.4, 0.4);
        for (size_t i = 0; i < system.d_state; i++)
            T[i * system.d_state + i] += 3.0; /* far from singular */
        if (!ssm_change_basis(&other, &system, T, &error))
            exit(1);
        if (matrix == 'A') {
            PROBE_SAY_ALL(other.A, other.d_state * other.d_state);
        } else if (matrix == 'C') {
            PROBE_SAY_ALL(other.C, other.d_out * other.d_state);
            PROBE_SAY_ALL(other.D, other.d_out * other.d_in);
        } else {
            PROBE_SAY_ALL(other.B, other.d_state * other.d_in);
            PROBE_SAY_ALL(other.x0, other.d_state);
        }
        ssm_free(&system);
        ssm_free(&other);
    }
}

static void ex2_6_how_it_goes_on(void)
{
    change_basis('A');
}

static void ex2_6_what_comes_in(void)
{
    change_basis('B');
}

static void ex2_6_what_is_read(void)
{
    change_basis('C');
}

PROBES = {PROBE(ex2_1_any_chain_goes_on),
          PROBE(ex2_1_any_chain_is_seen),
          PROBE(ex2_2_the_state_alone),
          PROBE(ex2_2_any_step),
          PROBE(ex2_3_what_is_read_of_the_state),
          PROBE(ex2_3_what_is_read_of_the_input),
          PROBE(ex2_4_a_kernel_of_numbers),
          PROBE(ex2_4_any_kernel),
          PROBE(ex2_5_one_channel),
          PROBE(ex2_5_any_convolution),
          PROBE(ex2_6_how_it_goes_on),
          PROBE(ex2_6_what_comes_in),
          PROBE(ex2_6_what_is_read)};
PROBES_MAIN
