"""What is installed has the page."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from unshard.server.playground import page_files

ROOT = Path(__file__).parents[2]
PAGE = "unshard/server/playground/page/"


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_page(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, ROOT]
    subprocess.run(command, check=True, timeout=100)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {
            name.removeprefix(PAGE): archive.read(name)
            for name in archive.namelist()
            if name.startswith(PAGE)
        }
    assert packed == {name: file.content for name, file in page_files().items()}
