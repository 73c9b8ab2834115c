"""Pickles read as data: nothing is imported, called or run.

A pickle is a program for a small stack machine, and the machine that comes with Python runs what
the program names. This one knows what weights need: numbers, strings, tuples, lists and dicts, and
torch's tensors, which it gives as `View`s of `Storage`s, where their bytes lie rather than the
bytes. A name in a pickle is looked up in two closed tables of this module and nowhere else. What is
in neither ends the reading, before anything that follows it is looked at, with an error that says
the name.

A format with classes of its own (`subnetworks.checkpoints.formats`) hands their names over as
`records`. Objects of these are given as inert `Record`s (name, arguments, state), whose meaning is
that format's business: a `torch.distributed.tensor.DTensor` is read so, or DCP's metadata.

What is given is a tree: acyclic, not deeper than `DEPTH`, and not larger when it is written out
than what the pickle may hold. It may be walked by a recursive function.
"""

import re
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from subnetworks.core.errors import UserError

# A state dict of 60,000 tensors takes 2.5 million operations and 10 MB.
OPERATIONS = 8_000_000
SIZE = 64 << 20
DEPTH = 100
_MARKS = 1000
_NAME = re.compile(r"[A-Za-z_][\w.]{0,199}", re.ASCII)
_KEY = re.compile(r"[\w.-]{1,100}", re.ASCII)
_LARGEST = 1 << 62
_DIMENSIONS = 64

