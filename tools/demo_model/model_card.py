"""Writes `MODEL_CARD.md` and `evaluation.json`."""

import json
from dataclasses import asdict
from pathlib import Path

from . import card_sections
from .card_sections import Facts


def write(facts: Facts, folder: Path) -> None:
    """Writes the card and its numbers."""
    sections = [
        card_sections.introduction(),
        card_sections.architecture_section(facts),
        card_sections.corpus_section(facts),
        card_sections.training_section(facts),
        card_sections.results_section(facts.evaluation),
        card_sections.samples_section(facts.samples),
        card_sections.closing_section(),
    ]
    (folder / "MODEL_CARD.md").write_text("\n".join(sections), encoding="utf-8")
    numbers = {
        "heldout": asdict(facts.evaluation),
        "training": {
            **asdict(facts.recipe),
            "chosen_step": facts.trained.step,
            "validation_nats_per_token": facts.trained.validation_nats,
            "training_tokens": facts.training_tokens,
            "seconds": round(facts.trained.seconds),
        },
    }
    (folder / "evaluation.json").write_text(json.dumps(numbers, indent=2) + "\n")
