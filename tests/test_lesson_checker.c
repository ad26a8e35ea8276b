/* The lesson checker itself: every kind of lie is found, and nothing true is called one. */

#include "test_lessons.c"

/* Checks a lesson of this text, as if it stood in tests/. Returns whether all of it is true; if
   not, the first error. */
static bool lesson_holds(const char *text, Error *error)
{
    char name[] = "tests/lesson_XXXXXX.md";
    int descriptor = mkstemps(name, 3);
    assert_true(descriptor >= 0);
    FILE *out = fdopen(descriptor, "w");
    fputs(text, out);
    fclose(out);
    Lines lesson;
    Claims claims = {NULL, 0, 0};
    bool ok = lines_read(&lesson, name, error);
    assert_true(ok);
    lesson_parse(&claims, &lesson);
    for (size_t c = 0; ok && c < claims.count; c++)
        ok = check_claim(&claims.claim[c], error);
    unlink(name);
    for (size_t c = 0; c < claims.count; c++)
        free(claims.claim[c].argument);
    free(claims.claim);
    lines_free(&lesson);
    return ok;
}

static void assert_holds(const char *text)
{
    Error error;
    if (!lesson_holds(text, &error))
        fail_msg("called a lie: %s", error.text);
}

static void assert_lie(const char *text, const char *sentence)
{
    Error error;
    assert_false(lesson_holds(text, &error));
    assert_contains(error.text, sentence);
}

#define STEP                                                                                       \
    "        /* what flows into j, from wherever it comes */\n"                                    \
    "        for (size_t i = 0; i < n_state; i++)\n"                                               \
    "            chance += now[i] * chain->P[i * n_state + j];\n"                                  \
    "        next[j] = chance;\n    }\n}\n"

static void quoted_code_is_found_without_its_exercise_markers(void **state)
{
    (void)state;
    assert_holds("<!-- code: ch01_markov/markov.c -->\n```c\n" STEP "```\n");
    assert_holds("<!-- code: ch01_markov/markov.c -->\n\n```c\nvoid chain_step(double *next, const "
                 "double *now, const Chain *chain)\n{\n    ...\n" STEP "```\n");
}

static void quoted_code_may_stand_further_left(void **state)
{
    (void)state;
    assert_holds("<!-- code: ch01_markov/markov.c -->\n```c\nfor (size_t i = 0; i < n_state; i++)\n"
                 "    chance += now[i] * chain->P[i * n_state + j];\nnext[j] = chance;\n```\n");
}

static void changed_code_is_found(void **state)
{
    (void)state;
    assert_lie(
        "<!-- code: ch01_markov/markov.c -->\n```c\n        for (size_t i = 0; i < n_state; i++)\n"
        "            chance += now[j] * chain->P[i * n_state + j];\n        next[j] = "
        "chance;\n```\n",
        ":4: not in ch01_markov/markov.c");
    assert_lie("<!-- code: no/such/file.c -->\n```c\nint x;\n```\n",
               "no/such/file.c: No such file");
    assert_lie("<!-- code: ch01_markov/markov.c -->\n```c\n```\n", "");
}

static void a_true_run_holds_whole_or_in_parts(void **state)
{
    (void)state;
    assert_holds("<!-- run: printf 'a 1.50\\nb 2\\nc 3\\n' -->\n```text\na 1.50\nb 2\nc 3\n```\n");
    assert_holds("<!-- run: printf 'a 1.50\\nb 2\\nc 3\\n' -->\n```text\n...\nb 2\n...\n```\n");
    assert_holds("<!-- run: printf 'a 1.50\\nb 2\\nc 3\\n' -->\n```text\na 1.50\n…\nc 3\n```\n");
}

