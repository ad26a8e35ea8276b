/* Chapter 3. From continuous time to steps

   QUESTION   The weather does not jump from day to day. How does a law for every moment become a
              rule for steps? What is the step size, Delta, that Mamba makes so much of?
   NEW        The system lives in continuous time, x' = A x + B u; a step of length Delta turns A
              and B into A_bar and B_bar. Four rules do it; each has its error.
   NOT        Delta is one number for all time and all channels. In chapter 4 it depends on the
              input, and that is selection.
   EQUATION   x'(t) = A x(t) + B u(t)     A_bar = exp(A Delta)     x_{t+1} = A_bar x_t + B_bar u_t
   LETTERS    maths   C        shape                in papers
              Delta   delta    a number             Delta, dt
              A_bar   A_bar    (d_state, d_state)   A with a bar; discrete A
              B_bar   B_bar    (d_state, d_in)      B with a bar; discrete B
              Q       Q        (n_state, n_state)   the generator of a chain: P = exp(Q)
   BUILD      cc -O2 ch03_discretize/discretize.c -o discretize -lm && ./discretize
   TIME       45 minutes to read, 100 to do the exercises
   SOURCES    N. J. Higham, The scaling and squaring method for the matrix exponential revisited,
              SIAM J. Matrix Anal. 26 (2005)
              A. H. Al-Mohy, N. J. Higham, A new scaling and squaring algorithm, same 31 (2009)
              C. F. Van Loan, Computing integrals involving the matrix exponential, IEEE Trans.
              Automatic Control 23 (1978)
              A. Gu et al., HiPPO, NeurIPS 2020 (arXiv 2008.07669); S4, arXiv 2111.00396; S4D, arXiv
              2206.11893; A. Gu, T. Dao, Mamba, arXiv 2312.00752, section 2 */

#ifndef CH03_DISCRETIZE
#define CH03_DISCRETIZE

#include "../ch02_ssm_abcd/ssm.c"

/* ================================== The matrix exponential ================================ */
/* exp(A) is what A, at work for one unit of time, does to a state. Its power series is right  */
/* and useless; halving A until it is small, and squaring back, is right and useful.           */

/* The largest sum of |entries| in a column of M (n, n). */
double matrix_norm1(const double *M, size_t n)
{
    double largest = 0.0;
    for (size_t j = 0; j < n && !isnan(largest); j++) {
        double sum = 0.0;
        for (size_t i = 0; i < n; i++)
            sum += fabs(M[i * n + j]);
        if (!(sum <= largest))
            largest = sum;
    }
    return largest;
}

/* exp(A) by its definition, I + A + A^2/2 + A^3/6 + ... until nothing changes: E (n, n) from A
   (n, n). Kept as a warning: for A = -20 the terms reach 43 million and cancel to 2e-9, badly. */
void expm_taylor(double *E, const double *A, size_t n)
{
    double *term = matrix_new(n, n), *next = matrix_new(n, n);
    matrix_identity(E, n);
    matrix_identity(term, n);
    bool changed = true;
    for (size_t k = 1; changed && k < 10000; k++) {
        changed = false;
        matrix_multiply(next, term, A, n, n, n);
        for (size_t i = 0; i < n * n; i++) {
            double before = E[i];
            term[i] = next[i] / (double)k;
            E[i] += term[i];
            changed = changed || E[i] != before;
        }
    }
    free(term);
    free(next);
}

/* The even powers of A that the Pade approximants are made of. */
typedef struct {
    size_t n;
    const double *A;                           /* (n, n) */
    double *power2, *power4, *power6, *power8; /* (n, n) each */
} Powers;

/* out = c0 I + c2 A^2 + c4 A^4 + c6 A^6 + c8 A^8. */
static void even_sum(double *out, const Powers *powers, const double c[5])
{
    size_t n = powers->n;
    for (size_t i = 0; i < n * n; i++)
        out[i] = c[1] * powers->power2[i] + c[2] * powers->power4[i] + c[3] * powers->power6[i] +
                 c[4] * powers->power8[i];
    for (size_t i = 0; i < n; i++)
        out[i * n + i] += c[0];
}

/* The coefficients of the numerator of the [m/m] Pade approximant of exp, b_0 .. b_m: q(-x) below
   the bar has the same with changing signs (Higham 2005, equation 2.1). */
static void pade_coefficients(double b[14], int m)
{
    b[m] = 1.0;
    for (int j = m; j > 0; j--)
        b[j - 1] = b[j] * (double)(j * (2 * m - j + 1)) / (double)(m - j + 1);
}

/* U (odd part) and V (even part) of the [m/m] approximant, m = 3, 5, 7, 9 or 13; r = (V + U)/(V -
   U). */
static void pade_parts(double *U, double *V, const Powers *powers, int m)
{
    size_t n = powers->n;
    double b[14] = {0}, *sum = matrix_new(n, n), *high = matrix_new(n, n);
    pade_coefficients(b, m);
    double odd[5] = {b[1], b[3], b[5], b[7], b[9]}, even[5] = {b[0], b[2], b[4], b[6], b[8]};
    if (m == 13) /* A^8 and up as A^6 times A^2, A^4, A^6: two products more and no further power */
        odd[4] = even[4] = 0.0;
    even_sum(sum, powers, odd);
    even_sum(V, powers, even);
    if (m == 13) {
        double odd_high[5] = {0, b[9], b[11], b[13], 0}, even_high[5] = {0, b[8], b[10], b[12], 0};
        even_sum(high, powers, odd_high);
        matrix_multiply(U, powers->power6, high, n, n, n);
        add_scaled_row(sum, U, 1.0, n * n);
        even_sum(high, powers, even_high);
        matrix_multiply(U, powers->power6, high, n, n, n);
        add_scaled_row(V, U, 1.0, n * n);
    }
    matrix_multiply(U, powers->A, sum, n, n, n);
    free(sum);
    free(high);
}

/* How many more halvings the approximant of degree m needs for A (n, n), so that rounding does
   not outgrow its error (Al-Mohy & Higham 2009, equation 5.1): || |A|^(2m+1) || comes from 2m+1
   products of |A| with a row of ones. */
static double extra_halvings(const double *A, size_t n, int m)
{
    double *row = NEW(double, 2 * n), *next = row + n, log_size = 0.0, norm = matrix_norm1(A, n);
    for (size_t i = 0; i < n; i++)
        row[i] = 1.0;
    for (int k = 0; k < 2 * m + 1 && isfinite(log_size); k++) {
        for (size_t j = 0; j < n; j++) {
            next[j] = 0.0;
            for (size_t i = 0; i < n; i++)
                next[j] += row[i] * fabs(A[i * n + j]);
        }
        double largest = matrix_max_abs(next, n);
        log_size += log(largest); /* kept as a logarithm: nothing overflows */
        for (size_t i = 0; i < n; i++)
            row[i] = largest > 0.0 ? next[i] / largest : 0.0;
    }
    free(row);
    if (!isfinite(log_size)) /* |A|^(2m+1) is 0 */
        return 0.0;
    double choose = lgamma(2.0 * m + 1) - 2.0 * lgamma(m + 1.0); /* (2m over m) */
    double alpha = log_size - log(norm) - choose - lgamma(2.0 * m + 2.0);
    return fmax(0.0, ceil((alpha / log(2.0) + 53.0) / (2.0 * m)));
}

static void powers_new(Powers *powers, const double *A, size_t n)
{
    double **power[4] = {&powers->power2, &powers->power4, &powers->power6, &powers->power8};
    powers->n = n;
    powers->A = A;
    for (int k = 0; k < 4; k++) {
        *power[k] = matrix_new(n, n);
        if (k == 0)
            matrix_multiply(*power[k], A, A, n, n, n);
        else
            matrix_multiply(*power[k], *power[k - 1], powers->power2, n, n, n);
    }
}

static void powers_free(Powers *powers)
{
    free(powers->power2);
    free(powers->power4);
    free(powers->power6);
    free(powers->power8);
}

/* The degree m for A (n, n), and how often to halve A before: the cheapest that is exact to 2^-53
   (Al-Mohy & Higham 2009, algorithm 5.1). `unit` is what A was divided by beforehand. */
