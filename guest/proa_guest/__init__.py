"""What runs in the guest: init, the guest agent, and the link's protocol, which the host imports.

Standard library only, and few modules of it: under emulation each import costs up to 0.1 s.
"""