static void numbers_may_be_off_by_one_in_the_last_digit(void **state)
{
    (void)state;
    assert_holds("<!-- run: echo 'x =  0.6400, 1.2e-05' -->\n```text\nx = 0.6401, 1.3e-05\n```\n");
    assert_holds("<!-- run: echo 'x = -9.99' -->\n```text\nx = -10.00\n```\n");
    assert_lie("<!-- run: echo 'x = 0.6400' -->\n```text\nx = 0.6402\n```\n",
               "does not print this");
    assert_lie("<!-- run: echo 'x = 1.2e-05' -->\n```text\nx = 1.4e-05\n```\n",
               "does not print this");
    assert_lie("<!-- run: echo 'x = 0.64' -->\n```text\nx = -0.64\n```\n", "does not print this");
}

static void whole_numbers_and_names_must_be_exact(void **state)
{
    (void)state;
    assert_lie("<!-- run: echo 'line 12' -->\n```text\nline 13\n```\n", "does not print this");
    assert_lie("<!-- run: echo 'y1' -->\n```text\ny2\n```\n", "does not print this");
    assert_lie("<!-- run: echo 'nan' -->\n```text\n0.5\n```\n", "does not print this");
    assert_lie("<!-- run: echo '0.5' -->\n```text\nnan\n```\n", "does not print this");
}

static void a_run_of_a_program_fits_eighty_columns(void **state)
{
    (void)state;
    char eighty[] = "1234567890123456789012345678901234567890123456789012345678901234567890"
                    "12345678\xE2\x94\x80\xCC\x81z";
    char wide[] = "1234567890123456789012345678901234567890123456789012345678901234567890"
                  "1234567890z";
    char *line[] = {eighty, wide};
    Lines lines = {NULL, NULL, line, 2};
    Claim claim;
    memset(&claim, 0, sizeof claim);
    assert_int_equal(first_wide_line(&lines), 1);
    lines.count = 1;
    assert_int_equal(first_wide_line(&lines), 1);
    claim.argument = (char *)"build/ch01_markov --days 3";
    assert_true(run_is_laid_out(&claim));
    claim.status = 1;
    assert_false(run_is_laid_out(&claim));
    claim.status = 0;
    claim.argument = (char *)"build/ch05_language_model --n 5"; /* a text has the lines it has */
    assert_false(run_is_laid_out(&claim));
    claim.argument = (char *)"cat data/weather.csv";
    assert_false(run_is_laid_out(&claim));
}

static void lines_too_few_or_too_many_are_found(void **state)
{
    (void)state;
    assert_lie("<!-- run: printf 'a\\nb\\n' -->\n```text\na\n```\n", "(the end)");
    assert_lie("<!-- run: printf 'a\\n' -->\n```text\na\nb\n```\n", "'b'");
    assert_lie("<!-- run: printf 'a\\nb\\n' -->\n```text\n...\na\n```\n", "(the end)");
    assert_lie("<!-- run: printf 'b\\na\\n' -->\n```text\n...\na\n...\nb\n```\n", "'b'");
}

static void a_run_that_never_ends_is_stopped(void **state)
{
    (void)state;
    assert_int_equal(command_run("sh -c 'ulimit -t 1; while :; do :; done'", "/dev/null"), -1);
}

static void the_exit_status_counts(void **state)
{
    (void)state;
    assert_holds(
        "<!-- run (exit 1): build/ch01_markov --chain no.csv -->\n```text\nerror: no.csv: No "
        "such file or directory\n```\n");
    assert_lie(
        "<!-- run: build/ch01_markov --chain no.csv -->\n```text\nerror: no.csv: No such file or "
        "directory\n```\n",
        "ended with status 1, not 0");
    assert_lie("<!-- run (exit 1): echo a -->\n```text\na\n```\n", "ended with status 0, not 1");
}

static void blocks_without_a_marker_are_found(void **state)
{
    (void)state;
    assert_lie("text\n```text\na\n```\n", "a block without a marker");
    assert_lie("<!-- run: echo a -->\nprose\n```text\na\n```\n", "no block or image");
    assert_lie("text\n<!-- by hand -->\n", "no block or image");
    assert_lie("<!-- ruin: echo a -->\n```text\na\n```\n", "this marker is not known");
    assert_lie("<!-- by hand -->\n```text\na\n", "never closed");
    assert_holds("<!-- by hand -->\n```text\n1 + 1 = 2\n```\n");
}

