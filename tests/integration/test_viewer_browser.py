"""The viewer as people use it: in Chromium, by keyboard and mouse, on real data that lies on S3."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import wave
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from aiolit import StreamingDataLoader, StreamingDataset
from aiolit.testing.datasets import write_dataset
from aiolit.viewer import watch
from aiolit.viewer.browse import BrowseOptions, open_browser
from aiolit.viewer.serving import served
from benchmarks.s3_server import S3Server, missing_programs

pytestmark = pytest.mark.keeps_open(
    *("sockets", "threads", "files", "environment"),
    reason="connections and threads of the process's portal; torch's handler of SIGCHLD",
)

COUNT, PER_CHUNK = 1797, 100
HOSTILE = "<img src=x onerror='document.title = 1'><script>document.title = 2</script>"
KEYS = {"ArrowLeft": 37, "ArrowRight": 39, "Enter": 13, "Escape": 27}


class Chromium:
    """A headless browser, driven through two pipes by the DevTools protocol.

    The browser ends with its pipes, so none outlives the tests.
    """

    def __init__(self, program: str, folder: Path) -> None:
        commands, self._to = os.pipe()
        self._from, answers = os.pipe()
        # The browser reads commands from descriptor 3 and answers on 4.
        script = f'exec "$0" "$@" 3<&{commands} 4>&{answers}'
        flags = ["--headless", "--remote-debugging-pipe", f"--user-data-dir={folder}"]
        flags += ["--no-first-run", "--disable-gpu", "--disable-dev-shm-usage"]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")
        with (folder / "stderr.txt").open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", script, program, *flags],
                pass_fds=(commands, answers),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        os.close(commands)
        os.close(answers)
        self._answers = os.fdopen(self._from, "rb")
        self._rest = b""
        self._number = 0
        self.complaints: list[tuple[str, Any]] = []  # by the tab's session

    def call(self, method: str, session: str | None = None, **params: Any) -> Any:
        """Send a command and return its result; what the page complains of is kept."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        data = memoryview(json.dumps(message).encode() + b"\0")
        while data:
            data = data[os.write(self._to, data) :]
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            if answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append((answer["sessionId"], answer["params"]))

    def _next(self) -> Any:
        while b"\0" not in self._rest:
            part = self._answers.read1()
            assert part, "the browser has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def close(self) -> None:
        """End the browser and all of its processes."""
        os.close(self._to)
        self._answers.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class Page:
    """A tab, as somebody sits before it."""

    def __init__(self, browser: Chromium) -> None:
        self._browser = browser
        self._target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        attached = browser.call("Target.attachToTarget", targetId=self._target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        return self._browser.call(method, self._session, **params)

    def open(self, url: str) -> None:
        """Go to an address and wait until the viewer shows something."""
        self.call("Page.navigate", url=url)
        self.until("document.getElementById('main')?.dataset.view")

    def js(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        found = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, expression: str) -> Any:
        """Wait, frame by frame, until an expression is true, and return its value."""
        return self.js(
            "new Promise((done) => { const look = () => {"
            f"const found = {expression}; found ? done(found) : requestAnimationFrame(look);"
            "}; look(); })"
        )

    def key(self, name: str) -> None:
        """Press a key."""
        code = KEYS.get(name, ord(name.upper()[0]))
        text = {"Enter": "\r"}.get(name, name if len(name) == 1 else "")
        press = {"key": name, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **press)
        self.call("Input.dispatchKeyEvent", type="keyUp", **press)

    def click(self, selector: str) -> None:
        """Click into the middle of an element."""
        place = self.js(
            f"(() => {{ const box = document.querySelector({json.dumps(selector)})"
            ".getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for what in ("mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent",
                type=what,
                x=place[0],
                y=place[1],
                button="left",
                clickCount=1,
            )

    def text(self, selector: str) -> str:
        return str(self.js(f"document.querySelector({json.dumps(selector)}).textContent"))

    def complaints(self) -> list[Any]:
        """Return what the page has complained of, such as of its security policy."""
        return [what for session, what in self._browser.complaints if session == self._session]

    def forgive(self) -> None:
        """Forget the complaints."""
        self._browser.complaints.clear()

    def close(self) -> None:
        self._browser.call("Target.closeTarget", targetId=self._target)


def find_browser() -> str | None:
    for name in ("chromium-headless-shell", "chromium", "google-chrome"):
        if (path := shutil.which(name)) is not None:
            return path
    return None


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    program = find_browser()
    if program is None:
        pytest.skip("there is no Chromium: apt-get install chromium-headless-shell")
    browser = Chromium(program, tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def page(chromium: Chromium) -> Iterator[Page]:
    """Give a tab; the test fails if the page complains."""
    tab = Page(chromium)
    yield tab
    tab.close()
    assert tab.complaints() == []


def tone() -> bytes:
    """Give a second of sound."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        wave_of = np.sin(np.arange(8000) * (2 * np.pi * 440 / 8000)) * 20_000
        out.writeframes(wave_of.astype("<i2").tobytes())
    return file.getvalue()


def png(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray((pixels * 15).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    if missing := missing_programs():
        pytest.skip("; ".join(missing))
    root = tmp_path_factory.mktemp("buckets")
    digits = load_digits()
    samples = [
        {"scan": png(pixels), "pixels": pixels.astype(np.uint8), "label": int(label)}
        for pixels, label in zip(digits.images, digits.target, strict=True)
    ]
    write_dataset(root / "bucket" / "digits", samples, chunk_size=PER_CHUNK)
    odd = {"sound": tone(), "text": HOSTILE, "deep": {"box": [1, 2], "more": {"id": "here"}}}
    write_dataset(root / "bucket" / "odd", [odd], chunk_size=1)
    with S3Server(root) as running:
        yield running


@pytest.fixture
def digits(server: S3Server) -> Iterator[str]:
    """Serve the digits; ask for it before ``page``, which is then closed first."""
    options = BrowseOptions(storage_options=server.storage_options)
    with served(open_browser("s3://bucket/digits", options), None) as url:
        yield url


SHOWN = "[...document.images].every((image) => image.complete && image.naturalWidth > 0)"


def test_browsing_by_keyboard(digits: str, page: Page) -> None:
    page.open(digits)
    assert page.text("#url") == "s3://bucket/digits"
    assert page.text("#facts").startswith("1,797 samples · 18 chunks · ")
    assert page.js("document.querySelectorAll('.card').length") == 24
    page.until(SHOWN)
    assert page.js("[...document.images].every((image) => image.hasAttribute('alt'))")
    page.key("ArrowRight")
    page.until("document.querySelector('.where').textContent === 'samples 24 to 47 of 1,797'")
    page.key("g")
    for letter in "1234":
        page.key(letter)
    page.key("Enter")
    page.until("document.querySelector('.where').textContent === 'samples 1,234 to 1,257 of 1,797'")
    page.click(".card")
    page.until("document.querySelector('.where').textContent === 'sample 1,234 of 1,797'")
    page.until(SHOWN)
    label = load_digits().target
    assert page.text("[data-kind=value] .value") == str(label[1234])
    assert page.js("document.querySelector('[data-kind=image] img').naturalWidth") == 8
    page.key("ArrowRight")
    page.until("document.querySelector('.where').textContent === 'sample 1,235 of 1,797'")
    page.until(SHOWN)
    assert page.text("[data-kind=value] .value") == str(label[1235])
    page.key("ArrowLeft")
    page.until("document.querySelector('.where').textContent === 'sample 1,234 of 1,797'")
    page.key("Escape")
    page.until("document.querySelector('.where').textContent.startsWith('samples 1,224 to')")


def test_the_chunk_map_leads_to_samples(digits: str, page: Page) -> None:
    page.open(digits)
    page.click("#views a[href='#chunks']")
    page.until("document.querySelectorAll('.map .column').length === 18")
    assert page.js("document.querySelectorAll('table.list tbody tr').length") == 18
    page.click(".column[data-first='700'] .room")
    page.until("document.querySelector('.where')?.textContent === 'sample 700 of 1,797'")
    page.click("#views a[href='#chunks']")
    page.until("document.querySelector('.column.here')?.dataset.first === '700'")
    page.js("document.querySelector('tbody tr:nth-child(3) a').focus()")
    page.key("Enter")
    page.until("document.querySelector('.where')?.textContent === 'sample 200 of 1,797'")


def test_the_schema(digits: str, page: Page) -> None:
    page.open(digits + "#schema")
    rows = page.js("[...document.querySelectorAll('tbody tr')].map((row) => row.innerText)")
    assert [row.split()[:2] for row in rows] == [
        ["scan", "bytes"],
        ["pixels", "numpy"],
        ["label", "int"],
    ]
    assert "in every chunk" in page.text(".facts")


def test_text_is_only_text_and_sound_plays(page: Page, server: S3Server) -> None:
    options = BrowseOptions(storage_options=server.storage_options)
    with served(open_browser("s3://bucket/odd", options), None) as url:
        page.open(url + "#sample/0")
        assert page.text("pre.text") == HOSTILE
        assert page.js("document.querySelector('article script, article img')") is None
        assert page.js("document.title").startswith("s3://bucket/odd")
        assert page.until("document.querySelector('audio').duration") == 1
        names = page.js("[...document.querySelectorAll('.name')].map((one) => one.textContent)")
        assert names == ["sound", "text", "deep", "box", "more", "id"]
        page.js("document.querySelector('details.branch > summary').focus()")
        page.key("Enter")
        page.until("!document.querySelector('details.branch').open")


def test_light_and_dark(digits: str, page: Page) -> None:
    page.open(digits)
    seen = {}
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        page.call("Emulation.setEmulatedMedia", features=[feature])
        seen[scheme] = page.js(
            "['color', 'background-color'].map((name) => getComputedStyle(document.body)[name]"
            ".match(/\\d+/g).reduce((sum, part) => sum + Number(part), 0))"
        )
    ink, ground = seen["light"]
    assert ink + 400 < ground
    ink, ground = seen["dark"]
    assert ground + 400 < ink


def test_a_viewer_that_has_ended_is_said_so(page: Page, server: S3Server) -> None:
    options = BrowseOptions(storage_options=server.storage_options)
    with served(open_browser("s3://bucket/digits", options), None) as url:
        page.open(url)
        page.until(SHOWN)
    page.key("ArrowRight")
    page.until("document.querySelector('[role=alert]')?.textContent.includes('does not answer')")
    page.forgive()  # the refused connection


def test_live_gauges_move_with_a_running_loader(
    page: Page, server: S3Server, tmp_path: Path
) -> None:
    dataset = StreamingDataset(
        "s3://bucket/digits", cache_dir=tmp_path, storage_options=server.storage_options
    )
    loader = StreamingDataLoader(dataset, batch_size=50, num_workers=2)
    words = "document.querySelector('[data-tile=samples] .words')?.textContent"
    with watch(loader) as url:
        page.open(url + "#live")
        assert page.until(words) == "0 samples in 0 batches"
        batches = iter(loader)
        assert len(next(batches)["label"]) == 50
        page.until(f"!{words}.startsWith('0 samples')")
        assert sum(len(batch["label"]) for batch in batches) == COUNT - 50
        page.until(f"{words} === '1,797 samples in 36 batches'")
        network = page.text("[data-tile=network] .words")
        assert not network.startswith("0 B")
        assert "in use" in page.text("[data-tile=cache] .words")
        assert page.js(
            "document.querySelector('[data-tile=samples] path:last-child').getAttribute('d')"
        )
        assert "-bound" in page.text(".verdict b")
        page.click("#views a[href='#samples']")
        page.until("document.querySelectorAll('.card').length === 24")
        page.until(SHOWN)
        page.click("#views a[href='#live']")
        page.until(f"{words} === '1,797 samples in 36 batches'")
    assert page.until("document.querySelector('.where[data-state=ended]')?.textContent")
