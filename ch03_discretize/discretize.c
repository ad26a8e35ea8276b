/* Chapter 3. From continuous time to steps

   QUESTION   The weather does not jump from day to day. How does a law for every moment become a
              rule for steps? What is the step size, Delta, that Mamba makes so much of?
   NEW        The system lives in continuous time, x' = A x + B u; a step of length Delta turns A
              and B into A_bar and B_bar. Four rules do it; each has its error.
   NOT        Delta does not depend on what comes in, and all channels share it. In chapter 4 each
              input gets a Delta of its own, and that is selection.
   EQUATION   x'(t) = A x(t) + B u(t)     A_bar = exp(A Delta)     x_t = A_bar x_{t-1} + B_bar u_t
   LETTERS    maths   C        shape                in papers
              x'               (d_state)            dx/dt (in chapter 2 it was x in another basis)
              Delta   delta    a number             Delta, dt
              A_bar   A_bar    (d_state, d_state)   A with a bar; discrete A
              B_bar   B_bar    (d_state, d_in)      B with a bar; discrete B
              Q       Q        (n_state, n_state)   the generator of a chain, P = exp(Q)
                                                    (chapter 1's Q was a part of P)
   BUILD      cc -O2 ch03_discretize/discretize.c -o discretize -lm && ./discretize
   TIME       65 minutes to read with the lesson, 70 to do the exercises
   SOURCES    C. F. Van Loan, Computing integrals involving the matrix exponential, IEEE Trans.
              Automatic Control 23 (1978)
              J. R. Norris, Markov Chains (Cambridge 1997), section 2.1: the generator
              A. Gu et al., HiPPO, NeurIPS 2020 (arXiv 2008.07669); S4, arXiv 2111.00396; S4D, arXiv
              2206.11893; A. Gu, T. Dao, Mamba, arXiv 2312.00752, section 2
              (the matrix exponential itself: see expm.c) */

#ifndef CH03_DISCRETIZE
#define CH03_DISCRETIZE

#include "../ch02_ssm_abcd/ssm.c" /* as a library, and with it chapter 1: see there */
#include "expm.c"                 /* the exponential of a matrix, and its logarithm */
#include "step_tables.c"          /* what the demos print */

/* ================================== Four rules for a step ================================= */
/* All give x_t = A_bar x_{t-1} + B_bar u_t for a step of length delta, and the recurrence of     */
/* chapter 2 does the rest. They differ in what they assume between the steps. By hand, for       */
/* x' = -x + u and delta = 1: exp(-1) = 0.368 of x is left after the step; Euler's rule says 0,   */
/* the bilinear (1 - 1/2) / (1 + 1/2) = 0.333. And u = 1, held still, leaves 1 - exp(-1) = 0.632, */
/* since what came in early has faded already; Euler's rule says 1, all that came in.             */

/* Forward Euler: go straight on for a time delta, as if the slope x' = A x + B u stayed what it is.
   x + delta (A x + B u), sorted by x and u:
   A_bar = I + delta A (d_state, d_state), B_bar = delta B (d_state, d_in). */
bool discretize_euler(double *A_bar, double *B_bar, const double *A, const double *B,
                      size_t d_state, size_t d_in, double delta)
{
    matrix_identity(A_bar, d_state);
    for (size_t i = 0; i < d_state * d_state; i++)
        A_bar[i] += delta * A[i];
    for (size_t i = 0; i < d_state * d_in; i++)
        B_bar[i] = delta * B[i];
    return true; /* there is always an answer; the other three may find none */
}

/* Exercise 3.1. How long may Euler's step be? What fades, an eigenvalue lambda of A with a negative
   real part, still fades under every step shorter than this one, and grows under every longer one.
   lambda may be complex: then it also swings. 0 if lambda does not fade in the first place. */
double euler_longest_step(Complex lambda)
{
    //> EX 3.1 [2 pts] [10 min] how long Euler's step may be
    //? What does a step make of lambda's coordinate? It fades if that factor is below 1 in size.
    //? |1 + delta lambda|^2, with lambda = a + i b, is (1 + delta a)^2 + (delta b)^2. When is it 1?
    //? 2 a + delta (a^2 + b^2) = 0; and if a is not below 0, no delta above 0 will do.
    /* 1 = |1 + delta lambda|^2 = 1 + 2 delta a + delta^2 |lambda|^2 */
    double size = lambda.re * lambda.re + lambda.im * lambda.im;
    return lambda.re < 0.0 ? -2.0 * lambda.re / size : 0.0;
    //< EX 3.1
}

/* Exercise 3.2. Bilinear (Tustin, 1947): the mean of the slopes at both ends of the step,
   x_next - x = delta (A (x_next + x) / 2 + B u). x_next stands on both sides, so one has to solve
   left A_bar = ..., left B_bar = .... Write `left` (zeros so far), and into A_bar, which may hold
   anything, what A_bar is solved for; the solving is done below. False if `left` is singular. */
bool discretize_bilinear(double *A_bar, double *B_bar, const double *A, const double *B,
                         size_t d_state, size_t d_in, double delta)
{
    double *left = matrix_new(d_state, d_state), *copy = matrix_new(d_state, d_state);
    for (size_t i = 0; i < d_state * d_in; i++) /* what u brings, before `left` is solved for */
        B_bar[i] = delta * B[i];
    //> EX 3.2 [2 pts] [15 min] the bilinear rule
    //? x_next - x = delta (A (x_next + x) / 2 + B u): bring x_next to the left.
    //? What multiplies x_next is `left`. What multiplies x goes into A_bar. Both begin with an I.
    //? The solving below then does the rest: matrix_solve overwrites A_bar and B_bar.
    /* (I - delta A/2) x_next = (I + delta A/2) x + delta B u */
    matrix_identity(left, d_state);
    memcpy(A_bar, left, d_state * d_state * sizeof *A_bar);
    for (size_t i = 0; i < d_state * d_state; i++) {
        left[i] -= 0.5 * delta * A[i];
        A_bar[i] += 0.5 * delta * A[i];
    }
    //< EX 3.2
    memcpy(copy, left, d_state * d_state * sizeof *copy); /* matrix_solve uses its matrix up */
    bool ok =
        matrix_solve(A_bar, left, d_state, d_state) && matrix_solve(B_bar, copy, d_state, d_in);
    free(left);
    free(copy);
    return ok;
}

