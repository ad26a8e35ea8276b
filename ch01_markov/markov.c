/* Chapter 1. The weather as a Markov chain

   QUESTION   It is sunny or rainy today. What can be said about the days to come?
   NEW        The ground of the course: numbers that are carried on, and a rule that carries them
              one step further. Here they are the forecast, the chance of each state.
   NOT        Nothing is learnt from an input yet: the rule never changes from day to day.
   EQUATION   pi_{t+1} = pi_t P          P[i][j] = Pr(tomorrow j | today i)
   LETTERS    maths   C            shape               in papers
              P       P            (n_state, n_state)  P, the transition matrix; rows sum to 1
              pi_t    pi, now      (n_state)           the forecast for day t, a row vector
              pi      stationary   (n_state)           where the forecast settles: pi = pi P
              d_t     distance     a number            total variation distance of pi_t from pi
   BUILD      cc -O2 ch01_markov/markov.c -o markov -lm && ./markov
   TIME       45 minutes to read with the lesson, 100 to do the exercises
   SOURCES    J. R. Norris, Markov Chains (Cambridge 1997), chapter 1
              D. Levin, Y. Peres, Markov Chains and Mixing Times (AMS, 2nd ed. 2017), ch. 1, 4, 12
              J. G. Kemeny, J. L. Snell, Finite Markov Chains (1960), chapters 3 and 4
              P. Billingsley, Statistical methods in Markov chains, Ann. Math. Stat. 32 (1961) */

#ifndef CH01_MARKOV
#define CH01_MARKOV

/* A file that is included is a library here, .c or .h, functions and all; only the file that is
   compiled has a main. So chapters can include each other, and each builds with one command.
   NEW(type, n) and matrix_new(rows, cols) give memory set to 0, and never return NULL. */
#include "tools.h" /* errors, memory, random numbers, matrices, options */

#include "chain_classes.c" /* which states lead where */
#include "chain_files.c"   /* chains and records in files */
#include "chain_show.h"    /* tables, charts and the picture */
#include "chi_squared.h"   /* how likely chance makes a statistic so large */

/* ================================== The chain ============================================= */
/* Today's state, sunny or rainy, picks the row of a fixed table: row i of P is used when today */
/* is state i. The table is the same every day; in Mamba the input will change the table.       */

typedef struct {
    size_t n_state;
    char **name; /* (n_state) owned */
    double *P;   /* (n_state, n_state) P[i][j] = Pr(tomorrow j | today i); each row sums to 1 */
} Chain;

Chain chain_new(size_t n_state)
{
    Chain chain = {n_state, NEW(char *, n_state), matrix_new(n_state, n_state)};
    return chain;
}

/* The chain of this chapter, and of `data/weather.csv`. */
Chain chain_weather(void)
{
    static const double P[4] = {0.8, 0.2,  /* after a sunny day */
                                0.4, 0.6}; /* after a rainy day */
    Chain chain = chain_new(2);
    memcpy(chain.P, P, sizeof P);
    chain.name[0] = strdup("sunny");
    chain.name[1] = strdup("rainy");
    return chain;
}

void chain_free(Chain *chain)
{
    names_free(chain->name, chain->n_state);
    free(chain->P);
    memset(chain, 0, sizeof *chain);
}

/* ================================== Forecasting =========================================== */
/* A forecast is a row of chances. One day on, each state hands its chance to the states that  */
/* may follow it, in the shares of its row.                                                    */

/* Exercise 1.1. One day further: next (n_state) = now (n_state) times P.
   Norris, Theorem 1.1.3; in NumPy: next = now @ P. `next` must not overlap `now`. */
void chain_step(double *next, const double *now, const Chain *chain)
{
    size_t n_state = chain->n_state;
    for (size_t j = 0; j < n_state; j++) {
        double chance = 0.0; /* of j tomorrow */
        //> EX 1.1 [2 pts] [10 min] one day further
        //? Work the weather by hand first: in which two ways can tomorrow be sunny?
        //? Today is i with chance now[i], and of these days the share P[i][j] is followed by j.
        //? A sum over i. Row i of P begins at chain->P[i * n_state].
        /* what flows into j, from wherever it comes */
        for (size_t i = 0; i < n_state; i++)
            chance += now[i] * chain->P[i * n_state + j];
        //< EX 1.1
        next[j] = chance;
    }
}

/* The forecasts for days 0 .. days: pi (days + 1, n_state), with pi[0] = start. */
void chain_forecast(double *pi, const double *start, const Chain *chain, size_t days)
{
    size_t n_state = chain->n_state;
    memcpy(pi, start, n_state * sizeof *pi);
    for (size_t t = 0; t < days; t++)
        chain_step(pi + (t + 1) * n_state, pi + t * n_state, chain);
}

/* The forecast for one far day alone, a step at a time: pi (n_state). */
void chain_after(double *pi, const double *start, const Chain *chain, uint64_t days)
{
    size_t n_state = chain->n_state;
    double *next = NEW(double, n_state);
    memcpy(pi, start, n_state * sizeof *pi);
    for (uint64_t t = 0; t < days; t++) {
        chain_step(next, pi, chain);
        memcpy(pi, next, n_state * sizeof *pi);
    }
    free(next);
}

