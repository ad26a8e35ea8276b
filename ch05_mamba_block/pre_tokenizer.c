/* How a tokenizer cuts a text into pieces, before any merge: none crosses the border of a piece.

   HOLDS   the patterns that published tokenizers cut by (GPT-2's, Llama-3's and others), what
           becomes of a match (CutBehavior), and stages of such cuts, one after another (Stage)
   FOR     tokenizer.c, which sends a text through all stages; tokenizer_json.c fills them in
   SOURCES A. Radford et al., GPT-2 (2019): the first of these patterns; Hugging Face's tokenizers,
           whose pieces these are: Split, Digits, Punctuation, ByteLevel, Whitespace, Metaspace */

#ifndef CH05_PRE_TOKENIZER
#define CH05_PRE_TOKENIZER

#include "normalizer.c"

/* ==================================== A text to be cut ===================================== */

/* A part of a text. From the stage on that is called ByteLevel, each byte counts as a character of
   its own, its stand-in: a later stage sees an e with an accent as two characters. */
typedef struct {
    const unsigned char *bytes; /* (len) */
    size_t len;
    bool stand_ins;
    bool first; /* it begins where the text begins */
} Piece;

/* The character that stands for a byte in the vocabulary. GPT-2's table: bytes that can be printed
   stand for themselves, all others, in order, for U+0100, U+0101 and so on. */
static uint32_t stand_in_of_byte(uint32_t byte)
{
    if (byte <= ' ')
        return 0x100 + byte;
    if (byte >= 0x7F && byte <= 0xA0)
        return 0x100 + 33 + byte - 0x7F;
    return byte == 0xAD ? 0x100 + 33 + 34 : byte;
}

/* The character at `at` < len, and how many bytes it takes. */
static uint32_t code_at(size_t *step, const Piece *piece, size_t at)
{
    if (!piece->stand_ins)
        return utf8_decode(step, piece->bytes + at, piece->len - at);
    *step = 1;
    return stand_in_of_byte(piece->bytes[at]);
}

enum { PIECE_CLASSES = UNICODE_LETTER | UNICODE_NUMBER | UNICODE_SPACE };

static uint32_t class_at(size_t *step, const Piece *piece, size_t at)
{
    return unicode_class_of(code_at(step, piece, at)) & PIECE_CLASSES;
}

/* Where a run of characters of one class ends that begins at `at`; at most so many of them. */
static size_t run_end(const Piece *piece, size_t at, uint32_t class_, size_t most)
{
    for (size_t step; most > 0 && at < piece->len && class_at(&step, piece, at) == class_; most--)
        at += step;
    return at;
}

/* ======================================== Patterns ========================================= */
/* Each is a regular expression, written out: the length of its match that begins at `at` < len,
   or 0. */

/* 's, 'll and so on; if `any_case` as (?i: ) has it, for which the long s (U+017F) is an s too. */
static size_t contraction_length(const Piece *piece, size_t at, bool any_case)
{
    static const char *const endings[] = {"s", "t", "re", "ve", "m", "ll", "d"};
    const char *text = (const char *)piece->bytes + at + 1;
    size_t left = piece->len - at - 1;
    if (piece->bytes[at] != '\'')
        return 0;
    for (size_t i = 0; i < TABLE_SIZE(endings); i++) {
        size_t len = strlen(endings[i]);
        if (len <= left && (any_case ? strncasecmp(text, endings[i], len) == 0
                                     : memcmp(text, endings[i], len) == 0))
            return 1 + len;
    }
    bool long_s = any_case && !piece->stand_ins && left >= 2 && memcmp(text, "\xC5\xBF", 2) == 0;
    return long_s ? 3 : 0;
}

/* \s+(?!\S) leaves the last blank to what follows; where there is only one, \s+ takes it. */
static size_t blanks_length(const Piece *piece, size_t at)
{
    size_t end = at, last = at;
    for (size_t step; end < piece->len && class_at(&step, piece, end) == UNICODE_SPACE; end += step)
        last = end;
    return (end < piece->len && last > at ? last : end) - at;
}

/* GPT-2's, in which a word and a number take the space before them:
       's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static size_t gpt2_length(const Piece *piece, size_t at)
{
    size_t step, contraction = contraction_length(piece, at, false);
    if (contraction > 0)
        return contraction;
    size_t start = at + (code_at(&step, piece, at) == ' ' && at + 1 < piece->len);
    uint32_t class_ = class_at(&step, piece, start);
    if (class_ != UNICODE_SPACE) /* letters, numbers or signs, with a space before them or not */
        return run_end(piece, start, class_, SIZE_MAX) - at;
    return blanks_length(piece, at);
}

static bool ends_line(uint32_t code)
{
    return code == '\n' || code == '\r';
}

