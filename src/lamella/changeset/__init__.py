"""Layers as streams and trees: tar in and out, whiteouts, tar-split; knows no images and no stores."""
