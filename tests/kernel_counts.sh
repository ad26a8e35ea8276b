#!/bin/sh
# What nvcc makes of chapter 6's kernels for an H100 (sm_90), without one: their registers, and what
# a thread is given to do once round each kernel's longest loop, by class of instructions. Needs nvcc,
# cuobjdump and nvdisasm; the last two come with the CUDA toolkit, or in Triton's wheel (pip download
# triton; then add triton/backends/nvidia/bin to PATH).
set -eu
for tool in nvcc cuobjdump nvdisasm; do
    command -v $tool > /dev/null || { echo "error: the counts need $tool, which is not installed" >&2; exit 2; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for file in cuda_backward cuda_dual; do
    nvcc -O3 -arch=sm_90 -cubin ch06_cuda_scan/$file.cu -o "$work/$file.cubin"
    cuobjdump -res-usage "$work/$file.cubin"
    cuobjdump -sass "$work/$file.cubin"
done > "$work/said" 2> /dev/null
awk -f tests/kernel_counts.awk "$work/said"
