"""The command line, called within this process."""

import sys

import pytest
from typer.testing import CliRunner

from subnetworks import cli


def run(*arguments: object) -> str:
    """What a call prints; what it refuses is raised."""
    done = CliRunner().invoke(cli.load(str(arguments[0])), list(map(str, arguments)))
    if done.exception:
        raise done.exception
    return done.stdout


def status(*arguments: object) -> int:
    """The exit status of a call that ends as a process would."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["subnetworks", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    return int(stopped.value.code or 0)
