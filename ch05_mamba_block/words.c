/* Words and bytes: how a text becomes numbers, and back.

   HOLDS   a vocabulary of words (cut as Hugging Face's WordLevel tokenizer cuts them) or of bytes;
           a text as tokens, and where its pieces begin; tokenizer.json, written and read
   FOR     language_model.c. It knows nothing of a model. Subwords are pretrained.c's business */

#ifndef CH05_WORDS
#define CH05_WORDS

#include "../ch01_markov/text_files.h"
#include "json.c"

/* ====================================== Vocabulary ========================================= */

enum { WORD_UNKNOWN, WORD_END, WORDS_RESERVED, WORDS_MOST = 65536, BYTE_TOKENS = 256 };

/* Which token is which piece of text. */
typedef struct {
    bool bytes;           /* a token is a byte, and its number is the byte's */
    size_t n_word;        /* tokens; word 0 is what is not known, word 1 ends a text */
    char *text;           /* what the words point into */
    char **word;          /* (n_word), NULL if bytes */
    size_t *slot, n_slot; /* (n_slot) a hash table of word numbers + 1; 0 is free */
} Vocabulary;

void vocabulary_free(Vocabulary *words)
{
    free(words->text);
    free(words->word);
    free(words->slot);
}

bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Letters, digits, _ and everything beyond ASCII; what is neither this nor blank is punctuation. */
static bool is_of_words(char c)
{
    return c == '_' || (unsigned char)c >= 0x80 || isalnum((unsigned char)c) != 0;
}

/* The next word of text[*at ..], small letters in `word` (room bytes, cut there): a run of
   letters and digits or a run of punctuation (the pattern \w+|[^\w\s]+). A line's end is a word
   too, "", if `lines`. False at the end of the text. */
static bool word_next(char *word, size_t room, const char *text, size_t len, size_t *at, bool lines)
{
    while (*at < len && is_blank(text[*at]) && !(lines && text[*at] == '\n'))
        (*at)++;
    if (*at == len)
        return false;
    size_t used = 0;
    word[0] = '\0';
    if (text[*at] == '\n' && ++*at)
        return true;
    bool letters = is_of_words(text[*at]);
    for (; *at < len && !is_blank(text[*at]) && is_of_words(text[*at]) == letters; (*at)++)
        if (used + 1 < room)
            word[used++] = (char)tolower((unsigned char)text[*at]);
    word[used] = '\0';
    return true;
}

enum { WORD_ROOM = 256 };

/* Where a word stands in the table, or the free slot where it would. */
static size_t *word_slot(const Vocabulary *words, const char *word)
{
    size_t at = hash_bytes(word, strlen(word), HASH_START) % words->n_slot;
    while (words->slot[at] != 0 && strcmp(words->word[words->slot[at] - 1], word) != 0)
        at = (at + 1) % words->n_slot;
    return &words->slot[at];
}

/* Room for `most` words in `bytes` bytes of text; the words are then added one by one. */
static Vocabulary vocabulary_new(size_t most, size_t bytes)
{
    Vocabulary words = {false, 0, NEW(char, bytes), NEW(char *, most), NULL, 2 * most + 1};
    words.slot = NEW(size_t, words.n_slot);
    return words;
}

/* The number of a word that is there already or is added now; *used counts bytes of text. */
static size_t word_add(Vocabulary *words, const char *word, size_t *used)
{
    size_t *slot = word_slot(words, word);
    if (*slot == 0) {
        words->word[words->n_word] = strcpy(words->text + *used, word);
        *used += strlen(word) + 1;
        *slot = ++words->n_word;
    }
    return *slot - 1;
}

Vocabulary vocabulary_of_bytes(void)
{
    Vocabulary words = {true, BYTE_TOKENS, NULL, NULL, NULL, 0};
    return words;
}

/* The words of a text, in the order in which they come. False if they are too many. */
bool vocabulary_from_text(Vocabulary *words, const char *text, size_t len, const char *path,
                          Error *error)
{
    char word[WORD_ROOM] = "";
    size_t used = 0, at = 0;
    Vocabulary got = vocabulary_new(WORDS_MOST + 1, 2 * len + 32);
    word_add(&got, "<unk>", &used);
    word_add(&got, "<end>", &used);
    while (got.n_word <= WORDS_MOST && word_next(word, sizeof word, text, len, &at, false))
        word_add(&got, word, &used);
    if (got.n_word > WORDS_MOST) {
        vocabulary_free(&got);
        return fail(error, "%s: more than %d different words; --bytes takes any text", path,
                    WORDS_MOST);
    }
    *words = got;
    return true;
}

