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
                sum[i][j] = lanes_multiply_add(value, panel[k * TILE_VECTORS + j], sum[i][j]);
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
    PARALLEL_FOR(collapse(2) schedule(static) if (worth_sharing(rows * cols * depth)))
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
    for (size_t j = 0; j < SIXTEEN_PARTS; j++)
        sum[0].part[j] = (sum[0].part[j] + sum[1].part[j]) + (sum[2].part[j] + sum[3].part[j]);
    return sixteen_sum(sum[0]);
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

#endif /* CH05_PRODUCTS */
