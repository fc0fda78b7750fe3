"""Gliomas: a mass in white matter, with a rim, a dead core and edema around it."""

import numpy as np

from modalign.phantoms.anatomy import Structure
from modalign.phantoms.brain import Brain
from modalign.phantoms.shapes import Distance, ellipsoid, intersection, rough, smooth_noise


def glioma(rng: np.random.Generator, brain: Brain, high_grade: bool) -> tuple[tuple[Structure, ...], np.ndarray]:
    """A glioma in one hemisphere's white matter.

    Returns:
        The brain's structures with ``edema``, ``enhancing`` (in high-grade tumours) and ``necrosis`` (or, in low-grade
        ones, the non-enhancing ``tumour_core``) in their places, and the tumour's centre (3,), mm. Edema spreads
        through white matter and spares the cortex.
    """
    side = rng.choice([-1.0, 1.0])
    centre = np.array([side * rng.uniform(28, 38), rng.uniform(-55, 38), rng.uniform(12, 38)])
    radii = rng.uniform(11, 19, 3) if high_grade else rng.uniform(12, 20, 3)
    noise, lobes = smooth_noise(rng, 9.0), smooth_noise(rng, 18.0)
    within = lambda shape: intersection(shape, lambda p: brain.white(p) + 0.5)  # noqa: E731
    mass = within(rough(rough(ellipsoid(centre.tolist(), radii.tolist()), lobes, 3.0), noise, 1.2))
    edema = within(
        rough(rough(ellipsoid(centre.tolist(), (radii + rng.uniform(9, 16)).tolist()), lobes, 6.0), noise, 1.5)
    )
    box = np.array([centre - 42, centre + 42])

    def structure(name: str, tissue: str, shape: Distance) -> Structure:
        return Structure(name, tissue, lambda points: shape(points) < 0, box)

    if high_grade:
        rim = rng.uniform(3.0, 5.0)
        dead = lambda p: mass(p) + np.float32(rim) + 2.0 * noise(p)  # noqa: E731
        core = [structure("enhancing", "enhancing", mass), structure("necrosis", "necrosis", dead)]
    else:
        core = [structure("tumour_core", "tumour_core", mass)]
    result: list[Structure] = []
    for part in brain.structures:
        result.append(part)
        if part.name == "white_matter":
            result.append(structure("edema", "edema", edema))
        if part.name == "sulci":
            result.extend(core)
    return tuple(result), centre
