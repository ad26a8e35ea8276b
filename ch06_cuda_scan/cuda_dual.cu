/* Chapter 6a. Mamba-2 on tensor cores

   QUESTION   A GPU has units that do nothing but multiply matrices, and that several times as fast
              as all the others. The kernels of cuda_scan.cu cannot use them. What can?
   NEW        Chapter 5c's chunks as four kernels: B C^T once for all heads of a group, where each
              piece of some chunks ends, from piece to piece, and what is read. All long sums are
              products of matrices, made by wmma in TF32: factors with 10 bits behind the point,
              sums in float.
   NOT        A way back; and not the fastest there is. The published kernels take factors of 16
              bits, and Hopper's own matrix instructions.
   EQUATION   y_i = sum over j <= i of L_ij (C_i . B_j) v_j  +  a_0 ... a_i (x C_i), in each chunk
   LETTERS    as in chapter 5c, and
              tile   SIDE x SIDE numbers in shared memory; what is not there is 0
              piece  chunks of a sequence that one block goes through, as in kernel 6
              M^T    M = L o C B^T, turned: a row for who wrote, a column for who reads
   BUILD      cc -x c -O2 ch06_cuda_scan/cuda_dual.cu -o cuda_dual -lm && ./cuda_dual
              nvcc -O3 -arch=native ch06_cuda_scan/cuda_dual.cu -o cuda_dual    sm_80 or later
   TIME       25 minutes to read
   SOURCES    T. Dao, A. Gu, Transformers are SSMs, arXiv 2405.21060: section 6
              NVIDIA, CUDA C++ Programming Guide 13.0: warp matrix functions */

#ifndef CH06_CUDA_DUAL
#define CH06_CUDA_DUAL

#include "../ch05_mamba_block/mamba2.c"
#include "cuda_host.cu"
#include "cuda_tiles.h"
#include "counts.c"

/* ==================================== What the kernels are given ========================== */

enum {
    SIDE = 64,                     /* tokens of a chunk, channels of a head, states */
    BY_ROWS = SIDE + 4,            /* floats from row to row of a tile, so that no bank is */
    BY_COLUMNS = SIDE + 8,         /* wanted twice by a product of its rows, or columns */
    TILE_SIZE = SIDE * BY_COLUMNS, /* floats */
    DUAL_THREADS = 128,            /* four warps: each makes a quarter of a square */
    DUAL_STATES = 256,             /* of a channel, at most */
    DUAL_BLOCKS = 3,               /* of a processor at a time */
    DUAL_AHEAD = 8,                /* pieces whose ends a thread asks for at once */
    TILE_QUADS = SIDE / 4,         /* of a row: four neighbours at a time */
    TILE_STEP = DUAL_THREADS / TILE_QUADS, /* rows that the block moves at a time */
    TILE_PASSES = SIDE / TILE_STEP
};

typedef struct {
    HeadScan scan; /* with arrays on the device; `chunk` is SIDE, whatever it says */
    float *y, *x_last;
    size_t piece, pieces; /* chunks of a piece; pieces of a sequence */
    float *x;    /* (batch, pieces, n_head, d_head, d_state) where each ends from 0, then begins */
    float *left; /* (batch, pieces, n_head) what a piece leaves of a state: all its a, multiplied */
    float *BC;   /* (batch, chunks, n_group, SIDE, SIDE) B C^T of each chunk: a row for who wrote */
} DualJob;

/* Chunk c of the piece that is the block's, and the head that is. */
typedef struct {
    unsigned h, tokens;          /* SIDE, or fewer at the end of a sequence, or none after it */
    size_t token;                /* the first, counted through the batch */
    size_t u, u_row, BC, BC_row; /* where its u, B and C lie; how far the next token's are */
    size_t scores;               /* where its B C^T lies */
} DualPlace;

DEVICE DualPlace dual_place(const DualJob *job, unsigned c)
{
    const HeadScan *scan = &job->scan;
    unsigned heads = (unsigned)scan->n_head, pieces = (unsigned)job->pieces;
    unsigned groups = (unsigned)scan->n_group, chunks = (unsigned)((scan->len - 1) / SIDE + 1);
    size_t chunk = blockIdx.x / heads % pieces * job->piece + c, first = chunk * SIDE;
    DualPlace at;
    at.h = blockIdx.x % heads;
    at.tokens = first < scan->len ? (unsigned)least_of(scan->len - first, SIDE) : 0;
    at.token = blockIdx.x / heads / pieces * scan->len + first;
    at.u_row = scan->n_head * scan->d_head;
    at.u = at.token * at.u_row + at.h * scan->d_head;
    at.BC_row = scan->n_group * scan->d_state;
    at.BC = at.token * at.BC_row + at.h / (heads / groups) * scan->d_state;
    chunk += blockIdx.x / heads / pieces * chunks;
    at.scores = (chunk * groups + at.h / (heads / groups)) * SIDE * SIDE;
    return at;
}

