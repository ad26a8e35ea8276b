/* Vectors: many floats in one instruction, and their exponential.

   HOLDS   Lanes, 16 floats (8 or 4 on a smaller machine) that are worked on together: load, store,
           choose, sum; exp, sigmoid, softplus, silu' of them; loops that go over all processors
   FOR     the fast scan beside it, and what is fast in chapter 5 */

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

/* LANES numbers that are worked on together: the vectors of gcc and clang, which know + - * / and
   comparisons (all bits set where true). */
typedef float Lanes __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t LanesBits __attribute__((vector_size(LANES * sizeof(float))));

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
    return (Lanes)_mm512_maskz_loadu_ps((__mmask16)(0xffff >> (LANES - count)), from);
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
    _mm512_mask_storeu_ps(to, (__mmask16)(0xffff >> (LANES - count)), (__m512)v);
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

INLINE Lanes lanes_abs(Lanes v)
{
    return (Lanes)((LanesBits)v & 0x7fffffff);
}

/* The larger of the two, lane by lane. */
INLINE Lanes lanes_larger(Lanes a, Lanes b)
{
#if LANES == 16
    return (Lanes)_mm512_max_ps((__m512)a, (__m512)b);
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
#else
    return a * b + c;
#endif
}

/* v, but no less than `least`; NaN stays NaN. */
INLINE Lanes lanes_at_least(Lanes v, float least)
{
#if LANES == 16
    return (Lanes)_mm512_max_ps(_mm512_set1_ps(least), (__m512)v);
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

INLINE float lanes_sum(Lanes v)
{
#if LANES == 16
    return _mm512_reduce_add_ps((__m512)v); /* halves to halves: few additions wait for others */
#else
    float sum = 0.0f;
    for (int i = 0; i < LANES; i++)
        sum += v[i];
    return sum;
#endif
}

/* ---- exp ---- */

/* 2^v for a v that is given as a whole multiple of 1/32 and a rest r: 2^(j/32) comes from a table
   of 32, what is whole goes into the exponent, and 2^r is so near 1 that two terms do. Where a
   machine has no instruction to look up 16 numbers at once, v is cut at whole numbers and 2^r
   takes six terms. Both are within 2 ulp of 2^v (tested on millions of floats). */
typedef struct {
#if LANES == 16
    Lanes low, high; /* the bits of 2^(j/32) less j << 18, which adding v's bits brings back */
#else
    char unused;
#endif
} ExpTable;

INLINE ExpTable exp_table(void)
{
    ExpTable table;
#if LANES == 16
    for (int32_t j = 0; j < 32; j++) {
        float power = (float)exp2(j / 32.0);
        int32_t bits;
        memcpy(&bits, &power, sizeof bits);
        bits -= j << 18;
        memcpy((char *)&table + (size_t)j * sizeof bits, &bits, sizeof bits);
    }
#else
    table.unused = 0;
#endif
    return table;
}

/* A number so large that adding it rounds v to a multiple of 1/32 (or to a whole number), and
   leaves that multiple in the last bits. */
#if LANES == 16
#define EXP_ROUND 393216.0f /* 1.5 * 2^18 */
#else
#define EXP_ROUND 12583039.0f /* 1.5 * 2^23 + 127: the exponent's bias is in it already */
#endif

/* 2^(k + r), k the multiple that `rounded` = k + EXP_ROUND has in its last bits. */
INLINE Lanes exp2_parts(Lanes rounded, Lanes r, ExpTable table)
{
#if LANES == 16
    Lanes power =
        (Lanes)_mm512_permutex2var_ps((__m512)table.low, (__m512i)rounded, (__m512)table.high);
    power = (Lanes)((LanesBits)power + ((LanesBits)rounded << 18));
    Lanes p = r * 0.2402265f + 0.69315735f;
#else
    (void)table;
    Lanes power = (Lanes)((LanesBits)rounded << 23);
    Lanes p = r * 0.000154531629f + 0.00133908634f;
    p = p * r + 0.00961808256f;
    p = p * r + 0.0555035711f;
    p = p * r + 0.240226508f;
    p = p * r + 0.693147188f;
#endif
    return lanes_multiply_add(power, r * p, power); /* 2^r - 1 is r p, and small */
}

/* 2^(a b) for |a b| <= 126, to 2 ulp of the exact product's power. */
INLINE Lanes exp2_product(Lanes a, Lanes b, ExpTable table)
{
    Lanes rounded = lanes_multiply_add(a, b, lanes_all(EXP_ROUND));
    return exp2_parts(rounded, lanes_multiply_add(a, b, EXP_ROUND - rounded), table);
}

/* 2^(a b) for any a and b: infinite above 2^128, 0 below 2^-127, NaN stays NaN. */
INLINE Lanes exp2_product_any(Lanes a, Lanes b, ExpTable table)
{
    Lanes v = a * b, inside = lanes_at_least(v, -127.0f);
    inside = lanes_choose(inside > 127.9f, lanes_all(127.9f), inside);
    Lanes rounded = inside + EXP_ROUND;
    Lanes power = exp2_parts(rounded, inside - (rounded - EXP_ROUND), table);
    return lanes_choose(v >= 128.0f, lanes_all(INFINITY), power);
}

/* exp(v) for v <= 0, to 2 ulp down to exp(-87); from 2^-127 = exp(-88.03) down it is 0. What is
   over v's multiple k of log 2 is taken with log 2 in two parts: k times the first, of 9 bits, is
   exact. */
INLINE Lanes lanes_exp(Lanes v, ExpTable table)
{
    const float log2_e = 1.44269504f, log_2_high = 0.693359375f, log_2_low = -2.12194440e-4f;
    v = lanes_at_least(v, -88.0296936f);
    Lanes rounded = v * log2_e + EXP_ROUND, k = rounded - EXP_ROUND;
    Lanes over = (v - k * log_2_high) - k * log_2_low;
    return exp2_parts(rounded, over * log2_e, table);
}

/* exp(-|v|): the sigmoid, softplus and silu's derivative are all made of this one exponential, so
   that who wants two of them at one v (the backward pass does) pays for one. */
INLINE Lanes lanes_decay(Lanes v, ExpTable table)
{
    return lanes_exp(-lanes_abs(v), table);
}

INLINE Lanes sigmoid_from(Lanes v, Lanes decay)
{
    return lanes_choose(v < 0.0f, decay, lanes_all(1.0f)) / (1.0f + decay);
}

/* log1p(e) = 2 atanh(e / (2 + e)), an odd series in s = e / (2 + e) <= 1/3. */
INLINE Lanes softplus_from(Lanes v, Lanes decay)
{
    Lanes s = decay / (2.0f + decay), q = s * s;
    Lanes p = q * (1.0f / 13) + 1.0f / 11;
    p = p * q + 1.0f / 9;
    p = p * q + 1.0f / 7;
    p = p * q + 1.0f / 5;
    p = p * q + 1.0f / 3;
    Lanes log1p_e = 2.0f * s + 2.0f * s * q * p;
    return lanes_at_least(v, 0.0f) + log1p_e;
}

/* With e = exp(-|v|) the two sigmoids that it is made of are 1 / (1 + e) and e / (1 + e). */
INLINE Lanes silu_slope_from(Lanes v, Lanes decay)
{
    Lanes large = 1.0f / (1.0f + decay), small = decay * large;
    LanesBits left = v < 0.0f;
    return lanes_choose(left, small, large) * (1.0f + v * lanes_choose(left, large, small));
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
