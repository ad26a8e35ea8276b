/* Handing out and grading, tried on a chapter in small (tests/classroom/toy): what is handed
   out, what each kind of broken or malicious submission costs, and what platforms are told.

   The real chapters are checked by `make classroom-check`. */

#define _GNU_SOURCE /* popen, mkdtemp under -std=c11 */
#include "classroom/harness.h"

/* ---- submissions that are wrong, broken or malicious ---------------------------------------- */
/* Each stands in place of exercise 1.2 and costs exercise 1.2; 1.1 and 1.10 keep their points.
   All are graded before the first test, some at a time: most of them wait for their limits. */

typedef struct {
    const char *name, *lines; /* between the markers of 1.2 */
    const char *verdict;      /* of its test */
} Sample;

static const Sample samples[] = {
    {"a wrong answer", "sum = x[0];", "toy_mean(x, 3) is 0.333333, expected 3"},
    {"nothing at all", "", "FAIL"},
    {"a stub", "EXERCISE_TODO(\"1.2\");", "todo"},
    {"NaN", "sum = 0.0 / 0.0;", "is -nan, expected 3"},
    {"an endless loop", "for (;;)\n;", "TIMEOUT"},
    {"an endless sleep", "for (;;) sleep(1000);", "TIMEOUT"},
    {"a stop", "raise(SIGSTOP);", "TIMEOUT"},
    {"a fork bomb", "for (;;) fork();", "TIMEOUT"},
    {"a fork bomb that detaches", "for (;;) if (fork() == 0) setsid();", "TIMEOUT"},
    {"output without end",
     "char *all_work = calloc(1, 1 << 16); for (;;) if (write(1, all_work, 1 << 16)) {}",
     "TOO LONG"},
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
    {"an assertion", "if (n > 1) fputs(\"toy.c: Assertion `n < 2' failed.\", stderr), abort();",
     "CRASH"},
    {"a whole number over 0", "volatile int none = 0; sum = 7 / none;", "divided by 0?"},
    {"an overflow of the stack", "for (;;) *(volatile char *)__builtin_alloca(65536) = 1;",
     "CRASH"},
    {"all the memory", "for (;;) *(volatile char *)malloc(1 << 20) = 1;", "CRASH"},
    {"a huge piece of memory", "memset(malloc((size_t)1 << 40), 1, 1 << 20);", "CRASH"},
    {"a missing semicolon", "sum += 1", "NOT C"},
    {"a brace too many", "}", "NOT C"},
    {"a helper that returns nothing",
     "int two(void);\n#define two() ({ int two_(void) { } two_(); })\nsum = two();", "NOT C"},
    {"an unknown function", "sum = toy_men(x, n);", "NOT C"},
    {"a function that is nowhere", "double toy_men(void); sum = toy_men();", "NOT C"},
    {"an instruction that is none", "__asm__(\"as I like\");", "NOT C"},
    {"the secrets of the machine", "#include \"/etc/passwd\"", "NOT C"},
    {"an endless file included", "#include \"/dev/zero\"", "NOT C"},
    {"the solution included", "#include \"../../../../../../../../../../..\" HERE", "NOT C"},
    {"the death of its elders", "kill(0, SIGKILL); kill(getppid(), SIGKILL);", "CRASH"},
    {"a test program put in its own place",
     "unlink(\"build/test_ch01_toy\"); symlink(\"/bin/true\", \"build/test_ch01_toy\"); "
     "truncate(\"build/test_ch01_toy\", 0); sum = 1;",
     "FAIL"},
};

enum { SAMPLES = sizeof samples / sizeof *samples };

static int samples_grade(char *text)
{
    char name[64];
    for (int k = 0; k < SAMPLES; k++) {
        snprintf(name, sizeof name, "lines.%d", k);
        write_file(name, samples[k].lines);
    }
    write_file("one.sh",
               "mkdir $T/sample.$1 && awk -v MODE=put -v ID=1.2 -v TEXT=$T/lines.$1 "
               "-f $C/exercises.awk $C/toy/ch01_toy/toy.c > $T/sample.$1/toy.c\n"
               "$GRADE --kit $T/kit --submission $T/sample.$1 --flags \"$FLAGS\" --seconds 1 "
               "> $T/report.$1 2>&1\n"
               "echo \"status $?\" >> $T/report.$1");
    return shell(text, "seq 0 %d | xargs -n 1 -P 6 sh $T/one.sh", SAMPLES - 1);
}

static void a_sample_costs_what_it_touches(void **state)
{
    static char text[ROOM];
    char name[64];
    const Sample *sample = (const Sample *)*state;
    snprintf(name, sizeof name, "report.%d", (int)(sample - samples));
    read_file(text, name);
    assert_points(text, "1.1", "2 of 2");
    assert_points(text, "1.2", "0 of 3");
    assert_points(text, "1.10", "1 of 1");
    assert_says(text, sample->verdict);
    assert_says(text, "status 0");
    if (strstr(sample->lines, "Assertion") != NULL) /* has said itself what is wrong */
        assert_silent_about(text, "outside an array");
}

static void nothing_of_a_submission_is_left(void **state)
{
    static char text[ROOM];
    (void)state;
    /* What somebody else grades at this moment has that name too, and is gone in a minute. */
    shell(text,
          "left=$(ps -A -o pid=,args= | awk '$2 == \"build/test_ch01_toy\" { print $1 }' | "
          "paste -s -d , -)\n"
          "still() { [ -n \"$left\" ] && ps -p $left -o args= | grep '^build/test_ch01_toy'; }\n"
          "for second in $(seq 60); do still > $T/left && sleep 1 || break; done; still");
    assert_string_equal(text, "");
}

/* ---- what is handed out ---------------------------------------------------------------------- */

static void an_assignment_has_stubs_and_no_solution(void **state)
{
    static char text[ROOM];
    (void)state;
    read_file(text, "kit/ch01_toy/toy.c");
    assert_says(text, "#include \"../tests/exercise.h\"\n#include <fcntl.h>");
    assert_says(text, "    //> EX 1.1 [2 pts] [5 min] a sum\n    EXERCISE_TODO(\"1.1\");\n"
                      "    //< EX 1.1");
    assert_says(text, "    for (size_t i = 0; i < n; i++)\n        sum += 0.0;\n    EXERCISE_TODO");
    assert_silent_about(text, "//?");
    assert_int_equal(shell(text, "grep -rE 'toy_sum\\(sum|return a \\+ b|largest \\? x|numbers sum "
                                 "to|A loop over i' $T/kit"),
                     1);
}

static void a_lesson_is_handed_out_without_what_it_would_give_away(void **state)
{
    static char text[ROOM];
    (void)state;
    read_file(text, "kit/ch01_toy/README.md");
    assert_says(text, "See [the data](../data/README.md) and the next chapter.");
    assert_says(text, "    double sum = 0.0;\n    /* exercise 1.2: yours to write */\n    return");
    read_file(text, "kit/tests/exercises.txt");
    assert_says(text, "exercise 1.2 3 10 ch01_toy/toy.c a mean");
    assert_says(text, "hint 1.2 (92E 5@ 2== E96 ?F>36CD\ngoes-on 1.2 DF> E@n\nhint 1.2 p =@@A");
    assert_says(text, "section 1.2 \"Means\" in ch01_toy/README.md");
}

