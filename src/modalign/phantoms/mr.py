"""MR signal equations, and what an MR scanner adds to the signal."""

import inspect
from collections.abc import Callable

import numpy as np

from modalign.phantoms.tissues import TISSUES, Tissue


def spoiled_gradient_echo(tissue: Tissue, tr_ms: float, te_ms: float, flip_deg: float, tesla: float = 1.5) -> float:
    """Steady-state signal of a spoiled gradient echo, relative to fully relaxed water.

    ``PD sin(a) (1 - E1) / (1 - cos(a) E1) exp(-TE / T2*)`` with ``E1 = exp(-TR / T1)``.
    Source: Ernst and Anderson 1966; Bernstein et al., Handbook of MRI Pulse Sequences, Eq. 14.10.
    """
    flip = np.deg2rad(flip_deg)
    e1 = np.exp(-tr_ms / tissue.t1_at(tesla))
    longitudinal = (1 - e1) / (1 - np.cos(flip) * e1)
    return float(tissue.proton_density * np.sin(flip) * longitudinal * np.exp(-te_ms / tissue.t2star_ms))


def spin_echo(tissue: Tissue, tr_ms: float, te_ms: float, tesla: float = 1.5) -> float:
    """Signal of a spin echo with TE much shorter than TR, relative to fully relaxed water.

    ``PD (1 - exp(-TR / T1)) exp(-TE / T2)``. For a fast spin echo, `te_ms` is the effective echo time.
    Source: Bernstein et al., Handbook of MRI Pulse Sequences, Eq. 14.50.
    """
    recovery = 1 - np.exp(-tr_ms / tissue.t1_at(tesla))
    return float(tissue.proton_density * recovery * np.exp(-te_ms / tissue.t2_ms))


def inversion_recovery(tissue: Tissue, ti_ms: float, tr_ms: float, te_ms: float, tesla: float = 1.5) -> float:
    """Magnitude signal of an inversion recovery spin echo (FLAIR, STIR), relative to fully relaxed water.

    ``PD |1 - 2 exp(-TI / T1) + exp(-TR / T1)| exp(-TE / T2)``.
    Source: Bernstein et al., Handbook of MRI Pulse Sequences, Eq. 14.36.
    """
    t1_ms = tissue.t1_at(tesla)
    recovery = 1 - 2 * np.exp(-ti_ms / t1_ms) + np.exp(-tr_ms / t1_ms)
    return float(tissue.proton_density * abs(recovery) * np.exp(-te_ms / tissue.t2_ms))


def mprage(
    tissue: Tissue,
    ti_ms: float,
    tr_ms: float,
    te_ms: float,
    flip_deg: float,
    *,
    tesla: float = 1.5,
    echoes: int = 150,
    echo_spacing_ms: float | None = None,
) -> float:
    """Magnitude signal at the centre of the echo train of an MPRAGE, relative to fully relaxed water.

    One cycle is an ideal inversion, a wait, `echoes` small flips `echo_spacing_ms` apart (by default twice TE), and a
    wait until `tr_ms` is over. Each step maps the longitudinal magnetisation linearly, so that the steady state is the
    fixed point of their composition. `ti_ms` runs from the inversion to the central echo.

    Raises:
        ValueError: the echo train doesn't fit between the inversion and the end of the cycle.

    Source: Deichmann et al. 2000 (doi 10.1006/nimg.2000.0601), solved for the steady state.
    """
    t1_ms, flip = tissue.t1_at(tesla), np.deg2rad(flip_deg)
    spacing_ms = 2 * te_ms if echo_spacing_ms is None else echo_spacing_ms
    before = echoes // 2
    wait_ms = ti_ms - before * spacing_ms
    rest_ms = tr_ms - ti_ms - (echoes - before) * spacing_ms
    if wait_ms < 0 or rest_ms < 0:
        message = f"{echoes} echoes {spacing_ms} ms apart don't fit TI {ti_ms} ms and TR {tr_ms} ms"
        raise ValueError(message)

    def recover(state: tuple[float, float], time_ms: float) -> tuple[float, float]:
        e1 = float(np.exp(-time_ms / t1_ms))
        return state[0] * e1, state[1] * e1 + 1 - e1

    def train(state: tuple[float, float], count: int) -> tuple[float, float]:
        # count times "flip, then recover": a geometric series.
        e1 = float(np.exp(-spacing_ms / t1_ms))
        factor = float(np.cos(flip)) * e1
        power = factor**count
        return state[0] * power, state[1] * power + (1 - e1) * (1 - power) / (1 - factor)

    # A state (a, b) stands for a * M + b, where M is the magnetisation at the end of the cycle.
    central = train(recover((-1.0, 0.0), wait_ms), before)
    slope, offset = recover(train(central, echoes - before), rest_ms)
    steady = offset / (1 - slope)
    magnetisation = abs(central[0] * steady + central[1])
    return float(tissue.proton_density * magnetisation * np.sin(flip) * np.exp(-te_ms / tissue.t2star_ms))


