"""Time and weigh the measuring code beside its peers.

Peers run alternating with ours in one go, so that a busy machine slows all alike; what counts are
ratios. Files are in the page cache (each is read once before). Needs the measuring environment,
torch among it, and disk for the pair (4 bytes a parameter).
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

# One thread each for ranks; read when the libraries are loaded.
for library in ("OPENBLAS", "OMP", "MKL"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

import numpy as np  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "src"), str(Path(__file__).parent)]

import synthetic  # noqa: E402

from subnetworks.core import processor  # noqa: E402

SHAPES = ((1024, 4096), (2048, 2048), (4096, 4096), (4096, 14336))
SHAPES_TINY = ((24, 64), (64, 32))
# Has the kernels compiled for a processor without AVX-512.
FEATURES = "+avx2,+popcnt,+bmi,+bmi2,+fma,+f16c"
AVX2_ONLY = ("env", "NUMBA_CPU_NAME=haswell", f"NUMBA_CPU_FEATURES={FEATURES}")
# The matrices of Llama-3.1-8B, either way around, but embedding and head of 128256 x 4096.
LLAMA_8B = (((4096, 4096), 64), ((1024, 4096), 64), ((4096, 14336), 96))


# A process is said to have used at least what its parent held when it was started, so a small one
# stands between; it prints seconds, processor seconds, peak memory in KiB and status last.
LAUNCHER = """
import os, subprocess, sys, time
started = time.perf_counter()
process = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(process.pid, 0)
seconds = time.perf_counter() - started
print(f"\\n{seconds} {usage.ru_utime + usage.ru_stime} {usage.ru_maxrss} {status}")
"""


def timed_process(command: list[str]) -> tuple[float, float, float, str]:
    """Seconds, processor seconds, peak memory in MiB and output of a command that must succeed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-S", "-c", LAUNCHER, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
        check=True,
    )
    output, last = done.stdout.rstrip("\n").rsplit("\n", 1)
    seconds, processor, memory, status = last.split()
    if status != "0":
        raise SystemExit(f"{' '.join(command[:5])} … failed")
    return float(seconds), float(processor), float(memory) / 1024, output


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):8.3f} s  [{min(values):.3f}, {max(values):.3f}]"


def bench_measure(folder: Path, parameters: float, repeats: int, authors: bool) -> None:
    """All rules, the mask, the digests and the JSON in one pass, against `cat` of both files."""
    print(f"\nmeasure: a pair of {parameters / 1e9:g} billion parameters", flush=True)
    started = time.perf_counter()
    n = synthetic.write_pair(folder, parameters)
    size = 4 * n
    print(f"  wrote {size / 1e9:.1f} GB in {time.perf_counter() - started:.0f} s", flush=True)
    before, after = str(folder / "before"), str(folder / "after")
    files = sorted(str(path) for path in folder.glob("*/*.safetensors"))
    out, mask = str(folder / "update.json"), str(folder / "mask.safetensors")
    python = sys.executable
    ours = [python, "-m", "subnetworks", "measure", before, after]
    commands = {
        "cat of both": ["bash", "-c", 'cat "$@" > /dev/null', "cat", *files],
        "measure": [*ours, "--json", out, "--mask", mask],
        "  one thread": [*ours, "--json", out, "--mask", mask, "--threads", "1"],
    }
    if platform.machine() == "x86_64":
        commands["  AVX2 only"] = [*AVX2_ONLY, *commands["measure"]]
    if authors:
        script = str(Path(__file__).with_name("authors.py"))
        commands["authors' method"] = [python, script, before, after]
    times: dict[str, list[float]] = {name: [] for name in commands}
    processors: dict[str, list[float]] = {name: [] for name in commands}
    peak: dict[str, float] = {}
    counted = {}
    for repeat in range(repeats + 1):  # the first warms the cache and is not counted
        for name, command in commands.items():
            if name == "authors' method" and repeat != 1:
                continue
            seconds, processor, memory, output = timed_process(command)
            if repeat or name == "authors' method":
                times[name].append(seconds)
                processors[name].append(processor)
            peak[name] = max(memory, peak.get(name, 0))
            if name == "authors' method":
                counted = json.loads(output)
    reference = statistics.median(times["cat of both"])
    for name, values in times.items():
        ratio = statistics.median(values) / reference
        rate = size / statistics.median(values) / 1e9
        print(
            f"  {name:16} {spread(values)} {rate:7.2f} GB/s {ratio:6.2f} x cat "
            f"{statistics.median(processors[name]):7.2f} processor s {peak[name]:6.0f} MiB"
        )
    pairs = zip(times["measure"], times["cat of both"], strict=True)
    print(f"  measure / cat, run by run: {', '.join(f'{m / c:.2f}' for m, c in pairs)}")
    starts = [timed_process([*ours[:3], "--help"])[0] for _ in range(max(repeats, 3))]
    print(f"  subnetworks --help {spread(starts)}")
    summary = json.loads(Path(out).read_text())
    assert summary["n"] == n
    if counted:
        ours_counted = {"n": n, "equal": summary["equal"], "1e-5": summary["isclose_bf16"]["1e-5"]}
        print(f"  counts equal to the authors': {ours_counted == counted}")


