#!/bin/sh
# Runs the test programs given as arguments, from the root of the course, as many at once as there are
# processors and one more (JOBS=1: one after the other). Says of each cmocka's closing lines, and all that it printed
# if a test failed. The last line counts them all; a program that ends without cmocka's closing line
# has failed, whatever its exit status.
set -u
logs=${BUILD:-build}/tests/logs
export NO_COLOR=1
# Where several programs run at once, a thread that waits must not keep a processor.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"

# Runs one program, and leaves "passed failed broken" in $logs/NAME.count.
run_one() { # program
    name=${1##*/}
    log=$logs/$name
    "$1" > "$log" 2>&1 < /dev/null
    status=$?
    ran=$(sed -n 's/^\[==========\] \([0-9][0-9]*\) test(s) run\.$/\1/p' "$log" | tail -n 1)
    good=$(sed -n 's/^\[  PASSED  \] \([0-9][0-9]*\) test(s)\.$/\1/p' "$log" | tail -n 1)
    if [ -z "$ran" ] || [ -z "$good" ] || [ "$ran" = 0 ]; then
        cat "$log"
        echo "$name: ended with status $status and without cmocka's closing line"
        echo 0 1 1 > "$log.count"
        return
    fi
    bad=$((ran - good))
    [ "$status" = 0 ] || [ "$bad" -gt 0 ] || bad=1
    [ "$bad" = 0 ] || grep -vE '^\[( RUN      |       OK )\]' "$log"
    printf '%-28s [==========] %s test(s) run.  [  PASSED  ] %s test(s).\n' "$name" "$ran" "$good"
    echo "$good" "$bad" 0 > "$log.count"
}

if [ "${1:-}" = --one ]; then
    said=$(run_one "$2") # said at once, so that two programs do not mix their words
    printf '%s\n' "$said"
    exit 0
fi

[ $# -gt 0 ] || { echo "error: there is no test to run" >&2; exit 1; }
rm -rf "$logs" && mkdir -p "$logs" build/tests # where tests write
# One more than there are processors: some tests wait, for a limit of time to pass.
printf '%s\n' "$@" | xargs -n 1 -P "${JOBS:-$(($(getconf _NPROCESSORS_ONLN) + 1))}" sh "$0" --one
passed=0 failed=0 broken=0
for program in "$@"; do
    count='0 1 1' # of a runner that did not come to its end
    [ ! -f "$logs/${program##*/}.count" ] || count=$(cat "$logs/${program##*/}.count")
    # shellcheck disable=SC2086
    set -- $count
    passed=$((passed + $1)) failed=$((failed + $2)) broken=$((broken + $3))
done
rm -rf "$logs"
[ "$broken" = 0 ] || echo "$broken test program(s) did not come to their end"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
