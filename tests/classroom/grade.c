/* The grader: compiles a submission with the tests of an assignment, runs each test by itself,
   and says what each exercise is worth.

       grade --kit build/assignments/ch04 --submission handed_in/ada --results results.json
       grade --kit build/assignments/ch04 --class handed_in --out marks

   A KIT is a folder that `make assignment` wrote: the chapters, the tests, tests/exercises.txt
   with points, hints and places in the lesson. From the SUBMISSION come the chapter's own files
   and nothing else; they are put into a fresh copy of the kit. A student's `make test` runs the
   same program on the student's own folder.

   What is trusted: the kit and this program. What is not: the submission, when it is compiled and
   when it runs. Both happen in the cage (grade_cage.c).

   There are two kinds of tests. A PUBLIC TEST judges in the submission's own process: it has passed
   when cmocka says so and the process hands back a ticket (one_test.c). No text printed and no exit
   status makes it pass, but code that is out to can: it shares macros, memory and descriptors with
   the test. A PROBE judges nothing: it prints numbers. What is right is computed by the same
   program with the course's own chapter (--reference), in another process, on the same inputs,
   which are new in every run; the two are compared here. There is nothing to forge and nothing to
   know beforehand. Where an exercise has probes, they alone count. */

#include "grade_submission.c"
#include "grade_results.c"

enum {
    TODO_STATUS = 97,      /* of exercise.h */
    PROBE_BYTES = 1 << 20, /* of the numbers a probe prints */
};

/* ==================================== Running ============================================== */

static void job_limits(Job *job, const Grading *grading)
{
    job->cpu = grading->seconds;
    job->wall = 2.0 * grading->seconds;
    job->memory = grading->sanitize ? 0 : 512 * MIB; /* the sanitizers reserve terabytes */
    job->file = 16 * MIB;
    job->processes = 8;
    job->keep = KEPT_BYTES;
}

static Verdict verdict_of(const Outcome *outcome, double seconds)
{
    int status = outcome->status;
    if (outcome->flooded)
        return FLOOD;
    if (outcome->late)
        return TIMEOUT;
    if (status == NEVER_ENDED)
        return CRASH; /* it killed its warden, and so itself */
    if (WIFSIGNALED(status)) {
        int number = WTERMSIG(status);
        bool time = number == SIGXCPU || (number == SIGKILL && outcome->seconds >= seconds);
        return time ? TIMEOUT : number == SIGXFSZ ? FLOOD : CRASH;
    }
    if (WEXITSTATUS(status) == TODO_STATUS)
        return UNWRITTEN;
    if (outcome->ticket && WEXITSTATUS(status) == 0)
        return PASS;
    if (strstr(text_of(&outcome->output), "Test failed with exception") != NULL ||
        strstr(text_of(&outcome->output), "ERROR: AddressSanitizer") != NULL)
        return CRASH;
    return WEXITSTATUS(status) == 1 ? FAIL : QUIT;
}

/* What the words of a verdict mean, for people. */
static void verdict_say(Text *out, Verdict verdict, const Outcome *outcome, const Grading *grading)
{
    bool killed = outcome->status != NEVER_ENDED && WIFSIGNALED(outcome->status);
    switch (verdict) {
    case TIMEOUT:
        text_say(out, "stopped after %.1f s (%.0f s of work are allowed): a loop without end?\n",
                 outcome->seconds, grading->seconds);
        break;
    case FLOOD: text_say(out, "stopped: it printed or wrote without end\n"); break;
    case QUIT: text_say(out, "the program ended before the test did: an exit() in it?\n"); break;
    case CRASH:
        if (killed)
            text_say(out, "crashed: %s\n", strsignal(WTERMSIG(outcome->status)));
        if (strstr(text_of(out), strsignal(SIGFPE)) != NULL) /* cmocka catches it and names it */
            text_say(out, "a whole number divided by 0?\n");
        else if (!grading->sanitize && strstr(text_of(out), "Assertion") == NULL)
            text_say(out, "a write or read outside an array, or endless recursion? make test "
                          "SANITIZE=1 names the line\n");
        break;
    default: break;
    }
}

