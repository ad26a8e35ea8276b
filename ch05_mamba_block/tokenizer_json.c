/* A tokenizer.json, as Hugging Face's tokenizers write it, becomes a Tokenizer.

   HOLDS   what the file says, part by part; the tables made of it; tokenizer_from_json,
           tokenizer_read, tokenizer_free
   FOR     pretrained.c
   The file is read as a stranger's. What would change the ids and is not known here is refused by
   name. */

#ifndef CH05_TOKENIZER_JSON
#define CH05_TOKENIZER_JSON

#include "tokenizer.c"

/* =================================== What the file says ==================================== */

typedef struct {
    JsonText text;
    uint64_t id;
} VocabEntry;

typedef struct {
    JsonText left, right;
} MergeEntry;

typedef struct {
    JsonText content;
    uint64_t id;
    bool special, normalized;
} AddedEntry;

/* What a post_processor puts round a text: names of special tokens, and in one place the text. */
typedef struct {
    JsonText piece[FRAME_MOST]; /* (n_piece) bytes NULL: the text */
    JsonText name[FRAME_MOST];  /* (n_name) of a special token; Frame ids: what it stands for */
    Frame ids[FRAME_MOST];
    size_t n_piece, n_name;
} Template;

/* What the file says, before it is put together: its parts may come in any order. */
typedef struct {
    Json json;
    VocabEntry *vocab;
    MergeEntry *merge;
    AddedEntry *added;
    size_t n_vocab, n_merge, n_added;
    JsonText model, unknown; /* the type, and the unknown token; bytes NULL: none */
    Stages stages;
    Frame begin, end; /* what the post_processor puts before and after a text */
    bool nfc, lowercase, fuse_unknown, whole_first;
    bool untyped_merges; /* the model has merges: BPE, if no type says otherwise */
} TokenizerParts;

enum { TOKEN_MOST_BYTES = 65536, IDS_MOST = 16777216 };

/* A field that must be false, null or "", because nothing else is built here. */
static void parts_unset(Json *json, const char *name)
{
    bool flag = false;
    JsonText text = {"", 0};
    JsonType type = json_peek(json);
    if (type == JSON_BOOLEAN)
        json_boolean(json, &flag);
    else if (type == JSON_STRING)
        json_string(json, &text);
    else if (type == JSON_NULL)
        json_skip(json);
    else
        flag = true;
    if (flag || text.len > 0)
        json_fail(json, "%s is set, which is not known here", name);
}

static bool json_is_one_of(JsonText key, const char *const *names, const char **found)
{
    for (; *names != NULL; names++)
        if (json_is(key, *names)) {
            *found = *names;
            return true;
        }
    return false;
}

static void added_entry(TokenizerParts *parts)
{
    static const char *const unset[] = {"single_word", "lstrip", "rstrip", NULL};
    Json *json = &parts->json;
    AddedEntry entry = {{NULL, 0}, NO_TOKEN, false, true};
    const char *name = NULL;
    json_enter_object(json);
    size_t mark = json->mark;
    for (JsonText key = {NULL, 0}; json_next_key(json, &key);) {
        if (json_is(key, "id"))
            json_integer(json, &entry.id, IDS_MOST - 1);
        else if (json_is(key, "content"))
            json_string(json, &entry.content);
        else if (json_is(key, "special"))
            json_boolean(json, &entry.special);
        else if (json_is(key, "normalized"))
            json_boolean(json, &entry.normalized);
        else if (json_is_one_of(key, unset, &name))
            parts_unset(json, name);
        else
            json_skip(json);
    }
    json->mark = mark;
    if (!json->failed && (entry.id == NO_TOKEN || entry.content.bytes == NULL))
        json_fail(json, "an added token needs an id and a content");
    if (!json->failed && (entry.content.len == 0 || entry.content.len > TOKEN_MOST_BYTES))
        json_fail(json, "an added token of %zu bytes: 1 to %d are wanted", entry.content.len,
                  TOKEN_MOST_BYTES);
    parts->added = (AddedEntry *)array_grow(parts->added, parts->n_added, sizeof entry);
    parts->added[parts->n_added++] = entry;
}

