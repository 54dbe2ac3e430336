"""What `import unshard` offers: a checkpoint as lazy tensors, whatever its layout."""