/* Exercise 3.3. Zero-order hold (ZOH): exact if u keeps still for the whole step. With exp(M) = I +
   M + M^2/2 + M^3/6 + ..., x(t) = exp(A t) x(0) solves x' = A x: exp(A t) is what A, at work for a
   time t, does to a state, and A_bar = exp(A delta). What came in s before the end of the step has
   gone through exp(A s) since: B_bar = int_0^delta exp(A s) ds B. The textbook's A^-1 (A_bar - I) B
   needs an inverse that A may not have. One exponential of a larger matrix needs none (Van Loan
   1978): see u as d_in more states that keep still, u' = 0. Then (x; u) has a matrix of its own,
   whose exponential takes both one step on: its upper blocks are A_bar and B_bar. False if it
   overflows. expm(E, M, size) is E = exp(M), M (size, size): expm.c. */
bool discretize_zoh(double *A_bar, double *B_bar, const double *A, const double *B, size_t d_state,
                    size_t d_in, double delta)
{
    size_t size = d_state + d_in;
    double *block = matrix_new(size, size), *E = matrix_new(size, size); /* zeros */
    //> EX 3.3 [2 pts] [15 min] the hold by one exponential
    //? Think of u as states that keep still: u' = 0. What is the matrix of (x, u)' ?
    //? `block` is (size, size) and full of zeros: the lower row of blocks, two zeros, is done.
    //? A step takes delta, and exp(M t) is what M, at work for a time t, does to a state.
    /* exp( [A B; 0 0] delta ) = [A_bar B_bar; 0 I] */
    for (size_t i = 0; i < d_state; i++) {
        for (size_t j = 0; j < d_state; j++)
            block[i * size + j] = delta * A[i * d_state + j];
        for (size_t j = 0; j < d_in; j++)
            block[i * size + d_state + j] = delta * B[i * d_in + j];
    }
    //< EX 3.3
    bool ok = expm(E, block, size);
    for (size_t i = 0; ok && i < d_state; i++) { /* the upper blocks of E are the answer */
        memcpy(A_bar + i * d_state, E + i * size, d_state * sizeof *E);
        memcpy(B_bar + i * d_in, E + i * size + d_state, d_in * sizeof *E);
    }
    free(block);
    free(E);
    return ok;
}

/* Mamba's rule: A exactly, B by Euler. A_bar = exp(A delta), B_bar = delta B: what comes in does
   not fade within its own step. The paper describes one rule, the hold (equation 4); its code uses
   the other, exp(delta A) and delta B u, for it is simpler and no loss was seen. A cannot be
   treated so lightly: it acts again at every step, and an error in it is multiplied each time. For
   a diagonal A, as Mamba's is, the exponential of the matrix is one exp for each state. False if
   it overflows. */
bool discretize_mamba(double *A_bar, double *B_bar, const double *A, const double *B,
                      size_t d_state, size_t d_in, double delta)
{
    double *scaled = matrix_new(d_state, d_state);
    for (size_t i = 0; i < d_state * d_state; i++)
        scaled[i] = delta * A[i];
    bool ok = expm(A_bar, scaled, d_state);
    for (size_t i = 0; i < d_state * d_in; i++)
        B_bar[i] = B[i] * delta;
    free(scaled);
    return ok;
}

/* Exercise 3.4. The hold for one state, x' = a x + b u with b = 1: *a_bar = exp(a delta), *b_bar
   = (exp(a delta) - 1) / a, right to the last digits for any a, 0 and numbers near 0 among them. It
   is all that a diagonal A needs, as S4D's; Mamba computes only a_bar this way. The hold's b_bar is
   Mamba's, delta, times a factor between 0 and 1 for a fading state: near 1 while |a delta| is
   small, 0.499 for a = -16 and delta = 0.1. */
void hold_scalar(double *a_bar, double *b_bar, double a, double delta)
{
    double z = a * delta;
    //> EX 3.4 [2 pts] [10 min] the hold for one state
    //? For z = 1e-12, exp(z) is 1.000000000001 with 16 digits: take off 1, and how many are left?
    //? libm has expm1(z), which is exp(z) - 1 without ever forming exp(z).
    //? At z = 0 the quotient is 0 / 0, but its limit is 1 times delta.
    /* exp(z) - 1 as it is written would lose the digits that exp(z) and 1 have in common */
    *a_bar = exp(z);
    *b_bar = z == 0.0 ? delta : delta * (expm1(z) / z);
    //< EX 3.4
}

/* The rules by number, as --rule names them (zoh: zero-order hold) and as the table below has them.
   The demos walk over all of them. */
typedef enum { RULE_ZOH, RULE_BILINEAR, RULE_EULER, RULE_MAMBA, N_RULE } Rule;

/* All four have one signature: A_bar (d_state, d_state) and B_bar (d_state, d_in) come out; false
   if there is no answer. */
typedef bool RuleFunction(double *A_bar, double *B_bar, const double *A, const double *B,
                          size_t d_state, size_t d_in, double delta);

static RuleFunction *const rules[N_RULE] = {discretize_zoh, discretize_bilinear, discretize_euler,
                                            discretize_mamba};

#define RULE_NAMES "zoh|bilinear|euler|mamba"

/* The names that are typed after --rule. */
const char *rule_name(Rule rule)
{
    static const char *const names[N_RULE] = {"zoh", "bilinear", "euler", "mamba"};
    return names[rule];
}