/* What the handing out would miss: a line of the solution in other blanks, in another place. */
static void a_lesson_that_says_a_solution_all_the_same_is_refused(void **state)
{
    static char text[ROOM];
    (void)state;
    assert_int_equal(shell(text,
                           "rm -rf $T/says; cp -R $T/course $T/says; cd $T/says\n"
                           "echo 'So it is `sum=toy_sum(sum, x[at])`.' >> ch01_toy/README.md\n"
                           "sh $C/assignment.sh 01 $T/says_kit"),
                     1);
    assert_says(text, "error: lessons say what students are to write:\nch01_toy/README.md: "
                      "exercise 1.2: sum=toy_sum(sum,x[at])\n");
    assert_int_equal(shell(text, "! test -e $T/says_kit && cd $T/says && echo 'double more(double "
                                 "sum, double *x, int at) "
                                 "{ return sum = toy_sum(sum, x[at]); }' >> ch01_toy/toy.c && "
                                 "sh $C/assignment.sh 01 $T/says_kit"),
                     0); /* the chapter has it elsewhere */
}

/* Of the data and the golden data, what the chapter names; and what is said of them fits. */
static void a_kit_holds_what_its_chapter_names_and_says_no_more(void **state)
{
    static char text[ROOM];
    (void)state;
    assert_int_equal(shell(text, "rm -rf $T/named; cp -R $T/course $T/named; cd $T/named\n"
                                 "mkdir tests/golden/tokenizer; touch tests/golden/ch01_one "
                                 "tests/golden/ch00_none data/one.csv data/two.csv\n"
                                 "printf '| `one.csv` | a |\\n| `two.csv` | b |\\nand so on\\n' "
                                 "> data/README.md\n"
                                 "echo '/* \"ch01_*\", data/one.csv */' >> tests/test_ch01_toy.c\n"
                                 "sh $C/assignment.sh 01 $T/named_kit && cd $T/named_kit && "
                                 "ls data tests/golden && cat data/README.md"),
                     0);
    assert_says(text, "data:\nREADME.md\none.csv\n");
    assert_says(text, "tests/golden:\nch01_one\n| `one.csv` | a |\nand so on\n");
    read_file(text, "named_kit/README.md");
    assert_silent_about(text, "The earlier chapters"); /* there are none */
    assert_says(text, "own folder.\n\nTo hand in");
    assert_int_equal(shell(text, "make -s -C $T/named_kit"), 0);
    assert_says(text, "1.1  a sum                                         5 minutes, 2 points\n"
                      "         ch01_toy/toy.c:19\n");
    assert_says(text, " 1 point");
}

static void the_same_course_gives_the_same_bytes(void **state)
{
    static char text[ROOM];
    (void)state;
    assert_int_equal(shell(text, "cd $T/course && sh $C/assignment.sh 01 $T/again && "
                                 "diff -r $T/kit $T/again"),
                     0);
    assert_int_equal(shell(text, "echo mine >> $T/again/ch01_toy/toy.c; cd $T/course && "
                                 "sh $C/assignment.sh 01 $T/again"),
                     1);
    assert_says(text, "is there already and is not the same: somebody may have worked in it");
    assert_int_equal(shell(text, "grep -c '^mine$' $T/again/ch01_toy/toy.c"), 0);
}

static void malformed_markers_are_refused(void **state)
{
    static const char *const cases[][2] = {
        {"s/\\[2 pts\\]//", "an exercise opens with //> EX 1.2 [2 pts] [10 min] title"},
        {"s/\\[2 pts\\]/[0 pts]/", "exercise 1.1 has no points or no minutes"},
        {"/operator/d", "exercise 1.1 has fewer than two hints"},
        {"/return a + b/d", "exercise 1.1 has no solution"},
        {"/< EX 1.1/d", "exercise 1.1 is still open here"},
        {"s/< EX 1.1/< EX 1.10/", "exercise 1.1 is closed by //< EX 1.1"},
        {"/> EX 1.1/d", "a hint or a skeleton outside an exercise"},
        {"s/EX 1.2/EX 1.1/", "there is an exercise 1.1 already"},
        {"s/EX 1.10/EX 2.3/", "exercise 2.3 does not belong to chapter 01"},
        {"/< EX 1.10/d", "exercise 1.10 is never closed"},
    };
    static char text[ROOM];
    (void)state;
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        int status = shell(text,
                           "cd $T/course; sed '%s' $C/toy/ch01_toy/toy.c > ch01_toy/toy.c\n"
                           "sh $C/assignment.sh 01 $T/bad; status=$?\n"
                           "cp $C/toy/ch01_toy/toy.c ch01_toy/toy.c; exit $status",
                           cases[k][0]);
        assert_says(text, cases[k][1]);
        assert_true(status != 0);
    }
}

static const char hidden[] = "--probes $C/toy/hidden --reference $T/course";

/* ---- what a student sees --------------------------------------------------------------------- */

static void a_student_is_told_what_is_missing_and_where_to_read(void **state)
{
    static char text[ROOM];
    (void)state;
    assert_int_equal(shell(text, "rm -rf $T/ada; cp -R $T/kit $T/ada; cd $T/ada && make test"), 2);
    assert_says(text, "exercise 1.1 is not written yet: make hint EX=1.1");
    assert_points(text, "points", "0 of 6");
    assert_says(text, "Go on with 1.1 in ch01_toy/toy.c (about 5 minutes)");
    assert_int_equal(shell(text, "cd $T/ada && make hint EX=1.2 && make hint EX=1.2"), 0);
    assert_says(text, "1.2, a mean. In the lesson: \"Means\" in ch01_toy/README.md.");
    assert_says(text,
                "  1. What do all the numbers sum to?\nTry again with that. make hint EX=1.2");
    assert_says(text, "  2. A loop over i, and one line.\nThat was the last one.");
    assert_int_equal(shell(text, "cd $T/ada && make hint EX=1.9"), 2);
    assert_says(text, "EX=1.9: say which exercise; there are 1.1 1.2 1.10");
    assert_int_equal(shell(text, "cd $T/ada && make test EX=1.9"), 2);
    assert_says(text, "there is no exercise 1.9 here; there are 1.1 1.2 1.10");
}

static void a_student_can_test_one_exercise_and_see_the_score(void **state)
{
    static char text[ROOM];
    (void)state;
    assert_int_equal(shell(text,
                           "rm -rf $T/ada; cp -R $T/kit $T/ada; cd $T/ada; "
                           "sed 's/EXERCISE_TODO(\"1.1\")/return a + b/' $T/kit/ch01_toy/toy.c > "
                           "ch01_toy/toy.c; make test EX=1.1"),
                     0);
    assert_points(text, "points", "2 of 2");
    assert_silent_about(text, "1.2");
    assert_int_equal(shell(text, "cd $T/ada && make score"), 0);
    assert_points(text, "1.1", "2 of 2");
    assert_points(text, "points", "2 of 6");
    assert_int_equal(shell(text, "cd $T/ada && make all && build/ch01_toy"), 97);
    assert_silent_about(text, "warning");
}

static void the_sanitizers_find_what_a_test_does_not(void **state)
{
    static const char lines[] = "double *y = (double *)malloc(n * sizeof *y);\ny[n] = 9;\n"
                                "sum = y[n];\nfree(y);";
    static char text[ROOM];
    (void)state;
    assert_int_equal(grade_lines(text, "1.2", lines, ""), 0);
    assert_points(text, "1.2", "3 of 3");
    assert_int_equal(grade_lines(text, "1.2", lines, "--sanitize"), 0);
    assert_says(text, "CRASH    a mean by hand");
    assert_says(text, "heap-buffer-overflow");
    assert_points(text, "1.10", "1 of 1");
}

