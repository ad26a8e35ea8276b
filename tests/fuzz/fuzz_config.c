/* The reader of config.json (chapter 5) on any bytes; what it accepts must be within its limits. */

#include "../../ch05_mamba_block/mamba_block.c"

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
    block_shapes(shapes, &config);
    if (block_params_floats(&config) < block_params_count(&config))
        abort();
    return 0;
}
