"""The report: one offline file, escaped, with every number, note and link in its place."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from html.parser import HTMLParser

import pandas as pd
import pytest

from scgpt.errors import ContractError
from scgpt.metrics.statistics import paired_difference, summarise, with_bounds
from scgpt.report import format as show
from scgpt.report.context import ReportContext, checked
from scgpt.report.images import data_uri
from scgpt.report.render import render
from scgpt.report.view import view_of

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhg"
    "GAWjR9awAAAABJRU5ErkJggg=="
)
ROLES = {"scgpt": "method", "linear": "method", "majority": "negative_control"} | {
    "truth": "positive_control"
}
VALUES = {"scgpt": 0.85, "linear": 0.75, "majority": 0.25, "truth": 1.0}
VOID = {"meta", "link", "img", "br", "hr", "input"}


def metrics_table():
    """Return a metrics table: two splits, a plain and a per-type metric, one undefined value."""
    rows = []
    for method, value in VALUES.items():
        for split in ("split_1", "split_2"):
            keys = {"task": "annotation", "dataset": "ms", "split": split, "method": method}
            shift = 0.01 if split == "split_2" and ROLES[method] == "method" else 0.0
            plain = {"metric": "accuracy", "group": "", "value": value + shift, "note": ""}
            rows.append(keys | {"seed": 0, "n": 9} | plain)
            undefined = method == "linear"
            group = {"metric": "f1_per_type", "group": "B cell"}
            group["value"] = None if undefined else value
            group["note"] = "no cell of the type" if undefined else ""
            rows.append(keys | {"seed": 0, "n": 9} | group)
    return pd.DataFrame(rows).astype({"value": float})


@pytest.fixture
def context():
    """Return a small but complete context, made by the functions that make it in a run."""
    table = metrics_table()
    task = {
        "name": "annotation",
        "title": "Cell type annotation",
        "description": "Names cells, as in 10.1038/s41592-024-02201-0.",
        "scores": with_bounds(summarise(table), ROLES).to_dict("records"),
        "headline": ["accuracy"],
        "published": [
            {"dataset": "ms", "method": "scgpt", "metric": "accuracy", "value": 0.856}
            | {"kind": "paper", "source": "Table S1"},
            {"dataset": "ms", "method": "scgpt", "metric": "accuracy", "value": 0.875}
            | {"kind": "rerun", "source": "somebody"},
        ],
        "comparisons": paired_difference(table, "scgpt", "linear").to_dict("records"),
        "figures": [
            {"name": "fig2", "title": "Figure 2", "caption": "Scores.", "alt": "Bars"}
            | {"image": PIXEL, "numbers": "figures/fig2.tsv"}
        ],
    }
    metric = {"description": "A share.", "reference": "arXiv:1911.03347", "low": 0, "high": 1}
    return {
        "title": "Reproduction",
        "scale": {"name": "tiny", "description": "A small budget."},
        "date": "2026-01-02",
        "tasks": [task],
        "verdicts": [
            {"statement": "It wins", "source": "Fig. 2", "outcome": "confirmed", "measured": 0.5}
        ],
        "methods": [
            {"name": name, "title": f"The {name}", "role": role, "description": "Does it."}
            | {"parameters": {"epochs": 10, "rates": [0.1]} if role == "method" else {}}
            for name, role in ROLES.items()
        ],
        "costs": [
            {"task": "annotation", "dataset": "ms", "method": "scgpt", "n_runs": 2}
            | {"wall_seconds": 75.0, "peak_memory_mb": 2048.0, "peak_gpu_memory_mb": float("nan")}
        ],
        "metrics": [
            metric | {"name": "accuracy", "title": "Accuracy"},
            metric | {"name": "f1_per_type", "title": "F1 per type"},
        ],
        "datasets": [
            {"name": "ms", "title": "Multiple sclerosis", "n_cells": 13468, "n_genes": 3000}
            | {"source": "https://example.org/ms", "licence": "CC BY", "warnings": ["small"]}
        ],
        "provenance": {"commit": "abcdef0123456789", "packages": {"torch": "2.13.0"}}
        | {"inputs": [{"name": "ms.h5ad", "sha256": "0f" * 32, "size_bytes": 12}]},
        "deviations": [{"topic": "Zeros", "paper": "kept", "here": "left out", "reason": "speed"}],
        "notes": ["One note."],
    }


class Page(HTMLParser):
    """Collect what a test asks about a page; complain about unbalanced tags."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.scripts, self.styles = [], []
        self.feed(html)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> crosses another tag"

    def handle_data(self, data):
        {"script": self.scripts, "style": self.styles}.get(
            self.open[-1] if self.open else "", self.text
        ).append(data)

    def attributes(self, name, tag=None):
        return [a[name] for t, a in self.tags if name in a and tag in (None, t)]

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def table_rows(html, caption):
    """Return the cells (as text) of each row of the table whose caption starts so."""
    for table in re.findall(r"<table.*?</table>", html, flags=re.DOTALL):
        if re.search(rf"<caption>{re.escape(caption)}", table):
            rows = re.findall(r"<tr.*?</tr>", table, flags=re.DOTALL)
            return [
                [
                    " ".join(re.sub(r"<[^>]+>", " ", cell).split())
                    for cell in re.findall(r"<t[hd].*?</t[hd]>", row, flags=re.DOTALL)
                ]
                for row in rows
            ]
    raise AssertionError(caption)


