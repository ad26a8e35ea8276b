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
    bool special, normalized, whole_word, left_blanks, right_blanks;
} AddedEntry;

/* What a post_processor puts round a text: names of special tokens, and in one place the text. */
typedef struct {
    JsonText piece[FRAME_MOST]; /* (n_piece) bytes NULL: the text */
    JsonText name[FRAME_MOST];  /* (n_name) of a special token; Frame ids: what it stands for */
    Frame ids[FRAME_MOST];
    size_t n_piece, n_name;
} Template;

/* The steps of a decoder: the first four one after another, or one of the others alone. */
typedef enum {
    DECODE_NOTHING,
    DECODE_REPLACE,
    DECODE_SPELLED,
    DECODE_FUSE,
    DECODE_STRIP,
    DECODE_BYTES,
    DECODE_MARKS,
    DECODE_KINDS
} DecodeKind;

/* What the file says, before it is put together: its parts may come in any order. */
typedef struct {
    Json json;
    VocabEntry *vocab;
    MergeEntry *merge;
    AddedEntry *added;
    size_t n_vocab, n_merge, n_added;
    JsonText model, unknown; /* the type, and the unknown token; bytes NULL: none */
    Stages stages;
    Frame begin, end;                   /* what the post_processor puts before and after a text */
    Normalizer normalizer, token_steps; /* of a text; of each token, as the decoder has it */
    Decoder decoder;
    DecodeKind decoded; /* its last step so far */
    bool has_decoder, decodes_spelled;
    JsonText begin_mark; /* what is nothing in the first token of a text */
    bool fuse_unknown, whole_first, spells_out;
    bool untyped_merges; /* the model has merges: BPE, if no type says otherwise */
} TokenizerParts;

enum { TOKEN_MOST_BYTES = 65536, IDS_MOST = 16777216, FIELDS_MOST = 32 };

