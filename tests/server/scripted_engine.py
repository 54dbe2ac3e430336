"""An engine that writes what a script says, by the contract of `unshard.engine.request`.

Run as a program it serves itself, for tests that need a process to kill.
"""

from __future__ import annotations

import argparse
import codecs
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count

from unshard.engine.block_pool import CacheUse
from unshard.engine.request import (
    FinishReason,
    GenerationOutput,
    GenerationRequest,
    ScoredToken,
)
from unshard.engine.statistics import EngineStatistics
from unshard.errors import EngineLostError, RequestError, UnshardError
from unshard.server import run as server_run
from unshard.server.manners import Manners
from unshard.server.served import ServedModel

BOS = 2
EOS = 2
MAX_POSITIONS = 64
VOCAB_SIZE = 260
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role[0] }}:{{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)
"""Short, because the scripted engine's context is."""

Script = Callable[[GenerationRequest], Iterable[GenerationOutput]]


class ByteTokenizer:
    """One token per UTF-8 byte: byte b is id b + 4, ids 0 to 3 are special."""

    def encode(self, text: str) -> list[int]:
        return [byte + 4 for byte in text.encode()]

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id - 4]) if 4 <= token_id < VOCAB_SIZE else b""

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(map(self.token_bytes, ids)).decode(errors="replace")

    def display(self, token_id: int) -> str:
        return ("<s>", "<pad>", "</s>", "<unk>")[token_id]


def logprob_of(ids: Sequence[int], position: int) -> float | None:
    """The score of the token at `position` of a sequence that starts with `</s>`."""
    return None if position == 0 else -((sum(ids[: position + 1]) * 31 + position) % 97 + 1) / 10


def scored(ids: Sequence[int], position: int, num_alternatives: int) -> ScoredToken:
    logprob = logprob_of(ids, position)
    if logprob is None:
        return ScoredToken(ids[position], None)
    best = [((ids[position] + k) % VOCAB_SIZE, logprob - k / 8) for k in range(num_alternatives)]
    return ScoredToken(ids[position], logprob, tuple(best))


def write(
    request: GenerationRequest,
    tokens: Iterable[int],
    *,
    finish_reason: FinishReason = "length",
    group: Callable[[int], int] = lambda step: 1,
) -> Iterator[GenerationOutput]:
    """The outputs of an engine that generates `tokens`, `group(step)` of them in each step."""
    params, rid = request.params, request.request_id
    ids = list(request.prompt_ids)
    num_alternatives = params.logprobs or 0
    prompt = None
    if params.score_prompt:
        prompt = tuple(scored(ids, i, num_alternatives) for i in range(len(ids)))
    left = list(tokens)[: params.max_tokens]
    if not left:
        yield GenerationOutput(rid, prompt_tokens=prompt, finish_reason=finish_reason)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text, sent = "", 0
    for step in count():
        if not left:
            return
        new, left = left[: group(step)], left[group(step) :]
        ids += new
        fresh = tuple(
            scored(ids, i, num_alternatives) if params.logprobs is not None else ScoredToken(t, 0.0)
            for i, t in enumerate(new, start=len(ids) - len(new))
        )
        text += decoder.decode(bytes(t - 4 for t in new if t >= 4), final=not left)
        cut = min((text.find(s) for s in params.stop if s in text), default=-1)
        if cut >= 0:
            yield GenerationOutput(rid, text[sent:cut], fresh, prompt, "stop")
            return
        upto = len(text) if not left else len(text) - _held(text, params.stop)
        reason = finish_reason if not left else None
        yield GenerationOutput(rid, text[sent:upto], fresh, prompt, reason)
        sent, prompt = upto, None


