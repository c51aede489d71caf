# mypy: ignore-errors
"""Stream from multiple cloud providers: Azure Blob Storage."""

import os

import aiolit as ld

# Read data from Azure
azure_storage_options = {
    "account_url": f"https://{os.environ['AZURE_ACCOUNT_NAME']}.blob.core.windows.net",
    "credential": os.environ["AZURE_ACCOUNT_ACCESS_KEY"],
}
dataset = ld.StreamingDataset("azure://my-bucket/my-data", storage_options=azure_storage_options)
print(dataset[1])
