"""Schemes that are not read: recognised, so that nothing of theirs is taken for weights."""

import re
from collections.abc import Iterator, Set

from subnetworks.checkpoints.quantised.settings import Settings
from subnetworks.checkpoints.quantised.weight import is_of_activations, refuse
from subnetworks.checkpoints.reading import Checkpoint
from subnetworks.checkpoints.storage import Tensor

_INTEGERS = ("U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64")
# Schemes known by name (`quant_method`) that leave some weights, or by chance all, as they are.
_SCHEMES = {
    *("fp8", "fbgemm_fp8", "mxfp8", "mxfp4", "modelopt", "modelopt_fp4", "compressed-tensors"),
    *("awq", "gptq", "bitsandbytes", "hqq", "aqlm", "eetq", "quanto", "vptq", "torchao", "bitnet"),
    *("quark", "auto-round", "mlx", "unnamed"),
}
# What a scheme's payload is called and stored as; the first that fits names the scheme.
_PAYLOADS = (
    ("GPTQ or AWQ", re.compile(r"(?:^|\.)(?:qweight|qzeros|g_idx)$"), _INTEGERS),
    (
        "compressed-tensors, packed, NVFP4 among them",
        re.compile(r"(?:^|\.|_)(?:weight_packed|packed)$"),
        _INTEGERS,
    ),
    (
        "bitsandbytes",
        re.compile(
            r"\.(?:quant_state\.bitsandbytes__\w+|absmax|nested_absmax|quant_map|nested_quant_map"
            r"|SCB|weight_format)$"
        ),
        (*_INTEGERS, "F32", "F16"),
    ),
    ("HQQ", re.compile(r"(?:^|\.)W_q$"), _INTEGERS),
    ("AQLM", re.compile(r"(?:^|\.)(?:codes|codebooks)$"), (*_INTEGERS, "F16", "BF16")),
    ("VPTQ", re.compile(r"(?:^|\.)(?:indices|res_indices|centroids)$"), _INTEGERS),
    ("quanto", re.compile(r"\._data$"), (*_INTEGERS, "F8_E4M3")),
    ("torchao", re.compile(r"(?:^|\.|_)(?:qdata|int_data|tensor_impl\.\w+)$"), _INTEGERS),
    ("SpQR or HIGGS", re.compile(r"(?:^|\.)(?:dense_weights|tables2?)$"), _INTEGERS),
)
# Integers under the name of a weight, and what is beside them and tells of the scheme.
_WEIGHT = re.compile(r"(?:^|[._])weights?$|_proj$|(?:^|[._])(?:w[123]|wq|wk|wv|wo|blocks|qs)$")
_BESIDE = (
    ("EETQ", "U8 I8", "_scales"),
    ("NVFP4", "U8", "_scale_2"),
    ("NVFP4", "U8", "_global_scale"),
    ("MLX", "U32", ".biases"),
    ("bitsandbytes", "I8", ".SCB"),
    ("bitsandbytes", "U8", ".absmax"),
)
# Of quantisation, and no weights, in whichever scheme.
_COMPANIONS = re.compile(
    r"(?:^|[._])(?:weight_scale(?:_inv|_2)?|weight_global_scale|weight_zero_point|weight_shape"
    r"|scale_inv|scaled_fp8)$"
)


def check(checkpoint: Checkpoint, settings: Settings, read: Set[str]) -> dict[str, str]:
    """Raise `UserError` for a quantised weight that is not read, naming its scheme.

    Args:
        checkpoint: all stored tensors.
        settings: what its configuration says.
        read: names of tensors that belong to weights that are read.

    Returns:
        Tensors that go with quantisation but hold no weights, with the reason.
    """
    if settings.method not in (None, *_SCHEMES):
        matrices = [t for t in checkpoint.tensors.values() if len(t.shape) > 1]
        for tensor in matrices[:1]:
            raise refuse(
                tensor, f"of the scheme {settings.method!r} by config.json, which is not known here"
            )
    for tensor, scheme in _unread(checkpoint, read):
        known = settings.method if settings.method not in (None, "unnamed") else None
        raise refuse(tensor, f"quantised ({known or scheme}) in a way that is not read here")
    quantised = settings.method is not None or bool(read)
    excluded = {}
    for name in checkpoint.tensors:
        if name in read:
            continue
        if quantised and is_of_activations(name):
            excluded[name] = "a scale of activations, not weights"
        elif _COMPANIONS.search(name):
            excluded[name] = "a scale without its quantised weight, not weights"
    return excluded


def _unread(checkpoint: Checkpoint, read: Set[str]) -> Iterator[tuple[Tensor, str]]:
    """Payloads of schemes that are not read, and the schemes' names."""
    for name, tensor in checkpoint.tensors.items():
        if name in read:
            continue
        for scheme, pattern, dtypes in _PAYLOADS:
            if tensor.dtype in dtypes and pattern.search(name):
                yield tensor, scheme
        if tensor.dtype in _INTEGERS and tensor.shape and _WEIGHT.search(name):
            yield tensor, _scheme(checkpoint, tensor)


def _scheme(checkpoint: Checkpoint, tensor: Tensor) -> str:
    stem = tensor.name.removesuffix(".weight")
    for scheme, dtypes, suffix in _BESIDE:
        if tensor.dtype in dtypes.split():
            for beside in (tensor.name + suffix, stem + suffix):
                if beside in checkpoint.tensors:
                    return scheme
    return f"weights stored as integers, {tensor.dtype}"
