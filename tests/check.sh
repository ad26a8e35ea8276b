#!/bin/sh
# Formatting, static analysis, and every source as C11 and as C++17 with every compiler there is,
# warnings as errors. A tool that is missing is named and left out; with REQUIRE_TOOLS=1 it is an
# error. With SHARE=2/3 what is dearest, clang's analyser and gcc's look at the tests, is given every third
# file, from the second on.
#
# A file that others include is compiled with them. What depends on the file alone is asked of every
# file: does it compile by itself? What is dear is asked of the files that nothing includes (the tops:
# tests, benches, the last chapters), which hold all the others: gcc's warnings, which depend on what
# it optimises, and clang-tidy's rules. gcc -fanalyzer, which takes minutes for each, was asked once:
# with all they include, of markov.c, ssm.c, json.c, safetensors.c, tokenizer.c and the grader; of
# selective.c, stories.c, config.c, words.c, text_stream.c, tokenizer_json.c, pre_tokenizer.c,
# generation.c, model_folder.c, pretrained.c, pretrained_model.c, quantized.c, mamba2.c,
# mamba3_block.c, and, its limits raised, unicode.c, mamba3.c, fast_scan.c, mamba_block.c and
# mamba2_block.c with what they include as prototypes (of the last three it gives up on some paths).
# What was left of its findings is none: a token's bytes and a copied weight, which an array or a
# result holds; a tensor that was found once, not found again; a table of tensors, laid out by a
# function that it was not shown; and vectors, which it takes for numbers.
set -u
bad=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
sources=$(ls ch[0-9]*/*.c ch[0-9]*/*.cu) # chapter 6 is C too: -x c
programs=$(grep -l '__INCLUDE_LEVEL__ == 0' $sources)
tests=$(ls tests/*.c tests/fuzz/*.c tests/classroom/*.c tests/mutants/*.c | grep -v classroom/grade_) # parts of grade.c
headers=$(ls tests/*.h tests/classroom/*.h tests/classroom/grade_*.c ch[0-9]*/*.h)
included=$(for file in $sources; do awk -v start="$file" -f tests/classroom/includes.awk | grep -vxF "$file"; done)
tops=$(printf '%s\n' $sources | grep -vxF "$included")
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

share_of() { # files: all, or every third
    printf '%s\n' $1 | awk -v share="${SHARE:-1/1}" '{ split(share, s, "/") } NR % s[2] == s[1] % s[2]'
}

ok() { # name status
    if [ "$2" = 0 ]; then echo "ok: $1"; else echo "FAILED: $1"; bad=1; fi
}

# shellcheck disable=SC2086
{
    if have clang-format; then
        clang-format --dry-run -Werror $sources $tests $headers
        ok "clang-format" $?
    fi

    if have cppcheck; then
        cppcheck --quiet -j "$(getconf _NPROCESSORS_ONLN)" --std=c11 --language=c --error-exitcode=1 --inline-suppr \
            --enable=warning,performance,portability -D__INCLUDE_LEVEL__=0 \
            --suppress=missingIncludeSystem --suppress=ctuOneDefinitionRuleViolation --suppress=ctuuninitvar \
            --suppress='invalidFunctionArg:*language_model.c' $tops # a sum over an empty vocabulary
        ok "cppcheck" $?
    fi

    # clang's analyser looks at the functions of the file it is given, the other rules at all it includes
    if have clang-tidy; then
        some=$(share_of "$sources")
        each "$some" "clang-tidy --quiet --checks='-*,clang-analyzer-*,-clang-analyzer-security.insecureAPI.DeprecatedOrUnsafeBufferHandling,-clang-analyzer-security.insecureAPI.strcpy' '{}' -- -x c -std=c11 2> /dev/null"
        ok "clang-tidy, the analyser" $?
        clang-tidy --quiet --header-filter='grade_' --checks='-*,clang-analyzer-*,-clang-analyzer-security.insecureAPI.DeprecatedOrUnsafeBufferHandling,-clang-analyzer-security.insecureAPI.strcpy' \
            tests/classroom/grade.c -- -x c -std=c11 -Xclang -analyzer-opt-analyze-headers 2> /dev/null
        ok "clang-tidy, the analyser on the grader and its parts" $?
        each "$tops" "clang-tidy --quiet --checks='-clang-analyzer-*' '{}' -- -x c -std=c11 2> /dev/null"
        ok "clang-tidy, the rules" $?
    fi

    for compiler in gcc clang; do
        have $compiler || continue
        files="$sources $tests"
        [ $compiler = clang ] || files=$sources # gcc meets the tests below
        each "$files" "$compiler -fsyntax-only -x c -std=c11 $strict '{}'"
        ok "$compiler -std=c11" $?
    done
    for compiler in g++ clang++; do
        have $compiler || continue
        each "$sources" "$compiler -fsyntax-only -x c++ -std=c++17 $strict '{}'"
        ok "$compiler -std=c++17" $?
    done
    if have gcc; then
        each "$tops $(share_of "$tests")" "gcc -O1 -c -o /dev/null -x c -std=c11 $strict '{}'"
        ok "gcc -std=c11, what it warns of when it optimises" $?
    fi
    if have g++; then
        each "$tops" "g++ -O1 -c -o /dev/null -x c++ -std=c++17 $strict '{}'"
        ok "g++ -std=c++17, the same" $?
    fi
    # the one line that the lessons give: no flags at all
    each "$programs" "cc -x c -O0 '{}' -o '$work/program.'\$\$ -lm"
    ok "cc FILE -lm" $?

    # a CUDA toolkit is nobody's duty
    if command -v nvcc > /dev/null; then
        # the bench includes all other files; with a share it stands for them
        cuda=$([ "${SHARE:-1/1}" = 1/1 ] && echo ch06_cuda_scan/*.cu || echo ch06_cuda_scan/bench.cu)
        for file in $cuda; do
            grep -q '__INCLUDE_LEVEL__ == 0' "$file" || continue
            nvcc -O3 -Xcompiler -O0 -t 0 -Werror all-warnings -gencode arch=compute_80,code=sm_80 \
                -gencode arch=compute_90,code=sm_90 -gencode arch=compute_90,code=compute_90 \
                -Xptxas -v "$file" -o "$work/program" > "$work/nvcc" 2>&1
            status=$?
            [ $status = 0 ] || cat "$work/nvcc"
            ok "nvcc, sm_80, sm_90 and PTX: $file" $status
            # some registers too few, and a kernel's states would go through memory at every token;
            # one is a pointer, put aside before the loop and read again once a tile
            ! grep -E '([5-9]|[1-9][0-9]+) bytes spill stores' "$work/nvcc"
            ok "no kernel spills more than one register: $file" $?
        done
        for file in tests/test_ch06_cuda_scan.c tests/test_ch06_cuda_dual.c; do # what make test-cuda builds
            nvcc -cuda -x cu -diag-suppress 177,550 -Werror all-warnings -gencode arch=compute_90,code=compute_90 \
                "$file" -o "$work/test.ii" > "$work/nvcc" 2>&1
            status=$?
            [ $status = 0 ] || cat "$work/nvcc"
            ok "nvcc takes it: $file" $status
        done
    else
        echo "skipped: nvcc is not installed"
    fi
}
[ "$bad" = 0 ] && echo "check: everything is in order"
exit $bad
