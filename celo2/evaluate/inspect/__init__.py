"""What a theta does: numbers first, each in a file of its own, and pictures made from them."""
