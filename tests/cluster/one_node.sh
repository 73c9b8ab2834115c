#!/usr/bin/env bash
# A real SLURM on this machine alone, for tests: Debian's packages, no systemd, loopback only.
#
#   one_node.sh install          slurmctld, slurmd, the clients and munge, by apt
#   one_node.sh start [FOLDER]   all its files in FOLDER (/tmp/one-node-slurm)
#   one_node.sh stop [FOLDER]
#
# Partitions `cpu` and `gpu`, whose jobs are requeued after 15 seconds' notice when one in `urgent`
# needs their cores, and a node with two GPUs that are /dev/null. Needs root. Finished jobs are
# listed in FOLDER/jobs.txt. CPUS=… and MEMORY_MB=… for a node other than two cores and 20 GB,
# PREEMPT=CANCEL for preempted jobs that do not come back.
set -euo pipefail

command=${1:-}
folder=${2:-/tmp/one-node-slurm}
port=${PORT:-27817}
node=$(hostname -s)
munge_socket=$folder/munge.socket
# Where the daemons and all clients look unless told otherwise: Snakemake drops SLURM's variables
# from the environment of jobs.
place=/etc/slurm

fail() {
    echo "one_node.sh: $*" >&2
    exit 1
}

# until_true SECONDS COMMAND …
until_true() {
    local end=$((SECONDS + $1))
    shift
    until timeout 3 "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || fail "gave up waiting for: $* (logs are in $folder)"
        sleep 0.2
    done
}

write_configuration() {
    cat >"$folder/slurm.conf" <<END
ClusterName=one-node
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthInfo=socket=$munge_socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
# No control groups: they may belong to the container this runs in.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
# What a trainer's processes share counts once.
JobAcctGatherParams=UsePss,OverMemoryKill
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=${PREEMPT:-REQUEUE}
MinJobAge=3600
KillWait=10
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$folder/jobs.txt
NodeName=$node NodeAddr=127.0.0.1 CPUs=${CPUS:-2} RealMemory=${MEMORY_MB:-20000} Gres=gpu:fake:2
PartitionName=DEFAULT Nodes=$node MaxTime=2-0 DefMemPerCPU=500 State=UP
PartitionName=cpu Default=YES PriorityTier=1 GraceTime=15
PartitionName=gpu PriorityTier=1 GraceTime=15
PartitionName=urgent PriorityTier=2 PreemptMode=OFF
END
    echo "Name=gpu Type=fake File=$folder/gpu[0-1]" >"$folder/gres.conf"
    echo "CgroupPlugin=cgroup/v1" >"$folder/cgroup.conf"
}

start() {
    [[ $EUID -eq 0 ]] || fail "needs root"
    [[ ! -e $place/slurm.conf ]] || fail "$place/slurm.conf is there: another SLURM's, or stop first"
    mkdir -p "$folder"/{state,spool} "$place"
    chmod 755 "$folder"
    write_configuration
    for number in 0 1; do
        [[ -e $folder/gpu$number ]] || mknod "$folder/gpu$number" c 1 3
    done
    if [[ ! -e $folder/munge.key ]]; then
        (umask 077 && head -c 128 /dev/urandom >"$folder/munge.key")
    fi
    for name in slurm gres cgroup; do
        ln -sfn "$folder/$name.conf" "$place/$name.conf"
    done
    munged --key-file="$folder/munge.key" --socket="$munge_socket" \
        --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" \
        --seed-file="$folder/munge.seed"
    until_true 10 munge -S "$munge_socket" -n
    slurmctld
    slurmd -N "$node"
    until_true 30 bash -c 'sinfo -h -o %T | grep -q idle'
    sinfo -o '%P %T %c %m %G'
}

stop() {
    local name file pid
    for name in slurmd slurmctld munged; do
        file=$folder/$name.pid
        [[ -f $file ]] || continue
        pid=$(<"$file")
        kill "$pid" 2>/dev/null || true
        for _ in {1..50}; do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.2
        done
        kill -9 "$pid" 2>/dev/null || true
        rm -f "$file"
    done
    for name in slurm gres cgroup; do
        [[ $(readlink "$place/$name.conf") != "$folder/$name.conf" ]] || rm "$place/$name.conf"
    done
}

case $command in
    install)
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install --yes -qq --no-install-recommends \
            -o DPkg::Lock::Timeout=300 slurmctld slurmd slurm-client munge >/dev/null
        ;;
    start) start ;;
    stop) stop ;;
    *) fail "usage: one_node.sh install|start|stop [FOLDER]" ;;
esac