/* The lines of a test's output that say what was expected, without cmocka's frame round them. */
static void lines_keep(Text *out, char *text)
{
    int kept = 0;
    for (char *line; kept < 8 && (line = strsep(&text, "\n")) != NULL;) {
        if (strncmp(line, "[  ERROR   ] --- ", 17) == 0)
            line += 17;
        else if (strncmp(line, "tests/../", 9) == 0)
            line += 9;
        else if (*line == '[' || *line == '\0')
            continue;
        if (strstr(line, "error: Failure!") == NULL && strncmp(line, " 1 FAILED TEST", 14) != 0) {
            text_say(out, "%.300s\n", line);
            kept++;
        }
    }
}

static void test_run(Grading *grading, Test *test, const Program *program)
{
    Job job;
    Outcome outcome;
    memset(&job, 0, sizeof job);
    job.argv[0] = copy_text(program->built);
    snprintf(job.one_test, sizeof job.one_test, "ONE_TEST=%s", test->name);
    job_limits(&job, grading);
    cage_run(&outcome, grading, &job);
    test->seconds = outcome.seconds;
    test->verdict = verdict_of(&outcome, grading->seconds);
    if (test->verdict != PASS && outcome.output.data != NULL)
        lines_keep(&test->output, outcome.output.data);
    verdict_say(&test->output, test->verdict, &outcome, grading);
    const Exercise *exercise = &grading->exercises[test->exercise];
    long line = test->verdict == UNWRITTEN ? stub_line(grading, test->exercise) : 0;
    if (line > 0) { /* whatever stub was met first: this is the one to write */
        text_free(&test->output);
        text_say(&test->output, "%s:%ld: exercise %s is not written yet: make hint EX=%s\n",
                 exercise->file, line, exercise->id, exercise->id);
    }
    text_free(&outcome.output);
    job_free(&job);
}

/* ---- probes --------------------------------------------------------------------------------- */

/* Runs a probe in the work folder and keeps what it prints. */
static bool probe_run(Outcome *outcome, const Grading *grading, const Test *test,
                      const Program *program)
{
    Job job;
    char seed[32];
    memset(&job, 0, sizeof job);
    job.argv[0] = copy_text(program->built);
    snprintf(seed, sizeof seed, "%llu", grading->seed);
    job.argv[1] = copy_text(test->name);
    job.argv[2] = copy_text(seed);
    job_limits(&job, grading);
    job.keep = PROBE_BYTES;
    job.keep_stdout_only = true;
    cage_run(outcome, grading, &job);
    job_free(&job);
    return outcome->status == 0 && !outcome->late && !outcome->flooded && outcome->output.len > 0;
}

/* Word for word, and number for number within the tolerance. Infinities and NaN are near
   nothing. */
static bool numbers_agree(char *got, char *want, double tolerance)
{
    static const char blank[] = " \t\r\n";
    char *got_rest, *want_rest;
    char *g = strtok_r(got, blank, &got_rest), *w = strtok_r(want, blank, &want_rest);
    for (; g != NULL && w != NULL;
         g = strtok_r(NULL, blank, &got_rest), w = strtok_r(NULL, blank, &want_rest)) {
        char *g_end, *w_end;
        double a = strtod(g, &g_end), b = strtod(w, &w_end);
        bool both = *g_end == '\0' && *w_end == '\0';
        if (both ? !(isfinite(b) && fabs(a - b) <= tolerance * fmax(1.0, fabs(b)))
                 : strcmp(g, w) != 0)
            return false;
    }
    return g == NULL && w == NULL;
}

/* The grading itself cannot go on. */
__attribute__((noreturn)) static void give_up(const Grading *grading, const char *what,
                                              const Text *message)
{
    remove_tree(grading->work);
    die("%s: %s", what, text_of(message));
}

