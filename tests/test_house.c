/* The house: which files there may be, how long they are, who includes whom. Everything is found by
   names and by what stands in the files themselves. Includes run down only, and a file is read in
   one sitting: these two rules make the course readable. */

#include "../ch01_markov/tools.h"
#include <glob.h>
#include "check.h"

enum { FILES_MOST = 200, COLUMNS_MOST = 100, TOUR_LINES = 30 };

/* One source of a chapter. */
typedef struct {
    char path[128], *text;
    size_t include[32]; /* (n_include) the files it includes, by their place in the house */
    size_t n_include;
    int visit; /* of a walk along the includes: 0 not met, 1 on the way, 2 done */
} Source;

typedef struct {
    Source file[FILES_MOST];
    size_t n_file;
} House;

static bool starts_with(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

/* Adds the files that match a pattern to the house. */
static void house_add(House *house, const char *pattern)
{
    glob_t found;
    Error error;
    size_t len;
    if (glob(pattern, 0, NULL, &found) != 0)
        return;
    for (size_t i = 0; i < found.gl_pathc; i++) {
        assert_true(house->n_file < FILES_MOST);
        Source *source = &house->file[house->n_file++];
        snprintf(source->path, sizeof source->path, "%s", found.gl_pathv[i]);
        if (!text_read(&source->text, &len, source->path, &error))
            fail_msg("%s", error.text);
    }
    globfree(&found);
}

/* The name of what `from` includes, seen from the root: ch05_x/../ch04_y/z.c is ch04_y/z.c. */
static void path_join(char *out, size_t room, const char *from, const char *name, size_t len)
{
    const char *slash = strrchr(from, '/');
    snprintf(out, room, "%.*s%.*s", slash ? (int)(slash - from + 1) : 0, from, (int)len, name);
    for (char *up; (up = strstr(out, "/../")) != NULL;) {
        char *before = up;
        while (before > out && before[-1] != '/')
            before--;
        memmove(before, up + 4, strlen(up + 4) + 1);
    }
}

static size_t house_find(const House *house, const char *path)
{
    size_t k = 0;
    while (k < house->n_file && strcmp(house->file[k].path, path) != 0)
        k++;
    return k;
}

/* Fills `include` of every file. What is not in the house (the tests' stubs) is left out. */
static void house_connect(House *house)
{
    char path[256];
    for (size_t k = 0; k < house->n_file; k++) {
        Source *source = &house->file[k];
        for (const char *line = source->text; line; line = strchr(line, '\n')) {
            line += *line == '\n';
            const char *at = line + strspn(line, " \t");
            if (*at != '#')
                continue;
            at += 1 + strspn(at + 1, " \t");
            if (!starts_with(at, "include \""))
                continue;
            path_join(path, sizeof path, source->path, at + 9, strcspn(at + 9, "\""));
            size_t target = house_find(house, path);
            if (target == house->n_file)
                fail_msg("%s includes %s, which is not there", source->path, path);
            assert_true(source->n_include < sizeof source->include / sizeof *source->include);
            source->include[source->n_include++] = target;
        }
    }
}

static int setup(void **state)
{
    House *house = NEW(House, 1);
    house_add(house, "ch[0-9]*/*.c");
    house_add(house, "ch[0-9]*/*.h");
    house_add(house, "ch[0-9]*/*.cu");
    house_connect(house);
    *state = house;
    return house->n_file > 0 ? 0 : -1;
}

static int teardown(void **state)
{
    House *house = (House *)*state;
    for (size_t k = 0; k < house->n_file; k++)
        free(house->file[k].text);
    free(house);
    return 0;
}

static size_t count_lines(const char *text)
{
    size_t count = 0;
    for (; *text; text++)
        count += *text == '\n';
    return count;
}

/* A chapter says so in its first words, with its number: 5, or 5a. All else is machinery. */
static bool is_chapter(const Source *source)
{
    int number;
    char point[3] = "";
    return sscanf(source->text, "/* Chapter %d%2s", &number, point) == 2 &&
           (point[0] == '.' || (islower((unsigned char)point[0]) && point[1] == '.'));
}

/* 5a and 5b build whole programs of chapter 5, and are longer. */
static bool is_lettered(const Source *source)
{
    int number;
    char letter[2];
    return sscanf(source->text, "/* Chapter %d%1[a-z]", &number, letter) == 2;
}

/* An aside has a lesson of its own beside the chapter's: safetensors.c and SAFETENSORS.md. */
static bool is_aside(const Source *source)
{
    return strstr(source->path, "/safetensors.c") != NULL;
}

static bool is_generated(const Source *source)
{
    return strstr(source->path, "unicode_tables.h") != NULL ||
           strstr(source->path, "width_tables.h") != NULL;
}

/* ---- direction ------------------------------------------------------------------------------ */

static void no_chapter_includes_one_above_it(void **state)
{
    const House *house = (const House *)*state;
    for (size_t k = 0; k < house->n_file; k++) {
        const Source *source = &house->file[k];
        for (size_t i = 0; i < source->n_include; i++) {
            const Source *target = &house->file[source->include[i]];
            if (strncmp(target->path, source->path, 4) > 0)
                fail_msg("%s includes %s, of a chapter above it", source->path, target->path);
        }
    }
}

static void walk(House *house, size_t k)
{
    Source *source = &house->file[k];
    source->visit = 1;
    for (size_t i = 0; i < source->n_include; i++) {
        Source *target = &house->file[source->include[i]];
        if (target->visit == 1)
            fail_msg("%s includes %s, which includes it: a circle", source->path, target->path);
        if (target->visit == 0)
            walk(house, source->include[i]);
    }
    source->visit = 2;
}

static void includes_never_run_in_a_circle(void **state)
{
    House *house = (House *)*state;
    for (size_t k = 0; k < house->n_file; k++)
        if (house->file[k].visit == 0)
            walk(house, k);
}

/* Does this file include, by whatever way, one that measures? */
static bool includes_bench(const House *house, const Source *source)
{
    bool found = false;
    for (size_t i = 0; i < source->n_include && !found; i++) {
        const Source *target = &house->file[source->include[i]];
        found = strstr(target->path, "/bench.c") || includes_bench(house, target);
    }
    return found;
}

/* A bench may use what a bench of an earlier chapter has; what is read and run may not. */
static void no_chapter_includes_what_measures(void **state)
{
    const House *house = (const House *)*state;
    for (size_t k = 0; k < house->n_file; k++)
        if (is_chapter(&house->file[k]) && includes_bench(house, &house->file[k]))
            fail_msg("%s includes a bench", house->file[k].path);
}

/* ---- length --------------------------------------------------------------------------------- */

static size_t lines_allowed(const Source *source)
{
    if (strstr(source->path, "cuda_scan.cu"))
        return 1300; /* its ladder of kernels is the idea */
    return is_chapter(source) && !is_lettered(source) ? 900 : 1200;
}

static void a_file_is_read_in_one_sitting(void **state)
{
    const House *house = (const House *)*state;
    for (size_t k = 0; k < house->n_file; k++) {
        const Source *source = &house->file[k];
        size_t lines = count_lines(source->text);
        if (!is_generated(source) && lines > lines_allowed(source))
            fail_msg("%s has %zu lines, more than %zu", source->path, lines, lines_allowed(source));
    }
}

static void check_columns(const char *path, const char *text)
{
    size_t column = 0, line = 1;
    for (; *text; text++) {
        if (*text == '\n') {
            line++;
            column = 0;
            continue;
        }
        column += ((unsigned char)*text & 0xC0) != 0x80; /* the first byte of a character */
        if (column > COLUMNS_MOST)
            fail_msg("%s:%zu: a line wider than %d columns", path, line, COLUMNS_MOST);
    }
}

/* What is kept at the top level: the layout, and nothing that was left there. */
static void the_top_level_is_the_layout(void **state)
{
    static const char *const layout[] = {"LICENSE",        "Makefile",
                                         "README.md",      "ch01_markov",
                                         "ch02_ssm_abcd",  "ch03_discretize",
                                         "ch04_selective", "ch05_mamba_block",
                                         "ch06_cuda_scan", "data",
                                         "tests"};
    char name[256];
    FILE *out = popen("git ls-files 2> /dev/null | cut -d / -f 1 | sort -u", "r");
    (void)state;
    assert_non_null(out);
    while (fgets(name, sizeof name, out) != NULL) {
        bool known = name[0] == '.';
        name[strcspn(name, "\n")] = '\0';
        for (size_t i = 0; i < sizeof layout / sizeof *layout; i++)
            known = known || strcmp(name, layout[i]) == 0;
        if (!known)
            fail_msg("%s does not belong at the top level", name);
    }
    pclose(out);
}

static void no_line_is_wider_than_a_hundred_columns(void **state)
{
    const House *house = (const House *)*state;
    for (size_t k = 0; k < house->n_file; k++)
        check_columns(house->file[k].path, house->file[k].text);
}

/* ---- what a file says of itself ------------------------------------------------------------- */

/* The head comment has each of these, as the first words of a line. */
static void check_head(const Source *source, const char *const *word, size_t count)
{
    const char *end = strstr(source->text, "*/");
    for (size_t i = 0; i < count; i++) {
        char label[32];
        snprintf(label, sizeof label, "\n   %s ", word[i]);
        const char *at = strstr(source->text, label);
        if (!at || !end || at > end)
            fail_msg("%s: its head comment has no line that starts with %s", source->path, word[i]);
    }
}

static void a_head_comment_says_what_the_file_is(void **state)
{
    static const char *const chapter[] = {"QUESTION", "NEW",   "NOT",  "EQUATION",
                                          "LETTERS",  "BUILD", "TIME", "SOURCES"};
    static const char *const machinery[] = {"HOLDS", "FOR"};
    const House *house = (const House *)*state;
    for (size_t k = 0; k < house->n_file; k++) {
        const Source *source = &house->file[k];
        if (is_generated(source) || is_aside(source))
            continue;
        if (is_chapter(source))
            check_head(source, chapter, sizeof chapter / sizeof *chapter);
        else
            check_head(source, machinery, sizeof machinery / sizeof *machinery);
    }
}

/* #ifndef NAME, #define NAME, before anything else is included or defined. */
static void every_file_can_be_included_twice(void **state)
{
    const House *house = (const House *)*state;
    for (size_t k = 0; k < house->n_file; k++) {
        const Source *source = &house->file[k];
        const char *at = strstr(source->text, "\n#");
        char name[128], line[160];
        if (at && sscanf(at, "\n#ifndef %127s", name) == 1) {
            snprintf(line, sizeof line, "\n#define %s\n", name);
            at = strstr(at + 1, "\n#");
        }
        if (!at || !starts_with(at, line))
            fail_msg("%s does not start with a guard against being included twice", source->path);
    }
}

static void main_stands_last(void **state)
{
    const House *house = (const House *)*state;
    for (size_t k = 0; k < house->n_file; k++) {
        const char *at = strstr(house->file[k].text, "\n#if __INCLUDE_LEVEL__ == 0");
        if (at && count_lines(at) > 30)
            fail_msg("%s: %zu lines from its main on: main is a few lines, and last",
                     house->file[k].path, count_lines(at));
    }
}

/* ---- what else points at the files ---------------------------------------------------------- */

static void mutants_are_of_files_that_are_there(void **state)
{
    glob_t found;
    const House *house = (const House *)*state;
    assert_int_equal(glob("tests/mutants/ch*.txt", 0, NULL, &found), 0);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        char *text;
        size_t len;
        Error error;
        if (!text_read(&text, &len, found.gl_pathv[i], &error))
            fail_msg("%s", error.text);
        char *rest = text;
        for (char *line; (line = strsep(&rest, "\n")) != NULL;)
            if (starts_with(line, "@ ") && house_find(house, line + 2) == house->n_file)
                fail_msg("%s: there is no %s", found.gl_pathv[i], line + 2);
        free(text);
    }
    globfree(&found);
}

