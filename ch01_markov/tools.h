/* The course's tools: what every chapter needs and none is about.

   HOLDS   errors as one sentence, memory, a clock and a progress bar; random numbers; matrices;
           whole files, numbers; files that appear whole or not at all; options
   FOR     every chapter's file, and all machinery: this is the ground, and includes nothing */

#ifndef COURSE_TOOLS
#define COURSE_TOOLS

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* getopt_long, realpath, fsync under -std=c11 */
#endif
#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PI           3.14159265358979323846
#define NEW(type, n) ((type *)new_zeroed((n), sizeof(type)))
enum { TEXT_MAX_BYTES = 1 << 30 };

/* ==================================== Errors, memory, time ================================= */

/* What went wrong, as one sentence. Whoever reads from outside returns false and fills this. */
typedef struct {
    char text[256];
} Error;

/* Fills the sentence and returns false, so that a function can end with `return fail(...)`. */
__attribute__((format(printf, 2, 3))) bool fail(Error *error, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
    return false;
}

#ifdef __clang_analyzer__ /* it does not look into variadic functions: say what fail returns */
#define fail(...) ((fail)(__VA_ARGS__), false)
#endif

/* Zeroed memory for `count` things of `size` bytes, for NEW. Without memory a program of this
   course can say nothing more: it says that and exits with 1. */
__attribute__((returns_nonnull)) void *new_zeroed(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size ? size : 1);
    if (!memory) {
        fprintf(stderr, "error: out of memory: asked for %zu times %zu bytes\n", count, size);
        exit(1);
    }
    return memory;
}

/* Room for one more. An array grows from 0 to 1, 2, 4, 8 ... elements: it is full when `count` is
   one of these, and then it is replaced by one twice as large. */
void *array_grow(void *array, size_t count, size_t size)
{
    if ((count & (count - 1)) != 0)
        return array;
    void *larger = new_zeroed(count ? 2 * count : 1, size);
    if (count)
        memcpy(larger, array, count * size);
    free(array);
    return larger;
}

/* A text of its own, to be freed. */
char *text_copy(const char *text)
{
    size_t room = strlen(text) + 1;
    char *copy = NEW(char, room);
    memcpy(copy, text, room);
    return copy;
}

/* On a clock that never runs backwards. */
double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* A progress bar on stderr; silent unless stderr is a terminal. */
typedef struct {
    const char *what;
    double start, last; /* seconds */
    bool on;
} Progress;

Progress progress_start(const char *what)
{
    Progress progress;
    progress.what = what;
    progress.start = progress.last = seconds_now();
    progress.on = isatty(STDERR_FILENO) != 0;
    return progress;
}

/* Draws the bar anew, at most ten times a second. */
void progress_show(Progress *progress, double done, double total)
{
    double now = seconds_now();
    if (!progress->on || now - progress->last < 0.1)
        return;
    progress->last = now;
    double rate = done / (now - progress->start);
    double part = total > 0.0 ? fmin(done / total, 1.0) : 1.0;
    int filled = (int)(30.0 * part);
    fprintf(stderr, "\r%s [%.*s%*s] %3.0f %%  %.3g/s  %.0f s left ", progress->what, filled,
            "##############################", 30 - filled, "", 100.0 * part, rate,
            (total - done) / rate);
}

void progress_end(Progress *progress)
{
    if (progress->on && progress->last > progress->start)
        fprintf(stderr, "\r%*s\r", 78, "");
}

/* How many columns a line of prose may have: what COLUMNS says, or the terminal that stdout is, but
   from 40 to 120; else 80. */
size_t page_columns(void)
{
    struct winsize window;
    const char *said = getenv("COLUMNS");
    long columns = said && isdigit((unsigned char)*said) ? strtol(said, NULL, 10) : 0;
    if (columns <= 0 && isatty(STDOUT_FILENO) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) == 0)
        columns = window.ws_col;
    return columns <= 0 ? 80 : columns < 40 ? 40 : columns > 120 ? 120 : (size_t)columns;
}

/* Whether the user's locale writes UTF-8, by its name: the first of LC_ALL, LC_CTYPE and LANG that
   is set. Where none is, nobody has said that it does not, and it does. */
bool locale_is_utf8(void)
{
    static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};
    for (int k = 0; k < 3; k++) {
        const char *value = getenv(names[k]);
        if (value && *value)
            return strcasestr(value, "utf-8") || strcasestr(value, "utf8");
    }
    return true;
}

/* ==================================== Random numbers ====================================== */
/* PCG32 (O'Neill 2014, "PCG: A Family of Simple Fast Space-Efficient Statistically Good
   Algorithms for Random Number Generation", section 6.3: PCG-XSH-RR 64/32). */

/* A random generator is a value: the same seed gives the same numbers everywhere. */
typedef struct {
    uint64_t state, increment;
} Random;

uint32_t random_u32(Random *random)
{
    uint64_t old = random->state;
    random->state = old * 6364136223846793005u + random->increment;
    uint32_t mixed = (uint32_t)(((old >> 18) ^ old) >> 27);
    uint32_t turn = (uint32_t)(old >> 59);
    return (mixed >> turn) | (mixed << ((32 - turn) & 31));
}

Random random_from_seed(uint64_t seed)
{
    Random random;
    random.state = 0;
    random.increment = (54u << 1) | 1u;
    random_u32(&random);
    random.state += seed;
    random_u32(&random);
    return random;
}

