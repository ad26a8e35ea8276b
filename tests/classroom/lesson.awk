# Three things that an assignment makes of a lesson, by MODE:
#
#   sections   for each exercise, where the lesson speaks of it: "section ID FILE, \"Heading\"".
#              That is the section that names it (Exercise 4.1), else the first that has the function
#              of its row in the table of exercises.
#   handout    the lesson without the solutions that it quotes, and without links to what the
#              assignment does not have. Reads first `removed` (exercises.awk) and `known`, the
#              lines that students have anyway, and `files`, what is in the assignment.
#   leaks      what such lessons still say of a solution, wherever and however it is laid out:
#              "FILE: exercise ID: LINE". Reads `removed`, then the lessons, then `known`.

function trim(text) {
    gsub(/^[ \t]+|[ \t\r]+$/, "", text)
    return text
}

# ---- sections: the lesson is read twice

MODE == "sections" && FNR == 1 { pass[FILENAME]++; heading = ""; in_table = 0 }

MODE == "sections" && /^#+ / {
    heading = $0
    sub(/^#+ /, "", heading)
    in_table = heading ~ /^Exercises/
}

MODE == "sections" && pass[FILENAME] == 1 && /^\| Exercise [0-9]+\.[0-9]+ \|/ {
    id = $3
    n_name[id] = split($0, piece, "`")
    for (k = 2; k <= n_name[id]; k += 2)
        name[id, k] = piece[k]
    order[++n_order] = id
    home[id] = FILENAME
}

MODE == "sections" && pass[FILENAME] == 2 && !in_table {
    for (o = 1; o <= n_order; o++) {
        id = order[o]
        if (home[id] != FILENAME)
            continue
        if (!(id in named) && (before " " $0) ~ ("[Ee]xercise " id "([^0-9]|$)"))
            named[id] = heading
        for (k = 2; k <= n_name[id]; k += 2)
            if (!(id in used) && index($0, name[id, k]))
                used[id] = heading
    }
    before = $0
}

# ---- handout

MODE == "handout" && FILENAME == removed {
    tab = index($0, "\t")
    text = substr($0, tab + 1)
    if (!((substr($0, 1, tab - 1), text) in has))
        n_owner[text]++
    has[substr($0, 1, tab - 1), text] = 1
    owner[text] = substr($0, 1, tab - 1)
    next
}
MODE == "handout" && FILENAME == known { shared[trim($0)] = 1; next }
MODE == "handout" && FILENAME == files { exists[$0] = 1; next }

MODE == "handout" && /^```/ && !open { open = 1; count = 0; print; next }
MODE == "handout" && /^```/ { flush_block(); open = 0; print; next }
MODE == "handout" && open { block[++count] = $0; next }
MODE == "handout" { print without_lost_links($0) }

# Is this line a solution's, and nobody else's?
function secret(text) {
    text = trim(text)
    return (text in owner) && !(text in shared) ? owner[text] : ""
}

# A quoted solution becomes one line, with what stands round it and belongs to it. A line that
# several solutions have is its neighbour's.
function flush_block(    k, indent, depth) {
    for (k = 1; k <= count; k++)
        mark[k] = n_owner[trim(block[k])] > 1 ? "" : secret(block[k])
    for (k = count - 1; k >= 1; k--)
        if (mark[k] == "" && mark[k + 1] != "" && (mark[k + 1], trim(block[k])) in has)
            mark[k] = mark[k + 1]
    for (k = 2; k <= count; k++)
        if (mark[k] == "" && mark[k - 1] != "" && (mark[k - 1], trim(block[k])) in has)
            mark[k] = mark[k - 1]
    for (k = 1; k <= count; k++)
        if (mark[k] == "")
            mark[k] = secret(block[k])
    for (k = 1; k <= count; k++) { # a brace that closes more than the solution opens is not its own
        depth = mark[k] == "" ? 0 : depth + gsub(/[{]/, "{", block[k]) - gsub(/[}]/, "}", block[k])
        if (depth < 0)
            mark[k] = ""
    }
    for (k = 1; k <= count; k++) {
        if (mark[k] == "") {
            print block[k]
        } else if (k == 1 || mark[k] != mark[k - 1]) {
            indent = block[k]
            sub(/[^ ].*/, "", indent)
            print indent "/* exercise " mark[k] ": yours to write */"
        }
    }
}

# ---- leaks: all blanks aside, no lesson has a line of a solution that the chapters do not have

# What a line says: no blanks, no comments, no brackets and semicolons at its end.
function bare(text) {
    gsub(/\/\*[^*]*\*\/|\/\/.*/, "", text)
    gsub(/[ \t\r\n]+/, "", text)
    sub(/[;{}]+$/, "", text)
    return text
}

MODE == "leaks" && FILENAME == removed {
    tab = index($0, "\t")
    text = bare(substr($0, tab + 1))
    if (length(text) >= 6) {
        leak_id[++n_leak] = substr($0, 1, tab - 1)
        leak[n_leak] = text
    }
    next
}
MODE == "leaks" && FILENAME != known { said[FILENAME] = said[FILENAME] bare($0); next }
MODE == "leaks" && FNR == 1 {
    for (k = 1; k <= n_leak; k++)
        for (path in said)
            if (index(said[path], leak[k]))
                leak_in[k] = path
}
MODE == "leaks" {
    text = bare($0)
    for (k in leak_in)
        if (index(text, leak[k]))
            delete leak_in[k]
}

# [text](../ch05_mamba_block/README.md) becomes text if there is no such file.
function without_lost_links(text,    out, label, target, path) {
    out = ""
    while (match(text, /\[[^][]*\]\([^)]*\)/)) {
        label = substr(text, RSTART + 1, index(substr(text, RSTART), "](") - 2)
        target = substr(text, RSTART + length(label) + 3, RLENGTH - length(label) - 4)
        path = target
        sub(/#.*/, "", path)
        out = out substr(text, 1, RSTART - 1)
        if (path == "" || path ~ /:\/\// || (resolve(path) in exists))
            out = out substr(text, RSTART, RLENGTH)
        else
            out = out label
        text = substr(text, RSTART + RLENGTH)
    }
    return out text
}

function resolve(path) {
    path = folder "/" path
    while (sub(/[^\/]+\/\.\.\//, "", path))
        ;
    sub(/^\//, "", path)
    return path
}

END {
    for (k = 1; MODE == "leaks" && k <= n_leak; k++)
        if (k in leak_in)
            printf "%s: exercise %s: %s\n", leak_in[k], leak_id[k], leak[k]
    for (o = 1; MODE == "sections" && o <= n_order; o++) {
        id = order[o]
        heading = (id in named) ? named[id] : (id in used) ? used[id] : "Exercises"
        path = home[id]
        if (index(path, root "/") == 1)
            path = substr(path, length(root) + 2)
        printf "section %s \"%s\" in %s\n", id, heading, path
    }
}
