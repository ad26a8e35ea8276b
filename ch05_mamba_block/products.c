/* Matrix products and dot products, as fast as the processor allows.

   HOLDS   the three products of a linear layer (forward, backward for its input, backward for its
           weight), the dot product, columns cut out of a matrix and put in
   FOR     mamba_block.c, which has the three products as they are defined, with the same
           signatures, and all that is built on it
   SOURCE  K. Goto, R. van de Geijn, Anatomy of high-performance matrix multiplication,
           ACM TOMS 34 (2008) */

#ifndef CH05_PRODUCTS
#define CH05_PRODUCTS

#include "../ch04_selective/fast_scan.c"

/* ======================================= Any product ====================================== */
/* All three are out (rows, cols) = sum over k of left(row, k) right(k, col), read with different
   strides. A tile of TILE_ROWS rows and TILE_VECTORS vectors of columns is summed in registers:
   each number that is loaded is then used many times. */
enum {
#if LANES == 16 || defined(__aarch64__) /* 32 registers: 24 sums, 3 vectors of columns, a row's */
    TILE_ROWS = 8,
    TILE_VECTORS = 3,
#else /* 16 registers: 12, 2 and 1 */
    TILE_ROWS = 6,
    TILE_VECTORS = 2,
#endif
    TILE_COLS = TILE_VECTORS * LANES,
    PANEL_DEPTH = 256, /* of k; a panel of the right matrix stays in the second cache */
    PANEL_COLS = 384,
    BLOCK_ROWS = 12 * TILE_ROWS, /* of the left matrix, where it is copied */
    APART = 2,      /* lines left free, so that copied tiles are no power of two from one another */
    FEW_ROWS = 48,  /* fewer: a copy of the right matrix would cost more than it saves */
    FEW_TOKENS = 4, /* fewer: each row of W is read once and used at once */
    SHARE_COLS = 4 * TILE_COLS /* at least, where threads share out columns */
};

/* The loop after this does that many rounds at once. Short loops clang unrolls best untold, and
   nvcc's first pass knows no such pragma. */
#if defined(__CUDACC__) || defined(__clang__)
#define PRODUCT_UNROLL(rounds)
#else
#define PRODUCT_UNROLL(rounds) PRODUCT_PRAGMA(GCC unroll rounds)
#define PRODUCT_PRAGMA(text)   _Pragma(#text)
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

/* The same matrix from row i and column j on. */
static Strided strided_from(Strided matrix, size_t i, size_t j)
{
    return strided(matrix.at + i * matrix.row + j * matrix.col, matrix.row, matrix.col);
}

/* What is wanted, or a part of it: out = left right, + out if `add`. */
typedef struct {
    float *out; /* (rows, cols): element (i, j) is out[i * out_row + j * out_col] */
    size_t out_row, out_col;
    Strided left, right; /* (rows, depth) and (depth, cols) */
    size_t rows, cols, depth;
    bool add;
} Product;

/* A whole tile of `vectors` vectors, out_row from row to row. `right` is (depth, vectors LANES),
   right_row from row to row. */
INLINE void tile_of(float *out, size_t out_row, Strided left, const float *right, size_t right_row,
                    size_t depth, bool add, const size_t vectors)
{
    Lanes sum[TILE_ROWS][TILE_VECTORS], in[TILE_VECTORS];
    PRODUCT_UNROLL(8)
    for (size_t i = 0; i < TILE_ROWS; i++)
        for (size_t j = 0; j < vectors; j++) {
            sum[i][j] = lanes_all(0.0f);
            __builtin_prefetch(out + i * out_row + j * LANES, 1); /* wanted with the sums done */
        }
    size_t k = 0;
    PRODUCT_UNROLL(4)
    do { /* a depth of 0 is kept away: sums that may be stored at once would live in memory */
        for (size_t j = 0; j < vectors; j++)
            in[j] = lanes_load(right + k * right_row + j * LANES);
        PRODUCT_UNROLL(8)
        for (size_t i = 0; i < TILE_ROWS; i++) {
            Lanes value = lanes_all(left.at[i * left.row + k * left.col]);
            for (size_t j = 0; j < vectors; j++)
                sum[i][j] = lanes_multiply_add(value, in[j], sum[i][j]);
        }
    } while (++k < depth);
    PRODUCT_UNROLL(8)
    for (size_t i = 0; i < TILE_ROWS; i++)
        for (size_t j = 0; j < vectors; j++) {
            float *to = out + i * out_row + j * LANES;
            lanes_store(to, add ? sum[i][j] + lanes_load(to) : sum[i][j]);
        }
}