/* In [0, 1), with 53 random bits. */
double random_uniform(Random *random)
{
    uint32_t high = random_u32(random) >> 5, low = random_u32(random) >> 6;
    return (high * 67108864.0 + low) / 9007199254740992.0; /* 27 and 26 bits: 53 in all */
}

/* Mean 0, variance 1 (Box and Muller). */
double random_normal(Random *random)
{
    double radius = sqrt(-2.0 * log(1.0 - random_uniform(random)));
    return radius * cos(2.0 * PI * random_uniform(random));
}

/* A number that tells texts apart, the same everywhere (FNV-1a); `hash` is HASH_START, or that of
   what came before. */
#define HASH_START 14695981039346656037u

uint64_t hash_bytes(const void *bytes, size_t len, uint64_t hash)
{
    const unsigned char *at = (const unsigned char *)bytes;
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ at[i]) * 1099511628211u;
    return hash;
}

/* ======================================= Matrices ========================================= */
/* Row-major arrays of double; sizes come last; `out` never overlaps an input. */

/* Zeros, to be freed. */
double *matrix_new(size_t rows, size_t cols)
{
    return (double *)new_zeroed(rows, (cols ? cols : 1) * sizeof(double));
}

/* out (cols) = v (rows) times M (rows, cols) */
void vector_times_matrix(double *out, const double *v, const double *M, size_t rows, size_t cols)
{
    assert(out != v && out != M);
    memset(out, 0, cols * sizeof *out);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++)
            out[j] += v[i] * M[i * cols + j];
}

void matrix_identity(double *out, size_t n)
{
    memset(out, 0, n * n * sizeof *out);
    for (size_t i = 0; i < n; i++)
        out[i * n + i] = 1.0;
}

void matrix_transpose(double *out, const double *M, size_t rows, size_t cols)
{
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++)
            out[j * rows + i] = M[i * cols + j];
}

void matrix_multiply(double *out, const double *left, const double *right, size_t rows,
                     size_t inner, size_t cols)
{
    assert(out != left && out != right); /* they are read while out is written */
    for (size_t i = 0; i < rows; i++)
        vector_times_matrix(out + i * cols, left + i * inner, right, inner, cols);
}

static void swap_rows(double *a, double *b, size_t cols)
{
    for (size_t j = 0; j < cols; j++) {
        double held = a[j];
        a[j] = b[j];
        b[j] = held;
    }
}

void add_scaled_row(double *to, const double *from, double factor, size_t cols)
{
    for (size_t j = 0; j < cols; j++)
        to[j] += factor * from[j];
}

/* Solves A X = X0 in place: X (n, cols) holds X0 before and the answer after; A (n, n) is used up,
   with the pivots left on its diagonal. Returns false if A is singular, with X then undefined.
   Gaussian elimination with partial pivoting (Golub & Van Loan, Matrix Computations, 3.4). */
bool matrix_solve(double *X, double *A, size_t n, size_t cols)
{
    for (size_t k = 0; k < n; k++) {
        size_t pivot = k;
        for (size_t i = k + 1; i < n; i++)
            if (fabs(A[i * n + k]) > fabs(A[pivot * n + k]))
                pivot = i;
        if (!(fabs(A[pivot * n + k]) > 0.0))
            return false;
        if (pivot != k) {
            swap_rows(A + pivot * n, A + k * n, n);
            swap_rows(X + pivot * cols, X + k * cols, cols);
        }
        for (size_t i = k + 1; i < n; i++) {
            double factor = A[i * n + k] / A[k * n + k];
            if (factor != 0.0) {
                add_scaled_row(A + i * n + k, A + k * n + k, -factor, n - k);
                add_scaled_row(X + i * cols, X + k * cols, -factor, cols);
            }
        }
    }
    for (size_t k = n; k-- > 0;) {
        for (size_t j = 0; j < cols; j++)
            X[k * cols + j] /= A[k * n + k];
        for (size_t i = 0; i < k; i++)
            add_scaled_row(X + i * cols, X + k * cols, -A[i * n + k], cols);
    }
    return true;
}

/* NaN if there is one. */
double matrix_max_abs(const double *M, size_t count)
{
    double largest = 0.0;
    for (size_t i = 0; i < count && !isnan(largest); i++)
        if (!(fabs(M[i]) <= largest)) /* so written, a NaN counts as larger, and stays */
            largest = fabs(M[i]);
    return largest;
}

/* The largest |eigenvalue| of M (n, n), from the growth of its powers. Gelfand's formula,
   rho = lim |M^k|^(1/k), along k = 1, 2, 4, 8 ...: each squaring is scaled back to size 1 and the
   logarithm of the scale kept, so nothing overflows or vanishes. */
double matrix_spectral_radius(const double *M, size_t n)
{
    double *power = matrix_new(n, n), *square = matrix_new(n, n);
    double log_norm = 0.0, radius = 0.0; /* |M^k| = exp(log_norm) * |power| */
    memcpy(power, M, n * n * sizeof *power);
    for (int doubling = 0; doubling <= 50; doubling++) {
        double size = matrix_max_abs(power, n * n);
        if (!(size > 0.0) || !isfinite(size)) { /* nilpotent, or not a finite matrix */
            radius = size;
            break;
        }
        for (size_t i = 0; i < n * n; i++)
            power[i] /= size;
        log_norm += log(size);
        radius = exp(log_norm / ldexp(1.0, doubling)); /* k = 2^doubling */
        matrix_multiply(square, power, power, n, n, n);
        memcpy(power, square, n * n * sizeof *power);
        log_norm *= 2.0;
    }
    free(power);
    free(square);
    return radius;
}

