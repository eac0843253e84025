"""Classification: naming the class of an image."""