/* Llama-3's, which is GPT-4's, and with one digit at a time Qwen-2's:
       (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|
       \s*[\r\n]+|\s+(?!\S)|\s+ */
static size_t llama3_length(const Piece *piece, size_t at, size_t most_digits)
{
    size_t step, next, contraction = contraction_length(piece, at, true);
    if (contraction > 0)
        return contraction;
    uint32_t code = code_at(&step, piece, at), class_ = unicode_class_of(code) & PIECE_CLASSES;
    if (class_ == UNICODE_NUMBER)
        return run_end(piece, at, UNICODE_NUMBER, most_digits) - at;
    size_t letters = at + (class_ == UNICODE_LETTER || ends_line(code) ? 0 : step);
    if (letters < piece->len && class_at(&next, piece, letters) == UNICODE_LETTER)
        return run_end(piece, letters, UNICODE_LETTER, SIZE_MAX) - at;
    size_t signs = run_end(piece, at + (code == ' '), 0, SIZE_MAX), lines = 0;
    if (signs > at + (code == ' ')) {
        while (signs < piece->len && ends_line(code_at(&next, piece, signs)))
            signs += next;
        return signs - at;
    }
    for (size_t end = at; end < piece->len; end += step) { /* blanks up to the last end of a line */
        code = code_at(&step, piece, end);
        if (!(unicode_class_of(code) & UNICODE_SPACE))
            break;
        lines = ends_line(code) ? end + step - at : lines;
    }
    return lines > 0 ? lines : blanks_length(piece, at);
}

/* \w+|[^\w\s]+ */
static size_t word_length(const Piece *piece, size_t at)
{
    size_t step, start = at;
    uint32_t first = unicode_class_of(code_at(&step, piece, at));
    if (first & UNICODE_SPACE)
        return 0;
    for (at += step; at < piece->len; at += step) {
        uint32_t next = unicode_class_of(code_at(&step, piece, at));
        if (next & UNICODE_SPACE || (next ^ first) & UNICODE_WORD)
            break;
    }
    return at - start;
}

/* [0-9][0-9][0-9] */
static size_t three_digits_length(const Piece *piece, size_t at)
{
    for (size_t i = 0; i < 3; i++)
        if (at + i >= piece->len || piece->bytes[at + i] < '0' || piece->bytes[at + i] > '9')
            return 0;
    return 3;
}

/* A text (len bytes) as it is; it is compared character by character, because those of a piece may
   be stand-ins. */
static size_t text_length(const Piece *piece, size_t at, const char *text, size_t len)
{
    size_t start = at, step, here;
    for (size_t i = 0; i < len; i += step, at += here) {
        uint32_t code = utf8_decode(&step, (const unsigned char *)text + i, len - i);
        if (at >= piece->len || code_at(&here, piece, at) != code)
            return 0;
    }
    return at - start;
}

/* A text of marks for spaces, cut before them: up to `most` marks and all that follows them up to
   the next one. */
static size_t marked_length(const Piece *piece, size_t at, const char *mark, size_t len,
                            size_t most)
{
    size_t start = at, step;
    for (; most > 0 && at < piece->len && (step = text_length(piece, at, mark, len)) > 0; most--)
        at += step;
    for (; at < piece->len && text_length(piece, at, mark, len) == 0; at += step)
        code_at(&step, piece, at);
    return at - start;
}

/* ========================================= Stages ========================================== */

typedef enum {
    STAGE_GPT2,
    STAGE_LLAMA3,       /* `most` digits to a piece */
    STAGE_NUMBERS,      /* \p{N}{1,most} */
    STAGE_THREE_DIGITS, /* [0-9][0-9][0-9] */
    STAGE_TEXT,         /* `text` as it is */
    STAGE_NUMBER,       /* a character that is a number */
    STAGE_SIGN,         /* a sign of punctuation */
    STAGE_BLANK,        /* a blank */
    STAGE_WORD,         /* \w+|[^\w\s]+ */
    STAGE_MARKED,       /* up to `most` marks, which are `text`, and what follows them */
    STAGE_PREFIX,       /* cuts nothing: spaces become `text`, and one is put, as `prepend` says,
                           before what does not begin with one */
    STAGE_BYTES         /* cuts nothing: bytes count as characters from here on */
} StageKind;

/* What becomes of a match, beside what is between matches. */
typedef enum {
    CUT_ISOLATED,      /* a piece of its own */
    CUT_REMOVED,       /* nothing */
    CUT_CONTIGUOUS,    /* one piece with its neighbours that match, too */
    CUT_WITH_PREVIOUS, /* a part of what is before it */
    CUT_WITH_NEXT,     /* a part of what is after it */
    CUT_BEHAVIORS
} CutBehavior;

typedef enum { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER, PREPEND_SCHEMES } Prepend;

