/* The lesson checker: a lesson cannot lie. Every README.md of the course is read for marked blocks,
   and each of them becomes one test:

       <!-- code: ch01_markov/markov.c -->        the block stands in that file, word for word
       <!-- run: build/ch01_markov --days 3 -->    the command prints the block
       <!-- run (exit 1): build/... -->            ... and ends with this status (else 0)
       <!-- timing: build/ch02_ssm --bench -->     a measurement: the program exists, no more
       <!-- by hand -->                            worked on paper: not checked
       <!-- figure: build/... --svg FILE -->       drawn again, the image below is the same
       <!-- timing figure: build/... -->           a picture of a measurement: it exists

   A line of three dots in a block stands for lines left out. In code the markers of exercises and a
   common indentation do not count. In runs numbers may be off by one in their last digit, and
   blanks in front of a number do not count: another processor may round otherwise. No line of a
   run is wider than 80 columns. Blocks of
   `sh` need no marker, but the programs, targets and files they name must exist. A block or image
   without a marker is an error, and so is a link to nothing. Exercises are checked too: see below.

       build/tests/test_lessons              check
       build/tests/test_lessons ch02         check what begins so: a chapter, a lesson, a line
       build/tests/test_lessons --figures    draw every figure anew (--timings: all) */

#include "../ch01_markov/text_width.h"
#include <glob.h>
#include <sys/wait.h>

enum { RUN_SECONDS = 60, PAGE_COLUMNS = 80 };

/* A text file as lines. */
typedef struct {
    char *path, *text;
    char **line; /* (count) without their ends */
    size_t count;
} Lines;

typedef enum {
    CODE,
    RUN,
    TIMING,
    BY_HAND,
    FIGURE,
    TIMING_FIGURE,
    SHELL,
    LINK,
    EXERCISE,
    PROBLEM
} Kind;

/* One claim of a lesson, and so one test. */
typedef struct {
    Kind kind;
    const Lines *lesson;
    size_t line;        /* where it stands, counted from 0 */
    char *argument;     /* file, command, image, link or, for a PROBLEM, what is wrong; owned */
    int status;         /* the exit status a RUN must have */
    size_t first, last; /* the lines of the block: first .. last - 1 */
} Claim;

typedef struct {
    Claim *claim;
    size_t count, room;
} Claims;

/* ---- reading ----------------------------------------------------------------------------- */

static bool lines_read(Lines *lines, const char *path, Error *error)
{
    size_t len, count = 1;
    char *text;
    if (!text_read(&text, &len, path, error))
        return false;
    for (size_t i = 0; i < len; i++)
        count += text[i] == '\n';
    lines->path = strdup(path);
    lines->text = text;
    lines->line = NEW(char *, count);
    lines->count = 0;
    for (char *rest = text, *line; (line = strsep(&rest, "\n")) != NULL;) {
        for (size_t end = strlen(line); end > 0 && strchr(" \t\r", line[end - 1]); end--)
            line[end - 1] = '\0';
        lines->line[lines->count++] = line;
    }
    if (lines->count > 0 && *lines->line[lines->count - 1] == '\0')
        lines->count--; /* what follows the last end of line */
    return true;
}

static void lines_free(Lines *lines)
{
    free(lines->path);
    free(lines->text);
    free(lines->line);
}

static Claim *claims_add(Claims *claims, Kind kind, const Lines *lesson, size_t line,
                         const char *argument)
{
    if (claims->count == claims->room) {
        size_t room = claims->room ? 2 * claims->room : 64;
        Claim *larger = NEW(Claim, room);
        if (claims->count)
            memcpy(larger, claims->claim, claims->count * sizeof *larger);
        free(claims->claim);
        claims->claim = larger;
        claims->room = room;
    }
    Claim *claim = &claims->claim[claims->count++];
    memset(claim, 0, sizeof *claim);
    claim->kind = kind;
    claim->lesson = lesson;
    claim->line = line;
    claim->argument = strdup(argument);
    return claim;
}

