"""What is transferred, how it is compared, and the one loop that trains."""
