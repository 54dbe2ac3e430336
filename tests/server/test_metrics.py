"""`/metrics` is Prometheus' format, and counts what happened."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from own_server import own_server

from unshard.server.exposition import Histogram, family
from unshard.server.manners import Manners

SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\\n]|\\[\\"n])*",?)+)\})? (\S+)\n')


def parse(text: str) -> dict[tuple[str, frozenset], float]:
    """The samples, after the rules of the format were checked."""
    samples, kinds = {}, {}
    for line in text.splitlines(keepends=True):
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert name not in kinds
            kinds[name] = kind
        elif not line.startswith("# HELP "):
            name, labels, value = SAMPLE.fullmatch(line).groups()
            base = re.sub("_(bucket|sum|count)$", "", name)
            assert {name, base} & kinds.keys()
            assert kinds.get(name) != "counter" or name.endswith("_total")
            pairs = re.findall(r'([a-z]+)="((?:[^"\\]|\\.)*)"', labels or "")
            key = name, frozenset(pairs)
            assert key not in samples
            samples[key] = float(value)
    return samples


def read(server):
    answer = server.client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    samples = parse(answer.text)
    return lambda name, **labels: samples.get((f"unshard_{name}", frozenset(labels.items())), 0)


def test_what_is_counted():
    with own_server(Manners()) as server:
        before = read(server)
        assert before("generated_tokens_total") == before("first_token_seconds_count") == 0
        body = {"prompt": ["ab", "abc"], "max_tokens": 5}
        assert server.client.post("/v1/completions", json=body).is_success
        server.client.post("/v1/completions", json={"prompt": 5})
        server.client.get("/v1/models/other")
        for number in range(3):
            server.client.get(f"/made/up/{number}")
        after = read(server)
        of = {"method": "POST", "path": "/v1/completions"}
        assert after("requests_total", code="200", **of) == 1
        assert after("requests_total", code="400", **of) == 1
        model = {"method": "GET", "path": "/v1/models/{name:path}"}
        assert after("requests_total", code="404", **model) == 1
        assert after("requests_total", method="GET", path="other", code="404") == 3
        assert after("requests_open") == 1  # this one
        assert after("prompt_tokens_total") == 3 + 4
        assert after("generated_tokens_total") == 10
        assert after("first_token_seconds_count") == 2
        assert after("between_tokens_seconds_count") == 8
        assert after("between_tokens_seconds_bucket", le="+Inf") == 8
        assert after("between_tokens_seconds_sum") > 0
        assert after("cache_blocks", state="used") == 4
        assert after("cache_blocks", state="free") == 6
        assert after("cache_tokens_total", found="yes") == 16
        assert after("steps_total") == 7


def test_methods_that_nobody_knows_make_no_series():
    with own_server(Manners()) as server:
        for method in ("BREW", "STIR", "X" * 50):
            server.client.request(method, "/health")
        assert read(server)("requests_total", method="other", path="/health", code="405") == 3


@given(st.lists(st.floats(0, 100)))
def test_a_histogram_counts_each_value_in_every_bucket_that_holds_it(values):
    bounds = (0.5, 1.0, 10.0)
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)
    samples = parse("".join(histogram.lines("h", "x")))
    for bound, le in zip(bounds, ("0.5", "1", "10"), strict=True):
        expected = sum(value <= bound for value in values)
        assert samples["h_bucket", frozenset({("le", le)})] == expected
    assert samples["h_bucket", frozenset({("le", "+Inf")})] == len(values)
    assert samples["h_sum", frozenset()] == pytest.approx(sum(values))


@given(st.text('a"\\\n{}é', max_size=20))
def test_any_label_is_escaped(label):
    text = "".join(family("unshard_x", "gauge", "x", [({"path": label}, 1)]))
    head, _, sample = text.partition("\n# TYPE unshard_x gauge\n")
    assert head == "# HELP unshard_x x"
    escaped = re.fullmatch(r'unshard_x\{path="(.*)"\} 1\n', sample, re.DOTALL)[1]
    assert "\n" not in escaped
    plain = re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], escaped)
    assert plain == label
