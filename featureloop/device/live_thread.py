"""A live source, recognized beside all else: the newest frame always, of which the sharing leaves what is too much."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from featureloop.core.errors import FeatureloopError
from featureloop.device.pipeline import Show, run_pipeline
from featureloop.device.sections import Pausable
from featureloop.device.sharing_now import Tally
from featureloop.device.update_thread import Setup
from featureloop.images.live import LiveSource

SECTION_S = 60.0
"""A source without an end is worked off in sections of so long; what was wrong in one is told after it."""
_PAUSE_S = 1.0
_MOST_TOLD = 100


class LiveThread:
    """Recognizes a live source until it ends or is stopped; a new package is taken over between two frames.

    Parameters
    ----------
    using
        Gives the package in use, with what provides its results.
    showing
        What is called with every result of a package.
    is_done
        Whether an earlier run had finished with the frame of this key: it is shown, and not provided again.
    may_share
        Whether the site's sharing is switched on.
    """

    def __init__(
        self,
        source: LiveSource,
        *,
        using: Callable[[], Setup],
        showing: Callable[[Setup], Show],
        is_done: Callable[[bytes], bool],
        may_share: Callable[[], bool],
        tally: Tally,
        tell: Callable[[str], None],
    ) -> None:
        self._source, self._using, self._showing = source, using, showing
        self._is_done, self._may_share, self._tally, self._tell = is_done, may_share, tally, tell
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live-recognition", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, *, timeout_s: float = 10.0) -> bool:
        """End after the frames at hand, and wait for it; False where that takes longer."""
        self._stop.set()
        self._source.stop()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        current, told, until = self._using(), set[str](), 0.0

        def over() -> bool:
            return self._stop.is_set() or self._using() is not current or time.monotonic() >= until

        frames, recognized = Pausable(self._source, until=over), 0
        while not (self._stop.is_set() or frames.ended):
            current, until = self._using(), time.monotonic() + SECTION_S
            with self._tally.counting() as summary:
                try:
                    run_pipeline(
                        frames,
                        runtime=current.runtime,
                        provider=current.provider,
                        is_done=self._is_done,
                        show=self._showing(current),
                        when_full="drop",
                        when_done="show",
                        may_share=self._may_share,
                        ahead=0,
                        summary=summary,
                    )
                except FeatureloopError as error:
                    summary.faults.append((self._source.name, error))
                    self._stop.wait(_PAUSE_S)
            recognized += summary.frames
            for reason in dict.fromkeys([s.reason for s in summary.skipped] + [str(e) for _, e in summary.faults]):
                if reason not in told and len(told) < _MOST_TOLD:  # The same comes thirty times a second.
                    told.add(reason)
                    self._tell(f"{self._source.name}: {reason}")
        counts = self._source.counts
        self._tell(
            f"{self._source.name} ended: {recognized} of {counts.read} frames recognized, the rest for newer ones"
        )
