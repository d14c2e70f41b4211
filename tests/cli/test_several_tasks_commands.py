"""Several tasks on the command line: one package, one pass, and each task's own figures, records and bundle."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from rig import SHARE_ALL, Server, enroll, featureloop, founding_package, learner

from featureloop.core.errors import GateError
from featureloop.images.phantom import write_phantom_folder
from featureloop.images.phantom_look import HOSPITAL_A
from featureloop.learner.adopt import adopt
from featureloop.learner.bundle import PackageNetwork
from featureloop.learner.founding_records import founding_records_path, load_records, save_records
from featureloop.learner.service import open_learner
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.package import Package, load_package
from featureloop.testing import tiny_package, tiny_package_of

BOTH = ("segmentation", "detection")
FRAMES = 20


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return founding_package(tmp_path_factory.mktemp("several") / "P0", *BOTH)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("several") / "ours"
    write_phantom_folder(path, HOSPITAL_A, seed=1, sequences=FRAMES, frames_each=1, size=(64, 64))
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, package: Package) -> Iterator[Server]:
    with learner(tmp_path_factory.mktemp("several") / "data", package.path) as started:
        yield started


@pytest.fixture
def places(package: Package, images: Path, server: Server) -> dict[str, Path]:
    return {"package": package.path, "images": images, "data": server.data}


def test_one_run_provides_a_record_a_task_and_counts_frames_once(
    package: Package, images: Path, server: Server, tmp_path: Path
) -> None:
    """And a repeat provides nothing again; the privacy officer sees each record's task."""
    state = tmp_path / "state"
    enroll(server, state, site="hospital-a")
    (tmp_path / "policy.toml").write_text(SHARE_ALL)
    command = (
        "device", "process", images, "--package", package.path, "--learner", server.url, "--review", "masks",
        "--state", state, "--policy", tmp_path / "policy.toml", "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    done = featureloop(*command).data
    assert (done["frames"], done["outbox"]["delivered"]) == (FRAMES, 2 * FRAMES)
    assert (done["outbox"]["refused"], done["outbox"]["pending"]) == (0, 0)
    lines = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert Counter(line["task"] for line in lines) == dict.fromkeys(BOTH, FRAMES)
    again = featureloop(*command).data
    assert (again["frames"], again["already_processed"], again["outbox"]["delivered"]) == (0, FRAMES, 2 * FRAMES)
    listed = featureloop("outbox", "list", "--state", state, "--json").data
    shown = [featureloop("outbox", "show", entry["id"], "--state", state, "--json").data["task"] for entry in listed]
    assert Counter(shown) == dict.fromkeys(BOTH, FRAMES)


def test_every_task_that_the_images_serve_is_evaluated(package: Package, images: Path, tmp_path: Path) -> None:
    both = featureloop("model", "evaluate", package.path, "--images", images, "--out", tmp_path / "both", "--json").data
    assert list(both["tasks"]) == list(BOTH)
    for task in BOTH:
        one = featureloop("model", "evaluate", package.path, "--images", images, "--task", task, "--json").data
        assert one == {"package": package.digest.hex(), **both["tasks"][task]}
        assert (tmp_path / "both" / task / "report.html").is_file()
    shown = featureloop("model", "evaluate", package.path, "--images", images)
    assert all(next(iter(both["tasks"][task]["figures"])) in shown.out for task in BOTH)
    boxes = tmp_path / "boxes"
    boxes.mkdir()
    for path in (images / "images").iterdir():
        (boxes / path.name).write_bytes(path.read_bytes())
    (boxes / "boxes.csv").write_text("image,x_center,y_center,width,height\n00001,0.5,0.5,0.2,0.2\n")
    alone = featureloop("model", "evaluate", package.path, "--images", boxes, "--out", tmp_path / "one", "--json").data
    assert alone["task"] == "detection"
    assert (tmp_path / "one/report.html").is_file()


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("model evaluate {package} --images {images} --task multilabel", 4, "is for segmentation, detection, not for"),
        ("model train --images {images} --task detection --task detection --out {out}", 3, "detection is named twice"),
        ("model train --images {images} --task multilabel --out {out}", 3, "not labelled for several labels"),
        ("model add-task {package} --images {images} --task detection --out {out}", 3, "recognizes detection already"),
        ("model add-task {package} --images {images} --task boxes --out {out}", 2, "'boxes' is not one of"),
        ("model export {package} --monai-bundle {out} --task multilabel", 4, "is for segmentation, detection, not for"),
        ("learner train --data {data} --task multilabel", 4, "is for segmentation, detection, not for"),
        ("learner train --data {data} --task detection --task detection", 3, "detection is named twice"),
    ],
)
def test_a_task_that_can_not_be_is_refused_with_the_reason(
    command: str, code: int, said: str, *, places: dict[str, Path], tmp_path: Path
) -> None:
    given = {**places, "out": tmp_path / "out"}
    done = featureloop(*(word.format(**given) for word in command.split()))
    assert (done.code, said in done.said) == (code, True), done.err
    assert not (tmp_path / "out").exists()


