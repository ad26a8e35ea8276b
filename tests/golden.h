/* The golden data of tests/golden/INDEX.md as tests want it: files by name or pattern, tensors as
   plain arrays. Whatever is missing ends the test with a sentence.

   GOLDEN=dir in the environment runs the same tests on another set of the same form, so a test
   takes sizes from the tensors and file names from patterns, and never writes them itself.

       static void check_forecast(const Safetensors *file) ...
       for_each_golden("ch01_*.safetensors", check_forecast);

   Include this after the chapter under test and instead of check.h, which it includes. */

#ifndef TESTS_GOLDEN
#define TESTS_GOLDEN

#ifdef TESTS_CHECK
#error "include golden.h before check.h: cmocka's fail() must not reach the chapters"
#endif
#ifndef CH05_SAFETENSORS /* the chapter under test comes before that reader */
#include "golden_file.h"
#endif
#include "check.h"
#include <glob.h>
#include <sys/stat.h>

static inline const char *golden_dir(void)
{
    const char *dir = getenv("GOLDEN");
    return dir && *dir ? dir : "tests/golden";
}

/* "tests/golden/FILE"; the caller frees it. */
static inline char *golden_path(const char *file)
{
    size_t room = strlen(golden_dir()) + strlen(file) + 2;
    char *path = NEW(char, room);
    snprintf(path, room, "%s/%s", golden_dir(), file);
    return path;
}

/* The smaller file first: what is wrong is easiest to see there. */
static inline int golden_order(const void *one, const void *other)
{
    const char *a = *(const char *const *)one, *b = *(const char *const *)other;
    struct stat first, second;
    if (stat(a, &first) == 0 && stat(b, &second) == 0 && first.st_size != second.st_size)
        return first.st_size < second.st_size ? -1 : 1;
    return strcmp(a, b);
}

/* The paths that match, in found->gl_pathv; globfree(found) when done. None is a failure: a test
   that finds no data must not pass. */
static inline size_t golden_list(glob_t *found, const char *pattern)
{
    char *path = golden_path(pattern);
    int result = glob(path, 0, NULL, found);
    if (result != 0)
        print_error("%s: no golden file has such a name\n", path);
    free(path);
    assert_int_equal(result, 0);
    qsort(found->gl_pathv, found->gl_pathc, sizeof *found->gl_pathv, golden_order);
    return found->gl_pathc;
}

/* `path` as golden_list or golden_path gives it. */
static inline void golden_open(Safetensors *file, const char *path)
{
    Error error;
    if (!safetensors_open(file, path, &error))
        fail_msg("%s", error.text);
}

/* Calls `check` with every file that matches. */
static inline void for_each_golden(const char *pattern, void (*check)(const Safetensors *))
{
    glob_t found;
    size_t files = golden_list(&found, pattern);
    for (size_t f = 0; f < files; f++) {
        Safetensors file;
        golden_open(&file, found.gl_pathv[f]);
        check(&file);
        safetensors_close(&file);
    }
    globfree(&found);
}

static inline bool golden_has(const Safetensors *file, const char *name)
{
    return safetensors_find(file, name) != NULL;
}

static inline const Tensor *golden_tensor(const Safetensors *file, const char *name)
{
    const Tensor *tensor = safetensors_find(file, name);
    if (!tensor)
        fail_msg("%s: there is no tensor '%s'", file->path, name);
    return tensor;
}

/* One size of a tensor's shape. */
static inline size_t golden_size(const Safetensors *file, const char *name, size_t axis)
{
    const Tensor *tensor = golden_tensor(file, name);
    if (axis >= tensor->rank)
        fail_msg("%s: tensor '%s' has %zu dimensions, not %zu", file->path, name, tensor->rank,
                 axis + 1);
    return tensor->shape[axis];
}

/* ---- what a test that fails says of its numbers -------------------------------------------- */

/* The last arrays that came from files, each with a copy: an array that has the same numbers at the
   same place is that one, and has its name. */
