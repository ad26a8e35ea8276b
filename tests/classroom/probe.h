/* What a probe needs: random inputs, and a way to say numbers. A probe judges nothing. It is run
   with the submission and with the course's own chapter, on the same inputs, which are new in
   every run, and the grader compares what the two have printed.

       #include "../ch04_selective/selective.c"
       #include "probe.h"

       static void ex4_1_softplus_anywhere(void)
       {
           for (int i = 0; i < 50; i++)
               probe_say(softplus((float)probe_between(-100, 100)));
       }

       PROBES = {PROBE(ex4_1_softplus_anywhere)};
       PROBES_MAIN */

#ifndef CLASSROOM_PROBE
#define CLASSROOM_PROBE

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *name;
    void (*run)(void);
} Probe;

static uint64_t probe_state;

/* splitmix64 */
static uint64_t probe_bits(void)
{
    uint64_t z = probe_state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Any number from `least` to `most`. */
static inline double probe_between(double least, double most)
{
    return least + (most - least) * (double)(probe_bits() >> 11) / 9007199254740992.0;
}

/* Any whole number from `least` to `most`. */
static inline size_t probe_whole(size_t least, size_t most)
{
    return least + (size_t)(probe_bits() % (most - least + 1));
}

static inline void probe_say(double number)
{
    printf("%.17g\n", number);
}

/* An array of numbers, float or double, at random; the same said. */
#define PROBE_FILL(array, count, least, most)                                                      \
    for (size_t probe_i = 0; probe_i < (size_t)(count); probe_i++)                                 \
    (array)[probe_i] = (__typeof__(*(array)))probe_between(least, most)

#define PROBE_SAY_ALL(array, count)                                                                \
    for (size_t probe_i = 0; probe_i < (size_t)(count); probe_i++)                                 \
    probe_say((double)(array)[probe_i])

/* A build for one exercise (-DPROBE_OF="ex4_1_") leaves the others' probes out, and so the compiler
   whatever only they use. */
#ifndef PROBE_OF
#define PROBE_OF ""
#endif
#define PROBE(name)                                                                                \
    {                                                                                              \
#name, __builtin_strncmp(#name, PROBE_OF, sizeof PROBE_OF - 1) == 0 ? name : NULL          \
    }
#define PROBES static const Probe probes[]
#define PROBES_MAIN                                                                                \
    int main(int argc, char **argv)                                                                \
    {                                                                                              \
        return probes_run(argc, argv, probes, sizeof probes / sizeof *probes);                     \
    }

/* Runs the one that argv[1] names, with argv[2] as the seed. */
static int probes_run(int argc, char **argv, const Probe *probes, size_t count)
{
    for (size_t i = 0; argc == 3 && i < count; i++)
        if (strcmp(probes[i].name, argv[1]) == 0 && probes[i].run != NULL) {
            probe_state = strtoull(argv[2], NULL, 10);
            probes[i].run();
            return 0;
        }
    fprintf(stderr, "usage: %s NAME SEED\n", argv[0]);
    return 2;
}

#endif
