/* Tensor cores without a GPU: CUDA's warp matrix functions (wmma) for TF32, on the CPU.

   HOLDS   the fragments of a 16 x 8 times 8 x 16 product; load_matrix_sync, mma_sync,
           store_matrix_sync, fill_fragment and __float_to_tf32
   FOR     cuda_host.cu, when it is not nvcc that compiles; the kernels of cuda_dual.cu

   A warp holds a matrix together, each lane a few of its numbers. Which ones is not said by CUDA:
   so here it is another lane in every order of threads, and a kernel that counts on a place gives
   another result. As on a GPU, all 32 lanes of a warp make each call together, with the same
   address and distance of rows; they meet, as at a shuffle, and what they read and write is put in
   order by nothing: that takes __syncwarp or __syncthreads. A call that not all make, addresses
   that are not the same or no multiple of 32 bytes, and factors that nobody rounded to TF32 end
   the launch with a sentence.

   What it is not: exact to the last bit. A product of two TF32 numbers is exact in float; in which
   order a GPU adds them, and how it rounds there, NVIDIA does not say. Here it is one after the
   other. */

#ifndef CUDA_WMMA_ON_CPU
#define CUDA_WMMA_ON_CPU

#include "cuda_on_cpu.h"

#define __align__(bytes) __attribute__((aligned(bytes)))

/* A product: SIDE x DEEP times DEEP x SIDE. */
enum { CUDA_CPU_SIDE = 16, CUDA_CPU_DEEP = 8, CUDA_CPU_EVEN = 32 /* bytes: every address */ };

/* What a fragment is for; a factor's rows lie in memory one after the other, or its columns do. */
typedef enum {
    CUDA_CPU_LEFT_ROWS = 1,
    CUDA_CPU_LEFT_COLUMNS,
    CUDA_CPU_RIGHT_ROWS,
    CUDA_CPU_RIGHT_COLUMNS,
    CUDA_CPU_SUM
} CudaCpuUse;

typedef enum { mem_row_major, mem_col_major } layout_t;

/* A lane's part. The type says what it is for by the size of `use`. */
#define CUDA_CPU_FRAGMENT(name, count, kind)                                                       \
    typedef struct {                                                                               \
        float x[count];                                                                            \
        char use[kind];                                                                            \
    } name
CUDA_CPU_FRAGMENT(LeftRows, 4, CUDA_CPU_LEFT_ROWS);
CUDA_CPU_FRAGMENT(LeftColumns, 4, CUDA_CPU_LEFT_COLUMNS);
CUDA_CPU_FRAGMENT(RightRows, 4, CUDA_CPU_RIGHT_ROWS);
CUDA_CPU_FRAGMENT(RightColumns, 4, CUDA_CPU_RIGHT_COLUMNS);
CUDA_CPU_FRAGMENT(SumFragment, 8, CUDA_CPU_SUM);

/* The nearest number with 10 bits behind the point; of two as near, the one away from 0. */
static inline float cuda_cpu_float_to_tf32(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7f800000u) != 0x7f800000u) /* not infinite, not NaN */
        bits = (bits + 0x1000u) & ~0x1fffu;
    memcpy(&value, &bits, sizeof bits);
    return value;
}
#define __float_to_tf32(value) cuda_cpu_float_to_tf32(value)

static inline bool cuda_cpu_is_tf32(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (bits & 0x1fffu) == 0 || isnan(value);
}

/* Which number of a matrix (`count` of them, row after row) is part k of a lane. */
static inline unsigned cuda_cpu_held(unsigned lane, unsigned k, unsigned count)
{
    static const unsigned step[3] = {1, 37, 75}; /* odd: every number is somebody's */
    return (k * CUDA_CPU_WARP + lane) * step[cuda_cpu.order] % count;
}

static inline unsigned cuda_cpu_own_lane(void)
{
    return cuda_cpu_number(cuda_cpu.now) % CUDA_CPU_WARP;
}

