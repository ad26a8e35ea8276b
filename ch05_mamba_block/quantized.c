/* A matrix as it is read for each token: in 32 or 16 bits, where it lies, or a copy in 8 or 4.

   HOLDS   a matrix of the mapped file (Weight), its rows as floats, copies in 8 and in 4 bits; the
           product with a vector, as it is defined and as fast as memory allows
   FOR     pretrained.c; the lesson's sections on speed and on four bits
   To read a matrix is what costs time: 16 bits are read in half the time of 32, 8 in a quarter.
   SOURCES T. Dettmers et al., LLM.int8(), arXiv 2208.07339 (weights in 8 bits)
           T. Dettmers and L. Zettlemoyer, The case for 4-bit precision, arXiv 2212.09720 */

#ifndef CH05_QUANTIZED
#define CH05_QUANTIZED

#include "../ch04_selective/fast_scan.c"
#include "safetensors.c"
#include <sys/mman.h>

/* ======================================== Weights ========================================== */

enum {
    INT8_BLOCK = 64, /* weights in 8 bits that share a scale */
    INT8_ROWS = 4,   /* rows whose blocks lie side by side: x is loaded once for all of them */
    INT4_BLOCK = 32, /* weights in 4 bits that share a scale: 32 products are below 2^15 */
    INT4_ROWS = 16,  /* rows whose blocks lie side by side: each has a lane of its own */
    INT4_HALF = INT4_BLOCK / 2,       /* weights in the low halves of a block's bytes */
    INT4_TILE = INT4_ROWS * INT4_HALF /* bytes of such blocks */
};

/* A matrix (rows, cols) as it is read for each token. */
typedef struct {
    TensorType type;           /* F32, F16, BF16; I8: a copy in whole numbers, with scales */
    size_t bits;               /* of a number: 32, 16; of a whole one 8, or 4 */
    size_t rows, cols, stride; /* bytes from row to row; those of a copy lie side by side */
    const unsigned char *data; /* a copy: blocks, filled up with 0, as block_place orders them */
    const void *scale;         /* a copy: of each block; floats, for 4 bits BF16 */
    void *own;                 /* to be freed, or NULL */
} Weight;

/* Weights that share a scale in so many bits, and rows whose blocks lie side by side. */
static size_t block_cols(size_t bits)
{
    return bits == 4 ? INT4_BLOCK : INT8_BLOCK;
}

static size_t block_rows(size_t bits)
{
    return bits == 4 ? INT4_ROWS : INT8_ROWS;
}

static size_t scale_bytes(size_t bits)
{
    return bits == 4 ? sizeof(uint16_t) : sizeof(float);
}

/* Blocks of a row. */
static size_t blocks_of(size_t cols, size_t bits)
{
    return (cols + block_cols(bits) - 1) / block_cols(bits);
}

/* Which block of a copy is number `block` of a row, of `blocks`. */
static size_t block_place(size_t row, size_t block, size_t blocks, size_t bits)
{
    size_t rows = block_rows(bits);
    return (row / rows * blocks + block) * rows + row % rows;
}

