"""Recognizers: the later layers, in forms that need no coordinates.

`set` treats position vectors alike: a per-position network, with context
pooled over the set. On a permuted bag it gives the permuted output, so
training on coordinate-free records is training on the map. Without context it
is the same function of a row whatever else is in the bag: of a part of a frame,
or of several frames' rows mixed. `attention` does
the same and pools at the end, for classes; `global` works on one pooled
vector. Sources: Zaheer et al. 2017 (Deep Sets, arXiv:1703.06114); Ilse et al.
2018 (attention pooling, arXiv:1802.04712).
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from featureloop.core.errors import PackageError
from featureloop.model.manifest import RecognizerSpec

NOISE = 1.0
"""Standard deviations of the noise on pooled values that a `global` recognizer learns with."""


class SetContext(nn.Module):
    """What the whole bag says, pooled by attention, mean and maximum: (B, N, W) to (B, 1, W)."""

    def __init__(self, width: int, *, heads: int = 4) -> None:
        super().__init__()
        self.score = nn.Linear(width, heads)
        self.value = nn.Linear(width, width)
        self.join = nn.Linear(3 * width, width)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        """Pool over the rows, in any order."""
        w = x.shape[-1]
        attention = torch.softmax(self.score(x).transpose(1, 2), dim=2)  # (B, heads, N)
        # Shares sum to one, so rows may be pooled before their values are taken: the same, without a product a row.
        # The mean is one more row of shares.
        even = torch.ones_like(attention[:, :1]) / x.shape[1]
        looked = torch.cat([attention, even], dim=1) @ x  # (B, heads + 1, W)
        weight = self.value.weight.reshape(self.heads, w // self.heads, w)
        pooled = torch.einsum("bhw,hdw->bhd", looked[:, :-1], weight).flatten(1) + self.value.bias
        joined = torch.cat([pooled, looked[:, -1], x.amax(1)], dim=1)
        return cast(Tensor, self.join(joined))[:, None, :]


class SetAttention(nn.Module):
    """Every row looks at all others, by what they hold and never by where they stand: (B, N, W) to (B, N, W).

    Source: Vaswani et al. 2017 (arXiv:1706.03762), without position encoding, as in the Set Transformer (Lee et
    al. 2019, arXiv:1810.00825).
    """

    def __init__(self, width: int, *, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.ask = nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        """Add what each row found."""
        b, n, w = x.shape
        query, key, value = (
            part.reshape(b, n, self.heads, w // self.heads).transpose(1, 2)
            for part in self.ask(self.norm(x)).chunk(3, dim=-1)
        )  # each (B, heads, N, W / heads)
        found = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = x + self.join(found.transpose(1, 2).reshape(b, n, w))
        return out


class SetBlock(nn.Module):
    """A residual per-position network that also sees the set's context, or not; with heads, after attention."""

    def __init__(self, width: int, *, heads: int = 0, context: bool = True) -> None:
        super().__init__()
        self.attention = SetAttention(width, heads=heads) if heads else None
        self.norm = nn.LayerNorm(width)
        self.context = SetContext(width) if context else None
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 (B, N, W) to (B, N, W)."""
        if self.attention is not None:
            x = self.attention(x)
        y = self.norm(x)
        y = self.down(F.relu(self.up(y if self.context is None else y + self.context(y))))
        out: Tensor = x + y
        return out


class SetRecognizer(nn.Module):
    """Position vectors float32 (B, N, C) to logits (B, N, T), alike at every position."""

    def __init__(
        self, channels: int, *, width: int, blocks: int, outputs: int, heads: int = 0, context: bool = True
    ) -> None:
        super().__init__()
        self.lift = nn.Linear(channels, width)
        self.blocks = nn.ModuleList(SetBlock(width, heads=heads, context=context) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, vectors: Tensor) -> Tensor:
        """Logits of each row's targets."""
        x = self.lift(vectors)
        for block in self.blocks:
            x = block(x)
        return cast(Tensor, self.head(self.norm(x)))


class AttentionRecognizer(nn.Module):
    """Position vectors float32 (B, N, C) to logits (B, 1, K) of the whole frame, in any order.

    Per-position blocks that see the set's context, then attention over the positions: each of
    several heads learns where to look, beside the mean and the maximum of all.
    """

    def __init__(
        self, channels: int, *, width: int, blocks: int, outputs: int, heads: int = 0, context: bool = True
    ) -> None:
        super().__init__()
        self.lift = nn.Linear(channels, width)
        self.blocks = nn.ModuleList(SetBlock(width, heads=heads, context=context) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.pool = SetContext(width)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(width, outputs)

    def forward(self, vectors: Tensor) -> Tensor:
        """Logits of the classes."""
        x = self.lift(vectors)
        for block in self.blocks:
            x = block(x)
        return cast(Tensor, self.head(self.dropout(self.pool(self.norm(x)))))


class GlobalRecognizer(nn.Module):
    """One pooled vector float32 (B, 1, C) to logits (B, 1, K).

    Pooled values are small beside their bounds, each channel by another factor,
    so they are standardized by the founding frames' mean and deviation first.

    In training, noise of `noise` standard deviations is added to them. The
    backbone was tuned on the same frames, whose features are further apart than
    a new frame's will be; noise keeps the network from relying on that (Bishop
    1995, Neural Computation 7(1): training with noise is Tikhonov regularization).

    Attributes
    ----------
    noise
        `NOISE`, unless it is to learn otherwise.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int, *, width: int, blocks: int, outputs: int) -> None:
        super().__init__()
        self.noise = NOISE
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))
        layers: list[nn.Module] = [nn.Linear(channels, width), nn.ReLU()]
        for _ in range(blocks - 1):
            layers += [nn.Linear(width, width), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Dropout(0.2), nn.Linear(width, outputs))

    def forward(self, vectors: Tensor) -> Tensor:
        """Logits of the classes."""
        standardized = (vectors - self.mean) / self.deviation
        if self.training:
            standardized = standardized + self.noise * torch.randn_like(standardized)
        return cast(Tensor, self.layers(standardized))

    def standardize_by(self, vectors: Tensor) -> None:
        """Take mean and deviation from pooled vectors (M, 1, C)."""
        flat = vectors.flatten(0, 1)
        self.mean.copy_(flat.mean(0))
        self.deviation.copy_(flat.std(0, correction=0).clamp_min(1e-4))


FORMS = ("set", "attention", "global")


def build_recognizer(spec: RecognizerSpec, *, channels: int) -> nn.Module:
    """The network that a package's manifest describes.

    Raises
    ------
    PackageError
        The form is unknown, or the heads don't divide the width.
    """
    if spec.form not in FORMS:
        raise PackageError(f"recognizer form '{spec.form}' is unknown; known are {', '.join(FORMS)}")
    if spec.heads and (spec.form == "global" or spec.width % spec.heads):
        raise PackageError(
            f"{spec.heads} heads of attention don't suit a recognizer of the form '{spec.form}' and the width "
            f"{spec.width}: a set's width must be a multiple of them"
        )
    if spec.form == "global":
        return GlobalRecognizer(channels, width=spec.width, blocks=spec.blocks, outputs=spec.outputs)
    if spec.heads and not spec.context:
        raise PackageError(
            f"{spec.heads} heads of attention among rows are context, and the recognizer is to have none"
        )
    form = SetRecognizer if spec.form == "set" else AttentionRecognizer
    return form(
        channels, width=spec.width, blocks=spec.blocks, outputs=spec.outputs, heads=spec.heads, context=spec.context
    )
