"""Work ahead of its consumer: a source read on a thread of its own, several items worked on at once, in order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def work_ahead(source: Iterable[T], work: Callable[[T], R], *, at_once: int, ahead: int) -> Generator[R, None, None]:
    """`work` of every item, in the source's order, each as soon as it is done.

    The source is read on another thread, so a slow source holds no result back.
    An exception of the source or of the work is raised here, after what came before it.

    Parameters
    ----------
    at_once
        Items in work at the same time, each on a thread.
    ahead
        Items that may wait, for work or for their consumer, at most.
    """
    waiting: queue.Queue[Future[R] | BaseException | None] = queue.Queue(ahead)
    stop = threading.Event()
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="recognize")

    def offer(item: Future[R] | BaseException | None) -> None:
        while not stop.is_set():
            try:
                waiting.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def read() -> None:
        try:
            for item in source:
                if stop.is_set():
                    return
                offer(pool.submit(work, item))
            offer(None)
        except BaseException as error:  # noqa: BLE001 - raised again where the results are taken
            offer(error)

    reader = threading.Thread(target=read, name="decode", daemon=True)
    reader.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item.result()
    finally:
        stop.set()
        reader.join()
        pool.shutdown(cancel_futures=True)
