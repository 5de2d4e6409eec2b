"""Images, texts and tables: downloaded, checked and cached, or made here. Needs NumPy only."""
