"""What training within a mask saves of a trainer's memory, part by part, before it is tried."""

from dataclasses import astuple, dataclass

from subnetworks.experiment.estimates import FLOAT32

_INDEX = 4


@dataclass(frozen=True)
class Parts:
    """Bytes over all devices, without activations, which a mask leaves as they are.

    Attributes:
        weights: float32 weights.
        gradients: their gradients, whole: a backward pass gives all entries of a matrix.
        moments: AdamW's two for every entry that is trained.
        indices: which entries these are; int32, of a mask alone.
    """

    weights: float
    gradients: float
    moments: float
    indices: float

    @property
    def sum(self) -> float:
        """All of them together."""
        return float(sum(astuple(self)))


def parts(weights: float, density: float | None = None) -> Parts:
    """The memory of training so many weights.

    Args:
        weights: how many the model has.
        density: the share of them that the mask has; None without a mask.

    As `subnetworks.training.engine.adamw.CompactAdamW` keeps them.
    """
    trained = weights if density is None else density * weights
    indices = 0.0 if density is None else _INDEX * trained
    return Parts(FLOAT32 * weights, FLOAT32 * weights, 2 * FLOAT32 * trained, indices)


def rows_needed(density: float, columns: int) -> float:
    """The expected share of a matrix's rows with an entry of a mask that is spread evenly."""
    return 1 - (1 - density) ** columns
