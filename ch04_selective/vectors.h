/* Vectors: many floats in one instruction, and their exponential.

   HOLDS   Lanes, 16 floats (8 or 4 on a smaller machine) that are worked on together: load, store,
           choose, sum; exp, sigmoid, softplus, silu' of them; loops that go over all processors
   FOR     the fast scan beside it, and what is fast in chapter 5
   BITS    What is worked out here, and training with it, is the same to the last bit on every
           machine that has fused multiply-adds, whatever the width of its vectors. Three rules
           make it so. Each fused product is written as one (the Makefile forbids compilers to fuse
           any other); a sum over lanes goes over sixteen, added in one order (Sixteen); and there
           is one exponential for all widths. */

#ifndef COURSE_VECTORS
#define COURSE_VECTORS

#include "../ch01_markov/tools.h"
#ifdef _OPENMP
#include <omp.h>
#endif

/* The loop after this goes over all processors, if the compiler has OpenMP; else over one. */
#ifdef _OPENMP
#define PARALLEL_FOR(clauses) PARALLEL_PRAGMA(omp parallel for clauses)
#define PARALLEL_PRAGMA(text) _Pragma(#text)
#else
#define PARALLEL_FOR(clauses)
#endif

#define INLINE static inline __attribute__((always_inline, unused))

INLINE size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* How many threads a loop may use: inside a loop that is shared already, one. */
INLINE int threads_most(void)
{
#ifdef _OPENMP
    return omp_in_parallel() ? 1 : omp_get_max_threads();
#else
    return 1;
#endif
}

/* Whether a loop is worth sharing: whether it takes one thread longer than to wake another does,
   tens of microseconds. Work is counted in the multiply-adds of a product, of which a processor
   does some fifty in a nanosecond. */
INLINE bool worth_sharing(size_t multiply_adds)
{
    return multiply_adds > 4000000;
}

/* The same for what is gone through number by number, with an exponential here and there. */
INLINE bool worth_sharing_each(size_t numbers)
{
    return worth_sharing(16 * numbers);
}

INLINE void threads_use(int threads)
{
#ifdef _OPENMP
    omp_set_num_threads(threads);
#else
    (void)threads;
#endif
}

#if defined(__AVX512F__) && !defined(__CUDACC__)
#define LANES 16
#include <immintrin.h>
#elif defined(__AVX__) && !defined(__CUDACC__)
#define LANES 8
#include <immintrin.h>
#else
#define LANES 4
#endif
#if defined(__aarch64__) && !defined(__CUDACC__)
#define LANES_NEON
#include <arm_neon.h>
#endif
#if LANES == 16 || (LANES == 8 && defined(__FMA__)) || defined(LANES_NEON)
#define LANES_FUSED /* lanes_multiply_add rounds once */
#endif

/* LANES numbers that are worked on together: the vectors of gcc and clang, which know + - * / and
   comparisons (all bits set where true). */
typedef float Lanes __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t LanesBits __attribute__((vector_size(LANES * sizeof(float))));
typedef uint32_t LanesWhole __attribute__((vector_size(LANES * sizeof(float))));

INLINE Lanes lanes_load(const float *from) /* from any address */
{
    Lanes v;
    memcpy(&v, from, sizeof v);
    return v;
}

INLINE void lanes_store(float *to, Lanes v)
{
    memcpy(to, &v, sizeof v);
}

/* Only the first `count` lanes, where channels end inside a vector: the others read as 0. */
INLINE Lanes lanes_load_some(const float *from, size_t count)
{
#if LANES == 16
    return (Lanes)_mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), from);
#else
    if (count == LANES)
        return lanes_load(from);
    float padded[LANES] = {0};
    memcpy(padded, from, count * sizeof(float));
    return lanes_load(padded);
#endif
}

INLINE void lanes_store_some(float *to, Lanes v, size_t count)
{
#if LANES == 16
    _mm512_mask_storeu_ps(to, (__mmask16)((1u << count) - 1), (__m512)v);
#else
    if (count == LANES)
        lanes_store(to, v);
    else
        memcpy(to, &v, count * sizeof(float));
#endif
}

INLINE Lanes lanes_all(float value)
{
    Lanes zeros = {0};
    return value - zeros; /* v - 0 is v, so compilers leave it out; v + 0 makes a 0 of -0 */
}

/* where ? yes : no, lane by lane. */
INLINE Lanes lanes_choose(LanesBits where, Lanes yes, Lanes no)
{
    return (Lanes)((where & (LanesBits)yes) | (~where & (LanesBits)no));
}

