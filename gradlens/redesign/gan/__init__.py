"""The inside of GAN training, one file a part."""
