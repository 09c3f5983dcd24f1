"""What is said to an engine directly and through Proa, and must be answered alike."""
