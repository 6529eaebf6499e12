#!/usr/bin/env bash
# A training run on GPU nodes. Filled in by `python -m launch.job slurm`.
# One process per node drives all of its GPUs: JAX would give it only the first, so they are named below. It finds the
# other nodes through Slurm. Some minutes before its time is up Slurm sends SIGTERM: the run saves and ends with exit code
# 75, and this job goes back into the queue.
#SBATCH --job-name=$name
#SBATCH --nodes=$nodes
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=$gpus
#SBATCH --cpus-per-task=$cpus
#SBATCH --time=$time
#SBATCH --signal=TERM@$grace
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=$name-%j.log
$extra
set -uo pipefail
cd $tree
export PATH="$$PWD/.venv/bin:$$PATH"
export JAX_LOCAL_DEVICE_IDS=$devices
rc=0
srun --kill-on-bad-exit=0 $command || rc=$$?
if [ "$$rc" -eq 75 ]; then
  scontrol requeue "$$SLURM_JOB_ID"
fi
exit "$$rc"
