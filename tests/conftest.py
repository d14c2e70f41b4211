"""One thread for torch, here and in the processes that tests start: tiny networks lose more by waiting for a second."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
