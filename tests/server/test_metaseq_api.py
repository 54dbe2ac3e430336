"""The original's API: its fields, its answers' shape, and none of its known bugs."""

from __future__ import annotations

import uuid

import pytest
from scripted_engine import (
    BOS,
    EOS,
    MAX_POSITIONS,
    ByteTokenizer,
    ScriptedEngine,
    logprob_of,
)

from unshard.engine.request import (
    FactualNucleus,
    GenerationOutput,
    SamplingParams,
    ScoredToken,
    SourcePenalties,
)

TOKENIZER = ByteTokenizer()
URL = "/completions"
URLS = [
    "/completions",
    "/generate",
    "/engines/175b/completions",
    "/v1/engines/175b/completions",
    "/v2/engines/175b/completions",
]
NO_SOURCE = SourcePenalties()


def complete(client, url: str = URL, **body: object) -> dict:
    answer = client.post(url, json={"prompt": "p"} | body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def params(engine: ScriptedEngine) -> SamplingParams:
    return engine.submitted[-1].params


@pytest.mark.parametrize("url", URLS)
def test_every_path_answers_in_its_shape(client, engine, url):
    engine.say("ok", EOS)
    answer = complete(client, url)
    assert uuid.UUID(answer.pop("id"))
    assert isinstance(answer.pop("created"), int)
    scores = [logprob_of([BOS, *TOKENIZER.encode("pok")], i) for i in (2, 3)]
    assert answer == {
        "object": "text_completion",
        "model": "scripted",
        "choices": [
            {
                "text": "ok",
                "logprobs": {
                    "finish_reason": "stop",
                    "text_offset": [0, 1],
                    "token_logprobs": scores,
                    "tokens": ["o", "k"],
                    "top_logprobs": None,
                },
            }
        ],
    }


def test_defaults_are_the_original_s(client, engine):
    room = MAX_POSITIONS - 2
    expected = SamplingParams(room, logprobs=0, source_penalties=NO_SOURCE)
    complete(client)
    assert params(engine) == expected
    complete(client, max_tokens=-1, logprobs=-5, lambda_decay=-1, stop=None, best_of=None)
    assert params(engine) == expected
    complete(client, max_tokens=None, temperature=None, n=None, echo=None)
    assert params(engine) == expected


def test_fields_reach_the_engine_unrounded_and_spelled_numbers_count(client, engine):
    complete(
        client,
        prompt="a\r\nb\rc",
        max_tokens="9",
        min_tokens="2",
        temperature="0.25",
        top_p=0.95,
        stop=["\r\n", "Question:"],
        seed=4,
        echo=True,
        logprobs=3,
        lambda_decay=0.85,
        omega_bound=0.35,
        alpha_presence=2,
        alpha_frequency=0.5,
        alpha_presence_src=0.75,
        alpha_frequency_src=0.125,
        alpha_src_penalty_end_idx=5,
    )
    assert engine.submitted[-1].prompt_ids == (BOS, *TOKENIZER.encode("a\nb\nc"))
    assert params(engine) == SamplingParams(
        9,
        0.25,
        0.95,
        ("\n", "Question:"),
        4,
        logprobs=3,
        score_prompt=True,
        min_tokens=2,
        # It takes them after temperature, the engine before.
        presence_penalty=0.5,
        frequency_penalty=0.125,
        factual_nucleus=FactualNucleus(0.85, 0.35),
        source_penalties=SourcePenalties(0.75, 0.125, 5),
    )


def test_penalties_count_only_where_one_of_the_two_is_above_zero(client, engine):
    for presence, frequency, expected in [(-1, 0, (0, 0)), (-1, 0.5, (-1, 0.5)), (0, 0, (0, 0))]:
        complete(client, alpha_presence=presence, alpha_frequency=frequency, temperature=0)
        assert (params(engine).presence_penalty, params(engine).frequency_penalty) == expected


def test_no_top_p_is_greedy_and_more_than_one_is_one(client, engine):
    for top_p, expected in [(-0.5, 0), (0, 0), (7, 1)]:
        complete(client, top_p=top_p)
        assert params(engine).top_p == expected


def test_min_tokens_beyond_the_length_is_the_whole_length(client, engine):
    complete(client, max_tokens=3, min_tokens=9)
    assert (params(engine).max_tokens, params(engine).min_tokens) == (3, 3)


def test_max_tokens_are_all_of_them(client, engine):
    engine.say("abcdef")
    assert [complete(client, max_tokens=k)["choices"][0]["text"] for k in (0, 1, 4)] == [
        "", "a", "abcd",
    ]  # fmt: skip
    full = [BOS] * MAX_POSITIONS
    assert complete(client, prompt=full)["choices"][0]["logprobs"]["tokens"] == []


def test_echo_begins_with_the_end_token_that_nothing_predicts(client, engine):
    engine.say("z")
    for prompt in ("é", TOKENIZER.encode("é"), [BOS, *TOKENIZER.encode("é")]):
        choice = complete(client, prompt=prompt, echo=True, logprobs=2, max_tokens=1)["choices"][0]
        lists = choice["logprobs"]
        assert choice["text"] == "éz"
        assert lists["tokens"] == ["</s>", "bytes:\\xc3", "bytes:\\xa9", "z"]
        assert lists["text_offset"] == [0, 0, 0, 1]
        full = [BOS, *TOKENIZER.encode("éz")]
        assert lists["token_logprobs"] == [logprob_of(full, i) for i in range(4)]
        assert [top and len(top) for top in lists["top_logprobs"]] == [None, 2, 2, 2]
    scored = complete(client, prompt="ab", echo=True, max_tokens=0)["choices"][0]
    assert (scored["text"], scored["logprobs"]["tokens"]) == ("ab", ["</s>", "a", "b"])
    assert scored["logprobs"]["finish_reason"] == "length"


def test_the_best_are_those_asked_for_and_no_more(client, engine):
    """Unlike OpenAI's, the chosen token is not added."""

    def script(request):
        token = ScoredToken(20, -5.0, ((21, -0.5), (22, -1.0)))
        yield GenerationOutput(request.request_id, "x", (token,), finish_reason="length")

    engine.script = script
    [top] = complete(client, logprobs=2)["choices"][0]["logprobs"]["top_logprobs"]
    assert list(top.values()) == [-0.5, -1.0]


def test_a_stop_is_kept_whole_and_only_a_whole_one_stops(client, engine):
    engine.say("Quest Question: no")
    choice = complete(client, stop="Question:")["choices"][0]
    assert choice["text"] == "Quest Question:"
    assert choice["logprobs"]["finish_reason"] == "stop"
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
    assert choice["logprobs"]["text_offset"] == list(range(15))


def test_choices_of_a_prompt_come_by_the_sum_of_their_logprobs(client, engine):
    scores = [(-2.0,), (-1.0, -1.5), (-0.5,), (-9.0,)]

    def script(request):
        for number, score in enumerate(scores[request.choice]):
            end = "length" if number == len(scores[request.choice]) - 1 else None
            token = ScoredToken(TOKENIZER.encode(f"{request.choice}")[0], score)
            yield GenerationOutput(request.request_id, "", (token,), finish_reason=end)

    engine.script = script
    for n, best_of, texts in ((1, 4, ["2"]), (3, 4, ["2", "0", "11"]), (4, None, None)):
        answer = complete(client, prompt=["p", "q"], n=n, best_of=best_of)
        got = [choice["text"] for choice in answer["choices"]]
        assert got == (texts or ["2", "0", "11", "3"]) * 2


def test_fields_that_it_ignored_may_be_sent_without_effect(client, engine):
    complete(
        client, stream=False, suffix="", presence_penalty=0, frequency_penalty=0.0,
        logit_bias={}, user="me", model="scripted",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "param", "part"),
    [
        ({"prompt": None}, "prompt", "required"),
        ({"prompt": []}, "prompt", "empty list"),
        ({"prompt": ["a", 5]}, "prompt", "must be a string"),
        ({"prompt": [10**9]}, "prompt", "vocabulary"),
        ({"prompt": "x" * 99}, "prompt", "context"),
        ({"max_tokens": 99}, "prompt", "context"),
        ({"max_tokens": "many"}, "max_tokens", "integer"),
        ({"temperature": -0.1}, "temperature", "greater"),
        ({"n": 0}, "n", "greater"),
        ({"n": 2, "best_of": 1}, "best_of", "less than n"),
        ({"best_of": 17}, "best_of", "less"),
        ({"logprobs": 101}, "logprobs", "less"),
        ({"stop": ""}, "stop", "empty"),
        ({"lambda_decay": 1.5}, "lambda_decay", "less"),
        ({"omega_bound": -1}, "omega_bound", "greater"),
        ({"alpha_presence": "x"}, "alpha_presence", "number"),
        ({"stream": True}, "stream", "not supported"),
        ({"presence_penalty": 0.5}, "presence_penalty", "not supported"),
        ({"presence_penalty": False}, "presence_penalty", "not supported"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "not supported"),
        ({"suffix": "s"}, "suffix", "not supported"),
        ({"beam": 5}, "beam", "not a field"),
        ({"model": "gpt-4"}, "model", "'gpt-4'"),
    ],
)
def test_refused_in_openai_s_error_object(client, engine, body, param, part):
    answer = client.post(URL, json={"prompt": "p"} | body)
    assert answer.status_code == (404 if param == "model" else 400), answer.text
    error = answer.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert part in error["message"]
    assert answer.json().keys() == {"error"}
    assert engine.wait_until(lambda: not engine.active)


def test_a_body_that_is_no_object(client):
    answer = client.post(URL, json=[1])
    assert answer.status_code == 400
    assert "JSON object" in answer.json()["error"]["message"]
