"""A diffusion model that draws pictures from what leaves.

A decoder guesses the picture, and the model draws what it lacks (predict and refine, Whang et al. 2022). Noise is
added by a cosine schedule and foretold as a velocity (Ho et al. 2020; Nichol & Dhariwal 2021; Salimans & Ho 2022);
running averages of the weights draw, in few steps that follow from the noise they begin with (DDIM, Song et al. 2021).
One sample looks like an image, and is punished by measures of pixels for every detail that it makes up; the mean of
several is nearer to the original, and blurred. Attackers of both kinds are given.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featureloop.audit.decoders import Draw
from featureloop.audit.denoiser import Condition, Denoiser
from featureloop.audit.reconstructions import Case
from featureloop.core.ports import Progress
from featureloop.core.types import Float32
from featureloop.model.compute import compute_on

STEPS_ON_A_GPU = 8000
RATE, WARM, AVERAGED = 2e-3, 0.05, 0.999
LOOKS = 12
"""How often the averaged weights are judged on patients that were not learned from."""
HELD, DRAWS = 8, 2
"""One of so many patients is held for that; of their images each has so many times and noises, the same every time."""
AT_ONCE = 64


def steps_here() -> int:
    """Steps where nothing else is said: none without a GPU, where they would take hours."""
    return STEPS_ON_A_GPU if torch.cuda.is_available() else 0


@dataclass(frozen=True, slots=True)
class DiffusionSettings:
    """What the diffusion attacker spends.

    Attributes
    ----------
    steps
        Of training; 0 leaves diffusion out. The default follows from whether there is a GPU (`steps_here`).
    batch
        Images of a step.
    samples
        Whose mean is the second attacker's picture.
    drawing
        Steps from noise to a picture.
    """

    steps: int = field(default_factory=steps_here)
    batch: int = 32
    samples: int = 8
    drawing: int = 10

    def halved(self) -> DiffusionSettings:
        """The same with half of the steps, for controls; at least one where there are any."""
        return replace(self, steps=-(-self.steps // 2))


@dataclass(frozen=True, slots=True, eq=False)
class Diffusion:
    """A trained model.

    Attributes
    ----------
    network
        With the averaged weights that did best on held patients.
    centre, spread
        The mean image float32 (3, 64, 64), and the deviation of images from it.
    kept
        After how many steps these weights were.
    """

    network: Denoiser
    centre: Tensor
    spread: float
    kept: int

    def draw(self, inputs: Sequence[Tensor], *, steps: int, seed: int) -> Float32:
        """One sample of each input (1, ...): pictures float32 (M, 3, 64, 64) in [0, 1], which follow from the seed."""
        # Noise is drawn on the CPU, so that it is the same on every device.
        noise = torch.randn(len(inputs), *self.centre.shape, generator=torch.Generator().manual_seed(seed))
        out = []
        for i in range(0, len(inputs), AT_ONCE):
            x, begun = (
                y.to(self.centre.device) for y in (torch.cat(list(inputs[i : i + AT_ONCE])), noise[i : i + AT_ONCE])
            )
            with torch.no_grad():
                out.append(self._denoised(begun, self.network.condition(x), steps))
        return np.asarray(torch.cat(out).cpu().numpy(), np.float32)

    def _denoised(self, x: Tensor, given: Condition, steps: int) -> Tensor:
        lowest = -self.centre / self.spread - given.guess
        highest = lowest + 1 / self.spread
        for now, then in pairwise(torch.linspace(1, 0, steps + 1, device=x.device)):
            keep, add = _shares(now)
            clean = keep * x - add * self.network(x, now.expand(len(x)), given)
            clean = clean.maximum(lowest).minimum(highest)
            noise = (x - keep * clean) / add
            keep, add = _shares(then)
            x = keep * clean + add * noise
        return (self.centre + self.spread * (given.guess + x)).clamp(0, 1)


def drawn_by_diffusion(
    make: Callable[[], Denoiser],
    draw: Draw,
    asked: Sequence[Tensor],
    case: Case,
    *,
    given: DiffusionSettings,
    seed: int,
    progress: Progress,
    what: str,
) -> tuple[dict[str, Float32], str]:
    """Pictures of `asked`, each (1, ...), by a model that learned from the attacker's; and in words what was done.

    Parameters
    ----------
    make
        Makes a network for what leaves.
    draw
        What leaves of the attacker's frames of these numbers.
    case
        Whose known pictures and patients are learned from.

    Returns
    -------
    By attacker, one sample of each and the mean of several; nothing where no steps are given.
    """
    if not given.steps:
        return {}, ""
    model = train_diffusion(
        make,
        draw,
        case.known_pictures,
        case.known_groups,
        steps=given.steps,
        batch=given.batch,
        seed=seed,
        progress=progress,
        what=what,
    )
    samples = []
    for i in range(given.samples):
        samples.append(model.draw(asked, steps=given.drawing, seed=1000 * seed + i))
        progress(f"{what}, drawing", i + 1, given.samples)
    mean = np.asarray(np.mean(samples, axis=0), np.float32)
    where = model.centre.device.type
    return (
        {"diffusion, one sample": samples[0], f"diffusion, mean of {given.samples}": mean},
        f"{given.steps} steps of {given.batch} images on {'a GPU' if where == 'cuda' else 'a CPU'}; kept is what it "
        f"was after {model.kept}",
    )


def train_diffusion(
    make: Callable[[], Denoiser],
    draw: Draw,
    pictures: Float32,
    groups: NDArray[np.str_],
    *,
    steps: int,
    batch: int,
    seed: int,
    progress: Progress,
    what: str,
) -> Diffusion:
    """A new model that has learned to draw pictures float32 (M, 3, 64, 64) in [0, 1].

    It calculates on a GPU where there is one. What is kept are the averaged weights that did best on an eighth of the
    patients, so that more steps than there are images for do no harm.
    """
    torch.manual_seed(seed)
    device = torch.device(compute_on("auto").device)
    network = make().to(device)
    averaged = copy.deepcopy(network).eval()
    rng, generator = np.random.default_rng((seed, 54)), torch.Generator().manual_seed(seed)
    centre = torch.from_numpy(pictures.mean(0))
    spread = float((torch.from_numpy(pictures) - centre).std()) + 1e-3
    clean = ((torch.from_numpy(pictures) - centre) / spread).to(device)
    names = np.unique(groups)
    kept_away = np.isin(groups, rng.permutation(names)[: max(1, len(names) // HELD)])
    own, held = np.flatnonzero(~kept_away), _Held(draw, np.flatnonzero(kept_away), clean, seed=seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / steps))
    looks = {round((i + 1) * steps / LOOKS) for i in range(LOOKS)}
    best, least, weights = 0, np.inf, averaged.state_dict()
    network.train()
    for step in range(1, steps + 1):
        at = own[rng.integers(0, len(own), min(batch, len(own)))]
        given = network.condition(draw(rng, at).to(device))
        time = torch.rand(len(at), generator=generator).to(device)
        noise = torch.randn(clean[at].shape, generator=generator).to(device)
        loss = _error(network, clean[at], time, noise, given) + ((given.guess - clean[at]) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        _average(averaged, network, min(AVERAGED, (1 + step) / (10 + step)))
        if step in looks and (error := held(averaged)) < least:
            best, least, weights = step, error, {k: v.clone() for k, v in averaged.state_dict().items()}
        progress(what, step, steps)
    averaged.load_state_dict(weights)
    return Diffusion(averaged, centre.to(device), spread, best)


class _Held:
    """How wrong a network is about images that it doesn't learn from, always with the same times and noise."""

    def __init__(self, draw: Draw, at: NDArray[np.intp], clean: Tensor, *, seed: int) -> None:
        at = np.repeat(at, DRAWS)
        generator = torch.Generator().manual_seed(seed)
        self._given = draw(np.random.default_rng((seed, 55)), at)
        # Evenly over all times, in a random order, so that every image has any.
        self._times = ((torch.randperm(len(at), generator=generator) + 0.5) / len(at)).to(clean.device)
        self._clean, self._noise = clean[at], torch.randn(clean[at].shape, generator=generator).to(clean.device)

    def __call__(self, network: Denoiser) -> float:
        total = 0.0
        with torch.no_grad():
            for i in range(0, len(self._clean), AT_ONCE):
                clean, time, noise = (x[i : i + AT_ONCE] for x in (self._clean, self._times, self._noise))
                given = network.condition(self._given[i : i + AT_ONCE].to(clean.device))
                total += len(clean) * float(_error(network, clean, time, noise, given))
        return total / len(self._clean)