/* A tile of `cols` columns, with left as it lies or copied: in each of the six calls the compiler
   knows how many vectors, and which stride is 1. */
static void product_tile(float *out, size_t out_row, Strided left, const float *right,
                         size_t right_row, size_t cols, size_t depth, bool add)
{
#define TILE_OF(count, row, col)                                                                   \
    tile_of(out, out_row, strided(left.at, row, col), right, right_row, depth, add, count)
    bool copied = left.col != 1;
    if (cols == TILE_COLS)
        copied ? TILE_OF(TILE_VECTORS, 1, TILE_ROWS) : TILE_OF(TILE_VECTORS, left.row, 1);
    else if (cols == 2 * LANES)
        copied ? TILE_OF(2, 1, TILE_ROWS) : TILE_OF(2, left.row, 1);
    else
        copied ? TILE_OF(1, 1, TILE_ROWS) : TILE_OF(1, left.row, 1);
#undef TILE_OF
}

/* Columns of the next tile, of `left` that are left, in whole vectors. A vector alone has too few
   sums to keep the processor busy: four vectors are 2 and 2, not 3 and 1. */
INLINE size_t tile_cols(size_t left)
{
    size_t vectors = (left + LANES - 1) / LANES;
    return LANES * (TILE_VECTORS == 3 && vectors == 4 ? 2 : smaller(vectors, TILE_VECTORS));
}

/* The right matrix, (tiles, depth + APART, columns of the tile), zeros from `cols` to the end of a
   vector. */
static void panel_copy(float *panel, Strided from, size_t depth, size_t cols)
{
    for (size_t k = 0; k < depth; k++)
        for (size_t first = 0, wide; first < cols; first += wide) {
            wide = tile_cols(cols - first);
            const float *row = from.at + k * from.row + first;
            float *to = panel + first * (depth + APART) + k * wide;
            if (wide == TILE_COLS && first + wide <= cols)
                memcpy(to, row, TILE_COLS * sizeof(float));
            else
                for (size_t j = 0; j < wide; j += LANES)
                    lanes_store(to + j, lanes_load_some(row + j, smaller(cols - first - j, LANES)));
        }
}

/* a0 b0 a1 b1 of every four numbers, and a2 b2 a3 b3. */
#if LANES == 16
#define LANES_LOW(a, b)  (Lanes) _mm512_unpacklo_ps((__m512)(a), (__m512)(b))
#define LANES_HIGH(a, b) (Lanes) _mm512_unpackhi_ps((__m512)(a), (__m512)(b))
#elif LANES == 8
#define LANES_LOW(a, b)  (Lanes) _mm256_unpacklo_ps((__m256)(a), (__m256)(b))
#define LANES_HIGH(a, b) (Lanes) _mm256_unpackhi_ps((__m256)(a), (__m256)(b))
#else
#define LANES_LOW(a, b)  lanes_zip(a, b, 0)
#define LANES_HIGH(a, b) lanes_zip(a, b, 2)
INLINE Lanes lanes_zip(Lanes a, Lanes b, int i)
{
    Lanes zipped = {a[i], b[i], a[i + 1], b[i + 1]};
    return zipped;
}
#endif

/* Four numbers of each of LANES columns, which lie `col` apart, become four rows. */
INLINE void columns_turn(float *to, size_t to_row, const float *from, size_t col)
{
    Lanes of[4];
    for (size_t i = 0; i < 4; i++)
        for (size_t q = 0; q < LANES; q += 4)
            memcpy((float *)&of[i] + q, from + (q + i) * col, 4 * sizeof(float));
    Lanes low_02 = LANES_LOW(of[0], of[2]), high_02 = LANES_HIGH(of[0], of[2]);
    Lanes low_13 = LANES_LOW(of[1], of[3]), high_13 = LANES_HIGH(of[1], of[3]);
    lanes_store(to, LANES_LOW(low_02, low_13));
    lanes_store(to + to_row, LANES_HIGH(low_02, low_13));
    lanes_store(to + 2 * to_row, LANES_LOW(high_02, high_13));
    lanes_store(to + 3 * to_row, LANES_HIGH(high_02, high_13));
}

