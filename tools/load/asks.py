"""What the clients ask, and what of an answer has to be the same whenever it is asked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
Words = list[tuple[Any, ...]]
COMPLETIONS = "/v1/completions"
LONG = {"max_tokens": 400, "logit_bias": {"2": -99}}
"""Not over before its client goes."""
PROMPTS = ("ROMEO.\n", "KING HENRY.\nNow, lords,", [2, 40, 50, 60], "JULIET.\n" * 12)
FIELDS: tuple[Json, ...] = (
    {},
    {"logprobs": 1, "echo": True},
    {"stop": ["the", "\n\n"]},
    {"n": 2, "logit_bias": {"50": 3}},
    {"n": 2, "best_of": 3, "logprobs": 3, "stream": False},
)
ROUTES = ("/completions", "/engines/any/completions", "/v2/engines/any/completions", "/generate")


@dataclass(frozen=True, slots=True)
class Ask:
    """One request whose answer is known: nothing in it is left to chance."""

    path: str
    body: Json

    @property
    def may_stream(self) -> bool:
        return self.path == COMPLETIONS and "stream" not in self.body


def known_asks() -> list[Ask]:
    greedy = [
        Ask(COMPLETIONS, {"prompt": prompt, "max_tokens": tokens, "temperature": 0, **fields})
        for prompt in PROMPTS
        for tokens in (1, 9, 24)
        for fields in FIELDS
    ]
    # Long enough that a handful does not fit the cache.
    greedy += [
        Ask(COMPLETIONS, {"prompt": prompt, "temperature": 0, **LONG, "max_tokens": 100, **fields})
        for prompt in PROMPTS
        for fields in FIELDS[:2]
    ]
    several = {"prompt": list(PROMPTS[:2]), "max_tokens": 12, "temperature": 0}
    scored = {"prompt": PROMPTS[3], "max_tokens": 0, "echo": True, "logprobs": 2}
    older = {"prompt": PROMPTS[1], "max_tokens": 12, "temperature": 0, "logprobs": 2, "echo": True}
    others = [Ask(COMPLETIONS, several), Ask(COMPLETIONS, scored)]
    original = [Ask(path, older) for path in ROUTES]
    tokens = [
        Ask("/tokenize", {"prompt": PROMPTS[3]}),
        Ask("/detokenize", {"tokens": [40, 50, 60]}),
    ]
    return greedy + others + original + tokens


def words(answer: Json) -> Words:
    """Without what may differ: its id and time, and the last bits of logprobs."""
    if "choices" not in answer:
        return [tuple(sorted(answer.items()))]
    return [
        (
            choice.get("index"),
            choice["text"],
            choice.get("finish_reason"),
            (choice.get("logprobs") or {}).get("tokens"),
        )
        for choice in answer["choices"]
    ]


def joined(events: list[Json]) -> Json:
    """The answer that a stream spells."""
    choices: dict[int, Json] = {}
    for piece in (piece for event in events for piece in event["choices"]):
        choice = choices.setdefault(piece["index"], piece | {"text": "", "logprobs": None})
        choice["text"] += piece["text"]
        choice["finish_reason"] = piece["finish_reason"]
        if piece["logprobs"]:
            choice["logprobs"] = choice["logprobs"] or {"tokens": []}
            choice["logprobs"]["tokens"] += piece["logprobs"]["tokens"]
    return {"choices": [choices[index] for index in sorted(choices)]}


REFUSED = (
    b"",
    b"{",
    b"[]",
    b"null",
    b"[" * 5000,
    b"\xff\xfe",
    b'{"prompt":"\\ud800"}',
    b'{"prompt":[[]]}',
    b'{"prompt":[-1]}',
    b'{"prompt":[999999999999999999999]}',
    b'{"prompt":"x","max_tokens":1000000}',
    b'{"prompt":"x","max_tokens":1e400}',
    b'{"prompt":"x","max_tokens":NaN}',
    b'{"prompt":"x","logit_bias":{"99999999":1}}',
    b'{"prompt":"x","n":17000}',
    b'{"prompt":"x","stop":[""]}',
    b'{"prompt":"x","seed":99999999999999999999}',
    json.dumps({"messages": [{"role": "user", "content": "x"}]}).encode(),
    b'{"prompt":"' + b"a " * 100_000 + b'"}',
)
"""Bodies that are no request."""

ODD = (
    b'{"prompt":"x","temperature":1e-300,"max_tokens":3}',
    b'{"prompt":"x","top_p":1e-300,"max_tokens":3}',
    b'{"prompt":"x","repetition_penalty":0.01,"frequency_penalty":-2,"max_tokens":20}',
    b'{"prompt":"","max_tokens":2}',
    b'{"prompt":"x","best_of":4,"n":2,"max_tokens":5,"logprobs":20}',
    b'{"prompt":"x","min_tokens":9,"max_tokens":9,"stop":"e"}',
    b'{"prompt":["a","b"],"max_tokens":4,"n":3,"stream":true}',
    b'{"prompt":"x","logit_bias":{"50":-100,"2":100},"max_tokens":3}',
    b'{"prompt":"x","top_k":1,"min_p":1,"max_tokens":3,"seed":-5}',
)
"""Bodies that are one, and ask for something rare."""
