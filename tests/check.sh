#!/usr/bin/env bash
# Everything that must hold before a change lands: format, lint, types, imports, and the tests that
# are not marked slow. With -m slow: those; with -m "": all.
# Sets up .venv on first use. PYTHON chooses the interpreter; pip's own settings pass through.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: $("$python" --version) is too old; salsa needs Python 3.11 or newer (set PYTHON)" >&2
    exit 1
fi
step() { printf '\n== %s\n' "$*"; "$@"; }

[ -x .venv/bin/python ] || step "$python" -m venv .venv
PATH="$PWD/.venv/bin:$PATH"
step python -m pip install --quiet --disable-pip-version-check --editable '.[check]'
step ruff format --check .
step ruff check .
step mypy
step lint-imports
step python -m pytest --numprocesses 2 --durations 5 -m "not slow" "$@"
