"""Connections are added for as long as that brings more: by clocks that the test turns."""

from __future__ import annotations

import pytest

from unshard.download.ramp import LEAST_S, WINDOW_S, Ramp


class Line:
    """A ramp on a line whose rate is a function of the number of connections, as is the share of
    a core that they use."""

    def __init__(self, most, rate, used=lambda connections: 0.1):
        self.now, self.used_s, self.received_bytes = 0.0, 0.0, 0.0
        self.rate, self.used = rate, used
        self.ramp = Ramp(most, clock=lambda: self.now, used_s=lambda: self.used_s)

    def run(self, seconds, *, is_short=True):
        for _ in range(round(seconds / LEAST_S)):
            self.ramp.look(int(self.received_bytes), is_short=is_short)
            self.now += 1.001 * LEAST_S
            self.used_s += LEAST_S * self.used(self.ramp.connections)
            self.received_bytes += LEAST_S * self.rate(self.ramp.connections)
        return self.ramp.look(int(self.received_bytes), is_short=is_short)


def test_where_each_connection_is_limited_all_are_used():
    assert Line(128, lambda connections: 2e6 * connections).run(60) == 128


def test_where_the_line_is_full_no_more_are_added():
    line = Line(256, lambda connections: 100e6)
    assert line.run(60) == 64
    assert line.run(600) == 64


def test_growth_ends_where_it_brings_little():
    assert Line(256, lambda connections: 2e6 * min(connections, 80)).run(100) == 128


def test_a_waiting_processor_is_given_more_connections_at_once():
    line = Line(32, lambda connections: 2e6 * connections)
    assert [line.run(LEAST_S) for _ in range(3)] == [8, 32, 32]


def test_a_busy_processor_is_left_alone_until_it_waits():
    line = Line(32, lambda connections: 1e9, used=lambda connections: 0.9)
    assert line.run(60) == 2
    line.used = lambda connections: 0.45 if connections < 8 else 0.9
    assert line.run(60) == 8


@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_the_maximum_holds(most):
    line = Line(most, lambda connections: 2e6 * connections)
    assert line.ramp.connections <= most
    assert line.run(60) == most


def test_nothing_is_learned_where_there_is_too_little_to_fetch():
    assert Line(64, lambda connections: 2e6 * connections).run(60, is_short=False) == 2


def test_a_rate_is_taken_over_a_while():
    line = Line(64, lambda connections: 2e6 * connections)
    assert line.run(0.3) == 32
    assert line.run(WINDOW_S - 2 * LEAST_S) == 32
