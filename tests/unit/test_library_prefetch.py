"""Work prepared one step ahead arrives whole, in order, and with its errors."""

from __future__ import annotations

import threading

import pytest

from scgpt.library.prefetch import one_ahead


@pytest.mark.parametrize("n_jobs", [0, 1, 2, 7])
def test_every_result_in_order(n_jobs):
    assert list(one_ahead(lambda job: job * job, range(n_jobs))) == [j * j for j in range(n_jobs)]


def test_the_next_job_runs_while_this_one_is_in_use():
    started = [threading.Event() for _ in range(3)]

    def prepare(job):
        started[job].set()
        return job

    results = one_ahead(prepare, range(3))
    assert next(results) == 0
    assert started[1].wait(timeout=10)
    assert not started[2].is_set()
    assert list(results) == [1, 2]


def test_an_error_is_raised_where_its_result_was_due():
    results = one_ahead(lambda job: 1 // job, [2, 1, 0, 1])
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
