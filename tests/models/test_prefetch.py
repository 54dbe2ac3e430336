"""Layers that are fetched say what layers in place say, from two rooms, each copied ahead."""

from __future__ import annotations

import threading

import pytest
import torch
from tests.models.test_opt import CausalAttention, hugging_face_name, random_peer

from unshard.architectures.opt import OPTConfig
from unshard.execute.model_sink import put_rows
from unshard.models import linear
from unshard.models.copies import ThreadCopier
from unshard.models.opt import OPTModel
from unshard.models.prefetch import Prefetch, spread

CONFIG = OPTConfig(7, 64, 4, 160, 200, 96, 64)


@pytest.fixture(scope="module")
def peer():
    return random_peer(CONFIG)


def filled(peer, dtype, bits, num_away):
    model = OPTModel(CONFIG, dtype, matrix_bits=bits, num_away=num_away)
    for name, target in model.weight_targets().items():
        put_rows(target, 0, peer.state_dict()[hugging_face_name(name)])
    model.finalize()
    return model


def logits(model, num_tokens, attention=None):
    ids = torch.arange(num_tokens) + 5
    attention = attention or CausalAttention(CONFIG.num_heads, [num_tokens])
    with torch.inference_mode():
        return model.logits(model.hidden_states(ids, torch.arange(num_tokens), attention))


@pytest.mark.parametrize("num_away", [1, 2, 3, 6, 7])
@pytest.mark.parametrize(
    ("dtype", "bits"),
    [(torch.float32, None), (torch.bfloat16, None), (torch.float32, 8), (torch.bfloat16, 4)],
)
def test_the_same_bits_step_after_step(dtype, bits, num_away, peer, monkeypatch):
    # A weight that oneDNN laid out itself is not memory to be copied.
    monkeypatch.setattr(linear, "onednn_multiplies", lambda _weight: False)
    here, away = filled(peer, dtype, bits, 0), filled(peer, dtype, bits, num_away)
    for num_tokens in (9, 1, 40):
        assert torch.equal(logits(away, num_tokens), logits(here, num_tokens))


def test_after_a_step_that_failed_the_next_is_right(peer, monkeypatch):
    monkeypatch.setattr(linear, "onednn_multiplies", lambda _weight: False)
    here, away = filled(peer, torch.float32, None, 0), filled(peer, torch.float32, None, 5)

    class Failing(CausalAttention):
        def __call__(self, layer, kvq):
            if layer == self.last:
                raise RuntimeError
            return super().__call__(layer, kvq)

    for last in range(CONFIG.num_layers):
        failing = Failing(CONFIG.num_heads, [3])
        failing.last = last
        with pytest.raises(RuntimeError):
            logits(away, 3, failing)
        assert torch.equal(logits(away, 3), logits(here, 3))


class Numbered:
    def __init__(self, number):
        self.number = torch.tensor([number])

    def tensors(self):
        return [self.number]


class Recorder(ThreadCopier):
    def __init__(self):
        super().__init__()
        self.log = []

    def begin(self, sources, targets):
        self.log.append(("copy", int(sources[0])))
        return super().begin(sources, targets)


def test_two_rooms_and_each_copy_begins_before_the_layer_before_it_computes():
    layers, copier = [Numbered(number) for number in range(6)], Recorder()
    rooms = Numbered(-1), Numbered(-2)
    prefetch = Prefetch(layers, frozenset({1, 2, 4}), rooms, copier)
    for _ in range(2):
        for number, layer in enumerate(prefetch):
            assert int(layer.number) == number
            assert (layer in rooms) == (number in {1, 2, 4})
            copier.log.append(("compute", number))
    away = [each for each in copier.log if each[0] == "copy" or each[1] in {1, 2, 4}]
    once = [("compute", 1), ("copy", 4), ("compute", 2), ("copy", 1), ("compute", 4), ("copy", 2)]
    assert away == [("copy", 1), ("copy", 2), *once, *once]


def test_nothing_is_copied_into_the_room_that_computes():
    """The next copy into it is asked for when the layer after it is."""
    layers, copier = [Numbered(number) for number in range(3)], Recorder()
    prefetch = Prefetch(layers, frozenset({0, 1, 2}), (Numbered(-1), Numbered(-2)), copier)
    for number, layer in enumerate(prefetch):
        idle = threading.Event()
        copier._thread.submit(idle.set)
        assert idle.wait(60)  # whatever was asked for is copied
        assert int(layer.number) == number


@pytest.mark.parametrize(
    ("num_away", "expected"),
    [(0, []), (1, [5]), (2, [2, 5]), (3, [1, 3, 5]), (6, [0, 1, 2, 3, 4, 5])],
)
def test_those_away_are_apart(num_away, expected):
    assert sorted(spread(num_away, 6)) == expected
