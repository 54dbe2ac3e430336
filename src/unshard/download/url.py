"""Presigned URLs: one URL that stands for many files, and a query that is a secret."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import chain, zip_longest
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

from unshard.errors import UsageError
from unshard.manifest import file_name_problem

STUB = "stubbed.pt"
"""Meta's placeholder for a whole file name."""

PART, SHARD = "{part}", "{shard}"

_PLACEHOLDER = re.compile(r"\*|\{part\}|\{shard\}")

_SIGNED_QUERY_KEYS = (
    "Expires", "Policy", "Signature", "Key-Pair-Id", "X-Amz-", "X-Goog-", "AWSAccessKeyId",
    "GoogleAccessId",
)  # fmt: skip
"""A signature takes several of these, so one alone is what a shell left of them."""

_GIVE_IT_WHOLE = (
    "put the URL in single quotes, or pass it on stdin (`-`) or in the variable UNSHARD_URL"
)


@dataclass(frozen=True, slots=True, repr=False)
class PresignedTemplate:
    """A URL whose last path segment stands for file names.

    `name` is that segment: `stubbed.pt` (any file name takes its place), a pattern (names that
    fit it do), or the plain name of a single file. A pattern has one `*` for any text, or
    `{part}`, `{shard}` or one of each for numbers.
    `query` is the secret: kept byte for byte, never shown by `str` or `repr`.
    """

    origin: str
    """`https://host[:port]`"""
    folder: str
    """Path up to and including the last slash, as it stands in the URL."""
    name: str
    query: str = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> PresignedTemplate:
        """The template written in `text`.

        Raises:
            UsageError: not such a URL, or one that lost its query on the way here. The
                message never repeats the query.
        """
        text = text.strip()
        _check_characters(text)
        address, has_query, query = text.partition("?")
        parts = _split(address)
        if "@" in parts.netloc:
            raise UsageError("the URL has a user name or password before its host")
        folder, slash, last = parts.path.rpartition("/")
        name = unquote(last)
        problem = file_name_problem(name)
        placeholders = sorted(_PLACEHOLDER.findall(name))
        if problem or (len(placeholders) > 1 and placeholders != [PART, SHARD]):
            raise UsageError(
                f"the URL must end in one file name or pattern: {problem or name}",
                hint="for example https://host/folder/reshard-model_part-*.pt",
            )
        _check_query(name, query, bool(has_query))
        return cls(f"{parts.scheme}://{parts.netloc}", folder + slash, name, query)

    def __str__(self) -> str:
        return f"{self.origin}{self.folder}{self.name}{'?…' if self.query else ''}"

    def __repr__(self) -> str:
        return f"PresignedTemplate({str(self)!r})"

    @property
    def is_pattern(self) -> bool:
        """Whether `name` has a `*`, `{part}` or `{shard}`."""
        return _PLACEHOLDER.search(self.name) is not None

    @property
    def has_shards(self) -> bool:
        """Whether `name` has both numbers: every part is so many shards."""
        return PART in self.name and SHARD in self.name

    def names(self, num_parts: int, num_shards: int | None = None) -> tuple[str, ...]:
        """The file names of parts 0 to `num_parts` - 1 under a pattern, part by part; of each
        its shards 0 to `num_shards` - 1 where the pattern has `{part}` and `{shard}`.

        Raises:
            UsageError: the URL has no pattern, or `num_shards` is wanting or too much.
        """
        if not self.is_pattern:
            raise UsageError(f"{self.name}: no `*` in the URL for the number of the part")
        if self.has_shards and num_shards is None:
            raise UsageError(f"{self}: how many shards has a part?", hint="give --shards NUMBER")
        if not self.has_shards and num_shards is not None:
            raise UsageError(f"{self}: no {PART} and {SHARD} in the URL to count shards with")
        return tuple(
            self._name({"*": part, PART: part, SHARD: shard if self.has_shards else part})
            for part in range(num_parts)
            for shard in range(num_shards or 1)
        )

    def _name(self, numbers: Mapping[str, int]) -> str:
        return _PLACEHOLDER.sub(lambda found: str(numbers[found[0]]), self.name)

    def path_of(self, name: str) -> str:
        """The URL's path for the file `name`, percent-encoded, without the query.

        Raises:
            UsageError: the URL cannot stand for a file of that name.
        """
        if not self._fits(name):
            raise UsageError(
                f"{name}: the URL is for {self.name} and cannot name this file",
                hint="is this the manifest of that URL?",
            )
        return self.folder + quote(name, safe="!$'()*,:;=@")

    def _fits(self, name: str) -> bool:
        if self.name in (STUB, name):
            return True
        fixed = map(re.escape, _PLACEHOLDER.split(self.name))
        varying = (".+" if each == "*" else "[0-9]+" for each in _PLACEHOLDER.findall(self.name))
        pattern = "".join(chain.from_iterable(zip_longest(fixed, varying, fillvalue="")))
        return re.fullmatch(pattern, name) is not None

    def expires_at(self) -> datetime | None:
        """When the link says that it ends (UTC), or None when it does not say.

        Knows CloudFront's `Expires` and `Policy`, S3's `X-Amz-Date` + `X-Amz-Expires` (GCS has
        the same as `X-Goog-`), the older `Expires` of both, and Azure's `se`.
        """
        fields = {key: values[0] for key, values in parse_qs(self.query).items()}
        try:
            for vendor in ("X-Amz-", "X-Goog-"):
                if f"{vendor}Date" in fields:
                    signed = datetime.strptime(fields[f"{vendor}Date"], "%Y%m%dT%H%M%SZ")
                    lifetime = timedelta(seconds=int(fields.get(f"{vendor}Expires", "")))
                    return signed.replace(tzinfo=UTC) + lifetime
            if "se" in fields and "sig" in fields:
                end = datetime.fromisoformat(fields["se"])
                return end.astimezone(UTC) if end.tzinfo else end.replace(tzinfo=UTC)
            seconds = fields.get("Expires") or _policy_end(fields.get("Policy", ""))
            return datetime.fromtimestamp(int(seconds), UTC)
        except (ValueError, OverflowError, OSError):
            return None  # an unusual query says nothing about its end; the link may still work


