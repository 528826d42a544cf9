"""Which device computes: the best that is there, or the one that was asked for."""

import torch


def find_device(name: str = "auto") -> torch.device:
    """Return the device of a name: auto (a GPU of CUDA, else Apple's, else the processor), cpu, cuda, cuda:1, mps.

    Raises ValueError for one that is not there.
    """
    here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        return here or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device {name} is not a device: choose auto, cpu, cuda, cuda:1, ... or mps.") from None
    if device.type == "cpu":
        return torch.device("cpu")
    count = torch.accelerator.device_count() if here is not None and here.type == device.type else 0
    if (device.index or 0) < count:
        return device
    others = "" if here is None else f" and {here.type} ({torch.accelerator.device_count()} of them)"
    raise ValueError(f"--device {name} is not there: PyTorch sees cpu{others}; leave the option out to use the best.")


def widen(x: torch.Tensor) -> torch.Tensor:
    """Return numbers in float64, but on Apple's GPUs, which have none, in float32."""
    return x.float() if x.device.type == "mps" else x.double()
