"""Figures of the paper, each beside the numbers it was drawn from. They read finished results only."""


rule figure_1_sft_vs_rl:
    """Figure 1: supervised finetuning changes nearly every weight, RL few."""
    input:
        environment("figures"),
        updates=update_files(EXPERIMENT.figures, "figure_1_sft_vs_rl", ".json"),
        code=artefact_code("figures", "figure_1_sft_vs_rl"),
    output:
        png=report(
            "<results>/figures/figure_1_sft_vs_rl.png",
            caption="../report/figure_1_sft_vs_rl.rst",
            category="Figures",
            labels={"figure": "Figure 1"},
        ),
        pdf="<results>/figures/figure_1_sft_vs_rl.pdf",
        svg="<results>/figures/figure_1_sft_vs_rl.svg",
        csv="<results>/figures/figure_1_sft_vs_rl.csv",
    log:
        "<results>/logs/figures/figure_1_sft_vs_rl.log",
    localrule: True
    conda:
        conda("figures")
    params:
        spec=artefact_spec(EXPERIMENT.figures, "figure_1_sft_vs_rl"),
        results=subpath(output.csv, ancestor=2),
        folder=subpath(output.csv, parent=True),
    shell:
        "in_stage figures python -m subnetworks figure figure_1_sft_vs_rl --spec {params.spec:q}"
        " --results {params.results} --published workflow/published"
        " --output-folder {params.folder} 2> >(tee {log} >&2)"


rule figure_2_gradient_shares:
    """Figure 2: weights never updated, updated and cancelled out, in the final subnetwork."""
    input:
        environment("figures"),
        trajectories=trajectory_files(EXPERIMENT.figures, "figure_2_gradient_shares"),
        code=artefact_code("figures", "figure_2_gradient_shares"),
    output:
        png=report(
            "<results>/figures/figure_2_gradient_shares.png",
            caption="../report/figure_2_gradient_shares.rst",
            category="Figures",
            labels={"figure": "Figure 2"},
        ),
        pdf="<results>/figures/figure_2_gradient_shares.pdf",
        svg="<results>/figures/figure_2_gradient_shares.svg",
        csv="<results>/figures/figure_2_gradient_shares.csv",
    log:
        "<results>/logs/figures/figure_2_gradient_shares.log",
    localrule: True
    conda:
        conda("figures")
    params:
        spec=artefact_spec(EXPERIMENT.figures, "figure_2_gradient_shares"),
        results=subpath(output.csv, ancestor=2),
        folder=subpath(output.csv, parent=True),
    shell:
        "in_stage figures python -m subnetworks figure figure_2_gradient_shares --spec {params.spec:q}"
        " --results {params.results} --published workflow/published"
        " --output-folder {params.folder} 2> >(tee {log} >&2)"


rule figure_3_layerwise_sparsity:
    """Figure 3: sparsity by layer and by matrix."""
    input:
        environment("figures"),
        updates=update_files(EXPERIMENT.figures, "figure_3_layerwise_sparsity", ".parquet"),
        summaries=update_files(EXPERIMENT.figures, "figure_3_layerwise_sparsity", ".json"),
        code=artefact_code("figures", "figure_3_layerwise_sparsity"),
    output:
        png=report(
            "<results>/figures/figure_3_layerwise_sparsity.png",
            caption="../report/figure_3_layerwise_sparsity.rst",
            category="Figures",
            labels={"figure": "Figure 3"},
        ),
        pdf="<results>/figures/figure_3_layerwise_sparsity.pdf",
        svg="<results>/figures/figure_3_layerwise_sparsity.svg",
        csv="<results>/figures/figure_3_layerwise_sparsity.csv",
    log:
        "<results>/logs/figures/figure_3_layerwise_sparsity.log",
    localrule: True
    conda:
        conda("figures")
    params:
        spec=artefact_spec(EXPERIMENT.figures, "figure_3_layerwise_sparsity"),
        results=subpath(output.csv, ancestor=2),
        folder=subpath(output.csv, parent=True),
    shell:
        "in_stage figures python -m subnetworks figure figure_3_layerwise_sparsity --spec {params.spec:q}"
        " --results {params.results} --published workflow/published"
        " --output-folder {params.folder} 2> >(tee {log} >&2)"


