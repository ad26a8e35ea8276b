/* What came out of a grading: for people, for Gradescope (JSON), for others (JUnit XML).

   HOLDS  exercise_score, totals; results_json, results_junit; print_report
   FOR    grade.c and grade_class.c */

#ifndef GRADE_RESULTS
#define GRADE_RESULTS

#include "grade_kit.c"

/* Of what an exercise is worth. Where it has probes, they alone count: a forged public test gives
   nothing. */
static double exercise_share(const Exercise *exercise)
{
    return exercise->probes > 0  ? (double)exercise->probes_passed / exercise->probes
           : exercise->tests > 0 ? (double)exercise->passed / exercise->tests
                                 : 0.0;
}

static double exercise_score(const Exercise *exercise)
{
    return exercise->points * exercise_share(exercise);
}

/* What a test stands for of the points of its exercise. */
static double test_worth(const Grading *grading, const Test *test)
{
    const Exercise *exercise = &grading->exercises[test->exercise];
    if (grading->programs[test->program].probe)
        return exercise->points / exercise->probes;
    return exercise->probes > 0 ? 0.0 : exercise->points / exercise->tests;
}

/* In a class most public tests are not run: nothing is said of them. */
static bool is_silent(const Test *test)
{
    return test->verdict == NOT_RUN && test->output.len == 0;
}

static void totals(double *score, double *points, const Grading *grading)
{
    *score = *points = 0.0;
    for (int k = 0; k < grading->n_exercise; k++) {
        const Exercise *exercise = &grading->exercises[k];
        if (exercise->tests + exercise->probes > 0 || grading->exercise == NULL) {
            *score += exercise_score(exercise);
            *points += exercise->points;
        }
    }
}

/* "ex4_2_steps_are_the_scan_s" is "steps are the scan's". */
static void test_title(char *title, size_t room, const Test *test)
{
    int end = 0;
    sscanf(test->name, "ex%*d_%*d_%n", &end);
    snprintf(title, room, "%s", test->name + end);
    for (char *c = title; *c; c++) {
        bool s = *c == '_' && c[1] == 's' && (c[2] == '_' || c[2] == '\0'); /* the lesson's */
        *c = s ? '\'' : *c == '_' ? ' ' : *c;
    }
}

/* The bytes of one character of UTF-8 at `at`; 0 if there is none. */
static size_t utf8_length(const char *at)
{
    unsigned char first = (unsigned char)*at;
    size_t len = first < 0x80   ? 1
                 : first < 0xC2 ? 0
                 : first < 0xE0 ? 2
                 : first < 0xF0 ? 3
                 : first < 0xF5 ? 4
                                : 0;
    for (size_t i = 1; i < len; i++)
        if (((unsigned char)at[i] & 0xC0) != 0x80)
            return 0;
    return len;
}

/* Text as JSON or XML has it. What is no UTF-8 or no text becomes '?'. */
static void say_quoted(Text *out, const char *text, bool xml)
{
    for (size_t len; *text != '\0'; text += len) {
        unsigned char c = (unsigned char)*text;
        len = utf8_length(text);
        if (len == 0 || (c < 0x20 && c != '\n' && c != '\t')) {
            text_add(out, "?", 1);
            len = 1;
        } else if (!xml && (c == '"' || c == '\\')) {
            text_say(out, "\\%c", c);
        } else if (!xml && c < 0x20) {
            text_say(out, c == '\n' ? "\\n" : "\\t");
        } else if (xml && strchr("<>&\"", c) != NULL) {
            text_say(out, "&#%d;", c);
        } else {
            text_add(out, text, len);
        }
    }
}

static void json_field(Text *out, const char *name, const char *value)
{
    text_say(out, "\"%s\": \"", name);
    say_quoted(out, value, false);
    text_say(out, "\"");
}

