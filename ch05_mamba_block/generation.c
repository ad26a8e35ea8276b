/* How a published model is meant to write: which ids end a text, which one begins it, and how a
   token is drawn.

   HOLDS   what generation_config.json says of that, or in a folder without one config.json
           (Generation), and which of its settings are not known here
   FOR     model_folder.c; pretrained.c, whose options win over it
   SOURCES Hugging Face's GenerationConfig: names, and the defaults of what is left out */

#ifndef CH05_GENERATION
#define CH05_GENERATION

#include "config.c"
#include "sampling.c"

enum { STOP_MOST = 32 };

typedef struct {
    uint32_t stop[STOP_MOST]; /* (n_stop) the ids that end a text */
    size_t n_stop;
    uint32_t begin;      /* the id that begins a text; UINT32_MAX: none is named */
    Sampling usual;      /* how a token is drawn unless options say otherwise */
    const char *unknown; /* a setting that would change what is written, and is not known here */
} Generation;

/* Settings under which Transformers would write something else, and the number at which each does
   nothing. What is no number does nothing only as null, false or []. */
static const struct {
    const char *name;
    double neutral;
} generation_unknown[] = {{"num_beams", 1.0},
                          {"min_p", 0.0},
                          {"typical_p", 1.0},
                          {"top_h", 0.0},
                          {"epsilon_cutoff", 0.0},
                          {"eta_cutoff", 0.0},
                          {"penalty_alpha", 0.0},
                          {"guidance_scale", 1.0},
                          {"no_repeat_ngram_size", 0.0},
                          {"encoder_repetition_penalty", 1.0},
                          {"encoder_no_repeat_ngram_size", 0.0},
                          {"min_length", 0.0},
                          {"min_new_tokens", 0.0},
                          {"bad_words_ids", 0.0},
                          {"sequence_bias", 0.0},
                          {"suppress_tokens", 0.0},
                          {"begin_suppress_tokens", 0.0},
                          {"forced_bos_token_id", -1.0},
                          {"forced_eos_token_id", -1.0},
                          {"exponential_decay_length_penalty", 0.0},
                          {"stop_strings", 0.0},
                          {"watermarking_config", 0.0},
                          {"token_healing", 0.0},
                          {"dola_layers", 0.0},
                          {"force_words_ids", 0.0}};

enum { GENERATION_UNKNOWN = sizeof generation_unknown / sizeof *generation_unknown };

/* An id; what is below 0 stands for none. */
static void generation_id(Json *json, Generation *generation, bool begin)
{
    double id = 0.0;
    if (!json_number(json, &id) || id < 0.0)
        return;
    if (id >= CONFIG_MAX_VOCAB || id != floor(id))
        json_fail(json, "%s: %g is no id", begin ? "bos_token_id" : "eos_token_id", id);
    else if (begin)
        generation->begin = (uint32_t)id;
    else if (generation->n_stop == STOP_MOST)
        json_fail(json, "more than %d eos_token_id", STOP_MOST);
    else
        generation->stop[generation->n_stop++] = (uint32_t)id;
}

/* eos_token_id is a number or a list; null or left out, nothing ends a text. */
static void generation_stop(Json *json, Generation *generation)
{
    if (json_peek(json) == JSON_ARRAY) {
        json_enter_array(json);
        while (json_next_item(json))
            generation_id(json, generation, false);
    } else if (json_peek(json) == JSON_NUMBER)
        generation_id(json, generation, false);
    else
        json_skip(json);
}

/* A number of the draw, from `least` to `most`; null leaves it as it is. */
static void generation_number(Json *json, const char *name, double least, double most,
                              double *value)
{
    double number = 0.0;
    if (json_peek(json) != JSON_NUMBER)
        json_skip(json);
    else if (json_number(json, &number)) {
        if (number < least || number > most)
            json_fail(json, "%s: %g is not from %g to %g", name, number, least, most);
        else
            *value = number;
    }
}

/* Whether the value that comes next does nothing, under the name of generation_unknown[which]. */
static bool generation_neutral(Json *json, size_t which)
{
    double number = 0.0;
    bool on = false, empty = true;
    switch (json_peek(json)) {
    case JSON_NUMBER:
        json_number_any(json, &number);
        return number == generation_unknown[which].neutral;
    case JSON_BOOLEAN: json_boolean(json, &on); return !on;
    case JSON_ARRAY:
        for (json_enter_array(json); json_next_item(json); empty = false)
            json_skip(json);
        return empty;
    case JSON_NULL: json_skip(json); return true;
    default: json_skip(json); return false;
    }
}

/* One setting by its name; what is not among them says nothing about the words. */
static void generation_setting(Json *json, JsonText key, Generation *generation, bool *draws,
                               double *top_k)
{
    Sampling *usual = &generation->usual;
    size_t which = 0;
    while (which < GENERATION_UNKNOWN && !json_is(key, generation_unknown[which].name))
        which++;
    if (json_is(key, "bos_token_id") && json_peek(json) == JSON_NUMBER)
        generation_id(json, generation, true);
    else if (json_is(key, "eos_token_id"))
        generation_stop(json, generation);
    else if (json_is(key, "do_sample") && json_peek(json) == JSON_BOOLEAN)
        json_boolean(json, draws);
    else if (json_is(key, "temperature"))
        generation_number(json, "temperature", 0.0, 1e6, &usual->temperature);
    else if (json_is(key, "top_k"))
        generation_number(json, "top_k", 0.0, CONFIG_MAX_VOCAB, top_k);
    else if (json_is(key, "top_p"))
        generation_number(json, "top_p", 0.0, 1.0, &usual->top_p);
    else if (json_is(key, "repetition_penalty"))
        generation_number(json, "repetition_penalty", 0.01, 100.0, &usual->repetition_penalty);
    else if (which == GENERATION_UNKNOWN)
        json_skip(json);
    else if (!generation_neutral(json, which) && generation->unknown == NULL)
        generation->unknown = generation_unknown[which].name;
}

/* From the text of a generation_config.json or config.json (len bytes). Without do_sample the
   likeliest token is taken, whatever temperature, top_k and top_p are; with it, what is left out is
   as in Transformers: temperature 1, the 50 likeliest. The penalty goes for both. */
bool generation_parse(Generation *generation, const char *text, size_t len, const char *path,
                      Error *error)
{
    Generation got;
    bool draws = false;
    double top_k = 50.0;
    Json json;
    memset(&got, 0, sizeof got);
    got.begin = UINT32_MAX;
    got.usual = sampling_greedy();
    got.usual.temperature = 1.0;
    json_open(&json, text, len, path, error);
    json.python = true;
    json_enter_object(&json);
    for (JsonText key = {NULL, 0}; json_next_key(&json, &key);)
        generation_setting(&json, key, &got, &draws, &top_k);
    bool ok = json_end(&json);
    json_close(&json);
    got.usual.top_k = (size_t)top_k;
    if (!draws) {
        got.usual.temperature = 0.0;
        got.usual.top_k = 0;
        got.usual.top_p = 1.0;
    }
    if (ok)
        *generation = got;
    return ok;
}

#endif /* CH05_GENERATION */
