#!/bin/sh
# Prints the flags that compile and link with cmocka, the test library. Where it is not there it is
# installed, if that asks for no password; else its stand-in is taken (standin/cmocka.h), and said so,
# with how to have cmocka. Everything said to people goes to stderr, the flags alone to stdout.
set -u
CC=${CC:-cc}

try() { # flags: prints them if a program can be built and started with them
    program=$(mktemp)
    # shellcheck disable=SC2086
    echo '#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
int main(void) { return cmocka_run_group_tests_name("", (const struct CMUnitTest *)0, NULL, NULL); }' |
        $CC -x c - -x none -o "$program" $1 2> /dev/null && "$program" > /dev/null 2>&1
    works=$?
    rm -f "$program"
    [ $works = 0 ] && echo "$1"
}

flags_found() {
    pkg-config --exists cmocka 2> /dev/null && try "$(pkg-config --cflags --libs cmocka)" && return
    for prefix in "" /usr/local /opt/homebrew /opt/local; do
        try "${prefix:+-I$prefix/include -L$prefix/lib} -lcmocka" && return
    done
    return 1
}

manager() {
    for tool in apt-get dnf pacman apk brew; do
        command -v $tool > /dev/null && echo $tool && return
    done
}

command_of() { # manager
    case $1 in
    apt-get) echo "sudo apt-get install -y --no-install-recommends libcmocka-dev" ;;
    dnf) echo "sudo dnf install -y libcmocka-devel" ;;
    pacman) echo "sudo pacman -S --noconfirm cmocka" ;;
    apk) echo "sudo apk add cmocka-dev" ;;
    brew) echo "brew install cmocka" ;;
    *) echo "see https://cmocka.org" ;;
    esac
}

# What command_of says, where sudo, if it is not root who asks, wants no password.
install() { # manager
    if [ "$(id -u)" = 0 ]; then
        sudo() { "$@"; }
    elif ! command -v sudo > /dev/null || ! sudo -n true; then
        [ "$1" = brew ] || return 1
    fi
    eval "$(command_of "$1")"
}

flags_found && exit 0
manager=$(manager)
echo "cmocka, the test library, is not there: fetching it" >&2
{
    install "$manager" || { [ "$manager" = apt-get ] && [ "$(id -u)" = 0 ] && apt-get update && install apt-get; }
} > /dev/null 2>&1
flags_found && exit 0
flags="-I$(dirname "$0")/standin" # from here, and from any copy of the course or of an assignment
echo "cmocka is not to be had; $(dirname "$0")/standin stands in for it. To have it: $(command_of "$manager")" >&2
try "$flags" && exit 0
echo "error: $CC builds no test, not even with the stand-in of cmocka: see tests/cmocka.sh" >&2
exit 1
