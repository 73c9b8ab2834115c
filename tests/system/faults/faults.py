"""The faults: what is done to a stage, and what must come of it."""

import contextlib
import ctypes
import json
import os
import re
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stages import STAGES, Stage
from trial import SAME, Campaign, last_line
from workspace import Done, Running, halted, lives

TRAININGS = tuple(name for name in STAGES if name.startswith("train "))


@dataclass(frozen=True)
class Fault:
    """One entry of the campaign: `act` does it all and gives the outcome in words."""

    name: str
    stage: str
    act: Callable[[], str]
    fast: bool = False


def chosen(campaign: Campaign, fast: bool, words: str) -> Iterator[Fault]:
    """The faults to try: of the stages that the experiment has, and that this user may try."""
    mounting = can_mount()
    for fault in _all(campaign):
        if fault.name == "disk full" and not mounting:
            print(f"not tried, it needs root: {fault.name} | {fault.stage}")
        elif re.search(words, f"{fault.name} | {fault.stage}") and (fault.fast or not fast):
            yield fault


def _all(c: Campaign) -> Iterator[Fault]:
    for name, stage in STAGES.items():
        for words, act, fast in (
            ("SIGKILL, workflow and all its jobs", kill_group, "train dpo"),
            ("SIGKILL, the stage's process only", kill_worker, "mask"),
            ("SIGKILL, Snakemake only", kill_snakemake, "rank"),
        ):
            yield Fault(words, name, partial(act, c, stage), name == fast)
    for name in TRAININGS:
        yield Fault("SIGTERM (preemption)", name, partial(terminate, c, STAGES[name]))
    for name in ("measure", "mask", "train dpo", "evaluate", "table", "figure"):
        yield Fault("disk full", name, partial(full_disk, c, STAGES[name]))
    yield Fault("server killed", "evaluate", partial(lost_server, c))
    for name, file in (
        ("measure", "checkpoints/dpo/model.safetensors"),
        ("rank", "checkpoints/dpo/model.safetensors"),
        ("overlap", "checkpoints/sft/model.safetensors"),
        ("evaluate", "checkpoints/dpo/model.safetensors"),
        ("evaluate", "benchmarks/math500/test.jsonl"),
        ("train dpo", "checkpoints/sft/model.safetensors"),
        ("train dpo", "data/pairs/train.parquet"),
        ("trajectory", "runs/dpo/trajectory/step_000006.safetensors"),
        ("mask", "masks/dpo.safetensors"),
        ("overlap", "masks/dpo_subnetwork.safetensors"),
        ("train dpo_subnetwork", "masks/dpo.safetensors"),
        ("table", "updates/dpo.json"),
        ("report", "tables/table_1_update_sparsity.csv"),
    ):
        fast = name == "rank"
        yield from _damages(c, STAGES[name], file, {"one bit flipped": flip}, fast)
        yield from _damages(c, STAGES[name], file, {"cut short": cut}, name == "report")
    for target, file in (
        ("figures/figure_3_layerwise_sparsity.png", "updates/dpo.parquet"),
        ("figures/figure_4_training_loss.png", "runs/dpo/log.csv"),
        ("figures/figure_2_gradient_shares.png", "trajectories/dpo.json"),
        ("tables/table_2_update_rank.csv", "updates/dpo.rank.json"),
        ("tables/table_3_subnetwork_accuracy.csv", "evaluation/dpo/math500.json"),
        ("tables/table_3_subnetwork_accuracy.csv", "evaluation/dpo/math500.samples.parquet"),
        ("tables/table_4_overlap.csv", "overlaps/dpo_both.json"),
    ):
        stage = Stage(Path(target).stem, target, (target,), Path(target).stem)
        yield from _damages(c, stage, file, {"cut short": cut, "one bit flipped": flip}, False)
        if file.endswith(".csv"):
            yield from _damages(c, stage, file, {"cut at the end of a line": cut_line}, True)
        if file.endswith(".json"):
            yield from _damages(c, stage, file, {"one digit changed": digit}, False)
    yield Fault("NaN and infinity in weights", "measure", partial(not_finite, c, "measure"), True)
    yield Fault("NaN and infinity in weights", "rank", partial(not_finite, c, "rank"))
    yield Fault("NaN in the start model", "train dpo", partial(diverging, c))
    yield Fault("mask of another base", "train dpo_subnetwork", partial(other_base, c), True)
    yield Fault("two workflows at once", "measure", partial(locked, c), True)
    for name in ("measure", "train dpo", "make base"):
        act = partial(side_by_side, c, STAGES[name])
        yield Fault("two workflows at once, without Snakemake's lock", name, act)