static void commands_must_name_what_exists(void **state)
{
    (void)state;
    assert_holds("```sh\nmake test SANITIZE=1   # and so on\nbuild/ch01_markov --days 3\n"
                 "cc -O2 ch01_markov/markov.c -o markov -lm\n```\n");
    assert_lie("```sh\nmake tests\n```\n", "make has no target tests");
    assert_lie("```sh\nbuild/ch07_markov\n```\n", "there is no program build/ch07_markov");
    assert_lie("```sh\ncc ch01_markov/chain.c\n```\n", "there is no file ch01_markov/chain.c");
    assert_lie("<!-- timing: build/ch07_fast -->\n```text\n1 s\n```\n", "there is no program");
}

static void links_must_lead_somewhere(void **state)
{
    (void)state;
    assert_holds("see [data](../data/README.md#the-data) and [web](https://example.org/x)\n");
    assert_holds("# One thing, two\n[up](#one-thing-two)\n");
    assert_lie("[data](../data/no.md)\n", "a link to tests/../data/no.md, which is not there");
    assert_lie("[data](../data/README.md#no-such)\n", "a heading that is not there");
    assert_lie("![](../ch01_markov/figures/forecast.svg)\n", "without a description");
    assert_lie("![a](figures/forecast.svg)\n", "tests/figures/forecast.svg");
}

static const char *const figure =
    "<!-- figure: build/ch01_markov --svg ch01_markov/figures/forecast.svg "
    "-->\n![the chain](figures/forecast.svg)\n";

/* Checks the figure of chapter 1's lesson, with its committed file put aside for another. */
static bool figure_holds(const char *edit, Error *error)
{
    Lines lesson;
    Claims claims = {NULL, 0, 0};
    char path[] = "build/lesson_XXXXXX", command[512];
    assert_non_null(mkdtemp(path));
    snprintf(command, sizeof command,
             "mkdir %s/figures && sed '%s' ch01_markov/figures/forecast.svg > "
             "%s/figures/forecast.svg",
             path, edit, path);
    assert_int_equal(system(command), 0);
    char text[512];
    snprintf(text, sizeof text,
             "<!-- figure: build/ch01_markov --svg %s/figures/forecast.svg -->\n"
             "![the chain](figures/forecast.svg)\n",
             path);
    snprintf(command, sizeof command, "%s/README.md", path);
    FILE *out = fopen(command, "w");
    fputs(text, out);
    fclose(out);
    assert_true(lines_read(&lesson, command, error));
    lesson_parse(&claims, &lesson);
    bool ok = true;
    for (size_t c = 0; ok && c < claims.count; c++)
        ok = check_claim(&claims.claim[c], error);
    for (size_t c = 0; c < claims.count; c++)
        free(claims.claim[c].argument);
    free(claims.claim);
    lines_free(&lesson);
    snprintf(command, sizeof command, "rm -r %s", path);
    assert_int_equal(system(command), 0);
    return ok;
}

static void a_figure_is_drawn_again_and_compared(void **state)
{
    (void)state;
    Error error;
    assert_true(figure_holds("", &error));
    assert_false(figure_holds("s/sunny/cloudy/", &error));
    assert_contains(error.text, "the figure drawn now differs");
    assert_false(figure_holds("s/ 505/ 506/; s/,1/,2/", &error));
    assert_false(figure_holds("$d", &error));
    assert_lie(figure, "the marker draws another file than");
}

/* Checks the exercises of a chapter file of this text, as if it stood in chapter 1. */
static bool exercises_hold(const char *text, Error *error)
{
    Lines source;
    char name[] = "/tmp/lesson_source_XXXXXX";
    int descriptor = mkstemp(name);
    assert_true(descriptor >= 0);
    FILE *out = fdopen(descriptor, "w");
    fputs(text, out);
    fclose(out);
    assert_true(lines_read(&source, name, error));
    unlink(name);
    free(source.path);
    source.path = strdup("ch01_markov/markov.c");
    bool ok = check_exercises(&source, error);
    lines_free(&source);
    return ok;
}

