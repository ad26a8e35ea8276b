#!/bin/sh
# Fuzzes every reader of files with libFuzzer, SECONDS_EACH seconds a target: fuzz_*.c, from the corpus
# in corpus/NAME and from what earlier runs found (build/fuzz/new_NAME), with every word in quotes of the
# sources as dictionary. Three quarters of the time belong to a fast build, in which UBSan's traps and a
# target's own checks tell of a mistake, and comparisons are not watched: five to ten times as many
# executions. In the last quarter ASan and UBSan go on from all that it has found.
# Then whole folders: mutate_folders.c. A finding ends the run. TARGETS='words folders': these alone.
set -eu
seconds=${SECONDS_EACH:-300}
work=${BUILD:-build}/fuzz
mkdir -p "$work"
command -v clang > /dev/null || { echo "error: fuzzing needs clang (Debian: clang and libclang-rt-*-dev)" >&2; exit 1; }
export ASAN_OPTIONS="malloc_context_size=4:quarantine_size_mb=16${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
fast='-g -O2 -w -fsanitize=undefined -fsanitize-trap=undefined'
asan='-g -O1 -w -fsanitize=address,undefined -fno-sanitize-recover=all'

wanted() { # target
    [ -z "${TARGETS:-}" ] || case " $TARGETS " in *" $1 "*) ;; *) return 1 ;; esac
}

# Some inputs are accepted only when they are long: a vocabulary of 256 bytes is.
most_bytes() { # target
    case $1 in words) echo 2304 ;; *) echo 1024 ;; esac
}

# "word" as it stands, and as a string of JSON.
dictionary() { # source
    # shellcheck disable=SC2046
    grep -ohE '"[A-Za-z_<][A-Za-z0-9_>.]{1,30}"' $(awk -v start="$1" -f tests/classroom/includes.awk) |
        sort -u | sed 'p; s/"\(.*\)"/"\\"\1\\""/'
}

fuzz() { # target build seconds
    log=$work/$1.$2.log
    # without ASan, who asks for too much memory gets none, which ends the program
    ([ "$2" = asan ] || ulimit -v 2000000
     exec "$work/$1_$2" -max_total_time="$3" -max_len="$(most_bytes "$1")" -dict="$work/$1.dict" -timeout=10 \
        -malloc_limit_mb=256 -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="$work/finding_$1." \
        "$work/new_$1" "tests/fuzz/corpus/$1") > "$log" 2>&1 ||
        { tail -n 40 "$log"; echo "FINDING in $1"; exit 1; }
    awk -v name="$1, $2" '
        match($0, /cov: [0-9]+/) {
            edges = substr($0, RSTART + 5, RLENGTH - 5) + 0
            if (first == "") first = edges
            if (edges > most) { most = edges; last = substr($1, 2) }
        }
        /^stat::number_of_executed_units/ { runs = $2 }
        /^stat::average_exec_per_sec/ { speed = $2 }
        END { printf "%-18s %10d executions, %6d a second; %d to %d edges, the last new one after %d\n",
                  name, runs, speed, first, most, last }' "$log"
}

for source in tests/fuzz/fuzz_*.c; do
    name=$(basename "$source" .c) && name=${name#fuzz_}
    wanted "$name" || continue
    clang $fast -fsanitize=fuzzer -fno-sanitize-coverage=trace-cmp "$source" -o "$work/${name}_fast" -lm
    clang $asan -fsanitize=fuzzer "$source" -o "$work/${name}_asan" -lm
    mkdir -p "$work/new_$name"
    dictionary "$source" > "$work/$name.dict"
    fuzz "$name" fast $((seconds * 3 / 4 + 1))
    fuzz "$name" asan $((seconds / 4 + 1))
done

# Whole folders, broken in many ways, and the whole program on each: the same two builds.
folders() { # build seconds seed
    place=$work/folders_$1
    rm -rf "$place" && mkdir -p "$place"
    # shellcheck disable=SC2046
    ([ "$1" = asan ] || ulimit -v 2000000
     exec "$work/folders_$1.out" "$2" "$3" "$place" data/tiny-mamba \
        $(for config in "${GOLDEN:-tests/golden}"/*/config.json; do dirname "$config"; done)) ||
        { echo "FINDING in folders"; exit 1; }
}

if wanted folders; then
    clang $fast -fsanitize-coverage=trace-pc-guard tests/fuzz/mutate_folders.c -o "$work/folders_fast.out" -lm
    clang $asan -fsanitize-coverage=trace-pc-guard tests/fuzz/mutate_folders.c -o "$work/folders_asan.out" -lm
    folders fast $((seconds * 3 / 4 + 1)) "${SEED:-1}"
    folders asan $((seconds / 4 + 1)) $((${SEED:-1} + 1))
fi
echo "no finding"
