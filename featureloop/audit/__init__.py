"""Attacks on what leaves, really run, and the report of what they found."""
