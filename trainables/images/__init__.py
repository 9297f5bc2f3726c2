"""Images for training: data sets, their split and their augmentation."""
