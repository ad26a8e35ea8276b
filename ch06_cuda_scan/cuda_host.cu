/* The host's side of chapter 6: what a program needs around its kernels, whatever they compute.

   HOLDS   CUDA by its compiler or by cuda_on_cpu.h, under the same names; the first device; arrays
           in its memory and copies there and back; the start of a kernel; the order of threads;
           what a program says of all this
   FOR     cuda_scan.cu and what is built on it. Knows no kernel and no scan. */

#ifndef CH06_CUDA_HOST
#define CH06_CUDA_HOST

#include "../ch01_markov/tools.h"

#ifdef __CUDACC__
#include <cuda_pipeline.h>
#include <mma.h>
#define KERNEL(kernel, Job)
#define LAUNCH(kernel, grid, block, shared, job) kernel<<<(grid), (block), (shared)>>>(job)
#define DYNAMIC_SHARED(type, name)               extern __shared__ __align__(32) type name[]
#define UNROLL                                   _Pragma("unroll")
#define USED_UP(memory, size)                    ((void)0) /* on the CPU: unwritten again */
/* A warp's parts of a product on tensor cores, 16 x 8 times 8 x 16 in TF32 */
#define TF32_FACTOR(use, order)                                                                    \
    nvcuda::wmma::fragment<nvcuda::wmma::use, 16, 16, 8, nvcuda::wmma::precision::tf32,            \
                           nvcuda::wmma::order>
typedef TF32_FACTOR(matrix_a, row_major) LeftRows;
typedef TF32_FACTOR(matrix_a, col_major) LeftColumns;
typedef TF32_FACTOR(matrix_b, row_major) RightRows;
typedef TF32_FACTOR(matrix_b, col_major) RightColumns;
typedef nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, 8, float> SumFragment;
using namespace nvcuda::wmma; /* load_matrix_sync, mma_sync, store_matrix_sync, __float_to_tf32 */
#else
#include "cuda_runtime_on_cpu.h"
#include "cuda_wmma_on_cpu.h"
#define UNROLL
#endif
#define DEVICE      static __device__ __forceinline__
#define HOST_DEVICE static __host__ __device__ __forceinline__
#define ALL_LANES   0xffffffffu

enum { GRID_MOST = 2147483647, SHARED_UNASKED = 48 * 1024 };

size_t ceil_div(size_t a, size_t b)
{
    assert(b > 0);
    return a / b + (a % b != 0);
}

/* ==================================== The device, and its memory ========================== */
/* Every call that can fail is asked whether it did, and says so in a sentence. */

/* The GPU, or what stands in for it. */
typedef struct {
    char name[256];
    size_t processors; /* each of which runs several blocks at once */
} CudaDevice;

bool cuda_ok(cudaError_t result, const char *doing, Error *error)
{
    return result == cudaSuccess || fail(error, "%s: %s", doing, cudaGetErrorString(result));
}

/* The first GPU, or a sentence why there is none. */
bool cuda_device_open(CudaDevice *device, Error *error)
{
    cudaDeviceProp properties;
    int count = 0;
    cudaError_t result = cudaGetDeviceCount(&count);
    if (result != cudaSuccess || count < 1)
        return fail(error, "no GPU answers (%s); the same kernels run on the CPU: see --help",
                    result != cudaSuccess ? cudaGetErrorString(result) : "there is none");
    if (!cuda_ok(cudaGetDeviceProperties(&properties, 0), "asking the GPU what it is", error))
        return false;
    snprintf(device->name, sizeof device->name, "%s", properties.name);
    device->processors = (size_t)properties.multiProcessorCount;
    return true;
}

/* Arrays on the device, to be freed together. */
enum { DEVICE_ARRAYS = 48 };
typedef struct {
    void *array[DEVICE_ARRAYS];
    size_t count;
} DeviceMemory;

/* `ok` is whether all went well so far, and what is returned, unless freeing fails. */
bool device_free(DeviceMemory *memory, bool ok, Error *error)
{
    while (memory->count > 0) {
        cudaError_t result = cudaFree(memory->array[--memory->count]);
        ok = ok && cuda_ok(result, "freeing memory", error); /* the first failure counts */
    }
    return ok;
}

