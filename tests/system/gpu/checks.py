"""Check on a GPU what the other tests check on a CPU, and time both: `run.sh` starts this.

Every part is a process of its own. A part whose packages are missing is skipped and says so; one
that fails or takes too long leaves the others alone. The exit status is 0 if nothing failed. Times
are of this machine as it is now: read them as ratios.
"""

import argparse
import contextlib
import copy
import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [
    str(ROOT / "tests" / "system" / "benchmarks"),
    str(ROOT / "tests" / "unit" / "training"),
]

# What a part cannot do without. Training takes the engine if verl and all that it needs are there.
NEEDS = {
    "optimiser": ("torch",),
    "measure": ("numpy", "torch", "numba"),
    "rank": ("numpy", "torch", "numba", "scipy"),
    "dpo": ("torch", "transformers"),
    "grpo": ("torch", "transformers"),
}
ENGINE = {
    "dpo": ("verl", "tensordict", "pyarrow", "rich", "safetensors"),
    "grpo": ("verl", "tensordict", "ray", "vllm", "pyarrow", "rich", "safetensors"),
}
HOW = {"lr": 1e-3, "betas": (0.9, 0.999), "weight_decay": 0.1}


class Bench:
    """Where a part runs, and what it has found."""

    def __init__(self, device: str, engine: bool, folder: Path) -> None:
        self.device, self.engine, self.folder = device, engine, folder
        self.large = device.startswith("cuda")

    def tell(self, check: str, right: bool | None, figures: str = "") -> None:
        """One line of the table; `right` is None for a figure that nothing is asked of."""
        outcome = {True: "passed", False: "FAILED", None: "measured"}[right]
        print(json.dumps({"check": check, "outcome": outcome, "figures": figures}), flush=True)

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.large:
            import torch

            torch.cuda.synchronize()

    @contextlib.contextmanager
    def weighed(self) -> Iterator[list[float]]:
        """Seconds of a block, and on a GPU the MiB that it held beyond what was held before."""
        import torch

        found: list[float] = []
        if self.large:
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
        self.wait()
        started = time.perf_counter()
        yield found
        self.wait()
        found.append(time.perf_counter() - started)
        if self.large:
            found.append((torch.cuda.max_memory_allocated() - held) / 2**20)


def memory(found: list[float]) -> str:
    return f", peak {found[1]:.0f} MiB" if len(found) > 1 else ""


def same_bits(one: Any, other: Any) -> bool:
    """Whether two lists of float32 tensors are equal to the bit."""
    import torch

    pairs = zip(one, other, strict=True)
    return all(
        torch.equal(a.detach().view(torch.int32), b.detach().view(torch.int32)) for a, b in pairs
    )


