from pathlib import Path

import av
import numpy as np
import pytest

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def data() -> Path:
    if not DATA.is_dir():
        pytest.skip("the folder of real images is not beside the project")
    return DATA


@pytest.fixture
def gradient() -> np.ndarray:
    """A picture whose corners all differ, uint8 (40, 60, 3)."""
    y, x = np.mgrid[0:40, 0:60]
    return np.stack([x * 4, y * 6, (x + y) * 2], axis=2).astype(np.uint8)


@pytest.fixture
def make_video():
    """Write a clip whose frame i is of the one grey level 20 + 5 i."""

    def write(path: Path, *, frames: int = 40, options: dict[str, str] | None = None) -> Path:
        with av.open(str(path), "w", options=options or {}) as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 10
            stream.options = {"bf": "0"}
            noise = np.random.default_rng(0).integers(-4, 5, (48, 64, 1))
            for i in range(frames):
                pixels = np.clip(20 + 5 * i + noise, 0, 255).astype(np.uint8).repeat(3, axis=2)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
        return path

    return write