/* The matrix where it lies; a copy only if it lies askew, which no usual file has. */
Weight weight_from_tensor(const Tensor *tensor)
{
    Weight weight;
    memset(&weight, 0, sizeof weight);
    weight.type = tensor->type;
    weight.rows = tensor->shape[0];
    weight.cols = tensor->shape[1];
    weight.bits = 8 * tensor_type_size(tensor->type);
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

/* The largest lane, where no lane is NaN. */
INLINE float lanes_most(Lanes v)
{
#if LANES == 16
    return _mm512_reduce_max_ps((__m512)v);
#else
    float most = v[0];
    for (int i = 1; i < LANES; i++)
        most = v[i] > most ? v[i] : most;
    return most;
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
#elif defined(LANES_NEON)
    float16x4_t half;
    memcpy(&half, from, sizeof half);
    return (Lanes)vcvt_f32_f16(half);
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

/* What a weight in 4 bits stands for: 0 .. 15 are -8 .. 7. */
enum { INT4_ZERO = 8 };

/* Number `block` of a row of a copy, as floats. */
static void block_to_float(float *out, const Weight *weight, size_t row, size_t block)
{
    size_t place = block_place(row, block, blocks_of(weight->cols, weight->bits), weight->bits);
    if (weight->bits == 8) {
        const int8_t *from = (const int8_t *)weight->data + place * INT8_BLOCK;
        for (size_t i = 0; i < INT8_BLOCK; i++)
            out[i] = ((const float *)weight->scale)[place] * (float)from[i];
        return;
    }
    const unsigned char *from = weight->data + place / INT4_ROWS * INT4_TILE + row % INT4_ROWS * 4;
    float scale = tensor_float_from_bf16(((const uint16_t *)weight->scale)[place]);
    unsigned char pair[INT4_HALF];
    for (size_t i = 0; i < INT4_HALF; i += 4, from += 4 * INT4_ROWS)
        memcpy(pair + i, from, 4);
    for (size_t i = 0; i < INT4_HALF; i++) {
        out[i] = scale * (float)((pair[i] & 15) - INT4_ZERO);
        out[i + INT4_HALF] = scale * (float)((pair[i] >> 4) - INT4_ZERO);
    }
}

/* One row as floats. */
static void row_to_float(float *out, const Weight *weight, size_t row)
{
    size_t cols = weight->cols, step = block_cols(weight->bits), i = 0;
    float last[INT8_BLOCK];
    if (weight->type != TENSOR_I8) {
        numbers_to_float(out, weight->type, weight->data + row * weight->stride, cols);
        return;
    }
    assert(weight->scale != NULL);
    for (; i + step <= cols; i += step)
        block_to_float(out + i, weight, row, i / step);
    if (i == cols)
        return;
    block_to_float(last, weight, row, i / step);
    memcpy(out + i, last, (cols - i) * sizeof *out);
}

/* The same numbers as F16, F32 or BF16 have them, as floats: rows first .. first + count - 1 of a
   matrix into out (count, cols). */
void weight_rows_to_float(float *out, const Weight *weight, size_t first, size_t count)
{
    PARALLEL_FOR(schedule(static) if (count * weight->cols > 50000))
    for (size_t r = 0; r < count; r++)
        row_to_float(out + r * weight->cols, weight, first + r);
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
    float largest = lanes_largest(most), bad = lanes_sum(none), factor = 127.0f / largest;
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
#ifdef MADV_HUGEPAGE
    madvise(memory, arena.room, MADV_HUGEPAGE);
#endif
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

/* ---- 4 bits ---- */

/* The whole number nearest to v by, from -8 to 7. */
INLINE Lanes int4_nearest(Lanes v, Lanes by)
{
    const float round = 12582912.0f; /* 1.5 * 2^23 */
    Lanes q = lanes_multiply_add(v, by, lanes_all(round)) - round;
    q = lanes_choose(q > 7.0f, lanes_all(7.0f), q);
    return lanes_choose(q < -8.0f, lanes_all(-8.0f), q);
}

/* The scale of blocks of LANES rows, whose number i is v[i], against the largest of each. A finer
   scale leaves the largest outside and rounds the others less. So a few are tried: q are the
   nearest whole numbers then, and s = sum(v q) / sum(q q) is the scale under which
   sum((v - s q)^2) = sum(v v) - sum(v q)^2 / sum(q q) is least for them. */
static Lanes int4_scale(const Lanes v[INT4_BLOCK])
{
    static const float largest[] = {-8.2f, -7.8f, -7.4f, -7.0f, -6.6f, -6.2f, -5.8f,
                                    -5.4f, 7.4f,  7.0f,  6.6f,  6.2f,  5.8f,  5.4f};
    Lanes best = lanes_all(-1.0f), scale = lanes_all(0.0f);
    for (size_t k = 0; k < sizeof largest / sizeof *largest; k++) {
        Lanes vq = lanes_all(0.0f), qq = lanes_all(0.0f);
        for (size_t i = 0; i < INT4_BLOCK; i++) {
            Lanes q = int4_nearest(v[i], lanes_all(largest[k]));
            vq = lanes_multiply_add(v[i], q, vq);
            qq = lanes_multiply_add(q, q, qq);
        }
        Lanes gain = vq * vq / qq;
        scale = lanes_choose(gain > best, vq / qq, scale);
        best = lanes_choose(gain > best, gain, best);
    }
    return scale;
}

/* What a lane's number is in 4 bits, 0 .. 15; whatever it comes to where the unit is 0. */
INLINE LanesBits int4_lanes(const float *in, Lanes unit)
{
    const float round = 12582912.0f + INT4_ZERO;
    Lanes q = int4_nearest(lanes_load(in) / unit, lanes_all(1.0f));
    return (LanesBits)(q + round) & 15;
}

/* Blocks of LANES rows in 4 bits; in[INT4_ROWS * i] are their numbers i. A byte has numbers i and
   i + 16 of a row, and a lane of 32 bits four such bytes. Where all numbers are 0 or too small, the
   scale is 0; where one is infinite or none, so is the scale. */
static void int4_blocks(unsigned char *data, uint16_t *scale, const float *in)
{
    Lanes v[INT4_BLOCK], most = lanes_all(0.0f), none = lanes_all(0.0f), unit;
    for (size_t i = 0; i < INT4_BLOCK; i++) {
        v[i] = lanes_load(in + INT4_ROWS * i);
        most = lanes_choose(lanes_abs(v[i]) > lanes_abs(most), v[i], most);
        none += 0.0f * v[i];
    }
    for (size_t i = 0; i < INT4_BLOCK; i++)
        v[i] /= most;
    unit = int4_scale(v);
    for (size_t r = 0; r < LANES; r++) {
        scale[r] = tensor_bf16_from_float(none[r] == 0.0f ? unit[r] * most[r] : none[r]);
        unit[r] = tensor_float_from_bf16(scale[r]);
    }
    for (size_t i = 0; i < INT4_HALF; i += 4, data += 4 * INT4_ROWS) {
        LanesBits word = {0};
        for (size_t k = 0; k < 4; k++) {
            const float *low = in + INT4_ROWS * (i + k), *high = low + INT4_ROWS * INT4_HALF;
            word |= (int4_lanes(low, unit) | int4_lanes(high, unit) << 4) << (int)(8 * k);
        }
        memcpy(data, &word, sizeof word);
    }
}

/* ---- copies ---- */

/* Blocks of a copy; its rows are filled up to whole tiles. */
static size_t blocks_all(size_t rows, size_t cols, size_t bits)
{
    size_t side = block_rows(bits);
    return (rows + side - 1) / side * side * blocks_of(cols, bits);
}

/* Bytes that weight_to_int takes for a matrix. */
size_t int_bytes(size_t rows, size_t cols, size_t bits)
{
    size_t all = blocks_all(rows, cols, bits);
    return (all * block_cols(bits) * bits / 8 + 63) / 64 * 64 + all * scale_bytes(bits) + 64;
}

/* Number `block` of `count` rows from `first` on, as floats (INT4_ROWS, INT8_BLOCK), filled up
   with 0. */
static void blocks_to_float(float *out, const Weight *from, size_t first, size_t count,
                            size_t block, size_t step)
{
    size_t at = block * step, size = tensor_type_size(from->type);
    memset(out, 0, INT4_ROWS * INT8_BLOCK * sizeof *out);
    for (size_t r = first; r < smaller(from->rows, first + count); r++)
        numbers_to_float(out + (r - first) * INT8_BLOCK, from->type,
                         from->data + r * from->stride + at * size, smaller(from->cols - at, step));
}

/* A tile of a copy: number `block` of rows that lie side by side, from in (INT4_ROWS,
   INT8_BLOCK). `place`: of the first row's. */
static void tile_fill(unsigned char *data, void *scale, size_t place, const float *in, size_t bits)
{
    float turned[INT4_BLOCK * INT4_ROWS];
    for (size_t r = 0; r < INT8_ROWS && bits == 8; r++)
        ((float *)scale)[place + r] =
            int8_block((int8_t *)data + (place + r) * INT8_BLOCK, in + r * INT8_BLOCK);
    if (bits == 8)
        return;
    for (size_t r = 0; r < INT4_ROWS; r++)
        for (size_t i = 0; i < INT4_BLOCK; i++)
            turned[i * INT4_ROWS + r] = in[r * INT8_BLOCK + i];
    for (size_t r = 0; r < INT4_ROWS; r += LANES)
        int4_blocks(data + place / INT4_ROWS * INT4_TILE + 4 * r, (uint16_t *)scale + place + r,
                    turned + r);
}

/* A copy in 8 bits, with a float as scale for every INT8_BLOCK weights of a row, or in 4, with a
   scale in BF16 for every INT4_BLOCK. */
Weight weight_to_int(const Weight *from, size_t bits, Arena *arena)
{
    size_t blocks = blocks_of(from->cols, bits), all = blocks_all(from->rows, from->cols, bits);
    size_t side = block_rows(bits), step = block_cols(bits);
    Weight weight = *from;
    weight.type = TENSOR_I8;
    weight.bits = bits;
    weight.stride = blocks * step * bits / 8;
    weight.own = NULL;
    unsigned char *data = (unsigned char *)arena_take(arena, all * step * bits / 8);
    void *scale = arena_take(arena, all * scale_bytes(bits));
    PARALLEL_FOR(schedule(static))
    for (size_t tile = 0; tile < all / blocks / side; tile++)
        for (size_t b = 0; b < blocks; b++) {
            float in[INT4_ROWS * INT8_BLOCK];
            blocks_to_float(in, from, tile * side, side, b, step);
            tile_fill(data, scale, block_place(tile * side, b, blocks, bits), in, bits);
        }
    weight.data = data;
    weight.scale = scale;
    return weight;
}

/* A matrix, kept as it is (bits 0) or in 8 or 4 bits; the pages that were read for that are given
   back. */
Weight weight_kept(const Tensor *tensor, size_t bits, Arena *arena)
{
    Weight weight = weight_from_tensor(tensor);
    if (bits == 0)
        return weight;
    Weight small = weight_to_int(&weight, bits, arena);
    weight_free(&weight);
    size_t page = 65536, skip = (page - (uintptr_t)tensor->data % page) % page;
    if (tensor->bytes > skip + page)
        madvise((void *)(tensor->data + skip), (tensor->bytes - skip) / page * page, MADV_DONTNEED);
    return small;
}

/* Bytes that are read for each token. */
size_t weight_bytes(const Weight *weight)
{
    size_t scales = weight->type == TENSOR_I8 ? blocks_of(weight->cols, weight->bits) : 0;
    return weight->rows * (weight->stride + scales * scale_bytes(weight->bits));
}

/* ================================ A matrix times a vector ================================== */

/* A vector as the kernels want it; see activation_set. */
typedef struct {
    float *value;   /* (cols) */
    float *split;   /* BF16: of each 2 LANES first those at even places, then those at odd ones */
    int16_t *whole; /* 8 bits: value = whole * unit, filled up with 0 to whole blocks */
    float unit;
    int8_t *byte; /* 4 bits: value = byte * byte_unit of its block, filled up in the same way */
    float *byte_unit;
    int32_t *less; /* of each block: -INT4_ZERO sum(byte) */
} Activation;

enum { ACTIVATION_LANES = 64 }; /* space after the end, in numbers */

size_t activation_floats(size_t cols)
{
    return 4 * (cols + ACTIVATION_LANES);
}

Activation activation_place(float *memory, size_t most)
{
    Activation x;
    x.value = memory;
    x.split = memory + most + ACTIVATION_LANES;
    x.whole = (int16_t *)(void *)(x.split + most + ACTIVATION_LANES);
    x.unit = 0.0f;
    float *bytes = memory + 3 * (most + ACTIVATION_LANES);
    size_t quarter = (most + ACTIVATION_LANES) / 4; /* more than there are blocks */
    x.byte = (int8_t *)(void *)bytes;
    x.byte_unit = bytes + quarter;
    x.less = (int32_t *)(void *)(bytes + 2 * quarter);
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
    memset(x->whole, 0, blocks_of(cols, 8) * INT8_BLOCK * sizeof *x->whole);
    x->unit = largest / 32767.0f + bad;
    if (isnan(bad))
        x->whole[0] = 1; /* all sums become NaN, as they would be */
    if (isnan(bad) || !isfinite(factor))
        return;
    for (size_t i = 0; i < cols; i++)
        x->whole[i] = (int16_t)(int32_t)(x->value[i] * factor + (x->value[i] < 0 ? -0.5f : 0.5f));
}

/* Seven bits and a sign for the vector, with a unit for every INT4_BLOCK of its numbers: far finer
   than the weights' three bits, and a product of the two is one of bytes. */
static void activation_block(Activation *x, size_t b, const float *in, float bad)
{
    int32_t whole[INT4_BLOCK];
    int8_t *to = x->byte + b * INT4_BLOCK;
    x->less[b] = 0;
    x->byte_unit[b] = bad;
    if (isnan(bad)) {
        memset(to, 0, INT4_BLOCK);
        return;
    }
    const float round = 12582912.0f;
    Lanes most = lanes_all(0.0f), sum = most;
    for (size_t i = 0; i < INT4_BLOCK; i += LANES)
        most = lanes_larger(most, lanes_abs(lanes_load(in + i)));
    float largest = lanes_most(most), factor = 127.0f / largest;
    const Lanes by = lanes_all(isfinite(factor) ? factor : 0.0f);
    for (size_t i = 0; i < INT4_BLOCK; i += LANES) {
        Lanes moved = lanes_multiply_add(lanes_load(in + i), by, lanes_all(round));
        memcpy(whole + i, &moved, sizeof moved);
        sum += moved - round;
    }
    for (size_t i = 0; i < INT4_BLOCK; i++)
        to[i] = (int8_t)(uint8_t)(uint32_t)whole[i];
    x->byte_unit[b] = largest / 127.0f;
    x->less[b] = -INT4_ZERO * (int32_t)lanes_sum(sum);
}

static void activation_bytes(Activation *x, size_t cols)
{
    Lanes none = lanes_all(0.0f);
    float last[INT4_BLOCK] = {0.0f};
    size_t i = 0;
    for (; i < cols; i += LANES)
        none += 0.0f * lanes_load_some(x->value + i, smaller(cols - i, LANES));
    float bad = lanes_sum(none); /* 0, or NaN if a number is infinite or none */
    for (i = 0; i + INT4_BLOCK <= cols; i += INT4_BLOCK)
        activation_block(x, i / INT4_BLOCK, x->value + i, bad);
    memcpy(last, x->value + i, (cols - i) * sizeof *last);
    if (i < cols)
        activation_block(x, i / INT4_BLOCK, last, bad);
}

/* Makes a vector ready for products with a weight. */
void activation_set(Activation *x, const Weight *weight)
{
    if (weight->type == TENSOR_BF16)
        activation_split(x, weight->cols);
    if (weight->type == TENSOR_I8 && weight->bits == 8)
        activation_whole(x, weight->cols);
    if (weight->type == TENSOR_I8 && weight->bits == 4)
        activation_bytes(x, weight->cols);
}

/* Memory is asked for a page ahead: the processor's own looking ahead ends with each page. */
enum { AHEAD = 4096, LINE = 64 };

INLINE void look_ahead(const unsigned char *from, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += LINE)
        __builtin_prefetch(from + AHEAD + at);
}

/* Row after row, from start to end, is what memory delivers fastest; four sums side by side keep
   the processor from waiting for one of them. Each is sixteen sums over lanes, so that a token is
   the same to the last bit whatever the width of vectors. A row times x: */
INLINE float row_f32(const unsigned char *row, const Activation *x, size_t cols)
{
    const float *w = (const float *)(const void *)row;
    Sixteen sum[4] = {{{{0}}}, {{{0}}}, {{{0}}}, {{{0}}}};
    size_t k = 0;
    for (; k + 4 * SIXTEEN <= cols; k += 4 * SIXTEEN) {
        look_ahead(row + 4 * k, 16 * SIXTEEN);
        for (size_t j = 0; j < 4 * SIXTEEN_PARTS; j++) {
            Lanes *one = &sum[j / SIXTEEN_PARTS].part[j % SIXTEEN_PARTS];
            *one = lanes_multiply_add(lanes_load(x->value + k + j * LANES),
                                      lanes_load(w + k + j * LANES), *one);
        }
    }
    for (; k < cols; k += LANES) {
        size_t some = smaller(cols - k, LANES);
        Lanes *one = &sum[0].part[k / LANES % SIXTEEN_PARTS];
        *one = lanes_multiply_add(lanes_load_some(x->value + k, some), lanes_load_some(w + k, some),
                                  *one);
    }
    return sixteen_sum_of_four(sum);
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
    Sixteen sum[4] = {{{{0}}}, {{{0}}}, {{{0}}}, {{{0}}}};
    size_t k = 0;
    for (; k + 8 * SIXTEEN <= cols; k += 8 * SIXTEEN) {
        look_ahead(row + 2 * k, 16 * SIXTEEN);
        for (size_t j = 0; j < 4 * SIXTEEN_PARTS; j++) {
            Lanes *one = &sum[j / SIXTEEN_PARTS].part[j % SIXTEEN_PARTS];
            size_t at = k + 2 * j * LANES;
            *one = bf16_products(halves_load_some(row + 2 * at, 2 * LANES), x->split + at, *one);
        }
    }
    for (; k < cols; k += 2 * LANES) {
        Lanes *one = &sum[0].part[k / (2 * LANES) % SIXTEEN_PARTS];
        *one = bf16_products(halves_load_some(row + 2 * k, cols - k), x->split + k, *one);
    }
    return sixteen_sum_of_four(sum);
}

INLINE float row_f16(const unsigned char *row, const Activation *x, size_t cols)
{
    Sixteen sum[4] = {{{{0}}}, {{{0}}}, {{{0}}}, {{{0}}}};
    size_t k = 0;
    for (; k + 4 * SIXTEEN <= cols; k += 4 * SIXTEEN) {
        look_ahead(row + 2 * k, 8 * SIXTEEN);
        for (size_t j = 0; j < 4 * SIXTEEN_PARTS; j++) {
            Lanes *one = &sum[j / SIXTEEN_PARTS].part[j % SIXTEEN_PARTS];
            size_t at = k + j * LANES;
            *one =
                lanes_multiply_add(lanes_load(x->value + at), lanes_from_f16(row + 2 * at), *one);
        }
    }
    for (; k < cols; k += LANES) {
        size_t some = smaller(cols - k, LANES);
        LanesBits rest = halves_load_some(row + 2 * k, some);
        Lanes *one = &sum[1].part[k / LANES % SIXTEEN_PARTS];
        *one = lanes_multiply_add(lanes_load_some(x->value + k, some),
                                  lanes_from_f16((unsigned char *)&rest), *one);
    }
    return sixteen_sum_of_four(sum);
}

/* One block of 8-bit weights times 16-bit numbers: exact, in sixteen sums of four products, each of
   less than 2^24. Sum l has the products 2 l, 2 l + 1 and those 32 further on. */
INLINE Sixteen int8_products(const int8_t *w, const int16_t *x)
{
    Sixteen products;
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
    products.part[0] = (Lanes)_mm512_cvtepi32_ps(sum);
#elif LANES == 8 && defined(__AVX2__)
    for (size_t j = 0; j < SIXTEEN_PARTS; j++) {
        __m256i sum = _mm256_setzero_si256();
        for (size_t i = 16 * j; i < INT8_BLOCK; i += 32) {
            __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(w + i)));
            __m256i by = _mm256_loadu_si256((const __m256i *)(x + i));
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(wide, by));
        }
        products.part[j] = (Lanes)_mm256_cvtepi32_ps(sum);
    }
