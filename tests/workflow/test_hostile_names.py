"""Names in an experiment that a shell would run: refused, or taken as the names they are."""

import json
import shutil
import struct
import sys
from pathlib import Path

import pytest
import yaml
from running import ROOT, run_snakemake

sys.path.insert(0, str(ROOT / "src"))
from subnetworks import experiment as experiments
from subnetworks.core.errors import UserError

HOSTILE = ["$(touch pwned)", "a;touch pwned", "a\n", "a\ntouch pwned", "..", "../x", "a b", "`id`"]
HOSTILE += ["-x", "a'b", 'a"b', "a/b", "{x}", "a\0b", "~", "ä"]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("section", ["checkpoints", "updates", "hub", "revision", "owner"])
def test_no_name_says_more_than_a_name(tmp_path: Path, section: str, name: str) -> None:
    entry = {"hub": "owner/name", "revision": "v1.0"}
    value: dict = {"checkpoints": {"a": {"path": "x"}, "b": entry}}
    match section:
        case "checkpoints":
            value["checkpoints"][name] = {"path": "x"}
        case "updates":
            value["updates"] = {name: {"before": "a", "after": "b"}}
        case "hub":
            entry["hub"] = f"owner/{name}"
        case "owner":
            entry["hub"] = f"{name}/name"
        case "revision":
            if name == "a/b":
                pytest.skip("a branch may be named so")
            entry["revision"] = name
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump({"checkpoints": {"a": {"path": "x"}, "b": {"hub": "o/n"}}}))
    experiments.load(path)
    path.write_text(yaml.safe_dump(value))
    with pytest.raises(UserError):
        experiments.load(path)


def model(folder: Path, last: int) -> None:
    entry = {"w": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}
    text = json.dumps(entry).encode()
    folder.mkdir(parents=True)
    body = struct.pack("<Q", len(text)) + text + bytes([0, 63, 0, 63, 0, 63, last, 63])
    (folder / "model.safetensors").write_bytes(body)
    (folder / "config.json").write_text("{}")


def test_a_run_with_such_paths_and_labels_executes_nothing(copy: Path) -> None:
    place = copy.parent / "my own"
    shutil.copytree(copy, place, symlinks=True)
    (place / "results").unlink(missing_ok=True)
    shutil.rmtree(place / "results", ignore_errors=True)
    (place / "results").mkdir()
    theirs = [f"mine/{word}" for word in ("$(touch pwned) a", "b'; touch pwned #`touch pwned`")]
    for number, folder in enumerate(theirs):
        model(place / folder, 64 * number)
    shown = {
        "update": "change",
        "algorithm": "$(touch pwned)",
        "label": "'; touch pwned; {x} {params.y}",
    }
    value = {
        "checkpoints": {"a": {"path": theirs[0]}, "b": {"path": theirs[1]}},
        "updates": {"change": {"before": "a", "after": "b"}},
        "tables": {"table_1_update_sparsity": {"updates": [shown]}},
    }
    (place / "experiments" / "mine.yaml").write_text(yaml.safe_dump(value))
    before = {path for path in place.rglob("*") if ".snakemake" not in path.parts}
    done = run_snakemake(
        *("table_1_update_sparsity", "--cores", "1", "--config", "experiment=mine"), folder=place
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "touch pwned" in (place / "results/mine/tables/table_1_update_sparsity.csv").read_text()
    after = {path for path in place.rglob("*") if ".snakemake" not in path.parts}
    outside = [
        path
        for path in after - before
        if not path.is_relative_to(place / "results") and "__pycache__" not in path.parts
    ]
    assert outside == []
    assert not any(path.name == "pwned" for path in copy.parent.rglob("pwned*"))


def test_a_checkout_whose_path_a_shell_would_read_is_refused(copy: Path) -> None:
    """Snakemake hands the path to a shell, unquoted, wherever a job has a process of its own."""
    place = copy.parent / "a $(touch pwned)"
    shutil.copytree(copy, place, symlinks=True)
    done = run_snakemake("-n", folder=place)
    assert done.returncode != 0
    assert "a shell would read '$' in the path of this checkout" in done.stdout + done.stderr
    assert not list(copy.parent.rglob("pwned*"))