/* "normalizer": null, NFC, Lowercase, or a Sequence of these, in this order. */
static void parts_normalizer(TokenizerParts *parts, bool inside)
{
    Json *json = &parts->json;
    JsonText type = {"", 0};
    if (json_peek(json) == JSON_NULL) {
        json_skip(json);
        return;
    }
    json_enter_object(json);
    for (JsonText key = {NULL, 0}; json_next_key(json, &key);) {
        if (json_is(key, "normalizers") && !inside) {
            json_enter_array(json);
            while (json_next_item(json))
                parts_normalizer(parts, true);
        } else if (!json_is(key, "type"))
            json_skip(json);
        else if (json_string(json, &type) && !json_is(type, "NFC") && !json_is(type, "Lowercase") &&
                 (inside || !json_is(type, "Sequence")))
            json_fail(json, "normalizer '%s': only NFC and Lowercase are known here",
                      shown_name(type.bytes).text);
    }
    if (json_is(type, "NFC") && parts->lowercase)
        json_fail(json, "normalizer: NFC after Lowercase, which is not known here");
    parts->nfc = parts->nfc || json_is(type, "NFC");
    parts->lowercase = parts->lowercase || json_is(type, "Lowercase");
}

/* "decoder": null or ByteLevel; another would write the same ids as another text. */
static void parts_decoder(Json *json)
{
    JsonText type = {"", 0};
    if (json_peek(json) != JSON_OBJECT) {
        json_skip(json);
        return;
    }
    json_enter_object(json);
    for (JsonText key = {NULL, 0}; json_next_key(json, &key);) {
        if (!json_is(key, "type"))
            json_skip(json);
        else if (json_string(json, &type) && !json_is(type, "ByteLevel"))
            json_fail(json, "decoder '%s' is not known here", shown_name(type.bytes).text);
    }
}

/* ---- "pre_tokenizer": what cuts a text, stage by stage ---- */

static const char *const cut_behavior_name[CUT_BEHAVIORS] = {
    "Isolated", "Removed", "Contiguous", "MergedWithPrevious", "MergedWithNext"};

/* The regular expressions that are known, as published tokenizers write them. */
static const struct {
    const char *pattern;
    StageKind kind;
    size_t most;
} known_pattern[] = {
    {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
     STAGE_GPT2, 0},
    {"'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", STAGE_GPT2,
     0},
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
     " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     STAGE_LLAMA3, 3},
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
     " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     STAGE_LLAMA3, 1},
    {"\\p{N}{1,3}", STAGE_NUMBERS, 3},
    {"\\p{N}", STAGE_NUMBERS, 1},
    {"[0-9][0-9][0-9]", STAGE_THREE_DIGITS, 0}};

/* An entry of "pre_tokenizer", whose fields may come in any order. */
typedef struct {
    JsonText type;
    Stage stage;                /* of Split, Digits, Punctuation */
    bool pattern, digits_apart; /* there is a pattern; "individual_digits" */
    bool prefix, regex;         /* of ByteLevel: "add_prefix_space", "use_regex" */
} StageEntry;

static void stages_add(Json *json, Stages *stages, Stage stage)
{
    if (stages->count == STAGES_MOST)
        json_fail(json, "pre_tokenizer: more than %d stages", STAGES_MOST);
    else if (!json->failed)
        stages->stage[stages->count++] = stage;
}

static Stage stage_of(StageKind kind, CutBehavior behavior, bool invert)
{
    Stage stage;
    memset(&stage, 0, sizeof stage);
    stage.kind = kind;
    stage.behavior = behavior;
    stage.invert = invert;
    return stage;
}

/* "pattern": {"String": "x"} or {"Regex": "x+"}, the second only if it is one that is known. */
static void entry_pattern(StageEntry *entry, Json *json)
{
    JsonText text = {"", 0};
    json_enter_object(json);
    for (JsonText key = {NULL, 0}; json_next_key(json, &key); entry->pattern = true) {
        bool regex = json_is(key, "Regex");
        size_t i = 0;
        if (!regex && !json_is(key, "String"))
            json_fail(json, "pre_tokenizer: a pattern is a String or a Regex");
        if (!json_string(json, &text))
            return;
        entry->stage.kind = STAGE_TEXT;
        entry->stage.text = text.bytes;
        entry->stage.text_len = text.len;
        while (regex && i < TABLE_SIZE(known_pattern) && !json_is(text, known_pattern[i].pattern))
            i++;
        if (regex && i == TABLE_SIZE(known_pattern))
            json_fail(json, "pre_tokenizer: the pattern '%s' is not known here",
                      shown_name(text.bytes).text);
        else if (regex) {
            entry->stage.kind = known_pattern[i].kind;
            entry->stage.most = known_pattern[i].most;
        }
    }
}

