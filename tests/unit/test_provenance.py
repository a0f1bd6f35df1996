"""Run records name everything that decides a result."""

from __future__ import annotations

from scgpt.steps import provenance


def test_records_are_complete():
    versions = provenance.package_versions()
    # Clusterings, neighbours, projections and graph networks decide scores as well.
    named = {"leidenalg", "igraph", "umap-learn", "pynndescent", "lightning", "torch-geometric"}
    assert named <= set(versions)
    assert versions["leidenalg"] != "not installed"
    assert versions["torch"].startswith("2.")
    assert provenance.hardware()["n_cores"] >= 1
    assert provenance.peak_memory()["peak_rss_bytes"] > 1_000_000
