/* The tokenizer: Unicode, pieces, merges and tables against golden encodings, wrong tokenizers, and
   what is shown of tokens one by one. */

#include "../ch05_mamba_block/text_stream.c"
#include "golden.h"

/* ---- text ---- */

static void nfc_is(const char *text, const char *want)
{
    size_t len;
    unsigned char *got = nfc_text(&len, (const unsigned char *)text, strlen(text));
    assert_int_equal(len, strlen(want));
    assert_memory_equal(got, want, len);
    free(got);
}

static void marks_are_joined_and_put_in_order(void **state)
{
    (void)state;
    nfc_is("plain", "plain");
    nfc_is("e\xCC\x81", "\xC3\xA9");                     /* e and an acute */
    nfc_is("q\xCC\x87\xCC\xA3", "q\xCC\xA3\xCC\x87");    /* below (220) before above (230) */
    nfc_is("a\xCC\xA3\xCC\x81", "\xE1\xBA\xA1\xCC\x81"); /* a with a dot below; the acute stays */
    nfc_is("a\xCC\x85\xCC\x81", "a\xCC\x85\xCC\x81"); /* an overline (230) is in the acute's way, */
    nfc_is("a\xCC\xB4\xCC\x81", "\xC3\xA1\xCC\xB4");  /* a tilde through it (1) is not */
    nfc_is("\xE2\x84\xAB", "\xC3\x85");               /* the Angstrom sign */
    nfc_is("\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8", "\xEA\xB0\x81"); /* three letters of Hangul */
    nfc_is("\xEA\xB0\x80\xE1\x86\xA8", "\xEA\xB0\x81"); /* a syllable and a last letter */
    nfc_is("\xE0\xA4\x95\xE0\xA4\xBC", "\xE0\xA4\x95\xE0\xA4\xBC"); /* an exclusion: stays apart */
    nfc_is("\xCC\x81"
           "e\xFF\xCC\x81",
           "\xCC\x81"
           "e\xFF\xCC\x81"); /* first of all, and after no text */
}

static void bytes_that_are_no_characters_stand_alone(void **state)
{
    const struct {
        const char *text;
        size_t left, len;
        uint32_t code;
    } cases[] = {{"A", 1, 1, 'A'},
                 {"\xC3\xA9", 2, 2, 0xE9},
                 {"\xE2\x82\xAC", 3, 3, 0x20AC},
                 {"\xF0\x9F\x98\x80", 4, 4, 0x1F600},
                 {"\xC3\xA9", 1, 1, UTF8_BAD + 0xC3}, /* cut off */
                 {"\xC0\xAF", 2, 1, UTF8_BAD + 0xC0}, /* longer than needed */
                 {"\xE0\x80\xAF", 3, 1, UTF8_BAD + 0xE0},
                 {"\xF0\x80\x80\xAF", 4, 1, UTF8_BAD + 0xF0},
                 {"\xED\xA0\x80", 3, 1, UTF8_BAD + 0xED},     /* a surrogate */
                 {"\xF4\x90\x80\x80", 4, 1, UTF8_BAD + 0xF4}, /* beyond 10FFFF */
                 {"\x80", 1, 1, UTF8_BAD + 0x80}};
    (void)state;
    for (size_t i = 0; i < TABLE_SIZE(cases); i++) {
        size_t len;
        unsigned char back[4];
        uint32_t code = utf8_decode(&len, (const unsigned char *)cases[i].text, cases[i].left);
        assert_int_equal(code, cases[i].code);
        assert_int_equal(len, cases[i].len);
        assert_int_equal(utf8_encode(back, code), len);
        assert_memory_equal(back, cases[i].text, len);
    }
}

/* The table and the short cut for ASCII say the same. */
static void classes_of_ascii_are_those_of_the_table(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 128; code++)
        assert_int_equal(unicode_class_of(code),
                         unicode_value(unicode_class, TABLE_SIZE(unicode_class), code));
    assert_int_equal(unicode_class_of(0xE9), UNICODE_LETTER | UNICODE_WORD);
    assert_int_equal(unicode_class_of(0x663), UNICODE_NUMBER | UNICODE_WORD); /* an Arabic 3 */
    assert_int_equal(unicode_class_of(0xBD), UNICODE_NUMBER);                 /* one half */
    assert_int_equal(unicode_class_of(0x3000), UNICODE_SPACE);
    assert_int_equal(unicode_class_of(0x1F600), 0);
    assert_int_equal(unicode_class_of(UTF8_BAD + 0xFF), 0);
}

/* Pieces of a text, with a | after each. */
static void parts_are(Stage stage, const char *text, const char *want)
{
    char got[256];
    size_t used = 0;
    const Piece all = {(const unsigned char *)text, strlen(text), false, true};
    Piece part;
    for (size_t at = 0; stage_next(&part, &at, &stage, &all);) {
        assert_true(part.len > 0);
        memcpy(got + used, part.bytes, part.len);
        used += part.len;
        got[used++] = '|';
    }
    got[used] = '\0';
    assert_string_equal(got, want);
}

static void pieces_are(const char *text, const char *want)
{
    parts_are(stage_of(STAGE_GPT2, CUT_ISOLATED, false), text, want);
}

static void pieces_are_cut_as_the_pattern_says(void **state)
{
    (void)state;
    pieces_are("Hello, world!", "Hello|,| world|!|");
    pieces_are("it's we'll I'd 'sx 'T", "it|'s| we|'ll| I|'d| '|sx| '|T|");
    pieces_are("a1 22 b", "a|1| 22| b|");
    pieces_are("a   b", "a|  | b|");    /* \s+(?!\S) leaves one blank to the word */
    pieces_are("a\n\nb", "a|\n|\n|b|"); /* which only takes a space */
    pieces_are("a\tb", "a|\t|b|");
    pieces_are("end  ", "end|  |"); /* nothing follows: all of it */
    pieces_are(" ", " |");
    pieces_are("x \xC2\xA0y", "x| |\xC2\xA0|y|"); /* a no-break space is a blank */
    pieces_are("\xC3\xA9t\xC3\xA9 \xD9\xA3", "\xC3\xA9t\xC3\xA9| \xD9\xA3|");
}

static Stage stage_with(StageKind kind, size_t most, CutBehavior behavior)
{
    Stage stage = stage_of(kind, behavior, false);
    stage.most = most;
    return stage;
}

static void pieces_are_cut_as_llama_3_cuts_them(void **state)
{
    Stage llama = stage_with(STAGE_LLAMA3, 3, CUT_ISOLATED);
    Stage qwen = stage_with(STAGE_LLAMA3, 1, CUT_ISOLATED);
    (void)state;
    parts_are(llama, "Hello, world!", "Hello|,| world|!|");
    parts_are(llama, "it's we'LL I'd 'sx 'T", "it|'s| we|'LL| I|'d| '|sx| '|T|");
    parts_are(llama, "It's'\xC5\xBFx", "It|'s|'\xC5\xBF|x|"); /* a long s is an s of any case */
    parts_are(llama, "a12345 678", "a|123|45| |678|");
    parts_are(qwen, "a12 3", "a|1|2| |3|");
    parts_are(llama, "a\tb (c) $d", "a|\tb| (|c|)| $|d|"); /* any one sign goes with the word */
    parts_are(llama, "x;\n\n y", "x|;\n\n| y|");           /* ends of lines go with the sign */
    parts_are(llama, "a \n \n  b", "a| \n \n| | b|");      /* blanks up to the last end of a line */
    parts_are(llama, "a  b  ", "a| | b|  |");
    parts_are(llama, "\r\nx\ny", "\r\n|x|\n|y|");
    parts_are(llama, "e\xCC\x81x", "e|\xCC\x81x|"); /* an accent by itself is no letter */
}

static Stage text_stage(const char *text, CutBehavior behavior, bool invert)
{
    Stage stage = stage_of(STAGE_TEXT, behavior, invert);
    stage.text = text;
    stage.text_len = strlen(text);
    return stage;
}

