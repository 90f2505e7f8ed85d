"""Keras networks, their augmentation and their output heads."""