/* The discrete system of a continuous one, by any rule. Only A and B change: what is seen of the
   state at a moment (C, D), and where it starts (x0), do not depend on the step. delta is how
   long a sample lasts for the state: give each sample twice, halve delta, and by the hold nothing
   else has to change (by Mamba's rule little does, as long as |delta lambda| is small). A larger
   delta makes a sample count for more time; in chapter 4 each word has a delta of its own. */
bool discretize(Ssm *out, const Ssm *system, double delta, Rule rule, Error *error)
{
    size_t d_state = system->d_state, d_in = system->d_in;
    if (!(delta > 0.0) || !isfinite(delta))
        return fail(error, "the step %g is not a time above 0", delta);
    Ssm discrete = ssm_copy(system);
    bool ok = rules[rule](discrete.A, discrete.B, system->A, system->B, d_state, d_in, delta);
    if (!ok && rule == RULE_BILINEAR)
        fail(error, "the bilinear rule has no answer for the step %g: I - A delta/2 is singular",
             delta);
    else if (!ok || !all_finite(discrete.A, d_state * d_state) ||
             !all_finite(discrete.B, d_state * d_in))
        ok =
            fail(error, "exp(A delta) overflows for the step %g: the system grows too fast", delta);
    if (ok)
        *out = discrete;
    else
        ssm_free(&discrete);
    return ok;
}

/* ================================== How good is a rule? =================================== */
/* Two questions to each: how wrong is it after some time, and does what fades still fade? The    */
/* example is a spring, place' = speed, speed' = -place - 0.2 speed + force, whose eigenvalues    */
/* -0.1 +- 0.995 i make it swing and fade (data/spring.ssm).                                      */

static const double spring[] = {0, 1, -1, -0.2, /* A */
                                0, 1, 1,  0,    /* B, C: the place is seen */
                                0};             /* D */

/* The largest error of the spring's state (2) at the times 1, 2 ... 10, under a force that is held
   for a whole unit of time, with steps of 1 / per_unit. The hold is exact here, with steps of 1. If
   half the step makes half the error, the rule is of order 1; a quarter, of order 2. */
double rule_error(Rule rule, size_t per_unit)
{
    enum { UNITS = 10 };
    static const double force[UNITS] = {1, -0.5, 0.8, 0, 0, 1, 1, -1, 0.3, 0.6};
    Ssm system = ssm_of(2, 1, 1, spring), rough = ssm_copy(&system), exact = ssm_copy(&system);
    double next[2], x[2] = {0, 0}, want[2] = {0, 0}, worst = 0.0;
    discretize_zoh(exact.A, exact.B, system.A, system.B, 2, 1, 1.0);
    rules[rule](rough.A, rough.B, system.A, system.B, 2, 1, 1.0 / (double)per_unit);
    for (size_t t = 0; t < UNITS; t++) { /* one exact step against per_unit short ones */
        ssm_step(next, want, &force[t], &exact);
        memcpy(want, next, sizeof want);
        for (size_t k = 0; k < per_unit; k++) {
            ssm_step(next, x, &force[t], &rough);
            memcpy(x, next, sizeof x);
        }
        worst = fmax(worst, max_difference(x, want, 2));
    }
    ssm_free(&system);
    ssm_free(&rough);
    ssm_free(&exact);
    return worst;
}

/* The largest |eigenvalue| of the spring's A_bar: below 1 it fades, above 1 it explodes. Each
   eigenvalue lambda of A becomes one of A_bar: exp(z) by the hold, 1 + z by Euler's rule, with z =
   delta lambda. If Re lambda < 0, |exp(z)| < 1 for every delta > 0; |1 + z| < 1 is a disc around
   -1, and a long step leaves it. Mamba computes delta from its input, so any positive one may come:
   this is why its A is negative and its A_bar an exponential. */
double spring_radius(double delta, Rule rule)
{
    double A_bar[4], B_bar[2];
    rules[rule](A_bar, B_bar, spring, spring + 4, 2, 1, delta);
    return matrix_spectral_radius(A_bar, 2);
}

/* ================================== The weather in continuous time ======================== */
/* If P is a day, what is an hour? In continuous time a forecast obeys pi' = pi Q: that is x' =   */
/* A x with A the transpose of Q, and B = 0. Q_ij is the rate of leaving i for j: in a short time */
/* dt the chance is Q_ij dt. So P = exp(Q), and any time t can take the place of the day: P_t =   */
/* exp(Q t). Q, the generator, is the logarithm of P, if P has one that is made of rates.         */

/* P_t (n_state, n_state) = exp(Q t): the chain for a time of t days instead of one. For half a day
   it is the square root of the matrix P, and not of each of its entries. False if it overflows. */
bool chain_at_time(double *P_t, const double *Q, size_t n_state, double t)
{
    double *scaled = matrix_new(n_state, n_state);
    for (size_t i = 0; i < n_state * n_state; i++)
        scaled[i] = Q[i] * t;
    bool ok = expm(P_t, scaled, n_state);
    free(scaled);
    return ok;
}

/* The forecasts at any times (n_time) from `start` (n_state): pi (n_time, n_state), in each row
   start exp(Q t). On whole days they are chapter 1's. */
bool chain_forecast_at(double *pi, const double *start, const double *Q, size_t n_state,
                       const double *times, size_t n_time, Error *error)
{
    double *P_t = matrix_new(n_state, n_state);
    bool ok = true;
    for (size_t k = 0; ok && k < n_time; k++) {
        ok = chain_at_time(P_t, Q, n_state, times[k]) || fail(error, "exp(Q t) overflows");
        vector_times_matrix(pi + k * n_state, start, P_t, n_state, n_state);
    }
    free(P_t);
    return ok;
}

