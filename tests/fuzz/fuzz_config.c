/* The reader of config.json (chapter 5) on any bytes; what it accepts must be within its limits. */

#include "../../ch05_mamba_block/layers.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    MambaConfig config;
    TensorShape shapes[BLOCK_TENSORS];
    Error error;
    if (!config_parse(&config, (const char *)data, size, "config.json", &error))
        return 0;
    if (config.hidden_size > CONFIG_MAX_SIZE || config.conv_kernel > CONV_MOST ||
        config.vocab_size > CONFIG_MAX_VOCAB || config.state_size > SCAN_MAX_STATE ||
        config.time_step_rank > config.intermediate_size)
        abort();
    if (layer_has_heads(&config) &&
        (config.num_heads * config.head_dim != config.intermediate_size ||
         config.num_heads % config.n_groups != 0 || config.chunk_size == 0))
        abort();
    layer_shapes(shapes, &config);
    size_t count = 0;
    for (int i = 0; i < BLOCK_TENSORS; i++)
        count += shapes[i].count;
    if (layer_params_floats(&config) < count)
        abort();
    return 0;
}
