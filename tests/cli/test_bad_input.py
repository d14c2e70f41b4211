"""Bad input at the real command line: a clear message, the documented exit code, and nothing else is lost."""

from __future__ import annotations

import shutil
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rig import SHARE_ALL, Result, Server, as_process, enroll, featureloop, founding_package, learner, write_frames

from featureloop.core import errors
from featureloop.device.outbox import Outbox, State
from featureloop.device.state import DeviceState
from featureloop.images.phantom import write_phantom_folder
from featureloop.images.phantom_look import HOSPITAL_A
from featureloop.learner.service import open_learner
from featureloop.learner.store import RecordStore
from featureloop.model.package import EXTRACTOR, Package
from featureloop.testing import tiny_package

INPUT, PACKAGE, POLICY = errors.InputError.exit_code, errors.PackageError.exit_code, errors.PolicyError.exit_code
TRANSPORT, AUTH, STORAGE = (e.exit_code for e in (errors.TransportError, errors.AuthError, errors.StorageError))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return founding_package(tmp_path_factory.mktemp("bad") / "P0")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, package: Package) -> Iterator[Server]:
    """One learner for the module."""
    with learner(tmp_path_factory.mktemp("learner") / "data", package.path) as started:
        yield started


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(SHARE_ALL)
    return path


def records_of(server: Server, site: str) -> int:
    """How many records of a site the learner holds durably."""
    opened = open_learner(server.data)
    try:
        opened.ingest.drain()
        store: RecordStore = opened.store
        return store.counts().get(site, 0)
    finally:
        opened.control.close()


def counts(state: Path) -> dict[State, int]:
    with Outbox(DeviceState(state).outbox) as outbox:
        return {s: n for s, n in outbox.counts().items() if n}


