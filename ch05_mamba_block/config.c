/* A model's sizes, under Hugging Face's names, and the file that they come in.

   HOLDS   MambaConfig and its defaults; the reader of config.json
   FOR     mamba_block.c and what stands on it: a block is laid out by its config */

#ifndef CH05_CONFIG
#define CH05_CONFIG

#include "convolution.c"
#include "json.c"

/* Which model it is: what config.json calls its model_type. */
typedef enum {
    MODEL_MAMBA,        /* Mamba-1 */
    MODEL_FALCON_MAMBA, /* the same, but dt, B and C are each normed before they are used */
    MODEL_KINDS
} ModelKind;

static const char *const model_type_name[MODEL_KINDS] = {"mamba", "falcon_mamba"};

/* Hugging Face's config.json, as far as it concerns the mathematics; the same names. */
typedef struct {
    ModelKind kind;
    size_t hidden_size,
        intermediate_size;          /* d_model, d_inner: expand d_model, if it is not given */
    size_t state_size, conv_kernel; /* d_state, d_conv */
    size_t expand, time_step_rank;  /* dt_rank; "auto" is hidden_size / 16, rounded up */
    size_t num_hidden_layers, vocab_size;
    bool use_bias, use_conv_bias, tie_word_embeddings;
    double layer_norm_epsilon, initializer_range;
    double mixer_rms_eps;                                 /* of Falcon-Mamba's norms of dt, B, C */
    double time_step_min, time_step_max, time_step_floor; /* of the Deltas at the start */
    bool time_invariant; /* not Hugging Face's: Delta, B and C are the same for every token */
} MambaConfig;

enum {
    CONFIG_MAX_SIZE = 65536, /* hidden_size */
    CONFIG_MAX_LAYERS = 4096,
    CONFIG_MAX_VOCAB = 16777216
};

/* Hugging Face's defaults for what config.json may leave out, with d_model channels. */
MambaConfig config_default(size_t d_model)
{
    MambaConfig config;
    memset(&config, 0, sizeof config);
    config.hidden_size = d_model;
    config.expand = 2;
    config.intermediate_size = 2 * d_model;
    config.state_size = 16;
    config.conv_kernel = 4;
    config.time_step_rank = (d_model + 15) / 16;
    config.num_hidden_layers = 1;
    config.vocab_size = 256;
    config.use_conv_bias = config.tie_word_embeddings = true;
    config.layer_norm_epsilon = 1e-5;
    config.mixer_rms_eps = 1e-6;
    config.initializer_range = 0.1;
    config.time_step_min = 0.001;
    config.time_step_max = 0.1;
    config.time_step_floor = 1e-4;
    return config;
}

/* One whole number from 1 to `most`. */
static void config_size(Json *json, size_t *size, size_t most, const char *name)
{
    uint64_t value = 0;
    json->subject = name;
    if (json_integer(json, &value, most)) {
        if (value == 0)
            json_fail(json, "0 is too small");
        *size = (size_t)value;
    }
    json->subject = NULL;
}

