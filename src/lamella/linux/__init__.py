"""Kernel interfaces and nothing else; knows no images and no stores."""
