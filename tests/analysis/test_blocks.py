"""A network made of known filters gets the right block table; places, weights, and what fine-tuning moved."""

import json
import warnings
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from d2o import backbones
from d2o.analysis.blocks import blocks, relations
from d2o.analysis.blocks_report import report
from d2o.analysis.frequency import Band, octaves, rings
from d2o.analysis.network import maps, places, watch_blocks
from d2o.analysis.paths import Sampling
from d2o.analysis.weight_change import weight_changes
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM


def keep_band(images, band):
    ring = rings(*images.shape[-2:])
    inside = (ring >= band.low) & (ring <= band.high)
    return torch.fft.ifft2(torch.fft.fft2(images.float()) * inside).real


class Only(nn.Module):
    """A block that lets one band through, and triples it."""

    def __init__(self, band):
        super().__init__()
        self.band = band

    def forward(self, x):
        return 3 * keep_band(x, self.band)


class Halve(nn.Module):
    """Every second pixel of what is slow enough: half the width, and the same cycles an image."""

    def forward(self, x):
        return keep_band(x, Band(0, 3))[:, :, ::2, ::2]


class Filters(nn.Module):
    """Known filters in parallel, each of which sees the same input."""

    def __init__(self, bands):
        super().__init__()
        self.filters = nn.ModuleList([*(Only(band) for band in bands), nn.Identity(), Halve()])

    def forward(self, x, noise, label=None, augmentation=None):
        return (
            torch.stack([block(x) for block in self.filters[:-2]]).sum(0)
            + 0 * self.filters[-1](x).mean()
            + (0 * self.filters[-2](x))
        )


def known(side=16):
    return Denoiser(Filters(octaves(12)[1:]), EDM(), (1, side, side))


class TestKnownFilters:
    def test_every_block_has_its_band(self):
        study = blocks(known(), Sampling(range(6), 5, batch_size=4))
        found = {block.name: block for block in study.before}
        for index, band in enumerate(octaves(12)[1:]):
            block = found[f"filters.{index}"]
            assert block.change_band == block.response_band == band and block.place == "network"
            low, high = band.low, min(band.high, 11)
            assert low - 1e-6 <= block.change_centroid[0] <= high + 1e-6
            inside = np.zeros(12, bool)
            inside[low : high + 1] = True
            assert (block.response[:, ~inside] < 1e-6).all()
            assert np.allclose(block.response[:, inside], 1 / inside.sum())  # flat in its band, and of sum 1

    def test_an_identity_is_flat_and_keeps_the_bands_of_its_input(self):
        found = {block.name: block for block in blocks(known(), Sampling(range(6), 5)).before}
        identity = found["filters.4"]
        assert np.allclose(identity.response[:, 1:], 1 / 11)
        assert identity.response_centroid[0] == pytest.approx(6)
        assert identity.response_band == "flat" and str(identity.response_band) == "flat"

    @pytest.mark.parametrize(("gain", "band"), [(1.004, "flat"), (1.02, "2-3")])
    def test_a_response_is_flat_within_a_hundredth(self, gain, band):
        class Tilted(nn.Module):
            def forward(self, x):
                return x + (gain**0.5 - 1) * keep_band(x, Band(2, 3))

        model = known()
        cast(Any, model.backbone).filters[4] = Tilted()
        tilted = next(block for block in blocks(model, Sampling(range(4), 4)).before if block.name == "filters.4")
        assert str(tilted.response_band) == band

    def test_a_smaller_map_counts_the_same_cycles(self):
        halve = next(block for block in blocks(known(), Sampling(range(6), 5)).before if block.name == "filters.5")
        assert halve.size == (8, 8) and halve.response.shape[1] == 7
        assert np.allclose(halve.response, [0, 1 / 3, 1 / 3, 1 / 3, 0, 0, 0], atol=1e-6)

    def test_the_table(self):
        table = report(blocks(known(), Sampling(range(6), 5))).tables[1]
        rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
        assert [str(rows[f"filters.{i}"]["change band"]) for i in range(4)] == ["1", "2-3", "4-7", "8-15"]
        assert [rows[f"filters.{i}"]["map"] for i in range(6)] == ["16x16"] * 5 + ["8x8"]

    def test_the_mean_of_a_block_is_told_apart(self, tiny_denoiser):
        class Shifted(Filters):
            def forward(self, x, noise, label=None, augmentation=None):
                return super().forward(x + 50 * noise.view(-1, 1, 1, 1), noise)

        model = Denoiser(Shifted(octaves(12)[1:]), EDM(), (1, 16, 16))
        plain, shifted = (
            next(b for b in blocks(m, Sampling(range(4), 5)).before if b.name == "filters.4") for m in (known(), model)
        )
        assert plain.shift < 0.05 and shifted.shift > 0.5
        assert shifted.change_centroid[0] == pytest.approx(plain.change_centroid[0], abs=0.2)