static void a_match_is_a_piece_or_part_of_one_or_nothing(void **state)
{
    const char *const text = "-a--b-c";
    (void)state;
    parts_are(text_stage("-", CUT_ISOLATED, false), text, "-|a|-|-|b|-|c|");
    parts_are(text_stage("-", CUT_REMOVED, false), text, "a|b|c|");
    parts_are(text_stage("-", CUT_CONTIGUOUS, false), text, "-|a|--|b|-|c|");
    parts_are(text_stage("-", CUT_WITH_PREVIOUS, false), text, "-|a-|-|b-|c|");
    parts_are(text_stage("-", CUT_WITH_NEXT, false), text, "-a|-|-b|-c|");
    parts_are(text_stage("-", CUT_REMOVED, true), text, "-|-|-|-|");
    parts_are(text_stage("-", CUT_CONTIGUOUS, true), text, "-|a|--|b|-|c|");
    parts_are(text_stage("", CUT_REMOVED, false), text, "-a--b-c|"); /* it matches nowhere */
    parts_are(text_stage("\xC3\xA9", CUT_ISOLATED, false), "a\xC3\xA9\xC3", "a|\xC3\xA9|\xC3|");
}

static void digits_signs_and_words_are_cut(void **state)
{
    (void)state;
    parts_are(stage_of(STAGE_THREE_DIGITS, CUT_ISOLATED, false), "a12345678b", "a|123|456|78b|");
    parts_are(stage_with(STAGE_NUMBERS, 3, CUT_ISOLATED), "a1234\xC2\xBD", "a|123|4\xC2\xBD|");
    parts_are(stage_of(STAGE_NUMBER, CUT_ISOLATED, false), "a12 \xD9\xA3", "a|1|2| |\xD9\xA3|");
    parts_are(stage_of(STAGE_NUMBER, CUT_CONTIGUOUS, false), "a12 3", "a|12| |3|");
    parts_are(stage_of(STAGE_SIGN, CUT_CONTIGUOUS, false), "a!?b\xE2\x80\x94$ ",
              "a|!?|b|\xE2\x80\x94$| |");
    parts_are(stage_of(STAGE_SIGN, CUT_ISOLATED, false), "\xE1\x99\xAD\xE2\xB9\x83",
              "\xE1\x99\xAD|\xE2\xB9\x83|"); /* as of Unicode 8.0; the second is newer */
    parts_are(stage_of(STAGE_WORD, CUT_REMOVED, true), " a1_b!? c\n", "a1_b|!?|c|");
    parts_are(stage_of(STAGE_BLANK, CUT_REMOVED, false), " a1_b!? c\n", "a1_b!?|c|");
}

/* ---- the tokenizer ---- */

static void golden_tokenizer_of(Tokenizer *tokenizer, const char *folder)
{
    Error error;
    char name[128];
    snprintf(name, sizeof name, "%s/tokenizer.json", folder);
    char *path = golden_path(name);
    if (!tokenizer_read(tokenizer, path, &error))
        fail_msg("%s", error.text);
    free(path);
}

static void golden_tokenizer(Tokenizer *tokenizer)
{
    golden_tokenizer_of(tokenizer, "tokenizer");
}

/* Calls `check` for each golden folder of a tokenizer. */
static void for_each_tokenizer(void (*check)(const char *folder))
{
    glob_t found;
    size_t count = golden_list(&found, "tokenizer*");
    for (size_t i = 0; i < count; i++)
        check(found.gl_pathv[i] + strlen(golden_dir()) + 1);
    globfree(&found);
}

/* "41 42" as bytes, "-" as none; how many. */
static size_t hex_bytes(char *out, const char *hex)
{
    size_t len = strcmp(hex, "-") == 0 ? 0 : strlen(hex) / 2;
    for (size_t i = 0; i < len; i++) {
        char digits[3] = {hex[2 * i], hex[2 * i + 1], '\0'};
        out[i] = (char)strtoul(digits, NULL, 16);
    }
    return len;
}

static void ids_of(const char *what, const Ids *ids, const char *want)
{
    Text text = {NULL, 0, 0};
    char number[16];
    for (size_t i = 0; i < ids->count; i++) {
        snprintf(number, sizeof number, "%s%u", i > 0 ? " " : "", ids->id[i]);
        text_append(&text, number, strlen(number));
    }
    const char *got = ids->count == 0 ? "-" : text.bytes;
    assert_that(strcmp(got, want) == 0, "%s: the ids are %s, expected %s", what, got, want);
    text_free(&text);
}

static void ids_are(const Ids *ids, const char *want)
{
    ids_of("what is read", ids, want);
}

static void decode_all(Text *text, const Tokenizer *tokenizer, const Ids *ids)
{
    Decoding decoding = {tokenizer, {NULL, 0, 0}, false, 0};
    for (size_t i = 0; i < ids->count; i++)
        tokenizer_decode(text, &decoding, ids->id[i], i == 0);
    decoding_settle(text, &decoding);
    text_free(&decoding.run);
}

static void check_encodings(const char *folder)
{
    Tokenizer tokenizer;
    Error error;
    char name[128];
    snprintf(name, sizeof name, "%s/encodings.txt", folder);
    char *path = golden_path(name), *line = NULL, bytes[4096];
    size_t room = 0, lines = 0;
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    golden_tokenizer_of(&tokenizer, folder);
    for (; getline(&line, &room, file) > 0; lines++) {
        char *hex = strtok(line, "\t\n"), *changes = strtok(NULL, "\t\n");
        const char *want = strtok(NULL, "\t\n");
        Ids ids = {NULL, 0, 0, 0};
        Text back = {NULL, 0, 0};
        size_t len = hex_bytes(bytes, hex);
        assert_true(tokenizer_encode(&ids, &tokenizer, bytes, len, &error));
        ids_are(&ids, want);
        decode_all(&back, &tokenizer, &ids);
        if (strcmp(changes, "0") == 0) { /* NFC changes nothing: the bytes come back */
            assert_int_equal(back.len, len);
            assert_true(len == 0 || memcmp(back.bytes, bytes, len) == 0);
        }
        ids_free(&ids), text_free(&back);
    }
    assert_true(lines > 10);
    fclose(file);
    free(line), free(path);
    tokenizer_free(&tokenizer);
}

static void encodings_agree_with_golden(void **state)
{
    (void)state;
    for_each_tokenizer(check_encodings);
}

static void text_add(Text *text, const char *more)
{
    text_append(text, more, strlen(more));
}

/* Random text of pieces that matter. */
static void random_text(Text *text, size_t pieces, Random *random)
{
    static const char *const part[] = {" ",
                                       "  ",
                                       "    ",
                                       "\n",
                                       "the",
                                       "ing",
                                       "'s",
                                       "'ll",
                                       "1",
                                       "23",
                                       "!",
                                       "\t",
                                       "e",
                                       "t",
                                       "\xC3\xA9",
                                       "\xCC\x81",
                                       "in",
                                       "on",
                                       " a",
                                       "\xE4\xB8\xAD",
                                       "<|endoftext|>",
                                       "<|end",
                                       "x",
                                       "\xC2\xA0"};
    for (size_t i = 0; i < pieces; i++) {
        const char *bytes = part[random_u32(random) % TABLE_SIZE(part)];
        text_append(text, bytes, strlen(bytes));
    }
}

/* Exercise 5.10: the loop against the heap, on pieces long enough for it. */
static void ex5_10_merges_by_a_heap_are_those_of_the_loop(void **state)
{
    Tokenizer tokenizer;
    Random random = random_from_seed(3);
    (void)state;
    golden_tokenizer(&tokenizer);
    for (int round = 0; round < 300; round++) {
        uint32_t clear[400], fast[400];
        static const char letters[] = "aeeeeinnngssstttthhho";
        size_t count = 1 + random_u32(&random) % 399;
        for (size_t i = 0; i < count; i++)
            clear[i] = fast[i] =
                tokenizer.of_byte[(unsigned char)letters[random_u32(&random) % 21]];
        size_t left = bpe_merge_clear(clear, count, &tokenizer);
        size_t fast_left = bpe_merge(fast, count, &tokenizer);
        assert_that(left == fast_left, "%zu tokens are left of a piece of %zu, expected %zu", left,
                    count, fast_left);
        for (size_t i = 0; i < left; i++)
            assert_that(clear[i] == fast[i],
                        "token %zu of the %zu that a piece became is %u, expected %u", i, left,
                        (unsigned)clear[i], (unsigned)fast[i]);
        assert_true(count < 100 || left < count);
    }
    tokenizer_free(&tokenizer);
}

/* By hand: merges t h (rank 0), h e (1), th e (2): "the" is t h e -> th e -> the, "hthe" h the. */
static const char *const small_bpe =
    "{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},\"model\":{\"type\":"
    "\"BPE\",\"merges\":[\"t h\",\"h "
    "e\",[\"th\",\"e\"]],\"vocab\":{\"t\":0,\"h\":1,\"e\":2,\"th\":3,"
    "\"he\":4,\"the\":5,\"\xC4\xA0\":6}},\"added_tokens\":[{\"id\":7,\"content\":\"<e>\"},{\"id\":"
    "8,"
    "\"content\":\"<e>e\"}]}";

