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


rule synchronise:
    """Measure what sending only changed weights would take, after each step that a run keeps.

    Needs: the run's trajectory (trajectory_every) and its init; its data only if it counts in epochs.
    Gives: for each step the share of bf16 weights that change and the bytes of patches, and how well
    the null model foresaw them (not of adapters, nor within a mask).
    """
    input:
        environment("measure"),
        unpack(reads(inputs.of_synchronisation, "run")),
    output:
        summary="<results>/synchronisation/{run}.json",
        steps="<results>/synchronisation/{run}.parquet",
    log:
        "<results>/logs/synchronisation/{run}.log",
    conda:
        conda("measure")
    resources:
        mem_mb=growing(2000),
        runtime=growing(60 * ACCELERATOR.get("hours", 24)),
    params:
        folder=subpath(input.trajectory, parent=True),
        settings=lambda wildcards: options.of_synchronisation(EXPERIMENT, wildcards.run),
        data=lambda wildcards, input: f"--data {Path(input.data).parent}" if input.data else "",
    message:
        f"Synchronising {{wildcards.run}} step by step{NEEDS}"
    shell:
        "in_stage measure python -m subnetworks sync {params.folder} {params.settings}"
        " {params.data} --json {output.summary} --table {output.steps} 2> >(tee {log} >&2)"
