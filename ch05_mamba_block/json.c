/* JSON: the texts in which models are described, read one value at a time, and written.

   HOLDS   what a stranger's name may look like in a message; a stranger's file, read if it is one;
           a reader of JSON text and a writer of its strings
   FOR     safetensors.c (the header), the block's config.json, tokenizer.json and vocab.json
   RULES   RFC 8259 to the letter, and UTF-8 as RFC 3629 has it. The text is a stranger: nothing is
           read beyond its end, nothing nests deeper than JSON_MAX_DEPTH, and the first thing that
           does not hold is told in one sentence with file, byte and value. */

#ifndef CH05_JSON
#define CH05_JSON

#include "../ch01_markov/text_width.h" /* UTF-8 */
#include <fcntl.h>

enum {
    JSON_MAX_DEPTH = 64, /* objects and arrays inside each other */
    NAME_SHOWN = 60      /* bytes of a name that a message shows */
};

/* ==================================== Names in messages ====================================== */
/* A name from a stranger's file may be a megabyte long or hold the codes that clear a screen.   */

typedef struct {
    char text[NAME_SHOWN + 4];
} ShownName;

/* Control characters become '?': C0, DEL, and C1, which UTF-8 writes as C2 80 to C2 9F. */
static char *shown_clean(char *text)
{
    for (char *at = text; *at; at++) {
        unsigned char byte = (unsigned char)at[0], next = (unsigned char)at[1];
        if (byte < 0x20 || byte == 0x7F)
            at[0] = '?';
        else if (byte == 0xC2 && next >= 0x80 && next < 0xA0)
            at[0] = at[1] = '?';
    }
    return text;
}

static bool shown_inside(const char *at) /* a character: not at its first byte */
{
    return ((unsigned char)*at & 0xC0) == 0x80;
}

/* Fits `name` into a message: clean, and cut after a whole character if it is long. */
ShownName shown_name(const char *name)
{
    ShownName shown;
    size_t len = strnlen(name, NAME_SHOWN + 1);
    bool cut = len > NAME_SHOWN;
    while (cut && len > 0 && (len > NAME_SHOWN || shown_inside(name + len)))
        len--;
    memcpy(shown.text, name, len);
    strcpy(shown.text + len, cut ? "..." : "");
    shown_clean(shown.text);
    return shown;
}

/* The end of a path, which says more than its beginning, so that the sentence after it has room. */
static const char *shown_path(const char *path)
{
    enum { MOST = 80 };
    size_t len = strlen(path);
    const char *tail = len > MOST ? path + len - MOST : path;
    while (shown_inside(tail))
        tail++;
    return tail;
}

/* ===================================== A stranger's file ====================================== */

/* Opens a regular file and nothing else: a pipe or a device may have no end, and keep who reads it
   waiting for ever. O_NONBLOCK, or a pipe would wait for its writer before it can be refused. */
static bool regular_open(int *descriptor, size_t *len, const char *path, Error *error)
{
    struct stat info;
    if (strcmp(path, "-") == 0)
        return fail(error, "-: standard input is not read here: give the name of a file");
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    path = shown_path(path);
    if (file < 0)
        return fail(error, "%s: %s", path, strerror(errno));
    bool ok = fstat(file, &info) == 0 || fail(error, "%s: %s", path, strerror(errno));
    if (ok && S_ISDIR(info.st_mode))
        ok = fail(error, "%s: this is a directory, not a file", path);
    else if (ok && !S_ISREG(info.st_mode))
        ok = fail(error, "%s: this is not a regular file", path);
    else if (ok && (uint64_t)info.st_size > SIZE_MAX)
        ok = fail(error, "%s: too large for the addresses of this machine", path);
    if (ok) {
        *descriptor = file;
        *len = (size_t)info.st_size;
    } else
        close(file);
    return ok;
}

