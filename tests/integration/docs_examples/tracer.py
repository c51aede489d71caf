"""Debug & profile with a trace."""

import aiolit as ld
from aiolit.debugger import enable_tracer

# WARNING: Remove existing trace file if it exists before re-tracing
enable_tracer()

if __name__ == "__main__":
    dataset = ld.StreamingDataset("s3://my-bucket/my-data", shuffle=True)
    dataloader = ld.StreamingDataLoader(dataset, batch_size=64)

    for batch in dataloader:
        pass  # Replace with your data processing logic
