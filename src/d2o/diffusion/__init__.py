"""The mathematics of diffusion: noise, preconditioning, denoisers and samplers. Knows no network.

Families are found here by their names, `from d2o.diffusion import Flow`, as is `Text`; `families` has them all.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .condition import Text
    from .families import EDM, VE, VP, Boundary, Epsilon, Flow, Sample, Velocity

__all__ = ["EDM", "VE", "VP", "Boundary", "Epsilon", "Flow", "Sample", "Text", "Velocity"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import condition, families

    return vars(condition if name == "Text" else families)[name]
