"""The arguments of the commands that write. Nothing here loads what a command needs."""

from __future__ import annotations

import argparse
from typing import Any

from aiolit.cli.arguments import (
    add_command,
    add_store,
    add_target_store,
    place,
    target,
    whole,
    words,
)

_SOURCE = (
    "a folder or URL (its files are the inputs), a text or .jsonl file (its lines are), or - for "
    "lines on stdin"
)


def add_optimize(commands: Any) -> None:
    """Add ``aiolit optimize``."""
    parser = add_command(
        commands,
        "optimize",
        "optimizing",
        "Make a data set of what a function returns for each input. What aiolit.optimize does; "
        "the function is run in worker processes.",
        examples="""
aiolit optimize --fn prepare.py:read_image images/ my-data --ext .jpg,.png
aiolit optimize --fn mypackage.prepare:tokenize s3://my-bucket/texts/ s3://my-bucket/tokens \\
    --tokens --chunk-bytes 64MB
find /data -name '*.wav' | aiolit optimize --fn prepare.py:read_sound - my-data
""",
    )
    _add_function(parser, "called with one input; returns a sample, or yields any number of them")
    parser.add_argument("output", type=target, metavar="OUTPUT", help="a folder or a URL")
    _add_inputs(parser)
    _add_chunks(parser)
    parser.add_argument(
        "--tokens", action="store_true", help="samples are token arrays, to be read in blocks"
    )
    parser.add_argument(
        "--unordered", action="store_true", help="write samples as they come, not in input order"
    )
    _add_work(parser)
    add_store(parser)


def add_map(commands: Any) -> None:
    """Add ``aiolit map``."""
    parser = add_command(
        commands,
        "map",
        "mapping",
        "Run a function that writes files on each input. What aiolit.map does; the function is "
        "run in worker processes.",
        examples="""
aiolit map --fn prepare.py:resize images/ s3://my-bucket/small-images
aiolit map --fn prepare.py:download urls.txt pages/ --num-workers 8 --on-error skip
""",
    )
    _add_function(parser, "called with one input and the folder in which it writes its files")
    parser.add_argument(
        "output", type=target, metavar="OUTPUT", help="a folder or a URL for the files"
    )
    _add_inputs(parser)
    parser.add_argument(
        "--error-when-not-empty", action="store_true", help="refuse an OUTPUT with files in it"
    )
    _add_work(parser)
    add_store(parser)


def add_convert(commands: Any) -> None:
    """Add ``aiolit convert``."""
    parser = add_command(
        commands,
        "convert",
        "converting",
        "Make a data set of data in another form: WebDataset tars, MosaicML MDS shards, Parquet "
        "files, a data set of the Hugging Face Hub, or a folder of images. Which of them it is, "
        "the files tell.",
        examples="""
aiolit convert s3://my-bucket/shards/ s3://my-bucket/my-data
aiolit convert 'shards/train-{000..099}.tar' my-data --columns jpg,cls
aiolit convert imagenet/train/ my-data --num-workers 8
aiolit convert hf://datasets/ylecun/mnist/mnist/train-*.parquet mnist --compression zstd
""",
    )
    parser.add_argument("source", type=place, metavar="SOURCE", help="a folder, a file, or a URL")
    parser.add_argument("output", type=target, metavar="OUTPUT", help="a folder or a URL")
    parser.add_argument(
        "--from",
        dest="kind",
        choices=("webdataset", "mds", "parquet", "images"),
        help="what SOURCE holds, where its files leave that open",
    )
    parser.add_argument(
        "--columns",
        type=words,
        metavar="A,B",
        help="the columns to keep (of tars: the endings of the files of a sample)",
    )
    parser.add_argument(
        "--undecoded",
        action="store_true",
        help="samples hand out images, and what lies in tars, as the bytes of the files",
    )
    parser.add_argument(
        "--check-images",
        action="store_true",
        help="decode each image of a folder, so that a damaged one is found now (needs Pillow)",
    )
    _add_chunks(parser)
    _add_work(parser)
    add_target_store(parser, "SOURCE", "OUTPUT")


def add_index(commands: Any) -> None:
    """Add ``aiolit index``."""
    parser = add_command(
        commands,
        "index",
        "indexing",
        "Make the index with which Parquet files, or raw files, are streamed as they lie. The "
        "files themselves stay as they are.",
        examples="""
aiolit index s3://my-bucket/tables/
aiolit index hf://datasets/ylecun/mnist/mnist
aiolit index s3://my-bucket/raw-images/ --kind raw
""",
    )
    parser.add_argument(
        "url", type=place, metavar="URL", help="a folder or a URL; *.parquet may end it"
    )
    parser.add_argument(
        "--kind",
        choices=("parquet", "raw"),
        help="Parquet files (StreamingDataset) or raw files (StreamingRawDataset); by default "
        "whichever the folder holds",
    )
    parser.add_argument("--cache-dir", metavar="D", help="keep the index below this folder")
    add_store(parser)


def _add_function(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--fn",
        required=True,
        metavar="MODULE:NAME",
        help=f"the function, as module:name or file.py:name; {what}",
    )
    parser.add_argument("source", type=place, metavar="SOURCE", help=_SOURCE)


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ext", type=words, metavar=".A,.B", help="of a folder, only files with these endings"
    )
    parser.add_argument(
        "--inputs",
        choices=("files", "lines", "jsonl"),
        help="what SOURCE gives: the files below it, its lines, or the JSON values of its lines; "
        "by default what its name says",
    )
    parser.add_argument(
        "--first", type=whole(1), metavar="N", help="take the first N inputs only, to try it"
    )


def _add_chunks(parser: argparse.ArgumentParser) -> None:
    limits = parser.add_mutually_exclusive_group()
    limits.add_argument(
        "--chunk-bytes", metavar="SIZE", help="most bytes of samples in a chunk (64MB)"
    )
    limits.add_argument(
        "--chunk-size", type=whole(1), metavar="N", help="most samples in a chunk, instead"
    )
    parser.add_argument(
        "--compression", metavar="ZSTD", help="zstd, or zstd:1 to zstd:22; none by default"
    )
    parser.add_argument(
        "--compression-level",
        choices=("chunk", "batch"),
        help="compress whole chunks (the default), or frames that can be read alone",
    )
    parser.add_argument(
        "--mode",
        choices=("append", "overwrite"),
        help="what to do with a data set at OUTPUT; by default it is refused",
    )
    parser.add_argument(
        "--use-checkpoint",
        action="store_true",
        help="keep finished chunks when it fails, and go on behind those of an earlier attempt",
    )


def _add_work(parser: argparse.ArgumentParser) -> None:
    _add_workers(parser)
    _add_retries(parser)
    parser.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="what an input that fails does: end everything (the default), or be skipped and "
        "reported",
    )


def _add_retries(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-retries",
        type=whole(0),
        default=0,
        metavar="N",
        help="give an input whose worker was killed to a fresh one so many times (0)",
    )


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--num-workers",
        type=whole(1),
        metavar="W",
        help="worker processes; by default one for every usable CPU",
    )
