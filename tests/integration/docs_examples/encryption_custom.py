"""Encrypt, decrypt data: implement your own encryption method."""

from aiolit import StreamingDataset, optimize
from aiolit.utilities.encryption import Encryption


class CustomEncryption(Encryption):
    def encrypt(self, data):
        # Implement your custom encryption logic here
        return data[::-1]

    def decrypt(self, data):
        # Implement your custom decryption logic here
        return data[::-1]


def compress(index):
    return index, index**2


if __name__ == "__main__":
    optimize(
        fn=compress,
        inputs=list(range(5)),
        num_workers=1,
        output_dir="encrypted",
        chunk_bytes="64MB",
        encryption=CustomEncryption(),
    )
    print(StreamingDataset("encrypted", encryption=CustomEncryption())[:])
