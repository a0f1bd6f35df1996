"""Numbers and references as the report writes them, everywhere alike."""

from __future__ import annotations

import json
import re
from typing import Any

from markupsafe import Markup, escape

MISSING = "–"
MINUS = "\u2212"
DIGITS = 3
LINK = re.compile(r"https?://[^\s,;)]+|\b10\.\d{4,9}/[^\s,;)]+|\barXiv:\d{4}\.\d{4,5}")


def number(value: float | None, digits: int = DIGITS) -> str:
    """Return a number with fixed decimals and a true minus sign, or a dash."""
    if value is None:
        return MISSING
    text = f"{value:.{digits}f}"
    # A tiny negative value rounds to "-0.000", which would claim a sign that is not shown.
    return text.lstrip("-") if float(text) == 0 else text.replace("-", MINUS)


def signed(value: float | None) -> str:
    """Return a difference with its sign."""
    text = number(value)
    return f"+{text}" if value is not None and float(f"{value:.{DIGITS}f}") > 0 else text


def interval(low: float | None, high: float | None) -> str:
    """Return an interval in brackets, or a dash."""
    return MISSING if low is None or high is None else f"[{number(low)}, {number(high)}]"


def probability(value: float | None) -> str:
    """Return a p value; small ones as a bound."""
    smallest = 10.0**-DIGITS
    return f"<{smallest:.{DIGITS}f}" if value is not None and value < smallest else number(value)


def count(value: int | None) -> str:
    """Return a whole number with thousands separated, or a dash."""
    return MISSING if value is None else f"{value:,}"


def duration(seconds: float | None) -> str:
    """Return a time with the unit that suits it."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def memory(megabytes: float | None) -> str:
    """Return a memory size given in MB (10^6 bytes)."""
    if megabytes is None:
        return MISSING
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 1000 else f"{megabytes:.0f} MB"


def setting(value: Any) -> str:
    """Return the value of a parameter as it would stand in a configuration file."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def linked(text: str) -> Markup:
    """Return text, escaped, with its DOIs, arXiv numbers and web addresses as links."""
    parts, end = [], 0
    for match in LINK.finditer(text):
        found = match.group().rstrip(".")
        parts.append(escape(text[end : match.start()]))
        parts.append(Markup('<a href="{}" rel="noreferrer">{}</a>').format(_address(found), found))
        end = match.start() + len(found)
    return Markup("").join([*parts, escape(text[end:])])


def _address(found: str) -> str:
    if found.startswith("arXiv:"):
        return f"https://arxiv.org/abs/{found.removeprefix('arXiv:')}"
    return found if found.startswith("http") else f"https://doi.org/{found}"