# Names that are data: dtypes, and the classes by which older files say the dtype of a storage.
_STORAGES = {
    "Float": "float32", "Double": "float64", "Half": "float16", "BFloat16": "bfloat16",
    "Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8",
    "Bool": "bool", "ComplexFloat": "complex64", "ComplexDouble": "complex128",
}  # fmt: skip
ITEMSIZE = {
    "float32": 4, "float64": 8, "float16": 2, "bfloat16": 2,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1,
    "uint16": 2, "uint32": 4, "uint64": 8, "complex32": 4, "complex64": 8, "complex128": 16,
    "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e8m0fnu": 1,
    "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1, "float4_e2m1fn_x2": 1,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Name:
    """A class or function that a pickle names: `module.name`, and no more than that."""

    name: str


@dataclass(eq=False)
class Record:
    """An object of a class that the caller knows: what it was made with, and its state."""

    name: str
    arguments: tuple[object, ...]
    state: object = None


@dataclass(frozen=True, eq=False)
class Storage:
    """A stretch of numbers that lies beside the pickle, under `key`.

    Attributes:
        dtype: as torch names it; None where only the bytes are counted (by `size`).
        size: number of entries, or bytes.
        location: the device it was saved from.
    """

    key: str
    dtype: str | None
    size: int
    location: str


@dataclass(frozen=True, eq=False)
class View:
    """A tensor: which entries of a storage, in units of entries; checked to lie within it."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Ordered(dict[object, object]):
    """A `collections.OrderedDict`."""


class _Refused(Exception):
    """What is wrong, without the place."""


def read(
    data: bytes | bytearray, where: str, records: Collection[str] = (), remedy: str = ""
) -> object:
    """The value that a pickle describes.

    Args:
        data: the pickle, of protocol 2 to 5, without anything after its end.
        where: what errors call it.
        records: names (`module.name`) of classes and functions whose objects are wanted as they
            are described, as `Record`s.
        remedy: what a user can do with a file that is refused, if that is not to save it again.

    Raises:
        UserError: it names anything else, is malformed, or holds more than weights need.
    """
    try:
        if len(data) > SIZE:
            raise _Refused(f"{len(data)} bytes, more than weights need ({SIZE})")
        value = _Machine(bytes(data), frozenset(records)).run()
        _require_tree(value)
    except _Refused as refused:
        why = str(refused).replace(_REMEDY, remedy) if remedy else str(refused)
        raise UserError(f"{where}: {why}") from None
    except (LookupError, ValueError, TypeError, struct.error, MemoryError) as error:
        raise UserError(f"{where}: a damaged pickle: fetch it again") from error
    return value


@dataclass
class _Machine:
    data: bytes
    records: frozenset[str]
    place: int = 0
    stack: list[object] = field(default_factory=list)
    marks: list[list[object]] = field(default_factory=list)
    memo: dict[int, object] = field(default_factory=dict)

    def run(self) -> object:
        for _ in range(OPERATIONS):
            code = self.data[self.place]
            self.place += 1
            if code == 0x2E:  # STOP
                break
            operation = _OPERATIONS.get(code)
            if operation is None:
                raise _Refused(
                    f"its pickle has the operation {_name(code)}, which no weights need; {_REMEDY}"
                )
            operation(self)
        else:
            raise _Refused(f"its pickle has more than {OPERATIONS} operations; {_REMEDY}")
        if self.marks or len(self.stack) != 1 or self.place != len(self.data):
            raise _Refused("a damaged pickle (it ends before or after its end): fetch it again")
        return self.stack[0]

    def take(self, size: int) -> bytes:
        end = self.place + size
        if end > len(self.data):
            raise _Refused("a damaged pickle (cut short): fetch it again")
        piece = self.data[self.place : end]
        self.place = end
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def line(self) -> str:
        end = self.data.index(b"\n", self.place, self.place + 256)
        return self.take(end + 1 - self.place)[:-1].decode("ascii")

    def items(self) -> list[object]:
        """What lies above the last mark, which goes."""
        above, self.stack = self.stack, self.marks.pop()
        return above

    def gather(self, kind: type[list[object]] | type[tuple[object, ...]]) -> None:
        values = kind(self.items())
        self.stack.append(values)

    def mark(self) -> None:
        if len(self.marks) >= _MARKS:
            raise _Refused(f"its pickle is nested too deeply; {_REMEDY}")
        self.marks.append(self.stack)
        self.stack = []

    def look_up(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if not (_NAME.fullmatch(module) and _NAME.fullmatch(name)):
            full = ascii(full)[:100]
        elif full in self.records or full in _FUNCTIONS or full in _WORDS:
            return self.stack.append(Name(full))
        raise _Refused(f"its pickle asks for {full}, which no weights need; {_REMEDY}")

    def global_(self) -> None:
        module = self.line()
        self.look_up(module, self.line())

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise _Refused(f"its pickle asks for a name that is none; {_REMEDY}")
        self.look_up(module, name)

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not (isinstance(function, Name) and type(arguments) is tuple):
            raise _Refused(f"its pickle calls what has no name; {_REMEDY}")
        if function.name in self.records:
            self.stack.append(Record(function.name, arguments))
        elif function.name in _FUNCTIONS:
            self.stack.append(_FUNCTIONS[function.name](*arguments))
        else:
            raise _Refused(f"its pickle calls {function.name}, which is data; {_REMEDY}")

    def new(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        if not (isinstance(kind, Name) and type(arguments) is tuple and kind.name in self.records):
            of = f" of {kind.name}" if isinstance(kind, Name) else ""
            raise _Refused(f"its pickle makes an object{of}, which no weights need; {_REMEDY}")
        self.stack.append(Record(kind.name, arguments))

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Record) and target.state is None:
            target.state = state
        elif not (isinstance(target, Ordered) and isinstance(state, dict)):
            # A state dict's own attribute (`_metadata`) is dropped.
            raise _Refused(f"its pickle sets the state of what has none; {_REMEDY}")

    def persistent(self) -> None:
        found = self.stack.pop()
        if not (type(found) is tuple and len(found) == 5 and found[0] == "storage"):
            raise _Refused(f"its pickle refers to something else than numbers; {_REMEDY}")
        _, kind, key, location, size = found
        if not (isinstance(key, str) and _KEY.fullmatch(key) and isinstance(location, str)):
            raise _Refused("a damaged pickle (a storage without a name): fetch it again")
        if not isinstance(kind, Name) or kind.name not in _WORDS or type(size) is not int:
            raise _Refused("a damaged pickle (a storage without a dtype): fetch it again")
        if kind.name in _UNTYPED:
            dtype = None
        elif kind.name.endswith("Storage"):
            dtype = _STORAGES[kind.name.rpartition(".")[2].removesuffix("Storage")]
        else:
            raise _Refused("a damaged pickle (a storage without a dtype): fetch it again")
        if not 0 <= size <= _LARGEST:
            raise _Refused(f"storage {key}: {size} entries; the file is damaged: fetch it again")
        self.stack.append(Storage(key, dtype, size, location))

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def append(self, values: list[object]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise _Refused(f"its pickle adds to what is no list; {_REMEDY}")
        target.extend(values)

    def set(self, values: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise _Refused(f"its pickle sets an item of what is no dict; {_REMEDY}")
        for key, value in zip(values[::2], values[1::2], strict=True):
            _put(target, key, value)

    def dict_(self) -> None:
        values = self.items()
        self.stack.append({})
        self.set(values)

    def protocol(self) -> None:
        if self.place != 1 or self.number(1) not in (2, 3, 4, 5):
            raise _Refused("a pickle of an unknown protocol; save the state dict with torch.save")

    def frame(self) -> None:
        """A stretch that is to be read at once; here all of it is."""
        if self.number(8) > len(self.data) - self.place:
            raise _Refused("a damaged pickle (cut short): fetch it again")

    def text(self, size: int) -> None:
        self.stack.append(self.take(size).decode("utf-8"))

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set([key, value])

    def tuple_(self, size: int) -> None:
        if len(self.stack) < size:
            raise IndexError
        values = tuple(self.stack[-size:])
        self.stack[-size:] = [values]


_REMEDY = (
    "a pickle can run code: refused; save the state dict alone, as safetensors or with "
    "torch.save(model.state_dict(), …)"
)


def _name(code: int) -> str:
    from pickletools import opcodes

    return next((o.name for o in opcodes if o.code == chr(code)), f"0x{code:02x}, which is none")


def _put(target: dict[object, object], key: object, value: object) -> None:
    scalar = isinstance(key, str | int | float | bytes | Record) or key is None
    # A hash of deep tuples would recurse.
    if not scalar and not (
        type(key) is tuple and all(isinstance(x, str | int | float | bytes) for x in key)
    ):
        raise _Refused(f"its pickle has a dict with keys of no use to weights; {_REMEDY}")
    if key in target:
        raise _Refused(f"its pickle sets {ascii(key)[:100]} twice in a dict; {_REMEDY}")
    target[key] = value


def _ordered(pairs: object = ()) -> Ordered:
    found = Ordered()
    if not isinstance(pairs, list | tuple):
        raise _Refused(f"its pickle makes a dict of no pairs; {_REMEDY}")
    for pair in pairs:
        if not (isinstance(pair, list | tuple) and len(pair) == 2):
            raise _Refused(f"its pickle makes a dict of no pairs; {_REMEDY}")
        _put(found, *pair)
    return found


def _numbers(values: object, what: str) -> tuple[int, ...]:
    if type(values) is not tuple or len(values) > _DIMENSIONS:
        raise _Refused(f"a tensor's {what} is no tuple of numbers: the file is damaged")
    if not all(type(x) is int and 0 <= x <= _LARGEST for x in values):
        raise _Refused(f"a tensor's {what} is no tuple of numbers: the file is damaged")
    return values


def _view(storage: object, offset: object, shape: object, stride: object, *rest: object) -> View:
    """`torch._utils._rebuild_tensor_v2`: then requires_grad, hooks, and maybe further facts."""
    if not isinstance(storage, Storage) or storage.dtype is None:
        raise _Refused("a tensor without a storage: the file is damaged")
    if len(rest) > 3:
        raise _Refused("a tensor described in an unknown way; save it with an older torch")
    return _checked(storage, storage.dtype, offset, shape, stride, rest[2:])


def _view_with_dtype(
    storage: object,
    offset: object,
    shape: object,
    stride: object,
    gradient: object,
    hooks: object,
    dtype: object,
    *rest: object,
) -> View:
    """`torch._utils._rebuild_tensor_v3`, for dtypes that have no class of storage."""
    if not isinstance(storage, Storage) or not isinstance(dtype, Name):
        raise _Refused("a tensor without a storage: the file is damaged")
    name = dtype.name.removeprefix("torch.")
    if name not in ITEMSIZE or len(rest) > 1:
        raise _Refused("a tensor described in an unknown way; save it with an older torch")
    return _checked(storage, name, offset, shape, stride, rest)


def _checked(
    storage: Storage,
    dtype: str,
    offset: object,
    shape: object,
    stride: object,
    facts: tuple[object, ...],
) -> View:
    sizes, steps = _numbers(shape, "shape"), _numbers(stride, "stride")
    if len(sizes) != len(steps) or type(offset) is not int or not 0 <= offset <= _LARGEST:
        raise _Refused("a tensor's stride does not fit its shape: the file is damaged")
    if any(fact for fact in facts if not isinstance(fact, dict)) or any(
        value for fact in facts if isinstance(fact, dict) for value in fact.values()
    ):
        # Such as `neg` and `conj`: the numbers stored are not the tensor's.
        raise _Refused("a tensor that is to be negated or conjugated when read; refused")
    per = ITEMSIZE[dtype] if storage.dtype is None else 1
    last = offset + sum((n - 1) * step for n, step in zip(sizes, steps, strict=True))
    if 0 not in sizes and (last + 1) * per > storage.size:
        raise _Refused(
            f"a tensor of shape {list(sizes)} lies outside its storage {storage.key} of "
            f"{storage.size}: the file is damaged: fetch it again"
        )
    return View(storage, dtype, offset, sizes, steps)


def _parameter(data: object, *_: object) -> object:
    """`torch._utils._rebuild_parameter`: the tensor itself."""
    if not isinstance(data, View | Record):
        raise _Refused("a parameter that is no tensor: the file is damaged")
    return data


def _size(shape: object = ()) -> tuple[int, ...]:
    return _numbers(shape, "shape")


def _device(*arguments: object) -> str:
    return ":".join(str(x) for x in arguments if isinstance(x, str | int))[:100]


def _bytes(text: object, encoding: object) -> bytes:
    """`_codecs.encode`, by which protocol 2 says bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise _Refused("a damaged pickle (bytes that are none): fetch it again")
    return text.encode("latin1")


# All that is ever called: functions of this module.
_FUNCTIONS: dict[str, Callable[..., object]] = {
    "collections.OrderedDict": _ordered,
    "torch._utils._rebuild_tensor": _view,
    "torch._utils._rebuild_tensor_v2": _view,
    "torch._utils._rebuild_tensor_v3": _view_with_dtype,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.Size": _size,
    "torch.device": _device,
    "_codecs.encode": _bytes,
}
_UNTYPED = ("torch.storage.UntypedStorage", "torch.UntypedStorage")
_WORDS = frozenset(
    [
        *(f"torch.{dtype}" for dtype in ITEMSIZE),
        *(f"torch.{kind}Storage" for kind in _STORAGES),
        *_UNTYPED,
    ]
)


def _push(value: object) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(value)


_OPERATIONS: dict[int, Callable[[_Machine], None]] = {
    0x80: _Machine.protocol,
    0x95: _Machine.frame,
    ord("("): _Machine.mark,
    ord("c"): _Machine.global_,
    0x93: _Machine.stack_global,
    ord("R"): _Machine.reduce,
    0x81: _Machine.new,
    ord("b"): _Machine.build,
    ord("Q"): _Machine.persistent,
    # The memo.
    ord("q"): lambda m: m.put(m.number(1)),
    ord("r"): lambda m: m.put(m.number(4)),
    0x94: lambda m: m.put(len(m.memo)),
    ord("h"): lambda m: m.stack.append(m.memo[m.number(1)]),
    ord("j"): lambda m: m.stack.append(m.memo[m.number(4)]),
    # Scalars.
    ord("N"): _push(None),
    0x88: _push(True),
    0x89: _push(False),
    ord("J"): lambda m: m.stack.append(int.from_bytes(m.take(4), "little", signed=True)),
    ord("K"): lambda m: m.stack.append(m.number(1)),
    ord("M"): lambda m: m.stack.append(m.number(2)),
    0x8A: lambda m: m.stack.append(int.from_bytes(m.take(m.number(1)), "little", signed=True)),
    ord("G"): lambda m: m.stack.append(struct.unpack(">d", m.take(8))[0]),
    0x8C: lambda m: m.text(m.number(1)),
    ord("X"): lambda m: m.text(m.number(4)),
    0x8D: lambda m: m.text(m.number(8)),
    ord("C"): lambda m: m.stack.append(m.take(m.number(1))),
    ord("B"): lambda m: m.stack.append(m.take(m.number(4))),
    0x8E: lambda m: m.stack.append(m.take(m.number(8))),
    # Tuples, lists, dicts.
    ord(")"): _push(()),
    ord("t"): lambda m: m.gather(tuple),
    0x85: lambda m: m.tuple_(1),
    0x86: lambda m: m.tuple_(2),
    0x87: lambda m: m.tuple_(3),
    ord("]"): lambda m: m.stack.append([]),
    ord("a"): lambda m: m.append([m.stack.pop()]),
    ord("e"): lambda m: m.append(m.items()),
    ord("l"): lambda m: m.gather(list),
    ord("}"): lambda m: m.stack.append({}),
    ord("s"): _Machine.set_item,
    ord("u"): lambda m: m.set(m.items()),
    ord("d"): _Machine.dict_,
}


def _parts(value: object) -> list[object]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, Record):
        return [*value.arguments, value.state]
    return []


