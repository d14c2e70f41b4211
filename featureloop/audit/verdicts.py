"""The report's answers: to the three questions of WP216, and how far every figure is from its limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from featureloop.audit.run import Audited
from featureloop.sharing.privacy import RULES, Privacy, ReportedFigure, beyond, said

QUESTIONS: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        "Singling out": (
            "Can a person be singled out: can somebody who holds an image tell which record is its own?",
            ("linkage.image_top1",),
        ),
        "Linkability": (
            "Can records of one person be linked to each other?",
            ("linkage.top1", "linkage.auc", "inversion.linkage_top1"),
        ),
        "Inference": (
            "Can something be inferred: the image, what is written on it, whether it was learned from?",
            (
                "inversion.gain_db",
                "text.presence_auc",
                "text.character_ratio",
                "position.exact_ratio",
                "membership.tpr",
            ),
        ),
    }
)
"""Article 29 Working Party, Opinion 05/2014 (WP216), and the figures that answer each."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """One figure against its limit.

    Attributes
    ----------
    name, text
        As policies name it, and for people.
    found
        None where it was not measured.
    limit
        None where it is disclosed without a limit.
    state
        `within`, `beyond`, `disclosed`, `missing`, or `unproven` where the attack's controls failed.
    said
        The figure in words.
    """

    name: str
    text: str
    found: ReportedFigure | None
    limit: float | None
    state: str
    said: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to one question.

    Attributes
    ----------
    name, question
        Of the opinion.
    state
        `beyond`, `unknown`, `disclosed` or `within`, the worst of its figures.
    short, answer
        In a few words; and with the figures that decide it.
    judgements
        All figures that it is answered by.
    """

    name: str
    question: str
    state: str
    short: str
    answer: str
    judgements: tuple[Judgement, ...]


def judge_figures(audited: Audited, privacy: Privacy) -> dict[str, Judgement]:
    """Every figure against its limit, attributes last, by name."""
    report, out = audited.report, {}
    for name, rule in RULES.items():
        found, limit = report.figures.get(name), privacy.limit(name)
        if found is None:
            state = "missing"
        elif not report.controls.get(rule.attack, False):
            state = "unproven"
        elif limit is None:
            state = "disclosed"
        else:
            state = "beyond" if beyond(found, limit, rule.judged) else "within"
        text = "not measured" if found is None else said(found, rule.judged)
        out[name] = Judgement(name, rule.text, found, limit, state, text)
    for name in sorted(set(report.figures) - set(RULES)):
        found = report.figures[name]
        out[name] = Judgement(name, _attribute(name), found, None, "disclosed", said(found, "value"))
    return out


def verdicts(judged: Mapping[str, Judgement]) -> list[Verdict]:
    """The answers to the three questions."""
    return [
        _verdict(name, question, tuple(judged[f] for f in figures)) for name, (question, figures) in QUESTIONS.items()
    ]


def _verdict(name: str, question: str, own: tuple[Judgement, ...]) -> Verdict:
    over = [j for j in own if j.state == "beyond"]
    unknown = [j for j in own if j.state in {"missing", "unproven"}]
    told = [j for j in own if j.state == "disclosed" and j.found and _above_chance(j.found)]
    if over:
        said_of = "; ".join(f"{j.text}: {j.said}, the limit is {j.limit:g}" for j in over)
        short = "Yes, beyond the limits."
        return Verdict(name, question, "beyond", short, f"{short} {_sentence(said_of)}", own)
    if unknown:
        said_of = ", ".join(j.text for j in unknown)
        answer = f"Not known: without a valid measurement of: {said_of}."
        return Verdict(name, question, "unknown", "Not known.", answer, own)
    if told:
        said_of = "; ".join(f"{j.text}: {j.said}{_by_chance(j.found)}" for j in told)
        short = "Yes, disclosed without a limit."
        return Verdict(name, question, "disclosed", short, f"{short} {_sentence(said_of)}", own)
    answer = "Not by the attacks that were run: all figures are within their limits."
    return Verdict(name, question, "within", "Not by the attacks that were run.", answer, own)


def _attribute(name: str) -> str:
    """`attributes.site_auc` for people."""
    return f"{name.split('.', 1)[-1].removesuffix('_auc').replace('_', ' ')} told, AUC"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _above_chance(found: ReportedFigure) -> bool:
    """Whether a figure is above chance by its interval; where there is none, by itself."""
    value = found.low if found.low is not None else found.value
    return value is None or found.chance is None or value > found.chance


def _by_chance(found: ReportedFigure | None) -> str:
    return "" if found is None or found.chance is None else f" (by chance {found.chance:.2g})"
