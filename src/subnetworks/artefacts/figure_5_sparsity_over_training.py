"""Figure 5: the longer a run trains, the fewer weights it leaves unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from subnetworks.artefacts import over_training, shared
from subnetworks.artefacts.base import Figure, rows_of
from subnetworks.artefacts.claims import Claim, all_hold, listed
from subnetworks.artefacts.lazy import polars
from subnetworks.artefacts.published import Published, Quotes
from subnetworks.core.results import Context

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

TITLE = "Figure 5. Sparsity against the init over training"
CAPTION = (
    "**Sparsity over training.** Share of the weights that still equal the init (at most 1e-5 "
    "apart) at each saved step. On grey ground the paper's PRIME run, read off its plot "
    "(±0.3): from {first} % at step {first_step} to {last} % at step {last_step}, still "
    "falling."
)
ALT = (
    "One line per run: the share of weights that still equal the init at each saved step, falling "
    "from 100 %; ours at the left, the paper's PRIME run on grey ground at the right."
)
_VALUE = "sparsity_pct"
DIGITISED = ("figure5_prime_sparsity_by_step_digitised", "sparsity_pct")
SCHEMA = {**over_training.SCHEMA, _VALUE: float}


def draw(context: Context) -> tuple[Drawing, polars.DataFrame]:
    """Draw `spec["runs"]`.

    Sparsity is the paper's, |Δ| ≤ 1e-5, between the init and each saved step. Source: Figure 5.
    """
    figure, frame = over_training.beside_the_paper(
        context, _VALUE, "sparsity", DIGITISED, "weights left unchanged (%)"
    )
    lowest = float(frame[_VALUE].min() or 0)  # type: ignore[arg-type]
    figure.axes[0].set_ylim(max(0, 10 * ((lowest - 1) // 10)), 101)
    return figure, frame


def quoted(paper: Published) -> Quotes:
    """What the paper prints."""
    steps, values = (paper.values(DIGITISED[0], column) for column in ("step", DIGITISED[1]))
    middle = values[len(values) // 2]
    return {
        **{"first": f"{values[0]:.1f}", "first_step": f"{steps[0]:.0f}"},
        **{"last": f"{values[-1]:.1f}", "last_step": f"{steps[-1]:.0f}"},
        # From the init, of which all is equal, as ours.
        **{"early": f"{100 - middle:.1f}", "late": f"{middle - values[-1]:.1f}"},
    }


def claims(drawn: polars.DataFrame) -> Iterator[Claim]:
    """What the numbers say of the paper's claims."""
    runs: list[dict[str, Any]] = []
    for label, rows in shared.by_label(drawn.drop_nulls("sparsity_pct").sort("step")):
        values = rows["sparsity_pct"].to_list()
        middle = values[len(values) // 2]
        early, late = values[0] - middle, middle - values[-1]
        falls = all(a >= b for a, b in pairwise(values))
        runs.append({"label": label, "falls": falls, "early": early, "late": late, "all": values})
    yield Claim(
        "Sparsity falls as training goes on",
        all_hold([run["falls"] for run in runs]),
        listed(runs, "label", lambda run: f"{run['all'][0]:.0f} → {run['all'][-1]:.1f} %"),
        "{first} → {last} % (PRIME, digitised)",
    )
    yield Claim(
        "… and ever more slowly",
        all_hold([run["early"] > run["late"] for run in runs]),
        listed(runs, "label", lambda run: f"{run['early']:.1f}, then {run['late']:.1f} points")
        + " in the halves of training",
        "{early}, then {late} points (PRIME, digitised)",
    )


ARTEFACT = Figure(
    __name__, label="Figure 5", specification=rows_of("runs", over_training.RunShown), place=13
)
