/* What every test needs: cmocka, and comparisons of numbers that a NaN cannot pass.

   Include this after the chapter under test: cmocka.h makes a macro of the name fail(), which is
   a function in the chapters. cmocka's own assert_float_equal is not used: in 1.1.5 a NaN equals
   everything, and doubles are compared as floats. */

#ifndef TESTS_CHECK
#define TESTS_CHECK

#include <math.h>
#include <stdbool.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __cplusplus /* nvcc takes the tests of chapter 6 for C++ */
extern "C" {
#endif
#include <cmocka.h>
#ifdef __cplusplus
}
#endif

/* got is want, give or take abs + rel |want|. Infinities and NaN are near nothing. */
#define assert_near(got, want, abs, rel)                                                           \
    check_near(#got, __FILE__, __LINE__, (got), (want), (abs), (rel))

/* The same for every element of two arrays, of double or of float. */
#define assert_all_near(got, want, count, abs, rel)                                                \
    check_all_near(#got, __FILE__, __LINE__, CHECK_ARRAY(got), CHECK_ARRAY(want), (count), (abs),  \
                   (rel))

/* max |got - want| <= tol max |want|: the measure of tests/golden/INDEX.md. */
#define assert_relmax(got, want, count, tol)                                                       \
    check_relmax(#got, __FILE__, __LINE__, CHECK_ARRAY(got), CHECK_ARRAY(want), (count), (tol))

/* What a test of gradients calls the one that is off. */
static inline const char *gradient_of(const char *name)
{
    static char text[64];
    snprintf(text, sizeof text, "dL/d%s", name);
    return text;
}

/* The three of them with words for what `got` is, for those who solve an exercise. */
#define assert_near_as(what, got, want, abs, rel)                                                  \
    check_near((what), __FILE__, __LINE__, (got), (want), (abs), (rel))
#define assert_all_near_as(what, got, want, count, abs, rel)                                       \
    check_all_near((what), __FILE__, __LINE__, CHECK_ARRAY(got), CHECK_ARRAY(want), (count),       \
                   (abs), (rel))
#define assert_relmax_as(what, got, want, count, tol)                                              \
    check_relmax((what), __FILE__, __LINE__, CHECK_ARRAY(got), CHECK_ARRAY(want), (count), (tol))

/* And for what is no number: if not, this sentence, in the form of printf. */
#define assert_that(condition, ...) check_that((condition), __FILE__, __LINE__, __VA_ARGS__)

/* cmocka's own say "0 != 0x1", and no word of what that is: these say it, in the same cases. */
#undef assert_true
#undef assert_false
#undef assert_int_equal
#undef assert_memory_equal
#define assert_true(condition)                                                                     \
    check_that((condition) ? true : false, __FILE__, __LINE__, "this does not hold: %s", #condition)
#define assert_false(condition)                                                                    \
    check_that((condition) ? false : true, __FILE__, __LINE__, "this must not hold: %s", #condition)
#define assert_int_equal(got, want)                                                                \
    check_whole(#got, __FILE__, __LINE__, (long long)(got), (long long)(want))
#define assert_memory_equal(got, want, size)                                                       \
    check_memory(#got, #want, __FILE__, __LINE__, (got), (want), (size))

/* The text has this in it somewhere. */
#define assert_contains(text, part) check_contains((text), (part), __FILE__, __LINE__)

/* An array of float or of double, told apart by their size. */
typedef struct {
    const void *numbers;
    size_t size; /* bytes of one; 0 if they are whole numbers, in which 0.5 becomes 0 */
} CheckArray;

#define CHECK_ARRAY(array) check_array((array), (__typeof__(*(array)))0.5 > 0 ? sizeof *(array) : 0)

static inline CheckArray check_array(const void *numbers, size_t size)
{
    CheckArray array;
    array.numbers = numbers;
    array.size = size;
    return array;
}

/* Arrays that compare as equal because there is nothing to compare make a test that proves
   nothing, so that fails too. */
static inline void check_arrays(const char *text, const char *file, int line, CheckArray got,
                                CheckArray want, size_t count)
{
    bool floats = (got.size == sizeof(float) || got.size == sizeof(double)) &&
                  (want.size == sizeof(float) || want.size == sizeof(double));
    if (!floats || count == 0) {
        print_error("%s:%d: %s: %s\n", file, line, text,
                    floats ? "no numbers to compare" : "arrays of float or double are wanted");
        _fail(file, line);
    }
}

static inline double check_number(CheckArray array, size_t i)
{
    return array.size == sizeof(float) ? (double)((const float *)array.numbers)[i]
                                       : ((const double *)array.numbers)[i];
}

/* To be near must be shown: with a NaN the comparison is false. An infinite `want` would allow
   every difference, so it is near nothing, itself included. */
static inline bool check_is_near(double got, double want, double abs, double rel)
{
    return isfinite(want) && fabs(got - want) <= abs + rel * fabs(want);
}

/* Of two numbers as many digits as tell them apart, 6 at least. */
static inline int check_digits(double a, double b)
{
    char first[40], second[40];
    for (int digits = 6; digits < 17; digits++) {
        snprintf(first, sizeof first, "%.*g", digits, a);
        snprintf(second, sizeof second, "%.*g", digits, b);
        if (strcmp(first, second) != 0)
            return digits;
    }
    return 17;
}

/* What a place of the array `want` is called: "y[1][3] of (4, 6) in ch04_small.safetensors".
   golden.h knows it of numbers that come from a file; of others it is false, or there is nobody to
   ask. */
typedef bool CheckPlace(char *place, size_t room, CheckArray want, size_t count, size_t i);
static CheckPlace *check_place;

/* That, or "index 5 of 24". */
static inline void check_name_place(char *place, size_t room, CheckArray want, size_t count,
                                    size_t i)
{
    if (check_place == NULL || !check_place(place, room, want, count, i))
        snprintf(place, room, "index %zu of %zu", i, count);
}

/* The beginning of a message: "FILE:LINE: the outputs, index 5 of 24,". */
static inline void check_say_where(const char *text, const char *file, int line, CheckArray want,
                                   size_t count, size_t i)
{
    char place[512];
    check_name_place(place, sizeof place, want, count, i);
    size_t len = strlen(text);
    bool says_it = strncmp(place, text, len) == 0 && (place[len] == '[' || place[len] == ' ');
    print_error("%s:%d: %s%s%s,", file, line, says_it ? "" : text, says_it ? "" : ", ", place);
}

/* The end of a message: " is 0.3, expected 0.4 to within 1e-12". */
static inline void check_say(double got, double want, double allowed)
{
    int digits = check_digits(got, want);
    print_error(" is %.*g, expected %.*g", digits, got, digits, want);
    if (allowed > 0.0)
        print_error(" to within %.3g", allowed);
    print_error("\n");
}

static inline void check_near(const char *text, const char *file, int line, double got, double want,
                              double abs, double rel)
{
    if (!check_is_near(got, want, abs, rel)) {
        print_error("%s:%d: %s", file, line, text);
        check_say(got, want, abs + rel * fabs(want));
        _fail(file, line);
    }
}

static inline void check_all_near(const char *text, const char *file, int line, CheckArray got,
                                  CheckArray want, size_t count, double abs, double rel)
{
    check_arrays(text, file, line, got, want, count);
    for (size_t i = 0; i < count; i++) {
        double a = check_number(got, i), b = check_number(want, i);
        if (!check_is_near(a, b, abs, rel)) {
            check_say_where(text, file, line, want, count, i);
            check_say(a, b, abs + rel * fabs(b));
            _fail(file, line);
        }
    }
}

/* relmax, and where the largest difference is. NaN if either array holds one. Against a golden
   tensor of zeros nothing is relative: it is 0 if `got` is 0 to within 1e-30, else infinite. */
static inline double check_relmax_of(size_t *worst_at, CheckArray got, CheckArray want,
                                     size_t count)
{
    double worst = 0.0, size = 0.0;
    *worst_at = 0;
    for (size_t i = 0; i < count; i++) {
        double difference = fabs(check_number(got, i) - check_number(want, i));
        if (isnan(difference)) {
            *worst_at = i;
            return difference;
        }
        if (difference > worst) {
            worst = difference;
            *worst_at = i;
        }
        size = fmax(size, fabs(check_number(want, i)));
    }
    return size > 0.0 ? worst / size : worst <= 1e-30 ? 0.0 : (double)INFINITY;
}

/* Where it begins: the first of those that are as far off as this part of the farthest. */
static inline void check_say_first(CheckArray got, CheckArray want, size_t count, size_t at,
                                   double part)
{
    double most = fabs(check_number(got, at) - check_number(want, at));
    size_t i = 0;
    while (i < at && fabs(check_number(got, i) - check_number(want, i)) <= part * most)
        i++;
    if (i < at) {
        char place[512];
        check_name_place(place, sizeof place, want, count, i);
        const char *shape = strstr(place, " of ");
        print_error("the first that is off is %.*s\n",
                    shape ? (int)(shape - place) : (int)sizeof place, place);
    }
}

static inline void check_relmax(const char *text, const char *file, int line, CheckArray got,
                                CheckArray want, size_t count, double tol)
{
    size_t at;
    check_arrays(text, file, line, got, want, count);
    double relmax = check_relmax_of(&at, got, want, count);
    if (!(relmax <= tol)) {
        check_say_where(text, file, line, want, count, at);
        print_error(" farthest off,");
        check_say(check_number(got, at), check_number(want, at), 0.0);
        if (isnan(relmax))
            print_error("that is no number: made of memory that nobody wrote, or of 0 / 0?\n");
        else {
            print_error("that is %.3g of the largest number expected; %.3g is allowed\n", relmax,
                        tol);
            check_say_first(got, want, count, at, tol / relmax);
        }
        _fail(file, line);
    }
}

__attribute__((format(printf, 4, 5))) static inline void check_that(bool condition,
                                                                    const char *file, int line,
                                                                    const char *sentence, ...)
{
    char words[512];
    va_list arguments;
    if (condition)
        return;
    va_start(arguments, sentence);
    vsnprintf(words, sizeof words, sentence, arguments);
    va_end(arguments);
    print_error("%s:%d: %s\n", file, line, words);
    _fail(file, line);
}

static inline void check_whole(const char *text, const char *file, int line, long long got,
                               long long want)
{
    check_that(got == want, file, line, "%s is %lld, expected %lld", text, got, want);
}

static inline void check_memory(const char *text, const char *other, const char *file, int line,
                                const void *got, const void *want, size_t size)
{
    const unsigned char *a = (const unsigned char *)got, *b = (const unsigned char *)want;
    size_t at = 0;
    while (at < size && a[at] == b[at])
        at++;
    check_that(at == size, file, line, "%s and %s differ from byte %zu of %zu on", text, other, at,
               size);
}

static inline void check_contains(const char *text, const char *part, const char *file, int line)
{
    if (!strstr(text, part)) {
        print_error("%s:%d: \"%s\" does not contain \"%s\"\n", file, line, text, part);
        _fail(file, line);
    }
}

/* Does a command write to a disk that is full, where there is none? macOS has no /dev/full. */
static inline bool needs_full_disk(const char *words)
{
    return strstr(words, "/dev/full") != NULL && access("/dev/full", F_OK) != 0;
}

/* Runs `program words`, its streams sent where `streams` says, and reads what comes. The status. */
static inline int run_and_read(char *text, size_t room, const char *program, const char *words,
                               const char *streams)
{
    char command[1024];
    const char *build = getenv("BUILD");
    snprintf(command, sizeof command, "env -u COLUMNS LC_ALL=C.UTF-8 %s/%s %s %s </dev/null",
             build ? build : "build", program, words, streams);
    FILE *out = popen(command, "r");
    assert_non_null(out);
    size_t len = fread(text, 1, room - 1, out);
    text[len] = '\0';
    for (char rest[4096]; fread(rest, 1, sizeof rest, out) > 0;)
        ; /* it says more than there is room for: let it, a closed pipe would end it */
    int status = pclose(out);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Runs build/PROGRAM (or $BUILD/PROGRAM) with these words; what it says on stderr goes into text
   (room bytes). Returns its exit status, or -1 if a signal ended it. */
static inline int run_program(char *text, size_t room, const char *program, const char *words)
{
    return run_and_read(text, room, program, words, "2>&1 >/dev/null");
}

/* The same for what it prints when all goes well. */
static inline int run_program_output(char *text, size_t room, const char *program,
                                     const char *words)
{
    return run_and_read(text, room, program, words, "2>/dev/null");
}

/* That program with these words ends with this status, and says this on stderr. */
#define assert_command_says(program, words, sentence, status)                                      \
    check_command_says((program), (words), (sentence), (status), __FILE__, __LINE__)

static inline void check_command_says(const char *program, const char *words, const char *sentence,
                                      int status, const char *file, int line)
{
    char text[4096];
    if (needs_full_disk(words))
        return;
    int got = run_program(text, sizeof text, program, words);
    check_that(got == status, file, line, "%s %s ends with status %d, expected %d; it says: %s",
               program, words, got, status, text);
    check_contains(text, sentence, file, line);
}

/* What is written behind the end of an array is seen by the address sanitizer, at its line, if the
   array ends there; else by a guard. */
#if defined(__SANITIZE_ADDRESS__)
#define CHECK_GUARD 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CHECK_GUARD 0
#endif
#endif
#ifndef CHECK_GUARD
#define CHECK_GUARD 4
#endif

/* Memory that reads as NaN until it is written, with a guard behind it; free when done. */
static inline float *nan_filled(size_t count)
{
    float *values = (float *)malloc((count + CHECK_GUARD) * sizeof *values);
    assert_non_null(values);
    for (size_t i = 0; i < count; i++)
        values[i] = NAN;
    for (size_t i = count; i < count + CHECK_GUARD; i++)
        values[i] = 12345.0f;
    return values;
}

/* Nobody wrote behind its end. */
static inline void assert_guarded(const float *values, size_t count)
{
    for (size_t i = count; i < count + CHECK_GUARD; i++)
        if (!(values[i] == 12345.0f)) {
            print_error("an array of %zu numbers was written to behind its end, at %zu\n", count,
                        i);
            _fail(__FILE__, __LINE__);
        }
}

#endif
