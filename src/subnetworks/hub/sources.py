"""What is asked of the Hub: a repository, a revision, and which of its files are needed."""

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from subnetworks.errors import UserError
from subnetworks.weights import PICKLES, choose

# Configuration and tokenizer, beside the weights; never pickles, which can run code.
BESIDE = (
    "config.json",
    "generation_config.json",
    "chat_template.jinja",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)
# Of a data set, unless its entry says otherwise.
DATA_FILES = "*train*.parquet"
_SOURCE = re.compile(
    r"hub:(?P<repository>(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*)"
    r"(?:@(?P<revision>[A-Za-z0-9][\w./-]*))?",
    re.ASCII,
)


@dataclass(frozen=True)
class Source:
    """A repository of the Hub at a revision.

    Attributes:
        repository: `owner/name`.
        revision: branch, tag or commit.
        kind: a model, or a data set.
        files: of a data set, a glob over the files that are wanted.
        code: of a model, whether its Python files are wanted too (because it is trusted).
    """

    repository: str
    revision: str = "main"
    kind: Literal["model", "dataset"] = "model"
    files: str = "*"
    code: bool = False

    def __str__(self) -> str:
        return f"hub:{self.repository}@{self.revision}"

    @property
    def key(self) -> str:
        """The name under which a lock holds what was found."""
        what = f" {self.files}" if self.kind == "dataset" else " with code" if self.code else ""
        return f"{self.kind} {self.repository}@{self.revision}{what}"

    def needed(self, names: Iterable[str]) -> list[str]:
        """Those of a repository's files that are needed, in order.

        Of a model: the weights once, whatever else they are offered as; configuration and tokenizer
        beside them.

        Raises:
            UserError: there are none; a name would lie outside the folder.
        """
        names = sorted(names)
        if self.kind == "dataset":
            chosen = [name for name in names if fnmatch.fnmatchcase(name, self.files)]
            if not chosen:
                raise UserError(f"{self}: no file in it matches {self.files!r}")
        else:
            chosen = needed(names, self.code, str(self))
            if not any(name.endswith(".safetensors") for name in chosen):
                pickles = [name for name in names if name.endswith(PICKLES)]
                offered = f" (it offers {pickles[0]})" if pickles else ""
                raise UserError(
                    f"{self}: no .safetensors files in it{offered}; pickles, which can run code, "
                    "are not taken: name a revision or a repository with safetensors, or convert "
                    "it yourself and name the folder with 'path'"
                )
        for name in chosen:
            if not safe(name):
                raise UserError(f"{self}: a file named {name!r} would lie elsewhere; refused")
        return chosen


def parse(source: str) -> Source:
    """Read `hub:owner/name@revision`; the revision defaults to `main`."""
    found = _SOURCE.fullmatch(source)
    if not found or ".." in source or source.endswith(("/", ".lock")):
        raise UserError(f"{source!r}: expected hub:owner/name@revision")
    return Source(found["repository"], found["revision"] or "main")


def safe(name: str) -> bool:
    """Whether a file of this name (as a repository gives it) lies inside its folder."""
    path = PurePosixPath(name)
    return bool(
        name
        and name.isprintable()
        and "\\" not in name
        and not path.is_absolute()
        and not {".", ".."} & set(name.split("/"))
        and path.as_posix() == name
    )


def needed(names: Iterable[str], code: bool = False, where: str = "here") -> list[str]:
    """Those of a checkpoint's files that are needed (see `Source.needed`); maybe no weights.

    Raises:
        UserError: as `subnetworks.weights.choose`, with `where` for the folder.
    """
    names = sorted(names)
    found = choose(names, where, separator=":" if where.startswith("hub:") else "/")
    weights: set[str] = set()
    if found and not found.torch:
        weights = {*found.files, *([found.index] if found.index else [])}
    folders = {str(PurePosixPath(name).parent) for name in weights} | {"."}
    return [
        name
        for name in names
        if name in weights
        or (
            str(PurePosixPath(name).parent) in folders
            and not name.endswith(PICKLES)
            and (
                any(fnmatch.fnmatchcase(PurePosixPath(name).name, glob) for glob in BESIDE)
                or (code and name.endswith(".py"))
            )
            and (code or not name.endswith(".py"))
        )
        or name == "model_index.json"
    ]
