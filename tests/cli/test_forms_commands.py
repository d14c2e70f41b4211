"""Released forms at the command line: chosen at founding, allowed by the policy, told by `outbox show`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rig import SHARE_ALL, enroll, featureloop, founding_package, learner

from featureloop.core import errors
from featureloop.images.phantom import write_phantom_folder
from featureloop.images.phantom_look import HOSPITAL_A
from featureloop.learner import founding
from featureloop.learner.service import open_learner
from featureloop.model.founding_settings import FoundingSettings

FORM = "set subset=5 mix=2 noise=0.5,clip=1.0"


def test_records_of_a_mixed_and_noisy_form_reach_the_learner_and_are_told_in_words(tmp_path: Path) -> None:
    package, state, policy = (
        founding_package(tmp_path / "P0", release=FORM),
        tmp_path / "state",
        tmp_path / "policy.toml",
    )
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 256, (48, 64, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    with learner(tmp_path / "learner", package.path) as server:
        enroll(server, state, site="mixes")
        process = ("device", "process", folder, "--package", package.path, "--learner", server.url, "--state", state)
        process = (*process, "--policy", policy, "--json")
        policy.write_text(f'{SHARE_ALL}anonymizers = ["set mix=4", "set quantize=4"]\n')
        refused = featureloop(*process)
        assert refused.code == errors.PolicyError.exit_code
        assert f"releases features as '{FORM}'" in refused.said
        policy.write_text(f'{SHARE_ALL}anonymizers = ["set noise=0.5 mix=2"]\n')
        done = featureloop(*process)
        assert done.code == 0, done.err
        assert (done.data["outbox"]["delivered"], done.data["waiting_to_mix"]) == (2, 1)
    opened = open_learner(tmp_path / "learner")
    opened.ingest.drain()
    assert opened.store.counts()["mixes"] == 2
    opened.control.close()

    listed = featureloop("outbox", "list", "--state", state, "--json").data
    told = featureloop("outbox", "show", listed[0]["id"], "--state", state)
    said = " ".join(told.out.replace("│", " ").split())
    shown = featureloop("outbox", "show", listed[0]["id"], "--state", state, "--json").data
    assert (shown["anonymizer"], shown["vectors"], shown["group"]) == (FORM, 10, "not provided")
    for words in ("Gaussian noise", "their order carries nothing"):
        assert words in said, said


def test_a_form_is_chosen_when_a_package_is_founded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def given(*_: object, settings: FoundingSettings, **__: object) -> None:
        raise errors.InputError(f"founded in the form '{settings.release}'")

    monkeypatch.setattr(founding, "found_package", given)
    write_phantom_folder(tmp_path / "in", HOSPITAL_A, seed=1, sequences=2, size=(64, 64))
    train = ("model", "train", "--images", tmp_path / "in", "--task", "segmentation", "--out", tmp_path / "P0")
    for asked, form in (("set mix=2 noise=1 subset=6", "set subset=6 mix=2 noise=1.0"), ("", "")):
        assert f"founded in the form '{form}'" in featureloop(*train, "--release", asked).said


@pytest.mark.parametrize(
    ("release", "reason"),
    [
        ("grid", "no released form"),
        ("set mix", "no released form"),
        ("pool", "can't learn from features"),
        ("window=3", "map"),
    ],
)
def test_a_form_that_can_not_be_is_named(tmp_path: Path, release: str, reason: str) -> None:
    write_phantom_folder(tmp_path / "in", HOSPITAL_A, seed=1, sequences=24, size=(64, 64))
    args = ("model", "train", "--images", tmp_path / "in", "--task", "segmentation", "--size", 64, "--release", release)
    done = featureloop(*args, "--out", tmp_path / "P")
    assert done.code == errors.InputError.exit_code, done.err
    assert reason in done.said
    assert not list(tmp_path.glob("P*"))
