# Every file that the files given in `start` (a list with blanks between) include, by #include "...",
# and they themselves: paths from the root of the course, each once.

function visit(path,    line, dir, name) {
    if (path in seen)
        return
    seen[path] = 1
    print path
    dir = path
    sub(/[^\/]*$/, "", dir)
    while ((getline line < path) > 0)
        if (line ~ /^[ \t]*#[ \t]*include[ \t]*"/) {
            name = line
            sub(/^[^"]*"/, "", name)
            sub(/".*/, "", name)
            visit(plain(dir name))
        }
    close(path)
}

function plain(path) {
    while (sub(/[^\/]+\/\.\.\//, "", path))
        ;
    sub(/^\.\//, "", path)
    return path
}

BEGIN {
    n = split(start, file, " ")
    for (k = 1; k <= n; k++)
        visit(file[k])
}
