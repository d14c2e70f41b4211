"""Founding training on a handful of generated frames: what comes out is whole and consistent."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from featureloop.core.errors import InputError, PackageError
from featureloop.core.types import Frame, Task, Truth
from featureloop.images.phantom import phantom_frame
from featureloop.images.phantom_look import HOSPITAL_A
from featureloop.model.backbones import TorchBackbone, module_backbone
from featureloop.model.checkpoint import Checkpoint, fingerprint, open_checkpoint
from featureloop.model.fit import BagSet
from featureloop.model.founding import Networks, recognizer_spec, released_form, train_networks
from featureloop.model.founding_features import frame_shares
from featureloop.model.founding_fit import Rounding
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.lesson import Surroundings

TINY = FoundingSettings(size=64, epochs=1.0, recognizer_epochs=1.0, augmentations=1, width=16, blocks=1, batch=4)


RECOGNIZER = ("recognizer", "recognizer on rounded values")
"""Kinds of a founding's work on boxes, as a person sees them."""


def frames(n: int = 8) -> list[Frame]:
    return [phantom_frame(HOSPITAL_A, seed=i, size=(64, 64)) for i in range(n)]


def test_segmentation_networks_fit_each_other_and_the_budget() -> None:
    seen: set[str] = set()
    networks = train_networks(
        frames(),
        task=Task.SEGMENTATION,
        classes=1,
        settings=TINY,
        held=frames(10)[8:],
        around=Surroundings(progress=lambda what, *_: seen.add(what.split(",")[0])),
    )
    assert networks.features.grid == 4
    assert networks.features.channels == len(networks.levels)
    assert 0 < networks.bits_per_vector <= TINY.bits_per_vector
    assert {"early features", "fine-tuning", "taps", "features", "recognizer"} <= seen


@pytest.mark.parametrize(
    ("task", "release", "kinds", "rounds"),
    [
        (Task.DETECTION, "set quantize=3", RECOGNIZER, True),
        (Task.DETECTION, "set noise=1.0", RECOGNIZER[:1], False),
        (Task.SEGMENTATION, "set quantize=3", RECOGNIZER[:1], True),
        (Task.CLASSIFICATION, "", RECOGNIZER[:1], False),
    ],
)
def test_its_recognizer_learns_from_rounded_values_where_what_leaves_is_rounded_and_of_boxes_from_others_before(
    task: Task, release: str, kinds: Sequence[str], rounds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, rounded = dict.fromkeys(RECOGNIZER, 0), list[float]()
    over = Rounding.over

    def kept(self: Rounding, bags: BagSet) -> BagSet:
        rounded.append(self.levels.max())
        return over(self, bags)

    def progress(what: str, _done: int, total: int) -> None:
        if what.split(",", maxsplit=1)[0] in seen:
            seen[what.split(",", maxsplit=1)[0]] = total

    monkeypatch.setattr(Rounding, "over", kept)
    train_networks(
        frames(4),
        task=task,
        classes=1 if task is not Task.CLASSIFICATION else 3,
        settings=replace(TINY, release=release),
        held=frames(6)[4:],
        backbone=small_backbone(),
        around=Surroundings(progress=progress),
    )
    assert seen == {kind: int(kind in kinds) for kind in RECOGNIZER}
    # Those that are held and those that are not, to what leaves.
    assert rounded == [3.0] * 2 * rounds


def small_backbone() -> TorchBackbone:
    """Two convolutions: exported and run in no time."""
    torch.manual_seed(1)
    early = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.ReLU())
    return TorchBackbone("small", 8, 16, early, nn.Sequential(nn.Conv2d(6, 8, 4, 4), nn.ReLU()))


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.mark.parametrize(
    ("task", "classes", "stages"),
    [
        (Task.CLASSIFICATION, "abc", ("early features", "fine-tuning", "recognizer")),
        (Task.SEGMENTATION, "a", ("fine-tuning", "neighbours", "recognizer")),
        (Task.DETECTION, "a", ("recognizer, loss", "recognizer on rounded values")),
    ],
)
def test_a_killed_training_goes_on_to_the_same_networks(
    tmp_path: Path, task: Task, classes: str, stages: tuple[str, ...]
) -> None:
    """As the same seed gives the same networks, wherever the training was killed."""
    given, held, settings = frames(4), frames(6)[4:], replace(TINY, epochs=4.0, recognizer_epochs=4.0)

    def dies_in(stage: str) -> Surroundings:
        def dies(what: str, done: int, _total: int) -> None:
            if what.startswith(stage) and done == 3:
                raise Killed

        return Surroundings(progress=dies)

    def train(checkpoint: Checkpoint | None, around: Surroundings) -> Networks:
        return train_networks(
            given,
            task=task,
            classes=len(classes),
            settings=settings,
            held=held,
            backbone=small_backbone(),
            checkpoint=checkpoint,
            around=around,
        )

    def opened() -> Checkpoint:
        return open_checkpoint(tmp_path / "P", given, tasks=[(task, classes)], settings=settings, backbone="b")

    undisturbed = train(None, Surroundings())
    for stage in stages:
        with pytest.raises(Killed):
            train(opened(), dies_in(stage))
    again = train(opened(), Surroundings())
    for name, value in undisturbed.recognizer.state_dict().items():
        np.testing.assert_allclose(value.numpy(), again.recognizer.state_dict()[name].numpy(), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="another training"):
        open_checkpoint(tmp_path / "P", given[1:], tasks=[(task, classes)], settings=settings, backbone="b")


