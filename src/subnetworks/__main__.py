"""`python -m subnetworks VERB …`."""

import gc
import sys

from subnetworks.core.environment import require_named
from subnetworks.core.errors import UserError


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
    # What is imported stays: looking for garbage among it takes as long as a tenth of it.
    gc.disable()
    from subnetworks.cli import main as command_line

    gc.freeze()
    gc.set_threshold(100_000)  # new objects between two collections: many verbs import more
    gc.enable()
    command_line()


if __name__ == "__main__":
    main()
