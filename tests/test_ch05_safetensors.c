/* Tests of ch05_mamba_block/safetensors.c and the json.c it stands on: run from the root of the
   repository.

   Most of them hand the reader a file that is wrong in one way and look for the sentence that says
   so; the rest hold conversions against formulas of their own, the writer against the reader. */

#include "../ch05_mamba_block/safetensors.c"
#include "fuzz/fuzz_safetensors.c"
#include "golden.h"
#include <sys/resource.h>
#include <signal.h>

/* ---- files made of a header and data ----------------------------------------------------- */

/* Bytes that end where readable memory ends: one read too far is a crash, even without ASan. */
typedef struct {
    unsigned char *bytes;
    size_t len;
    void *pages;
    size_t pages_len;
} EdgeBytes;

static EdgeBytes edge_bytes(size_t len)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), room = (len + page - 1) / page * page;
    EdgeBytes edge;
    edge.len = len;
    edge.pages_len = room + page;
    edge.pages =
        mmap(NULL, edge.pages_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(edge.pages != MAP_FAILED);
    assert_int_equal(mprotect((char *)edge.pages + room, page, PROT_NONE), 0);
    edge.bytes = (unsigned char *)edge.pages + room - len;
    return edge;
}

static EdgeBytes edge_copy(const void *bytes, size_t len)
{
    EdgeBytes edge = edge_bytes(len);
    if (len)
        memcpy(edge.bytes, bytes, len);
    return edge;
}

static void edge_free(EdgeBytes *edge)
{
    munmap(edge->pages, edge->pages_len);
}

/* A whole file: the length, `header_len` bytes of header, data 0, 1, 2 ... */
static EdgeBytes file_of_bytes(const char *header, size_t header_len, size_t data_len)
{
    EdgeBytes edge = edge_bytes(8 + header_len + data_len);
    uint64_t length = header_len;
    memcpy(edge.bytes, &length, 8);
    memcpy(edge.bytes + 8, header, header_len);
    for (size_t i = 0; i < data_len; i++)
        edge.bytes[8 + header_len + i] = (unsigned char)i;
    return edge;
}

static EdgeBytes file_of(const char *header, size_t data_len)
{
    return file_of_bytes(header, strlen(header), data_len);
}

static bool parse(Safetensors *file, const EdgeBytes *edge, Error *error)
{
    return safetensors_parse(file, edge->bytes, edge->len, "some/file", error);
}

/* The file must be refused with a sentence that names it and has `part` in it. */
static void refuse_bytes(EdgeBytes edge, const char *part)
{
    Safetensors file, before;
    Error error;
    memset(&file, 0x5A, sizeof file);
    memcpy(&before, &file, sizeof file);
    if (parse(&file, &edge, &error))
        fail_msg("accepted, although: %s", part);
    assert_memory_equal(&file, &before, sizeof file); /* outputs of failed calls are untouched */
    edge_free(&edge);
    assert_int_equal(strncmp(error.text, "some/file: ", 11), 0);
    assert_contains(error.text, part);
}

static void refuse(const char *header, size_t data_len, const char *part)
{
    refuse_bytes(file_of(header, data_len), part);
}

/* A file with the one tensor 'w', of which `entry` says everything. */
static void refuse_entry(const char *entry, size_t data_len, const char *part)
{
    char header[1024];
    snprintf(header, sizeof header, "{\"w\":{%s}}", entry);
    refuse(header, data_len, part);
    refuse(header, data_len, "tensor 'w'");
}

static void must_accept(Safetensors *file, const EdgeBytes *edge)
{
    Error error;
    if (!parse(file, edge, &error))
        fail_msg("refused: %s", error.text);
}

#define U8_ENTRY(name, begin, end, count)                                                          \
    "\"" name "\":{\"dtype\":\"U8\",\"shape\":[" #count "],\"data_offsets\":[" #begin "," #end "]" \
    "}"

/* ---- the container ----------------------------------------------------------------------- */

static void an_empty_file_is_refused(void **state)
{
    (void)state;
    refuse_bytes(edge_copy("", 0), "the file is empty");
}

static void a_file_shorter_than_the_length_is_refused(void **state)
{
    (void)state;
    for (size_t len = 1; len < 8; len++) {
        char part[64];
        snprintf(part, sizeof part, "%zu byte", len);
        refuse_bytes(edge_copy("\2\0\0\0\0\0\0", len), part);
        refuse_bytes(edge_copy("\2\0\0\0\0\0\0", len), "too short");
    }
}

static void a_header_of_no_bytes_is_refused(void **state)
{
    (void)state;
    refuse_bytes(edge_copy("\0\0\0\0\0\0\0\0", 8), "header length is 0");
    refuse_bytes(edge_copy("\0\0\0\0\0\0\0\0{}", 10), "header length is 0");
}

static void a_header_longer_than_the_file_is_refused(void **state)
{
    (void)state;
    refuse_bytes(edge_copy("\3\0\0\0\0\0\0\0{}", 10), "header length is 3, but only 2 bytes");
    refuse_bytes(edge_copy("\1\0\0\0\0\0\0\0", 8), "header length is 1, but only 0 bytes");
    refuse_bytes(edge_copy("\x00\xE1\xF5\x05\0\0\0\0{}", 10), "100000000, but only 2");
}

static void a_header_over_the_limit_is_refused(void **state)
{
    (void)state;
    refuse_bytes(edge_copy("\x01\xE1\xF5\x05\0\0\0\0{}", 10),
                 "100000001 is over the limit of 100000000");
    refuse_bytes(edge_copy("\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF{}", 10), "18446744073709551615");
    refuse_bytes(edge_copy("\xCA\xFE\xBA\xBE\0\0\0\1", 8), "is this a safetensors file?");
}

/* What people find where the weights should be, each named, with what to do. */
static void what_is_no_safetensors_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t len;
        const char *says;
    } cases[] = {
        {"version https://git-lfs.github.com/spec/v1\n", 43,
         "Git LFS, not the file itself: git lfs"},
        {"<!DOCTYPE html><html>", 21, "a web page: the link that gives the file itself"},
        {"<!doctype html>\n", 16, "a web page"},
        {"<html>\n<body>", 13, "a web page"},
        {"PK\3\4\0\0\x8\x8\0\0", 10, "a zip archive, as torch.save writes"},
        {"\x80\2\x8a\nl\xfc\x9c"
         "F\xf9 j",
         11, "a pickle of Python, as torch.save wrote"},
        {"\x80\3}q\0(X\5\0\0\0", 11, "a pickle of Python: torch"},
        {"\x80\4\x95\xc\0\0\0\0\0\0", 10, "a pickle of Python: torch"},
        {"GGUF\3\0\0\0\0\0", 10, "a GGUF, llama.cpp's format"},
        {"\x89HDF\r\n\x1a\n\0", 9, "an HDF5 file"},
        {"\x1f\x8b\x8\0\0\0\0\0\0\3", 10, "packed by gzip"},
        {"Access to model x is restricted.", 32, "a text, 'Access to model x is res...'"},
        {"{\"error\":\n \"not found\"}", 23, "a text, '{\"error\":  \"not found\"}...'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refuse_bytes(edge_copy(cases[i].bytes, cases[i].len), cases[i].says);
    /* no gzip: a header of 559,903 bytes that was cut off */
    refuse_bytes(edge_copy("\x1f\x8b\x8\0\0\0\0\0{", 9), "is 559903, but only 1 bytes follow");
}

static void a_header_must_begin_with_a_brace(void **state)
{
    (void)state;
    refuse("[]", 0, "begins with the byte 0x5b, not with '{'");
    refuse(" {}", 0, "begins with the byte 0x20");
    refuse("\xEF\xBB\xBF{}", 0, "begins with the byte 0xef");
}

static void only_spaces_may_follow_the_header(void **state)
{
    (void)state;
    refuse("{}\n", 0,
           "the byte 0x0a after the last '}', where only spaces may follow (at byte 10)");
    refuse("{}  {}", 0, "the byte 0x7b after the last '}'");
    refuse_bytes(file_of_bytes("{}\0", 3, 0), "the byte 0x00 after the last '}'");
    EdgeBytes edge = file_of("{}       ", 0);
    Safetensors file;
    must_accept(&file, &edge);
    assert_int_equal(file.n_tensor, 0);
    safetensors_close(&file);
    edge_free(&edge);
}

static void a_file_cut_off_anywhere_is_refused(void **state)
{
    (void)state;
    EdgeBytes whole = file_of("{" U8_ENTRY("a", 0, 3, 3) "," U8_ENTRY("b", 3, 5, 2) "}", 5);
    for (size_t len = 0; len < whole.len; len++)
        refuse_bytes(edge_copy(whole.bytes, len), "");
    edge_free(&whole);
}

static void what_is_no_regular_file_is_refused(void **state)
{
    const char *dir = (const char *)*state;
    char path[256];
    Safetensors file;
    Error error;
    assert_false(safetensors_open(&file, dir, &error));
    assert_contains(error.text, "this is a directory, not a file");
    assert_contains(error.text, dir);
    assert_false(safetensors_open(&file, "/dev/null", &error));
    assert_string_equal(error.text, "/dev/null: this is not a regular file");
    snprintf(path, sizeof path, "%s/pipe", dir);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_false(safetensors_open(&file, path, &error)); /* and does not wait for a writer */
    assert_contains(error.text, "this is not a regular file");
    unlink(path);
}

static void a_missing_or_empty_file_is_refused_by_name(void **state)
{
    char path[256];
    Safetensors file;
    Error error;
    snprintf(path, sizeof path, "%s/missing", (const char *)*state);
    assert_false(safetensors_open(&file, path, &error));
    assert_contains(error.text, path);
    assert_contains(error.text, "No such file");
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    fclose(out);
    assert_false(safetensors_open(&file, path, &error));
    assert_contains(error.text, path);
    assert_contains(error.text, "the file is empty");
    unlink(path);
}

static void a_file_overwritten_while_it_is_open_is_noticed(void **state)
{
    char path[256], other[256];
    Safetensors file;
    Error error;
    char *text;
    size_t len;
    struct timespec times[2];
    snprintf(path, sizeof path, "%s/weights", (const char *)*state);
    snprintf(other, sizeof other, "%s/other", (const char *)*state);
    assert_true(text_read(&text, &len, "tests/golden/ch01_weather.safetensors", &error));
    for (int k = 0; k < 2; k++) {
        FILE *out = fopen(k == 0 ? path : other, "wb");
        assert_int_equal(fwrite(text, 1, len, out), len);
        fclose(out);
    }
    assert_true(safetensors_open(&file, path, &error));
    assert_true(safetensors_is_unchanged(&file, &error));
    times[0] = times[1] = file.stamp.st_mtim;
    times[1].tv_nsec ^= 1; /* as a write a moment later leaves it */
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    assert_false(safetensors_is_unchanged(&file, &error));
    assert_contains(error.text, "/weights: was overwritten while it was in use");
    assert_int_equal(rename(other, path), 0); /* another file in its place: this one is as it was */
    assert_true(safetensors_is_unchanged(&file, &error));
    unlink(path);
    assert_true(safetensors_is_unchanged(&file, &error));
    safetensors_close(&file);
    free(text);
}

/* ---- entries of the header --------------------------------------------------------------- */

static void an_unknown_dtype_is_refused(void **state)
{
    (void)state;
    refuse_entry("\"dtype\":\"f32\",\"shape\":[],\"data_offsets\":[0,4]", 4, "unknown dtype 'f32'");
    refuse_entry("\"dtype\":\"\",\"shape\":[],\"data_offsets\":[0,4]", 4, "unknown dtype ''");
    refuse_entry("\"dtype\":\"8F\",\"shape\":[],\"data_offsets\":[0,4]", 4, "unknown dtype '8F'");
    refuse_entry("\"dtype\":\"any type\",\"shape\":[],\"data_offsets\":[0,0]", 0, "unknown dtype");
    refuse_entry("\"dtype\":\"U8\\u0000\",\"shape\":[],\"data_offsets\":[0,1]", 1, "unknown dtype");
    refuse_entry("\"dtype\":5,\"shape\":[],\"data_offsets\":[0,4]", 4,
                 "expected a string, found a number");
}

/* The format's other types, and one that is newer than this program: what the numbers take is held
   against the bytes where it is known, and nobody gets the numbers. */
static void other_dtypes_are_listed_and_not_read(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        size_t count, bytes;
    } types[] = {{"U16", 4, 8},     {"U32", 4, 16},    {"U64", 4, 32},        {"F8_E4M3", 4, 4},
                 {"F8_E5M2", 4, 4}, {"F8_E8M0", 4, 4}, {"F4", 4, 2},          {"F6_E2M3", 4, 3},
                 {"F6_E3M2", 4, 3}, {"C64", 4, 32},    {"F8_E4M3FNUZ", 4, 4}, {"F8_E5M2FNUZ", 4, 4},
                 {"F31_NEW", 4, 7}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        char text[512], says[64], *list;
        const Tensor *tensor;
        Safetensors file;
        Error error;
        size_t len, shape[1] = {4};
        bool known = i + 1 < sizeof types / sizeof *types;
        snprintf(text, sizeof text,
                 "{\"w\":{\"dtype\":\"%s\",\"shape\":[4],\"data_offsets\":[0,%zu]}}", types[i].name,
                 types[i].bytes);
        EdgeBytes edge = file_of(text, types[i].bytes);
        must_accept(&file, &edge);
        assert_int_equal(file.tensor[0].type, TENSOR_OTHER);
        assert_int_equal(file.tensor[0].bytes, types[i].bytes);
        assert_false(safetensors_expect(&tensor, &file, "w", TENSOR_ANY, 1, shape, &error));
        snprintf(says, sizeof says, "is %s, which is not read here (BOOL U8", types[i].name);
        assert_contains(error.text, says);
        FILE *out = open_memstream(&list, &len);
        safetensors_print_list(out, &file);
        fclose(out);
        snprintf(says, sizeof says, "w  %-4s  [4]  ", types[i].name);
        assert_contains(list, says);
        free(list);
        safetensors_close(&file);
        edge_free(&edge);
        snprintf(text, sizeof text, "\"dtype\":\"%s\",\"shape\":[4],\"data_offsets\":[0,%zu]",
                 types[i].name, types[i].bytes + 1);
        if (known)
            refuse_entry(text, types[i].bytes + 1, "which is not what");
    }
    refuse_entry("\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]", 1,
                 "which is not what F4 [3] takes");
    refuse_entry("\"dtype\":\"U64\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]", 0,
                 "which is not what U64");
}

