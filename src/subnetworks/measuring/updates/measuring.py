"""Stream two checkpoints through the kernel on all cores, and gather the counts per tensor."""

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from subnetworks.checkpoints import Checkpoint, Tensor, identity
from subnetworks.checkpoints.numbers import MAGNITUDE, decode, encode, round_to
from subnetworks.checkpoints.quantised import fp8
from subnetworks.checkpoints.storage import Span
from subnetworks.core import kernels
from subnetworks.core.errors import UserError
from subnetworks.core.kernels import Counts, Rule, layout
from subnetworks.core.threads import share_out
from subnetworks.measuring import masks
from subnetworks.measuring.updates import coverage
from subnetworks.measuring.updates.coverage import Excluded
from subnetworks.measuring.updates.pairing import Pair
from subnetworks.measuring.updates.rules import Rules, Selection, bf16_midpoint, parse, thresholds
from subnetworks.measuring.updates.with_torch import TorchCounter


@dataclass
class Counted:
    """What was counted in one pair of tensors."""

    pair: Pair
    counts: Counts


@dataclass
class Measurement:
    """All counts of an update, tensor by tensor, and the digests of both checkpoints.

    `names` and `notes` are those of `subnetworks.measuring.updates.pairing.Match`.
    """

    before: str
    after: str
    rules: Rules
    selection: Selection
    tensors: list[Counted]
    excluded: list[Excluded]
    digests: dict[str, str] = field(default_factory=dict)
    bytes_read: int = 0
    seconds: float = 0.0
    names: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def compared_share(self) -> float:
        """Entries compared, of all (see `subnetworks.measuring.updates.coverage`)."""
        compared = sum(t.pair.n for t in self.tensors if t.pair.part == "values")
        return coverage.share(compared, self.excluded)


@dataclass(frozen=True)
class _Task:
    index: int  # of the pair; -1: only the digest of `tensors` is wanted
    start: int
    stop: int
    # (0 before, 1 after; what is read: of FP8 weights the payload; whether its digest is wanted)
    sides: tuple[tuple[int, Tensor, bool], ...]
    codes: int = -1  # of the pair of payloads that is counted along with the weights