_HOST = re.compile(r"[\w.:-]+")
"""What a host's name or address is made of; nothing that needs an escape."""


def _split(address: str) -> SplitResult:
    """The parts of a URL that has an HTTP scheme, a host and, if any, a sane port."""
    try:
        parts = urlsplit(address)
        is_host = parts.hostname is not None and _HOST.fullmatch(parts.hostname)
        if parts.scheme in ("http", "https") and is_host and parts.port != 0:
            return parts
    except ValueError:
        pass  # a broken IPv6 address or port: said below like every other broken beginning
    raise UsageError("the URL does not begin with https:// and a host", hint=_GIVE_IT_WHOLE)


def _policy_end(policy: str) -> str:
    """Epoch seconds in a CloudFront custom policy (base64 with `-_~` for `+=/`), or ""."""
    try:
        decoded = base64.b64decode(policy.translate(str.maketrans("-_~", "+=/")))
        condition = json.loads(decoded)["Statement"][0]["Condition"]
        return str(condition["DateLessThan"]["AWS:EpochTime"])
    except (binascii.Error, ValueError, LookupError, TypeError, RecursionError):
        return ""


def _check_characters(text: str) -> None:
    if not text.isascii() or any(c.isspace() or not c.isprintable() for c in text):
        raise UsageError(
            "the URL has spaces, line ends or characters outside ASCII", hint=_GIVE_IT_WHOLE
        )
    if any(c in text for c in "\\\"'<>#"):
        raise UsageError(
            "the URL has quotes, backslashes, angle brackets or `#` in it",
            hint="copy the bare link; inside quotes the shell wants no backslashes",
        )


def _check_query(name: str, query: str, has_query: bool) -> None:
    """Tell a link that lost its signature on the way from one that is public."""
    if "&amp;" in query:
        raise UsageError(
            "the URL was copied from HTML source: it has `&amp;` where `&` belongs",
            hint="copy the link itself",
        )
    keys = list(parse_qs(query, keep_blank_values=True))
    is_first_half = len(keys) == 1 and keys[0].startswith(_SIGNED_QUERY_KEYS)
    is_empty = (has_query or name == STUB) and not query.strip("&")
    if is_first_half or is_empty:
        raise UsageError(
            "the URL has lost part of its query (the shell ends a command at `&`)",
            hint=_GIVE_IT_WHOLE,
        )
