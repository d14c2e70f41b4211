"""A wire that counts what goes through it."""

from __future__ import annotations

from featureloop.core.ports import Receipt
from featureloop.device.wire import HttpWire


class MeteredWire:
    """An `HttpWire` that counts the bytes of the bodies it sent, repeats included.

    Attributes
    ----------
    sent_bytes
        Bytes of all bodies so far.
    """

    def __init__(self, wire: HttpWire) -> None:
        self._wire = wire
        self.sent_bytes = 0

    def deliver(self, body: bytes) -> Receipt:
        """Send a body, as `core.ports.Wire`."""
        self.sent_bytes += len(body)
        return self._wire.deliver(body)

    def close(self) -> None:
        """Close the wire."""
        self._wire.close()
