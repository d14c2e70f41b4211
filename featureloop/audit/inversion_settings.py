"""What the inversion attack spends."""

from __future__ import annotations

from dataclasses import dataclass, field

from featureloop.audit.decoders import BATCH
from featureloop.audit.diffusion import DiffusionSettings
from featureloop.audit.whitebox import Search


@dataclass(frozen=True, slots=True)
class InversionSettings:
    """What the attacker spends.

    Attributes
    ----------
    victims
        Most frames whose records are drawn; None for all.
    steps, control_steps, surrogate_steps
        Of training a network that draws, the same on the controls, and of the surrogate.
    batch
        Images of a step.
    searched
        Records that are searched for along the gradient.
    attackers
        Whose pictures of pooled vectors are searched for, but the diffusion model's; elsewhere, and under noise, one
        attacker's, of every draw of what leaves.
    search
        How.
    diffusion
        Of the diffusion model, on what leaves; half as many steps on each control.
    sheet
        Victims that are shown on the sheet.
    curve
        Shares of the attacker's patients, for the curve.
    """

    victims: int | None = None
    steps: int = 500
    control_steps: int = 250
    surrogate_steps: int = 250
    batch: int = BATCH
    searched: int = 8
    attackers: int = 5
    search: Search = field(default_factory=Search)
    diffusion: DiffusionSettings = field(default_factory=DiffusionSettings)
    sheet: int = 8
    curve: tuple[float, ...] = (0.25, 0.5)
