/* A tokenizer at work: a text becomes ids, and ids become a text.

   HOLDS   the tables of tokens, merges and added tokens; the merges of BPE, as they are defined
           (exercise 5.10) and by a heap; a text's way through normalization and the stages that
           cut it (pre_tokenizer.c); the way back (Decoder); ids and texts that grow
   FOR     pretrained.c and its lesson, PRETRAINED.md; tokenizer_json.c fills the tables
   SOURCES R. Sennrich, B. Haddow, A. Birch, Neural machine translation of rare words with subword
           units, arXiv 1508.07909 (BPE); A. Radford et al., GPT-2 (2019): bytes; T. Kudo,
           J. Richardson, SentencePiece, arXiv 1808.06226: characters, and bytes where they have no
           token; Hugging Face's tokenizers, whose ids these are */

#ifndef CH05_TOKENIZER
#define CH05_TOKENIZER

#include "json.c"
#include "pre_tokenizer.c"

/* ======================================== Tables =========================================== */
/* Texts and pairs are looked up by their hash, in tables that are never more than half full. */

uint64_t hash_mix(uint64_t hash)
{
    hash = (hash ^ hash >> 32) * 0x9E3779B97F4A7C15u;
    return hash ^ hash >> 29;
}

enum { NO_TOKEN = 0xFFFFFFFF };

/* A token as tokenizer.json has it. */
typedef struct {
    const char *text; /* (len) as it stands there: for byte-level BPE one character for each byte */
    size_t len;
    unsigned char *bytes; /* (n_bytes) what it stands for */
    unsigned char *begin; /* (n_begin) and as the first of a text; NULL: the same */
    size_t n_bytes, n_begin;
    bool of_model; /* the model has it; else it is only an added one */
    bool spelled;  /* it is a byte, such as <0x0A>, and may be a part of a character */
    bool added, special;
    bool left_blanks, right_blanks; /* where it is added: blanks before it, after it are its own */
    bool whole_word;                /* and it is none where letters touch it */
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
    TrieNode *node;         /* (n_node) node 0 is the root */
    size_t n_node, longest; /* in bytes */
    bool first[256];        /* a token begins with this byte */
} Trie;

/* Tokens that go before or after each text. */
enum { FRAME_MOST = 16 };

typedef struct {
    uint32_t id[FRAME_MOST]; /* (count) */
    size_t count;
} Frame;

/* How the texts of tokens become one. */
typedef struct {
    bool blanks;       /* between them */
    const char *strip; /* (strip_len) up to strip_most of it go from a text's beginning */
    size_t strip_len, strip_most;
} Decoder;

typedef struct {
    bool words; /* WordLevel: a word is a token; else BPE, over bytes or over characters */
    Normalizer normalizer;
    Stages stages; /* how a text is cut into pieces, or into words */
    Decoder decoder;
    size_t n_token;
    Token *token;    /* (n_token) by id; text NULL where there is none */
    uint32_t *place; /* (n_place) ids by the hash of their text */
    Merge *merge;    /* (n_merge) by the hash of left and right */
    size_t n_place, n_merge;
    uint32_t of_byte[256]; /* the token of each byte's stand-in, or NO_TOKEN */
    uint32_t spelled[256]; /* the tokens <0x00> to <0xFF>, for characters without one */
    uint32_t unknown;      /* for what has no token; or NO_TOKEN */
    bool fuse_unknown;     /* BPE: one for all neighbours of a piece that have none */
    bool whole_first;      /* BPE: a piece that is a token is not merged but taken whole */
    Frame begin, end;      /* what a text has before and after it */
    Trie added[2];         /* looked for in the text as it is, and in the normalized one */
    bool blank_inside;     /* an added token, or what is replaced, may reach over a blank */
    char *strings;
} Tokenizer;

size_t table_room(size_t count)
{
    size_t room = 4;
    while (room < 2 * count + 2)
        room *= 2;
    return room;
}

/* The id of a token by its text in the file, or NO_TOKEN. */
uint32_t token_find(const Tokenizer *tokenizer, const char *text, size_t len)
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