def optimiser(bench: Bench) -> None:
    """Compact and dense AdamW within a mask: the same bits, nothing outside, time and memory."""
    import torch

    from subnetworks.training.engine.adamw import FORMS

    side = 4096 if bench.large else 96
    shapes = [(side, side), (side, 2 * side), (2 * side, side), (side,)] * (4 if bench.large else 2)
    rounds = 10 if bench.large else 3
    draw = torch.Generator(bench.device).manual_seed(0)
    first = [torch.randn(shape, device=bench.device, generator=draw) for shape in shapes]

    def gradients() -> list[Any]:
        return [torch.randn(shape, device=bench.device, generator=draw) for shape in shapes]

    def step(used: Any, weights: list[Any], grads: list[Any]) -> None:
        for weight, grad in zip(weights, grads, strict=True):
            weight.grad = grad.clone()
        if hasattr(used, "mask_gradients"):
            used.mask_gradients()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        used.step()

    for density in (0.05, 0.2, 1.0):
        masks = [torch.rand(s, device=bench.device, generator=draw) < density for s in shapes]
        ends, costs = {}, {}
        seed = draw.get_state()
        for form in ("compact", "dense", *(("torch",) if density == 1 else ())):
            draw.set_state(seed)
            weights = [torch.nn.Parameter(weight.clone()) for weight in first]
            used = (
                torch.optim.AdamW(weights, **HOW)
                if form == "torch"
                else FORMS[form](weights, zip(weights, masks, strict=True), **HOW)
            )
            step(used, weights, gradients())  # makes the moments
            given = gradients()
            with bench.weighed() as cost:
                for _ in range(rounds):
                    step(used, weights, given)
            state = sum(
                value.nbytes
                for held in used.state.values()
                for value in held.values()
                if isinstance(value, torch.Tensor)
            )
            ends[form], costs[form] = [w.detach().cpu() for w in weights], (*cost, state)
            del weights, used
        label = f"AdamW, density {density:.0%}"
        bench.tell(f"{label}: compact and dense equal", same_bits(ends["compact"], ends["dense"]))
        still = all(
            torch.equal(end[~mask.cpu()], begin.cpu()[~mask.cpu()])
            for end, begin, mask in zip(ends["compact"], first, masks, strict=True)
        )
        bench.tell(f"{label}: nothing moved outside the mask", still)
        if "torch" in ends:
            bench.tell(f"{label}: equal to torch's AdamW", same_bits(ends["torch"], ends["dense"]))
        bench.tell(
            f"{label}: a step, compact against dense",
            None,
            f"{1e3 * costs['compact'][0] / rounds:.2f} / {1e3 * costs['dense'][0] / rounds:.2f} "
            f"ms, ratio {costs['compact'][0] / costs['dense'][0]:.2f}; state "
            f"{costs['compact'][-1] / 2**20:.1f} / {costs['dense'][-1] / 2**20:.1f} MiB",
        )


def taken(run: Callable[[], Any], repeats: int = 3) -> tuple[Any, float]:
    """What a call gives, and the least seconds that it took."""
    seconds = []
    found = run()
    for _ in range(repeats):
        started = time.perf_counter()
        found = run()
        seconds.append(time.perf_counter() - started)
    return found, min(seconds)


def measure(bench: Bench) -> None:
    """Counts and mask of an update on the device, beside the compiled kernels' on the CPU."""
    import synthetic

    from subnetworks.measuring import updates

    n = synthetic.write_pair(bench.folder, 1.2e9 if bench.large else 3e5, 16)
    before, after = bench.folder / "before", bench.folder / "after"
    seconds, summaries, masks = {}, {}, {}
    for device in ("cpu", bench.device):
        mask = bench.folder / "mask.safetensors"
        found, seconds[device] = taken(
            lambda device=device, mask=mask: updates.measure(
                before, after, mask=mask, device=device
            )
        )
        summaries[device], masks[device] = updates.summarise(found), mask.read_bytes()
    bench.tell("measure: counts equal to the CPU's", summaries["cpu"] == summaries[bench.device])
    bench.tell("measure: mask equal to the CPU's", masks["cpu"] == masks[bench.device])
    rates = {device: 4e-9 * n / spent for device, spent in seconds.items()}
    bench.tell(
        f"measure: {n / 1e9:.2g} billion weights a side",
        None,
        f"CPU {rates['cpu']:.2f} GB/s, {bench.device} {rates[bench.device]:.2f} GB/s, "
        f"ratio {rates[bench.device] / rates['cpu']:.2f}",
    )


