"""A compact T5 (Raffel et al., 2020): the parts that both forms of the sequence model share.

Linear maps without bias, RMS norms before each block, no division by the root of the width, and
positions that enter only as a bias on attention logits, which is where likeness enters too.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from bbqrec.products import Linear
from bbqrec.recommender.config import RecommenderConfig

NORM_EPSILON = 1e-6

Count = int | torch.SymInt  # a number, or what stands for it while a graph is exported


class Layout:
    """Where the entries of a flat list sit in a padded table.

    Work that treats entries alone runs on the flat list, so padding costs nothing there; only
    attention needs the table.
    """

    def __init__(self, is_used: Bool[Tensor, "batch place"], num_used: int | None = None) -> None:
        """`num_used`: how many are, if that is known; a GPU must stop to count them."""
        self.shape = is_used.shape
        self.index: Tensor | None = None
        if torch.compiler.is_exporting():
            return  # the shapes of an exported graph must not depend on what is in the tensors
        if num_used is None:
            num_used = int(is_used.count_nonzero())
        if num_used < is_used.numel():
            self.index = is_used.flatten().nonzero_static(size=num_used)[:, 0]

    @classmethod
    def full(cls, batch: Count, places: Count) -> "Layout":
        """Every place used, row by row: nothing to move."""
        layout = cls.__new__(cls)
        layout.shape, layout.index = torch.Size((batch, places)), None  # type: ignore[arg-type]
        return layout

    def spread(
        self, entries: Shaped[Tensor, " entry *rest"]
    ) -> Shaped[Tensor, "batch place *rest"]:
        """The entries in their places, zeros elsewhere."""
        table = entries
        if self.index is not None:
            table = entries.new_zeros(self.shape.numel(), *entries.shape[1:])
            table = table.index_copy(0, self.index, entries)
        return table.view(*self.shape, *entries.shape[1:])

    def collect(self, table: Shaped[Tensor, "batch place *rest"]) -> Shaped[Tensor, " entry *rest"]:
        """The opposite of `spread`."""
        table = table.flatten(0, 1)
        return table if self.index is None else table.index_select(0, self.index)

    def at(
        self, entries: Float[Tensor, " entry dim"], place: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch dim"]:
        """The entry at one used place of each row."""
        return self.spread(entries)[torch.arange(place.shape[0], device=place.device), place]


class AttentionBias(NamedTuple):
    """logit = gain * query . key + added; axes broadcast to (batch, head, query, key)."""

    added: Float[Tensor, "_ _ _ _"]
    gain: Float[Tensor, "_ _ _ _"] | None = None

    def of_query(self, place: Int[Tensor, " batch"]) -> "AttentionBias":
        """The bias of one query of each row alone; it may be that already."""
        if self.added.shape[2] == 1:
            return self
        row = torch.arange(place.shape[0], device=place.device)

        def of(bias: Float[Tensor, "_ _ _ _"]) -> Float[Tensor, "batch _ 1 _"]:
            return bias.expand(place.shape[0], -1, -1, -1)[row, :, place][:, :, None]

        return AttentionBias(of(self.added), None if self.gain is None else of(self.gain))


def relative_position_bucket(
    distance: Int[Tensor, "*shape"], *, bidirectional: bool, num_buckets: int, max_distance: int
) -> Int[Tensor, "*shape"]:
    """T5's bucket of `distance` = key position - query position: exact near, logarithmic far.

    One direction only: keys after the query share the bucket of distance 0.
    """
    bucket = torch.zeros_like(distance)
    if bidirectional:
        num_buckets //= 2
        bucket = (distance > 0).long() * num_buckets
        distance = distance.abs()
    else:
        distance = (-distance).clamp(min=0)
    num_exact = num_buckets // 2
    ratio = torch.log(distance.float().clamp(min=1) / num_exact)
    ratio = ratio / math.log(max_distance / num_exact)
    far = num_exact + (ratio * (num_buckets - num_exact)).long()
    return bucket + torch.where(distance < num_exact, distance, far.clamp(max=num_buckets - 1))


class RelativePositionBias(nn.Module):
    """A learned bias per head and bucket of relative position, shared by a stack's layers."""

    def __init__(self, config: RecommenderConfig, *, bidirectional: bool) -> None:
        super().__init__()
        self.bidirectional = bidirectional
        self.max_distance = config.max_distance
        self.table = nn.Parameter(
            torch.randn(config.num_position_buckets, config.num_heads) * config.d_model**-0.5
        )

    def forward(self, length: Count) -> Float[Tensor, "1 head query key"]:
        """The bias among `length` positions."""
        # It depends on the distance alone: look each one up once, then slide over them.
        distance = torch.arange(1 - length, length, device=self.table.device)  # type: ignore[arg-type]
        bucket = relative_position_bucket(
            distance,
            bidirectional=self.bidirectional,
            num_buckets=self.table.shape[0],
            max_distance=self.max_distance,
        )
        of_distance = self.table.T.index_select(1, bucket)  # (head, distance)
        return of_distance.unfold(1, length, 1).flip(1)[None]  # type: ignore[arg-type]


