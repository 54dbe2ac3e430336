"""The sections of `MODEL_CARD.md`."""

import platform
from dataclasses import dataclass

from .evaluate import Evaluation, Score
from .network import Network
from .settings import Architecture, Recipe, ShardGrid, Split
from .train import Trained


@dataclass(frozen=True)
class Facts:
    """Everything the card tells."""

    architecture: Architecture
    recipe: Recipe
    rule: Split
    grid: ShardGrid
    trained: Trained
    evaluation: Evaluation
    documents: int
    training_tokens: int
    samples: list[str]


def introduction() -> str:
    return """# Model card: a small OPT trained on Shakespeare

A decoder-only language model with OPT's architecture, trained from scratch on the works of
William Shakespeare and stored as a **raw metaseq checkpoint**: the fp16 files that a trainer
with tensor parallelism and fully sharded data parallelism leaves behind. It exists so that
demonstrations and tests of this project have a real, trained model to work on.

The files were written by `tools/demo_model`, not by metaseq: layout and keys are metaseq's, and
the trainer's own entries (`cfg`, `optimizer_history`, `extra_state`) imitate their form.
"""


def architecture_section(facts: Facts) -> str:
    shape, grid = facts.architecture, facts.grid
    parameters = sum(parameter.numel() for parameter in Network(shape).parameters())
    return f"""## Architecture

| | |
| --- | --- |
| layers | {shape.layers}, pre-norm, ReLU, biases everywhere |
| width, feed-forward width | {shape.width}, {shape.ffn_width} |
| attention heads | {shape.heads} of {shape.head_width} |
| positions | {shape.max_positions}, learned, offset {shape.position_offset} |
| vocabulary | {shape.vocabulary_size}, byte-level BPE, trained on the training text |
| output | tied to the token embedding |
| parameters | {parameters:,} |
| files | {grid.parts} tensor-parallel parts x {grid.shards} shards, fp16 |

A prompt starts with `</s>` (id 2), as with OPT.
"""


def corpus_section(facts: Facts) -> str:
    rule = facts.rule
    return f"""## Corpus, its provenance and licence

The {facts.documents} plays and poems in modern spelling from the Python package `shakespeare` 0.6
(Open Knowledge Foundation, "Open Shakespeare"), files `*_gut.txt`. The package's AUTHORS.txt
says that they come from Project Gutenberg, that only texts "stated to be in the public domain"
were used, that every mention of Project Gutenberg was removed, and that the edition appears to
be based on the Globe Edition (1866) of Clark and Wright. The package's COPYING.txt puts its code
under the MIT licence and its other content under Creative Commons Attribution 2.5; credit for
the collection goes to the Open Knowledge Foundation. The texts themselves are not shipped here,
only weights, a tokenizer and a few short quotations; weights and tokenizer are under this
project's MIT licence.

Each text is cut at blank lines into passages of at least {rule.passage_characters} characters. Of
every {rule.cycle} passages, counted over the whole corpus, {len(rule.heldout)} are held out for the
results below and {len(rule.validation)} is used to choose the training step. Neither is seen in
training, not even by the tokenizer. The held-out passages are from the same plays as the
training text, so names and plots are not new to the model.
"""


def training_section(facts: Facts) -> str:
    recipe, trained = facts.recipe, facts.trained
    minutes = trained.seconds / 60
    epochs = trained.trained_tokens / facts.training_tokens
    return f"""## Training

Muon (learning rate {recipe.muon_learning_rate}, momentum {recipe.muon_momentum}, weight decay \
{recipe.weight_decay}) for the matrices of the layers, AdamW
(learning rate {recipe.adam_learning_rate}, betas {recipe.adam_betas[0]} and \
{recipe.adam_betas[1]}) for embeddings, biases and norms; {recipe.warmup_steps} steps of
warm-up, linear decay over the last {recipe.decay_fraction:.0%} of the steps, gradient norm at \
most {recipe.clip_norm},
dropout {recipe.dropout}, seed {recipe.seed}.

{recipe.steps} steps of {recipe.tokens_per_step} tokens, first in windows of \
{recipe.short_window} and during the decay in
windows of {facts.architecture.max_positions}; about {epochs:.1f} passes over \
{facts.training_tokens:,} tokens. Every window starts with `</s>`,
three of four at the start of a line. The weights of step {trained.step} did best on the \
validation passages.

Computed in fp32 with {recipe.threads} threads on a shared {platform.machine()} CPU without GPU \
in {minutes:.0f} minutes,
then rounded to fp16.
"""


def row(name: str, score: Score) -> str:
    return (
        f"| {name} | {score.nats_per_token:.3f} | {score.perplexity:.1f} "
        f"| {score.bits_per_byte:.3f} |"
    )


def results_section(evaluation: Evaluation) -> str:
    rows = [
        row("this model (fp16 weights)", evaluation.model),
        row("bigram, interpolated absolute discounting", evaluation.bigram),
        row("unigram, add-k", evaluation.unigram),
    ]
    table = "\n".join(rows)
    return f"""## Results

On the {evaluation.tokens:,} held-out tokens ({evaluation.bytes:,} bytes), in windows of at most
512 tokens. All three see exactly the same inputs and targets; the smoothing of the baselines is
tuned on training text only.

| predictor | nats per token | perplexity | bits per byte |
| --- | --- | --- | --- |
{table}

Perplexity depends on the vocabulary: compare with other models by bits per byte only.
"""


def samples_section(samples: list[str]) -> str:
    texts = "\n\n".join(f"```text\n{text.strip()}\n```" for text in samples)
    return f"""## Samples

Temperature 0.8, top 40, one fixed seed each, not selected. The first lines are the prompts.

{texts}
"""


def closing_section() -> str:
    return """## Intended use and limits

For demonstrations, documentation and tests. It has picked up the form of the plays (speakers,
stage directions, verse lines) and little of their sense: it writes no connected argument, knows
no facts, and knows no language but Shakespeare's English. Like its source it can produce violent
or demeaning lines. It is far too small for any other use.
"""
