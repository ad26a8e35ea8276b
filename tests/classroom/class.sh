#!/bin/sh
# Grades every folder of SUBMISSIONS, as many at once as there are processors, and sums up:
#   sh tests/classroom/class.sh KIT SUBMISSIONS OUT
# For each folder NAME: OUT/NAME.json (Gradescope's form), OUT/NAME.txt (what a person reads). For all:
# OUT/grades.csv and a histogram. What was graded already is not graded again unless a file of it is
# newer, so that an interrupted run goes on where it stopped. HIDDEN, GRADE and FLAGS come in the
# environment.
set -u
LC_ALL=C
export LC_ALL

grade_one() { # name
    name=$1
    "$GRADE" --kit "$KIT" --submission "$SUBMISSIONS/$name" --flags "$FLAGS" --reference . --hide "$PWD" \
        ${HIDDEN:+--hidden "$HIDDEN" --hide "$HIDDEN"} --hide "$SUBMISSIONS" \
        --results "$OUT/$name.json" > "$OUT/$name.txt.new" 2>&1 < /dev/null
    status=$?
    if [ $status = 0 ]; then
        mv "$OUT/$name.txt.new" "$OUT/$name.txt"
        awk -v name="$name" '/^points / { print name, $2 }' "$OUT/$name.txt"
    else
        rm -f "$OUT/$name.json"
        echo "$name could not be graded: $(tail -n 1 "$OUT/$name.txt.new")"
    fi
}

if [ "${1:-}" = --one ]; then
    grade_one "$2"
    exit 0
fi

KIT=$1
SUBMISSIONS=$([ -n "$2" ] && cd "$2" 2> /dev/null && pwd) || { echo "error: SUBMISSIONS=$2: no such folder" >&2; exit 2; }
OUT=$3
given=${HIDDEN:-}
HIDDEN=${given:+$(cd "$given" 2> /dev/null && pwd)} || { echo "error: HIDDEN=$given: no such folder" >&2; exit 2; }
mkdir -p "$OUT"
export KIT SUBMISSIONS OUT HIDDEN GRADE FLAGS

names=$(cd "$SUBMISSIONS" && for dir in */; do [ -d "$dir" ] && [ ! -L "${dir%/}" ] && echo "${dir%/}"; done)
[ -n "$names" ] || { echo "error: $2: there is no folder in it" >&2; exit 2; }
all=$(echo "$names" | wc -l | tr -d ' ')
echo "$names" | while read -r name; do
    [ -f "$OUT/$name.txt" ] && [ -f "$OUT/$name.json" ] &&
        [ -z "$(find "$SUBMISSIONS/$name" "$KIT/tests/exercises.txt" -newer "$OUT/$name.txt" -type f -print 2> /dev/null | head -n 1)" ] ||
        echo "$name"
done > "$OUT/to_do"
to_do=$(wc -l < "$OUT/to_do" | tr -d ' ')
echo "$all submissions, $to_do to grade"

bar=0
[ ! -t 2 ] || bar=1
start=$(date +%s)
[ "$to_do" = 0 ] || tr '\n' '\0' < "$OUT/to_do" | xargs -0 -n 1 -P "${JOBS:-$(getconf _NPROCESSORS_ONLN)}" sh "$0" --one |
    awk -v all="$to_do" -v bar="$bar" -v start="$start" '
    { done++; if (/could not be graded/) { failed = failed "\n" $0 } }
    bar {
        "date +%s" | getline now; close("date +%s")
        width = int(40 * done / all); line = ""
        for (k = 0; k < 40; k++) line = line (k < width ? "#" : ".")
        printf "\r  [%s] %d of %d, %d s left ", line, done, all, (now - start) * (all - done) / done > "/dev/stderr"
    }
    END { if (bar && done) print "" > "/dev/stderr"; if (failed) print substr(failed, 2) }'
rm -f "$OUT/to_do"

# ---- the sum of it ------------------------------------------------------------------------------

ids=$(awk '$1 == "exercise" { print $2 }' "$KIT/tests/exercises.txt")
{
    echo "name,points,$(echo $ids | tr ' ' ',')"
    echo "$names" | while read -r name; do
        [ -f "$OUT/$name.txt" ] || { echo "\"$name\",not graded"; continue; }
        awk -v name="$name" -v ids="$(echo $ids)" '
            /^[0-9]+\.[0-9]+ .* of [0-9.]+$/ { got[$1] = $(NF - 2) }
            /^points .* of [0-9.]+$/ { points = $2 }
            END {
                gsub(/"/, "\"\"", name)
                printf "\"%s\",%s", name, points
                n = split(ids, id, " ")
                for (k = 1; k <= n; k++) printf ",%s", got[id[k]]
                print ""
            }' "$OUT/$name.txt"
    done
} > "$OUT/grades.csv.new" && mv "$OUT/grades.csv.new" "$OUT/grades.csv"

awk -v points="$(awk '$1 == "exercise" { sum += $3 } END { print sum }' "$KIT/tests/exercises.txt")" '
    NR == 1 { next }
    { sub(/^".*",/, ""); split($0, field, ",") }
    field[1] == "not graded" { missing++; next }
    {
        bin = int(10 * field[1] / points); if (bin > 9) bin = 9
        count[bin]++; sum += field[1]; n++; if (count[bin] > most) most = count[bin]
    }
    END {
        for (b = 9; b >= 0; b--) {
            line = ""
            for (k = 0; k < 50 * count[b] / (most > 50 ? most : 50); k++) line = line "#"
            printf "  %5.1f to %5.1f  %4d  %s\n", b * points / 10, (b + 1) * points / 10, count[b], line
        }
        if (n) printf "  %d graded, mean %.1f of %g points\n", n, sum / n, points
        if (missing) printf "  %d could not be graded\n", missing
    }' "$OUT/grades.csv"
echo "$OUT/grades.csv, and for each submission a .txt to read and a .json for platforms"
