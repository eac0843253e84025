"""Detection: boxes, classes and masks of objects."""
