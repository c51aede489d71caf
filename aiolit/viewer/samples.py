"""Samples as they are shown, the latest ones kept: a page asks for a sample, then for its media."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from aiolit.runtime.blocking import in_thread
from aiolit.viewer.browse import Browser
from aiolit.viewer.leaves import one_sentence
from aiolit.viewer.nodes import Shown, show

_KEPT_BYTES = 128 << 20


class Samples:
    """The samples of one data set, for one event loop.

    Attributes:
        browser: Reads them.
    """

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self._kept: OrderedDict[int, Shown] = OrderedDict()

    async def get(self, numbers: Sequence[int]) -> list[Shown | str]:
        """Return samples in the order asked for; in place of one that cannot be read, one sentence.

        Raises:
            IndexError: There is no such sample.
        """
        for number in numbers:
            if not 0 <= number < self.browser.count:
                raise IndexError(f"there is no sample {number:,}: there are {self.browser.count:,}")
        found: dict[int, Shown | str] = {}
        for number in numbers:
            if number in self._kept:
                self._kept.move_to_end(number)
                found[number] = self._kept[number]
        missing = [number for number in numbers if number not in found]
        if missing:
            found |= await self._read(missing)
        return [found[number] for number in numbers]

    async def _read(self, numbers: Sequence[int]) -> dict[int, Shown | str]:
        """Read samples together; where that fails, one by one, to show those that can be read."""
        try:
            values = await self.browser.read(numbers)
            shown = await in_thread(lambda: [show(value) for value in values])
        except Exception as error:  # noqa: BLE001 - a serializer of the user's may raise anything
            if len(numbers) == 1:
                return {numbers[0]: one_sentence(error)}
            found: dict[int, Shown | str] = {}
            for number in numbers:
                found |= await self._read([number])
            return found
        for number, one in zip(numbers, shown, strict=True):
            self._keep(number, one)
        return dict(zip(numbers, shown, strict=True))

    def _keep(self, number: int, shown: Shown) -> None:
        self._kept[number] = shown
        held = sum(one.nbytes for one in self._kept.values())
        while held > _KEPT_BYTES and len(self._kept) > 1:
            held -= self._kept.popitem(last=False)[1].nbytes
