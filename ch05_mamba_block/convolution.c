/* The convolution of a block and the silu after it, as fast as the processor allows.

   HOLDS   the causal convolution of every channel, forward and backward; silu and the
           gate by it, forward and backward, a vector of numbers at a time
   FOR     mamba_block.c, which has them as they are defined: conv1d_forward, conv1d_backward,
           and chapter 4's silu */

#ifndef CH05_CONVOLUTION
#define CH05_CONVOLUTION

#include "../ch04_selective/fast_scan.c"

/* ==================================== The convolution ===================================== */
/* Channels go in strips: a strip's taps and its last few inputs stay in the nearest cache.    */

enum { CONV_MOST = 16 /* d_conv */, CONV_WIDTH = 256 };

/* The inputs of time t - d_conv + 1 .. t of sequence b, from channel `first` on; what was before
   time 0 is in `past` (batch, d_conv - 1, d_inner), or 0 if that is NULL. */
static void conv1d_window(const float *in[CONV_MOST], const float *u, const float *past,
                          const float *zeros, size_t b, size_t t, size_t len, size_t d_inner,
                          size_t d_conv, size_t first)
{
    for (size_t j = 0; j < d_conv; j++) {
        bool before = t + j + 1 < d_conv;
        if (!before)
            in[j] = u + (b * len + (t + j + 1 - d_conv)) * d_inner + first;
        else
            in[j] = past == NULL ? zeros : past + (b * (d_conv - 1) + t + j) * d_inner + first;
    }
}

/* The weights of channels first .. first + width - 1 as tap[j][d]: neighbours are channels. */
static void conv1d_taps(float tap[CONV_MOST][CONV_WIDTH], const float *weight, size_t first,
                        size_t width, size_t d_conv)
{
    for (size_t d = 0; d < width; d++)
        for (size_t j = 0; j < d_conv; j++)
            tap[j][d] = weight[(first + d) * d_conv + j];
}

/* conv1d_forward, for use: the same sums in the same order. */
void conv1d_forward_fast(float *out, const float *u, const float *past, const float *zeros,
                         const float *weight, const float *bias, size_t batch, size_t len,
                         size_t d_inner, size_t d_conv)
{
    PARALLEL_FOR(collapse(2) schedule(static) if (worth_sharing_each(batch * len * d_inner)))
    for (size_t b = 0; b < batch; b++)
        for (size_t first = 0; first < d_inner; first += CONV_WIDTH) {
            float tap[CONV_MOST][CONV_WIDTH];
            const float *in[CONV_MOST];
            size_t width = smaller(d_inner - first, CONV_WIDTH);
            conv1d_taps(tap, weight, first, width, d_conv);
            for (size_t t = 0; t < len; t++) {
                float *to = out + (b * len + t) * d_inner + first;
                conv1d_window(in, u, past, zeros, b, t, len, d_inner, d_conv, first);
                for (size_t d = 0; d < width; d += LANES) {
                    size_t some = smaller(width - d, LANES);
                    Lanes sum = lanes_all(0.0f);
                    if (bias != NULL)
                        sum = lanes_load_some(bias + first + d, some);
                    for (size_t j = 0; j < d_conv; j++)
                        sum = lanes_multiply_add(lanes_load(tap[j] + d),
                                                 lanes_load_some(in[j] + d, some), sum);
                    lanes_store_some(to + d, sum, some);
                }
            }
        }
}

/* What the next piece of the sequence must know of this one: `past` becomes the last d_conv - 1
   inputs. A block remembers two things from piece to piece: these, and the scan's x. */
void conv1d_keep(float *past, const float *u, size_t batch, size_t len, size_t d_inner,
                 size_t d_conv)
{
    const float *in[CONV_MOST];
    for (size_t b = 0; b < batch; b++) {
        conv1d_window(in, u, past, NULL, b, len, len, d_inner, d_conv, 0);
        for (size_t j = 0; j + 1 < d_conv; j++) /* in[j] is no older than row j: none is lost */
            memmove(past + (b * (d_conv - 1) + j) * d_inner, in[j], d_inner * sizeof(float));
    }
}

/* What one strip's backward pass works on: tap_grad[CONV_MOST] is the bias's. */
typedef struct {
    float tap[CONV_MOST][CONV_WIDTH], tap_grad[CONV_MOST + 1][CONV_WIDTH];
    size_t width;
} ConvStrip;

/* One token's part in the gradients of taps and bias: dy and u point at it, `seen` tokens in. */
static void conv1d_taps_backward(ConvStrip *strip, const float *dy, const float *u, size_t seen,
                                 size_t d_inner, size_t d_conv)
{
    for (size_t d = 0; d < strip->width; d += LANES) {
        size_t some = smaller(strip->width - d, LANES);
        Lanes from = lanes_load_some(dy + d, some);
        float *sum = strip->tap_grad[CONV_MOST] + d;
        lanes_store(sum, lanes_load(sum) + from);
        for (size_t back = 0; back < d_conv && back <= seen; back++) {
            sum = strip->tap_grad[d_conv - 1 - back] + d;
            lanes_store(sum, lanes_multiply_add(from, lanes_load_some(u + d - back * d_inner, some),
                                                lanes_load(sum)));
        }
    }
}

