"""Use shared queue for optimizing."""

import aiolit as ld
import numpy as np
from PIL import Image


def random_images(index):
    fake_images = Image.fromarray(np.random.randint(0, 256, (32, 32, 3), dtype=np.uint8))
    fake_labels = np.random.randint(10)

    data = {"index": index, "image": fake_images, "class": fake_labels}

    return data


if __name__ == "__main__":
    # The optimize function writes data in an optimized format.
    ld.optimize(
        fn=random_images,  # the function applied to each input
        inputs=list(range(1000)),  # the inputs to the function (here it's a list of numbers)
        output_dir="fast_data",  # optimized data is stored here
        num_workers=4,  # The number of workers on the same machine
        chunk_bytes="64MB",  # size of each chunk
        keep_data_ordered=False,  # Use a shared queue to speed up the process
    )
    seen = [sample["index"] for sample in ld.StreamingDataset("fast_data")]
    print(sorted(seen) == list(range(1000)))
