"""Batches made ahead are those of their steps, and nothing is made that is not taken."""

import threading

import pytest

from tracerft.errors import DataError
from tracerft.training.ahead import Ahead


def test_each_step_gets_its_own_batch_and_none_is_made_twice():
    """Steps 3 to 6 of 7: made in order, once each, the last without a next."""
    made = []
    ahead = Ahead(lambda step: made.append(step) or step * 10, 7)
    assert [ahead.take(step) for step in range(3, 7)] == [30, 40, 50, 60]
    assert made == [3, 4, 5, 6]


def test_a_jump_is_followed():
    """After a step back, as on resume, the batch is that of the step."""
    ahead = Ahead(lambda step: step, 100)
    assert [ahead.take(step) for step in (5, 2, 3)] == [5, 2, 3]


def test_the_next_is_made_while_this_one_is_used():
    """The thread has begun step 1 before anybody asks for it."""
    begun = threading.Event()
    ahead = Ahead(lambda step: begun.set() if step == 1 else None, 2)
    ahead.take(0)
    assert begun.wait(10)


def test_an_error_is_raised_at_its_step():
    """Step 1 is whole although step 2 is not."""

    def make(step):
        if step == 2:
            raise DataError("photos/2.jpg: damaged")
        return step

    ahead = Ahead(make, 5)
    assert ahead.take(1) == 1
    with pytest.raises(DataError, match="damaged"):
        ahead.take(2)