/* ==================================== Tiles =============================================== */
/* What is multiplied comes through shared memory, and is rounded on its way: a tensor core looks */
/* at the first 10 bits behind the point, and it does not round by itself. Only the state, which  */
/* goes on from chunk to chunk, stays a float.                                                    */

/* rows x columns (SIDE at most, columns a multiple of 4) of an array whose rows lie `row` floats
   apart, row i times factor[i] (NULL: 1), rounded, or as it is. A thread moves 4 columns of every
   8th row, and asks for four rows before it waits for the first. Rows of the tile lie `apart`. */
DEVICE void tile_fill(float *tile, const unsigned apart, const float *from, size_t row,
                      unsigned rows, unsigned columns, const float *factor, const bool round)
{
    unsigned i = threadIdx.x / TILE_QUADS, k = threadIdx.x % TILE_QUADS * 4;
    from += i * row + k;
    UNROLL
    for (int half = 0; half < 2; half++) {
        float quad[TILE_PASSES / 2][4] = {{0.0f}};
        UNROLL
        for (unsigned pass = 0; pass < TILE_PASSES / 2; pass++) {
            if (i + pass * TILE_STEP < rows && k < columns)
                quads_load(quad[pass], from, 4);
            from += TILE_STEP * row;
        }
        UNROLL
        for (unsigned pass = 0; pass < TILE_PASSES / 2; pass++) {
            float times = factor != NULL ? factor[i] : 1.0f;
            UNROLL
            for (int e = 0; e < 4 && round; e++)
                quad[pass][e] = __float_to_tf32(times * quad[pass][e]);
            quads_store(tile + i * apart + k, quad[pass], 4);
            i += TILE_STEP;
        }
    }
}

/* And back, plus skip times what stands at the same place in u; u NULL: plus 0. */
DEVICE void tile_write(float *to, const float *tile, size_t row, unsigned rows, unsigned columns,
                       const float *u, float skip)
{
    unsigned i = threadIdx.x / TILE_QUADS, k = threadIdx.x % TILE_QUADS * 4;
    size_t at = i * row + k;
    UNROLL
    for (unsigned pass = 0; pass < TILE_PASSES; pass++) {
        float quad[4], more[4] = {0.0f};
        if (i < rows && k < columns) {
            quads_load(quad, tile + i * BY_ROWS + k, 4);
            if (u != NULL)
                quads_load(more, u + at, 4);
            UNROLL
            for (int e = 0; e < 4; e++)
                quad[e] += skip * more[e];
            quads_store(to + at, quad, 4);
        }
        i += TILE_STEP;
        at += TILE_STEP * row;
    }
}

/* ==================================== Products ============================================ */
/* mma_sync multiplies 16 x 8 numbers by 8 x 16 and adds to 16 x 16 sums: 2,048 multiply-adds in  */
/* one call of a warp, where any other instruction does 32. A fragment is a matrix that the warp  */
/* holds together, each lane some of it. A warp makes a quarter of a square, 32 x 32, as four     */
/* sums, so that every fragment which it loads is used twice.                                     */

DEVICE unsigned quarter_row(void)
{
    return threadIdx.x / 64 * 32;
}

DEVICE unsigned quarter_column(void)
{
    return threadIdx.x / 32 % 2 * 32;
}

DEVICE void square_zero(SumFragment sum[2][2])
{
    UNROLL
    for (int i = 0; i < 2; i++) {
        fill_fragment(sum[i][0], 0.0f);
        fill_fragment(sum[i][1], 0.0f);
    }
}

/* sum_ij += sum over k < columns of left[i][k] right[j][k]: rows by rows, as in B C^T. `round`:
   right is not rounded yet; what is done to all numbers alike may be done to a fragment's. */
DEVICE void rows_by_rows(SumFragment sum[2][2], const float *left, const float *right,
                         unsigned columns, const bool round)
{
    left += quarter_row() * BY_ROWS;
    right += quarter_column() * BY_ROWS;
    UNROLL
    for (unsigned k = 0; k < SIDE; k += 8) {
        LeftRows l[2];
        RightColumns r[2];
        if (k >= columns)
            break;
        UNROLL
        for (int i = 0; i < 2; i++) {
            load_matrix_sync(l[i], left + 16 * i * BY_ROWS + k, BY_ROWS);
            load_matrix_sync(r[i], right + 16 * i * BY_ROWS + k, BY_ROWS);
            UNROLL
            for (int e = 0; e < 4 && round; e++)
                r[i].x[e] = __float_to_tf32(r[i].x[e]);
        }
        UNROLL
        for (int i = 0; i < 2; i++) {
            mma_sync(sum[i][0], l[i], r[0], sum[i][0]);
            mma_sync(sum[i][1], l[i], r[1], sum[i][1]);
        }
    }
}

