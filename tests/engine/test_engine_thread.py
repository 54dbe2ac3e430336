"""Laws of the thread: every request ends exactly once, whatever fails around it."""

import queue
import threading

import pytest

from unshard.engine.engine_thread import EngineThread
from unshard.engine.request import GenerationRequest, SamplingParams
from unshard.errors import EngineLostError, RequestError, UnshardError

GREEDY = SamplingParams(max_tokens=12, temperature=0)
LONG = SamplingParams(max_tokens=100, temperature=0)


class Client:
    """Collects the outputs of one request."""

    def __init__(self):
        self._outputs = queue.Queue()

    def __call__(self, output):
        self._outputs.put(output)

    def next(self):
        return self._outputs.get(timeout=60)

    def all(self):
        outputs = [self.next()]
        while not outputs[-1].finished:
            outputs.append(self.next())
        assert self._outputs.empty()
        return outputs


@pytest.fixture
def engine(make_engine):
    return make_engine(3)


@pytest.fixture
def thread(engine):
    thread = EngineThread(engine)
    yield thread
    thread.close()


def ids(outputs):
    return [token.token_id for output in outputs for token in output.tokens]


def test_many_threads_get_what_one_gets_alone(thread, make_engine, run):
    requests = [
        GenerationRequest(f"r{i}", (2, *range(5, 6 + i)), SamplingParams(10, 0.9, seed=i))
        for i in range(10)
    ]
    alone = {r.request_id: ids(run(make_engine(1), [r])[r.request_id]) for r in requests}
    clients = {r.request_id: Client() for r in requests}
    workers = [
        threading.Thread(target=thread.submit, args=(r, clients[r.request_id])) for r in requests
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for name, client in clients.items():
        assert ids(client.all()) == alone[name]
    cache = thread.statistics().cache
    assert cache.num_started_tokens == sum(len(r.prompt_ids) for r in requests)


class HeldStep:
    """Steps of an engine that wait until they may go on."""

    def __init__(self, engine):
        self._step = engine.step
        self.began, self.may_go_on = threading.Semaphore(0), threading.Semaphore(0)
        engine.step = self

    def __call__(self):
        self.began.release()
        self.may_go_on.acquire()
        return self._step()


def test_statistics_are_told_in_the_midst_of_a_step(make_engine):
    engine = make_engine(2)
    held = HeldStep(engine)
    thread = EngineThread(engine)
    client = Client()
    params = SamplingParams(max_tokens=3, temperature=0)
    for name in "abc":
        thread.submit(GenerationRequest(name, tuple(range(2, 24)), params), client)
        if name == "a":
            held.began.acquire()
    before = thread.statistics()
    assert (before.num_running, before.num_waiting, before.num_steps) == (0, 3, 0)
    held.may_go_on.release()
    held.began.acquire()
    during = thread.statistics()
    assert (during.num_running, during.num_waiting, during.batch_size) == (1, 2, 1)
    assert (during.num_steps, during.num_step_tokens) == (1, 22)
    assert (during.cache.num_held, during.cache.num_missed_tokens) == (2, 22)
    held.may_go_on.release(99)
    thread.close()


def test_an_impossible_request_is_refused_in_the_callers_thread(thread):
    with pytest.raises(RequestError):
        thread.submit(GenerationRequest("a", (2,), SamplingParams(max_tokens=9999)), Client())


def test_an_id_in_use_is_refused(thread):
    client = Client()
    thread.submit(GenerationRequest("a", (2,), LONG), client)
    with pytest.raises(RequestError, match="in use"):
        thread.submit(GenerationRequest("a", (2,), LONG), client)
    client.all()
    thread.submit(GenerationRequest("a", (2,), GREEDY), client)
    assert len(ids(client.all())) == 12


def test_cancel_frees_the_slot_for_the_next(make_engine):
    thread = EngineThread(make_engine(1))
    first, second = Client(), Client()
    thread.submit(GenerationRequest("a", (2,), LONG), first)
    first.next()
    thread.submit(GenerationRequest("b", (2,), GREEDY), second)
    thread.cancel("a")
    thread.cancel("unknown")
    assert len(ids(second.all())) == 12
    thread.close()
    seen = []
    while not first._outputs.empty():
        seen.append(first.next())
    assert not any(output.finished for output in seen)


def test_a_failing_step_ends_its_requests_and_the_engine_goes_on(thread, engine, monkeypatch):
    real = engine._runner.run

    def run(chunks):
        if any(chunk.sequence.request.request_id == "bad" for chunk in chunks):
            raise RuntimeError("out of memory")
        return real(chunks)

    monkeypatch.setattr(engine._runner, "run", run)
    running, bad, later = Client(), Client(), Client()
    thread.submit(GenerationRequest("running", (2, 7), LONG), running)
    first = running.next()
    thread.submit(GenerationRequest("bad", (2, 8), GREEDY), bad)
    (failed,) = bad.all()
    assert "out of memory" in failed.error.message
    thread.submit(GenerationRequest("later", (2, 9), GREEDY), later)
    assert len(ids(later.all())) == 12
    assert len(ids([first, *running.all()])) == 100


def test_a_failing_callback_harms_only_its_request(thread):
    good = Client()
    called = threading.Event()

    def bad(_):
        called.set()
        raise RuntimeError("event loop is closed")

    thread.submit(GenerationRequest("bad", (2, 7), LONG), bad)
    thread.submit(GenerationRequest("good", (2, 8), GREEDY), good)
    assert len(ids(good.all())) == 12
    assert called.is_set()


def test_it_is_alive_until_it_is_closed(thread):
    assert thread.is_alive
    thread.close()
    assert not thread.is_alive


def test_close_ends_what_runs_and_what_waits(thread):
    clients = [Client() for _ in range(5)]
    for i, client in enumerate(clients):
        thread.submit(GenerationRequest(str(i), (2, 5 + i), LONG), client)
    clients[0].next()
    thread.close()
    thread.close()
    for client in clients:
        last = client.all()[-1]
        assert last.finished
    with pytest.raises(UnshardError, match="closed"):
        thread.submit(GenerationRequest("new", (2,), GREEDY), Client())
    assert not any(t.name == "unshard-engine" for t in threading.enumerate())


@pytest.mark.parametrize("reason", [MemoryError("no more"), SystemExit(3), RuntimeError("a\nb")])
def test_the_death_of_the_thread_is_everybodys(make_engine, reason, caplog):
    engine = make_engine(2)
    held = HeldStep(engine)

    def fail(_):
        raise reason

    engine.fail_step = fail
    thread = EngineThread(engine)
    clients, told = [Client() for _ in range(3)], threading.Event()
    thread.on_loss(told.set)
    for number, client in enumerate(clients):
        thread.submit(GenerationRequest(str(number), (2, 5), LONG), client)
    thread.check()
    engine._scheduler.next_step = lambda: 1 / 0
    held.may_go_on.release(99)
    for client in clients:
        (last,) = client.all()
        assert isinstance(last.error, EngineLostError)
        assert "\n" not in last.error.message
    assert told.wait(60)
    again = threading.Event()
    thread.on_loss(again.set)
    assert again.is_set()
    with pytest.raises(EngineLostError, match=f"the engine died: {type(reason).__name__}"):
        thread.submit(GenerationRequest("new", (2,), GREEDY), Client())
    with pytest.raises(EngineLostError) as lost:
        thread.check()
    assert lost.value.exit_code == 6
    thread.close()
    assert any("thread died" in line for line in caplog.messages)


def test_a_close_is_no_loss(thread):
    lost = threading.Event()
    thread.on_loss(lost.set)
    thread.close()
    thread.check()
    assert not lost.is_set()
