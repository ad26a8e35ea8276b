/* Random bytes as a tokenizer.json; if it is one, what follows a 0 byte is a text to be encoded.
   Besides not to crash: a failure has a sentence; both ways to merge give the same ids; a text that
   is cut where it may be has the ids of the whole; and where bytes are tokens, and none is left out
   or changed, the tokens are the text. */

#include "../../ch05_mamba_block/tokenizer_json.c"

/* Like assert, but whatever NDEBUG says. */
#define MUST(condition) ((condition) ? (void)0 : abort())

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ids_must_be_same(const Ids *a, const Ids *b)
{
    MUST(a->count == b->count && a->left_out == b->left_out);
    MUST(a->count == 0 || memcmp(a->id, b->id, a->count * sizeof *a->id) == 0);
}

/* The bytes of a text as one piece, merged by the definition and by the heap. */
static void fuzz_merges(const Tokenizer *tokenizer, const char *text, size_t len)
{
    Ids clear = {NULL, 0, 0, 0}, heap = {NULL, 0, 0, 0};
    for (size_t i = 0; i < len && i < 256; i++) {
        uint32_t id = tokenizer->of_byte[(unsigned char)text[i]];
        if (id != NO_TOKEN) {
            ids_push(&clear, id);
            ids_push(&heap, id);
        }
    }
    clear.count = bpe_merge_clear(clear.id, clear.count, tokenizer);
    heap.count = bpe_merge(heap.id, heap.count, tokenizer);
    ids_must_be_same(&clear, &heap);
    ids_free(&clear);
    ids_free(&heap);
}

/* Whether every byte of a text comes to be a token's stand-in, or is left out and counted. */
static bool is_lossless(const Tokenizer *tokenizer)
{
    bool lossless = tokenizer->normalizer.count == 0 && tokenizer->unknown == NO_TOKEN &&
                    tokenizer->added[0].n_node + tokenizer->added[1].n_node == 0;
    bool bytes = false;
    for (size_t i = 0; i < tokenizer->stages.count; i++) {
        const Stage *stage = &tokenizer->stages.stage[i];
        lossless = lossless && stage->behavior != CUT_REMOVED && stage->kind != STAGE_PREFIX;
        bytes = bytes || stage->kind == STAGE_BYTES;
    }
    for (size_t i = 0; i < 256; i++)
        lossless = lossless && tokenizer->spelled[i] == NO_TOKEN;
    return lossless && bytes && !tokenizer->words;
}

static void ids_must_be_text(const Ids *ids, const Tokenizer *tokenizer, const char *text,
                             size_t len)
{
    size_t done = 0;
    for (size_t i = 0; i < ids->count; i++) {
        const Token *token = &tokenizer->token[ids->id[i]];
        for (size_t at = 0, step; at < token->len; at += step) {
            uint32_t code =
                utf8_decode(&step, (const unsigned char *)token->text + at, token->len - at);
            MUST(done < len && byte_of_stand_in(code) == (unsigned char)text[done]);
            done++;
        }
    }
    MUST(done == len);
}

static void fuzz_text(const Tokenizer *tokenizer, const char *text, size_t len)
{
    Ids whole = {NULL, 0, 0, 0}, parts = {NULL, 0, 0, 0};
    Text back = {NULL, 0, 0};
    Decoding decoding = {tokenizer, {NULL, 0, 0}, false, 0};
    Error error;
    size_t cut = tokenizer_safe_cut(tokenizer, text, len);
    MUST(cut <= len);
    if (tokenizer_encode(&whole, tokenizer, text, len, &error)) {
        for (size_t i = 0; i < whole.count; i++)
            tokenizer_decode(&back, &decoding, whole.id[i], i == 0);
        decoding_settle(&back, &decoding);
        if (whole.left_out == 0 && is_lossless(tokenizer))
            ids_must_be_text(&whole, tokenizer, text, len);
        MUST(tokenizer_encode(&parts, tokenizer, text, cut, &error));
        MUST(tokenizer_encode_part(&parts, tokenizer, text + cut, len - cut, cut > 0, &error));
        ids_must_be_same(&whole, &parts);
    } else
        MUST(error.text[0] != '\0' && whole.count == 0);
    ids_free(&whole);
    ids_free(&parts);
    text_free(&back);
    text_free(&decoding.run);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Tokenizer tokenizer;
    Error error;
    size_t json = size > 0 ? strnlen((const char *)data, size) : 0;
    size_t start = json < size ? json + 1 : size;
    memset(&error, 0, sizeof error);
    if (tokenizer_from_json(&tokenizer, (const char *)data, json, "fuzz", &error)) {
        fuzz_text(&tokenizer, (const char *)data + start, size - start);
        if (!tokenizer.words)
            fuzz_merges(&tokenizer, (const char *)data + start, size - start);
        tokenizer_free(&tokenizer);
    } else
        MUST(strncmp(error.text, "fuzz: ", 6) == 0);
    return 0;
}