/* ================================== Files, numbers ======================================== */

/* A path for messages and titles. "-" is standard input, wherever a file is read; of a long path
   the end says most, and leaves room for a sentence. */
const char *path_shown(const char *path)
{
    enum { MOST = 100 };
    size_t len = strlen(path);
    for (path += len > MOST ? len - MOST : 0; ((unsigned char)*path & 0xC0) == 0x80;)
        path++; /* not from the midst of a character */
    return strcmp(path, "-") == 0 ? "standard input" : path;
}

/* Puts the name of a file before a sentence that does not name it. */
bool fail_in(const char *path, Error *error)
{
    Error said = *error;
    return fail(error, "%s: %s", path_shown(path), said.text);
}

/* Reads a stream to its end. The size is not asked for beforehand: it may be a pipe. */
static bool stream_read(char **text, size_t *len, FILE *in, const char *path, Error *error)
{
    size_t room = 1 << 16, used = 0;
    char *buffer = (char *)malloc(room);
    while (buffer) {
        used += fread(buffer + used, 1, room - used - 1, in);
        if (used + 1 < room)
            break;
        if (room >= TEXT_MAX_BYTES) {
            free(buffer);
            return fail(error, "%s: larger than %d MiB", path, TEXT_MAX_BYTES >> 20);
        }
        char *larger = (char *)realloc(buffer, room *= 2);
        if (!larger)
            free(buffer);
        buffer = larger;
    }
    if (!buffer)
        return fail(error, "%s: out of memory after %zu bytes", path, used);
    if (ferror(in)) {
        free(buffer);
        return fail(error, "%s: %s", path, strerror(errno));
    }
    buffer[used] = '\0';
    *text = buffer;
    *len = used;
    return true;
}

/* A whole file as it is, byte by byte, with a 0 byte after it; "-" is standard input. What a person
   wrote is read by text_files.h. */
bool text_read(char **text, size_t *len, const char *path, Error *error)
{
    bool standard = strcmp(path, "-") == 0;
    FILE *in = standard ? stdin : fopen(path, "rb");
    if (!in)
        return fail(error, "%s: %s", path_shown(path), strerror(errno));
    bool ok = stream_read(text, len, in, path_shown(path), error);
    if (!standard)
        fclose(in);
    return ok;
}

/* 0.25, 1e-3 or 2/3; finite. */
bool number_parse(double *value, const char *text, Error *error)
{
    char *end;
    double number = strtod(text, &end);
    if (end > text && *end == '/') {
        const char *below = end + 1;
        number /= strtod(below, &end);
        if (end == below)
            end = (char *)text; /* "1/" is no number */
    }
    if (end == text || *end != '\0')
        return fail(error, "'%.40s' is not a number", text);
    if (!isfinite(number))
        return fail(error, "'%.40s' is not a finite number", text);
    *value = number;
    return true;
}

bool integer_parse(uint64_t *value, const char *text, uint64_t least, uint64_t most, Error *error)
{
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)*text) || *end != '\0')
        return fail(error, "'%.40s' is not a whole number", text);
    if (errno == ERANGE || number < least || number > most)
        return fail(error, "%.40s is out of range: %" PRIu64 " to %" PRIu64, text, least, most);
    *value = number;
    return true;
}

/* ======================== Files written whole or not at all =============================== */

/* Written under a temporary name, flushed, renamed. */
typedef struct {
    FILE *stream;
    char *path, *temporary; /* no temporary for what is no regular file (a terminal, a pipe) */
} OutFile;

bool out_open(OutFile *out, const char *path, Error *error)
{
    struct stat info;
    bool exists = stat(path, &info) == 0;
    memset(out, 0, sizeof *out);
    if (strcmp(path, "-") == 0)
        return fail(error, "-: standard output has the text already: give this file a name");
    out->path = exists && S_ISREG(info.st_mode) ? realpath(path, NULL) : strdup(path);
    if (!out->path)
        return fail(error, "%s: %s", path, strerror(errno));
    if (!exists || (S_ISREG(info.st_mode) && strncmp(path, "/dev/", 5) != 0)) {
        size_t room = strlen(out->path) + 32;
        out->temporary = NEW(char, room);
        snprintf(out->temporary, room, "%s.%ld.tmp", out->path, (long)getpid());
    } /* else a terminal, a pipe, /dev/null: written where it is, never renamed over */
    if (out->temporary)
        unlink(out->temporary);                  /* left by a kill */
    if (!exists || access(out->path, W_OK) == 0) /* a rename would not ask */
        out->stream = out->temporary ? fopen(out->temporary, "wbx") : fopen(out->path, "wb");
    if (!out->stream) {
        fail(error, "%s: cannot be written: %s", path_shown(path), strerror(errno));
        free(out->temporary);
        free(out->path);
        return false;
    }
    if (out->temporary && exists)
        fchmod(fileno(out->stream), info.st_mode & 07777); /* who may read it stays as it was */
    return true;
}

/* Checks every earlier write too. */
bool out_close(OutFile *out, Error *error)
{
    bool ok = fflush(out->stream) == 0 && !ferror(out->stream);
    if (ok && out->temporary)
        ok = fsync(fileno(out->stream)) == 0;
    int why = errno;
    if (fclose(out->stream) != 0 && ok) {
        ok = false;
        why = errno;
    }
    if (ok && out->temporary && rename(out->temporary, out->path) != 0) {
        ok = false;
        why = errno;
    }
    if (!ok) {
        fail(error, "%s: cannot be written: %s", path_shown(out->path), strerror(why));
        if (out->temporary)
            unlink(out->temporary);
    }
    free(out->temporary);
    free(out->path);
    return ok;
}