rule figure_4_training_loss:
    """Figure 4: the loss of full training and of training within the subnetwork."""
    input:
        environment("figures"),
        logs=log_files(EXPERIMENT.figures, "figure_4_training_loss"),
        code=artefact_code("figures", "figure_4_training_loss"),
    output:
        png=report(
            "<results>/figures/figure_4_training_loss.png",
            caption="../report/figure_4_training_loss.rst",
            category="Figures",
            labels={"figure": "Figure 4"},
        ),
        pdf="<results>/figures/figure_4_training_loss.pdf",
        svg="<results>/figures/figure_4_training_loss.svg",
        csv="<results>/figures/figure_4_training_loss.csv",
    log:
        "<results>/logs/figures/figure_4_training_loss.log",
    localrule: True
    conda:
        conda("figures")
    params:
        spec=artefact_spec(EXPERIMENT.figures, "figure_4_training_loss"),
        results=subpath(output.csv, ancestor=2),
        folder=subpath(output.csv, parent=True),
    shell:
        "in_stage figures python -m subnetworks figure figure_4_training_loss --spec {params.spec:q}"
        " --results {params.results} --published workflow/published"
        " --output-folder {params.folder} 2> >(tee {log} >&2)"


rule figure_5_sparsity_over_training:
    """Figure 5: how sparsity falls over training."""
    input:
        environment("figures"),
        trajectories=trajectory_files(EXPERIMENT.figures, "figure_5_sparsity_over_training"),
        code=artefact_code("figures", "figure_5_sparsity_over_training"),
    output:
        png=report(
            "<results>/figures/figure_5_sparsity_over_training.png",
            caption="../report/figure_5_sparsity_over_training.rst",
            category="Figures",
            labels={"figure": "Figure 5"},
        ),
        pdf="<results>/figures/figure_5_sparsity_over_training.pdf",
        svg="<results>/figures/figure_5_sparsity_over_training.svg",
        csv="<results>/figures/figure_5_sparsity_over_training.csv",
    log:
        "<results>/logs/figures/figure_5_sparsity_over_training.log",
    localrule: True
    conda:
        conda("figures")
    params:
        spec=artefact_spec(EXPERIMENT.figures, "figure_5_sparsity_over_training"),
        results=subpath(output.csv, ancestor=2),
        folder=subpath(output.csv, parent=True),
    shell:
        "in_stage figures python -m subnetworks figure figure_5_sparsity_over_training --spec {params.spec:q}"
        " --results {params.results} --published workflow/published"
        " --output-folder {params.folder} 2> >(tee {log} >&2)"


rule figure_6_outside_final_mask:
    """Figure 6: what is changed on the way but not in the end."""
    input:
        environment("figures"),
        trajectories=trajectory_files(EXPERIMENT.figures, "figure_6_outside_final_mask"),
        code=artefact_code("figures", "figure_6_outside_final_mask"),
    output:
        png=report(
            "<results>/figures/figure_6_outside_final_mask.png",
            caption="../report/figure_6_outside_final_mask.rst",
            category="Figures",
            labels={"figure": "Figure 6"},
        ),
        pdf="<results>/figures/figure_6_outside_final_mask.pdf",
        svg="<results>/figures/figure_6_outside_final_mask.svg",
        csv="<results>/figures/figure_6_outside_final_mask.csv",
    log:
        "<results>/logs/figures/figure_6_outside_final_mask.log",
    localrule: True
    conda:
        conda("figures")
    params:
        spec=artefact_spec(EXPERIMENT.figures, "figure_6_outside_final_mask"),
        results=subpath(output.csv, ancestor=2),
        folder=subpath(output.csv, parent=True),
    shell:
        "in_stage figures python -m subnetworks figure figure_6_outside_final_mask --spec {params.spec:q}"
        " --results {params.results} --published workflow/published"
        " --output-folder {params.folder} 2> >(tee {log} >&2)"


rule figure_7_accuracy_and_intervals:
    """Figure 7: accuracy over training beside sparsity, from the init and from save to save."""
    input:
        environment("figures"),
        trajectories=trajectory_files(EXPERIMENT.figures, "figure_7_accuracy_and_intervals"),
        logs=log_files(EXPERIMENT.figures, "figure_7_accuracy_and_intervals"),
        code=artefact_code("figures", "figure_7_accuracy_and_intervals"),
    output:
        png=report(
            "<results>/figures/figure_7_accuracy_and_intervals.png",
            caption="../report/figure_7_accuracy_and_intervals.rst",
            category="Figures",
            labels={"figure": "Figure 7"},
        ),
        pdf="<results>/figures/figure_7_accuracy_and_intervals.pdf",
        svg="<results>/figures/figure_7_accuracy_and_intervals.svg",
        csv="<results>/figures/figure_7_accuracy_and_intervals.csv",
    log:
        "<results>/logs/figures/figure_7_accuracy_and_intervals.log",
    localrule: True
    conda:
        conda("figures")
    params:
        spec=artefact_spec(EXPERIMENT.figures, "figure_7_accuracy_and_intervals"),
        results=subpath(output.csv, ancestor=2),
        folder=subpath(output.csv, parent=True),
    shell:
        "in_stage figures python -m subnetworks figure figure_7_accuracy_and_intervals --spec {params.spec:q}"
        " --results {params.results} --published workflow/published"
        " --output-folder {params.folder} 2> >(tee {log} >&2)"
