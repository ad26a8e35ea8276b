/* Chapter 5. The Mamba block

   QUESTION   Chapter 4's scan is given Delta, B, C and a gate. Where do they come from? What is
   round the scan in the published architecture, and what does it cost beside attention? NEW
   Everything is computed from the tokens: projections, a short convolution, a gate, a norm and a
   residual. Matrix products that are as fast as the processor allows. NOT        Words: a block
   takes vectors and gives vectors. language_model.c stacks blocks. EQUATION   out = input +
   out_proj( scan(silu(conv(u)); Delta, B, C) silu(z) ), u, z = in_proj(RMSNorm(input)),  Delta,
   B, C from x_proj(silu(conv(u))) LETTERS    maths    C           shape
   Hugging Face in       input       (batch, len, d_model)       hidden_states u        u
   (batch, len, d_inner)       hidden_states after in_proj z        z           (batch, len,
   d_inner)       gate dt       dt_low      (batch, len, dt_rank)       time_step B C      B C
   (batch, len, d_state)       B, C x        x           (batch, d_inner, d_state)   ssm_state
   d_model d_inner d_state d_conv dt_rank           hidden_size intermediate_size state_size
   conv_kernel time_step_rank BUILD      cc -O2 ch05_mamba_block/mamba_block.c -o mamba_block -lm
   && ./mamba_block TIME       50 minutes to read, 90 to do the exercises SOURCES    A. Gu, T.
   Dao, Mamba, arXiv 2312.00752: section 3.4, figure 3, algorithm 2, section 3.6 B. Zhang, R.
   Sennrich, Root mean square layer normalization, arXiv 1910.07467 A. Vaswani et al., Attention
   is all you need, arXiv 1706.03762 M. Milakov, N. Gimelshein, Online normalizer calculation for
   softmax, arXiv 1805.02867 K. Goto, R. van de Geijn, Anatomy of high-performance matrix
   multiplication, ACM TOMS 34 (2008) */

#ifndef CH05_MAMBA_BLOCK
#define CH05_MAMBA_BLOCK

#include "../ch04_selective/bench.c"
#include "safetensors.c"

/* ==================================== Matrix products ====================================== */
/* A linear layer is y = x W^T + b with W (d_out, d_in), as PyTorch keeps it. It has three */
/* products: one forward, and two backward, for x and for W. First as they are defined.    */

/* y (tokens, d_out) = x (tokens, d_in) W^T, W (d_out, d_in); + bias (d_out), unless that is
   NULL. */
void linear_forward(float *y, const float *x, const float *W, const float *bias, size_t tokens,
                    size_t d_in, size_t d_out)
{
    for (size_t t = 0; t < tokens; t++)
        for (size_t o = 0; o < d_out; o++) {
            float sum = 0.0f;
            for (size_t i = 0; i < d_in; i++)
                sum += x[t * d_in + i] * W[o * d_in + i];
            y[t * d_out + o] = bias == NULL ? sum : sum + bias[o];
        }
}

/* x_grad (tokens, d_in) = y_grad (tokens, d_out) W; added to what is there, if `add`. */
void linear_backward_input(float *x_grad, const float *y_grad, const float *W, bool add,
                           size_t tokens, size_t d_in, size_t d_out)
{
    for (size_t t = 0; t < tokens; t++)
        for (size_t i = 0; i < d_in; i++) {
            float sum = 0.0f;
            for (size_t o = 0; o < d_out; o++)
                sum += y_grad[t * d_out + o] * W[o * d_in + i];
            x_grad[t * d_in + i] = add ? x_grad[t * d_in + i] + sum : sum;
        }
}

/* W_grad (d_out, d_in) = y_grad^T x: a sum over all tokens. */
void linear_backward_weight(float *W_grad, const float *y_grad, const float *x, size_t tokens,
                            size_t d_in, size_t d_out)
{
    for (size_t o = 0; o < d_out; o++)
        for (size_t i = 0; i < d_in; i++) {
            float sum = 0.0f;
            for (size_t t = 0; t < tokens; t++)
                sum += y_grad[t * d_out + o] * x[t * d_in + i];
            W_grad[o * d_in + i] = sum;
        }
}

/* ---- fast ---- */

/* All three are out (rows, cols) = sum over k of left(row, k) right(k, col), read with different
   strides. A tile of TILE_ROWS rows and TILE_VECTORS vectors of columns is summed in registers:
   each number that is loaded is then used many times. */
enum {
    TILE_ROWS = LANES == 8 ? 6 : 4,
    TILE_VECTORS = LANES == 16 ? 4 : 2,
    TILE_COLS = TILE_VECTORS * LANES,
    PANEL_DEPTH = 256, /* of k; a panel of the right matrix stays in the second cache */
    PANEL_COLS = 256,
    PACKED_ROWS = LANES == 8 ? 12 : 16,
    FEW_TOKENS = 4 /* fewer: each row of W is read once and used at once */
};

/* The loop after this does four rounds at once. */
#ifdef __CUDACC__ /* its host compiler's first pass knows no such pragma */
#define UNROLL_4
#else
#define UNROLL_4 _Pragma("GCC unroll 4")
#endif

/* A matrix as a product reads it: element (i, j) is at[i * row + j * col]. */
typedef struct {
    const float *at;
    size_t row, col;
} Strided;

static Strided strided(const float *at, size_t row, size_t col)
{
    Strided matrix = {at, row, col};
    return matrix;
}

/* One tile of `vectors` vectors: out (rows, cols) with out_row from row to row. `panel` is (depth,
   TILE_COLS). Beyond `rows` the first row is computed again and thrown away. */
INLINE void tile_of(float *out, size_t out_row, Strided left, const Lanes *panel, size_t rows,
                    size_t cols, size_t depth, bool add, const size_t vectors)
{
    Lanes sum[TILE_ROWS][TILE_VECTORS];
    const float *row[TILE_ROWS];
    for (size_t i = 0; i < TILE_ROWS; i++) {
        for (size_t j = 0; j < vectors; j++)
            sum[i][j] = lanes_all(0.0f);
        row[i] = left.at + (i < rows ? i * left.row : 0);
    }
    UNROLL_4
    for (size_t k = 0; k < depth; k++)
        for (size_t i = 0; i < TILE_ROWS; i++) {
            Lanes value = lanes_all(row[i][k * left.col]);
            for (size_t j = 0; j < vectors; j++)
                sum[i][j] += value * panel[k * TILE_VECTORS + j];
        }
    size_t last = cols - (vectors - 1) * LANES; /* columns of the last vector */
    for (size_t i = 0; i < TILE_ROWS; i++)
        for (size_t j = 0; j < vectors && i < rows; j++) {
            float *to = out + i * out_row + j * LANES;
            size_t count = j + 1 < vectors ? LANES : last;
            if (add)
                sum[i][j] += lanes_load_some(to, count);
            lanes_store_some(to, sum[i][j], count);
        }
}

/* A tile of up to TILE_COLS columns: no more vectors than they fill. */
static void product_tile(float *out, size_t out_row, Strided left, const Lanes *panel, size_t rows,
                         size_t cols, size_t depth, bool add)
{
    size_t vectors = (cols + LANES - 1) / LANES;
    if (vectors == TILE_VECTORS)
        tile_of(out, out_row, left, panel, rows, cols, depth, add, TILE_VECTORS);
    else if (vectors == 3) /* where a tile has fewer, this is never reached: keep it legal */
        tile_of(out, out_row, left, panel, rows, cols, depth, add, TILE_VECTORS < 3 ? 1 : 3);
    else if (vectors == 2)
        tile_of(out, out_row, left, panel, rows, cols, depth, add, 2);
    else
        tile_of(out, out_row, left, panel, rows, cols, depth, add, 1);
}

/* A copy of `count` floats, quicker where that is `usual`, a length known beforehand. */
INLINE void floats_copy(float *to, const float *from, size_t count, const size_t usual)
{
    if (count == usual)
        memcpy(to, from, usual * sizeof(float));
    else
        memcpy(to, from, count * sizeof(float));
}

/* A panel of the right matrix in the order in which tiles read it: (tiles, depth, TILE_COLS), zeros
   from `cols` to the end of a vector. */
static void panel_pack(float *panel, Strided right, size_t depth, size_t cols)
{
    for (size_t first = 0; first < cols; first += TILE_COLS, panel += PANEL_DEPTH * TILE_COLS) {
        size_t wide = smaller(cols - first, TILE_COLS), beyond = (LANES - wide % LANES) % LANES;
        const float *from = right.at + first * right.col;
        for (size_t k = 0; k < depth && beyond > 0; k++)
            zero(panel + k * TILE_COLS + wide, beyond);
        if (right.col == 1)
            for (size_t k = 0; k < depth; k++)
                floats_copy(panel + k * TILE_COLS, from + k * right.row, wide, TILE_COLS);
        else
            for (size_t j = 0; j < wide; j++)
                for (size_t k = 0; k < depth; k++)
                    panel[k * TILE_COLS + j] = from[k * right.row + j * right.col];
    }
}

/* Rows of the left matrix, one beside the other: (depth, PACKED_ROWS). Wanted where they lie across
   memory, a number here and the next a whole row away. */
static Strided rows_pack(float *packed, Strided left, size_t rows, size_t depth)
{
    for (size_t k = 0; k < depth; k++) {
        const float *from = left.at + k * left.col;
        if (left.row == 1)
            floats_copy(packed + k * PACKED_ROWS, from, rows, PACKED_ROWS);
        else
            for (size_t i = 0; i < rows; i++)
                packed[k * PACKED_ROWS + i] = from[i * left.row];
    }
    return strided(packed, 1, PACKED_ROWS);
}

/* The part of product_into that one processor does: `rows` rows, up to PANEL_COLS columns. */
static void product_part(float *out, size_t out_row, Strided left, Strided right, size_t rows,
                         size_t cols, size_t depth, bool add)
{
    Lanes panel[PANEL_DEPTH * PANEL_COLS / LANES];
    float packed[PANEL_DEPTH * PACKED_ROWS];
    for (size_t k = 0; k < depth || (k == 0 && !add); k += PANEL_DEPTH) {
        size_t deep = smaller(depth - k, PANEL_DEPTH);
        Strided tile = {left.at + k * left.col, left.row, left.col};
        panel_pack((float *)panel, strided(right.at + k * right.row, right.row, right.col), deep,
                   cols);
        for (size_t i = 0; i < rows; i += TILE_ROWS) {
            if (left.col != 1 && i % PACKED_ROWS == 0)
                tile = rows_pack(packed,
                                 strided(left.at + k * left.col + i * left.row, left.row, left.col),
                                 smaller(rows - i, PACKED_ROWS), deep);
            for (size_t j = 0; j < cols; j += TILE_COLS)
                product_tile(out + i * out_row + j, out_row, tile,
                             panel + j / TILE_COLS * PANEL_DEPTH * TILE_VECTORS,
                             smaller(rows - i, TILE_ROWS), smaller(cols - j, TILE_COLS), deep,
                             add || k > 0);
            tile.at += TILE_ROWS * tile.row;
        }
    }
}

/* out (rows, cols), out_row from row to row, = left (rows, depth) right (depth, cols), + out if
   `add`. Columns go to the processors in panels, and rows in halves and so on where there are few
   panels. Every number of out is summed by one thread, over k in order, in stretches of
   PANEL_DEPTH: the same bits for any number of threads, and for any number of other rows. */
