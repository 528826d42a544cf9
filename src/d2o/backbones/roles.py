"""What every parameter of a U-Net is for, so that recipes freeze by role and never by a substring of a name."""

import re
from collections.abc import Sequence

# The first row that matches decides. The names are those of the public EDM checkpoints.
ROLES: tuple[tuple[str, str], ...] = (
    (r"^map_", "embedding"),
    (r"^enc\.\d+x\d+_conv\.", "input"),
    (r"^dec\.\d+x\d+_aux_(norm|conv)\.|^out_(norm|conv)\.", "output"),
    (r"^enc\.\d+x\d+_aux_(residual|skip)\.", "residual"),
    (r"\.norm[012]\.", "norm"),
    (r"\.affine\.", "affine"),
    (r"\.skip\.", "skip"),
    (r"\.qkv\.", "qkv"),
    (r"\.proj\.", "projection"),
    (r"\.conv[01]\.", "convolution"),
)


def unet_role(parameter_name: str) -> str:
    """Return the role of a U-Net parameter: one of the words in ROLES.

    "convolution" is conv0 and conv1 of every block, those that resample included; "residual" brings the input image
    into deeper levels; "skip" is a block's own 1x1 shortcut.
    """
    return first_role(ROLES, parameter_name)


def first_role(rows: Sequence[tuple[str, str]], parameter_name: str) -> str:
    """Return the role in the first row (pattern, role) that matches a parameter's name."""
    for pattern, role in rows:
        if re.search(pattern, parameter_name):
            return role
    raise ValueError(f"No role is known for the parameter {parameter_name!r}.")