/* README.md says of every file where it belongs. */
static void the_front_page_names_every_file(void **state)
{
    const House *house = (const House *)*state;
    char *text, name[128];
    size_t len;
    Error error;
    if (!text_read(&text, &len, "README.md", &error))
        fail_msg("%s", error.text);
    for (size_t k = 0; k < house->n_file; k++) {
        snprintf(name, sizeof name, "`%s`", strrchr(house->file[k].path, '/') + 1);
        if (!strstr(text, name))
            fail_msg("README.md does not say where %s belongs", house->file[k].path);
    }
    free(text);
}

/* The number that stands before a phrase in a text whose lines may end anywhere; 0 if none does. */
static int number_before(const char *text, const char *phrase)
{
    char *flat = strdup(text);
    for (char *c = flat; *c; c++)
        if (*c == '\n')
            *c = ' ';
    const char *digit = strstr(flat, phrase);
    int number = 0;
    for (int place = 1; digit && digit > flat && isdigit((unsigned char)digit[-1]); place *= 10)
        number += place * (*--digit - '0');
    free(flat);
    return number;
}

/* The minutes of the exercises in a lesson's table, all together: the last cell of their rows. */
static int exercise_minutes(const char *text)
{
    int sum = 0;
    for (const char *row = text; (row = strstr(row, "\n| Exercise ")) != NULL;) {
        size_t len = strcspn(++row, "\n");
        while (len > 0 && !isdigit((unsigned char)row[len - 1]))
            len--;
        while (len > 0 && isdigit((unsigned char)row[len - 1]))
            len--;
        sum += atoi(row + len);
    }
    return sum;
}

