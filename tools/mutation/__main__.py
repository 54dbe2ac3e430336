"""How many small faults the tests notice: `python -m tools.mutation [PACKAGE …] [--seed 1]`.

Takes a random sample of each file's mutants, prints the survivors and each package's score: killed
of all. Needs coverage, which `make mutation` installs.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
from pathlib import Path

import pytest
from tools.mutation.mutants import Mutant, faults_of, mutant
from tools.mutation.session import MutationSession

from unshard.testing.scratch import Scratch

SOURCE = Path("src/unshard")
TESTS = {
    "formats": ("tests/formats", "tests/hostile"),
    "index": (
        "tests/index",
        "tests/hostile/test_checkpoints.py",
        "tests/plan/test_trainers_files.py",
        "tests/execute/test_original_commands.py",
    ),
    "plan": ("tests/plan", "tests/execute", "tests/cli/test_plan.py", "tests/cli/test_metaseq.py"),
}
MARKED = "not (slow or ray or clients or release or browser or vllm)"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.mutation", description=__doc__)
    parser.add_argument("packages", nargs="*", default=[*TESTS], choices=TESTS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--each", type=int, default=10, help="mutants of one file")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", help="files whose name has this in it")
    parser.add_argument("--log", type=Path, default=Path(".mutation.tsv"))
    arguments = parser.parse_args()
    [package] = arguments.packages if len(arguments.packages) == 1 else [None]
    if package is None:
        for each in arguments.packages:  # a process each: pytest runs once in one
            if os.fork() == 0:
                measure(each, arguments)
                os._exit(0)
            os.wait()
    else:
        measure(package, arguments)


def measure(package: str, arguments: argparse.Namespace) -> None:
    """Print the survivors of a sample of the package's mutants, and its score."""
    mutants = sample(SOURCE / package, arguments)
    scratch = Scratch("mutation-")
    plugin = MutationSession(SOURCE / package, mutants, arguments.jobs, arguments.log)
    options = [
        "-o",
        "addopts=",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-p",
        "no:unraisableexception",
        "-q",
        "-m",
        MARKED,
    ]
    options += ["--import-mode=importlib", f"--basetemp={scratch.path}/tests", "--timeout=0"]
    pytest.main([*options, *TESTS[package]], plugins=[plugin])
    scratch.close()
    outcomes = [plugin.outcomes.get(index, "not run") for index in range(len(mutants))]
    counted = [each for each in outcomes if each not in {"same code", "not run"}]
    killed = sum(each.startswith("killed") for each in counted)
    for fault, outcome in zip(mutants, outcomes, strict=True):
        if outcome.startswith("survived"):
            print(f"{outcome}  {fault}")
    share = f"{killed / len(counted):.1%}" if counted else "nothing to count"
    print(
        f"{package}: {killed} of {len(counted)} killed, {share} (seed {arguments.seed})", flush=True
    )


def sample(folder: Path, arguments: argparse.Namespace) -> list[Mutant]:
    """The same mutants for the same seed, as many of each file at most."""
    chosen: list[Mutant] = []
    for path in sorted(folder.glob("*.py")):
        if arguments.only in path.name:
            tree = ast.parse(path.read_text())
            every = faults_of(tree)
            source_of_chance = random.Random(f"{arguments.seed} {path.name}")
            picked = source_of_chance.sample(every, min(arguments.each, len(every)))
            chosen += (mutant(path, tree, at, what) for at, what in sorted(picked))
    return chosen


if __name__ == "__main__":
    main()
