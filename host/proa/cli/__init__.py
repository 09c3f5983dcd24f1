"""The command line: one file a verb or family of verbs; `entry` is the console script."""
