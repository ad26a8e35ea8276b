#!/bin/sh
# Runs the test programs given as arguments, from the root of the course. Shows cmocka's closing
# lines of each, and all that it printed if a test failed. The last line counts them all; a program
# that ends without cmocka's closing line has failed, whatever its exit status.
set -u
passed=0 failed=0 broken=0
log=${BUILD:-build}/tests/log
export NO_COLOR=1
[ $# -gt 0 ] || { echo "error: there is no test to run" >&2; exit 1; }

for program in "$@"; do
    name=${program##*/}
    "$program" > "$log" 2>&1 < /dev/null
    status=$?
    ran=$(sed -n 's/^\[==========\] \([0-9][0-9]*\) test(s) run\.$/\1/p' "$log" | tail -n 1)
    good=$(sed -n 's/^\[  PASSED  \] \([0-9][0-9]*\) test(s)\.$/\1/p' "$log" | tail -n 1)
    if [ -z "$ran" ] || [ -z "$good" ] || [ "$ran" = 0 ]; then
        cat "$log"
        echo "$name: ended with status $status and without cmocka's closing line"
        broken=$((broken + 1)) failed=$((failed + 1))
        continue
    fi
    bad=$((ran - good))
    [ "$status" = 0 ] || [ "$bad" -gt 0 ] || bad=1
    [ "$bad" = 0 ] || grep -vE '^\[( RUN      |       OK )\]' "$log"
    printf '%-28s [==========] %s test(s) run.  [  PASSED  ] %s test(s).\n' "$name" "$ran" "$good"
    passed=$((passed + good)) failed=$((failed + bad))
done
rm -f "$log"
[ "$broken" = 0 ] || echo "$broken test program(s) did not come to their end"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
