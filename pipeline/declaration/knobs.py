"""The knobs of a method: typed, bounded, read from a flat mapping, resolved against a recipe.

A method declares its knobs as a class of fields (`KnobSet`); a recipes file holds its presets, one row for each
difference between them. A knob whose value is the word `recipe` takes the value of the chosen preset, which may depend
on the schedule of the run.
"""

import difflib
import typing
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.declaration.strict import Seed, Strict
from pipeline.errors import ExperimentError

RECIPE = "recipe"  # the knob that chooses a preset, and the value that refers to it
PROFILE = "profile"  # the preset that the scale of the dataset chooses
DEFAULT = "released"  # what it is where a profile does not say, or none is known


def _as_tuple(value):
    """YAML has lists where a frozen set has tuples."""
    return tuple(value) if isinstance(value, list) else value


def _different(numbers):
    if len(set(numbers)) != len(numbers):
        raise ValueError("twice the same")
    return numbers


List = BeforeValidator(_as_tuple)
Seeds = Annotated[
    tuple[Seed, ...],
    List,
    Field(min_length=1, description="a list of different integers from 0 to 2**32 - 1"),
    AfterValidator(_different),
]


class KnobSet(Strict):
    """What an experiment can turn; a method's knobs are a subclass.

    Attributes:
        seeds: seeds that a run is trained with.
    """

    seeds: Seeds = (0,)


def load(
    kind, mapping: dict, source: str, schedule: str = "1x", recipes: Path | None = None, scale: dict | None = None
):
    """Read the knobs of a method and replace the value `recipe` by the preset's.

    Args:
        kind: subclass of `KnobSet`.
        mapping: knob name -> value; names that are no field of `kind` are of other methods and left out.
        source: file the mapping came from, for messages.
        schedule: of the run; decides between preset values that differ by it.
        recipes: file of the presets, None without any.
        scale: the preset `profile`: `recipe`, the preset that it follows, and the knobs in which it departs from that;
            of those, the ones that are `of_data` stand under every preset.

    Raises:
        ExperimentError: a knob is missing, of the wrong type or out of its range.
    """
    fields = kind.model_fields
    if missing := [name for name, field in fields.items() if field.is_required() and name not in mapping]:
        raise ExperimentError(f"{source}: knob {missing[0]!r} is missing; `git diff {source}` shows what left")
    values = {name: mapping[name] for name in fields if name in mapping}
    preset = {}
    if recipes is not None and RECIPE in fields:
        departing = dict(scale or {})
        followed = departing.pop(RECIPE, DEFAULT)
        if values[RECIPE] == PROFILE:
            values[RECIPE] = followed
        else:
            departing = {name: value for name, value in departing.items() if name in of_data(recipes)}
        if values[RECIPE] not in typing.get_args(fields[RECIPE].annotation):
            raise _refused(kind, RECIPE, values, source)
        preset = preset_values(recipes, values[RECIPE], schedule)
        preset |= {name: value for name, value in departing.items() if name in preset}
    values |= {name: preset[name] for name, value in values.items() if value == RECIPE and name in preset}
    try:
        return kind(**values)
    except ValidationError as error:
        name = error.errors()[0]["loc"][0]
        if mapping.get(name) == RECIPE and name in preset:
            source = f"{source}: `{RECIPE}`, {recipes.parent.name}/{recipes.name}"
        raise _refused(kind, name, values, source, preset) from None


def _refused(kind, name, values, source, preset=()):
    valid = valid_values(kind, name)
    valid += ", or `recipe`" if name in preset else f", or `{PROFILE}`" if name == RECIPE else ""
    choices = [choice for choice in typing.get_args(kind.model_fields[name].annotation) if isinstance(choice, str)]
    near = nearest(values[name], choices) if isinstance(values[name], str) else ""
    return ExperimentError(f"{source}: knob {name} is {values[name]!r}; valid: {valid}{near}")


def valid_values(kind, name: str) -> str:
    """Say what a knob may be."""
    field = kind.model_fields[name]
    if field.description:
        return field.description
    if field.annotation is bool:
        return "true, false"
    if choices := typing.get_args(field.annotation):
        return ", ".join(map(str, choices))
    return f"{'an integer' if field.annotation is int else 'a number'} {_interval(field.metadata)}".strip()


def _interval(metadata):
    """`in (0, 1]` or `at least 0` from a field's bounds."""
    gt, ge, lt, le = (_bound(metadata, name) for name in ("gt", "ge", "lt", "le"))
    if lt is None and le is None:
        return f"above {gt:g}" if gt is not None else f"at least {ge:g}" if ge is not None else ""
    low = f"({gt:g}" if gt is not None else f"[{ge:g}"
    return f"in {low}, {f'{lt:g})' if lt is not None else f'{le:g}]'}"


def _bound(metadata, name):
    return next((getattr(item, name) for item in metadata if hasattr(item, name)), None)


def nearest(name, names, cutoff=0.5) -> str:
    """`; did you mean ...?` with the most similar of some names, at least as similar as `cutoff` (0 to 1)."""
    near = difflib.get_close_matches(str(name), list(map(str, names)), n=1, cutoff=cutoff)
    return f"; did you mean {near[0]!r}?" if near else ""


def preset_values(recipes: Path, recipe: str, schedule: str = "1x") -> dict:
    """Return knob -> value of a preset, for the knobs that the presets of a file decide.

    Raises ExperimentError for a schedule that a value depends on and does not list.
    """
    rows = [row for row in differences(recipes) if row["knob"] is not None]
    return {row["knob"]: _of_schedule(row, recipe, schedule) for row in rows}


def of_data(recipes: Path) -> set:
    """Knobs whose value a profile names under every preset, as it depends on the data."""
    return {row["knob"] for row in differences(recipes) if row.get("of_data")}


def _of_schedule(row, recipe, schedule):
    value = row[recipe]
    if not isinstance(value, dict):
        return value
    if schedule not in value:
        raise ExperimentError(
            f"recipes.yaml: {row['id']}, knob {row['knob']}: the {recipe} value lists the schedules "
            f"{', '.join(value)} and not {schedule!r}; add it, or set {row['knob']} in the knob file"
        )
    return value[schedule]


@cache
def differences(recipes: Path) -> tuple[dict, ...]:
    """The rows of a recipes file: id, knob, description, note and a column for each preset.

    A value that depends on the schedule is a dictionary by schedule.
    """
    try:
        return tuple(YAML(typ="safe").load(recipes))
    except (YAMLError, UnicodeDecodeError, TypeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" line {where.line + 1}" if where else ""
        problem = " ".join(str(getattr(error, "problem", error)).split())
        raise ExperimentError(f"{recipes.parent.name}/{recipes.name}{line}: not valid YAML: {problem}") from None
