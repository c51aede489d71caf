"""Streams on multi-GPU, multi-node: a data set to train on and one to validate on."""

from aiolit import StreamingDataLoader, StreamingDataset

counts = []


def process(batch):
    counts.append(len(batch))


# For the training dataset, don't forget to enable shuffle and drop_last !!!
train_dataset = StreamingDataset("s3://my-bucket/my-train-data", shuffle=True, drop_last=True)
train_dataloader = StreamingDataLoader(train_dataset, batch_size=64)

for batch in train_dataloader:
    process(batch)  # Replace with your data processing logic
print(counts)

counts.clear()
val_dataset = StreamingDataset("s3://my-bucket/my-val-data", shuffle=False, drop_last=False)
val_dataloader = StreamingDataLoader(val_dataset, batch_size=64)

for batch in val_dataloader:
    process(batch)  # Replace with your data processing logic
print(counts)