/* Q (n_state, n_state) = the generator of a chain, P = exp(Q): Q[i][j] >= 0 is the rate of leaving
   i for j, rows sum to 0. Fails, and says why, if none is found. A matrix has many logarithms; the
   principal one is tried, whose eigenvalues turn by less than half a circle a day. A chain that
   goes round faster than that may have a generator which is not found here. */
bool chain_generator(double *Q, const Chain *chain, Error *error)
{
    size_t n_state = chain->n_state;
    double *L = matrix_new(n_state, n_state);
    bool ok = logm(L, chain->P, n_state) ||
              fail(error, "no generator found: P has an eigenvalue that is 0 or negative, so it "
                          "has no principal logarithm");
    for (size_t i = 0; ok && i < n_state; i++)
        for (size_t j = 0; ok && j < n_state; j++)
            if (i != j && L[i * n_state + j] < -1e-10)
                ok = fail(error, /* as for a traffic light, which goes round too regularly */
                          "no generator found: by the principal logarithm the rate from '%.40s' to "
                          "'%.40s' would be %.4g, and a rate cannot be negative",
                          chain->name[i], chain->name[j], L[i * n_state + j]);
    if (ok)
        memcpy(Q, L, n_state * n_state * sizeof *Q);
    free(L);
    return ok;
}

/* ================================== HiPPO: a memory of all the past ======================= */
/* A could simply fade, as above. HiPPO asks for more: at every moment the state should be the    */
/* best polynomial fit of the whole past, all of it weighted equally. In the coordinates of       */
/* Legendre's polynomials one law does it, x' = (A x + B u) / t, and the past can be drawn again  */
/* from its state. The 1 / t is half of the law: S4 took this A without it, and then the past     */
/* fades, like everything in this chapter.                                                        */

/* HiPPO-LegS (HiPPO, theorem 2; S4, equation 2), for x' = (A x + B u) / t:
   A[i][j] = -sqrt(2i+1) sqrt(2j+1) for i > j, -(i+1) for i = j, 0 for i < j; B[i] = sqrt(2i+1).
   A (d_state, d_state), B (d_state, 1). The numbers are the paper's; P_i is the i-th Legendre
   polynomial, sqrt(2i+1) gives it a mean square of 1. A's eigenvalues stand on its diagonal, -1,
   -2, ...: without the 1 / t all of it fades. */
void legs_matrices(double *A, double *B, size_t d_state)
{
    for (size_t i = 0; i < d_state; i++) {
        for (size_t j = 0; j < d_state; j++)
            A[i * d_state + j] = i > j ? -sqrt(2.0 * (double)i + 1.0) * sqrt(2.0 * (double)j + 1.0)
                                 : i == j ? -((double)i + 1.0)
                                          : 0.0;
        B[i] = sqrt(2.0 * (double)i + 1.0);
    }
}

/* The hold is exact for x' = A x + B u, but this law has a 1 / t in it, which changes on the way
   from t to t + 1. There is a clock on which it has none, dx/dr = A x + B u.

   Exercise 3.5. How long the step from t to t + 1 is on that clock, for t > 0, to the last digits,
   though a large t leaves few of them in a difference. */
double legs_step(double t)
{
    //> EX 3.5 [2 pts] [10 min] the clock of HiPPO's law
    //? Let r be the time on the clock: dx/dr = dx/dt dt/dr. Which dt/dr takes the 1 / t away?
    //? dr = dt / t: so r is a function of t whose slope is 1 / t.
    //? r = log t. How far apart are log t and log(t + 1)? C has log1p(x), which is log(1 + x).
    return log1p(1.0 / t); /* log(t + 1) - log t */
    //< EX 3.5
}

/* Reads `signal` (len) sample by sample and keeps d_state numbers of it: state (d_state). Every
   step has another length, and so matrices of its own. False if an exponential overflows (none does
   up to some hundreds of states). */
bool legs_remember(double *state, const double *signal, size_t len, size_t d_state)
{
    double *A = matrix_new(d_state, d_state), *B = NEW(double, d_state);
    double *A_bar = matrix_new(d_state, d_state), *B_bar = NEW(double, d_state);
    double *next = NEW(double, d_state);
    legs_matrices(A, B, d_state);
    memset(state, 0, d_state * sizeof *state);
    if (len > 0)
        state[0] = signal[0]; /* one sample: a constant */
    bool ok = true;
    Progress progress = progress_start("remembering");
    for (size_t t = 1; ok && t < len; t++) { /* x = A_bar x + B_bar u */
        ok = discretize_zoh(A_bar, B_bar, A, B, d_state, 1, legs_step((double)t));
        memset(next, 0, d_state * sizeof *next);
        add_matrix_times(next, A_bar, state, d_state, d_state);
        add_matrix_times(next, B_bar, signal + t, d_state, 1);
        memcpy(state, next, d_state * sizeof *state);
        progress_show(&progress, (double)t, (double)len);
    }
    progress_end(&progress);
    free(A);
    free(B);
    free(A_bar);
    free(B_bar);
    free(next);
    return ok;
}

/* Draws the past again, out (len) at the middles of the samples, from state (d_state): the state is
   a list of coefficients of Legendre's polynomials P_i, stretched over the past, 0 < tau < t:
   u(tau) = sum_i state[i] sqrt(2i+1) P_i(2 tau / t - 1). With more states come finer polynomials.
   legendre(P, x, n) is P_0 .. P_{n-1} at x. */
void legs_recall(double *out, const double *state, size_t len, size_t d_state)
{
    double *value = NEW(double, d_state);
    for (size_t k = 0; k < len; k++) {
        legendre(value, 2.0 * ((double)k + 0.5) / (double)len - 1.0, d_state);
        out[k] = 0.0;
        for (size_t i = 0; i < d_state; i++)
            out[k] += state[i] * sqrt(2.0 * (double)i + 1.0) * value[i];
    }
    free(value);
}

