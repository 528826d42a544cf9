"""A network made of known filters gets the right block table; places, weights, and what fine-tuning moved."""

import json
import re
import warnings
from copy import deepcopy
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from d2o import backbones
from d2o.analysis.block_figures import of_blocks
from d2o.analysis.blocks import blocks, findings
from d2o.analysis.frequency import Band, filtered, octaves
from d2o.analysis.network import as_map, as_tokens, places, replaced, sizes, taps
from d2o.analysis.page import write
from d2o.analysis.weight_change import WeightChange, sentence, weight_changes
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM


class Only(nn.Module):
    """A block that lets one band through, and triples it."""

    def __init__(self, band):
        super().__init__()
        self.band = band

    def forward(self, x):
        return 3 * filtered(x, self.band, keep=True)


class Halve(nn.Module):
    """Every second pixel of what is slow enough: half the width, and the same cycles an image."""

    def forward(self, x):
        return filtered(x, Band(0, 3), keep=True)[:, :, ::2, ::2]


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
        study = blocks(known(), seeds=range(6), steps=5, batch_size=4)
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
        found = {block.name: block for block in blocks(known(), seeds=range(6), steps=5).before}
        identity = found["filters.4"]
        assert np.allclose(identity.response[:, 1:], 1 / 11)
        assert identity.response_centroid[0] == pytest.approx(6)
        assert identity.response_band == "flat" and identity.as_dict()["response_band"] == "flat"

    @pytest.mark.parametrize(("gain", "band"), [(1.004, "flat"), (1.02, "2-3")])
    def test_a_response_is_flat_within_a_hundredth(self, gain, band):
        class Tilted(nn.Module):
            def forward(self, x):
                return x + (gain**0.5 - 1) * filtered(x, Band(2, 3), keep=True)

        model = known()
        cast(Any, model.backbone).filters[4] = Tilted()
        tilted = next(block for block in blocks(model, seeds=range(4), steps=4).before if block.name == "filters.4")
        assert str(tilted.response_band) == band

    def test_a_smaller_map_counts_the_same_cycles(self):
        halve = next(block for block in blocks(known(), seeds=range(6), steps=5).before if block.name == "filters.5")
        assert halve.size == (8, 8) and halve.response.shape[1] == 7
        assert np.allclose(halve.response, [0, 1 / 3, 1 / 3, 1 / 3, 0, 0, 0], atol=1e-6)

    def test_the_table(self):
        found = findings(blocks(known(), seeds=range(6), steps=5))
        table = found.tables[0]
        assert table.columns[:4] == ("block", "place", "map", "change band")
        rows = {row[0]: row[1:] for row in table.rows}
        assert [rows[f"filters.{i}"][2] for i in range(4)] == ["1", "2-3", "4-7", "8-15"]
        assert [rows[f"filters.{i}"][1] for i in range(6)] == ["16x16"] * 5 + ["8x8"]

    def test_the_mean_of_a_block_is_told_apart(self, tiny_denoiser):
        class Shifted(Filters):
            def forward(self, x, noise, label=None, augmentation=None):
                return super().forward(x + 50 * noise.view(-1, 1, 1, 1), noise)

        model = Denoiser(Shifted(octaves(12)[1:]), EDM(), (1, 16, 16))
        plain, shifted = (
            next(b for b in blocks(m, seeds=range(4), steps=5).before if b.name == "filters.4")
            for m in (known(), model)
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
        study = blocks(self.model(Only(Band(1, 1)), Fixed(0.0), Fixed(2.0)), seeds=range(4), steps=4)
        _, zero, constant, *_ = study.before
        for block in (zero, constant):
            assert block.change_band is None and block.response_band is None
        found = findings(study)
        rows = {row[0]: row[3:] for row in found.tables[0].rows}
        assert rows["filters.1"] == rows["filters.2"] == (None, "-", "0%", None, "-")
        assert rows["filters.0"][0] == "1" and "flat" in rows["filters.3"]
        assert "The blocks' dominant bands, in cycles per image: 1" in found.text() and not re.search(
            r"\bnan\b", found.text()
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            drawings = of_blocks(study)
        (legend,) = drawings[0].figure.legends
        assert [text.get_text() for text in legend.get_texts()][-1] == "does not change"
        write(tmp_path, found, drawings, {})
        stored = json.loads((tmp_path / "blocks.json").read_text())["before"]
        assert [(block["change_band"], block["response_band"]) for block in stored[1:3]] == [(None, None)] * 2

    def test_may_be_all_there_are(self):
        model = self.model(Fixed(1.0), last=(Fixed(1.0), Fixed(2.0)))
        study = blocks(model, deepcopy(model), seeds=range(4), steps=4)
        said = findings(study).conclusion
        assert any("No block has a dominant band." in sentence for sentence in said)
        assert "Fine-tuning gave 0 of 3 blocks another dominant band; no block has a centroid before and after." in said
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert of_blocks(study)

    def test_that_woke_up_have_another_band(self):
        before, after = self.model(Fixed(1.0), Only(Band(1, 1))), self.model(Only(Band(2, 3)), Only(Band(4, 7)))
        said = findings(blocks(before, after, seeds=range(4), steps=4)).conclusion
        assert any("gave 2 of 4 blocks another dominant band; the centroid moved most in filters.1" in s for s in said)


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
        model = Denoiser(backbone, EDM(), (1, 8, 8))
        found = sizes(backbone, lambda: model(torch.randn(2, 1, 8, 8), 1.0))
        assert found.keys() == places(backbone).keys()
        expected = {(4, 4)} if kind == "dit" else {(8, 8), (4, 4)}
        assert set(found.values()) == expected

    def test_hooks_are_taken_away(self, tiny_denoiser):
        model = tiny_denoiser()
        with taps(model.backbone):
            pass
        assert not any(module._forward_hooks for module in model.modules())

    def test_tokens_and_maps(self):
        tokens = torch.randn(2, 9, 5)
        assert torch.equal(as_tokens(as_map(tokens), tokens), tokens)
        assert torch.equal(as_map(tokens)[:, :, 1, 2], tokens[:, 5])
        with pytest.raises(ValueError, match="10 tokens are no square map"):
            as_map(torch.randn(2, 10, 5))

    @pytest.mark.parametrize("kind", ["song_unet", "dit"])
    def test_a_block_can_be_replaced(self, kind):
        backbone = backbones.build({"kind": kind, **NETWORKS[kind]}).eval()
        block = {"song_unet": "dec.4x4_in0", "dit": "blocks.1"}[kind]
        with replaced(backbone, block, torch.zeros_like), taps(backbone) as seen, torch.no_grad():
            backbone(torch.randn(1, 1, 8, 8), torch.zeros(1))
        assert not seen[block][1].any()


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
        study = blocks(tiny_denoiser(0), tiny_denoiser(1), seeds=range(4), steps=4)
        found = findings(study)
        assert [block.name for block in study.before] == [block.name for block in study.after]
        assert any("Fine-tuning gave" in sentence for sentence in found.conclusion)
        page = write(tmp_path, found, of_blocks(study), {})
        stored = json.loads((tmp_path / "blocks.json").read_text())
        assert len(stored["before"]) == len(stored["after"]) == len(study.before)
        assert page.read_text().count("<img") == 5

    def test_batches_do_not_matter(self, tiny_denoiser):
        whole, parts = (blocks(tiny_denoiser(), seeds=range(5), steps=4, batch_size=size).before for size in (5, 2))
        for one, other in zip(whole, parts, strict=True):
            assert np.allclose(one.change.centroids, other.change.centroids, atol=1e-4)
            assert np.allclose(one.response, other.response, rtol=1e-3, atol=1e-6)
            assert one.shift == pytest.approx(other.shift, rel=1e-4)

    def test_a_student_with_more_augmentation_labels(self, tiny_denoiser):
        """Trajectory distillation adds labels that tell where a jump ends: they are new, and all else is compared."""
        before = tiny_denoiser(0)
        for had in (0, 9):
            before = tiny_denoiser(0, augmentation_dim=had)
            after = deepcopy(before)
            wide: Any = backbones.widened(after.backbone, 16)
            after.backbone = wide
            with torch.no_grad():
                wide.map_augment.weight[:, had:] = 1
            study = blocks(before, after, seeds=range(2), steps=4)
            assert all(row.relative == 0 for row in study.weights)
            new = 16 * wide.map_augment.weight.shape[0]
            sentence = (
                f"New after fine-tuning, and left out of the weight changes: {new:,} weights of map_augment.weight."
            )
            assert sentence in findings(study).conclusion
            assert len(of_blocks(study)) == 5

    def test_another_architecture_is_refused(self, tiny_denoiser):
        with pytest.raises(ValueError, match="not of one architecture: they differ in"):
            blocks(tiny_denoiser(), tiny_denoiser(channels=3))


def test_the_block_that_moved_most_is_told_besides_the_role():
    rows = [("all", "all", 0.1), ("all", "qkv", 0.3), ("all", "norm", 0.0), ("all", "odd", float("nan"))]
    rows += [("elsewhere", "all", 0.9), ("one", "all", 0.2), ("one", "qkv", 0.7), ("two", "all", 0.5)]
    said = sentence([WeightChange(block, role, 1, relative) for block, role, relative in rows])
    assert said == (
        "Weights: did not move: norm; of the roles qkv moved most, by 30.0% of its norm, and of the blocks two, by "
        "50.0%."
    )
    assert "blocks" not in sentence([WeightChange("all", "qkv", 1, 0.3), WeightChange("all", "all", 1, 0.3)])
