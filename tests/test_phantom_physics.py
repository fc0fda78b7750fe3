"""Phantom physics: MR signals by hand calculation, noise by its statistics, CT errors by what they must do."""

import math

import numpy as np
import pytest

from modalign.phantoms import ct, mr
from modalign.phantoms.anatomy import Anatomy, Structure
from modalign.phantoms.body_scans import covering, ct_scan, scan_twice
from modalign.phantoms.motion import Motion, random_motion
from modalign.phantoms.tissues import TISSUES, Tissue

SIMPLE = Tissue(t1_ms=1000, t2_ms=100, t2star_ms=50, proton_density=0.8, hu=0)


def rigid_motion() -> Motion:
    return random_motion(
        np.random.default_rng(0),
        np.array([(-96.0, -96, -8), (96, 96, 8)]),
        rotation_deg=0.0,
        translation_mm=0.0,
        deformation_mm=0.0,
    )


def disc(size: int = 96, slices: int = 2, radius: float = 40.0) -> np.ndarray:
    x = np.arange(size) - (size - 1) / 2
    inside = np.hypot(x[:, None], x[None, :]) < radius
    return np.repeat(np.where(inside, 0.0, -1000.0)[:, :, None], slices, axis=2)


class TestSignals:
    def test_spin_echo_by_hand(self) -> None:
        expected = 0.8 * (1 - math.exp(-0.5)) * math.exp(-0.2)
        assert mr.spin_echo(SIMPLE, tr_ms=500, te_ms=20) == pytest.approx(expected)

    def test_inversion_recovery_nulls_tissue_at_ln2_t1(self) -> None:
        null_ms = 1000 * math.log(2)
        assert mr.inversion_recovery(SIMPLE, ti_ms=null_ms, tr_ms=1e6, te_ms=10) == pytest.approx(0, abs=1e-9)
        assert mr.inversion_recovery(SIMPLE, ti_ms=1, tr_ms=1e6, te_ms=0) == pytest.approx(0.8 * 0.998, abs=1e-4)

    def test_spoiled_gradient_echo_is_the_limit_of_repeated_pulses(self) -> None:
        flip, e1, magnetisation = math.radians(30), math.exp(-10 / 1000), 1.0
        for _ in range(3000):
            magnetisation = magnetisation * math.cos(flip) * e1 + 1 - e1
        expected = 0.8 * magnetisation * math.sin(flip) * math.exp(-5 / 50)
        assert mr.spoiled_gradient_echo(SIMPLE, tr_ms=10, te_ms=5, flip_deg=30) == pytest.approx(expected, rel=1e-9)

    def test_spoiled_gradient_echo_peaks_at_the_ernst_angle(self) -> None:
        angles = np.linspace(1, 60, 600)
        signal = [mr.spoiled_gradient_echo(SIMPLE, tr_ms=20, te_ms=2, flip_deg=a) for a in angles]
        ernst = math.degrees(math.acos(math.exp(-20 / 1000)))
        assert angles[np.argmax(signal)] == pytest.approx(ernst, abs=0.1)

    def test_mprage_is_the_limit_of_a_simulated_sequence(self) -> None:
        flip, spacing, echoes, ti, tr = math.radians(9), 7.0, 120, 900.0, 2000.0

        def recover(m: float, ms: float) -> float:
            return 1 - (1 - m) * math.exp(-ms / 1000)

        m, seen = 1.0, 0.0
        for _ in range(50):
            m = recover(-m, ti - 60 * spacing)
            for echo in range(echoes):
                if echo == 60:
                    seen = m
                m = recover(m * math.cos(flip), spacing)
            m = recover(m, tr - ti - 60 * spacing)
        expected = 0.8 * abs(seen) * math.sin(flip) * math.exp(-3 / 50)
        found = mr.mprage(SIMPLE, ti, tr, 3, 9, echoes=echoes, echo_spacing_ms=spacing)
        assert found == pytest.approx(expected, rel=1e-6)

    def test_mprage_refuses_a_train_that_does_not_fit(self) -> None:
        with pytest.raises(ValueError, match="150 echoes 10.0 ms apart don't fit TI 500"):
            mr.mprage(SIMPLE, 500, 2000, 5.0, 9)

    @pytest.mark.parametrize("tesla", [1.5, 3.0])
    def test_contrasts_of_the_textbook(self, tesla: float) -> None:
        t1 = mr.signal_table("mprage", ti_ms=900, tr_ms=2300, te_ms=3, flip_deg=9, tesla=tesla)
        t2 = mr.signal_table("spin_echo", tr_ms=5000, te_ms=100, tesla=tesla)
        flair = mr.signal_table("inversion_recovery", ti_ms=2400, tr_ms=9500, te_ms=120, tesla=tesla)
        assert t1["fat"] > t1["white_matter"] > t1["deep_grey"] > t1["grey_matter"] > t1["csf"]
        assert t2["csf"] > t2["edema"] > t2["grey_matter"] > t2["white_matter"] > t2["muscle"]
        assert t2["prostate_peripheral"] > t2["prostate"]
        assert flair["edema"] > 1.2 * flair["grey_matter"]
        assert flair["grey_matter"] > 3 * flair["csf"]
        for table in (t1, t2, flair):
            assert table["cortical_bone"] < 0.15 * table["fat"]
            assert table["air"] == 0

    def test_relaxation_slows_at_3_tesla_but_not_in_fluid(self) -> None:
        # Rooney et al. 2007 report 1.5 T -> 4 T: white matter 656 -> about 960 ms.
        assert TISSUES["white_matter"].t1_at(4.0) == pytest.approx(960, rel=0.03)
        assert TISSUES["csf"].t1_at(3.0) == TISSUES["csf"].t1_ms

    def test_signal_table_says_what_it_knows(self) -> None:
        with pytest.raises(ValueError, match="there is no sequence 'epi'; the sequences are: spoiled_gradient_echo"):
            mr.signal_table("epi", tr_ms=1)
        with pytest.raises(ValueError, match=r"unknown parameters \['flip'\]: spin_echo takes \['tr_ms', 'te_ms'"):
            mr.signal_table("spin_echo", tr_ms=1, te_ms=1, flip=3)