/* What is often found where the file of a model should be, by its first bytes. */
static const struct {
    const char *first, *what;
} stranger[] = {
    {"version https://git-lfs",
     "a pointer of Git LFS, not the file itself: git lfs pull fetches it"},
    {"<!doctype",
     "a web page: the link that gives the file itself has /resolve/ in it, not /blob/"},
    {"<html", "a web page: the link that gives the file itself has /resolve/ in it, not /blob/"},
    {"<?xml", "what a server says instead of the file: fetch it again"},
    {"PK\3\4", "a zip archive, as torch.save writes: torch and safetensors.torch convert it"},
    {"\x80\2", "a pickle of Python, as torch.save wrote: torch and safetensors.torch convert it"},
    {"\x80\3", "a pickle of Python: torch and safetensors.torch convert it"},
    {"\x80\4", "a pickle of Python: torch and safetensors.torch convert it"},
    {"GGUF", "a GGUF, llama.cpp's format: the model's folder with model.safetensors is wanted"},
    {"\x89HDF", "an HDF5 file, as Keras writes: the model's model.safetensors is wanted"},
    {"\x1f\x8b", "packed by gzip: unpack it first"},
    {"\xFF\xFE", "UTF-16, and UTF-8 is wanted: save it as UTF-8"},
    {"\xFE\xFF", "UTF-16, and UTF-8 is wanted: save it as UTF-8"},
    {"\xEF\xBB\xBF", "a text with a byte order mark, which is not wanted: save it without"}};

