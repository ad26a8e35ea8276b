#!/bin/sh
# Formatting, static analysis, and every source as C11 and as C++17 with every compiler there is,
# warnings as errors. A tool that is missing is named and left out; with REQUIRE_TOOLS=1 it is an
# error.
set -u
bad=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chapters=$(ls ch[0-9]*/*.c ch[0-9]*/*.cu data/*/*.c) # chapter 6 is C too: -x c
tests=$(ls tests/*.c tests/fuzz/*.c tests/classroom/*.c)
headers=$(ls tests/*.h tests/classroom/*.h ch[0-9]*/*.h)
strict='-Wall -Wextra -Wshadow -Werror'

have() {
    command -v "$1" > /dev/null && return 0
    echo "skipped: $1 is not installed"
    [ "${REQUIRE_TOOLS:-0}" = 0 ] || bad=1
    return 1
}

each() { # files command: runs it for each file, as {}, on all processors
    printf '%s\n' $1 | xargs -P "$(getconf _NPROCESSORS_ONLN)" -I '{}' sh -c "$2"
}

ok() { # name status
    if [ "$2" = 0 ]; then echo "ok: $1"; else echo "FAILED: $1"; bad=1; fi
}

# shellcheck disable=SC2086
{
    if have clang-format; then
        clang-format --dry-run -Werror $chapters $tests $headers
        ok "clang-format" $?
    fi

    if have cppcheck; then
        cppcheck --quiet -j "$(getconf _NPROCESSORS_ONLN)" --std=c11 --language=c --error-exitcode=1 --inline-suppr \
            --enable=warning,performance,portability -D__INCLUDE_LEVEL__=0 \
            --suppress=missingIncludeSystem --suppress=ctuOneDefinitionRuleViolation --suppress=ctuuninitvar $chapters
        ok "cppcheck" $?
    fi

    if have clang-tidy; then
        each "$chapters" 'clang-tidy --quiet "{}" -- -x c -std=c11 2> /dev/null'
        ok "clang-tidy" $?
    fi

    # clang's warnings do not depend on what it optimises; some of gcc's do
    for compiler in 'gcc -O1 -c -o /dev/null' 'clang -fsyntax-only'; do
        have ${compiler%% *} || continue
        each "$chapters $tests" "$compiler -x c -std=c11 $strict '{}'"
        ok "${compiler%% *} -std=c11" $?
    done
    for compiler in 'g++ -O1 -c -o /dev/null' 'clang++ -fsyntax-only'; do
        have ${compiler%% *} || continue
        each "$chapters" "$compiler -x c++ -std=c++17 $strict '{}'"
        ok "${compiler%% *} -std=c++17" $?
    done
    # the one line that the lessons give: no flags at all
    each "$chapters" "cc -x c -O2 '{}' -o '$work/program.'\$\$ -lm"
    ok "cc -O2 FILE -lm" $?

    # a CUDA toolkit is nobody's duty
    if command -v nvcc > /dev/null; then
        nvcc -O3 -t 0 -Werror all-warnings -gencode arch=compute_80,code=sm_80 \
            -gencode arch=compute_90,code=sm_90 -gencode arch=compute_90,code=compute_90 \
            ch06_cuda_scan/cuda_scan.cu -o "$work/program"
        ok "nvcc, sm_80, sm_90 and PTX" $?
    else
        echo "skipped: nvcc is not installed"
    fi
}
[ "$bad" = 0 ] && echo "check: everything is in order"
exit $bad
