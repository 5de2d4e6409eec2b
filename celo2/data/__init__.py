"""The images and texts that problems are made of: fetched by package name, checked, cached; or made here. NumPy only."""
