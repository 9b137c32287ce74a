#!/usr/bin/env bash
# A build on Slurm: brings a Ray cluster up over the allocation, builds, and goes on from there when it is requeued.
#
#   sbatch slurm.sh
#
# Written by `cdgen init RECIPE --builder slurm`. Change three things: how much to ask Slurm for, how this machine finds
# cdgen, and what is built.

# ---- 1. What Slurm is asked for -------------------------------------------------------------------------------------
#SBATCH --job-name=cdgen
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
# Add --partition and --account where your site wants them. The rest keeps a build alive:
#SBATCH --output=cdgen-%j.log
#SBATCH --open-mode=append
#SBATCH --no-kill
#SBATCH --requeue
#SBATCH --signal=B:TERM@180
# append: a requeued job goes on in the same log. no-kill: one broken node does not end the job, its work is done again
# by the others. signal: 180 s before the time is up this script is told; it stops the build and requeues the job.

set -euo pipefail

# ---- 2. How a node finds cdgen; the folder must be on a file system that all nodes share ------------------------------
# shellcheck disable=SC1091
source "${CDGEN_ENV:-.venv}/bin/activate"

# ---- 3. What is built. The output folder must be shared too, or an address such as s3://bucket/tales -----------------
RECIPE="${RECIPE:-recipe.yaml}"
BUILDER="${BUILDER:-slurm.yaml}"
OUT="${OUT:-shards/$(basename "$RECIPE" .yaml)}"

# ---- Nothing below needs a change -------------------------------------------------------------------------------------

: "${SLURM_JOB_ID:?is not set: start this script with sbatch}"
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]} # this script runs there too: Slurm starts a batch script on the first node
workers=("${nodes[@]:1}")
job="${SLURM_JOB_ID}-${SLURM_RESTART_COUNT:-0}"

# Short, since the path of a Unix socket ends at 107 bytes; one's own, since /tmp/ray may be another user's.
export CDGEN_RAY_TMP="${CDGEN_RAY_TMP:-/tmp/cdgen-$UID-$job}"

# Free ports of this very node, so that other clusters on it, other users' or one's own, do not matter.
mapfile -t ports < <(python - <<'PYTHON'
import socket
held = [socket.socket() for _ in range(3)]
for one in held:
    one.bind(("", 0))
    print(one.getsockname()[1])
PYTHON
)
# The head's address as the last node sees it: on the head itself its name is often 127.0.1.1. HEAD_IP overrides it,
# where a node has several networks.
ip=${HEAD_IP:-$(srun --nodes=1 --ntasks=1 --nodelist="${nodes[-1]}" getent ahostsv4 "$head" | awk 'NR == 1 {print $1}')}
[[ -n $ip ]] || { echo "slurm.sh: no address of $head is known; set HEAD_IP" >&2; exit 1; }
export RAY_ADDRESS="$ip:${ports[0]}" # `address: auto` of the builder profile means this one

# Without a token everybody who reaches these ports could run programs as this user.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
ray_log="cdgen-$SLURM_JOB_ID-ray.log" # what Ray says of itself; Slurm's log is the build's

# One Ray node, in the foreground: it ends with its Slurm step, and so `ray stop`, which would stop every cluster of
# this user on the node, is never needed. It offers what Slurm gave to this step, not what the whole machine has.
# shellcheck disable=SC2329 # the steps call it
ray_node() {
    local give=(--num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}")
    if [[ -n ${SLURM_MEM_PER_NODE:-} && $SLURM_MEM_PER_NODE -gt 0 ]]; then
        give+=(--memory="$((SLURM_MEM_PER_NODE * 1024 * 1024 * 4 / 5))") # Slurm counts in MiB
    fi
    # Worker ports chosen by the system: Ray's default range belongs to whoever came first.
    exec ray start --block --disable-usage-stats "${give[@]}" \
        --object-store-memory="${CDGEN_OBJECT_STORE_BYTES:-1000000000}" \
        --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0 "$@"
}
export -f ray_node

# A step that is started by name: "step NODES NODE,NODE COMMAND...". --wait=0: the end of one task is not the end of
# the others. --kill-on-bad-exit=0: nor is its failure. --cpus-per-task: srun no longer takes it from sbatch.
step() {
    local count=$1 list=$2
    shift 2
    srun --nodes="$count" --ntasks="$count" --ntasks-per-node=1 --nodelist="$list" --wait=0 --kill-on-bad-exit=0 \
        ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} "$@" >>"$ray_log" 2>&1 &
    steps+=($!)
}

steps=()
build=
stopping=

stop_cluster() { # only the steps of this job
    trap - EXIT
    local last
    for ((last = ${#steps[@]} - 1; last >= 0; last--)); do # the head last: a node asks it for leave to go
        kill -TERM "${steps[last]}" 2>/dev/null || true
        wait "${steps[last]}" 2>/dev/null || true
    done
    for _ in 1 2 3 4 5; do # the last of Ray may still write there; a folder that stays is no reason not to be requeued
        rm -rf "$CDGEN_RAY_TMP" 2>/dev/null && break
        sleep 1
    done
}
trap stop_cluster EXIT

# shellcheck disable=SC2329 # the trap calls it
drain() { # the time is up, or somebody with a higher priority wants the nodes
    stopping=1
    echo "slurm.sh: told to stop; what is finished stays, the job is requeued" >&2
    [[ -z $build ]] || kill -TERM "$build" 2>/dev/null || true
}
trap drain TERM USR1

# The variables are the node's own, hence the single quotes.
# shellcheck disable=SC2016
step 1 "$head" bash -c 'ray_node --head --node-ip-address="$1" --port="$2" --dashboard-port="$3" \
    --ray-client-server-port="$4" --temp-dir="$CDGEN_RAY_TMP"' ray-head "$ip" "${ports[@]}"
until ray health-check --address "$RAY_ADDRESS" >/dev/null 2>&1; do
    kill -0 "${steps[0]}" 2>/dev/null || { echo "slurm.sh: Ray did not start on $head: see $ray_log" >&2; exit 1; }
    [[ -z $stopping ]] || break
    sleep 1
done
if ((${#workers[@]})) && [[ -z $stopping ]]; then
    # shellcheck disable=SC2016
    step "${#workers[@]}" "$(IFS=,; echo "${workers[*]}")" bash -c 'ray_node --address="$RAY_ADDRESS"'
fi

status=143
if [[ -z $stopping ]]; then
    echo "slurm.sh: Ray at $RAY_ADDRESS on ${#nodes[@]} nodes, its dashboard on $head at port ${ports[1]}" >&2
    cdgen build "$RECIPE" --builder "$BUILDER" --out "$OUT" &
    build=$!
    while status=0; wait "$build" || status=$?; kill -0 "$build" 2>/dev/null; do :; done # a trap ends `wait` early
fi

stop_cluster
if [[ -n $stopping && $status -ne 0 ]]; then
    scontrol requeue "$SLURM_JOB_ID" # the same command goes on from the finished shards
fi
exit "$status"
