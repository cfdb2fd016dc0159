"""What is wrong with a folder of images, or worth a look, and what its description could be."""
