#!/usr/bin/env bash
# A cohort on Slurm, of which a worker and the controller are killed.
#
#   apt-get install slurmctld slurmd slurm-client munge
#   PYTHON=.venv/bin/python bench/cohort_slurm.sh
#
# As root. One machine, twelve tiny cases, an array of two tasks as `oarseg cohort slurm` prints it.
# A worker is killed after two cases, the controller after four. Status 0 if all twelve are done with
# at most 13 attempts, by Slurm's tasks alone.
set -euo pipefail

python=$(realpath -s "${PYTHON:-.venv/bin/python}")
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD:$PWD/test/support
work=$(mktemp -d)
chmod 755 "$work"
host=$(hostname -s)

# Ends what this script has started, by its number.
clean() {
    scancel --user root 2>/dev/null || true
    for file in "$work"/*.pid; do
        [ -f "$file" ] && kill -9 "$(cat "$file")" 2>/dev/null || true
    done
    rm -rf "$work"
}
trap clean EXIT

mkdir "$work/state" "$work/spool"
dd if=/dev/urandom of="$work/munge.key" bs=1024 count=1 status=none
chmod 400 "$work/munge.key"
munged --force --key-file="$work/munge.key" --socket="$work/munge.sock" \
    --pid-file="$work/munged.pid" --log-file="$work/munged.log" --seed-file="$work/munge.seed"
cat >"$work/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host
AuthType=auth/munge
AuthInfo=socket=$work/munge.sock
CredType=cred/munge
SlurmUser=root
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
NodeName=$host CPUs=2 State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$work/slurm.conf
slurmctld
slurmd
for _ in $(seq 60); do
    sinfo --noheader --format=%t 2>/dev/null | grep -q idle && break
    sleep 1
done
sinfo

"$python" - "$work" <<'PYTHON'
import shutil
import sys
from pathlib import Path

import nnunet_oracle
from oarseg.phantom import write_cases

work = Path(sys.argv[1])
(work / "model").mkdir()
weights = nnunet_oracle.write_han_seg_weights(work / "model", folds=1)
(work / "weights").symlink_to(weights)
write_cases(work / "made", seeds=[3], size="tiny", layout="platform")
(ct,) = (work / "made").rglob("ct/*.mha")
folder = work / "in" / "images" / "ct"
folder.mkdir(parents=True)
for number in range(12):
    shutil.copy(ct, folder / f"case_{number:02d}_CT.mha")
PYTHON

cohort=("$python" -m oarseg.cli cohort)
out="$work/an output, 5 %"
"${cohort[@]}" plan --input "$work/in" --output "$out" --weights "$work/weights" --registration none
"${cohort[@]}" slurm --output "$out" --workers 2 --threads 1 --device cpu >"$work/job.sh"
(cd / && sbatch "$work/job.sh")

done_cases() { find "$out/cohort/done" -name '*.json' | wc -l; }
until_done() {
    for _ in $(seq 600); do
        [ "$(done_cases)" -ge "$1" ] && return
        sleep 0.2
    done
    echo "only $(done_cases) cases done" >&2
    cat "$out"/cohort/slurm-*.log >&2
    exit 1
}
until_done 2
# The worker of one task; the process that computes for it ends with it.
kill -9 "$(pgrep -f "cohort work --output $out" | head -n 1)"
echo "a worker killed after $(done_cases) cases"
until_done 4
kill -9 "$(cat "$work/slurmctld.pid")"
echo "the controller killed after $(done_cases) cases"
until_done 12
slurmctld
attempts=$(find "$out/cohort/attempt" -type f | wc -l)
echo "$(done_cases) done, $attempts attempts"
"${cohort[@]}" run --output "$out" --device cpu
[ "$attempts" -le 13 ] && [ "$(done_cases)" -eq 12 ]
