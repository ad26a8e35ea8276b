/* The course is for every machine that has a C compiler and make. What zig's clang finds by
   compiling for machines that are not here (tests/machines.sh) is looked for here by name, so that
   it is found where no zig is; and what stands in for tools that are not everywhere is tried. */

#include "../ch01_markov/tools.h"
#include <glob.h>
#include "check.h"

/* Runs a command from the root of the course; what it says, on stdout and stderr. Its status. */
static int shell(char *text, size_t room, const char *command)
{
    FILE *out = popen(command, "r");
    assert_non_null(out);
    size_t len = fread(text, 1, room - 1, out);
    text[len] = '\0';
    int status = pclose(out);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Fails if a file that matches the pattern has the word, where no letter stands before it. */
static void assert_nowhere(const char *pattern, const char *word)
{
    glob_t found;
    assert_int_equal(glob(pattern, 0, NULL, &found), 0);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        char *text;
        size_t len;
        Error error;
        if (!text_read(&text, &len, found.gl_pathv[i], &error))
            fail_msg("%s", error.text);
        for (char *at = text; (at = strstr(at, word)) != NULL; at++)
            if (at == text || (!isalnum((unsigned char)at[-1]) && at[-1] != '_'))
                fail_msg("%s has '%s', which is not everywhere", found.gl_pathv[i], word);
        free(text);
    }
    globfree(&found);
}

static void nothing_is_called_that_glibc_alone_has(void **state)
{
    static const char *const files[] = {"ch[0-9]*/*.[ch]", "ch[0-9]*/*.cu", "tests/[!t]*.[ch]",
                                        "tests/test_ch*.c", "tests/*/*.[ch]"};
    static const char *const names[] = {"memrchr(",
                                        "execvpe(",
                                        "pipe2(",
                                        "strchrnul(",
                                        "mempcpy(",
                                        "qsort_r(",
                                        "canonicalize_file_name(",
                                        "fallocate(",
                                        "<error.h>",
                                        "<malloc.h>",
                                        "<values.h>",
                                        "fgets_unlocked(",
                                        "strerrordesc_np("};
    (void)state;
    for (size_t f = 0; f < sizeof files / sizeof *files; f++)
        for (size_t n = 0; n < sizeof names / sizeof *names; n++)
            assert_nowhere(files[f], names[n]);
}

/* By the words of GNU's tools that others do not know, as they stand in a script. */
static void no_script_asks_for_gnu_s_own_options(void **state)
{
    static const char *const files[] = {"Makefile", "tests/[!l]*.sh", "tests/*/*.sh",
                                        "tests/*/*.mk"};
    static const char *const words[] = {
        "timeout ", "sed -i ", "readlink -f", "xargs -r",  "-0 -r",     "date +%N",
        "stat -c",  "stat --", "grep -P",     "sort -V",   "head -n -", "cp -a ",
        "cp --",    "ln -sr",  "nproc",       "sed -z",    "find -",    "-printf",
        "tac ",     "shuf ",   "mktemp --",   "realpath ", "seq ",      "wc -L"};
    (void)state;
    for (size_t f = 0; f < sizeof files / sizeof *files; f++)
        for (size_t w = 0; w < sizeof words / sizeof *words; w++)
            assert_nowhere(files[f], words[w]);
}

/* ---- make ---- */

static void make_does_what_it_is_told_of_processors(void **state)
{
    char text[4096];
    (void)state;
    static const char command[] =
        "unset MAKEFLAGS MFLAGS MAKELEVEL JOBS SECOND SANITIZE; make -n %s build/flags 2>&1";
    static const struct {
        const char *option, *jobs;
    } cases[] = {{"-j1", "JOBS=1 "}, {"-j3", "JOBS=3 "}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        char line[256];
        snprintf(line, sizeof line, command, cases[k].option);
        assert_int_equal(shell(text, sizeof text, line), 0);
        assert_contains(text, cases[k].jobs);
        assert_null(
            strstr(text, "--no-print-directory -j")); /* the second make is told by the first */
    }
    long all = sysconf(_SC_NPROCESSORS_ONLN);
    char line[256], wanted[64];
    snprintf(line, sizeof line, command, "");
    assert_int_equal(shell(text, sizeof text, line), 0);
    snprintf(wanted, sizeof wanted, "--no-print-directory -j%ld ", all);
    assert_contains(text, wanted);
}

