"""Random folders with inputs, earlier results and a user's own files, in every twisted layout.

What an earlier call has written is known by its path and purpose (`Own`); all else is the user's.
"""

import os
import random
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

NAMES = (
    "new",
    "new.json",
    "new.safetensors",
    "new.parquet",
    "config.json",
    "notes.txt",
    "train.log",
)


@dataclass
class Own:
    """What earlier calls wrote: the purpose of each file, the verb of each folder.

    `working` are what a call keeps while it works, and may change as it likes: in such a folder
    (whose name starts with a dot) nothing is the user's.
    """

    files: dict[Path, str] = field(default_factory=dict)
    folders: dict[Path, str] = field(default_factory=dict)
    working: dict[Path, str] = field(default_factory=dict)

    def under(self, root: Path) -> "Own":
        """The same, in a copy of the folder."""
        return Own(
            {root / path: purpose for path, purpose in self.files.items()},
            {root / path: verb for path, verb in self.folders.items()},
            {root / path: purpose for path, purpose in self.working.items()},
        )


Content = tuple[str, bytes, int]


def snapshot(root: Path) -> dict[Path, Content]:
    """Kind, content (a link's target) and size of everything below `root`; links not followed."""
    found: dict[Path, Content] = {}
    for here, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = Path(here, name)
            if path.is_symlink():
                found[path] = ("link", os.fsencode(os.readlink(path)), 0)
            elif path.is_dir():
                found[path] = ("folder", b"", 0)
            else:
                content = path.read_bytes()
                found[path] = ("file", content, len(content))
    return found


class Layout:
    """A copy of a template in which things have been moved, linked and added at random."""

    def __init__(self, template: Path, own: Own, root: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.root = root
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(template, root, symlinks=True)
        self.own = own.under(root)
        self.touched: set[Path] = set()
        for _ in range(self.random.randrange(7)):
            self.random.choice([self._link, self._hard_link, self._add, self._edit, self._folder])()
        self.before = snapshot(root)
        self.identities = {path: (path.lstat().st_dev, path.lstat().st_ino) for path in self.before}

    def _all(self) -> list[Path]:
        return sorted(path for path in self.root.rglob("*") if self.root in path.parents)

    def _folders(self) -> list[Path]:
        return [self.root, *(p for p in self._all() if p.is_dir() and not p.is_symlink())]

    def _free(self) -> Path:
        return self.random.choice(self._folders()) / f"more{self.random.randrange(100)}"

    def _link(self) -> None:
        place, target = self._free(), self.random.choice([*self._all(), self.root / "nowhere"])
        if not os.path.lexists(place):
            place.symlink_to(os.path.relpath(target, place.parent) if self._coin() else target)

    def _hard_link(self) -> None:
        place = self._free()
        files = [p for p in self._all() if p.is_file() and not p.is_symlink()]
        if not os.path.lexists(place):
            os.link(self.random.choice(files), place)

    def _add(self) -> None:
        place = self.random.choice(self._folders()) / self.random.choice(NAMES)
        if not os.path.lexists(place):
            place.write_bytes(self.random.randbytes(20))
            self.touched.add(place)

    def _edit(self) -> None:
        """Change a result of an earlier call, keeping its size."""
        files = sorted(self.own.files)
        inside = [p for f in sorted(self.own.folders) for p in sorted(f.rglob("*")) if p.is_file()]
        path = self.random.choice(
            [p for p in [*files, *inside] if not p.name.endswith(".meta.json")]
        )
        size = len(path.read_bytes())
        path.unlink()
        path.write_bytes(self.random.randbytes(size))
        self.touched.add(path)

    def _folder(self) -> None:
        place = self.random.choice(self._folders()) / f"folder{self.random.randrange(10)}"
        if not os.path.lexists(place):
            place.mkdir()

    def _coin(self) -> bool:
        return self.random.random() < 0.5

    def place(self, usual: str) -> str:
        """A path for the command line: an output (of `own/`) or an input, often an odd one."""
        roll, output = self.random.random(), usual.startswith("own/")
        if roll < (0.4 if output else 0.9):
            path = self.root / usual
        elif roll < 0.5 and output:
            path = self.root / f"{usual}.new{Path(usual).suffix}"
        elif roll < 0.75 or not output:
            path = self.random.choice(self._all())
        else:
            path = self.random.choice(self._folders()) / self.random.choice(NAMES)
        return self.spelt(path)

    def spelt(self, path: Path) -> str:
        """The same path, written in one of many ways."""
        text = os.fspath(path)
        folder, name = os.path.split(text)
        links = [p for p in self._all() if p.is_symlink() and p.exists()]
        same = [p for p in links if os.path.realpath(p) == os.path.realpath(path)]
        above = [p for p in links if os.path.realpath(p) == os.path.realpath(folder)]
        ways = [
            text,
            f"{folder}/./{name}",
            f"{folder}/../{Path(folder).name}/{name}",
            os.path.relpath(text),
            f"{text}/",
            f"{text}/." if path.is_dir() else text,
            *map(os.fspath, same),
            *(f"{p}/{name}" for p in above),
        ]
        return self.random.choice(ways)

    def expect(self, written: dict[str, str], reads: list[str]) -> None:
        """Note what a call is to read, and to write: purpose (a folder's verb) by place."""
        self.wanted = {Path(os.path.realpath(one)): purpose for one, purpose in written.items()}
        self.inputs = identities(reads)

    def lost(self) -> list[str]:
        """What the call has changed or removed although it was the user's."""
        now = snapshot(self.root)
        return [
            f"{path.relative_to(self.root)}: {was[0]} {was[1][:30]!r}, now {now.get(path)}"
            for path, was in self.before.items()
            if now.get(path) != was
            and not (was[0] == "folder" and now.get(path, was)[0] == "folder")
            and not self._may(path, was)
        ]

    def _may(self, path: Path, was: Content) -> bool:
        """Whether a path was an earlier result of the same purpose, as it had been written."""
        for folder, purpose in self.own.working.items():
            if folder in path.parents and purpose in self.wanted.values():
                return True
        if path in self.touched or self.identities[path] in self.inputs:
            return False
        if was[0] == "link" and not any(folder in path.parents for folder in self.own.folders):
            return False
        for folder, verb in self.own.folders.items():
            if folder == path or folder in path.parents:
                inside = [p for p in self.before if folder in p.parents]
                return (
                    self.wanted.get(folder) == verb
                    and not self.touched & set(inside)
                    and not any(p.name.startswith(("more", "folder")) for p in inside)
                )
        plain = path.with_name(path.name.removesuffix(".meta.json"))
        purpose = self.own.files.get(plain)
        if purpose is None:
            return self.own.working.get(path, "nothing") in self.wanted.values()
        return self.wanted.get(plain) == purpose and plain not in self.touched


def identities(places: Iterable[str]) -> set[tuple[int, int]]:
    """Device and inode of every file at or below some places."""
    found = set()
    for place in map(Path, places):
        for file in place.rglob("*") if place.is_dir() else [place]:
            if file.is_file():
                found.add((file.stat().st_dev, file.stat().st_ino))
    return found
