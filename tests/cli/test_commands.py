"""Every command says what it does and reports in JSON; those for operators work on a small real learner."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import click
import pytest
import typer
from rig import (
    SHARE_ALL,
    Result,
    Server,
    as_process,
    enroll,
    environment,
    featureloop,
    founding_package,
    learner,
    write_frames,
)

from featureloop import __version__
from featureloop.cli.device import open_outbox
from featureloop.cli.main import app
from featureloop.core import errors
from featureloop.core.errors import EXIT_CODES, FeatureloopError, GateError, InputError
from featureloop.device.state import DeviceState
from featureloop.images.phantom import HOSPITAL_A, write_phantom_folder
from featureloop.learner.adopt import adopt
from featureloop.learner.service import Learner, open_learner
from featureloop.model.package import Package, load_package
from featureloop.sharing.policy import Policy, Sending
from featureloop.sharing.record import Record
from featureloop.testing import make_record, tiny_package

RUN_FOR_LONG = {"learner serve", "device run"}
"""Commands that report nothing: they run until they are stopped."""

Command = click.Command


def commands() -> dict[str, Command]:
    """Every command by the words that people type."""

    def below(group: Command, words: tuple[str, ...]) -> Iterator[tuple[str, Command]]:
        for name, command in getattr(group, "commands", {}).items():
            if hasattr(command, "commands"):
                yield from below(command, (*words, name))
            else:
                yield " ".join((*words, name)), command

    return dict(below(typer.main.get_command(app), ()))


COMMANDS = commands()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_every_option_says_what_it_is(name: str) -> None:
    command = COMMANDS[name]
    assert (command.help or "").strip().endswith("."), f"{name} doesn't say what it does"
    for parameter in command.params:
        if parameter.name != "help":
            assert getattr(parameter, "help", None), f"{name}: {parameter.name} has no help"
    done = featureloop(*name.split(), "--help")
    assert done.code == 0
    assert "Usage: " in done.out
    for parameter in command.params:
        assert all(o in done.out for o in parameter.opts if o.startswith("--")), f"{name}: {parameter.opts}"


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - RUN_FOR_LONG))
def test_every_command_that_reports_takes_json(name: str) -> None:
    assert any("--json" in p.opts for p in COMMANDS[name].params)


def test_the_commands_of_the_design_are_there() -> None:
    expected = {
        "demo", "model train", "model evaluate", "model show", "device process", "device run", "device status",
        "device enroll", "device update", "outbox list", "outbox show", "outbox purge", "learner serve",
        "learner invite", "learner train", "learner status", "package list", "package promote", "package rollback",
        "package compare", "records list", "records erase",
    }  # fmt: skip
    assert expected <= COMMANDS.keys()


def test_help_lists_every_exit_code_that_an_error_has() -> None:
    shown = featureloop("--help")
    assert shown.code == 0
    for code, meaning in EXIT_CODES.items():
        assert f"{code} {meaning}" in " ".join(shown.out.split())
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, FeatureloopError)]
    assert {k.exit_code for k in kinds} <= EXIT_CODES.keys()
    own = [k.exit_code for k in kinds if FeatureloopError in k.__bases__]
    assert len(own) == len(set(own)), "two kinds of errors share an exit code"
    finer = [k for k in kinds if k is not FeatureloopError and FeatureloopError not in k.__bases__]
    assert not [k for k in finer if "exit_code" in vars(k)], "a finer error keeps the exit code of its kind"


def test_a_wrong_command_line_gives_exit_code_2() -> None:
    for args in (("device", "process"), ("model", "evaluat"), ("learner", "serve", "--port", "70000")):
        done = featureloop(*args)
        assert done.code == 2
        assert not done.out
    assert featureloop("--version").out.strip() == __version__


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return founding_package(tmp_path_factory.mktemp("commands") / "P0")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, package: Package) -> Iterator[Server]:
    """A learner with six records of hospital-a."""
    folder = tmp_path_factory.mktemp("commands")
    with learner(folder / "data", package.path) as started:
        yield started


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory, server: Server, package: Package) -> Path:
    """The device's directory, its records delivered."""
    folder = tmp_path_factory.mktemp("device")
    enroll(server, folder / "state", site="hospital-a")
    (folder / "policy.toml").write_text(SHARE_ALL)
    done = report(
        "device", "process", write_frames(folder / "in", range(6)), "--package", package.path, "--learner", server.url,
        "--state", folder / "state", "--policy", folder / "policy.toml",
    )  # fmt: skip
    assert done["outbox"]["delivered"] == 6
    assert done["sent_bytes"] > done["payload_bytes"] > 0
    return folder / "state"


