"""`unshard demo`: the whole way on the bundled model, by the real commands."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path

import click
import openai

from unshard.cli.download import URL_VARIABLE
from unshard.errors import UnshardError
from unshard.testing.object_store import FakeObjectStore, Fault

MANIFEST = "md5sum_shards.csv"
CUT_FILE = "checkpoint_last-model_part-1-shard2.pt"
"""The file in whose middle the first download is interrupted."""
CUT_AFTER_BYTES = 300_000
PREFERRED_PORT = 6010
WAIT_S = 60.0
PROMPT = "KING HENRY.\nNow, lords,"


@click.command(
    help="Runs the real commands on the bundled model, against a store on this machine that "
    "behaves like the CDN: an interrupted download that resumes, verify, inspect, reshard, a "
    "proof that nothing changed, and a server that answers the openai client. Stays up until "
    "Ctrl-C unless --once."
)
@click.option("--once", is_flag=True, help="End after the first completion.")
@click.option("--dir", "folder", type=click.Path(path_type=Path), help="Keep the files here.")
def command(once: bool, folder: Path | None) -> None:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="unshard-demo-") as temporary:
        work = folder or Path(temporary)
        raw, exported = work / "raw", work / "safetensors"
        with as_file(files("unshard") / "demo_model") as model, FakeObjectStore(model) as store:
            _title("A link arrives: presigned, and it stands for all files")
            link = {URL_VARIABLE: store.presigned_url()}
            click.echo(f"  {store.origin}/weights/stubbed.pt?&Expires=…&Signature=…")
            download = ["download", str(raw), "--manifest", str(model / MANIFEST)]
            _title("Download, with Ctrl-C in the middle of a file …")
            _interrupted(download, link, store)
            _title("… and again: it goes on at the byte")
            _run(download, link)
            _run(["verify", str(raw), "--manifest", str(model / MANIFEST)])
            for name in ("gpt2-vocab.json", "gpt2-merges.txt", "dict.txt"):
                (raw / name).write_bytes((model / name).read_bytes())
        _title("What is it?")
        _run(["inspect", str(raw)])
        _title("Reshard, and prove that it is the same model")
        _run(["reshard", str(raw), str(exported), "--to", "safetensors"])
        _run(["diff", str(raw), str(exported)])
        _run(["fingerprint", str(raw)])
        _run(["fingerprint", str(exported)])
        _title("Serve it straight from the raw files, and ask")
        with _server(raw) as address:
            _complete(address)
            click.echo(f"\nThe whole way took {time.monotonic() - started:.0f} s.")
            if not once:
                _stay(address)


def _title(text: str) -> None:
    click.echo(click.style(f"\n{text}", bold=True))


def _show(arguments: list[str]) -> None:
    click.echo(click.style(f"$ unshard {shlex.join(arguments)}", fg="cyan"))


def _start(
    arguments: list[str], environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    _show(arguments)
    return subprocess.Popen(  # noqa: S603  (our own program and arguments)
        [sys.executable, "-m", "unshard", *arguments],
        env={**os.environ, **(environment or {})},
        stderr=subprocess.PIPE,
        text=True,
    )


def _run(arguments: list[str], environment: Mapping[str, str] | None = None) -> None:
    with _start(arguments, environment) as process:
        errors = process.communicate(timeout=WAIT_S)[1]
    click.echo(errors, nl=False, err=True)
    if process.returncode != 0:
        raise UnshardError(f"`unshard {arguments[0]}` ended with exit code {process.returncode}")


def _interrupted(
    arguments: list[str], environment: Mapping[str, str], store: FakeObjectStore
) -> None:
    """Starts the download and interrupts it when half of one file has arrived."""
    store.inject(Fault(stall_after=CUT_AFTER_BYTES), file=CUT_FILE, times=None)
    partial_name = f"{CUT_FILE}.partial"
    with _start(arguments, environment) as process:
        folder = Path(arguments[1])
        deadline = time.monotonic() + WAIT_S
        while process.poll() is None and time.monotonic() < deadline:
            found = [path for path in folder.glob("*") if path.name.endswith(partial_name)]
            if found and found[0].stat().st_size >= CUT_AFTER_BYTES // 2:
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=WAIT_S)[1]
    click.echo(f"^C {errors.strip()}", err=True)
    store.heal()


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    """`unshard serve` as a process of its own; the address it says it serves on."""
    port = PREFERRED_PORT if _is_free(PREFERRED_PORT) else 0
    process = _start(["serve", str(folder), "--model-name", "demo", "--port", str(port)])
    try:
        yield _announced_address(process)
    finally:
        process.terminate()
        process.wait(timeout=WAIT_S)
        if process.stderr is not None:
            process.stderr.close()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _announced_address(process: subprocess.Popen[str]) -> str:
    lines = process.stderr or ()
    for line in lines:
        click.echo(line, nl=False, err=True)
        if "http://" in line:
            return "http://" + line.split("http://", 1)[1].split()[0].rstrip(",;)")
    raise UnshardError("`unshard serve` ended before it was ready")


def _complete(address: str) -> None:
    click.echo(f"\n>>> client = openai.OpenAI(base_url='{address}/v1', api_key='none')")
    click.echo(
        f">>> client.completions.create(model='demo', prompt={PROMPT!r}, max_tokens=64, …)\n"
    )
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none") as client:
        answer = client.completions.create(
            model="demo", prompt=PROMPT, max_tokens=64, temperature=0.7, top_p=0.9, seed=7
        )
    choice = answer.choices[0]
    click.echo(click.style(PROMPT, dim=True) + choice.text)
    usage = answer.usage
    tokens = f"{usage.prompt_tokens} + {usage.completion_tokens} tokens" if usage else "no usage"
    click.echo(f"\n[finish_reason {choice.finish_reason}, {tokens}]")


def _stay(address: str) -> None:
    click.echo(f"The API stays up on {address} until Ctrl-C. Try:\n")
    body = '{"prompt": "ROMEO.\\n", "max_tokens": 40, "temperature": 0.7}'
    click.echo(f"  curl {address}/v1/completions -H 'Content-Type: application/json' -d '{body}'\n")
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()
    click.echo("stopping")