/* What a config.json may hold: sizes, switches and numbers, by name. */
static bool config_known(Json *json, JsonText key, MambaConfig *config)
{
    struct {
        const char *name;
        size_t *size, most;
    } sizes[] = {{"hidden_size", &config->hidden_size, CONFIG_MAX_SIZE},
                 {"intermediate_size", &config->intermediate_size, 16 * CONFIG_MAX_SIZE},
                 {"state_size", &config->state_size, SCAN_MAX_STATE},
                 {"conv_kernel", &config->conv_kernel, CONV_MOST},
                 {"expand", &config->expand, 16},
                 {"num_hidden_layers", &config->num_hidden_layers, CONFIG_MAX_LAYERS},
                 {"vocab_size", &config->vocab_size, CONFIG_MAX_VOCAB}};
    struct {
        const char *name;
        bool *on;
    } switches[] = {{"use_bias", &config->use_bias},
                    {"use_conv_bias", &config->use_conv_bias},
                    {"tie_word_embeddings", &config->tie_word_embeddings}};
    struct {
        const char *name;
        double *value;
    } numbers[] = {{"layer_norm_epsilon", &config->layer_norm_epsilon},
                   {"mixer_rms_eps", &config->mixer_rms_eps},
                   {"initializer_range", &config->initializer_range},
                   {"time_step_min", &config->time_step_min},
                   {"time_step_max", &config->time_step_max},
                   {"time_step_floor", &config->time_step_floor}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (json_is(key, sizes[i].name)) {
            config_size(json, sizes[i].size, sizes[i].most, sizes[i].name);
            return true;
        }
    for (size_t i = 0; i < sizeof switches / sizeof *switches; i++)
        if (json_is(key, switches[i].name)) {
            json_boolean(json, switches[i].on); /* a mistake is kept in json */
            return true;
        }
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (json_is(key, numbers[i].name)) {
            json_number(json, numbers[i].value);
            return true;
        }
    return false;
}

/* time_step_rank is a number or "auto". */
static void config_rank(Json *json, MambaConfig *config)
{
    JsonText text = {NULL, 0};
    if (json_peek(json) != JSON_STRING)
        config_size(json, &config->time_step_rank, CONFIG_MAX_SIZE, "time_step_rank");
    else if (json_string(json, &text)) {
        config->time_step_rank = 0;
        if (!json_is(text, "auto"))
            json_fail(json, "time_step_rank is a number or \"auto\"");
    }
}

/* A word that must be this one, because nothing else is built here. */
static void config_word(Json *json, const char *name, const char *wanted)
{
    JsonText text = {NULL, 0};
    if (json_string(json, &text) && !json_is(text, wanted))
        json_fail(json, "%s is \"%.40s\"; only \"%s\" is known here", name, text.bytes, wanted);
}

/* Mamba and something else: each with attention in some of its layers. */
static const char *const hybrid_name[] = {"bamba",           "falcon_h1",  "granitemoehybrid",
                                          "jamba",           "nemotron_h", "qwen3_next",
                                          "recurrent_gemma", "zamba",      "zamba2"};

/* The word after "model_type": one of those that run here, or a sentence on what would run it. */
static void config_kind(Json *json, MambaConfig *config)
{
    JsonText text = {NULL, 0};
    if (!json_string(json, &text))
        return;
    for (int kind = 0; kind < MODEL_KINDS; kind++)
        if (json_is(text, model_type_name[kind])) {
            config->kind = (ModelKind)kind;
            return;
        }
    for (size_t i = 0; i < sizeof hybrid_name / sizeof *hybrid_name; i++)
        if (json_is(text, hybrid_name[i]))
            json_fail(json,
                      "model_type \"%s\" is a hybrid, with attention in some of its layers; "
                      "Transformers runs it, vLLM and llama.cpp run many of its kind",
                      hybrid_name[i]);
    json_fail(json, "model_type \"%s\" is not known here: \"mamba\" and \"falcon_mamba\" are",
              shown_name(text.bytes).text);
}

/* Which numbers of a config contradict each other. Where expand and intermediate_size do, Hugging
   Face goes by the second. */
static bool config_fits(MambaConfig *config, bool has_inner, const char *path, Error *error)
{
    if (!has_inner)
        config->intermediate_size = config->expand * config->hidden_size;
    if (config->time_step_rank == 0)
        config->time_step_rank = (config->hidden_size + 15) / 16;
    if (config->time_step_rank > config->intermediate_size)
        return fail(error, "%s: time_step_rank %zu is larger than intermediate_size %zu", path,
                    config->time_step_rank, config->intermediate_size);
    if (!(config->time_step_min > 0.0 && config->time_step_max >= config->time_step_min))
        return fail(error, "%s: time_step_min %g and time_step_max %g: 0 < min <= max is wanted",
                    path, config->time_step_min, config->time_step_max);
    if (!(config->layer_norm_epsilon >= 0.0))
        return fail(error, "%s: layer_norm_epsilon %g is below 0", path,
                    config->layer_norm_epsilon);
    if (!(config->mixer_rms_eps >= 0.0))
        return fail(error, "%s: mixer_rms_eps %g is below 0", path, config->mixer_rms_eps);
    return true;
}

/* A config from JSON (len bytes); `path` is for messages. What is left out has Hugging Face's
   default, but hidden_size must be there. */
bool config_parse(MambaConfig *config, const char *text, size_t len, const char *path, Error *error)
{
    MambaConfig got = config_default(1);
    bool has_inner = false;
    Json json;
    got.hidden_size = got.time_step_rank = 0;
    json_open(&json, text, len, path, error);
    json_enter_object(&json);
    for (JsonText key = {NULL, 0}; json_next_key(&json, &key);) {
        has_inner = has_inner || json_is(key, "intermediate_size");
        if (json_is(key, "time_step_rank"))
            config_rank(&json, &got);
        else if (json_is(key, "model_type"))
            config_kind(&json, &got);
        else if (json_is(key, "hidden_act"))
            config_word(&json, "hidden_act", "silu");
        else if (!config_known(&json, key, &got))
            json_skip(&json);
    }
    bool ok = json_end(&json);
    json_close(&json);
    if (ok && got.hidden_size == 0)
        ok = fail(error, "%s: there is no hidden_size in it", path);
    ok = ok && config_fits(&got, has_inner, path, error);
    if (ok)
        *config = got;
    return ok;
}

bool config_read(MambaConfig *config, const char *path, Error *error)
{
    char *text;
    size_t len;
    if (!text_read(&text, &len, path, error))
        return false;
    bool ok = config_parse(config, text, len, path, error);
    free(text);
    return ok;
}

#endif /* CH05_CONFIG */
