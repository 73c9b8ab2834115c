"""Settings as pydantic models, and what is wrong with them as one line.

Not imported where the command line starts: pydantic takes a moment, and only what reads settings
needs it.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from subnetworks.core.errors import UserError

Place = tuple[str | int, ...]
"""Where in a file something is: keys, and indices of lists, from the outside in."""


class SettingsModel(BaseModel):
    """What every settings model is: strict, unchangeable, and clear about its keys.

    `renamed` holds the names that keys had before, each with the one it has now.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
    renamed: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _keys(cls, values: Any) -> Any:
        if isinstance(values, cls):
            return values
        if not isinstance(values, Mapping):
            raise wrong(f"expected keys and values, got {shown(values)}")
        allowed = list(cls.model_fields)
        for key in values:
            if key in allowed:
                continue
            if key in cls.renamed:
                raise wrong(f"{key!r} is called {cls.renamed[key]!r} now", key)
            raise wrong(
                f"unknown key {str(key)!r}{hint(key, allowed)}; allowed: {', '.join(allowed)}", key
            )
        needed = (name for name, entry in cls.model_fields.items() if entry.is_required())
        if missing := [name for name in needed if name not in values]:
            raise wrong(f"missing key {quoted(missing)}")
        return values


Settings = TypeVar("Settings", bound=SettingsModel)


def wrong(text: str, key: object = None) -> PydanticCustomError:
    """What a validator raises: `text` is shown as is; `key` is the one that it is about, if it is
    not the whole that is validated."""
    return PydanticCustomError("wrong", "{text}", {"text": text, "key": key})


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _in_share(value: float) -> float:
    if not 0 <= value <= 1:
        raise wrong(f"must lie in [0, 1], got {shown(value)}")
    return value


def matching(pattern: str, words: str) -> Any:
    """The type of a text that a pattern matches as a whole; `words` say what is expected."""
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise wrong(f"expected {words}, got {shown(value)}")
        return value

    schema = {"type": "string", "pattern": f"^{pattern}$", "description": words}
    return Annotated[str, AfterValidator(check), WithJsonSchema(schema)]


if TYPE_CHECKING:
    Name = str
else:
    Name = matching("[a-z0-9][a-z0-9_]*", "a name of lower-case letters, digits and underscores")
# A number such as 8.0 is whole.
Count = Annotated[int, Field(ge=0), BeforeValidator(_whole)]
Positive = Annotated[int, Field(ge=1), BeforeValidator(_whole)]
AtLeastTwo = Annotated[int, Field(ge=2), BeforeValidator(_whole)]
Rate = Annotated[float, Field(ge=0)]
Above = Annotated[float, Field(gt=0)]
Share = Annotated[
    float,
    AfterValidator(_in_share),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1}),
]


def by_value(key: str, classes: Mapping[str, type[SettingsModel]]) -> Any:
    """The type of settings whose class a key's value says."""

    def check(values: Any) -> Any:
        if not isinstance(values, Mapping):
            raise wrong(f"expected keys and values, got {shown(values)}")
        if key not in values:
            raise wrong(f"missing key {key!r}; allowed: {', '.join(classes)}")
        if not isinstance(values[key], str) or values[key] not in classes:
            raise wrong(f"{key}: {not_allowed(values[key], classes)}", key)
        return values

    return _union(classes, lambda values: f"<{values[key]}>", check)


def by_key(
    classes: Mapping[str, type[SettingsModel]], renamed: Mapping[str, str] | None = None
) -> Any:
    """The type of settings whose class depends on which one of several keys they have."""

    def check(values: Any) -> Any:
        if not isinstance(values, Mapping):
            raise wrong(f"expected keys and values, got {shown(values)}")
        if sum(key in values for key in classes) != 1:
            raise wrong(f"needs exactly one of: {' | '.join(classes)}")
        return values

    def chosen(values: Any) -> str:
        return next(f"<{key}>" for key in classes if key in values)

    return _union(classes, chosen, check)


def _union(
    classes: Mapping[str, type[SettingsModel]],
    chosen: Callable[[Any], str],
    check: Callable[[Any], Any],
) -> Any:
    tagged = [Annotated[cls, Tag(f"<{name}>")] for name, cls in classes.items()]
    union: Any = reduce(lambda one, other: one | other, tagged)  # type: ignore[arg-type]
    return Annotated[union, Discriminator(chosen), BeforeValidator(check)]


