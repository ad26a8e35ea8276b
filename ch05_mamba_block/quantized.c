/* A matrix as it is read for each token: in 32, 16 or 8 bits, where it lies.

   HOLDS   a matrix of the mapped file (Weight), its rows as floats, a copy in 8 bits; the product
           with a vector, as it is defined and as fast as memory allows
   FOR     pretrained.c; the lesson's section on speed
   To read a matrix is what costs time: 16 bits are read in half the time of 32, and 8 in a quarter.
   SOURCES T. Dettmers et al., LLM.int8(), arXiv 2208.07339 (weights in 8 bits) */

#ifndef CH05_QUANTIZED
#define CH05_QUANTIZED

#include "../ch04_selective/fast_scan.c"
#include "safetensors.c"
#include <sys/mman.h>

/* ======================================== Weights ========================================== */

enum {
    INT8_BLOCK = 64, /* weights that share a scale */
    INT8_ROWS = 4    /* rows whose blocks lie side by side: x is loaded once for all of them */
};

/* A matrix (rows, cols) as it is read for each token. */
typedef struct {
    TensorType type;           /* F32, F16, BF16; I8 with scales */
    size_t rows, cols, stride; /* bytes from row to row */
    const unsigned char *data; /* I8: blocks, filled up with 0, in the order of int8_place */
    const float *scale;        /* I8: of each block, in the same order */
    void *own;                 /* to be freed, or NULL */
} Weight;

size_t blocks_of(size_t cols)
{
    return (cols + INT8_BLOCK - 1) / INT8_BLOCK;
}

/* Which block of a matrix in 8 bits is number `block` of a row. */
static size_t int8_place(size_t row, size_t block, size_t blocks)
{
    return (row / INT8_ROWS * blocks + block) * INT8_ROWS + row % INT8_ROWS;
}

/* The matrix where it lies; a copy only if it lies askew, which no usual file has. */
Weight weight_from_tensor(const Tensor *tensor)
{
    Weight weight;
    memset(&weight, 0, sizeof weight);
    weight.type = tensor->type;
    weight.rows = tensor->shape[0];
    weight.cols = tensor->shape[1];
    weight.stride = weight.cols * tensor_type_size(tensor->type);
    weight.data = tensor->data;
    if ((uintptr_t)tensor->data % tensor_type_size(tensor->type) != 0) {
        weight.own = NEW(unsigned char, tensor->bytes);
        memcpy(weight.own, tensor->data, tensor->bytes);
        weight.data = (const unsigned char *)weight.own;
    }
    return weight;
}

void weight_free(Weight *weight)
{
    free(weight->own);
    memset(weight, 0, sizeof *weight);
}

/* The sum of the lanes, in halves. */
INLINE float lanes_total(Lanes v)
{
#if LANES == 16
    return _mm512_reduce_add_ps((__m512)v);
#else
    return lanes_sum(v);
#endif
}

/* LANES numbers in F16 as floats. */
INLINE Lanes lanes_from_f16(const unsigned char *from)
{
#if LANES == 16
    __m256i half;
    memcpy(&half, from, sizeof half);
    return (Lanes)_mm512_cvtph_ps(half);
#elif LANES == 8 && defined(__F16C__)
    __m128i half;
    memcpy(&half, from, sizeof half);
    return (Lanes)_mm256_cvtph_ps(half);
#else
    float v[LANES];
    for (size_t i = 0; i < LANES; i++) {
        uint16_t half;
        memcpy(&half, from + 2 * i, sizeof half);
        v[i] = tensor_float_from_f16(half);
    }
    return lanes_load(v);
#endif
}

/* count numbers of a type as floats. */
static void numbers_to_float(float *out, TensorType type, const unsigned char *from, size_t count)
{
    Tensor tensor;
    size_t done = 0;
    for (; type == TENSOR_F16 && done + LANES <= count; done += LANES)
        lanes_store(out + done, lanes_from_f16(from + 2 * done));
    memset(&tensor, 0, sizeof tensor);
    tensor.type = type;
    tensor.count = count - done;
    tensor.data = from + done * tensor_type_size(type);
    tensor_to_float(out + done, &tensor);
}

