/* Random bytes as a tokenizer.json; if it is one, what follows a 0 byte is a text to be encoded, whole
   and in two parts, and decoded. */

#include "../../ch05_mamba_block/tokenizer_json.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void decode(const Tokenizer *tokenizer, const Ids *ids)
{
    Decoding decoding = {tokenizer, {NULL, 0, 0}, false, 0};
    Text text = {NULL, 0, 0};
    for (size_t i = 0; i < ids->count; i++)
        tokenizer_decode(&text, &decoding, ids->id[i], i == 0);
    decoding_settle(&text, &decoding);
    text_free(&text), text_free(&decoding.run);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Tokenizer tokenizer;
    Error error;
    Ids ids = {NULL, 0, 0, 0}, parts = {NULL, 0, 0, 0};
    size_t json = strnlen((const char *)data, size), start = json < size ? json + 1 : size;
    if (!tokenizer_from_json(&tokenizer, (const char *)data, json, "fuzz", &error))
        return error.text[0] == '\0'; /* a failure has a sentence */
    const char *rest = (const char *)data + start;
    size_t len = size - start, cut = tokenizer_safe_cut(&tokenizer, rest, len);
    if (tokenizer_encode(&ids, &tokenizer, rest, len, &error)) {
        decode(&tokenizer, &ids);
        if (cut > len || !tokenizer_encode(&parts, &tokenizer, rest, cut, &error) ||
            !tokenizer_encode_part(&parts, &tokenizer, rest + cut, len - cut, cut > 0, &error) ||
            parts.count != ids.count ||
            (ids.count > 0 && memcmp(parts.id, ids.id, ids.count * sizeof *ids.id) != 0))
            __builtin_trap();
    }
    ids_free(&ids), ids_free(&parts);
    tokenizer_free(&tokenizer);
    return 0;
}