@dataclass(frozen=True)
class Origin:
    """Where settings come from, for messages: a file with the lines of its keys, or what a command
    calls them."""

    name: str
    lines: Mapping[Place, int] = field(default_factory=dict, repr=False)

    def error(self, place: Place, text: str, key: object = None) -> UserError:
        """One line: the file and line, the key, what is wrong with it."""
        about: Place = place if key is None else (*place, str(key))
        while about and about not in self.lines:
            about = about[:-1]
        line = f":{self.lines[about]}" if about in self.lines else ""
        dotted = ".".join(map(str, place))
        text = " ".join(text.split("\n"))
        return UserError(f"{self.name}{line}: {f'{dotted}: ' if dotted else ''}{text}")


def parse(cls: type[Settings], values: Any, origin: Origin | str, place: Place = ()) -> Settings:
    """Settings of one model.

    Args:
        values: what was written, as YAML and JSON give it.
        origin: the file they are from, or what to call them in a message.
        place: where in it they are.

    Raises:
        UserError: the first thing that is wrong, in the order of the file; one line that names the
            file, the key and what is allowed.
    """
    return checked(cls, values, origin, place)


def checked(kind: Any, values: Any, origin: Origin | str, place: Place = ()) -> Any:
    """As `parse`, for any type that pydantic knows."""
    origin = Origin(origin) if isinstance(origin, str) else origin
    try:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind.model_validate(values)
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    within, text, key = explained(first)
    raise origin.error((*place, *within), text, key)


def explained(error: ErrorDetails) -> tuple[Place, str, object]:
    """Where it is wrong, what, and the key that it is about if that is none of the place."""
    # Tags of unions and marks of keys are pydantic's own.
    place = tuple(p for p in error["loc"] if not (isinstance(p, str) and p[:1] in ("<", "[")))
    got, facts = shown(error["input"]), error.get("ctx", {})
    match error["type"]:
        case "wrong":
            return place, str(facts["text"]), facts["key"]
        case "literal_error":
            allowed = re.findall(r"'([^']*)'|([\w.]+)", str(facts["expected"]))
            choices = [one or other for one, other in allowed if (one or other) != "or"]
            return place, not_allowed(error["input"], choices), None
        case "greater_than_equal":
            return place, f"must be at least {shown(facts['ge'])}, got {got}", None
        case "greater_than":
            return place, f"must be above {shown(facts['gt'])}, got {got}", None
        case "less_than_equal":
            return place, f"must be at most {shown(facts['le'])}, got {got}", None
        case "less_than":
            return place, f"must be below {shown(facts['lt'])}, got {got}", None
        case "finite_number":
            return place, f"expected a finite number, got {got}", None
        case "too_short" | "too_long":
            bound = facts.get("min_length", facts.get("max_length"))
            few = error["type"] == "too_short"
            return place, f"needs at {'least' if few else 'most'} {bound}, got {got}", None
    for kinds, words in _EXPECTED.items():
        if error["type"].startswith(kinds):
            return place, f"expected {words}, got {got}", None
    return place, f"{error['msg']}, got {got}", None


_EXPECTED: dict[str | tuple[str, ...], str] = {
    "int_": "a whole number",
    "float_": "a number",
    "string_": "text",
    "bool_": "true or false",
    ("dict_", "model_", "mapping_"): "keys and values",
    ("list_", "tuple_"): "a list",
}


def shown(value: object, most: int = 60) -> str:
    """A value as a message shows it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}"
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"


def not_allowed(value: object, allowed: Iterable[str]) -> str:
    """That a word is none of those that are allowed, and which is closest."""
    allowed = [*allowed]
    return f"{shown(value)} is not allowed{hint(value, allowed)}; allowed: {', '.join(allowed)}"


def hint(name: object, allowed: Iterable[str]) -> str:
    """A question that names the allowed word closest to `name`, if one is close."""
    close = difflib.get_close_matches(str(name), list(allowed), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def quoted(names: Iterable[object]) -> str:
    """Names in quotes, side by side."""
    return ", ".join(repr(str(name)) for name in names)
