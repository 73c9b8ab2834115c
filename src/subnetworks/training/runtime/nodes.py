"""A run on several nodes: one SLURM allocation, within which srun starts the same on each node.

Everything else is torch's rendezvous and Ray. The folders of the run must lie on a file system that
all nodes share.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from subnetworks.core.errors import UserError

# The scratch folder, which the trainer's variables name, is each node's own.
_ON_A_NODE = (
    'mkdir -p "$TMPDIR" && "$@"; status=$?; '
    '[ "$SLURM_NODEID" = 0 ] || rm -rf "$TMPDIR"; exit $status'
)
_JOINED_WITHIN_S = 300.0


def check() -> None:
    """Whether there is an allocation to start anything in.

    Raises:
        UserError: there is none.
    """
    if "SLURM_JOB_ID" not in os.environ or not shutil.which("srun"):
        raise UserError(
            "accelerator: more than one of `nodes` takes a SLURM allocation: run Snakemake with "
            "`--workflow-profile profiles/slurm`, or this command within `salloc --nodes=…`"
        )


def on_each(nodes: int, arguments: Sequence[str]) -> list[str]:
    """A command that starts `arguments` once on each node, and ends all when one fails.

    The first node is the one that this process runs on.
    """
    return [
        *("srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"),
        *("--overlap", "--export=ALL", "--kill-on-bad-exit=1"),
        *("bash", "-c", _ON_A_NODE, "bash", *arguments),
    ]


def meeting_point() -> str:
    """An address on this node, with a port that is free, for the other nodes to find."""
    with socket.socket() as free:
        free.bind(("", 0))
        return f"{socket.gethostname()}:{free.getsockname()[1]}"


@contextlib.contextmanager
def ray_cluster(nodes: int, options: Sequence[str], temporary: Path) -> Iterator[str]:
    """Ray over all nodes of the allocation while the block runs; gives its address.

    `options` are those of `ray start` on each node, `temporary` is Ray's folder on the first.

    Raises:
        RuntimeError: not all nodes joined.
    """
    address = meeting_point()
    port = address.rpartition(":")[2]
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--block", *options]
    head = [*ray, "--head", f"--port={port}", f"--temp-dir={temporary}"]
    head += ["--include-dashboard=false"]
    worker = [*ray, f"--address={address}"]
    # One srun for all: what it runs differs between the first node and the others.
    choose = 'if [ "$SLURM_NODEID" = 0 ]; then exec "${@:2:$1}"; else exec "${@:$1+2}"; fi'
    arguments = ["bash", "-c", choose, "bash", str(len(head)), *head, *worker]
    step = subprocess.Popen(on_each(nodes, arguments), stdin=subprocess.DEVNULL)
    try:
        _wait_for(nodes, address, step)
        yield address
    finally:
        step.terminate()
        try:
            step.wait(30)
        except subprocess.TimeoutExpired:
            step.kill()


def _wait_for(nodes: int, address: str, step: "subprocess.Popen[bytes]") -> None:
    count = (
        "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False); "
        "print(sum(node['Alive'] for node in ray.nodes()))"
    )
    end = time.monotonic() + _JOINED_WITHIN_S
    joined = "0"
    while time.monotonic() < end and step.poll() is None:
        done = subprocess.run(
            [sys.executable, "-c", count, address], capture_output=True, text=True
        )
        joined = done.stdout.strip() or "0"
        if joined == str(nodes):
            return
        time.sleep(2)
    raise RuntimeError(f"Ray: {joined} of {nodes} nodes joined {address}")
