/* Random bytes as the saved state of a small model; if it is one, a token is drawn with it. */

#include "../../ch05_mamba_block/pretrained.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A model of one layer without a folder, as far as states look at it. */
static void small_model(Pretrained *model)
{
    memset(model, 0, sizeof *model);
    model->config = config_default(4);
    model->config.state_size = 2;
    model->config.conv_kernel = 2;
    model->config.vocab_size = 5;
    model->folder.print = 7;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Pretrained model;
    Safetensors file;
    Error error;
    small_model(&model);
    if (!safetensors_parse(&file, data, size, "fuzz", &error))
        return 0;
    Memory memory = memory_new(&model.config);
    Sampler sampler = sampler_new(model.config.vocab_size);
    if (memory_take(&memory, &sampler, &file, &model, &error)) {
        Random random = random_from_seed(1);
        Sampling sampling = {1.0, 2, 0.9, 1.1};
        float logits[5] = {0};
        memcpy(logits, memory.final, 4 * sizeof *logits);
        if (sampler_draw(&sampler, logits, &sampling, &random) >= 5)
            __builtin_trap();
    }
    memory_free(&memory);
    sampler_free(&sampler);
    safetensors_close(&file);
    return 0;
}