#elif defined(LANES_NEON)
    for (size_t j = 0; j < SIXTEEN_PARTS; j++) {
        int8x16_t first = vld1q_s8(w + j / 2 * 16), second = vld1q_s8(w + 32 + j / 2 * 16);
        int16x8_t a = j % 2 == 0 ? vmovl_s8(vget_low_s8(first)) : vmovl_high_s8(first);
        int16x8_t b = j % 2 == 0 ? vmovl_s8(vget_low_s8(second)) : vmovl_high_s8(second);
        int16x8_t by_a = vld1q_s16(x + 8 * j), by_b = vld1q_s16(x + 32 + 8 * j);
        int32x4_t low = vmull_s16(vget_low_s16(a), vget_low_s16(by_a));
        int32x4_t high = vmull_high_s16(a, by_a);
        low = vmlal_s16(low, vget_low_s16(b), vget_low_s16(by_b));
        high = vmlal_high_s16(high, b, by_b);
        products.part[j] = (Lanes)vcvtq_f32_s32(vpaddq_s32(low, high));
    }
#else
    for (size_t l = 0; l < SIXTEEN; l++)
        products.part[l / LANES][l % LANES] =
            (float)(w[2 * l] * x[2 * l] + w[2 * l + 1] * x[2 * l + 1] +
                    w[2 * l + 32] * x[2 * l + 32] + w[2 * l + 33] * x[2 * l + 33]);