def _require_tree(value: object) -> None:
    """Refuse cycles, deep nesting, and what is small only because it is shared many times."""
    # Of each container that is done: its depth, and its entries when it is written out.
    known: dict[int, tuple[int, int]] = {}
    open_: set[int] = set()
    path: list[tuple[object, list[object]]] = []

    def enter(found: object) -> None:
        if id(found) in open_:
            raise _Refused(f"its pickle holds something that holds itself; {_REMEDY}")
        if len(path) >= DEPTH:
            raise _Refused(f"its pickle is nested deeper than {DEPTH}; {_REMEDY}")
        open_.add(id(found))
        path.append((found, [x for x in _parts(found) if isinstance(x, _CONTAINERS)]))

    if isinstance(value, _CONTAINERS):
        enter(value)
    while path:
        found, rest = path[-1]
        if rest:
            if id(rest[-1]) in known:
                rest.pop()
            else:
                enter(rest[-1])
            continue
        depth, size = 0, 0
        for part in _parts(found):
            below, entries = known.get(id(part), (0, 1))
            depth, size = max(depth, below), size + entries
        if depth >= DEPTH or size > OPERATIONS:
            raise _Refused(f"its pickle describes more than it holds; {_REMEDY}")
        known[id(found)] = depth + 1, size + 1
        open_.discard(id(found))
        path.pop()


_CONTAINERS = (dict, list, tuple, Record)
