"""What large checkpoints would take, from small ones: `python tests/system/benchmarks/scale.py`.

`estimate` measures rates on a small pair, says what pairs of 7, 70 and 671 billion weights would
take, and holds the estimate against a pair as large as asked (`--gigabytes`, both sides together).
`tensors` measures, compares and ranks pairs of very many tiny matrices. `rank` weighs the rank of
one matrix against what its buffers add up to. Needs the measuring environment and, for a while,
disk for the pair. One thread by default, so that rates hold for a core.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "src"), str(Path(__file__).parent)]

import synthetic  # noqa: E402
from measuring import timed_process  # noqa: E402

# Weights, tensors compared and whether stored in FP8 with scales: what is published of Llama-2-7B,
# Llama-3.1-70B and DeepSeek-V3 (about 92,000 stored; values, payload and scales are compared).
LARGE = {
    "7B": (6.74e9, 291, False),
    "70B": (70.6e9, 723, False),
    "671B, FP8": (671e9, 138_000, True),
}
# Random blocks of 4 million weights that a large pair repeats.
DISTINCT = 16
# Rates are of the median of so many runs: a disk that others use is not steady.
REPEATS = 3


@dataclass(frozen=True)
class Run:
    """One command: seconds, processor seconds, peak memory in MiB."""

    seconds: float
    processor: float
    memory: float


@dataclass(frozen=True)
class Rates:
    """Seconds to start, weights a second, seconds and MiB a tensor, MiB beside."""

    start: float
    weights: float
    tensor: float
    memory_tensor: float
    memory: float

    def seconds(self, n: float, tensors: int) -> float:
        """Estimated seconds for a pair."""
        return self.start + n / self.weights + tensors * self.tensor

    def mebibytes(self, tensors: int) -> float:
        """Estimated peak memory."""
        return self.memory + tensors * self.memory_tensor


def verb(threads: int, *arguments: str | Path) -> Run:
    """One verb of the command line, on so many threads."""
    command = [sys.executable, "-m", "subnetworks", *map(str, arguments)]
    seconds, processor, memory, _ = timed_process([*command, "--threads", str(threads)])
    return Run(seconds, processor, memory)


def measured(pair: Path, threads: int, after: str = "after") -> Run:
    """All rules, digests, the JSON and the mask."""
    outputs = ["--json", pair / f"{after}.json", "--mask", pair / f"{after}.mask.safetensors"]
    return verb(threads, "measure", pair / "before", pair / after, *outputs)


def evict(folder: Path) -> float:
    """Ask the system to forget the files; returns the share of them it still holds."""
    total = held = 0
    for path in folder.rglob("*.safetensors"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
        total += path.stat().st_size
        held += resident(path)
    return held / total


def resident(path: Path) -> int:
    """Bytes of a file in the page cache (`fincore`); what it cannot say counts as none."""
    command = ["fincore", "--bytes", "--noheadings", "--output", "RES", str(path)]
    try:
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return 0


def write_tiny(folder: Path, tensors: int, side: int = 16) -> int:
    """`before` and two updates of it, of so many matrices side × side in files of a layer each."""
    experts = 256
    layers = -(-tensors // (3 * experts))
    n = side * side
    shapes: synthetic.Shapes
    for k in range(layers):
        shapes = [
            (f"model.layers.{k}.mlp.experts.{e}.{part}_proj.weight", (side, side))
            for e in range(experts)
            for part in ("gate", "up", "down")
        ]
        shapes = shapes[: tensors - k * 3 * experts]
        before, after = synthetic.block(k, len(shapes) * n)
        other = np.where(np.roll(before != after, 1), before ^ 1, before)
        for name, bits in (("before", before), ("after", after), ("other", other)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            with open(folder / name / f"model-{k:05d}.safetensors", "wb") as file:
                file.write(synthetic.header(shapes))
                file.write(bits.data)
    return tensors


def median(runs: list[Run]) -> Run:
    """The run of the median time."""
    return sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]


def tell(label: str, run: Run, tensors: int) -> None:
    """One line of a stage."""
    share = 1e3 * run.processor / tensors
    print(
        f"  {label:20} {run.seconds:8.2f} s, {run.processor:7.2f} processor s: {share:6.3f} ms "
        f"a tensor; {run.memory:.0f} MiB",
        flush=True,
    )


def bench_tensors(folder: Path, tensors: int, threads: int) -> None:
    """Every verb on a quarter of the tensors and on all: what grows faster than they do?"""
    found: dict[str, list[Run]] = {}
    sizes = (tensors // 4, tensors)
    for count in sizes:
        pair = folder / f"tiny-{count}"
        write_tiny(pair, count)
        print(f"{count} tensors of 16 x 16", flush=True)
        masks = [pair / f"{name}.mask.safetensors" for name in ("after", "other")]
        overlapping, ranks = (("--table", pair / f"{name}.parquet") for name in ("overlap", "rank"))
        stages: dict[str, Callable[[], Run]] = {
            "measure, mask": partial(measured, pair, threads),
            "the other update's": partial(measured, pair, threads, "other"),
            "overlap": partial(verb, threads, "overlap", *masks, *overlapping),
            "rank": partial(verb, threads, "rank", pair / "before", pair / "after", *ranks),
        }
        for label, stage in stages.items():
            found.setdefault(label, []).append(stage())
            tell(label, found[label][-1], count)
        shutil.rmtree(pair)
    print(f"  growth from {sizes[0]} to {sizes[1]} (4 is proportional, in processor s):", end="")
    print(",".join(f" {k} {b.processor / a.processor:.1f}" for k, (a, b) in found.items()))


def calibrate(folder: Path, threads: int, tiny: bool) -> dict[str, Rates]:
    """Rates of measuring: in the page cache, from disk, and of FP8 with scales."""
    few, many = (4, 64) if tiny else (256, 4096)
    runs = {}
    for count in (few, many):
        pair = folder / f"calls-{count}"
        write_tiny(pair, count)
        measured(pair, threads)  # compiles, and fills the page cache
        runs[count] = measured(pair, threads)
        shutil.rmtree(pair)
    tensor = (runs[many].seconds - runs[few].seconds) / (many - few)
    memory = max(0.0, runs[many].memory - runs[few].memory) / (many - few)
    start = runs[few].seconds - few * tensor
    start_processor = runs[few].processor
    print(f"  start {start:.2f} s, {1e3 * tensor:.3f} ms and {1024 * memory:.1f} KiB a tensor")

    def rates(label: str, n: int, run: Run, size: float) -> Rates:
        counting = max(run.seconds - start, 1e-3)
        busy = max(run.processor - start_processor, 1e-3)
        print(
            f"  {label:16} {n / counting / 1e9:6.3f} billion weights/s, {size / counting / 1e9:.2f}"
            f" GB/s of files; {n / busy / 1e9:.3f} billion a processor second; "
            f"{run.memory:.0f} MiB",
            flush=True,
        )
        return Rates(start, n / counting, tensor, memory, run.memory)

    pair = folder / "calibration"
    n = synthetic.write_pair(pair, 3e5 if tiny else 0.5e9, DISTINCT)
    measured(pair, threads)
    warm = [measured(pair, threads) for _ in range(REPEATS)]
    found = {"warm": rates("page cache", n, median(warm), 4 * n)}
    cold = []
    for _ in range(REPEATS):
        held = evict(pair)
        cold.append(measured(pair, threads))
    found["cold"] = rates(f"disk ({held:.0%} held)", n, median(cold), 4 * n)
    shutil.rmtree(pair)
    n = synthetic.write_fp8_pair(pair, 1 if tiny else 16)
    measured(pair, threads)
    found["fp8"] = rates("FP8, page cache", n, measured(pair, threads), 2 * n)
    shutil.rmtree(pair)
    return found


def bench_estimate(folder: Path, gigabytes: float, threads: int, tiny: bool) -> None:
    """Rates, estimates, and one estimate compared with a measurement."""
    print(f"measure: rates on {threads} thread{'s' * (threads > 1)}", flush=True)
    rates = calibrate(folder, threads, tiny)
    disk = 4 * rates["cold"].weights  # bytes of bfloat16 on both sides
    print("estimates at these rates (a pair beyond memory is read from disk)")
    for name, (n, tensors, fp8) in LARGE.items():
        size = n * (1 if fp8 else 2) * 2
        warm = rates["fp8" if fp8 else "warm"]
        seconds = warm.seconds(n, tensors)
        cold = max(seconds, size / disk) if fp8 else rates["cold"].seconds(n, tensors)
        print(
            f"  {name:10} {size / 1e9:6.0f} GB: {cold / 60:7.1f} min from disk, "
            f"{seconds / 60:7.1f} if cached, {warm.mebibytes(tensors):5.0f} MiB; two masks "
            f"{2 * n / 8e9:.1f} GB, read in {2 * n / 8 / disk:.0f} s"
        )
    n = synthetic.write_pair(folder / "pair", gigabytes * 1e9 / 4, DISTINCT)
    tensors = synthetic.tensors_in(folder / "pair" / "before")
    for label, known in (("disk", "cold"), ("cache", "warm")):
        if label == "disk":
            print(f"a pair of {4 * n / 1e9:.1f} GB, {evict(folder / 'pair'):.0%} of it cached")
        elif 4 * n > 0.4 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
            print("  from cache: left out, it would not stay there")
            continue
        run = measured(folder / "pair", threads)
        estimate = rates[known].seconds(n, tensors)
        print(
            f"  from {label}: estimated {estimate:.1f} s, {rates[known].mebibytes(tensors):.0f} "
            f"MiB; measured {run.seconds:.1f} s ({run.seconds / estimate:.2f} x), peak "
            f"{run.memory:.0f} MiB; {4 * n / 1e9 / run.seconds:.2f} GB/s, "
            f"{run.processor:.1f} processor s",
            flush=True,
        )
    shutil.rmtree(folder / "pair")


def rank_memory(rows: int, columns: int) -> float:
    """MiB that the rank of one matrix adds up to beside the libraries.

    The Gram matrix of the shorter side in float64, and either what it is made of (a wide matrix in
    float32; a panel in float64 twice) or two copies for its eigenvalues, whichever is more.
    """
    short = min(rows, columns)
    gram = 8 * short * short
    panels = 3 * 8 * (1 << 22)
    held = 4 * rows * columns if rows <= columns else 0
    return (gram + max(held + panels, 2 * gram)) / (1 << 20)


def bench_rank(folder: Path, shape: tuple[int, int], threads: int) -> None:
    """One matrix of random bfloat16."""
    rows, columns = shape
    print("rank: memory that the buffers add up to, beside the libraries")
    for name, (m, n) in {
        "70B mlp": (8192, 28672),
        "70B mlp, down": (28672, 8192),
        "70B embedding": (128256, 8192),
        "671B embedding": (129280, 7168),
    }.items():
        print(f"  {name:16} {m} x {n}: {rank_memory(m, n):.0f} MiB")
    pair = folder / "matrix"
    shapes: synthetic.Shapes = [("model.layers.0.mlp.up_proj.weight", (rows, columns))]
    synthetic.write_shapes(pair, "model.safetensors", shapes, 0, DISTINCT)
    run = verb(threads, "rank", pair / "before", pair / "after", "--table", pair / "t.parquet")
    tiny = folder / "one"
    write_tiny(tiny, 1)
    bare = verb(threads, "rank", tiny / "before", tiny / "after", "--table", tiny / "t.parquet")
    estimate = bare.memory + rank_memory(rows, columns)
    print(
        f"  measured {rows} x {columns}: {run.seconds:.1f} s, {run.processor:.1f} processor s, "
        f"peak {run.memory:.0f} MiB; estimated {estimate:.0f} MiB "
        f"({run.memory / estimate:.2f} x), {bare.memory:.0f} of it libraries"
    )


def main() -> None:
    """Run what is asked for; all by default."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="*", help="estimate, tensors, rank (default: all)")
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of the pair (estimate)")
    parser.add_argument("--tensors", type=int, default=4000, help="tiny matrices (tensors)")
    parser.add_argument("--shape", default="2048x7168", help="ROWSxCOLUMNS (rank)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where pairs are written (default: temporary)")
    parser.add_argument("--tiny", action="store_true", help="see only that it works, in seconds")
    options = parser.parse_args()
    if options.tiny:
        options.gigabytes, options.tensors, options.shape = 1.2e-3, 16, "64x96"
    what = options.what or ["estimate", "tensors", "rank"]
    rows, columns = map(int, options.shape.split("x"))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        if "estimate" in what:
            bench_estimate(folder, options.gigabytes, options.threads, options.tiny)
        if "tensors" in what:
            bench_tensors(folder, options.tensors, options.threads)
        if "rank" in what:
            bench_rank(folder, (rows, columns), options.threads)
    print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