typedef struct {
    StageKind kind;
    CutBehavior behavior;
    bool invert; /* what matches and what does not change places */
    size_t most;
    const char *text; /* (text_len) */
    size_t text_len;
    Prepend prepend; /* to each piece, or to that which is the first of a text */
} Stage;

enum { STAGES_MOST = 16 };

typedef struct {
    Stage stage[STAGES_MOST]; /* (count) */
    size_t count;
} Stages;

/* The length of the stage's match that begins at `at`, or 0. */
static size_t stage_match(const Stage *stage, const Piece *piece, size_t at)
{
    size_t step;
    uint32_t class_ = unicode_class_of(code_at(&step, piece, at));
    switch (stage->kind) {
    case STAGE_GPT2: return gpt2_length(piece, at);
    case STAGE_LLAMA3: return llama3_length(piece, at, stage->most);
    case STAGE_NUMBERS: return run_end(piece, at, UNICODE_NUMBER, stage->most) - at;
    case STAGE_THREE_DIGITS: return three_digits_length(piece, at);
    case STAGE_TEXT: return text_length(piece, at, stage->text, stage->text_len);
    case STAGE_NUMBER: return class_ & UNICODE_NUMBER ? step : 0;
    case STAGE_SIGN: return class_ & UNICODE_PUNCTUATION ? step : 0;
    case STAGE_BLANK: return class_ & UNICODE_SPACE ? step : 0;
    case STAGE_WORD: return word_length(piece, at);
    case STAGE_MARKED: return marked_length(piece, at, stage->text, stage->text_len, stage->most);
    default: return 0;
    }
}

/* The end of the span that begins at `at`: a match, or all up to the next one. */
static size_t span_end(bool *match, const Stage *stage, const Piece *piece, size_t at)
{
    size_t step, length = stage_match(stage, piece, at);
    *match = (length > 0) != stage->invert;
    if (length > 0)
        return at + length;
    do {
        code_at(&step, piece, at);
        at += step;
    } while (at < piece->len && stage_match(stage, piece, at) == 0);
    return at;
}

/* Whether a span belongs to the same piece as the one before it. */
static bool spans_join(CutBehavior behavior, bool before, bool match)
{
    return behavior == CUT_CONTIGUOUS      ? before == match
           : behavior == CUT_WITH_PREVIOUS ? !before && match
           : behavior == CUT_WITH_NEXT     ? before && !match
                                           : false;
}

/* The next part that a stage cuts out of a piece, which begins at *at or, where something is
   removed, later; *at moves on. False: there is none. */
bool stage_next(Piece *part, size_t *at, const Stage *stage, const Piece *piece)
{
    bool may_join = stage->behavior >= CUT_CONTIGUOUS;
    while (*at < piece->len) {
        bool match, next;
        size_t start = *at, end = span_end(&match, stage, piece, start);
        while (may_join && end < piece->len) {
            size_t after = span_end(&next, stage, piece, end);
            if (!spans_join(stage->behavior, match, next))
                break;
            end = after;
            match = next;
        }
        *at = end;
        part->bytes = piece->bytes + start;
        part->len = end - start;
        part->stand_ins = piece->stand_ins;
        part->first = piece->first && start == 0;
        if (stage->behavior != CUT_REMOVED || !match)
            return true;
    }
    return false;
}

static bool same_text(const Stage *a, const Stage *b)
{
    return a->text_len == b->text_len && memcmp(a->text, b->text, a->text_len) == 0;
}

/* Whether a text may be cut before a space that follows no blank, or, with `lines`, before the end
   of a line that does, such that its pieces stay what they are: one stage cuts there anyway, and
   none of the others joins what is on both sides. */
bool stages_cut_at_blanks(const Stages *stages, bool lines)
{
    const Stage *marks = NULL; /* the stage that has made marks of the spaces */
    bool cuts = false;
    for (size_t i = 0; i < stages->count; i++) {
        const Stage *stage = &stages->stage[i];
        StageKind kind = stage->kind;
        if (kind == STAGE_TEXT || stage->behavior >= CUT_WITH_PREVIOUS ||
            (lines && (kind == STAGE_LLAMA3 || kind == STAGE_PREFIX)))
            return false;
        if (kind == STAGE_PREFIX && marks == NULL && stage->text[0] != ' ')
            marks = stage;
        if (kind == STAGE_MARKED)
            cuts = cuts || (!lines && (marks == NULL || same_text(marks, stage)));
        else if (marks == NULL)
            cuts =
                cuts || kind == STAGE_BLANK || kind == STAGE_WORD ||
                ((kind == STAGE_GPT2 || kind == STAGE_LLAMA3) && stage->behavior == CUT_ISOLATED);
        if (kind == STAGE_BYTES || kind == STAGE_MARKED)
            break; /* no blanks any more */
    }
    return cuts;
}

#endif /* CH05_PRE_TOKENIZER */
