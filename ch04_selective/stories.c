/* What chapter 4's scans are shown: stories, cues, and the task of selective copying.

   HOLDS   reading a story and the cues of its contexts from files, or the built-in ones; which cue
           ends at a word; what a state says about the contexts; random tasks for copying, and
           the symbols read back from a state
   FOR     the wiring of selective.c and its pictures. Plain data: it knows nothing of a scan */

#ifndef CH04_STORIES
#define CH04_STORIES

#include "../ch01_markov/text_files.h"

enum { CONTEXTS_MOST = 8, CUE_WORDS_MOST = 4, CUES_MOST = 10000, STORY_WORDS_MOST = 1000000 };

/* A phrase that says what the story is about. It is known when its last word has come: until then
   three words are looked back at, which is what Mamba's convolution of width 4 sees. */
typedef struct {
    const char *word[CUE_WORDS_MOST]; /* as word_key leaves them */
    size_t n_word, context, line;
    bool turn; /* the story turns to this context, away from the others */
} Cue;

typedef struct {
    char *text; /* the words point into it */
    size_t n_context, n_cue;
    const char *context[CONTEXTS_MOST];
    Cue *cue; /* (n_cue) */
} Cues;

/* A text cut into words: as they stand there, and as they are compared. */
typedef struct {
    char *text, *keys;
    char **word, **key; /* (n_word) */
    size_t n_word;
} Story;

void cues_free(Cues *cues)
{
    free(cues->text);
    free(cues->cue);
}

void story_free(Story *story)
{
    free(story->text);
    free(story->keys);
    free(story->word);
    free(story->key);
}

/* How many bytes of punctuation start here: ASCII, or one of the quotes and dashes of UTF-8. */
static size_t punctuation_at(const char *text)
{
    const unsigned char *c = (const unsigned char *)text;
    if (c[0] == 0xE2 && c[1] == 0x80 && c[2] != 0)
        return 3;
    return c[0] != 0 && c[0] < 0x80 && ispunct(c[0]) ? 1 : 0;
}

/* A word as it is compared: without punctuation at its ends, in small letters. In place; returns
   where it starts. */
static char *word_key(char *word)
{
    while (punctuation_at(word) > 0)
        word += punctuation_at(word);
    size_t end = 0;
    for (size_t i = 0; word[i] != '\0';) {
        size_t mark = punctuation_at(word + i);
        i += mark > 0 ? mark : 1;
        end = mark > 0 ? end : i;
    }
    word[end] = '\0';
    for (size_t i = 0; i < end; i++)
        word[i] = (char)tolower((unsigned char)word[i]);
    return word;
}

/* The next word of a text, ended with a 0 byte; NULL if there is none. *text moves behind it. */
static char *next_word(char **text)
{
    char *word = *text + strspn(*text, " \t\r\n\v\f");
    char *end = word + strcspn(word, " \t\r\n\v\f");
    if (*word == '\0')
        return NULL;
    *text = *end == '\0' ? end : end + 1;
    *end = '\0';
    return word;
}

/* Words of `text` (len bytes and a 0, malloc'ed, now the story's own); `path` is for messages. */
bool story_parse(Story *story, char *text, size_t len, const char *path, Error *error)
{
    Story got = {text, NULL, NULL, NULL, 0};
    char *rest = text, *word;
    for (size_t i = 0; i < len; i++)
        if (text[i] == '\0')
            text[i] = ' ';
    got.keys = NEW(char, len + 1);
    got.word = NEW(char *, len / 2 + 1);
    got.key = NEW(char *, len / 2 + 1);
    while ((word = next_word(&rest)) != NULL && got.n_word < STORY_WORDS_MOST) {
        char *key = got.keys + (word - text);
        memcpy(key, word, strlen(word) + 1);
        got.word[got.n_word] = word;
        got.key[got.n_word++] = word_key(key);
    }
    bool ok = word == NULL || fail(error, "%s: more than %d words", path, STORY_WORDS_MOST);
    if (ok && got.n_word == 0)
        ok = fail(error, "%s: there is no word in it", path);
    if (ok)
        *story = got;
    else
        story_free(&got);
    return ok;
}

bool story_read(Story *story, const char *path, Error *error)
{
    char *text;
    size_t len;
    return text_read_plain(&text, &len, path, error) &&
           story_parse(story, text, len, path_shown(path), error);
}

static size_t cues_find_context(const Cues *cues, const char *name)
{
    size_t i = 0;
    while (i < cues->n_context && strcmp(cues->context[i], name) != 0)
        i++;
    return i;
}

static bool cues_same(const Cue *a, const Cue *b)
{
    bool same = a->n_word == b->n_word;
    for (size_t i = 0; same && i < a->n_word; i++)
        same = strcmp(a->word[i], b->word[i]) == 0;
    return same;
}

/* Where a message is about: a file and a line of it. */
typedef struct {
    const char *path;
    size_t line;
} Place;

