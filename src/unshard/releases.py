"""What Meta published: names, counts and md5s of files.

Sources: metaseq `projects/OPT/README.md`, `projects/OPT/download_opt175b.md` and its history,
`projects/OPT/assets/`, `projects/OPT-IML/README.md`, `projects/OPT-IML/download_optiml175b.md` and
metaseq's issues.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from unshard.manifest import Digest, Manifest


@dataclass(frozen=True, slots=True)
class Release:
    """One published set of weights behind a presigned URL.

    `template_name` is the last path segment of the URL that Meta mails out, `manifest_name` the
    list of md5s among `ASSETS`. (That of OPT-66B is not used by itself: it gives parts 5 and 6
    one md5, so it would refuse one that is right.) `md5s` are those that a page of metaseq prints,
    in the order of `file_names`.
    """

    name: str
    template_name: str
    file_names: tuple[str, ...]
    manifest_name: str | None = None
    md5s: tuple[str, ...] = ()

    @property
    def printed(self) -> Manifest:
        """The manifest that `md5s` are."""
        pairs = zip(self.file_names, self.md5s, strict=True)
        return Manifest({name: Digest("md5", md5) for name, md5 in pairs}, OPT_IML_PAGE)


OPT_175B = Release(
    "OPT-175B",
    "stubbed.pt",
    tuple(
        f"checkpoint_last-model_part-{tp_rank}-shard{fsdp_rank}.pt"
        for tp_rank in range(8)
        for fsdp_rank in range(124)
    ),
    "opt175b_md5sum_shards.csv",
)
OPT_IML_PAGE = (
    "https://github.com/facebookresearch/metaseq/blob/main/projects/OPT-IML/download_optiml175b.md"
)
"""Prints the md5s of both, which no file lists."""
OPT_IML_175B = Release(
    "OPT-IML-175B",
    "checkpoint_1_8000-model_part-*.pt",
    tuple(f"checkpoint_1_8000-model_part-{tp_rank}.pt" for tp_rank in range(16)),
    md5s=(
        "a8809edad238abb920e1ca0d5b12cd04",
        "7f0a4b4ec8f1a1f37c8be3d6f93e44d0",
        "2a735db09730c9da8397371656607e0d",
        "60a80be167efc83eb63c4a416f766ac9",
        "78e0ca192545a56b25d04fa009075257",
        "eb3d89b5dfe3cc27832627975dc108f3",
        "81899420c1541bd9ca034321145e21a0",
        "6b8e8a440f4cc5db312f84ec3190195d",
        "4f222a45f62906269d7918574637abca",
        "d6061fa25bf32af09db3efa364629f72",
        "0e90c1a503ba3967cba334b6de20baa7",
        "43c612e5a3259d28b1376f5c066610bd",
        "87edcc793f3c3b2bb4a6050e30e3dba9",
        "1179225d9b54169ba4bcbc8075af8974",
        "cf4014baa49771d3963acaff23193ab4",
        "2833ee83c2e36574a5709c7f23af2262",
    ),
)
OPT_IML_MAX_175B = Release(
    "OPT-IML-Max-175B",
    "checkpoint_1_12000-model_part-*.pt",
    tuple(f"checkpoint_1_12000-model_part-{tp_rank}.pt" for tp_rank in range(16)),
    md5s=(
        "4ffe8d95096228cc422a69639ebc1c76",
        "036f3a04c668f53f4b423ab313641b6a",
        "d445a8df023705962259da22d4872ba9",
        "49010d67e70d7ba7f9a23f8e57bf1f50",
        "acfc906cb599477ccf6e693a284cd820",
        "f999a3234e3e84aa0f9b5203ecebcb91",
        "3e84250c799315679b77814995a4c869",
        "c005e0113a1586439415ff4a4a45a270",
        "7de79b7e446e5b6403d2efeff091a0e5",
        "e63005b42c386c3f052b00ff7f76462a",
        "56ffe0da9aa2acad8f110496358a30b8",
        "4916de70218e56e8789efe0b86d66bcb",
        "0cd947260e8bf3b4dad64e886120bf51",
        "a45a6d61bf48d40da0da5e7ac1c503fe",
        "ebe01faf5fce59a5944952827947d652",
        "80e8f31b90fe2db2607c955db637e9ee",
    ),
)

BY_TEMPLATE_NAME = {r.template_name: r for r in (OPT_175B, OPT_IML_175B, OPT_IML_MAX_175B)}


@dataclass(frozen=True, slots=True)
class PublicRelease:
    """One published set of weights that anybody may download: `num_parts` files, whose numbers
    from 0 take the place of the `*` in `url`."""

    url: str
    num_parts: int


_PUBLIC = "https://dl.fbaipublicfiles.com/opt"


def _public_parts(size: str, num_parts: int) -> PublicRelease:
    return PublicRelease(f"{_PUBLIC}/v1_20230405/{size}/reshard-model_part-*.pt", num_parts)


def _public_iml(tasks: str, num_updates: int) -> PublicRelease:
    """OPT-IML-30B: Meta calls it after how it was trained."""
    training = (
        f"aws.v7{tasks}.prop10.30b.eps_4096.docsep_2.mu{num_updates}.wu60.bsz8.clip1.0.fp32adam."
        "rs1234.lr5e-05.pat_8000.ngpu64"
    )
    names = f"checkpoint_1_{num_updates}.pt-model_part-*.pt"
    return PublicRelease(f"{_PUBLIC}iml/{training}/mp2/{names}", 2)


PUBLIC = {
    "opt-125m": _public_parts("125m", 1),
    "opt-350m": PublicRelease(f"{_PUBLIC}/v1_20220502/350m/reshard.pt", 1),
    "opt-1.3b": _public_parts("1.3b", 1),
    "opt-2.7b": _public_parts("2.7b", 1),
    "opt-6.7b": _public_parts("6.7b", 1),
    "opt-13b": _public_parts("13b", 2),
    "opt-30b": _public_parts("30b", 4),
    "opt-66b": _public_parts("66b", 8),
    "opt-iml-30b": _public_iml("", 4000),
    "opt-iml-max-30b": _public_iml(".2000", 6000),
}
"""By the name that the command line takes. Meta lists md5s of OPT-66B only."""

BY_LINK_ONLY = {
    "opt-175b": OPT_175B.template_name,
    "opt-iml-175b": OPT_IML_175B.template_name,
    "opt-iml-max-175b": OPT_IML_MAX_175B.template_name,
    "opt-iml-1.3b": None,
    "opt-iml-max-1.3b": None,
}
"""Sets of weights that have a name, and no public URL that is known here: how the links end that
Meta mails, or None where the sources above do not say which files there are."""

TOKENIZER_DIGESTS = {
    "dict.txt": Digest("md5", "934def0c596e01dfb849fa65b73e01aa"),
    "gpt2-merges.txt": Digest("md5", "75a37753dd7a28a2c5df80c28bf06e4e"),
    "gpt2-vocab.json": Digest("md5", "cf410ee085c5c69c957bb1f6d8456596"),
}
"""Every OPT model uses these three files. The md5s are those that the OPT-175B page prints."""
OPT_VOCAB_SIZE = 50272

ASSETS = "https://raw.githubusercontent.com/facebookresearch/metaseq/main/projects/OPT/assets/"
"""Where metaseq publishes the tokenizer's two files and md5s; `dict.txt` went from there."""


