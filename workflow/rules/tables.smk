"""Tables of the paper: ours beside the published values. They read finished results only."""


rule table_1_update_sparsity:
    """Table 1: how sparse each update is, by the paper's rule and bit for bit."""
    input:
        environment("figures"),
        updates=update_files(EXPERIMENT.tables, "table_1_update_sparsity", ".json"),
        code=artefact_code("tables", "table_1_update_sparsity"),
    output:
        csv=report(
            "<results>/tables/table_1_update_sparsity.csv",
            caption="../report/table_1_update_sparsity.rst",
            category="Tables",
            labels={"table": "Table 1"},
        ),
        md="<results>/tables/table_1_update_sparsity.md",
        tex="<results>/tables/table_1_update_sparsity.tex",
    log:
        "<results>/logs/tables/table_1_update_sparsity.log",
    localrule: True
    conda:
        conda("figures")
    params:
        spec=artefact_spec(EXPERIMENT.tables, "table_1_update_sparsity"),
        results=subpath(output.csv, ancestor=2),
        folder=subpath(output.csv, parent=True),
    shell:
        "in_stage figures python -m subnetworks table table_1_update_sparsity --spec {params.spec:q}"
        " --results {params.results} --published workflow/published"
        " --output-folder {params.folder} 2> >(tee {log} >&2)"


rule table_2_update_rank:
    """Table 2: the mean rank of each update's matrices, as a share of full rank."""
    input:
        environment("figures"),
        ranks=update_files(EXPERIMENT.tables, "table_2_update_rank", ".rank.json"),
        code=artefact_code("tables", "table_2_update_rank"),
    output:
        csv=report(
            "<results>/tables/table_2_update_rank.csv",
            caption="../report/table_2_update_rank.rst",
            category="Tables",
            labels={"table": "Table 2"},
        ),
        md="<results>/tables/table_2_update_rank.md",
        tex="<results>/tables/table_2_update_rank.tex",
    log:
        "<results>/logs/tables/table_2_update_rank.log",
    localrule: True
    conda:
        conda("figures")
    params:
        spec=artefact_spec(EXPERIMENT.tables, "table_2_update_rank"),
        results=subpath(output.csv, ancestor=2),
        folder=subpath(output.csv, parent=True),
    shell:
        "in_stage figures python -m subnetworks table table_2_update_rank --spec {params.spec:q}"
        " --results {params.results} --published workflow/published"
        " --output-folder {params.folder} 2> >(tee {log} >&2)"


rule table_3_subnetwork_accuracy:
    """Table 3: accuracy after full training and after training within the subnetwork."""
    input:
        environment("figures"),
        scores=score_files(EXPERIMENT.tables, "table_3_subnetwork_accuracy"),
        code=artefact_code("tables", "table_3_subnetwork_accuracy"),
    output:
        csv=report(
            "<results>/tables/table_3_subnetwork_accuracy.csv",
            caption="../report/table_3_subnetwork_accuracy.rst",
            category="Tables",
            labels={"table": "Table 3"},
        ),
        md="<results>/tables/table_3_subnetwork_accuracy.md",
        tex="<results>/tables/table_3_subnetwork_accuracy.tex",
    log:
        "<results>/logs/tables/table_3_subnetwork_accuracy.log",
    localrule: True
    conda:
        conda("figures")
    params:
        spec=artefact_spec(EXPERIMENT.tables, "table_3_subnetwork_accuracy"),
        results=subpath(output.csv, ancestor=2),
        folder=subpath(output.csv, parent=True),
    shell:
        "in_stage figures python -m subnetworks table table_3_subnetwork_accuracy --spec {params.spec:q}"
        " --results {params.results} --published workflow/published"
        " --output-folder {params.folder} 2> >(tee {log} >&2)"


rule table_4_overlap:
    """Table 4: how far the subnetworks of two runs coincide, against chance."""
    input:
        environment("figures"),
        overlaps=overlap_files(EXPERIMENT.tables, "table_4_overlap"),
        code=artefact_code("tables", "table_4_overlap"),
    output:
        csv=report(
            "<results>/tables/table_4_overlap.csv",
            caption="../report/table_4_overlap.rst",
            category="Tables",
            labels={"table": "Table 4"},
        ),
        md="<results>/tables/table_4_overlap.md",
        tex="<results>/tables/table_4_overlap.tex",
    log:
        "<results>/logs/tables/table_4_overlap.log",
    localrule: True
    conda:
        conda("figures")
    params:
        spec=artefact_spec(EXPERIMENT.tables, "table_4_overlap"),
        results=subpath(output.csv, ancestor=2),
        folder=subpath(output.csv, parent=True),
    shell:
        "in_stage figures python -m subnetworks table table_4_overlap --spec {params.spec:q}"
        " --results {params.results} --published workflow/published"
        " --output-folder {params.folder} 2> >(tee {log} >&2)"


