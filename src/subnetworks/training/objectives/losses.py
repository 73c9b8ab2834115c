"""Preference losses on log-probabilities of whole answers."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def dpo(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
) -> tuple[Tensor, Tensor]:
    """Direct preference optimisation (Rafailov et al. 2023, eq. 7).

    Args:
        chosen, rejected: log-probabilities of the answers under the policy, shape (pairs,); sums
            over tokens, or means for the length-normalised loss.
        reference_chosen, reference_rejected: the same under the reference.
        beta: strength of the pull towards the reference.

    Returns:
        Loss and reward margin β·Δ of each pair, both of shape (pairs,).
    """
    margin = beta * ((chosen - rejected) - (reference_chosen - reference_rejected))
    return -F.logsigmoid(margin), margin


def simpo(chosen: Tensor, rejected: Tensor, beta: float, gamma: float) -> tuple[Tensor, Tensor]:
    """Simple preference optimisation (Meng et al. 2024, eq. 6).

    Args:
        chosen, rejected: mean log-probabilities a token of the answers, shape (pairs,).
        beta: scale of the reward.
        gamma: margin by which the chosen answer's reward is to lead.

    Returns:
        Loss and reward margin (before `gamma`) of each pair, both of shape (pairs,).
    """
    margin = beta * (chosen - rejected)
    return -F.logsigmoid(margin - gamma), margin


def odds_ratio(chosen: Tensor, rejected: Tensor) -> tuple[Tensor, Tensor]:
    """The preference part of ORPO (Hong et al. 2024, eq. 7), to be added to imitation.

    Args:
        chosen, rejected: mean log-probabilities a token of the answers, shape (pairs,), below 0.

    Returns:
        Loss and log odds ratio of each pair, both of shape (pairs,).
    """
    ratio = (chosen - rejected) - (log1mexp(chosen) - log1mexp(rejected))
    return -F.logsigmoid(ratio), ratio


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0, in the form that keeps its digits (Mächler 2012)."""
    near = x > -math.log(2)
    # The branch not taken must have a finite gradient too: it is multiplied by 0, not left out.
    close = torch.log(-torch.expm1(torch.where(near, x, -1.0)))
    far = torch.log1p(-torch.exp(torch.where(near, -1.0, x)))
    return torch.where(near, close, far)


def kto(
    answers: Tensor,
    reference: Tensor,
    desirable: Tensor,
    kl: float,
    beta: float,
    desirable_weight: float,
    undesirable_weight: float,
) -> tuple[Tensor, Tensor]:
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, eqs. 7 and 8).

    Args:
        answers: log-probabilities of single answers under the policy, shape (answers,).
        reference: the same under the reference.
        desirable: whether each is a desirable answer, bool, shape (answers,).
        kl: the reference point z₀: the policy's divergence from the reference, at least 0.
        beta: how soon gains and losses saturate.
        desirable_weight, undesirable_weight: λ_D and λ_U.

    Returns:
        Loss of each answer, and how far its reward lies on the right side of the reference point,
        both of shape (answers,).
    """
    margin = beta * torch.where(desirable, 1.0, -1.0) * (answers - reference - kl)
    weight = torch.where(desirable, desirable_weight, undesirable_weight)
    return weight * (1 - torch.sigmoid(margin)), margin


def reference_point(mismatched: Tensor, reference: Tensor) -> float:
    """KTO's estimate of the policy's divergence from the reference, 0 at least.

    The mean log-ratio of answers to *other* prompts, from which no gradient flows (Ethayarajh et
    al. 2024, section 4.1).

    Args:
        mismatched: log-probabilities of answers given other prompts, shape (answers,).
        reference: the same under the reference.
    """
    return max(0.0, float((mismatched - reference).mean()))


def answer_log_probabilities(
    log_probabilities: Tensor, answer: Tensor, offsets: Tensor, mean: bool
) -> Tensor:
    """Log-probability of each sequence's answer.

    Args:
        log_probabilities: packed sequences, shape (tokens,); entry t scores the token t + 1.
        answer: 1 where a token belongs to the answer, shape (tokens,).
        offsets: where each sequence begins, and the end, shape (sequences + 1,).
        mean: divide by the answers' lengths.

    Returns:
        float32, shape (sequences,).
    """
    scored = torch.roll(answer, -1, 0).to(torch.float32)
    lengths = offsets.diff()
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=offsets.device), lengths)
    zeros = torch.zeros(len(lengths), dtype=torch.float32, device=log_probabilities.device)
    total = zeros.index_add(0, owner, log_probabilities.to(torch.float32) * scored)
    if not mean:
        return total
    return total / zeros.index_add(0, owner, scored).clamp(min=1)


def text_log_probabilities(log_probabilities: Tensor, offsets: Tensor) -> Tensor:
    """Log-probability of each whole sequence, prompt included, given its first token.

    Args:
        log_probabilities, offsets: as for `answer_log_probabilities`.

    Returns:
        float32, shape (sequences,).
    """
    everything = torch.ones(len(log_probabilities), device=log_probabilities.device)
    everything[offsets[:-1]] = 0
    return answer_log_probabilities(log_probabilities, everything, offsets, mean=False)
