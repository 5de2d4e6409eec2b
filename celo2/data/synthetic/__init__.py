"""Image sets that are made on this machine, from photos and type faces in Python packages."""
