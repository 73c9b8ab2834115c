"""The benchmarks by name: whose definition, which rows, what is scored, and how they are cut."""

from dataclasses import dataclass

_CATEGORIES = (
    "biology business chemistry computer_science economics engineering health history law math "
    "other philosophy physics psychology"
).split()


@dataclass(frozen=True)
class Task:
    """What is known of a benchmark beyond lm-eval's definition of it.

    Attributes:
        name: as in `task: NAME`.
        definitions: (part, YAML file) pairs; the file is relative to lm-eval's tasks, or to this
            folder if it begins with "./". Most benchmarks have one part; its name is then "".
        hub: the data set on the Hub that the definition reads.
        columns: what a row must have.
        texts: which of these are text.
        gold: the one that holds the right answer: text or a whole number, or where there are
            options, the right one's letter, or the places of those that are right in a list.
        options: the one that lists the answers to choose from, if rows have them.
        chooses: whether answers are chosen by log-likelihood; else they are generated.
        metric: the score, as lm-eval's `metric,filter`.
        others: further metrics worth keeping.
        groups: the column by which scores are also given.
        shots: examples before each question, by the definition.
        shots_split: where the examples come from, None if the definition brings its own.
        max_tokens: the longest answer, by the definition.
        chat: whether the chat template is applied unless the settings say otherwise.
        instructed: whether `instruction` is appended to the problem.
        instruction: what is appended unless the settings say otherwise.
        only: a row belongs to the benchmark if this column has this value.
        own_split: the split of the data set that the definition scores.
        gated: whether the Hub hands the data set out to those only who were let in.
    """

    name: str
    definitions: tuple[tuple[str, str], ...]
    hub: str
    columns: tuple[str, ...]
    texts: tuple[str, ...]
    gold: str
    metric: str
    options: str | None = None
    chooses: bool = False
    others: tuple[str, ...] = ()
    groups: str | None = None
    shots: int = 0
    shots_split: str | None = None
    max_tokens: int = 0
    chat: bool = False
    instructed: bool = False
    instruction: str = ""
    only: tuple[str, str] | None = None
    own_split: str = "test"
    gated: bool = False


def _agieval(name: str) -> Task:
    return Task(
        name=f"agieval_{name.replace('-', '_')}",
        definitions=(("", f"agieval/{name}.yaml"),),
        hub=f"hails/agieval-{name}",
        columns=("query", "choices", "gold"),
        texts=("query",),
        gold="gold",
        options="choices",
        chooses=True,
        metric="acc,none",
        others=("acc_norm,none",),
    )


def _mmlu_pro(name: str, categories: list[str]) -> Task:
    one = len(categories) == 1
    return Task(
        name=name,
        definitions=tuple(
            ("" if one else category, f"mmlu_pro/mmlu_pro_{category}.yaml")
            for category in categories
        ),
        hub="TIGER-Lab/MMLU-Pro",
        columns=("question", "options", "answer", "category", "cot_content"),
        texts=("question", "answer", "category", "cot_content"),
        gold="answer",
        options="options",
        metric="exact_match,custom-extract",
        groups="category",
        shots=5,
        shots_split="validation",
        max_tokens=2048,
        only=("category", categories[0].replace("_", " ")) if one else None,
    )


_GPQA = ("Question", "Correct Answer", *(f"Incorrect Answer {k}" for k in (1, 2, 3)))


def _gpqa(part: str) -> Task:
    return Task(
        name=f"gpqa_{part}",
        definitions=(("", f"gpqa/zeroshot/gpqa_{part}_zeroshot.yaml"),),
        hub="Idavidrein/gpqa",
        columns=_GPQA,
        texts=_GPQA,
        gold="Correct Answer",
        chooses=True,
        metric="acc,none",
        others=("acc_norm,none",),
        own_split="train",
        gated=True,
    )


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="math500",
            definitions=(("", "./math500.yaml"),),
            hub="HuggingFaceH4/MATH-500",
            columns=("problem", "answer", "level"),
            texts=("problem", "answer"),
            gold="answer",
            metric="correct,none",
            others=("math_verify,none", "string_match,none", "boxed,none"),
            groups="level",
            max_tokens=2048,
            chat=True,
            instructed=True,
            instruction="\nPlease reason step by step, and put your final answer within \\boxed{}.",
        ),
        *(_agieval(name) for name in ("lsat-ar", "lsat-lr", "lsat-rc", "logiqa-en")),
        _mmlu_pro("mmlu_pro", _CATEGORIES),
        *(_mmlu_pro(f"mmlu_pro_{category}", [category]) for category in _CATEGORIES),
        Task(
            name="gsm8k",
            definitions=(("", "gsm8k/gsm8k.yaml"),),
            hub="openai/gsm8k",
            columns=("question", "answer"),
            texts=("question", "answer"),
            gold="answer",
            metric="exact_match,strict-match",
            others=("exact_match,flexible-extract",),
            shots=5,
            shots_split="train",
            max_tokens=256,
        ),
        *(_gpqa(part) for part in ("diamond", "main", "extended")),
        Task(
            name="aime24",
            definitions=(("", "aime/aime24.yaml"),),
            hub="Maxwell-Jia/AIME_2024",
            columns=("Problem", "Answer"),
            texts=("Problem",),
            gold="Answer",
            metric="exact_match,none",
            max_tokens=32768,
            own_split="train",
        ),
    )
}
