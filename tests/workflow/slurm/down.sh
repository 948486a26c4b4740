#!/usr/bin/env bash
# Stop what up.sh started: down.sh FOLDER. The logs stay.
set -uo pipefail
folder=$(realpath -m "$1")

is_ours() { [[ $(readlink "/etc/slurm/$1") == "$folder/$1" ]]; }

if is_ours slurm.conf; then # else scancel would ask another Slurm, and end jobs that are somebody's work
    timeout 10 scancel --user="$(id -un)" 2>/dev/null
    for _ in {1..60}; do # what is left of a job lives on when the daemons are gone
        [[ -n $(timeout 10 squeue --noheader 2>/dev/null) ]] || break
        sleep 0.5
    done
fi
for daemon in slurmd slurmctld munged; do
    pid=$(cat "$folder/$daemon.pid" 2>/dev/null) || continue
    kill "$pid" 2>/dev/null
    for _ in {1..40}; do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.25
    done
    kill -KILL "$pid" 2>/dev/null
done
for file in slurm.conf gres.conf; do
    if is_ours "$file"; then
        rm "/etc/slurm/$file"
    fi
done
