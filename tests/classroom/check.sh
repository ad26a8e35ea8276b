#!/bin/sh
# Is every exercise fit to be handed out and graded? For each chapter with marked exercises (or those
# given as arguments): the assignment is the same twice and has no line of a solution in it; its stubs
# compile without a warning and score nothing; nothing at all in their place scores nothing; the course
# itself scores everything; each exercise has hints, points and tests; solved alone, all others stubs,
# it has all its points; each of the wrong solutions in mutants/chNN.txt loses points, by the public
# tests and by the probes, and none costs another exercise any.
#   sh tests/classroom/check.sh [NN ...]          run from the root of the course, after make
# With SHARE=3/12 only every twelfth of the gradings that show that no exercise costs another, from the third on.
set -u
LC_ALL=C
export LC_ALL
here=tests/classroom
work=${BUILD:-build}/classroom
limit=$PWD/tests/limit.sh
CC=${CC:-cc}
flags=$(cat "${BUILD:-build}/cmocka.flags") || exit 1
grade="${BUILD:-build}/grade --clock 0 --seconds 10" # this machine may be busy
[ ! -d $here/probes ] || grade="$grade --probes $here/probes --reference ." # they count; the public tests run below
whole=$(echo 'int main(void) { return 0; }' | $CC -Werror -fwhole-program -x c - -o /dev/null 2> /dev/null && echo -fwhole-program)
export CC flags whole

bad() { echo "FAILED: $*" >> "$dir/findings"; }

# The names of the tests in these files: all, or those of exercise $id, as their tables have them.
test_names() { # files
    cat "$@" | tr ',{}' '\n\n\n' | sed -n 's/.*cmocka_unit_test[a-z_]*(\(ex[0-9]*_[0-9]*_[A-Za-z0-9_]*\).*/\1/p' |
        grep "^ex${id:+$(echo "$id" | tr . _)_}" | sort -u
}

# ---- the assignment itself ----------------------------------------------------------------------

