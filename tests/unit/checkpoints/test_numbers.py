"""Number formats against torch, over every bit pattern that fits."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from subnetworks.checkpoints.numbers import decode, encode, narrower, round_to  # noqa: E402

FORMATS = {
    "BF16": (torch.int16, torch.bfloat16, 16),
    "F16": (torch.int16, torch.float16, 16),
    "F8_E4M3": (torch.uint8, torch.float8_e4m3fn, 8),
    "F8_E5M2": (torch.uint8, torch.float8_e5m2, 8),
}


def as_torch(bits: np.ndarray, dtype: str) -> "torch.Tensor":
    integer, float_, width = FORMATS[dtype]
    return (
        torch.from_numpy(bits.astype(np.uint8 if width == 8 else np.int16))
        .view(integer)
        .view(float_)
    )


@pytest.mark.parametrize("dtype", FORMATS)
def test_every_bit_pattern_decodes_as_in_torch(dtype: str) -> None:
    width = FORMATS[dtype][2]
    bits = np.arange(1 << width, dtype=f"u{width // 8}")
    ours, theirs = decode(bits, dtype), as_torch(bits, dtype).float().numpy()
    assert np.array_equal(ours, theirs, equal_nan=True)
    assert np.array_equal(np.signbit(ours), np.signbit(theirs))


@pytest.mark.parametrize("dtype", FORMATS)
def test_values_round_as_in_torch(dtype: str) -> None:
    rng = np.random.default_rng(0)
    width = FORMATS[dtype][2]
    every = decode(np.arange(1 << width, dtype=f"u{width // 8}"), dtype)
    finite = np.sort(every[np.isfinite(every)]).astype(np.float64)
    # The values themselves, the ties between them, their neighbours, and numbers of all sizes.
    ties = ((finite[1:] + finite[:-1]) / 2).astype(np.float32)
    values = np.concatenate(
        [
            every,
            ties,
            np.nextafter(ties, np.float32(np.inf)),
            np.nextafter(ties, np.float32(-np.inf)),
            (rng.standard_normal(20_000) * 10.0 ** rng.integers(-12, 9, 20_000)).astype(np.float32),
            np.array(
                [464, 464.0001, 480, 57344, 61440, 65520, 3.4e38, np.inf, -np.inf, np.nan],
                np.float32,
            ),
        ]
    )
    theirs = torch.from_numpy(values).to(FORMATS[dtype][1]).float().numpy()
    if dtype == "F8_E4M3":
        # Beyond the range torch has changed its mind: NaN once, now the largest number.
        beyond = np.abs(values) > 464
        assert np.array_equal(round_to(values[beyond], dtype), np.copysign(448, values[beyond]))
        values, theirs = values[~beyond], theirs[~beyond]
    assert np.array_equal(decode(encode(values, dtype), dtype), theirs, equal_nan=True)
    assert np.array_equal(round_to(values, dtype), theirs, equal_nan=True)


def test_float64_is_compared_as_float32() -> None:
    values = np.array([0.1, 1e300, -1e-300])
    expected = np.array([np.float32(0.1), np.inf, -0.0], np.float32)
    assert np.array_equal(decode(values.view(np.uint64), "F64"), expected)
    assert narrower("F64", "F64") == "F32"


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("BF16", "F32", "BF16"),
        ("F16", "F32", "F16"),
        ("F16", "BF16", "BF16"),
        ("F8_E4M3", "BF16", "F8_E4M3"),
        ("F32", "F32", "F32"),
    ],
)
def test_the_narrower_format(first: str, second: str, expected: str) -> None:
    assert narrower(first, second) == narrower(second, first) == expected
