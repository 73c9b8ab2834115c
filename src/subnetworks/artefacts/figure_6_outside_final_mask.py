"""Figure 6: what training changes on its way but not in the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from subnetworks.artefacts import over_training, shared
from subnetworks.artefacts.base import Figure, rows_of
from subnetworks.artefacts.claims import Claim, all_hold, listed
from subnetworks.artefacts.lazy import polars
from subnetworks.artefacts.published import Published, Quotes
from subnetworks.core.results import Context

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

TITLE = "Figure 6. Changed at a step, but outside the final subnetwork"
CAPTION = (
    "**Outside the final subnetwork.** Share of all weights that differ from the init at a "
    "saved step but not at the last one. On grey ground the paper's PRIME run, read off its "
    "plot (±0.3): at most {most} %."
)
ALT = (
    "One line per run: the share of weights that differ from the init at a saved step and equal it "
    "again at the end, rising from 0 and returning to it; ours at the left, the paper's PRIME run "
    "on grey ground at the right."
)
_VALUE = "outside_final_pct"
_DIGITISED = ("figure6_changed_outside_final_mask_digitised", "changed_outside_final_mask_pct")
SCHEMA = {**over_training.SCHEMA, _VALUE: float}


def draw(context: Context) -> tuple[Drawing, polars.DataFrame]:
    """Draw `spec["runs"]`.

    Share of all weights with Δ ≠ 0 between the init and a step, but not between the init and the
    last. Source: Figure 6.
    """
    label = "changed, but not in\nthe final mask (%)"
    figure, frame = over_training.beside_the_paper(
        context, _VALUE, "outside_final_share", _DIGITISED, label
    )
    figure.axes[0].set_ylim(bottom=0)
    return figure, frame


def quoted(paper: Published) -> Quotes:
    """What the paper prints."""
    return {"most": f"{max(paper.values(*_DIGITISED)):.1f}"}


def claims(drawn: polars.DataFrame) -> Iterator[Claim]:
    """What the numbers say of the paper's claims."""
    runs: list[dict[str, Any]] = [
        {"label": label, "most": float(rows["outside_final_pct"].max())}  # type: ignore[arg-type]
        for label, rows in shared.by_label(drawn.drop_nulls("outside_final_pct"))
    ]
    yield Claim(
        "Few weights change on the way that are back at the end",
        all_hold([run["most"] <= 10 for run in runs]),
        listed(runs, "label", lambda run: f"at most {run['most']:.2f} %") + " at any saved step",
        "at most {most} % (PRIME, digitised)",
    )


ARTEFACT = Figure(
    __name__, label="Figure 6", specification=rows_of("runs", over_training.RunShown), place=14
)
