"""What a file is that is given for weights and holds none: one line with the remedy."""

from pathlib import Path

from subnetworks.checkpoints.storage import File

_SAFETENSORS = "save the model as safetensors instead"
# First bytes, and what a file is that begins with them.
_KINDS = (
    (
        b"version https://git-lfs",
        "a pointer of git-lfs, not the file itself: run git lfs pull where it was cloned, or fetch "
        "it again",
    ),
    (
        b"GGUF",
        "a GGUF file, whose weights are quantised in its own way; name the checkpoint that it was "
        "made of, or convert it to safetensors",
    ),
    (b"\x89HDF", "an HDF5 file (of Keras or TensorFlow); " + _SAFETENSORS),
    (b"\x93NUMPY", "a NumPy array, no checkpoint; " + _SAFETENSORS),
    (b"\x1f\x8b", "compressed (gzip); unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed (zstd); unpack it"),
    (b"\x80", "a pickle by its first bytes, whatever its name, which can run code; save the model "
     "as safetensors instead"),
    (b"PK\x03\x04", "an archive (a pickle of torch.save?), whatever its name, which can run code; "
     "name it .pt if torch.save wrote it, or save the model as safetensors instead"),
)  # fmt: skip


def described(file: File) -> str | None:
    """What a file is, by its first bytes, with the remedy; None if it may be what it should."""
    if not file.size:
        return "empty: fetch it again"
    first = bytearray(min(file.size, 512))
    file.read_into(first, 0)
    for start, what in _KINDS:
        if first.startswith(start):
            return what
    if first[257:262] == b"ustar":
        return "a tar archive; unpack it"
    text = bytes(first).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return (
            "a web page, not weights (an error, or a form to log in): fetch it again; a gated "
            "model wants its terms accepted, and HF_TOKEN"
        )
    if text.startswith((b'{"', b"{'", b"{\n", b"{ ")) and b"\0" not in text:
        return "text in JSON, not weights (an error that a server sent?): fetch it again"
    return None


def found_in(folder: Path) -> str | None:
    """What a folder holds instead of weights, with the remedy; None if nothing that is known."""
    names = {path.name: path for path in sorted(folder.rglob("*")) if path.is_file()}
    for ending, what in (
        (".gguf", "a GGUF file, no safetensors; name the checkpoint that it was made of"),
        (".h5", "weights of TensorFlow or Keras; " + _SAFETENSORS),
        (".msgpack", "weights of Flax; " + _SAFETENSORS),
        (".ot", "weights of Rust's torch; " + _SAFETENSORS),
        (".onnx", "a model in ONNX; " + _SAFETENSORS),
        (".npz", "arrays of NumPy; " + _SAFETENSORS),
        (".pkl", "a pickle, which can run code, and no safetensors beside it; " + _SAFETENSORS),
        (".pickle", "a pickle, which can run code, and no safetensors beside it; " + _SAFETENSORS),
    ):
        for name, path in names.items():
            if name.endswith(ending):
                return f"{path}: {what}"
    return None
