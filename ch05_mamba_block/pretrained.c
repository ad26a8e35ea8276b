/* Capstone 2. A pretrained Mamba: from a folder of weights to words

   QUESTION   What does it take to run a model that others have trained, from the files as they were
              published, and how fast can a processor be at it?
   NEW        A tokenizer (byte-level BPE, as GPT-NeoX has it), weights used where they lie in the
              mapped file, in 32, 16 or 8 bits; a step that reads each once; a memory to save.
   NOT        Training, and no mathematics: the model is that of language_model.c.
   EQUATION   seconds a token >= bytes of weights / bytes a second that memory delivers
   LETTERS    C            shape                      Hugging Face
              ids          (tokens)                   input_ids
              conv         (d_conv - 1, d_inner)      conv_states, without their oldest
              x            see lane_of_state          ssm_states (d_inner, d_state)
              logits       (vocab)                    logits
   BUILD      cc -O2 ch05_mamba_block/pretrained.c -o pretrained -lm && ./pretrained DIR "A prompt"
   TIME       50 minutes to read
   SOURCES    R. Sennrich, B. Haddow, A. Birch, Neural machine translation of rare words with
              subword units, arXiv 1508.07909 (BPE)
              A. Radford et al., GPT-2 (2019): bytes, and the pattern of the pieces
              S. Black et al., GPT-NeoX-20B, arXiv 2204.06745 (its tokenizer)
              Unicode Standard Annex 15 (normalization); Hugging Face's tokenizers and transformers
              T. Dettmers et al., LLM.int8(), arXiv 2208.07339 (weights in 8 bits) */

#ifndef CH05_PRETRAINED
#define CH05_PRETRAINED

#include "language_model.c"
#include "unicode_tables.h"
#include <sched.h>
#include <signal.h>

/* ======================================== Unicode ========================================== */
/* A text is bytes in UTF-8. Which characters are letters, and that e with an accent and e */
/* followed by an accent are one and the same, stands in tables of the Unicode Consortium. */

enum { UTF8_BAD = 0x110000 };

/* The character at text[0], and its bytes (left > 0 are there) through *len. A byte that belongs to
   none is taken alone, as the code UTF8_BAD + byte (RFC 3629, section 4). */