/* The size of what a sample that came in `ago` before `now` has left in the state (d_state). By
   x' = A x + B u it is |exp(A ago) B|. By HiPPO's law it is |exp(A log(now / then)) B| / then;
   times `now` it depends on then / now alone, and is sqrt(sum_i (2i+1) P_i^2), which never
   fades. */
double legs_weight(double ago, double now, size_t d_state, bool by_hippos_law)
{
    double then = now - ago, size = 0.0, *A = matrix_new(d_state, d_state);
    double *E = matrix_new(d_state, d_state), *B = NEW(double, d_state),
           *kept = NEW(double, d_state);
    legs_matrices(A, B, d_state);
    for (size_t i = 0; i < d_state * d_state; i++)
        A[i] *= by_hippos_law ? log(now / then) : ago;
    bool ok = expm(E, A, d_state);
    add_matrix_times(kept, E, B, d_state, d_state);
    for (size_t i = 0; i < d_state; i++)
        size += kept[i] * kept[i];
    free(A);
    free(E);
    free(B);
    free(kept);
    return !ok ? NAN : by_hippos_law ? sqrt(size) * now / then : sqrt(size);
}

/* ================================== S4D: diagonal systems ================================= */
/* HiPPO's matrix is full below its diagonal, and a step costs d_state^2. Chapter 2 found         */
/* coordinates in which nothing mixes; S4D starts there, with a list of complex rates, one for    */
/* each state, and Mamba keeps the real ones.                                                     */

/* S4D-Lin: a_n = -1/2 + i pi n, a bank of damped swings (S4D, 4.2), for s4d_kernel below. */
Complex s4d_lin(size_t n)
{
    Complex a = {-0.5, PI * (double)n};
    return a;
}

/* S4D-Real: a_n = -(n + 1), plain forgetting, and the diagonal of HiPPO's matrix. Mamba's A starts
   like this, -1 .. -16 in every channel (S4D, 4.2; Mamba, 3.6). */
Complex s4d_real(size_t n)
{
    Complex a = {-((double)n + 1.0), 0.0};
    return a;
}

/* a / b = a times the conjugate of b, over |b|^2. */
static Complex complex_divide(Complex a, Complex b)
{
    double size = b.re * b.re + b.im * b.im;
    Complex quotient = {(a.re * b.re + a.im * b.im) / size, (a.im * b.re - a.re * b.im) / size};
    return quotient;
}

/* One complex state, x' = a x + u, by any rule: the formulas above with numbers for matrices. The
   hold is a_bar = exp(z), b_bar = (exp(z) - 1) / a with z = a delta = x + i y, and again exp(z) - 1
   must not cancel: its real part is exp(x) cos(y) - 1 = (exp(x) - 1) cos(y) - 2 sin(y/2)^2.
   (Nor can a_bar be had from it by adding 1: that would round exp(-40) to 0.) */
void s4d_step(Complex *a_bar, Complex *b_bar, Complex a, double delta, Rule rule)
{
    Complex z = {a.re * delta, a.im * delta}, straight = {delta, 0.0}; /* Euler's b_bar */
    if (rule == RULE_BILINEAR) { /* (1 + z/2) / (1 - z/2) and delta / (1 - z/2) */
        Complex top = {1.0 + 0.5 * z.re, 0.5 * z.im}, below = {1.0 - 0.5 * z.re, -0.5 * z.im};
        *a_bar = complex_divide(top, below);
        *b_bar = complex_divide(straight, below);
        return;
    }
    double half = sin(0.5 * z.im); /* grown = exp(z) - 1 */
    Complex grown = {expm1(z.re) * cos(z.im) - 2.0 * half * half, exp(z.re) * sin(z.im)};
    a_bar->re = rule == RULE_EULER ? 1.0 + z.re : exp(z.re) * cos(z.im);
    a_bar->im = rule == RULE_EULER ? z.im : grown.im;
    bool held = rule == RULE_ZOH && (z.re != 0.0 || z.im != 0.0);
    *b_bar = held ? complex_divide(grown, a) : straight;
}

/* Exercise 3.6. The kernel of diagonal states with B = 1, a and c (d_state): chapter 2's C A^k B,
   where the power of a diagonal is the powers of its numbers, a sum over a Vandermonde matrix
   (S4D, section 3.1): K[k] = scale Re sum_n c_n b_bar_n a_bar_n^k, K (len). scale is 2 if each
   state stands for itself and its conjugate, else 1. d_state len products, and no matrix. (No demo
   calls it: it is for the exercise, and for programs of your own.) */
void s4d_kernel(double *K, const Complex *a, const Complex *c, size_t d_state, double delta,
                Rule rule, double scale, size_t len)
{
    memset(K, 0, len * sizeof *K);
    for (size_t i = 0; i < d_state; i++) {
        Complex a_bar, b_bar;
        s4d_step(&a_bar, &b_bar, a[i], delta, rule);
        Complex walk = complex_multiply(c[i], b_bar);
        //> EX 3.6 [2 pts] [10 min] a kernel without a matrix
        //? What does this state add to K[0], K[1], K[2]? Each is the one before times what?
        //? `walk` starts as c b_bar. Add scale * walk.re to K[k], then complex_multiply by a_bar.
        for (size_t k = 0; k < len; k++) {
            K[k] += scale * walk.re;
            walk = complex_multiply(walk, a_bar);
        }
        //< EX 3.6
    }
}

/* ================================== The demos: one idea of the lesson each ================ */

/* The rules on x' = -x + u. For small steps all agree; for large ones Euler and the bilinear rule
   flip the sign of the state, while exp(-delta) comes close to 0 and stays positive. While u = 1,
   it settles at B_bar / (1 - A_bar), which is 1 by every rule but Mamba's. */