static void make_has_no_warning_about_its_own_jobs(void **state)
{
    char text[8192];
    (void)state;
    assert_int_equal(shell(text, sizeof text,
                           "unset MFLAGS MAKELEVEL JOBS SECOND; MAKEFLAGS=-j2 make help 2>&1"),
                     0);
    assert_null(strstr(text, "jobserver"));
}

static void make_says_which_setting_is_wrong_before_it_builds(void **state)
{
    static const struct {
        const char *words, *said;
    } cases[] = {{"run CH=9", "error: CH=9: there is no such chapter; there are 01 02 "},
                 {"test GOLDEN=nowhere", "GOLDEN=nowhere: there is no such folder"},
                 {"all CC=nosuch", "CC=nosuch: there is no such compiler"},
                 {"test LEAVE=nix", "LEAVE=nix: there is no such test in tests/"},
                 {"all SANITIZE=yes", "SANITIZE=yes: it is 0 or 1"},
                 {"fuzz SECONDS=x", "SECONDS=x: a whole number is wanted"},
                 {"peers COUNT=1x", "COUNT=1x: a whole number is wanted"},
                 {"mutants SHARE=3", "SHARE=3: a share is written 1/3"}};
    (void)state;
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        char text[4096], line[256];
        snprintf(line, sizeof line, "unset MAKEFLAGS MFLAGS MAKELEVEL; make SECOND=make %s 2>&1",
                 cases[k].words);
        assert_int_equal(shell(text, sizeof text, line), 2);
        assert_contains(text, cases[k].said);
        assert_null(strstr(text, "building"));
    }
}

/* ---- the limit of time that mutants have ---- */

static void a_command_that_never_ends_is_ended(void **state)
{
    char text[256];
    (void)state;
    assert_true(shell(text, sizeof text, "sh tests/limit.sh 1 sleep 60 2>&1") != 0);
    assert_int_equal(shell(text, sizeof text, "sh tests/limit.sh 9 sh -c 'exit 7'"), 7);
}

/* A PATH that has only what is named. */
#define ONLY(tools)                                                                                \
    "d=$(mktemp -d); for t in " tools "; do ln -s \"$(command -v $t)\" $d/; done; PATH=$d; "

static void without_timeout_perl_sets_the_limit(void **state)
{
    char text[256];
    (void)state;
    if (shell(text, sizeof text, "command -v perl") != 0)
        return;
    assert_true(shell(text, sizeof text, ONLY("sh sleep perl") "sh tests/limit.sh 1 sleep 60") !=
                0);
    assert_int_equal(shell(text, sizeof text, ONLY("sh perl") "sh tests/limit.sh 9 sh -c 'exit 7'"),
                     7);
}

static void where_nothing_can_limit_nothing_is_run(void **state)
{
    char text[256];
    (void)state;
    assert_int_equal(shell(text, sizeof text, ONLY("sh") "sh tests/limit.sh 9 echo ran 2>&1"), 125);
    assert_contains(text, "neither timeout nor perl");
    assert_null(strstr(text, "ran"));
}

/* ---- cmocka's stand-in ---- */

