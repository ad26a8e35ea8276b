/* Texts of any length, and where the numbers break.

   HOLDS   several texts at once: padded, packed, packed with resets, against one by one; a story
           longer than any in training: what Delta and the state do; whether a state has a say in
           what comes next; the first number in a training that is none
   FOR     the sections of PRACTICE.md that have these names, LANGUAGE_MODEL.md's "What people say,
           and what the numbers say", and their tests
   BUILD   cc -O2 ch05_mamba_block/lengths.c -o lengths -lm && ./lengths */

#ifndef CH05_LENGTHS
#define CH05_LENGTHS

#include "stories_test.c"

/* =================================== Several texts at once ================================= */
/* Texts are not of one length, and a batch wants rows that are. Three ways out: fill the rows  */
/* up behind the texts, fill them up before, or put the texts into one row, one after the other. */

typedef enum {
    TEXTS_ALONE,
    PADDED_RIGHT,
    PADDED_LEFT,
    PACKED_GOING_ON,
    PACKED_WITH_RESETS,
    BATCH_WAYS
} BatchWay;

/* Some texts: text i is the tokens start[i] .. start[i + 1] - 1 of ids. */
typedef struct {
    int32_t *ids;
    Packed at;
} TextList;

static size_t list_len(const TextList *list, size_t i)
{
    return list->at.start[i + 1] - list->at.start[i];
}

/* Where text i begins in a batch whose rows have `len` tokens. */
static size_t batch_place(const TextList *list, size_t i, BatchWay way, size_t len)
{
    if (way == PADDED_RIGHT || way == PADDED_LEFT)
        return i * len + (way == PADDED_LEFT ? len - list_len(list, i) : 0);
    return list->at.start[i];
}

/* The logits of all texts (tokens, vocab), computed in this way; returns how many tokens were gone
   through for it. What fills up is the end of a text. */
static size_t batch_logits(float *logits, const TextList *list, BatchWay way, const Model *model)
{
    size_t vocab = model->config.vocab_size, count = list->at.count, longest = 0, worked = 0;
    bool pads = way == PADDED_RIGHT || way == PADDED_LEFT;
    for (size_t i = 0; i < count; i++) {
        size_t start[2] = {0, list_len(list, i)};
        TextList one = {list->ids + list->at.start[i], {1, start}};
        longest = start[1] > longest ? start[1] : longest;
        if (way == TEXTS_ALONE)
            worked += batch_logits(logits + list->at.start[i] * vocab, &one, PADDED_RIGHT, model);
    }
    if (way == TEXTS_ALONE)
        return worked;
    size_t rows = pads ? count : 1, len = pads ? longest : list->at.start[count];
    int32_t *ids = NEW(int32_t, rows * len);
    ModelWork work = model_work_new(model, rows, len, false);
    for (size_t t = 0; t < rows * len; t++)
        ids[t] = WORD_END;
    for (size_t i = 0; i < count; i++)
        memcpy(ids + batch_place(list, i, way, len), list->ids + list->at.start[i],
               list_len(list, i) * sizeof *ids);
    work.texts = way == PACKED_WITH_RESETS ? &list->at : NULL;
    model_forward(&work, NULL, ids, model);
    for (size_t i = 0; i < count; i++)
        memcpy(logits + list->at.start[i] * vocab,
               work.logits + batch_place(list, i, way, len) * vocab,
               list_len(list, i) * vocab * sizeof(float));
    free(ids);
    model_work_free(&work);
    return rows * len;
}

/* Stories as such a list, each with the end that is behind it; what `at` and `ids` point to is the
   corpus's, and start is the caller's to free. */
static TextList story_list(const Corpus *corpus)
{
    TextList list = {corpus->ids, {corpus->n_start, NEW(size_t, corpus->n_start + 1)}};
    memcpy(list.at.start, corpus->start, corpus->n_start * sizeof(size_t));
    list.at.start[corpus->n_start] = corpus->count;
    return list;
}