static bool demo_rules(const Show *show, Error *error)
{
    enum { SHOWN = 6, POINTS = 81 };
    static const double deltas[SHOWN] = {0.01, 0.1, 0.5, 1, 2, 3}, a = -1.0, b = 1.0;
    double A_bar[SHOWN][N_RULE], B_bar[SHOWN][N_RULE], delta[POINTS], kept[N_RULE][POINTS], ignored;
    for (size_t k = 0; k < SHOWN; k++)
        for (int rule = 0; rule < N_RULE; rule++)
            rules[rule](&A_bar[k][rule], &B_bar[k][rule], &a, &b, 1, 1, deltas[k]);
    print_rules(deltas, A_bar[0], B_bar[0], SHOWN);
    for (size_t k = 0; k < POINTS; k++) {
        delta[k] = 0.05 * (double)k + 1e-9;
        for (int rule = 0; rule < N_RULE; rule++)
            rules[rule](&kept[rule][k], &ignored, &a, &b, 1, 1, delta[k]);
    }
    return chart_rules(delta, kept[0], POINTS, show, error);
}

/* x' = -x + u from 0 with u = sin t, in `steps` steps of delta: x[k] is the state after k of them.
   The hold takes u[k] = sin(k delta) for the whole of a step. */
static void hold_sine(double *x, double *u, double delta, size_t steps)
{
    double a_bar, b_bar;
    hold_scalar(&a_bar, &b_bar, -1.0, delta);
    x[0] = 0.0;
    for (size_t k = 0; k < steps; k++) {
        u[k] = sin(delta * (double)k);
        x[k + 1] = a_bar * x[k] + b_bar * u[k];
    }
}

/* The hold as a staircase, and how far it is off where u is smooth: from x(t) = (sin t - cos t +
   exp(-t)) / 2, which solves x' = -x + sin t. */
static bool demo_hold(const Show *show, Error *error)
{
    enum { TRIED = 4, STEPS = 12, FINE = 121, MOST = 48 };
    double delta[TRIED], errors[TRIED] = {0}, x[MOST + 1], u[MOST], moment[STEPS + 1];
    double times[FINE], smooth[FINE], exact[FINE], held_at[2 * STEPS], held[2 * STEPS];
    for (size_t k = 0; k < TRIED; k++) {
        size_t steps = (size_t)6 << k;
        delta[k] = 6.0 / (double)steps;
        hold_sine(x, u, delta[k], steps);
        for (size_t i = 0; i <= steps; i++) {
            double t = delta[k] * (double)i;
            errors[k] = fmax(errors[k], fabs(x[i] - 0.5 * (sin(t) - cos(t) + exp(-t))));
        }
    }
    hold_sine(x, u, delta[1], STEPS);
    for (size_t i = 0; i <= STEPS; i++)
        moment[i] = delta[1] * (double)i;
    for (size_t i = 0; i < STEPS; i++) { /* a stair from moment i to moment i + 1 */
        held_at[2 * i] = moment[i];
        held_at[2 * i + 1] = moment[i + 1];
        held[2 * i] = held[2 * i + 1] = u[i];
    }
    for (size_t i = 0; i < FINE; i++) {
        double t = times[i] = 0.05 * (double)i;
        smooth[i] = sin(t);
        exact[i] = 0.5 * (sin(t) - cos(t) + exp(-t));
    }
    return show_hold(delta, errors, TRIED, times, smooth, exact, FINE, held_at, held, moment, x,
                     STEPS, show, error);
}

/* The error against the step: half the step, half the error, or a quarter of it. */
static bool demo_error(const Show *show, Error *error)
{
    enum { SIZES = 9 };
    double errors[N_RULE][SIZES];
    for (int rule = 0; rule < N_RULE; rule++)
        for (size_t k = 0; k < SIZES; k++)
            errors[rule][k] = rule_error((Rule)rule, (size_t)4 << k);
    return show_errors(errors[0], SIZES, show, error);
}

/* Something that fades must still fade when it is cut into steps: for a real lambda Euler's rule
   breaks that promise beyond delta |lambda| = 2. */
static bool demo_stability(const Show *show, Error *error)
{
    enum { STEPS = 12, TRIED = 4 };
    static const double deltas[TRIED] = {0.5, 1.5, 2.0, 2.1}, a = -1.0, b = 1.0;
    double x[TRIED][STEPS + 1], a_bar, b_bar;
    for (size_t k = 0; k < TRIED; k++) {
        discretize_euler(&a_bar, &b_bar, &a, &b, 1, 1, deltas[k]);
        x[k][0] = 1.0;
        for (size_t t = 0; t < STEPS; t++)
            x[k][t + 1] = a_bar * x[k][t];
    }
    return show_stability(deltas, x[0], TRIED, STEPS, show, error);
}

/* For what swings, lambda is complex, and Euler's rule asks for more: a disc of delta lambda. */
static bool demo_region(const Show *show, Error *error)
{
    enum { STEPS = 8 };
    double delta[STEPS], radius[STEPS][3];
    Complex lambda = {-0.1, sqrt(0.99)}; /* the spring's, and its conjugate */
    for (size_t k = 0; k < STEPS; k++) {
        delta[k] = 0.1 + 0.15 * (double)k;
        radius[k][0] = spring_radius(delta[k], RULE_ZOH);
        radius[k][1] = spring_radius(delta[k], RULE_BILINEAR);
        radius[k][2] = spring_radius(delta[k], RULE_EULER);
    }
    return show_region(delta, radius[0], euler_longest_step(lambda), STEPS, show, error);
}

/* The same spring at step delta and at delta / 2 with every sample twice. And two half steps
   against a whole one by the hold and by Mamba's rule, for x' = -x + u from 0 with u = 1. */
