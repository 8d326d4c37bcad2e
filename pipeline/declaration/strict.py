"""Strict models of YAML, and one line for what does not fit: file, field, what is wrong, what is valid, a suggestion.

Strict: `true` is no number, a number is no text, unknown keys are refused.
"""

import difflib
import re
from collections.abc import Callable
from types import UnionType
from typing import Annotated, ClassVar, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from pipeline.errors import ExperimentError

LISTED = 12  # valid values that a line names; of more, those that are nearest
NEAREST = 3


class Strict(BaseModel):
    """A mapping with just these keys.

    Attributes:
        may_be_empty: optional keys that may stand there without a value; others are left out instead.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)
    may_be_empty: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _keys(cls, value):
        """Say which keys there are, which `extra="forbid"` does not; a misspelt one before the one it leaves out."""
        if not isinstance(value, dict):
            return value
        for key in value:
            if key not in cls.model_fields and cls.model_config["extra"] == "forbid":
                raise refused(f"unknown key{options(key, cls.model_fields)}", key)
        for key, field in cls.model_fields.items():
            if key not in value and field.is_required():
                raise refused(f"is missing; {_valid(cls, key)}", key)
            if key in value and value[key] is None and not field.is_required() and key not in cls.may_be_empty:
                raise refused(f"is empty; {_valid(cls, key)}, or leave it out", key)
        return value


def refused(text, *below):
    """An error for a validator to raise: what is wrong, and with which key below the value that is validated."""
    return PydanticCustomError("refused", "{text}", {"text": text, "below": below})


def options(wrong, valid, typed=False):
    """`; valid: a, b, c; did you mean 'b'?` for a value that is none of the valid ones.

    Of what was `typed` as one of several words, that spaces part them if a comma does.
    """
    valid = list(map(str, valid))
    parts = [part.strip() for part in wrong.split(",")] if typed else []
    if len(parts) > 1 and set(parts) <= set(valid):
        return f"; put spaces between several: {' '.join(map(shown, parts))}"
    near = difflib.get_close_matches(wrong, valid, n=1, cutoff=0.5) if isinstance(wrong, str) else []
    listed = valid
    if len(valid) > LISTED:
        listed = [*difflib.get_close_matches(str(wrong), valid, n=NEAREST, cutoff=0), f"... ({len(valid)} in all)"]
    return f"; valid: {', '.join(listed)}" + (f"; did you mean {near[0]!r}?" if near else "")


WORDS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true, false",
    list: "a list",
    dict: "a mapping",
}


def choices(model, key):
    """The values of a key that is a choice."""
    return [value for value in get_args(model.model_fields[key].annotation) if isinstance(value, str | int)]


def _valid(model, key):
    """What to give for a key that is missing."""
    field = model.model_fields[key]
    if field.description:
        return field.description
    if values := choices(model, key):
        return f"valid: {', '.join(map(str, values))}"
    return f"valid: {WORDS.get(_plain(field.annotation), 'a mapping')}"


def _plain(annotation):
    """The class behind an annotation; of alternatives the first."""
    origin = get_origin(annotation)
    if origin in (Annotated, Union, UnionType):
        return _plain(get_args(annotation)[0])
    return origin or annotation


def check(kind, content, source, where=()):
    """Validate content against a model or a type.

    Args:
        kind: a `Strict` model, or any type that pydantic knows.
        content: plain data, as read from YAML.
        source: name of the file, or a function that tells it from the keys that lead to a value.
        where: keys that lead to `content` in that file.

    Returns:
        The model. Whoever only wants to know that it fits keeps the plain data.

    Raises:
        ExperimentError: one line: file, dotted field, what is wrong, what is valid, a suggestion.
    """
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        errors = error.errors()  # a misspelt key says more than what it leaves out of another choice
        first = next((each for each in errors if each["type"] == "refused"), errors[0])
        keys = _keys_to(first["loc"], content) + list(first.get("ctx", {}).get("below", ()))
        found = _follow(content, keys)
        text = _wording(first, found)
        file = source((*where, *keys)) if isinstance(source, Callable) else source
    field = dotted((*where, *_named(content, keys)))
    raise ExperimentError(f"{file}: {field}: {text}" if field else f"{file}: {text}")


def dotted(keys):
    """`tables.table2.rows['Baseline'].runs[0]` for the keys that lead to a value; a list's items are in brackets."""
    text = ""
    for key in keys:
        text += key if isinstance(key, str) and key.startswith("[") else f".{key}"
    return text.removeprefix(".")


