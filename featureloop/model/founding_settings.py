"""How a founding package is trained."""

from __future__ import annotations

from dataclasses import dataclass

from featureloop.core.errors import InputError
from featureloop.model.forms import parse_form
from featureloop.model.manifest import Preprocessing
from featureloop.model.pooling import POOLING, check_pooling
from featureloop.model.score_words import AUTO

PROFILES = ("fast", "full")


@dataclass(frozen=True, slots=True)
class FoundingSettings:
    """How a founding package is trained.

    Attributes
    ----------
    profile
        `fast` keeps the early stages as ImageNet left them, and caches what they make of every
        frame and a few changed versions; `full` tunes the whole backbone first, on versions of
        the frames that change in every pass: for a GPU, or a night.
    size
        Pixels per side of the extractor's input; a multiple of 32.
    blank_border
        Whether what is outside the field of view is made black before anything is extracted.
    channels
        C of the neck, at most; None takes what suits the recognizer's form.
    bits_per_vector
        Bit budget of one position vector of a `set`.
    pooled_bits
        Bit budget of a `pool`'s one vector; None takes what suits the number of classes (`model.pooling`).
    breadth
        Share of the neck's metric that treats all of the backbone's taps alike, in (0, 1]: the more, the more there is
        for other sites to learn from, and the less of the bits is for what is recognized today; None takes what
        suits the recognizer's form.
    max_loss
        Quality (Dice, the share of right classes, F1) that recognition from decoded values may lose on calibration
        frames: the steps of what leaves are made as coarse as that allows. None leaves them as the neck has them.
    form
        Of the recognizer; None takes what suits the task. Classes are recognized by `global` or by `attention`.
    pooling
        What a `global` recognizer's vector is made of (`model.pooling`); empty takes mean and deviation.
    release
        The form in which features leave (`model.forms`), e.g. `set subset=64`; empty takes what suits the recognizer.
    width, blocks, heads
        Of the recognizer; with heads, the rows of a set look at each other.
    local_width
        Of the convolutions that put what stands around a position into its vector, where the recognizer sees each row
        by itself (`model.local_context`); 0 for none, None for what suits the task.
    epochs, batch, learning_rate
        Of the backbone's fine-tuning by AdamW with a cosine schedule; the late
        stages learn at a quarter of `learning_rate`. None takes 12 passes over
        the frames (`full`: 60), and more where they are few.
    recognizer_epochs
        Passes over the frames when the recognizer learns from the finished
        features (`model.founding_fit`), and local context before it from the
        tuned taps;
        None takes 16, and more where the frames are few.
    augmentations
        Cached augmented versions of every frame, besides the original.
    augmentation
        What may change in them (`model.augment`): `free`, `upright`, or `auto`, which asks the frames.
    adversary
        How strongly the neck is trained against what it must not tell (`model.private_neck`); 0 leaves it as computed.
    adversary_hidden
        Width of a hidden layer of a neck that is trained; 0 for none.
    adversary_rate
        What all bits of the computed neck would cost in the loss of a neck that is trained.
    adversary_epochs
        Passes over the frames in the neck's training; None takes 8, and more where they are few.
    score
        How a reliability's score is calculated (`model.score_words`), or `auto`: what is best on held-out frames.
    average
        Decay of the running average of the weights that is kept.
    seed
        Of every random choice.
    """

    profile: str = "fast"
    size: int = 320
    blank_border: bool = True
    channels: int | None = None
    bits_per_vector: float = 8.0
    pooled_bits: float | None = None
    breadth: float | None = None
    max_loss: float | None = None
    form: str | None = None
    pooling: tuple[str, ...] = ()
    release: str = ""
    width: int = 128
    blocks: int = 3
    heads: int = 0
    local_width: int | None = None
    epochs: float | None = None
    recognizer_epochs: float | None = None
    batch: int = 16
    learning_rate: float = 1e-3
    augmentations: int = 5
    augmentation: str = "auto"
    adversary: float = 0.0
    adversary_hidden: int = 0
    adversary_rate: float = 0.0
    adversary_epochs: float | None = None
    score: str = AUTO
    average: float = 0.98
    seed: int = 1

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise InputError(f"the profile '{self.profile}' is unknown; choose {' or '.join(PROFILES)}")
        if self.size % 32 or not 64 <= self.size <= 2048:
            raise InputError(f"the frame size must be a multiple of 32 from 64 to 2048, not {self.size}")
        if self.local_width is not None and self.local_width < 0:
            raise InputError(f"the width of the local convolutions is a number from 0, not {self.local_width}")
        if self.breadth is not None and not 0 < self.breadth <= 1:
            raise InputError(f"the neck's breadth is a share above 0 and at most 1, not {self.breadth}")
        if self.max_loss is not None and not 0 <= self.max_loss < 1:
            raise InputError(f"the loss of coarser steps is a share from 0 to below 1, not {self.max_loss}")
        if self.pooled_bits is not None and not 0 < self.pooled_bits < float("inf"):
            raise InputError(f"a pooled vector's bits are a number above 0, not {self.pooled_bits}")
        check_pooling(self.pooling)
        if self.release:
            parse_form(self.release)
        self._check_adversary()

    def _check_adversary(self) -> None:
        if not (0 <= self.adversary < float("inf") and 0 <= self.adversary_rate < float("inf")):
            raise InputError(
                f"a neck's adversary and rate are strengths from 0, not {self.adversary} and {self.adversary_rate}"
            )
        if not self.adversary and (self.adversary_hidden or self.adversary_rate):
            raise InputError("a hidden layer and a rate need a neck that is trained; give a strength of the adversary")
        if self.adversary and not self.augmentations:
            raise InputError(
                "a neck learns what it must not tell from changed versions of frames; let there be augmentations"
            )

    @property
    def preprocessing(self) -> Preprocessing:
        """From a frame to the extractor's input."""
        return Preprocessing(self.size, blank_border=self.blank_border)

    @property
    def statistics(self) -> tuple[str, ...]:
        """What is taken of each channel where vectors are pooled."""
        return self.pooling or POOLING

    def tuning_steps(self, frames: int) -> int:
        """Batches of the backbone's fine-tuning."""
        usual, least = (12.0, 600) if self.profile == "fast" else (60.0, 1500)
        return self._steps(self.epochs, frames, usual=usual, least=least)

    def recognizer_steps(self, frames: int) -> int:
        """Batches that the recognizer learns from."""
        return self._steps(self.recognizer_epochs, frames, usual=16.0, least=800)

    def adversary_steps(self, frames: int) -> int:
        """Batches that the neck learns from."""
        return self._steps(self.adversary_epochs, frames, usual=8.0, least=300)

    def _steps(self, epochs: float | None, frames: int, *, usual: float, least: int) -> int:
        passes = usual if epochs is None else epochs
        steps = max(1, round(passes * frames / self.batch))
        return max(steps, least) if epochs is None else steps
