"""Output heads that are the token embedding: by their entries, then by what `config.json` says."""

from collections.abc import Mapping
from typing import Any

from subnetworks.checkpoints import Checkpoint, Tensor
from subnetworks.checkpoints.storage import same_content
from subnetworks.checkpoints.tensors import is_head, is_token_embedding, place
from subnetworks.measuring.updates.names import bare

# Architectures of `config.json` that have an output head over the vocabulary.
_WITH_HEAD = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_SECTIONS = ("text_config", "llm_config", "language_config", "thinker_config")


def says_tied(config: Mapping[str, Any]) -> bool | None:
    """What `config.json` says of head and embedding; None if nothing, or this and that.

    The sections for the text model of a larger one count as well.
    """
    found: set[bool] = set()
    waiting = [config]
    while waiting:
        section = waiting.pop()
        if isinstance(said := section.get("tie_word_embeddings"), bool):
            found.add(said)
        waiting += [section[key] for key in _SECTIONS if isinstance(section.get(key), Mapping)]
    return found.pop() if len(found) == 1 else None


def _stands_in(config: Mapping[str, Any]) -> bool:
    """Whether a head that is not stored is the embedding.

    So if the configuration says so, or names a model with a head and does not say otherwise.
    """
    said = says_tied(config)
    if said is not None:
        return said
    names = config.get("architectures")
    return isinstance(names, list) and any(str(name).endswith(_WITH_HEAD) for name in names)


def stand_in(head: str, checkpoint: Checkpoint, tensors: Mapping[str, Tensor]) -> Tensor | None:
    """The embedding, where it is the head `head` that a checkpoint does not store."""
    name = _only([n for n in tensors if is_token_embedding(n) and place(n).layer is None])
    if not is_head(head) or name is None or not _stands_in(checkpoint.config):
        return None
    return tensors[name]


def _only(names: list[str]) -> str | None:
    """The one name of the text model itself; None if there is none, or several."""
    if len(names) > 1:
        names = [name for name in names if bare(name).count(".") == 1]
    return names[0] if len(names) == 1 else None


def settle(
    before: Checkpoint,
    after: Checkpoint,
    left: dict[str, Tensor],
    right: dict[str, Tensor],
) -> tuple[dict[str, str], list[str]]:
    """Take out of `left` and `right` (names → parameters) the heads that are counted elsewhere.

    A head is left out only where its entries are the embedding's, and where that is so, or there is
    no head, on the other side too. Where one side stores a head of its own and the other none, the
    other's head is its embedding, if its configuration ties them (or names a model that has a head
    and does not say that it is untied): that is compared with the stored one. Where entries and
    configuration disagree the head is compared, unless the other side has none to compare with.

    Returns what is left out, with the reason, and in words what a reader should know.
    """
    names = dict.fromkeys([*left, *right])
    head = _only([n for n in names if is_head(n) and place(n).layer is None])
    embedding = _only([n for n in names if is_token_embedding(n) and place(n).layer is None])
    if head is None or embedding is None:
        return {}, []
    sides = (("before", before, left), ("after", after, right))
    notes: list[str] = []
    for label, checkpoint, tensors in sides:
        other = right if tensors is left else left
        alone = head in tensors and embedding not in tensors and embedding in other
        if alone and _stands_in(checkpoint.config):
            tensors[embedding] = tensors.pop(head)
            notes.append(f"{label}: stores the embedding as {head!r} only: compared as {embedding}")
    if embedding not in left or embedding not in right or not {head} & {*left, *right}:
        return {}, notes
    copies = {}
    for label, checkpoint, tensors in sides:
        if head not in tensors:
            if says_tied(checkpoint.config) is False:
                notes.append(f"{label}: stores no {head}, though its config does not tie it")
            continue
        copies[label] = same_content(tensors[head], tensors[embedding])
        said = says_tied(checkpoint.config)
        if said is not None and said != copies[label]:
            ties, entries = ("ties", "differ") if said else ("does not tie", "are the same")
            notes.append(f"{label}: its config {ties} {head} to {embedding}, but they {entries}")
    untied = {label for label, checkpoint, _ in sides if says_tied(checkpoint.config) is False}
    if all(copies.values()) and not (len(copies) == 2 and untied):
        for _, _, tensors in sides:
            tensors.pop(head, None)
        return {head: f"tied to {embedding}, counted there"}, notes
    for label, checkpoint, tensors in sides:
        if label not in copies and _stands_in(checkpoint.config):
            tensors[head] = tensors[embedding]
            notes.append(
                f"{label}: stores no {head}, so its head is {embedding}: that is compared with "
                "the head that the other side stores"
            )
    return {}, notes
