"""The report: one page to send to a colleague, written from all that the experiment made."""


rule report:
    """The report: findings, figures, tables, settings, origins, as one page that opens from disk."""
    input:
        environment("figures"),
        results=wanted(),
        drawn=artefacts("figures", "csv"),
        captions=captions(),
        code=report_code(),
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
        controls=controls_made(),
    shell:
        "in_stage figures python -m subnetworks report --results {params.results}"
        " --captions workflow/report --output {output.page} --output {output.text}"
        " 2> >(tee {log} >&2)"