class _Worker:
    """Buffers of one thread, and how it handles a task."""

    def __init__(self, rule: Rule, device: str) -> None:
        self._torch = None if device == "cpu" else TorchCounter(_torch_name(device), rule)
        # A GPU wants more at a time.
        self._piece = identity.TASK if self._torch else identity.CHUNK
        self._buffers = [identity.Buffer(self._piece) for _ in range(2)]
        self._packed = np.zeros(identity.TASK // 8, dtype=np.uint8)
        self._space = kernels.scratch()
        self._rule = rule
        self._codes = np.zeros((256, 256), np.uint32)
        self._made = [np.zeros(self._piece, np.uint16) for _ in range(2)]

    def run(
        self, task: _Task, pair: Pair | None, writer: masks.Writer | None, codes: Pair | None = None
    ) -> tuple[Counts, list[list[int]], Counts]:
        """Read, hash and count.

        Returns the counts, the chunks' hashes of each side, and the counts of `codes`.
        """
        counts, of_codes = (Counts(self._rule.bounds.size) for _ in range(2))
        hashes: list[list[int]] = [[] for _ in task.sides]
        masked = writer is not None and pair is not None and pair.part == "values"
        streamed = None if pair is None else self._stream(task, pair, masked, codes)
        if streamed is not None:
            counts, hashes = streamed
        for start in () if streamed else range(task.start, task.stop, self._piece):
            stop = min(start + self._piece, task.stop)
            stored = []
            for index, (_, tensor, wanted) in enumerate(task.sides):
                raw = self._buffers[index].read(tensor, start, stop)
                if wanted:
                    hashes[index] += self._buffers[index].fingerprints(raw)
                stored.append(raw)
            if codes is not None:
                self._count(codes, stored[0], stored[1], None, of_codes)
            if pair is not None:
                mask = None
                if masked:
                    mask = self._packed[(start - task.start) // 8 : (stop - task.start + 7) // 8]
                bits = [self._bits(pair, k, task, raw, start) for k, raw in enumerate(stored)]
                self._count(pair, bits[0], bits[1], mask, counts)
        for one, into in ((pair, counts), (codes, of_codes)):
            if one is not None and self._by_codes(one):
                values = decode(np.arange(256, dtype=np.uint8), one.dtype)
                kernels.settle_codes(self._codes, values, MAGNITUDE[one.dtype], self._rule, into)
        if masked and writer is not None and pair is not None:
            self._write(task, pair, writer)
        return counts, hashes, of_codes

    def _bits(self, pair: Pair, side: int, task: _Task, raw: np.ndarray, start: int) -> np.ndarray:
        """The weights of one side: what was read or, of FP8, what it represents."""
        tensor = (pair.before, pair.after)[side]
        if tensor is task.sides[side][1]:
            return raw
        assert isinstance(tensor.reader, fp8.Reader)
        out = self._made[side][: raw.size]
        tensor.reader.make(raw, start, out)
        return out

    def _by_codes(self, pair: Pair) -> bool:
        """Whether it is enough to count which codes of 8 bits meet which."""
        alike = pair.before.dtype == pair.after.dtype == pair.dtype
        return alike and pair.dtype in fp8.PAYLOADS and pair.part == "payload" and not self._torch

    def _write(self, task: _Task, pair: Pair, writer: masks.Writer) -> None:
        packed = self._packed[: (task.stop - task.start + 7) // 8]
        writer.write(pair.name, packed, task.start // 8)

    def _stream(
        self, task: _Task, pair: Pair, masked: bool, codes: Pair | None
    ) -> tuple[Counts, list[list[int]]] | None:
        """The same for bfloat16 and FP8 that lie in files as they are: all at once, without Python.

        None for other tensors, and where a file cannot be read: reading it again says why.
        """
        if self._torch or (codes is not None and not self._by_codes(codes)):
            return None
        n, chunk = task.stop - task.start, identity.CHUNK
        sides: list[kernels.Side] = []
        scaled: list[kernels.Scales | None] = []
        for (_, stored, wanted), tensor, buffer in zip(
            task.sides, (pair.before, pair.after), self._buffers, strict=True
        ):
            span = stored.reader
            if not (tensor.dtype == pair.dtype == "BF16" and isinstance(span, Span)):
                return None
            hashes = np.zeros(-(-n // chunk), np.uint64) if wanted else None
            offset = span.begin + stored.itemsize * task.start
            sides.append(kernels.Side(span.file.fileno(), offset, buffer.content, hashes))
            made = tensor.reader if isinstance(tensor.reader, fp8.Reader) else None
            scaled.append(made.scales(task.start, task.stop) if made else None)
        mask = self._packed[: (n + 7) // 8] if masked else None
        counts = Counts(self._rule.bounds.size)
        results = self._rule, mask, counts, self._space
        before, after = sides
        if any(scaled):
            table = None if codes is None else self._codes
            read = kernels.stream_codes(
                before, after, scaled, task.start, n, chunk, table, *results
            )
        else:
            read = kernels.stream_bf16(before, after, n, chunk, *results)
        if read < n:
            self._codes[:] = 0
            return None
        return counts, [[] if s.hashes is None else s.hashes.tolist() for s in sides]

    def _count(
        self, pair: Pair, a: np.ndarray, b: np.ndarray, mask: np.ndarray | None, counts: Counts
    ) -> None:
        if pair.before.dtype == pair.after.dtype == pair.dtype == "BF16":
            if self._torch:
                self._torch.count_bf16(a, b, mask, counts)
            else:
                kernels.count_bf16(a, b, self._rule, mask, counts, self._space)
            return
        if self._by_codes(pair) and kernels.count_codes(a, b, self._codes):
            return
        before = _as(a, pair.before.dtype, pair.dtype)
        after = _as(b, pair.after.dtype, pair.dtype)
        bits, values, rounded = zip(before, after, strict=True)
        magnitude = MAGNITUDE.get(pair.dtype, 0)
        if self._torch:
            self._torch.count_any(bits, values, rounded, magnitude, mask, counts)
        else:
            kernels.count_any(bits, values, rounded, magnitude, self._rule, mask, counts)


def _torch_name(device: str) -> str:
    """torch's name of a device; `torch` is torch on the CPU."""
    return "cpu" if device == "torch" else device


def check_device(device: str) -> None:
    """Raise `UserError` unless counting can be done on `device`."""
    if device == "cpu":
        return
    import torch

    try:
        torch.zeros(1, device=_torch_name(device)).sum().item()
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"--device {device}: not to be used here ({str(error).splitlines()[0]}); there are: "
            "cpu (compiled kernels), torch (torch on the CPU), cuda, cuda:0, …"
        ) from None


def _as(bits: np.ndarray, stored: str, wanted: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bits, values, and values rounded to bfloat16, after a cast from `stored` to `wanted`."""
    values = decode(bits, stored)
    if stored != wanted:
        bits = encode(values, wanted)
        values = decode(bits, wanted)
    rounded = values if wanted == "BF16" else round_to(values, "BF16")
    return bits.astype(np.uint32, copy=False), values, rounded


def compiled(rules: Rules, selection: Selection) -> Rule:
    """The rules and the mask's rule as the kernels take them."""
    close, absolute, relative = thresholds(rules)
    value = parse(selection.tolerance) if selection.tolerance is not None else 0.0
    match selection.rule:
        case "bit_equal":
            select, bound = layout.SELECT_BITS, 0.0
        case "isclose_bf16":
            select, bound = layout.SELECT_CLOSE, float(bf16_midpoint(value))
        case "relative":
            select, bound = layout.SELECT_RELATIVE, float(np.float32(value))
        case _:
            select, bound = layout.SELECT_ABSOLUTE, float(np.float32(value))
    bounds = np.concatenate([close, absolute, relative])
    return Rule(bounds, close.size, absolute.size, relative.size, select, bound)


def _tasks(before: Checkpoint, after: Checkpoint, pairs: Sequence[Pair]) -> list[_Task]:
    """All work in the order of the files, so that reading is sequential."""
    tasks = []
    hashed: set[tuple[int, str]] = set()
    along = _along(pairs)
    for index, pair in enumerate(pairs):
        if index in along.values():
            continue
        sides = []
        for side, checkpoint, tensor in ((0, before, pair.before), (1, after, pair.after)):
            if isinstance(tensor.reader, fp8.Reader):
                tensor = tensor.reader.payload  # read once for its digest and its weights
            wanted = (
                checkpoint.tensors.get(tensor.name) is tensor and (side, tensor.name) not in hashed
            )
            if wanted:
                hashed.add((side, tensor.name))
            sides.append((side, tensor, wanted))
        for start, stop in identity.spans(pair.n):
            tasks.append(_Task(index, start, stop, tuple(sides), along.get(index, -1)))
    for side, checkpoint in ((0, before), (1, after)):
        for name, tensor in checkpoint.tensors.items():
            if (side, name) not in hashed:
                for start, stop in identity.spans(tensor.n):
                    tasks.append(_Task(-1, start, stop, ((side, tensor, True),)))
    return tasks


def _along(pairs: Sequence[Pair]) -> dict[int, int]:
    """Pairs of FP8 weights whose payloads are compared too, and where those are among the pairs."""
    payloads = {(id(p.before), id(p.after)): k for k, p in enumerate(pairs) if p.part == "payload"}
    found = {}
    for index, pair in enumerate(pairs):
        readers = pair.before.reader, pair.after.reader
        if isinstance(readers[0], fp8.Reader) and isinstance(readers[1], fp8.Reader):
            key = id(readers[0].payload), id(readers[1].payload)
            if pair.part == "values" and key in payloads:
                found[index] = payloads[key]
    return found


def count(
    before: Checkpoint,
    after: Checkpoint,
    pairs: Sequence[Pair],
    excluded: Sequence[Excluded],
    rules: Rules,
    selection: Selection,
    mask: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    device: str = "cpu",
) -> Measurement:
    """Count every rule in every pair, and write the mask, in one pass.

    Memory: about 3 MiB per thread beyond the libraries, whatever the size of the checkpoints.
    """
    result = Measurement(before.source, after.source, rules, selection, [], list(excluded))
    if mask is None:
        return _run(before, after, pairs, result, None, threads, device)
    shapes = {pair.name: pair.shape for pair in pairs if pair.part == "values"}
    digest = f"{identity.NAME}:{'0' * 32}"
    compared = sum(pair.n for pair in pairs if pair.part == "values")
    facts = {
        "compared_share": repr(coverage.share(compared, excluded)),
        "compared_as": " ".join(sorted({pair.dtype for pair in pairs if pair.part == "values"})),
        "rule": selection.rule,
        "tolerance": selection.tolerance or "",
        "before": digest,
        "after": digest,
        "changed": "9" * 20,
    }
    with masks.writing(Path(mask), shapes, facts) as writer:
        result = _run(before, after, pairs, result, writer, threads, device)
        changed = sum(
            int(t.counts.counts[layout.SELECTED]) for t in result.tensors if t.pair.part == "values"
        )
        writer.finish({**facts, **result.digests, "changed": str(changed)})
    return result


def _run(
    before: Checkpoint,
    after: Checkpoint,
    pairs: Sequence[Pair],
    result: Measurement,
    writer: masks.Writer | None,
    threads: int | None,
    device: str,
) -> Measurement:
    check_device(device)
    rule = compiled(result.rules, result.selection)
    kernels.prepare()
    result.tensors = [Counted(pair, Counts(rule.bounds.size)) for pair in pairs]
    hashes = identity.Hashes(before), identity.Hashes(after)
    lock = threading.Lock()

    def worker() -> Callable[[_Task], None]:
        mine = _Worker(rule, device)

        def run(task: _Task) -> None:
            pair = pairs[task.index] if task.index >= 0 else None
            codes = pairs[task.codes] if task.codes >= 0 else None
            counts, found, of_codes = mine.run(task, pair, writer, codes)
            for (side, tensor, wanted), values in zip(task.sides, found, strict=True):
                if wanted:
                    hashes[side].add(tensor.name, task.start, values)
            with lock:
                if pair is not None:
                    result.tensors[task.index].counts.add(counts)
                if codes is not None:
                    result.tensors[task.codes].counts.add(of_codes)

        return run

    result.bytes_read = share_out(
        "measuring",
        _tasks(before, after, pairs),
        lambda task: (task.stop - task.start) * sum(t.itemsize for _, t, _ in task.sides),
        worker,
        threads,
        (lambda: None) if writer is None else writer.flush,
    )
    result.digests = {"before": hashes[0].digest(), "after": hashes[1].digest()}
    return result
