/* Handing out and grading, tried on a chapter in small (tests/classroom/toy): what is handed out, what
   each kind of broken or malicious submission costs, and what platforms are told.

   The real chapters are checked by `make classroom-check`. */

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>
#include "check.h"

enum { ROOM = 1 << 16 };

static char work[] = "/tmp/classroom_XXXXXX";

static const char *build(void)
{
    return getenv("BUILD") ? getenv("BUILD") : "build";
}

/* Runs a command of the shell, with $T the test's own folder, $C the classroom's tools and $GRADE the
   grader; its output, errors too, goes to text (ROOM bytes). Returns its exit status. */
__attribute__((format(printf, 2, 3))) static int shell(char *text, const char *format, ...)
{
    char command[8192], rest[7000];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(rest, sizeof rest, format, arguments);
    va_end(arguments);
    snprintf(command, sizeof command,
             "T=%s C=$PWD/tests/classroom FLAGS=\"$(cat %s/cmocka.flags)\" "
             "GRADE=\"$PWD/%s/grade\"; export FLAGS GRADE; exec 2>&1; %s",
             work, build(), build(), rest);
    FILE *out = popen(command, "r");
    assert_non_null(out);
    size_t len = fread(text, 1, ROOM - 1, out);
    text[len] = '\0';
    int status = pclose(out);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* A course of one chapter, and its assignment. */
static int group_setup(void **state)
{
    static char text[ROOM];
    (void)state;
    if (mkdtemp(work) == NULL || chmod(work, 0755) != 0)
        return -1;
    int status = shell(text, "set -e; mkdir -p $T/course/data $T/course/tests/golden $T/sub;"
                             "cp -R $C/toy/. $T/course/; cp tests/check.h tests/cmocka.sh $T/course/tests/;"
                             "echo numbers > $T/course/data/README.md; touch $T/course/tests/golden/none;"
                             "cp LICENSE Makefile $T/course/; cd $T/course; sh $C/assignment.sh 01 $T/kit");
    if (status != 0)
        print_error("%s\n", text);
    return status;
}

static int group_teardown(void **state)
{
    static char text[ROOM];
    (void)state;
    return shell(text, "rm -rf $T");
}

/* Hands in the solved chapter with these lines in place of exercise `id`, and grades it. */
static int grade_lines(char *text, const char *id, const char *lines, const char *options)
{
    char path[64];
    snprintf(path, sizeof path, "%s/lines", work);
    FILE *out = fopen(path, "w");
    assert_non_null(out);
    fputs(lines, out);
    fputc('\n', out);
    assert_int_equal(fclose(out), 0);
    return shell(text,
                 "rm -rf $T/sub; mkdir -p $T/sub/ch01_toy; awk -v MODE=put -v ID=%s -v TEXT=$T/lines "
                 "-f $C/exercises.awk $C/toy/ch01_toy/toy.c > $T/sub/ch01_toy/toy.c; "
                 "$GRADE --kit $T/kit --submission $T/sub --flags \"$FLAGS\" --seconds 1 "
                 "--results $T/results.json %s",
                 id, options);
}

static bool says(const char *text, const char *part)
{
    return strstr(text, part) != NULL;
}

/* Fails with the whole report if it does not say this. */
static void assert_says(const char *text, const char *part)
{
    if (!says(text, part))
        fail_msg("the report does not say '%s':\n%s", part, text);
}

/* ---- submissions that are wrong, broken or malicious ---------------------------------------- */
/* Each stands in place of exercise 1.2 and costs exercise 1.2; 1.1 and 1.3 keep their points.  */

typedef struct {
    const char *name, *lines; /* between the markers of 1.2 */
    const char *verdict;      /* of its test */
} Sample;

static const Sample samples[] = {
    {"a wrong answer", "sum = x[0];", "toy_mean(x, 3) is 0.33333333333333331, expected 3"},
    {"nothing at all", "", "FAIL"},
    {"a stub", "EXERCISE_TODO(\"1.2\");", "todo"},
    {"NaN", "sum = 0.0 / 0.0;", "is -nan, expected 3"},
    {"an endless loop", "for (;;)\n;", "TIMEOUT"},
    {"an endless sleep", "for (;;) sleep(1000);", "TIMEOUT"},
    {"a stop", "raise(SIGSTOP);", "TIMEOUT"},
    {"a fork bomb", "for (int i = 0; i < 6; i++) fork(); for (;;) ;", "TIMEOUT"},
    {"a fork bomb that detaches", "for (int i = 0; i < 6; i++) if (fork() == 0) setsid(); for (;;) ;", "TIMEOUT"},
    {"output without end", "for (;;) puts(\"all work and no play\");", "TOO LONG"},
    {"a file without end",
     "FILE *f = fopen(\"/tmp/x\", \"w\"); for (;;) fputs(\"and no play\", f);", "TOO LONG"},
    {"exit(0)", "exit(0);", "QUIT"},
    {"_exit(0)", "_exit(0);", "QUIT"},
    {"exit(0) after words of success",
     "puts(\"[  PASSED  ] 1 test(s).\"); fflush(stdout); exit(0);", "QUIT"},
    {"a forged record",
     "for (int f = 0; f < 64; f++) if (write(f, \"[  PASSED  ] 0123456789012345678\", 32)) {}\n"
     "_exit(0);",
     "QUIT"},
    {"a write to nowhere", "*(volatile int *)8 = 1;", "CRASH"},
    {"an abort", "abort();", "CRASH"},
    {"an overflow of the stack", "for (;;) *(volatile char *)__builtin_alloca(65536) = 1;", "CRASH"},
    {"all the memory", "for (;;) memset(malloc(1 << 20), 1, 1 << 20);", "CRASH"},
    {"a huge piece of memory", "memset(malloc((size_t)1 << 40), 1, 1 << 20);", "CRASH"},
    {"a missing semicolon", "sum += 1", "NOT C"},
    {"a brace too many", "}", "NOT C"},
    {"an unknown function", "sum = toy_men(x, n);", "NOT C"},
    {"the secrets of the machine", "#include \"/etc/passwd\"", "NOT C"},
    {"an endless file included", "#include \"/dev/zero\"", "NOT C"},
    {"the solution included", "#include \"../../../../../../../../../../..\" HERE", "NOT C"},
    {"the death of its elders", "kill(0, SIGKILL); kill(getppid(), SIGKILL);", "CRASH"},
    {"a test program put in its own place",
     "unlink(\"build/test_ch01_toy\"); symlink(\"/bin/true\", \"build/test_ch01_toy\"); "
     "truncate(\"build/test_ch01_toy\", 0); sum = 1;",
     "FAIL"},
};

static void a_sample_costs_what_it_touches(void **state)
{
    static char text[ROOM];
    const Sample *sample = (const Sample *)*state;
    assert_int_equal(grade_lines(text, "1.2", sample->lines, ""), 0);
    assert_says(text, "1.1   a sum                                                          2 of 2");
    assert_says(text, "1.2   a mean                                                         0 of 3");
    assert_says(text, "1.3   the largest                                                    1 of 1");
    assert_says(text, sample->verdict);
}