static int pade_choose(double *halvings, const Powers *powers, double unit)
{
    static const int degrees[] = {3, 5, 7, 9};
    static const double theta[] = {1.495585217958292e-2, 2.539398330063230e-1, 9.504178996162932e-1,
                                   2.097847961257068e0};
    size_t n = powers->n;
    double *power10 = matrix_new(n, n), *scaled = matrix_new(n, n);
    matrix_multiply(power10, powers->power4, powers->power6, n, n, n);
    double d4 = unit * pow(matrix_norm1(powers->power4, n), 1.0 / 4);
    double d6 = unit * pow(matrix_norm1(powers->power6, n), 1.0 / 6);
    double d8 = unit * pow(matrix_norm1(powers->power8, n), 1.0 / 8);
    double d10 = unit * pow(matrix_norm1(power10, n), 1.0 / 10);
    int m = 13;
    *halvings = 0.0;
    for (size_t i = 0; i < n * n; i++)
        scaled[i] = powers->A[i] * unit;
    for (int k = 0; k < 4 && m == 13; k++)
        if ((k < 2 ? fmax(d4, d6) : fmax(d6, d8)) < theta[k] &&
            extra_halvings(scaled, n, degrees[k]) == 0.0)
            m = degrees[k];
    if (m == 13) {
        double size = fmin(fmax(d6, d8), fmax(d8, d10));
        *halvings = size > 4.25 ? ceil(log2(size / 4.25)) : 0.0;
        for (size_t i = 0; i < n * n; i++)
            scaled[i] = ldexp(powers->A[i] * unit, -(int)*halvings);
        *halvings += extra_halvings(scaled, n, 13);
    }
    free(power10);
    free(scaled);
    return m;
}

/* E = r_m(A / 2^halvings), the approximant itself: E (n, n), A (n, n). */
static bool pade_solve(double *E, const double *A, size_t n, int m)
{
    Powers powers;
    double *U = matrix_new(n, n), *below = matrix_new(n, n);
    powers_new(&powers, A, n);
    pade_parts(U, E, &powers, m);
    for (size_t i = 0; i < n * n; i++) {
        below[i] = E[i] - U[i];
        E[i] += U[i];
    }
    bool ok = matrix_solve(E, below, n, n);
    powers_free(&powers);
    free(U);
    free(below);
    return ok;
}

static bool is_triangular(const double *A, size_t n)
{
    bool upper = true, lower = true;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            upper = upper && (i <= j || A[i * n + j] == 0.0);
            lower = lower && (i >= j || A[i * n + j] == 0.0);
        }
    return upper || lower;
}

/* The diagonal of exp of a triangular A is known: put in exactly, it keeps the error of every
   squaring from growing (Al-Mohy & Higham 2009, code fragment 2.1). */
static void restore_diagonal(double *E, const double *A, size_t n, int halvings)
{
    for (size_t i = 0; i < n; i++)
        E[i * n + i] = exp(ldexp(A[i * n + i], -halvings));
}

/* E (n, n) = exp(A), A (n, n), for any real A. False if it overflows or A is not finite; E is then
   undefined. exp(A) = exp(A / 2^s)^(2^s): s halvings, a Pade approximant, s squarings. */
bool expm(double *E, const double *A, size_t n)
{
    double norm = matrix_norm1(A, n), halvings;
    if (!isfinite(norm))
        return false;
    int exponent = 0;
    frexp(norm, &exponent); /* work with A / 2^exponent, whose powers cannot overflow */
    double *small = matrix_new(n, n), *square = matrix_new(n, n);
    Powers powers;
    for (size_t i = 0; i < n * n; i++)
        small[i] = ldexp(A[i], -exponent);
    powers_new(&powers, small, n);
    int m = pade_choose(&halvings, &powers, ldexp(1.0, exponent));
    powers_free(&powers);
    for (size_t i = 0; i < n * n; i++)
        small[i] = ldexp(A[i], -(int)halvings);
    bool ok = pade_solve(E, small, n, m), triangular = is_triangular(A, n);
    for (int left = (int)halvings; left > 0; left--) {
        if (triangular)
            restore_diagonal(E, A, n, left);
        matrix_multiply(square, E, E, n, n, n);
        memcpy(E, square, n * n * sizeof *E);
    }
    if (triangular)
        restore_diagonal(E, A, n, 0);
    free(small);
    free(square);
    return ok && all_finite(E, n * n);
}

/* ================================== Four rules for a step ================================= */
/* All give x_{t+1} = A_bar x_t + B_bar u_t. They differ in what they suppose between the steps. */

typedef enum { RULE_ZOH, RULE_BILINEAR, RULE_EULER, RULE_MAMBA, N_RULE } Rule;

const char *rule_name(Rule rule)
{
    static const char *const names[N_RULE] = {"zoh", "bilinear", "euler", "mamba"};
    return names[rule];
}

/* Exercise 3.1. Forward Euler: go straight on for a time delta, as if the slope stayed what it is.
   A_bar = I + delta A (n, n), B_bar = delta B (n, m). */
void discretize_euler(double *A_bar, double *B_bar, const double *A, const double *B, size_t n,
                      size_t m, double delta)
{
    //> EX 3.1 [1 pt] [10 min] Euler's rule
    //? x(t + delta) is about x(t) + delta x'(t), and x' = A x + B u. Collect what multiplies x.
    //? A_bar starts as the identity (matrix_identity), then delta A is added to every entry.
    matrix_identity(A_bar, n);
    for (size_t i = 0; i < n * n; i++)
        A_bar[i] += delta * A[i];
    for (size_t i = 0; i < n * m; i++)
        B_bar[i] = delta * B[i];
    //< EX 3.1
}

/* Exercise 3.2. Bilinear (Tustin, 1947): the mean of the slopes at both ends,
   A_bar = (I - delta A/2)^-1 (I + delta A/2), B_bar = (I - delta A/2)^-1 delta B.
   False if I - delta A/2 is singular. */
bool discretize_bilinear(double *A_bar, double *B_bar, const double *A, const double *B, size_t n,
                         size_t m, double delta)
{
    double *left = matrix_new(n, n), *copy = matrix_new(n, n);
    //> EX 3.2 [3 pts] [20 min] the bilinear rule
    //? x_next - x = delta (A (x_next + x) / 2 + B u): bring x_next to the left.
    //? Fill `left` with I - delta A/2, A_bar with I + delta A/2, B_bar with delta B.
    //? The solving below then does the rest: matrix_solve overwrites A_bar and B_bar.
    matrix_identity(left, n);
    matrix_identity(A_bar, n);
    for (size_t i = 0; i < n * n; i++) {
        left[i] -= 0.5 * delta * A[i];
        A_bar[i] += 0.5 * delta * A[i];
    }
    for (size_t i = 0; i < n * m; i++)
        B_bar[i] = delta * B[i];
    //< EX 3.2
    memcpy(copy, left, n * n * sizeof *copy);
    bool ok = matrix_solve(A_bar, left, n, n) && matrix_solve(B_bar, copy, n, m);
    free(left);
    free(copy);
    return ok;
}

/* Exercise 3.3. Zero-order hold: exact if u keeps still for the whole step.
   A_bar = exp(A delta), B_bar = int_0^delta exp(A s) ds B. The formula A^-1 (A_bar - I) B needs an
   inverse that A may not have; one exponential of a larger matrix needs none (Van Loan 1978):
       exp( [A B; 0 0] delta ) = [A_bar B_bar; 0 I].
   False if it overflows. */
