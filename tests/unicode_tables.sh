#!/bin/sh
# Writes ch05_mamba_block/unicode_tables.h, what the tokenizer must know of Unicode, from the data
# files of the Unicode Character Database (Debian: the package unicode-data). From the root:
#   sh tests/unicode_tables.sh [folder] > ch05_mamba_block/unicode_tables.h
#
# Normalization is that of Unicode 9.0, because the ids of a text must be those of Hugging Face's
# tokenizers, whose NFC is (tried with 0.23.3, code point by code point): newer marks are not put in
# order. What is a letter is taken from the newest data there is; 5,004 code points that Unicode 15.1
# and 16.0 added are letters and numbers there, and others here while the data is 15.0. Punctuation is
# that of Unicode 8.0, as it is there: the two codes below were punctuation then and are none now. Every
# sign of ASCII counts as punctuation there.
set -eu
folder=${1:-/usr/share/unicode}
for file in DerivedAge.txt UnicodeData.txt PropList.txt DerivedCoreProperties.txt DerivedNormalizationProps.txt; do
    [ -r "$folder/$file" ] || { echo "error: $folder/$file cannot be read" >&2; exit 1; }
done

awk '
function hex(text,    i, value) {
    value = 0
    for (i = 1; i <= length(text); i++)
        value = 16 * value + index("0123456789ABCDEF", substr(text, i, 1)) - 1
    return value
}
# Adds a bit to the classes of the code points "first..last", or "first".
function mark(range, bit,    ends, code, last) {
    split(range, ends, /\.\./)
    last = hex(ends[2] == "" ? ends[1] : ends[2])
    for (code = hex(ends[1]); code <= last; code++)
        if (!has[code, bit]++)
            class[code] += bit
}
function entry(text) {
    if (length(line) + length(text) > 98) { print line; line = "   " }
    line = line " " text
}
function open_table(comment, type, name) {
    printf "\n/* %s */\nstatic const %s %s[] = {\n", comment, type, name
    line = "   "
}
function close_table() { print line; print "};" }
function ranges(values,    code, start, value) {
    value = 0
    for (code = 0; code <= 1114112; code++)
        if (values[code] + 0 != value) {
            if (value) entry(sprintf("{0x%X, 0x%X, %d},", start, code - 1, value))
            start = code; value = values[code] + 0
        }
}
FILENAME ~ /DerivedAge/ {
    if ($0 !~ /^#/ && NF > 0) {
        split($0, field, / *[;#] */)
        if (field[2] + 0 <= 9) mark(field[1], 32)
        if (field[2] + 0 <= 8) mark(field[1], 128)
    }
    next
}
FILENAME ~ /UnicodeData/ {
    split($0, field, ";")
    if (field[2] ~ /, First>$/) { first = field[1]; next }
    range = field[2] ~ /, Last>$/ ? first ".." field[1] : field[1]
    if (field[3] ~ /^L/) mark(range, 1)
    if (field[3] ~ /^N/) mark(range, 2)
    if (field[3] ~ /^(M|Nd|Pc)/) mark(range, 8)
    if ((field[3] ~ /^P/ && has[hex(field[1]), 128]) || field[1] ~ /^(166D|111C9)$/ ||
        (field[3] ~ /^S/ && length(field[1]) == 4 && field[1] < "0080")) mark(range, 16)
    if (has[hex(field[1]), 32] && field[4] + 0) combining[hex(field[1])] = field[4]
    if (has[hex(field[1]), 32] && field[6] != "" && field[6] !~ /^</) {
        n = split(field[6], part, " ")
        parts[++count] = sprintf("%d %d %d", hex(field[1]), hex(part[1]), n > 1 ? hex(part[2]) : 0)
    }
    if (field[14] != "") lower[++lower_count] = sprintf("%d %d 0", hex(field[1]), hex(field[14]))
    if (field[1] == "0130") lower[lower_count] = "304 105 775" # i and a dot: SpecialCasing.txt
    next
}
FNR == 1 { version = $2 }
/^#/ || NF == 0 { next }
{ sub(/ *#.*/, ""); split($0, field, / *; */) }
FILENAME ~ /PropList/ && field[2] == "White_Space" { mark(field[1], 4) }
FILENAME ~ /PropList/ && field[2] == "Join_Control" { mark(field[1], 8) }
FILENAME ~ /DerivedCore/ && field[2] == "Alphabetic" { mark(field[1], 8) }
FILENAME ~ /DerivedNorm/ && field[2] == "Full_Composition_Exclusion" { mark(field[1], 64) }
END {
    sub(/^DerivedNormalizationProps-/, "", version); sub(/\.txt$/, "", version)
    print "/* What the tokenizer knows of Unicode " version ": written by tests/unicode_tables.sh from the"
    print "   Unicode Character Database (https://www.unicode.org/ucd/), and not by hand. */\n"
    print "#ifndef CH05_UNICODE_TABLES\n#define CH05_UNICODE_TABLES\n\n#include <stdint.h>\n\n/* clang-format off */\n"
    print "enum {\n    UNICODE_LETTER = 1, UNICODE_NUMBER = 2, UNICODE_SPACE = 4, UNICODE_WORD = 8,"
    print "    UNICODE_PUNCTUATION = 16\n};\n"
    print "typedef struct {\n    uint32_t first, last, value;\n} UnicodeRange;\n"
    print "typedef struct {\n    uint32_t code, first, second;\n} UnicodePair;"
    for (code in class) { excluded[code] = has[code, 64]; class[code] %= 32 }
    open_table("Letters (L), numbers (N), white space, what \\w is, and punctuation (P as of Unicode 8.0,\n" \
               "   and every sign of ASCII), as sums of the bits above.", \
               "UnicodeRange", "unicode_class")
    ranges(class)
    close_table()
    open_table("Canonical combining classes that are not 0, as of Unicode 9.0.", "UnicodeRange", "unicode_combining")
    ranges(combining)
    close_table()
    open_table("Canonical decompositions as of Unicode 9.0, by code; a second of 0: there is none.", "UnicodePair", \
               "unicode_decomposition")
    for (i = 1; i <= count; i++) {
        split(parts[i], p, " ")
        entry(sprintf("{0x%X, 0x%X, 0x%X},", p[1], p[2], p[3]))
        if (p[3] && !excluded[p[1]]) pairs[++pair_count] = sprintf("%06X%06X %d %d %d", p[2], p[3], p[1], p[2], p[3])
    }
    close_table()
    open_table("What composes, by first and second.", "UnicodePair", "unicode_composition")
    for (gap = int(pair_count / 2); gap > 0; gap = int(gap / 2)) # Shell sort: awk has none
        for (i = gap + 1; i <= pair_count; i++) {
            held = pairs[i]
            for (j = i; j > gap && pairs[j - gap] > held; j -= gap) pairs[j] = pairs[j - gap]
            pairs[j] = held
        }
    for (i = 1; i <= pair_count; i++) {
        split(pairs[i], p, " ")
        entry(sprintf("{0x%X, 0x%X, 0x%X},", p[2], p[3], p[4]))
    }
    close_table()
    open_table("Lower case, by code: one code, or two.", "UnicodePair", "unicode_lowercase")
    for (i = 1; i <= lower_count; i++) {
        split(lower[i], p, " ")
        entry(sprintf("{0x%X, 0x%X, 0x%X},", p[1], p[2], p[3]))
    }
    close_table()
    print "\n#endif"
}' "$folder/DerivedAge.txt" "$folder/UnicodeData.txt" "$folder/PropList.txt" \
    "$folder/DerivedCoreProperties.txt" "$folder/DerivedNormalizationProps.txt"
