"""Text-to-image networks of diffusers as backbones: what D2O-F freezes at full size, and settings that are refused."""

import time

import pytest
import torch

from d2o import backbones
from d2o.backbones.text_to_image import fold, norm_tokens, unfold
from d2o.checkpoints import native
from d2o.diffusion import Flow, Text
from d2o.diffusion.denoiser import Denoiser
from d2o.planning.text_networks import SD3, SDXL
from d2o.training.freezing import default_rules, freeze, measure_shares
from refusal import refused

SD21 = {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}
PUBLISHED = {  # class, settings, latent channels, width of a caption's vector, millions of parameters, frozen share
    "SD 1.5": ("UNet2DConditionModel", {"cross_attention_dim": 768}, 4, 768, 859.5, 0.860),
    "SD 2.1": ("UNet2DConditionModel", SD21, 4, 1024, 865.9, 0.854),
    "SDXL": ("UNet2DConditionModel", SDXL, 4, 1280, 2567, 0.693),
    "PixArt-XL/2": ("PixArtTransformer2DModel", {"caption_channels": 4096, "sample_size": 64}, 4, 4096, 611, 0.622),
    "SD3-medium": ("SD3Transformer2DModel", SD3, 16, 2048, 2028, 0.823),
    "Flux-dev": ("FluxTransformer2DModel", {"guidance_embeds": True}, 16, 768, 11901, 0.814),
    "Sana-1.6B": ("SanaTransformer2DModel", {}, 32, 2304, 1605, 0.596),
    "Lumina 2": ("Lumina2Transformer2DModel", {"cap_feat_dim": 2304}, 16, 2304, 2610, 0.895),
    "Qwen-Image": ("QwenImageTransformer2DModel", {}, 16, 3584, 20430, 0.832),
    "Z-Image": ("ZImageTransformer2DModel", {}, 16, 2560, 6155, 0.754),
}


def describe(network, settings, channels, side=64):
    sizes = {"resolution": side, "in_channels": channels, "out_channels": channels}
    return {"kind": "text_to_image", **sizes, "network": network, "settings": settings}


@pytest.mark.parametrize("name", PUBLISHED)
def test_d2o_f_freezes_these_shares_of_published_networks(name):
    network, settings, channels, width, millions, share = PUBLISHED[name]
    with torch.device("meta"):
        backbone = backbones.build(describe(network, settings, channels))
    denoiser = Denoiser(backbone, Flow(), (channels, 64, 64))
    assert not any(buffer.is_meta for buffer in backbone.buffers())  # they are in no checkpoint
    assert sum(p.numel() for p in backbone.parameters()) / 1e6 == pytest.approx(millions, rel=1e-3)
    assert backbone.text_width == width
    shares, rules = measure_shares(denoiser), default_rules(denoiser)
    found = freeze(denoiser, rules)
    assert found.frozen / found.total == pytest.approx(share, abs=5e-4) == sum(shares[rule] for rule in rules)


def make_tiny(**settings):
    tiny = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 4}
    tiny |= {"joint_attention_dim": 8, "caption_projection_dim": 16, "pooled_projection_dim": 6, "sample_size": 8}
    return describe("SD3Transformer2DModel", {**tiny, "pos_embed_max_size": 16, **settings}, 4, 8)


def test_a_network_travels_in_our_own_file(tmp_path):
    torch.manual_seed(0)
    denoiser = Denoiser(backbones.build(make_tiny()), Flow(time_scale=1000.0), (4, 8, 8)).eval()
    native.save(tmp_path / "model.safetensors", denoiser)
    tensors, spec = native.read(tmp_path / "model.safetensors")
    again = native.make(tmp_path / "model.safetensors", spec, tensors)
    x, text = torch.randn(2, 4, 8, 8), Text(torch.randn(2, 3, 8), pooled=torch.randn(2, 6))
    with torch.no_grad():
        assert torch.equal(denoiser(x, 3.0, text), again(x, 3.0, text))
        rows = denoiser(x, 3.0, text)
        assert torch.allclose(denoiser(x[1:], 3.0, text[1:]), rows[1:], atol=1e-5)
    for wrong in (text[:1], Text(torch.randn(2, 3, 9), pooled=text.pooled), Text(text.tokens), torch.zeros(2)):
        with refused("tokens"):
            denoiser(x, 3.0, wrong)
    with refused("caption"):
        denoiser(x, 3.0)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"num_layers": 10**9}, "num_layers"),
        ({"num_layers": -1}, "num_layers"),
        ({"pos_embed_max_size": 60_000}, "60000x60000"),
        ({"num_attention_heads": "two"}, "SD3Transformer2DModel"),
        ({"num_attention_heads": 10**12}, "num_attention_heads"),
        ({"dual_attention_layers": [0] * 1000}, "dual_attention_layers"),
        ({"joint_attention_dim": None}, "joint_attention_dim"),
        ({"pooled_projection_dim": "wide"}, "pooled_projection_dim"),
        ({"qk_norm": {"__reduce__": "os.system"}}, "qk_norm"),
        ({"qk_norm": "unknown"}, "SD3Transformer2DModel"),
        ({"siblings": 3}, "siblings"),
        ({"in_channels": 16}, "in_channels"),
    ],
)
def test_settings_that_no_network_has_are_refused_at_once(settings, named):
    began = time.monotonic()
    with torch.device("meta"), refused(named):
        backbones.build(make_tiny(**settings))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("setting", ["class_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim"])
def test_networks_that_are_told_more_than_a_caption_are_refused(setting):
    with torch.device("meta"), refused(setting):
        backbones.build(describe("UNet2DConditionModel", {setting: "projection"}, 4))


def test_tokens_are_squares_row_by_row():
    x = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    tokens = fold(x)
    assert tokens.shape == (2, 6, 12) and torch.equal(tokens[1, 4].view(3, 2, 2), x[1, :, 2:4, 2:4])
    assert torch.equal(unfold(tokens, x), x)
    assert torch.allclose(norm_tokens(x)[0, 0, ::2, ::2].flatten(), tokens[0].norm(dim=1))
