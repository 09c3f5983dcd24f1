"""What differs between Linux, macOS and Windows, and the one door each for files, subprocesses and tasks."""
