"""Samples to leaves and shape, and back."""

import io
import json
import pickle
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from aiolit.errors import IndexFormatError, SchemaError
from aiolit.format.leaf_types import describe
from aiolit.format.tree import (
    TreeSpec,
    compile_unflatten,
    flatten,
    flatten_like,
    register_namedtuple,
    register_node,
)
from aiolit.format.tree_nodes import UnknownFactory

LEAF = '{"type": null, "context": null, "children_spec": []}'


class PT(NamedTuple):
    x: int
    y: Any


class Unregistered(NamedTuple):
    x: int


class Box:
    def __init__(self, *values: Any, label: str = "") -> None:
        self.values = values
        self.label = label

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Box) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


class Range:
    def __init__(self, low: Any, high: Any, unit: bytes) -> None:
        self.low, self.high, self.unit = low, high, unit


def join_range(values: Any, unit: bytes) -> Range:
    return Range(values[0], values[1], unit)


def join_box(values: Any, label: str) -> Box:
    return Box(*values, label=label)


register_namedtuple(PT, serialized_type_name="my.PT")
register_node(Box, lambda box: (box.values, box.label), join_box, serialized_type_name="tests.Box")
register_node(
    Range,
    lambda value: ((value.low, value.high), value.unit),
    join_range,
    to_dumpable_context=lambda unit: {"unit": unit.hex()},
    from_dumpable_context=lambda stored: bytes.fromhex(stored["unit"]),
)

# From the specification: sample, stored tree, paths of the leaves.
EXAMPLES: list[tuple[Any, str, tuple[str, ...]]] = [
    (1, f"[1, {LEAF}]", ("<sample>",)),
    (None, f"[1, {LEAF}]", ("<sample>",)),
    (
        {"i": 1, "x": 2.5},
        r'[1, {"type": "builtins.dict", "context": "[\"i\", \"x\"]", "children_spec": '
        f"[{LEAF}, {LEAF}]}}]",
        ("i", "x"),
    ),
    (
        {"a": {"b": 1, "c": (2, 3)}, "d": [1, [2]]},
        r'[1, {"type": "builtins.dict", "context": "[\"a\", \"d\"]", "children_spec": [{"type": '
        r'"builtins.dict", "context": "[\"b\", \"c\"]", "children_spec": ['
        f'{LEAF}, {{"type": "builtins.tuple", "context": "null", "children_spec": [{LEAF}, '
        f'{LEAF}]}}]}}, {{"type": "builtins.list", "context": "null", "children_spec": [{LEAF}, '
        f'{{"type": "builtins.list", "context": "null", "children_spec": [{LEAF}]}}]}}]}}]',
        ("a.b", "a.c[0]", "a.c[1]", "d[0]", "d[1][0]"),
    ),
    (
        (1, "a"),
        f'[1, {{"type": "builtins.tuple", "context": "null", "children_spec": [{LEAF}, {LEAF}]}}]',
        ("[0]", "[1]"),
    ),
    ([], '[1, {"type": "builtins.list", "context": "null", "children_spec": []}]', ()),
    ((), '[1, {"type": "builtins.tuple", "context": "null", "children_spec": []}]', ()),
    ({}, '[1, {"type": "builtins.dict", "context": "[]", "children_spec": []}]', ()),
    (
        OrderedDict(b=1, a=2),
        r'[1, {"type": "collections.OrderedDict", "context": "[\"b\", \"a\"]", "children_spec": '
        f"[{LEAF}, {LEAF}]}}]",
        ("b", "a"),
    ),
    (
        defaultdict(int, {"a": 1}),
        '[1, {"type": "collections.defaultdict", "context": {"default_factory_module": "builtins", '
        f'"default_factory_name": "int", "dict_context": ["a"]}}, "children_spec": [{LEAF}]}}]',
        ("a",),
    ),
    (
        deque([1, 2], maxlen=3),
        f'[1, {{"type": "collections.deque", "context": "3", "children_spec": [{LEAF}, {LEAF}]}}]',
        ("[0]", "[1]"),
    ),
    (
        deque([1]),
        f'[1, {{"type": "collections.deque", "context": "null", "children_spec": [{LEAF}]}}]',
        ("[0]",),
    ),
    (
        {1: "x", 3: "y"},
        f'[1, {{"type": "builtins.dict", "context": "[1, 3]", "children_spec": [{LEAF}, {LEAF}]}}]',
        ("[1]", "[3]"),
    ),
    (
        {"a.b": 1, "": 2, None: 3, True: 4, 0.5: 5},
        r'[1, {"type": "builtins.dict", "context": "[\"a.b\", \"\", null, true, 0.5]", '
        f'"children_spec": [{LEAF}, {LEAF}, {LEAF}, {LEAF}, {LEAF}]}}]',
        ("['a.b']", "['']", "[None]", "[True]", "[0.5]"),
    ),
    (
        PT(1, [2]),
        '[1, {"type": "collections.namedtuple", "context": "my.PT", "children_spec": '
        f'[{LEAF}, {{"type": "builtins.list", "context": "null", "children_spec": [{LEAF}]}}]}}]',
        ("x", "y[0]"),
    ),
    (
        {"b": Box(1, 2, label="é")},
        r'[1, {"type": "builtins.dict", "context": "[\"b\"]", "children_spec": [{"type": '
        r'"tests.Box", "context": "\"\\u00e9\"", "children_spec": '
        f"[{LEAF}, {LEAF}]}}]}}]",
        ("b[0]", "b[1]"),
    ),
]


