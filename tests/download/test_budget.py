"""A budget of failures for the whole run: what no file alone shows, all together do."""

from __future__ import annotations

import pytest

from unshard.download import RetryPolicy
from unshard.download.retry import BYTES_TO_EARN, BudgetSpentError, RetryBudget
from unshard.errors import TransferError
from unshard.testing.object_store import Fault

PROBLEM = TransferError("a.pt: cut")


def test_good_bytes_make_up_for_failures():
    budget = RetryBudget(RetryPolicy(budget=3))
    for _ in range(100):
        budget.spend(PROBLEM)
        budget.earn(BYTES_TO_EARN)
    for _ in range(3):
        budget.spend(PROBLEM)
    with pytest.raises(BudgetSpentError, match=r"a\.pt: cut: the last of so many failures"):
        budget.spend(PROBLEM)


def test_no_more_is_saved_than_the_budget():
    budget = RetryBudget(RetryPolicy(budget=3))
    budget.earn(100 * BYTES_TO_EARN)
    for _ in range(3):
        budget.spend(PROBLEM)
    with pytest.raises(BudgetSpentError):
        budget.spend(PROBLEM)


def test_a_run_that_gets_nowhere_ends_and_the_next_goes_on(site):
    """Each file brings a few bytes at a time, so that none ever fails twice in a row."""
    site.add("a.pt", "b.pt", "c.pt", size=5000)
    site.store.inject(Fault(cut_after=100), times=None)
    policy = RetryPolicy(attempts=3, first_delay_s=0, budget=20)
    with pytest.raises(TransferError, match="failures of all files together") as e:
        site.run(retry=policy)
    assert "run the same command again" in e.value.hint
    assert len(site.store.requests) <= 21 + 2
    site.store.heal()
    assert 0 < site.run().received_bytes < 15000
    assert site.fetched() == site.contents