static void encode_is(const char *json, const char *text, const char *want)
{
    Tokenizer tokenizer;
    Error error;
    Ids ids = {NULL, 0, 0, 0};
    if (!tokenizer_from_json(&tokenizer, json, strlen(json), "t.json", &error))
        fail_msg("%s", error.text);
    if (!tokenizer_encode(&ids, &tokenizer, text, strlen(text), &error))
        fail_msg("%s", error.text);
    ids_of(text, &ids, want);
    ids_free(&ids);
    tokenizer_free(&tokenizer);
}

static void ex5_10_merges_by_hand(void **state)
{
    (void)state;
    encode_is(small_bpe, "the", "5");
    encode_is(small_bpe, "hethe", "4 5");
    encode_is(small_bpe, "tthhe", "0 3 4"); /* t th he: rank 0 first, then 1 */
    encode_is(small_bpe, "eeee", "2 2 2 2");
    encode_is(small_bpe, " t", "6 0");
    encode_is(small_bpe, "", "-");
    encode_is(small_bpe, "t<e>h<e>e", "0 7 1 8"); /* of added tokens the longest */
}

/* A tokenizer whose tokens are bytes, in code point order of their stand-ins, and these merges. */
static void byte_tokenizer(Text *json, const char *pre_tokenizer, const char *merge)
{
    char entry[512], both[16] = "";
    const char *comma = "";
    int id = 0;
    text_add(json, "{\"model\":{\"type\":\"BPE\",\"vocab\":{");
    for (uint32_t code = 0; code < 0x200; code++)
        if (byte_of_stand_in(code) >= 0) {
            snprintf(entry, sizeof entry, "%s\"\\u%04x\":%d", comma, code, id++);
            text_add(json, entry);
            comma = ",";
        }
    for (const char *at = merge; *at; at++)
        if (*at != ' ')
            snprintf(both + strlen(both), sizeof both - strlen(both), "%c", *at);
    snprintf(entry, sizeof entry, ",\"%s\":%d},\"merges\":[\"%s\"]},\"pre_tokenizer\":%s}", both,
             id, merge, pre_tokenizer);
    text_add(json, entry);
}

static void bytes_are(const char *pre_tokenizer, const char *merge, const char *text,
                      const char *want)
{
    Text json = {NULL, 0, 0};
    byte_tokenizer(&json, pre_tokenizer, merge);
    encode_is(json.bytes, text, want);
    text_free(&json);
}

#define SEQUENCE(stages) "{\"type\":\"Sequence\",\"pretokenizers\":[" stages "]}"
#define BYTES_ONLY       "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"
#define NFC              "{\"type\":\"NFC\"}"
#define DIGITS           "{\"type\":\"Digits\",\"individual_digits\":false}"

#define NUMBERS(regex) "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" regex "\"}}"

/* The only merge is of 1 and 2 (ids 16 and 17, merged 256), or of bytes of a character. */
static void stages_cut_one_after_another(void **state)
{
    (void)state;
    bytes_are(BYTES_ONLY, "1 2", "12", "256");
    bytes_are("{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"use_regex\":false}", "1 2", "12",
              "220 256");
    bytes_are("{\"type\":\"ByteLevel\",\"add_prefix_space\":true}", "1 2", " 12", "220 256");
    bytes_are(SEQUENCE("{\"type\":\"Digits\",\"individual_digits\":true}," BYTES_ONLY), "1 2", "12",
              "16 17");
    bytes_are(SEQUENCE(DIGITS "," BYTES_ONLY), "1 2", "12", "256");
    bytes_are(SEQUENCE("{\"type\":\"Punctuation\"}," BYTES_ONLY), "! !", "!!", "0 0");
    bytes_are(SEQUENCE("{\"behavior\":\"Contiguous\",\"type\":\"Punctuation\"}," BYTES_ONLY), "! !",
              "!!", "256");
    bytes_are(
        SEQUENCE("{\"type\":\"Split\",\"pattern\":{\"String\":\"1\"},\"behavior\":\"Removed\","
                 "\"invert\":true}," BYTES_ONLY),
        "1 2", "212", "16");
    bytes_are(SEQUENCE(NUMBERS("\\\\p{N}") "," BYTES_ONLY), "1 2", "12", "16 17");
    bytes_are(SEQUENCE(NUMBERS("\\\\p{N}{1,3}") "," BYTES_ONLY), "1 2", "12", "256");
    /* a Sequence inside a Sequence is as good */
    bytes_are(SEQUENCE(SEQUENCE(DIGITS) "," BYTES_ONLY), "a 1", "a1", "64 16");
}

static void every_byte_has_a_stand_in_of_its_own(void **state)
{
    (void)state;
    for (uint32_t byte = 0; byte < 256; byte++)
        assert_int_equal(byte_of_stand_in(stand_in_of_byte(byte)), byte);
}

/* U+0439, the bytes D0 B9: after ByteLevel it is two signs, of which the second (superscript one)
   is a number, and Digits cuts between them. Before ByteLevel it is one letter. */
static void after_byte_level_a_stage_sees_stand_ins(void **state)
{
    (void)state;
    bytes_are(SEQUENCE(DIGITS "," BYTES_ONLY), "\xC3\x90 \xC2\xB9", "\xD0\xB9", "256");
    bytes_are(SEQUENCE(BYTES_ONLY "," DIGITS), "\xC3\x90 \xC2\xB9", "\xD0\xB9", "140 117");
    bytes_are(SEQUENCE(BYTES_ONLY ",{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":"
                                  "{\"String\":\"\xC4\xA0\"}}"), /* a space's stand-in */
              "\xC4\xA0 a", " a", "220 64");
}

static void words_are_tokens_where_the_tokenizer_says_so(void **state)
{
    static const char format[] =
        "{\"normalizer\":{\"type\":\"Lowercase\"},\"model\":{\"type\":\"WordLevel\",\"unk_token\":"
        "\"?\",\"vocab\":{\"?\":0,\"a\":1,"
        "\"story\":2,\".\":3,\"story.\":4}},\"pre_tokenizer\":{\"type\":\"%s\"},\"added_tokens\":[{"
        "\"id\":5,\"content\":\"<end>\"}]}";
    char json[512];
    Tokenizer tokenizer;
    Error error;
    Text text = {NULL, 0, 0};
    Ids ids = {NULL, 0, 0, 0};
    (void)state;
    snprintf(json, sizeof json, format, "WhitespaceSplit");
    encode_is(json, " A  Story.\nzebra<end>a", "1 4 0 5 1");
    snprintf(json, sizeof json, format, "Whitespace");
    encode_is(json, "a story.", "1 2 3");
    assert_true(tokenizer_from_json(&tokenizer, json, strlen(json), "t.json", &error));
    ids_push(&ids, 1), ids_push(&ids, 2), ids_push(&ids, 77);
    decode_all(&text, &tokenizer, &ids);
    assert_string_equal(text.bytes, "a story");
    ids_free(&ids);
    text_free(&text);
    tokenizer_free(&tokenizer);
}

/* A tokenizer that has all 256 bytes: no text has no ids, and all come back. */
static void any_bytes_come_back_from_a_tokenizer_that_has_them(void **state)
{
    Text json = {NULL, 0, 0}, text = {NULL, 0, 0};
    Tokenizer tokenizer;
    Error error;
    Ids ids = {NULL, 0, 0, 0};
    Random random = random_from_seed(8);
    char entry[64], bytes[2000];
    const char *comma = "";
    (void)state;
    text_add(&json, "{\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{");
    for (uint32_t code = 0; code < 0x200; code++)
        if (byte_of_stand_in(code) >= 0) {
            int len = snprintf(entry, sizeof entry, "%s\"\\u%04x\":%d", comma, code,
                               byte_of_stand_in(code));
            text_append(&json, entry, (size_t)len);
            comma = ",";
        }
    text_add(&json, "}},\"pre_tokenizer\":{\"type\":\"ByteLevel\"}}");
    if (!tokenizer_from_json(&tokenizer, json.bytes, json.len, "t.json", &error))
        fail_msg("%s", error.text);
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (char)random_u32(&random);
    assert_true(tokenizer_encode(&ids, &tokenizer, bytes, sizeof bytes, &error));
    for (size_t i = 0; i < ids.count; i++)
        assert_int_equal(ids.id[i], (unsigned char)bytes[i]);
    decode_all(&text, &tokenizer, &ids);
    assert_int_equal(text.len, sizeof bytes);
    assert_memory_equal(text.bytes, bytes, sizeof bytes);
    tokenizer_free(&tokenizer);
    ids_free(&ids), text_free(&text), text_free(&json);
}

