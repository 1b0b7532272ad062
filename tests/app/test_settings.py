import pytest

from pyg_match.app import Setting


def test_short_forms():
    assert Setting.parse("knn:16:every:2") == Setting("knn", 16, "every:2")
    assert Setting.parse("complete") == Setting()
    assert Setting.parse("sparse:4") == Setting("sparse", 4)
    for setting in (Setting(), Setting("knn", 3, "initial")):
        assert Setting.parse(setting.short()) == setting


def test_settings_are_checked():
    with pytest.raises(ValueError, match=r"'graph' must be one of complete, .* got 'ring'"):
        Setting("ring")
    with pytest.raises(ValueError, match="'k' must be positive, got 0"):
        Setting("knn", 0)
    for text in ("knn:16:foo", "knn:16:every:0"):
        with pytest.raises(ValueError, match=r"'value_source' must be 'current', 'initial' or 'every:n'"):
            Setting.parse(text)
    with pytest.raises(ValueError, match="must be GRAPH:K:VALUES with a number K, got 'knn:x'"):
        Setting.parse("knn:x")
