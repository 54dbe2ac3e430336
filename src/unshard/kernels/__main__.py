"""`python -m unshard.kernels`: compile the native kernels, once for each version of them."""

from __future__ import annotations

import sys

from unshard.errors import UnshardError
from unshard.kernels.build import build


def main() -> int:
    try:
        path = build()
    except UnshardError as error:
        sys.stderr.write(f"error: {error.message}\n")
        if error.hint:
            sys.stderr.write(f"hint: {error.hint}\n")
        return error.exit_code
    sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