/* Where tokenizer_safe_cut cuts, both parts have the ids of the whole. */
static void check_safe_cuts(const char *folder)
{
    Tokenizer tokenizer;
    Error error;
    Random random = random_from_seed(11);
    size_t cuts = 0;
    golden_tokenizer_of(&tokenizer, folder);
    for (int round = 0; round < 400; round++) {
        Text text = {NULL, 0, 0};
        Ids whole = {NULL, 0, 0, 0}, parts = {NULL, 0, 0, 0};
        random_text(&text, 60, &random);
        size_t cut = tokenizer_safe_cut(&tokenizer, text.bytes, text.len);
        assert_true(tokenizer_encode(&whole, &tokenizer, text.bytes, text.len, &error));
        assert_true(tokenizer_encode(&parts, &tokenizer, text.bytes, cut, &error));
        assert_true(tokenizer_encode_part(&parts, &tokenizer, text.bytes + cut, text.len - cut,
                                          cut > 0, &error));
        assert_int_equal(whole.count, parts.count);
        assert_memory_equal(whole.id, parts.id, whole.count * sizeof *whole.id);
        cuts += cut > 0;
        ids_free(&whole), ids_free(&parts), text_free(&text);
    }
    assert_true(cuts > 350);
    assert_int_equal(tokenizer_safe_cut(&tokenizer, "aaaa", 4), 0);
    assert_int_equal(tokenizer_safe_cut(&tokenizer, "a\xC2\xA0 a", 5), 0); /* inside blanks */
    tokenizer_free(&tokenizer);
}

static void a_safe_cut_changes_no_ids(void **state)
{
    (void)state;
    for_each_tokenizer(check_safe_cuts);
}

/* Whether a tokenizer with these stages lets a text be cut before a space, before a new line. */
static void cuts_are(const char *pre_tokenizer, bool space, bool line)
{
    Text json = {NULL, 0, 0};
    Tokenizer tokenizer;
    Error error;
    byte_tokenizer(&json, pre_tokenizer, "1 2");
    assert_true(tokenizer_from_json(&tokenizer, json.bytes, json.len, "t.json", &error));
    assert_int_equal(tokenizer_safe_cut(&tokenizer, "a! b", 4), space ? 2 : 0);
    assert_int_equal(tokenizer_safe_cut(&tokenizer, "a!\nb", 4), line ? 2 : 0);
    tokenizer_free(&tokenizer);
    text_free(&json);
}

#define MARKS "\"type\":\"Metaspace\",\"replacement\":\"\\u2581\""

static void a_text_is_cut_only_where_no_stage_joins(void **state)
{
    (void)state;
    cuts_are("{\"type\":\"ByteLevel\"}", true, true);
    cuts_are(BYTES_ONLY, false, false);
    cuts_are("{\"type\":\"ByteLevel\",\"add_prefix_space\":true}", true, false);
    cuts_are(SEQUENCE("{\"type\":\"Punctuation\",\"behavior\":\"MergedWithNext\"},"
                      "{\"type\":\"ByteLevel\"}"),
             false, false);
    cuts_are(SEQUENCE("{\"type\":\"Split\",\"pattern\":{\"String\":\"! \"}},"
                      "{\"type\":\"ByteLevel\"}"),
             false, false);
    /* where spaces have become marks, only what cuts at those marks cuts at spaces */
    cuts_are(SEQUENCE("{" MARKS ",\"split\":false},{\"type\":\"Whitespace\"}"), false, false);
    cuts_are(SEQUENCE("{" MARKS "},{\"type\":\"Whitespace\"}"), true, false);
    cuts_are(SEQUENCE("{" MARKS ",\"split\":false},"
                      "{\"type\":\"Metaspace\",\"replacement\":\"_\"}"),
             false, false);
    cuts_are(SEQUENCE("{\"type\":\"Whitespace\"},{" MARKS "}"), true, false);
}

#define FOUR(text) text "," text "," text "," text
#define BYTE_LEVEL "\"pre_tokenizer\":{\"type\":\"ByteLevel\"}"

/* A tokenizer of five tokens, a to e in its file, with this post_processor. */
#define POST(processor)                                                                            \
    "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"d\":3,\"e\":4}}"            \
    "," BYTE_LEVEL ",\"post_processor\":" processor "}"
#define A0 "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}"
#define A  A0 ","
#define TEMPLATE(pieces, tokens)                                                                   \
    "{\"type\":\"TemplateProcessing\",\"single\":[" pieces "],\"pair\":[" A0                       \
    "],\"special_tokens\":{" tokens "}}"
#define ROUND "{\"type\":\"BertProcessing\",\"sep\":[\"e\",4],\"cls\":[\"d\",3]}"

/* The ids of "ab", 0 and 1, with what goes before and after a text. */
static void post_is(const char *json, const char *want)
{
    Tokenizer tokenizer;
    Error error;
    Ids ids = {NULL, 0, 0, 0};
    Text text = {NULL, 0, 0};
    text_add(&text, "ab");
    if (!tokenizer_from_json(&tokenizer, json, strlen(json), "t.json", &error))
        fail_msg("%s", error.text);
    assert_true(prompt_encode(&ids, &tokenizer, &text, true, true, &error));
    ids_are(&ids, want);
    ids.count = 0; /* in the midst of a text nothing goes round */
    assert_true(prompt_encode(&ids, &tokenizer, &text, false, false, &error));
    ids_are(&ids, "0 1");
    ids_free(&ids), text_free(&text);
    tokenizer_free(&tokenizer);
}

/* As Hugging Face's tokenizers has it for each of them. */
static void a_post_processor_puts_tokens_round_a_text(void **state)
{
    static const char byte_level[] = "{\"type\":\"ByteLevel\",\"trim_offsets\":false}";
    char json[1024];
    (void)state;
    post_is(POST("null"), "0 1");
    post_is(POST("{\"type\":\"ByteLevel\",\"add_prefix_space\":true}"), "0 1");
    post_is(POST(ROUND), "3 0 1 4");
    post_is(POST("{\"cls\":[\"d\",3],\"sep\":[\"e\",4],\"add_prefix_space\":false,\"type\":"
                 "\"RobertaProcessing\",\"trim_offsets\":true}"),
            "3 0 1 4");
    post_is(POST(TEMPLATE(A0, "")), "0 1");
    post_is(POST(TEMPLATE("{\"SpecialToken\":{\"id\":\"d\"}}," A0, "\"d\":{\"ids\":[3]}")),
            "3 0 1");
    post_is(POST(TEMPLATE(A "{\"SpecialToken\":{\"id\":\"d\"}}",
                          "\"c\":{\"ids\":[2]},\"d\":{\"id\":\"d\",\"ids\":[3,2],\"tokens\":[]}")),
            "0 1 3 2");
    snprintf(json, sizeof json, POST("{\"type\":\"Sequence\",\"processors\":[%s,%s,%s]}"),
             byte_level, ROUND, byte_level);
    post_is(json, "3 0 1 4");
    snprintf(
        json, sizeof json,
        POST(
            "{\"type\":\"Sequence\",\"processors\":[{\"type\":\"Sequence\",\"processors\":[%s]}]}"),
        ROUND);
    post_is(json, "3 0 1 4");
}