static void entry_behavior(StageEntry *entry, Json *json)
{
    JsonText text = {"", 0};
    int i = 0;
    if (!json_string(json, &text))
        return;
    while (i < CUT_BEHAVIORS && !json_is(text, cut_behavior_name[i]))
        i++;
    if (i == CUT_BEHAVIORS)
        json_fail(json, "pre_tokenizer: the behavior '%s' is not known here",
                  shown_name(text.bytes).text);
    else
        entry->stage.behavior = (CutBehavior)i;
}

/* What an entry does, as stages. ByteLevel is up to three: a space in front, the cut, the bytes. */
static void entry_stages(const StageEntry *entry, Json *json, Stages *stages)
{
    JsonText type = entry->type;
    Stage stage = entry->stage;
    if (json_is(type, "ByteLevel")) {
        for (size_t i = 0; i < stages->count; i++)
            if (stages->stage[i].kind == STAGE_BYTES)
                json_fail(json, "pre_tokenizer: a second ByteLevel, which is not known here");
        if (entry->prefix)
            stages_add(json, stages, stage_of(STAGE_PREFIX, CUT_ISOLATED, false));
        if (entry->regex)
            stages_add(json, stages, stage_of(STAGE_GPT2, CUT_ISOLATED, false));
        stages_add(json, stages, stage_of(STAGE_BYTES, CUT_ISOLATED, false));
    } else if (json_is(type, "Split") && !entry->pattern)
        json_fail(json, "pre_tokenizer: a Split without a pattern");
    else if (json_is(type, "Split"))
        stages_add(json, stages, stage);
    else if (json_is(type, "Digits"))
        stages_add(
            json, stages,
            stage_of(STAGE_NUMBER, entry->digits_apart ? CUT_ISOLATED : CUT_CONTIGUOUS, false));
    else if (json_is(type, "Punctuation"))
        stages_add(json, stages, stage_of(STAGE_SIGN, stage.behavior, false));
    else if (json_is(type, "Whitespace"))
        stages_add(json, stages, stage_of(STAGE_WORD, CUT_REMOVED, true));
    else if (json_is(type, "WhitespaceSplit"))
        stages_add(json, stages, stage_of(STAGE_BLANK, CUT_REMOVED, false));
    else if (!json_is(type, "Sequence"))
        json_fail(json, "pre_tokenizer '%s' is not known here", shown_name(type.bytes).text);
}

/* One entry; a Sequence holds others, whose stages are added as they come. */
static void parts_pre_tokenizer(Json *json, Stages *stages, size_t depth)
{
    enum { DEPTH_MOST = 4 };
    StageEntry entry = {{"", 0}, stage_of(STAGE_TEXT, CUT_ISOLATED, false), false, false, false,
                        true};
    json_enter_object(json);
    if (depth == DEPTH_MOST)
        json_fail(json, "pre_tokenizer: a Sequence inside a Sequence, %d deep", DEPTH_MOST);
    for (JsonText key = {NULL, 0}; json_next_key(json, &key);) {
        if (json_is(key, "type"))
            json_string(json, &entry.type);
        else if (json_is(key, "pretokenizers")) {
            json_enter_array(json);
            while (json_next_item(json))
                parts_pre_tokenizer(json, stages, depth + 1);
        } else if (json_is(key, "pattern"))
            entry_pattern(&entry, json);
        else if (json_is(key, "behavior"))
            entry_behavior(&entry, json);
        else if (json_is(key, "invert"))
            json_boolean(json, &entry.stage.invert);
        else if (json_is(key, "individual_digits"))
            json_boolean(json, &entry.digits_apart);
        else if (json_is(key, "add_prefix_space"))
            json_boolean(json, &entry.prefix);
        else if (json_is(key, "use_regex"))
            json_boolean(json, &entry.regex);
        else
            json_skip(json);
    }
    if (!json->failed)
        entry_stages(&entry, json, stages);
}

/* ---- "post_processor": the tokens before and after each text ---- */

