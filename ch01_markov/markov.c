/* Chapter 1. The weather as a Markov chain

   QUESTION   It is sunny or rainy today. What can be said about the days to come?
   NEW        The ground of the course: a state, and a rule that carries it one step further.
   NOT        Nothing is learnt from an input yet: the rule never changes from day to day.
   EQUATION   pi_{t+1} = pi_t P          P[i][j] = Pr(tomorrow j | today i)
   LETTERS    maths   C            shape               in papers
              P       P            (n_state, n_state)  P, the transition matrix; rows sum to 1
              pi_t    pi, now      (n_state)           the forecast for day t, a row vector
              pi      stationary   (n_state)           where the forecast settles: pi = pi P
              d_t     distance     a number            total variation distance of pi_t from pi
   BUILD      cc -O2 ch01_markov/markov.c -o markov -lm && ./markov
   TIME       30 minutes to read, 90 to do the exercises
   SOURCES    J. R. Norris, Markov Chains (Cambridge 1997), chapter 1
              D. Levin, Y. Peres, Markov Chains and Mixing Times (AMS, 2nd ed. 2017), ch. 1, 4
              P. Billingsley, Statistical methods in Markov chains, Ann. Math. Stat. 32 (1961)

   The file reads from top to bottom: the chain first, then the tools that every chapter uses
   (errors, random numbers, matrices, charts), last what the program prints and its options. */

#ifndef CH01_MARKOV
#define CH01_MARKOV

#include "tools.h" /* errors, memory, random numbers, matrices, files, options */

#include "charts.h" /* a chart in the terminal and as SVG */

/* ================================== The chain ============================================= */
/* Today's state decides the rule for tomorrow: row i of P is used when today is state i.      */

typedef struct {
    size_t n_state;
    char **name; /* (n_state) owned */
    double *P;   /* (n_state, n_state) P[i][j] = Pr(tomorrow j | today i); each row sums to 1 */
} Chain;

enum { CHAIN_MAX_STATES = 2000, CHAIN_MAX_DAYS = 1000000, CHAIN_RATE_STATES = 256 };

Chain chain_new(size_t n_state)
{
    Chain chain;
    chain.n_state = n_state;
    chain.name = NEW(char *, n_state);
    chain.P = matrix_new(n_state, n_state);
    return chain;
}

void chain_free(Chain *chain)
{
    for (size_t i = 0; i < chain->n_state; i++)
        free(chain->name[i]);
    free(chain->name);
    free(chain->P);
    memset(chain, 0, sizeof *chain);
}

/* The chain of this chapter, and of `data/weather.csv`. */
Chain chain_weather(void)
{
    static const double P[4] = {0.8, 0.2, 0.4, 0.6};
    Chain chain = chain_new(2);
    memcpy(chain.P, P, sizeof P);
    chain.name[0] = strdup("sunny");
    chain.name[1] = strdup("rainy");
    return chain;
}

/* The number of the state called `name`, or n_state if there is none. */
size_t chain_find(const Chain *chain, const char *name)
{
    size_t i = 0;
    while (i < chain->n_state && strcmp(chain->name[i], name) != 0)
        i++;
    return i;
}

/* ================================== Forecasting =========================================== */
/* A forecast is a row of chances. One day on, each state hands its chance to the states that  */
/* may follow it, in the shares of its row.                                                    */

/* Exercise 1.1. One day further: next (n_state) = now (n_state) times P.
   Norris, Theorem 1.1.3; in NumPy: next = now @ P. `next` must not overlap `now`. */
void chain_step(double *next, const double *now, const Chain *chain)
{
    size_t n_state = chain->n_state;
    memset(next, 0, n_state * sizeof *next);
    //> EX 1.1 [2 pts] [10 min] one day further
    //? Work the weather by hand first: how much of tomorrow's sunny comes from today's rainy?
    //? State i holds now[i] and gives the share P[i * n_state + j] of it to state j.
    //? Two loops, over i and over j, and one line: next[j] += ... Nothing is ever taken away.
    for (size_t i = 0; i < n_state; i++)
        for (size_t j = 0; j < n_state; j++)
            next[j] += now[i] * chain->P[i * n_state + j];
    //< EX 1.1
}

/* The forecasts for days 0 .. days: pi (days + 1, n_state), with pi[0] = start. */
void chain_forecast(double *pi, const double *start, const Chain *chain, size_t days)
{
    size_t n_state = chain->n_state;
    memcpy(pi, start, n_state * sizeof *pi);
    for (size_t t = 0; t < days; t++)
        chain_step(pi + (t + 1) * n_state, pi + t * n_state, chain);
}

