#!/bin/sh
# Is the course C for other machines too? Every program and every test is compiled for macOS, on ARM
# and on Intel, and for Linux with musl, on both, by zig's clang, which brings the headers of them all.
# With --run the tests of chapters 1 to 5 are built for ARM besides, and run by qemu.
#   sh tests/machines.sh [--run]         make machines; TARGETS='aarch64-macos': that alone
# Who has no zig: pip install ziglang. What is missing is named and left out; with REQUIRE_TOOLS=1 it
# is an error. cmocka's stand-in (standin/cmocka.h) takes cmocka's place.
set -u
work=${BUILD:-build}/machines
bad=0
mkdir -p "$work" || exit 1

skipped() { # what: why
    echo "skipped: $1"
    [ "${REQUIRE_TOOLS:-0}" = 0 ] || bad=1
}

# On all processors, a line each: what fails is said, and leaves a mark.
each() { # function, lines
    rm -f "$work/failed"
    printf '%s\n' "$2" | xargs -n 1 -P "$(getconf _NPROCESSORS_ONLN)" sh "$0" "$1"
    [ ! -e "$work/failed" ]
}

# ---- compiled ---------------------------------------------------------------------------------

# zig itself, and not its `zig cc`, which builds a C library before it builds anything
zig_find() {
    zig=$(command -v zig) && zig_lib=$(zig env | sed -n 's/.*lib_dir[": =]*\([^"]*\)".*/\1/p') && return
    for python in "${ZIG_PYTHON:-$work/python/bin/python3}" python3; do
        zig=$("$python" -c 'import os, ziglang; print(os.path.dirname(ziglang.__file__))' 2> /dev/null) &&
            zig_lib=$zig/lib zig=$zig/zig && return
    done
    return 1
}

headers() { # target: what clang must be told to find them
    arch=${1%%-*}
    case $1 in
    *-macos)
        [ "$arch" = x86_64 ] || arch=arm64
        echo "--target=$arch-apple-macosx13 -isystem $zig_lib/libc/include/any-darwin-any"
        ;;
    *-musl)
        echo "--target=$1"
        for folder in "$1" generic-musl "${1%-musl}-any" any-linux-any; do
            [ ! -d "$zig_lib/libc/include/$folder" ] || echo "-isystem $zig_lib/libc/include/$folder"
        done
        ;;
    esac
}

compile() { # target:file
    target=${1%%:*} file=${1#*:}
    case $file in
    *.cu | *ch06* | *thread*) how="-O0 -c -o /dev/null" ;; # there is assembly in it
    *) how=-fsyntax-only ;;
    esac
    # shellcheck disable=SC2086,SC2046
    said=$("$ZIG" clang $(zig_lib=$ZIG_LIB && headers "$target") -nostdinc -isystem "$ZIG_LIB/include" \
        $how -x c -std=c11 -Wall -Wextra -Wshadow -Werror -Itests/standin "$file" 2>&1) && return
    : > "$work/failed"
    echo "FAILED: $target: $file"
    echo "$said" | grep -E 'error|warning' | head -n 5
}

compile_all() {
    zig_find || { skipped "other machines: no zig (pip install ziglang)"; return; }
    export ZIG="$zig" ZIG_LIB="$zig_lib"
    # the files that nothing includes hold all others
    parts=$(sed -n 's|^#include "\(grade_.*\.c\)"|tests/classroom/\1|p' tests/classroom/*.c)
    files="$(grep -l '__INCLUDE_LEVEL__ == 0' ch[0-9]*/*.c ch[0-9]*/*.cu) $(ls tests/*.c tests/fuzz/*.c \
        tests/classroom/*.c tests/mutants/*.c | grep -vxF "$parts")"
    for target in ${TARGETS:-aarch64-macos x86_64-macos aarch64-linux-musl x86_64-linux-musl}; do
        if each --compile "$(for file in $files; do echo "$target:$file"; done)"; then
            echo "ok: $target, $(echo $files | wc -w | tr -d ' ') files"
        else
            bad=1
        fi
    done
}

# ---- run --------------------------------------------------------------------------------------

run_one() { # test
    name=$1
    aarch64-linux-gnu-gcc -O2 -w -ffp-contract=off -static -Itests/standin "tests/test_$name.c" -o "$work/test_$name" -lm &&
        NO_COLOR=1 OMP_NUM_THREADS=1 qemu-aarch64 "$work/test_$name" > "$work/$name.log" 2>&1 < /dev/null
    status=$?
    ran=$(sed -n 's/^\[==========\] \([0-9]*\) test(s) run\.$/\1/p' "$work/$name.log" | tail -n 1)
    if [ $status = 0 ] && [ "${ran:-0}" -gt 0 ]; then
        echo "ok: $name on ARM, $ran tests"
    else
        : > "$work/failed"
        echo "FAILED: $name on ARM, status $status"
        grep -E 'ERROR|error:' "$work/$name.log" | head -n 8
    fi
}

run_all() {
    for tool in aarch64-linux-gnu-gcc qemu-aarch64; do
        command -v $tool > /dev/null || { skipped "tests on ARM: no $tool"; return; }
    done
    # the longest first
    each --run-one "$(ls tests/test_ch0[1-5]*.c | sed 's|tests/test_||; s|\.c$||' | grep -v bits)" || bad=1
}

case ${1:-} in
--compile) compile "$2" ;;
--run-one) run_one "$2" ;;
--run) compile_all && run_all ;;
*) compile_all ;;
esac
exit $bad
