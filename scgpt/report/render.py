"""One HTML file that needs nothing else: no network, no script to be read."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from scgpt.report import format as show
from scgpt.report.context import CardsContext, checked
from scgpt.report.view import OUTCOME_WORDS, ROLE_WORDS, view_of

if TYPE_CHECKING:
    from scgpt.report.context import ReportContext

FILTERS = (
    show.number,
    show.signed,
    show.probability,
    show.count,
    show.duration,
    show.memory,
    show.setting,
    show.linked,
)


def render(context: dict[str, Any] | ReportContext) -> str:
    """Return the report as HTML.

    Parameters
    ----------
    context
        See `scgpt.report.context.ReportContext`. Nothing but the context enters: the same context
        gives the same text.

    Raises
    ------
    ContractError
        If the context does not have the described form.
    """
    report = checked(context)
    environment = _environment()
    # The page forbids itself every load; its one script is allowed by its digest, so that no text
    # of a table could ever run.
    script, _, _ = environment.loader.get_source(environment, "sort.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return environment.get_template("report.html.j2").render(
        report=report,
        view=view_of(report),
        script=script,
        script_digest=digest,
        outcome_words=OUTCOME_WORDS,
        role_words=ROLE_WORDS,
        interval=show.interval,
        missing=show.MISSING,
    )


def render_cards(context: dict[str, Any]) -> str:
    """Return the page of data cards as HTML.

    Parameters
    ----------
    context
        See `scgpt.report.context.CardsContext`.

    Raises
    ------
    ContractError
        If the context does not have the described form.
    """
    page = checked(context, CardsContext)
    return _environment().get_template("cards.html.j2").render(page=page)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("scgpt.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
    environment.filters.update({function.__name__: function for function in FILTERS})
    return environment
