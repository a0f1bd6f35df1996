"""Written forms of sources, and the mirror."""

from __future__ import annotations

import pytest

from scgpt.errors import DownloadError
from scgpt.fetch.sources import parse_sources, shown

ID = "1Qd42YNabzyr2pWt9xoY4cVMTAxsNBt4v"


@pytest.mark.parametrize(
    ("written", "transport", "address", "entry", "members"),
    [
        ("https://zenodo.org/records/1/files/a.h5ad", "http", None, "", ()),
        ("https://x.org/a?format=file&file=b%5Fc", "http", None, "", ()),
        ("http://cf.10xgenomics.com/a.tar.gz", "http", None, "", ()),
        ("file:///data/a%20b.csv", "file", "/data/a b.csv", "", ()),
        ("s3://bucket/k/a b", "http", "https://bucket.s3.amazonaws.com/k/a b", "", ()),
        ("s3://my.bucket/k", "http", "https://s3.amazonaws.com/my.bucket/k", "", ()),
        (f"https://drive.google.com/file/d/{ID}/view?usp=sharing", "drive", ID, "", ()),
        (f"https://drive.google.com/uc?export=download&id={ID}", "drive", ID, "", ()),
        (f"https://drive.google.com/open?id={ID}", "drive", ID, "", ()),
        (f"https://drive.google.com/drive/folders/{ID}#a.pt", "drive-folder", ID, "a.pt", ()),
        (f"https://drive.google.com/drive/u/0/folders/{ID}#a", "drive-folder", ID, "a", ()),
        (
            f"https://drive.google.com/drive/folders/{ID}#a.zip#b/c",
            "drive-folder",
            ID,
            "a.zip",
            ("b/c",),
        ),
        (
            "https://x.org/a.zip#b.zip#c/d%23e",
            "http",
            "https://x.org/a.zip",
            "",
            ("b.zip", "c/d#e"),
        ),
    ],
)
def test_written_forms(written, transport, address, entry, members):
    (source,) = parse_sources(written)
    assert source.transport == transport
    assert source.address == (address or written)
    assert (source.entry, source.members) == (entry, members)
    assert source.written == written
    assert source.is_remote == (transport != "file")


@pytest.mark.parametrize(
    ("accession", "folder"),
    [
        ("GSE154763", "series/GSE154nnn/GSE154763"),
        ("GSE1", "series/GSEnnn/GSE1"),
        ("GSM2406675", "samples/GSM2406nnn/GSM2406675"),
    ],
)
def test_geo_has_two_addresses(accession, folder):
    first, second = parse_sources(f"geo:{accession}:a_b+c.csv.gz")
    assert first.address == f"https://ftp.ncbi.nlm.nih.gov/geo/{folder}/suppl/a_b%2Bc.csv.gz"
    assert second.address == (
        f"https://www.ncbi.nlm.nih.gov/geo/download/?acc={accession}&format=file&file=a_b%2Bc.csv.gz"
    )


@pytest.mark.parametrize(
    "written",
    [
        "",
        "t.csv",
        "/data/t.csv",
        "gopher://x/y",
        "ftp://x.org/y",
        "https:///x",
        "geo:GSE1",
        "geo:X1:a",
        "geo:GSE1:a:b",
        "s3://bucket",
        "s3://bucket/soma/",
        "https://drive.google.com/",
        f"https://drive.google.com/drive/folders/{ID}",
    ],
)
def test_other_forms_are_refused_with_the_expected_one(written):
    with pytest.raises(DownloadError, match="expected|add '#'"):
        parse_sources(written)


def test_archives_are_kept_under_one_name_for_all_members():
    url = "https://figshare.com/ndownloader/files/43939560"
    sources = [parse_sources(f"{url}#{member}")[0] for member in ("a.zip#x", "b.zip#y/z")]
    assert {source.container().written for source in sources} == {url}
    assert {source.archive_name() for source in sources} == {
        "figshare.com_ndownloader_files_43939560"
    }


def test_credentials_are_not_shown():
    assert shown("https://me:secret@x.org:21/a?b#c") == "https://x.org:21/a?b#c"
    assert shown("https://x.org/@a") == "https://x.org/@a"
