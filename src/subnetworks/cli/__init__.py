"""The command line: one verb a stage, one module a verb.

Every module here keeps its imports light and loads its stage inside the function, because each
stage runs in an environment that lacks the other stages' packages.
"""

import importlib
import pkgutil
import sys

import typer

from subnetworks.errors import UserError
from subnetworks.files import disk_full

app = typer.Typer(
    name="subnetworks",
    help=(
        "What does training change? Compare two checkpoints, extract the subnetwork, train within "
        "it, score it, and compare subnetworks."
    ),
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}").add_to(app)


def main() -> None:
    """Run the command line; what a user can mend is one line on stderr and exit status 2."""
    try:
        app()
    except UserError as error:
        print(f"subnetworks: error: {error}", file=sys.stderr)
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