/* The tests' own part. */
static bool one_test_compile(Text *message, Grading *grading, const char *options)
{
    char *words;
    if (asprintf(&words, "-c tests/one_test.c %s %s", options, grading->flags) < 0)
        die("out of memory");
    bool ok = compile(message, grading, words);
    free(words);
    return ok;
}

/* What every probe prints with the course's own chapters. Nothing of it is left on the disk when
   submission comes. */
static void probes_reference(Grading *grading)
{
    if (grading->n_probes == 0)
        return;
    double clock = grading->clock;
    grading->clock = 0.0; /* this time is not the submission's */
    grading->work = work_new(grading->reference);
    char *tests = join(grading->kit, "tests");
    place_in_tests(grading, tests, "exercise.h");
    place_in_tests(grading, tests, "probe.h");
    free(tests);
    for (int p = 0; p < grading->n_program; p++)
        if (grading->programs[p].probe)
            grading->programs[p].compiled =
                program_compile(&grading->programs[p].message, grading, &grading->programs[p]);
    for (int t = 0; t < grading->n_test; t++) {
        Test *test = &grading->tests[t];
        Outcome outcome;
        const Program *program = &grading->programs[test->program];
        if (!program->probe)
            continue;
        if (!program->compiled || !probe_run(&outcome, grading, test, program))
            give_up(grading, "a probe does not work with the course's own chapter",
                    program->compiled ? &(Text){test->name, strlen(test->name), 0}
                                      : &program->message);
        test->want = outcome.output;
    }
    remove_tree(grading->work);
    free(grading->work);
    grading->work = NULL;
    grading->clock = clock;
}

static void probe_test(Grading *grading, Test *test, const Program *program)
{
    Outcome outcome;
    bool ran = probe_run(&outcome, grading, test, program);
    char *want = copy_text(text_of(&test->want));
    outcome.ticket = ran && numbers_agree(outcome.output.data, want, program->tolerance);
    test->seconds = outcome.seconds;
    test->verdict = ran && !outcome.ticket ? FAIL : verdict_of(&outcome, grading->seconds);
    free(want);
    text_free(&outcome.output);
}

/* ==================================== Grading ============================================== */

static bool said_before(const Grading *grading, const Test *test, const char *text)
{
    for (const Test *before = grading->tests; before < test; before++)
        if (before->exercise == test->exercise && strcmp(text_of(&before->output), text) == 0)
            return true;
    return false;
}

/* One test with a build of its program, that of the whole submission or another. Who has run out of
   time twice in an exercise will again: its other tests are not waited for. */
static void test_judge(Grading *grading, Test *test, const Program *program)
{
    Exercise *exercise = &grading->exercises[test->exercise];
    const Text *message = exercise->broken.len > 0 ? &exercise->broken : &program->message;
    text_free(&test->output);
    if (exercise->broken.len > 0 || !program->compiled) {
        test->verdict = NOT_COMPILED;
        if (!program->probe) /* what the compiler says of a probe quotes it */
            text_say(&test->output, "%s",
                     said_before(grading, test, text_of(message)) ? "as above\n"
                                                                  : text_of(message));
    } else if (exercise->late >= 2) {
        test->verdict = TIMEOUT;
        text_say(&test->output, "not run: this exercise has run out of time already\n");
    } else if (clock_left(grading) <= 0.0) {
        test->verdict = NOT_RUN;
        text_say(&test->output, "not run: %.0f s were lost in what had to be stopped\n",
                 grading->lost);
    } else {
        if (program->probe)
            probe_test(grading, test, program);
        else
            test_run(grading, test, program);
        if (test->verdict == TIMEOUT) {
            exercise->late++;
            grading->lost += test->seconds;
        }
    }
}