check_text() {
    REPLACE=1 sh $here/assignment.sh "$chapter" "$dir/kit" > "$dir/said" 2>&1 || { bad "$(cat "$dir/said")"; return 1; }
    sh $here/assignment.sh "$chapter" "$dir/again" > /dev/null
    diff -r "$dir/kit" "$dir/again" > /dev/null || bad "chapter $chapter: two assignments of one course differ"
    rm -rf "$dir/again"
    # lines of a solution that say something: not braces, not the head of a loop, not what a skeleton
    # shows. What an earlier chapter says too may be read there.
    sed -n 's|^ *//: *||p' $marked > "$dir/skeletons"
    awk -v MODE=removed -f $here/exercises.awk $marked | awk -F '\t' '
        length($2) >= 20 && $2 !~ /^(for|while|if) \([^;]*;?[^;]*;?[^;]*\) ?[{]?$/ && $2 !~ /^(double|float|size_t) [*a-z_]* = NEW/ { print $2 }' |
        grep -vxFf "$dir/skeletons" > "$dir/secrets"
    (cd "$dir/kit" && grep -rnFf "$dir/secrets" ./*.* tests data "$(dirname "$(echo "$marked" | head -n 1)")") > "$dir/leaks" && bad "chapter $chapter: the assignment holds lines of the solution:
$(cut -c1-160 "$dir/leaks")"
    for file in $marked; do
        $CC -O2 -Wall -Wextra -Wshadow -Werror -x c -c "$dir/kit/$file" -o /dev/null 2> "$dir/said" ||
            ! $CC -O2 -Wall -Wextra -Wshadow -Werror -x c -c "$file" -o /dev/null 2> /dev/null ||
            bad "$file: its stubs do not compile without warnings: $(head -n 5 "$dir/said")"
    done
    for name in $(id='' && test_names tests/test_ch"$chapter"_*.c | sed 's/^\(ex[0-9]*_[0-9]*\)_.*/\1/' | sort -u); do
        id=$(echo "${name#ex}" | tr _ .)
        grep -q "^exercise $id " "$dir/kit/tests/exercises.txt" || bad "there are tests $name..., but no exercise $id"
    done
}

check_scores() {
    points=$(awk '$1 == "exercise" { sum += $3 } END { print sum }' "$dir/kit/tests/exercises.txt")
    $grade --kit "$dir/kit" --submission "$dir/kit" --flags "$flags" > "$dir/stubs" || bad "chapter $chapter: the stubs cannot be graded"
    grep -q "^points  *0 of $points\$" "$dir/stubs" || bad "chapter $chapter: the stubs do not score 0 of $points:
$(cat "$dir/stubs")"
    grep -E '^    [A-Z]|^    pass' "$dir/stubs" > "$dir/said" && bad "chapter $chapter: a stub does not say that it is one:
$(cat "$dir/said")"
    $grade --kit "$dir/kit" --submission . --flags "$flags" > "$dir/solution" || bad "chapter $chapter: the course cannot be graded"
    grep -q "^points  *$points of $points\$" "$dir/solution" || bad "chapter $chapter: the course itself does not score $points of $points:
$(cat "$dir/solution")"
}

# Nothing between the markers, not even the stub, is worth nothing: no probe passes by itself.
check_empty() {
    mkdir "$dir/texts"
    for id in $ids; do
        echo '/* nothing */' > "$dir/texts/$id"
    done
    for file in $marked; do
        mkdir -p "$dir/one/$(dirname "$file")"
        awk -v MODE=put -v TEXTS="$dir/texts" -f $here/exercises.awk "$file" > "$dir/one/$file"
    done
    $grade --kit "$dir/kit" --submission "$dir/one" --flags "$flags" --score > "$dir/said"
    grep -q "^points  *0 of $points\$" "$dir/said" || bad "chapter $chapter: with nothing written it scores:
$(cat "$dir/said")"
    rm -rf "$dir/one" "$dir/texts"
}

# ---- each exercise, with a program that can be any of its wrong versions ----------------------------

# The mutants of mutants/chNN.txt, "2.1 s/this/that/" a line, as variants/2.1.2, 2.1.3, ...
write_variants() {
    mkdir -p "$dir/variants"
    list=$here/mutants/ch$chapter.txt
    [ -f "$list" ] || return 0
    grep -v '^#' "$list" | grep . | while read -r id expression; do
        file=$(awk -v id="$id" '$1 == "exercise" && ($2 "") == (id "") { print $5 }' "$dir/kit/tests/exercises.txt")
        [ -n "$file" ] || { bad "$list: there is no exercise $id"; continue; }
        awk -v MODE=region -v ID="$id" -f $here/exercises.awk "$file" > "$dir/region"
        n=2
        while [ -f "$dir/variants/$id.$n" ]; do n=$((n + 1)); done
        sed "$expression" "$dir/region" > "$dir/variants/$id.$n" || bad "$list: sed does not take: $id $expression"
        cmp -s "$dir/region" "$dir/variants/$id.$n" && bad "$list: changes nothing: $id $expression"
        echo "$id $n $expression" >> "$dir/mutants"
    done
}

build_switch() {
    cp -R "$dir/kit" "$dir/switch"
    cp $here/variants.h "$dir/switch/tests/"
    for file in $marked; do
        awk -v MODE=switch -v variants="$dir/variants" -f $here/exercises.awk "$file" > "$dir/switch/$file"
    done
    for test in "$dir"/switch/tests/test_*.c; do
        # shellcheck disable=SC2086
        $CC -w -c "$dir/switch/tests/one_test.c" -o "$dir/switch/tests/one_test.o" $flags 2> "$dir/said" &&
            $CC -O1 $whole -w -D_cmocka_run_group_tests=one_test_run "$test" "$dir/switch/tests/one_test.o" \
                -o "${test%.c}" $flags -lm 2>> "$dir/said" ||
            bad "chapter $chapter: with its mutants it does not compile: $(head -n 5 "$dir/said")"
    done
}

# How many tests of exercise $1 pass with VARIANTS=$2; "passed of all".
run_tests() {
    id=$1 passed=0 all=0
    for test in "$dir"/switch/tests/test_*.c; do
        for name in $(test_names "$test"); do
            all=$((all + 1))
            (cd "$dir/switch" && { ulimit -v 4000000 2> /dev/null || true; } && # macOS has no such limit
                VARIANTS=$2 ONE_TEST=$name sh "$limit" 20 "tests/$(basename "$test" .c)" \
                > /dev/null 2>&1 3< /dev/null 4> /dev/null < /dev/null) 2> /dev/null && passed=$((passed + 1)) || echo "$name" >> "$dir/failed"
        done
    done
    echo "$passed of $all"
} 2> /dev/null # the shell reports every crash

check_exercises() {
    for id in $ids; do
        case $(run_tests "$id" "$id=1") in
        "0 of 0") bad "exercise $id has no test (ex$(echo "$id" | tr . _)_...)" ;;
        "0 of "*) ;;
        *) bad "exercise $id: some of its tests pass without it" ;;
        esac
        count=$(grep -c "^$id " "$dir/mutants" 2> /dev/null)
        [ "${count:-0}" -ge 3 ] || echo "note: exercise $id has ${count:-0} wrong solutions in $here/mutants/ch$chapter.txt, fewer than 3" >> "$dir/notes"
    done
    [ -f "$dir/mutants" ] || return 0
    : > "$dir/failed"
    while read -r id n expression; do
        result=$(run_tests "$id" "$id=$n")
        [ "${result% of *}" != "${result#* of }" ] || bad "exercise $id: a wrong solution scores full points: $expression"
    done < "$dir/mutants"
    for id in $(cut -d ' ' -f 1 "$dir/mutants" | sort -u); do # a test that none of them fails gives points away
        for name in $(test_names "$dir"/switch/tests/test_*.c); do
            grep -qx "$name" "$dir/failed" || bad "$name: no wrong solution of exercise $id fails it"
        done
    done
}

