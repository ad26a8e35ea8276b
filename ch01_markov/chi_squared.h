/* The chi-squared distribution's tail.

   HOLDS   one function: how likely chance alone makes a statistic so large
   FOR     chapter 1's fit, and its Exercise 1.7 */

#ifndef CH01_CHI_SQUARED
#define CH01_CHI_SQUARED

#include "tools.h"

/* The chance that a chi-squared variable with `freedom` degrees, a whole number above 0, exceeds x:
   erfc(sqrt(x/2)) for one degree, exp(-x/2) for two, and each two more degrees add one term,
   (x/2)^a exp(-x/2) / Gamma(a + 1) (Abramowitz & Stegun 26.4.4, 26.4.5 and 26.4.8). */
double chi_squared_tail(double x, double freedom)
{
    bool odd = fmod(freedom, 2.0) > 0.0;
    double half = 0.5 * x, tail = odd ? erfc(sqrt(half)) : exp(-half);
    if (!(half > 0.0))
        return 1.0;
    for (int n = odd ? 1 : 2; n < freedom; n += 2) {
        double a = 0.5 * n;
        tail += exp(a * log(half) - half - lgamma(a + 1.0));
    }
    return fmin(tail, 1.0);
}

#endif /* CH01_CHI_SQUARED */
