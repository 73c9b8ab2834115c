"""Stages killed or held up at points that have names, and stages that are given damaged files.

`make faults` disturbs a larger experiment, trainings and evaluation among it, at random moments.
"""

import hashlib
import json
import os
import random
import re
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from points import Place, Point

# What a stage writes, by the name of what it makes, and another of its results from equal inputs.
STAGES = {
    "measure": ("updates/{}.json updates/{}.parquet masks/{}.safetensors", "whole"),
    "mask": ("masks/{}.safetensors", "rest"),
    "rank": ("updates/{}.rank.json updates/{}.rank.parquet", "whole"),
    "overlap": ("overlaps/{}.json overlaps/{}.parquet", "both"),
    "table": ("tables/{}.csv tables/{}.md tables/{}.tex", ""),
    "figure": ("figures/{}.png figures/{}.pdf figures/{}.svg figures/{}.csv", ""),
}
TABLE, FIGURE = "table_1_update_sparsity", "figure_3_layerwise_sparsity"
# Each point of a stage's life is that of a result of its own, so that one workflow comes to all.
KILLED = {
    Point("start", "updates/m0.json"): ("measure", "m0"),
    Point("before", "masks/m1.safetensors"): ("measure", "m1"),
    Point("after", "masks/m2.safetensors"): ("measure", "m2"),
    Point("after", "updates/m3.parquet"): ("measure", "m3"),
    Point("after", "updates/m4.json"): ("measure", "m4"),
    Point("after", "updates/m5.json.meta.json"): ("measure", "m5"),
    Point("exit", "updates/m6.json"): ("measure", "m6"),
    Point("start", "masks/c0.safetensors"): ("mask", "c0"),
    Point("before", "masks/c1.safetensors"): ("mask", "c1"),
    Point("after", "masks/c2.safetensors"): ("mask", "c2"),
    Point("exit", "masks/c3.safetensors"): ("mask", "c3"),
    Point("after", "updates/m0.rank.parquet"): ("rank", "m0"),
    Point("after", "overlaps/o0.json"): ("overlap", "o0"),
    Point("after", f"tables/{TABLE}.csv"): ("table", TABLE),
    Point("before", f"figures/{FIGURE}.svg"): ("figure", FIGURE),
}
REPORT = Point("after", "report.html")
MODEL = {
    f"model.layers.{layer}.{part}.weight": shape
    for layer in range(2)
    for part, shape in (("self_attn.q_proj", (32, 32)), ("mlp.up_proj", (64, 32)))
}


def experiment(folder: Path) -> str:
    names = ("whole", "other", "all", "left", "held", *(f"m{k}" for k in range(7)))
    shown = [{"update": "whole", "algorithm": "GRPO"}]
    return json.dumps(
        {
            "checkpoints": {side: {"path": str(folder / side)} for side in ("before", "after")},
            "updates": {name: {"before": "before", "after": "after"} for name in names},
            "masks": {name: {"complement": "whole"} for name in ("rest", "c0", "c1", "c2", "c3")},
            "overlaps": {name: {"masks": ["whole", "rest"]} for name in ("both", "o0")},
            "tables": {TABLE: {"updates": [*shown, {"update": "other", "algorithm": "DPO"}]}},
            "figures": {FIGURE: {"updates": shown}},
        }
    )


def save_model(folder: Path, moved: float) -> None:
    """bfloat16 weights near one, of which a share is the next larger number."""
    numbers = random.Random(0)
    entries, bits = {}, bytearray()
    for name, (rows, columns) in MODEL.items():
        begin = len(bits)
        for _ in range(rows * columns):
            bits += struct.pack(
                "<H", numbers.randrange(0x3C00, 0x3F80) + (numbers.random() < moved)
            )
        entries[name] = {
            "dtype": "BF16",
            "shape": [rows, columns],
            "data_offsets": [begin, len(bits)],
        }
    header = json.dumps(entries).encode()
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bits)
    (folder / "config.json").write_text("{}")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("disturbed")
    save_model(folder / "mine/before", 0)
    save_model(folder / "mine/after", 0.3)
    return Place(folder / "checkout", "disturbed", experiment(folder / "mine"))


def outputs(stage: str, name: str = "") -> list[str]:
    """The results of a stage by their names; of the one that is never disturbed by default."""
    patterns, undisturbed = STAGES[stage]
    return [pattern.replace("{}", name or undisturbed) for pattern in patterns.split()]


def targets(place: Place, *names: str) -> list[str]:
    return ["--", *(f"results/{place.name}/{name}" for name in names)]


def content(path: Path) -> object:
    """A result without how long it took."""
    if path.suffix == ".json":
        return {k: v for k, v in json.loads(path.read_text()).items() if k != "seconds"}
    return path.read_bytes()


def assert_whole(place: Place, stage: str, name: str = "") -> None:
    """All that a stage writes is as it was written, and like that of a stage left in peace."""
    like = STAGES[stage][1] or name
    for one, other in zip(outputs(stage, name), outputs(stage, like), strict=True):
        path = place.results / one
        meta = path.with_name(f"{path.name}.meta.json")
        if stage not in ("table", "figure") or meta.exists():
            digest = json.loads(meta.read_text()).get("sha256")
            assert digest in (None, hashlib.sha256(path.read_bytes()).hexdigest()), one
        assert content(path) == content(place.results / other), one