static void test_count(Grading *grading, const Test *test)
{
    Exercise *exercise = &grading->exercises[test->exercise];
    bool probe = grading->programs[test->program].probe, pass = test->verdict == PASS;
    *(probe ? &exercise->probes_passed : &exercise->passed) += pass;
    exercise->lost = exercise->lost || !pass;
    if (grading->results != NULL)
        results_json(grading);
}

static bool is_wanted(const Grading *grading, const Test *test)
{
    return grading->programs[test->program].probe || !grading->probes_only ||
           grading->exercises[test->exercise].probes == 0;
}

/* The next test of exercise k in program p, from number t on; n_test if there is none. */
static int next_test(const Grading *grading, int k, int p, int t)
{
    while (t < grading->n_test &&
           (grading->tests[t].exercise != k || grading->tests[t].program != p ||
            !is_wanted(grading, &grading->tests[t])))
        t++;
    return t;
}

/* The tests of exercise k in program p, in the build of the whole submission, up to the first that
   does not pass: its number, or n_test. */
static int tests_in_whole(Grading *grading, int k, int p)
{
    int t = next_test(grading, k, p, 0);
    for (; t < grading->n_test; t = next_test(grading, k, p, t + 1)) {
        test_judge(grading, &grading->tests[t], &grading->programs[p]);
        if (grading->tests[t].verdict != PASS)
            break;
        test_count(grading, &grading->tests[t]);
    }
    if (t < grading->n_test)
        grading->exercises[k].lost = true;
    return t;
}

/* If only one exercise is tested, nothing is known of the others. */
static bool others_lost(const Grading *grading, int k)
{
    bool any = grading->exercise != NULL;
    for (int j = 0; j < grading->n_exercise; j++)
        any = any || (j != k && grading->exercises[j].lost);
    return any;
}

/* The rest of them, from the one that did not pass on. If another exercise has lost something
   too, it may be to blame: they run in a build with the others solved. If that does not compile,
   the build of the whole submission stays. It is removed before any other exercise is tested: the
   solution of that one is in it. */
static void tests_alone(Grading *grading, int k, int p, int t)
{
    Program alone = grading->programs[p];
    if (grading->exercises[k].broken.len == 0 && stub_line(grading, k) == 0 &&
        others_lost(grading, k)) {
        compile_alone(&alone, grading, k);
        if (alone.compiled)
            test_judge(grading, &grading->tests[t], &alone);
        else
            alone = grading->programs[p];
    }
    test_count(grading, &grading->tests[t]);
    while ((t = next_test(grading, k, p, t + 1)) < grading->n_test) {
        test_judge(grading, &grading->tests[t], &alone);
        test_count(grading, &grading->tests[t]);
    }
    remove_built(grading, "build/alone");
}

/* Runs the probes or the public tests, and writes the results after each. Called after their
   programs were compiled. */
static void tests_run(Grading *grading, bool probes)
{
    static int at[MAX_PROGRAMS][MAX_EXERCISES]; /* the first test that has not passed */
    for (int p = 0; p < grading->n_program; p++)
        for (int k = 0; k < grading->n_exercise; k++)
            at[p][k] = grading->programs[p].probe == probes ? tests_in_whole(grading, k, p)
                                                            : grading->n_test;
    for (int p = 0; p < grading->n_program; p++)
        for (int k = 0; k < grading->n_exercise; k++)
            if (at[p][k] < grading->n_test)
                tests_alone(grading, k, p, at[p][k]);
    for (int p = 0; p < grading->n_program; p++)
        if (grading->programs[p].probe == probes)
            remove_built(grading, grading->programs[p].built);
}

/* What a teacher must know about a machine that has no cage. */
static void say_what_is_not_protected(Grading *grading)
{
    if (grading->for_student || !grading->plain)
        return;
    text_say(
        &grading->notes,
        "graded without the cage, which this machine does not allow: limits of time, memory and "
        "processes held, but the submission could use the network, %s\n",
        geteuid() == 0 ? "read what everybody may read and write where everybody may write"
                       : "and read and write whatever you may, these results too");
}

