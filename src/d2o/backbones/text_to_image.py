"""The text-to-image networks of diffusers as backbones: a row of one table says how each is called, and when.

Their constructors are diffusers' own, and their settings those of a published config.json.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from d2o.diffusion.condition import Text
from d2o.records import find

from .backbone import Backbone, Roles
from .diffusers_class import complete_settings, make_network
from .options import POSITIVE, check_options, optional

USUAL_GUIDANCE = 3.5
"""What Flux's pipeline tells a guidance-distilled network."""
PIXELS = 8
"""Pixels that one of SDXL's and PixArt's latents stands for."""


class Network(NamedTuple):
    """How one class of diffusers is used.

    `call` maps (network, x, time, text, guidance) to what it predicts. `tokens` names the setting that is the width of
    a caption's tokens, and `pooled` returns that of its vector from the settings, 0 for none. One that is `masked` does
    not see tokens beyond a caption's end. `fold` is the side of the squares of latents that are one token of its input.
    Flows are told `time` times the time (None: as their scheduler says) that runs `towards` the noise or the image, and
    take even steps of it unless they are `scheduled`. Where there are `norms`, guidance leaves those of a prediction as
    they are.
    """

    call: Callable[[Any, Tensor, Tensor, Text, Tensor | None], Tensor]
    tokens: str
    pooled: Callable[[Mapping[str, Any]], int] = lambda _settings: 0
    masked: bool = False
    fold: int = 1
    time: float | None = None
    towards: str = "noise"
    scheduled: bool = False
    norms: Callable[[Tensor], Tensor] | None = None


def call_unet(net: Any, x: Tensor, time: Tensor, text: Text, _guidance: Tensor | None) -> Tensor:
    added = None
    if net.config.addition_embed_type is not None:  # SDXL is told the sizes before and after cropping, and its corner
        side = PIXELS * x.shape[-1]
        sizes = x.new_tensor([side, side, 0, 0, side, side]).expand(len(x), -1)
        added = {"text_embeds": text.pooled, "time_ids": sizes}
    return net(x, time, text.tokens, added_cond_kwargs=added, return_dict=False)[0]


def call_pixart(net: Any, x: Tensor, time: Tensor, text: Text, _guidance: Tensor | None) -> Tensor:
    sizes: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
    if net.use_additional_conditions:
        side = x.new_tensor([PIXELS * x.shape[-2], PIXELS * x.shape[-1]])
        sizes = {"resolution": side.expand(len(x), -1), "aspect_ratio": (side[:1] / side[1:]).expand(len(x), -1)}
    return net(x, text.tokens, time, sizes, encoder_attention_mask=text.mask, return_dict=False)[0]


def call_sd3(net: Any, x: Tensor, time: Tensor, text: Text, _guidance: Tensor | None) -> Tensor:
    return net(x, text.tokens, text.pooled, time, return_dict=False)[0]


def call_sana(net: Any, x: Tensor, time: Tensor, text: Text, guidance: Tensor | None) -> Tensor:
    return net(x, text.tokens, time, guidance=guidance, encoder_attention_mask=text.mask, return_dict=False)[0]


def call_flux(net: Any, x: Tensor, time: Tensor, text: Text, guidance: Tensor | None) -> Tensor:
    rows, columns = (torch.arange(side // 2, device=x.device) for side in x.shape[2:])
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), 2).flatten(0, 1).to(x.dtype)
    places, none = torch.cat([torch.zeros_like(grid[:, :1]), grid], 1), x.new_zeros(text.tokens.shape[1], 3)
    return unfold(net(fold(x), text.tokens, text.pooled, time, places, none, guidance, return_dict=False)[0], x)


def call_lumina2(net: Any, x: Tensor, time: Tensor, text: Text, _guidance: Tensor | None) -> Tensor:
    return net(x, time, text.tokens, text.mask, return_dict=False)[0]


