"""The command line as a user meets it: every mistake one line, every exit code as documented."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from unshard import errors
from unshard.cli.main import INTERRUPTED, main
from unshard.testing.tiny_checkpoint import Array, write_tiny_checkpoint

Raw = tuple[Path, dict[str, Array]]
SHARD = "checkpoint_last-model_part-0-shard0.pt"


def truncated(folder: Path) -> None:
    os.truncate(folder / SHARD, 3000)


def text(folder: Path) -> None:
    (folder / SHARD).write_text("this is a note, not a checkpoint\n")


def web_page(folder: Path) -> None:
    (folder / SHARD).write_text("<!DOCTYPE html><html>log in</html>")


def hostile(folder: Path) -> None:
    with zipfile.ZipFile(folder / SHARD, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02cos\nsystem\nX\x05\x00\x00\x00touch\x85R.")


def missing(folder: Path) -> None:
    (folder / SHARD).unlink()


def other_content(folder: Path) -> None:
    with zipfile.ZipFile(folder / SHARD, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")


BAD = {truncated: 3, text: 3, web_page: 3, hostile: 3, missing: 3, other_content: 3}


@pytest.mark.parametrize("damage", BAD, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize(
    "arguments", [["inspect"], ["fingerprint"], ["reshard", "--to", "safetensors"]]
)
def test_bad_checkpoint_is_one_line(
    raw: Raw,
    tmp_path: Path,
    damage: object,
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(raw[0])
    command, *options = arguments
    more = [str(tmp_path / "out")] if command == "reshard" else []
    assert main([command, str(raw[0]), *more, *options]) == BAD[damage]
    captured = capsys.readouterr()
    error, *hints = captured.err.splitlines()
    assert captured.out == ""
    assert error.startswith("error: ")
    assert SHARD in error
    assert all(line.startswith("hint: ") for line in hints)
    assert len(hints) <= 1


def test_a_name_out_of_a_file_cannot_write_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = tmp_path / "\x1b[2J\n.pt"
    assert main(["inspect", str(name)]) == 2
    [error] = capsys.readouterr().err.splitlines()
    assert "\x1b" not in error
    assert r"\x1b[2J\n.pt" in error


def test_usage_errors_exit_2(raw: Raw, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path / "absent")]) == 2
    assert main(["inspect", str(tmp_path)]) == 2
    assert main(["reshard", str(raw[0]), str(tmp_path / "o"), "--to", "gguf"]) == 2
    assert main(["no-such-command"]) == 2
    assert (
        main(["reshard", str(raw[0]), str(tmp_path / "o"), "--to", "safetensors", "--tp", "2"]) == 2
    )
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["downlaod", "x"], "No such command 'downlaod'. Did you mean download?", "unshard"),
        (["inspect"], "Missing argument 'SRC'", "unshard inspect"),
        (["verify", "x", "--froce"], "No such option '--froce'. Did you mean", "unshard verify"),
        (["download", "x", "--reclaim"], "--reclaim goes with --reshard DST", "unshard download"),
    ],
)
def test_a_usage_error_is_told_as_any_other(
    arguments: list[str], error: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"error: {error}")
    assert second == f"hint: see `{hint} --help`"


def test_choices_of_a_missing_option_are_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reshard", "raw", "out"]) == 2
    [error, hint] = capsys.readouterr().err.splitlines()
    assert error == "error: Missing option '--to': safetensors or metaseq"
    assert hint == "hint: see `unshard reshard --help`"


def test_help_has_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    classes = [each for _, each in inspect.getmembers(errors, inspect.isclass)]
    raised = {each.exit_code for each in classes if issubclass(each, errors.UnshardError)}
    assert main(["--help"]) == 0
    told = " ".join(capsys.readouterr().out.split()).partition("Exit codes: ")[2]
    assert {int(code) for code in re.findall(r"(?:^|, )(\d+) ", told)} == {0, *raised, INTERRUPTED}


def test_no_arguments_are_a_call_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "Usage: unshard" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_needs_a_person(raw: Raw, tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "unshard", "verify", str(raw[0]), "--export", "json"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 4
    assert done.stderr.startswith("error: No space left on device\nhint: make space")


def test_inspect(raw: Raw, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(raw[0])]) == 0
    out = capsys.readouterr().out
    assert "2 tensor-parallel x 3 FSDP, 6 files" in out
    assert "fused, in the order K, V, Q" in out
    assert main(["inspect", str(raw[0]), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["config"]["num_heads"] == 4
    assert {tensor["name"] for tensor in described["tensors"]} == raw[1].keys()
    assert main(["inspect", str(raw[0]), "--tensors"]) == 0
    assert "fc2.weight" in capsys.readouterr().out


def test_reshard_fingerprint_diff(
    raw: Raw, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "hf"
    assert main(["reshard", str(raw[0]), str(out), "--to", "safetensors", "--dry-run"]) == 0
    assert "model.safetensors" in capsys.readouterr().out
    assert not out.exists()
    assert main(["reshard", str(raw[0]), str(out), "--to", "safetensors"]) == 0
    assert str(out / "model.safetensors") in capsys.readouterr().out
    assert main(["diff", str(raw[0]), str(out)]) == 0
    assert "identical: 36 tensors" in capsys.readouterr().out
    assert main(["fingerprint", str(raw[0])]) == main(["fingerprint", str(out)]) == 0
    first, second = capsys.readouterr().out.split()
    assert first == second
    write_tiny_checkpoint(tmp_path / "other", seed=1)
    assert main(["diff", str(raw[0]), str(tmp_path / "other")]) == 3
    captured = capsys.readouterr()
    assert "first at index" in captured.out
    assert "tensors differ" in captured.err


BASE_COMMANDS = ("plan", "inspect", "reshard", "fingerprint", "diff", "verify", "download")


def test_base_commands_import_no_torch() -> None:
    code = (
        "import importlib, sys, unshard.cli.main\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(f'unshard.cli.{name}'); print(name, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, *BASE_COMMANDS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{name} False" for name in BASE_COMMANDS]


def test_help_imports_next_to_nothing() -> None:
    """What keeps `unshard --help` under 0.2 s: no numpy, no rich, no command of its own."""
    code = (
        "import sys; from unshard.cli.main import main; main(['--help']);"
        "print([m for m in ('numpy', 'rich', 'urllib3', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "download" in done.stdout


@pytest.mark.parametrize(
    ("command", "package", "extra"),
    [
        ("generate", "torch", "serve"),
        ("score", "torch", "serve"),
        ("serve", "fastapi", "serve"),
        ("demo", "openai", "demo"),
        ("reshard", "ray", "ray"),
    ],
)
def test_a_missing_extra_is_named(
    raw: Raw, tmp_path: Path, command: str, package: str, extra: str
) -> None:
    """Its help still works; the command itself says what to install."""
    code = (
        f"import sys; sys.modules[{package!r}] = None; from unshard.cli.main import main;"
        "print(main([sys.argv[1], '--help'])); sys.exit(main(sys.argv[1:]))"
    )
    reshard = [str(raw[0]), str(tmp_path / "out"), "--to", "metaseq", "--executor", "ray"]
    two = ["x", "y"]
    of_each = {"generate": two, "score": two, "serve": ["x"], "demo": [], "reshard": reshard}
    arguments = of_each[command]
    done = subprocess.run(
        [sys.executable, "-c", code, command, *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.endswith("\n0\n")
    assert done.returncode == 2
    error, hint = done.stderr.splitlines()[-2:]
    assert error == f"error: this needs the package {package}, which is not installed"
    assert hint == f"hint: pip install 'unshard[{extra}]', or '.[{extra}]' in a clone"


def test_an_address_without_a_cluster_is_refused(
    raw: Raw, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["reshard", str(raw[0]), str(tmp_path / "out"), "--to", "metaseq"]
    assert main([*arguments, "--ray-address", "10.0.0.1:6379"]) == 2
    assert "--ray-address goes with --executor ray" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_module_is_the_command(raw: Raw) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "unshard", "inspect", str(raw[0])], capture_output=True, check=False
    )
    assert done.returncode == 0


def test_a_pattern_that_the_shell_expanded(raw: Raw, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", *map(str, sorted(raw[0].glob("*.pt")))]) == 2
    told = capsys.readouterr().err
    assert "quote a pattern" in told
    assert str(raw[0]) not in told
