"""What the library offers and the front ends call: the store, its images, layers and containers."""
