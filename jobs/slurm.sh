#!/bin/bash
# A study on Slurm's nodes, as one Ray cluster that lives as long as the job:
#
#   sbatch jobs/slurm.sh jobs/mnist_to_usps.yaml
#
# Submitted again, it goes on where the last job ended. The environment and the study's storage must be
# on a file system that all nodes see.
#SBATCH --job-name=gam-ray
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
# Ray is stopped on the whole node at the end, whoever started it.
#SBATCH --exclusive
#SBATCH --time=24:00:00
set -euo pipefail

study=$1
export PATH=${VENV:-$PWD/.venv}/bin:$PATH
# Only this job may send work to its cluster.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
export RAY_AUTH_TOKEN
# Seconds to wait for all nodes: importing from a shared file system takes its time.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --kill-on-bad-exit=0 ray symmetric-run \
    --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus "$SLURM_CPUS_PER_TASK" \
    -- gam-ray run "$study" --address auto
