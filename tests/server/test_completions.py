"""What a completion says, against the script it came from."""

from __future__ import annotations

import httpx
from scripted_engine import BOS, EOS, ByteTokenizer, logprob_of, write

from unshard.engine.request import GenerationOutput, SamplingParams, ScoredToken
from unshard.server.protocol import CompletionRequest

TOKENIZER = ByteTokenizer()


def complete(client: httpx.Client, **body: object) -> dict:
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_envelope(client, engine):
    engine.say("hello")
    answer = complete(client, prompt="abc", model="scripted")
    assert answer.keys() == {"id", "object", "created", "model", "choices", "usage"}
    assert answer["id"].startswith("cmpl-")
    assert (answer["object"], answer["model"]) == ("text_completion", "scripted")
    assert answer["choices"] == [
        {"index": 0, "text": "hello", "logprobs": None, "finish_reason": "length"}
    ]
    assert answer["usage"] == {"prompt_tokens": 4, "completion_tokens": 5, "total_tokens": 9}


def test_fields_reach_the_engine_and_null_means_default(client, engine):
    complete(
        client,
        prompt="p",
        max_tokens=3,
        temperature=0.25,
        top_p=0.95,
        stop="##",
        seed=-5,
        logprobs=2,
        echo=True,
        user="somebody",
        best_of=1,
        suffix=None,
        presence_penalty=-0.5,
        frequency_penalty=1,
        logit_bias={"5": -100, "7": 2.5},
        top_k=40,
        min_p=0.05,
        repetition_penalty=1.25,
        min_tokens=2,
    )
    assert engine.submitted[-1].params == SamplingParams(
        3,
        0.25,
        0.95,
        ("##",),
        -5,
        logprobs=2,
        score_prompt=True,
        presence_penalty=-0.5,
        frequency_penalty=1,
        logit_bias=((5, -100), (7, 2.5)),
        top_k=40,
        min_p=0.05,
        repetition_penalty=1.25,
        min_tokens=2,
    )
    complete(client, prompt="p", top_k=-1)
    assert engine.submitted[-1].params == SamplingParams()
    nulls = dict.fromkeys(CompletionRequest.model_fields.keys() - {"prompt"})
    complete(client, prompt="p", **nulls)
    assert engine.submitted[-1].params == SamplingParams()


def test_every_prompt_form_gets_one_leading_bos(client, engine):
    a, b = TOKENIZER.encode("ab")
    for prompt, expected in [
        ("ab", [(BOS, a, b)]),
        ("", [(BOS,)]),
        ([a, b], [(BOS, a, b)]),
        ([BOS, a], [(BOS, a)]),
        ([BOS, BOS, a], [(BOS, BOS, a)]),
        ([BOS], [(BOS,)]),
        (["a", "", "b"], [(BOS, a), (BOS,), (BOS, b)]),
        ([[a], [BOS, b]], [(BOS, a), (BOS, b)]),
        ("</s>", [(BOS, *TOKENIZER.encode("</s>"))]),
        ("a\r\nb", [(BOS, *TOKENIZER.encode("a\r\nb"))]),
    ]:
        engine.submitted.clear()
        answer = complete(client, prompt=prompt, max_tokens=1)
        assert [request.prompt_ids for request in engine.submitted] == expected
        assert answer["usage"]["prompt_tokens"] == sum(map(len, expected))


def test_choices_are_prompts_times_n_in_order(client, engine):
    engine.script = lambda r: write(
        r, TOKENIZER.encode(f"{TOKENIZER.decode(r.prompt_ids)}{r.choice}")
    )
    answer = complete(client, prompt=["x", "yy"], n=3, best_of=3)
    assert [c["index"] for c in answer["choices"]] == list(range(6))
    assert [c["text"] for c in answer["choices"]] == ["x0", "x1", "x2", "yy0", "yy1", "yy2"]
    # A prompt counts once whatever n, its </s> included.
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 15, "total_tokens": 20}


