"""What is licensed, across runs."""