rule table_5_in_distribution:
    """Table 5: sparsity after training on data from the init's own distribution, and from another."""
    input:
        environment("figures"),
        updates=update_files(EXPERIMENT.tables, "table_5_in_distribution", ".json"),
        code=artefact_code("tables", "table_5_in_distribution"),
    output:
        csv=report(
            "<results>/tables/table_5_in_distribution.csv",
            caption="../report/table_5_in_distribution.rst",
            category="Tables",
            labels={"table": "Table 5"},
        ),
        md="<results>/tables/table_5_in_distribution.md",
        tex="<results>/tables/table_5_in_distribution.tex",
    log:
        "<results>/logs/tables/table_5_in_distribution.log",
    localrule: True
    conda:
        conda("figures")
    params:
        spec=artefact_spec(EXPERIMENT.tables, "table_5_in_distribution"),
        results=subpath(output.csv, ancestor=2),
        folder=subpath(output.csv, parent=True),
    shell:
        "in_stage figures python -m subnetworks table table_5_in_distribution --spec {params.spec:q}"
        " --results {params.results} --published workflow/published"
        " --output-folder {params.folder} 2> >(tee {log} >&2)"


rule table_6_tolerance_sweep:
    """Table 6: the sparsity of each update at tolerances from 1e-8 to 1e-4."""
    input:
        environment("figures"),
        updates=update_files(EXPERIMENT.tables, "table_6_tolerance_sweep", ".json"),
        code=artefact_code("tables", "table_6_tolerance_sweep"),
    output:
        csv=report(
            "<results>/tables/table_6_tolerance_sweep.csv",
            caption="../report/table_6_tolerance_sweep.rst",
            category="Tables",
            labels={"table": "Table 6"},
        ),
        md="<results>/tables/table_6_tolerance_sweep.md",
        tex="<results>/tables/table_6_tolerance_sweep.tex",
    log:
        "<results>/logs/tables/table_6_tolerance_sweep.log",
    localrule: True
    conda:
        conda("figures")
    params:
        spec=artefact_spec(EXPERIMENT.tables, "table_6_tolerance_sweep"),
        results=subpath(output.csv, ancestor=2),
        folder=subpath(output.csv, parent=True),
    shell:
        "in_stage figures python -m subnetworks table table_6_tolerance_sweep --spec {params.spec:q}"
        " --results {params.results} --published workflow/published"
        " --output-folder {params.folder} 2> >(tee {log} >&2)"


rule conjecture_1_agreement:
    """Conjecture 1: the share of weights that full and masked training agree on."""
    input:
        environment("figures"),
        updates=update_files(EXPERIMENT.tables, "conjecture_1_agreement", ".json"),
        overlaps=overlap_files(EXPERIMENT.tables, "conjecture_1_agreement"),
        code=artefact_code("tables", "conjecture_1_agreement"),
    output:
        csv=report(
            "<results>/tables/conjecture_1_agreement.csv",
            caption="../report/conjecture_1_agreement.rst",
            category="Tables",
            labels={"table": "Conjecture 1"},
        ),
        md="<results>/tables/conjecture_1_agreement.md",
        tex="<results>/tables/conjecture_1_agreement.tex",
    log:
        "<results>/logs/tables/conjecture_1_agreement.log",
    localrule: True
    conda:
        conda("figures")
    params:
        spec=artefact_spec(EXPERIMENT.tables, "conjecture_1_agreement"),
        results=subpath(output.csv, ancestor=2),
        folder=subpath(output.csv, parent=True),
    shell:
        "in_stage figures python -m subnetworks table conjecture_1_agreement --spec {params.spec:q}"
        " --results {params.results} --published workflow/published"
        " --output-folder {params.folder} 2> >(tee {log} >&2)"


rule section_6_ablations:
    """Section 6: sparsity with and without KL and gradient clipping, by steps and batch."""
    input:
        environment("figures"),
        updates=update_files(EXPERIMENT.tables, "section_6_ablations", ".json"),
        trajectories=trajectory_files(EXPERIMENT.tables, "section_6_ablations"),
        logs=log_files(EXPERIMENT.tables, "section_6_ablations", "update"),
        code=artefact_code("tables", "section_6_ablations"),
    output:
        csv=report(
            "<results>/tables/section_6_ablations.csv",
            caption="../report/section_6_ablations.rst",
            category="Tables",
            labels={"table": "Section 6"},
        ),
        md="<results>/tables/section_6_ablations.md",
        tex="<results>/tables/section_6_ablations.tex",
    log:
        "<results>/logs/tables/section_6_ablations.log",
    localrule: True
    conda:
        conda("figures")
    params:
        spec=artefact_spec(EXPERIMENT.tables, "section_6_ablations"),
        results=subpath(output.csv, ancestor=2),
        folder=subpath(output.csv, parent=True),
    shell:
        "in_stage figures python -m subnetworks table section_6_ablations --spec {params.spec:q}"
        " --results {params.results} --published workflow/published"
        " --output-folder {params.folder} 2> >(tee {log} >&2)"
