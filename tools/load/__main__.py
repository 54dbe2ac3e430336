"""Mixed load with faults: `python -m tools.load [FAULT ...] [--seconds 600] [--seed 1] [--tp 2]`.

Each round many clients ask a real server on the bundled model, which has little cache and a short
queue: for texts streamed and whole, in OpenAI's words and the original's, for tokens, for what is
refused. A fifth of them leave, some send half of a request or do not read. In the middle something
happens to the server: a signal, a killed or stopped rank, a flood. Whatever it is, each finished
answer is the one that the same request alone has, requests accepted before SIGTERM are answered,
429 says when to come again, and the exit code is right. Nothing is left: no block of the cache, no
descriptor, no process, no memory, no traceback in the log. A failure prints the seed that repeats
its round, as far as a moment can be repeated, and keeps the server's log.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from itertools import count

from tools.load.campaign import Campaign
from tools.load.faults import FAULTS
from tools.load.server import BrokenError

from unshard.testing.scratch import Scratch


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.load", description=__doc__)
    parser.add_argument("faults", nargs="*", choices=[[], *FAULTS], default=[])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--round-seconds", type=float, default=6)
    parser.add_argument("--tp", type=int, action="append", help="1 and 2 unless told")
    told = parser.parse_args()
    scratch = Scratch("load-")
    campaign = Campaign(scratch.path / "server.log", told.clients, told.round_seconds)
    ends = time.monotonic() + told.seconds
    try:
        for number in count():
            seed = told.seed + number
            print(seed, campaign.run(seed, told.faults or list(FAULTS), told.tp or [1, 2]))
            if time.monotonic() > ends:
                break
    except (BrokenError, ExceptionGroup) as error:
        scratch.keep()
        print(f"--seed {seed}, log in {scratch.path}: {error!r}", flush=True)
        raise SystemExit(1) from error
    finally:
        campaign.close()
        print(json.dumps({"seed": told.seed} | campaign.summary()), flush=True)
    scratch.close()


if __name__ == "__main__":
    main()