static uint32_t post_id(Json *json)
{
    uint64_t id = 0;
    json_integer(json, &id, IDS_MOST - 1);
    return (uint32_t)id;
}

static void frame_add(Json *json, Frame *frame, uint32_t id)
{
    if (frame->count == FRAME_MOST)
        json_fail(json, "post_processor: more than %d tokens before or after a text", FRAME_MOST);
    else
        frame->id[frame->count++] = id;
}

/* "single": [{"SpecialToken": {"id": "<s>", ...}}, {"Sequence": {"id": "A", ...}}, ...]. */
static void template_pieces(Template *pieces, Json *json)
{
    JsonText name = {"", 0};
    json_enter_array(json);
    while (json_next_item(json)) {
        bool text = false;
        json_enter_object(json);
        for (JsonText kind = {NULL, 0}; json_next_key(json, &kind);) {
            text = json_is(kind, "Sequence");
            json_enter_object(json);
            for (JsonText key = {NULL, 0}; json_next_key(json, &key);) {
                if (json_is(key, "id"))
                    json_string(json, &name);
                else
                    json_skip(json);
            }
        }
        if (text && !json->failed && !json_is(name, "A"))
            json_fail(json, "post_processor: a template of another text than $A");
        if (pieces->n_piece == FRAME_MOST)
            json_fail(json, "post_processor: a template of more than %d pieces", FRAME_MOST);
        else if (text)
            pieces->piece[pieces->n_piece++].bytes = NULL;
        else
            pieces->piece[pieces->n_piece++] = name;
    }
}

/* "special_tokens": {"<s>": {"id": "<s>", "ids": [1], ...}, ...}. */
static void template_names(Template *pieces, Json *json)
{
    json_enter_object(json);
    for (JsonText name = {NULL, 0}; json_next_key(json, &name);) {
        if (pieces->n_name == FRAME_MOST) {
            json_fail(json, "post_processor: more than %d special tokens", FRAME_MOST);
            return;
        }
        Frame *ids = &pieces->ids[pieces->n_name];
        pieces->name[pieces->n_name++] = name;
        json_enter_object(json);
        for (JsonText key = {NULL, 0}; json_next_key(json, &key);) {
            if (!json_is(key, "ids")) {
                json_skip(json);
                continue;
            }
            json_enter_array(json);
            while (json_next_item(json))
                frame_add(json, ids, post_id(json));
        }
    }
}

/* The tokens of a template: those before its text and those after it. */
static void template_frames(const Template *pieces, Json *json, Frame *begin, Frame *end)
{
    size_t texts = 0;
    for (size_t i = 0; i < pieces->n_piece; i++) {
        JsonText piece = pieces->piece[i];
        size_t which = 0;
        texts += piece.bytes == NULL;
        while (piece.bytes != NULL && which < pieces->n_name &&
               !(pieces->name[which].len == piece.len &&
                 memcmp(pieces->name[which].bytes, piece.bytes, piece.len) == 0))
            which++;
        if (piece.bytes != NULL && which == pieces->n_name)
            json_fail(json, "post_processor: the special token '%s' has no ids",
                      shown_name(piece.bytes).text);
        else if (piece.bytes != NULL)
            for (size_t k = 0; k < pieces->ids[which].count; k++)
                frame_add(json, texts > 0 ? end : begin, pieces->ids[which].id[k]);
    }
    if (texts != 1)
        json_fail(json, "post_processor: a template with %zu texts, not one", texts);
}

/* "sep" and "cls" of BertProcessing and RobertaProcessing: ["<s>", 1]. */
static void post_pair(Json *json, Frame *frame)
{
    size_t items = 0;
    json_enter_array(json);
    for (; json_next_item(json); items++) {
        if (items == 1)
            frame_add(json, frame, post_id(json));
        else
            json_skip(json);
    }
    if (items != 2)
        json_fail(json, "post_processor: a token and its id are wanted");
}

/* What goes round a text: TemplateProcessing, BertProcessing, RobertaProcessing, or a Sequence with
   one of these in it. ByteLevel, as a processor, says nothing of ids. */