/* Stories of different lengths, with what they ask answered, in every way. */
static bool show_batches(const Model *model, const Vocabulary *words, Error *error)
{
    enum { STORIES = 50 };
    static const char *const name[BATCH_WAYS] = {"one by one", "padded on the right",
                                                 "padded on the left", "packed, going on",
                                                 "packed, with resets"};
    StoryKind kind = {NULL, STORIES, 0, 2, 0, 6, true, false};
    Corpus corpus;
    char *text = rainbow_stories(&kind, RAINBOW_SEED);
    bool ok = corpus_from_text(&corpus, text, strlen(text), words, 1, "stories", error);
    free(text);
    if (!ok)
        return false;
    TextList list = story_list(&corpus);
    size_t vocab = model->config.vocab_size, tokens = list.at.start[list.at.count];
    float *alone = NEW(float, tokens *vocab), *logits = NEW(float, tokens *vocab);
    size_t shortest = tokens, longest = 0;
    for (size_t i = 0; i < list.at.count; i++) {
        shortest = smaller(shortest, list_len(&list, i));
        longest = list_len(&list, i) > longest ? list_len(&list, i) : longest;
    }
    printf("%zu stories of %zu to %zu words, read in five ways\n\n"
           "                          tokens   a logit is off   answers\n"
           "                          worked        by at most     right\n",
           list.at.count, shortest, longest);
    for (int way = 0; way < BATCH_WAYS; way++) {
        float *to = way == TEXTS_ALONE ? alone : logits, worst = 0.0f;
        size_t worked = batch_logits(to, &list, (BatchWay)way, model), right = 0;
        for (size_t i = 0; i < tokens * vocab; i++)
            worst = fmaxf(worst, fabsf(to[i] - alone[i]));
        for (size_t i = 0; i < list.at.count; i++) {
            const int32_t *ids = list.ids + list.at.start[i];
            size_t len = list_len(&list, i) - 1; /* without its end */
            right += answer_is_right(to + list.at.start[i] * vocab, ids,
                                     story_answer(ids, len, words), len, vocab);
        }
        printf("  %-20s %9zu %16.3f %6zu of %zu\n", name[way], worked,
               rounded_to((double)worst, 1000.0), right, list.at.count);
    }
    free(list.at.start), free(alone), free(logits);
    corpus_free(&corpus);
    return true;
}

/* ================================= Longer than in training ================================= */
/* A recurrence runs on for ever. What it runs on with is another matter: training has shown it */
/* states of so many words, and Deltas that were right for them.                                */

/* What a layer is like in a stretch of a story: means over tokens and channels. */
typedef struct {
    double delta;  /* the mean Delta */
    double square; /* the mean square of all states */
} LayerLook;

/* How much of what a layer held after `cue` tokens is left after `end`: as exercise 5.8 has it, for
   one layer. */
static double layer_kept(const ModelWork *work, size_t layer, size_t cue, size_t end,
                         const Model *model)
{
    Scan scan = block_scan(&work->cache[layer].block, &model->block[layer], NULL);
    float *x = NEW(float, scan.d_state);
    double all = 0.0, left = 0.0;
    for (size_t d = 0; d < scan.d_inner; d++) {
        double total = 0.0;
        memset(x, 0, scan.d_state * sizeof(float));
        for (size_t t = 0; t < cue; t++)
            channel_step(x, &scan, t, d);
        for (size_t t = cue; t < end; t++)
            total += (double)step_size(&scan, t, d);
        for (size_t n = 0; n < scan.d_state; n++) {
            double held = (double)x[n] * (double)x[n];
            all += held;
            left += held * exp(total * (double)scan.A[d * scan.d_state + n]);
        }
    }
    free(x);
    return left / all;
}

/* Looks at a layer from token `first` up to `end` of a story that was read with everything kept; x
   (d_inner, d_state) goes on from stretch to stretch. */
static LayerLook layer_look(float *x, const ModelWork *work, size_t layer, size_t first, size_t end,
                            const Model *model)
{
    Scan scan = block_scan(&work->cache[layer].block, &model->block[layer], NULL);
    LayerLook look = {0.0, 0.0};
    for (size_t t = first; t < end; t++) {
        for (size_t d = 0; d < scan.d_inner; d++) {
            channel_step(x + d * scan.d_state, &scan, t, d);
            look.delta += (double)step_size(&scan, t, d);
        }
        look.square += (double)dot(x, x, scan.d_inner * scan.d_state);
    }
    look.delta /= (double)((end - first) * scan.d_inner);
    look.square /= (double)((end - first) * scan.d_inner * scan.d_state);
    return look;
}

