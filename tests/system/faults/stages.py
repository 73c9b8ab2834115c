"""The experiment's stages: what each writes, and how its process is found."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One stage of the experiment.

    Attributes:
        name: as the table shows it.
        target: what is asked of Snakemake to have it made again.
        outputs: all that it writes, as patterns in the results folder.
        worker: what its process's command line matches.
    """

    name: str
    target: str
    outputs: tuple[str, ...]
    worker: str


STAGES = {
    stage.name: stage
    for stage in (
        Stage("make base", "checkpoints/base/manifest.json", ("checkpoints/base",), "make base"),
        Stage("make data", "data/pairs/manifest.json", ("data/pairs",), "make foreign_preferences"),
        *(
            Stage(
                f"train {name}",
                f"checkpoints/{name}/manifest.json",
                (f"checkpoints/{name}", f"runs/{name}"),
                rf"train .*--run-folder \S*runs/{name} ",
            )
            for name in ("sft", "dpo", "dpo_subnetwork", "grpo")
        ),
        Stage(
            "measure",
            "updates/dpo.json",
            ("updates/dpo.json*", "updates/dpo.parquet*", "masks/dpo.safetensors*"),
            r"measure .*updates/dpo\.json",
        ),
        Stage("rank", "updates/dpo.rank.json", ("updates/dpo.rank.*",), "rank "),
        Stage("mask", "masks/rest.safetensors", ("masks/rest.*",), "mask complement"),
        Stage("overlap", "overlaps/dpo_both.json", ("overlaps/dpo_both.*",), "overlap .*dpo_both"),
        Stage("trajectory", "trajectories/dpo.json", ("trajectories/dpo.*",), "trajectory "),
        Stage("evaluate", "evaluation/dpo/scores.json", ("evaluation/dpo",), "evaluate .*/dpo "),
        Stage(
            "table",
            "tables/table_1_update_sparsity.csv",
            ("tables/table_1_*",),
            "table table_1_update_sparsity",
        ),
        Stage(
            "figure",
            "figures/figure_1_sft_vs_rl.png",
            ("figures/figure_1_*",),
            "figure figure_1_sft_vs_rl",
        ),
        Stage("report", "report.md", ("report.*",), "report "),
    )
}
