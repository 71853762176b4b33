#!/usr/bin/env bash
# A throw-away SLURM cluster on this machine: several slurmd on one host, each with fake GPUs, for tests and for a look.
#
#   cluster.sh start [NODES]   2 nodes unless told otherwise; 16 CPUs, 100 GB and 8 GPUs each, all pretended
#   cluster.sh stop            ends what start began, and nothing else
#   cluster.sh install         the distribution's SLURM packages; start does it too where they are missing
#   cluster.sh node-down NAME  kills a node outright, with all that runs on it; node-up NAME starts it again
#
# Needs root on Debian or Ubuntu. Partitions: gpu (default) and spot, whose jobs are requeued when gpu wants their place.
# A cluster that is already configured here is left alone. Exit code 3: no cluster can be had on this machine.
set -euo pipefail

HOME_FOLDER=${REALS_CLUSTER:-/tmp/reals-cluster}
PACKAGES=(slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge)
CPUS=16 MEMORY=100000 GPUS=8 TYPE=pretended-h100

refuse() { echo "cluster.sh: $*" >&2; exit 3; }

ours() { [ -L /etc/slurm/slurm.conf ] && [[ $(readlink /etc/slurm/slurm.conf) == */etc/reals-slurm.conf ]]; }

stop() {
    local kept=$HOME_FOLDER
    ours && kept=$(dirname "$(dirname "$(readlink /etc/slurm/slurm.conf)")")
    for file in "$kept"/run/slurmd.*.pid "$kept"/run/slurmctld.pid "$kept"/run/munged.pid; do
        [ -s "$file" ] || continue
        end "$(cat "$file")"
    done
    kill_jobs "$kept/log/slurmd.*.log"
    ours && rm -f /etc/slurm/slurm.conf /etc/slurm/gres.conf
    rm -rf "$kept"
}

end() {  # SIGTERM, then SIGKILL after two seconds
    kill "$1" 2>/dev/null || return 0
    for _ in $(seq 20); do kill -0 "$1" 2>/dev/null || return 0; sleep 0.1; done
    kill -9 "$1" 2>/dev/null || true
}

kill_jobs() {  # of the nodes whose logs match the pattern: a job's slurmstepd, which outlives its slurmd, and all below it
    local pid link
    for pid in $(pgrep -x slurmstepd || true); do
        for link in "/proc/$pid/fd/"*; do
            # shellcheck disable=SC2053
            if [[ $(readlink "$link") == $1 ]]; then kill_tree "$pid"; break; fi
        done
    done
}

kill_tree() {
    local child
    kill -STOP "$1" 2>/dev/null || return 0
    for child in $(pgrep -P "$1" || true); do kill_tree "$child"; done
    kill -9 "$1" 2>/dev/null || true
}

node_up() { slurmd -N "$1" >> "$HOME_FOLDER/log/slurmd.$1.err" 2>&1; }

install_packages() {
    [ "$(id -u)" = 0 ] || refuse "needs root (slurmd starts jobs as other users)"
    command -v apt-get > /dev/null || refuse "needs Debian or Ubuntu (apt-get not found)"
    dpkg -s "${PACKAGES[@]}" > /dev/null 2>&1 && return
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${PACKAGES[@]}"; } \
        > /dev/null 2>&1 || refuse "cannot install ${PACKAGES[*]} (no network?)"
}

start() {
    local nodes=${1:-2} host
    host=$(hostname -s)
    if [ -e /etc/slurm/slurm.conf ] && ! ours; then
        refuse "/etc/slurm/slurm.conf exists: this machine belongs to a cluster already"
    fi
    ours && stop
    install_packages

    rm -rf "$HOME_FOLDER"
    mkdir -p "$HOME_FOLDER"/{run,log,state,etc,dev}
    # Clones of /dev/null: with device files SLURM also sets CUDA_VISIBLE_DEVICES, with a mere count it does not.
    for i in $(seq 0 $((GPUS - 1))); do mknod -m 666 "$HOME_FOLDER/dev/gpu$i" c 1 3; done
    cat > "$HOME_FOLDER/etc/reals-slurm.conf" <<CONF
ClusterName=reals
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=26817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$HOME_FOLDER/run/munge.socket,cred_expire=10
CredType=cred/munge
SlurmctldPidFile=$HOME_FOLDER/run/slurmctld.pid
SlurmctldLogFile=$HOME_FOLDER/log/slurmctld.log
StateSaveLocation=$HOME_FOLDER/state
SlurmdPidFile=$HOME_FOLDER/run/slurmd.%n.pid
SlurmdLogFile=$HOME_FOLDER/log/slurmd.%n.log
SlurmdSpoolDir=$HOME_FOLDER/state/spool.%n
SlurmdTimeout=10
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
ReturnToService=2
MinJobAge=3600
KillWait=15
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=2
NodeName=n[1-$nodes] NodeHostname=$host NodeAddr=127.0.0.1 Port=[26901-$((26900 + nodes))] CPUs=$CPUS RealMemory=$MEMORY Gres=gpu:$TYPE:$GPUS
PartitionName=gpu Nodes=n[1-$nodes] Default=YES MaxTime=2-00:00:00 State=UP PriorityTier=10
PartitionName=spot Nodes=n[1-$nodes] MaxTime=2-00:00:00 State=UP PriorityTier=1
CONF
    echo "NodeName=n[1-$nodes] Name=gpu Type=$TYPE File=$HOME_FOLDER/dev/gpu[0-$((GPUS - 1))]" > "$HOME_FOLDER/etc/gres.conf"
    # The jobs' own srun looks in /etc/slurm: Snakemake's executor takes SLURM_CONF out of their environment.
    mkdir -p /etc/slurm
    ln -sf "$HOME_FOLDER/etc/reals-slurm.conf" /etc/slurm/slurm.conf
    ln -sf "$HOME_FOLDER/etc/gres.conf" /etc/slurm/gres.conf

    dd if=/dev/urandom of="$HOME_FOLDER/etc/munge.key" bs=1 count=1024 status=none
    chmod 400 "$HOME_FOLDER/etc/munge.key"
    munged --force --key-file="$HOME_FOLDER/etc/munge.key" --socket="$HOME_FOLDER/run/munge.socket" \
        --pid-file="$HOME_FOLDER/run/munged.pid" --log-file="$HOME_FOLDER/log/munged.log" --seed-file="$HOME_FOLDER/run/munge.seed" \
        2> "$HOME_FOLDER/log/munged.err"
    slurmctld -c > "$HOME_FOLDER/log/slurmctld.err" 2>&1
    for i in $(seq "$nodes"); do node_up "n$i"; done
    for _ in $(seq 100); do
        [ "$(timeout 5 sinfo -h -N -p gpu -t idle -o %N 2> /dev/null | sort -u | wc -l)" = "$nodes" ] && return 0
        sleep 0.2
    done
    tail -n 5 "$HOME_FOLDER"/log/*.err "$HOME_FOLDER"/log/*.log >&2
    stop
    echo "cluster.sh: the nodes did not come up; the logs' last lines are above" >&2
    exit 1
}

case "${1:-}" in
    start) start "${2:-2}" && sinfo ;;
    stop) stop ;;
    install) install_packages ;;
    node-down) kill -9 "$(cat "$HOME_FOLDER/run/slurmd.$2.pid")"; kill_jobs "$HOME_FOLDER/log/slurmd.$2.log" ;;
    node-up) node_up "$2" ;;
    *) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
