"""What an ``hf://`` URL names."""

from __future__ import annotations

import re
from dataclasses import dataclass

from aiolit.errors import ConfigError

_KINDS = {"datasets": "dataset", "models": "model", "spaces": "space"}
_URL = re.compile(
    r"hf://(?:(?P<kind>datasets|models|spaces)/)?"
    r"(?P<repo>(?!(?:datasets|models|spaces)/)[^/@]+/[^/@]+)"
    # A revision with slashes is one of the Hub's own references.
    r"(?:@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/]+))?(?:/(?P<path>.*))?"
)


@dataclass(frozen=True, slots=True)
class HubUrl:
    """A folder of a repository at a revision.

    Attributes:
        kind: "dataset", "model" or "space".
        repo: Owner and name.
        revision: A branch, tag or commit.
        path: The folder, without slashes at its ends.
    """

    kind: str
    repo: str
    revision: str
    path: str

    @property
    def folder(self) -> str:
        """Return what the repository's addresses begin with."""
        return self.repo if self.kind == "model" else f"{self.kind}s/{self.repo}"


def parse_hub_url(url: str) -> HubUrl:
    """Read ``hf://datasets/owner/name[@revision][/path]``.

    Raises:
        ConfigError: It is not of that form.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise ConfigError(f"{url!r} is not of the form hf://datasets/owner/name[@revision]/path")
    revision = (match["revision"] or "main").replace("%2F", "/").replace("%2f", "/")
    return HubUrl(
        _KINDS[match["kind"] or "models"], match["repo"], revision, (match["path"] or "").strip("/")
    )