/* 1.2 is made of 1.1: whatever 1.1 does, a right 1.2 has its points, a wrong one loses its own. */
static void a_mistake_in_one_exercise_costs_no_other(void **state)
{
    static const char *const wrong[] = {"return a - b;", "EXERCISE_TODO(\"1.1\");", "abort();",
                                        "return a + ;"};
    static char text[ROOM];
    (void)state;
    for (size_t k = 0; k < sizeof wrong / sizeof *wrong; k++) {
        assert_int_equal(grade_lines(text, "1.1", wrong[k], ""), 0);
        assert_points(text, "1.1", "0 of 2");
        assert_points(text, "1.2", "3 of 3");
        assert_points(text, "1.10", "1 of 1");
    }
    assert_int_equal(shell(text, "sed 's/return a + b/return a - b/; s/at < n/at + 1 < n/' "
                                 "$C/toy/ch01_toy/toy.c > $T/sub/toy.c; grade"),
                     0);
    assert_points(text, "points", "1 of 6");
    assert_says(text, "toy_mean(x, 3) is 1, expected 3"); /* and not what 1.1 made of it */
    assert_int_equal(shell(text, "sed 's/return a + b/return a - b/; s/$/\\r/' " /* on Windows */
                                 "$C/toy/ch01_toy/toy.c > $T/sub/toy.c; grade"),
                     0);
    assert_points(text, "points", "4 of 6");
    assert_int_equal(shell(text, "test -e $T/kit/tests/solutions.txt && "
                                 "grep -q 'return a + b' $T/kit/tests/solutions.txt"),
                     1);
}

/* Nor in probes. */
static void a_mistake_costs_no_probe_of_another(void **state)
{
    static char text[ROOM];
    (void)state;
    assert_int_equal(grade_lines(text, "1.1", "return a - b;", hidden), 0);
    assert_points(text, "1.2", "3 of 3");
}

/* Of several probes of an exercise each is worth its share; and the build in which that exercise
   alone is the submission's has these, and only these. */
static void half_of_the_work_is_worth_half(void **state)
{
    static char text[ROOM];
    static const char tables[] = "--probes $T/tables --reference $T/course";
    (void)state;
    shell(text, "mkdir -p $T/tables");
    write_file(
        "tables/more.c",
        "#include \"../ch01_toy/toy.c\"\n#include \"probe.h\"\n"
        "static void means(size_t n)\n{ double x[3]; PROBE_FILL(x, 3, 1, 9);\n"
        "probe_say(toy_mean(x, n)); }\n"
        "static void ex1_1_two(void) { probe_say(toy_sum(probe_between(1, 9), 1)); }\n"
        "static void ex1_2_three(void) { means(3); }\n"
        "static void ex1_2_one(void) { means(1); }\n"
        "static void ex1_10_two(void) { double x[2] = {1, 2}; probe_say(toy_largest(x, 2)); }\n"
        "PROBES = {PROBE(ex1_1_two), PROBE(ex1_2_three), PROBE(ex1_2_one), "
        "PROBE(ex1_10_two)};\nPROBES_MAIN");
    assert_int_equal(grade_lines(text, "1.1", "return a - b;", tables), 0);
    assert_points(text, "1.1", "0 of 2");
    assert_points(text, "1.2", "3 of 3"); /* alone: it uses 1.1 */
    assert_points(text, "1.10", "1 of 1");
    assert_int_equal(grade_lines(text, "1.2", "sum = x[0];", tables), 0);
    assert_points(text, "1.2", "1.5 of 3");
    assert_says(text, "FAIL     three  (hidden)\n");
    assert_says(text, "pass     one  (hidden)\n");
    shell(text, "cp $C/toy/ch01_toy/toy.c $C/probe.h $T/tables; cd $T/tables\n"
                "sed 's|../ch01_toy/||' more.c > one.c; cc -DPROBE_OF='\"ex1_1_\"' one.c -o one\n"
                "for probe in ex1_1_two ex1_10_two; do ./one $probe 1 > said 2>&1; echo $?; done");
    assert_string_equal(text, "0\n2\n");
}

/* ---- what is taken from a submission --------------------------------------------------------- */

static void only_the_chapter_s_own_files_are_taken(void **state)
{
    static char text[ROOM];
    (void)state;
    assert_int_equal(shell(text,
                           "rm -rf $T/sub; mkdir -p $T/sub/tests $T/sub/ch01_toy\n"
                           "cp $T/kit/ch01_toy/toy.c $T/sub/ch01_toy/\n"
                           "sed 's/toy_sum(2, 2), 4/0, 0/' $T/kit/tests/test_ch01_toy.c > "
                           "$T/sub/tests/test_ch01_toy.c\n"
                           "echo 'int main(void) { return 0; }' > $T/sub/tests/one_test.c; grade"),
                     0);
    assert_says(text, "todo     two and two");
    assert_points(text, "points", "0 of 6");
}

static void links_pipes_and_folders_are_no_submission(void **state)
{
    static const char *const cases[] = {
        "ln -s $C/toy/ch01_toy/toy.c $T/sub/toy.c",
        "ln -s $C/toy/ch01_toy $T/sub/ch01_toy",
        "mkfifo $T/sub/toy.c",
        "ln -s /dev/zero $T/sub/toy.c",
        "true",
    };
    static char text[ROOM];
    (void)state;
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        assert_int_equal(shell(text, "rm -rf $T/sub; mkdir $T/sub; %s; grade", cases[k]), 0);
        assert_says(text, "ch01_toy/toy.c was not handed in: it must be there under this name");
        assert_points(text, "points", "0 of 6");
    }
    assert_int_equal(shell(text, "rm -rf $T/sub; mkdir $T/sub; "
                                 "head -c 2000000 /dev/zero > $T/sub/toy.c; grade"),
                     0);
    assert_says(text, "ch01_toy/toy.c is larger than 1048576 bytes and was not taken");
}

static void lost_markers_and_broken_helpers_cost_what_they_touch(void **state)
{
    static char text[ROOM];
    (void)state;
    assert_int_equal(shell(text, "rm -rf $T/sub; mkdir $T/sub; sed 's/return a + b/return a +/; "
                                 "/EX 1.2/d' $C/toy/ch01_toy/toy.c > $T/sub/toy.c; grade"),
                     0);
    assert_says(text, "its markers //> EX 1.2 and //< EX 1.2 are gone");
    assert_points(text, "1.10", "1 of 1");
    assert_int_equal(shell(text, "sed 's/^double toy_largest/int helper(; &/' "
                                 "$C/toy/ch01_toy/toy.c > $T/sub/toy.c; grade"),
                     0);
    assert_says(text, "does not compile, and not because of an exercise");
    assert_points(text, "points", "6 of 6");
}

