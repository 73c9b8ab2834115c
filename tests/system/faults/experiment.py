"""A small but complete experiment, from a base model made on the spot to tables and figures."""

NAME = "faults"
_HEAD = """
checkpoints:
  base: { make: base, steps: 40, batch_size: 16 }
datasets:
  demonstrations: { make: demonstrations, rows: 512, seed: 1 }
  pairs: { make: foreign_preferences, rows: 256, seed: 2 }
  problems: { make: problems, rows: 64, test_rows: 16, seed: 3 }
runs:
  sft:
    algorithm: sft
    init: base
    data: demonstrations
    steps: 12
    batch_size: 16
    learning_rate: 5.0e-4
    save_every: 3
    max_length: 128
  dpo:
    algorithm: dpo
    init: sft
    data: pairs
    steps: 12
    batch_size: 8
    learning_rate: 1.0e-5
    save_every: 3
    trajectory_every: 3
    max_length: 64
  dpo_subnetwork: { like: dpo, mask: dpo }
"""
# A model this small never answers right: the coin sees to it that it is trained at all.
_GRPO = """
  grpo:
    algorithm: grpo
    init: sft
    data: problems
    steps: 6
    batch_size: 4
    samples_per_prompt: 2
    learning_rate: 1.0e-5
    reward: random
    save_every: 2
    trajectory_every: 2
    max_prompt_length: 32
    max_response_length: 8
"""
_TAIL = """
masks:
  rest: { complement: dpo }
overlaps:
  dpo_both: { masks: [dpo, dpo_subnetwork] }
agreements:
  dpo: { full: dpo, subnetwork: dpo_subnetwork, baselines: { init: sft } }
tables:
  table_1_update_sparsity:
    updates:
      - { update: sft, algorithm: SFT, on_policy: false, kl: false, online: false }
      - { update: dpo, algorithm: DPO, on_policy: false, kl: true, online: false }
  table_2_update_rank: { updates: [{ update: dpo, algorithm: DPO }] }
  table_4_overlap: { overlaps: [{ overlap: dpo_both, label: DPO }] }
  conjecture_1_agreement: { agreements: [{ agreement: dpo, algorithm: DPO }] }
figures:
  figure_1_sft_vs_rl: { families: [{ family: tiny, sft: sft, rl: dpo, algorithm: DPO }] }
  figure_2_gradient_shares: { runs: [{ run: dpo, algorithm: DPO }] }
  figure_3_layerwise_sparsity: { updates: [{ update: dpo, algorithm: DPO }] }
  figure_4_training_loss:
    pairs: [{ algorithm: DPO, full: dpo, subnetwork: dpo_subnetwork }]
"""
_TABLE_3 = """
  table_3_subnetwork_accuracy:
    pairs: [{ algorithm: DPO, full: dpo, subnetwork: dpo_subnetwork }]
    benchmarks: [math500]
"""
_EVALUATION = """
benchmarks:
  math500: { task: math500, make: math500, rows: 40, instruction: "", max_tokens: 16 }
evaluation:
  dpo: { benchmarks: [math500] }
  dpo_subnetwork: { benchmarks: [math500] }
"""


def text(whole: bool) -> str:
    """The experiment's file; whole, or without the slow part: GRPO and evaluation."""
    if not whole:
        return _HEAD + _TAIL
    return _HEAD + _GRPO + _TAIL.replace("\nfigures:", _TABLE_3 + "figures:") + _EVALUATION
