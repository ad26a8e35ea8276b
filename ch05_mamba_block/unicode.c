/* Text as the Unicode Consortium defines it, as far as a tokenizer asks.

   HOLDS   UTF-8 to characters and back; which characters are letters, numbers, blanks and signs;
           normalization form C, in which an e with an accent and an e followed by an accent are
           one and the same; lower case
   FOR     tokenizer.c; what shows a text token by token (text_stream.c)
   TABLES  unicode_tables.h, made by tests/unicode_tables.sh from the Unicode Character Database
   SOURCES RFC 3629 (UTF-8); Unicode Standard Annex 15 (normalization) */

#ifndef CH05_UNICODE
#define CH05_UNICODE

#include "../ch01_markov/text_width.h" /* UTF-8 */
#include "unicode_tables.h"

/* ======================================= Characters ======================================== */

enum { UTF8_BAD = 0x110000 };

/* The character at text[0], and its bytes (left > 0 are there) through *len. A byte that belongs to
   none is taken alone, as the code UTF8_BAD + byte (RFC 3629, section 4). */
uint32_t utf8_decode(size_t *len, const unsigned char *text, size_t left)
{
    uint32_t code;
    *len = utf8_next(&code, (const char *)text, left);
    if (*len > 0)
        return code;
    *len = 1;
    return UTF8_BAD + text[0];
}

/* The bytes of a code (of utf8_decode), at most 4; how many. */
size_t utf8_encode(unsigned char *out, uint32_t code)
{
    if (code < UTF8_BAD)
        return utf8_put(out, code);
    out[0] = (unsigned char)(code - UTF8_BAD);
    return 1;
}

#define TABLE_SIZE(table) (sizeof(table) / sizeof *(table))

/* The value of the range that a code lies in, or 0. */
static uint32_t unicode_value(const UnicodeRange *range, size_t count, uint32_t code)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (code > range[middle].last)
            low = middle + 1;
        else if (code < range[middle].first)
            high = middle;
        else
            return range[middle].value;
    }
    return 0;
}

/* The entry of a code in a table that is sorted by code, or NULL. */
static const UnicodePair *unicode_pair(const UnicodePair *pair, size_t count, uint32_t code)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (pair[middle].code < code)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && pair[low].code == code ? &pair[low] : NULL;
}

/* UNICODE_LETTER and so on, added up; 0 for any other character, and for bytes that are none. Those
   that are newer than the table count as other. */
uint32_t unicode_class_of(uint32_t code)
{
    if (code < 128) { /* as the table has it, but sooner */
        uint32_t class_ = code > ' ' && code < 0x7F ? UNICODE_PUNCTUATION : 0;
        if (code == '_')
            class_ |= UNICODE_WORD;
        if ((code | 0x20) >= 'a' && (code | 0x20) <= 'z')
            class_ = UNICODE_LETTER | UNICODE_WORD;
        if (code >= '0' && code <= '9')
            class_ = UNICODE_NUMBER | UNICODE_WORD;
        if (code == ' ' || (code >= 9 && code <= 13))
            class_ = UNICODE_SPACE;
        return class_;
    }
    return unicode_value(unicode_class, TABLE_SIZE(unicode_class), code);
}

/* =================== Normalization form C (Unicode Standard Annex 15) ====================== */
/* The syllables of Hangul follow a formula: the Unicode Standard, section 3.12. */
enum { HANGUL = 0xAC00, HANGUL_LEAD = 0x1100, HANGUL_VOWEL = 0x1161, HANGUL_TAIL = 0x11A7 };
enum { HANGUL_LEADS = 19, HANGUL_VOWELS = 21, HANGUL_TAILS = 28, HANGUL_COUNT = 19 * 21 * 28 };

/* Appends what a code is made of; no code is made of more than four. */
static void nfc_decompose(uint32_t *out, size_t *count, uint32_t code)
{
    if (code - HANGUL < HANGUL_COUNT) {
        uint32_t syllable = code - HANGUL, tail = syllable % HANGUL_TAILS;
        out[(*count)++] = HANGUL_LEAD + syllable / (HANGUL_VOWELS * HANGUL_TAILS);
        out[(*count)++] = HANGUL_VOWEL + syllable / HANGUL_TAILS % HANGUL_VOWELS;
        if (tail > 0)
            out[(*count)++] = HANGUL_TAIL + tail;
        return;
    }
    const UnicodePair *found =
        unicode_pair(unicode_decomposition, TABLE_SIZE(unicode_decomposition), code);
    if (found == NULL) {
        out[(*count)++] = code;
        return;
    }
    nfc_decompose(out, count, found->first);
    if (found->second != 0)
        out[(*count)++] = found->second; /* which is never made of others */
}

