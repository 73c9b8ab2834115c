"""Predictions: how sparse each run's update will be if its gradients are noise.

Nothing of the run is read but its init and its settings, and where it is asked for the gradients
of its first batches there. A prediction is made as soon as the init is there, and before all else
that waits then: so before the run is trained.
"""


rule predict:
    """Predict a run's sparsity at each step it keeps, from its optimiser's settings and its init.

    Needs: the init; the mask that the run trains within, if any; its data only if it counts in
    epochs. Gives: expected counts under every equality rule, in all and by tensor.
    """
    input:
        environment("measure"),
        unpack(reads(inputs.of_prediction, "run")),
    output:
        prediction="<results>/predictions/{run}.json",
    log:
        "<results>/logs/predictions/{run}.log",
    priority: 50
    conda:
        conda("measure")
    resources:
        mem_mb=growing(1500),
        runtime=growing(60 * ACCELERATOR.get("hours", 24)),
    params:
        init=subpath(input.init, parent=True),
        mask=lambda wildcards, input: f"--mask {input.mask}" if input.mask else "",
        data=lambda wildcards, input: f"--data {Path(input.data).parent}" if input.data else "",
        gradients=lambda wildcards, input: (
            f"--gradients {input.gradients}" if "gradients" in input.keys() else ""
        ),
        settings=lambda wildcards: options.of_run(EXPERIMENT, wildcards.run),
    message:
        "Predicting the sparsity of {wildcards.run}"
    shell:
        "in_stage measure python -m subnetworks predict {params.init} {params.mask} {params.data}"
        " {params.gradients}"
        " --settings {params.settings:q} --json {output.prediction} 2> >(tee {log} >&2)"


use rule predict as predict_with_gradients with:
    # The same if gradients have the signal that they have on the run's first batches.
    input:
        environment("measure"),
        unpack(reads(inputs.of_prediction, "run")),
        gradients="<results>/gradients/{run}/{batches}.safetensors",
    output:
        prediction="<results>/predictions/{run}/{batches}.json",
    log:
        "<results>/logs/predictions/{run}/{batches}.log",
    message:
        "Predicting the sparsity of {wildcards.run} with the signal of its first gradients"
