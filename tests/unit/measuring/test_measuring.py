"""What `measure` says: JSON and tables, odd formats, name maps, digests, the command line."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("numba")
parquet = pytest.importorskip("pyarrow.parquet")

from calling import status  # noqa: E402
from checkpoints_made import Stored, bf16, save, save_sharded  # noqa: E402

import subnetworks  # noqa: E402
from subnetworks.checkpoints.numbers import decode, encode  # noqa: E402
from subnetworks.core import kernels  # noqa: E402
from subnetworks.core.errors import UserError  # noqa: E402
from subnetworks.measuring.masks import Mask  # noqa: E402
from subnetworks.measuring.updates import Rules, Selection, measure, summarise, table  # noqa: E402

Tensors = dict[str, Stored]


def test_sums_are_those_of_the_tensors(pair: tuple[Path, Path, Tensors, Tensors]) -> None:
    before, after, x, y = pair
    summary = summarise(measure(before, after))
    rows = summary["tensors"]
    assert [row["name"] for row in rows] == list(x)
    for row in rows:
        a, b = x[row["name"]][1], y[row["name"]][1]
        assert row["shape"] == list(a.shape)
        assert (row["n"], row["bit_equal"]) == (a.size, int((a == b).sum()))

    def total(members: list[dict]) -> dict:
        keys = ("n", "equal", "bit_equal", "changed")
        found = {key: sum(row[key] for row in members) for key in keys}
        for rule in ("isclose_bf16", "absolute", "relative"):
            found[rule] = {t: sum(row[rule][t] for row in members) for t in summary[rule]}
        found["sparsity"] = found["isclose_bf16"]["1e-5"] / found["n"]
        return found

    assert total(rows).items() <= summary.items()
    inner = [
        row for row in rows if row["name"] not in ("model.embed_tokens.weight", "lm_head.weight")
    ]
    assert summary["without_embeddings"] == total(inner)
    assert [layer["layer"] for layer in summary["layers"]] == [0, 1]
    for layer in summary["layers"]:
        members = [row for row in rows if row["layer"] == layer["layer"]]
        assert total(members).items() <= layer.items()
        assert layer["unweighted_sparsity"] == pytest.approx(
            np.mean([r["sparsity"] for r in members])
        )
        assert layer["unweighted_equal"] == pytest.approx(
            np.mean([r["equal"] / r["n"] for r in members])
        )
        assert layer["weighted_sparsity"] == layer["sparsity"] != layer["unweighted_sparsity"]
    assert {m["matrix"] for m in summary["matrices"]} == {row["matrix"] for row in rows}
    for matrix in summary["matrices"]:
        members = [row for row in rows if row["matrix"] == matrix["matrix"]]
        assert total(members).items() <= matrix.items()
    assert summary["unweighted"]["sparsity"] == pytest.approx(
        np.mean([r["sparsity"] for r in rows])
    )
    assert sum(bin_["n"] for bin_ in summary["histograms"]["ulp_steps"]) == summary["n"]
    magnitude = summary["histograms"]["magnitude"]
    assert sum(bin_["n"] for bin_ in magnitude) == summary["n"]
    assert sum(bin_["changed"] for bin_ in magnitude) == summary["n"] - summary["equal"]
    json.dumps(summary, allow_nan=False)


def test_the_table_has_one_row_a_tensor(pair: tuple[Path, Path, Tensors, Tensors]) -> None:
    before, after, x, _ = pair
    result = measure(before, after, rules=Rules(("1e-5",), ("0",), ("1e-3", "1e-2")))
    rows = table(result)
    summary = summarise(result)
    assert len(rows) == len(x)
    for row, counted in zip(rows, summary["tensors"], strict=True):
        assert row["shape"] == "x".join(map(str, counted["shape"]))
        for rule in ("isclose_bf16", "absolute", "relative"):
            assert {t: row[f"{rule}_{t}"] for t in counted[rule]} == counted[rule]
    assert rows[0]["matrix"] == "embedding"
    assert rows[0]["layer"] is None


@pytest.mark.parametrize(
    ("selection", "key"),
    [
        (Selection("bit_equal"), lambda s: s["bit_equal"]),
        (Selection("isclose_bf16", "1e-4"), lambda s: s["isclose_bf16"]["1e-4"]),
        (Selection("absolute", "1e-5"), lambda s: s["absolute"]["1e-5"]),
        (Selection("relative", "1e-3"), lambda s: s["relative"]["1e-3"]),
    ],
)
def test_a_mask_by_another_rule(
    selection: Selection, key: object, pair: tuple[Path, Path, Tensors, Tensors], tmp_path: Path
) -> None:
    before, after, _, _ = pair
    summary = summarise(
        measure(before, after, mask=tmp_path / "m.safetensors", selection=selection)
    )
    mask = Mask.open(tmp_path / "m.safetensors")
    assert sum(mask.count(name) for name in mask.names) == summary["n"] - key(summary)  # type: ignore[operator]
    assert mask.metadata["rule"] == selection.rule
    assert mask.metadata["tolerance"] == (selection.tolerance or "")


def test_the_mask_is_where_values_differ(
    pair: tuple[Path, Path, Tensors, Tensors], tmp_path: Path
) -> None:
    before, after, x, y = pair
    result = measure(before, after, mask=tmp_path / "m.safetensors")
    mask = Mask.open(tmp_path / "m.safetensors")
    assert (mask.metadata["before"], mask.metadata["after"]) == (
        result.digests["before"],
        result.digests["after"],
    )
    for name in x:
        expected = decode(x[name][1], "BF16") != decode(y[name][1], "BF16")
        assert np.array_equal(mask.array(name), expected)


def test_digests_are_of_the_content(
    pair: tuple[Path, Path, Tensors, Tensors], tmp_path: Path
) -> None:
    before, after, x, _ = pair
    names = list(x)
    save_sharded(tmp_path / "cut", x, [names[5:], names[:5]])
    other = {name: (dtype, bits.copy()) for name, (dtype, bits) in x.items()}
    other["lm_head.weight"][1][-1, -1] ^= 1
    save(tmp_path / "other" / "model.safetensors", other)
    renamed = {name.replace("layers.1", "layers.3"): t for name, t in x.items()}
    save(tmp_path / "renamed" / "model.safetensors", renamed)
    # A tensor that is not compared counts as well.
    extra = {"model.rotary_emb.inv_freq": bf16(np.ones(4))}
    save(tmp_path / "extra" / "model.safetensors", x | extra)
    digest = {}
    for folder in ("before", "cut", "other", "renamed", "extra", "after"):
        there = measure(tmp_path / folder, after, threads=2, allow_partial=True)
        digest[folder] = there.digests["before"]
        back = measure(before, tmp_path / folder, threads=1, allow_partial=True)
        assert back.digests["after"] == digest[folder]
    assert digest["before"] == digest["cut"]
    assert len(set(digest.values())) == 5


def test_common_rows_of_a_resized_vocabulary(
    pair: tuple[Path, Path, Tensors, Tensors], tmp_path: Path
) -> None:
    before, _, x, y = pair
    longer = dict(y)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        longer[name] = "BF16", np.concatenate([y[name][1], y[name][1][:8]])
    save(tmp_path / "longer" / "model.safetensors", longer)
    without = summarise(measure(before, tmp_path / "longer", allow_partial=True))
    with_rows = summarise(measure(before, tmp_path / "longer", common_rows=True))
    plain = summarise(measure(before, pair[1]))
    assert with_rows["n"] == plain["n"]
    assert with_rows["equal"] == plain["equal"]
    assert without["n"] == plain["n"] - 2 * x["lm_head.weight"][1].size
    assert {e["name"]: e["reason"] for e in without["excluded"]}["lm_head.weight"] == (
        "shapes differ: 50x24 before, 58x24 after"
    )
    assert "lm_head.weight[50:]" in {e["name"] for e in with_rows["excluded"]}


def test_fused_and_renamed_layouts(
    pair: tuple[Path, Path, Tensors, Tensors], tmp_path: Path
) -> None:
    before, after, _, y = pair
    fused: Tensors = {}
    stem = "model.layers.{}.self_attn.{}_proj.weight"
    for name, tensor in y.items():
        if not any(f".{part}_proj" in name for part in "qkv"):
            fused[name.replace("lm_head", "output")] = tensor
    for layer in range(2):
        parts = [y[stem.format(layer, part)][1] for part in "qkv"]
        fused[f"model.layers.{layer}.attention.qkv.weight"] = "BF16", np.concatenate(parts)
    save(tmp_path / "fused" / "model.safetensors", fused)
    split = " + ".join(stem.format("*", part) for part in "qkv")
    names = {split: "model.layers.*.attention.qkv.weight", "lm_head.weight": "output.weight"}
    plain = summarise(measure(before, after))
    mapped = summarise(measure(before, tmp_path / "fused", names=names))
    backwards = {new: old for old, new in names.items()}
    reverse = summarise(measure(tmp_path / "fused", before, names=backwards))
    assert mapped["excluded"] == reverse["excluded"] == []
    counted = {row["name"]: row["equal"] for row in plain["tensors"]}
    assert {row["name"]: row["equal"] for row in mapped["tensors"]} == counted
    assert reverse["equal"] == plain["equal"]
    assert mapped["digests"]["after"] == reverse["digests"]["before"]
    with pytest.raises(UserError, match="fits no tensors"):
        measure(before, after, names={"nothing": "at all"})
    wrong = {
        stem.format("*", "q") + " + " + stem.format("*", "k"): "model.layers.*.attention.qkv.weight"
    }
    with pytest.raises(UserError, match="rows"):
        measure(before, tmp_path / "fused", names=wrong)


def fp8(rng: np.random.Generator, rows: int, columns: int) -> Tensors:
    weights = (rng.standard_normal((rows, columns)) * 100).astype(np.float32)
    grid = (-(-rows // 128), -(-columns // 128))
    scales = (rng.random(grid) * 1e-3 + 1e-4).astype(np.float32)
    return {
        "model.layers.0.mlp.up_proj.weight": ("F8_E4M3", encode(weights, "F8_E4M3")),
        "model.layers.0.mlp.up_proj.weight_scale_inv": ("F32", scales.view(np.uint32)),
    }


def dequantised(tensors: Tensors) -> torch.Tensor:
    """DeepSeek-V3's conversion, with torch."""
    (_, payload), (_, scales) = tensors.values()
    values = torch.from_numpy(payload.copy()).view(torch.float8_e4m3fn).float()
    factor = torch.from_numpy(scales.view(np.float32).copy())
    wide = factor.repeat_interleave(128, 0)[: values.shape[0]].repeat_interleave(128, 1)
    return (values * wide[:, : values.shape[1]]).bfloat16()


