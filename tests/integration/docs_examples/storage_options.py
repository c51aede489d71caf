"""Stream large cloud datasets: a custom endpoint and credentials per dataset."""

import os

from aiolit import StreamingDataset

# boto3 compatible storage options for a custom S3-compatible endpoint
storage_options = {
    "endpoint_url": os.environ.pop("AWS_ENDPOINT_URL"),
    "aws_access_key_id": os.environ.pop("AWS_ACCESS_KEY_ID"),
    "aws_secret_access_key": os.environ.pop("AWS_SECRET_ACCESS_KEY"),
}

dataset = StreamingDataset("s3://my-bucket/my-data", storage_options=storage_options)
print(len(dataset), dataset[7])