/* Exercise 1.2. out = M to the power `exponent`, M (n, n), in about 2 log2(exponent) products:
   M^13 = M^8 M^4 M^1, and M, M^2, M^4, M^8 come from squaring. NumPy: matrix_power(M, exponent).
   matrix_multiply(product, left, right, n, n, n) gives left times right; `product` is neither. */
void matrix_power(double *out, const double *M, size_t n, uint64_t exponent)
{
    double *square = matrix_new(n, n), *product = matrix_new(n, n);
    memcpy(square, M, n * n * sizeof *square);
    matrix_identity(out, n);
    //> EX 1.2 [3 pts] [20 min] a power by repeated squaring
    //? Write 13 in binary, 1101. Which of M, M^2, M^4, M^8 are factors of M^13?
    //? Look at the lowest bit of exponent: if it is set, `square` is one of the factors.
    //? Then square `square`, shift exponent right by one, and go on until nothing is left of it.
    //? matrix_multiply may not write over what it reads: into `product`, and memcpy it from there.
    for (; exponent > 0; exponent >>= 1) {
        if (exponent & 1) { /* this square is one of the factors: out = out square */
            matrix_multiply(product, out, square, n, n, n);
            memcpy(out, product, n * n * sizeof *out);
        }
        /* M^1, M^2, M^4 ... : each round doubles the days that `square` spans */
        matrix_multiply(product, square, square, n, n, n);
        memcpy(square, product, n * n * sizeof *square);
    }
    //< EX 1.2
    free(square);
    free(product);
}

/* ================================== Where it settles ====================================== */
/* Before solving pi = pi P, look at which states lead where: a chain may have several answers, */
/* and one that goes round in a circle never settles on its answer.                            */

/* Which states lead where. States that lead to each other form a class; a class that nothing leaves
   is closed, and there are `n_class` of them. `class_of[i]` is the closed class of state i, or
   `n_class` if i is in none: then it is transient, and left for good one day. `period[k]` is the
   period of class k: a return takes a multiple of so many days. (Norris, 1.2 and 1.8.) */
Structure chain_structure(const Chain *chain)
{
    return structure_of(chain->P, chain->n_state);
}

/* Exercise 1.3. Fills M (n, n) and b (n), each place of both, with the linear system M x = b whose
   only answer is the stationary distribution of an irreducible chain (one closed class, no
   transient state). pi = pi P hides n equations, but one of them says what the others say together,
   so the last one has to give way: to what else is known of pi? */
void stationary_system(double *M, double *b, const double *P, size_t n)
{
    //> EX 1.3 [3 pts] [20 min] the equations of the stationary distribution
    //? For two states: which two equations in pi[0] and pi[1] does pi = pi P stand for?
    //? Row i of M says: sum over j of pi[j] P[j][i], minus pi[i], is 0. So M[i][j] holds P[j][i].
    //? Do not forget the 1 taken off on the diagonal, the last row of ones, and b's last 1.
    /* row i: what flows into state i, less pi[i], is 0; the last row: everything sums to 1 */
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++)
            M[i * n + j] = i == n - 1 ? 1.0 : P[j * n + i] - (i == j ? 1.0 : 0.0);
        b[i] = i == n - 1 ? 1.0 : 0.0;
    }
    //< EX 1.3
}

/* Solves M x = b, M (n, n), in place. Elimination leaves the pivots, the numbers it divided by, on
   M's diagonal. A small one says that the equations can hardly be told from ones with many answers:
   below 1e-9, more than half of a double's 16 digits may be gone. */
static bool solve_safely(double *b, double *M, size_t n, Error *error)
{
    bool ok = matrix_solve(b, M, n, 1);
    for (size_t k = 0; ok && k < n; k++)
        ok = fabs(M[k * n + k]) > 1e-9;
    return ok || fail(error, "the chain's parts meet so rarely that no digit of where it settles "
                             "could be trusted");
}

/* The stationary distribution that lives on closed class k alone: pi (n_state), 0 elsewhere. A
   closed class is a chain by itself: its rows of P lose nothing to the rest. */
bool chain_class_stationary(double *pi, const Chain *chain, const Structure *structure, size_t k,
                            Error *error)
{
    size_t n = chain->n_state, size = 0;
    size_t *member = NEW(size_t, n); /* (size) the states of the class */
    for (size_t i = 0; i < n; i++)
        if (structure->class_of[i] == k)
            member[size++] = i;
    /* P among the members alone: (size, size), and its rows still sum to 1 */
    double *P = matrix_new(size, size), *M = matrix_new(size, size), *within = NEW(double, size);
    for (size_t i = 0; i < size; i++)
        for (size_t j = 0; j < size; j++)
            P[i * size + j] = chain->P[member[i] * n + member[j]];
    stationary_system(M, within, P, size);
    bool ok = solve_safely(within, M, size, error);
    /* back among all states; outside the class there is nothing in the long run */
    for (size_t i = 0; ok && i < n; i++)
        pi[i] = 0.0;
    for (size_t i = 0; ok && i < size; i++)
        pi[member[i]] = fmax(within[i], 0.0); /* rounding may leave -1e-17 */
    free(member);
    free(P);
    free(M);
    free(within);
    return ok;
}

