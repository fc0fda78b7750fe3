"""Gliomas: a mass in one hemisphere, with a rim, a dead core and edema around it."""

import numpy as np

from modalign.phantoms.anatomy import Structure
from modalign.phantoms.brain import Brain
from modalign.phantoms.shapes import Distance, ellipsoid, intersection, rough, smooth_noise

_CORE_ML = {True: 34.0, False: 38.0}
"""Median volume of the tumour core in high-grade and in low-grade gliomas, before the skull and the falx cut it."""
_EDEMA_MM = {True: (6.0, 16.0), False: (4.0, 11.0)}
"""How far edema reaches beyond the core; less around low-grade gliomas."""


def glioma(rng: np.random.Generator, brain: Brain, high_grade: bool) -> tuple[Structure, ...]:
    """A brain with a glioma in one hemisphere, of the sizes in BraTS: whole tumours of 10 to 200 ml, median near 90 ml.

    Returns:
        The brain's structures with ``edema``, ``infiltrated_cortex``, ``enhancing`` (in high-grade tumours) and
        ``necrosis`` (or, in low-grade ones, the non-enhancing ``tumour_core``) in their places. Edema spreads through
        white matter and spares the cortex, but for the swollen gyri next to the mass.
    """
    side = rng.choice([-1.0, 1.0])
    centre = np.array([side * rng.uniform(30, 42), rng.uniform(-55, 36), rng.uniform(8, 36)])
    volume_mm3 = 1000 * np.clip(_CORE_ML[high_grade] * np.exp(rng.normal(0, 0.7)), 4, 110)
    aspect = np.exp(rng.normal(0, 0.15, 3))
    radii = (3 * volume_mm3 / (4 * np.pi)) ** (1 / 3) * aspect / np.prod(aspect) ** (1 / 3)
    # Edema follows the long tracts, most of which run from front to back.
    reach_mm = rng.uniform(*_EDEMA_MM[high_grade]) * np.array([0.9, 1.3, 0.9])
    noise, lobes = smooth_noise(rng, 9.0), smooth_noise(rng, 18.0)
    # The falx and the skull hold the tumour back.
    within = lambda shape: intersection(shape, lambda p: brain.white(p) + 0.5, lambda p: 1.5 - side * p[0])  # noqa: E731
    mass = within(rough(rough(ellipsoid(centre, radii), lobes, 3.0), noise, 1.2))
    edema = within(rough(rough(ellipsoid(centre, radii + reach_mm), lobes, 5.0), noise, 1.5))
    swollen = within(rough(ellipsoid(centre, radii + 0.6 * reach_mm), lobes, 4.0))
    margin = radii + reach_mm + 20
    box = np.array([centre - margin, centre + margin])

    def structure(name: str, tissue: str, shape: Distance) -> Structure:
        return Structure(name, tissue, lambda points: shape(points) < 0, box)

    if high_grade:
        rim = rng.uniform(3.0, 5.0)
        dead = lambda p: mass(p) + np.float32(rim) + 2.0 * noise(p)  # noqa: E731
        core = [structure("enhancing", "enhancing", mass), structure("necrosis", "necrosis", dead)]
    else:
        core = [structure("tumour_core", "tumour_core", mass)]
    around = {"white_matter": structure("edema", "edema", edema)}
    around["sulci"] = structure("infiltrated_cortex", "edema", swollen)
    result: list[Structure] = []
    for part in brain.structures:
        result.append(part)
        if part.name in around:
            result.append(around[part.name])
    # The mass comes last: it has squeezed nuclei and ventricle out of its place.
    return tuple(result + core)