class Fixed(nn.Module):
    """A block that gives the same whatever enters it."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return torch.full_like(x, self.value)


class TestDeadBlocks:
    @staticmethod
    def model(*others, last=None):
        backbone = Filters([])
        backbone.filters = nn.ModuleList([*others, *(last or (nn.Identity(), Halve()))])
        backbone.scale = nn.Parameter(torch.ones(1))  # for studies of weights
        return Denoiser(backbone, EDM(), (1, 16, 16))

    def test_have_no_band(self, tmp_path):
        study = blocks(self.model(Only(Band(1, 1)), Fixed(0.0), Fixed(2.0)), Sampling(range(4), 4))
        assert [block.change_band for block in study.before[:3]] == [Band(1, 1), None, None]
        assert [block.response_band for block in study.before[:3]] == [Band(1, 1), None, None]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            made = report(study)
        (legend,) = made.figures["network"].legends
        assert [text.get_text() for text in legend.get_texts()][-1] == "does not change"
        made.write(tmp_path, {})
        stored = json.loads((tmp_path / "blocks.json").read_text())["before"]
        assert [(block["change_band"], block["response_band"]) for block in stored[:2]] == [("1", "1"), (None, None)]

    def test_may_be_all_there_are(self):
        model = self.model(Fixed(1.0), last=(Fixed(1.0), Fixed(2.0)))
        study = blocks(model, Sampling(range(4), 4), model)
        assert all(block.change_band is None for block in (*study.before, *study.after))
        assert "nan" not in report(study).text()


SMALL = {"resolution": 8, "in_channels": 1, "out_channels": 1}
UNET = {"channels": 8, "channel_multipliers": [1, 1], "num_blocks": 1, "attention_resolutions": [4]}
NETWORKS = {
    "song_unet": {**SMALL, **UNET, "embedding_multiplier": 2, "encoder": "residual"},
    "dhariwal_unet": {**SMALL, **UNET, "channels": 64, "embedding_multiplier": 1},
    "dit": {**SMALL, "channels": 16, "num_blocks": 3, "num_heads": 2},
}


class TestPlaces:
    def test_of_a_unet(self):
        found = places(backbones.build({"kind": "song_unet", **NETWORKS["song_unet"]}))
        assert found["enc.8x8_conv"] == "input" and found["dec.8x8_aux_conv"] == "output"
        assert found["enc.4x4_down"] == "encoder" and found["dec.4x4_in0"] == "decoder"
        assert not any("norm" in name or "residual" in name for name in found)

    def test_of_a_transformer(self):
        found = places(backbones.build({"kind": "dit", **NETWORKS["dit"]}))
        blocks = {f"blocks.{i}": "transformer" for i in range(3)}
        assert found == {"x_embedder": "input", **blocks, "final_layer": "output"}

    @pytest.mark.parametrize("kind", NETWORKS)
    def test_every_block_is_seen_as_a_map(self, kind):
        backbone = backbones.build({"kind": kind, **NETWORKS[kind]}).eval()
        with watch_blocks(backbone) as seen, torch.no_grad():
            backbone(torch.randn(2, 1, 8, 8), torch.zeros(2))
        assert seen.keys() == places(backbone).keys()
        expected = {(4, 4)} if kind == "dit" else {(8, 8), (4, 4)}
        assert {tuple(left.shape[-2:]) for _, left in seen.values()} == expected

    def test_hooks_are_taken_away(self, tiny_denoiser):
        model = tiny_denoiser()
        with watch_blocks(model.backbone):
            pass
        assert not any(module._forward_hooks for module in model.modules())

    def test_tokens_are_the_map_row_by_row(self):
        tokens = torch.randn(2, 9, 5)
        (found,) = maps([torch.randn(2, 10, 5), [tokens]])  # 10 tokens are no square
        assert torch.equal(found[:, :, 1, 2], tokens[:, 5])


class TestBeforeAndAfter:
    def test_weights_that_grew_by_a_tenth(self, tiny_denoiser):
        before, after = tiny_denoiser(0), tiny_denoiser(0)
        with torch.no_grad():
            for name, parameter in after.backbone.named_parameters():
                if before.backbone.role(name) == "norm":
                    parameter.mul_(1.1)
        moved = {(row.block, row.role): row for row in weight_changes(before, after)}
        assert moved["all", "norm"].relative == pytest.approx(0.1, rel=1e-5)
        assert moved["all", "convolution"].relative == 0
        assert moved["enc.8x8_block0", "norm"].relative == pytest.approx(0.1, rel=1e-5)
        everything = sum(row.parameters for (block, role), row in moved.items() if block != "all" and role == "all")
        assert moved["all", "all"].parameters == everything == sum(p.numel() for p in before.backbone.parameters())

    def test_the_report(self, tiny_denoiser, tmp_path):
        study = blocks(tiny_denoiser(0), Sampling(range(4), 4), tiny_denoiser(1))
        assert [block.name for block in study.before] == [block.name for block in study.after]
        page = report(study).write(tmp_path, {})
        stored = json.loads((tmp_path / "blocks.json").read_text())
        assert len(stored["before"]) == len(stored["after"]) == len(study.before)
        assert stored["weight_changes"] and stored["rank_correlations"]
        assert page.read_text().count("<img") == 1

    def test_batches_do_not_matter(self, tiny_denoiser):
        whole, parts = (blocks(tiny_denoiser(), Sampling(range(5), 4, batch_size=size)).before for size in (5, 2))
        for one, other in zip(whole, parts, strict=True):
            assert np.allclose(one.change.centroids, other.change.centroids, atol=1e-4)
            assert np.allclose(one.response, other.response, rtol=1e-3, atol=1e-6)
            assert one.shift == pytest.approx(other.shift, rel=1e-4)

    @pytest.mark.parametrize("had", [0, 9])
    def test_a_student_with_more_augmentation_labels(self, tiny_denoiser, had):
        """Trajectory distillation adds labels that tell where a jump ends: all else is compared."""
        before = tiny_denoiser(0, augmentation_dim=had)
        wide: Any = backbones.add_augmentation_labels(before.backbone, 16)
        with torch.no_grad():
            wide.map_augment.weight[:, had:] = 1
        study = blocks(before, Sampling(range(2), 4), before.replace(backbone=wide))
        assert all(row.relative == 0 for row in study.weights)

    def test_another_architecture_is_refused(self, tiny_denoiser):
        with pytest.raises(ValueError, match="conv"):
            blocks(tiny_denoiser(), Sampling(range(2)), tiny_denoiser(channels=3))


class TestRelations:
    def test_of_resolution_beside_what_the_map_forces(self, tiny_denoiser):
        found = blocks(tiny_denoiser(channel_multipliers=[1, 1]), Sampling(range(2), 4)).before
        assert len({block.size for block in found}) == 2 and len(relations(found)) == 2

    def test_of_depth_where_there_is_one_resolution(self, tiny_denoiser):
        found = blocks(tiny_denoiser(), Sampling(range(2), 4)).before
        assert list(relations(found)) == ["centroid with depth"]