def test_a_stage_killed_at_any_point_is_not_done_and_is_made_again(place: Place) -> None:
    names = [name for stage in ("measure", "mask", "rank", "overlap") for name in outputs(stage)]
    names += [name for killed in KILLED.values() for name in outputs(*killed)]
    wanted = [*targets(place, *dict.fromkeys(names)), "all"]
    for killed in KILLED.values():
        place.remove(*outputs(*killed))
    assert place.run("--keep-going", *wanted, points=list(KILLED)) != 0, place.said
    for point, killed in KILLED.items():
        assert place.reached(point), f"not reached: {point}: {place.said}"
        for name in outputs(*killed):
            assert not (place.results / name).exists(), f"killed {point}, but {name} is there"
    assert_whole(place, "measure")

    # The rerun makes them; then the report, too, is killed, between its two files.
    assert place.run(*wanted, points=[REPORT]) != 0, place.said
    assert place.reached(REPORT)
    assert not (place.results / "report.html").exists()
    for killed in KILLED.values():
        assert_whole(place, *killed)
    assert place.run(*wanted) == 0, place.said
    assert (place.results / "report.html").exists() and (place.results / "report.md").exists()
    assert place.run(*wanted) == 0
    assert "Nothing to be done" in place.said


def test_what_a_killed_workflow_has_written_is_not_taken_for_whole(place: Place) -> None:
    """A result with its final name and without the others is made again once it is unlocked."""
    point = Point("after", "updates/all.json", "kill all")
    wanted = targets(place, *outputs("measure", "all"), *outputs("measure"))
    place.remove(*outputs("measure", "all"))
    assert place.run(*wanted, points=[point]) == -signal.SIGKILL
    assert place.reached(point)
    place.wait_until_idle()
    assert (place.results / "updates/all.json").exists()
    record = json.loads((place.results / "updates/all.json.meta.json").read_text())
    assert "all.json" in record["pending"] and "sha256" not in record
    place.unlock()
    assert place.run(*wanted) == 0, place.said
    assert_whole(place, "measure", "all")


def test_a_stage_that_outlives_its_workflow_does_no_harm(place: Place) -> None:
    """Snakemake alone is killed; its job ends only when the rerun has made the same."""
    point = Point("before", "updates/left.rank.json", "kill snakemake")
    wanted = targets(place, *outputs("rank", "left"), *outputs("rank"))
    place.remove(*outputs("rank", "left"))
    assert place.run(*wanted, points=[point]) == -signal.SIGKILL
    assert place.processes() and not (place.results / "updates/left.rank.json").exists()
    place.unlock()
    assert place.run(*wanted, again=True) == 0, place.said
    assert_whole(place, "rank", "left")
    place.let_go()
    place.wait_until_idle()
    assert_whole(place, "rank", "left")
    assert place.run(*wanted) == 0, place.said
    assert_whole(place, "rank", "left")


def test_a_second_workflow_is_told_that_the_first_works_there(place: Place) -> None:
    point = Point("before", "updates/held.json", "wait")
    wanted = targets(place, *outputs("measure", "held"), *outputs("measure"))
    place.remove(*outputs("measure", "held"))
    first = place.start(*wanted, points=[point])
    place.wait_until(point, first)
    assert place.run(*wanted, again=True) != 0
    assert "cannot be locked" in place.said
    place.let_go()
    assert first.wait() == 0
    assert_whole(place, "measure", "held")


def cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


def flipped(content: bytes) -> bytes:
    """One bit of the second half, where a safetensors file has its data."""
    place = len(content) * 3 // 4
    return content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]


def another_digit(content: bytes) -> bytes:
    found = list(re.finditer(rb"\d(?=\d)", content))[-1]
    return content[: found.start()] + (b"1" if found[0] != b"1" else b"2") + content[found.end() :]


@contextmanager
def damaged(damages: dict[Path, Callable[[bytes], bytes]]) -> Iterator[None]:
    """Files with other content, that look as old as they are."""
    intact = {path: (path.read_bytes(), path.stat()) for path in damages}

    def write(path: Path, content: bytes) -> None:
        path.write_bytes(content)
        stat = intact[path][1]
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    for path, damage in damages.items():
        write(path, damage(intact[path][0]))
    try:
        yield
    finally:
        for path, (content, _) in intact.items():
            write(path, content)


def test_damaged_files_are_refused_by_name(place: Place) -> None:
    """By each stage that reads one; mended, they give what they gave before."""
    read = {
        ("figure", FIGURE): (place.results / "updates/whole.parquet", cut),
        ("table", TABLE): (place.results / "updates/other.json", another_digit),
        ("mask", "c0"): (place.results / "masks/whole.safetensors", flipped),
        ("rank", "m0"): (place.folder.parent / "mine/after/model.safetensors", cut),
    }
    wanted = [*targets(place, *outputs("mask"), *outputs("mask", "c0"))]
    wanted += [*targets(place, *outputs("rank"), *outputs("rank", "m0"))[1:], "all"]
    assert place.run(*wanted) == 0, place.said
    before = {name: content(place.results / name) for made in read for name in outputs(*made)}

    for name in ("report.html", "report.md"):
        (place.results / name).unlink()
    table = place.results / f"tables/{TABLE}.csv"
    with damaged({table: cut}):
        assert place.run(*wanted) != 0
        assert table.name in "".join(refusals(place)), place.said

    for name in before:
        (place.results / name).unlink()
    with damaged(dict(read.values())):
        assert place.run("--keep-going", *wanted) != 0
        for path, _ in read.values():
            assert any(path.name in line for line in refusals(place)), (path, place.said)
    assert not any((place.results / name).exists() for name in before)
    assert place.run(*wanted) == 0, place.said
    assert {name: content(place.results / name) for name in before} == before


def refusals(place: Place) -> list[str]:
    """The lines in which stages say what is wrong."""
    return [line for line in place.said.splitlines() if "subnetworks: error:" in line]