/* What a student may read about a test: of a hidden one no more than the verdict. */
static void test_report(Text *out, const Grading *grading, const Test *test)
{
    const Exercise *exercise = &grading->exercises[test->exercise];
    if (test->verdict == PASS)
        return;
    text_say(out, "%s\n", verdict_word[test->verdict]);
    if (!grading->programs[test->program].probe)
        text_say(out, "%s", text_of(&test->output));
    text_say(out, "Read again: %s\nmake hint EX=%s gives a hint.\n", exercise->section,
             exercise->id);
}

static void json_test(Text *out, const Grading *grading, const Test *test)
{
    const Exercise *exercise = &grading->exercises[test->exercise];
    char title[256], name[600];
    Text report = {NULL, 0, 0};
    test_title(title, sizeof title, test);
    snprintf(name, sizeof name, "%s: %s", exercise->title, title);
    test_report(&report, grading, test);
    text_say(out, "    {\"score\": %.6g, \"max_score\": %.6g, \"status\": \"%s\", ",
             test->verdict == PASS ? test_worth(grading, test) : 0.0, test_worth(grading, test),
             test->verdict == PASS ? "passed" : "failed");
    json_field(out, "number", exercise->id);
    text_say(out, ", ");
    json_field(out, "name", name);
    text_say(out, ", ");
    json_field(out, "output", text_of(&report));
    text_say(out, ", \"output_format\": \"text\", \"visibility\": \"%s\", ",
             grading->programs[test->program].probe ? "after_published" : "visible");
    text_say(out, "\"extra_data\": {\"verdict\": \"%s\", \"seconds\": %.3f, \"minutes\": %d, ",
             verdict_word[test->verdict],
             grading->programs[test->program].probe ? 0.0 : test->seconds, exercise->minutes);
    json_field(out, "test", test->name);
    text_say(out, "}}");
    text_free(&report);
}

/* results.json as Gradescope reads it; what is ours stands in extra_data. */
static void results_json(const Grading *grading)
{
    Text out = {NULL, 0, 0};
    double score, points;
    totals(&score, &points, grading);
    text_say(&out, "{\n  \"score\": %.6g,\n  \"execution_time\": %.2f,\n  ", score,
             now() - grading->started);
    json_field(&out, "output", text_of(&grading->notes));
    text_say(&out,
             ",\n  \"output_format\": \"text\",\n  \"visibility\": \"visible\",\n  "
             "\"extra_data\": {\"format\": 1, \"max_score\": %.6g, \"chapter\": \"%s\", "
             "\"isolated\": %s, \"seed\": %llu, \"contents\": \"%016llx\"},\n  \"tests\": [\n",
             points, grading->chapter, grading->plain ? "false" : "true", grading->seed,
             (unsigned long long)grading->taken);
    const char *comma = "";
    for (int t = 0; t < grading->n_test; t++) {
        if (is_silent(&grading->tests[t]))
            continue;
        text_say(&out, "%s", comma);
        json_test(&out, grading, &grading->tests[t]);
        comma = ",\n";
    }
    text_say(&out, "\n  ]\n}\n");
    write_result(grading->results, &out);
    text_free(&out);
}

static void results_junit(const Grading *grading)
{
    Text out = {NULL, 0, 0};
    int failed = 0;
    for (int t = 0; t < grading->n_test; t++)
        failed += grading->tests[t].verdict != PASS;
    text_say(&out,
             "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"chapter %s\" "
             "tests=\"%d\" failures=\"%d\" time=\"%.2f\">\n",
             grading->chapter, grading->n_test, failed, now() - grading->started);
    for (int t = 0; t < grading->n_test; t++) {
        const Test *test = &grading->tests[t];
        Text report = {NULL, 0, 0};
        test_report(&report, grading, test);
        text_say(&out, "  <testcase classname=\"exercise %s\" name=\"%s\" time=\"%.3f\"",
                 grading->exercises[test->exercise].id, test->name, test->seconds);
        if (test->verdict == PASS) {
            text_say(&out, "/>\n");
        } else {
            text_say(&out, ">\n    <failure message=\"%s\">", verdict_word[test->verdict]);
            say_quoted(&out, text_of(&report), true);
            text_say(&out, "</failure>\n  </testcase>\n");
        }
        text_free(&report);
    }
    text_say(&out, "</testsuite>\n");
    write_result(grading->junit, &out);
    text_free(&out);
}

