#include "../ch01_toy/toy.c"
#include "check.h"

static void ex1_1_two_and_two(void **state)
{
    (void)state;
    assert_near(toy_sum(2, 2), 4, 0, 0);
}

static void ex1_1_less_than_nothing(void **state)
{
    (void)state;
    assert_near(toy_sum(-3, 1), -2, 0, 0);
}

static void ex1_2_a_mean_by_hand(void **state)
{
    (void)state;
    double x[3] = {1, 2, 6};
    assert_near(toy_mean(x, 3), 3, 0, 0);
}

static void ex1_10_the_last_is_the_largest(void **state)
{
    (void)state;
    double x[3] = {1, 2, 6};
    assert_near(toy_largest(x, 3), 6, 0, 0);
}

static void not_of_an_exercise(void **state)
{
    (void)state;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ex1_1_two_and_two),    cmocka_unit_test(ex1_1_less_than_nothing),
        cmocka_unit_test(ex1_2_a_mean_by_hand), cmocka_unit_test(ex1_10_the_last_is_the_largest),
        cmocka_unit_test(not_of_an_exercise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
