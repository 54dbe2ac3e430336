"""Two tasks for lm-eval on local lines: choosing an ending (loglikelihood), and writing one."""

from __future__ import annotations

import json
from pathlib import Path

PROMPTS = (
    "KING HENRY.\nNow, lords,", "ROMEO.\nBut soft, what light", "First Citizen:\nBefore we",
    "To be, or not", "The", "QUEEN MARGARET.\nAlas,", "\n\n", "GLOUCESTER.\nI am \u00e9 \u2603",
)  # fmt: skip
ENDINGS = (" what news?", " we are met.", " the dog is blue.", " my lord.")

COMMON = {
    "dataset_path": "json",
    "test_split": "test",
    "doc_to_text": "{{prompt}}",
    "metadata": {"version": 1},
}
CHOOSING = {
    "task": "endings",
    "output_type": "multiple_choice",
    "doc_to_choice": "{{endings}}",
    "doc_to_target": "{{right}}",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
WRITING = {
    "task": "lines",
    "output_type": "generate_until",
    "doc_to_target": "{{endings[right]}}",
    "generation_kwargs": {"until": ["\n\n", "KING"], "max_gen_toks": 24, "do_sample": False},
    "metric_list": [{"metric": "exact_match"}],
}


def write_tasks(folder: Path) -> None:
    """`folder` as lm-eval's `--include_path` takes it. JSON is YAML."""
    folder.mkdir()
    lines = [
        {"prompt": prompt, "endings": ENDINGS, "right": number % len(ENDINGS)}
        for number, prompt in enumerate(PROMPTS)
    ]
    (folder / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = {"dataset_kwargs": {"data_files": {"test": str(folder / "lines.jsonl")}}}
    for task in (CHOOSING, WRITING):
        (folder / f"{task['task']}.yaml").write_text(json.dumps({**COMMON, **files, **task}))
