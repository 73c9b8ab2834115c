#!/usr/bin/env bash
# All that a GPU can show within a quarter of an hour; without one the same checks, small, on a CPU.
# `tests/system/gpu/run.sh [--help]`; PYTHON names the interpreter (torch, transformers and numba).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
python=${PYTHON:-python3}
command -v "$python" >/dev/null || { echo "run.sh: no $python; set PYTHON=/path/to/python3" >&2; exit 2; }
export CUBLAS_WORKSPACE_CONFIG=:4096:8 TOKENIZERS_PARALLELISM=false PYTHONNOUSERSITE=1
PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" exec "$python" tests/system/gpu/checks.py "$@"
