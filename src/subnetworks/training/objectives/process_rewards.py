"""PRIME's arithmetic: implicit process rewards, their loss, and the advantages drawn from them.

Cui et al., "Process Reinforcement through Implicit Rewards" (arXiv 2502.01456), with what the paper
leaves open as in the code that trained the published checkpoint (verl's former recipe `prime`): no
process reward on the last token, rewards divided by the largest return of the batch, whitened
advantages. Answers to one prompt have equal numbers in `groups`.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor


def log_ratios(log_probs: "Tensor", reference: "Tensor", mask: "Tensor") -> "Tensor":
    """log π_reward/π_reference of every answer's token, 0 outside `mask`; all (answers, tokens)."""
    return (log_probs - reference) * mask


def outcome_loss(ratios: "Tensor", scores: "Tensor", beta: float) -> "Tensor":
    """Cross-entropy of each answer's score in [0, 1] under σ(β Σ log-ratios), (answers,)."""
    return F.binary_cross_entropy_with_logits(
        beta * ratios.sum(1), scores.to(ratios.dtype), reduction="none"
    )


def right_side(ratios: "Tensor", scores: "Tensor") -> "Tensor":
    """Whether the implicit outcome reward is above 0 where the score is above ½, (answers,)."""
    return (ratios.sum(1) > 0) == (scores > 0.5)


def process_rewards(ratios: "Tensor", mask: "Tensor", beta: float) -> "Tensor":
    """β times the log-ratios, none on an answer's last token, in units of the batch's largest
    return (sum of an answer's rewards from a token on); all (answers, tokens)."""
    last = F.pad(mask, (0, 1))[:, 1:] == 0
    rewards = (beta * ratios).masked_fill(last, 0.0)
    return rewards / (to_end(rewards).abs().max() + 1e-6)


def advantages(
    process: "Tensor", outcome: "Tensor", mask: "Tensor", groups: "Tensor"
) -> tuple["Tensor", "Tensor"]:
    """Whitened advantages and returns, (answers, tokens), of two kinds of reward, each with its own
    baseline from the other answers to the prompt (leave-one-out), equally weighted.

    Args:
        process: rewards of tokens, (answers, tokens). A token's baseline is made of the answers'
            mean rewards: n/(n-1) · r - Σ_j mean_j/(n-1).
        outcome: the answers' scores, (answers,), that fall on their last tokens.
        mask: 1 for an answer's tokens, which come first.
        groups: number of each answer's prompt, (answers,).
    """
    import verl.utils.torch_functional as verl_F

    lengths = mask.sum(1)
    means = (process * mask).sum(1) / lengths
    size, total = group_sums(means, groups)
    rewards = (process * (size / (size - 1))[:, None] - (total / (size - 1))[:, None]) * mask
    size, total = group_sums(outcome, groups)
    rows = torch.arange(len(outcome))
    rewards[rows, lengths.long() - 1] += outcome - (total - outcome) / (size - 1)
    returns = to_end(rewards) * mask
    return verl_F.masked_whiten(returns, mask) * mask, returns


def group_sums(values: "Tensor", groups: "Tensor") -> tuple["Tensor", "Tensor"]:
    """Of each answer's group: its size and the sum of `values`, both (answers,)."""
    _, index = groups.unique(return_inverse=True)
    size = torch.bincount(index).to(values.dtype)
    total = torch.zeros_like(size).index_add(0, index, values)
    return size[index], total[index]


def to_end(rewards: "Tensor") -> "Tensor":
    """Sum of the rewards from each token to the end."""
    return rewards.flip(1).cumsum(1).flip(1)
