"""Every failure that leanloop reports.

LeanloopError
 +- SettingsError      a key or value of params.yaml
 +- BundleError        weights, owner's code or model file
 +- DataError          data sets, splits, labels
 +- UnsupportedError   a technique or target that cannot work on this model or machine
 +- ConversionError    export, quantisation or parity
 +- MeasurementError   a benchmark that cannot be trusted or run
 +- TrialError         one candidate of the search
 +- RefusedError       a re-optimisation that found nothing better than what serves
 +- ChildError         a limited child process (time, memory, crash)
 +- ServingError       Triton, the model repository, a release
 +- StoreError         files, digests, disk space
"""

from __future__ import annotations


class LeanloopError(Exception):
    """A failure told in full: what went wrong, where, with which value, and what to do.

    Args:
        what: One sentence that names the failure.
        where: The file, key or step where it was seen.
        value: The offending value, shown as given.
        fix: What the reader can do about it.
    """

    def __init__(self, what: str, *, where: str = "", value: object = None, fix: str = "") -> None:
        super().__init__(what, where, value, fix)
        self.what = what
        self.where = where
        self.value = value
        self.fix = fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.value is not None:
            lines.append(f"  value: {self.value}")
        if self.fix:
            lines.append(f"  to do: {self.fix}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.where, self.value, self.fix))


def _rebuild(kind: type[LeanloopError], what: str, where: str, value: object, fix: str) -> LeanloopError:
    return kind(what, where=where, value=value, fix=fix)


class SettingsError(LeanloopError):
    """A key or a value of the settings is unknown, impossible or contradicts another."""


class BundleError(LeanloopError):
    """The owner's model, weights or code cannot be packed or loaded."""


class DataError(LeanloopError):
    """The owner's data does not have the shape, type or labels that the model needs."""


class UnsupportedError(LeanloopError):
    """A technique or a target cannot work with this model or on this machine."""


class ConversionError(LeanloopError):
    """A model could not be exported or quantised, or is not what it was after it."""


class MeasurementError(LeanloopError):
    """A measurement could not be taken, or cannot be trusted."""


class TrialError(LeanloopError):
    """One candidate of the search failed; the others go on."""


class RefusedError(LeanloopError):
    """A revision or a challenger did not pass its gate: what serves stays. Not a malfunction."""


class ChildError(LeanloopError):
    """A child process ran out of time or memory, or died."""


class TimeLimitError(ChildError):
    """A child process ran longer than it was allowed."""


class MemoryLimitError(ChildError):
    """A child process took more memory than it was allowed."""


class ServingError(LeanloopError):
    """Triton did not start, did not load a model, or answered wrongly."""


class StoreError(LeanloopError):
    """A file is missing, changed, outside its root, or the disk is full."""
