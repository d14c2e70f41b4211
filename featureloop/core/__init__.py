"""Types, errors and ports: numpy only."""