enum { GOLDEN_READ = 64 };
typedef struct {
    char name[128], file[256];
    size_t rank, shape[TENSOR_MAX_RANK], size, bytes; /* size: of one number */
    const char *at;
    char *copy;
} GoldenRead;
static GoldenRead golden_read[GOLDEN_READ];
static size_t golden_reads;

static inline bool golden_place(char *place, size_t room, CheckArray want, size_t count, size_t i)
{
    for (size_t back = 1; back <= golden_reads && back <= GOLDEN_READ; back++) {
        const GoldenRead *read = &golden_read[(golden_reads - back) % GOLDEN_READ];
        uintptr_t begin = (uintptr_t)read->at, from = (uintptr_t)want.numbers;
        size_t bytes = count * want.size, index = (from - begin) / read->size + i;
        if (read->size != want.size || from < begin || bytes > read->bytes ||
            from - begin > read->bytes - bytes ||
            memcmp(want.numbers, read->copy + (from - begin), bytes) != 0)
            continue;
        size_t len = (size_t)snprintf(place, room, "%s", read->name),
               left = read->bytes / want.size;
        for (size_t k = 0; k < read->rank && len < room; k++) {
            left /= read->shape[k];
            len += (size_t)snprintf(place + len, room - len, "[%zu]", index / left);
            index %= left;
        }
        for (size_t k = 0; k < read->rank && len < room; k++)
            len += (size_t)snprintf(place + len, room - len, "%s%zu%s", k == 0 ? " of (" : ", ",
                                    read->shape[k], k + 1 == read->rank ? ")" : "");
        if (len < room)
            snprintf(place + len, room - len, " in %s", read->file);
        return true;
    }
    return false;
}

/* `numbers`, of `size` bytes each, are this tensor, in the order of this shape. */
static inline void golden_remember(const void *numbers, size_t size, const Safetensors *file,
                                   const Tensor *tensor, const size_t *shape)
{
    GoldenRead *read = &golden_read[golden_reads++ % GOLDEN_READ];
    const char *slash = strrchr(file->path, '/');
    snprintf(read->name, sizeof read->name, "%s", tensor->name);
    snprintf(read->file, sizeof read->file, "%s", slash ? slash + 1 : file->path);
    read->rank = tensor->rank;
    memcpy(read->shape, shape, sizeof read->shape);
    read->size = size;
    read->bytes = size * tensor->count;
    read->at = (const char *)numbers;
    free(read->copy);
    read->copy = NEW(char, read->bytes + 1);
    memcpy(read->copy, numbers, read->bytes);
    check_place = golden_place;
}

/* The numbers of a tensor in an array of their own, which the caller frees; its shape through
   *tensor, unless that is NULL. */
static inline double *golden_doubles(const Tensor **tensor, const Safetensors *file,
                                     const char *name)
{
    const Tensor *found = golden_tensor(file, name);
    double *numbers = NEW(double, found->count);
    tensor_to_double(numbers, found);
    golden_remember(numbers, sizeof *numbers, file, found, found->shape);
    if (tensor)
        *tensor = found;
    return numbers;
}

static inline float *golden_floats(const Tensor **tensor, const Safetensors *file, const char *name)
{
    const Tensor *found = golden_tensor(file, name);
    float *numbers = NEW(float, found->count);
    tensor_to_float(numbers, found);
    golden_remember(numbers, sizeof *numbers, file, found, found->shape);
    if (tensor)
        *tensor = found;
    return numbers;
}

/* A tensor of one number. */
static inline double golden_scalar(const Safetensors *file, const char *name)
{
    const Tensor *tensor = golden_tensor(file, name);
    double number = NAN;
    if (tensor->count != 1)
        fail_msg("%s: tensor '%s' has %zu numbers, not one", file->path, name, tensor->count);
    else
        tensor_to_double(&number, tensor);
    return number;
}

#endif