def test_best_of_answers_with_those_of_the_best_mean_logprob(client, engine):
    """Per token: the longest is best here, though the sum of its logprobs is the least."""
    scores = [(-2.0,), (-1.0, -1.5), (-0.5, -1.0, -1.5), (-9.0,)]

    def script(request):
        for number, score in enumerate(scores[request.choice]):
            text = f"{request.choice}" if number == 0 else "+"
            end = "length" if number == len(scores[request.choice]) - 1 else None
            token = ScoredToken(TOKENIZER.encode(text)[0], score)
            yield GenerationOutput(request.request_id, text, (token,), finish_reason=end)

    engine.script = script
    for n, texts in ((1, ["2++"]), (3, ["2++", "1+", "0"]), (4, ["0", "1+", "2++", "3"])):
        answer = complete(client, prompt=["p", "q"], n=n, best_of=4)
        assert [choice["text"] for choice in answer["choices"]] == texts * 2
        assert [choice["index"] for choice in answer["choices"]] == list(range(2 * n))
        assert {choice["logprobs"] for choice in answer["choices"]} == {None}
        # All that was generated is counted.
        assert answer["usage"]["completion_tokens"] == 2 * 7
        assert engine.submitted[-1].params.logprobs == (None if n == 4 else 0)
    told = complete(client, prompt="p", best_of=4, logprobs=0)["choices"][0]["logprobs"]
    assert told["token_logprobs"] == [-0.5, -1.0, -1.5]


def test_finish_reason_is_true(client, engine):
    engine.say("one two")
    cut = complete(client, prompt="p", stop=["two", "zzz"])["choices"][0]
    assert (cut["text"], cut["finish_reason"]) == ("one ", "stop")
    full = complete(client, prompt="p", max_tokens=3)["choices"][0]
    assert (full["text"], full["finish_reason"]) == ("one", "length")


def test_echo_text_is_the_prompt_as_sent(client, engine):
    engine.say("!")
    ids = TOKENIZER.encode("né")
    for prompt in ("né", ids, [BOS, *ids]):
        assert complete(client, prompt=prompt, echo=True)["choices"][0]["text"] == "né!"


def test_no_logprobs_without_asking_and_no_scores_for_plain_echo(client, engine):
    answer = complete(client, prompt="p", echo=True)
    assert answer["choices"][0]["logprobs"] is None
    assert not engine.submitted[-1].params.score_prompt


def test_logprobs_object(client, engine):
    engine.say("ok", EOS)
    got = complete(client, prompt="p", logprobs=2)["choices"][0]
    ids = [BOS, *TOKENIZER.encode("pok"), EOS]
    assert got["text"] == "ok"
    assert got["logprobs"]["tokens"] == ["o", "k", "</s>"]
    assert got["logprobs"]["text_offset"] == [0, 1, 2]
    assert got["logprobs"]["token_logprobs"] == [logprob_of(ids, i) for i in (2, 3, 4)]
    first = logprob_of(ids, 2)
    assert got["logprobs"]["top_logprobs"][0] == {"o": first, "p": first - 1 / 8}


def test_logprobs_zero_reports_the_chosen_token_alone(client, engine):
    engine.say("ok")
    got = complete(client, prompt="p", logprobs=0)["choices"][0]["logprobs"]
    assert [list(top) for top in got["top_logprobs"]] == [["o"], ["k"]]
    assert [top[t] for top, t in zip(got["top_logprobs"], got["tokens"], strict=True)] == got[
        "token_logprobs"
    ]


def test_parts_of_a_character_keep_their_bytes_and_share_its_offset(client, engine):
    engine.say("日x")
    got = complete(client, prompt="p", logprobs=0)["choices"][0]
    assert got["text"] == "日x"
    assert got["logprobs"]["tokens"] == ["bytes:\\xe6", "bytes:\\x97", "bytes:\\xa5", "x"]
    assert got["logprobs"]["text_offset"] == [0, 0, 0, 1]


