"""Detection: the objects of an image, with boxes and masks."""