/* weight (n_class): the chance to end in each closed class, from `start` (n_state). Let Q be P
   among the transient states. Whoever starts there spends v = start (I - Q)^-1 days in each of
   them in all, and on each of those days leaves for class k with the chances of its row (Kemeny &
   Snell, Theorems 3.2.4 and 3.3.7). In columns: (I - Q transposed) v = start. */
bool chain_absorption(double *weight, const double *start, const Chain *chain,
                      const Structure *structure, Error *error)
{
    size_t n = chain->n_state, n_class = structure->n_class, size = 0;
    size_t *transient = NEW(size_t, n); /* (size) */
    memset(weight, 0, n_class * sizeof *weight);
    for (size_t i = 0; i < n; i++)
        if (structure->class_of[i] == n_class)
            transient[size++] = i;
        else
            weight[structure->class_of[i]] += start[i]; /* it is there already */
    /* M[i][j] = (I - Q)[j][i] and v[i] = start[i], both among the transient states */
    double *M = matrix_new(size, size), *v = NEW(double, size);
    for (size_t i = 0; i < size; i++) {
        v[i] = start[transient[i]];
        for (size_t j = 0; j < size; j++)
            M[i * size + j] = (i == j ? 1.0 : 0.0) - chain->P[transient[j] * n + transient[i]];
    }
    bool ok = solve_safely(v, M, size, error);
    /* v[i] days in state i, and on each of them the chance P[i][j] to step over into a class */
    for (size_t i = 0; ok && i < size; i++)
        for (size_t j = 0; j < n; j++)
            if (structure->class_of[j] < n_class)
                weight[structure->class_of[j]] += v[i] * chain->P[transient[i] * n + j];
    free(transient);
    free(M);
    free(v);
    return ok;
}

/* The share of days spent in each state in the long run, from `start`: limit (n_state). With one
   closed class the start does not matter, and this is the stationary distribution. */
bool chain_long_run(double *limit, const double *start, const Chain *chain,
                    const Structure *structure, Error *error)
{
    size_t n = chain->n_state;
    double *weight = NEW(double, structure->n_class), *pi = NEW(double, n);
    bool ok = chain_absorption(weight, start, chain, structure, error);
    memset(limit, 0, n * sizeof *limit);
    /* limit = sum over the classes of (the chance to end there) times (its own distribution) */
    for (size_t k = 0; ok && k < structure->n_class; k++) {
        ok = chain_class_stationary(pi, chain, structure, k, error);
        for (size_t i = 0; ok && i < n; i++)
            limit[i] += weight[k] * pi[i];
    }
    free(weight);
    free(pi);
    return ok;
}

/* The one distribution with pi = pi P, for programs of your own. Fails if the chain has several. */
bool chain_stationary(double *pi, const Chain *chain, Error *error)
{
    Structure structure = chain_structure(chain);
    bool ok = structure.n_class == 1
                  ? chain_class_stationary(pi, chain, &structure, 0, error)
                  : fail(error,
                         "the chain has %zu closed classes, so it has more than one stationary "
                         "distribution: where it settles depends on where it starts",
                         structure.n_class);
    structure_free(&structure);
    return ok;
}

/* ================================== How fast it forgets =================================== */
/* Two forecasts draw together as the days pass. How far apart they are is one number, and in  */
/* the end it shrinks by the same factor every day.                                            */

/* Exercise 1.4. The total variation distance of two distributions p, q (n): the most by which they
   can differ about any event, and any set of states is one (Levin & Peres, 4.1). There are 2^n
   sets; about which one do they differ most? */
double total_variation(const double *p, const double *q, size_t n)
{
    double distance = 0.0;
    //> EX 1.4 [2 pts] [10 min] the distance between two forecasts
    //? (0.5, 0.5, 0) and (0.25, 0.25, 0.5): try all eight events. About which do they differ most?
    //? A state of which p holds more than q makes the event's difference larger, another smaller.
    //? The event of all states with p[i] > q[i]; the others together lack just as much.
    /* the event of all states with p > q; the others lack just as much, so it is half the sum */
    for (size_t i = 0; i < n; i++)
        distance += 0.5 * fabs(p[i] - q[i]);
    //< EX 1.4
    return distance;
}

/* distance (days + 1): how far the forecasts for days 0 .. days are from the long run, if day 0 is
   surely state i. The weather: 1/3, 0.1333, 0.0533 ... from a sunny day. */
bool chain_distances(double *distance, size_t i, size_t days, const Chain *chain,
                     const Structure *structure, Error *error)
{
    size_t n = chain->n_state;
    double *pi = matrix_new(days + 1, n), *start = NEW(double, n), *limit = NEW(double, n);
    start[i] = 1.0;
    chain_forecast(pi, start, chain, days);
    bool ok = chain_long_run(limit, start, chain, structure, error);
    for (size_t t = 0; ok && t <= days; t++)
        distance[t] = total_variation(pi + t * n, limit, n);
    free(pi);
    free(start);
    free(limit);
    return ok;
}