/* The tokens of a text into ids (at most len of them); returns how many. A line's end becomes the
   token that ends a text, if `lines`; *unknown counts the words that have no number. */
size_t text_to_tokens(int32_t *ids, size_t *unknown, const char *text, size_t len,
                      const Vocabulary *words, bool lines)
{
    char word[WORD_ROOM] = "";
    size_t count = 0, at = 0;
    *unknown = 0;
    if (words->bytes) {
        for (; count < len; count++)
            ids[count] = (unsigned char)text[count];
        return count;
    }
    while (word_next(word, sizeof word, text, len, &at, lines)) {
        size_t found = word[0] == '\0' ? WORD_END + 1 : *word_slot(words, word);
        *unknown += found == 0;
        ids[count++] = (int32_t)(found == 0 ? (size_t)WORD_UNKNOWN : found - 1);
    }
    return count;
}

/* One token as it is shown; words with a blank in front, unless they close a sentence or
   `first`. */
void print_token(FILE *out, size_t token, bool first, const Vocabulary *words)
{
    if (words->bytes) {
        putc((int)token, out);
        return;
    }
    const char *word = token < words->n_word ? words->word[token] : words->word[WORD_UNKNOWN];
    fprintf(out, "%s%s", first || strchr(".,:;!?", word[0]) != NULL ? "" : " ", word);
}

/* ======================================== Corpus =========================================== */

/* A text as tokens, and where a piece of it may begin: where a story does, or anywhere. */
typedef struct {
    int32_t *ids; /* (count) */
    size_t count, *start, n_start;
} Corpus;

void corpus_free(Corpus *corpus)
{
    free(corpus->ids);
    free(corpus->start);
}

/* A text as tokens. In words, each line is a story; in bytes, a piece may begin anywhere. False
   if it is too short for one piece of `len` tokens and the token after it. */
bool corpus_from_text(Corpus *corpus, const char *text, size_t text_len, const Vocabulary *words,
                      size_t len, const char *path, Error *error)
{
    Corpus got;
    size_t unknown;
    got.ids = NEW(int32_t, text_len + 1);
    got.count = text_to_tokens(got.ids, &unknown, text, text_len, words, true);
    if (got.count <= len) {
        free(got.ids);
        return fail(error, "%s: %zu %s are too few: pieces of %zu and one more are wanted", path,
                    got.count, words->bytes ? "bytes" : "words", len);
    }
    got.start = NEW(size_t, got.count);
    got.n_start = 0;
    for (size_t at = 0; at + len < got.count; at++)
        if (words->bytes || at == 0 || got.ids[at - 1] == WORD_END)
            got.start[got.n_start++] = at;
    *corpus = got;
    return true;
}

/* "FOLDER/FILE", to be freed. */
char *path_in(const char *folder, const char *file)
{
    size_t room = strlen(folder) + strlen(file) + 2;
    char *path = NEW(char, room);
    snprintf(path, room, "%s/%s", folder, file);
    return path;
}

/* A file to learn from: its words, nine tenths of it, and its last tenth to look at. */
typedef struct {
    Vocabulary words;
    Corpus learn, check;
} CorpusFile;

void corpus_file_close(CorpusFile *file)
{
    vocabulary_free(&file->words);
    corpus_free(&file->learn), corpus_free(&file->check);
}

/* Too short for training: says how long it is, how long it should be, and why. */
static void say_short(const char *text, size_t len, bool bytes, size_t piece, const char *path,
                      Error *error)
{
    char word[WORD_ROOM] = "";
    size_t count = bytes ? len : 0, at = 0;
    while (!bytes && word_next(word, sizeof word, text, len, &at, false))
        count++;
    fail(error,
         "%s: %zu %s are too few: the last tenth is only looked at, and must hold a piece of %zu "
         "and one more; so about %zu are wanted, or a shorter --length",
         path, count, bytes ? "bytes" : "words", piece, 10 * (piece + 1));
}