def hide(is_visible: Bool[Tensor, "*shape"], like: Tensor) -> Float[Tensor, "*shape"]:
    """A bias of 0 where visible and minus infinity elsewhere."""
    return like.new_zeros(is_visible.shape).masked_fill(~is_visible, -torch.inf)


def random_linear(inputs: int, outputs: int, std: float, *, uses: int = 1) -> Linear:
    """A bias-free linear map with normal weights, one of `uses` of its shape."""
    linear = Linear(inputs, outputs, uses=uses)
    nn.init.normal_(linear.weight, std=std)
    return linear


class Dropout(nn.Module):
    """As `nn.Dropout`, with the probability rounded to 1/256.

    On a CPU drawing one number per element costs more than the layers around it; a byte is
    enough, and eight of them come with each draw.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if not self._drops:
            return x
        return x * self._mask(x) if x.device.type == "cpu" else F.dropout(x, self.probability)

    def of_relu(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The same of x.relu(), in fewer passes over x."""
        if not self._drops or x.device.type != "cpu":
            plain: Tensor = self(x.relu())
            return plain
        scale = x.new_tensor(256 / self._num_kept)
        dropped: Tensor = _DroppedRelu.apply(x, self._mask(x), scale)  # type: ignore[no-untyped-call]
        return dropped

    @property
    def _num_kept(self) -> int:
        return round((1 - self.probability) * 256)

    @property
    def _drops(self) -> bool:
        return self.training and self._num_kept < 256

    def _mask(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """0 for what is dropped, for the rest what it is multiplied by."""
        draws = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        drawn: Tensor = draws.view(torch.uint8)[: x.numel()].view(x.shape).to(x.dtype)
        # -1 where a byte is below the bound, else 0: comparing and its booleans take twice as long.
        return drawn.sub_(self._num_kept).clamp_(-1, 0).mul_(-256 / self._num_kept)


class _DroppedRelu(torch.autograd.Function):
    """x.relu() * mask; what is above 0 of it tells the gradient all that the mask would."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, scale: Tensor) -> Tensor:
        found = mask.mul_(x).clamp_(min=0)
        ctx.save_for_backward(found)
        ctx.scale = scale
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (found,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(grad, found, 0).mul_(ctx.scale), None, None


class Attention(nn.Module):
    """Multi-head attention whose logits are not divided by the root of the width."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    output: nn.Linear

    def __init__(self, config: RecommenderConfig, *, num_layers: int) -> None:
        super().__init__()
        width, inner = config.d_model, config.num_heads * config.head_dim
        self.num_heads = config.num_heads
        self.dropout = Dropout(config.dropout)
        uses = 3 * num_layers
        self.query = random_linear(width, inner, (width * config.head_dim) ** -0.5, uses=uses)
        self.key = random_linear(width, inner, width**-0.5, uses=uses)
        self.value = random_linear(width, inner, width**-0.5, uses=uses)
        self.output = random_linear(inner, width, inner**-0.5, uses=num_layers)

    def split(
        self, x: Float[Tensor, "batch place inner"]
    ) -> Float[Tensor, "batch head place head_dim"]:
        """A view of each head's part."""
        return x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)

    def split_parts(
        self, x: Float[Tensor, "batch place inners"], parts: int
    ) -> Float[Tensor, "part batch head place head_dim"]:
        """The same for the outputs of several maps side by side."""
        return x.view(*x.shape[:2], parts, self.num_heads, -1).permute(2, 0, 3, 1, 4)

    def attend(
        self,
        q: Float[Tensor, "batch head query head_dim"],
        k: Float[Tensor, "batch head key head_dim"],
        v: Float[Tensor, "batch head key head_dim"],
        bias: AttentionBias,
    ) -> Float[Tensor, "batch query inner"]:
        """Mix `v` by softmax(gain * q . k + added), head by head."""
        added = bias.added.to(q.dtype)
        dropout = self.dropout.probability if self.training else 0.0
        # The fused kernel only adds; on a CPU it drops nothing out and is slow but in fp32.
        is_fused = q.device.type != "cpu" or (dropout == 0 and q.dtype == torch.float32)
        if bias.gain is None and is_fused:
            mixed = F.scaled_dot_product_attention(q, k, v, added, dropout_p=dropout, scale=1.0)
        else:
            logits = q @ k.transpose(-1, -2)
            if bias.gain is not None:
                logits = bias.gain.to(q.dtype) * logits
            mixed = self.dropout((logits + added).softmax(-1)) @ v
        return mixed.transpose(1, 2).flatten(2)


class FeedForward(nn.Module):
    """Two linear maps with a ReLU between; one of `num_layers` alike."""

    def __init__(self, config: RecommenderConfig, *, num_layers: int) -> None:
        super().__init__()
        width, inner = config.d_model, config.d_ff
        self.inner = random_linear(width, inner, width**-0.5, uses=num_layers)
        self.output = random_linear(inner, width, inner**-0.5, uses=num_layers)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape dim"]:
        hidden: Tensor = self.output(self.dropout.of_relu(self.inner(x)))
        return hidden