/* The forgetting rate, the factor by which the distance to the stationary distribution shrinks per
   day in the end: the second-largest eigenvalue modulus of P, found as the largest of P - 1 pi, in
   which the eigenvalue 1 is taken off (Levin & Peres, 12.1). 1 if the forecast need not settle.
   `stationary` (n_state) is used where there is only one. Costs about 100 n_state^3. */
double chain_forgetting_rate(const Chain *chain, const Structure *structure,
                             const double *stationary)
{
    size_t n = chain->n_state;
    if (structure->n_class > 1 || structure->period[0] > 1)
        return 1.0;
    /* Write 1 for the column of ones, so 1 pi has pi in every row, and is what P^t settles on. As
       P 1 = 1, pi P = pi and pi 1 = 1, all mixed products are 1 pi: (P - 1 pi)^t = P^t - 1 pi. That
       is all that is still remembered after t days; the spectral radius is its factor a day. */
    double *M = matrix_new(n, n);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            M[i * n + j] = chain->P[i * n + j] - stationary[j];
    double rate = matrix_spectral_radius(M, n);
    free(M);
    return rate < 1e-12 ? 0.0 : rate; /* below is rounding: the days are independent */
}

/* Days until half of the distance is gone: rate^days = 1/2. The weather: log 0.5 / log 0.4 = 0.76.
   The same half-life measures how long a Mamba's state holds what it has read. */
double half_life(double rate)
{
    return rate <= 0.0 ? 0.0 : rate >= 1.0 ? INFINITY : log(0.5) / log(rate);
}

/* ================================== Simulation ============================================ */
/* A forecast says how likely each state is. A simulation throws the dice, and lives one day    */
/* after the other.                                                                             */

/* Exercise 1.5. Draws i with chance p[i], p (n) summing to 1 but for rounding: throws a dart at
   [0, 1) cut into pieces of lengths p[0], p[1], ... One call of random_uniform. */
size_t random_pick(Random *random, const double *p, size_t n)
{
    double dart = random_uniform(random);
    size_t last = 0; /* the last state that has a chance: a sum of 0.9999... falls to it */
    //> EX 1.5 [2 pts] [15 min] draw a state
    //? Piece 0 is [0, p[0]), piece 1 is [p[0], p[0] + p[1]), and so on. Which one is hit?
    //? Walk along: if dart < p[i] it is i, else take p[i] off the dart and look at the next.
    //? Never return a state with p[i] == 0, not even when rounding leaves the dart past the end.
    /* `dart` counts from the left end of piece i; past that piece it counts from the next */
    for (size_t i = 0; i < n; i++) {
        if (dart < p[i])
            return i;
        dart -= p[i];
        if (p[i] > 0.0)
            last = i;
    }
    //< EX 1.5
    return last;
}

/* A record being lived through, and what was seen of it so far. A spell is a run of days of one
   state; it goes on with chance P[i][i] each day, and so lasts 1 / (1 - P[i][i]) days. */
typedef struct {
    size_t today;      /* the state of the next day to be lived */
    uint64_t total;    /* days lived */
    uint64_t spell;    /* days of the current state up to now */
    uint64_t *days;    /* (n_state) days spent in each state */
    uint64_t *longest; /* (n_state) the longest unbroken spell */
    uint64_t *spells;  /* (n_state) how many spells */
} Simulation;

/* Before the first day, whose state is drawn from `start` (n_state). */
Simulation simulation_new(const Chain *chain, const double *start, Random *random)
{
    size_t n = chain->n_state;
    Simulation seen = {
        random_pick(random, start, n), 0, 0, NEW(uint64_t, n), NEW(uint64_t, n), NEW(uint64_t, n)};
    return seen;
}

/* Lives on until `until` days are over. Writes each day's state to `record`, a line each, unless
   it is NULL. Stopping on the way and going on gives the same days. */
void simulation_run(Simulation *seen, const Chain *chain, uint64_t until, Random *random,
                    FILE *record)
{
    size_t n = chain->n_state, today = seen->today;
    for (; seen->total < until; seen->total++) {
        seen->days[today]++;
        seen->spells[today] += seen->spell == 0;
        if (++seen->spell > seen->longest[today])
            seen->longest[today] = seen->spell;
        if (record)
            fprintf(record, "%s\n", chain->name[today]);
        /* row `today` of P is all that the past has to say about tomorrow */
        size_t tomorrow = random_pick(random, chain->P + today * n, n);
        if (tomorrow != today)
            seen->spell = 0;
        today = tomorrow;
    }
    seen->today = today;
}

void simulation_free(Simulation *seen)
{
    free(seen->days);
    free(seen->longest);
    free(seen->spells);
    memset(seen, 0, sizeof *seen);
}