/* Of the lines of an exercise's solution, those that say something: no comment, no brace. */
static int lines_to_write(const char *text, const char *end)
{
    int count = 0;
    for (const char *line = text; line < end; line += strcspn(line, "\n") + 1) {
        const char *at = line + strspn(line, " ");
        size_t len = strcspn(at, "\n");
        bool comment = starts_with(at, "//") || (starts_with(at, "/*") && at[len - 1] == '/');
        count += len > 1 && !comment;
    }
    return count;
}

/* The measure of tests/README.md. */
static int minutes_of(int points, int lines)
{
    int minutes = points < 3 ? 5 + 2 * lines : 15 + lines;
    return minutes < 10 ? 10 : (2 * minutes + 5) / 10 * 5;
}

/* The minutes of every exercise of the chapters; minutes[chapter][number]. */
static void the_minutes_of_an_exercise_are_by_one_measure(void **state)
{
    const House *house = (const House *)*state;
    int minutes[8][32] = {{0}}, found = 0;
    for (size_t k = 0; k < house->n_file; k++)
        for (const char *at = house->file[k].text; (at = strstr(at, "//> EX ")) != NULL; at++) {
            int chapter, number, points, said;
            const char *end = strstr(at, "//< EX ");
            assert_int_equal(
                sscanf(at, "//> EX %d.%d [%d %*[pts]] [%d min]", &chapter, &number, &points, &said),
                4);
            assert_true(end != NULL && chapter < 8 && number < 32);
            int lines = lines_to_write(strchr(at, '\n') + 1, end);
            assert_that(said == minutes_of(points, lines),
                        "%s: exercise %d.%d has %d lines and %d points: %d minutes, not %d",
                        house->file[k].path, chapter, number, lines, points,
                        minutes_of(points, lines), said);
            minutes[chapter][number] = said;
            found++;
        }
    assert_true(found >= 40);
    char *guide, range[64];
    size_t len;
    Error error;
    if (!text_read(&guide, &len, "tests/README.md", &error))
        fail_msg("%s", error.text);
    int weeks = 0;
    for (const char *row = guide; row && (row = strstr(row, "\n| ")) != NULL;) {
        const char *cell = ++row;
        for (int k = 0; k < 2; k++) /* of the exercises: "5.6 to 5.10, or 6.1 to 6.6; ..." */
            cell = cell + strcspn(cell + 1, "|\n") + 1;
        const char *next = cell + 1 + strcspn(cell + 1, "|\n");
        int chapter, from, to, used;
        while (sscanf(cell, "%*[^0-9|\n]%d.%d to %*d.%d%n", &chapter, &from, &to, &used) == 3 ||
               sscanf(cell, "| %d.%d to %*d.%d%n", &chapter, &from, &to, &used) == 3) {
            int sum = 0, said = 0;
            for (int number = from; number <= to; number++)
                sum += minutes[chapter][number];
            next += strcspn(next, "0123456789");
            said = atoi(next);
            next += strspn(next, "0123456789");
            snprintf(range, sizeof range, "%d.%d to %d.%d", chapter, from, chapter, to);
            assert_that(said == sum, "tests/README.md: %s take %d minutes, not %d", range, sum,
                        said);
            cell += used;
            weeks++;
        }
    }
    assert_true(weeks == 8);
    free(guide);
}

