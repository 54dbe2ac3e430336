"""A connection to an existing Ray cluster, and whether its nodes can do the work."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.exceptions import GetTimeoutError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from unshard.errors import UsageError
from unshard.execute.node_check import Expected, problem_here

CONNECT_TIMEOUT_S = 15
"""Ray itself tries for two minutes, and then ends the process."""
CHECK_TIMEOUT_S = 60
"""For every node to start a worker and look at the files."""


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Within it, Ray's functions mean the cluster at `address` (HOST:PORT), or with "auto" the one
    that this machine is a node of. A connection that the process has already is used and kept.

    Raises:
        UsageError: no cluster answers.
    """
    if ray.is_initialized():
        yield
        return
    _refuse_unreachable(address)
    ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


ATTEMPT = """
import ray, sys
try:
    ray.init(address=sys.argv[1], log_to_driver=False)
except Exception as error:
    sys.exit(" ".join(str(error).split()))
"""


def _refuse_unreachable(address: str) -> None:
    """Connects in a process that can be ended, because Ray's own attempt cannot."""
    try:
        done = subprocess.run(  # noqa: S603  (this Python, this code)
            [sys.executable, "-c", ATTEMPT, address],
            timeout=CONNECT_TIMEOUT_S,
            capture_output=True,
            text=True,
            check=False,
        )
        reason = "" if done.returncode == 0 else (done.stderr.splitlines() or ["?"])[-1]
    except subprocess.TimeoutExpired:
        reason = f"no answer in {CONNECT_TIMEOUT_S} s"
    if reason:
        raise UsageError(
            f"cannot reach a Ray cluster ({address}): {reason}",
            hint="`ray start` makes this machine a node of one: see docs/scale-out.md",
        )


def check_nodes(expected: Expected) -> None:
    """
    Raises:
        UsageError: a node that tasks may run on cannot run them.
    """
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if not nodes:
        raise UsageError("no node of the Ray cluster has a CPU for tasks")
    check = ray.remote(num_cpus=0, max_retries=0)(problem_here)
    found = [
        check.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(expected)
        for node in nodes
    ]
    for node, ref in zip(nodes, found, strict=True):
        try:
            problem = ray.get(ref, timeout=CHECK_TIMEOUT_S)
        except GetTimeoutError:
            problem = f"did not answer in {CHECK_TIMEOUT_S} s"
        except RayTaskError as error:
            problem = f"cannot run unshard {expected.version}: {str(error).splitlines()[-1]}"
        if problem:
            raise UsageError(
                f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}) {problem}",
                hint="every node needs this unshard, and the folders of the sources and the output",
            )
