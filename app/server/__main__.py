"""``python -m app.server [PUBLIC MANAGEMENT]``: the server's master process; ``python -m app serve`` becomes it.

``PUBLIC`` and ``MANAGEMENT`` name other applications than the product's, each as ``module:function`` of a function
that is given the settings. What the settings say is judged first: a mistake ends it with 78 before anything listens.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from app.errors import ConfigurationError
from app.server.application import Factories, PhotoServer
from app.server.arbiter import PhotoArbiter
from app.server.forking import ended_by_exit

_EXIT_CONFIGURATION: Final = 78  # EX_CONFIG, as every command has it


def main(arguments: Sequence[str]) -> None:
    """Serve until stopped; ends the process.

    Args:
        arguments: Nothing, or the two names.

    Raises:
        SystemExit: They are neither.
    """
    if len(arguments) not in {0, 2}:
        sys.exit("usage: python -m app.server [PUBLIC MANAGEMENT], each module:function; see python -m app serve")
    with ended_by_exit():
        try:
            PhotoArbiter(PhotoServer(Factories(*arguments))).run()
        except ConfigurationError as error:
            sys.stderr.write("\n  ".join(("The configuration is wrong:", *error.mistakes)) + "\n")
            sys.exit(_EXIT_CONFIGURATION)


if __name__ == "__main__":
    main(sys.argv[1:])