def test_fp8_is_compared_as_payload_scales_and_values(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = fp8(rng, 300, 200)
    y = {name: (dtype, bits.copy()) for name, (dtype, bits) in x.items()}
    payload, scales = (y[name][1] for name in y)
    payload[rng.random(payload.shape) < 0.1] ^= 1
    scales[1, 1] += 1 << 20
    for name, tensors in (("a", x), ("b", y)):
        save(tmp_path / name / "model.safetensors", tensors)
    summary = summarise(measure(tmp_path / "a", tmp_path / "b", mask=tmp_path / "m.safetensors"))
    first, second = dequantised(x), dequantised(y)
    equal = first == second
    assert (summary["n"], summary["equal"]) == (60_000, int(equal.sum()))
    delta = second - first
    close = torch.isclose(delta, torch.zeros_like(delta), atol=1e-5)
    assert summary["isclose_bf16"]["1e-5"] == int(close.sum())
    assert summary["fp8"]["payload"]["bit_equal"] == int(
        (x["model.layers.0.mlp.up_proj.weight"][1] == payload).sum()
    )
    assert summary["fp8"]["scales"]["n"] == 6
    assert summary["fp8"]["scales"]["equal"] == 5
    mask = Mask.open(tmp_path / "m.safetensors")
    assert np.array_equal(mask.array("model.layers.0.mlp.up_proj.weight"), ~equal.numpy())
    # Against the same model converted to bfloat16: the same values, and nothing excluded.
    converted = {
        "model.layers.0.mlp.up_proj.weight": (
            "BF16",
            first.view(torch.int16).numpy().view(np.uint16),
        )
    }
    save(tmp_path / "c" / "model.safetensors", converted)
    same = summarise(measure(tmp_path / "a", tmp_path / "c"))
    assert (same["n"], same["bit_equal"]) == (60_000, 60_000)


def test_scales_that_do_not_fit_are_named(tmp_path: Path) -> None:
    x = fp8(np.random.default_rng(0), 300, 200)
    name = "model.layers.0.mlp.up_proj.weight_scale_inv"
    x[name] = "F32", np.ones((5, 2), np.uint32)
    save(tmp_path / "a" / "model.safetensors", x)
    with pytest.raises(UserError, match="weight_scale_inv"):
        measure(tmp_path / "a", tmp_path / "a")


def test_casts_are_said(pair: tuple[Path, Path, Tensors, Tensors], tmp_path: Path) -> None:
    before, _, _, y = pair
    wide = {name: ("F32", (bits.astype(np.uint32) << 16) + 0x1234) for name, (_, bits) in y.items()}
    save(tmp_path / "wide" / "model.safetensors", wide)
    summary = summarise(measure(before, tmp_path / "wide"))
    assert summary["casts"] == {"BF16, F32 -> BF16": len(y)}
    both = summarise(measure(tmp_path / "wide", tmp_path / "wide", cast="BF16"))
    assert both["casts"] == {"F32, F32 -> BF16": len(y)}
    assert summarise(measure(tmp_path / "wide", tmp_path / "wide"))["casts"] == {}


def test_a_wider_cast_sees_what_the_narrower_format_rounds_away(tmp_path: Path) -> None:
    """A start in bf16 and an end in fp32 that rounds back to it, but for one weight."""
    start = bf16(np.array([1.0, -2.0, 0.0, 0.5], np.float32))
    end = np.array([1.001, -2.0, 1e-9, 0.75], np.float32)
    save(tmp_path / "start" / "model.safetensors", {"w": start})
    save(tmp_path / "end" / "model.safetensors", {"w": ("F32", end.view(np.uint32))})
    rules = Rules(absolute=("1e-8", "1e-2"))
    found = {
        cast: summarise(measure(tmp_path / "start", tmp_path / "end", rules=rules, cast=cast))
        for cast in (None, "BF16", "F16", "F32")
    }
    assert {cast: row["equal"] for cast, row in found.items()} == {
        None: 2, "BF16": 2, "F16": 2, "F32": 1,
    }  # fmt: skip
    assert found["F32"]["absolute"] == {"1e-8": 2, "1e-2": 3}
    assert found["F32"]["tensors"][0]["compared_as"] == "F32"


@pytest.mark.parametrize("cast", [None, "F16"])
def test_torch_counts_what_the_kernels_count(
    cast: str | None, pair: tuple[Path, Path, Tensors, Tensors], tmp_path: Path
) -> None:
    found = {}
    for device in ("cpu", "torch"):
        mask = tmp_path / f"{device}.safetensors"
        found[device] = summarise(measure(*pair[:2], mask=mask, cast=cast, device=device))
        found[device]["mask"] = mask.read_bytes()
    assert found["cpu"] == found["torch"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_named(
    pair: tuple[Path, Path, Tensors, Tensors],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for device in ("cuda", "gpu"):
        for verb in ("measure", "rank"):
            assert status(verb, *pair[:2], "--device", device) == 2
            assert f"--device {device}: not to be used here" in capsys.readouterr().err


def test_a_table_is_csv_where_its_name_says_so(
    pair: tuple[Path, Path, Tensors, Tensors], tmp_path: Path
) -> None:
    for suffix in ("csv", "parquet"):
        assert status("measure", *pair[:2], "--table", tmp_path / f"u.{suffix}") == 0
    with (tmp_path / "u.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    expected = parquet.read_table(tmp_path / "u.parquet").to_pylist()
    for key in ("name", "shape", "n", "equal", "isclose_bf16_1e-5"):
        assert [row[key] for row in found] == [str(row[key]) for row in expected]


def test_the_command_line_writes_what_it_is_asked_for(
    pair: tuple[Path, Path, Tensors, Tensors], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    source = str(Path(subnetworks.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source}
    command = [
        sys.executable,
        "-m",
        "subnetworks",
        "measure",
        *map(str, pair[:2]),
        "--threads",
        "1",
    ]
    done = subprocess.run(
        [
            *command,
            "--json",
            out / "u.json",
            "--table",
            out / "u.parquet",
            "--mask",
            out / "m.safetensors",
        ],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert "sparsity" in done.stdout
    summary = json.loads((out / "u.json").read_text())
    assert summary["before"] == str(pair[0])
    assert parquet.read_table(out / "u.parquet").num_rows == len(summary["tensors"])
    assert Mask.open(out / "m.safetensors").metadata["changed"] == str(summary["changed"])
    for name in ("u.json", "u.parquet", "m.safetensors"):
        meta = json.loads((out / f"{name}.meta.json").read_text())
        assert meta["checkpoint_digests"] == summary["digests"]
    printed = subprocess.run(
        [*command, "--json", "-"], capture_output=True, text=True, check=True, env=environment
    )
    assert json.loads(printed.stdout) == summary


def test_other_verbs_from_the_command_line(
    pair: tuple[Path, Path, Tensors, Tensors],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, after, _, _ = pair
    mask, control = tmp_path / "m.safetensors", tmp_path / "r.safetensors"
    outputs = ["--mask", mask, "--rule", "absolute", "--tolerance", "1e-4"]
    assert status("measure", before, after, *outputs) == 0
    assert status("mask", "random", mask, "--seed", "3", "--output", control) == 0
    assert json.loads((tmp_path / "r.safetensors.meta.json").read_text())["seed"] == 3
    json_, table_ = tmp_path / "o.json", tmp_path / "o.parquet"
    outputs = ("--json", json_, "--table", table_, "--magnitude", before)
    assert status("overlap", mask, control, *outputs) == 0
    overlap = json.loads(json_.read_text())
    assert overlap["changed"][0] == overlap["changed"][1]
    assert {"o1", "o2"} <= overlap["chance_by_magnitude"].keys()
    assert parquet.read_table(table_).num_rows == len(pair[2])
    ranked = tmp_path / "r.json"
    assert status("rank", before, after, "--json", ranked, "--table", tmp_path / "r.parquet") == 0
    assert json.loads(ranked.read_text())["matrices"] == 16
    capsys.readouterr()
    for arguments in (
        ("measure", before, after, "--absolute", "many"),
        ("measure", before, after, "--rule", "sameness"),
        ("measure", before, after, "--cast", "Q4"),
        ("measure", before, after, "--names", tmp_path / "absent.yaml"),
        ("mask", "random", mask, mask, "--output", tmp_path / "x.safetensors"),
        ("overlap", mask, tmp_path / "absent.safetensors"),
        ("rank", before, tmp_path / "absent"),
    ):
        assert status(*arguments) == 2, arguments
        assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize("divisor", [2, 300])
def test_a_file_cut_while_it_is_measured(
    pair: tuple[Path, Path, Tensors, Tensors],
    tmp_path: Path,
    divisor: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = pair[0] / "model.safetensors"
    stream = kernels.stream_bf16

    def cut(*arguments: Any) -> int:
        os.truncate(file, file.stat().st_size // divisor)
        return stream(*arguments)

    monkeypatch.setattr(kernels, "stream_bf16", cut)
    with pytest.raises(UserError, match=f"{file}: ends early; it was cut while being read"):
        measure(*pair[:2], mask=tmp_path / "out" / "mask.safetensors")
    assert list((tmp_path / "out").iterdir()) == []
