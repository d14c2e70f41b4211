"""The device at the hospital."""