static bool demo_resolution(const Show *show, Error *error)
{
    enum { LEN = 24 };
    double coarse[LEN], fine[2 * LEN], wrong[LEN], twice[2 * LEN];
    Ssm system = ssm_of(2, 1, 1, spring), whole = ssm_copy(&system), half = ssm_copy(&system);
    Signal u = input_of("noise", LEN, 4);
    discretize_zoh(whole.A, whole.B, system.A, system.B, 2, 1, 0.5);
    discretize_zoh(half.A, half.B, system.A, system.B, 2, 1, 0.25);
    for (size_t t = 0; t < 2 * LEN; t++)
        twice[t] = u.value[t / 2];
    run_from_start(coarse, u.value, &whole, LEN, READ_AFTER);
    run_from_start(fine, twice, &half, 2 * LEN, READ_AFTER);
    run_from_start(wrong, u.value, &half, LEN, READ_AFTER);
    ssm_free(&system);
    ssm_free(&whole);
    ssm_free(&half);
    signal_free(&u);
    static const double minus = -1.0, one = 1.0;
    double a_bar, b_bar, at_once[2], in_two[2]; /* by the hold, by Mamba's rule */
    for (int k = 0; k < 2; k++) {
        RuleFunction *rule = k ? discretize_mamba : discretize_zoh;
        rule(&a_bar, &at_once[k], &minus, &one, 1, 1, 0.5);
        rule(&a_bar, &b_bar, &minus, &one, 1, 1, 0.25);
        in_two[k] = a_bar * b_bar + b_bar;
    }
    return show_resolutions(coarse, fine, wrong, LEN, at_once, in_two, show, error);
}

/* Prints the generator of a chain, Q (n_state, n_state), and forecasts from an even start. */
static bool show_generator(double *Q, const Chain *chain, const char *title, const char *name,
                           Error *error)
{
    enum { TIMES = 8 };
    static const double times[TIMES] = {1.0 / 24, 0.25, 0.5, 1, 1.5, 2, 7, 10};
    size_t n_state = chain->n_state;
    double *start = NEW(double, n_state), *pi = matrix_new(TIMES, n_state);
    for (size_t i = 0; i < n_state; i++)
        start[i] = 1.0 / (double)n_state;
    bool ok = chain_generator(Q, chain, error) &&
              chain_forecast_at(pi, start, Q, n_state, times, TIMES, error);
    if (ok) {
        printf("%s%s\n\n", title, name);
        print_matrix("Q", Q, n_state, n_state);
        print_forecasts(pi, times, TIMES, chain->name, n_state);
    }
    free(start);
    free(pi);
    return ok;
}

/* The weather at any hour, and half a day twice against the day of chapter 1. */
static bool demo_hours(const Show *show, Error *error)
{
    enum { HOURS = 97 };
    static const double start[2] = {0.5, 0.5};
    double Q[4], half[4], twice[4], pi[2 * HOURS], day[HOURS];
    Chain chain = chain_weather();
    bool ok = show_generator(Q, &chain, "The weather at any hour: P = exp(Q)", "", error) &&
              chain_at_time(half, Q, 2, 0.5);
    assert(ok); /* the weather has a generator */
    matrix_multiply(twice, half, half, 2, 2, 2);
    puts("\nHalf a day:");
    print_matrix("P", half, 2, 2);
    printf("Two halves make the day of chapter 1 to 1e-12: %s.\n",
           max_difference(chain.P, twice, 4) <= 1e-12 ? "yes" : "no");
    for (size_t h = 0; h < HOURS; h++)
        day[h] = (double)h / 24.0;
    chain_free(&chain);
    return chain_forecast_at(pi, start, Q, 2, day, HOURS, error) &&
           chart_hours(pi, day, HOURS, show, error);
}

/* HiPPO's memory with its 1 / t and without: what a sample has left in four numbers, at time 16. */
static bool demo_past(const Show *show, Error *error)
{
    enum { NOW = 16, POINTS = 4 * NOW };
    double ago[POINTS], law[POINTS], plain[POINTS];
    for (size_t k = 0; k < POINTS; k++) {
        ago[k] = 0.25 * (double)k;
        law[k] = legs_weight(ago[k], NOW, 4, true);
        plain[k] = legs_weight(ago[k], NOW, 4, false);
    }
    return show_past(ago, law, plain, POINTS, show, error);
}

/* How long each of S4D-Real's 16 numbers remembers: 1 / ((n + 1) delta) steps. Mamba starts
   with delta from 0.001 to 0.1, so its memories last from less than one step to a thousand. Beside
   it, how much of Mamba's B_bar = delta the hold would let in at delta = 0.1. */
static bool demo_memories(const Show *show, Error *error)
{
    double a[16], factor[16], a_bar;
    for (size_t k = 0; k < 16; k++) {
        a[k] = s4d_real(k).re;
        hold_scalar(&a_bar, &factor[k], a[k], 0.1);
        factor[k] /= 0.1;
    }
    return show_memories(a, factor, 16, show, error);
}

/* ================================== Options and main ====================================== */

typedef struct {
    const char *system, *generator, *input; /* the input, or the signal to remember */
    uint64_t length, seed, hippo;
    double delta;
    Rule rule;
} StepOptions;

static bool run_generator(const StepOptions *options, Error *error)
{
    Chain chain;
    if (!chain_read(&chain, options->generator, error))
        return false;
    double *Q = matrix_new(chain.n_state, chain.n_state);
    bool ok = show_generator(Q, &chain, "The generator (rates, a day) of ",
                             path_shown(options->generator), error) ||
              fail_in(options->generator, error);
    free(Q);
    chain_free(&chain);
    return ok;
}