def test_tokens_of_a_cut_stop_string_are_told_within_the_text(client, engine):
    engine.say("ab<stop>")
    got = complete(client, prompt="p", logprobs=0, stop="<stop>")["choices"][0]
    assert got["text"] == "ab"
    assert got["logprobs"]["tokens"] == list("ab<stop>")
    assert got["logprobs"]["text_offset"] == [0, 1, *[2] * 6]


def test_tokens_of_text_that_was_held_back_keep_their_places(client, engine):
    engine.say("ab<sto>c")
    got = complete(client, prompt="p", logprobs=0, stop="<stop>")["choices"][0]
    assert got["text"] == "ab<sto>c"
    assert got["logprobs"]["text_offset"] == list(range(8))


def test_echoed_tokens_align_with_the_ids_sent(client, engine):
    engine.say("z")
    ids = TOKENIZER.encode("日b")
    for prompt in (ids, [BOS, *ids], "日b"):
        got = complete(client, prompt=prompt, echo=True, logprobs=1, max_tokens=1)["choices"][0]
        sent = ids if isinstance(prompt, str) else prompt
        lists = got["logprobs"]
        assert {len(lists[key]) for key in lists} == {len(sent) + 1}
        full = [BOS, *ids, *TOKENIZER.encode("z")]
        scores = [logprob_of(full, i) for i in range(len(full))]
        expected = [None, *scores[len(full) - len(sent) :]]
        assert lists["token_logprobs"] == expected
        assert [top is None for top in lists["top_logprobs"]] == [v is None for v in expected]
        assert lists["text_offset"][-5:] == [0, 0, 0, 1, 2]
        assert got["text"] == "日bz"
        if sent[0] == BOS:
            assert (lists["tokens"][0], lists["text_offset"][0]) == ("</s>", 0)


def test_max_tokens_zero_scores_the_prompt(client, engine):
    answer = complete(client, prompt="abc", max_tokens=0, echo=True, logprobs=0)
    choice = answer["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("abc", "length")
    assert choice["logprobs"]["tokens"] == ["a", "b", "c"]
    assert [score is None for score in choice["logprobs"]["token_logprobs"]] == [True, False, False]
    assert answer["usage"] == {"prompt_tokens": 4, "completion_tokens": 0, "total_tokens": 4}
    plain = complete(client, prompt="abc", max_tokens=0, echo=True)["choices"][0]
    assert (plain["text"], plain["logprobs"]) == ("abc", None)


def test_scores_of_continuations_as_a_harness_sums_them(client, engine):
    """lm-eval sends context + continuation as ids with max_tokens 1, echo and logprobs 1, sums
    token_logprobs[len(context):-1] and calls it greedy where each equals the best of its top.
    The one generated token must be there even when it is `</s>`."""
    engine.say("", EOS)
    pairs = [("The sky is", " blue"), ("日", "本"), ("", "start")]
    encoded = [
        ((TOKENIZER.encode(context) or [BOS]), TOKENIZER.encode(rest)) for context, rest in pairs
    ]
    answer = complete(
        client,
        prompt=[context + rest for context, rest in encoded],
        max_tokens=1,
        temperature=0,
        logprobs=1,
        echo=True,
        seed=1234,
    )
    for choice, (context, rest) in zip(answer["choices"], encoded, strict=True):
        got = choice["logprobs"]["token_logprobs"][len(context) : -1]
        full = [*([] if context[0] == BOS else [BOS]), *context, *rest]
        expected = [logprob_of(full, i) for i in range(len(full) - len(rest), len(full))]
        assert got == expected
        tops = choice["logprobs"]["top_logprobs"][len(context) : -1]
        assert [max(top.values()) for top in tops] == expected


def test_models_and_health(client):
    model = {"id": "scripted", "object": "model", "created": 12, "owned_by": "unshard"}
    model["max_model_len"] = 64
    assert client.get("/v1/models").json() == {"object": "list", "data": [model]}
    assert client.get("/v1/models/scripted").json() == model
    assert client.get("/health").json() == {"status": "ok"}
