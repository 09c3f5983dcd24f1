"""QEMU: the driver for Linux, macOS and Windows hosts without a hypervisor of their own to talk to."""
