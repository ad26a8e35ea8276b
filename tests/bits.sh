#!/bin/sh
# Training gives the same bits on every processor that has fused multiply-adds, whatever the width of
# its vectors and the number of threads. The language model is built for each width, trained a hundred
# steps with one thread and with two, and twenty with layers of Mamba-2; what it leaves, the model and
# the whole state of the training, is compared byte for byte. Sizes are such that channels end inside every vector.
#   CC=gcc sh tests/bits.sh              widths that this processor has
#   CC=gcc sh tests/bits.sh --neon       those of ARM besides, with a cross-compiler and qemu (make bits)
# The program that make has built stands for its own width, if that is AVX-512.
# A width that the compiler or the processor does not have is named and left out.
set -u
work=${BUILD:-build}/bits
source=ch05_mamba_block/language_model.c
CC=${CC:-cc}
same=0 bad=0
export OMP_WAIT_POLICY=passive # a thread that waits keeps no processor
mkdir -p "$work" || exit 1
rm -f "$work"/first.* "$work/told"

build() { # name compiler flags
    name=$1 compiler=$2
    shift 2
    command -v "$compiler" > /dev/null || { echo "skipped: $name: no $compiler"; return 1; }
    [ "$compiler" != "$CC" ] || ! "$CC" -fopenmp -x c -o /dev/null - < "$work/empty.c" 2> /dev/null || set -- "$@" -fopenmp
    "$compiler" -O1 $quick -w -ffp-contract=off "$@" $source -o "$work/$name" -lm 2> "$work/$name.said" && return 0
    echo "skipped: $name: $compiler cannot build it: $(head -n 1 "$work/$name.said")"
    return 1
}

# One kind of model with one thread and with two; all must leave what the first one left.
train_kind() { # name program kind options
    name=$1 program=$2 kind=$3
    shift 3
    for threads in 1 2; do
        out=$work/$name.$kind.$threads
        rm -rf "$out" && mkdir "$out"
        OMP_NUM_THREADS=$threads $program --train --width 66 --layers 1 --batch 3 --length 51 "$@" \
            --out "$out" --checkpoint "$out/training.safetensors" > "$out/said" 2>&1
        status=$?
        if [ $status = 132 ]; then # an instruction that the processor does not know
            echo "skipped: $name: this processor has no such vectors"
            return 1
        elif [ $status != 0 ]; then
            echo "FAILED: $name ended with status $status: $(tail -n 1 "$out/said")"
            bad=1
            return 1
        fi
        [ -e "$work/first.$kind" ] || ln -s "$name.$kind.$threads" "$work/first.$kind"
        for file in model training; do
            cmp "$work/first.$kind/$file.safetensors" "$out/$file.safetensors" ||
                { echo "DIFFERS: $name, $kind, $threads threads: $file.safetensors"; bad=1; return 1; }
        done
    done
}

train() { # name [program]
    train_kind "$1" "${2:-$work/$1}" mamba --steps 100 && train_kind "$1" "${2:-$work/$1}" mamba2 --mamba2 --steps 20 ||
        return
    echo "same: $1"
    same=$((same + 1))
}

echo 'int main(void) { return 0; }' > "$work/empty.c"
quick= # to compile, and to run (Makefile)
for flag in -fwhole-program -fexpensive-optimizations; do
    ! "$CC" -Werror $flag -x c -o /dev/null - < "$work/empty.c" 2> /dev/null || quick="$quick $flag"
done
# the program as make has built it, and what its compiler was told of the processor
made=${BUILD:-build}/ch05_language_model
[ ! -x "$made" ] || [ ! -f "${BUILD:-build}/flags" ] ||
    echo | sh -c "$(cat "${BUILD:-build}/flags") -w -dM -E -x c -" > "$work/told"
told() { [ -f "$work/told" ] && grep -qE "$1" "$work/told"; }
case $(uname -m) in
x86_64)
    ! build avx2 "$CC" -mavx2 -mfma || train avx2
    told __AVX512F__ || ! build avx512 "$CC" -mavx512f || train avx512
    ;;
aarch64) ! build neon "$CC" || train neon ;;
*) echo "skipped: $(uname -m) is not known to have fused multiply-adds" ;;
esac
! told '__FMA__|__ARM_FEATURE_FMA' || train built "$made"
if [ "${1:-}" = --neon ] && [ "$(uname -m)" != aarch64 ]; then
    if ! command -v qemu-aarch64 > /dev/null; then
        echo "skipped: neon: no qemu-aarch64"
    elif build neon aarch64-linux-gnu-gcc -O2 -static; then
        train neon "qemu-aarch64 $work/neon"
    fi
fi
echo "widths of the same bits: $same"
exit $bad