/* Exercise 1.2. out = M to the power `exponent`, M (n, n), in about 2 log2(exponent) products:
   M^13 = M^8 M^4 M^1, and M, M^2, M^4, M^8 come from squaring. NumPy: matrix_power(M, exponent). */
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
        if (exponent & 1) {
            matrix_multiply(product, out, square, n, n, n);
            memcpy(out, product, n * n * sizeof *out);
        }
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
static void chain_reach(unsigned char *reach, const Chain *chain)
{
    size_t n = chain->n_state;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            reach[i * n + j] = chain->P[i * n + j] > 0.0;
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
static size_t class_period(const Chain *chain, const size_t *class_of, size_t first)
{
    size_t n = chain->n_state, head = 0, tail = 0, period = 0;
    size_t *queue = NEW(size_t, n), *level = NEW(size_t, n); /* level 0: not seen yet */
    level[first] = 1;
    queue[tail++] = first;
    while (head < tail) {
        size_t i = queue[head++];
        for (size_t j = 0; j < n; j++) {
            if (!(chain->P[i * n + j] > 0.0) || class_of[j] != class_of[first])
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

Structure chain_structure(const Chain *chain)
{
    size_t n = chain->n_state;
    Structure structure = {0, NEW(size_t, n), NEW(size_t, n)};
    unsigned char *reach = (unsigned char *)new_zeroed(n, n);
    chain_reach(reach, chain);
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
        structure.period[structure.n_class++] = class_period(chain, structure.class_of, i);
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

/* Exercise 1.3. Fills the linear system M x = b whose only answer is the stationary distribution
   of a chain with one closed class and all its states in it. M (n, n), b (n).
   pi = pi P, written for columns, is (P transposed - I) pi = 0: n equations, one of them minus the
   sum of the others. The last is replaced by sum(pi) = 1. */
void stationary_system(double *M, double *b, const double *P, size_t n)
{
    //> EX 1.3 [3 pts] [20 min] the equations of the stationary distribution
    //? For two states: which two equations in pi[0] and pi[1] does pi = pi P stand for?
    //? Row i of M says: sum over j of pi[j] P[j][i], minus pi[i], is 0. So M[i][j] holds P[j][i].
    //? Do not forget the 1 taken off on the diagonal, the last row of ones, and b's last 1.
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++)
            M[i * n + j] = i == n - 1 ? 1.0 : P[j * n + i] - (i == j ? 1.0 : 0.0);
        b[i] = i == n - 1 ? 1.0 : 0.0;
    }
    //< EX 1.3
}

/* The same answer, pi (n), without a single subtraction: P (n, n) is used up. State after state is
   taken out, and the chances of passing through it are given to the others; then they are put back
   in turn. Where parts of a chain hardly ever meet, P[i][i] - 1 has lost what matters, and this has
   not. (Grassmann, Taksar, Heyman, Operations Research 33 (1985), 1107-1116.) */
void stationary_by_reduction(double *pi, double *P, size_t n)
{
    for (size_t k = n; k-- > 1;) {
        double leave = 0.0;
        for (size_t j = 0; j < k; j++)
            leave += P[k * n + j];
        leave = fmax(leave, DBL_MIN); /* it can only be 0 by underflow */
        for (size_t i = 0; i < k; i++) {
            P[i * n + k] /= leave;
            add_scaled_row(P + i * n, P + k * n, P[i * n + k], k);
        }
    }
    double sum = 0.0;
    for (size_t k = 0; k < n; k++) {
        pi[k] = k == 0 ? 1.0 : 0.0;
        for (size_t i = 0; i < k; i++)
            pi[k] += pi[i] * P[i * n + k];
        sum += pi[k];
    }
    for (size_t k = 0; k < n; k++)
        pi[k] /= sum;
}

/* The stationary distribution that lives on closed class k alone: pi (n_state), 0 elsewhere. */
void chain_class_stationary(double *pi, const Chain *chain, const Structure *structure, size_t k)
{
    size_t n = chain->n_state, size = 0;
    size_t *member = NEW(size_t, n);
    for (size_t i = 0; i < n; i++)
        if (structure->class_of[i] == k)
            member[size++] = i;
    double *P = matrix_new(size, size), *within = NEW(double, size);
    for (size_t i = 0; i < size; i++)
        for (size_t j = 0; j < size; j++)
            P[i * size + j] = chain->P[member[i] * n + member[j]];
    stationary_by_reduction(within, P, size);
    memset(pi, 0, n * sizeof *pi);
    for (size_t i = 0; i < size; i++)
        pi[member[i]] = within[i];
    free(member);
    free(P);
    free(within);
}

/* Takes the transient state k out of P (n, n): its mass goes where it goes when it leaves, and so
   does whoever would have come to it. No subtraction here either. */
static void pass_through(double *mass, double *P, size_t k, size_t n)
{
    double leave = 0.0;
    for (size_t j = 0; j < n; j++)
        leave += j == k ? 0.0 : P[k * n + j];
    leave = fmax(leave, DBL_MIN);
    P[k * n + k] = 0.0;
    for (size_t j = 0; j < n; j++)
        mass[j] += mass[k] * (P[k * n + j] / leave);
    mass[k] = 0.0;
    for (size_t i = 0; i < n; i++) {
        double come = P[i * n + k] / leave;
        P[i * n + k] = 0.0;
        if (come > 0.0)
            add_scaled_row(P + i * n, P + k * n, come, n);
    }
}

/* weight[k] = the chance to end in closed class k, from `start`. The transient states are passed
   through one after the other, until all mass is in closed classes (Norris, Theorem 1.3.2, solved
   by elimination). */
void chain_absorption(double *weight, const double *start, const Chain *chain,
                      const Structure *structure)
{
    size_t n = chain->n_state, n_class = structure->n_class;
    double *P = matrix_new(n, n), *mass = NEW(double, n);
    memcpy(P, chain->P, n * n * sizeof *P);
    memcpy(mass, start, n * sizeof *mass);
    for (size_t i = 0; i < n; i++)
        if (structure->class_of[i] == n_class)
            pass_through(mass, P, i, n);
    memset(weight, 0, n_class * sizeof *weight);
    for (size_t i = 0; i < n; i++)
        if (structure->class_of[i] < n_class)
            weight[structure->class_of[i]] += mass[i];
    free(P);
    free(mass);
}

/* The share of days spent in each state in the long run, from `start`: limit (n_state). With one
   closed class the start does not matter, and this is the stationary distribution. */
void chain_long_run(double *limit, const double *start, const Chain *chain,
                    const Structure *structure)
{
    size_t n = chain->n_state;
    double *weight = NEW(double, structure->n_class), *pi = NEW(double, n);
    chain_absorption(weight, start, chain, structure);
    memset(limit, 0, n * sizeof *limit);
    for (size_t k = 0; k < structure->n_class; k++) {
        chain_class_stationary(pi, chain, structure, k);
        for (size_t i = 0; i < n; i++)
            limit[i] += weight[k] * pi[i];
    }
    free(weight);
    free(pi);
}

/* The one distribution with pi = pi P. Fails, and says why, if the chain has several. */
bool chain_stationary(double *pi, const Chain *chain, Error *error)
{
    Structure structure = chain_structure(chain);
    size_t n_class = structure.n_class, second = 0;
    while (second < chain->n_state && structure.class_of[second] != 1)
        second++;
    if (n_class == 1)
        chain_class_stationary(pi, chain, &structure, 0);
    else
        fail(error,
             "the chain falls into %zu closed classes (one never leads to '%s'), so it has more "
             "than one stationary distribution: where it settles depends on where it starts",
             n_class, chain->name[second]);
    structure_free(&structure);
    return n_class == 1;
}

/* ================================== How fast it forgets =================================== */

/* Exercise 1.4. The total variation distance of two distributions p, q (n): half the sum of
   |p[i] - q[i]|. It is the most by which they can differ about any event (Levin & Peres, 4.1). */
double total_variation(const double *p, const double *q, size_t n)
{
    double sum = 0.0;
    //> EX 1.4 [1 pt] [5 min] the distance between two forecasts
    //? (0.5, 0.5) and (2/3, 1/3): the chance of rain differs by 1/6. Your sum must not say 1/3.
    //? What one forecast has too much of one state it lacks in others: everything counts twice.
    for (size_t i = 0; i < n; i++)
        sum += 0.5 * fabs(p[i] - q[i]);
    //< EX 1.4
    return sum;
}

/* The factor by which the distance to the stationary distribution shrinks per day in the end: the
   second largest |eigenvalue| of P, found as the largest of P - 1 pi, in which the eigenvalue 1 is
   taken off (Levin & Peres, 12.1). 1 if the forecast need not settle. Costs about 100 n^3. */
double chain_forgetting_rate(const Chain *chain, const Structure *structure)
{
    size_t n = chain->n_state;
    if (structure->n_class > 1 || structure->period[0] > 1)
        return 1.0;
    double *pi = NEW(double, n), *M = matrix_new(n, n);
    chain_class_stationary(pi, chain, structure, 0);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            M[i * n + j] = chain->P[i * n + j] - pi[j];
    double rate = matrix_spectral_radius(M, n);
    free(pi);
    free(M);
    return rate < 1e-12 ? 0.0 : rate; /* below is rounding: the days are independent */
}

/* Days until half of the distance is gone: rate^days = 1/2. */
double half_life(double rate)
{
    return rate <= 0.0 ? 0.0 : rate >= 1.0 ? INFINITY : log(0.5) / log(rate);
}

/* ================================== Simulation ============================================ */

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

/* A record being lived through, and what was seen of it so far. */
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

/* The standard deviation, times sqrt(days), of the share of days spent in each state: error
   (n_state). Days that resemble their neighbours tell less than independent ones:
       error_i^2 = pi_i (1 - pi_i) + 2 pi_i sum_{k>=1} (P^k[i][i] - pi_i)
   and the sum is Z[i][i] - 1 with Z = (I - P + 1 pi)^-1. (Kemeny & Snell, Finite Markov Chains,
   1960, Theorem 4.6.3.) For a chain with one closed class; false if its parts meet so rarely
   that the equations cannot be told from singular ones. */
bool chain_standard_errors(double *error, const Chain *chain, const double *stationary)
{
    size_t n = chain->n_state;
    double *M = matrix_new(n, n), *Z = matrix_new(n, n);
    matrix_identity(Z, n);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            M[i * n + j] = (i == j ? 1.0 : 0.0) - chain->P[i * n + j] + stationary[j];
    bool ok = matrix_solve(Z, M, n, n) && matrix_max_abs(Z, n * n) < 1e12;
    for (size_t i = 0; ok && i < n; i++) {
        double pi = stationary[i];
        error[i] = sqrt(fmax(0.0, 2.0 * pi * Z[i * n + i] - pi - pi * pi));
    }
    free(M);
    free(Z);
    return ok;
}

/* ================================== Fitting a chain to a record =========================== */

/* How often each state followed each: all that a record says about a chain. */
typedef struct {
    size_t n_state;
    char **name;   /* (n_state) owned */
    double *count; /* (n_state, n_state) count[i][j] = days in i followed by j; whole numbers */
    double days;   /* days with a state; 0 if only counts were given */
    double gaps;   /* places where the record breaks off and goes on later */
} Counts;

/* A chain fitted to counts, and what the fit is worth. */
typedef struct {
    Chain chain;        /* the most likely one */
    double *error;      /* (n_state, n_state) standard errors of its P */
    double G2, freedom; /* likelihood ratio statistic of "tomorrow ignores today"; its freedom */
    double p_value;     /* the chance of a G2 so large if tomorrow did ignore today */
} Fit;

/* Exercise 1.6. The most likely chances after one state, and their standard errors: p, error
   (n_state) from count (n_state), whose sum is not 0.
   p[j] = count[j] / total (Billingsley 1961, section 2), error[j] = sqrt(p (1 - p) / total). */
void fit_row(double *p, double *error, const double *count, size_t n_state)
{
    double total = 0.0;
    for (size_t j = 0; j < n_state; j++)
        total += count[j];
    //> EX 1.6 [2 pts] [10 min] the most likely chances
    //? After a dry day came 1049 dry and 350 wet days. What would you bet on the next dry day?
    //? A share of `total` independent tries has the variance p (1 - p) / total.
    for (size_t j = 0; j < n_state; j++) {
        p[j] = count[j] / total;
        error[j] = sqrt(p[j] * (1.0 - p[j]) / total);
    }
    //< EX 1.6
}

/* Exercise 1.7. The likelihood ratio statistic of "tomorrow ignores today" (Billingsley 1961,
   section 3):  G2 = 2 sum_ij count_ij log(count_ij / expected_ij),
   expected_ij = row_i column_j / total, and a count of 0 adds nothing.
   row (n_state) and column (n_state) are the sums of count (n_state, n_state). */
double likelihood_ratio(const double *count, const double *row, const double *column,
                        size_t n_state, double total)
{
    double G2 = 0.0;
    //> EX 1.7 [2 pts] [15 min] is today informative about tomorrow?
    //? If tomorrow ignored today, how many of the row_i days would be followed by state j?
    //? x log x goes to 0 with x: leave the cell out, or log(0) spoils the whole sum.
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

/* The chance that a chi-squared variable with `freedom` degrees exceeds x: the upper incomplete
   gamma function Q(freedom / 2, x / 2), by its series or its continued fraction, whichever
   converges fast (Abramowitz & Stegun 6.5.29 and 6.5.31; the fraction by Lentz's method). */
double chi_squared_tail(double x, double freedom)
{
    double a = 0.5 * freedom, z = 0.5 * x;
    if (!(z > 0.0))
        return 1.0;
    double front = exp(a * log(z) - z - lgamma(a));
    if (z < a + 1.0) {
        double term = 1.0 / a, sum = term;
        for (int k = 1; k < 100000 && term > 1e-17 * sum; k++)
            sum += term *= z / (a + k);
        return fmax(0.0, 1.0 - front * sum);
    }
    double b = z + 1.0 - a, c = 1e300, d = 1.0 / b, fraction = d;
    for (int k = 1; k < 100000; k++) {
        double numerator = -k * (k - a);
        b += 2.0;
        d = 1.0 / (numerator * d + b);
        c = b + numerator / c;
        fraction *= c * d;
        if (fabs(c * d - 1.0) < 1e-15)
            break;
    }
    return front * fraction;
}

/* Fits the chain that makes the counts most likely. Fails if a state is never left: nothing is
   known then about what follows it. */
bool chain_fit(Fit *fit, const Counts *counts, Error *error)
{
    size_t n = counts->n_state, columns = 0;
    double *row = NEW(double, n), *column = NEW(double, n), total = 0.0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            row[i] += counts->count[i * n + j];
            column[j] += counts->count[i * n + j];
        }
    size_t never_left = n;
    for (size_t i = n; i-- > 0;) {
        total += row[i];
        columns += column[i] > 0.0;
        if (!(row[i] > 0.0))
            never_left = i;
    }
    if (never_left == n) {
        fit->chain = chain_new(n);
        fit->error = matrix_new(n, n);
        for (size_t i = 0; i < n; i++) {
            fit->chain.name[i] = strdup(counts->name[i]);
            fit_row(fit->chain.P + i * n, fit->error + i * n, counts->count + i * n, n);
        }
        fit->G2 = likelihood_ratio(counts->count, row, column, n, total);
        fit->freedom = ((double)n - 1.0) * ((double)columns - 1.0);
        fit->p_value = fit->freedom > 0.0 ? chi_squared_tail(fit->G2, fit->freedom) : 1.0;
    }
    free(row);
    free(column);
    return never_left == n || fail(error,
                                   "state '%s' is never left in the record, so nothing is known "
                                   "about the day after it",
                                   counts->name[never_left]);
}

void fit_free(Fit *fit)
{
    chain_free(&fit->chain);
    free(fit->error);
}

void counts_free(Counts *counts)
{
    for (size_t i = 0; i < counts->n_state; i++)
        free(counts->name[i]);
    free(counts->name);
    free(counts->count);
    memset(counts, 0, sizeof *counts);
}

/* ================================== Reading chains and records ============================ */
/* A table has a first line `from,sunny,rainy` and a line `sunny,0.8,0.2` for each state: a     */
/* chain if the rows are chances, counts if they are whole numbers. Anything else is a record. */

static bool is_table(const Table *table, size_t *header)
{
    size_t row = 0;
    while (row < table->n_row && table_width(table, row) == 0)
        row++;
    *header = row;
    return row < table->n_row && strcasecmp(table_cell(table, row, 0), "from") == 0;
}

/* Checks the names in the table's first line: none empty, none twice, not too many. */
static bool table_names_check(const Table *table, size_t header, Error *error)
{
    size_t n = table_width(table, header) - 1, line = table->line[header];
    if (n < 1)
        return fail(error, "%s:%zu: no state is named after 'from'", table->path, line);
    if (n > CHAIN_MAX_STATES)
        return fail(error, "%s:%zu: %zu states, more than the limit of %d", table->path, line, n,
                    CHAIN_MAX_STATES);
    for (size_t i = 0; i < n; i++) {
        const char *name = table_cell(table, header, i + 1);
        if (*name == '\0')
            return fail(error, "%s:%zu: state %zu has no name", table->path, line, i + 1);
        for (size_t j = 0; j < i; j++)
            if (strcmp(name, table_cell(table, header, j + 1)) == 0)
                return fail(error, "%s:%zu: state '%.40s' is named twice", table->path, line, name);
    }
    return true;
}

/* What the numbers of a table are, and so what a row of them must fulfil. */
typedef enum { ROWS_OF_CHANCES, ROWS_OF_COUNTS } RowKind;

/* Reads one row's numbers into `value` (n_state); chances are made to sum to 1 exactly, because
   what is off by 1e-10 would grow day by day. */
static bool table_row_values(double *value, const Table *table, size_t row, const Chain *chain,
                             RowKind kind, Error *error)
{
    const char *name = table_cell(table, row, 0);
    size_t line = table->line[row], width = table_width(table, row) - 1;
    double sum = 0.0;
    if (width != chain->n_state)
        return fail(error, "%s:%zu: row '%.40s' has %zu numbers, but there are %zu states",
                    table->path, line, name, width, chain->n_state);
    for (size_t j = 0; j < width; j++) {
        Error why;
        bool ok = number_parse(&value[j], table_cell(table, row, j + 1), &why);
        if (ok && value[j] < 0.0)
            ok = fail(&why, "%g is negative", value[j]);
        if (ok && kind == ROWS_OF_COUNTS && (value[j] != floor(value[j]) || value[j] > 1e15))
            ok = fail(&why, "%g is not a count", value[j]);
        if (!ok)
            return fail(error, "%s:%zu: row '%.40s', column '%.40s': %s", table->path, line, name,
                        chain->name[j], why.text);
        sum += value[j];
    }
    if (kind == ROWS_OF_CHANCES && !(fabs(sum - 1.0) <= 1e-9))
        return fail(error, "%s:%zu: row '%.40s' sums to %.10g, not 1", table->path, line, name,
                    sum);
    for (size_t j = 0; kind == ROWS_OF_CHANCES && j < width; j++)
        value[j] /= sum;
    return true;
}

/* Fills `chain` (its names and, as P, the numbers) from the rows below the header. */
static bool table_fill(Chain *chain, const Table *table, size_t header, RowKind kind, Error *error)
{
    size_t n = chain->n_state;
    bool *seen = NEW(bool, n), ok = true;
    for (size_t j = 0; j < n; j++)
        chain->name[j] = strdup(table_cell(table, header, j + 1));
    for (size_t row = header + 1; ok && row < table->n_row; row++) {
        if (table_width(table, row) == 0)
            continue;
        const char *name = table_cell(table, row, 0);
        size_t i = chain_find(chain, name);
        if (i == n)
            ok = fail(error, "%s:%zu: unknown state '%.40s': the first line does not name it",
                      table->path, table->line[row], name);
        else if (seen[i])
            ok = fail(error, "%s:%zu: a second row for state '%.40s'", table->path,
                      table->line[row], name);
        else
            ok = table_row_values(chain->P + i * n, table, row, chain, kind, error);
        if (ok)
            seen[i] = true;
    }
    for (size_t i = 0; ok && i < n; i++)
        if (!seen[i])
            ok = fail(error, "%s: no row for state '%.40s'", table->path, chain->name[i]);
    free(seen);
    return ok;
}

/* Names and numbers of a table of either kind; counts then stand where P does. */
static bool table_to_chain(Chain *chain, const Table *table, RowKind kind, Error *error)
{
    size_t header;
    if (!is_table(table, &header)) {
        if (header == table->n_row)
            return fail(error, "%s: empty: there is nothing in this file", table->path);
        return fail(error, "%s:%zu: a table starts with 'from' and the names of its states",
                    table->path, table->line[header]);
    }
    if (!table_names_check(table, header, error))
        return false;
    Chain read = chain_new(table_width(table, header) - 1);
    if (!table_fill(&read, table, header, kind, error)) {
        chain_free(&read);
        return false;
    }
    *chain = read;
    return true;
}

/* The chain in a table; fails unless every row sums to 1 within 1e-9. */
bool chain_from_table(Chain *chain, const Table *table, Error *error)
{
    return table_to_chain(chain, table, ROWS_OF_CHANCES, error);
}

bool chain_read(Chain *chain, const char *path, Error *error)
{
    Table table;
    if (!table_read(&table, path, false, error))
        return false;
    bool ok = chain_from_table(chain, &table, error);
    table_free(&table);
    return ok;
}

static bool counts_from_counts(Counts *counts, const Table *table, Error *error)
{
    Chain read;
    if (!table_to_chain(&read, table, ROWS_OF_COUNTS, error))
        return false;
    Counts taken = {read.n_state, read.name, read.P, 0.0, 0.0};
    *counts = taken;
    return true;
}

/* Days since 1 March of year 0 in the Gregorian calendar, for a date like 1987-01-31; -1 if it is
   none. Years start in March so that a leap day is a year's last. */
static long date_number(const char *text)
{
    static const int month_days[12] = {31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 31, 29};
    int year, month, day, used = 0;
    if (strlen(text) != 10 || sscanf(text, "%4d-%2d-%2d%n", &year, &month, &day, &used) != 3 ||
        used != 10 || year < 1 || month < 1 || month > 12 || day < 1)
        return -1;
    int from_march = (month + 9) % 12;
    long march_year = year - (month < 3);
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    if (day > month_days[from_march] - (month == 2 && !leap))
        return -1;
    long days = day - 1;
    for (int m = 0; m < from_march; m++)
        days += month_days[m];
    return days + march_year * 365 + march_year / 4 - march_year / 100 + march_year / 400;
}

/* A record being read: the states met so far, in the order in which they turned up. */
typedef struct {
    size_t n_state, room;
    const char **name; /* (room) borrowed from the table */
    double *count;     /* (room, room) */
} Tally;

/* The number of `name`; a new one makes room, doubling it when it runs out. */
static size_t tally_state(Tally *tally, const char *name)
{
    for (size_t i = 0; i < tally->n_state; i++)
        if (strcmp(tally->name[i], name) == 0)
            return i;
    if (tally->n_state == tally->room) {
        size_t room = 2 * tally->room;
        const char **names = NEW(const char *, room);
        double *count = matrix_new(room, room);
        for (size_t i = 0; i < tally->n_state; i++) {
            names[i] = tally->name[i];
            memcpy(count + i * room, tally->count + i * tally->room,
                   tally->n_state * sizeof *count);
        }
        free(tally->name);
        free(tally->count);
        tally->name = names;
        tally->count = count;
        tally->room = room;
    }
    tally->name[tally->n_state] = name;
    return tally->n_state++;
}

static bool is_missing(const char *cell)
{
    return *cell == '\0' || strcmp(cell, "NA") == 0 || strcmp(cell, "?") == 0;
}

/* The state of one row of a record, NULL for a missing day. *date is set if the row has one. */
static bool record_day(const char **state, long *date, const Table *table, size_t row, Error *error)
{
    size_t width = table_width(table, row), line = table->line[row];
    *state = NULL;
    *date = -1;
    if (width == 0)
        return true;
    if (width > 2)
        return fail(error, "%s:%zu: %zu cells; a record has a line `state` or `date,state` a day",
                    table->path, line, width);
    if (width == 2) {
        *date = date_number(table_cell(table, row, 0));
        if (*date < 0)
            return fail(error, "%s:%zu: '%.40s' is not a date like 1987-01-31", table->path, line,
                        table_cell(table, row, 0));
    }
    const char *cell = table_cell(table, row, width - 1);
    *state = is_missing(cell) ? NULL : cell;
    return true;
}

/* Goes through the days. A missing day, or a jump in the dates, breaks the record: what comes
   after it does not count as following what came before. */
static bool tally_record(Tally *tally, Counts *counts, const Table *table, size_t first,
                         Error *error)
{
    size_t today = SIZE_MAX;
    long last_date = -1;
    for (size_t row = first; row < table->n_row; row++) {
        const char *state;
        long date;
        if (!record_day(&state, &date, table, row, error))
            return false;
        if (date >= 0 && last_date >= 0 && date <= last_date)
            return fail(error, "%s:%zu: the date %.10s does not come after the one before it",
                        table->path, table->line[row], table_cell(table, row, 0));
        bool jump = date >= 0 && last_date >= 0 && date != last_date + 1;
        last_date = date >= 0 ? date : last_date;
        bool follows = state && today != SIZE_MAX && !jump;
        counts->gaps += state && !follows && counts->days > 0.0;
        size_t tomorrow = state ? tally_state(tally, state) : SIZE_MAX;
        if (tally->n_state > CHAIN_MAX_STATES)
            return fail(error, "%s:%zu: '%.40s' is state number %zu, more than the limit of %d",
                        table->path, table->line[row], state, tally->n_state, CHAIN_MAX_STATES);
        if (follows)
            tally->count[today * tally->room + tomorrow] += 1.0;
        counts->days += state != NULL;
        today = tomorrow;
    }
    if (counts->days == 0.0)
        return fail(error, "%s: empty: there is no day in this record", table->path);
    return true;
}

static bool counts_from_record(Counts *counts, const Table *table, size_t first, Error *error)
{
    Counts read;
    memset(&read, 0, sizeof read);
    Tally tally = {0, 8, NEW(const char *, 8), NEW(double, 64)};
    size_t width = first < table->n_row ? table_width(table, first) : 0;
    bool titled = width > 0 && strcasecmp(table_cell(table, first, width - 1), "state") == 0;
    bool ok = tally_record(&tally, &read, table, first + titled, error);
    if (ok) {
        size_t n = read.n_state = tally.n_state;
        read.name = NEW(char *, n);
        read.count = matrix_new(n, n);
        for (size_t i = 0; i < n; i++) {
            read.name[i] = strdup(tally.name[i]);
            memcpy(read.count + i * n, tally.count + i * tally.room, n * sizeof *read.count);
        }
        *counts = read;
    }
    free(tally.name);
    free(tally.count);
    return ok;
}

bool counts_from_table(Counts *counts, const Table *table, Error *error)
{
    size_t first;
    return is_table(table, &first) ? counts_from_counts(counts, table, error)
                                   : counts_from_record(counts, table, first, error);
}

bool counts_read(Counts *counts, const char *path, Error *error)
{
    Table table;
    if (!table_read(&table, path, false, error))
        return false;
    bool ok = counts_from_table(counts, &table, error);
    table_free(&table);
    return ok;
}

/* Reads n numbers between commas that sum to 1. */
static bool chances_parse(double *chance, const char *text, size_t n, Error *error)
{
    char *copy = strdup(text), *rest = copy;
    double sum = 0.0;
    size_t count = 0;
    bool ok = true;
    Error why;
    for (char *cell = strsep(&rest, ","); ok && cell; cell = strsep(&rest, ","), count++) {
        double value = 0.0;
        if (!number_parse(&value, cell, &why))
            ok = fail(error, "--start: %s", why.text);
        else if (value < 0.0)
            ok = fail(error, "--start: %g is negative", value);
        else if (count < n)
            chance[count] = value;
        sum += value;
    }
    free(copy);
    if (ok && count != n)
        ok = fail(error, "--start: %zu numbers, but there are %zu states", count, n);
    if (ok && !(fabs(sum - 1.0) <= 1e-9))
        ok = fail(error, "--start: the numbers sum to %.10g, not 1", sum);
    return ok;
}

/* The distribution that `text` names, start (n_state): one state, or chances like 0.5,0.5. */
bool start_parse(double *start, const char *text, const Chain *chain, Error *error)
{
    size_t n = chain->n_state, found = chain_find(chain, text);
    double *chance = NEW(double, n);
    bool ok = true;
    if (found < n)
        chance[found] = 1.0;
    else if (strcspn(text, ",0123456789") == strlen(text))
        ok = fail(error, "--start: unknown state '%.40s'", text);
    else
        ok = chances_parse(chance, text, n, error);
    if (ok)
        memcpy(start, chance, n * sizeof *start);
    free(chance);
    return ok;
}

/* ================================== What the program prints =============================== */

enum { SHOWN_STATES = 6, SHOWN_DAYS = 20 };

/* A chain with all that is found out about it before anything is printed. */
typedef struct {
    Chain chain;
    Structure structure;
    double *start; /* (n_state) */
    double *limit; /* (n_state) the share of days in the long run, from `start` */
    double rate;   /* forgetting rate; NaN if the chain is too large for it */
    Look look;
} Study;

static size_t shown_states(const Chain *chain)
{
    return chain->n_state < SHOWN_STATES ? chain->n_state : (size_t)SHOWN_STATES;
}

static void print_names(const Chain *chain, const char *before)
{
    fputs(before, stdout);
    for (size_t i = 0; i < shown_states(chain); i++)
        text_pad(stdout, chain->name[i], 10);
    puts(chain->n_state > SHOWN_STATES ? "  ..." : "");
}

static void print_chances(const double *chance, const Chain *chain)
{
    for (size_t i = 0; i < shown_states(chain); i++)
        printf("%10.4f", chance[i]);
}

static void print_chain(const Chain *chain)
{
    print_names(chain, "  today        tomorrow:");
    for (size_t i = 0; i < shown_states(chain); i++) {
        fputs("  ", stdout);
        text_pad(stdout, chain->name[i], -21);
        print_chances(chain->P + i * chain->n_state, chain);
        putchar('\n');
    }
    puts(chain->n_state > SHOWN_STATES ? "  ...\n" : "");
}

/* The arithmetic of one step, as one would do it on paper. */
static void print_by_hand(const char *title, const double *now, const Chain *chain)
{
    printf("%s, by hand:\n", title);
    for (size_t j = 0; j < chain->n_state; j++) {
        double sum = 0.0;
        fputs("  ", stdout);
        text_pad(stdout, chain->name[j], -8);
        for (size_t i = 0; i < chain->n_state; i++) {
            double share = chain->P[i * chain->n_state + j];
            printf("%s%.4g x %.4g", i ? " + " : " = ", now[i], share);
            sum += now[i] * share;
        }
        printf(" = %.4g\n", sum);
    }
}

/* The first day whose forecast has settled to four digits, but not more than `most` days on. */
static size_t days_to_settle(const Study *study, size_t most)
{
    size_t n = study->chain.n_state, day = 0;
    double *pi = NEW(double, 2 * n);
    memcpy(pi, study->start, n * sizeof *pi);
    while (day < most && total_variation(pi, study->limit, n) >= 5e-5) {
        chain_step(pi + n, pi, &study->chain);
        memcpy(pi, pi + n, n * sizeof *pi);
        day++;
    }
    free(pi);
    return day;
}

static void print_day(size_t day, const double *pi, const Study *study)
{
    printf("  %7zu  ", day);
    print_chances(pi, &study->chain);
    printf("%s%12.5f\n", study->chain.n_state > SHOWN_STATES ? "  ..." : "",
           total_variation(pi, study->limit, study->chain.n_state));
}

/* The forecast for a far day by P^days, held against single steps. */
static void print_far_day(uint64_t days, const Study *study)
{
    size_t n = study->chain.n_state;
    double *power = matrix_new(n, n), *pi = NEW(double, 3 * n);
    matrix_power(power, study->chain.P, n, days);
    vector_times_matrix(pi, study->start, power, n, n);
    memcpy(pi + n, study->start, n * sizeof *pi);
    for (uint64_t t = 0; t < days; t++) {
        chain_step(pi + 2 * n, pi + n, &study->chain);
        memcpy(pi + n, pi + 2 * n, n * sizeof *pi);
    }
    puts("      ...");
    print_day(days, pi, study);
    double apart = 2.0 * total_variation(pi, pi + n, n);
    printf("\nDay %" PRIu64 " comes from P^%" PRIu64 " by repeated squaring; ", days, days);
    if (apart <= 1e-9)
        puts("single steps give the same to nine digits.");
    else
        printf("single steps differ by %.0e in all.\n", apart);
    free(power);
    free(pi);
}

static void print_days(const double *pi, size_t days, const Study *study)
{
    size_t n = study->chain.n_state;
    puts("\nDay by day (distance: total variation from the shares in the long run):");
    print_names(&study->chain, "      day  ");
    for (size_t t = 0; t <= days; t++)
        print_day(t, pi + t * n, study);
}

static void print_class(const Study *study, size_t k, double weight)
{
    const Chain *chain = &study->chain;
    double *pi = NEW(double, chain->n_state);
    chain_class_stationary(pi, chain, &study->structure, k);
    printf("  class %zu, chance %.4f to end here:", k + 1, weight);
    size_t shown = 0;
    for (size_t i = 0; i < chain->n_state; i++)
        if (study->structure.class_of[i] == k && shown++ < SHOWN_STATES)
            printf("  %s %.4f", chain->name[i], pi[i]);
    puts(shown > SHOWN_STATES ? "  ..." : "");
    free(pi);
}

static void print_forgetting(double rate)
{
    double days = half_life(rate);
    printf("In the end each day keeps the fraction %.4f of the distance: ", rate);
    if (days < 1e6)
        printf("half of it is gone every %.2f days.\n", days);
    else
        puts("it takes more than a million days to lose half of it.");
}

/* In words, where the chain settles, if it does, and why not if not. */
static void print_settling(const Study *study)
{
    const Structure *structure = &study->structure;
    if (structure->n_class > 1) {
        double *weight = NEW(double, structure->n_class);
        chain_absorption(weight, study->start, &study->chain, structure);
        printf(
            "\nThe chain is reducible: it has %zu closed classes of states, which nothing leaves, "
            "so there is no\nsingle answer. Each has its own stationary distribution, and the "
            "start decides which one it will be:\n",
            structure->n_class);
        for (size_t k = 0; k < structure->n_class; k++)
            print_class(study, k, weight[k]);
        free(weight);
        return;
    }
    printf("\nStationary distribution (solving pi = pi P):");
    for (size_t i = 0; i < shown_states(&study->chain); i++)
        printf("  %s %.4f", study->chain.name[i], study->limit[i]);
    puts(study->chain.n_state > SHOWN_STATES ? "  ..." : "");
    if (structure->period[0] > 1)
        printf(
            "The chain is periodic: it comes back only after multiples of %zu days. The forecast "
            "goes round and\nneed not settle; the stationary distribution is the share of days in "
            "the long run.\n",
            structure->period[0]);
    else if (isnan(study->rate))
        printf("(The forgetting rate is worked out for up to %d states.)\n", CHAIN_RATE_STATES);
    else
        print_forgetting(study->rate);
}

/* ---- the picture: states as circles, chances as arrows ----------------------------------- */

enum { CHAIN_MIDDLE_X = 160, CHAIN_MIDDLE_Y = 210 };

static void svg_state_place(double *x, double *y, size_t i, size_t n)
{
    double turn = 2.0 * PI * (double)i / (double)n + (n == 2 ? PI : -0.5 * PI);
    double radius = n == 1 ? 0.0 : n == 2 ? 96.0 : 78.0 + 4.0 * (double)n;
    *x = CHAIN_MIDDLE_X + radius * cos(turn);
    *y = CHAIN_MIDDLE_Y + radius * sin(turn);
}

/* An arrow along `path`, with its chance at (x, y) on a white outline. */
static void svg_arrow(FILE *out, const char *path, double x, double y, double chance)
{
    char text[32];
    fprintf(out,
            "<path d=\"%s\" fill=\"none\" stroke=\"#0072B2\" stroke-width=\"%.1f\" "
            "marker-end=\"url(#head)\"/>\n",
            path, 1.0 + 3.0 * chance);
    snprintf(text, sizeof text, "%.2f", chance);
    svg_text(out, x, y + 4.0,
             "text-anchor=\"middle\" font-size=\"12\" stroke=\"white\" stroke-width=\"3\" "
             "paint-order=\"stroke\"",
             text);
}

/* A state's arrow to itself: a loop on the outer side, above if there are only one or two. */
static void svg_loop(FILE *out, const Chain *chain, size_t i)
{
    double x, y, out_x = 0.0, out_y = -1.0;
    char path[160];
    svg_state_place(&x, &y, i, chain->n_state);
    if (chain->n_state > 2) {
        double size = hypot(x - CHAIN_MIDDLE_X, y - CHAIN_MIDDLE_Y);
        out_x = (x - CHAIN_MIDDLE_X) / size;
        out_y = (y - CHAIN_MIDDLE_Y) / size;
    }
    snprintf(path, sizeof path, "M%.1f,%.1f C%.1f,%.1f %.1f,%.1f %.1f,%.1f",
             x + 24 * out_x - 13 * out_y, y + 24 * out_y + 13 * out_x, x + 66 * out_x - 34 * out_y,
             y + 66 * out_y + 34 * out_x, x + 66 * out_x + 34 * out_y, y + 66 * out_y - 34 * out_x,
             x + 29 * out_x + 15 * out_y, y + 29 * out_y - 15 * out_x);
    svg_arrow(out, path, x + 63 * out_x, y + 63 * out_y, chain->P[i * chain->n_state + i]);
}

/* The arrow from state i to j, bent to its left so that the two directions keep apart. */
static void svg_transition(FILE *out, const Chain *chain, size_t i, size_t j)
{
    double x0, y0, x1, y1;
    char path[160];
    svg_state_place(&x0, &y0, i, chain->n_state);
    svg_state_place(&x1, &y1, j, chain->n_state);
    double along_x = x1 - x0, along_y = y1 - y0, size = hypot(along_x, along_y);
    along_x /= size;
    along_y /= size;
    double bend = (chain->n_state == 2 ? 0.24 : 0.11) * size;
    double mid_x = 0.5 * (x0 + x1) + bend * along_y, mid_y = 0.5 * (y0 + y1) - bend * along_x;
    double side = chain->n_state == 2 ? 16.0 : 9.0;
    x0 += 25 * along_x + side * along_y;
    y0 += 25 * along_y - side * along_x;
    x1 += side * along_y - 34 * along_x;
    y1 += -side * along_x - 34 * along_y;
    snprintf(path, sizeof path, "M%.1f,%.1f Q%.1f,%.1f %.1f,%.1f", x0, y0, mid_x, mid_y, x1, y1);
    svg_arrow(out, path, 0.36 * x0 + 0.48 * mid_x + 0.16 * x1, 0.36 * y0 + 0.48 * mid_y + 0.16 * y1,
              chain->P[i * chain->n_state + j]);
}

static void svg_chain(FILE *out, const Chain *chain)
{
    fputs(
        "<defs><marker id=\"head\" viewBox=\"0 0 10 10\" refX=\"7\" refY=\"5\" markerWidth=\"13\" "
        "markerHeight=\"13\" markerUnits=\"userSpaceOnUse\" orient=\"auto\">"
        "<path d=\"M0,1 L9,5 L0,9 z\" fill=\"#0072B2\"/></marker></defs>\n",
        out);
    svg_text(out, 14, 22, "font-size=\"15\" font-weight=\"bold\"", "The chain");
    svg_text(out, 14, 40, "fill=\"#444\"", "chance of tomorrow, given today");
    for (size_t i = 0; i < chain->n_state; i++)
        for (size_t j = 0; j < chain->n_state; j++)
            if (i != j && chain->P[i * chain->n_state + j] > 0.0)
                svg_transition(out, chain, i, j);
            else if (i == j && chain->P[i * chain->n_state + i] > 0.0)
                svg_loop(out, chain, i);
    for (size_t i = 0; i < chain->n_state; i++) {
        double x, y;
        svg_state_place(&x, &y, i, chain->n_state);
        fprintf(out,
                "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"30\" fill=\"#fff3d6\" stroke=\"#444\"/>\n", x,
                y);
        svg_text(out, x, y + 4.0, "text-anchor=\"middle\"", chain->name[i]);
    }
}

/* Chain and chart side by side; for more than eight states the chart alone. */
static bool write_svg(const Study *study, const Chart *chart, const char *path, Error *error)
{
    if (study->chain.n_state > 8)
        return chart_write_svg(chart, path, error);
    OutFile file;
    if (!out_open(&file, path, error))
        return false;
    svg_open(file.stream, 320 + SVG_WIDTH, SVG_HEIGHT);
    svg_chain(file.stream, &study->chain);
    chart_svg(file.stream, chart, 320, 0, SVG_WIDTH, SVG_HEIGHT);
    svg_close(file.stream);
    return out_close(&file, error);
}

/* ---- the demos --------------------------------------------------------------------------- */

/* One column of pi (days + 1, n_state) as a series of its own. */
static void copy_column(double *out, const double *pi, size_t column, size_t n_state, size_t days)
{
    for (size_t t = 0; t <= days; t++)
        out[t] = pi[t * n_state + column];
}

static void count_up(double *out, size_t count)
{
    for (size_t t = 0; t < count; t++)
        out[t] = (double)t;
}

/* The forecast day by day; `days` 0 means: until it settles. */
static bool demo_forecast(const Study *study, uint64_t days, const char *svg, Error *error)
{
    const Chain *chain = &study->chain;
    bool settles = study->structure.n_class == 1 && study->structure.period[0] == 1;
    size_t n = chain->n_state, listed = days && days <= 2 * SHOWN_DAYS ? days : (size_t)SHOWN_DAYS;
    if (!days)
        listed = days_to_settle(study, settles ? 2 * SHOWN_DAYS : SHOWN_DAYS / 2);
    listed = listed < 2 && !days ? 2 : listed;
    double *pi = NEW(double, (listed + 1) * n);
    chain_forecast(pi, study->start, chain, listed);
    if (n <= 4) {
        print_by_hand("Tomorrow", pi, chain);
        if (listed > 1)
            print_by_hand("The day after", pi + n, chain);
    }
    print_days(pi, listed, study);
    if (days > listed)
        print_far_day(days, study);
    print_settling(study);
    size_t shown = shown_states(chain);
    double *day = NEW(double, listed + 1), *column = matrix_new(shown, listed + 1);
    Chart chart = chart_new("The forecast, day by day", "day", "chance");
    count_up(day, listed + 1);
    for (size_t i = 0; i < shown; i++) {
        copy_column(column + i * (listed + 1), pi, i, n, listed);
        chart_add(&chart, chain->name[i], MARK_LINE, day, column + i * (listed + 1), listed + 1);
    }
    putchar('\n');
    chart_print(stdout, &chart, &study->look);
    bool ok = !svg || write_svg(study, &chart, svg, error);
    free(pi);
    free(day);
    free(column);
    return ok;
}

/* How the forecasts from every certain start run together: distance (days + 1) for each state. */
static bool demo_forgetting(const Study *study, uint64_t days, const char *svg, Error *error)
{
    const Chain *chain = &study->chain;
    size_t n = chain->n_state, count = (days ? days : 12) + 1, shown = shown_states(chain);
    double *day = NEW(double, count), *distance = matrix_new(shown, count);
    double *pi = matrix_new(count, n), *start = NEW(double, n), *limit = NEW(double, n);
    Chart chart = chart_new("How fast the chain forgets its first day", "day",
                            "total variation distance, logarithmic");
    chart.log_y = true;
    count_up(day, count);
    for (size_t i = 0; i < shown; i++) {
        memset(start, 0, n * sizeof *start);
        start[i] = 1.0;
        chain_forecast(pi, start, chain, count - 1);
        chain_long_run(limit, start, chain, &study->structure);
        for (size_t t = 0; t < count; t++)
            distance[i * count + t] = total_variation(pi + t * n, limit, n);
        chart_add(&chart, chain->name[i], MARK_LINE, day, distance + i * count, count);
    }
    print_names(chain, "      day  ");
    for (size_t t = 0; t < count && t <= SHOWN_DAYS; t++) {
        printf("  %7zu  ", t);
        for (size_t i = 0; i < shown; i++)
            printf("%10.6f", distance[i * count + t]);
        putchar('\n');
    }
    print_settling(study);
    putchar('\n');
    chart_print(stdout, &chart, &study->look);
    bool ok = !svg || write_svg(study, &chart, svg, error);
    free(day);
    free(distance);
    free(pi);
    free(start);
    free(limit);
    return ok;
}

static void print_simulation(const Simulation *seen, const Study *study, const double *deviation)
{
    const Chain *chain = &study->chain;
    size_t n = chain->n_state;
    double days = (double)seen->total;
    puts("  state           days     share  expected  std.err      z   longest  mean spell  "
         "expected");
    for (size_t i = 0; i < shown_states(chain); i++) {
        double share = (double)seen->days[i] / days, error = deviation[i] / sqrt(days);
        double z = error > 0.0 ? (share - study->limit[i]) / error : 0.0;
        fputs("  ", stdout);
        text_pad(stdout, chain->name[i], -8);
        printf("%12" PRIu64 "%10.4f%10.4f%9.4f%7.2f%10" PRIu64 "%12.2f%10.2f\n", seen->days[i],
               share, study->limit[i], error, z, seen->longest[i],
               (double)seen->days[i] / (seen->spells[i] ? (double)seen->spells[i] : 1.0),
               1.0 / (1.0 - chain->P[i * n + i]));
    }
}

enum { LOOKS = 120 };

/* The share of one state's days at ever longer times, and what to expect of it. */
typedef struct {
    size_t state, looks;
    double at[LOOKS], share[LOOKS], low[LOOKS], high[LOOKS]; /* days, shares */
} RunningShare;

static void look_at_share(RunningShare *running, const Simulation *seen, double expected,
                          double deviation)
{
    double days = (double)seen->total, error = 2.0 * deviation / sqrt(days);
    size_t k = running->looks++;
    running->at[k] = days;
    running->share[k] = (double)seen->days[running->state] / days;
    running->low[k] = fmax(0.0, expected - error);
    running->high[k] = fmin(1.0, expected + error);
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
        look_at_share(running, &seen, study->limit[running->state], deviation[running->state]);
        progress_show(&progress, (double)seen.total, (double)days);
    }
    progress_end(&progress);
    return seen;
}

/* What the standard errors mean, or why there are none. */
static void print_errors_explained(const Study *study, bool known)
{
    if (study->structure.n_class > 1)
        puts("\nThe chain is reducible: where one record ends is chance, and its shares need not "
             "come near the\nexpected ones however long it is. No standard error is given.");
    else if (!known)
        puts("\nParts of this chain meet so rarely that no record shows its shares, and no "
             "standard error is given.");
    else
        puts("\nStandard errors count that a day resembles the day before. z is how many of them "
             "the share is off:\nbeyond 2 or -2 in about one of twenty.");
}

static bool demo_simulate(const Study *study, uint64_t days, uint64_t seed, const char *record,
                          const char *svg, Error *error)
{
    const Chain *chain = &study->chain;
    OutFile file = {NULL, NULL, NULL};
    if (record && !out_open(&file, record, error))
        return false;
    if (record)
        fprintf(file.stream,
                "# SYNTHETIC: %" PRIu64 " days drawn by ch01_markov, seed %" PRIu64 "\nstate\n",
                days, seed);
    double *deviation = NEW(double, chain->n_state);
    RunningShare *running = NEW(RunningShare, 1);
    running->state = shown_states(chain) - 1;
    bool known =
        study->structure.n_class == 1 && chain_standard_errors(deviation, chain, study->limit);
    Random random = random_from_seed(seed);
    Simulation seen = watch_simulation(running, study, days, deviation, &random, file.stream);
    printf("%" PRIu64 " days, drawn with seed %" PRIu64 ":\n", days, seed);
    print_simulation(&seen, study, deviation);
    print_errors_explained(study, known);
    Chart chart = chart_new("A simulated record settles", "days", "share of days");
    chart.log_x = true;
    chart_add(&chart, chain->name[running->state], MARK_LINE, running->at, running->share,
              running->looks);
    chart_add(&chart, "two standard errors below", MARK_LINE, running->at, running->low,
              running->looks);
    chart_add(&chart, "two above", MARK_LINE, running->at, running->high, running->looks);
    putchar('\n');
    chart_print(stdout, &chart, &study->look);
    bool ok =
        (!record || out_close(&file, error)) && (!svg || write_svg(study, &chart, svg, error));
    simulation_free(&seen);
    free(deviation);
    free(running);
    return ok;
}

static void print_fit(const Fit *fit, const Counts *counts)
{
    size_t n = counts->n_state, shown = shown_states(&fit->chain);
    if (counts->days > 0.0)
        printf("%.0f days with a state; the record breaks off and goes on later %.0f times.\n",
               counts->days, counts->gaps);
    print_names(&fit->chain, "\n  today   transitions to:");
    for (size_t i = 0; i < shown; i++) {
        fputs("  ", stdout);
        text_pad(stdout, fit->chain.name[i], -22);
        for (size_t j = 0; j < shown; j++)
            printf("%10.0f", counts->count[i * n + j]);
        fputs("\n  most likely chance    ", stdout);
        print_chances(fit->chain.P + i * n, &fit->chain);
        fputs("\n  standard error        ", stdout);
        print_chances(fit->error + i * n, &fit->chain);
        putchar('\n');
    }
    printf("\nIs today's state informative about tomorrow's? Likelihood ratio G2 = %.2f, %.0f "
           "degree%s "
           "of freedom:\n",
           fit->G2, fit->freedom, fit->freedom == 1.0 ? "" : "s");
    if (fit->freedom < 1.0)
        puts("there is nothing to test with a single state.\n");
    else if (fit->p_value > 0.05)
        printf("p = %.2g. This record gives no reason to think so.\n\n", fit->p_value);
    else if (fit->p_value < 1e-300)
        puts("p < 1e-300. It is.\n");
    else
        printf("if it were not, chance would do this with p = %.1e. It is.\n\n", fit->p_value);
}

/* ================================== Options and main ====================================== */

typedef struct {
    const char *chain, *fit, *start, *svg, *record;
    uint64_t days, simulate, seed;
    bool forgetting, ascii;
} ChainOptions;

/* Reads or fits the chain, prints it, and finds out about it. */
static bool study_open(Study *study, const ChainOptions *options, Error *error)
{
    if (options->fit) {
        Counts counts;
        Fit fit;
        if (!counts_read(&counts, options->fit, error))
            return false;
        bool ok = chain_fit(&fit, &counts, error);
        if (ok) {
            printf("A chain fitted to %s\n", options->fit);
            print_fit(&fit, &counts);
            free(fit.error);
            study->chain = fit.chain;
        }
        counts_free(&counts);
        if (!ok)
            return false;
    } else if (options->chain) {
        if (!chain_read(&study->chain, options->chain, error))
            return false;
        printf("The chain of %s\n\n", options->chain);
        print_chain(&study->chain);
    } else {
        study->chain = chain_weather();
        puts("The weather as a Markov chain\n");
        print_chain(&study->chain);
    }
    size_t n = study->chain.n_state;
    study->look = look_at_terminal(options->ascii);
    study->start = NEW(double, n);
    study->limit = NEW(double, n);
    study->structure = chain_structure(&study->chain);
    for (size_t i = 0; i < n; i++)
        study->start[i] = 1.0 / (double)n;
    if (options->start && !start_parse(study->start, options->start, &study->chain, error))
        return false;
    chain_long_run(study->limit, study->start, &study->chain, &study->structure);
    study->rate =
        n > CHAIN_RATE_STATES ? NAN : chain_forgetting_rate(&study->chain, &study->structure);
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
    ChainOptions options = {NULL, NULL, NULL, NULL, NULL, 0, 0, 1, false, false};
    const Option table[] = {
        {"chain", "FILE", OPTION_TEXT, 0, 0, &options.chain, "!fit",
         "read the chain: first line from,sunny,rainy; then sunny,0.8,0.2 and so on"},
        {"fit", "FILE", OPTION_TEXT, 0, 0, &options.fit, "",
         "fit a chain to counts (the same form, whole numbers) or to a record (a state a line, or "
         "date,state; blank, NA or ? for a missing day)"},
        {"start", "WHAT", OPTION_TEXT, 0, 0, &options.start, "",
         "a state, or the chance of each: 0.5,0.5 (default: all alike)"},
        {"days", "N", OPTION_WHOLE, 1, CHAIN_MAX_DAYS, &options.days, "- forgetting",
         "forecast N days (default: until it settles)"},
        {"forgetting", NULL, OPTION_SWITCH, 0, 0, &options.forgetting, "mode",
         "how the forecasts from all certain starts run together"},
        {"simulate", "N", OPTION_WHOLE, 1, 1e9, &options.simulate, "mode",
         "draw a record of N days and hold it against theory"},
        {"seed", "S", OPTION_WHOLE, 0, WHOLE_MOST, &options.seed, "simulate",
         "of the random numbers (default 1)"},
        {"record", "FILE", OPTION_TEXT, 0, 0, &options.record, "simulate",
         "write the drawn record, a state a line"},
        {"svg", "FILE", OPTION_TEXT, 0, 0, &options.svg, "", "write the chart as SVG"},
        {"ascii", NULL, OPTION_SWITCH, 0, 0, &options.ascii, "", "draw charts without Unicode"},
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
        ok = demo_simulate(&study, options.simulate, options.seed, options.record, options.svg,
                           &error);
    else if (ok && options.forgetting)
        ok = demo_forgetting(&study, options.days, options.svg, &error);
    else if (ok)
        ok = demo_forecast(&study, options.days, options.svg, &error);
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
