"""A stand-in for the Hugging Face Hub on the loopback interface: what its client asks, and faults.

Repositories are held in memory: `hub.commit("owner/name", {"config.json": b"{}"})` makes a new
commit of them and moves `main` there. Models and data sets share one set of names. Standard library
only.
"""

import hashlib
import json
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin", ".parquet")  # kept by SHA-256, as large files are
ROOT = Path(__file__).parents[2]


class Hub:
    """The server; a context manager.

    Attributes:
        cuts: file → how many bytes of its body are sent before the connection is cut, once each.
        corrupt: file → how often its body has a flipped bit.
        gated: repositories whose files and access check want one of `tokens`.
        claims: file → the size that listings give it, whatever it is.
        refs: revision (such as `refs/pr/1`) → commit.
        requests: (method, path, Range) of every request.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.main: dict[str, str] = {}
        self.refs: dict[str, str] = {}
        self.cuts: dict[str, list[int]] = {}
        self.corrupt: Counter[str] = Counter()
        self.gated: set[str] = set()
        self.tokens: set[str] = set()
        self.claims: dict[str, int] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> "Hub":
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def commit(self, repository: str, files: Mapping[str, bytes]) -> str:
        """Make a commit of exactly these files, move `main` to it; returns its name."""
        digest = hashlib.sha1(repository.encode())
        for name in sorted(files):
            digest.update(name.encode() + files[name])
        self.main[repository] = digest.hexdigest()
        self.repositories.setdefault(repository, {})[digest.hexdigest()] = dict(files)
        return digest.hexdigest()

    def environment(self, home: Path) -> dict[str, str]:
        """Variables under which the real client asks this server and nobody else, as nobody."""
        mine = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        return mine | {
            "HF_ENDPOINT": self.address,  # read when the client is imported
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(home),
            "PYTHONPATH": str(ROOT / "src"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(request.path).path)
        self.requests.append((request.command, path, request.headers.get("Range")))
        path = re.sub(r"^/(api/)?(?:datasets|models)/", r"/\1", path)
        known = (request.headers.get("Authorization") or "").removeprefix("Bearer ") in self.tokens
        if found := re.fullmatch(r"/api/([^/]+/[^/]+)/(revision|tree|auth-check)(?:/(.+))?", path):
            return self.tell(request, found[1], found[2], found[3] or "main", known)
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.give(request, found[1], found[2], found[3], known)
        return refuse(request, 404, "EntryNotFound")

    def tell(
        self, request: BaseHTTPRequestHandler, name: str, what: str, revision: str, known: bool
    ) -> None:
        """Facts about a repository, public even where its files are not."""
        if name not in self.repositories:
            return refuse(request, 401, "RepoNotFound")
        if what == "auth-check":
            if name in self.gated and not known:
                return refuse(request, 403 if self.tokens else 401, "GatedRepo")
            return send(request, 200, b"{}")
        commit = self.main[name] if revision == "main" else self.refs.get(revision, revision)
        if commit not in self.repositories[name]:
            return refuse(request, 404, "RevisionNotFound")
        files = self.repositories[name][commit]
        if what == "revision":
            gated = "auto" if name in self.gated else False
            siblings = [{"rfilename": file} for file in files]
            facts: Any = {"id": name, "sha": commit, "gated": gated, "private": False}
            return send(request, 200, json.dumps({**facts, "siblings": siblings}).encode())
        facts = [self.entry(file, body) for file, body in files.items()]
        return send(request, 200, json.dumps(facts).encode())

    def entry(self, name: str, body: bytes) -> dict[str, Any]:
        """A file in a listing."""
        size = self.claims.get(name, len(body))
        entry: dict[str, Any] = {"type": "file", "path": name, "size": size, "oid": git(body)}
        if name.endswith(LARGE):
            oid = hashlib.sha256(body).hexdigest()
            entry["lfs"] = {"oid": oid, "size": size, "pointerSize": 134}
        return entry

    def give(
        self, request: BaseHTTPRequestHandler, name: str, revision: str, file: str, known: bool
    ) -> None:
        """A file, or the part of it that is asked for."""
        commit = self.main.get(name) if revision == "main" else revision
        files = self.repositories.get(name, {}).get(commit or "")
        if files is None:
            return refuse(request, 404, "RevisionNotFound")
        if name in self.gated and not known:
            return refuse(request, 401, "GatedRepo")
        if file not in files:
            return refuse(request, 404, "EntryNotFound")
        body = bytearray(files[file])
        large = file.endswith(LARGE)
        etag = hashlib.sha256(body).hexdigest() if large else git(bytes(body))
        if request.command == "GET" and self.corrupt[file]:
            self.corrupt[file] -= 1
            body[len(body) // 2] ^= 1
        headers = {"X-Repo-Commit": commit or "", "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if large:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(body))}
        status = 200
        if part := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range") or ""):
            first, last = int(part[1]), int(part[2] or len(body) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
            body, status = body[first : last + 1], 206
        cut = None
        if request.command == "GET" and self.cuts.get(file):
            cut = self.cuts[file].pop(0)
        return send(request, status, bytes(body), headers, cut)


def git(body: bytes) -> str:
    """What git calls a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def refuse(request: BaseHTTPRequestHandler, status: int, code: str) -> None:
    """An error as the Hub gives it."""
    send(request, status, b'{"error": "no"}', {"X-Error-Code": code})


def send(
    request: BaseHTTPRequestHandler,
    status: int,
    body: bytes,
    headers: Mapping[str, str] | None = None,
    cut: int | None = None,
) -> None:
    """An answer; with `cut`, only so much of it, and then the connection is gone."""
    request.send_response(status)
    for key, value in (headers or {}).items():
        request.send_header(key, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body[:cut])
    if cut is not None:
        request.wfile.flush()
        request.close_connection = True
