"""Threads for work on many small files, where Pillow, hashing and the disk let go of the interpreter."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")

# why: more threads gain nothing and each may hold a decoded image of 240 MB.
_THREADS = min(8, os.cpu_count() or 1)
# why: handing over single images of a kilobyte costs more than decoding them.
_BATCH = 8


def map_in_order(function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """Yield `function(item)` for each item, in the order of the items, a few items ahead of the reader.

    Unlike `Executor.map` it never holds more than a few results, and an exception stops it at once.
    """

    def work(batch: list[A]) -> list[B]:
        return [function(item) for item in batch]

    ahead: deque[Future[list[B]]] = deque()
    source = iter(items)
    executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="datasets")
    try:
        while batch := list(islice(source, _BATCH)):
            ahead.append(executor.submit(work, batch))
            if len(ahead) > 2 * _THREADS:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)