/* A field that must be false, 0, null or "", because nothing else is built here. */
static void parts_unset(Json *json, const char *name)
{
    bool flag = false;
    double number = 0.0;
    JsonText text = {"", 0};
    JsonType type = json_peek(json);
    if (type == JSON_BOOLEAN)
        json_boolean(json, &flag);
    else if (type == JSON_STRING)
        json_string(json, &text);
    else if (type == JSON_NUMBER)
        json_number(json, &number);
    else if (type == JSON_NULL)
        json_skip(json);
    else
        flag = true;
    if (flag || number != 0.0 || text.len > 0)
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

/* The fields of an object that were read. */
typedef struct {
    JsonText key[FIELDS_MOST];
    size_t count;
} Fields;

/* The next field, which stands there once: of two, Hugging Face's reader takes the last alone, and
   a list here would have the items of both. */
static bool next_field(Json *json, JsonText *key, Fields *fields)
{
    if (!json_next_key(json, key))
        return false;
    for (size_t i = 0; i < fields->count; i++)
        if (fields->key[i].len == key->len &&
            memcmp(fields->key[i].bytes, key->bytes, key->len) == 0)
            return json_fail(json, "the field '%s' stands there twice",
                             shown_name(key->bytes).text);
    if (fields->count == FIELDS_MOST)
        return json_fail(json, "more than %d fields", FIELDS_MOST);
    fields->key[fields->count++] = *key;
    return true;
}

static void added_entry(TokenizerParts *parts)
{
    Fields fields = {{{NULL, 0}}, 0};
    Json *json = &parts->json;
    AddedEntry entry = {{NULL, 0}, NO_TOKEN, false, true, false, false, false};
    json_enter_object(json);
    size_t mark = json->mark;
    for (JsonText key = {NULL, 0}; next_field(json, &key, &fields);) {
        if (json_is(key, "id"))
            json_integer(json, &entry.id, IDS_MOST - 1);
        else if (json_is(key, "content"))
            json_string(json, &entry.content);
        else if (json_is(key, "special"))
            json_boolean(json, &entry.special);
        else if (json_is(key, "normalized"))
            json_boolean(json, &entry.normalized);
        else if (json_is(key, "single_word"))
            json_boolean(json, &entry.whole_word);
        else if (json_is(key, "lstrip"))
            json_boolean(json, &entry.left_blanks);
        else if (json_is(key, "rstrip"))
            json_boolean(json, &entry.right_blanks);
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

/* Metaspace: what spaces become, and where one is put. */
typedef struct {
    JsonText mark, scheme;
    bool no_prefix; /* "add_prefix_space", as older files say it, is false */
} MarkEntry;

static bool mark_field(MarkEntry *entry, Json *json, JsonText key)
{
    bool prefix = true;
    if (json_is(key, "replacement"))
        json_string(json, &entry->mark);
    else if (json_is(key, "prepend_scheme"))
        json_string(json, &entry->scheme);
    else if (json_is(key, "add_prefix_space") && json_boolean(json, &prefix))
        entry->no_prefix = !prefix;
    else
        return false;
    return true;
}

/* Whether a text is one character. */
static bool is_character(JsonText text)
{
    return text.len > 0 &&
           character_end((const unsigned char *)text.bytes, text.len, 0) == text.len;
}

static Prepend mark_prepend(const MarkEntry *entry, Json *json)
{
    static const char *const schemes[PREPEND_SCHEMES] = {"always", "first", "never"};
    int i = 0;
    if (!is_character(entry->mark))
        json_fail(json, "Metaspace: a replacement of one character is wanted");
    if (entry->scheme.bytes == NULL)
        return entry->no_prefix ? PREPEND_NEVER : PREPEND_ALWAYS;
    while (i < PREPEND_SCHEMES && !json_is(entry->scheme, schemes[i]))
        i++;
    if (i == PREPEND_SCHEMES || (entry->no_prefix && i != PREPEND_NEVER))
        json_fail(json, "Metaspace: the prepend_scheme '%s' is not known here%s",
                  shown_name(entry->scheme.bytes).text,
                  i == PREPEND_SCHEMES ? "" : " without add_prefix_space");
    return (Prepend)i;
}

/* ---- "normalizer" and "decoder": a step, or a Sequence of steps ---- */

/* One step, whose fields may come in any order. */
typedef struct {
    JsonText type, from, to; /* "pattern" or, for Prepend, nothing; "content" or "prepend" */
    uint64_t start, stop;    /* of Strip */
    MarkEntry mark;          /* of Metaspace */
} StepEntry;

static void step_pattern(StepEntry *step, Json *json)
{
    Fields fields = {{{NULL, 0}}, 0};
    json_enter_object(json);
    for (JsonText key = {NULL, 0}; next_field(json, &key, &fields);)
        if (!json_is(key, "String"))
            json_fail(json, "to replace what is not a String is not known here");
        else
            json_string(json, &step->from);
}

static void steps_add(Normalizer *steps, Json *json, const StepEntry *step, NormalKind kind)
{
    const Replacement replace = {step->from.bytes, step->from.len, step->to.bytes, step->to.len};
    if ((kind == NORMAL_REPLACE && replace.from_len - 1 >= REPLACED_MOST) ||
        (kind >= NORMAL_PREPEND && replace.to_len - 1 >= REPLACED_MOST))
        json_fail(json, "%s: texts of 1 to %d bytes are wanted", step->type.bytes, REPLACED_MOST);
    else if (steps->count == NORMAL_MOST)
        json_fail(json, "more than %d steps", NORMAL_MOST);
    else {
        steps->step[steps->count].kind = kind;
        steps->step[steps->count++].replace = replace;
    }
}

static void parts_normalizer(TokenizerParts *parts, const StepEntry *step)
{
    static const char *const names[] = {"NFC", "Lowercase", "Prepend", "Replace"};
    size_t kind = 0;
    while (kind < TABLE_SIZE(names) && !json_is(step->type, names[kind]))
        kind++;
    if (kind < TABLE_SIZE(names))
        steps_add(&parts->normalizer, &parts->json, step, (NormalKind)kind);
    else
        json_fail(&parts->json, "normalizer '%s' is not known here",
                  shown_name(step->type.bytes).text);
}

/* Steps are known in the order in which SentencePiece's are written, or ByteLevel or Metaspace
   alone; others would write the same ids as another text. */
static void parts_decoder(TokenizerParts *parts, const StepEntry *step)
{
    static const char *const names[DECODE_KINDS] = {"",      "Replace",   "ByteFallback", "Fuse",
                                                    "Strip", "ByteLevel", "Metaspace"};
    Json *json = &parts->json;
    Decoder *decoder = &parts->decoder;
    DecodeKind last = parts->decoded, kind = DECODE_REPLACE;
    while (kind < DECODE_KINDS && !json_is(step->type, names[kind]))
        kind = (DecodeKind)(kind + 1);
    bool fits = kind == DECODE_STRIP    ? last == DECODE_FUSE
                : kind > DECODE_STRIP   ? last == DECODE_NOTHING
                : kind > DECODE_REPLACE ? last < kind
                                        : last <= kind;
    if (kind == DECODE_KINDS || !fits) {
        json_fail(json, "decoder '%s' is not known here%s", shown_name(step->type.bytes).text,
                  fits ? "" : " at this place");
        return;
    }
    parts->decoded = kind;
    parts->decodes_spelled = parts->decodes_spelled || kind == DECODE_SPELLED;
    if (kind == DECODE_REPLACE)
        steps_add(&parts->token_steps, json, step, NORMAL_REPLACE);
    if (kind == DECODE_STRIP && (step->stop > 0 || !is_character(step->to)))
        json_fail(json, "decoder Strip: one character, at the start, is known here");
    if (kind == DECODE_STRIP) {
        decoder->strip = step->to.bytes;
        decoder->strip_len = step->to.len;
        decoder->strip_most = (size_t)step->start;
    }
    if (kind == DECODE_MARKS) {
        StepEntry spaces = *step;
        spaces.from = step->mark.mark;
        spaces.to.bytes = " ";
        spaces.to.len = 1;
        if (mark_prepend(&step->mark, json) != PREPEND_NEVER)
            parts->begin_mark = step->mark.mark;
        steps_add(&parts->token_steps, json, &spaces, NORMAL_REPLACE);
    }
}

/* What "normalizer" or, with `back`, "decoder" says. */
static void parts_steps(TokenizerParts *parts, bool back, size_t depth)
{
    Fields fields = {{{NULL, 0}}, 0};
    enum { DEPTH_MOST = 4 };
    Json *json = &parts->json;
    StepEntry step;
    memset(&step, 0, sizeof step);
    step.type.bytes = "";
    if (json_peek(json) == JSON_NULL) {
        json_skip(json);
        return;
    }
    json_enter_object(json);
    parts->has_decoder = parts->has_decoder || back;
    for (JsonText key = {NULL, 0}; next_field(json, &key, &fields);) {
        if (json_is(key, "type"))
            json_string(json, &step.type);
        else if (json_is(key, back ? "decoders" : "normalizers") && depth < DEPTH_MOST) {
            json_enter_array(json);
            while (json_next_item(json))
                parts_steps(parts, back, depth + 1);
        } else if (json_is(key, "pattern"))
            step_pattern(&step, json);
        else if (json_is(key, "content") || json_is(key, "prepend"))
            json_string(json, &step.to);
        else if (json_is(key, "start"))
            json_integer(json, &step.start, TOKEN_MOST_BYTES);
        else if (json_is(key, "stop"))
            json_integer(json, &step.stop, TOKEN_MOST_BYTES);
        else if (!mark_field(&step.mark, json, key))
            json_skip(json);
    }
    if (json->failed || (json_is(step.type, "Sequence") && depth < DEPTH_MOST))
        return;
    if (back)
        parts_decoder(parts, &step);
    else
        parts_normalizer(parts, &step);
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
    MarkEntry mark;             /* of Metaspace */
    bool pattern, digits_apart; /* there is a pattern; "individual_digits" */
    bool prefix, regex, split;  /* "add_prefix_space" and "use_regex" of ByteLevel; "split" */
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

/* Spaces become marks, and a mark goes before a piece. */
static Stage stage_marking(const char *mark, size_t len, Prepend prepend)
{
    Stage stage = stage_of(STAGE_PREFIX, CUT_ISOLATED, false);
    stage.text = mark;
    stage.text_len = len;
    stage.prepend = prepend;
    return stage;
}

/* A cut before each mark, or before each run of them. */
static Stage stage_marked(const char *mark, size_t len, size_t most)
{
    Stage stage = stage_marking(mark, len, PREPEND_NEVER);
    stage.kind = STAGE_MARKED;
    stage.most = most;
    return stage;
}

/* "pattern": {"String": "x"} or {"Regex": "x+"}, the second only if it is one that is known. */
static void entry_pattern(StageEntry *entry, Json *json)
{
    Fields fields = {{{NULL, 0}}, 0};
    JsonText text = {"", 0};
    json_enter_object(json);
    for (JsonText key = {NULL, 0}; next_field(json, &key, &fields); entry->pattern = true) {
        bool regex = json_is(key, "Regex");
        size_t i = 0;
        if (!regex && !json_is(key, "String"))
            json_fail(json, "pre_tokenizer: a pattern is a String or a Regex");
        if (!json_string(json, &text))
            return;
        if (text.len == 0)
            json_fail(json, "pre_tokenizer: a pattern that is empty");
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
    bool bytes = json_is(type, "ByteLevel"), marks = json_is(type, "Metaspace");
    for (size_t i = 0; i < stages->count && (bytes || marks); i++)
        if (stages->stage[i].kind == STAGE_BYTES)
            json_fail(json, "pre_tokenizer: %s after ByteLevel, which is not known here",
                      bytes ? "a second one" : "Metaspace");
    if (bytes) {
        if (entry->prefix)
            stages_add(json, stages, stage_marking(" ", 1, PREPEND_ALWAYS));
        if (entry->regex)
            stages_add(json, stages, stage_of(STAGE_GPT2, CUT_ISOLATED, false));
        stages_add(json, stages, stage_of(STAGE_BYTES, CUT_ISOLATED, false));
    } else if (marks) {
        JsonText mark = entry->mark.mark;
        stages_add(json, stages,
                   stage_marking(mark.bytes, mark.len, mark_prepend(&entry->mark, json)));
        if (entry->split)
            stages_add(json, stages, stage_marked(mark.bytes, mark.len, 1));
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
    Fields fields = {{{NULL, 0}}, 0};
    enum { DEPTH_MOST = 4 };
    StageEntry entry;
    memset(&entry, 0, sizeof entry);
    entry.type.bytes = "";
    entry.stage = stage_of(STAGE_TEXT, CUT_ISOLATED, false);
    entry.regex = entry.split = true;
    json_enter_object(json);
    if (depth == DEPTH_MOST)
        json_fail(json, "pre_tokenizer: a Sequence inside a Sequence, %d deep", DEPTH_MOST);
    for (JsonText key = {NULL, 0}; next_field(json, &key, &fields);) {
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
        else if (json_is(key, "use_regex"))
            json_boolean(json, &entry.regex);
        else if (json_is(key, "split"))
            json_boolean(json, &entry.split);
        else if (mark_field(&entry.mark, json, key))
            entry.prefix =
                entry.prefix || (json_is(key, "add_prefix_space") && !entry.mark.no_prefix);
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
    Fields fields = {{{NULL, 0}}, 0};
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
    for (JsonText key = {NULL, 0}; next_field(json, &key, &fields);) {
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
    Fields fields = {{{NULL, 0}}, 0};
    static const char *const unset[] = {"dropout", "continuing_subword_prefix",
                                        "end_of_word_suffix", NULL};
    Json *json = &parts->json;
    const char *name = NULL;
    json_enter_object(json);
    for (JsonText key = {NULL, 0}; next_field(json, &key, &fields);) {
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
        else if (json_is(key, "byte_fallback") && json_peek(json) == JSON_BOOLEAN)
            json_boolean(json, &parts->spells_out);
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
    Fields fields = {{{NULL, 0}}, 0};
    Json *json = &parts->json;
    json_enter_object(json);
    for (JsonText key = {NULL, 0}; next_field(json, &key, &fields);) {
        JsonText version = {"", 0};
        if (json_is(key, "version")) {
            if (json_string(json, &version) && !json_is(version, "1.0"))
                json_fail(json, "version '%s' is not known here: 1.0 is",
                          shown_name(version.bytes).text);
        } else if (json_is(key, "added_tokens")) {
            json_enter_array(json);
            while (json_next_item(json))
                added_entry(parts);
        } else if (json_is(key, "normalizer"))
            parts_steps(parts, false, 0);
        else if (json_is(key, "decoder"))
            parts_steps(parts, true, 0);
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

/* The byte that <0x0A> is, or -1. */
static int byte_spelled(const unsigned char *text, size_t len)
{
    if (len != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>' || !isxdigit(text[3]) ||
        !isxdigit(text[4]))
        return -1;
    const char digits[] = {(char)text[3], (char)text[4], '\0'};
    return (int)strtol(digits, NULL, 16);
}

/* The bytes of a token's characters, if all are stand-ins of bytes. */
static bool token_set_stand_ins(Token *token, const unsigned char *text, size_t len)
{
    token->bytes = NEW(unsigned char, len + 1);
    token->n_bytes = 0;
    for (size_t at = 0, step; at < len; at += step) {
        int byte = byte_of_stand_in(utf8_decode(&step, text + at, len - at));
        if (byte < 0)
            return false;
        token->bytes[token->n_bytes++] = (unsigned char)byte;
    }
    return true;
}

/* The bytes that a token of this text stands for: those that its characters stand for, if
   `stand_ins` and all do (Hugging Face's ByteLevel decoder goes by the same rule); else the text as
   the decoder has it, or the byte that it spells. */
static void token_set_bytes(Token *token, const unsigned char *text, size_t len,
                            const TokenizerParts *parts, bool stand_ins)
{
    free(token->bytes), free(token->begin);
    token->begin = NULL;
    if (stand_ins && token_set_stand_ins(token, text, len))
        return;
    if (stand_ins)
        free(token->bytes);
    token->bytes = normal_text(&token->n_bytes, text, len, &parts->token_steps, false);
    int byte = parts->decodes_spelled ? byte_spelled(token->bytes, token->n_bytes) : -1;
    token->spelled = byte >= 0;
    if (token->spelled) {
        token->bytes[0] = (unsigned char)byte;
        token->n_bytes = 1;
    }
    if (parts->begin_mark.len > 0) {
        const Replacement nothing = {parts->begin_mark.bytes, parts->begin_mark.len, "", 0};
        token->begin = replaced_text(&token->n_begin, text, len, &nothing);
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
    size_t mask = tokenizer->n_place - 1;
    size_t at = hash_mix(hash_bytes(text.bytes, text.len, 0)) & mask;
    while (tokenizer->place[at] != NO_TOKEN)
        at = (at + 1) & mask;
    tokenizer->place[at] = (uint32_t)id;
    return true;
}

/* Added tokens that the vocabulary has not are numbered by Hugging Face's tokenizers themselves,
   one after another behind all others, whatever ids the file gives them: where it gives them
   others, there is no right answer. */
static bool added_ids_fit(const Tokenizer *tokenizer, const TokenizerParts *parts, const char *path,
                          Error *error)
{
    uint64_t next = parts->n_vocab;
    for (size_t i = 0; i < parts->n_added; i++) {
        uint64_t id = parts->added[i].id;
        bool of_model = tokenizer->token[id].of_model;
        if (!of_model && id != next)
            return fail(error,
                        "%s: the added token '%s' has the id %" PRIu64 ", but Transformers would "
                        "give it %" PRIu64 ", the next that is free",
                        path, shown_name(parts->added[i].content.bytes).text, id, next);
        next = id >= next ? id + 1 : next;
    }
    return true;
}

static bool tokenizer_place_tokens(Tokenizer *tokenizer, const TokenizerParts *parts,
                                   bool stand_ins, const char *path, Error *error)
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
    for (size_t i = 0; ok && i < parts->n_vocab; i++) {
        ok =
            tokenizer_place_token(tokenizer, parts->vocab[i].text, parts->vocab[i].id, path, error);
        tokenizer->token[parts->vocab[i].id].of_model = true;
    }
    for (size_t i = 0; ok && i < parts->n_added; i++) {
        const AddedEntry *entry = &parts->added[i];
        Token *token = &tokenizer->token[entry->id];
        ok = tokenizer_place_token(tokenizer, entry->content, entry->id, path, error);
        token->added = true;
        token->special = entry->special;
        token->whole_word = entry->whole_word;
        token->left_blanks = entry->left_blanks;
        token->right_blanks = entry->right_blanks;
    }
    ok = ok && added_ids_fit(tokenizer, parts, path, error);
    for (size_t i = 0; ok && i < tokenizer->n_token; i++) {
        Token *token = &tokenizer->token[i];
        if (token->text != NULL)
            token_set_bytes(token, (const unsigned char *)token->text, token->len, parts,
                            stand_ins);
    }
    return ok;
}

/* Whether in a text a mark for a blank, or with `blanks` one itself, comes after another
   character. */
static bool has_blank_inside(const unsigned char *text, size_t len, bool blanks)
{
    uint32_t before = ' ', code;
    for (size_t at = 0, step; at < len; at += step, before = code) {
        code = utf8_decode(&step, text + at, len - at);
        if ((code == SPACE_MARK || (blanks && (code == ' ' || code == '\n'))) && before != code &&
            at > 0)
            return true;
    }
    return false;
}

/* Added tokens are looked for in the text as it is, or, if `normalized`, as both are normalized;
   the latter also come back normalized, as from Hugging Face's tokenizers since 0.23. */
static void tokenizer_place_added(Tokenizer *tokenizer, const TokenizerParts *parts, bool stand_ins)
{
    Normalizer as_it_is;
    as_it_is.count = 0;
    for (size_t i = 0; i < parts->n_added; i++) {
        const AddedEntry *entry = &parts->added[i];
        const unsigned char *text = (const unsigned char *)entry->content.bytes;
        size_t len = entry->content.len;
        unsigned char *normal = normal_text(
            &len, text, len, entry->normalized ? &tokenizer->normalizer : &as_it_is, false);
        trie_add(&tokenizer->added[entry->normalized], normal, len, (uint32_t)entry->id);
        token_set_bytes(&tokenizer->token[entry->id], normal, len, parts, stand_ins);
        tokenizer->blank_inside = tokenizer->blank_inside || entry->whole_word ||
                                  entry->right_blanks || has_blank_inside(normal, len, true) ||
                                  has_blank_inside(text, entry->content.len, true);
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
    memset(tokenizer->spelled, 0xFF, sizeof tokenizer->spelled);
    for (uint32_t byte = 0; byte < 256; byte++) {
        unsigned char text[8];
        tokenizer->of_byte[byte] =
            model_token(tokenizer, text, utf8_encode(text, stand_in_of_byte(byte)));
        snprintf((char *)text, sizeof text, "<0x%02X>", (unsigned)byte);
        if (parts->spells_out)
            tokenizer->spelled[byte] = model_token(tokenizer, text, strlen((char *)text));
    }
    return ok;
}

/* Where spaces become U+2581 and no token has one after another character, no merge crosses from
   such a character to a mark: cut there, pieces are short, and a text may be read in parts. Any
   other way to replace texts may reach over a blank. */
static void tokenizer_cut_at_marks(Tokenizer *tokenizer)
{
    static const char mark[] = "\xE2\x96\x81";
    Stages *stages = &tokenizer->stages;
    const Normalizer *normalizer = &tokenizer->normalizer;
    size_t replaced = 0, marks = 0;
    for (size_t i = 0; i < normalizer->count; i++) {
        const Replacement *replace = &normalizer->step[i].replace;
        bool here = normalizer->step[i].kind == NORMAL_REPLACE;
        replaced += here;
        marks += here && replace->from_len == 1 && replace->from[0] == ' ' &&
                 replace->to_len == 3 && memcmp(replace->to, mark, 3) == 0;
    }
    bool by_stage = stages->count == 1 && stages->stage[0].kind == STAGE_PREFIX &&
                    stages->stage[0].text_len == 3 && memcmp(stages->stage[0].text, mark, 3) == 0;
    bool cut = replaced == marks && (by_stage || (marks > 0 && stages->count == 0)) &&
               !tokenizer->words && !tokenizer->whole_first &&
               model_token(tokenizer, (const unsigned char *)mark, 3) != NO_TOKEN;
    for (size_t i = 0; cut && i < tokenizer->n_token; i++) {
        const Token *token = &tokenizer->token[i];
        cut = !token->of_model ||
              !has_blank_inside((const unsigned char *)token->text, token->len, false);
    }
    if (cut)
        stages->stage[stages->count++] = stage_marked(mark, 3, SIZE_MAX);
    tokenizer->blank_inside = tokenizer->blank_inside || (replaced > 0 && !cut);
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
    tokenizer->normalizer = parts->normalizer;
    tokenizer->decoder = parts->decoder;
    tokenizer->fuse_unknown = parts->fuse_unknown;
    tokenizer->whole_first = parts->whole_first;
    tokenizer->begin = parts->begin;
    tokenizer->end = parts->end;
    tokenizer->unknown = NO_TOKEN;
    tokenizer->stages = parts->stages;
    bool byte_level = false;
    for (size_t i = 0; i < parts->stages.count; i++)
        byte_level = byte_level || parts->stages.stage[i].kind == STAGE_BYTES;
    if (tokenizer->words && (parts->stages.count == 0 || byte_level))
        return fail(error,
                    "%s: a WordLevel model goes with the pre_tokenizer Whitespace or "
                    "WhitespaceSplit",
                    path);
    tokenizer->decoder.blanks = !parts->has_decoder && !byte_level;
    bool stand_ins = parts->has_decoder ? parts->decoded == DECODE_BYTES : byte_level;
    if (!tokenizer_place_tokens(tokenizer, parts, stand_ins, path, error))
        return false;
    tokenizer_place_added(tokenizer, parts, stand_ins);
    if (parts->unknown.bytes != NULL)
        tokenizer->unknown = token_find(tokenizer, parts->unknown.bytes, parts->unknown.len);
    if (!tokenizer->words && parts->unknown.bytes != NULL && tokenizer->unknown == NO_TOKEN)
        return fail(error, "%s: the unknown token '%s' is not in the vocabulary", path,
                    shown_name(parts->unknown.bytes).text);
    if (!frame_fits(&tokenizer->begin, tokenizer, path, error) ||
        !frame_fits(&tokenizer->end, tokenizer, path, error))
        return false;
    if (!tokenizer->words && !tokenizer_place_merges(tokenizer, parts, path, error))
        return false;
    tokenizer_cut_at_marks(tokenizer);
    return true;
}

void tokenizer_free(Tokenizer *tokenizer)
{
    for (size_t i = 0; i < tokenizer->n_token && tokenizer->token != NULL; i++)
        free(tokenizer->token[i].bytes), free(tokenizer->token[i].begin);
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
