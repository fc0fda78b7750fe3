"""The registry of measures: functions, options and names."""

import subprocess
import sys

import pytest

from modalign.errors import ConfigError
from modalign.metrics import MEASURES, measure_by_name


class TestRegistry:
    def test_every_function_exists_and_takes_its_options(self):
        import inspect

        for m in MEASURES.values():
            parameters = list(inspect.signature(m.load()).parameters)
            given = {"set": 3}.get(m.scope, 2 if m.features else 1)
            assert parameters[given:] == list(m.options), m.name

    def test_random_variants_are_labelled(self):
        assert measure_by_name("fid_random").label == "FID (random features)"
        with pytest.raises(ConfigError, match="no measure 'gc_random'"):
            measure_by_name("gc_random")

    def test_importing_it_loads_nothing_heavy(self):
        heavy = "torch", "cv2", "monai", "pandas", "skimage", "SimpleITK", "matplotlib", "scipy", "torchmetrics"
        code = f"import sys, modalign.metrics; print([m for m in {heavy!r} if m in sys.modules])"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert result.stdout.strip() == "[]"
