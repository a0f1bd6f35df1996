"""Downloads in processes of their own: killed, two at once, on a disk that is full."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from scgpt.fetch.fetch import fetch
from scgpt.plan.config import FileSpec

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from fault_server import Fault, running

BODY = b"\x93NUMPY" + np.random.default_rng(0).bytes(3_000_000)
SCRIPT = """
import resource, sys
from scgpt.plan.config import FileSpec
from scgpt.fetch.fetch import fetch
from scgpt.fetch.policy import Policy
from scgpt.errors import ScgptError
folder, lock, url, limit = sys.argv[1:]
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    fetch({"x.npy": FileSpec(urls=[url])}, folder, lock=lock, policy=Policy(spare_bytes=0))
except ScgptError as error:
    sys.exit(f"error: {error}")
"""


@pytest.fixture
def server():
    with running() as found:
        yield found


@pytest.fixture
def start(tmp_path):
    """Start a process that fetches; whatever is left of it is killed at the end."""
    processes = []

    def begin(url, *, folder=tmp_path / "ms", limit=0):
        arguments = [str(folder), str(tmp_path / "downloads.lock"), url, str(limit)]
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "SCGPT_MIRROR": "", "SCGPT_OFFLINE": "", "SCGPT_LOCAL_DATA": ""},
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_killed_download_is_continued_by_the_same_call(server, start, tmp_path):
    url = server.add("/x", BODY, Fault(stop=1_000_000))
    part = tmp_path / "ms" / "x.npy.part"
    process = start(url)
    wait_until(lambda: part.exists() and part.stat().st_size >= 500_000)
    process.send_signal(signal.SIGKILL)
    process.wait()
    held = part.stat().st_size
    assert sorted(path.name for path in part.parent.iterdir()) == [
        ".fetch.lock",
        "x.npy.part",
        "x.npy.part.info",
    ]
    assert not (tmp_path / "downloads.lock").exists()
    again = start(url)
    assert again.wait(30) == 0, again.stderr.read()
    assert (tmp_path / "ms" / "x.npy").read_bytes() == BODY
    assert server.ranges("/x") == ["", f"bytes={held}-"]
    assert [path.name for path in part.parent.iterdir()] == ["x.npy"]


def test_two_processes_fetch_the_same_file_once(server, start, tmp_path):
    url = server.add("/x", BODY, Fault(pause=1.0))
    first, second = start(url), start(url)
    texts = [process.communicate(timeout=30)[1] for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], texts
    assert server.n_requests("/x") == 1
    assert (tmp_path / "ms" / "x.npy").read_bytes() == BODY
    assert [path.name for path in (tmp_path / "ms").iterdir()] == ["x.npy"]
    assert sum("waiting for another process" in text for text in texts) == 1


def test_processes_that_record_at_once_lose_no_entry(server, start, tmp_path):
    url = server.add("/x", BODY)
    processes = [start(url, folder=tmp_path / f"set{i}") for i in range(3)]
    for process in processes:
        assert process.wait(60) == 0, process.stderr.read()
    files = json.loads((tmp_path / "downloads.lock").read_text())["files"]
    assert list(files) == [f"set{i}/x.npy" for i in range(3)]
    assert {entry["sha256"] for entry in files.values()} == {hashlib.sha256(BODY).hexdigest()}
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["downloads.lock", "set0", "set1", "set2"]


def test_file_size_limit_reached_in_the_middle(server, start, tmp_path):
    url = server.add("/x", BODY)
    process = start(url, limit=1_000_000)
    error = process.communicate(timeout=30)[1].splitlines()[-1]
    assert process.returncode == 1
    assert "no room left on the disk (File too large); free some space" in error
    assert not (tmp_path / "ms" / "x.npy").exists()
    assert not (tmp_path / "downloads.lock").exists()
    assert (tmp_path / "ms" / "x.npy.part").stat().st_size == 1_000_000
    again = start(url)
    assert again.wait(30) == 0, again.stderr.read()
    assert (tmp_path / "ms" / "x.npy").read_bytes() == BODY
    assert server.ranges("/x") == ["", "bytes=1000000-"]


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of 1 MB, where this is allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("length", [True, False])
def test_full_disk(server, start, small_disk, tmp_path, length):
    url = server.add("/x", BODY, length=length)
    process = start(url, folder=small_disk / "ms")
    error = process.communicate(timeout=30)[1].splitlines()[-1]
    assert process.returncode == 1
    assert ("needs 3.0 MB" if length else "no room left on the disk (No space left") in error
    left = {path.name for path in (small_disk / "ms").iterdir()}
    assert left <= {"x.npy.part", "x.npy.part.info"}
    assert not (tmp_path / "downloads.lock").exists()


def test_full_disk_while_unpacking(small_disk, tmp_path):
    import gzip

    from scgpt.errors import DownloadError
    from scgpt.fetch.archives import unpack

    archive = tmp_path / "x.csv.gz"
    archive.write_bytes(gzip.compress(b"0," * 2_000_000, mtime=0))
    with pytest.raises(DownloadError, match="no room left on the disk"):
        unpack(archive, small_disk / "out", max_bytes=10**9, max_members=10)
    assert list(small_disk.iterdir()) == []


def test_interrupt_keeps_the_part_and_nothing_else(server, tmp_path):
    url = server.add("/x", BODY, Fault(stop=1_000_000))
    part, main = tmp_path / "ms" / "x.npy.part", threading.main_thread().ident

    def press_key():
        wait_until(lambda: part.exists() and part.stat().st_size >= 500_000)
        signal.pthread_kill(main, signal.SIGINT)

    finger = threading.Thread(target=press_key)
    # A shell starts background jobs with this signal ignored, and Python keeps it so.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    finger.start()
    files, lock = {"x.npy": FileSpec(urls=[url])}, tmp_path / "downloads.lock"
    try:
        with pytest.raises(KeyboardInterrupt):
            fetch(files, tmp_path / "ms", lock=lock, progress=False)
    finally:
        finger.join()
        signal.signal(signal.SIGINT, before)
    left = sorted(path.name for path in part.parent.iterdir())
    assert left == ["x.npy.part", "x.npy.part.info"]
    assert not lock.exists()