/* One submission: into a copy of the kit. */
static void grade_begin(Grading *grading)
{
#ifdef __linux__
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); /* see kill_orphans */
#endif
    grading->started = now();
    grading->work = work_new(grading->kit);
    submission_place(grading);
}

/* Is a public test run? In a class most often none is. */
static bool any_judges(const Grading *grading)
{
    bool any = false;
    for (int p = 0; p < grading->n_program; p++)
        any = any || (grading->programs[p].needed && !grading->programs[p].probe);
    return any;
}

/* And its tests. */
static void grade_finish(Grading *grading)
{
    Text message = {NULL, 0, 0};
    bool salvaged = false;
    if (any_judges(grading) && !one_test_compile(&message, grading, "-o build/one_test.o"))
        give_up(grading, "the tests' own part does not compile", &message);
    for (int probes = 1; probes >= 0; probes--) {
        if (!programs_compile(grading, probes) && !salvaged) {
            salvage(grading);
            salvaged = true;
            programs_compile(grading, probes);
        }
        tests_run(grading, probes);
    }
    say_what_is_not_protected(grading);
    text_free(&message);
    remove_tree(grading->work);
}

/* Everything that is the same for all submissions. */
static void grading_prepare(Grading *grading)
{
    kit_read(grading);
    if (grading->exercise != NULL && exercise_find(grading, grading->exercise) == NULL) {
        Text all = {NULL, 0, 0};
        for (int k = 0; k < grading->n_exercise; k++)
            text_say(&all, " %s", grading->exercises[k].id);
        die("there is no exercise %s here; there are%s", grading->exercise, text_of(&all));
    }
    tests_find(grading);
    solutions_read(grading);
    grading->work = work_new(grading->kit);
    cage_try(grading);
    Text message = {NULL, 0, 0};
    grading->probe_flags = "";
    if (grading->n_probes > 0 &&
        one_test_compile(&message, grading, "-Werror -Og -fwhole-program -o build/try.o"))
        grading->probe_flags = "-Og -fwhole-program";
    text_free(&message);
    remove_tree(grading->work);
    free(grading->work);
    for (int t = 0; t < grading->n_test; t++)
        if (is_wanted(grading, &grading->tests[t]))
            grading->programs[grading->tests[t].program].needed = true;
    probes_reference(grading);
}

static void report(const Grading *grading)
{
    print_report(grading);
    if (grading->results != NULL)
        results_json(grading);
    if (grading->junit != NULL)
        results_junit(grading);
}

#include "grade_class.c"

/* ==================================== The program ========================================== */

static const char usage_text[] =
    "usage: grade --kit DIR [options]\n"
    "  --kit DIR           a folder that make assignment wrote\n"
    "  --submission DIR    what was handed in, a folder or a zip file (default: the kit itself, as "
    "a\n"
    "                      student runs it)\n"
    "  --class DIR         every folder and zip file in it is a submission; marks go to --out DIR\n"
    "  --jobs N            of a class, so many at once (default: as many as processors)\n"
    "  --due 'YYYY-MM-DD HH:MM'  of a class: what is newer is late\n"
    "  --all               of a class: run the public tests too of exercises that have probes\n"
    "  --per-day P         and costs P percent of its points for each day begun (default 10)\n"
    "  --probes DIR        tests that only print numbers, exN_M_*.c or tables of "
    "PROBE(exN_M_...);\n"
    "                      may be repeated\n"
    "  --reference DIR     the solved course, which knows what probes should print\n"
    "  --seed N            of the probes' random inputs (default: a new one)\n"
    "  --exercise N.M      only this one\n"
    "  --results FILE      write results.json (Gradescope)\n"
    "  --junit FILE        write JUnit XML\n"
    "  --score             print the points only\n"
    "  --seconds S         processor time for one test (default 4)\n"
    "  --clock S           that a submission may lose in runs that must be stopped (default 60; 0: "
    "no\n"
    "                      limit); all in all it has ten times as many\n"
    "  --plain             do without the cage, as where the kernel allows none\n"
    "  --sanitize          compile with the address and undefined behaviour sanitizers\n"
    "  --compiler CC --optimise FLAGS --flags FLAGS    cc, -O0, -lcmocka\n";

