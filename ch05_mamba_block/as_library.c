/* The course as a library: a model answers a question, from a program of one's own.

   HOLDS   all that it takes: a folder is opened, a prompt read, the likeliest words said
   FOR     the front page's section "As a library", which shows it, and whoever begins with it
   BUILD   cc -O2 ch05_mamba_block/as_library.c -o as_library -lm && ./as_library */

#ifndef CH05_AS_LIBRARY
#define CH05_AS_LIBRARY

#include "language_model.c"

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(void)
{
    static const char prompt[] = "grandmother told a tale of leprechauns. what is a rainbow?";
    int32_t ids[sizeof prompt];
    size_t unknown, token;
    Model model;
    Vocabulary words;
    Error error;
    if (!model_open_folder(&model, &words, "data/tiny-mamba", &error))
        return program_end(false, &error);
    size_t count = text_to_tokens(ids, &unknown, prompt, strlen(prompt), &words, false);
    Writer writer = writer_new(&model);
    const float *logits = writer_read_all(&writer, ids, count);
    while ((token = token_greedy(logits, words.n_word)) != WORD_END) {
        print_token(stdout, token, false, &words);
        logits = writer_read(&writer, (int32_t)token);
    }
    putchar('\n');
    writer_free(&writer);
    model_free(&model);
    vocabulary_free(&words);
    return program_end(true, NULL); /* 0, if what was printed has arrived */
}
#endif

#endif /* CH05_AS_LIBRARY */
