"""Transform datasets: resize and crop a large image dataset, without a guard."""

import os

import aiolit as ld
from PIL import Image

# use a local or S3 folder
input_dir = "my_large_images"  # or "s3://my-bucket/my_large_images"
output_dir = "my_resized_images"  # or "s3://my-bucket/my_resized_images"

inputs = [os.path.join(input_dir, f) for f in os.listdir(input_dir)]


# resize the input image
def resize_image(image_path, output_dir):
    output_image_path = os.path.join(output_dir, os.path.basename(image_path))
    Image.open(image_path).resize((224, 224)).save(output_image_path)


ld.map(
    fn=resize_image,
    inputs=inputs,
    output_dir="output_dir",
)
print(sorted(os.listdir("output_dir")))
print(Image.open("output_dir/0.png").size)