/* The standard deviation, times sqrt(days), of the share of days spent in each state:
   deviation (n_state). Days that resemble their neighbours tell less than independent ones:
       deviation_i^2 = pi_i (1 - pi_i) + 2 pi_i sum_{k>=1} (P^k[i][i] - pi_i)
   and the sum is Z[i][i] - 1 with Z = (I - P + 1 pi)^-1 (Kemeny & Snell, section 4.6). For a chain
   with one closed class; false if its parts meet so rarely that the equations look singular. */
bool chain_standard_errors(double *deviation, const Chain *chain, const double *stationary)
{
    size_t n = chain->n_state;
    double *M = matrix_new(n, n), *Z = matrix_new(n, n);
    matrix_identity(Z, n);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            M[i * n + j] = (i == j ? 1.0 : 0.0) - chain->P[i * n + j] + stationary[j];
    /* M = I - P + 1 pi, and its inverse by solving M Z = I */
    bool ok = matrix_solve(Z, M, n, n) && matrix_max_abs(Z, n * n) < 1e9;
    for (size_t i = 0; ok && i < n; i++) {
        double pi = stationary[i];
        deviation[i] = sqrt(fmax(0.0, 2.0 * pi * Z[i * n + i] - pi - pi * pi));
    }
    free(M);
    free(Z);
    return ok;
}

/* ================================== Fitting a chain to a record =========================== */
/* Where does P come from? From counting: the most likely chain is the one whose chances are   */
/* the shares of the days seen. The counts are read by chain_files.c.                          */

/* A chain fitted to counts, and what the fit is worth. */
typedef struct {
    Chain chain;        /* the most likely one */
    double *std_error;  /* (n_state, n_state) standard errors of its P */
    double G2, freedom; /* likelihood ratio statistic of "tomorrow ignores today"; its freedom */
    double p_value;     /* the chance of a G2 so large if tomorrow did ignore today */
} Fit;

/* Exercise 1.6. A day of one state was followed count[j] times by state j, count (n_state), total
   times in all, and that is not 0. p (n_state): the chances under which this is most likely
   (Billingsley 1961, section 2); std_error (n_state): how far such a p[j] scatters about the true
   one, if each of these days was a try by itself. */
void fit_row(double *p, double *std_error, const double *count, size_t n_state)
{
    double total = 0.0;
    for (size_t j = 0; j < n_state; j++)
        total += count[j];
    //> EX 1.6 [2 pts] [10 min] the most likely chances
    //? After a dry day came 1049 dry and 350 wet days. What would you bet on the next dry day?
    //? One try is 1 with chance p, else 0: its variance is p (1 - p). And that of a mean of many?
    /* of `total` days like today, count[j] were followed by state j */
    for (size_t j = 0; j < n_state; j++) {
        p[j] = count[j] / total;
        std_error[j] = sqrt(p[j] * (1.0 - p[j]) / total);
    }
    //< EX 1.6
}

/* Exercise 1.7. The likelihood ratio statistic of "tomorrow ignores today" (Billingsley 1961,
   section 3):  G2 = 2 sum_ij count_ij log(count_ij / expected_ij),
   where expected_ij is how often j would follow i if that were so. A count may be 0.
   row (n_state) and column (n_state) are the sums of count (n_state, n_state). */
double likelihood_ratio(const double *count, const double *row, const double *column,
                        size_t n_state, double total)
{
    double G2 = 0.0;
    //> EX 1.7 [2 pts] [15 min] is today informative about tomorrow?
    //? If tomorrow ignored today, how many of the row_i days would be followed by state j?
    //? x log x goes to 0 with x: leave the cell out, or log(0) spoils the whole sum.
    /* expected: the share of j among all days, given to the row_i days of state i */
    for (size_t i = 0; i < n_state; i++) {
        for (size_t j = 0; j < n_state; j++) {
            double seen = count[i * n_state + j], expected = row[i] * column[j] / total;
            if (seen > 0.0)
                G2 += 2.0 * seen * log(seen / expected);
        }
    }
    //< EX 1.7
    return fmax(G2, 0.0); /* rounding may leave -1e-13 where counts are as expected */
}

/* Fits the chain that makes the counts most likely. Fails if a state is never left: nothing is
   known then about what follows it. */
bool chain_fit(Fit *fit, const Counts *counts, Error *error)
{
    size_t n = counts->n_state, columns = 0, left = 0;
    double *row = NEW(double, n), *column = NEW(double, n), total = 0.0;
    /* row[i]: transitions out of i; column[j]: transitions into j */
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            row[i] += counts->count[i * n + j];
            column[j] += counts->count[i * n + j];
        }
    for (size_t i = 0; i < n; i++) {
        total += row[i];
        columns += column[i] > 0.0;
    }
    while (left < n && row[left] > 0.0) /* states that are left at least once */
        left++;
    if (left == n) {
        fit->chain = chain_new(n);
        fit->std_error = matrix_new(n, n);
        for (size_t i = 0; i < n; i++) {
            fit->chain.name[i] = strdup(counts->name[i]);
            fit_row(fit->chain.P + i * n, fit->std_error + i * n, counts->count + i * n, n);
        }
        /* each row of P is n - 1 free numbers; without memory there is one row for all */
        fit->G2 = likelihood_ratio(counts->count, row, column, n, total);
        fit->freedom = ((double)n - 1.0) * ((double)columns - 1.0);
        fit->p_value = fit->freedom > 0.0 ? chi_squared_tail(fit->G2, fit->freedom) : 1.0;
    }
    free(row);
    free(column);
    return left == n || fail(error,
                             "state '%s' is never left in the record, so nothing is known about "
                             "the day after it",
                             counts->name[left]);
}

