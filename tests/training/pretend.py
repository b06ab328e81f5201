"""A GPU to test on where there is none: tensors that say they are on one, and compute on the CPU.

As on a real one, an operator that is given tensors of both kinds is an error, numbers and tensors
without dimensions apart. Forward passes alone: autograd's engine would look for the device.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

GPU = torch.device("meta")  # a kind that needs no driver
_MAY_MIX = (  # copies from one to the other, and reading at places that the CPU knows
    torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default, torch.ops.aten.index.Tensor,
)  # fmt: skip


class OnGpu(torch.Tensor):
    """What is in `values`, as if it were elsewhere."""

    @staticmethod
    def __new__(cls, values):
        return torch.Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), dtype=values.dtype, device=GPU
        )

    def __init__(self, values):
        self.values = values

    def tolist(self):
        return self.values.tolist()

    def __repr__(self):
        return f"OnGpu({self.values})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


def compute(func, args, kwargs):
    """The operator on the values; its tensors are on the GPU where those given are, or if asked."""
    given, layout = tree_flatten((args, kwargs))
    there = [isinstance(x, OnGpu) for x in given]
    here = [isinstance(x, torch.Tensor) and not isinstance(x, OnGpu) and x.dim() for x in given]
    if any(there) and any(here) and func not in _MAY_MIX:
        raise RuntimeError(f"{func} was given tensors of the CPU and of the GPU")
    if any(isinstance(x, torch.Tensor) and x.is_meta and not isinstance(x, OnGpu) for x in given):
        raise RuntimeError(f"{func} was given a tensor made aside, perhaps of a list")
    asked = kwargs.get("device")
    to_gpu = any(there) if asked is None else torch.device(asked).type == GPU.type
    if func is torch.ops.aten._fused_sdp_choice.default:
        return 0  # the plain products, which every device has
    values = [x.values if isinstance(x, OnGpu) else x for x in given]
    args, kwargs = tree_unflatten(values, layout)
    if asked is not None:
        kwargs = {**kwargs, "device": "cpu"}
    made = func(*args, **kwargs)
    if func is torch.ops.aten.copy_.default:
        return given[0]
    if not to_gpu:
        return made
    written = {id(x.values): x for x in given if isinstance(x, OnGpu)}  # in place

    def wrapped(x):
        if not isinstance(x, torch.Tensor):
            return x
        return written[id(x)] if id(x) in written else OnGpu(x)

    return tree_map(wrapped, made)


class Pretending(TorchDispatchMode):
    """Inside it `.to(GPU)` and `device=GPU` give tensors that say they are there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


def moved(module):
    """The module with its weights and buffers there; call it inside `Pretending`."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                there = OnGpu(parameter.detach())
                part._parameters[name] = torch.nn.Parameter(there, requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = OnGpu(buffer)
    return module
