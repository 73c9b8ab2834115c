"""The entries that the null model of sparsity thinks likeliest to change."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from subnetworks.core.errors import UserError
from subnetworks.core.schedule import warmup_of
from subnetworks.core.validation import Place
from subnetworks.measuring.mask_making import OfRun, Predicted, Request

if TYPE_CHECKING:
    from subnetworks.measuring.scores import Scores

_OPTIMISER = (
    "learning_rate",
    "steps",
    "schedule",
    "warmup_steps",
    "betas",
    "weight_decay",
    "updates_per_step",
)
_KEYS = (*_OPTIMISER, "save_dtype")


class ByNullModel(Predicted):
    """The entries that the null model of sparsity thinks likeliest to change.

    It knows the init and the optimiser's settings, and takes gradients for noise.
    """

    made_of: ClassVar[str] = "checkpoint"
    reads: ClassVar[tuple[str, ...]] = ("init",)
    options: ClassVar[tuple[str, ...]] = ("like", "density", "settings")

    predicted: OfRun

    def refused(self, run: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
        """See `MaskSettings.refused`: how many steps an epoch has is not known here, and the null
        model is one of float32 master weights."""
        if run.get("epochs") is not None:
            name = self.predicted.run
            yield ("predicted", "run"), f"the run {name!r} has epochs: give it steps instead"
        if (kept := run.get("master_weights", "float32")) != "float32":
            yield (
                ("predicted", "run"),
                f"the run {self.predicted.run!r} has master_weights {kept!r}: the null model is "
                "one of float32 master weights",
            )

    def settings(self, run: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Predicted.settings`: those of the run that the null model knows."""
        known = {key: run[key] for key in _KEYS if key in run}
        if run.get("warmup_ratio") is not None:
            known["warmup_steps"] = warmup_of(run["warmup_ratio"], run["steps"])
        return {"settings": known}


SETTINGS = ByNullModel


def scores(request: Request) -> "Scores":
    """The scores by which it is made."""
    settings = request.options.get("settings")
    if not isinstance(settings, Mapping):
        raise UserError("predicted: needs the run's settings as JSON: --set settings='{…}'")
    return of_checkpoint(request.sources[0], settings)


def of_checkpoint(source: str, settings: Mapping[str, Any]) -> "Scores":
    """The probability that each entry of a checkpoint changes in a run with these settings."""
    import numpy as np

    from subnetworks.measuring.null_model import FORMATS, Optimiser, probability_of_change
    from subnetworks.measuring.scores import Values, of_weights

    if missing := [key for key in ("learning_rate", "steps") if key not in settings]:
        raise UserError(f"predicted: the run's settings lack {missing[0]!r}")
    known = {key: settings[key] for key in _OPTIMISER if key in settings}
    if "betas" in known:
        known["betas"] = tuple(known["betas"])
    optimiser = Optimiser(**known)
    dtype = FORMATS[settings.get("save_dtype", "bfloat16")]

    def chance(weights: Values) -> Values:
        found = probability_of_change(weights, optimiser, dtype=dtype)
        return np.maximum(found, 0).astype(np.float32)

    return of_weights(source, chance)