def jpeg() -> Image.Image:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "JPEG")
    return Image.open(file)


def parse(text: str) -> TreeSpec:
    return TreeSpec.from_json(text, source="index.json")


def node(name: str, context: Any, *children: str) -> str:
    return (
        f'[1, {{"type": {json.dumps(name)}, "context": {json.dumps(context)}, '
        f'"children_spec": [{", ".join(children)}]}}]'
    )


@pytest.mark.parametrize(("sample", "text", "paths"), EXAMPLES)
def test_stored_form(sample: Any, text: str, paths: tuple[str, ...]) -> None:
    leaves, spec = flatten(sample)
    assert spec.to_json() == text
    assert spec.leaf_paths() == paths
    assert spec.num_leaves == len(leaves) == len(paths)
    assert parse(text) == spec
    assert parse(text).to_json() == text
    assert flatten_like(sample, parse(text)) == leaves
    rebuilt = compile_unflatten(parse(text))(leaves)
    assert rebuilt == sample
    assert type(rebuilt) is type(sample)


def test_details_of_containers_come_back() -> None:
    leaves, spec = flatten({"d": deque([1], maxlen=7), "f": defaultdict(list, a=1)})
    rebuilt = compile_unflatten(spec)(leaves)
    assert rebuilt["d"].maxlen == 7
    assert rebuilt["f"].default_factory is list


def test_unflatten_makes_new_containers_from_any_sequence() -> None:
    for sample in ([1, 2], (1, 2), {"a": 1, "b": 2}, {"a": [1, 2], "b": 3}):
        leaves, spec = flatten(sample)
        build = compile_unflatten(spec)
        first = build(leaves)
        assert build(tuple(leaves)) == first == sample
        assert isinstance(first, tuple) or build(leaves) is not first
        assert first is not leaves


@pytest.mark.parametrize("name", ["collections.namedtuple", "my.PT"])
def test_both_spellings_of_namedtuples_are_read(name: str) -> None:
    spec = parse(node(name, "my.PT", LEAF, LEAF))
    assert compile_unflatten(spec)([1, 2]) == PT(1, 2)
    assert spec == flatten(PT(1, 2))[1]


def test_default_name_of_a_registration() -> None:
    local = namedtuple("local", "a b")  # noqa: PYI024  # untyped ones are used as well
    register_namedtuple(local)
    register_namedtuple(local)  # again is harmless
    leaves, spec = flatten([local(1, 2)])
    assert json.loads(spec.to_json())[1]["children_spec"][0]["context"] == f"{__name__}.local"
    assert compile_unflatten(spec)(leaves) == [local(1, 2)]


def test_registered_class_with_a_context_of_its_own() -> None:
    leaves, spec = flatten([Range(1, 2, b"\xff")])
    assert json.loads(spec.to_json())[1]["children_spec"][0]["context"] == {"unit": "ff"}
    (rebuilt,) = compile_unflatten(parse(spec.to_json()))(leaves)
    assert (rebuilt.low, rebuilt.high, rebuilt.unit) == (1, 2, b"\xff")
    assert flatten_like([Range(3, 4, b"\xff")], spec) == [3, 4]


def test_registrations_that_are_refused() -> None:
    def take_apart(value: Any) -> tuple[list[Any], None]:
        return [], None

    class New:
        pass

    with pytest.raises(ValueError, match="not a namedtuple class"):
        register_namedtuple(int)
    with pytest.raises(ValueError, match="already registered"):
        register_namedtuple(PT, "another.name")
    with pytest.raises(ValueError, match="already taken"):
        register_namedtuple(Unregistered, "my.PT")
    with pytest.raises(ValueError, match="already taken"):
        register_node(New, take_apart, join_box, serialized_type_name="builtins.dict")
    with pytest.raises(ValueError, match="already taken"):
        register_node(New, take_apart, join_box, serialized_type_name="collections.namedtuple")
    with pytest.raises(ValueError, match="give both"):
        register_node(New, take_apart, join_box, to_dumpable_context=str)


