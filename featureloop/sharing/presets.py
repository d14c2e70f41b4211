"""Sharing policies with a name: what is usually wanted, in one line of `policy.toml`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_STEPS = ("consensus", "second-opinion", "ask")

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "results": {"provide": "all", "below_threshold": "provide", "content": "result"},
    "changed-below-threshold": {"provide": "changed", "below_threshold": _STEPS},
    "doubtful-results": {"provide": "below-threshold", "below_threshold": "provide", "content": "result"},
    "doubtful-reliabilities": {"provide": "below-threshold", "below_threshold": "provide", "content": "reliability"},
    "doubtful-results-and-reliabilities": {
        "provide": "below-threshold",
        "below_threshold": "provide",
        "content": "result-and-reliability",
    },
    "changed": {"provide": "changed", "change": "any", "below_threshold": _STEPS},
}
"""By name, settings of `[share]`; what the file says besides stands before them."""
