"""Where masks come from, as they record it, and whether they may be put together."""

from collections.abc import Mapping, Sequence
from typing import Any

from subnetworks.core.errors import UserError
from subnetworks.measuring.masks import Mask

_ALLOW_BASES = "--different-bases"
_ALLOW_RULES = "--different-rules"


def base(mask: Mask) -> str:
    """The digest of the checkpoint that a mask's update starts from; empty if it has none."""
    return mask.metadata.get("before", "")


def rule(mask: Mask, dtypes: bool = True) -> str:
    """By which rule, tolerance and, if recorded, `dtypes` entries are changed; empty if by none."""
    facts = mask.metadata
    if not facts.get("rule"):
        return ""
    words = [facts["rule"], facts.get("tolerance", "")]
    if dtypes and facts.get("compared_as"):
        words.append(f"in {facts['compared_as']}")
    return " ".join(word for word in words if word)


def summarise(mask: Mask) -> dict[str, Any]:
    """What a mask records of its origin, None where it records nothing."""
    keys = ("rule", "tolerance", "compared_as", "operation")
    facts: Mapping[str, str] = mask.metadata
    return {
        "mask": str(mask.path),
        "base": base(mask) or None,
        **{key: facts.get(key) or None for key in keys},
    }


def check(
    masks: Sequence[Mask],
    *,
    weights: tuple[str, str] | None = None,
    different_bases: bool = False,
    different_rules: bool = False,
) -> list[str]:
    """Check that masks are of updates of one base, by one rule.

    Masks that no rule made (random ones, those chosen by weights) have no rule to compare.

    Args:
        masks: the masks.
        weights: a checkpoint to go with them, as the user named it, and its digest.
        different_bases, different_rules: go on all the same.

    Returns, in words, what differs and what is not known.

    Raises:
        UserError: bases or rules differ, and that is not allowed.
    """
    notes = [
        f"{mask.path}: records no base, so whether it is of the same model is not known"
        for mask in masks
        if not base(mask)
    ]
    bases = [(str(mask.path), base(mask)) for mask in masks if base(mask)]
    known = [weights, *bases] if weights and bases else bases
    for name, digest in known[1:]:
        if digest != known[0][1]:
            if weights:
                words = (
                    f"{name}: of an update that starts from a base with digest {digest}, but "
                    f"{weights[0]} has {weights[1]}"
                )
            else:
                words = (
                    f"{name}: of an update that starts from a base with digest {digest}, but that "
                    f"of {known[0][0]} from {known[0][1]}"
                )
            notes.append(_allowed(words, different_bases, "one base", _ALLOW_BASES))
    by_rule = [mask for mask in masks if rule(mask)]
    dtypes = all(mask.metadata.get("compared_as") for mask in by_rule)
    rules = [(str(mask.path), rule(mask, dtypes)) for mask in by_rule]
    for name, found in rules[1:]:
        if found != rules[0][1]:
            words = f"{name}: extracted by the rule {found!r}, but {rules[0][0]} by {rules[0][1]!r}"
            notes.append(_allowed(words, different_rules, "one rule", _ALLOW_RULES))
    return notes


def _allowed(words: str, allowed: bool, wanted: str, option: str) -> str:
    if not allowed:
        raise UserError(f"{words}; use masks of {wanted}, or allow it ({option})")
    return words
