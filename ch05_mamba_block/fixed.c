/* An experiment: Delta, B or C that are the same for every token.

   HOLDS   which of the three are fixed, and under which names; what x_proj makes of a constant in
           place of u, and the way back
   FOR     mamba_block.c, where config->fixed is not 0; ablation.c, which trains all eight */

#ifndef CH05_FIXED
#define CH05_FIXED

#include "config.c"
#include "products.c"

/* What is fixed is learnt like the rest, and has as many parameters: x_proj reads a constant where
   it read u. That is S4's convention, in the place and of the size that selection has. */
enum { FIXED_DELTA = 1, FIXED_B = 2, FIXED_C = 4, FIXED_ALL = 7, FIXED_PARTS = 3 };

/* How many rows of x_proj make dt, B or C; their first row in *first. */
static size_t fixed_rows(size_t *first, int part, const MambaConfig *config)
{
    size_t dt_rank = config->time_step_rank, d_state = config->state_size;
    *first = part == 0 ? 0 : dt_rank + (size_t)(part - 1) * d_state;
    return part == 0 ? dt_rank : d_state;
}

/* What of made = {dt_low, B, C} is fixed, (tokens, rows) each, and dt_raw if dt_low is: made once
   more, of `constant` (tokens, d_inner). */
void fixed_forward(float *const made[FIXED_PARTS], float *dt_raw, const float *constant,
                   const float *x_proj, const float *dt_proj, size_t tokens,
                   const MambaConfig *config)
{
    size_t d_inner = config->intermediate_size, first;
    for (int part = 0; part < FIXED_PARTS; part++) {
        size_t rows = fixed_rows(&first, part, config);
        if (config->fixed >> part & 1)
            linear_forward_fast(made[part], constant, x_proj + first * d_inner, NULL, tokens,
                                d_inner, rows);
    }
    if (config->fixed & FIXED_DELTA)
        linear_forward_fast(dt_raw, made[0], dt_proj, NULL, tokens, config->time_step_rank,
                            d_inner);
}

/* Backwards, from made_grad: the gradients of these rows of x_proj, and none for u: x_dbl_grad is 0
   where x_proj read the constant. */
void fixed_backward(float *x_proj_grad, float *x_dbl_grad, float *const made_grad[FIXED_PARTS],
                    const float *constant, size_t tokens, const MambaConfig *config)
{
    size_t d_inner = config->intermediate_size, first;
    size_t narrow = config->time_step_rank + 2 * config->state_size;
    for (int part = 0; part < FIXED_PARTS; part++) {
        size_t rows = fixed_rows(&first, part, config);
        if (!(config->fixed >> part & 1))
            continue;
        linear_backward_weight_fast(x_proj_grad + first * d_inner, made_grad[part], constant,
                                    tokens, d_inner, rows);
        for (size_t t = 0; t < tokens; t++)
            zero(x_dbl_grad + t * narrow + first, rows);
    }
}

#endif /* CH05_FIXED */
