"""Building images: the Dockerfile language, the context, the cache, and the executor that brings them together."""
