"""Stream from multiple cloud providers: the ways to reach S3."""

import os

import aiolit as ld
import botocore
import botocore.config

# Read data from AWS S3 using boto3
aws_storage_options = {
    "aws_access_key_id": os.environ["AWS_ACCESS_KEY_ID"],
    "aws_secret_access_key": os.environ["AWS_SECRET_ACCESS_KEY"],
}
# You can also pass the session options. (for boto3 only)
aws_session_options = {
    "profile_name": os.environ["AWS_PROFILE_NAME"],  # Required only for custom profiles
    "region_name": os.environ["AWS_REGION_NAME"],  # Required only for custom regions
}
dataset = ld.StreamingDataset(
    "s3://my-bucket/my-data",
    storage_options=aws_storage_options,
    session_options=aws_session_options,
)
print(dataset[1])

# Read Data from AWS S3 with Unsigned Request using boto3
unsigned_storage_options = {
    "config": botocore.config.Config(
        retries={"max_attempts": 1000, "mode": "adaptive"},  # Configure retries for S3 operations
        signature_version=botocore.UNSIGNED,  # Use unsigned requests
    )
}
dataset = ld.StreamingDataset("s3://my-bucket/my-data", storage_options=unsigned_storage_options)
print(dataset[2])

upper_case_storage_options = {
    "AWS_ACCESS_KEY_ID": os.environ["AWS_ACCESS_KEY_ID"],
    "AWS_SECRET_ACCESS_KEY": os.environ["AWS_SECRET_ACCESS_KEY"],
    "S3_ENDPOINT_URL": os.environ.pop("AWS_ENDPOINT_URL"),  # Required only for custom endpoints
}
dataset = ld.StreamingDataset("s3://my-bucket/my-data", storage_options=upper_case_storage_options)
print(dataset[3])