def _keys_to(loc, content):
    """pydantic's location without the tags of unions, which are no keys of the content."""
    keys = []
    for part in loc:
        here = _follow(content, keys)
        inside = part in here if isinstance(here, dict) else isinstance(here, list) and isinstance(part, int)
        if inside:
            keys.append(part)
    return keys


def _named(content, keys):
    """Keys as they are shown: an item of a list by its label or id where it has one."""
    for at, key in enumerate(keys):
        if isinstance(_follow(content, keys[:at]), list):
            item = _follow(content, keys[: at + 1])
            names = [
                item[name] for name in ("label", "id") if isinstance(item, dict) and isinstance(item.get(name), str)
            ]
            yield f"[{names[0]!r}]" if names else f"[{key}]"
        else:
            yield str(key)


def _follow(content, keys):
    for key in keys:
        try:
            content = content[key]
        except (KeyError, IndexError, TypeError):
            return None
    return content


TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a text",
    "bool_type": "true, false",
}
CONTAINERS = {
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
    "list_type": "a list",
    "tuple_type": "a list",
}
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def _wording(error, found):
    kind, context = error["type"], error.get("ctx", {})
    if kind == "refused":
        return context["text"]
    if "[key]" in error["loc"]:
        name = error["input"]
        if isinstance(name, str):
            return f"the name {name!r} is not valid; names consist of a-z, 0-9 and _"
        return f"the name {name!r} is no text; put it in quotes"
    if kind in CONTAINERS:
        return f"expected {CONTAINERS[kind]}, found {'nothing' if found is None else type(found).__name__}"
    if kind in TYPES:
        return f"is {shown(found)}; valid: {TYPES[kind]}"
    if kind == "literal_error":
        expected = [text or int(number) for text, number in re.findall(r"'([^']*)'|(-?\d+)", context["expected"])]
        near = found if found not in map(str, expected) else None  # a number in quotes is no misspelling
        return f"is {shown(found)}{options(near, expected)}"
    for bound, words in BOUNDS.items():
        if bound in context:
            limit = f"{context[bound]:g}" if isinstance(context[bound], float) else context[bound]
            return f"is {shown(found)}; valid: {words} {limit}"
    if kind in ("too_short", "too_long"):
        words, length = ("at least", "min_length") if kind == "too_short" else ("at most", "max_length")
        return f"has {context['actual_length']} items; valid: {words} {context[length]}"
    if kind == "string_pattern_mismatch":
        return f"is {shown(found)}; names consist of a-z, 0-9 and _"
    if kind == "string_too_short":
        return "is empty; give a text"
    return f"is {shown(found)}; {error['msg'].lower()}"


def shown(value):
    """A value as the file spells it, no longer than fits in a line."""
    if value is None or isinstance(value, bool):
        return {None: "empty", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def one_of(key, *models):
    """A mapping of which one key, a choice in each model, says which model it has to fit."""
    tags = [tag for model in models for tag in choices(model, key)]

    def known(value):
        if isinstance(value, dict):
            if value.get(key) is None:
                raise refused(f"is missing; valid: {', '.join(tags)}", key)
            if value[key] not in tags:
                raise refused(f"is {shown(value[key])}{options(value[key], tags)}", key)
        return value

    union = models[0]
    for model in models[1:]:
        union |= model
    return Annotated[Annotated[union, Field(discriminator=key)], BeforeValidator(known)]


def matching(pattern, words):
    def matches(value):
        if not re.fullmatch(pattern, value):
            raise refused(f"is {shown(value)}; valid: {words}")
        return value

    return Annotated[str, AfterValidator(matches)]


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+$")]
Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
