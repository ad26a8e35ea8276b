/* Random bytes as a tokenizer.json; if it is one, what follows a 0 byte is a text to be encoded. */

#include "../../ch05_mamba_block/tokenizer_json.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Tokenizer tokenizer;
    Error error;
    Ids ids = {NULL, 0, 0, 0};
    Text text = {NULL, 0, 0};
    size_t json = strnlen((const char *)data, size), start = json < size ? json + 1 : size;
    if (!tokenizer_from_json(&tokenizer, (const char *)data, json, "fuzz", &error))
        return error.text[0] == '\0'; /* a failure has a sentence */
    const char *rest = (const char *)data + start;
    Decoding decoding = {&tokenizer, {NULL, 0, 0}, false, 0};
    if (tokenizer_encode(&ids, &tokenizer, rest, size - start, &error))
        for (size_t i = 0; i < ids.count; i++)
            tokenizer_decode(&text, &decoding, ids.id[i], i == 0);
    decoding_settle(&text, &decoding);
    if (tokenizer_safe_cut(&tokenizer, rest, size - start) > size - start)
        __builtin_trap();
    ids_free(&ids);
    text_free(&text);
    text_free(&decoding.run);
    tokenizer_free(&tokenizer);
    return 0;
}