/* A row of the front page has the minutes of its other lessons as well: "60, 60; 40; 40". */
static void other_lessons_take_as_long(const char *row, const char *cell)
{
    char path[128], wanted[32], *lesson;
    size_t len;
    Error error;
    const char *link = strstr(row, "](");
    while (link && (link = strstr(link + 1, "](")) != NULL) {
        if (sscanf(link, "](%127[^)]", path) != 1 || strlen(path) < 3 ||
            strcmp(path + strlen(path) - 3, ".md") != 0)
            continue;
        if (!text_read(&lesson, &len, path, &error))
            fail_msg("%s", error.text);
        int read = number_before(lesson, " minutes to read");
        snprintf(wanted, sizeof wanted, "; %d", read);
        if (read > 0 && !strstr(cell, wanted))
            fail_msg("%s: %d minutes to read, of which the front page knows nothing", path, read);
        free(lesson);
    }
}

/* A lesson's head, its table of exercises, and its row on the front page say the same. */
static void a_lesson_takes_as_long_as_the_front_page_says(void **state)
{
    (void)state;
    char *page, *lesson, path[128], bar[2];
    size_t len, lessons = 0;
    Error error;
    if (!text_read(&page, &len, "README.md", &error))
        fail_msg("%s", error.text);
    char *rest = page;
    for (char *row; (row = strsep(&rest, "\n")) != NULL;) {
        int read = 0, exercises = 0;
        const char *cell = strstr(row, ".md)");
        if (!starts_with(row, "| ") || sscanf(row, "%*[^(](%127[^)]", path) != 1 ||
            !starts_with(path, "ch") || !strstr(path, ".md"))
            continue;
        /* minutes to read, to do; or to read alone */
        while (cell && sscanf(cell, " %d, %d", &read, &exercises) != 2 &&
               sscanf(cell, " %d %1[|]", &read, bar) != 2)
            cell = strchr(cell, '|') ? strchr(cell, '|') + 1 : NULL;
        if (!cell)
            continue; /* a row of results */
        if (!text_read(&lesson, &len, path, &error))
            fail_msg("%s", error.text);
        int head_read = number_before(lesson, " minutes to read");
        int head = number_before(lesson, " for the exercise"), sum = exercise_minutes(lesson);
        if (head_read != read || head != exercises || sum != exercises)
            fail_msg("%s: %d minutes to read and %d for the exercises, whose table has %d; the "
                     "front page says %d, %d",
                     path, head_read, head, sum, read, exercises);
        other_lessons_take_as_long(row, cell);
        free(lesson);
        lessons++;
    }
    assert_true(lessons >= 10);
    free(page);
}