static void a_missing_key_is_refused(void **state)
{
    (void)state;
    refuse_entry("\"shape\":[1],\"data_offsets\":[0,4]", 4, "'dtype' is missing");
    refuse_entry("\"dtype\":\"F32\",\"data_offsets\":[0,4]", 4, "'shape' is missing");
    refuse_entry("\"dtype\":\"F32\",\"shape\":[1]", 4, "'data_offsets' is missing");
    refuse_entry("", 0, "'dtype' is missing");
    refuse("{\"w\":[]}", 0, "tensor 'w': expected an object, found an array");
}

static void a_key_given_twice_is_refused(void **state)
{
    (void)state;
    refuse_entry("\"dtype\":\"F32\",\"shape\":[1],\"dtype\":\"F32\",\"data_offsets\":[0,4]", 4,
                 "the key 'dtype' appears twice");
    refuse_entry("\"shape\":[1],\"sh\\u0061pe\":[1]", 4, "the key 'shape' appears twice");
    refuse_entry("\"data_offsets\":[0,4],\"data_offsets\":[0,4]", 4,
                 "the key 'data_offsets' appears twice");
}

static void an_unknown_key_is_refused(void **state)
{
    (void)state;
    refuse_entry("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"stride\":[1]", 4,
                 "unknown key 'stride'");
    refuse_entry("\"Dtype\":\"F32\"", 4, "unknown key 'Dtype'");
    refuse_entry("\"dtype\\u0000\":\"F32\"", 4, "unknown key 'dtype'");
}

