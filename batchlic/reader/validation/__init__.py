"""What makes a row valid, and why others are rejects."""
