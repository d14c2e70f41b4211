"""The audit log: one JSON line per request or decision, with actor, action and outcome.

It holds no payload, no token and no code. A learner's decisions (who promoted,
invited, revoked what) are in its control database besides, in the transaction
that carried them out.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from featureloop.core.errors import StorageError
from featureloop.core.ports import Clock

_LONGEST = 200


@dataclass(frozen=True, slots=True)
class AuditLog:
    """A file that is only ever appended to.

    Attributes
    ----------
    path
        The file; it is made by the first line (mode 0600).
    clock
        Seconds since the epoch.
    """

    path: Path
    clock: Clock = field(default=time.time, compare=False)

    def write(self, *, actor: str, action: str, outcome: str, **details: str | int) -> None:
        """Append one line.

        Parameters
        ----------
        actor
            A device's id, a user's name at the site, or `unknown`.
        action, outcome
            Such as `provide records`, `ok`.
        **details
            Counts and reasons.

        Raises
        ------
        StorageError
            The disk is full or the file is not writable.
        """
        when = datetime.fromtimestamp(self.clock(), UTC).isoformat(timespec="milliseconds")
        texts = {k: v[:_LONGEST] if isinstance(v, str) else v for k, v in details.items()}
        line = json.dumps({"time": when, "actor": actor, "action": action, "outcome": outcome, **texts}) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                # One write of one line: lines of several threads and processes don't mix.
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StorageError(f"the audit log '{self.path}' can't be written: {error}; free some space") from error