/* A test for each assert that holds and one that does not, a skipped one, and fixtures. */
static const char sample[] =
    "#include <stdarg.h>\n#include <stddef.h>\n#include <stdint.h>\n#include <setjmp.h>\n"
    "#include <cmocka.h>\n"
    "static void right(void **s)\n{\n    assert_int_equal(*(int *)*s, 5);\n"
    "    assert_true(1);\n    assert_false(0);\n    assert_null(NULL);\n    assert_non_null(s);\n"
    "    assert_int_equal(-1, -1);\n    assert_ptr_equal(s, s);\n    assert_string_equal(\"a\", "
    "\"a\");\n    assert_memory_equal(\"ab\", \"ac\", 1);\n    assert_memory_not_equal(\"ab\", "
    "\"ac\", 2);\n    assert_in_range(2, 1, 2);\n}\n"
    "#define WRONG(name, what) static void name(void **s) { (void)s; what; }\n"
    "WRONG(t1, assert_true(0))\nWRONG(t2, assert_false(1))\nWRONG(t3, assert_null(s))\n"
    "WRONG(t4, assert_non_null(NULL))\nWRONG(t5, assert_int_equal(1, 2))\n"
    "WRONG(t6, assert_ptr_equal(s, NULL))\nWRONG(t7, assert_string_equal(\"a\", \"b\"))\n"
    "WRONG(t8, assert_memory_equal(\"ab\", \"ac\", 2))\n"
    "WRONG(t9, assert_memory_not_equal(\"ab\", \"ac\", 1))\nWRONG(t10, assert_in_range(3, 1, 2))\n"
    "WRONG(t11, fail_msg(\"no %d\", 7))\nWRONG(t12, skip())\n"
    "static int number;\nstatic int begin(void **s) { number = 5; *s = &number; return 0; }\n"
    "static int end(void **s) { return *(int *)*s == 5 ? 0 : 1; }\n"
    "int main(void)\n{\n    const struct CMUnitTest tests[] = {cmocka_unit_test(right),\n"
    "        cmocka_unit_test(t1), cmocka_unit_test(t2), cmocka_unit_test(t3), "
    "cmocka_unit_test(t4), cmocka_unit_test(t5), cmocka_unit_test(t6), cmocka_unit_test(t7), "
    "cmocka_unit_test(t8), cmocka_unit_test(t9), cmocka_unit_test(t10), cmocka_unit_test(t11), "
    "cmocka_unit_test(t12)};\n"
    "    return cmocka_run_group_tests_name(\"sample\", tests, begin, end);\n}\n";

/* Builds the sample against cmocka or its stand-in, and runs it: the lines that say how a test or
   the whole ended, and the exit status. */
static void sample_run(char *text, size_t room, const char *flags)
{
    char command[1024];
    snprintf(command, sizeof command,
             "d=$(mktemp -d) && printf '%%s' \"$SAMPLE\" > $d/s.c && %s -Wno-all $d/s.c -o $d/s %s "
             "2>&1 && { $d/s > $d/said 2>&1; echo status $? >> $d/said; "
             "grep -E '^(.(       OK |  FAILED  |==========).|status)' $d/said | grep -v listed; "
             "grep -oE '(0x1 != 0x2|1 is not|\"a\" != \"b\"|no 7|PASSED  . [0-9]*)' $d/said; }; "
             "rm -rf $d",
             getenv("CC") ? getenv("CC") : "cc", flags);
    assert_int_equal(setenv("SAMPLE", sample, 1), 0);
    shell(text, room, command);
}

static void cmocka_s_stand_in_says_what_cmocka_says(void **state)
{
    static char cmocka[8192], standin[8192];
    (void)state;
    sample_run(cmocka, sizeof cmocka, "$(cat ${BUILD:-build}/cmocka.flags)");
    sample_run(standin, sizeof standin, "-Itests/standin");
    assert_contains(standin, "[       OK ] right\n");
    assert_contains(standin, "[  FAILED  ] t11\n");
    assert_contains(standin, "status 11\n");
    assert_string_equal(standin, cmocka);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_called_that_glibc_alone_has),
        cmocka_unit_test(no_script_asks_for_gnu_s_own_options),
        cmocka_unit_test(make_does_what_it_is_told_of_processors),
        cmocka_unit_test(make_has_no_warning_about_its_own_jobs),
        cmocka_unit_test(make_says_which_setting_is_wrong_before_it_builds),
        cmocka_unit_test(a_command_that_never_ends_is_ended),
        cmocka_unit_test(without_timeout_perl_sets_the_limit),
        cmocka_unit_test(where_nothing_can_limit_nothing_is_run),
        cmocka_unit_test(cmocka_s_stand_in_says_what_cmocka_says),
    };
    return cmocka_run_group_tests_name("every machine", tests, NULL, NULL);
}