def has_opt_tokenizer(address: str, names: Iterable[str]) -> bool:
    """Whether the files `names` behind the URL `address` are a whole release of OPT.

    The names of a presigned release tell it; those of a public one are every consolidated
    checkpoint's, so there its address has to.
    """
    if any(address == release.url for release in PUBLIC.values()):
        return True
    wanted = frozenset(names)
    return any(wanted == frozenset(r.file_names) for r in BY_TEMPLATE_NAME.values())


def tokenizer_digests(vocab_size: int) -> dict[str, Digest]:
    """What a model with `vocab_size` tokens has beside its weights, as far as it is known:
    only OPT's own vocabulary has published merges."""
    if vocab_size == OPT_VOCAB_SIZE:
        return dict(TOKENIZER_DIGESTS)
    content = dict_txt(vocab_size)
    return {"dict.txt": Digest("md5", hashlib.md5(content, usedforsecurity=False).hexdigest())}


def dict_txt(vocab_size: int) -> bytes:
    """The `dict.txt` of a model with `vocab_size` tokens (50272 for every OPT).

    It lists token ids as words with count 1; ids 0 to 3 are fairseq's implied specials.
    """
    return b"".join(b"%d 1\n" % token_id for token_id in range(4, vocab_size))


OPT_175B_SIZE = (96, 12288)
"""Layers and hidden size."""
PART_NAMES = tuple(f"reshard-model_part-{tp_rank}.pt" for tp_rank in range(8))
"""OPT-175B's consolidated parts."""


