"""Stereo: the disparity of a pair of pictures."""
