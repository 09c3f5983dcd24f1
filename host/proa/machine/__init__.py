"""One machine's life: its files, its lifecycle, its health."""
