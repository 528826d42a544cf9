"""DiffusersUNet: the UNet2DModel of diffusers (DDPM and its descendants, arXiv 2006.11239) as a backbone."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from d2o.records import nearest

from .backbone import Backbone
from .layers import full_precision, one_hot
from .options import OPTIONS, Option, choice, share, whole, wholes
from .roles import first_role


def number() -> Option:
    """A positive number."""
    return Option(lambda value: type(value) in (int, float) and 0 < value < 1e6, "a positive number below a million")


def flag() -> Option:
    """Yes or no."""
    return Option(lambda value: type(value) is bool, "true or false")


def words(*names: str) -> Option:
    """A list of some of the given words."""
    return Option(
        lambda value: (
            isinstance(value, list | tuple) and 1 <= len(value) <= 10 and all(word in names for word in value)
        ),
        f"a list of 1 to 10 of {', '.join(names)}",
    )


def or_nothing(option: Option) -> Option:
    """The same, or null."""
    return Option(lambda value: value is None or option.allows(value), f"null or {option.meaning}")


# What UNet2DModel takes beside the sizes of its images: its name -> its default and what it may be. A network that says
# more than this is refused, because it would not be the one that was trained.
SETTINGS: dict[str, tuple[Any, Option]] = {
    "center_input_sample": (False, flag()),
    "time_embedding_type": ("positional", choice("positional")),
    "time_embedding_dim": (None, or_nothing(whole(1, 65536))),
    "freq_shift": (0, whole(0, 1)),
    "flip_sin_to_cos": (True, flag()),
    "down_block_types": (
        ["DownBlock2D", *["AttnDownBlock2D"] * 3],
        words("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"),
    ),
    "mid_block_type": ("UNetMidBlock2D", or_nothing(choice("UNetMidBlock2D"))),
    "up_block_types": (
        [*["AttnUpBlock2D"] * 3, "UpBlock2D"],
        words("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    ),
    "block_out_channels": ([224, 448, 672, 896], wholes(1, 10, 2, 4096)),
    "layers_per_block": (2, whole(1, 64)),
    "mid_block_scale_factor": (1, number()),
    "downsample_padding": (1, whole(0, 1)),
    "downsample_type": ("conv", choice("conv", "resnet")),
    "upsample_type": ("conv", choice("conv", "resnet")),
    "dropout": (0.0, share()),
    "act_fn": ("silu", choice("silu", "swish", "mish", "gelu", "relu")),
    "attention_head_dim": (8, or_nothing(whole(1, 4096))),
    "norm_num_groups": (32, whole(1, 4096)),
    "attn_norm_num_groups": (None, or_nothing(whole(1, 4096))),
    "norm_eps": (1e-5, number()),
    "resnet_time_scale_shift": ("default", choice("default", "scale_shift")),
    "add_attention": (True, flag()),
    "class_embed_type": (None, Option(lambda value: value is None, "null")),
    "num_train_timesteps": (None, or_nothing(whole(1, 1_000_000))),
}

# The first row that matches decides. The samplers between two levels are convolutions or whole blocks.
ROLES: tuple[tuple[str, str], ...] = (
    (r"^unet\.(time_embedding|class_embedding)\.", "embedding"),
    (r"^unet\.conv_in\.", "input"),
    (r"^unet\.conv_(norm_)?out\.", "output"),
    (r"\.(norm1|norm2|group_norm)\.", "norm"),
    (r"\.time_emb_proj\.", "affine"),
    (r"\.conv_shortcut\.", "skip"),
    (r"\.to_[qkv]\.", "qkv"),
    (r"\.to_out\.", "projection"),
    (r"\.resnets\.\d+\.conv[12]\.|\.(down|up)samplers\.", "convolution"),
)


class DiffusersUNet(Backbone):
    """A UNet2DModel F(x, noise, label): `noise` is a number of the training's timesteps; `config` rebuilds it.

    `unet` are the settings of UNet2DModel under its own names; what is left out has its default.
    """

    kind: ClassVar[str] = "diffusers_unet"
    unet: Any  # nn.Module says of its parts only that they are modules or tensors

    def __init__(
        self,
        resolution: int,
        in_channels: int,
        out_channels: int,
        num_classes: int = 0,
        unet: Mapping[str, Any] | None = None,
    ) -> None:
        sizes = {"resolution": resolution, "in_channels": in_channels, "out_channels": out_channels}
        sizes["num_classes"] = num_classes
        for name, value in sizes.items():
            if not OPTIONS[name].allows(value):
                raise ValueError(f"The backbone option {name} must be {OPTIONS[name].meaning}, not {value!r}.")
        settings = checked_settings({} if unet is None else unet, resolution)
        super().__init__()
        self.config = {**sizes, "unet": settings}
        self.num_classes = num_classes
        self.unet = unet_model()(
            sample_size=resolution,
            in_channels=in_channels,
            out_channels=out_channels,
            num_class_embeds=num_classes or None,
            **settings,
        )
        width = settings["block_out_channels"][0]
        if num_classes:
            self.unet.class_embedding = ClassVectors(num_classes, settings["time_embedding_dim"] or 4 * width)
        self.unet.conv_out = PreciseConv2d(width, out_channels, 3, padding=1)

    @staticmethod
    def role(parameter_name: str) -> str:
        """Return the role of a parameter; "convolution" includes the samplers between the levels."""
        return first_role(ROLES, parameter_name)

    def forward(
        self, x: Tensor, noise: Tensor, label: Tensor | None = None, augmentation: Tensor | None = None
    ) -> Tensor:
        """Return [N, out_channels, H, W]; a UNet2DModel knows no augmentation labels, so they are ignored."""
        del augmentation
        classes = one_hot(label, x, self.num_classes)
        return self.unet(x, noise, classes if self.num_classes else None, return_dict=False)[0]


class ClassVectors(nn.Embedding):
    """A vector for every class, added up by one-hot rows [N, K]: nothing for no class."""

    def forward(self, input: Tensor) -> Tensor:
        return input @ self.weight


class PreciseConv2d(nn.Conv2d):
    """A convolution in float32 also under autocast: the denoiser multiplies its errors by sigma."""

    def forward(self, input: Tensor) -> Tensor:
        with full_precision(input.device):
            return super().forward(input.to(self.weight.dtype))


def checked_settings(given: Mapping[str, Any], resolution: int) -> dict[str, Any]:
    """Return all settings of a UNet2DModel, or raise ValueError for one that is unknown, wrong or does not fit."""
    if not isinstance(given, Mapping):
        raise ValueError(f"The backbone option unet must be a record of settings, not {given!r}.")
    for name, value in given.items():
        if name not in SETTINGS:
            raise ValueError(f"A UNet2DModel here has no setting {name!r}; {nearest(name, list(SETTINGS))}")
        if not SETTINGS[name][1].allows(value):
            raise ValueError(f"The UNet2DModel setting {name} must be {SETTINGS[name][1].meaning}, not {value!r}.")
    settings = {name: given.get(name, default) for name, (default, _) in SETTINGS.items()}
    levels = len(settings["block_out_channels"])
    if not levels == len(settings["down_block_types"]) == len(settings["up_block_types"]):
        raise ValueError("block_out_channels, down_block_types and up_block_types must be equally long.")
    if resolution % 2 ** (levels - 1):
        raise ValueError(f"With {levels} levels the resolution must be a multiple of {2 ** (levels - 1)}.")
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


def unet_model() -> Callable[..., nn.Module]:
    """Return the class UNet2DModel, imported only when one is built."""
    try:
        from diffusers.models.unets.unet_2d import UNet2DModel
    except ImportError as error:
        raise ValueError(
            "This network needs the package diffusers: pip install -e '.[diffusers]' in d2o's folder"
        ) from error
    return UNet2DModel
