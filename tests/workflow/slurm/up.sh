#!/usr/bin/env bash
# Start a Slurm of one node on this machine: up.sh FOLDER. Everything it writes lies in FOLDER, but for two links in
# /etc/slurm, where every Slurm command looks. Needs root and, on Debian and Ubuntu:
#   apt-get install --no-install-recommends slurm-wlm slurm-client slurmd slurmctld munge
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
host=$(hostname -s)

for file in slurm.conf gres.conf; do
    if [[ -e /etc/slurm/$file ]]; then
        echo "/etc/slurm/$file exists: this machine has a Slurm already; stop it, or run the tests elsewhere" >&2
        exit 1
    fi
done

mkdir -p "$folder/state" "$folder/spool" /etc/slurm
sed -e "s|@DIR@|$folder|g" -e "s|@HOST@|$host|g" "$here/slurm.conf" >"$folder/slurm.conf"
mknod "$folder/gpu0" c 1 3                     # a GPU has to be a device; this one is another /dev/null
echo "Name=gpu File=$folder/gpu0" >"$folder/gres.conf"
ln -sf "$folder/slurm.conf" "$folder/gres.conf" /etc/slurm/    # over links to a folder that is gone

(umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
munged --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munged.log" --seed-file="$folder/munge.seed" --force
slurmctld
slurmd -N "$host"

for _ in {1..60}; do
    if [[ $(timeout 5 sinfo --noheader --partition=cpu --format=%T 2>/dev/null) == idle ]]; then
        exit 0
    fi
    sleep 0.5
done
tail -n 20 "$folder"/*.log >&2
echo "Slurm's node is not idle after half a minute: its logs are above" >&2
exit 1
