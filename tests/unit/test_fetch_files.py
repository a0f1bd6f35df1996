"""What surrounds a transfer: lock file, local copies, offline, mirror, archives, findings."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from scgpt.errors import DownloadError
from scgpt.fetch.fetch import check, describe, fetch
from scgpt.fetch.policy import Policy
from scgpt.fetch.record import exclusive
from scgpt.plan.config import FileSpec

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from fault_server import Fault, running

TABLE = b"gene,cell\nTP53,3\n"
OTHER = b"gene,cell\nTP53,4\n"
SHA256, OTHER_SHA256 = (hashlib.sha256(text).hexdigest() for text in (TABLE, OTHER))
FAST = Policy(sleep=lambda _: None, attempts=2, spare_bytes=0)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in ("SCGPT_OFFLINE", "SCGPT_LOCAL_DATA", "SCGPT_MIRROR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    with running() as found:
        yield found


class Desk:
    def __init__(self, root):
        self.root, self.folder, self.lock = root, root / "raw" / "ms", root / "downloads.lock"

    def fetch(self, *urls, name="t.csv", folder=None, known=None, **options):
        files = {name: FileSpec(urls=list(urls), **known or {})}
        options = {"lock": self.lock, "policy": FAST, "progress": False} | options
        return fetch(files, folder or self.folder, **options)[name].read_bytes()

    def entries(self):
        return json.loads(self.lock.read_text())["files"]


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


class TestLockFile:
    def test_first_download_is_enforced_ever_after(self, server, desk):
        url = server.add("/t", TABLE)
        desk.fetch(url)
        (desk.folder / "t.csv").unlink()
        server.add("/t", OTHER)
        with pytest.raises(DownloadError) as caught:
            desk.fetch(url)
        message = str(caught.value)
        assert f"sha256 is {OTHER_SHA256}, expected {SHA256} (from {desk.lock})" in message
        assert f"or remove 'ms/t.csv' from {desk.lock}" in message
        assert list(desk.folder.iterdir()) == []
        assert desk.entries()["ms/t.csv"]["sha256"] == SHA256

    def test_text_is_the_same_whatever_the_order(self, server, desk):
        url, other = server.add("/t", TABLE), server.add("/o", OTHER)
        texts = []
        for order in ((url, other), (other, url)):
            shutil.rmtree(desk.folder, ignore_errors=True)
            desk.lock.unlink(missing_ok=True)
            for source in order:
                name = "t.csv" if source == url else "o.csv"
                desk.fetch(source, name=name)
            texts.append(desk.lock.read_bytes())
        assert texts[0] == texts[1]
        assert list(desk.entries()) == ["ms/o.csv", "ms/t.csv"]

    def test_configuration_and_lock_must_agree(self, server, desk):
        url = server.add("/t", TABLE)
        desk.fetch(url)
        known = {"sha256": OTHER_SHA256}
        with pytest.raises(DownloadError, match="remove the entry 'ms/t.csv'"):
            desk.fetch(url, known=known)
        (finding,) = check({"t.csv": FileSpec(urls=[url], **known)}, desk.folder, desk.lock)
        assert finding.status == "conflict"

    @pytest.mark.parametrize("text", ["{", "[]", '{"format": 9, "files": {}}', '{"format": 1}'])
    def test_damaged_lock_stops_everything(self, server, desk, text):
        desk.lock.write_text(text)
        with pytest.raises(DownloadError, match="not a readable lock file.*restore it"):
            desk.fetch(server.add("/t", TABLE))
        assert not (desk.folder / "t.csv").exists()
        assert desk.lock.read_text() == text

    def test_empty_lock_is_a_new_one(self, server, desk):
        desk.lock.touch()
        desk.fetch(server.add("/t", TABLE))
        assert set(desk.entries()) == {"ms/t.csv"}

    def test_file_is_not_published_unless_it_is_recorded(self, server, desk):
        url = server.add("/t", TABLE)
        with pytest.raises(DownloadError, match=f"pin sha256 {SHA256} in the configuration"):
            desk.fetch(url, lock=Path("/proc/downloads.lock"))
        assert not (desk.folder / "t.csv").exists()

    def test_waiter_does_not_take_a_replaced_file_for_the_lock(self, tmp_path):
        path, waits, entered = tmp_path / "lock", threading.Event(), threading.Event()

        def wait():
            with exclusive(path, on_wait=waits.set):
                entered.set()

        waiter = threading.Thread(target=wait)
        with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
            first.enter_context(exclusive(path))
            waiter.start()
            assert waits.wait(10)
            (tmp_path / "new").touch()
            (tmp_path / "new").replace(path)
            second.enter_context(exclusive(path))
            first.close()
            assert not entered.wait(0.2)
            second.close()
            assert entered.wait(10)
        waiter.join()

    @pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
    def test_file_system_without_locks_can_be_used(self, tmp_path, monkeypatch, number):
        def flock(_descriptor, _how):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr("fcntl.flock", flock)
        with exclusive(tmp_path / "lock", temporary=True):
            assert (tmp_path / "lock").exists()
        assert list(tmp_path.iterdir()) == []

    def test_password_is_neither_recorded_nor_shown(self, server, desk, capsys):
        secret = server.add("/t", TABLE).replace("://", "://me:secret@")
        desk.fetch(secret, progress=True)
        gone = secret.replace("/t", "/gone")
        with pytest.raises(DownloadError) as caught:
            desk.fetch(gone, name="g.csv", progress=True)
        output = "".join(capsys.readouterr())
        assert "fetching" in output
        assert "secret" not in output + str(caught.value) + desk.lock.read_text()


class TestFilesThatAreThere:
    def test_are_verified_not_fetched(self, server, desk):
        url = server.add("/t", TABLE)
        desk.fetch(url)
        assert desk.fetch(url) == TABLE
        assert server.n_requests("/t") == 1

    def test_changed_one_is_an_error_and_stays(self, server, desk):
        url = server.add("/t", TABLE)
        desk.fetch(url)
        (desk.folder / "t.csv").write_bytes(OTHER)
        with pytest.raises(DownloadError, match="delete it and run again"):
            desk.fetch(url)
        assert (desk.folder / "t.csv").read_bytes() == OTHER

    def test_placed_by_hand_is_checked_and_recorded(self, desk):
        desk.folder.mkdir(parents=True)
        (desk.folder / "t.csv").write_bytes(TABLE)
        assert desk.fetch("http://127.0.0.1:9/t") == TABLE
        assert desk.entries()["ms/t.csv"]["url"] == "placed by hand"
        (desk.folder / "x.h5ad").write_bytes(TABLE)
        with pytest.raises(DownloadError, match="text data; expected HDF5"):
            desk.fetch("http://127.0.0.1:9/t", name="x.h5ad")

    def test_partial_file_is_never_one_of_them(self, server, desk):
        desk.folder.mkdir(parents=True)
        (desk.folder / "t.csv.part").write_bytes(OTHER)
        assert desk.fetch(server.add("/t", TABLE)) == TABLE


class TestLocalAndOffline:
    @pytest.mark.parametrize("place", ["t.csv", "ms/t.csv"])
    def test_local_folder_comes_first(self, server, desk, monkeypatch, place):
        path = desk.root / "mine" / place
        path.parent.mkdir(parents=True)
        path.write_bytes(TABLE)
        monkeypatch.setenv("SCGPT_LOCAL_DATA", str(desk.root / "mine"))
        monkeypatch.setenv("SCGPT_OFFLINE", "1")
        assert desk.fetch("https://example.org/t") == TABLE
        assert desk.entries()["ms/t.csv"]["url"] == "local copy"
        assert path.exists()

    def test_wrong_local_copy_is_passed_over_and_told(self, server, desk, capsys):
        (desk.root / "mine").mkdir()
        (desk.root / "mine" / "t.csv").write_bytes(OTHER)
        url = server.add("/t", TABLE)
        known = {"sha256": SHA256}
        assert desk.fetch(url, known=known, local=desk.root / "mine", progress=True) == TABLE
        assert f"sha256 is {OTHER_SHA256}" in capsys.readouterr().err
        (desk.folder / "t.csv").unlink()
        with pytest.raises(DownloadError, match=rf"mine/t.csv: sha256 is {OTHER_SHA256}"):
            desk.fetch(url, known=known, local=desk.root / "mine", offline=True)

    def test_missing_local_folder_is_an_error(self, desk):
        with pytest.raises(DownloadError, match=r"no such folder.*SCGPT_LOCAL_DATA"):
            desk.fetch("https://example.org/t", local=desk.root / "nowhere")

    def test_file_url(self, desk):
        path = desk.root / "my table.csv"
        path.write_bytes(TABLE)
        url = path.as_uri()
        assert "%20" in url
        assert desk.fetch(url, offline=True) == TABLE
        with pytest.raises(DownloadError, match="no such file"):
            desk.fetch("file:///nowhere/t.csv", name="u.csv", offline=True)

    @pytest.mark.parametrize("by", ["argument", "environment"])
    def test_offline_names_urls_and_places(self, server, desk, monkeypatch, by):
        url = server.add("/t", TABLE)
        drive = "https://drive.google.com/file/d/ABC"
        if by == "environment":
            monkeypatch.setenv("SCGPT_OFFLINE", "true")
        with pytest.raises(DownloadError) as caught:
            desk.fetch(url, drive, "s3://bucket/t", offline=by == "argument")
        message = str(caught.value)
        assert message.count("not tried: offline") == 3
        for expected in (url, drive, f"put it at {desk.folder / 't.csv'}, and run again"):
            assert expected in message
        assert server.log == []


class TestMirror:
    URLS = (
        ("https://figshare.com/ndownloader/files/1?x=2", "/figshare.com/ndownloader/files/1?x=2"),
        ("s3://bucket/a/t.csv", "/bucket.s3.amazonaws.com/a/t.csv"),
        ("https://drive.google.com/file/d/ID/view", "/drive.google.com/uc?id=ID"),
        (
            "https://drive.google.com/drive/folders/F#a b.csv",
            "/drive.google.com/drive/folders/F/a%20b.csv",
        ),
        (
            "geo:GSE154763:GSE154763_MYE.csv.gz",
            "/ftp.ncbi.nlm.nih.gov/geo/series/GSE154nnn/GSE154763/suppl/GSE154763_MYE.csv.gz",
        ),
    )

    @pytest.mark.parametrize(("url", "path"), URLS)
    def test_every_remote_source_is_mapped(self, server, desk, monkeypatch, url, path):
        server.add(path, TABLE)
        monkeypatch.setenv("SCGPT_MIRROR", server.base + "/")
        assert desk.fetch(url) == TABLE
        assert [logged for logged, _ in server.log] == [path]
        assert desk.entries()["ms/t.csv"]["url"] == url

    def test_ordinary_mirror_enforces_everything(self, server, desk):
        server.add("/example.org/t", OTHER)
        with pytest.raises(DownloadError, match=f"expected {SHA256}"):
            desk.fetch("https://example.org/t", known={"sha256": SHA256}, mirror=server.base)

    def test_rehearsal_keeps_apart_from_the_real_thing(self, server, desk):
        server.add("/example.org/t", OTHER)
        mirror = "rehearsal+" + server.base
        known = {"sha256": SHA256, "size": 999}
        assert desk.fetch("https://example.org/t", known=known, mirror=mirror) == OTHER
        assert not desk.lock.exists()
        rehearsed = desk.lock.with_name("downloads.lock.rehearsal")
        assert set(json.loads(rehearsed.read_text())["files"]) == {"ms/t.csv"}
        with pytest.raises(DownloadError, match="stand-in files of a rehearsal; delete the folder"):
            desk.fetch("https://example.org/t")
        files = {"t.csv": FileSpec(urls=["https://example.org/t"])}
        assert check(files, desk.folder, desk.lock)[0].status == "rehearsal"

    def test_rehearsal_leaves_real_files_alone(self, server, desk):
        desk.fetch(server.add("/t", TABLE))
        server.add("/example.org/t", OTHER)
        with pytest.raises(DownloadError, match="rehearse in another folder"):
            desk.fetch("https://example.org/t", mirror="rehearsal+" + server.base)
        assert check({"t.csv": FileSpec(urls=["https://x.org/t"])}, desk.folder, desk.lock)[0].is_ok

    def test_rehearsed_archive_is_not_taken_for_the_real_one(self, server, desk):
        server.add("/x.org/a.zip", zipped(**{"t.csv": OTHER}))
        url = "https://x.org/a.zip#t.csv"
        assert desk.fetch(url, mirror="rehearsal+" + server.base) == OTHER
        shutil.rmtree(desk.folder)
        with pytest.raises(DownloadError, match=r"\.archives: holds stand-in files"):
            desk.fetch(url)

    @pytest.mark.parametrize(
        ("mirror", "match"),
        [
            ("rehearsal+http://example.org", "must be on this machine"),
            ("127.0.0.1:80", "is not understood"),
            ("file:///x", "is not understood"),
        ],
    )
    def test_wrong_mirror_is_refused(self, desk, mirror, match):
        with pytest.raises(DownloadError, match=match):
            desk.fetch("https://example.org/t", mirror=mirror)


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


class TestMembersOfArchives:
    def test_zip_of_zips_is_fetched_once_for_all_data_sets(self, server, desk):
        inner = {
            f"Fig2/{name}.zip": zipped(**{f"{name}/t.csv": table})
            for name, table in (("ms", TABLE), ("mye", OTHER))
        }
        url = server.add("/files/43939560", zipped(**inner))
        ms, mye = (f"{url}#Fig2/{name}.zip#{name}/t.csv" for name in ("ms", "mye"))
        assert desk.fetch(ms) == TABLE
        assert desk.fetch(mye, folder=desk.root / "raw" / "mye") == OTHER
        assert server.n_requests("/files/43939560") == 1
        keys = [key.split("/")[0] for key in desk.entries()]
        assert keys == ["archives", "ms", "mye"]
        assert desk.entries()["ms/t.csv"]["url"] == ms
        assert [path.name for path in desk.folder.iterdir()] == ["t.csv"]

    def test_missing_member_names_what_is_there_and_the_next_source_is_tried(self, server, desk):
        url = server.add("/a.zip", zipped(**{"x/t.csv": TABLE}))
        with pytest.raises(DownloadError, match="no member y.csv; it holds x/t.csv"):
            desk.fetch(f"{url}#y.csv")
        assert desk.fetch(f"{url}#y.csv", server.add("/t", TABLE)) == TABLE

    def test_archive_must_be_one(self, server, desk):
        url = server.add("/a.zip", b"<html><title>Login</title></html>")
        with pytest.raises(DownloadError, match=r"a web page \('Login'\); expected archive data"):
            desk.fetch(f"{url}#t.csv")
        assert not (desk.folder / "t.csv").exists()

    def test_bomb_in_an_archive_is_a_failed_source(self, server, desk):
        url = server.add("/a.zip", zipped(**{"t.csv": b"0," * 5_000_000}))
        policy = Policy(max_unpacked=1_000_000)
        with pytest.raises(DownloadError, match=r"unpacks to more than 1.0 MB"):
            desk.fetch(f"{url}#t.csv", policy=policy)
        assert list(desk.folder.iterdir()) == []

    def test_offline_with_the_archive_at_hand(self, server, desk):
        url = server.add("/a.zip", zipped(**{"x/t.csv": TABLE}))
        desk.fetch(f"{url}#x/t.csv")
        (desk.folder / "t.csv").unlink()
        assert desk.fetch(f"{url}#x/t.csv", offline=True) == TABLE
        with pytest.raises(DownloadError, match=r"b.zip: not tried: offline"):
            desk.fetch(f"{server.base}/b.zip#x/t.csv", name="u.csv", offline=True)

    def test_missing_archive_is_told_once_with_one_place(self, server, desk, capsys):
        url = f"{server.base}/b.zip#x/t.csv"
        with pytest.raises(DownloadError) as caught:
            desk.fetch(url, offline=True, progress=True)
        assert str(caught.value).splitlines() == [
            "ms/t.csv: no source delivered the file",
            f"  {url}: its archive did not arrive ({server.base}/b.zip: not tried: offline)",
            f"To provide it by hand, put it at {desk.folder / 't.csv'}, and run again. "
            f"Or unset SCGPT_OFFLINE to use the network.",
        ]
        assert capsys.readouterr().err == ""
        mine = desk.root / "mine"
        mine.mkdir()
        with pytest.raises(DownloadError, match=f"put it at {mine / 'ms/t.csv'}, and") as caught:
            desk.fetch(url, offline=True, local=mine)
        assert str(caught.value).count("put it at") == 1
        with pytest.raises(DownloadError) as caught:
            desk.fetch("geo:GSE1:t.csv", offline=True)
        assert str(caught.value).count("not tried") == 1

    def test_archive_that_was_replaced_says_what_to_remove(self, server, desk):
        body = zipped(**{"x/t.csv": TABLE})
        url = server.add("/a.zip", body)
        desk.fetch(f"{url}#x/t.csv")
        server.add("/a.zip", body[:10] + bytes([body[10] ^ 1]) + body[11:])  # another time stamp
        (desk.folder / "t.csv").unlink()
        next(path for path in desk.root.rglob("*a.zip")).unlink()
        with pytest.raises(DownloadError, match=r"remove 'archives/.*a.zip' from") as caught:
            desk.fetch(f"{url}#x/t.csv")
        assert str(caught.value).count("put it at") == 1


class TestFindings:
    def test_every_state_of_a_file(self, server, desk):
        urls = {name: server.add(f"/{name}", TABLE) for name in "abcdef"}
        files = {f"{name}.csv": FileSpec(urls=[url]) for name, url in urls.items()}
        files["f.csv"] = FileSpec(urls=["gopher://x/y"])
        for name in "ab":
            desk.fetch(urls[name], name=f"{name}.csv")
        (desk.folder / "b.csv").write_bytes(OTHER)
        (desk.folder / "c.csv").write_bytes(TABLE)
        (desk.folder / "d.csv.part").write_bytes(TABLE[:5])
        before = sorted(desk.folder.rglob("*"))
        findings = check(files, desk.folder, desk.lock)
        states = [finding.status for finding in findings]
        assert states == ["ok", "wrong", "unrecorded", "incomplete", "missing", "conflict"]
        assert [finding.is_ok for finding in findings] == [True] + [False] * 5
        assert f"expected {SHA256}" in findings[1].message
        assert "5 bytes" in findings[3].message
        assert sorted(desk.folder.rglob("*")) == before

    def test_description(self, server, desk):
        url = server.add("/t", TABLE)
        desk.fetch(url)
        files = {
            "t.csv": FileSpec(urls=[url]),
            "u.csv": FileSpec(urls=["s3://b/u", "geo:GSE1:u"], size=7, license="CC0"),
        }
        known, new = describe(files, desk.folder, desk.lock)
        assert (known.is_present, known.size, known.sha256) == (True, len(TABLE), SHA256)
        assert known.known_from == str(desk.lock)
        assert (new.is_present, new.size, new.license) == (False, 7, "CC0")
        assert new.known_from == "the configuration"
        assert new.sources == ("s3://b/u", "geo:GSE1:u")

    def test_all_files_are_tried_and_all_failures_told(self, server, desk):
        files = {
            "a.csv": FileSpec(urls=[server.base + "/gone"]),
            "b.csv": FileSpec(urls=[server.add("/b", TABLE)]),
            "c.csv": FileSpec(urls=[server.add("/c", b"", always=Fault(status=403))]),
        }
        with pytest.raises(DownloadError) as caught:
            fetch(files, desk.folder, lock=desk.lock, policy=FAST, progress=False)
        assert "ms/a.csv: no source" in str(caught.value)
        assert "ms/c.csv: no source" in str(caught.value)
        assert [path.name for path in desk.folder.iterdir()] == ["b.csv"]


def test_progress_in_a_log_is_plain_lines(server, desk, capsys):
    desk.fetch(server.add("/t", TABLE), progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "\r" not in captured.err
    assert captured.err.splitlines()[-1].startswith("ms/t.csv: 17 bytes from http://127.0.0.1")


@pytest.mark.parametrize("name", ["../t.csv", "a/t.csv", ".hidden", "t.csv.part", "..", "a\\b"])
def test_names_that_leave_the_folder_are_refused(desk, name):
    with pytest.raises(DownloadError, match="cannot be the name"):
        desk.fetch("https://example.org/t", name=name)


def test_folder_that_cannot_be_made_is_told_in_one_line(server, desk):
    (desk.root / "raw").write_text("a file in the way")
    with pytest.raises(DownloadError, match="check the folder, its permissions and the disk"):
        desk.fetch(server.add("/t", TABLE))
