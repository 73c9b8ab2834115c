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
include: "workflow/rules/stages.smk"
include: "workflow/rules/environments.smk"
include: "workflow/rules/checkpoints.smk"
include: "workflow/rules/predictions.smk"
include: "workflow/rules/runs.smk"
include: "workflow/rules/updates.smk"
include: "workflow/rules/masks.smk"
include: "workflow/rules/trajectories.smk"
include: "workflow/rules/overlaps.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/artefacts.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/plan.smk"


rule all:
    """All that the experiment asks for: updates, overlaps, scores, tables, figures, the report."""
    default_target: True
    input:
        wanted(),
        "<results>/report.html",
    localrule: True
