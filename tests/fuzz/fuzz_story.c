/* The story and cue readers of chapter 4 on any bytes: the text before the first line "----" is the
   cues, what follows is the story, and what can be read is scanned. */

#include "../../ch04_selective/selective.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char *part_copy(const uint8_t *data, size_t size)
{
    char *text = NEW(char, size + 1);
    memcpy(text, data, size);
    return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *cut = size < 5 ? NULL : (const uint8_t *)memmem(data, size, "----\n", 5);
    size_t head = cut == NULL ? size : (size_t)(cut - data), tail = cut == NULL ? 0 : head + 5;
    Cues cues;
    Story story;
    Error error;
    if (!cues_parse(&cues, part_copy(data, head), head, "cues", &error))
        return 0;
    if (story_parse(&story, part_copy(data + tail, size - tail), size - tail, "story", &error)) {
        Wiring wiring = story_wire(&story, &cues);
        float *x = NEW(float, story.n_word *cues.n_context);
        selective_scan(x, NULL, &wiring.scan);
        for (size_t t = 0; t < story.n_word; t++)
            if (story_reading(x + t * cues.n_context, cues.n_context) > cues.n_context)
                abort();
        free(x);
        wiring_free(&wiring);
        story_free(&story);
    }
    cues_free(&cues);
    return 0;
}
