"""Published ports: asked of the engine, bound on the host, relayed over the link."""