/* Whether two names are one file's. */
bool same_file(const char *name, const char *other)
{
    struct stat one, two;
    if (stat(name, &one) != 0 || stat(other, &two) != 0)
        return strcmp(name, other) == 0;
    return S_ISREG(one.st_mode) && one.st_dev == two.st_dev && one.st_ino == two.st_ino;
}

/* Whether a file can be written, before hours of work go into it; nothing is left of the trial.
   NULL is no file, and a pipe or terminal is not touched. */
bool out_possible(const char *path, Error *error)
{
    struct stat info;
    OutFile out;
    if (!path || (stat(path, &info) == 0 && !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode)))
        return true;
    if (!out_open(&out, path, error))
        return false;
    fclose(out.stream);
    if (out.temporary)
        unlink(out.temporary);
    free(out.temporary);
    free(out.path);
    return true;
}

/* ======================================= Options ========================================== */
/* A program's options are one table: what is typed, what it may be, where it lands, and with
   what it goes. getopt_long reads it, --help is made from it, and an option that would do nothing
   is an error and no silence. */

enum { OPTIONS_MAX = 48, TEXTS_MAX = 8 };
#define WHOLE_MOST 18446744073709551615.0 /* no limit but that of uint64_t */

typedef enum {
    OPTION_SWITCH,  /* takes no value; lands as true in a bool */
    OPTION_TEXT,    /* any text; lands in a const char *, borrowed from argv */
    OPTION_OUT,     /* a file that will be written, which program_begin tries; lands as a TEXT */
    OPTION_TEXTS,   /* the same as a TEXT, given as often as one likes; lands in a Texts */
    OPTION_WHOLE,   /* a whole number from least to most; lands in a uint64_t */
    OPTION_NUMBER,  /* a number from least to most; lands in a double */
    OPTION_CHOICE,  /* one of the words in `value`; its place among them lands in an int or enum */
    OPTION_ARGUMENT /* no option but a word by itself, in the table's order; lands as a TEXT */
} OptionKind;

typedef struct {
    const char *text[TEXTS_MAX];
    size_t count;
} Texts;

typedef struct {
    const char *name;  /* "days" is typed --days; a single letter, "n", is typed -n */
    const char *value; /* what the help calls the value, "N"; a choice's words, "zoh|euler" */
    OptionKind kind;
    double least, most;
    void *to;         /* where the value lands; what is not given is left as it was */
    const char *with; /* "": goes with all. Else words: "mode": does something else than the
                         program does without options, and excludes the other modes; "demo bench":
                         means something only if one of these is given, "-" standing for "no mode";
                         "!fit": excludes that one; "demo:work": --demo given with this word of its
                         choice, and with no other. Arguments have names here too */
    const char *help;
} Option;

typedef struct {
    const char *name, *about; /* "ch01_markov", and a few sentences for --help */
    const Option *option;     /* (n_option) */
    size_t n_option;
} Program;

/* A name as it is typed: "--days", "-n" or, for an argument, "FILE". */
typedef struct {
    char text[48];
} OptionName;

static OptionName option_shown(const Option *option)
{
    OptionName shown;
    const char *dashes = option->kind == OPTION_ARGUMENT ? "" : option->name[1] ? "--" : "-";
    snprintf(shown.text, sizeof shown.text, "%s%s", dashes, option->name);
    return shown;
}

static bool option_takes_value(const Option *option)
{
    return option->kind != OPTION_SWITCH && option->kind != OPTION_ARGUMENT;
}

/* The next word of a text cut at `cut`: its length, with *text moved to its beginning. */
static size_t word_ahead(const char **text, char cut)
{
    while (**text == cut)
        (*text)++;
    const char *end = strchr(*text, cut);
    return end ? (size_t)(end - *text) : strlen(*text);
}

static bool word_is(const char *word, size_t len, const char *text)
{
    return strlen(text) == len && strncmp(text, word, len) == 0;
}

/* Which of the words in "zoh|euler" `text` is. */
static bool choice_parse(int *choice, const char *words, const char *text, Error *error)
{
    char list[160] = "";
    int number = 0;
    for (size_t len; (len = word_ahead(&words, '|')) > 0; words += len, number++) {
        if (word_is(words, len, text)) {
            *choice = number;
            return true;
        }
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%.*s", number ? ", " : "", (int)len, words);
    }
    return fail(error, "'%.40s' is none of %s", text, list);
}

/* Of which thing an option's text is the name, if it is one: a file, a folder, or NULL. */
static const char *option_names(const Option *option)
{
    const char *what = option->kind == OPTION_ARGUMENT ? option->name : option->value;
    return strcmp(what, "FILE") == 0 ? "file" : strcmp(what, "DIR") == 0 ? "folder" : NULL;
}

