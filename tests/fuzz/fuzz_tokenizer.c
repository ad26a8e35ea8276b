/* Random bytes as a tokenizer.json; if it is one, what follows a 0 byte is a text to be encoded.
   Besides not to crash: a failure has a sentence; both ways to merge give the same ids; a text that
   is cut where it may be has the ids of the whole; and where nothing is left out or made the same,
   ids give the text back. */

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

/* Whether a text is made of its ids, byte for byte. */
static bool is_lossless(const Tokenizer *tokenizer)
{
    bool lossless = !tokenizer->words && !tokenizer->nfc && !tokenizer->lowercase &&
                    tokenizer->added[0].n_node + tokenizer->added[1].n_node == 0 &&
                    tokenizer->unknown == NO_TOKEN;
    for (size_t i = 0; i < tokenizer->stages.count; i++) {
        const Stage *stage = &tokenizer->stages.stage[i];
        lossless = lossless && stage->behavior != CUT_REMOVED && stage->kind != STAGE_PREFIX;
    }
    return lossless;
}

static void fuzz_text(const Tokenizer *tokenizer, const char *text, size_t len)
{
    Ids whole = {NULL, 0, 0, 0}, parts = {NULL, 0, 0, 0};
    Text back = {NULL, 0, 0};
    Error error;
    size_t cut = tokenizer_safe_cut(tokenizer, text, len);
    MUST(cut <= len);
    if (tokenizer_encode(&whole, tokenizer, text, len, &error)) {
        for (size_t i = 0; i < whole.count; i++)
            tokenizer_decode(&back, tokenizer, whole.id[i], i == 0);
        if (is_lossless(tokenizer) && whole.left_out == 0)
            MUST(back.len == len && (len == 0 || memcmp(back.bytes, text, len) == 0));
        MUST(tokenizer_encode(&parts, tokenizer, text, cut, &error));
        MUST(tokenizer_encode(&parts, tokenizer, text + cut, len - cut, &error));
        ids_must_be_same(&whole, &parts);
    } else
        MUST(error.text[0] != '\0' && whole.count == 0);
    ids_free(&whole);
    ids_free(&parts);
    text_free(&back);
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