/* negative where the sign of v says so, positive where not: a 0 may have either. */
INLINE Lanes lanes_by_sign(Lanes v, Lanes negative, Lanes positive)
{
#if LANES == 16 && defined(__AVX512DQ__)
    return (Lanes)_mm512_mask_mov_ps((__m512)positive, _mm512_movepi32_mask((__m512i)v),
                                     (__m512)negative);
#elif LANES == 8
    return (Lanes)_mm256_blendv_ps((__m256)positive, (__m256)negative, (__m256)v);
#else
    return lanes_choose((LanesBits)v < 0, negative, positive);
#endif
}

/* Is it true of all lanes? */
INLINE bool lanes_are(LanesBits where)
{
#if LANES == 16
    return _mm512_test_epi32_mask((__m512i)where, (__m512i)where) == 0xffff;
#elif LANES == 8
    return _mm256_movemask_ps((__m256)where) == 0xff;
#else
    return (where[0] & where[1] & where[2] & where[3]) != 0;
#endif
}

INLINE Lanes lanes_abs(Lanes v)
{
    return (Lanes)((LanesBits)v & 0x7fffffff);
}

/* The larger of the two, lane by lane. */
INLINE Lanes lanes_larger(Lanes a, Lanes b)
{
#if LANES == 16
    return (Lanes)_mm512_max_ps((__m512)a, (__m512)b);
#elif LANES == 8
    return (Lanes)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return lanes_choose(a > b, a, b);
#endif
}