/* sum_ij += sum over tokens t of left[t][i] right[t][j]: columns by columns. */
DEVICE void columns_by_columns(SumFragment sum[2][2], const float *left, const float *right)
{
    left += quarter_row();
    right += quarter_column();
    UNROLL
    for (unsigned t = 0; t < SIDE; t += 8) {
        LeftColumns l[2];
        RightRows r[2];
        UNROLL
        for (int i = 0; i < 2; i++) {
            load_matrix_sync(l[i], left + t * BY_COLUMNS + 16 * i, BY_COLUMNS);
            load_matrix_sync(r[i], right + t * BY_COLUMNS + 16 * i, BY_COLUMNS);
        }
        UNROLL
        for (int i = 0; i < 2; i++) {
            mma_sync(sum[i][0], l[i], r[0], sum[i][0]);
            mma_sync(sum[i][1], l[i], r[1], sum[i][1]);
        }
    }
}

/* The square from a tile, times `factor`: of 256 numbers each lane has 8, whichever they are. */
DEVICE void square_load(SumFragment sum[2][2], const float *tile, float factor)
{
    UNROLL
    for (unsigned part = 0; part < 4; part++) {
        unsigned i = quarter_row() + part / 2 * 16, j = quarter_column() + part % 2 * 16;
        SumFragment *to = &sum[part / 2][part % 2];
        load_matrix_sync(*to, tile + i * BY_ROWS + j, BY_ROWS, mem_row_major);
        UNROLL
        for (int k = 0; k < 8; k++)
            to->x[k] *= factor;
    }
}

DEVICE void square_store(float *tile, const SumFragment sum[2][2])
{
    UNROLL
    for (unsigned part = 0; part < 4; part++) {
        unsigned i = quarter_row() + part / 2 * 16, j = quarter_column() + part % 2 * 16;
        store_matrix_sync(tile + i * BY_ROWS + j, sum[part / 2][part % 2], BY_ROWS, mem_row_major);
    }
}

/* ==================================== Decays ============================================== */

/* delta (SIDE) and a (SIDE): all the exponentials there are. After the last token no time passes:
   Delta is 0 and a is 1. */
DEVICE void chunk_steps(float *delta, float *a, const HeadScan *scan, const DualPlace *at)
{
    unsigned t = threadIdx.x;
    if (t < SIDE) {
        float step = 0.0f;
        if (t < at->tokens) {
            step = scan->delta[(at->token + t) * scan->n_head + at->h];
            step += scan->delta_bias != NULL ? scan->delta_bias[at->h] : 0.0f;
            step = scan->delta_softplus ? softplus_unit(step) : step;
        }
        delta[t] = step;
        a[t] = exp2_unit(step * LOG2_E * scan->A[at->h]);
    }
    __syncthreads();
}

/* run (SIDE): products of a from the beginning of each half, 0 or 32, up to t; backwards: of a from
   its end. By shuffles, as kernel 3's warp_scan. */
DEVICE void chunk_products(float *run, const float *a, const bool backwards)
{
    unsigned t = threadIdx.x;
    if (t < SIDE) { /* two whole warps */
        float product = a[backwards ? SIDE - 1 - t : t];
        for (unsigned by = 1; by < 32; by *= 2) {
            float before = __shfl_up_sync(ALL_LANES, product, by);
            product *= t % 32 >= by ? before : 1.0f;
        }
        run[t] = product;
    }
    __syncthreads();
}

/* The product of the first t + 1. */
DEVICE float product_to(const float *run, unsigned t)
{
    return t < SIDE / 2 ? run[t] : run[SIDE / 2 - 1] * run[t];
}

/* B C^T becomes M^T, in place: row j, column i is what token i reads of what token j wrote, of
   which L_ij = a_i ... a_{j+1} is left. A thread goes up half a column, a factor a row. */
DEVICE void mask_decays(float *tile, const float *a, const float *run)
{
    unsigned i = threadIdx.x % SIDE, half = threadIdx.x / SIDE * (SIDE / 2);
    float left = half + SIDE / 2 <= i ? run[i] : 1.0f; /* the rows below are the other thread's */
    UNROLL
    for (unsigned k = SIDE / 2; k-- > 0;) {
        unsigned j = half + k;
        float *entry = tile + j * BY_COLUMNS + i;
        *entry = j > i ? 0.0f : __float_to_tf32(left * *entry);
        left *= j > i ? 1.0f : a[j];
    }
}

