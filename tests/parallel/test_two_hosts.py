"""`generate` and `serve` under torchrun on two hosts: the same text, and no half of a service."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.parallel.hosts import ADDRESSES, Hosts

import unshard
from unshard.errors import WorkerLostError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DEMO_MODEL = str(Path(unshard.__file__).parent / "demo_model")
GREEDY = ("--temperature", "0", "--max-tokens", "48")
BOUND_SECONDS = 300
"""For what takes a second, or for ever."""
CLIENT = """
import json, sys, urllib.request
url, stream, num_tokens = sys.argv[1], sys.argv[2] == "stream", int(sys.argv[3])
asked = {"model": "demo_model", "prompt": "ROMEO.\\n", "max_tokens": num_tokens, "temperature": 0,
         "stream": stream}
if stream:
    asked["logit_bias"] = {"2": -99}
request = urllib.request.Request(url, json.dumps(asked).encode(),
                                 {"content-type": "application/json"})
with urllib.request.urlopen(request) as answer:
    for line in answer:
        print(line.decode().strip(), flush=True)
"""


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    hosts = Hosts()
    try:
        hosts.lay()
    except OSError as error:
        pytest.skip(f"no network namespaces: {error}")
    except subprocess.CalledProcessError as error:
        hosts.clear()
        pytest.skip(f"no network namespaces: {error.stderr.strip()}")
    yield hosts
    hosts.clear()


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr: it ends by itself."""
    out, err = process.communicate(timeout=BOUND_SECONDS)
    return process.returncode, out, err


def unshard_says(line: str, err: str) -> bool:
    """Among what torchrun writes around it."""
    return any(line in each for each in err.splitlines() if each.startswith("error: "))


class Service:
    """`unshard serve` on two hosts, two ranks on each, ready."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        command = ("serve", DEMO_MODEL, "--host", ADDRESSES[0], "--port", "6010", "--dtype", "fp32")
        self.parts = [hosts.torchrun(host, 2, *command) for host in (0, 1)]
        self.before = ""
        while "serving demo_model" not in self.before:
            line = self.parts[0].stderr.readline()
            assert line, self.before
            self.before += line

    def ask(self, host: int, *, stream: bool, num_tokens: int) -> subprocess.Popen[str]:
        """A client on `host`."""
        url = f"http://{ADDRESSES[0]}:6010/v1/completions"
        how = "stream" if stream else "at once"
        return self.hosts.start(host, "-c", CLIENT, url, how, str(num_tokens))


@pytest.fixture
def service(hosts: Hosts) -> Service:
    return Service(hosts)


def test_two_hosts_continue_as_one_rank_does(hosts: Hosts) -> None:
    arguments = ("generate", DEMO_MODEL, "ROMEO.\n", *GREEDY)
    alone = subprocess.run(
        [sys.executable, "-m", "unshard", *arguments],
        capture_output=True, text=True, check=True, timeout=BOUND_SECONDS,
    ).stdout  # fmt: skip
    assert len(alone) > 50
    parts = [hosts.torchrun(host, 1, *arguments) for host in (0, 1)]
    for part, text in zip(parts, (alone, ""), strict=True):
        exit_code, out, err = ended(part)
        assert (exit_code, out) == (0, text), err


def test_a_killed_host_ends_the_service_and_every_request(service: Service) -> None:
    answered, out, err = ended(service.ask(1, stream=False, num_tokens=16))
    assert answered == 0, err
    assert len(out) > 50

    client = service.ask(0, stream=True, num_tokens=500)
    assert client.stdout.readline().startswith("data: ")
    service.hosts.kill(1)
    _, streamed, _ = ended(client)
    assert '"error"' in streamed
    exit_code, _, err = ended(service.parts[0])
    assert exit_code == 1
    assert unshard_says(" of 4 on ", err), err
    assert unshard_says(" is gone", err), err
    assert service.hosts.pids(0) == []


def test_a_killed_host_ends_an_idle_service(service: Service) -> None:
    service.hosts.kill(1)
    exit_code, _, err = ended(service.parts[0])
    assert exit_code == 1
    assert unshard_says(" is gone", err), err
    assert service.hosts.pids(0) == []


def test_the_host_of_rank_0_is_killed(service: Service) -> None:
    service.hosts.kill(0)
    exit_code, _, err = ended(service.parts[1])
    assert exit_code == 1
    assert unshard_says(f"rank 0 of 4 on {ADDRESSES[0]} is gone", err), err
    assert service.hosts.pids(1) == []


def test_a_host_that_goes_silent_is_missed(service: Service) -> None:
    """No packet says that it is gone, as when a cable or the power is."""
    service.hosts.cut()
    for host, line in ((0, " is gone"), (1, f"rank 0 of 4 on {ADDRESSES[0]} is gone")):
        exit_code, _, err = ended(service.parts[host])
        assert exit_code == 1
        assert unshard_says(line, err), err


def test_ranks_that_never_come_are_named() -> None:
    """As Slurm starts them, without torchrun."""
    place = {
        "RANK": "0",
        "WORLD_SIZE": "4",
        "MASTER_ADDR": "127.0.0.1",
        "UNSHARD_JOIN_SECONDS": "1",
    }
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place["MASTER_PORT"] = str(taken.getsockname()[1])
    done = subprocess.run(
        [sys.executable, "-m", "unshard", "generate", DEMO_MODEL, "x"],
        env=os.environ | place, capture_output=True, text=True, check=False,
        timeout=BOUND_SECONDS,
    )  # fmt: skip
    assert done.returncode == WorkerLostError.exit_code
    assert done.stderr.startswith("error: 1 of 4 ranks came within 1 s; missing: 1, 2, 3\nhint: ")
