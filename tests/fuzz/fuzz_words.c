/* The reader of word tokenizers (chapter 5, words.c) on any bytes; what it accepts must cut a
   text into tokens that it knows, and be written and read again as the same words. */

#include "../../ch05_mamba_block/words.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Vocabulary words, again;
    Error error;
    if (!tokenizer_parse(&words, (const char *)data, size, "tokenizer.json", &error))
        return 0;
    int32_t *ids = NEW(int32_t, size + 1);
    size_t unknown, count = text_to_tokens(ids, &unknown, (const char *)data, size, &words, true);
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || (size_t)ids[i] >= words.n_word)
            abort();
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    write_tokenizer(out, &words);
    fclose(out);
    if (!tokenizer_parse(&again, text, len, "again", &error) || again.n_word != words.n_word)
        abort();
    for (size_t i = 0; i < words.n_word && !words.bytes; i++)
        if (strcmp(again.word[i], words.word[i]) != 0)
            abort();
    free(text), free(ids);
    vocabulary_free(&words), vocabulary_free(&again);
    return 0;
}