/* Keeps 1, 2, 4 ... n numbers of a signal's past and draws it again from them. */
static bool run_hippo(const StepOptions *options, const Show *show, Error *error)
{
    enum { TRIED = 16 };
    size_t most = options->hippo, tried = 0;
    double numbers[TRIED], errors[TRIED];
    assert(most > 0);
    Signal u;
    if (!signal_open(&u, options->input, options->length, 200, 1, 0, options->seed, error))
        return false;
    double *state = NEW(double, most), *drawn = NEW(double, u.len);
    printf("HiPPO-LegS: %s, %zu samples, and what 1 to %zu numbers keep of it\n\n",
           path_shown(options->input), u.len, most);
    bool ok = true;
    for (size_t kept = 1, next; ok && kept <= most; kept = next) {
        next = kept == most ? most + 1 : 2 * kept < most ? 2 * kept : most;
        ok = legs_remember(state, u.value, u.len, kept) ||
             fail(error, "--hippo %zu: the exponential overflows", kept);
        legs_recall(drawn, state, u.len, kept);
        numbers[tried] = (double)kept;
        errors[tried++] = relative_error(drawn, u.value, u.len);
    }
    ok = ok && show_memory(numbers, errors, tried, &u, drawn, show, error);
    free(state);
    free(drawn);
    signal_free(&u);
    return ok;
}

/* A step of a continuous system of one's own, and the outputs it gives. */
static bool run_step_system(const StepOptions *options, const Show *show, Error *error)
{
    Ssm system, discrete = {0, 0, 0, NULL, NULL, NULL, NULL, NULL};
    Signal u = {0, 0, NULL, NULL};
    double *T, *y = NULL;
    if (!ssm_read(&system, &T, options->system, error))
        return false;
    bool ok = discretize(&discrete, &system, options->delta, options->rule, error);
    if (ok) {
        printf("The system of %s in continuous time\n\n", path_shown(options->system));
        print_system(&system);
        printf("\nand a step of %g by the rule %s\n", options->delta, rule_name(options->rule));
        print_matrix("A_bar", discrete.A, discrete.d_state, discrete.d_state);
        print_matrix("B_bar", discrete.B, discrete.d_state, discrete.d_in);
        print_stability("A_bar", discrete.A, discrete.d_state);
        ok = signal_open(&u, options->input, options->length, 100, discrete.d_in, discrete.d_out,
                         options->seed, error);
    }
    if (ok) {
        y = matrix_new(u.len, discrete.d_out);
        for (size_t t = 0; t < u.len; t++)
            u.time[t] = options->delta * (double)(t + 1);
        putchar('\n');
        ok = ssm_compute(y, u.value, &discrete, u.len, BY_RECURRENCE, READ_AFTER, error);
    }
    if (ok) {
        print_samples(&u, y, discrete.d_out);
        ok = chart_outputs(&u, y, discrete.d_out, options->input, show, error);
    }
    free(y);
    free(T);
    signal_free(&u);
    ssm_free(&system);
    ssm_free(&discrete);
    return ok;
}

int discretize_main(int argc, char **argv)
{
    static Demo *const demos[] = {demo_rules,     demo_hold,   demo_error,
                                  demo_stability, demo_region, demo_resolution,
                                  demo_hours,     demo_past,   demo_memories};
    StepOptions options = {NULL, NULL, NULL, 0, NO_SEED, 0, 0.1, RULE_ZOH};
    Show show = {{false, false}, NULL, 0};
    int demo = -1, n_demo = sizeof demos / sizeof *demos;
    bool ascii = false;
    const Option table[] = {
        {"demo", "rules|hold|error|stability|region|resolution|hours|past|memories", OPTION_CHOICE,
         0, 0, &demo, "mode", "one demo of the lesson"},
        {"system", "FILE", OPTION_TEXT, 0, 0, &options.system, "mode",
         "a system in continuous time, x' = A x + B u, in the form of chapter 2; its A holds "
         "rates, not what is left after a step"},
        {"rule", RULE_NAMES, OPTION_CHOICE, 0, 0, &options.rule, "system",
         "how to make a step of it (default zoh)"},
        {"step", "DELTA", OPTION_NUMBER, 1e-12, 1e12, &options.delta, "system",
         "its length (default 0.1)"},
        {"input", "WHAT", OPTION_TEXT, 0, 0, &options.input, "system hippo",
         "a CSV file, a line a sample, or step (the default of --system), waves (two, and a slow "
         "rise: that of --hippo), impulse, sine, noise, none"},
        {"seed", "S", OPTION_WHOLE, 0, SEED_MOST, &options.seed, "system hippo",
         "of --input noise (default 1)"},
        {"generator", "FILE", OPTION_TEXT, 0, 0, &options.generator, "mode",
         "the generator of a chain, and forecasts for parts of a day"},
        {"hippo", "N", OPTION_WHOLE, 1, 128, &options.hippo, "mode",
         "keep N numbers of the input's past and draw it again"},
        {"length", "N", OPTION_WHOLE, 1, 1000000, &options.length, "system hippo",
         "samples of what is built in (default 100, or 200), or the first N of a file"},
        {"svg", "FILE", OPTION_OUT, 0, 0, &show.svg, "demo system hippo", "the chart as SVG"},
        {"ascii", NULL, OPTION_SWITCH, 0, 0, &ascii, "- demo system hippo", "no Unicode in charts"},
    };
    const Program program = {"ch03_discretize",
                             "From continuous time to steps (chapter 3). Without options: the "
                             "lesson's demos in order.",
                             table, sizeof table / sizeof *table};
    int status;
    Error error;
    if (!program_begin(&status, &program, argc, argv))
        return status;
    if (!options.input)
        options.input = options.hippo ? "waves" : "step";
    if (!seed_is_used(options.seed, options.input, &error)) { /* what no table can say */
        program_end(false, &error);
        return 2;
    }
    show.look = look_at_terminal(ascii);
    bool ok = options.system      ? run_step_system(&options, &show, &error)
              : options.generator ? run_generator(&options, &error)
              : options.hippo     ? run_hippo(&options, &show, &error)
                                  : demos_run(demos, n_demo, demo, &show, &error);
    return program_end(ok, &error);
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return discretize_main(argc, argv);
}
#endif

#endif /* CH03_DISCRETIZE */
