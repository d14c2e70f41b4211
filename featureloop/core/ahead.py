"""Work ahead of its consumer: a source read on a thread of its own, several items worked on at once, in order."""

from __future__ import annotations

import os
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
        Items that may wait beside those in work, for work or for their consumer, at most.
    """
    waiting: queue.SimpleQueue[Future[R] | BaseException | None] = queue.SimpleQueue()
    room = threading.Semaphore(at_once + ahead)
    stop = threading.Event()
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="ahead")

    def read() -> None:
        try:
            items = iter(source)
            while not stop.is_set():
                # Only when there is room is the next item asked for: of a live source it is the newest one then.
                if not room.acquire(timeout=0.1):
                    continue
                try:
                    item = next(items)
                except StopIteration:
                    break
                if not stop.is_set():
                    waiting.put(pool.submit(work, item))
            waiting.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again where the results are taken
            waiting.put(error)

    reader = threading.Thread(target=read, name="read", daemon=True)
    reader.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            result = item.result()
            room.release()
            yield result
    finally:
        stop.set()
        reader.join()
        pool.shutdown(cancel_futures=True)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
