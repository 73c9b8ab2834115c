"""A tiny random checkpoint, and a server that answers by a rule instead of a model."""

import importlib.util
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).parents[3] / "../shared/data"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def needs_evaluation() -> None:
    for name in ("lm_eval", "math_verify", "vllm"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name}", allow_module_level=True)


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"needs {name}")
    return path


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def save_checkpoint(folder: Path, positions: int = 16384, size: int = 64, layers: int = 2) -> Path:
    """A random Qwen2 (of 0.1 M parameters) whose tokens are bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: i for i, token in enumerate([*special, *letters])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=size,
        intermediate_size=2 * size,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=positions,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except FileNotFoundError:
        return False


def processes_with(word: str) -> list[int]:
    """Processes started with `word` on their command line, but this one."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                if word.encode() in (folder / "cmdline").read_bytes() and running(int(folder.name)):
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


def gone(pids: list[int], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not any(running(pid) for pid in pids):
            return True
        time.sleep(0.1)
    return False


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@dataclass
class Rule:
    """What the stand-in answers, and what it was asked.

    `answer` turns a prompt and the request into text, `value` a text into the log-likelihood of
    each of its tokens, `finish` a prompt into why its answer ended. After `breaks_after` prompts it
    is dead; if it `refuses`, it lives.
    """

    answer: Callable[[str, dict[str, Any]], str] = lambda prompt, request: ""
    value: Callable[[str], float] = lambda text: -1.0
    finish: Callable[[str], str] = lambda prompt: "stop"
    breaks_after: int | None = None
    refuses: bool = False
    asked: list[str] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    started: int = 0


def stand_in(rule: Rule) -> type:
    """A class with the face of `server.Server`."""

    class StandIn:
        def __init__(self, checkpoint: Path, machine: Any, context: int, log: Path) -> None:
            from transformers import AutoTokenizer

            self.name = "stand-in"
            self.headers = {"Authorization": "Bearer key"}
            self.seconds_to_ready = 0.0
            self._context = context
            self._tokenizer = AutoTokenizer.from_pretrained(str(checkpoint))
            self._dead = False

        @property
        def url(self) -> str:
            return f"http://127.0.0.1:{self._http.server_address[1]}"

        def __enter__(self) -> "StandIn":
            rule.started += 1
            outer = self

            class Handler(BaseHTTPRequestHandler):
                def do_POST(self) -> None:
                    body = self.rfile.read(int(self.headers["Content-Length"]))
                    outer.respond(self, json.loads(body))

                def log_message(self, *arguments: Any) -> None:
                    pass

            self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            threading.Thread(target=self._http.serve_forever, daemon=True).start()
            return self

        def __exit__(self, *_: object) -> None:
            self._http.shutdown()
            self._http.server_close()

        def wait(self) -> None:
            pass

        def ended(self, within_s: float) -> bool:
            return self._dead

        def failure(self, what: str) -> Exception:
            from subnetworks.core.errors import UserError

            return UserError(what)

        def respond(self, handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
            prompts = request["prompt"]
            over = rule.breaks_after is not None and len(rule.asked) >= rule.breaks_after
            if over or handler.headers["Authorization"] != "Bearer key":
                self._dead = True
                handler.send_error(500)
                return
            if rule.refuses:
                handler.send_error(400)
                return
            rule.requests.append(request)
            choices = []
            for index, tokens in enumerate(prompts):
                assert len(tokens) + request["max_tokens"] <= self._context
                text = self._tokenizer.decode(tokens)
                rule.asked.append(text)
                if request.get("echo"):
                    value = rule.value(text)
                    values = [None, *[value] * len(tokens)]
                    tops = [None, *[{"x": value}] * len(tokens)]
                    logprobs = {"token_logprobs": values, "top_logprobs": tops}
                    choices.append({"index": index, "text": text, "logprobs": logprobs})
                else:
                    answer, reason = rule.answer(text, request), rule.finish(text)
                    choices.append({"index": index, "text": answer, "finish_reason": reason})
            content = json.dumps({"choices": choices}).encode()
            handler.send_response(200)
            handler.send_header("Content-Type", "application/json")
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content)

    return StandIn


@pytest.fixture
def rule(monkeypatch: pytest.MonkeyPatch) -> Rule:
    from subnetworks.evaluation import backends

    rule = Rule()
    monkeypatch.setattr(backends, "Server", stand_in(rule))
    return rule
