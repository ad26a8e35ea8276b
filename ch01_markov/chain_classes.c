/* Which states of a chain lead where.

   HOLDS   the closed classes of states and their periods
   FOR     chapter 1, before it solves pi = pi P: with several closed classes there are several
           answers, and with a period the forecast never settles. It knows P, and no chain */

#ifndef CH01_CHAIN_CLASSES
#define CH01_CHAIN_CLASSES

#include "tools.h"

/* The shape of a chain. States that lead to each other form a class; a class that nothing leaves
   is closed. Every chain ends in a closed class; states outside are transient. (Norris, 1.2.) */
typedef struct {
    size_t n_class;   /* closed classes, numbered by their first state; at least 1 */
    size_t *class_of; /* (n_state) the closed class of a state, or n_class if it is transient */
    size_t *period;   /* (n_class) all ways round return after a multiple of so many days */
} Structure;

static void or_row(unsigned char *to, const unsigned char *from, size_t n)
{
    for (size_t j = 0; j < n; j++)
        to[j] |= from[j];
}

/* reach[i][j] = 1 if state j can follow state i after one day or more: Warshall's closure,
   J. ACM 9 (1962), a row at a time. */
static void chain_reach(unsigned char *reach, const double *P, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            reach[i * n + j] = P[i * n + j] > 0.0;
    for (size_t k = 0; k < n; k++)
        for (size_t i = 0; i < n; i++)
            if (i != k && reach[i * n + k])
                or_row(reach + i * n, reach + k * n, n);
}

static size_t greatest_common_divisor(size_t a, size_t b)
{
    return b == 0 ? a : greatest_common_divisor(b, a % b);
}

/* The period of the class of state `first`: walk it breadth first; a step from level l to level m
   closes ways round whose lengths differ by l + 1 - m. */
static size_t class_period(const double *P, size_t n, const size_t *class_of, size_t first)
{
    size_t head = 0, tail = 0, period = 0;
    size_t *queue = NEW(size_t, n), *level = NEW(size_t, n); /* level 0: not seen yet */
    level[first] = 1;
    queue[tail++] = first;
    while (head < tail) {
        size_t i = queue[head++];
        for (size_t j = 0; j < n; j++) {
            if (!(P[i * n + j] > 0.0) || class_of[j] != class_of[first])
                continue;
            if (level[j] == 0) {
                level[j] = level[i] + 1;
                queue[tail++] = j;
            } else {
                size_t ahead = level[i] + 1;
                period = greatest_common_divisor(period, ahead > level[j] ? ahead - level[j]
                                                                          : level[j] - ahead);
            }
        }
    }
    free(queue);
    free(level);
    return period;
}

/* The structure of the chain whose chances are P (n, n). */
Structure structure_of(const double *P, size_t n)
{
    Structure structure = {0, NEW(size_t, n), NEW(size_t, n)};
    unsigned char *reach = (unsigned char *)new_zeroed(n, n);
    chain_reach(reach, P, n);
    for (size_t i = 0; i < n; i++)
        structure.class_of[i] = SIZE_MAX;
    for (size_t i = 0; i < n; i++) {
        bool closed = structure.class_of[i] == SIZE_MAX;
        for (size_t j = 0; closed && j < n; j++)
            closed = !reach[i * n + j] || reach[j * n + i]; /* who can be reached comes back */
        if (!closed)
            continue;
        for (size_t j = 0; j < n; j++)
            if (reach[i * n + j])
                structure.class_of[j] = structure.n_class;
        structure.period[structure.n_class++] = class_period(P, n, structure.class_of, i);
    }
    for (size_t i = 0; i < n; i++)
        if (structure.class_of[i] == SIZE_MAX)
            structure.class_of[i] = structure.n_class;
    free(reach);
    return structure;
}

void structure_free(Structure *structure)
{
    free(structure->class_of);
    free(structure->period);
    memset(structure, 0, sizeof *structure);
}

#endif /* CH01_CHAIN_CLASSES */
