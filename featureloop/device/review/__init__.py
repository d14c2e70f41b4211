"""Doubtful results that wait for a person: the queue, its encrypted images, and the answers."""
