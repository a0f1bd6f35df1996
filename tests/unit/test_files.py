"""Files are written whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from scgpt.errors import ContractError
from scgpt.files import atomic_path, canonical_json, read_json, sha256_file, write_json


def test_failed_write_leaves_the_old_file_and_no_trace(tmp_path):
    target = tmp_path / "result.json"
    write_json(target, {"a": 1})
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert read_json(target) == {"a": 1}
    assert os.listdir(tmp_path) == ["result.json"]


def test_kill_in_the_middle_of_a_write_leaves_no_result(tmp_path):
    code = textwrap.dedent(
        """
        import os, signal, sys
        from scgpt.files import atomic_path
        with atomic_path(sys.argv[1]) as temporary:
            temporary.write_text("half a file")
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    target = tmp_path / "result.tsv"
    done = subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not target.exists()


def test_full_disk_is_an_error_and_leaves_no_result(tmp_path):
    code = textwrap.dedent(
        """
        import resource, signal, sys
        from scgpt.files import write_text
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        write_text(sys.argv[1], "x" * 100_000)
        """
    )
    target = tmp_path / "result.tsv"
    done = subprocess.run(
        [sys.executable, "-c", code, str(target)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert os.listdir(tmp_path) == []


def test_json_is_canonical_and_refuses_nan(tmp_path):
    assert canonical_json({"b": 1, "a": [1.5, None]}) == '{"a":[1.5,null],"b":1}'
    with pytest.raises(ValueError, match="NaN|nan|not JSON compliant"):
        canonical_json({"a": float("nan")})


def test_broken_json_names_the_file(tmp_path):
    path = tmp_path / "run.json"
    path.write_text('{"a": ')
    with pytest.raises(ContractError, match="run.json: not a JSON file"):
        read_json(path)
    with pytest.raises(ContractError, match="no such file"):
        read_json(tmp_path / "absent.json")


def test_digest_is_sha256(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert sha256_file(path).startswith("ba7816bf8f01cfea")