#endif
    return products;
}

/* INT8_ROWS rows times x; data and scale are those of the first one's first block. */
INLINE void rows_int8(float sum[INT8_ROWS], const unsigned char *data, const float *scale,
                      const Activation *x, size_t blocks)
{
    Sixteen total[INT8_ROWS];
    for (size_t i = 0; i < INT8_ROWS; i++)
        total[i] = sixteen_zero();
    for (size_t b = 0; b < blocks; b++, scale += INT8_ROWS)
        for (size_t i = 0; i < INT8_ROWS; i++, data += INT8_BLOCK) {
            look_ahead(data, INT8_BLOCK);
            Sixteen products = int8_products((const int8_t *)data, x->whole + b * INT8_BLOCK);
            for (size_t j = 0; j < SIXTEEN_PARTS; j++)
                total[i].part[j] = lanes_scale_add(products.part[j], scale[i], total[i].part[j]);
        }
    for (size_t i = 0; i < INT8_ROWS; i++)
        sum[i] = x->unit * sixteen_sum(total[i]);
}

/* Four bytes that are used for every lane. */
INLINE int32_t four_bytes(const int8_t *from)
{
    int32_t four;
    memcpy(&four, from, sizeof four);
    return four;
}

/* start + sum over a block of 4-bit weights, 0 .. 15, times bytes: exact. Each lane has a row of
   its own, so there is no sum over lanes, and any number of them gives the same bits. Sums of 16
   bits hold 8 * 2 * 15 * 127 < 2^15. */
