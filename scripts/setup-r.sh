#!/bin/sh
# Makes .venv-r in this checkout, the Python that R calls in the tests, with sparse_xent (editable); and
# installs R itself where it may:
#
#     scripts/setup-r.sh           all of it, or one sentence that says what is missing, and exit 1
#     scripts/setup-r.sh auto      what can be done unasked, as for `make test`; exit 0 in any case: the
#                                  tests name what is absent, and fail for it where CI=true
#     scripts/setup-r.sh ... peers also Keras, on its NumPy backend (which borrows from JAX): a model to
#                                  compile with the loss
#
# R comes by apt-get: as root, or with `sudo -n`, which never asks for a password; unasked as root only.
# The Python follows the reticulate that is found: before 1.41 it wants Python 3.11 and NumPy 1, later
# ones take any. .venv-r/.ready holds a key, as in setup.sh. PYTHON_R=... chooses the interpreter.
set -eu
cd "$(dirname "$0")/.."
unset PYTHONHOME PYTHONPATH RETICULATE_PYTHON
mode=asked peers=''
for word in "$@"; do
    case $word in
        auto) mode=auto ;;
        peers) peers='keras jax' ;;
        *) echo "setup-r: takes auto and peers, got $word" >&2 && exit 2 ;;
    esac
done
ready=.venv-r/.ready
python=.venv-r/bin/python
debian='r-base-core r-cran-reticulate r-cran-testthat r-cran-magrittr r-cran-knitr r-cran-rmarkdown pandoc'

fail() {
    echo "setup-r: $*" >&2
    if [ "$mode" = auto ]; then exit 0; fi
    exit 1
}

# No step may hang a run: not a mirror that is silent, nor another apt-get that holds the lock.
bounded() { if command -v timeout >/dev/null 2>&1; then timeout "$@"; else shift && "$@"; fi; }

packages_are_there() {
    command -v Rscript >/dev/null 2>&1 && command -v pandoc >/dev/null 2>&1 && bounded 60 Rscript --vanilla -e '
        need <- c("reticulate", "testthat", "magrittr", "knitr", "rmarkdown")
        quit(status = !all(nzchar(vapply(need, function(p) system.file(package = p), ""))))
    ' >/dev/null 2>&1
}

install_r() {
    how="on Debian and Ubuntu: apt-get install $debian"
    [ -f /etc/debian_version ] && command -v apt-get >/dev/null 2>&1 ||
        fail "R with reticulate and testthat is not here, and this is no Debian or Ubuntu: install them ($how)"
    if [ "$(id -u)" = 0 ]; then
        as_root='env'
    elif [ "$mode" != auto ] && sudo -n true 2>/dev/null; then
        as_root='sudo -n env'
    else
        fail "R with reticulate and testthat is not here: \`make setup-r\` as root installs them ($how)"
    fi
    echo "setup-r: installing R with apt-get (once; a minute or two)"
    apt="$as_root DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=60 -o Acquire::Retries=2"
    # shellcheck disable=SC2086 # they are words
    bounded 120 $apt update </dev/null || true # a list that is stale may still serve
    # shellcheck disable=SC2086
    bounded 600 $apt install -y --no-install-recommends $debian </dev/null >/dev/null ||
        fail "apt-get could not install R: its own words are above"
}

is_right() { "$1" -c "import sys, ensurepip, venv; sys.exit(not ($versions))" >/dev/null 2>&1; }

find_python() {
    for candidate in ${PYTHON_R:-python3.11 python3 python3.13 python3.12 python3.14 python}; do
        if command -v "$candidate" >/dev/null 2>&1 && is_right "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

key() {
    [ -x "$python" ] || return 0
    "$python" -c 'import sys; print(*sys.version_info[:3])' || return 0
    pwd
    echo "reticulate $reticulate"
    cat pyproject.toml scripts/setup-r.sh | cksum
    echo "peers: $peers"
}

packages_are_there || install_r
reticulate=$(bounded 60 Rscript --vanilla -e 'cat(format(packageVersion("reticulate")))') ||
    fail "Rscript could not say which reticulate it has: its own words are above"
if bounded 60 Rscript --vanilla -e 'quit(status = packageVersion("reticulate") >= "1.41")'; then
    versions='sys.version_info[:2] == (3, 11)' numpy='numpy<2' wanted='Python 3.11'
else
    versions='sys.version_info >= (3, 11)' numpy='numpy' wanted='Python >= 3.11'
fi
if [ -f "$ready" ] && [ "$(tail -n 1 "$ready")" = 'peers: keras jax' ]; then
    peers='keras jax' # once there, they stay
fi
if [ -f "$ready" ] && [ "$(cat "$ready")" = "$(key)" ]; then
    exit 0
fi

if ! { [ -x "$python" ] && is_right "$python" && "$python" -m pip --version >/dev/null 2>&1; }; then
    base=$(find_python) || fail "reticulate $reticulate needs $wanted with venv, and none was found:" \
        "install it, or name one with PYTHON_R=..."
    echo "setup-r: making .venv-r with $("$base" -V), for reticulate $reticulate (once; some ten seconds)"
    "$base" -m venv --clear .venv-r || fail "$base could not make .venv-r: its own words are above"
fi
rm -f "$ready"

echo "setup-r: installing sparse_xent, $numpy${peers:+, $peers} into .venv-r (once; a minute)"
# shellcheck disable=SC2086 # peers are words
PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 bounded 900 "$python" -m pip install --disable-pip-version-check \
    --no-input --progress-bar off --quiet --editable '.[plots]' "$numpy" $peers ||
    fail "pip could not install it: its own words are above; mended, the same command goes on from here"
key >"$ready"
echo "setup-r: ready"