bool discretize_zoh(double *A_bar, double *B_bar, const double *A, const double *B, size_t n,
                    size_t m, double delta)
{
    size_t size = n + m;
    double *block = matrix_new(size, size), *E = matrix_new(size, size);
    //> EX 3.3 [2 pts] [15 min] the hold by one exponential
    //? Think of u as states that keep still: u' = 0. What is the matrix of (x, u)' ?
    //? `block` is (size, size) and full of zeros: the two lower rows of blocks are done.
    //? Row i takes delta * A[i * n + j] in columns j < n, and delta * B[i * m + j] in column n + j.
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++)
            block[i * size + j] = delta * A[i * n + j];
        for (size_t j = 0; j < m; j++)
            block[i * size + n + j] = delta * B[i * m + j];
    }
    //< EX 3.3
    bool ok = expm(E, block, size);
    for (size_t i = 0; ok && i < n; i++) {
        memcpy(A_bar + i * n, E + i * size, n * sizeof *E);
        memcpy(B_bar + i * m, E + i * size + n, m * sizeof *E);
    }
    free(block);
    free(E);
    return ok;
}

/* Mamba's rule: A exactly, B by Euler. A_bar = exp(A delta), B_bar = delta B. (The paper states the
   hold, equation 4; its code does this: exp(delta A) and delta B u. False if it overflows.) */
bool discretize_mamba(double *A_bar, double *B_bar, const double *A, const double *B, size_t n,
                      size_t m, double delta)
{
    double *scaled = matrix_new(n, n);
    for (size_t i = 0; i < n * n; i++)
        scaled[i] = delta * A[i];
    bool ok = expm(A_bar, scaled, n);
    for (size_t i = 0; i < n * m; i++)
        B_bar[i] = B[i] * delta;
    free(scaled);
    return ok;
}

/* The discrete system of a continuous one, by any rule; C, D and x0 stay. */
bool discretize(Ssm *out, const Ssm *system, double delta, Rule rule, Error *error)
{
    size_t n = system->d_state, m = system->d_in;
    if (!(delta > 0.0) || !isfinite(delta))
        return fail(error, "the step %g is not a time above 0", delta);
    Ssm step = ssm_copy(system);
    bool ok = true;
    if (rule == RULE_EULER)
        discretize_euler(step.A, step.B, system->A, system->B, n, m, delta);
    else
        ok = (rule == RULE_BILINEAR ? discretize_bilinear
              : rule == RULE_ZOH
                  ? discretize_zoh
                  : discretize_mamba)(step.A, step.B, system->A, system->B, n, m, delta);
    if (!ok && rule == RULE_BILINEAR)
        fail(error, "the bilinear rule has no answer for the step %g: I - A delta/2 is singular",
             delta);
    else if (!ok || !all_finite(step.A, n * n) || !all_finite(step.B, n * m))
        ok =
            fail(error, "exp(A delta) overflows for the step %g: the system grows too fast", delta);
    if (ok)
        *out = step;
    else
        ssm_free(&step);
    return ok;
}

/* Exercise 3.4. The hold for one state, x' = a x + b u with b = 1: *a_bar = exp(a delta), *b_bar
   = (exp(a delta) - 1) / a, and delta where a is 0. What a diagonal A needs, and all that S4D and
   Mamba compute of the theory above. Right to the last digits for any a: exp(z) - 1 must not be
   computed as it is written. */
void hold_scalar(double *a_bar, double *b_bar, double a, double delta)
{
    double z = a * delta;
    //> EX 3.4 [2 pts] [15 min] the hold for one state
    //? For z = 1e-12, exp(z) is 1.000000000001 with 16 digits: take off 1, and how many are left?
    //? libm has expm1(z), which is exp(z) - 1 without ever forming exp(z).
    //? At z = 0 the quotient is 0 / 0, but its limit is 1 times delta.
    *a_bar = exp(z);
    *b_bar = z == 0.0 ? delta : delta * (expm1(z) / z);
    //< EX 3.4
}

/* ================================== The weather in continuous time ======================== */
/* If P is a day, what is an hour? P = exp(Q): the generator Q holds rates, and any time can be  */
/* put in for the day. Q is the logarithm of P, if there is one.                                 */

/* X = square root of A (n, n), by Denman and Beavers' iteration (Higham, Functions of Matrices,
   2008, 6.3): X and Y go to A^(1/2) and A^(-1/2). False if it does not converge: A has an
   eigenvalue that is 0 or negative. */
static bool matrix_square_root(double *X, const double *A, size_t n)
{
    double *Y = matrix_new(n, n), *inverse_X = matrix_new(n, n), *inverse_Y = matrix_new(n, n);
    double *copy = matrix_new(n, n), change = INFINITY;
    memcpy(X, A, n * n * sizeof *X);
    matrix_identity(Y, n);
    bool ok = true;
    for (int k = 0; ok && k < 60 && change > 1e-15 * matrix_norm1(X, n); k++) {
        matrix_identity(inverse_X, n);
        memcpy(copy, X, n * n * sizeof *copy);
        ok = matrix_solve(inverse_X, copy, n, n);
        matrix_identity(inverse_Y, n);
        memcpy(copy, Y, n * n * sizeof *copy);
        ok = ok && matrix_solve(inverse_Y, copy, n, n);
        memcpy(copy, X, n * n * sizeof *copy);
        for (size_t i = 0; i < n * n; i++) {
            X[i] = 0.5 * (X[i] + inverse_Y[i]);
            Y[i] = 0.5 * (Y[i] + inverse_X[i]);
            copy[i] -= X[i];
        }
        change = matrix_norm1(copy, n);
        ok = ok && all_finite(X, n * n);
    }
    matrix_multiply(copy, X, X, n, n, n); /* did it converge, and to a root? */
    ok = ok && max_difference(copy, A, n * n) <= 1e-10 * fmax(1.0, matrix_norm1(A, n));
    free(Y);
    free(inverse_X);
    free(inverse_Y);
    free(copy);
    return ok;
}

/* The Legendre polynomials P_0 .. P_{count-1} at x, by their recurrence. */
void legendre(double *value, double x, size_t count)
{
    for (size_t k = 0; k < count; k++) {
        double degree = (double)k;
        value[k] = k == 0 ? 1.0
                   : k == 1
                       ? x
                       : ((2.0 * degree - 1.0) * x * value[k - 1] - (degree - 1.0) * value[k - 2]) /
                             degree;
    }
}

/* Nodes and weights of Gauss's rule with `count` points on [0, 1]: the zeros of P_count by Newton's
   method from a well-known first guess (Abramowitz & Stegun 25.4.29). */
static void gauss_rule(double *node, double *weight, size_t count)
{
    double *value = NEW(double, count + 1), size = (double)count;
    for (size_t k = 0; k < count; k++) {
        double x = cos(PI * ((double)k + 0.75) / (size + 0.5)), slope = 1.0;
        for (int step = 0; step < 10; step++) {
            legendre(value, x, count + 1);
            slope = size * (x * value[count] - value[count - 1]) / (x * x - 1.0);
            x -= value[count] / slope;
        }
        node[k] = 0.5 * (1.0 + x);
        weight[k] = 1.0 / ((1.0 - x * x) * slope * slope);
    }
    free(value);
}

/* L = log(I + Y) for a small Y (n, n): int_0^1 Y (I + s Y)^-1 ds by Gauss's rule with 8 points,
   which is the [8/8] Pade approximant (Higham 2008, 11.4). */
static bool log_near_identity(double *L, const double *Y, size_t n)
{
    enum { POINTS = 8 };
    double node[POINTS], weight[POINTS], *below = matrix_new(n, n), *part = matrix_new(n, n);
    gauss_rule(node, weight, POINTS);
    memset(L, 0, n * n * sizeof *L);
    bool ok = true;
    for (size_t k = 0; ok && k < POINTS; k++) {
        matrix_identity(below, n);
        for (size_t i = 0; i < n * n; i++)
            below[i] += node[k] * Y[i];
        memcpy(part, Y, n * n * sizeof *part);
        ok = matrix_solve(part, below, n, n);
        add_scaled_row(L, part, weight[k], n * n);
    }
    free(below);
    free(part);
    return ok;
}

/* L (n, n) = the principal logarithm of A (n, n): square roots until A is near I, a logarithm
   there, doubled back (inverse scaling and squaring; Higham 2008, 11.5). False if A has an
   eigenvalue that is 0 or negative: then it has none. */
