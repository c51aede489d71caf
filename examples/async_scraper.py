"""Scrape a web site straight into a data set: the network on an event loop, parsing in processes.

Run it with ``python examples/async_scraper.py``. It scrapes the pages that Python's own `pydoc`
makes of the standard library, from a server on loopback; put a site of your own in its place.
"""

from __future__ import annotations

import asyncio
import importlib
import pydoc
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from typing import Any

import aiohttp
from aiohttp import web

import aiolit
from aiolit import aio

AT_ONCE = 8  # requests; be kind to the site
MOST_PAGES = 60

Page = tuple[str, str]  # its address, its HTML


async def crawl(start: str, pages: asyncio.Queue[Any], links: aio.Writer) -> None:
    """Fetch a page and all it leads to, generation by generation.

    The pages go to `optimize`, which takes them from the queue; while the queue is full, `put`
    waits, and no more is fetched. The links are few and need no processes: they are written as they
    are found.
    """
    seen, generation = {start}, [start]
    connector = aiohttp.TCPConnector(limit=AT_ONCE)
    async with aiohttp.ClientSession(connector=connector) as session:
        while generation:
            async with asyncio.TaskGroup() as group:
                fetched = [group.create_task(fetch(session, url)) for url in generation]
            generation = []
            for url, html in filter(None, (task.result() for task in fetched)):
                await pages.put((url, html))
                for name in sorted(set(re.findall(r'href="(\w[\w.]*\.html)"', html))):
                    target = url.rpartition("/")[0] + "/" + name
                    await links.put({"from": url, "to": target})
                    if target not in seen and len(seen) < MOST_PAGES:
                        seen.add(target)
                        generation.append(target)
    await pages.put(aiolit.ALL_DONE)


async def fetch(session: aiohttp.ClientSession, url: str) -> Page | None:
    """Fetch a page; a link that leads nowhere is no page."""
    async with session.get(url) as response:
        if response.status == 404:
            return None
        response.raise_for_status()
        return url, await response.text()


class Text(HTMLParser):
    """Collects the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def handle_data(self, data: str) -> None:
        """Take the text between two tags."""
        self.parts.append(data)


def parse(page: Page) -> dict[str, Any]:
    """Turn a page into a sample; worker processes of `optimize` run this."""
    url, html = page
    parser = Text()
    parser.feed(html)
    text = " ".join(" ".join(parser.parts).split())
    return {"url": url, "text": text, "words": len(text.split())}


async def scrape(start: str, output_dir: str) -> None:
    """Scrape a site into two data sets. If anything fails, neither is written."""
    pages: asyncio.Queue[Any] = asyncio.Queue(maxsize=16)
    async with (
        aio.Writer(f"{output_dir}/links", chunk_bytes="16MB") as links,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(crawl(start, pages, links))
        written = await aio.optimize(
            parse,
            inputs=pages,
            output_dir=f"{output_dir}/pages",
            chunk_bytes="16MB",
            num_workers=2,
            verbose=False,
        )
    print(f"scraped {written.samples} pages and {links.summary.samples} links")


async def show(folder: str) -> None:
    """Read what was scraped."""
    async with aio.StreamingDataset(folder) as dataset:
        words = sum([sample["words"] async for sample in dataset])
        first = await dataset.get(0)
    print(f"{words:,} words; the first page begins: {first['text'][:60]!r}")


@asynccontextmanager
async def site() -> AsyncIterator[str]:
    """Serve the documentation of the standard library on loopback; give the address to begin at."""

    async def page(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name.partition(".")[0] not in ("asyncio", "email", "html", "json"):
            raise web.HTTPNotFound
        module = importlib.import_module(name)
        html = pydoc.html.page(name, pydoc.html.document(module, name))
        return web.Response(text=html, content_type="text/html")

    app = web.Application()
    app.router.add_get("/{name}.html", page)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/email.html"
    finally:
        await runner.cleanup()


async def main() -> None:
    """Scrape the site, and look at what came of it."""
    with tempfile.TemporaryDirectory() as work:
        async with site() as start:
            await scrape(start, work)
        await show(f"{work}/pages")


if __name__ == "__main__":
    asyncio.run(main())