enum {
    OPTION_KIT = 256,
    OPTION_SUBMISSION,
    OPTION_CLASS,
    OPTION_OUT,
    OPTION_JOBS,
    OPTION_DUE,
    OPTION_PER_DAY,
    OPTION_ALL,
    OPTION_PROBES,
    OPTION_REFERENCE,
    OPTION_SEED,
    OPTION_EXERCISE,
    OPTION_RESULTS,
    OPTION_JUNIT,
    OPTION_SCORE,
    OPTION_SECONDS,
    OPTION_CLOCK,
    OPTION_SANITIZE,
    OPTION_PLAIN,
    OPTION_COMPILER,
    OPTION_OPTIMISE,
    OPTION_FLAGS,
    OPTION_HELP
};

/* The whole of it is a number from least to most. */
static double number_of(const char *option, const char *text, double least, double most)
{
    char *end;
    double number = strtod(text, &end);
    if (end == text || *end != '\0' || !(number >= least && number <= most))
        die("%s: %s is not a number from %g to %g", option, text, least, most);
    return number;
}

/* An absolute path, since the grader moves about. */
static const char *folder_of(const char *option, const char *path)
{
    struct stat info;
    char *real = realpath(path, NULL);
    if (real == NULL || stat(real, &info) != 0 || !S_ISDIR(info.st_mode))
        die("%s: %s: no such folder", option, path);
    return real;
}

static time_t due_of(const char *text)
{
    struct tm time;
    int end = 0;
    memset(&time, 0, sizeof time);
    if (sscanf(text, "%d-%d-%d%*[ T]%d:%d%n", &time.tm_year, &time.tm_mon, &time.tm_mday,
               &time.tm_hour, &time.tm_min, &end) != 5 ||
        text[end] != '\0')
        die("--due: %s: the time is written 2026-11-30 23:59", text);
    time.tm_year -= 1900;
    time.tm_mon -= 1;
    time.tm_isdst = -1;
    return mktime(&time);
}

static void add_probes(Grading *grading, const char *path)
{
    if (grading->n_probes == MAX_PROBE_DIRS)
        die("--probes: more than %d folders", MAX_PROBE_DIRS);
    grading->probes[grading->n_probes++] = folder_of("--probes", path);
}

static bool option_take(Grading *grading, Class *class, int option)
{
    switch (option) {
    case OPTION_KIT: grading->kit = folder_of("--kit", optarg); return true;
    case OPTION_SUBMISSION:
        grading->submission = realpath(optarg, NULL);
        if (grading->submission == NULL)
            die("--submission: %s: no such folder or file", optarg);
        return true;
    case OPTION_CLASS: class->dir = folder_of("--class", optarg); return true;
    case OPTION_OUT: class->out = optarg; return true;
    case OPTION_JOBS: class->jobs = (int)number_of("--jobs", optarg, 1, 64); return true;
    case OPTION_DUE: class->due = due_of(optarg); return true;
    case OPTION_PER_DAY: class->per_day = number_of("--per-day", optarg, 0, 100); return true;
    case OPTION_ALL: class->all = true; return true;
    case OPTION_PROBES: add_probes(grading, optarg); return true;
    case OPTION_REFERENCE: grading->reference = folder_of("--reference", optarg); return true;
    case OPTION_SEED:
        grading->seed = (unsigned long long)number_of("--seed", optarg, 0, 4294967295.0);
        class->seed_given = true;
        return true;
    case OPTION_EXERCISE: grading->exercise = optarg; return true;
    case OPTION_RESULTS: grading->results = optarg; return true;
    case OPTION_JUNIT: grading->junit = optarg; return true;
    case OPTION_SCORE: grading->score_only = true; return true;
    case OPTION_PLAIN: grading->plain = true; return true;
    case OPTION_SANITIZE: grading->sanitize = true; return true;
    case OPTION_COMPILER: grading->compiler = optarg; return true;
    case OPTION_OPTIMISE: grading->optimise = optarg; return true;
    case OPTION_FLAGS: grading->flags = optarg; return true;
    case OPTION_SECONDS: grading->seconds = number_of("--seconds", optarg, 1, 600); return true;
    case OPTION_CLOCK: grading->clock = number_of("--clock", optarg, 0, 86400); return true;
    default: return false;
    }
}