/* over.c includes toy.c and has the first exercise; what is wrong is in toy.c. */
static void a_slip_in_one_file_costs_nothing_in_those_that_include_it(void **state)
{
    static char text[ROOM];
    (void)state;
    write_file("over.c", "#include \"toy.c\"\n"
                         "double toy_twice(double x);\n"
                         "double toy_twice(double x)\n{\n    x = toy_sum(x, 0);\n"
                         "    //> EX 1.0 [2 pts] [5 min] twice as much\n"
                         "    //? What is twice 2?\n    //? And twice x?\n"
                         "    return 2 * x;\n"
                         "    //< EX 1.0\n}\n"
                         "#if __INCLUDE_LEVEL__ == 0\nint main(void)\n{\n"
                         "    return 0;\n}\n#endif\n");
    shell(text, "rm -rf $T/two; cp -R $T/course $T/two; cp $T/over.c $T/two/ch01_toy; cd $T/two\n"
                "sed -e 's/toy.c/over.c/' -e 's/^static void ex1_1_two/static void "
                "ex1_0_twice(void **state)\\n{\\n    (void)state;\\n    "
                "assert_near(toy_twice(2), 4, 0, 0);\\n}\\n\\n&/' -e "
                "'s/cmocka_unit_test(not_of/cmocka_unit_test(ex1_0_twice), &/' "
                "$C/toy/tests/test_ch01_toy.c > tests/test_ch01_toy.c\n"
                "sh $C/assignment.sh 01 $T/two_kit\n"
                "rm -rf $T/sub; mkdir $T/sub; cp $T/over.c $T/sub\n"
                "sed 's/return a + b/return a +/' $C/toy/ch01_toy/toy.c > $T/sub/toy.c\n"
                "$GRADE --kit $T/two_kit --submission $T/sub --flags \"$FLAGS\"");
    assert_points(text, "1.0", "2 of 2");
    assert_points(text, "1.1", "0 of 2");
    assert_says(text, "NOT C    less than nothing\n          as above\n");
    assert_points(text, "1.2", "3 of 3");
    assert_points(text, "points", "6 of 8");
    shell(text,
          "$GRADE --kit $T/two_kit --exercise 1.0 --flags \"$FLAGS\""); /* meets 1.1's first */
    assert_says(text, "ch01_toy/over.c:8: exercise 1.0 is not written yet: make hint EX=1.0");
    assert_silent_about(text, "exercise 1.1");
}

static void the_compiler_and_the_sanitizer_name_the_student_s_lines(void **state)
{
    static char text[ROOM];
    (void)state;
    assert_int_equal(
        shell(text, "rm -rf $T/sub; mkdir $T/sub; sed -e 's/return a + b/return a +/' -e 's/: "
                    "largest;/: larger;/' -e 's/^    for (size_t at = 0/\\n\\n\\n&/' "
                    "$C/toy/ch01_toy/toy.c > $T/sub/toy.c\n"
                    "grade > $T/lines; grep -q \"toy.c:$(grep -n 'return a +' $T/sub/toy.c | cut "
                    "-d : -f 1):\" $T/lines || exit 1\n"
                    "grep -q \"toy.c:$(grep -n 'larger;' $T/sub/toy.c | cut -d : -f 1):\" "
                    "$T/lines || exit 2\n"
                    "sed -e 's/return a + b/return a + 1/' -e 's/at < n; at++/at <= n; at++/' "
                    "$C/toy/ch01_toy/toy.c > $T/sub/toy.c\n"
                    "grade --sanitize --optimise '-O1 -g' > $T/lines\n"
                    "grep -q \"toy.c:$(grep -n 'toy_sum(sum' $T/sub/toy.c | cut -d : -f 1)\" "
                    "$T/lines || exit 3"),
        0);
}

/* A brace that is missing makes a screen of errors: the first is shown, and what the braces are. */
static void the_compiler_s_words_are_short(void **state)
{
    static char text[ROOM];
    (void)state;
    assert_int_equal(grade_lines(text, "1.2",
                                 "for (size_t i = 0; i < n; i++) { /* } */\n    char c = '}';\n"
                                 "    sum += x[i]\n    if (c != '}') break;",
                                 ""),
                     0);
    assert_says(text, ": error: expected ';' before 'if'\n");
    assert_says(text, " |     sum += x[i]\n                |                ^\n");
    assert_says(text, ", which may come of this one\n          between its markers there are 1 { "
                      "and 0 }\n");
    assert_true(strstr(strstr(text, " error: ") + 1, " error: ") == NULL);
    assert_int_equal(grade_lines(text, "1.2", "sum = toy_men(x, n);", ""), 0);
    assert_says(text, "toy_men");
    assert_silent_about(text, "more error");
    assert_silent_about(text, "between its markers");
}

static void warnings_are_shown_where_the_student_has_written(void **state)
{
    static char text[ROOM];
    (void)state;
    shell(text, "rm -rf $T/ada; cp -R $T/kit $T/ada; cd $T/ada\n"
                "sed -e 's/sum += 0.0;/if (sum = x[i]) sum += (int)i < n;/' -e "
                "'s/EXERCISE_TODO(\"1.2\");//' -e 's/^double toy_sum/static int unsure(int n, "
                "size_t m) { return n < m; }\\n&/' "
                "$T/kit/ch01_toy/toy.c > ch01_toy/toy.c; make test");
    assert_says(text, "    warning  ch01_toy/toy.c:");
    assert_says(text, "[-Wparentheses]\n    warning  ch01_toy/toy.c:");
    assert_says(text, "[-Wsign-compare]\n1.10");
    assert_true(strstr(strstr(text, "sign-compare]") + 1, "sign-compare]") == NULL);
    shell(text, "cd $T/ada && make score");
    assert_silent_about(text, "warning");
    shell(text, "cd $T/ada && make test EX=1.1");
    assert_silent_about(text, "warning");
}

/* Their own kit has no other file to put the exercises into; but it is said once. */
static void a_student_s_broken_helper_is_said_once(void **state)
{
    static char text[ROOM];
    (void)state;
    shell(text, "rm -rf $T/ada; cp -R $T/kit $T/ada; cd $T/ada\n"
                "sed 's/^double toy_largest/int helper(; &/' $T/kit/ch01_toy/toy.c > "
                "ch01_toy/toy.c; make test");
    assert_says(text, "NOT C    two and two\n          see below\n");
    assert_says(text, "ch01_toy/toy.c does not compile, and not because of an exercise:\n");
    assert_true(strstr(strstr(text, " error: ") + 1, " error: ") == NULL);
}

static void a_marker_that_is_gone_is_named(void **state)
{
    static const char *const cases[][2] = {
        {"s/< EX 1.2/< EX1.2/", "gone, or changed; put back\n          //< EX 1.2\n"},
        {"/> EX 1.2/d",
         "gone, or changed; put back\n          //> EX 1.2 [3 pts] [10 min] a mean\n"},
        {"s/> EX 1.10.*/> EX 1.10/; /< EX 1.10/d",
         "changed; put back\n          //> EX 1.10 [1 pt] [5 min] the largest\n          "
         "//< EX 1.10\n"},
        {"s/> EX 1.1 .*/< EX 1.1/; t; s/< EX 1.1$/> EX 1.1 [2 pts] [5 min] a sum/",
         "stand in the wrong order:\n          //> EX 1.1 [2 pts]"},
    };
    static char text[ROOM];
    (void)state;
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        assert_int_equal(shell(text,
                               "rm -rf $T/sub; mkdir $T/sub; sed '/\\/\\/[?:]/d; %s' "
                               "$C/toy/ch01_toy/toy.c > $T/sub/toy.c; grade",
                               cases[k][0]),
                         0);
        assert_says(text, cases[k][1]);
        assert_points(text, "points", "6 of 6"); /* all compiles */
    }
    assert_int_equal(grade_lines(text, "1.1", "return a + b;", ""), 0);
    assert_silent_about(text, "marker");
}

