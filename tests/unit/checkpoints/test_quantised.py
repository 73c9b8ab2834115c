"""Quantised weights are read as their own libraries read them, or refused by name."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
for package in ("numba", "scipy", "transformers"):
    pytest.importorskip(package)

from checkpoints_made import Stored, bf16, save  # noqa: E402
from transformers.integrations.mxfp4 import convert_moe_packed_tensors  # noqa: E402

from subnetworks import checkpoints  # noqa: E402
from subnetworks.checkpoints import deltas, identity, quantised  # noqa: E402
from subnetworks.checkpoints.identity import digest  # noqa: E402
from subnetworks.checkpoints.numbers import decode  # noqa: E402
from subnetworks.checkpoints.quantised import fp8  # noqa: E402
from subnetworks.checkpoints.quantised.grid import Grid  # noqa: E402
from subnetworks.core import kernels  # noqa: E402
from subnetworks.core.errors import UserError  # noqa: E402
from subnetworks.core.kernels import Counts  # noqa: E402
from subnetworks.measuring import overlaps, selections, spectra, trajectories  # noqa: E402
from subnetworks.measuring.mask_sources import magnitude, principal  # noqa: E402
from subnetworks.measuring.masks import Mask  # noqa: E402
from subnetworks.measuring.updates import Rules, Selection, measure, measuring, summarise  # noqa: E402

DOWN = "model.layers.0.mlp.down_proj"
UP = "model.layers.0.mlp.experts.gate_up_proj"
NORM = {"model.norm.weight": bf16(np.ones(64, np.float32))}
BLOCKS = {"quant_method": "fp8", "weight_block_size": [128, 128]}
_TORCH = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint8: "U8"}
_TORCH |= {torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2"}
_TORCH |= {torch.float8_e8m0fnu: "F8_E8M0", torch.int8: "I8", torch.int32: "I32"}


def stored(tensor: torch.Tensor) -> Stored:
    """A tensor as safetensors has it."""
    flat = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return _TORCH[tensor.dtype], flat.view(f"u{tensor.itemsize}").reshape(tensor.shape)


def write(folder: Path, tensors: Mapping[str, Stored], section: Any = None) -> Path:
    """A checkpoint with a norm beside, and `quantization_config` if there is one."""
    save(folder / "model.safetensors", {**tensors, **NORM})
    if section is not None:
        (folder / "config.json").write_text(json.dumps({"quantization_config": section}))
    return folder


def spread(scale: torch.Tensor, shape: tuple[int, ...], block: tuple[int, ...]) -> torch.Tensor:
    """The scale of every weight: repeated along each axis, and cut."""
    scale = scale.float()
    for axis, (size, step) in enumerate(zip(shape, block, strict=True)):
        scale = scale.repeat_interleave(step, axis).narrow(axis, 0, size)
    return scale


def payload(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Codes of all kinds but NaN and infinities."""
    generator = torch.Generator().manual_seed(seed)
    last = 0x7E if dtype == torch.float8_e4m3fn else 0x7B
    codes = torch.randint(0, last + 1, shape, generator=generator, dtype=torch.uint8)
    return (codes | (torch.randint(0, 2, shape, generator=generator).byte() << 7)).view(dtype)


def same(quantised_: Path, plain: Path, n: int) -> dict[str, Any]:
    """Both hold the same weights, `n` and a norm, to the bit, and nothing but weights."""
    summary = summarise(measure(quantised_, plain))
    assert summary["n"] == n + 64
    assert summary["bit_equal"] == n + 64
    assert summary["excluded"] == []
    return summary


