"""Control: how much of each algorithm's update lies within the subnetworks of the others.

In changed weights and in mass, Σ |Δ|, against chance matched by magnitude.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from subnetworks.artefacts import shared, style
from subnetworks.artefacts.base import Figure, Names, UpdateShown, rows_of
from subnetworks.artefacts.lazy import polars
from subnetworks.core.errors import UserError
from subnetworks.core.results import Context, label_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

TITLE = "What one algorithm's subnetwork holds of another's update"
CAPTION = (
    "**Transfer.** In each cell the share of one algorithm's update (column) that lies within "
    "the subnetwork of another (row), counted in changed weights and in mass, Σ |Δ|; in "
    "brackets what a mask would hold that has as many entries in each tensor and power of two "
    "of |w|. By construction a subnetwork holds all of its own update."
)
ALT = (
    "Two grids, of changed weights and of mass: in each cell the share of the column's update that "
    "the row's subnetwork holds, and below it what chance matched by magnitude would give."
)
KINDS = {"changed": "Changed weights held (%)", "mass": "Mass, Σ |Δ|, held (%)"}
DEEPEST = 60
"""Points beyond chance that would be darkest: more than there are, so that words stay legible."""
SCHEMA = {
    "source": str,
    "update": str,
    "label": str,
    "mask": str,
    "mask_label": str,
    "kind": str,
    "inside_pct": float,
    "share_pct": float,
    "chance_per_tensor_pct": float,
    "chance_by_magnitude_pct": float,
}


class Row(UpdateShown):
    """An update."""

    update: Annotated[str, Names("updates", ("transfers/{}.json",))]


def draw(context: Context) -> tuple[Drawing, polars.DataFrame]:
    """Draw `spec["updates"]`, each within the subnetworks of all."""
    entries = context.rows("updates")
    labels = {entry["update"]: label_of(entry) for entry in entries}
    rows = [row for name in labels for row in _held(context, name, labels)]
    frame = shared.frame(rows, SCHEMA)
    figure = style.canvas(style.DOUBLE, 1.0 + 0.36 * len(labels))
    panels = figure.subplots(1, len(KINDS), sharey=True)
    for axes, (kind, title) in zip(panels, KINDS.items(), strict=True):
        _grid(axes, frame.filter(kind=kind), list(labels.values()))
        axes.set_title(title)
    panels[0].set_ylabel("subnetwork of")
    figure.supxlabel(
        "in brackets: chance matched by magnitude; the bluer, the further beyond it", fontsize=7.5
    )
    return figure, frame


def _held(context: Context, name: str, labels: dict[str, str]) -> list[dict[str, Any]]:
    """One row per mask and kind of the update `name`."""
    rows = []
    masks = context.transfer(name)
    for mask, mask_label in labels.items():
        if mask not in masks:
            raise UserError(f"transfers/{name}.json: the mask {mask!r} is not in it; make it anew")
        for kind in KINDS:
            found = masks[mask][kind]
            shares = {
                f"{key}_pct": None if found[key] is None else 100 * found[key]
                for key in ("share", "chance_per_tensor", "chance_by_magnitude")
            }
            rows.append(
                {
                    "source": "here",
                    "update": name,
                    "label": labels[name],
                    "mask": mask,
                    "mask_label": mask_label,
                    "kind": kind,
                    "inside_pct": 100 * masks[mask]["inside"] / masks[mask]["n"],
                    **shares,
                }
            )
    return rows


def _beyond(row: dict[str, Any]) -> float:
    """Points beyond chance; of its own update a subnetwork holds all by construction."""
    if row["share_pct"] is None or row["mask"] == row["update"]:
        return 0
    return max(0.0, float(row["share_pct"] - row["chance_by_magnitude_pct"]))


def _grid(axes: Axes, frame: polars.DataFrame, labels: list[str]) -> None:
    cells = {(row["mask_label"], row["label"]): row for row in frame.to_dicts()}
    values = [[_beyond(cells[mask, update]) for update in labels] for mask in labels]
    axes.imshow(values, cmap="Blues", vmin=0, vmax=DEEPEST, aspect="auto")
    axes.grid(False)
    for y, mask in enumerate(labels):
        for x, update in enumerate(labels):
            row = cells[mask, update]
            if row["share_pct"] is None:
                continue
            axes.text(x, y - 0.17, f"{row['share_pct']:.0f}", ha="center", va="center",
                      fontsize=8, fontweight="bold")  # fmt: skip
            axes.text(x, y + 0.22, f"({row['chance_by_magnitude_pct']:.0f})", ha="center",
                      va="center", fontsize=7)  # fmt: skip
    axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(length=0)
    axes.set_xlabel("update of")
    for spine in axes.spines.values():
        spine.set_visible(False)


def said(frame: polars.DataFrame) -> list[str]:
    """How much of another's update a subnetwork holds at least and at most, against chance."""
    lines = []
    for kind, words in (("changed", "of another's changed weights"), ("mass", "of its mass")):
        rows = frame.filter(
            (polars.col("kind") == kind) & (polars.col("mask") != polars.col("update"))
        ).drop_nulls("share_pct")
        if rows.is_empty():
            continue
        excess = rows["share_pct"] - rows["chance_by_magnitude_pct"]
        most = rows.row(int(excess.arg_max() or 0), named=True)
        least = rows.row(int(excess.arg_min() or 0), named=True)
        lines.append(
            f"A subnetwork holds {rows['share_pct'].min():.0f} to {rows['share_pct'].max():.0f} % "
            f"{words}; beyond chance matched by magnitude, from {excess.min():+z.1f} points "
            f"({least['label']} in {least['mask_label']}) to {excess.max():+z.1f} "
            f"({most['label']} in {most['mask_label']})."
        )
    return lines


ARTEFACT = Figure(__name__, specification=rows_of("updates", Row))