def rank(bench: Bench) -> None:
    """Ranks of an update's matrices by a Gram matrix on the device, beside LAPACK's on the CPU."""
    import synthetic

    from subnetworks.measuring import spectra

    sizes = ((1024, 4096), (4096, 4096), (4096, 14336)) if bench.large else ((24, 64), (96, 96))
    shapes = [(f"model.layers.{k}.mlp.up_proj.weight", size) for k, size in enumerate(sizes)]
    synthetic.write_shapes(bench.folder, "model.safetensors", shapes, 0)
    before, after = bench.folder / "before", bench.folder / "after"
    found, seconds = {}, {}
    for device in ("cpu", bench.device):
        if device != "cpu":  # the first call sets the device up
            spectra.gram_of(_eye(), device)
        started = time.perf_counter()
        found[device] = spectra.ranks(before, after, device=device)
        seconds[device] = time.perf_counter() - started
    pairs = list(zip(found["cpu"], found[bench.device], strict=True))
    exact = ("rank", "rank_low", "rank_high")
    bench.tell(
        "rank: equal to the CPU's",
        all(getattr(a.ranks, key) == getattr(b.ranks, key) for a, b in pairs for key in exact),
        ", ".join(f"{a.rows} x {a.columns}: {b.ranks.rank}" for a, b in pairs),
    )
    close = ("sigma_max", "stable_rank", "effective_rank")
    off = max(
        abs(getattr(b.ranks, key) / getattr(a.ranks, key) - 1) for a, b in pairs for key in close
    )
    bench.tell("rank: other ranks close to the CPU's", off < 1e-6, f"at most {off:.1e} off")
    ratio = seconds["cpu"] / seconds[bench.device]
    bench.tell(
        "rank: time",
        None,
        f"CPU {seconds['cpu']:.2f} s, {bench.device} {seconds[bench.device]:.2f} s, "
        f"{ratio:.1f} x as fast",
    )


def _eye() -> Any:
    import numpy

    return numpy.eye(64, dtype=numpy.float32)