E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
CHANNEL = {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {}}}}
GROUPS = {"quant_method": "compressed-tensors", "config_groups": {}}
GROUPS["config_groups"] = {"g": {"weights": {"strategy": "group", "group_size": 48}}}
RECTANGLES = {"quant_method": "compressed-tensors", "config_groups": {}}
RECTANGLES["config_groups"] = {"g": {"weights": {"block_structure": "64x128"}}}
# Name of the scale, payload, weight's shape, scales' shape, block, scales' dtype, configuration.
LAYOUTS: dict[str, tuple[Any, ...]] = {
    "deepseek": ("{}.weight_scale_inv", E4M3, (300, 200), (3, 2), (128, 128), "F32", BLOCKS),
    "no config": ("{}.weight_scale_inv", E4M3, (300, 200), (3, 2), (128, 128), "F32", None),
    "deepseek v4": ("{}.scale", E4M3, (256, 384), (2, 3), (128, 128), "E8M0", BLOCKS),
    "mx": ("{}.weight_scale", E4M3, (96, 256), (96, 8), (1, 32), "U8", {"quant_method": "mxfp8"}),
    "mx, e5m2": ("{}.scales", E5M2, (96, 256), (96, 8), (1, 32), "E8M0", None),
    "fbgemm": ("{}.weight_scale", E4M3, (100, 64), (100, 1), (1, 64), "F32", CHANNEL),
    "channel": ("{}.weight_scale", E4M3, (64, 64), (64,), (1, 64), "BF16", None),
    "tensor": ("{}.weight_scale", E4M3, (100, 64), (), (100, 64), "F32", CHANNEL),
    "one": ("{}.weight_scale", E5M2, (100, 64), (1,), (100, 64), "F32", BLOCKS),
    "group": ("{}.weight_scale", E4M3, (10, 100), (10, 3), (1, 48), "BF16", GROUPS),
    "rectangle": ("{}.weight_scale", E4M3, (100, 200), (2, 2), (64, 128), "F32", RECTANGLES),
    "modelopt": ("{}.weight_scale", E4M3, (256, 256), (2, 1, 2, 1), (128, 128), "F32", None),
}


def scales(shape: tuple[int, ...], dtype: str, seed: int = 1) -> torch.Tensor:
    """Small scales, no two alike, or powers of two."""
    generator = torch.Generator().manual_seed(seed)
    if dtype in ("E8M0", "U8"):
        codes = torch.randint(110, 125, shape, generator=generator, dtype=torch.uint8)
        return codes if dtype == "U8" else codes.view(torch.float8_e8m0fnu)
    values = torch.rand(shape, generator=generator) * 1e-3 + 1e-4
    return values.to({"F32": torch.float32, "BF16": torch.bfloat16}[dtype])


def factors(scale: torch.Tensor) -> torch.Tensor:
    """Scales as float32; bytes are exponents."""
    return torch.exp2(scale.float() - 127) if scale.dtype == torch.uint8 else scale.float()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fp8_of_every_layout_is_what_torch_makes_of_it(layout: str, tmp_path: Path) -> None:
    name, dtype, shape, grid, block, kind, section = LAYOUTS[layout]
    codes, scale = payload(shape, dtype), scales(grid, kind)
    if len(grid) == 1 and grid != (1,):
        wide = factors(scale)[:, None].expand(shape)
    elif len(grid) in (0, 1):
        wide = factors(scale).expand(shape)
    else:
        wide = spread(factors(scale).reshape(grid[0], -1), shape, block)
    weights = (codes.float() * wide).bfloat16()
    tensors = {f"{DOWN}.weight": stored(codes), name.format(DOWN): stored(scale)}
    first = write(tmp_path / "quantised", tensors, section)
    second = write(tmp_path / "plain", {f"{DOWN}.weight": stored(weights)})
    same(first, second, codes.numel())
    # Moved, both ways, and payload and scales beside it.
    moved = codes.view(torch.uint8).clone()
    moved[0, ::3] ^= 1
    third = write(
        tmp_path / "moved", {**tensors, f"{DOWN}.weight": stored(moved.view(dtype))}, section
    )
    summary = summarise(measure(first, third))
    other = (moved.view(dtype).float() * wide).bfloat16()
    assert summary["n"] == codes.numel() + 64
    assert summary["n"] - summary["equal"] == int((other != weights).sum())
    assert summary["fp8"]["payload"]["n"] == codes.numel()
    different = int((moved != codes.view(torch.uint8)).sum())
    assert codes.numel() - summary["fp8"]["payload"]["bit_equal"] == different
    assert summary["fp8"]["scales"]["equal"] == summary["fp8"]["scales"]["n"] == scale.numel()


