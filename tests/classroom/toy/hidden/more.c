/* Several probes in one file, with random inputs. */
#include "../ch01_toy/toy.c"
#include "probe.h"

static void ex1_1_any_two(void)
{
    for (int i = 0; i < 5; i++)
        probe_say(toy_sum(probe_between(-9, 9), probe_between(-9, 9)));
}

static void ex1_10_all_below_zero(void)
{
    double x[9];
    PROBE_FILL(x, 9, -9, -1);
    for (size_t n = 1; n <= 9; n++)
        probe_say(toy_largest(x, n));
}

PROBES = {PROBE(ex1_1_any_two), PROBE(ex1_10_all_below_zero)};
PROBES_MAIN