def _damages(
    c: Campaign, stage: Stage, file: str, damages: dict[str, Callable[[Path], None]], fast: bool
) -> Iterator[Fault]:
    for words, damage in damages.items():
        act = partial(damaged, c, stage, file, damage)
        yield Fault(f"{words}: {file}", stage.name, act, fast)


def begin(c: Campaign, stage: Stage, *options: str) -> tuple[Running, int]:
    """Have a stage made again; gives the workflow and, once it is there, the stage's process."""
    c.work.remove(*stage.outputs)
    running = c.work.start(*c.target(stage), options=options)
    deadline = time.monotonic() + 300
    while (worker := c.work.worker(stage.worker)) is None:
        if running.process.poll() is not None or time.monotonic() > deadline:
            done = running.wait()
            raise RuntimeError(f"{stage.name} never ran: {done.error or last_line(done)}")
        time.sleep(0.005)
    return running, worker


def moment(c: Campaign, stage: Stage) -> float:
    """Seconds into a stage's life at which it is disturbed: any, as long as it lives."""
    longest = c.durations.get(stage.name, max(1.0, c.work.seconds(stage.target)))
    return c.random.uniform(0, longest)


def killing(c: Campaign, stage: Stage, kill: Callable[[Running, int], None]) -> Done:
    """Disturb a stage at a random moment; an earlier one if it has ended by then."""
    wait = moment(c, stage)
    for _ in range(6):
        running, worker = begin(c, stage)
        begun = time.monotonic()
        while time.monotonic() - begun < wait and lives(worker):
            time.sleep(0.002)
        if not halted(worker):
            c.durations[stage.name] = time.monotonic() - begun
            wait *= 0.6
            running.wait()
            c.restore()
            continue
        kill(running, worker)
        with contextlib.suppress(OSError):
            os.kill(worker, signal.SIGCONT)  # who was not killed goes on
        c.note = f"{time.monotonic() - begun:.1f} s in"
        return running.wait()
    raise RuntimeError(f"{stage.name} ended each time before it was disturbed")


def kill_group(c: Campaign, stage: Stage) -> str:
    killing(c, stage, lambda running, worker: running.kill_group())
    if not c.work.gone(30):
        left = next(iter(c.work.processes().values()))
        return f"WRONG: still running after 30 s: {left[:100]}"
    c.work.unlock()
    return rerun_killed(c, stage)


def rerun_killed(c: Campaign, stage: Stage) -> str:
    """Run again; where a training went on from is noted beside the moment of the kill."""
    outcome = c.rerun(stage)
    if stage.name in TRAININGS and outcome == SAME:
        c.note += f", resumed from step {resumed_from(c, stage)}"
    return outcome


def run_folder(c: Campaign, stage: Stage) -> Path:
    """Where a training keeps its log and its unfinished state."""
    return c.work.results / "runs" / stage.name.removeprefix("train ")


def resumed_from(c: Campaign, stage: Stage) -> int:
    """The step that a finished training went on from; 0 if it was not interrupted."""
    meta = json.loads((run_folder(c, stage) / "log.csv.meta.json").read_text())
    return int(meta["resumed_from_step"])


def kill_worker(c: Campaign, stage: Stage) -> str:
    done = killing(c, stage, lambda running, worker: os.kill(worker, signal.SIGKILL))
    if done.status == 0:
        return "WRONG: the workflow took it for done"
    return rerun_killed(c, stage)


