"""Filter illegal data: try and except."""

from aiolit import StreamingDataset, optimize


def fn(data):
    try:
        yield 1 / data
    except:
        pass


if __name__ == "__main__":
    optimize(
        fn=fn,
        inputs=[0, 0, 0, 1, 2, 4, 0],
        output_dir="only_defined_ratio_optimized",
        chunk_bytes="64MB",
        num_workers=1,
    )

    dataset = StreamingDataset("only_defined_ratio_optimized")
    data = list(dataset)
    # The 0 are filtered out as they raise a division by zero
    print(data)
    # [1.0, 0.5, 0.25]
