"""The site's switch for sharing: off, nothing is provided and nothing is sent, and recognition goes on.

It is a file in the device's directory, so that it outlives a restart and every process of the device sees it at once.
Who switched it, and when, stays at the site, in its audit log.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from featureloop.core.audit_log import AuditLog
from featureloop.core.ports import Clock
from featureloop.model.package import write_atomically

FILE = "sharing.json"
AUDIT = "audit.jsonl"


@dataclass(frozen=True, slots=True)
class Switched:
    """How the switch stands.

    Attributes
    ----------
    on
        Whether the policy's sharing goes on. It does before anybody switched.
    by, at
        Who switched it, and when (seconds since the epoch); None where nobody did, or where that can't be read.
    trouble
        Why the file can't be read: then nothing is shared. None while all is well.
    """

    on: bool
    by: str | None = None
    at: float | None = None
    trouble: str | None = None


class SharingSwitch:
    """The switch of one device's directory; any threads may use it at once.

    Parameters
    ----------
    path
        The device's directory.
    clock
        Seconds since the epoch.
    """

    def __init__(self, path: Path, *, clock: Clock = time.time) -> None:
        self._path, self._clock = path / FILE, clock
        self._audit = AuditLog(path / AUDIT, clock)
        self._lock = threading.Lock()
        self._known: tuple[tuple[int, int, int] | None, Switched] | None = None

    def is_on(self) -> bool:
        """Whether anything may be provided and sent; cheap enough to be asked for every frame."""
        return self.now().on

    def now(self) -> Switched:
        """How the switch stands; what can't be read is off."""
        try:
            facts = self._path.stat()
            mark = (facts.st_mtime_ns, facts.st_ino, facts.st_size)
        except FileNotFoundError:
            mark = None
        except OSError as error:
            return Switched(False, trouble=f"'{self._path}' can't be read: {error}; check its permissions")
        with self._lock:
            if self._known is None or self._known[0] != mark:
                self._known = mark, Switched(True) if mark is None else self._read()
            return self._known[1]

    def turn(self, *, on: bool, by: str) -> Switched:
        """Switch it: on the disk when this returns, with a line in the audit log.

        Parameters
        ----------
        by
            Who asked for it. It stays at the site.

        Raises
        ------
        StorageError
            It can't be kept, or not be written down who did it.
        """
        text = {"on": on, "by": by, "at": self._clock()}
        if on:  # Nothing leaves before it is written down who let it.
            self._note(text)
        write_atomically(self._path, json.dumps(text).encode(), mode=0o600)
        if not on:
            self._note(text)
        return self.now()

    def _note(self, text: dict[str, object]) -> None:
        action = "switch sharing on" if text["on"] else "switch sharing off"
        self._audit.write(actor=str(text["by"]), action=action, outcome="ok")

    def _read(self) -> Switched:
        try:
            data = json.loads(self._path.read_bytes())
            on, by, at = data["on"], data["by"], data["at"]
            if not (isinstance(on, bool) and isinstance(by, str) and isinstance(at, int | float)):
                raise TypeError(f"unexpected values {data!r:.80}")
            return Switched(on, by, float(at))
        except OSError as error:
            return Switched(False, trouble=f"'{self._path}' can't be read: {error}; check its permissions")
        except (ValueError, KeyError, TypeError) as error:
            return Switched(False, trouble=f"'{self._path}' is damaged ({error}); switch the sharing on or off again")
