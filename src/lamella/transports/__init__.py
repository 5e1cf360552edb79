"""Where images come from and go to: archives, layouts and flat root filesystems."""
