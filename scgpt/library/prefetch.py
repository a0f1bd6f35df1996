"""Prepare the next piece of work while the present one is computed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

Job = TypeVar("Job")
Result = TypeVar("Result")


def one_ahead(prepare: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
    """Yield `prepare(job)` for every job, in order; one is always prepared in advance, in a thread.

    A network on a GPU then does not wait for its input. What `prepare` raises is raised here.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        pending: Future[Result] | None = None
        for job in jobs:
            following = pool.submit(prepare, job)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()
