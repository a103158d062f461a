"""Which numbers matrix products are made with: float32, or bfloat16 where it is fast."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from bbqrec.products import linear

Precision = Literal["auto", "fp32", "bf16"]


def is_bf16(precision: Precision, device: torch.device | str) -> bool:
    """auto: bf16 on a GPU and on a CPU that multiplies bf16 itself, else fp32."""
    if precision != "auto":
        return precision == "bf16"
    if torch.device(device).type == "cuda":
        return True
    return bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def autocast(precision: Precision, device: torch.device | str) -> torch.autocast:
    """Products in bf16 within this context if `precision` says so."""
    enabled = is_bf16(precision, device)
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=enabled)


def full_product(
    x: Float[Tensor, "*shape dim"], rows: Float[Tensor, "row dim"]
) -> Float[Tensor, "*shape row"]:
    """x @ rows.T in float32 even under autocast: with the 8 bits of bf16 scores would tie."""
    with torch.autocast(x.device.type, enabled=False):
        return linear(x.float(), rows.float())
