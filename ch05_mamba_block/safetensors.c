/* safetensors: how do the weights of a trained model travel from one program to another?

   In a file that is a length, a header in JSON, and the numbers as they lie in memory:

       byte 0        8                          8 + N                               the end
            +--------+--------------------------+---------------------------------------+
            |   N    | {"P":{"dtype":...}}      | 9a 99 99 99 99 99 e9 3f 9a 99 ...     |
            +--------+--------------------------+---------------------------------------+
             uint64   N bytes of JSON, spaces    the numbers, row-major, little-endian
                      at its end

       {"__metadata__": {"format": "pt"},                    optional; strings only
        "P": {"dtype": "F64", "shape": [2, 2], "data_offsets": [0, 32]}, ...}

   The offsets count from the end of the header. Every byte of the data belongs to exactly one
   tensor: none is used twice, none is left over.

   HOLDS      numbers of tensors and what their bits are worth; a reader and a writer of the format;
              a program that shows what is in a file
   FOR        the weights of chapter 5's models, chapter 6, and the golden data of all tests
   NOT        a piece of Mamba's mathematics: skip it on a first reading. Nor is it a way to run
              code from a file: nothing in here can be executed, which is why this format took
              over from Python's pickle.
   RULE       the file is a stranger. Whatever it says is checked before it is believed, and what
              does not hold is told in one sentence with file, tensor and value.
   LEFT OUT   types with no C counterpart (F8_E4M3, F4, C64 ...) and unsigned ones above U8, which
              are listed, but not read; more than 8 dimensions, big-endian machines
   BUILD      cc -O2 ch05_mamba_block/safetensors.c -o safetensors -lm && ./safetensors
   TIME       20 minutes to read, 10 to look into a file of your own
   SOURCES    the format: https://huggingface.co/docs/safetensors; F16 and its rounding: IEEE
              754-2019, sections 3.4 and 4.3.1 */

#ifndef CH05_SAFETENSORS
#define CH05_SAFETENSORS

#include "../ch01_markov/text_width.h"
#include "json.c" /* the header is JSON */
#include <sys/mman.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "safetensors.c takes numbers from the file as they are: it needs a little-endian machine"
#endif

enum {
    TENSOR_MAX_RANK = 8,               /* dimensions of one tensor */
    SAFETENSORS_MAX_HEADER = 100000000 /* bytes; the limit of the reference implementation */
};

/* ==================================== Numbers of tensors ===================================== */
/* Bits as the file has them, and what they are worth.                                           */

/* In rising order of alignment, and so in falling order of their place in a written file. */
typedef enum {
    TENSOR_BOOL,
    TENSOR_U8,
    TENSOR_I8,
    TENSOR_I16,
    TENSOR_F16,
    TENSOR_BF16,
    TENSOR_I32,
    TENSOR_F32,
    TENSOR_F64,
    TENSOR_I64,
    TENSOR_ANY,  /* for safetensors_expect only: whatever the type, as long as it can be read */
    TENSOR_OTHER /* in a file only: a type whose numbers are not read here */
} TensorType;

typedef struct {
    const char *name; /* UTF-8, ends with a 0 byte */
    TensorType type;
    const char *dtype;             /* a TENSOR_OTHER's type as the file calls it; else NULL */
    size_t rank;                   /* dimensions; 0 for a single number */
    size_t shape[TENSOR_MAX_RANK]; /* (rank) */
    size_t count;                  /* numbers: the product of the shape; may be 0 */
    size_t bytes;                  /* of data */
    const unsigned char *data;     /* (bytes) borrowed, row-major; at any address */
} Tensor;

static const struct {
    const char *name;
    size_t size; /* bytes */
} tensor_types[] = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"I16", 2}, {"F16", 2},      {"BF16", 2},
                    {"I32", 4},  {"F32", 4}, {"F64", 8}, {"I64", 8}, {"any type", 0}, {"other", 0}};

/* The types that the format has besides: these are listed, but not read. */
static const struct {
    const char *name;
    size_t bits;
} other_types[] = {{"U16", 16},        {"U32", 32},        {"U64", 64},    {"F8_E5M2", 8},
                   {"F8_E4M3", 8},     {"F8_E8M0", 8},     {"F6_E2M3", 6}, {"F6_E3M2", 6},
                   {"F8_E5M2FNUZ", 8}, {"F8_E4M3FNUZ", 8}, {"F4", 4},      {"C64", 64}};
#define TYPES_READ "BOOL U8 I8 I16 I32 I64 F16 BF16 F32 F64"

const char *tensor_type_name(TensorType type)
{
    return tensor_types[type].name;
}

/* What a tensor's type is called, also one that is not read here. */
const char *tensor_dtype(const Tensor *tensor)
{
    return tensor->type == TENSOR_OTHER ? tensor->dtype : tensor_type_name(tensor->type);
}

/* Bytes of one number. */
size_t tensor_type_size(TensorType type)
{
    return tensor_types[type].size;
}

static float tensor_float_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t tensor_bits_from_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* BF16 is the upper half of a float: 1 sign, 8 exponent, 7 fraction bits. */
float tensor_float_from_bf16(uint16_t half)
{
    return tensor_float_from_bits((uint32_t)half << 16);
}

/* Adding just under half of the last kept place, and one more if that place is odd, rounds to
   nearest, halves to even; a carry runs into the exponent, which is where it belongs. */
