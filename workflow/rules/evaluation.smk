"""Evaluation: a checkpoint served by vLLM and scored by lm-eval on its benchmarks."""


rule make_benchmark:
    """Make a benchmark of the miniature, in the schema of the real one.

    Needs: nothing. Gives: JSON lines.
    """
    input:
        environment("measure"),
    output:
        manifest="<results>/benchmarks/{benchmark}/manifest.json",
    log:
        "<results>/logs/benchmarks/{benchmark}.log",
    conda:
        conda("measure")
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        folder=subpath(output.manifest, parent=True),
        kind=lambda wildcards: EXPERIMENT.benchmarks[wildcards.benchmark]["make"],
        settings=lambda wildcards: options.of_made_rows(EXPERIMENT.benchmarks[wildcards.benchmark]),
    message:
        "Making the benchmark {wildcards.benchmark}"
    shell:
        "in_stage measure python -m subnetworks make {params.kind} --output {params.folder}"
        " --settings {params.settings:q} 2> >(tee {log} >&2)"


rule evaluate:
    """Score a checkpoint on all its benchmarks over one server.

    Needs: the checkpoint and the benchmarks' rows. Gives: one JSON a score, with its standard error,
    the answers item by item, and an index that says all of them are there.
    """
    input:
        environment("evaluate"),
        unpack(reads(inputs.of_evaluation, "checkpoint")),
        own=lambda wildcards: inputs.own_rows(EXPERIMENT, wildcards.checkpoint),
    output:
        index="<results>/evaluation/{checkpoint}/scores.json",
    log:
        "<results>/logs/evaluation/{checkpoint}.log",
    benchmark:
        "<results>/logs/evaluation/{checkpoint}.tsv"
    conda:
        conda("evaluate")
    threads: ACCELERATOR["threads"]
    resources:
        mem_mb=growing(1000 * ACCELERATOR.get("memory_gb", 8)),
        runtime=growing(60 * ACCELERATOR.get("hours", 24)),
        gpu=ACCELERATOR["devices"] if ACCELERATOR["kind"] == "cuda" else 0,
    params:
        checkpoint=subpath(input.checkpoint, parent=True),
        folder=subpath(output.index, parent=True),
        benchmarks=lambda wildcards: options.of_evaluation(
            EXPERIMENT, wildcards.checkpoint, RESULTS
        ),
        accelerator=EVALUATION_JSON,
    message:
        f"Evaluating {{wildcards.checkpoint}}{NEEDS_GPUS}"
    shell:
        "in_stage evaluate python -m subnetworks evaluate {params.checkpoint}"
        " --benchmarks {params.benchmarks:q} --output {params.folder}"
        " --accelerator {params.accelerator:q} 2> >(tee {log} >&2)"
