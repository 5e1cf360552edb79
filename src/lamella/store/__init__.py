"""Docker's data-root: layers, images, references and containers as they lie on disk."""
