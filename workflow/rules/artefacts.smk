"""Tables and figures, the paper's and those of the controls: each is a target of its name.

They read finished results only. What each shows, reads and says lies in its module in
src/subnetworks/artefacts/; the experiment says of which runs and updates.
"""

CAPTIONS = Path(".snakemake", "captions").resolve()
PUBLISHED = Published(ROOT / "workflow" / "published")


def relative(paths):
    """Files of this checkout as Snakemake compares them: from the folder that it runs in."""
    return [path.relative_to(ROOT) for path in paths]


def shown(wish):
    """An artefact's files; the one that Snakemake's own report shows among them, with its caption."""
    made, files = wish.artefact, within_results(wish.files)
    caption = CAPTIONS / f"{made.name}.rst"
    write_changed(caption, made.captioned(PUBLISHED))
    kind = "control" if made.is_control else made.kind.removesuffix("s")
    suffix = made.reported.removeprefix(".")
    files[suffix] = report(
        files[suffix],
        caption=str(caption),
        category="What readers ask next" if made.is_control else made.kind.capitalize(),
        labels={kind: made.label or made.name.removeprefix("control_").replace("_", " ")},
    )
    return files


def constant(value):
    """A parameter that is `value` as it is: Snakemake takes braces in a string for wildcards."""
    return lambda wildcards: value


def writing(wish):
    """What a job says that it does, as when nothing of the experiment is in what it makes."""
    name = f"Writing {wish.artefact.name}"
    if wish.spec:
        return name
    return f"{name} without results of ours: experiments/{EXPERIMENT.name}.yaml does not ask for it"


for name, wish in ASKED.items():

    rule:
        name:
            name
        input:
            environment("figures"),
            results=[f"<results>/{file}" for file in wish.reads],
            code=relative(code.of_artefact(wish.artefact)),
        output:
            **shown(wish),
        log:
            f"<results>/logs/{'controls' if wish.artefact.is_control else wish.artefact.kind}/{name}.log",
        localrule: True
        conda:
            conda("figures")
        params:
            verb=wish.artefact.kind.removesuffix("s"),
            name=name,
            spec=constant(wish.told),
            seeds=constant(wish.over),
            results=subpath(output.csv, ancestor=2),
            folder=subpath(output.csv, parent=True),
        message:
            writing(wish)
        shell:
            "in_stage figures python -m subnetworks {params.verb} {params.name} --spec {params.spec:q}"
            " --seeds {params.seeds:q}"
            " --results {params.results} --published workflow/published"
            " --output-folder {params.folder} 2> >(tee {log} >&2)"

    workflow.get_rule(name).docstring = wish.artefact.line