class TestMrScanner:
    def test_noise_is_rayleigh_in_air_and_gaussian_in_tissue(self, rng: np.random.Generator) -> None:
        signal = np.zeros((64, 64, 20))
        signal[:, 32:] = 1.0
        image = mr.acquire_mr(signal, rng, snr=20)
        sigma = 1 / 20
        air, tissue = image[:, :32], image[:, 32:]
        assert air.mean() == pytest.approx(sigma * math.sqrt(math.pi / 2), rel=0.01)
        assert air.std() == pytest.approx(sigma * math.sqrt(2 - math.pi / 2), rel=0.02)
        # Gudbjartsson and Patz 1995: the Rician mean is sqrt(A^2 + sigma^2) for A >> sigma.
        assert tissue.mean() == pytest.approx(math.sqrt(1 + sigma**2), rel=1e-3)
        assert tissue.std() == pytest.approx(sigma, rel=0.02)

    def test_bias_field_is_smooth_with_the_given_peak(self, rng: np.random.Generator) -> None:
        field = mr.bias_field((40, 50, 30), rng, 0.3)
        assert field.max() == pytest.approx(1.3, abs=1e-5)
        assert field.min() == pytest.approx(0.7, abs=1e-5)
        assert max(np.abs(np.diff(field, axis=a)).max() for a in range(3)) < 0.1

    def test_ghosts_lie_a_quarter_of_the_field_of_view_apart(self) -> None:
        signal = np.zeros((4, 64, 4))
        signal[:, 8:12] = 1.0
        image = mr.acquire_mr(signal, np.random.default_rng(0), snr=1e6, ghosting=0.2)
        ghost = np.zeros(64, bool)
        for shift in (16, 32, 48):
            ghost[np.arange(8, 12) + shift] = True
        ghost_level, elsewhere = image[:, ghost].mean(), image[:, ~ghost & (np.arange(64) > 12)].mean()
        assert ghost_level == pytest.approx(0.05, rel=0.02)
        assert elsewhere < 1e-3