uint16_t tensor_bf16_from_float(float value)
{
    uint32_t bits = tensor_bits_from_float(value);
    if (isnan(value))
        return (uint16_t)(bits >> 16 | 0x40); /* quiet: a NaN never becomes an infinity */
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

/* F16 has 1 sign, 5 exponent (bias 15), 10 fraction bits; a float 8 (bias 127) and 23. */
float tensor_float_from_f16(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    uint32_t exponent = half >> 10 & 0x1F, fraction = half & 0x3FF;
    if (exponent == 0) { /* zero or subnormal: fraction * 2^-24, exact in a float */
        float size = (float)fraction * 0x1p-24f;
        return sign ? -size : size;
    }
    uint32_t wide = exponent == 31 ? 255 : exponent + (127 - 15); /* 31: infinity or NaN */
    return tensor_float_from_bits(sign | wide << 23 | fraction << 13);
}

/* Rounded to nearest, halves to even; a NaN stays one. */
uint16_t tensor_f16_from_float(float value)
{
    uint32_t bits = tensor_bits_from_float(value), sign = bits >> 16 & 0x8000;
    uint32_t size = bits & 0x7FFFFFFF; /* without the sign floats are ordered as their bits are */
    if (isnan(value))
        return (uint16_t)(sign | 0x7E00 | (size >> 13 & 0x1FF));
    if (size >= 0x47800000) /* 65536 and more */
        return (uint16_t)(sign | 0x7C00);
    if (size < 0x38800000) { /* below 2^-14: the last place is 2^-24, as it is in 0.5 as a float */
        float moved = tensor_float_from_bits(size) + 0.5f; /* so this sum rounds as F16 does */
        return (uint16_t)(sign | (tensor_bits_from_float(moved) - tensor_bits_from_float(0.5f)));
    }
    size += 0xFFF + (size >> 13 & 1); /* as for BF16; 65520 and more carry into the infinity */
    return (uint16_t)(sign | (size - ((127u - 15u) << 23)) >> 13);
}

/* All numbers of a tensor, whatever their type, into the caller's array of tensor->count. Wider
   types are rounded to nearest; BOOL gives 0 and 1. The macros are the loop for one type, and the
   choice of it: numbers may lie at any address, so each is copied first. */
#define TENSOR_LOOP(type_in_file, value)                                                           \
    for (size_t i = 0; i < tensor->count; i++) {                                                   \
        type_in_file number;                                                                       \
        memcpy(&number, tensor->data + i * sizeof number, sizeof number);                          \
        out[i] = value;                                                                            \
    }                                                                                              \
    break
#define TENSOR_NUMBERS(real)                                                                       \
    switch (tensor->type) {                                                                        \
    case TENSOR_BOOL: TENSOR_LOOP(uint8_t, (real)(number != 0));                                   \
    case TENSOR_U8: TENSOR_LOOP(uint8_t, (real)number);                                            \
    case TENSOR_I8: TENSOR_LOOP(int8_t, (real)number);                                             \
    case TENSOR_I16: TENSOR_LOOP(int16_t, (real)number);                                           \
    case TENSOR_F16: TENSOR_LOOP(uint16_t, (real)tensor_float_from_f16(number));                   \
    case TENSOR_BF16: TENSOR_LOOP(uint16_t, (real)tensor_float_from_bf16(number));                 \
    case TENSOR_I32: TENSOR_LOOP(int32_t, (real)number);                                           \
    case TENSOR_F32: TENSOR_LOOP(float, (real)number);                                             \
    case TENSOR_F64: TENSOR_LOOP(double, (real)number);                                            \
    case TENSOR_I64: TENSOR_LOOP(int64_t, (real)number);                                           \
    case TENSOR_ANY:                                                                               \
    case TENSOR_OTHER: break;                                                                      \
    }

void tensor_to_float(float *out, const Tensor *tensor)
{
    assert(tensor->type < TENSOR_ANY);
    TENSOR_NUMBERS(float)
}

void tensor_to_double(double *out, const Tensor *tensor)
{
    assert(tensor->type < TENSOR_ANY);
    TENSOR_NUMBERS(double)
}

/* Fills count and bytes from type and shape; false if they are too large to be counted. */
static bool tensor_measure(Tensor *tensor)
{
    tensor->count = 1;
    for (size_t i = 0; i < tensor->rank; i++)
        if (__builtin_mul_overflow(tensor->count, tensor->shape[i], &tensor->count))
            return false;
    return !__builtin_mul_overflow(tensor->count, tensor_type_size(tensor->type), &tensor->bytes);
}

typedef struct {
    char text[TENSOR_MAX_RANK * 21 + 2];
} ShownShape;

static ShownShape shown_shape(size_t rank, const size_t *shape)
{
    ShownShape shown;
    size_t used = 0;
    assert(rank <= TENSOR_MAX_RANK);
    for (size_t i = 0; i < rank; i++)
        used += (size_t)sprintf(shown.text + used, "%c%zu", i ? ',' : '[', shape[i]);
    strcpy(shown.text + used, rank ? "]" : "[]");
    return shown;
}

/* ======================================== Reading ============================================ */
/* Header length, header entry by entry, then what holds between the entries: no name twice, no  */
/* byte of data twice, none left over. Sorting makes each of the three one look at neighbours.   */

typedef struct {
    const char *key, *value; /* UTF-8, end with a 0 byte */
} SafetensorsNote;

typedef struct {
    char *path;            /* as it was given, for messages */
    Tensor *tensor;        /* (n_tensor) sorted by name, bytewise */
    SafetensorsNote *note; /* (n_note) the __metadata__, sorted by key */
    size_t n_tensor, n_note;
    const unsigned char *data; /* (data_bytes) what follows the header */
    size_t data_bytes;
    char *strings; /* every name, key and value above points in here */
    void *map;     /* (map_bytes) the file in memory; NULL if the bytes are the caller's */
    size_t map_bytes;
    struct stat stamp; /* the file as it was when it was opened */
} Safetensors;

/* ---- one entry of the header ------------------------------------------------------------- */

enum { ENTRY_DTYPE, ENTRY_SHAPE, ENTRY_OFFSETS, ENTRY_KEYS };

/* What an entry says of its tensor. */
typedef struct {
    bool seen[ENTRY_KEYS];
    Tensor tensor;
    uint64_t offset[2]; /* first byte, and the one after the last */
} TensorEntry;

/* A type that we cannot read, or that is newer than this program, is a type all the same: the file
   is fine, and what it holds can be listed. A word that is written as no type is, is a mistake. */
static bool entry_dtype(Json *json, TensorEntry *entry)
{
    JsonText text = {"", 0};
    if (!json_string(json, &text))
        return false;
    for (int type = 0; type < TENSOR_ANY; type++) {
        if (json_is(text, tensor_types[type].name)) {
            entry->tensor.type = (TensorType)type;
            return true;
        }
    }
    for (size_t i = 0; i < text.len; i++) {
        unsigned char byte = (unsigned char)text.bytes[i];
        if (!isupper(byte) && (i == 0 || (!isdigit(byte) && byte != '_')))
            text.len = 0;
    }
    if (text.len == 0)
        return json_fail(json, "unknown dtype '%s'", shown_name(text.bytes).text);
    entry->tensor.type = TENSOR_OTHER;
    entry->tensor.dtype = text.bytes;
    return true;
}

/* [] is a single number, [0] none at all: both are tensors. */
static bool entry_shape(Json *json, TensorEntry *entry)
{
    Tensor *tensor = &entry->tensor;
    json_enter_array(json);
    while (json_next_item(json)) {
        uint64_t size = 0;
        if (!json_integer(json, &size, SIZE_MAX))
            return false;
        if (tensor->rank == TENSOR_MAX_RANK)
            return json_fail(json, "more than %d dimensions", TENSOR_MAX_RANK);
        tensor->shape[tensor->rank++] = (size_t)size;
    }
    return !json->failed;
}

/* Counted to the end before they are refused, so that the message can say how many there are. */
static bool entry_offsets(Json *json, TensorEntry *entry)
{
    size_t count = 0;
    json_enter_array(json);
    size_t mark = json->mark;
    while (json_next_item(json)) {
        uint64_t offset = 0;
        if (!json_integer(json, &offset, SIZE_MAX))
            return false;
        if (count < 2)
            entry->offset[count] = offset;
        count++;
    }
    json->mark = mark;
    return !json->failed &&
           (count == 2 || json_fail(json, "data_offsets are two numbers, not %zu", count));
}

static const struct {
    const char *key;
    bool (*read)(Json *json, TensorEntry *entry);
} entry_keys[ENTRY_KEYS] = {
    {"dtype", entry_dtype}, {"shape", entry_shape}, {"data_offsets", entry_offsets}};

/* The three keys of an entry, in any order, each once, and no others: what a later version of the
   format may add would change what the numbers mean. */
static bool entry_read(Json *json, TensorEntry *entry)
{
    JsonText key = {"", 0};
    json_enter_object(json);
    size_t mark = json->mark;
    while (json_next_key(json, &key)) {
        int which = 0;
        while (which < ENTRY_KEYS && !json_is(key, entry_keys[which].key))
            which++;
        if (which == ENTRY_KEYS)
            return json_fail(json, "unknown key '%s'", shown_name(key.bytes).text);
        if (entry->seen[which])
            return json_fail(json, "the key '%s' appears twice", entry_keys[which].key);
        entry->seen[which] = true;
        if (!entry_keys[which].read(json, entry))
            return false;
    }
    json->mark = mark;
    for (int which = 0; which < ENTRY_KEYS; which++)
        if (!entry->seen[which])
            return json_fail(json, "'%s' is missing", entry_keys[which].key);
    return !json->failed;
}

/* The bytes of a type that is not read: as many as its numbers have bits for, if that is known. */
static bool entry_other(Json *json, TensorEntry *entry)
{
    Tensor *tensor = &entry->tensor;
    size_t bytes = entry->offset[1] - entry->offset[0], bits = 0;
    for (size_t i = 0; i < sizeof other_types / sizeof *other_types; i++)
        if (strcmp(tensor->dtype, other_types[i].name) == 0)
            bits = other_types[i].bits;
    tensor->bytes = bytes;
    if (bits == 0 || (__builtin_mul_overflow(tensor->count, bits, &bits) == 0 && bits % 8 == 0 &&
                      bits / 8 == bytes))
        return true;
    return json_fail(json, "data_offsets are %zu bytes, which is not what %s %s takes", bytes,
                     tensor->dtype, shown_shape(tensor->rank, tensor->shape).text);
}

/* Holds the entry against itself and against the data; leaves the tensor complete. */
static bool entry_place(Json *json, TensorEntry *entry, const Safetensors *file)
{
    Tensor *tensor = &entry->tensor;
    const uint64_t begin = entry->offset[0], end = entry->offset[1];
    const char *type = tensor_dtype(tensor);
    if (!tensor_measure(tensor))
        return json_fail(json, "%s %s is more bytes than can be counted", type,
                         shown_shape(tensor->rank, tensor->shape).text);
    if (begin > end)
        return json_fail(json, "data_offsets [%" PRIu64 ",%" PRIu64 "] end before they begin",
                         begin, end);
    if (end > file->data_bytes)
        return json_fail(json,
                         "data_offsets [%" PRIu64 ",%" PRIu64 "] end after the data, which "
                         "is %zu bytes: is the file cut off?",
                         begin, end, file->data_bytes);
    if (tensor->type == TENSOR_OTHER && !entry_other(json, entry))
        return false;
    if (end - begin != tensor->bytes)
        return json_fail(
            json, "data_offsets [%" PRIu64 ",%" PRIu64 "] are %" PRIu64 " bytes, but %s %s is %zu",
            begin, end, end - begin, type, shown_shape(tensor->rank, tensor->shape).text,
            tensor->bytes);
    tensor->data = file->data + begin;
    return true;
}

/* ---- the header -------------------------------------------------------------------------- */

/* Names end up as C strings, which cannot hold a 0 byte. */
static bool header_name(Json *json, JsonText text, const char *what)
{
    return strlen(text.bytes) == text.len ||
           json_fail(json, "%s '%s' holds a 0 byte", what, shown_name(text.bytes).text);
}

/* While an entry is read, what fails is said to be in its tensor. */
static bool header_tensor(Safetensors *file, Json *json, JsonText name)
{
    TensorEntry entry;
    memset(&entry, 0, sizeof entry);
    entry.tensor.name = name.bytes;
    char subject[NAME_SHOWN + 16];
    snprintf(subject, sizeof subject, "tensor '%s'", shown_name(name.bytes).text);
    json->subject = subject;
    bool ok = entry_read(json, &entry) && entry_place(json, &entry, file);
    json->subject = NULL;
    if (!ok)
        return false;
    file->tensor = (Tensor *)array_grow(file->tensor, file->n_tensor, sizeof(Tensor));
    file->tensor[file->n_tensor++] = entry.tensor;
    return true;
}

/* Strings only, whatever the writer had in mind. */
static bool header_metadata(Safetensors *file, Json *json)
{
    JsonText key = {"", 0}, value = {"", 0};
    json->subject = "__metadata__";
    json_enter_object(json);
    while (json_next_key(json, &key)) {
        if (!header_name(json, key, "the key") || !json_string(json, &value) ||
            !header_name(json, value, "the value"))
            return false;
        file->note =
            (SafetensorsNote *)array_grow(file->note, file->n_note, sizeof(SafetensorsNote));
        file->note[file->n_note].key = key.bytes;
        file->note[file->n_note++].value = value.bytes;
    }
    json->subject = NULL;
    return !json->failed;
}

/* After the closing bracket: spaces, and no other blank. */
static bool header_padding(Json *json)
{
    while (json_byte(json, json->at) == ' ')
        json->at++;
    json->mark = json->at;
    return json->at == json->len ||
           json_fail(json, "the byte 0x%02x after the last '}', where only spaces may follow",
                     (unsigned)json_byte(json, json->at));
}

/* One object: tensors by their names, and among them __metadata__, once or not at all. */
static bool header_read(Safetensors *file, Json *json)
{
    bool ok = true, metadata = false;
    JsonText name = {"", 0};
    json_enter_object(json);
    while (ok && json_next_key(json, &name)) {
        bool notes = json_is(name, "__metadata__");
        if (notes && metadata)
            return json_fail(json, "__metadata__ appears twice");
        metadata = metadata || notes;
        ok = notes ? header_metadata(file, json)
                   : header_name(json, name, "the tensor name") && header_tensor(file, json, name);
    }
    return ok && !json->failed && header_padding(json);
}

/* ---- what holds between the entries ------------------------------------------------------ */

static int tensor_by_name(const void *left, const void *right)
{
    return strcmp(((const Tensor *)left)->name, ((const Tensor *)right)->name);
}

static int tensor_by_place(const void *left, const void *right)
{
    const Tensor *a = (const Tensor *)left, *b = (const Tensor *)right;
    if (a->data != b->data)
        return a->data < b->data ? -1 : 1;
    return a->bytes < b->bytes ? -1 : a->bytes > b->bytes; /* an empty one goes first */
}

static int note_by_key(const void *left, const void *right)
{
    return strcmp(((const SafetensorsNote *)left)->key, ((const SafetensorsNote *)right)->key);
}

static void tensors_sort(Tensor *tensor, size_t count, int (*order)(const void *, const void *))
{
    if (count > 0) /* an empty array is NULL here, which qsort does not allow */
        qsort(tensor, count, sizeof *tensor, order);
}

static void notes_sort(SafetensorsNote *note, size_t count)
{
    if (count > 0)
        qsort(note, count, sizeof *note, note_by_key);
}

/* Walks through the data from tensor to tensor: each must begin where the one before it ended. */
static bool header_check_places(Safetensors *file, const char *path, Error *error)
{
    tensors_sort(file->tensor, file->n_tensor, tensor_by_place);
    size_t covered = 0;
    for (size_t i = 0; i < file->n_tensor; i++) {
        const Tensor *tensor = &file->tensor[i];
        size_t begin = (size_t)(tensor->data - file->data);
        if (begin < covered)
            return fail(error, "%s: tensor '%s' begins at byte %zu of the data, inside tensor '%s'",
                        path, shown_name(tensor->name).text, begin,
                        shown_name(tensor[-1].name).text);
        if (begin > covered)
            return fail(
                error,
                "%s: a hole in the data: %zu bytes from byte %zu to tensor '%s' belong to none",
                path, begin - covered, covered, shown_name(tensor->name).text);
        covered = begin + tensor->bytes;
    }
    if (covered < file->data_bytes)
        return fail(error, "%s: the last %zu of %zu bytes of data belong to no tensor", path,
                    file->data_bytes - covered, file->data_bytes);
    return true;
}

/* Leaves tensors and metadata in the order of their names, so that they can be searched. */
static bool header_check_names(Safetensors *file, const char *path, Error *error)
{
    tensors_sort(file->tensor, file->n_tensor, tensor_by_name);
    for (size_t i = 1; i < file->n_tensor; i++)
        if (tensor_by_name(&file->tensor[i - 1], &file->tensor[i]) == 0)
            return fail(error, "%s: tensor '%s' appears twice", path,
                        shown_name(file->tensor[i].name).text);
    notes_sort(file->note, file->n_note);
    for (size_t i = 1; i < file->n_note; i++)
        if (note_by_key(&file->note[i - 1], &file->note[i]) == 0)
            return fail(error, "%s: __metadata__: the key '%s' appears twice", path,
                        shown_name(file->note[i].key).text);
    return true;
}

/* ---- the file ---------------------------------------------------------------------------- */

/* Says what a file is that is not a safetensors file; false, if it is known. */
static bool header_stranger(const unsigned char *bytes, size_t len, const char *path, Error *error)
{
    char text[25] = "";
    if (!file_is_no_stranger((const char *)bytes, len, path, error))
        return false;
    size_t shown = len < sizeof text - 1 ? len : sizeof text - 1, i = 0;
    for (; i < shown && (isprint(bytes[i]) || isspace(bytes[i])); i++)
        text[i] = isprint(bytes[i]) ? (char)bytes[i] : ' ';
    return i < shown ||
           fail(error, "%s: this is a text, '%s...', not a safetensors file", path, text);
}

/* The first eight bytes, held against the file before anything is done with them. */
static bool header_length(size_t *header, const unsigned char *bytes, size_t len, const char *path,
                          Error *error)
{
    uint64_t length;
    if (len == 0)
        return fail(error, "%s: the file is empty", path);
    if (len < sizeof length)
        return fail(error, "%s: %zu bytes are too short for a safetensors file", path, len);
    assert(bytes != NULL); /* only nothing lies nowhere */
    memcpy(&length, bytes, sizeof length);
    bool opens = len == sizeof length || bytes[sizeof length] == '{';
    if ((length > SAFETENSORS_MAX_HEADER || !opens) && !header_stranger(bytes, len, path, error))
        return false;
    if (length == 0)
        return fail(error, "%s: the header length is 0", path);
    if (length > SAFETENSORS_MAX_HEADER)
        return fail(error,
                    "%s: the header length %" PRIu64 " is over the limit of %d: is this a "
                    "safetensors file?",
                    path, length, SAFETENSORS_MAX_HEADER);
    if (length > len - sizeof length)
        return fail(error, "%s: the header length is %" PRIu64 ", but only %zu bytes follow", path,
                    length, len - sizeof length);
    if (bytes[sizeof length] != '{')
        return fail(error, "%s: the header begins with the byte 0x%02x, not with '{'", path,
                    bytes[sizeof length]);
    *header = (size_t)length;
    return true;
}

void safetensors_close(Safetensors *file)
{
    if (file->map)
        munmap(file->map, file->map_bytes);
    free(file->path);
    free(file->tensor);
    free(file->note);
    free(file->strings);
    memset(file, 0, sizeof *file);
}

/* A file that is in memory already; `bytes` must live, unchanged, as long as `file`. */
bool safetensors_parse(Safetensors *file, const void *bytes, size_t len, const char *path,
                       Error *error)
{
    size_t header = 0;
    if (!header_length(&header, (const unsigned char *)bytes, len, shown_path(path), error))
        return false;
    const char *text = (const char *)bytes + sizeof(uint64_t);
    Safetensors read;
    memset(&read, 0, sizeof read);
    read.path = text_copy(path);
    read.data = (const unsigned char *)text + header;
    read.data_bytes = len - sizeof(uint64_t) - header;
    Json json;
    json_open(&json, text, header, path, error);
    json.origin = sizeof(uint64_t);
    read.strings = json.strings; /* the names stay: they go with the file, not with the reader */
    if (!header_read(&read, &json) || !header_check_places(&read, shown_path(path), error) ||
        !header_check_names(&read, shown_path(path), error)) {
        safetensors_close(&read);
        return false;
    }
    *file = read;
    return true;
}

/* The whole file in memory; an empty one, which cannot be mapped, as NULL. */
static bool safetensors_map(void **map, struct stat *info, const char *path, Error *error)
{
    int descriptor = -1;
    size_t len = 0;
    if (!regular_open(&descriptor, &len, path, error))
        return false;
    bool ok =
        fstat(descriptor, info) == 0 || fail(error, "%s: %s", shown_path(path), strerror(errno));
    *map = ok && len > 0 ? mmap(NULL, len, PROT_READ, MAP_PRIVATE, descriptor, 0) : NULL;
    if (*map == MAP_FAILED)
        ok = fail(error, "%s: cannot be mapped: %s", shown_path(path), strerror(errno));
    close(descriptor); /* the map keeps the file open by itself */
    return ok;
}

/* Maps the file into memory: numbers are read from disk only where they are looked at. Nobody may
   shorten the file before safetensors_close (the kernel would answer with SIGBUS). */
bool safetensors_open(Safetensors *file, const char *path, Error *error)
{
    void *map = NULL;
    struct stat info;
    if (!safetensors_map(&map, &info, path, error))
        return false;
    size_t len = (size_t)info.st_size;
    if (!safetensors_parse(file, map, len, path, error)) {
        if (map)
            munmap(map, len);
        return false;
    }
    file->map = map;
    file->map_bytes = len;
    file->stamp = info;
    return true;
}

#ifdef __APPLE__
#define st_mtim st_mtimespec
#endif

/* Fails if somebody has written into an open file since: what is read of it may be of both. A file
   put in its place is another, and this one stays as it was. */
bool safetensors_is_unchanged(const Safetensors *file, Error *error)
{
    struct stat now;
    const struct stat *was = &file->stamp;
    if (file->map == NULL || stat(file->path, &now) != 0 || now.st_ino != was->st_ino ||
        now.st_dev != was->st_dev)
        return true;
    return (now.st_size == was->st_size && now.st_mtim.tv_sec == was->st_mtim.tv_sec &&
            now.st_mtim.tv_nsec == was->st_mtim.tv_nsec) ||
           fail(error, "%s: was overwritten while it was in use: nothing since can be trusted",
                shown_path(file->path));
}

/* ---- looking things up ------------------------------------------------------------------- */

/* NULL if there is none. */
const Tensor *safetensors_find(const Safetensors *file, const char *name)
{
    Tensor key;
    memset(&key, 0, sizeof key);
    key.name = name;
    if (file->n_tensor == 0)
        return NULL;
    return (const Tensor *)bsearch(&key, file->tensor, file->n_tensor, sizeof key, tensor_by_name);
}

/* The value of a key, or NULL. */
const char *safetensors_metadata(const Safetensors *file, const char *key)
{
    SafetensorsNote sought = {key, NULL};
    if (file->n_note == 0)
        return NULL;
    const SafetensorsNote *found = (const SafetensorsNote *)bsearch(
        &sought, file->note, file->n_note, sizeof sought, note_by_key);
    return found ? found->value : NULL;
}

/* Finds a tensor that must be there and must have this type (or TENSOR_ANY) and shape. */
bool safetensors_expect(const Tensor **tensor, const Safetensors *file, const char *name,
                        TensorType type, size_t rank, const size_t *shape, Error *error)
{
    const Tensor *found = safetensors_find(file, name);
    if (!found)
        return fail(error, "%s: there is no tensor '%s' (expected: %s %s)", shown_path(file->path),
                    shown_name(name).text, tensor_type_name(type), shown_shape(rank, shape).text);
    bool same_shape = found->rank == rank;
    for (size_t i = 0; same_shape && i < rank; i++)
        same_shape = found->shape[i] == shape[i];
    if (!same_shape || (type != TENSOR_ANY && found->type != type))
        return fail(error, "%s: tensor '%s' is %s %s, expected %s %s", shown_path(file->path),
                    shown_name(name).text, tensor_dtype(found),
                    shown_shape(found->rank, found->shape).text, tensor_type_name(type),
                    shown_shape(rank, shape).text);
    if (found->type == TENSOR_OTHER)
        return fail(error, "%s: tensor '%s' is %s, which is not read here (" TYPES_READ " are)",
                    shown_path(file->path), shown_name(name).text, shown_name(found->dtype).text);
    *tensor = found;
    return true;
}

/* ======================================== Writing ============================================ */
/* Types of large numbers first, so that each number lies at a multiple of its size; names in    */
/* order, so that the same tensors give the same file. The reference implementation does both.   */

/* A file in the making. Names, keys, values and shapes are copied, data is borrowed until
   safetensors_writer_free. The first mistake stays, and safetensors_write tells it. */
typedef struct {
    Tensor *tensor;        /* (n_tensor) */
    SafetensorsNote *note; /* (n_note) */
    size_t n_tensor, n_note;
    bool failed;
    Error error;
} SafetensorsWriter;

void safetensors_writer_init(SafetensorsWriter *writer)
{
    memset(writer, 0, sizeof *writer);
}

void safetensors_writer_free(SafetensorsWriter *writer)
{
    for (size_t i = 0; i < writer->n_tensor; i++)
        free((char *)writer->tensor[i].name);
    for (size_t i = 0; i < writer->n_note; i++) {
        free((char *)writer->note[i].key);
        free((char *)writer->note[i].value);
    }
    free(writer->tensor);
    free(writer->note);
    memset(writer, 0, sizeof *writer);
}

/* Keeps the first mistake for safetensors_write to tell; what comes after it is still taken. */
static void writer_fail(SafetensorsWriter *writer, const char *what, const char *name)
{
    if (!writer->failed)
        fail(&writer->error, "'%s' %s", shown_name(name).text, what);
    writer->failed = true;
}

/* A copy of a text that goes into the header, which must be UTF-8. */
static char *writer_text(SafetensorsWriter *writer, const char *text)
{
    uint32_t code;
    size_t len = 1;
    for (size_t at = 0, count = strlen(text); at < count && len > 0; at += len) {
        len = utf8_next(&code, text + at, count - at);
        if (len == 0)
            writer_fail(writer, "is not valid UTF-8", text);
    }
    return text_copy(text);
}

/* `data` holds all numbers of `shape`, row-major, and must live until the file is written. */
void safetensors_add(SafetensorsWriter *writer, const char *name, TensorType type, const void *data,
                     size_t rank, const size_t *shape)
{
    assert(type < TENSOR_ANY && rank <= TENSOR_MAX_RANK);
    writer->tensor = (Tensor *)array_grow(writer->tensor, writer->n_tensor, sizeof(Tensor));
    Tensor *tensor = &writer->tensor[writer->n_tensor++];
    memset(tensor, 0, sizeof *tensor);
    tensor->name = writer_text(writer, name);
    tensor->type = type;
    tensor->rank = rank;
    if (rank)
        memcpy(tensor->shape, shape, rank * sizeof *shape);
    tensor->data = (const unsigned char *)data;
    if (!tensor_measure(tensor))
        writer_fail(writer, "is more bytes than can be counted", name);
    assert(data || tensor->bytes == 0 || writer->failed);
    if (strcmp(name, "__metadata__") == 0)
        writer_fail(writer, "is no name for a tensor: the format keeps it for itself", name);
}

void safetensors_add_metadata(SafetensorsWriter *writer, const char *key, const char *value)
{
    writer->note =
        (SafetensorsNote *)array_grow(writer->note, writer->n_note, sizeof(SafetensorsNote));
    SafetensorsNote *note = &writer->note[writer->n_note++];
    note->key = writer_text(writer, key);
    note->value = writer_text(writer, value);
}

/* The order of a written file: see the head of this part. */
static int tensor_by_type_and_name(const void *left, const void *right)
{
    const Tensor *a = (const Tensor *)left, *b = (const Tensor *)right;
    return a->type != b->type ? (a->type > b->type ? -1 : 1) : tensor_by_name(a, b);
}

/* Brings tensors and metadata into the order of the file. */
static void writer_sort(SafetensorsWriter *writer)
{
    notes_sort(writer->note, writer->n_note);
    for (size_t i = 1; i < writer->n_note; i++)
        if (note_by_key(&writer->note[i - 1], &writer->note[i]) == 0)
            writer_fail(writer, "is a key of the metadata twice", writer->note[i].key);
    tensors_sort(writer->tensor, writer->n_tensor, tensor_by_name);
    for (size_t i = 1; i < writer->n_tensor; i++)
        if (tensor_by_name(&writer->tensor[i - 1], &writer->tensor[i]) == 0)
            writer_fail(writer, "is the name of two tensors", writer->tensor[i].name);
    tensors_sort(writer->tensor, writer->n_tensor, tensor_by_type_and_name);
}

static void writer_print_tensor(FILE *out, const Tensor *tensor, size_t begin)
{
    json_write_string(out, tensor->name);
    fprintf(out, ":{\"dtype\":\"%s\",\"shape\":[", tensor_type_name(tensor->type));
    for (size_t i = 0; i < tensor->rank; i++)
        fprintf(out, "%s%zu", i ? "," : "", tensor->shape[i]);
    fprintf(out, "],\"data_offsets\":[%zu,%zu]}", begin, begin + tensor->bytes);
}

static void writer_print_header(FILE *out, SafetensorsWriter *writer)
{
    const char *comma = "";
    fputc('{', out);
    for (size_t i = 0; i < writer->n_note; i++) {
        fputs(i ? "," : "\"__metadata__\":{", out);
        json_write_string(out, writer->note[i].key);
        fputc(':', out);
        json_write_string(out, writer->note[i].value);
        fputs(i + 1 == writer->n_note ? "}" : "", out);
        comma = ",";
    }
    size_t begin = 0;
    for (size_t i = 0; i < writer->n_tensor; i++) {
        fputs(comma, out);
        writer_print_tensor(out, &writer->tensor[i], begin);
        if (__builtin_add_overflow(begin, writer->tensor[i].bytes, &begin))
            writer_fail(writer, "goes beyond what can be counted", writer->tensor[i].name);
        comma = ",";
    }
    fputc('}', out);
}

/* Header length and header, as they stand in the file; `*head` belongs to the caller. */
static bool writer_head(char **head, size_t *len, SafetensorsWriter *writer, const char *path,
                        Error *error)
{
    uint64_t length = 0;
    writer_sort(writer);
    FILE *out = open_memstream(head, len);
    if (!out)
        return fail(error, "%s: %s", shown_path(path), strerror(errno));
    fwrite(&length, sizeof length, 1, out);
    writer_print_header(out, writer);
    while (ftell(out) % 8 != 0) /* so that the data starts at a multiple of 8 */
        fputc(' ', out);
    bool ok = !ferror(out);
    ok = fclose(out) == 0 && ok;
    if (!ok)
        fail(error, "%s: out of memory for the header", shown_path(path));
    else if (writer->failed)
        ok = fail(error, "%s: %s", shown_path(path), writer->error.text);
    else if (*len - sizeof length > SAFETENSORS_MAX_HEADER)
        ok = fail(error, "%s: the header would be %zu bytes, over the limit of %d",
                  shown_path(path), *len - sizeof length, SAFETENSORS_MAX_HEADER);
    if (!ok) {
        free(*head);
        return false;
    }
    length = *len - sizeof length;
    memcpy(*head, &length, sizeof length);
    return true;
}

/* Stops at the first write that fails; the stream remembers it. */
static void writer_emit(FILE *out, const char *head, size_t len, const SafetensorsWriter *writer)
{
    bool ok = fwrite(head, 1, len, out) == len;
    for (size_t i = 0; ok && i < writer->n_tensor; i++) {
        const Tensor *tensor = &writer->tensor[i];
        ok = tensor->bytes == 0 || fwrite(tensor->data, 1, tensor->bytes, out) == tensor->bytes;
    }
}

/* Whole or not at all: see OutFile. */
bool safetensors_write(SafetensorsWriter *writer, const char *path, Error *error)
{
    char *head;
    size_t len;
    OutFile out;
    if (!writer_head(&head, &len, writer, path, error))
        return false;
    bool ok = out_open(&out, path, error);
    if (ok) {
        writer_emit(out.stream, head, len, writer);
        ok = out_close(&out, error);
    }
    free(head);
    return ok;
}

/* ======================================== Printing =========================================== */
/* What the program shows of a file.                                                             */

/* A name or a value as the terminal may see it, padded to `width`. */
static void shown_print(FILE *out, const char *name, int width)
{
    char *copy = shown_clean(text_copy(name));
    text_pad(out, copy, width);
    free(copy);
}

/* The metadata, a line for each tensor, and what they come to. */
void safetensors_print_list(FILE *out, const Safetensors *file)
{
    size_t numbers = 0, width = 0, type_width = 4;
    for (size_t i = 0; i < file->n_tensor; i++) {
        size_t name = text_width(file->tensor[i].name),
               type = strlen(tensor_dtype(&file->tensor[i]));
        width = name > width ? name : width;
        type_width = type > type_width ? type : type_width;
    }
    type_width = type_width < 16 ? type_width : 16;
    size_t most = page_columns() - 34 - type_width; /* of a name: so much stands beside it */
    for (size_t i = 0; i < file->n_note; i++) {
        shown_print(out, file->note[i].key, 0);
        fputs(" = ", out);
        shown_print(out, file->note[i].value, 0);
        fputc('\n', out);
    }
    for (size_t i = 0; i < file->n_tensor; i++) {
        const Tensor *tensor = &file->tensor[i];
        shown_print(out, tensor->name, width < most ? -(int)width : -(int)most);
        fprintf(out, "  %-*s  %-15s %11zu bytes\n", (int)type_width,
                shown_name(tensor_dtype(tensor)).text,
                shown_shape(tensor->rank, tensor->shape).text, tensor->bytes);
        numbers += tensor->count;
    }
    fprintf(out, "%zu tensor%s, %zu number%s, %zu bytes of data\n", file->n_tensor,
            file->n_tensor == 1 ? "" : "s", numbers, numbers == 1 ? "" : "s", file->data_bytes);
}

/* What there is to say about the finite numbers of a tensor. */
typedef struct {
    double least, most, mean, squares; /* squares: the sum of (number - mean)^2 */
    size_t finite;
} TensorSummary;

/* Mean and squares follow each number as it comes (Welford 1962), so one pass is enough. */
static void summary_add(TensorSummary *summary, double number)
{
    if (!isfinite(number))
        return;
    summary->least = fmin(summary->least, number);
    summary->most = fmax(summary->most, number);
    summary->finite++;
    double away = number - summary->mean;
    summary->mean += away / (double)summary->finite;
    summary->squares += away * (number - summary->mean);
}

/* A part of a tensor, as a tensor of one dimension. */
static Tensor tensor_part(const Tensor *tensor, size_t start, size_t count)
{
    Tensor part = *tensor;
    part.rank = 1;
    part.shape[0] = part.count = count;
    part.data = tensor->data + start * tensor_type_size(tensor->type);
    part.bytes = count * tensor_type_size(tensor->type);
    return part;
}

/* How many numbers of a tensor are none, or too large for a float. */
static size_t tensor_not_finite(const Tensor *tensor)
{
    enum { PART = 4096 };
    float number[PART];
    size_t bad = 0;
    for (size_t done = 0; done < tensor->count; done += PART) {
        size_t left = tensor->count - done;
        Tensor part = tensor_part(tensor, done, left < PART ? left : (size_t)PART);
        tensor_to_float(number, &part);
        for (size_t i = 0; i < part.count; i++)
            bad += !isfinite(number[i]);
    }
    return bad;
}

/* Fails if one is; the tensor is one of the file at `path`. */
bool tensor_is_finite(const Tensor *tensor, const char *path, Error *error)
{
    size_t bad = tensor_not_finite(tensor);
    return bad == 0 || fail(error, "%s: tensor '%s': %zu of its %zu numbers are NaN or infinite",
                            shown_path(path), shown_name(tensor->name).text, bad, tensor->count);
}

static TensorSummary tensor_summary(const Tensor *tensor)
{
    enum { PART = 4096 }; /* numbers at a time: a large tensor needs no second place in memory */
    TensorSummary summary = {INFINITY, -INFINITY, 0.0, 0.0, 0};
    double number[PART];
    for (size_t done = 0; done < tensor->count; done += PART) {
        size_t left = tensor->count - done, count = left < (size_t)PART ? left : (size_t)PART;
        Tensor part = tensor_part(tensor, done, count);
        tensor_to_double(number, &part);
        for (size_t i = 0; i < count; i++)
            summary_add(&summary, number[i]);
    }
    return summary;
}

/* A tensor, what its finite numbers are like, and its first `numbers` numbers. */
void safetensors_print_tensor(FILE *out, const Tensor *tensor, size_t numbers)
{
    TensorSummary summary = tensor_summary(tensor);
    size_t count = numbers < tensor->count ? numbers : tensor->count;
    double *first = NEW(double, count);
    Tensor part = tensor_part(tensor, 0, count);
    tensor_to_double(first, &part);
    shown_print(out, tensor->name, 0);
    fprintf(out, "  %s %s  %zu number%s, %zu bytes\n", tensor_type_name(tensor->type),
            shown_shape(tensor->rank, tensor->shape).text, tensor->count,
            tensor->count == 1 ? "" : "s", tensor->bytes);
    if (summary.finite)
        fprintf(out, "least %.6g, most %.6g, mean %.6g, standard deviation %.6g\n", summary.least,
                summary.most, summary.mean, sqrt(summary.squares / (double)summary.finite));
    if (summary.finite < tensor->count)
        fprintf(out, "NaN or infinite: %zu\n", tensor->count - summary.finite);
    for (size_t i = 0; i < count; i++)
        fprintf(out, "%s%.9g", i ? " " : "", isnan(first[i]) ? fabs(first[i]) : first[i]);
    fputs(count == 0 ? "" : count < tensor->count ? " ...\n" : "\n", out);
    free(first);
}

/* Sixteen bytes a line, as numbers and as characters. */
static void demo_bytes(FILE *out, const char *what, const char *bytes, size_t from, size_t to)
{
    fprintf(out, "\n%s:\n", what);
    for (size_t line = from; line < to; line += 16) {
        fprintf(out, "%6zu  ", line);
        for (size_t i = line; i < line + 16; i++) {
            if (i < to)
                fprintf(out, "%02x ", (unsigned char)bytes[i]);
            else
                fputs("   ", out);
        }
        for (size_t i = line; i < line + 16 && i < to; i++)
            fputc(isprint((unsigned char)bytes[i]) ? bytes[i] : '.', out);
        fputc('\n', out);
    }
}

/* The file of the head comment, as bytes of memory that belong to the caller. */
static bool demo_file(char **bytes, size_t *len, size_t *data_at, Error *error)
{
    static const double P[4] = {0.8, 0.2, 0.4, 0.6};
    static const size_t square[2] = {2, 2};
    SafetensorsWriter writer;
    char *head = NULL;
    safetensors_writer_init(&writer);
    safetensors_add_metadata(&writer, "format", "pt");
    safetensors_add(&writer, "P", TENSOR_F64, P, 2, square);
    bool ok = writer_head(&head, data_at, &writer, "the demo", error);
    if (ok) {
        FILE *memory = open_memstream(bytes, len);
        if (memory)
            writer_emit(memory, head, *data_at, &writer);
        ok = (memory && fclose(memory) == 0) || fail(error, "out of memory");
        free(head);
    }
    safetensors_writer_free(&writer);
    return ok;
}

/* Writes the file of the head comment into memory, shows its bytes, and reads them back. */
bool safetensors_demo(FILE *out, Error *error)
{
    char *bytes;
    size_t len, data_at;
    Safetensors file;
    if (!demo_file(&bytes, &len, &data_at, error))
        return false;
    fputs("The weather of chapter 1 as a safetensors file, byte for byte.\n", out);
    demo_bytes(out, "The length of the header", bytes, 0, 8);
    demo_bytes(out, "The header, with spaces up to a multiple of 8", bytes, 8, data_at);
    demo_bytes(out, "The data", bytes, data_at, len);
    bool ok = safetensors_parse(&file, bytes, len, "the demo", error);
    if (ok) {
        fputs("\nRead back:\n", out);
        safetensors_print_list(out, &file);
        for (size_t i = 0; i < file.n_tensor; i++)
            safetensors_print_tensor(out, &file.tensor[i], 4);
        safetensors_close(&file);
    }
    free(bytes);
    return ok;
}

/* ================================== Options and main ======================================= */

/* Lists the tensors of a file or, if there is a name, shows that one. */
static bool safetensors_show(const char *path, const char *name, size_t numbers, Error *error)
{
    Safetensors file;
    if (!safetensors_open(&file, path, error))
        return false;
    bool ok = true;
    const Tensor *tensor = name ? safetensors_find(&file, name) : NULL;
    if (tensor && tensor->type == TENSOR_OTHER)
        ok = fail(error,
                  "%s: tensor '%s' is %s, whose numbers are not read here (" TYPES_READ " are)",
                  shown_path(path), shown_name(name).text, shown_name(tensor->dtype).text);
    else if (tensor)
        safetensors_print_tensor(stdout, tensor, numbers);
    else if (name)
        ok = fail(error, "%s: there is no tensor '%s'", shown_path(path), shown_name(name).text);
    else
        safetensors_print_list(stdout, &file);
    safetensors_close(&file);
    return ok;
}

int safetensors_main(int argc, char **argv)
{
    const char *path = NULL, *name = NULL;
    uint64_t numbers = 8;
    const Option table[] = {
        {"FILE", NULL, OPTION_ARGUMENT, 0, 0, &path, "",
         "the file; without one, a small example is shown byte for byte"},
        {"NAME", NULL, OPTION_ARGUMENT, 0, 0, &name, "",
         "the tensor to show; without one, all are listed"},
        {"numbers", "N", OPTION_WHOLE, 0, 1000000, &numbers, "NAME",
         "how many of its numbers to print (default 8)"},
        {"n", "N", OPTION_WHOLE, 0, 1000000, &numbers, "NAME", "the same"},
    };
    const Program program = {"ch05_safetensors",
                             "Lists the tensors of a safetensors file, or shows one of them.",
                             table, sizeof table / sizeof *table};
    int status;
    if (!program_begin(&status, &program, argc, argv))
        return status;
    Error error;
    bool ok = path ? safetensors_show(path, name, (size_t)numbers, &error)
                   : safetensors_demo(stdout, &error);
    return program_end(ok, &error);
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return safetensors_main(argc, argv);
}
#endif

#endif /* CH05_SAFETENSORS */
