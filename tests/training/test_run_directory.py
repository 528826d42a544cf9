"""A run's directory after a kill, and what tells two requests apart."""

from d2o.training.run_directory import list_differences, truncate_log


def test_a_log_that_was_cut_short_is_mended(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"images": 8}\n{"images": 16}\n{"images": 24}\n{"imag')
    truncate_log(log, 16)
    assert log.read_text() == '{"images": 8}\n{"images": 16}\n'
    truncate_log(log, 0)
    assert log.read_text() == ""


def test_data_of_equal_content_are_the_same_under_any_name():
    old = {"recipe": {"seed": 0}, "data": {"name": "a", "fingerprint": "1"}}
    assert list_differences(old, {"recipe": {"seed": 0}, "data": {"name": "b", "fingerprint": "1"}}) == []
    whom = {"name": "a", "fingerprint": "1", "attribution": "Ann"}
    assert list_differences(old, {"recipe": {"seed": 0}, "data": whom}) == []
    (content,) = list_differences(old, {"recipe": {"seed": 0}, "data": {"name": "a", "fingerprint": "2"}})
    assert content.startswith("a has other images")
    (seed,) = list_differences(old, {**old, "recipe": {"seed": 1}})
    assert "recipe.seed" in seed