bool logm(double *L, const double *A, size_t n)
{
    double *near = matrix_new(n, n), *root = matrix_new(n, n), *identity = matrix_new(n, n);
    memcpy(near, A, n * n * sizeof *near);
    matrix_identity(identity, n);
    int roots = 0;
    bool ok = all_finite(A, n * n);
    for (; ok; roots++) {
        for (size_t i = 0; i < n * n; i++)
            root[i] = near[i] - identity[i];
        if (matrix_norm1(root, n) < 0.25 || roots > 60)
            break;
        ok = matrix_square_root(root, near, n);
        memcpy(near, root, n * n * sizeof *near);
    }
    ok = ok && roots <= 60 && log_near_identity(L, root, n);
    for (size_t i = 0; ok && i < n * n; i++)
        L[i] = ldexp(L[i], roots);
    free(near);
    free(root);
    free(identity);
    return ok;
}

/* Q (n_state, n_state) = the generator of a chain, P = exp(Q): Q[i][j] is the rate of going from
   i to j, a share a day; rows sum to 0. Fails, and says why, if the chain is no continuous one
   looked at once a day. (The principal logarithm is tried; for the rare chains with another:
   Norris 1997, 2.1.) */
bool chain_generator(double *Q, const Chain *chain, Error *error)
{
    size_t n = chain->n_state;
    double *L = matrix_new(n, n);
    bool ok =
        logm(L, chain->P, n) ||
        fail(error, "this chain has no generator: P has an eigenvalue that is 0 or negative, and a "
                    "day of it cannot be cut in halves");
    for (size_t i = 0; ok && i < n; i++)
        for (size_t j = 0; ok && j < n; j++)
            if (i != j && L[i * n + j] < -1e-10)
                ok = fail(error,
                          "this chain has no generator: the rate from '%.40s' to '%.40s' would be "
                          "%.4g, and "
                          "a rate cannot be negative",
                          chain->name[i], chain->name[j], L[i * n + j]);
    if (ok)
        memcpy(Q, L, n * n * sizeof *Q);
    free(L);
    return ok;
}

/* P_t (n_state, n_state) = exp(Q t): the chain for a time of t days instead of one. */
bool chain_at_time(double *P_t, const double *Q, size_t n_state, double t)
{
    double *scaled = matrix_new(n_state, n_state);
    for (size_t i = 0; i < n_state * n_state; i++)
        scaled[i] = Q[i] * t;
    bool ok = expm(P_t, scaled, n_state);
    free(scaled);
    return ok;
}

/* ================================== HiPPO: a memory of all the past ======================= */
/* Which A remembers best? HiPPO's: its state is, at every moment, the best fit of a polynomial  */
/* to the whole of the past, and the past can be drawn again from it.                            */

/* Exercise 3.5. HiPPO-LegS (HiPPO, theorem 2; S4, equation 2), for x' = (A x + B u) / t:
   A[i][j] = -sqrt(2i+1) sqrt(2j+1) for i > j, -(i+1) for i = j, 0 for i < j; B[i] = sqrt(2i+1).
   A (n, n), B (n, 1). */
void legs_matrices(double *A, double *B, size_t n)
{
    //> EX 3.5 [2 pts] [15 min] the HiPPO matrix
    //? Fill A row by row; write down A and B for n = 2 first: -1, 0, -sqrt(3), -2 and 1, sqrt(3).
    //? Below the diagonal (i > j): the product of two roots, with a minus. Above it: 0.
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++)
            A[i * n + j] = i > j    ? -sqrt(2.0 * (double)i + 1.0) * sqrt(2.0 * (double)j + 1.0)
                           : i == j ? -((double)i + 1.0)
                                    : 0.0;
        B[i] = sqrt(2.0 * (double)i + 1.0);
    }
    //< EX 3.5
}

/* Reads `signal` (len) sample by sample and keeps n numbers of it: state (n). With s = log t the
   law x' = (A x + B u) / t becomes dx/ds = A x + B u, whose hold is exact: a step from t to t + 1
   is one of length log((t + 1) / t). False if an exponential overflows (it does not for n up to a
   few hundred). */
bool legs_remember(double *state, const double *signal, size_t len, size_t n)
{
    double *A = matrix_new(n, n), *B = NEW(double, n), *next = NEW(double, n);
    double *A_bar = matrix_new(n, n), *B_bar = NEW(double, n);
    legs_matrices(A, B, n);
    memset(state, 0, n * sizeof *state);
    if (len > 0)
        state[0] = signal[0]; /* one sample: a constant */
    bool ok = true;
    Progress progress = progress_start("remembering");
    for (size_t t = 1; ok && t < len; t++) {
        double delta = log1p(1.0 / (double)t);
        ok = discretize_zoh(A_bar, B_bar, A, B, n, 1, delta);
        memset(next, 0, n * sizeof *next);
        add_matrix_times(next, A_bar, state, n, n);
        add_matrix_times(next, B_bar, signal + t, n, 1);
        memcpy(state, next, n * sizeof *state);
        progress_show(&progress, (double)t, (double)len);
    }
    progress_end(&progress);
    free(A);
    free(B);
    free(next);
    free(A_bar);
    free(B_bar);
    return ok;
}

/* Draws the past again: out (len) at the middles of the samples, from state (n):
   u(s) = sum_i state[i] sqrt(2i+1) P_i(2 s / t - 1). */
void legs_recall(double *out, const double *state, size_t len, size_t n)
{
    double *value = NEW(double, n);
    for (size_t k = 0; k < len; k++) {
        legendre(value, 2.0 * ((double)k + 0.5) / (double)len - 1.0, n);
        out[k] = 0.0;
        for (size_t i = 0; i < n; i++)
            out[k] += state[i] * sqrt(2.0 * (double)i + 1.0) * value[i];
    }
    free(value);
}

/* ================================== S4D: diagonal systems ================================= */
/* Chapter 2 found coordinates in which nothing mixes. S4D starts there: a list of complex rates, */
/* and Mamba keeps the real ones. */

/* S4D-Lin: a_n = -1/2 + i pi n, as for a bank of damped swings (S4D, section 4.2). */
Complex s4d_lin(size_t n)
{
    Complex a = {-0.5, PI * (double)n};
    return a;
}

/* S4D-Real: a_n = -(n + 1), plain forgetting; Mamba's A starts so (S4D, 4.2; Mamba, 3.6). */
Complex s4d_real(size_t n)
{
    Complex a = {-((double)n + 1.0), 0.0};
    return a;
}

static Complex complex_divide(Complex a, Complex b)
{
    double size = b.re * b.re + b.im * b.im;
    Complex quotient = {(a.re * b.re + a.im * b.im) / size, (a.im * b.re - a.re * b.im) / size};
    return quotient;
}

/* One complex state, x' = a x + u, by the hold or the bilinear rule; by Mamba's and Euler's too. */
void s4d_step(Complex *a_bar, Complex *b_bar, Complex a, double delta, Rule rule)
{
    Complex z = {a.re * delta, a.im * delta}, step = {delta, 0.0};
    Complex top = {1.0 + 0.5 * z.re, 0.5 * z.im}, below = {1.0 - 0.5 * z.re, -0.5 * z.im};
    if (rule == RULE_BILINEAR) {
        *a_bar = complex_divide(top, below);
        *b_bar = complex_divide(step, below);
        return;
    }
    double half = sin(0.5 * z.im); /* exp(z) - 1 without cancelling: cos y - 1 = -2 sin(y/2)^2 */
    Complex grown = {expm1(z.re) * cos(z.im) - 2.0 * half * half, exp(z.re) * sin(z.im)};
    a_bar->re = rule == RULE_EULER ? 1.0 + z.re : 1.0 + grown.re;
    a_bar->im = rule == RULE_EULER ? z.im : grown.im;
    *b_bar = rule != RULE_ZOH || (z.re == 0.0 && z.im == 0.0) ? step : complex_divide(grown, a);
}

/* Exercise 3.6. The kernel of n diagonal states with B = 1, as a sum over a Vandermonde matrix
   (S4D, section 3.1): K[k] = scale Re sum_n c_n b_bar_n a_bar_n^k, K (len), a and c (n). scale is
   2 if each state stands for itself and its conjugate, else 1. */