/* An alphabet of three: the e with an accent is two bytes that it does not have. */
static void bytes_without_a_token_are_unknown_or_left_out(void **state)
{
    static const char format[] =
        "{\"model\":{\"type\":\"BPE\",\"merges\":[\"a b\"],\"unk_token\":%s,\"fuse_unk\":%s,"
        "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"?\":3,\"\xC4\xA0\":4}}," BYTE_LEVEL "}";
    const struct {
        const char *unknown, *fuse, *text, *ids;
        size_t left_out;
    } cases[] = {{"null", "false",
                  "a\xC3\xA9"
                  "b a",
                  "2 4 0", 2}, /* its neighbours merge */
                 {"null", "true", "\xC3\xA9", "-", 2},
                 {"\"?\"", "false",
                  "a\xC3\xA9"
                  "bx a",
                  "0 3 3 1 3 4 0", 0},
                 {"\"?\"", "true",
                  "a\xC3\xA9"
                  "bx a",
                  "0 3 1 3 4 0", 0},
                 {"\"?\"", "true", "\xC3\xA9 \xC3\xA9", "3 4 3", 0}}; /* not across a border */
    (void)state;
    for (size_t i = 0; i < TABLE_SIZE(cases); i++) {
        char json[512];
        Tokenizer tokenizer;
        Error error;
        Ids ids = {NULL, 0, 0, 0};
        snprintf(json, sizeof json, format, cases[i].unknown, cases[i].fuse);
        if (!tokenizer_from_json(&tokenizer, json, strlen(json), "t.json", &error))
            fail_msg("%s", error.text);
        assert_true(
            tokenizer_encode(&ids, &tokenizer, cases[i].text, strlen(cases[i].text), &error));
        ids_are(&ids, cases[i].ids);
        assert_int_equal(ids.left_out, cases[i].left_out);
        ids_free(&ids);
        tokenizer_free(&tokenizer);
    }
}

/* What older and newer versions write differently means the same. */
static void tokenizers_of_all_versions_are_read(void **state)
{
    (void)state;
    encode_is("{\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}," BYTE_LEVEL
              "}",
              "ab", "2"); /* no type */
    encode_is(
        "{\"model\":{\"type\":\"BPE\",\"ignore_merges\":true,\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,"
        "\"abb\":3,\"\xC4\xA0"
        "abb\":4},\"merges\":[[\"a\",\"b\"]]}," BYTE_LEVEL "}",
        "abb abb<abb", "3 4 3");
    encode_is(
        "{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":"
        "\"Lowercase\"}]},\"model\":{\"type\":\"BPE\",\"vocab\":{\"\xC3\x83\":0,\"\xC2\xA9\":1},"
        "\"merges\":[]}," BYTE_LEVEL "}",
        "E\xCC\x81", "0 1"); /* e with an accent, of two characters or one */
}

/* Ids may have gaps where the vocabulary has them: what comes after has the next one all the
   same. */
static void added_tokens_have_the_ids_that_transformers_gives_them(void **state)
{
    (void)state;
    encode_is(
        "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":7,\"content\":\"z\"},{\"id\":8,\"content\":"
        "\"<x>\"},{\"id\":9,\"content\":\"<y>\"}],\"model\":{\"type\":\"BPE\",\"dropout\":0.0,"
        "\"vocab\":{"
        "\"a\":0,\"z\":7},\"merges\":[]}," BYTE_LEVEL "}",
        "az<y><x>", "0 7 9 8");
}

static void wrong_tokenizers_are_named(void **state)
{
    const struct {
        const char *json, *says;
    } cases[] = {
        {"{}", "no model"},
        {"[]", "expected an object"},
        {"{\"model\":{\"type\":\"Unigram\"}}", "'Unigram': BPE and WordLevel"},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0}}," BYTE_LEVEL "}",
         "Whitespace or WhitespaceSplit"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0}}," BYTE_LEVEL "}",
         "'b' has the id 0, which another"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"a\":1}}," BYTE_LEVEL "}",
         "'a' has the id 1, and another"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":999999}}," BYTE_LEVEL "}",
         "an id of 999999"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":99999999}}," BYTE_LEVEL "}", "too large"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"aa\"]}," BYTE_LEVEL "}",
         "no space"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}," BYTE_LEVEL "}",
         "a merge of 1"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}," BYTE_LEVEL "}",
         "the second is not in"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a a\"]}," BYTE_LEVEL "}",
         "what they make is not in"},
        {"{\"model\":{\"dropout\":0.1}}", "dropout is set"},
        {"{\"model\":{\"vocab\":{\"a\":0}}," BYTE_LEVEL "}", "no model with a type"},
        {"{\"model\":{\"type\":\"BPE\",\"unk_token\":\"?\",\"vocab\":{\"a\":0}}," BYTE_LEVEL "}",
         "the unknown token '?' is not in the vocabulary"},
        {"{\"decoder\":{\"type\":\"CTC\"}}", "decoder 'CTC' is not known here"},
        {"{\"normalizer\":{\"type\":\"Strip\"}}", "normalizer 'Strip'"},
        {"{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFD\"}]}}",
         "normalizer 'NFD'"},
        {"{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\" +\"},\"content\":\" \"}}",
         "to replace what is not a String is not known here"},
        {"{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\" \"}}",
         "Replace: texts of 1 to 4 bytes are wanted"},
        {"{\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"\"}}", "Prepend: texts of 1 to 4"},
        {"{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[" FOUR(NFC) "," NFC "]}}",
         "more than 4 steps"},
        {"{\"decoder\":{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}}",
         "decoder 'Strip' is not known here at this place"},
        {"{\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":"
         "\"Strip\","
         "\"content\":\" \",\"start\":1,\"stop\":1}]}}",
         "decoder Strip: one character, at the start"},
        {"{\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},"
         "{\"type\":\"ByteFallback\"}]}}",
         "decoder 'ByteFallback' is not known here at this place"},
        {"{\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"ByteFallback\"},"
         "{\"type\":\"Metaspace\",\"replacement\":\"_\"}]}}",
         "decoder 'Metaspace' is not known here at this place"},
        {"{\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"__\"}}",
         "a replacement of one character is wanted"},
        {"{\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":"
         "\"last\"}}",
         "the prepend_scheme 'last' is not known here"},
        {"{\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":"
         "\"first\","
         "\"add_prefix_space\":false}}",
         "'first' is not known here without add_prefix_space"},
        {"{\"pre_tokenizer\":" SEQUENCE(BYTES_ONLY
                                        ",{\"type\":\"Metaspace\",\"replacement\":\"_\"}") "}",
         "Metaspace after ByteLevel"},
        {"{\"pre_tokenizer\":" SEQUENCE(BYTES_ONLY "," BYTES_ONLY) "}",
         "a second one after ByteLevel"},
        {"{\"pre_tokenizer\":{\"type\":\"Split\"}}", "a Split without a pattern"},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a-z]+\"}}}",
         "the pattern '[a-z]+' is not known here"},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Glob\":\"*\"}}}",
         "a pattern is a String or a Regex"},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Doubled\"}}",
         "the behavior 'Doubled' is not known"},
        {"{\"pre_tokenizer\":" SEQUENCE(SEQUENCE(SEQUENCE(SEQUENCE(DIGITS)))) "}",
         "a Sequence inside a Sequence, 4 deep"},
        {"{\"pre_tokenizer\":" SEQUENCE(FOUR(FOUR(DIGITS)) "," DIGITS) "}", "more than 16 stages"},
        {POST("{\"type\":\"Strange\"}"), "post_processor 'Strange' is not known here"},
        {POST("{\"type\":\"Sequence\",\"processors\":[" ROUND "," ROUND "]}"),
         "two that put tokens round a text"},
        {POST(TEMPLATE(A A0, "")), "a template with 2 texts, not one"},
        {POST(TEMPLATE("{\"SpecialToken\":{\"id\":\"<s>\"}},{\"Sequence\":{\"id\":\"B\"}}", "")),
         "another text than $A"},
        {POST(TEMPLATE("{\"SpecialToken\":{\"id\":\"<s>\"}}", "\"<s>\":{\"ids\":[1]}")),
         "a template with 0 texts"},
        {POST(TEMPLATE("{\"SpecialToken\":{\"id\":\"<s>\"}}," A0, "\"<t>\":{\"ids\":[1]}")),
         "the special token '<s>' has no ids"},
        {POST(TEMPLATE("{\"SpecialToken\":{\"id\":\"<s>\"}}," A0,
                       "\"<s>\":{\"ids\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}")),
         "more than 16 tokens before or after a text"},
        {POST("{\"type\":\"BertProcessing\",\"cls\":[\"<s>\"],\"sep\":[\"</s>\",2]}"),
         "a token and its id are wanted"},
        {POST("{\"type\":\"BertProcessing\",\"cls\":[\"<s>\",9],\"sep\":[\"</s>\",2]}"),
         "post_processor: there is no token of id 9"},
        {"{\"version\":\"2.0\"}", "version '2.0' is not known here: 1.0 is"},
        {"{\"normalizer\":{\"type\":\"NFC\"},\"normalizer\":null}",
         "the field 'normalizer' stands there twice"},
        {"{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"type\":\"Whitespace\"}}",
         "the field 'type' stands there twice"},
        {"{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[],\"pretokenizers\":[]}}",
         "the field 'pretokenizers' stands there twice"},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"a\",\"String\":\"b\"}}}",
         "the field 'String' stands there twice"},
        {"{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\",\"String\":\"b\"}}}",
         "the field 'String' stands there twice"},
        {"{\"decoder\":{\"type\":\"Fuse\",\"type\":\"Fuse\"}}",
         "the field 'type' stands there twice"},
        {"{\"post_processor\":{\"cls\":[\"a\",0],\"cls\":[\"a\",0]}}",
         "the field 'cls' stands there twice"},
        {"{\"added_tokens\":[{\"id\":1,\"content\":\"a\",\"id\":2}]}",
         "the field 'id' stands there twice"},
        {"{\"model\":{\"merges\":[],\"merges\":[]}}", "the field 'merges' stands there twice"},
        {"{\"0\":0,\"1\":0,\"2\":0,\"3\":0,\"4\":0,\"5\":0,\"6\":0,\"7\":0,\"8\":0,\"9\":0,\"10\":"
         "0,\"11\":0,\"12\":0,\"13\":0,\"14\":0,\"15\":0,\"16\":0,\"17\":0,\"18\":0,\"19\":0,"
         "\"20\":0,\"21\":0,\"22\":0,\"23\":0,\"24\":0,\"25\":0,\"26\":0,\"27\":0,\"28\":0,\"29\":"
         "0,\"30\":0,\"31\":0,\"32\":0}",
         "more than 32 fields"},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"\"}}}",
         "a pattern that is empty"},
        {"{\"added_tokens\":[{\"id\":5,\"content\":\"x\"}],\"model\":{\"type\":\"BPE\",\"vocab\":{"
         "\"a\":0},"
         "\"merges\":[]}," BYTE_LEVEL "}",
         "the added token 'x' has the id 5, but Transformers would give it 1, the next"},
        {"{\"added_tokens\":[{\"id\":2,\"content\":\"x\"},{\"id\":1,\"content\":\"y\"}],\"model\":{"
         "\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]}," BYTE_LEVEL "}",
         "the added token 'x' has the id 2, but Transformers would give it 1"},
        {"{\"added_tokens\":[{\"id\":1}]}", "an id and a content"},
        {"{\"added_tokens\":[{\"id\":1,\"content\":\"\"}]}", "of 0 bytes"}};
    (void)state;
    for (size_t i = 0; i < TABLE_SIZE(cases); i++) {
        Tokenizer tokenizer;
        Error error;
        assert_false(tokenizer_from_json(&tokenizer, cases[i].json, strlen(cases[i].json), "t.json",
                                         &error));
        assert_contains(error.text, cases[i].says);
        assert_contains(error.text, "t.json");
    }
}