static void without_namespaces_the_limits_still_hold(void **state)
{
    static char text[ROOM];
    assert_int_equal(grade_lines(text, "1.2",
                                 "if (fork() == 0) { setsid(); for (;;) sleep(9); }\nsum = 9;",
                                 "--plain"),
                     0);
    assert_points(text, "points", "6 of 6");
    nothing_of_a_submission_is_left(state);
    assert_int_equal(grade_lines(text, "1.2", "for (;;) fork();", "--plain"), 0);
    assert_says(text, "TIMEOUT");
    assert_points(text, "points", "3 of 6");
    nothing_of_a_submission_is_left(state);
}

/* ---- what was handed in, under whatever name ------------------------------------------------- */

/* Every way that a chapter's file comes back from a student, all worth 6 of 6. */
static void a_submission_is_found_and_the_report_says_where(void **state)
{
    static const char *const cases[][2] = {
        {"mkdir ch01_toy; mv toy.c ch01_toy", NULL},
        {"mv toy.c Toy.c", "taken as ch01_toy/toy.c: Toy.c"},
        {"mv toy.c TOY.C", "taken as ch01_toy/toy.c: TOY.C"},
        {"mv toy.c 'toy (1).c'", "taken as ch01_toy/toy.c: toy (1).c"},
        {"mv toy.c 'toy - Copy (2).c'", "taken as ch01_toy/toy.c: toy - Copy (2).c"},
        {"mv toy.c doejane_LATE_12_345_toy-1.c",
         "taken as ch01_toy/toy.c: doejane_LATE_12_345_toy-1"},
        {"mkdir -p 'my work/ch01_toy'; mv toy.c 'my work/ch01_toy'", "my work/ch01_toy/toy.c"},
        {"mkdir -p a/b; mv toy.c a/b", "taken as ch01_toy/toy.c: a/b/toy.c"},
        {"mkdir a; cp $T/kit/ch01_toy/toy.c a", NULL}, /* the one at the top is nearer */
        {"cp $T/kit/ch01_toy/toy.c Toy.c", NULL},
        {"mkdir ch01_toy .git; cp $T/kit/ch01_toy/toy.c .git; mv toy.c ch01_toy", NULL},
        {"touch -t 202001010000 'toy (1).c'; mv toy.c 'toy (2).c'",
         "taken as ch01_toy/toy.c: toy (2).c"},
    };
    static char text[ROOM];
    (void)state;
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        assert_int_equal(shell(text,
                               "rm -rf $T/sub; mkdir $T/sub; cd $T/sub; "
                               "cp $C/toy/ch01_toy/toy.c .; %s\ngrade --score",
                               cases[k][0]),
                         0);
        assert_points(text, "points", "6 of 6");
        if (cases[k][1] != NULL)
            assert_says(text, cases[k][1]);
        else
            assert_silent_about(text, "taken as");
    }
    assert_int_equal(shell(text, "cd $T/sub && rm -rf * && cp $C/toy/ch01_toy/toy.c toys.c; "
                                 "cp toys.c mytoy.c; cp toys.c toy.cpp; grade"),
                     0);
    assert_says(text, "ch01_toy/toy.c was not handed in"); /* these are other names */
}

static void a_zip_file_is_opened(void **state)
{
    static char text[ROOM];
    (void)state;
    if (shell(text, "command -v zip && command -v unzip") != 0) {
        print_message("zip and unzip are not installed\n");
        skip();
    }
    assert_int_equal(shell(text,
                           "rm -rf $T/sub $T/zip; mkdir -p $T/sub $T/zip/ch01/ch01_toy; cd $T/zip\n"
                           "cp $C/toy/ch01_toy/toy.c 'ch01/ch01_toy/toy [1].c'; "
                           "zip -qr $T/sub/work.zip ch01; grade"),
                     0);
    assert_says(text, "taken as ch01_toy/toy.c: ch01/ch01_toy/toy [1].c in work.zip");
    assert_points(text, "points", "6 of 6");
    assert_int_equal(
        shell(text, "$GRADE --kit $T/kit --submission $T/sub/work.zip --flags \"$FLAGS\""), 0);
    assert_points(text, "points", "6 of 6");
    assert_int_equal(shell(text, "cd $T/zip; head -c 3000000 /dev/zero > ch01/ch01_toy/toy.c; "
                                 "zip -qr $T/sub/work.zip ch01; grade"),
                     0); /* a bomb */
    assert_says(text, "ch01_toy/toy.c cannot be unzipped, or is too large, and was not taken");
    assert_int_equal(shell(text, "echo no zip > $T/sub/work.zip; grade"), 0);
    assert_says(text, "work.zip could not be opened");
    assert_points(text, "points", "0 of 6");
}

/* A test that sleeps costs 2 s here, twice that with the others solved; then it is given up.
   When so much is lost, the
   rest is not run. */
static void a_submission_that_sleeps_is_not_waited_for(void **state)
{
    static char text[ROOM];
    (void)state;
    assert_int_equal(grade_lines(text, "1.1", "for (;;) sleep(9);", ""), 0);
    assert_says(text,
                "TIMEOUT  less than nothing\n          not run: this exercise has run out of time "
                "already");
    assert_points(text, "points", "4 of 6");
    assert_int_equal(grade_lines(text, "1.1", "for (;;) sleep(9);", "--clock 3"), 0);
    assert_says(text, "not run  the last is the largest\n          not run: 3 s were lost in "
                      "what had to be stopped");
    assert_points(text, "points", "0 of 6");
}

/* ---- hidden tests ---------------------------------------------------------------------------- */

static void probes_count_and_say_only_their_verdict(void **state)
{
    static char text[ROOM];
    (void)state;
    assert_int_equal(
        grade_lines(text, "1.2", "for (size_t i = 0; i < n; i++)\nsum += x[i];", hidden), 0);
    assert_points(text, "points", "6 of 6");
    assert_says(text, "pass     other numbers  (hidden)");
    assert_int_equal(
        grade_lines(text, "1.2", "sum = n == 3 ? 9 : x[0]; printf(\"x is %g\\n\", x[0]);", hidden),
        0);
    assert_points(text, "1.2", "0 of 3"); /* right for the public test alone */
    assert_says(text, "pass     a mean by hand");
    assert_says(text, "FAIL     other numbers  (hidden)\n1.10");
    assert_silent_about(text, "x is 0.25"); /* the probe's input */
    read_file(text, "results.json");
    assert_says(text, "\"visibility\": \"after_published\"");
    for (char *word = strstr(text, "execution_time"); word != NULL;
         word = strstr(word, "seconds\""))
        for (word = strchr(word, ':'); *word != ',' && *word != '\n'; word++)
            *word = ' '; /* a time may be 0.25 too */
    assert_silent_about(text, "0.25");
    assert_int_equal(grade_lines(text, "1.2", "#define printf(...) NONSENSE\nsum = 9;", hidden), 0);
    assert_says(text, "NOT C    other numbers  (hidden)\n1.10"); /* the compiler quotes the probe */
    assert_silent_about(text, "%.17g");
}

