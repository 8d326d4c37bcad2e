"""Names of classes in pictures: a font of this machine that has their letters, whatever script they are in."""

import logging
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager

logger = logging.getLogger("pipeline.reporting.lettering")

PLAIN = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def legible(name, otherwise):
    """A name if `font` has all its letters, else what stands in for it; the first time a warning says so."""
    if _has_all(font(name), name):
        return name
    _warn()
    return otherwise


@cache
def font(text):
    """Path of a font for a text: matplotlib's own if it has all letters, else the first of this machine that has,
    else matplotlib's.
    """
    if _has_all(PLAIN, text):
        return PLAIN
    return next((Path(path) for path in _installed() if _has_all(path, text)), PLAIN)


@cache
def _installed():
    return tuple(sorted(font_manager.findSystemFonts()))


def _has_all(path, text):
    try:
        face = font_manager.get_font(str(path))
    except (OSError, RuntimeError):  # a file that is no font
        return False
    return all(letter.isspace() or face.get_char_index(ord(letter)) for letter in text)


@cache  # once
def _warn():
    logger.warning("no font of this machine has the letters of some names, so pictures show numbers; install one")