def bench_fp8(folder: Path, parameters: float, repeats: int) -> None:
    """An update stored in FP8 on both sides, on one, on none: one thread, all rules, the mask."""
    print(f"\nFP8 with scales: {parameters / 1e9:g} billion weights, one thread", flush=True)
    layers = max(2, round(parameters / (2048 * 4096)))
    n = synthetic.write_fp8_pair(folder, layers, plain=True)
    few = synthetic.write_fp8_pair(folder / "one", 1, plain=True)
    sides = {
        "bf16, bf16": ("plain before", "plain after"),
        "FP8, FP8": ("before", "after"),
        "FP8, bf16": ("before", "plain after"),
    }
    out = folder / "update.json"

    def run(place: Path, before: str, after: str) -> float:
        """Processor seconds."""
        outputs = ["--json", str(out), "--mask", str(folder / "mask.safetensors")]
        pair = [str(place / before), str(place / after)]
        ours = [sys.executable, "-m", "subnetworks", "measure", *pair, *outputs]
        return timed_process([*ours, "--threads", "1"])[1]

    times: dict[str, list[float]] = {name: [] for name in sides}
    starts: dict[str, list[float]] = {name: [] for name in sides}
    counted = set()
    for repeat in range(repeats + 1):  # the first warms the cache and is not counted
        for name, pair in sides.items():
            start, whole = run(folder / "one", *pair), run(folder, *pair)
            if repeat:
                starts[name].append(start)
                times[name].append(whole)
            summary = json.loads(out.read_text())
            counted.add((summary["n"], summary["equal"], *summary["isclose_bf16"].values()))
    reference = 0.0
    for name, values in times.items():
        # Without the start, the same for one matrix.
        seconds = statistics.median(values) - statistics.median(starts[name])
        reference = reference or seconds
        print(
            f"  {name:12} {spread(values)} of the processor, {statistics.median(starts[name]):.3f} "
            f"with one matrix; the rest {seconds / reference:.2f} x bf16: "
            f"{(n - few) / seconds / 1e9:.3f} billion weights a processor second",
            flush=True,
        )
    print(f"  same counts: {len(counted) == 1}")


