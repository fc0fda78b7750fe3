"""Files appear whole or not at all."""

import os
import subprocess
import sys

import pytest

from modalign.errors import ModalignError, WriteError
from modalign.files import check_writable, read_json, replacing, sha256, write_json
from modalign.seeds import derive_seed, generator


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_nan_is_not_written_as_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_a_folder_that_is_a_file_is_refused_by_name(tmp_path):
    (tmp_path / "results").write_text("a file")
    with pytest.raises(WriteError, match=r"results/.*choose another folder"):
        check_writable(tmp_path / "results" / "run")


@pytest.mark.skipif(not os.path.ismount("/dev/shm") or os.geteuid() != 0, reason="needs root to mount a tiny disk")
def test_a_full_disk_is_named(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(WriteError, match="No space left on device.*Free some space"):
            write_json(disk / "big.json", ["x" * 1000] * 200)
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", disk], check=True)


def test_missing_and_broken_json_are_named(tmp_path):
    with pytest.raises(ModalignError, match=r"nothing\.json does not exist"):
        read_json(tmp_path / "nothing.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ModalignError, match=r"bad\.json is not valid JSON"):
        read_json(tmp_path / "bad.json")


def test_sha256_of_known_bytes(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_seeds_depend_on_purpose_and_not_on_the_process():
    here = derive_seed(0, "ixi", "IXI002", "misalignment")
    code = "from modalign.seeds import derive_seed; print(derive_seed(0, 'ixi', 'IXI002', 'misalignment'))"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    assert here == int(there)
    assert len({derive_seed(s, "a", "b") for s in range(100)}) == 100
    assert derive_seed(0, "a", "bc") != derive_seed(0, "ab", "c")
    assert generator(1, "x").normal() == generator(1, "x").normal()