/* The same numbers as F16, F32 or BF16 have them, as floats: rows first .. first + count - 1 of a
   matrix into out (count, cols). */
void weight_rows_to_float(float *out, const Weight *weight, size_t first, size_t count)
{
    size_t blocks = blocks_of(weight->cols);
    assert(weight->type != TENSOR_I8 || weight->scale != NULL);
    PARALLEL_FOR(schedule(static) if (count * weight->cols > 50000))
    for (size_t r = 0; r < count; r++) {
        float *to = out + r * weight->cols;
        if (weight->type != TENSOR_I8)
            numbers_to_float(to, weight->type, weight->data + (first + r) * weight->stride,
                             weight->cols);
        for (size_t i = 0; i < weight->cols && weight->type == TENSOR_I8; i++) {
            size_t place = int8_place(first + r, i / INT8_BLOCK, blocks);
            const int8_t *block = (const int8_t *)weight->data + place * INT8_BLOCK;
            to[i] = weight->scale[place] * (float)block[i % INT8_BLOCK];
        }
    }
}

/* One block in 8 bits: the largest becomes 127, the others are rounded to nearest. Returns the
   scale; where a number is infinite or none, so is the scale. */
static float int8_block(int8_t out[INT8_BLOCK], const float in[INT8_BLOCK])
{
    const float round = 12582912.0f; /* 1.5 * 2^23: added, the last bits are the whole number */
    Lanes most = lanes_all(0.0f), none = lanes_all(0.0f);
    for (size_t i = 0; i < INT8_BLOCK; i += LANES) {
        most = lanes_larger(most, lanes_abs(lanes_load(in + i)));
        none += 0.0f * lanes_load(in + i);
    }
    float largest = lanes_largest(most), bad = lanes_total(none), factor = 127.0f / largest;
    if (isnan(bad)) {
        memset(out, 1, INT8_BLOCK);
        return bad;
    }
    factor = isfinite(factor) ? factor : 0.0f; /* below the smallest normal numbers all is 0 */
    for (size_t i = 0; i < INT8_BLOCK; i++) {
        float moved = in[i] * factor + round;
        uint32_t bits;
        memcpy(&bits, &moved, sizeof bits);
        out[i] = (int8_t)(uint8_t)bits;
    }
    return largest / 127.0f;
}

/* Memory of a known size that is handed out piece by piece. In large pages, if the system has them:
   they are read faster. */
typedef struct {
    unsigned char *bytes; /* (room) */
    size_t room, used;
} Arena;

Arena arena_new(size_t room)
{
    enum { LARGE = 1 << 21 };
    Arena arena = {NULL, (room + LARGE - 1) / LARGE * LARGE, 0};
    void *memory = NULL;
    if (posix_memalign(&memory, LARGE, arena.room) != 0)
        memory = NEW(unsigned char, arena.room);
    madvise(memory, arena.room, MADV_HUGEPAGE);
    arena.bytes = (unsigned char *)memory;
    return arena;
}

static void *arena_take(Arena *arena, size_t bytes)
{
    void *taken = arena->bytes + arena->used;
    arena->used += (bytes + 63) / 64 * 64;
    assert(arena->used <= arena->room);
    return taken;
}

/* Blocks of a matrix in 8 bits; its rows are filled up to a multiple of INT8_ROWS. */
static size_t int8_blocks(size_t rows, size_t cols)
{
    return (rows + INT8_ROWS - 1) / INT8_ROWS * INT8_ROWS * blocks_of(cols);
}

/* Bytes that weight_to_int8 takes for a matrix. */
size_t int8_bytes(size_t rows, size_t cols)
{
    return int8_blocks(rows, cols) * INT8_BLOCK + int8_blocks(rows, cols) * sizeof(float) + 64;
}

