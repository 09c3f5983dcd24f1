"""The engine's socket on the host: a proxy of the Docker API that looks at what it must, no more."""
