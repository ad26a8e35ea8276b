/* What is graded: the kit's exercises, the tests found in it and beside it, and all that one
   grading knows.

   HOLDS  Exercise, Program, Test, Grading; kit_read; tests_find
   FOR    the other files of the grader: grade.c */

#ifndef GRADE_KIT
#define GRADE_KIT

#include "grade_tools.c"

enum { MAX_EXERCISES = 64, MAX_TESTS = 512, MAX_PROGRAMS = 64, MAX_PROBE_DIRS = 4 };

/* One marked exercise, as tests/exercises.txt has it. */
typedef struct {
    char id[16];                   /* "4.2" */
    double points;                 /* shared evenly by its tests */
    int minutes;                   /* that it should take */
    char file[256];                /* ch04_selective/selective.c */
    char title[256], section[256]; /* what to write; where the lesson speaks of it */
    Text broken;       /* what the compiler said, if this exercise alone does not compile */
    Text warnings;     /* of the compiler, of lines between its markers: for the student */
    Text handed_in;    /* its file, if it is the first exercise of that */
    int tests, passed; /* public ones */
    int probes, probes_passed;
    int late;  /* how often a test of it ran out of time */
    bool lost; /* a test of it has not passed */
} Exercise;

typedef enum { PASS, FAIL, UNWRITTEN, CRASH, TIMEOUT, FLOOD, QUIT, NOT_COMPILED, NOT_RUN } Verdict;

static const char *const verdict_word[] = {"pass",     "FAIL", "todo",  "CRASH",  "TIMEOUT",
                                           "TOO LONG", "QUIT", "NOT C", "not run"};

/* What one C file of tests became. */
typedef struct {
    char name[256];  /* test_ch04_selective */
    char built[300]; /* build/test_ch04_selective */
    const char *dir; /* where its source is */
    bool probe;      /* it prints numbers; else it is a public test and judges by itself */
    bool compiled;
    bool needed;      /* a test of it is run */
    char only[32];    /* "ex4_1_": built for the probes of this exercise; "": for all */
    double tolerance; /* of a probe's numbers */
    Text message;     /* of the compiler */
} Program;

typedef struct {
    int exercise, program;
    char name[256]; /* ex4_2_steps_are_the_scan_bit_for_bit */
    Verdict verdict;
    double seconds;
    Text output; /* for people: what was expected and what came; nothing of a probe */
    Text want;   /* what the probe prints with the course's own chapter */
} Test;

typedef struct {
    const char *kit, *submission, *reference;
    const char *probes[MAX_PROBE_DIRS]; /* folders */
    int n_probes;
    const char *exercise; /* only this one, or NULL */
    const char *results, *junit;
    const char *compiler, *flags, *optimise;
    bool sanitize, score_only, for_student;
    bool probes_only;        /* public tests are run only of exercises that have no probe */
    const char *probe_flags; /* which compile only what a probe uses, if the compiler can */
    bool plain;              /* without the cage */
    double seconds;          /* of processor time for one test */
    double clock;            /* seconds for the whole submission, see clock_left; 0: no end */
    unsigned long long seed; /* the probes' random inputs come from it */

    char chapter[8];
    Exercise exercises[MAX_EXERCISES];
    Program programs[MAX_PROGRAMS];
    Test tests[MAX_TESTS];
    int n_exercise, n_program, n_test;
    char *work;           /* the fresh copy of the kit */
    Text solutions;       /* of all exercises, between their markers */
    Text notes;           /* what the student should know besides */
    const char *prefix;   /* of the submission's files among those of others, or NULL */
    uint64_t taken;       /* of the contents of what was handed in */
    time_t newest;        /* of the files that were taken */
    double started, lost; /* lost: seconds of runs that were stopped */
} Grading;

static Exercise *exercise_find(Grading *grading, const char *id)
{
    for (int i = 0; i < grading->n_exercise; i++)
        if (strcmp(grading->exercises[i].id, id) == 0)
            return &grading->exercises[i];
    return NULL;
}

/* One line of tests/exercises.txt: a word, an exercise, and what the word is about. */
static bool kit_line(Grading *grading, char *line)
{
    char id[16];
    int rest = 0;
    if (sscanf(line, "chapter %7s", grading->chapter) == 1)
        return true;
    if (sscanf(line, "exercise %15s %n", id, &rest) == 1 && rest > 0) {
        if (grading->n_exercise == MAX_EXERCISES)
            return false;
        Exercise *new = &grading->exercises[grading->n_exercise++];
        snprintf(new->id, sizeof new->id, "%s", id);
        return sscanf(line + rest, "%lf %d %255s %255[^\n]", &new->points, &new->minutes, new->file,
                      new->title) == 4;
    }
    if (sscanf(line, "%*s %15s %n", id, &rest) != 1 || rest == 0)
        return false;
    Exercise *known = exercise_find(grading, id);
    if (known == NULL)
        return false;
    if (strncmp(line, "section ", 8) == 0) /* hints are for make hint */
        snprintf(known->section, sizeof known->section, "%s", line + rest);
    return true;
}

