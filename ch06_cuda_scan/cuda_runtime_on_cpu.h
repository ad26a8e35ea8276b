/* CUDA without a GPU, the host's side: the runtime library as chapter 6 calls it.

   HOLDS   errors and their sentences; memory and copies; the one device; events
   FOR     cuda_host.cu, when it is not nvcc that compiles. Threads and launches: cuda_on_cpu.h */

#ifndef CUDA_RUNTIME_ON_CPU
#define CUDA_RUNTIME_ON_CPU

#include "cuda_on_cpu.h"

static inline const char *cudaGetErrorString(cudaError_t error)
{
    if (error != cudaSuccess && error == cuda_cpu.reported)
        return cuda_cpu.report;
    switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorLaunchFailure: return "unspecified launch failure";
    }
    return "unknown error";
}

static inline cudaError_t cudaGetLastError(void)
{
    cudaError_t last = cuda_cpu.last;
    cuda_cpu.last = cudaSuccess;
    return last;
}

static inline cudaError_t cudaDeviceSynchronize(void)
{
    return cuda_cpu.last;
}

/* In front of every piece of memory stands its size; it begins at a multiple of 256 bytes, as a
   GPU's does. */
enum { CUDA_CPU_HEAD = 256 };

static inline cudaError_t cudaMalloc(void **memory, size_t size)
{
    bool fits = size <= SIZE_MAX - CUDA_CPU_HEAD - cuda_cpu.bytes &&
                (cuda_cpu.bytes_most == 0 || cuda_cpu.bytes + size <= cuda_cpu.bytes_most);
    *memory = NULL;
    cuda_unseen();
    void *got = NULL;
    bool given = fits && posix_memalign(&got, CUDA_CPU_HEAD, size + CUDA_CPU_HEAD) == 0;
    char *head = given ? (char *)got : NULL;
    if (head != NULL) {
        memcpy(head, &size, sizeof size);
        memset(head + CUDA_CPU_HEAD, cuda_cpu_unwritten(), size);
        cuda_cpu.bytes += size;
    }
    cuda_seen();
    if (head == NULL)
        return cudaErrorMemoryAllocation;
    *memory = head + CUDA_CPU_HEAD;
    return cudaSuccess;
}

static inline cudaError_t cudaFree(void *memory)
{
    size_t size;
    if (memory == NULL)
        return cudaSuccess;
    cuda_unseen();
    memcpy(&size, (char *)memory - CUDA_CPU_HEAD, sizeof size);
    cuda_cpu.bytes -= size;
    free((char *)memory - CUDA_CPU_HEAD);
    cuda_seen();
    return cudaSuccess;
}

static inline cudaError_t cudaMemcpy(void *to, const void *from, size_t size, cudaMemcpyKind kind)
{
    if (kind < cudaMemcpyHostToDevice || kind > cudaMemcpyDeviceToDevice)
        return cudaErrorInvalidValue;
    cuda_unseen();
    if (size > 0)
        memcpy(to, from, size);
    cuda_seen();
    return cudaSuccess;
}

static inline cudaError_t cudaMemset(void *memory, int value, size_t size)
{
    cuda_unseen();
    if (size > 0)
        memset(memory, value, size);
    cuda_seen();
    return cudaSuccess;
}

static inline cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 1;
    return cudaSuccess;
}

static inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp *device, int number)
{
    if (number != 0)
        return cudaErrorInvalidValue;
    memset(device, 0, sizeof *device);
    snprintf(device->name, sizeof device->name, "no GPU: the CPU, thread by thread");
    device->totalGlobalMem = cuda_cpu.bytes_most;
    device->sharedMemPerBlockOptin = CUDA_CPU_SHARED;
    device->multiProcessorCount = 1;
    return cudaSuccess;
}

static inline cudaError_t cudaMemGetInfo(size_t *unused, size_t *total)
{
    *total = cuda_cpu.bytes_most == 0 ? SIZE_MAX : cuda_cpu.bytes_most;
    *unused = *total - cuda_cpu.bytes;
    return cudaSuccess;
}

#define cudaFuncSetAttribute(kernel, attribute, value) cuda_cpu_ask(kernel##_on_cpu, (value))

static inline cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    *event = (cudaEvent_t)calloc(1, sizeof(double));
    return *event == NULL ? cudaErrorMemoryAllocation : cudaSuccess;
}

static inline cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    free(event);
    return cudaSuccess;
}

static inline cudaError_t cudaEventRecord(cudaEvent_t event)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    *event = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    return cudaSuccess;
}

static inline cudaError_t cudaEventSynchronize(cudaEvent_t event) /* NOLINT: CUDA's signature */
{
    (void)event;
    return cuda_cpu.last;
}

static inline cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, /* NOLINT */
                                               cudaEvent_t to)                        /* NOLINT */
{
    *milliseconds = (float)(1e3 * (*to - *from));
    return cudaSuccess;
}

#endif /* CUDA_RUNTIME_ON_CPU */
