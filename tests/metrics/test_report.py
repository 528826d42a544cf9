"""The table names its feature space, N and floor, and says FID only for Inception."""

from dataclasses import replace

import pytest

from d2o.features.embedding import SPACES
from d2o.metrics.distances import Distances
from d2o.metrics.diversity import Diversity
from d2o.metrics.evaluation import Evaluation, Pairs
from d2o.metrics.report import report
from d2o.metrics.spaces import frechet_name, overlap, title

SCORES = Distances(1000, 1000, 261.94, 0.2345, 0.0123, 500, 0.5, 0.25)
FLOOR = Distances(898, 898, 143.2, -0.001, 0.002, 449, 0.9, 0.9)
ROW = Evaluation(
    "student", "digits", "lite2@64", SCORES, FLOOR, Diversity(0.43, None, 40.0), Diversity(0.48, 0.3, 44.0, 35.0)
)


def test_the_title_says_what_was_measured() -> None:
    first = report([ROW]).splitlines()[0]
    assert "Frechet distance in EfficientNet-lite2 features at 64 px; N = 1,000 against 1,000 of digits" in first
    assert "reference-vs-reference floor 143.2 (N = 898)" in first
    assert "no reference-vs-reference floor" in report([replace(ROW, floor=None)]).splitlines()[0]


def test_the_title_hides_no_other_n() -> None:
    small = replace(ROW, distances=replace(SCORES, images=200))
    assert "N = 1,000 and 200 against" in report([ROW, small])


def test_fid_is_said_of_inception_alone() -> None:
    assert "FID" not in report([ROW])
    assert report([replace(ROW, space="inception@299")]).startswith("FID in Inception-v3 features at 299 px")
    assert frechet_name("clip@224") == "Frechet distance"


def test_rows_are_aligned_and_complete() -> None:
    lines = report([ROW, replace(ROW, name="a much longer name than that")]).splitlines()
    table = lines[2 : lines.index("", 2)]
    assert [line.split("  ")[0] for line in table[1:]] == [
        "student", "a much longer name than that", "floor: reference vs itself", "reference",
    ]  # fmt: skip
    for number in ("1,000", "0.2345", "0.0123", "261.9", "0.500", "0.250", "0.430", "40"):
        end = table[1].index(number) + len(number)
        assert table[2][:end].endswith(number)


def test_unknown_numbers_leave_no_empty_columns() -> None:
    moments_only = Distances(None, 5000, 3.0)
    bare = replace(ROW, distances=moments_only, floor=None, diversity=Diversity(), reference_diversity=Diversity())
    assert report([bare]).splitlines()[2].split() == ["Frechet", "distance"]
    assert "N = unknown against 5,000 of digits" in report([bare])


def test_warnings_and_pairs_are_printed_once() -> None:
    rows = [replace(ROW, name=name, warnings=("Beware.",), pairs=Pairs(9, 0.1, 2.0, 0.5, 8.0)) for name in "ab"]
    text = report(rows)
    assert text.count("Warning: Beware.") == 1 and text.count("same seeds") == 2


@pytest.mark.parametrize(
    ("space", "network", "words"),
    [
        ("lite2@64", "tf_efficientnet_lite0", ["family (EfficientNet)", "training data (ImageNet-1k)"]),
        ("lite2@64", "vgg16_bn", ["training data (ImageNet-1k)"]),
        ("inception@299", "deit_base_distilled_patch16_224", ["training data (ImageNet-1k)"]),
        ("clip@224", "tf_efficientnet_lite0", []),
        ("dinov2@224", "vgg16_bn", []),
        ("pixels", "vgg16_bn", []),
        ("lite2@64", "pixels", []),
        ("of an unknown kind", "vgg16_bn", []),
    ],
)
def test_overlap_is_of_family_or_data(space: str, network: str, words: list[str]) -> None:
    found = overlap(space, (network,))
    assert len(found) == bool(words)
    for word in words:
        assert word in found[0]
    assert not found or ("family" in found[0]) == ("family" in " ".join(words))


@pytest.mark.parametrize("space", ["lite0", "lite0@96", "pixels", "inception"])
def test_overlap_is_plain_where_the_measure_itself_was_minimised(space: str) -> None:
    (found,) = overlap(space, (SPACES[space.partition("@")[0]].network,))
    assert f"is the metric's {title(space)}" in found


def test_titles_are_words() -> None:
    assert title("pixels") == "pixel features"
    assert title("lite2@224") == "EfficientNet-lite2 features at 224 px"
