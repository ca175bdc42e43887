"""A table of named implementations that files add themselves to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from leanloop.core.errors import SettingsError

Item = TypeVar("Item")


class Registry(Generic[Item]):
    """Names to implementations; refuses duplicates, and names the known ones when asked for an unknown one."""

    def __init__(self, noun: str) -> None:
        self._noun = noun
        self._items: dict[str, Item] = {}

    def register(self, name: str) -> Callable[[Item], Item]:
        """Decorator that adds an implementation under ``name``."""

        def add(item: Item) -> Item:
            if name in self._items:
                raise ValueError(f"{self._noun} {name!r} is registered twice")
            self._items[name] = item
            return item

        return add

    def __getitem__(self, name: str) -> Item:
        try:
            return self._items[name]
        except KeyError:
            raise SettingsError(
                f"There is no {self._noun} of this name.",
                value=name,
                fix=f"Known: {', '.join(sorted(self._items))}.",
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._items))

    def __contains__(self, name: object) -> bool:
        return name in self._items
