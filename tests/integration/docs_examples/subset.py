"""Load a subset of the remote dataset."""

from aiolit import StreamingDataset, train_test_split

dataset = StreamingDataset("s3://my-bucket/my-data", subsample=0.01)  # data are in the cloud

print(len(dataset))  # display the length of your data
# out: 1000
