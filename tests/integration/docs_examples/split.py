"""Split datasets for train, val, test."""

from aiolit import StreamingDataset, train_test_split

dataset = StreamingDataset("s3://my-bucket/my-data")  # data are stored in the cloud

print(len(dataset))  # display the length of your data
# out: 100,000

train_dataset, val_dataset, test_dataset = train_test_split(dataset, splits=[0.3, 0.2, 0.5])

print(len(train_dataset))
# out: 30,000
print(len(val_dataset))
# out: 20,000
print(len(test_dataset))
# out: 50,000
