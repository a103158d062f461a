"""Linear maps as they are read outside training: laid out for few, large operations.

A product of twenty rows costs as much to call as to compute, and so do a norm's seven operations
or the rounding of a weight. So maps of the same rows become one, each with the gain of the norm
before it, in the precision of the products; they are made anew where the weights changed.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bbqrec.products import fixed, linear, multiply_few
from bbqrec.recommender.code_embedding import CodeEmbedding
from bbqrec.recommender.transformer import NORM_EPSILON, FeedForward

SPARE = 16  # columns
# Hidden numbers of a block: more than the first are made part by part, so that caches hold them.
MAX_HIDDEN, HIDDEN_AT_ONCE = 2**21, 2**19

Made = TypeVar("Made")


class _Weight(NamedTuple):
    """A weight as it was when it was read, and where its module has it now."""

    among: Mapping[str, Tensor | None]
    name: str
    tensor: Tensor
    address: int
    version: int

    def is_same(self) -> bool:
        now = self.among[self.name]
        return (
            now is self.tensor and now.data_ptr() == self.address and now._version == self.version
        )


class Kept(nn.Module):
    """What was made of weights, one for each precision, and anew where they changed."""

    def __init__(self) -> None:
        super().__init__()
        self._found: dict[torch.dtype | None, tuple[list[_Weight], object]] = {}

    def get(self, parts: Sequence[nn.Module], make: Callable[[torch.dtype], Made]) -> Made:
        """What `make` gives for the precision that `torch.autocast` says.

        Args:
            parts: all whose weights it reads.
        """
        rounded = None
        device = next(iter(parts[0].parameters())).device.type
        if torch.is_autocast_enabled(device):
            rounded = torch.get_autocast_dtype(device)
        found = self._found.get(rounded)
        if found is None or not all(weight.is_same() for weight in found[0]):
            weights = [
                _Weight(module._parameters, name, weight, weight.data_ptr(), weight._version)
                for part in parts
                for module in part.modules()
                for name, weight in module._parameters.items()
                if weight is not None
            ]
            found = weights, make(rounded or weights[0].tensor.dtype)
            self._found[rounded] = found
        return found[1]  # type: ignore[return-value]

    def train(self, mode: bool = True) -> "Kept":
        """As `nn.Module.train`."""
        if mode:  # a fused optimizer changes weights without a trace
            self._found = {}
        return super().train(mode)

    def __deepcopy__(self, memo: dict[int, object]) -> "Kept":
        return Kept()  # a copy has weights of its own


def is_reading(module: nn.Module) -> bool:
    """Whether nothing is learned and no graph is made, so that fixed maps may be read."""
    return not (module.training or torch.is_grad_enabled() or torch.compiler.is_compiling())


def maps(
    *weights: Float[Tensor, "_ dim"],
    dtype: torch.dtype,
    gain: Float[Tensor, " dim"] | None = None,
) -> Float[Tensor, "outputs dim"]:
    """Maps of the same rows as one, after the gain of the norm before them."""
    factor = 1.0 if gain is None else gain.detach()
    return fixed(*((weight.detach() * factor).to(dtype) for weight in weights))


class Map(NamedTuple):
    """A linear map with or without biases."""

    weight: Float[Tensor, "outputs dim"]
    bias: Float[Tensor, " outputs"] | None = None

    @classmethod
    def of(
        cls, *linears: nn.Linear, dtype: torch.dtype, gain: Float[Tensor, " dim"] | None = None
    ) -> "Map":
        """Of `linears` that read the same rows, side by side; `gain`: of the norm before them."""
        weight = maps(*(part.weight for part in linears), dtype=dtype, gain=gain)
        biases = [part.bias.detach() for part in linears if part.bias is not None]
        return cls(weight, torch.cat(biases).to(dtype) if biases else None)

    def __call__(
        self, rows: Float[Tensor, "*shape dim"], *, uses: int = 1
    ) -> Float[Tensor, "*shape outputs"]:
        """The outputs; `uses`: as of `products.linear`."""
        found = linear(rows, self.weight, uses=uses)
        return found if self.bias is None else found.add_(self.bias)


class FeedForwardMaps(NamedTuple):
    """Both maps of a `FeedForward` block."""

    inner: Float[Tensor, "hidden dim"]
    output: Float[Tensor, "dim hidden"]

    @classmethod
    def of(cls, norm: nn.RMSNorm, block: FeedForward, dtype: torch.dtype) -> "FeedForwardMaps":
        """Of a block that reads what `norm` gives."""
        # Rows 4,096 bytes apart share their places in the processor's caches; zeros keep them off.
        spare = SPARE if len(block.inner.weight) % 1024 == 0 else 0
        inner = F.pad(block.inner.weight, (0, 0, 0, spare))
        output = F.pad(block.output.weight, (0, spare))
        return cls(maps(inner, dtype=dtype, gain=norm.weight), maps(output, dtype=dtype))

    def __call__(
        self, rows: Float[Tensor, "row dim"], *, uses: int = 1
    ) -> Float[Tensor, "row dim"]:
        """What the block adds to rows that were `normed`; `uses`: as of `products.linear`."""
        parts: tuple[Tensor, ...] = (rows,)
        hidden = len(self.inner)
        if rows.device.type == "cpu" and len(rows) * hidden > MAX_HIDDEN:
            parts = torch.split(rows, max(1, HIDDEN_AT_ONCE // hidden))
        found = [
            linear(linear(part, self.inner, uses=uses).relu_(), self.output, uses=uses)
            for part in parts
        ]
        return found[0] if len(found) == 1 else torch.cat(found)

    def few(self, rows: Float[Tensor, "row dim"]) -> Float[Tensor, "row dim"]:
        """The same for the rows of a search, see `products.multiply_few`."""
        return multiply_few(multiply_few(rows, self.inner).relu_(), self.output)


class CodeMaps(NamedTuple):
    """The last norm and the vectors of codes, in full precision always.

    Args:
        scores: to the logits of all tokens, or of each level's codes.
    """

    scores: list[Float[Tensor, "token_or_code dim"]]
    embedding: CodeEmbedding

    @classmethod
    def of(cls, norm: nn.RMSNorm, embedding: CodeEmbedding) -> "CodeMaps":
        """Of hidden vectors that `norm` is still to be applied to."""
        table = embedding.weight.detach().float()
        table = table * (norm.weight.detach() * embedding.output_scale)
        parts = [table]
        if embedding.normalize == "level":
            levels = zip(embedding.offsets, embedding.sizes, strict=True)
            parts = [table[start : start + size] for start, size in levels]
        return cls([fixed(part) for part in parts], embedding)

    def log_probabilities(
        self, x: Float[Tensor, "row dim"], level: int
    ) -> Float[Tensor, "row code"]:
        """As `CodeEmbedding.log_probabilities`."""
        rows, embedding = normed(x, torch.float32), self.embedding
        if embedding.normalize == "level":
            return multiply_few(rows, self.scores[level]).log_softmax(-1)
        found = multiply_few(rows, self.scores[0]).log_softmax(-1)
        start, size = embedding.offsets[level], embedding.sizes[level]
        return found[:, start : start + size]


def normed(x: Float[Tensor, "*shape dim"], dtype: torch.dtype) -> Float[Tensor, "*shape dim"]:
    """As T5's norm, but for its gain, in this precision.

    In four operations, where `torch.rms_norm` takes seven on a CPU.
    """
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    scale = torch.addcmul(_epsilon(x.device), norm, norm, value=1 / x.shape[-1]).rsqrt_()
    return (x * scale).to(dtype)


@cache
def _epsilon(device: torch.device) -> Float[Tensor, ""]:
    with torch.inference_mode(False):
        return torch.tensor(NORM_EPSILON, device=device)
