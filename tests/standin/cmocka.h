/* A stand-in for cmocka, the test library, on a machine that has none and lets nobody install it.

   HOLDS   of cmocka what the course's tests use: its asserts, its tables of tests with fixtures,
           and its lines, by which tests/run_tests.sh and the grader know a test that passed
   FOR     tests/cmocka.sh, which takes it only where cmocka is not to be had, and
           tests/machines.sh, which builds the tests for machines that are not here

   What it does not do: mocks, checks of memory, and crashes: a test that crashes ends its program,
   which the runner reports. All of it stands here, so that no library need be found: where several
   files of a program include it, the linker keeps one copy, which is what "weak" means. */

#ifndef STANDIN_CMOCKA
#define STANDIN_CMOCKA

#include <fnmatch.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __has_attribute
#if __has_attribute(externally_visible) /* gcc's -fwhole-program would keep a copy a file */
#define STANDIN __attribute__((weak, externally_visible))
#endif
#endif
#ifndef STANDIN
#define STANDIN __attribute__((weak))
#endif

typedef void (*CMUnitTestFunction)(void **state);
typedef int (*CMFixtureFunction)(void **state); /* 0, or something is wrong */

struct CMUnitTest {
    const char *name;
    CMUnitTestFunction test_func;
    CMFixtureFunction setup_func, teardown_func;
    void *initial_state; /* what the test gets, unless the group's fixture has made something */
};

/* clang-format off */
#define cmocka_unit_test(f)                            {#f, f, NULL, NULL, NULL}
#define cmocka_unit_test_setup_teardown(f, begin, end) {#f, f, begin, end, NULL}
/* clang-format on */