@dataclass(frozen=True, slots=True)
class PartsDigests:
    """The md5s of OPT-175B's consolidated parts, in order, as one run wrote them.

    All of these sets are of the same weights: md5s of what `torch.save` writes say as much of
    the program that wrote as of what it wrote.
    """

    origin: str
    script: str
    """Which of metaseq's scripts wrote them, and what it put into the files."""
    issues: tuple[int, ...]
    """Numbers of metaseq's issues and pull requests."""
    md5s: tuple[str, ...]


KNOWN_PARTS = (
    PartsDigests(
        "printed on the OPT-175B page from June 2022 to 2023-01-06",
        "reshard_mp.py of 2022: flat parameters, no shard_metadata",
        (81, 141),
        (
            "7e71cb65c4be784aa0b2889ac6039ee8",
            "c8123da04f2c25a9026ea3224d5d5022",
            "45e5d10896382e5bc4a7064fcafd2b1e",
            "abb7296c4d2fc17420b84ca74fc3ce64",
            "05dcc7ac6046f4d3f90b3d1068e6da15",
            "d24dd334019060ce1ee7e625fcf6b4bd",
            "fb1615ce0bbe89cc717f3e5079ee2655",
            "2f3124432d2dbc6aebfca06be4b791c2",
        ),
    ),
    PartsDigests(
        "printed on the OPT-175B page from 2023-01-06 to 2023-04-06",
        "reshard_fsdp.py with --input-glob-pattern, --output-shard-name: no shard_metadata",
        (459, 590, 591),
        (
            "343a4ac67acf952e3287a270d4bc430c",
            "becb3f4d6bbc9a7e48539f0007a8ffa1",
            "1dac146a02256b0ca1dd482e3bf3e8e4",
            "d4806579a1cd8980ed6d626add9bd68c",
            "c5054a509eac01d78f1486feb00589f8",
            "bf24e54c033dc4712602f1222c9ef453",
            "9a705f5ca36996adfe08e9ef82f4a340",
            "91e7f6b87c802a6c8ed9a34a4be9d7e7",
        ),
    ),
    PartsDigests(
        "printed on the OPT-175B page since 2023-04-06",
        "reshard_fsdp.py with --input, --output: shard_metadata kept",
        (698, 702, 703),
        (
            "14284cd62d00166bf4a16b7ac43b4946",
            "bd9daba744d65f628e24a561ebc692ae",
            "8e3b35dfd55ad6dc6340458ad7c7c3a1",
            "48f1f189b33976392e7e64677382c6b7",
            "9e5906c44cef3f4996aec6f02fe01bef",
            "32b69d07dce2dd6b38f987a09a3286dd",
            "e9b9de69f5373d1435a8b2e9a3093d7e",
            "99349ce86ed401f715759dca68c35358",
        ),
    ),
    PartsDigests(
        "reported on 2023-01-06 by a user whose 992 files were right",
        "reshard_fsdp.py before shard_metadata was kept, on another machine",
        (590,),
        (
            "ca52a4d1a3d1672b5249481169078469",
            "5c776fbc0f212df52fbf83b0ca4c7a64",
            "73e90bef8877f96674800712269149ae",
            "94d9442ec9fe04eab633df27d6e3ab5a",
            "dac742fe02fba6d500375bdd0a5113ea",
            "42485e9f21c759cae1f22079c0971a0b",
            "48ee0e983a8cde23b7544213e329afec",
            "ac62284b7f93d1f2a28eef6779cabeae",
        ),
    ),
    PartsDigests(
        "reported on 2023-04-13 by a user whose 992 files were right",
        "reshard_fsdp.py after shard_metadata was kept, on another machine",
        (711,),
        (
            "b0ea734369ec223ebdaea79929ea9ff8",
            "0782475925ef19a125614aeaf55cbfcb",
            "c29569635ec1d6ef7348b9331f7eeafb",
            "e2a3fa645c52ad8efc9b91a7d8912431",
            "04b2d47e42ef253c84e5c6748ccf5789",
            "40e3bb060ad75c915658b483a6021850",
            "84d0a78282e3d9fc21fff71b05b21661",
            "4cd9a318c75edea1584b610cc99dd0c8",
        ),
    ),
)
