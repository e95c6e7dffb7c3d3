"""How ``settings.WEBHOOKS`` is read: each setting anew whenever it is asked for, so ``override_settings`` works."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, Self, TypeVar, overload

from django.conf import settings

from webhooks.conf.rules import Rule

T = TypeVar("T")


class Setting(Generic[T]):
    """A property of ``Settings``; its key is its name in capitals.

    ``complete`` makes the value that is used of the one that is given. What ``is_secret`` is not repeated in messages.
    """

    def __init__(
        self, default: T, rule: Rule[T], *, complete: Callable[[T], T] | None = None, is_secret: bool = False
    ) -> None:
        self.default = default
        self.rule = rule
        self.complete = complete
        self.is_secret = is_secret

    def __set_name__(self, owner: type[Keys], name: str) -> None:
        self.key = name.upper()

    @overload
    def __get__(self, conf: None, owner: type[Keys]) -> Self: ...
    @overload
    def __get__(self, conf: Keys, owner: type[Keys]) -> T: ...
    def __get__(self, conf: Keys | None, owner: type[Keys]) -> Self | T:
        """The value, or the default in place of one that cannot be used, which ``manage.py check`` reports."""
        if conf is None:
            return self
        given: T = conf.given.get(self.key, self.default)
        value = given if self.rule.allows(given) else self.default
        return self.complete(value) if self.complete else value

    def problem(self, value: Any) -> str:
        """Why this value cannot be used, in words that go on from the name of the setting; none if it can."""
        told = "what it is" if self.is_secret else repr(value)
        return "" if self.rule.allows(value) else f"{self.rule.words}, not {told}"


class Guard(Setting[T]):
    """Guards destinations. The default might allow what a bad value was to deny, so with one nothing may be sent."""


class Keys:
    """All settings by their keys, and what is wrong with those that are given."""

    by_key: ClassVar[dict[str, Setting[Any]]]

    def __init_subclass__(cls) -> None:
        cls.by_key = {each.key: each for each in vars(cls).values() if isinstance(each, Setting)}

    @property
    def given(self) -> Mapping[str, Any]:
        """The setting as it stands there."""
        value = getattr(settings, "WEBHOOKS", None)
        return value if isinstance(value, Mapping) else {}

    @property
    def unknown_keys(self) -> list[str]:
        """Keys of the setting that mean nothing here, most likely misspelt."""
        return sorted(str(key) for key in set(self.given) - set(self.by_key))

    def bad_values(self) -> list[tuple[str, str]]:
        """Keys whose value cannot be used, each with what it must be; no key for the setting itself."""
        value = getattr(settings, "WEBHOOKS", {})
        if not isinstance(value, Mapping):
            # Not what it is: there may be keys and passwords in it.
            return [("", f"must be a dictionary, not a {type(value).__name__}")]
        told = ((key, self.by_key[key].problem(value)) for key, value in self.given.items() if key in self.by_key)
        return [(key, problem) for key, problem in told if problem]

    def is_usable(self, key: str) -> bool:
        setting = self.by_key[key]
        return setting.rule.allows(self.given.get(key, setting.default))

    def is_guard(self, key: str) -> bool:
        return isinstance(self.by_key.get(key), Guard)

    @property
    def guards(self) -> dict[str, Any]:
        """What the setting says about destinations, as it stands there."""
        return {key: value for key, value in self.given.items() if self.is_guard(key)}

    @property
    def broken_guard(self) -> str:
        """A key about destinations whose value cannot be used, if there is one."""
        return next((key for key in self.guards if not self.is_usable(key)), "")
