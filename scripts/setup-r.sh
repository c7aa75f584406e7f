#!/bin/sh
# Makes .venv-r in this checkout, the Python that R calls in the tests, with sparse_xent (editable) and what
# the vignettes use (Matplotlib, dask); and installs R itself where it may:
#
#     scripts/setup-r.sh           all of it, or one sentence that says what is missing, and exit 1
#     scripts/setup-r.sh auto      what can be done unasked, as for `make test`; exit 0 in any case: the
#                                  tests name what is absent, and fail for it where CI=true
#     scripts/setup-r.sh ... peers also Keras, on its NumPy backend (which borrows from JAX) and on torch's:
#                                  a model to compile with the loss, and the vignettes that train one
#
# R comes by apt-get: as root, or with `sudo -n`, which never asks for a password; unasked as root only.
# The Python follows the reticulate that is found: before 1.41 it wants Python 3.11 and NumPy 1, later
# ones take any. R loads that Python's shared library, which Debian keeps in a package of its own
# (libpython3.11): it comes by apt-get too. "ready" is said when R has called the loss and got its
# figures. .venv-r/.ready holds a key, as in setup.sh. PYTHON_R=... chooses the interpreter.
set -eu
cd "$(dirname "$0")/.."
unset PYTHONHOME PYTHONPATH RETICULATE_PYTHON
mode=asked peers=''
for word in "$@"; do
    case $word in
        auto) mode=auto ;;
        peers) peers='keras jax torch' ;;
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

# As root, or by a sudo that asks nothing; unasked as root only.
apt_get_is_allowed() {
    if [ "$(id -u)" = 0 ]; then
        as_root='env'
    elif [ "$mode" != auto ] && sudo -n true 2>/dev/null; then
        as_root='sudo -n env'
    else
        return 1
    fi
}

apt_install() {
    apt="$as_root DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=60 -o Acquire::Retries=2"
    # shellcheck disable=SC2086 # they are words
    ${updated:-false} || bounded 120 $apt update </dev/null || true # a list that is stale may still serve
    updated=true
    # shellcheck disable=SC2086
    bounded 600 $apt install -y --no-install-recommends "$@" </dev/null >/dev/null
}

install_r() {
    how="on Debian and Ubuntu: apt-get install $debian"
    [ -f /etc/debian_version ] && command -v apt-get >/dev/null 2>&1 ||
        fail "R with reticulate and testthat is not here, and this is no Debian or Ubuntu: install them ($how)"
    apt_get_is_allowed ||
        fail "R with reticulate and testthat is not here: \`make setup-r\` as root installs them ($how)"
    echo "setup-r: installing R with apt-get (once; a minute or two)"
    # shellcheck disable=SC2086 # they are words
    apt_install $debian || fail "apt-get could not install R: its own words are above"
}

# Whether reticulate finds the shared library of a Python, in the folders where it looks. Elsewhere
# than on Linux the library comes with Python.
has_library() {
    "$1" -c '
import glob, os, sys, sysconfig
name = "libpython%d.%d*.so*" % sys.version_info[:2]
places = [sysconfig.get_config_var(folder) or "" for folder in ("LIBPL", "LIBDIR")]
found = any(glob.glob(os.path.join(place, name)) for place in places)
sys.exit(sys.platform.startswith("linux") and not found)
' >/dev/null 2>&1
}

# The system's own Python, whose library apt-get brings.
is_debians() {
    [ -f /etc/debian_version ] && command -v apt-get >/dev/null 2>&1 &&
        "$1" -c 'import sys; sys.exit(sys.base_prefix != "/usr")' >/dev/null 2>&1
}

install_library() {
    package=$("$python" -c 'import sys; print("libpython%d.%d" % sys.version_info[:2])')
    missing="R loads Python's shared library, and that of $("$python" -V) ($package.so) is not here:"
    is_debians "$python" ||
        fail "$missing name a Python that was built with --enable-shared, with PYTHON_R=..."
    apt_get_is_allowed || fail "$missing as root, apt-get install $package"
    echo "setup-r: installing $package with apt-get (once; some seconds)"
    apt_install "$package" && has_library "$python" ||
        fail "$missing apt-get could not install $package, its own words are above"
}

# One call through R, with the figures of the manual page.
prove() {
    # shellcheck disable=SC2016 # the $ is of R
    said=$(RETICULATE_PYTHON="$PWD/$python" bounded 300 Rscript --vanilla -e '
        loss <- reticulate::import("sparse_xent")$loss_sparse_categorical_crossentropy
        got <- loss(c(1, 2), rbind(c(0.05, 0.95, 0), c(0.1, 0.8, 0.1)))
        due <- c(0.05129339, 2.30258509)
        if (max(abs(got - due)) > 1e-8) stop("a loss is wrong: ", paste(format(got, digits = 9), collapse = " "))
    ' 2>&1) || fail "R cannot call $python: $(echo "$said" | grep -i error | head -n 1)"
}

is_right() { "$1" -c "import sys, ensurepip, venv; sys.exit(not ($versions))" >/dev/null 2>&1; }

# One with its library, else one that apt-get can give it, else any.
find_python() {
    for has_what_it_needs in has_library is_debians true; do
        for candidate in ${PYTHON_R:-python3.11 python3 python3.13 python3.12 python3.14 python}; do
            if command -v "$candidate" >/dev/null 2>&1 && is_right "$candidate" &&
                $has_what_it_needs "$candidate"; then
                echo "$candidate"
                return
            fi
        done
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
if [ -f "$ready" ] && [ "$(tail -n 1 "$ready")" = 'peers: keras jax torch' ]; then
    peers='keras jax torch' # once there, they stay
fi
if [ -f "$ready" ] && [ "$(cat "$ready")" = "$(key)" ]; then
    exit 0
fi

is_reusable() {
    [ -x "$python" ] && is_right "$python" && "$python" -m pip --version >/dev/null 2>&1 &&
        { [ -z "${PYTHON_R:-}" ] || has_library "$python"; }
}

if ! is_reusable; then
    base=$(find_python) || fail "reticulate $reticulate needs $wanted with venv, and none was found:" \
        "install it, or name one with PYTHON_R=..."
    echo "setup-r: making .venv-r with $("$base" -V), for reticulate $reticulate (once; some ten seconds)"
    "$base" -m venv --clear .venv-r || fail "$base could not make .venv-r: its own words are above"
fi
rm -f "$ready"
has_library "$python" || install_library

echo "setup-r: installing sparse_xent, $numpy${peers:+, $peers} into .venv-r (once; a minute)"
# shellcheck disable=SC2086 # peers are words
PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 bounded 900 "$python" -m pip install --disable-pip-version-check \
    --no-input --progress-bar off --quiet --editable '.[plots]' 'dask[array]' distributed "$numpy" $peers ||
    fail "pip could not install it: its own words are above; mended, the same command goes on from here"
echo "setup-r: calling a loss from R (once; up to a minute)"
prove
key >"$ready"
echo "setup-r: ready"
