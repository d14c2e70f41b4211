"""What a clinician sees: one picture and one line a frame, none in another's place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featureloop.core.errors import StorageError
from featureloop.core.types import Frame, Recognition
from featureloop.device.show import OUTLINE, ResultWriter, draw_mask
from featureloop.model.runtime import Runtime
from featureloop.testing import CLASSES, tiny_package


def written(folder: Path, frames: list[Frame], *, task: str = "segmentation") -> list[dict[str, object]]:
    package = tiny_package(folder / "package", task=task)
    runtime = Runtime(package, threads=1)
    writer = ResultWriter(folder / "out", package)
    for frame in frames:
        vectors = runtime.extract(frame.pixels)
        writer.show(frame, runtime.recognize(vectors if task == "segmentation" else np.ones((1, 16), np.float32)))
    writer.close()
    return [json.loads(line) for line in (folder / "out" / "results.jsonl").read_text().splitlines()]


def test_frames_whose_names_differ_only_in_odd_characters_have_each_their_picture(tmp_path: Path) -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    names = ["a/b.png", "a_b.png", "a b.png", "../b.png", "x" * 400, "y" + "x" * 400, "\u00e4.png", "\u00f6.png"]
    frames = [Frame(pixels, n) for n in names] + [Frame(pixels, "a_b.png", index=1)]
    lines = written(tmp_path, frames)
    assert [line["name"] for line in lines] == [f.name for f in frames]
    pictures = {str(line["picture"]) for line in lines}
    assert len(pictures) == len(frames)
    assert pictures | {"results.jsonl"} == {p.name for p in (tmp_path / "out").iterdir()}
    with Image.open(tmp_path / "out" / "a_b.png.00001.jpg") as picture:
        assert picture.size == (60, 40)


def test_every_result_says_that_it_is_unverified(tmp_path: Path) -> None:
    (line,) = written(tmp_path, [Frame(np.zeros((40, 60, 3), np.uint8), "a.png")], task="classification")
    assert line["status"] == "UNVERIFIED"
    probabilities = line["probabilities"]
    assert isinstance(probabilities, dict)
    assert tuple(probabilities) == CLASSES
    assert line["label"] == max(probabilities, key=probabilities.__getitem__)


def test_only_the_mask_and_its_outline_are_drawn() -> None:
    pixels = np.full((100, 100, 3), 50, np.uint8)
    mask = np.zeros((100, 100), np.uint8)
    mask[30:70, 30:70] = 1
    drawn = draw_mask(pixels, mask)
    assert (drawn[:28] == 50).all()
    assert tuple(drawn[30, 50]) == OUTLINE
    assert 50 < drawn[50, 50, 1] < OUTLINE[1]
    assert (draw_mask(pixels, np.zeros_like(mask)) == pixels).all()
    assert (pixels == 50).all()


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StorageError, match="--out"):
        ResultWriter(tmp_path / "out", tiny_package(tmp_path / "package"))


def test_a_picture_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    package = tiny_package(tmp_path / "package")
    writer = ResultWriter(tmp_path / "out", package)
    (tmp_path / "out" / "a.png.00000.jpg").mkdir()
    frame = Frame(np.zeros((40, 60, 3), np.uint8), "a.png")
    runtime = Runtime(package, threads=1)
    found: Recognition = runtime.recognize(runtime.extract(frame.pixels))
    with pytest.raises(StorageError, match="result"):
        writer.show(frame, found)
    writer.close()
