#!/usr/bin/env bash
# One command, at most 7 minutes on an H100: everything that only a GPU can show. See docs/gpu.md.
#   tests/gpu/run.sh [OUTPUT] [--tiny] [--only PART]     gpu.json in OUTPUT (left out: $OUT, else out/gpu)
# Nothing is fetched. What python3 lacks is taken from wheels/, if there is such a folder, and put into out/, not into
# the Python that runs. PYTHON names another interpreter.
set -euo pipefail
cd "$(dirname "$0")/../.."
output=${OUT:-out/gpu}
if [ $# -gt 0 ] && [ "${1#--}" = "$1" ]; then output=$1; shift; fi
python=${PYTHON:-python3}
if [ -z "${PYTHON:-}" ] && [ -x .venv/bin/python ]; then python=.venv/bin/python; fi
export HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
wheels=$(find wheels -name '*.whl' ! -name 'open_clip_torch-*' 2>/dev/null || true)
if [ -n "$wheels" ]; then
    # shellcheck disable=SC2086
    "$python" -m pip install --quiet --no-index --no-deps --upgrade --target out/gpu-packages $wheels
    export PYTHONPATH="$PWD/out/gpu-packages${PYTHONPATH:+:$PYTHONPATH}"
fi
limit=""
if command -v timeout >/dev/null; then limit="timeout 420"; fi
exec $limit "$python" -m tests.gpu.run --output "$output" "$@"
