"""What a study leaves for use: a network with its preprocessing, in files, and its predictions."""
