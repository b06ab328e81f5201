"""A function over many things, in threads, with the results in order and few things in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 4  # things that wait for each thread


def map_in_order(
    make: Callable[[T], R], things: Iterable[T], workers: int, ahead: int | None = None
) -> Iterator[tuple[T, R]]:
    """(thing, make(thing)) for each, in order; at most `ahead` things are under way or wait.

    ahead: `AHEAD` x workers unless given. With one worker everything happens in the caller's
    thread. An error of `make` or of `things` is raised when its turn comes, after what was before.
    """
    if workers <= 1:
        yield from ((thing, make(thing)) for thing in things)
        return
    ahead = AHEAD * workers if ahead is None else ahead
    waiting: deque[tuple[T, Future[R]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            source = iter(things)
            while True:
                try:
                    thing = next(source)
                except StopIteration:
                    break
                except Exception:
                    yield from _finish(waiting)
                    raise
                waiting.append((thing, pool.submit(make, thing)))
                if len(waiting) >= ahead:
                    first, future = waiting.popleft()
                    yield first, future.result()
            yield from _finish(waiting)
        finally:
            for _, future in waiting:
                future.cancel()


def _finish(waiting: deque[tuple[T, Future[R]]]) -> Iterator[tuple[T, R]]:
    while waiting:
        thing, future = waiting.popleft()
        yield thing, future.result()
