"""The agent's half of `proa doctor`: what it knows of the hypervisor, the image, the guest and the engine."""
