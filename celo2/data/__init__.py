"""Images and texts as arrays: downloaded, checked and cached, or made here. Needs NumPy only."""