def kill_snakemake(c: Campaign, stage: Stage) -> str:
    """Its jobs live on, and may still write when the rerun begins."""
    killing(c, stage, lambda running, worker: running.process.kill())
    c.work.unlock()
    done = c.work.run(*c.target(stage))
    if done.status == 0:
        different = c.compare()
        return f"WRONG: {len(different)} differ: {different[0]}" if different else SAME
    if done.trace or not done.error:
        return f"WRONG: unclear: {done.error or last_line(done)}"
    c.work.gone(120)
    return c.rerun(stage, f"“{shown(c, done.error)}”, then")


def terminate(c: Campaign, stage: Stage) -> str:
    """As a cluster does: SIGTERM to every process of the job, once two steps have been made."""
    running, _ = begin(c, stage)
    state = run_folder(c, stage) / "state"
    while not any(file.read_text().count("\n") > 1 for file in state.glob("steps-*.jsonl")):
        if running.process.poll() is not None:
            return "WRONG: it ended before it was preempted"
        time.sleep(0.02)
    for pid in c.work.processes():
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGTERM)
    done = running.wait()
    if done.status == 0:
        return "WRONG: the workflow took it for done"
    c.work.gone(60)
    saved = sorted(int(p.name.rpartition("_")[2]) for p in state.glob("global_step_*"))
    outcome = c.rerun(stage, f"saved at step {max(saved, default=0)}")
    step = resumed_from(c, stage)
    if not step:
        return f"WRONG: started over; {outcome}"
    return outcome.replace(SAME, f"resumed from step {step}, {SAME}")


def refused(c: Campaign, done: Done, *names: str) -> str | None:
    """What is unclear about a refusal: it must be one line that names what is wrong."""
    if done.status == 0:
        return "WRONG: taken for right"
    if done.trace or not done.error:
        return f"WRONG: unclear: {done.error or last_line(done)}"
    if missing := [name for name in names if name not in done.error]:
        return f"WRONG: does not name {missing[0]}: {done.error}"
    return None


def shown(c: Campaign, text: str) -> str:
    """An error's line without the folder that only this campaign has."""
    text = text.replace(f"{c.work.results}/", "").replace(f"results/{c.work.name}/", "")
    return text if len(text) < 300 else text[:297] + "…"


def damaged(c: Campaign, stage: Stage, file: str, damage: Callable[[Path], None]) -> str:
    """A finished file is damaged, then read by a later stage; whoever reads it must refuse it."""
    path = c.work.results / file
    intact, stat = path.read_bytes(), path.stat()
    c.work.remove(*stage.outputs)
    with c.watcher.blind():
        damage(path)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        c.watcher.ignored = {path}
    done = c.work.run(*c.target(stage))
    if wrong := refused(c, done, path.name):
        return wrong
    path.write_bytes(intact)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return c.rerun(stage, f"“{shown(c, done.error)}”, mended")