class TestCtScanner:
    def test_every_tissue_is_in_order(self) -> None:
        hu = ct.hu_table()
        assert hu["air"] < hu["lung"] < hu["fat"] < hu["csf"] < hu["white_matter"] < hu["grey_matter"] < hu["muscle"]
        assert hu["trabecular_bone"] < hu["diploe"] < hu["cortical_bone"] < hu["enamel"] < hu["metal"]

    def test_noise_has_the_given_sd_and_is_correlated_in_plane_only(self, rng: np.random.Generator) -> None:
        image = ct.acquire_ct(np.zeros((128, 128, 12)), rng, noise_hu=20, correlation_voxels=0.8).astype(float)
        assert image.std() == pytest.approx(20, rel=0.02)
        neighbours = np.corrcoef(image[1:].ravel(), image[:-1].ravel())[0, 1]
        # Two Gaussians of this sigma, one voxel apart: exp(-1 / (4 sigma^2)).
        assert neighbours == pytest.approx(math.exp(-1 / (4 * 0.8**2)), abs=0.05)
        assert abs(np.corrcoef(image[..., 1:].ravel(), image[..., :-1].ravel())[0, 1]) < 0.02

    def test_values_are_int16_within_the_scanners_range(self, rng: np.random.Generator) -> None:
        image = ct.acquire_ct(np.array([-1500.0, 0, 9000]).reshape(3, 1, 1), rng, noise_hu=0)
        assert image.dtype == np.int16
        assert image.ravel().tolist() == [-1024, 0, 3071]

    def test_blur_has_the_given_width(self, rng: np.random.Generator) -> None:
        edge = np.where(np.arange(80) < 40, 0.0, 1000.0)[:, None, None] * np.ones((1, 4, 4))
        image = ct.acquire_ct(edge, rng, noise_hu=0, blur_mm=2.0, spacing_mm=0.5).astype(float)
        slope = np.diff(image[:, 2, 2])
        position = np.arange(79) * 0.5
        mean = (position * slope).sum() / slope.sum()
        assert math.sqrt(((position - mean) ** 2 * slope).sum() / slope.sum()) == pytest.approx(2.0, rel=0.02)

    def test_air_is_less_noisy_than_the_middle_of_the_body(self, rng: np.random.Generator) -> None:
        body = disc()
        image = ct.acquire_ct(body + 500 * (body < -500), rng, noise_hu=20, air_noise=0.25).astype(float)
        centre, corner = image[44:52, 44:52], image[:8, :8]
        assert corner.std() == pytest.approx(5, rel=0.2)
        assert centre.std() == pytest.approx(20, rel=0.25)

    def test_cupping_is_a_parabola_across_a_disc(self) -> None:
        depth = ct.cupping(disc() > -500)[:, :, 0]
        radius = np.abs(np.arange(96) - 47.5)
        inner = radius < 36
        assert np.abs(depth[inner, 48] - (1 - (radius[inner] / 40) ** 2)).max() < 0.05
        assert depth[0].max() == 0

    def test_cone_beam_is_darkest_in_the_middle_and_empty_beyond_its_field(self, rng: np.random.Generator) -> None:
        image = ct.acquire_cbct(disc(), rng, 1.0, scatter=150, noise_hu=0, shift_hu=-20, fov_radius_mm=44).astype(float)
        centre, edge = image[44:52, 44:52].mean(), image[12:14, 44:52].mean()
        assert edge - centre == pytest.approx(150, abs=60)
        assert (image[:3, :3] == -1024).all()
        bowl = image[16:48, 48, 0]
        assert np.corrcoef(bowl, -np.arange(32) * (63.0 - np.arange(32)))[0, 1] > 0.9

    def test_truncation_piles_up_a_rim_where_the_body_is_cut(self, rng: np.random.Generator) -> None:
        cut = ct.acquire_cbct(disc(radius=46), rng, 1.0, scatter=0, noise_hu=0, fov_radius_mm=35, shift_hu=0)
        whole = ct.acquire_cbct(disc(radius=30), rng, 1.0, scatter=0, noise_hu=0, fov_radius_mm=35, shift_hu=0)
        assert cut[14, 48, 0] > cut[48, 48, 0] + 60
        assert abs(int(whole[20, 48, 0]) - int(whole[48, 48, 0])) < 20

    def test_beam_hardening_darkens_the_middle_of_a_body_by_so_much(self) -> None:
        grid = covering((48, 48, 4), (192.0, 192.0, 16.0), (0.0, 0.0, 0.0))
        ball = Anatomy((Structure("ball", "muscle", lambda p: np.hypot(p[0], p[1]) < 80),))
        pair = scan_twice(ball, rigid_motion(), (grid, grid), np.random.default_rng(0))
        plain, dark = (
            ct_scan(pair, pair.fixed, np.random.default_rng(1), (10, 10), beam_hardening=hu).astype(float)
            for hu in (0.0, 15.0)
        )
        difference = plain - dark
        assert difference[23:25, 23:25].mean() == pytest.approx(15, abs=1)
        assert abs(difference[:4]).max() == 0
        assert abs(difference[5:7, 23:25]).mean() < 5

    def test_a_field_off_the_middle_cuts_one_side(self, rng: np.random.Generator) -> None:
        options = {"scatter": 0, "noise_hu": 0, "shift_hu": 0, "fov_radius_mm": 40.0, "fov_centre_mm": (0.0, 8.0)}
        image = ct.acquire_cbct(disc(radius=38), rng, 1.0, **options)[:, :, 0]
        tissue = image[48, 10:86] > -500
        # The disc reaches from -38 to 38 mm about the middle (voxel 47.5), the field from -32 to 48 mm.
        assert tissue[:5].sum() == 0
        assert np.flatnonzero(tissue)[[0, -1]] + 10 == pytest.approx([16, 85], abs=1.5)
        assert (image[48, :15] == -1024).all()

    def test_metal_streaks_darken_between_two_implants_and_stay_in_their_slices(self) -> None:
        hu = disc(slices=3)
        metal = np.zeros(hu.shape, bool)
        for x in (28, 66):
            metal[x : x + 3, 46:50, 1] = True
        hu[metal] = 8000
        arguments = {"noise_hu": 0, "spacing_mm": 1.5}
        with_streaks = ct.acquire_ct(hu, np.random.default_rng(0), metal=metal, **arguments).astype(float)
        without = ct.acquire_ct(hu, np.random.default_rng(0), **arguments).astype(float)
        error = with_streaks - without
        assert error[36:60, 47:49, 1].mean() < -40
        assert abs(error[40:56, 70:80, 1].mean()) < 20
        assert not error[:, :, [0, 2]].any()
        assert not error[metal].any()
