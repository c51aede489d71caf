"""``aiolit view``: a data set in the web browser."""

from __future__ import annotations

import argparse
import threading
import webbrowser

from aiolit.cli.arguments import storage_options
from aiolit.cli.console import Console
from aiolit.errors import DatasetNotFoundError
from aiolit.runtime.waiting import wait
from aiolit.viewer.browse import BrowseOptions, open_browser
from aiolit.viewer.serving import served


def run(args: argparse.Namespace, console: Console) -> int:
    """Run the command until Ctrl-C; see ``parser``."""
    options = BrowseOptions(
        raw=args.raw,
        block_size=args.block_size,
        allow_pickle=args.allow_pickle,
        cache_dir=args.cache_dir,
        storage_options=storage_options(args.storage_option),
        session_options=storage_options(args.session_option),
    )
    try:
        browser = open_browser(args.url, options)
    except DatasetNotFoundError as error:
        hint = "" if args.raw else "; --raw shows the files themselves"
        raise DatasetNotFoundError(f"{error}{hint}") from error
    with served(browser, None, host=args.host, port=args.port) as url:
        figures = {"url": url, "data": browser.url, "samples": browser.count}
        console.result(
            figures, [f"{browser.url}: {browser.count:,} samples", f"  {url}", "Ctrl-C ends it"]
        )
        if args.open:
            webbrowser.open(url)
        wait(threading.Event())
    return 0