/* Which share of its states a layer leaves nearly as they were, at the mean token: what is kept of
   them, exp(Delta A), is more than 0.99. */
static double layer_share_still(const ModelWork *work, size_t layer, const Model *model)
{
    Scan scan = block_scan(&work->cache[layer].block, &model->block[layer], NULL);
    size_t still = 0, states = scan.d_inner * scan.d_state;
    for (size_t t = 0; t < scan.len; t++)
        for (size_t i = 0; i < states; i++)
            still += expf(step_size(&scan, t, i / scan.d_state) * scan.A[i]) > 0.99f;
    return (double)still / (double)(scan.len * states);
}

/* The mean loss of tokens first .. end - 1, each guessed from those before it. */
static double loss_between(const ModelWork *work, const int32_t *ids, size_t first, size_t end,
                           const Model *model)
{
    size_t vocab = model->config.vocab_size;
    double sum = 0.0;
    for (size_t t = first > 0 ? first : 1; t < end; t++)
        sum += token_loss(work->logits + (t - 1) * vocab, vocab, (size_t)ids[t]);
    return sum / (double)(end - (first > 0 ? first : 1));
}

/* One cue, and then wandering, sentence after sentence: Delta, state and loss along the way. */
static bool show_longer(const Model *model, const Vocabulary *words, Error *error)
{
    enum { SENTENCES = 192, ROWS = 5 };
    static const size_t border[ROWS + 1] = {0, 160, 320, 640, 1280, 2000};
    StoryKind kind = {NULL, 1, 0, 0, SENTENCES, SENTENCES, true, false};
    char *text = rainbow_stories(&kind, RAINBOW_SEED);
    size_t len = strlen(text), unknown, n_layer = model->config.num_hidden_layers;
    int32_t *ids = NEW(int32_t, len + 1);
    len = text_to_tokens(ids, &unknown, text, len, words, false);
    free(text);
    if (len < border[ROWS]) {
        free(ids);
        return fail(error, "a story of %zu words is too short for this", len);
    }
    size_t cue = 1;
    while (cue < len && ids[cue - 1] != word_number(words, "."))
        cue++; /* the end of the first sentence */
    ModelWork work = model_work_new(model, 1, len, true);
    size_t states = model->config.intermediate_size * model->config.state_size;
    float *x = NEW(float, n_layer *states);
    model_forward(&work, NULL, ids, model);
    printf("One cue and %d sentences of wandering, %zu words; training knows 24 sentences,\n"
           "in pieces of 320\n\n%22s",
           SENTENCES, len, "");
    for (size_t layer = 0; layer < n_layer; layer++)
        printf("%24s%zu", "layer ", layer + 1);
    printf("\n  words           loss");
    for (size_t layer = 0; layer < n_layer; layer++)
        printf("    Delta   state    kept");
    putchar('\n');
    for (size_t row = 0; row < ROWS; row++) {
        printf("  %4zu to %4zu%8.3f", border[row] + 1, border[row + 1],
               loss_between(&work, ids, border[row], border[row + 1], model));
        for (size_t layer = 0; layer < n_layer; layer++) {
            LayerLook look =
                layer_look(x + layer * states, &work, layer, border[row], border[row + 1], model);
            printf("  %7.4f %7.3f %5.1f %%", look.delta, sqrt(look.square),
                   100.0 * layer_kept(&work, layer, cue, border[row + 1], model));
        }
        putchar('\n');
    }
    printf("\nStates of which a token leaves more than 99 %% (all are worked out):\n ");
    for (size_t layer = 0; layer < n_layer; layer++)
        printf("%s %.0f %% in layer %zu", layer > 0 ? "," : "",
               100.0 * layer_share_still(&work, layer, model), layer + 1);
    putchar('\n');
    free(ids), free(x);
    model_work_free(&work);
    return true;
}

/* =================================== Is there a loop? ====================================== */
/* A state that had a say in the next Delta would be a loop. It has none in its own layer: Delta, */
/* B and C are made of the token and of what the layers below have added to it, states and all.  */

