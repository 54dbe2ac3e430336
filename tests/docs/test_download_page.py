"""docs/download.md: its commands run, on a link that dies."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from unshard.cli.main import main
from unshard.testing.object_store import FakeObjectStore, Fault, LoggedRequest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/download.md").read_text()
STREAMED = re.findall(r"^\$ unshard (download .* --reshard .*)$", PAGE, re.MULTILINE)
DEMO_MODEL = ROOT / "src/unshard/demo_model"
COMMANDS = re.findall(r"^\$ unshard (download .* --url-(?:command|file) .*)$", PAGE, re.MULTILINE)


class Person(list[LoggedRequest]):
    """Hears of each request, and pastes a fresh link in time."""

    def __init__(self, fresh: str) -> None:
        self._fresh = fresh

    def append(self, request: LoggedRequest) -> None:
        super().append(request)
        Path("link.txt").write_text(self._fresh)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_link_is_renewed(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    manifest = (DEMO_MODEL / "md5sum_shards.csv").read_bytes()
    Path("opt175b_md5sum_shards.csv").write_bytes(manifest)
    with FakeObjectStore(DEMO_MODEL) as store:
        link = Path("link.txt")
        link.write_text(store.presigned_url())
        sign = Path("sign-link")
        sign.write_text("#!/bin/sh\necho asked >> asked\ncat link.txt\n")
        sign.chmod(0o755)
        store.inject(Fault(status=403, code="RequestExpired"))
        if "--url-file" in command:
            monkeypatch.setattr(store, "requests", Person(store.presigned_url()))
        assert main(shlex.split(command)) == 0
    output = "".join(capfd.readouterr())
    assert "going on with a fresh link" in output
    assert "all verified" in output
    assert "Signature" not in output
    assert Path("asked").exists() == ("--url-command" in command)


@pytest.mark.parametrize("command", STREAMED)
def test_a_download_is_resharded_on_the_way(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """On the bundled model, which has two parts."""
    monkeypatch.chdir(tmp_path)
    manifest = (DEMO_MODEL / "md5sum_shards.csv").read_bytes()
    Path("opt175b_md5sum_shards.csv").write_bytes(manifest)
    with FakeObjectStore(DEMO_MODEL) as store:
        monkeypatch.setenv("UNSHARD_URL", store.presigned_url())
        assert main(shlex.split(command.replace("--tp 8", "--tp 2"))) == 0
        assert main(["download", "plain", "--manifest", "opt175b_md5sum_shards.csv"]) == 0
    capfd.readouterr()
    [destination] = re.findall(r"--reshard (\S+)", command)
    assert main(["diff", "plain", destination]) == 0
    assert bool(list(Path("opt-175b").glob("*.pt"))) == ("--reclaim" not in command)


def test_all_ways_are_shown() -> None:
    assert len(COMMANDS) == 2
    assert len(STREAMED) == 2


def test_links_exist() -> None:
    for link, section in re.findall(r"\]\(([^)#]*)(#[^)]+)?\)", PAGE):
        page = (ROOT / "docs" / link).read_text() if link else PAGE
        headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
        assert section[1:] in {"", *(h.lower().replace(" ", "-") for h in headings)}
