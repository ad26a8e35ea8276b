/* What all programs have in common: help, eighty columns, plain text where the locale is plain, no
   colour where it is not wanted, and never a good end when the output is lost. */

#include "../ch01_markov/text_width.h"
#include <fcntl.h>
#include <glob.h>
#include <sys/ioctl.h>
#include "check.h"

enum { TEXT_ROOM = 1 << 16 };

/* A quick run of each program that prints something of its own; others are asked for help alone. */
static const char *const quick[][2] = {
    {"ch01_markov", "--start sunny"},
    {"ch01_markov", "--chain data/two_climates.csv --start border"},
    {"ch01_markov", "--simulate 100"},
    {"ch01_markov", "--fit data/alofi_rain.csv"},
    {"ch02_ssm", "--demo front"},
    {"ch02_ssm", "--demo shift"},
    {"ch02_ssm", "--demo basis"},
    {"ch02_ssm", "--system data/oscillator.ssm --input step --length 60"},
    {"ch03_discretize", ""},
    {"ch03_discretize", "--generator data/weather.csv"},
    {"ch03_discretize", "--system data/spring.ssm"},
    {"ch04_selective", "--demo story"},
    {"ch04_selective", "--demo trace"},
    {"ch04_selective", "--demo division"},
    {"ch05_mamba_block", "--trace"},
    {"ch05_mamba_block", "--count --width 768"},
    {"ch05_mamba2", ""},
    {"ch05_mamba2_block", "--demo trace"},
    {"ch05_mamba3", ""},
    {"ch05_safetensors", "data/tiny-mamba/model.safetensors"},
    {"ch05_state_tracking", ""},
    {"ch05_stories_test", "--focus"},
    {"ch06_cuda_scan", "--demo weather"},
    {"ch06_cuda_scan", "--demo work"},
    {"ch06_cuda_scan", "--demo floors"},
};

/* Writers of texts: these have the lines they have. */
static const char *const writers[][2] = {
    {"ch05_as_library", ""},
    {"ch05_language_model", "-n 1"},
    {"ch05_pretrained", "-n 1"},
    {"ch05_rainbow", ""},
};

static const char *build_folder(void)
{
    const char *build = getenv("BUILD");
    return build ? build : "build";
}

