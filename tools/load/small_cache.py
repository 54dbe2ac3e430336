"""`unshard` whose engine has the least cache that it can have: one sequence of full length.

Then a handful of short sequences is more than fits, and some are started again.
"""

from __future__ import annotations

import sys
from unittest import mock

from unshard.architectures.opt import OPTConfig
from unshard.cli.main import main
from unshard.engine import load
from unshard.engine.block_table import num_blocks_for


def _least(config: OPTConfig, *_: object) -> int:
    return num_blocks_for(config.max_positions)


if __name__ == "__main__":
    with mock.patch.object(load, "num_blocks_for_batch", _least):
        sys.exit(main())
