"""Overlaps: two masks compared, and updates seen through masks, with chance beside them."""


rule overlap:
    """Compare two subnetworks: o1, o2, Jaccard, and what chance gives.

    Needs: two masks and the checkpoint they start from. Gives: the summary and one row per tensor.
    """
    input:
        environment("measure"),
        unpack(reads(inputs.of_overlap, "overlap")),
    output:
        summary="<results>/overlaps/{overlap}.json",
        tensors="<results>/overlaps/{overlap}.parquet",
    log:
        "<results>/logs/overlaps/{overlap}.log",
    conda:
        conda("measure")
    threads: ACCELERATOR["threads"]
    resources:
        mem_mb=growing(1500),
        runtime=growing(60 * ACCELERATOR.get("hours", 24)),
    params:
        weights=subpath(input.weights, parent=True),
    message:
        f"Comparing the masks of {{wildcards.overlap}}{NEEDS}"
    shell:
        "in_stage measure python -m subnetworks overlap {input.first} {input.second}"
        " --magnitude {params.weights} --json {output.summary} --table {output.tensors}"
        " 2> >(tee {log} >&2)"


rule ranking:
    """Judge the scores that an overlap's second mask is made of: do they foresee the first?

    Needs: the first mask, and what the scores are made of. Gives: the area under the
    precision-recall curve, and precision and recall at several densities.
    """
    input:
        environment("measure"),
        unpack(reads(inputs.of_ranking, "overlap")),
    output:
        summary="<results>/rankings/{overlap}.json",
    log:
        "<results>/logs/rankings/{overlap}.log",
    conda:
        conda("measure")
    resources:
        mem_mb=growing(8000),
        runtime=growing(60 * ACCELERATOR.get("hours", 24)),
    params:
        judged=lambda wildcards, input: options.of_ranking(EXPERIMENT, wildcards.overlap, input),
    message:
        f"How well {{wildcards.overlap}} was foreseen{NEEDS}"
    shell:
        "in_stage measure python -m subnetworks ranking {input.mask} {params.judged}"
        " --json {output.summary} 2> >(tee {log} >&2)"


rule transfer:
    """How much of an update lies within the subnetworks of others: changed entries, Σ |Δ|, Σ Δ².

    Needs: both checkpoints and the masks that control_transfer names. Gives: one entry a mask.
    """
    input:
        environment("measure"),
        unpack(reads(inputs.of_update, "change")),
        masks=within_results([inputs.mask(name) for name in ASKED["control_transfer"].named]),
    output:
        summary="<results>/transfers/{change}.json",
    log:
        "<results>/logs/transfers/{change}.log",
    conda:
        conda("measure")
    resources:
        mem_mb=growing(1000),
        runtime=growing(60 * ACCELERATOR.get("hours", 24)),
    params:
        before=subpath(input.before, parent=True),
        after=subpath(input.after, parent=True),
        options=lambda wildcards: options.of_update(EXPERIMENT.updates[wildcards.change]),
    message:
        f"The update {{wildcards.change}} within the masks of others{NEEDS}"
    shell:
        "in_stage measure python -m subnetworks transfer {params.before} {params.after}"
        " {input.masks} --json {output.summary} {params.options} 2> >(tee {log} >&2)"