/* How many of `count` numbers differ, and, of their mean size, by how much in the mean. */
static size_t numbers_differ(double *share, const float *a, const float *b, size_t count)
{
    size_t differ = 0;
    double size = 0.0, apart = 0.0;
    for (size_t i = 0; i < count; i++) {
        differ += a[i] != b[i];
        size += fabs((double)a[i]);
        apart += fabs((double)a[i] - (double)b[i]);
    }
    *share = apart / size;
    return differ;
}

/* The same words after nothing, and from the states that a story left: which Deltas, Bs and Cs hear
   of it, layer by layer. Only the scans' states are handed on, not the convolutions' last words. */
static void show_loop(const Model *model, const Vocabulary *words)
{
    static const char before[] = "a stranger spoke of runes .",
                      text[] = "the miller walked slowly past the old bridge . what is a rainbow ?";
    enum { MOST = 32 };
    const MambaConfig *config = &model->config;
    int32_t first[MOST], ids[MOST];
    size_t unknown, len = text_to_tokens(ids, &unknown, text, sizeof text - 1, words, false);
    size_t read = text_to_tokens(first, &unknown, before, sizeof before - 1, words, false);
    size_t inner = config->intermediate_size, d_state = config->state_size;
    float *state = NEW(float, model_state_floats(config, 1));
    ModelWork story = model_work_new(model, 1, read, false);
    ModelWork work[2] = {model_work_new(model, 1, len, true), model_work_new(model, 1, len, true)};
    model_forward(&story, state, first, model);
    for (size_t layer = 0; layer < config->num_hidden_layers; layer++) {
        size_t each = layer_state_floats(config, 1);
        zero(layer_state_place(state + layer * each, config, 1).conv,
             inner * (config->conv_kernel - 1));
    }
    model_forward(&work[0], NULL, ids, model);
    model_forward(&work[1], state, ids, model);
    printf("%zu words, read after nothing, and from the states that another story left:\n"
           "how many numbers differ, and by how much of their mean size\n\n"
           "           Delta s                 B                      C\n",
           len);
    for (size_t layer = 0; layer < config->num_hidden_layers; layer++) {
        const BlockCache *a = &work[0].cache[layer].block, *b = &work[1].cache[layer].block;
        const float *made[3][2] = {{a->dt_raw, b->dt_raw}, {a->B, b->B}, {a->C, b->C}};
        const size_t count[3] = {len * inner, len * d_state, len * d_state};
        printf("  layer %zu", layer + 1);
        for (int k = 0; k < 3; k++) {
            double share;
            size_t differ = numbers_differ(&share, made[k][0], made[k][1], count[k]);
            printf("  %4zu of %4zu %5.1f %%", differ, count[k], 100.0 * share);
        }
        putchar('\n');
    }
    model_work_free(&story), model_work_free(&work[0]), model_work_free(&work[1]);
    free(state);
}

/* ============================== The first that is no number ================================ */
/* One number that is none makes all others so, within a step: every weight hears of it. So what */
/* the loss says comes too late. The first one is found by looking in the order of computation.  */

/* A number as the table shows it. */
static void print_hazard(const char *what, double careless, double here)
{
    const double value[2] = {careless, here};
    printf("  %-52s", what);
    for (int i = 0; i < 2; i++)
        if (isnan(value[i]))
            printf(" %10s", "no number");
        else
            printf(" %10g", value[i]);
    putchar('\n');
}

/* What careless code makes of numbers that may come, and what comes of them here. */
static void print_hazards(void)
{
    volatile float hundred = 100.0f, large = 1e20f, none = 0.0f; /* not known to the compiler */
    float step = logf(1.0f + expf(hundred)), in[2] = {large, large}, one[2] = {1.0f, 1.0f};
    float out[2], scale[1];
    rms_norm_forward(out, scale, in, one, 1e-5, 1, 2);
    puts("Numbers that may come, in float                           careless       here\n");
    print_hazard("softplus(100) as log(1 + exp(100))", (double)step, (double)softplus(hundred));
    print_hazard("x = Delta B u with that Delta; then exp(-Delta) x", (double)(expf(-step) * step),
                 (double)(expf(-softplus(hundred)) * softplus(hundred)));
    print_hazard("softmax of a logit of 100: exp(100) / exp(100)",
                 (double)(expf(hundred) / expf(hundred)),
                 exp(-token_loss((const float *)&hundred, 1, 0)));
    print_hazard("AdamW, gradient 0 and no epsilon: 0 / (0 + 0)",
                 (double)(none / (sqrtf(none) + none)), (double)(none / (sqrtf(none) + 1e-8f)));
    print_hazard("the norm of (1e20, 1e20), which is (1, 1)",
                 (double)(large / sqrtf(large * large)), (double)out[0]);
}

