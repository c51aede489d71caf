"""Optimize dataset in distributed environment."""

from aiolit import Machine, StreamingDataset, optimize


def compress(index):
    return (index, index**2)


optimize(
    fn=compress,
    inputs=list(range(100)),
    num_workers=2,
    output_dir="my_output",
    chunk_bytes="64MB",
    num_nodes=2,
    machine=Machine.DATA_PREP,  # You can select between dozens of optimized machines
)

dataset = StreamingDataset("my_output")
print(dataset[:] == [(i, i**2) for i in range(100)])
