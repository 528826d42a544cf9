"""What the interventions say of made-up results: every sign and every mean is known beforehand."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.text import Text

from d2o.analysis import bands, parts, pretraining
from d2o.analysis.blocks import BlockSpectra
from d2o.analysis.correlation import rank_correlation
from d2o.analysis.frequency import Band
from d2o.analysis.parts import PartsStudy
from d2o.analysis.progression import Progression
from d2o.analysis.quality_figures import heat, of_bands, of_parts, prediction
from d2o.analysis.ticks import SMALLEST
from d2o.analysis.trials import Scores


def scores(*kids):
    """Return the repetitions of a trial with these KIDs."""
    return Scores("made up", tuple({"kid": kid, "frechet": kid, "recall": 0.5} for kid in kids))


def block(name, change, response):
    """Return a block whose change and response have these centroids; that of the response is a whole number."""
    seen = Progression(
        name, np.array([1.0]), np.full((1, 16), 1 / 16), np.full((3, 1), change), np.full((3, 1, 5), 0.2)
    )
    return BlockSpectra(name, "decoder", (16, 16), seen, 0.5, np.eye(16)[[response]])


RANDOM = (5, 2, 9, 1, 7, 12, 3, 10, 6, 11, 4, 8)
"""Centroids of blocks in the order of their calls; neighbours do not resemble each other."""


def parts_study(sign=1):
    """Return blocks whose training gains, and whose freezing costs, as much as `sign` times their centroid."""
    spectra = {f"b{i}": block(f"b{i}", value, 15 - value) for i, value in enumerate(RANDOM)}
    kids = {(mode, f"b{i}"): (50, 1)[mode == "freeze"] for mode in parts.MODES for i in range(12)}
    results = {
        (mode, "blocks", name): scores(kid + (value if mode == "freeze" else -value))
        for (mode, name), kid in reversed(kids.items())  # not in the order of calls
        for value in [sign * spectra[name].change_centroid[0]]
    }
    results["train", "blocks", "elsewhere"] = scores(70.0)  # has no spectrum
    sizes = {("blocks", name): 10 for _, _, name in results}
    return PartsStudy(scores(50.0), scores(1.0), scores(20.0), results, spectra, sizes, 64)


class TestParts:
    def test_what_is_better_than_the_teacher_gains_and_what_is_worse_than_everything_was_needed(self):
        study = parts_study()
        assert study.gain("train", "blocks", "b0") == 5 and study.gain("freeze", "blocks", "b0") == 5
        assert study.gain("train", "blocks", "elsewhere") == -20
        assert parts_study(-1).gain("train", "blocks", "b0") == parts_study(-1).gain("freeze", "blocks", "b0") == -5

    @pytest.mark.parametrize("sign", [1, -1])
    def test_perfect_orders(self, sign):
        study = parts_study(sign)
        links = parts.predictions(study)
        assert len(links) == 8
        for mode in parts.MODES:
            assert links["centroid of change", mode].value == pytest.approx(sign)
            assert links["centroid of response", mode].value == pytest.approx(-sign)
            assert np.isnan(links["number of parameters", mode].value)
            assert links["centroid of change", mode].effective == pytest.approx(
                rank_correlation(RANDOM, RANDOM, in_sequence=True).effective
            )
        said = parts.findings(study).conclusion
        words = {1: "Holds strongly", -1: "Contradicted"}
        for outcome in parts.OUTCOMES.values():
            for starts in (
                f"{words[sign]}: the higher a block's centroid of change, the larger {outcome};",
                f"{words[-sign]}: the higher a block's centroid of response, the larger {outcome};",
                f"Not decided: the higher a block's number of parameters, the larger {outcome};",
            ):
                assert any(sentence.startswith(starts) for sentence in said)

    def test_the_best_are_told(self):
        said = " ".join(parts.findings(parts_study()).conclusion)
        assert "these do best when trained alone (gain in KID): b5 (+12), b9 (+11), b7 (+10)." in said
        assert "these are needed most (rise of KID when frozen): b5 (+12), b9 (+11), b7 (+10)." in said
        assert "has gone from 50 to 1 when everything moves, and to 20 when" in said

    def test_a_block_that_does_not_change_is_left_out(self):
        study = parts_study()
        dead = replace(block("b0", np.nan, 0), response=np.zeros((1, 16)))
        study.spectra["b0"] = dead
        links = parts.predictions(study)
        for predictor, sign in (("centroid of change", 1), ("centroid of response", -1)):
            assert links[predictor, "train"].size == 11 and links[predictor, "train"].value == pytest.approx(sign)
        panels = prediction(study, "train").axes
        assert [len(axes.lines[1].get_xdata()) for axes in panels] == [11, 11, 12, 12]


ZERO, ONE, TWO = Band(0, 0), Band(1, 1), Band(2, 3)
PLACES = {"in": "input", "down": "encoder", "up": "decoder", "last": "decoder", "out": "output"}
RISES = {  # how far KID rises without a band
    "in": {ZERO: 0.0, ONE: 1.0, TWO: 2.0},
    "down": {ZERO: 9.0, ONE: 3.0},
    "up": {ZERO: 2.0, ONE: 4.0, TWO: 5.0},
    "last": {ZERO: 4.0, ONE: 7.0, TWO: 11.0},
    "out": {ZERO: 100.0, ONE: 200.0, TWO: 300.0},
    bands.IMAGE: {ZERO: 100.0, ONE: 200.0, TWO: 300.0},
}


def bands_study(sign=1):
    """Return filtered blocks with those rises in two repetitions, in one 1 more and in the other 1 less.

    The energy of a band is `sign` times as large as its need, but in the output block, where it is the other way.
    """
    pairs = {(name, band): rise for name, found in RISES.items() for band, rise in found.items()}
    outputs = {("remove", name, band): scores(0.5 + rise - 1, 1.5 + rise + 1) for (name, band), rise in pairs.items()}
    outputs |= {("keep", name, band): scores(0.5 - rise, 1.5 - rise) for (name, band), rise in pairs.items()}
    energies = {pair: -sign * rise if pair[0] == "out" else sign * rise for pair, rise in pairs.items()}
    for name in ("in", "down", "up", "last"):
        energies[name, ZERO] = -sign * 1000.0
    none = scores(1.0, 1.0)
    return bands.BandsStudy([ZERO, ONE, TWO], PLACES, energies, scores(0.5, 1.5), outputs, none, {}, 64)


class TestBands:
    def test_means_are_over_blocks_that_hold_the_band_and_not_over_the_output(self):
        (said,) = bands.outputs_say(bands_study(), "remove")
        assert said == (
            "Without one band of one block's output, the KID of 1 ± 0.707 changes, mean over the 3 blocks that hold "
            "up to band 2-3, by 2 ± 1.41 (band 0), 4 ± 1.41 (band 1), 6 ± 1.41 (band 2-3); over the one block "
            "that holds up to band 1, by 9 ± 1.41 (band 0), 3 ± 1.41 (band 1) cycles per image; by place, from 1 cycle "
            "per image on: 1.5 ± 1.41 in the input, 3 ± 1.41 in the encoder, 6.75 ± 1.41 in the decoder."
        )

    def test_what_is_better_with_one_band_alone_is_negative(self):
        (said,) = bands.outputs_say(bands_study(), "keep")
        assert "-2 ± 0 (band 0), -4 ± 0 (band 1), -6 ± 0 (band 2-3)" in said and "-6.75 ± 0 in the decoder" in said

    @pytest.mark.parametrize("sign", [1, -1])
    def test_energies_in_the_order_of_needs(self, sign):
        found = bands.prediction(bands_study(sign))
        assert found.value == pytest.approx(sign) and found.size == 4
        said = bands.findings(bands_study(sign)).conclusion
        words = {1: "Holds", -1: "Contradicted"}[sign]
        assert said[2].startswith(f"{words}") and "the bands needed from a block are those in which its" in said[2]
        assert "transmitted" in said[3] and "not which block makes it" in said[3]

    def test_a_block_that_does_not_change_predicts_nothing(self):
        study = bands_study()
        study.energies.update(dict.fromkeys([("last", ONE), ("last", TWO)], np.nan))
        found = bands.prediction(study)
        assert found.value == pytest.approx(1) and found.size == 3

    def test_a_study_of_the_output_alone_says_nothing_of_blocks(self):
        study = bands_study()
        outputs = {key: value for key, value in study.outputs.items() if key[1] in ("out", bands.IMAGE)}
        study = replace(study, outputs=outputs)
        assert bands.outputs_say(study, "remove") == [] and bands.prediction(study).size == 0

    def test_small_and_negative_kids_are_shown_as_they_are(self):
        study = bands_study()
        study.outputs["remove", "in", ZERO] = scores(-0.03)
        study.outputs["remove", "in", ONE] = scores(0.0004)
        shown = [text.get_text() for text in heat(study, "remove").axes[0].texts]
        assert {"-0.03", "0.0004"} < set(shown) and "0.001" not in shown


class TestPretraining:
    @pytest.mark.parametrize(("kids", "word"), [((9, 7, 4, 1), "Holds"), ((1, 4, 7, 9), "Contradicted")])
    def test_a_falling_kid_is_better(self, kids, word):
        rows = tuple(scores(kid, kid + 0.1) for kid in kids)
        other = tuple(scores(kid, kid + 0.1) for kid in reversed(kids))
        said = pretraining.findings(pretraining.PretrainingStudy((0, 10, 20, 30), other, rows, rows, 64, 18)).conclusion
        opposite = {"Holds": "Contradicted", "Contradicted": "Holds"}[word]
        assert said[0].startswith(word) and "the better the one-step student" in said[0]
        assert said[1].startswith(opposite) and "the better the teacher" in said[1]
        assert f"The best student comes from the teacher of {30 if word == 'Holds' else 0} images." in said


def test_figures_can_be_read_and_say_what_is_too_little():
    drawings = [*of_parts(parts_study()), *of_bands(bands_study())]
    assert {drawing.name for drawing in drawings} >= {"prediction-train", "prediction-freeze", "output-keep"}
    texts = [text for drawing in drawings for text in drawing.figure.findobj(Text) if text.get_text()]
    assert min(float(text.get_fontsize()) for text in texts) >= SMALLEST
    study = parts_study()
    few = {name: study.spectra[name] for name in ("b0", "b1", "b2")}
    titles = [axes.get_title() for axes in prediction(replace(study, spectra=few), "train").axes]
    assert titles[0] == "rank correlation +1.00\n(N = 3, as good as 1.8 independent ones, too few for an interval)"
