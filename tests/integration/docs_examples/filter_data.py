"""Filter illegal data: yield only the good samples."""

from aiolit import StreamingDataset, optimize


def should_keep(index) -> bool:
    # Replace with your own logic
    return index % 2 == 0


def fn(data):
    if should_keep(data):
        yield data


if __name__ == "__main__":
    optimize(
        fn=fn,
        inputs=list(range(1000)),
        output_dir="only_even_index_optimized",
        chunk_bytes="64MB",
        num_workers=1,
    )

    dataset = StreamingDataset("only_even_index_optimized")
    data = list(dataset)
    print(data)
    # [0, 2, 4, 6, 8, 10, ..., 992, 994, 996, 998]
