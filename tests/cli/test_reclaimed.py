"""`reshard --reclaim`, repeated when its source is gone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from unshard.cli.main import main
from unshard.execute import reclaim, run
from unshard.execute.finishing import Finishing
from unshard.execute.journal import Journal
from unshard.execute.reclaim import Reclaimer
from unshard.execute.task_log import TaskLog
from unshard.library import resharded
from unshard.testing.tiny_checkpoint import Array, write_tiny_checkpoint

Raw = tuple[Path, dict[str, Array]]
TP_1 = ("--to", "metaseq", "--tp", "1")


def reshard(raw: Path | str, out: Path, *options: str, to: tuple[str, ...] = TP_1) -> int:
    return main(["reshard", str(raw), str(out), *to, *options])


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A checkpoint that may be deleted."""
    write_tiny_checkpoint(tmp_path / "raw")
    return tmp_path / "raw"


@pytest.fixture
def done(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Path, Path]:
    """The folders of a finished reshard."""
    assert reshard(own, tmp_path / "out", "--reclaim") == 0
    assert not list(own.glob("*.pt"))
    capsys.readouterr()
    return own, tmp_path / "out"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("spelled", ["{}", "{}/", "{}/*.pt", "{}/../raw", "{}/../r?w/*.pt"])
def test_a_finished_command_that_is_repeated_is_done(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spelled: str
) -> None:
    source, out = spelled.format(own), tmp_path / "out"
    assert reshard(source, out, "--reclaim", "--json") == 0
    first, before = json.loads(capsys.readouterr().out), contents(out)
    assert reshard(source, out, "--reclaim", "--json") == 0
    again = capsys.readouterr()
    assert json.loads(again.out) == first
    assert "all of it was resharded before, and then deleted" in again.err
    assert contents(out) == before


@pytest.mark.parametrize(
    ("options", "to"),
    [
        (["--reclaim"], ("--to", "metaseq", "--tp", "4")),
        (["--reclaim"], ("--to", "safetensors")),
        (["--reclaim", "--dry-run"], TP_1),
        ([], TP_1),
    ],
)
def test_another_command_is_told_what_became_of_its_source(
    done: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    to: tuple[str, ...],
) -> None:
    source, out = done
    before = contents(out)
    assert reshard(source, out, *options, to=to) == 2
    assert f"{source}: was resharded into {out}" in capsys.readouterr().err
    assert reshard(source, out.with_name("other"), *options, to=to) == 2
    told = capsys.readouterr().err
    assert f"{source}: was resharded into {out}" in told
    assert "name it as the source" in told
    assert contents(out) == before
    assert not out.with_name("other").exists()


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("spoil", "num_left", "lost"),
    [
        (lambda out: (out / "reshard-model_part-0.pt").unlink(), 2, "reshard-model_part-0.pt"),
        (lambda out: shorten(out / "reshard-model_part-0.pt"), 2, "reshard-model_part-0.pt"),
        (lambda out: (out / "unshard.json").unlink(), 2, "unshard.json"),
        (lambda out: (out / "unshard.json").write_text('{"plan": "other"}'), 2, "unshard.json"),
        (shutil.rmtree, 0, "unshard.json"),
    ],
)
def test_what_is_left_of_an_output_is_told(
    done: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], None],
    num_left: int,
    lost: str,
) -> None:
    source, out = done
    spoil(out)
    assert reshard(source, out, "--reclaim") == 3
    told = capsys.readouterr().err
    assert f"{out}: {num_left} of 3 files are left" in told
    assert f"{lost}, for one, is gone" in told
    assert "fetch the source again" in told


@pytest.mark.parametrize("content", ["[]", '{"files": 7}', "", "\\", '{"asked": "\\u0000"}'])
def test_a_note_that_is_rubbish_is_none(
    done: tuple[Path, Path], capsys: pytest.CaptureFixture[str], content: str
) -> None:
    source, out = done
    [note] = source.glob(f"{resharded.STEM}*")
    note.write_text(content)
    assert reshard(source, out, "--reclaim") == 2
    assert "no checkpoint in this folder" in capsys.readouterr().err


def test_a_source_that_came_back_is_read(done: tuple[Path, Path], tmp_path: Path) -> None:
    source, _ = done
    write_tiny_checkpoint(source)
    assert reshard(source, tmp_path / "other", "--reclaim") == 0
    assert (tmp_path / "other/reshard-model_part-0.pt").exists()
    assert not list(source.glob("*.pt"))
    for name in ("out", "other"):  # one note for each
        assert reshard(source, tmp_path / name, "--reclaim") == 0


class KilledError(BaseException):
    """What stands for a kill."""


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (reclaim, "write_whole"),  # the plan is kept, nothing is deleted
        (Path, "unlink"),  # before the first file goes
        (Finishing, "fingerprint"),  # all files are gone
        (Journal, "finish"),
        (run, "sync_directory"),
        (TaskLog, "remove"),
        (Reclaimer, "end"),  # all that is left is to forget the plan
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_no_kill_loses_the_answer(
    own: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    where: object,
    name: str,
    late: bool,
) -> None:
    out, original = tmp_path / "out", getattr(where, name)

    def killed(*arguments: object, **options: object) -> object:
        started = where is not Path or str(arguments[0]).startswith(str(own / "checkpoint"))
        started = started and (where is not TaskLog or (out / "reshard-model_part-0.pt").exists())
        if started and not late:
            raise KilledError
        result = original(*arguments, **options)
        if started:
            raise KilledError
        return result

    with monkeypatch.context() as patch:
        patch.setattr(where, name, killed)
        with pytest.raises(KilledError):
            reshard(own, out, "--reclaim")
    assert reshard(own, out, "--reclaim") == 0
    assert not list(own.glob("*.pt"))
    capsys.readouterr()
    assert reshard(own, out, "--reclaim") == 0
    assert "resharded before" in capsys.readouterr().err