/* Runs `program words` in a shell, with what comes before and behind it; its text and status. */
static int shell(char *text, const char *before, const char *program, const char *words,
                 const char *behind)
{
    char command[1024];
    snprintf(command, sizeof command, "%s %s/%s %s %s", before, build_folder(), program, words,
             behind);
    FILE *out = popen(command, "r");
    assert_non_null(out);
    size_t len = fread(text, 1, TEXT_ROOM - 1, out);
    text[len] = '\0';
    for (char rest[4096]; fread(rest, 1, sizeof rest, out) > 0;)
        ;
    int status = pclose(out);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void assert_narrow(char *text, const char *program, const char *words)
{
    char *rest = text;
    for (char *line; (line = strsep(&rest, "\n")) != NULL;)
        if (text_width(line) > 80)
            fail_msg("%s %s prints a line of %zu columns: %s", program, words, text_width(line),
                     line);
}

static void assert_ascii(const char *text, const char *program, const char *words)
{
    for (; *text; text++)
        if ((unsigned char)*text >= 0x80 || *text == '\033')
            fail_msg("%s %s prints more than plain text: %.40s", program, words, text);
}

/* Calls `each` with the name of every program that is built. */
static void every_program(void (*each)(const char *name))
{
    char pattern[256];
    glob_t found;
    size_t programs = 0;
    snprintf(pattern, sizeof pattern, "%s/ch[0-9][0-9]_*", build_folder());
    assert_int_equal(glob(pattern, 0, NULL, &found), 0);
    for (size_t k = 0; k < found.gl_pathc; k++) {
        const char *name = strrchr(found.gl_pathv[k], '/') + 1;
        bool example = strcmp(name, "ch05_as_library") == 0; /* a few lines, without options */
        if (!example && strchr(name, '.') == NULL && access(found.gl_pathv[k], X_OK) == 0) {
            each(name);
            programs++;
        }
    }
    globfree(&found);
    assert_true(programs >= 15);
}

static void check_help(const char *name)
{
    static char text[TEXT_ROOM], same[TEXT_ROOM];
    assert_int_equal(shell(text, "env -u COLUMNS", name, "--help", "2>&1 </dev/null"), 0);
    assert_int_equal(shell(same, "env -u COLUMNS", name, "-h", "2>&1 </dev/null"), 0);
    assert_string_equal(text, same);
    assert_contains(text, "usage: ");
    assert_narrow(text, name, "--help");
    assert_int_equal(shell(text, "env -u COLUMNS", name, "--no-such-option", "2>&1 </dev/null"), 2);
    assert_contains(text, "error: ");
    assert_narrow(text, name, "--no-such-option");
}

static void every_program_helps_in_eighty_columns(void **state)
{
    (void)state;
    every_program(check_help);
}

static void check_lost(const char *name, const char *words)
{
    static char text[TEXT_ROOM];
    static const char *const streams[] = {"2>&1 >/dev/full </dev/null", "2>&1 >&- </dev/null"};
    for (int k = 0; k < 2; k++) {
        if (shell(text, "", name, words, streams[k]) != 1)
            fail_msg("%s %s %s ends well, or crashes", name, words, streams[k]);
        assert_contains(text, "error: the output cannot be written");
    }
}

static void check_lost_help(const char *name)
{
    check_lost(name, "--help");
}

static void no_program_ends_well_when_its_output_is_lost(void **state)
{
    (void)state;
    every_program(check_lost_help);
    for (size_t k = 0; k < sizeof quick / sizeof *quick; k++)
        if (k == 0 || strcmp(quick[k][0], quick[k - 1][0]) != 0)
            check_lost(quick[k][0], quick[k][1]);
    for (size_t k = 0; k < sizeof writers / sizeof *writers; k++)
        check_lost(writers[k][0], writers[k][1]);
}

/* A signal would end the program without a word of its own. */
static void a_file_that_may_not_grow_is_one_that_cannot_be_written(void **state)
{
    (void)state;
    static char text[TEXT_ROOM];
    char path[64], words[80];
    snprintf(path, sizeof path, "/tmp/test_programs_%ld.svg", (long)getpid());
    snprintf(words, sizeof words, "--svg %s", path);
    assert_int_equal(shell(text, "ulimit -f 0;", "ch01_markov", words, "2>&1 </dev/null"), 1);
    assert_contains(text, "cannot be written: File too large");
    assert_int_equal(access(path, F_OK), -1);
}

/* What is read is not written over, under whatever name. */
static void no_file_is_two_options(void **state)
{
    (void)state;
    static char text[TEXT_ROOM];
    char path[64], words[320];
    snprintf(path, sizeof path, "/tmp/test_programs_%ld.csv", (long)getpid());
    snprintf(words, sizeof words, "--chain %s --svg /tmp/../%s", path, path);
    char copy[96];
    snprintf(copy, sizeof copy, "cp data/weather.csv %s", path);
    assert_int_equal(system(copy), 0);
    assert_int_equal(shell(text, "", "ch01_markov", words, "2>&1 </dev/null"), 1);
    assert_contains(text, "error: --svg and --chain are one file, ");
    assert_int_equal(unlink(path), 0);
    snprintf(words, sizeof words, "--simulate 9 --record %s --svg %s", path, path);
    assert_int_equal(shell(text, "", "ch01_markov", words, "2>&1 </dev/null"), 1);
    assert_contains(text, "error: --record and --svg are one file, ");
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(shell(text, "", "ch01_markov",
                           "--simulate 9 --record /dev/null --svg /dev/null", "2>&1 </dev/null"),
                     0);
}

static void what_programs_print_fits_eighty_columns(void **state)
{
    (void)state; /* the lessons' own runs are measured by test_lessons */
    static char text[TEXT_ROOM];
    for (size_t k = 0; k < sizeof quick / sizeof *quick; k++) {
        assert_int_equal(shell(text, "env -u COLUMNS LC_ALL=C.UTF-8", quick[k][0], quick[k][1],
                               "2>/dev/null </dev/null"),
                         0);
        assert_narrow(text, quick[k][0], quick[k][1]);
    }
}

static void a_plain_locale_gets_plain_text(void **state)
{
    (void)state;
    static char text[TEXT_ROOM];
    for (size_t k = 0; k < sizeof quick / sizeof *quick; k++) {
        assert_int_equal(
            shell(text, "LC_ALL=C", quick[k][0], quick[k][1], "2>/dev/null </dev/null"), 0);
        assert_ascii(text, quick[k][0], quick[k][1]);
    }
    shell(text, "LC_ALL=C.UTF-8", "ch02_ssm", "--demo front", "2>/dev/null </dev/null");
    assert_contains(text, "┤");
    shell(text, "LC_ALL=C.UTF-8", "ch02_ssm", "--demo front --ascii", "2>/dev/null </dev/null");
    assert_ascii(text, "ch02_ssm", "--demo front --ascii");
}

/* What ch01_markov prints on a terminal of so many columns, where `set` is set. */
static void on_terminal(char *text, const char *set, unsigned short columns)
{
    int terminal = posix_openpt(O_RDWR | O_NOCTTY);
    struct winsize window;
    memset(&window, 0, sizeof window);
    window.ws_col = columns;
    assert_true(terminal >= 0 && grantpt(terminal) == 0 && unlockpt(terminal) == 0);
    int line = open(ptsname(terminal), O_RDWR | O_NOCTTY);
    assert_true(line >= 0 && ioctl(line, TIOCSWINSZ, &window) == 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        char command[512];
        snprintf(command, sizeof command, "exec env -u COLUMNS -u NO_COLOR LC_ALL=C.UTF-8 %s %s/%s",
                 set, build_folder(), "ch01_markov");
        dup2(line, STDOUT_FILENO);
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    close(line);
    size_t len = 0;
    ssize_t got;
    while (len + 1 < TEXT_ROOM && (got = read(terminal, text + len, TEXT_ROOM - 1 - len)) > 0)
        len += (size_t)got;
    text[len] = '\0';
    int status;
    waitpid(child, &status, 0);
    close(terminal);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void a_terminal_has_its_colours_and_its_width(void **state)
{
    (void)state;
    static char text[TEXT_ROOM];
    on_terminal(text, "", 80);
    assert_contains(text, "\033[34m");
    assert_contains(text, "of the distance: half of it is\r\ngone every 0.76 days.");
    on_terminal(text, "NO_COLOR=1", 120);
    assert_null(strchr(text, '\033'));
    assert_contains(text, "of the distance: half of it is gone every 0.76 days.");
    on_terminal(text, "NO_COLOR=", 50); /* set to nothing is not set */
    assert_contains(text, "\033[34m");
    assert_contains(text, "the fraction 0.4000 of\r\nthe distance");
    on_terminal(text, "COLUMNS=120", 80);
    assert_contains(text, "of the distance: half of it is gone every 0.76 days.");
}

static void a_minus_stands_for_standard_input(void **state)
{
    (void)state;
    static char text[TEXT_ROOM];
    static const struct {
        const char *before, *program, *words, *want;
    } cases[] = {
        {"printf 'sunny\\rrainy\\rsunny\\rsunny\\r' |", "ch01_markov", "--fit -",
         "A chain fitted to standard input\n4 days with a state"},
        {"cat data/weather.csv |", "ch01_markov", "--chain -", "The chain of standard input\n"},
        {"cat data/oscillator.ssm |", "ch02_ssm", "--system - --length 9",
         "The system of standard input\n"},
        {"cat data/sunspots.csv |", "ch02_ssm",
         "--system data/two_memories.ssm --input - --length 60",
         "The outputs for input standard input"},
        {"cat data/spring.ssm |", "ch03_discretize", "--system -",
         "The system of standard input in"},
        {"cat data/weather.csv |", "ch03_discretize", "--generator -", "of standard input\n"},
        {"cat data/sunspots.csv |", "ch03_discretize", "--hippo 4 --input - --length 60",
         "HiPPO-LegS: standard input, 60 samples"},
        {"echo the prism |", "ch04_selective", "--story -", "\nprism "},
        {"cat data/cues.txt |", "ch04_selective", "--cues -", "leprechaun"},
        {"printf '' |", "ch01_markov", "--fit -", "error: standard input: empty"},
        {"echo a b c |", "ch05_language_model", "--train --corpus -",
         "error: standard input: 3 words are too few"},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        shell(text, cases[k].before, cases[k].program, cases[k].words, "2>&1");
        assert_contains(text, cases[k].want);
    }
}

static void a_prompt_may_begin_with_a_minus(void **state)
{
    (void)state;
    static char text[TEXT_ROOM];
    assert_int_equal(shell(text, "", "ch05_language_model", "--prompt '-5 the rain' -n 0", "2>&1"),
                     0);
    assert_contains(text, "the rain");
    assert_int_equal(
        shell(text, "", "ch05_pretrained", "data/tiny-mamba '- the rain' -n 1", "2>&1"), 0);
    assert_contains(text, "- the rain");
    assert_int_equal(shell(text, "", "ch05_pretrained", "data/tiny-mamba -n 1 -- -rain", "2>&1"),
                     0);
    assert_contains(text, "rain");
    static const char *const tokenized[] = {"data/tiny-mamba --tokenize '- the rain'",
                                            "data/tiny-mamba --tokenize -- '--- the rain'"};
    for (int k = 0; k < 2; k++) { /* --tokenize is no --tokenizer cut short, and takes no value */
        assert_int_equal(shell(text, "", "ch05_pretrained", tokenized[k], "2>&1"), 0);
        assert_contains(text, "'rain'");
    }
    assert_int_equal(shell(text, "", "ch05_pretrained", "data/tiny-mamba -5 -n 0", "2>&1"), 2);
    assert_contains(text,
                    "error: '-5' is not an option: a text that begins with a minus goes behind --");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_program_helps_in_eighty_columns),
        cmocka_unit_test(no_program_ends_well_when_its_output_is_lost),
        cmocka_unit_test(a_file_that_may_not_grow_is_one_that_cannot_be_written),
        cmocka_unit_test(no_file_is_two_options),
        cmocka_unit_test(what_programs_print_fits_eighty_columns),
        cmocka_unit_test(a_plain_locale_gets_plain_text),
        cmocka_unit_test(a_terminal_has_its_colours_and_its_width),
        cmocka_unit_test(a_minus_stands_for_standard_input),
        cmocka_unit_test(a_prompt_may_begin_with_a_minus),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