static void parts_post_processor(TokenizerParts *parts, size_t depth)
{
    enum { DEPTH_MOST = 4 };
    Json *json = &parts->json;
    JsonText type = {"", 0};
    Template pieces;
    Frame begin = {{0}, 0}, end = {{0}, 0};
    memset(&pieces, 0, sizeof pieces);
    if (json_peek(json) != JSON_OBJECT) {
        json_skip(json);
        return;
    }
    json_enter_object(json);
    size_t mark = json->mark;
    for (JsonText key = {NULL, 0}; json_next_key(json, &key);) {
        if (json_is(key, "type"))
            json_string(json, &type);
        else if (json_is(key, "single") && json_peek(json) == JSON_ARRAY)
            template_pieces(&pieces, json);
        else if (json_is(key, "special_tokens"))
            template_names(&pieces, json);
        else if (json_is(key, "cls") && json_peek(json) == JSON_ARRAY)
            post_pair(json, &begin);
        else if (json_is(key, "sep") && json_peek(json) == JSON_ARRAY)
            post_pair(json, &end);
        else if (json_is(key, "processors") && depth < DEPTH_MOST) {
            json_enter_array(json);
            while (json_next_item(json))
                parts_post_processor(parts, depth + 1);
        } else
            json_skip(json);
    }
    json->mark = mark;
    if (json_is(type, "TemplateProcessing"))
        template_frames(&pieces, json, &begin, &end);
    else if (!json->failed && !json_is(type, "BertProcessing") &&
             !json_is(type, "RobertaProcessing") && !json_is(type, "ByteLevel") &&
             !json_is(type, "Sequence"))
        json_fail(json, "post_processor '%s' is not known here", shown_name(type.bytes).text);
    if (begin.count + end.count == 0)
        return;
    if (parts->begin.count + parts->end.count > 0)
        json_fail(json,
                  "post_processor: two that put tokens round a text, which is not known here");
    parts->begin = begin;
    parts->end = end;
}

static void parts_vocab(TokenizerParts *parts)
{
    Json *json = &parts->json;
    json_enter_object(json);
    for (JsonText key = {NULL, 0}; json_next_key(json, &key);) {
        VocabEntry entry = {key, 0};
        json_integer(json, &entry.id, IDS_MOST - 1);
        if (key.len > TOKEN_MOST_BYTES)
            json_fail(json, "a token of %zu bytes: at most %d", key.len, TOKEN_MOST_BYTES);
        parts->vocab = (VocabEntry *)array_grow(parts->vocab, parts->n_vocab, sizeof entry);
        parts->vocab[parts->n_vocab++] = entry;
    }
}

/* One merge: "a b", or in newer files ["a", "b"]. */
static void parts_merge(TokenizerParts *parts)
{
    Json *json = &parts->json;
    MergeEntry entry = {{"", 0}, {"", 0}};
    size_t items = 0;
    if (json_peek(json) == JSON_ARRAY) {
        json_enter_array(json);
        for (JsonText text = {"", 0}; json_next_item(json); items++)
            if (json_string(json, &text))
                *(items == 0 ? &entry.left : &entry.right) = text;
        if (!json->failed && items != 2)
            json_fail(json, "a merge of %zu tokens, not two", items);
    } else if (json_string(json, &entry.left)) {
        const char *space = (const char *)memchr(entry.left.bytes, ' ', entry.left.len);
        if (space == NULL)
            json_fail(json, "the merge '%s' has no space between two tokens",
                      shown_name(entry.left.bytes).text);
        else {
            entry.right.bytes = space + 1;
            entry.right.len = (size_t)(entry.left.bytes + entry.left.len - space - 1);
            entry.left.len = (size_t)(space - entry.left.bytes);
        }
    }
    parts->merge = (MergeEntry *)array_grow(parts->merge, parts->n_merge, sizeof entry);
    parts->merge[parts->n_merge++] = entry;
}

