/* What the tests of the classroom share: a course in small in a folder of its own (toy/),
   commands of the shell, and questions about what they have printed. Needs _GNU_SOURCE before. */

#ifndef CLASSROOM_HARNESS
#define CLASSROOM_HARNESS

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>
#include "../check.h"

enum { ROOM = 1 << 16 };

static char work[] = "/tmp/classroom_XXXXXX";

static inline const char *build(void)
{
    return getenv("BUILD") ? getenv("BUILD") : "build";
}

/* Runs a command of the shell; its output, errors too, goes to text (ROOM bytes). Returns its
   exit status. The command finds $T, the test's own folder; $C, the classroom's tools; $GRADE,
   the grader; $FLAGS, cmocka's; `put ID FILE DIR`, which writes the solved chapter into DIR with
   the lines of FILE in place of exercise ID; and `grade`, which grades $T/sub. */
__attribute__((format(printf, 2, 3))) static inline int shell(char *text, const char *format, ...)
{
    char command[8192], rest[6000];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(rest, sizeof rest, format, arguments);
    va_end(arguments);
    snprintf(
        command, sizeof command,
        "T=%s C=$PWD/tests/classroom FLAGS=\"$(cat %s/cmocka.flags)\" GRADE=\"$PWD/%s/grade\"\n"
        "export T C FLAGS GRADE; unset MAKEFLAGS MFLAGS MAKELEVEL SANITIZE; exec 2>&1\n"
        "put() { awk -v MODE=put -v ID=$1 -v TEXT=$2 -f $C/exercises.awk "
        "$C/toy/ch01_toy/toy.c > $3/toy.c; }\n"
        "grade() { $GRADE --kit $T/kit --submission $T/sub --flags \"$FLAGS\" --seconds 1 "
        "--results $T/results.json \"$@\"; }\n"
        "%s",
        work, build(), build(), rest);
    FILE *out = popen(command, "r");
    assert_non_null(out);
    size_t len = fread(text, 1, ROOM - 1, out);
    text[len] = '\0';
    int status = pclose(out);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Fails with the whole report if it does not say this, or says that. */
static inline void assert_says(const char *text, const char *part)
{
    if (!strstr(text, part)) {
        print_error("%s\n", text);
        fail_msg("this does not say '%s'", part);
    }
}

static inline void assert_silent_about(const char *text, const char *part)
{
    if (strstr(text, part))
        fail_msg("this must not say '%s':\n%s", part, text);
}

/* "1.2 ... 0 of 3" in a table of points; "points" in place of an exercise for the sum. */
static inline void assert_points(const char *text, const char *what, const char *points)
{
    const char *line = text;
    while (line != NULL && strncmp(line, what, strlen(what)) != 0) {
        line = strchr(line, '\n');
        line += line != NULL;
    }
    const char *end = line == NULL ? NULL : line + strcspn(line, "\n");
    size_t len = strlen(points);
    if (end == NULL || end - line < (long)len || strncmp(end - len, points, len) != 0 ||
        end[-(long)len - 1] != ' ')
        fail_msg("%s is not '%s':\n%s", what, points, text);
}

static inline void write_file(const char *name, const char *content)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", work, name);
    FILE *out = fopen(path, "w");
    assert_non_null(out);
    fputs(content, out);
    fputc('\n', out);
    assert_int_equal(fclose(out), 0);
}

static inline void read_file(char *text, const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", work, name);
    FILE *in = fopen(path, "r");
    if (in == NULL)
        fail_msg("%s: there is no such file", path);
    size_t len = in != NULL ? fread(text, 1, ROOM - 1, in) : 0;
    text[len] = '\0';
    if (in != NULL)
        fclose(in);
}

/* Hands in the solved chapter with these lines in place of exercise `id`, and grades it. */
static inline int grade_lines(char *text, const char *id, const char *lines, const char *options)
{
    write_file("lines", lines);
    return shell(text, "rm -rf $T/sub; mkdir $T/sub; put %s $T/lines $T/sub; grade %s", id,
                 options);
}

/* A course of one chapter in $T/course, with the classroom's tools, and its kit in $T/kit. */
static inline int course_new(char *text)
{
    memcpy(work + strlen(work) - 6, "XXXXXX", 6); /* more than once, for mutants */
    if (mkdtemp(work) == NULL || chmod(work, 0755) != 0)
        return -1;
    int status = shell(
        text, "set -e; mkdir -p $T/course/data $T/course/tests/golden\n"
              "cp -R $C/toy/. $T/course/\n"
              "cp -R tests/check.h tests/cmocka.sh tests/limit.sh tests/standin $T/course/tests/\n"
              "mkdir $T/course/tests/classroom; cp -R $C/*.* $T/course/tests/classroom/\n"
              "mv $T/course/mutants $T/course/tests/classroom/\n"
              "touch $T/course/data/README.md $T/course/tests/golden/none\n"
              "cp LICENSE Makefile $T/course/; cd $T/course\n"
              "sh $C/assignment.sh 01 $T/kit");
    if (status != 0)
        print_error("%s\n", text);
    return status;
}

static inline int course_remove(void **state)
{
    static char text[ROOM];
    (void)state;
    return shell(text, "rm -rf $T");
}

#endif
