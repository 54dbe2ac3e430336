"""Fuzzes one reader: `python -m tools.fuzz TARGET [--seconds 600] [--corpus DIR]`.

Whatever bytes it is given, a reader returns or raises an `UnshardError`; anything else ends
the run, prints the traceback, and leaves the input in the corpus folder as `crash-…`. Needs
atheris, which `make fuzz` installs.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import sys
import traceback
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["unshard"]):
    from tools.fuzz.targets import TARGETS

from tools.fuzz.seeds import write_seeds

MAX_INPUT_BYTES = 1 << 14
MAX_MEGABYTES = 1024
MAX_SECONDS_EACH = 10


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--corpus", type=Path, default=Path(".fuzz"))
    arguments = parser.parse_args()
    corpus = arguments.corpus / arguments.target
    corpus.mkdir(parents=True, exist_ok=True)
    write_seeds(arguments.target, corpus)
    options = [
        f"-max_total_time={arguments.seconds}",
        f"-max_len={MAX_INPUT_BYTES}",
        f"-rss_limit_mb={MAX_MEGABYTES}",
        f"-timeout={MAX_SECONDS_EACH}",
        f"-artifact_prefix={corpus}/",
        "-print_final_stats=1",
        str(corpus),
    ]
    target = TARGETS[arguments.target]

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        """Every other time by the input's form, of which random bytes know nothing."""
        if seed % 2:
            return bytes(atheris.Mutate(data, max_size))
        return target.mutated(data, random.Random(seed))[:max_size]

    def run(data: bytes) -> None:
        """Ends at once when a law is broken: threads of a target would hold the process."""
        try:
            target.run(data)
        except BaseException:  # noqa: BLE001  (whatever it is, it is a find)
            traceback.print_exc()
            (corpus / f"crash-{hashlib.sha256(data).hexdigest()[:16]}").write_bytes(data)
            sys.stderr.flush()
            os._exit(1)

    atheris.Setup([sys.argv[0], *options], run, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