void fit_free(Fit *fit)
{
    chain_free(&fit->chain);
    free(fit->std_error);
}

/* ================================== The demos ============================================= */
/* What the lesson shows. Tables and pictures are laid out in chain_show.h.                    */

enum { CHAIN_MAX_DAYS = 1000000, CHAIN_RATE_STATES = 256 };

/* The chain in a file, a table like data/weather.csv. */
bool chain_read(Chain *chain, const char *path, Error *error)
{
    StateTable read;
    if (!chances_read(&read, path, error))
        return false;
    Chain got = {read.n_state, read.name, read.value};
    *chain = got;
    return true;
}

/* A chain with all that is found out about it before anything is printed. */
typedef struct {
    Chain chain;
    Structure structure;
    double *start; /* (n_state) */
    double *limit; /* (n_state) the share of days in the long run, from `start` */
    double rate;   /* forgetting rate; NaN if the chain is too large for it */
} Study;

/* The forecast for a far day by P^days, compared with single steps. */
static void print_far_day(uint64_t days, const Study *study)
{
    size_t n = study->chain.n_state;
    double *power = matrix_new(n, n), *pi = NEW(double, 2 * n);
    matrix_power(power, study->chain.P, n, days);
    vector_times_matrix(pi, study->start, power, n, n);
    chain_after(pi + n, study->start, &study->chain, days);
    puts("      ...");
    print_day(days, pi, study->chain.name, n, total_variation(pi, study->limit, n));
    print_agreement(days, 2.0 * total_variation(pi, pi + n, n));
    free(power);
    free(pi);
}

static void print_days(const double *pi, size_t days, const Study *study)
{
    size_t n = study->chain.n_state;
    puts("\nDay by day (distance: total variation from the shares in the long run):");
    print_names("      day  ", study->chain.name, n);
    for (size_t t = 0; t <= days; t++)
        print_day(t, pi + t * n, study->chain.name, n,
                  total_variation(pi + t * n, study->limit, n));
}

/* The closed classes of a reducible chain, with the chance to end in each. */
static void print_classes(const Study *study)
{
    const Structure *structure = &study->structure;
    double *weight = NEW(double, structure->n_class), *pi = NEW(double, study->chain.n_state);
    Error ignored; /* the long run has been found already: these will be, too */
    chain_absorption(weight, study->start, &study->chain, structure, &ignored);
    print_reducible(structure->n_class);
    for (size_t k = 0; k < structure->n_class; k++) {
        chain_class_stationary(pi, &study->chain, structure, k, &ignored);
        print_class(k, weight[k], study->chain.name, pi, study->chain.n_state);
    }
    free(weight);
    free(pi);
}

/* In words, where the chain settles, if it does, and why not if not. */
static void print_settling(const Study *study)
{
    if (study->structure.n_class > 1) {
        print_classes(study);
        return;
    }
    print_stationary(study->chain.name, study->limit, study->chain.n_state);
    if (study->structure.period[0] > 1)
        print_periodic(study->structure.period[0]);
    else if (isnan(study->rate))
        printf("(The forgetting rate is worked out for up to %d states.)\n", CHAIN_RATE_STATES);
    else
        print_forgetting(study->rate, half_life(study->rate));
}

/* The forecast day by day; `days` 0 means: until it settles. */
static bool demo_forecast(const Study *study, uint64_t days, const Show *show, Error *error)
{
    const Chain *chain = &study->chain;
    bool settles = study->structure.n_class == 1 && study->structure.period[0] == 1;
    size_t n = chain->n_state, shown = shown_states(n), listed = SHOWN_DAYS;
    size_t most = settles ? 2 * SHOWN_DAYS : SHOWN_DAYS / 2;
    double *pi = matrix_new(2 * SHOWN_DAYS + 1, n);
    chain_forecast(pi, study->start, chain, 2 * SHOWN_DAYS);
    if (days && days <= 2 * SHOWN_DAYS)
        listed = (size_t)days;
    if (!days) /* until it has settled to four digits; two days at least are worked by hand */
        for (listed = 2; listed < most; listed++)
            if (total_variation(pi + listed * n, study->limit, n) < 5e-5)
                break;
    if (n <= 4)
        print_by_hand("Tomorrow", pi, chain->name, chain->P, n);
    if (n <= 4 && listed > 1)
        print_by_hand("The day after", pi + n, chain->name, chain->P, n);
    print_days(pi, listed, study);
    if (days > listed)
        print_far_day(days, study);
    print_settling(study);
    double *day = NEW(double, listed + 1), *column = matrix_new(shown, listed + 1);
    Chart chart = chart_new("The forecast, day by day", "day", "chance");
    count_up(day, listed + 1);
    for (size_t i = 0; i < shown; i++) {
        copy_column(column + i * (listed + 1), pi, i, listed + 1, n);
        chart_add(&chart, chain->name[i], MARK_LINE, day, column + i * (listed + 1), listed + 1);
        chart_ink(&chart, state_ink(chain->name, n, i));
        if (study->limit[i] > 0.0)
            chart_level(&chart, study->limit[i]);
    }
    bool ok = chain_show(&chart, chain->name, chain->P, chain->n_state, show, error);
    free(pi);
    free(day);
    free(column);
    return ok;
}

