"""Overlaps: two masks compared, with chance beside them."""


rule overlap:
    """Compare two subnetworks: o1, o2, Jaccard, and what chance gives.

    Needs: two masks and the checkpoint they start from. Gives: the summary and one row a tensor.
    """
    input:
        environment("measure"),
        unpack(both_masks),
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
        "Comparing the masks of {wildcards.overlap}"
    shell:
        "in_stage measure python -m subnetworks overlap {input.first} {input.second}"
        " --magnitude {params.weights} --json {output.summary} --table {output.tensors}"
        " 2> >(tee {log} >&2)"