/* ---- for people ----------------------------------------------------------------------------- */

static const char *colour(const char *code)
{
    bool wanted = isatty(STDOUT_FILENO) && getenv("NO_COLOR") == NULL;
    return wanted ? code : "";
}

/* What may come from a submission: nothing in it reaches the terminal as a command. */
static void tame(char *text, bool lines)
{
    for (char *c = text; *c; c++)
        if (((unsigned char)*c < 0x20 && !(lines && (*c == '\n' || *c == '\t'))) || *c == 0x7F ||
            (*c == '\xC2' && (unsigned char)c[1] < 0xA0))
            *c = '?';
}

/* The same of a name; the text stands until the next but one call. */
static const char *printable(const char *name)
{
    static char room[2][512];
    static int turn;
    turn = !turn;
    snprintf(room[turn], sizeof room[turn], "%s", name);
    tame(room[turn], false);
    return room[turn];
}

static void print_lines(const char *before, const char *text)
{
    char *copy = copy_text(text), *rest = copy;
    tame(copy, true);
    for (char *line; (line = strsep(&rest, "\n")) != NULL;)
        if (*line != '\0')
            printf("%s%s\n", before, line);
    free(copy);
}

static void print_test(const Grading *grading, const Test *test)
{
    char title[256];
    test_title(title, sizeof title, test);
    printf("    %s%-8s%s %s%s\n", colour(test->verdict == PASS ? "\033[32m" : "\033[31m"),
           verdict_word[test->verdict], colour("\033[0m"), title,
           grading->programs[test->program].probe ? "  (hidden)" : "");
    if (test->verdict != PASS)
        print_lines("          ", text_of(&test->output));
}

static bool print_exercise(const Grading *grading, int k)
{
    const Exercise *exercise = &grading->exercises[k];
    bool full = exercise->tests > 0 && exercise_share(exercise) >= 1.0;
    if (grading->exercise && strcmp(grading->exercise, exercise->id) != 0)
        return true;
    printf("%s%-5s %-58s %5.3g of %g%s\n", colour("\033[1m"), exercise->id, exercise->title,
           exercise_score(exercise), exercise->points, colour("\033[0m"));
    for (int t = 0; t < grading->n_test && !grading->score_only; t++)
        if (grading->tests[t].exercise == k && !is_silent(&grading->tests[t]))
            print_test(grading, &grading->tests[t]);
    if (!grading->score_only)
        print_lines("    warning  ", text_of(&exercise->warnings));
    return full;
}

static void print_report(const Grading *grading)
{
    double score, points;
    int next = -1;
    totals(&score, &points, grading);
    for (int k = 0; k < grading->n_exercise; k++)
        if (!print_exercise(grading, k) && next < 0)
            next = k;
    print_lines("          ", text_of(&grading->notes));
    printf("%-64s %5.4g of %g\n", "points", score, points);
    if (next >= 0 && grading->for_student) {
        const Exercise *exercise = &grading->exercises[next];
        printf("\nGo on with %s in %s (about %d minutes). Read: %s.\n"
               "make hint EX=%s gives a hint, make test EX=%s runs its tests alone.\n",
               exercise->id, exercise->file, exercise->minutes, exercise->section, exercise->id,
               exercise->id);
    } else if (grading->for_student) {
        printf("\nAll public tests%s%s pass. Your teacher may have others.\n",
               grading->exercise ? " of " : "", grading->exercise ? grading->exercise : "");
    }
}
#endif
