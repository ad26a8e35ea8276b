/* The lesson checker: what a lesson claims is held against the course itself.

   Run from the root of the course. A lesson is README.md there, or any chNN_name/FILE.md. A claim
   carries its proof in an HTML comment, which no rendered page shows, on the line before it (blank
   lines between are allowed); each claim is a cmocka test of its own.

   <!-- code: FILE -->        The fenced block stands in FILE, word for word, as consecutive lines. It
                              may be indented less, as a whole; marker lines of exercises are passed
                              over; a line `...` skips one or more lines.
   <!-- run: COMMAND -->      The command, run by /bin/sh here, prints the block, stderr included, and
   <!-- run (exit N): .. -->  exits with 0, or N. A line `...` stands for any lines, or none. Numbers
                              with a decimal point or an exponent may be off by one unit of the last
                              digit quoted, and blanks next to them may give way; all else is equal.
   <!-- timing: COMMAND -->   A measurement: it is not repeated, but its program must be there.
   <!-- by hand -->           No program makes this block.
   <!-- figure: COMMAND -->   Before a line with ![alt](path): the command draws that file. It is drawn
                              again elsewhere and compared; numbers with a decimal point may be off by
                              one unit of their last digit. README.md shows figures of the chapters
                              without a marker.
   <!-- timing figure: .. --> The drawing of a measurement: the file and the program must be there.

   A fence with the language sh needs no marker: commands to type, of which `make TARGET`,
   `build/PROGRAM` and `cc FILE.c` must exist. Every other fence and image without a marker is an
   error. Links to files and headings lead somewhere; every figure is used; exercises are marked as
   the course wants them.

   BUILD names the folder of the programs: a command that starts with build/ runs from there. */

#include "../ch01_markov/markov.c"
#include "check.h"
#include <fcntl.h>
#include <float.h>
#include <glob.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#undef fail /* cmocka's; here it is the course's own, which fills an Error */

enum { OUTPUT_MAX_BYTES = 8 << 20, TIMEOUT_S = 60, TIMING_TIMEOUT_S = 3600 };
enum { HINTS_LEAST = 2, SOLUTION_MOST = 12, REGIONS_LEAST = 3, REGIONS_MOST = 8 };

/* A text cut into its lines. */
typedef struct {
    char *text;  /* owned; each newline in it has become a 0 */
    char **line; /* (n) into text */
    size_t n;
} Lines;

typedef enum {
    CLAIM_CODE,
    CLAIM_RUN,
    CLAIM_TIMING,
    CLAIM_BY_HAND,
    CLAIM_FIGURE,
    CLAIM_TIMING_FIGURE,
    CLAIM_SHELL,     /* an sh block */
    CLAIM_LINKS,     /* all links of a lesson */
    CLAIM_EXERCISES, /* all exercises of a chapter */
    CLAIM_FIGURES,   /* all figures of all chapters are shown */
    CLAIM_BROKEN     /* no claim could be read: `what` says why */
} ClaimKind;

typedef struct {
    size_t line; /* from 1 */
    char *target;
} Link;

typedef struct {
    char *path, *folder; /* "ch01_markov/README.md" and "ch01_markov", "" at the root */
    Lines lines;
    Link *link; /* (n_link) to files and headings, images left out */
    size_t n_link;
} Lesson;

typedef struct {
    ClaimKind kind;
    const struct Course *course;
    const Lesson *lesson; /* NULL if the claim is about a folder */
    char *name;           /* what cmocka shows */
    char *what;           /* the marker's file or command, the chapter's folder, a sentence */
    char *image, *alt;    /* of a figure: its path from the root */
    size_t line;          /* of the marker, from 1 */
    int status;           /* with which a run must exit */
    size_t first, indent; /* the line of the quote's first line, and the fence's indentation */
    Lines quote;
} Claim;

/* An image as a lesson shows it. */
typedef struct {
    const Lesson *lesson;
    size_t line;
    char *path; /* from the root */
    bool marked;
} Image;

typedef struct Course {
    const char *build; /* where the programs are */
    double timeout;    /* seconds */
    Lesson **lesson;   /* (n_lesson) */
    Claim *claim;      /* (n_claim) */
    Image *image;      /* (n_image) */
    size_t n_lesson, n_claim, n_image;
} Course;

/* ================================== Text =================================================== */
/* Problems are sentences written to a stream, `report`: a check that wrote none has passed.   */

/* Room for one more item in an array that grows by doubling and holds `count`. */
static void *one_more(void *items, size_t count, size_t size)
{
    if (count & (count - 1)) /* no power of two: there is room left */
        return items;
    void *larger = realloc(items, (count ? 2 * count : 1) * size);
    if (!larger) {
        fprintf(stderr, "error: out of memory after %zu items of %zu bytes\n", count, size);
        exit(1);
    }
    return larger;
}

static char *text_copy(const char *text, size_t len)
{
    char *copy = NEW(char, len + 1);
    memcpy(copy, text, len);
    return copy;
}

static char *text_format(const char *format, ...) __attribute__((format(printf, 1, 2)));
static char *text_format(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    char *text = NULL;
    if (vasprintf(&text, format, arguments) < 0) {
        fputs("error: out of memory\n", stderr);
        exit(1);
    }
    va_end(arguments);
    return text;
}

static void say(FILE *report, const char *file, size_t line, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static void say(FILE *report, const char *file, size_t line, const char *format, ...)
{
    va_list arguments;
    if (line)
        fprintf(report, "%s:%zu: ", file, line);
    else
        fprintf(report, "%s: ", file);
    va_start(arguments, format);
    vfprintf(report, format, arguments);
    va_end(arguments);
    putc('\n', report);
}

static void lines_add(Lines *lines, char *line)
{
    lines->line = (char **)one_more(lines->line, lines->n, sizeof *lines->line);
    lines->line[lines->n++] = line;
}

/* Takes over `text`. */
static Lines lines_of(char *text)
{
    Lines lines = {text, NULL, 0};
    for (char *line = text, *end; *line; line = end) {
        end = line + strcspn(line, "\n");
        if (*end)
            *end++ = '\0';
        lines_add(&lines, line);
    }
    return lines;
}

static void lines_free(Lines *lines)
{
    free(lines->line);
    free(lines->text);
    memset(lines, 0, sizeof *lines);
}

static bool lines_read(Lines *lines, const char *path, Error *error)
{
    char *text;
    size_t len;
    struct stat info;
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode))
        return fail(error, "%.200s: is a folder", path);
    if (!text_read(&text, &len, path, error))
        return false;
    if (strlen(text) != len) {
        free(text);
        return fail(error, "%.200s: is no text, it holds a byte 0", path);
    }
    *lines = lines_of(text);
    return true;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static size_t blanks(const char *text)
{
    return strspn(text, " \t\r");
}