def test_page_is_well_formed_and_loads_nothing(context):
    page = Page(render(context))
    for source in (*page.attributes("src"), *page.attributes("href", "link")):
        assert source.startswith("data:")
    assert not page.attributes("srcset")
    assert {tag for tag, _ in page.tags} & {"iframe", "object", "embed", "base", "form"} == set()
    assert not re.search(r"url\(|@import|expression\(", " ".join(page.styles))
    (policy,) = [a["content"] for t, a in page.tags if "http-equiv" in a]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy.replace("style-src 'unsafe-inline'", "")


def test_the_only_script_is_the_one_the_page_allows(context):
    page = Page(render(context))
    (script,) = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in page.attributes("content")[-1]
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert not re.search(r"fetch|XMLHttp|import\(|eval", script)


def poisoned(value):
    """Return a context in which every free text tries to break out."""
    evil = "<script>alert(1)</script>\"'><img src=http://evil>&"
    keep = {"name", "role", "outcome", "kind", "image", "sha256", "dataset", "method", "metric"}
    keep |= {"task", "a", "b", "headline"}
    if isinstance(value, dict):
        return {k: v if k in keep else poisoned(v) for k, v in value.items()}
    if isinstance(value, list):
        return [poisoned(entry) for entry in value]
    return value + evil if isinstance(value, str) and value else value


def test_all_text_is_escaped(context):
    plain, evil = Page(render(context)), Page(render(poisoned(context)))
    assert Counter(t for t, _ in evil.tags)["script"] == 1
    assert evil.attributes("src") == plain.attributes("src")
    assert not any(name.startswith("on") for _, attrs in evil.tags for name in attrs)
    assert evil.words.count("<script>alert(1)</script>") > 30
    safe = (
        "#",
        "https://doi.org/",
        "https://arxiv.org/",
        "https://example.org",
        "http://evil",
        "data:,",
    )
    assert all(link.startswith(safe) for link in evil.attributes("href"))


def test_the_same_context_gives_the_same_text(context):
    assert render(context) == render(checked(context))


def test_ids_are_unique_and_every_inner_link_arrives(context):
    page = Page(render(context))
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    inner = {link[1:] for link in page.attributes("href") if link.startswith("#")}
    assert inner <= set(ids)
    assert {"task-annotation", "annotation-ms", "figure-fig2", "method-scgpt"} <= inner


def test_tables_and_images_are_accessible(context):
    page = Page(render(context))
    tags = Counter(tag for tag, _ in page.tags)
    assert tags["caption"] == tags["table"] > 8
    assert all(attrs.get("scope") for tag, attrs in page.tags if tag == "th")
    assert page.attributes("alt", "img") == ["Bars"]
    assert page.tags[0] == ("html", {"lang": "en"})


