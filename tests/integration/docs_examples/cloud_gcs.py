"""Stream from multiple cloud providers: Google Cloud Storage."""

import os

import aiolit as ld

# Read data from GCS
gcp_storage_options = {
    "project": os.environ["PROJECT_ID"],
}
dataset = ld.StreamingDataset("gs://my-bucket/my-data", storage_options=gcp_storage_options)
print(dataset[1])
