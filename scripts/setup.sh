#!/usr/bin/env bash
# Makes the virtual environment and installs halonet with pinned versions into it. Called by `make`; may be run again
# at any time. Whatever goes wrong is said in one line on stderr, and the exit status is 1.
#
#   scripts/setup.sh VENV EXTRAS     e.g. scripts/setup.sh .venv train,dev
#   PYTHON=python3.12                the interpreter to use; unset: the first fitting one on the PATH
set -u
set -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

venv=$1
extras=$2
busy=$venv/.installing        # exists while packages are being written: left behind only by a killed run
log=$venv/.setup.log          # all that pip says, gone when it succeeds
errors=$venv/.setup.errors

fail() {
    printf 'halonet: %s\n' "$1" >&2
    exit 1
}

# Prints why the interpreter cannot be used, or nothing when it can. The probe must also parse under Python 2.
why_not() {
    command -v "$1" >/dev/null 2>&1 || { echo "there is no '$1'"; return; }
    "$1" -c '
import sys
version = "%d.%d" % sys.version_info[:2]
if not (3, 10) <= sys.version_info[:2] < (3, 14):
    print("%s is Python " % sys.argv[1] + version)
    sys.exit()
try:
    import ensurepip, venv
except ImportError as error:
    print("%s (Python %s) lacks the module %s (Debian: apt install python%s-venv)"
          % (sys.argv[1], version, str(error).split()[-1], version))
' "$1" 2>/dev/null || echo "'$1' does not run"
}

find_python() {
    local candidate reason first=""
    for candidate in ${PYTHON:-python3 python python3.13 python3.12 python3.11 python3.10}; do
        reason=$(why_not "$candidate")
        if [ -z "$reason" ]; then
            echo "$candidate"
            return
        fi
        case $reason in "there is no"*) ;; *) first=${first:-$reason} ;; esac
        [ -n "${PYTHON:-}" ] && first=$reason
    done
    fail "Python 3.10 to 3.13 is needed: ${first:-no Python is on the PATH}. Name one with: make PYTHON=/path/to/python3.12 ..."
}

make_venv() {
    local python reason
    # Written by a killed run, or not an environment at all: begin anew rather than trust half of it.
    if [ -e "$busy" ] || { [ -e "$venv" ] && ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; }; then
        echo "halonet: $venv is incomplete (an earlier set-up was interrupted?), making it afresh"
        rm -rf "$venv" || fail "cannot remove $venv"
    fi
    if [ -e "$venv" ]; then
        if [ -n "${PYTHON:-}" ]; then
            reason=$(why_not "$PYTHON")
            [ -z "$reason" ] || fail "Python 3.10 to 3.13 is needed: $reason"
            [ "$(version_of "$PYTHON")" = "$(version_of "$venv/bin/python")" ] && return
            echo "halonet: $venv has another Python than PYTHON=$PYTHON, making it afresh"
            rm -rf "$venv" || fail "cannot remove $venv"
        else
            return
        fi
    fi
    python=$(find_python) || exit 1
    "$python" -m venv "$venv" >/dev/null 2>&1 || {
        rm -rf "$venv"
        fail "'$python -m venv $venv' failed: is the disk full, or the folder not writable?"
    }
}

version_of() {
    "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])'
}

# Turns pip's pages of trouble into one line.
explain_pip() {
    local needle='Temporary failure in name resolution|Failed to establish a new connection|Max retries exceeded|ProxyError|Cannot connect to proxy|ConnectTimeout|Read timed out|NewConnectionError|ConnectionReset|Connection refused|SSLError|Network is unreachable'
    if grep -qs 'No space left on device' "$log"; then
        fail "the disk is full: the environment takes about 6 GB in $venv (details: $log)"
    elif grep -Eqs "$needle" "$log"; then
        fail "the package registry cannot be reached: check the network, the proxy and 'pip config list' (details: $log)"
    fi
    fail "pip could not install: $(grep -s '^ERROR' "$errors" | tail -n 1 | cut -c8-200) (details: $log)"
}

install() {
    local quiet=()
    [ -t 1 ] || quiet=(--quiet)
    "$venv/bin/python" -m pip install ${quiet[@]+"${quiet[@]}"} --disable-pip-version-check --no-input -c constraints.txt --log "$log" "$@" \
        2>"$errors" || explain_pip
}

make_venv
rm -f "$log"
echo "halonet: installing into $venv ($(version_of "$venv/bin/python" | sed 's/^/Python /'); the first time about 6 GB, a few minutes)"
# On a signal the mark stays, so that the next run does not trust what was half written; an orderly failure clears it.
trap 'exit 130' INT TERM HUP
touch "$busy" || fail "cannot write in $venv"
trap 'status=$?; [ $status -ge 128 ] || rm -f "$busy"; exit $status' EXIT
# The build tool first and pinned too, so that nothing unpinned is fetched behind pip's back.
install "setuptools>=77.0.3"
install --no-build-isolation -e ".[$extras]"
rm -f "$log" "$errors"
