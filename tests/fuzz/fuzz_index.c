/* Random bytes as a model.safetensors.index.json, and as a config.json for the ids in it. */

#include "../../ch05_mamba_block/model_folder.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ShardNames names;
    TextEnds ends;
    Error error;
    if (shard_names_parse(&names, (const char *)data, size, "fuzz", &error)) {
        for (size_t i = 0; i < names.count; i++)
            if (strchr(names.name[i], '/') != NULL || names.name[i][0] == '\0')
                __builtin_trap();
        shard_names_free(&names);
    }
    if (ends_parse(&ends, (const char *)data, size, "fuzz", &error) && ends.n_stop > STOP_MOST)
        __builtin_trap();
    return 0;
}
