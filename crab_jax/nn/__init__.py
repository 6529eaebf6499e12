"""Small building blocks with no idea of Crab."""
