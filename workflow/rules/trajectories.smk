"""Trajectories: what became of every weight along a run that keeps its steps."""


rule follow_trajectory:
    """Follow a run's saved steps: weights never updated, updated then cancelled, changed at the end.

    Needs: the run's trajectory (trajectory_every) and its init. Gives: the summary and one row per step.
    """
    input:
        environment("measure"),
        unpack(reads(inputs.of_trajectory, "run")),
    output:
        summary="<results>/trajectories/{run}.json",
        steps="<results>/trajectories/{run}.parquet",
    log:
        "<results>/logs/trajectories/{run}.log",
    benchmark:
        "<results>/logs/trajectories/{run}.tsv"
    conda:
        conda("measure")
    resources:
        mem_mb=growing(1500),
        runtime=growing(60 * ACCELERATOR.get("hours", 24)),
    params:
        folder=subpath(input.trajectory, parent=True),
    message:
        f"Following {{wildcards.run}}{NEEDS}"
    shell:
        "in_stage measure python -m subnetworks trajectory {params.folder}"
        " --json {output.summary} --table {output.steps} 2> >(tee {log} >&2)"
