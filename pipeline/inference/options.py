"""Types and defaults of command-line options, for argparse."""

import argparse

from pipeline.errors import ExperimentError

SCORE, FORM = 0.5, "polygons"


def fraction(text):
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: valid: a number from 0 to 1")
    return value


def count(text):
    """A whole number from 1 on."""
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r}: valid: 1, 2, ...")
    return int(text)


def of_objects(detector, score, form):
    """Least score and form of masks, as asked for or by default; None each for a model of label maps.

    Raises ExperimentError if one is asked for of such a model.
    """
    if not detector.maps:
        return SCORE if score is None else score, form or FORM
    for option, value in (("--score", score), ("--form", form)):
        if value is not None:
            raise ExperimentError(f"{detector.title} labels every pixel, which has no {option[2:]}; leave out {option}")
    return None, None