static void product_into(float *out, size_t out_row, Strided left, Strided right, size_t rows,
                         size_t cols, size_t depth, bool add)
{
    size_t panels = (cols + PANEL_COLS - 1) / PANEL_COLS, threads = (size_t)threads_most();
    size_t parts = panels % threads == 0 || panels > 4 * threads ? 1 : threads;
    size_t high = ((rows + parts - 1) / parts + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
    PARALLEL_FOR(collapse(2) schedule(static) if (rows * cols * depth > 100000))
    for (size_t first = 0; first < cols; first += PANEL_COLS)
        for (size_t row = 0; row < rows; row += high)
            product_part(out + row * out_row + first, out_row,
                         strided(left.at + row * left.row, left.row, left.col),
                         strided(right.at + first * right.col, right.row, right.col),
                         smaller(rows - row, high), smaller(cols - first, PANEL_COLS), depth, add);
}

static void product(float *out, Strided left, Strided right, size_t rows, size_t cols, size_t depth,
                    bool add)
{
    product_into(out, cols, left, right, rows, cols, depth, add);
}

/* The sum of x[i] w[i]: four vectors of partial sums, so that memory is what is waited for. */
INLINE float dot(const float *x, const float *w, size_t count)
{
    Lanes sum[4] = {lanes_all(0.0f), lanes_all(0.0f), lanes_all(0.0f), lanes_all(0.0f)};
    size_t i = 0;
    for (; i + 4 * LANES <= count; i += 4 * LANES)
        for (size_t k = 0; k < 4; k++)
            sum[k] += lanes_load(x + i + k * LANES) * lanes_load(w + i + k * LANES);
    for (; i < count; i += LANES) {
        size_t some = smaller(count - i, LANES);
        sum[0] += lanes_load_some(x + i, some) * lanes_load_some(w + i, some);
    }
    return lanes_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

/* linear_forward, for use. */
void linear_forward_fast(float *y, const float *x, const float *W, const float *bias, size_t tokens,
                         size_t d_in, size_t d_out)
{
    if (tokens < FEW_TOKENS) {
        PARALLEL_FOR(schedule(static) if (d_in * d_out > 100000))
        for (size_t o = 0; o < d_out; o++)
            for (size_t t = 0; t < tokens; t++)
                y[t * d_out + o] =
                    dot(x + t * d_in, W + o * d_in, d_in) + (bias == NULL ? 0.0f : bias[o]);
        return;
    }
    product(y, strided(x, d_in, 1), strided(W, 1, d_in), tokens, d_out, d_in, false);
    for (size_t t = 0; t < tokens && bias != NULL; t++)
        for (size_t o = 0; o < d_out; o++)
            y[t * d_out + o] += bias[o];
}

/* linear_backward_input, for use. */
void linear_backward_input_fast(float *x_grad, const float *y_grad, const float *W, bool add,
                                size_t tokens, size_t d_in, size_t d_out)
{
    product(x_grad, strided(y_grad, d_out, 1), strided(W, d_in, 1), tokens, d_in, d_out, add);
}

/* linear_backward_weight, for use. */
void linear_backward_weight_fast(float *W_grad, const float *y_grad, const float *x, size_t tokens,
                                 size_t d_in, size_t d_out)
{
    product(W_grad, strided(y_grad, 1, d_out), strided(x, d_in, 1), d_out, d_in, tokens, false);
}

/* A bias's gradient: the sum of y_grad (tokens, d_out) over the tokens. */
void bias_backward(float *bias_grad, const float *y_grad, size_t tokens, size_t d_out)
{
    zero(bias_grad, d_out);
    for (size_t t = 0; t < tokens; t++)
        for (size_t o = 0; o < d_out; o++)
            bias_grad[o] += y_grad[t * d_out + o];
}

/* ======================================= The norm ========================================== */
/* Every token's vector is divided by its root mean square, and each channel gets a factor.       */

/* out (tokens, d_model) = input / rms(input) * weight; scale (tokens) = 1 / rms is kept for the
   way back (Zhang and Sennrich, equation 4, with epsilon under the root as Hugging Face has it). */
void rms_norm_forward(float *out, float *scale, const float *input, const float *weight,
                      double epsilon, size_t tokens, size_t d_model)
{
    PARALLEL_FOR(schedule(static) if (tokens * d_model > 10000))
    for (size_t t = 0; t < tokens; t++) {
        const float *in = input + t * d_model;
        scale[t] = (float)(1.0 / sqrt((double)dot(in, in, d_model) / (double)d_model + epsilon));
        for (size_t i = 0; i < d_model; i++)
            out[t * d_model + i] = in[i] * scale[t] * weight[i];
    }
}

/* The gradients: input_grad (tokens, d_model), added to what is there; weight_grad (d_model).

   Exercise 5.1. What one token's input gets: the scale depends on every channel of it. */
void rms_norm_backward(float *input_grad, float *weight_grad, const float *out_grad,
                       const float *scale, const float *input, const float *weight, size_t tokens,
                       size_t d_model)
{
    zero(weight_grad, d_model);
    for (size_t t = 0; t < tokens; t++)
        for (size_t i = 0; i < d_model; i++)
            weight_grad[i] += out_grad[t * d_model + i] * input[t * d_model + i] * scale[t];
    PARALLEL_FOR(schedule(static) if (tokens * d_model > 10000))
    for (size_t t = 0; t < tokens; t++) {
        const float *in = input + t * d_model, *dy = out_grad + t * d_model;
        float *to = input_grad + t * d_model;
        //> EX 5.1 [3 pts] [25 min] the backward pass of the norm
        //? With n_i = in_i * scale, dL/dn_i is dy_i * weight_i.
        //? scale = (mean of in^2 + epsilon)^(-1/2), so d scale / d in_i = -scale^3 in_i / d_model.
        //? Collect the mean over the channels of dL/dn_j n_j first; then one line for each channel.
        float along = 0.0f;
        for (size_t i = 0; i < d_model; i++)
            along += dy[i] * weight[i] * in[i] * scale[t];
        along /= (float)d_model;
        for (size_t i = 0; i < d_model; i++)
            to[i] += scale[t] * (dy[i] * weight[i] - in[i] * scale[t] * along);
        //< EX 5.1
    }
}

/* ==================================== The convolution ====================================== */
/* Each channel mixes its last d_conv inputs: causal and depthwise. This is how a block sees a */
/* phrase of a few tokens at once.                                                             */

/* One token: out (d_inner) = bias + sum_j weight[d][j] in[j][d], in[0] the oldest of d_conv inputs
   and in[d_conv - 1] this one; weight (d_inner, 1, d_conv), bias (d_inner) or NULL.

   Exercise 5.2. One step of the convolution. */
static void conv1d_token(float *out, const float *const *in, const float *weight, const float *bias,
                         size_t d_inner, size_t d_conv)
{
    for (size_t d = 0; d < d_inner; d++) {
        //> EX 5.2 [2 pts] [10 min] one step of the convolution
        //? out is a sum over the d_conv inputs of this channel, in[j][d].
        //? Channel d's weights are weight[d * d_conv] and the d_conv - 1 after it.
        float sum = bias == NULL ? 0.0f : bias[d];
        for (size_t j = 0; j < d_conv; j++)
            sum += weight[d * d_conv + j] * in[j][d];
        out[d] = sum;
        //< EX 5.2
    }
}

enum { CONV_MOST = 16 };

/* The input of the convolution at time t of sequence b, where t may be up to d_conv - 1 before the
   first: those are in `past` (batch, d_conv - 1, d_inner), oldest first, or 0 if that is NULL. */
static const float *conv1d_input(const float *u, const float *past, const float *zeros, size_t b,
                                 int64_t t, size_t len, size_t d_inner, size_t d_conv)
{
    if (t >= 0)
        return u + (b * len + (size_t)t) * d_inner;
    size_t back = (size_t)((int64_t)d_conv - 1 + t);
    return past == NULL ? zeros : past + (b * (d_conv - 1) + back) * d_inner;
}

/* out (batch, len, d_inner) from u of the same shape; zeros is d_inner zeros. */
void conv1d_forward(float *out, const float *u, const float *past, const float *zeros,
                    const float *weight, const float *bias, size_t batch, size_t len,
                    size_t d_inner, size_t d_conv)
{
    PARALLEL_FOR(collapse(2) schedule(static) if (len > 1))
    for (size_t b = 0; b < batch; b++)
        for (size_t t = 0; t < len; t++) {
            const float *in[CONV_MOST];
            for (size_t j = 0; j < d_conv; j++)
                in[j] = conv1d_input(u, past, zeros, b, (int64_t)(t + j) - (int64_t)(d_conv - 1),
                                     len, d_inner, d_conv);
            conv1d_token(out + (b * len + t) * d_inner, in, weight, bias, d_inner, d_conv);
        }
}

/* past (batch, d_conv - 1, d_inner) becomes the last d_conv - 1 inputs. */
void conv1d_keep(float *past, const float *u, size_t batch, size_t len, size_t d_inner,
                 size_t d_conv)
{
    for (size_t b = 0; b < batch; b++)
        for (size_t j = 0; j + 1 < d_conv; j++) {
            int64_t t = (int64_t)(len + j) - (int64_t)(d_conv - 1);
            float *to = past + (b * (d_conv - 1) + j) * d_inner;
            memmove(to, conv1d_input(u, past, NULL, b, t, len, d_inner, d_conv),
                    d_inner * sizeof(float));
        }
}

/* ---- fast ---- */

/* Channels go in strips: a strip's taps and its last few inputs stay in the nearest cache. */
enum { CONV_WIDTH = 64 };

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
    PARALLEL_FOR(collapse(2) schedule(static) if (len > 1))
    for (size_t b = 0; b < batch; b++)
        for (size_t first = 0; first < d_inner; first += CONV_WIDTH) {
            float tap[CONV_MOST][CONV_WIDTH];
            const float *in[CONV_MOST];
            size_t width = smaller(d_inner - first, CONV_WIDTH);
            conv1d_taps(tap, weight, first, width, d_conv);
            for (size_t t = 0; t < len; t++) {
                float *to = out + (b * len + t) * d_inner + first;
                for (size_t j = 0; j < d_conv; j++)
                    in[j] = first + conv1d_input(u, past, zeros, b,
                                                 (int64_t)(t + j) - (int64_t)(d_conv - 1), len,
                                                 d_inner, d_conv);
                for (size_t d = 0; d < width; d += LANES) {
                    size_t some = smaller(width - d, LANES);
                    Lanes sum = lanes_all(0.0f);
                    if (bias != NULL)
                        sum = lanes_load_some(bias + first + d, some);
                    for (size_t j = 0; j < d_conv; j++)
                        sum += lanes_load(tap[j] + d) * lanes_load_some(in[j] + d, some);
                    lanes_store_some(to + d, sum, some);
                }
            }
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
            lanes_store(sum,
                        lanes_load(sum) + from * lanes_load_some(u + d - back * d_inner, some));
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
            sum += lanes_load(strip->tap[d_conv - 1 - on] + d) *
                   lanes_load_some(dy + d + on * d_inner, some);
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

/* The gradients, for sequences that began with nothing: u_grad (batch, len, d_inner), weight_grad
   (d_inner, 1, d_conv), bias_grad (d_inner) or NULL. */
void conv1d_backward(float *u_grad, float *weight_grad, float *bias_grad, const float *out_grad,
                     const float *u, const float *weight, size_t batch, size_t len, size_t d_inner,
                     size_t d_conv)
{
    PARALLEL_FOR(schedule(static))
    for (size_t first = 0; first < d_inner; first += CONV_WIDTH)
        conv1d_backward_part(u_grad, weight_grad, bias_grad, out_grad, u, weight, batch, len,
                             d_inner, d_conv, first);
}

/* ================================== Sizes and parameters =================================== */

/* Hugging Face's config.json, as far as it concerns the mathematics; the same names. */
typedef struct {
    size_t hidden_size, intermediate_size; /* d_model, d_inner = expand * d_model */
    size_t state_size, conv_kernel;        /* d_state, d_conv */
    size_t expand, time_step_rank;         /* dt_rank; "auto" is hidden_size / 16, rounded up */
    size_t num_hidden_layers, vocab_size;
    bool use_bias, use_conv_bias, tie_word_embeddings;
    double layer_norm_epsilon, initializer_range;
    double time_step_min, time_step_max, time_step_floor; /* of the Deltas at the start */
    /* not Hugging Face's: */
    bool time_invariant; /* Delta, B and C are the same for every token */
    double gate_price;   /* what training charges for gates that are open: see there */
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
    config.initializer_range = 0.1;
    config.time_step_min = 0.001;
    config.time_step_max = 0.1;
    config.time_step_floor = 1e-4;
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
        if (json_is(key, switches[i].name))
            return json_boolean(json, switches[i].on) || true;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (json_is(key, numbers[i].name))
            return json_number(json, numbers[i].value) || true;
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

/* A word that must be this one, because nothing else is built here. */
static void config_word(Json *json, const char *name, const char *wanted)
{
    JsonText text = {NULL, 0};
    if (json_string(json, &text) && !json_is(text, wanted))
        json_fail(json, "%s is \"%.40s\"; only \"%s\" is known here", name, text.bytes, wanted);
}

/* Which numbers of a config contradict each other. */
static bool config_fits(MambaConfig *config, bool has_inner, const char *path, Error *error)
{
    size_t inner = config->expand * config->hidden_size;
    if (!has_inner)
        config->intermediate_size = inner;
    if (config->intermediate_size != inner)
        return fail(error,
                    "%s: intermediate_size is %zu, but expand %zu times hidden_size %zu is %zu",
                    path, config->intermediate_size, config->expand, config->hidden_size, inner);
    if (config->time_step_rank == 0)
        config->time_step_rank = (config->hidden_size + 15) / 16;
    if (config->time_step_rank > config->intermediate_size)
        return fail(error, "%s: time_step_rank %zu is larger than intermediate_size %zu", path,
                    config->time_step_rank, config->intermediate_size);
    if (!(config->time_step_min > 0.0 && config->time_step_max >= config->time_step_min))
        return fail(error, "%s: time_step_min %g and time_step_max %g: 0 < min <= max is wanted",
                    path, config->time_step_min, config->time_step_max);
    if (!(config->layer_norm_epsilon >= 0.0))
        return fail(error, "%s: layer_norm_epsilon %g is below 0", path,
                    config->layer_norm_epsilon);
    return true;
}

/* A config from JSON (len bytes); `path` is for messages. What is left out has Hugging Face's
   default, but hidden_size must be there. */
bool config_parse(MambaConfig *config, const char *text, size_t len, const char *path, Error *error)
{
    MambaConfig got = config_default(1);
    bool has_inner = false;
    Json json;
    got.hidden_size = got.time_step_rank = 0;
    json_open(&json, text, len, path, error);
    json_enter_object(&json);
    for (JsonText key = {NULL, 0}; json_next_key(&json, &key);) {
        has_inner = has_inner || json_is(key, "intermediate_size");
        if (json_is(key, "time_step_rank"))
            config_rank(&json, &got);
        else if (json_is(key, "model_type"))
            config_word(&json, "model_type", "mamba");
        else if (json_is(key, "hidden_act"))
            config_word(&json, "hidden_act", "silu");
        else if (!config_known(&json, key, &got))
            json_skip(&json);
    }
    bool ok = json_end(&json);
    json_close(&json);
    if (ok && got.hidden_size == 0)
        ok = fail(error, "%s: there is no hidden_size in it", path);
    ok = ok && config_fits(&got, has_inner, path, error);
    if (ok)
        *config = got;
    return ok;
}

bool config_read(MambaConfig *config, const char *path, Error *error)
{
    char *text;
    size_t len;
    if (!text_read(&text, &len, path, error))
        return false;
    bool ok = config_parse(config, text, len, path, error);
    free(text);
    return ok;
}

/* The parameters of a block, in the order in which they lie in memory. */
typedef enum {
    NORM_WEIGHT,
    IN_PROJ_WEIGHT,
    IN_PROJ_BIAS,
    CONV1D_WEIGHT,
    CONV1D_BIAS,
    X_PROJ_WEIGHT,
    DT_PROJ_WEIGHT,
    DT_PROJ_BIAS,
    A_LOG,
    D_SKIP,
    OUT_PROJ_WEIGHT,
    OUT_PROJ_BIAS,
    BLOCK_TENSORS
} BlockTensor;

/* One parameter: Hugging Face's name after "backbone.layers.N.", and its shape. */
typedef struct {
    const char *name;
    size_t shape[3], rank, count; /* count is 0 for a bias that the config leaves out */
} TensorShape;

/* The table that allocation, names, loading, saving and gradients all go by. */
void block_shapes(TensorShape shapes[BLOCK_TENSORS], const MambaConfig *config)
{
    size_t d_model = config->hidden_size, d_inner = config->intermediate_size;
    size_t d_state = config->state_size, d_conv = config->conv_kernel,
           dt_rank = config->time_step_rank;
    TensorShape all[BLOCK_TENSORS] = {
        {"norm.weight", {d_model, 0, 0}, 1, 0},
        {"mixer.in_proj.weight", {2 * d_inner, d_model, 0}, 2, 0},
        {"mixer.in_proj.bias", {config->use_bias ? 2 * d_inner : 0, 0, 0}, 1, 0},
        {"mixer.conv1d.weight", {d_inner, 1, d_conv}, 3, 0},
        {"mixer.conv1d.bias", {config->use_conv_bias ? d_inner : 0, 0, 0}, 1, 0},
        {"mixer.x_proj.weight", {dt_rank + 2 * d_state, d_inner, 0}, 2, 0},
        {"mixer.dt_proj.weight", {d_inner, dt_rank, 0}, 2, 0},
        {"mixer.dt_proj.bias", {d_inner, 0, 0}, 1, 0},
        {"mixer.A_log", {d_inner, d_state, 0}, 2, 0},
        {"mixer.D", {d_inner, 0, 0}, 1, 0},
        {"mixer.out_proj.weight", {d_model, d_inner, 0}, 2, 0},
        {"mixer.out_proj.bias", {config->use_bias ? d_model : 0, 0, 0}, 1, 0}};
    for (int i = 0; i < BLOCK_TENSORS; i++) {
        all[i].count = 1;
        for (size_t axis = 0; axis < all[i].rank; axis++)
            all[i].count *= all[i].shape[axis];
        shapes[i] = all[i];
    }
}

/* All parameters of a block, or all gradients of one: tensor[IN_PROJ_WEIGHT] and so on, NULL where
   there is none. */
typedef struct {
    float *tensor[BLOCK_TENSORS];
} BlockParams;

/* How many floats the parameters take, each tensor starting on a vector. */
size_t block_params_floats(const MambaConfig *config)
{
    TensorShape shapes[BLOCK_TENSORS];
    size_t count = 0;
    block_shapes(shapes, config);
    for (int i = 0; i < BLOCK_TENSORS; i++)
        count += (shapes[i].count + 15) / 16 * 16;
    return count;
}

/* The views into `memory` (block_params_floats). */
BlockParams block_params_place(float *memory, const MambaConfig *config)
{
    TensorShape shapes[BLOCK_TENSORS];
    BlockParams params;
    block_shapes(shapes, config);
    for (int i = 0; i < BLOCK_TENSORS; i++) {
        params.tensor[i] = shapes[i].count > 0 ? memory : NULL;
        memory += (shapes[i].count + 15) / 16 * 16;
    }
    return params;
}

/* How many parameters a block has.

   Exercise 5.3. Count them by hand first, for hidden_size 768, state_size 16, conv_kernel 4. */
size_t block_params_count(const MambaConfig *config)
{
    size_t d_model = config->hidden_size, d_inner = config->intermediate_size;
    size_t d_state = config->state_size, d_conv = config->conv_kernel,
           dt_rank = config->time_step_rank;
    size_t count = d_model; /* the norm */
    //> EX 5.3 [2 pts] [15 min] how many parameters a block has
    //? in_proj goes from d_model to u and z, d_inner each; out_proj goes back.
    //? x_proj makes dt_rank + 2 d_state numbers of d_inner; dt_proj makes d_inner of dt_rank.
    //? dt_proj always has a bias, conv1d if use_conv_bias, in_proj and out_proj if use_bias; A_log
    //?   and D have no projection.
    count += 2 * d_inner * d_model + (config->use_bias ? 2 * d_inner : 0);
    count += d_inner * d_conv + (config->use_conv_bias ? d_inner : 0);
    count += (dt_rank + 2 * d_state) * d_inner;
    count += d_inner * dt_rank + d_inner;
    count += d_inner * d_state + d_inner;
    count += d_model * d_inner + (config->use_bias ? d_model : 0);
    //< EX 5.3
    return count;
}

static void fill_uniform(float *values, size_t count, double most, Random *random)
{
    for (size_t i = 0; i < count && values != NULL; i++)
        values[i] = (float)(most * (2.0 * random_uniform(random) - 1.0));
}

/* Parameters to start from (Mamba, section 3.6, and the published code): projections as nn.Linear's
   default, A = -1 .. -d_state, D = 1, and a bias such that softplus gives Deltas log-uniform from
   time_step_min to time_step_max. */
void block_init(const BlockParams *params, const MambaConfig *config, Random *random)
{
    TensorShape shapes[BLOCK_TENSORS];
    size_t d_inner = config->intermediate_size, d_state = config->state_size;
    block_shapes(shapes, config);
    for (int i = 0; i < BLOCK_TENSORS; i++) {
        size_t fan_in = shapes[i].rank == 3 ? shapes[i].shape[2] : shapes[i].shape[1];
        if (i == IN_PROJ_BIAS)
            fan_in = config->hidden_size;
        if (i == OUT_PROJ_BIAS)
            fan_in = d_inner;
        if (i == CONV1D_BIAS)
            fan_in = config->conv_kernel;
        if (i != NORM_WEIGHT && i != DT_PROJ_BIAS && i != A_LOG && i != D_SKIP)
            fill_uniform(params->tensor[i], shapes[i].count, 1.0 / sqrt((double)fan_in), random);
    }
    for (size_t i = 0; i < config->hidden_size; i++)
        params->tensor[NORM_WEIGHT][i] = 1.0f;
    for (size_t d = 0; d < d_inner; d++) {
        double low = log(config->time_step_min), high = log(config->time_step_max);
        double delta = exp(low + (high - low) * random_uniform(random));
        delta = fmax(delta, config->time_step_floor);
        params->tensor[DT_PROJ_BIAS][d] = (float)(delta + log(-expm1(-delta))); /* softplus of it */
        params->tensor[D_SKIP][d] = 1.0f;
        for (size_t n = 0; n < d_state; n++)
            params->tensor[A_LOG][d * d_state + n] = (float)log((double)(n + 1));
    }
}

/* ======================================= The block ========================================= */

/* A block ready for use: its sizes, its parameters, and A = -exp(A_log), which is worked out once
   (block_refresh) and not for every token. */
typedef struct {
    MambaConfig config;
    BlockParams params;
    float *A; /* (d_inner, d_state) */
} MambaBlock;

void block_refresh(MambaBlock *block)
{
    size_t count = block->config.intermediate_size * block->config.state_size;
    for (size_t i = 0; i < count; i++)
        block->A[i] = -expf(block->params.tensor[A_LOG][i]);
}

/* What goes from one token to the next, and all of it: constant, however long the text. */
typedef struct {
    float *conv; /* (batch, d_conv - 1, d_inner) the last inputs of the convolution, oldest first */
    float *x;    /* (batch, d_inner, d_state) the scan's state */
} BlockState;

size_t block_state_floats(const MambaConfig *config, size_t batch)
{
    return batch * config->intermediate_size * (config->conv_kernel - 1 + config->state_size);
}

BlockState block_state_place(float *memory, const MambaConfig *config, size_t batch)
{
    BlockState state;
    state.conv = memory;
    state.x = memory + batch * config->intermediate_size * (config->conv_kernel - 1);
    return state;
}

/* Everything a forward pass computes on its way, for the way back and for a look at it. */
typedef struct {
    size_t batch, len;
    float *normed, *scale; /* (batch, len, d_model), (batch, len) */
    float *u_raw, *z;      /* (batch, len, d_inner) the two halves of in_proj */
    float *conv, *u;       /* the same: after the convolution, and after its silu */
    float *x_dbl;          /* (batch, len, dt_rank + 2 d_state) x_proj, whose parts are: */
    float *dt_low, *B, *C; /* (batch, len, dt_rank), (batch, len, d_state) twice */
    float *dt_raw;         /* (batch, len, d_inner) dt_proj, its bias not yet added */
    float *gated;          /* (batch, len, d_inner) the scan's output, gated */
    float *checkpoint;     /* for the scan's way back */
    float *zeros;          /* (d_inner) */
    float *constant;       /* as u; what x_proj gets in a time-invariant block, else NULL */
} BlockCache;

/* The next `count` floats of `memory`, on a vector; only counted if memory is NULL. */
static float *take(float *memory, size_t *used, size_t count)
{
    float *taken = memory == NULL ? NULL : memory + *used;
    *used += (count + 15) / 16 * 16;
    return taken;
}

/* The scan inside the block. */
static Scan block_scan(const BlockCache *cache, const MambaBlock *block, const BlockState *state)
{
    const MambaConfig *config = &block->config;
    Scan scan = {cache->batch,
                 cache->len,
                 config->intermediate_size,
                 config->state_size,
                 cache->u,
                 cache->dt_raw,
                 block->params.tensor[DT_PROJ_BIAS],
                 block->A,
                 cache->B,
                 cache->C,
                 block->params.tensor[D_SKIP],
                 cache->z,
                 state == NULL ? NULL : state->x,
                 cache->checkpoint,
                 true};
    return scan;
}

/* Lays the cache out in `memory`, or, if that is NULL, only counts: returns how many floats. A
   cache that only goes forward (`back` false) keeps no checkpoints. */
size_t block_cache_place(BlockCache *cache, float *memory, const MambaBlock *block, size_t batch,
                         size_t len, bool back)
{
    const MambaConfig *config = &block->config;
    size_t tokens = batch * len, wide = tokens * config->intermediate_size, used = 0;
    size_t d_state = config->state_size, dt_rank = config->time_step_rank;
    cache->batch = batch;
    cache->len = len;
    cache->normed = take(memory, &used, tokens * config->hidden_size);
    cache->scale = take(memory, &used, tokens);
    cache->u_raw = take(memory, &used, wide);
    cache->z = take(memory, &used, wide);
    cache->conv = take(memory, &used, wide);
    cache->u = take(memory, &used, wide);
    cache->x_dbl = take(memory, &used, tokens * (dt_rank + 2 * d_state));
    cache->dt_low = take(memory, &used, tokens * dt_rank);
    cache->B = take(memory, &used, tokens * d_state);
    cache->C = take(memory, &used, tokens * d_state);
    cache->dt_raw = take(memory, &used, wide);
    cache->gated = take(memory, &used, wide);
    cache->zeros = take(memory, &used, config->intermediate_size);
    cache->constant = config->time_invariant ? take(memory, &used, wide) : NULL;
    cache->checkpoint = NULL;
    if (back) {
        Scan scan = block_scan(cache, block, NULL);
        cache->checkpoint = take(memory, &used, selective_scan_checkpoint_floats(&scan));
    }
    if (memory != NULL)
        zero(cache->zeros, config->intermediate_size);
    for (size_t i = 0; i < wide && memory != NULL && config->time_invariant; i++)
        cache->constant[i] = 1.0f / sqrtf((float)config->intermediate_size);
    return used;
}

/* The gate as it is defined: out (count) = y silu(z). In mixer_forward the scan does it on its way;
   here it can be looked at.

   Exercise 5.4. Open and close. */
void gate_forward(float *out, const float *y, const float *z, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        //> EX 5.4 [1 pt] [5 min] the gate
        //? silu is in chapter 4. Which of the two, y or z, goes through it?
        //? Where z is far below 0 nothing may come through, whatever y is.
        out[i] = y[i] * silu(z[i]);
        //< EX 5.4
    }
}

/* out = silu(in), sixteen at a time. */
static void silu_all(float *out, const float *in, size_t count)
{
    const ExpTable table = exp_table();
    PARALLEL_FOR(schedule(static) if (count > 100000))
    for (size_t i = 0; i < count; i += LANES) {
        size_t some = smaller(count - i, LANES);
        Lanes v = lanes_load_some(in + i, some);
        lanes_store_some(out + i, v * lanes_sigmoid(v, table), some);
    }
}

/* Columns first .. first + count - 1 of a matrix (rows, cols), to or from a matrix of their own. */
static void columns_out(float *out, const float *from, size_t first, size_t count, size_t rows,
                        size_t cols)
{
    for (size_t r = 0; r < rows; r++)
        memcpy(out + r * count, from + r * cols + first, count * sizeof(float));
}

static void columns_in(float *to, const float *in, size_t first, size_t count, size_t rows,
                       size_t cols)
{
    for (size_t r = 0; r < rows; r++)
        memcpy(to + r * cols + first, in + r * count, count * sizeof(float));
}

/* What x_proj makes Delta, B and C of: this token's u, or always the same. In the second case the
   scan is a system of chapter 3, one for each channel, and only the gate still selects. */
static const float *selecting(const BlockCache *cache)
{
    return cache->constant == NULL ? cache->u : cache->constant;
}

/* The scan that blocks go through: chapter 6 can be put in its place. */
#ifndef BLOCK_SCAN
#define BLOCK_SCAN selective_scan_fast
#endif

/* The block without norm and residual (Hugging Face's mixer): out (batch, len, d_model) from
   cache->normed. What goes on to the next tokens is read from and written to `state`; with NULL the
   sequences begin with nothing. One line for each box of the diagram (Mamba, figure 3). */
void mixer_forward(float *out, const BlockCache *cache, const BlockState *state,
                   const MambaBlock *block)
{
    const MambaConfig *config = &block->config;
    float *const *p = block->params.tensor;
    size_t d_model = config->hidden_size, d_inner = config->intermediate_size;
    size_t d_state = config->state_size, d_conv = config->conv_kernel,
           dt_rank = config->time_step_rank;
    size_t tokens = cache->batch * cache->len, narrow = dt_rank + 2 * d_state;
    const float *bias = p[IN_PROJ_BIAS];

    /* u, z = in_proj(h).chunk(2): two products with the halves of one weight */
    linear_forward_fast(cache->u_raw, cache->normed, p[IN_PROJ_WEIGHT], bias, tokens, d_model,
                        d_inner);
    linear_forward_fast(cache->z, cache->normed, p[IN_PROJ_WEIGHT] + d_inner * d_model,
                        bias == NULL ? NULL : bias + d_inner, tokens, d_model, d_inner);
    /* u = silu(conv1d(u)) */
    conv1d_forward_fast(cache->conv, cache->u_raw, state == NULL ? NULL : state->conv, cache->zeros,
                        p[CONV1D_WEIGHT], p[CONV1D_BIAS], cache->batch, cache->len, d_inner,
                        d_conv);
    if (state != NULL)
        conv1d_keep(state->conv, cache->u_raw, cache->batch, cache->len, d_inner, d_conv);
    silu_all(cache->u, cache->conv, tokens * d_inner);
    /* dt, B, C = split(x_proj(u)) */
    linear_forward_fast(cache->x_dbl, selecting(cache), p[X_PROJ_WEIGHT], NULL, tokens, d_inner,
                        narrow);
    columns_out(cache->dt_low, cache->x_dbl, 0, dt_rank, tokens, narrow);
    columns_out(cache->B, cache->x_dbl, dt_rank, d_state, tokens, narrow);
    columns_out(cache->C, cache->x_dbl, dt_rank + d_state, d_state, tokens, narrow);
    /* Delta = softplus(dt_proj(dt)): the bias and the softplus are the scan's business */
    linear_forward_fast(cache->dt_raw, cache->dt_low, p[DT_PROJ_WEIGHT], NULL, tokens, dt_rank,
                        d_inner);
    /* y = scan(u, Delta, A, B, C, D) * silu(z) */
    Scan scan = block_scan(cache, block, state);
    BLOCK_SCAN(cache->gated, state == NULL ? NULL : state->x, &scan);
    /* out = out_proj(y) */
    linear_forward_fast(out, cache->gated, p[OUT_PROJ_WEIGHT], p[OUT_PROJ_BIAS], tokens, d_inner,
                        d_model);
}

/* A whole block, for many sequences at once: out (batch, len, d_model) = input +
   mixer(norm(input)); out may be input. Sizes are the cache's. With `state` a sequence can be
   given in pieces. */
void block_forward(float *out, const BlockCache *cache, const BlockState *state, const float *input,
                   const MambaBlock *block)
{
    size_t d_model = block->config.hidden_size, tokens = cache->batch * cache->len;
    rms_norm_forward(cache->normed, cache->scale, input, block->params.tensor[NORM_WEIGHT],
                     block->config.layer_norm_epsilon, tokens, d_model);
    float *mixed = cache->normed;  /* is not wanted any more once u and z are there, if ... */
    if (cache->checkpoint != NULL) /* ... there is no way back */
        mixed = out;
    assert(cache->checkpoint == NULL || out != input);
    mixer_forward(mixed, cache, state, block);
    for (size_t i = 0; i < tokens * d_model; i++)
        out[i] = input[i] + mixed[i];
}

/* One token of each sequence: out and input (batch, d_model). The cache has len 1; the state is all
   that is remembered. */
void block_step(float *out, const BlockCache *cache, const BlockState *state, const float *input,
                const MambaBlock *block)
{
    assert(cache->len == 1 && state != NULL);
    block_forward(out, cache, state, input, block);
}

/* Gradients of what a cache holds, and the scan's workspace. */
typedef struct {
    float *gated, *u, *dt_raw, *z, *u_raw, *conv; /* (batch, len, d_inner) */
    float *B, *C, *dt_low, *x_dbl, *normed, *A, *scan;
} BlockBack;

/* Lays the workspace of a backward pass out, or counts it, as block_cache_place does. */
size_t block_back_place(BlockBack *back, float *memory, const BlockCache *cache,
                        const MambaBlock *block)
{
    const MambaConfig *config = &block->config;
    size_t tokens = cache->batch * cache->len, wide = tokens * config->intermediate_size, used = 0;
    size_t d_state = config->state_size, dt_rank = config->time_step_rank;
    Scan scan = block_scan(cache, block, NULL);
    float dummy = 0.0f;
    scan.checkpoint = &dummy; /* the forward pass keeps them */
    back->gated = take(memory, &used, wide);
    back->u = take(memory, &used, wide);
    back->dt_raw = take(memory, &used, wide);
    back->z = take(memory, &used, wide);
    back->u_raw = take(memory, &used, wide);
    back->conv = take(memory, &used, wide);
    back->B = take(memory, &used, tokens * d_state);
    back->C = take(memory, &used, tokens * d_state);
    back->dt_low = take(memory, &used, tokens * dt_rank);
    back->x_dbl = take(memory, &used, tokens * (dt_rank + 2 * d_state));
    back->normed = take(memory, &used, tokens * config->hidden_size);
    back->A = take(memory, &used, config->intermediate_size * d_state);
    back->scan = take(memory, &used, selective_scan_backward_floats(&scan));
    return used;
}

/* out = gradient silu'(at), sixteen at a time. */
static void silu_backward_all(float *out, const float *gradient, const float *at, size_t count)
{
    const ExpTable table = exp_table();
    PARALLEL_FOR(schedule(static) if (count > 100000))
    for (size_t i = 0; i < count; i += LANES) {
        size_t some = smaller(count - i, LANES);
        Lanes slope = lanes_silu_slope(lanes_load_some(at + i, some), table);
        lanes_store_some(out + i, lanes_load_some(gradient + i, some) * slope, some);
    }
}

/* The price of opening gates: gate_price times the mean Delta of all tokens and channels is added
   to the loss, for nothing in a short text tells a model to keep its gates shut through a long
   one. Each Delta's gradient gets the same share of it, and softplus' = sigmoid hands it on. */
static void gate_price_backward(float *dt_raw_grad, float *bias_grad, const BlockCache *cache,
                                const MambaBlock *block)
{
    size_t tokens = cache->batch * cache->len, d_inner = block->config.intermediate_size;
    const float *bias = block->params.tensor[DT_PROJ_BIAS];
    const float share = (float)(block->config.gate_price / (double)(tokens * d_inner));
    const ExpTable table = exp_table();
    PARALLEL_FOR(schedule(static))
    for (size_t d = 0; d < d_inner; d += LANES) {
        size_t some = smaller(d_inner - d, LANES);
        Lanes add = lanes_load_some(bias + d, some), sum = lanes_all(0.0f);
        for (size_t at = d; at < tokens * d_inner; at += d_inner) {
            Lanes raw = lanes_load_some(cache->dt_raw + at, some) + add;
            Lanes price = share * lanes_sigmoid(raw, table);
            lanes_store_some(dt_raw_grad + at, lanes_load_some(dt_raw_grad + at, some) + price,
                             some);
            sum += price;
        }
        lanes_store_some(bias_grad + d, lanes_load_some(bias_grad + d, some) + sum, some);
    }
}

/* The mixer's way back, box by box from the end: gradients of the parameters in `grad` (written,
   not added to) and of cache->normed in back->normed. The forward pass began with nothing. */
void mixer_backward(const BlockParams *grad, const BlockBack *back, const float *out_grad,
                    const BlockCache *cache, const MambaBlock *block)
{
    const MambaConfig *config = &block->config;
    float *const *p = block->params.tensor, *const *g = grad->tensor;
    size_t d_model = config->hidden_size, d_inner = config->intermediate_size;
    size_t d_state = config->state_size, d_conv = config->conv_kernel,
           dt_rank = config->time_step_rank;
    size_t tokens = cache->batch * cache->len, narrow = dt_rank + 2 * d_state;

    /* out = out_proj(gated) */
    linear_backward_weight_fast(g[OUT_PROJ_WEIGHT], out_grad, cache->gated, tokens, d_inner,
                                d_model);
    linear_backward_input_fast(back->gated, out_grad, p[OUT_PROJ_WEIGHT], false, tokens, d_inner,
                               d_model);
    /* the scan, with gate, skip, softplus and bias; A = -exp(A_log), so dA/dA_log = A */
    Scan scan = block_scan(cache, block, NULL);
    ScanGrad scan_grad = {back->u, back->dt_raw, g[DT_PROJ_BIAS], back->A, back->B,
                          back->C, g[D_SKIP],    back->z,         NULL};
    selective_scan_backward_fast(&scan_grad, back->gated, NULL, &scan, back->scan);
    if (config->gate_price > 0.0)
        gate_price_backward(back->dt_raw, g[DT_PROJ_BIAS], cache, block);
    for (size_t i = 0; i < d_inner * d_state; i++)
        g[A_LOG][i] = back->A[i] * block->A[i];
    /* dt_raw = dt_proj(dt_low) */
    linear_backward_weight_fast(g[DT_PROJ_WEIGHT], back->dt_raw, cache->dt_low, tokens, dt_rank,
                                d_inner);
    linear_backward_input_fast(back->dt_low, back->dt_raw, p[DT_PROJ_WEIGHT], false, tokens,
                               dt_rank, d_inner);
    /* dt_low, B, C = x_proj(u): u is used here and in the scan */
    columns_in(back->x_dbl, back->dt_low, 0, dt_rank, tokens, narrow);
    columns_in(back->x_dbl, back->B, dt_rank, d_state, tokens, narrow);
    columns_in(back->x_dbl, back->C, dt_rank + d_state, d_state, tokens, narrow);
    linear_backward_weight_fast(g[X_PROJ_WEIGHT], back->x_dbl, selecting(cache), tokens, d_inner,
                                narrow);
    if (cache->constant == NULL)
        linear_backward_input_fast(back->u, back->x_dbl, p[X_PROJ_WEIGHT], true, tokens, d_inner,
                                   narrow);
    /* u = silu(conv1d(u_raw)) */
    silu_backward_all(back->conv, back->u, cache->conv, tokens * d_inner);
    conv1d_backward(back->u_raw, g[CONV1D_WEIGHT], g[CONV1D_BIAS], back->conv, cache->u_raw,
                    p[CONV1D_WEIGHT], cache->batch, cache->len, d_inner, d_conv);
    /* u_raw, z = in_proj(normed) */
    const float *half[2] = {back->u_raw, back->z};
    for (size_t i = 0; i < 2; i++) {
        size_t first = i * d_inner;
        linear_backward_weight_fast(g[IN_PROJ_WEIGHT] + first * d_model, half[i], cache->normed,
                                    tokens, d_model, d_inner);
        linear_backward_input_fast(back->normed, half[i], p[IN_PROJ_WEIGHT] + first * d_model,
                                   i > 0, tokens, d_model, d_inner);
        if (g[IN_PROJ_BIAS] != NULL)
            bias_backward(g[IN_PROJ_BIAS] + first, half[i], tokens, d_inner);
    }
    if (g[OUT_PROJ_BIAS] != NULL)
        bias_backward(g[OUT_PROJ_BIAS], out_grad, tokens, d_model);
}

/* The gradients of a whole block: of its parameters, and of its input (batch, len, d_model) in
   input_grad, which may not be out_grad. The cache is that of block_forward, without a state. */
void block_backward(const BlockParams *grad, float *input_grad, const BlockBack *back,
                    const float *out_grad, const BlockCache *cache, const float *input,
                    const MambaBlock *block)
{
    size_t tokens = cache->batch * cache->len, d_model = block->config.hidden_size;
    mixer_backward(grad, back, out_grad, cache, block);
    memcpy(input_grad, out_grad, tokens * d_model * sizeof(float)); /* the residual */
    rms_norm_backward(input_grad, grad->tensor[NORM_WEIGHT], back->normed, cache->scale, input,
                      block->params.tensor[NORM_WEIGHT], tokens, d_model);
}

/* ================================= Attention, to compare with ============================== */
/* The other way to look back: keep every token's key and value, and look at all of them anew */
/* for every token. What is here is plain multi-head causal attention of the same width.      */

/* Four projections (d_model, d_model); a head is d_model / n_head channels wide. */
typedef struct {
    size_t d_model, n_head;
    const float *q_proj, *k_proj, *v_proj, *o_proj;
} Attention;

/* Keys and values of every token so far: this is what grows. */
typedef struct {
    float *k, *v; /* (room, d_model) */
    size_t len;
} KeyValueCache;

/* mixed (d_head): the values of tokens 0 .. len - 1 weighted by softmax(q k / sqrt(d_head)), for
   one query and one head. k and v are rows of d_model. `weight` is (len).

   Exercise 5.5. What one query takes from all values. */
static void attend(float *mixed, float *weight, const float *q, const float *k, const float *v,
                   size_t len, size_t d_head, size_t d_model)
{
    float largest = -INFINITY, total = 0.0f, factor = 1.0f / sqrtf((float)d_head);
    for (size_t s = 0; s < len; s++) {
        weight[s] = factor * dot(q, k + s * d_model, d_head);
        largest = fmaxf(largest, weight[s]);
    }
    zero(mixed, d_head);
    //> EX 5.5 [2 pts] [15 min] attention's weights
    //? softmax: each weight is exp(score) over the sum of all exp(score).
    //? Take the largest score from each first: nothing overflows, and the quotients are the same.
    //? Then mixed[i] is the sum of weight times v[s * d_model + i] over s.
    for (size_t s = 0; s < len; s++)
        total += weight[s] = expf(weight[s] - largest);
    for (size_t s = 0; s < len; s++)
        for (size_t i = 0; i < d_head; i++)
            mixed[i] += weight[s] / total * v[s * d_model + i];
    //< EX 5.5
}

/* Workspace of a forward pass, in floats: q, k, v and the heads' output, and a row of weights. */
size_t attention_floats(const Attention *layer, size_t len)
{
    return 4 * len * layer->d_model + len;
}

/* out (len, d_model) of one sequence, as it is defined: every token looks at itself and at all
   before it (Vaswani et al., section 3.2). */
void attention_forward(float *out, float *work, const float *input, const Attention *layer,
                       size_t len)
{
    size_t d_model = layer->d_model, d_head = d_model / layer->n_head;
    float *q = work, *k = q + len * d_model, *v = k + len * d_model, *mixed = v + len * d_model;
    linear_forward(q, input, layer->q_proj, NULL, len, d_model, d_model);
    linear_forward(k, input, layer->k_proj, NULL, len, d_model, d_model);
    linear_forward(v, input, layer->v_proj, NULL, len, d_model, d_model);
    for (size_t t = 0; t < len; t++)
        for (size_t first = 0; first < d_model; first += d_head)
            attend(mixed + t * d_model + first, mixed + len * d_model, q + t * d_model + first,
                   k + first, v + first, t + 1, d_head, d_model);
    linear_forward(out, mixed, layer->o_proj, NULL, len, d_model, d_model);
}

enum { QUERIES = 192, KEYS = PANEL_COLS, HEAD_MOST = 256 };

/* One row of scores becomes weights exp(score - largest) with the running largest and total brought
   up to date; what was summed before is scaled to the new largest (Milakov and Gimelshein). Scores
   from `seen` on belong to later tokens and weigh nothing. Returns that scale. */
static float softmax_row(float *score, float *largest, float *total, size_t seen, float factor,
                         ExpTable table)
{
    float most = *largest;
    Lanes sum = lanes_all(0.0f);
    Lanes high = lanes_all(most);
    for (size_t s = 0; s + LANES <= seen; s += LANES)
        high = lanes_larger(high, factor * lanes_load(score + s));
    most = lanes_largest(high);
    for (size_t s = seen / LANES * LANES; s < seen; s++)
        most = fmaxf(most, factor * score[s]);
    float scale = expf(*largest - most);
    for (size_t s = 0; s < KEYS; s += LANES) {
        size_t some = s < seen ? smaller(seen - s, LANES) : 0;
        Lanes weight = lanes_exp(factor * lanes_load(score + s) - most, table);
        for (size_t i = some; i < LANES; i++)
            weight[i] = 0.0f;
        lanes_store(score + s, weight);
        sum += weight;
    }
    *total = *total * scale + lanes_sum(sum);
    *largest = most;
    return scale;
}

/* Up to QUERIES tokens from `start` on, one head: the keys and values stream by in blocks, so
   that no (len, len) matrix is ever there. */
static void attend_block(float *mixed, const float *q, const float *k, const float *v, size_t start,
                         size_t queries, size_t d_head, size_t d_model)
{
    const ExpTable table = exp_table();
    float score[QUERIES * KEYS], sum[QUERIES * HEAD_MOST], largest[QUERIES], total[QUERIES];
    zero(sum, queries * d_head);
    zero(total, queries);
    for (size_t i = 0; i < queries; i++)
        largest[i] = -FLT_MAX;
    for (size_t key = 0; key < start + queries; key += KEYS) {
        size_t keys = smaller(start + queries - key, KEYS);
        zero(score, QUERIES * KEYS);
        product_into(score, KEYS, strided(q + start * d_model, d_model, 1),
                     strided(k + key * d_model, 1, d_model), queries, keys, d_head, false);
        for (size_t i = 0; i < queries; i++) {
            size_t seen = start + i + 1 <= key ? 0 : smaller(start + i + 1 - key, keys);
            float scale = softmax_row(score + i * KEYS, &largest[i], &total[i], seen,
                                      1.0f / sqrtf((float)d_head), table);
            for (size_t j = 0; j < d_head; j++)
                sum[i * d_head + j] *= scale;
        }
        product_into(sum, d_head, strided(score, KEYS, 1), strided(v + key * d_model, d_model, 1),
                     queries, d_head, keys, true);
    }
    for (size_t i = 0; i < queries; i++)
        for (size_t j = 0; j < d_head; j++)
            mixed[(start + i) * d_model + j] = sum[i * d_head + j] / total[i];
}

/* attention_forward, for use. */
void attention_forward_fast(float *out, float *work, const float *input, const Attention *layer,
                            size_t len)
{
    size_t d_model = layer->d_model, d_head = d_model / layer->n_head;
    float *q = work, *k = q + len * d_model, *v = k + len * d_model, *mixed = v + len * d_model;
    assert(d_head <= HEAD_MOST);
    linear_forward_fast(q, input, layer->q_proj, NULL, len, d_model, d_model);
    linear_forward_fast(k, input, layer->k_proj, NULL, len, d_model, d_model);
    linear_forward_fast(v, input, layer->v_proj, NULL, len, d_model, d_model);
    PARALLEL_FOR(collapse(2) schedule(dynamic))
    for (size_t start = 0; start < len; start += QUERIES)
        for (size_t head = 0; head < layer->n_head; head++)
            attend_block(mixed + head * d_head, q + head * d_head, k + head * d_head,
                         v + head * d_head, start, smaller(len - start, QUERIES), d_head, d_model);
    linear_forward_fast(out, mixed, layer->o_proj, NULL, len, d_model, d_model);
}

/* One token with a key-value cache: out and input (d_model); work is 2 d_model + n_head (len + 1)
   floats. The cache grows by one token, and all of it is read. */
void attention_step(float *out, KeyValueCache *cache, float *work, const float *input,
                    const Attention *layer)
{
    size_t d_model = layer->d_model, d_head = d_model / layer->n_head, len = cache->len + 1;
    float *q = work, *mixed = q + d_model, *weights = mixed + d_model;
    linear_forward_fast(q, input, layer->q_proj, NULL, 1, d_model, d_model);
    linear_forward_fast(cache->k + cache->len * d_model, input, layer->k_proj, NULL, 1, d_model,
                        d_model);
    linear_forward_fast(cache->v + cache->len * d_model, input, layer->v_proj, NULL, 1, d_model,
                        d_model);
    cache->len = len;
    PARALLEL_FOR(schedule(static))
    for (size_t head = 0; head < layer->n_head; head++) {
        size_t first = head * d_head;
        attend(mixed + first, weights + head * len, q + first, cache->k + first, cache->v + first,
               len, d_head, d_model);
    }
    linear_forward_fast(out, mixed, layer->o_proj, NULL, 1, d_model, d_model);
}

/* ======================================= The demos ========================================= */

/* A block with everything that it works with. */
typedef struct {
    MambaBlock block;
    BlockCache cache;
    BlockState state;
    float *memory;
} OwnBlock;

static OwnBlock own_block_new(const MambaConfig *config, size_t batch, size_t len, Random *random)
{
    OwnBlock own;
    memset(&own, 0, sizeof own);
    own.block.config = *config;
    size_t params = block_params_floats(config), A = config->intermediate_size * config->state_size;
    size_t state = block_state_floats(config, batch);
    size_t cache = block_cache_place(&own.cache, NULL, &own.block, batch, len, false);
    own.memory = NEW(float, params + A + state + cache + 64);
    float *next = own.memory + (-(uintptr_t)own.memory % 64) / sizeof(float);
    own.block.params = block_params_place(next, config);
    block_cache_place(&own.cache, next + params, &own.block, batch, len, false);
    own.block.A = next + params + cache;
    own.state = block_state_place(own.block.A + A, config, batch);
    block_init(&own.block.params, config, random);
    block_refresh(&own.block);
    return own;
}

static void own_block_free(OwnBlock *own)
{
    free(own->memory);
}

static float *random_floats(size_t count, Random *random)
{
    float *values = NEW(float, count);
    for (size_t i = 0; i < count; i++)
        values[i] = (float)random_normal(random);
    return values;
}

/* One stage: its name, its shape for one token, and its first numbers at the last token. */
static void print_stage(const char *name, const char *what, const float *values, size_t wide,
                        size_t token)
{
    printf("  %-8s %-46s %5zu ", name, what, wide);
    for (size_t i = 0; i < smaller(wide, 4); i++)
        printf(" %8.4f", rounded_to((double)values[token * wide + i], 10000.0));
    putchar('\n');
}

/* The last of a few tokens on its way through a block with random weights. */
static void demo_block_trace(const MambaConfig *config, uint64_t seed)
{
    enum { LEN = 8 };
    Random random = random_from_seed(seed);
    OwnBlock own = own_block_new(config, 1, LEN, &random);
    size_t d_model = config->hidden_size, d_inner = config->intermediate_size, last = LEN - 1;
    float *input = random_floats(LEN * d_model, &random), *out = NEW(float, LEN *d_model);
    float *normed = NEW(float, LEN *d_model), scale[LEN], *delta = NEW(float, LEN *d_inner);
    float *y = NEW(float, LEN *d_inner), *gated = NEW(float, LEN *d_inner);
    rms_norm_forward(normed, scale, input, own.block.params.tensor[NORM_WEIGHT],
                     config->layer_norm_epsilon, LEN, d_model);
    block_forward(out, &own.cache, &own.state, input, &own.block);
    Scan scan = block_scan(&own.cache, &own.block, NULL);
    for (size_t i = 0; i < LEN * d_inner; i++)
        delta[i] = step_size(&scan, i / d_inner, i % d_inner);
    scan.z = NULL;
    selective_scan(y, NULL, &scan);
    gate_forward(gated, y, own.cache.z, LEN * d_inner);
    printf("Token %d of %d through one block, d_model %zu, random weights (seed %" PRIu64 ")\n\n",
           LEN, LEN, d_model, seed);
    puts("  stage    what is done                                   width   first numbers");
    print_stage("input", "", input, d_model, last);
    print_stage("normed", "divided by its root mean square, times weight", normed, d_model, last);
    print_stage("u", "in_proj, first half", own.cache.u_raw, d_inner, last);
    print_stage("z", "in_proj, second half: the gate", own.cache.z, d_inner, last);
    print_stage("conv", "the last d_conv tokens of each channel", own.cache.conv, d_inner, last);
    print_stage("u", "silu", own.cache.u, d_inner, last);
    print_stage("dt", "x_proj, first part", own.cache.dt_low, config->time_step_rank, last);
    print_stage("B", "x_proj, second part: what to write", own.cache.B, config->state_size, last);
    print_stage("C", "x_proj, last part: what to read", own.cache.C, config->state_size, last);
    print_stage("Delta", "softplus(dt_proj(dt) + bias): how far to move", delta, d_inner, last);
    print_stage("x", "the state of channel 1", own.state.x, config->state_size, 0);
    print_stage("y", "C x + D u: what is read", y, d_inner, last);
    print_stage("gated", "y silu(z)", gated, d_inner, last);
    print_stage("out", "out_proj, plus the input", out, d_model, last);
    printf(
        "\nWhat goes on to token %d: %zu numbers of x and %zu of the convolution, however long the "
        "text.\n",
        LEN + 1, d_inner * config->state_size, d_inner * (config->conv_kernel - 1));
    free(input), free(out), free(normed), free(delta), free(y), free(gated);
    own_block_free(&own);
}

/* Every parameter of a block with its shape, and how many there are. */
static void demo_count(const MambaConfig *config)
{
    TensorShape shapes[BLOCK_TENSORS];
    block_shapes(shapes, config);
    printf("The parameters of a block, d_model %zu\n\n", config->hidden_size);
    for (int i = 0; i < BLOCK_TENSORS; i++) {
        char shape[64];
        size_t len = 0;
        for (size_t axis = 0; axis < shapes[i].rank; axis++)
            len += (size_t)snprintf(shape + len, sizeof shape - len, "%s%zu", axis > 0 ? ", " : "",
                                    shapes[i].shape[axis]);
        if (shapes[i].count > 0)
            printf("  %-22s %16s %12zu\n", shapes[i].name, shape, shapes[i].count);
    }
    printf("  %-22s %16s %12zu\n", "all", "", block_params_count(config));
}

/* ---- recall ---- */

enum { RECALL_STATE = 16, RECALL_WIDE = 32, RECALL_VALUES = 16 };

/* Which of the value codes (RECALL_VALUES, RECALL_WIDE) is nearest to y. */
static size_t nearest_value(const float *y, const float *code)
{
    size_t best = 0;
    for (size_t c = 1; c < RECALL_VALUES; c++)
        if (dot(y, code + c * RECALL_WIDE, RECALL_WIDE) >
            dot(y, code + best * RECALL_WIDE, RECALL_WIDE))
            best = c;
    return best;
}

/* k keys, each a random direction in RECALL_STATE dimensions, each with a value. Then one is
   asked for. The scan writes value u under key B into its state (Delta = 1, A = 0) and reads with
   C = the key; attention weighs all values by how well their keys match. Returns who was right:
   1, 2 or 3. */
static int recall_once(size_t pairs, Random *random)
{
    size_t len = pairs + 1, asked = random_u32(random) % pairs;
    float *key = random_floats(len * RECALL_STATE, random), *u = NEW(float, len *RECALL_WIDE);
    float *delta = NEW(float, len *RECALL_WIDE), *y = NEW(float, len *RECALL_WIDE);
    float *zeros = NEW(float, len *RECALL_STATE + RECALL_WIDE * RECALL_STATE),
          *weight = NEW(float, len);
    float code[RECALL_VALUES * RECALL_WIDE], mixed[RECALL_WIDE], query[RECALL_STATE];
    size_t *value = NEW(size_t, len);
    for (size_t i = 0; i < RECALL_VALUES * RECALL_WIDE; i++)
        code[i] = random_u32(random) % 2 ? 1.0f : -1.0f;
    for (size_t t = 0; t < pairs; t++) {
        float *k = key + t * RECALL_STATE, size = sqrtf(dot(k, k, RECALL_STATE));
        for (size_t i = 0; i < RECALL_STATE; i++)
            k[i] /= size;
        value[t] = random_u32(random) % RECALL_VALUES;
        for (size_t d = 0; d < RECALL_WIDE; d++) {
            u[t * RECALL_WIDE + d] = code[value[t] * RECALL_WIDE + d];
            delta[t * RECALL_WIDE + d] = 1.0f;
        }
    }
    memcpy(key + pairs * RECALL_STATE, key + asked * RECALL_STATE, sizeof query);
    Scan scan = {1,   len, RECALL_WIDE, RECALL_STATE, u,    delta, NULL, zeros,
                 key, key, NULL,        NULL,         NULL, NULL,  false};
    selective_scan_fast(y, NULL, &scan);
    for (size_t i = 0; i < RECALL_STATE; i++) /* a sharp look: matching keys win by far */
        query[i] = 200.0f * key[asked * RECALL_STATE + i];
    float total = 0.0f;
    zero(mixed, RECALL_WIDE);
    for (size_t t = 0; t < pairs; t++) {
        weight[t] = expf(dot(query, key + t * RECALL_STATE, RECALL_STATE) - 200.0f);
        total += weight[t];
        for (size_t d = 0; d < RECALL_WIDE; d++)
            mixed[d] += weight[t] * u[t * RECALL_WIDE + d];
    }
    int right = (nearest_value(y + pairs * RECALL_WIDE, code) == value[asked]) +
                2 * (total > 0.0f && nearest_value(mixed, code) == value[asked]);
    free(key), free(u), free(delta), free(y), free(zeros), free(weight), free(value);
    return right;
}

static bool demo_recall(const Look *look, const char *svg, uint64_t seed, Error *error)
{
    enum { LOOKS_RECALL = 8, TRIES = 300 };
    double at[LOOKS_RECALL], score[2][LOOKS_RECALL];
    Random random = random_from_seed(seed);
    printf("Exact recall: k pairs of a key and a value are shown, then one key. A scan with %d "
           "states\n"
           "a channel against attention, which keeps all pairs (one value in %d is right by "
           "chance)\n\n",
           RECALL_STATE, RECALL_VALUES);
    puts("      k   fixed state   attention");
    for (size_t i = 0; i < LOOKS_RECALL; i++) {
        size_t pairs = (size_t)2 << i, right[2] = {0, 0};
        for (int k = 0; k < TRIES; k++) {
            int who = recall_once(pairs, &random);
            right[0] += who & 1;
            right[1] += who >> 1 & 1;
        }
        at[i] = (double)pairs;
        for (int k = 0; k < 2; k++)
            score[k][i] = (double)right[k] / TRIES;
        printf("  %5zu %12.1f%% %10.1f%%\n", pairs, 100.0 * score[0][i], 100.0 * score[1][i]);
    }
    Chart chart = chart_new("Exact recall of one pair in k", "pairs", "right");
    chart.log_x = true;
    chart_add(&chart, "fixed state", MARK_LINE, at, score[0], LOOKS_RECALL);
    chart_add(&chart, "attention", MARK_LINE, at, score[1], LOOKS_RECALL);
    return show_chart(&chart, look, svg, error);
}

/* ---- long sequences ---- */

enum { COMPARE_LOOKS = 7, COMPARE_FIRST = 256, COMPARE_STEPS = 20 };

/* What one length costs: seconds for a forward pass, for a step after it; bytes carried. */
typedef struct {
    double forward[2], step[2], carried[2]; /* Mamba, attention */
} Cost;

static double measure_step_mamba(OwnBlock *own, float *token)
{
    BlockCache cache;
    float *room = NEW(float, block_cache_place(&cache, NULL, &own->block, 1, 1, false) + 16);
    block_cache_place(&cache, room, &own->block, 1, 1, false);
    double seconds[COMPARE_STEPS];
    for (int i = 0; i < COMPARE_STEPS; i++) {
        double start = seconds_now();
        block_step(token, &cache, &own->state, token, &own->block);
        seconds[i] = seconds_now() - start;
    }
    free(room);
    return median(seconds, COMPARE_STEPS);
}

static double measure_step_attention(const Attention *layer, float *token, size_t len)
{
    size_t d_model = layer->d_model;
    KeyValueCache cache = {NEW(float, (len + COMPARE_STEPS) * d_model),
                           NEW(float, (len + COMPARE_STEPS) * d_model), len};
    float *work = NEW(float, 2 * d_model + layer->n_head * (len + COMPARE_STEPS + 1));
    double seconds[COMPARE_STEPS];
    for (int i = 0; i < COMPARE_STEPS; i++) {
        double start = seconds_now();
        attention_step(token, &cache, work, token, layer);
        seconds[i] = seconds_now() - start;
    }
    free(cache.k), free(cache.v), free(work);
    return median(seconds, COMPARE_STEPS);
}

/* A block without its norm and an attention layer, both of width d_model, on one sequence. */
static Cost measure_cost(const MambaConfig *config, const Attention *layer, size_t len,
                         Random *random)
{
    size_t d_model = config->hidden_size;
    Cost cost;
    OwnBlock own = own_block_new(config, 1, len, random);
    float *input = random_floats(len * d_model, random), *out = NEW(float, len *d_model);
    float *work = NEW(float, attention_floats(layer, len));
    double mamba[3], attention[3];
    for (int i = 0; i < 3; i++) {
        double start = seconds_now();
        block_forward(out, &own.cache, &own.state, input, &own.block);
        mamba[i] = seconds_now() - start;
        start = seconds_now();
        attention_forward_fast(out, work, input, layer, len);
        attention[i] = seconds_now() - start;
    }
    cost.forward[0] = median(mamba, 3);
    cost.forward[1] = median(attention, 3);
    cost.step[0] = measure_step_mamba(&own, out);
    cost.step[1] = measure_step_attention(layer, out, len);
    cost.carried[0] = (double)block_state_floats(config, 1) * sizeof(float);
    cost.carried[1] = 2.0 * (double)(len * d_model) * sizeof(float);
    free(input), free(out), free(work);
    own_block_free(&own);
    return cost;
}

static bool demo_compare(const MambaConfig *config, const Look *look, const char *svg, Error *error)
{
    size_t d_model = config->hidden_size;
    Random random = random_from_seed(1);
    float *weights = random_floats(4 * d_model * d_model, &random);
    for (size_t i = 0; i < 4 * d_model * d_model; i++)
        weights[i] /= sqrtf((float)d_model);
    size_t heads = d_model % 64 == 0 ? d_model / 64 : 1;
    Attention layer = {d_model,
                       heads,
                       weights,
                       weights + d_model * d_model,
                       weights + 2 * d_model * d_model,
                       weights + 3 * d_model * d_model};
    double len[COMPARE_LOOKS], forward[2][COMPARE_LOOKS], step[2][COMPARE_LOOKS];
    Progress progress = progress_start("measuring");
    printf(
        "One Mamba block and one attention layer of %zu heads, both of width %zu, %d threads\n\n",
        heads, d_model, threads_most());
    puts("              forward, ms            a token more, us         carried, KB");
    puts("  tokens    Mamba  attention       Mamba  attention       Mamba  attention");
    for (size_t i = 0; i < COMPARE_LOOKS; i++) {
        size_t tokens = (size_t)COMPARE_FIRST << i;
        Cost cost = measure_cost(config, &layer, tokens, &random);
        len[i] = (double)tokens;
        for (int k = 0; k < 2; k++) {
            forward[k][i] = 1e6 * cost.forward[k] / (double)tokens;
            step[k][i] = 1e6 * cost.step[k];
        }
        printf("  %6zu %8.1f %10.1f %11.0f %10.0f %11.0f %10.0f\n", tokens, 1e3 * cost.forward[0],
               1e3 * cost.forward[1], step[0][i], step[1][i], cost.carried[0] / 1024,
               cost.carried[1] / 1024);
        progress_show(&progress, (double)tokens, (double)(COMPARE_FIRST << (COMPARE_LOOKS - 1)));
    }
    progress_end(&progress);
    free(weights);
    Chart chart = chart_new("What a token costs", "tokens before it", "microseconds");
    chart.log_x = chart.log_y = true;
    chart_add(&chart, "Mamba, whole", MARK_LINE, len, forward[0], COMPARE_LOOKS);
    chart_add(&chart, "attention, whole", MARK_LINE, len, forward[1], COMPARE_LOOKS);
    chart_add(&chart, "Mamba, step", MARK_LINE, len, step[0], COMPARE_LOOKS);
    chart_add(&chart, "attention, step", MARK_LINE, len, step[1], COMPARE_LOOKS);
    return show_chart(&chart, look, svg, error);
}

/* ---- the diagram ---- */

static void svg_box(FILE *out, double x, double y, double width, const char *text, const char *fill)
{
    fprintf(out,
            "<rect x=\"%.0f\" y=\"%.0f\" width=\"%.0f\" height=\"30\" rx=\"5\" fill=\"%s\" "
            "stroke=\"#555\"/>\n",
            x, y, width, fill);
    svg_text(out, x + width / 2.0, y + 20.0, "text-anchor=\"middle\"", text);
}

static void svg_path(FILE *out, const char *path)
{
    fprintf(out,
            "<path d=\"%s\" fill=\"none\" stroke=\"#555\" stroke-width=\"1.5\" "
            "marker-end=\"url(#head)\"/>\n",
            path);
}

/* The block as boxes, from the input at the top to the output. */
static void svg_block(FILE *out, const MambaConfig *config)
{
    static const struct {
        double x, y, width;
        const char *text, *fill;
    } boxes[] = {{220, 60, 150, "RMSNorm", "#eee"},
                 {150, 120, 290, "in_proj", "#cfe3f3"},
                 {120, 190, 190, "conv1d, causal", "#cfe3f3"},
                 {120, 240, 190, "silu", "#eee"},
                 {40, 300, 150, "x_proj", "#cfe3f3"},
                 {40, 360, 80, "dt_proj", "#cfe3f3"},
                 {120, 430, 190, "selective scan", "#f6d9b8"},
                 {400, 430, 100, "silu", "#eee"},
                 {220, 500, 150, "multiply", "#eee"},
                 {220, 560, 150, "out_proj", "#cfe3f3"},
                 {220, 620, 150, "add", "#eee"}};
    static const char *const paths[] = {"M295,40 V58",
                                        "M295,90 V118",
                                        "M215,150 V188",
                                        "M215,220 V238",
                                        "M260,270 V428",
                                        "M180,270 V285 H115 V298",
                                        "M80,330 V358",
                                        "M80,390 V445 H118",
                                        "M150,330 V428",
                                        "M400,150 V160 H450 V428",
                                        "M215,460 V480 H270 V498",
                                        "M450,460 V480 H320 V498",
                                        "M295,530 V558",
                                        "M295,590 V618",
                                        "M295,650 V672",
                                        "M295,50 H560 V635 H372"};
    char text[96];
    svg_open(out, 620, 720);
    fputs("<defs><marker id=\"head\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" "
          "markerHeight=\"7\" orient=\"auto\"><path d=\"M0,0 L8,4 L0,8 z\" "
          "fill=\"#555\"/></marker></defs>\n",
          out);
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        svg_path(out, paths[i]);
    for (size_t i = 0; i < sizeof boxes / sizeof *boxes; i++)
        svg_box(out, boxes[i].x, boxes[i].y, boxes[i].width, boxes[i].text, boxes[i].fill);
    snprintf(text, sizeof text, "input: (len, %zu)", config->hidden_size);
    svg_text(out, 295, 30, "text-anchor=\"middle\"", text);
    svg_text(out, 295, 690, "text-anchor=\"middle\"", "out: the same shape");
    snprintf(text, sizeof text, "u: (len, %zu)", config->intermediate_size);
    svg_text(out, 225, 175, "", text);
    snprintf(text, sizeof text, "z: (len, %zu)", config->intermediate_size);
    svg_text(out, 458, 300, "", text);
    snprintf(text, sizeof text, "dt: %zu", config->time_step_rank);
    svg_text(out, 86, 350, "", text);
    snprintf(text, sizeof text, "B, C: %zu each", config->state_size);
    svg_text(out, 156, 350, "", text);
    svg_text(out, 86, 415, "", "Delta");
    snprintf(text, sizeof text, "state: (%zu, %zu)", config->intermediate_size, config->state_size);
    svg_text(out, 122, 476, "font-size=\"11\"", text);
    svg_text(out, 552, 350, "text-anchor=\"end\" font-size=\"11\"", "residual");
    svg_close(out);
}

/* ===================================== Measurements ======================================== */

typedef struct {
    float *x, *W, *y;
    size_t tokens, d_in, d_out;
} BenchProduct;

static double time_product(const BenchProduct *bench, int form)
{
    double seconds[BENCH_RUNS];
    for (int i = 0; i < BENCH_RUNS; i++) {
        double start = seconds_now();
        if (form == 0)
            linear_forward_fast(bench->y, bench->x, bench->W, NULL, bench->tokens, bench->d_in,
                                bench->d_out);
        else if (form == 1)
            linear_backward_input_fast(bench->x, bench->y, bench->W, false, bench->tokens,
                                       bench->d_in, bench->d_out);
        else
            linear_backward_weight_fast(bench->W, bench->y, bench->x, bench->tokens, bench->d_in,
                                        bench->d_out);
        seconds[i] = seconds_now() - start;
    }
    return median(seconds, BENCH_RUNS);
}

static void bench_products(double peak)
{
    static const char *const names[3] = {"forward", "backward, input", "backward, weight"};
    Random random = random_from_seed(1);
    BenchProduct bench = {NULL, NULL, NULL, 512, 768, 1536};
    int threads = threads_most();
    bench.x = random_floats(bench.tokens * bench.d_in, &random);
    bench.W = random_floats(bench.d_in * bench.d_out, &random);
    bench.y = random_floats(bench.tokens * bench.d_out, &random);
    double work = (double)(bench.tokens * bench.d_in * bench.d_out);
    printf("The products of a linear layer, 512 tokens, 768 to 1536; peak %.0f GFLOP/s a "
           "processor\n\n",
           2e-9 * peak);
    threads_use(1);
    double start = seconds_now();
    linear_forward(bench.y, bench.x, bench.W, NULL, bench.tokens, bench.d_in, bench.d_out);
    double clear = seconds_now() - start;
    printf("  %-18s %8.1f ms  %5.1f GFLOP/s  %3.0f %% of the peak\n", "forward, clear", 1e3 * clear,
           2e-9 * work / clear, 100.0 * work / clear / peak);
    for (int form = 0; form < 3; form++) {
        threads_use(1);
        double one = time_product(&bench, form);
        threads_use(threads);
        double all = time_product(&bench, form);
        printf("  %-18s %8.1f ms  %5.1f GFLOP/s  %3.0f %% of the peak; on %d threads 1/%.2f\n",
               names[form], 1e3 * one, 2e-9 * work / one, 100.0 * work / one / peak, threads,
               one / all);
        memset(bench.x, 0, bench.tokens * bench.d_in * sizeof(float));
    }
    free(bench.x), free(bench.W), free(bench.y);
}

/* A model of 24 such blocks, as mamba-130m has: a prompt, and a token at a time. */
static void bench_block(double peak)
{
    enum { LEN = 512, BLOCKS = 24 };
    Random random = random_from_seed(2);
    MambaConfig config = config_default(768);
    OwnBlock own = own_block_new(&config, 1, LEN, &random);
    float *input = random_floats(LEN * 768, &random), *out = NEW(float, LEN * 768);
    int threads = threads_most();
    double work = LEN * (double)block_params_count(&config);
    puts("\nOne block of mamba-130m's shape (768, 24 blocks in all)\n");
    for (int use = 1; use <= threads; use += threads > 1 ? threads - 1 : 1) {
        double seconds[5];
        threads_use(use);
        for (int i = 0; i < 5; i++) {
            double start = seconds_now();
            block_forward(out, &own.cache, &own.state, input, &own.block);
            seconds[i] = seconds_now() - start;
        }
        double forward = median(seconds, 5), step = measure_step_mamba(&own, out);
        printf(
            "  %d threads: %d tokens in %.1f ms, %.0f tokens a second for 24 blocks; the products\n"
            "             alone allow %.0f. A step takes %.0f us and reads %.1f GB/s of weights\n",
            use, LEN, 1e3 * forward, LEN / (forward * BLOCKS), LEN / (work / peak / use * BLOCKS),
            1e6 * step, 4e-9 * (double)block_params_count(&config) / step);
    }
    threads_use(threads);
    free(input), free(out);
    own_block_free(&own);
}

static void demo_block_bench(void)
{
    double peak = measure_multiply_adds();
    bench_products(peak);
    bench_block(peak);
}

/* ======================================= Options =========================================== */

typedef struct {
    const char *config, *svg;
    uint64_t width, seed;
    bool trace, count, recall, compare, diagram, bench, ascii;
} BlockOptions;

static void block_usage(FILE *out)
{
    fputs(
        "usage: ch05_mamba_block [--trace | --count | --recall | --compare | --diagram | --bench]\n"
        "                        [--width N | --config FILE] [--seed S] [--svg FILE] [--ascii] "
        "[--help]\n",
        out);
}

static void block_help(void)
{
    block_usage(stdout);
    fputs("\nThe Mamba block (chapter 5). Without options: a token's way through it, its "
          "parameters, and\n"
          "what attention can do that it cannot.\n\n"
          "  --trace        one token, stage by stage\n"
          "  --count        the parameters, one by one\n"
          "  --recall       looking up one of k pairs: a fixed state against attention\n"
          "  --compare      time and memory of long sequences against attention (measures)\n"
          "  --diagram      the block as a picture; needs --svg FILE\n"
          "  --bench        how near the products come to what this machine can do (measures)\n"
          "  --width N      d_model, 1 to 4096 (default 16; 768 for --count, 256 for --compare)\n"
          "  --config FILE  sizes from a Hugging Face config.json\n"
          "  --seed S       seed of the random weights (default 1)\n"
          "  --svg FILE     write the figure of --recall, --compare or --diagram\n"
          "  --ascii        draw without Unicode\n",
          stdout);
}

static bool block_options_fit(const BlockOptions *options, Error *error)
{
    int ways = options->trace + options->count + options->recall + options->compare +
               options->diagram + options->bench;
    if (ways > 1)
        return fail(error,
                    "--trace, --count, --recall, --compare, --diagram and --bench exclude each "
                    "other");
    if (options->config && options->width)
        return fail(error, "--width and --config exclude each other");
    if (options->diagram && !options->svg)
        return fail(error, "--diagram needs --svg FILE");
    if (options->svg && !options->recall && !options->compare && !options->diagram)
        return fail(error, "--svg needs --recall, --compare or --diagram");
    return true;
}

/* Fills `options`; false with an error, or with an empty one if getopt has said what is wrong. */
static bool block_options_parse(BlockOptions *options, int argc, char **argv, Error *error)
{
    static const struct option known[] = {
        {"trace", 0, NULL, 't'},   {"count", 0, NULL, 'n'},   {"recall", 0, NULL, 'r'},
        {"compare", 0, NULL, 'c'}, {"diagram", 0, NULL, 'd'}, {"bench", 0, NULL, 'b'},
        {"width", 1, NULL, 'w'},   {"config", 1, NULL, 'f'},  {"seed", 1, NULL, 's'},
        {"svg", 1, NULL, 'v'},     {"ascii", 0, NULL, 'a'},   {"help", 0, NULL, 'h'},
        {NULL, 0, NULL, 0}};
    memset(options, 0, sizeof *options);
    options->seed = 1;
    error->text[0] = '\0';
    bool ok = true;
    for (int code; ok && (code = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (code) {
        case 't': options->trace = true; break;
        case 'n': options->count = true; break;
        case 'r': options->recall = true; break;
        case 'c': options->compare = true; break;
        case 'd': options->diagram = true; break;
        case 'b': options->bench = true; break;
        case 'f': options->config = optarg; break;
        case 'v': options->svg = optarg; break;
        case 'a': options->ascii = true; break;
        case 'w': ok = option_integer(&options->width, "width", optarg, 1, 4096, error); break;
        case 's': ok = option_integer(&options->seed, "seed", optarg, 0, UINT64_MAX, error); break;
        case 'h': block_help(); exit(0);
        default: return false;
        }
    }
    if (ok && optind < argc)
        return fail(error, "'%.40s' is not an option", argv[optind]);
    return ok && block_options_fit(options, error);
}

static bool run_diagram(const MambaConfig *config, const char *svg, Error *error)
{
    OutFile out;
    if (!out_open(&out, svg, error))
        return false;
    svg_block(out.stream, config);
    return out_close(&out, error);
}

static bool run_block(const BlockOptions *options, const Look *look, Error *error)
{
    bool all = !options->trace && !options->count && !options->recall;
    size_t usual = options->compare ? 256 : options->count || options->diagram ? 768 : 16;
    MambaConfig config = config_default(options->width ? (size_t)options->width : usual);
    if (options->config && !config_read(&config, options->config, error))
        return false;
    if (options->diagram)
        return run_diagram(&config, options->svg, error);
    if (options->compare)
        return demo_compare(&config, look, options->svg, error);
    if (options->bench) {
        demo_block_bench();
        return true;
    }
    if (options->trace || all)
        demo_block_trace(&config, options->seed);
    if (all)
        putchar('\n');
    if (options->count || all)
        demo_count(&config);
    if (all)
        putchar('\n');
    return !(options->recall || all) || demo_recall(look, options->svg, options->seed, error);
}

int mamba_block_main(int argc, char **argv)
{
    BlockOptions options;
    Error error;
    if (!block_options_parse(&options, argc, argv, &error)) {
        if (error.text[0])
            fprintf(stderr, "error: %s\n", error.text);
        block_usage(stderr);
        return 2;
    }
    Look look = look_at_terminal(options.ascii);
    bool ok = run_block(&options, &look, &error);
    fflush(stdout); /* what was said before the error comes before it */
    if (!ok)
        fprintf(stderr, "error: %s\n", error.text);
    return ok ? 0 : 1;
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return mamba_block_main(argc, argv);
}
#endif

#endif /* CH05_MAMBA_BLOCK */