static void sizes_must_be_whole_numbers_in_range(void **state)
{
    (void)state;
    static const char *const wrong[][2] = {
        {"-1", "-1 is not a whole number"},
        {"-0", "-0 is not a whole number"},
        {"1.0", "1.0 is not a whole number"},
        {"0.5", "0.5 is not a whole number"},
        {"1e0", "1e0 is not a whole number"},
        {"18446744073709551616", "18446744073709551616 is too large"},
        {"99999999999999999999999999", "999999999999999999999999 is too large"},
        {"01", "'01' is not a number of JSON"},
        {"null", "expected a number, found null"},
        {"\"1\"", "expected a number, found a string"},
        {"[1]", "expected a number, found an array"},
        {"true", "expected a number, found true or false"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char entry[160];
        snprintf(entry, sizeof entry, "\"dtype\":\"U8\",\"shape\":[%s],\"data_offsets\":[0,1]",
                 wrong[i][0]);
        refuse_entry(entry, 1, wrong[i][1]);
        snprintf(entry, sizeof entry, "\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,%s]",
                 wrong[i][0]);
        refuse_entry(entry, 1, wrong[i][1]);
    }
}

static void a_shape_must_be_an_array_of_eight_at_most(void **state)
{
    (void)state;
    refuse_entry("\"dtype\":\"U8\",\"shape\":1,\"data_offsets\":[0,1]", 1,
                 "expected an array, found a number");
    refuse_entry("\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]", 1,
                 "more than 8 dimensions");
    EdgeBytes edge = file_of("{\"w\":{\"dtype\":\"U8\",\"shape\":[1,2,1,1,3,1,1,1],"
                             "\"data_offsets\":[0,6]}}",
                             6);
    Safetensors file;
    must_accept(&file, &edge);
    assert_int_equal(file.tensor[0].rank, 8);
    assert_int_equal(file.tensor[0].shape[4], 3);
    safetensors_close(&file);
    edge_free(&edge);
}

static void a_shape_too_large_to_count_is_refused(void **state)
{
    (void)state;
    refuse_entry("\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]", 0,
                 "U8 [4294967296,4294967296] is more bytes than can be counted");
    refuse_entry("\"dtype\":\"F64\",\"shape\":[2305843009213693952],\"data_offsets\":[0,0]", 0,
                 "F64 [2305843009213693952] is more bytes than can be counted");
    refuse_entry("\"dtype\":\"F32\",\"shape\":[9223372036854775808,2,0],\"data_offsets\":[0,0]", 0,
                 "more bytes than can be counted");
}

static void data_offsets_must_be_two(void **state)
{
    (void)state;
    refuse_entry("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[]", 1, "two numbers, not 0");
    refuse_entry("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]", 1, "two numbers, not 1");
    refuse_entry("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,1]", 1,
                 "two numbers, not 3");
    refuse_entry("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":{}", 1, "expected an array");
}

static void data_offsets_must_lie_in_order_and_inside_the_data(void **state)
{
    (void)state;
    refuse_entry("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,0]", 1,
                 "data_offsets [1,0] end before they begin");
    refuse_entry("\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]", 1,
                 "data_offsets [0,2] end after the data, which is 1 bytes");
    refuse_entry("\"dtype\":\"U8\",\"shape\":[18446744073709551615],"
                 "\"data_offsets\":[0,18446744073709551615]",
                 1, "end after the data");
    refuse_entry("\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[2,2]", 1, "end after the data");
}

static void data_offsets_must_fit_type_and_shape(void **state)
{
    (void)state;
    refuse_entry("\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,20]", 20,
                 "data_offsets [0,20] are 20 bytes, but F32 [2,3] is 24");
    refuse_entry("\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[0,4]", 4,
                 "data_offsets [0,4] are 4 bytes, but F16 [] is 2");
    refuse_entry("\"dtype\":\"F16\",\"shape\":[0],\"data_offsets\":[0,2]", 2, "but F16 [0] is 0");
}

/* ---- what holds between entries ---------------------------------------------------------- */

static void overlapping_tensors_are_refused(void **state)
{
    (void)state;
    refuse("{" U8_ENTRY("a", 0, 4, 4) "," U8_ENTRY("b", 3, 6, 3) "}", 6,
           "tensor 'b' begins at byte 3 of the data, inside tensor 'a'");
    refuse("{" U8_ENTRY("a", 0, 6, 6) "," U8_ENTRY("b", 0, 6, 6) "}", 6, "at byte 0 of the data");
    refuse("{" U8_ENTRY("z", 0, 6, 6) "," U8_ENTRY("b", 2, 2, 0) "}", 6,
           "tensor 'b' begins at byte 2 of the data, inside tensor 'z'");
}

static void bytes_of_no_tensor_are_refused(void **state)
{
    (void)state;
    refuse("{" U8_ENTRY("a", 0, 4, 4) "," U8_ENTRY("b", 5, 7, 2) "}", 7,
           "a hole in the data: 1 bytes from byte 4 to tensor 'b' belong to none");
    refuse("{" U8_ENTRY("a", 2, 4, 2) "}", 4, "2 bytes from byte 0 to tensor 'a'");
    refuse("{" U8_ENTRY("a", 0, 4, 4) "}", 7, "the last 3 of 7 bytes of data belong to no tensor");
    refuse("{}", 1, "the last 1 of 1 bytes of data belong to no tensor");
}

static void two_tensors_of_one_name_are_refused(void **state)
{
    (void)state;
    refuse("{" U8_ENTRY("a", 0, 1, 1) "," U8_ENTRY("b", 1, 2, 1) "," U8_ENTRY("a", 2, 3, 1) "}", 3,
           "tensor 'a' appears twice");
    refuse("{" U8_ENTRY("n\xC3\xA9", 0, 1, 1) "," U8_ENTRY("n\\u00e9", 1, 2, 1) "}", 2,
           "tensor 'n\xC3\xA9' appears twice");
    refuse("{" U8_ENTRY("", 0, 0, 0) "," U8_ENTRY("", 0, 0, 0) "}", 0, "tensor '' appears twice");
}

static void a_name_with_a_zero_byte_is_refused(void **state)
{
    (void)state;
    refuse("{" U8_ENTRY("a\\u0000b", 0, 1, 1) "}", 1, "the tensor name 'a' holds a 0 byte");
    refuse("{\"__metadata__\":{\"k\\u0000\":\"v\"}}", 0, "the key 'k' holds a 0 byte");
    refuse("{\"__metadata__\":{\"k\":\"v\\u0000\"}}", 0, "the value 'v' holds a 0 byte");
}

static void metadata_is_strings_and_nothing_else(void **state)
{
    (void)state;
    refuse("{\"__metadata__\":{\"n\":1}}", 0, "__metadata__: expected a string, found a number");
    refuse("{\"__metadata__\":{\"n\":null}}", 0, "__metadata__: expected a string, found null");
    refuse("{\"__metadata__\":{\"n\":{}}}", 0, "__metadata__: expected a string, found an object");
    refuse("{\"__metadata__\":\"n\"}", 0, "__metadata__: expected an object, found a string");
    refuse("{\"__metadata__\":{\"k\":\"1\",\"j\":\"2\",\"k\":\"3\"}}", 0,
           "__metadata__: the key 'k' appears twice");
    refuse("{\"__metadata__\":{},\"__metadata__\":{}}", 0, "__metadata__ appears twice");
}

static void metadata_is_found_by_key(void **state)
{
    (void)state;
    EdgeBytes edge =
        file_of("{\"__metadata__\":{\"format\":\"pt\",\"\":\"\\u00e9\\n\",\"a\":\"\"}}", 0);
    Safetensors file;
    must_accept(&file, &edge);
    assert_int_equal(file.n_note, 3);
    assert_string_equal(safetensors_metadata(&file, "format"), "pt");
    assert_string_equal(safetensors_metadata(&file, ""), "\xC3\xA9\n");
    assert_string_equal(safetensors_metadata(&file, "a"), "");
    assert_null(safetensors_metadata(&file, "b"));
    safetensors_close(&file);
    edge_free(&edge);
    edge = file_of("{}", 0);
    must_accept(&file, &edge);
    assert_null(safetensors_metadata(&file, "format"));
    assert_null(safetensors_find(&file, "w"));
    safetensors_close(&file);
    edge_free(&edge);
}

static void scalars_and_empty_tensors_are_tensors(void **state)
{
    (void)state;
    EdgeBytes edge =
        file_of("{\"none\":{\"data_offsets\":[1,1],\"dtype\":\"F64\",\"shape\":[3,0,2]},"
                "\"one\":{\"shape\":[],\"dtype\":\"I8\",\"data_offsets\":[0,1]},"
                "\"first\":{\"shape\":[0],\"dtype\":\"I64\",\"data_offsets\":[0,0]}}",
                1);
    Safetensors file;
    must_accept(&file, &edge);
    const Tensor *none = safetensors_find(&file, "none"), *one = safetensors_find(&file, "one");
    assert_int_equal(none->rank, 3);
    assert_int_equal(none->count, 0);
    assert_int_equal(none->bytes, 0);
    assert_int_equal(one->rank, 0);
    assert_int_equal(one->count, 1);
    double number = 7.0;
    tensor_to_double(&number, none);
    assert_true(number == 7.0);
    tensor_to_double(&number, one);
    assert_true(number == 0.0);
    safetensors_close(&file);
    edge_free(&edge);
}

static void thousands_of_tensors_are_found_by_name(void **state)
{
    (void)state;
    enum { MANY = 20011 }; /* a prime: 7919 i runs through all numbers below it */
    char *header, name[32];
    size_t len;
    FILE *out = open_memstream(&header, &len);
    for (size_t i = 0; i < MANY; i++) {
        size_t at = i * 7919 % MANY;
        fprintf(out, "%c\"layer.%zu\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%zu,%zu]}",
                i ? ',' : '{', at, at, at + 1);
    }
    fputc('}', out);
    fclose(out);
    EdgeBytes edge = file_of(header, MANY);
    Safetensors file;
    must_accept(&file, &edge);
    assert_int_equal(file.n_tensor, MANY);
    for (size_t i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "layer.%zu", i);
        const Tensor *tensor = safetensors_find(&file, name);
        assert_non_null(tensor);
        assert_int_equal(tensor->data - file.data, i);
    }
    assert_null(safetensors_find(&file, "layer.20011"));
    assert_null(safetensors_find(&file, "layer"));
    safetensors_close(&file);
    edge_free(&edge);
    free(header);
}

static void an_expected_tensor_must_have_name_type_and_shape(void **state)
{
    (void)state;
    static const size_t good[2] = {2, 3}, turned[2] = {3, 2};
    EdgeBytes edge =
        file_of("{\"w\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[0,12]}}", 12);
    Safetensors file;
    Error error;
    const Tensor *tensor = NULL;
    must_accept(&file, &edge);
    assert_false(safetensors_expect(&tensor, &file, "v", TENSOR_BF16, 2, good, &error));
    assert_string_equal(error.text, "some/file: there is no tensor 'v' (expected: BF16 [2,3])");
    assert_false(safetensors_expect(&tensor, &file, "w", TENSOR_F32, 2, good, &error));
    assert_string_equal(error.text, "some/file: tensor 'w' is BF16 [2,3], expected F32 [2,3]");
    assert_false(safetensors_expect(&tensor, &file, "w", TENSOR_BF16, 2, turned, &error));
    assert_string_equal(error.text, "some/file: tensor 'w' is BF16 [2,3], expected BF16 [3,2]");
    assert_false(safetensors_expect(&tensor, &file, "w", TENSOR_ANY, 1, good, &error));
    assert_string_equal(error.text, "some/file: tensor 'w' is BF16 [2,3], expected any type [2]");
    assert_false(safetensors_expect(&tensor, &file, "w", TENSOR_ANY, 0, NULL, &error));
    assert_contains(error.text, "expected any type []");
    assert_null(tensor);
    assert_true(safetensors_expect(&tensor, &file, "w", TENSOR_BF16, 2, good, &error));
    assert_true(tensor == &file.tensor[0]);
    assert_true(safetensors_expect(&tensor, &file, "w", TENSOR_ANY, 2, good, &error));
    safetensors_close(&file);
    edge_free(&edge);
}

/* ---- names in messages ------------------------------------------------------------------- */

static void control_characters_do_not_reach_the_terminal(void **state)
{
    (void)state;
    refuse("{\"\\u001b[2J\\u007f\\u009b\\n\":{}}", 0,
           "tensor '?[2J???"
           "?': 'dtype' is missing");
    assert_string_equal(shown_name("a\xC2").text, "a\xC2"); /* half a character, at the very end */
}

static void long_names_and_paths_leave_room_for_the_sentence(void **state)
{
    (void)state;
    char header[2048], path[512], name[1024];
    memset(name, 'n', sizeof name);
    for (size_t i = 1; i + 1 < sizeof name; i += 2)
        memcpy(name + i, "\xC3\xA9", 2); /* so that a cut after 60 bytes would halve a letter */
    name[sizeof name - 1] = '\0';
    memset(path, 'p', sizeof path);
    strcpy(path + sizeof path - 12, "/the.st");
    snprintf(header, sizeof header, "{\"%s\":{\"dtype\":\"f31\"}}", name);
    EdgeBytes edge = file_of(header, 0);
    Safetensors file;
    Error error;
    assert_false(safetensors_parse(&file, edge.bytes, edge.len, path, &error));
    assert_contains(error.text, "/the.st: tensor 'n\xC3\xA9\xC3\xA9");
    assert_contains(error.text, "\xC3\xA9...': unknown dtype 'f31' (at byte ");
    edge_free(&edge);
}

/* ---- JSON -------------------------------------------------------------------------------- */

static Json json_of(const char *text, Error *error)
{
    Json json;
    json_open(&json, text, strlen(text), "text", error);
    return json;
}

/* Skips over the whole text; the error must have `part` in it, or there must be none. */
static void json_whole(const char *text, size_t len, const char *part)
{
    Error error;
    Json json;
    EdgeBytes edge = edge_copy(text, len);
    json_open(&json, (const char *)edge.bytes, len, "text", &error);
    json_skip(&json);
    bool ok = json_end(&json);
    json_close(&json);
    edge_free(&edge);
    if (ok != (part == NULL))
        fail_msg("%.*s: %s", (int)len, text, ok ? "accepted" : error.text);
    if (part)
        assert_contains(error.text, part);
}

static void malformed_json_is_refused_with_its_byte(void **state)
{
    (void)state;
    static const char *const wrong[][2] = {
        {"{", "expected a key in quotes, found the end (at byte 9)"},
        {"{\"a", "a string without its closing quote (at byte 9)"},
        {"{\"a\"", "expected ':' after a key, found the end (at byte 12)"},
        {"{\"a\" 1}", "expected ':' after a key, found a number (at byte 13)"},
        {"{\"a\":", "expected an object, found the end (at byte 13)"},
        {"{\"a\":}", "expected an object, found '}' (at byte 13)"},
        {"{a:1}", "expected a key in quotes, found 'a' (at byte 9)"},
        {"{1:2}", "expected a key in quotes, found a number (at byte 9)"},
        {"{,}", "expected a key in quotes, found ',' (at byte 9)"},
        {"{]", "expected a key in quotes, found ']' (at byte 9)"},
        {"{'a':1}", "expected a key in quotes, found ''' (at byte 9)"},
        {"{\"__metadata__\":{\"a\":\"b\",}}", "expected a key in quotes, found '}' (at byte 33)"},
        {"{\"__metadata__\":{\"a\":\"b\" \"c\":\"d\"}}",
         "expected ',' or '}', found a string (at byte 33)"},
        {"{\"__metadata__\":{\"a\":\"b\"]}", "expected ',' or '}', found ']' (at byte 32)"},
        {"{\"w\":{\"shape\":[1 2]}}", "expected ',' or ']', found a number (at byte 25)"},
        {"{\"w\":{\"shape\":[1,]}}", "expected a number, found ']' (at byte 25)"},
        {"{\"w\":{\"shape\":[1}}}", "expected ',' or ']', found '}' (at byte 24)"},
        {"{\"w\":{\"shape\":[1", "expected ',' or ']', found the end (at byte 24)"},
        {"{\"a\\x\":1}", "a backslash that escapes nothing in a string (at byte 11)"},
        {"{\x01}", "expected a key in quotes, found the byte 0x01 (at byte 9)"},
        {"{\"a\tb\":1}", "the control byte 0x09 in a string (at byte 11)"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        refuse(wrong[i][0], 0, wrong[i][1]);
}

static void an_error_after_a_tensor_is_not_blamed_on_it(void **state)
{
    (void)state;
    refuse("{" U8_ENTRY("a", 0, 1, 1) ",1}", 1, "file: expected a key in quotes, found a number");
    refuse("{\"__metadata__\":{},1}", 0, "file: expected a key in quotes, found a number");
}

static void every_kind_of_value_can_be_skipped(void **state)
{
    (void)state;
    static const char *const good[] = {"null",
                                       "true",
                                       "false",
                                       "0",
                                       "-0",
                                       "12",
                                       "-1.5e+3",
                                       "1E5",
                                       "0.25",
                                       "1e999",
                                       "\"\"",
                                       "\"a\\u0000\"",
                                       "[]",
                                       "[ ]",
                                       "{}",
                                       "{ }",
                                       "[1,[2,{\"a\":[]}],{}]",
                                       " \t\r\n{\"a\":1,\"b\":[null]} \n",
                                       "{\"a\":1,\"a\":2}"};
    static const char *const wrong[] = {
        "",       " ",   "nul",     "nulL",     "True", "tru",  "falsey",    "+1",
        "01",     "-",   "-a",      ".5",       "1.",   "1.e5", "1e",        "1e+",
        "0x10",   "--1", "NaN",     "Infinity", "[1",   "[1,",  "[1,]",      "[,1]",
        "]",      "}",   "{\"a\"}", "[1] 2",    "{}{}", "[1}",  "{\"a\":1]", "\"",
        "\"\\\"", "'a'", "/**/1",   "[1 2]",    "1-",   "1.5.5"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        json_whole(good[i], strlen(good[i]), NULL);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        json_whole(wrong[i], strlen(wrong[i]), "text: ");
    json_whole("nulL", 4, "expected null, found another word (at byte 0)");
    json_whole("1\0", 2, "expected the end, found the byte 0x00 (at byte 1)");
}

static void escapes_become_utf8(void **state)
{
    (void)state;
    static const char *const same[][2] = {
        {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t"},
        {"\"\\u0041\\u00e9\\u00E9\"", "A\xC3\xA9\xC3\xA9"},
        {"\"\\u007f\\u0080\\u07ff\\u0800\"", "\x7F\xC2\x80\xDF\xBF\xE0\xA0\x80"},
        {"\"\\ud7ff\\ue000\\uffff\"", "\xED\x9F\xBF\xEE\x80\x80\xEF\xBF\xBF"},
        {"\"\\ud800\\udc00\\uDBFF\\uDFFF\"", "\xF0\x90\x80\x80\xF4\x8F\xBF\xBF"},
        {"\"\\ud83d\\ude00x\"", "\xF0\x9F\x98\x80x"}};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        Error error;
        JsonText text;
        Json json = json_of(same[i][0], &error);
        assert_true(json_string(&json, &text) && json_end(&json));
        assert_string_equal(text.bytes, same[i][1]);
        assert_int_equal(text.len, strlen(same[i][1]));
        json_close(&json);
    }
    Error error;
    JsonText text;
    Json json = json_of("\"a\\u0000b\"", &error);
    assert_true(json_string(&json, &text));
    assert_int_equal(text.len, 3);
    assert_memory_equal(text.bytes, "a\0b", 4);
    assert_false(json_is(text, "a"));
    json_close(&json);
}

static void control_bytes_must_be_escaped(void **state)
{
    (void)state;
    for (unsigned byte = 0; byte <= 0x20; byte++) {
        char text[4] = "\"?\"", part[64];
        text[1] = (char)byte;
        snprintf(part, sizeof part, "the control byte 0x%02x in a string (at byte 1)", byte);
        json_whole(text, 3, byte < 0x20 ? part : NULL);
    }
}

static void broken_escapes_are_refused(void **state)
{
    (void)state;
    static const char *const wrong[][2] = {
        {"\"\\u12\"", "\\u without four hexadecimal digits"},
        {"\"\\u12g4\"", "\\u without four hexadecimal digits"},
        {"\"\\u\"", "\\u without four hexadecimal digits"},
        {"\"\\u+123\"", "\\u without four hexadecimal digits"},
        {"\"\\ud800\"", "\\ud800 is half a surrogate pair (at byte 1)"},
        {"\"\\udbffx\"", "\\udbff is half a surrogate pair"},
        {"\"\\udc00\"", "\\udc00 is half a surrogate pair"},
        {"\"\\ud800\\u0041\"", "\\ud800 is half a surrogate pair"},
        {"\"\\ud800\\ud800\"", "\\ud800 is half a surrogate pair"},
        {"\"\\ud800\\n\"", "\\ud800 is half a surrogate pair"},
        {"\"\\ude00\\ud83d\"", "\\ude00 is half a surrogate pair"},
        {"\"\\udc00\\udc00\"", "\\udc00 is half a surrogate pair"},
        {"\"\\ud800\\ue000\"", "\\ud800 is half a surrogate pair"},
        {"\"\\a\"", "a backslash that escapes nothing"},
        {"\"\\U0041\"", "a backslash that escapes nothing"},
        {"\"\\", "a backslash that escapes nothing"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        json_whole(wrong[i][0], strlen(wrong[i][0]), wrong[i][1]);
    json_whole("\"\\\0\"", 4, "a backslash that escapes nothing");
}

static void only_valid_utf8_is_accepted(void **state)
{
    (void)state;
    static const char *const good[] = {
        "\"\x7F\"",         "\"\xC2\x80\"",         "\"\xDF\xBF\"",
        "\"\xE0\xA0\x80\"", "\"\xED\x9F\xBF\"",     "\"\xEE\x80\x80\"",
        "\"\xEF\xBF\xBF\"", "\"\xF0\x90\x80\x80\"", "\"\xF4\x8F\xBF\xBF\""};
    static const char *const wrong[] = {"\"\x80\"",
                                        "\"\xBF\"",
                                        "\"\xC0\x80\"",
                                        "\"\xC1\xBF\"",
                                        "\"\xC2\"",
                                        "\"\xC2\xC2\"",
                                        "\"\xE0\x9F\xBF\"",
                                        "\"\xE0\xA0\"",
                                        "\"\xED\xA0\x80\"",
                                        "\"\xED\xBF\xBF\"",
                                        "\"\xF0\x8F\xBF\xBF\"",
                                        "\"\xF4\x90\x80\x80\"",
                                        "\"\xF5\x80\x80\x80\"",
                                        "\"\xF0\x90\x80\"",
                                        "\"\xFE\"",
                                        "\"\xFF\"",
                                        "\"\xE1\x80\xC0\"",
                                        "\"\xE2\x82",
                                        "\"\xF0\x90\x80\x7F\"",
                                        "\"\xF8\x88\x80\x80\x80\""};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        json_whole(good[i], strlen(good[i]), NULL);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        json_whole(wrong[i], strlen(wrong[i]), "a string is not valid UTF-8 (at byte 1)");
}

static void nesting_is_limited(void **state)
{
    (void)state;
    char text[2 * JSON_MAX_DEPTH + 8];
    memset(text, '[', JSON_MAX_DEPTH);
    memset(text + JSON_MAX_DEPTH, ']', JSON_MAX_DEPTH);
    json_whole(text, 2 * JSON_MAX_DEPTH, NULL);
    memset(text, '[', sizeof text);
    json_whole(text, sizeof text, "nested deeper than 64 levels (at byte 64)");
    char *deep = (char *)malloc(1000000);
    memset(deep, '[', 1000000);
    json_whole(deep, 1000000, "nested deeper than 64 levels");
    free(deep);
    json_whole("[[],[],{\"a\":[[]]}]", 18, NULL); /* what is closed does not count */
}

static void siblings_do_not_count_as_depth(void **state)
{
    (void)state;
    enum { MANY = 3 * JSON_MAX_DEPTH };
    char text[3 * MANY + 2] = "[";
    for (int i = 0; i < MANY; i++)
        strcat(text, i ? ",[]" : "[]");
    strcat(text, "]");
    json_whole(text, strlen(text), NULL);
}

static void whole_numbers_are_read_up_to_a_limit(void **state)
{
    (void)state;
    Error error;
    uint64_t number = 7;
    static const struct {
        const char *text;
        uint64_t most;
        bool good;
    } cases[] = {{"0", 0, true},
                 {"1", 0, false},
                 {"9", 9, true},
                 {"10", 9, false},
                 {"255", 255, true},
                 {"256", 255, false},
                 {"18446744073709551615", UINT64_MAX, true},
                 {"18446744073709551616", UINT64_MAX, false},
                 {"18446744073709551620", UINT64_MAX, false},
                 {"184467440737095516150", UINT64_MAX, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Json json = json_of(cases[i].text, &error);
        number = 7;
        assert_int_equal(json_integer(&json, &number, cases[i].most), cases[i].good);
        if (cases[i].good)
            assert_true(number == strtoull(cases[i].text, NULL, 10));
        else
            assert_true(number == 7);
        json_close(&json);
    }
}

static void numbers_are_read_as_strtod_reads_them(void **state)
{
    (void)state;
    static const char *const texts[] = {"0",        "-0",      "1",
                                        "0.1",      "-2.5e-3", "1e308",
                                        "4.9e-324", "1e-400",  "123456789012345678901234567890.5"};
    Error error;
    double number;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        Json json = json_of(texts[i], &error);
        assert_true(json_number(&json, &number) && json_end(&json));
        assert_true(number == strtod(texts[i], NULL));
        json_close(&json);
    }
    Json json = json_of("1e309", &error);
    number = 7.0;
    assert_false(json_number(&json, &number));
    assert_contains(error.text, "1e309 is too large for a double");
    assert_true(number == 7.0);
    json_close(&json);
}

static void a_number_ends_where_its_text_ends(void **state)
{
    (void)state;
    Error error;
    double number;
    Json json;
    json_open(&json, "12345", 3, "text", &error); /* the text is not ended by a 0 byte */
    assert_true(json_number(&json, &number) && json_end(&json));
    assert_true(number == 123.0);
    json_close(&json);
}

static void a_failed_reader_stays_failed(void **state)
{
    (void)state;
    Error error;
    JsonText text;
    uint64_t number = 7;
    double real = 7.0;
    bool flag = true;
    Json json = json_of("{\"a\":x,\"b\":1}", &error);
    assert_true(json_enter_object(&json));
    assert_true(json_next_key(&json, &text));
    assert_true(json_is(text, "a"));
    assert_false(json_integer(&json, &number, 10));
    assert_string_equal(error.text, "text: expected a number, found 'x' (at byte 5)");
    Error first = error;
    assert_false(json_next_key(&json, &text));
    assert_false(json_next_item(&json));
    assert_false(json_enter_object(&json));
    assert_false(json_enter_array(&json));
    assert_false(json_string(&json, &text));
    assert_false(json_integer(&json, &number, 10));
    assert_false(json_number(&json, &real));
    assert_false(json_boolean(&json, &flag));
    assert_false(json_skip(&json));
    assert_false(json_end(&json));
    assert_false(json_fail(&json, "another"));
    assert_int_equal(json_peek(&json), JSON_NOTHING);
    assert_string_equal(error.text, first.text);
    assert_true(number == 7 && real == 7.0 && flag);
    json_close(&json);
}

static void a_value_of_another_type_is_refused(void **state)
{
    (void)state;
    Error error;
    JsonText text;
    bool flag = true;
    Json json = json_of("\"true\"", &error);
    assert_false(json_boolean(&json, &flag));
    assert_contains(error.text, "expected true or false, found a string");
    json_close(&json);
    json = json_of("[]", &error);
    assert_false(json_string(&json, &text));
    assert_contains(error.text, "expected a string, found an array");
    json_close(&json);
    json = json_of("null", &error);
    assert_false(json_enter_array(&json));
    assert_contains(error.text, "expected an array, found null");
    json_close(&json);
    json = json_of("false", &error);
    assert_true(json_boolean(&json, &flag) && !flag && json_end(&json));
    json_close(&json);
}

static void a_written_string_is_read_back(void **state)
{
    (void)state;
    char text[256], *written;
    size_t len;
    for (int i = 0; i < 127; i++)
        text[i] = (char)(i + 1);
    strcpy(text + 127, "\xC3\xA9\xF0\x9F\x98\x80");
    FILE *out = open_memstream(&written, &len);
    json_write_string(out, text);
    fclose(out);
    Error error;
    JsonText again;
    Json json = json_of(written, &error);
    assert_true(json_string(&json, &again) && json_end(&json));
    assert_true(json_is(again, text));
    assert_contains(written, "\\u0001");
    assert_contains(written, "\\\"");
    json_close(&json);
    free(written);
}

/* config.json, tokenizer.json and their like, which the language model reads. */
static void the_golden_json_files_are_read(void **state)
{
    (void)state;
    glob_t found;
    golden_list(&found, "*/*.json");
    for (size_t i = 0; i < found.gl_pathc; i++) {
        char *text;
        size_t len;
        Error error;
        if (!text_read(&text, &len, found.gl_pathv[i], &error))
            fail_msg("%s", error.text);
        json_whole(text, len, NULL);
        fuzz_json(text, len);
        free(text);
    }
    globfree(&found);
}

/* ---- F16 and BF16 ------------------------------------------------------------------------ */

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* IEEE 754, section 3.4, word for word: sign, exponent and fraction of `fraction_bits` bits. */
static double half_value(unsigned half, int fraction_bits, int bias)
{
    int exponent_bits = 15 - fraction_bits, most = (1 << exponent_bits) - 1;
    int exponent = (int)(half >> fraction_bits) & most;
    double fraction = (double)(half & ((1u << fraction_bits) - 1)) / (1 << fraction_bits);
    double size = exponent == most ? (fraction > 0.0 ? (double)NAN : (double)INFINITY)
                  : exponent == 0  ? ldexp(fraction, 1 - bias)
                                   : ldexp(1.0 + fraction, exponent - bias);
    return half & 0x8000 ? -size : size;
}

/* Same number, same sign of a zero; any NaN for a NaN, but with its sign. */
static bool same_number(float value, double want)
{
    return isnan(want) ? isnan(value) != 0 : value == want && !signbit(value) == !signbit(want);
}

static void every_f16_is_worth_what_the_standard_says(void **state)
{
    (void)state;
    for (unsigned half = 0; half < 65536; half++) {
        float value = tensor_float_from_f16((uint16_t)half);
        if (!same_number(value, half_value(half, 10, 15)))
            fail_msg("F16 %04x gives %g", half, (double)value);
        assert_int_equal(bits_of(value) >> 31, half >> 15);
    }
}

static void every_bf16_is_worth_what_the_standard_says(void **state)
{
    (void)state;
    for (unsigned half = 0; half < 65536; half++) {
        float value = tensor_float_from_bf16((uint16_t)half);
        if (!same_number(value, half_value(half, 7, 127)))
            fail_msg("BF16 %04x gives %g", half, (double)value);
        assert_int_equal(bits_of(value), half << 16);
    }
}

static void every_half_comes_back_from_float(void **state)
{
    (void)state;
    for (unsigned half = 0; half < 65536; half++) {
        float f16 = tensor_float_from_f16((uint16_t)half);
        float bf16 = tensor_float_from_bf16((uint16_t)half);
        uint16_t f16_back = tensor_f16_from_float(f16), bf16_back = tensor_bf16_from_float(bf16);
        assert_int_equal(f16_back & ~0x200, isnan(f16) ? half & ~0x200u : f16_back & ~0x200);
        if (!isnan(f16))
            assert_int_equal(f16_back, half);
        if (!isnan(bf16))
            assert_int_equal(bf16_back, half);
        if (isnan(f16))
            assert_true(isnan(tensor_float_from_f16(f16_back)) && f16_back >> 15 == half >> 15);
        if (isnan(bf16))
            assert_true(isnan(tensor_float_from_bf16(bf16_back)) && bf16_back >> 15 == half >> 15);
    }
}

/* Between each two neighbours of a half type: their middle goes to the even one, and what is one
   float off the middle to the nearer one. `finite` is the pattern of the largest finite number;
   the "neighbour" above it is what would come next, from which on all is infinite. */
static void check_rounding(uint16_t (*from_float)(float), int fraction_bits, int bias,
                           unsigned finite)
{
    for (unsigned half = 0; half <= finite; half++) {
        double low = half_value(half, fraction_bits, bias);
        double high = half < finite ? half_value(half + 1, fraction_bits, bias)
                                    : 2.0 * low - half_value(half - 1, fraction_bits, bias);
        float middle = (float)((low + high) / 2.0); /* exact: a float has more places */
        unsigned even = half + (half & 1);
        for (unsigned sign = 0; sign <= 0x8000; sign += 0x8000) {
            float turn = sign ? -1.0f : 1.0f;
            unsigned at = from_float(turn * middle);
            unsigned below = from_float(turn * nextafterf(middle, 0.0f));
            unsigned above = from_float(turn * nextafterf(middle, INFINITY));
            if (at != (sign | even) || below != (sign | half) || above != (sign | (half + 1)))
                fail_msg("around %a: %04x %04x %04x", (double)middle, below, at, above);
        }
    }
}

static void floats_are_rounded_to_the_nearest_f16_halves_to_even(void **state)
{
    (void)state;
    check_rounding(tensor_f16_from_float, 10, 15, 0x7BFF);
    assert_int_equal(tensor_f16_from_float(65519.996f), 0x7BFF);
    assert_int_equal(tensor_f16_from_float(65520.0f), 0x7C00);
    assert_int_equal(tensor_f16_from_float(-1e30f), 0xFC00);
    assert_int_equal(tensor_f16_from_float(-INFINITY), 0xFC00);
    assert_int_equal(tensor_f16_from_float(1e-45f), 0);
    assert_int_equal(tensor_f16_from_float(-1e-30f), 0x8000);
}

static void floats_are_rounded_to_the_nearest_bf16_halves_to_even(void **state)
{
    (void)state;
    check_rounding(tensor_bf16_from_float, 7, 127, 0x7F7F);
    assert_int_equal(tensor_bf16_from_float(INFINITY), 0x7F80);
    assert_int_equal(tensor_bf16_from_float(-INFINITY), 0xFF80);
    assert_int_equal(tensor_bf16_from_float(3.4028235e38f), 0x7F80);
}

/* A NaN whose fraction lies in the bits that are cut off would become an infinity. */
static void a_nan_stays_a_nan(void **state)
{
    (void)state;
    static const uint32_t patterns[] = {0x7F800001, 0xFF800001, 0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF};
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        float value;
        memcpy(&value, &patterns[i], sizeof value);
        uint16_t f16 = tensor_f16_from_float(value), bf16 = tensor_bf16_from_float(value);
        assert_true(isnan(tensor_float_from_f16(f16)) && isnan(tensor_float_from_bf16(bf16)));
        assert_int_equal(f16 >> 15, patterns[i] >> 31);
        assert_int_equal(bf16 >> 15, patterns[i] >> 31);
    }
}

/* ---- tensors to numbers ------------------------------------------------------------------ */

static Tensor tensor_of(TensorType type, const void *data, size_t count)
{
    Tensor tensor;
    memset(&tensor, 0, sizeof tensor);
    tensor.name = "t";
    tensor.type = type;
    tensor.rank = 1;
    tensor.shape[0] = tensor.count = count;
    tensor.bytes = count * tensor_type_size(type);
    tensor.data = (const unsigned char *)data;
    return tensor;
}

/* Converts at every alignment, between guard values. */
static void check_converted(TensorType type, const void *data, const double *want, size_t count)
{
    unsigned char moved[256];
    float floats[34];
    double doubles[34];
    assert_true(count <= 32);
    for (size_t shift = 0; shift < 8; shift++) {
        for (size_t i = 0; i < 34; i++)
            doubles[i] = floats[i] = -777.0f;
        Tensor tensor = tensor_of(type, moved + shift, count);
        assert_true(shift + tensor.bytes <= sizeof moved);
        memcpy(moved + shift, data, tensor.bytes);
        tensor_to_double(doubles + 1, &tensor);
        tensor_to_float(floats + 1, &tensor);
        for (size_t i = 0; i < 34; i++) {
            double expected = i > 0 && i <= count ? want[i - 1] : -777.0;
            assert_true(isnan(expected) ? isnan(doubles[i]) : doubles[i] == expected);
            assert_true(isnan(expected) ? isnan(floats[i]) : floats[i] == (float)expected);
        }
    }
}

static void every_type_is_converted_to_float_and_double(void **state)
{
    (void)state;
    static const uint8_t b[] = {0, 1, 2, 255}, u8[] = {0, 1, 128, 255};
    static const int8_t i8[] = {0, -1, 127, -128};
    static const int16_t i16[] = {0, -1, 32767, -32768};
    static const int32_t i32[] = {0, -1, INT32_MAX, INT32_MIN};
    static const int64_t i64[] = {0, -1, INT64_MAX, INT64_MIN};
    static const uint16_t f16[] = {0x3C00, 0xC000, 0x0001, 0x7C00, 0x7E00};
    static const uint16_t bf16[] = {0x3F80, 0xC000, 0x0001, 0xFF80, 0x7FC0};
    static const float f32[] = {1.5f, -0.1f, 1e-45f, INFINITY, NAN};
    static const double f64[] = {1.5, -0.1, 1e-300, 1e300, NAN};
    static const double want_b[] = {0, 1, 1, 1}, want_u8[] = {0, 1, 128, 255};
    static const double want_i8[] = {0, -1, 127, -128}, want_i16[] = {0, -1, 32767, -32768};
    static const double want_i32[] = {0, -1, 2147483647.0, -2147483648.0};
    static const double want_i64[] = {0, -1, 9223372036854775808.0, -9223372036854775808.0};
    static const double want_f16[] = {1, -2, 0x1p-24, INFINITY, NAN};
    static const double want_bf16[] = {1, -2, 0x1p-133, -INFINITY, NAN};
    const double want_f32[] = {1.5, (double)-0.1f, 0x1p-149, INFINITY, NAN};
    check_converted(TENSOR_BOOL, b, want_b, 4);
    check_converted(TENSOR_U8, u8, want_u8, 4);
    check_converted(TENSOR_I8, i8, want_i8, 4);
    check_converted(TENSOR_I16, i16, want_i16, 4);
    check_converted(TENSOR_I32, i32, want_i32, 4);
    check_converted(TENSOR_I64, i64, want_i64, 4);
    check_converted(TENSOR_F16, f16, want_f16, 5);
    check_converted(TENSOR_BF16, bf16, want_bf16, 5);
    check_converted(TENSOR_F32, f32, want_f32, 5);
    check_converted(TENSOR_F64, f64, f64, 5);
}

static void types_have_the_names_and_sizes_of_the_format(void **state)
{
    (void)state;
    static const char *const names[] = {"BOOL", "U8",  "I8",  "I16", "F16",
                                        "BF16", "I32", "F32", "F64", "I64"};
    static const size_t sizes[] = {1, 1, 1, 2, 2, 2, 4, 4, 8, 8};
    for (int type = 0; type < TENSOR_ANY; type++) {
        assert_string_equal(tensor_type_name((TensorType)type), names[type]);
        assert_int_equal(tensor_type_size((TensorType)type), sizes[type]);
    }
}

/* ---- the writer -------------------------------------------------------------------------- */

static char *temporary(void **state, const char *name)
{
    size_t room = strlen((const char *)*state) + strlen(name) + 2;
    char *path = NEW(char, room);
    snprintf(path, room, "%s/%s", (const char *)*state, name);
    return path;
}

static void write_or_fail(SafetensorsWriter *writer, const char *path)
{
    Error error;
    if (!safetensors_write(writer, path, &error))
        fail_msg("%s", error.text);
    safetensors_writer_free(writer);
}

/* How many files the directory of the tests holds: a failed write leaves none behind. */
static size_t files_in(void **state)
{
    glob_t found;
    char *pattern = temporary(state, "*");
    size_t count = glob(pattern, 0, NULL, &found) == 0 ? found.gl_pathc : 0;
    globfree(&found);
    free(pattern);
    return count;
}

static void every_type_survives_a_round_trip(void **state)
{
    char *path = temporary(state, "types"), name[16];
    unsigned char bytes[48];
    static const size_t shape[3] = {3, 1, 2};
    SafetensorsWriter writer;
    Safetensors file;
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)(37 * i + 11);
    safetensors_writer_init(&writer);
    for (int type = 0; type < TENSOR_ANY; type++) {
        snprintf(name, sizeof name, "t.%d", type);
        safetensors_add(&writer, name, (TensorType)type, bytes, 3, shape);
    }
    write_or_fail(&writer, path);
    golden_open(&file, path);
    assert_int_equal(file.n_tensor, TENSOR_ANY);
    for (int type = 0; type < TENSOR_ANY; type++) {
        Error error;
        const Tensor *tensor = NULL;
        snprintf(name, sizeof name, "t.%d", type);
        assert_true(safetensors_expect(&tensor, &file, name, (TensorType)type, 3, shape, &error));
        assert_memory_equal(tensor->data, bytes, 6 * tensor_type_size((TensorType)type));
        assert_int_equal((uintptr_t)tensor->data % tensor_type_size((TensorType)type), 0);
    }
    safetensors_close(&file);
    unlink(path);
    free(path);
}

/* The bytes that the reference implementation (safetensors 0.8.0) writes for the same tensors. */
static void the_writer_writes_what_the_reference_writes(void **state)
{
    static const char want[] =
        "{\"__metadata__\":{\"k\\\"\\n\\u0002\":\"v\"},"
        "\"z\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]},"
        "\"a\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[8,16]},"
        "\"B\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[16,24]},"
        "\"b\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[24,24]},"
        "\"c\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[24,27]}}    ";
    static const unsigned char data[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    static const size_t shapes[][2] = {{1, 0}, {1, 2}, {0, 0}, {3, 0}};
    char *path = temporary(state, "order"), *text;
    size_t len;
    Error error;
    SafetensorsWriter writer;
    safetensors_writer_init(&writer);
    safetensors_add(&writer, "c", TENSOR_U8, data, 1, shapes[3]);
    safetensors_add(&writer, "b", TENSOR_F32, NULL, 1, shapes[2]);
    safetensors_add(&writer, "a", TENSOR_F64, data, 0, NULL);
    safetensors_add(&writer, "z", TENSOR_I64, data, 1, shapes[0]);
    safetensors_add(&writer, "B", TENSOR_F32, data, 2, shapes[1]);
    safetensors_add_metadata(&writer, "k\"\n\x02", "v");
    write_or_fail(&writer, path);
    assert_true(text_read(&text, &len, path, &error));
    uint64_t length;
    memcpy(&length, text, 8);
    assert_int_equal(length, strlen(want));
    assert_int_equal(length % 8, 0);
    assert_memory_equal(text + 8, want, length);
    assert_int_equal(len, 8 + length + 27);
    assert_memory_equal(text + 8 + length + 24, data, 3);
    free(text);
    unlink(path);
    free(path);
}

/* The writer's file is the same whatever the order of its calls. */
static void the_same_tensors_give_the_same_file(void **state)
{
    static const float data[2] = {1.0f, 2.0f};
    static const size_t shape[1] = {2};
    static const char *const names[2][3] = {{"a", "b", "c"}, {"c", "a", "b"}};
    char *text[2], *path = temporary(state, "same");
    size_t len[2];
    Error error;
    for (int i = 0; i < 2; i++) {
        SafetensorsWriter writer;
        safetensors_writer_init(&writer);
        for (int j = 0; j < 3; j++) {
            safetensors_add(&writer, names[i][j], TENSOR_F32, data, 1, shape);
            safetensors_add_metadata(&writer, names[i][j], "x");
        }
        write_or_fail(&writer, path);
        assert_true(text_read(&text[i], &len[i], path, &error));
    }
    assert_int_equal(len[0], len[1]);
    assert_memory_equal(text[0], text[1], len[0]);
    free(text[0]);
    free(text[1]);
    unlink(path);
    free(path);
}

static void refuse_to_write(void **state, SafetensorsWriter *writer, const char *part)
{
    char *path = temporary(state, "never");
    Error error;
    assert_false(safetensors_write(writer, path, &error));
    assert_contains(error.text, path);
    assert_contains(error.text, part);
    assert_int_equal(files_in(state), 0);
    safetensors_writer_free(writer);
    safetensors_writer_init(writer);
    free(path);
}

static void what_no_file_can_hold_is_not_written(void **state)
{
    static const size_t one[1] = {1}, huge[2] = {SIZE_MAX / 2, 4}, half[1] = {SIZE_MAX / 2};
    static const char data[1] = {0};
    SafetensorsWriter writer;
    safetensors_writer_init(&writer);
    safetensors_add(&writer, "a", TENSOR_U8, data, 1, one);
    safetensors_add(&writer, "b", TENSOR_U8, data, 1, one);
    safetensors_add(&writer, "a", TENSOR_BOOL, data, 1, one);
    refuse_to_write(state, &writer, "'a' is the name of two tensors");
    safetensors_add(&writer, "__metadata__", TENSOR_U8, data, 1, one);
    refuse_to_write(state, &writer, "'__metadata__' is no name for a tensor");
    safetensors_add(&writer, "a\xFFz", TENSOR_U8, data, 1, one);
    refuse_to_write(state, &writer, "is not valid UTF-8");
    safetensors_add_metadata(&writer, "k", "\xC3");
    refuse_to_write(state, &writer, "is not valid UTF-8");
    safetensors_add_metadata(&writer, "k", "1");
    safetensors_add_metadata(&writer, "k", "2");
    refuse_to_write(state, &writer, "'k' is a key of the metadata twice");
    safetensors_add(&writer, "big", TENSOR_U8, data, 2, huge);
    refuse_to_write(state, &writer, "'big' is more bytes than can be counted");
    safetensors_add(&writer, "x", TENSOR_U8, data, 1, half);
    safetensors_add(&writer, "y", TENSOR_U8, data, 1, half);
    safetensors_add(&writer, "z", TENSOR_U8, data, 1, half);
    refuse_to_write(state, &writer, "'z' goes beyond what can be counted");
}

static void a_header_over_the_limit_is_not_written(void **state)
{
    SafetensorsWriter writer;
    char *value = NEW(char, SAFETENSORS_MAX_HEADER + 1);
    memset(value, 'v', SAFETENSORS_MAX_HEADER);
    safetensors_writer_init(&writer);
    safetensors_add_metadata(&writer, "k", value);
    free(value);
    refuse_to_write(state, &writer, "over the limit of 100000000");
}

static void a_place_that_cannot_be_written_is_an_error(void **state)
{
    static const float data[4] = {1, 2, 3, 4};
    static const size_t shape[1] = {4};
    static const char *const places[] = {"/proc/self/no.safetensors", "/no/such/directory/file",
                                         "/", "/dev/full"};
    struct stat info;
    bool has_full = stat("/dev/full", &info) == 0 && S_ISCHR(info.st_mode);
    (void)state;
    for (size_t i = 0; i < (has_full ? 4 : 3); i++) {
        SafetensorsWriter writer;
        Error error;
        safetensors_writer_init(&writer);
        safetensors_add(&writer, "w", TENSOR_F32, data, 1, shape);
        assert_false(safetensors_write(&writer, places[i], &error));
        assert_contains(error.text, places[i]);
        assert_contains(error.text, "cannot be written");
        safetensors_writer_free(&writer);
    }
}

/* A disk that fills up in the middle, played by a limit on the size of files. */
static void an_existing_file_survives_a_failed_write(void **state)
{
    enum { LARGE = 100000 };
    static const unsigned char data[LARGE] = {1};
    static const size_t small_shape[1] = {3}, large_shape[1] = {LARGE};
    char *path = temporary(state, "kept");
    SafetensorsWriter writer;
    Safetensors file;
    Error error;
    struct rlimit old, tight;
    safetensors_writer_init(&writer);
    safetensors_add(&writer, "old", TENSOR_U8, data, 1, small_shape);
    write_or_fail(&writer, path);
    safetensors_add(&writer, "new", TENSOR_U8, data, 1, large_shape);
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    tight = old;
    tight.rlim_cur = LARGE / 2;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
    bool ok = safetensors_write(&writer, path, &error);
    setrlimit(RLIMIT_FSIZE, &old);
    signal(SIGXFSZ, handler);
    assert_false(ok);
    assert_contains(error.text, "cannot be written: File too large");
    assert_int_equal(files_in(state), 1);
    golden_open(&file, path);
    assert_int_equal(file.n_tensor, 1);
    assert_string_equal(file.tensor[0].name, "old");
    safetensors_close(&file);
    write_or_fail(&writer, path); /* with room again the same writer can */
    golden_open(&file, path);
    assert_string_equal(file.tensor[0].name, "new");
    safetensors_close(&file);
    unlink(path);
    free(path);
}

/* ---- golden files and corpus ------------------------------------------------------------- */

static void rewrite_file(const char *from, const char *to)
{
    Safetensors file, again;
    SafetensorsWriter writer;
    golden_open(&file, from);
    assert_true(file.n_tensor > 0);
    fuzz_accepted(&file);
    safetensors_writer_init(&writer);
    for (size_t i = 0; i < file.n_tensor; i++) {
        const Tensor *tensor = &file.tensor[i];
        safetensors_add(&writer, tensor->name, tensor->type, tensor->data, tensor->rank,
                        tensor->shape);
    }
    for (size_t i = 0; i < file.n_note; i++)
        safetensors_add_metadata(&writer, file.note[i].key, file.note[i].value);
    write_or_fail(&writer, to);
    golden_open(&again, to);
    fuzz_same(&file, &again);
    safetensors_close(&again);
    safetensors_close(&file);
}

static void every_golden_file_is_the_same_when_written_again(void **state)
{
    static const char *const patterns[] = {"*.safetensors", "*/*.safetensors"};
    char *to = temporary(state, "golden");
    for (size_t p = 0; p < 2; p++) {
        glob_t found;
        golden_list(&found, patterns[p]);
        for (size_t i = 0; i < found.gl_pathc; i++)
            rewrite_file(found.gl_pathv[i], to);
        globfree(&found);
    }
    unlink(to);
    free(to);
}

static void the_corpus_is_judged_as_its_names_say(void **state)
{
    (void)state;
    glob_t found;
    assert_int_equal(glob("tests/fuzz/corpus/safetensors/*", 0, NULL, &found), 0);
    assert_true(found.gl_pathc >= 20);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        const char *name = strrchr(found.gl_pathv[i], '/') + 1;
        Safetensors file;
        Error error;
        bool ok = safetensors_open(&file, found.gl_pathv[i], &error);
        if (ok != (strncmp(name, "valid_", 6) == 0))
            fail_msg("%s: %s", name, ok ? "accepted" : error.text);
        if (ok)
            safetensors_close(&file);
    }
    globfree(&found);
}

/* One random change: a byte, a bit, a cut, a doubled or a dropped piece, another number. */
static size_t mutate(unsigned char *bytes, size_t len, size_t room, Random *random)
{
    static const char *const pieces[] = {
        "\"",      "{",       "}",    "[",    "]",  ",",
        ":",       "-1",      "1e9",  "0",    "\\", "18446744073709551615",
        "\\u0000", "\\ud800", "null", "\xC3", " ",  "99999999999999999999",
        "[[[[",    "F64"};
    size_t at = random_u32(random) % len, left = len - at;
    size_t size = 1 + random_u32(random) % 16;
    const char *piece = pieces[random_u32(random) % (sizeof pieces / sizeof *pieces)];
    switch (random_u32(random) % 6) {
    case 0: bytes[at] = (unsigned char)random_u32(random); return len;
    case 1: bytes[at] ^= (unsigned char)(1u << random_u32(random) % 8); return len;
    case 2: /* written over */
        memcpy(bytes + at, piece, strlen(piece) < left ? strlen(piece) : left);
        return len;
    case 3: /* cut off */ return at ? at : 1;
    case 4: /* dropped */
        size = size < left ? size : left;
        memmove(bytes + at, bytes + at + size, left - size);
        return len > size ? len - size : 1;
    default: /* doubled */
        size = size < left ? size : left;
        if (len + size > room)
            return len;
        memmove(bytes + at + size, bytes + at, left);
        return len + size;
    }
}

/* The length at the head is mended half of the time, or hardly any mutant would get past it. */
static void play_mutant(const char *text, size_t len, Random *random)
{
    unsigned char bytes[4096];
    uint64_t header;
    assert_true(len >= 1 && len <= 2048);
    memcpy(bytes, text, len);
    for (uint32_t changes = 1 + random_u32(random) % 3; changes > 0; changes--)
        len = mutate(bytes, len, sizeof bytes, random);
    size_t end = len;
    while (end > 0 && bytes[end - 1] != '}')
        end--;
    if (random_u32(random) % 2 && end > 8) {
        header = end - 8;
        memcpy(bytes, &header, 8);
    }
    EdgeBytes edge = edge_copy(bytes, len);
    LLVMFuzzerTestOneInput(edge.bytes, edge.len);
    edge_free(&edge);
}

static void no_mutant_of_the_corpus_breaks_the_reader(void **state)
{
    (void)state;
    enum { MUTANTS_OF_ONE = 200 };
    Random random = random_from_seed(5);
    glob_t found;
    assert_int_equal(glob("tests/fuzz/corpus/safetensors/*", 0, NULL, &found), 0);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        char *text;
        size_t len;
        Error error;
        assert_true(text_read(&text, &len, found.gl_pathv[i], &error));
        EdgeBytes edge = edge_copy(text, len);
        LLVMFuzzerTestOneInput(edge.bytes, edge.len);
        edge_free(&edge);
        for (int mutant = 0; mutant < MUTANTS_OF_ONE; mutant++)
            play_mutant(text, len, &random);
        free(text);
    }
    globfree(&found);
}

/* ---- what the program prints ------------------------------------------------------------- */

static void a_list_shows_every_tensor(void **state)
{
    (void)state;
    EdgeBytes edge =
        file_of("{\"__metadata__\":{\"by\":\"us\\u001b\"},\"w\":{\"dtype\":\"I16\",\"shape\":"
                "[2,1],\"data_offsets\":[1,5]}," U8_ENTRY("abc", 0, 1, 1) "}",
                5);
    char *text;
    size_t len;
    Safetensors file;
    must_accept(&file, &edge);
    FILE *out = open_memstream(&text, &len);
    safetensors_print_list(out, &file);
    fclose(out);
    assert_string_equal(text, "by = us?\n"
                              "abc  U8    [1]                       1 bytes\n"
                              "w    I16   [2,1]                     4 bytes\n"
                              "2 tensors, 3 numbers, 5 bytes of data\n");
    free(text);
    safetensors_close(&file);
    edge_free(&edge);
}

static void check_printed(TensorType type, const void *data, size_t count, size_t numbers,
                          const char *want)
{
    char *text;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    Tensor tensor = tensor_of(type, data, count);
    safetensors_print_tensor(out, &tensor, numbers);
    fclose(out);
    assert_string_equal(text, want);
    free(text);
}

static void a_tensor_is_shown_with_its_statistics(void **state)
{
    (void)state;
    static const double plain[] = {2, 4, 4, 4, 5, 5, 7, 9}; /* mean 5, standard deviation 2 */
    static const float wild[] = {-NAN, 1.0f, INFINITY, 3.0f};
    static const float lost[] = {NAN};
    check_printed(TENSOR_F64, plain, 8, 3,
                  "t  F64 [8]  8 numbers, 64 bytes\n"
                  "least 2, most 9, mean 5, standard deviation 2\n2 4 4 ...\n");
    check_printed(TENSOR_F64, plain, 1, 8,
                  "t  F64 [1]  1 number, 8 bytes\n"
                  "least 2, most 2, mean 2, standard deviation 0\n2\n");
    check_printed(TENSOR_F32, wild, 4, 4,
                  "t  F32 [4]  4 numbers, 16 bytes\n"
                  "least 1, most 3, mean 2, standard deviation 1\nNaN or infinite: 2\n"
                  "nan 1 inf 3\n");
    check_printed(TENSOR_F32, lost, 1, 0, "t  F32 [1]  1 number, 4 bytes\nNaN or infinite: 1\n");
    check_printed(TENSOR_F32, lost, 0, 8, "t  F32 [0]  0 numbers, 0 bytes\n");
}

/* More numbers than the statistics take at a time. */
static void statistics_are_over_all_of_a_large_tensor(void **state)
{
    (void)state;
    enum { MANY = 10001 };
    int32_t *numbers = NEW(int32_t, MANY);
    for (int i = 0; i < MANY; i++)
        numbers[i] = i;
    check_printed(TENSOR_I32, numbers, MANY, 2,
                  "t  I32 [10001]  10001 numbers, 40004 bytes\n"
                  "least 0, most 10000, mean 5000, standard deviation 2887.04\n0 1 ...\n");
    free(numbers);
}

static void the_demo_reads_back_what_it_wrote(void **state)
{
    (void)state;
    char *text;
    size_t len;
    Error error;
    FILE *out = open_memstream(&text, &len);
    assert_true(safetensors_demo(out, &error));
    fclose(out);
    assert_contains(text, "    96  9a 99 99 99 99 99 e9 3f 9a 99 99 99 99 99 c9 3f");
    assert_contains(text, "P  F64 [2,2]  4 numbers, 32 bytes\n");
    assert_contains(text, "\n0.8 0.2 0.4 0.6\n");
    free(text);
}

/* ---- the tests' own tools ---------------------------------------------------------------- */

static void a_nan_is_near_nothing(void **state)
{
    (void)state;
    assert_false(check_is_near(NAN, 1.0, 1e9, 1e9));
    assert_false(check_is_near(1.0, NAN, 1e9, 1e9));
    assert_false(check_is_near(NAN, NAN, 1e9, 1e9));
    assert_false(check_is_near(1.0, 1.0, NAN, 0.0));
    assert_false(check_is_near(INFINITY, 1.0, 1e9, 1e9));
    assert_false(check_is_near(1.0, INFINITY, 0.0, 1e-6));
    assert_false(check_is_near(-INFINITY, INFINITY, 0.0, 1e-6));
    assert_true(check_is_near(1.0 + 1e-7, 1.0, 0.0, 1e-6));
    assert_false(check_is_near(1.0 + 1e-5, 1.0, 0.0, 1e-6));
    assert_true(check_is_near(1e-7, 0.0, 1e-6, 0.0));
    assert_false(check_is_near(1e-5, 0.0, 1e-6, 1e-6));
}

static double relmax_of(const double *got, const double *want, size_t count, size_t *at)
{
    return check_relmax_of(at, CHECK_ARRAY(got), CHECK_ARRAY(want), count);
}

static void relmax_is_the_measure_of_the_index(void **state)
{
    (void)state;
    static const double want[3] = {1.0, -4.0, 2.0}, zero[3] = {0.0, -0.0, 0.0};
    static const double got[3] = {1.0, -4.5, 2.25}, tiny[3] = {0.0, 1e-30, -1e-31};
    static const double first[3] = {NAN, 0.0, 0.0}, last[3] = {0.0, 0.0, NAN};
    static const double much[3] = {0.0, INFINITY, 0.0};
    size_t at;
    assert_true(relmax_of(got, want, 3, &at) == 0.125 && at == 1);
    assert_true(relmax_of(want, want, 3, &at) == 0.0);
    assert_true(relmax_of(tiny, zero, 3, &at) == 0.0);
    assert_true(isinf(relmax_of(got, zero, 3, &at)));
    assert_true(isnan(relmax_of(first, want, 3, &at)) && at == 0);
    assert_true(isnan(relmax_of(last, want, 3, &at)) && at == 2);
    assert_true(isnan(relmax_of(want, first, 3, &at)));
    assert_true(isinf(relmax_of(much, want, 3, &at)));
    assert_false(relmax_of(want, much, 3, &at) <= 1.0);
    assert_true(isnan(relmax_of(first, zero, 3, &at)));
}

static void floats_and_doubles_are_compared_with_each_other(void **state)
{
    (void)state;
    static const float floats[3] = {0.1f, -2.0f, 3.0f};
    static const double doubles[3] = {0.1, -2.0, 3.0};
    assert_all_near(floats, doubles, 3, 0.0, 1e-7);
    assert_relmax(floats, doubles, 3, 1e-8);
    assert_near(floats[0], doubles[0], 2e-9, 0.0);
}

static void golden_tensors_come_with_their_shape(void **state)
{
    (void)state;
    glob_t found;
    Safetensors file;
    golden_list(&found, "ch01_*.safetensors");
    for (size_t i = 0; i < found.gl_pathc; i++) {
        const Tensor *shape;
        golden_open(&file, found.gl_pathv[i]);
        double *P = golden_doubles(&shape, &file, "P");
        float *again = golden_floats(NULL, &file, "P");
        size_t n = golden_size(&file, "pi0", 0);
        assert_int_equal(shape->rank, 2);
        assert_int_equal(shape->count, n * n);
        assert_all_near(again, P, n * n, 0.0, 6e-8); /* half a last place of float */
        for (size_t row = 0; row < n; row++) {
            double sum = 0.0;
            for (size_t col = 0; col < n; col++)
                sum += P[row * n + col];
            assert_near(sum, 1.0, 1e-15 * (double)n, 0.0);
        }
        assert_false(golden_has(&file, "no such tensor"));
        free(P);
        free(again);
        safetensors_close(&file);
    }
    globfree(&found);
}

/* What a test that fails says of numbers from a file, whatever part of them it compares; of numbers
   that are from none it says the index. */
static void numbers_of_a_file_have_names(void **state)
{
    (void)state;
    char place[512], want[512];
    Safetensors file;
    char *path = golden_path("ch01_weather.safetensors");
    golden_open(&file, path);
    double *pi = golden_doubles(NULL, &file, "pi"), other[2] = {1, 2};
    size_t days = golden_size(&file, "pi", 0), n = golden_size(&file, "pi", 1);
    assert_true(days >= 3 && n >= 2);
    snprintf(want, sizeof want, "pi[2][1] of (%zu, %zu) in ch01_weather.safetensors", days, n);
    check_name_place(place, sizeof place, CHECK_ARRAY(pi), days * n, 2 * n + 1);
    assert_string_equal(place, want);
    check_name_place(place, sizeof place, CHECK_ARRAY(pi + n), 2 * n, n + 1);
    assert_string_equal(place, want);
    check_name_place(place, sizeof place, CHECK_ARRAY(other), 2, 1);
    assert_string_equal(place, "index 1 of 2");
    pi[0] += 1; /* it is another array now, perhaps of another test */
    check_name_place(place, sizeof place, CHECK_ARRAY(pi), days * n, 1);
    assert_true(strncmp(place, "index 1 of ", 11) == 0);
    double *last = golden_doubles(NULL, &file, "stationary");
    check_name_place(place, sizeof place, CHECK_ARRAY(last), n, 1);
    assert_contains(place, "stationary[1] of (");
    free(pi), free(last), free(path);
    safetensors_close(&file);
}

/* ---- all of them ------------------------------------------------------------------------- */

static int make_directory(void **state)
{
    char *dir = strdup("/tmp/test_safetensors_XXXXXX");
    *state = dir && mkdtemp(dir) ? dir : NULL;
    return *state ? 0 : -1;
}

static int remove_directory(void **state)
{
    int result = rmdir((const char *)*state); /* fails if a test has left something there */
    free(*state);
    return result;
}

static void the_program_tells_what_is_wrong(void **state)
{
    (void)state;
    static const struct {
        const char *words, *sentence;
        int code;
    } cases[] = {
        {"a b c", "usage: ch05_safetensors", 2},
        {"a b c", "error: 'c' is one argument too many", 2},
        {"--tensor", "error: '--tensor' is not an option", 2},
        {"a b --numbers 1000001", "error: --numbers: 1000001 is out of range: 0 to 1000000", 2},
        {"a b -n x", "error: -n: 'x' is not a whole number", 2},
        {"a --numbers 3", "error: --numbers needs NAME", 2},
        {"-n 3", "error: -n needs NAME", 2},
        {"no.st", "error: no.st: No such file or directory", 1},
        {"tests", "error: tests: this is a directory, not a file", 1},
        {"tests/golden/INDEX.md", "INDEX.md: this is a text, '# Golden data", 1},
        {"tests/fuzz/corpus/safetensors/bad_overlap", "error: ", 1},
        {"tests/fuzz/corpus/safetensors/valid_f32 nothing", "there is no tensor 'nothing'", 1},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
        assert_command_says("ch05_safetensors", cases[k].words, cases[k].sentence, cases[k].code);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_file_is_refused),
        cmocka_unit_test(a_file_shorter_than_the_length_is_refused),
        cmocka_unit_test(a_header_of_no_bytes_is_refused),
        cmocka_unit_test(a_header_longer_than_the_file_is_refused),
        cmocka_unit_test(a_header_over_the_limit_is_refused),
        cmocka_unit_test(what_is_no_safetensors_is_named),
        cmocka_unit_test(a_header_must_begin_with_a_brace),
        cmocka_unit_test(only_spaces_may_follow_the_header),
        cmocka_unit_test(a_file_cut_off_anywhere_is_refused),
        cmocka_unit_test(what_is_no_regular_file_is_refused),
        cmocka_unit_test(a_missing_or_empty_file_is_refused_by_name),
        cmocka_unit_test(a_file_overwritten_while_it_is_open_is_noticed),
        cmocka_unit_test(an_unknown_dtype_is_refused),
        cmocka_unit_test(other_dtypes_are_listed_and_not_read),
        cmocka_unit_test(a_missing_key_is_refused),
        cmocka_unit_test(a_key_given_twice_is_refused),
        cmocka_unit_test(an_unknown_key_is_refused),
        cmocka_unit_test(sizes_must_be_whole_numbers_in_range),
        cmocka_unit_test(a_shape_must_be_an_array_of_eight_at_most),
        cmocka_unit_test(a_shape_too_large_to_count_is_refused),
        cmocka_unit_test(data_offsets_must_be_two),
        cmocka_unit_test(data_offsets_must_lie_in_order_and_inside_the_data),
        cmocka_unit_test(data_offsets_must_fit_type_and_shape),
        cmocka_unit_test(overlapping_tensors_are_refused),
        cmocka_unit_test(bytes_of_no_tensor_are_refused),
        cmocka_unit_test(two_tensors_of_one_name_are_refused),
        cmocka_unit_test(a_name_with_a_zero_byte_is_refused),
        cmocka_unit_test(metadata_is_strings_and_nothing_else),
        cmocka_unit_test(metadata_is_found_by_key),
        cmocka_unit_test(scalars_and_empty_tensors_are_tensors),
        cmocka_unit_test(thousands_of_tensors_are_found_by_name),
        cmocka_unit_test(an_expected_tensor_must_have_name_type_and_shape),
        cmocka_unit_test(control_characters_do_not_reach_the_terminal),
        cmocka_unit_test(long_names_and_paths_leave_room_for_the_sentence),
        cmocka_unit_test(malformed_json_is_refused_with_its_byte),
        cmocka_unit_test(an_error_after_a_tensor_is_not_blamed_on_it),
        cmocka_unit_test(every_kind_of_value_can_be_skipped),
        cmocka_unit_test(escapes_become_utf8),
        cmocka_unit_test(control_bytes_must_be_escaped),
        cmocka_unit_test(broken_escapes_are_refused),
        cmocka_unit_test(only_valid_utf8_is_accepted),
        cmocka_unit_test(nesting_is_limited),
        cmocka_unit_test(siblings_do_not_count_as_depth),
        cmocka_unit_test(whole_numbers_are_read_up_to_a_limit),
        cmocka_unit_test(numbers_are_read_as_strtod_reads_them),
        cmocka_unit_test(a_number_ends_where_its_text_ends),
        cmocka_unit_test(a_failed_reader_stays_failed),
        cmocka_unit_test(a_value_of_another_type_is_refused),
        cmocka_unit_test(a_written_string_is_read_back),
        cmocka_unit_test(the_golden_json_files_are_read),
        cmocka_unit_test(every_f16_is_worth_what_the_standard_says),
        cmocka_unit_test(every_bf16_is_worth_what_the_standard_says),
        cmocka_unit_test(every_half_comes_back_from_float),
        cmocka_unit_test(floats_are_rounded_to_the_nearest_f16_halves_to_even),
        cmocka_unit_test(floats_are_rounded_to_the_nearest_bf16_halves_to_even),
        cmocka_unit_test(a_nan_stays_a_nan),
        cmocka_unit_test(every_type_is_converted_to_float_and_double),
        cmocka_unit_test(types_have_the_names_and_sizes_of_the_format),
        cmocka_unit_test(every_type_survives_a_round_trip),
        cmocka_unit_test(the_writer_writes_what_the_reference_writes),
        cmocka_unit_test(the_same_tensors_give_the_same_file),
        cmocka_unit_test(what_no_file_can_hold_is_not_written),
        cmocka_unit_test(a_header_over_the_limit_is_not_written),
        cmocka_unit_test(a_place_that_cannot_be_written_is_an_error),
        cmocka_unit_test(an_existing_file_survives_a_failed_write),
        cmocka_unit_test(every_golden_file_is_the_same_when_written_again),
        cmocka_unit_test(the_corpus_is_judged_as_its_names_say),
        cmocka_unit_test(no_mutant_of_the_corpus_breaks_the_reader),
        cmocka_unit_test(a_list_shows_every_tensor),
        cmocka_unit_test(a_tensor_is_shown_with_its_statistics),
        cmocka_unit_test(statistics_are_over_all_of_a_large_tensor),
        cmocka_unit_test(the_demo_reads_back_what_it_wrote),
        cmocka_unit_test(the_program_tells_what_is_wrong),
        cmocka_unit_test(a_nan_is_near_nothing),
        cmocka_unit_test(relmax_is_the_measure_of_the_index),
        cmocka_unit_test(floats_and_doubles_are_compared_with_each_other),
        cmocka_unit_test(golden_tensors_come_with_their_shape),
        cmocka_unit_test(numbers_of_a_file_have_names),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
