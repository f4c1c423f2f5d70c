#!/usr/bin/env bash
# SALSA from nothing, in minutes on two CPU cores: a small world, two SFT models, their soup, a
# reward model, PPO held near the soup, plain PPO beside it, and who wins.
#
#     bash examples/quickstart.sh [FOLDER]        writes into FOLDER, ./quickstart by default
#
# Sets up .venv on first use. PYTHON chooses the interpreter; pip's own settings pass through.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-quickstart}

fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
[ ! -e "$out" ] || fail "$out exists already; delete it, or name another folder: bash $0 FOLDER"
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version) is too old; salsa needs Python 3.11 or newer (set PYTHON)"

bold='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\033[1m' plain=$'\033[0m'; fi
# Show a command as it would be typed, then run it.
run() { printf '\n%s$ %s%s\n' "$bold" "$*" "$plain"; "$@"; }

venv=$here/../.venv
[ -x "$venv/bin/python" ] || run "$python" -m venv "$venv"
PATH=$(cd "$venv/bin" && pwd):$PATH
run python -m pip install --quiet --disable-pip-version-check --editable "$here/.."

# Models this small gain nothing from a second thread.
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
mkdir -p "$out"
cd "$out"
began=$SECONDS

run python "$here/world.py" world
run python "$here/sft.py" world/base --data world/sft.jsonl --seed 1 --share 1/2 -o sft-a > sft-a.log &
run python "$here/sft.py" world/base --data world/sft.jsonl --seed 2 --share 2/2 -o sft-b
wait $!
run python "$here/preferences.py" sft-a --prompts world/prompts.jsonl -o prefs.jsonl

settings=(--updates 30 --response-length 64 --learning-rate 5e-4 --critic-learning-rate 1e-3
    --lambda 1 --schedule constant)
run salsa soup sft-a/ sft-b/ --alpha 0.5 -o ref/
run salsa train-rm sft-a/ --data prefs.jsonl --epochs 2 --learning-rate 1e-3 -o rm/
run salsa ppo --ref ref/ --reward rm/ --prompts world/prompts.jsonl "${settings[@]}" -o salsa/
run salsa ppo --ref sft-a/ --reward rm/ --prompts world/prompts.jsonl "${settings[@]}" -o ppo/
run salsa eval salsa/ ppo/ sft-a/ --prompts world/heldout.jsonl --response-length 64 \
    --judge rm:rm/ --judge "python:$here/gold.py:score" -o results/

printf '\nDone in %s s. In %s:\n' "$((SECONDS - began))" "$PWD"
cat <<'END'
  ref/            the soup of sft-a/ and sft-b/; soup.json says how it was made
  rm/             the reward model
  salsa/, ppo/    the two policies, each with metrics.jsonl and samples.jsonl
  results/        results.json, the answers, every verdict
One run on one seed proves little; look at the intervals before you believe a winner.
END
