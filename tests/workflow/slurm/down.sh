#!/usr/bin/env bash
# Stop what up.sh started: down.sh FOLDER. The logs stay.
set -uo pipefail
folder=$(realpath -m "$1")

timeout 10 scancel --user="$(id -un)" 2>/dev/null
for _ in {1..60}; do # what is left of a job lives on when the daemons are gone
    [[ -n $(timeout 10 squeue --noheader 2>/dev/null) ]] || break
    sleep 0.5
done
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
    if [[ $(readlink "/etc/slurm/$file") == "$folder/$file" ]]; then
        rm "/etc/slurm/$file"
    fi
done
