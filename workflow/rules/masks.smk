"""Masks made of other masks (complements, random controls, unions, intersections, differences), of
a checkpoint's weights (lowest magnitude, principal), of a trajectory (early).

The mask of an update itself is extracted while it is measured (updates.smk).
"""


rule derive_mask:
    """Derive a mask.

    Needs: the masks it is made of, the checkpoint whose weights choose, or the run's trajectory.
    Gives: a bit map in the same format.
    """
    input:
        environment("measure"),
        unpack(reads(inputs.of_mask, "mask")),
    output:
        mask="<results>/masks/{mask}.safetensors",
    log:
        "<results>/logs/masks/{mask}.log",
    conda:
        conda("measure")
    resources:
        mem_mb=growing(
            lambda wildcards: mask_sources.parse(EXPERIMENT.masks[wildcards.mask]).memory
        ),
        runtime=growing(60 * ACCELERATOR.get("hours", 24)),
    params:
        made_of=lambda wildcards, input: options.of_mask(EXPERIMENT, wildcards.mask, input),
        seed=lambda wildcards: EXPERIMENT.masks[wildcards.mask].get("seed", 0),
    message:
        f"Deriving the mask {{wildcards.mask}}{NEEDS}"
    shell:
        "in_stage measure python -m subnetworks mask {params.made_of}"
        " --output {output.mask} --seed {params.seed} 2> >(tee {log} >&2)"
