"""This machine's processor: its name and what it can do, as Linux tells."""

import os
import platform
import re
from functools import cache
from pathlib import Path

# AVX-512's and AMX's arithmetic on x86-64, Arm's.
_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
# Values of oneDNN's ONEDNN_MAX_CPU_ISA under which it has no bf16 arithmetic.
_WITHOUT_BFLOAT16 = frozenset(
    {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}
)
_NAMED = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "bf16", "amx_bf16": "AMX"}


@cache
def _told() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def flags() -> frozenset[str]:
    """The names of its instruction sets; empty where the system does not tell."""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", _told(), re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


def has_bfloat16() -> bool:
    """Whether torch has bf16 arithmetic here: the processor does, and nothing forbids its use.

    ONEDNN_MAX_CPU_ISA, by which torch's matrix products are kept to older instructions, counts.
    """
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in _WITHOUT_BFLOAT16:
        return False
    return bool(flags() & _BFLOAT16)


def name() -> str:
    """Its name and widest arithmetic, such as `AMD EPYC 7763 (AVX2)`."""
    found = re.search(r"^model name\s*:\s*(.*)$", _told(), re.MULTILINE)
    model = found[1] if found else platform.processor() or platform.machine()
    sets = [label for flag, label in _NAMED.items() if flag in flags()]
    if "AVX-512" in sets:
        sets.remove("AVX2")
    return f"{model} ({', '.join(sets)})" if sets else model