INLINE LanesBits int4_products(const unsigned char *w, const int8_t *x, int32_t start)
{
#if LANES == 16 && defined(__AVX512BW__)
    const __m512i low = _mm512_set1_epi8(15);
    __m512i first = _mm512_set1_epi32(start), second = _mm512_setzero_si512();
    for (size_t i = 0; i < INT4_HALF; i += 4, w += 4 * INT4_ROWS) {
        __m512i pair = _mm512_loadu_si512(w), a = _mm512_and_si512(pair, low);
        __m512i b = _mm512_and_si512(_mm512_srli_epi16(pair, 4), low);
        __m512i by_a = _mm512_set1_epi32(four_bytes(x + i));
        __m512i by_b = _mm512_set1_epi32(four_bytes(x + i + INT4_HALF));
#ifdef __AVX512VNNI__
        first = _mm512_dpbusd_epi32(first, a, by_a);
        second = _mm512_dpbusd_epi32(second, b, by_b);
    }
#else
        second = _mm512_add_epi16(second, _mm512_maddubs_epi16(a, by_a));
        second = _mm512_add_epi16(second, _mm512_maddubs_epi16(b, by_b));
    }
    second = _mm512_madd_epi16(second, _mm512_set1_epi16(1));
#endif
    return (LanesBits)_mm512_add_epi32(first, second);
