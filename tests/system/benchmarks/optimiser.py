"""Weigh and time AdamW within a mask, compact beside dense.

Both take steps in turn in one process, so that a busy machine slows both alike; what counts is the
ratio. A step is what the engine does once it has a gradient: mask it, clip it, update. Memory is
the peak of a process that does three steps, less that of one that does them within an empty mask.
Needs the training environment.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "src"))

import torch  # noqa: E402

from subnetworks.training.engine.adamw import FORMS  # noqa: E402

SHAPES = [(2048, 512), (512, 2048), (1024, 1024), (512,)] * 8
HOW = {"lr": 1e-6, "betas": (0.9, 0.999), "weight_decay": 0.01}
DENSITIES = (0.05, 0.2, 0.5, 1.0)


def parameters(shapes):
    made = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    for parameter in made:
        parameter.grad = torch.randn_like(parameter)
    return made


def masks(made, density):
    generator = torch.Generator().manual_seed(0)
    for parameter in made:
        yield parameter, torch.rand(parameter.shape, generator=generator) < density


def step(optimiser, made):
    optimiser.mask_gradients()
    torch.nn.utils.clip_grad_norm_(made, 1.0)
    optimiser.step()


def state_bytes(optimiser):
    return sum(
        value.nbytes
        for state in optimiser.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )


def weigh(form, density, shapes):
    """Print bytes of state and the peak of resident memory in bytes; run as a process."""
    made = parameters(shapes)
    optimiser = FORMS[form](made, masks(made, density), **HOW)
    for _ in range(3):
        step(optimiser, made)
    # Not ru_maxrss, which begins at what the parent held.
    status = Path("/proc/self/status").read_text()
    print(state_bytes(optimiser), int(status.partition("VmHWM:")[2].split()[0]) * 1024)


def weighed(form, density, tiny):
    command = [sys.executable, __file__, "--weigh", form, "--density", str(density)]
    command += ["--tiny"] if tiny else []
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    size, peak = map(int, done.stdout.split())
    return size, peak


def ratio(density, rounds, shapes):
    """Median of compact / dense over rounds, and the median seconds of each."""
    both = {}
    for form, kind in FORMS.items():
        made = parameters(shapes)
        both[form] = kind(made, masks(made, density), **HOW), made
    seconds = {form: [] for form in both}
    for index in range(rounds + 1):
        for form, (optimiser, made) in both.items():
            for parameter in made:
                parameter.grad.normal_()
            begin = time.perf_counter()
            step(optimiser, made)
            if index:
                seconds[form].append(time.perf_counter() - begin)
    ratios = [c / d for c, d in zip(seconds["compact"], seconds["dense"], strict=True)]
    return statistics.median(ratios), *(statistics.median(seconds[f]) for f in FORMS)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--density", type=float, default=0.2)
    parser.add_argument("--weigh", choices=[*FORMS], help=argparse.SUPPRESS)
    parser.add_argument("--tiny", action="store_true", help="see only that it works, in seconds")
    arguments = parser.parse_args()
    shapes, densities = SHAPES, DENSITIES
    if arguments.tiny:
        shapes, densities, arguments.rounds = [(64, 32), (32,)], (0.2,), 1
    if arguments.weigh:
        return weigh(arguments.weigh, arguments.density, shapes)
    entries = sum(torch.Size(shape).numel() for shape in shapes)
    print(f"{entries:,} entries, float32, {torch.get_num_threads()} thread")
    _, base = weighed("compact", 0.0, arguments.tiny)
    for density in densities:
        sizes, peaks = zip(*(weighed(form, density, arguments.tiny) for form in FORMS), strict=True)
        of_time, compact, dense = ratio(density, arguments.rounds, shapes)
        # A page at least: what is tiny takes no more than what was there already.
        extra = [max(peak - base, 4096) for peak in peaks]
        print(
            f"density {density:4.0%}: "
            f"state {sizes[0] / 2**20:.1f} / {sizes[1] / 2**20:.1f} MiB "
            f"({sizes[1] / sizes[0]:.2f}× less), "
            f"peak memory for it {extra[0] / 2**20:.0f} / {extra[1] / 2**20:.0f} MiB"
            f" ({extra[1] / extra[0]:.2f}× less), "
            f"step {compact * 1e3:.1f} / {dense * 1e3:.1f} ms (ratio {of_time:.2f})"
        )


if __name__ == "__main__":
    main()