void s4d_kernel(double *K, const Complex *a, const Complex *c, size_t n, double delta, Rule rule,
                double scale, size_t len)
{
    memset(K, 0, len * sizeof *K);
    for (size_t i = 0; i < n; i++) {
        Complex a_bar, b_bar;
        s4d_step(&a_bar, &b_bar, a[i], delta, rule);
        Complex walk = complex_multiply(c[i], b_bar);
        //> EX 3.6 [2 pts] [15 min] a kernel without a matrix
        //? What does this state add to K[0], K[1], K[2]? Each is the one before times what?
        //? `walk` starts as c b_bar. Add scale * walk.re to K[k], then complex_multiply by a_bar.
        for (size_t k = 0; k < len; k++) {
            K[k] += scale * walk.re;
            walk = complex_multiply(walk, a_bar);
        }
        //< EX 3.6
    }
}

/* ================================== What the program prints =============================== */

/* x' = a x + u as a system. */
static Ssm scalar_system(double a)
{
    Ssm system = ssm_new(1, 1, 1);
    system.A[0] = a;
    system.B[0] = system.C[0] = 1.0;
    return system;
}

/* A mass on a spring with friction, as in data/spring.ssm. */
static Ssm spring_system(void)
{
    Ssm system = ssm_new(2, 1, 1);
    system.A[1] = 1.0;
    system.A[2] = -1.0;
    system.A[3] = -0.2;
    system.B[1] = 1.0;
    system.C[0] = 1.0;
    return system;
}

/* Discretizes a system of the demos, of which it is known that it works. */
static Ssm step_system(const Ssm *system, double delta, Rule rule)
{
    Ssm out = {0, 0, 0, NULL, NULL, NULL, NULL, NULL};
    Error error;
    bool ok = discretize(&out, system, delta, rule, &error);
    assert(ok);
    (void)ok;
    return out;
}

/* One row of the forecast from (0.5, 0.5) at time t, by the generator. */
static void forecast_at(double pi[2], const double *Q, double t)
{
    double P_t[4];
    const double start[2] = {0.5, 0.5};
    chain_at_time(P_t, Q, 2, t);
    vector_times_matrix(pi, start, P_t, 2, 2);
}

/* ---- the demos: one idea of the lesson each ---------------------------------------------- */

static bool demo_hours(const Look *look, const char *svg, Error *error)
{
    enum { HOURS = 97 };
    static const double times[] = {1.0 / 24, 0.25, 0.5, 1, 1.5, 2, 10};
    Chain chain = chain_weather();
    double Q[4], P_t[4], half[4], pi[2], twice[4], sunny[HOURS], rainy[HOURS], day[HOURS];
    bool ok = chain_generator(Q, &chain, error);
    chain_free(&chain);
    if (!ok)
        return false;
    puts("The weather at any hour: P = exp(Q)\n");
    print_matrix("Q", Q, 2, 2);
    puts("\n  days after       sunny     rainy   (from sunny 0.5, rainy 0.5)");
    for (size_t k = 0; k < sizeof times / sizeof *times; k++) {
        forecast_at(pi, Q, times[k]);
        printf("  %10.4f  %10.4f%10.4f\n", times[k], pi[0], pi[1]);
    }
    chain_at_time(P_t, Q, 2, 1.0);
    chain_at_time(half, Q, 2, 0.5);
    matrix_multiply(twice, half, half, 2, 2, 2);
    puts("\nHalf a day:");
    print_matrix("P", half, 2, 2);
    printf("Two halves make the day of chapter 1 to 1e-12: %s.\n",
           max_difference(P_t, twice, 4) <= 1e-12 ? "yes" : "no");
    for (size_t h = 0; h < HOURS; h++) {
        day[h] = (double)h / 24.0;
        forecast_at(pi, Q, day[h]);
        sunny[h] = pi[0];
        rainy[h] = pi[1];
    }
    double days[5] = {0, 1, 2, 3, 4}, at_noon[5];
    for (size_t k = 0; k < 5; k++)
        at_noon[k] = sunny[24 * k];
    Chart chart =
        chart_new("The forecast hour by hour, and the days of chapter 1 on it", "day", "chance");
    chart_add(&chart, "sunny", MARK_LINE, day, sunny, HOURS);
    chart_add(&chart, "rainy", MARK_LINE, day, rainy, HOURS);
    chart_add(&chart, "sunny, chapter 1", MARK_POINTS, days, at_noon, 5);
    return show_chart(&chart, look, svg, error);
}

static bool demo_rules(const Look *look, const char *svg, Error *error)
{
    static const double deltas[] = {0.01, 0.1, 0.5, 1, 2, 3};
    enum { POINTS = 81 };
    double z[POINTS], series[N_RULE][POINTS];
    Ssm system = scalar_system(-1.0);
    puts("Four rules for x' = -x + u\n");
    puts("   delta |   A_bar: zoh  bilinear     euler |   B_bar: zoh  bilinear   euler, mamba");
    for (size_t k = 0; k < sizeof deltas / sizeof *deltas; k++) {
        Ssm step[N_RULE];
        for (int rule = 0; rule < N_RULE; rule++)
            step[rule] = step_system(&system, deltas[k], (Rule)rule);
        printf("  %6.2f |%13.5f%10.5f%10.5f |%13.5f%10.5f%15.5f\n", deltas[k], step[0].A[0],
               step[1].A[0], tidy(step[2].A[0], 1e-5), step[0].B[0], step[1].B[0], step[3].B[0]);
        for (int rule = 0; rule < N_RULE; rule++)
            ssm_free(&step[rule]);
    }
    puts("Mamba's rule has the A_bar of the hold and the B_bar of Euler.");
    for (size_t k = 0; k < POINTS; k++) {
        z[k] = 0.05 * (double)k + 1e-9;
        for (int rule = 0; rule < 3; rule++) {
            Ssm step = step_system(&system, z[k], (Rule)rule);
            series[rule][k] = step.A[0];
            ssm_free(&step);
        }
    }
    Chart chart =
        chart_new("What is left of the state after a step: A_bar for x' = -x", "delta", "A_bar");
    chart_add(&chart, "zoh and mamba: exp(-delta)", MARK_LINE, z, series[RULE_ZOH], POINTS);
    chart_add(&chart, "bilinear", MARK_LINE, z, series[RULE_BILINEAR], POINTS);
    chart_add(&chart, "euler: below -1 it explodes", MARK_LINE, z, series[RULE_EULER], POINTS);
    ssm_free(&system);
    return show_chart(&chart, look, svg, error);
}

/* The largest error at t = 1, 2 ... 10 of the spring under a force held for a whole time unit, with
   steps of 1 / per_unit. */
static double rule_error(Rule rule, size_t per_unit)
{
    enum { UNITS = 10 };
    static const double force[UNITS] = {1, -0.5, 0.8, 0, 0, 1, 1, -1, 0.3, 0.6};
    Ssm system = spring_system(), exact = step_system(&system, 1.0, RULE_ZOH);
    Ssm step = step_system(&system, 1.0 / (double)per_unit, rule);
    double x[2] = {0, 0}, next[2], want[2] = {0, 0}, worst = 0.0;
    for (size_t t = 0; t < UNITS; t++) {
        ssm_step(next, want, &force[t], &exact);
        memcpy(want, next, sizeof want);
        for (size_t k = 0; k < per_unit; k++) {
            ssm_step(next, x, &force[t], &step);
            memcpy(x, next, sizeof x);
        }
        worst = fmax(worst, max_difference(x, want, 2));
    }
    ssm_free(&system);
    ssm_free(&exact);
    ssm_free(&step);
    return worst;
}

