"""Predicted label maps in a file: a JSON array of {image, map}, the latter a PNG in base64. Read one by one."""

import base64
import binascii
import json
import re

from pipeline.artifacts import paths
from pipeline.datasets.label_maps.packs import decoded, encoded
from pipeline.errors import ExperimentError

CHUNK = 1 << 18  # characters
BETWEEN = re.compile(r"\s*,?\s*")  # two items


def record(image, label_map):
    """The record of an image's file name and its map, uint8 [H, W]; 255 is no class."""
    return {"image": image, "map": base64.b64encode(encoded(label_map)).decode()}


def read(path):
    """Yield (file name, map) of all images of a file, in its order; memory is that of a few.

    Raises:
        ExperimentError: no such file, or not what was written.
    """
    try:
        with open(path, encoding="ascii") as file:
            for found in _items(file):
                yield found["image"], decoded(base64.b64decode(found["map"], validate=True), found["image"])
    except FileNotFoundError:
        raise ExperimentError(f"{_shown(path)}: no such file; evaluate the run again") from None
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise ExperimentError(f"{_shown(path)}: no predicted label maps ({error}); evaluate the run again") from None


def _items(file):
    """The items of the JSON array in an open text file. Raises ValueError for anything else."""
    decoder, text, at, ended = json.JSONDecoder(), file.read(CHUNK), 1, False
    if not text.startswith("["):
        raise ValueError("no list")
    while text[at:].strip() != "]" or not ended:
        try:
            found, at = decoder.raw_decode(text, BETWEEN.match(text, at).end())
        except ValueError:
            if ended:
                raise
            more = file.read(CHUNK)
            text, at, ended = text[at:] + more, 0, not more
            continue
        yield found


def _shown(path):
    return path.relative_to(paths.ROOT) if path.is_relative_to(paths.ROOT) else path