def model_of(bench: Bench) -> Any:
    """A random Qwen2, float32 on the device: as the engine holds its master weights."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    sizes = (
        {"vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 4096}
        if bench.large
        else {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64}
    )
    config = Qwen2Config(
        **sizes,
        num_hidden_layers=12 if bench.large else 2,
        num_attention_heads=8 if bench.large else 2,
        num_key_value_heads=4 if bench.large else 1,
        attn_implementation="eager",
        use_cache=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return Qwen2ForCausalLM(config).to(bench.device)


def log_probabilities(model: Any, tokens: Any) -> Any:
    """Of each token given those before it, packed, entry t scoring t + 1; float32."""
    import torch

    with torch.autocast(tokens.device.type, torch.bfloat16):
        logits = model(tokens).logits
    scores = torch.log_softmax(logits.float(), -1)
    following = torch.roll(tokens, -1, 1)
    return scores.gather(-1, following.unsqueeze(-1)).reshape(-1)


def plainly(bench: Bench, algorithm: str) -> None:
    """Steps of plain torch with the project's masked AdamW: compact and dense, bit for bit."""
    import torch

    from subnetworks.training.engine.adamw import FORMS

    # What adds gradients up in another order each time would hide a difference, or feign one.
    torch.use_deterministic_algorithms(True)
    start = model_of(bench)
    n = sum(parameter.numel() for parameter in start.parameters())
    answers, length, prompt = (16, 256, 64) if bench.large else (4, 12, 4)
    draw = torch.Generator(bench.device).manual_seed(1)
    vocabulary = start.config.vocab_size
    tokens = torch.randint(1, vocabulary, (answers, length), device=bench.device, generator=draw)
    offsets = torch.arange(0, answers * length + 1, length, device=bench.device)
    answer = (torch.arange(length, device=bench.device) >= prompt).repeat(answers)
    masks = [
        torch.rand(p.shape, device=bench.device, generator=draw) < 0.2 for p in start.parameters()
    ]
    if algorithm == "grpo":
        tokens = sampled(start, tokens[: answers // 2, :prompt], length, draw)
    with torch.no_grad():
        reference = log_probabilities(start, tokens)
    loss_of = {"dpo": dpo_loss, "grpo": grpo_loss}[algorithm]
    ends: dict[str, list[Any]] = {}
    costs: dict[str, list[float]] = {}
    values: dict[str, list[float]] = {}
    for form in ("compact", "dense"):
        model = copy.deepcopy(start)
        used = FORMS[form](model.parameters(), zip(model.parameters(), masks, strict=True), **HOW)
        values[form] = []
        with bench.weighed() as costs[form]:
            for _ in range(4):
                used.zero_grad()
                loss = loss_of(log_probabilities(model, tokens), reference, answer, offsets)
                loss.backward()
                used.mask_gradients()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                used.step()
                values[form].append(float(loss))
        ends[form] = [parameter.detach().cpu() for parameter in model.parameters()]
        del model, used
    label = f"{algorithm.upper()}, plain torch"
    report(
        bench,
        label,
        values["compact"],
        ends,
        [p.detach().cpu() for p in start.parameters()],
        [mask.cpu() for mask in masks],
    )
    bench.tell(
        f"{label}: {n / 1e6:.2g} million weights, 4 steps",
        None,
        "; ".join(f"{form} {cost[0]:.2f} s{memory(cost)}" for form, cost in costs.items()),
    )


def report(
    bench: Bench,
    label: str,
    losses: list[float],
    ends: dict[str, list[Any]],
    start: Any,
    masks: Any,
) -> None:
    """What must hold of training within a mask, however it was trained."""
    import math

    shown = f"from {losses[0]:.4f} to {losses[-1]:.4f}" if losses else "none logged"
    bench.tell(
        f"{label}: losses are numbers", bool(losses) and all(map(math.isfinite, losses)), shown
    )
    inside = outside = 0
    for begin, end, mask in zip(start, ends["compact"], masks, strict=True):
        moved = begin != end
        inside += int((moved & mask).sum())
        outside += int((moved & ~mask).sum())
    bench.tell(f"{label}: weights moved inside the mask", inside > 0, f"{inside}")
    bench.tell(f"{label}: and none outside", outside == 0, f"{outside}")
    equal = all(bool((a == b).all()) for a, b in zip(ends["compact"], ends["dense"], strict=True))
    bench.tell(f"{label}: compact and dense end equal", equal)


def dpo_loss(scores: Any, reference: Any, answer: Any, offsets: Any) -> Any:
    """The project's DPO, sequences taken in pairs: the chosen answer, then the rejected one."""
    from subnetworks.training.objectives import losses

    policy, fixed = (
        losses.answer_log_probabilities(values, answer, offsets, mean=False)
        for values in (scores, reference)
    )
    return losses.dpo(policy[::2], policy[1::2], fixed[::2], fixed[1::2], 0.1)[0].mean()


def grpo_loss(scores: Any, reference: Any, answer: Any, offsets: Any) -> Any:
    """The clipped surrogate by groups of two, a fair coin for reward (verl's is not at hand)."""
    import torch

    coin = torch.Generator().manual_seed(2)
    n = len(offsets) - 1
    reward = torch.rand(n // 2, 2, generator=coin)
    advantage = (reward - reward.mean(1, keepdim=True)) / (reward.std(1, keepdim=True) + 1e-6)
    each = advantage.reshape(-1).to(scores.device).repeat_interleave(offsets.diff())
    ratio = torch.exp(scores - reference)
    surrogate = torch.minimum(ratio * each, ratio.clamp(0.8, 1.2) * each)
    scored = torch.roll(answer, -1, 0)
    return -(surrogate * scored).sum() / scored.sum()


def sampled(model: Any, prompts: Any, length: int, draw: Any) -> Any:
    """Two answers to each prompt, token by token at temperature 1."""
    import torch

    tokens = prompts.repeat_interleave(2, 0)
    with torch.no_grad():
        while tokens.shape[1] < length:
            with torch.autocast(tokens.device.type, torch.bfloat16):
                logits = model(tokens, use_cache=False).logits[:, -1]
            chosen = torch.multinomial(torch.softmax(logits.float(), -1), 1, generator=draw)
            tokens = torch.cat([tokens, chosen], 1)
    return tokens


def by_engine(bench: Bench, algorithm: str) -> None:
    """The run itself, as `train` does it: verl's engine, a mask, both forms of the optimiser."""
    import csv

    import torch
    from safetensors.torch import load_file
    from tiny import make_init, make_pairs

    from subnetworks.measuring import masks
    from subnetworks.training.runtime.run import train

    init, data = bench.folder / "init", bench.folder / "data"
    make_init(init, hidden_size=32)
    make_pairs(data) if algorithm == "dpo" else make_problems(data)
    start = load_file(init / "model.safetensors")
    draw = torch.Generator().manual_seed(0)
    inside = {name: torch.rand(w.shape, generator=draw) < 0.3 for name, w in start.items()}
    mask = bench.folder / "mask.safetensors"
    masks.write(mask, {name: bits.numpy() for name, bits in inside.items()})
    settings: dict[str, Any] = {"algorithm": algorithm, "steps": 4, "batch_size": 4}
    settings |= {"learning_rate": 1e-2, "weight_decay": 0.1}
    settings |= (
        {"max_length": 64}
        if algorithm == "dpo"
        else {"samples_per_prompt": 2, "max_prompt_length": 16, "max_response_length": 8}
        | {"reward": "random"}
    )
    ends: dict[str, list[Any]] = {}
    figures, losses = [], []
    for form in ("compact", "dense"):
        output, run = bench.folder / form, bench.folder / f"run-{form}"
        with used_memory(bench) as peak:
            started = time.perf_counter()
            train(
                settings | {"optimiser_state": form},
                init=init,
                data=data,
                output=output,
                run_folder=run,
                mask=mask,
                accelerator={"kind": bench.device.split(":")[0], "devices": 1},
            )
            seconds = time.perf_counter() - started
        figures.append(f"{form} {seconds:.0f} s{memory([0, *peak])}")
        with (run / "log.csv").open(newline="") as file:
            losses = [float(row["loss"]) for row in csv.DictReader(file)]
        end = load_file(output / "model.safetensors")
        ends[form] = [end[name] for name in start]
    label = f"{algorithm.upper()}, verl's engine"
    if algorithm == "grpo" and bench.large:
        # vLLM batches as requests arrive, so two runs on CUDA need not draw the same answers.
        ends["dense"] = ends["compact"]
        label += " (forms not compared)"
    report(bench, label, losses, ends, list(start.values()), list(inside.values()))
    bench.tell(f"{label}: 4 steps with all starts", None, "; ".join(figures))


def make_problems(folder: Path) -> None:
    """Sums, as on-policy runs read them."""
    import pyarrow
    import pyarrow.parquet

    rows = [
        {
            "prompt": [{"role": "user", "content": f"{a}+{b}="}],
            "data_source": "sums",
            "reward_model": {"style": "rule", "ground_truth": str(a + b)},
        }
        for a, b in itertools.product(range(4), range(10, 14))
    ]
    folder.mkdir()
    for name in ("train", "test"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{name}.parquet")


@contextlib.contextmanager
def used_memory(bench: Bench) -> Iterator[list[float]]:
    """MiB of the GPU that came into use meanwhile, by whatever process; nothing on a CPU."""
    found: list[float] = []
    if not bench.large:
        yield found
        return
    import torch

    least = before = torch.cuda.mem_get_info()[0]
    over = threading.Event()

    def watch() -> None:
        nonlocal least
        while not over.wait(0.1):
            least = min(least, torch.cuda.mem_get_info()[0])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()
        found.append((before - least) / 2**20)


def trained(algorithm: str) -> Callable[[Bench], None]:
    def part(bench: Bench) -> None:
        lacking = missing(ENGINE[algorithm])
        if bench.engine and not lacking:
            return by_engine(bench, algorithm)
        reason = f"no {lacking[0]}" if lacking else "asked to be left out"
        print(
            json.dumps(
                {
                    "check": f"{algorithm.upper()} by verl's engine",
                    "outcome": "skipped",
                    "figures": reason,
                }
            ),
            flush=True,
        )
        return plainly(bench, algorithm)

    return part


PARTS: dict[str, Callable[[Bench], None]] = {
    "optimiser": optimiser,
    "measure": measure,
    "rank": rank,
    "dpo": trained("dpo"),
    "grpo": trained("grpo"),
}


def missing(packages: tuple[str, ...]) -> list[str]:
    return [name for name in packages if importlib.util.find_spec(name) is None]


def device_here() -> tuple[str, str]:
    """The device to check, and what it is, in words."""
    if missing(("torch",)):
        return "cpu:0", "no torch here"
    import torch

    if torch.cuda.is_available():
        about = torch.cuda.get_device_properties(0)
        return (
            "cuda:0",
            f"{about.name}, {about.total_memory / 2**30:.0f} GiB, torch {torch.__version__}",
        )
    return "cpu:0", f"no GPU here: small sizes on the CPU, torch {torch.__version__}"


def run_part(name: str, options: argparse.Namespace, deadline: float) -> list[dict[str, str]]:
    """One part's lines; of a part that ends badly also one that says how."""
    if lacking := missing(NEEDS[name]):
        return [{"check": name, "outcome": "skipped", "figures": f"no {', '.join(lacking)}"}]
    left = deadline - time.monotonic()
    if left < 1:
        return [{"check": name, "outcome": "skipped", "figures": "no time left"}]
    command = [sys.executable, __file__, "--part", name, "--device", options.device]
    command += ["--plain"] if options.plain else []
    folder = Path(tempfile.mkdtemp(prefix="subnetworks-gpu-", dir=options.folder))
    try:
        with open(folder / "errors.txt", "w+") as errors:
            process = subprocess.Popen(
                [*command, "--folder", str(folder)],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ,
            )
            try:
                said, _ = process.communicate(timeout=left)
                ended = f"ended with status {process.returncode}" if process.returncode else ""
            except subprocess.TimeoutExpired:
                process.terminate()
                said, _ = process.communicate()
                ended = f"not done within {left:.0f} s"
            errors.seek(0)
            last = [line for line in errors.read().splitlines() if line.strip()][-1:]
        lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        if ended:
            lines.append(
                {"check": name, "outcome": "FAILED", "figures": ": ".join([ended, *last])[:300]}
            )
        return lines
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Run what is asked for; all by default."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (all)")
    parser.add_argument("--device", help="torch's name of it (the first GPU, else the CPU)")
    parser.add_argument("--seconds", type=float, default=840, help="for all together (840)")
    parser.add_argument(
        "--plain", action="store_true", help="train without verl, even if it is here"
    )
    parser.add_argument("--folder", type=Path, help="where files are written for a while")
    parser.add_argument("--part", choices=[*PARTS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        PARTS[options.part](Bench(options.device, not options.plain, options.folder))
        return 0
    if unknown := set(options.parts) - PARTS.keys():
        parser.error(f"no part {min(unknown)!r}; there are: {', '.join(PARTS)}")
    found, words = device_here()
    options.device = options.device or found
    print(
        f"{options.device}: {words}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    deadline = time.monotonic() + options.seconds
    lines = []
    for name in options.parts or PARTS:
        started = time.monotonic()
        lines += run_part(name, options, deadline)
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
    width = max(len(line["check"]) for line in lines)
    print()
    for line in lines:
        print(f"{line['outcome']:9}{line['check']:{width}}  {line['figures']}".rstrip())
    counts = {
        word: sum(line["outcome"] == word for line in lines)
        for word in ("passed", "FAILED", "skipped")
    }
    print("\n" + ", ".join(f"{number} {word}" for word, number in counts.items()))
    return 1 if counts["FAILED"] or not counts["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
