"""Files mapped to memory: read without a copy, and without harm if a file is cut meanwhile.

Reading is twice as fast as with `pread`, but a page that a mapped file no longer has raises SIGBUS.
While `Mappings` last, a handler for that signal answers it for the files they map; `intact` then
says that what was read there is void. It is the process's only such handler, so nothing here
happens unless it was asked for.
"""

import ctypes
import mmap
import os
import threading
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import numpy as np

from subnetworks import kernels

# Files mapped at a time; more are not.
ROWS = 1024
_SIGBUS, _SA_SIGINFO, _CACHESTAT = 7, 4, 451
_PAGE = mmap.PAGESIZE
_FAILED = ctypes.c_void_p(-1).value
# The signal's handler and its table are one for the process.
_only = threading.Lock()


class _Action(ctypes.Structure):
    """`struct sigaction`."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


@cache
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    pointer, size, number, offset = (
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int64,
    )  # fmt: skip
    libc.mmap.restype = pointer
    libc.mmap.argtypes = (pointer, size, number, number, number, offset)
    libc.munmap.argtypes = (pointer, size)
    libc.madvise.argtypes = (pointer, size, number)
    libc.sigaction.argtypes = (number, pointer, pointer)
    libc.syscall.restype = ctypes.c_long
    libc.syscall.argtypes = (ctypes.c_long, number, pointer, pointer, ctypes.c_uint)
    return libc


@dataclass(frozen=True)
class _File:
    address: int
    size: int
    row: int


class Mappings:
    """Maps files while a `with` block lasts; any number of threads may use it.

    Where it cannot (a second one in the same process, no memory to map to), `array` gives nothing,
    and the caller reads instead.
    """

    def __init__(self) -> None:
        self._files: dict[int, _File | None] = {}
        self._lock = threading.Lock()
        self._held = False
        self._former = _Action()
        # The address of the former action, the number of rows, and the rows: `faults.watch`.
        self._table = np.zeros(2 + 3 * ROWS, np.int64)

    def __enter__(self) -> Self:
        self._held = _only.acquire(blocking=False)
        if self._held:
            self._table[0] = ctypes.addressof(self._former)
            kernels.watch(self._table)
            ours = _Action(handler=kernels.fault_handler(), flags=_SA_SIGINFO)
            _libc().sigaction(_SIGBUS, ctypes.byref(ours), ctypes.byref(self._former))
        return self

    def __exit__(self, *_: object) -> None:
        if not self._held:
            return
        now = _Action()
        _libc().sigaction(_SIGBUS, None, ctypes.byref(now))
        if now.handler == kernels.fault_handler():
            _libc().sigaction(_SIGBUS, ctypes.byref(self._former), None)
        kernels.watch(None)
        for file in self._files.values():
            if file is not None:
                _libc().munmap(file.address, file.size)
        self._files.clear()
        self._held = False
        _only.release()

    def array(self, descriptor: int, begin: int, n: int) -> np.ndarray | None:
        """n uint16 of an open file from byte `begin` on, if they are in memory already.

        From a disk they are better read: that is as fast, and an error is an error, no signal.
        """
        file = self._file(descriptor)
        if file is None or begin + 2 * n > file.size or not _cached(descriptor, begin, 2 * n):
            return None
        place = (ctypes.c_uint16 * n).from_address(file.address + begin)
        return np.frombuffer(memoryview(place), np.uint16)

    def done(self, array: np.ndarray) -> None:
        """Say that an array will not be read again, and need not count as memory in use."""
        begin = int(array.__array_interface__["data"][0])
        first = begin // _PAGE * _PAGE
        _libc().madvise(first, begin + array.nbytes - first, mmap.MADV_DONTNEED)

    def intact(self, descriptor: int) -> bool:
        """Whether all that was read of a file was there."""
        file = self._files.get(descriptor)
        return (
            file is not None
            and not self._table[2 + 3 * file.row + 2]
            and os.fstat(descriptor).st_size >= file.size
        )

    def _file(self, descriptor: int) -> _File | None:
        with self._lock:
            if descriptor not in self._files:
                self._files[descriptor] = self._map(descriptor) if self._held else None
            return self._files[descriptor]

    def _map(self, descriptor: int) -> _File | None:
        row = int(self._table[1])
        size = os.fstat(descriptor).st_size
        if row == ROWS or not size:
            return None
        libc = _libc()
        address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
        if address is None or address == _FAILED:
            return None
        libc.madvise(address, size, mmap.MADV_SEQUENTIAL)
        whole = -(-size // _PAGE) * _PAGE
        self._table[2 + 3 * row : 5 + 3 * row] = address, address + whole, 0
        self._table[1] = row + 1
        return _File(address, size, row)


def _cached(descriptor: int, begin: int, size: int) -> bool:
    """Whether a part of a file is in the page cache; false where Linux (before 6.5) cannot say."""
    first = begin // _PAGE * _PAGE
    pages = -(-(begin + size - first) // _PAGE)
    part = (ctypes.c_uint64 * 2)(first, pages * _PAGE)
    found = (ctypes.c_uint64 * 5)()
    failed = _libc().syscall(_CACHESTAT, descriptor, ctypes.byref(part), ctypes.byref(found), 0)
    return not failed and found[0] >= pages
