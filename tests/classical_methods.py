"""The classical methods, and the pairs that their tests share."""

from functools import cache

from registration_pairs import contrast_pair

from modalign.methods import Context, method_class
from modalign.volumes import axis_aligned


def make(name, options=None, dimension=3, **context):
    cls = method_class(name)
    if cls.needs:
        context.setdefault("needs", {"translator": method_class("intensity_map")({}, dimension)})
    return cls(options, dimension, Context(**context))


@cache
def volume_pair():
    return contrast_pair(axis_aligned((32, 32, 24), (1.5, 1.5, 2.0)))


@cache
def slice_pair():
    return contrast_pair(axis_aligned((64, 64, 2), (1.0, 1.0, 3.0)), in_plane=True)
