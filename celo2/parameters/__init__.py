"""Which tensor is which matrix, which optimizer updates it, and how its state is laid out."""
