"""Hostile and damaged archives: nothing outside the folder, nothing without bounds, all or none."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile

import pytest

from scgpt.errors import DataError
from scgpt.fetch.archives import unpack

FILES = {"a/one.txt": b"one\n" * 100, "a/b/two.txt": b"two\n", "three.txt": b""}


def zipped(files, **options) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(files=(), infos=()) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in dict(files).items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in infos:
            archive.addfile(info)
    return buffer.getvalue()


def tar_entry(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


FORMATS = {
    "zip": zipped,
    "tar": tarred,
    "tar.gz": lambda files: gzip.compress(tarred(files), mtime=0),
    "tar.bz2": lambda files: bz2.compress(tarred(files)),
    "tar.xz": lambda files: lzma.compress(tarred(files)),
}


class Desk:
    def __init__(self, root):
        self.root, self.folder = root / "in", root / "in" / "out"
        self.root.mkdir()

    def unpack(self, content, name="x.archive", **options):
        archive = self.root / name
        archive.write_bytes(content)
        options = {"max_bytes": 10**6, "max_members": 100} | options
        return unpack(archive, self.folder, **options)

    def refuses(self, content, match, **options):
        before = self.everything()
        with pytest.raises(DataError, match=match):
            self.unpack(content, **options)
        (self.root / options.get("name", "x.archive")).unlink()
        assert self.everything() == before

    def everything(self):
        return sorted(self.root.parent.rglob("*"))


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


@pytest.mark.parametrize("form", FORMATS)
def test_all_files_come_out(desk, form):
    paths = desk.unpack(FORMATS[form](FILES))
    assert {name: path.read_bytes() for name, path in paths.items()} == FILES
    assert {path.relative_to(desk.folder).as_posix() for path in paths.values()} == set(FILES)
    assert sorted(path.name for path in desk.root.iterdir()) == ["out", "x.archive"]


@pytest.mark.parametrize("form", FORMATS)
def test_chosen_members_only(desk, form):
    paths = desk.unpack(FORMATS[form](FILES), members=["a/b/two.txt"])
    assert list(paths) == ["a/b/two.txt"]
    assert [p for p in desk.folder.rglob("*") if p.is_file()] == list(paths.values())


@pytest.mark.parametrize("form", FORMATS)
def test_missing_member_names_what_is_there(desk, form):
    desk.refuses(FORMATS[form](FILES), r"no member b.txt; it holds a/one.txt", members=["b.txt"])


@pytest.mark.parametrize(
    ("name", "pack"), [("t.csv.gz", gzip.compress), ("t.csv.bz2", bz2.compress)]
)
def test_single_compressed_file(desk, name, pack):
    assert desk.unpack(pack(b"x,y\n") + pack(b"1,2\n"), name=name)["t.csv"].read_bytes() == (
        b"x,y\n1,2\n"
    )


def test_archives_in_archives(desk):
    deepest = gzip.compress(tarred(FILES), mtime=0)
    outer = zipped({"d/ms.zip": zipped({"ms/t.csv": b"1", "deep.tar.gz": deepest}), "top": b"2"})
    wanted = ["d/ms.zip#ms/t.csv", "d/ms.zip#deep.tar.gz#a/one.txt", "top"]
    paths = desk.unpack(outer, members=wanted)
    assert [paths[name].read_bytes() for name in wanted] == [b"1", FILES["a/one.txt"], b"2"]
    found = {p.relative_to(desk.folder).as_posix() for p in desk.folder.rglob("*") if p.is_file()}
    assert found == {"d/ms/deep.tar/a/one.txt", "d/ms/ms/t.csv", "top"}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/tmp/evil", "a/b/../../../evil", "C:/evil", "..\\evil"]
)
def test_paths_out_of_the_folder(desk, form, name):
    desk.refuses(FORMATS[form]({"fine": b"1", name: b"2"}), "outside the folder")


@pytest.mark.parametrize("target", ["/etc/passwd", "../../evil", "fine"])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_in_tar(desk, kind, target):
    content = tarred({"fine": b"1"}, [tar_entry("link", kind, target)])
    desk.refuses(content, "'link' is a link or a device")


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_in_tar(desk, kind):
    desk.refuses(tarred({}, [tar_entry("null", kind)]), "'null' is a link or a device")


def test_write_through_a_link(desk):
    # The classic: a link to a folder outside, then a file "below" the link.
    content = tarred({}, [tar_entry("a", tarfile.SYMTYPE, "../..")]) + tarred({"a/evil": b"1"})
    desk.refuses(content, "link or a device")


def test_links_in_zip(desk):
    info = zipfile.ZipInfo("link")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    desk.refuses(buffer.getvalue(), "'link' is a link or a device")


@pytest.mark.parametrize("form", FORMATS)
def test_bomb_is_stopped_at_the_bound(desk, form):
    content = FORMATS[form]({"bomb": b"\0" * 5_000_000})
    desk.refuses(content, r"unpacks to more than 1.0 MB \(max_bytes\)")


def test_gzip_bomb(desk):
    desk.refuses(gzip.compress(b"\0" * 5_000_000, mtime=0), "unpacks to more than", name="x.csv.gz")


def test_zip_that_lies_about_its_sizes(desk):
    content = bytearray(zipped({"bomb": b"\0" * 5_000_000}))
    # The uncompressed size stands at offset 22 of the local header, at 24 of the directory entry.
    for position in (22, content.rfind(b"PK\x01\x02") + 24):
        content[position : position + 4] = (1000).to_bytes(4, "little")
    before = desk.everything()
    with pytest.raises(DataError, match="damaged or cut off"):
        desk.unpack(bytes(content))
    assert [p for p in desk.everything() if p not in before] == [desk.root / "x.archive"]


def test_bomb_inside_an_inner_archive(desk):
    inner = zipped({"bomb": b"\0" * 5_000_000})
    desk.refuses(zipped({"i.zip": inner}), "unpacks to more than", members=["i.zip#bomb"])


def test_sparse_tar_bomb(desk):
    # An old GNU sparse entry: 512 bytes stored stand for 5 GB of zeros.
    info = tarfile.TarInfo("bomb")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, 512)
    header[483:495] = b"%011o\0" % 5_000_000_000
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    content = bytes(header) + b"x" * 512 + b"\0" * 1024
    desk.refuses(content, "unpacks to more than")


@pytest.mark.parametrize("form", FORMATS)
def test_too_many_members(desk, form):
    content = FORMATS[form]({f"f{i}": b"" for i in range(101)})
    desk.refuses(content, r"more than 100 members \(max_members\)")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kept", [0.3, 0.7])
def test_cut_archive(desk, form, kept):
    content = FORMATS[form]({f"f{i}": os.urandom(2000) for i in range(10)})
    desk.refuses(content[: int(len(content) * kept)], "damaged or cut off")


def test_damaged_content_is_found_by_its_checksum(desk):
    content = bytearray(zipped({"f": os.urandom(2000)}))
    content[1000] ^= 1
    desk.refuses(bytes(content), "damaged or cut off")


def test_same_name_twice(desk):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("f", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("f", b"2")
    desk.refuses(buffer.getvalue(), "'f' twice")
    desk.refuses(zipped({"f": b"1", "./f": b"2"}), "claim the path 'f'")
    desk.refuses(zipped({"f": b"1", "f/g": b"2"}), "claim the path")


def test_encrypted_member(desk):
    content = bytearray(zipped({"f": b"1"}))
    for position in (6, content.rfind(b"PK\x01\x02") + 8):
        content[position] |= 1
    desk.refuses(bytes(content), "'f' is encrypted")


@pytest.mark.parametrize("content", [b"", b"gene,cell\n", b"<html>"])
def test_no_archive_at_all(desk, content):
    desk.refuses(content, "expected a zip, tar or gzip archive")


def test_full_folder_is_left_alone(desk):
    desk.folder.mkdir()
    desk.unpack(zipped(FILES))  # an empty one is fine
    with pytest.raises(DataError, match="exists and is not empty"):
        desk.unpack(zipped({"new": b"1"}))
    assert not (desk.folder / "new").exists()


def test_leftovers_of_a_killed_run_are_removed(desk):
    stale = desk.root / ".out.unpacking"
    stale.mkdir()
    (stale / "half").write_bytes(b"1")
    paths = desk.unpack(zipped({"f": b"1"}))
    assert [path.name for path in desk.folder.iterdir()] == ["f"]
    assert not stale.exists()
    assert paths["f"].stat().st_mode & 0o111 == 0


@pytest.mark.parametrize("form", FORMATS)
def test_pattern_finds_the_one_member_it_matches(desk, form):
    paths = desk.unpack(FORMATS[form](FILES), members=["*/two.*"])
    assert paths["*/two.*"].read_bytes() == b"two\n"
    assert sorted(p.name for p in desk.folder.rglob("*") if p.is_file()) == ["two.txt"]


def test_pattern_finds_an_inner_archive_and_its_member(desk):
    outer = zipped({"x/data-20240103T1-001.zip": zipped(FILES), "x/other.zip": zipped({})})
    member = "x/data-*.zip#*two.txt"
    paths = desk.unpack(outer, members=[member])
    assert paths[member].read_bytes() == b"two\n"


@pytest.mark.parametrize(("pattern", "n"), [("a/*", 2), ("*.csv", 0), ("[a]*", 0)])
def test_pattern_must_match_one_member(desk, pattern, n):
    desk.refuses(zipped(FILES), f"{n} members match", members=[pattern])