static bool demo_error(const Look *look, const char *svg, Error *error)
{
    enum { SIZES = 9 };
    double delta[SIZES], errors[N_RULE][SIZES];
    puts("How wrong each rule is: a spring under a force held for a whole unit of time\n");
    puts("      delta          zoh     bilinear        euler        mamba");
    for (size_t k = 0; k < SIZES; k++) {
        size_t per_unit = (size_t)4 << k;
        delta[k] = 1.0 / (double)per_unit;
        printf("  1 / %-5zu", per_unit);
        for (int rule = 0; rule < N_RULE; rule++) {
            errors[rule][k] = rule_error((Rule)rule, per_unit);
            if (errors[rule][k] < 1e-11)
                printf("   below 1e-11");
            else
                printf("%13.2e", errors[rule][k]);
        }
        putchar('\n');
    }
    fputs("order:   ", stdout);
    for (int rule = 0; rule < N_RULE; rule++) {
        double slope = log2(errors[rule][SIZES - 2] / errors[rule][SIZES - 1]);
        if (rule == RULE_ZOH)
            printf("%14s", "exact");
        else
            printf("%13.2f", slope);
    }
    puts("\nHalving the step halves the error of Euler's and Mamba's rule, and quarters the "
         "bilinear one.");
    Chart chart = chart_new("The error of a step rule against the step", "delta", "largest error");
    chart.log_x = chart.log_y = true;
    chart_add(&chart, "euler", MARK_LINE, delta, errors[RULE_EULER], SIZES);
    chart_add(&chart, "mamba", MARK_LINE, delta, errors[RULE_MAMBA], SIZES);
    chart_add(&chart, "bilinear", MARK_LINE, delta, errors[RULE_BILINEAR], SIZES);
    return show_chart(&chart, look, svg, error);
}

static bool demo_stability(const Look *look, const char *svg, Error *error)
{
    enum { STEPS = 12 };
    static const double deltas[] = {0.5, 1.5, 2.0, 2.1};
    static const char *const names[] = {"0.5", "1.5", "2.0", "2.1"};
    double x[4][STEPS + 1], step[STEPS + 1];
    Ssm system = scalar_system(-1.0);
    puts("Euler's rule for x' = -x, which only ever fades, from x = 1\n");
    puts("   delta   1 - delta   after 4 steps   after 12   the hold after 12");
    count_up(step, STEPS + 1);
    Chart chart = chart_new("Euler's rule for x' = -x", "step", "x");
    for (size_t k = 0; k < 4; k++) {
        Ssm euler = step_system(&system, deltas[k], RULE_EULER);
        x[k][0] = 1.0;
        for (size_t t = 0; t < STEPS; t++)
            x[k][t + 1] = euler.A[0] * x[k][t];
        printf("  %6.2f%12.2f%16.4f%11.4f%20.2e\n", deltas[k], euler.A[0], x[k][4], x[k][STEPS],
               exp(-deltas[k] * STEPS));
        chart_add(&chart, names[k], MARK_LINE, step, x[k], STEPS + 1);
        ssm_free(&euler);
    }
    puts("Beyond delta |lambda| = 2 a fading state explodes. The hold and Mamba's rule cannot do "
         "that: exp(a "
         "delta) < 1.");
    ssm_free(&system);
    return show_chart(&chart, look, svg, error);
}

/* The largest |eigenvalue| of the spring's step. */
static double spring_radius(double delta, Rule rule)
{
    Ssm system = spring_system(), step = step_system(&system, delta, rule);
    double radius = matrix_spectral_radius(step.A, 2);
    ssm_free(&system);
    ssm_free(&step);
    return radius;
}

/* Where in the plane of z = delta lambda each rule fades: Euler inside the circle |1 + z| = 1, the
   others everywhere left of the vertical axis. The spring's z wanders out of the circle. */
static bool demo_region(const Look *look, const char *svg, Error *error)
{
    enum { POINTS = 121, STEPS = 8 };
    double re[POINTS], im[POINTS], zero[2] = {0, 0}, height[2] = {-1.2, 1.2}, spring_re[STEPS],
                                   spring_im[STEPS];
    puts("Where a rule keeps what fades fading: the spring, lambda = -0.1 +- 0.995 i\n");
    puts("   delta   largest |eigenvalue|: zoh    bilinear       euler");
    for (size_t k = 0; k < STEPS; k++) {
        double delta = 0.1 + 0.15 * (double)k;
        spring_re[k] = -0.1 * delta;
        spring_im[k] = sqrt(0.99) * delta;
        if (k < 4)
            printf("  %6.2f%28.4f%12.4f%12.4f\n", delta, spring_radius(delta, RULE_ZOH),
                   spring_radius(delta, RULE_BILINEAR), spring_radius(delta, RULE_EULER));
    }
    puts("Euler's rule needs |1 + delta lambda| < 1, here a step below 0.2; the others fade at any "
         "step.");
    for (size_t k = 0; k < POINTS; k++) {
        re[k] = -1.0 + cos(2.0 * PI * (double)k / (POINTS - 1));
        im[k] = sin(2.0 * PI * (double)k / (POINTS - 1));
    }
    Chart chart = chart_new("Regions of stability in the plane of delta lambda", "real part",
                            "imaginary part");
    chart_add(&chart, "Euler: inside", MARK_LINE, re, im, POINTS);
    chart_add(&chart, "the other rules: left of this", MARK_LINE, zero, height, 2);
    chart_add(&chart, "the spring", MARK_POINTS, spring_re, spring_im, STEPS);
    return show_chart(&chart, look, svg, error);
}

/* The same spring at step delta and at delta / 2 with every sample twice. */
static bool demo_resolution(const Look *look, const char *svg, Error *error)
{
    enum { LEN = 24 };
    double coarse[LEN], fine[2 * LEN], twice[2 * LEN], common[LEN], time[2 * LEN], same[LEN],
        wrong[LEN];
    Ssm system = spring_system();
    Ssm whole = step_system(&system, 0.5, RULE_ZOH), half = step_system(&system, 0.25, RULE_ZOH);
    Signal u = input_of("noise", LEN, 4);
    for (size_t t = 0; t < 2 * LEN; t++) {
        twice[t] = u.value[t / 2];
        time[t] = 0.25 * (double)(t + 1);
    }
    run_from_start(coarse, u.value, &whole, LEN, READ_AFTER);
    run_from_start(fine, twice, &half, 2 * LEN, READ_AFTER);
    run_from_start(wrong, u.value, &half, LEN, READ_AFTER);
    for (size_t t = 0; t < LEN; t++) {
        common[t] = fine[2 * t + 1];
        same[t] = 0.5 * (double)(t + 1);
    }
    puts("Delta is a resolution: a spring pushed at random, sampled twice as finely with half the "
         "step\n");
    puts("      time   delta = 0.5   delta = 0.25, every sample twice   delta = 0.25, samples as "
         "they are");
    for (size_t t = 0; t < 6; t++)
        printf("  %8.2f%14.6f%35.6f%35.6f\n", same[t], coarse[t], common[t], wrong[t]);
    printf(
        "The first two agree to 1e-12: %s. The third has half of the time pass at each sample.\n",
        max_difference(coarse, common, LEN) <= 1e-12 ? "yes" : "no");
    Chart chart = chart_new("One spring at two resolutions", "time", "place");
    chart_add(&chart, "delta = 0.25", MARK_LINE, time, fine, 2 * LEN);
    chart_add(&chart, "delta = 0.5", MARK_POINTS, same, coarse, LEN);
    bool ok = show_chart(&chart, look, svg, error);
    ssm_free(&system);
    ssm_free(&whole);
    ssm_free(&half);
    signal_free(&u);
    return ok;
}

/* How long each of the 16 states of S4D-Real remembers: 1 / ((n + 1) delta) steps. */
static bool demo_memories(const Look *look, const char *svg, Error *error)
{
    enum { STATES = 16 };
    static const double deltas[] = {0.1, 0.01, 0.001};
    double number[STATES], steps[3][STATES];
    puts("S4D-Real, a_n = -(n + 1): where Mamba's A starts. How many steps until a state has faded "
         "to 1/e\n");
    puts("    n      a_n   delta = 0.1   delta = 0.01   delta = 0.001");
    for (size_t k = 0; k < STATES; k++) {
        double a = s4d_real(k).re;
        number[k] = (double)k;
        for (size_t d = 0; d < 3; d++)
            steps[d][k] = 1.0 / (-a * deltas[d]);
        if (k < 3 || k == 7 || k == 15)
            printf("  %3zu%9.0f%14.2f%15.1f%16.1f\n", k, a, steps[0][k], steps[1][k], steps[2][k]);
    }
    puts("A small delta makes every state slow: it sees more of the past and less of the present.");
    Chart chart = chart_new("Memory lengths of Mamba's states at the start", "n",
                            "steps, 1 / ((n + 1) delta)");
    chart.log_y = true;
    chart_add(&chart, "delta = 0.001", MARK_POINTS, number, steps[2], STATES);
    chart_add(&chart, "delta = 0.01", MARK_POINTS, number, steps[1], STATES);
    chart_add(&chart, "delta = 0.1", MARK_POINTS, number, steps[0], STATES);
    return show_chart(&chart, look, svg, error);
}

