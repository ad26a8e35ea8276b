/* Many prompts at once: texts of different lengths, read in one row by a pretrained model.

   HOLDS   several prompts packed into the chunks that a prompt goes through the layers in, each
           with a memory of its own; a file of prompts, read so and answered one after the other
   FOR     the lesson PRACTICE.md, section "Texts of different lengths", and its tests
   BUILD   cc -O2 ch05_mamba_block/prompts.c -o prompts -lm && ./prompts data/prompts.txt */

#ifndef CH05_PROMPTS
#define CH05_PROMPTS

#include "pretrained.c"

/* ====================================== In one row ========================================= */

/* Prompts of different lengths, one after the other: prompt i is the tokens ids[at.start[i]] ..
   ids[at.start[i + 1] - 1], at least one, and goes into memory[i]. */
typedef struct {
    Memory *memory;
    const uint32_t *ids;
    Packed at;
} PromptBatch;

/* One layer's states of all prompts, out of their memories or, `back`, into them: all->conv (count,
   conv_floats), all->x (count, d_inner, d_state). */
static void batch_states(const BlockState *all, const PromptBatch *batch, size_t layer,
                         const MambaConfig *config, bool back)
{
    size_t conv = conv_floats(config), x = config->intermediate_size * config->state_size;
    for (size_t i = 0; i < batch->at.count; i++) {
        float *kept = batch->memory[i].conv + layer * conv, *here = all->conv + i * conv;
        memcpy(back ? kept : here, back ? here : kept, conv * sizeof(float));
        states_turn(all->x + i * x, batch->memory[i].x + layer * x_floats(config), config, back);
    }
}

/* At most PROMPT_CHUNK tokens of all prompts together: runner_chunk for several. Each weight is
   read once for all; what looks back, convolution and scan, looks into a prompt's own memory. */
static void runner_packed(Runner *run, const PromptBatch *batch)
{
    const Pretrained *model = run->model;
    const MambaConfig *config = &model->config;
    size_t d_model = config->hidden_size, count = batch->at.count, len = batch->at.start[count];
    size_t conv = conv_floats(config), x = config->intermediate_size * config->state_size;
    assert(len <= PROMPT_CHUNK);
    float *state = NEW(float, count *(conv + x));
    BlockState all = {state, state + count * conv};
    runner_room(run, len);
    layer_cache_place(&run->cache, run->cache_memory, &model->layer[0].block, 1, len, false);
    for (size_t t = 0; t < len; t++)
        weight_rows_to_float(run->rows + t * d_model, &model->embeddings, batch->ids[t], 1);
    for (size_t layer = 0; layer < config->num_hidden_layers; layer++) {
        MambaBlock block = layer_as_floats(run, &model->layer[layer]);
        layer_pack(&run->cache, &batch->at, &block);
        batch_states(&all, batch, layer, config, false);
        layer_forward(run->rows, &run->cache, &all, run->rows, &block);
        batch_states(&all, batch, layer, config, true);
    }
    rms_norm_forward(run->final, run->scale, run->rows, model->norm_f, config->layer_norm_epsilon,
                     len, d_model);
    for (size_t i = 0; i < count; i++) {
        size_t end = batch->at.start[i + 1];
        memcpy(batch->memory[i].final, run->final + (end - 1) * d_model, d_model * sizeof(float));
        batch->memory[i].count += end - batch->at.start[i];
    }
    free(state);
}

/* All prompts into their memories, as many at a time as make no more than PROMPT_CHUNK tokens. A
   long one goes alone; so does each of a Mamba-2, whose block knows of no packing. */
void runner_feed_batch(Runner *run, const PromptBatch *batch)
{
    const size_t *at = batch->at.start;
    size_t *start = NEW(size_t, batch->at.count + 1);
    for (size_t first = 0, end; first < batch->at.count; first = end) {
        end = first + 1;
        while (end < batch->at.count && at[end + 1] - at[first] <= PROMPT_CHUNK)
            end++;
        if (end == first + 1 || layer_has_heads(&run->model->config)) {
            end = first + 1;
            runner_feed(run, &batch->memory[first], batch->ids + at[first], at[end] - at[first],
                        false);
            continue;
        }
        for (size_t i = first; i <= end; i++)
            start[i - first] = at[i] - at[first];
        PromptBatch part = {batch->memory + first, batch->ids + at[first], {end - first, start}};
        runner_packed(run, &part);
    }
    free(start);
}

/* ======================================= Program =========================================== */

