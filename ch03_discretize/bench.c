/* The matrix exponential of chapter 3 against its power series.

   HOLDS   the power series, as a warning; how wrong it gets where expm does not, and what both cost
   FOR     the lesson's section on the exponential, and `make bench` */

#ifndef CH03_BENCH
#define CH03_BENCH

#include "discretize.c"

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

static void compare_expm(void)
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
}

static void time_expm(void)
{
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
}

int discretize_bench_main(int argc, char **argv)
{
    const Program program = {
        "ch03_bench", "The matrix exponential of chapter 3 against its power series.", NULL, 0};
    int status;
    if (!program_begin(&status, &program, argc, argv))
        return status;
    compare_expm();
    time_expm();
    return program_end(true, NULL);
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return discretize_bench_main(argc, argv);
}
#endif

#endif /* CH03_BENCH */
