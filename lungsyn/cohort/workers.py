"""A ``map`` over processes that end with the one that started them, however that ends."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from threading import Thread


@contextmanager
def mapping(workers: int) -> Iterator[Callable]:
    """``map``, over ``workers`` processes if there are to be more than one; results come in order."""
    if workers == 1:
        yield map
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_end_with_parent) as pool:
        yield pool.map


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for its next task for ever: it keeps its queue open itself."""

    def watch() -> None:
        parent_process().join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()
