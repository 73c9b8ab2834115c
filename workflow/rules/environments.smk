"""Environments: one per stage, built on first use from the locked pins when conda does not."""


rule environment:
    """Build a stage's virtual environment with uv.

    Needs: envs/locks/<name>.txt. Gives: the environment, and a mark of the pins it was built from.
    """
    output:
        marker=touch("<environments>/{name}/.complete-{digest}"),
    log:
        "results/logs/environments/{name}-{digest}.log",
    wildcard_constraints:
        name="[a-z]+(-cpu|-cuda)?",
        digest="[0-9a-f]+",
    localrule: True
    params:
        folder=subpath(output.marker, parent=True),
    message:
        "Building the environment {wildcards.name}"
    run:
        # By Snakemake's own interpreter: this rule makes the environments of all the others.
        shell(
            f"{sys.executable} envs/build.py {{wildcards.name}} --into {{params.folder}} 2> >(tee {{log}} >&2)"
        )