STACKS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "blocks": ((3, 2, 2), (1, 128, 128)),
    "rows": ((3, 256, 1), (1, 1, 200)),
    "columns, as FBGEMM": ((3, 1, 200), (1, 256, 1)),
    "experts": ((3, 1, 1), (1, 256, 200)),
}


@pytest.mark.parametrize("stack", STACKS)
def test_stacked_experts_have_scales_each(stack: str, tmp_path: Path) -> None:
    grid, block = STACKS[stack]
    shape = (3, 256, 200)
    codes, scale = payload(shape, E4M3), scales(grid, "F32")
    weights = (codes.float() * spread(scale, shape, block)).bfloat16()
    first = write(
        tmp_path / "quantised", {UP: stored(codes), UP + "_scale_inv": stored(scale)}, BLOCKS
    )
    if stack == "columns, as FBGEMM":
        (first / "config.json").unlink()
    second = write(tmp_path / "plain", {UP: stored(weights)})
    same(first, second, codes.numel())
    if stack != "blocks":
        return
    # In pieces that begin and end anywhere.
    flat = weights.reshape(-1).view(torch.int16).numpy().view(np.uint16)
    with checkpoints.open(first) as opened:
        values = quantised.read(opened).tensors[UP]
        for start, stop in ((0, 1), (199, 401), (51_100, 51_300), (25_599, 77_777)):
            assert np.array_equal(values.raw(start, stop), flat[start:stop])


def test_nan_and_infinities_stay_what_they_are(tmp_path: Path) -> None:
    """Every code of both formats, times ordinary, tiny, huge, infinite and missing scales."""
    every = torch.arange(256, dtype=torch.uint8)
    scale = torch.tensor([1.0, -3e-7, 1e-41, 1e-45, 0.0, 3e38, torch.inf, torch.nan, 1e-3])
    for dtype in (E4M3, E5M2):
        codes = every.view(dtype).expand(len(scale), 256).contiguous()
        weights = (codes.float() * scale[:, None]).bfloat16()
        tensors = {f"{DOWN}.weight": stored(codes), f"{DOWN}.weight_scale": stored(scale)}
        first = write(tmp_path / f"{dtype}", tensors)
        second = write(tmp_path / f"plain {dtype}", {f"{DOWN}.weight": stored(weights)})
        found = measure(first, second)
        summary = summarise(found)
        finite = int(weights.isfinite().sum())
        assert summary["equal"] == finite + 64
        assert summary["nonfinite"]["before_nan"] == int(weights.isnan().sum())
        assert summary["nonfinite"]["after_nan"] == int(weights.isnan().sum())
        assert summary["nonfinite"]["before_inf"] == int(weights.isinf().sum())


def mxfp4(shape: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 256, (*shape, 16), generator=generator, dtype=torch.uint8)
    return blocks, torch.randint(110, 130, shape, generator=generator, dtype=torch.uint8)


def test_mxfp4_is_what_transformers_makes_of_it(tmp_path: Path) -> None:
    blocks, scale = mxfp4((3, 40, 2))
    tensors = {UP + "_blocks": stored(blocks), UP + "_scales": stored(scale)}
    first = write(tmp_path / "quantised", tensors, {"quant_method": "mxfp4"})
    weights = convert_moe_packed_tensors(blocks, scale)
    assert weights.shape == (3, 64, 40)
    second = write(tmp_path / "plain", {UP: stored(weights)})
    same(first, second, weights.numel())
    moved = blocks.clone()
    moved[1, 5, 1, 3] ^= 0x10
    third = write(tmp_path / "moved", {**tensors, UP + "_blocks": stored(moved)})
    found = summarise(measure(first, third, mask=tmp_path / "mask.safetensors"))
    other = convert_moe_packed_tensors(moved, scale)
    assert found["n"] - found["equal"] == 1
    assert found["fp8"]["payload"]["n"] == weights.numel()
    assert found["fp8"]["payload"]["bit_equal"] == weights.numel() - 1
    assert found["fp8"]["scales"]["equal"] == scale.numel()
    mask = Mask.open(tmp_path / "mask.safetensors").array(UP)
    assert np.array_equal(mask, (other != weights).numpy())


