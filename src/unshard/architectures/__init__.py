"""What is known of model families: one module and one table each."""