/* One phrase of a line, in `cue` but for its words. */
static bool cue_add(Cues *cues, Cue cue, char *phrase, Place at, Error *error)
{
    char *word;
    while ((word = next_word(&phrase)) != NULL) {
        if (cue.n_word == CUE_WORDS_MOST)
            return fail(error, "%s:%zu: '%.40s ...' has more than %d words", at.path, at.line,
                        cue.word[0], CUE_WORDS_MOST);
        cue.word[cue.n_word] = word_key(word);
        cue.n_word += *cue.word[cue.n_word] != '\0';
    }
    if (cue.n_word == 0)
        return fail(error, "%s:%zu: a phrase without a word", at.path, at.line);
    for (size_t i = 0; i < cues->n_cue; i++)
        if (cues_same(&cues->cue[i], &cue))
            return fail(error, "%s:%zu: the phrase that ends in '%.40s' stands in line %zu already",
                        at.path, at.line, cue.word[cue.n_word - 1], cues->cue[i].line);
    if (cues->n_cue == CUES_MOST)
        return fail(error, "%s:%zu: more than %d phrases", at.path, at.line, CUES_MOST);
    cues->cue[cues->n_cue++] = cue;
    return true;
}

/* "context" or "turn context": which it is, and whether it is a new one. */
static bool cue_context(Cues *cues, Cue *cue, char *head, Place at, Error *error)
{
    char *first = next_word(&head), *second = first == NULL ? NULL : next_word(&head);
    cue->turn = second != NULL && strcmp(first, "turn") == 0;
    if (first == NULL || (second != NULL && (!cue->turn || next_word(&head) != NULL)))
        return fail(error, "%s:%zu: a line is 'context: phrase, phrase' or 'turn context: ...'",
                    at.path, at.line);
    const char *name = cue->turn ? second : first;
    cue->context = cues_find_context(cues, name);
    if (cue->context == cues->n_context && cue->turn)
        return fail(error, "%s:%zu: a turn to '%.40s', which no line above has cues of", at.path,
                    at.line, name);
    if (cue->context == CONTEXTS_MOST)
        return fail(error, "%s:%zu: '%.40s' is one context more than %d", at.path, at.line, name,
                    CONTEXTS_MOST);
    if (cue->context == cues->n_context)
        cues->context[cues->n_context++] = name;
    return true;
}

static bool cues_line(Cues *cues, char *line, Place at, Error *error)
{
    char *colon = strchr(line, ':'), *blank = line;
    Cue cue = {{NULL, NULL, NULL, NULL}, 0, 0, at.line, false};
    if (line[strspn(line, " \t\r")] == '#' || line[strspn(line, " \t\r")] == '\0')
        return true;
    if (colon == NULL)
        return fail(error, "%s:%zu: there is no ':' after '%.40s'", at.path, at.line,
                    next_word(&blank));
    *colon = '\0';
    if (!cue_context(cues, &cue, line, at, error))
        return false;
    for (char *phrase = colon + 1; phrase != NULL;) {
        char *comma = strchr(phrase, ',');
        if (comma != NULL)
            *comma = '\0';
        if (!cue_add(cues, cue, phrase, at, error))
            return false;
        phrase = comma == NULL ? NULL : comma + 1;
    }
    return true;
}

/* Cues from a text: lines "context: phrase, phrase" and "turn context: phrase", # for remarks.
   `text` (len bytes and a 0) was malloc'ed and belongs to the cues now. */
bool cues_parse(Cues *cues, char *text, size_t len, const char *path, Error *error)
{
    Cues got;
    Place at = {path, 0};
    bool ok = strlen(text) == len || fail(error, "%s: not a text: there is a 0 byte in it", path);
    memset(&got, 0, sizeof got);
    got.text = text;
    size_t most = len / 2 + 1; /* a phrase takes two bytes */
    got.cue = NEW(Cue, most < CUES_MOST ? most : (size_t)CUES_MOST);
    for (char *line = text; ok && line != NULL;) {
        char *end = strchr(line, '\n');
        if (end != NULL)
            *end = '\0';
        at.line++;
        ok = cues_line(&got, line, at, error);
        line = end == NULL ? NULL : end + 1;
    }
    if (ok && got.n_context < 2)
        ok = fail(error, "%s: cues of two contexts at least are wanted, not of %zu", path,
                  got.n_context);
    if (ok)
        *cues = got;
    else
        cues_free(&got);
    return ok;
}

bool cues_read(Cues *cues, const char *path, Error *error)
{
    char *text;
    size_t len;
    return text_read_plain(&text, &len, path, error) &&
           cues_parse(cues, text, len, path_shown(path), error);
}

