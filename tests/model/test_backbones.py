"""Backbones made elsewhere: the package runs them, and gives what they give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from featureloop.core.errors import InputError, PackageError
from featureloop.core.types import Frame, Task, UInt8
from featureloop.images.labelled import open_labelled
from featureloop.images.phantom import phantom_frame, write_phantom_folder
from featureloop.images.phantom_look import HOSPITAL_A
from featureloop.learner.founding import found_package
from featureloop.model.backbone_onnx import onnx_backbone, read_backbone
from featureloop.model.backbones import Backbone, Normalize, efficientnet_lite0, module_backbone
from featureloop.model.export import export_onnx
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.manifest import Preprocessing
from featureloop.model.neck import Neck
from featureloop.model.package import load_package
from featureloop.model.preprocess import to_input
from featureloop.model.runtime import Runtime, open_session

SIZE = 64
TINY = FoundingSettings(
    size=SIZE, channels=8, epochs=1, recognizer_epochs=1, augmentations=0, width=16, blocks=1, batch=4
)
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def picture() -> UInt8:
    return np.random.default_rng(0).integers(0, 256, (90, 70, 3)).astype(np.uint8)


def densenet() -> nn.Module:
    """MONAI's DenseNet-121 up to its feature map: 1,024 channels at stride 32."""
    from monai.networks.nets import DenseNet121

    torch.manual_seed(0)
    network: nn.Module = DenseNet121(spatial_dims=2, in_channels=1, out_channels=2).features
    return network.eval()


