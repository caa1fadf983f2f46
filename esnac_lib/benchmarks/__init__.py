"""What the library's speed is measured against, and how. Returns plain rows; a notebook shows them."""
