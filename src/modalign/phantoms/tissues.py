"""What tissues are made of, as far as MR and CT can tell.

Relaxation times are for 1.5 T. Measured values come from Stanisz et al. 2005 (doi 10.1002/mrm.20605: muscle, blood,
cartilage, spinal cord), de Bazelaire et al. 2004 (doi 10.1148/radiol.2303021331: liver, spleen, kidney, prostate,
uterus, marrow), Rooney et al. 2007 (doi 10.1002/mrm.21122: grey and white matter, CSF, and how T1 grows with the
field), Gold et al. 2004 (doi 10.2214/ajr.183.2.1830343: fat, with the long apparent T2 that fast spin echo shows) and
Reichert et al. 2005 (doi 10.1016/j.mri.2005.01.013: cortical bone). CT numbers are the centres of the ranges in
radiology textbooks for 120 kV without contrast agent. Where no measurement is at hand (mucosa, parotid, stool, tumour
parts), the value is the one that gives the tissue its usual grey on T1w, T2w and CT.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tissue:
    """One tissue's physical properties.

    Attributes:
        t1_ms: longitudinal relaxation time at 1.5 T.
        t2_ms: transverse relaxation time, as spin echoes see it.
        t2star_ms: transverse relaxation time, as gradient echoes see it.
        proton_density: visible protons relative to water, 0 to 1.
        hu: CT number in Hounsfield units.
        texture: how much the tissue varies within itself: relative standard deviation of its MR signal, 0 to 1.
        t1_exponent: T1 grows with the field to this power (Rooney et al. 2007); 0 for fluids.
    """

    t1_ms: float
    t2_ms: float
    t2star_ms: float
    proton_density: float
    hu: float
    texture: float = 0.0
    t1_exponent: float = 0.38

    def t1_at(self, tesla: float) -> float:
        """T1 in ms at another field strength, by the power law of Rooney et al. 2007, Eq. 3."""
        return self.t1_ms * (tesla / 1.5) ** self.t1_exponent


TISSUES: dict[str, Tissue] = {
    "air": Tissue(1000, 10, 1, 0.0, -1000),
    "gas": Tissue(1000, 10, 1, 0.0, -980),
    "lung": Tissue(1200, 40, 1.5, 0.20, -780, 0.15),
    # Organs of the whole body.
    "fat": Tissue(290, 165, 60, 0.90, -100, 0.07, 0.15),
    "skin": Tissue(900, 35, 15, 0.70, 10, 0.05),
    "muscle": Tissue(1008, 44, 30, 0.80, 55, 0.09),
    "ligament": Tissue(600, 8, 3, 0.40, 90, 0.05),
    "cartilage": Tissue(1024, 30, 20, 0.75, 100, 0.04),
    "blood": Tissue(1441, 220, 120, 0.85, 45, 0.02),
    "cortical_bone": Tissue(200, 1.0, 0.5, 0.20, 1250, 0.12),
    "trabecular_bone": Tissue(350, 70, 15, 0.75, 230, 0.15, 0.15),
    "red_marrow": Tissue(549, 49, 15, 0.70, 180, 0.12),
    "metal": Tissue(1000, 1, 0.1, 0.0, 8000),
    # Pelvis.
    "urine": Tissue(3500, 1200, 800, 1.0, 5, 0.0, 0.0),
    "prostate": Tissue(1317, 88, 55, 0.85, 40, 0.12),
    "prostate_peripheral": Tissue(1500, 135, 80, 0.90, 36, 0.08),
    "seminal_vesicle": Tissue(1600, 190, 100, 0.90, 28, 0.15),
    "uterus": Tissue(1309, 117, 60, 0.87, 52, 0.10),
    "bowel_wall": Tissue(1100, 60, 30, 0.80, 42, 0.06),
    "bowel_content": Tissue(1500, 150, 40, 0.80, 20, 0.15),
    "stool": Tissue(700, 55, 15, 0.65, 15, 0.30),
    # Abdomen.
    "liver": Tissue(586, 46, 25, 0.80, 58, 0.05),
    "spleen": Tissue(1057, 79, 45, 0.85, 50, 0.04),
    "kidney_cortex": Tissue(966, 87, 50, 0.85, 36, 0.04),
    "kidney_medulla": Tissue(1412, 85, 50, 0.88, 30, 0.04),
    "pancreas": Tissue(584, 46, 30, 0.80, 42, 0.10),
    "stomach_content": Tissue(1800, 250, 60, 0.85, 20, 0.15),
    "intervertebral_disc": Tissue(1100, 90, 40, 0.80, 80, 0.06),
    "spinal_cord": Tissue(745, 74, 50, 0.75, 35, 0.02),
    # Head.
    "csf": Tissue(4070, 1500, 800, 1.0, 8, 0.0, 0.0),
    "grey_matter": Tissue(1188, 95, 65, 0.82, 38, 0.03),
    "white_matter": Tissue(656, 72, 55, 0.70, 29, 0.025),
    "deep_grey": Tissue(950, 82, 50, 0.78, 40, 0.03),
    "brainstem": Tissue(760, 76, 50, 0.72, 30, 0.04),
    "dura": Tissue(900, 30, 15, 0.55, 60, 0.03),
    "diploe": Tissue(400, 60, 15, 0.60, 550, 0.20, 0.15),
    "parotid": Tissue(560, 85, 45, 0.82, -5, 0.12),
    "gland": Tissue(850, 90, 50, 0.85, 35, 0.06),
    "mucosa": Tissue(1150, 150, 60, 0.90, 40, 0.08),
    "eye_vitreous": Tissue(3800, 1100, 600, 1.0, 8, 0.0, 0.0),
    "lens": Tissue(1000, 30, 20, 0.60, 80, 0.0),
    "sclera": Tissue(900, 40, 25, 0.65, 60, 0.03),
    "enamel": Tissue(500, 0.3, 0.1, 0.05, 2500, 0.03),
    "dentine": Tissue(500, 0.8, 0.3, 0.10, 1600, 0.03),
    # Glioma; "enhancing" is before contrast agent, "enhancing_contrast" after it.
    "edema": Tissue(1450, 150, 95, 0.86, 23, 0.05),
    "tumour_core": Tissue(1500, 135, 85, 0.85, 32, 0.08),
    "necrosis": Tissue(2300, 260, 160, 0.93, 18, 0.08),
    "enhancing": Tissue(1350, 115, 70, 0.84, 38, 0.06),
    "enhancing_contrast": Tissue(400, 95, 60, 0.84, 60, 0.10),
    "blood_contrast": Tissue(250, 100, 60, 0.85, 150, 0.02),
}
"""The tissues that phantoms are made of, by name."""
