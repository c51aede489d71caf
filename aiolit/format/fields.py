"""Reading untrusted JSON field by field: every refusal names the file and the field."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from aiolit.errors import IndexFormatError

LARGEST = 2**53  # what every JSON reader holds exactly; no file or count is larger

_DRIVE = re.compile(r"[A-Za-z]:")


def parse_object(data: bytes, *, source: str) -> Fields:
    """Parse UTF-8 JSON text whose top level is an object.

    Args:
        data: The bytes of the file.
        source: What to call the file in messages.

    Raises:
        IndexFormatError: The bytes are no UTF-8, no JSON, nested too deeply, or no object.
    """
    try:
        value = json.loads(bytes(data).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise IndexFormatError(f"{source}: not UTF-8 text (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise IndexFormatError(
            f"{source}: not valid JSON, perhaps truncated: {error.msg} at character {error.pos} "
            f"of {len(data)}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise IndexFormatError(f"{source}: JSON that cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise IndexFormatError(f"{source}: must be a JSON object, not {_kind(value)}")
    return Fields(value, source=source)


class Fields:
    """A JSON object whose fields are read with the type that they must have.

    Args:
        values: The object.
        source: What to call the file in messages.
        path: Where the object is in the file, such as ``chunks[3]``.
    """

    def __init__(self, values: Mapping[str, Any], *, source: str, path: str = "") -> None:
        self.values = values
        self.source = source
        self.path = path

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def refuse(self, key: str, problem: str) -> NoReturn:
        """Raise the error for one field."""
        where = f"{self.path}.{key}" if self.path else key
        raise IndexFormatError(f"{self.source}: field {where!r} {problem}")

    def required(self, key: str) -> Any:
        """Return the field's value; it must be there."""
        if key not in self.values:
            self.refuse(key, "is missing")
        return self.values[key]

    def integer(self, key: str, *, low: int = 0, high: int = LARGEST) -> int:
        """Return an integer between ``low`` and ``high``."""
        value = self.required(key)
        if type(value) is not int:
            self.refuse(key, f"must be an integer, not {_kind(value)}")
        if not low <= value <= high:
            self.refuse(key, f"must be between {low} and {high}, not {value}")
        return value

    def optional_integer(self, key: str, *, low: int = 0, high: int = LARGEST) -> int | None:
        """Return an integer, or None where the field is null or missing."""
        return None if self.values.get(key) is None else self.integer(key, low=low, high=high)

    def text(self, key: str) -> str:
        """Return a string."""
        value = self.required(key)
        if not isinstance(value, str):
            self.refuse(key, f"must be a string, not {_kind(value)}")
        return value

    def optional_text(self, key: str) -> str | None:
        """Return a string, or None where the field is null or missing."""
        return None if self.values.get(key) is None else self.text(key)

    def texts(self, key: str) -> tuple[str, ...]:
        """Return an array of strings."""
        return tuple(
            item
            if isinstance(item, str)
            else self.refuse(f"{key}[{n}]", f"must be a string, not {_kind(item)}")
            for n, item in enumerate(self.array(key))
        )

    def array(self, key: str) -> Sequence[Any]:
        """Return an array of anything."""
        value = self.required(key)
        if not isinstance(value, list):
            self.refuse(key, f"must be an array, not {_kind(value)}")
        return value

    def object(self, key: str) -> Fields:
        """Return an object."""
        return self._child(self.required(key), key)

    def optional_object(self, key: str) -> Fields | None:
        """Return an object, or None where the field is null or missing."""
        return None if self.values.get(key) is None else self.object(key)

    def objects(self, key: str) -> Iterator[Fields]:
        """Yield the objects of an array; one at a time, since there may be millions."""
        for n, item in enumerate(self.array(key)):
            yield self._child(item, f"{key}[{n}]")

    def file_name(self, key: str) -> str:
        """Return a relative file name that cannot leave the data set's folder."""
        name = self.text(key)
        problem = name_problem(name)
        if problem is not None:
            self.refuse(key, f"is {name!r}: {problem}")
        return name

    def rest(self, known: frozenset[str]) -> dict[str, Any]:
        """Return the fields that are not in ``known``, as they are."""
        return {key: value for key, value in self.values.items() if key not in known}

    def _child(self, value: Any, key: str) -> Fields:
        if not isinstance(value, dict):
            self.refuse(key, f"must be an object, not {_kind(value)}")
        path = f"{self.path}.{key}" if self.path else key
        return Fields(value, source=self.source, path=path)


def name_problem(name: str) -> str | None:
    """Say why a file name of an index is not to be trusted, or None where it is fine.

    The same text must name the same file under a folder, in a URL and in a cache on any system; so
    what one of them would read as a root, a parent, a separator or the end of the name is refused.
    """
    if not name:
        return "a file name cannot be empty"
    if any(ord(letter) < 32 or letter == "\x7f" for letter in name):
        return "a file name cannot hold control characters"
    if "\\" in name:
        return "a file name cannot hold a backslash"
    if "://" in name:
        return "a file name cannot be a URL"
    if name.startswith("/") or _DRIVE.match(name):
        return "a file name must be relative to the data set"
    parts = name.split("/")
    if ".." in parts:
        return "a file name cannot leave the data set's folder"
    if "" in parts or "." in parts:
        return "a file name cannot hold empty or '.' parts"
    if name == "index.json":
        return "a chunk cannot take the place of the index"
    if len(name) > 4096 or any(0xD800 <= ord(letter) <= 0xDFFF for letter in name):
        return "no file system can hold this name"
    return None


def _kind(value: object) -> str:
    if value is None:
        return "null"
    kinds = {bool: "a boolean", int: "an integer", float: "a number", str: "a string"}
    return kinds.get(type(value), "an array" if isinstance(value, list) else "an object")