/* panel_copy of a matrix with column after column in memory. */
static void panel_turn(float *panel, Strided from, size_t depth, size_t cols)
{
    for (size_t first = 0, wide; first < cols; first += wide) {
        wide = tile_cols(cols - first);
        for (size_t j = first; j < first + wide; j += LANES) {
            const float *at = from.at + j * from.col;
            float *to = panel + first * (depth + APART) + j - first;
            size_t k = 0;
            for (; k + 4 <= depth && j + LANES <= cols; k += 4)
                columns_turn(to + k * wide, wide, at + k, from.col);
            for (; k < depth; k++)
                for (size_t l = 0; l < LANES; l++)
                    to[k * wide + l] = j + l < cols ? at[l * from.col + k] : 0.0f;
        }
    }
}

/* Rows of the left matrix, (tiles, depth + APART, TILE_ROWS), zeros from `rows` to the end of a
   tile. Wanted for a tile that is not whole, and where a row lies across memory. */
static void rows_pack(float *block, Strided left, size_t rows, size_t depth)
{
    size_t whole = left.row == 1 ? rows / TILE_ROWS * TILE_ROWS : 0;
    for (size_t k = 0; k < depth; k++) {
        const float *from = left.at + k * left.col;
        float *to = block + k * TILE_ROWS;
        for (size_t i = 0; i < whole; i += TILE_ROWS)
            memcpy(to + i * (depth + APART), from + i, TILE_ROWS * sizeof(float));
        for (size_t i = whole; i < rows; i += TILE_ROWS)
            for (size_t l = 0; l < TILE_ROWS; l++)
                to[i * (depth + APART) + l] = i + l < rows ? from[(i + l) * left.row] : 0.0f;
    }
}

/* A tile's sums (rows, cols), from `beside`, TILE_COLS from row to row, to where they belong. */
static void tile_put(float *out, const float *beside, const Product *p, size_t rows, size_t cols)
{
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j += LANES) {
            size_t some = smaller(cols - j, LANES);
            const float *from = beside + i * TILE_COLS + j;
            float *to = out + i * p->out_row + j * p->out_col;
            if (p->out_col == 1) {
                Lanes sum = lanes_load(from);
                lanes_store_some(to, p->add ? sum + lanes_load_some(to, some) : sum, some);
            } else
                for (size_t l = 0; l < some; l++)
                    to[l * p->out_col] = p->add ? from[l] + to[l * p->out_col] : from[l];
        }
}

/* The tiles beside one another that begin in row i; `left` has TILE_ROWS rows, with zeros if need
   be. `panel` is the right matrix copied, or NULL if it is read where it lies. */
static void product_row(const Product *p, size_t i, Strided left, const float *panel)
{
    size_t rows = smaller(p->rows - i, TILE_ROWS);
    for (size_t first = 0, wide; first < p->cols; first += wide) {
        wide = tile_cols(p->cols - first);
        const float *right = panel ? panel + first * (p->depth + APART) : p->right.at + first;
        size_t right_row = panel ? wide : p->right.row, cols = smaller(p->cols - first, wide);
        float *out = p->out + i * p->out_row + first * p->out_col;
        float beside[TILE_ROWS * TILE_COLS];
        if (rows == TILE_ROWS && cols == wide && p->out_col == 1)
            product_tile(out, p->out_row, left, right, right_row, wide, p->depth, p->add);
        else {
            product_tile(beside, TILE_COLS, left, right, right_row, wide, p->depth, false);
            tile_put(out, beside, p, rows, cols);
        }
    }
}

/* Up to PANEL_COLS columns and PANEL_DEPTH of k. */
static void product_panel(const Product *p)
{
    Lanes panel[(PANEL_DEPTH + APART) * PANEL_COLS / LANES];
    float block[(PANEL_DEPTH + APART) * BLOCK_ROWS];
    bool in_place = p->right.col == 1 && p->rows <= FEW_ROWS && p->cols % LANES == 0;
    if (!in_place)
        (p->right.col == 1 ? panel_copy : panel_turn)((float *)panel, p->right, p->depth, p->cols);
    for (size_t i = 0, high; i < p->rows; i += high) {
        Strided left = strided_from(p->left, i, 0);
        bool copied = left.col != 1 || p->rows - i < TILE_ROWS;
        high = smaller(p->rows - i, copied ? BLOCK_ROWS : TILE_ROWS);
        if (copied) {
            rows_pack(block, left, high, p->depth);
            left = strided(block, 1, TILE_ROWS);
        }
        for (size_t row = 0; row < high; row += TILE_ROWS) {
            product_row(p, i + row, left, in_place ? NULL : (const float *)panel);
            left.at += TILE_ROWS * (p->depth + APART);
        }
    }
}

