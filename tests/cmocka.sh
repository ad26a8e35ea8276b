#!/bin/sh
# Prints the flags that compile and link with cmocka; installs it first if it is not there.
# Everything said to people goes to stderr, the flags alone to stdout.
set -u
CC=${CC:-cc}

flags_found() {
    if pkg-config --exists cmocka 2>/dev/null; then
        pkg-config --cflags --libs cmocka
        return 0
    fi
    for prefix in "" /usr/local /opt/homebrew /opt/local; do
        flags="${prefix:+-I$prefix/include -L$prefix/lib} -lcmocka"
        # shellcheck disable=SC2086
        if printf '#include <stdarg.h>\n#include <stddef.h>\n#include <stdint.h>\n#include <setjmp.h>\n#include <cmocka.h>\nint main(void) { return 0; }\n' |
            $CC -x c - -o /dev/null $flags 2>/dev/null; then
            echo "$flags"
            return 0
        fi
    done
    return 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

install() {
    echo "cmocka, the test library, is not there: installing it" >&2
    if command -v apt-get > /dev/null; then
        as_root apt-get install -y libcmocka-dev ||
            { as_root apt-get update && as_root apt-get install -y libcmocka-dev; }
    elif command -v dnf > /dev/null; then
        as_root dnf install -y libcmocka-devel
    elif command -v pacman > /dev/null; then
        as_root pacman -S --noconfirm cmocka
    elif command -v apk > /dev/null; then
        as_root apk add cmocka-dev
    elif command -v brew > /dev/null; then
        brew install cmocka
    fi >&2
}

flags_found && exit 0
install
flags_found && exit 0
echo "error: cmocka could not be installed: install it by hand (Debian: libcmocka-dev, Fedora: libcmocka-devel, others: cmocka), then run make test again" >&2
exit 1
