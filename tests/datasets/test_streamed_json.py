"""What is read in pieces is what the `json` module reads, and what is written fast is what it writes."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.datasets import streamed_json
from pipeline.datasets.streamed_json import MalformedJson, StreamedObject, compact, fast_dumps, like_compact

NUMBERS = st.one_of(
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.floats(-1e-3, 1e-3),
    st.floats(1e14, 1e20),
    st.decimals(-1000, 1000, places=2).map(float),
)
SPELLED = st.one_of(  # numbers as no `json.dumps` writes them
    NUMBERS.map(json.dumps),
    st.sampled_from(["-0", "-0.0", "1.50", "1E5", "1e-7", "100000000000000000.0", "0.00001", "1e400", "NaN"]),
    st.from_regex(r"-?(0|[1-9][0-9]{0,22})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?", fullmatch=True),
)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
VALUES = st.recursive(
    st.one_of(NUMBERS, TEXTS, st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)


def streamed(path):
    """Collect what is shown of the lists `a` and `b`, as parsed fast and by the `json` module."""
    shown, exact = {"a": [], "b": []}, {"a": [], "b": []}

    def visit(name, position, entries, again):
        assert position == len(shown[name]) and entries
        shown[name] += entries
        exact[name] += again()

    return StreamedObject(path, ("a", "b"), visit), shown, exact


def surely_like_json(value):
    """The fast text of a value, or `None` where it is doubtful."""
    try:
        return text if like_compact(text := fast_dumps(value)) else None
    except TypeError:
        return None


@settings(max_examples=100, deadline=None)
@given(
    content=st.dictionaries(
        st.one_of(st.sampled_from("abc"), TEXTS), st.one_of(st.lists(VALUES, max_size=30), VALUES), max_size=4
    ),
    layout=st.sampled_from([{}, {"separators": (",", ": ")}, {"separators": (",", ":")}, {"indent": 1}]),
    ascii_only=st.booleans(),
    block=st.sampled_from([8, 60, 500, 1 << 15]),
    mark=st.booleans(),
)
def test_everything_is_seen_once_and_in_order(tmp_path_factory, content, layout, ascii_only, block, mark):
    path = tmp_path_factory.mktemp("json") / "file.json"
    text = json.dumps(content, ensure_ascii=ascii_only, **layout)
    path.write_bytes(b"\xef\xbb\xbf" * mark + text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streamed_json, "BLOCK", block)
        patch.setattr(streamed_json, "WINDOW", 16)
        patch.setattr(streamed_json, "RELEASE", 4096)
        file, shown, exact = streamed(path)
    for name, value in content.items():
        same = exact[name] if file.members[name] is ... else file.members[name]
        assert compact(same) == compact(value), name
        if file.members[name] is ...:
            assert len(shown[name]) == len(value)
            for entry, expected in zip(shown[name], value, strict=True):
                assert surely_like_json(entry) in (None, compact(expected))
    assert file.members.keys() == content.keys()


@settings(max_examples=300)
@given(st.lists(SPELLED, min_size=1, max_size=6), st.sampled_from(["{}", '{{"bbox": {}, "id": 7}}']))
def test_fast_text_is_that_of_json_or_doubted(numbers, around):
    raw = around.format(f"[{', '.join(numbers)}]")
    try:
        value = streamed_json.orjson.loads(raw)
    except ValueError:  # not for the fast parser
        return
    assert surely_like_json(value) in (None, compact(json.loads(raw)))


def test_coordinates_are_not_doubted():
    assert like_compact(fast_dumps([{"segmentation": [[239.97, 260.24, -0.5, 0.01, 1]], "area": 2765.1486500000005}]))


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "the file is empty"),
        ("{", "Expecting value at byte 1"),
        ('{"a" 1}', "':' is due at byte 5"),
        ('{"a": 1,}', "Expecting value at byte 8"),
        ('{"a": [1 2]}', "',' or ']' is due at byte 9"),
        ('{"a": [{"x": 1}, {"x": }]}', "Expecting value at byte 23"),
        ('{"a": [1]', "',' or '}' is due at byte 9"),
        ('{"a": 1} x', "more follows at byte 9"),
        ('{"a": 1, "a": 2}', "'a' stands twice"),
        ("{1: 2}", "a name is due before byte 2"),
        ('{"a": "\u00e4', "Unterminated string starting at at byte 6"),
    ],
)
def test_malformed(tmp_path, text, message):
    path = tmp_path / "file.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(MalformedJson) as caught:
        streamed(path)
    assert message in str(caught.value)


def test_an_error_in_the_middle_is_found_at_its_place(tmp_path):
    entries = [{"id": i, "segmentation": [[1.5] * 20]} for i in range(5000)]
    text = json.dumps({"a": entries}).replace('"id": 4000', '"id": 40x00')
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(MalformedJson, match=f"at byte {text.index('x00')}"):
        streamed(tmp_path / "file.json")
