"""A policy's own answers: the right ones to imitate (RFT), or pairs of a right and a wrong one."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from subnetworks.checkpoints.manifest import trusts, verify
from subnetworks.core import datasets, outputs
from subnetworks.core.engines import ON_CPU, QUIET, leave_out_compiler
from subnetworks.core.errors import UserError
from subnetworks.core.precision import of_serving
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
    """Sample answers to problems from a policy; write the right ones, or pairs with wrong ones.

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
    reward = rewards.load(settings.reward)
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
        answers, cut = generate(prompts, policy, tokenizer, settings, machine)
        kept, right = verified(rows, answers, reward, settings, cut)
        meta["products"] = of_serving(machine.kind, machine.bfloat16)
        meta |= {"sampled": len(answers), "cut": sum(cut), "right": right, "kept": len(kept)}
        if not kept:
            paired = settings.gives == "preferences" and right
            raise UserError(
                f"{policy}: not one of {len(answers)} answers to the {len(rows)} problems in "
                f"{problems} is right by the reward {settings.reward!r} ({sum(cut)} were cut off "
                "at max_response_length): nothing to imitate; sample more, or from a better policy"
                if not paired
                else f"{policy}: not one of the {len(rows)} problems in {problems} has a right and "
                f"a wrong answer by the reward {settings.reward!r}: nothing to compare; sample more"
            )
        print(
            f"{len(answers)} answers sampled, {sum(cut)} cut off at max_response_length and "
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


def verified(
    problems: Sequence[Row],
    answers: Sequence[str],
    reward: rewards.Reward,
    settings: RejectionSettings,
    cut: Sequence[bool] = (),
) -> tuple[list[Row], int]:
    """The rows that are kept, and how many answers were right.

    Each answer to a prompt is taken once, in the order in which they were sampled: the right ones
    as conversations, or the first right one with the first wrong one, and so on, as pairs. Prompts
    come in the order of their first right answers.

    Args:
        problems: rows with `prompt` and `reward_model.ground_truth`.
        answers: `settings.samples` for each problem, one problem's side by side.
        cut: whether each was cut off; those are not asked about. By default none was.
    """
    judged: dict[str, dict[str, bool]] = {}
    answered: dict[str, Row] = {}
    right = 0
    for index, answer in enumerate(answers):
        if cut and cut[index]:
            continue
        problem = problems[index // settings.samples]
        truth = str(problem["reward_model"]["ground_truth"])
        is_right = rewards.checked(reward, answer, truth) == 1
        prompt = asked(problem)
        judged.setdefault(prompt, {}).setdefault(answer, is_right)
        if is_right:
            right += 1
            tools = {"tools": problem["tools"]} if "tools" in problem else {}
            answered.setdefault(prompt, {"prompt": problem["prompt"], **tools})
    make = _pairs if settings.gives == "preferences" else _conversations
    return [
        row
        for key, problem in answered.items()
        for row in list(make(problem, judged[key]))[: settings.answers_per_problem]
    ], right


def _conversations(problem: Row, verdicts: Mapping[str, bool]) -> Iterator[Row]:
    rest = dict(problem)
    prompt = rest.pop("prompt")
    for answer, is_right in verdicts.items():
        if is_right:
            yield {"messages": [*prompt, {"role": "assistant", "content": answer}], **rest}


def _pairs(problem: Row, verdicts: Mapping[str, bool]) -> Iterator[Row]:
    right = [answer for answer, is_right in verdicts.items() if is_right]
    wrong = [answer for answer, is_right in verdicts.items() if not is_right]
    for chosen, rejected in zip(right, wrong, strict=False):
        yield {**problem, "chosen": chosen, "rejected": rejected}


def generate(
    prompts: Sequence[list[int]],
    policy: Path,
    tokenizer: Any,
    settings: RejectionSettings,
    machine: Accelerator,
) -> tuple[list[str], list[bool]]:
    """`settings.samples` answers to each prompt, one prompt's side by side, and which were cut off.

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
        use_tqdm=sys.stderr.isatty(),
    )
    answers = [answer for output in outputs for answer in output.outputs]
    texts = tokenizer.batch_decode(
        [list(answer.token_ids) for answer in answers], skip_special_tokens=True
    )
    return texts, [answer.finish_reason == "length" for answer in answers]


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
