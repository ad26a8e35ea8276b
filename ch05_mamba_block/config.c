/* A model's sizes, under Hugging Face's names, and the file that they come in.

   HOLDS   MambaConfig and its defaults; the reader of config.json, as Hugging Face writes it and as
           the first published models had it (state-spaces)
   FOR     mamba_block.c and what stands on it: a block is laid out by its config */

#ifndef CH05_CONFIG
#define CH05_CONFIG

#include "convolution.c"
#include "json.c"

/* Which model it is: what config.json calls its model_type. */
typedef enum {
    MODEL_MAMBA,        /* Mamba-1 */
    MODEL_FALCON_MAMBA, /* the same, but dt, B and C are each normed before they are used */
    MODEL_MAMBA2,       /* one A a head: mamba2_block.c */
    MODEL_KINDS,
    MODEL_MAMBA3 = MODEL_KINDS, /* a state that turns: mamba3_block.c; trained, never in a folder */
    MODEL_ATTENTION, /* and a Transformer's two layers, beside Mamba's: transformer_block.c */
    MODEL_MLP
} ModelKind;

enum { STACK_MOST = 15 }; /* layers of a stack of several kinds */

static const char *const model_type_name[MODEL_KINDS] = {"mamba", "falcon_mamba", "mamba2"};