/* The vocabulary of a text, and what it is cut into, in pieces of `piece` tokens. */
static bool corpus_file_cut(CorpusFile *file, const char *text, size_t len, size_t cut, bool bytes,
                            size_t piece, const char *path, Error *error)
{
    CorpusFile got;
    if (bytes)
        got.words = vocabulary_of_bytes();
    else if (!vocabulary_from_text(&got.words, text, cut, path, error))
        return false;
    if (!corpus_from_text(&got.learn, text, cut, &got.words, piece, path, error)) {
        vocabulary_free(&got.words);
        say_short(text, len, bytes, piece, path, error);
        return false;
    }
    if (!corpus_from_text(&got.check, text + cut, len - cut, &got.words, piece, path, error)) {
        vocabulary_free(&got.words);
        corpus_free(&got.learn);
        say_short(text, len, bytes, piece, path, error);
        return false;
    }
    *file = got;
    return true;
}

/* Any text, in words or, as it is, in bytes; corpus_file_close when done. */
bool corpus_file_open(CorpusFile *file, const char *path, bool bytes, size_t piece, Error *error)
{
    char *text = NULL;
    size_t len = 0;
    Error why;
    if (!text_read(&text, &len, path, error))
        return false;
    if (!bytes && !text_make_plain(text, &len, path_shown(path), &why)) {
        free(text);
        return fail(error, "%.200s; --bytes takes it as it is", why.text);
    }
    size_t cut = len - len / 10;
    while (!bytes && cut > 0 && !is_blank(text[cut - 1]))
        cut--;
    bool ok = corpus_file_cut(file, text, len, cut, bytes, piece, path_shown(path), error);
    free(text);
    return ok;
}

/* ==================================== tokenizer.json ======================================= */

/* The character that byte-level tokenizers show a byte as: itself if it can be seen, else one of
   those from U+0100 on, in order (GPT-2's table). In UTF-8, at most two bytes. */
static void byte_shown(char shown[3], int byte)
{
    unsigned code = (unsigned)byte;
    bool seen = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
    if (!seen) /* how many unseen bytes come before this one */
        code = 0x100u + (byte <= ' ' ? code : byte <= 0xA0 ? code - 0x7Fu + 33u : 67u);
    shown[utf8_put((unsigned char *)shown, code)] = '\0';
}

void write_tokenizer(FILE *out, const Vocabulary *words)
{
    fputs("{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n", out);
    if (!words->bytes)
        for (int i = 0; i < WORDS_RESERVED; i++)
            fprintf(
                out,
                "%s{\"id\": %d, \"content\": \"%s\", \"single_word\": false, \"lstrip\": false, "
                "\"rstrip\": false, \"normalized\": false, \"special\": true}%s",
                i == 0 ? "  \"added_tokens\": [\n    " : "    ", i, words->word[i],
                i == 0 ? ",\n" : "\n  ],\n");
    else
        fputs("  \"added_tokens\": [],\n", out);
    fputs(words->bytes
              ? "  \"normalizer\": null,\n"
                "  \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
                "\"trim_offsets\": true, \"use_regex\": true},\n"
                "  \"post_processor\": null,\n"
                "  \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
                "\"trim_offsets\": true, \"use_regex\": true},\n"
                "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n"
                "    \"unk_token\": null,\n    \"continuing_subword_prefix\": null,\n"
                "    \"end_of_word_suffix\": null,\n    \"fuse_unk\": false,\n    \"merges\": [],\n"
              : "  \"normalizer\": {\"type\": \"Lowercase\"},\n"
                "  \"pre_tokenizer\": {\"type\": \"Whitespace\"},\n"
                "  \"post_processor\": null,\n  \"decoder\": null,\n"
                "  \"model\": {\n    \"type\": \"WordLevel\",\n    \"unk_token\": \"<unk>\",\n",
          out);
    fputs("    \"vocab\": {\n", out);
    for (size_t i = 0; i < words->n_word; i++) {
        char shown[3];
        byte_shown(shown, (int)(i & 0xFF));
        fputs("      ", out);
        json_write_string(out, words->bytes ? shown : words->word[i]);
        fprintf(out, ": %zu%s\n", i, i + 1 < words->n_word ? "," : "");
    }
    fputs("    }\n  }\n}\n", out);
}

/* The vocabulary of a tokenizer.json that is being read: each word's number, in the file's
   order. */
typedef struct {
    Vocabulary words;
    size_t *id; /* (words.n_word) */
    size_t used;
    bool word_level, byte_level;
} TokenizerFile;

