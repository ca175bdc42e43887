"""The incidents that are injected, and the row of the diagnosis table that is right for each: decided here, beforehand.

A shift *hurts* when it costs the served model 10 points of accuracy or more on all test images, and is *harmless* when
it costs 2 at most; what lies between is not injected, since both answers would be right. Of two faults at once that row
is right which stands higher in the table; where it has no row for both (a repair of one would be judged under the
other), a person is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from leanloop.monitoring.diagnosis import COPES, UNFORESEEN
from leanloop.pipelines.demo.shifts import Shift

Shifts = tuple[tuple[Shift, int], ...]

NONE: Shifts = (("none", 1),)
HURTS: Shifts = (
    *(("brightness", severity) for severity in (1, 2, 3, 4, 5)),
    *(("rotation", severity) for severity in (3, 4, 5)),
    *(("noise", severity) for severity in (2, 3, 4, 5)),
    *(("blur", severity) for severity in (2, 3, 4, 5)),
)
HARMLESS: Shifts = (("blur", 1), ("class-mix", 2), ("class-mix", 3))
CROWDED: Shifts = (("class-mix", 4), ("class-mix", 5))

NEVER = 1_000


@dataclass(frozen=True)
class Scenario:
    """One kind of incident. It begins after some healthy windows; each seed draws shift, images, pace and damage anew.

    Attributes:
        name: What is injected, for people.
        cause: Of the row that is right.
        release: Which of the cast's releases serves.
        baking: It was just promoted over another one.
        before: Healthy windows, at least.
        windows: Windows after the fault began, at most: the replay ends at the first action.
        shifts: Of the traffic, one is drawn.
        redefined: From then on two classes swap their meaning.
        broken: What is wrong with some requests.
        labelled_before: Share of the healthy records that are labelled at once.
        labelled: Share of those after the fault began.
        label_delay: Windows until these labels come.
        horizon: Windows from the first drifting one until labels are no longer waited for.
        server: ``down``: nothing answers; ``dead``: the champion's process is gone; ``failing``: it fails three of
            ten requests; ``worn``: its weights have changed in memory.
        burns: Windows after the fault began until the latency alert fires; None: it never does.
        load: Of the measured capacity, from the beginning of the fault.
        refused: A fine-tuning for this release was refused before.
        blind: Prometheus does not answer.
        mixed: Two faults at once.
    """

    name: str
    cause: str
    release: Literal["int8", "unlabelled", "clipped", "poisoned"] = "int8"
    baking: bool = False
    before: int = 2
    windows: int = 4
    shifts: Shifts = NONE
    redefined: bool = False
    broken: Literal["", "nan", "shape"] = ""
    labelled_before: float = 1.0
    labelled: float = 1.0
    label_delay: int = 0
    horizon: int = NEVER
    server: Literal["", "down", "dead", "failing", "worn"] = ""
    burns: int | None = None
    load: float = 0.5
    refused: bool = False
    blind: bool = False
    mixed: bool = False


_BROKEN = "the requests themselves are broken"
_NEW_FAILS = "the new release fails"
_NEW_IS_WRONG = "the new release answers wrongly"
_SERVER = "the server is broken"
_OTHERWISE = "a loaded release answers otherwise than it did"
_TOO_MUCH = "more is asked than this machine can answer"
_NEW_IS_SLOWER = "the new release is slower under live load"
_TOO_SLOW = "the release is too slow for its traffic"
_LESS_ACCURATE = "the new release is less accurate"
_COMPRESSION = "compression hurts on what is asked now"
_REFUSED = "the world has changed, and a revision was not good enough"
_LEARN = "the world has changed, and there are labels to learn from"
_MORE_LABELS = "the world has changed; more labels are on their way"
_NO_LABELS = "the world has changed, and the base model needs labels that are not there"
_LABELS_WILL_TELL = "the world may have changed; labels will tell"
_LESS_SURE = "the world has changed, and the model is less sure; no labels will come"
_NOTHING_SAYS = "the world has changed; nothing says that it hurts"
_NOTHING = "nothing is wrong"

SINGLE: tuple[Scenario, ...] = (
    Scenario("some requests hold NaN", _BROKEN, broken="nan"),
    Scenario("some requests have another shape", _BROKEN, broken="shape"),
    Scenario("a new release whose process dies", _NEW_FAILS, baking=True, before=0, server="dead"),
    Scenario("a new release that fails many requests", _NEW_FAILS, baking=True, before=0, server="failing"),
    Scenario("a new release that is not what was staged", _NEW_IS_WRONG, baking=True, before=0, server="worn"),
    Scenario("a killed server", _SERVER, server="down"),
    Scenario("a killed model process", _SERVER, server="dead"),
    Scenario("a release that begins to fail requests", _SERVER, server="failing"),
    Scenario("a release whose weights change in memory", _OTHERWISE, server="worn"),
    Scenario("the same, without labels", _OTHERWISE, server="worn", labelled=0.0),
    Scenario("more traffic than was ever measured", _TOO_MUCH, burns=3, load=1.2),
    Scenario("a new release that is slower", _NEW_IS_SLOWER, baking=True, before=0, burns=1),
    Scenario("a release that has become too slow", _TOO_SLOW, burns=1),
    Scenario("a new release that learnt wrong labels", _LESS_ACCURATE, release="poisoned", baking=True, before=0),
    Scenario(
        "the same, labels come later", _LESS_ACCURATE, release="poisoned", baking=True, before=0, label_delay=1
    ),
    Scenario(
        "a world crowded with what compression hurts", _COMPRESSION, release="clipped", shifts=CROWDED, labelled=0.0
    ),
    Scenario("a shift after a refused revision", _REFUSED, shifts=HURTS, refused=True),
    Scenario("a shift with labels", _LEARN, shifts=HURTS),
    Scenario("a shift with late labels", _LEARN, shifts=HURTS, label_delay=2, windows=6),
    Scenario("classes that swap their meaning", _LEARN, redefined=True),
    Scenario("a shift whose labels begin to come", _MORE_LABELS, shifts=HURTS, labelled=0.15, windows=3),
    Scenario("a shift with few labels", _NO_LABELS, shifts=HURTS, labelled=0.08, horizon=4, windows=7),
    Scenario("a shift whose labels are not there yet", _LABELS_WILL_TELL, shifts=HURTS, labelled=0.0),
    Scenario(
        "a shift of a model without labels so far", _LABELS_WILL_TELL, shifts=HURTS, labelled_before=0.0, labelled=0.0
    ),
    Scenario("a shift without labels", _LESS_SURE, shifts=HURTS, labelled=0.0, horizon=3, windows=6),
    Scenario("a harmless shift with labels", COPES, shifts=HARMLESS),
    Scenario("a harmless shift without labels", _NOTHING_SAYS, shifts=HARMLESS, labelled=0.0, horizon=3, windows=6),
    Scenario(
        "a shift of a model that nobody ever labelled",
        UNFORESEEN.cause,
        release="unlabelled",
        shifts=HURTS,
        labelled_before=0.0,
        labelled=0.0,
        horizon=3,
        windows=6,
    ),
)  # fmt: skip

MIXED: tuple[Scenario, ...] = (
    Scenario("broken requests in a shifted world", _BROKEN, broken="nan", shifts=HURTS, mixed=True),
    Scenario(
        "a new release that fails in a shifted world", _NEW_FAILS, baking=True, before=0, server="dead", shifts=HURTS,
        mixed=True,
    ),
    Scenario("a killed server while latency burns", _SERVER, server="down", burns=1, mixed=True),
    Scenario("changed weights in a shifted world", _OTHERWISE, server="worn", shifts=HURTS, labelled=0.0, mixed=True),
    Scenario("too much traffic in a shifted world", _TOO_MUCH, before=0, shifts=HURTS, burns=1, load=1.2, mixed=True),
    Scenario("too slow in a harmlessly shifted world", _TOO_SLOW, shifts=HARMLESS, burns=2, mixed=True),
    Scenario("a new release in a shifted world", _LEARN, baking=True, before=0, shifts=HURTS, mixed=True),
    Scenario(
        "a crowd that compression hurts, with labels that tell of it", _COMPRESSION, release="clipped", before=0,
        shifts=CROWDED, label_delay=2, mixed=True,
    ),
    Scenario("too slow in a world that hurts", UNFORESEEN.cause, before=0, shifts=HURTS, burns=1, mixed=True),
    Scenario(
        "too slow, and a crowd that compression hurts", UNFORESEEN.cause, release="clipped", before=0,
        shifts=CROWDED[-1:], burns=2, labelled=0.0, mixed=True,
    ),
    Scenario(
        "too slow in a shifted world that nobody labels", _TOO_SLOW, release="unlabelled", shifts=HURTS, burns=2,
        labelled_before=0.0, labelled=0.0, mixed=True,
    ),
)  # fmt: skip

QUIET: tuple[Scenario, ...] = (
    Scenario("quiet traffic with labels", _NOTHING),
    Scenario("quiet traffic without labels", _NOTHING, labelled_before=0.0, labelled=0.0, horizon=3),
    Scenario("a good new release", _NOTHING, baking=True, before=0),
    Scenario("quiet traffic while Prometheus is away", _NOTHING, blind=True),
)

INCIDENTS = SINGLE + MIXED