/* The longest cue that ends with word `at` of the story, or NULL. */
const Cue *cue_at(const Cues *cues, const Story *story, size_t at)
{
    const Cue *found = NULL;
    for (size_t i = 0; i < cues->n_cue; i++) {
        const Cue *cue = &cues->cue[i];
        bool here = cue->n_word <= at + 1;
        for (size_t k = 0; here && k < cue->n_word; k++)
            here = strcmp(cue->word[k], story->key[at + 1 - cue->n_word + k]) == 0;
        if (here && (found == NULL || cue->n_word > found->n_word))
            found = cue;
    }
    return found;
}

/* A small number in (-1/2, 1/2) that a word always has: what it happens to say in a context where
   it means nothing. From the word's letters and the number of the context. */
float word_noise(const char *key, size_t context)
{
    Random random = random_from_seed(hash_bytes(key, strlen(key), HASH_START) + context);
    return (float)random_uniform(&random) - 0.5f;
}

/* Which context a model that reads x would answer from: the largest, if it is ahead of every other
   by 0.1 (a full state is 1); else none (the number of contexts). */
size_t story_reading(const float *x, size_t contexts)
{
    size_t best = 0;
    for (size_t d = 1; d < contexts; d++)
        if (x[d] > x[best])
            best = d;
    for (size_t d = 0; d < contexts; d++)
        if (d != best && !(x[best] - x[d] >= 0.1f))
            return contexts;
    return best;
}

/* The story and the cues of data/, for a program that is run anywhere. */
static const char built_in_cues[] =
    "science: refraction, prism, droplets, dispersion, spectrum, wavelength, 42 degrees\n"
    "folklore: leprechaun, pot of gold, fairies, bridge of the gods, enchanted, wishes\n"
    "turn science: a scientist explained, the teacher drew, in the laboratory\n"
    "turn folklore: grandmother told, once upon a time, the old legend\n";

static const char built_in_story[] =
    "Once upon a time, after the rain, a leprechaun hid his pot of gold where the rainbow touched "
    "the meadow. The children walked home slowly past the old mill and the quiet river, and it was "
    "nearly evening. At the gate a scientist explained what they had seen: sunlight enters the "
    "droplets, and by refraction and dispersion each colour leaves on a path of its own. Then they "
    "went in to supper.\n";

/* A path may be NULL: then it is the built-in story, or the built-in cues. */
bool story_and_cues_open(Story *story, Cues *cues, const char *story_path, const char *cues_path,
                         Error *error)
{
    bool ok = cues_path != NULL ? cues_read(cues, cues_path, error)
                                : cues_parse(cues, text_copy(built_in_cues), strlen(built_in_cues),
                                             "the built-in cues", error);
    if (!ok)
        return false;
    ok = story_path != NULL ? story_read(story, story_path, error)
                            : story_parse(story, text_copy(built_in_story), strlen(built_in_story),
                                          "the built-in story", error);
    if (!ok)
        cues_free(cues);
    return ok;
}

/* Selective copying: a row of tokens, COPY_SYMBOLS of them symbols from 0 to 15, of COPY_BITS bits,
   and the others noise. */
enum { COPY_SYMBOLS = 16, COPY_BITS = 4, COPY_NOISE = 16 };

/* A random task: COPY_SYMBOLS symbols at random places among `noise` noise tokens; token
   (COPY_SYMBOLS + noise). */
void copying_task(int *token, int symbol[COPY_SYMBOLS], size_t noise, Random *random)
{
    size_t left = COPY_SYMBOLS;
    for (size_t t = 0, len = COPY_SYMBOLS + noise; t < len; t++) {
        bool here = random_uniform(random) * (double)(len - t) < (double)left;
        token[t] = here ? (int)(random_u32(random) % COPY_NOISE) : COPY_NOISE;
        if (here)
            symbol[COPY_SYMBOLS - left--] = token[t];
    }
}

/* Who copies: the selective system, or one of two time-invariant baselines, which treat every token
   alike: halve (and so remember an order, but count the noise too), or keep (and so ignore the
   noise, but lose the order). */
typedef enum { COPY_SELECTIVE, COPY_HALVING, COPY_KEEPING } CopyWay;

/* The symbols back from x (COPY_BITS), the oldest first: it was pushed furthest, to the lowest
   place. A state that only kept sums knows how many ones there were: the best guess is then the
   commoner bit. */
void copying_read(int symbol[COPY_SYMBOLS], const float *x, CopyWay way)
{
    memset(symbol, 0, COPY_SYMBOLS * sizeof *symbol);
    for (size_t bit = 0; bit < COPY_BITS; bit++) {
        /* times 2^15: the binary places as a whole number, the oldest symbol's the lowest */
        long places = lrint(ldexp(x[bit], COPY_SYMBOLS - 1));
        bool mostly_one = x[bit] > 0.5f * COPY_SYMBOLS;
        for (size_t k = 0; k < COPY_SYMBOLS; k++) {
            bool one = way == COPY_KEEPING ? mostly_one : places >> k & 1;
            symbol[k] |= (int)one << bit;
        }
    }
}

#endif /* CH04_STORIES */
