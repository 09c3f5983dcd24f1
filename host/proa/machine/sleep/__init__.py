"""Memory images: how a machine falls asleep and wakes."""
