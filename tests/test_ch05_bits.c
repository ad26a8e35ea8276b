/* Training gives the same bits whatever the width of the vectors and the number of threads. What is
   compared are whole programs, one for each width: tests/bits.sh builds and trains them. */

#include "../ch04_selective/vectors.h"
#include "check.h"

static void training_gives_the_same_bits_for_every_width_of_vectors(void **state)
{
    (void)state;
    char line[1024];
    int same = 0;
    FILE *out = popen("sh tests/bits.sh 2>&1", "r");
    assert_non_null(out);
    while (fgets(line, sizeof line, out)) {
        print_message("%s", line);
        sscanf(line, "widths of the same bits: %d", &same);
    }
    assert_int_equal(pclose(out), 0);
#ifdef LANES_FUSED /* this very processor has such vectors, so something was compared */
    assert_true(same > 0);
#endif
}

/* The numbers 0, 1, 2 ... with signs that take turns: halves added to halves, and nothing else. */
static void sixteen_sums_are_added_in_halves(void **state)
{
    (void)state;
    float number[SIXTEEN], half[SIXTEEN];
    Sixteen v;
    for (size_t i = 0; i < SIXTEEN; i++)
        half[i] = number[i] = (i % 3 ? 1.0f : -1.0f) / (float)(3 * i + 1);
    for (size_t j = 0; j < SIXTEEN_PARTS; j++)
        v.part[j] = lanes_load(number + j * LANES);
    for (size_t count = SIXTEEN / 2; count > 0; count /= 2)
        for (size_t i = 0; i < count; i++)
            half[i] += half[i + count];
    assert_true(sixteen_sum(v) == half[0]);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(sixteen_sums_are_added_in_halves),
        cmocka_unit_test(training_gives_the_same_bits_for_every_width_of_vectors),
    };
    return cmocka_run_group_tests_name("the same bits on every machine", tests, NULL, NULL);
}
