"""How a site's generated frames look: light, optics, mucosa and lesions, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np

Rgb = tuple[float, float, float]
"""Linear red, green, blue; 1 is a white surface in full light."""


class FieldOfView(StrEnum):
    """The shape that an endoscope shows on its black screen."""

    CIRCLE = "circle"
    OCTAGON = "octagon"
    CROPPED_CIRCLE = "cropped-circle"


@dataclass(frozen=True, slots=True)
class SiteLook:
    """What the frames of one site have in common.

    Lengths are in units of half the frame's shorter side.

    Attributes
    ----------
    mucosa, blood
        Colours of pale and of well-supplied mucosa; every point lies between.
    light_colour
        Multiplies what the mucosa reflects: the lamp and the white balance.
    light_x, light_y
        Where the lamp sits beside the lens.
    falloff
        How fast the light fades with distance from the lamp's axis.
    exposure, gamma
        The camera's response: `1 - exp(-exposure * light)`, then the power `1 / gamma`.
    field_of_view, radius
        Shape and radius of the visible field.
    distortion
        Barrel distortion, the factor of r squared.
    vignetting
        Light lost at the rim, in [0, 1].
    blur
        Standard deviation of the lens' and motion's blur, in thousandths of the shorter side.
    noise
        Standard deviation of the sensor's noise, in grey levels.
    jpeg_quality
        Of the recorder, 1 to 95.
    specular
        Amount of wet highlights, in [0, 1].
    folds, fold_depth
        Folds per e-fold of depth, and how deep they are.
    vessels, bubbles
        Strength of the vessels in [0, 1]; bubbles per frame, at most.
    lesion_size
        Smallest and largest half axis.
    lesion_contrast
        How far a lesion's colour goes from the mucosa towards `lesion_colour`, in [0, 1].
    lesion_colour
        Where to.
    lesion_height
        How far a polyp rises, relative to its half axis; a flat lesion rises a sixth of it.
    lesion_roughness
        Of outline and surface, in [0, 1].
    flat_share, empty_share
        Share of flat ones among lesions, and of scenes without any lesion.
    """

    mucosa: Rgb
    blood: Rgb
    light_colour: Rgb
    light_x: float
    light_y: float
    falloff: float
    exposure: float
    gamma: float
    field_of_view: FieldOfView
    radius: float
    distortion: float
    vignetting: float
    blur: float
    noise: float
    jpeg_quality: int
    specular: float
    folds: float
    fold_depth: float
    vessels: float
    bubbles: int
    lesion_size: tuple[float, float]
    lesion_contrast: float
    lesion_colour: Rgb
    lesion_height: float
    lesion_roughness: float
    flat_share: float
    empty_share: float = 0.15

    @classmethod
    def from_seed(cls, seed: int) -> SiteLook:
        """Draw a plausible site; the same seed gives the same look."""
        rng = np.random.default_rng([seed, 0x51])

        def between(low: float, high: float) -> float:
            return float(rng.uniform(low, high))

        warmth, size = between(-1, 1), between(0.10, 0.26)
        return cls(
            mucosa=(between(0.72, 0.9), between(0.36, 0.52), between(0.24, 0.42)),
            blood=(between(0.5, 0.7), between(0.14, 0.24), between(0.09, 0.18)),
            light_colour=(1 + 0.12 * warmth, between(0.92, 1.04), 1 - 0.2 * warmth),
            light_x=between(-0.5, 0.5),
            light_y=between(-0.6, 0.1),
            falloff=between(0.3, 1.0),
            exposure=between(1.3, 2.3),
            gamma=between(1.5, 2.1),
            field_of_view=list(FieldOfView)[int(rng.integers(len(FieldOfView)))],
            radius=between(0.9, 1.0),
            distortion=between(0.0, 0.25),
            vignetting=between(0.1, 0.55),
            blur=between(1.0, 5.0),
            noise=between(1.0, 5.0),
            jpeg_quality=int(rng.integers(60, 94)),
            specular=between(0.25, 1.0),
            folds=between(1.2, 2.6),
            fold_depth=between(0.5, 1.2),
            vessels=between(0.3, 1.0),
            bubbles=int(rng.integers(0, 10)),
            lesion_size=(size, size * between(1.5, 2.2)),
            lesion_contrast=between(0.3, 0.8),
            lesion_colour=(between(0.55, 0.95), between(0.15, 0.55), between(0.12, 0.45)),
            lesion_height=between(0.25, 1.0),
            lesion_roughness=between(0.15, 0.7),
            flat_share=between(0.2, 0.8),
        )


HOSPITAL_A: Final = SiteLook(
    mucosa=(0.84, 0.34, 0.25),
    blood=(0.66, 0.17, 0.11),
    light_colour=(1.06, 0.98, 0.94),
    light_x=-0.30,
    light_y=-0.35,
    falloff=0.45,
    exposure=2.1,
    gamma=1.75,
    field_of_view=FieldOfView.OCTAGON,
    radius=0.98,
    distortion=0.08,
    vignetting=0.2,
    blur=2.0,
    noise=1.5,
    jpeg_quality=90,
    specular=0.9,
    folds=1.5,
    fold_depth=1.0,
    vessels=0.9,
    bubbles=3,
    lesion_size=(0.20, 0.42),
    lesion_contrast=0.6,
    lesion_colour=(0.72, 0.10, 0.09),
    lesion_height=0.7,
    lesion_roughness=0.3,
    flat_share=0.2,
)
"""A warm xenon lamp, sharp optics, an octagonal field; mostly red, protruding polyps."""

HOSPITAL_B: Final = SiteLook(
    mucosa=(0.76, 0.45, 0.38),
    blood=(0.60, 0.24, 0.21),
    light_colour=(0.95, 1.0, 1.08),
    light_x=0.40,
    light_y=0.15,
    falloff=0.75,
    exposure=1.8,
    gamma=1.65,
    field_of_view=FieldOfView.CIRCLE,
    radius=0.93,
    distortion=0.24,
    vignetting=0.35,
    blur=3.5,
    noise=2.5,
    jpeg_quality=76,
    specular=0.35,
    folds=2.4,
    fold_depth=0.7,
    vessels=0.6,
    bubbles=8,
    lesion_size=(0.16, 0.36),
    lesion_contrast=0.7,
    lesion_colour=(0.93, 0.74, 0.50),
    lesion_height=0.6,
    lesion_roughness=0.6,
    flat_share=0.6,
)
"""A cool LED lamp from the other side, older optics, a round field; mostly pale, flat lesions."""
