"""What the report says wherever it says it."""

from collections.abc import Sequence

from subnetworks.artefacts.claims import Claim
from subnetworks.report.held_out import HeldOut
from subnetworks.report.origins import Origins
from subnetworks.report.settings import RunSettings
from subnetworks.report.times import PARTS, Times

SOURCE = "arXiv 2505.11711"
CONTROLS_HEADING = "What readers ask next"
LEGEND = (
    "Appears: yes; unclear, in part of the runs or within the noise (two standard errors); no. "
    "Written from the finished tables."
)
DEFINITIONS = (
    ("update", "the change between two checkpoints, before and after training"),
    (
        "sparsity",
        "the share of weights that an update leaves unchanged: by the paper's rule two bf16 "
        "weights are the same if they differ by at most 1e-5; beside it bit for bit",
    ),
    ("subnetwork, mask", "the weights that an update changed, stored as a bit map"),
    ("full, within the mask", "training of all weights, and of those of a mask only"),
    (
        "overlap",
        "two masks compared: o1 and o2 are the shares of the first and of the second that both "
        "hold",
    ),
    (
        "chance",
        "the overlap of masks of the same sizes placed at random: anywhere (uniform), within each "
        "tensor, or within each tensor and power-of-two bin of the initial weight (by magnitude)",
    ),
)
_HEADS = {
    "algorithm": "algorithm",
    "seed": "seed",
    "steps": "steps",
    "batch_size": "batch",
    "samples_per_prompt": "samples a prompt",
    "learning_rate": "learning rate",
    "schedule": "schedule",
    "warmup_steps": "warm-up steps",
    "weight_decay": "weight decay",
}


def missing(found: Sequence[Claim]) -> list[str]:
    """What did not reproduce: a paragraph for the absent, one for the unclear."""
    absent = [finding.claim for finding in found if finding.appears == "no"]
    doubtful = [finding.claim for finding in found if finding.appears == "unclear"]
    words = [f"Does not appear here: {'; '.join(absent) or 'nothing of the above'}."]
    if doubtful:
        words.append(f"Unclear: {'; '.join(doubtful)}.")
    return words


def settings_table(runs: Sequence[RunSettings]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the runs' settings; settings that no run has are left out."""
    keys = [key for key in _HEADS if any(run.cells[key] != "–" for run in runs)]
    heads = ["run", "init", "data", "mask", *(_HEADS[key] for key in keys), "time", "further"]
    rows = [
        [
            *(run.name, run.init, run.data, run.mask),
            *(run.cells[key] for key in keys),
            duration(run.seconds),
            "; ".join(run.further),
        ]
        for run in runs
    ]
    return heads, rows


HELD_OUT = (
    "Measured during training (validate_every) on rows that it does not see. Accuracy is the share "
    "of right answers, one sampled to each problem, or, of preferences, the share whose margin is "
    "above 0; ± is its standard error over these rows. Best is the lowest loss or the highest "
    "accuracy."
)
HELD_OUT_HEADS = ("run", "measure", "rows", "first", "best", "last")  # a page adds the curve


def held_out_table(found: Sequence[HeldOut]) -> list[tuple[str, ...]]:
    """Rows under `HELD_OUT_HEADS`: what runs scored on rows held out, and at which steps."""

    def at(one: HeldOut, step: int) -> str:
        return f"{one.shown(step)} (step {step})"

    return [
        (
            one.run,
            one.measure,
            "–" if one.examples is None else str(one.examples),
            *(at(one, step) for step in (min(one.values), one.best, max(one.values))),
        )
        for one in found
    ]


STAGE_HEADS = ("stage", "jobs", "time in all", "share", "longest job", "largest process")
PART_HEADS = ("spent on", "time in all", "share", "what counts")


def stages_table(origins: Origins) -> list[tuple[str, ...]]:
    """Rows under `STAGE_HEADS`: time and memory by stage."""
    return [
        (
            stage.verb,
            str(stage.jobs),
            duration(stage.seconds),
            f"{stage.seconds / (origins.seconds or 1):.1%}",
            duration(stage.longest),
            size(stage.peak_bytes),
        )
        for stage in origins.stages
    ]


def parts_table(times: Times) -> list[tuple[str, ...]]:
    """Rows under `PART_HEADS`: on what the time was spent."""
    return [
        (part, duration(seconds), f"{seconds / times.seconds:.1%}", PARTS[part])
        for part, seconds in times.parts.items()
    ]


def times_in_words(origins: Origins, times: Times) -> str:
    """How many jobs, how long they took one after the other and side by side, and the waits."""
    return (
        f"{origins.jobs} jobs took {duration(times.seconds)}, one after the other; as they ran, "
        f"{times.side_by_side:.1f} at a time, {duration(times.working)}. For "
        f"{duration(times.waiting)} between the first and the last no job ran: environments were "
        "built, jobs planned, or nobody had the experiment run. The largest process held "
        f"{size(origins.peak_bytes)}."
    )


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, as befits."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def size(number: float) -> str:
    """Bytes as MiB or GiB."""
    mebibytes = number / 2**20
    return f"{mebibytes:.0f} MiB" if mebibytes < 1000 else f"{mebibytes / 1024:.1f} GiB"