/* ---- HiPPO on a signal ------------------------------------------------------------------- */

/* Root mean square of a - b, relative to that of b about its mean. */
static double relative_error(const double *a, const double *b, size_t len)
{
    double mean = 0.0, error = 0.0, size = 0.0;
    for (size_t t = 0; t < len; t++)
        mean += b[t] / (double)len;
    for (size_t t = 0; t < len; t++) {
        error += (a[t] - b[t]) * (a[t] - b[t]);
        size += (b[t] - mean) * (b[t] - mean);
    }
    return size > 0.0 ? sqrt(error / size) : sqrt(error);
}

static bool demo_hippo(const Signal *u, size_t n, const char *name, const Look *look,
                       const char *svg, Error *error)
{
    enum { MOST = 16 };
    double *state = NEW(double, n), *drawn = NEW(double, u->len), kept_numbers[MOST], errors[MOST];
    size_t tried = 0;
    printf("HiPPO-LegS: %s, %zu samples, and what 1 to %zu numbers keep of it\n\n", name, u->len,
           n);
    puts("  numbers kept   relative error");
    bool ok = true;
    for (size_t kept = 1; ok && kept <= n; kept = kept == n ? n + 1 : 2 * kept < n ? 2 * kept : n) {
        ok = legs_remember(state, u->value, u->len, kept) ||
             fail(error, "--hippo %zu: the exponential overflows", kept);
        legs_recall(drawn, state, u->len, kept);
        kept_numbers[tried] = (double)kept;
        errors[tried] = relative_error(drawn, u->value, u->len);
        if (ok)
            printf("  %12zu%17.4f\n", kept, errors[tried]);
        tried++;
    }
    if (ok) {
        char title[80];
        Chart falling =
            chart_new("The error against the numbers kept", "numbers kept", "relative error");
        falling.log_x = true;
        chart_add(&falling, "", MARK_LINE, kept_numbers, errors, tried);
        putchar('\n');
        chart_print(stdout, &falling, look);
        snprintf(title, sizeof title, "The past drawn again from %zu numbers", n);
        Chart chart = chart_new(title, "t", "signal");
        chart_add(&chart, "the signal", MARK_POINTS, u->time, u->value, u->len);
        chart_add(&chart, "drawn again", MARK_LINE, u->time, drawn, u->len);
        ok = show_chart(&chart, look, svg, error);
    }
    free(state);
    free(drawn);
    return ok;
}

/* ---- expm against its definition --------------------------------------------------------- */

static bool demo_expm(void)
{
    enum { SIZES = 7 };
    static const double norms[SIZES] = {0.1, 1, 5, 10, 20, 30, 40};
    double errors[2][SIZES];
    puts(
        "exp(A) for A = c (-1/2 1/2; 1/2 -1/2), by its power series and by scaling and squaring\n");
    puts("         c    relative error: series      expm");
    for (size_t k = 0; k < SIZES; k++) {
        double c = norms[k], A[4] = {-0.5 * c, 0.5 * c, 0.5 * c, -0.5 * c}, E[4];
        double exact = 0.5 * (1.0 + exp(-c)); /* the eigenvalues of A are 0 and -c */
        expm_taylor(E, A, 2);
        errors[0][k] = fabs(E[0] / exact - 1.0);
        expm(E, A, 2);
        errors[1][k] = fabs(E[0] / exact - 1.0);
        printf("  %8.1f%26.1e%10.1e\n", c, errors[0][k], errors[1][k]);
    }
    puts("\n    states    series, us      expm, us    series / expm   (norm of A about 20)");
    for (size_t n = 2; n <= 128; n *= 4) {
        double *A = matrix_new(n, n), *E = matrix_new(n, n), seconds[2];
        Random random = random_from_seed(n);
        for (size_t i = 0; i < n * n; i++)
            A[i] = random_normal(&random) * 25.0 / (double)n;
        for (int way = 0; way < 2; way++) {
            double start = seconds_now();
            size_t calls = 0;
            do {
                if (way == 0)
                    expm_taylor(E, A, n);
                else
                    expm(E, A, n);
                calls++;
            } while (seconds_now() - start < 0.1);
            seconds[way] = (seconds_now() - start) / (double)calls;
        }
        printf("  %8zu%14.1f%14.1f%17.2f\n", n, 1e6 * seconds[0], 1e6 * seconds[1],
               seconds[0] / seconds[1]);
        free(A);
        free(E);
    }
    return true;
}

/* ---- a system of one's own --------------------------------------------------------------- */

static bool run_continuous(const Ssm *system, const char *name, double delta, Rule rule,
                           const char *input, size_t len, uint64_t seed, const Look *look,
                           const char *svg, Error *error)
{
    Ssm step;
    Signal u = {0, 0, NULL, NULL};
    if (!discretize(&step, system, delta, rule, error))
        return false;
    printf("The system of %s in continuous time\n\n", name);
    print_system(system);
    printf("\nand a step of %g by the rule %s\n", delta, rule_name(rule));
    print_matrix("A", step.A, step.d_state, step.d_state);
    print_matrix("B", step.B, step.d_state, step.d_in);
    print_stability(&step);
    bool ok = signal_built_in(&u, input, len, system->d_in, seed) ||
              signal_read(&u, input, system->d_in, error);
    if (ok) {
        double *y = matrix_new(u.len, step.d_out);
        for (size_t t = 0; t < u.len; t++)
            u.time[t] = delta * (double)(t + 1);
        putchar('\n');
        ok = compute(y, &u, &step, MODE_RECURRENT, READ_AFTER, error);
        if (ok) {
            print_samples(&u, y, step.d_out);
            ok = chart_outputs(&u, y, &step, input, look, svg, error);
        }
        free(y);
        signal_free(&u);
    }
    ssm_free(&step);
    return ok;
}

/* The generator of a chain, and its forecasts from an even start. */
static bool run_generator(const char *path, Error *error)
{
    static const double times[] = {1.0 / 24, 0.25, 0.5, 1, 2, 7};
    Chain chain;
    if (!chain_read(&chain, path, error))
        return false;
    size_t n = chain.n_state;
    double *Q = matrix_new(n, n), *P_t = matrix_new(n, n), *pi = NEW(double, 2 * n);
    bool ok = chain_generator(Q, &chain, error);
    if (ok) {
        printf("The generator of %s (rates, a day)\n\n", path);
        print_matrix("Q", Q, n, n);
        puts("");
        print_names("  days after ", chain.name, n);
        for (size_t i = 0; i < n; i++)
            pi[i] = 1.0 / (double)n;
        for (size_t k = 0; ok && k < sizeof times / sizeof *times; k++) {
            ok = chain_at_time(P_t, Q, n, times[k]) || fail(error, "exp(Q t) overflows");
            vector_times_matrix(pi + n, pi, P_t, n, n);
            printf("  %10.4f ", times[k]);
            print_chances(pi + n, n);
            puts("");
        }
    }
    free(Q);
    free(P_t);
    free(pi);
    chain_free(&chain);
    return ok;
}

/* ================================== Options and main ====================================== */

typedef struct {
    const char *system, *generator, *input, *signal, *svg, *demo;
    double step;
    uint64_t length, seed, hippo;
    Rule rule;
    bool ascii, bench;
} StepOptions;

