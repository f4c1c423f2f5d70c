#!/usr/bin/env bash
# SALSA from scratch, in minutes on two CPU cores: toy data, two SFT models, their soup, a reward
# model, PPO with the soup as reference, plain PPO, and a comparison of the two.
#
#     bash examples/quickstart.sh [FOLDER]        writes into FOLDER, ./quickstart by default
#
# Sets up .venv on first use. PYTHON chooses the interpreter; pip's own settings pass through.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
examples=$root/examples
out=${1:-quickstart}

fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
[ ! -e "$out" ] || fail "$out already exists; delete it, or name another folder: bash $0 FOLDER"
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version) is too old; salsa needs Python 3.11 or newer (set PYTHON)"

bold='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\033[1m' plain=$'\033[0m'; fi
show() { printf '\n%s$ %s%s\n' "$bold" "$*" "$plain"; }
run() { show "$@"; "$@"; }

[ -x "$root/.venv/bin/python" ] || run "$python" -m venv "$root/.venv"
PATH=$root/.venv/bin:$PATH
run python -m pip install --disable-pip-version-check --editable "$root"

# A second thread does not help models this small.
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_DISABLE_PROGRESS_BARS=1
mkdir -p "$out"
cd "$out"
began=$SECONDS

run python "$examples/world.py" world
# Two SFT models of the same base, trained on different data in parallel, one per core. Few rows and
# many epochs take them so far apart that their soup is better than both, as SALSA presupposes.
sft=(python "$examples/sft.py" world/base --data world/sft.jsonl --epochs 12 --learning-rate 6e-3)
show "${sft[@]}" --seed 1 --share 1/6 -o sft-a "> sft-a.log &"
"${sft[@]}" --seed 1 --share 1/6 -o sft-a > sft-a.log 2>&1 &
run "${sft[@]}" --seed 5 --share 5/6 -o sft-b
wait $! || { cat sft-a.log; fail "the first SFT model failed"; }
run python "$examples/preferences.py" sft-a --prompts world/prompts.jsonl -o prefs.jsonl

# Settings of all commands. Flags and variables such as SALSA_PPO_UPDATES override them.
cat > salsa.toml <<END
[train-rm]
data = "prefs.jsonl"
epochs = 2
learning_rate = 1e-3

[ppo]
reward = "rm/"
prompts = "world/prompts.jsonl"
kl_coef = 0.02  # best of three for both references, by examples/sweep.sh on world/tune.jsonl
updates = 20
response_length = 64
learning_rate = 5e-4
critic_learning_rate = 1e-3
lambda = 1
schedule = "constant"

[eval]
prompts = "world/heldout.jsonl"
response_length = 64
judge = ["rm:rm/", "python:$examples/gold.py:score"]
END
run cat salsa.toml

run salsa soup sft-a/ sft-b/ --alpha 0.5 -o ref/
# Before RL, on prompts for choosing settings: is the soup better than its ingredients?
run salsa eval ref/ sft-a/ sft-b/ --prompts world/tune.jsonl --judge "python:$examples/gold.py:score" -o before/
run salsa train-rm sft-a/ -o rm/
run salsa ppo --ref ref/ -o salsa/
run salsa ppo --ref sft-a/ -o ppo/
run salsa eval salsa/ ppo/ sft-a/ -o results/

printf '\nDone in %s s. In %s:\n' "$((SECONDS - began))" "$PWD"
cat <<'END'
  salsa.toml      the settings of the commands
  ref/            the soup of sft-a/ and sft-b/; soup.json says how it was made
  before/         the soup compared with its ingredients, before RL
  rm/             the reward model
  salsa/, ppo/    the two policies, each with report.html, metrics.jsonl and samples.jsonl
  results/        report.html, results.json, the answers, every verdict
One run with one seed is weak evidence; check the intervals before you draw conclusions.
END
