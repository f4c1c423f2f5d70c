#!/usr/bin/env bash
# `salsa ppo` on two machines, which are two network namespaces with a cable (veth) between them.
# Needs root and iproute2; skips otherwise. PYTHON chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
export PYTHONPATH=$PWD OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} COLUMNS=200

skip() { echo "skipped: $*"; exit 0; }
fail() { echo "FAILED: $*" >&2; tail -n 20 "$work"/*.log >&2; exit 1; }
[ "$(uname)" = Linux ] || skip "it needs Linux"
[ "$(id -u)" = 0 ] || skip "it needs root, to create network namespaces"
command -v ip > /dev/null || skip "it needs ip (iproute2)"

tag=salsa$$
work=$(mktemp -d)
cleanup() {
    for machine in 0 1; do ip netns delete "$tag-$machine" 2> /dev/null || true; done
    rm -rf "$work"
}
trap cleanup EXIT
ip netns add "$tag-0" 2> /dev/null || skip "network namespaces are not permitted here"
ip netns add "$tag-1"
ip link add eth-0 netns "$tag-0" type veth peer name eth-1 netns "$tag-1"
for machine in 0 1; do
    ip -n "$tag-$machine" address add "10.77.0.$((machine + 1))/24" dev "eth-$machine"
    ip -n "$tag-$machine" link set "eth-$machine" up
    ip -n "$tag-$machine" link set lo up
done

"$python" - "$work" << 'END'
import sys
from pathlib import Path

from tests.support import worlds

worlds.make(Path(sys.argv[1]))
END
updates=10
ppo=(ppo --ref "$work/soup" --reward "$work/rm" --prompts "$work/prompts.jsonl" --device cpu
    --batch-size 8 --minibatches 2 --response-length 6 --learning-rate 1e-3 --save-every 2)

# on MACHINE COMMAND...: become the command on that machine, with gloo on its network interface.
on() {
    local machine=$1
    shift
    exec ip netns exec "$tag-$machine" env GLOO_SOCKET_IFNAME="eth-$machine" "$@"
}
# by_torchrun MACHINE ARGUMENTS...
by_torchrun() {
    on "$1" "$python" -m torch.distributed.run --nnodes 2 --nproc_per_node 1 --node_rank "$1" \
        --master_addr 10.77.0.1 --master_port 29500 -m salsa_cli "${ppo[@]}" "${@:2}"
}
# by_accelerate MACHINE KIND ARGUMENTS...
by_accelerate() {
    on "$1" "$python" -m accelerate.commands.launch "$2" --num_machines 2 --num_processes 2 \
        --machine_rank "$1" --main_process_ip 10.77.0.1 --main_process_port 29500 \
        --mixed_precision no --dynamo_backend no -m salsa_cli "${ppo[@]}" "${@:3}"
}
# together NAME COMMAND...: the command on both machines; the status of both in `codes`.
together() {
    local name=$1 machine
    shift
    jobs=() codes=()
    for machine in 0 1; do
        "$1" "$machine" "${@:2}" > "$work/$name-$machine.log" 2>&1 &
        jobs+=($!)
    done
    for machine in 0 1; do
        wait "${jobs[$machine]}" && codes+=(0) || codes+=($?)
    done
}
# same NAME: the metrics of that run are those of two processes on one machine.
same() {
    "$python" - "$work/one" "$work/$1" << 'END'
import json
import sys


def rows(folder):
    with open(f"{folder}/metrics.jsonl", encoding="utf-8") as file:
        return [{k: v for k, v in json.loads(line).items() if k != "time"} for line in file]


def gap(a, b):
    """The largest difference of two numbers, relative where they are above 1."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        return max((gap(a[name], b[name]) for name in a), default=0.0)
    if isinstance(a, int | float) and not isinstance(a, bool):
        return abs(a - b) / max(1.0, abs(a))
    assert a == b, (a, b)
    return 0.0


one, other = map(rows, sys.argv[1:])
assert len(one) == len(other), (len(one), len(other))
most = max(map(gap, one, other))
print(f"{sys.argv[2].rpartition('/')[2]}: {len(one)} updates, largest difference {most:.1e}")
sys.exit(most > 1e-6)
END
}

"$python" -m salsa_cli "${ppo[@]}" --processes 2 --updates "$updates" -o "$work/one" -q > "$work/one.log" 2>&1 || fail one

together torchrun by_torchrun --updates "$updates" -o "$work/torchrun"
same torchrun || fail "torchrun (${codes[*]})"

together accelerate by_accelerate --multi_gpu --updates "$updates" -o "$work/accelerate"
same accelerate || fail "accelerate launch (${codes[*]})"

together lonely by_accelerate --cpu --updates "$updates" -o "$work/lonely"
for machine in 0 1; do
    grep -q "has started this one alone" "$work/lonely-$machine.log" || fail "two lonely runs"
done
[ ! -e "$work/lonely" ] || fail "a lonely run finished"
echo "accelerate launch --cpu: both processes are refused"

# SIGTERM to the launcher on the machine of rank 0: both stop with a checkpoint.
by_torchrun 0 --updates "$updates" -o "$work/stopped" > "$work/stopped-0.log" 2>&1 &
first=$!
by_torchrun 1 --updates "$updates" -o "$work/stopped" > "$work/stopped-1.log" 2>&1 &
second=$!
metrics=$work/stopped.partial/metrics.jsonl
until [ -s "$metrics" ] && [ "$(wc -l < "$metrics")" -ge 3 ]; do
    kill -0 $first 2> /dev/null || fail "the run to be stopped"
    sleep 0.05
done
kill -TERM $first
wait $first && fail "the launcher that got SIGTERM says success" || true
wait $second && fail "the other launcher says success" || true
[ -n "$(ls "$work/stopped.partial/checkpoints")" ] || fail "there is no checkpoint"
echo "SIGTERM: stopped after $(wc -l < "$metrics") updates"
together stopped by_torchrun --updates "$updates" -o "$work/stopped" --resume
same stopped || fail "the resumed run (${codes[*]})"

# Without GLOO_SOCKET_IFNAME, where the host name is one of loopback.
without() {
    exec ip netns exec "$tag-$1" unshare --uts --mount bash -c '
        hostname loopback.test
        echo "127.0.0.1 loopback.test" > "$1/hosts" && mount --bind "$1/hosts" /etc/hosts
        export RANK=$2 WORLD_SIZE=2 LOCAL_RANK=0 LOCAL_WORLD_SIZE=1
        export MASTER_ADDR=10.77.0.1 MASTER_PORT=29500
        exec "${@:3}"' bash "$work" "$1" "$python" -m salsa_cli "${ppo[@]}" -o "$work/without"
}
unset GLOO_SOCKET_IFNAME
together without without
for machine in 0 1; do
    grep -q "set GLOO_SOCKET_IFNAME .*found here: eth-$machine" "$work/without-$machine.log" ||
        fail "GLOO_SOCKET_IFNAME is not mentioned"
done
echo "without GLOO_SOCKET_IFNAME: both processes say that it is needed"
