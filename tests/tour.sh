#!/bin/sh
# The tour of `make run`. Of every line of its input, a chapter (chNN_STEM) and a command, it says the
# chapter's title and question, as they stand in its file, shows what the command prints, and says
# where more is.
set -eu
build=${BUILD:-build}
while read -r file command; do
    chapter=${file%%_*} stem=${file#*_}
    [ -x "$build/${command%% *}" ] || continue
    source=$(ls "${chapter}"_*/"$stem".c*)
    lesson=${source%/*}/$(echo "$stem" | tr '[:lower:]' '[:upper:]').md
    [ -f "$lesson" ] || lesson=${source%/*}/README.md
    awk 'NR == 1 { sub(/^\/\* */, ""); printf "\n==== %s ====\n", $0 }
        / QUESTION / { on = 1; sub(/^.* QUESTION */, "") }
        on && /(^| )NEW( |$)/ { sub(/ *NEW( .*)?$/, ""); last = 1 }
        on { sub(/^ */, ""); text = text (text == "" ? "" : " ") $0 }
        last { exit }
        END {
            for (n = split(text, word, " "); k < n;) {
                line = word[++k]
                while (k < n && length(line " " word[k + 1]) <= 80) line = line " " word[++k]
                print line
            }
        }' "$source"
    echo "\$ $build/$command"
    sh -c "$build/$command" < /dev/null
    echo "More: make run CH=${chapter#ch}; the lesson: $lesson; the file: $source"
done
