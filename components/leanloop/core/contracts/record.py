"""What every contract is: a strict record, and a record that is a file."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from leanloop.core.errors import StoreError
from leanloop.core.files import read_json, write_json

Runtime = Literal["pytorch", "onnxruntime", "openvino"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]
Aim = Literal["accuracy", "agreement", "latency"]
"""What must get better in a re-optimisation: answers by labels, answers by the parent's, or the time they take."""


class Record(BaseModel):
    """Base of all contracts: strict, frozen, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class FileContract(Record):
    """A record that is the JSON file of a step's output folder."""

    filename: ClassVar[str]
    schema_version: Literal[1] = 1

    def save(self, folder: Path) -> None:
        """Write the file into ``folder``, atomically."""
        write_json(folder / self.filename, self.model_dump(mode="json"))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the file from ``folder``.

        Raises:
            StoreError: It is missing, not JSON, of another schema version, or not what the contract says.
        """
        path = folder / cls.filename
        document = read_json(path)
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            raise StoreError(
                f"{cls.filename} is not what this version of leanloop writes.",
                where=f"{path}: {'.'.join(map(str, first['loc']))}",
                value=first["input"],
                fix=f"{first['msg']}. Run the step again with this version.",
            ) from error