def plain(inputs: int) -> nn.Module:
    """What somebody else may have exported: 12 channels at stride 16."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(inputs, 6, 4, 4), nn.ReLU(), nn.Conv2d(6, 12, 4, 4), nn.ReLU()).eval()


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """`plain(3)` as a file in an older operator set, for one image of 64 x 64 pixels."""
    from onnx import TensorProto, helper, numpy_helper, save_model

    first, _, second, _ = plain(3)
    weights = {
        f"{name}.{k}": v.detach().numpy() for name, m in (("a", first), ("b", second)) for k, v in m.named_parameters()
    }
    nodes = [
        helper.make_node("Conv", ["x", "a.weight", "a.bias"], ["1"], strides=[4, 4]),
        helper.make_node("Relu", ["1"], ["2"]),
        helper.make_node("Conv", ["2", "b.weight", "b.bias"], ["3"], strides=[4, 4]),
        helper.make_node("Relu", ["3"], ["4"]),
        helper.make_node("Reshape", ["4", "shape"], ["y"]),
        helper.make_node("GlobalAveragePool", ["4"], ["pooled"]),
    ]
    initial = [numpy_helper.from_array(v, k) for k, v in weights.items()]
    initial.append(numpy_helper.from_array(np.array([1, 12, 4, 4]), "shape"))
    made = helper.make_graph(
        nodes,
        "elsewhere",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 12, k, k]) for n, k in (("y", 4), ("pooled", 1))],
        initial,
    )
    path = tmp_path / "elsewhere.onnx"
    save_model(helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


def expected(module: nn.Module, normalize: Normalize, neck: nn.Module) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = neck(module(normalize(torch.from_numpy(to_input(picture(), Preprocessing(SIZE)))))).numpy()
    return found


def written(backbone: Backbone, neck: nn.Module, path: Path) -> np.ndarray:
    backbone.write_extractor(neck, path, size=SIZE)
    found: np.ndarray = open_session(path).run(["features"], {"image": to_input(picture(), Preprocessing(SIZE))})[0]
    return found


def test_a_monai_network_gives_in_the_package_what_it_gives_in_torch(tmp_path: Path) -> None:
    network = densenet()
    backbone = module_backbone(network, name="densenet121", channels=1024, stride=32, mean=(0.5,), std=(0.2,), inputs=1)
    neck = Neck(1024, 6).eval()
    found = written(backbone, neck, tmp_path / "extractor.onnx")
    assert found.shape == (1, 6, 2, 2)
    np.testing.assert_allclose(found, expected(network, Normalize((0.5,), (0.2,), 1), neck), atol=1e-4)


def test_an_onnx_file_made_elsewhere_gives_in_the_package_what_it_gave_there(graph: Path, tmp_path: Path) -> None:
    backbone = onnx_backbone(graph, channels=12, stride=16, **IMAGENET)
    neck = Neck(12, 5).eval()
    found = written(backbone, neck, tmp_path / "models/extractor.onnx")
    np.testing.assert_allclose(found, expected(plain(3), Normalize(*IMAGENET.values(), 3), neck), atol=1e-4)
    images = np.repeat(to_input(picture(), Preprocessing(SIZE)), 3, axis=0)
    assert backbone.open_early(SIZE)(images).shape == (3, 12, 4, 4)


@pytest.mark.parametrize(("operator", "opset"), [("Gelu", 20), ("GroupNormalization", 21), ("Relu", 18), ("Relu", 22)])
def test_a_graph_of_newer_operators_is_run_as_it_is(operator: str, opset: int, tmp_path: Path) -> None:
    """Gelu came with opset 20, and group normalization by channel with 21: neither can be converted down."""
    from onnx import TensorProto, helper, numpy_helper, save_model

    convolution = nn.Conv2d(3, 12, 16, 16)
    after = {"Gelu": nn.GELU(), "GroupNormalization": nn.GroupNorm(3, 12), "Relu": nn.ReLU()}[operator]
    weights = {k: v.detach().numpy() for k, v in convolution.named_parameters()}
    weights |= {"one": np.ones(12, np.float32), "zero": np.zeros(12, np.float32)}
    given, said = (["one", "zero"], {"num_groups": 3}) if operator == "GroupNormalization" else ([], {})
    made = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "weight", "bias"], ["1"], strides=[16, 16]),
            helper.make_node(operator, ["1", *given], ["y"], **said),
        ],
        "newer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 12, 4, 4])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    path = tmp_path / "newer.onnx"
    save_model(helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), str(path))
    neck, network = Neck(12, 5).eval(), nn.Sequential(convolution, after).eval()
    found = written(onnx_backbone(path, channels=12, stride=16, **IMAGENET), neck, tmp_path / "extractor.onnx")
    np.testing.assert_allclose(found, expected(network, Normalize(*IMAGENET.values(), 3), neck), atol=1e-4)


def test_a_graph_that_can_not_be_converted_says_which_opset_to_export_with(
    graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("No Adapter To Version $16 for Identity")

    monkeypatch.setattr("featureloop.model.backbone_onnx.version_converter.convert_version", refuse)
    with pytest.raises(PackageError, match=r"of opset 13 .*No Adapter.* export it with opset 18 or newer"):
        onnx_backbone(graph, channels=12, stride=16).open_early(SIZE)


def test_a_network_in_its_declarations_place_is_told_what_to_write(graph: Path) -> None:
    with pytest.raises(InputError, match=r"elsewhere\.toml") as told:
        read_backbone(graph)
    written = str(told.value).split("\n", 1)[1]
    graph.with_suffix(".toml").write_text(written)
    assert read_backbone(graph.with_suffix(".toml")).channels == 1024


@pytest.mark.parametrize("inputs", [1, 3])
def test_a_pixel_is_normalized_as_the_network_was_trained(inputs: int) -> None:
    mean, std = (0.4, 0.5, 0.6)[:inputs], (0.1, 0.2, 0.3)[:inputs]
    found = Normalize(mean, std, inputs)(torch.from_numpy(to_input(picture(), Preprocessing(SIZE))))
    small = np.asarray(to_input(picture(), Preprocessing(SIZE)) * 128 + 127)[0] / 255
    wanted = (small if inputs == 3 else small.mean(0, keepdims=True)) - np.array(mean).reshape(-1, 1, 1)
    np.testing.assert_allclose(found[0].numpy(), wanted / np.array(std).reshape(-1, 1, 1), atol=1e-4)


@pytest.mark.parametrize(("kind", "task"), [("module", Task.SEGMENTATION), ("onnx", Task.DETECTION)])
def test_a_package_is_founded_on_a_backbone_made_elsewhere(kind: str, task: Task, graph: Path, tmp_path: Path) -> None:
    backbone: Backbone = (
        module_backbone(plain(3), name="plain", channels=12, stride=16)
        if kind == "module"
        else onnx_backbone(graph, channels=12, stride=16)
    )
    write_phantom_folder(tmp_path / "images", HOSPITAL_A, seed=1, sequences=15, frames_each=2, size=(SIZE, SIZE))
    folder = open_labelled(tmp_path / "images", task=task)
    found_package(folder, folder.items, tmp_path / "P0", settings=TINY, backbone=backbone, replay_versions=0)
    package = load_package(tmp_path / "P0")
    assert package.manifest.features.backbone == backbone.name
    assert package.manifest.features.grid == 4
    frame: Frame = phantom_frame(HOSPITAL_A, seed=5, size=(SIZE, SIZE))
    runtime = Runtime(package)
    vectors = runtime.extract(frame.pixels)
    assert np.abs(vectors).max() <= 1
    assert np.isfinite(runtime.recognize(vectors).probabilities).all()


@pytest.mark.parametrize(("task", "profile"), [(Task.SEGMENTATION, "fast"), (Task.CLASSIFICATION, "full")])
def test_the_same_seed_gives_the_same_package(task: Task, profile: str, tmp_path: Path) -> None:
    """On a CPU with as many threads, to the bit: the digest is that of every file."""
    layout = "images" if task is Task.SEGMENTATION else "classes"
    if task is Task.SEGMENTATION:
        write_phantom_folder(tmp_path / layout, HOSPITAL_A, seed=1, sequences=12, frames_each=2, size=(SIZE, SIZE))
    else:
        for i in range(24):
            path = tmp_path / layout / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(phantom_frame(HOSPITAL_A, seed=i, size=(SIZE, SIZE)).pixels).save(path)
    folder, digests = open_labelled(tmp_path / layout, task=task), []
    for i in range(2):
        settings = replace(TINY, profile=profile, augmentations=1)
        backbone, out = module_backbone(plain(3), name="plain", channels=12, stride=16), tmp_path / f"P{i}"
        founded = found_package(folder, folder.items, out, settings=settings, backbone=backbone, replay_versions=0)
        digests.append(founded.package.digest)
        torch.rand(3)  # what else a process draws is nothing to it
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("channels", "stride", "match"), [(12, 32, "declares"), (13, 16, "declares"), (12, 48, "grid")]
)
def test_a_backbone_that_does_not_make_what_it_declares_is_refused(
    channels: int, stride: int, match: str, graph: Path
) -> None:
    for backbone in (
        module_backbone(plain(3), name="plain", channels=channels, stride=stride),
        onnx_backbone(graph, channels=channels, stride=stride),
    ):
        with pytest.raises(PackageError, match=match):
            backbone.open_early(SIZE)


def test_a_graph_of_another_size_or_of_none_is_refused(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="doesn't take images of 128 x 128"):
        onnx_backbone(graph, channels=12, stride=16).open_early(128)
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    for name in ("broken.onnx", "nowhere.onnx"):
        with pytest.raises(PackageError, match=name):
            onnx_backbone(tmp_path / name, channels=12, stride=16).open_early(SIZE)


def test_an_impossible_declaration_is_refused() -> None:
    with pytest.raises(PackageError, match="1 or 3 channels"):
        Normalize((0.5, 0.5), (1.0, 1.0), 2)


def test_the_default_backbone_is_what_it_declares() -> None:
    assert efficientnet_lite0().open_early(SIZE)(np.zeros((2, 3, SIZE, SIZE), np.float32)).shape == (2, 40, 8, 8)


def test_the_seam_takes_exported_modules_of_any_kind(tmp_path: Path) -> None:
    """The exporter that the package uses itself makes a file that can be a backbone again."""
    path = tmp_path / "again.onnx"
    export_onnx(plain(3), torch.zeros(1, 3, SIZE, SIZE), path, source="image", result="map", dynamic={})
    found = written(onnx_backbone(path, channels=12, stride=16), nn.Identity(), tmp_path / "extractor.onnx")
    np.testing.assert_allclose(found, expected(plain(3), Normalize((0, 0, 0), (1, 1, 1), 3), nn.Identity()), atol=1e-4)


def test_a_backbone_is_declared_by_a_file_beside_it(graph: Path) -> None:
    declaration = graph.with_name("backbone.toml")
    declaration.write_text('onnx = "elsewhere.onnx"\nchannels = 12\nstride = 16\nstd = [1, 1, 0.5]\n')
    backbone = read_backbone(declaration)
    assert (backbone.name, backbone.channels, backbone.stride) == ("elsewhere", 12, 16)
    assert backbone.normalize.std.flatten().tolist() == [1.0, 1.0, 0.5]
    assert backbone.open_early(SIZE)(np.zeros((1, 3, SIZE, SIZE), np.float32)).shape == (1, 12, 4, 4)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("onnx = 3", "must give onnx as str"),
        ('onnx = "a"\nchannels = 12', "must give stride"),
        ('onnx = "a"\nchannels = 12.5\nstride = 16', "must give channels as int"),
        ('onnx = "a"\nchannels = 12\nstride = 16\nlayers = 3', "unknown settings"),
        ('onnx = "a"\nchannels = 12\nstride = 0', "must be positive"),
        ('onnx = "a"\nchannels = 12\nstride = 16\nmean = ["x", 0, 0]', "lists of numbers"),
        ("not toml", "declares no backbone"),
        (None, "declares no backbone"),
    ],
)
def test_a_declaration_that_says_too_little_or_too_much_is_refused(
    text: str | None, match: str, tmp_path: Path
) -> None:
    path = tmp_path / "backbone.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=match):
        read_backbone(path)
