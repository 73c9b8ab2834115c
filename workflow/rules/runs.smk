"""Runs: the data they need, then training, full or within a mask."""


rule make_dataset:
    """Make a data set of the miniature: demonstrations, problems or preference pairs.

    Needs: for preferences, the checkpoint that is sampled. Gives: Parquet files in the schemas that
    verl and the preference trainers read.
    """
    input:
        environment("measure"),
        unpack(reads(inputs.of_dataset, "dataset")),
    output:
        manifest="<results>/data/{dataset}/manifest.json",
    log:
        "<results>/logs/data/{dataset}.log",
    wildcard_constraints:
        dataset=names(EXPERIMENT.with_source("datasets", "make")),
    conda:
        conda("measure")
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        folder=subpath(output.manifest, parent=True),
        kind=lambda wildcards: EXPERIMENT.datasets[wildcards.dataset]["make"],
        settings=lambda wildcards: options.settings(
            EXPERIMENT.datasets[wildcards.dataset], "make", "policy"
        ),
        policy=lambda wildcards, input: (
            f"--policy {Path(input.policy).parent}" if input.policy else ""
        ),
    message:
        "Making the data set {wildcards.dataset}"
    shell:
        "in_stage measure python -m subnetworks make {params.kind} --output {params.folder}"
        " --settings {params.settings:q} {params.policy} 2> >(tee {log} >&2)"


rule fetch_dataset:
    """Download a data set from the Hub and rewrite it in the schema that runs read.

    Needs: the network (HF_TOKEN for gated repositories), unless it lies in the cache as locked.
    Gives: a Parquet file; its entry in the experiment's lock, if it has none yet.
    """
    input:
        environment("download"),
        note=lambda wildcards: noted("datasets", wildcards.dataset),
    output:
        manifest="<results>/data/{dataset}/manifest.json",
    log:
        "<results>/logs/data/{dataset}.log",
    wildcard_constraints:
        dataset=names(EXPERIMENT.with_source("datasets", "hub")),
    retries: 2
    localrule: True
    conda:
        conda("download")
    threads: 1
    resources:
        mem_mb=8000,
    params:
        folder=subpath(output.manifest, parent=True),
        source=lambda wildcards: EXPERIMENT.hub_source("datasets", wildcards.dataset),
        settings=lambda wildcards: options.settings(
            EXPERIMENT.datasets[wildcards.dataset], "hub", "revision"
        ),
        lock=os.path.relpath(LOCK),
        cache=config["cache"],
    message:
        "Fetching the data set {params.source}"
    shell:
        "in_stage download python -m subnetworks fetch-data {params.source:q}"
        " --output {params.folder} --settings {params.settings:q} --cache {params.cache:q}"
        " --lock {params.lock:q} --note {input.note:q}"
        " 2> >(tee {log} >&2)"


rule read_dataset:
    """Rewrite files of one's own (JSON lines, JSON, CSV, Parquet) in the schema that runs read.

    Needs: the files. Gives: a Parquet file.
    """
    input:
        environment("measure"),
        source=lambda wildcards: inputs.files_behind(EXPERIMENT.datasets[wildcards.dataset]["path"]),
    output:
        manifest="<results>/data/{dataset}/manifest.json",
    log:
        "<results>/logs/data/{dataset}.log",
    wildcard_constraints:
        dataset=names(EXPERIMENT.with_source("datasets", "path")),
    conda:
        conda("measure")
    threads: 1
    resources:
        mem_mb=growing(8000),
        runtime=growing(60),
    params:
        folder=subpath(output.manifest, parent=True),
        source=lambda wildcards: EXPERIMENT.datasets[wildcards.dataset]["path"],
        settings=lambda wildcards: options.settings(EXPERIMENT.datasets[wildcards.dataset], "path"),
    message:
        "Reading the data set {wildcards.dataset}"
    shell:
        "in_stage measure python -m subnetworks fetch-data {params.source:q}"
        " --output {params.folder} --settings {params.settings:q} 2> >(tee {log} >&2)"


rule sample_dataset:
    """Sample a checkpoint's answers to problems with vLLM and keep the right ones, to imitate.

    Needs: the problems, the checkpoint. Gives: a Parquet file of conversations.
    """
    input:
        environment("train"),
        unpack(reads(inputs.of_dataset, "dataset")),
    output:
        manifest="<results>/data/{dataset}/manifest.json",
    log:
        "<results>/logs/data/{dataset}.log",
    benchmark:
        "<results>/logs/data/{dataset}.tsv"
    wildcard_constraints:
        dataset=names(EXPERIMENT.with_source("datasets", "sample")),
    conda:
        conda("train")
    threads: ACCELERATOR["threads"]
    resources:
        mem_mb=growing(1000 * ACCELERATOR.get("memory_gb", 8)),
        runtime=growing(60 * ACCELERATOR.get("hours", 24)),
        gpu=ACCELERATOR["devices"] if ACCELERATOR["kind"] == "cuda" else 0,
    params:
        folder=subpath(output.manifest, parent=True),
        problems=lambda wildcards, input: Path(input.problems).parent,
        policy=lambda wildcards, input: Path(input.policy).parent,
        settings=lambda wildcards: options.settings(
            EXPERIMENT.datasets[wildcards.dataset], "sample", "policy"
        ),
        accelerator=ACCELERATOR_JSON,
    message:
        f"Sampling the data set {{wildcards.dataset}}{NEEDS_GPUS}"
    shell:
        "in_stage train python -m subnetworks sample --problems {params.problems}"
        " --policy {params.policy} --output {params.folder} --settings {params.settings:q}"
        " --accelerator {params.accelerator:q} 2> >(tee {log} >&2)"