/* A copy in 8 bits, with one scale for every INT8_BLOCK weights of a row. */
Weight weight_to_int8(const Weight *from, Arena *arena)
{
    size_t blocks = blocks_of(from->cols), all = int8_blocks(from->rows, from->cols);
    Weight weight;
    memset(&weight, 0, sizeof weight);
    weight.type = TENSOR_I8;
    weight.rows = from->rows;
    weight.cols = from->cols;
    weight.stride = blocks * INT8_BLOCK;
    int8_t *data = (int8_t *)arena_take(arena, all * INT8_BLOCK);
    float *scale = (float *)arena_take(arena, all * sizeof(float));
    PARALLEL_FOR(schedule(static))
    for (size_t r = 0; r < all / blocks; r++) {
        for (size_t b = 0; b < blocks; b++) {
            float block[INT8_BLOCK] = {0.0f};
            size_t at = b * INT8_BLOCK, place = int8_place(r, b, blocks);
            if (r < from->rows)
                numbers_to_float(block, from->type,
                                 from->data + r * from->stride + at * tensor_type_size(from->type),
                                 smaller(from->cols - at, INT8_BLOCK));
            scale[place] = int8_block(data + place * INT8_BLOCK, block);
        }
    }
    weight.data = (const unsigned char *)data;
    weight.scale = scale;
    return weight;
}

/* A matrix, kept as it is or in 8 bits; the pages that were read for that are given back. */
Weight weight_kept(const Tensor *tensor, Arena *arena)
{
    Weight weight = weight_from_tensor(tensor);
    if (arena->bytes == NULL)
        return weight;
    Weight small = weight_to_int8(&weight, arena);
    weight_free(&weight);
    size_t page = 65536, skip = (page - (uintptr_t)tensor->data % page) % page;
    if (tensor->bytes > skip + page)
        madvise((void *)(tensor->data + skip), (tensor->bytes - skip) / page * page, MADV_DONTNEED);
    return small;
}

/* Bytes that are read for each token. */
size_t weight_bytes(const Weight *weight)
{
    size_t scales = weight->scale != NULL ? weight->rows * blocks_of(weight->cols) : 0;
    return weight->rows * weight->stride + scales * sizeof(float);
}

/* ================================ A matrix times a vector ================================== */

/* A vector as the kernels want it; see activation_set. */
typedef struct {
    float *value;   /* (cols) */
    float *split;   /* BF16: of each 2 LANES first those at even places, then those at odd ones */
    int16_t *whole; /* I8: value = whole * unit, filled up with 0 to whole blocks */
    float unit;
} Activation;

enum { ACTIVATION_LANES = 64 }; /* space after the end, in numbers */

size_t activation_floats(size_t cols)
{
    return 3 * (cols + ACTIVATION_LANES);
}

Activation activation_place(float *memory, size_t most)
{
    Activation x;
    x.value = memory;
    x.split = memory + most + ACTIVATION_LANES;
    x.whole = (int16_t *)(void *)(x.split + most + ACTIVATION_LANES);
    x.unit = 0.0f;
    return x;
}

static void activation_split(Activation *x, size_t cols)
{
    for (size_t k = 0; k < cols; k += 2 * LANES)
        for (size_t i = 0; i < LANES; i++) {
            size_t even = k + 2 * i;
            x->split[k + i] = even < cols ? x->value[even] : 0.0f;
            x->split[k + LANES + i] = even + 1 < cols ? x->value[even + 1] : 0.0f;
        }
}

/* 15 bits and a sign for the vector: far finer than the weights' seven, so its rounding is not seen
   beside theirs. */
static void activation_whole(Activation *x, size_t cols)
{
    Lanes most = lanes_all(0.0f), none = lanes_all(0.0f);
    for (size_t i = 0; i < cols; i += LANES) {
        Lanes v = lanes_load_some(x->value + i, smaller(cols - i, LANES));
        most = lanes_larger(most, lanes_abs(v));
        none += 0.0f * v; /* 0, or NaN if a number is infinite or none */
    }
    float largest = lanes_largest(most), bad = lanes_sum(none), factor = 32767.0f / largest;
    memset(x->whole, 0, blocks_of(cols) * INT8_BLOCK * sizeof *x->whole);
    x->unit = largest / 32767.0f + bad;
    if (isnan(bad))
        x->whole[0] = 1; /* all sums become NaN, as they would be */
    if (isnan(bad) || !isfinite(factor))
        return;
    for (size_t i = 0; i < cols; i++)
        x->whole[i] = (int16_t)(int32_t)(x->value[i] * factor + (x->value[i] < 0 ? -0.5f : 0.5f));
}