@pytest.mark.parametrize(
    "value", [Counter("a"), type("Sub", (list,), {})([1]), None, "ab", {1, 2}, frozenset()]
)
def test_everything_else_is_a_leaf(value: Any) -> None:
    leaves, spec = flatten({"v": value})
    assert leaves == [value]
    assert spec.leaf_paths() == ("v",)


def test_tuple_keys_that_litdata_stored_come_back() -> None:
    spec = parse(node("builtins.dict", '[["a", ["b", 1]]]', LEAF))
    assert compile_unflatten(spec)([5]) == {("a", ("b", 1)): 5}


def test_jpeg_sequences_are_leaves() -> None:
    images = [jpeg(), jpeg()]
    assert flatten({"j": images})[0] == [images]
    assert flatten(tuple(images))[1].leaf_paths() == ("<sample>",)
    mixed = [jpeg(), Image.new("L", (1, 1))]
    assert len(flatten(mixed)[0]) == 2
    spec = flatten({"j": images, "k": 1})[1]
    assert flatten_like({"j": images[:1], "k": 2}, spec) == [images[:1], 2]
    assert flatten_like(images, flatten(images)[1]) == [images]
    assert flatten_like(images, flatten(mixed)[1]) == images


def endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"a": [Unregistered(1)]}, r"'a\[0\]'.*namedtuple that is not registered"),
        ({"a": {("t",): 1}}, r"'a': dict cannot be stored: the key \('t',\)"),
        ({b"k": 1}, r"'<sample>': dict cannot be stored: the key b'k'"),
        ({"a": defaultdict(lambda: 0)}, "default factory"),
        (defaultdict(None, {"a": 1}), "default factory"),
        (defaultdict(int, {(1,): 1}), "the key"),
        (Box(label=object()), "cannot be stored"),  # type: ignore[arg-type]
        (endless(), "does it contain itself"),
    ],
)
def test_samples_that_cannot_be_stored(sample: Any, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        flatten(sample)


@pytest.mark.parametrize(
    ("first", "later", "message"),
    [
        ({"a": 1}, [1], "'<sample>': expected a dict as in the first sample, got list"),
        ({"a": 1}, OrderedDict(a=1), "expected a dict .* got collections.OrderedDict"),
        ({"a": 1}, {"b": 1}, "missing 'a'; extra 'b'"),
        ({"a": 1, "b": 2}, {"a": 1}, "missing 'b'; extra none"),
        ({"a": 1}, {"a": 1, "c": 1}, "missing none; extra 'c'"),
        ({"x": {"a": 1}}, {"x": {}}, "'x': keys differ"),
        ({"a": 1}, {"a": [1]}, "leaf 'a': a single value in the first sample, now a list"),
        ({"a": 1, "b": [1]}, {"a": {}, "b": [1]}, "leaf 'a': a single value"),
        (1, (1, 2), "leaf '<sample>': a single value in the first sample, now a tuple"),
        ({"a": {"l": [1, 2]}}, {"a": {"l": [1]}}, r"'a.l': 2 elements in the first sample, now 1"),
        ((1, 2), [1, 2], "expected a tuple"),
        (deque([1], 3), deque([1], 4), "differs from the first sample's"),
        (deque([1]), deque([1, 2]), "2 children"),
        (deque([1]), [1], "expected a deque"),
        ([PT(1, 2)], [Unregistered(1)], r"'\[0\]': expected a PT"),
        (Box(1, label="a"), Box(1, label="b"), "this Box differs"),
        (defaultdict(int, a=1), defaultdict(bool, a=1), "default factory is <class 'bool'>"),
    ],
)
def test_later_samples_of_another_shape(first: Any, later: Any, message: str) -> None:
    spec = flatten(first)[1]
    flatten_like(first, spec)
    with pytest.raises(SchemaError, match=message):
        flatten_like(later, spec)


@pytest.mark.parametrize(
    ("first", "later"),
    [
        ({"a": 1, "b": 2, "c": 3}, {"c": 30, "a": 10, "b": 20}),
        (OrderedDict(a=1, b=2, c=3), OrderedDict(c=30, b=20, a=10)),
        (defaultdict(int, a=1, b=2, c=3), defaultdict(int, c=30, b=20, a=10)),
        ({"x": {"a": 1, "b": 2}, "c": 3}, {"c": 30, "x": {"b": 20, "a": 10}}),
    ],
)
def test_keys_may_come_in_another_order(first: Any, later: Any) -> None:
    spec = flatten(first)[1]
    assert flatten_like(later, spec) == [10, 20, 30]


def test_a_defaultdict_is_not_filled_by_looking() -> None:
    spec = flatten(defaultdict(int, a=1, b=2))[1]
    short = defaultdict(int, a=1)
    with pytest.raises(SchemaError, match="missing 'b'"):
        flatten_like(short, spec)
    assert dict(short) == {"a": 1}


DEEP = '{"type": "builtins.list", "context": "null", "children_spec": [' * 300


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[1, ", "not JSON"),
        (None, "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("{}", r"must be \[1, tree\]"),
        (f"[2, {LEAF}]", r"must be \[1, tree\]"),
        (f"[1, {LEAF}, 3]", r"must be \[1, tree\]"),
        ("[1, 5]", "not an object with"),
        ('[1, {"type": null}]', "not an object with"),
        ('[1, {"type": null, "context": null, "children_spec": {}}]', "children_spec that is no"),
        (f'[1, {{"type": null, "context": null, "children_spec": [{LEAF}]}}]', "leaf with child"),
        (node("os.system", "null"), "container type 'os.system'"),
        (node("collections.namedtuple", "not.known", LEAF), "not registered in this process"),
        (node("collections.namedtuple", 5, LEAF), "not registered in this process"),
        (f'[1, {{"type": [1], "context": null, "children_spec": [{LEAF}]}}]', "not registered"),
        (node("my.PT", "my.PT", LEAF), "PT has 2 fields, not 1"),
        (node("builtins.dict", "[]", LEAF), "1 different keys"),
        (node("builtins.dict", '["a", "a"]', LEAF, LEAF), "2 different keys"),
        (node("builtins.dict", '[{"a": 1}]', LEAF), "unhashable"),
        (node("builtins.dict", "{", LEAF), "bad context"),
        (node("builtins.dict", None, LEAF), "keys are not a list"),
        (node("builtins.dict", "[" * 5000, LEAF), "bad context"),
        (node("collections.deque", "0", LEAF), "maxlen must be"),
        (node("collections.deque", '"x"'), "maxlen must be"),
        (node("collections.deque", "true"), "maxlen must be"),
        (node("collections.defaultdict", {}), "bad context"),
        (node("collections.defaultdict", "[]"), "bad context"),
        (f"[1, {DEEP}{']}' * 300}]", "nested more than 200 deep"),
    ],
)
def test_trees_that_are_refused(text: Any, message: str) -> None:
    with pytest.raises(IndexFormatError, match=message) as caught:
        parse(text)
    assert str(caught.value).startswith("index.json: ")
    assert len(str(caught.value)) < 500


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["type", "context", "children_spec", "a"]), inner),
))  # fmt: skip
def test_any_json_gives_a_tree_or_an_index_error(stored: Any) -> None:
    try:
        spec = parse(json.dumps([1, stored]))
    except IndexFormatError:
        return
    assert spec.num_leaves >= 0