/* What one token's input gets from its own output and the d_conv - 1 after it, if `left` are
   left. */
static void conv1d_input_backward(float *u_grad, const ConvStrip *strip, const float *dy,
                                  size_t left, size_t d_inner, size_t d_conv)
{
    for (size_t d = 0; d < strip->width; d += LANES) {
        size_t some = smaller(strip->width - d, LANES);
        Lanes sum = lanes_all(0.0f);
        for (size_t on = 0; on < d_conv && on <= left; on++)
            sum = lanes_multiply_add(lanes_load(strip->tap[d_conv - 1 - on] + d),
                                     lanes_load_some(dy + d + on * d_inner, some), sum);
        lanes_store_some(u_grad + d, sum, some);
    }
}

/* The part of conv1d_backward that belongs to channels first .. first + CONV_WIDTH - 1. */
static void conv1d_backward_part(float *u_grad, float *weight_grad, float *bias_grad,
                                 const float *out_grad, const float *u, const float *weight,
                                 size_t batch, size_t len, size_t d_inner, size_t d_conv,
                                 size_t first)
{
    ConvStrip strip;
    memset(&strip, 0, sizeof strip);
    strip.width = smaller(d_inner - first, CONV_WIDTH);
    conv1d_taps(strip.tap, weight, first, strip.width, d_conv);
    for (size_t b = 0; b < batch; b++)
        for (size_t t = 0; t < len; t++) {
            size_t at = (b * len + t) * d_inner + first;
            conv1d_taps_backward(&strip, out_grad + at, u + at, t, d_inner, d_conv);
            conv1d_input_backward(u_grad + at, &strip, out_grad + at, len - 1 - t, d_inner, d_conv);
        }
    for (size_t d = 0; d < strip.width; d++) {
        for (size_t j = 0; j < d_conv; j++)
            weight_grad[(first + d) * d_conv + j] = strip.tap_grad[j][d];
        if (bias_grad != NULL)
            bias_grad[first + d] = strip.tap_grad[CONV_MOST][d];
    }
}

/* conv1d_backward, for use. */
void conv1d_backward_fast(float *u_grad, float *weight_grad, float *bias_grad,
                          const float *out_grad, const float *u, const float *weight, size_t batch,
                          size_t len, size_t d_inner, size_t d_conv)
{
    PARALLEL_FOR(schedule(static) if (worth_sharing_each(batch * len * d_inner)))
    for (size_t first = 0; first < d_inner; first += CONV_WIDTH)
        conv1d_backward_part(u_grad, weight_grad, bias_grad, out_grad, u, weight, batch, len,
                             d_inner, d_conv, first);
}

/* ================================== One number at a time ================================== */

/* out = silu(in), sixteen at a time. */
void silu_all(float *out, const float *in, size_t count)
{
    const ExpTable table = exp_table();
    PARALLEL_FOR(schedule(static) if (worth_sharing_each(count)))
    for (size_t i = 0; i < count; i += LANES) {
        size_t some = smaller(count - i, LANES);
        Lanes v = lanes_load_some(in + i, some);
        lanes_store_some(out + i, v * lanes_sigmoid(v, table), some);
    }
}

/* out = gradient silu'(at), sixteen at a time. */
void silu_backward_all(float *out, const float *gradient, const float *at, size_t count)
{
    const ExpTable table = exp_table();
    PARALLEL_FOR(schedule(static) if (worth_sharing_each(count)))
    for (size_t i = 0; i < count; i += LANES) {
        size_t some = smaller(count - i, LANES);
        Lanes slope = lanes_silu_slope(lanes_load_some(at + i, some), table);
        lanes_store_some(out + i, lanes_load_some(gradient + i, some) * slope, some);
    }
}

/* out = y silu(z), sixteen at a time. */
void gate_all(float *out, const float *y, const float *z, size_t count)
{
    const ExpTable table = exp_table();
    PARALLEL_FOR(schedule(static) if (worth_sharing_each(count)))
    for (size_t i = 0; i < count; i += LANES) {
        size_t some = smaller(count - i, LANES);
        Lanes v = lanes_load_some(z + i, some);
        lanes_store_some(out + i, lanes_load_some(y + i, some) * v * lanes_sigmoid(v, table), some);
    }
}

/* y_grad = out_grad silu(z) and z_grad = out_grad y silu'(z). */
void gate_backward_all(float *y_grad, float *z_grad, const float *out_grad, const float *y,
                       const float *z, size_t count)
{
    const ExpTable table = exp_table();
    PARALLEL_FOR(schedule(static) if (worth_sharing_each(count)))
    for (size_t i = 0; i < count; i += LANES) {
        size_t some = smaller(count - i, LANES);
        Lanes v = lanes_load_some(z + i, some), dy = lanes_load_some(out_grad + i, some);
        Lanes slope = lanes_silu_slope(v, table);
        lanes_store_some(z_grad + i, dy * lanes_load_some(y + i, some) * slope, some);
        lanes_store_some(y_grad + i, dy * v * lanes_sigmoid(v, table), some);
    }
}

#endif /* CH05_CONVOLUTION */
