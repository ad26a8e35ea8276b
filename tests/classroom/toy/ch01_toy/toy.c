/* A chapter in small, for tests/test_classroom.c: three exercises to hand out and to grade. */

#ifndef CH01_TOY
#define CH01_TOY

#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Exercise 1.1. The sum of two numbers. */
double toy_sum(double a, double b)
{
    //> EX 1.1 [2 pts] [5 min] a sum
    //? What is 2 and 2?
    //? There is an operator for it.
    return a + b;
    //< EX 1.1
}

/* Exercise 1.2. The mean of x (n), n > 0. */
double toy_mean(const double *x, size_t n)
{
    double sum = 0.0;
    //> EX 1.2 [3 pts] [10 min] a mean
    //? What do all the numbers
    //?   sum to?
    //? A loop over i, and one line.
    //: for (size_t i = 0; i < n; i++)
    //:     sum += 0.0;
    for (size_t at = 0; at < n; at++)
        sum = toy_sum(sum, x[at]);
    //< EX 1.2
    return sum / (double)n;
}

/* Exercise 1.10. The largest of x (n), n > 0. */
double toy_largest(const double *x, size_t n)
{
    double largest = x[0];
    //> EX 1.10 [1 pt] [5 min] the largest
    //? Is there a larger one?
    //? Look at each, and keep it if it is larger.
    for (size_t i = 1; i < n; i++)
        largest = x[i] > largest ? x[i] : largest;
    //< EX 1.10
    return largest;
}

#if __INCLUDE_LEVEL__ == 0
int main(void)
{
    double x[3] = {1, 2, 6};
    printf("sum %g, mean %g, largest %g\n", toy_sum(1, 2), toy_mean(x, 3), toy_largest(x, 3));
    return 0;
}
#endif

#endif