static void parts_model(TokenizerParts *parts)
{
    static const char *const unset[] = {"dropout", "continuing_subword_prefix",
                                        "end_of_word_suffix", "byte_fallback", NULL};
    Json *json = &parts->json;
    const char *name = NULL;
    json_enter_object(json);
    for (JsonText key = {NULL, 0}; json_next_key(json, &key);) {
        if (json_is(key, "type")) {
            if (json_string(json, &parts->model) && !json_is(parts->model, "BPE") &&
                !json_is(parts->model, "WordLevel"))
                json_fail(json, "a model of type '%s': BPE and WordLevel are known here",
                          shown_name(parts->model.bytes).text);
        } else if (json_is(key, "vocab"))
            parts_vocab(parts);
        else if (json_is(key, "merges")) {
            parts->untyped_merges = true;
            json_enter_array(json);
            while (json_next_item(json))
                parts_merge(parts);
        } else if (json_is(key, "unk_token") && json_peek(json) == JSON_STRING)
            json_string(json, &parts->unknown);
        else if (json_is(key, "fuse_unk") && json_peek(json) == JSON_BOOLEAN)
            json_boolean(json, &parts->fuse_unknown);
        else if (json_is(key, "ignore_merges") && json_peek(json) == JSON_BOOLEAN)
            json_boolean(json, &parts->whole_first);
        else if (json_is_one_of(key, unset, &name))
            parts_unset(json, name);
        else
            json_skip(json);
    }
}

static void parts_read(TokenizerParts *parts)
{
    Json *json = &parts->json;
    json_enter_object(json);
    for (JsonText key = {NULL, 0}; json_next_key(json, &key);) {
        if (json_is(key, "added_tokens")) {
            json_enter_array(json);
            while (json_next_item(json))
                added_entry(parts);
        } else if (json_is(key, "normalizer"))
            parts_normalizer(parts, false);
        else if (json_is(key, "decoder"))
            parts_decoder(json);
        else if (json_is(key, "pre_tokenizer") && json_peek(json) != JSON_NULL)
            parts_pre_tokenizer(json, &parts->stages, 0);
        else if (json_is(key, "post_processor"))
            parts_post_processor(parts, 0);
        else if (json_is(key, "model"))
            parts_model(parts);
        else
            json_skip(json);
    }
}

/* ====================================== Put together ======================================= */

/* The byte that a character stands for in the vocabulary, or -1: stand_in_of_byte backwards. */
static int byte_of_stand_in(uint32_t code)
{
    if (code < 0x100)
        return stand_in_of_byte(code) == code ? (int)code : -1;
    for (uint32_t byte = 0; byte <= 0xAD; byte++) /* the last that does not stand for itself */
        if (stand_in_of_byte(byte) == code)
            return (int)byte;
    return -1;
}

/* The bytes that a token stands for: those of its characters, if all are stand-ins of bytes
   (Hugging Face's ByteLevel decoder goes by the same rule), else its text. */
static void token_set_bytes(Token *token, bool words)
{
    const unsigned char *text = (const unsigned char *)token->text;
    token->bytes = NEW(unsigned char, token->len + 1);
    token->n_bytes = 0;
    for (size_t at = 0, step; at < token->len && !words; at += step) {
        int byte = byte_of_stand_in(utf8_decode(&step, text + at, token->len - at));
        words = byte < 0;
        token->bytes[token->n_bytes++] = (unsigned char)byte;
    }
    if (words) {
        memcpy(token->bytes, text, token->len);
        token->n_bytes = token->len;
    }
}

static bool tokenizer_place_token(Tokenizer *tokenizer, JsonText text, uint64_t id,
                                  const char *path, Error *error)
{
    Token *token = &tokenizer->token[id];
    uint32_t same = token_find(tokenizer, text.bytes, text.len);
    if (same == id)
        return true;
    if (same != NO_TOKEN || token->text != NULL)
        return fail(error, "%s: the token '%s' has the id %" PRIu64 ", %s", path,
                    shown_name(text.bytes).text, id,
                    same != NO_TOKEN ? "and another one too" : "which another token has too");
    token->text = text.bytes;
    token->len = text.len;
    token_set_bytes(token, tokenizer->words);
    size_t mask = tokenizer->n_place - 1;
    size_t at = hash_mix(hash_bytes(text.bytes, text.len, 0)) & mask;
    while (tokenizer->place[at] != NO_TOKEN)
        at = (at + 1) & mask;
    tokenizer->place[at] = (uint32_t)id;
    return true;
}

