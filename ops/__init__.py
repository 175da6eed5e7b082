"""What operators run: provisioning, local servers, the demo."""