/* ==================================== A chunk ============================================= */
/* Chapter 5c's two halves of a chunk, in the same words. `left` and `right` are tiles to work    */
/* with, `x` (d_state / SIDE tiles) is the state of the head, (d_head, SIDE) in each.             */

/* In shared memory. */
typedef struct {
    float *left, *right, *x;         /* tiles */
    float *delta, *a, *run, *before; /* (SIDE) */
} ChunkShared;

DEVICE unsigned columns_from(const HeadScan *scan, unsigned n)
{
    return (unsigned)least_of(scan->d_state - n, SIDE);
}

/* x = a_0 a_1 ... x + sum over tokens t of (what is left of v_t at the end) B_t; each warp has its
   own quarter of x. What the chunk leaves of x is returned. Delta is used up. */
DEVICE float chunk_hand_on(const ChunkShared *at, const HeadScan *scan, const DualPlace *here)
{
    unsigned t = threadIdx.x;
    chunk_products(at->run, at->a, true);
    float all = product_to(at->run, SIDE - 1);
    /* v_t = Delta_t u_t, and what the tokens after it leave of it */
    if (t + 1 < SIDE)
        at->delta[t] *= product_to(at->run, SIDE - 2 - t);
    __syncthreads(); /* the factors are there, and nobody needs the tiles any more */
    tile_fill(at->left, BY_COLUMNS, scan->u + here->u, here->u_row, here->tokens,
              (unsigned)scan->d_head, at->delta, true);
    for (unsigned n = 0; n < scan->d_state; n += SIDE) {
        float *x = at->x + n / SIDE * TILE_SIZE;
        SumFragment sum[2][2];
        tile_fill(at->right, BY_COLUMNS, scan->B + here->BC + n, here->BC_row, here->tokens,
                  columns_from(scan, n), NULL, true);
        __syncthreads(); /* v and B are there */
        square_load(sum, x, all);
        columns_by_columns(sum, at->left, at->right);
        square_store(x, sum);
        __syncthreads(); /* B has been read */
    }
    return all;
}

/* y = M v + (a_0 ... a_i) x C_i + D u */
DEVICE void chunk_read(float *y, const ChunkShared *at, const HeadScan *scan, const float *scores,
                       const DualPlace *here)
{
    const float *C = scan->C + here->BC, *u = scan->u + here->u;
    unsigned d_head = (unsigned)scan->d_head;
    SumFragment sum[2][2];
    tile_fill(at->left, BY_COLUMNS, scores + here->scores, SIDE, SIDE, SIDE, NULL, false);
    tile_fill(at->right, BY_COLUMNS, u, here->u_row, here->tokens, d_head, at->delta, true);
    chunk_products(at->run, at->a, false);
    if (threadIdx.x < SIDE)
        at->before[threadIdx.x] = product_to(at->run, threadIdx.x);
    mask_decays(at->left, at->a, at->run); /* the products' barrier: B C^T is there */
    __syncthreads();                       /* M^T and v are there */
    /* y = M v: what is read of the chunk itself */
    square_zero(sum);
    columns_by_columns(sum, at->left, at->right);
    /* y += a_0 ... a_i (x C_i): what is read of the state before it */
    for (unsigned n = 0; n < scan->d_state; n += SIDE) {
        unsigned columns = columns_from(scan, n);
        __syncthreads(); /* the tile has been read */
        tile_fill(at->left, BY_ROWS, C + n, here->BC_row, here->tokens, columns, at->before, true);
        __syncthreads(); /* C is there */
        rows_by_rows(sum, at->left, at->x + n / SIDE * TILE_SIZE, columns, true);
    }
    __syncthreads(); /* it has been read */
    square_store(at->left, sum);
    __syncthreads(); /* the square is there */
    tile_write(y + here->u, at->left, here->u_row, here->tokens, d_head, u,
               scan->D != NULL ? scan->D[here->h] : 0.0f);
}

/* The state (d_head, d_state) of the block's head, from or to global memory; from NULL: 0. */
DEVICE void state_fetch(float *x, const float *from, const HeadScan *scan)
{
    unsigned rows = from != NULL ? (unsigned)scan->d_head : 0;
    for (unsigned n = 0; n < scan->d_state; n += SIDE)
        tile_fill(x + n / SIDE * TILE_SIZE, BY_ROWS, from != NULL ? from + n : x, scan->d_state,
                  rows, columns_from(scan, n), NULL, false);
}

