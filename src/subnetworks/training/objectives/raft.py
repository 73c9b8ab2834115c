"""RAFT++: rejection sampling from the policy that is trained (Xiong et al., arXiv 2504.11343).

The loss is the clipped surrogate with an advantage of 1 for every token of a right answer and of 0
for every token of a wrong one, as in the authors' code: wrong answers teach nothing. With one
update a step the importance ratio is 1, and this is plain RAFT.
"""

from typing import Any

import torch
from verl.trainer.ppo.core_algos import register_adv_est

NAME = "raft++"


@register_adv_est(NAME)
def estimate(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, **_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages, which are the returns too: an answer's score, at least 0, on each of its tokens.

    Args:
        token_level_rewards: rewards of tokens that sum up to the answer's score, (answers, tokens).
        response_mask: 1 for an answer's tokens, (answers, tokens).
    """
    kept = token_level_rewards.sum(1, keepdim=True).clamp(min=0) * response_mask
    return kept, kept
