"""One URL for many files, whose query is kept exactly and never shown."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unshard import releases
from unshard.download import PresignedTemplate
from unshard.errors import UsageError

QUERY = "&Policy=eyJTdGF0ZW1lbnQi_-~&Signature=AbC~dEf-123_xyz%2fq&Key-Pair-Id=APKAEXAMPLE"
META = f"https://cdn.example/175b/checkpoint_last_20220503/stubbed.pt?{QUERY}"


def parse(name: str) -> PresignedTemplate:
    return PresignedTemplate.parse(f"https://cdn.example/regular/{name}?{QUERY}")


def test_metas_template_stands_for_every_published_file():
    template = PresignedTemplate.parse(META + "\n")
    name = "checkpoint_last-model_part-7-shard123.pt"
    assert template.path_of(name) == f"/175b/checkpoint_last_20220503/{name}"
    assert (template.origin, template.query) == ("https://cdn.example", QUERY)
    assert releases.BY_TEMPLATE_NAME[template.name] is releases.OPT_175B


@pytest.mark.parametrize("placeholder", ["*", "{part}", "{shard}"])
def test_a_pattern_names_its_parts_and_fits_nothing_else(placeholder):
    template = parse(f"reshard-model_part-{placeholder}.pt")
    assert template.names(2) == ("reshard-model_part-0.pt", "reshard-model_part-1.pt")
    assert template.path_of("reshard-model_part-1.pt") == "/regular/reshard-model_part-1.pt"
    for other in ("reshard-model_part-.pt", "reshard.pt", "x-reshard-model_part-1.pt"):
        with pytest.raises(UsageError, match="cannot name this file"):
            template.path_of(other)


def test_a_pattern_of_parts_and_shards_names_each_shard_of_each_part():
    template = parse("last-model_part-{part}-shard{shard}.pt")
    assert template.names(2, 3) == tuple(
        f"last-model_part-{part}-shard{shard}.pt" for part in (0, 1) for shard in (0, 1, 2)
    )
    assert template.path_of("last-model_part-7-shard123.pt").endswith("part-7-shard123.pt")
    for other in ("last-model_part-7-shard.pt", "last-model_part-x-shard1.pt"):
        with pytest.raises(UsageError, match="cannot name this file"):
            template.path_of(other)
    with pytest.raises(UsageError, match="how many shards"):
        template.names(2)
    with pytest.raises(UsageError, match="to count shards with"):
        parse("last-model_part-{part}.pt").names(2, 3)


@pytest.mark.parametrize("name", ["a-{part}-{part}.pt", "a-*-{shard}.pt", "{shard}{shard}{part}"])
def test_other_sets_of_placeholders_are_no_pattern(name):
    with pytest.raises(UsageError, match="must end in one file name or pattern"):
        parse(name)


@given(st.integers(1, 5), st.integers(1, 5))
def test_every_name_of_a_pattern_is_its_own_and_fits(num_parts, num_shards):
    template = parse("{shard}+({part}).pt")
    names = template.names(num_parts, num_shards)
    assert len(set(names)) == num_parts * num_shards
    assert all(template.path_of(name) for name in names)


def test_a_plain_name_is_itself_alone():
    template = PresignedTemplate.parse("https://cdn.example/opt/reshard.pt")
    assert template.path_of("reshard.pt") == "/opt/reshard.pt"
    with pytest.raises(UsageError):
        template.path_of("other.pt")
    with pytest.raises(UsageError):
        template.names(2)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "stubbed.pt?" + QUERY,
        "ftp://cdn.example/stubbed.pt?" + QUERY,
        "https:///stubbed.pt?" + QUERY,
        "https://user:pass@cdn.example/stubbed.pt?" + QUERY,
        "https://cdn.example/folder/?" + QUERY,
        "https://cdn.example/*/part-*-*.pt?" + QUERY,
        "https://cdn.example/%2e%2e?" + QUERY,
        "https://cdn.example/..%2fx.pt?" + QUERY,
        "https://[cdn.example/x.pt?" + QUERY,
        "https://cdn.example:abc/x.pt?" + QUERY,
        META.replace("&", "&amp;"),
        META.replace("Policy", "\\Policy"),
        META + "\nhttps://cdn.example/",
        META + "#part",
        META + "é",
        META + "\x00",
    ],
)
def test_what_is_no_such_url_is_a_usage_error_that_repeats_no_secret(text):
    with pytest.raises(UsageError) as e:
        PresignedTemplate.parse(text)
    assert "AbC~dEf" not in f"{e.value} {e.value.hint}"


@pytest.mark.parametrize(
    "left",
    [
        "stubbed.pt",  # no query at all
        "stubbed.pt?",  # Meta's, cut at its first &
        "part-*.pt?",
        "part-*.pt?Policy=eyJTdGF0ZW1lbnQi",
        "part-*.pt?Expires=1700000000",
        "part-*.pt?X-Amz-Algorithm=AWS4-HMAC-SHA256",
    ],
)
def test_a_query_lost_in_the_shell_is_noticed(left):
    with pytest.raises(UsageError, match="lost part of its query") as e:
        PresignedTemplate.parse(f"https://cdn.example/regular/{left}")
    assert "quotes" in e.value.hint
    assert "UNSHARD_URL" in e.value.hint


def test_neither_str_nor_repr_shows_the_query():
    template = PresignedTemplate.parse(META)
    shown = "https://cdn.example/175b/checkpoint_last_20220503/stubbed.pt?…"
    assert str(template) == f"{template}" == shown
    assert repr(template) == f"PresignedTemplate({shown!r})"


@pytest.mark.parametrize(
    "query",
    [
        "&Expires=1700000000&Signature=x&Key-Pair-Id=y",
        "X-Amz-Date=20231114T221310Z&X-Amz-Expires=10&X-Amz-Signature=x",
        "X-Goog-Date=20231114T221310Z&X-Goog-Expires=10&X-Goog-Signature=x",
        "AWSAccessKeyId=y&Expires=1700000000&Signature=x",
        "GoogleAccessId=y&Expires=1700000000&Signature=x",
        "sv=2022-11-02&se=2023-11-14T22%3A13%3A20Z&sr=b&sig=x",
        "sv=2022-11-02&se=2023-11-14T23%3A13%3A20%2B01%3A00&sr=b&sig=x",
        "sv=2022-11-02&se=2023-11-14T22%3A13%3A20&sr=b&sig=x",
    ],
)
def test_the_end_of_a_link_is_read_from_it(query):
    template = PresignedTemplate.parse(f"https://cdn.example/stubbed.pt?{query}")
    assert template.expires_at() == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


def test_the_end_of_a_link_is_read_from_a_custom_policy():
    condition = {"DateLessThan": {"AWS:EpochTime": 1700000000}}
    policy = json.dumps({"Statement": [{"Resource": "*", "Condition": condition}]}).encode()
    field = base64.b64encode(policy).decode().translate(str.maketrans("+=/", "-_~"))
    template = PresignedTemplate.parse(
        f"https://cdn.example/stubbed.pt?&Policy={field}&Signature=s&Key-Pair-Id=k"
    )
    assert template.expires_at() == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


@given(st.text("abcXYZ0189=&%-_~+", max_size=80))
def test_a_strange_query_never_breaks_the_reading_of_its_end(junk):
    for query in (junk, f"Policy={junk}&Signature=", f"Expires={junk}&Signature="):
        PresignedTemplate("https://cdn.example", "/", "stubbed.pt", query).expires_at()
