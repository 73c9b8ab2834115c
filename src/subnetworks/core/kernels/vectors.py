"""Sixty-four entries at a time: comparisons that give one bit an entry, and gathering by bits.

Numba has no words for vectors of a chosen width, so these functions write LLVM's; it makes the best
of them on every processor. An array and an index mean the entries from there on.
"""

# The functions below have no annotations: Numba infers types from the signatures they return.
# mypy: ignore-errors

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from subnetworks.core.kernels import processor
from subnetworks.core.kernels.layout import BLOCK

LANES = 64
_WORDS = BLOCK // LANES
# Entries past the gathered ones that `gather` may overwrite.
OVERHANG = 32
# Words that `tally` keeps between blocks, and how many values it counts.
STATE = 8 * 2 * (5 + 8)
TALLIED = 16
_FEATURES = processor.features(llvm).split(",")
CAN_TALLY = "+avx2" in _FEATURES
_BIT = ir.IntType(1)
_WORD = ir.IntType(64)


def _elements(array):
    """LLVM's type of an array's entries."""
    if isinstance(array.dtype, types.Float):
        return ir.FloatType()
    return ir.IntType(array.dtype.bitwidth)


def _place(context, builder, array, value, index):
    data = context.make_array(array)(context, builder, value).data
    return builder.gep(data, [index])


def _load(context, builder, array, value, index, lanes=LANES):
    """`lanes` entries from `index` on, at any address."""
    vector = ir.VectorType(_elements(array), lanes)
    at = builder.bitcast(_place(context, builder, array, value, index), vector.as_pointer())
    return builder.load(at, align=array.dtype.bitwidth // 8, typ=vector)


def _all(element, constant):
    return ir.Constant(ir.VectorType(element, LANES), [constant] * LANES)


def _spread(builder, scalar, lanes=LANES):
    """A vector whose entries are all `scalar`."""
    vector = ir.VectorType(scalar.type, lanes)
    index = ir.Constant(ir.IntType(32), 0)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, index)
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)


def _external(builder, kind, name):
    """One of LLVM's own functions."""
    return cgutils.get_or_insert_function(builder.module, kind, name)


def _word(builder, bits):
    """A vector of truths as a word, the first lowest."""
    return builder.bitcast(bits, _WORD)


@intrinsic
def survey(_typing, x, y, start, e, different, moved, first):
    """Look at a block of bfloat16 before and after (uint16, from `start` on) once.

    Fills `e` (uint8) with the exponents before, and the words of `different` and `moved` (uint64)
    from `first` on: which entries differ in any bit, which of them are not both zero.

    Returns:
        The largest magnitudes before and after, as bits, and how many differ and moved (int64).
    """

    def generate(context, builder, signature, arguments):
        first_, second, begin, exponents, of_different, of_moved, at = arguments
        kinds = signature.args
        short, byte = ir.IntType(16), ir.IntType(8)
        zero = _all(short, 0)
        count = _external(builder, ir.FunctionType(_WORD, [_WORD]), "llvm.ctpop.i64")
        most = _external(
            builder, ir.FunctionType(zero.type, [zero.type] * 2), f"llvm.umax.v{LANES}i16"
        )
        # A loop indeed: unrolled, LLVM would look at everything at once and run out of registers.
        largest = [cgutils.alloca_once_value(builder, zero) for _ in range(2)]
        totals = [cgutils.alloca_once_value(builder, ir.Constant(_WORD, 0)) for _ in range(2)]
        with cgutils.for_range(builder, ir.Constant(_WORD, _WORDS)) as loop:
            entry = builder.mul(loop.index, ir.Constant(_WORD, LANES))
            here = builder.add(begin, entry)
            p = _load(context, builder, kinds[0], first_, here)
            q = _load(context, builder, kinds[1], second, here)
            sizes = [builder.and_(v, _all(short, 0x7FFF)) for v in (p, q)]
            for place, size in zip(largest, sizes, strict=True):
                builder.store(builder.call(most, [builder.load(place), size]), place)
            unlike = builder.icmp_unsigned("!=", p, q)
            some = builder.icmp_unsigned("!=", builder.or_(*sizes), zero)
            words = [_word(builder, bits) for bits in (unlike, builder.and_(unlike, some))]
            to = builder.add(at, loop.index)
            for kind, array, word, total in zip(
                kinds[4:6], (of_different, of_moved), words, totals, strict=True
            ):
                builder.store(word, _place(context, builder, kind, array, to))
                builder.store(builder.add(builder.load(total), builder.call(count, [word])), total)
            small = builder.trunc(
                builder.lshr(sizes[0], _all(short, 7)), ir.VectorType(byte, LANES)
            )
            place = _place(context, builder, kinds[3], exponents, entry)
            builder.store(small, builder.bitcast(place, small.type.as_pointer()), align=1)
        largest = [builder.load(place) for place in largest]
        totals = [builder.load(place) for place in totals]
        reduce = _external(
            builder, ir.FunctionType(short, [zero.type]), f"llvm.vector.reduce.umax.v{LANES}i16"
        )
        tops = [builder.zext(builder.call(reduce, [vector]), _WORD) for vector in largest]
        return context.make_tuple(builder, signature.return_type, [*tops, *totals])

    return types.UniTuple(types.int64, 4)(x, y, start, e, different, moved, first), generate