/* The one code that first and second make together, or 0. */
static uint32_t nfc_compose_pair(uint32_t first, uint32_t second)
{
    if (first - HANGUL_LEAD < HANGUL_LEADS && second - HANGUL_VOWEL < HANGUL_VOWELS)
        return HANGUL +
               ((first - HANGUL_LEAD) * HANGUL_VOWELS + second - HANGUL_VOWEL) * HANGUL_TAILS;
    if (first - HANGUL < HANGUL_COUNT && (first - HANGUL) % HANGUL_TAILS == 0 &&
        second - HANGUL_TAIL - 1 < HANGUL_TAILS - 1)
        return first + second - HANGUL_TAIL;
    size_t low = 0, high = TABLE_SIZE(unicode_composition);
    while (low < high) {
        size_t middle = (low + high) / 2;
        const UnicodePair *pair = &unicode_composition[middle];
        if (pair->first < first || (pair->first == first && pair->second < second))
            low = middle + 1;
        else
            high = middle;
    }
    const UnicodePair *found = &unicode_composition[low];
    bool there =
        low < TABLE_SIZE(unicode_composition) && found->first == first && found->second == second;
    return there ? found->code : 0;
}

static uint32_t combining_class(uint32_t code)
{
    return code < 0x300 ? 0 : unicode_value(unicode_combining, TABLE_SIZE(unicode_combining), code);
}

/* Sorts count codes by combining class, equal ones in the order in which they stand. */
static void nfc_order(uint32_t *code, size_t count)
{
    enum { CLASSES = 256 };
    size_t start[CLASSES + 1] = {0};
    if (count < 2)
        return;
    uint32_t *copy = NEW(uint32_t, count);
    memcpy(copy, code, count * sizeof *copy);
    for (size_t i = 0; i < count; i++)
        start[combining_class(copy[i]) + 1]++;
    for (size_t class_ = 0; class_ < CLASSES; class_++)
        start[class_ + 1] += start[class_];
    for (size_t i = 0; i < count; i++)
        code[start[combining_class(copy[i])]++] = copy[i];
    free(copy);
}

/* Joins what can be joined, in place; the count that is left. A mark joins the last character of
   class 0 before it, if no mark that was left between them has the same or a higher class. */
static size_t nfc_compose(uint32_t *code, size_t count)
{
    size_t base = 0, kept = 0;
    uint32_t before = 0; /* the class of the last one kept after `base` */
    bool has_base = false;
    for (size_t i = 0; i < count; i++) {
        uint32_t class_ = combining_class(code[i]);
        bool blocked = kept > base + 1 && (before >= class_ || before == 0);
        uint32_t joined = has_base && !blocked ? nfc_compose_pair(code[base], code[i]) : 0;
        if (joined != 0) {
            code[base] = joined;
            continue;
        }
        if (class_ == 0) {
            base = kept;
            has_base = true;
        }
        before = class_;
        code[kept++] = code[i];
    }
    return kept;
}

/* The text in normalization form C, to be freed; its bytes through *len. Below U+0300 all is in
   that form already. Bytes that are no UTF-8 stay as they are. */
unsigned char *nfc_text(size_t *len, const unsigned char *text, size_t count)
{
    size_t plain = 0, codes = 0, used = 0;
    while (plain < count && text[plain] < 0xCC)
        plain++;
    if (plain == count) {
        unsigned char *copy = NEW(unsigned char, count + 1);
        memcpy(copy, text, count);
        *len = count;
        return copy;
    }
    uint32_t *code = NEW(uint32_t, 4 * count);
    for (size_t at = 0, step; at < count; at += step)
        nfc_decompose(code, &codes, utf8_decode(&step, text + at, count - at));
    for (size_t i = 0, end; i < codes; i = end + 1) {
        for (end = i; end < codes && combining_class(code[end]) != 0;)
            end++;
        nfc_order(code + i, end - i);
    }
    codes = nfc_compose(code, codes);
    unsigned char *out = NEW(unsigned char, 4 * codes + 1);
    for (size_t i = 0; i < codes; i++)
        used += utf8_encode(out + used, code[i]);
    free(code);
    *len = used;
    return out;
}

/* The text in lower case, to be freed; its bytes through *len. Each character by itself: only the
   capital I with a dot becomes two. */
unsigned char *lowercase_text(size_t *len, const unsigned char *text, size_t count)
{
    unsigned char *out = NEW(unsigned char, 3 * count + 1); /* of 2 bytes come 3 at most */
    *len = 0;
    for (size_t at = 0, step; at < count; at += step) {
        uint32_t code = utf8_decode(&step, text + at, count - at);
        const UnicodePair *found =
            unicode_pair(unicode_lowercase, TABLE_SIZE(unicode_lowercase), code);
        *len += utf8_encode(out + *len, found != NULL ? found->first : code);
        if (found != NULL && found->second != 0)
            *len += utf8_encode(out + *len, found->second);
    }
    return out;
}

#endif /* CH05_UNICODE */
