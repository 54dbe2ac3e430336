"""A command as the child of another one: `python -m unshard.cli.child PARENT COMMAND …`.

It ends with process PARENT, however that ends.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from unshard.cli.main import main
from unshard.parallel.place import end_with_parent


def run(arguments: Sequence[str]) -> int:
    """Runs a command for the process that is its first argument; its exit code."""
    parent, *command = arguments
    end_with_parent(int(parent))
    return main(command)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
