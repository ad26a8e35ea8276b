#!/bin/sh
# Builds every fuzz target with libFuzzer, ASan and UBSan, and runs each for SECONDS_EACH seconds
# from the corpus in tests/fuzz/corpus/NAME. New inputs stay in build/fuzz; a finding ends the run.
set -eu
seconds=${SECONDS_EACH:-300}
work=${BUILD:-build}/fuzz
mkdir -p "$work"
command -v clang > /dev/null || { echo "error: fuzzing needs clang (Debian: clang and libclang-rt-*-dev)" >&2; exit 1; }
for source in tests/fuzz/fuzz_*.c; do
    name=$(basename "$source" .c) && name=${name#fuzz_}
    clang -g -O1 -w -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all "$source" -o "$work/$name" -lm
    mkdir -p "$work/new_$name"
    echo "fuzzing $name for $seconds seconds"
    "$work/$name" -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=4096 -print_final_stats=1 \
        -artifact_prefix="$work/finding_$name." "$work/new_$name" "tests/fuzz/corpus/$name" \
        > "$work/$name.log" 2>&1 || { tail -n 40 "$work/$name.log"; echo "FINDING in $name"; exit 1; }
    grep -E '^stat::number_of_executed_units' "$work/$name.log"
done
# Whole folders, broken in many ways, and the whole program on each.
work_folders=$work/folders && rm -rf "$work_folders" && mkdir -p "$work_folders"
clang -g -O1 -w -fsanitize=address,undefined -fno-sanitize-recover=all tests/fuzz/mutate_folders.c \
    -o "$work/mutate_folders" -lm
echo "fuzzing folders for $seconds seconds"
"$work/mutate_folders" "$seconds" "${SEED:-1}" "$work_folders" data/tiny-mamba \
    $(for config in "${GOLDEN:-tests/golden}"/*/config.json; do dirname "$config"; done)
echo "no finding"
