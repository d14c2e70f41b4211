"""What leaves a device, and in what form."""
