"""Kinds of command-line arguments that several verbs take."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """Read a number of the command line that counts something, threads for one."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        msg = f"expected a whole number of at least 1, found {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return number
