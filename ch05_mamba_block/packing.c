/* Packed of different lengths in one row of tokens, each of which begins with nothing.

   HOLDS   where the texts of a batch begin; the convolution and the scan, forwards and backwards,
           text by text: the two boxes of a block that look back
   FOR     mamba_block.c; language_model.c finds the texts, stories_test.c packs its stories */

#ifndef CH05_PACKING
#define CH05_PACKING

#include "convolution.c"

/* The scan that blocks go through: chapter 6 can be put in its place. */
#ifndef BLOCK_SCAN
#define BLOCK_SCAN selective_scan_fast
#endif

/* Where texts begin, counted in tokens through the whole batch: text i is the tokens start[i] ..
   start[i + 1] - 1, and start[count] is where the last one ends. Nothing packed (NULL): every row
   of the batch is one text. */
typedef struct {
    size_t count, *start; /* (count + 1) */
} Packed;

/* The texts of ids (batch, len): every row begins one, and so does every token after `end`, the
   token that ends a text. texts->start has room for batch len + 1. */
void texts_find(Packed *texts, const int32_t *ids, size_t batch, size_t len, int32_t end)
{
    texts->count = 0;
    for (size_t t = 0; t < batch * len; t++)
        if (t % len == 0 || ids[t - 1] == end)
            texts->start[texts->count++] = t;
    texts->start[texts->count] = batch * len;
}

/* ===================================== The convolution ===================================== */

/* What a convolution goes over: channels of d_inner numbers a token, d_conv taps each. */
typedef struct {
    size_t batch, len, d_inner, d_conv;
    const float *weight, *bias, *zeros; /* (d_inner, 1, d_conv), (d_inner) or NULL, (d_inner) */
} Conv;

/* out = conv1d(u). What was before a text's first token is its own row of `past` (texts,
   d_conv - 1, d_inner), which becomes what is to be known of it afterwards; with NULL there was
   nothing, and above all not the text before it. */
void conv1d_texts(float *out, float *past, const float *u, const Conv *conv, const Packed *texts)
{
    size_t d_inner = conv->d_inner, d_conv = conv->d_conv, count = texts ? texts->count : 1;
    for (size_t i = 0; i < count; i++) {
        size_t first = texts ? texts->start[i] : 0, batch = texts ? 1 : conv->batch;
        size_t len = texts ? texts->start[i + 1] - first : conv->len;
        float *own = past == NULL ? NULL : past + i * (d_conv - 1) * d_inner;
        conv1d_forward_fast(out + first * d_inner, u + first * d_inner, own, conv->zeros,
                            conv->weight, conv->bias, batch, len, d_inner, d_conv);
        if (past != NULL)
            conv1d_keep(own, u + first * d_inner, batch, len, d_inner, d_conv);
    }
}

/* to (count) += from, unless they are NULL. */
static void add_to(float *to, const float *from, size_t count)
{
    for (size_t i = 0; i < count && to != NULL; i++)
        to[i] += from[i];
}

/* Its gradients, as conv1d_backward has them, for texts that began with nothing. `one` has room for
   those of one text's weight and bias, d_inner (d_conv + 1): they add up, in the order of texts. */
void conv1d_texts_backward(float *u_grad, float *weight_grad, float *bias_grad,
                           const float *out_grad, const float *u, const Conv *conv,
                           const Packed *texts, float *one)
{
    size_t d_inner = conv->d_inner, d_conv = conv->d_conv, taps = d_inner * d_conv;
    if (texts == NULL) {
        conv1d_backward_fast(u_grad, weight_grad, bias_grad, out_grad, u, conv->weight, conv->batch,
                             conv->len, d_inner, d_conv);
        return;
    }
    zero(weight_grad, taps);
    zero(bias_grad, d_inner);
    for (size_t i = 0; i < texts->count; i++) {
        size_t at = texts->start[i] * d_inner, len = texts->start[i + 1] - texts->start[i];
        conv1d_backward_fast(u_grad + at, one, one + taps, out_grad + at, u + at, conv->weight, 1,
                             len, d_inner, d_conv);
        add_to(weight_grad, one, taps);
        add_to(bias_grad, one + taps, d_inner);
    }
}

/* ======================================== The scan ========================================= */
/* To begin with nothing is to have A_bar = 0 at a text's first token: a pair (0, b) of chapter   */
/* 4, which joins with any other. (Not Delta = 0: that would keep what was there, and leave out   */
/* what the token writes.) Here no factor is set; a text's scan begins with an empty state.       */

/* Text i as a scan of its own, with its own row of x_start (texts, d_inner, d_state). */
static Scan scan_of_text(const Scan *scan, const Packed *texts, size_t i)
{
    Scan text = scan_piece(scan, 0, texts->start[i], texts->start[i + 1]);
    if (scan->x_start != NULL)
        text.x_start = scan->x_start + i * scan->d_inner * scan->d_state;
    return text;
}

/* y = scan(...), and x_last (texts, d_inner, d_state) unless it is NULL: the same bits as if each
   text came alone. */
void scan_texts(float *y, float *x_last, const Scan *scan, const Packed *texts)
{
    if (texts == NULL) {
        BLOCK_SCAN(y, x_last, scan);
        return;
    }
    for (size_t i = 0; i < texts->count; i++) {
        Scan text = scan_of_text(scan, texts, i);
        BLOCK_SCAN(y + texts->start[i] * scan->d_inner,
                   x_last == NULL ? NULL : x_last + i * scan->d_inner * scan->d_state, &text);
    }
}

/* Its gradients (all but that of x_start), as selective_scan_backward has them. `work` is that of
   the whole scan; `one` has room for a text's own gradients of A, D and the bias, d_inner
   (d_state + 2): they add up, in the order of texts. scan->checkpoint is room for one text's. */
void scan_texts_backward(const ScanGrad *grad, const float *y_grad, const Scan *scan, float *work,
                         const Packed *texts, float *one)
{
    size_t d_inner = scan->d_inner, d_state = scan->d_state, states = d_inner * d_state;
    if (texts == NULL) {
        selective_scan_backward_fast(grad, y_grad, NULL, scan, work);
        return;
    }
    zero(grad->A, states);
    zero(grad->D, d_inner);
    zero(grad->delta_bias, d_inner);
    for (size_t i = 0; i < texts->count; i++) {
        size_t wide = texts->start[i] * d_inner, shared = texts->start[i] * d_state;
        Scan text = scan_of_text(scan, texts, i);
        ScanGrad own = {
            grad->u + wide,   grad->delta + wide, one + states + d_inner, one, grad->B + shared,
            grad->C + shared, one + states,       grad->z + wide,         NULL};
        text.checkpoint = scan->checkpoint;
        selective_scan_fast(NULL, NULL, &text); /* for the checkpoints */
        selective_scan_backward_fast(&own, y_grad + wide, NULL, &text, work);
        add_to(grad->A, one, states);
        add_to(grad->D, one + states, d_inner);
        add_to(grad->delta_bias, one + states + d_inner, d_inner);
    }
}

#endif /* CH05_PACKING */
