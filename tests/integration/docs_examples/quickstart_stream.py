"""Quick start, option 2, step 3: stream the data during training."""

import aiolit as ld

dataset = ld.StreamingDataset("s3://my-bucket/fast_data", shuffle=True, drop_last=True)


# Custom collate function to handle the batch (optional)
def collate_fn(batch):
    return {
        "image": [sample["image"] for sample in batch],
        "class": [sample["class"] for sample in batch],
    }


dataloader = ld.StreamingDataLoader(dataset, collate_fn=collate_fn)
count = 0
for sample in dataloader:
    img, cls = sample["image"], sample["class"]
    count += len(cls)
print(count)