static bool starts_with(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

/* The marker in a line: its kind; what follows the colon, without the arrow, is `argument`. */
static bool marker_parse(Kind *kind, int *status, char *argument, size_t room, const char *line)
{
    static const struct {
        const char *start;
        Kind kind;
    } markers[] = {{"<!-- code: ", CODE},     {"<!-- run: ", RUN},
                   {"<!-- run (exit ", RUN},  {"<!-- timing: ", TIMING},
                   {"<!-- figure: ", FIGURE}, {"<!-- timing figure: ", TIMING_FIGURE},
                   {"<!-- by hand", BY_HAND}};
    for (size_t k = 0; k < sizeof markers / sizeof *markers; k++) {
        if (!starts_with(line, markers[k].start))
            continue;
        const char *rest = line + strlen(markers[k].start);
        *kind = markers[k].kind;
        *status = k == 2 ? atoi(rest) : 0;
        if (k == 2)
            rest = strchr(rest, ':') ? strchr(rest, ':') + 2 : "";
        const char *arrow = strstr(rest, " -->");
        snprintf(argument, room, "%.*s", arrow ? (int)(arrow - rest) : 0, rest);
        return arrow != NULL;
    }
    return false;
}

/* The end of the fenced block that opens at `open`: the line of its closing fence, or count. */
static size_t fence_end(const Lines *lesson, size_t open)
{
    size_t line = open + 1;
    while (line < lesson->count && !starts_with(lesson->line[line], "```"))
        line++;
    return line;
}

/* One fenced block, with the marker that stands before it, if any. */
static size_t fence_parse(Claims *claims, const Lines *lesson, size_t open, Claim *marker)
{
    size_t end = fence_end(lesson, open);
    bool shell = strcmp(lesson->line[open], "```sh") == 0;
    if (end == lesson->count)
        claims_add(claims, PROBLEM, lesson, open, "this block is never closed");
    else if (!marker && !shell)
        claims_add(claims, PROBLEM, lesson, open,
                   "a block without a marker: put <!-- code: FILE -->, <!-- run: COMMAND --> or "
                   "<!-- by hand --> before it");
    else if (!marker)
        marker = claims_add(claims, SHELL, lesson, open, "commands");
    if (marker) {
        marker->first = open + 1;
        marker->last = end;
    }
    return end;
}

/* Links and images of one line of prose, as claims. An image in a chapter needs a figure marker. */
static void links_parse(Claims *claims, const Lines *lesson, size_t line, bool marked)
{
    for (const char *at = lesson->line[line]; (at = strstr(at, "](")) != NULL; at += 2) {
        char target[512];
        snprintf(target, sizeof target, "%.*s", (int)strcspn(at + 2, ")"), at + 2);
        if (strstr(target, "://"))
            continue;
        claims_add(claims, LINK, lesson, line, target);
        bool image = starts_with(lesson->line[line], "![");
        if (image && !marked && starts_with(target, "figures/"))
            claims_add(
                claims, PROBLEM, lesson, line,
                "a figure without a marker: put <!-- figure: COMMAND --svg FILE --> before it");
        if (image && starts_with(lesson->line[line], "![]"))
            claims_add(claims, PROBLEM, lesson, line, "an image without a description");
    }
}

/* A marker after which neither block nor image comes. */
static void marker_is_lost(Claim *claim)
{
    claim->kind = PROBLEM;
    free(claim->argument);
    claim->argument = strdup("this marker has no block or image after it");
}

/* All claims of one lesson. */
static void lesson_parse(Claims *claims, const Lines *lesson)
{
    size_t marker = SIZE_MAX; /* the claim whose block or image is still to come */
    for (size_t line = 0; line < lesson->count; line++) {
        const char *text = lesson->line[line];
        char argument[1024];
        Kind kind;
        int status;
        if (*text == '\0')
            continue;
        if (starts_with(text, "```")) {
            line = fence_parse(claims, lesson, line,
                               marker == SIZE_MAX ? NULL : &claims->claim[marker]);
            marker = SIZE_MAX;
            continue;
        }
        links_parse(claims, lesson, line, marker != SIZE_MAX);
        if (starts_with(text, "![") && marker != SIZE_MAX) {
            claims->claim[marker].first = line;
            marker = SIZE_MAX;
        }
        if (marker != SIZE_MAX)
            marker_is_lost(&claims->claim[marker]);
        marker = SIZE_MAX;
        if (marker_parse(&kind, &status, argument, sizeof argument, text)) {
            claims_add(claims, kind, lesson, line, argument)->status = status;
            marker = claims->count - 1;
        } else if (starts_with(text, "<!--")) {
            claims_add(claims, PROBLEM, lesson, line, "this marker is not known");
        }
    }
    if (marker != SIZE_MAX)
        marker_is_lost(&claims->claim[marker]);
}

/* ---- comparing --------------------------------------------------------------------------- */

static bool is_dots(const char *line)
{
    line += strspn(line, " \t");
    return strcmp(line, "...") == 0 || strcmp(line, "…") == 0;
}

/* Reads a number as a run prints it; its unit is one in its last digit. A whole number has the unit
   0: it is exact. Returns what follows it, or NULL if there is none. */
static const char *number_read(double *value, double *unit, const char *text)
{
    char *end;
    if (!isdigit((unsigned char)*text) && !(*text == '-' && isdigit((unsigned char)text[1])))
        return NULL;
    *value = strtod(text, &end);
    *unit = 0.0;
    size_t mantissa = strcspn(text, "eE");
    mantissa = text + mantissa > end ? (size_t)(end - text) : mantissa;
    const char *point = (const char *)memchr(text, '.', mantissa);
    if (point || text + mantissa < end) {
        double exponent = text + mantissa < end ? strtod(text + mantissa + 1, NULL) : 0.0;
        double places = point ? (double)(text + mantissa - point - 1) : 0.0;
        *unit = pow(10.0, exponent - places);
    }
    return end;
}

/* Is the number at `text` the start of one, and not the end of a name such as y1 or x2? */
static bool number_starts(const char *line, const char *text)
{
    return text == line ||
           !(isalnum((unsigned char)text[-1]) || text[-1] == '_' || text[-1] == '.');
}

/* Two lines of a run: words alike, numbers within one unit of the last digit of the quote. */
static bool lines_agree(const char *quote, const char *real)
{
    const char *q = quote, *r = real;
    while (*q || *r) {
        double want, got, unit, other;
        const char *q_digit = q + strspn(q, " "), *r_digit = r + strspn(r, " ");
        bool numbers = number_starts(quote, q_digit) && number_starts(real, r_digit);
        const char *q_end = numbers ? number_read(&want, &unit, q_digit) : NULL;
        const char *r_end = numbers ? number_read(&got, &other, r_digit) : NULL;
        if (q_end && r_end && (q_digit > q) == (r_digit > r)) {
            if (!(fabs(want - got) <= 1.001 * unit))
                return false;
            q = q_end;
            r = r_end;
        } else if (*q++ != *r++) {
            return false;
        }
    }
    return true;
}

typedef bool (*Agree)(const char *quote, const char *real);

/* Do the lines of the quote match those of the text from `from` on, dots standing for any lines?
   If not, *stuck is the line of the quote that found no match. */
static bool quote_matches(const Claim *claim, char **real, size_t count, size_t from, bool to_end,
                          Agree agree, size_t *stuck)
{
    const Lines *lesson = claim->lesson;
    size_t at = from;
    bool skipping = false;
    for (size_t line = claim->first; line < claim->last; line++) {
        const char *quote = lesson->line[line];
        if (is_dots(quote)) {
            skipping = true;
            continue;
        }
        while (skipping && at < count && !agree(quote, real[at]))
            at++;
        if (at == count || !agree(quote, real[at])) {
            *stuck = line;
            return false;
        }
        skipping = false;
        at++;
    }
    *stuck = claim->last;
    return skipping || !to_end || at == count;
}

static bool same_line(const char *quote, const char *real)
{
    return strcmp(quote, real) == 0;
}

static size_t indentation(const char *line)
{
    return strspn(line, " ");
}

/* Lines of a source without the markers of exercises, and without `indent` blanks in front. */
static size_t strip_source(char **out, const Lines *source, size_t indent)
{
    size_t count = 0;
    for (size_t i = 0; i < source->count; i++) {
        char *text = source->line[i] + indentation(source->line[i]);
        if (starts_with(text, "//>") || starts_with(text, "//<") || starts_with(text, "//?") ||
            starts_with(text, "//:"))
            continue;
        size_t blank = indentation(source->line[i]);
        out[count++] = source->line[i] + (blank < indent ? blank : indent);
    }
    return count;
}

static bool check_code(const Claim *claim, Error *error)
{
    Lines source;
    if (!lines_read(&source, claim->argument, error))
        return false;
    char **real = NEW(char *, source.count + 1);
    size_t best = claim->first, stuck;
    bool found = false; /* an empty block is found nowhere */
    for (size_t indent = 0; !found && indent <= 16; indent += 4) {
        size_t count = strip_source(real, &source, indent);
        for (size_t from = 0; !found && from < count; from++) {
            found = quote_matches(claim, real, count, from, false, same_line, &stuck);
            best = stuck > best ? stuck : best;
        }
    }
    if (!found)
        fail(error, "%s:%zu: not in %s from here on: '%s'", claim->lesson->path, best + 1,
             claim->argument, best < claim->last ? claim->lesson->line[best] : "");
    free(real);
    lines_free(&source);
    return found && claim->last > claim->first;
}

/* ---- running ----------------------------------------------------------------------------- */

/* The command with build/ replaced by the folder of this build (BUILD), and, if `svg` is given, the
   file after --svg by that one. */
static void command_write(char *out, size_t room, const char *command, const char *svg)
{
    const char *build = getenv("BUILD") ? getenv("BUILD") : "build";
    char word[1024];
    size_t used = 0;
    bool file_next = false;
    *out = '\0';
    while (*command && used < room) {
        size_t len = strcspn(command, " ");
        snprintf(word, sizeof word, "%.*s", (int)len, command);
        size_t quoted = *word == '"' || *word == '\''; /* sh -c "build/..." */
        if (file_next && svg)
            used += (size_t)snprintf(out + used, room - used, "%s ", svg);
        else if (starts_with(word + quoted, "build/"))
            used += (size_t)snprintf(out + used, room - used, "%.*s%s/%s ", (int)quoted, word,
                                     build, word + quoted + 6);
        else
            used += (size_t)snprintf(out + used, room - used, "%s ", word);
        file_next = strcmp(word, "--svg") == 0;
        command += len + strspn(command + len, " ");
    }
}

/* Runs a command; its output and errors go to the file `output`. Returns its exit status, or -1 if
   a signal ended it, which is what happens after RUN_SECONDS of computing. */
static int command_run(const char *command, const char *output)
{
    char line[4096];
    snprintf(line, sizeof line,
             "export NO_COLOR=1 LC_ALL=C.UTF-8 TERM=dumb; unset COLUMNS; ulimit -t %d; exec %s > "
             "'%s' 2>&1 < /dev/null",
             RUN_SECONDS, command, output);
    int status = system(line); /* NOLINT: the command is the lesson's own */
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* A name for a passing file. */
static void temporary_name(char name[64])
{
    snprintf(name, 64, "/tmp/lesson_XXXXXX");
    int descriptor = mkstemp(name);
    if (descriptor >= 0)
        close(descriptor);
}

/* Whether a run's lines are the program's own: not an error's sentence, nor what a model or a
   grammar writes, which is a text and has the lines it has. */
static bool run_is_laid_out(const Claim *claim)
{
    static const char *const writers[] = {"build/ch05_language_model", "build/ch05_pretrained",
                                          "build/ch05_rainbow", "build/ch05_prompts"};
    bool text = claim->status != 0 || !starts_with(claim->argument, "build/");
    for (size_t k = 0; k < sizeof writers / sizeof *writers; k++)
        text = text || starts_with(claim->argument, writers[k]);
    return !text;
}

/* The first line that an ordinary terminal has no room for, or the count of lines. */
static size_t first_wide_line(const Lines *lines)
{
    size_t k = 0;
    while (k < lines->count && text_width(lines->line[k]) <= PAGE_COLUMNS)
        k++;
    return k;
}

static bool check_run(const Claim *claim, Error *error)
{
    char command[2048], name[64];
    Lines real;
    temporary_name(name);
    command_write(command, sizeof command, claim->argument, NULL);
    int status = command_run(command, name);
    bool ok = lines_read(&real, name, error);
    unlink(name);
    if (!ok)
        return false;
    size_t stuck, wide = run_is_laid_out(claim) ? first_wide_line(&real) : real.count;
    if (status != claim->status)
        ok = fail(error, "%s:%zu: ended with status %d, not %d", claim->lesson->path,
                  claim->line + 1, status, claim->status);
    else if (!quote_matches(claim, real.line, real.count, 0, true, lines_agree, &stuck))
        ok = fail(error, "%s:%zu: the run does not print this here: '%.120s'", claim->lesson->path,
                  stuck + 1, stuck < claim->last ? claim->lesson->line[stuck] : "(the end)");
    else if (wide < real.count)
        ok = fail(error, "%s:%zu: the run prints a line wider than %d columns: '%.100s'",
                  claim->lesson->path, claim->line + 1, PAGE_COLUMNS, real.line[wide]);
    lines_free(&real);
    return ok;
}

/* The path of the image below a figure marker, from the root of the course. */
static void figure_path(char *path, size_t room, const Claim *claim)
{
    const char *lesson = claim->lesson->path, *slash = strrchr(lesson, '/');
    const char *image = strstr(claim->lesson->line[claim->first], "](");
    snprintf(path, room, "%.*s%.*s", slash ? (int)(slash - lesson + 1) : 0, lesson,
             image ? (int)strcspn(image + 2, ")") : 0, image ? image + 2 : "");
}

/* Two files line by line, numbers within one unit of the last digit. */
static bool files_agree(const char *committed, const char *drawn, Error *error)
{
    Lines a, b;
    if (!lines_read(&a, committed, error))
        return false;
    if (!lines_read(&b, drawn, error)) {
        lines_free(&a);
        return false;
    }
    size_t line = 0;
    while (line < a.count && line < b.count && lines_agree(a.line[line], b.line[line]))
        line++;
    bool ok = line == a.count && line == b.count;
    if (!ok)
        fail(error,
             "%s:%zu: the figure drawn now differs from here on: make figures, and look at it",
             committed, line + 1);
    lines_free(&a);
    lines_free(&b);
    return ok;
}

static bool check_figure(const Claim *claim, Error *error)
{
    char path[512], command[2048], name[64];
    figure_path(path, sizeof path, claim);
    if (!strstr(claim->argument, path))
        return fail(error, "%s:%zu: the marker draws another file than %s", claim->lesson->path,
                    claim->line + 1, path);
    if (claim->kind == TIMING_FIGURE)
        return access(path, R_OK) == 0 || fail(error, "%s: this figure is missing", path);
    temporary_name(name);
    command_write(command, sizeof command, claim->argument, name);
    bool ok = command_run(command, "/dev/null") == 0
                  ? files_agree(path, name, error)
                  : fail(error, "%s:%zu: the command fails", claim->lesson->path, claim->line + 1);
    unlink(name);
    return ok;
}

/* ---- what commands and links name -------------------------------------------------------- */

/* Does make build a program of this name? build/chNN_STEM is made of chNN_NAME/STEM.c or .cu. */
static bool program_exists(const char *word)
{
    char pattern[512], stem[128];
    int chapter;
    glob_t found;
    if (sscanf(word, "build/ch%2d_%127s", &chapter, stem) == 2) {
        snprintf(pattern, sizeof pattern, "ch%02d_*/%s.c*", chapter, stem);
        bool exists = glob(pattern, 0, NULL, &found) == 0;
        if (exists)
            globfree(&found);
        return exists;
    }
    snprintf(pattern, sizeof pattern, "%s/%s", getenv("BUILD") ? getenv("BUILD") : "build",
             starts_with(word, "build/") ? word + 6 : word);
    return access(pattern, X_OK) == 0;
}

static bool target_exists(const char *target)
{
    Lines makefile;
    Error error;
    if (!lines_read(&makefile, "Makefile", &error))
        return false;
    bool found = false;
    for (size_t i = 0; i < makefile.count; i++)
        found = found ||
                (starts_with(makefile.line[i], target) && makefile.line[i][strlen(target)] == ':');
    lines_free(&makefile);
    return found;
}

/* The words of one line that a reader types. */
static bool check_command(const Claim *claim, size_t line, Error *error)
{
    char text[1024];
    snprintf(text, sizeof text, "%s", claim->lesson->line[line]);
    text[strcspn(text, "#")] = '\0';
    char *rest = text, *word = strsep(&rest, " ");
    bool make = strcmp(word, "make") == 0;
    for (; word; word = strsep(&rest, " ")) {
        bool program = starts_with(word, "build/ch"); /* which make has a target for */
        if (program && !program_exists(word))
            return fail(error, "%s:%zu: there is no program %s", claim->lesson->path, line + 1,
                        word);
        size_t len = strlen(word);
        if (len > 2 && strcmp(word + len - 2, ".c") == 0 && access(word, R_OK) != 0)
            return fail(error, "%s:%zu: there is no file %s", claim->lesson->path, line + 1, word);
        if (make && len > 0 && strcmp(word, "make") != 0 && *word != '-' && !strchr(word, '=') &&
            !program && !target_exists(word))
            return fail(error, "%s:%zu: make has no target %s", claim->lesson->path, line + 1,
                        word);
    }
    return true;
}

static bool check_shell(const Claim *claim, Error *error)
{
    bool ok = true;
    for (size_t line = claim->first; ok && line < claim->last; line++)
        ok = *claim->lesson->line[line] == '\0' || check_command(claim, line, error);
    return ok;
}

static bool check_timing(const Claim *claim, Error *error)
{
    char program[512];
    snprintf(program, sizeof program, "%.*s", (int)strcspn(claim->argument, " "), claim->argument);
    return program_exists(program) || fail(error, "%s:%zu: there is no program %s",
                                           claim->lesson->path, claim->line + 1, program);
}

/* GitHub's anchor of a heading: lower case, blanks to dashes, punctuation dropped. */
static void heading_anchor(char *out, size_t room, const char *heading)
{
    size_t used = 0;
    heading += strspn(heading, "# ");
    for (; *heading && used + 1 < room; heading++) {
        unsigned char c = (unsigned char)*heading;
        if (isalnum(c) || c == '-' || c == '_' || c >= 0x80)
            out[used++] = (char)tolower(c);
        else if (c == ' ')
            out[used++] = '-';
    }
    out[used] = '\0';
}

static bool anchor_exists(const char *path, const char *anchor)
{
    Lines lines;
    Error error;
    char slug[512];
    if (!lines_read(&lines, path, &error))
        return false;
    bool found = false;
    for (size_t i = 0; i < lines.count; i++) {
        if (*lines.line[i] != '#')
            continue;
        heading_anchor(slug, sizeof slug, lines.line[i]);
        found = found || strcmp(slug, anchor) == 0;
    }
    lines_free(&lines);
    return found;
}

static bool check_link(const Claim *claim, Error *error)
{
    const char *lesson = claim->lesson->path, *slash = strrchr(lesson, '/');
    size_t name = strcspn(claim->argument, "#");
    char path[1024];
    if (name == 0)
        snprintf(path, sizeof path, "%s", lesson);
    else
        snprintf(path, sizeof path, "%.*s%.*s", slash ? (int)(slash - lesson + 1) : 0, lesson,
                 (int)name, claim->argument);
    if (access(path, R_OK) != 0)
        return fail(error, "%s:%zu: a link to %s, which is not there", lesson, claim->line + 1,
                    path);
    if (claim->argument[name] == '#' && !anchor_exists(path, claim->argument + name + 1))
        return fail(error, "%s:%zu: a link to a heading that is not there: %s", lesson,
                    claim->line + 1, claim->argument);
    return true;
}

/* ---- exercises --------------------------------------------------------------------------- */
/* //> EX N.M [2 pts] [10 min] title    opens; then hints (//?) in rising order, at least two; then
   the solution, 1 to 12 lines; //< EX N.M closes. N is the chapter. The comment before it, the
   lesson, and a test whose name starts with exN_M_ must know of it. */

typedef struct {
    int chapter, number, points, minutes;
    char title[128];
} Exercise;

static bool text_contains(const char *path, const char *part)
{
    char *text;
    size_t len;
    Error error;
    if (!text_read(&text, &len, path, &error))
        return false;
    bool found = strstr(text, part) != NULL;
    free(text);
    return found;
}

/* Does any file that matches the pattern contain this? */
static bool glob_contains(const char *pattern, const char *part)
{
    glob_t found;
    bool contains = false;
    if (glob(pattern, 0, NULL, &found) != 0)
        return false;
    for (size_t i = 0; i < found.gl_pathc; i++)
        contains = contains || text_contains(found.gl_pathv[i], part);
    globfree(&found);
    return contains;
}

/* What the rest of the course must know of an exercise. */
static bool exercise_known(const Exercise *exercise, const Lines *source, size_t line, Error *error)
{
    char pattern[128], name[64], folder[512];
    snprintf(name, sizeof name, "Exercise %d.%d", exercise->chapter, exercise->number);
    bool announced = false;
    for (size_t i = line > 30 ? line - 30 : 0; i < line; i++)
        announced = announced || strstr(source->line[i], name);
    if (!announced)
        return fail(error, "%s:%zu: no comment above says %s", source->path, line + 1, name);
    snprintf(folder, sizeof folder, "%.*s*.md",
             (int)(strrchr(source->path, '/') - source->path + 1), source->path);
    if (!glob_contains(folder, name) || !glob_contains(folder, exercise->title))
        return fail(error, "%s:%zu: the lesson does not list %s: %s", source->path, line + 1, name,
                    exercise->title);
    snprintf(pattern, sizeof pattern, "tests/test_ch%02d_*.c", exercise->chapter);
    snprintf(name, sizeof name, "void ex%d_%d_", exercise->chapter, exercise->number);
    return glob_contains(pattern, name) ||
           fail(error, "%s:%zu: no test is called %s...", source->path, line + 1, name + 5);
}

/* The region that opens at `open`; *end is its last line. */
static bool exercise_check(Exercise *exercise, size_t *end, const Lines *source, size_t open,
                           Error *error)
{
    const char *text = source->line[open] + indentation(source->line[open]);
    char closing[32];
    int hints = 0, lines = 0;
    if (sscanf(text, "//> EX %d.%d [%d pt%*[s]] [%d min] %127[^\n]", &exercise->chapter,
               &exercise->number, &exercise->points, &exercise->minutes, exercise->title) != 5 &&
        sscanf(text, "//> EX %d.%d [%d pt] [%d min] %127[^\n]", &exercise->chapter,
               &exercise->number, &exercise->points, &exercise->minutes, exercise->title) != 5)
        return fail(error, "%s:%zu: an exercise opens with //> EX 1.2 [2 pts] [10 min] title",
                    source->path, open + 1);
    if (exercise->points < 1 || exercise->minutes < 1 ||
        atoi(strstr(source->path, "ch") + 2) != exercise->chapter)
        return fail(error, "%s:%zu: an exercise needs points, minutes, and its chapter's number",
                    source->path, open + 1);
    snprintf(closing, sizeof closing, "//< EX %d.%d", exercise->chapter, exercise->number);
    size_t line = open + 1;
    for (; line < source->count; line++) {
        text = source->line[line] + indentation(source->line[line]);
        if (starts_with(text, "//<") || starts_with(text, "//>"))
            break;
        hints += starts_with(text, "//?");
        lines += *text && !starts_with(text, "//?") && !starts_with(text, "//:");
    }
    if (line == source->count || strcmp(text, closing) != 0)
        return fail(error, "%s:%zu: this exercise is not closed by %s", source->path, open + 1,
                    closing);
    if (hints < 2 || lines < 1 || lines > 12)
        return fail(error, "%s:%zu: %d hints (at least 2), %d lines of solution (1 to 12)",
                    source->path, open + 1, hints, lines);
    *end = line;
    return exercise_known(exercise, source, open, error);
}

/* How often the sources of an exercise's chapter open the exercise of this number. */
static int exercise_count(const Lines *source, int chapter, int number)
{
    char pattern[512], opening[32];
    glob_t found;
    int count = 0;
    snprintf(pattern, sizeof pattern, "%.*s*.[ch]*",
             (int)(strrchr(source->path, '/') - source->path + 1), source->path);
    snprintf(opening, sizeof opening, "//> EX %d.%d [", chapter, number);
    if (glob(pattern, 0, NULL, &found) != 0)
        return 0;
    for (size_t i = 0; i < found.gl_pathc; i++) {
        char *text;
        size_t len;
        Error error;
        if (!text_read(&text, &len, found.gl_pathv[i], &error))
            continue;
        for (const char *at = text; (at = strstr(at, opening)) != NULL; at++)
            count++;
        free(text);
    }
    globfree(&found);
    return count;
}

/* All exercises of one source; those of a chapter are numbered 1, 2, 3 ... without a gap. */
static bool check_exercises(const Lines *source, Error *error)
{
    int count = 0;
    for (size_t line = 0; line < source->count; line++) {
        const char *text = source->line[line] + indentation(source->line[line]);
        Exercise exercise;
        if (starts_with(text, "//<"))
            return fail(error, "%s:%zu: this closes no exercise", source->path, line + 1);
        if (!starts_with(text, "//>"))
            continue;
        if (!exercise_check(&exercise, &line, source, line, error))
            return false;
        count++;
        if (exercise_count(source, exercise.chapter, exercise.number) != 1)
            return fail(error, "%s:%zu: the chapter has exercise %d.%d twice", source->path,
                        line + 1, exercise.chapter, exercise.number);
        if (exercise.number > 1 &&
            exercise_count(source, exercise.chapter, exercise.number - 1) == 0)
            return fail(error, "%s:%zu: there is no exercise %d before %d", source->path, line + 1,
                        exercise.number - 1, exercise.number);
    }
    return count <= 8 || fail(error, "%s: %d exercises; a file has at most 8", source->path, count);
}

/* ---- everything -------------------------------------------------------------------------- */

static bool check_claim(const Claim *claim, Error *error)
{
    switch (claim->kind) {
    case CODE: return check_code(claim, error);
    case RUN: return check_run(claim, error);
    case TIMING: return check_timing(claim, error);
    case FIGURE:
    case TIMING_FIGURE: return check_figure(claim, error);
    case SHELL: return check_shell(claim, error);
    case LINK: return check_link(claim, error);
    case EXERCISE: return check_exercises(claim->lesson, error);
    case PROBLEM:
        return fail(error, "%s:%zu: %s", claim->lesson->path, claim->line + 1, claim->argument);
    case BY_HAND: return true;
    }
    return false;
}

#include "check.h" /* only now: cmocka makes a macro of the name fail, which is used above */

static void one_claim(void **state)
{
    Error error;
    error.text[0] = '\0';
    if (!check_claim((const Claim *)*state, &error))
        fail_msg("%s", error.text);
}

/* Every figure must be shown somewhere. */
static void every_figure_is_shown(void **state)
{
    const Claims *claims = (const Claims *)*state;
    glob_t found;
    if (glob("ch*/figures/*.svg", 0, NULL, &found) != 0)
        return;
    for (size_t i = 0; i < found.gl_pathc; i++) {
        bool shown = false;
        for (size_t c = 0; c < claims->count; c++)
            shown = shown || strstr(claims->claim[c].argument, found.gl_pathv[i]);
        if (!shown)
            fail_msg("%s: no lesson shows this figure", found.gl_pathv[i]);
    }
    globfree(&found);
}

/* Reads the files that match a pattern and collects their claims. */
size_t collect(Claims *claims, Lines *files, size_t count, const char *pattern)
{
    glob_t found;
    if (glob(pattern, 0, NULL, &found) != 0)
        return count;
    for (size_t i = 0; i < found.gl_pathc; i++) {
        Error error;
        if (!lines_read(&files[count], found.gl_pathv[i], &error))
            continue;
        if (strstr(found.gl_pathv[i], ".md"))
            lesson_parse(claims, &files[count]);
        else
            claims_add(claims, EXERCISE, &files[count], 0, "exercises");
        count++;
    }
    globfree(&found);
    return count;
}

int redraw_figures(const Claims *claims, bool timings)
{
    for (size_t c = 0; c < claims->count; c++) {
        const Claim *claim = &claims->claim[c];
        char command[2048];
        if (claim->kind != FIGURE && (claim->kind != TIMING_FIGURE || !timings))
            continue;
        command_write(command, sizeof command, claim->argument, NULL);
        printf("%s\n", claim->argument);
        if (command_run(command, "/dev/null") != 0) {
            fprintf(stderr, "error: %s:%zu: the command fails\n", claim->lesson->path,
                    claim->line + 1);
            return 1;
        }
    }
    return 0;
}

int run_claims(Claims *claims)
{
    static const char *const kinds[] = {"code",      "run",           "timing",   "by hand",
                                        "figure",    "timing figure", "commands", "link",
                                        "exercises", "problem"};
    struct CMUnitTest *tests = NEW(struct CMUnitTest, claims->count + 1);
    for (size_t c = 0; c < claims->count; c++) {
        const Claim *claim = &claims->claim[c];
        char *name = NEW(char, strlen(claim->argument) + strlen(claim->lesson->path) + 64);
        sprintf(name, "%s:%zu %s %s", claim->lesson->path, claim->line + 1, kinds[claim->kind],
                claim->argument);
        tests[c].name = name;
        tests[c].test_func = one_claim;
        tests[c].initial_state = &claims->claim[c];
    }
    tests[claims->count].name = "every_figure_is_shown";
    tests[claims->count].test_func = every_figure_is_shown;
    tests[claims->count].initial_state = claims;
    int failed = _cmocka_run_group_tests("the lessons", tests, claims->count + 1, NULL, NULL);
    for (size_t c = 0; c < claims->count; c++)
        free((char *)tests[c].name);
    free(tests);
    return failed;
}

#if __INCLUDE_LEVEL__ == 0
int main(int argc, char **argv)
{
    enum { MAX_FILES = 200 };
    bool figures = argc > 1 && strcmp(argv[1], "--figures") == 0;
    Claims claims = {NULL, 0, 0};
    Lines *files = NEW(Lines, MAX_FILES);
    size_t count = collect(&claims, files, 0, "README.md");
    count = collect(&claims, files, count, "ch[0-9]*/*.md");
    count = collect(&claims, files, count, "data/README.md");
    count = collect(&claims, files, count, "tests/README.md");
    count = collect(&claims, files, count, "ch[0-9]*/*.c");
    count = collect(&claims, files, count, "ch[0-9]*/*.cu");
    count = collect(&claims, files, count, "ch[0-9]*/*.h");
    int result = 1;
    char some[256];
    if (argc > 1 && !figures) {
        snprintf(some, sizeof some, "%s*", argv[1]);
        cmocka_set_test_filter(some);
    }
    if (argc > 1 && !figures && argv[1][0] == '-')
        fprintf(stderr, "usage: test_lessons [LESSON | --figures [--timings]]\n");
    else if (claims.count == 0)
        fprintf(stderr, "error: there is no lesson here: run this from the root of the course\n");
    else
        result = figures ? redraw_figures(&claims, argc > 2) : run_claims(&claims);
    for (size_t c = 0; c < claims.count; c++)
        free(claims.claim[c].argument);
    for (size_t i = 0; i < count; i++)
        lines_free(&files[i]);
    free(claims.claim);
    free(files);
    return result;
}
#endif
