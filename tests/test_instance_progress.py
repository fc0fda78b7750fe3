"""What takes long shows how far it is: volumes by iterations or stages, stacks of slices by slices."""

from contextlib import contextmanager

import numpy as np
import pytest
import scipy.ndimage as ndi

from modalign.cases import Case
from modalign.methods import Context, method_class
from modalign.volumes import Volume

LOCOR = {"schedule": (2, 0, 0, 2, 0, 0)}
CORRFIELD = {"preset": "small"}


@pytest.mark.parametrize(
    ("method", "options", "dimension", "bars"),
    [
        ("locor", LOCOR, 3, [("registration", 4, [1, 2, 3, 4])]),
        ("locor", LOCOR, 2, [("slices", 3, [1, 2, 3])]),
        ("corrfield", CORRFIELD, 3, [("stages", 2, [1, 2])]),
        ("corrfield", CORRFIELD, 2, [("stages", 6, [1, 2, 3, 4, 5, 6])]),
    ],
)
def test_bars_count_what_there_is_to_do(method, options, dimension, bars, rng, monkeypatch, capsys):
    shown = []

    @contextmanager
    def bar(total, step, active=True, label="training"):
        steps = []
        if active:
            shown.append((label, total, steps))
        yield lambda step, row: steps.append(step)

    shape = (20, 20, 16) if dimension == 3 else (28, 28, 3)
    smooth = 1.0 if dimension == 3 else (1.0, 1.0, 0.0)
    fixed, moving = (Volume(ndi.gaussian_filter(rng.normal(size=shape), smooth).astype(np.float32)) for _ in range(2))
    run = method_class(method)(options, dimension, Context())
    run.align(Case("a", fixed, moving))
    # Nothing where nobody looks on.
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("modalign.training.progress.progress_bar", bar)
    run.align(Case("a", fixed, moving))
    assert shown == bars
