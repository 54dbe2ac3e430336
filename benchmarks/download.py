"""`unshard download` against the usual pipelines, md5 included for each: one private nginx on the
loopback, interleaved runs, medians.

    python benchmarks/download.py [--runs 3] [--scenarios http https latency limited] [--quick]
        [--against "wget loop" rclone …]

http      64 files of 32 MiB
https     the same over TLS 1.3, certificate checked
latency   200 files of 1 MiB, 50 ms each way by benchmarks/delaying_relay.py, a process of its own
limited   4 files of 128 MiB, 8 MiB/s per connection (nginx `limit_rate`)

Each contestant is a cold process (or pipeline of them) that fetches into an empty folder of --dir
and checks the md5s; then its files are compared with the originals. Only unshard syncs its files
to the disk. CPU seconds are those of the contestant alone, without nginx's. Peers that are not
installed are left out, and named. Memory is touched and freed before each run, because a virtual
machine hands it out slowly. Prints a table in markdown for each scenario; the last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import hashlib
import importlib.util
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from nginx import Nginx  # siblings, whose folder is on the path of a script
from reshard import WAKE
from unshard.testing.scratch import Scratch

MIB = 2**20
QUERY = "?&Expires=4102444800&Signature=none&Key-Pair-Id=none"
MD5 = "md5sum --quiet -c ../md5s"
MD5_X2 = "cut -c35- ../md5s | xargs -P2 -n1 md5sum | sort -k2 | cmp - ../md5s"


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    num_files: int
    file_bytes: int
    streams: int
    """How many connections each parallel contestant may use."""
    tls: bool = False
    location: str = ""
    """Configuration of nginx."""
    delay_s: float = 0
    """One way."""
    splits: int = 1
    """Connections per file, for those that can."""


SCENARIOS = (
    Scenario("http", 64, 32 * MIB, 4),
    Scenario("https", 64, 32 * MIB, 4, tls=True),
    Scenario("latency", 200, MIB, 16, delay_s=0.05),
    Scenario("limited", 4, 128 * MIB, 4, location="limit_rate 8m;", splits=8),
)


@dataclass(frozen=True, slots=True)
class Run:
    seconds: float
    cpu_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--scenarios", nargs="+", default=[s.name for s in SCENARIOS])
    parser.add_argument("--dir", type=Path, help="where to write; default: the temporary folder")
    parser.add_argument("--against", nargs="+", default=[""], help="peers, by words of their names")
    parser.add_argument(
        "--quick", action="store_true", help="4 files of 1 MiB, to see that it runs"
    )
    arguments = parser.parse_args()
    found = {}
    for scenario in SCENARIOS:
        if scenario.name not in arguments.scenarios:
            continue
        if arguments.quick:
            scenario = replace(scenario, num_files=4, file_bytes=MIB)
        found[scenario.name] = measure(scenario, arguments.runs, arguments.dir, arguments.against)
    print(json.dumps(found))


def measure(
    scenario: Scenario, runs: int, directory: Path | None, against: list[str]
) -> dict[str, dict[str, float]]:
    """Runs all contestants `runs` times each, prints a table, returns its figures."""
    with Scratch("unshard-bench-", directory) as work:
        work.chmod(0o755)
        make_files(work / "objects", scenario)
        workers = os.cpu_count() or 1
        nginx = Nginx(
            work / "objects", location=scenario.location, tls=scenario.tls, workers=workers
        )
        with nginx, reached(nginx, scenario.delay_s) as origin:
            write_lists(work, origin)
            contestants = {
                name: command
                for name, command in present(scenario, origin, nginx.certificate)
                if any(word in name for word in [*against, "unshard"])
            }
            found: dict[str, list[Run]] = {name: [] for name in contestants}
            for number in range(runs):
                turn = number % len(contestants)  # nobody is always the first
                order = [*contestants.items()][turn:] + [*contestants.items()][:turn]
                for name, command in order:
                    found[name].append(timed(work, command, nginx))
        return report(scenario, found, work)


@contextlib.contextmanager
def reached(nginx: Nginx, delay_s: float) -> Iterator[str]:
    """The origin by which contestants reach nginx."""
    if not delay_s:
        yield nginx.origin
        return
    relay = [sys.executable, str(Path(__file__).with_name("delaying_relay.py"))]
    port = nginx.origin.rpartition(":")[2]
    with subprocess.Popen(
        [*relay, port, str(delay_s)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


def make_files(folder: Path, scenario: Scenario) -> None:
    """Files that begin like a zip and are noise, and `md5s` beside their folder."""
    folder.mkdir()
    lines = []
    for number in range(scenario.num_files):
        content = b"PK\x03\x04" + os.urandom(scenario.file_bytes - 4)
        (folder / f"part-{number:03}.pt").write_bytes(content)
        lines.append(f"{hashlib.md5(content).hexdigest()}  part-{number:03}.pt\n")
    (folder.parent / "md5s").write_text("".join(lines))


def write_lists(work: Path, origin: str) -> None:
    """The URLs as wget, curl and aria2 read them."""
    lines = [line.split() for line in (work / "md5s").read_text().splitlines()]
    urls = [f"{origin}/{name}" for _, name in lines]
    (work / "urls").write_text("".join(f"{url}\n" for url in urls))
    (work / "curl").write_text("".join(f'url = "{url}"\nremote-name\n' for url in urls))
    checked = zip(urls, lines, strict=True)
    (work / "aria2").write_text("".join(f"{u}\n  checksum=md5={md5}\n" for u, (md5, _) in checked))


def present(scenario: Scenario, origin: str, certificate: Path) -> Iterator[tuple[str, str]]:
    for name, command in contestants(scenario, origin, certificate):
        module = name.partition(" ")[0]
        needed = command.replace("xargs", "").split()
        if module == "requests" and not importlib.util.find_spec(module):
            print(f"left out: {name} is not installed")
        elif program := next((p for p in ("aria2c", "rclone", "curl") if p in needed), None):
            if shutil.which(program):
                yield name, command
            else:
                print(f"left out: {program} is not installed")
        else:
            yield name, command


def contestants(scenario: Scenario, origin: str, certificate: Path) -> Iterator[tuple[str, str]]:
    """Name and shell command of each, to be run in the empty folder to fill."""
    n, x = scenario.streams, scenario.splits
    wget = "wget -q" + f" --ca-certificate={certificate}" * scenario.tls
    aria2 = "aria2c -q --file-allocation=none" + (f" --ca-certificate={certificate}" * scenario.tls)
    if scenario.name != "limited":  # 64 s each, and known
        loop = f'while read -r url; do {wget} "$url" || exit 1; done < ../urls'
        yield "wget loop, md5sum -c", f"{loop} && {MD5}"
    yield f"xargs -P{n} wget, md5sum -c", f"xargs -P{n} -n1 {wget} < ../urls && {MD5}"
    many = f"{aria2} -j{n} -x{x} -s{x} -k1M"
    yield f"aria2c -j{n} -x{x} --checksum", f"{many} -i ../aria2"
    yield f"aria2c -j{n} -x{x}, md5sum -c", f"{many} -i ../urls && {MD5}"
    if scenario.splits == 1:
        curl = f"curl -sS -Z --parallel-max {n} -K ../curl" + (
            f" --cacert {certificate}" * scenario.tls
        )
        yield f"curl -Z {n}, md5sum -c", f"{curl} && {MD5}"
    rclone = f"rclone copy --config /dev/null --transfers {n} --http-url {origin}/" + (
        f" --ca-cert {certificate}" * scenario.tls
    )
    # nginx lists no folders here, so the names come from a list; --no-traverse asks for each.
    rclone += " --files-from ../names --no-traverse :http: ."
    names = "cut -c35- ../md5s > ../names"
    yield f"rclone --transfers {n}, md5sum -c", f"{names} && {rclone} && {MD5}"
    yield f"rclone --transfers {n}, xargs -P2 md5sum", f"{names} && {rclone} && {MD5_X2}"
    clients = Path(__file__).with_name("download_clients.py")
    for client in ("urllib3", "http.client", "requests"):
        command = [sys.executable, str(clients), client, str(n), "../md5s", origin]
        yield f"{client} loop, {n} threads", shlex.join(command)
    ours = [sys.executable, "-m", "unshard", "download", f"{origin}/stubbed.pt{QUERY}", "."]
    ours += ["--manifest", "../md5s"]
    yield "unshard", shlex.join(ours)


def timed(work: Path, command: str, nginx: Nginx) -> Run:
    """One run into an empty folder, its files compared with the originals afterwards."""
    out, objects = work / "out", work / "objects"
    out.mkdir()
    num_bytes = sum(path.stat().st_size for path in objects.iterdir())
    os.sync()
    wake = [sys.executable, "-c", WAKE, str(work / "wake"), str(num_bytes)]
    subprocess.run(wake, check=True)
    environment = os.environ | ({"SSL_CERT_FILE": str(nginx.certificate)} if nginx.is_tls else {})
    with (work / "told").open("w+") as told:
        started = time.perf_counter()
        process = subprocess.Popen(
            ["sh", "-c", command], cwd=out, env=environment, stdout=told, stderr=told
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            told.seek(0)
            raise SystemExit(f"{command} ended with {process.returncode}: {told.read()}")
    for path in objects.iterdir():
        if not filecmp.cmp(path, out / path.name, shallow=False):
            raise SystemExit(f"{command} left a wrong {path.name}")
    filecmp.clear_cache()
    shutil.rmtree(out)
    return Run(seconds, usage.ru_utime + usage.ru_stime)


def report(
    scenario: Scenario, found: dict[str, list[Run]], work: Path
) -> dict[str, dict[str, float]]:
    num_bytes = scenario.num_files * scenario.file_bytes
    file_system = subprocess.run(
        ["stat", "-f", "-c", "%T", work], check=True, capture_output=True, text=True
    ).stdout.strip()
    ours = statistics.median(run.seconds for run in found["unshard"])
    rows = {}
    print(
        f"\n**{scenario.name}**: {scenario.num_files} files of {scenario.file_bytes / MIB:g} MiB "
        f"on {file_system}, medians of {len(found['unshard'])}\n\n"
        "| contestant | s | MB/s | CPU s per GB | unshard is faster by | all runs |\n"
        "|---|---|---|---|---|---|"
    )
    for name, runs in found.items():
        seconds = statistics.median(run.seconds for run in runs)
        cpu = statistics.median(run.cpu_s for run in runs) / num_bytes * 1e9
        rows[name] = {"seconds": seconds, "cpu_s_per_gb": cpu, "ratio": seconds / ours}
        each = " ".join(f"{run.seconds:.2f}" for run in runs)
        print(
            f"| {name} | {seconds:.2f} | {num_bytes / seconds / 1e6:.0f} | {cpu:.2f} | "
            f"{seconds / ours:.2f} | {each} |"
        )
    sys.stdout.flush()
    return rows


if __name__ == "__main__":
    main()
