#!/bin/sh
# Breaks each chapter in the small ways listed in tests/mutants/chNN_STEM.txt, and the grader in those
# of cage.txt, one sed expression a line, and runs that chapter's test on each broken copy: every one
# must turn red. A line `@ chNN_name/file.c` says which file the lines after it break; before the first
# such line it is the chapter's own. A line that changes nothing, or that does not compile, is an error in the list;
# so is a list whose tests are red before anything is broken.
#   sh tests/mutants/run.sh [chNN_STEM ...]
# SHARE=1/3 takes every third line of each list, from the first on: three shares are all of them.
# Nothing is optimised: to compile takes longer than to run, as the quick tests come first and the
# first red one ends the run (first_red.c).
set -u
build=${BUILD:-build}
work=$PWD/$build/mutants
flags=$(cat "$build/cmocka.flags") || exit 1
CC=${CC:-cc}
limit=$PWD/tests/limit.sh
export CC flags work limit MUTANTS=1 NO_COLOR=1

# A course of links in $dir, in which files can be replaced, compiled and run.
course() {
    mkdir -p "$dir/tests/fuzz" "$dir/build/tests"
    for folder in ch[0-9]*_*/; do
        mkdir "$dir/$folder" && ln -s "$PWD/$folder"* "$dir/$folder"
    done
    ln -s "$PWD"/tests/*.[ch] "$PWD"/tests/*.sh "$PWD"/tests/golden "$PWD"/tests/standin "$dir/tests"
    mkdir "$dir/tests/classroom" && ln -s "$PWD"/tests/classroom/* "$dir/tests/classroom"
    ln -s "$PWD/$build/cmocka.flags" "$dir/build" && ln -s "$PWD"/Makefile "$PWD"/LICENSE "$dir"
    ln -s "$PWD"/tests/fuzz/* "$dir/tests/fuzz" # each by itself: ../ of a linked folder leads out
    ln -s "$PWD"/data "$dir"
    for program in "$PWD"/build/ch[0-9][0-9]_*; do
        [ ! -x "$program" ] || ln -s "$program" "$dir/build"
    done
}

compile() { # log flags
    case $name in cage) $CC -O0 -w "$dir/tests/classroom/grade.c" -o "$dir/build/grade" -lm 2> "$1" || return 1 ;; esac
    # shellcheck disable=SC2086
    $CC -O0 -w ${2:-} -D_cmocka_run_group_tests=first_red_run "$dir/tests/test_$name.c" "$work/first_red.o" \
        -o "$dir/test" $flags -lm 2> "$1"
}

run() {
    (exec 2> /dev/null; cd "$dir" && FIRST_RED=$work/$name.times sh "$limit" 120 ./test > log 2>&1 < /dev/null)
}

# What no test notices in a build for any processor, one may in a build for this: of vectors that are
# wider, or fuse.
noticed() { # the status of the run
    run
    status=$?
    [ "$status" = 0 ] && compile /dev/null -march=native || return "$status"
    run
}

one() { # list number line-number file expression
    name=$1 number=$2 line=$3 source=$4 expression=$5
    stem=${name#ch??_} dir=$work/$name.$number
    [ "$source" != . ] || source=$(ls "${name%%_*}"_*/"$stem".c*)
    course
    rm "$dir/$source"
    sed "$expression" "$source" > "$dir/$source"
    if cmp -s "$source" "$dir/$source"; then
        echo "STALE     $name.txt:$line changes nothing: $expression"
    elif ! compile "$dir/log"; then
        echo "BROKEN    $name.txt:$line does not compile: $expression"
    else
        noticed
        case $? in
        0) echo "SURVIVED  $name.txt:$line no test noticed: $expression" ;;
        125 | 126 | 127) echo "BROKEN    $name.txt:$line cannot be run: $(tail -n 1 "$dir/log" 2> /dev/null)" ;;
        *) echo "noticed   $name.txt:$line" ;;
        esac
    fi
    rm -rf "$dir"
}

# How long each test of a list takes while nothing is broken; and that all are green then.
time_tests() { # list
    name=$1 dir=$work/$1.0
    course
    compile "$dir/log" || { echo "BROKEN    tests/test_$name.c does not compile: $(head -n 3 "$dir/log")"; return; }
    (cd "$dir" && FIRST_RED_WRITE=$work/$name.times sh "$limit" 600 ./test > log 2>&1 < /dev/null) ||
        { echo "RED       tests/test_$name.c fails with nothing broken:"; grep -E 'error|FAILED' "$dir/log" | head -n 5; }
    rm -rf "$dir"
}

SHARE=${SHARE:-1/1}
case $SHARE in
[1-9]*/[1-9]*) ;;
*) echo "error: SHARE=$SHARE: a share is written 1/3" >&2; exit 2 ;;
esac
case ${1:-} in
--one) one "$2" "$3" "$4" "$5" "$6"; exit 0 ;;
--time) time_tests "$2"; exit 0 ;;
esac

rm -rf "$work" && mkdir -p "$work"
# shellcheck disable=SC2086
$CC -O1 -c tests/mutants/first_red.c -o "$work/first_red.o" $flags || exit 1
[ $# -gt 0 ] || set -- tests/mutants/*.txt
names=$(for list in "$@"; do basename "$list" .txt; done)
together="xargs -P $(getconf _NPROCESSORS_ONLN)"
echo "$names" | $together -n 1 sh tests/mutants/run.sh --time > "$work/report"
[ ! -s "$work/report" ] || { cat "$work/report"; exit 1; }
for name in $names; do
    awk -v name="$name" -v source=. -v share="${SHARE%/*}" -v shares="${SHARE#*/}" '
        $1 == "@" { source = $2; next }
        !/^#/ && NF && ++n % shares == share % shares {
            printf "%s%c%d%c%d%c%s%c%s%c", name, 0, n, 0, FNR, 0, source, 0, $0, 0 }' \
        "tests/mutants/$name.txt"
done | $together -0 -n 5 sh tests/mutants/run.sh --one > "$work/report"
grep -v '^noticed' "$work/report" | sort
noticed=$(grep -c '^noticed' "$work/report")
missed=$(grep -vc '^noticed' "$work/report")
rm -rf "$work"
echo "mutants: $noticed noticed, $missed missed"
[ "$missed" = 0 ] && [ "$noticed" -gt 0 ]