DEVICE void state_keep(float *to, const float *x, const HeadScan *scan)
{
    for (unsigned n = 0; n < scan->d_state; n += SIDE)
        tile_write(to + n, x + n / SIDE * TILE_SIZE, scan->d_state, (unsigned)scan->d_head,
                   columns_from(scan, n), NULL, 0.0f);
}

/* ==================================== The kernels ========================================= */

/* 1. B C^T of every chunk, once for all heads of a group. A block has a chunk and a group. */
__global__ void __launch_bounds__(DUAL_THREADS) dual_scores(DualJob job)
{
    DYNAMIC_SHARED(float, tiles);
    const HeadScan *scan = &job.scan;
    size_t chunks = (scan->len - 1) / SIDE + 1, chunk = blockIdx.x / scan->n_group;
    size_t first = chunk % chunks * SIDE, row = scan->n_group * scan->d_state;
    size_t token = chunk / chunks * scan->len + first;
    size_t from = token * row + blockIdx.x % scan->n_group * scan->d_state;
    unsigned tokens = (unsigned)least_of(scan->len - first, SIDE);
    SumFragment sum[2][2];
    square_zero(sum);
    for (unsigned n = 0; n < scan->d_state; n += SIDE) {
        unsigned columns = columns_from(scan, n);
        tile_fill(tiles, BY_ROWS, scan->B + from + n, row, tokens, columns, NULL, true);
        tile_fill(tiles + TILE_SIZE, BY_ROWS, scan->C + from + n, row, tokens, columns, NULL, true);
        __syncthreads(); /* both are there */
        rows_by_rows(sum, tiles, tiles + TILE_SIZE, columns, false);
        __syncthreads(); /* and have been read */
    }
    square_store(tiles, sum);
    __syncthreads(); /* the square is there */
    tile_write(job.BC + (size_t)blockIdx.x * SIDE * SIDE, tiles, SIDE, SIDE, SIDE, NULL, 0.0f);
}
KERNEL(dual_scores, DualJob)

/* 2. Where a piece ends, if it begins with 0, and what it leaves of a state. */
__global__ void __launch_bounds__(DUAL_THREADS, DUAL_BLOCKS) dual_states(DualJob job)
{
    DYNAMIC_SHARED(float, tiles);
    __shared__ float delta[SIDE], a[SIDE], run[SIDE];
    const ChunkShared at = {tiles, tiles + TILE_SIZE, tiles + 2 * TILE_SIZE, delta, a, run, NULL};
    const HeadScan *scan = &job.scan;
    float left = 1.0f;
    state_fetch(at.x, NULL, scan);
    for (unsigned c = 0; c < job.piece; c++) {
        const DualPlace here = dual_place(&job, c);
        if (here.tokens == 0) /* the last piece may have fewer chunks */
            break;
        chunk_steps(delta, a, scan, &here);
        left *= chunk_hand_on(&at, scan, &here);
    }
    state_keep(job.x + (size_t)blockIdx.x * scan->d_head * scan->d_state, at.x, scan);
    if (threadIdx.x == 0)
        job.left[blockIdx.x] = left;
}
KERNEL(dual_states, DualJob)

/* 3. From piece to piece, as kernel 6's scan_carry: where a piece ends, from 0, becomes where it
   begins. A thread has four neighbouring states, and asks for the ends of DUAL_AHEAD pieces at
   once. */
__global__ void dual_carry(DualJob job)
{
    const HeadScan *scan = &job.scan;
    size_t states = scan->d_head * scan->d_state, all = scan->n_head * states;
    size_t i = 4 * ((size_t)blockIdx.x * blockDim.x + threadIdx.x); /* b all + h states + ... */
    float x[4] = {0.0f};
    if (i >= scan->batch * all)
        return;
    if (scan->x_start != NULL)
        quads_load(x, scan->x_start + i, 4);
    size_t first = i / all * job.pieces; /* piece */
    float *at = job.x + first * all + i % all;
    const float *left = job.left + first * scan->n_head + i % all / states;
    for (size_t done = 0; done < job.pieces; done += DUAL_AHEAD) {
        float end[DUAL_AHEAD][4], factor[DUAL_AHEAD];
        UNROLL
        for (size_t k = 0; k < DUAL_AHEAD; k++) {
            size_t p = least_of(done + k, job.pieces - 1);
            quads_load(end[k], at + p * all, 4);
            factor[k] = left[p * scan->n_head];
        }
        UNROLL
        for (size_t k = 0; k < DUAL_AHEAD; k++) {
            if (done + k >= job.pieces)
                continue;
            quads_store(at + (done + k) * all, x, 4);
            UNROLL
            for (int e = 0; e < 4; e++)
                x[e] = factor[k] * x[e] + end[k][e];
        }
    }
}
KERNEL(dual_carry, DualJob)

