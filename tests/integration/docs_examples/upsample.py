"""Upsample from your source datasets."""

from aiolit import StreamingDataset

dataset = StreamingDataset("s3://my-bucket/my-data", subsample=2.5, shuffle=True)

print(len(dataset))  # display the length of your data
# out: 250000