/* How many of a table's tests failed. */
#define cmocka_run_group_tests(tests, setup, teardown)                                             \
    cmocka_run_group_tests_name(#tests, tests, setup, teardown)
#define cmocka_run_group_tests_name(name, tests, setup, teardown)                                  \
    _cmocka_run_group_tests(name, tests, sizeof(tests) / sizeof *(tests), setup, teardown)
int _cmocka_run_group_tests(const char *group, const struct CMUnitTest *tests, size_t count,
                            CMFixtureFunction setup, CMFixtureFunction teardown);
void cmocka_set_test_filter(const char *pattern); /* as a shell's; NULL: all */

__attribute__((format(printf, 1, 2))) void print_message(const char *format, ...);
__attribute__((format(printf, 1, 2))) void print_error(const char *format, ...);
__attribute__((noreturn)) void _fail(const char *file, int line);
__attribute__((noreturn)) void _skip(const char *file, int line);

void standin_true(int right, const char *text, const char *file, int line);
void standin_equal(uintmax_t a, uintmax_t b, const char *file, int line);
void standin_range(uintmax_t value, uintmax_t least, uintmax_t most, const char *file, int line);
void standin_text(const char *a, const char *b, const char *file, int line);
void standin_memory(const void *a, const void *b, size_t size, int same, const char *file,
                    int line);

#define skip() _skip(__FILE__, __LINE__)
#define fail_msg(...)                                                                              \
    (print_error("ERROR: "), print_error(__VA_ARGS__), print_error("\n"), _fail(__FILE__, __LINE__))
#define STANDIN_HERE                        __FILE__, __LINE__
#define assert_true(c)                      standin_true((c) ? 1 : 0, #c, STANDIN_HERE)
#define assert_false(c)                     standin_true((c) ? 0 : 1, #c, STANDIN_HERE)
#define assert_null(p)                      standin_true((p) == NULL, #p, STANDIN_HERE)
#define assert_non_null(p)                  standin_true((p) != NULL, #p, STANDIN_HERE)
#define assert_int_equal(a, b)                                                                     \
    standin_equal((uintmax_t)(a), (uintmax_t)(b), STANDIN_HERE)
#define assert_ptr_equal(a, b)                                                                     \
    standin_equal((uintptr_t)(a), (uintptr_t)(b), STANDIN_HERE)
#define assert_string_equal(a, b)           standin_text(a, b, STANDIN_HERE)
#define assert_memory_equal(a, b, size)     standin_memory(a, b, size, 1, STANDIN_HERE)
#define assert_memory_not_equal(a, b, size) standin_memory(a, b, size, 0, STANDIN_HERE)
#define assert_in_range(value, least, most)                                                        \
    standin_range((uintmax_t)(value), (uintmax_t)(least), (uintmax_t)(most), STANDIN_HERE)

/* ---- how ---- */

/* What is known while tests run. */
typedef struct {
    jmp_buf *way_out;   /* of the test that runs */
    int said;           /* it has said something of its failure */
    const char *filter; /* NULL: all tests */
} StandinState;
STANDIN StandinState standin_state;

STANDIN void cmocka_set_test_filter(const char *pattern)
{
    standin_state.filter = pattern;
}

STANDIN void print_message(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    fflush(stdout); /* so that it stands before what goes to stderr */
}

STANDIN void print_error(const char *format, ...)
{
    va_list args;
    if (standin_state.way_out != NULL && !standin_state.said)
        fputs("[  ERROR   ] --- ", stderr);
    standin_state.said = 1;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
}

STANDIN void _fail(const char *file, int line)
{
    print_error("[   LINE   ] --- %s:%d: error: Failure!\n", file, line);
    if (standin_state.way_out == NULL)
        abort();
    longjmp(*standin_state.way_out, 1);
}

STANDIN void _skip(const char *file, int line)
{
    if (standin_state.way_out == NULL) {
        fprintf(stderr, "%s:%d: skip() outside of a test\n", file, line);
        abort();
    }
    longjmp(*standin_state.way_out, 2);
}

STANDIN void standin_true(int right, const char *text, const char *file, int line)
{
    if (right)
        return;
    print_error("%s\n", text);
    _fail(file, line);
}

STANDIN void standin_equal(uintmax_t a, uintmax_t b, const char *file, int line)
{
    if (a == b)
        return;
    print_error("%#jx != %#jx\n", a, b);
    _fail(file, line);
}

STANDIN void standin_range(uintmax_t value, uintmax_t least, uintmax_t most, const char *file,
                           int line)
{
    if (value >= least && value <= most)
        return;
    print_error("%ju is not within the range %ju-%ju\n", value, least, most);
    _fail(file, line);
}

STANDIN void standin_text(const char *a, const char *b, const char *file, int line)
{
    if (strcmp(a, b) == 0)
        return;
    print_error("\"%s\" != \"%s\"\n", a, b);
    _fail(file, line);
}

STANDIN void standin_memory(const void *a, const void *b, size_t size, int same, const char *file,
                            int line)
{
    const unsigned char *left = (const unsigned char *)a, *right = (const unsigned char *)b;
    size_t first = 0, differ = 0;
    for (size_t i = size; i-- > 0;)
        if (left[i] != right[i])
            first = i, differ++;
    if ((differ == 0) == (same != 0))
        return;
    if (differ > 0)
        print_error("%zu of %zu bytes differ, the first at offset %zu: 0x%02x 0x%02x\n", differ,
                    size, first, left[first], right[first]);
    else
        print_error("%zu bytes are the same\n", size);
    _fail(file, line);
}

typedef enum { STANDIN_PASSED, STANDIN_FAILED, STANDIN_SKIPPED } StandinEnd;

/* A fixture or a test, whichever is there, to its end. */
static inline StandinEnd standin_run(CMFixtureFunction fixture, CMUnitTestFunction test,
                                     void **state)
{
    jmp_buf here;
    volatile StandinEnd end = STANDIN_PASSED;
    standin_state.way_out = &here;
    standin_state.said = 0;
    switch (setjmp(here)) {
    case 0:
        if (test != NULL)
            test(state);
        else if (fixture != NULL && fixture(state) != 0)
            end = STANDIN_FAILED;
        break;
    case 1: end = STANDIN_FAILED; break;
    default: end = STANDIN_SKIPPED;
    }
    standin_state.way_out = NULL;
    return end;
}

static inline StandinEnd standin_run_test(const struct CMUnitTest *test, void *state)
{
    StandinEnd end = standin_run(test->setup_func, NULL, &state);
    if (end == STANDIN_PASSED)
        end = standin_run(NULL, test->test_func, &state);
    return standin_run(test->teardown_func, NULL, &state) == STANDIN_PASSED ? end : STANDIN_FAILED;
}

static inline void standin_list(const char *word, StandinEnd which, const StandinEnd *end,
                                const struct CMUnitTest *tests, size_t count)
{
    for (size_t k = 0; k < count; k++)
        if (end[k] == which)
            fprintf(stderr, "[  %s ] %s\n", word, tests[k].name);
}

STANDIN int _cmocka_run_group_tests(const char *group, const struct CMUnitTest *tests, size_t count,
                                    CMFixtureFunction setup, CMFixtureFunction teardown)
{
    static const char *const word[] = {"[       OK ] %s\n", "[  FAILED  ] %s\n",
                                       "[  SKIPPED ] %s\n"};
    size_t ran = 0, ends[3] = {0};
    void *state = NULL;
    StandinEnd *end = (StandinEnd *)calloc(count + 1, sizeof *end);
    if (end == NULL || standin_run(setup, NULL, &state) != STANDIN_PASSED) {
        fprintf(stderr, "[  FAILED  ] GROUP SETUP of %s\n", group);
        free(end);
        return 1;
    }
    print_message("[==========] Running %zu test(s).\n", count);
    for (size_t k = 0; k < count; k++) {
        if (standin_state.filter != NULL && fnmatch(standin_state.filter, tests[k].name, 0) != 0)
            continue;
        print_message("[ RUN      ] %s\n", tests[k].name);
        end[k] = standin_run_test(&tests[k], state != NULL ? state : tests[k].initial_state);
        print_message(word[end[k]], tests[k].name);
        ends[end[k]]++;
        ran++;
    }
    print_message("[==========] %zu test(s) run.\n", ran);
    fprintf(stderr, "[  PASSED  ] %zu test(s).\n", ends[STANDIN_PASSED]);
    standin_list("SKIPPED", STANDIN_SKIPPED, end, tests, count);
    standin_list("FAILED ", STANDIN_FAILED, end, tests, count);
    free(end);
    if (standin_run(teardown, NULL, &state) == STANDIN_PASSED)
        return (int)ends[STANDIN_FAILED];
    fprintf(stderr, "[  FAILED  ] GROUP TEARDOWN of %s\n", group);
    return (int)ends[STANDIN_FAILED] + 1;
}

#endif /* STANDIN_CMOCKA */
