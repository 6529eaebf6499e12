"""Generation, and evaluation of whole test sets."""
