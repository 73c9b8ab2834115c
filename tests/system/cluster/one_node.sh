#!/usr/bin/env bash
# A real SLURM on this machine alone, for tests: Debian's packages, no systemd, loopback only.
#
#   one_node.sh install          slurmctld, slurmd, the clients and munge, by apt
#   one_node.sh start [FOLDER]   all its files in FOLDER (/tmp/one-node-slurm)
#   one_node.sh stop [FOLDER]
#
# Partitions `cpu` and `gpu`, whose jobs are requeued after 15 seconds' notice when one in `urgent`
# needs their cores, and a node with two GPUs that are /dev/null. Needs root. Finished jobs are
# listed in FOLDER/jobs.txt. NODES=2 makes two nodes of this machine; CPUS=… and MEMORY_MB=… for
# nodes other than of two cores and 20 GB, PREEMPT=CANCEL for preempted jobs that do not come back.
set -euo pipefail

command=${1:-}
folder=${2:-/tmp/one-node-slurm}
port=${PORT:-27817}
host=$(hostname -s)
nodes=${NODES:-1}
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
    # As clusters do it, where a container lets us: a job's processes are a control group, and only
    # its first one is told to end before all are killed.
    local tracking=proctrack/linuxproc
    if [[ -w /sys/fs/cgroup/freezer ]]; then tracking=proctrack/cgroup; fi
    cat >"$folder/slurm.conf" <<END
ClusterName=one-node
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthInfo=socket=$munge_socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool.%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.%n.log
# It says who was preempted for whom.
SlurmctldDebug=debug
ProctrackType=$tracking
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=5
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
NodeName=DEFAULT CPUs=${CPUS:-2} RealMemory=${MEMORY_MB:-20000} Gres=gpu:fake:2
$(for ((n = 1; n <= nodes; n++)); do echo "NodeName=node$n NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + n))"; done)
PartitionName=DEFAULT Nodes=node[1-$nodes] MaxTime=2-0 DefMemPerCPU=500 State=UP
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
    mkdir -p "$folder/state" "$place"
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
    for ((n = 1; n <= nodes; n++)); do
        mkdir -p "$folder/spool.node$n"
        slurmd -N "node$n"
    done
    until_true 30 bash -c '! sinfo -h -o %T | grep -qv idle'
    sinfo -o '%P %T %c %m %G'
}

stop() {
    local file pid
    timeout 10 scancel --user=root || true
    until_true 60 bash -c '[[ -z $(squeue -h) ]]'
    for file in "$folder"/{slurmd.*,slurmctld,munged}.pid; do
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
