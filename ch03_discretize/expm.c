/* The exponential of a matrix, and its inverse, the logarithm.

   HOLDS   expm by scaling and squaring; logm by square roots and Gauss's rule; the Legendre
           polynomials that the rule, and HiPPO's memory, are made of
   FOR     chapter 3: the hold and Mamba's rule need exp(A delta), the generator of a chain log(P)
   SOURCES N. J. Higham, Functions of Matrices (SIAM 2008), chapters 6, 10 and 11
           C. Moler, C. Van Loan, Nineteen dubious ways to compute the exponential of a matrix,
           SIAM Review 45 (2003)
           A. H. Al-Mohy, N. J. Higham, A new scaling and squaring algorithm, SIAM J. Matrix
           Anal. 31 (2009): triangular matrices */

#ifndef CH03_EXPM
#define CH03_EXPM

#include "../ch01_markov/tools.h"

/* ================================== The exponential ======================================= */
/* exp(A) is what A, at work for one unit of time, does to a state. Its power series is right and */
/* useless: for A = -20 the terms reach 43 million and cancel to 2e-9. Halving A until it is      */
/* small, a quotient of two polynomials there, and squaring back is right and useful.             */

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

/* E (n, n) = the [8/8] Pade approximant of exp at A (n, n): N(A) / N(-A) with N(x) = sum_k c_k x^k
   (Moler & Van Loan, method 2). For |A| <= 1 it is exact to 2e-19. False if N(-A) is singular. */
static bool expm_pade(double *E, const double *A, size_t n)
{
    enum { DEGREE = 8 };
    double *below = matrix_new(n, n), *power = matrix_new(n, n), *next = matrix_new(n, n), c = 1.0;
    matrix_identity(E, n);
    matrix_identity(below, n);
    matrix_identity(power, n);
    for (int k = 1; k <= DEGREE; k++) {
        c *= (double)(DEGREE - k + 1) / (double)(k * (2 * DEGREE - k + 1));
        matrix_multiply(next, A, power, n, n, n);
        memcpy(power, next, n * n * sizeof *power);
        add_scaled_row(E, power, c, n * n);
        add_scaled_row(below, power, k % 2 ? -c : c, n * n);
    }
    bool ok = matrix_solve(E, below, n, n);
    free(below);
    free(power);
    free(next);
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
   undefined. Scaling and squaring: exp(A) = exp(A / 2^m)^(2^m), m halvings, an approximant of the
   exponential, m squarings. */
bool expm(double *E, const double *A, size_t n)
{
    int halvings = 0;
    double norm = matrix_norm1(A, n);
    if (!isfinite(norm))
        return false;
    frexp(norm, &halvings); /* norm < 2^halvings */
    halvings = halvings > 0 ? halvings : 0;
    double *small = matrix_new(n, n), *square = matrix_new(n, n);
    for (size_t i = 0; i < n * n; i++)
        small[i] = ldexp(A[i], -halvings);
    bool ok = expm_pade(E, small, n), triangular = is_triangular(A, n);
    for (int halved = halvings; halved > 0; halved--) { /* E is exp(A / 2^halved) */
        if (triangular)
            restore_diagonal(E, A, n, halved);
        matrix_multiply(square, E, E, n, n, n);
        memcpy(E, square, n * n * sizeof *E);
    }
    free(small);
    free(square);
    return ok && isfinite(matrix_max_abs(E, n * n));
}

/* ================================== The logarithm ========================================= */

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
        ok = ok && isfinite(matrix_max_abs(X, n * n));
    }
    matrix_multiply(copy, X, X, n, n, n); /* did it converge, and to a root? */
    add_scaled_row(copy, A, -1.0, n * n);
    ok = ok && matrix_max_abs(copy, n * n) <= 1e-10 * fmax(1.0, matrix_norm1(A, n));
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
    bool ok = isfinite(matrix_max_abs(A, n * n));
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

#endif /* CH03_EXPM */
