"""Does reinforcement learning finetune only a small subnetwork of a language model?

The table of contents: which experiment, the stages in the order of the data, and the targets.
`snakemake --list-target-rules` names every table and figure; each can be rerun by its name.
"""

from snakemake.utils import min_version

min_version("9.27.0")


configfile: "config.yaml"


pathvars:
    results=f"results/{config['experiment']}",
    environments=config["environments"],


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/environments.smk"
include: "workflow/rules/checkpoints.smk"
include: "workflow/rules/runs.smk"
include: "workflow/rules/updates.smk"
include: "workflow/rules/masks.smk"
include: "workflow/rules/trajectories.smk"
include: "workflow/rules/overlaps.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/controls.smk"


rule all:
    """All that the experiment asks for: updates, overlaps, scores, tables, figures, a summary."""
    default_target: True
    input:
        asked_for("updates/{name}.json", "updates"),
        asked_for("overlaps/{name}.json", "overlaps"),
        asked_for("evaluation/{name}/scores.json", "evaluation"),
        artefacts("tables", "csv"),
        artefacts("figures", "png"),
        "<results>/summary.md",
    localrule: True


rule controls:
    """What readers ask next: all that the experiment's `controls:` names, left out of `all`."""
    input:
        asked_for("updates/{name}.json", "updates", controls=True),
        asked_for("overlaps/{name}.json", "overlaps", controls=True),
        asked_for("evaluation/{name}/scores.json", "evaluation", controls=True),
        artefacts("tables", "csv", controls=True),
        artefacts("figures", "png", controls=True),
    localrule: True
