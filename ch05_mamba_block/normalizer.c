/* What a tokenizer makes of a text before it cuts it: one form for what is the same.

   HOLDS   parts of a text that others take the place of (Replacement); the steps of a normalizer,
           one after another (Normalizer)
   FOR     tokenizer.c; tokenizer_json.c fills the steps in
   SOURCES Hugging Face's tokenizers: NFC, Lowercase, Prepend, Replace; T. Kudo, J. Richardson,
           SentencePiece, arXiv 1808.06226, where a space becomes a mark, U+2581 */

#ifndef CH05_NORMALIZER
#define CH05_NORMALIZER

#include "unicode.c"

enum { SPACE_MARK = 0x2581 }; /* SentencePiece's for a space */

/* Bytes of what is replaced and of what replaces it, and steps: no file makes a text longer than
   4^4 times. */
enum { REPLACED_MOST = 4, NORMAL_MOST = 4 };

typedef struct {
    const char *from; /* (from_len) not empty */
    size_t from_len;
    const char *to; /* (to_len) not empty */
    size_t to_len;
} Replacement;

/* The text (count bytes) with each `from` replaced, from the left, to be freed; its bytes through
   *len. */
unsigned char *replaced_text(size_t *len, const unsigned char *text, size_t count,
                             const Replacement *replace)
{
    size_t step = replace->from_len, used = 0;
    unsigned char *out = NEW(unsigned char, count + count / step * replace->to_len + 1);
    for (size_t at = 0; at < count;) {
        if (count - at >= step && memcmp(text + at, replace->from, step) == 0) {
            memcpy(out + used, replace->to, replace->to_len);
            used += replace->to_len;
            at += step;
        } else
            out[used++] = text[at++];
    }
    *len = used;
    return out;
}

/* The text with `to` before it. */
unsigned char *prepended_text(size_t *len, const unsigned char *text, size_t count,
                              const Replacement *replace)
{
    unsigned char *out = NEW(unsigned char, replace->to_len + count + 1);
    memcpy(out, replace->to, replace->to_len);
    memcpy(out + replace->to_len, text, count);
    *len = replace->to_len + count;
    return out;
}

typedef enum {
    NORMAL_NFC,
    NORMAL_LOWERCASE,
    NORMAL_PREPEND, /* `to` before a text */
    NORMAL_REPLACE
} NormalKind;

typedef struct {
    NormalKind kind;
    Replacement replace;
} NormalStep;

typedef struct {
    NormalStep step[NORMAL_MOST]; /* (count) */
    size_t count;
} Normalizer;

static unsigned char *normal_step(size_t *len, const unsigned char *text, size_t count,
                                  const NormalStep *step)
{
    switch (step->kind) {
    case NORMAL_NFC: return nfc_text(len, text, count);
    case NORMAL_LOWERCASE: return lowercase_text(len, text, count);
    case NORMAL_REPLACE: return replaced_text(len, text, count, &step->replace);
    default: return prepended_text(len, text, count, &step->replace);
    }
}

/* The text (count > 0 bytes) after all steps, to be freed; its bytes through *len. Nothing goes
   before a text that goes on. */
unsigned char *normal_text(size_t *len, const unsigned char *text, size_t count,
                           const Normalizer *normalizer, bool goes_on)
{
    unsigned char *out = NEW(unsigned char, count + 1);
    memcpy(out, text, count);
    *len = count;
    for (size_t i = 0; i < normalizer->count; i++) {
        const NormalStep *step = &normalizer->step[i];
        if (step->kind == NORMAL_PREPEND && goes_on)
            continue;
        unsigned char *next = normal_step(len, out, *len, step);
        free(out);
        out = next;
    }
    return out;
}

#endif /* CH05_NORMALIZER */