/* The stops of `make run`, as the Makefile has them, whole: title, question, picture, where more
   is. A picture does not begin with a blank line, nor with the rest of a table. */
static void every_stop_of_the_tour_has_thirty_lines_at_most(void **state)
{
    (void)state;
    char *text, command[512], line[4096];
    size_t len;
    Error error;
    if (!text_read(&text, &len, "Makefile", &error))
        fail_msg("%s", error.text);
    char *rest = strstr(text, "define TOUR\n"), *stop;
    assert_non_null(rest);
    rest += strlen("define TOUR\n");
    size_t stops = 0;
    while ((stop = strsep(&rest, "\n")) != NULL && strcmp(stop, "endef") != 0) {
        snprintf(command, sizeof command, "echo '%s' | sh tests/tour.sh", stop);
        FILE *out = popen(command, "r");
        assert_non_null(out);
        int lines = 0;
        bool opens = false; /* this line is the first that the program prints */
        while (fgets(line, sizeof line, out)) {
            const char *first = line + strspn(line, " \n");
            if (opens && (*first == '\0' || isdigit((unsigned char)*first)))
                fail_msg("%s: opens with '%s'", stop, line);
            opens = starts_with(line, "$ ");
            lines++;
        }
        if (pclose(out) != 0)
            fail_msg("%s fails", stop);
        if (lines > TOUR_LINES)
            fail_msg("%s: %d lines in the tour, more than %d", stop, lines, TOUR_LINES);
        stops++;
    }
    assert_true(stops > 0);
    free(text);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_chapter_includes_one_above_it),
        cmocka_unit_test(includes_never_run_in_a_circle),
        cmocka_unit_test(no_chapter_includes_what_measures),
        cmocka_unit_test(a_file_is_read_in_one_sitting),
        cmocka_unit_test(the_top_level_is_the_layout),
        cmocka_unit_test(no_line_is_wider_than_a_hundred_columns),
        cmocka_unit_test(a_head_comment_says_what_the_file_is),
        cmocka_unit_test(every_file_can_be_included_twice),
        cmocka_unit_test(main_stands_last),
        cmocka_unit_test(mutants_are_of_files_that_are_there),
        cmocka_unit_test(the_front_page_names_every_file),
        cmocka_unit_test(the_minutes_of_an_exercise_are_by_one_measure),
        cmocka_unit_test(a_lesson_takes_as_long_as_the_front_page_says),
        cmocka_unit_test(every_stop_of_the_tour_has_thirty_lines_at_most),
    };
    return cmocka_run_group_tests_name("the house", tests, setup, teardown);
}