/* The same seed the same numbers, another seed others, and none of them can be known beforehand. */
static void probes_have_new_numbers_in_every_run(void **state)
{
    static char text[ROOM];
    (void)state;
    shell(text, "mkdir $T/probes");
    write_file("probes/ex1_1_say.c",
               "#include \"../ch01_toy/toy.c\"\n#include \"probe.h\"\n"
               "static void ex1_1_say(void)\n{ double x = probe_between(0, 1);\n"
               "probe_say(x); probe_say(probe_whole(3, 3)); }\n"
               "PROBES = {PROBE(ex1_1_say)};\nPROBES_MAIN");
    assert_int_equal(shell(text, "cd $T/kit; cp $T/probes/ex1_1_say.c tests; "
                                 "cc tests/ex1_1_say.c -o $T/say; rm tests/ex1_1_say.c\n"
                                 "for seed in 1 1 2; do $T/say ex1_1_say $seed; done"),
                     0);
    double x[3], three[3];
    assert_int_equal(
        sscanf(text, "%lf %lf %lf %lf %lf %lf", x, three, x + 1, three + 1, x + 2, three + 2), 6);
    assert_near(x[0], x[1], 0, 0);
    assert_true(x[0] != x[2] && x[0] > 0 && x[0] < 1 && three[0] == 3);
    shell(text,
          "rm -rf $T/sub; mkdir $T/sub; cp $C/toy/ch01_toy/toy.c $T/sub\n"
          "for k in 1 2; do grade %s; grep -o '\"seed\": [0-9]*' $T/results.json; done | grep seed "
          "| sort -u | wc -l",
          hidden);
    assert_int_equal(atoi(text), 2);
    assert_int_equal(
        shell(text, "grade %s --seed 7 && grep '\"seed\": 7,' $T/results.json", hidden), 0);
    assert_int_equal(shell(text, "grade %s --seed x", hidden), 1);
    assert_says(text, "error: --seed: x is not a number from 0 to");
}

static void a_hidden_test_that_judges_by_itself_is_refused(void **state)
{
    static char text[ROOM];
    (void)state;
    assert_int_equal(
        shell(text, "mkdir $T/judges; cp $C/toy/tests/test_ch01_toy.c $T/judges/test_more.c\n"
                    "grade --probes $T/judges --reference $T/course"),
        1);
    assert_says(text, "/judges/test_more.c: a hidden test must be a probe, which prints numbers");
    assert_int_equal(shell(text, "grade --probes $C/toy/hidden"), 1);
    assert_says(text, "probes need --reference, the solved course");
}

static void a_probe_that_the_course_itself_fails_is_an_error(void **state)
{
    static char text[ROOM];
    (void)state;
    assert_int_equal(shell(text, "mkdir $T/broken; echo 'int main(void) { return 1; }' > "
                                 "$T/broken/ex1_2_broken.c\n"
                                 "grade --probes $T/broken --reference $T/course"),
                     1);
    assert_says(text, "a probe does not work with the course's own chapter: ex1_2_broken");
}

/* ---- what platforms are told ----------------------------------------------------------------- */

/* A reader of JSON that takes nothing it does not know: the end of the value at `at`, or NULL. */
static const char *json_value(const char *at);

static const char *json_string(const char *at)
{
    if (*at++ != '"')
        return NULL;
    while (*at != '"') {
        if ((unsigned char)*at < 0x20)
            return NULL;
        at += *at == '\\' ? 2 : 1;
    }
    return at + 1;
}

static const char *json_blank(const char *at)
{
    return at + strspn(at, " \n\t");
}

static const char *json_list(const char *at, char end)
{
    at = json_blank(at + 1);
    while (at != NULL && *at != end) {
        if (end == '}') {
            at = json_string(at);
            if (at == NULL || *at++ != ':')
                return NULL;
        }
        at = json_value(json_blank(at));
        at = at == NULL ? NULL : json_blank(at);
        if (at != NULL && *at == ',')
            at = json_blank(at + 1);
        else if (at != NULL && *at != end)
            return NULL;
    }
    return at == NULL ? NULL : at + 1;
}

static const char *json_value(const char *at)
{
    char *end;
    if (*at == '{' || *at == '[')
        return json_list(at, *at == '{' ? '}' : ']');
    if (*at == '"')
        return json_string(at);
    if (strncmp(at, "true", 4) == 0)
        return at + 4;
    if (strncmp(at, "false", 5) == 0)
        return at + 5;
    double number = strtod(at, &end);
    return end > at && isfinite(number) ? end : NULL;
}

static void results_are_what_gradescope_reads(void **state)
{
    static char text[ROOM];
    (void)state;
    assert_int_equal(grade_lines(text, "1.2",
                                 "puts(\"\\200 \\\"<&>\\\" \\001\"); fflush(stdout); abort();",
                                 "--junit $T/results.xml"),
                     0);
    read_file(text, "results.json");
    const char *end = json_value(text);
    assert_true(end != NULL && strcmp(json_blank(end), "") == 0);
    assert_says(text, "\"score\": 3,\n  \"execution_time\": ");
    assert_says(text,
                "\"score\": 1, \"max_score\": 1, \"status\": \"passed\", \"number\": \"1.1\"");
    assert_says(text,
                "\"score\": 0, \"max_score\": 3, \"status\": \"failed\", \"number\": \"1.2\"");
    assert_says(text,
                "\"name\": \"a mean: a mean by hand\", \"output\": \"CRASH\\n? \\\"<&>\\\" ?");
    assert_says(text, "\"visibility\": \"visible\"");
    read_file(text, "results.xml");
    assert_says(text, "<testsuite name=\"chapter 01\" tests=\"4\" failures=\"1\"");
    assert_says(text, "? &#34;&#60;&#38;&#62;&#34; ?");
}

/* ---- a class --------------------------------------------------------------------------------- */

/* A new class of ada, who has everything, bob, who has nothing, and `eve x`, who lacks 1.2. */
static int class_new(char *text)
{
    return shell(text,
                 "rm -rf $T/class $T/marks; mkdir -p $T/class/ada $T/class/bob $T/class/'eve x'\n"
                 "cp $C/toy/ch01_toy/toy.c $T/class/ada; cp $T/kit/ch01_toy/toy.c $T/class/bob\n"
                 "sed 's/sum = toy_sum/sum = 0 */' $C/toy/ch01_toy/toy.c > "
                 "$T/class/'eve x'/toy.c");
}

static int class_grade(char *text, const char *before, const char *options)
{
    return shell(text,
                 "%s\n$GRADE --kit $T/kit --class $T/class --out $T/marks --flags \"$FLAGS\" %s",
                 before, options);
}

static void a_class_is_graded_and_goes_on_where_it_stopped(void **state)
{
    static char text[ROOM];
    (void)state;
    class_new(text);
    assert_int_equal(class_grade(text, "", ""), 0);
    assert_says(text, "3 submissions, 3 graded now");
    assert_says(text, "3 graded, mean 3.0 of 6 points");
    read_file(text, "marks/grades.csv");
    assert_string_equal(text, "name,points,1.1,1.2,1.10\n\"ada\",6,2,3,1\n\"bob\",0,0,0,0\n"
                              "\"eve x\",3,2,0,1\n");
    class_grade(text, "", "");
    assert_says(text, "3 submissions, 0 graded now");
    assert_says(text, "3 graded, mean 3.0 of 6 points");
    class_grade(text, "rm $T/marks/bob.txt", "");
    assert_says(text, "bob is graded again: its results were gone\n3 submissions, 1 graded now");
    class_grade(text, "touch $T/class/ada/toy.c", ""); /* the contents are the same */
    assert_says(text, "3 submissions, 0 graded now");
    class_grade(text, "", "--seconds 3");
    assert_says(text, "ada is graded again: what it is graded by has changed");
    assert_says(text, "3 submissions, 3 graded now");
}