static void tokenizer_vocab(Json *json, TokenizerFile *file)
{
    json_enter_object(json);
    for (JsonText key = {"", 0}; json_next_key(json, &key);) {
        uint64_t id = 0;
        size_t before = file->words.n_word;
        if (before == WORDS_MOST) {
            json_fail(json, "more than %d words", WORDS_MOST);
            continue;
        }
        if (strlen(key.bytes) != key.len) {
            json_fail(json, "a word with a 0 byte");
            continue;
        }
        word_add(&file->words, key.bytes, &file->used);
        if (json_integer(json, &id, WORDS_MOST - 1)) {
            if (file->words.n_word == before)
                json_fail(json, "a word stands twice");
            file->id[before] = (size_t)id;
        }
    }
}

static void tokenizer_model(Json *json, TokenizerFile *file)
{
    JsonText text = {NULL, 0};
    json_enter_object(json);
    for (JsonText key = {NULL, 0}; json_next_key(json, &key);) {
        if (json_is(key, "vocab"))
            tokenizer_vocab(json, file);
        else if (json_is(key, "type")) {
            if (json_string(json, &text)) {
                file->word_level = json_is(text, "WordLevel");
                file->byte_level = json_is(text, "BPE");
            }
        } else if (json_is(key, "merges") && json_peek(json) == JSON_ARRAY) {
            json_enter_array(json);
            while (json_next_item(json))
                json_fail(json,
                          "merges: subwords are pretrained.c's business (build/ch05_pretrained)");
        } else
            json_skip(json);
    }
}

/* The words in the order of their numbers, if these are 0, 1, 2 and so on. */
static bool tokenizer_sort(TokenizerFile *file, const char *path, Error *error)
{
    size_t count = file->words.n_word;
    char **sorted = NEW(char *, count + 1);
    for (size_t i = 0; i < count; i++)
        if (file->id[i] < count)
            sorted[file->id[i]] = file->words.word[i];
    for (size_t i = 0; i < count; i++)
        if (sorted[i] == NULL) {
            free(sorted);
            return fail(error, "%s: no word has the number %zu, though there are %zu", path, i,
                        count);
        }
    for (size_t i = 0; i < file->words.n_slot; i++)
        if (file->words.slot[i] > 0)
            file->words.slot[i] = file->id[file->words.slot[i] - 1] + 1;
    free(file->words.word);
    file->words.word = sorted;
    return true;
}

/* Whether the words are the 256 bytes, shown as byte-level tokenizers do. */
static bool tokenizer_is_bytes(const Vocabulary *words)
{
    char shown[3];
    for (int byte = 0; byte < BYTE_TOKENS; byte++) {
        byte_shown(shown, byte);
        if (words->n_word != BYTE_TOKENS || strcmp(words->word[byte], shown) != 0)
            return false;
    }
    return true;
}

static bool tokenizer_finish(TokenizerFile *file, const char *path, Error *error)
{
    if (!file->word_level && !file->byte_level)
        return fail(error, "%s: the model's type is neither WordLevel nor BPE", path);
    if (!tokenizer_sort(file, path, error))
        return false;
    if (file->byte_level && !tokenizer_is_bytes(&file->words))
        return fail(error,
                    "%s: only bytes and words are known here, for subwords see "
                    "build/ch05_pretrained",
                    path);
    if (file->word_level && (file->words.n_word < WORDS_RESERVED ||
                             strcmp(file->words.word[WORD_UNKNOWN], "<unk>") != 0 ||
                             strcmp(file->words.word[WORD_END], "<end>") != 0))
        return fail(error, "%s: words 0 and 1 are not <unk> and <end>", path);
    return true;
}

/* A tokenizer.json as write_tokenizer writes it: WordLevel, or the 256 bytes. */
bool tokenizer_parse(Vocabulary *words, const char *text, size_t len, const char *path,
                     Error *error)
{
    Json json;
    TokenizerFile file;
    size_t most = (len < WORDS_MOST ? len : (size_t)WORDS_MOST) + 1; /* a word takes a byte */
    memset(&file, 0, sizeof file);
    file.words = vocabulary_new(most, len + 1);
    file.id = NEW(size_t, most);
    json_open(&json, text, len, path, error);
    json_enter_object(&json);
    for (JsonText key = {NULL, 0}; json_next_key(&json, &key);) {
        if (json_is(key, "model"))
            tokenizer_model(&json, &file);
        else
            json_skip(&json);
    }
    bool ok = json_end(&json);
    json_close(&json);
    ok = ok && tokenizer_finish(&file, path, error);
    free(file.id);
    if (!ok || file.byte_level)
        vocabulary_free(&file.words);
    if (ok)
        *words = file.byte_level ? vocabulary_of_bytes() : file.words;
    return ok;
}

#endif /* CH05_WORDS */