/* a b + c, rounded once where the machine can: a b - c is then exact where the two are near. */
INLINE Lanes lanes_multiply_add(Lanes a, Lanes b, Lanes c)
{
#if LANES == 16
    return (Lanes)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif LANES == 8 && defined(__FMA__)
    return (Lanes)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(LANES_NEON)
    return (Lanes)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

/* v factor + c, where factor is one number for all lanes. */
INLINE Lanes lanes_scale_add(Lanes v, float factor, Lanes c)
{
    return lanes_multiply_add(v, lanes_all(factor), c);
}

/* v, but no less than `least`; NaN stays NaN. */
INLINE Lanes lanes_at_least(Lanes v, float least)
{
#if LANES == 16
    return (Lanes)_mm512_max_ps(_mm512_set1_ps(least), (__m512)v);
#elif LANES == 8
    return (Lanes)_mm256_max_ps(_mm256_set1_ps(least), (__m256)v);
#else
    return lanes_choose(v < least, lanes_all(least), v);
#endif
}

/* The largest lane, or NaN if there is one. */
INLINE float lanes_largest(Lanes v)
{
    float largest = v[0];
    for (int i = 1; i < LANES; i++)
        if (!(v[i] <= largest) && !isnan(largest))
            largest = v[i];
    return largest;
}

/* ---- sums ---- */

/* A sum that goes over lanes is sixteen sums side by side on every machine, in one, two or four
   vectors: number i goes to sum i % 16, and at the end the sixteen are added in halves. */
enum { SIXTEEN = 16, SIXTEEN_PARTS = SIXTEEN / LANES };
typedef struct {
    Lanes part[SIXTEEN_PARTS];
} Sixteen;

INLINE Sixteen sixteen_zero(void)
{
    Sixteen zeros = {{{0}}};
    return zeros;
}

/* How many of sixteen numbers, of which `count` are left, lie in this part. */
INLINE size_t sixteen_share(size_t count, size_t part)
{
    return count > part * LANES ? smaller(count - part * LANES, LANES) : 0;
}

INLINE float sixteen_sum(Sixteen v)
{
#if LANES == 16
    __m512 all = (__m512)v.part[0];
    __m256 upper = (__m256)_mm512_extractf64x4_pd((__m512d)all, 1);
    __m256 eight = _mm512_castps512_ps256(all) + upper;
#elif LANES == 8
    __m256 eight = (__m256)(v.part[0] + v.part[1]);
#endif
#if LANES >= 8
    __m128 four = _mm256_castps256_ps128(eight) + _mm256_extractf128_ps(eight, 1);
#else
    Lanes four = (v.part[0] + v.part[2]) + (v.part[1] + v.part[3]);
#endif
    return (four[0] + four[2]) + (four[1] + four[3]);
}

/* Where one sum waits for itself, four times sixteen do not: their sum. */
INLINE float sixteen_sum_of_four(const Sixteen v[4])
{
    Sixteen sum;
    for (size_t j = 0; j < SIXTEEN_PARTS; j++)
        sum.part[j] = (v[0].part[j] + v[1].part[j]) + (v[2].part[j] + v[3].part[j]);
    return sixteen_sum(sum);
}

/* The sum of the lanes one after the other: its bits depend on how many there are. */
INLINE float lanes_sum(Lanes v)
{
    float sum = 0.0f;
    for (int i = 0; i < LANES; i++)
        sum += v[i];
    return sum;
}

/* ---- exp ---- */

/* 2^v for a v that is given as a multiple of 1/8 and a rest r of 1/16 at most: 2^(j/8) comes from a
   table of 8, which is what a machine with vectors of 8 looks up with one instruction; what is
   whole goes into the exponent; and 2^r is a cubic, whose coefficients make its largest relative
   error smallest (Remez), 2.7e-8. Within 2 ulp of 2^v (tested on millions of floats). */
typedef struct {
#if LANES == 16 || (LANES == 8 && defined(__AVX2__))
    Lanes power; /* the bits of 2^(j/8) less j << 20, which adding v's bits brings back */
#if LANES == 16
    Lanes itself; /* 2^(j/8) */
#endif
#elif defined(LANES_NEON)
    uint8x16x2_t power;
#else
    int32_t power[8];
#endif
} ExpTable;

INLINE ExpTable exp_table(void)
{
    static const int32_t power[8] = {0x3f800000, 0x3f8b95c2, 0x3f9837f0, 0x3fa5fed7,
                                     0x3fb504f3, 0x3fc5672a, 0x3fd744fd, 0x3feac0c7};
    ExpTable table;
    for (size_t i = 0; i < sizeof table.power / sizeof *power; i++) { /* sixteen: twice over */
        int32_t bits = power[i % 8] - ((int32_t)(i % 8) << 20);
        memcpy((char *)&table.power + i * sizeof bits, &bits, sizeof bits);
#if LANES == 16
        memcpy((char *)&table.itself + i * sizeof bits, &power[i % 8], sizeof bits);
#endif
    }
    return table;
}

/* A number so large that adding it rounds v to a multiple of 1/8, and leaves that multiple in the
   last bits: 1.5 * 2^20. */
#define EXP_ROUND 1572864.0f

/* The table's entries at the last three bits of every lane. */
INLINE LanesBits exp_look_up(ExpTable table, Lanes rounded)
{
#if LANES == 16
    return (LanesBits)_mm512_permutexvar_ps((__m512i)rounded, (__m512)table.power);
#elif LANES == 8 && defined(__AVX2__) /* three bits are all that the instruction looks at */
    return (LanesBits)_mm256_permutevar8x32_ps((__m256)table.power, (__m256i)rounded);
#elif defined(LANES_NEON)
    LanesBits bytes = ((LanesBits)rounded & 7) * 0x04040404 + 0x03020100; /* 4 j .. 4 j + 3 */
    return (LanesBits)vqtbl2q_u8(table.power, (uint8x16_t)bytes);
#else
    LanesBits index = (LanesBits)rounded & 7, found = {0};
    for (int i = 0; i < LANES; i++)
        found[i] = table.power[index[i]];
    return found;
#endif
}

/* power 2^r: 2^r - 1 is r p, and small. */
INLINE Lanes exp2_rest(Lanes power, Lanes r)
{
    Lanes p = lanes_scale_add(r, 0.0554962233f, lanes_all(0.240257636f));
    p = lanes_multiply_add(p, r, lanes_all(0.693147242f));
    return lanes_multiply_add(power, r * p, power);
}

/* 2^(k + r), k the multiple that `rounded` = k + EXP_ROUND has in its last bits. */
INLINE Lanes exp2_parts(Lanes rounded, Lanes r, ExpTable table)
{
    LanesWhole power = (LanesWhole)exp_look_up(table, rounded) + ((LanesWhole)rounded << 20);
    return exp2_rest((Lanes)power, r);
}

/* 2^(a b) for |a b| <= 126, to 2 ulp of the exact product's power. */
INLINE Lanes exp2_product(Lanes a, Lanes b, ExpTable table)
{
    Lanes rounded = lanes_multiply_add(a, b, lanes_all(EXP_ROUND));
#if LANES == 16 /* one instruction that multiplies by 2^floor(k) instead of two for its bits */
    Lanes k = rounded - EXP_ROUND;
    Lanes r = (Lanes)_mm512_fmsub_ps((__m512)a, (__m512)b, (__m512)k);
    __m512 eighth = _mm512_permutexvar_ps((__m512i)rounded, (__m512)table.itself);
    return exp2_rest((Lanes)_mm512_scalef_ps(eighth, (__m512)k), r);
#else
    Lanes r = lanes_multiply_add(a, b, EXP_ROUND - rounded);
    return exp2_parts(rounded, r, table);
#endif
}

/* 2^(a b) for any a and b: infinite from 2^128 on, 0 below 2^-127, NaN stays NaN; and where
   exp2_product may be used, its bits. */
INLINE Lanes exp2_product_any(Lanes a, Lanes b, ExpTable table)
{
    const float least = EXP_ROUND - 127.0f, most = EXP_ROUND + 127.875f;
    Lanes rounded = lanes_at_least(lanes_multiply_add(a, b, lanes_all(EXP_ROUND)), least);
    rounded = lanes_choose(rounded > most, lanes_all(most), rounded);
    Lanes power = exp2_parts(rounded, lanes_multiply_add(a, b, EXP_ROUND - rounded), table);
    Lanes v = a * b;
    power = lanes_choose(v < -127.0f, lanes_all(0.0f), power);
    return lanes_choose(v >= 128.0f, lanes_all(INFINITY), power);
}

/* exp(v) for v <= 0, to 2 ulp down to exp(-87); from 2^-127 = exp(-88.03) down it is 0. What is
   over v's multiple k of log 2 is taken with log 2 in two parts: k times the first, of 9 bits, is
   exact. */
INLINE Lanes lanes_exp(Lanes v, ExpTable table)
{
    const float log2_e = 1.44269504f, log_2_high = 0.693359375f, log_2_low = -2.12194440e-4f;
    v = lanes_at_least(v, -88.0296936f);
    Lanes rounded = lanes_scale_add(v, log2_e, lanes_all(EXP_ROUND)), k = rounded - EXP_ROUND;
    Lanes over = lanes_scale_add(k, -log_2_low, lanes_scale_add(k, -log_2_high, v));
    return exp2_parts(rounded, over * log2_e, table);
}

/* exp(-|v|): the sigmoid, softplus and silu's derivative are all made of this one exponential, so
   that who wants two of them at one v (the backward pass does) pays for one. */
INLINE Lanes lanes_decay(Lanes v, ExpTable table)
{
    return lanes_exp((Lanes)((LanesBits)v | INT32_MIN), table);
}

INLINE Lanes sigmoid_from(Lanes v, Lanes decay)
{
    return lanes_by_sign(v, decay, lanes_all(1.0f)) / (1.0f + decay);
}

/* log1p(e) = 2 atanh(s) with s = e / (2 + e) <= 1/3, and atanh(s) is s times a series in q = s^2,
   whose coefficients are nearly 1/3, 1/5 ...: four that make the largest error smallest. */
INLINE Lanes softplus_from(Lanes v, Lanes decay)
{
    Lanes s = decay / (2.0f + decay), q = s * s;
    Lanes p = lanes_scale_add(q, 0.140063331f, lanes_all(0.14000839f));
    p = lanes_multiply_add(p, q, lanes_all(0.200107664f));
    p = lanes_multiply_add(p, q, lanes_all(0.333332092f));
    Lanes twice = s + s, log1p_e = lanes_multiply_add(twice * q, p, twice);
    return lanes_at_least(v, 0.0f) + log1p_e;
}

/* With e = exp(-|v|) the two sigmoids that it is made of are 1 / (1 + e) and e / (1 + e). */
INLINE Lanes silu_slope_from(Lanes v, Lanes decay)
{
    Lanes large = 1.0f / (1.0f + decay), small = decay * large, ones = lanes_all(1.0f);
    Lanes other = lanes_by_sign(v, large, small);
    return lanes_by_sign(v, small, large) * lanes_multiply_add(v, other, ones);
}

INLINE Lanes lanes_sigmoid(Lanes v, ExpTable table)
{
    return sigmoid_from(v, lanes_decay(v, table));
}

INLINE Lanes lanes_softplus(Lanes v, ExpTable table)
{
    return softplus_from(v, lanes_decay(v, table));
}

INLINE Lanes lanes_silu_slope(Lanes v, ExpTable table)
{
    return silu_slope_from(v, lanes_decay(v, table));
}

#endif /* COURSE_VECTORS */
