"""Methods that others wrote, called through their packages."""
