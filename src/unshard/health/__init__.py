"""Are the weights what a trained model's look like: one pass, findings with coordinates."""
