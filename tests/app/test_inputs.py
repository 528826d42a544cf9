"""Whatever is sent to the page is either used or answered in a sentence."""

import pytest

from d2o.app.inputs import labels_of, number, seed_of, seeds_of, whole

HOSTILE = [None, "", "1", "../x", [], {}, [1], True, float("nan"), float("inf"), -1, 1e308, 10**400, "\x00", b"1"]


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: repr(value)[:9])
@pytest.mark.parametrize("read", [lambda v: number(v, "Walk", 0, 8), lambda v: whole(v, "Steps", 2, 40), seed_of])
def test_what_is_no_number_in_bounds_is_a_sentence(read, value):
    with pytest.raises(ValueError, match=r"^(Walk|Steps|Seed) .{5,200}\.$"):
        read(value)


def test_numbers_in_bounds_are_themselves():
    assert number(0.5, "Walk", 0, 8) == 0.5
    assert whole(18.0, "Steps", 2, 40) == 18 and type(whole(18.0, "Steps", 2, 40)) is int
    assert seed_of(2**53) == 2**53
    with pytest.raises(ValueError, match="whole number"):
        whole(2.5, "Steps", 2, 40)


def test_seeds_are_read_as_on_the_command_line():
    assert seeds_of("0-3,9", 10) == [0, 1, 2, 3, 9]


@pytest.mark.parametrize("text", [None, 3, ["0"], "", "a", "5-1", "1,1", "0-999999999", "0-10", "1," * 200, "-1"])
def test_seeds_that_are_none_or_too_many_are_a_sentence(text):
    with pytest.raises(ValueError, match=r"[Ss]eeds? .*\.$") as told:
        seeds_of(text, 10)
    assert "--" not in str(told.value)


class TestClasses:
    @pytest.mark.parametrize("label", [None, "", "by seed"])
    def test_by_default_they_follow_the_seeds(self, tiny_denoiser, label):
        labels = labels_of(tiny_denoiser(classes=3), label, [0, 4, 8])
        assert labels is not None and labels.tolist() == [0, 1, 2]

    @pytest.mark.parametrize("label", [1, "1", 1.0])
    def test_one_is_for_all(self, tiny_denoiser, label):
        labels = labels_of(tiny_denoiser(classes=3), label, [0, 4])
        assert labels is not None and labels.tolist() == [1, 1]

    def test_a_model_without_classes_has_none(self, tiny_denoiser):
        assert labels_of(tiny_denoiser(), "7", [0]) is None

    @pytest.mark.parametrize("label", [3, -1, "3", "x", 1.5, [], {}, True, float("nan"), "9" * 500])
    def test_others_are_a_sentence(self, tiny_denoiser, label):
        with pytest.raises(ValueError, match="Class"):
            labels_of(tiny_denoiser(classes=3), label, [0])
