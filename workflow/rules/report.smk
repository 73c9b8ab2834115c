"""The report: one page to send to a colleague, written from all that the experiment made."""

# It shows the controls that there are, so that `controls` writes it again when it has made them.
REPORT = (
    "in_stage figures python -m subnetworks report --results {params.results}"
    " --published workflow/published --output {params.results}/report.html --output {params.results}/report.md"
)


rule report:
    """The report: findings, figures, tables, settings, origins, as one page that opens from disk."""
    input:
        environment("figures"),
        results=wanted(),
        code=relative(code.of_report()),
    output:
        page=report(
            "<results>/report.html",
            caption="../report/report.rst",
            category="Report",
        ),
        text="<results>/report.md",
    log:
        "<results>/logs/report.log",
    localrule: True
    conda:
        conda("figures")
    params:
        results=subpath(output.page, parent=True),
    shell:
        f"{REPORT} 2> >(tee {{log}} >&2)"


rule controls:
    """What readers ask next: all that the experiment's `controls:` names, and then the report."""
    input:
        environment("figures"),
        wanted(controls=True),
        page="<results>/report.html",
    log:
        "<results>/logs/controls.log",
    localrule: True
    conda:
        conda("figures")
    params:
        results=subpath(input.page, parent=True),
    shell:
        f"{REPORT} 2> >(tee {{log}} >&2)"
