#!/usr/bin/env bash
# Makes or updates .venv from the lock files; called by `make env`. Does nothing where .venv is
# complete and the lock unchanged.
#
#   TORCH=cpu|cuda  which build of torch (default: what .venv has, else cuda if a GPU is found)
#   PYTHON=path     a Python 3.11 (default: python3.11 or python3 on PATH, else fetched with uv)
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=$PWD/.venv
PATH=${PATH//"$venv/bin:"/} # never start from the environment being replaced
unset PYTHONPATH PYTHONHOME PIP_USER PIP_TARGET PIP_PREFIX # clusters set these for other Pythons
stamp=$venv/.complete # written last: an interrupted set-up is never taken for a complete one
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT

say() { printf 'env: %s\n' "$*" >&2; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Prints the path of a requirements file with the locked lines (version, hashes) of a package.
locked() {
    awk -v pin="$1==" '/^[A-Za-z0-9]/ { keep = index($0, pin) == 1 } keep' \
        envs/python.lock.txt >"$temporary/$1.txt"
    echo "$temporary/$1.txt"
}

digest() { { sha256sum 2>/dev/null || shasum -a 256; } | cut -c 1-64; }

is_python311() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; }

find_python311() {
    local candidate candidates=(python3.11 python3 python)
    [[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        if is_python311 "$candidate"; then
            echo "$candidate"
            return
        fi
    done
}

make_venv() {
    local python log=$temporary/venv.log
    python=$(find_python311)
    if [[ -z $python ]]; then
        [[ -z ${PYTHON:-} ]] || fail "PYTHON=$PYTHON is not a Python 3.11."
        make_venv_with_uv
        return
    fi
    say "making .venv with $python"
    "$python" -m venv --clear "$venv" >"$log" 2>&1 && return
    # Debian's python3.11 without python3.11-venv: its own pip can fill the venv from outside
    "$python" -m venv --clear --without-pip "$venv" >>"$log" 2>&1 &&
        "$python" -m pip --python "$venv/bin/python" install --quiet --no-deps \
            --require-hashes -r "$(locked pip)" >>"$log" 2>&1 && return
    cat "$log" >&2
    fail "$python cannot make a virtual environment: see above (Debian: apt install python3.11-venv)."
}

make_venv_with_uv() {
    local uv=uv
    say "no Python 3.11 on PATH; fetching one with uv"
    if ! command -v uv >/dev/null; then
        uv=$temporary/uv/bin/uv
        python3 -m pip install -qq --no-deps --require-hashes --target "$temporary/uv" \
            -r "$(locked uv)" 2>"$temporary/uv.log" || {
            tail -n 1 "$temporary/uv.log" >&2
            fail "Python 3.11 is needed, or any python3 with pip that can fetch it."
        }
    fi
    "$uv" venv --quiet --clear --seed --python 3.11 "$venv" >&2 ||
        fail "Python 3.11 is needed and uv could not get it: install it, or set PYTHON=/path/to/python3.11."
}

pip_install() {
    "$venv/bin/python" -m pip install -qq --no-deps --require-hashes --no-build-isolation \
        --no-compile "$@"
}

# PyPI's torch for Linux needs 3 GB of CUDA libraries, so a machine without a GPU takes the CPU
# build: from a folder its pip knows (find-links), else from PyTorch's own index.
install_cpu_torch() {
    [[ $(uname -s) == Linux ]] || return 0 # elsewhere PyPI's build is the CPU build
    local torch log=$temporary/torch.log
    torch=$(locked torch)
    say "installing torch for CPU"
    pip_install --no-index -r "$torch" >"$log" 2>&1 && return
    if grep 'OSError' "$log" >&2; then fail "torch could not be installed."; fi # a full disk, say
    pip_install --timeout 30 --index-url https://download.pytorch.org/whl/cpu -r "$torch" ||
        fail "no CPU build of torch from download.pytorch.org; TORCH=cuda takes PyPI's build instead."
}

# uv is several times faster but does not read pip's configuration: pip does the work where an
# index of its own is configured, and wherever uv fails.
install_locked() {
    local files=(-r envs/python.lock.txt)
    [[ $1 == cpu ]] || files+=(-r envs/cuda.lock.txt)
    say "installing the locked packages"
    if ! "$venv/bin/python" -m pip config list | grep -q '[.]index-url='; then
        "$venv/bin/uv" pip install --quiet --no-config --python "$venv/bin/python" --no-deps \
            --require-hashes --no-build-isolation "${files[@]}" && return
        say "uv failed; trying pip"
    fi
    pip_install "${files[@]}"
}

# Every step of the workflow is a process of its own. Where PYTHONDONTWRITEBYTECODE is set each
# would compile its imports again (scanpy: 3 s of CPU becomes 11 s); test folders are never run.
compile_bytecode() {
    say "compiling"
    # fails on files that are no valid Python, which some packages ship as templates
    "$venv/bin/python" -m compileall -qq -j 0 -x '/tests?/' "$venv/lib" >/dev/null || true
}

check() {
    "$venv/bin/python" -m pip check >&2 || fail "the installed packages do not fit together."
    [[ $1 == cpu ]] || "$venv/bin/python" -c 'import torch; assert torch.version.cuda' ||
        fail "TORCH=cuda, but the torch that pip found was not built for CUDA."
}

main() {
    local torch=${TORCH:-} present="" wanted lock
    [[ ! -f $stamp ]] || present=$(<"$stamp")
    torch=${torch:-${present%% *}}
    torch=${torch:-$(nvidia-smi -L >/dev/null 2>&1 && echo cuda || echo cpu)}
    [[ $torch == cpu || $torch == cuda ]] || fail "TORCH is '$torch'; it must be cpu or cuda."
    lock=$(cat envs/*.lock.txt envs/setup.sh pyproject.toml | digest)
    wanted="$torch $lock $venv"
    [[ $present != "$wanted" ]] || return 0
    rm -f "$stamp"
    if [[ $present != "$torch "*" $venv" ]] || ! is_python311 "$venv/bin/python"; then make_venv; fi
    pip_install -r "$(locked pip)" -r "$(locked setuptools)" -r "$(locked uv)"
    [[ $torch == cuda ]] || install_cpu_torch
    install_locked "$torch"
    "$venv/bin/python" -m pip install -qq --no-deps --no-build-isolation --editable .
    compile_bytecode
    check "$torch"
    echo "$wanted" >"$stamp"
    say "ready: $venv (torch for $torch)"
}

main
