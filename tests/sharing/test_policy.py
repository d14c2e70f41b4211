"""The site's policy: every setting is read, and anything else is refused with what is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from featureloop.core.errors import PolicyError
from featureloop.sharing.policy import Limits, Policy, Sending, Share, load_policy


def written(folder: Path, text: str) -> Path:
    path = folder / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("text", ["", "[share]\n", "[limits]\n", "# nothing\n"])
def test_what_is_not_set_has_its_default(tmp_path: Path, text: str) -> None:
    assert load_policy(written(tmp_path, text)) == Policy(Share(), Limits())


def test_by_default_doubtful_results_are_asked_about_before_anything_leaves() -> None:
    assert Share() == Share(("set", "pool"), "all", "ask", "result-and-reliability", None, groups=True)
    assert Limits() == Limits(0, 1_000_000_000, 30)


@pytest.mark.parametrize(
    ("line", "share"),
    [
        ('anonymizers = ["pool"]', Share(anonymizers=("pool",))),
        ('anonymizers = ["pool", "set"]', Share(anonymizers=("pool", "set"))),
        *[(f'provide = "{w}"', Share(provide=w)) for w in ("all", "below-threshold", "changed", "nothing")],  # type: ignore[arg-type]
        *[(f'below_threshold = "{w}"', Share(below_threshold=w)) for w in ("ask", "withhold", "provide")],  # type: ignore[arg-type]
        *[(f'content = "{w}"', Share(content=w)) for w in ("result-and-reliability", "result", "reliability")],  # type: ignore[arg-type]
        ("threshold = 0", Share(threshold=0)),
        ("threshold = 0.8", Share(threshold=0.8)),
        ("near_duplicates = 0", Share(near_duplicates=0)),
        ("near_duplicates = 0.5", Share(near_duplicates=0.5)),
        ("threshold = 1.0", Share(threshold=1.0)),
        ("groups = false", Share(groups=False)),
    ],
)
def test_every_setting_of_share_is_read(tmp_path: Path, line: str, share: Share) -> None:
    assert load_policy(written(tmp_path, f"[share]\n{line}\n")) == Policy(share, Limits())


def test_every_setting_of_sending_is_read(tmp_path: Path) -> None:
    text = "[sending]\ndelay_seconds = 60\nbatch_records = 7\nlongest_seconds = 600\n"
    assert load_policy(written(tmp_path, text)) == Policy(sending=Sending(60, 7, 600))
    with pytest.raises(PolicyError, match="delay_seconds must be a whole number"):
        load_policy(written(tmp_path, "[sending]\ndelay_seconds = 0.5\n"))


def test_every_setting_of_limits_is_read(tmp_path: Path) -> None:
    text = "[limits]\nbytes_per_day = 50_000_000\nbase_first = false\noutbox_bytes = 7\nretention_days = 1\n"
    assert load_policy(written(tmp_path, text)) == Policy(
        Share(), Limits(50_000_000, base_first=False, outbox_bytes=7, retention_days=1)
    )


@pytest.mark.parametrize(
    ("text", "wrong", "known"),
    [
        ("[share]\nprovid = 'nothing'\n", "provid", "provide, below_threshold, content"),
        ("[share]\nthresholds = 0.5\n", "thresholds", "threshold"),
        ("[limits]\nbytes_a_day = 1\n", "bytes_a_day", "bytes_per_day, outbox_bytes, retention_days, base_first"),
        ("[shares]\n", "shares", "share, limits"),
        ("provide = 'nothing'\n", "provide", "share, limits"),
        ("[share]\nprovide = 'none'\n", "none", "all, below-threshold, changed, nothing"),
        ("[share]\nbelow_threshold = 'hide'\n", "hide", "ask, soften, withhold, provide"),
        ("[share]\ncontent = 'pixels'\n", "pixels", "result-and-reliability, result, reliability"),
        ("[share]\nanonymizers = ['grid']\n", "grid", "pool, set"),
    ],
)
def test_a_typing_error_is_refused_with_what_is_known(tmp_path: Path, text: str, wrong: str, known: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(PolicyError, match=known) as caught:
        load_policy(path)
    assert wrong in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ("share", "anonymizers = 'set'"),
        ("share", "anonymizers = []"),
        ("share", "anonymizers = [1]"),
        ("share", "provide = true"),
        ("share", "provide = ['all']"),
        ("share", "below_threshold = 1"),
        ("share", "near_duplicates = 1.0"),
        ("share", "near_duplicates = -0.1"),
        ("share", "near_duplicates = true"),
        ("share", "content = {a = 1}"),
        ("share", "threshold = true"),
        ("share", "threshold = '0.5'"),
        ("share", "threshold = -0.1"),
        ("share", "threshold = 1.1"),
        ("share", "threshold = nan"),
        ("share", "groups = 1"),
        ("share", "groups = 'no'"),
        ("limits", "base_first = 1"),
        *[
            ("limits", f"{name} = {value}")
            for name in ("bytes_per_day", "outbox_bytes", "retention_days")
            for value in ("true", "-1", "1.5", "'1'")
        ],
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_its_name(tmp_path: Path, table: str, line: str) -> None:
    with pytest.raises(PolicyError, match=line.split(" ", maxsplit=1)[0]):
        load_policy(written(tmp_path, f"[{table}]\n{line}\n"))


@pytest.mark.parametrize("text", ["share = 1\n", "limits = [1]\n"])
def test_a_table_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(PolicyError, match="must be a table"):
        load_policy(written(tmp_path, text))


def test_an_unreadable_file_is_a_policy_error(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="can't be read"):
        load_policy(tmp_path / "missing.toml")
    with pytest.raises(PolicyError, match="can't be read"):
        load_policy(tmp_path)
    with pytest.raises(PolicyError, match="no valid TOML"):
        load_policy(written(tmp_path, "[share\n"))
    (tmp_path / "latin.toml").write_bytes(b"# \xe4\n")
    with pytest.raises(PolicyError, match="can't be read"):
        load_policy(tmp_path / "latin.toml")
