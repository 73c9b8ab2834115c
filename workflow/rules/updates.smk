"""Updates: what changed between two checkpoints, in how many directions."""


rule measure:
    """Count what an update changed under every equality rule, and extract its mask, in one pass.

    Needs: both checkpoints. Gives: the summary, one row per tensor, and the subnetwork's bit map.
    """
    input:
        environment("measure"),
        unpack(reads(inputs.of_update, "change")),
    output:
        summary="<results>/updates/{change}.json",
        tensors="<results>/updates/{change}.parquet",
        mask="<results>/masks/{change}.safetensors",
    log:
        "<results>/logs/updates/{change}.log",
    benchmark:
        "<results>/logs/updates/{change}.tsv"
    conda:
        conda("measure")
    threads: ACCELERATOR["threads"]
    resources:
        mem_mb=growing(1500),
        runtime=growing(60 * ACCELERATOR.get("hours", 24)),
    params:
        before=subpath(input.before, parent=True),
        after=subpath(input.after, parent=True),
        rules=lambda wildcards: options.of_update(
            EXPERIMENT.updates[wildcards.change], "cast", "absolute", "relative"
        ),
    message:
        f"Measuring the update {{wildcards.change}}{NEEDS}"
    shell:
        "in_stage measure python -m subnetworks measure {params.before} {params.after}"
        " --json {output.summary} --table {output.tensors} --mask {output.mask}"
        " --threads {threads} {params.rules} 2> >(tee {log} >&2)"


rule rotate:
    """How far an update turned each matrix: principal angles of 16 directions, spectral drift.

    Needs: both checkpoints. Gives: one row per matrix.
    """
    input:
        environment("measure"),
        unpack(reads(inputs.of_update, "change")),
    output:
        matrices="<results>/updates/{change}.rotation.parquet",
    log:
        "<results>/logs/updates/{change}.rotation.log",
    benchmark:
        "<results>/logs/updates/{change}.rotation.tsv"
    conda:
        conda("measure")
    threads: ACCELERATOR["threads"]
    resources:
        mem_mb=growing(8000),
        runtime=growing(60 * ACCELERATOR.get("hours", 24)),
    params:
        before=subpath(input.before, parent=True),
        after=subpath(input.after, parent=True),
        rules=lambda wildcards: options.of_update(EXPERIMENT.updates[wildcards.change]),
    message:
        f"Angles of the update {{wildcards.change}}{NEEDS}"
    shell:
        "in_stage measure python -m subnetworks rank {params.before} {params.after}"
        " --angles 16 --spectrum none --table {output.matrices} --threads {threads} {params.rules}"
        " 2> >(tee {log} >&2)"


rule rank:
    """The rank of an update, matrix by matrix (exact under torch's rule, without an SVD).

    Needs: both checkpoints. Gives: the summary and one row per matrix.
    """
    input:
        environment("measure"),
        unpack(reads(inputs.of_update, "change")),
    output:
        summary="<results>/updates/{change}.rank.json",
        matrices="<results>/updates/{change}.rank.parquet",
    log:
        "<results>/logs/updates/{change}.rank.log",
    benchmark:
        "<results>/logs/updates/{change}.rank.tsv"
    conda:
        conda("measure")
    threads: ACCELERATOR["threads"]
    resources:
        mem_mb=growing(4000),
        runtime=growing(60 * ACCELERATOR.get("hours", 24)),
    params:
        before=subpath(input.before, parent=True),
        after=subpath(input.after, parent=True),
        rules=lambda wildcards: options.of_update(EXPERIMENT.updates[wildcards.change], "cast"),
    message:
        f"Ranks of the update {{wildcards.change}}{NEEDS}"
    shell:
        "in_stage measure python -m subnetworks rank {params.before} {params.after}"
        " --json {output.summary} --table {output.matrices} --threads {threads} {params.rules}"
        " 2> >(tee {log} >&2)"
