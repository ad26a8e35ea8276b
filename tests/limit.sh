#!/bin/sh
# Runs a command for so many seconds at most: sh tests/limit.sh SECONDS COMMAND...
# With timeout (GNU), gtimeout (GNU's on macOS) or perl, whichever is there. The command's own exit
# status comes back; of one that took too long another than 0; 125 where nothing here can limit it.
seconds=$1
shift
if command -v timeout > /dev/null; then
    exec timeout "$seconds" "$@"
elif command -v gtimeout > /dev/null; then
    exec gtimeout "$seconds" "$@"
elif command -v perl > /dev/null; then
    exec perl -e 'alarm shift; exec @ARGV; exit 127' "$seconds" "$@"
fi
echo "error: neither timeout nor perl is installed" >&2
exit 125