# ---- no exercise costs another ------------------------------------------------------------------------

# True for those calls that are in the share; without one, for all.
in_share() {
    turn=$((${turn:-0} + 1))
    [ -z "${SHARE:-}" ] || [ $((turn % ${SHARE#*/})) = $((${SHARE%/*} % ${SHARE#*/})) ]
}

# Grades $dir/one; says what does not have all its points, but for the exercises in $1 (" 2.1 2.3 ").
lost() {
    $grade --kit "$dir/kit" --submission "$dir/one" --flags "$flags" --score $2 > "$dir/said"
    awk -v ids="$1" '$1 ~ /^[0-9]+\.[0-9]+$/ && !index(ids, " " $1 " ") && $(NF - 2) != $NF { print $1, $(NF - 2), "of", $NF }' "$dir/said"
}

check_alone() {
    for id in $ids; do
        in_share || continue
        rm -rf "$dir/one"
        for file in $marked; do
            mkdir -p "$dir/one/$(dirname "$file")"
            awk -v MODE=student -v KEEP="$id" -f $here/exercises.awk "$file" > "$dir/one/$file"
        done
        said=$(lost ' ' "--exercise $id")
        [ -z "$said" ] || bad "exercise $id: solved, and all others stubs, it has $said"
    done
}

# Every second exercise broken, each in its n-th way, and the others solved; then those.
check_costs() {
    n=2
    while ls "$dir"/variants/*.$n > /dev/null 2>&1; do
        for half in 0 1; do
            in_share || continue
            rm -rf "$dir/one" "$dir/texts" && mkdir "$dir/texts"
            broken=' '
            for id in $ids; do
                [ $((${id#*.} % 2)) = $half ] && [ -f "$dir/variants/$id.$n" ] || continue
                cp "$dir/variants/$id.$n" "$dir/texts/$id"
                broken="$broken$id "
            done
            [ "$broken" != ' ' ] || continue
            for file in $marked; do
                mkdir -p "$dir/one/$(dirname "$file")"
                awk -v MODE=put -v TEXTS="$dir/texts" -f $here/exercises.awk "$file" > "$dir/one/$file"
            done
            said=$(lost "$broken" '')
            [ -z "$said" ] || bad "wrong solutions, number $((n - 1)) each, of$broken cost others: $said"
            said=$(awk -v ids="$broken" 'index(ids, " " $1 " ") && $(NF - 2) == $NF { print $1 }' "$dir/said")
            [ -z "$said" ] || bad "wrong solutions, number $((n - 1)) each, cost nothing together: $said"
        done
        n=$((n + 1))
    done
}

one_chapter() {
    chapter=$1 dir=$PWD/$work/ch$1
    rm -rf "$dir" && mkdir -p "$dir"
    : > "$dir/findings"
    : > "$dir/notes"
    marked=$(grep -l '//> EX' ch"$chapter"_*/*.c ch"$chapter"_*/*.cu ch"$chapter"_*/*.h 2> /dev/null)
    if check_text; then
        check_scores
        write_variants
        ids=$(awk '$1 == "exercise" { print $2 }' "$dir/kit/tests/exercises.txt" | sort -t . -k 2n)
        check_empty
        build_switch && check_exercises
        check_alone
        check_costs
    fi
    cat "$dir/notes"
    cat "$dir/findings"
    [ ! -s "$dir/findings" ] || return 1
    echo "chapter $chapter: $(awk '$1 == "exercise"' "$dir/kit/tests/exercises.txt" | wc -l | tr -d ' ') exercises, $points points, $(cat "$dir/mutants" 2> /dev/null | wc -l | tr -d ' ') wrong solutions noticed"
    rm -rf "$dir"
}

if [ "${1:-}" = --one ]; then
    one_chapter "$2"
    exit
fi
[ $# -gt 0 ] || set -- $(grep -l '//> EX' ch[0-9]*/* 2> /dev/null | sed 's/^ch\([0-9]*\)_.*/\1/' | sort -u)
[ $# -gt 0 ] || { echo "error: there are no exercises here" >&2; exit 1; }
printf '%s\n' "$@" | xargs -n 1 -P "$(getconf _NPROCESSORS_ONLN)" sh $here/check.sh --one || { echo "classroom-check: see above"; exit 1; }
echo "classroom-check: everything is in order"
