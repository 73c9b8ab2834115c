"""What the paper's readers ask next: tables and figures off the main path, each a target of its own.

A control is a line in READS, a module of its name in src/subnetworks/tables/ or figures/ (whose
docstring's first line says what the target shows), a caption in workflow/report/, and what it is to
show, under the experiment's `controls:`.
"""

# By control: where the results lie of the things that it names, by the key that it names them under.
READS = {
    "control_chance": {"overlap": ["overlaps/{}.json"]},
    "control_equal_learning_rate": {"update": ["updates/{}.json"]},
    "control_learning_rate": {
        "update": ["updates/{}.json"],
        "full": ["evaluation/{}/scores.json"],
    },
    "control_masks": {
        "update": ["updates/{}.json"],
        "overlap": ["overlaps/{}.json"],
        "full": ["evaluation/{}/scores.json"],
    },
    "control_early": {"run": ["trajectories/{}.json"], "overlap": ["overlaps/{}.json"]},
    "control_path": {
        "update": ["updates/{}.json", "updates/{}.rotation.parquet"],
        "principal": ["overlaps/{}.json"],
        "smallest": ["overlaps/{}.json"],
    },
    "control_precision": {"update": ["updates/{}.json"]},
    "control_ranks": {
        "update": ["updates/{}.json", "updates/{}.rank.json", "updates/{}.rank.parquet"]
    },
    "control_steps": {"update": ["updates/{}.json"]},
    "control_tolerance": {"update": ["updates/{}.json"]},
    "control_transfer": {"update": ["transfers/{}.json"]},
}


for control, reads in READS.items():

    rule:
        name:
            control
        input:
            environment("figures"),
            results=control_files(control, reads),
            code=artefact_code(control_kind(control), control),
        output:
            **control_outputs(control),
        log:
            f"<results>/logs/controls/{control}.log",
        localrule: True
        conda:
            conda("figures")
        params:
            verb=control_kind(control).removesuffix("s"),
            name=control,
            spec=canonical_json(expanded(control_entry(control))),
            results=subpath(output.csv, ancestor=2),
            folder=subpath(output.csv, parent=True),
        shell:
            "in_stage figures python -m subnetworks {params.verb} {params.name} --spec {params.spec:q}"
            " --results {params.results} --published workflow/published"
            " --output-folder {params.folder} 2> >(tee {log} >&2)"

    workflow.get_rule(control).docstring = first_line(
        artefact_module(control_kind(control), control)
    )
