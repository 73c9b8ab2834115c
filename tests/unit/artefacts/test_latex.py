"""The LaTeX tables: they compile as they are, where there is a LaTeX, and fit their pages."""

import ast
import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("polars")

from subnetworks import artefacts
from subnetworks.artefacts import Table
from subnetworks.artefacts import sheet as style
from subnetworks.core.results import Context

ROOT = Path(__file__).resolve().parents[3]
TABLES = {table.name: table for table in artefacts.of_kind(Table)}
DOCUMENT = r"""\documentclass{article}
\usepackage[margin=1in]{geometry}
\usepackage{booktabs,graphicx}
\begin{document}
%s
\end{document}
"""
NASTY = "50 % of $x_1 & #2~{a\\b}^c|d|<e>"


@pytest.fixture(scope="module")
def written(results: Path, made_up) -> dict[str, str]:
    """Every table of the made-up experiment, and one whose words are all special characters."""
    sources = {}
    for name in made_up.SPECS:
        if name in TABLES:
            module = TABLES[name]
            frame = module.build(
                Context(results, ROOT / "workflow" / "published", made_up.SPECS[name])
            )
            sources[name] = style.to_latex(module.sheet(frame), name)
    columns = (style.text("label", NASTY), style.Column("value", "Δ ≤ 1", "ours ± |θ|"))
    rows = [("", [[NASTY, "−1.0 ± 0.5"], ["–", "0.1–0.2"]])]
    sources["nasty"] = style.to_latex(style.Sheet(NASTY, columns, rows, [NASTY]), "nasty_1")
    return sources


def test_every_table_is_among_them(written: dict[str, str]) -> None:
    assert {name for name, table in TABLES.items() if not table.is_control} <= set(written)


@pytest.mark.parametrize("name", [*TABLES, "shared", "pairing"])
def test_every_letter_that_a_table_may_print_has_its_latex(name: str) -> None:
    tree = ast.parse((ROOT / "src" / "subnetworks" / "artefacts" / f"{name}.py").read_text())
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    letters = {letter for word in words if isinstance(word, str) for letter in word}
    # Of the letters beyond ASCII, LaTeX itself reads quotation marks, ellipsis and section sign.
    unknown = {
        letter
        for letter in letters
        if not style.escape(letter).isascii() and letter not in "“”‘’…§"
    }
    assert not unknown


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
def test_all_compile_in_one_document_and_none_is_wider_than_its_page(
    written: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "all.tex").write_text(DOCUMENT % "\n\\clearpage\n".join(written.values()))
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
    )
    log = (tmp_path / "all.log").read_text(errors="replace")
    assert done.returncode == 0, log[-2000:]
    for complaint in ("Overfull", "Float too large", "Missing character", "multiply defined"):
        assert complaint not in log, [line for line in log.splitlines() if complaint in line]
