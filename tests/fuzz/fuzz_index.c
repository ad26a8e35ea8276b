/* Random bytes as a model.safetensors.index.json, and as a generation_config.json. */

#include "../../ch05_mamba_block/model_folder.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ShardNames names;
    Generation generation;
    Error error;
    if (shard_names_parse(&names, (const char *)data, size, "fuzz", &error)) {
        for (size_t i = 0; i < names.count; i++)
            if (strchr(names.name[i], '/') != NULL || names.name[i][0] == '\0')
                __builtin_trap();
        shard_names_free(&names);
    }
    if (generation_parse(&generation, (const char *)data, size, "fuzz", &error)) {
        const Sampling *usual = &generation.usual;
        if (generation.n_stop > STOP_MOST || !(usual->temperature >= 0.0) ||
            !(usual->top_p >= 0.0) || !(usual->repetition_penalty > 0.0))
            __builtin_trap();
    }
    return 0;
}
