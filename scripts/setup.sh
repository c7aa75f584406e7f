#!/bin/sh
# Makes .venv in this checkout and installs sparse_xent there (editable) with the extras named:
#
#     scripts/setup.sh [EXTRA...]        for example: scripts/setup.sh test dev
#
# Decides which Python serves, and whether there is anything to do: .venv/.ready holds a key (Python,
# place of the checkout, content of pyproject.toml and of this file) and the extras that are there. Same
# key and nothing new asked: done, in a few hundredths of a second. PYTHON=... chooses the interpreter.
set -eu
cd "$(dirname "$0")/.."
unset PYTHONHOME PYTHONPATH
ready=.venv/.ready
python=.venv/bin/python

fail() {
    echo "setup: $*" >&2
    exit 1
}

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

key() {
    [ -x "$python" ] || return 0
    "$python" -c 'import sys; print(*sys.version_info[:3])' || return 0
    pwd
    cat pyproject.toml scripts/setup.sh | cksum
}

find_python() {
    old='' bare=''
    if [ -n "${PYTHON:-}" ]; then
        set -- "$PYTHON"
    else
        set -- python3 python3.13 python3.12 python3.11 python3.14 python
    fi
    for candidate in "$@"; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        if ! is_new_enough "$candidate"; then
            # A version manager's shim may stand for nothing: then it has no version to name.
            old=${old:-$("$candidate" -V 2>/dev/null || true)}
        elif "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then
            echo "$candidate"
            return
        else
            bare=${bare:-$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])')}
        fi
    done
    if [ -n "$bare" ]; then
        fail "Python $bare is here without venv: install it (Debian, Ubuntu:" \
            "apt-get install python$bare-venv), or name another Python >= 3.11 with PYTHON=..."
    fi
    fail "needs Python >= 3.11, found ${old:-none}: install it (Debian 12, Ubuntu 24.04 and later:" \
        "apt-get install python3 python3-venv), or name one with PYTHON=/path/to/python3"
}

wanted='' there=''
key=$(key)
if [ -f "$ready" ]; then
    there=$(tail -n 1 "$ready")
fi
for extra in $there "$@"; do
    case " $wanted " in
        *" $extra "*) ;;
        *) wanted="${wanted:+$wanted }$extra" ;;
    esac
done
if [ -f "$ready" ] && [ "$(cat "$ready")" = "$(printf '%s\n' "$key" "$wanted")" ]; then
    exit 0
fi

# A .venv that was cut short while it was made, or whose Python went away, is made anew.
if ! { [ -x "$python" ] && is_new_enough "$python" && "$python" -m pip --version >/dev/null 2>&1; }; then
    base=$(find_python)
    echo "setup: making .venv with $("$base" -V) (once; some ten seconds)"
    "$base" -m venv --clear .venv || fail "$base could not make .venv: its own words are above"
fi
rm -f "$ready"

extras=$(echo "$wanted" | tr ' ' ',')
echo "setup: installing sparse_xent${extras:+[$extras]} and what it needs into .venv (once; a minute or two)"
bar=off
if [ -t 1 ]; then bar=on; fi
PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 "$python" -m pip install --disable-pip-version-check --no-input \
    --progress-bar "$bar" --editable ".${extras:+[$extras]}" ||
    fail "pip could not install it: its own words are above; mended, the same command goes on from here"
printf '%s\n' "$(key)" "$wanted" >"$ready"
echo "setup: ready"