/* A resubmission may be older than what it replaces: a file's time is not its contents. */
static void a_resubmission_with_an_older_time_is_graded(void **state)
{
    static char text[ROOM];
    (void)state;
    class_new(text);
    class_grade(text, "", "");
    class_grade(text,
                "touch -t 200101010000 $T/class/ada/toy.c; cp -p $T/class/ada/toy.c $T/class/bob",
                "");
    assert_says(text, "bob is graded again: handed in again\n3 submissions, 1 graded now");
    read_file(text, "marks/grades.csv");
    assert_says(text, "\"bob\",6,2,3,1\n");
}

static void names_of_any_kind_keep_their_points(void **state)
{
    static char text[ROOM];
    (void)state;
    class_new(text);
    assert_int_equal(
        class_grade(text,
                    "cd $T/class; for name in -n -e 'a\\tb' 'a\\' \"$(printf 'a\\nb')\" ' ' "
                    "'\"q\"' \"it's\" '=1+1' '$(reboot)' '%s' 'åß 林' grades similar; do cp -R ada "
                    "\"./$name\"; done",
                    ""),
        0);
    assert_says(text, "17 submissions, 17 graded now");
    read_file(text, "marks/grades.csv");
    static const char *const fields[] = {
        "\"'-n\"", "\"'-e\"",       "\"a\\tb\"",  "\"a\\\"",    "\"a\nb\"",
        "\" \"",   "\"\"\"q\"\"\"", "\"it's\"",   "\"'=1+1\"",  "\"$(reboot)\"",
        "\"%s\"",  "\"åß 林\"",     "\"grades\"", "\"similar\""};
    for (size_t k = 0; k < sizeof fields / sizeof *fields; k++) {
        char line[64];
        snprintf(line, sizeof line, "%s,6,2,3,1\n", fields[k]);
        assert_says(text, line);
    }
    class_grade(text, "", "");
    assert_says(text, "17 submissions, 0 graded now");
}

/* The columns are those that Canvas's and Moodle's own importers look for. */
static void platforms_get_their_columns(void **state)
{
    static char text[ROOM];
    (void)state;
    class_new(text);
    assert_int_equal(class_grade(text,
                                 "cd $T/class; mv ada 'Ada Lovelace_4711_assignsubmission_file'; "
                                 "cp bob/toy.c doejane_12_345_toy-1.c; rm -r bob",
                                 ""),
                     0);
    read_file(text, "marks/canvas.csv");
    assert_string_equal(text, "Student,ID,SIS User ID,SIS Login ID,Section,Chapter 01\n"
                              "    Points Possible,,,,,6\n"
                              "\"Ada Lovelace\",,,\"Ada Lovelace_4711_assignsubmission_file\",,6\n"
                              "\"doejane\",12,,,,0\n\"eve x\",,,\"eve x\",,3\n");
    read_file(text, "marks/moodle.csv");
    assert_string_equal(text, "Identifier,Full name,Grade,Maximum grade,Last modified (grade)\n"
                              "Participant 4711,\"Ada Lovelace\",6,6,-\n"
                              ",\"doejane\",0,6,-\n,\"eve x\",3,6,-\n");
}

static void days_late_cost_what_was_said(void **state)
{
    static char text[ROOM];
    (void)state;
    class_new(text);
    assert_int_equal(class_grade(text,
                                 "export TZ=UTC; touch -t 202603011200.01 $T/class/ada/toy.c; "
                                 "touch -t 202603011200 $T/class/bob/toy.c; "
                                 "touch -t 202603041100 $T/class/eve*/toy.c",
                                 "--due '2026-03-01 12:00' --per-day 20"),
                     0);
    read_file(text, "marks/grades.csv");
    assert_string_equal(text,
                        "name,points,days late,points counted,1.1,1.2,1.10\n"
                        "\"ada\",6,1,4.8,2,3,1\n\"bob\",0,0,0,0,0,0\n\"eve x\",3,3,1.2,2,0,1\n");
    read_file(text, "marks/canvas.csv");
    assert_says(text, "\"ada\",,,\"ada\",,4.8\n");
    assert_int_equal(class_grade(text, "", "--due tomorrow"), 1);
    assert_says(text, "--due: tomorrow: the time is written 2026-11-30 23:59");
}

static void who_wrote_the_same_is_listed(void **state)
{
    static char text[ROOM];
    (void)state;
    class_new(text);
    write_file("mine", "for (size_t i = 0; i != n; i++) /* mine */\nsum = toy_sum(x[i], sum);");
    write_file("yours", "for(size_t position=0;position!=n;position++)\n\nsum = toy_sum(x "
                        "[position],sum); // yours");
    write_file("other", "for (size_t i = 0; i != n; i++)\nsum = toy_sum(sum, x[i]);");
    shell(text, "cd $T/class; mkdir fay gil hal; put 1.2 $T/mine fay; put 1.2 $T/yours gil; put "
                "1.2 $T/other hal");
    assert_int_equal(class_grade(text, "", "--reference $T/course"), 0);
    assert_says(text, "1 pair wrote the same");
    read_file(text, "marks/similar.csv");
    assert_string_equal(text, "one,other,tokens that are the same,exercises\n"
                              "\"fay\",\"gil\",28, 1.2\n\"ada\",\"the course\",58, 1.2 1.10\n");
}

/* A folder that is not there, or none at all, is not the course itself. */
static void a_class_is_graded_only_from_a_folder(void **state)
{
    static char text[ROOM];
    (void)state;
    class_new(text);
    assert_int_equal(class_grade(text, "", "--class ''"), 1);
    assert_says(text, "error: --class: : no such folder");
    assert_int_equal(class_grade(text, "", "--class /no/where"), 1);
    assert_says(text, "error: --class: /no/where: no such folder");
    assert_int_equal(class_grade(text, "", "--probes /no/where"), 1);
    assert_says(text, "error: --probes: /no/where: no such folder");
    assert_int_equal(shell(text, "test -e $T/marks"), 1);
    assert_int_equal(class_grade(text, "mkdir $T/empty", "--class $T/empty"), 1);
    assert_says(text, "there is no folder and no zip file in it");
}

static void gradescope_runs_the_autograder(void **state)
{
    static char text[ROOM];
    (void)state;
    if (shell(text, "command -v zip && command -v unzip") != 0) {
        print_message("zip and unzip are not installed\n");
        skip();
    }
    assert_int_equal(
        shell(text,
              "set -e; cd $T/course\n"
              "sh $C/gradescope.sh $T/kit $C/toy/hidden $T/auto.zip\n"
              "sh $C/gradescope.sh $T/kit $C/toy/hidden $T/again.zip\n"
              "cmp $T/auto.zip $T/again.zip\n"
              "mkdir -p $T/gs/source $T/gs/submission; cd $T/gs/source; unzip -q $T/auto.zip\n"
              "cp $C/toy/ch01_toy/toy.c $T/gs/submission; cd /\n"
              "env -i PATH=\"$PATH\" AUTOGRADER=$T/gs $T/gs/source/run_autograder"),
        0);
    read_file(text, "gs/results/results.json");
    assert_says(text, "\"score\": 6,");
    assert_says(text, "\"after_published\"");
    shell(text, ": > $T/gs/source/kit/tests/exercises.txt; "
                "AUTOGRADER=$T/gs $T/gs/source/run_autograder"); /* there is always a result */
    read_file(text, "gs/results/results.json");
    assert_says(text, "The grader itself failed: please tell your teacher.");
}