def call_qwen_image(net: Any, x: Tensor, time: Tensor, text: Text, guidance: Tensor | None) -> Tensor:
    frames = [[(1, x.shape[2] // 2, x.shape[3] // 2)]] * len(x)
    return unfold(net(fold(x), text.tokens, text.mask, time, frames, guidance, return_dict=False)[0], x)


def call_z_image(net: Any, x: Tensor, time: Tensor, text: Text, _guidance: Tensor | None) -> Tensor:
    assert text.mask is not None
    captions = [tokens[there] for tokens, there in zip(text.tokens, text.mask.bool(), strict=True)]
    return torch.stack(net(list(x[:, :, None]), time, captions, return_dict=False)[0])[:, :, 0]


def fold(x: Tensor) -> Tensor:
    """Lay 2x2 latents out as the channels of one token, row by row: [N, C, H, W] -> [N, H/2 * W/2, 4C]."""
    return x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def unfold(tokens: Tensor, x: Tensor) -> Tensor:
    """Return tokens [N, H/2 * W/2, 4C] as latents of the height and width of x."""
    squares = tokens.view(len(x), x.shape[2] // 2, x.shape[3] // 2, -1, 2, 2)
    return squares.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def norm_rows(prediction: Tensor) -> Tensor:
    return prediction.norm(dim=3, keepdim=True)


def norm_tokens(prediction: Tensor) -> Tensor:
    """Return the norm of every square of 2x2 latents [N, C, H, W], at each of its places: [N, 1, H, W]."""
    squares = 4 * F.avg_pool2d(prediction.square().sum(1, keepdim=True), 2)
    return F.interpolate(squares.sqrt(), scale_factor=2)


def pooled_of_unet(settings: Mapping[str, Any]) -> int:
    """Return the width of SDXL's vector of a caption: what is left of a wider one by six embedded sizes."""
    if settings["addition_embed_type"] is None:
        return 0
    return settings["projection_class_embeddings_input_dim"] - 6 * settings["addition_time_embed_dim"]


def pooled_projection(settings: Mapping[str, Any]) -> int:
    return settings["pooled_projection_dim"]


NETWORKS: dict[str, Network] = {
    "UNet2DConditionModel": Network(call_unet, "cross_attention_dim", pooled_of_unet),
    "PixArtTransformer2DModel": Network(call_pixart, "caption_channels", masked=True),
    "SD3Transformer2DModel": Network(call_sd3, "joint_attention_dim", pooled_projection, scheduled=True),
    "SanaTransformer2DModel": Network(call_sana, "caption_channels", masked=True, scheduled=True),
    "FluxTransformer2DModel": Network(call_flux, "joint_attention_dim", pooled_projection, fold=2, time=1.0),
    "Lumina2Transformer2DModel": Network(
        call_lumina2, "cap_feat_dim", masked=True, time=1.0, towards="image", norms=norm_rows
    ),
    "QwenImageTransformer2DModel": Network(
        call_qwen_image, "joint_attention_dim", masked=True, fold=2, time=1.0, norms=norm_tokens
    ),
    "ZImageTransformer2DModel": Network(call_z_image, "cap_feat_dim", masked=True, time=1.0, towards="image"),
}


class TextToImage(Backbone):
    """A network F(x, noise, text) of diffusers, of the class `network` with its own `settings`; `config` rebuilds it.

    `guidance` is the scale that guidance-distilled networks are told, by default USUAL_GUIDANCE. What a
    network predicts of its own uncertainty is cut off.
    """

    kind: ClassVar[str] = "text_to_image"
    roles: ClassVar[Roles] = (
        (r"^network\.(time_(text_)?embed|add_embedding|adaln_single\.emb|t_embedder|(x|cap)_pad)", "embedding"),
        (r"(timestep|class|guidance|\.text)_embedder", "embedding"),
        (r"^network\.(caption_|context_embedder|txt_in|txt_norm|cap_embedder|time_caption_embed)", "text"),
        (r"^network\.(conv_in|pos_embed|patch_embed|x_embedder|img_in|all_x_embedder)", "input"),
        (r"^network\.(conv_out|conv_norm_out|proj_out|norm_out|all_final_layer|scale_shift_table)", "output"),
        (r"adaln_single\.linear|\.norm(1|1_context)?\.linear|(img|txt)_mod|scale_shift_table|adaLN_mod", "modulation"),
        (r"\.time_emb_proj\.", "affine"),
        (r"\.conv_shortcut\.", "skip"),
        (r"attn2\.to_[qkv]\.", "cross qkv"),
        (r"\.to_[qkv]\.|\.add_[qkv]_proj\.", "qkv"),
        (r"norm", "norm"),
        (r"\.to_(add_)?out\.|attentions\.\d+\.proj_(in|out)\.", "projection"),
        (r"\.ff(_context)?\.|_mlp\.|\.proj_mlp|feed_forward|transformer_blocks\.\d+\.proj_out\.", "mlp"),
        (r"\.resnets\.\d+\.conv[12]\.|\.(down|up)samplers\.", "convolution"),
    )
    network: Any  # nn.Module says of its parts only that they are modules or tensors

    def __init__(
        self,
        resolution: int,
        in_channels: int,
        out_channels: int,
        network: str,
        settings: Mapping[str, Any],
        num_classes: int = 0,
        guidance: float | None = None,
    ) -> None:
        sizes = check_options(locals()) | check_options({"guidance": guidance}, {"guidance": optional(POSITIVE)})
        row = find(network, NETWORKS, "text-to-image network of the class")
        settings = complete_settings(network, settings)
        if settings[row.tokens] is None:
            raise ValueError(f"A {network} without {row.tokens} reads no captions.")
        if num_classes or resolution % row.fold or settings["in_channels"] != row.fold**2 * in_channels:
            asked = f"{in_channels} channels of {resolution}x{resolution} in {num_classes} classes"
            raise ValueError(f"A {network} with in_channels {settings['in_channels']} does not make images of {asked}.")
        super().__init__()
        self.config = {**sizes, "network": network, "settings": settings}
        self.row, self.norms, self.out_channels = row, row.norms, out_channels
        self.guidance = (guidance or USUAL_GUIDANCE) if settings.get("guidance_embeds") else None
        self.token_width, self.pooled_width = settings[row.tokens], row.pooled(settings)
        self.text_width = self.pooled_width or self.token_width
        self.network = make_network(network, settings)

    def forward(
        self, x: Tensor, noise: Tensor, condition: Text | None = None, augmentation: Tensor | None = None
    ) -> Tensor:
        """Return [N, out_channels, H, W]; these networks know no augmentation labels, so they are ignored."""
        text = self.check(condition, len(x)).map(lambda part: part.to(x.dtype) if part.is_floating_point() else part)
        if self.row.masked and text.mask is None:
            text = replace(text, mask=torch.ones_like(text.tokens[:, :, 0], dtype=torch.long))
        told = None if self.guidance is None else x.new_full((len(x),), self.guidance)
        return self.row.call(self.network, x, noise, text, told)[:, : self.out_channels]

    def check(self, text: Text | None, count: int) -> Text:
        """Return a text that this network can read for so many images; anything else is a ValueError."""
        wanted = f"a d2o.diffusion.Text with tokens [{count}, L, {self.token_width}]"
        wanted += f" and pooled vectors [{count}, {self.pooled_width}]" if self.pooled_width else ""
        if not isinstance(text, Text):
            raise ValueError(f"This network is told {wanted}, not {type(text).__name__}: give the model a caption.")
        tokens, pooled = list(text.tokens.shape), [] if text.pooled is None else list(text.pooled.shape)
        misses_pooled = self.pooled_width > 0 and pooled != [count, self.pooled_width]
        if len(tokens) != 3 or tokens[::2] != [count, self.token_width] or misses_pooled:
            raise ValueError(f"This network is told {wanted}, not {tokens} and {pooled}: the text is another model's.")
        return text
