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

static void system_say(const Ssm *system)
{
    PROBE_SAY_ALL(system->A, system->d_state * system->d_state);
    PROBE_SAY_ALL(system->B, system->d_state * system->d_in);
    PROBE_SAY_ALL(system->C, system->d_out * system->d_state);
    PROBE_SAY_ALL(system->D, system->d_out * system->d_in);
    PROBE_SAY_ALL(system->x0, system->d_state);
}

static void ex2_1_any_chain(void)
{
    for (int k = 0; k < 10; k++) {
        double P[49], start[7];
        Chain chain = {probe_whole(1, 7), NULL, P};
        PROBE_FILL(P, chain.n_state * chain.n_state, 0, 1);
        PROBE_FILL(start, chain.n_state, 0, 1);
        Ssm system = ssm_from_chain(&chain, start);
        system_say(&system);
        ssm_free(&system);
    }
}

static void ex2_2_any_step(void)
{
    for (int k = 0; k < 20; k++) {
        double x[5], next[5], u[4];
        Ssm system = system_at_random(2);
        PROBE_FILL(x, 5, -9, 9);
        PROBE_FILL(u, 4, -9, 9);
        ssm_step(next, x, u, &system);
        PROBE_SAY_ALL(next, system.d_state);
        ssm_free(&system);
    }
}

static void ex2_3_any_system(void)
{
    for (int k = 0; k < 20; k++) {
        Ssm system = system_at_random(2), other = ssm_as_control(&system);
        system_say(&other);
        ssm_free(&system);
        ssm_free(&other);
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

static void ex2_5_any_convolution(void)
{
    for (int k = 0; k < 10; k++) {
        double K[20 * 3 * 4], u[20 * 4], y[20 * 3];
        Ssm system = system_at_random(1);
        size_t len = probe_whole(1, 20);
        PROBE_FILL(K, len * system.d_out * system.d_in, -1, 1);
        PROBE_FILL(u, len * system.d_in, -1, 1);
        ssm_convolve(y, K, u, &system, len);
        PROBE_SAY_ALL(y, len * system.d_out);
        ssm_free(&system);
    }
}

static void ex2_6_any_basis(void)
{
    for (int k = 0; k < 10; k++) {
        double T[25];
        Ssm system = system_at_random(1), other;
        Error error;
        PROBE_FILL(T, 25, -0.4, 0.4);
        for (size_t i = 0; i < system.d_state; i++)
            T[i * system.d_state + i] += 3.0; /* far from singular */
        probe_say(ssm_change_basis(&other, &system, T, &error));
        system_say(&other);
        ssm_free(&system);
        ssm_free(&other);
    }
}

PROBES = {PROBE(ex2_1_any_chain),  PROBE(ex2_2_any_step),        PROBE(ex2_3_any_system),
          PROBE(ex2_4_any_kernel), PROBE(ex2_5_any_convolution), PROBE(ex2_6_any_basis)};
PROBES_MAIN
