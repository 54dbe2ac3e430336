"""`unshard` whose engine has the least cache that it can have: one sequence of full length.

Then a handful of short sequences is more than fits, and some are started again.
"""

from __future__ import annotations

import sys

from unshard.cli.main import main
from unshard.engine import load
from unshard.engine.block_table import num_blocks_for


def _least(config: load.OPTConfig, *_: object) -> int:
    return num_blocks_for(config.max_positions)


if __name__ == "__main__":
    load.num_blocks_for_batch = _least
    sys.exit(main())
