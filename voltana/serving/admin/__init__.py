"""What guards every endpoint that tells or changes more than the API does: token, names, bounds."""