@intrinsic
def at_most(_typing, values, i, bound):
    """Which uint8 are at most `bound`."""

    def generate(context, builder, signature, arguments):
        array, at, limit = arguments
        vector = _load(context, builder, signature.args[0], array, at)
        return _word(builder, builder.icmp_unsigned("<=", vector, _spread(builder, limit)))

    return types.uint64(values, i, types.uint8), generate


@intrinsic
def above(_typing, values, i, bound):
    """Which float32 exceed `bound`; none that is no number."""

    def generate(context, builder, signature, arguments):
        array, at, limit = arguments
        vector = _load(context, builder, signature.args[0], array, at)
        return _word(builder, builder.fcmp_ordered(">", vector, _spread(builder, limit)))

    return types.uint64(values, i, types.float32), generate


@intrinsic
def equal(_typing, values, wanted):
    """How many of a block's uint8 are `wanted`."""

    def generate(context, builder, signature, arguments):
        array, one = arguments
        byte, lanes = ir.IntType(8), 32
        target = _spread(builder, one, lanes)
        # At most BLOCK / 32 in each lane: a byte is enough.
        total = ir.Constant(ir.VectorType(byte, lanes), [0] * lanes)
        for start in range(0, BLOCK, lanes):
            index = ir.Constant(ir.IntType(64), start)
            vector = _load(context, builder, signature.args[0], array, index, lanes)
            same = builder.icmp_unsigned("==", vector, target)
            total = builder.sub(total, builder.sext(same, total.type))
        wide = ir.VectorType(ir.IntType(16), lanes)
        add = _external(
            builder, ir.FunctionType(ir.IntType(16), [wide]), "llvm.vector.reduce.add.v32i16"
        )
        count = builder.call(add, [builder.zext(total, wide)])
        return builder.zext(count, ir.IntType(64))

    return types.int64(values, types.uint8), generate


def _add_bits(builder, a, b, c):
    """One column of a binary sum, for all bits at once: the sum and what is carried."""
    if "+avx512f" in _FEATURES:
        # LLVM does not see by itself that each is one instruction.
        kind = ir.FunctionType(a.type, [a.type] * 3 + [ir.IntType(32)])
        logic = _external(builder, kind, "llvm.x86.avx512.pternlog.q.512")
        odd, most = (ir.Constant(ir.IntType(32), table) for table in (0x96, 0xE8))
        return builder.call(logic, [a, b, c, odd]), builder.call(logic, [a, b, c, most])
    odd = builder.xor(a, b)
    return builder.xor(odd, c), builder.or_(builder.and_(a, b), builder.and_(odd, c))


