"""Rows from the Hub: at the pinned commit, or said plainly why not; by a stand-in on loopback."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import needs_evaluation

needs_evaluation()

import subnetworks  # noqa: E402
from subnetworks.core.outputs import Output  # noqa: E402
from subnetworks.core.provenance import recorded  # noqa: E402

COMMIT = "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be"
ROWS = [
    {"problem": f"{i}+1=", "answer": str(i + 1), "level": i % 5 + 1, "unique_id": f"test/{i}"}
    for i in range(6)
]
FILES = {"test.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS).encode()}


class Hub(BaseHTTPRequestHandler):
    """One data set at one commit, a gated one, and nothing else."""

    asked: list[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        wanted = json.loads(self.rfile.read(length) or b"{}").get("paths", [])
        entries = [entry(name) for name in FILES if name in wanted]
        self.answer(200, json.dumps(entries).encode())

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        path = self.path.partition("?")[0]
        if "Idavidrein/gpqa" in path:
            return self.answer(401, b'{"error": "gated"}', {"X-Error-Code": "GatedRepo"})
        if "HuggingFaceH4/MATH-500" not in path:
            return self.answer(401, b'{"error": "no"}', {"X-Error-Code": "RepoNotFound"})
        if path.startswith("/api/"):
            if COMMIT not in path:
                return self.answer(404, b'{"error": "no"}', {"X-Error-Code": "RevisionNotFound"})
            files = [entry(name) for name in FILES]
            about = {
                "id": "HuggingFaceH4/MATH-500",
                "sha": COMMIT,
                "private": False,
                "gated": False,
                "disabled": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "siblings": [{"rfilename": name} for name in FILES],
            }
            return self.answer(200, json.dumps(files if "/tree/" in path else about).encode())
        name = path.rpartition("/")[2]
        if f"/resolve/{COMMIT}/" not in path or name not in FILES:
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
            return self.answer(404, b"{}", headers)
        etag = {"ETag": f'"{entry(name)["oid"]}"', "X-Repo-Commit": COMMIT}
        return self.answer(200, FILES[name], etag)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def entry(name: str) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(FILES[name]), "oid": "0" * 40}


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def evaluate(
    checkpoint: Path, benchmarks: dict[str, Any], output: Path, address: str
) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "HF_ENDPOINT": address,  # read when the client is imported
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(output / "home"),
        "PYTHONPATH": str(Path(subnetworks.__file__).parents[1]),
    }
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "subnetworks", "evaluate", str(checkpoint), "--backend", "hf"]
    options = ["--benchmarks", json.dumps(benchmarks), "--output", str(output)]
    return subprocess.run([*command, *options], env=environment, capture_output=True, text=True)


def test_pinned_rows_come_and_gated_ones_are_skipped_in_plain_words(
    checkpoint: Path, hub: str, tmp_path: Path
) -> None:
    benchmarks = {
        "math500": {"task": "math500", "revision": COMMIT, "max_tokens": 4},
        "gpqa": {"task": "gpqa_diamond", "revision": "1" * 40},
    }
    with recorded(Output.of(tmp_path / "gpqa.json", "evaluate score")):  # of an earlier day
        (tmp_path / "gpqa.json").write_text("{}")
    done = evaluate(checkpoint, benchmarks, tmp_path, hub)
    assert done.returncode == 0, done.stderr
    assert "gpqa: skipped, no access" in done.stdout
    assert "gated" in done.stderr and "HF_TOKEN" in done.stderr
    index = json.loads((tmp_path / "scores.json").read_text())
    assert list(index["scores"]) == ["math500"]
    assert "no access" in index["skipped"]["gpqa"]
    assert not (tmp_path / "gpqa.json").exists()
    found = json.loads((tmp_path / "math500.json").read_text())
    assert found["data"]["source"] == f"hub:HuggingFaceH4/MATH-500@{COMMIT}"
    assert (found["data"]["rows"], found["n"]) == (6, 6)
    assert len(found["data"]["sha256"]) == len(found["prompts_sha256"]) == 64
    resolved = [path for path in Hub.asked if "test.jsonl" in path]
    assert resolved and all(COMMIT in path for path in resolved)


def test_a_commit_that_is_not_there_is_said_in_one_line(
    checkpoint: Path, hub: str, tmp_path: Path
) -> None:
    entry = {"task": "math500", "revision": "2" * 40}
    done = evaluate(checkpoint, {"math500": entry}, tmp_path, hub)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert "subnetworks: error: benchmark math500" in done.stderr
    assert f"hub:HuggingFaceH4/MATH-500@{'2' * 40}" in last
    assert not (tmp_path / "math500.json").exists()
