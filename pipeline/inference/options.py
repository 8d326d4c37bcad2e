"""Types of command-line options, for argparse."""

import argparse


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