static bool option_land(const Option *option, const char *text, Error *error)
{
    double value = 0.0;
    Texts *texts = (Texts *)option->to;
    switch (option->kind) {
    case OPTION_SWITCH: *(bool *)option->to = true; return true;
    case OPTION_TEXT:
    case OPTION_OUT:
    case OPTION_ARGUMENT:
        if (*text == '\0' && option_names(option))
            return fail(error, "the name of a %s is empty", option_names(option));
        *(const char **)option->to = text;
        return true;
    case OPTION_CHOICE: return choice_parse((int *)option->to, option->value, text, error);
    case OPTION_WHOLE:
        return integer_parse((uint64_t *)option->to, text, (uint64_t)option->least,
                             option->most < WHOLE_MOST ? (uint64_t)option->most : UINT64_MAX,
                             error);
    case OPTION_NUMBER:
        if (!number_parse(&value, text, error))
            return false;
        if (!(value >= option->least && value <= option->most))
            return fail(error, "%.40s is not from %g to %g", text, option->least, option->most);
        *(double *)option->to = value;
        return true;
    case OPTION_TEXTS:
        if (texts->count == TEXTS_MAX)
            return fail(error, "given more than %d times", TEXTS_MAX);
        texts->text[texts->count++] = text;
        return true;
    }
    return false;
}

static bool option_take(const Option *option, const char *text, Error *error)
{
    Error why;
    return option_land(option, text, &why) ||
           fail(error, "%s: %.200s", option_shown(option).text, why.text);
}

/* The place in the table of the option whose name is `len` bytes at `name`. */
static size_t option_find(const Program *program, const char *name, size_t len)
{
    size_t i = 0;
    while (i < program->n_option && !word_is(name, len, program->option[i].name))
        i++;
    return i;
}

/* The option that a word of `with` names, without its "!", and in *choice the number of the word
   behind a colon: "demo:work". -1 if there is none: whatever is chosen. */
static size_t option_meant(int *choice, const Program *program, const char *word, size_t len)
{
    const char *colon = (const char *)memchr(word, ':', len);
    size_t k = option_find(program, word, colon ? (size_t)(colon - word) : len);
    *choice = -1;
    if (!colon || k >= program->n_option)
        return k;
    assert(program->option[k].kind == OPTION_CHOICE);
    const char *words = program->option[k].value;
    size_t after = (size_t)(word + len - (colon + 1)), one;
    *choice = 0;
    while ((one = word_ahead(&words, '|')) > 0 &&
           !(one == after && strncmp(words, colon + 1, one) == 0))
        words += one, (*choice)++;
    assert(one > 0); /* a word of that choice */
    return k;
}

/* "--demo" or, with the number of a word of its choice, "--demo work". */
static OptionName option_chosen(const Option *option, int choice)
{
    OptionName shown = option_shown(option);
    const char *word = option->value;
    size_t used = strlen(shown.text), len = 0;
    for (int k = 0; k <= choice; k++) {
        word += len;
        len = word_ahead(&word, '|');
    }
    if (choice >= 0)
        snprintf(shown.text + used, sizeof shown.text - used, " %.*s", (int)len, word);
    return shown;
}

static bool option_is_mode(const Option *option)
{
    const char *word = option->with;
    for (size_t len; (len = word_ahead(&word, ' ')) > 0; word += len)
        if (word_is(word, len, "mode"))
            return true;
    return false;
}

/* A table that cannot be right is the programmer's mistake, found whenever it is read. */
static void options_assert(const Program *program)
{
    assert(program->n_option <= OPTIONS_MAX);
    for (size_t k = 0; k < program->n_option; k++) {
        const Option *option = &program->option[k];
        const char *word = option->with;
        assert(*option->name && option->to && (option->value || !option_takes_value(option)));
        assert(option_find(program, option->name, strlen(option->name)) == k); /* no name twice */
        assert(strcmp(option->name, "help") != 0 && strcmp(option->name, "h") != 0);
        for (size_t len; (len = word_ahead(&word, ' ')) > 0; word += len) {
            int choice; /* option_meant asserts that it is one */
            size_t skip = *word == '!' ? 1 : 0;
            size_t meant = option_meant(&choice, program, word + skip, len - skip);
            assert(meant < program->n_option || word_is(word, len, "mode") ||
                   word_is(word, len, "-"));
        }
    }
}

/* Whether option number k, which is given, has what it needs and nothing that it excludes. */
static bool option_check(const Program *program, size_t k, const bool *given, size_t mode,
                         Error *error)
{
    const Option *option = &program->option[k];
    const char *word = option->with;
    OptionName shown = option_shown(option);
    char needs[160] = "";
    bool plain = false, found = false;
    for (size_t len; (len = word_ahead(&word, ' ')) > 0; word += len) {
        bool exclude = *word == '!', none = *word == '-';
        if (word_is(word, len, "mode"))
            continue;
        int choice = -1;
        size_t other = none ? mode : option_meant(&choice, program, word + exclude, len - exclude);
        bool holds = none ? mode == program->n_option
                          : given[other] &&
                                (choice < 0 || *(const int *)program->option[other].to == choice);
        if (exclude && holds)
            return fail(error, "%s and %s exclude each other", shown.text,
                        option_chosen(&program->option[other], choice).text);
        if (exclude)
            continue;
        plain |= none;
        found |= holds;
        size_t used = strlen(needs);
        if (!none)
            snprintf(needs + used, sizeof needs - used, "%s%s", used ? " or " : " ",
                     option_chosen(&program->option[other], choice).text);
    }
    if (found || (!plain && needs[0] == '\0'))
        return true;
    if (!plain)
        return fail(error, "%s needs%s", shown.text, needs);
    const Option *chosen = &program->option[mode];
    int choice = chosen->kind == OPTION_CHOICE ? *(const int *)chosen->to : -1;
    return fail(error, "%s does nothing with %s", shown.text, option_chosen(chosen, choice).text);
}