def absurd_png() -> bytes:
    """A PNG of 60000 x 60000 pixels by its header, in a hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
    )


def write_bad(folder: Path) -> set[str]:
    """Every kind of bad file; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    good = write_frames(folder / ".good", [999]) / "frame-0999.png"
    (folder / "truncated.png").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    shutil.rmtree(folder / ".good")
    (folder / "empty.png").write_bytes(b"")
    (folder / "absurd.png").write_bytes(absurd_png())
    (folder / "letter.png").write_text("Dear colleague,\n" * 20)
    (folder / "notes.txt").write_text("not an image")
    (folder / "cut.dcm").write_bytes(bytes(128) + b"DICM\x02\x00")
    (folder / "cut.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(12))
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    return {p.name for p in folder.iterdir()}


def test_bad_files_among_good_ones_are_skipped_with_a_reason_each(package: Package, tmp_path: Path) -> None:
    """The good ones go on, the summary counts the bad ones, and the exit code is 0."""
    source, out = write_frames(tmp_path / "in", range(3)), tmp_path / "out"
    bad = write_bad(source)
    done = featureloop("device", "process", source, "--package", package.path, "--out", out, "--json")
    assert done.code == 0, done.err
    assert done.data["frames"] == 3
    skipped = {s["name"]: s["reason"] for s in done.data["skipped"]}
    assert skipped.keys() == bad - {f"frame-{i:04}.png" for i in range(3)}
    assert all(skipped.values())
    assert "60000" in skipped["absurd.png"]
    assert "empty" in skipped["empty.png"]
    assert all(f"skipped {name}: " in done.said for name in skipped), done.err
    assert len((out / "results.jsonl").read_text().splitlines()) == 3


def test_a_dot_a_panorama_and_one_colour_are_recognized_and_nan_is_skipped(package: Package, tmp_path: Path) -> None:
    """1 x 1 and 20,000 x 12 pixels, black and white: results for each; a float TIFF with NaN costs itself only."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    shapes = {"dot": (1, 1), "panorama": (12, 20_000), "tower": (20_000, 1), "black": (48, 64), "white": (48, 64)}
    for name, shape in shapes.items():
        Image.new("RGB", shape[::-1], "white" if name == "white" else "black").save(source / f"{name}.png")
    values = np.full((8, 8), np.nan, np.float32)
    Image.fromarray(values).save(source / "nan.tif")
    done = featureloop("device", "process", source, "--package", package.path, "--out", out, "--json")
    assert done.code == 0, done.err
    assert done.data["frames"] == len(shapes)
    (skipped,) = done.data["skipped"]
    assert skipped["name"] == "nan.tif"
    assert "64 of 64 values are NaN" in skipped["reason"]
    assert len((out / "results.jsonl").read_text().splitlines()) == len(shapes)


def test_labels_that_the_package_does_not_know_are_named_before_anything_is_recognized(tmp_path: Path) -> None:
    package = tiny_package(tmp_path / "P", task="classification")
    for label in ("adenoma", "ulcer"):
        (tmp_path / "in" / label).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "in" / label / "0.png")
    for args in (
        ("model", "evaluate", package.path, "--images", tmp_path / "in"),
        ("device", "process", tmp_path / "in", "--package", package.path, "--review", "masks"),
    ):
        done = featureloop(*args)
        assert done.code == INPUT, done.err
        assert "labelled ulcer, which the package doesn't know; it knows normal, hyperplastic, adenoma" in done.said


def test_boxes_outside_the_image_cost_their_own_image_only(tmp_path: Path) -> None:
    package = tiny_package(tmp_path / "P", task="detection")
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (40, 30)).save(folder / f"{name}.png")
    (folder / "boxes.csv").write_text("image,x_center,y_center,width,height\na,.5,.5,.2,.2\nb,.9,.5,.4,.2\n")
    evaluated = featureloop("model", "evaluate", package.path, "--images", folder, "--json")
    processed = featureloop("device", "process", folder, "--package", package.path, "--review", "masks", "--json")
    for done in (evaluated, processed):
        assert done.code == 0, done.err
        assert done.data["frames"] == 1
        assert "skipped b.png: boxes.csv, line 3: a box from 0.7, 0.4 to 1.1, 0.6 reaches outside" in done.said


def test_a_class_of_one_image_is_named_before_the_training(tmp_path: Path) -> None:
    """What a directory that exists already refuses is the training itself; the warning comes before it."""
    for name in ("rare/0.png", *(f"usual/{i}.png" for i in range(12))):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "in" / name)
    train = ("model", "train", "--images", tmp_path / "in", "--out", tmp_path, "--hold-out", 0)
    done = featureloop(*train)
    assert done.code == INPUT
    assert "class 'rare' has 1 groups to learn from: expect nothing of it, give at least 10" in done.said
    assert "'usual'" not in done.said


def test_only_bad_files_give_exit_code_3_and_the_first_reason(package: Package, tmp_path: Path) -> None:
    write_bad(tmp_path / "in")
    done = featureloop("device", "process", tmp_path / "in", "--package", package.path)
    assert done.code == INPUT
    assert "error: no frame could be read; the first reason:" in done.said


def test_a_file_that_may_not_be_read_is_skipped(package: Package, tmp_path: Path) -> None:
    source = write_frames(tmp_path / "in", range(2))
    locked = source / "frame-0001.png"
    locked.chmod(0)
    try:
        locked.read_bytes()
    except PermissionError:
        pass
    else:
        pytest.skip("this user reads every file, whatever its permissions are")
    done = featureloop("device", "process", source, "--package", package.path, "--json")
    assert done.code == 0
    assert [s["name"] for s in done.data["skipped"]] == ["frame-0001.png"]
    assert "permission denied" in done.data["skipped"][0]["reason"]


def test_an_empty_folder_and_a_missing_path_give_exit_code_3(package: Package, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, says in ((tmp_path / "empty", "holds no files"), (tmp_path / "missing", "does not exist")):
        done = featureloop("device", "process", path, "--package", package.path)
        assert done.code == INPUT
        assert says in done.said
        assert str(path) in done.said


def test_masks_that_do_not_match_cost_their_own_frame_only(package: Package, tmp_path: Path) -> None:
    """Another size, and none at all: both are skipped with what to do, by evaluation and by the reviewing masks."""
    folder = tmp_path / "labelled"
    write_phantom_folder(folder, HOSPITAL_A, seed=1, sequences=4, size=(48, 64))
    Image.new("L", (10, 10)).save(folder / "masks" / "00001.png")
    (folder / "masks" / "00002.png").unlink()
    evaluated = featureloop("model", "evaluate", package.path, "--images", folder, "--json")
    assert evaluated.code == 0, evaluated.err
    processed = featureloop("device", "process", folder, "--package", package.path, "--review", "masks", "--json")
    assert processed.code == 0, processed.err
    assert processed.data["frames"] == 2
    for said in (evaluated.said, processed.said):
        assert "skipped images/00001.png: the image is 64 x 48 pixels and its mask 10 x 10" in said
        assert "skipped images/00002.png: there is no mask of the stem '00002'" in said


def test_a_folder_of_no_known_layout_can_be_neither_learned_from_nor_measured(package: Package, tmp_path: Path) -> None:
    flat = write_frames(tmp_path / "flat", range(2))
    for args in (
        ("model", "train", "--images", flat, "--out", tmp_path / "P"),
        ("model", "evaluate", package.path, "--images", flat),
        ("device", "process", flat, "--package", package.path, "--review", "masks"),
    ):
        done = featureloop(*args)
        assert done.code == INPUT, done.err
        assert "DIR/images and DIR/masks" in done.said
    assert not (tmp_path / "P").exists()


def test_another_task_than_the_folder_is_labelled_for_is_named(tmp_path: Path) -> None:
    write_phantom_folder(tmp_path / "in", HOSPITAL_A, seed=1, sequences=2, size=(48, 64))
    train = ("model", "train", "--images", tmp_path / "in", "--out", tmp_path / "P", "--task", "classification")
    done = featureloop(*train)
    assert done.code == INPUT
    assert "at least two folders DIR/<class>" in done.said
    assert "images/, masks/" in done.said


def test_an_unknown_package_and_one_with_a_changed_byte_give_exit_code_4(package: Package, tmp_path: Path) -> None:
    source = write_frames(tmp_path / "in", range(1))
    unknown = featureloop("device", "process", source, "--package", tmp_path / "no-package")
    assert unknown.code == PACKAGE
    assert "no-package" in unknown.said
    changed = tmp_path / "changed"
    shutil.copytree(package.path, changed)
    model = changed / EXTRACTOR
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    for args in (("device", "process", source, "--package", changed), ("model", "show", changed)):
        done = featureloop(*args)
        assert done.code == PACKAGE
        assert EXTRACTOR in done.said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[share]\nprovde = 'all'\n", "provde"),
        ("[shre]\n", "shre"),
        ("[share]\nprovide = 'everything'\n", "everything"),
        ("[limits]\nbytes_per_day = -1\n", "-1"),
        ("[share\n", "no valid TOML"),
    ],
)
def test_a_policy_with_a_typing_error_shares_nothing(package: Package, tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    source = write_frames(tmp_path / "in", range(1))
    done = featureloop("device", "process", source, "--package", package.path, "--policy", path)
    assert done.code == POLICY
    assert says in done.said
    assert str(path) in done.said


def test_a_policy_that_forbids_the_packages_form_shares_nothing(
    server: Server, package: Package, tmp_path: Path
) -> None:
    state, path = tmp_path / "state", tmp_path / "policy.toml"
    enroll(server, state, site="forbids")
    path.write_text(f"{SHARE_ALL}\n".replace("[share]", '[share]\nanonymizers = ["pool"]'))
    done = process(server.url, package, write_frames(tmp_path / "in", range(2)), state=state, policy=path)
    assert done.code == POLICY
    assert "releases features as 'set'" in done.said
    assert records_of(server, "forbids") == 0


def process(
    url: str, package: Package, source: Path, *, state: Path, policy: Path, wait: float = 20, fsize: int | None = None
) -> Result:
    """`device process ... --json`."""
    args = ("device", "process", source, "--package", package.path, "--learner", url, "--state", state)
    rest = ("--policy", policy, "--wait", wait, "--json")
    return featureloop(*args, *rest) if fsize is None else as_process(*args, *rest, fsize=fsize)


def test_while_the_learner_is_down_records_wait_and_arrive_on_the_next_run(
    package: Package, tmp_path: Path, policy: Path
) -> None:
    state, source, data = tmp_path / "state", write_frames(tmp_path / "in", range(3)), tmp_path / "learner"
    with learner(data, package.path) as first:
        enroll(first, state, site="patient")
        url, port = first.url, int(first.url.rpartition(":")[2])
    down = process(url, package, source, state=state, policy=policy, wait=1)
    assert down.code == TRANSPORT
    assert "can't be reached" in down.said
    assert (down.data["frames"], down.data["outbox"]["pending"]) == (3, 3)
    with learner(data, port=port) as second:
        up = process(url, package, write_frames(source, range(3, 5)), state=state, policy=policy)
        assert up.code == 0, up.err
        assert (up.data["frames"], up.data["already_processed"]) == (2, 3)
        assert counts(state) == {State.DELIVERED: 5}
        assert records_of(second, "patient") == 5


@contextmanager
def odd_server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Something that listens, and answers every connection in its own way."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)

        def accept() -> None:
            kept = []
            while not stop.is_set():
                try:
                    connection, _ = listening.accept()
                except TimeoutError:
                    continue
                connection.settimeout(5)
                answer(connection)
                kept.append(connection)
            for connection in kept:
                connection.close()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            stop.set()
            thread.join()


def html(connection: socket.socket) -> None:
    """What a proxy's log-in page looks like to a program."""
    while b"\r\n\r\n" not in connection.recv(65_536):
        pass
    page = b"<html><body>Please log in</body></html>"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    connection.sendall(head % len(page) + page)
    connection.shutdown(socket.SHUT_WR)


def silence(_connection: socket.socket) -> None:
    """Accepts, and never answers."""


@pytest.mark.parametrize(("answer", "says"), [(html, "no JSON"), (silence, "timed out")])
def test_a_learner_that_answers_nonsense_or_not_at_all_costs_no_record(  # noqa: PLR0917 - fixtures
    server: Server,
    package: Package,
    tmp_path: Path,
    policy: Path,
    answer: Callable[[socket.socket], None],
    says: str,
) -> None:
    state, site = tmp_path / "state", f"odd-{answer.__name__}"
    enroll(server, state, site=site)
    right = DeviceState(state).load_identity()
    source = write_frames(tmp_path / "in", range(2))
    with odd_server(answer) as url:
        DeviceState(state).save_identity(replace(right, learner=url))
        started = time.monotonic()
        done = process(url, package, source, state=state, policy=policy, wait=2)
        assert time.monotonic() - started < 20
    assert done.code == TRANSPORT, done.err
    assert says in done.said
    assert done.data["frames"] == 2
    assert counts(state) == {State.PENDING: 2}
    DeviceState(state).save_identity(right)
    again = process(server.url, package, source, state=state, policy=policy)
    assert (again.code, again.data["already_processed"]) == (0, 2), again.err
    assert records_of(server, site) == 2


def test_without_enrolment_nothing_is_recognized_in_vain(package: Package, tmp_path: Path, policy: Path) -> None:
    source = write_frames(tmp_path / "in", range(1))
    done = process("http://127.0.0.1:9", package, source, state=tmp_path / "state", policy=policy)
    assert done.code == AUTH
    assert "isn't enrolled" in done.said
    assert "device enroll" in done.said


def test_a_token_that_is_refused_gives_exit_code_7_and_the_records_wait(
    server: Server, package: Package, tmp_path: Path, policy: Path
) -> None:
    state = tmp_path / "state"
    enroll(server, state, site="stranger")
    right = DeviceState(state).load_identity()
    DeviceState(state).save_identity(replace(right, token="wrong"))  # noqa: S106 - the point of the test
    source = write_frames(tmp_path / "in", range(2))
    done = process(server.url, package, source, state=state, policy=policy)
    assert done.code == AUTH
    assert "refused this device" in done.said
    assert (done.data["frames"], counts(state)) == (2, {State.PENDING: 2})
    DeviceState(state).save_identity(right)
    assert process(server.url, package, source, state=state, policy=policy).code == 0
    assert records_of(server, "stranger") == 2


def test_another_learner_than_the_enrolled_one_is_refused(server: Server, package: Package, tmp_path: Path) -> None:
    state, source = tmp_path / "state", write_frames(tmp_path / "in", range(1))
    enroll(server, state, site="elsewhere")
    args = ("--package", package.path, "--learner", "http://127.0.0.1:9", "--state", state)
    done = featureloop("device", "process", source, *args)
    assert done.code == AUTH
    assert f"enrolled at {server.url}, not at http://127.0.0.1:9" in done.said


def test_a_wrong_enrolment_code_gives_exit_code_7(server: Server, tmp_path: Path) -> None:
    code = ("--code", "ABCDE-ABCDE-ABCDE-ABCDE", "--state", tmp_path / "state")
    done = featureloop("device", "enroll", "--learner", server.url, *code)
    assert done.code == AUTH
    assert "wrong, used or expired" in done.said
    assert not (tmp_path / "state").exists()


def test_with_a_full_disk_recognition_goes_on_and_the_next_run_provides_the_rest(
    server: Server, package: Package, tmp_path: Path, policy: Path
) -> None:
    """No file can grow over 150 kB: the outbox's log is full in the middle of the run."""
    state, source = tmp_path / "state", write_frames(tmp_path / "in", range(40))
    enroll(server, state, site="full-disk")
    full = process(server.url, package, source, state=state, policy=policy, fsize=150_000)
    assert full.code == STORAGE, full.err
    assert "outbox" in full.said
    assert full.data["frames"] == 40
    lost = len(full.data["not_shared"])
    assert 0 < lost < 40
    rest = process(server.url, package, source, state=state, policy=policy)
    assert rest.code == 0, rest.err
    assert (rest.data["frames"], rest.data["already_processed"]) == (lost, 40 - lost)
    assert counts(state) == {State.DELIVERED: 40}
    assert records_of(server, "full-disk") == 40


def test_with_no_room_for_an_outbox_at_all_recognition_goes_on(
    server: Server, package: Package, tmp_path: Path, policy: Path
) -> None:
    state, source = tmp_path / "state", write_frames(tmp_path / "in", range(2))
    enroll(server, state, site="no-room")
    full = process(server.url, package, source, state=state, policy=policy, fsize=2_000)
    assert full.code == STORAGE, full.err
    assert "recognition goes on" in full.said
    assert full.data["frames"] == 2
    assert process(server.url, package, source, state=state, policy=policy).code == 0
    assert records_of(server, "no-room") == 2


def test_a_package_without_founding_records_can_not_be_adopted(tmp_path: Path) -> None:
    tiny_package(tmp_path / "P")
    done = featureloop("learner", "serve", "--data", tmp_path / "data", "--package", tmp_path / "P", "--port", 0)
    assert done.code == errors.RecordError.exit_code
    assert "P.founding.arrow" in done.said


def test_a_wrong_setting_names_itself(tmp_path: Path) -> None:
    done = as_process("device", "status", "--state", tmp_path, env={"FEATURELOOP_THREADS": "many"})
    assert done.code == 1
    assert "threads" in done.said
