"""The command line: one verb a stage, one module a verb, with a function of its name.

Only the verb that is asked for is loaded. Every module here keeps its imports light and loads its
stage inside the function, because each stage runs in an environment that lacks the other stages'
packages.
"""

import importlib
import importlib.util
import pkgutil
import sys
from contextlib import suppress
from importlib import metadata

import typer

from subnetworks.core.errors import UserError
from subnetworks.core.files import disk_full


def _describe() -> None:
    """What does training change?

    Compare two checkpoints, extract the subnetwork, train within it, score it, and compare
    subnetworks.
    """


def load(verb: str | None = None) -> typer.Typer:
    """The application with this verb alone, or with all of them if no module has its name."""
    app = typer.Typer(
        name="subnetworks",
        no_args_is_help=True,
        # Plain help: what draws boxes takes longer to load than most commands to run.
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    app.callback()(_describe)
    modules = [module.name for module in pkgutil.iter_modules(__path__)]
    named = (verb or "").replace("-", "_")
    for module in [named] if named in modules else modules:
        app.command()(getattr(importlib.import_module(f"{__name__}.{module}"), module))
    return app


def main() -> None:
    """Run the command line; what a user can mend is one line on stderr and exit status 2."""
    try:
        load(sys.argv[1] if len(sys.argv) > 1 else None)()
    except UserError as error:
        print(f"subnetworks: error: {error}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if importlib.util.find_spec(package or __name__):  # it is there, a part of it is not
            raise
        print(
            f"subnetworks: error: {sys.argv[1]} needs {package}, which is not installed here; "
            f"{_remedy(package)}",
            file=sys.stderr,
        )
        sys.exit(2)
    except Exception as error:
        if not disk_full(error):
            raise
        where = getattr(error, "filename", None) or "a file"
        print(
            f"subnetworks: error: {where}: not written, the disk is full; make room and run again",
            file=sys.stderr,
        )
        sys.exit(2)


def _remedy(package: str) -> str:
    """How a package that is missing comes here."""
    with suppress(metadata.PackageNotFoundError):
        for line in metadata.requires("subnetworks") or []:
            name, _, extra = line.partition("; extra == ")
            if name.strip() == package:
                return f'install it, or all that belongs to it: pip install ".[{extra[1:-1]}]"'
    return "run this in the environment of its stage, .venvs/NAME (docs/development.md)"
