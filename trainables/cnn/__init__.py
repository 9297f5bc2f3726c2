"""The flagship trainable: a convolutional network built from a config and trained on images."""
