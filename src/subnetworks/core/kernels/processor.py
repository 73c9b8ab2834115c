"""Which processor the kernels are compiled for: this one, or the one set for Numba.

Numba's own variables, NUMBA_CPU_NAME and NUMBA_CPU_FEATURES, are read here without loading Numba.
"""

import os
from typing import Any


def name(llvm: Any) -> str:
    """The processor's name, as LLVM knows it."""
    return os.environ.get("NUMBA_CPU_NAME") or str(llvm.get_host_cpu_name())


def features(llvm: Any) -> str:
    """Its features, such as `+avx2,-avx512f`; none are taken for granted of a processor named."""
    if "NUMBA_CPU_NAME" in os.environ or "NUMBA_CPU_FEATURES" in os.environ:
        return os.environ.get("NUMBA_CPU_FEATURES", "")
    return str(llvm.get_host_cpu_features().flatten())
