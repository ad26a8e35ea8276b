/* Runs one test of a test program and reports that it came to its end. The test program is compiled
   with -Dmain=test_main -D_cmocka_run_group_tests=one_test_run, so that its table of tests arrives
   here instead of at cmocka. For the grader:

       build/test_ch04_selective ex4_2_steps_are_the_scan_bit_for_bit

   A test has passed when cmocka says so *and* the record is written: the grader's ticket, which
   comes in on descriptor 3, goes out on descriptor 4. An exit in the middle of a test, or a printed
   "PASSED", is no record. */

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { TICKET_IN = 3, TICKET_OUT = 4, TICKET_BYTES = 32, NO_SUCH_TEST = 98 };

int test_main(void);
int one_test_run(const char *group, const struct CMUnitTest *tests, size_t count,
                 CMFixtureFunction setup, CMFixtureFunction teardown);

static const char *wanted;

int one_test_run(const char *group, const struct CMUnitTest *tests, size_t count,
                 CMFixtureFunction setup, CMFixtureFunction teardown)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(tests[i].name, wanted) == 0)
            return _cmocka_run_group_tests(group, tests + i, 1, setup, teardown);
    fprintf(stderr, "there is no test %s in this program\n", wanted);
    return NO_SUCH_TEST;
}

int main(int argc, char **argv)
{
    char ticket[TICKET_BYTES];
    if (argc != 2) {
        fprintf(stderr, "usage: %s TEST\n", argv[0]);
        return 2;
    }
    wanted = argv[1];
    ssize_t got = read(TICKET_IN, ticket, sizeof ticket);
    close(TICKET_IN);
    int failed = test_main();
    fflush(stdout);
    if (failed == 0 && got == sizeof ticket && write(TICKET_OUT, ticket, sizeof ticket) != got)
        return 1;
    return failed == 0 ? 0 : 1;
}
