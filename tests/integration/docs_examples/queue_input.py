"""Use a queue as input for optimizing data."""

import time
from multiprocessing import Process, Queue

import aiolit as ld
from aiolit.processing.data_processor import ALL_DONE


def yield_numbers():
    for i in range(1000):
        time.sleep(0.01)
        yield (i, i**2)


def data_producer(q: Queue):
    for item in yield_numbers():
        q.put(item)

    q.put(ALL_DONE)  # Sentinel value to signal completion


def fn(index):
    return index  # Identity function for demo


if __name__ == "__main__":
    q = Queue(maxsize=100)

    producer = Process(target=data_producer, args=(q,))
    producer.start()

    ld.optimize(
        fn=fn,  # Function to process each item
        queue=q,  # Stream data from this queue
        output_dir="fast_data",  # Where to store optimized data
        num_workers=2,
        chunk_size=100,
        mode="overwrite",
    )

    producer.join()
    print(sorted(ld.StreamingDataset("fast_data")) == [(i, i**2) for i in range(1000)])
