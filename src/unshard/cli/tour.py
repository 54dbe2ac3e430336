"""The whole way on the bundled model, by the real commands: the work of `unshard demo`."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.resources import as_file, files
from pathlib import Path

import click
import openai

from unshard.cli.source_url import URL_VARIABLE
from unshard.errors import UnshardError, WorkerLostError
from unshard.manifest import PARTIAL_SUFFIX
from unshard.testing.object_store import FakeObjectStore, Fault

MANIFEST = "md5sum_shards.csv"
TOKENIZER_FILES = ("gpt2-vocab.json", "gpt2-merges.txt")
CUT_FILE = "checkpoint_last-model_part-1-shard2.pt"
"""The file in whose middle the first download is interrupted."""
CUT_AFTER_BYTES = 300_000
PREFERRED_PORT = 6010
WAIT_S = 60.0
PROMPT = "KING HENRY.\nNow, lords,"


def tour(folder: Path | None, *, once: bool) -> None:
    """Runs every step, keeping the files in `folder` if one is given.

    Raises:
        UnshardError: a command failed.
        WorkerLostError: the server ended while it should have stayed.
    """
    # All as Ctrl-C: the server and the temporary folder go, too. SIGINT itself is ignored
    # where a script started us in the background, and the children would inherit that.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.default_int_handler)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="unshard-demo-") as temporary:
        shell = _Shell(folder or Path(temporary))
        with as_file(files("unshard") / "demo_model") as model, FakeObjectStore(model) as store:
            _title("A link arrives: presigned, and it stands for all files")
            click.echo(f"  {store.origin}/weights/stubbed.pt?&Expires=…&Signature=…")
            shell.copy(model, ".", [MANIFEST])
            shell.download(store)
            shell.run("verify", "raw", "--manifest", MANIFEST)
            click.echo("  (and the tokenizer's two files, which are public, beside the weights)")
            shell.copy(model, "raw", TOKENIZER_FILES)
        _title("What is it?")
        shell.run("inspect", "raw")
        _title("Reshard, and prove that it is the same model")
        shell.run("reshard", "raw", "safetensors", "--to", "safetensors")
        shell.run("diff", "raw", "safetensors")
        shell.run("fingerprint", "raw")
        shell.run("fingerprint", "safetensors")
        _title("Serve it straight from the raw files, and ask")
        with shell.server("raw") as (server, address):
            _complete(address)
            click.echo(f"\nThe whole way took {time.monotonic() - started:.0f} s.")
            if not once:
                _stay(server, address)


def _title(text: str) -> None:
    click.echo(click.style(f"\n{text}", bold=True))


class _Shell:
    """Runs `unshard` commands in one folder, showing each as a user would type it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir(parents=True, exist_ok=True)

    def copy(self, source: Path, target: str, names: Sequence[str]) -> None:
        """Puts files of `source` into the subfolder `target`."""
        (self._folder / target).mkdir(exist_ok=True)
        for name in (name for name in names if not (self._folder / target / name).exists()):
            shutil.copyfile(source / name, self._folder / target / name)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        click.echo(click.style(f"$ unshard {shlex.join(arguments)}", fg="cyan"))
        return subprocess.Popen(  # noqa: S603  (our own program and arguments)
            [sys.executable, "-m", "unshard.cli.child", str(os.getpid()), *arguments],
            cwd=self._folder,
            env=os.environ | environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **environment: str) -> None:
        """Runs one command to its end, which must be a success."""
        with self.start(*arguments, **environment) as process:
            errors = process.communicate(timeout=WAIT_S)[1]
        click.echo(errors, nl=False, err=True)
        if process.returncode != 0:
            raise UnshardError(f"`unshard {arguments[0]}` ended with {process.returncode}")

    def download(self, store: FakeObjectStore) -> None:
        """Downloads, interrupted once in the middle of a file."""
        link = {URL_VARIABLE: store.presigned_url()}
        command = ("download", "raw", "--manifest", MANIFEST)
        _title("Download, with Ctrl-C in the middle of a file …")
        store.inject(Fault(stall_after=CUT_AFTER_BYTES), file=CUT_FILE, times=None)
        with self.start(*command, **link) as process:
            partial = self._folder / "raw" / (CUT_FILE + PARTIAL_SUFFIX)
            deadline = time.monotonic() + WAIT_S
            while process.poll() is None and time.monotonic() < deadline:
                if partial.exists() and partial.stat().st_size >= CUT_AFTER_BYTES // 2:
                    break
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            errors = process.communicate(timeout=WAIT_S)[1]
        click.echo(f"^C {errors.strip()}", err=True)
        store.heal()
        _title("… and again: it goes on at the byte")
        self.run(*command, **link)

    @contextlib.contextmanager
    def server(self, source: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
        """`unshard serve` as a process of its own, and the address it says it serves on."""
        port = PREFERRED_PORT if _is_free(PREFERRED_PORT) else 0
        process = self.start("serve", source, "--model-name", "demo", "--port", str(port))
        try:
            yield process, _announced_address(process)
        except openai.APIConnectionError as error:
            raise _lost(process) from error
        finally:
            process.terminate()
            process.communicate(timeout=WAIT_S)


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


def _lost(server: subprocess.Popen[str]) -> WorkerLostError:
    return WorkerLostError(f"the server ended with {server.wait(WAIT_S)}")


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


def _stay(server: subprocess.Popen[str], address: str) -> None:
    click.echo(f"The API stays up on {address} until Ctrl-C. Open it in a browser, or try:\n")
    body = '{"prompt": "ROMEO.\\n", "max_tokens": 40, "temperature": 0.7}'
    click.echo(f"  curl {address}/v1/completions -H 'Content-Type: application/json' -d '{body}'\n")
    with contextlib.suppress(KeyboardInterrupt):
        for line in server.stderr or ():
            click.echo(line, nl=False, err=True)
        raise _lost(server)
    click.echo("stopping")
