"""Child processes of a demonstration: started, read, and never left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import IO, Any

from featureloop.core.errors import FeatureloopError, TransportError

READY = "learner ready at "
_GRACE_S = 5.0


class Children:
    """The processes that were started and have not ended."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[str]] = []
        self._readers: list[threading.Thread] = []
        self._starting = False
        self._interrupted = False

    def start(self, args: Sequence[str], *, threads: int | None = None) -> subprocess.Popen[str]:
        """Start `featureloop ARGS` with its output captured, and so many threads for its arithmetic."""
        command = [sys.executable, "-m", "featureloop", *args]
        # An interrupt between a process's start and its entry in the list would leave it behind, so it waits.
        self._starting = True
        limit = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
        try:
            child = subprocess.Popen(  # noqa: S603 - our own command line, no shell
                command,
                env={**os.environ, **limit},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            self._running.append(child)
        finally:
            self._starting = False
        if self._interrupted:
            raise KeyboardInterrupt
        return child

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt, now or as soon as the process that is being started is known."""
        self._interrupted = True
        if not self._starting:
            raise KeyboardInterrupt

    def run(self, *args: str, accept: Sequence[int] = (0,)) -> Any:
        """Run `featureloop ARGS --json` to its end, and return what it reports.

        Parameters
        ----------
        accept
            Exit codes that are no failure.

        Raises
        ------
        FeatureloopError
            It failed; the message is its own.
        """
        return self.run_together([args], accept=accept)[0]

    def run_together(self, commands: Sequence[Sequence[str]], *, accept: Sequence[int] = (0,)) -> list[Any]:
        """Run several commands at once to their ends, as `run` runs one; the cores are divided among them."""
        threads = max(1, (os.cpu_count() or 1) // len(commands)) if len(commands) > 1 else None
        running = [self.start([*args, "--json"], threads=threads) for args in commands]
        reported = []
        for args, child in zip(commands, running, strict=True):
            out, err = child.communicate()
            self._running.remove(child)
            if child.returncode not in accept:
                raise FeatureloopError(
                    f"'featureloop {' '.join(args[:2])}' ended with {child.returncode}: {err.strip()[-400:]}"
                )
            reported.append(json.loads(out))
        return reported

    def serve(self, *args: str, timeout_s: float = 60.0) -> str:
        """Start a learner that keeps running, and return its URL once it is ready.

        Raises
        ------
        TransportError
            It ended, or was not ready in time.
        """
        child = self.start(args)
        last: deque[str] = deque(maxlen=20)
        ready = threading.Event()
        found: list[str] = []

        def read(lines: IO[str]) -> None:
            with lines:
                for text in lines:
                    last.append(text)
                    if READY in text:
                        found.append(text.split(READY)[1].split()[0])
                        ready.set()
            ready.set()

        reader = threading.Thread(target=read, args=(child.stderr,), daemon=True)
        self._readers.append(reader)
        reader.start()
        if not ready.wait(timeout_s) or not found:
            raise TransportError(f"the learner did not become ready: {''.join(last).strip()[-400:]}")
        return found[0]

    def kill_servers(self) -> None:
        """SIGKILL all that still runs, as a power cut would."""
        for child in self._running:
            child.kill()
            child.wait()
        self._close()

    def end(self) -> None:
        """Stop all that still runs: first politely, then for good."""
        for child in self._running:
            child.terminate()
        for child in self._running:
            try:
                child.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._close()

    def _close(self) -> None:
        """Close the ended processes' pipes, once their readers have come to the end."""
        for reader in self._readers:
            reader.join(_GRACE_S)
        for child in self._running:
            for pipe in (child.stdout, child.stderr):
                if pipe:
                    pipe.close()
        self._running.clear()
        self._readers.clear()


@contextmanager
def children() -> Iterator[Children]:
    """Children that are ended however this block is left, by SIGINT, SIGTERM and SIGHUP too."""
    group = Children()

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        group.interrupt()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {n: signal.signal(n, interrupt) for n in numbers}
    try:
        yield group
    finally:
        # A second interrupt must not cut the clean-up short.
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        group.end()
        for number, handler in before.items():
            signal.signal(number, handler)
