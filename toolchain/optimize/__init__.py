"""From one exported file to a smaller or faster one."""
