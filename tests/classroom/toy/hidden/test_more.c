#include "../ch01_toy/toy.c"
#include "check.h"

static void ex1_10_all_below_zero(void **state)
{
    (void)state;
    double x[3] = {-5, -2, -6};
    assert_near(toy_largest(x, 3), -2, 0, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(ex1_10_all_below_zero)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
