"""A user's list of classes: name, value and colour in label maps, from text, CSV, JSON or a command line."""

import csv
import json
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from pipeline.datasets.label_maps import MOST_CLASSES
from pipeline.errors import ExperimentError

CVAT = re.compile(r"([^:]+):(\d+),(\d+),(\d+):")  # a line of its labelmap.txt
HEADS = {  # of columns
    "name": ("name", "class", "classname", "class_name", "label", "category"),
    "value": ("index", "idx", "id", "value", "pixel value", "pixel_value"),
    "colour": ("colour", "color", "rgb"),
    "r": ("r", "red"),
    "g": ("g", "green"),
    "b": ("b", "blue"),
}
LISTS = ("classes", "categories", "labels", "names")  # members of a JSON object that hold the list
EXAMPLE = "a line for each class: index,name or index,colour,name, such as 7,#804080,road"


class Listed(NamedTuple):
    """A class of the list; value and colour (r, g, b) are None where it does not say."""

    name: str
    value: int | None = None
    colour: tuple | None = None


def read(given):
    """The classes of a file, or of lines that were typed instead.

    Args:
        given: one path, or lines as of a file.

    Returns:
        List of `Listed`, in its order.

    Raises:
        ExperimentError: no such file, no name in a line, a name, value or colour that stands there twice, too many.
    """
    path = Path(given[0])
    if len(given) == 1 and "," not in given[0] and not path.is_file():
        raise ExperimentError(f"--classes {path}: no such file; name a list of classes, {EXAMPLE}")
    if len(given) == 1 and path.is_file():
        where, found = str(path), _of_file(path)
    else:
        where, found = "--classes", _of_lines("--classes", list(given))
    if not found:
        raise ExperimentError(f"{where}: lists no class; list {EXAMPLE}")
    if len(found) > MOST_CLASSES:
        raise ExperimentError(
            f"{where}: lists {len(found)} classes; label maps have at most {MOST_CLASSES}: list fewer"
        )
    for field in Listed._fields:
        for value, count in Counter(getattr(each, field) for each in found).items():
            if value is not None and count > 1:
                what = hexadecimal(value) if field == "colour" else repr(value)
                raise ExperimentError(f"{where}: the {field} {what} is that of {count} classes; list it once")
    return found


def valued(found, start):
    """The same with a value each: where no class has one, they count from `start`; else behind the highest."""
    highest = max((each.value for each in found if each.value is not None), default=start - 1)
    complete = []
    for each in found:
        if each.value is None:
            highest += 1
            each = each._replace(value=highest)
        complete.append(each)
    return complete


def hexadecimal(colour):
    """(r, g, b) as `#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def colour_of(text):
    """(r, g, b) of `#rrggbb` or `r g b`, None for another text."""
    text = text.strip()
    if re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        return tuple(int(text[k : k + 2], 16) for k in (1, 3, 5))
    numbers = re.fullmatch(r"\(?(\d+)[ ,]+(\d+)[ ,]+(\d+)\)?", text)
    found = tuple(map(int, numbers.groups())) if numbers else None
    return found if found and max(found) <= 255 else None


def _of_file(path):
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ExperimentError(f"{path}: no UTF-8 text; list {EXAMPLE}") from None
    if path.suffix.lower() != ".json":
        return _of_lines(path, text.splitlines())
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ExperimentError(f"{path}: not JSON ({error}); list {EXAMPLE}") from None
    if isinstance(content, dict) and (inner := next((content[key] for key in LISTS if key in content), None)):
        content = inner
    if isinstance(content, dict):  # {"7": "road"} or {"road": 7}
        turned = {name: key for key, name in content.items()} if all(map(_whole, content)) else content
        content = [{"name": name, "id": value} for name, value in turned.items()]
    if not isinstance(content, list):
        raise ExperimentError(f"{path}: no list of classes; list {EXAMPLE}")
    return [_of_entry(path, at, entry) for at, entry in enumerate(content)]


def _of_entry(path, at, entry):
    entry = {"name": entry} if isinstance(entry, str) else entry
    fields = {str(key).lower(): value for key, value in entry.items()} if isinstance(entry, dict) else {}
    row = {field: next((fields[head] for head in heads if head in fields), None) for field, heads in HEADS.items()}
    if isinstance(row["colour"], list):
        row["colour"] = " ".join(map(str, row["colour"]))
    return _listed(f"{path}: [{at}]", {field: "" if value is None else str(value) for field, value in row.items()})


def _of_lines(where, lines):
    lines = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    lines = [(number, line) for number, line in lines if line and not re.match(r"#(?![0-9a-fA-F]{6})", line)]
    if lines and all(CVAT.match(line) for _, line in lines):
        return [
            Listed(found[1], None, tuple(map(int, found.groups()[1:])))
            for _, line in lines
            if (found := CVAT.match(line))
        ]
    if not lines:
        return []
    separator = next((each for each in ("\t", ";") if each in lines[0][1]), ",")
    rows = cells(where, lines, separator)
    head = [cell.lower() for cell in rows[0]]
    if any(cell in HEADS["name"] for cell in head) and not any(map(_whole, head)):
        places = {
            field: next((head.index(each) for each in heads if each in head), None) for field, heads in HEADS.items()
        }
        found = [
            {field: row[place] if place is not None and place < len(row) else "" for field, place in places.items()}
            for row in rows[1:]
        ]
        return [_listed(f"{where}: line {lines[at][0]}", row) for at, row in enumerate(found, 1)]
    return [_listed(f"{where}: line {number}", _sorted(row)) for (number, _), row in zip(lines, rows, strict=True)]


def cells(where, lines, separator=","):
    """The cells of each of some lines [(number, text)] of CSV. Raises ExperimentError if a quote does not end."""
    rows = [[cell.strip() for cell in row] for row in csv.reader([line for _, line in lines], delimiter=separator)]
    if len(rows) != len(lines):
        at = next((number for number, line in lines if line.count('"') % 2), lines[0][0])
        raise ExperimentError(f"{where}: line {at}: a quote that is not closed; remove it")
    return rows


def _sorted(row):
    """Cells without heads as {field: text}: a text is the name, one number the value, three the colour."""
    colours = [cell for cell in row if colour_of(cell)]
    numbers = [cell for cell in row if _whole(cell)]
    names = [cell for cell in row if cell and cell not in colours and cell not in numbers]
    values, rgb = (numbers[:-3], numbers[-3:]) if len(numbers) >= 3 else (numbers, [])
    fits = len(names) == 1 and len(values) <= 1 and len(colours) + bool(rgb) <= 1
    colour = (colours or [" ".join(rgb)])[0]
    return {"name": names[0], "value": "".join(values), "colour": colour} if fits else {}


def _listed(where, row):
    name, value, colour = (row.get(field, "").strip() for field in ("name", "value", "colour"))
    if not colour and row.get("r"):
        colour = " ".join(row[field] for field in "rgb")
    wrong = not name or value and not _whole(value) or colour and not colour_of(colour)
    if wrong or value and int(value) > 65535:
        raise ExperimentError(f"{where}: no class can be read; list {EXAMPLE}")
    return Listed(name, int(value) if value else None, colour_of(colour) if colour else None)


def _whole(text):
    return str(text).isascii() and str(text).isdecimal()