/* How far the forecast still is from the long run, for each state that day 0 can be. */
static bool demo_forgetting(const Study *study, uint64_t days, const Show *show, Error *error)
{
    const Chain *chain = &study->chain;
    size_t count = (days ? days : 12) + 1, shown = shown_states(chain->n_state);
    double *day = NEW(double, count), *distance = matrix_new(shown, count);
    Chart chart = chart_new("How fast the chain forgets its first day", "day",
                            "total variation distance, logarithmic");
    bool ok = true;
    chart.log_y = true;
    count_up(day, count);
    for (size_t i = 0; ok && i < shown; i++) {
        ok = chain_distances(distance + i * count, i, count - 1, chain, &study->structure, error);
        chart_add(&chart, chain->name[i], MARK_LINE, day, distance + i * count, count);
        chart_ink(&chart, state_ink(chain->name, chain->n_state, i));
    }
    if (ok) {
        print_distances(chain->name, distance, chain->n_state, count);
        print_settling(study);
    }
    ok = ok && chain_show(&chart, chain->name, chain->P, chain->n_state, show, error);
    free(day);
    free(distance);
    return ok;
}

/* Lives through `days` days and looks at the share, ever less often as time goes on. */
static Simulation watch_simulation(RunningShare *running, const Study *study, uint64_t days,
                                   const double *deviation, Random *random, FILE *record)
{
    Simulation seen = simulation_new(&study->chain, study->start, random);
    Progress progress = progress_start("simulating");
    while (seen.total < days) {
        bool last = running->looks == LOOKS - 1;
        double part = (double)(running->looks + 1) / LOOKS;
        uint64_t until = last ? days : (uint64_t)exp(log((double)days) * part);
        simulation_run(&seen, &study->chain, until > seen.total ? until : seen.total + 1, random,
                       record);
        look_at_share(running, (double)seen.days[running->state], (double)seen.total,
                      study->limit[running->state], deviation[running->state]);
        progress_show(&progress, (double)seen.total, (double)days);
    }
    progress_end(&progress);
    return seen;
}

static bool demo_simulate(const Study *study, uint64_t days, const char *record, const Show *show,
                          Error *error)
{
    const Chain *chain = &study->chain;
    OutFile file = {NULL, NULL, NULL};
    if (record && !out_open(&file, record, error))
        return false;
    if (record)
        fprintf(file.stream,
                "# SYNTHETIC: %" PRIu64 " days drawn by ch01_markov, seed %" PRIu64 "\nstate\n",
                days, show->seed);
    double *deviation = NEW(double, chain->n_state);
    RunningShare *running = NEW(RunningShare, 1);
    assert(chain->n_state > 0); /* chain_read and chain_fit see to it */
    running->state = shown_states(chain->n_state) - 1;
    bool known =
        study->structure.n_class == 1 && chain_standard_errors(deviation, chain, study->limit);
    Random random = random_from_seed(show->seed);
    Simulation seen = watch_simulation(running, study, days, deviation, &random, file.stream);
    printf("%" PRIu64 " days, drawn with seed %" PRIu64 ":\n", days, show->seed);
    print_lived(chain->name, chain->P, chain->n_state, days, seen.days, seen.longest, seen.spells,
                study->limit, deviation);
    print_errors_explained(study->structure.n_class, known);
    Chart chart = running_chart(running, chain->name, chain->n_state);
    bool ok = (!record || out_close(&file, error)) &&
              chain_show(&chart, chain->name, chain->P, chain->n_state, show, error);
    simulation_free(&seen);
    free(deviation);
    free(running);
    return ok;
}

/* Days of the chain beside independent ones: what the shares do not show. */
static bool demo_strip(const Study *study, const Show *show, Error *error)
{
    size_t n = study->chain.n_state, day[2 * STRIP_DAYS];
    Random random = random_from_seed(show->seed);
    day[0] = random_pick(&random, study->limit, n);
    for (size_t t = 1; t < STRIP_DAYS; t++)
        day[t] = random_pick(&random, study->chain.P + day[t - 1] * n, n);
    for (size_t t = STRIP_DAYS; t < 2 * STRIP_DAYS; t++)
        day[t] = random_pick(&random, study->limit, n);
    return show_strips(day, study->chain.P, study->limit, study->chain.name, n, show, error);
}

/* ================================== Options and main ====================================== */

typedef struct {
    const char *chain, *fit, *start, *record;
    uint64_t days, simulate;
    bool forgetting, strip;
} ChainOptions;