def _within(builder, one_hot, index):
    """Bytes of `one_hot` (16 of them) by index; 0 where an index has its highest bit set."""
    wide, kind = "+avx512bw" in _FEATURES, ir.IntType(8)
    lanes, name = (64, "avx512.pshuf.b.512") if wide else (32, "avx2.pshuf.b")
    vector = ir.VectorType(kind, lanes)
    shuffle = _external(builder, ir.FunctionType(vector, [vector] * 2), f"llvm.x86.{name}")
    table = ir.Constant(vector, one_hot * (lanes // 16))
    if wide:
        return builder.call(shuffle, [table, index])
    numbers = [list(range(start, start + lanes)) for start in range(0, LANES, lanes)]
    halves = [
        builder.shuffle_vector(index, index, ir.Constant(ir.VectorType(ir.IntType(32), lanes), n))
        for n in numbers
    ]
    low, high = (builder.call(shuffle, [table, half]) for half in halves)
    both = ir.Constant(ir.VectorType(ir.IntType(32), LANES), list(range(LANES)))
    return builder.shuffle_vector(low, high, both)


@intrinsic
def tally(_typing, values, highest, state):
    """Count a block's uint8 by value, those from `highest` down to `highest` - 15, into `state`.

    Each entry becomes a byte with one bit set, its value's, and the bits of many bytes are added up
    at once, as sums in binary whose digits lie in different vectors: `state` (uint64, `STATE`)
    holds, for the upper and for the lower eight values, five vectors of digits and eight of counts
    in units of 32. No value may exceed `highest`.

    Returns:
        The smallest value of the block.
    """

    def generate(context, builder, signature, arguments):
        array, top, into = arguments
        kinds = signature.args
        byte = ir.IntType(8)
        vector, words = ir.VectorType(byte, LANES), ir.VectorType(_WORD, 8)
        saturate = _external(
            builder, ir.FunctionType(vector, [vector] * 2), f"llvm.uadd.sat.v{LANES}i8"
        )
        least = _external(builder, ir.FunctionType(vector, [vector] * 2), f"llvm.umin.v{LANES}i8")
        ones = _external(builder, ir.FunctionType(words, [words]), "llvm.ctpop.v8i64")
        first = _spread(builder, top)

        def at(k):
            place = _place(context, builder, kinds[2], into, ir.Constant(_WORD, 8 * k))
            return builder.bitcast(place, words.as_pointer())

        digits = [[builder.load(at(13 * t + k), align=8) for k in range(5)] for t in range(2)]
        waiting: list[list[list[ir.Value]]] = [[[] for _ in range(6)] for _ in range(2)]
        smallest = None
        for start in range(0, BLOCK, LANES):
            value = _load(context, builder, kinds[0], array, ir.Constant(_WORD, start))
            smallest = builder.call(least, [smallest, value]) if smallest else value
            # 16 and more have their highest bit set.
            index = builder.call(saturate, [builder.sub(first, value), _all(byte, 0x70)])
            for t in range(2):
                one_hot = [1 << k if k < 8 else 0 for k in range(16)]
                bits = _within(builder, one_hot if t == 0 else one_hot[8:] + one_hot[:8], index)
                carried = builder.bitcast(bits, words)
                for k in range(6):
                    waiting[t][k].append(carried)
                    if k == 5 or len(waiting[t][k]) < 2:
                        break
                    digits[t][k], carried = _add_bits(builder, digits[t][k], *waiting[t][k])
                    waiting[t][k] = []
        for t in range(2):
            for k in range(5):
                builder.store(digits[t][k], at(13 * t + k), align=8)
            for k in range(8):
                mask = ir.Constant(words, [0x0101010101010101 << k] * 8)
                total = builder.load(at(13 * t + 5 + k), align=8)
                for carried in waiting[t][5]:
                    total = builder.add(total, builder.call(ones, [builder.and_(carried, mask)]))
                builder.store(total, at(13 * t + 5 + k), align=8)
        reduce = _external(
            builder, ir.FunctionType(byte, [vector]), f"llvm.vector.reduce.umin.v{LANES}i8"
        )
        return builder.zext(builder.call(reduce, [smallest]), _WORD)

    return types.int64(values, types.uint8, state), generate


@intrinsic
def copy(_typing, a, i, b, j):
    """Copy a block's bit map from `a` (uint64) to the bytes of `b` (uint8)."""

    def generate(context, builder, signature, arguments):
        source, start, target, at = arguments
        words = _load(context, builder, signature.args[0], source, start, _WORDS)
        place = _place(context, builder, signature.args[2], target, at)
        builder.store(words, builder.bitcast(place, words.type.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(a, i, b, j), generate


@intrinsic
def population(_typing, _one):
    """Set bits of a uint64, by the processor's own instruction."""

    def generate(_context, builder, _signature, arguments):
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


@intrinsic
def lowest(_typing, _one):
    """Where the lowest set bit of a uint64 is (which has one)."""

    def generate(_context, builder, _signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(_BIT, 1))

    return types.uint64(types.uint64), generate


@intrinsic
def _compress(_typing, x, i, half, out, to):
    """Write 32 uint16, those of the set bits first, to `out`."""

    def generate(context, builder, signature, arguments):
        array, at, bits, target, start = arguments
        vector = ir.VectorType(ir.IntType(16), 32)
        chosen = ir.VectorType(_BIT, 32)
        value = _load(context, builder, signature.args[0], array, at, 32)
        kind = ir.FunctionType(vector, [vector, vector, chosen])
        compress = _external(builder, kind, "llvm.x86.avx512.mask.compress.v32i16")
        packed = builder.call(
            compress, [value, ir.Constant(vector, None), builder.bitcast(bits, chosen)]
        )
        place = _place(context, builder, signature.args[3], target, start)
        builder.store(packed, builder.bitcast(place, vector.as_pointer()), align=2)
        return context.get_dummy_value()

    return types.void(x, i, types.uint32, out, to), generate


_jit = numba.njit(nogil=True, error_model="numpy", boundscheck=False)


@_jit
def _gather_at_once(x, y, i, word, x_out, y_out, to):
    low = np.uint32(word & np.uint64(0xFFFFFFFF))
    high = np.uint32(word >> np.uint64(32))
    _compress(x, i, low, x_out, to)
    _compress(y, i, low, y_out, to)
    to += np.int64(population(np.uint64(low)))
    _compress(x, i + 32, high, x_out, to)
    _compress(y, i + 32, high, y_out, to)


def _orders():
    """For every byte of bits, which bytes of eight uint16 come first: those of the set bits."""
    orders = np.zeros((256, 16), np.uint8)
    for bits in range(256):
        chosen = [2 * k + half for k in range(8) if bits >> k & 1 for half in range(2)]
        orders[bits, : len(chosen)] = chosen
    return orders.reshape(-1)


_ORDERS = _orders()


@intrinsic
def _reorder(_typing, x, i, orders, bits, out, to):
    """Write 8 uint16, those of the set bits first, to `out`."""

    def generate(context, builder, signature, arguments):
        array, at, table, chosen, target, start = arguments
        byte = ir.VectorType(ir.IntType(8), 16)
        value = _load(context, builder, signature.args[0], array, at, 8)
        place = builder.shl(chosen, ir.Constant(_WORD, 4))
        order = _load(context, builder, signature.args[2], table, place, 16)
        shuffle = _external(
            builder, ir.FunctionType(byte, [byte] * 2), "llvm.x86.ssse3.pshuf.b.128"
        )
        packed = builder.call(shuffle, [builder.bitcast(value, byte), order])
        place = _place(context, builder, signature.args[4], target, start)
        builder.store(packed, builder.bitcast(place, byte.as_pointer()), align=2)
        return context.get_dummy_value()

    return types.void(x, i, orders, types.uint64, out, to), generate


@_jit
def _gather_by_table(x, y, i, word, x_out, y_out, to):
    for k in range(8):
        bits = (word >> np.uint64(8 * k)) & np.uint64(0xFF)
        _reorder(x, i + 8 * k, _ORDERS, bits, x_out, to)
        _reorder(y, i + 8 * k, _ORDERS, bits, y_out, to)
        to += np.int64(population(bits))


@_jit
def _gather_one_by_one(x, y, i, word, x_out, y_out, to):
    while word:
        at = i + np.int64(lowest(word))
        x_out[to] = x[at]
        y_out[to] = y[at]
        to += 1
        word &= word - np.uint64(1)


def gather():
    """The function `(x, y, i, word, x_out, y_out, to)` for this processor.

    It writes the entries of the uint16 arrays `x` and `y` from `i` on, those of the set bits of
    `word`, to `x_out` and `y_out` from `to` on, and may overwrite `OVERHANG` entries behind them.
    """
    if "+avx512vbmi2" in _FEATURES:
        return _gather_at_once
    return _gather_by_table if "+avx2" in _FEATURES else _gather_one_by_one
