#!/bin/sh
# Writes ch01_markov/width_tables.h, which characters take no column of a terminal and which take
# two, from the data files of the Unicode Character Database (Debian: the package unicode-data):
#   sh tests/width_tables.sh [folder] > ch01_markov/width_tables.h
# No column: marks (Mn, Me), format characters (Cf, but the soft hyphen and the signs that stand
# before numbers), and the Hangul vowels and finals that join the letter before them. Two columns:
# what EastAsianWidth.txt calls wide (W) or fullwidth (F). Ranges run across what is unassigned.
set -eu
folder=${1:-/usr/share/unicode}
for file in EastAsianWidth.txt UnicodeData.txt; do
    [ -r "$folder/$file" ] || { echo "error: $folder/$file cannot be read" >&2; exit 1; }
done

awk '
function hex(text,    i, value) {
    value = 0
    for (i = 1; i <= length(text); i++)
        value = 16 * value + index("0123456789ABCDEF", substr(text, i, 1)) - 1
    return value
}
function entry(text) {
    if (length(line) + length(text) > 98) { print line; line = "   " }
    line = line " " text
}
function table(name, comment, values,    code, start, last) {
    printf "\n/* %s */\nstatic const WidthRange %s[] = {\n", comment, name
    line = "   "
    start = -1
    for (code = 0; code <= 1114112; code++) {
        if (values[code]) {
            if (start < 0) start = code
            last = code
        } else if (start >= 0 && (code in assigned || code == 1114112 || code - last > 64)) {
            entry(sprintf("{0x%X, 0x%X},", start, last))
            start = -1
        }
    }
    print line; print "};"
}
FILENAME ~ /EastAsianWidth/ && FNR == 1 { version = $0; sub(/^.*-/, "", version); sub(/\.txt.*/, "", version) }
FILENAME ~ /UnicodeData/ {
    split($0, field, ";")
    code = hex(field[1])
    first = field[2] ~ /, Last>$/ ? last_code + 1 : code
    for (c = first; c <= code; c++) assigned[c] = 1
    last_code = code
    k = field[3]
    if (k == "Mn" || k == "Me" || (k == "Cf" && field[2] !~ /^SOFT HYPHEN$|NUMBER|SIGN SAMVAT|FOOTNOTE|PAGE$|SANAH|SAFHA|END OF AYAH|ABBREVIATION|POUND|PIASTRE|DISPUTED/))
        zero[code] = 1
}
FILENAME ~ /EastAsianWidth/ && !/^#/ && NF > 0 {
    split($0, field, / *[;#] */)
    if (field[2] == "W" || field[2] == "F") {
        split(field[1], ends, /\.\./)
        last = hex(ends[2] == "" ? ends[1] : ends[2])
        for (c = hex(ends[1]); c <= last; c++) wide[c] = 1
    }
}
END {
    for (c = 4448; c <= 4607; c++) zero[c] = 1
    for (c in zero) delete wide[c]
    printf "/* How wide the characters of Unicode %s are in a terminal: written by tests/width_tables.sh\n", version
    print "   from the Unicode Character Database (https://www.unicode.org/ucd/), and not by hand. */"
    print "\n#ifndef COURSE_WIDTH_TABLES\n#define COURSE_WIDTH_TABLES\n\n#include <stdint.h>\n"
    print "/* clang-format off */\n"
    print "typedef struct {\n    uint32_t first, last;\n} WidthRange;"
    table("width_none", "Marks and joiners: no column of their own.", zero)
    table("width_two", "East Asian wide and fullwidth, and most pictures: two columns.", wide)
    print "\n/* clang-format on */\n\n#endif /* COURSE_WIDTH_TABLES */"
}' "$folder/UnicodeData.txt" "$folder/EastAsianWidth.txt"