def _error(network: Denoiser, clean: Tensor, time: Tensor, noise: Tensor, given: Condition) -> Tensor:
    """Mean squared error of velocities at times (B,), of what guesses of standardized pictures (B, 3, 64, 64) lack."""
    lacking = clean - given.guess.detach()
    keep, add = (x[:, None, None, None] for x in _shares(time))
    found: Tensor = network(keep * lacking + add * noise, time, given)
    return ((found - (keep * noise - add * lacking)) ** 2).mean()


def _shares(time: Tensor) -> tuple[Tensor, Tensor]:
    """Of the picture and of the noise at times from 0 to 1: the cosine schedule, whose squares add up to 1."""
    angle = time * (torch.pi / 2)
    return angle.cos(), angle.sin()


def _rate(done: float) -> float:
    """The share of the learning rate after this share of the steps: a short rise, and half a cosine."""
    return float(min(1.0, (done + 1e-3) / WARM) * 0.5 * (1 + np.cos(np.pi * done)))


def _average(averaged: Denoiser, network: Denoiser, share: float) -> None:
    """Move running averages of the weights towards the weights, by 1 - `share` of the way."""
    with torch.no_grad():
        for mean, own in zip(averaged.parameters(), network.parameters(), strict=True):
            mean.lerp_(own, 1 - share)