#define BEFORE "/* Exercise 1.1. */\n"
#define OPEN   "    //> EX 1.1 [2 pts] [10 min] one day further\n"
#define HINTS  "    //? one\n    //? two\n"
#define BODY   "    x = 1;\n"
#define CLOSE  "    //< EX 1.1\n"

static void malformed_exercises_are_found(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {OPEN HINTS BODY CLOSE, "no comment above says Exercise 1.1"},
        {BEFORE OPEN "    //? one\n" BODY CLOSE, "1 hints (at least 2)"},
        {BEFORE OPEN HINTS CLOSE, "0 lines of solution"},
        {BEFORE OPEN HINTS BODY, "is not closed by //< EX 1.1"},
        {BEFORE OPEN HINTS BODY "    //< EX 1.2\n", "is not closed by //< EX 1.1"},
        {BEFORE OPEN HINTS OPEN BODY CLOSE, "is not closed by //< EX 1.1"},
        {BODY CLOSE, "this closes no exercise"},
        {BEFORE "//> EX 1.1 ten minutes\n" HINTS BODY CLOSE, "an exercise opens with"},
        {BEFORE "//> EX 1.1 [0 pts] [10 min] a\n" HINTS BODY CLOSE, "needs points"},
        {"Exercise 2.1\n//> EX 2.1 [1 pt] [10 min] a\n" HINTS BODY "//< EX 2.1\n",
         "chapter's number"},
        {"Exercise 1.9\n//> EX 1.9 [1 pt] [10 min] a\n" HINTS BODY "//< EX 1.9\n",
         "does not list Exercise 1.9"},
        {"Exercise 1.1\n//> EX 1.1 [1 pt] [10 min] another title\n" HINTS BODY CLOSE,
         "does not list Exercise 1.1"},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        Error error;
        assert_false(exercises_hold(cases[k][0], &error));
        assert_contains(error.text, cases[k][1]);
    }
}

/* The numbers of a chapter are looked for in all of its sources. */
static void exercises_are_counted_over_a_chapter(void **state)
{
    Lines source = {strdup("ch05_mamba_block/mamba_block.c"), NULL, NULL, 0};
    (void)state;
    assert_int_equal(exercise_count(&source, 5, 1), 1);
    assert_int_equal(exercise_count(&source, 5, 10), 1); /* of another file */
    assert_int_equal(exercise_count(&source, 5, 99), 0);
    assert_int_equal(exercise_count(&source, 1, 1), 0);
    free(source.path);
}

static void a_solution_of_thirteen_lines_is_too_long(void **state)
{
    (void)state;
    Error error;
    assert_false(exercises_hold(
        BEFORE OPEN HINTS BODY BODY BODY BODY BODY BODY BODY BODY BODY BODY BODY BODY BODY CLOSE,
        &error));
    assert_contains(error.text, "13 lines of solution (1 to 12)");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quoted_code_is_found_without_its_exercise_markers),
        cmocka_unit_test(quoted_code_may_stand_further_left),
        cmocka_unit_test(changed_code_is_found),
        cmocka_unit_test(a_true_run_holds_whole_or_in_parts),
        cmocka_unit_test(numbers_may_be_off_by_one_in_the_last_digit),
        cmocka_unit_test(whole_numbers_and_names_must_be_exact),
        cmocka_unit_test(a_run_of_a_program_fits_eighty_columns),
        cmocka_unit_test(lines_too_few_or_too_many_are_found),
        cmocka_unit_test(a_run_that_never_ends_is_stopped),
        cmocka_unit_test(the_exit_status_counts),
        cmocka_unit_test(blocks_without_a_marker_are_found),
        cmocka_unit_test(commands_must_name_what_exists),
        cmocka_unit_test(links_must_lead_somewhere),
        cmocka_unit_test(a_figure_is_drawn_again_and_compared),
        cmocka_unit_test(malformed_exercises_are_found),
        cmocka_unit_test(exercises_are_counted_over_a_chapter),
        cmocka_unit_test(a_solution_of_thirteen_lines_is_too_long),
    };
    return cmocka_run_group_tests_name("the lesson checker", tests, NULL, NULL);
}