def test_scores_stand_with_error_interval_scale_and_replicates(context):
    head, *rows = table_rows(render(context), "Multiple sclerosis: mean ± standard error, 95")
    assert head == ["Method", "Accuracy", "Splits × seeds"]
    assert rows[0] == [
        "The scgpt",
        "0.855 ± 0.005 [0.791, 0.919] scaled 0.807",
        "2 × 1",
    ]
    assert [row[0] for row in rows] == [
        "The scgpt",
        "The linear",
        "Controls",
        "The majority negative control",
        "The truth positive control",
        "Floor: best negative control",
        "Ceiling: best positive control",
    ]
    assert rows[-2][1:] == ["0.250", ""]
    assert rows[-1][1:] == ["1.000", ""]


def test_controls_are_apart_and_only_methods_are_best(context):
    html = render(context)
    body = re.search(r'<tbody class="controls">.*?</tbody>', html, flags=re.DOTALL).group()
    assert "The truth" in body
    assert "The scgpt" not in body
    assert re.findall(r'class="best">([^<]*)', html) == ["0.855"]


def test_a_control_that_ties_with_the_best_method_is_not_best(context):
    for row in context["tasks"][0]["scores"]:
        row["mean"] = 0.9
    assert re.findall(r'class="best">([^<]*)', render(context)) == ["0.900", "0.900"]


def test_where_lower_is_better_the_lowest_method_is_best(context):
    context["metrics"][0]["higher_is_better"] = False
    assert re.findall(r'class="best">([^<]*)', render(context)) == ["0.755"]


def test_a_missing_value_is_a_dash_whose_footnote_says_why(context):
    html = render(context)
    (row,) = table_rows(html, "Multiple sclerosis: F1 per type")[1:]
    assert row == ["B cell", "0.850 ± 0.000", "– 1", "0.250 ± 0.000", "1.000 ± 0.000"]
    assert '<li id="note-annotation-ms-f1_per_type-1">no value: no cell of the type</li>' in html
    assert 'href="#note-annotation-ms-f1_per_type-1"' in html


def test_published_values_keep_their_columns(context):
    (row,) = table_rows(render(context), "Published values and ours")[1:]
    assert row[3:] == ["0.856 Table S1", "0.875 somebody", "0.855 ± 0.005"]


def test_costs_parameters_data_sets_and_provenance_are_listed(context):
    html = render(context)
    (row,) = table_rows(html, "Wall time and peak memory")[1:]
    assert row[:4] == ["The scgpt", "Cell type annotation", "Multiple sclerosis", "2"]
    assert row[4:] == ["1 min", "2.0 GB", "–", "–"]
    assert table_rows(html, "Parameters of The scgpt")[1:] == [["epochs", "10"], ["rates", "[0.1]"]]
    (row,) = table_rows(html, "Data sets as used")[1:]
    assert row[1:5] == ["13,468", "3,000", "–", "–"]
    assert row[5] == "https://example.org/ms Licence: CC BY Warning: small"
    assert table_rows(html, "Files that entered")[1:] == [["ms.h5ad", "12", "0f" * 32]]
    assert table_rows(html, "Where this reproduction")[1:] == [
        ["Zeros", "kept", "left out", "speed"]
    ]


def test_sections_without_content_say_so_or_stay_away(context):
    for key in ("verdicts", "costs", "deviations", "notes"):
        context[key] = []
    task = context["tasks"][0]
    task["figures"], task["published"], task["comparisons"] = [], [], []
    page = Page(render(context))
    assert "No cost was recorded." in page.words
    assert "None declared." in page.words
    assert "claims" not in page.attributes("id")
    assert not [tag for tag, _ in page.tags if tag in ("img", "figure")]