def test_the_profile_full_tunes_the_early_stages_too() -> None:
    settings = replace(TINY, profile="full", epochs=2.0)
    backbone = small_backbone()
    before = {k: v.clone() for k, v in backbone.early.state_dict().items()}
    networks = train_networks(
        frames(4), task=Task.SEGMENTATION, classes=1, settings=settings, held=frames(5)[4:], backbone=backbone
    )
    assert any(not torch.equal(v, before[k]) for k, v in backbone.early.state_dict().items())
    assert networks.features.grid == 4


@pytest.mark.parametrize("profile", ["fast", "full"])
@pytest.mark.parametrize(
    ("channels", "stride", "inputs", "match"),
    [(9, 16, 3, "declares"), (8, 32, 3, "declares"), (8, 24, 3, "no whole grid"), (8, 16, 1, "takes no images")],
)
def test_a_backbone_that_is_not_as_declared_is_refused_before_it_is_tuned(
    profile: str, channels: int, stride: int, inputs: int, match: str
) -> None:
    def none_taken(what: str, *_: int) -> None:
        assert "loss" not in what

    made = module_backbone(
        nn.Conv2d(3, 8, 16, 16),
        name="odd",
        channels=channels,
        stride=stride,
        inputs=inputs,
        mean=(0.0,) * inputs,
        std=(1.0,) * inputs,
    )
    with pytest.raises(PackageError, match=match):
        train_networks(
            frames(4),
            task=Task.CLASSIFICATION,
            classes=3,
            settings=replace(TINY, profile=profile),
            backbone=made,
            around=Surroundings(progress=none_taken),
        )


def test_a_network_made_elsewhere_is_tuned_by_the_profile_full_alone() -> None:
    for profile, tuned in (("fast", False), ("full", True)):
        torch.manual_seed(0)
        network = nn.Conv2d(3, 8, 16, 16)
        before = network.weight.detach().clone()
        train_networks(
            frames(4),
            task=Task.CLASSIFICATION,
            classes=3,
            settings=replace(TINY, profile=profile),
            backbone=module_backbone(network, name="elsewhere", channels=8, stride=16),
        )
        assert torch.equal(network.weight, before) != tuned


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(InputError, match="choose fast or full"):
        FoundingSettings(profile="slow")


def test_a_frame_without_its_label_is_named() -> None:
    unlabelled = [Frame(f.pixels, name="case7.png", truth=Truth()) for f in frames(1)]
    with pytest.raises(InputError, match=r"case7\.png"):
        train_networks(unlabelled, task=Task.SEGMENTATION, classes=1, settings=TINY)


@pytest.mark.parametrize("size", [0, 100, 4096])
def test_a_size_that_the_grid_does_not_divide_is_refused(size: int) -> None:
    with pytest.raises(InputError, match=str(size)):
        FoundingSettings(size=size)


def test_rare_classes_are_drawn_more_often_and_other_tasks_frames_alike() -> None:
    targets = np.eye(2, dtype=np.uint8)[[0] * 9 + [1]][:, None]
    shares = frame_shares(targets, task=Task.CLASSIFICATION)
    assert shares.sum() == pytest.approx(1.0)
    assert shares[9] / shares[0] == pytest.approx(3.0)
    assert (frame_shares(targets, task=Task.SEGMENTATION) == 0.1).all()


def test_few_frames_are_passed_over_more_often_unless_the_passes_are_given() -> None:
    assert FoundingSettings().tuning_steps(40) == 600
    assert FoundingSettings().tuning_steps(8000) == 6000
    assert FoundingSettings(epochs=2.0).tuning_steps(40) == 5
    assert FoundingSettings().recognizer_steps(8000) == 8000


def test_a_checkpoint_follows_from_every_label_and_every_task() -> None:
    (frame,) = frames(1)
    several = replace(frame, truth=Truth(labels=(True, False)))
    corrected = replace(frame, truth=Truth(labels=(False, True)))
    one, two = [(Task.MULTILABEL, "ab")], [(Task.MULTILABEL, "ab"), (Task.SEGMENTATION, ("lesion",))]

    def of(given: Frame, tasks: list[tuple[Task, Sequence[str]]]) -> str:
        return fingerprint([given], tasks=tasks, settings=TINY, backbone="b")

    assert of(several, one) == of(replace(several), one)
    assert len({of(several, one), of(corrected, one), of(several, two), of(several, [(Task.MULTILABEL, "ba")])}) == 4


def test_heads_are_refused_where_one_vector_is_seen() -> None:
    with pytest.raises(InputError, match="leave the heads out"):
        recognizer_spec(Task.CLASSIFICATION, 3, replace(TINY, heads=2))
    assert recognizer_spec(Task.CLASSIFICATION, 3, replace(TINY, heads=2, form="attention")).heads == 2


@pytest.mark.parametrize(
    ("task", "given", "form", "context"),
    [
        (Task.SEGMENTATION, {}, "set subset=2,balanced", False),
        (Task.DETECTION, {}, "set subset=2,balanced", False),
        (Task.DETECTION, {"heads": 2}, "set", True),
        (Task.SEGMENTATION, {"release": "set"}, "set", True),
        (Task.CLASSIFICATION, {}, "pool", True),
        (Task.CLASSIFICATION, {"form": "attention"}, "set", True),
    ],
)
def test_what_leaves_by_default_is_the_least_that_the_recognizer_can_learn_from(
    task: Task, given: dict[str, Any], form: str, context: bool
) -> None:
    settings = FoundingSettings(**given)
    spec = recognizer_spec(task, 1 if task is not Task.CLASSIFICATION else 2, settings)
    assert str(released_form(spec, settings)) == form
    assert spec.context is context