/* All lanes of the warp meet, and say where their matrix lies: everyone at the same place. */
static inline void cuda_cpu_matrix_meet(const float *at, unsigned row, const CudaCpuSite *site)
{
    struct {
        const float *at;
        unsigned row;
    } own = {at, row};
    const CudaCpuThread *me = cuda_cpu.now, *first = cuda_cpu_lane(0);
    if (cuda_cpu_lane(CUDA_CPU_WARP - 1) == NULL)
        cuda_cpu_fail("thread (%u, %u, %u) at %.120s:%d calls %s in a warp of fewer than 32 lanes",
                      me->index.x, me->index.y, me->index.z, site->file, site->line, site->what);
    if ((uintptr_t)at % CUDA_CPU_EVEN != 0 || row % 4 != 0)
        cuda_cpu_fail("thread (%u, %u, %u) at %.120s:%d: %s takes a matrix at %p with rows of %u "
                      "floats: it must begin at a multiple of 32 bytes, rows at multiples of 16",
                      me->index.x, me->index.y, me->index.z, site->file, site->line, site->what,
                      (const void *)at, row);
    cuda_cpu_exchange(&own, sizeof own, 0xffffffffu, site);
    if (memcmp(cuda_cpu.now->taken, first->taken, sizeof own.at + sizeof own.row) != 0)
        cuda_cpu_fail("thread (%u, %u, %u) at %.120s:%d: %s takes another matrix than in lane 0",
                      me->index.x, me->index.y, me->index.z, site->file, site->line, site->what);
}

/* Where number i of a factor lies, or number i of a sum. */
static inline size_t cuda_cpu_factor_place(CudaCpuUse use, unsigned i, unsigned row)
{
    bool left = use == CUDA_CPU_LEFT_ROWS || use == CUDA_CPU_LEFT_COLUMNS;
    bool rows = use == CUDA_CPU_LEFT_ROWS || use == CUDA_CPU_RIGHT_ROWS;
    unsigned wide = left ? CUDA_CPU_DEEP : CUDA_CPU_SIDE;
    return rows ? i / wide * (size_t)row + i % wide : i % wide * (size_t)row + i / wide;
}

static inline size_t cuda_cpu_sum_place(layout_t layout, unsigned i, unsigned row)
{
    unsigned slow = i / CUDA_CPU_SIDE, fast = i % CUDA_CPU_SIDE;
    return layout == mem_row_major ? slow * (size_t)row + fast : fast * (size_t)row + slow;
}

CUDA_CPU_CALLED static void cuda_cpu_load_matrix(float *held, CudaCpuUse use, const float *from,
                                                 unsigned row, layout_t layout,
                                                 const CudaCpuSite *site)
{
    cuda_unseen();
    cuda_cpu_matrix_meet(from, row, site);
    unsigned lane = cuda_cpu_own_lane(), count = use == CUDA_CPU_SUM ? 8 : 4;
    size_t place[8];
    for (unsigned k = 0; k < count; k++) {
        unsigned i = cuda_cpu_held(lane, k, count * CUDA_CPU_WARP);
        place[k] = use == CUDA_CPU_SUM ? cuda_cpu_sum_place(layout, i, row)
                                       : cuda_cpu_factor_place(use, i, row);
    }
    cuda_seen();
    for (unsigned k = 0; k < count; k++)
        held[k] = from[place[k]];
}

CUDA_CPU_CALLED static void cuda_cpu_store_matrix(float *to, const float *held, unsigned row,
                                                  layout_t layout, const CudaCpuSite *site)
{
    cuda_unseen();
    cuda_cpu_matrix_meet(to, row, site);
    unsigned lane = cuda_cpu_own_lane(), place[8];
    for (unsigned k = 0; k < 8; k++)
        place[k] = cuda_cpu_held(lane, k, CUDA_CPU_SIDE * CUDA_CPU_SIDE);
    cuda_seen();
    for (unsigned k = 0; k < 8; k++)
        to[cuda_cpu_sum_place(layout, place[k], row)] = held[k];
}

/* What a lane brings to a product. */
typedef struct {
    const float *left, *right, *sum; /* its parts */
    float *out;
    bool done; /* by another lane, for all */
} CudaCpuProduct;