/* "-" is standard input wherever a text is read, and that can be read once. */
static bool options_share_no_input(const Program *program, const bool *given, Error *error)
{
    const Option *first = NULL;
    for (size_t k = 0; k < program->n_option; k++) {
        const Option *option = &program->option[k];
        if (!given[k] || (option->kind != OPTION_TEXT && option->kind != OPTION_ARGUMENT) ||
            strcmp(*(const char *const *)option->to, "-") != 0)
            continue;
        if (first)
            return fail(error, "%s and %s are both -, but standard input can be read only once",
                        option_shown(first).text, option_shown(option).text);
        first = option;
    }
    return true;
}

/* What is given must fit together. */
static bool options_check(const Program *program, const bool *given, Error *error)
{
    size_t n = program->n_option, mode = n;
    for (size_t k = 0; k < n; k++) {
        if (!given[k] || !option_is_mode(&program->option[k]))
            continue;
        if (mode < n)
            return fail(error, "%s and %s exclude each other",
                        option_shown(&program->option[mode]).text,
                        option_shown(&program->option[k]).text);
        mode = k;
    }
    for (size_t k = 0; k < n; k++)
        if (given[k] && !option_check(program, k, given, mode, error))
            return false;
    return options_share_no_input(program, given, error);
}

/* No option has this name; an abbreviation that fits several fits none. */
static bool option_unknown(const Program *program, const char *word, Error *error)
{
    char list[160] = "";
    size_t len = strcspn(word, "=");
    for (size_t k = 0; len > 2 && k < program->n_option; k++) {
        OptionName shown = option_shown(&program->option[k]);
        size_t used = strlen(list);
        if (strncmp(shown.text, word, len) == 0)
            snprintf(list + used, sizeof list - used, "%s%s", used ? ", " : "", shown.text);
    }
    return *list ? fail(error, "'%.40s' is not an option: is it one of %s?", word, list)
                 : fail(error, "'%.40s' is not an option", word);
}

static bool program_has_arguments(const Program *program)
{
    size_t k = 0;
    while (k < program->n_option && program->option[k].kind != OPTION_ARGUMENT)
        k++;
    return k < program->n_option;
}

/* What getopt_long stumbled over, `code` ':' or '?', with the word it was reading. */
static bool option_refuse(const Program *program, int code, const char *word, Error *error)
{
    char letter[2] = {(char)optopt, '\0'};
    size_t k = optopt >= 256 ? (size_t)optopt - 256 : option_find(program, letter, 1);
    if (optopt == 'h')
        return fail(error, "--help takes no value");
    if (optopt == 0)
        return option_unknown(program, word, error);
    if (k >= program->n_option)
        return isprint((unsigned char)optopt)
                   ? fail(error, "'-%c' is not an option%s", optopt,
                          program_has_arguments(program)
                              ? ": a text that begins with a minus goes behind --"
                              : "")
                   : fail(error, "'-\\x%02x' is not an option", (unsigned char)optopt);
    OptionName shown = option_shown(&program->option[k]);
    return code == ':'
               ? fail(error, "%s: a value is missing: %s", shown.text, program->option[k].value)
               : fail(error, "%s takes no value", shown.text);
}

/* Which option takes a `value`, "TEXT" or "FILE", the first of them; n_option if none does. */
static size_t option_of_value(const Program *program, const char *value)
{
    size_t k = 0;
    while (k < program->n_option &&
           (program->option[k].kind != OPTION_TEXT || strcmp(program->option[k].value, value) != 0))
        k++;
    return k;
}

/* The words that are no options, one to each OPTION_ARGUMENT of the table. */
static bool arguments_take(const Program *program, bool *given, int argc, char **argv, Error *error)
{
    size_t k = 0;
    bool any = false;
    for (int word = optind; word < argc; word++, k++) {
        while (k < program->n_option && program->option[k].kind != OPTION_ARGUMENT)
            k++;
        if (k >= program->n_option) {
            if (any)
                return fail(error, "'%.40s' is one argument too many", argv[word]);
            size_t text = option_of_value(program, "TEXT");
            if (text >= program->n_option)
                text = option_of_value(program, "FILE");
            return text >= program->n_option
                       ? fail(error, "'%.40s' is not an option", argv[word])
                       : fail(error, "'%.40s' is not an option: is it the %s of %s?", argv[word],
                              program->option[text].value,
                              option_shown(&program->option[text]).text);
        }
        any = given[k] = true;
        if (!option_take(&program->option[k], argv[word], error))
            return false;
    }
    return true;
}

/* Whether the word behind this one is its value: "--prompt", also cut short, or "-n" alone. A name
   in full is that option, though a longer one begins like it. */
static bool word_wants_value(const Program *program, const char *word)
{
    size_t len = strlen(word);
    bool wants = false;
    for (size_t k = 0; k < program->n_option; k++) {
        OptionName shown = option_shown(&program->option[k]);
        bool takes = option_takes_value(&program->option[k]);
        if (strcmp(shown.text, word) == 0)
            return takes;
        wants = wants || (takes && len > 2 && strncmp(shown.text, word, len) == 0);
    }
    return wants;
}

/* A text that begins with a minus but is no option: there are blanks in it, as in "- a list", and
   what is before them is no letter of an option with its value, nor "--name=". */
