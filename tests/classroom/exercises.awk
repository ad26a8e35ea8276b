# Reads the files of a chapter with their marked exercises (see tests/README.md) and writes, by MODE:
#
#   student   the file with every solution replaced by a stub, but that of exercise KEEP
#   solved    the file without any marker
#   switch    the file in which each exercise chooses at run time: solution, stub or a mutant
#   list      what the kit must know: "exercise ID POINTS MINUTES FILE TITLE", and "hint ID TEXT" in
#             rot47, so that nobody reads a hint before it is asked for
#   removed   what a student must not find anywhere: "ID <tab> LINE" of every solution
#   region    the lines of exercise ID alone, as they stand
#   solutions the solutions between their markers and nothing else, for the grader
#   put       the file with the text of file TEXT in place of exercise ID, or with that of the files
#             TEXTS/ID in place of every exercise that has one
#
# Set `root` to the folder the names in `list` are relative to, `variants` (switch) to the folder of
# the mutants, files ID.2, ID.3, ... Malformed markers are errors: file, line, what is wrong.

function die(what) {
    printf "error: %s:%d: %s\n", FILENAME, FNR, what > "/dev/stderr"
    failed = 1
    exit 1
}

function trim(text) {
    gsub(/^[ \t]+|[ \t\r]+$/, "", text)
    return text
}

# Each of the 94 characters that one sees becomes the 47th after it, in a circle; twice is not at all.
function rot47(text,    all, out, k, at) {
    for (k = 33; k < 127; k++)
        all = all sprintf("%c", k)
    for (k = 1; k <= length(text); k++) {
        at = index(all, substr(text, k, 1))
        out = out (at ? substr(all all, at + 47, 1) : substr(text, k, 1))
    }
    return out
}

function relative(path) {
    return index(path, root "/") == 1 ? substr(path, length(root) + 2) : path
}

# //> EX 4.1 [2 pts] [10 min] a title
function open_exercise(text,    points, minutes) {
    if (id != "")
        die("exercise " id " is still open here")
    if (text !~ /^\/\/> EX [0-9]+\.[0-9]+ \[[0-9]+ pts?\] \[[0-9]+ min\] [^ ]/)
        die("an exercise opens with //> EX 1.2 [2 pts] [10 min] title")
    split(text, word, " ")
    id = word[3]
    points = substr(word[4], 2) + 0
    minutes = substr(word[6], 2) + 0
    if (id in seen)
        die("there is an exercise " id " already")
    if (points < 1 || minutes < 1)
        die("exercise " id " has no points or no minutes")
    if (chapter != "" && chapter + 0 != id + 0 && int(id) != chapter + 0)
        die("exercise " id " does not belong to chapter " chapter)
    seen[id] = 1
    count = hints = 0
    title = text
    sub(/^[^]]*\][^]]*\] /, "", title)
    indent = substr($0, 1, index($0, "/") - 1)
    if (MODE == "list")
        printf "exercise %s %d %d %s %s\n", id, points, minutes, relative(FILENAME), title
    if (MODE == "student" || MODE == "put")
        print
    if (MODE == "solutions")
        print text
}

function close_exercise(text,    k) {
    if (id == "")
        die("this closes no exercise")
    if (text != "//< EX " id)
        die("exercise " id " is closed by //< EX " id)
    if (hints < 2)
        die("exercise " id " has fewer than two hints")
    if (count < 1)
        die("exercise " id " has no solution")
    if (MODE == "student" && (id "") != (KEEP "")) {
        print indent "EXERCISE_TODO(\"" id "\");"
        print
    } else if (MODE == "switch") {
        write_switch()
    } else if (MODE == "put" && (id "") == (ID "")) {
        copy(TEXT)
        print
    } else if (MODE == "put" && TEXTS != "" && copy(TEXTS "/" id)) {
        print
    } else if (MODE == "solved" || MODE == "put" || MODE == "student") {
        for (k = 1; k <= count; k++)
            print line[k]
        if (MODE != "solved")
            print
    } else if (MODE == "solutions") {
        for (k = 1; k <= count; k++)
            print line[k]
        print text
    }
    id = ""
}

# Prints a file; false if there is nothing in it.
function copy(path,    text, n) {
    for (n = 0; (getline text < path) > 0; n++)
        print text
    close(path)
    return n > 0
}

# if stub ... else if first mutant ... else solution: one program in place of many
function write_switch(    k, path, text, name) {
    name = "variant_of_" id
    sub(/\./, "_", name)
    print "{ static int " name " = -1; if (" name " < 0) " name " = exercise_variant(\"" id "\");"
    print "if (" name " == 1) { EXERCISE_TODO(\"" id "\"); }"
    for (k = 2; (getline text < (path = variants "/" id "." k)) > 0; k++) {
        close(path)
        print "else if (" name " == " k ") {"
        copy(path)
        print "}"
    }
    print "else {"
    for (k = 1; k <= count; k++)
        print line[k]
    print "} }"
}

FNR == 1 { included = 0 }

{ text = trim($0) }

text ~ /^\/\/>/ { open_exercise(text); next }
text ~ /^\/\/</ { close_exercise(text); next }

text ~ /^\/\/[?:]/ && id == "" { die("a hint or a skeleton outside an exercise") }

# a hint; with more than one blank after the mark, the hint before goes on
text ~ /^\/\/\?   *[^ ]/ && hints > 0 {
    if (MODE == "list")
        printf "goes-on %s %s\n", id, rot47(trim(substr(text, 4)))
    next
}
text ~ /^\/\/\?/ {
    hints++
    if (MODE == "list")
        printf "hint %s %s\n", id, rot47(trim(substr(text, 4)))
    next
}

# a skeleton: only students see it
text ~ /^\/\/:/ {
    if (MODE == "student" && (id "") != (KEEP ""))
        print indent substr(text, 5)
    next
}

id != "" {
    if (text != "")
        line[++count] = $0
    if (MODE == "removed" && text != "")
        printf "%s\t%s\n", id, text
    if (MODE == "region" && (id "") == (ID ""))
        print
    next
}

MODE == "student" && !included && /^#[ ]*include/ {
    print "#include \"../tests/exercise.h\""
    included = 1
}
MODE == "switch" && !included && /^#[ ]*include/ {
    print "#include \"../tests/variants.h\""
    included = 1
}

MODE == "student" || MODE == "solved" || MODE == "switch" || MODE == "put" { print }

END {
    if (!failed && id != "")
        die("exercise " id " is never closed")
    exit failed
}