/* 4. What is read, from where the piece begins. */
__global__ void __launch_bounds__(DUAL_THREADS, DUAL_BLOCKS) dual_outputs(DualJob job)
{
    DYNAMIC_SHARED(float, tiles);
    __shared__ float delta[SIDE], a[SIDE], run[SIDE], before[SIDE];
    const ChunkShared at = {tiles, tiles + TILE_SIZE, tiles + 2 * TILE_SIZE, delta, a, run, before};
    const HeadScan *scan = &job.scan;
    size_t states = scan->d_head * scan->d_state, b = blockIdx.x / scan->n_head / job.pieces;
    size_t head = b * scan->n_head + blockIdx.x % scan->n_head; /* of all sequences */
    const float *start = job.x != NULL           ? job.x + blockIdx.x * states
                         : scan->x_start != NULL ? scan->x_start + head * states
                                                 : NULL;
    bool last = blockIdx.x / scan->n_head % job.pieces + 1 == job.pieces;
    state_fetch(at.x, start, scan);
    for (unsigned c = 0; c < job.piece; c++) {
        const DualPlace here = dual_place(&job, c);
        if (here.tokens == 0)
            break;
        chunk_steps(delta, a, scan, &here);
        chunk_read(job.y, &at, scan, job.BC, &here);
        if (last || c + 1 < job.piece) /* somebody wants to know */
            chunk_hand_on(&at, scan, &here);
    }
    if (last)
        state_keep(job.x_last + head * states, at.x, scan);
}
KERNEL(dual_outputs, DualJob)

/* ==================================== There and back ====================================== */

static size_t dual_shared(const HeadScan *scan)
{
    return (2 + ceil_div(scan->d_state, SIDE)) * TILE_SIZE * sizeof(float);
}

static size_t dual_chunks(const HeadScan *scan)
{
    return scan->batch * ceil_div(scan->len, SIDE);
}

/* All four, one after the other; for a single piece, the first and the last. */
bool start_dual(const DualJob *job, Error *error)
{
    const HeadScan *scan = &job->scan;
    size_t blocks = scan->batch * job->pieces * scan->n_head, shared = dual_shared(scan);
    size_t quads = scan->batch * scan->n_head * scan->d_head * scan->d_state / 4;
    return START(dual_scores, dual_chunks(scan) * scan->n_group, DUAL_THREADS,
                 2 * TILE_SIZE * sizeof(float), *job, error) &&
           (job->pieces == 1 ||
            (START(dual_states, blocks, DUAL_THREADS, shared, *job, error) &&
             START(dual_carry, ceil_div(quads, DUAL_THREADS), DUAL_THREADS, 0, *job, error))) &&
           START(dual_outputs, blocks, DUAL_THREADS, shared, *job, error);
}

/* Chunks of a piece, so that there are about as many blocks as the device takes at a time: fewer
   leave processors idle, a few more would wait for a second round. */
size_t dual_piece(const HeadScan *scan, size_t processors)
{
    size_t pieces = DUAL_BLOCKS * processors / (scan->batch * scan->n_head);
    return ceil_div(ceil_div(scan->len, SIDE), pieces > 0 ? pieces : 1);
}

/* What the kernels cannot be asked for. */
bool dual_fits(const HeadScan *scan, Error *error)
{
    head_scan_assert(scan);
    if (scan->d_head % 4 != 0 || scan->d_head > SIDE)
        return fail(error, "d_head %zu: the kernels take a multiple of 4, up to %d", scan->d_head,
                    SIDE);
    if (scan->d_state % 4 != 0 || scan->d_state > DUAL_STATES)
        return fail(error, "d_state %zu: the kernels take a multiple of 4, up to %d", scan->d_state,
                    DUAL_STATES);
    if (scan->batch * scan->len == 0)
        return fail(error, "a scan without tokens has nothing for a GPU");
    return true;
}