static uint32_t utf8_decode(size_t *len, const unsigned char *text, size_t left)
{
    uint32_t first = text[0], code = first;
    size_t want = first < 0x80 ? 1 : first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    *len = 1;
    if (want == 1)
        return code;
    if (want == 0 || first > 0xF4 || want > left)
        return UTF8_BAD + first;
    code = first & (0x7Fu >> want);
    for (size_t i = 1; i < want; i++) {
        if ((text[i] & 0xC0) != 0x80)
            return UTF8_BAD + first;
        code = code << 6 | (text[i] & 0x3F);
    }
    bool longer = (want == 3 && code < 0x800) || (want == 4 && code < 0x10000);
    if (longer || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
        return UTF8_BAD + first;
    *len = want;
    return code;
}

/* The bytes of a code (of utf8_decode), at most 4; how many. */
static size_t utf8_encode(unsigned char *out, uint32_t code)
{
    static const unsigned char lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
    if (code >= UTF8_BAD)
        code -= UTF8_BAD;
    else if (code >= 0x80) {
        size_t len = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
        for (size_t i = len; i-- > 1; code >>= 6)
            out[i] = (unsigned char)(0x80 | (code & 0x3F));
        out[0] = (unsigned char)(lead[len] | code);
        return len;
    }
    out[0] = (unsigned char)code;
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
static uint32_t unicode_class_of(uint32_t code)
{
    if (code < 128) { /* as the table has it, but sooner */
        uint32_t class_ = code == '_' ? UNICODE_WORD : 0;
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

/* ---- normalization form C (Unicode Standard Annex 15) ---- */

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
static unsigned char *nfc_text(size_t *len, const unsigned char *text, size_t count)
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
static unsigned char *lowercase_text(size_t *len, const unsigned char *text, size_t count)
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

/* ================================ Cutting a text into pieces =============================== */
/* Merges never cross the border of a piece: a word with the space before it, a number, a sign, or
   blanks. GPT-2 gives the rule as a regular expression:
       's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */

enum { PIECE_CLASSES = UNICODE_LETTER | UNICODE_NUMBER | UNICODE_SPACE };

static uint32_t class_at(size_t *step, const unsigned char *text, size_t at, size_t len)
{
    return unicode_class_of(utf8_decode(step, text + at, len - at)) & PIECE_CLASSES;
}

/* Where a run of characters of one class ends that begins at `at`. */
static size_t run_end(const unsigned char *text, size_t at, size_t len, uint32_t class_)
{
    for (size_t step; at < len && class_at(&step, text, at, len) == class_; at += step)
        ;
    return at;
}

static size_t contraction_length(const unsigned char *text, size_t left)
{
    static const char *const endings[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    for (size_t i = 0; i < TABLE_SIZE(endings); i++) {
        size_t len = strlen(endings[i]);
        if (len <= left && memcmp(text, endings[i], len) == 0)
            return len;
    }
    return 0;
}

/* The length of the piece at text[at]; at < len. */
static size_t piece_length(const unsigned char *text, size_t at, size_t len)
{
    size_t step, contraction = contraction_length(text + at, len - at);
    if (contraction > 0)
        return contraction;
    size_t start = at + (text[at] == ' ' && at + 1 < len);
    uint32_t class_ = class_at(&step, text, start, len);
    if (class_ != UNICODE_SPACE) /* letters, numbers or signs, with a space before them or not */
        return run_end(text, start, len, class_) - at;
    size_t end = at, last = at;
    for (; end < len && class_at(&step, text, end, len) == UNICODE_SPACE; end += step)
        last = end;
    /* \s+(?!\S) leaves the last blank to what follows; where there is only one, \s+ takes it */
    return (end < len && last > at ? last : end) - at;
}

/* ======================================== Tables =========================================== */
/* Texts and pairs are looked up by their hash, in tables that are never more than half full. */

static uint64_t hash_mix(uint64_t hash)
{
    hash = (hash ^ hash >> 32) * 0x9E3779B97F4A7C15u;
    return hash ^ hash >> 29;
}

static uint64_t hash_bytes(const void *bytes, size_t len, uint64_t hash)
{
    const unsigned char *at = (const unsigned char *)bytes; /* FNV-1a */
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ at[i]) * 0x100000001B3u;
    return hash;
}

enum { NO_TOKEN = 0xFFFFFFFF };

/* A token as tokenizer.json has it. */
typedef struct {
    const char *text; /* (len) as it stands there: for byte-level BPE one character for each byte */
    size_t len;
    unsigned char *bytes; /* (n_bytes) what it stands for */
    size_t n_bytes;
    bool added, special;
} Token;

/* left and right become id; the lower its rank, the sooner. */
typedef struct {
    uint32_t left, right, rank, id; /* all NO_TOKEN: an empty place of the table */
} Merge;

/* Added tokens, letter by letter: from each node one goes on to its children. */
typedef struct {
    uint32_t child, sibling, token; /* 0: there is none; NO_TOKEN */
    unsigned char byte;
} TrieNode;

typedef struct {
    TrieNode *node; /* (n_node) node 0 is the root */
    size_t n_node;
    bool first[256]; /* a token begins with this byte */
} Trie;

typedef struct {
    bool words;       /* WordLevel: a word is a token; else byte-level BPE */
    bool signs_apart; /* WordLevel: "Whitespace" cuts at signs too; else "WhitespaceSplit" */
    bool nfc, lowercase;
    size_t n_token;
    Token *token;    /* (n_token) by id; text NULL where there is none */
    uint32_t *place; /* (n_place) ids by the hash of their text */
    Merge *merge;    /* (n_merge) by the hash of left and right */
    size_t n_place, n_merge;
    uint32_t of_byte[256]; /* the token of each byte, or NO_TOKEN */
    uint32_t unknown;      /* WordLevel: for words that have no token, or NO_TOKEN */
    Trie added[2];         /* looked for in the text as it is, and in the normalized one */
    bool blank_inside;     /* an added token has a blank after what is none */
    char *strings;
} Tokenizer;

static size_t table_room(size_t count)
{
    size_t room = 4;
    while (room < 2 * count + 2)
        room *= 2;
    return room;
}

/* The id of a token by its text in the file, or NO_TOKEN. */
static uint32_t token_find(const Tokenizer *tokenizer, const char *text, size_t len)
{
    size_t mask = tokenizer->n_place - 1;
    for (size_t at = hash_mix(hash_bytes(text, len, 0)) & mask;; at = (at + 1) & mask) {
        uint32_t id = tokenizer->place[at];
        if (id == NO_TOKEN)
            return id;
        const Token *token = &tokenizer->token[id];
        if (token->len == len && memcmp(token->text, text, len) == 0)
            return id;
    }
}

/* The place of a pair: that of its merge, or an empty one. */
static Merge *merge_place(const Tokenizer *tokenizer, uint32_t left, uint32_t right)
{
    size_t mask = tokenizer->n_merge - 1;
    size_t at = hash_mix((uint64_t)left << 32 | right) & mask;
    for (;; at = (at + 1) & mask) {
        Merge *merge = &tokenizer->merge[at];
        if (merge->id == NO_TOKEN || (merge->left == left && merge->right == right))
            return merge;
    }
}

static void trie_add(Trie *trie, const unsigned char *bytes, size_t len, uint32_t token)
{
    uint32_t at = 0;
    if (trie->n_node == 0) {
        trie->node = (TrieNode *)safetensors_grow(trie->node, trie->n_node++, sizeof(TrieNode));
        trie->node[0].token = NO_TOKEN;
    }
    for (size_t i = 0; i < len; i++) {
        uint32_t next = trie->node[at].child;
        while (next != 0 && trie->node[next].byte != bytes[i])
            next = trie->node[next].sibling;
        if (next == 0) {
            trie->node = (TrieNode *)safetensors_grow(trie->node, trie->n_node, sizeof(TrieNode));
            next = (uint32_t)trie->n_node++;
            TrieNode *node = &trie->node[next];
            memset(node, 0, sizeof *node);
            node->token = NO_TOKEN;
            node->byte = bytes[i];
            node->sibling = trie->node[at].child;
            trie->node[at].child = next;
        }
        at = next;
    }
    trie->node[at].token = token;
    trie->first[bytes[0]] = true;
}

/* The longest added token at text[0], its length through *len; or NO_TOKEN. */
static uint32_t trie_match(size_t *len, const Trie *trie, const unsigned char *text, size_t left)
{
    uint32_t at = 0, found = NO_TOKEN;
    if (left == 0 || !trie->first[text[0]])
        return NO_TOKEN;
    for (size_t i = 0; i < left; i++) {
        uint32_t next = trie->node[at].child;
        while (next != 0 && trie->node[next].byte != text[i])
            next = trie->node[next].sibling;
        if (next == 0)
            break;
        at = next;
        if (trie->node[at].token != NO_TOKEN) {
            found = trie->node[at].token;
            *len = i + 1;
        }
    }
    return found;
}

/* ========================================= BPE ============================================= */
/* A piece begins as one token for each byte. Then neighbours are merged: always the pair that */
/* is first in the list of merges, which is the order in which training found them.            */

/* The pair at `at` of ids (count) becomes one token; how many are left. */
static size_t bpe_join(uint32_t *ids, size_t count, size_t at, uint32_t id)
{
    ids[at] = id;
    memmove(ids + at + 1, ids + at + 2, (count - at - 2) * sizeof *ids);
    return count - 1;
}

/* ids (count) after all merges; how many are left. The pair of lowest rank first, of equal ones the
   leftmost.

   Exercise 5.10. The loop, as it is defined. */
size_t bpe_merge_clear(uint32_t *ids, size_t count, const Tokenizer *tokenizer)
{
    const Merge none = {0, 0, NO_TOKEN, NO_TOKEN}, *lowest;
    //> EX 5.10 [3 pts] [25 min] the merges of one piece
    //? merge_place(tokenizer, a, b) gives the merge of a and b; its rank is NO_TOKEN if none.
    //? In each round look at all count - 1 pairs of neighbours for the lowest rank, from the left.
    //? bpe_join makes one token of that pair. It ends when no pair of neighbours has a merge.
    //: do {
    //:     lowest = &none;
    //: } while (lowest != &none);
    do {
        size_t at = 0;
        lowest = &none;
        for (size_t i = 0; i + 1 < count; i++) {
            const Merge *merge = merge_place(tokenizer, ids[i], ids[i + 1]);
            at = merge->rank < lowest->rank ? i : at;
            lowest = merge->rank < lowest->rank ? merge : lowest;
        }
        if (lowest != &none)
            count = bpe_join(ids, count, at, lowest->id);
    } while (lowest != &none);
    //< EX 5.10
    return count;
}

/* A heap of numbers, the smallest at its root; here rank * 2^32 + place. */
static void heap_push(uint64_t *heap, size_t *count, uint64_t value)
{
    size_t at = (*count)++;
    for (; at > 0 && heap[(at - 1) / 2] > value; at = (at - 1) / 2)
        heap[at] = heap[(at - 1) / 2];
    heap[at] = value;
}

static uint64_t heap_pop(uint64_t *heap, size_t *count)
{
    uint64_t smallest = heap[0], value = heap[--*count];
    size_t at = 0;
    for (size_t child = 1; child < *count; child = 2 * at + 1) {
        child += child + 1 < *count && heap[child + 1] < heap[child];
        if (heap[child] >= value)
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = value;
    return smallest;
}

/* A piece in the making: tokens as a list, and the merges that may come, by rank. */
typedef struct {
    uint32_t *next, *before; /* (count) the neighbours of each place; `count` is none */
    uint64_t *heap;          /* (n_heap) */
    size_t n_heap, count;
} MergeList;

static void merge_list_offer(MergeList *list, const uint32_t *ids, size_t at,
                             const Tokenizer *tokenizer)
{
    size_t next = at < list->count ? list->next[at] : list->count;
    if (next >= list->count)
        return;
    const Merge *merge = merge_place(tokenizer, ids[at], ids[next]);
    if (merge->id != NO_TOKEN)
        heap_push(list->heap, &list->n_heap, (uint64_t)merge->rank << 32 | at);
}

/* Merges the pair at a place if the heap still speaks of it: a neighbour may have gone since. */
static void merge_list_apply(MergeList *list, uint32_t *ids, uint64_t offer,
                             const Tokenizer *tokenizer)
{
    size_t at = (uint32_t)offer, next = list->next[at];
    if (ids[at] == NO_TOKEN || next >= list->count)
        return;
    const Merge *merge = merge_place(tokenizer, ids[at], ids[next]);
    if (merge->id == NO_TOKEN || merge->rank != offer >> 32)
        return;
    ids[at] = merge->id;
    ids[next] = NO_TOKEN;
    list->next[at] = list->next[next];
    if (list->next[at] < list->count)
        list->before[list->next[at]] = (uint32_t)at;
    merge_list_offer(list, ids, at, tokenizer);
    merge_list_offer(list, ids, list->before[at], tokenizer);
}

/* bpe_merge_clear, for use: short pieces as they are, long ones by a heap, count log(count). */
size_t bpe_merge(uint32_t *ids, size_t count, const Tokenizer *tokenizer)
{
    enum { SHORT = 24 };
    size_t kept = 0;
    if (count <= SHORT)
        return bpe_merge_clear(ids, count, tokenizer);
    MergeList list = {NEW(uint32_t, count), NEW(uint32_t, count), NEW(uint64_t, 3 * count), 0,
                      count};
    for (size_t i = 0; i < count; i++) {
        list.next[i] = (uint32_t)(i + 1);
        list.before[i] = (uint32_t)(i > 0 ? i - 1 : count);
    }
    for (size_t i = 0; i < count; i++)
        merge_list_offer(&list, ids, i, tokenizer);
    while (list.n_heap > 0)
        merge_list_apply(&list, ids, heap_pop(list.heap, &list.n_heap), tokenizer);
    for (size_t i = 0; i < count; i++)
        if (ids[i] != NO_TOKEN)
            ids[kept++] = ids[i];
    free(list.next), free(list.before), free(list.heap);
    return kept;
}

/* ================================== Text to ids and back =================================== */

/* A list that grows. */
typedef struct {
    uint32_t *id; /* (count) */
    size_t count, room;
} Ids;

static void ids_reserve(Ids *ids, size_t more)
{
    if (ids->room - ids->count >= more)
        return;
    ids->room = 2 * ids->room + more + 64;
    uint32_t *larger = NEW(uint32_t, ids->room);
    if (ids->count > 0)
        memcpy(larger, ids->id, ids->count * sizeof *larger);
    free(ids->id);
    ids->id = larger;
}

static void ids_push(Ids *ids, uint32_t id)
{
    ids_reserve(ids, 1);
    ids->id[ids->count++] = id;
}

static void ids_free(Ids *ids)
{
    free(ids->id);
    memset(ids, 0, sizeof *ids);
}

/* What encoding carries along: where to, and what went wrong. */
typedef struct {
    const Tokenizer *tokenizer;
    Ids *ids;
    Error *error;
} Encoding;

/* One piece of byte-level BPE. */
static bool encode_piece(const Encoding *to, const unsigned char *text, size_t len)
{
    Ids *ids = to->ids;
    ids_reserve(ids, len);
    uint32_t *at = ids->id + ids->count;
    for (size_t i = 0; i < len; i++) {
        at[i] = to->tokenizer->of_byte[text[i]];
        if (at[i] == NO_TOKEN)
            return fail(to->error,
                        "the byte 0x%02X has no token: valid UTF-8 never has it, is the text "
                        "something else?",
                        text[i]);
    }
    ids->count += bpe_merge(at, len, to->tokenizer);
    return true;
}

/* One word of a WordLevel tokenizer. */
static bool encode_word(const Encoding *to, const unsigned char *text, size_t len)
{
    uint32_t id = token_find(to->tokenizer, (const char *)text, len);
    char shown[SAFETENSORS_SHOWN + 4];
    if (id == NO_TOKEN)
        id = to->tokenizer->unknown;
    if (id == NO_TOKEN) {
        snprintf(shown, sizeof shown, "%.*s", len < 60 ? (int)len : 60, (const char *)text);
        return fail(to->error, "the word '%s' is not in the vocabulary, which has no word for that",
                    shown_clean(shown));
    }
    ids_push(to->ids, id);
    return true;
}

/* Words: what stands between blanks; if signs_apart, \w+ and [^\w\s]+ are words of their own. */
static bool encode_words(const Encoding *to, const unsigned char *text, size_t len)
{
    bool ok = true;
    for (size_t at = 0, end; ok && at < len; at = end) {
        size_t step;
        uint32_t class_ = unicode_class_of(utf8_decode(&step, text + at, len - at));
        end = at + step;
        if (class_ & UNICODE_SPACE)
            continue;
        for (; end < len; end += step) {
            uint32_t next = unicode_class_of(utf8_decode(&step, text + end, len - end));
            bool border = to->tokenizer->signs_apart && (next ^ class_) & UNICODE_WORD;
            if (next & UNICODE_SPACE || border)
                break;
        }
        ok = encode_word(to, text + at, end - at);
    }
    return ok;
}

/* A text without added tokens. */
static bool encode_plain(const Encoding *to, const unsigned char *text, size_t len)
{
    if (to->tokenizer->words)
        return encode_words(to, text, len);
    bool ok = true;
    for (size_t at = 0, piece; ok && at < len; at += piece) {
        piece = piece_length(text, at, len);
        ok = encode_piece(to, text + at, piece);
    }
    return ok;
}

static bool encode_normalized(const Encoding *to, const unsigned char *text, size_t len);

/* Cuts a text at its added tokens, the leftmost first and of several the longest; what is between
   them goes to the next stage. */
static bool encode_added(const Encoding *to, const unsigned char *text, size_t len, int stage)
{
    const Trie *trie = &to->tokenizer->added[stage];
    size_t start = 0, found_len = 0;
    bool ok = true;
    for (size_t at = 0; ok && at <= len; at++) {
        uint32_t found = trie_match(&found_len, trie, text + at, len - at);
        if (found == NO_TOKEN && at < len)
            continue;
        if (at > start)
            ok = stage == 0 ? encode_normalized(to, text + start, at - start)
                            : encode_plain(to, text + start, at - start);
        if (found == NO_TOKEN || !ok)
            break;
        ids_push(to->ids, found);
        start = at + found_len;
        at = start - 1;
    }
    return ok;
}

/* The text as the tokenizer normalizes it, or, for NULL, a copy; to be freed. */
static unsigned char *normal_text(size_t *len, const unsigned char *text, size_t count,
                                  const Tokenizer *tokenizer)
{
    if (tokenizer != NULL && tokenizer->nfc)
        return nfc_text(len, text, count);
    if (tokenizer != NULL && tokenizer->lowercase)
        return lowercase_text(len, text, count);
    unsigned char *copy = NEW(unsigned char, count + 1);
    memcpy(copy, text, count);
    *len = count;
    return copy;
}

static bool encode_normalized(const Encoding *to, const unsigned char *text, size_t len)
{
    size_t normal_len;
    unsigned char *normal = normal_text(&normal_len, text, len, to->tokenizer);
    bool ok = encode_added(to, normal, normal_len, 1);
    free(normal);
    return ok;
}

/* Appends the ids of a text (len bytes) to `ids`; on failure those it had stay. Time n log n. */
bool tokenizer_encode(Ids *ids, const Tokenizer *tokenizer, const char *text, size_t len,
                      Error *error)
{
    size_t before = ids->count;
    Encoding to = {tokenizer, ids, error};
    bool ok = encode_added(&to, (const unsigned char *)text, len, 0);
    if (!ok)
        ids->count = before;
    return ok;
}

/* Where a text may be cut such that both parts have the ids of the whole: the last place before a
   blank that follows none; 0 if there is no such place. */
size_t tokenizer_safe_cut(const Tokenizer *tokenizer, const char *text, size_t len)
{
    const unsigned char *bytes = (const unsigned char *)text;
    for (size_t at = len; !tokenizer->blank_inside && at-- > 1;) {
        bool blank = bytes[at] == ' ' || bytes[at] == '\n';
        size_t start = at - 1, step;
        while (blank && start > 0 && at - start < 4 && (bytes[start] & 0xC0) == 0x80)
            start--;
        if (blank && class_at(&step, bytes, start, at) != UNICODE_SPACE && start + step == at)
            return at;
    }
    return 0;
}

/* ---- back ---- */

/* A text that grows. */
typedef struct {
    char *bytes; /* (len) and a 0 byte */
    size_t len, room;
} Text;

static void text_append(Text *text, const void *bytes, size_t len)
{
    if (text->room - text->len <= len) {
        text->room = 2 * text->room + len + 64;
        char *larger = NEW(char, text->room);
        if (text->len > 0)
            memcpy(larger, text->bytes, text->len);
        free(text->bytes);
        text->bytes = larger;
    }
    if (len > 0)
        memcpy(text->bytes + text->len, bytes, len);
    text->len += len;
    text->bytes[text->len] = '\0';
}

static void text_free(Text *text)
{
    free(text->bytes);
    memset(text, 0, sizeof *text);
}

/* Appends what a token stands for. Ids without a token (a padded vocabulary has some) are nothing.
   Words get a blank between them: `first` says that none was before. */
void tokenizer_decode(Text *text, const Tokenizer *tokenizer, uint32_t id, bool first)
{
    if (id >= tokenizer->n_token || tokenizer->token[id].text == NULL)
        return;
    if (tokenizer->words && !first)
        text_append(text, " ", 1);
    text_append(text, tokenizer->token[id].bytes, tokenizer->token[id].n_bytes);
}

/* ==================================== tokenizer.json ======================================= */
/* Read as a stranger's file. What would change the ids and is not known here is refused by */
/* name.                                                                                    */

typedef struct {
    JsonText text;
    uint64_t id;
} VocabEntry;

typedef struct {
    JsonText left, right;
} MergeEntry;

typedef struct {
    JsonText content;
    uint64_t id;
    bool special, normalized;
} AddedEntry;

/* What the file says, before it is put together: its parts may come in any order. */
typedef struct {
    Json json;
    VocabEntry *vocab;
    MergeEntry *merge;
    AddedEntry *added;
    size_t n_vocab, n_merge, n_added;
    JsonText model, unknown, pre_tokenizer; /* types, and the unknown token; bytes NULL: none */
    bool nfc, lowercase;
} TokenizerParts;

enum { TOKEN_MOST_BYTES = 65536 };

/* A field that must be false, null or "", because nothing else is built here. */
static void parts_unset(Json *json, const char *name)
{
    bool flag = false;
    JsonText text = {"", 0};
    JsonType type = json_peek(json);
    if (type == JSON_BOOLEAN)
        json_boolean(json, &flag);
    else if (type == JSON_STRING)
        json_string(json, &text);
    else if (type == JSON_NULL)
        json_skip(json);
    else
        flag = true;
    if (flag || text.len > 0)
        json_fail(json, "%s is set, which is not known here", name);
}

static bool json_is_one_of(JsonText key, const char *const *names, const char **found)
{
    for (; *names != NULL; names++)
        if (json_is(key, *names)) {
            *found = *names;
            return true;
        }
    return false;
}

static void added_entry(TokenizerParts *parts)
{
    static const char *const unset[] = {"single_word", "lstrip", "rstrip", NULL};
    Json *json = &parts->json;
    AddedEntry entry = {{NULL, 0}, NO_TOKEN, false, true};
    const char *name = NULL;
    json_enter_object(json);
    size_t mark = json->mark;
    for (JsonText key = {NULL, 0}; json_next_key(json, &key);) {
        if (json_is(key, "id"))
            json_integer(json, &entry.id, CONFIG_MAX_VOCAB - 1);
        else if (json_is(key, "content"))
            json_string(json, &entry.content);
        else if (json_is(key, "special"))
            json_boolean(json, &entry.special);
        else if (json_is(key, "normalized"))
            json_boolean(json, &entry.normalized);
        else if (json_is_one_of(key, unset, &name))
            parts_unset(json, name);
        else
            json_skip(json);
    }
    json->mark = mark;
    if (!json->failed && (entry.id == NO_TOKEN || entry.content.bytes == NULL))
        json_fail(json, "an added token needs an id and a content");
    if (!json->failed && (entry.content.len == 0 || entry.content.len > TOKEN_MOST_BYTES))
        json_fail(json, "an added token of %zu bytes: 1 to %d are wanted", entry.content.len,
                  TOKEN_MOST_BYTES);
    parts->added = (AddedEntry *)safetensors_grow(parts->added, parts->n_added, sizeof entry);
    parts->added[parts->n_added++] = entry;
}

/* "normalizer" and "decoder": null, or an object of a known type. */
static void parts_normalizer(TokenizerParts *parts)
{
    Json *json = &parts->json;
    JsonText type = {"", 0};
    if (json_peek(json) == JSON_NULL) {
        json_skip(json);
        return;
    }
    json_enter_object(json);
    for (JsonText key = {NULL, 0}; json_next_key(json, &key);) {
        if (!json_is(key, "type"))
            json_skip(json);
        else if (json_string(json, &type) && !json_is(type, "NFC") && !json_is(type, "Lowercase"))
            json_fail(json, "normalizer '%s': only NFC and Lowercase are known here",
                      shown_name(type.bytes).text);
    }
    parts->nfc = json_is(type, "NFC");
    parts->lowercase = json_is(type, "Lowercase");
}

static void parts_pre_tokenizer(TokenizerParts *parts)
{
    static const char *const types[] = {"ByteLevel", "Whitespace", "WhitespaceSplit", NULL};
    Json *json = &parts->json;
    const char *name;
    bool regex = true;
    json_enter_object(json);
    for (JsonText key = {NULL, 0}; json_next_key(json, &key);) {
        if (json_is(key, "add_prefix_space"))
            parts_unset(json, "add_prefix_space");
        else if (json_is(key, "use_regex")) {
            if (json_boolean(json, &regex) && !regex)
                json_fail(json, "use_regex is false, which is not known here");
        } else if (!json_is(key, "type"))
            json_skip(json);
        else if (json_string(json, &parts->pre_tokenizer) &&
                 !json_is_one_of(parts->pre_tokenizer, types, &name))
            json_fail(json, "pre_tokenizer '%s' is not known here",
                      shown_name(parts->pre_tokenizer.bytes).text);
    }
}

/* Templates may add tokens round a text; only one that adds none is known here. */
static void parts_post_processor(TokenizerParts *parts)
{
    Json *json = &parts->json;
    if (json_peek(json) != JSON_OBJECT) {
        json_skip(json);
        return;
    }
    json_enter_object(json);
    for (JsonText key = {NULL, 0}; json_next_key(json, &key);) {
        if (!json_is(key, "single") || json_peek(json) != JSON_ARRAY) {
            json_skip(json);
            continue;
        }
        json_enter_array(json);
        while (json_next_item(json)) {
            json_enter_object(json);
            for (JsonText part = {NULL, 0}; json_next_key(json, &part);) {
                if (json_is(part, "SpecialToken"))
                    json_fail(json, "post_processor adds a token to every text, which is not "
                                    "known here");
                json_skip(json);
            }
        }
    }
}

static void parts_vocab(TokenizerParts *parts)
{
    Json *json = &parts->json;
    json_enter_object(json);
    for (JsonText key = {NULL, 0}; json_next_key(json, &key);) {
        VocabEntry entry = {key, 0};
        json_integer(json, &entry.id, CONFIG_MAX_VOCAB - 1);
        if (key.len > TOKEN_MOST_BYTES)
            json_fail(json, "a token of %zu bytes: at most %d", key.len, TOKEN_MOST_BYTES);
        parts->vocab = (VocabEntry *)safetensors_grow(parts->vocab, parts->n_vocab, sizeof entry);
        parts->vocab[parts->n_vocab++] = entry;
    }
}

/* One merge: "a b", or in newer files ["a", "b"]. */
static void parts_merge(TokenizerParts *parts)
{
    Json *json = &parts->json;
    MergeEntry entry = {{"", 0}, {"", 0}};
    size_t items = 0;
    if (json_peek(json) == JSON_ARRAY) {
        json_enter_array(json);
        for (JsonText text = {"", 0}; json_next_item(json); items++)
            if (json_string(json, &text))
                *(items == 0 ? &entry.left : &entry.right) = text;
        if (!json->failed && items != 2)
            json_fail(json, "a merge of %zu tokens, not two", items);
    } else if (json_string(json, &entry.left)) {
        const char *space = (const char *)memchr(entry.left.bytes, ' ', entry.left.len);
        if (space == NULL)
            json_fail(json, "the merge '%s' has no space between two tokens",
                      shown_name(entry.left.bytes).text);
        else {
            entry.right.bytes = space + 1;
            entry.right.len = (size_t)(entry.left.bytes + entry.left.len - space - 1);
            entry.left.len = (size_t)(space - entry.left.bytes);
        }
    }
    parts->merge = (MergeEntry *)safetensors_grow(parts->merge, parts->n_merge, sizeof entry);
    parts->merge[parts->n_merge++] = entry;
}

static void parts_model(TokenizerParts *parts)
{
    static const char *const unset[] = {"dropout",       "continuing_subword_prefix",
                                        "ignore_merges", "end_of_word_suffix",
                                        "byte_fallback", NULL};
    Json *json = &parts->json;
    const char *name = NULL;
    json_enter_object(json);
    for (JsonText key = {NULL, 0}; json_next_key(json, &key);) {
        if (json_is(key, "type")) {
            if (json_string(json, &parts->model) && !json_is(parts->model, "BPE") &&
                !json_is(parts->model, "WordLevel"))
                json_fail(json, "a model of type '%s': BPE and WordLevel are known here",
                          shown_name(parts->model.bytes).text);
        } else if (json_is(key, "vocab"))
            parts_vocab(parts);
        else if (json_is(key, "merges")) {
            json_enter_array(json);
            while (json_next_item(json))
                parts_merge(parts);
        } else if (json_is(key, "unk_token") && json_peek(json) == JSON_STRING)
            json_string(json, &parts->unknown);
        else if (json_is_one_of(key, unset, &name))
            parts_unset(json, name);
        else
            json_skip(json);
    }
}

static void parts_read(TokenizerParts *parts)
{
    Json *json = &parts->json;
    json_enter_object(json);
    for (JsonText key = {NULL, 0}; json_next_key(json, &key);) {
        if (json_is(key, "added_tokens")) {
            json_enter_array(json);
            while (json_next_item(json))
                added_entry(parts);
        } else if (json_is(key, "normalizer"))
            parts_normalizer(parts);
        else if (json_is(key, "pre_tokenizer") && json_peek(json) != JSON_NULL)
            parts_pre_tokenizer(parts);
        else if (json_is(key, "post_processor"))
            parts_post_processor(parts);
        else if (json_is(key, "model"))
            parts_model(parts);
        else
            json_skip(json);
    }
}

/* ---- put together ---- */

/* The byte that a character stands for in the vocabulary, or -1. GPT-2's table: bytes that can be
   printed stand for themselves, all others, in order, for U+0100, U+0101 and so on. */
static int byte_of_stand_in(uint32_t code)
{
    bool itself = (code >= '!' && code <= '~') || (code >= 0xA1 && code <= 0xAC) ||
                  (code >= 0xAE && code <= 0xFF);
    uint32_t other = code - 0x100;
    if (itself)
        return (int)code;
    if (other < 33) /* 0 to 32 */
        return (int)other;
    if (other < 33 + 34) /* 127 to 160 */
        return (int)(other - 33 + 127);
    return other == 33 + 34 ? 0xAD : -1;
}

/* The bytes that a token stands for: those of its characters, if all are stand-ins of bytes
   (Hugging Face's ByteLevel decoder goes by the same rule), else its text. */
static void token_set_bytes(Token *token, bool words)
{
    const unsigned char *text = (const unsigned char *)token->text;
    token->bytes = NEW(unsigned char, token->len + 1);
    token->n_bytes = 0;
    for (size_t at = 0, step; at < token->len && !words; at += step) {
        int byte = byte_of_stand_in(utf8_decode(&step, text + at, token->len - at));
        words = byte < 0;
        token->bytes[token->n_bytes++] = (unsigned char)byte;
    }
    if (words) {
        memcpy(token->bytes, text, token->len);
        token->n_bytes = token->len;
    }
}

static bool tokenizer_place_token(Tokenizer *tokenizer, JsonText text, uint64_t id,
                                  const char *path, Error *error)
{
    Token *token = &tokenizer->token[id];
    uint32_t same = token_find(tokenizer, text.bytes, text.len);
    if (same == id)
        return true;
    if (same != NO_TOKEN || token->text != NULL)
        return fail(error, "%s: the token '%s' has the id %" PRIu64 ", %s", path,
                    shown_name(text.bytes).text, id,
                    same != NO_TOKEN ? "and another one too" : "which another token has too");
    token->text = text.bytes;
    token->len = text.len;
    token_set_bytes(token, tokenizer->words);
    size_t mask = tokenizer->n_place - 1;
    size_t at = hash_mix(hash_bytes(text.bytes, text.len, 0)) & mask;
    while (tokenizer->place[at] != NO_TOKEN)
        at = (at + 1) & mask;
    tokenizer->place[at] = (uint32_t)id;
    return true;
}

static bool tokenizer_place_tokens(Tokenizer *tokenizer, const TokenizerParts *parts,
                                   const char *path, Error *error)
{
    bool ok = true;
    for (size_t i = 0; i < parts->n_vocab; i++)
        if (parts->vocab[i].id >= tokenizer->n_token)
            tokenizer->n_token = (size_t)parts->vocab[i].id + 1;
    for (size_t i = 0; i < parts->n_added; i++)
        if (parts->added[i].id >= tokenizer->n_token)
            tokenizer->n_token = (size_t)parts->added[i].id + 1;
    if (tokenizer->n_token > 16 * (parts->n_vocab + parts->n_added) + 1024)
        return fail(error, "%s: an id of %zu among %zu tokens", path, tokenizer->n_token - 1,
                    parts->n_vocab + parts->n_added);
    tokenizer->token = NEW(Token, tokenizer->n_token);
    tokenizer->n_place = table_room(parts->n_vocab + parts->n_added);
    tokenizer->place = NEW(uint32_t, tokenizer->n_place);
    memset(tokenizer->place, 0xFF, tokenizer->n_place * sizeof *tokenizer->place);
    for (size_t i = 0; ok && i < parts->n_vocab; i++)
        ok =
            tokenizer_place_token(tokenizer, parts->vocab[i].text, parts->vocab[i].id, path, error);
    for (size_t i = 0; ok && i < parts->n_added; i++) {
        const AddedEntry *entry = &parts->added[i];
        ok = tokenizer_place_token(tokenizer, entry->content, entry->id, path, error);
        tokenizer->token[entry->id].added = true;
        tokenizer->token[entry->id].special = entry->special;
    }
    return ok;
}

/* Added tokens are looked for in the text as it is, or, if `normalized`, as both are in NFC. */
static void tokenizer_place_added(Tokenizer *tokenizer, const TokenizerParts *parts)
{
    for (size_t i = 0; i < parts->n_added; i++) {
        const AddedEntry *entry = &parts->added[i];
        const unsigned char *text = (const unsigned char *)entry->content.bytes;
        size_t len = entry->content.len;
        unsigned char *normal = normal_text(&len, text, len, entry->normalized ? tokenizer : NULL);
        trie_add(&tokenizer->added[entry->normalized], normal, len, (uint32_t)entry->id);
        for (size_t at = 1; at < entry->content.len; at++)
            if ((text[at] == ' ' || text[at] == '\n') && text[at - 1] != text[at])
                tokenizer->blank_inside = true;
        free(normal);
    }
}

static bool tokenizer_place_merge(Tokenizer *tokenizer, const MergeEntry *entry, size_t rank,
                                  const char *path, Error *error)
{
    char both[2 * TOKEN_MOST_BYTES];
    size_t left_len = entry->left.len, right_len = entry->right.len;
    uint32_t left = token_find(tokenizer, entry->left.bytes, left_len);
    uint32_t right = token_find(tokenizer, entry->right.bytes, right_len), id = NO_TOKEN;
    if (left != NO_TOKEN && right != NO_TOKEN) {
        memcpy(both, entry->left.bytes, left_len);
        memcpy(both + left_len, entry->right.bytes, right_len);
        id = token_find(tokenizer, both, left_len + right_len);
    }
    if (id == NO_TOKEN)
        return fail(error, "%s: merge %zu, '%.*s' and '%.*s': %s is not in the vocabulary", path,
                    rank, left_len < 40 ? (int)left_len : 40, entry->left.bytes,
                    right_len < 40 ? (int)right_len : 40, entry->right.bytes,
                    left == NO_TOKEN    ? "the first"
                    : right == NO_TOKEN ? "the second"
                                        : "what they make");
    Merge merge = {left, right, (uint32_t)rank, id};
    *merge_place(tokenizer, left, right) = merge;
    return true;
}

static bool tokenizer_place_merges(Tokenizer *tokenizer, const TokenizerParts *parts,
                                   const char *path, Error *error)
{
    bool ok = true;
    tokenizer->n_merge = table_room(parts->n_merge);
    tokenizer->merge = NEW(Merge, tokenizer->n_merge);
    memset(tokenizer->merge, 0xFF, tokenizer->n_merge * sizeof *tokenizer->merge);
    for (size_t i = 0; ok && i < parts->n_merge; i++)
        ok = tokenizer_place_merge(tokenizer, &parts->merge[i], i, path, error);
    memset(tokenizer->of_byte, 0xFF, sizeof tokenizer->of_byte);
    for (uint32_t code = 0; code < 0x200; code++) {
        unsigned char text[4];
        int byte = byte_of_stand_in(code);
        if (byte >= 0)
            tokenizer->of_byte[byte] =
                token_find(tokenizer, (const char *)text, utf8_encode(text, code));
    }
    return ok;
}

static bool tokenizer_build(Tokenizer *tokenizer, const TokenizerParts *parts, const char *path,
                            Error *error)
{
    if (parts->model.bytes == NULL || parts->n_vocab == 0)
        return fail(error, "%s: there is no model with a type and a vocabulary in it", path);
    tokenizer->words = json_is(parts->model, "WordLevel");
    tokenizer->nfc = parts->nfc;
    tokenizer->lowercase = parts->lowercase;
    tokenizer->unknown = NO_TOKEN;
    bool byte_level =
        parts->pre_tokenizer.bytes != NULL && json_is(parts->pre_tokenizer, "ByteLevel");
    if (parts->pre_tokenizer.bytes == NULL || byte_level == tokenizer->words)
        return fail(error, "%s: a %s model goes with the pre_tokenizer %s", path,
                    tokenizer->words ? "WordLevel" : "BPE",
                    tokenizer->words ? "Whitespace or WhitespaceSplit" : "ByteLevel");
    tokenizer->signs_apart = json_is(parts->pre_tokenizer, "Whitespace");
    if (!tokenizer_place_tokens(tokenizer, parts, path, error))
        return false;
    tokenizer_place_added(tokenizer, parts);
    if (tokenizer->words && parts->unknown.bytes != NULL)
        tokenizer->unknown = token_find(tokenizer, parts->unknown.bytes, parts->unknown.len);
    return tokenizer->words || tokenizer_place_merges(tokenizer, parts, path, error);
}

void tokenizer_free(Tokenizer *tokenizer)
{
    for (size_t i = 0; i < tokenizer->n_token && tokenizer->token != NULL; i++)
        free(tokenizer->token[i].bytes);
    free(tokenizer->token), free(tokenizer->place), free(tokenizer->merge);
    free(tokenizer->added[0].node), free(tokenizer->added[1].node);
    free(tokenizer->strings);
    memset(tokenizer, 0, sizeof *tokenizer);
}

/* A tokenizer from the JSON of a tokenizer.json (len bytes); tokenizer_free when done. */
bool tokenizer_from_json(Tokenizer *tokenizer, const char *text, size_t len, const char *path,
                         Error *error)
{
    Tokenizer built;
    TokenizerParts parts;
    memset(&built, 0, sizeof built);
    memset(&parts, 0, sizeof parts);
    json_open(&parts.json, text, len, path, error);
    parts_read(&parts);
    bool ok = json_end(&parts.json) && tokenizer_build(&built, &parts, shown_path(path), error);
    built.strings = parts.json.strings; /* the texts of the tokens point in there */
    free(parts.vocab), free(parts.merge), free(parts.added);
    if (ok)
        *tokenizer = built;
    else
        tokenizer_free(&built);
    return ok;
}

bool tokenizer_read(Tokenizer *tokenizer, const char *path, Error *error)
{
    char *text;
    size_t len;
    if (!text_read(&text, &len, path, error))
        return false;
    bool ok = tokenizer_from_json(tokenizer, text, len, path, error);
    free(text);
    return ok;
}

/* ======================================== The folder ======================================= */
/* What Hugging Face's hub gives: config.json, tokenizer.json, and the weights in one file or */
/* several.                                                                                   */

enum { SHARD_MOST = 1000, STOP_MOST = 8, NAME_ROOM = 96 };

/* The files of weights, mapped into memory, and which of them holds which tensor. */
typedef struct {
    Safetensors *file; /* (n_file) */
    size_t n_file;
} Shards;

static bool path_exists(const char *dir, const char *name)
{
    char *path = path_in(dir, name);
    bool there = access(path, F_OK) == 0;
    free(path);
    return there;
}

static void shards_close(Shards *shards)
{
    for (size_t i = 0; i < shards->n_file; i++)
        safetensors_close(&shards->file[i]);
    free(shards->file);
    memset(shards, 0, sizeof *shards);
}

static bool shards_open(Shards *shards, const char *dir, const char *name, Error *error)
{
    char *path = path_in(dir, name);
    Safetensors file;
    bool ok = safetensors_open(&file, path, error);
    free(path);
    if (ok) {
        shards->file = (Safetensors *)safetensors_grow(shards->file, shards->n_file, sizeof file);
        shards->file[shards->n_file++] = file;
    }
    return ok;
}

/* The names of the shards that an index tells of, each once. */
typedef struct {
    char *name[SHARD_MOST]; /* (count) owned */
    size_t count;
} ShardNames;

static void shard_names_free(ShardNames *names)
{
    for (size_t i = 0; i < names->count; i++)
        free(names->name[i]);
    names->count = 0;
}

static void shard_names_add(ShardNames *names, Json *json, JsonText name)
{
    for (size_t i = 0; i < names->count; i++)
        if (json_is(name, names->name[i]))
            return;
    if (name.len == 0 || memchr(name.bytes, '/', name.len) || memchr(name.bytes, 0, name.len))
        json_fail(json, "'%s' is not the name of a file in this folder",
                  shown_name(name.bytes).text);
    else if (names->count == SHARD_MOST)
        json_fail(json, "more than %d files", SHARD_MOST);
    else
        names->name[names->count++] = safetensors_copy(name.bytes);
}

/* The files of a model.safetensors.index.json: {"weight_map": {"tensor": "file", ...}, ...}. */
bool shard_names_parse(ShardNames *names, const char *text, size_t len, const char *path,
                       Error *error)
{
    Json json;
    JsonText file = {"", 0};
    names->count = 0;
    json_open(&json, text, len, path, error);
    json_enter_object(&json);
    for (JsonText key = {NULL, 0}; json_next_key(&json, &key);) {
        if (!json_is(key, "weight_map")) {
            json_skip(&json);
            continue;
        }
        json_enter_object(&json);
        for (JsonText tensor = {NULL, 0}; json_next_key(&json, &tensor);)
            if (json_string(&json, &file))
                shard_names_add(names, &json, file);
    }
    bool ok = json_end(&json);
    json_close(&json);
    if (ok && names->count == 0)
        ok = fail(error, "%s: there is no weight_map with files in it", shown_path(path));
    if (!ok)
        shard_names_free(names);
    return ok;
}

static bool shards_open_index(Shards *shards, const char *dir, const char *index, Error *error)
{
    char *path = path_in(dir, index), *text = NULL;
    ShardNames names;
    size_t len = 0;
    names.count = 0;
    bool ok = text_read(&text, &len, path, error);
    ok = ok && shard_names_parse(&names, text, len, path, error);
    for (size_t i = 0; ok && i < names.count; i++)
        ok = shards_open(shards, dir, names.name[i], error);
    shard_names_free(&names);
    free(text);
    free(path);
    return ok;
}

/* A folder without safetensors: what is there, and what would do instead. */
static bool folder_refuse(const char *dir, Error *error)
{
    static const char *const pickles[] = {"pytorch_model.bin", "pytorch_model.bin.index.json",
                                          NULL};
    for (int i = 0; pickles[i] != NULL; i++)
        if (path_exists(dir, pickles[i]))
            return fail(error,
                        "%s: has its weights only in %s, which is Python's pickle; take a folder "
                        "with model.safetensors, such as state-spaces/mamba-130m-hf",
                        shown_path(dir), pickles[i]);
    return fail(error, "%s: there is no model.safetensors and no model.safetensors.index.json",
                shown_path(dir));
}

static bool folder_open_weights(Shards *shards, const char *dir, Error *error)
{
    bool ok;
    memset(shards, 0, sizeof *shards);
    if (path_exists(dir, "model.safetensors"))
        ok = shards_open(shards, dir, "model.safetensors", error);
    else if (path_exists(dir, "model.safetensors.index.json"))
        ok = shards_open_index(shards, dir, "model.safetensors.index.json", error);
    else
        ok = folder_refuse(dir, error);
    if (!ok)
        shards_close(shards);
    return ok;
}

/* Finds a tensor in any of the files; it must be there with this shape, as F32, F16 or BF16. */
static bool shards_expect(const Tensor **tensor, const Shards *shards, const char *name,
                          size_t rank, const size_t *shape, Error *error)
{
    size_t i = 0;
    while (i + 1 < shards->n_file && safetensors_find(&shards->file[i], name) == NULL)
        i++;
    if (!safetensors_expect(tensor, &shards->file[i], name, TENSOR_ANY, rank, shape, error))
        return false;
    TensorType type = (*tensor)->type;
    if (type != TENSOR_F32 && type != TENSOR_F16 && type != TENSOR_BF16)
        return fail(error, "%s: tensor '%s' is %s: F32, F16 and BF16 can be run",
                    shown_path(shards->file[i].path), name, tensor_type_name(type));
    return true;
}

/* ---- config.json, beyond the sizes ---- */

/* The ids that end a text, and the one that begins it. */
typedef struct {
    uint32_t stop[STOP_MOST]; /* (n_stop) */
    size_t n_stop;
    uint32_t begin; /* NO_TOKEN: none is named */
} TextEnds;

static void ends_id(Json *json, TextEnds *ends, bool begin)
{
    uint64_t id = 0;
    if (!json_integer(json, &id, CONFIG_MAX_VOCAB - 1))
        return;
    if (begin)
        ends->begin = (uint32_t)id;
    else if (ends->n_stop == STOP_MOST)
        json_fail(json, "more than %d eos_token_id", STOP_MOST);
    else
        ends->stop[ends->n_stop++] = (uint32_t)id;
}

static bool ends_parse(TextEnds *ends, const char *text, size_t len, const char *path, Error *error)
{
    Json json;
    memset(ends, 0, sizeof *ends);
    ends->begin = NO_TOKEN;
    json_open(&json, text, len, path, error);
    json_enter_object(&json);
    for (JsonText key = {NULL, 0}; json_next_key(&json, &key);) {
        bool begin = json_is(key, "bos_token_id"), end = json_is(key, "eos_token_id");
        if ((begin || end) && json_peek(&json) == JSON_NUMBER)
            ends_id(&json, ends, begin);
        else if (end && json_peek(&json) == JSON_ARRAY) {
            json_enter_array(&json);
            while (json_next_item(&json))
                ends_id(&json, ends, false);
        } else
            json_skip(&json);
    }
    bool ok = json_end(&json);
    json_close(&json);
    return ok;
}

static bool folder_read_config(MambaConfig *config, TextEnds *ends, const char *dir, Error *error)
{
    char *path = path_in(dir, "config.json"), *text = NULL;
    size_t len = 0;
    bool ok = text_read(&text, &len, path, error);
    if (ok && memmem(text, len, "\"d_model\"", 9) && !memmem(text, len, "\"hidden_size\"", 13))
        ok = fail(error,
                  "%s: this is the original layout of state-spaces/mamba; take the folder whose "
                  "name ends in -hf",
                  shown_path(path));
    ok = ok && config_parse(config, text, len, shown_path(path), error) &&
         ends_parse(ends, text, len, path, error);
    free(text);
    free(path);
    return ok;
}

/* ========================================= Weights ========================================= */
/* A matrix stays in its own type, where it lies in the mapped file: to read it is what costs */
/* time, and 16 bits are read in half the time of 32. With --int8 a copy in 8 bits is made at */
/* the start.                                                                                 */

enum {
    INT8_BLOCK = 64, /* weights that share a scale */
    INT8_ROWS = 4    /* rows whose blocks lie side by side: x is loaded once for all of them */
};

/* A matrix (rows, cols) as it is read for each token. */
typedef struct {
    TensorType type;           /* F32, F16, BF16; I8 with scales */
    size_t rows, cols, stride; /* bytes from row to row */
    const unsigned char *data; /* I8: blocks, filled up with 0, in the order of int8_place */
    const float *scale;        /* I8: of each block, in the same order */
    void *own;                 /* to be freed, or NULL */
} Weight;

static size_t blocks_of(size_t cols)
{
    return (cols + INT8_BLOCK - 1) / INT8_BLOCK;
}

/* Which block of a matrix in 8 bits is number `block` of a row. */
static size_t int8_place(size_t row, size_t block, size_t blocks)
{
    return (row / INT8_ROWS * blocks + block) * INT8_ROWS + row % INT8_ROWS;
}

/* The matrix where it lies; a copy only if it lies askew, which no usual file has. */
static Weight weight_from_tensor(const Tensor *tensor)
{
    Weight weight;
    memset(&weight, 0, sizeof weight);
    weight.type = tensor->type;
    weight.rows = tensor->shape[0];
    weight.cols = tensor->shape[1];
    weight.stride = weight.cols * tensor_type_size(tensor->type);
    weight.data = tensor->data;
    if ((uintptr_t)tensor->data % tensor_type_size(tensor->type) != 0) {
        weight.own = NEW(unsigned char, tensor->bytes);
        memcpy(weight.own, tensor->data, tensor->bytes);
        weight.data = (const unsigned char *)weight.own;
    }
    return weight;
}

static void weight_free(Weight *weight)
{
    free(weight->own);
    memset(weight, 0, sizeof *weight);
}

/* The sum of the lanes, in halves. */
INLINE float lanes_total(Lanes v)
{
#if LANES == 16
    return _mm512_reduce_add_ps((__m512)v);
#else
    return lanes_sum(v);
#endif
}

/* LANES numbers in F16 as floats. */
INLINE Lanes lanes_from_f16(const unsigned char *from)
{
#if LANES == 16
    __m256i half;
    memcpy(&half, from, sizeof half);
    return (Lanes)_mm512_cvtph_ps(half);
#elif LANES == 8 && defined(__F16C__)
    __m128i half;
    memcpy(&half, from, sizeof half);
    return (Lanes)_mm256_cvtph_ps(half);
#else
    float v[LANES];
    for (size_t i = 0; i < LANES; i++) {
        uint16_t half;
        memcpy(&half, from + 2 * i, sizeof half);
        v[i] = tensor_float_from_f16(half);
    }
    return lanes_load(v);
#endif
}

/* count numbers of a type as floats. */
static void numbers_to_float(float *out, TensorType type, const unsigned char *from, size_t count)
{
    Tensor tensor;
    size_t done = 0;
    for (; type == TENSOR_F16 && done + LANES <= count; done += LANES)
        lanes_store(out + done, lanes_from_f16(from + 2 * done));
    memset(&tensor, 0, sizeof tensor);
    tensor.type = type;
    tensor.count = count - done;
    tensor.data = from + done * tensor_type_size(type);
    tensor_to_float(out + done, &tensor);
}

/* The same numbers as F16, F32 or BF16 have them, as floats: rows first .. first + count - 1 of a
   matrix into out (count, cols). */
static void weight_rows_to_float(float *out, const Weight *weight, size_t first, size_t count)
{
    size_t blocks = blocks_of(weight->cols);
    PARALLEL_FOR(schedule(static) if (count * weight->cols > 50000))
    for (size_t r = 0; r < count; r++) {
        float *to = out + r * weight->cols;
        if (weight->type != TENSOR_I8)
            numbers_to_float(to, weight->type, weight->data + (first + r) * weight->stride,
                             weight->cols);
        for (size_t i = 0; i < weight->cols && weight->type == TENSOR_I8; i++) {
            size_t place = int8_place(first + r, i / INT8_BLOCK, blocks);
            const int8_t *block = (const int8_t *)weight->data + place * INT8_BLOCK;
            to[i] = weight->scale[place] * (float)block[i % INT8_BLOCK];
        }
    }
}

/* One block in 8 bits: the largest becomes 127, the others are rounded to nearest. Returns the
   scale; where a number is infinite or none, so is the scale. */
static float int8_block(int8_t out[INT8_BLOCK], const float in[INT8_BLOCK])
{
    const float round = 12582912.0f; /* 1.5 * 2^23: added, the last bits are the whole number */
    Lanes most = lanes_all(0.0f), none = lanes_all(0.0f);
    for (size_t i = 0; i < INT8_BLOCK; i += LANES) {
        most = lanes_larger(most, lanes_abs(lanes_load(in + i)));
        none += 0.0f * lanes_load(in + i);
    }
    float largest = lanes_largest(most), bad = lanes_total(none), factor = 127.0f / largest;
    if (isnan(bad)) {
        memset(out, 1, INT8_BLOCK);
        return bad;
    }
    factor = isfinite(factor) ? factor : 0.0f; /* below the smallest normal numbers all is 0 */
    for (size_t i = 0; i < INT8_BLOCK; i++) {
        float moved = in[i] * factor + round;
        uint32_t bits;
        memcpy(&bits, &moved, sizeof bits);
        out[i] = (int8_t)(uint8_t)bits;
    }
    return largest / 127.0f;
}

/* Memory of a known size that is handed out piece by piece. In large pages, if the system has them:
   they are read faster. */
typedef struct {
    unsigned char *bytes; /* (room) */
    size_t room, used;
} Arena;

static Arena arena_new(size_t room)
{
    enum { LARGE = 1 << 21 };
    Arena arena = {NULL, (room + LARGE - 1) / LARGE * LARGE, 0};
    void *memory = NULL;
    if (posix_memalign(&memory, LARGE, arena.room) != 0)
        memory = NEW(unsigned char, arena.room);
    madvise(memory, arena.room, MADV_HUGEPAGE);
    arena.bytes = (unsigned char *)memory;
    return arena;
}

static void *arena_take(Arena *arena, size_t bytes)
{
    void *taken = arena->bytes + arena->used;
    arena->used += (bytes + 63) / 64 * 64;
    assert(arena->used <= arena->room);
    return taken;
}

/* Blocks of a matrix in 8 bits; its rows are filled up to a multiple of INT8_ROWS. */
static size_t int8_blocks(size_t rows, size_t cols)
{
    return (rows + INT8_ROWS - 1) / INT8_ROWS * INT8_ROWS * blocks_of(cols);
}

/* Bytes that weight_to_int8 takes for a matrix. */
size_t int8_bytes(size_t rows, size_t cols)
{
    return int8_blocks(rows, cols) * INT8_BLOCK + int8_blocks(rows, cols) * sizeof(float) + 64;
}

/* A copy in 8 bits, with one scale for every INT8_BLOCK weights of a row. */
Weight weight_to_int8(const Weight *from, Arena *arena)
{
    size_t blocks = blocks_of(from->cols), all = int8_blocks(from->rows, from->cols);
    Weight weight;
    memset(&weight, 0, sizeof weight);
    weight.type = TENSOR_I8;
    weight.rows = from->rows;
    weight.cols = from->cols;
    weight.stride = blocks * INT8_BLOCK;
    int8_t *data = (int8_t *)arena_take(arena, all * INT8_BLOCK);
    float *scale = (float *)arena_take(arena, all * sizeof(float));
    PARALLEL_FOR(schedule(static))
    for (size_t r = 0; r < all / blocks; r++) {
        for (size_t b = 0; b < blocks; b++) {
            float block[INT8_BLOCK] = {0.0f};
            size_t at = b * INT8_BLOCK, place = int8_place(r, b, blocks);
            if (r < from->rows)
                numbers_to_float(block, from->type,
                                 from->data + r * from->stride + at * tensor_type_size(from->type),
                                 smaller(from->cols - at, INT8_BLOCK));
            scale[place] = int8_block(data + place * INT8_BLOCK, block);
        }
    }
    weight.data = (const unsigned char *)data;
    weight.scale = scale;
    return weight;
}

/* ---- one token: a matrix times a vector ---- */

/* A vector as the kernels want it; see activation_set. */
typedef struct {
    float *value;   /* (cols) */
    float *split;   /* BF16: of each 2 LANES first those at even places, then those at odd ones */
    int16_t *whole; /* I8: value = whole * unit, filled up with 0 to whole blocks */
    float unit;
} Activation;

enum { ACTIVATION_LANES = 64 }; /* space after the end, in numbers */

static size_t activation_floats(size_t cols)
{
    return 3 * (cols + ACTIVATION_LANES);
}

static Activation activation_place(float *memory, size_t most)
{
    Activation x;
    x.value = memory;
    x.split = memory + most + ACTIVATION_LANES;
    x.whole = (int16_t *)(void *)(x.split + most + ACTIVATION_LANES);
    x.unit = 0.0f;
    return x;
}

static void activation_split(Activation *x, size_t cols)
{
    for (size_t k = 0; k < cols; k += 2 * LANES)
        for (size_t i = 0; i < LANES; i++) {
            size_t even = k + 2 * i;
            x->split[k + i] = even < cols ? x->value[even] : 0.0f;
            x->split[k + LANES + i] = even + 1 < cols ? x->value[even + 1] : 0.0f;
        }
}

/* 15 bits and a sign for the vector: far finer than the weights' seven, so its rounding is not seen
   beside theirs. */
static void activation_whole(Activation *x, size_t cols)
{
    Lanes most = lanes_all(0.0f), none = lanes_all(0.0f);
    for (size_t i = 0; i < cols; i += LANES) {
        Lanes v = lanes_load_some(x->value + i, smaller(cols - i, LANES));
        most = lanes_larger(most, lanes_abs(v));
        none += 0.0f * v; /* 0, or NaN if a number is infinite or none */
    }
    float largest = lanes_largest(most), bad = lanes_sum(none), factor = 32767.0f / largest;
    memset(x->whole, 0, blocks_of(cols) * INT8_BLOCK * sizeof *x->whole);
    x->unit = largest / 32767.0f + bad;
    if (isnan(bad))
        x->whole[0] = 1; /* all sums become NaN, as they would be */
    if (isnan(bad) || !isfinite(factor))
        return;
    for (size_t i = 0; i < cols; i++)
        x->whole[i] = (int16_t)(int32_t)(x->value[i] * factor + (x->value[i] < 0 ? -0.5f : 0.5f));
}

/* Makes a vector ready for products with a weight of this type. */
static void activation_set(Activation *x, TensorType type, size_t cols)
{
    if (type == TENSOR_BF16)
        activation_split(x, cols);
    if (type == TENSOR_I8)
        activation_whole(x, cols);
}

/* Memory is asked for a page ahead: the processor's own looking ahead ends with each page. */
enum { AHEAD = 4096, LINE = 64 };

INLINE void look_ahead(const unsigned char *from, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += LINE)
        __builtin_prefetch(from + AHEAD + at);
}

/* Row after row, from start to end, is what memory delivers fastest; four sums side by side keep
   the processor from waiting for one of them. A row times x: */
INLINE float row_f32(const unsigned char *row, const Activation *x, size_t cols)
{
    const float *w = (const float *)(const void *)row;
    Lanes sum[4] = {{0}};
    size_t k = 0;
    for (; k + 4 * LANES <= cols; k += 4 * LANES) {
        look_ahead(row + 4 * k, 16 * LANES);
        for (size_t i = 0; i < 4; i++)
            sum[i] += lanes_load(x->value + k + i * LANES) * lanes_load(w + k + i * LANES);
    }
    for (; k < cols; k += LANES) {
        size_t some = smaller(cols - k, LANES);
        sum[0] += lanes_load_some(x->value + k, some) * lanes_load_some(w + k, some);
    }
    return lanes_total((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

/* Up to 2 LANES numbers of 16 bits; those beyond `count` are 0. */
INLINE LanesBits halves_load_some(const unsigned char *from, size_t count)
{
    LanesBits pair = {0};
#if LANES == 16 && defined(__AVX512BW__)
    pair = (LanesBits)_mm512_maskz_loadu_epi16(count < 2 * LANES ? (1u << count) - 1 : 0xffffffffu,
                                               from);
#else
    memcpy(&pair, from, 2 * smaller(count, 2 * LANES));
#endif
    return pair;
}

/* Two BF16 side by side are one whole number of 32 bits: without its lower half it is the second
   as a float, and moved up by 16 bits it is the first. x is split in the same way. */
INLINE Lanes bf16_products(LanesBits pair, const float *split, Lanes sum)
{
    sum += lanes_load(split) * (Lanes)(pair << 16);
    return sum + lanes_load(split + LANES) * (Lanes)(pair & (int32_t)0xFFFF0000);
}

INLINE float row_bf16(const unsigned char *row, const Activation *x, size_t cols)
{
    Lanes sum[4] = {{0}};
    size_t k = 0;
    for (; k + 8 * LANES <= cols; k += 8 * LANES) {
        look_ahead(row + 2 * k, 16 * LANES);
        for (size_t i = 0; i < 4; i++)
            sum[i] = bf16_products(halves_load_some(row + 2 * k + 4 * i * LANES, 2 * LANES),
                                   x->split + k + 2 * i * LANES, sum[i]);
    }
    for (; k < cols; k += 2 * LANES)
        sum[0] = bf16_products(halves_load_some(row + 2 * k, cols - k), x->split + k, sum[0]);
    return lanes_total((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

INLINE float row_f16(const unsigned char *row, const Activation *x, size_t cols)
{
    Lanes sum[4] = {{0}};
    size_t k = 0;
    for (; k + 4 * LANES <= cols; k += 4 * LANES) {
        look_ahead(row + 2 * k, 8 * LANES);
        for (size_t i = 0; i < 4; i++)
            sum[i] +=
                lanes_load(x->value + k + i * LANES) * lanes_from_f16(row + 2 * (k + i * LANES));
    }
    for (; k < cols; k += LANES) {
        size_t some = smaller(cols - k, LANES);
        LanesBits rest = halves_load_some(row + 2 * k, some);
        sum[1] += lanes_load_some(x->value + k, some) * lanes_from_f16((unsigned char *)&rest);
    }
    return lanes_total((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

/* One block of 8-bit weights times 16-bit numbers: exact, in LANES sums of at most 2^24 each. */
INLINE Lanes int8_products(const int8_t *w, const int16_t *x)
{
#if LANES == 16 && defined(__AVX512BW__)
    __m512i sum = _mm512_setzero_si512();
    for (size_t i = 0; i < INT8_BLOCK; i += 32) {
        __m512i wide = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(w + i)));
        __m512i by = _mm512_loadu_si512(x + i);
#ifdef __AVX512VNNI__
        sum = _mm512_dpwssd_epi32(sum, wide, by);
#else
        sum = _mm512_add_epi32(sum, _mm512_madd_epi16(wide, by));
#endif
    }
    return (Lanes)_mm512_cvtepi32_ps(sum);
#elif LANES == 8 && defined(__AVX2__)
    __m256i sum = _mm256_setzero_si256();
    for (size_t i = 0; i < INT8_BLOCK; i += 16) {
        __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(w + i)));
        sum = _mm256_add_epi32(
            sum, _mm256_madd_epi16(wide, _mm256_loadu_si256((const __m256i *)(x + i))));
    }
    return (Lanes)_mm256_cvtepi32_ps(sum);
#else
    Lanes v = lanes_all(0.0f);
    int32_t sum = 0;
    for (size_t i = 0; i < INT8_BLOCK; i++)
        sum += (int32_t)w[i] * x[i];
    v[0] = (float)sum;
    return v;
#endif
}

/* INT8_ROWS rows times x; data and scale are those of the first one's first block. */
INLINE void rows_int8(float sum[INT8_ROWS], const unsigned char *data, const float *scale,
                      const Activation *x, size_t blocks)
{
    Lanes total[INT8_ROWS] = {{0}};
    for (size_t b = 0; b < blocks; b++, scale += INT8_ROWS)
        for (size_t i = 0; i < INT8_ROWS; i++, data += INT8_BLOCK) {
            look_ahead(data, INT8_BLOCK);
            total[i] += scale[i] * int8_products((const int8_t *)data, x->whole + b * INT8_BLOCK);
        }
    for (size_t i = 0; i < INT8_ROWS; i++)
        sum[i] = x->unit * lanes_total(total[i]);
}

/* y[r] = sum over i of weight[r][i] x[i] for rows first .. end - 1, as it is defined. */
void weight_product_clear(float *y, const Weight *weight, const Activation *x, size_t first,
                          size_t end)
{
    float *row = NEW(float, weight->cols);
    for (size_t r = first; r < end; r++) {
        double sum = 0.0;
        weight_rows_to_float(row, weight, r, 1);
        for (size_t i = 0; i < weight->cols; i++)
            sum += (double)row[i] * (double)x->value[i];
        y[r] = (float)sum;
    }
    free(row);
}

/* weight_product_clear, for use: one thread's rows, after activation_set. */
void weight_product(float *y, const Weight *weight, const Activation *x, size_t first, size_t end)
{
    size_t cols = weight->cols, blocks = blocks_of(cols);
    const unsigned char *row = weight->data + first * weight->stride;
    switch (weight->type) {
    case TENSOR_F32:
        for (size_t r = first; r < end; r++, row += weight->stride)
            y[r] = row_f32(row, x, cols);
        break;
    case TENSOR_F16:
        for (size_t r = first; r < end; r++, row += weight->stride)
            y[r] = row_f16(row, x, cols);
        break;
    case TENSOR_BF16:
        for (size_t r = first; r < end; r++, row += weight->stride)
            y[r] = row_bf16(row, x, cols);
        break;
    default:
        for (size_t r = first / INT8_ROWS * INT8_ROWS; r < end; r += INT8_ROWS) {
            float sum[INT8_ROWS];
            size_t place = int8_place(r, 0, blocks);
            rows_int8(sum, weight->data + place * INT8_BLOCK, weight->scale + place, x, blocks);
            for (size_t i = 0; i < INT8_ROWS; i++)
                if (r + i >= first && r + i < end)
                    y[r + i] = sum[i];
        }
    }
}

/* ====================================== The model ========================================== */

/* The matrices of a block, in the order in which a step reads them. */
typedef enum { W_IN, W_X, W_DT, W_OUT, W_COUNT } WeightName;

static const BlockTensor weight_tensor[W_COUNT] = {IN_PROJ_WEIGHT, X_PROJ_WEIGHT, DT_PROJ_WEIGHT,
                                                   OUT_PROJ_WEIGHT};

typedef struct {
    Weight weight[W_COUNT];
    MambaBlock block; /* for many tokens at once; its matrices are NULL unless they lie in F32 */
    float *conv;      /* (d_conv, d_inner) the convolution's weights, transposed */
    float *A2;        /* as Memory's x: A log2 e, so that exp(delta A) = 2^(delta A2) */
    float *memory;    /* of all vectors of the block */
} PretrainedLayer;

/* A model as it was published, ready to run. */
typedef struct {
    MambaConfig config;
    TextEnds ends;
    Shards shards;
    PretrainedLayer *layer; /* (n_layer) */
    Weight embeddings, head;
    Arena arena; /* of matrices in 8 bits; bytes NULL: they stay as they are */
    float *norm_f;
    bool has_tokenizer;
    Tokenizer tokenizer;
    uint64_t print; /* a number that tells models apart */
} Pretrained;

/* What the file calls a tensor of a layer; its shape as chapter 5 has it. */
static bool layer_expect(const Tensor **tensor, const Pretrained *model, size_t layer, int part,
                         const TensorShape *shape, Error *error)
{
    char name[NAME_ROOM];
    snprintf(name, sizeof name, "backbone.layers.%zu.%s", layer, shape[part].name);
    return shards_expect(tensor, &model->shards, name, shape[part].rank, shape[part].shape, error);
}

static bool is_weight(int part)
{
    return part == IN_PROJ_WEIGHT || part == X_PROJ_WEIGHT || part == DT_PROJ_WEIGHT ||
           part == OUT_PROJ_WEIGHT;
}

/* Vectors become floats; matrices stay. Both are told by the first bytes of their data, too. */
static bool layer_read(Pretrained *model, size_t which, Error *error)
{
    PretrainedLayer *layer = &model->layer[which];
    TensorShape shape[BLOCK_TENSORS];
    size_t used = 0, room = 0;
    block_shapes(shape, &model->config);
    for (int part = 0; part < BLOCK_TENSORS; part++)
        room += is_weight(part) ? 0 : on_a_vector(shape[part].count);
    layer->memory = NEW(float, room);
    for (int part = 0; part < BLOCK_TENSORS; part++) {
        const Tensor *tensor = NULL;
        if (shape[part].count == 0)
            continue;
        if (!layer_expect(&tensor, model, which, part, shape, error))
            return false;
        model->print = hash_bytes(tensor->data, smaller(tensor->bytes, 256), model->print);
        if (is_weight(part))
            continue;
        layer->block.params.tensor[part] = layer->memory + used;
        tensor_to_float(layer->memory + used, tensor);
        used += on_a_vector(shape[part].count);
    }
    return true;
}

static size_t conv_floats(const MambaConfig *config)
{
    return config->intermediate_size * (config->conv_kernel - 1);
}

static size_t x_floats(const MambaConfig *config)
{
    return (config->intermediate_size + LANES - 1) / LANES * LANES * config->state_size;
}

/* Where state n of channel d lies for a step: the states of LANES channels side by side. */
static size_t lane_of_state(size_t d, size_t n, size_t d_state)
{
    return (d / LANES * d_state + n) * LANES + d % LANES;
}

/* out (x_floats) from in (d_inner, d_state), and back. */
static void states_in_lanes(float *out, const float *in, const MambaConfig *config)
{
    for (size_t d = 0; d < config->intermediate_size; d++)
        for (size_t n = 0; n < config->state_size; n++)
            out[lane_of_state(d, n, config->state_size)] = in[d * config->state_size + n];
}

static void states_in_rows(float *out, const float *in, const MambaConfig *config)
{
    for (size_t d = 0; d < config->intermediate_size; d++)
        for (size_t n = 0; n < config->state_size; n++)
            out[d * config->state_size + n] = in[lane_of_state(d, n, config->state_size)];
}

static void layer_prepare(PretrainedLayer *layer, const MambaConfig *config)
{
    size_t d_inner = config->intermediate_size, d_state = config->state_size,
           d_conv = config->conv_kernel;
    const float log2_e = 1.44269504f;
    layer->block.config = *config;
    layer->block.A = NEW(float, d_inner *d_state);
    layer->A2 = NEW(float, x_floats(config));
    layer->conv = NEW(float, d_inner *d_conv);
    block_refresh(&layer->block);
    states_in_lanes(layer->A2, layer->block.A, config);
    for (size_t i = 0; i < x_floats(config); i++)
        layer->A2[i] *= log2_e;
    for (size_t d = 0; d < d_inner; d++)
        for (size_t j = 0; j < d_conv; j++)
            layer->conv[j * d_inner + d] =
                layer->block.params.tensor[CONV1D_WEIGHT][d * d_conv + j];
}

/* A matrix, kept as it is or in 8 bits; the pages that were read for that are given back. */
static Weight weight_kept(const Tensor *tensor, Arena *arena)
{
    Weight weight = weight_from_tensor(tensor);
    if (arena->bytes == NULL)
        return weight;
    Weight small = weight_to_int8(&weight, arena);
    weight_free(&weight);
    size_t page = 65536, skip = (page - (uintptr_t)tensor->data % page) % page;
    if (tensor->bytes > skip + page)
        madvise((void *)(tensor->data + skip), (tensor->bytes - skip) / page * page, MADV_DONTNEED);
    return small;
}

static bool layer_read_weights(Pretrained *model, size_t which, Error *error)
{
    PretrainedLayer *layer = &model->layer[which];
    TensorShape shape[BLOCK_TENSORS];
    block_shapes(shape, &model->config);
    for (int w = 0; w < W_COUNT; w++) {
        const Tensor *tensor = NULL;
        int part = weight_tensor[w];
        if (!layer_expect(&tensor, model, which, part, shape, error))
            return false;
        layer->weight[w] = weight_kept(tensor, &model->arena);
        if (layer->weight[w].type == TENSOR_F32)
            layer->block.params.tensor[part] = (float *)(void *)layer->weight[w].data;
    }
    return true;
}

/* Embeddings and last norm; the head's tensor through *head. The table may have more rows than
   config.json says: a vocabulary is padded to a round number. */
static bool model_read_ends(Pretrained *model, const Tensor **head, Error *error)
{
    MambaConfig *config = &model->config;
    const Tensor *table = NULL, *norm = NULL;
    size_t shape[2] = {config->vocab_size, config->hidden_size};
    for (size_t i = 0; i < model->shards.n_file && table == NULL; i++)
        table = safetensors_find(&model->shards.file[i], "backbone.embeddings.weight");
    if (table != NULL && table->rank == 2 && table->shape[0] > shape[0] &&
        table->shape[0] <= CONFIG_MAX_VOCAB)
        config->vocab_size = shape[0] = table->shape[0];
    if (!shards_expect(&table, &model->shards, "backbone.embeddings.weight", 2, shape, error) ||
        !shards_expect(&norm, &model->shards, "backbone.norm_f.weight", 1, shape + 1, error))
        return false;
    *head = table;
    if (!config->tie_word_embeddings &&
        !shards_expect(head, &model->shards, "lm_head.weight", 2, shape, error))
        return false;
    model->norm_f = NEW(float, config->hidden_size);
    tensor_to_float(model->norm_f, norm);
    model->embeddings = weight_from_tensor(table);
    model->print = hash_bytes(&config->hidden_size, sizeof config->hidden_size, 1);
    model->print = hash_bytes(table->data, smaller(table->bytes, 4096), model->print);
    model->print = hash_bytes(norm->data, norm->bytes, model->print);
    return true;
}

void pretrained_close(Pretrained *model)
{
    for (size_t i = 0; model->layer != NULL && i < model->config.num_hidden_layers; i++) {
        PretrainedLayer *layer = &model->layer[i];
        for (int w = 0; w < W_COUNT; w++)
            weight_free(&layer->weight[w]);
        free(layer->memory), free(layer->conv), free(layer->A2), free(layer->block.A);
    }
    free(model->layer), free(model->norm_f);
    weight_free(&model->embeddings), weight_free(&model->head);
    free(model->arena.bytes);
    if (model->has_tokenizer)
        tokenizer_free(&model->tokenizer);
    shards_close(&model->shards);
    memset(model, 0, sizeof *model);
}

static bool model_read_tokenizer(Pretrained *model, const char *dir, Error *error)
{
    char *path = path_in(dir, "tokenizer.json");
    model->has_tokenizer = access(path, F_OK) == 0;
    bool ok = !model->has_tokenizer || tokenizer_read(&model->tokenizer, path, error);
    if (!ok)
        model->has_tokenizer = false;
    else if (model->has_tokenizer && model->tokenizer.n_token > model->config.vocab_size)
        ok = fail(error, "%s: has ids up to %zu, but the model knows only %zu tokens",
                  shown_path(path), model->tokenizer.n_token - 1, model->config.vocab_size);
    free(path);
    return ok;
}

/* Whether every tensor of every layer is there, before memory is asked for; and how many bytes all
   matrices take in 8 bits. */
static bool layers_check(size_t *bytes, const Pretrained *model, Error *error)
{
    TensorShape shape[BLOCK_TENSORS];
    const Tensor *tensor = NULL;
    block_shapes(shape, &model->config);
    *bytes = int8_bytes(model->config.vocab_size, model->config.hidden_size);
    for (size_t i = 0; i < model->config.num_hidden_layers; i++)
        for (int part = 0; part < BLOCK_TENSORS; part++) {
            if (shape[part].count == 0)
                continue;
            if (!layer_expect(&tensor, model, i, part, shape, error))
                return false;
            if (is_weight(part))
                *bytes += int8_bytes(shape[part].shape[0], shape[part].shape[1]);
        }
    return true;
}

static bool model_read(Pretrained *model, const char *dir, bool int8, Error *error)
{
    size_t bytes = 0;
    const Tensor *head = NULL;
    if (!folder_read_config(&model->config, &model->ends, dir, error) ||
        !folder_open_weights(&model->shards, dir, error) || !model_read_ends(model, &head, error) ||
        !model_read_tokenizer(model, dir, error) || !layers_check(&bytes, model, error))
        return false;
    if (int8)
        model->arena = arena_new(bytes);
    model->head = weight_kept(head, &model->arena);
    model->layer = NEW(PretrainedLayer, model->config.num_hidden_layers);
    bool ok = true;
    for (size_t i = 0; ok && i < model->config.num_hidden_layers; i++) {
        ok = layer_read(model, i, error) && layer_read_weights(model, i, error);
        if (ok)
            layer_prepare(&model->layer[i], &model->config);
    }
    return ok;
}

/* A model from its folder, with everything checked; int8: matrices are turned into 8 bits.
   Nobody may shorten the files before pretrained_close. */
bool pretrained_open(Pretrained *model, const char *dir, bool int8, Error *error)
{
    Pretrained read;
    struct stat info;
    memset(&read, 0, sizeof read);
    if (stat(dir, &info) != 0)
        return fail(error, "%s: %s", shown_path(dir), strerror(errno));
    if (!S_ISDIR(info.st_mode))
        return fail(error, "%s: this is not a folder; the folder of a model is wanted",
                    shown_path(dir));
    if (!model_read(&read, dir, int8, error)) {
        pretrained_close(&read);
        return false;
    }
    *model = read;
    return true;
}

static size_t weight_bytes(const Weight *weight)
{
    size_t scales = weight->scale != NULL ? weight->rows * blocks_of(weight->cols) : 0;
    return weight->rows * weight->stride + scales * sizeof(float);
}

/* Bytes that are read for each token: all weights, A and the states. */
size_t pretrained_step_bytes(const Pretrained *model)
{
    const MambaConfig *config = &model->config;
    size_t vectors = config->intermediate_size * (config->conv_kernel + 3) + config->hidden_size;
    size_t states = 2 * x_floats(config) + conv_floats(config);
    size_t bytes = weight_bytes(&model->head);
    for (size_t i = 0; i < config->num_hidden_layers; i++) {
        for (int w = 0; w < W_COUNT; w++)
            bytes += weight_bytes(&model->layer[i].weight[w]);
        bytes += (vectors + states) * sizeof(float);
    }
    return bytes;
}

/* ======================================== Memory =========================================== */
/* Everything a model knows of a text so far, whatever its length: the whole memory of a */
/* conversation.                                                                         */

typedef struct {
    size_t count; /* tokens so far */
    float *conv;  /* (n_layer, d_conv - 1, d_inner) the last inputs of each convolution */
    float *x;     /* (n_layer, x_floats) the states, as lane_of_state places them */
    float *final; /* (d_model) after the last norm, of the last token: its logits come from there */
} Memory;

Memory memory_new(const MambaConfig *config)
{
    Memory memory = {0, NEW(float, config->num_hidden_layers *conv_floats(config)),
                     NEW(float, config->num_hidden_layers *x_floats(config)),
                     NEW(float, config->hidden_size)};
    return memory;
}

void memory_free(Memory *memory)
{
    free(memory->conv), free(memory->x), free(memory->final);
}

static void memory_note(SafetensorsWriter *writer, const char *key, uint64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, value);
    safetensors_add_metadata(writer, key, text);
}

/* Writes a memory, and the tokens that count as seen, to one file: conv (n_layer, d_conv - 1,
   d_inner), ssm (n_layer, d_inner, d_state) as Hugging Face lays it out, final, seen. */
bool memory_save(const Memory *memory, const Sampler *sampler, const Pretrained *model,
                 const char *path, Error *error)
{
    const MambaConfig *config = &model->config;
    size_t layers = config->num_hidden_layers, d_inner = config->intermediate_size;
    size_t conv_shape[3] = {layers, config->conv_kernel - 1, d_inner};
    size_t x_shape[3] = {layers, d_inner, config->state_size};
    float *x = NEW(float, layers *d_inner * config->state_size);
    for (size_t i = 0; i < layers; i++)
        states_in_rows(x + i * d_inner * config->state_size, memory->x + i * x_floats(config),
                       config);
    SafetensorsWriter writer;
    safetensors_writer_init(&writer);
    safetensors_add_metadata(&writer, "format", "mamba-memory");
    memory_note(&writer, "model", model->print);
    memory_note(&writer, "tokens", memory->count);
    safetensors_add(&writer, "conv", TENSOR_F32, memory->conv, 3, conv_shape);
    safetensors_add(&writer, "ssm", TENSOR_F32, x, 3, x_shape);
    safetensors_add(&writer, "final", TENSOR_F32, memory->final, 1, &config->hidden_size);
    safetensors_add(&writer, "seen", TENSOR_I32, sampler->seen, 1, &sampler->n_seen);
    bool ok = safetensors_write(&writer, path, error);
    safetensors_writer_free(&writer);
    free(x);
    return ok;
}

static bool memory_read_note(uint64_t *value, const Safetensors *file, const char *key,
                             Error *error)
{
    const char *text = safetensors_metadata(file, key);
    Error why;
    if (text == NULL)
        return fail(error, "%s: is no saved state: its metadata has no '%s'",
                    shown_path(file->path), key);
    return integer_parse(value, text, 0, UINT64_MAX, &why) ||
           fail(error, "%s: metadata '%s': %s", shown_path(file->path), key, why.text);
}

/* Whether a file fits the model, and its tensors. */
static bool memory_check(const Tensor *tensor[4], uint64_t *count, const Safetensors *file,
                         const Pretrained *model, Error *error)
{
    const MambaConfig *config = &model->config;
    uint64_t print = 0;
    size_t conv_shape[3] = {config->num_hidden_layers, config->conv_kernel - 1,
                            config->intermediate_size};
    size_t x_shape[3] = {config->num_hidden_layers, config->intermediate_size, config->state_size};
    if (!memory_read_note(&print, file, "model", error) ||
        !memory_read_note(count, file, "tokens", error))
        return false;
    if (print != model->print)
        return fail(error, "%s: was saved by another model", shown_path(file->path));
    const Tensor *seen = safetensors_find(file, "seen");
    size_t n_seen = seen != NULL && seen->rank == 1 ? seen->shape[0] : 0;
    return safetensors_expect(&tensor[0], file, "conv", TENSOR_F32, 3, conv_shape, error) &&
           safetensors_expect(&tensor[1], file, "ssm", TENSOR_F32, 3, x_shape, error) &&
           safetensors_expect(&tensor[2], file, "final", TENSOR_F32, 1, &config->hidden_size,
                              error) &&
           safetensors_expect(&tensor[3], file, "seen", TENSOR_I32, 1, &n_seen, error);
}

/* A memory from an open file; `memory` and `sampler` are those of the model, and stay as they
   are if it fails. */
bool memory_take(Memory *memory, Sampler *sampler, const Safetensors *file, const Pretrained *model,
                 Error *error)
{
    const MambaConfig *config = &model->config;
    const Tensor *tensor[4];
    uint64_t count = 0;
    if (!memory_check(tensor, &count, file, model, error))
        return false;
    int32_t id;
    for (size_t i = 0; i < tensor[3]->count; i++) {
        memcpy(&id, tensor[3]->data + i * sizeof id, sizeof id);
        if (id < 0 || (size_t)id >= config->vocab_size)
            return fail(error, "%s: tensor 'seen' has the id %d, but there are %zu tokens",
                        shown_path(file->path), (int)id, config->vocab_size);
    }
    sampler_forget(sampler);
    for (size_t i = 0; i < tensor[3]->count; i++) {
        memcpy(&id, tensor[3]->data + i * sizeof id, sizeof id);
        sampler_see(sampler, (size_t)id);
    }
    memory->count = (size_t)count;
    tensor_to_float(memory->conv, tensor[0]);
    tensor_to_float(memory->final, tensor[2]);
    float *x = NEW(float, tensor[1]->count);
    tensor_to_float(x, tensor[1]);
    for (size_t i = 0; i < config->num_hidden_layers; i++)
        states_in_lanes(memory->x + i * x_floats(config),
                        x + i * config->intermediate_size * config->state_size, config);
    free(x);
    return true;
}

bool memory_load(Memory *memory, Sampler *sampler, const Pretrained *model, const char *path,
                 Error *error)
{
    Safetensors file;
    if (!safetensors_open(&file, path, error))
        return false;
    bool ok = memory_take(memory, sampler, &file, model, error);
    safetensors_close(&file);
    return ok;
}

/* ====================================== One token ========================================== */
/* A step reads every weight once. All threads go through it side by side, each with its own */
/* rows and channels, and wait for each other four times a layer.                            */

/* Where the time of a step goes. */
typedef enum { T_IN, T_CONV, T_X, T_DT, T_SCAN, T_OUT, T_HEAD, T_SAMPLE, T_COUNT } StepTime;

static const char *const step_time_name[T_COUNT] = {"in_proj", "convolution", "x_proj", "dt_proj",
                                                    "scan",    "out_proj",    "head",   "sampling"};

enum { PROMPT_CHUNK = 256, PROMPT_LEAST = 6, HEAD_ROWS = 2048, LOGIT_TOKENS = 32 };
enum { ALONE_BYTES = 4 << 20 }; /* a step that reads less is over before threads have met */

/* A model at work: workspace for steps and for prompts, asked for once. */
typedef struct {
    const Pretrained *model;
    size_t threads;
    float *memory;                       /* of the step */
    float *hidden, *in, *u, *x_dbl, *dt; /* one token's residual, u and z, u after silu, ... */
    float *gated, *mixed, *logits;
    float *own; /* (threads, activation_floats(widest)) each thread's activation */
    size_t widest;
    size_t waiting, round;         /* where threads wait for each other: see threads_meet */
    double seconds[T_COUNT], mark; /* added up if `timed` */
    bool timed;
    /* for many tokens at once */
    size_t room; /* tokens that there is space for; 0 before the first prompt */
    BlockCache cache;
    float *cache_memory, *rows, *final, *scale, *matrices, *x_turned, *many_logits;
    double *focus; /* (n_layer, tokens) mean Delta, if not NULL; (focus_tokens) in a row */
    size_t focus_tokens;
} Runner;

/* Steps use so many threads from now on. */
static void runner_threads(Runner *run, size_t threads)
{
    free(run->own);
    run->own = NEW(float, threads *activation_floats(run->widest));
    run->threads = threads;
}

Runner runner_new(const Pretrained *model)
{
    const MambaConfig *config = &model->config;
    size_t d_inner = config->intermediate_size, used = 0;
    Runner run;
    memset(&run, 0, sizeof run);
    run.model = model;
    run.threads = pretrained_step_bytes(model) < ALONE_BYTES ? 1 : (size_t)threads_most();
    run.widest = on_a_vector(config->hidden_size > d_inner ? config->hidden_size : d_inner);
    run.own = NEW(float, run.threads *activation_floats(run.widest));
    for (int pass = 0; pass < 2; pass++, used = 0) {
        run.hidden = take(run.memory, &used, config->hidden_size);
        run.in = take(run.memory, &used, 2 * d_inner);
        run.u = take(run.memory, &used, d_inner);
        run.x_dbl = take(run.memory, &used, config->time_step_rank + 2 * config->state_size);
        run.dt = take(run.memory, &used, d_inner);
        run.gated = take(run.memory, &used, d_inner);
        run.mixed = take(run.memory, &used, config->hidden_size);
        run.logits = take(run.memory, &used, config->vocab_size);
        if (pass == 0)
            run.memory = NEW(float, used);
    }
    return run;
}

void runner_free(Runner *run)
{
    free(run->memory), free(run->own), free(run->cache_memory), free(run->rows);
    free(run->final), free(run->scale), free(run->matrices), free(run->x_turned);
    free(run->many_logits), free(run->focus);
}

/* Waits until all threads are here. They wait awake, for it is only microseconds; but where another
   program has taken a thread's processor, the others give theirs away. */
static void threads_meet(Runner *run, size_t threads)
{
    enum { AWAKE = 4000 };
    size_t round = __atomic_load_n(&run->round, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&run->waiting, 1, __ATOMIC_ACQ_REL) == threads) {
        __atomic_store_n(&run->waiting, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&run->round, round + 1, __ATOMIC_RELEASE);
        return;
    }
    for (size_t turn = 0; __atomic_load_n(&run->round, __ATOMIC_ACQUIRE) == round; turn++) {
        if (turn >= AWAKE)
            sched_yield();
#if defined(__x86_64__) || defined(__i386__)
        else
            __builtin_ia32_pause();
#endif
    }
}

/* The first of the rows that a thread works on: even shares, on borders of 16. */
static size_t share_start(size_t rows, size_t thread, size_t threads)
{
    return smaller(rows, (rows + 15) / 16 * thread / threads * 16);
}

static void norm_token(float *out, const float *in, const float *weight, double epsilon,
                       size_t count)
{
    float scale = (float)(1.0 / sqrt((double)dot(in, in, count) / (double)count + epsilon));
    for (size_t i = 0; i < count; i++)
        out[i] = in[i] * scale * weight[i];
}

/* Channels first .. end - 1 of the convolution and its silu; `past` moves on by one token. */
static void step_conv(float *u, float *past, const float *in, const PretrainedLayer *layer,
                      size_t first, size_t end)
{
    const MambaConfig *config = &layer->block.config;
    const float *bias = layer->block.params.tensor[CONV1D_BIAS];
    const ExpTable table = exp_table();
    size_t d_inner = config->intermediate_size, d_conv = config->conv_kernel;
    for (size_t d = first; d < end; d += LANES) {
        size_t some = smaller(end - d, LANES);
        Lanes now = lanes_load_some(in + d, some);
        Lanes sum = now * lanes_load_some(layer->conv + (d_conv - 1) * d_inner + d, some);
        if (bias != NULL)
            sum += lanes_load_some(bias + d, some);
        for (size_t j = 0; j + 1 < d_conv; j++) {
            float *at = past + j * d_inner + d;
            sum += lanes_load_some(at, some) * lanes_load_some(layer->conv + j * d_inner + d, some);
            lanes_store_some(at, j + 2 < d_conv ? lanes_load_some(at + d_inner, some) : now, some);
        }
        lanes_store_some(u + d, sum * lanes_sigmoid(sum, table), some);
    }
}

/* Channels first .. end - 1 of the scan's step and the gate: chapter 4's recurrence, with the
   states of neighbouring channels side by side. */
static void step_scan(Runner *run, float *x, const PretrainedLayer *layer, size_t first, size_t end)
{
    const MambaConfig *config = &layer->block.config;
    const ExpTable table = exp_table();
    size_t d_inner = config->intermediate_size, d_state = config->state_size;
    const float *B = run->x_dbl + config->time_step_rank, *C = B + d_state;
    for (size_t d = first; d < end; d += LANES) {
        size_t some = smaller(end - d, LANES);
        Lanes bias = lanes_load_some(layer->block.params.tensor[DT_PROJ_BIAS] + d, some);
        Lanes delta = lanes_softplus(lanes_load_some(run->dt + d, some) + bias, table);
        Lanes u = lanes_load_some(run->u + d, some),
              z = lanes_load_some(run->in + d_inner + d, some);
        Lanes drive = delta * u;
        Lanes y = u * lanes_load_some(layer->block.params.tensor[D_SKIP] + d, some);
        float *state = x + d * d_state; /* lane_of_state(d, 0, d_state) */
        const float *A2 = layer->A2 + d * d_state;
        for (size_t n = 0; n < d_state; n++, state += LANES, A2 += LANES) {
            Lanes A_bar = exp2_product_any(delta, lanes_load(A2), table);
            Lanes now = lanes_load(state) * A_bar + drive * B[n];
            lanes_store(state, now);
            y += now * C[n];
        }
        lanes_store_some(run->gated + d, y * z * lanes_sigmoid(z, table), some);
    }
}

static void step_time(Runner *run, StepTime what, size_t thread)
{
    if (!run->timed || thread > 0)
        return;
    double now = seconds_now();
    run->seconds[what] += now - run->mark;
    run->mark = now;
}

/* One thread's part of a layer. */
static void step_layer(Runner *run, Memory *memory, size_t which, Activation *x, size_t thread,
                       size_t threads)
{
    const PretrainedLayer *layer = &run->model->layer[which];
    const MambaConfig *config = &run->model->config;
    const Weight *W = layer->weight;
    float *const *p = layer->block.params.tensor, *normed = x->value;
    size_t d_model = config->hidden_size, d_inner = config->intermediate_size;
    size_t narrow = config->time_step_rank + 2 * config->state_size;
    size_t first = share_start(d_inner, thread, threads);
    size_t end = share_start(d_inner, thread + 1, threads);

    /* u, z = in_proj(norm(h)).chunk(2); u = silu(conv1d(u)): each thread its own channels */
    norm_token(normed, run->hidden, p[NORM_WEIGHT], config->layer_norm_epsilon, d_model);
    activation_set(x, W[W_IN].type, d_model);
    weight_product(run->in, &W[W_IN], x, first, end);
    weight_product(run->in, &W[W_IN], x, d_inner + first, d_inner + end);
    for (size_t d = first; d < end && p[IN_PROJ_BIAS] != NULL; d++) {
        run->in[d] += p[IN_PROJ_BIAS][d];
        run->in[d_inner + d] += p[IN_PROJ_BIAS][d_inner + d];
    }
    step_time(run, T_IN, thread);
    step_conv(run->u, memory->conv + which * conv_floats(config), run->in, layer, first, end);
    threads_meet(run, threads);
    step_time(run, T_CONV, thread);
    /* dt, B, C = split(x_proj(u)): the narrowest product, and all of u is wanted for it */
    x->value = run->u;
    activation_set(x, W[W_X].type, d_inner);
    weight_product(run->x_dbl, &W[W_X], x, share_start(narrow, thread, threads),
                   share_start(narrow, thread + 1, threads));
    threads_meet(run, threads);
    step_time(run, T_X, thread);
    /* Delta = softplus(dt_proj(dt)); y = scan(u, Delta, A, B, C, D) silu(z) */
    x->value = run->x_dbl;
    activation_set(x, W[W_DT].type, config->time_step_rank);
    weight_product(run->dt, &W[W_DT], x, first, end);
    step_time(run, T_DT, thread);
    step_scan(run, memory->x + which * x_floats(config), layer, first, end);
    threads_meet(run, threads);
    step_time(run, T_SCAN, thread);
    /* h = h + out_proj(y) */
    x->value = run->gated;
    activation_set(x, W[W_OUT].type, d_inner);
    first = share_start(d_model, thread, threads);
    end = share_start(d_model, thread + 1, threads);
    weight_product(run->mixed, &W[W_OUT], x, first, end);
    for (size_t i = first; i < end; i++)
        run->hidden[i] += run->mixed[i] + (p[OUT_PROJ_BIAS] == NULL ? 0.0f : p[OUT_PROJ_BIAS][i]);
    x->value = normed;
    threads_meet(run, threads);
    step_time(run, T_OUT, thread);
}

/* One thread's part of the head: run->logits from the normed token in x. */
static void step_head(Runner *run, Activation *x, size_t thread, size_t threads)
{
    size_t vocab = run->model->config.vocab_size;
    activation_set(x, run->model->head.type, run->model->config.hidden_size);
    weight_product(run->logits, &run->model->head, x, share_start(vocab, thread, threads),
                   share_start(vocab, thread + 1, threads));
    threads_meet(run, threads);
    step_time(run, T_HEAD, thread);
}

/* One thread's part of a step, or, with id NO_TOKEN, of the head alone. */
static void step_part(Runner *run, Memory *memory, uint32_t id, bool logits, size_t thread,
                      size_t threads)
{
    const MambaConfig *config = &run->model->config;
    Activation x =
        activation_place(run->own + thread * activation_floats(run->widest), run->widest);
    if (id != NO_TOKEN) {
        for (size_t i = 0; i < config->num_hidden_layers; i++)
            step_layer(run, memory, i, &x, thread, threads);
        norm_token(x.value, run->hidden, run->model->norm_f, config->layer_norm_epsilon,
                   config->hidden_size);
        if (thread == 0)
            memcpy(memory->final, x.value, config->hidden_size * sizeof(float));
    } else
        memcpy(x.value, memory->final, config->hidden_size * sizeof(float));
    if (logits)
        step_head(run, &x, thread, threads);
}

static void step_all(Runner *run, Memory *memory, uint32_t id, bool logits)
{
    run->mark = run->timed ? seconds_now() : 0.0;
#ifdef _OPENMP
    if (run->threads > 1) {
        PARALLEL_PRAGMA(omp parallel num_threads((int)run->threads))
        step_part(run, memory, id, logits, (size_t)omp_get_thread_num(),
                  (size_t)omp_get_num_threads());
        return;
    }
#endif
    step_part(run, memory, id, logits, 0, 1);
}

/* One token (below vocab) goes into the memory; with `logits` run->logits says what may follow. The
   same bits for any number of threads. */
void runner_step(Runner *run, Memory *memory, uint32_t id, bool logits)
{
    weight_rows_to_float(run->hidden, &run->model->embeddings, id, 1);
    step_all(run, memory, id, logits);
    memory->count++;
}

/* run->logits of the last token in a memory. */
void runner_logits(Runner *run, Memory *memory)
{
    step_all(run, memory, NO_TOKEN, true);
}

/* ===================================== Many tokens ========================================= */
/* A prompt is known beforehand: its tokens go through each layer together, as chapter 5's   */
/* block does it, and each weight is used for all of them. What the block wants in floats is */
/* made so, one layer at a time.                                                             */

static size_t matrices_floats(const Pretrained *model)
{
    size_t most = HEAD_ROWS * model->config.hidden_size, sum = 0;
    for (int w = 0; w < W_COUNT; w++)
        sum += on_a_vector(model->layer[0].weight[w].rows * model->layer[0].weight[w].cols);
    return sum > most ? sum : most;
}

/* Workspace for up to `tokens` tokens at once. */
static void runner_room(Runner *run, size_t tokens)
{
    const Pretrained *model = run->model;
    const MambaConfig *config = &model->config;
    const MambaBlock *block = &model->layer[0].block;
    if (run->room >= tokens)
        return;
    free(run->cache_memory), free(run->rows), free(run->final), free(run->scale);
    run->room = tokens;
    run->cache_memory = NEW(float, block_cache_place(&run->cache, NULL, block, 1, tokens, false));
    run->rows = NEW(float, tokens * config->hidden_size);
    run->final = NEW(float, tokens * config->hidden_size);
    run->scale = NEW(float, tokens);
    if (run->matrices == NULL) {
        run->matrices = NEW(float, matrices_floats(model));
        run->x_turned = NEW(float, x_floats(config));
    }
}

/* The layer's block with all its matrices as floats. */
static MambaBlock layer_as_floats(Runner *run, const PretrainedLayer *layer)
{
    MambaBlock block = layer->block;
    size_t used = 0;
    for (int w = 0; w < W_COUNT; w++) {
        const Weight *weight = &layer->weight[w];
        if (weight->type == TENSOR_F32)
            continue;
        weight_rows_to_float(run->matrices + used, weight, 0, weight->rows);
        block.params.tensor[weight_tensor[w]] = run->matrices + used;
        used += on_a_vector(weight->rows * weight->cols);
    }
    return block;
}

/* The mean Delta of each token in one layer. */
static void runner_focus(Runner *run, size_t layer, size_t start, size_t len,
                         const MambaBlock *block)
{
    size_t d_inner = block->config.intermediate_size;
    for (size_t t = 0; t < len; t++) {
        double sum = 0.0;
        for (size_t d = 0; d < d_inner; d++)
            sum += (double)softplus(run->cache.dt_raw[t * d_inner + d] +
                                    block->params.tensor[DT_PROJ_BIAS][d]);
        run->focus[layer * run->focus_tokens + start + t] = sum / (double)d_inner;
    }
}

/* Up to PROMPT_CHUNK tokens at once; run->final (len, d_model) is what came out for each. `start`:
   how many were before them, for run->focus. */
static void runner_chunk(Runner *run, Memory *memory, const uint32_t *ids, size_t len, size_t start)
{
    const Pretrained *model = run->model;
    const MambaConfig *config = &model->config;
    size_t d_model = config->hidden_size;
    runner_room(run, len);
    block_cache_place(&run->cache, run->cache_memory, &model->layer[0].block, 1, len, false);
    for (size_t t = 0; t < len; t++)
        weight_rows_to_float(run->rows + t * d_model, &model->embeddings, ids[t], 1);
    for (size_t i = 0; i < config->num_hidden_layers; i++) {
        MambaBlock block = layer_as_floats(run, &model->layer[i]);
        float *x = memory->x + i * x_floats(config);
        BlockState state = {memory->conv + i * conv_floats(config), run->x_turned};
        states_in_rows(run->x_turned, x, config);
        block_forward(run->rows, &run->cache, &state, run->rows, &block);
        states_in_lanes(x, run->x_turned, config);
        if (run->focus != NULL)
            runner_focus(run, i, start, len, &block);
    }
    rms_norm_forward(run->final, run->scale, run->rows, model->norm_f, config->layer_norm_epsilon,
                     len, d_model);
    memcpy(memory->final, run->final + (len - 1) * d_model, d_model * sizeof(float));
    memory->count += len;
}

/* logits (count, vocab) of normed tokens (count, d_model). */
static void runner_many_logits(Runner *run, float *logits, const float *final, size_t count)
{
    const Weight *head = &run->model->head;
    size_t vocab = head->rows, d_model = head->cols;
    if (head->type == TENSOR_F32) {
        linear_forward_fast(logits, final, (const float *)(const void *)head->data, NULL, count,
                            d_model, vocab);
        return;
    }
    float *some = NEW(float, count *HEAD_ROWS);
    for (size_t first = 0; first < vocab; first += HEAD_ROWS) {
        size_t rows = smaller(vocab - first, HEAD_ROWS);
        weight_rows_to_float(run->matrices, head, first, rows);
        linear_forward_fast(some, final, run->matrices, NULL, count, d_model, rows);
        columns_in(logits, some, first, rows, count, vocab);
    }
    free(some);
}

/* What looks at a chunk of tokens after it has gone through; false ends it. */
typedef bool (*ChunkLook)(void *look, Runner *run, const uint32_t *ids, size_t len);

/* Tokens into the memory, all of them; `look` (or NULL) sees each chunk. With `logits`, run->logits
   are those of the last one. A bar if it takes long. */
bool runner_feed(Runner *run, Memory *memory, const uint32_t *ids, size_t len, bool logits,
                 ChunkLook look, void *at)
{
    size_t least = pretrained_step_bytes(run->model) < ALONE_BYTES ? PROMPT_CHUNK : PROMPT_LEAST;
    if (len < least && look == NULL && run->focus == NULL) {
        for (size_t t = 0; t < len; t++)
            runner_step(run, memory, ids[t], logits && t + 1 == len);
        return true;
    }
    bool ok = true;
    Progress progress = progress_start("reading");
    for (size_t t = 0; ok && t < len; t += PROMPT_CHUNK) {
        size_t count = smaller(len - t, PROMPT_CHUNK);
        runner_chunk(run, memory, ids + t, count, t);
        ok = look == NULL || look(at, run, ids + t, count);
        if (len > 4 * PROMPT_CHUNK)
            progress_show(&progress, (double)(t + count), (double)len);
    }
    progress_end(&progress);
    if (ok && logits && len > 0)
        runner_logits(run, memory);
    return ok;
}

/* ---- the logits of every position, to a file ---- */

typedef struct {
    OutFile out;
    float *logits; /* (LOGIT_TOKENS, vocab) */
} LogitsFile;

static bool logits_look(void *look, Runner *run, const uint32_t *ids, size_t len)
{
    LogitsFile *file = (LogitsFile *)look;
    size_t vocab = run->model->config.vocab_size, d_model = run->model->config.hidden_size;
    (void)ids;
    for (size_t t = 0; t < len; t += LOGIT_TOKENS) {
        size_t count = smaller(len - t, LOGIT_TOKENS);
        runner_many_logits(run, file->logits, run->final + t * d_model, count);
        if (fwrite(file->logits, sizeof(float), count * vocab, file->out.stream) != count * vocab)
            return false; /* out_close says why */
    }
    return true;
}

/* Feeds a prompt and writes tensor `logits` (len, vocab) to a safetensors file, as it is made: the
   memory does not grow with the prompt. */
bool runner_feed_logits(Runner *run, Memory *memory, const uint32_t *ids, size_t len,
                        const char *path, Error *error)
{
    size_t shape[2] = {len, run->model->config.vocab_size}, head_len;
    LogitsFile file;
    SafetensorsWriter writer;
    char *head;
    safetensors_writer_init(&writer);
    safetensors_add(&writer, "logits", TENSOR_F32, run->logits, 2, shape); /* only its shape */
    bool ok = writer_head(&head, &head_len, &writer, path, error);
    safetensors_writer_free(&writer);
    if (!ok || !out_open(&file.out, path, error)) {
        if (ok)
            free(head);
        return false;
    }
    file.logits = NEW(float, LOGIT_TOKENS *shape[1]);
    fwrite(head, 1, head_len, file.out.stream);
    runner_feed(run, memory, ids, len, true, logits_look, &file);
    ok = out_close(&file.out, error);
    free(file.logits);
    free(head);
    return ok;
}

/* ---- perplexity ---- */

/* -log p of each token given those before it, added up. */
typedef struct {
    float *logits; /* (LOGIT_TOKENS, vocab) */
    float *last;   /* (d_model) what came out for the last token of the chunk before */
    double sum;
    size_t count;
    bool has_last;
} Surprise;

/* Adds the losses of `count` normed tokens, whose next tokens are `next`. */
static void surprise_add(Surprise *surprise, Runner *run, const float *final, const uint32_t *next,
                         size_t count)
{
    size_t vocab = run->model->config.vocab_size, d_model = run->model->config.hidden_size;
    double loss[LOGIT_TOKENS];
    for (size_t t = 0; t < count; t += LOGIT_TOKENS) {
        size_t some = smaller(count - t, LOGIT_TOKENS);
        runner_many_logits(run, surprise->logits, final + t * d_model, some);
        PARALLEL_FOR(schedule(static))
        for (size_t i = 0; i < some; i++)
            loss[i] = token_loss(surprise->logits + i * vocab, vocab, next[t + i]);
        for (size_t i = 0; i < some; i++)
            surprise->sum += loss[i];
        surprise->count += some;
    }
}

static bool surprise_look(void *look, Runner *run, const uint32_t *ids, size_t len)
{
    Surprise *surprise = (Surprise *)look;
    size_t d_model = run->model->config.hidden_size;
    if (surprise->has_last)
        surprise_add(surprise, run, surprise->last, ids, 1);
    surprise_add(surprise, run, run->final, ids + 1, len - 1);
    memcpy(surprise->last, run->final + (len - 1) * d_model, d_model * sizeof(float));
    surprise->has_last = true;
    return true;
}

/* Reads pieces of a file and lets whole ones through, cut where no token is cut. */
typedef struct {
    FILE *stream;
    const char *path;
    Text text;
    size_t bytes; /* taken so far */
} TextSource;

/* The ids of the next piece of a text; none at its end. */
static bool source_next(Ids *ids, TextSource *source, const Tokenizer *tokenizer, Error *error)
{
    enum { PIECE = 1 << 16 };
    static const char nothing[1] = "";
    size_t cut = 0;
    bool end = false;
    ids->count = 0;
    while (cut == 0 && !end) {
        char piece[PIECE];
        size_t got = fread(piece, 1, sizeof piece, source->stream);
        if (got < sizeof piece && ferror(source->stream))
            return fail(error, "%s: %s", shown_path(source->path), strerror(errno));
        end = got < sizeof piece;
        text_append(&source->text, piece, got);
        cut = end ? source->text.len
                  : tokenizer_safe_cut(tokenizer, source->text.bytes, source->text.len);
    }
    Error why;
    const char *bytes = source->text.bytes == NULL ? nothing : source->text.bytes;
    if (!tokenizer_encode(ids, tokenizer, bytes, cut, &why))
        return fail(error, "%s: %s", shown_path(source->path), why.text);
    source->bytes += cut;
    source->text.len -= cut;
    memmove(source->text.bytes, source->text.bytes + cut, source->text.len);
    return true;
}

/* Perplexity of a text in a file, token by token in one go from its start: the memory used does not
   depend on its length. */
bool runner_perplexity(Surprise *surprise, size_t *bytes, Runner *run, const char *path,
                       Error *error)
{
    const MambaConfig *config = &run->model->config;
    TextSource source = {NULL, path, {NULL, 0, 0}, 0};
    struct stat info;
    Ids ids = {NULL, 0, 0};
    memset(surprise, 0, sizeof *surprise);
    source.stream = fopen(path, "rb");
    if (source.stream == NULL || fstat(fileno(source.stream), &info) != 0) {
        if (source.stream != NULL)
            fclose(source.stream);
        return fail(error, "%s: %s", shown_path(path), strerror(errno));
    }
    Memory memory = memory_new(config);
    float *logits = NEW(float, LOGIT_TOKENS * config->vocab_size);
    float *last = NEW(float, config->hidden_size);
    surprise->logits = logits;
    surprise->last = last;
    Progress progress = progress_start("perplexity");
    bool ok = true;
    do {
        ok = source_next(&ids, &source, &run->model->tokenizer, error);
        for (size_t t = 0; ok && t < ids.count; t += PROMPT_CHUNK) {
            size_t count = smaller(ids.count - t, PROMPT_CHUNK);
            runner_chunk(run, &memory, ids.id + t, count, 0);
            surprise_look(surprise, run, ids.id + t, count);
            progress_show(&progress,
                          (double)source.bytes - (double)source.text.len -
                              (double)(ids.count - t) / (double)ids.count * 65536.0,
                          (double)info.st_size);
        }
    } while (ok && ids.count > 0);
    progress_end(&progress);
    if (ok && surprise->count == 0)
        ok = fail(error, "%s: a text of two tokens or more is wanted", shown_path(path));
    *bytes = source.bytes;
    free(logits), free(last);
    surprise->logits = surprise->last = NULL;
    memory_free(&memory), ids_free(&ids), text_free(&source.text);
    fclose(source.stream);
    return ok;
}

/* ====================================== Answering ========================================== */
/* Token after token, shown as soon as whole characters are there. */

/* Set by Ctrl-C: the one thing of this course that is shared without being handed over, because a
   signal can hand over nothing. */
static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    interrupted = 1;
}

/* What was written but not yet shown: the beginning of a character, or of a stop text. */
typedef struct {
    Text held;
    const char *const *stop; /* (n_stop) texts that end the answer and are not shown */
    size_t n_stop;
    FILE *out;
} Stream;

/* How many bytes at the end of the text may still become a stop text. */
static size_t stream_may_stop(const Stream *stream)
{
    size_t most = 0;
    for (size_t i = 0; i < stream->n_stop; i++) {
        size_t len = strlen(stream->stop[i]);
        for (size_t part = smaller(len - 1, stream->held.len); part > most; part--)
            if (memcmp(stream->held.bytes + stream->held.len - part, stream->stop[i], part) == 0)
                most = part;
    }
    return most;
}

/* Where the first stop text begins, or the text's length. */
static size_t stream_stop_at(const Stream *stream)
{
    size_t first = stream->held.len;
    for (size_t i = 0; i < stream->n_stop; i++) {
        const char *found = (const char *)memmem(stream->held.bytes, stream->held.len,
                                                 stream->stop[i], strlen(stream->stop[i]));
        if (found != NULL && (size_t)(found - stream->held.bytes) < first)
            first = (size_t)(found - stream->held.bytes);
    }
    return first;
}

/* Shows the first `len` bytes that are held, whole characters only; at the `end` also what never
   became one, each byte as U+FFFD. Returns how many bytes are done with. */
static size_t stream_show(Stream *stream, size_t len, bool end)
{
    const unsigned char *bytes = (const unsigned char *)stream->held.bytes;
    size_t at = 0, step;
    for (; at < len; at += step) {
        uint32_t code = utf8_decode(&step, bytes + at, len - at);
        unsigned char lead = bytes[at];
        size_t want = lead < 0xC2 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 1;
        if (code >= UTF8_BAD && !end && want > len - at && len - at < 4)
            break; /* its other bytes may be in the next token */
        if (code >= UTF8_BAD)
            fputs("\xEF\xBF\xBD", stream->out);
        else
            fwrite(bytes + at, 1, step, stream->out);
    }
    fflush(stream->out);
    return at;
}

/* Takes a token's text; false: a stop text has come, and all before it is shown. */
static bool stream_add(Stream *stream, const Tokenizer *tokenizer, uint32_t id, bool first)
{
    tokenizer_decode(&stream->held, tokenizer, id, first);
    size_t stop = stream->held.len == 0 ? 0 : stream_stop_at(stream);
    if (stop < stream->held.len) {
        stream_show(stream, stop, true);
        stream->held.len = 0;
        return false;
    }
    size_t shown = stream->held.len == 0
                       ? 0
                       : stream_show(stream, stream->held.len - stream_may_stop(stream), false);
    stream->held.len -= shown;
    if (shown > 0)
        memmove(stream->held.bytes, stream->held.bytes + shown, stream->held.len);
    return true;
}

static void stream_end(Stream *stream)
{
    if (stream->held.len > 0)
        stream_show(stream, stream->held.len, true);
    text_free(&stream->held);
}

typedef struct {
    size_t count; /* tokens at most */
    Sampling sampling;
    const char *stop[STOP_MOST]; /* (n_stop) */
    size_t n_stop;
    bool past_end; /* go on after a token that ends the text */
} AnswerSettings;

/* A conversation: model, memory, and what drawing needs. */
typedef struct {
    Runner *run;
    Memory memory;
    Sampler sampler;
    Random random;
} Conversation;

static bool ends_text(const TextEnds *ends, uint32_t id)
{
    for (size_t i = 0; i < ends->n_stop; i++)
        if (ends->stop[i] == id)
            return true;
    return false;
}

/* Up to settings->count tokens after run->logits; each goes into the memory and is shown: as
   text, or as an id if there is no tokenizer. Returns how many. Nothing is asked for inside the
   loop. */
size_t answer(Conversation *talk, const AnswerSettings *settings, FILE *out)
{
    Runner *run = talk->run;
    const Pretrained *model = run->model;
    Stream stream = {{NULL, 0, 0}, settings->stop, settings->n_stop, out};
    size_t i = 0;
    bool more = true, first = talk->memory.count == 0;
    for (; more && i < settings->count && !interrupted; i++) {
        run->mark = run->timed ? seconds_now() : 0.0;
        uint32_t id =
            (uint32_t)sampler_draw(&talk->sampler, run->logits, &settings->sampling, &talk->random);
        step_time(run, T_SAMPLE, 0);
        if (!settings->past_end && ends_text(&model->ends, id))
            break;
        sampler_see(&talk->sampler, id);
        if (model->has_tokenizer)
            more = stream_add(&stream, &model->tokenizer, id, first);
        else {
            fprintf(out, "%s%u", i > 0 ? "," : "", id);
            fflush(out);
        }
        first = false;
        runner_step(run, &talk->memory, id, true);
    }
    stream_end(&stream);
    return i;
}

/* ======================================= The demos ========================================= */

/* A piece as it is shown in a list: quoted, control characters and bytes that are no character as
   \x0A. */
static void print_piece(FILE *out, const unsigned char *bytes, size_t len)
{
    fputc('\'', out);
    for (size_t at = 0, step; at < len; at += step) {
        uint32_t code = utf8_decode(&step, bytes + at, len - at);
        if (code < 0x20 || (code >= 0x7F && code < 0xA0) || code >= UTF8_BAD)
            fprintf(out, "\\x%02X", bytes[at]);
        else
            fwrite(bytes + at, 1, step, out);
        if (code >= 0x80 && code < 0xA0)
            fprintf(out, "\\x%02X", bytes[at + 1]);
    }
    fputc('\'', out);
}

static void print_token_text(FILE *out, const Tokenizer *tokenizer, uint32_t id)
{
    if (id < tokenizer->n_token && tokenizer->token[id].text != NULL)
        print_piece(out, tokenizer->token[id].bytes, tokenizer->token[id].n_bytes);
    else
        fputs("(no token)", out);
}

static void demo_tokenize(const Tokenizer *tokenizer, const Ids *ids, size_t bytes)
{
    for (size_t i = 0; i < ids->count; i++) {
        printf("%8u  ", ids->id[i]);
        print_token_text(stdout, tokenizer, ids->id[i]);
        putchar('\n');
    }
    printf("%zu token%s for %zu bytes\n", ids->count, ids->count == 1 ? "" : "s", bytes);
}

/* ---- what fits where ---- */

typedef struct {
    const char *name;
    size_t layers, d_model;
} KnownModel;

static const KnownModel known_models[] = {{"130m", 24, 768},
                                          {"370m", 48, 1024},
                                          {"790m", 48, 1536},
                                          {"1.4b", 48, 2048},
                                          {"2.8b", 64, 2560}};

/* Parameters of a published model, and those of them that stand in matrices. */
static void known_sizes(size_t *all, size_t *matrices, size_t *state, const KnownModel *known)
{
    MambaConfig config = config_default(known->d_model);
    TensorShape shape[BLOCK_TENSORS];
    config.num_hidden_layers = known->layers;
    config.vocab_size = 50280;
    block_shapes(shape, &config);
    *matrices = 0;
    for (int part = 0; part < BLOCK_TENSORS; part++)
        *matrices += is_weight(part) ? shape[part].count * known->layers : 0;
    *matrices += config.vocab_size * known->d_model;
    *all = config.vocab_size * known->d_model + known->d_model +
           known->layers * block_params_count(&config);
    *state = known->layers * block_state_floats(&config, 1) * sizeof(float);
}

/* The published sizes: bytes to read for each token, and the tokens a second that come of it. */
static void demo_sizes(double bandwidth)
{
    printf("What a token costs: every weight is read once; memory delivers %g GB/s here\n\n",
           bandwidth);
    puts("                              bytes of weights          tokens a second, at most");
    puts("  mamba  parameters       F32      BF16      int8      F32     BF16     int8    state");
    for (size_t i = 0; i < TABLE_SIZE(known_models); i++) {
        size_t all, matrices, state;
        known_sizes(&all, &matrices, &state, &known_models[i]);
        double rest = 4.0 * (double)(all - matrices), m = (double)matrices;
        double gb[3] = {4e-9 * (double)all, 1e-9 * (2.0 * m + rest),
                        1e-9 * (m * (1.0 + 4.0 / INT8_BLOCK) + rest)};
        printf("  %-5s  %8.0f M  %6.2f GB  %6.2f GB  %6.2f GB  %7.1f  %7.1f  %7.1f  %4.1f MB\n",
               known_models[i].name, 1e-6 * (double)all, gb[0], gb[1], gb[2], bandwidth / gb[0],
               bandwidth / gb[1], bandwidth / gb[2], 1e-6 * (double)state);
    }
}

/* ---- where the time goes ---- */

static void profile_svg(FILE *out, const double *share, size_t tokens, double per_token)
{
    char text[96];
    svg_open(out, 620, 40 + 34 * T_COUNT + 20);
    snprintf(text, sizeof text, "Where %.2f ms a token go (mean of %zu)", 1e3 * per_token, tokens);
    svg_text(out, 310, 24, "text-anchor=\"middle\"", text);
    for (int i = 0; i < T_COUNT; i++) {
        double y = 40 + 34 * i;
        svg_text(out, 120, y + 19, "text-anchor=\"end\"", step_time_name[i]);
        fprintf(out,
                "<rect x=\"130\" y=\"%.0f\" width=\"%.1f\" height=\"24\" rx=\"3\" fill=\"%s\"/>\n",
                y, fmax(1.0, 400.0 * share[i]), i == T_SCAN || i == T_CONV ? "#e0903c" : "#3c7fb1");
        snprintf(text, sizeof text, "%.1f %%", 100.0 * share[i]);
        svg_text(out, 136 + fmax(1.0, 400.0 * share[i]), y + 19, "", text);
    }
    svg_close(out);
}

/* Bytes of weights that one phase of a step reads. */
static double phase_bytes(const Pretrained *model, int phase)
{
    static const int weight[T_COUNT] = {W_IN, -1, W_X, W_DT, -1, W_OUT, W_COUNT, -1};
    double sum = 0.0;
    if (weight[phase] == W_COUNT)
        return (double)weight_bytes(&model->head);
    for (size_t i = 0; i < model->config.num_hidden_layers && weight[phase] >= 0; i++)
        sum += (double)weight_bytes(&model->layer[i].weight[weight[phase]]);
    return sum;
}

static bool demo_profile(const Runner *run, size_t tokens, const Look *look, const char *svg,
                         Error *error)
{
    double total = 0.0, share[T_COUNT];
    OutFile out;
    for (int i = 0; i < T_COUNT; i++)
        total += run->seconds[i];
    printf("\nWhere the time goes: %.2f ms a token\n\n", 1e3 * total / (double)tokens);
    for (int i = 0; i < T_COUNT; i++) {
        share[i] = total > 0.0 ? run->seconds[i] / total : 0.0;
        double bytes = phase_bytes(run->model, i) * (double)tokens;
        printf("  %-12s %5.1f %%  ", step_time_name[i], 100.0 * share[i]);
        if (bytes > 0.0 && run->seconds[i] > 0.0)
            printf("%5.1f GB/s  ", 1e-9 * bytes / run->seconds[i]);
        else
            printf("%12s", "");
        for (int bar = 0; bar < (int)(60.0 * share[i] + 0.5); bar++)
            fputs(look->ascii ? "#" : "█", stdout);
        putchar('\n');
    }
    if (svg == NULL)
        return true;
    if (!out_open(&out, svg, error))
        return false;
    profile_svg(out.stream, share, tokens, total / (double)tokens);
    return out_close(&out, error);
}

/* ---- focus: which tokens opened the gate ---- */

/* A token's Delta against the mean of the text, averaged over the layers. */
static void focus_relative(double *relative, const Runner *run)
{
    size_t tokens = run->focus_tokens, layers = run->model->config.num_hidden_layers;
    memset(relative, 0, tokens * sizeof *relative);
    for (size_t i = 0; i < layers; i++) {
        double mean = 0.0;
        for (size_t t = 0; t < tokens; t++)
            mean += run->focus[i * tokens + t] / (double)tokens;
        for (size_t t = 0; t < tokens && mean > 0.0; t++)
            relative[t] += run->focus[i * tokens + t] / mean / (double)layers;
    }
}

static void focus_svg(FILE *out, const Runner *run)
{
    size_t tokens = run->focus_tokens, layers = run->model->config.num_hidden_layers;
    double wide = fmax(2.0, 800.0 / (double)tokens), high = fmax(4.0, 300.0 / (double)layers);
    svg_open(out, 80.0 + wide * (double)tokens, 60.0 + high * (double)layers);
    svg_text(out, 60, 24, "",
             "Mean Delta: layers down, tokens across; dark is large for its layer");
    for (size_t i = 0; i < layers; i++) {
        double most = 0.0;
        for (size_t t = 0; t < tokens; t++)
            most = fmax(most, run->focus[i * tokens + t]);
        for (size_t t = 0; t < tokens && most > 0.0; t++)
            fprintf(out,
                    "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"#1f4e79\" "
                    "fill-opacity=\"%.2f\"/>\n",
                    60.0 + wide * (double)t, 40.0 + high * (double)i, wide, high,
                    run->focus[i * tokens + t] / most);
    }
    svg_close(out);
}

static bool demo_focus(const Runner *run, const Ids *ids, const Look *look, const char *svg,
                       Error *error)
{
    double *relative = NEW(double, ids->count), most = 0.0;
    OutFile out;
    focus_relative(relative, run);
    for (size_t t = 0; t < ids->count; t++)
        most = fmax(most, relative[t]);
    puts("How far each token opens the gate: its mean Delta, as a multiple of the text's mean\n");
    for (size_t t = 0; t < ids->count; t++) {
        printf("  %5.2f  ", relative[t]);
        int bars = most > 0.0 ? (int)(24.0 * relative[t] / most + 0.5) : 0;
        for (int bar = 0; bar < 24; bar++)
            fputs(bar >= bars ? " " : look->ascii ? "#" : "█", stdout);
        fputs("  ", stdout);
        if (run->model->has_tokenizer)
            print_token_text(stdout, &run->model->tokenizer, ids->id[t]);
        else
            printf("%u", ids->id[t]);
        putchar('\n');
    }
    free(relative);
    if (svg == NULL)
        return true;
    if (!out_open(&out, svg, error))
        return false;
    focus_svg(out.stream, run);
    return out_close(&out, error);
}

/* ===================================== Measurements ======================================== */

/* All parameters of a model as a folder of Hugging Face's, in one type. */
static bool folder_write(const Model *model, const char *dir, TensorType type, Error *error)
{
    const MambaConfig *config = &model->config;
    size_t count = model_tensor_count(config);
    void **copy = NEW(void *, count);
    SafetensorsWriter writer;
    OutFile out;
    char *path = path_in(dir, "config.json");
    safetensors_writer_init(&writer);
    for (size_t k = 0; k < count; k++) {
        ModelTensor p = model_tensor(&model->params, config, k);
        uint16_t *half = type == TENSOR_F32 ? NULL : NEW(uint16_t, p.count);
        copy[k] = half;
        for (size_t i = 0; i < p.count && half != NULL; i++)
            half[i] = type == TENSOR_BF16 ? tensor_bf16_from_float(p.values[i])
                                          : tensor_f16_from_float(p.values[i]);
        if (p.count > 0)
            safetensors_add(&writer, p.name, type,
                            half != NULL ? (const void *)half : (const void *)p.values, p.rank,
                            p.shape);
    }
    bool ok = out_open(&out, path, error);
    if (ok) {
        fprintf(out.stream,
                "{\"model_type\": \"mamba\", \"hidden_size\": %zu, \"state_size\": %zu, "
                "\"num_hidden_layers\": %zu, \"vocab_size\": %zu, \"conv_kernel\": %zu, "
                "\"time_step_rank\": %zu, \"use_bias\": %s, \"use_conv_bias\": %s, "
                "\"tie_word_embeddings\": %s}\n",
                config->hidden_size, config->state_size, config->num_hidden_layers,
                config->vocab_size, config->conv_kernel, config->time_step_rank,
                config->use_bias ? "true" : "false", config->use_conv_bias ? "true" : "false",
                config->tie_word_embeddings ? "true" : "false");
        ok = out_close(&out, error);
    }
    free(path);
    path = path_in(dir, "model.safetensors");
    ok = ok && safetensors_write(&writer, path, error);
    safetensors_writer_free(&writer);
    for (size_t k = 0; k < count; k++)
        free(copy[k]);
    free(copy), free(path);
    return ok;
}

static const struct {
    TensorType type;
    const char *folder;
} bench_folders[] = {{TENSOR_F32, "f32"}, {TENSOR_BF16, "bf16"}, {TENSOR_F16, "f16"}};

/* Random models of the shape of mamba-130m in dir/f32, dir/bf16 and dir/f16, unless they are
   there. */
static bool bench_make(const char *dir, Error *error)
{
    bool there = true, ok = true;
    for (size_t i = 0; i < TABLE_SIZE(bench_folders); i++) {
        char *sub = path_in(dir, bench_folders[i].folder);
        there = there && path_exists(sub, "model.safetensors");
        free(sub);
    }
    if (there)
        return true;
    fprintf(stderr, "making random models of mamba-130m's shape in %s (once)\n", dir);
    MambaConfig config = config_default(768);
    config.num_hidden_layers = 24;
    config.vocab_size = 50280;
    Model model = model_new(&config);
    Random random = random_from_seed(130);
    model_init(&model, &random);
    if (mkdir(dir, 0777) != 0 && errno != EEXIST)
        ok = fail(error, "%s: %s", dir, strerror(errno));
    for (size_t i = 0; ok && i < TABLE_SIZE(bench_folders); i++) {
        char *sub = path_in(dir, bench_folders[i].folder);
        if (mkdir(sub, 0777) != 0 && errno != EEXIST)
            ok = fail(error, "%s: %s", sub, strerror(errno));
        ok = ok && folder_write(&model, sub, bench_folders[i].type, error);
        free(sub);
    }
    model_free(&model);
    return ok;
}

/* One thread's share of all weights, looked at and nothing more: the floor of a step. */
static int32_t read_part(const Pretrained *model, size_t thread, size_t threads)
{
    LanesBits sum[4] = {{0}};
    for (size_t i = 0; i <= model->config.num_hidden_layers; i++)
        for (int w = 0; w < W_COUNT; w++) {
            const Weight *weight =
                i < model->config.num_hidden_layers ? &model->layer[i].weight[w] : &model->head;
            const unsigned char *from = weight->data;
            size_t first = share_start(weight->rows, thread, threads) * weight->stride;
            size_t end = share_start(weight->rows, thread + 1, threads) * weight->stride;
            for (size_t at = first; at + 4 * sizeof *sum <= end; at += 4 * sizeof *sum)
                for (size_t k = 0; k < 4; k++) {
                    LanesBits bits;
                    memcpy(&bits, from + at + k * sizeof bits, sizeof bits);
                    sum[k] += bits;
                }
            if (i == model->config.num_hidden_layers)
                break;
        }
    sum[0] += sum[1] + sum[2] + sum[3];
    for (int i = 1; i < LANES; i++)
        sum[0][0] += sum[0][i];
    return sum[0][0];
}

/* Seconds to read all weights once. */
static double measure_reading(const Pretrained *model, size_t threads)
{
    int32_t sum = 0;
    double start = seconds_now();
#ifdef _OPENMP
    PARALLEL_PRAGMA(omp parallel num_threads((int)threads) reduction(+ : sum))
    sum += read_part(model, (size_t)omp_get_thread_num(), (size_t)omp_get_num_threads());
#else
    sum = read_part(model, 0, threads);
#endif
    double seconds = seconds_now() - start;
    return sum == 123456789 ? seconds + 1e-9 : seconds; /* so that it is worked out */
}

/* Steps and readings by turns: the quickest of each, which is what nothing else got in the way
   of; and the median of their quotients, two neighbours in time each. */
static void bench_steps(const Pretrained *model, const char *name, size_t threads)
{
    enum { ROUNDS = 40 };
    double seconds = INFINITY, reading = INFINITY, share[ROUNDS];
    Memory memory = memory_new(&model->config);
    Runner run = runner_new(model);
    runner_threads(&run, threads);
    runner_step(&run, &memory, 1, true);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        double read = measure_reading(model, threads), start = seconds_now();
        runner_step(&run, &memory, 1000 * round, true);
        double step = seconds_now() - start;
        reading = fmin(reading, read);
        seconds = fmin(seconds, step);
        share[round] = read / step;
    }
    double bytes = (double)pretrained_step_bytes(model);
    printf("  %-5s %7zu %7.0f MB %8.1f %11.1f %10.1f %8.0f %%\n", name, threads, 1e-6 * bytes,
           1.0 / seconds, 1e-9 * bytes / seconds, 1e-9 * bytes / reading,
           100.0 * median(share, ROUNDS));
    runner_free(&run);
    memory_free(&memory);
}

static void bench_prompt(const Pretrained *model, const char *name)
{
    enum { LEN = PROMPT_CHUNK };
    uint32_t ids[LEN];
    double seconds[3];
    Memory memory = memory_new(&model->config);
    Runner run = runner_new(model);
    for (uint32_t t = 0; t < LEN; t++)
        ids[t] = t * 97 % 50280;
    for (int i = 0; i < 3; i++) {
        double start = seconds_now();
        runner_feed(&run, &memory, ids, LEN, true, NULL, NULL);
        seconds[i] = seconds_now() - start;
    }
    printf("  a prompt of %d tokens in %-5s %7.0f tokens a second\n", LEN, name,
           LEN / median(seconds, 3));
    runner_free(&run);
    memory_free(&memory);
}

static void bench_sampling(const Pretrained *model)
{
    enum { RUNS = 25 };
    static const struct {
        const char *name;
        Sampling sampling;
    } kinds[] = {{"the likeliest", {0.0, 0, 1.0, 1.0}},
                 {"temperature 0.8", {0.8, 0, 1.0, 1.0}},
                 {"and top-k 40", {0.8, 40, 1.0, 1.0}},
                 {"and top-p 0.95", {0.8, 0, 0.95, 1.0}},
                 {"and a penalty", {0.8, 40, 0.95, 1.1}}};
    size_t vocab = model->config.vocab_size;
    Sampler sampler = sampler_new(vocab);
    Random random = random_from_seed(1);
    float *logits = NEW(float, vocab);
    for (size_t v = 0; v < vocab; v++)
        logits[v] = (float)(2.0 * random_normal(&random));
    for (size_t i = 0; i < 500; i++)
        sampler_see(&sampler, random_u32(&random) % vocab);
    fputs("\n  drawing one of 50,280 tokens, in microseconds:\n", stdout);
    for (size_t k = 0; k < TABLE_SIZE(kinds); k++) {
        double seconds[RUNS];
        for (int i = 0; i < RUNS; i++) {
            double start = seconds_now();
            sampler_draw(&sampler, logits, &kinds[k].sampling, &random);
            seconds[i] = seconds_now() - start;
        }
        printf("    %-16s %6.0f\n", kinds[k].name, 1e6 * median(seconds, RUNS));
    }
    free(logits);
    sampler_free(&sampler);
}

static bool demo_pretrained_bench(const char *dir, Error *error)
{
    static const char *const names[] = {"F32", "BF16", "F16", "int8"};
    size_t threads = (size_t)threads_most();
    if (!bench_make(dir, error))
        return false;
    puts("Steps of a random model of mamba-130m's shape: every weight is read once a token\n");
    puts("  type  threads   a token  tokens/s  that is GB/s  read GB/s  of the floor");
    for (size_t i = 0; i < TABLE_SIZE(names); i++) {
        Pretrained model;
        char *sub = path_in(dir, bench_folders[i % 3].folder);
        bool ok = pretrained_open(&model, sub, i == 3, error);
        free(sub);
        if (!ok)
            return false;
        for (size_t use = 1; use <= threads; use += threads > 1 ? threads - 1 : 1)
            bench_steps(&model, names[i], use);
        if (i == 3)
            putchar('\n');
        if (i == 0 || i == 3)
            bench_prompt(&model, names[i]);
        if (i == 3)
            bench_sampling(&model);
        pretrained_close(&model);
    }
    return true;
}

/* ======================================= Program =========================================== */

typedef struct {
    const char *dir, *prompt, *ids, *logits, *perplexity, *save, *load, *svg;
    AnswerSettings answer;
    uint64_t seed, threads;
    double bandwidth;
    bool tokenize, interactive, focus, int8, profile, sizes, bench, ascii;
    bool has_temperature;
} PretrainedOptions;

static void pretrained_usage(FILE *out)
{
    fputs(
        "usage: ch05_pretrained [DIR [PROMPT]] [-n N] [--int8] [--threads N] [--temperature T]\n"
        "                       [--top-k K] [--top-p P] [--repetition-penalty R] [--seed S]\n"
        "                       [--stop TEXT] [--ids 1,2,3] [--interactive] [--save-state FILE]\n"
        "                       [--load-state FILE] [--logits FILE] [--perplexity FILE]\n"
        "                       [--tokenize] [--focus] [--profile] [--sizes] [--bench] [--help]\n",
        out);
}

static void pretrained_help(void)
{
    pretrained_usage(stdout);
    fputs(
        "\nRuns a Mamba that others have trained, from the folder as Hugging Face has it: "
        "config.json,\n"
        "model.safetensors (or its shards) and tokenizer.json. Default: data/tiny-mamba.\n\n"
        "  PROMPT                  the text to go on from; - reads it from standard input\n"
        "  -n N                    at most N tokens (default 64)\n"
        "  --int8                  matrices in 8 bits: a quarter of the reading, a little less "
        "exact\n"
        "  --threads N             threads to use (default: all processors)\n"
        "  --temperature T         0: always the likeliest token (default); 1: as the model says\n"
        "  --top-k K, --top-p P    only the K likeliest; only those that make up P (default: "
        "all);\n"
        "                          without --temperature it is 1 then\n"
        "  --repetition-penalty R  above 1: what was said before gets less likely\n"
        "  --seed S                seed of the draws (default 1)\n"
        "  --stop TEXT             ends the answer before TEXT; up to 8 times\n"
        "  --past-end              goes on after a token that ends the text\n"
        "  --ids 1,2,3             the prompt as ids; without a tokenizer.json ids come out, too\n"
        "  --interactive           prompt after prompt, with one memory; Ctrl-C stops an answer\n"
        "  --save-state FILE, --load-state FILE   all that is remembered of a text\n"
        "  --logits FILE           logits of every position of the prompt, as safetensors\n"
        "  --perplexity FILE       how well the model guesses a text\n"
        "  --tokenize              ids and pieces of the prompt, and nothing else\n"
        "  --focus                 how far each token opens the gate (Delta); --svg FILE: by "
        "layer\n"
        "  --profile               where the time goes; --svg FILE as a picture\n"
        "  --sizes                 what fits where; --bandwidth GB/s (default 40)\n"
        "  --bench                 measures, with random models of mamba-130m's shape in DIR\n"
        "                          (default build/random-130m)\n"
        "  --ascii                 draw without Unicode\n",
        stdout);
}

static bool option_stop(AnswerSettings *settings, const char *text, Error *error)
{
    if (text[0] == '\0')
        return fail(error, "--stop: the text is empty");
    if (settings->n_stop == STOP_MOST)
        return fail(error, "--stop: more than %d texts", STOP_MOST);
    settings->stop[settings->n_stop++] = text;
    return true;
}

static bool pretrained_options_fit(PretrainedOptions *options, Error *error)
{
    int ways = options->tokenize + options->interactive + options->sizes + options->bench +
               (options->perplexity != NULL);
    Sampling *sampling = &options->answer.sampling;
    if (ways > 1)
        return fail(error, "--tokenize, --interactive, --perplexity, --sizes and --bench exclude "
                           "each other");
    if (options->prompt != NULL && options->ids != NULL)
        return fail(error, "a prompt and --ids exclude each other");
    if (options->svg != NULL && !options->profile && !options->focus)
        return fail(error, "--svg needs --profile or --focus");
    if (options->svg != NULL && options->profile && options->focus)
        return fail(error, "--svg: of --profile or of --focus?");
    if (options->tokenize && (options->ids != NULL || options->prompt == NULL))
        return fail(error, "--tokenize needs a prompt");
    if (options->focus && (options->logits != NULL || options->interactive))
        return fail(error, "--focus excludes --logits and --interactive");
    if (!options->has_temperature && (sampling->top_k > 0 || sampling->top_p < 1.0))
        sampling->temperature = 1.0;
    return true;
}

/* Options with a value; false with an error. */
static bool pretrained_option(PretrainedOptions *options, int code, const char *text, Error *error)
{
    Sampling *sampling = &options->answer.sampling;
    uint64_t whole = 0;
    bool ok = true;
    switch (code) {
    case 'n':
        ok = option_integer(&whole, "n", text, 0, 1000000000, error);
        options->answer.count = (size_t)whole;
        break;
    case 'k':
        ok = option_integer(&whole, "top-k", text, 0, CONFIG_MAX_VOCAB, error);
        sampling->top_k = (size_t)whole;
        break;
    case 't':
        options->has_temperature = true;
        ok = option_number(&sampling->temperature, "temperature", text, 0.0, 1e6, error);
        break;
    case 'p': ok = option_number(&sampling->top_p, "top-p", text, 0.0, 1.0, error); break;
    case 'r':
        ok = option_number(&sampling->repetition_penalty, "repetition-penalty", text, 0.01, 100.0,
                           error);
        break;
    case 'W': ok = option_number(&options->bandwidth, "bandwidth", text, 0.1, 1e5, error); break;
    case 'S': ok = option_integer(&options->seed, "seed", text, 0, UINT64_MAX, error); break;
    case 'j': ok = option_integer(&options->threads, "threads", text, 1, 1024, error); break;
    case 'x': ok = option_stop(&options->answer, text, error); break;
    case 'i': options->ids = text; break;
    case 'l': options->logits = text; break;
    case 'P': options->perplexity = text; break;
    case 's': options->save = text; break;
    case 'L': options->load = text; break;
    case 'v': options->svg = text; break;
    default: return false;
    }
    return ok;
}

/* Fills `options`; false with an error, or with an empty one if getopt has said what is wrong. */
static bool pretrained_options_parse(PretrainedOptions *options, int argc, char **argv,
                                     Error *error)
{
    static const struct option known[] = {{"temperature", 1, NULL, 't'},
                                          {"top-k", 1, NULL, 'k'},
                                          {"top-p", 1, NULL, 'p'},
                                          {"repetition-penalty", 1, NULL, 'r'},
                                          {"seed", 1, NULL, 'S'},
                                          {"threads", 1, NULL, 'j'},
                                          {"stop", 1, NULL, 'x'},
                                          {"ids", 1, NULL, 'i'},
                                          {"logits", 1, NULL, 'l'},
                                          {"perplexity", 1, NULL, 'P'},
                                          {"save-state", 1, NULL, 's'},
                                          {"load-state", 1, NULL, 'L'},
                                          {"svg", 1, NULL, 'v'},
                                          {"bandwidth", 1, NULL, 'W'},
                                          {"tokenize", 0, NULL, 'T'},
                                          {"interactive", 0, NULL, 'I'},
                                          {"focus", 0, NULL, 'f'},
                                          {"int8", 0, NULL, '8'},
                                          {"past-end", 0, NULL, 'e'},
                                          {"profile", 0, NULL, 'R'},
                                          {"sizes", 0, NULL, 'z'},
                                          {"bench", 0, NULL, 'b'},
                                          {"ascii", 0, NULL, 'a'},
                                          {"help", 0, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    memset(options, 0, sizeof *options);
    options->answer.sampling = sampling_greedy();
    options->answer.count = 64;
    options->seed = 1;
    options->bandwidth = 40.0;
    error->text[0] = '\0';
    for (int code; (code = getopt_long(argc, argv, "n:", known, NULL)) != -1;) {
        switch (code) {
        case 'T': options->tokenize = true; break;
        case 'I': options->interactive = true; break;
        case 'f': options->focus = true; break;
        case '8': options->int8 = true; break;
        case 'e': options->answer.past_end = true; break;
        case 'R': options->profile = true; break;
        case 'z': options->sizes = true; break;
        case 'b': options->bench = true; break;
        case 'a': options->ascii = true; break;
        case 'h': pretrained_help(); exit(0);
        default:
            if (!pretrained_option(options, code, optarg, error))
                return false;
        }
    }
    if (argc - optind > 2)
        return fail(error, "'%.40s' is one argument too many; a prompt is one, in quotes",
                    argv[optind + 2]);
    options->dir = optind < argc ? argv[optind] : NULL;
    options->prompt = optind + 1 < argc ? argv[optind + 1] : NULL;
    return pretrained_options_fit(options, error);
}

/* ---- the prompt ---- */

/* "1,2,3", each below vocab. */
bool ids_parse(Ids *ids, const char *text, size_t vocab, Error *error)
{
    for (const char *at = text;;) {
        char *end;
        errno = 0;
        unsigned long long id = strtoull(at, &end, 10);
        if (end == at || !isdigit((unsigned char)*at))
            return fail(error, "--ids: '%.20s' is not a number; wanted are ids such as 1,2,3", at);
        if (errno != 0 || id >= vocab)
            return fail(error, "--ids: %.*s is out of range: the model knows %zu tokens, from 0",
                        (int)smaller((size_t)(end - at), 24), at, vocab);
        ids_push(ids, (uint32_t)id);
        if (*end == '\0')
            return true;
        if (*end != ',')
            return fail(error, "--ids: '%.20s' where a comma is wanted", end);
        at = end + 1;
    }
}

/* The prompt's bytes: the argument, or all of standard input. */
static bool prompt_text(Text *text, const char *prompt, Error *error)
{
    if (strcmp(prompt, "-") != 0) {
        text_append(text, prompt, strlen(prompt));
        return true;
    }
    char piece[65536];
    for (size_t got; (got = fread(piece, 1, sizeof piece, stdin)) > 0;) {
        text_append(text, piece, got);
        if (text->len > TEXT_MAX_BYTES)
            return fail(error, "standard input: more than %d bytes", TEXT_MAX_BYTES);
    }
    if (ferror(stdin))
        return fail(error, "standard input: %s", strerror(errno));
    return true;
}

/* The ids of a text; `what` names it in a message. */
static bool prompt_encode(Ids *ids, const Tokenizer *tokenizer, const Text *text, Error *error)
{
    Error why;
    return text->len == 0 || tokenizer_encode(ids, tokenizer, text->bytes, text->len, &why) ||
           fail(error, "the prompt: %s", why.text);
}

static bool prompt_ids(Ids *ids, Text *text, const PretrainedOptions *options,
                       const Pretrained *model, Error *error)
{
    if (options->ids != NULL)
        return ids_parse(ids, options->ids, model->config.vocab_size, error);
    if (options->prompt != NULL && !model->has_tokenizer)
        return fail(error, "%s: there is no tokenizer.json for a prompt of words: give --ids 1,2,3",
                    shown_path(options->dir));
    if (options->prompt != NULL && (!prompt_text(text, options->prompt, error) ||
                                    !prompt_encode(ids, &model->tokenizer, text, error)))
        return false;
    if (ids->count == 0 && options->load == NULL && !options->interactive) {
        if (model->ends.begin == NO_TOKEN || model->ends.begin >= model->config.vocab_size)
            return fail(error, "the prompt is empty, and config.json names no bos_token_id");
        ids_push(ids, model->ends.begin);
    }
    return true;
}

/* ---- what is done ---- */

static bool run_tokenize(const PretrainedOptions *options, Error *error)
{
    Tokenizer tokenizer;
    Ids ids = {NULL, 0, 0};
    Text text = {NULL, 0, 0};
    char *path = path_in(options->dir, "tokenizer.json");
    bool ok = tokenizer_read(&tokenizer, path, error);
    free(path);
    if (!ok)
        return false;
    ok =
        prompt_text(&text, options->prompt, error) && prompt_encode(&ids, &tokenizer, &text, error);
    if (ok)
        demo_tokenize(&tokenizer, &ids, text.len);
    ids_free(&ids), text_free(&text);
    tokenizer_free(&tokenizer);
    return ok;
}

static bool run_perplexity(Runner *run, const char *path, Error *error)
{
    Surprise surprise;
    size_t bytes = 0;
    double start = seconds_now();
    if (!run->model->has_tokenizer)
        return fail(error, "--perplexity needs a tokenizer.json in the folder");
    if (!runner_perplexity(&surprise, &bytes, run, path, error))
        return false;
    double mean = surprise.sum / (double)surprise.count;
    printf("perplexity %.3f: %.4f nats a token over %zu tokens; %.3f bits a byte over %zu bytes\n",
           exp(mean), mean, surprise.count, surprise.sum / log(2.0) / (double)bytes, bytes);
    fflush(stdout);
    fprintf(stderr, "%.0f tokens a second\n", (double)surprise.count / (seconds_now() - start));
    return true;
}

/* Reads ids into the conversation, in the way the options ask for. */
static bool conversation_feed(Conversation *talk, const Ids *ids, const PretrainedOptions *options,
                              const Look *look, Error *error)
{
    Runner *run = talk->run;
    bool ok = true;
    for (size_t i = 0; i < ids->count; i++)
        sampler_see(&talk->sampler, ids->id[i]);
    if (options->focus) {
        run->focus_tokens = ids->count;
        run->focus = NEW(double, ids->count * run->model->config.num_hidden_layers);
    }
    if (options->logits != NULL)
        ok = runner_feed_logits(run, &talk->memory, ids->id, ids->count, options->logits, error);
    else if (ids->count > 0)
        runner_feed(run, &talk->memory, ids->id, ids->count, true, NULL, NULL);
    else
        runner_logits(run, &talk->memory);
    if (options->focus)
        ok = demo_focus(run, ids, look, options->profile ? NULL : options->svg, error);
    free(run->focus);
    run->focus = NULL;
    return ok;
}

static void print_speed(const Conversation *talk, size_t read, double reading, size_t written,
                        double writing)
{
    double bytes = (double)pretrained_step_bytes(talk->run->model);
    fflush(stdout); /* the speed comes after the answer */
    if (read > 0)
        fprintf(stderr, "%zu token%s read, %.0f a second. ", read, read == 1 ? "" : "s",
                (double)read / reading);
    if (written > 0)
        fprintf(stderr, "%zu written, %.1f a second: %.1f GB/s of weights", written,
                (double)written / writing, 1e-9 * bytes * (double)written / writing);
    if (read + written > 0)
        fputc('\n', stderr);
}

/* One prompt and its answer. */
static bool run_once(Conversation *talk, const PretrainedOptions *options, const Look *look,
                     Error *error)
{
    Ids ids = {NULL, 0, 0};
    Text text = {NULL, 0, 0};
    bool ok = prompt_ids(&ids, &text, options, talk->run->model, error);
    double start = seconds_now();
    ok = ok && conversation_feed(talk, &ids, options, look, error);
    double middle = seconds_now();
    if (ok && options->answer.count > 0 && !options->focus) {
        if (text.len > 0)
            fwrite(text.bytes, 1, text.len, stdout);
        talk->run->timed = options->profile;
        size_t count = answer(talk, &options->answer, stdout);
        putchar('\n');
        print_speed(talk, ids.count, middle - start, count, seconds_now() - middle);
        if (options->profile && count > 0)
            ok = demo_profile(talk->run, count, look, options->svg, error);
    }
    ids_free(&ids), text_free(&text);
    return ok;
}

/* Line after line from standard input, each answered; one memory for all. */
static bool run_interactive(Conversation *talk, const PretrainedOptions *options, Error *error)
{
    struct sigaction action;
    char *line = NULL;
    size_t room = 0;
    bool terminal = isatty(STDIN_FILENO) != 0;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_interrupt; /* and no SA_RESTART: it ends getline, too */
    sigaction(SIGINT, &action, NULL);
    for (;;) {
        Ids ids = {NULL, 0, 0};
        Text text = {NULL, 0, 0};
        if (terminal)
            fputs("> ", stderr);
        interrupted = 0;
        errno = 0;
        ssize_t len = getline(&line, &room, stdin);
        if (len < 0 && errno == EINTR) {
            clearerr(stdin);
            fputc('\n', stderr);
            continue;
        }
        if (len < 0)
            break;
        if (talk->memory.count > 0)
            text_append(&text, "\n", 1); /* a new line of the same text */
        text_append(&text, line, (size_t)len - (line[len - 1] == '\n'));
        if (!prompt_encode(&ids, &talk->run->model->tokenizer, &text, error))
            fprintf(stderr, "%s\n", error->text); /* and go on */
        if (ids.count > 0) {
            for (size_t i = 0; i < ids.count; i++)
                sampler_see(&talk->sampler, ids.id[i]);
            runner_feed(talk->run, &talk->memory, ids.id, ids.count, true, NULL, NULL);
            answer(talk, &options->answer, stdout);
            putchar('\n');
        }
        ids_free(&ids), text_free(&text);
    }
    free(line);
    return true;
}

static bool run_conversation(const Pretrained *model, Runner *run, const PretrainedOptions *options,
                             const Look *look, Error *error)
{
    Conversation talk = {run, memory_new(&model->config), sampler_new(model->config.vocab_size),
                         random_from_seed(options->seed)};
    bool ok = options->load == NULL ||
              memory_load(&talk.memory, &talk.sampler, model, options->load, error);
    if (ok && options->interactive && !model->has_tokenizer)
        ok = fail(error, "--interactive needs a tokenizer.json in the folder");
    if (ok && options->interactive)
        ok = run_interactive(&talk, options, error);
    else if (ok)
        ok = run_once(&talk, options, look, error);
    if (ok && options->save != NULL)
        ok = memory_save(&talk.memory, &talk.sampler, model, options->save, error);
    memory_free(&talk.memory);
    sampler_free(&talk.sampler);
    return ok;
}

static bool run_pretrained(const PretrainedOptions *options, const Look *look, Error *error)
{
    Pretrained model;
    if (!pretrained_open(&model, options->dir, options->int8, error))
        return false;
    Runner run = runner_new(&model);
    bool ok = options->perplexity != NULL ? run_perplexity(&run, options->perplexity, error)
                                          : run_conversation(&model, &run, options, look, error);
    runner_free(&run);
    pretrained_close(&model);
    return ok;
}

static bool run_options(PretrainedOptions *options, Error *error)
{
    static const char *const usual = "data/tiny-mamba";
    static const char *const question =
        "a harp played , and the legend of the shamrock began . then a scientist measured "
        "the angle of the light . why is there a rainbow ?";
    Look look = look_at_terminal(options->ascii);
    if (options->threads > 0)
        threads_use((int)options->threads);
    if (options->bench)
        return demo_pretrained_bench(options->dir != NULL ? options->dir : "build/random-130m",
                                     error);
    if (options->dir == NULL && !options->sizes && path_exists(usual, "config.json")) {
        options->dir = usual;
        if (options->ids == NULL && options->load == NULL && !options->interactive)
            options->prompt = question;
    }
    if (options->dir == NULL) {
        demo_sizes(options->bandwidth);
        return true;
    }
    return options->tokenize ? run_tokenize(options, error) : run_pretrained(options, &look, error);
}

/* A mapped file that somebody shortens: the kernel says so by a signal, wherever it is read. */
static void on_lost_file(int signal_number)
{
    static const char text[] = "error: a file of weights got shorter while the model was at work\n";
    (void)signal_number;
    _exit(write(STDERR_FILENO, text, sizeof text - 1) < 0 ? 2 : 1);
}

int pretrained_main(int argc, char **argv)
{
    PretrainedOptions options;
    Error error;
    if (!pretrained_options_parse(&options, argc, argv, &error)) {
        if (error.text[0])
            fprintf(stderr, "error: %s\n", error.text);
        pretrained_usage(stderr);
        return 2;
    }
    signal(SIGBUS, on_lost_file);
    bool ok = run_options(&options, &error);
    if (fflush(stdout) != 0 || ferror(stdout))
        ok = fail(&error, "the output cannot be written: %s", strerror(errno));
    if (!ok)
        fprintf(stderr, "error: %s\n", error.text);
    return ok ? 0 : 1;
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return pretrained_main(argc, argv);
}
#endif

#endif /* CH05_PRETRAINED */
