#!/bin/sh
# Writes the assignment of one chapter: sh tests/classroom/assignment.sh 04 [DIR]
# A folder that is there and differs stays as it is, unless REPLACE=1.
# Everything is found by names and markers: the chapter's folder chNN_*, its marked exercises, its
# tests test_chNN_*.c with names exN_M_..., and whatever these include. The same course gives the
# same bytes. Run from the root of the course.
set -eu
LC_ALL=C
export LC_ALL
chapter=$1
here=$(dirname "$0")
tools=$(cd "$here" && pwd)
out=${2:-build/assignments/ch$chapter}

folder=$(ls -d "ch${chapter}"_*/ 2> /dev/null | head -n 1)
folder=${folder%/}
[ -n "$folder" ] || { echo "error: CH=$chapter: there is no chapter of this number" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
new=$work/new

# ---- what there is --------------------------------------------------------------------------

sources=$(find "$folder" -maxdepth 1 -name '*.c' -o -maxdepth 1 -name '*.cu' -o -maxdepth 1 -name '*.h' |
    grep -v '/bench\.[a-z]*$' | sort) # what measures is not taught
marked=$(grep -l '//> EX' $sources || true)
[ -n "$marked" ] || { echo "error: $folder has no exercises" >&2; exit 1; }
tests=$(grep -l "cmocka_unit_test(ex[0-9]" tests/test_ch"${chapter}"_*.c || true)
[ -n "$tests" ] || { echo "error: no tests/test_ch${chapter}_*.c has a test ex${chapter#0}_..." >&2; exit 1; }
lessons=$(find "$folder" -maxdepth 1 -name '*.md' | sort)

awk -v MODE=list -v root=. -v chapter="$chapter" -f "$here/exercises.awk" $marked > "$work/list"
awk -v MODE=removed -v root=. -f "$here/exercises.awk" $marked > "$work/removed"
awk -v MODE=sections -v root=. -f "$here/lesson.awk" $lessons $lessons > "$work/sections"
{
    echo "chapter $chapter"
    cat "$work/list" "$work/sections" | # in the order of their numbers, whatever file they are in
        awk '{ number = $2; sub(/^[0-9]*\./, "", number); print number, NR, $0 }' |
        sort -k 1,1n -k 2,2n | sed 's/^[0-9]* [0-9]* //'
} > "$work/exercises.txt"

# ---- the chapters: this one with stubs, those before it solved ----------------------------------

put() { # file: the way it goes into the assignment
    mkdir -p "$new/$(dirname "$1")"
    case $1 in
    "$folder"/*) mode=student ;;
    *) mode=solved ;;
    esac
    case $1 in
    ch*) awk -v MODE=$mode -f "$here/exercises.awk" "$1" > "$new/$1" ;;
    *) cp "$1" "$new/$1" ;;
    esac
}
for file in $(awk -v start="$(echo $tests $sources)" -f "$here/includes.awk"); do
    put "$file"
done

# ---- the demo: what the course's own Makefile runs for this chapter ---------------------------------

awk -v target="run-$chapter:" '
    index($0, target) == 1 { on = 1; next }
    on && !/^\t/ { on = 0 }
    on && /\$\(call show,/ {
        sub(/^.*\$\(call show,/, "")
        sub(/\)$/, "")
        gsub(/\$\(BUILD\)/, "build")
        printf "printf \"\\n$ %%s\\n\" \"%s\"\n%s || exit 1\n", $0, $0
    }' Makefile > "$new/tests/demo.sh"

# ---- data that the chapter, its tests, its lesson or the demo name ---------------------------------

mkdir -p "$new/data" "$new/$folder"
for path in data/*; do
    [ "$path" != data/README.md ] && ! cat $sources $tests $lessons "$new/tests/demo.sh" | grep -qF "$path" ||
        cp -R "$path" "$new/data/"
done
while IFS= read -r line; do # its table says what is here
    case $line in
    '| `'*)
        name=${line#*\`}
        name=${name%%\`*}
        # shellcheck disable=SC2086
        (cd "$new/data" && ls -d $name > /dev/null 2>&1) || continue
        ;;
    esac
    printf '%s\n' "$line"
done < data/README.md > "$new/data/README.md"
mkdir -p "$new/tests/golden"
for path in tests/golden/*; do
    name=${path##*/}
    case $name in
    ch[0-9][0-9]_*) start=${name%%_*}_ ;; # a test may ask for all of a number: "ch04_*.safetensors"
    *) start=$name ;;
    esac
    [ "$name" = INDEX.md ] || grep -qF "\"$start" $tests || cat $lessons | grep -qF "tests/golden/$name" || continue
    cp -R "$path" "$new/tests/golden/"
done

# ---- the tools ------------------------------------------------------------------------------------

cp "$here/exercise.h" "$here/probe.h" "$here/one_test.c" "$here"/grade*.c "$here/hint.sh" \
    "$here/watch.sh" tests/cmocka.sh "$new/tests/"
