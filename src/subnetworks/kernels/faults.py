"""What is done when a mapped file has been cut: the compiled part of `subnetworks.kernels.mapping`.

Reading a page of a mapped file behind its end raises SIGBUS, which ends a process. This handler
puts a page of zeros there instead and notes it, for whoever mapped the file to look at; it runs
inside whatever was reading, so it calls nothing but `mmap` and `sigaction`.
"""

# The functions below have no annotations: Numba infers types from the signatures in `EXPORTS`.
# mypy: ignore-errors

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

SIGBUS = 7
PAGE = 4096
# PROT_READ; MAP_PRIVATE, MAP_FIXED and MAP_ANONYMOUS.
_READABLE, _ZEROS = 1, 0x32
_WORD = ir.IntType(64)
_i32, _i64 = types.int32, types.int64
_mmap = types.ExternalFunction("mmap", _i64(_i64, _i64, _i32, _i32, _i32, _i64))
_sigaction = types.ExternalFunction("sigaction", _i32(_i32, _i64, _i64))
_raise = types.ExternalFunction("raise", _i32(_i32))
_jit = numba.njit(nogil=True, error_model="numpy", boundscheck=False)


@intrinsic
def _place(_typing):
    """The address of a word that outlives all calls; it holds the address of the table, or 0."""

    def generate(_context, builder, _signature, _arguments):
        name = "subnetworks_watched"
        if name in builder.module.globals:
            word = builder.module.globals[name]
        else:
            word = ir.GlobalVariable(builder.module, _WORD, name)
            word.linkage = "linkonce_odr"
            word.initializer = ir.Constant(_WORD, 0)
        return builder.ptrtoint(word, _WORD)

    return types.int64(), generate


@intrinsic
def _get(_typing, _address):
    """The word at an address."""

    def generate(_context, builder, _signature, arguments):
        return builder.load(builder.inttoptr(arguments[0], _WORD.as_pointer()), typ=_WORD)

    return types.int64(types.int64), generate


@intrinsic
def _put(_typing, _address, _value):
    """Write a word to an address."""

    def generate(context, builder, _signature, arguments):
        builder.store(arguments[1], builder.inttoptr(arguments[0], _WORD.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@_jit
def _mended(table, address):
    """Whether the address lies in a watched range, which now has zeros there and is marked."""
    for k in range(_get(table + 8)):
        row = table + 16 + 24 * k
        if _get(row) <= address < _get(row + 8):
            # First: whoever reads the zeros must find the mark.
            _put(row + 16, 1)
            page = address & ~(PAGE - 1)
            return _mmap(page, PAGE, _i32(_READABLE), _i32(_ZEROS), _i32(-1), 0) == page
    return False


def on_fault(signal, info, _context):
    """The handler: mend what is watched; leave anything else to the handler before."""
    table = _get(_place())
    code, address = _i32(_get(info + 8)), _get(info + 16)
    if table == 0 or (code > 0 and _mended(table, address)):
        return
    # Who returns from here faults again, and is then handled as if this had never been.
    _sigaction(_i32(signal), _get(table), 0)
    if code <= 0:
        _raise(_i32(signal))


def watch(table):
    """Name the table: the address of the former action, the number of rows, and the rows.

    A row is the first address of a range, the one behind it, and a mark, 0 until it is mended.
    """
    _put(_place(), table)


EXPORTS = {
    on_fault: types.void(_i32, _i64, _i64),
    watch: types.void(_i64),
}