static size_t trimmed_length(const char *text) /* without the blanks at its end */
{
    size_t len = strlen(text);
    while (len > 0 && is_blank(text[len - 1]))
        len--;
    return len;
}

static bool starts(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

static bool is_ellipsis(const char *line)
{
    line += blanks(line);
    size_t len = trimmed_length(line);
    return len == 3 && (memcmp(line, "...", 3) == 0 || memcmp(line, "\xE2\x80\xA6", 3) == 0);
}

static bool has_ellipsis(const Lines *lines)
{
    for (size_t i = 0; i < lines->n; i++)
        if (is_ellipsis(lines->line[i]))
            return true;
    return false;
}

static bool is_word_byte(char c)
{
    return isalnum((unsigned char)c) || c == '_';
}

/* `text` with each `what` that stands alone, between blanks or quotes, replaced; NULL if none. */
static char *text_replaced(const char *text, const char *what, const char *with)
{
    char *result;
    size_t len, found = 0;
    FILE *out = open_memstream(&result, &len);
    for (const char *at = text; *at;) {
        bool alone = at == text || strchr(" \t'\"=>", at[-1]);
        const char *end = starts(at, what) ? at + strlen(what) : NULL;
        if (alone && end && (!*end || strchr(" \t'\";&|)", *end))) {
            fputs(with, out);
            at = end;
            found++;
        } else {
            putc(*at++, out);
        }
    }
    fclose(out);
    if (found == 0) {
        free(result);
        return NULL;
    }
    return result;
}

/* The path from the root of what `target` means in `folder`; NULL if it leads out of the root. */
static char *path_from(const char *folder, const char *target)
{
    char *whole = text_format("%s/%s", folder, target), *result = NEW(char, strlen(whole) + 2);
    char *rest = whole;
    bool inside = true;
    for (char *part; inside && (part = strsep(&rest, "/"));) {
        char *last = strrchr(result, '/');
        if (*part == '\0' || strcmp(part, ".") == 0)
            continue;
        if (strcmp(part, "..") != 0)
            sprintf(result + strlen(result), "%s%s", *result ? "/" : "", part);
        else if ((inside = *result != '\0'))
            *(last ? last : result) = '\0';
    }
    free(whole);
    if (inside && !*result)
        strcpy(result, ".");
    if (inside)
        return result;
    free(result);
    return NULL;
}

/* ================================== Numbers and lines ====================================== */
/* Another compiler or processor may round the last digit the other way, and no further.       */

/* How two lines are compared. */
typedef enum { AS_RUN, AS_SVG, AS_CODE } Manner;

/* A number in a line. */
typedef struct {
    const char *begin, *end;
    double value, unit; /* unit: of its last digit */
    bool tolerant;
} Number;

/* Digits that go on a name, a colour or a version are text. In a path of SVG, commands are letters
   and stand right before their numbers. */
static bool number_may_start(char before, Manner manner)
{
    if (isdigit((unsigned char)before) || before == '#' || before == '.')
        return false;
    return manner == AS_SVG || !is_word_byte(before);
}

static const char *exponent_end(const char *at) /* `at` itself if there is none */
{
    if (*at != 'e' && *at != 'E')
        return at;
    size_t sign = at[1] == '-' || at[1] == '+', digits = strspn(at + 1 + sign, "0123456789");
    return digits ? at + 1 + sign + digits : at;
}

static bool number_at(Number *number, const char *line, const char *at, Manner manner)
{
    char before = at > line ? at[-1] : ' ';
    const char *digit = at;
    if (*at == '-' || *at == '+') /* a sign, unless it stands between two things as in 2-3 */
        digit += manner == AS_SVG || !(is_word_byte(before) || before == ')');
    if (digit == at && !number_may_start(before, manner))
        return false;
    size_t whole = strspn(digit, "0123456789"), decimals = 0;
    const char *end = digit + whole;
    if (*end == '.' && isdigit((unsigned char)end[1])) {
        decimals = strspn(end + 1, "0123456789");
        end += 1 + decimals;
    }
    number->begin = at;
    number->end = exponent_end(end);
    bool exponent = number->end > end;
    if (whole + decimals == 0 || (number->end[0] == '.' && isdigit((unsigned char)number->end[1])))
        return false; /* or 1.2.3, which is no number */
    if (exponent && manner == AS_RUN && is_word_byte(*number->end))
        return false; /* 3e8f is a name */
    number->tolerant = decimals > 0 || (exponent && manner == AS_RUN);
    number->value = strtod(at, NULL);
    number->unit = pow(10.0, (exponent ? strtod(end + 1, NULL) : 0.0) - (double)decimals);
    return true;
}

static size_t number_width(const Number *number)
{
    return (size_t)(number->end - number->begin);
}

static bool numbers_agree(const Number *quote, const Number *actual)
{
    size_t width = number_width(quote);
    if (width == number_width(actual) && memcmp(quote->begin, actual->begin, width) == 0)
        return true;
    double rounding = 1e-6 * quote->unit + 4 * DBL_EPSILON * fabs(quote->value);
    return quote->tolerant && fabs(quote->value - actual->value) <= quote->unit + rounding;
}

/* Both lines were followed up to here; the number before may have shifted what comes now. */
typedef struct {
    bool tolerant, other_width;
} Shift;

/* Do the blanks agree, before the numbers q and a (NULL: before other text)? Next to a number that
   may change, padding may change, and vanish only if the width of the number did change. */
static bool blanks_agree(size_t quote, size_t actual, Shift shift, const Number *q, const Number *a)
{
    if (q && a && q->tolerant) {
        shift.tolerant = true;
        shift.other_width |= number_width(q) != number_width(a);
    }
    if (quote == actual)
        return true;
    return shift.tolerant && ((quote && actual) || shift.other_width);
}

static bool text_agrees(const char *quote, const char *actual, Manner manner)
{
    const char *q = quote, *a = actual;
    Shift shift = {false, false};
    for (;;) {
        size_t q_blanks = blanks(q), a_blanks = blanks(a);
        Number q_number, a_number;
        q += q_blanks;
        a += a_blanks;
        if (!*q || !*a) /* blanks at the end do not count */
            return *q == *a;
        bool q_is = number_at(&q_number, quote, q, manner);
        bool a_is = number_at(&a_number, actual, a, manner);
        if (q_is != a_is || !blanks_agree(q_blanks, a_blanks, shift, q_is ? &q_number : NULL,
                                          a_is ? &a_number : NULL))
            return false;
        shift.tolerant = q_is && q_number.tolerant;
        shift.other_width = shift.tolerant && number_width(&q_number) != number_width(&a_number);
        if (q_is ? !numbers_agree(&q_number, &a_number) : *q != *a)
            return false;
        q = q_is ? q_number.end : q + 1;
        a = a_is ? a_number.end : a + 1;
    }
}

/* Code is quoted word for word, but for `indent` characters of indentation like those of `like`. */
static bool code_agrees(const char *quote, const char *actual, const char *like, size_t indent)
{
    size_t quote_len = trimmed_length(quote), len = trimmed_length(actual);
    if (quote_len == 0 || len == 0)
        return quote_len == len;
    return len == indent + quote_len && memcmp(actual, like, indent) == 0 &&
           memcmp(actual + indent, quote, quote_len) == 0;
}

/* A quote and what it is held against. */
typedef struct {
    Lines quote, actual; /* borrowed */
    Manner manner;
    const char *like; /* in code: a line whose first `indent` characters are not quoted */
    size_t indent;
    size_t quote_at, actual_at; /* how far agreement went at best: here are the first to differ */
} Comparison;

static bool comparison_step(const Comparison *comparison, size_t i, size_t j)
{
    if (i >= comparison->quote.n || j >= comparison->actual.n)
        return false;
    const char *quote = comparison->quote.line[i], *actual = comparison->actual.line[j];
    return comparison->manner == AS_CODE
               ? code_agrees(quote, actual, comparison->like, comparison->indent)
               : text_agrees(quote, actual, comparison->manner);
}

/* Does the quote agree with the actual lines from `start` on: in code with as many as it takes,
   else with all? Where they part after an ellipsis, the ellipsis is made one line longer. */
static bool comparison_from(Comparison *comparison, size_t start)
{
    size_t i = 0, j = start, after = 0, resume = 0; /* after: the last ellipsis, 0 for none */
    while (i < comparison->quote.n || (comparison->manner != AS_CODE && j < comparison->actual.n)) {
        if (i < comparison->quote.n && comparison->manner != AS_SVG &&
            is_ellipsis(comparison->quote.line[i])) {
            after = ++i;
            resume = j += comparison->manner == AS_CODE;
        } else if (comparison_step(comparison, i, j)) {
            i++;
            j++;
        } else {
            if (i > comparison->quote_at || start + i == 0) {
                comparison->quote_at = i;
                comparison->actual_at = j;
            }
            if (!after || j >= comparison->actual.n)
                return false;
            i = after;
            j = ++resume;
        }
    }
    return true;
}

static const char *line_or(const Lines *lines, size_t i, const char *otherwise)
{
    return i < lines->n ? lines->line[i] : otherwise;
}

static void say_difference(FILE *report, const Comparison *comparison)
{
    fprintf(report, "    quoted: %s\n    actual: %s\n",
            line_or(&comparison->quote, comparison->quote_at, "(nothing more)"),
            line_or(&comparison->actual, comparison->actual_at, "(nothing more)"));
}

/* ================================== Commands =============================================== */
/* Run as a reader would, but never for ever, and never asking back.                           */

/* Walks over the words of a shell text. Quotes are respected, nothing is expanded. */
typedef struct {
    const char *at;
    bool command; /* the next word is a command's name */
} Shell;

typedef struct {
    const char *begin;
    size_t len;
    bool command; /* a command's name, not an argument of it */
} Word;

static bool is_assignment(const char *word, size_t len)
{
    size_t name = 0;
    while (name < len && is_word_byte(word[name]))
        name++;
    return name > 0 && name < len && word[name] == '=';
}

/* Passes over what stands between words. */
static void shell_skip(Shell *shell)
{
    for (;; shell->at++) {
        if (starts(shell->at, "\\\n"))
            shell->at++;
        else if (*shell->at == '#')
            shell->at += strcspn(shell->at, "\n") - 1;
        else if (*shell->at && strchr("\n;|&()", *shell->at))
            shell->command = true;
        else if (!is_blank(*shell->at))
            return;
    }
}

static const char *word_end(const char *at)
{
    char quote = '\0';
    for (const char *begin = at; *at; at++) {
        if (*at == '\\' && quote != '\'' && at[1])
            at++;
        else if (*at == quote)
            quote = '\0';
        else if (!quote && (*at == '\'' || *at == '"'))
            quote = *at;
        else if (!quote && *at == '&' && at > begin && at[-1] == '>')
            continue; /* 2>&1 */
        else if (!quote && strchr(" \t\r\n;|&()", *at))
            break;
    }
    return at;
}

static bool shell_word(Word *word, Shell *shell)
{
    shell_skip(shell);
    if (!*shell->at)
        return false;
    word->begin = shell->at;
    shell->at = word_end(shell->at);
    word->len = (size_t)(shell->at - word->begin);
    bool assignment = shell->command && is_assignment(word->begin, word->len);
    word->command = shell->command && !assignment;
    shell->command = assignment;
    return true;
}

/* A path in build/ as it is on this run. */
static char *build_path(const char *path, size_t len, const Course *course)
{
    return text_format("%s%.*s", course->build, (int)len - 5, path + 5);
}

static bool in_build(const Word *word)
{
    return word->len > 6 && starts(word->begin, "build/");
}

/* The command with its programs taken from where they are. */
static char *command_placed(const char *command, const Course *course)
{
    char *result;
    size_t len;
    FILE *out = open_memstream(&result, &len);
    Shell shell = {command, true};
    Word word;
    for (const char *done = command;; done = shell.at) {
        bool more = shell_word(&word, &shell);
        fwrite(done, 1, (size_t)((more ? word.begin : shell.at) - done), out);
        if (!more)
            break;
        if (word.command && in_build(&word)) {
            fputs(course->build, out);
            fwrite(word.begin + 5, 1, word.len - 5, out);
        } else {
            fwrite(word.begin, 1, word.len, out);
        }
    }
    fclose(out);
    return result;
}

/* What a command did. */
typedef struct {
    Lines output; /* stdout and stderr in the order in which they were written */
    int status;   /* its exit status, or 128 + the signal that ended it */
    bool slow, flood;
} Ran;

static void command_child(const char *command, int to)
{
    setpgid(0, 0); /* a group of its own, so that all of it can be ended */
    int null = open("/dev/null", O_RDONLY);
    if (dup2(null, 0) < 0 || dup2(to, 1) < 0 || dup2(to, 2) < 0)
        _exit(127);
    setenv("NO_COLOR", "1", 1);
    setenv("LC_ALL", "C", 1);
    setenv("TERM", "dumb", 1);
    execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    _exit(127);
}

/* Waits until the output ends; true if it did so in time and within bounds. */
static bool command_listen(Ran *ran, int from, double deadline, FILE *out)
{
    char part[1 << 14];
    for (size_t total = 0;;) {
        double left = deadline - seconds_now();
        struct pollfd ready = {from, POLLIN, 0};
        int n = left > 0.0 ? poll(&ready, 1, (int)fmin(left * 1e3 + 1.0, 1e9)) : 0;
        ran->slow = n == 0;
        if (n == 0)
            return false;
        ssize_t got = n < 0 ? -1 : read(from, part, sizeof part);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return true;
        for (ssize_t k = 0; k < got; k++)
            putc(part[k] ? part[k] : '?', out); /* a byte 0 would end the text */
        ran->flood = (total += (size_t)got) > OUTPUT_MAX_BYTES;
        if (ran->flood)
            return false;
    }
}

/* Its output may have ended before it did. What it left running ends with it. */
static int command_end(pid_t child, bool *slow, double deadline)
{
    siginfo_t info;
    int status = 0;
    memset(&info, 0, sizeof info);
    while (waitid(P_PID, (id_t)child, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid == 0 && !(*slow = seconds_now() > deadline))
        usleep(1000);
    kill(-child, SIGKILL);
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* Programs that name themselves say where they were built: lessons know build/ only. */
static char *build_hidden(char *text, const char *build)
{
    char *result;
    size_t result_len, len = strlen(build);
    FILE *out = open_memstream(&result, &result_len);
    for (const char *at = text; *at;) {
        if (starts(at, build) && at[len] == '/') {
            fputs("build", out);
            at += len;
        } else {
            putc(*at++, out);
        }
    }
    fclose(out);
    free(text);
    return result;
}

static Ran command_run(const char *command, const Course *course, double timeout)
{
    Ran ran = {{NULL, NULL, 0}, 127, false, false};
    double deadline = seconds_now() + timeout;
    char *placed = command_placed(command, course), *text;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    int ends[2];
    bool piped = pipe2(ends, O_CLOEXEC) == 0;
    pid_t child = piped ? fork() : -1;
    if (child == 0)
        command_child(placed, ends[1]);
    if (piped)
        close(ends[1]);
    if (child > 0) {
        setpgid(child, child); /* here too: whichever of the two comes first */
        bool ended = command_listen(&ran, ends[0], deadline, out);
        ran.status = command_end(child, &ran.slow, ended ? deadline : 0.0);
    } else {
        fprintf(out, "%s\n", strerror(errno));
    }
    if (piped)
        close(ends[0]);
    fclose(out);
    free(placed);
    ran.output = lines_of(build_hidden(text, course->build));
    return ran;
}

/* Did it end as it should? If not, says how it ended, and the last that it printed. */
static bool ran_well(const Ran *ran, int status, const char *command, FILE *report,
                     const char *file, size_t line)
{
    if (ran->slow)
        say(report, file, line, "`%s` was stopped: it took too long", command);
    else if (ran->flood)
        say(report, file, line, "`%s` was stopped after %d MiB of output", command,
            OUTPUT_MAX_BYTES >> 20);
    else if (ran->status != status)
        say(report, file, line, "`%s` exits with %d, not %d; the end of what it prints:", command,
            ran->status, status);
    else
        return true;
    for (size_t i = ran->output.n > 8 ? ran->output.n - 8 : 0; i < ran->output.n; i++)
        fprintf(report, "    %s\n", ran->output.line[i]);
    return false;
}

/* Every program that the command runs must have been built, and there must be one. */
static void programs_check(const char *command, const Course *course, FILE *report,
                           const char *file, size_t line)
{
    size_t found = 0;
    Shell shell = {command, true};
    for (Word word; shell_word(&word, &shell);) {
        if (!word.command || !in_build(&word))
            continue;
        char *path = build_path(word.begin, word.len, course);
        if (access(path, X_OK) != 0)
            say(report, file, line, "there is no program %s", path);
        free(path);
        found++;
    }
    if (found == 0)
        say(report, file, line, "`%s` runs no program of build/", command);
}

/* ================================== Reading a lesson ======================================= */
/* Markers, fences and images become claims; what cannot be read becomes a broken one.         */

/* Where in a lesson the reading is. */
typedef struct {
    Course *course;
    Lesson *lesson;
    size_t at;    /* line, from 0 */
    Claim marker; /* read, and waiting for its block or image; only if `waiting` */
    bool waiting;
} Reader;

typedef struct {
    const char *text, *label;
    ClaimKind kind;
} MarkerKind;

static const MarkerKind marker_kinds[] = {
    {"code:", "code", CLAIM_CODE},       {"run:", "run", CLAIM_RUN},
    {"timing:", "timing", CLAIM_TIMING}, {"by hand", "by hand", CLAIM_BY_HAND},
    {"figure:", "figure", CLAIM_FIGURE}, {"timing figure:", "timing figure", CLAIM_TIMING_FIGURE},
};

static Claim *claim_add(Course *course, ClaimKind kind, const Lesson *lesson, size_t line,
                        char *what)
{
    course->claim = (Claim *)one_more(course->claim, course->n_claim, sizeof *course->claim);
    Claim *claim = &course->claim[course->n_claim++];
    memset(claim, 0, sizeof *claim);
    claim->course = course;
    claim->kind = kind;
    claim->lesson = lesson;
    claim->line = line;
    claim->what = what;
    return claim;
}

static void claim_name(Claim *claim, const char *label)
{
    claim->name = text_format("%s:%zu %s%s%s", claim->lesson->path, claim->line, label,
                              *claim->what ? " " : "", claim->what);
}

static void claim_broken(Course *course, const Lesson *lesson, size_t line, char *sentence)
{
    Claim *claim = claim_add(course, CLAIM_BROKEN, lesson, line, sentence);
    claim_name(claim, "error:");
}

/* A fence's character, its length, its indentation; length 0 if the line opens no fence. */
typedef struct {
    char mark;
    size_t len, indent;
} Fence;

static Fence fence_opened(const char *line)
{
    Fence fence = {0, 0, blanks(line)};
    fence.mark = line[fence.indent];
    if (fence.mark == '`' || fence.mark == '~')
        while (line[fence.indent + fence.len] == fence.mark)
            fence.len++;
    bool span = fence.mark == '`' && strchr(line + fence.indent + fence.len, '`');
    fence.len = fence.len < 3 || span ? 0 : fence.len;
    return fence;
}

static bool fence_closed(const Fence *fence, const char *line)
{
    Fence close = fence_opened(line);
    return close.mark == fence->mark && close.len >= fence->len &&
           trimmed_length(line) == close.indent + close.len;
}

/* The line, from 0, on which the block that opens on line `at` is closed; n if it never is. */
static size_t fence_end(const Lines *lines, size_t at)
{
    Fence fence = fence_opened(lines->line[at]);
    while (++at < lines->n && !fence_closed(&fence, lines->line[at]))
        ;
    return at;
}

static bool is_figure(ClaimKind kind)
{
    return kind == CLAIM_FIGURE || kind == CLAIM_TIMING_FIGURE;
}

static void marker_forget(Reader *reader)
{
    if (reader->waiting)
        free(reader->marker.what);
    reader->waiting = false;
}

/* A marker that waits must not wait any longer. */
static void marker_missed(Reader *reader)
{
    bool figure = is_figure(reader->marker.kind);
    if (reader->waiting)
        claim_broken(reader->course, reader->lesson, reader->marker.line,
                     text_format("nothing follows this marker: it belongs right before %s",
                                 figure ? "an image, ![alt](path)" : "a fenced block"));
    marker_forget(reader);
}

/* Reads what stands between <!-- and -->; false if that is an ordinary comment. */
static bool marker_parse(Claim *marker, char *body)
{
    int status = 0, used = 0;
    if (sscanf(body, "run (exit %3d): %n", &status, &used) == 1 && used > 0) {
        marker->kind = CLAIM_RUN;
        marker->status = status;
        marker->what = strdup(body + used);
        return true;
    }
    for (size_t k = 0; k < sizeof marker_kinds / sizeof *marker_kinds; k++) {
        const MarkerKind *kind = &marker_kinds[k];
        if (!starts(body, kind->text))
            continue;
        const char *rest = body + strlen(kind->text);
        marker->kind = kind->kind;
        marker->what = strdup(kind->kind == CLAIM_BY_HAND ? "" : rest + blanks(rest));
        return true;
    }
    return false;
}

/* A comment that is a marker waits for what follows; another comment changes nothing. */
static void read_marker(Reader *reader, const char *begin, const char *end)
{
    begin += blanks(begin);
    char *body = text_copy(begin, end > begin ? (size_t)(end - begin) : 0);
    body[trimmed_length(body)] = '\0';
    Claim marker;
    memset(&marker, 0, sizeof marker);
    if (marker_parse(&marker, body)) {
        marker_missed(reader);
        marker.line = reader->at;
        reader->marker = marker;
        reader->waiting = true;
        if (!*marker.what && marker.kind != CLAIM_BY_HAND)
            claim_broken(reader->course, reader->lesson, marker.line,
                         strdup("this marker names nothing after its colon"));
    }
    free(body);
}

/* A comment on one line may be a marker; a longer one is passed over. */
static void read_comment(Reader *reader)
{
    Lines *lines = &reader->lesson->lines;
    size_t line = reader->at;
    const char *begin = lines->line[line] + blanks(lines->line[line]) + 4;
    const char *end = strstr(begin, "-->");
    while (reader->at < lines->n && !strstr(lines->line[reader->at], "-->"))
        reader->at++;
    if (reader->at >= lines->n) {
        claim_broken(reader->course, reader->lesson, line + 1, strdup("this comment never ends"));
        return;
    }
    const char *rest = strstr(lines->line[reader->at++], "-->") + 3;
    if (trimmed_length(rest) > 0)
        claim_broken(reader->course, reader->lesson, reader->at,
                     strdup("text after a comment on its line goes unchecked"));
    if (end)
        read_marker(reader, begin, end);
}

static const char *kind_label(ClaimKind kind)
{
    for (size_t k = 0; k < sizeof marker_kinds / sizeof *marker_kinds; k++)
        if (marker_kinds[k].kind == kind)
            return marker_kinds[k].label;
    return "sh";
}

/* The waiting marker becomes a claim. */
static Claim *marker_take(Reader *reader)
{
    Claim *marker = &reader->marker;
    Claim *claim =
        claim_add(reader->course, marker->kind, reader->lesson, marker->line, marker->what);
    claim->status = marker->status;
    claim_name(claim, kind_label(marker->kind));
    reader->waiting = false;
    return claim;
}

/* The lines of the block without as much indentation as its fence has. */
static void claim_quote(Claim *claim, size_t first, size_t end, size_t indent)
{
    claim->first = first + 1;
    claim->indent = indent;
    for (size_t i = first; i < end; i++) {
        char *line = claim->lesson->lines.line[i];
        size_t cut = blanks(line);
        lines_add(&claim->quote, line + (cut < indent ? cut : indent));
    }
}

static void read_fence(Reader *reader)
{
    Lines *lines = &reader->lesson->lines;
    size_t open = reader->at, close = fence_end(lines, open);
    Fence fence = fence_opened(lines->line[open]);
    const char *language = lines->line[open] + fence.indent + fence.len;
    language += blanks(language);
    bool shell = starts(language, "sh") && trimmed_length(language) == 2;
    if (is_figure(reader->marker.kind))
        marker_missed(reader);
    reader->at = close + 1;
    if (close >= lines->n) {
        marker_forget(reader);
        claim_broken(reader->course, reader->lesson, open + 1,
                     strdup("this fence is never closed"));
        return;
    }
    Claim *claim = NULL;
    if (reader->waiting) {
        claim = marker_take(reader);
    } else if (shell) {
        claim = claim_add(reader->course, CLAIM_SHELL, reader->lesson, open + 1, strdup(""));
        claim_name(claim, "sh");
    }
    if (claim)
        claim_quote(claim, open + 1, close, fence.indent);
    else
        claim_broken(reader->course, reader->lesson, open + 1,
                     strdup("this block has no marker: put <!-- code: FILE -->, <!-- run: COMMAND "
                            "-->, <!-- timing: COMMAND --> or <!-- by hand --> on the line before "
                            "it, or give it the language sh"));
}

/* Blanks out what is set between `count` marks like the one at `at`, and them; returns what comes
   next. Without a second mark the first is text. */
static char *blank_span(char *at, size_t count)
{
    for (char *end = at + count; (end = strchr(end, *at));) {
        size_t run = 0;
        while (end[run] == *at)
            run++;
        bool closes = *at == '`' || (!is_blank(end[-1]) && !isdigit((unsigned char)end[run]));
        if (run == count && closes) { /* a formula is no two amounts of dollars */
            memset(at, ' ', (size_t)(end + run - at));
            return end + run;
        }
        end += run;
    }
    return at + count;
}

/* A copy of the line without code spans and formulas: brackets in there are no links. */
static char *line_masked(const char *line)
{
    char *masked = strdup(line);
    for (const char *mark = "`$"; *mark; mark++)
        for (char *at = masked; (at = strchr(at, *mark));) {
            size_t count = 0;
            while (at[count] == *mark)
                count++;
            bool escaped = at > masked && at[-1] == '\\';
            bool formula = *mark == '`' || !is_blank(at[count]);
            at = escaped || !formula ? at + count : blank_span(at, count);
        }
    return masked;
}

/* The [ that belongs to the ] at `close`, or NULL. */
static const char *bracket_open(const char *line, const char *close)
{
    size_t depth = 0;
    for (const char *at = close + 1; at-- > line;) {
        depth += *at == ']';
        depth -= *at == '[';
        if (depth == 0)
            return at;
    }
    return NULL;
}

/* What a link's parentheses hold, without a title: `at` stands behind the opening one. */
static char *link_target(const char *at)
{
    size_t len = 0, depth = 0;
    while (at[len] && !is_blank(at[len]) && (at[len] != ')' || depth > 0)) {
        depth += at[len] == '(';
        depth -= at[len] == ')';
        len++;
    }
    bool angled = len >= 2 && at[0] == '<' && at[len - 1] == '>';
    return text_copy(at + angled, len - 2 * angled);
}

static void link_add(Lesson *lesson, size_t line, char *target)
{
    lesson->link = (Link *)one_more(lesson->link, lesson->n_link, sizeof *lesson->link);
    lesson->link[lesson->n_link++] = (Link){line, target};
}

static void read_image(Reader *reader, char *alt, char *target)
{
    Course *course = reader->course;
    size_t line = reader->at + 1;
    char *path = strstr(target, "://") ? NULL : path_from(reader->lesson->folder, target);
    free(target);
    if (!path) {
        claim_broken(course, reader->lesson, line,
                     strdup("this image is no file of the course, so it cannot be checked"));
        marker_forget(reader);
        free(alt);
        return;
    }
    course->image = (Image *)one_more(course->image, course->n_image, sizeof *course->image);
    course->image[course->n_image++] = (Image){reader->lesson, line, path, reader->waiting};
    if (reader->waiting) {
        Claim *claim = marker_take(reader);
        claim->image = strdup(path);
        claim->alt = alt;
    } else {
        free(alt);
    }
}

/* Links and images of one line, and what looks like one but would go unchecked. */
static void read_links(Reader *reader, const char *line, const char *masked)
{
    size_t images = 0, marks = 0;
    for (const char *at = masked; (at = strstr(at, "![")); at += 2)
        marks++;
    for (const char *at = masked; (at = strstr(at, "](")); at += 2) {
        const char *open = bracket_open(masked, at);
        char *target = link_target(line + (at - masked) + 2);
        if (open && open > masked && open[-1] == '!') {
            const char *alt = line + (open - masked) + 1;
            read_image(reader, text_copy(alt, (size_t)(at - open - 1)), target);
            images++;
        } else {
            link_add(reader->lesson, reader->at + 1, target);
        }
    }
    const char *definition = masked[0] == '[' && masked[1] != '^' ? strstr(masked, "]:") : NULL;
    if (definition) {
        const char *target = line + (definition - masked) + 2;
        link_add(reader->lesson, reader->at + 1, link_target(target + blanks(target)));
    }
    if (images < marks || strstr(masked, "<img"))
        claim_broken(reader->course, reader->lesson, reader->at + 1,
                     strdup("write an image as ![alt](path), on one line: others go unchecked"));
}

static void read_text(Reader *reader)
{
    const char *line = reader->lesson->lines.line[reader->at];
    char *masked = line_masked(line);
    bool image = strstr(masked, "![");
    if (!image || !is_figure(reader->marker.kind))
        marker_missed(reader);
    read_links(reader, line, masked);
    if (strstr(masked, "```") || strstr(masked, "~~~"))
        claim_broken(reader->course, reader->lesson, reader->at + 1,
                     strdup("a fence must be the first on its line, or its block goes unchecked"));
    free(masked);
    reader->at++;
}

static void lesson_claims(Course *course, Lesson *lesson)
{
    Reader reader;
    memset(&reader, 0, sizeof reader);
    reader.course = course;
    reader.lesson = lesson;
    while (reader.at < lesson->lines.n) {
        const char *line = lesson->lines.line[reader.at];
        if (trimmed_length(line) == 0)
            reader.at++;
        else if (fence_opened(line).len)
            read_fence(&reader);
        else if (starts(line + blanks(line), "<!--"))
            read_comment(&reader);
        else
            read_text(&reader);
    }
    marker_missed(&reader);
    Claim *links = claim_add(course, CLAIM_LINKS, lesson, 0, strdup(""));
    links->name = text_format("%s links", lesson->path);
}

/* README.md at the root may show figures that a chapter's lesson has marked; all other images
   need markers of their own. */
static void images_check(Course *course)
{
    for (size_t i = 0; i < course->n_image; i++) {
        const Image *image = &course->image[i];
        bool marked = image->marked;
        for (size_t k = 0; k < course->n_image && !marked && !*image->lesson->folder; k++)
            marked = course->image[k].marked && strcmp(course->image[k].path, image->path) == 0;
        if (!marked)
            claim_broken(course, image->lesson, image->line,
                         text_format("the image %s has no marker: put <!-- figure: COMMAND --> or "
                                     "<!-- timing figure: COMMAND --> on the line before it",
                                     image->path));
    }
}

/* ================================== Code and runs ========================================== */

/* The lines of a source that a lesson can quote: all but markers of exercises. */
typedef struct {
    Lines all, kept;
    size_t *number; /* (kept.n) from 1 */
} Source;

static bool is_marker(const char *line)
{
    line += blanks(line);
    return starts(line, "//") && line[2] && strchr("><?:", line[2]);
}

static bool source_read(Source *source, const char *path, Error *error)
{
    memset(source, 0, sizeof *source);
    if (!lines_read(&source->all, path, error))
        return false;
    source->number = NEW(size_t, source->all.n);
    for (size_t i = 0; i < source->all.n; i++) {
        if (is_marker(source->all.line[i]))
            continue;
        lines_add(&source->kept, source->all.line[i]);
        source->number[source->kept.n - 1] = i + 1;
    }
    return true;
}

static void source_free(Source *source)
{
    lines_free(&source->all);
    lines_free(&source->kept);
    free(source->number);
}

/* The quote without blank lines and ellipses at both ends: there they say nothing. */
static Lines quote_core(const Lines *quote)
{
    Lines core = *quote;
    while (core.n > 0 && (!trimmed_length(core.line[0]) || is_ellipsis(core.line[0]))) {
        core.line++;
        core.n--;
    }
    while (core.n > 0 &&
           (!trimmed_length(core.line[core.n - 1]) || is_ellipsis(core.line[core.n - 1])))
        core.n--;
    return core;
}

/* Does the source have the code of the comparison's quote somewhere, all indented alike? */
static bool code_found(Comparison *comparison)
{
    const char *first = comparison->quote.line[0];
    for (size_t start = 0; start < comparison->actual.n; start++) {
        const char *line = comparison->actual.line[start];
        size_t own = blanks(first), whole = blanks(line);
        if (whole < own)
            continue;
        comparison->like = line;
        comparison->indent = whole - own;
        if (comparison_from(comparison, start))
            return true;
    }
    return false;
}

static void code_check(const Claim *claim, FILE *report)
{
    Source source;
    Error error;
    if (!source_read(&source, claim->what, &error)) {
        say(report, claim->lesson->path, claim->line, "%s", error.text);
        return;
    }
    Comparison comparison = {quote_core(&claim->quote), source.kept, AS_CODE, "", 0, 0, 0};
    size_t before = (size_t)(comparison.quote.line - claim->quote.line);
    if (comparison.quote.n == 0) {
        say(report, claim->lesson->path, claim->line, "this block quotes nothing");
    } else if (!code_found(&comparison)) {
        size_t line = claim->first + before + comparison.quote_at;
        if (comparison.quote_at == 0)
            say(report, claim->lesson->path, line, "no line of %s is\n    quoted: %s", claim->what,
                comparison.quote.line[0]);
        else {
            say(report, claim->lesson->path, line, "the code differs from %s:%zu", claim->what,
                comparison.actual_at < source.kept.n ? source.number[comparison.actual_at]
                                                     : source.all.n + 1);
            say_difference(report, &comparison);
        }
    }
    source_free(&source);
}

static Lines without_blank_end(Lines lines)
{
    while (lines.n > 0 && trimmed_length(lines.line[lines.n - 1]) == 0)
        lines.n--;
    return lines;
}

static void run_check(const Claim *claim, FILE *report)
{
    Ran ran = command_run(claim->what, claim->course, claim->course->timeout);
    Comparison comparison = {
        without_blank_end(claim->quote), without_blank_end(ran.output), AS_RUN, "", 0, 0, 0};
    if (ran_well(&ran, claim->status, claim->what, report, claim->lesson->path, claim->line) &&
        !comparison_from(&comparison, 0)) {
        say(report, claim->lesson->path, claim->first + comparison.quote_at,
            "`%s` prints something else", claim->what);
        say_difference(report, &comparison);
    }
    lines_free(&ran.output);
}

static void quote_check(const Claim *claim, FILE *report)
{
    if (without_blank_end(claim->quote).n == 0)
        say(report, claim->lesson->path, claim->line, "this block is empty");
}

/* ================================== Commands to type ======================================= */

static bool makefile_has(const Lines *makefile, const Word *target)
{
    for (size_t i = 0; i < makefile->n; i++) {
        const char *line = makefile->line[i], *colon = strchr(line, ':');
        if (*line == '\t' || *line == '#' || !colon || colon[1] == '=')
            continue;
        for (const char *at = line + blanks(line); at < colon; at += blanks(at)) {
            size_t len = strcspn(at, " \t:");
            if (len == target->len && memcmp(at, target->begin, len) == 0)
                return true;
            at += len;
        }
    }
    return false;
}

static bool word_is_one_of(const Word *word, const char *names) /* each with a blank around it */
{
    char *name = text_format(" %.*s ", (int)word->len, word->begin);
    bool found = strstr(names, name);
    free(name);
    return found;
}

static bool is_source_name(const Word *word)
{
    const char *end = word->begin + word->len;
    return (word->len > 2 && memcmp(end - 2, ".c", 2) == 0) ||
           (word->len > 3 && memcmp(end - 3, ".cu", 3) == 0);
}

/* One word of a block of commands; `command` is the name of the command it belongs to. What a
   command writes into build/ need not be there: it is told from a program by its dot. */
static void shell_word_check(const Claim *claim, const Word *word, const Word *command, size_t line,
                             const Lines *makefile, FILE *report)
{
    char *path = text_copy(word->begin, word->len);
    if (in_build(word) && (word->command || !memchr(word->begin, '.', word->len))) {
        char *program = build_path(word->begin, word->len, claim->course);
        if (access(program, X_OK) != 0)
            say(report, claim->lesson->path, line, "there is no program %s", program);
        free(program);
    } else if (!word->command && word_is_one_of(command, " make ")) {
        if (*path != '-' && !strchr(path, '=') && !makefile_has(makefile, word))
            say(report, claim->lesson->path, line, "the Makefile has no target %s", path);
    } else if (word_is_one_of(command, " cc gcc clang c++ g++ clang++ nvcc ")) {
        if (is_source_name(word) && access(path, R_OK) != 0)
            say(report, claim->lesson->path, line, "there is no file %s", path);
    }
    free(path);
}

static void shell_check(const Claim *claim, FILE *report)
{
    char *text;
    size_t len;
    Error error;
    Lines makefile = {NULL, NULL, 0};
    lines_read(&makefile, "Makefile", &error); /* without one there are no targets */
    FILE *out = open_memstream(&text, &len);
    for (size_t i = 0; i < claim->quote.n; i++)
        fprintf(out, "%s\n", claim->quote.line[i]);
    fclose(out);
    Shell shell = {text, true};
    Word command = {text, 0, true};
    size_t line = claim->first;
    const char *counted = text;
    for (Word word; shell_word(&word, &shell);) {
        if (word.command)
            command = word;
        for (; counted < word.begin; counted++)
            line += *counted == '\n';
        shell_word_check(claim, &word, &command, line, &makefile, report);
    }
    lines_free(&makefile);
    free(text);
}

/* ================================== Figures ================================================ */

static void svg_compare(const Claim *claim, const char *drawn_path, FILE *report)
{
    Lines shown, drawn;
    Error error;
    const char *lesson = claim->lesson->path;
    if (!lines_read(&shown, claim->image, &error)) {
        say(report, lesson, claim->line, "%s: `make figures` draws it", error.text);
        return;
    }
    if (!lines_read(&drawn, drawn_path, &error)) {
        say(report, lesson, claim->line, "`%s` did not draw %s", claim->what, claim->image);
        lines_free(&shown);
        return;
    }
    Comparison comparison = {shown, drawn, AS_SVG, "", 0, 0, 0};
    if (!comparison_from(&comparison, 0)) {
        say(report, claim->image, comparison.quote_at + 1,
            "`%s` draws something else (%s:%zu); `make figures` draws it anew", claim->what, lesson,
            claim->line);
        say_difference(report, &comparison);
    }
    lines_free(&shown);
    lines_free(&drawn);
}

/* Draws the figure again, into build/, and compares. */
static void figure_redraw(const Claim *claim, FILE *report)
{
    const Course *course = claim->course;
    char *folder = text_format("%s/figure.XXXXXX", course->build);
    if (!mkdtemp(folder)) {
        say(report, folder, 0, "cannot be made: %s", strerror(errno));
        free(folder);
        return;
    }
    char *drawn = text_format("%s/%s", folder, strrchr(claim->image, '/') + 1);
    char *command = text_replaced(claim->what, claim->image, drawn);
    if (!command) {
        say(report, claim->lesson->path, claim->line, "`%s` does not name %s", claim->what,
            claim->image);
    } else {
        Ran ran = command_run(command, course, course->timeout);
        if (ran_well(&ran, 0, claim->what, report, claim->lesson->path, claim->line))
            svg_compare(claim, drawn, report);
        lines_free(&ran.output);
    }
    unlink(drawn);
    rmdir(folder);
    free(command);
    free(drawn);
    free(folder);
}

static void figure_check(const Claim *claim, FILE *report)
{
    const char *lesson = claim->lesson->path;
    if (trimmed_length(claim->alt) == 0)
        say(report, lesson, claim->line, "the image has no text for those who cannot see it");
    if (!strchr(claim->image, '/'))
        say(report, lesson, claim->line, "figures belong into a folder, not to the root");
    else if (access(claim->image, R_OK) != 0)
        say(report, lesson, claim->line, "there is no file %s: `make figures` draws it",
            claim->image);
    else if (claim->kind == CLAIM_FIGURE)
        figure_redraw(claim, report);
    if (claim->kind == CLAIM_TIMING_FIGURE) {
        programs_check(claim->what, claim->course, report, lesson, claim->line);
        char *other = text_replaced(claim->what, claim->image, "");
        if (!other)
            say(report, lesson, claim->line, "`%s` does not name %s", claim->what, claim->image);
        free(other);
    }
}

/* Files that match a pattern, in order. */
static glob_t files_like(const char *pattern)
{
    glob_t files;
    memset(&files, 0, sizeof files);
    if (glob(pattern, 0, NULL, &files) != 0)
        files.gl_pathc = 0;
    return files;
}

static void figures_shown_check(const Claim *claim, FILE *report)
{
    glob_t files = files_like("ch[0-9][0-9]_*/figures/*.svg");
    for (size_t i = 0; i < files.gl_pathc; i++) {
        bool shown = false;
        for (size_t k = 0; k < claim->course->n_image; k++)
            shown |= strcmp(files.gl_pathv[i], claim->course->image[k].path) == 0;
        if (!shown)
            say(report, files.gl_pathv[i], 0, "no lesson shows this figure");
    }
    globfree(&files);
}

/* ================================== Links ================================================== */

/* What remains in an anchor of one letter of a heading, by the rule of GitHub: letters and digits
   in lower case, - and _, and - for a blank. Returns its bytes; `at` moves on. */
static size_t slug_letter(char *out, const unsigned char **at)
{
    const unsigned char *c = *at;
    size_t len = c[0] < 0x80 ? 1 : c[0] < 0xE0 ? 2 : c[0] < 0xF0 ? 3 : 4;
    while (len > 1 && memchr(c, '\0', len))
        len--;
    *at += len;
    memcpy(out, c, len);
    if (len == 1) {
        out[0] = c[0] == ' ' ? '-' : (char)tolower(c[0]);
        return isalnum(c[0]) || strchr(" -_", c[0]);
    }
    if (len > 2) /* U+2000 to U+2BFF are signs, as are pictures from U+1F000 on */
        return (c[0] == 0xE2 && c[1] < 0xB0) || (c[0] == 0xF0 && c[1] == 0x9F) ? 0 : len;
    unsigned code = (c[0] & 0x1Fu) << 6 | (c[1] & 0x3Fu);
    if (code < 0xC0 || code == 0xD7 || code == 0xF7)
        return code == 0xAA || code == 0xB5 || code == 0xBA ? len : 0;
    if (code < 0xDF || (code >= 0x391 && code <= 0x3A9) || (code >= 0x410 && code <= 0x42F))
        code += 0x20; /* Latin, Greek and Cyrillic capitals */
    out[0] = (char)(0xC0 | code >> 6);
    out[1] = (char)(0x80 | (code & 0x3F));
    return len;
}

static char *slug_of(const char *heading)
{
    size_t len = trimmed_length(heading), used = 0;
    while (len > 0 && heading[len - 1] == '#') /* ## Title ## */
        len--;
    char *text = text_copy(heading, len), *slug = NEW(char, len + 1);
    text[trimmed_length(text)] = '\0';
    const unsigned char *at = (const unsigned char *)text;
    while (*at) {
        if (starts((const char *)at, "](")) /* of a link only its text */
            at += strcspn((const char *)at, ")");
        else
            used += slug_letter(slug + used, &at);
    }
    slug[used] = '\0';
    free(text);
    return slug;
}

/* The anchors of a lesson, in order: the second heading of a name gets -1, the third -2. */
static Lines anchors_of(const Lines *lines)
{
    Lines anchors = {NULL, NULL, 0};
    for (size_t i = 0; i < lines->n; i++) {
        const char *line = lines->line[i];
        size_t level = strspn(line, "#"), same = 0;
        if (fence_opened(line).len) {
            i = fence_end(lines, i);
        } else if (level >= 1 && level <= 6 && is_blank(line[level])) {
            char *slug = slug_of(line + level + blanks(line + level));
            for (size_t k = 0; k < i; k++) {
                size_t other = strspn(lines->line[k], "#");
                if (!other || other > 6 || !is_blank(lines->line[k][other]))
                    continue;
                char *before = slug_of(lines->line[k] + other + blanks(lines->line[k] + other));
                same += strcmp(before, slug) == 0;
                free(before);
            }
            lines_add(&anchors, same ? text_format("%s-%zu", slug, same) : strdup(slug));
            free(slug);
        }
    }
    return anchors;
}
