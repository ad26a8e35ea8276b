#!/bin/sh
# make hint EX=4.2: the first hint; asked again the next, until there is none left. They stand in
# rot47, so that nobody reads one by accident.
set -eu
table=tests/exercises.txt
title=$(awk -v id="${EX:-}" '$1 == "exercise" && ($2 "") == (id "") { sub(/^([^ ]+ )([^ ]+ )([^ ]+ )([^ ]+ )([^ ]+ )/, ""); print }' $table)
if [ -z "$title" ]; then
    echo "error: EX=${EX:-}: say which exercise; there are$(awk '$1 == "exercise" { printf " %s", $2 }' $table)" >&2
    exit 2
fi
mkdir -p build/hints
asked=$(cat "build/hints/$EX" 2> /dev/null || echo 0)
asked=$((asked + 1))
awk -v id="$EX" -v asked="$asked" -v title="$title" '
    function rest(line) { sub(/^[^ ]+ [^ ]+ /, "", line); return line }
    function plain(line,    all, out, k, at) {
        for (k = 33; k < 127; k++)
            all = all sprintf("%c", k)
        for (k = 1; k <= length(line); k++) {
            at = index(all, substr(line, k, 1))
            out = out (at ? substr(all all, at + 47, 1) : substr(line, k, 1))
        }
        return out
    }
    $1 == "section" && ($2 "") == (id "") { section = rest($0) }
    $1 == "hint" && ($2 "") == (id "") { hint[++n] = plain(rest($0)) }
    $1 == "goes-on" && ($2 "") == (id "") { hint[n] = hint[n] " " plain(rest($0)) }
    END {
        printf "%s, %s%s In the lesson: %s.\n", id, title, title ~ /\?$/ ? "" : ".", section
        for (k = 1; k <= n && k <= asked; k++)
            printf "  %d. %s\n", k, hint[k]
        if (asked < n)
            printf "Try again with that. make hint EX=%s gives one more (%d left).\n", id, n - asked
        else
            print "That was the last one."
    }' $table
echo "$asked" > "build/hints/$EX"
