"""One at a time, across threads and processes: an advisory lock on a file beside what it guards."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featureloop.core.errors import StorageError
from featureloop.core.ports import Sleep

WAIT_S = 120.0
_POLL_S = 0.02


@contextmanager
def exclusive(path: Path, *, wait_s: float = WAIT_S, sleep: Sleep = time.sleep) -> Iterator[None]:
    """Hold the lock on `path` for as long as the block runs.

    The kernel gives it back when the process dies, so that nothing is left to clean up.

    Parameters
    ----------
    path
        The lock's own file; it is made, and stays.
    wait_s
        Seconds to wait for another holder.

    Raises
    ------
    StorageError
        Another process held it all the time, or the file can't be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(f"the lock '{path}' can't be made: {error}; check the folder's permissions") from error
    try:
        _acquire(descriptor, path, wait_s=wait_s, sleep=sleep)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path, *, wait_s: float, sleep: Sleep) -> None:
    waited = 0.0
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if waited >= wait_s:
                raise StorageError(f"another process held '{path}' for over {wait_s:.0f} s; try again later") from error
            sleep(_POLL_S)
            waited += _POLL_S
        except OSError as error:
            raise StorageError(f"'{path}' can't be locked: {error}; keep the learner's data on a local disk") from error
        else:
            return


def sync_tree(path: Path, *, known: set[tuple[str, int, int]]) -> None:
    """Flush all files and folders under `path` to the disk, except those in `known`, which it extends.

    Parameters
    ----------
    path
        A folder; nothing happens where it is missing.
    known
        (path, size, time of change in ns) of files that were flushed before.

    Raises
    ------
    OSError
        A file can't be flushed: the disk may be full or broken.
    """
    folders = {path, path.parent}
    for name, _, files in os.walk(path):
        folder = Path(name)
        folders.add(folder)
        for file in (folder / f for f in files):
            status = file.stat()
            mark = (str(file), status.st_size, status.st_mtime_ns)
            if mark not in known:
                _sync(file)
                known.add(mark)
    for changed in sorted(folders, reverse=True):
        if changed.is_dir():
            _sync(changed)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
