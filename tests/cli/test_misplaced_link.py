"""A link in a place where something else belongs: what is said of it does not repeat its secret."""

from __future__ import annotations

from pathlib import Path

import pytest

import unshard
from unshard.cli.main import main
from unshard.redaction import without_secrets

SECRET = "S3cr3tS3cr3t"
SIGNED = f"stubbed.pt?&Expires=4102444800&Signature={SECRET}&Key-Pair-Id={SECRET}"
LINK = f"https://cdn.example/w/{SIGNED}"
DEMO_MODEL = Path(unshard.__file__).parent / "demo_model"


@pytest.mark.parametrize(
    "arguments",
    [
        [LINK],
        [SIGNED],
        ["download", LINK, LINK],
        ["download", LINK, "there", LINK],
        ["download", LINK[8:]],
        ["download", "there", LINK],
        ["download", LINK, "there", f"--{LINK}"],
        ["download", LINK, "there", f"--{SIGNED[12:]}"],
        ["download", LINK, "there", "--parts", LINK],
        ["download", LINK, "there", "--max-rate", LINK],
        ["download", LINK, "there", "--manifest", SIGNED],
        ["download", "--url-file", LINK],
        ["download", "--url-command", LINK],
        ["verify", LINK],
        ["verify", ".", "--manifest", f"ftp://cdn.example/{SIGNED}"],
        ["verify", ".", "--manifest", LINK[:-5] + "\\" + LINK[-5:]],
        ["inspect", LINK],
        ["inspect", SIGNED],
        ["plan", LINK[8:]],
        ["reshard", LINK, "there", "--to", "metaseq", "--tp", "1"],
        ["reshard", "there", LINK, "--to", "metaseq"],
        ["reshard", "there", SIGNED, "--to", "metaseq", "--dry-run"],
        ["download", LINK, SIGNED],
        ["download", LINK, "there", "--reshard", LINK, "--to", "metaseq"],
        ["download", LINK, "there", "--reshard", SIGNED, "--to", "metaseq"],
        ["metaseq", "reshard-mp", "--input", "there", "--output", LINK],
        ["metaseq", "reshard-fsdp", "--input", "there", "--output", SIGNED],
        ["demo", "--once", "--dir", LINK],
        ["inspect", "there", "--health", "--html", LINK],
        ["generate", str(DEMO_MODEL), "--input", "-", "--output", SIGNED],
        ["score", str(DEMO_MODEL), "-", "--output", SIGNED],
        ["fingerprint", LINK],
        ["diff", LINK, LINK],
    ],
    ids=lambda arguments: " ".join(arguments).replace(LINK, "LINK").replace(SIGNED, "HALF"),
)
@pytest.mark.parametrize("events", [(), ("--events",)], ids=["text", "events"])
def test_no_mistake_shows_it(arguments, events, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, *events]) in (1, 2, 3, 4)
    told = "".join(capfd.readouterr())
    assert told
    assert SECRET not in told
    assert not list(Path().iterdir()), "no name of a file or folder may hold it either"


@pytest.mark.parametrize("link", [LINK, LINK.split("?", maxsplit=1)[0], SIGNED])
def test_no_checkpoint_is_written_into_a_folder_that_is_called_like_it(
    link, raw, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    here = set(Path().iterdir())
    assert main(["reshard", str(raw[0]), link, "--to", "metaseq"]) == 2
    assert "is a link, not a place to write to" in capsys.readouterr().err
    assert set(Path().iterdir()) == here


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text? yes: a=b", "plain text? yes: a=b"),
        (f"{LINK}: no such file", "https://cdn.example/w/stubbed.pt?…: no such file"),
        (f"'{LINK}', or not", "'https://cdn.example/w/stubbed.pt?…', or not"),
        (f"https:/cdn.example/a?sig={SECRET} b", "https:/cdn.example/a?… b"),
        (f"HTTP://me:{SECRET}@proxy:1/ fails", "HTTP://…@proxy:1/ fails"),
        (f"X-Amz-Signature={SECRET}&a=b", "X-Amz-Signature=…&a=b"),
        (f"Signature%3D{SECRET} b", "Signature%3D… b"),
        ("https://a.example/b.csv: no", "https://a.example/b.csv: no"),
    ],
)
def test_what_is_taken_out_and_what_stays(text, shown):
    assert without_secrets(text) == shown
    assert without_secrets(shown) == shown
