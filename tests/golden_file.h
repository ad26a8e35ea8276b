/* A small reader of the golden files, for tests of chapters that have no safetensors.c yet: files
   that a well-behaved library wrote, of F64, F32, I64, I32 and U8. It has the names of chapter 5's
   (safetensors.c, which withstands any bytes), as far as golden.h and the tests need them, so that
   the tests of a chapter do not need a chapter after it.

   Include this after tools.h, by way of golden.h. */

#ifndef TESTS_GOLDEN_FILE
#define TESTS_GOLDEN_FILE

enum { TENSOR_MAX_RANK = 8 };

typedef struct {
    char name[128];
    char type[8]; /* F64, F32, ... */
    size_t rank, shape[TENSOR_MAX_RANK];
    size_t count;              /* the product of the shape */
    const unsigned char *data; /* aligned to nothing */
} Tensor;

typedef struct {
    char *path;
    char *bytes; /* the whole file */
    Tensor *tensor;
    size_t n_tensor;
} Safetensors;

/* If the text goes on with this (blanks aside), steps over it. */
static inline bool golden_take(const char **at, const char *what)
{
    *at += strspn(*at, " \t\r\n");
    size_t len = strlen(what);
    if (strncmp(*at, what, len) != 0)
        return false;
    *at += len;
    return true;
}

/* "text", cut to room - 1 bytes. What is escaped stays as it stands. */
static inline bool golden_string(char *out, size_t room, const char **at)
{
    if (!golden_take(at, "\""))
        return false;
    const char *start = *at;
    for (; **at && **at != '"'; ++*at)
        *at += **at == '\\' && (*at)[1];
    snprintf(out, room, "%.*s", (int)(*at - start), start);
    return golden_take(at, "\"");
}

/* [2, 3] */
static inline bool golden_sizes(size_t *out, size_t *count, size_t most, const char **at)
{
    *count = 0;
    if (!golden_take(at, "["))
        return false;
    while (!golden_take(at, "]")) {
        char *end;
        if (*count == most || (*count > 0 && !golden_take(at, ",")))
            return false;
        out[(*count)++] = (size_t)strtoull(*at, &end, 10);
        if (end == *at)
            return false;
        *at = end;
    }
    return true;
}

static inline size_t golden_width(const char *type)
{
    return strcmp(type, "F64") == 0 || strcmp(type, "I64") == 0   ? 8
           : strcmp(type, "F32") == 0 || strcmp(type, "I32") == 0 ? 4
           : strcmp(type, "U8") == 0                              ? 1
                                                                  : 0;
}

/* {"dtype":"F64","shape":[2,3],"data_offsets":[0,48]}, of `bytes` bytes of data. */
static inline bool golden_entry(Tensor *tensor, const char **at, const char *data, size_t bytes)
{
    char key[32];
    size_t place[2] = {0, 0}, two = 0;
    tensor->rank = SIZE_MAX;
    if (!golden_take(at, "{"))
        return false;
    do {
        if (!golden_string(key, sizeof key, at) || !golden_take(at, ":"))
            return false;
        bool ok = strcmp(key, "dtype") == 0 ? golden_string(tensor->type, sizeof tensor->type, at)
                  : strcmp(key, "shape") == 0
                      ? golden_sizes(tensor->shape, &tensor->rank, TENSOR_MAX_RANK, at)
                      : strcmp(key, "data_offsets") == 0 && golden_sizes(place, &two, 2, at);
        if (!ok)
            return false;
    } while (golden_take(at, ","));
    if (!golden_take(at, "}") || two != 2 || tensor->rank == SIZE_MAX)
        return false;
    tensor->count = 1;
    for (size_t i = 0; i < tensor->rank; i++)
        tensor->count *= tensor->shape[i];
    tensor->data = (const unsigned char *)data + place[0];
    return golden_width(tensor->type) > 0 && place[0] <= place[1] && place[1] <= bytes &&
           place[1] - place[0] == tensor->count * golden_width(tensor->type);
}

/* "__metadata__": {"key":"value"}, which nobody asks for. */
static inline bool golden_notes(const char **at)
{
    char text[8];
    if (!golden_take(at, "{"))
        return false;
    while (!golden_take(at, "}")) {
        golden_take(at, ",");
        if (!golden_string(text, sizeof text, at) || !golden_take(at, ":") ||
            !golden_string(text, sizeof text, at))
            return false;
    }
    return true;
}

static inline void safetensors_close(Safetensors *file)
{
    free(file->path);
    free(file->bytes);
    free(file->tensor);
    memset(file, 0, sizeof *file);
}

static inline bool golden_header(Safetensors *file, const char *at, const char *data, size_t bytes)
{
    size_t room = 1;
    for (const char *c = at; c < data; c++)
        room += *c == '[';
    file->tensor = NEW(Tensor, room);
    if (!golden_take(&at, "{"))
        return false;
    while (!golden_take(&at, "}")) {
        Tensor *tensor = &file->tensor[file->n_tensor];
        golden_take(&at, ",");
        if (!golden_string(tensor->name, sizeof tensor->name, &at) || !golden_take(&at, ":"))
            return false;
        if (strcmp(tensor->name, "__metadata__") == 0 ? !golden_notes(&at)
                                                      : !golden_entry(tensor, &at, data, bytes))
            return false;
        file->n_tensor += strcmp(tensor->name, "__metadata__") != 0;
    }
    return true;
}

static inline bool safetensors_open(Safetensors *file, const char *path, Error *error)
{
    size_t len, header = 0;
    memset(file, 0, sizeof *file);
    if (!text_read(&file->bytes, &len, path, error))
        return false;
    file->path = strdup(path);
    for (size_t i = 0; len >= 8 && i < 8; i++) /* little end first */
        header |= (size_t)(unsigned char)file->bytes[i] << (8 * i);
    bool ok = len >= 8 && header <= len - 8 &&
              golden_header(file, file->bytes + 8, file->bytes + 8 + header, len - 8 - header);
    if (!ok) {
        safetensors_close(file);
        return fail(error, "%s: not a file of tensors as the small reader of the tests knows it",
                    path);
    }
    return true;
}

static inline const Tensor *safetensors_find(const Safetensors *file, const char *name)
{
    for (size_t i = 0; i < file->n_tensor; i++)
        if (strcmp(file->tensor[i].name, name) == 0)
            return &file->tensor[i];
    return NULL;
}

static inline double golden_number(const Tensor *tensor, size_t i)
{
    double f64;
    float f32;
    int64_t i64;
    int32_t i32;
    const unsigned char *at = tensor->data + i * golden_width(tensor->type);
    if (strcmp(tensor->type, "F64") == 0)
        return memcpy(&f64, at, sizeof f64), f64;
    if (strcmp(tensor->type, "F32") == 0)
        return memcpy(&f32, at, sizeof f32), (double)f32;
    if (strcmp(tensor->type, "I64") == 0)
        return memcpy(&i64, at, sizeof i64), (double)i64;
    if (strcmp(tensor->type, "I32") == 0)
        return memcpy(&i32, at, sizeof i32), (double)i32;
    return *at;
}

static inline void tensor_to_double(double *out, const Tensor *tensor)
{
    for (size_t i = 0; i < tensor->count; i++)
        out[i] = golden_number(tensor, i);
}

static inline void tensor_to_float(float *out, const Tensor *tensor)
{
    for (size_t i = 0; i < tensor->count; i++)
        out[i] = (float)golden_number(tensor, i);
}

#endif