/* floats on the device, for at least one; false with how many were wanted and how much is free. */
bool device_new(float **array, DeviceMemory *memory, size_t floats, Error *error)
{
    size_t bytes = (floats + !floats) * sizeof(float), unused = 0, total = 0;
    void *got = NULL;
    cudaError_t result = cudaMalloc(&got, bytes);
    assert(memory->count < DEVICE_ARRAYS);
    *array = (float *)got;
    if (result == cudaSuccess) {
        memory->array[memory->count++] = got;
        return true;
    }
    cudaGetLastError(); /* it has been seen: the next call must not report it again */
    if (result != cudaErrorMemoryAllocation)
        return cuda_ok(result, "asking the GPU for memory", error);
    if (cudaMemGetInfo(&unused, &total) != cudaSuccess)
        unused = 0;
    return fail(error, "the GPU has too little memory: %.1f MB more are wanted, %.1f MB are free",
                1e-6 * (double)bytes, 1e-6 * (double)unused);
}

/* A copy of a host's array on the device; NULL stays NULL. */
bool device_put(const float **array, DeviceMemory *memory, const float *host, size_t floats,
                Error *error)
{
    float *got = NULL;
    *array = NULL;
    if (host == NULL)
        return true;
    if (!device_new(&got, memory, floats, error))
        return false;
    *array = got;
    return cuda_ok(cudaMemcpy(got, host, floats * sizeof(float), cudaMemcpyHostToDevice),
                   "copying to the GPU", error);
}

bool device_get(float *host, const float *array, size_t floats, Error *error)
{
    return host == NULL || array == NULL ||
           cuda_ok(cudaMemcpy(host, array, floats * sizeof(float), cudaMemcpyDeviceToHost),
                   "copying from the GPU", error);
}

/* ==================================== The start of a kernel =============================== */

dim3 in_a_row(size_t count)
{
    dim3 row = {(unsigned)count, 1, 1};
    return row;
}

/* Starts a kernel on so many blocks in a row; false, with the reason, if it does not start. Nobody
   waits for it. Above 48 KiB shared memory must be asked for. */
#define START(kernel, blocks, threads, shared, job, error)                                         \
    (((blocks) <= GRID_MOST ||                                                                     \
      fail(error, #kernel ": %zu blocks are more than a GPU takes", (blocks))) &&                  \
     ((shared) <= SHARED_UNASKED ||                                                                \
      cuda_ok(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,            \
                                   (int)(shared)),                                                 \
              #kernel ": asking for shared memory", error)) &&                                     \
     (LAUNCH(kernel, in_a_row(blocks), in_a_row(threads), shared, job),                            \
      cuda_ok(cudaGetLastError(), "starting " #kernel, error)))

/* ==================================== The order of threads ================================ */
/* On the CPU it can be chosen. A GPU takes its own. */

const char *order_name(int order)
{
    static const char *const names[3] = {"in order", "backwards", "shuffled"};
    return names[order];
}

void use_order(int order, uint64_t seed)
{
#ifdef CUDA_ON_CPU
    cuda_cpu_order((CudaCpuOrder)order, seed);
#else
    (void)order, (void)seed;
#endif
}

/* How many there are to choose from. */
int orders(void)
{
#ifdef CUDA_ON_CPU
    return 3;
#else
    return 1;
#endif
}

/* ==================================== What a program says of it =========================== */

/* --device: what runs the kernels. A CPU that plays GPU is not one. */
bool device_say(Error *error)
{
    CudaDevice device;
    if (!cuda_device_open(&device, error))
        return false;
    printf("%s, %zu processors\n", device.name, device.processors);
#ifdef CUDA_ON_CPU
    return fail(error, "this program was built without nvcc");
#else
    return true;
#endif
}

#ifdef CUDA_ON_CPU
#define BUILT_FOR                                                                                  \
    "This program was built without nvcc: a CPU runs the kernels, thread by thread. With the "     \
    "CUDA toolkit, `make` builds build/cuda/ch06_cuda_scan besides, for a GPU."
#else
#define BUILT_FOR                                                                                  \
    "This program was built with nvcc, for a GPU. build/ch06_cuda_scan runs the same kernels on "  \
    "the CPU."
#endif

#endif /* CH06_CUDA_HOST */
