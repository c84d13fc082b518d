#!/bin/bash
# Maps of a folder by an array of eight jobs, one GPU each; then one job that joins them:
#   jid=$(sbatch --parsable slurm.sh) && sbatch --dependency=afterany:$jid --wrap 'cnnviz merge maps'
#SBATCH --job-name=maps
#SBATCH --array=0-7
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
# A job that is preempted begins again where it was.
#SBATCH --requeue
set -euo pipefail
cnnviz gradcam /data/photos -m resnet50 -o maps --shard auto --resume