/* Every line of the guide's table of what is protected how ends with a test, and that test is
   there. */
static void what_the_guide_says_is_protected_has_its_test(void **state)
{
    static char text[ROOM];
    (void)state;
    assert_int_equal(shell(text,
                           "sed -n '/^### How safe/,/^## /p' tests/README.md | "
                           "sed -n 's/^| [a-z].*| `\\([a-z_]*\\)` |$/\\1/p' > $T/shown_by; "
                           "[ $(wc -l < $T/shown_by) -ge 12 ] || exit 2; while read -r name; do "
                           "grep -q \"cmocka_unit_test($name)\" tests/test_cage.c "
                           "tests/test_classroom.c || echo \"$name\"; done < $T/shown_by"),
                     0);
    assert_string_equal(text, "");
}

/* ---- what `make classroom-check` must find --------------------------------------------------- */

/* Edits the toy course, runs the check on it, and puts everything back. */
static int check_edited(char *text, const char *share, const char *edit)
{
    return shell(text,
                 "cd $T/course && mkdir -p build && echo \"$FLAGS\" > build/cmocka.flags && "
                 "cp $GRADE build/grade\n%s\nSHARE=%s BUILD=build sh tests/classroom/check.sh 01; "
                 "status=$?\ncp -R $C/toy/. $T/course/; exit $status",
                 edit, share);
}

static void an_exercise_that_is_not_fit_is_found(void **state)
{
    static char text[ROOM];
    static const char *const none = "99/99"; /* of what the edits below do not touch */
    (void)state;
    assert_int_equal(check_edited(text, "", ""), 0);
    assert_says(text, "chapter 01: 3 exercises, 6 points, 3 wrong solutions noticed");
    assert_says(text, "note: exercise 1.10 has 0 wrong solutions");

    assert_int_equal(check_edited(text, none, "sed -i.old '/A loop over/d' ch01_toy/toy.c"), 1);
    assert_says(text, "exercise 1.2 has fewer than two hints");

    assert_int_equal(
        check_edited(
            text, none,
            "sed -i.old 's/cmocka_unit_test(ex1_2_a_mean_by_hand),//; s/not_of_an/ex1_4_&/;"
            "s/toy_sum(2, 2), 4/4, 4/; s/toy_sum(-3, 1), -2/toy_sum(-3, 1), -3/;"
            "$a// sum = toy_sum(sum, x[at]);' tests/test_ch01_toy.c"),
        1);
    assert_says(text, "exercise 1.2 has no test (ex1_2_...)");
    assert_says(text, "there are tests ex1_4..., but no exercise 1.4");
    assert_says(text, "exercise 1.1: some of its tests pass without it");
    assert_says(text, "the course itself does not score 6 of 6");
    assert_says(text, "the assignment holds lines of the solution");

    assert_int_equal(
        check_edited(text, none, "sed -i.old 's/{1, 2, 6}/{6, 2, 1}/' tests/test_ch01_toy.c"), 1);
    assert_says(text, "chapter 01: with nothing written it scores:");
    assert_says(text, "1 of 6");

    assert_int_equal(
        check_edited(text, none,
                     "sed -i.old 's/{1, 2, 6}/{2, 2, 2}/; s/, 6, 0/, 2, 0/; s/toy_mean(x, 3), 3/"
                     "toy_mean(x, 3), 2/' tests/test_ch01_toy.c"),
        1);
    assert_says(text, "exercise 1.2: a wrong solution scores full points: s/x.at./x[0]/");
}

/* ---- everything ------------------------------------------------------------------------------ */

static int group_setup(void **state)
{
    static char text[ROOM];
    (void)state;
    int status = course_new(text);
    return status == 0 ? samples_grade(text) : status;
}

int main(void)
{
    static const struct CMUnitTest others[] = {
        cmocka_unit_test(nothing_of_a_submission_is_left),
        cmocka_unit_test(an_assignment_has_stubs_and_no_solution),
        cmocka_unit_test(a_lesson_is_handed_out_without_what_it_would_give_away),
        cmocka_unit_test(a_lesson_that_says_a_solution_all_the_same_is_refused),
        cmocka_unit_test(a_kit_holds_what_its_chapter_names_and_says_no_more),
        cmocka_unit_test(the_same_course_gives_the_same_bytes),
        cmocka_unit_test(malformed_markers_are_refused),
        cmocka_unit_test(a_student_is_told_what_is_missing_and_where_to_read),
        cmocka_unit_test(a_student_can_test_one_exercise_and_see_the_score),
        cmocka_unit_test(the_sanitizers_find_what_a_test_does_not),
        cmocka_unit_test(a_mistake_in_one_exercise_costs_no_other),
        cmocka_unit_test(a_mistake_costs_no_probe_of_another),
        cmocka_unit_test(half_of_the_work_is_worth_half),
        cmocka_unit_test(only_the_chapter_s_own_files_are_taken),
        cmocka_unit_test(links_pipes_and_folders_are_no_submission),
        cmocka_unit_test(a_submission_is_found_and_the_report_says_where),
        cmocka_unit_test(a_zip_file_is_opened),
        cmocka_unit_test(lost_markers_and_broken_helpers_cost_what_they_touch),
        cmocka_unit_test(a_slip_in_one_file_costs_nothing_in_those_that_include_it),
        cmocka_unit_test(the_compiler_and_the_sanitizer_name_the_student_s_lines),
        cmocka_unit_test(the_compiler_s_words_are_short),
        cmocka_unit_test(warnings_are_shown_where_the_student_has_written),
        cmocka_unit_test(a_student_s_broken_helper_is_said_once),
        cmocka_unit_test(a_marker_that_is_gone_is_named),
        cmocka_unit_test(without_namespaces_the_limits_still_hold),
        cmocka_unit_test(a_submission_that_sleeps_is_not_waited_for),
        cmocka_unit_test(probes_count_and_say_only_their_verdict),
        cmocka_unit_test(probes_have_new_numbers_in_every_run),
        cmocka_unit_test(a_hidden_test_that_judges_by_itself_is_refused),
        cmocka_unit_test(a_probe_that_the_course_itself_fails_is_an_error),
        cmocka_unit_test(results_are_what_gradescope_reads),
        cmocka_unit_test(a_class_is_graded_and_goes_on_where_it_stopped),
        cmocka_unit_test(a_resubmission_with_an_older_time_is_graded),
        cmocka_unit_test(names_of_any_kind_keep_their_points),
        cmocka_unit_test(platforms_get_their_columns),
        cmocka_unit_test(days_late_cost_what_was_said),
        cmocka_unit_test(who_wrote_the_same_is_listed),
        cmocka_unit_test(a_class_is_graded_only_from_a_folder),
        cmocka_unit_test(gradescope_runs_the_autograder),
        cmocka_unit_test(what_the_guide_says_is_protected_has_its_test),
        cmocka_unit_test(an_exercise_that_is_not_fit_is_found),
    };
    enum { OTHERS = sizeof others / sizeof *others };
    struct CMUnitTest tests[SAMPLES + OTHERS];
    memset(tests, 0, sizeof tests);
    for (size_t k = 0; k < SAMPLES; k++) {
        tests[k].name = samples[k].name;
        tests[k].test_func = a_sample_costs_what_it_touches;
        tests[k].initial_state = (void *)&samples[k];
    }
    memcpy(tests + SAMPLES, others, sizeof others);
    return cmocka_run_group_tests_name("the classroom", tests, group_setup, course_remove);
}
