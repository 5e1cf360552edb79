"""Durable and confined file operations; knows no images and no stores."""
