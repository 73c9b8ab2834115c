"""Checkpoints: made here, fetched from the Hub, or taken from a folder."""


rule make_base:
    """Make the miniature's base model: tokenizer, architecture, a short pre-training.

    Needs: nothing. Gives: a checkpoint folder in bf16.
    """
    input:
        environment("measure"),
    output:
        manifest="<results>/checkpoints/{made}/manifest.json",
    log:
        "<results>/logs/checkpoints/{made}.log",
    benchmark:
        "<results>/logs/checkpoints/{made}.tsv"
    wildcard_constraints:
        made=names(EXPERIMENT.with_source("checkpoints", "make")),
    conda:
        conda("measure")
    threads: ACCELERATOR["threads"]
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        folder=subpath(output.manifest, parent=True),
        settings=lambda wildcards: options.settings(EXPERIMENT.checkpoints[wildcards.made], "make"),
    message:
        "Making the base model {wildcards.made}"
    shell:
        "in_stage measure python -m subnetworks make base --output {params.folder}"
        " --settings {params.settings:q} 2> >(tee {log} >&2)"


rule lock:
    """Ask the Hub for all that the experiment names and hold on to it in experiments/<name>.lock.

    Needs: the network (HF_TOKEN for gated repositories). Gives: the lock; nothing is downloaded.
    """
    input:
        environment("download"),
    log:
        "<results>/logs/lock.log",
    localrule: True
    conda:
        conda("download")
    params:
        experiment=os.path.relpath(EXPERIMENT.source),
        cache=config["cache"],
    message:
        "Locking {params.experiment}"
    shell:
        "in_stage download python -m subnetworks lock {params.experiment:q}"
        " --cache {params.cache:q} 2> >(tee {log} >&2)"


rule fetch_checkpoint:
    """Download a checkpoint from the Hub: weights, configuration and tokenizer, nothing else.

    Needs: the network (HF_TOKEN for gated repositories), unless it lies in the cache as locked.
    Gives: a checkpoint folder whose weights lie in the shared cache (or, if they are to be loaded
    and no safetensors, or an adapter with its base, are written as such); its entry in the
    experiment's lock, if it has none yet.
    """
    input:
        unpack(reads(inputs.base, "fetched")),
        environment("download"),
        note=lambda wildcards: noted("checkpoints", wildcards.fetched),
    output:
        manifest="<results>/checkpoints/{fetched}/manifest.json",
    log:
        "<results>/logs/checkpoints/{fetched}.log",
    benchmark:
        "<results>/logs/checkpoints/{fetched}.tsv"
    wildcard_constraints:
        fetched=names(EXPERIMENT.with_source("checkpoints", "hub")),
    retries: 2
    localrule: True
    conda:
        conda("download")
    threads: 1
    resources:
        mem_mb=2000,
    params:
        folder=subpath(output.manifest, parent=True),
        source=lambda wildcards: EXPERIMENT.hub_source("checkpoints", wildcards.fetched),
        options=lambda wildcards: options.of_checkpoint(EXPERIMENT, wildcards.fetched, RESULTS),
        lock=os.path.relpath(LOCK),
        cache=config["cache"],
    message:
        "Fetching {params.source} [{threads} cores, {resources.mem_mb} MB]"
    shell:
        "in_stage download python -m subnetworks fetch {params.source:q} --output {params.folder}"
        " --cache {params.cache:q} --lock {params.lock:q} --note {input.note:q}"
        " {params.options} 2> >(tee {log} >&2)"


rule link_checkpoint:
    """Take a checkpoint from a folder of one's own, without copying it.

    Needs: the folder. Gives: a checkpoint folder of links into it (or, if it is to be loaded and is
    no safetensors, or is an adapter with its base, of safetensors written of it).
    """
    input:
        unpack(reads(inputs.base, "linked")),
        environment("measure"),
        files=lambda wildcards: inputs.files_behind(
            EXPERIMENT.checkpoints[wildcards.linked]["path"]
        ),
    output:
        manifest="<results>/checkpoints/{linked}/manifest.json",
    log:
        "<results>/logs/checkpoints/{linked}.log",
    wildcard_constraints:
        linked=names(EXPERIMENT.with_source("checkpoints", "path")),
    localrule: True
    conda:
        conda("measure")
    params:
        folder=subpath(output.manifest, parent=True),
        source=lambda wildcards: EXPERIMENT.checkpoints[wildcards.linked]["path"],
        options=lambda wildcards: options.of_checkpoint(EXPERIMENT, wildcards.linked, RESULTS),
    message:
        "Linking {params.source}"
    shell:
        "in_stage measure python -m subnetworks fetch {params.source:q} --output {params.folder}"
        " {params.options} 2> >(tee {log} >&2)"