#elif LANES == 8 && defined(__AVX2__)
    const __m256i low = _mm256_set1_epi8(15);
    __m256i sum = _mm256_setzero_si256();
    for (size_t i = 0; i < INT4_HALF; i += 4, w += 4 * INT4_ROWS) {
        __m256i pair = _mm256_loadu_si256((const __m256i *)w), a = _mm256_and_si256(pair, low);
        __m256i b = _mm256_and_si256(_mm256_srli_epi16(pair, 4), low);
        __m256i by_a = _mm256_set1_epi32(four_bytes(x + i));
        __m256i by_b = _mm256_set1_epi32(four_bytes(x + i + INT4_HALF));
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(a, by_a));
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(b, by_b));
    }
    sum = _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
    return (LanesBits)_mm256_add_epi32(sum, _mm256_set1_epi32(start));
#elif defined(LANES_NEON) && defined(__ARM_FEATURE_DOTPROD)
    int32x4_t sum = vdupq_n_s32(start);
    for (size_t i = 0; i < INT4_HALF; i += 4, w += 4 * INT4_ROWS) {
        uint8x16_t pair = vld1q_u8(w);
        int8x16_t a = vreinterpretq_s8_u8(vandq_u8(pair, vdupq_n_u8(15)));
        int8x16_t b = vreinterpretq_s8_u8(vshrq_n_u8(pair, 4));
        sum = vdotq_s32(sum, a, vreinterpretq_s8_s32(vdupq_n_s32(four_bytes(x + i))));
        sum = vdotq_s32(sum, b, vreinterpretq_s8_s32(vdupq_n_s32(four_bytes(x + i + INT4_HALF))));
    }
    return (LanesBits)sum;
