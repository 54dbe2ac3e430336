"""--url-command and --url-file, as a person meets them."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from unshard.cli.main import main
from unshard.testing.object_store import FakeObjectStore, Fault

PART = "reshard-model_part-0.pt"


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UNSHARD_URL", raising=False)
    Path("objects").mkdir()
    with FakeObjectStore("objects") as store:
        store.put(PART, b"PK" + b"x" * 3000)
        yield store


def download(capfd, *arguments):
    """Exit code and all that was printed."""
    code = main(["download", "target", *arguments])
    return code, "".join(capfd.readouterr())


def test_the_first_link_may_come_from_either(store, capfd, monkeypatch):
    monkeypatch.setenv("UNSHARD_URL", "https://dead.example/stubbed.pt?&Expires=1&Signature=OLD")
    Path("link").write_text(store.presigned_url(PART))
    for option in ("--url-file=link", "--url-command=cat link"):
        code, output = download(capfd, option)
        assert code == 0, output
        assert Path("target", PART).read_bytes() == b"PK" + b"x" * 3000


def test_a_url_in_the_arguments_goes_before_the_first_of_the_source(store, capfd):
    url = store.presigned_url(PART)
    assert main(["download", url, "target", "--url-command", "false"]) == 0
    store.expire_links()
    assert main(["download", url, "elsewhere", "--url-command", "false"]) == 4
    assert "--url-command failed (exit status 1); 1 of 1 files are left" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--url-file=a", "--url-command=b"], 2, "give one of them"),
        (["--url-file=nowhere"], 2, "nowhere: No such file"),
        (["--url-file=/dev/null"], 2, "/dev/null: there is no link in it"),
        (["--url-command=echo 'TOKEN"], 2, "quotes do not match"),
        (["--url-command=false TOKEN"], 4, "--url-command failed (exit status 1)"),
        (["--url-command=TOKEN --key TOKEN"], 4, "--url-command cannot be started"),
    ],
)
def test_what_gives_no_link_ends_in_one_line(store, capfd, arguments, code, words):
    got, output = download(capfd, *arguments)
    assert (got, words in output) == (code, True)
    assert "TOKEN" not in output
    assert len(output.splitlines()) <= 2
    assert not Path("target").exists()


def test_the_commands_own_errors_are_shown(store, capfd):
    script = "echo please log in >&2; exit 1"
    code, output = download(capfd, f"--url-command=sh -c {shlex.quote(script)}")
    assert code == 4
    assert "please log in" in output


@pytest.mark.slow
def test_ctrl_c_ends_the_wait_for_a_file_and_nothing_is_lost(store, capfd):
    link = Path("link")
    link.write_text(store.presigned_url(PART))
    store.inject(Fault(cut_after=1000))
    store.inject(Fault(status=403))
    process = subprocess.Popen(
        [sys.executable, "-m", "unshard", "download", "target", "--url-file", "link"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    said = ""
    for line in process.stderr:
        said += line
        if "waiting for it" in line:
            break
    title = Path(f"/proc/{process.pid}/cmdline")
    said += title.read_text() if title.exists() else ""
    process.send_signal(signal.SIGINT)
    said += process.communicate()[1]
    assert process.returncode == 130
    assert Path("target", f"{PART}.partial").stat().st_size == 1000
    link.write_text(store.presigned_url(PART))
    assert download(capfd, "--url-file=link")[0] == 0
    assert store.requests[-1].range == "bytes=1000-"
    assert "Signature" not in said