static void bytes_without_a_token_are_named(void **state)
{
    Tokenizer tokenizer;
    Error error;
    Ids ids = {NULL, 0, 0, 0};
    (void)state;
    golden_tokenizer(&tokenizer);
    assert_true(tokenizer_encode(&ids, &tokenizer, "a", 1, &error));
    assert_false(tokenizer_encode(&ids, &tokenizer, "b\xFF", 2, &error));
    assert_contains(error.text, "0xFF");
    assert_int_equal(ids.count, 1); /* what was there stays, and nothing else */
    ids_free(&ids);
    tokenizer_free(&tokenizer);
}

/* 300 KB, `part` again and again behind `start`, there and back: seconds would be too long. */
static void takes_no_time(const Tokenizer *tokenizer, const char *start, const char *part)
{
    enum { LEN = 300000 };
    Error error;
    Text text = {NULL, 0, 0}, back = {NULL, 0, 0};
    Ids ids = {NULL, 0, 0, 0};
    text_add(&text, start);
    while (text.len < LEN)
        text_add(&text, part);
    double began = seconds_now();
    assert_true(tokenizer_encode(&ids, tokenizer, text.bytes, text.len, &error));
    decode_all(&back, tokenizer, &ids);
    assert_true(seconds_now() - began < 20.0); /* under 1 s; n^2 would be hours */
    assert_true(ids.count > 0 && back.len > 0);
    text_free(&text), text_free(&back), ids_free(&ids);
}

/* The shapes that make slow tokenizers slow. */
static void no_text_makes_encoding_quadratic(void **state)
{
    static const char *const parts[] = {"a", " ", "ing", "<|endoftext|", "'"};
    Tokenizer tokenizer;
    (void)state;
    golden_tokenizer(&tokenizer);
    for (size_t i = 0; i < TABLE_SIZE(parts); i++)
        takes_no_time(&tokenizer, "", parts[i]);
    takes_no_time(&tokenizer, "q", "\xCC\x87\xCC\xA3"); /* one base and all of its marks */
    tokenizer_free(&tokenizer);
}

/* ---- what is shown ---- */

/* What a stream shows of tokens t, h, e ... of a tokenizer, one byte each. */
static void stream_is(const char *bytes, const char *stop, const char *want, bool ends)
{
    Tokenizer tokenizer;
    char *shown = NULL;
    size_t len = 0;
    const char *const stops[] = {stop, "#!#"};
    bool more = true;
    golden_tokenizer(&tokenizer);
    Stream stream =
        stream_to(open_memstream(&shown, &len), &tokenizer, stops, stop == NULL ? 0 : 2);
    for (; more && *bytes; bytes++) {
        fflush(stream.out);
        more = stream_add(&stream, tokenizer.of_byte[(unsigned char)*bytes], false);
    }
    assert_int_equal(more, !ends);
    stream_end(&stream);
    fclose(stream.out);
    assert_string_equal(shown, want);
    free(shown);
    tokenizer_free(&tokenizer);
}

static void streams_show_whole_characters_and_end_before_a_stop(void **state)
{
    (void)state;
    stream_is("a\xC3\xA9z", NULL, "a\xC3\xA9z", false);
    stream_is("\xF0\x9F\x98\x80!", NULL, "\xF0\x9F\x98\x80!", false);
    stream_is("a\xE2\x82", NULL, "a\xEF\xBF\xBD\xEF\xBF\xBD", false); /* cut off at the end */
    stream_is("a\xA9z", NULL, "a\xEF\xBF\xBDz", false);
    stream_is("one. two. three", "two", "one. ", true);
    stream_is("one. twtwo", "two", "one. tw", true);
    stream_is("one. tw", "two", "one. tw", false); /* what might have become one */
    stream_is("x#!#y", "two", "x", true);
}

/* Nothing of a character is shown before all of it is there. */
static void characters_are_held_until_they_are_whole(void **state)
{
    Tokenizer tokenizer;
    char *shown = NULL;
    size_t len = 0;
    const unsigned char euro[] = {0xE2, 0x82, 0xAC};
    (void)state;
    golden_tokenizer(&tokenizer);
    Stream stream = stream_to(open_memstream(&shown, &len), &tokenizer, NULL, 0);
    for (size_t i = 0; i < 3; i++) {
        stream_add(&stream, tokenizer.of_byte[euro[i]], false);
        fflush(stream.out);
        assert_int_equal(len, i < 2 ? 0 : 3);
    }
    stream_end(&stream);
    fclose(stream.out);
    free(shown);
    tokenizer_free(&tokenizer);
}

static void ids_are_read_and_checked(void **state)
{
    const struct {
        const char *text, *says;
    } cases[] = {{"", "is not a number"},
                 {"1,", "is not a number"},
                 {"a", "is not a number"},
                 {"1 2", "where a comma"},
                 {"1,97", "97 is out of range"},
                 {"-1", "is not a number"},
                 {"99999999999999999999999", "out of range"}};
    Ids ids = {NULL, 0, 0, 0};
    Error error;
    (void)state;
    assert_true(ids_parse(&ids, "0,96,7", 97, &error));
    ids_are(&ids, "0 96 7");
    for (size_t i = 0; i < TABLE_SIZE(cases); i++) {
        assert_false(ids_parse(&ids, cases[i].text, 97, &error));
        assert_contains(error.text, cases[i].says);
    }
    ids_free(&ids);
}

/* ---- marks for spaces, and bytes where there is no token: SentencePiece's kind ---- */

#define MARK    "\xE2\x96\x81"
#define SPACES  "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"" MARK "\"}"
#define BEFORE  "{\"type\":\"Prepend\",\"prepend\":\"" MARK "\"}"
#define OLD     "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[" BEFORE "," SPACES "]},"
#define META(s) "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"" MARK "\"," s "},"
#define SPELLS  "\"unk_token\":\"<unk>\",\"fuse_unk\":true,\"byte_fallback\":true,"

