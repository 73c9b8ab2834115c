"""What the Hub's real client brings, against a Hub on loopback that cuts, corrupts and refuses."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub")
pytest.importorskip("numpy")

from conftest import bfloat16, fetch, run, safetensors, sharded, torch_zip
from loopback_hub import Hub

from subnetworks import checkpoints

MIB = 1 << 20
TOKEN = "hf_SecretSecretSecretSecret"


def manifest(folder: Path) -> dict:
    return json.loads((folder / "out" / "manifest.json").read_text())


def test_only_what_is_needed_comes_verified_and_is_recorded(hub: Hub, tmp_path: Path) -> None:
    files = sharded(3)
    commit = hub.commit("owner/name", files)
    done = fetch(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    wanted = {name for name in files if name.startswith("model-")} | {
        *("model.safetensors.index.json", "config.json", "tokenizer.json")
    }
    found = manifest(tmp_path)
    assert (found["kind"], found["revision"]) == ("hub", commit)
    assert set(found["files"]) == wanted
    for name in wanted:
        assert (tmp_path / "out" / name).read_bytes() == files[name]
        assert found["files"][name]["sha256"] == hashlib.sha256(files[name]).hexdigest()
    asked = {
        path.rpartition(commit + "/")[2] for _, path, _ in hub.requests if commit + "/" in path
    }
    assert asked == wanted
    lock = json.loads((tmp_path / "x.lock").read_text())
    (entry,) = lock["sources"].values()
    assert entry["commit"] == commit
    assert set(entry["files"]) == wanted
    assert "://" not in (tmp_path / "x.lock").read_text()


def test_locked_and_cached_asks_nothing(hub: Hub, tmp_path: Path) -> None:
    hub.commit("owner/name", sharded(3))
    assert fetch(hub, tmp_path).returncode == 0
    before = (tmp_path / "x.lock").read_bytes()
    hub.requests.clear()
    done = fetch(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    assert hub.requests == []
    assert (tmp_path / "x.lock").read_bytes() == before


def test_cut_connections_are_resumed_and_finished_shards_kept(hub: Hub, tmp_path: Path) -> None:
    # The client goes on in pieces of 10 MiB.
    files = sharded(2, 25 * MIB) | {"config.json": b"{}"}
    first, second = sorted(name for name in files if name.startswith("model-"))
    hub.commit("owner/name", files)
    hub.cuts = {first: [15 * MIB], second: [5 * MIB, 12 * MIB]}
    done = fetch(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    for name in (first, second):
        assert (tmp_path / "out" / name).read_bytes() == files[name]
    ranges = {part for _, path, part in hub.requests if path.endswith(first) and part}
    assert f"bytes={10 * MIB}-" in ranges
    # Killed when one of two was done: only the other comes again.
    (tmp_path / "out" / second).resolve().unlink()
    hub.requests.clear()
    assert fetch(hub, tmp_path).returncode == 0
    got = {path.rpartition("/")[2] for method, path, _ in hub.requests if method == "GET"}
    assert second in got and first not in got


def test_a_corrupt_shard_is_fetched_once_more(hub: Hub, tmp_path: Path) -> None:
    files = sharded(3)
    name = "model-00002-of-00003.safetensors"
    hub.commit("owner/name", files)
    hub.corrupt[name] = 1
    done = fetch(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    assert name in done.stderr and "once more" in done.stderr
    assert (tmp_path / "out" / name).read_bytes() == files[name]
    got = [path for method, path, _ in hub.requests if method == "GET" and path.endswith(name)]
    assert len(got) == 2


@pytest.mark.parametrize("name", ["model-00002-of-00003.safetensors", "tokenizer.json"])
def test_a_file_corrupt_twice_is_named_and_nothing_published(
    hub: Hub, tmp_path: Path, name: str
) -> None:
    hub.commit("owner/name", sharded(3))
    hub.corrupt[name] = 2
    done = fetch(hub, tmp_path)
    assert done.returncode == 2
    assert f"{name}: damaged on its way, twice" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert fetch(hub, tmp_path).returncode == 0


def test_a_bit_that_flips_in_the_cache_is_found_and_mended(hub: Hub, tmp_path: Path) -> None:
    files = sharded(2)
    hub.commit("owner/name", files)
    assert fetch(hub, tmp_path).returncode == 0
    name = "model-00001-of-00002.safetensors"
    blob = (tmp_path / "out" / name).resolve()
    body = bytearray(blob.read_bytes())
    body[-1] ^= 1
    times = blob.stat()
    blob.write_bytes(body)
    os.utime(blob, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert fetch(hub, tmp_path).returncode == 0
    assert (tmp_path / "out" / name).read_bytes() == files[name]


def test_a_moved_branch_changes_nothing(hub: Hub, tmp_path: Path) -> None:
    first = sharded(2)
    commit = hub.commit("owner/name", first)
    assert fetch(hub, tmp_path).returncode == 0
    hub.commit("owner/name", sharded(2, fill=7))
    for path in ("out", "cache"):
        shutil.rmtree(tmp_path / path)
    assert fetch(hub, tmp_path).returncode == 0
    name = "model-00001-of-00002.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == first[name]
    assert manifest(tmp_path)["revision"] == commit


def test_a_locked_commit_that_is_gone_is_refused(hub: Hub, tmp_path: Path) -> None:
    commit = hub.commit("owner/name", sharded(2))
    assert fetch(hub, tmp_path).returncode == 0
    hub.commit("owner/name", sharded(2, fill=7))
    del hub.repositories["owner/name"][commit]
    for path in ("out", "cache"):
        shutil.rmtree(tmp_path / path)
    done = fetch(hub, tmp_path)
    assert done.returncode == 2
    assert "no such revision" in done.stderr and "snakemake lock" in done.stderr
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_another_content_than_locked_is_refused_before_it_is_downloaded(
    hub: Hub, tmp_path: Path
) -> None:
    hub.commit("owner/name", sharded(2))
    assert fetch(hub, tmp_path).returncode == 0
    name = "model-00002-of-00002.safetensors"
    lock = json.loads((tmp_path / "x.lock").read_text())
    (entry,) = lock["sources"].values()
    entry["files"][name]["sha256"] = "1" * 64
    (tmp_path / "x.lock").write_text(json.dumps(lock))
    for path in ("out", "cache"):
        shutil.rmtree(tmp_path / path)
    hub.requests.clear()
    done = fetch(hub, tmp_path)
    assert done.returncode == 2
    assert name in done.stderr and "snakemake lock" in done.stderr
    assert not any("/resolve/" in path for _, path, _ in hub.requests)


def test_too_small_a_disk_is_said_with_both_numbers(hub: Hub, tmp_path: Path) -> None:
    hub.commit("owner/name", sharded(2))
    hub.claims["model-00001-of-00002.safetensors"] = 10**15
    done = fetch(hub, tmp_path)
    assert done.returncode == 2
    free = shutil.disk_usage(tmp_path).free / 1e9
    words = done.stderr.splitlines()[-1]
    assert "1,000,000.00 GB to download" in words
    assert f"only {free:,.0f}"[:-3] in words
    assert "cache" in words
    assert not any("/resolve/" in path for _, path, _ in hub.requests)


def test_gated_without_a_token_is_said_before_anything_comes(hub: Hub, tmp_path: Path) -> None:
    hub.commit("owner/name", sharded(2))
    hub.gated.add("owner/name")
    hub.tokens.add(TOKEN)
    done = fetch(hub, tmp_path)
    assert done.returncode == 2
    assert "gated" in done.stderr and "no token is set" in done.stderr
    assert "https://huggingface.co/owner/name" in done.stderr and "HF_TOKEN" in done.stderr
    assert not any("/resolve/" in path for _, path, _ in hub.requests)
    done = fetch(hub, tmp_path, HF_TOKEN="hf_WrongWrongWrong")
    assert done.returncode == 2
    assert "the token that is set gives none" in done.stderr
    assert fetch(hub, tmp_path, HF_TOKEN=TOKEN).returncode == 0


def test_no_secret_is_written_anywhere(hub: Hub, tmp_path: Path) -> None:
    hub.commit("owner/name", sharded(2, 11 * MIB))
    hub.gated.add("owner/name")
    hub.tokens.add(TOKEN)
    name = "model-00001-of-00002.safetensors"
    hub.cuts[name] = [MIB]
    hub.corrupt["tokenizer.json"] = 1
    said = ""
    address = hub.address.replace("://", f"://user:{TOKEN}@")
    for variables in (
        {"HF_TOKEN": TOKEN},
        {"HF_TOKEN": TOKEN, "HF_ENDPOINT": address.replace(":", ":9", 1)},
        {"HF_TOKEN": TOKEN, "HF_ENDPOINT": "http://user:hf_other@127.0.0.1:9"},
    ):
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        done = fetch(hub, tmp_path, **variables)
        said += done.stdout + done.stderr
    hub.tokens.clear()
    shutil.rmtree(tmp_path / "cache")
    done = fetch(hub, tmp_path, HF_TOKEN=TOKEN)
    assert done.returncode == 2
    said += done.stdout + done.stderr
    assert "resume" in said  # the client's own words are among it
    assert TOKEN not in said and "hf_other" not in said
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert TOKEN.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("source", ["hub:owner/other", "hub:owner/name@nowhere"])
def test_what_is_not_there_is_said_in_one_line(hub: Hub, tmp_path: Path, source: str) -> None:
    hub.commit("owner/name", sharded(1))
    done = fetch(hub, tmp_path, source=source)
    assert done.returncode == 2
    assert done.stderr.count("subnetworks: error:") == 1
    assert source in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert not (tmp_path / "x.lock").exists()


def test_pickles_that_are_no_models_are_refused(hub: Hub, tmp_path: Path) -> None:
    hub.commit("owner/name", {"tokenizer.pkl": b"\x80\x04.", "config.json": b"{}"})
    done = fetch(hub, tmp_path)
    assert done.returncode == 2
    assert "tokenizer.pkl" in done.stderr and "safetensors" in done.stderr
    assert not any("/resolve/" in path for _, path, _ in hub.requests)
    for body in (b"\x80\x04.", torch_zip(b"\x80\x02cos\nsystem\n.")):
        hub.commit("owner/name", {"pytorch_model.bin": body, "config.json": b"{}"})
        (tmp_path / "x.lock").unlink(missing_ok=True)
        done = fetch(hub, tmp_path)
        assert done.returncode == 2
        assert "pytorch_model.bin" in done.stderr and "can run code" in done.stderr
        assert not (tmp_path / "out" / "pytorch_model.bin").exists()
        assert not (tmp_path / "out" / "manifest.json").exists()


def test_files_of_torch_come_where_there_are_no_safetensors(hub: Hub, tmp_path: Path) -> None:
    names = [f"pytorch_model-0000{k}-of-00002.bin" for k in (1, 2)]
    index = json.dumps({"weight_map": {"w": names[0], "v": names[1]}}).encode()
    files = {
        names[0]: torch_zip(bfloat16("w", 500), bytes(range(200)) * 5),
        names[1]: torch_zip(bfloat16("v", 500), bytes(1000)),
        "pytorch_model.bin.index.json": index,
        "optimizer.bin": b"\x80\x04.",
        "training_args.bin": b"\x80\x04.",
        "config.json": b"{}",
    }
    hub.commit("owner/name", files)
    done = fetch(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    found = manifest(tmp_path)["files"]
    assert set(found) == {*names, "pytorch_model.bin.index.json", "config.json"}
    locked = json.loads((tmp_path / "x.lock").read_text())["sources"]["model owner/name@main"]
    assert set(locked["files"]) == set(found)
    with checkpoints.open(tmp_path / "out") as checkpoint:
        assert checkpoint["w"].raw().tobytes() == bytes(range(200)) * 5
    # As soon as there are safetensors they are taken, and nothing else.
    hub.commit("owner/name", {**files, **sharded(1)})
    (tmp_path / "x.lock").unlink()
    assert fetch(hub, tmp_path).returncode == 0
    assert not any(name.endswith(".bin") for name in manifest(tmp_path)["files"])


def test_a_folder_of_a_repository_at_any_revision(hub: Hub, tmp_path: Path) -> None:
    steps = {f"step_{k}/model.safetensors": safetensors({"w": bytes([k, 0])}) for k in (1, 2)}
    steps |= {f"step_{k}/config.json": b"{}" for k in (1, 2)}
    hub.refs["refs/pr/1"] = hub.commit("owner/name", steps)
    hub.commit("owner/name", {"model.safetensors": safetensors({"w": b"\x09\0"})})
    source = "hub:owner/name@refs/pr/1:step_2"
    done = fetch(hub, tmp_path, source=source)
    assert done.returncode == 0, done.stderr
    assert set(manifest(tmp_path)["files"]) == {"model.safetensors", "config.json"}
    with checkpoints.open(tmp_path / "out") as checkpoint:
        assert checkpoint["w"].raw().tolist() == [2]
    assert not any("step_1" in path for _, path, _ in hub.requests if "/resolve/" in path)
    lock = json.loads((tmp_path / "x.lock").read_text())["sources"]
    assert list(lock) == ["model owner/name@refs/pr/1:step_2"]
    assert fetch(hub, tmp_path, source=f"{source}/model.safetensors").returncode == 0
    assert set(manifest(tmp_path)["files"]) == {"model.safetensors", "config.json"}
    done = fetch(hub, tmp_path, source="hub:owner/name:step_2")
    assert done.returncode == 2
    assert "hub:owner/name@main:step_2: no .safetensors" in done.stderr


def test_a_missing_shard_is_found_out_at_once(hub: Hub, tmp_path: Path) -> None:
    files = sharded(3)
    del files["model-00003-of-00003.safetensors"]
    hub.commit("owner/name", files)
    done = fetch(hub, tmp_path)
    assert done.returncode == 2
    assert "model-00003-of-00003.safetensors: missing" in done.stderr


def test_code_comes_only_where_it_is_trusted(hub: Hub, tmp_path: Path) -> None:
    hub.commit("owner/name", sharded(1))
    assert fetch(hub, tmp_path).returncode == 0
    assert "modeling_own.py" not in manifest(tmp_path)["files"]
    assert "trust_remote_code" not in manifest(tmp_path)
    assert fetch(hub, tmp_path, "--trust-remote-code").returncode == 0
    assert "modeling_own.py" in manifest(tmp_path)["files"]
    assert manifest(tmp_path)["trust_remote_code"] is True
    assert fetch(hub, tmp_path).returncode == 0
    assert not (tmp_path / "out" / "modeling_own.py").exists()


def test_any_checkpoint_is_measured_straight_from_the_hub(hub: Hub, tmp_path: Path) -> None:
    """Also without the network, once it is here, and no damaged file is read."""
    pytest.importorskip("numba")
    hub.commit("owner/name", sharded(2))
    hub.commit("owner/other", {"model.safetensors": safetensors({"w0": b"\1" * 1000})})
    hub.corrupt["model.safetensors"] = 1
    names = ("hub:owner/name@main", "hub:owner/other")
    command = ("measure", *names, "--allow-partial", "--json", "-")
    done = run(hub, tmp_path, *command)
    assert done.returncode == 0, done.stderr
    assert "once more" in done.stderr
    assert json.loads(done.stdout)["n"] == 500
    hub.requests.clear()
    done = run(hub, tmp_path, *command, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert hub.requests == []


def test_two_at_once_write_one_lock(hub: Hub, tmp_path: Path) -> None:
    import concurrent.futures

    names = [f"owner/name{i}" for i in range(4)]
    for i, name in enumerate(names):
        hub.commit(name, sharded(1, fill=i))

    def one(name: str) -> int:
        places = ("--output", name.replace("/", "-"), "--cache", "cache", "--lock", "x.lock")
        return run(hub, tmp_path, "fetch", f"hub:{name}", *places).returncode

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, names)) == [0, 0, 0, 0]
    lock = json.loads((tmp_path / "x.lock").read_text())
    assert [key.split()[1] for key in lock["sources"]] == [f"{name}@main" for name in names]
