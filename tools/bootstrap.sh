#!/bin/sh
# Set up .venv with OmniQ in it: `tools/bootstrap.sh runtime` or `tools/bootstrap.sh dev`.
#
# It needs a Python >= 3.13 somewhere and either uv, or pip for that Python. What it installs goes
# into .venv and .tools of this folder; the Python that it found is only run, never changed.
# PYTHON=/path/to/python chooses the interpreter.
set -eu
cd "$(dirname "$0")/.."

# Trust the certificates that this machine trusts, as behind a proxy that signs with its own.
export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-1}"
export UV_PYTHON_DOWNLOADS="${UV_PYTHON_DOWNLOADS:-never}"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# The interpreter itself is printed, not the name it was found by: a pyenv shim means another
# interpreter in another folder.
resolve() {
    "$1" -c 'import sys; sys.version_info >= (3, 13) or sys.exit(1); print(sys.executable)' 2>/dev/null
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        resolve "$PYTHON" && return
        echo "PYTHON=$PYTHON is not a Python >= 3.13." >&2
        return 1
    fi
    for name in python3.13 python3.14 python3.15 python3 python \
        "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.1[3-9]*/bin/python; do
        resolve "$name" && return
    done
    echo "OmniQ needs Python >= 3.13, and none was found as python3.13, python3.14, python3.15," \
        "python3, python or in pyenv. Next: install one, or name it: make PYTHON=/path/to/python" >&2
    return 1
}

# A name on PATH is no proof: a pyenv shim of uv fails under another Python. An old uv does not
# know the options that we use.
is_usable_uv() {
    options=$("$1" pip install --help 2>/dev/null) || return 1
    case $options in *--group*--system-certs* | *--system-certs*--group*) return 0 ;; esac
    return 1
}

find_uv() {
    for name in uv .tools/bin/uv; do
        if is_usable_uv "$name"; then
            echo "$name"
            return
        fi
    done
    python=$(find_python)
    echo "Installing uv into .tools" >&2
    rm -rf .tools
    # --target needs neither a venv nor the right to change the Python that runs pip.
    "$python" -m pip install --quiet --target .tools 'uv>=0.13,<1' >&2
    echo .tools/bin/uv
}

case "${1:-}" in
    runtime) packages='--editable .' ;;
    dev) packages='--editable . --group dev' ;;
    *)
        echo "usage: tools/bootstrap.sh runtime|dev" >&2
        exit 2
        ;;
esac

uv=$(find_uv)
if ! resolve .venv/bin/python >/dev/null; then
    python=$(find_python)
    echo "Creating .venv with $python"
    "$uv" venv --quiet --clear --python "$python" .venv
fi
echo "Installing OmniQ into .venv ($1)"
# shellcheck disable=SC2086 # several words on purpose
"$uv" pip install --quiet --python .venv/bin/python $packages
touch .venv/.installed-runtime ".venv/.installed-$1"
