/* For `make mutants`: runs the tests of a test program one by one, the quick ones first, and stops
   at the first that is red, which is all that a mutant has to do. The test program is compiled with
   -D_cmocka_run_group_tests=first_red_run, so that its table of tests arrives here. The environment
   names a file of lines "seconds name":

       FIRST_RED_WRITE=times build/test    runs all, and writes how long each takes
       FIRST_RED=times build/test          runs them in its order, each for five times its seconds
                                           and three more at most

   A test that is not in the file is run last. */

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

enum { TESTS_MOST = 1000 };

/* Of the processor, all threads together. SIGPROF ends who takes longer. */
static void limit_seconds(double seconds)
{
    struct itimerval timer;
    memset(&timer, 0, sizeof timer);
    timer.it_value.tv_sec = (time_t)seconds;
    timer.it_value.tv_usec = (suseconds_t)(1e6 * (seconds - (double)timer.it_value.tv_sec));
    setitimer(ITIMER_PROF, &timer, NULL);
}

static double seconds_of(const char *name, const char *path)
{
    char line[512];
    double seconds = 1e9;
    FILE *in = fopen(path, "r");
    while (in != NULL && fgets(line, sizeof line, in) != NULL) {
        char *end;
        double value = strtod(line, &end);
        line[strcspn(line, "\n")] = '\0';
        if (*end == ' ' && strcmp(end + 1, name) == 0)
            seconds = value;
    }
    if (in != NULL)
        fclose(in);
    return seconds;
}

static int write_times(const char *path, const char *group, const struct CMUnitTest *tests,
                       size_t count, CMFixtureFunction setup, CMFixtureFunction teardown)
{
    int failed = 0;
    FILE *out = fopen(path, "w");
    if (out == NULL) {
        perror(path);
        return 1;
    }
    for (size_t k = 0; k < count; k++) {
        clock_t before = clock();
        failed += _cmocka_run_group_tests(group, tests + k, 1, setup, teardown);
        fprintf(out, "%.4f %s\n", (double)(clock() - before) / CLOCKS_PER_SEC, tests[k].name);
        fflush(out); /* before a test forks */
    }
    return fclose(out) == 0 ? failed : failed + 1;
}

int first_red_run(const char *group, const struct CMUnitTest *tests, size_t count,
                  CMFixtureFunction setup, CMFixtureFunction teardown);

int first_red_run(const char *group, const struct CMUnitTest *tests, size_t count,
                  CMFixtureFunction setup, CMFixtureFunction teardown)
{
    const char *write = getenv("FIRST_RED_WRITE"), *path = getenv("FIRST_RED");
    double seconds[TESTS_MOST];
    if (write != NULL)
        return write_times(write, group, tests, count, setup, teardown);
    if (count > TESTS_MOST || path == NULL)
        return _cmocka_run_group_tests(group, tests, count, setup, teardown);
    for (size_t k = 0; k < count; k++)
        seconds[k] = seconds_of(tests[k].name, path);
    for (size_t n = 0; n < count; n++) {
        size_t next = 0;
        for (size_t k = 1; k < count; k++)
            if (seconds[k] < seconds[next])
                next = k;
        limit_seconds(seconds[next] < 1e9 ? 3.0 + 5.0 * seconds[next] : 60.0);
        seconds[next] = 2e9; /* done */
        if (_cmocka_run_group_tests(group, tests + next, 1, setup, teardown) != 0)
            return 1;
    }
    return 0;
}