rule mix_dataset:
    """Mix rows of several data sets in the proportions of their weights.

    Needs: the data sets. Gives: a Parquet file.
    """
    input:
        environment("measure"),
        unpack(reads(inputs.of_mixture, "dataset")),
    output:
        manifest="<results>/data/{dataset}/manifest.json",
    log:
        "<results>/logs/data/{dataset}.log",
    wildcard_constraints:
        dataset=names(EXPERIMENT.with_source("datasets", "mix")),
    conda:
        conda("measure")
    threads: 1
    resources:
        mem_mb=growing(8000),
        runtime=growing(60),
    params:
        folder=subpath(output.manifest, parent=True),
        parts=lambda wildcards, input: " ".join(
            f"--part {Path(part).parent.name}={Path(part).parent}" for part in input.parts
        ),
        settings=lambda wildcards: options.of_mixture(EXPERIMENT.datasets[wildcards.dataset]),
    message:
        "Mixing the data set {wildcards.dataset}"
    shell:
        "in_stage measure python -m subnetworks mix {params.parts}"
        " --output {params.folder} --settings {params.settings:q} 2> >(tee {log} >&2)"


rule train:
    """Train one run with verl; if it names a mask, within that subnetwork only.

    Needs: the run's init, its data, its mask. Gives: the checkpoint at its end, its log as a
    table, and its trajectory: the deltas that the manifest lists (none unless the run asks for
    them). A killed run goes on from its last saved step (runs/<run>/state).
    """
    input:
        environment("train"),
        unpack(reads(inputs.of_run, "run")),
    output:
        manifest="<results>/checkpoints/{run}/manifest.json",
        log="<results>/runs/{run}/log.csv",
        trajectory="<results>/runs/{run}/trajectory/manifest.json",
    log:
        "<results>/logs/runs/{run}.log",
    benchmark:
        "<results>/logs/runs/{run}.tsv"
    conda:
        conda("train")
    threads: ACCELERATOR["threads"]
    resources:
        **gpus_and_nodes(),
        mem_mb=growing(1000 * ACCELERATOR.get("memory_gb", 8)),
        runtime=growing(60 * ACCELERATOR.get("hours", 24)),
    params:
        checkpoint=subpath(output.manifest, parent=True),
        run_folder=subpath(output.log, parent=True),
        init=lambda wildcards, input: Path(input.init).parent,
        data=lambda wildcards, input: Path(input.data).parent,
        mask=lambda wildcards, input: f"--mask {input.mask}" if input.mask else "",
        settings=lambda wildcards: options.of_run(EXPERIMENT, wildcards.run),
        accelerator=ACCELERATOR_JSON,
    message:
        f"Training {{wildcards.run}}{NEEDS_GPUS}"
    shell:
        "in_stage train python -m subnetworks train --settings {params.settings:q}"
        " --init {params.init} --data {params.data} {params.mask}"
        " --output {params.checkpoint} --run-folder {params.run_folder}"
        " --accelerator {params.accelerator:q} 2> >(tee {log} >&2)"


rule measure_gradients:
    """Sum up the gradients of a run's own loss at its init over its first batches.

    Needs: the run's init and its data. Gives: sums of gradients and of their squares, of which
    masks are made before training. Takes no step.
    """
    input:
        environment("train"),
        unpack(reads(inputs.of_gradients, "run")),
    output:
        gradients="<results>/gradients/{run}/{batches}.safetensors",
    log:
        "<results>/logs/gradients/{run}/{batches}.log",
    priority: 50
    conda:
        conda("train")
    threads: ACCELERATOR["threads"]
    resources:
        **gpus_and_nodes(),
        mem_mb=growing(1000 * ACCELERATOR.get("memory_gb", 8)),
        runtime=growing(60 * ACCELERATOR.get("hours", 24)),
    params:
        init=lambda wildcards, input: Path(input.init).parent,
        data=lambda wildcards, input: Path(input.data).parent,
        settings=lambda wildcards: options.of_run(EXPERIMENT, wildcards.run),
        accelerator=ACCELERATOR_JSON,
    message:
        f"Gradients of {{wildcards.run}} before its first update{NEEDS_GPUS}"
    shell:
        "in_stage train python -m subnetworks gradients --settings {params.settings:q}"
        " --init {params.init} --data {params.data} --batches {wildcards.batches}"
        " --output {output.gradients} --accelerator {params.accelerator:q} 2> >(tee {log} >&2)"