def report(*args: object) -> dict[str, object]:
    """What a command reports as JSON, after it has shown the same to people with no fault."""
    done = featureloop(*args, "--json")
    assert done.code == 0, done.err
    found = done.data
    assert isinstance(found, dict | list)
    return found  # type: ignore[return-value]


def shown(*args: object) -> str:
    """What a command prints for people."""
    done = featureloop(*args)
    assert done.code == 0, done.err
    return done.out


def test_a_process_prints_json_alone_on_stdout(package: Package, tmp_path: Path) -> None:
    source = write_frames(tmp_path / "in", range(2))
    done = as_process("device", "process", source, "--package", package.path, "--json")
    assert (done.code, done.data["frames"]) == (0, 2)
    assert "nothing is shared" in done.err


def test_outbox_show_prints_every_field_of_the_record_and_nothing_else(state: Path) -> None:
    listed = report("outbox", "list", "--state", state)
    assert [e["state"] for e in listed] == ["delivered"] * 6  # type: ignore[index]
    chosen = listed[0]["id"]  # type: ignore[index]
    data = report("outbox", "show", chosen[:10], "--state", state)
    assert {f.name for f in fields(Record)} <= data.keys()
    assert data.keys() - {f.name for f in fields(Record)} == {"state", "total", "id"}
    assert data["id"] == chosen
    text = shown("outbox", "show", chosen[:10], "--state", state)
    assert all(name in text for name in data if name != "state")
    assert "expected-dice" in text
    assert "hospital-a" in text


def test_outbox_list_filters_and_refuses_what_is_no_id(state: Path) -> None:
    assert report("outbox", "list", "--only", "pending", "--state", state) == []
    assert len(report("outbox", "list", "--limit", 2, "--state", state)) == 2
    assert "delivered" in shown("outbox", "list", "--state", state)
    for wrong in ("xyz", "ffffffffffff"):
        done = featureloop("outbox", "show", wrong, "--state", state)
        assert done.code == InputError.exit_code
        assert wrong in done.said


def test_purged_content_is_gone_and_says_so(server: Server, package: Package, tmp_path: Path) -> None:
    state, policy = tmp_path / "state", tmp_path / "policy.toml"
    enroll(server, state, site="purging")
    policy.write_text(SHARE_ALL)
    args = ("--learner", server.url, "--state", state, "--policy", policy)
    report("device", "process", write_frames(tmp_path / "in", [1]), "--package", package.path, *args)
    assert report("outbox", "purge", "--days", 0, "--state", state) == {"purged": 1}
    assert shown("outbox", "purge", "--days", 0, "--state", state).strip() == "0 records purged"
    (entry,) = report("outbox", "list", "--state", state)
    done = featureloop("outbox", "show", entry["id"], "--state", state)  # type: ignore[index]
    assert done.code == errors.StorageError.exit_code
    assert "purged" in done.said


def test_device_status_names_who_what_and_how_many(server: Server, state: Path, tmp_path: Path) -> None:
    data = report("device", "status", "--state", state)
    assert (data["site"], data["learner"], data["package"]) == ("hospital-a", server.url, None)
    assert data["outbox"] == {"pending": 0, "leased": 0, "delivered": 6, "refused": 0, "expired": 0}
    assert "token" not in json.dumps(data)
    assert "hospital-a" in shown("device", "status", "--state", state)
    assert report("device", "status", "--state", tmp_path / "new")["site"] is None


def test_learner_status_and_records_list_count_by_site(server: Server, state: Path) -> None:
    assert state.exists()
    status = report("learner", "status", "--data", server.data)
    assert status["records"]["hospital-a"] == 6  # type: ignore[index]
    assert status["records"]["founding"] == 8  # type: ignore[index]
    listed = report("records", "list", "--data", server.data)
    (own,) = (e for e in listed if e["site"] == "hospital-a")  # type: ignore[index]
    assert own["records"] == 6  # type: ignore[index]
    assert own["bytes"] == status["bytes"]["hospital-a"]  # type: ignore[index]
    assert "hospital-a" in shown("learner", "status", "--data", server.data)
    assert "hospital-a" in shown("records", "list", "--data", server.data)


@pytest.fixture
def small(tmp_path: Path, package: Package) -> Iterator[Learner]:
    """A learner's directory of its own, with a live package and a candidate of the same line."""
    opened = open_learner(tmp_path / "small")
    adopt(opened, package)
    opened.registry.add(tiny_package(tmp_path / "P1", recognizer_seed=1), metrics={})
    yield opened
    opened.control.close()


