#!/bin/sh
# make watch: tests again whenever a file of the chapter is saved. Waits for the kernel's word if
# inotifywait is there, else looks once a second. Ends with Ctrl-C.
set -u
while :; do
    clear 2> /dev/null || true
    touch build/watched
    make --no-print-directory test EX="${EX:-}" || true
    echo
    echo "waiting for ch${CHAPTER}_*/ to be saved; Ctrl-C ends this"
    while [ -z "$(find "ch${CHAPTER}"_*/ -newer build/watched -print -quit 2> /dev/null)" ]; do
        if command -v inotifywait > /dev/null; then
            inotifywait -q -q -t 5 -e close_write -e moved_to "ch${CHAPTER}"_*/ || true
        else
            sleep 1
        fi
    done
done
