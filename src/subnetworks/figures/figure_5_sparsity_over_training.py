"""Figure 5: the longer a run trains, the fewer weights it leaves unchanged."""

import polars
from matplotlib.figure import Figure

from subnetworks.figures import over_training
from subnetworks.results import Context

NAME = "figure_5_sparsity_over_training"
TITLE = "Figure 5. Sparsity against the init over training"
ALT = (
    "One line a run: the share of weights that still equal the init at each saved step, falling "
    "from 100 %; ours at the left, the paper's PRIME run on grey ground at the right."
)
_VALUE = "sparsity_pct"
SCHEMA = {**over_training.SCHEMA, _VALUE: polars.Float64}


def draw(context: Context) -> tuple[Figure, polars.DataFrame]:
    """Draw `spec["runs"]`, each with `run`, `algorithm` and maybe `label`.

    Sparsity is the paper's, |Δ| ≤ 1e-5, between the init and each saved step. Source: Figure 5.
    """
    entries = over_training.runs(context, NAME)
    ours = [over_training.steps(context, entry, sparsity_pct="sparsity") for entry in entries]
    theirs = over_training.digitised(
        context.paper("figure5_prime_sparsity_by_step_digitised"), "sparsity_pct", _VALUE
    )
    figure, frame = over_training.beside_the_paper(
        polars.concat(ours), theirs, _VALUE, "weights left unchanged (%)"
    )
    lowest = float(frame[_VALUE].min() or 0)  # type: ignore[arg-type]
    figure.axes[0].set_ylim(max(0, 10 * ((lowest - 1) // 10)), 101)
    return figure, frame
