#!/usr/bin/env bash
# Compare PPO with the soup as KL reference (salsa) and with the SFT model itself (ppo), at three KL
# coefficients with four seeds each.
#
#     bash examples/quickstart.sh             makes ./quickstart
#     bash examples/sweep.sh [FOLDER]         ./quickstart by default
#
# Every run is a separate command. After an interruption, run the script again: it resumes where it
# stopped. Set SEEDS, COEFFICIENTS and JOBS (number of simultaneous runs) to change the sweep.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "${1:-quickstart}"
PATH=$root/.venv/bin:$PATH
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false  # models this small use one core each

seeds=${SEEDS:-1 2 3 4} coefficients=${COEFFICIENTS:-0.02 0.05 0.15} jobs=${JOBS:-$(nproc)}
mkdir -p sweep/logs

train() { # ARM COEFFICIENT SEED
    local run=$1-$2/seed-$3 ref=sft-a/
    [ "$1" = ppo ] || ref=ref/
    mkdir -p "sweep/$1-$2"
    salsa ppo --ref "$ref" --kl-coef "$2" --seed "$3" --updates 20 --snapshot-every 5 \
        --resume -o "sweep/$run" > "sweep/logs/${run/\//-}.log" 2>&1 ||
        { echo "sweep/$run failed:" >&2; tail -n 5 "sweep/logs/${run/\//-}.log" >&2; return 255; }
    echo "sweep/$run done"
}
export -f train

# xargs stops at the first run that fails (255).
for seed in $seeds; do
    for coefficient in $coefficients; do
        printf '%s %s %s\n' salsa "$coefficient" "$seed" ppo "$coefficient" "$seed"
    done
done | xargs -P "$jobs" -L 1 bash -c 'train "$@"' train

arms=()
for coefficient in $coefficients; do
    arms+=("salsa-$coefficient=sweep/salsa-$coefficient/*" "ppo-$coefficient=sweep/ppo-$coefficient/*")
done
gold=python:$root/examples/gold.py:score

# Each method gets the coefficient that is best for it, by gold on prompts that decide nothing else.
salsa eval "${arms[@]}" --prompts world/tune.jsonl --judge "$gold" --quiet --resume -o sweep/tune
read -r salsa ppo < <(python - <<'END'
import json

rows = json.load(open("sweep/tune/results.json"))["arms"]["rows"]
chosen = []
for method in "salsa-", "ppo-":
    own = [row for row in rows if row["arm"].startswith(method)]
    best = max(own, key=lambda row: row["score"])
    chosen.append(best["arm"].removeprefix(method))
print(*chosen)
END
)
echo "chosen on world/tune.jsonl: --kl-coef $salsa for salsa, $ppo for ppo"

salsa eval "${arms[@]/%/@all}" --anchors sft-a/ --max-prompts 100 --quiet --resume -o sweep/results
salsa eval "salsa=sweep/salsa-$salsa/*" "ppo=sweep/ppo-$ppo/*" --judge "$gold" --resume -o sweep/chosen