/* Hugging Face's config.json, as far as it concerns the mathematics; the same names. */
typedef struct {
    ModelKind kind;
    bool use_bias, use_conv_bias, tie_word_embeddings;
    unsigned
        fixed; /* not Hugging Face's: what of Delta, B, C is the same for every token: fixed.c */
    size_t hidden_size,
        intermediate_size;          /* d_model, d_inner: expand d_model, if it is not given */
    size_t state_size, conv_kernel; /* d_state, d_conv */
    size_t expand, time_step_rank;  /* dt_rank; "auto" is hidden_size / 16, rounded up */
    size_t num_hidden_layers, vocab_size;
    double layer_norm_epsilon, initializer_range;
    double mixer_rms_eps;                                 /* of Falcon-Mamba's norms of dt, B, C */
    double time_step_min, time_step_max, time_step_floor; /* of the Deltas at the start */
    size_t num_heads, head_dim, n_groups;                 /* these and the next of Mamba-2 alone */
    size_t chunk_size;                                    /* tokens of its chunks, at most */
    double time_step_limit[2];                            /* Delta is held between these */
    size_t n_angle;             /* of Mamba-3 alone: pairs of states that turn */
    char stack[STACK_MOST + 1]; /* not Hugging Face's: a letter a layer, m, a or p, for Mamba,
                                   attention or MLP; "": all layers are of one kind */
    size_t mlp_size;            /* how wide an MLP is */
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

/* A Mamba-2 of d_model channels: heads of d_head, one group. */
MambaConfig config_default_heads(size_t d_model, size_t d_head, size_t d_state)
{
    MambaConfig config = config_default(d_model);
    config.kind = MODEL_MAMBA2;
    config.num_heads = config.intermediate_size / d_head;
    config.head_dim = d_head;
    config.state_size = d_state;
    config.n_groups = 1;
    config.chunk_size = 256;
    config.time_step_limit[0] = 0.0;
    config.time_step_limit[1] = INFINITY;
    return config;
}

/* A Mamba-3: the same, and n_angle pairs of states turn. */
MambaConfig config_default_turning(size_t d_model, size_t d_head, size_t d_state, size_t n_angle)
{
    MambaConfig config = config_default_heads(d_model, d_head, d_state);
    config.kind = MODEL_MAMBA3;
    config.n_angle = n_angle;
    return config;
}

/* Channels that go through a layer's convolution: u, and in Mamba-2 B and C of every group. */
size_t config_conv_width(const MambaConfig *config)
{
    size_t shared = config->kind == MODEL_MAMBA2 ? config->n_groups * config->state_size : 0;
    return config->intermediate_size + 2 * shared;
}

/* Hugging Face's defaults for what a config.json of this kind may leave out. */
static MambaConfig config_left_out(ModelKind kind)
{
    MambaConfig config =
        kind == MODEL_MAMBA2 ? config_default_heads(64, 64, 128) : config_default(1);
    config.kind = kind;
    config.hidden_size = config.time_step_rank = 0;
    config.vocab_size = kind == MODEL_MAMBA2 ? 32768 : 50280;
    config.num_hidden_layers = kind == MODEL_MAMBA2 ? 64 : 32;
    if (kind == MODEL_MAMBA2) {
        config.n_groups = 8;
        config.num_heads = 0; /* as many as there is room for */
        config.tie_word_embeddings = false;
    }
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
                 {"num_heads", &config->num_heads, 16 * CONFIG_MAX_SIZE},
                 {"head_dim", &config->head_dim, 16 * CONFIG_MAX_SIZE},
                 {"n_groups", &config->n_groups, CONFIG_MAX_SIZE},
                 {"chunk_size", &config->chunk_size, CONFIG_MAX_SIZE},
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

/* A number or infinity: some versions write Infinity, others {"__float__": "Infinity"}. */
static void config_limit(Json *json, double *limit)
{
    JsonText text = {NULL, 0};
    if (json_peek(json) != JSON_OBJECT) {
        json_number_any(json, limit);
        return;
    }
    json_enter_object(json);
    while (json_next_key(json, &text)) {
        if (!json_is(text, "__float__"))
            json_fail(json, "a number or {\"__float__\": \"Infinity\"} is wanted");
        else if (json_string(json, &text) && !json_is(text, "Infinity"))
            json_fail(json, "'%s' is no limit", shown_name(text.bytes).text);
        else
            *limit = INFINITY;
    }
}

/* time_step_limit: [least, most]. */
static void config_limits(Json *json, MambaConfig *config, const char *name)
{
    size_t count = 0;
    json->subject = name;
    json_enter_array(json);
    for (; json_next_item(json); count++) {
        if (count < 2)
            config_limit(json, &config->time_step_limit[count]);
        else
            json_skip(json);
    }
    if (count != 2)
        json_fail(json, "two numbers are wanted, not %zu", count);
    json->subject = NULL;
}

/* hidden_act is silu, which is called swish too, because nothing else is built here. */
static void config_act(Json *json)
{
    JsonText text = {NULL, 0};
    if (json_string(json, &text) && !json_is(text, "silu") && !json_is(text, "swish"))
        json_fail(json, "hidden_act is \"%s\"; only \"silu\" is known here",
                  shown_name(text.bytes).text);
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
    json_fail(json,
              "model_type \"%s\" is not known here: \"mamba\", \"falcon_mamba\" and \"mamba2\" are",
              shown_name(text.bytes).text);
}

/* Which numbers of a Mamba-2's config contradict each other. Its inner width is always expand
   hidden_size. */
static bool config_heads_fit(MambaConfig *config, const char *path, Error *error)
{
    size_t inner = config->expand * config->hidden_size;
    const double *limit = config->time_step_limit;
    config->intermediate_size = inner;
    if (config->num_heads == 0)
        config->num_heads = (inner + config->head_dim - 1) / config->head_dim;
    if (config->num_heads * config->head_dim != inner)
        return fail(error,
                    "%s: num_heads %zu of head_dim %zu are %zu channels, but expand %zu times "
                    "hidden_size %zu is %zu",
                    path, config->num_heads, config->head_dim, config->num_heads * config->head_dim,
                    config->expand, config->hidden_size, inner);
    if (config->num_heads % config->n_groups != 0)
        return fail(error, "%s: n_groups %zu does not divide num_heads %zu", path, config->n_groups,
                    config->num_heads);
    if (!(limit[0] >= 0.0 && limit[1] >= limit[0]))
        return fail(error, "%s: time_step_limit %g to %g: 0 <= least <= most is wanted", path,
                    limit[0], limit[1]);
    return true;
}

/* Which numbers of a config contradict each other. Where expand and intermediate_size do, Hugging
   Face goes by the second. */
static bool config_fits(MambaConfig *config, bool has_inner, const char *path, Error *error)
{
    if (!has_inner)
        config->intermediate_size = config->expand * config->hidden_size;
    if (config->time_step_rank == 0)
        config->time_step_rank = (config->hidden_size + 15) / 16;
    if (config->kind == MODEL_MAMBA2 && !config_heads_fit(config, path, error))
        return false;
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

/* ================================== The original layout ==================================== */
/* The first published models (state-spaces/mamba-130m and its like, without -hf) have a config.json
   of their own: the names of mamba_ssm's MambaConfig, and in ssm_cfg those of its class Mamba. */

typedef struct {
    MambaConfig config;
    size_t pad;    /* the vocabulary is filled up to a multiple of this */
    bool rms_norm; /* false: LayerNorm, which is not built here */
} OriginalConfig;

/* The defaults of mamba_ssm's classes Mamba and Mamba2. */
static MambaConfig original_left_out(ModelKind kind)
{
    MambaConfig config = config_left_out(kind);
    config.tie_word_embeddings = true;
    config.n_groups = kind == MODEL_MAMBA2 ? 1 : 0;
    return config;
}

/* A switch of Mamba2 that must stand as all published models have it. */
static void original_switch(Json *json, JsonText key, bool wanted)
{
    bool on = wanted;
    if (json_boolean(json, &on) && on != wanted)
        json_fail(json, "ssm_cfg: %s is %s, which is not known here", shown_name(key.bytes).text,
                  on ? "true" : "false");
}

/* What ssm_cfg says of a Mamba2 besides; false: nothing that is known. */
static bool original_heads(Json *json, JsonText key, MambaConfig *config)
{
    if (json_is(key, "headdim"))
        config_size(json, &config->head_dim, 16 * CONFIG_MAX_SIZE, "headdim");
    else if (json_is(key, "ngroups"))
        config_size(json, &config->n_groups, CONFIG_MAX_SIZE, "ngroups");
    else if (json_is(key, "chunk_size"))
        config_size(json, &config->chunk_size, CONFIG_MAX_SIZE, "chunk_size");
    else if (json_is(key, "dt_limit"))
        config_limits(json, config, "dt_limit");
    else if (json_is(key, "rmsnorm") || json_is(key, "norm_before_gate") ||
             json_is(key, "D_has_hdim"))
        original_switch(json, key, json_is(key, "rmsnorm"));
    else
        return false;
    return true;
}

/* ssm_cfg: the sizes of a block; what concerns only its first weights is left out. */
static void original_block(Json *json, MambaConfig *config)
{
    JsonText layer = {NULL, 0};
    json_enter_object(json);
    for (JsonText key = {NULL, 0}; json_next_key(json, &key);) {
        if (json_is(key, "d_state"))
            config_size(json, &config->state_size, SCAN_MAX_STATE, "d_state");
        else if (json_is(key, "d_conv"))
            config_size(json, &config->conv_kernel, CONV_MOST, "d_conv");
        else if (json_is(key, "expand"))
            config_size(json, &config->expand, 16, "expand");
        else if (json_is(key, "dt_rank"))
            config_rank(json, config);
        else if (json_is(key, "conv_bias"))
            json_boolean(json, &config->use_conv_bias);
        else if (json_is(key, "bias"))
            json_boolean(json, &config->use_bias);
        else if (original_heads(json, key, config))
            continue;
        else if (!json_is(key, "layer"))
            json_skip(json);
        else if (json_string(json, &layer)) {
            config->kind = json_is(layer, "Mamba2") ? MODEL_MAMBA2 : MODEL_MAMBA;
            if (config->kind == MODEL_MAMBA && !json_is(layer, "Mamba1"))
                json_fail(json,
                          "ssm_cfg: a layer \"%s\" is not known here: \"Mamba1\" and "
                          "\"Mamba2\" are",
                          shown_name(layer.bytes).text);
        }
    }
}

/* Reads what stands under one of the original names; false: it is none of them. */
static bool original_known(Json *json, JsonText key, OriginalConfig *original)
{
    MambaConfig *config = &original->config;
    uint64_t width = 0;
    if (json_is(key, "d_model"))
        config_size(json, &config->hidden_size, CONFIG_MAX_SIZE, "d_model");
    else if (json_is(key, "n_layer"))
        config_size(json, &config->num_hidden_layers, CONFIG_MAX_LAYERS, "n_layer");
    else if (json_is(key, "pad_vocab_size_multiple"))
        config_size(json, &original->pad, CONFIG_MAX_SIZE, "pad_vocab_size_multiple");
    else if (json_is(key, "tie_embeddings"))
        json_boolean(json, &config->tie_word_embeddings);
    else if (json_is(key, "rms_norm"))
        json_boolean(json, &original->rms_norm);
    else if (json_is(key, "ssm_cfg") && json_peek(json) == JSON_OBJECT)
        original_block(json, config);
    else if (json_is(key, "d_intermediate")) {
        if (json_integer(json, &width, 16 * CONFIG_MAX_SIZE) && width > 0)
            json_fail(json, "d_intermediate: layers with an MLP are not known here");
    } else if (json_is(key, "attn_layer_idx") && json_peek(json) == JSON_ARRAY) {
        for (json_enter_array(json); json_next_item(json); json_skip(json))
            json_fail(json, "attn_layer_idx: a hybrid, with attention in some of its layers, is "
                            "not known here; mamba_ssm runs it");
    } else
        return false;
    return true;
}

/* A config of the original layout, whose vocabulary Hugging Face's reader has found. */
static bool original_take(MambaConfig *config, const OriginalConfig *original, const char *path,
                          Error *error)
{
    size_t vocab = config->vocab_size, pad = original->pad;
    if (!original->rms_norm)
        return fail(error, "%s: rms_norm is false: LayerNorm is not known here", path);
    *config = original->config;
    config->vocab_size = (vocab + pad - 1) / pad * pad;
    return config->vocab_size <= CONFIG_MAX_VOCAB ||
           fail(error, "%s: vocab_size %zu in multiples of %zu is over the limit of %d", path,
                vocab, pad, CONFIG_MAX_VOCAB);
}

/* ========================================= All of it ======================================= */

/* What a config.json says of its model's kind, in either layout: read first, for what is left out
   depends on it. Where it says both, they must agree. */
static bool config_parse_kind(ModelKind *kind, const char *text, size_t len, const char *path,
                              Error *error)
{
    MambaConfig named = config_default(1), built = config_default(1);
    Json json;
    named.kind = built.kind = MODEL_KINDS; /* nothing was said */
    json_open(&json, text, len, path, error);
    json.python = true;
    json_enter_object(&json);
    for (JsonText key = {NULL, 0}; json_next_key(&json, &key);) {
        if (json_is(key, "model_type"))
            config_kind(&json, &named);
        else if (json_is(key, "ssm_cfg") && json_peek(&json) == JSON_OBJECT)
            original_block(&json, &built);
        else
            json_skip(&json);
    }
    bool ok = json_end(&json);
    json_close(&json);
    if (ok && named.kind != MODEL_KINDS && built.kind != MODEL_KINDS &&
        (named.kind == MODEL_MAMBA2) != (built.kind == MODEL_MAMBA2))
        return fail(error, "%s: model_type is \"%s\", but the layer of ssm_cfg is \"%s\"", path,
                    model_type_name[named.kind], built.kind == MODEL_MAMBA2 ? "Mamba2" : "Mamba1");
    *kind = named.kind != MODEL_KINDS ? named.kind : built.kind;
    if (*kind == MODEL_KINDS)
        *kind = MODEL_MAMBA;
    return ok;
}

/* A config from JSON (len bytes); `path` is for messages. What is left out has the default of who
   wrote it, but hidden_size, or d_model, must be there. */
bool config_parse(MambaConfig *config, const char *text, size_t len, const char *path, Error *error)
{
    MambaConfig got;
    bool has_inner = false;
    Json json;
    ModelKind kind = MODEL_MAMBA;
    if (!config_parse_kind(&kind, text, len, path, error))
        return false;
    got = config_left_out(kind);
    OriginalConfig original = {original_left_out(kind), 1, true};
    json_open(&json, text, len, path, error);
    json.python = true;
    json_enter_object(&json);
    for (JsonText key = {NULL, 0}; json_next_key(&json, &key);) {
        has_inner = has_inner || json_is(key, "intermediate_size");
        if (json_is(key, "time_step_rank"))
            config_rank(&json, &got);
        else if (json_is(key, "time_step_limit"))
            config_limits(&json, &got, "time_step_limit");
        else if (json_is(key, "hidden_act"))
            config_act(&json);
        else if (!config_known(&json, key, &got) && !original_known(&json, key, &original))
            json_skip(&json);
    }
    bool ok = json_end(&json), is_original = got.hidden_size == 0;
    json_close(&json);
    original.config.kind = kind;
    if (ok && is_original && original.config.hidden_size == 0)
        ok = fail(error, "%s: there is no hidden_size in it", path);
    if (is_original)
        ok = ok && original_take(&got, &original, path, error);
    ok = ok && config_fits(&got, has_inner && !is_original, path, error);
    if (ok)
        *config = got;
    return ok;
}

bool config_read(MambaConfig *config, const char *path, Error *error)
{
    char *text;
    size_t len;
    if (!json_file_read(&text, &len, path, error))
        return false;
    bool ok = config_parse(config, text, len, path, error);
    free(text);
    return ok;
}

#endif /* CH05_CONFIG */
