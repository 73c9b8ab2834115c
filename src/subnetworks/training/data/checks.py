"""Data sets as runs read them: checked before anything heavy starts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from subnetworks.core.errors import UserError
from subnetworks.training.algorithms import ALGORITHMS
from subnetworks.training.data import rewards
from subnetworks.training.data.conversations import templated
from subnetworks.training.settings import OnlineSettings, PreferenceSettings, Settings

COLUMNS = {
    "sft": ("messages",),
    "online": ("data_source", "prompt", "reward_model"),
    "preference": ("prompt", "chosen", "rejected"),
}
# What an algorithm of single answers takes instead of pairs: each desirable or not.
LABELLED = ("prompt", "answer", "label")


def check(folder: Path, settings: Settings) -> None:
    """Check that the rows of `folder`/train.parquet, and those held out if they are measured, are
    what this algorithm trains on.

    Raises:
        UserError: the file or a column is absent, there are fewer rows than one step takes, or a
            row is empty or one-sided; names the file, the row and the remedy.
    """
    file = folder / "train.parquet"
    _check_rows(file, settings)
    if examples(folder, settings.algorithm) < settings.batch_size:
        raise UserError(
            f"{file}: {_opened(file).metadata.num_rows} rows are fewer than one step takes; make "
            f"more rows or lower batch_size ({settings.batch_size})"
        )
    if settings.validate_every:
        held_out = folder / "validation.parquet"
        if not held_out.exists():
            raise UserError(
                f"{held_out}: no such file, which validate_every ({settings.validate_every}) asks "
                "for; set validation in the data set, or leave validate_every out"
            )
        _check_rows(held_out, settings)


def _check_rows(file: Path, settings: Settings) -> None:
    table = _opened(file)
    names = table.schema_arrow.names
    labelled = _single(type(settings)) and "label" in names
    wanted = LABELLED if labelled else COLUMNS[settings.kind]
    _check_columns(file, names, wanted, settings.algorithm)
    if labelled:
        _check_labelled(file, table.read(columns=list(wanted)).to_pylist())
    elif settings.kind == "preference":
        _check_pairs(file, table.read(columns=list(wanted)).to_pylist())
    if settings.kind == "online":
        _check_truths(file, table.read(columns=["reward_model"])["reward_model"].to_pylist())


def examples(folder: Path, algorithm: object) -> int:
    """How many examples `folder`/train.parquet holds for an algorithm; as `check` refuses it.

    One of single answers makes two of every row that is a pair.
    """
    table = _opened(folder / "train.parquet")
    kind = ALGORITHMS.get(str(algorithm))
    split = kind is not None and _single(kind) and "label" not in table.schema_arrow.names
    return table.metadata.num_rows * (2 if split else 1)


def _single(kind: type[Settings]) -> bool:
    return issubclass(kind, PreferenceSettings) and kind.answers == 1


def check_problems(folder: Path) -> list[dict[str, Any]]:
    """The rows of `folder`/train.parquet, checked to be problems whose answers can be judged.

    Raises:
        UserError: as `check` does for an on-policy run.
    """
    file = folder / "train.parquet"
    table = _opened(file)
    _check_columns(file, table.schema_arrow.names, COLUMNS["online"], "sampling")
    rows = table.read().to_pylist()
    if not rows:
        raise UserError(f"{file}: has no rows: there is nothing to answer")
    _check_truths(file, [row["reward_model"] for row in rows])
    return rows


def _opened(file: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    if file.parent.is_file():
        raise UserError(
            f"{file.parent}: a file, not the folder of a data set; `subnetworks fetch-data "
            f"{file.parent} --output FOLDER --settings '{{\"gives\": …}}'` makes one of it"
        )
    if not file.exists():
        raise UserError(f"{file}: no such file; make the data set first")
    try:
        return pyarrow.parquet.ParquetFile(file)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{file}: not a Parquet file ({error})") from None


def _check_columns(file: Path, names: Sequence[str], wanted: Sequence[str], whose: str) -> None:
    if absent := [name for name in wanted if name not in names]:
        raise UserError(
            f"{file}: {whose} needs the columns {', '.join(wanted)}; "
            f"there is no {absent[0]!r} among {', '.join(names)}"
        )


def _check_pairs(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    for index, row in enumerate(rows):
        _check_prompt(file, index, row["prompt"])
        for side in ("chosen", "rejected"):
            # An empty answer is one: the model ended at once.
            if row[side] is None:
                raise UserError(
                    f"{file}: row {index} has no {side} answer: a pair needs both; leave it out"
                )
            if not isinstance(row[side], str):
                raise UserError(
                    f"{file}: row {index}'s {side} answer is no text; rewrite messages and other "
                    "columns with fetch-data (in an experiment, path)"
                )
        if row["chosen"] == row["rejected"]:
            raise UserError(
                f"{file}: row {index} prefers an answer to itself (chosen is rejected); "
                "leave it out"
            )


def _check_labelled(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    for index, row in enumerate(rows):
        _check_prompt(file, index, row["prompt"])
        if row["answer"] is None:
            raise UserError(f"{file}: row {index} has no answer; leave it out")
        if not isinstance(row["label"], bool):
            raise UserError(
                f"{file}: row {index} has the label {row['label']!r}; allowed: true (desirable) "
                "and false"
            )
    for kind, label in (("desirable", True), ("undesirable", False)):
        if not any(row["label"] is label for row in rows):
            raise UserError(
                f"{file}: not one of {len(rows)} answers is {kind}: both kinds are needed; add some"
            )


def _check_prompt(file: Path, index: int, prompt: Any) -> None:
    if not prompt:
        raise UserError(f"{file}: row {index} has no prompt; leave such rows out")
    if not isinstance(prompt, list):
        raise UserError(
            f"{file}: row {index}'s prompt is no list of messages; rewrite texts and other columns "
            "with fetch-data (in an experiment, path)"
        )


def _check_truths(file: Path, rows: Sequence[Any]) -> None:
    for index, row in enumerate(rows):
        if not isinstance(row, dict) or row.get("ground_truth") in (None, ""):
            raise UserError(
                f"{file}: row {index} has no reward_model.ground_truth: no reward can be checked"
            )


def check_reward(folder: Path, settings: OnlineSettings) -> None:
    """Try the reward on the first problem's truth as its answer.

    Raises:
        UserError: there is no such reward, it fails, or it gives no number (of PRIME's, which are
            outcomes to be distinguished, none in [0, 1]).
    """
    import pyarrow.parquet

    rows = pyarrow.parquet.ParquetFile(folder / "train.parquet").iter_batches(1)
    truth = str(next(rows).to_pylist()[0]["reward_model"]["ground_truth"])
    (value,), _ = rewards.score(settings.reward, [truth], [truth], settings.seed, 0)
    if settings.bounded_rewards and not 0 <= value <= 1:
        raise UserError(
            f"settings: reward {settings.reward!r} gives {value:g}; {settings.algorithm} needs "
            "scores in [0, 1]"
        )


def read_problems(
    path: str | Path, tokenizer: Any, max_prompt_length: int
) -> list[tuple[list[int], str]]:
    """Each problem of a Parquet file: its prompt's tokens, and the truth.

    Raises:
        UserError: a prompt is longer than `max_prompt_length` tokens, or the chat template does not
            write it.
    """
    import pyarrow.parquet

    wanted = ("prompt", "reward_model", "tools")
    names = [name for name in pyarrow.parquet.read_schema(path).names if name in wanted]
    rows = pyarrow.parquet.read_table(path, columns=names).to_pylist()
    texts = []
    for index, row in enumerate(rows):
        try:
            texts.append(templated(tokenizer, row["prompt"], row.get("tools"), ask=True))
        except UserError as error:
            raise UserError(f"{path}: row {index}: {error}") from None
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    for index, ids in enumerate(encoded):
        if len(ids) > max_prompt_length:
            raise UserError(
                f"{path}: the prompt of row {index} has {len(ids)} tokens, more than "
                f"max_prompt_length ({max_prompt_length}); raise it or shorten the prompt"
            )
    truths = (str(row["reward_model"]["ground_truth"]) for row in rows)
    return list(zip(encoded, truths, strict=True))
