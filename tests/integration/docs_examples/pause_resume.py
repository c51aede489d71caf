"""Pause, resume data streaming. Run twice: the first run is stopped after 1,002 batches."""

import os

import torch
from aiolit import StreamingDataLoader, StreamingDataset

dataset = StreamingDataset("s3://my-bucket/my-data", shuffle=True)
dataloader = StreamingDataLoader(dataset, num_workers=os.cpu_count() or 1, batch_size=64)

resumed = os.path.isfile("dataloader_state.pt")

# Restore the dataLoader state if it exists
if os.path.isfile("dataloader_state.pt"):
    state_dict = torch.load("dataloader_state.pt")
    dataloader.load_state_dict(state_dict)

count = 0
# Iterate over the data
for batch_idx, batch in enumerate(dataloader):
    # Store the state every 1000 batches
    if batch_idx % 1000 == 0:
        torch.save(dataloader.state_dict(), "dataloader_state.pt")
    count += len(batch)
    if batch_idx == 1001 and not resumed:
        break

print("resumed" if resumed else "stopped", count)
