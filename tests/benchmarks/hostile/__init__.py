"""What an attacker or a heavy user may do to a service, and what the others see of it."""