#define CHAIN(steps) "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[" steps "]},"
#define UNMARK       "{\"type\":\"Replace\",\"pattern\":{\"String\":\"" MARK "\"},\"content\":\" \"}"
#define BYTES        UNMARK ",{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}"
#define STRIP(n)     ",{\"type\":\"Strip\",\"content\":\" \",\"start\":" n ",\"stop\":0}"
#define METADECODE                                                                                 \
    "\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"" MARK "\",\"prepend_scheme\":"

/* A tokenizer of the characters a, b and x and of three bytes; `rest` is what the file says beside
   the model, `added` the fields of a token 15, or "", `model` what it says in the model. */
static void marked_tokenizer(Tokenizer *tokenizer, const char *rest, const char *added,
                             const char *model)
{
    char json[4096];
    Error error;
    snprintf(json, sizeof json,
             "{%s\"added_tokens\":[{\"id\":1,\"content\":\"<s>\",\"normalized\":false}%s%s%s],"
             "\"model\":{\"type\":\"BPE\",%s\"vocab\":{\"<unk>\":0,\"<s>\":1,\"</s>\":2,\"" MARK
             "\":3,\"a\":4,\"b\":5,\"ab\":6,\"" MARK "a\":7,\"" MARK "ab\":8,\"" MARK MARK
             "\":9,\"<0xC3>\":10,\"<0xA9>\":11,\"<0x0A>\":12,\"x\":13,\"" MARK
             "x\":14},\"merges\":[\"a b\",\"" MARK " a\",\"" MARK " ab\",\"" MARK " " MARK "\"]}}",
             rest, *added ? ",{\"id\":15," : "", added, *added ? "}" : "", model);
    if (!tokenizer_from_json(tokenizer, json, strlen(json), "t.json", &error))
        fail_msg("%s", error.text);
}

/* "text=ids|text=ids", as Hugging Face's tokenizers has them; where a text may be cut, its parts
   have the ids of the whole. */
static void marked_ids_are(const char *rest, const char *added, const char *model,
                           const char *pairs)
{
    Tokenizer tokenizer;
    Error error;
    char list[512];
    snprintf(list, sizeof list, "%s", pairs);
    marked_tokenizer(&tokenizer, rest, added, model);
    for (char *text = strtok(list, "|"); text != NULL; text = strtok(NULL, "|")) {
        Ids ids = {NULL, 0, 0, 0};
        char *want = strchr(text, '=') + 1;
        size_t len = (size_t)(want - text) - 1, cut = tokenizer_safe_cut(&tokenizer, text, len);
        assert_true(tokenizer_encode(&ids, &tokenizer, text, len, &error));
        ids_are(&ids, want);
        ids.count = 0;
        assert_true(tokenizer_encode(&ids, &tokenizer, text, cut, &error));
        assert_true(
            tokenizer_encode_part(&ids, &tokenizer, text + cut, len - cut, cut > 0, &error));
        ids_are(&ids, want);
        ids_free(&ids);
    }
    tokenizer_free(&tokenizer);
}

static void spaces_become_marks_and_one_goes_before_a_text(void **state)
{
    static const char never[] = "ab=6| ab=8|ab ab=6 8|ab<s>ab=6 1 6|a  b=4 9 5";
    static const char split[] = "ab=8| ab=8|a  b=7 3 3 5|   =3 3 3|ab<s>ab=8 1 8";
    (void)state;
    marked_ids_are(
        OLD, "", SPELLS,
        "=-|ab=8| ab=3 8|  ab=9 8|ab ab=8 8|ab<s>ab=8 1 8|<s>ab=1 8|ab<s> ab=8 1 3 8| <s> "
        "ab=9 1 3 8|" MARK "ab=3 8|a  b=7 9 5|a" MARK " b=7 9 5|   =9 9");
    marked_ids_are(META("\"prepend_scheme\":\"always\",\"split\":false"), "", SPELLS,
                   "=-|ab=8| ab=8|  ab=3 8|ab<s>ab=8 1 8|<s>ab=1 8| <s> ab=3 1 8|" MARK
                   "ab=8|a  b=7 9 5|   =9 3");
    marked_ids_are(
        META("\"prepend_scheme\":\"first\",\"split\":false"), "", SPELLS,
        "=-|ab=8| ab=8|<s>ab<s>ab=1 6 1 6|ab<s>ab=8 1 6| <s> ab=3 1 8|a  b=7 9 5|   =9 3");
    marked_ids_are(META("\"prepend_scheme\":\"never\",\"split\":false"), "", SPELLS, never);
    marked_ids_are(META("\"add_prefix_space\":false,\"split\":false"), "", SPELLS, never);
    marked_ids_are(META("\"prepend_scheme\":\"always\",\"split\":true"), "", SPELLS, split);
    marked_ids_are(META("\"add_prefix_space\":true"), "", SPELLS, split);
    marked_ids_are("\"pre_tokenizer\":" SEQUENCE(
                       "{\"type\":\"WhitespaceSplit\"},{\"type\":\"Metaspace\","
                       "\"replacement\":\"" MARK "\",\"prepend_scheme\":\"first\"}") ",",
                   "", SPELLS, "ab ab=8 6");
}

/* Of the letters with an accent, C3 A9 has tokens for its bytes and C3 A8 has not. An unknown token
   waits until one comes that is known. */
static void characters_without_a_token_are_spelled_in_bytes(void **state)
{
    (void)state;
    marked_ids_are(OLD, "", SPELLS,
                   "\xC3\xA9=3 10 11|a\xC3\xA9 b=7 10 11 3 5|\n=3 12|a\xC3\xA8\xC3\xA8 b=7 0 3 5|"
                   "z\xC3\xA9z=3 10 11 0|zaz=3 0 4 0|z\nab=3 12 0 6|x=3 13|ab=8");
    marked_ids_are(OLD, "", "\"unk_token\":\"<unk>\",\"byte_fallback\":true,",
                   "a\xC3\xA8\xC3\xA8 b=7 0 0 3 5|z\xC3\xA9z=3 10 11 0 0");
    marked_ids_are(OLD, "", "\"unk_token\":\"<unk>\",\"fuse_unk\":true,", "a\xC3\xA9=7 0|\n=3 0");
    marked_ids_are(OLD, "", "\"byte_fallback\":true,", "a\xC3\xA9=7 10 11|za=7");
    marked_ids_are(OLD, "", "\"ignore_merges\":true," SPELLS, "x=14|x x=3 13 3 13|ab=8");
}

static void blanks_beside_an_added_token_may_be_its_own(void **state)
{
    (void)state;
    marked_ids_are(OLD, "\"content\":\"<x>\",\"lstrip\":true,\"normalized\":false", SPELLS,
                   "a <x> a=7 15 3 7|<x>a=15 7|a\n <x> <x>\xC2\xA0 b=7 15 15 3 0 3 5");
    marked_ids_are(OLD, "\"content\":\"<x>\",\"rstrip\":true,\"normalized\":false", SPELLS,
                   "a <x> a=7 3 15 7|a\n <x> <x>\xC2\xA0 b=7 12 3 15 15 3 5");
    marked_ids_are(
        OLD, "\"content\":\"xx\",\"single_word\":true,\"normalized\":false", SPELLS,
        "xx.xx=15 3 0 15|axxa=7 13 13 4|xx\xC3\xA9=3 13 13 10 11| xx =9 15 9|xx_=3 13 13 0");
    marked_ids_are(OLD, "\"content\":\"z\",\"single_word\":true", SPELLS, "zz=3 0|z=15");
    marked_ids_are(OLD, "\"content\":\"<x>\"", SPELLS,
                   "a <x> a=7 15 7|<x>a=15 4"); /* looked for as it is normalized */
}

/* A piece may be a whole text, and a run of bytes a whole answer. */
static void no_marked_text_makes_encoding_quadratic(void **state)
{
    static const char *const parts[] = {"ab", " ", "ab ", "\xC3\xA9", "<x> "};
    Tokenizer tokenizer;
    (void)state;
    marked_tokenizer(&tokenizer, OLD CHAIN(BYTES),
                     "\"content\":\"<x>\",\"lstrip\":true,\"normalized\":false", SPELLS);
    for (size_t i = 0; i < TABLE_SIZE(parts); i++)
        takes_no_time(&tokenizer, "", parts[i]);
    tokenizer_free(&tokenizer);
}