def test_a_method_that_was_not_scored_is_noted(context):
    task = context["tasks"][0]
    extra = {"dataset": "ms", "method": "scgpt", "metric": "f1_per_type", "mean": 0.5}
    task["scores"] = [*task["scores"], extra]
    task["headline"] = ["accuracy", "f1_per_type"]
    (data,) = view_of(checked(context)).tasks[0].datasets
    assert data.methods[1].cells[1].score is None
    assert list(data.footnotes.notes) == ["not computed for this method"]
    assert not data.methods[0].cells[1].best


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("titel",), "x", "titel: Extra inputs"),
        (("tasks", 0, "scores", 0, "method"), "ghost", "method 'ghost' is not described"),
        (("tasks", 0, "scores", 0, "mean"), float("inf"), "finite number"),
        (("tasks", 0, "scores", 0, "metric"), 3, "tasks.0.scores.0.metric"),
        (("tasks", 0, "headline"), ["f2"], r"headline metrics \['f2'\] have no score"),
        (("tasks", 0, "figures", 0, "image"), "https://example.org/a.png", "figures.0.image"),
        (("tasks", 0, "figures", 0, "alt"), "", "figures.0.alt"),
        (("costs", 0, "dataset"), "gone", "Cost: dataset 'gone'"),
        (("provenance", "inputs", 0, "sha256"), "abc", "inputs.0.sha256"),
        (("methods", 0, "role"), "baseline", "methods.0.role"),
    ],
)
def test_contexts_that_do_not_fit_are_refused_by_name(context, path, value, message):
    place = context
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ContractError, match=message):
        render(context)


def test_all_problems_are_reported_at_once(context):
    del context["date"]
    context["methods"][0]["role"] = "baseline"
    with pytest.raises(ContractError, match=r"2 problems: .*date.*Field required|2 problems"):
        checked(context)
    with pytest.raises(ContractError) as error:
        checked(context)
    assert "date" in str(error.value)
    assert "methods.0.role" in str(error.value)


def test_missing_numbers_may_be_nan_and_text_may_be_nan(context):
    row = context["tasks"][0]["scores"][0]
    row |= {"standard_error": float("nan"), "note": float("nan"), "group": float("nan")}
    first = ReportContext.model_validate(context).tasks[0].scores[0]
    assert (first.standard_error, first.note, first.group) == (None, "", "")


def test_data_uri_holds_the_file(tmp_path):
    path = tmp_path / "figure.png"
    path.write_bytes(b"\x89PNG bytes")
    head, _, body = data_uri(path).partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(body) == b"\x89PNG bytes"
    with pytest.raises(ContractError, match="not '.pdf'"):
        data_uri(tmp_path / "figure.pdf")
    with pytest.raises(ContractError, match="no such figure"):
        data_uri(tmp_path / "other.svg")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (show.number(0.8565), "0.857"),
        (show.number(-0.25), "\u22120.250"),
        (show.number(-0.0001), "0.000"),
        (show.number(None), "–"),
        (show.signed(0.1), "+0.100"),
        (show.signed(-0.1), "\u22120.100"),
        (show.signed(0.00001), "0.000"),
        (show.interval(0.1, 0.2), "[0.100, 0.200]"),
        (show.interval(None, 0.2), "–"),
        (show.probability(0.0004), "<0.001"),
        (show.probability(0.04), "0.040"),
        (show.count(13468), "13,468"),
        (show.duration(4.25), "4.2 s"),
        (show.duration(59.6 * 60), "1 h 00 min"),
        (show.duration(7380), "2 h 03 min"),
        (show.memory(999), "999 MB"),
        (show.memory(1500), "1.5 GB"),
        (show.setting([1, None]), "[1, null]"),
        (show.setting("adam"), "adam"),
    ],
)
def test_formats(text, expected):
    assert text == expected


def test_references_become_links_and_nothing_else_does():
    assert show.linked("Cui 2024, 10.1038/s41592-024-02201-0.") == (
        'Cui 2024, <a href="https://doi.org/10.1038/s41592-024-02201-0" rel="noreferrer">'
        "10.1038/s41592-024-02201-0</a>."
    )
    assert show.linked("arXiv:1911.03347; x<y") == (
        '<a href="https://arxiv.org/abs/1911.03347" rel="noreferrer">arXiv:1911.03347</a>; x&lt;y'
    )
    assert show.linked("javascript:alert(1)") == "javascript:alert(1)"
    assert "href" not in show.linked("version 10.10 of 2024")