#elif defined(LANES_NEON)
    int16x8_t low = vdupq_n_s16(0), high = low; /* of the first two rows, and of the others */
    for (size_t i = 0; i < INT4_HALF; i += 4, w += 4 * INT4_ROWS) {
        uint8x16_t pair = vld1q_u8(w);
        int8x16_t a = vreinterpretq_s8_u8(vandq_u8(pair, vdupq_n_u8(15)));
        int8x16_t b = vreinterpretq_s8_u8(vshrq_n_u8(pair, 4));
        int8x16_t by_a = vreinterpretq_s8_s32(vdupq_n_s32(four_bytes(x + i)));
        int8x16_t by_b = vreinterpretq_s8_s32(vdupq_n_s32(four_bytes(x + i + INT4_HALF)));
        low = vmlal_s8(low, vget_low_s8(a), vget_low_s8(by_a));
        high = vmlal_high_s8(high, a, by_a);
        low = vmlal_s8(low, vget_low_s8(b), vget_low_s8(by_b));
        high = vmlal_high_s8(high, b, by_b);
    }
    int32x4_t sum = vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high));
    return (LanesBits)vaddq_s32(sum, vdupq_n_s32(start));
#else
    LanesBits sum = {0};
    sum += start;
    for (size_t i = 0; i < INT4_HALF; i += 4, w += 4 * INT4_ROWS) {
        LanesBits pair;
        memcpy(&pair, w, sizeof pair);
        for (size_t k = 0; k < 4; k++, pair >>= 8)
            sum += (pair & 15) * x[i + k] + (pair >> 4 & 15) * x[i + k + INT4_HALF];
    }
    return sum;
