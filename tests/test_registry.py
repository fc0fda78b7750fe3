"""The registry of archives: complete, well formed, and what it says of an archive that isn't there."""

import re
from pathlib import Path

import pytest

from modalign.datasets import registry, unpack
from modalign.datasets.registry import archive, describe_missing, fetch
from modalign.errors import ConfigError, DataError


def test_the_table_is_complete_and_its_checksums_are_well_formed():
    lengths = {"md5": 32, "sha512": 128}
    keys = set(registry.registry())
    assert {
        "synthrad2023-task1-pelvis",
        "synthrad2023-task2-brain",
        "ixi",
        "brats2019",
        "brats2020",
        "brats2021",
    } < keys
    assert {"brats2023", "learn2reg-abdomen-mr-ct", "cermep", "hanseg", "goldatlas"} < keys
    for entry in registry.registry().values():
        assert entry.licence
        assert entry.citation
        assert entry.home.startswith("http")
        assert entry.access in ("open", "registration", "request", "restricted")
        for file in entry.files:
            assert bool(file.urls) == (entry.access == "open")
            assert all(url.startswith("https://") for url in file.urls)
            algorithm, _, value = file.checksum.partition(":")
            if algorithm in lengths:
                assert re.fullmatch(f"[0-9a-f]{{{lengths[algorithm]}}}", value)
            else:
                assert algorithm in ("", "record")
            assert not file.unpack or entry.access != "open" or unpack.is_archive(file.name)
    assert [file.name for file in archive("ixi").files] == ["IXI-T1.tar", "IXI-T2.tar", "IXI-PD.tar"]
    assert archive("synthrad2023-task1-pelvis").files[0].size_bytes == 14471900926


def test_unknown_archive_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match="no archive 'ixi2'; the archives are: .*ixi, brats2019"):
        archive("ixi2")


def test_what_is_missing_is_described_with_everything_one_needs(tmp_path):
    text = describe_missing("cermep", tmp_path)
    for part in (
        "on request: https://doi.org/10.1186/s13550-021-00830-6",
        "Merida",
        f"archives: {{cermep: {{source: {tmp_path}}}}}",
    ):
        assert part in text
    assert "archives: {cermep: {source: phantom}}" in text
    assert "phantom" not in describe_missing("brats2021", tmp_path)
    assert describe_missing("mine", tmp_path).endswith("in config.yaml: archives: {mine: {source: ...}}")
    assert f"modalign fetch ixi --out {tmp_path} --accept-licence" in describe_missing("ixi", tmp_path)
    assert "IXI-T1.tar, 4.8 GB from https://biomedic" in describe_missing("ixi", tmp_path)
    with pytest.raises(DataError, match="It is given after registration: https://www.med.upenn.edu/cbica/brats2019"):
        fetch("brats2019", tmp_path, accept_licence=True)
    with pytest.raises(DataError, match="hanseg is published under: CC BY-NC-ND 4.0 .*`accept_licence: true`"):
        fetch("hanseg", tmp_path, accept_licence=False)
    assert not list(tmp_path.iterdir())


def test_the_registry_loads_without_heavy_libraries():
    import subprocess
    import sys

    code = (
        "import sys, modalign.datasets, modalign.datasets.registry as r; r.registry();"
        "print([m for m in ('torch', 'pandas', 'matplotlib', 'SimpleITK', 'nibabel', 'numpy') if m in sys.modules])"
    )
    source = str(Path(registry.__file__).parents[2])
    found = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": source}, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