def cut(path: Path) -> None:
    """Lose the last third."""
    with open(path, "rb+") as file:
        file.truncate(path.stat().st_size * 2 // 3)


def cut_line(path: Path) -> None:
    """Lose the last third of the lines."""
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: len(lines) * 2 // 3]))


def flip(path: Path) -> None:
    """Flip one bit in the middle, of a safetensors file in its data."""
    content = bytearray(path.read_bytes())
    start = 0
    if path.suffix == ".safetensors":
        start = 8 + struct.unpack_from("<Q", content)[0]
    content[(start + len(content)) // 2] ^= 0x10
    path.write_bytes(content)


def digit(path: Path) -> None:
    """Change one digit of the last number that has several."""
    content = path.read_bytes()
    found = list(re.finditer(rb"\d(?=\d)", content))[-1]
    other = b"1" if found[0] != b"1" else b"2"
    path.write_bytes(content[: found.start()] + other + content[found.end() :])


def full_disk(c: Campaign, stage: Stage) -> str:
    """The results lie on a file system of their own, on which next to nothing is left."""
    with filesystem(c) as ballast:
        c.work.remove(*stage.outputs)
        running = c.work.start(*c.target(stage))
        if stage.name in TRAININGS:
            state = run_folder(c, stage) / "state"
            while not list(state.rglob("model_world_size_*.pt")):
                if running.process.poll() is not None:
                    return f"WRONG: ended too early: {last_line(running.wait())}"
                time.sleep(0.01)
        elif stage.name == "evaluate":
            while not list(c.work.results.rglob(".*.answers.jsonl")):
                if running.process.poll() is not None:
                    return f"WRONG: ended too early: {last_line(running.wait())}"
                time.sleep(0.01)
        ballast.fill()
        done = running.wait()
        if wrong := refused(c, done, "disk"):
            return wrong
        ballast.release()
        return c.rerun(stage, f"“{shown(c, done.error)}”, then with room")


class Ballast:
    """A file that takes up what is left of a file system."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".ballast"

    def fill(self) -> None:
        """Leave nothing."""
        with open(self.path, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"\0" * 4096)

    def release(self) -> None:
        """Give it back."""
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def filesystem(c: Campaign) -> Iterator[Ballast]:
    """A small file system in memory in place of the results folder, with the results on it."""
    size = sum(path.stat().st_size for path in c.work.results.rglob("*") if path.is_file())
    kept = c.work.folder / "aside"
    with c.watcher.blind():
        os.rename(c.work.results, kept)
        c.work.results.mkdir()
        mount("tmpfs", c.work.results, size + (64 << 20))
        subprocess.run(["cp", "-a", f"{kept}/.", str(c.work.results)], check=True)
    try:
        yield Ballast(c.work.results)
    finally:
        c.work.end_all()
        with c.watcher.blind():
            umount(c.work.results)
            c.work.results.rmdir()
            os.rename(kept, c.work.results)


def can_mount() -> bool:
    """Whether this process may mount."""
    return os.geteuid() == 0 and subprocess.run(["unshare", "-m", "true"]).returncode == 0


def mount(kind: str, where: Path, size: int) -> None:
    """Mount a file system in memory; `OSError` where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(kind.encode(), str(where).encode(), kind.encode(), 0, f"size={size}".encode()):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def umount(where: Path) -> None:
    """Take it away again, as soon as nobody uses it."""
    lazily = 2
    ctypes.CDLL(None).umount2(str(where).encode(), lazily)


def lost_server(c: Campaign) -> str:
    stage = STAGES["evaluate"]
    running, worker = begin(c, stage)
    answers = c.work.results / "evaluation/dpo/.math500.answers.jsonl"
    while not answers.exists():
        if running.process.poll() is not None:
            return "WRONG: it ended before its server was killed"
        time.sleep(0.002)
    # It is stopped meanwhile: the server answers all its questions within half a second.
    os.kill(worker, signal.SIGSTOP)
    for pid, words in c.work.processes().items():
        if "vllm" in words.lower() and "watchdog" not in words:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
    os.kill(worker, signal.SIGCONT)
    done = running.wait()
    if wrong := refused(c, done, "server"):
        return wrong
    return c.rerun(stage, f"“{shown(c, done.error)}”, then")


NOT_FINITE = """
import sys
import torch
from safetensors.torch import load_file, save_file
tensors = load_file(sys.argv[1])
first = sorted(tensors)[0]
tensors[first].view(-1)[:3] = torch.tensor([float("nan"), float("inf"), float("-inf")])
save_file(tensors, sys.argv[2], metadata={"format": "pt"})
"""


def spoiled(c: Campaign, checkpoint: str) -> Path:
    """A copy of a checkpoint, without a manifest, with a NaN and two infinities in its weights."""
    source, copy = c.work.results / "checkpoints" / checkpoint, c.work.folder / "spoiled"
    subprocess.run(["rm", "-rf", str(copy)], check=True)
    subprocess.run(["cp", "-a", str(source), str(copy)], check=True)
    for name in ("manifest.json", "manifest.json.meta.json"):
        (copy / name).unlink()
    file = "model.safetensors"
    done = c.work.command("measure", str(source / file), str(copy / file), code=NOT_FINITE)
    assert done.status == 0, done.output
    return copy


def not_finite(c: Campaign, verb: str) -> str:
    """Counted and said."""
    before = str(c.work.results / "checkpoints/sft")
    after = str(spoiled(c, "dpo"))
    output = c.work.folder / "spoiled.json"
    done = c.work.command("measure", verb, before, after, "--json", str(output))
    said = [line.strip() for line in done.output.splitlines() if "NaN or infinite" in line]
    if done.status and done.error and "NaN" in done.error:
        return f"“{shown(c, done.error.replace(str(c.work.folder) + '/', ''))}”"
    if done.status:
        return f"WRONG: unclear: {last_line(done)}"
    if not said or not re.search(r"\b3\b", said[0]):
        return "WRONG: not a word of it"
    if verb == "measure" and json.loads(output.read_text())["nonfinite"]["either"] != 3:
        return "WRONG: miscounted"
    return f"counted: “{said[0]}”"


def diverging(c: Campaign) -> str:
    """A run from weights that hold NaN: no loss is a number, and no checkpoint may come of it."""
    work = c.work
    output = work.folder / "diverged"
    subprocess.run(["rm", "-rf", str(output)], check=True)
    settings = {"algorithm": "dpo", "steps": 4, "batch_size": 8, "learning_rate": 1e-5}
    done = work.command(
        "train-cpu",
        *("train", "--settings", json.dumps(settings | {"max_length": 64})),
        *("--init", str(spoiled(c, "sft")), "--data", str(work.results / "data/pairs")),
        *("--output", str(output / "end"), "--run-folder", str(output / "run")),
        *("--accelerator", json.dumps({"kind": "cpu", "devices": 1, "threads": 1})),
    )
    if (output / "end").exists():
        return "WRONG: published"
    if wrong := refused(c, done):
        return wrong
    return f"“{shown(c, done.error.replace(str(work.folder) + '/', ''))}”"


def other_base(c: Campaign) -> str:
    """The mask of an update of the start model offered to a run that starts from another."""
    work = c.work
    output = work.folder / "other"
    subprocess.run(["rm", "-rf", str(output)], check=True)
    settings = {"algorithm": "dpo", "steps": 4, "batch_size": 8, "learning_rate": 1e-5}
    done = work.command(
        "train-cpu",
        *("train", "--settings", json.dumps(settings | {"max_length": 64})),
        *("--init", str(work.results / "checkpoints/base")),
        *("--data", str(work.results / "data/pairs")),
        *("--mask", str(work.results / "masks/dpo.safetensors")),
        *("--output", str(output / "end"), "--run-folder", str(output / "run")),
        *("--accelerator", json.dumps({"kind": "cpu", "devices": 1, "threads": 1})),
    )
    return refused(c, done, "masks/dpo.safetensors", "base") or f"“{shown(c, done.error)}”"


def locked(c: Campaign) -> str:
    stage = STAGES["measure"]
    running, _ = begin(c, stage)
    second = c.work.run(*c.target(stage))
    first = running.wait()
    if first.status:
        return f"WRONG: the first failed: {first.error or last_line(first)}"
    if second.status == 0 or not second.error:
        return f"WRONG: the second: {last_line(second)}"
    if different := c.compare():
        return f"WRONG: {len(different)} results differ, {different[0]} among them"
    return f"the second: “{shown(c, second.error)}”; the first: same results"


def side_by_side(c: Campaign, stage: Stage) -> str:
    """Both make the same; either may fail with a line, but nothing wrong may stand at the end."""
    first, _ = begin(c, stage, "--nolock")
    second = c.work.start(*c.target(stage), options=("--nolock",))
    ends = [first.wait(), second.wait()]
    said = []
    for done in ends:
        if done.status == 0:
            continue
        # Snakemake removes what it is about to make anew, from under the other one's hands.
        of_snakemake = re.search(
            r"some output files are missing|The files below seem to be incomplete", done.output
        )
        if done.trace or not (done.error or of_snakemake):
            return f"WRONG: unclear: {done.error or last_line(done)}"
        said.append(f"“{shown(c, done.error or of_snakemake[0])}”")
    return c.rerun(stage, "; ".join(dict.fromkeys(said)) or "both done")
