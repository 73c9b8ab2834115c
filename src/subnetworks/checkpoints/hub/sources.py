"""What is asked of the Hub: a repository, a revision, and which of its files are needed."""

import fnmatch
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from subnetworks.checkpoints.weights import (
    INDEX,
    PICKLES,
    SAFE,
    TORCH_INDEX,
    Choice,
    choose,
)
from subnetworks.core.errors import UserError

# Configuration and tokenizer, beside the weights; never a pickle that holds no weights.
TOKENIZER = (
    "chat_template.jinja",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)
BESIDE = ("config.json", "generation_config.json", "hf_quant_config.json", *TOKENIZER)
# Of a data set, unless its entry says otherwise.
DATA_FILES = "*train*.parquet"
_SOURCE = re.compile(
    r"hub:(?P<repository>(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*)"
    r"(?:@(?P<revision>[A-Za-z0-9][\w./-]*))?(?::(?P<inside>[\w.-]+(?:/[\w.-]+)*))?",
    re.ASCII,
)


def data_files(
    files: str | None = None, configuration: str | None = None, split: str | None = None
) -> str:
    """The glob over a data set's files, if it is named, or that of a configuration's split.

    As the Hub lays them out, a configuration is a folder, and a split begins the name of a file or
    folder in it: `main/train-00000-of-00001.parquet`, `main/train.jsonl`, `main/train/0.parquet`.
    """
    if files is not None:
        return files
    if configuration is None and split is None:
        return DATA_FILES
    within = "*" if configuration is None else f"{configuration}/"
    return f"{within}{split or 'train'}[-_./]*"


@dataclass(frozen=True)
class Source:
    """A repository of the Hub at a revision.

    Attributes:
        repository: `owner/name`.
        revision: branch, tag or commit.
        kind: a model, or a data set.
        files: of a data set, a glob over the files that are wanted.
        code: of a model, whether its Python files are wanted too (because it is trusted).
        inside: of a model, the folder or file in the repository that is meant, if not all of it.
    """

    repository: str
    revision: str = "main"
    kind: Literal["model", "dataset"] = "model"
    files: str = "*"
    code: bool = False
    inside: str = ""

    def __str__(self) -> str:
        return f"hub:{self.repository}@{self.revision}{':' if self.inside else ''}{self.inside}"

    @property
    def key(self) -> str:
        """The name under which a lock holds what was found."""
        what = f" {self.files}" if self.kind == "dataset" else " with code" if self.code else ""
        return f"{self.kind} {str(self).removeprefix('hub:')}{what}"

    @property
    def folder(self) -> str:
        """The folder in the repository whose files are meant; empty for its own."""
        named = self.inside.endswith((SAFE, *PICKLES, INDEX, TORCH_INDEX))
        return self.inside.rpartition("/")[0] if named else self.inside

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
            chosen = self._of_model(names)
        for name in chosen:
            if not safe(name):
                raise UserError(f"{self}: a file named {name!r} would lie elsewhere; refused")
        return chosen

    def _of_model(self, names: list[str]) -> list[str]:
        within = f"{self.folder}/" if self.folder else ""
        inside = [name.removeprefix(within) for name in names if name.startswith(within)]
        if self.inside and self.inside != self.folder:
            file = self.inside.removeprefix(within)
            if file not in inside:
                raise UserError(f"{self}: no such file in it; check the name")
            found: Choice | None = _named(inside, file)
        elif special := _special(inside):
            found = Choice(tuple(special))
        else:
            found = choose(inside, str(self), separator="/" if self.folder else ":")
        if found is None:
            offered = [n for n in inside if n.endswith((*PICKLES, ".gguf", ".h5", ".msgpack"))]
            raise UserError(
                f"{self}: no .safetensors files in it, nor a model of torch"
                f"{f' (it offers {offered[0]})' if offered else ''}: name a revision, a folder in "
                "it (hub:owner/name@revision:folder) or a repository that has some, or convert it "
                "yourself and name the folder with 'path'"
            )
        return [within + name for name in _with_beside(inside, found, self.code)]


def _special(names: list[str]) -> list[str]:
    """The files that are needed of a folder of a format that itself says which; else none."""
    from subnetworks.checkpoints import formats

    here = [name for name in names if "/" not in name]
    return [] if any(name.endswith(SAFE) for name in here) else formats.among(here)


def parse(source: str) -> Source:
    """Read `hub:owner/name@revision`, maybe with `:folder` of the repository, or a file in it.

    The revision defaults to `main`.
    """
    found = _SOURCE.fullmatch(source)
    if not found or ".." in source or source.endswith(("/", ".lock", "/.")):
        raise UserError(f"{source!r}: expected hub:owner/name@revision, or …@revision:folder")
    inside = found["inside"] or ""
    if inside and not safe(inside):
        raise UserError(f"{source!r}: expected hub:owner/name@revision, or …@revision:folder")
    return Source(found["repository"], found["revision"] or "main", inside=inside)


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


def needed(
    names: Iterable[str],
    code: bool = False,
    where: str = "here",
    indexed: Callable[[str], Iterable[str]] | None = None,
) -> list[str]:
    """Those of a checkpoint's files that are needed (see `Source.needed`); none without weights.

    Raises:
        UserError: as `subnetworks.checkpoints.weights.choose`, which is given `where` and
        `indexed`.
    """
    names = sorted(names)
    found = choose(names, where, indexed=indexed)
    return _with_beside(names, found, code) if found else []


def _named(names: list[str], file: str) -> Choice:
    """The weights in a file that is named, or, of an index, in those that go by its name."""
    torch = not file.endswith((SAFE, INDEX))
    if not file.endswith((INDEX, TORCH_INDEX)):
        return Choice((file,), torch=torch)
    stem = re.escape(file.removesuffix(TORCH_INDEX if torch else INDEX))
    shards = [n for n in names if re.fullmatch(rf"{stem}-\d+-of-\d+\.(bin|safetensors)", n)]
    return Choice(tuple(shards), file, torch)


def _with_beside(names: list[str], found: Choice, code: bool) -> list[str]:
    """Weights, index, and what belongs to them in their folders."""
    weights = {*found.files, *([found.index] if found.index else [])}
    folders = {str(PurePosixPath(name).parent) for name in weights} | {"."}
    if _special(list(found.files)):  # as of verl
        folders.add("huggingface")
    beside = [*BESIDE, *(["*.py"] if code else []), *(["adapter_config.json"] * found.adapter)]

    def belongs(name: str) -> bool:
        path = PurePosixPath(name)
        return (
            str(path.parent) in folders
            and not name.endswith(PICKLES if code else (*PICKLES, ".py"))
            and any(fnmatch.fnmatchcase(path.name, glob) for glob in beside)
        )

    return [name for name in names if name in weights or belongs(name) or name == _PIPELINE]


_PIPELINE = "model_index.json"