/* The prompts of a file, one a line: their ids, and where each begins. */
static bool prompts_read(Ids *ids, Packed *at, const Tokenizer *tokenizer, const char *path,
                         Error *error)
{
    char *bytes;
    size_t len;
    Error why;
    if (!text_read_plain(&bytes, &len, path, error))
        return false;
    bool ok = true;
    at->start = NEW(size_t, len + 2);
    for (size_t from = 0, line = 1, end; ok && from < len; from = end + 1, line++) {
        for (end = from; end < len && bytes[end] != '\n'; end++)
            continue;
        Text text = {bytes + from, end - from, 0}; /* a line of the file's, not to be freed */
        at->start[at->count] = ids->count;
        if (text.len > 0 && !prompt_encode(ids, tokenizer, &text, true, false, &why))
            ok = fail(error, "%s:%zu: %s", shown_path(path), line, why.text);
        at->count += ids->count > at->start[at->count];
    }
    at->start[at->count] = ids->count;
    if (ok && at->count == 0)
        ok = fail(error, "%s: there is no prompt in it", shown_path(path));
    free(bytes);
    return ok;
}

/* What follows prompt i, behind the prompt itself. */
static bool prompt_answer(Runner *run, const PromptBatch *batch, size_t i, size_t most,
                          Error *error)
{
    const Pretrained *model = run->model;
    AnswerSettings settings = {most, model->folder.generation.usual, NULL, 0, false};
    Conversation talk = {run, batch->memory[i], sampler_new(model->config.vocab_size),
                         random_from_seed(1)};
    Stream prompt = stream_to(stdout, &model->folder.tokenizer, NULL, 0);
    for (size_t t = batch->at.start[i]; t < batch->at.start[i + 1]; t++) {
        sampler_see(&talk.sampler, batch->ids[t]);
        stream_add(&prompt, batch->ids[t], t == batch->at.start[i]);
    }
    stream_end(&prompt);
    runner_logits(run, &talk.memory);
    answer(&talk, &settings, stdout);
    putchar('\n');
    sampler_free(&talk.sampler);
    return runner_check(run, &talk.memory, error);
}

/* Reads all of them together, and then answers one after the other. */
static bool run_prompts(Runner *run, const char *path, size_t most, Error *error)
{
    Ids ids = {NULL, 0, 0, 0};
    Packed at = {0, NULL};
    if (!prompts_read(&ids, &at, &run->model->folder.tokenizer, path, error)) {
        free(at.start), ids_free(&ids);
        return false;
    }
    Memory *memory = NEW(Memory, at.count);
    PromptBatch batch = {memory, ids.id, at};
    for (size_t i = 0; i < at.count; i++)
        memory[i] = memory_new(&run->model->config);
    double start = seconds_now();
    bool ok = true;
    runner_feed_batch(run, &batch);
    fprintf(stderr, "%zu prompt%s, %zu tokens, %.0f a second\n", at.count, at.count == 1 ? "" : "s",
            ids.count, (double)ids.count / (seconds_now() - start));
    for (size_t i = 0; ok && i < at.count; i++)
        ok = prompt_answer(run, &batch, i, most, error);
    for (size_t i = 0; i < at.count; i++)
        memory_free(&memory[i]);
    free(memory), free(at.start);
    ids_free(&ids);
    return ok;
}

int prompts_main(int argc, char **argv)
{
    const char *path = "data/prompts.txt", *dir = "data/tiny-mamba";
    uint64_t most = 64;
    const Option table[] = {
        {"FILE", "", OPTION_ARGUMENT, 0, 0, &path, "-",
         "prompts, one a line (default data/prompts.txt)"},
        {"model", "DIR", OPTION_TEXT, 0, 0, &dir, "-",
         "a folder as Hugging Face has it (default data/tiny-mamba)"},
        {"n", "N", OPTION_WHOLE, 1, 1e9, &most, "-", "at most N tokens each (default 64)"},
    };
    const Program program = {"ch05_prompts",
                             "Reads many prompts together with a pretrained model, and answers "
                             "each (chapter 5a in practice).",
                             table, sizeof table / sizeof *table};
    int status;
    if (!program_begin(&status, &program, argc, argv))
        return status;
    Error error;
    Pretrained model;
    signal(SIGBUS, on_lost_file);
    if (!pretrained_open(&model, dir, NULL, 0, &error))
        return program_end(false, &error);
    print_notes(&model.folder.notes);
    Runner run = runner_new(&model);
    bool ok =
        model.folder.has_tokenizer
            ? run_prompts(&run, path, (size_t)most, &error)
            : fail(&error, "%s: there is no tokenizer.json for prompts of words", shown_path(dir));
    ok = ok && shards_are_unchanged(&model.folder.shards, &error);
    runner_free(&run);
    pretrained_close(&model);
    return program_end(ok, &error);
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return prompts_main(argc, argv);
}
#endif

#endif /* CH05_PROMPTS */