def test_a_bundle_recognizes_the_task_that_was_asked_for(package: Package, tmp_path: Path) -> None:
    for task in BOTH:
        done = featureloop("model", "export", package.path, "--monai-bundle", tmp_path / task, "--task", task, "--json")
        assert done.code == 0, done.err
        metadata = json.loads((tmp_path / task / "configs/metadata.json").read_text())
        assert metadata["task"] == task
        network = json.loads((tmp_path / task / "configs/inference.json").read_text())["network_def"]
        made = PackageNetwork(str(tmp_path / task / "models/package"), network.get("task", ""))
        assert made.runtime.package.manifest.task == task
        assert ("task" in network) is (task != "segmentation")
    again = featureloop("model", "import", tmp_path / "detection", "--out", tmp_path / "again", "--json").data
    assert again["digest"] == package.digest.hex()


def test_show_names_every_task_without_its_tables(package: Package) -> None:
    shown = featureloop("model", "show", package.path, "--json").data
    assert [shown["task"], *(head["task"] for head in shown["heads"])] == list(BOTH)
    assert all("frequencies" not in part["released"] for part in (shown, *shown["heads"]))


def test_a_learner_wants_founding_records_of_every_task(package: Package, tmp_path: Path) -> None:
    copy = tiny_package_of(tmp_path / "P0", *BOTH)
    own = load_records(founding_records_path(package.path))
    save_records([r for r in own if r.task == "segmentation"], founding_records_path(copy.path))
    done = featureloop("learner", "serve", "--data", tmp_path / "data", "--package", copy.path, "--port", "0")
    assert done.code != 0
    assert "holds no founding record for detection" in done.said


def test_a_task_is_added_to_the_live_package_and_no_promotion_takes_it_away(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what was learned since would be lost with the one, and the task with the other."""
    monkeypatch.setattr(FoundingSettings, "recognizer_steps", lambda _self, _frames: 2)
    first = founding_package(tmp_path / "P0")
    opened = open_learner(tmp_path / "data")
    adopt(opened, first)
    newer, older = (opened.registry.add(successor(tmp_path / str(seed), seed), metrics={}) for seed in (1, 2))
    whole = added(newer.path, images, tmp_path / "P1")
    with pytest.raises(GateError, match=f"recognizes detection, but was not made of package {first.short}, which is"):
        adopt(opened, whole)
    opened.registry.promote(newer.digest.hex())
    assert whole.manifest.lineage.parent == newer.digest.hex()
    assert adopt(opened, whole).package.digest == whole.digest, "the learner has the earlier founding records already"
    with pytest.raises(GateError, match="doesn't recognize detection, which the live package"):
        opened.registry.promote(older.digest.hex())
    assert opened.registry.rollback(first.line).digest == newer.digest
    opened.control.close()


def successor(path: Path, seed: int) -> Package:
    return tiny_package(path, recognizer_seed=seed)


def added(package: Path, images: Path, out: Path) -> Package:
    """What 'model add-task' makes of a package."""
    done = featureloop("model", "add-task", package, "--images", images, "--task", "detection", "--out", out, "--json")
    assert done.data["tasks"] == "segmentation, detection", done.err
    return load_package(out)
