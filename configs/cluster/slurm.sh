#!/bin/bash
# A run on Slurm: one Ray node on each node of the job, the run's driver on the first.
#   sbatch configs/cluster/slurm.sh configs/dclm_mix.yaml --profile full --out /shared/runs/dclm_mix
# The run's folder is on a file system that all nodes mount at the same path, or on S3; so are .venv and this checkout.
#SBATCH --job-name=headrace
#SBATCH --nodes=20
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=24:00:00
set -euo pipefail
source .venv/bin/activate
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(getent ahostsv4 "$head" | awk 'NR == 1 { print $1 }'):6379
export HEADRACE_CACHE=${HEADRACE_CACHE:-/tmp/headrace-$SLURM_JOB_ID}
# Ray keeps 30% of a node's memory unless told otherwise, and Headrace moves no documents through its object store.
srun ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus="$SLURM_CPUS_PER_TASK" --object-store-memory=2000000000 -- \
    python -m pipeline run "$@" --address "$address"
