"""Translate the kernels to machine code with Numba, once for each kind of processor."""

import re
import sys
from collections.abc import Iterable
from typing import Any

import llvmlite.binding as llvm
import numba

from subnetworks.core.kernels import codes, processor, source
from subnetworks.core.progress import Progress

_OPTIONS: dict[str, Any] = {"error_model": "numpy", "boundscheck": False}
_DECLARED = re.compile(r"^declare [^@]*@\"?([\w.]+)", re.MULTILINE)
_FORBIDDEN = {"NRT_Allocate", "NRT_MemInfo_alloc", "NRT_MemInfo_alloc_safe_aligned"}


def compile_object() -> tuple[bytes, dict[str, str]]:
    """An object file with all kernels for this processor, and the symbol of each."""
    target = llvm.Target.from_default_triple().create_target_machine(
        cpu=processor.name(llvm),
        features=processor.features(llvm),
        opt=3,
        codemodel="jitdefault",
        jit=True,
    )
    symbols: dict[str, str] = {}
    whole = None
    exports = {**source.EXPORTS, **codes.EXPORTS}
    # It takes a slow processor most of a minute; who waits at a terminal is told what for.
    turns: Iterable[int] = (
        Progress("compiling for this processor, once", len(exports), "kernel")
        if sys.stderr.isatty()
        else range(len(exports))
    )
    for _, (function, signature) in zip(turns, exports.items(), strict=True):
        translate: Any = numba.cfunc(signature, **_OPTIONS)
        compiled = translate(function)
        code = compiled.inspect_llvm()
        if needed := set(_DECLARED.findall(code)) & _FORBIDDEN:
            raise AssertionError(f"{function.__name__} allocates memory: {sorted(needed)}")
        module = llvm.parse_assembly(code)
        symbols[function.__name__] = compiled.native_name
        if whole is None:
            whole = module
        else:
            whole.link_in(module)
    assert whole is not None
    return target.emit_object(whole), symbols