def _held(text: str, stops: Sequence[str]) -> int:
    """How many last characters of `text` may begin a stop string."""
    return max(
        (n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0
    )


def default_script(request: GenerationRequest) -> Iterator[GenerationOutput]:
    """What a prompt calls for: `forever…` never ends, `fail…` fails after two tokens, `end…`
    ends with `</s>`; others get characters that depend on the prompt, seed and choice."""
    prompt = ByteTokenizer().decode(request.prompt_ids)
    if prompt.startswith("forever"):
        return (
            GenerationOutput(request.request_id, ".", (ScoredToken(50, -1.0),)) for _ in count()
        )
    if prompt.startswith("fail"):
        return _failing(request)
    if prompt.startswith("die"):
        raise EngineLostError("the engine died: MemoryError: no more")
    if prompt.startswith("end"):
        return write(request, [*ByteTokenizer().encode("fin"), EOS], finish_reason="stop")
    start = sum(request.prompt_ids) + 7 * request.choice + (request.params.seed or 0)
    alphabet = "aé 日z\n\u2028😀"
    text = "".join(alphabet[(start + i * i) % len(alphabet)] for i in range(MAX_POSITIONS))
    return write(request, ByteTokenizer().encode(text))


def _failing(request: GenerationRequest) -> Iterator[GenerationOutput]:
    for _ in range(2):
        yield GenerationOutput(request.request_id, "x", (ScoredToken(124, -1.0),))
    error = UnshardError("/secret/place/weights.bin: out of memory")
    yield GenerationOutput(request.request_id, error=error)


class ScriptedEngine:
    """Runs scripts in one thread, one step of each request in turn.

    `changed` guards `active`, the ids now running, and `cancelled`, those cancelled so far.
    """

    def __init__(self, script: Script = default_script, *, pause_seconds: float = 0.001) -> None:
        self.script = script
        self.submitted: list[GenerationRequest] = []
        self.cancelled: list[str] = []
        self.active: dict[str, tuple[Iterator[GenerationOutput], Callable[..., object]]] = {}
        self.changed = threading.Condition()
        self.closed = False
        self._pause_seconds = pause_seconds
        self._thread = threading.Thread(target=self._work, name="scripted-engine")
        self._thread.start()

    def say(self, text: str, *ids: int) -> None:
        """Answer everything with `text` and then the tokens `ids`, which are a stop."""
        tokens = [*ByteTokenizer().encode(text), *ids]
        reason: FinishReason = "stop" if ids else "length"
        self.script = lambda request: write(request, tokens, finish_reason=reason)

    max_positions = MAX_POSITIONS
    vocab_size = VOCAB_SIZE

    @property
    def is_alive(self) -> bool:
        return not self.closed

    def submit(
        self, request: GenerationRequest, on_output: Callable[[GenerationOutput], None]
    ) -> None:
        if len(request.prompt_ids) + request.params.max_tokens > MAX_POSITIONS:
            raise RequestError(
                f"the prompt has {len(request.prompt_ids)} tokens, the context {MAX_POSITIONS}",
                param="prompt",
                code="context_length_exceeded",
                hint="shorten it",
            )
        if not all(0 <= i < VOCAB_SIZE for i in request.prompt_ids):
            raise RequestError("a token id is not in the vocabulary", param="prompt")
        try:
            script = iter(self.script(request))
        except EngineLostError as lost:  # as if it had died under it
            self._lose()
            raise lost from None
        with self.changed:
            self.submitted.append(request)
            self.active[request.request_id] = (script, on_output)
            self.changed.notify_all()

    def cancel(self, request_id: str) -> None:
        with self.changed:
            if self.active.pop(request_id, None) is not None:
                self.cancelled.append(request_id)
                self.changed.notify_all()

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        self._thread.join()

    num_waiting = 0
    """What it says of its queue, which it has not."""

    def statistics(self) -> EngineStatistics:
        cache = CacheUse(num_blocks=10, num_held=4, num_started_tokens=32, num_shared_tokens=16)
        return EngineStatistics(cache, len(self.active), self.num_waiting, 2, 7, 40, 1)

    def on_loss(self, call: Callable[[], None]) -> None:
        self._lose = call

    def wait_until(self, predicate: Callable[[], bool], timeout: float = 60) -> bool:
        with self.changed:
            return self.changed.wait_for(predicate, timeout)

    def _work(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.closed or self.active)
                if self.closed:
                    return
                for request_id, (outputs, on_output) in list(self.active.items()):
                    output = next(outputs)
                    on_output(output)
                    if output.finished:
                        del self.active[request_id]
                self.changed.notify_all()
                self.changed.wait(self._pause_seconds)


def serve_forever(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--grace", type=float, default=0.3)
    parser.add_argument("--client-seconds", type=float, default=30)
    options = parser.parse_args(argv)
    bound = server_run.bind("127.0.0.1", 0)
    served = ServedModel("scripted", ScriptedEngine(), ByteTokenizer(), created=0)

    def say_where() -> None:
        sys.stdout.write(server_run.url_of(bound) + "\n")
        sys.stdout.flush()

    manners = Manners(drain_seconds=options.grace, client_seconds=options.client_seconds)
    server_run.run(served, bound, on_ready=say_where, manners=manners)


if __name__ == "__main__":
    serve_forever(sys.argv[1:])