/* One array of a layer's cache. */
typedef struct {
    const char *name;
    const float *at;
    size_t width; /* numbers a token */
} LayerBox;

/* The first number of a pass, in the order of computation, that is infinite or none; `where`
   is its layer, token and channel. False: all are finite. */
static bool first_not_finite(size_t where[3], const char **name, const ModelWork *work,
                             const Model *model)
{
    const MambaConfig *config = &model->config;
    size_t tokens = work->batch * work->len, inner = config->intermediate_size;
    for (size_t layer = 0; layer < config->num_hidden_layers; layer++) {
        const BlockCache *cache = &work->cache[layer].block;
        const LayerBox box[] = {{"the stream", hidden_at(work, model, layer), config->hidden_size},
                                {"the norm", cache->normed, config->hidden_size},
                                {"in_proj, u", cache->u_raw, inner},
                                {"in_proj, z", cache->z, inner},
                                {"the convolution", cache->conv, inner},
                                {"B", cache->B, config->state_size},
                                {"C", cache->C, config->state_size},
                                {"dt_proj", cache->dt_raw, inner},
                                {"the scan, gated", cache->gated, inner}};
        for (size_t k = 0; k < COUNT_OF(box); k++)
            for (size_t i = 0; i < tokens * box[k].width; i++)
                if (!isfinite(box[k].at[i])) {
                    where[0] = layer;
                    where[1] = i / box[k].width, where[2] = i % box[k].width;
                    *name = box[k].name;
                    return true;
                }
    }
    return false;
}

static float largest_of(const float *values, size_t count)
{
    float most = 0.0f;
    for (size_t i = 0; i < count; i++)
        most = fabsf(values[i]) > most ? fabsf(values[i]) : most;
    return most;
}

/* What went into one number of the scan: the largest of its channel's states and inputs. */
static void print_scan_inputs(const ModelWork *work, const size_t where[3], const Model *model)
{
    Scan scan = block_scan(&work->cache[where[0]].block, &model->block[where[0]], NULL);
    size_t token = where[1], d = where[2], first = token / scan.len * scan.len;
    float *x = NEW(float, scan.d_state);
    for (size_t t = first; t <= token; t++)
        channel_step(x, &scan, t, d);
    printf("    Delta %.0e, u %.0e, B up to %.0e: the states up to %.0e\n",
           (double)step_size(&scan, token, d), (double)fabsf(scan.u[token * scan.d_inner + d]),
           (double)largest_of(scan.B + token * scan.d_state, scan.d_state),
           (double)largest_of(x, scan.d_state));
    printf("    C up to %.0e, z %.0e: y silu(z) is beyond 3e38\n",
           (double)largest_of(scan.C + token * scan.d_state, scan.d_state),
           (double)scan.z[token * scan.d_inner + d]);
    free(x);
}

/* A small training without clipping at a rate that is far too high, until its loss is no number; if
   `show`, step by step, with the first number that is not finite. Returns how many steps it took, 0
   if all are finite. */