/* Rows from i and columns from j on, all of k: what one thread does. */
static void product_share(Product p, size_t i, size_t rows, size_t j, size_t cols)
{
    if (cols == 0)
        return;
    size_t panels = (cols + PANEL_COLS - 1) / PANEL_COLS; /* all of about one width */
    size_t wide = ((cols + panels - 1) / panels + LANES - 1) / LANES * LANES;
    Product panel = p;
    panel.rows = rows;
    for (size_t col = j; col < j + cols; col += wide)
        for (size_t k = 0; k < p.depth; k += PANEL_DEPTH) {
            panel.out = p.out + i * p.out_row + col * p.out_col;
            panel.left = strided_from(p.left, i, k);
            panel.right = strided_from(p.right, k, col);
            panel.cols = smaller(j + cols - col, wide);
            panel.depth = smaller(p.depth - k, PANEL_DEPTH);
            panel.add = p.add || k > 0;
            product_panel(&panel);
        }
}

/* Every number of out is summed by one thread, by fused multiply-adds over k in order, in stretches
   of PANEL_DEPTH: the same bits for any number of threads, any width of vectors and tiles, and any
   number of other rows. The threads stand in a grid: side by side where columns are many, as no
   column is then copied twice, one below the other where they are few. */
static void product_run(Product p)
{
    size_t threads = worth_sharing(p.rows * p.cols * p.depth) ? (size_t)threads_most() : 1;
    size_t across = threads;
    while (across > 1 && (threads % across != 0 || p.cols < across * SHARE_COLS))
        across--;
    size_t down = threads / across;
    size_t wide = ((p.cols + across - 1) / across + LANES - 1) / LANES * LANES;
    size_t high = ((p.rows + down - 1) / down + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
    for (size_t i = 0; i < p.rows && p.depth == 0 && !p.add; i++) /* nothing to sum is 0 */
        for (size_t j = 0; j < p.cols; j++)
            p.out[i * p.out_row + j * p.out_col] = 0.0f;
    if (threads == 1) {
        product_share(p, 0, p.rows, 0, p.cols);
        return;
    }
    PARALLEL_FOR(collapse(2) schedule(static))
    for (size_t j = 0; j < p.cols; j += wide)
        for (size_t i = 0; i < p.rows; i += high)
            product_share(p, i, smaller(p.rows - i, high), j, smaller(p.cols - j, wide));
}

/* out (rows, cols), out_row from row to row, = left right, + out if `add`. */
/* NOLINTNEXTLINE(readability-non-const-parameter): it is written through the struct */
static void product_into(float *out, size_t out_row, Strided left, Strided right, size_t rows,
                         size_t cols, size_t depth, bool add)
{
    Product p = {out, out_row, 1, left, right, rows, cols, depth, add};
    product_run(p);
}

/* ==================================== What layers need ==================================== */

/* The sum of x[i] w[i]: four times sixteen partial sums, so that memory is what is waited for, and
   the same ones for any width of vectors. */
INLINE float dot(const float *x, const float *w, size_t count)
{
    Sixteen sum[4] = {{{{0}}}, {{{0}}}, {{{0}}}, {{{0}}}};
    size_t i = 0;
    for (; i + 4 * SIXTEEN <= count; i += 4 * SIXTEEN)
        for (size_t k = 0; k < 4 * SIXTEEN_PARTS; k++) {
            Lanes *one = &sum[k / SIXTEEN_PARTS].part[k % SIXTEEN_PARTS];
            *one = lanes_multiply_add(lanes_load(x + i + k * LANES), lanes_load(w + i + k * LANES),
                                      *one);
        }
    for (; i < count; i += SIXTEEN)
        for (size_t j = 0; j < SIXTEEN_PARTS; j++) {
            size_t some = sixteen_share(count - i, j), at = some > 0 ? i + j * LANES : i;
            sum[0].part[j] = lanes_multiply_add(lanes_load_some(x + at, some),
                                                lanes_load_some(w + at, some), sum[0].part[j]);
        }
    return sixteen_sum_of_four(sum);
}

/* linear_forward, for use. */
void linear_forward_fast(float *y, const float *x, const float *W, const float *bias, size_t tokens,
                         size_t d_in, size_t d_out)
{
    if (tokens < FEW_TOKENS) {
        PARALLEL_FOR(schedule(static) if (worth_sharing(d_in * d_out)))
        for (size_t o = 0; o < d_out; o++)
            for (size_t t = 0; t < tokens; t++)
                y[t * d_out + o] =
                    dot(x + t * d_in, W + o * d_in, d_in) + (bias == NULL ? 0.0f : bias[o]);
        return;
    }
    product_into(y, d_out, strided(x, d_in, 1), strided(W, 1, d_in), tokens, d_out, d_in, false);
    for (size_t t = 0; t < tokens && bias != NULL; t++)
        for (size_t o = 0; o < d_out; o++)
            y[t * d_out + o] += bias[o];
}

/* linear_backward_input, for use. */
void linear_backward_input_fast(float *x_grad, const float *y_grad, const float *W, bool add,
                                size_t tokens, size_t d_in, size_t d_out)
{
    product_into(x_grad, d_in, strided(y_grad, d_out, 1), strided(W, d_in, 1), tokens, d_in, d_out,
                 add);
}

/* linear_backward_weight, for use. Where x has few columns the transpose is worked out, x^T y_grad:
   few rows waste less of a tile than few columns do. */
void linear_backward_weight_fast(float *W_grad, const float *y_grad, const float *x, size_t tokens,
                                 size_t d_in, size_t d_out)
{
    Product narrow = {W_grad, 1,      d_in, strided(x, 1, d_in), strided(y_grad, d_out, 1), d_in,
                      d_out,  tokens, false};
    if (d_in < d_out && d_in <= 2 * LANES)
        product_run(narrow);
    else
        product_into(W_grad, d_in, strided(y_grad, 1, d_out), strided(x, d_in, 1), d_out, d_in,
                     tokens, false);
}

/* A bias was added to every token as it is: its gradient is the sum of y_grad (tokens, d_out). */
void bias_backward(float *bias_grad, const float *y_grad, size_t tokens, size_t d_out)
{
    zero(bias_grad, d_out);
    for (size_t t = 0; t < tokens; t++)
        for (size_t o = 0; o < d_out; o++)
            bias_grad[o] += y_grad[t * d_out + o];
}

/* Columns first .. first + count - 1 of a matrix (rows, cols), to or from a matrix of their own. */
void columns_out(float *out, const float *from, size_t first, size_t count, size_t rows,
                 size_t cols)
{
    for (size_t r = 0; r < rows; r++)
        memcpy(out + r * count, from + r * cols + first, count * sizeof(float));
}

void columns_in(float *to, const float *in, size_t first, size_t count, size_t rows, size_t cols)
{
    for (size_t r = 0; r < rows; r++)
        memcpy(to + r * cols + first, in + r * count, count * sizeof(float));
}

/* Each row of x (rows, width) divided by its root mean square, in place; scale (rows) is 1 over
   sqrt(mean(x^2) + epsilon). */
void rows_norm(float *x, float *scale, double epsilon, size_t rows, size_t width)
{
    for (size_t r = 0; r < rows; r++) {
        float *row = x + r * width;
        scale[r] = (float)(1.0 / sqrt((double)dot(row, row, width) / (double)width + epsilon));
        for (size_t i = 0; i < width; i++)
            row[i] *= scale[r];
    }
}

/* Backwards, from the rows n as rows_norm has left them: grad (rows, width), the gradient of n,
   becomes that of x, which is scale (grad - n mean(grad n)). */
void rows_norm_backward(float *grad, const float *n, const float *scale, size_t rows, size_t width)
{
    for (size_t r = 0; r < rows; r++, grad += width, n += width) {
        float along = dot(grad, n, width) / (float)width;
        for (size_t i = 0; i < width; i++)
            grad[i] = scale[r] * (grad[i] - n[i] * along);
    }
}

#endif /* CH05_PRODUCTS */