#endif
}

/* LANES scales in BF16 as floats. */
INLINE Lanes lanes_from_bf16(const uint16_t *from)
{
    typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));
    Halves half;
    memcpy(&half, from, sizeof half);
    return (Lanes)(__builtin_convertvector(half, LanesBits) << 16);
}

/* INT4_ROWS rows times x; data and scale are those of the first one's first block. */
INLINE void rows_int4(float sum[INT4_ROWS], const unsigned char *data, const uint16_t *scale,
                      const Activation *x, size_t blocks)
{
    enum { PARTS = INT4_ROWS / LANES };
    Lanes total[PARTS] = {{0}};
    for (size_t b = 0; b < blocks; b++, data += INT4_TILE, scale += INT4_ROWS) {
        look_ahead(data, INT4_TILE);
        look_ahead((const unsigned char *)scale, 1);
        for (size_t i = 0; i < PARTS; i++) {
            LanesBits whole =
                int4_products(data + 4 * LANES * i, x->byte + b * INT4_BLOCK, x->less[b]);
            total[i] =
                lanes_multiply_add(__builtin_convertvector(whole, Lanes),
                                   lanes_from_bf16(scale + LANES * i) * x->byte_unit[b], total[i]);
        }
    }
    memcpy(sum, total, sizeof total);
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

/* The same of a copy: the rows that lie side by side are made together. */
static void product_of_ints(float *y, const Weight *weight, const Activation *x, size_t first,
                            size_t end)
{
    size_t side = block_rows(weight->bits), blocks = blocks_of(weight->cols, weight->bits);
    for (size_t r = first / side * side; r < end; r += side) {
        float sum[INT4_ROWS];
        size_t place = block_place(r, 0, blocks, weight->bits);
        if (weight->bits == 4)
            rows_int4(sum, weight->data + place / INT4_ROWS * INT4_TILE,
                      (const uint16_t *)weight->scale + place, x, blocks);
        else
            rows_int8(sum, weight->data + place * INT8_BLOCK, (const float *)weight->scale + place,
                      x, blocks);
        for (size_t i = 0; i < side; i++)
            if (r + i >= first && r + i < end)
                y[r + i] = sum[i];
    }
}

/* weight_product_clear, for use: one thread's rows, after activation_set. */
void weight_product(float *y, const Weight *weight, const Activation *x, size_t first, size_t end)
{
    size_t cols = weight->cols;
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
    default: product_of_ints(y, weight, x, first, end);
    }
}

#endif /* CH05_QUANTIZED */
