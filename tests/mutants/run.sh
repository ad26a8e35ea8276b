#!/bin/sh
# Breaks each chapter in the small ways listed in tests/mutants/chNN_STEM.txt, one sed expression a
# line, and runs that chapter's test on each broken copy: every one must turn red. A line
# `@ chNN_name/file.c` says which file the lines after it break; before the first such line it is
# the chapter's own. A line that changes nothing, or that does not compile, is an error in the list.
#   sh tests/mutants/run.sh [chNN_STEM ...]
set -u
build=${BUILD:-build}
work=$build/mutants
flags=$(cat "$build/cmocka.flags") || exit 1
CC=${CC:-cc}
export CC flags work MUTANTS=1

one() { # list number line-number file expression
    name=$1 number=$2 line=$3 source=$4 expression=$5
    stem=${name#ch??_} dir=$work/$name.$number
    [ "$source" != . ] || source=$(ls "${name%%_*}"_*/"$stem".c*)
    mkdir -p "$dir/tests"
    cp -r ch[0-9]* "$dir/" && cp tests/*.h "tests/test_$name.c" "$dir/tests/"
    ln -s "$PWD/data" "$dir/data"
    ln -s "$PWD/tests/golden" "$dir/tests/golden"
    ln -s "$PWD/tests/fuzz" "$dir/tests/fuzz"
    ln -s "$PWD/build" "$dir/build"
    sed "$expression" "$source" > "$dir/$source"
    case $name in # what compiles and runs soonest
    ch05_language_model) level=-O1 ;;
    ch05*) level=-O0 ;;
    *) level=-O1 ;;
    esac
    if cmp -s "$source" "$dir/$source"; then
        echo "STALE     $name.txt:$line changes nothing: $expression"
    # shellcheck disable=SC2086
    elif ! $CC $level -w "$dir/tests/test_$name.c" -o "$dir/test" $flags -lm 2> "$dir/log"; then
        echo "BROKEN    $name.txt:$line does not compile: $expression"
    elif [ "$(exec 2> /dev/null; cd "$dir" && timeout 60 ./test > log 2>&1 < /dev/null; echo $?)" = 0 ]; then
        echo "SURVIVED  $name.txt:$line no test noticed: $expression"
    else
        echo "noticed   $name.txt:$line"
    fi
    rm -rf "$dir"
}

if [ "${1:-}" = --one ]; then
    one "$2" "$3" "$4" "$5" "$6"
    exit 0
fi

rm -rf "$work" && mkdir -p "$work"
[ $# -gt 0 ] || set -- tests/mutants/ch*.txt
for list in "$@"; do
    name=$(basename "$list" .txt)
    awk -v name="$name" -v source=. '$1 == "@" { source = $2; next }
        !/^#/ && NF { printf "%s%c%d%c%d%c%s%c%s%c", name, 0, ++n, 0, FNR, 0, source, 0, $0, 0 }' \
        "tests/mutants/$name.txt"
done | xargs -0 -n 5 -P "$(getconf _NPROCESSORS_ONLN)" sh tests/mutants/run.sh --one > "$work/report"
grep -v '^noticed' "$work/report" | sort
noticed=$(grep -c '^noticed' "$work/report")
missed=$(grep -vc '^noticed' "$work/report")
rm -rf "$work"
echo "mutants: $noticed noticed, $missed missed"
[ "$missed" = 0 ] && [ "$noticed" -gt 0 ]
