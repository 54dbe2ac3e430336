"""Two hosts on one machine: network namespaces with an address each, joined by a cable."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

ADDRESSES = ("10.77.0.1", "10.77.0.2")
PORT = 29400
"""Of the namespaces' own: nothing else can have taken it."""


class Hosts:
    """Two namespaces."""

    def __init__(self) -> None:
        self.names = tuple(f"unshard-{os.getpid()}-{letter}" for letter in "ab")
        self._processes: list[subprocess.Popen[str]] = []

    def lay(self) -> None:
        """The namespaces, their cable and addresses.

        Raises:
            OSError: there is no `ip`.
            subprocess.CalledProcessError: this user may not.
        """
        first, second = self.names
        for name in self.names:
            _ip("netns", "add", name)
        cable = ("link", "add", "cable", "netns", first, "type", "veth")
        _ip(*cable, "peer", "name", "cable", "netns", second)
        for name, address in zip(self.names, ADDRESSES, strict=True):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
            for interface in ("lo", "cable"):
                _ip("-n", name, "link", "set", interface, "up")

    def start(self, host: int, *command: str) -> subprocess.Popen[str]:
        """A process on host 0 or 1."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.names[host], sys.executable, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # What a machine's own set-up would have it do does not count here.
            env={k: v for k, v in os.environ.items() if not k.startswith(("GLOO_", "MASTER_"))},
        )
        self._processes.append(process)
        return process

    def torchrun(self, host: int, ranks: int, *arguments: str) -> subprocess.Popen[str]:
        """This host's part of `torchrun --nnodes 2 … -m unshard ARGUMENTS`."""
        return self.start(
            host,
            *("-m", "torch.distributed.run", "--nnodes", "2", f"--node-rank={host}"),
            *(f"--nproc-per-node={ranks}", "--master-addr", ADDRESSES[0]),
            *("--master-port", str(PORT), "-m", "unshard", *arguments),
        )

    def kill(self, host: int) -> None:
        """All that runs on it, at once and without a word."""
        for pid in self.pids(host):
            os.kill(pid, signal.SIGKILL)

    def pids(self, host: int) -> list[int]:
        return [int(pid) for pid in _ip("netns", "pids", self.names[host]).split()]

    def cut(self) -> None:
        """The cable: packets vanish, nobody is told."""
        for name in self.names:
            _ip("-n", name, "route", "del", "10.77.0.0/24")
            _ip("-n", name, "route", "add", "blackhole", "10.77.0.0/24")

    def clear(self) -> None:
        """Nothing of it is left."""
        there = [line.split()[0] for line in _ip("netns").splitlines()]
        for host, name in enumerate(self.names):
            if name in there:
                self.kill(host)
                _ip("netns", "del", name)
        for process in self._processes:
            process.communicate()


def _ip(*arguments: str) -> str:
    return subprocess.run(
        ["ip", *arguments], capture_output=True, text=True, check=True, timeout=60
    ).stdout