/* Says what a file is if it is one of those. Pages may have blanks before them, or a mark. */
static bool file_is_no_stranger(const char *bytes, size_t len, const char *path, Error *error)
{
    size_t page = len > 3 && memcmp(bytes, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
    while (page < len && isspace((unsigned char)bytes[page]))
        page++;
    for (size_t i = 0; i < sizeof stranger / sizeof *stranger; i++) {
        const char *first = stranger[i].first;
        size_t count = strlen(first), from = *first == '<' ? page : 0;
        if (len - from >= count && strncasecmp(bytes + from, first, count) == 0)
            return fail(error, "%s: this is %s", path, stranger[i].what);
    }
    return true;
}

/* The whole text of a regular file, with a 0 byte after it; free it when done. What cannot be JSON
   is named. */
bool json_file_read(char **text, size_t *len, const char *path, Error *error)
{
    int descriptor = -1;
    size_t size;
    char *got = NULL;
    if (!regular_open(&descriptor, &size, path, error))
        return false;
    FILE *in = fdopen(descriptor, "rb");
    bool ok = in != NULL ? stream_read(&got, &size, in, shown_path(path), error)
                         : fail(error, "%s: %s", shown_path(path), strerror(errno));
    if (in != NULL)
        fclose(in);
    else
        close(descriptor);
    if (!ok || !file_is_no_stranger(got, size, shown_path(path), error)) {
        free(got);
        return false;
    }
    *text = got;
    *len = size;
    return true;
}

/* ========================================== JSON ============================================= */
/* One function for each kind of value, each of which reads exactly that or fails (RFC 8259).    */

typedef enum {
    JSON_NOTHING, /* the end of the text, or what begins no value */
    JSON_NULL,
    JSON_BOOLEAN,
    JSON_NUMBER,
    JSON_STRING,
    JSON_ARRAY,
    JSON_OBJECT
} JsonType;

/* A string of the text with its escapes resolved: UTF-8, with a 0 byte after it. It lives until
   json_close. It may hold 0 bytes itself (\u0000), so `len` is its length. */
typedef struct {
    const char *bytes;
    size_t len;
} JsonText;

/* A reader walks over the text once and hands out one value at a time, as its caller asks:

       json_open(&json, text, len, "config.json", &error);
       json_enter_object(&json);
       for (JsonText key; json_next_key(&json, &key);) {
           if (json_is(key, "vocab_size"))
               json_integer(&json, &vocab, 1000000);
           else
               json_skip(&json);
       }
       bool ok = json_end(&json);
       json_close(&json);

   The first failure stays: it fills *error, and from there on every call does nothing and returns
   false, so loops end and one look at the end is enough. Outputs of failed calls are untouched.
   Each key or item must be read (or skipped) before the next one is asked for. */
typedef struct {
    const char *text;    /* (len) borrowed; needs no 0 byte at its end */
    size_t len;          /* bytes */
    size_t at;           /* the next byte to read */
    size_t mark;         /* where the last thing read began: messages point there */
    size_t origin;       /* what to add to `mark` to count from the start of the file */
    size_t depth;        /* objects and arrays that are open */
    bool first;          /* the object or array just opened has given nothing yet */
    bool failed;         /* *error is filled */
    bool python;         /* Infinity and NaN are numbers: Python writes them, JSON has them not */
    const char *path;    /* named in messages */
    const char *subject; /* "tensor 'P'": named too; NULL for nothing */
    char *strings;       /* (len + 1) the strings read so far, one after the other */
    size_t used;         /* bytes of `strings` */
    Error *error;
} Json;

void json_open(Json *json, const char *text, size_t len, const char *path, Error *error)
{
    memset(json, 0, sizeof *json);
    json->text = text;
    json->len = len;
    json->path = path;
    json->error = error;
    json->strings = NEW(char, len + 1); /* no string is longer resolved than written */
}

void json_close(Json *json)
{
    free(json->strings);
    json->strings = NULL;
}

/* Fails at json->mark, unless something has failed before. */
__attribute__((format(printf, 2, 3))) bool json_fail(Json *json, const char *format, ...)
{
    if (json->failed)
        return false;
    json->failed = true;
    char what[sizeof json->error->text];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    return fail(json->error, "%s: %s%s%s (at byte %zu)", shown_path(json->path),
                json->subject ? json->subject : "", json->subject ? ": " : "", what,
                json->origin + json->mark);
}

bool json_is(JsonText text, const char *word)
{
    return text.bytes && text.len == strlen(word) && memcmp(text.bytes, word, text.len) == 0;
}

/* The byte at a place, or -1 after the end. The text is looked at in no other way. */
static int json_byte(const Json *json, size_t at)
{
    return at < json->len ? (unsigned char)json->text[at] : -1;
}

static bool json_digit(const Json *json, size_t at)
{
    int byte = json_byte(json, at);
    return byte >= '0' && byte <= '9';
}

/* Steps over blanks to the next thing, marks it, and returns its first byte. */
static int json_ahead(Json *json)
{
    int byte = json_byte(json, json->at);
    while (byte == ' ' || byte == '\t' || byte == '\n' || byte == '\r')
        byte = json_byte(json, ++json->at);
    json->mark = json->at;
    return byte;
}

/* What comes next; reads nothing. */
JsonType json_peek(Json *json)
{
    if (json->failed)
        return JSON_NOTHING;
    switch (json_ahead(json)) {
    case '{': return JSON_OBJECT;
    case '[': return JSON_ARRAY;
    case '"': return JSON_STRING;
    case 't':
    case 'f': return JSON_BOOLEAN;
    case 'n': return JSON_NULL;
    case '-': return JSON_NUMBER;
    case 'I':
    case 'N': return json->python ? JSON_NUMBER : JSON_NOTHING;
    default: return json_digit(json, json->at) ? JSON_NUMBER : JSON_NOTHING;
    }
}

static const char *json_type_name(JsonType type)
{
    static const char *const names[] = {"nothing",  "null",     "true or false", "a number",
                                        "a string", "an array", "an object"};
    return names[type];
}

/* Fails with what should have come next and what does. */
static bool json_expected(Json *json, const char *what)
{
    JsonType found = json_peek(json);
    int byte = json_byte(json, json->at);
    if (found != JSON_NOTHING)
        return json_fail(json, "expected %s, found %s", what, json_type_name(found));
    if (byte < 0)
        return json_fail(json, "expected %s, found the end", what);
    if (byte > ' ' && byte < 0x7F)
        return json_fail(json, "expected %s, found '%c'", what, byte);
    return json_fail(json, "expected %s, found the byte 0x%02x", what, (unsigned)byte);
}

/* ---- strings ----------------------------------------------------------------------------- */

/* The four hexadecimal digits after a \u at `at`; false if they are none. */
static bool json_hex4(uint32_t *code, const Json *json, size_t at)
{
    *code = 0;
    if (json_byte(json, at) != '\\' || json_byte(json, at + 1) != 'u')
        return false;
    for (size_t i = at + 2; i < at + 6; i++) {
        int byte = json_byte(json, i);
        if (byte < 0 || !isxdigit(byte))
            return false;
        *code = *code << 4 | (uint32_t)(byte <= '9' ? byte - '0' : (byte | 0x20) - 'a' + 10);
    }
    return true;
}

/* \uXXXX. A character above FFFF is written as two of them, a high and a low surrogate, which
   carry ten bits each; neither means anything alone. */
static bool json_unicode_escape(Json *json)
{
    uint32_t code, low;
    if (!json_hex4(&code, json, json->at))
        return json_fail(json, "\\u without four hexadecimal digits in a string");
    json->at += 6;
    if (code >= 0xD800 && code < 0xE000) {
        bool pair =
            code < 0xDC00 && json_hex4(&low, json, json->at) && low >= 0xDC00 && low < 0xE000;
        if (!pair)
            return json_fail(json, "\\u%04x is half a surrogate pair", (unsigned)code);
        json->at += 6;
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    json->used += utf8_put((unsigned char *)json->strings + json->used, code);
    return true;
}

static bool json_escape(Json *json)
{
    static const char written[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    int byte = json_byte(json, json->at + 1);
    if (byte == 'u')
        return json_unicode_escape(json);
    const char *found = byte > 0 ? strchr(written, byte) : NULL;
    if (!found)
        return json_fail(json, "a backslash that escapes nothing in a string");
    json->strings[json->used++] = meant[found - written];
    json->at += 2;
    return true;
}

/* One character of a string, as it stands or escaped, onto the strings. */
static bool json_character(Json *json)
{
    int byte = json_byte(json, json->at);
    if (byte == '\\')
        return json_escape(json);
    if (byte < 0x20)
        return json_fail(json, "the control byte 0x%02x in a string", (unsigned)byte);
    uint32_t code;
    size_t len = utf8_next(&code, json->text + json->at, json->len - json->at);
    if (len == 0)
        return json_fail(json, "a string is not valid UTF-8");
    memcpy(json->strings + json->used, json->text + json->at, len);
    json->used += len;
    json->at += len;
    return true;
}

bool json_string(Json *json, JsonText *value)
{
    if (json_peek(json) != JSON_STRING)
        return json_expected(json, json_type_name(JSON_STRING));
    size_t start = json->used, quote = json->at++;
    while (json_byte(json, json->at) != '"') {
        if (json->at == json->len)
            return json_fail(json, "a string without its closing quote");
        json->mark = json->at;
        if (!json_character(json))
            return false;
        json->mark = quote;
    }
    json->at++;
    value->bytes = json->strings + start;
    value->len = json->used - start;
    json->strings[json->used++] = '\0'; /* the two quotes left room for it */
    return true;
}

/* ---- objects and arrays ------------------------------------------------------------------ */

static bool json_enter(Json *json, JsonType type)
{
    if (json_peek(json) != type)
        return json_expected(json, json_type_name(type));
    if (json->depth == JSON_MAX_DEPTH)
        return json_fail(json, "nested deeper than %d levels", JSON_MAX_DEPTH);
    json->depth++;
    json->at++;
    json->first = true;
    return true;
}

bool json_enter_object(Json *json)
{
    return json_enter(json, JSON_OBJECT);
}

bool json_enter_array(Json *json)
{
    return json_enter(json, JSON_ARRAY);
}

/* Steps over the comma before the next element; false, and one level up, at the closing bracket. */
static bool json_next(Json *json, char close, const char *comma_or_close)
{
    if (json->failed)
        return false;
    assert(json->depth > 0);
    int byte = json_ahead(json);
    if (byte == close) {
        json->at++;
        json->depth--;
        json->first = false; /* for the one around it, this was an element */
        return false;
    }
    if (!json->first) {
        if (byte != ',')
            return json_expected(json, comma_or_close);
        json->at++;
    }
    json->first = false;
    return true;
}

/* False after the last item, which closes the array. */
bool json_next_item(Json *json)
{
    return json_next(json, ']', "',' or ']'");
}

/* False after the last key, which closes the object. */
bool json_next_key(Json *json, JsonText *key)
{
    JsonText text = {"", 0};
    if (!json_next(json, '}', "',' or '}'"))
        return false;
    if (json_peek(json) != JSON_STRING)
        return json_expected(json, "a key in quotes");
    if (!json_string(json, &text))
        return false;
    size_t mark = json->mark;
    if (json_ahead(json) != ':')
        return json_expected(json, "':' after a key");
    json->at++;
    json->mark = mark; /* what fails next is what the key says */
    *key = text;
    return true;
}

/* ---- numbers, words, anything ------------------------------------------------------------ */

/* How much of the number just read a message shows. */
static int json_shown_digits(const Json *json)
{
    size_t len = json->at - json->mark;
    return len < 24 ? (int)len : 24;
}

/* The place after the digits at `at`; not good if there is none. */
static size_t json_digits(const Json *json, size_t at, bool *good)
{
    *good = *good && json_digit(json, at);
    while (json_digit(json, at))
        at++;
    return at;
}

static bool json_word(Json *json, const char *word)
{
    for (size_t i = 0; word[i]; i++)
        if (json_byte(json, json->at + i) != word[i])
            return json_fail(json, "expected %s, found another word", word);
    json->at += strlen(word);
    return true;
}

/* -? (0 | [1-9] digit*) (. digit+)? ([eE] [+-]? digit+)?   `whole` if it is digits alone. */
static bool json_scan_number(Json *json, bool *whole)
{
    if (json_peek(json) != JSON_NUMBER)
        return json_expected(json, json_type_name(JSON_NUMBER));
    bool good = true;
    size_t start = json->at + (json_byte(json, json->at) == '-');
    int letter = json_byte(json, start);
    if (json->python && (letter == 'I' || letter == 'N')) {
        *whole = false;
        json->at = start;
        return json_word(json, letter == 'I' ? "Infinity" : "NaN");
    }
    size_t at = json_digits(json, start, &good), digits_end = at;
    good = good && (at == start + 1 || json_byte(json, start) != '0');
    if (json_byte(json, at) == '.')
        at = json_digits(json, at + 1, &good);
    if (json_byte(json, at) == 'e' || json_byte(json, at) == 'E') {
        int sign = json_byte(json, at + 1);
        at = json_digits(json, at + (sign == '+' || sign == '-' ? 2 : 1), &good);
    }
    *whole = start == json->at && at == digits_end;
    json->at = at;
    return good || json_fail(json, "'%.*s' is not a number of JSON", json_shown_digits(json),
                             json->text + json->mark);
}

/* 0, 1, 2 ... most; not 1.0, not 1e3. */
bool json_integer(Json *json, uint64_t *value, uint64_t most)
{
    bool whole = false;
    if (!json_scan_number(json, &whole))
        return false;
    const char *digits = json->text + json->mark;
    if (!whole)
        return json_fail(json, "%.*s is not a whole number of 0 or more", json_shown_digits(json),
                         digits);
    uint64_t number = 0;
    for (size_t i = json->mark; i < json->at; i++) {
        uint64_t digit = (uint64_t)(json->text[i] - '0');
        if (digit > most || number > (most - digit) / 10)
            return json_fail(json, "%.*s is too large: the most is %" PRIu64,
                             json_shown_digits(json), digits, most);
        number = 10 * number + digit;
    }
    *value = number;
    return true;
}

/* Any number, also one that is too large for a double: that is infinite. */
bool json_number_any(Json *json, double *value)
{
    bool whole = false;
    if (!json_scan_number(json, &whole))
        return false;
    size_t len = json->at - json->mark;
    char *copy = json->strings + json->used; /* strtod needs a 0 byte after it */
    memcpy(copy, json->text + json->mark, len);
    copy[len] = '\0';
    *value = strtod(copy, NULL);
    return true;
}

/* Any number; finite. */
bool json_number(Json *json, double *value)
{
    double number = 0.0;
    if (!json_number_any(json, &number))
        return false;
    if (!isfinite(number))
        return json_fail(json, "%.*s is too large for a double", json_shown_digits(json),
                         json->text + json->mark);
    *value = number;
    return true;
}

bool json_boolean(Json *json, bool *value)
{
    if (json_peek(json) != JSON_BOOLEAN)
        return json_expected(json, json_type_name(JSON_BOOLEAN));
    bool yes = json_byte(json, json->at) == 't';
    if (!json_word(json, yes ? "true" : "false"))
        return false;
    *value = yes;
    return true;
}

/* One whole value. */
bool json_skip(Json *json)
{
    JsonText text = {"", 0};
    bool flag = false;
    switch (json_peek(json)) {
    case JSON_OBJECT: /* calls itself, JSON_MAX_DEPTH levels deep at most */
        for (json_enter_object(json); json_next_key(json, &text);)
            json_skip(json);
        return !json->failed;
    case JSON_ARRAY:
        for (json_enter_array(json); json_next_item(json);)
            json_skip(json);
        return !json->failed;
    case JSON_STRING: return json_string(json, &text);
    case JSON_NUMBER: return json_scan_number(json, &flag); /* 1e999 is JSON, if no double */
    case JSON_BOOLEAN: return json_boolean(json, &flag);
    case JSON_NULL: return json_word(json, "null");
    default: return json_expected(json, "a value");
    }
}

/* False if anything failed, or if text is left. */
bool json_end(Json *json)
{
    if (json->failed)
        return false;
    return json_ahead(json) < 0 || json_expected(json, "the end");
}

/* ---- writing ----------------------------------------------------------------------------- */

/* Quoted and escaped. */
void json_write_string(FILE *out, const char *text)
{
    static const char meant[] = "\"\\\b\f\n\r\t", written[] = "\"\\bfnrt";
    fputc('"', out);
    for (; *text; text++) {
        const char *found = strchr(meant, *text);
        if (found)
            fprintf(out, "\\%c", written[found - meant]);
        else if ((unsigned char)*text < 0x20)
            fprintf(out, "\\u%04x", (unsigned)*text);
        else
            fputc(*text, out);
    }
    fputc('"', out);
}

#endif /* CH05_JSON */