/* Only among those of the model. */
static uint32_t model_token(const Tokenizer *tokenizer, const unsigned char *text, size_t len)
{
    uint32_t id = token_find(tokenizer, (const char *)text, len);
    return id == NO_TOKEN || tokenizer->token[id].of_model ? id : NO_TOKEN;
}

/* The place of a pair: that of its merge, or an empty one. */
Merge *merge_place(const Tokenizer *tokenizer, uint32_t left, uint32_t right)
{
    size_t mask = tokenizer->n_merge - 1;
    size_t at = hash_mix((uint64_t)left << 32 | right) & mask;
    for (;; at = (at + 1) & mask) {
        Merge *merge = &tokenizer->merge[at];
        if (merge->id == NO_TOKEN || (merge->left == left && merge->right == right))
            return merge;
    }
}

void trie_add(Trie *trie, const unsigned char *bytes, size_t len, uint32_t token)
{
    uint32_t at = 0;
    if (trie->n_node == 0) {
        trie->node = (TrieNode *)array_grow(trie->node, trie->n_node++, sizeof(TrieNode));
        trie->node[0].token = NO_TOKEN;
    }
    for (size_t i = 0; i < len; i++) {
        uint32_t next = trie->node[at].child;
        while (next != 0 && trie->node[next].byte != bytes[i])
            next = trie->node[next].sibling;
        if (next == 0) {
            trie->node = (TrieNode *)array_grow(trie->node, trie->n_node, sizeof(TrieNode));
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
    trie->longest = len > trie->longest ? len : trie->longest;
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
/* A piece begins as one token for each byte, or for each character. Then neighbours are merged: */
/* always the pair that is first in the list of merges, in which order training found them.      */

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
    size_t left_out; /* bytes of texts that had no token, not even one for what is unknown */
} Ids;

void ids_reserve(Ids *ids, size_t more)
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

void ids_push(Ids *ids, uint32_t id)
{
    ids_reserve(ids, 1);
    ids->id[ids->count++] = id;
}

void ids_free(Ids *ids)
{
    free(ids->id);
    memset(ids, 0, sizeof *ids);
}

/* What encoding carries along: where to, and what went wrong. */
typedef struct {
    const Tokenizer *tokenizer;
    Ids *ids;
    bool goes_on; /* the text is the rest of one: nothing goes before it */
    Error *error;
} Encoding;

/* The token that is all of a piece, if there is one; or NO_TOKEN. */
static uint32_t piece_token(const Tokenizer *tokenizer, const Piece *piece)
{
    if (!piece->stand_ins)
        return model_token(tokenizer, piece->bytes, piece->len);
    unsigned char *name = NEW(unsigned char, 2 * piece->len + 1);
    size_t used = 0;
    for (size_t i = 0; i < piece->len; i++)
        used += utf8_encode(name + used, stand_in_of_byte(piece->bytes[i]));
    uint32_t id = model_token(tokenizer, name, used);
    free(name);
    return id;
}

/* Appends the tokens of a character's bytes, if all have one. */
static bool spell_out(uint32_t *ids, size_t *count, const Tokenizer *tokenizer, uint32_t code)
{
    unsigned char bytes[4];
    size_t len = utf8_encode(bytes, code);
    for (size_t i = 0; i < len; i++)
        if (tokenizer->spelled[bytes[i]] == NO_TOKEN)
            return false;
    for (size_t i = 0; i < len; i++)
        ids[(*count)++] = tokenizer->spelled[bytes[i]];
    return true;
}

static bool is_no_utf8(unsigned char byte)
{
    return byte == 0xC0 || byte == 0xC1 || byte > 0xF4;
}

/* One piece of BPE. A character (from ByteLevel on, a byte's stand-in) that has no token is spelled
   out in bytes or becomes the unknown token; without either it is left out, and what was on both
   sides of it may merge. An unknown token waits, as in Hugging Face's tokenizers, until one comes
   that is known: what is spelled out meanwhile goes before it. */
static bool encode_piece(const Encoding *to, const Piece *piece)
{
    const Tokenizer *tokenizer = to->tokenizer;
    Ids *ids = to->ids;
    uint32_t whole = tokenizer->whole_first ? piece_token(tokenizer, piece) : NO_TOKEN;
    if (whole != NO_TOKEN) {
        ids_push(ids, whole);
        return true;
    }
    ids_reserve(ids, 2 * piece->len);
    uint32_t *at = ids->id + ids->count, unknown = tokenizer->unknown;
    size_t count = 0, step = 1;
    bool waits = false;
    for (size_t i = 0; i < piece->len; i += step) {
        const unsigned char *text = piece->bytes + i;
        uint32_t code = piece->stand_ins ? text[0] : utf8_decode(&step, text, piece->len - i);
        uint32_t id =
            piece->stand_ins ? tokenizer->of_byte[text[0]] : model_token(tokenizer, text, step);
        bool known = id != NO_TOKEN;
        if (!known &&
            spell_out(at, &count, tokenizer, piece->stand_ins ? stand_in_of_byte(code) : code))
            continue;
        if (!known && (code >= UTF8_BAD || (piece->stand_ins && is_no_utf8(text[0]))))
            return fail(to->error,
                        "the byte 0x%02X has no token: it is no UTF-8, is the text something else?",
                        text[0]);
        if (waits && (known || !tokenizer->fuse_unknown))
            at[count++] = unknown;
        if (known)
            at[count++] = id;
        waits = !known && unknown != NO_TOKEN;
        ids->left_out += !known && !waits ? step : 0;
    }
    if (waits)
        at[count++] = unknown;
    ids->count += bpe_merge(at, count, tokenizer);
    return true;
}

/* One word of a WordLevel tokenizer. */
static bool encode_word(const Encoding *to, const unsigned char *text, size_t len)
{
    uint32_t id = model_token(to->tokenizer, text, len);
    char shown[NAME_SHOWN + 4];
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

static bool encode_stage(const Encoding *to, const Piece *piece, size_t which);

/* Spaces become the stage's mark, and one goes before what does not begin with one. */
static bool encode_marked(const Encoding *to, const Piece *piece, const Stage *stage, size_t which)
{
    const Replacement spaces = {" ", 1, stage->text, stage->text_len};
    size_t len, mark = stage->text_len;
    unsigned char *text = replaced_text(&len, piece->bytes, piece->len, &spaces);
    bool has_one = len >= mark && memcmp(text, stage->text, mark) == 0;
    if (stage->prepend <= (piece->first ? PREPEND_FIRST : PREPEND_ALWAYS) && !has_one &&
        !(piece->first && to->goes_on)) {
        unsigned char *longer = prepended_text(&len, text, len, &spaces);
        free(text);
        text = longer;
    }
    const Piece marked = {text, len, piece->stand_ins, piece->first};
    bool ok = encode_stage(to, &marked, which);
    free(text);
    return ok;
}

/* A piece goes through the stages from `which` on; what comes out of the last is encoded. */
static bool encode_stage(const Encoding *to, const Piece *piece, size_t which)
{
    const Stages *stages = &to->tokenizer->stages;
    if (which == stages->count)
        return to->tokenizer->words ? encode_word(to, piece->bytes, piece->len)
                                    : encode_piece(to, piece);
    const Stage *stage = &stages->stage[which];
    Piece part = *piece;
    bool ok = true;
    if (stage->kind == STAGE_PREFIX)
        return encode_marked(to, piece, stage, which + 1);
    if (stage->kind == STAGE_BYTES) {
        part.stand_ins = true;
        return encode_stage(to, &part, which + 1);
    }
    for (size_t at = 0; ok && stage_next(&part, &at, stage, piece);)
        ok = encode_stage(to, &part, which + 1);
    return ok;
}

static bool encode_added(const Encoding *to, const unsigned char *text, size_t len, bool first,
                         bool normal);

/* A text without those added tokens that are looked for in it; len > 0. It is normalized and looked
   through again, or, if it is `normal`, cut and encoded. */
static bool encode_plain(const Encoding *to, const unsigned char *text, size_t len, bool first,
                         bool normal)
{
    const Piece all = {text, len, false, first};
    if (normal)
        return encode_stage(to, &all, 0);
    size_t normal_len;
    unsigned char *made =
        normal_text(&normal_len, text, len, &to->tokenizer->normalizer, first && to->goes_on);
    bool ok = encode_added(to, made, normal_len, first, true);
    free(made);
    return ok;
}

static size_t character_end(const unsigned char *text, size_t len, size_t at)
{
    size_t step;
    utf8_decode(&step, text + at, len - at);
    return at + step;
}

/* Where the character begins that ends at `at` > 0. */
static size_t character_before(const unsigned char *text, size_t at)
{
    size_t start = at - 1;
    while (start > 0 && at - start < 4 && (text[start] & 0xC0) == 0x80)
        start--;
    return character_end(text, at, start) == at ? start : at - 1;
}

static uint32_t class_in(const unsigned char *text, size_t len, size_t at)
{
    size_t step;
    return at < len ? unicode_class_of(utf8_decode(&step, text + at, len - at)) : 0;
}

/* Whether an added token may stand from *at to *end of a text, and, if blanks on one side of it are
   its own, where it begins and ends with them; what is before `start` is other tokens'. */
static bool added_stands(size_t *at, size_t *end, const Token *token, const unsigned char *text,
                         size_t len, size_t start)
{
    uint32_t before = *at > 0 ? class_in(text, len, character_before(text, *at)) : 0;
    if (token->whole_word && ((before | class_in(text, len, *end)) & UNICODE_WORD))
        return false;
    while (token->left_blanks && *at > start &&
           class_in(text, len, character_before(text, *at)) & UNICODE_SPACE)
        *at = character_before(text, *at);
    while (token->right_blanks && class_in(text, len, *end) & UNICODE_SPACE)
        *end = character_end(text, len, *end);
    return true;
}

/* Cuts a text at its added tokens, the leftmost first and of several the longest. */
static bool encode_added(const Encoding *to, const unsigned char *text, size_t len, bool first,
                         bool normal)
{
    const Trie *trie = &to->tokenizer->added[normal];
    size_t start = 0, found_len = 1;
    bool ok = true;
    for (size_t at = 0; ok && at < len; at += found_len) {
        uint32_t found = trie_match(&found_len, trie, text + at, len - at);
        size_t from = at, end = at + found_len;
        if (found == NO_TOKEN)
            found_len = 1;
        else if (added_stands(&from, &end, &to->tokenizer->token[found], text, len, start)) {
            if (from > start)
                ok = encode_plain(to, text + start, from - start, first && start == 0, normal);
            if (ok)
                ids_push(to->ids, found);
            start = end;
        }
    }
    return ok && start < len
               ? encode_plain(to, text + start, len - start, first && start == 0, normal)
               : ok;
}

/* Appends the ids of a text (len bytes) to `ids`, without what goes before and after a text; on
   failure those it had stay. Time n log n. With `goes_on` it is the rest of a text. */
bool tokenizer_encode_part(Ids *ids, const Tokenizer *tokenizer, const char *text, size_t len,
                           bool goes_on, Error *error)
{
    size_t before = ids->count, left_out = ids->left_out;
    Encoding to = {tokenizer, ids, goes_on, error};
    bool ok = encode_added(&to, (const unsigned char *)text, len, true, false);
    if (!ok) {
        ids->count = before;
        ids->left_out = left_out;
    }
    return ok;
}

bool tokenizer_encode(Ids *ids, const Tokenizer *tokenizer, const char *text, size_t len,
                      Error *error)
{
    return tokenizer_encode_part(ids, tokenizer, text, len, false, error);
}

/* Appends what the tokenizer has before each text, or after it. */
void ids_frame(Ids *ids, const Frame *frame)
{
    for (size_t i = 0; i < frame->count; i++)
        ids_push(ids, frame->id[i]);
}

/* Whether something is put before what follows these len bytes, because they end in an added
   token. */
static bool text_begins_anew(const Tokenizer *tokenizer, const unsigned char *text, size_t len)
{
    const Trie *trie = &tokenizer->added[0];
    size_t found = 0;
    bool prepends = false;
    for (size_t i = 0; i < tokenizer->normalizer.count; i++)
        prepends = prepends || tokenizer->normalizer.step[i].kind == NORMAL_PREPEND;
    for (size_t some = 1; prepends && some <= len && some <= trie->longest; some++)
        if (trie_match(&found, trie, text + len - some, some) != NO_TOKEN && found == some)
            return true;
    return false;
}

/* Where a text may be cut such that both parts have the ids of the whole, the second as one that
   goes on: the last place before a blank that follows none; 0 if there is no such place. */
size_t tokenizer_safe_cut(const Tokenizer *tokenizer, const char *text, size_t len)
{
    const unsigned char *bytes = (const unsigned char *)text;
    bool lines = stages_cut_at_blanks(&tokenizer->stages, true);
    bool spaces = lines || stages_cut_at_blanks(&tokenizer->stages, false);
    for (size_t at = len; spaces && !tokenizer->blank_inside && at-- > 1;) {
        bool blank = bytes[at] == ' ' || (lines && bytes[at] == '\n');
        size_t before = blank ? character_before(bytes, at) : 0, step;
        if (blank && !(class_in(bytes, at, before) & UNICODE_SPACE) &&
            utf8_decode(&step, bytes + before, at - before) != SPACE_MARK &&
            !text_begins_anew(tokenizer, bytes, at))
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

void text_append(Text *text, const void *bytes, size_t len)
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

void text_free(Text *text)
{
    free(text->bytes);
    memset(text, 0, sizeof *text);
}

/* Ids on their way back to a text. */
typedef struct {
    const Tokenizer *tokenizer;
    Text run;     /* bytes one by one, which may be characters: when the next token is none, or at
                     the end, they are a text, or, if they are no UTF-8, each is U+FFFD */
    bool begins;  /* no token of the text has come yet */
    size_t strip; /* what may yet go from its beginning */
} Decoding;

/* Appends a part of the text, or of its beginning what the decoder leaves of it. */
static void decoding_append(Text *text, Decoding *decoding, const unsigned char *bytes, size_t len)
{
    const Decoder *decoder = &decoding->tokenizer->decoder;
    size_t strip = decoder->strip_len;
    for (; decoding->strip > 0 && len >= strip && memcmp(bytes, decoder->strip, strip) == 0;
         decoding->strip--) {
        bytes += strip;
        len -= strip;
    }
    decoding->strip = len > 0 ? 0 : decoding->strip;
    text_append(text, bytes, len);
}

/* Appends the bytes that have waited for others. */
void decoding_settle(Text *text, Decoding *decoding)
{
    const unsigned char *bytes = (const unsigned char *)decoding->run.bytes;
    size_t len = decoding->run.len, step = 0;
    bool good = true;
    for (size_t at = 0; good && at < len; at += step)
        good = utf8_decode(&step, bytes + at, len - at) < UTF8_BAD;
    for (size_t i = 0; !good && i < len; i++)
        decoding_append(text, decoding, (const unsigned char *)"\xEF\xBF\xBD", 3);
    if (good && len > 0)
        decoding_append(text, decoding, bytes, len);
    decoding->run.len = 0;
}

/* Appends what a token stands for; `first`: it is the first of a text. Ids without a token (a
   padded vocabulary has some) are nothing. */
void tokenizer_decode(Text *text, Decoding *decoding, uint32_t id, bool first)
{
    const Tokenizer *tokenizer = decoding->tokenizer;
    const Decoder *decoder = &tokenizer->decoder;
    decoding->begins = decoding->begins || first;
    if (id >= tokenizer->n_token || tokenizer->token[id].text == NULL)
        return;
    const Token *token = &tokenizer->token[id];
    bool begins = decoding->begins;
    decoding->begins = false;
    decoding->strip = begins ? decoder->strip_most : decoding->strip;
    if (token->spelled) {
        text_append(&decoding->run, token->bytes, token->n_bytes);
        return;
    }
    decoding_settle(text, decoding);
    if (decoder->blanks && !begins)
        text_append(text, " ", 1);
    if (begins && token->begin != NULL)
        text_append(text, token->begin, token->n_begin);
    else
        decoding_append(text, decoding, token->bytes, token->n_bytes);
}

#endif /* CH05_TOKENIZER */