def test_fp4_of_other_layouts_is_not_transposed(tmp_path: Path) -> None:
    blocks, scale = mxfp4((40, 2))
    weights = convert_moe_packed_tensors(blocks[None], scale[None])[0].T
    plain = write(tmp_path / "plain", {f"{DOWN}.weight": stored(weights)})
    packed = blocks.reshape(40, 32).view(torch.int8)
    exponents = scale.view(torch.float8_e8m0fnu)
    tensors = {f"{DOWN}.weight": stored(packed), f"{DOWN}.scale": stored(exponents)}
    same(write(tmp_path / "v4", tensors, BLOCKS), plain, weights.numel())
    tensors = {f"{DOWN}.weight.blocks": stored(blocks), f"{DOWN}.weight.scales": stored(scale)}
    same(write(tmp_path / "authors", tensors), plain, weights.numel())


W = f"{DOWN}.weight"
CODES = stored(payload((256, 128), E4M3))
FINE = stored(scales((2, 1), "F32"))
INTS = "I32", np.zeros((256, 16), np.uint32)
BYTES = "U8", np.zeros((256, 64), np.uint8)
SIGNED = "I8", np.zeros((256, 128), np.uint8)
HALF = "F16", np.ones((2, 256), np.uint16)
ONE = stored(torch.ones(()))
# Tensors, configuration, and what the one line must say.
REFUSED: dict[str, tuple[dict[str, Stored], Any, str]] = {
    "awq": (
        {f"{DOWN}.qweight": INTS, f"{DOWN}.qzeros": INTS, f"{DOWN}.scales": HALF},
        {"quant_method": "awq"},
        "qweight.*awq",
    ),
    "gptq, bare": ({f"{DOWN}.scales": HALF, f"{DOWN}.qweight": INTS}, None, "GPTQ or AWQ"),
    "4 bit": ({W: BYTES, f"{W}.absmax": ONE, f"{W}.quant_map": ONE}, None, "bitsandbytes"),
    "8 bit": ({W: SIGNED, f"{DOWN}.SCB": ONE}, {"quant_method": "bitsandbytes"}, "bitsandbytes"),
    "8 bit, bare": ({W: SIGNED, f"{DOWN}.SCB": ONE}, None, "bitsandbytes"),
    "hqq": ({f"{DOWN}.W_q": BYTES, f"{DOWN}.scale": HALF}, None, "HQQ"),
    "aqlm": ({f"{DOWN}.codes": SIGNED, f"{DOWN}.codebooks": HALF}, None, "AQLM"),
    "eetq": ({W: SIGNED, f"{DOWN}.weight_scales": HALF}, None, "EETQ"),
    "nvfp4": (
        {W: BYTES, f"{DOWN}.weight_scale": CODES, f"{DOWN}.weight_scale_2": ONE},
        {"quant_method": "modelopt", "quant_algo": "NVFP4"},
        "weight'.*modelopt",
    ),
    "nvfp4, no config": ({W: BYTES, f"{W}_scale": CODES, f"{W}_scale_2": ONE}, None, "NVFP4"),
    "nvfp4, bare": ({f"{DOWN}.weight_packed": BYTES, f"{W}_global_scale": ONE}, None, "NVFP4"),
    "mlx": (
        {W: ("U32", INTS[1]), f"{DOWN}.scales": HALF, f"{DOWN}.biases": HALF},
        None,
        "MLX",
    ),
    "integers": ({W: BYTES}, None, "stored as integers, U8"),
    "int8": ({W: SIGNED, f"{W}_scale": ONE}, {"quant_method": "compressed-tensors"}, "compressed"),
    "unknown": ({W: bf16(np.ones((8, 8)))}, {"quant_method": "wishful"}, "wishful"),
    "fp8, unknown": ({W: CODES, f"{W}_scale": ONE}, {"quant_method": "quark"}, "quark"),
    "no scale": ({W: CODES}, BLOCKS, "without scales"),
    "odd name": ({W: CODES, f"{DOWN}.scale_weight": ONE}, None, "without scales"),
    "second scale": ({W: CODES, f"{W}_scale": ONE, f"{W}_scale_2": ONE}, None, "weight_scale_2"),
    "zero point": ({W: CODES, f"{W}_scale": ONE, f"{W}_zero_point": ONE}, None, "zero_point"),
    "both": ({W: CODES, f"{W}_scale": ONE, f"{W}_scale_inv": ONE}, None, "both scales"),
    "divisor": ({W: CODES, f"{W}_scale": stored(torch.tensor(4480.0))}, None, "divisors"),
    "integers as scales": ({W: CODES, f"{W}_scale": INTS}, None, "scales stored as I32"),
    "blocks": ({W: CODES, f"{W}_scale_inv": FINE}, {**BLOCKS, "weight_block_size": [64, 64]}, "64"),
    "shapes": ({W: CODES, f"{W}_scale": stored(scales((7, 3), "F32"))}, None, "do not fit"),
    "by column": ({W: CODES, f"{W}_scale": stored(scales((128,), "F32"))}, None, "do not fit"),
    "sizes": ({W: CODES, f"{W}_scale": FINE}, {"weight_block_size": "big"}, "weight_block_size"),
    "mxfp4": (
        {UP + "_blocks": ("U8", np.zeros((2, 8, 2, 16), np.uint8)), UP + "_scales": BYTES},
        {"quant_method": "mxfp4"},
        "do not fit FP4",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_understood_is_refused_by_name(case: str, tmp_path: Path) -> None:
    tensors, section, says = REFUSED[case]
    folder = write(tmp_path / "quantised", tensors, section)
    plain = write(tmp_path / "plain", {W: bf16(np.ones((256, 128)))})
    for before, after in ((folder, plain), (plain, folder), (folder, folder)):
        with pytest.raises(UserError, match=says) as caught:
            measure(before, after)
        assert "\n" not in str(caught.value)
        assert "config.json" in str(caught.value) or "model.safetensors" in str(caught.value)


def test_scales_of_activations_are_no_weights(tmp_path: Path) -> None:
    tensors = {
        W: CODES,
        f"{DOWN}.weight_scale": ONE,
        f"{DOWN}.input_scale": ONE,
        "model.layers.0.self_attn.k_scale": ONE,
        "model.layers.0.self_attn.q_proj.weight_scale": FINE,
    }
    folder = write(tmp_path / "quantised", tensors, {"quant_method": "fp8"})
    summary = summarise(measure(folder, folder))
    assert summary["n"] == 256 * 128 + 64
    assert {e["name"] for e in summary["excluded"]} == set(list(tensors)[2:])
    # The same names are parameters where nothing is quantised.
    plain = write(tmp_path / "plain", {"blocks.0.k_scale": bf16(np.ones(3))})
    assert summarise(measure(plain, plain))["n"] == 67


def test_fp8_without_any_scale_is_a_number_format(tmp_path: Path) -> None:
    folder = write(tmp_path / "cast", {W: CODES})
    summary = summarise(measure(folder, folder))
    assert summary["n"] == summary["equal"] == 256 * 128 + 64
    assert "fp8" not in summary


@pytest.fixture
def fp8_pair(tmp_path: Path) -> dict[str, Path]:
    """An update stored in FP8 on both sides, and the same in bfloat16."""
    codes, scale = payload((256, 200), E4M3), scales((2, 2), "F32")
    moved = codes.view(torch.uint8).clone()
    chosen = torch.rand(moved.shape, generator=torch.Generator().manual_seed(2)) < 0.2
    moved[chosen & (moved & 0x7F < 0x7E)] ^= 1
    found = {}
    for name, side in (("before", codes), ("after", moved.view(E4M3))):
        weights = (side.float() * spread(scale, (256, 200), (128, 128))).bfloat16()
        tensors = {W: stored(side), f"{W}_scale_inv": stored(scale)}
        found[name] = write(tmp_path / name, tensors, BLOCKS)
        found[f"plain {name}"] = write(tmp_path / f"plain {name}", {W: stored(weights)})
    return found


def test_every_verb_reads_the_same_weights(fp8_pair: dict[str, Path], tmp_path: Path) -> None:
    """Masks, overlaps by magnitude, ranks, chosen masks and trajectories: as of bfloat16."""
    found: dict[str, list[Any]] = {}
    for kind in ("", "plain "):
        before, after = fp8_pair[f"{kind}before"], fp8_pair[f"{kind}after"]
        mask = tmp_path / f"{kind}mask.safetensors"
        measure(before, after, mask=mask)
        small = tmp_path / f"{kind}small.safetensors"
        magnitude.magnitude(before, small, selections.Share(density=0.1))
        main = tmp_path / f"{kind}main.safetensors"
        principal.principal(before, main, selections.Share(density=0.1), rank=4)
        compared = overlaps.summarise(overlaps.compare([mask, small], before, different_rules=True))
        path = trajectories.analyse(before, [(1, before), (2, after)])
        ranks = [spectrum.ranks for spectrum in spectra.ranks(before, after)]
        masks = [
            {name: Mask.open(file).array(name).tolist() for name in Mask.open(file).names}
            for file in (mask, small, main)
        ]
        keys = ("n", "changed", "intersection", "o1", "chance_by_magnitude", "z_by_magnitude")
        found[kind] = [
            masks,
            {key: compared[key] for key in keys},
            trajectories.summarise(path),
            ranks,
        ]
    assert found[""] == found["plain "]


def test_a_delta_keeps_what_is_stored(fp8_pair: dict[str, Path], tmp_path: Path) -> None:
    before, after = fp8_pair["before"], fp8_pair["after"]
    file = tmp_path / "delta.safetensors"
    with checkpoints.open(before) as first, checkpoints.open(after) as second:
        deltas.write(file, first, second.tensors, base=digest(first))
        wanted = {name: t.raw().tobytes() for name, t in second.tensors.items()}
        content = digest(second)
    with checkpoints.open(file) as opened:
        assert {name: t.raw().tobytes() for name, t in opened.tensors.items()} == wanted
        assert digest(opened) == content
    summary = summarise(measure(after, file))
    assert summary["bit_equal"] == summary["n"] == 256 * 200 + 64
    assert summary["digests"]["after"] == summary["digests"]["before"] == content


SHAPES: dict[str, tuple[tuple[int, int, int], tuple[int, int], bool]] = {
    "blocks": ((3, 100, 300), (64, 128), False),
    "shared": ((3, 100, 300), (64, 128), True),
    "groups": ((1, 37, 96), (1, 32), False),
    "rows": ((2, 50, 70), (1, 70), False),
    "columns": ((2, 50, 70), (50, 1), False),
    "each": ((1, 50, 70), (1, 1), False),
    "tensor": ((4, 20, 33), (20, 33), True),
}


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
@pytest.mark.parametrize("grid", SHAPES)
def test_the_kernel_multiplies_as_the_plain_way_does(grid: str, dtype: str) -> None:
    """Every code, times ordinary and extreme scales, from anywhere to anywhere, to the bit."""
    shape, steps, shared = SHAPES[grid]
    laid = Grid(shape, steps, shared)
    n = int(np.prod(shape))
    rng = np.random.default_rng(n)
    codes = rng.permutation(np.arange(n) % 256).astype(np.uint8)
    lines = laid.cells[0] * (1 if shared else shape[0])
    factors = np.exp2(rng.uniform(-20, 3, (lines, laid.cells[1]))).astype(np.float32)
    odd = np.array([0, -0.0, -1, 1e-40, -3e-45, 3e38, -np.inf, np.nan, 1e-6], np.float32)
    for chance in (0, 0.5):
        replaced = rng.random(factors.shape) < chance
        mixed = np.where(replaced, rng.choice(odd, factors.shape), factors)
        for start, stop in ((0, n), (1, 2), (n // 3, n // 3 + 257), (n - 99, n), (n // 2, n)):
            first, last = laid.lines(start, stop)
            out = np.zeros(stop - start, np.uint16)
            some = np.ascontiguousarray(mixed[first:last])
            scales = kernels.Scales(shape[1:], steps, shared, some, first, dtype == "F8_E5M2")
            kernels.dequantise(codes[start:stop], start, scales, out)
            plain = fp8.multiplied(codes[start:stop], dtype, some, laid, first, start)
            assert np.array_equal(out, plain)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
@pytest.mark.parametrize("rule", ["equal", "bit_equal", "isclose_bf16", "relative"])
def test_pairs_of_codes_are_counted_as_entries_are(dtype: str, rule: str) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 300_000), dtype=np.uint8)
    b[:100_000] = a[:100_000]
    tolerance = None if rule.endswith("equal") else "1e-2"
    compiled = measuring.compiled(Rules(), Selection(rule, tolerance))
    by_entry, by_code = (Counts(compiled.bounds.size) for _ in range(2))
    values = [decode(side, dtype) for side in (a, b)]
    bits = [side.astype(np.uint32) for side in (a, b)]
    with np.errstate(invalid="ignore"):
        kernels.count_any(
            (bits[0], bits[1]), (values[0], values[1]), (values[0], values[1]),
            0x7F, compiled, None, by_entry,
        )  # fmt: skip
    table = np.zeros((256, 256), np.uint32)
    for start in range(0, a.size, 100_001):
        kernels.count_codes(a[start : start + 100_001], b[start : start + 100_001], table)
    kernels.settle_codes(
        table, decode(np.arange(256, dtype=np.uint8), dtype), 0x7F, compiled, by_code
    )
    assert not table.any()
    for kind in ("counts", "steps", "exponents"):
        assert np.array_equal(getattr(by_entry, kind), getattr(by_code, kind))


def test_digests_are_of_what_is_stored(fp8_pair: dict[str, Path]) -> None:
    """Whether payloads are read for their weights, for themselves, or for the digest alone."""
    before, after = fp8_pair["before"], fp8_pair["after"]
    wanted = {}
    for name, path in (("before", before), ("after", after)):
        with checkpoints.open(path) as opened:
            wanted[name] = digest(opened)
    assert measure(before, after).digests == wanted
    assert measure(before, fp8_pair["plain after"]).digests["before"] == wanted["before"]
    assert measure(fp8_pair["plain before"], after).digests["after"] == wanted["after"]


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
def test_a_stream_counts_as_pieces_do(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over several chunks and tasks, from several files' offsets: counts, digests, the mask."""
    monkeypatch.setattr(identity, "TASK", 2 * identity.CHUNK)
    shape = (700, 1001)
    codes = payload(shape, dtype).view(torch.uint8)
    moved = codes ^ (torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.1).byte()
    folders = {}
    for seed, (side, one) in enumerate({"before": codes, "after": moved}.items()):
        scale = scales((6, 8), "F32", seed)
        scale[1:] = 1e-3
        weights = {"a.weight": stored(one.view(dtype)), "a.weight_scale_inv": stored(scale)}
        folders[side] = write(tmp_path / side, weights, BLOCKS)
        plain = (one.view(dtype).float() * spread(scale, shape, (128, 128))).bfloat16()
        write(tmp_path / f"plain {side}", {"a.weight": stored(plain)})
        folders[f"plain {side}"] = tmp_path / f"plain {side}"
    streams = kernels.stream_codes

    def found(before: str, after: str, mask: str) -> tuple[dict[str, Any], dict[str, str], Any]:
        result = measure(folders[before], folders[after], mask=tmp_path / mask)
        summary = summarise(result)
        return summary, result.digests, Mask.open(tmp_path / mask).array("a.weight")

    for before, after in (
        ("before", "after"),
        ("before", "plain after"),
        ("plain before", "after"),
    ):
        calls: list[int] = []

        def stream(*arguments: Any, calls: list[int] = calls) -> int:
            calls.append(streams(*arguments))
            return calls[-1]

        monkeypatch.setattr(kernels, "stream_codes", stream)
        by_stream = found(before, after, "stream.safetensors")
        assert sum(calls) == 700 * 1001 and len(calls) == 3
        monkeypatch.setattr(kernels, "stream_codes", lambda *_: 0)
        by_piece = found(before, after, "piece.safetensors")
        assert by_stream[:2] == by_piece[:2]
        assert np.array_equal(by_stream[2], by_piece[2])
        plain = summarise(measure(folders["plain before"], folders["plain after"]))
        for key in ("n", "equal", "bit_equal", "isclose_bf16", "absolute", "relative"):
            assert by_stream[0][key] == plain[key]
