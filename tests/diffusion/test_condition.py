"""What a model may be asked: classes by number and name, and captions by their words."""

import pytest
import torch

from d2o.diffusion.condition import FIRST, Words, choose_condition, split_words
from refusal import refused

CAPTIONS = ("a red circle", "a blue square, large", "a red square")


def test_every_caption_of_the_data_is_read_and_its_words_can_be_told():
    reader = Words.of(CAPTIONS)
    rows = reader(CAPTIONS)
    assert rows.shape == (3, 4) and rows.max() == reader.size - 1
    for row, caption in zip(rows.tolist(), CAPTIONS, strict=True):
        assert [reader.words[number - FIRST] for number in row if number] == split_words(caption)


def test_case_and_punctuation_are_no_matter():
    reader = Words.of(CAPTIONS)
    assert torch.equal(reader(["A  red, CIRCLE!"]), reader(["a red circle"]))
    assert not reader(["..."]).any()


def test_examples_are_captions_spread_over_all_of_the_data():
    captions = [f"number {n}" for n in range(1_000)]
    reader = Words.of([*captions, *captions])
    assert len(reader.examples) <= 256 and reader.examples[0] == captions[0]
    assert set(reader.examples) <= set(captions) and int(reader.examples[-1].split()[1]) > 990


@pytest.mark.parametrize(
    ("asked", "names"),
    [("rad cercle", ("rad", "red")), ("a red red red circle", ("4", "1 of the 5")), (3, ("captions", "3"))],
)
def test_what_a_reader_does_not_understand_is_refused(asked, names):
    with refused(*names):
        choose_condition([0], 0, asked, reader=Words.of(CAPTIONS))


def test_one_caption_is_for_all_and_several_are_one_each():
    reader = Words.of(CAPTIONS)
    assert torch.equal(choose_condition([5, 6], 0, "a red circle", reader=reader), reader(["a red circle"] * 2))
    assert torch.equal(choose_condition([5, 6], 0, CAPTIONS[:2], reader=reader), reader(CAPTIONS[:2]))
    assert torch.equal(choose_condition([4], 0, None, reader=reader), reader([CAPTIONS[4 % 3]]))
    with refused("2", "3"):
        choose_condition([5, 6], 0, CAPTIONS, reader=reader)


def test_classes_have_numbers_and_names():
    assert choose_condition([0, 1, 5], 3).tolist() == [0, 1, 2]
    assert choose_condition([0, 1], 3, "dog", class_names=("cat", "dog", "emu")).tolist() == [1, 1]
    assert choose_condition([0], 3, "2").tolist() == [2], "digits are a number"
    assert choose_condition([0], 3, "5", class_names=("3", "4", "5")).tolist() == [2], "unless they are a name"
    assert choose_condition([0, 1], 3, ["emu", 0], class_names=("cat", "dog", "emu")).tolist() == [2, 0]
    with refused("dgo", "dog"):
        choose_condition([0], 3, "dgo", class_names=("cat", "dog", "emu"))
    with refused("cat", "number"):
        choose_condition([0], 3, "cat")
