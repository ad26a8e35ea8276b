/* Runs one test of a test program and reports that it came to its end. The test program is
   compiled with -D_cmocka_run_group_tests=one_test_run, so that its table of tests arrives here
   instead of at cmocka. The grader says in the environment which test it wants:

       ONE_TEST=ex4_2_the_lesson_s_two_steps_by_hand build/test_ch04_selective

   A test has passed when cmocka says so *and* the record is written: the grader's ticket, which
   comes in on descriptor 3, goes out on descriptor 4. An exit in the middle of a test, or a
   printed "PASSED", is no record. */

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TICKET_IN = 3, TICKET_OUT = 4, TICKET_BYTES = 32 };

int one_test_run(const char *group, const struct CMUnitTest *tests, size_t count,
                 CMFixtureFunction setup, CMFixtureFunction teardown);

/* Returns how many tests failed, as cmocka does: 0 or 1. */
int one_test_run(const char *group, const struct CMUnitTest *tests, size_t count,
                 CMFixtureFunction setup, CMFixtureFunction teardown)
{
    char ticket[TICKET_BYTES];
    const char *wanted = getenv("ONE_TEST");
    size_t which = 0;
    while (which < count && (wanted == NULL || strcmp(tests[which].name, wanted) != 0))
        which++;
    if (which == count) {
        fprintf(stderr, "there is no test %s in this program\n", wanted ? wanted : "(ONE_TEST)");
        return 1;
    }
    ssize_t got = read(TICKET_IN, ticket, sizeof ticket);
    close(TICKET_IN);
    int failed = _cmocka_run_group_tests(group, tests + which, 1, setup, teardown);
    fflush(stdout);
    if (failed == 0 && got == sizeof ticket && write(TICKET_OUT, ticket, sizeof ticket) != got)
        return 1;
    return failed == 0 ? 0 : 1;
}
