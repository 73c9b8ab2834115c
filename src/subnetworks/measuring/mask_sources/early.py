"""What had changed after the first steps of a run that keeps its trajectory."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from subnetworks.core.files import kept_steps, step_file
from subnetworks.core.validation import Name, Place, Positive, SettingsModel
from subnetworks.measuring.mask_making import MaskSettings, Request


class Steps(SettingsModel):
    """The first steps of a run that keeps its trajectory."""

    run: Name = Field(description="A run with trajectory_every.")
    steps: Positive = Field(description="One of the steps that it keeps.")


class Early(MaskSettings):
    """What had changed (Δ ≠ 0) after the first steps of a run."""

    made_of: ClassVar[str] = "step of a trajectory"
    reads: ClassVar[tuple[str, ...]] = ("trajectory",)

    early: Steps

    @property
    def run(self) -> str:
        """See `MaskSettings.run`."""
        return self.early.run

    def refused(self, run: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
        """See `MaskSettings.refused`: the run keeps its weights at that step."""
        place, name, step = ("early", "steps"), self.early.run, self.early.steps
        every = run.get("trajectory_every", 0)
        if "steps" not in run:
            # How many steps its epochs are is known with its data.
            if not every or step % every:
                yield (
                    place,
                    f"the run {name!r} keeps its weights every {every} steps, not at {step}",
                )
            return
        kept = kept_steps(every, run["steps"])
        if step not in kept:
            there = ", ".join(map(str, kept)) or "none (trajectory_every)"
            yield place, f"the run {name!r} keeps no step {step}; there are: {there}"

    def command(self, files: Mapping[str, Any], run: Mapping[str, Any]) -> str:
        """See `MaskSettings.command`."""
        return f"early {step_file(Path(files['trajectory']).parent, self.early.steps)}"


SETTINGS = Early


def make(request: Request) -> int:
    """Write the mask of what differs between a step's delta and its base."""
    from subnetworks.checkpoints.deltas import base_of
    from subnetworks.measuring import updates
    from subnetworks.measuring.masks import Mask

    (delta,) = request.sources
    updates.measure(base_of(delta), delta, mask=request.output)
    return int(Mask.open(request.output).metadata["changed"])