def candidate(opened: Learner) -> str:
    return next(e.digest for e in opened.registry.list() if e.state == "candidate")


def test_packages_are_listed_compared_promoted_and_rolled_back(small: Learner, package: Package) -> None:
    data, first, new = ("--data", small.path), package.digest.hex(), candidate(small)

    def states() -> dict[str, str]:
        return {e["digest"]: e["state"] for e in report("package", "list", *data)}  # type: ignore[index]

    assert states() == {first: "live", new: "candidate"}
    assert report("package", "compare", new[:8], *data) == {}, "nobody has compared it"
    assert new[:12] in shown("package", "compare", new[:8], *data)
    promoted = report("package", "promote", new[:8], *data)
    assert promoted["live"] == new
    assert load_package(Path(str(promoted["path"]))).digest.hex() == new
    assert states() == {first: "retired", new: "live"}
    assert first[:12] in shown("package", "rollback", *data)
    assert states()[first] == "live"
    again: Result = featureloop("package", "rollback", *data)
    assert again.code == GateError.exit_code
    assert "first of its line" in again.said
    assert featureloop("package", "promote", "0000ffff", *data).code == GateError.exit_code


def test_a_promoted_package_is_taken_over_by_device_update(
    server: Server, package: Package, state: Path, tmp_path: Path
) -> None:
    args = ("device", "update", "--package", package.path, "--state", state)
    assert report(*args)["updated"] is False
    opened = open_learner(server.data)
    added = opened.registry.add(tiny_package(tmp_path / "P1", recognizer_seed=1), metrics={}).digest.hex()
    opened.control.close()
    report("package", "promote", added, "--data", server.data)
    taken = report(*args)
    assert (taken["updated"], taken["digest"]) == (True, added)
    assert report("device", "status", "--state", state)["package"] == added
    assert added in str(taken["package"])
    assert report("package", "rollback", "--data", server.data)["live"] == package.digest.hex()


def test_records_are_erased_by_exactly_one_criterion(server: Server, package: Package, tmp_path: Path) -> None:
    state, policy = tmp_path / "state", tmp_path / "policy.toml"
    enroll(server, state, site="leaving")
    policy.write_text(SHARE_ALL)
    args = ("--learner", server.url, "--state", state, "--policy", policy)
    report("device", "process", write_frames(tmp_path / "in", range(3)), "--package", package.path, *args)
    data = ("--data", server.data)
    for wrong in ((), ("--site", "leaving", "--device", "x"), ("--group", "no hexadecimal")):
        assert featureloop("records", "erase", *wrong, *data).code == InputError.exit_code
    assert report("records", "erase", "--site", "leaving", *data) == {"erased": 3}
    assert shown("records", "erase", "--site", "leaving", *data).strip() == "0 records erased"
    assert "leaving" not in report("learner", "status", *data)["records"]  # type: ignore[operator]


def test_a_patient_can_be_erased_after_the_key_was_rotated(server: Server, package: Package, tmp_path: Path) -> None:
    """The site computes every pseudonym that the patient had; the other patient's records stay."""
    state, policy = tmp_path / "state", tmp_path / "policy.toml"
    enroll(server, state, site="rotating")
    policy.write_text(SHARE_ALL)
    args = ("--learner", server.url, "--state", state, "--policy", policy, "--package", package.path)
    for i, part in enumerate((range(20, 22), range(22, 25))):
        folder = write_frames(tmp_path / f"in-{i}", part)
        names = sorted(p.name for p in folder.iterdir())
        lines = [f"{name},{'leaves' if k else 'stays'}" for k, name in enumerate(names)]
        (folder / "groups.csv").write_text("\n".join(["image,group", *lines]) + "\n")
        report("device", "process", folder, *args)
        assert report("device", "rotate-key", "--state", state) == {"keys": i + 2}
    known = report("device", "pseudonyms", "leaves", "--since", 2026, "--state", state)
    assert "\n".join(known) == shown("device", "pseudonyms", "leaves", "--since", 2026, "--state", state).strip()
    groups = [part for pseudonym in known for part in ("--group", pseudonym)]
    assert featureloop("records", "erase", *groups, "--group", "00", "--data", server.data).code == InputError.exit_code
    assert report("records", "erase", *groups, "--data", server.data) == {"erased": 3}
    found = report("records", "list", "--data", server.data)
    assert [f["records"] for f in found if f["site"] == "rotating"] == [2]  # type: ignore[index]


