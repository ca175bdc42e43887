"""From what is seen to what is done: one table, read from the top; the first row that fits decides.

A row names only what it depends on. What no row foresees goes to a person: nothing is repaired on a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

Question = Literal["inputs", "accuracy", "agreement", "latency", "requests", "none"]
"""What is wrong with a release is asked in these kinds; an incident is about one of them."""

Action = Literal[
    "nothing",
    "record",
    "wait for labels",
    "roll back",
    "repair the server",
    "re-tune",
    "re-optimise",
    "fine-tune and re-optimise",
    "page",
    "page and freeze capture",
]


@dataclass(frozen=True)
class Evidence:
    """What is known of one model's release at one moment; ``unknown`` where there was too little to judge.

    Attributes:
        requests: Whether requests are answered, by error counters and real inferences.
        answers: Whether golden queries are answered rightly.
        promoted: Whether the release is still within its first windows.
        latency: Whether the latency objective's error budget burns.
        demand: Against the capacity that was measured when the release was tuned.
        inputs: Against the reference; ``broken`` are wrong shapes, NaN, values outside the schema.
        accuracy: By labels.
        labels: How many fresh ones there are; ``pending`` until the label horizon has passed.
        estimate: Accuracy estimated without labels.
        agreement: Of the release with its parent revision, at equal difficulty.
        parent: How sure the parent is of what is asked now: where that falls, it is no measure of right.
        revision: Whether a fine-tuned revision was tried for this incident and refused.
    """

    requests: Literal["answered", "failing"] = "answered"
    answers: Literal["right", "wrong"] = "right"
    promoted: Literal["long ago", "recently"] = "long ago"
    latency: Literal["ok", "burning", "unknown"] = "ok"
    demand: Literal["within capacity", "above capacity"] = "within capacity"
    inputs: Literal["as before", "drifting", "broken", "unknown"] = "as before"
    accuracy: Literal["ok", "falling", "unknown"] = "unknown"
    labels: Literal["enough", "few", "pending", "none"] = "none"
    estimate: Literal["ok", "falling", "unknown"] = "ok"
    agreement: Literal["ok", "falling", "unknown"] = "ok"
    parent: Literal["ok", "falling", "unknown"] = "ok"
    revision: Literal["not tried", "refused"] = "not tried"


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        cause: What is thought to be wrong, for people.
        seen: Values of `Evidence`, by attribute; all must hold, other attributes do not matter.
        action: What is done.
        question: What the incident is about.
    """

    cause: str
    seen: Mapping[str, str | tuple[str, ...]]
    action: Action
    question: Question

    def fits(self, evidence: Evidence) -> bool:
        """Whether all that the row names is seen."""
        return all(
            getattr(evidence, name) in ((wanted,) if isinstance(wanted, str) else wanted)
            for name, wanted in self.seen.items()
        )


NOT_FALLING = ("ok", "unknown")

COPES = "the world has changed, and the model copes"
"""Cause of the row after which the changed world becomes the new normal."""

TABLE: tuple[Row, ...] = (
    Row(
        "the requests themselves are broken",
        {"inputs": "broken"},
        "page and freeze capture",
        "inputs",
    ),
    Row(
        "the new release fails",
        {"promoted": "recently", "requests": "failing"},
        "roll back",
        "requests",
    ),
    Row(
        "the new release answers wrongly",
        {"promoted": "recently", "answers": "wrong"},
        "roll back",
        "requests",
    ),
    Row(
        "the server is broken",
        {"requests": "failing"},
        "repair the server",
        "requests",
    ),
    Row(
        "a loaded release answers otherwise than it did",
        {"answers": "wrong"},
        "repair the server",
        "requests",
    ),
    Row(
        "more is asked than this machine can answer",
        {"latency": "burning", "demand": "above capacity"},
        "page",
        "latency",
    ),
    Row(
        "the new release is slower under live load",
        {"promoted": "recently", "latency": "burning", "accuracy": NOT_FALLING},
        "roll back",
        "latency",
    ),
    Row(
        "the release is too slow for its traffic",
        {"latency": "burning", "accuracy": NOT_FALLING, "agreement": NOT_FALLING},
        "re-tune",
        "latency",
    ),
    Row(
        "the new release is less accurate",
        {"promoted": "recently", "accuracy": "falling", "inputs": "as before"},
        "roll back",
        "accuracy",
    ),
    Row(
        "compression hurts on what is asked now",
        {"agreement": "falling", "parent": NOT_FALLING, "latency": NOT_FALLING},
        "re-optimise",
        "agreement",
    ),
    Row(
        "the world has changed, and a revision was not good enough",
        {"accuracy": "falling", "revision": "refused"},
        "page",
        "accuracy",
    ),
    Row(
        "the world has changed, and there are labels to learn from",
        {"accuracy": "falling", "labels": "enough", "latency": NOT_FALLING},
        "fine-tune and re-optimise",
        "accuracy",
    ),
    Row(
        "the world has changed; more labels are on their way",
        {"accuracy": "falling", "labels": "pending", "latency": NOT_FALLING},
        "wait for labels",
        "accuracy",
    ),
    Row(
        "the world has changed, and the base model needs labels that are not there",
        {"accuracy": "falling", "latency": NOT_FALLING},
        "page",
        "accuracy",
    ),
    Row(
        "the world may have changed; labels will tell",
        {"inputs": "drifting", "accuracy": "unknown", "labels": "pending", "latency": NOT_FALLING},
        "wait for labels",
        "inputs",
    ),
    Row(
        "the world has changed, and the model is less sure; no labels will come",
        {
            "inputs": ("drifting", "unknown"),
            "accuracy": "unknown",
            "estimate": "falling",
            "latency": NOT_FALLING,
        },
        "re-optimise",
        "accuracy",
    ),
    Row(
        COPES,
        {"inputs": "drifting", "accuracy": "ok", "latency": NOT_FALLING},
        "record",
        "inputs",
    ),
    Row(
        "the world has changed; nothing says that it hurts",
        {
            "inputs": "drifting",
            "accuracy": "unknown",
            "estimate": "ok",
            "latency": NOT_FALLING,
            "agreement": NOT_FALLING,
        },
        "record",
        "inputs",
    ),
    Row(
        "nothing is wrong",
        {
            "inputs": ("as before", "unknown"),
            "accuracy": NOT_FALLING,
            "estimate": NOT_FALLING,
            "latency": NOT_FALLING,
            "agreement": NOT_FALLING,
        },
        "nothing",
        "none",
    ),
)

UNFORESEEN = Row("no row fits", {}, "page", "requests")


def diagnose(evidence: Evidence) -> Row:
    """The row that decides."""
    return next((row for row in TABLE if row.fits(evidence)), UNFORESEEN)


def as_markdown() -> str:
    """The table for people, in order."""
    lines = ["| what is seen | cause | what is done |", "|---|---|---|"]
    for row in (*TABLE, UNFORESEEN):
        seen = ", ".join(
            f"{name} {wanted if isinstance(wanted, str) else ' or '.join(wanted)}" for name, wanted in row.seen.items()
        )
        lines.append(f"| {seen or 'anything else'} | {row.cause} | {row.action} |")
    return "\n".join(lines) + "\n"


def attributes() -> tuple[str, ...]:
    """What a row may name."""
    return tuple(field.name for field in fields(Evidence))
