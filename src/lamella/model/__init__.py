"""The words of images and containers as values: names, digests, configs, and how they are read and spelled."""
