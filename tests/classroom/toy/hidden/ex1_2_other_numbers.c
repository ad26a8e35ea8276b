/* A probe: it prints numbers and judges nothing. tolerance 1e-12 */
#include "../ch01_toy/toy.c"

int main(void)
{
    double x[5] = {0.25, -8, 3, 1e6, 7};
    for (size_t n = 1; n <= 5; n++)
        printf("%.17g\n", toy_mean(x, n));
    return 0;
}