def test_factories_are_not_imported() -> None:
    context = {
        "default_factory_module": "os",
        "default_factory_name": "abort",
        "dict_context": ["a"],
    }
    text = node("collections.defaultdict", context, LEAF)
    spec = parse(text)
    rebuilt = compile_unflatten(spec)([1])
    assert rebuilt.default_factory == UnknownFactory("os", "abort")
    assert pickle.loads(pickle.dumps(rebuilt)) == {"a": 1}
    with pytest.raises(KeyError, match=r"os\.abort"):
        rebuilt["b"]
    assert flatten(rebuilt)[1].to_json() == text


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = st.text(max_size=3) | st.integers(2, 9)
    mappings = st.dictionaries(keys, inner, max_size=3)
    lists = st.lists(inner, max_size=3)
    kinds: list[tuple[st.SearchStrategy[Any], Callable[[Any], Any]]] = [
        (lists, list),
        (lists, tuple),
        (lists, deque),
        (mappings, dict),
        (mappings, OrderedDict),
        (mappings, lambda value: defaultdict(set, value)),
        (st.tuples(inner, inner), lambda pair: PT(*pair)),
    ]
    return st.one_of(*(values.map(make) for values, make in kinds))


@given(st.recursive(st.integers() | st.none() | st.text(max_size=3), containers, max_leaves=20))
def test_round_trip(sample: Any) -> None:
    leaves, spec = flatten(sample)
    again = parse(spec.to_json())
    assert again == spec
    assert hash(again) == hash(spec)
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert len(set(spec.leaf_paths())) == spec.num_leaves == len(leaves)
    rebuilt = compile_unflatten(again)(leaves)
    assert rebuilt == sample
    assert repr(rebuilt) == repr(sample)
    assert flatten_like(rebuilt, again) == leaves


def test_specs_compare_with_specs_only() -> None:
    spec = flatten([1])[1]
    assert spec != flatten([1, 2])[1]
    assert spec != spec.to_json()
    assert repr(spec) == f"TreeSpec({spec.to_json()})"


def test_describe_names_what_matters() -> None:
    assert describe(1) == "int"
    assert describe(PT(1, 2)) == f"{__name__}.PT"
    assert describe(type("Odd", (), {"shape": 5})()).endswith(".Odd")