cp -R "$here/../standin" "$new/tests/"
cp "$here/assignment.mk" "$new/Makefile"
cp LICENSE "$new/"
cp "$work/exercises.txt" "$new/tests/exercises.txt"
# The grader tests each exercise with all others solved, so it must have the solutions; in rot47, so
# that nobody reads one by accident.
awk -v MODE=solutions -v root=. -f "$here/exercises.awk" $marked | tr '!-~' 'P-~!-O' > "$new/tests/solutions.txt"
printf '/build/\n' > "$new/.gitignore"

# ---- the lesson -----------------------------------------------------------------------------------

[ ! -d "$folder/figures" ] || cp -R "$folder/figures" "$new/$folder/figures"
(cd "$new" && find . -type f) | sed 's|^\./||' | sort > "$work/files"
echo "$lessons" >> "$work/files"
cat $(cd "$new" && find ch*/ -type f \( -name '*.c' -o -name '*.cu' -o -name '*.h' \) | sed "s|^|$new/|" | sort) > "$work/known"
for lesson in $lessons; do
    awk -v MODE=handout -v removed="$work/removed" -v known="$work/known" -v files="$work/files" \
        -v folder="$folder" -f "$here/lesson.awk" "$work/removed" "$work/known" "$work/files" \
        "$lesson" > "$new/$lesson"
done
leaks=$(cd "$new" && awk -v MODE=leaks -v removed="$work/removed" -v known="$work/known" -f "$tools/lesson.awk" \
    "$work/removed" $lessons "$work/known")
[ -z "$leaks" ] || { echo "error: lessons say what students are to write:
$leaks" >&2; exit 1; }

# ---- the sheet ------------------------------------------------------------------------------------

{
    sed -n '1s/^# \(.*\)$/# Assignment: \1/p' "$folder/README.md"
    cat -s << END

The lesson is [$folder/README.md]($folder/README.md). Read it first; then write the exercises, each
between its markers \`//> EX\` and \`//< EX\` in the chapter's file. What they are to do stands above them.
$(echo "$lessons" | grep -q -v '/README.md$' && echo "
More lessons stand beside it; \`make test EX=N.M\` says which section to read for an exercise:
$(echo "$lessons" | grep -v '/README.md$' | sed 's|.*/\(.*\)|[\1](&)|' | paste -s -d ',' | sed 's/,/, /g').")

| exercise | what | file | points | minutes |
| --- | --- | --- | --- | --- |
END
    awk '$1 == "exercise" {
        title = $0
        sub(/^([^ ]+ )([^ ]+ )([^ ]+ )([^ ]+ )([^ ]+ )/, "", title)
        printf "| %s | %s | [`%s`](%s) | %d | %d |\n", $2, title, $5, $5, $3, $4
        points += $3; minutes += $4
    }
    END { printf "| | together | | %d | %d |\n", points, minutes }' "$work/exercises.txt"
    cat << END

\`\`\`sh
make            # lists what can be done
make test       # tests every exercise; make test EX=N.M tests one
make hint EX=N.M    # a hint; ask again for the next
make score      # the table of points
make watch      # tests again whenever you save
make run        # the chapter's demo, as far as it is written
make all        # compiles the programs, with all warnings: what the lesson calls make
\`\`\`

It needs a C compiler and make; the test library, cmocka, is installed by \`make test\` if it is not there.

- Write between the markers and leave the marker lines as they are. Functions of your own may stand
  before the function that calls them. Keep the names of files and functions.
- The points of an exercise are shared evenly by its tests. \`make test\` shows the public ones; there may
  be others when your work is graded.
- Each exercise is tested with all others solved, in whatever order you write them: what one does wrong
  costs no other. (The solutions for that are in \`tests/solutions.txt\`, in a form that nobody reads by
  accident.)
- Each test runs in a process of its own with 4 seconds of processor time and 512 MB of memory. A crash
  or a loop without end costs that test, not the others. An exercise that does not compile costs itself.
- \`make test SANITIZE=1\` finds what reads or writes outside its arrays, and names the line. It may take
  minutes.
- What else the lesson runs by \`make\` (\`make bench\`, \`make races\`) belongs to the course's own folder.
END
    [ "$(ls -d "$new"/ch*/ | wc -l)" -eq 1 ] ||
        echo '- The earlier chapters are here and complete; they may be read and used.'
    cat << END

To hand in: the files named in the table, in their folder \`$folder/\` or as they are. Other files are not
looked at.
END
} > "$new/README.md"

find "$new" -exec touch -t 202601010000 {} +
if [ -e "$out" ] && [ "${REPLACE:-0}" != 1 ] && ! diff -r -x build "$new" "$out" > /dev/null 2>&1; then
    echo "error: $out is there already and is not the same: somebody may have worked in it. Move it away, or choose another OUT=" >&2
    exit 1
fi
mkdir -p "$(dirname "$out")"
rm -rf "$out"
mv "$new" "$out"
echo "$out: $(awk '$1 == "exercise" { n++; p += $3; m += $4 } END { printf "%d exercises, %d points, %d minutes", n, p, m }' "$out/tests/exercises.txt")"
