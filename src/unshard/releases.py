"""What Meta published, as far as a download needs it: names, counts, md5s.

Sources: metaseq `projects/OPT/download_opt175b.md`, `projects/OPT/assets/` and
`projects/OPTIML/download_optiml175b.md`.
"""

from __future__ import annotations

from dataclasses import dataclass

from unshard.manifest import Digest


@dataclass(frozen=True, slots=True)
class Release:
    """One published set of weights behind a presigned URL.

    `template_name` is the last path segment of the URL that Meta mails out.
    """

    name: str
    template_name: str
    file_names: tuple[str, ...]


OPT_175B = Release(
    "OPT-175B",
    "stubbed.pt",
    tuple(
        f"checkpoint_last-model_part-{tp_rank}-shard{fsdp_rank}.pt"
        for tp_rank in range(8)
        for fsdp_rank in range(124)
    ),
)
OPT_IML_175B = Release(
    "OPT-IML-175B",
    "checkpoint_1_8000-model_part-*.pt",
    tuple(f"checkpoint_1_8000-model_part-{tp_rank}.pt" for tp_rank in range(16)),
)
OPT_IML_MAX_175B = Release(
    "OPT-IML-Max-175B",
    "checkpoint_1_12000-model_part-*.pt",
    tuple(f"checkpoint_1_12000-model_part-{tp_rank}.pt" for tp_rank in range(16)),
)

BY_TEMPLATE_NAME = {r.template_name: r for r in (OPT_175B, OPT_IML_175B, OPT_IML_MAX_175B)}

TOKENIZER_DIGESTS = {
    "dict.txt": Digest("md5", "934def0c596e01dfb849fa65b73e01aa"),
    "gpt2-merges.txt": Digest("md5", "75a37753dd7a28a2c5df80c28bf06e4e"),
    "gpt2-vocab.json": Digest("md5", "cf410ee085c5c69c957bb1f6d8456596"),
}
"""Every OPT model uses these three files."""


def dict_txt(vocab_size: int) -> bytes:
    """The `dict.txt` of a model with `vocab_size` tokens (50272 for every OPT).

    It lists token ids as words with count 1; ids 0 to 3 are fairseq's implied specials.
    """
    return b"".join(b"%d 1\n" % token_id for token_id in range(4, vocab_size))
