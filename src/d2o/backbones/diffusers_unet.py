"""DiffusersUNet: the UNet2DModel of diffusers (DDPM and its descendants, arXiv 2006.11239) as a backbone."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from d2o.records import nearest

from .backbone import Backbone, Roles
from .conditioning import full_precision, one_hot
from .options import FLAG, POSITIVE, PROBABILITY, Option, check_options, choice, optional, several, whole
from .unet import check_halvings

DOWN = several(choice("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"), 1, 10)
UP = several(choice("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"), 1, 10)

# What UNet2DModel takes beside the sizes of its images: its name -> its default and what it may be. A network with
# other settings is refused, because it would not be the one that was trained.
SETTINGS: dict[str, tuple[Any, Option]] = {
    "center_input_sample": (False, FLAG),
    "time_embedding_type": ("positional", choice("positional")),
    "time_embedding_dim": (None, optional(whole(1, 65536))),
    "freq_shift": (0, whole(0, 1)),
    "flip_sin_to_cos": (True, FLAG),
    "down_block_types": (["DownBlock2D", *["AttnDownBlock2D"] * 3], DOWN),
    "mid_block_type": ("UNetMidBlock2D", optional(choice("UNetMidBlock2D"))),
    "up_block_types": ([*["AttnUpBlock2D"] * 3, "UpBlock2D"], UP),
    "block_out_channels": ([224, 448, 672, 896], several(whole(2, 4096), 1, 10)),
    "layers_per_block": (2, whole(1, 64)),
    "mid_block_scale_factor": (1, POSITIVE),
    "downsample_padding": (1, whole(0, 1)),
    "downsample_type": ("conv", choice("conv", "resnet")),
    "upsample_type": ("conv", choice("conv", "resnet")),
    "dropout": (0.0, PROBABILITY),
    "act_fn": ("silu", choice("silu", "swish", "mish", "gelu", "relu")),
    "attention_head_dim": (8, optional(whole(1, 4096))),
    "norm_num_groups": (32, whole(1, 4096)),
    "attn_norm_num_groups": (None, optional(whole(1, 4096))),
    "norm_eps": (1e-5, POSITIVE),
    "resnet_time_scale_shift": ("default", choice("default", "scale_shift")),
    "add_attention": (True, FLAG),
    "class_embed_type": (None, Option(lambda value: value is None, "null")),
    "num_train_timesteps": (None, optional(whole(1, 1_000_000))),
}


class DiffusersUNet(Backbone):
    """A UNet2DModel F(x, noise, condition): `noise` is a number of the training's timesteps; `config` rebuilds it.

    `unet` are the settings of UNet2DModel under its own names; what is left out has its default. The role
    "convolution" includes the samplers between the levels.
    """

    kind: ClassVar[str] = "diffusers_unet"
    roles: ClassVar[Roles] = (
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
    unet: Any  # nn.Module says of its parts only that they are modules or tensors

    def __init__(
        self,
        resolution: int,
        in_channels: int,
        out_channels: int,
        num_classes: int = 0,
        unet: Mapping[str, Any] | None = None,
    ) -> None:
        sizes = check_options(locals())
        settings = complete_settings({} if unet is None else unet, resolution)
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

    def forward(
        self, x: Tensor, noise: Tensor, condition: Tensor | None = None, augmentation: Tensor | None = None
    ) -> Tensor:
        """Return [N, out_channels, H, W]; a UNet2DModel knows no augmentation labels, so they are ignored."""
        classes = one_hot(condition, x, self.num_classes)
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


def complete_settings(given: Mapping[str, Any], resolution: int) -> dict[str, Any]:
    """Return all settings of a UNet2DModel, or raise ValueError for one that is unknown, wrong or does not fit."""
    if not isinstance(given, Mapping):
        raise ValueError(f"The backbone option unet must be a mapping of settings, not {given!r}.")
    if unknown := next((name for name in given if name not in SETTINGS), None):
        raise ValueError(f"A UNet2DModel here has no setting {unknown!r}; {nearest(unknown, SETTINGS)}")
    check_options(given, {name: option for name, (_, option) in SETTINGS.items()})
    settings = {name: given.get(name, default) for name, (default, _) in SETTINGS.items()}
    levels = len(settings["block_out_channels"])
    if not levels == len(settings["down_block_types"]) == len(settings["up_block_types"]):
        raise ValueError("block_out_channels, down_block_types and up_block_types must be equally long.")
    check_halvings(resolution, levels, "block_out_channels")
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


def unet_model() -> Callable[..., nn.Module]:
    try:
        from diffusers.models.unets.unet_2d import UNet2DModel
    except ImportError as error:
        raise ValueError("This network needs diffusers: pip install -e '.[diffusers]' in d2o's folder") from error
    return UNet2DModel
