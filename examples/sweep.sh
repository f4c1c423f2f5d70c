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
    arms+=("salsa-$coefficient=sweep/salsa-$coefficient/*@all" "ppo-$coefficient=sweep/ppo-$coefficient/*@all")
done
salsa eval "${arms[@]}" --anchors sft-a/ --max-prompts 100 --resume -o sweep/results