/* The chain fitted to a file, said with what the fit is worth. */
static bool study_fit(Chain *chain, const char *path, Error *error)
{
    Counts counts;
    Fit fit;
    if (!counts_read(&counts, path, error))
        return false;
    bool ok = chain_fit(&fit, &counts, error) || fail_in(path, error);
    if (ok) {
        printf("A chain fitted to %s\n", path_shown(path));
        print_record(counts.days, counts.gaps, counts.title);
        print_fitted(counts.name, counts.count, fit.chain.P, fit.std_error, counts.n_state);
        print_informative(fit.G2, fit.freedom, fit.p_value);
        free(fit.std_error);
        *chain = fit.chain;
    }
    counts_free(&counts);
    return ok;
}

/* Reads or fits the chain, prints it, and finds out about it. */
static bool study_open(Study *study, const ChainOptions *options, Error *error)
{
    if (options->fit) {
        if (!study_fit(&study->chain, options->fit, error))
            return false;
    } else if (options->chain) {
        if (!chain_read(&study->chain, options->chain, error))
            return false;
        printf("The chain of %s\n\n", path_shown(options->chain));
    } else {
        study->chain = chain_weather();
        puts("The weather as a Markov chain\n");
    }
    size_t n = study->chain.n_state;
    if (!options->fit)
        print_table(study->chain.name, study->chain.P, n);
    study->start = NEW(double, n);
    study->limit = NEW(double, n);
    study->structure = chain_structure(&study->chain);
    for (size_t i = 0; i < n; i++)
        study->start[i] = 1.0 / (double)n;
    if ((options->start &&
         !start_parse(study->start, options->start, study->chain.name, n, error)) ||
        !chain_long_run(study->limit, study->start, &study->chain, &study->structure, error))
        return false;
    study->rate = n > CHAIN_RATE_STATES
                      ? NAN
                      : chain_forgetting_rate(&study->chain, &study->structure, study->limit);
    return true;
}

static void study_close(Study *study)
{
    chain_free(&study->chain);
    structure_free(&study->structure);
    free(study->start);
    free(study->limit);
}

int chain_main(int argc, char **argv)
{
    ChainOptions options = {NULL, NULL, NULL, NULL, 0, 0, false, false};
    Show show = {look_at_terminal(false), NULL, 1};
    const Option table[] = {
        {"chain", "FILE", OPTION_TEXT, 0, 0, &options.chain, "!fit",
         "read the chain: first line from,sunny,rainy; then sunny,0.8,0.2 and so on; - is stdin"},
        {"fit", "FILE", OPTION_TEXT, 0, 0, &options.fit, "",
         "fit a chain to counts (the same form, whole numbers) or to a record (a state a line, or "
         "date,state; blank, NA or ? for a missing day); - is stdin"},
        {"start", "WHAT", OPTION_TEXT, 0, 0, &options.start, "- simulate strip",
         "a state, or the chance of each: 0.5,0.5 (default: all alike)"},
        {"days", "N", OPTION_WHOLE, 1, CHAIN_MAX_DAYS, &options.days, "- forgetting",
         "forecast N days (default: until it settles)"},
        {"forgetting", NULL, OPTION_SWITCH, 0, 0, &options.forgetting, "mode",
         "how far the forecast still is from the long run, for each state that day 0 can be"},
        {"strip", NULL, OPTION_SWITCH, 0, 0, &options.strip, "mode",
         "draw sixty days, beside sixty independent ones with the same shares"},
        {"simulate", "N", OPTION_WHOLE, 1, 1e9, &options.simulate, "mode",
         "draw a record of N days and compare it with what the chain predicts"},
        {"seed", "S", OPTION_WHOLE, 0, WHOLE_MOST, &show.seed, "simulate strip",
         "of the random numbers (default 1)"},
        {"record", "FILE", OPTION_OUT, 0, 0, &options.record, "simulate",
         "write the drawn record, a state a line"},
        {"svg", "FILE", OPTION_OUT, 0, 0, &show.svg, "", "write the chart as SVG"},
        {"ascii", NULL, OPTION_SWITCH, 0, 0, &show.look.ascii, "", "draw charts without Unicode"},
    };
    const Program program = {"ch01_markov",
                             "The weather as a Markov chain (chapter 1). Without options: the "
                             "two-state weather.",
                             table, sizeof table / sizeof *table};
    int status;
    if (!program_begin(&status, &program, argc, argv))
        return status;
    Error error;
    Study study;
    memset(&study, 0, sizeof study);
    bool ok = study_open(&study, &options, &error);
    if (ok && options.simulate)
        ok = demo_simulate(&study, options.simulate, options.record, &show, &error);
    else if (ok && options.strip)
        ok = demo_strip(&study, &show, &error);
    else if (ok && options.forgetting)
        ok = demo_forgetting(&study, options.days, &show, &error);
    else if (ok)
        ok = demo_forecast(&study, options.days, &show, &error);
    study_close(&study);
    return program_end(ok, &error);
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return chain_main(argc, argv);
}
#endif

#endif /* CH01_MARKOV */
