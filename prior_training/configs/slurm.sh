#!/bin/bash
# Two nodes of 8 GPUs under SLURM. Before the time is up SLURM sends SIGTERM to every process; the training writes a
# checkpoint and ends, and the job is put in the queue again, where --resume goes on.
#   sbatch prior_training/configs/slurm.sh --preset sdxl --shards /data/shards --out /data/prior
#SBATCH --job-name=fusion-prior
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
arguments=("$@")
srun --kill-on-bad-exit=1 bash -c 'exec accelerate launch --config_file prior_training/configs/ddp_2nodes.yaml \
    --num_machines "$SLURM_NNODES" --num_processes "$((SLURM_NNODES * SLURM_GPUS_ON_NODE))" \
    --machine_rank "$SLURM_NODEID" --main_process_ip "$0" prior_training/train.py --resume "$@"' \
    "$first" "${arguments[@]}"
code=$?
out=$(printf '%s\n' "${arguments[@]}" | grep -A1 -x -- --out | tail -n 1)
if [ "$code" -ne 0 ] && [ -n "$out" ] && [ ! -e "$out/metrics.json" ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 20 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
