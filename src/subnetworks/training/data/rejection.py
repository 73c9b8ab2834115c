"""A policy's own answers: the right ones to imitate (RFT), or pairs of a better and a worse one."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from subnetworks.checkpoints.manifest import trusts, verify
from subnetworks.core import datasets, outputs
from subnetworks.core.engines import ON_CPU, QUIET, leave_out_compiler
from subnetworks.core.errors import UserError
from subnetworks.core.precision import of_serving
from subnetworks.core.progress import Progress
from subnetworks.core.provenance import recorded
from subnetworks.core.validation import parse
from subnetworks.training.data import rewards
from subnetworks.training.data.checks import check_problems, read_problems
from subnetworks.training.data.conversations import check_ends, end_tokens, load_tokenizer
from subnetworks.training.data.schemas import asked
from subnetworks.training.data.sources import RejectionSettings
from subnetworks.training.runtime import finish, state
from subnetworks.training.settings import Accelerator, parse_accelerator

Row = dict[str, Any]


def sample(
    values: Mapping[str, Any],
    *,
    problems: Path,
    policy: Path,
    output: Path,
    accelerator: Mapping[str, Any] | None = None,
) -> None:
    """Sample answers to problems from a policy; write the right ones, or pairs by their rewards.

    Writes `output`/train.parquet with `messages` (prompt and answer), or with `prompt`, `chosen`
    and `rejected`, and its manifest; the folder appears as a whole.

    Args:
        values: keys of `RejectionSettings`.
        problems: folder with train.parquet in the schema of on-policy runs.
        policy: folder of the checkpoint that answers.
        accelerator: keys of `subnetworks.training.settings.Accelerator`.

    Raises:
        UserError: wrong settings, problems or policy; or nothing is kept.
    """
    outputs.claim("sample", reads=[problems, policy], folders=[output])
    settings = parse(RejectionSettings, values, "settings of sample")
    machine = parse_accelerator(accelerator or {})
    for folder in (problems, policy):
        verify(folder)
    finish.shapes(policy)
    rows = check_problems(problems)[: settings.problems]
    rewards.score(settings.reward, [], [], settings.seed, 0)  # there are such rewards
    tokenizer = load_tokenizer(policy, settings.chat_template)
    check_ends(tokenizer, policy)
    read = read_problems(problems / "train.parquet", tokenizer, settings.max_prompt_length)
    prompts = [ids for ids, _ in read][: len(rows)]
    facts = {
        "settings": settings.model_dump(),
        "policy": state.digest(policy),
        "problems": state.digest(problems),
    }
    with recorded(output / "manifest.json", seed=settings.seed, **facts) as meta:
        answers, ends = generate(prompts, policy, tokenizer, settings, machine)
        kept, right = rewarded(rows, answers, settings, ends)
        cut = sum(end.cut for end in ends)
        meta["products"] = of_serving(machine.kind, machine.bfloat16)
        meta |= {"sampled": len(answers), "cut": cut, "right": right, "kept": len(kept)}
        if not kept:
            where = f"to the {len(rows)} problems in {problems}"
            dropped = f"({cut} were cut off at max_response_length)"
            raise UserError(
                f"{policy}: of {len(answers)} answers {where} no two to one problem differ in the "
                f"reward {settings.reward!r} {dropped}: nothing to compare; sample more"
                if settings.gives == "preferences"
                else f"{policy}: not one of {len(answers)} answers {where} is right by the reward "
                f"{settings.reward!r} {dropped}: nothing to imitate; sample more, or from a better "
                "policy"
            )
        print(
            f"{len(answers)} answers sampled, {cut} cut off at max_response_length and "
            f"dropped, {right} right, {len(kept)} different "
            f"{'pairs' if settings.gives == 'preferences' else 'ones'} kept"
        )
        with outputs.folder(output, "sample") as folder:
            datasets.write(
                {"train": kept},
                folder,
                name=output.absolute().name,
                kind="sample",
                settings=settings.model_dump(),
            )


def rewarded(
    problems: Sequence[Row],
    answers: Sequence[str],
    settings: RejectionSettings,
    ends: Sequence[rewards.Ending] | None = None,
) -> tuple[list[Row], int]:
    """The rows that are kept, and how many answers were right.

    Each answer to a prompt is taken once, in the order in which they were sampled: the right ones
    as conversations; or as pairs the one with the highest reward with the one with the lowest, and
    so on, for as long as these differ. Prompts come in the order of the first answers that are
    kept of them.

    Args:
        problems: rows with `prompt` and `reward_model.ground_truth`.
        answers: `settings.samples` for each problem, one problem's side by side.
        ends: how each ended; what was cut off is dropped, and not asked about. By
            default none was.
    """
    whole = [
        (problems[index // settings.samples], answer, end)
        for index, (answer, end) in enumerate(
            zip(answers, ends or [rewards.Ending()] * len(answers), strict=True)
        )
        if not end.cut
    ]
    paid, verdicts = rewards.score(
        settings.reward,
        [answer for _, answer, _ in whole],
        [str(problem["reward_model"]["ground_truth"]) for problem, _, _ in whole],
        settings.seed,
        step=0,
        endings=[end for _, _, end in whole],
    )
    paired = settings.gives == "preferences"
    judged: dict[str, dict[str, float]] = {}
    answered: dict[str, Row] = {}
    for (problem, answer, _), pays, verdict in zip(whole, paid, verdicts, strict=True):
        prompt = asked(problem)
        value = pays if paired else float(verdict == 1)
        judged.setdefault(prompt, {}).setdefault(answer, value)
        if paired or value:
            tools = {"tools": problem["tools"]} if "tools" in problem else {}
            answered.setdefault(prompt, {"prompt": problem["prompt"], **tools})
    make = _pairs if paired else _conversations
    return [
        row
        for key, problem in answered.items()
        for row in islice(make(problem, judged[key]), settings.answers_per_problem)
    ], sum(verdict == 1 for verdict in verdicts)


def _conversations(problem: Row, verdicts: Mapping[str, float]) -> Iterator[Row]:
    rest = dict(problem)
    prompt = rest.pop("prompt")
    for answer, is_right in verdicts.items():
        if is_right:
            yield {"messages": [*prompt, {"role": "assistant", "content": answer}], **rest}


def _pairs(problem: Row, paid: Mapping[str, float]) -> Iterator[Row]:
    best, worst = (sorted(paid, key=paid.__getitem__, reverse=back) for back in (True, False))
    for chosen, rejected in zip(best, worst, strict=True):
        if paid[chosen] <= paid[rejected]:
            return
        yield {**problem, "chosen": chosen, "rejected": rejected}


def generate(
    prompts: Sequence[list[int]],
    policy: Path,
    tokenizer: Any,
    settings: RejectionSettings,
    machine: Accelerator,
) -> tuple[list[str], list[rewards.Ending]]:
    """`settings.samples` answers to each prompt, one prompt's side by side, and how each ended.

    By vLLM; special tokens are left out. On a CPU the same seed gives the same answers: the
    engine is in this process, and has all prompts before its first step. (A seed for every draw
    would be a call of its own to the random generator, and cost more time than a small model.)

    Args:
        prompts: tokens of each prompt.
    """
    os.environ |= _ENVIRONMENT[machine.kind]
    if machine.kind == "cpu":
        leave_out_compiler()
    os.environ.setdefault("OMP_NUM_THREADS", str(machine.threads))
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    engine = LLM(
        model=str(policy),
        dtype=of_serving(machine.kind, machine.bfloat16),
        trust_remote_code=trusts(policy),
        seed=settings.seed,
        max_model_len=settings.max_prompt_length + settings.max_response_length,
        max_num_seqs=256,
        **_ENGINE[machine.kind],
        **({"tensor_parallel_size": machine.devices} if machine.kind == "cuda" else {}),
    )
    outputs = engine.generate(
        [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts],
        SamplingParams(
            n=settings.samples,
            temperature=settings.temperature,
            top_p=1.0,
            top_k=0,
            max_tokens=settings.max_response_length,
            stop_token_ids=sorted(end_tokens(tokenizer, policy)),
            detokenize=False,
        ),
        use_tqdm=_bar,
    )
    answers = [answer for output in outputs for answer in output.outputs]
    texts = tokenizer.batch_decode(
        [list(answer.token_ids) for answer in answers], skip_special_tokens=True
    )
    longest = settings.max_response_length
    return texts, [
        rewards.Ending(answer.finish_reason == "length", len(answer.token_ids) / longest)
        for answer in answers
    ]


class _Bar:
    """What vLLM asks of tqdm, shown as all long jobs show theirs."""

    # vLLM makes a text of speeds of the one for the other; they are not shown.
    format_dict: ClassVar[dict[str, float]] = {"elapsed": math.inf}
    postfix = ""

    def __init__(self, total: int) -> None:
        self.n = 0
        self._shown = Progress("sampling", total, "answer")

    def update(self, count: int) -> None:
        """So many answers more."""
        self.n += count
        self._shown.update(self.n)

    def refresh(self) -> None:
        """Nothing: it is always fresh."""

    def close(self) -> None:
        """All answers are there."""
        self._shown.__exit__()


def _bar(prompts: Sequence[Any] | None = None, *, total: int = 0, **_: Any) -> Any:
    """vLLM's bar; prompts, which it also counts, are taken at once."""
    return _Bar(total) if prompts is None else prompts


_QUIET = QUIET | {"VLLM_LOGGING_LEVEL": "WARNING", "HF_HUB_OFFLINE": "1"}
_ENVIRONMENT = {
    # One process: the engine is ready in seconds.
    "cpu": _QUIET
    | ON_CPU
    | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
    },
    "cuda": _QUIET,
}
_ENGINE: dict[str, dict[str, Any]] = {
    "cpu": {"enforce_eager": True},
    "cuda": {"gpu_memory_utilization": 0.9},
}