static bool word_is_text(const Program *program, const char *word)
{
    size_t name = strcspn(word, " \t\n=");
    return word[0] == '-' && word[name] != '\0' && word[name] != '=' &&
           (word[1] == '-' || option_find(program, word + 1, 1) == program->n_option);
}

/* The words as getopt_long shall have them: such texts stand behind "--". To be freed; *argc is
   their number. */
static char **words_ordered(const Program *program, int *argc, char **argv)
{
    char **words = NEW(char *, *argc + 2), **texts = NEW(char *, *argc + 1);
    int n_word = 0, n_text = 0, k = 0;
    for (; k < *argc && (k == 0 || strcmp(argv[k], "--") != 0); k++) {
        if (k > 0 && word_is_text(program, argv[k])) {
            texts[n_text++] = argv[k];
            continue;
        }
        words[n_word++] = argv[k];
        if (k > 0 && k + 1 < *argc && word_wants_value(program, argv[k]))
            words[n_word++] = argv[++k];
    }
    if (k < *argc || n_text > 0)
        words[n_word++] = (char *)"--";
    for (int i = 0; i < n_text; i++)
        words[n_word++] = texts[i];
    for (k++; k < *argc; k++)
        words[n_word++] = argv[k];
    free(texts);
    *argc = n_word;
    return words;
}

static bool options_scan(bool *help, const Program *program, int argc, char **argv, Error *error)
{
    struct option known[OPTIONS_MAX + 2];
    char letters[2 * OPTIONS_MAX + 4] = ":h";
    bool given[OPTIONS_MAX] = {false};
    size_t n_known = 0;
    options_assert(program);
    memset(known, 0, sizeof known);
    for (size_t k = 0; k < program->n_option; k++) {
        const Option *option = &program->option[k];
        bool takes = option_takes_value(option);
        if (option->kind == OPTION_ARGUMENT)
            continue;
        if (option->name[1] == '\0')
            strcat(strcat(letters, option->name), takes ? ":" : "");
        else {
            known[n_known].name = option->name;
            known[n_known].has_arg = takes;
            known[n_known++].val = 256 + (int)k;
        }
    }
    known[n_known].name = "help";
    known[n_known].val = 'h';
    *help = false;
    opterr = 0;
#ifdef __GLIBC__
    optind = 0; /* begin anew, also after an earlier call */
#else
    optind = 1;
#endif
    for (int code; (code = getopt_long(argc, argv, letters, known, NULL)) != -1;) {
        char letter[2] = {(char)code, '\0'};
        size_t k = code >= 256 ? (size_t)code - 256 : option_find(program, letter, 1);
        if (code == 'h') {
            *help = true;
            return true;
        }
        if (code == '?' || code == ':')
            return option_refuse(program, code, argv[optind - 1], error);
        assert(k < program->n_option); /* getopt_long knows no others */
        given[k] = true;
        if (!option_take(&program->option[k], optarg, error))
            return false;
    }
    return arguments_take(program, given, argc, argv, error) &&
           options_check(program, given, error);
}

/* Fills what the table points to. False with an error; *help is set if --help or -h is given. */
bool options_read(bool *help, const Program *program, int argc, char **argv, Error *error)
{
    if (!program_has_arguments(program))
        return options_scan(help, program, argc, argv, error);
    char **words = words_ordered(program, &argc, argv);
    bool ok = options_scan(help, program, argc, words, error);
    free(words);
    return ok;
}

/* Prints a word after the `column` characters of its line or, where the page ends, in a new one
   that begins at `indent`. Returns where it ends. */
static size_t option_print_word(FILE *out, const char *word, size_t len, size_t column,
                                size_t indent)
{
    size_t wide = 0, page = page_columns();
    for (size_t i = 0; i < len; i++)
        wide += ((unsigned char)word[i] & 0xC0) != 0x80; /* as in text_width.h, for ASCII */
    if (column > indent && column + 1 + wide > page) {
        fprintf(out, "\n%*s", (int)indent, "");
        column = indent;
    }
    fprintf(out, "%s%.*s", column > indent ? " " : "", (int)len, word);
    return column + (column > indent) + wide;
}

/* The same for a choice of many words, which ends a line behind a bar where it must. */
static size_t option_print_choice(FILE *out, const char *word, size_t column, size_t indent)
{
    size_t room = page_columns() - indent, len = strlen(word);
    while (len > room) {
        size_t cut = room;
        while (cut > 0 && word[cut - 1] != '|')
            cut--;
        if (cut == 0)
            break;
        column = option_print_word(out, word, cut, column, indent);
        word += cut, len -= cut;
    }
    return option_print_word(out, word, len, column, indent);
}

static void option_print_words(FILE *out, const char *text, size_t indent)
{
    size_t column = indent;
    for (size_t len; (len = word_ahead(&text, ' ')) > 0; text += len)
        column = option_print_word(out, text, len, column, indent);
    fputc('\n', out);
}

/* "--days N", between two brackets if one likes. */
typedef struct {
    char text[200];
} OptionLeft;

static OptionLeft option_left(const Option *option, const char *before, const char *after)
{
    OptionLeft left;
    bool takes = option_takes_value(option);
    snprintf(left.text, sizeof left.text, "%s%s%s%s%s", before, option_shown(option).text,
             takes ? " " : "", takes ? option->value : "", after);
    return left;
}

