"""Kills commands at random moments: `python -m tools.kills [CASE ...] [--seconds 600] [--seed 1]`.

A case runs one command again and again, and each time ends it by SIGKILL, SIGTERM or SIGINT, or
stops it for a while, or kills it at one of its calls that change the disk, until a run is let
through. Then its folder must be what the same command leaves that nobody disturbed: the same
files and no others, byte for byte. So it must stay when the command is run once more, which
finds that all is done. No run may print a traceback or the link's secret, hang, or fetch much of
what it has. A failure prints the seed that repeats it, as far as a moment can be repeated, and
leaves its folder.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import time
from itertools import count

from tools.kills.campaign import Campaign, WrongError
from tools.kills.commands import CASES, new_world

from unshard.testing.scratch import Scratch

PRELOADED = ("torch", "llvmlite.binding", "unshard.cli.main", "tools.kills.campaign")
"""Imported once, so that the moments fall into the work."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.kills", description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], default=[])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    arguments = parser.parse_args()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    scratch = Scratch.in_memory("kills-")
    campaign = Campaign(new_world(scratch.path), context)
    names = arguments.cases or list(CASES)
    ends = time.monotonic() + arguments.seconds
    for number in count():
        name, seed = names[number % len(names)], arguments.seed + number
        try:
            campaign.run(name, seed)
        except WrongError as error:
            scratch.keep()
            print(f"{name} --seed {seed} in {scratch.path}: {error}", flush=True)
            raise SystemExit(1) from error
        if time.monotonic() > ends:
            break
    campaign.world.store.close()
    scratch.close()
    print(f"{number + 1} cases, {campaign.num_kills} kills, --seed {arguments.seed}")


if __name__ == "__main__":
    main()
