"""Streamed equals whole, for any request and whatever else runs: through HTTP, on the bundled
model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import as_file, files

import httpx
import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_engine import CHAT_TEMPLATE
from sse import events, joined, joined_chat

from unshard.server.app import create_app
from unshard.server.chat_template import ChatTemplate
from unshard.server.generation import Generations
from unshard.server.run import bind, url_of
from unshard.server.served import ServedModel

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
AT_ONCE = 10

MAX_TOKENS = st.integers(1, 12)

texts = st.text("ab éKING HENRY.\n日😀", max_size=12)
sampling = {
    "temperature": st.sampled_from([0, 0.7, 1, 1.5]),
    "top_p": st.sampled_from([0.5, 0.9, 1]),
    "top_k": st.sampled_from([-1, 1, 5, 40]),
    "min_p": st.sampled_from([0, 0.1]),
    "presence_penalty": st.sampled_from([0, 1, -1]),
    "frequency_penalty": st.sampled_from([0, 0.5]),
    "repetition_penalty": st.sampled_from([1, 1.3]),
    "logit_bias": st.dictionaries(st.integers(0, 1535).map(str), st.integers(-100, 5), max_size=3),
    "stop": st.lists(st.text("ae \n,.r", min_size=1, max_size=3), max_size=3),
    "n": st.integers(1, 2),
}
completions = st.fixed_dictionaries(
    {
        "prompt": texts
        | st.lists(texts, min_size=1, max_size=3)
        | st.lists(st.integers(4, 1535), min_size=1, max_size=9),
        "seed": st.integers(-9, 9),
        "max_tokens": MAX_TOKENS,
    },
    optional=sampling
    | {"echo": st.booleans(), "logprobs": st.integers(0, 3), "min_tokens": st.just(1)},
).map(lambda body: (COMPLETIONS, body))
chats = st.fixed_dictionaries(
    {
        "messages": st.lists(
            st.fixed_dictionaries(
                {"role": st.sampled_from(["user", "assistant"]), "content": texts}
            ),
            min_size=1,
            max_size=3,
        ),
        "seed": st.integers(-9, 9),
        "max_completion_tokens": MAX_TOKENS,
    },
    optional=sampling | {"logprobs": st.booleans()},
).map(lambda body: (CHAT, body))
requests = completions | chats


@pytest.fixture(scope="module")
def model_client() -> Iterator[httpx.Client]:
    from unshard.engine.engine_thread import EngineThread
    from unshard.engine.load import load_engine
    from unshard.index.build import open_checkpoint

    with as_file(files("unshard") / "demo_model") as folder:
        engine = load_engine(open_checkpoint(str(folder)), max_batch=8)
    thread = EngineThread(engine)
    template = ChatTemplate(CHAT_TEMPLATE)
    served = ServedModel("demo", thread, engine.tokenizer, 0, chat_template=template)
    bound = bind("127.0.0.1", 0)
    app = create_app(served, Generations(thread))
    config = uvicorn.Config(app, http="h11", ws="none", log_config=None)
    server = uvicorn.Server(config)
    bound.listen()
    running = threading.Thread(target=lambda: asyncio.run(server.serve([bound])))
    running.start()
    with httpx.Client(base_url=url_of(bound), timeout=100) as client:
        yield client
    server.should_exit = True
    running.join()


def whole(client: httpx.Client, url: str, body: dict) -> tuple[list[dict], dict]:
    answer = client.post(url, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"], answer.json()["usage"]


def streamed(client: httpx.Client, url: str, body: dict) -> tuple[list[dict], dict]:
    *chunks, last, done = events(client, url, **body, stream_options={"include_usage": True})
    assert done == "[DONE]"
    prompt = body.get("prompt", "")
    many = isinstance(prompt, list) and isinstance(prompt[0], str)
    number = body.get("n", 1) * (len(prompt) if many else 1)
    put_together = joined_chat if url == CHAT else joined
    return put_together(chunks, number), last["usage"]


def same(one: object, other: object) -> bool:
    """Equal; of scores, to the rounding of batches of other sizes."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) < 1e-3
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def assert_all_alike(client: httpx.Client, calls: list[tuple[str, dict]]) -> None:
    """Each of `calls` twice, whole and streamed, all at once."""
    with ThreadPoolExecutor(2 * len(calls)) as pool:
        asked = [
            (pool.submit(whole, client, url, body), pool.submit(streamed, client, url, body))
            for url, body in calls
        ]
        for one, other in asked:
            assert same(one.result(), other.result())


def test_at_once_on_a_scripted_engine(client):
    bodies = [{"prompt": f"{n}", "n": 2, "logprobs": 1, "echo": n % 2 == 0} for n in range(4)]
    chats = [{"messages": [{"role": "user", "content": f"{n}"}], "n": 2} for n in range(4)]
    assert_all_alike(client, [(COMPLETIONS, b) for b in bodies] + [(CHAT, b) for b in chats])


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=200, deadline=None)
@given(request=requests)
def test_one_after_the_other(model_client, request):
    assert same(whole(model_client, *request), streamed(model_client, *request))


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(calls=st.lists(requests, min_size=AT_ONCE, max_size=AT_ONCE))
def test_at_once(model_client, calls):
    assert_all_alike(model_client, calls)