static void kit_read(Grading *grading)
{
    char *path = join(grading->kit, "tests/exercises.txt");
    Text text = {NULL, 0, 0};
    if (!read_path(&text, path))
        die("%s: cannot be read: is this a folder that make assignment wrote?", path);
    char *rest = text.data;
    for (char *line; (line = strsep(&rest, "\n")) != NULL;)
        if (*line != '\0' && !kit_line(grading, line))
            die("%s: this line is not understood: %s", path, line);
    if (grading->n_exercise == 0 || grading->chapter[0] == '\0')
        die("%s: no exercises", path);
    text_free(&text);
    free(path);
}

/* The exercise that a test's name belongs to: ex4_2_... is a test of 4.2. */
static Exercise *exercise_of_name(Grading *grading, const char *name)
{
    int chapter, number, end = 0;
    char id[32];
    if (sscanf(name, "ex%d_%d_%n", &chapter, &number, &end) != 2 || end == 0)
        return NULL;
    snprintf(id, sizeof id, "%d.%d", chapter, number);
    return exercise_find(grading, id);
}

static void test_add(Grading *grading, int program, const char *name)
{
    Exercise *exercise = exercise_of_name(grading, name);
    if (exercise == NULL || (grading->exercise && strcmp(grading->exercise, exercise->id) != 0))
        return;
    if (grading->n_test == MAX_TESTS)
        die("more than %d tests", MAX_TESTS);
    Test *test = &grading->tests[grading->n_test++];
    memset(test, 0, sizeof *test);
    test->exercise = (int)(exercise - grading->exercises);
    test->program = program;
    test->verdict = NOT_RUN;
    snprintf(test->name, sizeof test->name, "%s", name);
    *(grading->programs[program].probe ? &exercise->probes : &exercise->tests) += 1;
}

/* "tolerance 1e-9" anywhere in the file, or 1e-5. */
static double tolerance_of(const char *text)
{
    double tolerance;
    const char *at = strstr(text, "tolerance ");
    return at != NULL && sscanf(at + 10, "%lf", &tolerance) == 1 ? tolerance : 1e-5;
}

/* The names in the table of a C file: cmocka_unit_test(ex4_2_...), or PROBE(ex4_2_...). */
static void table_read(Grading *grading, int program, const char *text, const char *word)
{
    for (const char *at = text; (at = strstr(at, word)) != NULL;) {
        char name[256];
        at += strcspn(at, "(\n");
        if (sscanf(at, "(%255[A-Za-z0-9_]", name) == 1)
            test_add(grading, program, name);
    }
}

static void program_add(Grading *grading, const char *dir, const char *path, bool probe)
{
    Text text = {NULL, 0, 0};
    if (grading->n_program == MAX_PROGRAMS || !read_path(&text, path))
        die("%s: cannot be read, or too many of them", path);
    Program *program = &grading->programs[grading->n_program];
    memset(program, 0, sizeof *program);
    snprintf(program->name, sizeof program->name, "%.*s", (int)strcspn(base_name(path), "."),
             base_name(path));
    snprintf(program->built, sizeof program->built, "build/%.*s",
             (int)strcspn(base_name(path), "."), base_name(path));
    program->dir = dir;
    program->probe = probe;
    program->tolerance = tolerance_of(text_of(&text));
    int before = grading->n_test;
    table_read(grading, grading->n_program, text_of(&text), probe ? "PROBE" : "cmocka_unit_test");
    if (probe && grading->n_test == before) /* the whole file is one */
        test_add(grading, grading->n_program, program->name);
    grading->n_program += grading->n_test > before; /* else nothing in it is graded */
    text_free(&text);
}

static void programs_find(Grading *grading, const char *dir, const char *pattern, bool probe)
{
    glob_t found;
    char *path = join(dir, pattern);
    if (glob(path, 0, NULL, &found) == 0) {
        for (size_t i = 0; i < found.gl_pathc; i++)
            program_add(grading, dir, found.gl_pathv[i], probe);
        globfree(&found);
    }
    free(path);
}

/* A test that judges by itself stands in the submission's own process, where it can be forged. */
static void refuse_judges(const char *dir)
{
    glob_t found;
    char *path = join(dir, "test_*.c");
    if (glob(path, 0, NULL, &found) == 0)
        die("%s: a hidden test must be a probe, which prints numbers and leaves it to the grader "
            "to judge them (tests/README.md): others can be forged",
            found.gl_pathv[0]);
    free(path);
}

static void tests_find(Grading *grading)
{
    char pattern[64];
    snprintf(pattern, sizeof pattern, "tests/test_ch%s_*.c", grading->chapter);
    programs_find(grading, grading->kit, pattern, false);
    for (int k = 0; k < grading->n_probes; k++) {
        refuse_judges(grading->probes[k]);
        programs_find(grading, grading->probes[k], "*.c", true);
    }
    if (grading->n_test == 0)
        die("%s: there is no test%s%s", grading->kit, grading->exercise ? " of exercise " : "",
            grading->exercise ? grading->exercise : "");
    if (grading->n_probes > 0 && grading->reference == NULL)
        die("probes need --reference, the solved course");
}

#endif