def bench_overlap(folder: Path, repeats: int, rows: int = 1_000_000) -> None:
    """AND and population count of two masks of 1000 bytes a row."""
    from subnetworks.measuring import masks, overlaps

    size = 1000 * rows
    print(f"\noverlap: two masks of {size / 1e9:g} GB", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {f"w{k}": (rows, 1000) for k in range(8)}
    paths = [folder / f"{k}.safetensors" for k in range(2)]
    for seed, path in enumerate(paths):
        rng = np.random.Generator(np.random.SFC64(seed))
        changed = 0
        with masks.writing(path, shapes, {"changed": "9" * 20}) as writer:
            for name in shapes:
                packed = rng.integers(0, 256, rows * 125, dtype=np.uint8)
                changed += masks.popcount(packed)
                writer.write(name, packed)
            writer.finish({"changed": str(changed)})
    arrays = [np.fromfile(path, np.uint8)[-size:].view(np.uint64) for path in paths]
    results: dict[str, set[int]] = {}

    def whole() -> int:
        return int(np.bitwise_count(arrays[0] & arrays[1]).sum(dtype=np.int64))

    def ours() -> int:
        found = overlaps.compare(paths)
        return sum(shared.both for shared in found.pairs[0, 1])

    runs: dict[str, Callable[[], int]] = {
        "overlap, files in cache": ours,
        "numpy, in memory": whole,
    }
    ours()  # loads the kernels
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            started = time.perf_counter()
            results.setdefault("both", set()).add(run())
            times[name].append(time.perf_counter() - started)
    for name, values in times.items():
        print(f"  {name:24} {spread(values)} {2e-9 * size / statistics.median(values):7.1f} GB/s")
    print(f"  same counts: {len(results['both']) == 1}")


def bench_rank(repeats: int, shapes: tuple[tuple[int, int], ...] = SHAPES) -> None:
    """Ranks of a sparse update of a bfloat16 matrix, against torch's SVD; then of a whole model."""
    import torch

    from subnetworks.measuring import spectra

    print("\nrank, in processor seconds (a busy machine does not count), one thread", flush=True)
    torch.set_num_threads(1)
    spectra.ranks_of(spectra.gram_of(np.eye(2000, dtype=np.float32)), 2000)  # loads its libraries
    seconds: dict[tuple[int, int], float] = {}
    for m, n in shapes:
        before, after = synthetic.block(m + n, m * n)
        values = [(bits.astype(np.uint32) << 16).view(np.float32) for bits in (before, after)]
        delta = (values[1] - values[0]).reshape(m, n)
        times: dict[str, list[float]] = {"all ranks": [], "rank alone": [], "svd": []}
        theirs = 0
        for repeat in range(repeats):
            for name in ("all ranks", "rank alone"):
                started = time.process_time()
                gram = spectra.gram_of(delta)
                found = spectra.ranks_of(gram, max(m, n), spectrum=name == "all ranks")
                times[name].append(time.process_time() - started)
            if repeat == 0 or m * n < 1e7:
                started = time.process_time()
                theirs = int(torch.linalg.matrix_rank(torch.from_numpy(delta)))
                times["svd"].append(time.process_time() - started)
        middle = {name: statistics.median(found) for name, found in times.items()}
        seconds[m, n] = middle["all ranks"]
        border = (
            f", borderline {found.rank_low}-{found.rank_high}"
            if found.rank_low != found.rank_high
            else ""
        )
        print(
            f"  {m} x {n}: rank {found.rank}{border}, torch {theirs}; svd {spread(times['svd'])}, "
            f"all ranks {spread(times['all ranks'])}, {middle['svd'] / middle['all ranks']:.1f} x "
            f"faster, rank alone {middle['svd'] / middle['rank alone']:.1f} x",
            flush=True,
        )
    if set(shapes) >= {shape for shape, _ in LLAMA_8B}:
        total = sum(count * seconds[shape] for shape, count in LLAMA_8B)
        # Of an embedding the Gram matrix takes a time in proportion to its rows, all else does not.
        per_row = (seconds[4096, 14336] - seconds[4096, 4096]) / (14336 - 4096)
        total += 2 * (seconds[4096, 4096] + (128256 - 4096) * per_row)
        print(
            f"  extrapolated to Llama-3.1-8B (226 matrices): {total / 60:.0f} processor minutes, "
            f"{total / 120:.0f} by the clock on two idle cores"
        )


def main() -> None:
    """Run what is asked for; all by default."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="*", help="measure, fp8, overlap, rank (default: all)")
    parser.add_argument("--parameters", type=float, default=2.0, help="billions (measure)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--authors", action="store_true", help="time the authors' method too")
    parser.add_argument("--folder", type=Path, help="where files are written for a while")
    parser.add_argument("--tiny", action="store_true", help="see only that it works, in seconds")
    options = parser.parse_args()
    if options.tiny:
        options.parameters, options.repeats = 3e-4, 1
    what = options.what or ["measure", "fp8", "overlap", "rank"]
    print(f"{processor.name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        if "measure" in what:
            bench_measure(
                folder / "pair", options.parameters * 1e9, options.repeats, options.authors
            )
            shutil.rmtree(folder / "pair")
        if "fp8" in what:
            bench_fp8(folder / "fp8", options.parameters * 1e9 / 4, options.repeats)
            shutil.rmtree(folder / "fp8")
        if "overlap" in what:
            bench_overlap(folder / "masks", options.repeats, 8 if options.tiny else 1_000_000)
    if "rank" in what:
        bench_rank(min(options.repeats, 3), SHAPES_TINY if options.tiny else SHAPES)
    print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
