"""Figure 6: what training changes on its way but not in the end."""

import polars
from matplotlib.figure import Figure

from subnetworks.figures import over_training
from subnetworks.results import Context

NAME = "figure_6_outside_final_mask"
TITLE = "Figure 6. Changed at a step, but outside the final subnetwork"
ALT = (
    "One line a run: the share of weights that differ from the init at a saved step and equal it "
    "again at the end, rising from 0 and returning to it; ours at the left, the paper's PRIME run "
    "on grey ground at the right."
)
_VALUE = "outside_final_pct"
SCHEMA = {**over_training.SCHEMA, _VALUE: polars.Float64}


def draw(context: Context) -> tuple[Figure, polars.DataFrame]:
    """Draw `spec["runs"]`, each with `run`, `algorithm` and maybe `label`.

    Share of all weights with Δ ≠ 0 between the init and a step, but not between the init and the
    last. Source: Figure 6.
    """
    entries = over_training.runs(context, NAME)
    ours = [
        over_training.steps(context, entry, outside_final_pct="outside_final_share")
        for entry in entries
    ]
    theirs = over_training.digitised(
        context.paper("figure6_changed_outside_final_mask_digitised"),
        "changed_outside_final_mask_pct",
        _VALUE,
    )
    figure, frame = over_training.beside_the_paper(
        polars.concat(ours), theirs, _VALUE, "changed, but not in\nthe final mask (%)"
    )
    figure.axes[0].set_ylim(bottom=0)
    return figure, frame
