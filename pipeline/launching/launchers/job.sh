#!/bin/bash
# The batch script of one target of `python -m commands.launch`: job.sh BIN RECORD RESTARTS COMMAND...
# After a time limit, a preemption or the loss of a node, Slurm runs it anew and the training goes on from its last state.
bin=$1 record=$2 restarts=$3
shift 3

export PATH=$bin:$PATH
if [ -n "$SLURM_CPUS_PER_TASK" ]; then
    export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # srun does not take it from sbatch since Slurm 22.05
    half=$((SLURM_CPUS_PER_TASK / CONTRASTMASK_PROCESSES / 2))
    export CONTRASTMASK_WORKERS=${CONTRASTMASK_WORKERS:-$((half > 1 ? half : 1))}
fi
eval "$CONTRASTMASK_PROLOGUE"

start=$((${SLURM_RESTART_COUNT:-0} + 1))
tell() { echo "$(date '+%F %T') job $SLURM_JOB_ID, start $start, on $SLURM_JOB_NODELIST: $*"; }
record() { echo "$SLURM_JOB_ID $1" >"$record.part" && mv "$record.part" "$record"; }
# SIGTERM to what DVC runs, not to DVC itself, which then notes that its stage failed and lets go of its locks.
stop() { pgrep -g "$step" | grep -vx "$step" | xargs -r kill -TERM 2>/dev/null; }
trap 'reason=limit; stop' USR1
trap 'reason=${reason:-slurm}; stop' TERM

tell "$*"
record
set -m # a process group of its own for the command
"$@" &
step=$!
wait "$step"
status=$?
if [ -n "$reason" ]; then
    while kill -0 "$step" 2>/dev/null; do
        timeout 10 tail --pid="$step" -f /dev/null || stop
    done
    wait "$step"
    status=$?
fi

if [ "$status" -ne 0 ] && [ "$reason" = limit ] && [ "$start" -le "$restarts" ]; then
    tell "the time limit is near: back into the queue"
    trap '' TERM # which Slurm now sends, to scontrol too
    scontrol requeue "$SLURM_JOB_ID" && exit "$status"
elif [ "$status" -ne 0 ] && [ "$reason" = limit ]; then
    tell "the time limit is near, and $start starts were not enough (machine.yaml: slurm.restarts)"
elif [ "$status" -ne 0 ] && [ "$reason" = slurm ]; then
    tell "ended by Slurm" # cancelled or preempted: Slurm knows which; a job that ended by itself would not start anew
    trap '' TERM
    exec sleep 600
fi
record "$status"
tell "exit status $status"
exit "$status"
