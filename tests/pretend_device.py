"""A device that is not there: its tensors keep to each other, as those of a GPU do.

What is computed with them is computed on the CPU, from which they differ in what they refuse: the
company of a CPU's tensor (but of a single number, or of indices), and `numpy`. So a program that
forgets to move a tensor fails where no GPU is at hand, too.
"""

import contextlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "elsewhere"

aten = torch.ops.aten
TAKES_INDICES_OF_THE_CPU = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}


class WrongDeviceError(AssertionError):
    """Tensors of both devices met in one operation."""


def _register() -> torch.device:
    """Make the name known to PyTorch, once in a process."""
    module = ModuleType(NAME)
    functions = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "manual_seed_all": lambda seed: None,
        "_is_in_bad_fork": lambda: False,
        "get_amp_supported_dtype": lambda: [torch.bfloat16, torch.float32],
    }
    vars(module).update(functions)
    _setup_privateuseone_for_python_backend(NAME, module)
    _library.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    return torch.device(NAME, 0)


_library = torch.library.Library("_", "IMPL")  # what it registers lasts as long as it does
DEVICE = _register()


class There(torch.Tensor):
    """A tensor that says it is on the device; `held` has its numbers."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "There":
        there = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        there.held = held
        return there

    def tolist(self) -> Any:  # PyTorch's own is for its own class alone
        return self.held.tolist()

    def __repr__(self, **options: Any) -> str:
        return f"There({self.held!r})"

    @classmethod
    def __torch_dispatch__(
        cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(operation, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Operations that make tensors from none of the device's."""

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(operation, args, kwargs or {})


def _is_there(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def _held(value: Any) -> Any:
    return value.held if isinstance(value, There) else value


def _run(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The operation on what its tensors hold, its results on the device where it took place."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    those_there = {id(_held(x)): x for x in tensors if isinstance(x, There)}
    given = kwargs.get("device")
    is_there = bool(those_there) if given is None else _is_there(given)
    if those_there and operation not in (aten._to_copy.default, aten.copy_.default):
        _check_company(operation, tensors)
    placed = kwargs if given is None else {**kwargs, "device": "cpu"}
    result = operation(*tree_map(_held, args), **tree_map(_held, placed))
    if operation is aten.copy_.default:
        return args[0]

    def place(value: Any) -> Any:
        if not (is_there and isinstance(value, torch.Tensor)):
            return value
        return those_there[id(value)] if id(value) in those_there else There(value)

    return tree_map(place, result)


def _check_company(operation: Any, tensors: list[torch.Tensor]) -> None:
    if operation in TAKES_INDICES_OF_THE_CPU:
        return
    for tensor in tensors:
        if not isinstance(tensor, There) and tensor.dim() > 0:
            raise WrongDeviceError(
                f"{operation}: a tensor of shape {tuple(tensor.shape)} is on the CPU, others are "
                f"on {DEVICE}"
            )


class _NoInference(contextlib.ContextDecorator):
    """`torch.inference_mode`, whose tensors cannot be views of another class's, as `no_grad`."""

    def __init__(self, mode: bool = True) -> None:
        self._no_grad = torch.no_grad() if mode else contextlib.nullcontext()

    def __enter__(self) -> None:
        self._no_grad.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._no_grad.__exit__(*error)


@contextlib.contextmanager
def pretended() -> Iterator[torch.device]:
    """In this thread there is such a device."""
    on_cpu = torch.tensor

    def tensor(*args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        made = on_cpu(*args, **kwargs)  # PyTorch's own way there passes the modes by
        return made if device is None else made.to(device)

    def inference_mode(mode: Any = True) -> Any:
        return _NoInference(mode) if isinstance(mode, bool) else _NoInference()(mode)

    with (
        mock.patch.object(torch, "tensor", tensor),
        mock.patch.object(torch, "inference_mode", inference_mode),
        _Factories(),
    ):
        yield DEVICE