static bool tokenizer_place_tokens(Tokenizer *tokenizer, const TokenizerParts *parts,
                                   const char *path, Error *error)
{
    bool ok = true;
    for (size_t i = 0; i < parts->n_vocab; i++)
        if (parts->vocab[i].id >= tokenizer->n_token)
            tokenizer->n_token = (size_t)parts->vocab[i].id + 1;
    for (size_t i = 0; i < parts->n_added; i++)
        if (parts->added[i].id >= tokenizer->n_token)
            tokenizer->n_token = (size_t)parts->added[i].id + 1;
    if (tokenizer->n_token > 16 * (parts->n_vocab + parts->n_added) + 1024)
        return fail(error, "%s: an id of %zu among %zu tokens", path, tokenizer->n_token - 1,
                    parts->n_vocab + parts->n_added);
    tokenizer->token = NEW(Token, tokenizer->n_token);
    tokenizer->n_place = table_room(parts->n_vocab + parts->n_added);
    tokenizer->place = NEW(uint32_t, tokenizer->n_place);
    memset(tokenizer->place, 0xFF, tokenizer->n_place * sizeof *tokenizer->place);
    for (size_t i = 0; ok && i < parts->n_vocab; i++)
        ok =
            tokenizer_place_token(tokenizer, parts->vocab[i].text, parts->vocab[i].id, path, error);
    for (size_t i = 0; ok && i < parts->n_added; i++) {
        const AddedEntry *entry = &parts->added[i];
        ok = tokenizer_place_token(tokenizer, entry->content, entry->id, path, error);
        tokenizer->token[entry->id].added = true;
        tokenizer->token[entry->id].special = entry->special;
    }
    return ok;
}

/* Added tokens are looked for in the text as it is, or, if `normalized`, as both are in NFC. */
static void tokenizer_place_added(Tokenizer *tokenizer, const TokenizerParts *parts)
{
    for (size_t i = 0; i < parts->n_added; i++) {
        const AddedEntry *entry = &parts->added[i];
        const unsigned char *text = (const unsigned char *)entry->content.bytes;
        size_t len = entry->content.len;
        unsigned char *normal = normal_text(&len, text, len, entry->normalized ? tokenizer : NULL);
        trie_add(&tokenizer->added[entry->normalized], normal, len, (uint32_t)entry->id);
        for (size_t at = 1; at < entry->content.len; at++)
            if ((text[at] == ' ' || text[at] == '\n') && text[at - 1] != text[at])
                tokenizer->blank_inside = true;
        free(normal);
    }
}

static bool tokenizer_place_merge(Tokenizer *tokenizer, const MergeEntry *entry, size_t rank,
                                  const char *path, Error *error)
{
    char both[2 * TOKEN_MOST_BYTES];
    size_t left_len = entry->left.len, right_len = entry->right.len;
    uint32_t left = token_find(tokenizer, entry->left.bytes, left_len);
    uint32_t right = token_find(tokenizer, entry->right.bytes, right_len), id = NO_TOKEN;
    if (left != NO_TOKEN && right != NO_TOKEN) {
        memcpy(both, entry->left.bytes, left_len);
        memcpy(both + left_len, entry->right.bytes, right_len);
        id = token_find(tokenizer, both, left_len + right_len);
    }
    if (id == NO_TOKEN)
        return fail(error, "%s: merge %zu, '%.*s' and '%.*s': %s is not in the vocabulary", path,
                    rank, left_len < 40 ? (int)left_len : 40, entry->left.bytes,
                    right_len < 40 ? (int)right_len : 40, entry->right.bytes,
                    left == NO_TOKEN    ? "the first"
                    : right == NO_TOKEN ? "the second"
                                        : "what they make");
    Merge merge = {left, right, (uint32_t)rank, id};
    *merge_place(tokenizer, left, right) = merge;
    return true;
}

static bool tokenizer_place_merges(Tokenizer *tokenizer, const TokenizerParts *parts,
                                   const char *path, Error *error)
{
    bool ok = true;
    tokenizer->n_merge = table_room(parts->n_merge);
    tokenizer->merge = NEW(Merge, tokenizer->n_merge);
    memset(tokenizer->merge, 0xFF, tokenizer->n_merge * sizeof *tokenizer->merge);
    for (size_t i = 0; ok && i < parts->n_merge; i++)
        ok = tokenizer_place_merge(tokenizer, &parts->merge[i], i, path, error);
    memset(tokenizer->of_byte, 0xFF, sizeof tokenizer->of_byte);
    for (uint32_t code = 0; code < 0x200; code++) {
        unsigned char text[4];
        int byte = byte_of_stand_in(code);
        if (byte >= 0)
            tokenizer->of_byte[byte] =
                token_find(tokenizer, (const char *)text, utf8_encode(text, code));
    }
    return ok;
}

