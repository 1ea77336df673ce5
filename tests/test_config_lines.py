"""Laws of the line scanner, checked against tomllib: every path of a document has its line."""

import re
import tomllib

from hypothesis import given, settings
from hypothesis import strategies as st

from kernlb.config.lines import lines

bare = st.sampled_from(["a", "b", "key-1", '"quoted key"', "'li.teral'", '"esc\\u0041pe"', '"#"', '"]"'])
scalars = st.sampled_from([
    "1", "0x1F", "1_000", "-2.5e3", "true", "inf", "1979-05-27T07:32:00Z", "1979-05-27 07:32:00", "07:32:00",
    '"text # no comment"', "'C:\\'", '""', '"""\nmany\n\\"""lines"""', "'''\nas \"it\" is\n'''''",
    '"\\\\"', '"""a"""""',
])  # fmt: skip
space = st.sampled_from(["", " ", "\t", "\n", "\r\n", " # comment ] }\n"])


def arrays(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(st.tuples(space, items, space).map("".join), max_size=3).map(lambda x: "[" + ",".join(x) + "\n]")


def tables(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.lists(st.tuples(bare, items), max_size=3, unique_by=lambda pair: pair[0])
    return pairs.map(lambda x: "{ " + ", ".join(f"{key} = {value}" for key, value in x) + " }")


values = st.recursive(scalars, lambda items: arrays(items) | tables(items), max_leaves=6)
dotted = st.lists(bare, min_size=1, max_size=3).map(" . ".join)
statements = st.one_of(
    st.tuples(dotted, values).map(" = ".join), dotted.map("[{}]".format), dotted.map("[[ {} ]]".format), space
)


def paths(value: object, path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    match value:
        case dict():
            inner = [paths(item, (*path, key)) for key, item in value.items()]
        case list():
            inner = [paths(item, (*path, index)) for index, item in enumerate(value)]
        case _:
            inner = []
    return {path}.union(*inner)


@given(st.lists(statements, max_size=8).map("\n".join))
@settings(max_examples=500, deadline=None)
def test_every_path_of_a_document_has_a_line(text: str) -> None:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    assert set(lines(text)) == paths(document) - {()}


@given(
    st.lists(
        st.tuples(st.sampled_from(["k{} = 1", "[t{}]", "[[t{}]]", "k{} = [\n\n]", "x.k{} = ''"]), space), max_size=9
    )
)
def test_the_line_is_where_it_is_written(parts: list[tuple[str, str]]) -> None:
    text = ""
    expected = {}
    for number, (pattern, gap) in enumerate(parts):
        expected[number] = text.count("\n") + 1
        text += pattern.format(number) + gap + "\n"
    numbered = {}
    for path, line in lines(text).items():
        if isinstance(path[-1], str) and (found := re.fullmatch(r"[kt](\d+)", path[-1])):
            numbered[int(found[1])] = line
    assert numbered == expected