/* A file longer than the pieces it is read in has the ids of the whole, with what goes round it. */
static void a_file_has_the_ids_of_its_text(void **state)
{
    const char *path = "build/tests/tokenizer.txt";
    Tokenizer tokenizer;
    TextSource source;
    Error error;
    Text text = {NULL, 0, 0};
    Ids whole = {NULL, 0, 0, 0}, ids = {NULL, 0, 0, 0}, read = {NULL, 0, 0, 0};
    FILE *file = fopen(path, "wb");
    (void)state;
    assert_non_null(file);
    marked_tokenizer(&tokenizer, OLD, "\"content\":\"<x>\",\"normalized\":false", SPELLS);
    while (text.len < 200000)
        text_add(&text, "ab ab\nx <x> ab  x ");
    assert_int_equal(fwrite(text.bytes, 1, text.len, file), text.len);
    fclose(file);
    assert_true(tokenizer_encode(&whole, &tokenizer, text.bytes, text.len, &error));
    assert_true(source_open(&source, path, &error));
    size_t pieces = 0;
    for (; source_next(&ids, &source, &tokenizer, &error) && ids.count > 0; pieces++)
        for (size_t i = 0; i < ids.count; i++)
            ids_push(&read, ids.id[i]);
    assert_true(pieces > 2 && read.count == whole.count);
    assert_memory_equal(read.id, whole.id, whole.count * sizeof *whole.id);
    source_close(&source);
    remove(path);
    ids_free(&whole), ids_free(&ids), ids_free(&read), text_free(&text);
    tokenizer_free(&tokenizer);
}

/* What follows in the same text has no mark before it, but after an added token it has one. */
static void nothing_goes_before_a_text_that_goes_on(void **state)
{
    static const char *const files[] = {OLD, META("\"prepend_scheme\":\"always\",\"split\":false"),
                                        META("\"prepend_scheme\":\"always\"")};
    (void)state;
    for (size_t i = 0; i < TABLE_SIZE(files); i++) {
        Tokenizer tokenizer;
        Error error;
        Ids ids = {NULL, 0, 0, 0};
        marked_tokenizer(&tokenizer, files[i], "", SPELLS);
        assert_true(tokenizer_encode_part(&ids, &tokenizer, "ab ab<s>ab", 10, true, &error));
        ids_are(&ids, "6 8 1 8");
        ids_free(&ids);
        tokenizer_free(&tokenizer);
    }
}

/* The text of ids ("1,2"), all at once and as a stream shows it. */
static void text_is(const char *decoder, const char *list, const char *want)
{
    Tokenizer tokenizer;
    Error error;
    Ids ids = {NULL, 0, 0, 0};
    Text text = {NULL, 0, 0};
    char *shown = NULL;
    size_t len = 0;
    marked_tokenizer(&tokenizer, decoder, "\"content\":\"<x>\"", SPELLS);
    assert_true(ids_parse(&ids, list, 100, &error));
    decode_all(&text, &tokenizer, &ids);
    assert_string_equal(text.bytes, want);
    Stream stream = stream_to(open_memstream(&shown, &len), &tokenizer, NULL, 0);
    for (size_t i = 0; i < ids.count; i++)
        stream_add(&stream, ids.id[i], i == 0);
    stream_end(&stream);
    fclose(stream.out);
    assert_string_equal(shown, want);
    free(shown);
    ids_free(&ids), text_free(&text);
    tokenizer_free(&tokenizer);
}

#define BAD "\xEF\xBF\xBD"

/* As Hugging Face's tokenizers decodes them; there is no token 99. */
static void tokens_become_a_text_as_the_decoder_says(void **state)
{
    (void)state;
    text_is(CHAIN(BYTES STRIP("1")), "8,7", "ab a");
    text_is(CHAIN(BYTES STRIP("1")), "9,8", "  ab");
    text_is(CHAIN(BYTES STRIP("1")), "1,8", "<s> ab");
    text_is(CHAIN(BYTES STRIP("1")), "99,3,10,99,11", "\xC3\xA9");
    text_is(CHAIN(BYTES STRIP("1")), "10,11,10,4", BAD BAD BAD "a"); /* no UTF-8 in all */
    text_is(CHAIN(BYTES STRIP("1")), "4,10,11,12,10", "a" BAD BAD BAD BAD);
    text_is(CHAIN(BYTES STRIP("2")), "3,3,3,4", " a");
    text_is(CHAIN(BYTES STRIP("2")), "3,12,3,4", "\n a");
    text_is(CHAIN(BYTES), "8,7", " ab a");
    text_is(CHAIN(UNMARK), "10,8", "<0xC3> ab");
    text_is(OLD CHAIN(BYTES), "4,15,4", "a <x>a"); /* an added token as it is normalized */
    text_is(METADECODE "\"always\"},", "9,8", " ab");
    text_is(METADECODE "\"first\"},", "99,8,7", "ab a");
    text_is(METADECODE "\"never\"},", "8,7", " ab a");
    text_is("", "8,99,7", MARK "ab " MARK "a"); /* no decoder: blanks between tokens */
    text_is("\"decoder\":{\"type\":\"ByteLevel\"},", "8,4", MARK "aba");
}

/* A newline that is a byte waits for the next token, but ends an answer at once if it is to. */
static void a_stop_text_is_seen_in_bytes_that_wait(void **state)
{
    static const char *const stop[] = {"\n"};
    Tokenizer tokenizer;
    char *shown = NULL;
    size_t len = 0;
    (void)state;
    marked_tokenizer(&tokenizer, CHAIN(BYTES), "", SPELLS);
    Stream stream = stream_to(open_memstream(&shown, &len), &tokenizer, stop, 1);
    assert_true(stream_add(&stream, 8, true));
    assert_false(stream_add(&stream, 12, false));
    stream_end(&stream);
    fclose(stream.out);
    assert_string_equal(shown, " ab");
    free(shown);
    tokenizer_free(&tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(marks_are_joined_and_put_in_order),
        cmocka_unit_test(bytes_that_are_no_characters_stand_alone),
        cmocka_unit_test(classes_of_ascii_are_those_of_the_table),
        cmocka_unit_test(pieces_are_cut_as_the_pattern_says),
        cmocka_unit_test(pieces_are_cut_as_llama_3_cuts_them),
        cmocka_unit_test(a_match_is_a_piece_or_part_of_one_or_nothing),
        cmocka_unit_test(digits_signs_and_words_are_cut),
        cmocka_unit_test(stages_cut_one_after_another),
        cmocka_unit_test(every_byte_has_a_stand_in_of_its_own),
        cmocka_unit_test(after_byte_level_a_stage_sees_stand_ins),
        cmocka_unit_test(a_text_is_cut_only_where_no_stage_joins),
        cmocka_unit_test(encodings_agree_with_golden),
        cmocka_unit_test(ex5_10_merges_by_a_heap_are_those_of_the_loop),
        cmocka_unit_test(ex5_10_merges_by_hand),
        cmocka_unit_test(words_are_tokens_where_the_tokenizer_says_so),
        cmocka_unit_test(any_bytes_come_back_from_a_tokenizer_that_has_them),
        cmocka_unit_test(a_safe_cut_changes_no_ids),
        cmocka_unit_test(a_post_processor_puts_tokens_round_a_text),
        cmocka_unit_test(bytes_without_a_token_are_unknown_or_left_out),
        cmocka_unit_test(tokenizers_of_all_versions_are_read),
        cmocka_unit_test(added_tokens_have_the_ids_that_transformers_gives_them),
        cmocka_unit_test(wrong_tokenizers_are_named),
        cmocka_unit_test(bytes_without_a_token_are_named),
        cmocka_unit_test(no_text_makes_encoding_quadratic),
        cmocka_unit_test(streams_show_whole_characters_and_end_before_a_stop),
        cmocka_unit_test(characters_are_held_until_they_are_whole),
        cmocka_unit_test(ids_are_read_and_checked),
        cmocka_unit_test(spaces_become_marks_and_one_goes_before_a_text),
        cmocka_unit_test(characters_without_a_token_are_spelled_in_bytes),
        cmocka_unit_test(blanks_beside_an_added_token_may_be_its_own),
        cmocka_unit_test(no_marked_text_makes_encoding_quadratic),
        cmocka_unit_test(a_file_has_the_ids_of_its_text),
        cmocka_unit_test(nothing_goes_before_a_text_that_goes_on),
        cmocka_unit_test(tokens_become_a_text_as_the_decoder_says),
        cmocka_unit_test(a_stop_text_is_seen_in_bytes_that_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
