"""What is killed: command lines, each in a folder of its own, and what it finds there."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import unshard
from unshard.testing.object_store import FakeObjectStore
from unshard.testing.tiny_checkpoint import write_tiny_checkpoint
from unshard.testing.tiny_model import TINY

DEMO_MODEL = Path(unshard.__file__).parent / "demo_model"
CONFIG = replace(TINY, num_layers=8, hidden_size=256, embedding_size=256, ffn_dim=1024)
CONNECTIONS = 2
TARGETS = (
    ("--to", "safetensors"),
    ("--to", "safetensors", "--dtype", "fp32", "--max-file-size", "4MB"),
    ("--to", "metaseq", "--tp", "1"),
    ("--to", "metaseq", "--tp", "4", "--fsdp", "2"),
    ("--to", "metaseq", "--unflattened"),
)
COPYING = ((), ("--workers", "1"), ("--memory", "97MB"), ("--no-sync",), ("--no-verify",))
PROMPTS = 60


@dataclass(frozen=True, slots=True)
class World:
    """A checkpoint behind a link, on this machine."""

    home: Path
    store: FakeObjectStore

    @property
    def raw(self) -> Path:
        return self.store.directory

    @property
    def manifest(self) -> Path:
        return self.home / "manifest.md5"

    @property
    def num_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.raw.iterdir())


@dataclass(frozen=True, slots=True)
class Case:
    """One command. `prepare` lays out the folder that it is run in, `{}` in its arguments."""

    arguments: tuple[str, ...]
    prepare: Callable[[Path, random.Random], None] = lambda _folder, _random: None

    def command(self, folder: Path) -> list[str]:
        return [argument.replace("{}", str(folder)) for argument in self.arguments]


def new_world(home: Path) -> World:
    raw = home / "raw"
    write_tiny_checkpoint(raw, CONFIG, tp_size=2, fsdp_size=5)
    lines = [f"{hashlib.md5(p.read_bytes()).hexdigest()}  {p.name}\n" for p in raw.iterdir()]
    (home / "manifest.md5").write_text("".join(lines))
    return World(home, FakeObjectStore(raw))


def download(world: World, random: random.Random) -> Case:
    rate = random.choice(((), ("--max-rate", "40MB")))
    return Case(("download", "{}/raw", "--json", *_link(world), *rate))


def reshard(world: World, random: random.Random) -> Case:
    copying = random.choice((*COPYING, ("--reclaim",)))
    return Case(
        ("reshard", "{}/raw", "{}/out", *random.choice(TARGETS), *copying),
        lambda folder, _: _copy(world.raw, folder / "raw"),
    )


def streamed(world: World, random: random.Random) -> Case:
    """A download that reshards meanwhile."""
    copying = random.choice((*COPYING, ("--reclaim",)))
    target = random.choice(TARGETS)
    return Case(("download", "{}/raw", *_link(world), "--reshard", "{}/out", *target, *copying))


def repair(world: World, _random: random.Random) -> Case:
    def damage(folder: Path, random: random.Random) -> None:
        _copy(world.raw, folder / "raw")
        paths = sorted((folder / "raw").iterdir())
        for path in random.sample(paths, random.randrange(1, len(paths))):
            _damage(path, random)

    return Case(("verify", "{}/raw", "--manifest", str(world.manifest), "--repair"), damage)


def generate(_world: World, random: random.Random) -> Case:
    sampling = random.choice((("--temperature", "0"), ("--seed", "5"), ("--top-k", "9")))
    return Case(
        ("generate", str(DEMO_MODEL), "--input", "{}/in", "--output", "{}/answers",
         "--max-batch", "4", "--max-tokens", "12", *sampling),
        lambda folder, _: _write_prompts(folder / "in"),
    )  # fmt: skip


CASES = {
    "download": download,
    "reshard": reshard,
    "streamed": streamed,
    "repair": repair,
    "generate": generate,
}


def _link(world: World) -> tuple[str, ...]:
    return ("--manifest", str(world.manifest), "--max-connections", str(CONNECTIONS))


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target)


def _damage(path: Path, random: random.Random) -> None:
    size = path.stat().st_size
    match random.randrange(3):
        case 0:
            path.unlink()
        case 1:
            with path.open("r+b") as file:
                file.truncate(random.randrange(size))
        case _:
            with path.open("r+b") as file:
                file.seek(random.randrange(size - 64))
                file.write(random.randbytes(64))


def _write_prompts(path: Path) -> None:
    words = [
        "ROMEO",
        "JULIET",
        "KING",
        "my",
        "lord",
        "the",
        "night",
        "is",
        "no",
        "more",
        "and",
        "yet",
    ]
    prompts = [" ".join(words[number % 7 : number % 11 + 1]) + "\n" for number in range(PROMPTS)]
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