/* Whether every id that goes round a text is a token. */
static bool frame_fits(const Frame *frame, const Tokenizer *tokenizer, const char *path,
                       Error *error)
{
    for (size_t i = 0; i < frame->count; i++)
        if (frame->id[i] >= tokenizer->n_token || tokenizer->token[frame->id[i]].text == NULL)
            return fail(error, "%s: post_processor: there is no token of id %u", path,
                        (unsigned)frame->id[i]);
    return true;
}

static bool tokenizer_build(Tokenizer *tokenizer, const TokenizerParts *parts, const char *path,
                            Error *error)
{
    JsonText model = parts->model, untyped = {"BPE", 3};
    if (model.bytes == NULL && parts->untyped_merges)
        model = untyped; /* as the first versions wrote it */
    if (model.bytes == NULL || parts->n_vocab == 0)
        return fail(error, "%s: there is no model with a type and a vocabulary in it", path);
    tokenizer->words = json_is(model, "WordLevel");
    tokenizer->nfc = parts->nfc;
    tokenizer->lowercase = parts->lowercase;
    tokenizer->fuse_unknown = parts->fuse_unknown;
    tokenizer->whole_first = parts->whole_first;
    tokenizer->begin = parts->begin;
    tokenizer->end = parts->end;
    tokenizer->unknown = NO_TOKEN;
    tokenizer->stages = parts->stages;
    bool byte_level = false;
    for (size_t i = 0; i < parts->stages.count; i++)
        byte_level = byte_level || parts->stages.stage[i].kind == STAGE_BYTES;
    if (parts->stages.count == 0 || byte_level == tokenizer->words)
        return fail(error, "%s: a %s model goes with the pre_tokenizer %s", path,
                    tokenizer->words ? "WordLevel" : "BPE",
                    tokenizer->words ? "Whitespace or WhitespaceSplit" : "ByteLevel");
    if (!tokenizer_place_tokens(tokenizer, parts, path, error))
        return false;
    tokenizer_place_added(tokenizer, parts);
    if (parts->unknown.bytes != NULL)
        tokenizer->unknown = token_find(tokenizer, parts->unknown.bytes, parts->unknown.len);
    if (!tokenizer->words && parts->unknown.bytes != NULL && tokenizer->unknown == NO_TOKEN)
        return fail(error, "%s: the unknown token '%s' is not in the vocabulary", path,
                    shown_name(parts->unknown.bytes).text);
    if (!frame_fits(&tokenizer->begin, tokenizer, path, error) ||
        !frame_fits(&tokenizer->end, tokenizer, path, error))
        return false;
    return tokenizer->words || tokenizer_place_merges(tokenizer, parts, path, error);
}

void tokenizer_free(Tokenizer *tokenizer)
{
    for (size_t i = 0; i < tokenizer->n_token && tokenizer->token != NULL; i++)
        free(tokenizer->token[i].bytes);
    free(tokenizer->token), free(tokenizer->place), free(tokenizer->merge);
    free(tokenizer->added[0].node), free(tokenizer->added[1].node);
    free(tokenizer->strings);
    memset(tokenizer, 0, sizeof *tokenizer);
}

/* A tokenizer from the JSON of a tokenizer.json (len bytes); tokenizer_free when done. */
bool tokenizer_from_json(Tokenizer *tokenizer, const char *text, size_t len, const char *path,
                         Error *error)
{
    Tokenizer built;
    TokenizerParts parts;
    memset(&built, 0, sizeof built);
    memset(&parts, 0, sizeof parts);
    json_open(&parts.json, text, len, path, error);
    parts_read(&parts);
    bool ok = json_end(&parts.json) && tokenizer_build(&built, &parts, shown_path(path), error);
    built.strings = parts.json.strings; /* the texts of the tokens point in there */
    free(parts.vocab), free(parts.merge), free(parts.added);
    if (ok)
        *tokenizer = built;
    else
        tokenizer_free(&built);
    return ok;
}

bool tokenizer_read(Tokenizer *tokenizer, const char *path, Error *error)
{
    char *text;
    size_t len;
    if (!json_file_read(&text, &len, path, error))
        return false;
    bool ok = tokenizer_from_json(tokenizer, text, len, path, error);
    free(text);
    return ok;
}

#endif /* CH05_TOKENIZER_JSON */
