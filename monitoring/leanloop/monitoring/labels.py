"""Labels: what was right, told later, joined by the request's id."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Engine, delete, func, select
from sqlalchemy.orm import Session

from leanloop.core.names import check_name
from leanloop.monitoring.database import LabelConflict, LabelRow

REQUEST_ID = r"^[A-Za-z0-9._-]{1,64}$"
_CHUNK = 500


class Label(BaseModel):
    """What was right for one sample.

    Attributes:
        request_id: As the client chose it.
        sample: Index of the sample in the request.
        label: A class number, or a target value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    request_id: Annotated[str, Field(pattern=REQUEST_ID)]
    sample: Annotated[int, Field(ge=0)] = 0
    label: int | float


@dataclass(frozen=True)
class Added:
    """What became of some labels.

    Attributes:
        new: Kept.
        repeated: Known already, with the same value.
        conflicting: Known already, with another value: the first one stands, the other is noted.
    """

    new: int
    repeated: int
    conflicting: int


class Labels:
    """Labels of all models; whether a request was captured does not matter when they come.

    Args:
        engine: Of `leanloop.monitoring.database.open_database`.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, model: str, labels: Sequence[Label], *, received: float | None = None) -> Added:
        """Keep labels; saying the same again changes nothing. All are kept, or none.

        Args:
            model: Name of the model.
            labels: In any order; of two for one sample the first stands.
            received: When, in seconds; now without it.

        Raises:
            SettingsError: It is no model's name.
        """
        check_name(model)
        now = time.time() if received is None else received
        new = repeated = conflicting = 0
        with Session(self._engine) as session, session.begin():
            known = {
                (row.request_id, row.sample): row.label
                for row in self._rows(session, model, {label.request_id for label in labels})
            }
            for label in labels:
                key = (label.request_id, label.sample)
                if key not in known:
                    known[key] = label.label
                    session.add(LabelRow(model=model, **label.model_dump(), received=now))
                    new += 1
                elif known[key] == label.label:
                    repeated += 1
                else:
                    session.add(LabelConflict(model=model, **label.model_dump(), received=now))
                    conflicting += 1
        return Added(new, repeated, conflicting)

    def of(self, model: str, request_ids: Collection[str]) -> dict[tuple[str, int], int | float]:
        """The labels of some requests, by request id and sample."""
        with Session(self._engine) as session:
            rows = self._rows(session, model, request_ids)
            return {(row.request_id, row.sample): row.label for row in rows}  # type: ignore[misc]

    def conflicts(self, model: str) -> int:
        """How many labels contradicted an earlier one."""
        with Session(self._engine) as session:
            counted = select(func.count()).select_from(LabelConflict).where(LabelConflict.model == model)
            return session.scalar(counted) or 0

    def forget(self, before: float) -> int:
        """Remove what came before a time, in seconds: past the horizon nobody asks for it; returns how many labels."""
        with Session(self._engine) as session, session.begin():
            session.execute(delete(LabelConflict).where(LabelConflict.received < before))
            removed = session.execute(delete(LabelRow).where(LabelRow.received < before))
            return int(removed.rowcount)  # type: ignore[attr-defined]

    @staticmethod
    def _rows(session: Session, model: str, request_ids: Collection[str]) -> list[LabelRow]:
        wanted = sorted(request_ids)
        rows: list[LabelRow] = []
        for start in range(0, len(wanted), _CHUNK):
            some = LabelRow.request_id.in_(wanted[start : start + _CHUNK])
            rows += session.scalars(select(LabelRow).where(LabelRow.model == model, some))
        return rows
