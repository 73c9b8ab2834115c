"""What every format of checkpoints gives, and how its module is called."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from subnetworks.checkpoints.storage import File, Tensor

# Why a tensor is not read.
UNKNOWN = "of a dtype that is not known"


@dataclass
class Contents:
    """The tensors of a checkpoint, with whatever has to stay open while they are read.

    Attributes:
        tensors: by name, in the order of the files; read on demand, in any pieces.
        excluded: what is stored beside them and is no tensor of the model, with the reason.
        unread: shapes of those of them that are, but of a dtype that is not known.
        files: all files that are read.
        open: those that are to be closed in the end.
        notes: what a user should know of how it was read, a line each.
        home: the folder with configuration and tokenizer, where it is not that of the files.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    excluded: dict[str, str] = field(default_factory=dict)
    unread: dict[str, tuple[int, ...]] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    open: list[File] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    home: Path | None = None

    def close(self) -> None:
        """Close all files."""
        for file in self.open:
            file.close()


class Format(Protocol):
    """The face of a format: a module with these functions.

    One whose files are chosen by `subnetworks.checkpoints.weights` says so by `PLAIN = True`, and
    is asked after the others. One of these that can tell by names alone which files it needs of a
    folder also has `among` (see `subnetworks.checkpoints.formats`), for repositories of the Hub.
    """

    def recognises(self, path: Path) -> bool:
        """Whether the file or folder is of this format, by names and first bytes.

        Raises:
            UserError: it is, but which of its files are meant is ambiguous.
        """

    def read(self, path: Path) -> Contents:
        """Its tensors; headers are read and checked, weights are not, and no code is run.

        Raises:
            UserError: it is damaged or incomplete.
        """