void program_usage(FILE *out, const Program *program)
{
    size_t indent = strlen("usage:  ") + strlen(program->name), column = indent;
    fprintf(out, "usage: %s ", program->name);
    for (size_t k = 0; k < program->n_option; k++) {
        OptionLeft left = option_left(&program->option[k], "[", "]");
        column = option_print_choice(out, left.text, column, indent);
    }
    option_print_word(out, "[--help]", 8, column, indent);
    fputc('\n', out);
}

void program_help(FILE *out, const Program *program)
{
    enum { LEFT_MOST = 26 };
    size_t wide = strlen("-h, --help");
    program_usage(out, program);
    fputc('\n', out);
    option_print_words(out, program->about, 0);
    fputc('\n', out);
    for (size_t k = 0; k < program->n_option; k++) {
        size_t len = strlen(option_left(&program->option[k], "", "").text);
        wide = len > wide && len <= LEFT_MOST ? len : wide;
    }
    for (size_t k = 0; k < program->n_option; k++) {
        OptionLeft left = option_left(&program->option[k], "", "");
        fprintf(out, "  %-*s", (int)wide, left.text);
        if (strlen(left.text) > wide)
            fprintf(out, "\n  %*s", (int)wide, "");
        fputs("  ", out);
        option_print_words(out, program->option[k].help, wide + 4);
    }
    fprintf(out, "  %-*s  this text\n", (int)wide, "-h, --help");
}

/* What a main does last: what was printed must have arrived; an error is said (NULL: there was
   none); the exit status. */
int program_end(bool ok, const Error *error)
{
    errno = 0; /* a write that failed earlier has left no reason */
    bool printed = fflush(stdout) == 0 && !ferror(stdout); /* before any error is said */
    if (!ok && error)
        fprintf(stderr, "error: %s\n", error->text);
    else if (!printed)
        fprintf(stderr, "error: the output cannot be written%s%s\n", errno ? ": " : "",
                errno ? strerror(errno) : "");
    return ok && printed ? 0 : 1;
}

/* Where stdin, stdout or stderr is closed, the first file that is opened would take its place and
   be read or written for it. /dev/null takes it, open the other way round: an error stays one. And
   a file that may not grow (ulimit -f) is one that cannot be written: a sentence, and no signal. */
static void streams_keep(void)
{
    signal(SIGXFSZ, SIG_IGN);
    for (int stream = 0; stream <= 2; stream++)
        if (fcntl(stream, F_GETFD) < 0 && open("/dev/null", stream ? O_RDONLY : O_WRONLY) < 0)
            return;
}

#if defined(_OPENMP) && defined(__linux__)
/* Some wishes are read from the environment before main begins; so, unless the user has said how
   threads shall wait, a program says its own and begins once more.
   Threads that have nothing to do shall soon sleep. OpenMP lets them wait awake, for milliseconds:
   quick while they have the processors to themselves, but beside another busy program the one that
   all wait for may have no processor, and those that wait keep theirs from it. The first wish is
   any OpenMP's; gcc's takes the second too, which is some 20 microseconds.
   And large arrays shall lie in large pages, which the processor finds sooner (glibc 2.35).
   The words of a process lie just below its environment: what a test gives to a main of its own
   does not, and begins nothing anew. */
static void begin_once_more(int argc, char **argv)
{
    if (argv + argc + 1 != environ || getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT"))
        return;
    setenv("OMP_WAIT_POLICY", "passive", 1);
    setenv("GOMP_SPINCOUNT", "1000", 1);
    setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1", 0);
    execv("/proc/self/exe", argv);
}
#endif

/* Whether no other option names the file of this one, which would be written over it. But what is
   loaded may be saved again. */
static bool out_alone(const Program *program, const Option *out, Error *error)
{
    const char *path = *(const char *const *)out->to;
    for (size_t k = 0; path && k < program->n_option; k++) {
        const Option *other = &program->option[k];
        const char *what = other->kind == OPTION_ARGUMENT ? other->name : other->value;
        bool file = what && (strcmp(what, "FILE") == 0 || strcmp(what, "WHAT") == 0);
        if (!file || other == out || strncmp(other->name, "load", 4) == 0)
            continue;
        const char *there = *(const char *const *)other->to;
        if (there && same_file(path, there))
            return fail(error, "%s and %s are one file, %s", option_shown(out).text,
                        option_shown(other).text, path_shown(path));
    }
    return true;
}

/* Whether all files can be written that the options name: asked before the work, not after it. */
static bool outs_possible(const Program *program, Error *error)
{
    bool ok = true;
    for (size_t k = 0; ok && k < program->n_option; k++)
        if (program->option[k].kind == OPTION_OUT)
            ok = out_alone(program, &program->option[k], error) &&
                 out_possible(*(const char *const *)program->option[k].to, error);
    return ok;
}

/* The first thing a main does. False: it ends with *status, 0 after --help, 2 after a mistake, 1 if
   a file cannot be written. */
bool program_begin(int *status, const Program *program, int argc, char **argv)
{
    Error error;
    bool help;
    streams_keep();
#if defined(_OPENMP) && defined(__linux__)
    begin_once_more(argc, argv);
#endif
    bool ok = options_read(&help, program, argc, argv, &error);
    *status = 2;
    if (ok && help) {
        program_help(stdout, program);
        *status = program_end(true, &error);
    } else if (!ok) {
        fprintf(stderr, "error: %s\n", error.text);
        program_usage(stderr, program);
    } else if (!outs_possible(program, &error)) {
        *status = program_end(false, &error);
        ok = false;
    }
    return ok && !help;
}

#endif /* COURSE_TOOLS */
