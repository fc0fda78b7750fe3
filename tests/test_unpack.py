"""Unpacking archives: members that point outside, links and damage are refused."""

import io
import tarfile
import zipfile

import pytest
from remote_files import zipped

from modalign.datasets import unpack
from modalign.errors import DataError


@pytest.mark.parametrize("member", ["../evil", "/evil", "a/../../evil", "C:\\evil", "..\\evil"])
def test_members_that_point_outside_are_refused(tmp_path, member):
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(zipfile.ZipInfo(member), "evil")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        entry = tarfile.TarInfo(member)
        entry.size = 4
        tar.addfile(entry, io.BytesIO(b"evil"))
    for name in ("a.zip", "a.tar"):
        with pytest.raises(DataError, match="points outside the folder it is unpacked to"):
            unpack.unpack(tmp_path / name, tmp_path / "in")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.tar", "a.zip", "in"]


def test_links_damage_and_other_files_are_refused(tmp_path):
    with tarfile.open(tmp_path / "link.tar", "w") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
    with pytest.raises(DataError, match="member link of the archive is a link or a device"):
        unpack.unpack(tmp_path / "link.tar", tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as file:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = 0o120777 << 16
        file.writestr(entry, "/etc")
    with pytest.raises(DataError, match="member link of the archive is a link"):
        unpack.unpack(tmp_path / "link.zip", tmp_path / "out")
    content = bytearray(zipped(a=b"x" * 5000))
    content[40] ^= 0xFF
    (tmp_path / "bad.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"bad.zip is damaged \(.*\): remove it and fetch it again"):
        unpack.unpack(tmp_path / "bad.zip", tmp_path / "out")
    (tmp_path / "page.zip").write_text("<html>please log in</html>")
    with pytest.raises(DataError, match="page.zip is damaged"):
        unpack.unpack(tmp_path / "page.zip", tmp_path / "out")
    (tmp_path / "good.zip").write_bytes(zipped(a="x"))
    with pytest.raises(DataError, match="has no member like Task1/"):
        unpack.unpack(tmp_path / "good.zip", tmp_path / "out", "Task1/*")
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out/d").symlink_to(tmp_path)
    (tmp_path / "through.zip").write_bytes(zipped(d__x="x"))
    with pytest.raises(DataError, match="leads outside .* through a link: remove the link"):
        unpack.unpack(tmp_path / "through.zip", tmp_path / "out")
