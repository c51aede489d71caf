"""Access samples without full data download."""

from aiolit import StreamingDataset

dataset = StreamingDataset("s3://my-bucket/my-data")  # data are stored in the cloud

print(len(dataset))  # display the length of your data

print(dataset[42])  # show the 42th element of the dataset