@pytest.mark.parametrize(("sending", "left"), [(Sending(), 0), (Sending(delay_seconds=0, batch_records=0), 1)])
def test_the_outbox_keeps_the_rounds_of_the_sites_policy(tmp_path: Path, sending: Sending, left: int) -> None:
    with open_outbox(DeviceState(tmp_path), Policy(sending=sending)) as outbox:
        outbox.put(make_record(0), frame_key=None)
        assert len(outbox.lease_due(limit=1, seconds=60)) == left
        assert len(outbox.lease(limit=1, seconds=60)) == 1 - left


def test_model_show_says_what_the_package_says(package: Package) -> None:
    data = report("model", "show", package.path)
    assert (data["digest"], data["task"], data["line"]) == (package.digest.hex(), "segmentation", package.line)
    assert package.short in shown("model", "show", package.path)


def test_model_show_says_what_a_pooled_vector_is_made_of(tmp_path: Path) -> None:
    pooling = ("generalized-mean", "deviation")
    path = tiny_package(tmp_path / "P", task="classification", pooling=pooling).path
    assert featureloop("model", "show", path, "--json").data["released"]["pooling"] == list(pooling)
    assert "pool of generalized-mean, deviation" in " ".join(featureloop("model", "show", path).out.split())


def test_a_pooling_that_is_unknown_is_refused_with_the_choices(tmp_path: Path) -> None:
    write_phantom_folder(tmp_path / "in", HOSPITAL_A, seed=1, sequences=2, size=(48, 64))
    train = ("model", "train", "--images", tmp_path / "in", "--out", tmp_path / "P")
    done = featureloop(*train, "--pooling", "mean,median")
    assert done.code == InputError.exit_code
    assert "'median' is unknown; choose among mean, generalized-mean, deviation" in done.said
    assert not (tmp_path / "P").exists()


def test_learner_train_without_records_names_what_is_missing(small: Learner) -> None:
    done = featureloop("learner", "train", "--data", small.path)
    assert done.code == errors.RecordError.exit_code
    assert "no site has provided a record" in done.said


def test_device_run_recognizes_new_files_shares_them_and_stops_on_sigterm(
    server: Server, package: Package, tmp_path: Path
) -> None:
    """The long-lived device as a process: exit code 0, its records in the outbox or with the learner."""
    state, policy, watch, out = (tmp_path / n for n in ("state", "policy.toml", "watch", "out"))
    enroll(server, state, site="long-lived")
    policy.write_text(SHARE_ALL)
    for path in write_frames(watch, range(3)).iterdir():
        os.utime(path, (1_700_000_000, 1_700_000_000))
    command = (
        "device", "run", "--watch", watch, "--package", package.path, "--out", out, "--policy", policy,
        "--state", state, "--every", 0.2,
    )  # fmt: skip
    with started(*command) as process:
        wait_for(lambda: lines_of(out / "results.jsonl") == 3)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=30)[1]
    assert process.returncode == 0, said
    assert "3 frames recognized: 3 provided" in said
    listed = report("outbox", "list", "--state", state)
    assert len(listed) == 3


def test_an_interrupt_gives_exit_code_130(package: Package, tmp_path: Path) -> None:
    with started("learner", "serve", "--data", tmp_path / "data", "--package", package.path, "--port", 0) as serving:
        assert serving.stderr is not None
        while "ready" not in serving.stderr.readline():
            assert serving.poll() is None
        serving.send_signal(signal.SIGINT)
        assert serving.wait(30) == 0, "a service that is asked to stop has done its work"
    source = write_frames(tmp_path / "in", range(1500))
    with started("device", "process", source, "--package", package.path, "--out", tmp_path / "out") as process:
        wait_for(lambda: lines_of(tmp_path / "out" / "results.jsonl") > 3)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)[1]
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert lines_of(tmp_path / "out" / "results.jsonl") < 1500


# A shell's background job ignores SIGINT and hands that down; the child is to hear it wherever the tests run. Its own
# first line sees to that: a function between fork and exec would make every library warn that can't bear a fork.
HEARING = (
    "import runpy, signal; "
    "signal.signal(signal.SIGINT, signal.default_int_handler); "
    "runpy.run_module('featureloop', run_name='__main__', alter_sys=True)"
)


@contextmanager
def started(*args: object) -> Iterator[subprocess.Popen[str]]:
    """A command as a process, which is killed where it has not ended by itself."""
    command = [sys.executable, "-c", HEARING, *map(str, args)]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=environment(), **pipes) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


def lines_of(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def wait_for(true: Callable[[], bool], *, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.01)