static void step_usage(FILE *out)
{
    fputs("usage: ch03_discretize [--demo hours|rules|error|stability|region|resolution|memories | "
          "--bench]\n"
          "       ch03_discretize --system FILE [--rule zoh|bilinear|euler|mamba] [--step DELTA]\n"
          "                       [--input FILE|impulse|step|sine|noise|none] [--length N] [--seed "
          "S]\n"
          "       ch03_discretize --generator FILE\n"
          "       ch03_discretize --hippo N [--signal FILE] [--length N]\n"
          "       each with [--svg FILE] [--ascii] [--help]\n",
          out);
}

static void step_help(void)
{
    step_usage(stdout);
    fputs("\nFrom continuous time to steps (chapter 3). Without options: the lesson's demos in "
          "order.\n\n"
          "  --demo NAME       one of them; with --svg its chart\n"
          "  --bench           the matrix exponential against its power series\n"
          "  --system FILE     a system in continuous time, x' = A x + B u, in the form of chapter "
          "2\n"
          "  --rule RULE       how to make a step of it (default zoh)\n"
          "  --step DELTA      its length (default 0.1)\n"
          "  --input WHAT      a CSV file, a line a sample, or a built-in input (default step)\n"
          "  --length N        samples of a built-in input (default 100), or the first N of a "
          "signal\n"
          "  --seed S          seed of the noise (default 1)\n"
          "  --generator FILE  the generator of a chain, and forecasts for parts of a day\n"
          "  --hippo N         keep N numbers, 1 to 128, of a signal's past and draw it again\n"
          "  --signal FILE     the signal: CSV, a line a sample (default: a built-in one)\n"
          "  --svg FILE        write the chart as SVG\n"
          "  --ascii           draw charts without Unicode\n",
          stdout);
}

static bool rule_parse(Rule *rule, const char *text, Error *error)
{
    for (int k = 0; k < N_RULE; k++)
        if (strcmp(text, rule_name((Rule)k)) == 0) {
            *rule = (Rule)k;
            return true;
        }
    return fail(error, "--rule: '%.40s' is none of zoh, bilinear, euler, mamba", text);
}

static bool step_parse(double *step, const char *text, Error *error)
{
    Error why;
    double value;
    if (!number_parse(&value, text, &why))
        return fail(error, "--step: %s", why.text);
    if (!(value > 0.0))
        return fail(error, "--step: %g is not a time above 0", value);
    *step = value;
    return true;
}

/* What excludes what. */
static bool step_options_fit(const StepOptions *options, Error *error)
{
    int ways = !!options->system + !!options->generator + !!options->demo + (options->hippo > 0) +
               options->bench;
    if (ways > 1)
        return fail(error, "--system, --generator, --hippo, --demo and --bench exclude each other");
    if (options->signal && !options->hippo)
        return fail(error, "--signal needs --hippo");
    if (options->input && !options->system)
        return fail(error, "--input needs --system");
    if (options->svg && !(options->system || options->demo || options->hippo))
        return fail(error, "--svg needs --system, --hippo or --demo");
    return true;
}

/* Fills `options`; false with an error, or with an empty one if getopt has said what is wrong. */
static bool step_options_parse(StepOptions *options, int argc, char **argv, Error *error)
{
    static const struct option known[] = {
        {"system", 1, NULL, 's'}, {"rule", 1, NULL, 'u'},   {"step", 1, NULL, 't'},
        {"input", 1, NULL, 'i'},  {"length", 1, NULL, 'l'}, {"seed", 1, NULL, 'r'},
        {"hippo", 1, NULL, 'n'},  {"signal", 1, NULL, 'g'}, {"generator", 1, NULL, 'q'},
        {"svg", 1, NULL, 'v'},    {"demo", 1, NULL, 'd'},   {"bench", 0, NULL, 'b'},
        {"ascii", 0, NULL, 'a'},  {"help", 0, NULL, 'h'},   {NULL, 0, NULL, 0}};
    memset(options, 0, sizeof *options);
    options->step = 0.1;
    options->seed = 1;
    error->text[0] = '\0';
    bool ok = true;
    for (int code; ok && (code = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (code) {
        case 's': options->system = optarg; break;
        case 'i': options->input = optarg; break;
        case 'g': options->signal = optarg; break;
        case 'q': options->generator = optarg; break;
        case 'v': options->svg = optarg; break;
        case 'd': options->demo = optarg; break;
        case 'b': options->bench = true; break;
        case 'a': options->ascii = true; break;
        case 'u': ok = rule_parse(&options->rule, optarg, error); break;
        case 't': ok = step_parse(&options->step, optarg, error); break;
        case 'l': ok = option_integer(&options->length, "length", optarg, 1, 1000000, error); break;
        case 'n': ok = option_integer(&options->hippo, "hippo", optarg, 1, 128, error); break;
        case 'r': ok = option_integer(&options->seed, "seed", optarg, 0, UINT64_MAX, error); break;
        case 'h': step_help(); exit(0);
        default: return false;
        }
    }
    if (ok && optind < argc)
        return fail(error, "'%.40s' is not an option", argv[optind]);
    return ok && step_options_fit(options, error);
}

static bool step_demos(const StepOptions *options, const Look *look, Error *error)
{
    static const char *const names[] = {"hours",  "rules",      "error",   "stability",
                                        "region", "resolution", "memories"};
    bool (*const demos[])(const Look *, const char *,
                          Error *) = {demo_hours,  demo_rules,      demo_error,   demo_stability,
                                      demo_region, demo_resolution, demo_memories};
    bool ok = true, found = false;
    for (size_t k = 0; ok && k < sizeof names / sizeof *names; k++) {
        if (options->demo && strcmp(options->demo, names[k]) != 0)
            continue;
        if (found)
            puts("\n");
        found = true;
        ok = demos[k](look, options->svg, error);
    }
    return found ? ok
                 : fail(error,
                        "--demo: '%.40s' is none of hours, rules, error, stability, resolution, "
                        "memories",
                        options->demo);
}

/* Two waves and a slow rise: what --hippo draws if no signal is given. */
static Signal hippo_signal(size_t len)
{
    Signal u = signal_new(len, 1);
    for (size_t t = 0; t < len; t++) {
        double part = (double)t / (double)len;
        u.value[t] = sin(2.0 * PI * 3.0 * part) + 0.5 * sin(2.0 * PI * 7.0 * part + 1.0) + part;
    }
    return u;
}

static bool run_hippo(const StepOptions *options, const Look *look, Error *error)
{
    Signal u = {0, 0, NULL, NULL};
    size_t len = options->length ? options->length : 200;
    if (!options->signal)
        u = hippo_signal(len);
    else if (!signal_read(&u, options->signal, 1, error))
        return false;
    if (options->length && options->length < u.len)
        u.len = options->length;
    bool ok = demo_hippo(&u, options->hippo,
                         options->signal ? options->signal : "two waves and a slow rise", look,
                         options->svg, error);
    signal_free(&u);
    return ok;
}

static bool run_step_system(const StepOptions *options, const Look *look, Error *error)
{
    Ssm system;
    double *T;
    if (!ssm_read(&system, &T, options->system, error))
        return false;
    bool ok = run_continuous(&system, options->system, options->step, options->rule,
                             options->input ? options->input : "step",
                             options->length ? options->length : 100, options->seed, look,
                             options->svg, error);
    free(T);
    ssm_free(&system);
    return ok;
}

int discretize_main(int argc, char **argv)
{
    StepOptions options;
    Error error;
    if (!step_options_parse(&options, argc, argv, &error)) {
        if (error.text[0])
            fprintf(stderr, "error: %s\n", error.text);
        step_usage(stderr);
        return 2;
    }
    Look look = look_at_terminal(options.ascii);
    bool ok = options.system      ? run_step_system(&options, &look, &error)
              : options.generator ? run_generator(options.generator, &error)
              : options.hippo     ? run_hippo(&options, &look, &error)
              : options.bench     ? demo_expm()
                                  : step_demos(&options, &look, &error);
    fflush(stdout); /* what was said before the error comes before it */
    if (!ok)
        fprintf(stderr, "error: %s\n", error.text);
    return ok ? 0 : 1;
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return discretize_main(argc, argv);
}
#endif

#endif /* CH03_DISCRETIZE */