/* The inputs, and room for y, x_last and what goes between the kernels. */
static bool dual_open(DualJob *job, DeviceMemory *memory, const HeadScan *scan, size_t piece,
                      Error *error)
{
    size_t tokens = scan->batch * scan->len, wide = tokens * scan->n_head * scan->d_head;
    size_t shared = tokens * scan->n_group * scan->d_state, heads = scan->batch * scan->n_head;
    size_t states = heads * scan->d_head * scan->d_state;
    HeadScan *device = &job->scan;
    memset(job, 0, sizeof *job);
    job->scan = *scan;
    job->piece = smaller(piece, ceil_div(scan->len, SIDE));
    job->pieces = ceil_div(ceil_div(scan->len, SIDE), job->piece);
    return device_put(&device->u, memory, scan->u, wide, error) &&
           device_put(&device->delta, memory, scan->delta, tokens * scan->n_head, error) &&
           device_put(&device->delta_bias, memory, scan->delta_bias, scan->n_head, error) &&
           device_put(&device->A, memory, scan->A, scan->n_head, error) &&
           device_put(&device->B, memory, scan->B, shared, error) &&
           device_put(&device->C, memory, scan->C, shared, error) &&
           device_put(&device->D, memory, scan->D, scan->n_head, error) &&
           device_put(&device->x_start, memory, scan->x_start, states, error) &&
           device_new(&job->y, memory, wide, error) &&
           device_new(&job->BC, memory, dual_chunks(scan) * scan->n_group * SIDE * SIDE, error) &&
           device_new(&job->x_last, memory, states, error) &&
           (job->pieces == 1 || (device_new(&job->x, memory, job->pieces * states, error) &&
                                 device_new(&job->left, memory, job->pieces * heads, error)));
}

/* head_scan on the GPU, or on what stands in for it, to TF32's rounding: y misses by no more than
   TF32_MISS times the sum of |terms| of which it is made. A NaN or an infinity reaches back to the
   first token of its chunk, for 0 times it is a NaN. A block goes through `piece` chunks; 0: as
   dual_piece says. x_last may be NULL. false, with y and x_last as they were, if the sizes do not
   fit, or there is no GPU or too little memory. */
bool cuda_head_scan(float *y, float *x_last, const HeadScan *scan, size_t piece, Error *error)
{
    CudaDevice device;
    DeviceMemory memory;
    DualJob job;
    memory.count = 0;
    if (!dual_fits(scan, error) || !cuda_device_open(&device, error))
        return false;
    size_t heads = scan->batch * scan->n_head;
    piece = piece > 0 ? piece : dual_piece(scan, device.processors);
    bool ok = dual_open(&job, &memory, scan, piece, error) && start_dual(&job, error) &&
              cuda_ok(cudaDeviceSynchronize(), "scanning", error) &&
              device_get(y, job.y, heads * scan->len * scan->d_head, error) &&
              device_get(x_last, job.x_last, heads * scan->d_head * scan->d_state, error);
    return device_free(&memory, ok, error);
}

/* ==================================== The demos =========================================== */

/* A scan over heads of random numbers. */
typedef struct {
    HeadScan scan;
    float *memory; /* its arrays, one behind the other */
} DemoHeads;

DemoHeads demo_heads_new(size_t batch, size_t len, size_t n_head, size_t d_head, size_t n_group,
                         size_t d_state)
{
    DemoHeads made;
    Random random = random_from_seed(1);
    HeadScan *scan = &made.scan;
    size_t tokens = batch * len, shared = tokens * n_group * d_state;
    size_t wide = tokens * n_head * d_head, states = batch * n_head * d_head * d_state;
    memset(&made, 0, sizeof made);
    made.memory = NEW(float, wide + tokens * n_head + 3 * n_head + 2 * shared + states);
    float *next = made.memory;
    scan->batch = batch, scan->len = len, scan->n_head = n_head, scan->d_head = d_head;
    scan->n_group = n_group, scan->d_state = d_state, scan->chunk = SIDE;
    scan->u = floats_between(&next, wide, -1, 1, &random);
    scan->delta = floats_between(&next, tokens * n_head, -4, 1, &random);
    scan->delta_bias = floats_between(&next, n_head, -1, 0, &random);
    scan->A = floats_between(&next, n_head, -2, -0.1, &random);
    scan->B = floats_between(&next, shared, -1, 1, &random);
    scan->C = floats_between(&next, shared, -1, 1, &random);
    scan->D = floats_between(&next, n_head, 0, 1, &random);
    scan->x_start = floats_between(&next, states, -1, 1, &random);
    scan->delta_softplus = true;
    return made;
}

/* Every y is a sum of terms, and on the way to each term four numbers are rounded to TF32, to
   within 2^-11 of themselves: C, B, L C B and v, or v, B, x and C. So y misses by this much of the
   sum of its |terms| at most; 4e-5 is for float's own rounding. */
#define TF32_MISS (4.0 / 2048.0 + 4e-5)

/* The sum of |terms|, for each y and each last state (last may be NULL): the same scan of |u|, |B|,
   |C|, |D| and |x_start|. */
