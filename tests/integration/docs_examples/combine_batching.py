"""Combine datasets: the two batching methods."""

from aiolit import CombinedStreamingDataset, StreamingDataLoader, StreamingDataset

# Default stratified batching - batches mix samples from all datasets
combined_dataset = CombinedStreamingDataset(
    datasets=[StreamingDataset("input_dir_1"), StreamingDataset("input_dir_2")],
    batching_method="stratified",  # This is the default
)
print(sum(len(batch) for batch in StreamingDataLoader(combined_dataset, batch_size=4)))

# Per-stream batching - each batch contains samples from only one dataset
combined_dataset = CombinedStreamingDataset(
    datasets=[StreamingDataset("input_dir_1"), StreamingDataset("input_dir_2")],
    batching_method="per_stream",
)
# input_dir_1 holds 0..49, input_dir_2 holds 1000..1049
print(
    all(
        len({int(value) >= 1000 for value in batch}) == 1
        for batch in StreamingDataLoader(combined_dataset, batch_size=4)
    )
)
