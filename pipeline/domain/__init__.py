"""What the words mean: plain Python and NumPy, knowing no tool."""