/* Makes a vector ready for products with a weight of this type. */
void activation_set(Activation *x, TensorType type, size_t cols)
{
    if (type == TENSOR_BF16)
        activation_split(x, cols);
    if (type == TENSOR_I8)
        activation_whole(x, cols);
}

/* Memory is asked for a page ahead: the processor's own looking ahead ends with each page. */
enum { AHEAD = 4096, LINE = 64 };

INLINE void look_ahead(const unsigned char *from, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += LINE)
        __builtin_prefetch(from + AHEAD + at);
}

/* Row after row, from start to end, is what memory delivers fastest; four sums side by side keep
   the processor from waiting for one of them. A row times x: */
INLINE float row_f32(const unsigned char *row, const Activation *x, size_t cols)
{
    const float *w = (const float *)(const void *)row;
    Lanes sum[4] = {{0}};
    size_t k = 0;
    for (; k + 4 * LANES <= cols; k += 4 * LANES) {
        look_ahead(row + 4 * k, 16 * LANES);
        for (size_t i = 0; i < 4; i++)
            sum[i] = lanes_multiply_add(lanes_load(x->value + k + i * LANES),
                                        lanes_load(w + k + i * LANES), sum[i]);
    }
    for (; k < cols; k += LANES) {
        size_t some = smaller(cols - k, LANES);
        sum[0] = lanes_multiply_add(lanes_load_some(x->value + k, some),
                                    lanes_load_some(w + k, some), sum[0]);
    }
    return lanes_total((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

/* Up to 2 LANES numbers of 16 bits; those beyond `count` are 0. */
INLINE LanesBits halves_load_some(const unsigned char *from, size_t count)
{
    LanesBits pair = {0};
#if LANES == 16 && defined(__AVX512BW__)
    pair = (LanesBits)_mm512_maskz_loadu_epi16(count < 2 * LANES ? (1u << count) - 1 : 0xffffffffu,
                                               from);
#else
    memcpy(&pair, from, 2 * smaller(count, 2 * LANES));
#endif
    return pair;
}

/* Two BF16 side by side are one whole number of 32 bits: without its lower half it is the second
   as a float, and moved up by 16 bits it is the first. x is split in the same way. */
INLINE Lanes bf16_products(LanesBits pair, const float *split, Lanes sum)
{
    sum = lanes_multiply_add(lanes_load(split), (Lanes)(pair << 16), sum);
    return lanes_multiply_add(lanes_load(split + LANES), (Lanes)(pair & (int32_t)0xFFFF0000), sum);
}

INLINE float row_bf16(const unsigned char *row, const Activation *x, size_t cols)
{
    Lanes sum[4] = {{0}};
    size_t k = 0;
    for (; k + 8 * LANES <= cols; k += 8 * LANES) {
        look_ahead(row + 2 * k, 16 * LANES);
        for (size_t i = 0; i < 4; i++)
            sum[i] = bf16_products(halves_load_some(row + 2 * k + 4 * i * LANES, 2 * LANES),
                                   x->split + k + 2 * i * LANES, sum[i]);
    }
    for (; k < cols; k += 2 * LANES)
        sum[0] = bf16_products(halves_load_some(row + 2 * k, cols - k), x->split + k, sum[0]);
    return lanes_total((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

INLINE float row_f16(const unsigned char *row, const Activation *x, size_t cols)
{
    Lanes sum[4] = {{0}};
    size_t k = 0;
    for (; k + 4 * LANES <= cols; k += 4 * LANES) {
        look_ahead(row + 2 * k, 8 * LANES);
        for (size_t i = 0; i < 4; i++)
            sum[i] = lanes_multiply_add(lanes_load(x->value + k + i * LANES),
                                        lanes_from_f16(row + 2 * (k + i * LANES)), sum[i]);
    }
    for (; k < cols; k += LANES) {
        size_t some = smaller(cols - k, LANES);
        LanesBits rest = halves_load_some(row + 2 * k, some);
        sum[1] = lanes_multiply_add(lanes_load_some(x->value + k, some),
                                    lanes_from_f16((unsigned char *)&rest), sum[1]);
    }
    return lanes_total((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

/* One block of 8-bit weights times 16-bit numbers: exact, in LANES sums of at most 2^24 each. */
INLINE Lanes int8_products(const int8_t *w, const int16_t *x)
{
#if LANES == 16 && defined(__AVX512BW__)
    __m512i sum = _mm512_setzero_si512();
    for (size_t i = 0; i < INT8_BLOCK; i += 32) {
        __m512i wide = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(w + i)));
        __m512i by = _mm512_loadu_si512(x + i);
#ifdef __AVX512VNNI__
        sum = _mm512_dpwssd_epi32(sum, wide, by);
#else
        sum = _mm512_add_epi32(sum, _mm512_madd_epi16(wide, by));
#endif
    }
    return (Lanes)_mm512_cvtepi32_ps(sum);
#elif LANES == 8 && defined(__AVX2__)
    __m256i sum = _mm256_setzero_si256();
    for (size_t i = 0; i < INT8_BLOCK; i += 16) {
        __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(w + i)));
        sum = _mm256_add_epi32(
            sum, _mm256_madd_epi16(wide, _mm256_loadu_si256((const __m256i *)(x + i))));
    }
    return (Lanes)_mm256_cvtepi32_ps(sum);
#else
    Lanes v = lanes_all(0.0f);
    int32_t sum = 0;
    for (size_t i = 0; i < INT8_BLOCK; i++)
        sum += (int32_t)w[i] * x[i];
    v[0] = (float)sum;
    return v;
#endif
}

/* INT8_ROWS rows times x; data and scale are those of the first one's first block. */
INLINE void rows_int8(float sum[INT8_ROWS], const unsigned char *data, const float *scale,
                      const Activation *x, size_t blocks)
{
    Lanes total[INT8_ROWS] = {{0}};
    for (size_t b = 0; b < blocks; b++, scale += INT8_ROWS)
        for (size_t i = 0; i < INT8_ROWS; i++, data += INT8_BLOCK) {
            look_ahead(data, INT8_BLOCK);
            total[i] = lanes_scale_add(
                int8_products((const int8_t *)data, x->whole + b * INT8_BLOCK), scale[i], total[i]);
        }
    for (size_t i = 0; i < INT8_ROWS; i++)
        sum[i] = x->unit * lanes_total(total[i]);
}

/* y[r] = sum over i of weight[r][i] x[i] for rows first .. end - 1, as it is defined. */
void weight_product_clear(float *y, const Weight *weight, const Activation *x, size_t first,
                          size_t end)
{
    float *row = NEW(float, weight->cols);
    for (size_t r = first; r < end; r++) {
        double sum = 0.0;
        weight_rows_to_float(row, weight, r, 1);
        for (size_t i = 0; i < weight->cols; i++)
            sum += (double)row[i] * (double)x->value[i];
        y[r] = (float)sum;
    }
    free(row);
}

/* weight_product_clear, for use: one thread's rows, after activation_set. */
void weight_product(float *y, const Weight *weight, const Activation *x, size_t first, size_t end)
{
    size_t cols = weight->cols, blocks = blocks_of(cols);
    const unsigned char *row = weight->data + first * weight->stride;
    switch (weight->type) {
    case TENSOR_F32:
        for (size_t r = first; r < end; r++, row += weight->stride)
            y[r] = row_f32(row, x, cols);
        break;
    case TENSOR_F16:
        for (size_t r = first; r < end; r++, row += weight->stride)
            y[r] = row_f16(row, x, cols);
        break;
    case TENSOR_BF16:
        for (size_t r = first; r < end; r++, row += weight->stride)
            y[r] = row_bf16(row, x, cols);
        break;
    default:
        for (size_t r = first / INT8_ROWS * INT8_ROWS; r < end; r += INT8_ROWS) {
            float sum[INT8_ROWS];
            size_t place = int8_place(r, 0, blocks);
            rows_int8(sum, weight->data + place * INT8_BLOCK, weight->scale + place, x, blocks);
            for (size_t i = 0; i < INT8_ROWS; i++)
                if (r + i >= first && r + i < end)
                    y[r + i] = sum[i];
        }
    }
}

#endif /* CH05_QUANTIZED */