__attribute__((noreturn)) static void usage(FILE *out)
{
    fputs(usage_text, out);
    exit(out == stdout ? 0 : 2);
}

static void options_read(Grading *grading, Class *class, int argc, char **argv)
{
    static const struct option options[] = {
        {"kit", required_argument, NULL, OPTION_KIT},
        {"submission", required_argument, NULL, OPTION_SUBMISSION},
        {"class", required_argument, NULL, OPTION_CLASS},
        {"out", required_argument, NULL, OPTION_OUT},
        {"jobs", required_argument, NULL, OPTION_JOBS},
        {"due", required_argument, NULL, OPTION_DUE},
        {"per-day", required_argument, NULL, OPTION_PER_DAY},
        {"all", no_argument, NULL, OPTION_ALL},
        {"probes", required_argument, NULL, OPTION_PROBES},
        {"reference", required_argument, NULL, OPTION_REFERENCE},
        {"seed", required_argument, NULL, OPTION_SEED},
        {"exercise", required_argument, NULL, OPTION_EXERCISE},
        {"results", required_argument, NULL, OPTION_RESULTS},
        {"junit", required_argument, NULL, OPTION_JUNIT},
        {"score", no_argument, NULL, OPTION_SCORE},
        {"seconds", required_argument, NULL, OPTION_SECONDS},
        {"clock", required_argument, NULL, OPTION_CLOCK},
        {"sanitize", no_argument, NULL, OPTION_SANITIZE},
        {"plain", no_argument, NULL, OPTION_PLAIN},
        {"compiler", required_argument, NULL, OPTION_COMPILER},
        {"optimise", required_argument, NULL, OPTION_OPTIMISE},
        {"flags", required_argument, NULL, OPTION_FLAGS},
        {"help", no_argument, NULL, OPTION_HELP},
        {NULL, 0, NULL, 0}};
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;)
        if (option == OPTION_HELP)
            usage(stdout);
        else if (!option_take(grading, class, option))
            usage(stderr);
    if (optind < argc || grading->kit == NULL || (class->dir != NULL) != (class->out != NULL))
        usage(stderr);
}

static void signals_set(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = stop;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

int main(int argc, char **argv)
{
    static Grading grading;
    static Class class;
    signals_set();
#ifdef __linux__
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); /* nobody reads the tickets from outside */
#endif
    grading.compiler = "cc";
    grading.optimise = "-O0";
    grading.flags = "-lcmocka";
    grading.seconds = 4.0;
    grading.clock = 60.0;
    grading.seed = random_bits() >> 32;
    grading.started = now();
    class.per_day = 10.0;
    options_read(&grading, &class, argc, argv);
    grading.for_student = grading.submission == NULL && class.dir == NULL;
    grading.probes_only = class.dir != NULL && !class.all;
    if (grading.for_student) {
        grading.submission = grading.kit;
        grading.clock = 0.0;
    }
    if (class.dir != NULL && !class.seed_given)
        grading.seed = class_seed(&class, grading.seed);
    grading_prepare(&grading);
    if (class.dir != NULL)
        return class_grade(&class, &grading);
    grade_begin(&grading);
    grade_finish(&grading);
    report(&grading);
    double score, points;
    totals(&score, &points, &grading);
#ifdef __linux__
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0); /* the leak checker looks at this process */
#endif
    return grading.for_student && score < points;
}