SEQUENCES: dict[str, Callable[..., float]] = {
    f.__name__: f for f in (spoiled_gradient_echo, spin_echo, inversion_recovery, mprage)
}


def signal_table(sequence: str | Callable[..., float], **parameters: float) -> dict[str, float]:
    """The signal of every tissue in a sequence, given by name or as a function, with the sequence's parameters.

    Raises:
        ValueError: there is no such sequence, or a parameter isn't one of its.
    """
    if isinstance(sequence, str):
        if sequence not in SEQUENCES:
            raise ValueError(f"there is no sequence {sequence!r}; the sequences are: {', '.join(SEQUENCES)}")
        sequence = SEQUENCES[sequence]
    known = list(inspect.signature(sequence).parameters)[1:]
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise ValueError(f"unknown parameters {unknown}: {sequence.__name__} takes {known}")
    return {name: sequence(tissue, **parameters) for name, tissue in TISSUES.items()}


def acquire_mr(
    signal: np.ndarray, rng: np.random.Generator, *, snr: float, bias: float = 0.0, ghosting: float = 0.0
) -> np.ndarray:
    """An MR magnitude image of a noise-free signal: coil shading, ghosts, Rician noise.

    Args:
        signal: (X, Y, Z), not negative.
        rng: where noise and shading come from.
        snr: mean signal of the object (voxels over a tenth of the 99th percentile) over the noise sd of one channel.
        bias: peak relative deviation of the smooth multiplicative coil shading from 1.
        ghosting: relative amplitude loss of every fourth phase-encoding line (along array axis 1), 0 to 1.

    Returns:
        (X, Y, Z) float32, not negative. Where there is no signal, noise is Rayleigh distributed with mean
        ``sigma sqrt(pi / 2)`` (Gudbjartsson and Patz 1995).
    """
    image = signal.astype(np.float32)
    if bias:
        image *= bias_field(image.shape, rng, bias)
    if ghosting:
        lines = np.fft.fft(image, axis=1)
        # The centre of k-space keeps its strength, or the ghost would only be a loss of brightness.
        lines[:, 2::4] *= 1 - ghosting
        image = np.abs(np.fft.ifft(lines, axis=1)).astype(np.float32)
    top = float(np.percentile(image, 99))
    sigma = float(image[image > 0.1 * top].mean()) / snr if top > 0 else 1.0 / snr
    image += rng.normal(0, sigma, image.shape).astype(np.float32)
    imaginary = rng.normal(0, sigma, image.shape).astype(np.float32)
    return np.hypot(image, imaginary)


def bias_field(shape: tuple[int, ...], rng: np.random.Generator, peak: float) -> np.ndarray:
    """A smooth random field, ``1 + b`` with the largest ``|b|`` equal to `peak`, made of first to third order terms."""
    axes = [np.linspace(-1, 1, n) for n in shape]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    field = np.zeros(shape)
    for i in range(4):
        for j in range(4 - i):
            for k in range(4 - i - j):
                if i + j + k:
                    field += rng.normal(0, 1 / (i + j + k)) * x**i * y**j * z**k
    field -= (field.max() + field.min()) / 2
    return (1 + peak * field / max(float(np.abs(field).max()), 1e-9)).astype(np.float32)