static size_t break_training(double rate, bool show)
{
    enum { STEPS = 120, BATCH = 4, LEN = 80, D_MODEL = 32 };
    const TrainSettings settings = {BATCH, LEN, STEPS, 1, rate, 0.1, 1e30, 0.0};
    Vocabulary words = rainbow_words();
    Storyteller teller = {&words, &story_to_learn};
    BatchSource source = {rainbow_fill, &teller};
    MambaConfig config = config_default(D_MODEL);
    Random random = random_from_seed(settings.seed);
    config.num_hidden_layers = 2;
    config.vocab_size = words.n_word;
    Model model = model_new(&config);
    model_init(&model, &random);
    Trainer trainer = trainer_new(&model, &settings);
    float *before = NEW(float, model_floats(&config)); /* the weights that the loss was made with */
    double loss = 0.0;
    while (trainer.adam.step < STEPS && isfinite(loss)) {
        memcpy(before, model.params.memory, model_floats(&config) * sizeof(float));
        loss = trainer_step(&trainer, &source);
        if (show)
            printf("  %4" PRIu64 " %11.1f %16.0f\n", trainer.adam.step,
                   isfinite(loss) ? loss : (double)INFINITY,
                   (double)largest_of(before, model_floats(&config)));
    }
    memcpy(model.params.memory, before, model_floats(&config) * sizeof(float));
    model_refresh(&model);
    for (size_t g = 0; g < trainer.n_group && show; g++) {
        size_t where[3];
        const char *name;
        if (!first_not_finite(where, &name, &trainer.group[g].work, &model))
            continue;
        printf("\nThe first that is not finite: layer %zu, %s, token %zu, channel %zu\n",
               where[0] + 1, name, where[1] + 1, where[2] + 1);
        if (strcmp(name, "the scan, gated") == 0)
            print_scan_inputs(&trainer.group[g].work, where, &model);
        break;
    }
    size_t broke = isfinite(loss) ? 0 : (size_t)trainer.adam.step;
    free(before);
    trainer_free(&trainer);
    model_free(&model);
    vocabulary_free(&words);
    return broke;
}

static void show_broken(void)
{
    print_hazards();
    puts("\nA training at a rate of 100, without clipping\n\n"
         "  step        loss   largest weight");
    break_training(100.0, true);
    printf("\nThe same at a rate of 0.5: %s.\n", break_training(0.5, false) == 0
                                                     ? "120 steps, and all losses are numbers"
                                                     : "it breaks too");
}

int lengths_main(int argc, char **argv)
{
    enum { BATCHES, LONGER, LOOP, BROKEN, MODES };
    bool mode[MODES] = {false, false, false, false};
    const char *folder = "data/tiny-mamba";
    const Option table[] = {
        {"batches", NULL, OPTION_SWITCH, 0, 0, &mode[BATCHES], "mode",
         "stories of different lengths at once: padded and packed"},
        {"longer", NULL, OPTION_SWITCH, 0, 0, &mode[LONGER], "mode",
         "a story longer than any in training: Delta and the state"},
        {"loop", NULL, OPTION_SWITCH, 0, 0, &mode[LOOP], "mode",
         "does a state have a say in what comes next?"},
        {"broken", NULL, OPTION_SWITCH, 0, 0, &mode[BROKEN], "mode",
         "where numbers break, and the first one of a training that does"},
        {"model", "DIR", OPTION_TEXT, 0, 0, &folder, "!broken",
         "a folder as Hugging Face has it (default data/tiny-mamba)"},
    };
    const Program program = {"ch05_lengths",
                             "Texts of any length (chapter 5a). Without options: all of it.", table,
                             sizeof table / sizeof *table};
    int status;
    if (!program_begin(&status, &program, argc, argv))
        return status;
    Error error;
    bool all = !mode[BATCHES] && !mode[LONGER] && !mode[LOOP] && !mode[BROKEN], ok = true;
    if (mode[BROKEN]) { /* which wants no model */
        show_broken();
        return program_end(true, NULL);
    }
    Model model;
    Vocabulary words;
    if (!model_open_folder(&model, &words, folder, &error))
        return program_end(false, &error);
    if (model.config.kind != MODEL_MAMBA)
        ok = fail(&error, "%s: a %s: what is shown here is for chapter 5's block", folder,
                  model_type_name[model.config.kind]);
    if (ok && all) {
        show_broken();
        putchar('\n');
    }
    if (ok && (mode[BATCHES] || all))
        ok = show_batches(&model, &words, &error);
    if (ok && all)
        putchar('\n');
    if (ok && (mode[LONGER] || all))
        ok = show_longer(&model, &words, &error);
    if (ok && all)
        putchar('\n');
    if (ok && (mode[LOOP] || all))
        show_loop(&model, &words);
    model_free(&model);
    vocabulary_free(&words);
    return program_end(ok, &error);
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return lengths_main(argc, argv);
}
#endif

#endif /* CH05_LENGTHS */
