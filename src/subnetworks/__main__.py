"""`python -m subnetworks VERB …`."""

import sys

from subnetworks.core.environment import require_named
from subnetworks.core.errors import UserError
from subnetworks.core.imports import lasting


def main() -> None:
    """Check the interpreter, then run the command line.

    In that order: in the wrong environment, the line on the environment must come before whatever
    import would fail there.
    """
    try:
        require_named()
    except UserError as error:
        print(f"subnetworks: error: {error}", file=sys.stderr)
        sys.exit(2)
    with lasting():
        from subnetworks.cli import main as command_line
    command_line()


if __name__ == "__main__":
    main()
