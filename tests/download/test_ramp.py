"""Connections are added for as long as they bring more: by a clock that the test turns."""

from __future__ import annotations

import pytest

from unshard.download.ramp import WINDOW_S, Ramp


class Line:
    """A ramp on a line whose rate is a function of the number of connections."""

    def __init__(self, most, rate):
        self.now, self.received_bytes, self.rate = 0.0, 0.0, rate
        self.ramp = Ramp(most, clock=lambda: self.now)

    def run(self, seconds, *, is_short=True):
        for _ in range(int(seconds / 0.25)):
            self.now += 0.25
            self.received_bytes += self.rate(self.ramp.connections) / 4
            self.ramp.look(int(self.received_bytes), is_short=is_short)
        return self.ramp.connections


def test_where_each_connection_is_limited_all_are_used():
    assert Line(128, lambda connections: 2e6 * connections).run(60) == 128


def test_where_the_line_is_full_no_more_are_added():
    line = Line(256, lambda connections: 100e6)
    assert line.run(60) == 64
    assert line.run(600) == 64


def test_growth_ends_where_it_brings_little():
    assert Line(256, lambda connections: 2e6 * min(connections, 80)).run(100) == 128


@pytest.mark.parametrize("most", [1, 2, 32])
def test_the_maximum_holds(most):
    line = Line(most, lambda connections: 2e6 * connections)
    assert line.ramp.connections == most
    assert line.run(60) == most


def test_nothing_is_learned_where_there_is_too_little_to_fetch():
    assert Line(64, lambda connections: 2e6 * connections).run(60, is_short=False) == 32


def test_a_rate_is_taken_over_a_while():
    assert Line(64, lambda connections: 2e6 * connections).run(WINDOW_S / 2) == 32