void terms_sum(float *sum, float *last, const HeadScan *scan)
{
    HeadScan positive = *scan;
    size_t tokens = scan->batch * scan->len, shared = tokens * scan->n_group * scan->d_state;
    size_t states = scan->batch * scan->n_head * scan->d_head * scan->d_state;
    const float **array[5] = {&positive.u, &positive.B, &positive.C, &positive.D,
                              &positive.x_start};
    const size_t count[5] = {tokens * scan->n_head * scan->d_head, shared, shared, scan->n_head,
                             states};
    float *memory[5] = {NULL};
    for (int k = 0; k < 5; k++) {
        if (*array[k] == NULL)
            continue;
        memory[k] = NEW(float, count[k]);
        for (size_t i = 0; i < count[k]; i++)
            memory[k][i] = fabsf((*array[k])[i]);
        *array[k] = memory[k];
    }
    head_scan(sum, last, &positive);
    for (int k = 0; k < 5; k++)
        free(memory[k]);
}

/* The kernels against chapter 5c's recurrence, under every order of threads. */
static bool agree_step(const HeadScan *scan, const Show *show, Error *error)
{
    size_t count = scan->batch * scan->len * scan->n_head * scan->d_head;
    float *want = NEW(float, 4 * count), *terms = want + count, *first = terms + count;
    float *y = first + count;
    bool ok = true, same = true;
    double share = 0.0;
    head_scan(want, NULL, scan);
    terms_sum(terms, NULL, scan);
    for (int order = 0; ok && order < orders(); order++) {
        use_order(order, show->seed);
        ok = cuda_head_scan(order == 0 ? first : y, NULL, scan, 2, error);
        same = same && (order == 0 || memcmp(first, y, count * sizeof(float)) == 0);
    }
    use_order(0, 0);
    for (size_t i = 0; i < count; i++)
        share = fmax(share, fabs((double)first[i] - (double)want[i]) / (double)terms[i]);
    if (ok)
        printf("  %7zu %18.6f %18.0f %% %11s\n", scan->d_state, difference_of(first, want, count),
               100.0 * share / TF32_MISS, same ? "yes" : "no");
    free(want);
    return ok;
}

static bool demo_agree(const Show *show, Error *error)
{
    bool ok = true;
    puts("Mamba-2's scan by products in TF32, 2 sequences of 150 tokens, 3 heads of 64\n"
         "channels: how far y is from chapter 5c's recurrence, as a share of the largest\n"
         "y, and at the worst place as a share of what rounding allows there; and the\n"
         "same bits for threads that run in order, backwards, or shuffled?\n\n"
         "  d_state   of the largest y   of what is allowed   same bits");
    for (size_t d_state = 16; ok && d_state <= 128; d_state *= d_state == 16 ? 4 : 2) {
        DemoHeads made = demo_heads_new(2, 150, 3, 64, 1, d_state);
        ok = agree_step(&made.scan, show, error);
        free(made.memory);
    }
    return ok;
}

/* What feeds which units. */
static bool demo_feed(const Show *show, Error *error)
{
    return feed_show((double)SIDE, show, error);
}

/* ==================================== Options and main ==================================== */

int dual_main(int argc, char **argv)
{
    static Demo *const demos[] = {demo_agree, demo_feed};
    int demo = -1;
    bool ascii = false;
    Show show = {{false, false}, NULL, 1};
    const Option table[] = {
        {"demo", "agree|feed", OPTION_CHOICE, 0, 0, &demo, "mode",
         "one demo; feed has a figure for --svg"},
        {"seed", "S", OPTION_WHOLE, 0, WHOLE_MOST, &show.seed, "- demo:agree",
         "of the order in which threads run, on the CPU (default 1)"},
        {"svg", "FILE", OPTION_OUT, 0, 0, &show.svg, "demo:feed", "write the figure as SVG"},
        {"ascii", NULL, OPTION_SWITCH, 0, 0, &ascii, "- demo:feed", "draw without Unicode"},
    };
    const Program program = {"ch06_cuda_dual",
                             "Mamba-2's scan on tensor cores, and without a GPU (chapter 6a). "
                             "Without options: both demos.",
                             table, sizeof table / sizeof *table};
    int status;
    if (!program_begin(&status, &program, argc, argv))
        return status;
    Error error;
    show.look = look_at_terminal(ascii);
    return program_end(demos_run(demos, 2, demo, &show, &error), &error);
}

#if __INCLUDE_LEVEL__ == 0 /* compiled on its own: be a program */
int main(int argc, char **argv)
{
    return dual_main(argc, argv);
}
#endif

#endif /* CH06_CUDA_DUAL */