/* The product of the whole warp, by the first lane that comes out of the meeting. */
static inline void cuda_cpu_multiply(const CudaCpuSite *site)
{
    enum { SIDE = CUDA_CPU_SIDE, DEEP = CUDA_CPU_DEEP };
    float left[SIDE * DEEP], right[DEEP * SIDE], sum[SIDE * SIDE];
    CudaCpuProduct *part[CUDA_CPU_WARP];
    bool rounded = true;
    for (unsigned lane = 0; lane < CUDA_CPU_WARP; lane++) {
        void *given;
        memcpy(&given, cuda_cpu_lane(lane)->taken, sizeof given);
        part[lane] = (CudaCpuProduct *)given;
        for (unsigned k = 0; k < 4; k++) {
            unsigned i = cuda_cpu_held(lane, k, SIDE * DEEP);
            left[i] = part[lane]->left[k], right[i] = part[lane]->right[k];
            rounded = rounded && cuda_cpu_is_tf32(left[i]) && cuda_cpu_is_tf32(right[i]);
        }
        for (unsigned k = 0; k < 8; k++)
            sum[cuda_cpu_held(lane, k, SIDE * SIDE)] = part[lane]->sum[k];
    }
    if (!rounded)
        cuda_cpu_fail("thread (%u, %u, %u) at %.120s:%d: %s takes a factor that is no TF32: it was "
                      "not rounded by __float_to_tf32, or never written",
                      cuda_cpu.now->index.x, cuda_cpu.now->index.y, cuda_cpu.now->index.z,
                      site->file, site->line, site->what);
    for (unsigned i = 0; i < SIDE; i++)
        for (unsigned k = 0; k < DEEP; k++)
            for (unsigned j = 0; j < SIDE; j++)
                sum[i * SIDE + j] += left[i * DEEP + k] * right[k * SIDE + j];
    for (unsigned lane = 0; lane < CUDA_CPU_WARP; lane++) {
        for (unsigned k = 0; k < 8; k++)
            part[lane]->out[k] = sum[cuda_cpu_held(lane, k, SIDE * SIDE)];
        part[lane]->done = true;
    }
}

CUDA_CPU_CALLED static void cuda_cpu_mma(float *out, /* NOLINT: whoever comes first writes it */
                                         const float *left, const float *right, const float *sum,
                                         const CudaCpuSite *site)
{
    CudaCpuProduct own = {left, right, sum, out, false};
    void *given = &own;
    cuda_unseen();
    cuda_cpu_exchange(&given, sizeof given, 0xffffffffu, site);
    if (!own.done)
        cuda_cpu_multiply(site);
    cuda_seen();
}

/* The fourth argument is for sums only: in what order they lie. */
#define load_matrix_sync(fragment, from, ...)                                                      \
    CUDA_CPU_LOAD_MATRIX(fragment, from, __VA_ARGS__, mem_row_major, 0)
#define CUDA_CPU_LOAD_MATRIX(fragment, from, row, layout, ...)                                     \
    __extension__({                                                                                \
        CUDA_CPU_SITE("load_matrix_sync", false);                                                  \
        cuda_cpu_load_matrix((fragment).x, (CudaCpuUse)sizeof(fragment).use, (from), (row),        \
                             (layout), &cuda_cpu_site);                                            \
    })
#define store_matrix_sync(to, fragment, row, layout)                                               \
    __extension__({                                                                                \
        CUDA_CPU_SITE("store_matrix_sync", false);                                                 \
        cuda_cpu_store_matrix((to), (fragment).x, (row), (layout), &cuda_cpu_site);                \
    })
#define mma_sync(out, left, right, sum)                                                            \
    __extension__({                                                                                \
        CUDA_CPU_SITE("mma_sync", false);                                                          \
        cuda_cpu_mma((out).x, (left).x, (right).x, (sum).x, &cuda_cpu_site);                       \
    })
#define fill_fragment(fragment, value)                                                             \
    do {                                                                                           \
        for (unsigned cuda_cpu_k = 0; cuda_cpu_k < sizeof(fragment).x / sizeof(float);             \
             cuda_cpu_k++)                                                                         \
            (fragment).x[cuda_cpu_k] = (value);                                                    \
    } while (0)

#endif /* CUDA_WMMA_ON_CPU */
